"""Small sources for the tests: an invented class table, and one of every kind that ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metascale.core.types import TaskSource
from metascale.tasks.digits import digits_tasks
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotTasks
from metascale.tasks.regression import QuadraticTasks, SinusoidTasks
from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks


def identity(ids: np.ndarray) -> dict[str, torch.Tensor]:
    """An example is its own id."""
    return {"x": torch.from_numpy(ids).float().unsqueeze(-1)}


def toy_table(n_classes: int = 14, n_examples: int = 30, halves: bool = False) -> ClassTable:
    """Class c has the example ids 1000 c + 0, 1, 2, ..."""
    examples = tuple(1000 * index + np.arange(n_examples) for index in range(n_classes))
    by_split = None
    if halves:
        third = n_examples // 3
        by_split = {
            split: tuple(ids[place * third : (place + 1) * third] for ids in examples)
            for place, split in enumerate(("train", "validation", "test"))
        }
    return ClassTable("toy", tuple(f"c{index:02d}" for index in range(n_classes)), examples, identity, by_split)


def toy_tasks(table: ClassTable | None = None, **settings: Any) -> FewShotTasks:
    """8 training, 3 validation and 3 test classes of the toy table, 3-way."""
    split = ClassSplit(tuple(range(8)), (8, 9, 10), (11, 12, 13))
    sizes = {"n_train_tasks": 10, "n_validation_tasks": 4, "n_test_tasks": 4}
    defaults: dict[str, Any] = {"n_way": 3, "k_shot": 2, "n_query": 3, **sizes}
    return FewShotTasks(table or toy_table(), split, **{**defaults, **settings})


SHIPPED: dict[str, Callable[[], TaskSource]] = {
    "quadratic": lambda: QuadraticTasks(noise=0.1, n_train_tasks=10, k_shot=2, n_query=3),
    "quadratic endless": lambda: QuadraticTasks(noise=0.1),
    "sinusoid": lambda: SinusoidTasks(n_train_tasks=10),
    "sinusoid endless": lambda: SinusoidTasks(),
    "toy": toy_tasks,
    "toy endless": lambda: toy_tasks(n_train_tasks=None),
    "toy shared": lambda: toy_tasks(toy_table(halves=True), classes="shared"),
    "toy fewer classes": lambda: toy_tasks(n_train_classes=5),
    "digits": lambda: digits_tasks(n_train_tasks=8, n_test_tasks=70, n_query=5),
    "synthetic text": lambda: synthetic_text_tasks(
        language=SyntheticLanguage(n_classes=30, texts_per_class=40), n_train_tasks=10, n_query=4
    ),
}

WITH_DATA = ("omniglot vinyals", "omniglot lake", "banking77", "banking77 shared", "clinc150", "clinc150 domains")


def source_with_data(kind: str, data_dir: Path) -> TaskSource:
    """A shipped source that reads the data folder."""
    from metascale.tasks.intents import intent_tasks, read_banking77, read_clinc150
    from metascale.tasks.omniglot import omniglot_tasks
    from metascale.tasks.words import WordEncoder

    name, _, rest = kind.partition(" ")
    if name == "omniglot":
        return omniglot_tasks(data_dir, rest, n_train_tasks=10, n_query=5, download=False)  # type: ignore[arg-type]
    rows = read_banking77(data_dir / name) if name == "banking77" else read_clinc150(data_dir / name)
    encoder = WordEncoder.from_texts((row.text for row in rows), max_length=512)
    settings: dict[str, Any] = {"n_train_tasks": 10, "download": False}
    if rest == "domains":
        settings["by_domain"] = True
    if rest == "shared":
        settings["classes"] = "shared"
    return intent_tasks(name, data_dir, encoder, **settings)
