"""Does meta-test loss follow a power law in the number of training tasks? Handwritten digits, no download.

Command:    metascale run digits --out runs/digits
Data:       scikit-learn's 1,797 8×8 digits (ships inside its wheel), four rotations: 24 / 8 / 8 classes, by digit
Learner:    first-order MAML that adapts the body and not the head (BOIL), 20 inner steps of Adam, on a two-layer
            perceptron, 5-way 1-shot, 15 queries
Arm:        at most 300 outer steps on a rate that falls to 0, the state of the lowest meta-validation loss is tested;
            ``--profile steps`` gives exact MAML 600 outer steps at a constant rate for every N
Hardware:   any machine; about 2 minutes on 2 quiet cores
Result:     better than tuned fine-tuning on the same seeds, and the loss falls a little with N (docs/tuning.md has the
            search that found these settings); exact MAML at 600 constant steps overtrains and loses
            (docs/results/digits.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metascale.workflow.config import BASELINES, Count, FewShotConfig
from metascale.workflow.recipe import Profile, Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class DigitsConfig(FewShotConfig):
    """Few-shot digits.

    Args:
        model: ``"mlp"`` or ``"conv"``.
        width: units of a hidden layer, or filters of a convolution.
        head: what the classifier of a task starts from: ``"learned"``, ``"shared"``, ``"zero"`` or ``"prototype"``.
        depth: hidden layers, or convolutional blocks (at most 3).
    """

    model: Literal["mlp", "conv"] = "mlp"
    width: Count = 64
    depth: Annotated[int, Field(ge=1, le=8)] = 2
    head: Literal["learned", "shared", "zero", "prototype"] = "learned"

    @property
    def tasks_apart(self) -> bool:
        return self.model == "mlp"

    @property
    def batch_statistics(self) -> bool:
        return self.model == "conv"


EQUAL_STEPS: Mapping[str, object] = {
    "method": "maml",
    "adapt": ["*"],
    "inner_optimizer": "sgd",
    "inner_steps": 5,
    "inner_lr": 0.1,
    "outer_schedule": "constant",
    "budget": "steps",
    "max_steps": 600,
    "eval_every": 50,
    "patience": 5,
    "n_validation_tasks": 50,
    "tune_rates": [0.01, 0.03, 0.1, 0.3, 1.0],
}
"""Settings of the profiles that show what happens to exact MAML on all parameters, as published."""

RECIPE = Recipe(
    name="digits",
    title="Task scaling on handwritten digits (8×8, four rotations): the main job on real data without a download",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=DigitsConfig,
    defaults={
        "method": "fomaml",
        "curvature": "unrolled",
        "adapt": ["layer*", "block*"],
        "inner_optimizer": "adam",
        "inner_lr": 0.01,
        "inner_steps": 20,
        "meta_batch": 8,
        "outer_optimizer": "adam",
        "outer_lr": 0.003,
        "outer_schedule": "linear",
        "max_steps": 300,
        "eval_every": 50,
        "patience": 4,
        "n_validation_tasks": 100,
        "tune_rates": [0.001, 0.003, 0.03, 0.1],
        "n_curve_tasks": 100,
    },
    axes={"n_tasks": [2, 5, 10, 20, 50, 100, 200]},
    seeds=(0, 1, 2),
    baselines=BASELINES,
    profiles={
        "steps": Profile(
            "exact MAML on all parameters with the same outer steps for every N: small N overfits, which makes a law",
            EQUAL_STEPS,
        ),
        "converged": Profile(
            "as steps, but each training stops early on meta-validation",
            {**EQUAL_STEPS, "budget": "converged", "max_steps": 3000, "patience": 8},
        ),
        "classes": Profile(
            "vary the number of distinct training classes instead, with endless tasks",
            {**EQUAL_STEPS, "n_tasks": None},
            axes={"n_train_classes": [5, 8, 12, 16, 20, 24]},
            question="Does meta-test loss follow a power law in the number of training classes?",
        ),
        "smoke": Profile(
            "seconds: to see that everything works",
            {"max_steps": 20, "tune_steps": [0, 1, 3, 5, 10, 20]},
            axes={"n_tasks": [2, 5, 10, 20]},
        ),
    },
    packages=("torch", "safetensors", "sklearn"),
    preload=("sklearn.datasets",),
)


def parts(config: DigitsConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.convnet import ConvNet
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.digits import digits_tasks
    from metascale.workflow.fewshot import Parts

    source = digits_tasks(**config.source_fields(seed))
    if config.model == "mlp":
        return Parts(source, Perceptron(64, config.n_way, config.width, config.depth, head=config.head), eval_batch=50)
    return Parts(
        source, ConvNet(config.n_way, 8, width=config.width, depth=config.depth, head=config.head), eval_batch=16
    )
