"""Few-shot tasks from any CSV file with a text column and a label column, without writing code."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.core.types import Encoder
from metascale.tasks.class_table import ClassSplit, split_sizes
from metascale.tasks.fewshot import FewShotTasks
from metascale.tasks.text_table import LabelledText, text_table


def read_csv(path: Path | str, text_column: str = "text", label_column: str = "label") -> list[LabelledText]:
    """The rows of a UTF-8 CSV file whose first line names the columns.

    Raises:
        InputError: the file cannot be read, a column is missing, or a row lacks its text or label.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            for column in (text_column, label_column):
                if column not in columns:
                    raise InputError(f"{path} has no column '{column}'; its columns are {', '.join(columns) or 'none'}")
            rows = []
            for row in reader:
                text, label = (row[text_column] or "").strip(), (row[label_column] or "").strip()
                if not text or not label:
                    raise InputError(f"{path}, line {reader.line_num}: the {'label' if text else 'text'} is empty")
                rows.append(LabelledText(text, label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path} as a UTF-8 CSV file: {error}") from error
    return rows


def csv_tasks(
    path: Path | str,
    encoder: Encoder,
    n_way: int = 5,
    k_shot: int = 5,
    n_query: int = 15,
    n_train_tasks: int | None = 100,
    n_validation_tasks: int = 100,
    n_test_tasks: int = 200,
    seed: int = 0,
    *,
    text_column: str = "text",
    label_column: str = "label",
    split_seed: int = 0,
    split_fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    **settings: Any,
) -> FewShotTasks:
    """Few-shot tasks on the classes of a CSV file; inputs ``{"input_ids", "attention_mask"}`` [T, B, S] int64.

    Args:
        split_seed: with the file's name (not its folder), which classes are training, validation and test classes.
        split_fractions: the share of classes for training, validation and test.
        settings: further fields of ``FewShotTasks``.

    Raises:
        InputError: the file cannot be used, or as ``FewShotTasks``.
    """
    path = Path(path)
    rows = read_csv(path, text_column, label_column)
    details = {"source": path.name, "sha256": sha256_of(path.read_bytes())}
    table = text_table(path.stem, rows, encoder, details=details)
    sizes = split_sizes(table.name, len(table.classes), split_fractions)
    split = ClassSplit.draw(table.name, table.classes, sizes, split_seed)
    return FewShotTasks(
        table, split, n_way, k_shot, n_query, n_train_tasks, n_validation_tasks, n_test_tasks, seed, **settings
    )
