"""Running a study that tunes: searches first, round by round, then the trials of the axes with what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.study.definition import FILE, load_definition, save_definition
from metascale.study.design import Study, Trial, build_trial, flatten, merge
from metascale.study.events import Event, Reporter, StudyOutcome
from metascale.study.executors.local import Executor
from metascale.study.run.runner import run_study
from metascale.study.run.stopping import StopWatch
from metascale.study.search.finals import keep_finals
from metascale.study.search.points import axis_points, point_key, searched_points
from metascale.study.search.rule import values_at
from metascale.study.search.search import (
    KIND,
    Search,
    purpose_of,
    search_of,
    search_trial,
    tried_at,
    tuned_points,
)
from metascale.study.search.suggest import Tried, suggest
from metascale.study.store.fence import locked
from metascale.study.store.reading import read_study
from metascale.study.store.run_store import RunStore


@dataclass(frozen=True, slots=True)
class ListedStudy(Study):
    """A study whose trials are a list: those of searches cannot be known from its axes."""

    listed: tuple[Trial, ...] = ()

    def trials(self) -> tuple[Trial, ...]:
        return self.listed


def run_any_study(study: Study, folder: Path | str, executor: Executor | None = None, **options: Any) -> StudyOutcome:
    """`run_study`, or `run_tuned_study` where the study's base holds a search."""
    if search_of(study) is None:
        return run_study(study, folder, executor, **options)
    return run_tuned_study(study, folder, executor, **options)


def run_tuned_study(
    study: Study,
    folder: Path | str,
    executor: Executor | None = None,
    *,
    retry_failed: bool = True,
    reporter: Reporter | None = None,
    **options: Any,
) -> StudyOutcome:
    """Search at the points that the strategy names, then run axes × seeds and extras with the values found.

    The same call resumes: suggestions that are in ``study.json`` stand, and later ones are computed from ended trials
    alone. A trial that failed counts as the worst loss, and is tried again once by the next call.

    Args:
        options: of `run_study`.

    Raises:
        InputError: no search in the base, a space that is not allowed, or a point at which every trial failed or
            diverged; whatever `run_study` raises.
    """
    search = search_of(study)
    if search is None:
        raise InputError(f"study '{study.name}' has no search: its base needs the key 'tune'")
    folder = Path(folder)
    searched_points(study, search)  # refuses what cannot be before a file is written
    # One watch for all rounds: a request that comes between two of them ends the next.
    options.setdefault("stop_seen", StopWatch.start(folder).seen)
    searched = _search(study, search, folder, executor, retry_failed, reporter, options)
    if searched.pending or searched.stopped or (searched.failed and options.get("fail_fast")):
        if reporter is not None:
            reporter.end(searched)
        return searched
    finals = _finals(study, search, folder)
    keep_finals(folder, finals)
    final = _with_extras(study, finals)
    return _joined(
        searched, run_study(final, folder, executor, retry_failed=retry_failed, reporter=reporter, **options)
    )


def _search(
    study: Study,
    search: Search,
    folder: Path,
    executor: Executor | None,
    retry_failed: bool,
    reporter: Reporter | None,
    options: Mapping[str, Any],
) -> StudyOutcome:
    """Rounds of suggestions until every search is over, or a trial is left pending."""
    quiet = None if reporter is None else _Rounds(reporter)
    RunStore.create(folder, _listed(study, _stored(folder, study, search))).close()
    outcome = StudyOutcome(folder, 0, 0, 0, 0, 0, 0, 0, 0.0)
    while True:
        grew = _suggest_round(folder, study, search)
        trials = _stored(folder, study, search)
        waiting = ("pending", "running", "failed") if retry_failed else ("pending", "running")
        ids = {trial.id for trial in trials}
        if not grew and not any(run.status in waiting for run in read_study(folder).runs if run.trial.id in ids):
            return outcome if outcome.total else _standing(folder, ids)
        now = run_study(_listed(study, trials), folder, executor, retry_failed=retry_failed, reporter=quiet, **options)
        outcome = replace(now, ran=outcome.ran + now.ran, wall_s=outcome.wall_s + now.wall_s)
        retry_failed = False
        if now.pending or now.stopped or (now.failed and options.get("fail_fast")):
            return outcome


