"""The table of a study: one row a trial, from the run folders; equal results give equal bytes but for `WALL_S`."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.core.canonical import canonical_json, plain
from metascale.core.cells import safe_text
from metascale.core.columns import (
    ALL_RESULTS_JSON,
    COMPARED_KINDS,
    MAIN_KINDS,
    NOT_BEST,
    RESULTS_CSV,
    SUPERSEDED,
    TUNING,
    WALL_S,
)
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_atomic, write_json
from metascale.core.optional import require
from metascale.laws.selection import best_of
from metascale.study.definition import of_earlier_version
from metascale.study.design import Trial, flatten
from metascale.study.roles import Roles, loss_of
from metascale.study.store.claims import locked
from metascale.study.store.folder import RunView, StudyView, read_study
from metascale.study.store.once import reading_once
from metascale.study.store.records import format_cell
from metascale.study.store.seals import SEAL, is_unsealed, read_sealed

if TYPE_CHECKING:
    import pandas

FINALS = "finals.json"
"""Ids of the trials of the axes with the values that the searches had found when they last ended."""
FIRST_COLUMNS, LAST_COLUMNS = ("id", "label"), ("seed", "kind", "status", "message", WALL_S)


@dataclass(frozen=True, slots=True)
class ResultsTable:
    """Rows with the same columns; a value that a trial does not have is ``None``.

    Columns: id, label, the keys that trials vary (axes first), seed, kind, status, message (why a trial failed or
    diverged), wall_s (seconds over all its attempts), then every scalar of the results, nested ones by dotted key. The
    kind is ``"superseded"`` where a later search found other values for the same point, and ``"not_best"`` where
    another value of a best-of axis was better. A result named like an earlier column is called ``result.<name>``. A
    varied key that a trial takes from the study's base has the base's value; in the rows of baselines and controls,
    which much of the base does not concern, it is empty.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    """How the best values were chosen."""

    def finished(self, kind: str | None = None) -> ResultsTable:
        """The rows that a fit may use: finished trials, of one kind where given. Diverged ones are never among them."""
        kept = tuple(row for row in self.rows if row["status"] == "finished" and (kind is None or row["kind"] == kind))
        return ResultsTable(self.columns, kept, self.notes)

    def column(self, name: str) -> list[Any]:
        """One column's values, in row order."""
        return [row[name] for row in self.rows]

    def to_csv(self) -> str:
        """CSV text; floats are written so that they read back bit for bit, texts so that no spreadsheet runs them."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([safe_text(name) for name in self.columns])
        for row in self.rows:
            # Texts as they are: unlike a record, this file is for other programs to read, spreadsheets among them.
            values = [row[name] for name in self.columns]
            writer.writerow([safe_text(value) if isinstance(value, str) else format_cell(value) for value in values])
        return stream.getvalue()

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas data frame.

        Raises:
            MissingDependency: pandas is not installed.
        """
        frame = require("pandas", "data", "a data frame of a study's results")
        return frame.DataFrame([dict(row) for row in self.rows], columns=list(self.columns))

    def write_parquet(self, path: Path) -> None:
        """Write the table as Parquet.

        Raises:
            MissingDependency: pyarrow is not installed.
        """
        arrow = require("pyarrow", "data", "a Parquet file of a study's results")
        parquet = require("pyarrow.parquet", "data", "a Parquet file of a study's results")
        columns = {name: [_arrow_value(row[name]) for row in self.rows] for name in self.columns}
        buffer = arrow.BufferOutputStream()
        parquet.write_table(arrow.table(columns), buffer)
        write_atomic(path, buffer.getvalue().to_pybytes())


