"""Few-shot Omniglot: accuracy in a stated budget, task scaling, and few-shot loss against the size of the network.

Command:    metascale run omniglot --profile protonet --no-baselines --data-dir data --out runs/omniglot
            metascale run omniglot --profile laptop --data-dir data --out runs/omniglot-maml (also: proto-maml, maml++)
            metascale run omniglot --profile reptile --data-dir data --out runs/omniglot-reptile
            metascale run omniglot --profile width --data-dir data --out runs/width         (beside it: width-maml)
Data:       Omniglot (MIT), 1,623 characters × 4 rotations as classes, Vinyals split 1028 / 172 / 423
Learner:    a prototypical network, exact MAML from a learnt head or from prototypes, MAML++, or Reptile, on four
            convolutions of 64 filters, 5-way 1-shot (transductive batch statistics)
Width:      8 to 48 filters (1,909 to 63,269 parameters) by implicit MAML with the identity for the inverse curvature,
            which is SAMA's meta-gradient of this bilevel problem: the first question that "Making Scalable Meta
            Learning Practical" (Choe et al. 2023) leaves open. Every width has the same meta-batches and outer steps.
Hardware:   protonet, proto-maml, maml++, laptop, reptile-laptop: 5 to 10 minutes of one core; benchmark and reptile,
            with the published number of outer steps: a GPU, or many CPU hours; width: 23 minutes of processor time
Published:  98.8 % (ProtoNet, Snell et al. 2017), 98.7 % (MAML, Finn et al. 2017) and 97.7 % (Reptile, Nichol et al.
            2018; transductive)
Result:     docs/results/omniglot.md: the prototypical network is best; width: docs/results/fewshot-width.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from metascale.core.errors import InputError
from metascale.workflow.config import BASELINES, Count, FewShotConfig
from metascale.workflow.recipe import Profile, Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class OmniglotConfig(FewShotConfig):
    """Few-shot Omniglot.

    Args:
        character_split: ``"vinyals"`` or ``"lake"`` (the original background and evaluation alphabets).
        filters: of every convolution.
        head: what the classifier of a task starts from: ``"learned"``, ``"shared"``, ``"zero"`` or ``"prototype"``.
        norm_by: gains and shifts of the normalisation, ``"all"`` steps alike, or one each inner ``"step"`` (MAML++).
    """

    character_split: Literal["vinyals", "lake"] = "vinyals"
    filters: Count = 64
    head: Literal["learned", "shared", "zero", "prototype"] = "learned"
    norm_by: Literal["all", "step"] = "all"

    @property
    def batch_statistics(self) -> bool:
        return True

    def refuse(self, where: str) -> None:
        super().refuse(where)
        if self.norm_by == "step" and (self.metric or self.inner_steps < 1):
            raise InputError(
                f"{where}: norm_by=step needs inner steps, which method={self.method} with "
                f"inner_steps={self.inner_steps} does not take",
                field="norm_by",
                value=self.norm_by,
                allowed="all",
            )


PUBLISHED_REPTILE: Mapping[str, object] = {
    "method": "reptile",
    "reptile_data": "all",
    "n_query": 9,
    "meta_batch": 5,
    "inner_optimizer": "adam",
    "inner_beta1": 0.0,
    "inner_lr": 1e-3,
    "inner_batch_size": 10,
    "inner_steps": 5,
    "eval_inner_steps": 50,
    "outer_optimizer": "sgd",
    "outer_lr": 1.0,
    "outer_schedule": "linear",
    "budget": "steps",
    "max_steps": 100_000,
}
"""Nichol et al. 2018, appendix A, transductive 5-way 1-shot: 100,000 outer steps of 5 tasks with 10 images a class."""

LAPTOP: Mapping[str, object] = {
    "method": "maml",
    "n_query": 5,
    "meta_batch": 2,
    "outer_lr": 3e-3,
    "outer_schedule": "cosine",
    "eval_inner_steps": None,
    "eval_every": 500,
    "n_validation_tasks": 100,
    "n_test_tasks": 1000,
    "tune_rates": [0.03, 0.1, 0.3],
    "tune_steps": [0, 1, 2, 5, 10],
}
"""Small meta-batches and a high outer rate that falls to 0 get most out of a few minutes."""

MAML_PLUS_PLUS: Mapping[str, object] = {
    **LAPTOP,
    "inner_lr": 0.1,
    "inner_steps": 3,
    "adapt": ["*.weight", "head.bias"],
    "learn_rates": True,
    "rates_by": "step",
    "norm_by": "step",
    "multi_step": 1000,
    "first_order_steps": 1000,
    "tune_steps": [1, 2, 3, 5, 10, 20],
    "max_steps": 4000,
}
"""All six changes of Antoniou et al. 2019, the cosine of the outer rate included, with few inner steps. Gains and
shifts do not adapt, as in the authors' code."""

