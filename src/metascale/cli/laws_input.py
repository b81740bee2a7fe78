"""How the law commands read a table: which columns are meant, and what a reader must know about the rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metascale.laws.table import Table

VARIES = 2.0  # a second scale that changes by this factor among rows of one scale is worth a note


@dataclass(frozen=True)
class Columns:
    """A table and the columns of it that a law in one scale reads; ``seed`` is None when no column tells repeats."""

    table: Table
    scale: str
    loss: str
    seed: str | None
    notes: tuple[str, ...]

    def of(self, table: Table) -> Columns:
        """The same columns of some rows."""
        return Columns(table, self.scale, self.loss, self.seed, self.notes)

    @property
    def data(self) -> dict[str, Any]:
        """Arguments that `forecast`, `backtest` and `grouped` share."""
        labels = None if self.seed is None else self.table.column(self.seed)
        return {
            "x": self.table.numbers(self.scale),
            "loss": self.table.numbers(self.loss),
            "replicate": labels,
            "x_name": self.scale,
            "loss_name": self.loss,
        }


def read(path: Path) -> Table:
    """The usable rows of a table file."""
    from metascale.laws.table import read_table, usable_rows

    return usable_rows(read_table(path))


def choose_columns(table: Table, x: str | None, y: str | None, replicate: str | None) -> Columns:
    """Named columns, or the guessed ones where only one can be meant."""
    from metascale.laws.table import guess_loss, guess_scale, guess_seed

    loss = y or guess_loss(table)
    scale = x or guess_scale(table, loss)
    return Columns(table, scale, loss, replicate or guess_seed(table), table.notes)


def group_column(table: Table, group: str | None) -> str | None:
    """The column of groups: the one named, or "method" where it has several values, since methods are never pooled."""
    if group is None and "method" in table.names and len({str(cell) for cell in table.column("method")}) > 1:
        return "method"
    return group


def split(columns: Columns, group: str | None) -> dict[str, Columns]:
    """The rows of every group by its name, in order of appearance; everything under "" without groups."""
    import numpy as np

    if group is None:
        return {"": columns}
    labels = np.array([str(cell) for cell in columns.table.column(group)])
    return {name: columns.of(columns.table.rows(labels == name)) for name in dict.fromkeys(labels.tolist())}


def pooled_notes(table: Table, used: set[str | None]) -> tuple[str, ...]:
    """Columns that are not used and yet vary: conditions that are pooled, and other scales that are mixed.

    Results of a study are left alone: what varies in them is its design.
    """
    if {"status", "kind"} & set(table.names):
        return ()
    mixed = [name for name in table.names if name not in used and _is_condition(table, name)]
    notes = []
    if mixed:
        names = ", ".join(f"'{name}' ({len(set(table.column(name)))} values)" for name in mixed)
        notes.append(f"rows that differ in {names} are pooled; keep one condition, or name a column with --group")
    return tuple(notes)


def mixed_scale_notes(columns: Columns) -> tuple[str, ...]:
    """Other known scales that vary among the rows of one scale: a law in one of them mixes the others."""
    import numpy as np

    from metascale.laws.table import COMPUTE_NAMES, DATA_NAMES, SIZE_NAMES, UNIQUE_NAMES, varies

    table = columns.table
    if {"status", "kind"} & set(table.names):
        return ()
    known = {name.lower() for name in (*SIZE_NAMES, *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES)}
    x, notes = table.numbers(columns.scale), []
    for name in table.names:
        if name == columns.scale or name.lower() not in known or not varies(table, name):
            continue
        values = table.numbers(name)
        spread = max(
            np.nanmax(values[x == level]) / max(np.nanmin(values[x == level]), 1e-300) for level in np.unique(x)
        )
        if spread > VARIES:
            notes.append(
                f"'{name}' varies {spread:.3g}-fold among rows of the same '{columns.scale}': a law in "
                f"'{columns.scale}' alone mixes them (a law in two scales: --x SIZE --x2 DATA)"
            )
    return tuple(notes)


def _is_condition(table: Table, name: str) -> bool:
    """Whether a column holds a few words: not numbers, not one label a row."""
    cells = [str(cell).strip() for cell in table.column(name)]
    n_values = len(set(cells))
    return 1 < n_values <= len(cells) / 3 and not all(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def size_name(table: Table) -> str:
    """The column of model sizes."""
    from metascale.laws.table import SIZE_NAMES, guess_one

    return guess_one(table, SIZE_NAMES, "model size", "--x (fit) or --n (optimum)")


def sizes_and_tokens(table: Table, size: str, data: str | None) -> tuple[Any, Any, str]:
    """Model sizes and tokens; without a column of tokens, or with one of compute, they are compute / (6 N)."""
    from metascale.laws.allocation import FLOPS_PER_PARAMETER_AND_TOKEN
    from metascale.laws.table import COMPUTE_NAMES, DATA_NAMES, guess_one

    sizes = table.numbers(size)
    wanted, compute = ({name.lower() for name in names} for names in (DATA_NAMES, COMPUTE_NAMES))
    if data is None and not any(name.lower() in wanted for name in table.names):
        data = guess_one(table, COMPUTE_NAMES, "training compute", "--d")
    name = data or guess_one(table, DATA_NAMES, "number of tokens", "--d")
    if name.lower() in compute:
        return sizes, table.numbers(name) / (FLOPS_PER_PARAMETER_AND_TOKEN * sizes), f"{name} / 6N"
    return sizes, table.numbers(name), name
