"""Read a table and find its columns: CSV with the standard library, Parquet with pyarrow, DataFrames of pandas.

Columns are guessed when only one can be meant. A results table of one of our studies needs no options: unfinished rows
and baselines are left out, and said.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.errors import InputError, MissingDependency
from metascale.laws.observations import Array

# In order of preference: the names that scale axes and losses usually have.
X_NAMES = (
    *("n_tasks", "tokens", "n_tokens", "examples", "n_examples", "samples", "data", "D"),
    *("params", "n_params", "n_params_trainable", "N", "compute_flops", "compute", "flops", "C"),
    *("width", "depth", "steps", "x"),
)
LOSS_NAMES = ("test_loss_nats", "loss", "loss_nats", "test_loss", "val_loss", "eval_loss", "validation_loss", "y")
SEED_NAMES = ("seed", "replicate", "rep")
SIZE_NAMES = ("params", "n_params", "n_params_trainable", "N", "model size", "parameters")
DATA_NAMES = ("tokens", "n_tokens", "D", "examples", "n_examples", "training tokens")
COMPUTE_NAMES = ("compute_flops", "compute", "flops", "C", "training flop", "training flops")
UNIQUE_NAMES = ("unique_tokens", "U", "unique")


@dataclass(frozen=True)
class Table:
    """Columns of text or numbers, as they were read; ``notes`` say which rows were left out."""

    columns: Mapping[str, Sequence[Any]]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str) -> Sequence[Any]:
        """One column by its exact name.

        Raises:
            InputError: there is none; the nearest name is suggested.
        """
        if name in self.columns:
            return self.columns[name]
        same = [other for other in self.names if other.lower() == name.lower()]
        near = same or difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"{self.source} has no column '{name}'{hint} (columns: {', '.join(self.names)})")

    def numbers(self, name: str) -> Array:
        """One column as floats; an empty cell is NaN.

        Raises:
            InputError: a cell is not a number; row and text are named.
        """
        out = []
        for row, cell in enumerate(self.column(name), start=1):
            text = cell.strip() if isinstance(cell, str) else cell
            try:
                out.append(float("nan") if text in ("", None) else float(text))
            except (TypeError, ValueError) as error:
                raise InputError(f"{self.source}, row {row}: '{name}' is '{cell}', not a number") from error
        return np.array(out)

    def rows(self, keep: Array, note: str = "") -> Table:
        """Only some rows."""
        index = np.flatnonzero(keep).tolist()
        columns = {name: [values[i] for i in index] for name, values in self.columns.items()}
        return Table(columns, self.source, (*self.notes, note) if note else self.notes)


def read_table(source: Any) -> Table:
    """A table from a CSV or Parquet path, a mapping of columns, or a pandas DataFrame.

    Raises:
        InputError: the file is missing, empty, or not a table.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, Mapping):
        return Table({str(name): list(values) for name, values in source.items()}, "the table")
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        return Table({str(name): list(values) for name, values in source.to_dict("list").items()}, "the DataFrame")
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; give a CSV or Parquet table with one row a run")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            import pyarrow.parquet as parquet
        except ModuleNotFoundError as error:
            raise MissingDependency("reading Parquet needs pyarrow: pip install 'metascale[data]'") from error
        return Table({str(k): list(v) for k, v in parquet.read_table(path).to_pydict().items()}, path.name)
    return _read_csv(path)


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8 ({error.reason}); give a CSV file") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in line)]
    if len(lines) < 2:
        raise InputError(f"'{path}' has no rows; give a header line and one row a run")
    header = [cell.strip() for cell in lines[0]]
    if len(set(header)) != len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"'{path}' has two columns named '{twice}'; names must differ")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(f"'{path}', row {number} has {len(line)} cells and the header {len(header)}")
    return Table({name: [line[k] for line in lines[1:]] for k, name in enumerate(header)}, path.name)


NOT_IN_A_LAW = ("baseline", "control", "tuning", "superseded")
"""Kinds of a study's trials that no law is fitted to."""


def usable_rows(table: Table) -> Table:
    """Without the unfinished rows, the baselines and the searches of a study's results table."""
    if "status" in table.names:
        finished = np.array([str(cell).strip() == "finished" for cell in table.column("status")])
        if not finished.all():
            table = table.rows(finished, f"{int((~finished).sum())} rows left out: their status is not 'finished'")
    if "kind" in table.names:
        learner = np.array([str(cell).strip() not in NOT_IN_A_LAW for cell in table.column("kind")])
        if not learner.all():
            table = table.rows(learner, f"{int((~learner).sum())} rows left out: baselines and searches")
    if table.n_rows == 0:
        raise InputError(f"{table.source} has no finished row that is not a baseline")
    return table


def guess_loss(table: Table) -> str:
    """The column that holds the loss.

    Raises:
        InputError: none or several could be meant.
    """
    for name in LOSS_NAMES:
        if name in table.names:
            return name
    found = [name for name in table.names if "loss" in name.lower() and "std" not in name.lower()]
    accuracy = [name for name in table.names if "acc" in name.lower()]
    if not found and accuracy:
        raise InputError(
            f"{table.source} has no loss; for shares between 0 and 1 as in '{accuracy[0]}' use "
            f"--y {accuracy[0]} --law logistic"
        )
    return _only(found, table, "loss", "--y")


def guess_scale(table: Table, loss: str) -> str:
    """The column that holds the scale: the known name that varies, in whatever case it is written.

    Raises:
        InputError: none or several could be meant.
    """
    known = dict.fromkeys(
        name.lower() for name in (*X_NAMES[:-1], *SIZE_NAMES, *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES, X_NAMES[-1])
    )
    named = [name for wanted in known for name in table.names if name.lower() == wanted and name != loss]
    found = [name for name in named if varies(table, name)]
    if "n_tasks" in found:
        return "n_tasks"
    if not found and len(named) == 1:
        return named[0]  # constant or not numbers: what reads it says so better than "no column"
    return _only(found, table, "scale", "--x")


def guess_seed(table: Table) -> str | None:
    """The column that tells runs at one scale apart, if there is one."""
    return next((name for name in SEED_NAMES if name in table.names), None)


def guess_one(table: Table, candidates: Sequence[str], what: str, option: str) -> str:
    """The one column whose name, whatever its case, is among the candidates."""
    wanted = {name.lower() for name in candidates}
    return _only([name for name in table.names if name.lower() in wanted], table, what, option)


def varies(table: Table, name: str) -> bool:
    """Whether a column is numeric and has more than one value."""
    try:
        values = table.numbers(name)
    except InputError:
        return False
    known = values[np.isfinite(values)]
    return len(known) > 0 and float(np.ptp(known)) > 0


def _only(found: list[str], table: Table, what: str, option: str) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{table.source}: no column is surely the {what}; name it with {option} (columns: {', '.join(table.names)})"
        )
    raise InputError(f"{table.source}: the {what} could be {' or '.join(found)}; name it with {option}")
