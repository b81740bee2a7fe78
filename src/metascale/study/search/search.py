"""Searching nuisance hyperparameters inside a study: for every point of its axes, or once for all of them.

A search's trials are ordinary trials of the study, of kind ``"tuning"``: they are claimed, checkpointed, killed and
resumed like any other. Then the trials of the axes run with the values found, which `tuned_points` reads back from the
run folders. This file says what is searched and what was found; `metascale.study.search.run` runs it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from metascale.core.canonical import canonical_json, plain
from metascale.core.columns import TUNING, VALIDATION_LOSS
from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.study.design import TUNE_KEY, Study, load_function, merge
from metascale.study.search.samplers import named
from metascale.study.search.space import Dimension, Edge, LogUniform, Uniform, dimension_from_json
from metascale.study.store.folder import RunView, StudyView

PRUNE_KEY = "prune_above"
"""The key of a search trial's configuration: ``[[step, loss], ...]``, end where the best loss so far is above."""
PRUNED = "pruned_at_step"
"""The key of a result that says a trial ended early."""

Point = Mapping[str, Any]
Strategy = Literal["each", "smallest", "rule"]
TriedStatus = Literal["finished", "pruned", "diverged", "failed", "running"]


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
    column: str = VALIDATION_LOSS
    n_before: int = 4
    rungs: int = 4
    by: str = "step"

    def __post_init__(self) -> None:
        if self.n_before < 1 or self.rungs < 1:
            raise InputError(f"pruning needs n_before and rungs of at least 1, not {self.n_before} and {self.rungs}")

    def thresholds(self, tried: Sequence[Tried]) -> list[list[float]]:
        """``[step, loss]`` pairs (``by`` for step): the medians of the best losses so far of the ended trials."""
        curves = [dict(one.curve) for one in tried if one.status in ("finished", "pruned") and one.curve]
        if len(curves) < self.n_before:
            return []
        steps = sorted({step for curve in curves for step in curve})[1:-1]  # neither before training nor at its end
        spread = {round((k + 1) * (len(steps) + 1) / (self.rungs + 1)) - 1 for k in range(self.rungs)}
        found = []
        for step in (steps[place] for place in sorted(spread) if 0 <= place < len(steps)):
            losses = [curve[step] for curve in curves if step in curve]
            if len(losses) >= self.n_before:
                found.append([step, statistics.median(losses)])
        return found


