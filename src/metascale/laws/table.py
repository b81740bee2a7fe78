"""Read a table and find its columns: CSV with the standard library, Parquet with pyarrow, DataFrames of pandas.

Columns are guessed when only one can be meant. In the results table of a study nothing needs to be named: unfinished
rows and baselines are left out, with a note.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.columns import NOT_IN_A_LAW, TEST_LOSS
from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.suggest import suggest
from metascale.core.units import parse_count
from metascale.laws.observations import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Mask
from metascale.laws.selection import best_of

# In order of preference: the names that scale axes and losses usually have.
X_NAMES = (
    *("n_tasks", "tokens", "n_tokens", "examples", "n_examples", "samples", "data", "D"),
    *("params", "n_params", "n_params_trainable", "N", "compute_flops", "compute", "flops", "C"),
    *("width", "depth", "steps", "x"),
)
LOSS_NAMES = (TEST_LOSS, "loss", "loss_nats", "test_loss", "val_loss", "eval_loss", "validation_loss", "y")
SEED_NAMES = ("seed", "replicate", "rep")
SIZE_NAMES = ("params", "n_params", "n_params_trainable", "N", "model size", "parameters")
DATA_NAMES = ("tokens", "n_tokens", "D", "examples", "n_examples", "training tokens")
COMPUTE_NAMES = ("compute_flops", "compute", "flops", "C", "training flop", "training flops")
STATE_NAMES = ("status", "state")
FINISHED = ("finished", "complete", "completed", "success", "succeeded", "done", "ok")
RUN_NAMES, STEP_NAMES = ("run", "run_id", "run_name"), ("step", "_step", "global_step")
UNIQUE_NAMES = ("unique_tokens", "U", "unique")
VARIES = 2.0  # a second scale that changes by more than this factor among rows of one scale is noted


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
        raise InputError(f"{self.source} has no column '{name}'; {suggest(name, self.names, 'columns')}", value=name)

    def numbers(self, name: str) -> Array:
        """One column as floats, 125M and 1,000 among them; an empty cell is NaN.

        Raises:
            InputError: a cell is not a number; row and text are named.
        """
        out = []
        for row, cell in enumerate(self.column(name), start=1):
            text = cell.strip() if isinstance(cell, str) else cell
            value = float("nan") if text in ("", None) else parse_count(str(text))
            if value is None:
                raise InputError(f"{self.source}, row {row}: '{name}' is '{cell}', not a number")
            out.append(value)
        return np.array(out)

    def rows(self, keep: Mask, note: str = "") -> Table:
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
        parquet = require("pyarrow.parquet", "data", "reading Parquet")
        return Table({str(k): list(v) for k, v in parquet.read_table(path).to_pydict().items()}, path.name)
    return _read_csv(path)


def _read_csv(path: Path) -> Table:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8 ({error.reason}); give a CSV file") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:  # a cell over 131,072 characters, perhaps behind a quote that is not closed
        raise InputError(f"'{path}', line {reader.line_num}, cannot be read as CSV: {error}") from error
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


def usable_rows(table: Table) -> Table:
    """The ends of finished runs; of a study's results table without the baselines and the searches."""
    state = next((name for name in table.names if name.lower() in STATE_NAMES), None)
    if state is not None:
        finished = np.array([str(cell).strip().lower() in FINISHED for cell in table.column(state)])
        if not finished.all():
            table = table.rows(finished, f"{int((~finished).sum())} rows left out: their {state} is not 'finished'")
    if _is_of_a_study(table):
        learner = np.array([str(cell).strip() not in NOT_IN_A_LAW for cell in table.column("kind")])
        if not learner.all():
            table = table.rows(learner, f"{int((~learner).sum())} rows left out: baselines and searches")
    if table.n_rows == 0:
        raise InputError(f"{table.source} has no finished row that is not a baseline")
    return _ends_of_runs(table)


def _ends_of_runs(table: Table) -> Table:
    """The last row of every run, where the table has a run and a step and holds several steps of a run."""
    names = [next((own for own in table.names if own.lower() in known), None) for known in (RUN_NAMES, STEP_NAMES)]
    if None in names or not varies(table, str(names[1])):
        return table
    runs, steps = [str(cell) for cell in table.column(str(names[0]))], table.numbers(str(names[1]))
    last: dict[str, int] = {}
    for row, run in enumerate(runs):
        if run not in last or not steps[row] <= steps[last[run]]:
            last[run] = row
    if len(last) == len(runs):
        return table
    note = (
        f"{len(runs)} rows are checkpoints of {len(last)} runs: the end of each run is kept, since a checkpoint whose "
        "learning rate still decays is not a scaling point"
    )
    return table.rows(np.isin(np.arange(len(runs)), list(last.values())), note)