def results_table(folder: Path | str | StudyView) -> ResultsTable:
    """The table of the study in ``folder``.

    Raises:
        InputError: the folder holds no study.
        CorruptFile: a result is not what was written.
    """
    view = folder if isinstance(folder, StudyView) else read_study(folder)
    varied = tuple(dict.fromkeys([*view.study.axes, *(key for run in view.runs for key in run.trial.axes)]))
    varied = tuple(key for key in varied if key not in (*FIRST_COLUMNS, *LAST_COLUMNS))
    first = (*FIRST_COLUMNS, *varied, *LAST_COLUMNS)
    replaced = _superseded(view)
    rows = [_row(run, first) for run in view.runs]
    rows = [{**row, "kind": SUPERSEDED} if row["id"] in replaced else row for row in rows]
    columns = tuple(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    table = ResultsTable(columns, tuple({name: row.get(name) for name in columns} for row in rows))
    roles = view.study.roles
    return table if roles is None or not roles.best_of else _keep_best(table, roles)


def _keep_best(table: ResultsTable, roles: Roles) -> ResultsTable:
    """The finished trials of the axes whose value of a best-of axis was beaten get the kind ``"not_best"``."""
    places = [k for k, row in enumerate(table.rows) if row["status"] == "finished" and row["kind"] in MAIN_KINDS]
    if not places:
        return table
    loss = roles.loss or loss_of(table.columns, [table.rows[k] for k in places])
    point = tuple(name for name in (*roles.scales, *roles.series) if name not in roles.best_of)
    try:
        found = best_of([table.rows[k] for k in places], roles.best_of, point, loss, roles.better)
    except InputError as error:
        return ResultsTable(table.columns, table.rows, (str(error),))
    beaten = {places[k] for k in range(len(places)) if k not in found.kept}
    rows = tuple({**row, "kind": NOT_BEST} if k in beaten else row for k, row in enumerate(table.rows))
    return ResultsTable(table.columns, rows, found.notes)


def unsealed_finals(folder: Path) -> str:
    """What to know of a search that an earlier version ran, in a sentence; empty for any other study."""
    path = folder / FINALS
    with contextlib.suppress(CorruptFile):
        if path.exists() and of_earlier_version(folder) and is_unsealed(read_json(path)):
            return (
                f"{path} was written by an earlier version of metascale, without a hash of its own: it is read as it "
                "is, and the same run command (or `metascale resume`) writes it anew and repeats nothing"
            )
    return ""


def write_results(folder: Path | str) -> ResultsTable:
    """Write ``results.csv`` and ``all_results.json`` of the study in ``folder``, each atomically."""
    with reading_once():
        view = read_study(folder)
        table = results_table(view)
        complete = complete_results(view)
    with locked(view.folder):
        for leftover in view.folder.glob(".*results.*.tmp"):
            leftover.unlink()
        write_atomic(view.folder / RESULTS_CSV, table.to_csv())
        write_json(view.folder / ALL_RESULTS_JSON, complete)
    return table


def as_written(value: Any) -> str:
    """A value as results.csv shows it, by which the report finds the series again."""
    return value if isinstance(value, str) else format_cell(value)


def complete_results(view: StudyView) -> list[dict[str, Any]]:
    """Every trial with its whole configuration and result, as ``all_results.json`` holds them."""
    return [
        {
            "id": run.trial.id,
            "label": run.trial.label,
            "axes": plain(run.trial.axes),
            "seed": run.trial.seed,
            "kind": run.trial.kind,
            "config": plain(run.trial.config),
            **_ending(run),
        }
        for run in view.runs
    ]


def _superseded(view: StudyView) -> frozenset[str]:
    """Ids of trials at a point and seed of the axes that now runs with other values.

    A search that continues (a study that grew, a failed trial that was tried again) may find other values. What was run
    with the earlier ones stays on disk and in the tables, and is left out of every fit.
    """
    path = view.folder / FINALS
    if not path.exists():
        return frozenset()
    earlier = of_earlier_version(view.folder) and is_unsealed(read_json(path))
    stored = read_json(path) if earlier else read_sealed(path)
    ids = frozenset(map(str, stored.get("ids", ())))

    def place(trial: Trial) -> tuple[str, int]:
        return canonical_json({name: trial.axes.get(name) for name in view.study.axes}), trial.seed

    places = {place(run.trial) for run in view.runs if run.trial.id in ids}
    others = (run.trial for run in view.runs if run.trial.kind != TUNING and run.trial.id not in ids)
    return frozenset(trial.id for trial in others if place(trial) in places)


def _row(run: RunView, first: tuple[str, ...]) -> dict[str, Any]:
    trial = run.trial
    ending = run.ending()
    status = run.status if ending is None else ending["status"]
    row = {"id": trial.id, "label": trial.label, "seed": trial.seed, "kind": trial.kind, "status": status}
    row["message"] = (run.message() if ending is None else str(ending.get("message", ""))) or None
    with contextlib.suppress(CorruptFile):  # a damaged history takes the seconds, not the results
        row[WALL_S] = round(run.wall_s(), 3) or None
    own = trial.axes if trial.kind in COMPARED_KINDS else {**flatten(trial.config), **trial.axes}
    row.update({key: value for key, value in own.items() if key in first and key not in row})
    result = (ending or {}).get("result") or {}
    for key, value in flatten(result).items():
        if value is None or isinstance(value, (bool, int, float, str)):
            row[f"result.{key}" if key in first else key] = value
    return row


def _ending(run: RunView) -> dict[str, Any]:
    ending = run.ending() or {"status": run.status, "message": run.message()}
    return {key: value for key, value in ending.items() if key not in ("files", SEAL)}


def _arrow_value(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else format_cell(value)
