"""Searching nuisance hyperparameters inside a study: for every point of its axes, or once for all of them.

A search's trials are ordinary trials of the study, of kind ``"tuning"``: they are claimed, checkpointed, killed and
resumed like any other. Then the trials of the axes run with the values found. What was found is read back from the
run folders by `tuned_points`. Values are suggested in rounds (``together``), from the rounds before alone, so that
neither the number of workers nor an interruption changes them, and two runners suggest the same.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from metascale.core.canonical import content_id, plain
from metascale.core.errors import InputError
from metascale.study.design import LABEL_LENGTH, Study, Trial, build_trial
from metascale.study.search.points import point_key, searched_points
from metascale.study.search.space import Dimension, Edge, dimension_from_json
from metascale.study.search.suggest import Tried, TriedStatus
from metascale.study.store.reading import RunView, StudyView

KEY = "tune"
"""The key of a study's base that holds a search."""
KIND = "tuning"
PRUNE_KEY = "prune_above"
"""The key of a search trial's configuration: ``[[step, loss], ...]``, end where the best loss so far is above."""
PRUNED = "pruned_at_step"
"""The key of a result that says a trial ended early."""

Strategy = Literal["each", "smallest", "rule"]


@dataclass(frozen=True, slots=True)
class Pruning:
    """End a trial whose best loss so far lies above the median of the trials before it, at the same step.

    The thresholds are computed from the records of ended trials and stand in the configuration of the trial that they
    may end, so the decision is the same after a kill.

    Args:
        record, column: where a trial leaves its evaluation curve.
        n_before: ended trials that a threshold needs.
        rungs: at how many evaluations, evenly spread, a trial may end.
        by: the column that says how far a trial is: ``"epoch"`` compares trials of different batch sizes after the
            same number of examples. Its values stand in the thresholds in the place of steps.

    Source: the median stopping rule of Golovin et al. 2017 (Google Vizier), section 3.2.1.
    """

    record: str = "eval_stats"
    column: str = "validation_loss_nats"
    n_before: int = 4
    rungs: int = 4
    by: str = "step"

    def __post_init__(self) -> None:
        if self.n_before < 1 or self.rungs < 1:
            raise InputError(f"pruning needs n_before and rungs of at least 1, not {self.n_before} and {self.rungs}")


@dataclass(frozen=True, slots=True)
class Search:
    """What to tune and how long.

    Args:
        space: ranges by configuration key.
        trials: values tried at each searched point, in all.
        objective: the column of the results that is made small: a validation loss, never a test loss.
        startup: of these, spread evenly before the estimator suggests.
        together: values suggested from the same knowledge; that many may be tried at a time.
        seed: of the suggestions.
        strategy: ``"each"`` searches every point of the axes; ``"smallest"`` the smallest ``size`` alone, whose values
            all sizes then use (what μP allows); ``"rule"`` searches ``rule_points`` sizes, to which a rule of the size
            is fitted for every hyperparameter (see `tuning_rule`). Other axes are searched apart in each case.
        size: the size for these two: an axis of numbers, or the import path ``"module:function"`` of a function from a
            trial's configuration to its size (a number of parameters). A rule visits the smallest values of an axis;
            of a measured size, those nearest to an even spread over the smaller half of its logarithm.
        along: the axes that a measured size stands for; all others are searched apart.
        rule_points: see ``strategy``.
        pruning: how trials end early; ``None``: they do not.

    Raises:
        InputError: an empty space, or a number out of range.
    """

    space: Mapping[str, Dimension]
    trials: int = 16
    objective: str = "validation_loss_nats"
    startup: int = 6
    together: int = 4
    seed: int = 0
    strategy: Strategy = "each"
    size: str | None = None
    along: Sequence[str] = ()
    rule_points: int = 3
    pruning: Pruning | None = field(default_factory=Pruning)

    def __post_init__(self) -> None:
        if not self.space:
            raise InputError("a search needs at least one hyperparameter in its space")
        for name, least in (("trials", 1), ("startup", 1), ("together", 1), ("rule_points", 2), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"'{name}' of a search is a whole number of at least {least}, not {value!r}")
        if self.strategy not in ("each", "smallest", "rule"):
            raise InputError(f"the strategy of a search is 'each', 'smallest' or 'rule', not {self.strategy!r}")
        if isinstance(self.along, str) or not isinstance(self.along, Sequence):
            raise InputError(f"'along' of a search is a list of axes, not {self.along!r}")
        object.__setattr__(self, "along", tuple(self.along))

    @property
    def measured(self) -> bool:
        """Whether the size is a function of the configuration and no axis."""
        return self.size is not None and ":" in self.size

    @staticmethod
    def from_json(stored: Any) -> Search:
        """A search as a YAML file or a study's base holds it; ``prune: false`` leaves pruning out.

        Raises:
            InputError: an unknown key, or a value that is not allowed.
        """
        if not isinstance(stored, Mapping):
            raise InputError(f"'{KEY}' needs keys and values such as space and trials, not {stored!r}")
        _refuse_unknown(KEY, stored, [*(one.name for one in fields(Search) if one.name != "pruning"), "prune"])
        if not isinstance(stored.get("space"), Mapping):
            raise InputError(f"'{KEY}' needs a space: the range of each hyperparameter, by its name")
        values = {key: value for key, value in stored.items() if key not in ("space", "prune")}
        space = {str(name): dimension_from_json(str(name), kind) for name, kind in stored["space"].items()}
        return Search(space=space, pruning=_pruning(stored.get("prune", True)), **values)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        own = {one.name: getattr(self, one.name) for one in fields(Search) if one.name not in ("space", "pruning")}
        space = {name: dimension.to_json() for name, dimension in self.space.items()}
        return {**own, "space": space, "prune": False if self.pruning is None else plain(self.pruning)}


