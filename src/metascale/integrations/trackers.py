"""Writing a study's runs for MLflow, TensorBoard and Weights & Biases. They show; our run folders stay the truth."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.integrations.export import TrackedRun, tracked_runs
from metascale.study.store.folder import StudyView

_METRICS_A_BATCH, _PARAMETERS_A_BATCH, _PARAMETER_LENGTH = 1000, 100, 6000
_TRIAL_TAG = "metascale.trial"
Item = TypeVar("Item")


def write_mlflow(view: StudyView, out: str) -> int:
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


def write_tensorboard(view: StudyView, out: str) -> int:
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


def write_wandb(view: StudyView, out: str) -> int:
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


def _refuse_file(folder: Path, kind: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; --format {kind} needs a folder")


def _new_folder(out: str, kind: str) -> Path:
    """The folder of an export that cannot be added to without doubling it."""
    folder = Path(out)
    _refuse_file(folder, kind)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"--out {folder} is not empty; --format {kind} needs a new folder, or it would show runs twice"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
