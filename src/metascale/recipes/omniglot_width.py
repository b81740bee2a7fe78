"""Does a wider network learn Omniglot's characters better from one drawing each? Few-shot loss against model size.

Command:    metascale run omniglot_width --data-dir DATA --out runs/width
            metascale run omniglot_width --profile maml --data-dir DATA --out runs/width-maml
Data:       Omniglot (MIT), 1,623 characters × 4 rotations as classes, Vinyals split 1028 / 172 / 423
Model:      four convolutions of 8 to 48 filters (1,909 to 63,269 parameters), 5-way 1-shot
Learner:    implicit MAML with the identity for the inverse curvature, which is SAMA's meta-gradient of this bilevel
            problem; in the profile beside it exact MAML through one inner step
Question:   the first one that "Making Scalable Meta Learning Practical" (Choe et al. 2023) leaves open
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metascale.recipes.omniglot import OmniglotConfig
from metascale.recipes.omniglot import parts as omniglot_parts
from metascale.workflow.config import Budget, Count, Method, NonNegative, Rate
from metascale.workflow.recipe import Profile, Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class WidthConfig(OmniglotConfig):
    """Few-shot Omniglot with a network that grows; every width gets the same meta-batches and outer steps."""

    method: Method = "imaml"
    cg_steps: NonNegative = 0
    proximal: Rate = 0.5
    filters: Count = 16
    n_query: Count = 5
    meta_batch: Count = 8
    inner_lr: Rate = 0.1
    inner_steps: NonNegative = 5
    eval_inner_steps: NonNegative | None = 10
    outer_lr: Rate = 3e-3
    budget: Budget = "steps"
    max_steps: Count = 300
    eval_every: Count = 100
    n_validation_tasks: Count = 40
    n_test_tasks: Count = 300
    n_curve_tasks: Count = 20


RECIPE = Recipe(
    name="omniglot_width",
    title="Few-shot Omniglot by networks of growing width, with SAMA's meta-gradient",
    question="How does few-shot loss fall with the size of the network?",
    config=WidthConfig,
    axes={"filters": [8, 12, 16, 24, 32, 48]},
    seeds=(0, 1, 2),
    scale="n_params_trainable",
    series=(),
    profiles={
        "maml": Profile(
            "exact MAML through one inner step, as published", {"method": "maml", "inner_steps": 1, "inner_lr": 0.4}
        ),
        "smoke": Profile(
            "a minute: to see that everything works",
            {"max_steps": 5, "eval_every": 5, "n_test_tasks": 8, "n_validation_tasks": 4, "n_curve_tasks": 4},
            axes={"filters": [2, 4, 6, 8]},
            seeds=(0,),
        ),
    },
    data_sets=("omniglot",),
    packages=("torch", "safetensors", "PIL"),
    hardware="a CPU: see docs/results",
)


def parts(config: WidthConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    return omniglot_parts(config, seed, device)