def _standing(folder: Path, ids: set[str]) -> StudyOutcome:
    """The outcome of a search in which nothing was left to run."""
    statuses = [run.status for run in read_study(folder).runs if run.trial.id in ids]
    total = len(statuses)
    finished, failed, diverged = (statuses.count(status) for status in ("finished", "failed", "diverged"))
    return StudyOutcome(folder, total, finished, failed, diverged, 0, 0, total, 0.0)


def _joined(searched: StudyOutcome, final: StudyOutcome) -> StudyOutcome:
    """Both parts as one outcome."""
    names = ("total", "finished", "failed", "diverged", "pending", "ran", "skipped", "wall_s")
    return replace(final, **{name: getattr(searched, name) + getattr(final, name) for name in names})


def _finals(study: Study, search: Search, folder: Path | str) -> list[Trial]:
    """Axes × seeds with the values that the searches in ``folder`` found.

    Raises:
        InputError: a search has found nothing.
    """
    found = tuned_points(read_study(folder), study)
    known = {point_key(one.point) for one in found}
    for point in searched_points(study, search):
        if point_key(point) not in known:
            raise InputError(
                f"every trial of the search at {point or 'the base'} failed or diverged; see their messages in "
                f"results.csv, and give '{', '.join(search.space)}' other ranges in a new folder"
            )
    return [
        build_trial(study.trial, study.base, {**point, **values_at(study, search, found, point)}, int(seed), "trial")
        for point in axis_points(study)
        for seed in study.seeds
    ]


def _with_extras(study: Study, finals: Sequence[Trial]) -> ListedStudy:
    on_axes = {trial.id for trial in replace(study, extra=()).trials()}
    return _listed(study, (*finals, *(trial for trial in study.trials() if trial.id not in on_axes)))


def n_search_trials(study: Study) -> int:
    """Trials that the searches of a study take at most."""
    search = search_of(study)
    return 0 if search is None else search.trials * len(searched_points(study, search))


def _listed(study: Study, trials: tuple[Trial, ...]) -> ListedStudy:
    return ListedStudy(study.name, study.trial, study.base, study.axes, study.seeds, study.extra, listed=trials)


def _stored(folder: Path, study: Study, search: Search) -> tuple[Trial, ...]:
    """The search trials in the study's definition at the points asked for: point by point, as they were suggested."""
    if not (folder / FILE).exists():
        return ()
    return _in_order(study, search, load_definition(folder).trials)


def _in_order(study: Study, search: Search, trials: Iterable[Trial]) -> tuple[Trial, ...]:
    at: dict[str, list[Trial]] = {point_key(point): [] for point in searched_points(study, search)}
    for trial in trials:
        key = point_key({axis: trial.axes.get(axis) for axis in study.axes})
        if trial.kind == KIND and key in at:
            at[key].append(trial)
    return tuple(trial for members in at.values() for trial in members)


def _suggest_round(folder: Path, study: Study, search: Search) -> bool:
    """Add the next round of every search that is due to the study's definition; whether there was any.

    Under the folder's lock: a second runner finds the round there and adds nothing.
    """
    with locked(folder):
        view = read_study(folder)
        new: list[Trial] = []
        for point in searched_points(study, search):
            tried = tried_at(view, search, point)
            if all(one.status != "running" for one in tried):
                new += _round(study, search, point, tried)
        if not new:
            return False
        definition = load_definition(folder)
        listed = _in_order(study, search, (*definition.trials, *new))
        save_definition(folder, definition.extended(_listed(study, listed)))
        return True


def _round(study: Study, search: Search, point: Mapping[str, Any], ended: list[Tried]) -> list[Trial]:
    """The trials of the next round at ``point``, none when the search is over."""
    tried, new = list(ended), []
    default = merge(study.base, point)
    default.update(flatten(default))  # the space names nested hyperparameters by dotted keys
    while len(tried) < min(search.trials, len(ended) + search.together):
        values = suggest(
            search.space,
            tried,
            n_startup=search.startup,
            seed=search.seed,
            purpose=purpose_of(study, point),
            first=default,
        )
        if values is None:
            break
        new.append(search_trial(study, search, point, ended, len(tried), values))
        tried.append(Tried(values, None, "running"))
    return new


@dataclass(frozen=True, slots=True)
class _Rounds:
    """A reporter that is not told the end of a round as the end of the study."""

    reporter: Reporter

    def begin(self, folder: Path, total: int, done: int) -> None:
        self.reporter.begin(folder, total, done)

    def event(self, event: Event) -> None:
        self.reporter.event(event)

    def end(self, outcome: StudyOutcome | None) -> None:
        self.reporter.end(None)
