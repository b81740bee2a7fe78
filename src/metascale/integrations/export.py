"""A study for other programs: its table as CSV, JSON or Parquet, or its runs for an experiment tracker."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.errors import InputError
from metascale.core.files import write_atomic, write_json
from metascale.study.design import flatten
from metascale.study.store.folder import RunView, StudyView, read_study
from metascale.study.store.table import results_table

TABLES = ("csv", "json", "parquet")
TRACKERS = ("mlflow", "tensorboard", "wandb")
FORMATS = (*TABLES, *TRACKERS)
_SUFFIXES = {"csv": ".csv", "json": ".json", "parquet": ".parquet"}


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series."""

    name: str
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run as an experiment tracker sees it.

    Args:
        parameters: the configuration, one level of dotted keys.
        tags: status, kind, host and the like.
        series: ``record/column`` by step, of records whose steps rise (a table with one row a task is left out).
        final: the scalars of the result.
        started_at, ended_at: seconds since the epoch (0: never).
    """

    id: str
    name: str
    parameters: dict[str, Any]
    tags: dict[str, str]
    series: tuple[Point, ...]
    final: dict[str, float]
    started_at: float
    ended_at: float


def export_study(folder: Path | str, kind: str, out: str) -> int:
    """Write the study in ``folder`` in format ``kind``; how many runs were written.

    Args:
        out: a file for a table; a folder for TensorBoard and W&B; for MLflow a folder or a tracking URI.

    Raises:
        InputError: an unknown format, no study, or a place that holds something else.
        MissingDependency: the format's package is not installed.
    """
    if kind not in FORMATS:
        raise InputError(f"--format is one of {', '.join(FORMATS)}, not '{kind}'")
    view = read_study(folder)
    if kind in TABLES:
        return _write_table(view, kind, Path(out))
    from metascale.integrations import trackers as export_trackers

    return int(getattr(export_trackers, f"write_{kind}")(view, out))


def _write_table(view: StudyView, kind: str, path: Path) -> int:
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; --format {kind} needs a file, such as results{_SUFFIXES[kind]}")
    table = results_table(view)
    if kind == "csv":
        write_atomic(path, table.to_csv())
    elif kind == "json":
        write_json(path, [dict(row) for row in table.rows])
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write_parquet(path)
    return len(table.rows)


def tracked_runs(view: StudyView) -> Iterator[TrackedRun]:
    """Every run that was started, in the study's order."""
    for run in view.runs:
        history = run.history()
        if history:
            yield _tracked(view, run, history)


def _tracked(view: StudyView, run: RunView, history: list[dict[str, Any]]) -> TrackedRun:
    started = [event for event in history if event["event"] == "started"]
    last = started[-1] if started else {}
    tags = {"study": view.study.name, "status": run.status, "kind": run.trial.kind, "attempts": str(len(started))}
    tags |= {key: str(last[key]) for key in ("host", "device", "metascale", "python") if key in last}
    parameters = {
        key: value if isinstance(value, (bool, int, float, str)) else canonical_json(value)
        for key, value in flatten(run.trial.config).items()
    }
    return TrackedRun(
        id=run.trial.id,
        name=run.trial.label,
        parameters=parameters,
        tags=tags,
        series=tuple(_series(run)),
        final={key: float(value) for key, value in flatten(run.result() or {}).items() if _is_number(value)},
        started_at=started[0]["at"] if started else 0.0,
        ended_at=history[-1]["at"],
    )


def _series(run: RunView) -> Iterator[Point]:
    for record in run.record_names():
        rows = run.rows(record)
        steps = [row["step"] for row in rows]
        if any(after <= before for before, after in itertools.pairwise(steps)):
            continue
        for row in rows:
            for key, value in row.items():
                if key != "step" and _is_number(value):
                    yield Point(f"{record}/{key}", row["step"], float(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
