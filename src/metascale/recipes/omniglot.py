"""Few-shot Omniglot: accuracy in a stated budget, and task scaling.

Command:    metascale run omniglot --profile benchmark --data-dir data --out runs/omniglot
            metascale run omniglot --profile laptop --data-dir data --out runs/omniglot-laptop
Data:       Omniglot (MIT), 1,623 characters × 4 rotations as classes, Vinyals split 1028 / 172 / 423
Learner:    exact MAML or Reptile on four convolutions of 64 filters, 5-way 1-shot (transductive batch statistics)
Published:  98.7 % (MAML, Finn et al. 2017) and 97.7 % (Reptile, Nichol et al. 2018; transductive)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from metascale.workflow.config import BASELINES, Count, FewShotConfig, Method
from metascale.workflow.recipe import Profile, Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class OmniglotConfig(FewShotConfig):
    """Few-shot Omniglot.

    Args:
        character_split: ``"vinyals"`` or ``"lake"`` (the original background and evaluation alphabets).
        filters: of every convolution.
    """

    method: Method = "maml"
    character_split: Literal["vinyals", "lake"] = "vinyals"
    filters: Count = 64
    n_tasks: Count | None = None
    meta_batch: Count = 32
    inner_lr: float = 0.4
    inner_steps: int = 1
    eval_inner_steps: int | None = 3
    outer_optimizer: Literal["sgd", "adam"] = "adam"
    outer_lr: float = 1e-3
    n_validation_tasks: Count = 100
    n_test_tasks: Count = 600
    max_steps: Count = 60_000
    eval_every: Count = 500
    patience: Count = 20

    @property
    def batch_statistics(self) -> bool:
        return True


REPTILE: dict[str, Any] = {
    "method": "reptile",
    "reptile_data": "all",
    "n_query": 9,
    "meta_batch": 5,
    "inner_optimizer": "adam",
    "inner_lr": 1e-3,
    "inner_batch_size": 10,
    "inner_steps": 5,
    "eval_inner_steps": 50,
    "outer_optimizer": "sgd",
    "outer_lr": 1.0,
}

RECIPE = Recipe(
    name="omniglot",
    title="Few-shot Omniglot on the 4-conv net: MAML and Reptile, and task scaling",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=OmniglotConfig,
    axes={"n_tasks": [10, 100, 1000, 10_000]},
    baselines=BASELINES,
    profiles={
        "benchmark": Profile("MAML with endless tasks, to be held against 98.7 %", {}, {"n_tasks": [None]}, (0,)),
        "reptile": Profile("Reptile with endless tasks, to be held against 97.7 %", REPTILE, {"n_tasks": [None]}, (0,)),
        "laptop": Profile(
            "MAML with endless tasks in a CPU budget",
            {"max_steps": 500, "eval_every": 100, "budget": "steps", "meta_batch": 8, "n_validation_tasks": 40},
            {"n_tasks": [None]},
            (0,),
        ),
        "reptile-laptop": Profile(
            "Reptile with endless tasks in a CPU budget",
            {**REPTILE, "max_steps": 1000, "eval_every": 200, "budget": "steps", "n_validation_tasks": 40},
            {"n_tasks": [None]},
            (0,),
        ),
    },
    data_sets=("omniglot",),
    packages=("torch", "safetensors", "PIL"),
    hardware="benchmark: a GPU, or many CPU hours; laptop: see docs/results",
)


def parts(config: OmniglotConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.convnet import ConvNet
    from metascale.tasks.omniglot import omniglot_tasks
    from metascale.workflow.fewshot import Parts
    from metascale.workflow.sources import data_dir, source_fields

    source = omniglot_tasks(data_dir(), split=config.character_split, **source_fields(config, seed))
    return Parts(source, ConvNet(config.n_way, width=config.filters), eval_batch=8)