@dataclass(frozen=True, slots=True)
class Search:
    """What to tune and how long.

    Args:
        space: ranges by configuration key.
        trials: values tried at each searched point, in all.
        objective: the column to minimise: a validation loss, never a test loss.
        startup: how many of the trials are spread evenly before the estimator suggests.
        together: trials suggested in one round, from the rounds before alone, so that neither the number of workers
            nor an interruption changes the values, and two runners suggest the same.
        seed: of the suggestions.
        strategy: ``"each"`` searches every point of the axes; ``"smallest"`` the smallest ``size`` alone, whose values
            all sizes then use (what μP allows); ``"rule"`` searches ``rule_points`` sizes, to which a rule of the size
            is fitted for every hyperparameter (`values_at`). Other axes are searched separately in each case.
        size: the size for these two: an axis of numbers, or the import path ``"module:function"`` of a function from a
            trial's configuration to its size (a number of parameters). A rule visits the smallest values of an axis;
            of a measured size, those nearest to an even spread over the smaller half of its logarithm.
        along: the axes that a measured size stands for; all others are searched separately.
        rule_points: see ``strategy``.
        pruning: how trials end early; ``None``: they do not.
        sampler: instead of the built-in one: a class of ``optuna.samplers`` by name, ``{name: options}``, the import
            path ``"module:function"`` of what makes a sampler, or a sampler. ``startup`` is then the sampler's own, and
            ``trials`` is a multiple of ``together``, so that a continued search has the rounds of a longer one.

    Raises:
        InputError: an empty space, or a number out of range.
    """

    space: Mapping[str, Dimension]
    trials: int = 16
    objective: str = VALIDATION_LOSS
    startup: int = 6
    together: int = 4
    seed: int = 0
    strategy: Strategy = "each"
    size: str | None = None
    along: Sequence[str] = ()
    rule_points: int = 3
    pruning: Pruning | None = field(default_factory=Pruning)
    sampler: str | Mapping[str, Any] = ""

    def __post_init__(self) -> None:
        if not self.space:
            raise InputError("a search needs at least one hyperparameter in its space")
        for name, least in (("trials", 1), ("startup", 1), ("together", 1), ("rule_points", 2), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                message = f"{name} of a search must be a whole number of at least {least}, not {value!r}"
                raise InputError(message, field=name, value=value)
        if self.strategy not in ("each", "smallest", "rule"):
            raise InputError(f"the strategy of a search is 'each', 'smallest' or 'rule', not {self.strategy!r}")
        if isinstance(self.along, str) or not isinstance(self.along, Sequence):
            raise InputError(f"'along' of a search is a list of axes, not {self.along!r}")
        object.__setattr__(self, "along", tuple(self.along))
        if self.sampler != "":
            object.__setattr__(self, "sampler", named(self.sampler))
            if self.trials % self.together:
                raise InputError(
                    f"a search with a sampler of its own takes a multiple of {self.together} trials (`together`), not "
                    f"{self.trials}",
                    field="trials",
                    value=self.trials,
                )

    @property
    def measured(self) -> bool:
        """Whether the size is a function of the configuration rather than an axis."""
        return self.size is not None and ":" in self.size

    @staticmethod
    def from_json(stored: object) -> Search:
        """A search as a YAML file or a study's base holds it; ``prune: false`` leaves pruning out.

        Raises:
            InputError: an unknown key, or a value that is not allowed.
        """
        if not isinstance(stored, Mapping):
            raise InputError(f"'{TUNE_KEY}' needs keys and values such as space and trials, not {stored!r}")
        _refuse_unknown(TUNE_KEY, stored, [*(one.name for one in fields(Search) if one.name != "pruning"), "prune"])
        if not isinstance(stored.get("space"), Mapping):
            raise InputError(f"'{TUNE_KEY}' needs a space: the range of each hyperparameter, by its name")
        values = {key: value for key, value in stored.items() if key not in ("space", "prune")}
        space = {str(name): dimension_from_json(str(name), kind) for name, kind in stored["space"].items()}
        return Search(space=space, pruning=_pruning(stored.get("prune", True)), **values)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        apart = ("space", "pruning", *(() if self.sampler else ("sampler",)))
        own = {one.name: getattr(self, one.name) for one in fields(Search) if one.name not in apart}
        space = {name: dimension.to_json() for name, dimension in self.space.items()}
        return {**own, "space": space, "prune": False if self.pruning is None else plain(self.pruning)}


def _pruning(stored: object) -> Pruning | None:
    if isinstance(stored, bool):
        return Pruning() if stored else None
    if not isinstance(stored, Mapping):
        raise InputError(f"'{TUNE_KEY}.prune' is true, false, or keys and values, not {stored!r}")
    _refuse_unknown(f"{TUNE_KEY}.prune", stored, [one.name for one in fields(Pruning)])
    return Pruning(**stored)


def _refuse_unknown(where: str, stored: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in stored:
        if key not in known:
            raise InputError(f"'{where}' has no key '{key}'; {suggest(key, known, 'allowed keys')}")


@dataclass(frozen=True, slots=True)
class Tried:
    """Values that a search tried.

    Args:
        loss: the objective; ``None`` unless it finished, or was pruned (then the best loss it had).
        status: how its trial ended; ``"running"`` when it has not.
        curve: best loss so far by step, where the trial left one.
    """

    values: Mapping[str, Any]
    loss: float | None
    status: TriedStatus
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found at one point of the axes.

    Args:
        values: the hyperparameters of the lowest ``loss``.
        tried: everything tried, in order.
        edges: hyperparameters whose best value lies at an end of its range: the best may lie beyond.
    """

    point: Point
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
        return dict(plain(self))

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> SearchResult:
        """What `to_json` wrote; a missing key is a ``KeyError``."""
        tried = tuple(Tried(dict(one["values"]), one.get("loss"), one["status"]) for one in stored["tried"])
        return SearchResult(
            dict(stored["point"]), dict(stored["values"]), float(stored["loss"]), tried, dict(stored["edges"])
        )


def search_of(study: Study) -> Search | None:
    """The search in a study's base."""
    stored = study.asked_base.get(TUNE_KEY)
    return None if stored is None else Search.from_json(stored)


def axis_points(study: Study) -> list[dict[str, Any]]:
    """Every combination of the axes' values, the first axis slowest."""
    return [dict(zip(study.axes, values, strict=True)) for values in itertools.product(*study.axes.values())]


def searched_points(study: Study, search: Search) -> list[dict[str, Any]]:
    """The points of the axes that a search visits.

    Raises:
        InputError: a key of the space is an axis, or the strategy needs a size that no axis gives; or a rule is
            asked for over sizes that are not above 0.
    """
    for name in search.space:
        if name in study.axes:
            raise InputError(f"'{name}' is an axis of study '{study.name}': it cannot be tuned as well")
    points = axis_points(study)
    if search.strategy == "each":
        return points
    along = _size_axes(study, search)
    if search.strategy == "rule" and not search.measured:
        for size in study.axes[str(search.size)]:
            if not size > 0:
                raise InputError(f"a rule over sizes needs numbers above 0; axis '{search.size}' has {size!r}")
    n_wanted = 1 if search.strategy == "smallest" else search.rule_points
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(canonical_json(_without(point, along)), []).append(point)
    chosen: set[str] = set()
    for members in groups.values():
        sizes = {_size_at(study, search, point): point for point in reversed(members)}  # the first of equal sizes
        if len(sizes) < n_wanted:
            what = f"'{search.size}'" if search.measured else f"axis '{search.size}'"
            raise InputError(f"a rule over {n_wanted} sizes needs as many; {what} has {len(sizes)}")
        spread = _spread(sizes, n_wanted) if search.measured else sorted(sizes)[:n_wanted]
        chosen |= {canonical_json(sizes[size]) for size in spread}
    return [point for point in points if canonical_json(point) in chosen]


def _size_axes(study: Study, search: Search) -> tuple[str, ...]:
    """The axes that change the size: the size itself, or those that a measured size stands for.

    Raises:
        InputError: there is no such axis, or its values are no numbers.
    """
    along = tuple(search.along) if search.measured else tuple(filter(None, (search.size,)))
    for axis in along:
        values = study.axes.get(axis, ())
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
        if not values or not (numbers or search.measured):
            along = ()
    if not along:
        what = "'along': the axes that its size stands for" if search.measured else "'size': an axis with numbers"
        raise InputError(f"strategy '{search.strategy}' needs {what}; the axes are {list(study.axes)}")
    return along


def _size_at(study: Study, search: Search, point: Point) -> float:
    """The value of the size's axis at a point, or what the size's function makes of the configuration there.

    Raises:
        InputError: the function does not exist, or does not return a positive number.
    """
    if not search.measured:
        return float(point[str(search.size)])
    try:
        measure: Any = load_function(str(search.size))
    except ModuleNotFoundError as error:
        raise InputError(f"the size '{search.size}' of a search: there is no module '{error.name}'") from error
    size = measure(merge(study.base, point))
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not size > 0:
        raise InputError(f"'{search.size}' returned {size!r} for {dict(point)}: a size is a number above 0")
    return float(size)


def _without(point: Point, axes: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name not in axes}


def _spread(sizes: Iterable[float], count: int) -> list[float]:
    """``count`` different sizes, each the nearest to one of as many places spread evenly over the smaller half."""
    left = sorted(sizes)
    low, high = math.log(left[0]), math.log(left[-1])
    found = []
    for place in range(count):
        target = low + (high - low) / 2 * place / max(1, count - 1)
        nearest = min(left, key=lambda size: abs(math.log(size) - target))
        left.remove(nearest)
        found.append(nearest)
    return sorted(found)


def values_at(study: Study, search: Search, found: Sequence[SearchResult], point: Point) -> dict[str, Any]:
    """The hyperparameters at ``point``: those found there, those of the smallest size, or those of a rule of the size.

    The rule depends on the range: a power law of the size where the range is logarithmic, a straight line in the
    logarithm of the size where it is uniform, both clipped to the range, and the value found at the largest searched
    size where it is a whole number or a choice. Both are least squares: through two sizes exactly.
    """
    if search.strategy == "each":
        return dict(next(one for one in found if one.point == point).values)
    along = _size_axes(study, search)
    others = _without(point, along)
    near = sorted(
        ((_size_at(study, search, one.point), one) for one in found if _without(one.point, along) == others),
        key=lambda pair: pair[0],
    )
    if search.strategy == "smallest":
        return dict(near[0][1].values)
    sizes, size = [size for size, _ in near], _size_at(study, search, point)
    return {
        name: _ruled(dimension, sizes, [one.values[name] for _, one in near], size)
        for name, dimension in search.space.items()
    }


def _ruled(dimension: Dimension, sizes: Sequence[float], values: Sequence[Any], size: float) -> Any:
    """The value of one hyperparameter at ``size``, from those found at ``sizes`` (ascending)."""
    if isinstance(dimension, LogUniform):
        intercept, slope = _line(sizes, [math.log(value) for value in values])
        return dimension.clip(_rounded(math.exp(intercept) * size**slope))
    if isinstance(dimension, Uniform):
        intercept, slope = _line(sizes, [float(value) for value in values])
        return dimension.clip(_rounded(intercept + slope * math.log(size)))
    return values[-1]


def _rounded(value: float) -> float:
    """Twelve significant digits: a rule that gives back 0.003 is not shown as 0.002999999999999999."""
    return float(f"{value:.12g}")


def _line(sizes: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of least squares against the logarithm of ``sizes``."""
    x = [math.log(size) for size in sizes]
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope /= math.fsum((a - mean_x) ** 2 for a in x)
    return mean_y - slope * mean_x, slope


def tried_at(view: StudyView, search: Search, point: Point) -> list[Tried]:
    """What the search at ``point`` has tried, in order.

    Raises:
        InputError: a result has no number in the column to minimise.
    """
    wanted = canonical_json(point)
    return [
        _tried(run, search)
        for run in view.runs
        if run.trial.kind == TUNING and canonical_json({key: run.trial.axes.get(key) for key in point}) == wanted
    ]


def _tried(run: RunView, search: Search) -> Tried:
    values = {name: run.trial.axes[name] for name in search.space}
    status = run.status
    # A trial that was killed from outside has not shown what its values are worth: it is resumed.
    if status in ("pending", "running") or run.was_killed():
        return Tried(values, None, "running")
    if status != "finished":
        return Tried(values, None, "diverged" if status == "diverged" else "failed")
    result = run.result() or {}
    loss = result.get(search.objective)
    if not isinstance(loss, (int, float)) or isinstance(loss, bool):
        raise InputError(f"trial '{run.trial.label}' has no number '{search.objective}', which the search minimises")
    ended: TriedStatus = "finished" if result.get(PRUNED) is None else "pruned"
    return Tried(values, float(loss), ended, _best_so_far(run, search.pruning))


def _best_so_far(run: RunView, pruning: Pruning | None) -> tuple[tuple[float, float], ...]:
    if pruning is None:
        return ()
    rows = [row for row in run.rows(pruning.record) if isinstance(row.get(pruning.column), float)]
    best = itertools.accumulate((row[pruning.column] for row in rows), min)
    return tuple((row[pruning.by], loss) for row, loss in zip(rows, best, strict=True))


def tuned_points(view: StudyView, study: Study | None = None) -> tuple[SearchResult, ...]:
    """What the searches of a study have found so far, from its run folders alone; none where nothing is tuned.

    Args:
        study: whose points (default: those of the folder).
    """
    study = study or view.study
    search = search_of(study)
    if search is None:
        return ()
    found = (_best(search, point, tried_at(view, search, point)) for point in searched_points(study, search))
    return tuple(one for one in found if one is not None)


def _best(search: Search, point: Point, tried: Iterable[Tried]) -> SearchResult | None:
    """The lowest loss among the finished trials (the first of equals), or ``None`` when none has finished."""
    tried = tuple(replace(one, curve=()) for one in tried)
    finished = [(one.loss, one.values) for one in tried if one.status == "finished" and one.loss is not None]
    if not finished:
        return None
    loss, values = min(finished, key=lambda pair: pair[0])
    ends = {name: dimension.edge(values[name]) for name, dimension in search.space.items()}
    return SearchResult(point, values, loss, tried, {name: end for name, end in ends.items() if end is not None})
