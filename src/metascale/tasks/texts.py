"""Labelled texts as a class table: duplicates removed, tokenised once, padded when fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.core.types import Encoder, Split
from metascale.tasks.csv_rows import CsvTexts, LabelledText, parse_csv
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotSettings, FewShotTasks, split_sizes
from metascale.tasks.words import words_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, eq=False)
class TokenLists:
    """Token lists end to end in memory; text i is ``tokens[starts[i] : starts[i] + lengths[i]]``.

    Ids [...] give ``{"input_ids", "attention_mask"}`` [..., S] int64, S the longest text among these ids.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    pad_id: int

    def __len__(self) -> int:
        return len(self.starts)

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        lengths = self.lengths[ids][..., None]
        place = np.arange(lengths.max(initial=1))
        is_token = place < lengths
        position = np.where(is_token, self.starts[ids][..., None] + place, 0)
        padded = np.where(is_token, self.tokens[position], self.pad_id)
        return {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(is_token.astype(np.int64))}

    def subset(self, ids: np.ndarray) -> TokenLists:
        """These texts alone."""
        return replace(self, starts=self.starts[ids], lengths=self.lengths[ids])


def token_lists(name: str, rows: Sequence[LabelledText], encoder: Encoder) -> TokenLists:
    """The texts of a data set, tokenised once."""
    encoded = encoder([row.text for row in rows])
    lengths = np.array([len(tokens) for tokens in encoded], np.int64)
    if len(lengths) != len(rows):
        raise InputError(f"{name}: the encoder gave {len(lengths)} token lists for {len(rows)} texts")
    if lengths.min() == 0:
        raise InputError(f"{name}: the encoder gave no token for the text {rows[int(lengths.argmin())].text!r}")
    tokens = np.fromiter((token for one in encoded for token in one), np.int64, count=int(lengths.sum()))
    return TokenLists(tokens, np.cumsum(lengths) - lengths, lengths, encoder.pad_id)


def without_duplicates(rows: Sequence[LabelledText], keep_first: Sequence[str]) -> tuple[list[LabelledText], int, int]:
    """Each text once, so that support and query cannot hold the same one; texts with two labels are dropped.

    Texts are the same when their lower-case words and punctuation are. Of equal rows the one kept is from the origin
    named earliest in ``keep_first``.

    Returns:
        The rows kept in their order, how many duplicates were removed, and how many rows had an ambiguous text.
    """
    labels: dict[str, set[str]] = {}
    kept: dict[str, int] = {}
    rank = {origin: position for position, origin in enumerate(keep_first)}
    keys = [" ".join(words_of(row.text)) for row in rows]
    for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
        labels.setdefault(key, set()).add(row.label)
        if key not in kept or rank[row.origin] < rank[rows[kept[key]].origin]:
            kept[key] = number
    clear = [row for number, (key, row) in enumerate(zip(keys, rows, strict=True)) if len(labels[key]) == 1]
    n_ambiguous = len(rows) - len(clear)
    chosen = sorted(number for key, number in kept.items() if len(labels[key]) == 1)
    return [rows[number] for number in chosen], len(clear) - len(chosen), n_ambiguous


def text_table(
    name: str,
    rows: Sequence[LabelledText],
    encoder: Encoder,
    *,
    origin_of_split: Mapping[Split, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> ClassTable:
    """A class table of texts; the classes are the labels in alphabetical order.

    Args:
        origin_of_split: which origin each split's examples come from when splits share classes.
        details: JSON for the run's record; the numbers of rows removed are added, and in words as ``read``.
    """
    if not rows:
        raise InputError(f"{name}: there are no texts")
    # Evaluation files stay whole: what they have in common with the training file is removed there.
    origins = [origin_of_split[split] for split in ("test", "validation", "train")] if origin_of_split else []
    order = [*dict.fromkeys([*origins, *(row.origin for row in rows)])]
    kept, n_duplicates, n_ambiguous = without_duplicates(rows, order)
    fetch = token_lists(name, kept, encoder)
    classes = tuple(sorted({row.label for row in kept}))
    label_of_row = np.array([row.label for row in kept])
    origin_of_row = np.array([row.origin for row in kept])
    examples = tuple(np.flatnonzero(label_of_row == label) for label in classes)
    by_split: dict[Split, tuple[np.ndarray, ...]] | None = None
    if origin_of_split is not None:
        by_split = {
            split: tuple(ids[origin_of_row[ids] == origin] for ids in examples)
            for split, origin in origin_of_split.items()
        }
    counts = {"n_texts": len(kept), "n_duplicates_removed": n_duplicates, "n_ambiguous_removed": n_ambiguous}
    lost = sorted({row.label for row in rows} - {*classes})
    read = what_was_read(name, len(rows), len(classes), n_duplicates, n_ambiguous, lost, (details or {}).get("form"))
    return ClassTable(name, classes, examples, fetch, by_split, {**(details or {}), **counts, "read": read})


def what_was_read(
    name: str, n_rows: int, n_classes: int, n_duplicates: int, n_ambiguous: int, lost: Sequence[str], form: str | None
) -> str:
    """Rows, classes, and what was left out by reason, in a line: of every study of texts.

    Args:
        lost: classes of which every row was left out.
        form: encoding and delimiter of a file.
    """
    kept = n_rows - n_duplicates - n_ambiguous
    how = f" ({form})" if form else ""
    parts = [f"{name}: {n_rows:,} rows read{how}, {kept:,} kept as texts of {n_classes:,} classes"]
    if n_duplicates:
        parts.append(f"{n_duplicates:,} left out as duplicates of others")
    if n_ambiguous:
        parts.append(f"{n_ambiguous:,} left out because their text has more than one label")
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        parts.append(f"{len(lost)} class{'es' * (len(lost) != 1)} left without a row: {shown}")
    return "; ".join(parts)


def read_csv(path: Path | str, text_column: str = "text", label_column: str = "label") -> list[LabelledText]:
    """The rows of a UTF-8 CSV file whose first line names the columns (`metascale.tasks.csv_rows`).

    Raises:
        InputError: the file cannot be read, a column is missing, or a row is malformed: it is named by its line.
    """
    return _read(path, text_column, label_column)[0].rows


def _read(path: Path | str, text_column: str, label_column: str) -> tuple[CsvTexts, bytes]:
    place = Path(path).expanduser()
    try:
        data = place.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} as a UTF-8 CSV file: {error.strerror or error}") from error
    return parse_csv(place, data, text_column, label_column), data


def csv_tasks(
    path: Path | str,
    encoder: Encoder,
    *,
    text_column: str = "text",
    label_column: str = "label",
    split_seed: int = 0,
    split_fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    **settings: Unpack[FewShotSettings],
) -> FewShotTasks:
    """Few-shot tasks on the classes of a CSV file; inputs ``{"input_ids", "attention_mask"}`` [T, B, S] int64.

    Args:
        split_seed: with the file's name (not its folder), which classes are training, validation and test classes.
        split_fractions: the share of classes for training, validation and test.
        settings: fields of `FewShotTasks` (by default 5-way 5-shot).
    """
    path = Path(path)
    found, data = _read(path, text_column, label_column)
    details = {"source": path.name, "sha256": sha256_of(data), "form": found.form}
    table = text_table(path.stem, found.rows, encoder, details=details)
    sizes = split_sizes(table.name, len(table.classes), split_fractions)
    split = ClassSplit.draw(table.name, table.classes, sizes, split_seed)
    chosen: FewShotSettings = {"k_shot": 5, **settings}
    return FewShotTasks(table, split, **chosen)
