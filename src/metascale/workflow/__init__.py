"""What turns a recipe into a study: recipes and their registry, configurations, launching, conclusions, evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.workflow.config import BASELINES, Count, FewShotConfig, NonNegative, Rate, Share, TrialConfig, Weight
    from metascale.workflow.estimate import Estimate, estimate_costs
    from metascale.workflow.evaluate import evaluate_run
    from metascale.workflow.fewshot import Parts
    from metascale.workflow.launch import Place, Plan, plan, plan_from_folder, run
    from metascale.workflow.recipe import Profile, Recipe, load_recipe, recipe_names
    from metascale.workflow.text import LORA, TextConfig, text_parts

__all__ = [
    "BASELINES",
    "LORA",
    "Count",
    "Estimate",
    "FewShotConfig",
    "NonNegative",
    "Parts",
    "Place",
    "Plan",
    "Profile",
    "Rate",
    "Recipe",
    "Share",
    "TextConfig",
    "TrialConfig",
    "Weight",
    "estimate_costs",
    "evaluate_run",
    "load_recipe",
    "plan",
    "plan_from_folder",
    "recipe_names",
    "run",
    "text_parts",
]

__getattr__, __dir__ = lazy(__name__)