def _pruning(stored: Any) -> Pruning | None:
    if isinstance(stored, bool):
        return Pruning() if stored else None
    if not isinstance(stored, Mapping):
        raise InputError(f"'{KEY}.prune' is true, false, or keys and values, not {stored!r}")
    _refuse_unknown(f"{KEY}.prune", stored, [one.name for one in fields(Pruning)])
    return Pruning(**stored)


def _refuse_unknown(where: str, stored: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in stored:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"allowed keys are: {', '.join(known)}"
            raise InputError(f"'{where}' has no key '{key}'; {hint}")


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found at one point.

    Args:
        point: values of the axes there.
        values: the hyperparameters of the lowest loss.
        loss: that loss.
        tried: everything tried, in order.
        edges: hyperparameters whose best value lies at an end of its range: the best may lie beyond.
    """

    point: Mapping[str, Any]
    values: Mapping[str, Any]
    loss: float
    tried: tuple[Tried, ...]
    edges: Mapping[str, Edge]

    def curve(self, name: str) -> list[tuple[Any, float]]:
        """(value, loss) of every finished trial, by the value of one hyperparameter."""
        known = [
            (one.values[name], one.loss) for one in self.tried if one.status == "finished" and one.loss is not None
        ]
        return sorted(known, key=lambda pair: (str(type(pair[0])), pair))

    def to_json(self) -> dict[str, Any]:
        """JSON for a report."""
        return dict(plain(self))


def search_of(study: Study) -> Search | None:
    """The search in a study's base."""
    stored = study.base.get(KEY)
    return None if stored is None else Search.from_json(stored)


def purpose_of(study: Study, point: Mapping[str, Any]) -> str:
    """What the suggestions of a search are addressed by: the study's base and trial function, and the point."""
    return content_id([study.trial, study.base, point])


def search_trial(
    study: Study,
    search: Search,
    point: Mapping[str, Any],
    ended: Sequence[Tried],
    number: int,
    values: Mapping[str, Any],
) -> Trial:
    """Trial ``number`` of the search at ``point``; ``ended`` are the trials of the rounds before."""
    overrides: dict[str, Any] = {**point, **values, "kind": KIND}
    thresholds = thresholds_of(search.pruning, ended)
    if thresholds:
        overrides[PRUNE_KEY] = thresholds
    shown = "-".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in point.items())
    # It names a folder.
    shown = re.sub(r"[^A-Za-z0-9._=+-]+", "_", shown)[:LABEL_LENGTH]
    label = "-".join(filter(None, ["tuning", shown, f"{number:03d}"]))
    return build_trial(study.trial, study.base, overrides, int(study.seeds[0]), KIND, label=label)