def without_blanks(table: Table, names: Sequence[str]) -> Table:
    """The rows that have a number in every one of these columns; how many have none is noted."""
    known = np.all([np.isfinite(table.numbers(name)) for name in names], axis=0)
    if known.all() or not known.any():
        return table
    return table.rows(known, f"{int((~known).sum())} rows left out: no number in {' or '.join(names)}")


def losses(table: Table, name: str) -> tuple[Array, str]:
    """A column of losses, and its name; a perplexity is exp(loss), so that its logarithm is read."""
    values, words = table.numbers(name), name.lower().replace("/", "_").split("_")
    if "perplexity" not in words and "ppl" not in words:
        return values, name
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values), f"ln {name}"


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
            f"{table.source} has no loss; for shares between 0 and 1 as in '{accuracy[0]}' use `y`={accuracy[0]}"
        )
    return _only(found, table, "loss", "y")


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
        return named[0]  # constant or not numbers: the error of whatever reads it says more than "no column"
    return _only(found, table, "scale", "x")


def guess_one(table: Table, candidates: Sequence[str], what: str, argument: str) -> str:
    """The one column whose name, whatever its case, is among the candidates; ``argument`` is where it can be named.

    Raises:
        InputError: none or several could be meant.
    """
    wanted = {name.lower() for name in candidates}
    return _only([name for name in table.names if name.lower() in wanted], table, what, argument)


def varies(table: Table, name: str) -> bool:
    """Whether a column is numeric and has more than one value."""
    try:
        values = table.numbers(name)
    except InputError:
        return False
    known = values[np.isfinite(values)]
    return len(known) > 0 and float(np.ptp(known)) > 0


def _only(found: list[str], table: Table, what: str, argument: str) -> str:
    if len(found) == 1:
        return found[0]
    columns = f"could be {' or '.join(found)}" if found else f"is in none of the columns {', '.join(table.names)}"
    raise InputError(f"{table.source}: the {what} {columns}; name it with `{argument}`", field=argument)


@dataclass(frozen=True)
class ScaleColumns:
    """A table and the columns of it that a law in one scale reads; ``seed`` is None when no column tells repeats."""

    table: Table
    scale: str
    loss: str
    seed: str | None

    @classmethod
    def of(cls, table: Table, x: str | None = None, y: str | None = None, replicate: str | None = None) -> ScaleColumns:
        """The named columns, or the guessed ones where only one can be meant."""
        loss = y or guess_loss(table)
        seed = replicate or next((name for name in SEED_NAMES if name in table.names), None)
        scale = x or guess_scale(table, loss)
        return cls(without_blanks(table, (scale, loss)), scale, loss, seed)

    @property
    def data(self) -> dict[str, Any]:
        """Arguments that `analyse`, `forecast`, `backtest` and `grouped` share."""
        loss, name = losses(self.table, self.loss)
        return {
            "x": self.table.numbers(self.scale),
            "loss": loss,
            "replicate": None if self.seed is None else self.table.column(self.seed),
            "x_name": self.scale,
            "loss_name": name,
        }

    def split(self, group: str | None) -> dict[str, ScaleColumns]:
        """The rows of every group by its name, in order of appearance; everything under "" without groups."""
        return {name: replace(self, table=part) for name, part in split_table(self.table, group).items()}

    def mixed_notes(self) -> tuple[str, ...]:
        """Other known scales that vary among the rows of one scale: a law in this one mixes them."""
        if _is_of_a_study(self.table):
            return ()
        known = {name.lower() for name in (*SIZE_NAMES, *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES)}
        x, notes = self.table.numbers(self.scale), []
        for name in self.table.names:
            if name == self.scale or name.lower() not in known or not varies(self.table, name):
                continue
            rows = [self.table.numbers(name)[x == level] for level in np.unique(x)]
            spread = max(np.nanmax(values) / max(np.nanmin(values), 1e-300) for values in rows)
            if spread > VARIES:
                notes.append(
                    f"'{name}' varies {spread:.3g}-fold among rows of the same '{self.scale}': a law in "
                    f"'{self.scale}' alone mixes them (fit a law in size and data instead)"
                )
        return tuple(notes)


def split_table(table: Table, group: str | None) -> dict[str, Table]:
    """The rows of every group by its name, in order of appearance; everything under "" without groups."""
    if group is None:
        return {"": table}
    labels = np.array([str(cell) for cell in table.column(group)])
    return {name: table.rows(labels == name) for name in dict.fromkeys(labels.tolist())}


