"""Task scaling on your own texts: any CSV file with a text and a label column.

Command:    metascale run csv --set path=my_texts.csv --out runs/mine
            metascale run csv --set path=my_texts.csv --set backbone=sentence-transformers/all-MiniLM-L6-v2 ...
Data:       your file; classes are split 60 / 20 / 20 at random (by the file's name and ``split_seed``)
Learner:    first-order MAML: without a backbone on a perceptron over word frequencies; with one on LoRA adapters
            (then with lower rates: --set inner_lr=0.005 --set outer_lr=0.001)
Hardware:   any machine without a backbone
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metascale.workflow.config import BASELINES, NonNegative
from metascale.workflow.recipe import Recipe
from metascale.workflow.text import LORA, TextConfig, text_parts

if TYPE_CHECKING:
    from metascale.core.types import Encoder
    from metascale.tasks.fewshot import FewShotTasks
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class CsvConfig(TextConfig):
    """Few-shot classification of the texts in a CSV file.

    Args:
        path: the file.
        text_column, label_column: its columns.
        split_seed: which classes are for training, validation and test.
    """

    path: str = ""
    text_column: str = "text"
    label_column: str = "label"
    split_seed: NonNegative = 0


RECIPE = Recipe(
    name="csv",
    title="Task scaling on your own texts: a CSV file of text,label, no code",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=CsvConfig,
    defaults={
        **LORA,
        "backbone": "",
        "method": "fomaml",
        "inner_optimizer": "adam",
        "inner_lr": 0.01,
        "inner_steps": 10,
        "inner_clip": None,
        "inner_weight_decay": 0.0,
        "head": "zero",
        "outer_optimizer": "adam",
        "outer_lr": 3e-3,
        "outer_schedule": "linear",
        "max_steps": 400,
        "eval_every": 50,
        "tune_rates": (0.001, 0.003, 0.01, 0.03),
        "tune_steps": (0, 1, 3, 5, 10, 20, 50),
    },
    axes={"n_tasks": [5, 20, 100, 500]},
    baselines=BASELINES,
)


def parts(config: CsvConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.tasks.texts import csv_tasks, read_csv

    def source(encoder: Encoder) -> FewShotTasks:
        return csv_tasks(
            config.path,
            encoder,
            text_column=config.text_column,
            label_column=config.label_column,
            split_seed=config.split_seed,
            **config.source_fields(seed),
        )

    def texts() -> list[str]:
        return [row.text for row in read_csv(Path(config.path), config.text_column, config.label_column)]

    return text_parts(config, source, texts, device)
