"""Runs of an MLflow experiment.

Its databases store infinities as ±1.797e308, and show of equal step and time the largest value; here these are
infinities again, and of equal steps the latest counts.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.suggest import suggest
from metascale.integrations.sources.places import database_errors, without_password
from metascale.integrations.sources.runs import MOST_POINTS, MOST_RUNS, Imported, ImportedRun, Scalar

_PAGE = 1000
_OWN_TAG = "mlflow."


def read_mlflow(source: str) -> Imported:
    """The runs of ``URI/EXPERIMENT`` or ``URI#EXPERIMENT``, deleted ones left out; without an experiment, the only one.

    Args:
        source: a tracking URI (``http://host:5000``, ``sqlite:///mlflow.db``) or a folder of MLflow's files, then the
            experiment's name or id. With ``#``, the name may hold slashes.

    Raises:
        InputError: no such place or experiment, or it has no run.
        MissingDependency: MLflow is not installed.
    """
    uri, experiment = _split(source)
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if "://" in uri:
        # Seven tries with growing pauses otherwise: minutes before a server that is not there is named.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    tracking = require("mlflow.tracking", "mlflow", "reading runs of MLflow")
    exceptions = require("mlflow.exceptions", "mlflow", "reading runs of MLflow")
    try:
        client = tracking.MlflowClient(tracking_uri=uri)
        found = _experiment(client, without_password(uri), experiment)
        runs = [_run(client, one) for one in _runs(client, found.experiment_id)]
    except (exceptions.MlflowException, *database_errors()) as error:
        shown, reason = without_password(source), " ".join(without_password(str(error)).split())
        raise InputError(f"MLflow does not give '{shown}': {reason:.300}", value=shown) from error
    return Imported(f"mlflow:{without_password(uri)}#{found.name}", runs)


def _split(source: str) -> tuple[str, str]:
    if "#" in source:
        uri, _, experiment = source.partition("#")
    elif _is_place(source):
        uri, experiment = source, ""
    else:
        uri, _, experiment = source.rpartition("/")
    behind_prefix = "#" in source and uri.startswith(("http://", "https://"))
    if not uri or not (behind_prefix or _is_place(uri)):
        raise InputError(
            f"'{without_password(source)}' names no MLflow store: give mlflow:URI/EXPERIMENT, such as "
            "mlflow:sqlite:///mlflow.db/training or mlflow:http://HOST/PREFIX#training; a file or folder must be there",
            value=source,
        )
    return (uri if "://" in uri else Path(uri).expanduser().resolve().as_uri()), experiment


def _is_place(uri: str) -> bool:
    """Whether there is such a file or folder; MLflow would make one. A server is asked later."""
    if uri.startswith("sqlite://"):
        return uri.startswith("sqlite:///") and _has_runs(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith(("http://", "https://")):
        return len(uri.rstrip("/").split("/")) == 3
    if "://" in uri:
        return not uri.startswith("file://") or Path(uri.removeprefix("file://")).is_dir()
    return Path(uri).expanduser().is_dir()


def _has_runs(path: Path) -> bool:
    """Whether a file is a database with MLflow's tables; another one would be given them."""
    if not path.is_file():
        return False
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()
    return {"experiments", "runs"} <= tables


def _experiment(client: Any, uri: str, name: str) -> Any:
    known = list(client.search_experiments(max_results=_PAGE))
    if not name:
        filled = [one for one in known if client.search_runs([one.experiment_id], max_results=1)]
        if len(filled) == 1:
            return filled[0]
        told = ", ".join(one.name for one in filled[:20]) or "none"
        raise InputError(f"the MLflow store '{uri}' needs an experiment after '#'; it has with runs: {told}")
    found = client.get_experiment_by_name(name)
    if found is None:
        found = next((one for one in known if one.experiment_id == name), None)
    if found is None:
        hint = suggest(name, [one.name for one in known], "it has")
        raise InputError(f"the MLflow store '{uri}' has no experiment '{name}'; {hint}", value=name)
    if found.lifecycle_stage == "deleted":
        raise InputError(f"the MLflow experiment '{name}' of '{uri}' was deleted; restore it first", value=name)
    return found


def _runs(client: Any, experiment: str) -> Iterator[Any]:
    token, n = None, 0
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token, order_by=["start_time ASC"])
        for one in page:
            n += 1
            if n > MOST_RUNS:
                raise InputError(f"the MLflow experiment has more than {MOST_RUNS:,} runs, the most that are read")
            yield one
        token = page.token
        if not token:
            return


def _run(client: Any, one: Any) -> ImportedRun:
    run = ImportedRun(one.info.run_id, one.info.run_name or "", str(one.info.status).lower())
    run.config = {key: _parameter(text) for key, text in one.data.params.items()}
    run.config |= {f"tag.{key}": text for key, text in one.data.tags.items() if not key.startswith(_OWN_TAG)}
    run.started_at, run.ended_at = _seconds(one.info.start_time), _seconds(one.info.end_time)
    n = 0
    for name in one.data.metrics:
        points = client.get_metric_history(one.info.run_id, name)
        n += len(points)
        if n > MOST_POINTS:
            raise InputError(f"MLflow run {run.id}: more than {MOST_POINTS:,} points, the most that are read")
        for point in sorted(points, key=_order):
            run.add(name, point.step, _value(point.value), point.timestamp / 1000)
    return run


def _order(point: Any) -> tuple[int, int, bool, float]:
    """By time, then step; of equal ones the largest comes last, as what MLflow shows, and a number after NaN."""
    return point.timestamp, point.step, point.value == point.value, point.value


def _value(value: float) -> float:
    return float("inf") * (1 if value > 0 else -1) if abs(value) == sys.float_info.max else value


def _parameter(text: str) -> Scalar:
    """MLflow keeps parameters as text, as Python prints them."""
    if text in ("True", "False"):
        return text == "True"
    if text == "None":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
