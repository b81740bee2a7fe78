"""Does few-shot loss on held-out banking intents follow a power law in the number of training tasks?

Command:    metascale run banking77 --data-dir data --out runs/banking77                     (TinyLlama-1.1B, a GPU)
            metascale run banking77 --profile laptop --data-dir data --out runs/banking77    (a real 260k Llama, CPU)
            metascale run banking77 --profile frozen --executor serial ...                   (MiniLM, frozen, CPU)
Data:       Banking77 (CC BY 4.0), 77 intents split 37 / 20 / 20 by class
Learner:    Reptile over LoRA adapters, 5-way 5-shot, 15 queries (laptop: first-order MAML)
Arm:        meta-validation early stopping for every N
Hardware:   one GPU of 16 GB or more per worker; laptop: an hour on 3 cores; words: minutes
Result:     laptop: no law in N, and every N beats tuned fine-tuning (docs/results/banking77.md)
            frozen: a weak law that levels off, above the encoder alone (docs/results/banking77-frozen.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from metascale.workflow.config import BASELINES
from metascale.workflow.recipe import Profile, Recipe
from metascale.workflow.text import LORA, WITHOUT_A_MODEL, TextConfig, text_parts

if TYPE_CHECKING:
    from metascale.core.types import Encoder
    from metascale.tasks.fewshot import FewShotTasks
    from metascale.workflow.fewshot import Parts

DEFAULTS: Mapping[str, object] = {
    **LORA,
    "method": "reptile",
    "dtype": "bfloat16",
    "outer_lr": 0.1,
    "max_steps": 10_000,
    "eval_every": 500,
    "patience": 4,
    "n_validation_tasks": 100,
}
LAPTOP: Mapping[str, object] = {
    "backbone": "data:stories260k/hf",
    "dtype": "float32",
    "pooling": "mean",
    "dropout": 0.0,
    "max_length": 64,
    "inner_lr": 5e-3,
    # Reptile is far slower at this budget: its trials are in docs/results/banking77.md.
    "method": "fomaml",
    "outer_optimizer": "adam",
    "outer_lr": 1e-3,
    "max_steps": 80,
    "eval_every": 20,
    "patience": 3,
    "n_validation_tasks": 24,
    "n_test_tasks": 100,
    "n_curve_tasks": 16,
    "tune_rates": [1e-3, 3e-3, 1e-2],
}

FROZEN: Mapping[str, object] = {
    "backbone": "sentence-transformers/all-MiniLM-L6-v2",
    "frozen": True,
    "dtype": "float32",
    "method": "protonet",
    "width": 128,
    "k_shot": 1,
    "n_way": 20,
    "train_n_way": 5,
    "n_query": 5,
    "outer_optimizer": "adam",
    "outer_lr": 1e-3,
    "outer_schedule": "cosine",
    "max_steps": 1000,
    "eval_every": 100,
    "patience": 10,
    "n_validation_tasks": 100,
    "n_test_tasks": 300,
    "n_curve_tasks": 1,
    "adaptation_curve": [0],
    "tune_scales": [0.25, 0.375, 0.5, 0.625, 0.75, 1.25, 1.5, 2.0],
}
"""A prototypical network over the frozen sentence features of MiniLM: seconds a trial. Tests are of 20 classes with one
example each, where a strong encoder alone leaves room; training is of 5 classes, so that a task is a small part of
them."""
UNTRAINED = tuple(
    {"kind": kind, "method": name} for kind, name in (("baseline", "prototypes"), ("control", "class_prior"))
)

RECIPE = Recipe(
    name="banking77",
    title="Task scaling on Banking77 intents: Reptile over LoRA on TinyLlama (or a laptop-sized real model)",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=TextConfig,
    defaults=DEFAULTS,
    axes={"n_tasks": [50, 100, 300, 1000]},
    seeds=(100, 101, 102),
    baselines=BASELINES,
    follows=(WITHOUT_A_MODEL,),
    profiles={
        "laptop": Profile(
            "a real pretrained Llama of 260k parameters on a CPU, and fewer steps",
            LAPTOP,
            axes={"n_tasks": [5, 20, 100, 500]},
            seeds=(0, 1, 2),
        ),
        "words": Profile(
            "no language model, a perceptron over word frequencies: minutes on a CPU",
            {"backbone": ""},
            axes={"n_tasks": [5, 20, 100, 500]},
            seeds=(0, 1, 2),
        ),
        "leak": Profile(
            "as words, with the published leaks to see what they do: labels by rank, classes shared by all splits",
            {"backbone": "", "labels": "sorted", "classes": "shared"},
            axes={"n_tasks": [5, 20, 100, 500]},
            seeds=(0, 1, 2),
        ),
        "frozen": Profile(
            "a prototypical network over frozen sentence features of MiniLM, 20-way 1-shot; on the serial executor",
            FROZEN,
            axes={"n_tasks": [1, 2, 5, 10, 20, 50, 200, 2000]},
            seeds=(0, 1, 2),
            baselines=UNTRAINED,
        ),
        "pilot": Profile("one N and fewer steps, to check rates", {"n_tasks": 200, "max_steps": 3000}, seeds=(100,)),
    },
    data_sets=("banking77",),
)


def parts(config: TextConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.tasks.datasets import locate
    from metascale.tasks.intents import intent_tasks, read_banking77

    def source(encoder: Encoder) -> FewShotTasks:
        return intent_tasks("banking77", None, encoder, **config.source_fields(seed))

    def texts() -> list[str]:
        return [row.text for row in read_banking77(locate("banking77"))]

    return text_parts(config, source, texts, device)
