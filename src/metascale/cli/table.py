"""How a table argument and its column options become the rows that a law command reads: a file, or a study's folder.

Everything heavier than the standard library is imported where it is used: a refused command line needs no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metascale.core.columns import RESULTS_CSV, STUDY_JSON
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.table import Table
    from metascale.study.roles import Roles


@dataclass(frozen=True)
class Opened:
    """A table that is ready to be fitted.

    Args:
        scales: those named, or the study's; empty: to be guessed.
        loss: the same for the loss.
        group: the column by whose values the rows are split, if any.
        compared: whether the groups' exponents are compared, as --group asks.
        used: columns that have a role, so that their variation is no accident.
    """

    table: Table
    scales: tuple[str, ...]
    loss: str | None
    group: str | None
    compared: bool
    used: tuple[str, ...]

    def one_scale(self, command: str) -> str | None:
        """The scale of a command that takes one.

        Raises:
            InputError: the study has several.
        """
        if len(self.scales) > 1:
            raise InputError(
                f"{command} is for one scale and the study has {' and '.join(self.scales)}; name one with `x`, and "
                "there is a law for each value of the others",
                field="x",
            )
        return self.scales[0] if self.scales else None


def open_table(
    path: Path,
    scales: Sequence[str | None] = (),
    y: str | None = None,
    group: str | None = None,
    series: Sequence[str] | None = None,
    best_of: Sequence[str] | None = None,
) -> Opened:
    """The usable rows of a table, split and thinned out as asked; of a study as its own roles say.

    Raises:
        InputError: no such table or column, or --group beside --series.
    """
    from metascale.laws.runs import usable_rows
    from metascale.laws.table import ScaleColumns, group_column, keep_best, with_series

    if group is not None and series:
        raise InputError("`group` and `series` cannot go together: `group` is a series whose exponents are compared")
    table, roles = _read(path)
    table = usable_rows(table)
    chosen, split = tuple(name for name in scales if name), tuple(series or ())
    if roles is not None:
        others = tuple(name for name in roles.scales if chosen and name not in chosen)
        own = tuple(name for name in (*roles.series, *others) if name not in chosen and _varies(table, name))
        chosen, y = chosen or roles.scales, y or roles.loss or None
        split = split or (() if group else own)
    named = group_column(table, group)
    if split and group is None and named is not None:
        split = tuple(dict.fromkeys((named, *split)))
    if best_of:
        guessed = ScaleColumns.of(table, chosen[0] if chosen else None, y)
        point = dict.fromkeys((*(chosen or (guessed.scale,)), *split, *([named] if named else [])))
        table = keep_best(table, best_of, [name for name in point if name not in best_of], guessed.loss)
    if split:
        table, named = with_series(table, split)
    used = (*split, *(best_of or ()), *([named] if named else []))
    return Opened(table, chosen, y, named, not split, used)


def _read(path: Path) -> tuple[Table, Roles | None]:
    """The table, and the roles of its axes where it is a study's."""
    from metascale.laws.table import Table, read_table

    folder = study_of(path)
    if folder is None:
        return read_table(path), None
    from metascale.study.roles import assign
    from metascale.study.store.folder import read_study
    from metascale.study.store.manifest import check_table
    from metascale.study.store.table import results_table

    if path.is_file():
        check_table(path)
    view = read_study(folder)
    found = results_table(view)
    columns = {name: found.column(name) for name in found.columns}
    return Table(columns, str(folder), found.notes), view.study.roles or assign(view.study.axes, loss="")


def study_of(path: Path) -> Path | None:
    """The folder of the study that a table argument names: itself, or the table beside its runs."""
    if path.is_dir():
        return path
    return path.parent if path.name == RESULTS_CSV and (path.parent / STUDY_JSON).is_file() else None


def _varies(table: Table, name: str) -> bool:
    return name in table.names and len(set(map(str, table.column(name)))) > 1
