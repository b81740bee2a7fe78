"""Running a study that tunes: searches first, round by round, then the trials of the axes with what was found.

Which values to try next is a pure function of the search and of what was tried. Nothing of Optuna's is stored: its
in-memory study is rebuilt from our own ended trials for every suggestion, and the suggestion's number seeds its
sampler, so a search that was killed suggests the same values again.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json, content_id
from metascale.core.columns import STUDY_JSON, TUNING
from metascale.core.errors import InputError
from metascale.core.files import read_json, write_json
from metascale.core.optional import require
from metascale.core.streams import address, generator
from metascale.study.content import base_identity
from metascale.study.definition import load_definition, of_earlier_version, save_definition
from metascale.study.design import LABEL_LENGTH, Study, Trial, build_trial, flatten, merge
from metascale.study.errors import explain_disk_full
from metascale.study.run.job import Executor
from metascale.study.run.session import Event, Reporter, StudyOutcome
from metascale.study.run.stopping import StopWatch
from metascale.study.runner import run_study
from metascale.study.search.samplers import build, suggestion
from metascale.study.search.search import (
    PRUNE_KEY,
    Point,
    Search,
    Tried,
    axis_points,
    search_of,
    searched_points,
    tried_at,
    tuned_points,
    values_at,
)
from metascale.study.search.space import Dimension
from metascale.study.store.claims import locked
from metascale.study.store.folder import damaged_runs, read_study
from metascale.study.store.manifest import unseal
from metascale.study.store.seals import is_unsealed, sealed
from metascale.study.store.store import RunStore
from metascale.study.store.table import FINALS

_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class ListedStudy(Study):
    """A study whose trials are a list: those of searches cannot be known from its axes."""

    listed: tuple[Trial, ...] = ()

    def _make_trials(self) -> tuple[Trial, ...]:
        return self.listed


def run_any_study(
    study: Study,
    folder: Path | str,
    executor: Executor | None = None,
    *,
    opened: Callable[[], None] | None = None,
    **options: Any,
) -> StudyOutcome:
    """`run_study`, or `run_tuned_study` where the study's base holds a search.

    Args:
        opened: called when the folder holds the study, before its first trial.
    """
    if search_of(study) is not None:
        return run_tuned_study(study, folder, executor, opened=opened, **options)
    if opened is not None:
        with explain_disk_full(Path(folder), "opening the study"):
            RunStore.create(folder, study).close()
            opened()
    return run_study(study, folder, executor, **options)


def run_tuned_study(
    study: Study,
    folder: Path | str,
    executor: Executor | None = None,
    *,
    retry_failed: bool = True,
    reporter: Reporter | None = None,
    opened: Callable[[], None] | None = None,
    **options: Any,
) -> StudyOutcome:
    """Search at the points that the strategy names, then run axes × seeds and extras with the values found.

    The same call resumes: suggestions that are in ``study.json`` stand, and later ones are computed from ended trials
    alone. A trial that failed counts as the worst loss, and is tried again once by the next call; one that was killed
    from outside counts as nothing, and the search waits for it. More ``tune.trials`` than before continue the search.

    Args:
        opened: called when the folder holds the study, before its first trial.
        options: of `run_study`.

    Raises:
        InputError: no search in the base, a space that is not allowed, or a point at which every trial failed or
            diverged; whatever `run_study` raises.
        MissingDependency: Optuna is not installed; nothing is written.
    """
    folder = Path(folder).expanduser()
    if (folder / STUDY_JSON).exists():
        study = load_definition(folder).rebased(study)
    search = search_of(study)
    if search is None:
        raise InputError(f"study '{study.name}' has no search: its base needs the key 'tune'")
    searched_points(study, search)  # validate before writing anything
    require("optuna", "tune", "a search for hyperparameters")
    if search.sampler:
        build(search.sampler, 0)  # refuse it before anything is written
    if executor is not None and not (folder / STUDY_JSON).exists():
        executor.check()
    # One watch for all rounds: a request that comes between two of them ends the next.
    options.setdefault("stop_seen", StopWatch.start(folder).seen)
    _seal_finals(folder)
    with explain_disk_full(folder, "opening the study"):
        RunStore.create(folder, _listed(study, _stored(folder, study, search))).close()
        if opened is not None:
            opened()
    searched = _search(study, search, folder, executor, retry_failed, reporter, options)
    unfinished = searched.pending or searched.stopped or searched.damaged or _any_killed(folder, study, search)
    if unfinished or (searched.failed and options.get("fail_fast")):
        if reporter is not None:
            reporter.end(searched)
        return searched
    finals = _finals(study, search, folder)
    with locked(folder):
        unseal(folder, files=[FINALS])
        write_json(folder / FINALS, sealed({"ids": [trial.id for trial in finals]}))
    final = _with_extras(study, finals)
    return _joined(
        searched, run_study(final, folder, executor, retry_failed=retry_failed, reporter=reporter, **options)
    )


def _seal_finals(folder: Path) -> None:
    """Give the finals of a search that an earlier version ran the hash that readers ask for."""
    path = folder / FINALS
    if path.exists() and of_earlier_version(folder):
        with locked(folder):
            if is_unsealed(stored := read_json(path)):
                write_json(path, sealed(stored))


def _any_killed(folder: Path, study: Study, search: Search) -> bool:
    """Whether a trial of the searches waits to be resumed because it was killed again and again."""
    ids = {trial.id for trial in _stored(folder, study, search)}
    return any(run.was_killed() for run in read_study(folder).runs if run.trial.id in ids)


def n_search_trials(study: Study) -> int:
    """Trials that the searches of a study take at most."""
    search = search_of(study)
    return 0 if search is None else search.trials * len(searched_points(study, search))


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
    outcome = None
    while True:
        tuning = [run for run in read_study(folder).runs if run.trial.kind == TUNING]
        if any(run.status == "damaged" for run in tuning):
            # What it had found is not known, and neither is what the search would have tried next.
            standing = _standing(folder, [run.status for run in tuning])
            return replace(standing, damaged=damaged_runs(read_study(folder)))
        _suggest_round(folder, study, search)
        trials = _stored(folder, study, search)
        ids = {trial.id for trial in trials}
        statuses = [run.status for run in read_study(folder).runs if run.trial.id in ids]
        waiting = ("pending", "running", "failed") if retry_failed else ("pending", "running")
        if not any(status in waiting for status in statuses):
            return outcome or _standing(folder, statuses)
        now = run_study(_listed(study, trials), folder, executor, retry_failed=retry_failed, reporter=quiet, **options)
        before = outcome or replace(now, ran=0, wall_s=0.0)
        outcome = replace(now, ran=before.ran + now.ran, wall_s=before.wall_s + now.wall_s)
        retry_failed = False
        if now.pending or now.stopped or (now.failed and options.get("fail_fast")):
            return outcome


def _standing(folder: Path, statuses: Sequence[str]) -> StudyOutcome:
    """The outcome of a search in which nothing was left to run."""
    finished, failed, diverged = (statuses.count(status) for status in ("finished", "failed", "diverged"))
    return StudyOutcome(folder, len(statuses), finished, failed, diverged, 0, 0, len(statuses), 0.0)


def _joined(one: StudyOutcome, two: StudyOutcome) -> StudyOutcome:
    return replace(
        two,
        total=one.total + two.total,
        finished=one.finished + two.finished,
        failed=one.failed + two.failed,
        diverged=one.diverged + two.diverged,
        pending=one.pending + two.pending,
        ran=one.ran + two.ran,
        skipped=one.skipped + two.skipped,
        wall_s=one.wall_s + two.wall_s,
    )


def _finals(study: Study, search: Search, folder: Path) -> list[Trial]:
    """Axes × seeds with the values that the searches in ``folder`` found.

    Raises:
        InputError: a search has found nothing.
    """
    found = tuned_points(read_study(folder), study)
    known = [one.point for one in found]
    for point in searched_points(study, search):
        if point not in known:
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


def _listed(study: Study, trials: tuple[Trial, ...]) -> ListedStudy:
    known = {one.name: getattr(study, one.name) for one in fields(Study) if one.init}
    return ListedStudy(**known, listed=trials)


def _stored(folder: Path, study: Study, search: Search) -> tuple[Trial, ...]:
    """The stored search trials at the searched points: point by point, in the order suggested."""
    if not (folder / STUDY_JSON).exists():
        return ()
    return _in_order(study, search, load_definition(folder).trials)


def _in_order(study: Study, search: Search, trials: Iterable[Trial]) -> tuple[Trial, ...]:
    at: dict[str, list[Trial]] = {canonical_json(point): [] for point in searched_points(study, search)}
    for trial in trials:
        key = canonical_json({axis: trial.axes.get(axis) for axis in study.axes})
        if trial.kind == TUNING and key in at:
            at[key].append(trial)
    return tuple(trial for members in at.values() for trial in members)


def _suggest_round(folder: Path, study: Study, search: Search) -> None:
    """Add the next round of every search that is due to the study's definition.

    Under the folder's lock: a second runner finds the round there and adds nothing.
    """
    with locked(folder):
        view = read_study(folder)
        new: list[Trial] = []
        for point in searched_points(study, search):
            tried = tried_at(view, search, point)
            if all(one.status != "running" for one in tried):
                new += _round(study, search, point, tried)
        if new:
            definition = load_definition(folder)
            listed = _in_order(study, search, (*definition.trials, *new))
            save_definition(folder, definition.extended(_listed(study, listed)))


def _round(study: Study, search: Search, point: Point, ended: list[Tried]) -> list[Trial]:
    """The trials of the next round at ``point``, none when the search is over."""
    tried, new = list(ended), []
    default = merge(study.base, point)
    default.update(flatten(default))  # the space names nested hyperparameters by dotted keys
    # The address of everything random in this search, with its seed and a trial's number.
    purpose = content_id([study.trial, base_identity(study.base), point])
    while len(tried) < min(search.trials, len(ended) + search.together):
        values = _suggest(search, tried, purpose, default)
        if values is None:
            break
        new.append(search_trial(study, search, point, ended, len(tried), values))
        tried.append(Tried(values, None, "running"))
    return new


def search_trial(
    study: Study, search: Search, point: Point, ended: Sequence[Tried], number: int, values: Mapping[str, Any]
) -> Trial:
    """Trial ``number`` of the search at ``point``; ``ended`` are the trials of the rounds before."""
    overrides: dict[str, Any] = {**point, **values, "kind": TUNING}
    thresholds = [] if search.pruning is None else search.pruning.thresholds(ended)
    if thresholds:
        overrides[PRUNE_KEY] = thresholds
    shown = "-".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in point.items())
    # It names a folder.
    shown = re.sub(r"[^A-Za-z0-9._=+-]+", "_", shown)[:LABEL_LENGTH]
    label = "-".join(filter(None, ["tuning", shown, f"{number:03d}"]))
    return build_trial(study.trial, study.base, overrides, int(study.seeds[0]), TUNING, label=label)


def _suggest(search: Search, tried: Sequence[Tried], purpose: str, default: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values for trial number ``len(tried)``; ``None`` when a finite space has no untried values left.

    Trial 0 tries the defaults where they lie in the space. The first ``search.startup`` are a shifted Halton sequence
    over the ranges, the others come from Optuna's tree-structured Parzen estimator (Bergstra et al. 2011,
    multivariate): a loss counts as it is, whatever was pruned, diverged or failed as worse than all of them, and what
    still runs keeps others away.
    """
    if search.sampler:
        return suggestion(search, tried, purpose, default)
    known = {canonical_json(one.values) for one in tried}
    number, space = len(tried), search.space
    if number == 0 and all(space[name].holds(default.get(name)) for name in space):
        return {name: default[name] for name in space}
    for attempt in range(_ATTEMPTS):
        if number < search.startup:
            found = _spread(space, number + attempt * search.startup, search.seed, purpose)
        else:
            found = _estimated(space, tried, address(search.seed, purpose, number, attempt) % 2**32)
        if canonical_json(found) not in known:
            return found
    return _untried(space, known, search.seed, purpose)


