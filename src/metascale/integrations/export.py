"""A study for other programs: its table as CSV, JSON or Parquet, or its runs for an experiment tracker.

Trackers are read-only mirrors; the run folders remain authoritative.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from metascale.core.canonical import canonical_json
from metascale.core.errors import InputError
from metascale.core.files import write_atomic, write_json
from metascale.core.optional import require
from metascale.integrations.optuna_storage import write_optuna
from metascale.integrations.paper_tables import paper_table
from metascale.study import RunView, StudyView, read_study, results_table
from metascale.study.design import flatten
from metascale.study.store.table import ResultsTable

_METRICS_A_BATCH, _PARAMETERS_A_BATCH, _PARAMETER_LENGTH = 1000, 100, 6000
_TRIAL_TAG = "metascale.trial"
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class SeriesPoint:
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
    series: tuple[SeriesPoint, ...]
    final: dict[str, float]
    started_at: float
    ended_at: float


_TABLES = ("csv", "json", "parquet")
CONFIG = "config."
"""Before the name of a column of the fixed configuration."""


def export_study(folder: Path | str, kind: str, out: str, *, config: bool = False) -> int:
    """Write the study in ``folder`` in format ``kind``; how many runs were written.

    Args:
        kind: a key of `FORMATS`.
        out: a file for a table; a folder for TensorBoard and W&B; for MLflow a folder or a tracking URI; for Optuna a
            database's URL, a file, or a journal (.log).

        config: csv, json and parquet: also the configuration that does not vary, as columns ``config.KEY``.

    Raises:
        InputError: an unknown format, no study, or a place that holds something else.
        MissingDependency: the format's package is not installed.
    """
    if kind not in FORMATS:
        raise InputError(f"the format is one of {', '.join(FORMATS)}, not '{kind}'", field="kind", value=kind)
    view = read_study(folder)
    if not config:
        return FORMATS[kind](view, out)
    if kind not in _TABLES:
        raise InputError(f"`config` is for {', '.join(_TABLES)}: {kind} has the configuration anyhow", field="config")
    return _WRITERS[kind](with_configuration(view, results_table(view)), out)


def with_configuration(view: StudyView, table: ResultsTable) -> ResultsTable:
    """``table`` and, for every key of a trial's configuration that is no column of it, the column ``config.KEY``."""
    configs = {run.trial.id: flatten(run.trial.config) for run in view.runs}
    keys = [key for key in dict.fromkeys(key for one in configs.values() for key in one) if key not in table.columns]
    rows = [{**row, **{f"{CONFIG}{key}": configs[row["id"]].get(key) for key in keys}} for row in table.rows]
    return ResultsTable((*table.columns, *(f"{CONFIG}{key}" for key in keys)), tuple(rows), table.notes)


def _write_csv(table: ResultsTable, out: str) -> int:
    write_atomic(_file(out, "csv"), table.to_csv())
    return len(table.rows)


def _write_json(table: ResultsTable, out: str) -> int:
    write_json(_file(out, "json"), [dict(row) for row in table.rows])
    return len(table.rows)


