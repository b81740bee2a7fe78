"""How a table argument and its column options become the rows that a law command reads: a file, or a study's folder.

Everything heavier than the standard library is imported where it is used: a refused command line needs no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metascale.cli.words import stage
from metascale.core.columns import RESULTS_CSV, STUDY_JSON
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.prepared import Prepared
    from metascale.laws.several import Part
    from metascale.laws.table import Table
    from metascale.study.roles import Roles


@dataclass(frozen=True)
class Chosen:
    """Which rows of a table count, and what for: what `prepare` calls run, seed, checkpoints, rows and noise."""

    run: str | None = None
    seed: str | None = None
    checkpoints: bool = False
    rows: int | None = None
    noise: str | None = None


@dataclass(frozen=True)
class Opening:
    """A table argument and what chooses its rows, to be opened for one metric after another."""

    path: Path
    scales: Sequence[str]
    group: str | None
    series: Sequence[str] | None
    best_of: Sequence[str] | None
    chosen: Chosen

    @cached_property
    def table(self) -> Table:
        """The file, read once; of a study its results."""
        _require_table(self.path)
        with stage(f"reading {self.path.name}"):
            return _read(self.path)[0]

    def open(self, y: str | None) -> Prepared:
        known = self.__dict__.get("table") if study_of(self.path) is None else None
        return open_table(self.path, self.scales, y, self.group, self.series, self.best_of, self.chosen, known)


def part_of(opening: Opening, part: Part) -> Opening:
    """The opening for one metric among several: errors of evaluation are those of a loss."""
    if part.takes_loss_options:
        return opening
    return replace(opening, chosen=replace(opening.chosen, noise=None))


def open_table(
    path: Path,
    scales: Sequence[str | None] = (),
    y: str | None = None,
    group: str | None = None,
    series: Sequence[str] | None = None,
    best_of: Sequence[str] | None = None,
    chosen: Chosen | None = None,
    known: Table | None = None,
) -> Prepared:
    """The usable rows of a table, split and thinned out as asked; of a study as its own roles say.

    Args:
        known: the table where it was read before.

    Raises:
        InputError: no such table or column, or --group beside --series.
    """
    from metascale.laws.prepared import prepare
    from metascale.laws.runs import usable_rows

    _require_table(path)
    if group is not None and series:
        raise InputError("`group` and `series` cannot go together: `group` is a series whose exponents are compared")
    with stage(f"reading {path.name}"):
        table, roles = _read(path, y) if known is None else (known, None)
        named, split = tuple(name for name in scales if name), tuple(series or ())
        if roles is not None:
            kept = usable_rows(table)
            others = tuple(name for name in roles.scales if named and name not in named)
            own = tuple(name for name in (*roles.series, *others) if name not in named and _varies(kept, name))
            named, y = named or roles.scales, y or roles.loss or None
            split = split or (() if group else own)
        how = chosen or Chosen()
        return prepare(
            table, named, y, group=group, series=split, best_of=best_of or (), run=how.run, seed=how.seed,
            checkpoints=how.checkpoints, rows=how.rows,
            noise=how.noise,
        )  # fmt: skip


def _require_table(path: Path) -> None:
    """Refuse the address of another program's runs, which `metascale import` turns into a table."""
    from metascale.laws.sources import SOURCES

    prefix, colon, _ = str(path).partition(":")
    if colon and prefix in SOURCES and not path.is_file():
        raise InputError(
            f"'{path}' is no file: runs of {prefix} are imported first; metascale import {prefix}:... --out runs.csv "
            "writes a table, and that is given here", field="table", value=str(path),
        )  # fmt: skip


def _read(path: Path, loss: str | None = None) -> tuple[Table, Roles | None]:
    """The table, and the roles of its axes where it is a study's: there, a loss that is no number is none."""
    from metascale.laws.numbers import as_column
    from metascale.laws.table import Table, read_table

    folder = study_of(path)
    if folder is None:
        return read_table(path), None
    from metascale.core.units import finite
    from metascale.study.roles import assign, loss_of
    from metascale.study.store.folder import read_study
    from metascale.study.store.manifest import check_table
    from metascale.study.store.table import results_table

    if path.is_file():
        check_table(path)
    view = read_study(folder)
    found, roles = results_table(view), view.study.roles or assign(view.study.axes, loss="")
    cells = {name: found.column(name) for name in found.columns}
    loss = loss or roles.loss or loss_of(found.columns, found.rows)
    if any(finite(cell) is not None for cell in cells.get(loss, ())):
        cells[loss] = [None if finite(cell) is None else cell for cell in cells[loss]]
    return Table({name: as_column(column) for name, column in cells.items()}, str(folder), found.notes), roles


def study_of(path: Path) -> Path | None:
    """The folder of the study that a table argument names: itself, or the table beside its runs."""
    if path.is_dir():
        return path
    return path.parent if path.name == RESULTS_CSV and (path.parent / STUDY_JSON).is_file() else None


def _varies(table: Table, name: str) -> bool:
    return name in table.names and table.n_distinct(name) > 1