ENDLESS: Mapping[str, list[object]] = {"n_tasks": [None]}
WIDTH: Mapping[str, object] = {
    "method": "imaml",
    "cg_steps": 0,
    "proximal": 0.5,
    "n_query": 5,
    "meta_batch": 8,
    "inner_lr": 0.1,
    "inner_steps": 5,
    "eval_inner_steps": 10,
    "outer_lr": 3e-3,
    "budget": "steps",
    "max_steps": 300,
    "eval_every": 100,
    "n_validation_tasks": 40,
    "n_test_tasks": 300,
    "n_curve_tasks": 20,
}

WIDTHS: Mapping[str, list[object]] = {"filters": [8, 12, 16, 24, 32, 48]}
BUDGET = "What accuracy does a budget of CPU minutes buy?"
SIZE = "How does few-shot loss fall with the size of the network?"

RECIPE = Recipe(
    name="omniglot",
    title="Few-shot Omniglot on the 4-conv net: MAML and Reptile, and task scaling",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=OmniglotConfig,
    defaults={
        "method": "maml",
        "n_tasks": None,
        "meta_batch": 32,
        "inner_lr": 0.4,
        "inner_steps": 1,
        "eval_inner_steps": 3,
        "outer_optimizer": "adam",
        "outer_lr": 1e-3,
        "n_validation_tasks": 100,
        "n_test_tasks": 600,
        "max_steps": 60_000,
        "eval_every": 500,
        "patience": 20,
    },
    axes={"n_tasks": [10, 100, 1000, 10_000]},
    baselines=BASELINES,
    profiles={
        "benchmark": Profile("MAML with endless tasks, to compare with 98.7 %", {}, ENDLESS, (0,)),
        "reptile": Profile(
            "Reptile with endless tasks and its authors' settings, to compare with 97.7 %",
            PUBLISHED_REPTILE,
            ENDLESS,
            (0,),
        ),
        "protonet": Profile(
            "a prototypical network, trained on endless 20-way tasks in a CPU budget: no inner steps at all",
            {
                **LAPTOP,
                "method": "protonet",
                "train_n_way": 20,
                "meta_batch": 1,
                "max_steps": 5000,
                "adaptation_curve": [0],
            },
            ENDLESS,
            (0,),
            question=BUDGET,
        ),
        "proto-maml": Profile(
            "exact MAML whose head starts at the class means, with endless tasks in a CPU budget",
            {**LAPTOP, "head": "prototype", "inner_lr": 0.1, "inner_steps": 2, "max_steps": 4000},
            ENDLESS,
            (0,),
            question=BUDGET,
        ),
        "laptop": Profile(
            "exact MAML with endless tasks in a CPU budget",
            {**LAPTOP, "tune_rates": [0.2, 0.4, 0.8], "tune_steps": [1, 3, 5, 10, 20], "max_steps": 8000},
            ENDLESS,
            (0,),
            question=BUDGET,
        ),
        "maml++": Profile(
            "MAML++ with endless tasks in a CPU budget: losses, rates, gains and shifts of every inner step",
            MAML_PLUS_PLUS,
            ENDLESS,
            (0,),
            question=BUDGET,
        ),
        "reptile-laptop": Profile(
            "Reptile with its authors' settings, but for the number of outer steps, in a CPU budget",
            {**PUBLISHED_REPTILE, "max_steps": 2000, "eval_every": 500, "n_validation_tasks": 40},
            ENDLESS,
            (0,),
            question=BUDGET,
        ),
        "width": Profile(
            "networks of growing width by SAMA's meta-gradient", WIDTH, WIDTHS, (0, 1, 2), baselines=(), question=SIZE
        ),
        "width-maml": Profile(
            "the same by exact MAML through one inner step, as published",
            {**WIDTH, "method": "maml", "inner_steps": 1, "inner_lr": 0.4},
            WIDTHS,
            (0, 1, 2),
            baselines=(),
            question=SIZE,
        ),
        "width-smoke": Profile(
            "a minute: to see that width works",
            {**WIDTH, "max_steps": 5, "eval_every": 5, "n_test_tasks": 8, "n_validation_tasks": 4, "n_curve_tasks": 4},
            {"filters": [2, 4, 6, 8]},
            (0,),
            baselines=(),
            question=SIZE,
        ),
    },
    scale_columns={"filters": "n_params_trainable"},
    data_sets=("omniglot",),
    packages=("torch", "safetensors", "PIL"),
)


def parts(config: OmniglotConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.convnet import ConvNet
    from metascale.tasks.omniglot import omniglot_tasks
    from metascale.workflow.fewshot import Parts

    source = omniglot_tasks(split=config.character_split, **config.source_fields(seed))
    steps = config.inner_steps if config.norm_by == "step" else 0
    model = ConvNet(config.n_way, width=config.filters, head=config.head, steps=steps)
    return Parts(source, model, eval_batch=8)