def _write_parquet(table: ResultsTable, out: str) -> int:
    path = _file(out, "parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_parquet(path)
    return len(table.rows)


def _write_latex(view: StudyView, out: str) -> int:
    table = paper_table(view)
    write_atomic(_file(out, "tex"), table.latex())
    return len(table.rows)


def _write_markdown(view: StudyView, out: str) -> int:
    table = paper_table(view)
    write_atomic(_file(out, "md"), table.markdown())
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


def _series(run: RunView) -> Iterator[SeriesPoint]:
    for record in run.record_names():
        rows = run.rows(record)
        steps = [row["step"] for row in rows]
        if any(after <= before for before, after in itertools.pairwise(steps)):
            continue
        for row in rows:
            for key, value in row.items():
                if key != "step" and _is_number(value):
                    yield SeriesPoint(f"{record}/{key}", row["step"], float(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _write_mlflow(view: StudyView, out: str) -> int:
    """One MLflow run a trial, in an experiment named like the study; trials that are there already are left alone.

    ``out`` is a tracking URI, or a folder that gets a SQLite database. How many runs were written.
    """
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    require("mlflow", "mlflow", "export to MLflow")
    tracking = require("mlflow.tracking", "mlflow", "export to MLflow")
    entities = require("mlflow.entities", "mlflow", "export to MLflow")
    uri, artifacts = out, None
    if "://" not in out:
        folder = Path(out).absolute()
        _refuse_file(folder, "mlflow")
        folder.mkdir(parents=True, exist_ok=True)
        uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
    client = tracking.MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(view.study.name)
    if known is not None and known.lifecycle_stage == "deleted":
        raise InputError(
            f"the MLflow experiment '{view.study.name}' of {out} was deleted there, and MLflow keeps its name: restore "
            f"experiment {known.experiment_id} with `mlflow experiments restore`, or export to another place",
            field="out",
            value=out,
        )
    experiment = known.experiment_id if known else client.create_experiment(view.study.name, artifacts)
    written = 0
    for run in tracked_runs(view):
        if client.search_runs([experiment], f"tags.`{_TRIAL_TAG}` = '{run.id}'", max_results=1):
            continue
        _write_mlflow_run(client, entities, experiment, run)
        written += 1
    return written


def _write_mlflow_run(client: Any, entities: Any, experiment: str, run: TrackedRun) -> None:
    started_ms, ended_ms = round(run.started_at * 1000), round(run.ended_at * 1000)
    made = client.create_run(experiment, start_time=started_ms, tags={_TRIAL_TAG: run.id}, run_name=run.name)
    metrics = [entities.Metric(point.name, point.value, ended_ms, point.step) for point in run.series]
    metrics += [entities.Metric(name, value, ended_ms, 0) for name, value in run.final.items()]
    parameters = [entities.Param(name, str(value)[:_PARAMETER_LENGTH]) for name, value in run.parameters.items()]
    tags = [entities.RunTag(name, value) for name, value in run.tags.items()]
    client.log_batch(made.info.run_id, tags=tags)
    for some in _batches(parameters, _PARAMETERS_A_BATCH):
        client.log_batch(made.info.run_id, params=some)
    for some in _batches(metrics, _METRICS_A_BATCH):
        client.log_batch(made.info.run_id, metrics=some)
    status = {"finished": "FINISHED", "running": "RUNNING", "pending": "SCHEDULED"}.get(run.tags["status"], "FAILED")
    client.set_terminated(made.info.run_id, status, ended_ms)


def _write_tensorboard(view: StudyView, out: str) -> int:
    """One folder of TensorBoard events a trial under the new folder ``out``, with its hyperparameters."""
    require("tensorboard", "tensorboard", "export to TensorBoard")
    writer = require("tensorboard.summary.writer.event_file_writer", "tensorboard", "export to TensorBoard")
    event_pb2 = require("tensorboard.compat.proto.event_pb2", "tensorboard", "export to TensorBoard")
    summary_pb2 = require("tensorboard.compat.proto.summary_pb2", "tensorboard", "export to TensorBoard")
    hparams = require("tensorboard.plugins.hparams.summary_v2", "tensorboard", "export to TensorBoard")
    folder = _new_folder(out, "tensorboard")
    n_runs = 0
    for run in tracked_runs(view):
        events = writer.EventFileWriter(str(folder / f"{run.name}-{run.id}"))
        values = [(point.name, point.step, point.value) for point in run.series]
        values += [(name, 0, value) for name, value in run.final.items()]
        events.add_event(event_pb2.Event(wall_time=run.started_at, summary=hparams.hparams_pb(run.parameters)))
        for name, step, value in values:
            summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=name, simple_value=value)])
            events.add_event(event_pb2.Event(wall_time=run.ended_at, step=step, summary=summary))
        events.close()
        n_runs += 1
    return n_runs


def _write_wandb(view: StudyView, out: str) -> int:
    """One offline W&B run a trial under the new folder ``out``; ``wandb sync`` sends them, nothing else does."""
    wandb = require("wandb", "wandb", "export to Weights & Biases")
    folder = _new_folder(out, "wandb")
    n_runs = 0
    for run in tracked_runs(view):
        made = wandb.init(
            mode="offline",
            dir=str(folder),
            project=view.study.name,
            id=run.id,
            name=run.name,
            config=run.parameters,
            tags=[run.tags["status"], run.tags["kind"]],
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        by_step: dict[int, dict[str, float]] = defaultdict(dict)
        for point in run.series:
            by_step[point.step][point.name] = point.value
        for step in sorted(by_step):
            made.log(by_step[step], step=step)
        made.summary.update({**run.final, **run.tags})
        made.finish()
        n_runs += 1
    # W&B's own process writes the files: only when it has ended are they whole.
    wandb.teardown()
    return n_runs


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _file(out: str, kind: str) -> Path:
    if Path(out).is_dir():
        raise InputError(
            f"`out` {out} is a folder; the format {kind} needs a file, such as results.{kind}", field="out", value=out
        )
    return Path(out)


def _refuse_file(folder: Path, kind: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`out` {folder} is a file; the format {kind} needs a folder", field="out")


def _new_folder(out: str, kind: str) -> Path:
    """The folder of an export that cannot be added to without doubling it."""
    folder = Path(out)
    _refuse_file(folder, kind)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"`out` {folder} is not empty; the format {kind} needs a new folder, or it would show runs twice",
            field="out",
            value=out,
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_WRITERS: dict[str, Callable[[ResultsTable, str], int]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}


def _tabulated(kind: str, view: StudyView, out: str) -> int:
    return _WRITERS[kind](results_table(view), out)


FORMATS: dict[str, Callable[[StudyView, str], int]] = {
    **{kind: partial(_tabulated, kind) for kind in _TABLES},
    "latex": _write_latex,
    "markdown": _write_markdown,
    "mlflow": _write_mlflow,
    "tensorboard": _write_tensorboard,
    "wandb": _write_wandb,
    "optuna": write_optuna,
}
"""Tables, then experiment trackers."""