def group_column(table: Table, group: str | None) -> str | None:
    """The column of groups: the one named, or "method" where it has several values, since methods are never pooled."""
    if group is None and "method" in table.names and len({str(cell) for cell in table.column("method")}) > 1:
        return "method"
    return group


def pooled_notes(table: Table, used: Collection[str | None], scales: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns that are not used and yet vary among rows of one scale: conditions that are pooled.

    Words count as a condition, and numbers where few values return again and again, as those of a sweep do; known
    scales are left to `ScaleColumns.mixed_notes`. In a study's table only its design can be one.
    """
    names = [name for name in table.names if name not in used and name not in scales]
    if _is_of_a_study(table):
        names = [name for name in names if name in design_columns(table)]
    mixed = [name for name in names if _is_condition(table, name) and _varies_inside(table, name, scales)]
    if not mixed:
        return ()
    told = ", ".join(f"'{name}' ({len(set(map(str, table.column(name))))} values)" for name in mixed)
    return (
        f"rows that differ in {told} are pooled, as if they were repeats; keep one value, or make the column a series "
        "(a law for each value) or best-of (the best value at each scale)",
    )


def design_columns(table: Table) -> tuple[str, ...]:
    """What the trials of a study vary: the columns of its results table between the label and the seed."""
    names = list(table.names)
    start = names.index("label") + 1 if "label" in names else 0
    end = names.index("seed") if "seed" in names else 0
    return tuple(names[start:end])


def keep_best(table: Table, columns: Sequence[str], point: Sequence[str], loss: str) -> Table:
    """At every point the rows of the best value of ``columns`` alone, with notes that say how it was chosen.

    Raises:
        InputError: a column is missing, or a row has no number to choose by.
    """
    for name in (*columns, *point, loss):
        table.column(name)
    rows = [{name: table.columns[name][k] for name in table.names} for k in range(table.n_rows)]
    found = best_of(rows, columns, point, loss)
    kept = table.rows(np.array([k in found.kept for k in range(table.n_rows)]))
    return replace(kept, notes=(*table.notes, *found.notes))


def with_series(table: Table, columns: Sequence[str]) -> tuple[Table, str]:
    """The table with a column that names the series of each row, ``width=8, data=web``, and that column's name."""
    cells = [table.column(name) for name in columns]
    labels = [
        ", ".join(f"{name}={cell}" for name, cell in zip(columns, row, strict=True)) for row in zip(*cells, strict=True)
    ]
    name = f"series: {', '.join(columns)}"
    return replace(table, columns={**table.columns, name: labels}), name


def _is_of_a_study(table: Table) -> bool:
    """Whether the table is the results of a study, in which what varies is its design."""
    return {"status", "kind"} <= set(table.names)


def _is_condition(table: Table, name: str) -> bool:
    """Whether a few values return in a column: not one label or measurement a row, and no scale."""
    known = {each.lower() for each in (*SIZE_NAMES, *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES)}
    cells = [str(cell).strip() for cell in table.column(name)]
    return 1 < len(set(cells)) <= len(cells) / 3 and name.lower() not in known


def _varies_inside(table: Table, name: str, scales: Sequence[str]) -> bool:
    """Whether rows of one scale differ in a column."""
    places = list(zip(*(map(str, table.column(scale)) for scale in scales), strict=True)) or [()] * table.n_rows
    seen = dict(zip(places, map(str, table.column(name)), strict=True))
    return any(seen[place] != str(cell) for place, cell in zip(places, table.column(name), strict=True))


def sizes_and_tokens(table: Table, size: str, data: str | None) -> tuple[Array, Array, str]:
    """Model sizes, tokens and the name of these; without a column of tokens they are compute / (6 N).

    Args:
        data: the column of tokens or of training compute; None where it is to be guessed.
    """
    sizes = table.numbers(size)
    wanted, compute = ({name.lower() for name in names} for names in (DATA_NAMES, COMPUTE_NAMES))
    if data is None and not any(name.lower() in wanted for name in table.names):
        data = guess_one(table, COMPUTE_NAMES, "training compute", "d")
    name = data or guess_one(table, DATA_NAMES, "number of tokens", "d")
    if name.lower() in compute:
        return sizes, table.numbers(name) / (FLOPS_PER_PARAMETER_AND_TOKEN * sizes), f"{name} / 6N"
    return sizes, table.numbers(name), name
