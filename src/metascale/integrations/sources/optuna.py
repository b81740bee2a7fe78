"""Trials of an Optuna study, from a database or a journal file."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError, MetascaleError
from metascale.core.optional import require
from metascale.integrations.sources.places import database_errors, without_password
from metascale.integrations.sources.runs import MOST_RUNS, Imported, ImportedRun, flat, number

_PURPOSE = "reading an Optuna study"


def read_optuna(source: str) -> Imported:
    """The study of ``STORAGE#NAME``; the name may be left out where there is one study.

    Args:
        source: a database as SQLAlchemy names it (``sqlite:///search.db``), a SQLite file, or a journal file.

    Raises:
        InputError: no such storage or study, or it has no trial.
        MissingDependency: Optuna is not installed.
    """
    place, _, name = source.partition("#")
    shown = without_password(place)
    optuna = require("optuna", "tune", _PURPOSE)
    try:
        storage = _storage(place)
        names = sorted(str(each) for each in optuna.get_all_study_names(storage))
        if not name and len(names) == 1:
            name = names[0]
        if name not in names:
            told = ", ".join(names[:20]) or "none"
            wrong = f"has no study '{name}'" if name else "needs the name of a study after '#'"
            raise InputError(f"the Optuna storage '{shown}' {wrong}; it has: {told}", value=shown)
        study = optuna.load_study(study_name=name, storage=storage)
        trials = study.get_trials(deepcopy=False)
    except MetascaleError:
        raise
    except (ValueError, KeyError, RuntimeError, OSError, optuna.exceptions.OptunaError, *database_errors()) as error:
        raise _unreadable(shown, error) from error
    if not trials or len(trials) > MOST_RUNS:
        raise InputError(f"the Optuna study '{name}' has {len(trials):,} trials; 1 to {MOST_RUNS:,} are read")
    larger = [direction == optuna.study.StudyDirection.MAXIMIZE for direction in study.directions]
    names = _objectives(study, larger)
    notes = ["Optuna stores times without a zone: they are read as of this machine's"]
    return Imported(f"optuna:{shown}#{name}", [_run(trial, names, larger) for trial in trials], notes)


def _objectives(study: Any, larger: list[bool]) -> list[str]:
    if study.metric_names:
        return [str(name) for name in study.metric_names]
    return ["value"] if len(larger) == 1 else [f"value_{k}" for k in range(len(larger))]


def _run(trial: Any, objectives: list[str], larger: list[bool]) -> ImportedRun:
    run = ImportedRun(str(trial.number), f"trial {trial.number}", trial.state.name.lower())
    run.config = flat(trial.params, f"trial {trial.number}")
    run.config |= {f"user.{key}": value for key, value in flat(trial.user_attrs, f"trial {trial.number}").items()}
    run.started_at, run.ended_at = _seconds(trial.datetime_start), _seconds(trial.datetime_complete)
    for step, value in sorted(trial.intermediate_values.items()):
        run.add("intermediate", step, value)
    if len(larger) == 1:
        run.larger["intermediate"] = larger[0]
    last = run.steps or 0
    for name, value, up in zip(objectives, trial.values or (), larger, strict=False):
        known = number(value)
        if known is not None:
            run.add(name, last, known)
            run.larger[name] = up
    return run


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _storage(place: str) -> Any:
    """Optuna's storage; one that is not there, or is none, is refused before Optuna would make it."""
    if place.startswith("sqlite:///"):
        _require_study(Path(place.removeprefix("sqlite:///").partition("?")[0]))
        return place
    if "://" in place:
        return place
    path = Path(place).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no Optuna storage '{place}'; give sqlite:///FILE, another database's URL, or a journal file",
            value=place,
        )
    with open(path, "rb") as stream:
        start = stream.read(16)
    if start.startswith(b"SQLite format 3"):
        _require_study(path)
        return f"sqlite:///{path}"
    if not start.startswith(b"{"):
        raise InputError(f"'{path}' is neither a SQLite database nor a journal of Optuna", value=place)
    journal = require("optuna.storages.journal", "tune", _PURPOSE)
    storages = require("optuna.storages", "tune", _PURPOSE)
    try:
        return storages.JournalStorage(journal.JournalFileBackend(str(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(place, error) from error


def _require_study(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; give a database that Optuna wrote", value=str(path))
    try:
        with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        connection.close()
    except sqlite3.DatabaseError as error:
        raise InputError(f"'{path}' is not a SQLite database ({error})", value=str(path)) from error
    if not {"studies", "trials"} <= tables:
        raise InputError(f"'{path}' is a database without Optuna's tables", value=str(path))


def _unreadable(place: str, error: Exception) -> InputError:
    reason = " ".join(without_password(str(error)).split()) or type(error).__name__
    return InputError(f"the Optuna storage '{place}' cannot be read: {reason:.300}", value=place)
