"""Contract suites for task sources, models and meta-gradients, and the models that they run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.testing.learner_contract import MetaGradientContract, check_meta_gradient
    from metascale.testing.model_contract import ModelContract, check_language_model, check_model, generators_untouched
    from metascale.testing.subjects import QuadraticModel, SmoothClassifier, quadratic_episode
    from metascale.testing.task_contract import check_task_source

__all__ = [
    "MetaGradientContract",
    "ModelContract",
    "QuadraticModel",
    "SmoothClassifier",
    "check_language_model",
    "check_meta_gradient",
    "check_model",
    "check_task_source",
    "generators_untouched",
    "quadratic_episode",
]

__getattr__, __dir__ = lazy(__name__)
