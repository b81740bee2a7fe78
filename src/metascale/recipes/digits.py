"""Does meta-test loss follow a power law in the number of training tasks? Handwritten digits, no download.

Command:    metascale run digits --out runs/digits
Data:       scikit-learn's 1,797 8×8 digits (ships inside its wheel), four rotations: 24 / 8 / 8 classes, by digit
Learner:    exact MAML on a two-layer perceptron, 5-way 1-shot, 15 queries
Arm:        equal outer steps for every N (``--profile converged`` stops early instead)
Hardware:   any machine; 1.5 minutes on 2 cores
Result:     at equal outer steps a law towards a floor, with early stopping barely one; tuned fine-tuning wins
            (docs/results/digits.md)
"""

from __future__ import annotations

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
    def batch_statistics(self) -> bool:
        return self.model == "conv"


RECIPE = Recipe(
    name="digits",
    title="Task scaling on handwritten digits (8×8, four rotations): the main job on real data without a download",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=DigitsConfig,
    defaults={
        "method": "maml",
        "curvature": "unrolled",
        "adapt": ["layer*"],
        "inner_steps": 20,
        "inner_lr": 0.9,
        "meta_batch": 8,
        "outer_optimizer": "adam",
        "outer_lr": 0.001,
        "max_steps": 600,
        "eval_every": 25,
        "patience": 4,
        "n_validation_tasks": 100,
        "tune_rates": [0.1, 0.3, 1.0, 3.0],
        "n_curve_tasks": 100,
    },
    axes={"n_tasks": [2, 5, 10, 20, 50, 100, 200]},
    seeds=(0, 1, 2),
    baselines=BASELINES,
    profiles={
        "converged": Profile(
            "stop each training early on meta-validation instead of giving all the same outer steps",
            {"budget": "converged", "max_steps": 3000, "patience": 8},
        ),
        "classes": Profile(
            "vary the number of distinct training classes instead, with endless tasks",
            {"n_tasks": None},
            axes={"n_train_classes": [5, 8, 12, 16, 20, 24]},
        ),
        "smoke": Profile(
            "seconds: to see that everything works",
            {"max_steps": 20, "tune_steps": [0, 1, 3, 5, 10, 20]},
            axes={"n_tasks": [2, 5, 10, 20]},
        ),
    },
    packages=("torch", "safetensors", "sklearn"),
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
