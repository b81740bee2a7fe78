"""From a table to the rows and columns of a fit, the same for the commands and for Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.errors import InputError
from metascale.laws.observations import Array, Integers, Mask, Observations, observe
from metascale.laws.prediction import points_of
from metascale.laws.runs import are_checkpoints, run_column, usable_rows
from metascale.laws.table import (
    COMPUTE_NAMES,
    DATA_NAMES,
    X_NAMES,
    ScaleColumns,
    Table,
    group_column,
    guess_loss,
    guess_scale,
    keep_best,
    losses,
    named_like,
    naming,
    pooled_notes,
    size_names,
    sizes_and_tokens,
    sizes_by_data,
    split_table,
    standard_errors,
    tokens_of_compute,
    varies,
    with_series,
    without_blanks,
)
from metascale.laws.thinning import sampled, without_repeats


@dataclass(frozen=True)
class Prepared:
    """A table that is ready to be fitted.

    Attributes:
        scales: those named; empty where they are to be guessed. loss: the same.
        group: the column by whose values the rows are split, if any.
        compared: whether the groups' exponents are compared.
        used: columns that have a role, so that their variation is no accident.
        run: the column of runs that have several rows each, which stay together in a bootstrap.
        noise: the column of known standard errors of the loss.
    """

    table: Table
    scales: tuple[str, ...]
    loss: str | None
    group: str | None
    compared: bool
    used: tuple[str, ...]
    run: str | None = None
    noise: str | None = None


def prepare(
    table: Table,
    scales: Sequence[str] = (),
    loss: str | None = None,
    *,
    group: str | None = None,
    series: Sequence[str] = (),
    best_of: Sequence[str] = (),
    run: str | None = None,
    seed: str | None = None,
    checkpoints: bool = False,
    rows: int | None = None,
    noise: str | None = None,
) -> Prepared:
    """The rows that count, once each, split and thinned out as asked.

    Args:
        group: a column whose values have a law each that is compared; series: columns whose values have a law each.
        best_of: columns of which every point keeps the best value.
        run, seed: the columns of runs and of repeats; guessed by default.
        checkpoints: fit every row of a run, and not its end alone.
        noise: the column of known standard errors of the loss.
        rows: fit a sample of so many; by default all of 5,000 and 600 a group of more.

    Raises:
        InputError: a column that is missing, or no row that counts.
    """
    if rows is not None and rows < 1:
        raise InputError(f"rows is {rows}; give how many rows are fitted, at least 1", field="rows", value=rows)
    table = usable_rows(table, run, checkpoints=checkpoints, scale=scales[0] if len(scales) == 1 else None)
    if noise is not None:
        table = without_blanks(table, (noise,))
    named, split = group_column(table, group), tuple(series)
    if split and group is None and named is not None:
        split = tuple(dict.fromkeys((named, *split)))
    if best_of:
        known = loss or guess_loss(table)
        at = tuple(scales) or _places(table, known) or (guess_scale(table, known),)
        point = dict.fromkeys((*at, *split, *([named] if named else [])))
        table = keep_best(table, best_of, [name for name in point if name not in best_of], known)
    if split:
        table, named = with_series(table, split)
    places = tuple(scales) or _places(table, loss)
    measured = loss or _guessed_loss(table)
    if measured is not None and places:
        table = without_repeats(table, places, measured, seed, run)
    table = sampled(table, places, named, rows)
    used = (*split, *best_of, *([named] if named else []), *([noise] if noise else []))
    return Prepared(table, tuple(scales), loss, named, not split, used, run_column(table, run), noise)


def _places(table: Table, loss: str | None) -> tuple[str, ...]:
    """What the rows differ in when no scale is named: the scale, or every known one."""
    try:
        return (guess_scale(table, loss or guess_loss(table)),)
    except InputError:
        return tuple(
            name
            for name in named_like(table, (*X_NAMES, *size_names(table), *DATA_NAMES, *COMPUTE_NAMES))
            if varies(table, name)
        )


def _guessed_loss(table: Table) -> str | None:
    try:
        return guess_loss(table)
    except InputError:
        return None


@dataclass(frozen=True)
class Columns:
    """The rows of one group: scales [n, d], losses, their names, and labels of rows and of runs."""

    table: Table
    x: Array
    loss: Array
    names: tuple[str, ...]
    loss_name: str
    replicate: Integers
    run: Integers | None
    noise: Array | None = None

    @property
    def data(self) -> dict[str, Any]:
        """Arguments that `observe`, `analyse_surface` and `analyse_scales` share."""
        return {
            "x": self.x, "loss": self.loss, "x_name": self.names, "loss_name": self.loss_name, "run": self.run,
            "replicate": self.replicate, **({} if self.noise is None else {"noise": self.noise}),
        }  # fmt: skip

    def keep(self, rows: Mask) -> Columns:
        """Some of the rows."""
        return replace(
            self, table=self.table.rows(rows), x=self.x[rows], loss=self.loss[rows], replicate=self.replicate[rows],
            run=None if self.run is None else self.run[rows], noise=None if self.noise is None else self.noise[rows],
        )  # fmt: skip

    def observations(self) -> Observations:
        """The checked table; losses may be negative."""
        return observe(**self.data, signed=True)

    def places(self, scales: Sequence[str], rows: Any) -> Array:
        """Rows [m, d] of the table's own columns ``scales`` as the law's scales: compute becomes tokens here too.

        Raises:
            InputError: there is no row, or not one number a scale.
        """
        found = np.array(points_of(rows, scales))
        if self.names != tuple(scales) and found.shape[1] == len(scales):
            found[:, 1] = tokens_of_compute(scales[1], found[:, 0], found[:, 1])
        return found


def columns_of(
    table: Table, scales: Sequence[str], loss: str | None, run: str | None, noise: str | None = None
) -> Columns:
    """The columns of a table; a column of compute beside model sizes becomes tokens, D = C / 6N."""
    loss = loss or guess_loss(table)
    table = without_blanks(table, (*scales, loss))
    names = list(scales)
    if len(scales) == 2 and sizes_by_data(scales) and scales[1] in named_like(table, COMPUTE_NAMES):
        sizes, tokens, names[1] = sizes_and_tokens(table, scales[0], scales[1])
        x = np.column_stack([sizes, tokens])
    else:
        x = np.column_stack([table.numbers(name) for name in scales])
    values, loss_name = losses(table, loss)
    errors = None if noise is None else standard_errors(table, noise, loss)
    return Columns(table, x, values, tuple(names), loss_name, np.arange(len(values)), run_labels(table, run), errors)


def run_labels(table: Table, run: str | None) -> NDArray[np.intp] | None:
    """[n] which run a row belongs to; None where every row is a run, or all are of one."""
    if run is None or run not in table.names:
        return None
    codes, names = table.labels(run)
    return codes if 1 < len(names) < table.n_rows else None


def groups_of(prepared: Prepared, scales: Sequence[str]) -> Iterator[tuple[str, Columns]]:
    """Every group's columns by its name, "" where nothing is split."""
    for name, part in split_table(prepared.table, prepared.group).items():
        with naming(name):
            columns = columns_of(part, scales, prepared.loss, prepared.run, prepared.noise)
        yield name, columns


def one_scale(prepared: Prepared, seed: str | None = None) -> ScaleColumns:
    """The columns of a law in one scale, named or guessed; notes say what else varies."""
    scale = prepared.scales[0] if prepared.scales else None
    columns = ScaleColumns.of(prepared.table, scale, prepared.loss, seed)
    return replace(columns, run=prepared.run, noise=prepared.noise)


def forecast_data(columns: ScaleColumns) -> dict[str, Any]:
    """The arguments of a forecast in one scale: those of every law, and whether the rows are checkpoints."""
    return {**columns.data, "checkpoints": are_checkpoints(columns.table, columns.scale, columns.run)}


def notes_of(columns: ScaleColumns, prepared: Prepared) -> tuple[str, ...]:
    """Conditions that are pooled and scales that are mixed."""
    used = (columns.seed, columns.loss, prepared.run, *prepared.used)
    return (*pooled_notes(columns.table, used, (columns.scale,)), *columns.mixed_notes())
