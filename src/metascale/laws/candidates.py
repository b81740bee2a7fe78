"""What a plan of next runs begins from: candidates and targets as tables of scales, their costs, and the known runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.laws.expression import as_name, names_in, parse
from metascale.laws.observations import Array, Mask
from metascale.laws.runs import usable_rows
from metascale.laws.table import (
    SEED_NAMES,
    Table,
    group_column,
    guess_loss,
    losses,
    pooled_notes,
    read_table,
    without_blanks,
)

MOST_CANDIDATES = 100_000
SAME = 1e-9  # relative difference of scales that are the same run


def costs(candidates: Table, cost: str | ArrayLike) -> Array:
    """[n] the cost of every candidate: a column, a formula in columns, or numbers.

    Raises:
        InputError: an unknown column, not a formula, or a cost that is not a positive finite number.
    """
    if not isinstance(cost, str):
        found = np.asarray(cost, float).reshape(-1)
        if len(found) != candidates.n_rows:
            raise InputError(f"there are {len(found)} costs and {candidates.n_rows} candidates", field="cost")
    elif cost in candidates.names:
        found = candidates.numbers(cost)
    else:
        found = _by_formula(candidates, cost)
    bad = np.flatnonzero(~(np.isfinite(found) & (found > 0)))
    if len(bad):
        raise InputError(
            f"the cost of candidate {bad[0] + 1} is {found[bad[0]]:g}; every cost must be a positive number",
            field="cost", value=cost,
        )  # fmt: skip
    return found


def _by_formula(candidates: Table, cost: str) -> Array:
    written = {as_name(name): name for name in candidates.names}
    named = sorted(names_in(cost))
    unknown = [name for name in named if name not in written]
    if unknown:
        raise InputError(
            f"the cost '{cost}' names '{unknown[0]}', which is no column of the candidates; "
            f"{suggest(unknown[0], written, 'columns')}",
            field="cost", value=cost, allowed=", ".join(written),
        )  # fmt: skip
    one = "one"
    while one in written:
        one += "_"
    columns = [written[name] for name in named]
    try:
        formula = parse(f"{one}*({cost})", columns)
    except InputError as error:
        told = str(error).replace(f"the law '{one}*({cost})'", f"the cost '{cost}'")
        raise InputError(told, field="cost", value=cost, allowed=error.allowed) from error
    x = np.column_stack([candidates.numbers(name) for name in columns]) if columns else np.ones((candidates.n_rows, 0))
    with np.errstate(all="ignore"):
        return np.asarray(formula.bind(x).value(np.ones((1, 1)))[0])


def grid(ranges: Mapping[str, ArrayLike]) -> Table:
    """Every combination of values of the scales, as a table of candidates."""
    values = [np.atleast_1d(np.asarray(part, float)) for part in ranges.values()]
    if np.prod([float(len(part)) for part in values]) > MOST_CANDIDATES:
        raise InputError(f"the ranges make more than {MOST_CANDIDATES} candidates", field="candidates")
    mesh = np.meshgrid(*values, indexing="ij")
    columns = {name: part.reshape(-1).tolist() for name, part in zip(ranges, mesh, strict=True)}
    return Table(columns, "the candidates")


def as_table(given: Any, what: str) -> Table:
    """A table of scales from whatever was given; a row or a list of rows by name for targets."""
    if isinstance(given, Mapping) and all(np.ndim(value) == 0 for value in given.values()):
        given = [given]
    if isinstance(given, Sequence) and not isinstance(given, str):
        if not given or not all(isinstance(row, Mapping) and set(row) == set(given[0]) for row in given):
            raise InputError(f"`{what}` must be rows that name the same scales, such as {{'N': 7e10}}", field=what)
        given = {name: [row[name] for row in given] for name in given[0]}
    found = read_table(given)
    if not found.names or found.n_rows == 0:
        raise InputError(f"`{what}` has no rows", field=what)
    return Table(found.columns, f"`{what}`")


def scales_of(table: Table, names: Sequence[str], what: str) -> Array:
    missing = next((name for name in names if name not in table.names), None)
    if missing is not None:
        raise InputError(f"`{what}` has no column '{missing}'; {suggest(missing, table.names, 'columns')}", field=what,
                         value=missing, allowed=", ".join(table.names))  # fmt: skip
    found = np.column_stack([table.numbers(name) for name in names])
    bad = np.argwhere(~(np.isfinite(found) & (found > 0)))
    if len(bad):
        row, k = bad[0]
        raise InputError(f"`{what}`, row {row + 1}: '{names[k]}' is {found[row, k]:g}; scales must be positive numbers",
                         field=what)  # fmt: skip
    return found


def runs_of(table: Any, names: Sequence[str], y: str | None) -> tuple[Array, Array, str, tuple[str, ...]]:
    """Scales [n, d], losses [n], the loss's name and notes on conditions; none of a table that is None or has no rows.

    Raises:
        InputError: runs of several methods, which are never pooled: their losses follow different laws.
    """
    found = None if table is None else usable_rows(read_table(table))
    if found is None or not found.names or found.n_rows == 0:
        return np.zeros((0, len(names))), np.zeros(0), y or "loss", ()
    if group_column(found, None) is not None:
        methods = ", ".join(found.labels("method")[1])
        raise InputError(
            f"the table holds runs of several methods ({methods}); a plan is for one of them: give the rows of one",
            field="table",
        )
    loss = y or guess_loss(found)
    found = without_blanks(found, (*names, loss))
    values, loss_name = losses(found, loss)
    if not np.isfinite(values).all():
        raise InputError(f"'{loss}' of row {int(np.argmin(np.isfinite(values))) + 1} is not finite", field="y")
    notes = pooled_notes(found, (loss, *SEED_NAMES), names, remedy="give the rows of one value")
    return scales_of(found, names, "table"), values, loss_name, notes


def among(rows: Array, known: Array) -> Mask:
    """[n] whether a row of scales is one of the known ones."""
    places = {tuple(row) for row in np.round(np.log(known) / SAME).tolist()}
    return np.array([tuple(row) in places for row in np.round(np.log(rows) / SAME).tolist()])


def mean_at(x: Array, loss: Array, row: Array) -> float:
    same = np.all(np.abs(np.log(x / row)) <= SAME, axis=1)
    return float(loss[same].mean()) if same.any() else float("nan")
