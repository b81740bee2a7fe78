"""The searches of a study as studies of an Optuna storage, which optuna-dashboard opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.columns import TUNING
from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.study import RunView, StudyView
from metascale.study.search.search import Point, Search, Tried, search_of, searched_points, tried_at

TRIAL = "metascale.trial"
"""The user attribute with a trial's id, by which a later export finds it."""
_JOURNALS = (".log", ".journal")
_ENDED = {"finished": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}


def write_optuna(view: StudyView, out: str) -> int:
    """One Optuna study for every searched point, with the trials that have ended; how many trials were added.

    A trial that is there already, ended in the same way, is left alone, so that an export again adds only what is new.
    A loss is minimised; a diverged trial is a failed one, since Optuna knows no divergence; seeds, status, label and
    message are user attributes. Intermediate values are those of the record that pruning reads.

    Args:
        out: a database URL (``sqlite:///search.db``), a file ``search.db``, or a journal ``search.log``.

    Raises:
        InputError: the study has no search, or ``out`` is a folder.
        MissingDependency: Optuna is not installed.
    """
    search = search_of(view.study)
    if search is None:
        raise InputError(
            f"study '{view.study.name}' has no search (`tune`), and an Optuna storage holds searches; use csv or mlflow"
        )
    optuna = require("optuna", "tune", "export to an Optuna storage")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = _storage(optuna, out)
        return sum(_write_point(optuna, storage, view, search, point) for point in searched_points(view.study, search))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _storage(optuna: ModuleType, out: str) -> Any:
    if "://" in out:
        return optuna.storages.RDBStorage(out)
    path = Path(out).absolute()
    if path.is_dir():
        raise InputError(f"`out` {out} is a folder; give a file, such as search.db", field="out", value=out)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in _JOURNALS:
        journal = require("optuna.storages.journal", "tune", "export to an Optuna storage")
        return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))
    return optuna.storages.RDBStorage(f"sqlite:///{path}")


def _write_point(optuna: ModuleType, storage: Any, view: StudyView, search: Search, point: Point) -> int:
    shown = ", ".join(f"{key}={value}" for key, value in point.items())
    name = f"{view.study.name}: {shown}" if shown else view.study.name
    target = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    facts = {"metascale.study": view.study.name, "objective": search.objective, "search_seed": search.seed}
    facts |= {"point": canonical_json(point), "strategy": search.strategy}
    for key, value in facts.items():
        if target.user_attrs.get(key) != value:
            target.set_user_attr(key, value)
    known = {(one.user_attrs.get(TRIAL), one.state.name) for one in target.get_trials(deepcopy=False)}
    n_added = 0
    for run, tried in _ended(view, search, point):
        state = _ENDED[tried.status]
        if (run.trial.id, state) not in known:
            target.add_trial(_trial(optuna, search, run, tried, state))
            n_added += 1
    return n_added


def _ended(view: StudyView, search: Search, point: Point) -> Iterator[tuple[RunView, Tried]]:
    wanted = canonical_json(point)
    runs = [
        run
        for run in view.runs
        if run.trial.kind == TUNING and canonical_json({key: run.trial.axes.get(key) for key in point}) == wanted
    ]
    for run, tried in zip(runs, tried_at(view, search, point), strict=True):
        if tried.status in _ENDED:
            yield run, tried


def _trial(optuna: ModuleType, search: Search, run: RunView, tried: Tried, state: str) -> Any:
    history = run.history()
    at = [datetime.fromtimestamp(history[place]["at"]) if history else datetime.now() for place in (0, -1)]
    attributes = {TRIAL: run.trial.id, "label": run.trial.label, "seed": run.trial.seed, "status": tried.status}
    if message := run.message():
        attributes["message"] = message
    return optuna.trial.FrozenTrial(
        number=-1,
        trial_id=-1,
        state=optuna.trial.TrialState[state],
        value=tried.loss if state in ("COMPLETE", "PRUNED") else None,
        datetime_start=at[0],
        datetime_complete=at[1],
        params=dict(tried.values),
        distributions={name: dimension.distribution(optuna) for name, dimension in search.space.items()},
        user_attrs=attributes,
        system_attrs={},
        intermediate_values=_intermediate(search, run),
    )


def _intermediate(search: Search, run: RunView) -> Mapping[int, float]:
    if search.pruning is None or search.pruning.record not in run.record_names():
        return {}
    rows = run.rows(search.pruning.record)
    column = search.pruning.column
    return {int(row["step"]): float(row[column]) for row in rows if isinstance(row.get(column), (int, float))}