def thresholds_of(pruning: Pruning | None, tried: Sequence[Tried]) -> list[list[float]]:
    """``[step, loss]`` pairs (``pruning.by`` for step): the medians of the best losses so far of the ended trials."""
    curves: list[dict[float, float]] = [
        dict(one.curve) for one in tried if one.status in ("finished", "pruned") and one.curve
    ]
    if pruning is None or len(curves) < pruning.n_before:
        return []
    steps = sorted({step for curve in curves for step in curve})[1:-1]  # neither before training nor at its end
    spread = {round((k + 1) * (len(steps) + 1) / (pruning.rungs + 1)) - 1 for k in range(pruning.rungs)}
    chosen = [steps[place] for place in sorted(spread) if 0 <= place < len(steps)]
    found = []
    for step in chosen:
        losses = sorted(curve[step] for curve in curves if step in curve)
        if len(losses) >= pruning.n_before:
            middle = len(losses) // 2
            median = losses[middle] if len(losses) % 2 else (losses[middle - 1] + losses[middle]) / 2
            found.append([step, median])
    return found


def tried_of(run: RunView, search: Search) -> Tried:
    """A search trial as its folder tells."""
    values = {name: run.trial.axes[name] for name in search.space}
    status = run.status
    if status in ("pending", "running"):
        return Tried(values, None, "running")
    if status != "finished":
        return Tried(values, None, "diverged" if status == "diverged" else "failed")
    result = run.result() or {}
    loss = result.get(search.objective)
    if not isinstance(loss, (int, float)) or isinstance(loss, bool):
        raise InputError(f"trial '{run.trial.label}' has no number '{search.objective}', which the search makes small")
    ended: TriedStatus = "finished" if result.get(PRUNED) is None else "pruned"
    return Tried(values, float(loss), ended, _best_so_far(run, search.pruning))


def _best_so_far(run: RunView, pruning: Pruning | None) -> tuple[tuple[float, float], ...]:
    if pruning is None:
        return ()
    rows = [row for row in run.rows(pruning.record) if isinstance(row.get(pruning.column), float)]
    best = itertools.accumulate((row[pruning.column] for row in rows), min)
    return tuple((row[pruning.by], loss) for row, loss in zip(rows, best, strict=True))


def tried_at(view: StudyView, search: Search, point: Mapping[str, Any]) -> list[Tried]:
    """What the search at ``point`` has tried, in order."""
    wanted = point_key(point)
    return [
        tried_of(run, search)
        for run in view.runs
        if run.trial.kind == KIND and point_key({key: run.trial.axes.get(key) for key in point}) == wanted
    ]


def tuned_points(view: StudyView, study: Study | None = None) -> tuple[Tuned, ...]:
    """What the searches of a study have found so far, from its run folders alone; none where nothing is tuned.

    Args:
        study: whose points (default: those of the folder).
    """
    study = study or view.study
    search = search_of(study)
    if search is None:
        return ()
    found = ((point, tried_at(view, search, point)) for point in searched_points(study, search))
    return tuple(one for point, tried in found if (one := best_of(search, point, tried)) is not None)


def best_of(search: Search, point: Mapping[str, Any], tried: Iterable[Tried]) -> Tuned | None:
    """The lowest loss among the finished trials (the first of equals), or ``None`` when none has finished."""
    tried = tuple(replace(one, curve=()) for one in tried)
    finished = [one for one in tried if one.status == "finished" and one.loss is not None]
    if not finished:
        return None
    best = min(finished, key=lambda one: one.loss if one.loss is not None else float("inf"))
    assert best.loss is not None
    ends = {name: dimension.edge(best.values[name]) for name, dimension in search.space.items()}
    return Tuned(point, best.values, best.loss, tried, {name: end for name, end in ends.items() if end is not None})
