"""What does the curvature in a meta-gradient of adapters buy, and what does it cost in memory and arithmetic?

Command:    metascale run melora --data-dir data --out runs/melora                       (GPT-2 small, a GPU)
            metascale run melora --profile laptop --data-dir data --out runs/melora      (a real 260k Llama, CPU)
            metascale run melora --profile tuned --data-dir data --out runs/tuned        (fewer methods, rates tuned)
            metascale run melora --profile laptop-synthetic --data-dir data --out ...    (the same on generated texts)
            metascale run melora --profile ablation-rank ...                             (-curvature, -inner-steps,
                                                                                          -checkpointing)
Data:       Banking77 (CC BY 4.0), generated texts, or your own CSV file (``data``)
Learners:   Reptile, first-order MAML, MAML unrolled, the recomputed exact meta-gradient ("melora") and its
            approximations, implicit MAML; tuned fine-tuning and the other baselines beside them
Arm:        the same number of floating-point operations for every method, as its own outer step is counted
Hardware:   one GPU per worker; laptop profiles: 12 minutes on 2 cores
Result:     tuned: at equal operations the exact meta-gradient in an eighth of the memory loses to the stored graph,
            since it pays for half the outer steps; first order is told from neither (docs/results/melora.md); all
            methods: docs/results/melora-ablations.md; configurations in MELoRA's own form: examples/from_melora.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.workflow.config import BASELINES, Curvature, NonNegative
from metascale.workflow.recipe import Profile, Recipe
from metascale.workflow.text import LORA, TextConfig, text_parts

if TYPE_CHECKING:
    from metascale.core.types import Encoder
    from metascale.tasks.fewshot import FewShotTasks
    from metascale.workflow.fewshot import Parts

ESTIMATORS: Mapping[str, tuple[str, Curvature]] = {
    "reptile": ("reptile", "none"),
    "fomaml": ("fomaml", "none"),
    "maml": ("maml", "unrolled"),
    "melora": ("maml", "exact"),
    "melora_checkpointed": ("maml", "exact"),
    "melora_gauss_newton": ("maml", "gauss_newton"),
    "melora_block_diagonal": ("maml", "block_diagonal"),
    "melora_diagonal": ("maml", "diagonal"),
    "melora_finite_difference": ("maml", "finite_difference"),
    "imaml": ("imaml", "gauss_newton"),
}
"""The meta-learners by name: the estimator, and how it goes back through the inner steps."""

MeloraMethod = Literal[
    "reptile",
    "fomaml",
    "maml",
    "melora",
    "melora_checkpointed",
    "melora_gauss_newton",
    "melora_block_diagonal",
    "melora_diagonal",
    "melora_finite_difference",
    "imaml",
    "zero_shot",
    "class_prior",
    "fine_tuning",
    "prototypes",
    "linear_probe",
]


@dataclass(frozen=True)
class MeloraConfig(TextConfig):
    """Meta-learning of adapters by many estimators.

    Args:
        method: a meta-learner of `ESTIMATORS` (``"melora"`` is the exact meta-gradient, one inner step's graph at a
            time), a baseline or the control. It decides ``curvature``, which is not set by itself here.
            ``"melora_checkpointed"`` is the same number with the blocks that hold adapters run again in the backward
            pass, whatever ``checkpointing`` says: the least memory.
        data: ``"banking77"``, ``"synthetic"`` (generated texts, no download) or ``"csv"`` (your file at ``path``).
        path, text_column, label_column: of your file.
        split_seed: which classes of the file are for training, validation and test.
        difficulty: of the generated texts, 0 (classes share no words) to 1 (classes cannot be told apart).
        n_classes: of the generated texts.
    """

    method: MeloraMethod = "melora"  # type: ignore[assignment]
    data: Literal["banking77", "synthetic", "csv"] = "banking77"
    path: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    split_seed: NonNegative = 0
    difficulty: Annotated[float, Field(ge=0, le=1)] = 0.5
    n_classes: Annotated[int, Field(ge=15)] = 100

    @property
    def estimator(self) -> tuple[str, Curvature]:
        return ESTIMATORS.get(self.method, (self.method, self.curvature))

    def refuse(self, where: str) -> None:
        if self.data == "csv" and not self.path:
            raise InputError(f"{where}: data=csv needs a file: `path`=FILE.csv (columns text,label)", field="path")
        if self.data != "csv" and self.path:
            raise InputError(f"{where}: path={self.path} is read with data=csv alone", field="path", value=self.path)
        if not self.backbone:
            raise InputError(f"{where}: adapters need a backbone, such as {', '.join(BACKBONES)}")
        super().refuse(where)


BACKBONES = ("gpt2-small", "gpt2-medium", "t5-small", "t5-base", "distilbert")

LAPTOP: Mapping[str, object] = {
    "backbone": "data:stories260k/hf",
    "pooling": "mean",
    "checkpointing": "none",
    "micro_batch": None,
    "dropout": 0.0,
    "alpha": 16.0,
    "max_length": 32,
    "k_shot": 1,
    "n_query": 5,
    "meta_batch": 4,
    "task_execution": "stacked",
    "inner_lr": 0.1,
    "outer_lr": 3e-3,
    "budget": "compute",
    "budget_flops": 3.5e11,
    "n_validation_tasks": 12,
    "n_test_tasks": 100,
    "n_curve_tasks": 1,
    "adaptation_curve": [0, 3],
    "tune_rates": [0.03, 0.1, 0.3],
    "tune_steps": [1, 3, 10],
}
TUNED: Mapping[str, object] = {
    **LAPTOP,
    "budget_flops": 2.5e11,
    "n_validation_tasks": 16,
    "tune": {
        "space": {"inner_lr": {"log": [0.05, 0.3]}, "outer_lr": {"log": [1e-3, 1e-2]}},
        "trials": 4,
        "startup": 4,
        "together": 2,
        "prune": {"n_before": 3, "rungs": 3},
    },
}
"""As `LAPTOP` with fewer operations, and both rates tuned for every method by its loss on validation tasks."""
METHODS = ["melora", *(name for name in ESTIMATORS if name not in ("melora", "melora_checkpointed"))]
"""The exact meta-gradient first: reports compare every other method with the first."""


def _ablation(about: str, axes: Mapping[str, Sequence[object]], **values: object) -> Profile:
    fixed = {key: value for key, value in {**LAPTOP, **values}.items() if key not in axes}
    return Profile(f"{about}, at the laptop profile's size", fixed, axes=axes, seeds=(0, 1, 2))


RECIPE = Recipe(
    name="melora",
    title="Exact and approximate meta-gradients of adapters: loss, accuracy, memory and arithmetic",
    question="Which meta-gradient of adapters is best at equal compute, and how much memory does each take?",
    config=MeloraConfig,
    defaults={
        **LORA,
        "backbone": "gpt2-small",
        "rank": 8,
        "alpha": 16.0,
        "dropout": 0.1,
        "attention": "eager",
        "checkpointing": "adapters",
        "n_tasks": None,
        "meta_batch": 8,
        "micro_batch": 4,
        "inner_optimizer": "sgd",
        "inner_lr": 0.01,
        "inner_steps": 3,
        "inner_clip": None,
        "inner_weight_decay": 0.0,
        "outer_optimizer": "adam",
        "outer_lr": 5e-4,
        "n_validation_tasks": 100,
        "measure_memory": True,
    },
    axes={"method": METHODS},
    seeds=(0, 1, 2),
    baselines=BASELINES,
    profiles={
        "laptop": Profile(
            "a real pretrained Llama of 260k parameters on a CPU", LAPTOP, axes={"method": METHODS}, seeds=(0, 1, 2)
        ),
        "laptop-synthetic": Profile(
            "the same on generated texts, whose words take twice the tokens",
            {**LAPTOP, "data": "synthetic", "difficulty": 0.25, "max_length": 64, "budget_flops": 7e11},
            axes={"method": METHODS},
            seeds=(0, 1, 2),
        ),
        "tuned": Profile(
            "fewer methods and operations than laptop, with both rates tuned for every method, and five seeds",
            TUNED,
            axes={"method": ["melora", "melora_checkpointed", "maml", "fomaml", "reptile"]},
            seeds=(0, 1, 2, 3, 4),
        ),
        "ablation-rank": _ablation("the rank of the adapters", {"rank": [4, 8, 16, 32]}),
        "ablation-curvature": _ablation(
            "every curvature at equal outer steps instead of equal compute",
            {"method": [*(name for name in METHODS if name.startswith("melora")), "fomaml"]},
            budget="steps",
            budget_flops=None,
            max_steps=40,
            eval_every=10,
        ),
        "ablation-inner-steps": _ablation(
            "the number of inner steps, first-order against exact",
            {"inner_steps": [1, 3, 5, 10], "method": ["melora", "fomaml"]},
        ),
        "ablation-checkpointing": _ablation(
            "what is kept for the backward pass: the same numbers, other memory and arithmetic",
            {"checkpointing": ["none", "adapters", "all"], "method": ["melora", "maml"]},
            budget="steps",
            budget_flops=None,
            max_steps=10,
            eval_every=10,
        ),
        "smoke": Profile(
            "a minute: to see that everything works",
            {**LAPTOP, "budget_flops": 2e10, "n_validation_tasks": 2, "n_test_tasks": 6, "tune_rates": [0.1]},
            axes={"method": ["reptile", "fomaml", "melora"]},
            seeds=(0,),
        ),
    },
    data_sets=lambda config: ("banking77",) if config.data == "banking77" else (),
    packages=("torch", "safetensors", "transformers"),
    search={
        "space": {"inner_lr": {"log": [1e-3, 1.0]}, "outer_lr": {"log": [1e-4, 1e-2]}},
        "trials": 12,
        "startup": 5,
    },
)


def parts(config: MeloraConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    if config.method == "melora_checkpointed":
        config = replace(config, checkpointing="adapters")
    fields = config.source_fields(seed)

    def source(encoder: Encoder) -> FewShotTasks:
        if config.data == "synthetic":
            from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks

            language = SyntheticLanguage(difficulty=config.difficulty, n_classes=config.n_classes)
            return synthetic_text_tasks(encoder, language=language, **fields)
        if config.data == "csv":
            from metascale.tasks.texts import csv_tasks

            return csv_tasks(
                str(config.path),
                encoder,
                text_column=config.text_column,
                label_column=config.label_column,
                split_seed=config.split_seed,
                **fields,
            )
        from metascale.tasks.intents import intent_tasks

        return intent_tasks("banking77", None, encoder, **fields)

    return text_parts(config, source, list, device)
