"""The best value of a nuisance column (a learning rate that was swept) at every point of the others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from metascale.core.columns import VALIDATION_LOSS
from metascale.core.errors import InputError
from metascale.core.units import finite

SHOWN = 12
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BestOf:
    """Which rows hold the best value at their point, and what a reader should know about the choice."""

    kept: frozenset[int]
    notes: tuple[str, ...]


def best_of(
    rows: Sequence[Row],
    columns: Sequence[str],
    place: Sequence[str],
    loss: str,
    better: Literal["lower", "higher"] = "lower",
) -> BestOf:
    """At every point the value of ``columns`` with the best mean over its rows (the seeds).

    The mean is that of the validation loss where every row has one, else of ``loss`` itself, which a note then says.

    Args:
        columns: the nuisance; place: the columns that make a point, such as the scale and the series.

    Raises:
        InputError: a row has no number to choose by.
    """
    by = validation_column(rows, loss)
    points: dict[tuple[str, ...], dict[tuple[str, ...], list[int]]] = {}
    for number, row in enumerate(rows):
        point, value = _cells(row, place), _cells(row, columns)
        points.setdefault(point, {}).setdefault(value, []).append(number)
    kept: set[int] = set()
    chosen: dict[tuple[str, ...], tuple[str, ...]] = {}
    sign = -1.0 if better == "higher" else 1.0
    for point, values in points.items():
        means = {
            value: sign * statistics.fmean(_number(rows[k], by or loss) for k in own) for value, own in values.items()
        }
        chosen[point] = min(means, key=lambda value: means[value])
        kept.update(values[chosen[point]])
    names = ", ".join(columns)
    how = f"mean {by}" if by else f"mean {loss}, the test result itself: the chosen runs look better than they are"
    where = [_words(place, point) + ": " + _words(columns, value) for point, value in chosen.items()]
    listed = f" ({'; '.join(where)})" if len(where) <= SHOWN else f" at {len(where)} points"
    notes = [f"of {names} every point keeps the value with the best {how}{listed}"]
    return BestOf(frozenset(kept), (*notes, *_edges(columns, points, chosen)))


def validation_column(rows: Sequence[Row], loss: str) -> str:
    """The column of the validation loss that goes with ``loss`` and that every row has; empty without one."""
    stem = loss.removeprefix("test_")
    names = [f"{split}_{stem}" for split in ("validation", "val", "valid", "eval")]
    names += [VALIDATION_LOSS, "validation_loss", "val_loss", "valid_loss", "eval_loss"]
    found = (name for name in names if name != loss and rows and all(finite(row.get(name)) is not None for row in rows))
    return next(found, "")


def _edges(
    columns: Sequence[str],
    points: Mapping[tuple[str, ...], Mapping[tuple[str, ...], object]],
    chosen: Mapping[tuple[str, ...], tuple[str, ...]],
) -> list[str]:
    """A note for each numeric column whose chosen value is often the first or last of those tried."""
    notes = []
    for k, column in enumerate(columns):
        at_end = 0
        for point, value in chosen.items():
            tried = [finite(one[k]) for one in points[point]]
            numbers = [one for one in tried if one is not None]
            if (
                len(numbers) == len(tried)
                and len(set(numbers)) > 1
                and finite(value[k]) in (min(numbers), max(numbers))
            ):
                at_end += 1
        if at_end:
            notes.append(
                f"the best {column} is the smallest or largest that was tried at {at_end} of {len(chosen)} points: "
                "the best may lie beyond"
            )
    return notes


def _number(row: Row, column: str) -> float:
    value = finite(row.get(column))
    if value is None:
        raise InputError(f"a row has no number in '{column}', by which the best is chosen", value=row.get(column))
    return value


def _cells(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """Cells as text; numbers that are equal are written alike."""
    cells = []
    for name in columns:
        number = finite(row.get(name))
        cells.append(str(row.get(name)) if number is None else f"{number:.12g}")
    return tuple(cells)


def _words(columns: Sequence[str], cells: Sequence[str]) -> str:
    return ", ".join(f"{name}={cell}" for name, cell in zip(columns, cells, strict=True)) or "everywhere"