def _spread(space: Mapping[str, Dimension], place: int, seed: int, purpose: str) -> dict[str, Any]:
    """Point ``place + 1`` of a Halton sequence, shifted at random around the torus."""
    from scipy.stats import qmc

    (shares,) = qmc.Halton(len(space), scramble=False).fast_forward(place + 1).random(1)
    shares = (shares + generator(seed, purpose, "startup").random(len(space))) % 1.0
    return {name: dimension.at(float(share)) for (name, dimension), share in zip(space.items(), shares, strict=True)}


def _estimated(space: Mapping[str, Dimension], tried: Sequence[Tried], seed: int) -> dict[str, Any]:
    optuna = require("optuna", "tune", "a search for hyperparameters")
    states = optuna.trial.TrialState
    distributions = {name: dimension.distribution(optuna) for name, dimension in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=sampler)
        for one in tried:
            finished = one.status == "finished" and one.loss is not None
            running = one.status == "running"
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(one.values),
                    distributions=distributions,
                    # Pruned without intermediate values is the worst that the estimator knows.
                    state=states.COMPLETE if finished else states.RUNNING if running else states.PRUNED,
                    value=one.loss if finished else None,
                )
            )
        asked = study.ask(fixed_distributions=distributions)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: asked.params[name] for name in space}


def _untried(space: Mapping[str, Dimension], known: set[str], seed: int, purpose: str) -> dict[str, Any] | None:
    """An untried point of a finite space, drawn at random; ``None`` when there is none."""
    lists = [dimension.values for dimension in space.values()]
    finite = [values for values in lists if values is not None]
    if len(finite) < len(lists) or math.prod(len(values) for values in finite) > 100_000:
        return None
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*finite)]
    left = [point for point in points if canonical_json(point) not in known]
    if not left:
        return None
    return left[int(generator(seed, purpose, "untried", len(known)).integers(len(left)))]


@dataclass(frozen=True, slots=True)
class _Rounds:
    """A reporter that does not hear the end of a round as the end of the study."""

    reporter: Reporter

    def begin(self, folder: Path, total: int, done: int) -> None:
        self.reporter.begin(folder, total, done)

    def event(self, event: Event) -> None:
        self.reporter.event(event)

    def end(self, outcome: StudyOutcome | None) -> None:
        self.reporter.end(None)
