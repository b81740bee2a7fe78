"""Small fits solved together: what one of them asks for is answered with what all the others ask for at the time.

A function that fits laws is written as steps: it yields a `Solve` and is sent its `Minimum`. Run alone, every request
is solved by itself. Of many tables run together the requests for one law are solved as one batch, which takes about as
long as a single one, since such fits are thousands of operations on a few numbers each. The numbers are the same, as a
row of a batch knows nothing of the rows beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from metascale.core.errors import MetascaleError
from metascale.laws.curves import LogSumExp, Shape
from metascale.laws.families import Law
from metascale.laws.newton import Local, Minimum, minimise
from metascale.laws.objective import Objective
from metascale.laws.observations import Array, Integers

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")

MOST_ROWS = 150  # of a table that is solved with others: a larger one fills the processor by itself
AT_WORK = 24_000  # numbers of an array that fit inside the cache with the dozen arrays beside it
AT_WORK_ALONE = 100_000  # the same where products of matrices need fewer arrays
SIZES = np.unique(np.geomspace(4, MOST_ROWS, 18).astype(int))  # tables are filled up to with rows of weight 0


@dataclass(frozen=True, eq=False)
class Solve:
    """A law to be minimised from every start on one table.

    Attributes:
        t: [n, d] log scales, centred; y, weights: [1, n] (shared) or [S, n] (one row a start); starts: [S, p].
        prior: mean [p] and precision [p]: adds ½ · precision · (θ - mean)² to the objective.
        exact: whether second derivatives of the curve are taken; sums of powers have them for free.
        stall_share: see `minimise`; by default the law's `valley_depth`.
    """

    law: Law
    t: Array
    y: Array
    weights: Array
    objective: Objective
    starts: Array
    max_iterations: int = 100
    prior: tuple[Array, Array] | None = None
    exact: bool = True
    stall_share: float | None = None

    @property
    def stall(self) -> float:
        return valley_depth(self.law) if self.stall_share is None else self.stall_share

    @cached_property
    def size(self) -> int:
        """The number of rows that the table is filled up to."""
        return int(SIZES[np.searchsorted(SIZES, self.y.shape[1])])

    @cached_property
    def batch(self) -> tuple[object, ...] | None:
        """Requests of one batch have this in common; None for one that is solved by itself."""
        if self.law.n_axes > 1 or self.prior is not None or self.y.shape[1] > MOST_ROWS:
            return None
        if not isinstance(self.law.curve, (LogSumExp, Shape)):
            return None
        return id(self.law), self.objective, self.max_iterations, self.exact, self.stall, self.size


def valley_depth(law: Law) -> float:
    """The relative difference of objectives below which two fits of a law count as one.

    Sums of powers are solved to rounding; in laws with four and more traded-off parameters a part in a thousand of the
    objective is no evidence, and following the valley to its end takes long.
    """
    return 1e-5 if isinstance(law.curve, LogSumExp) else 1e-3


def solve(request: Solve) -> Minimum:
    """The minimum from every start of one request."""
    return _batch([request])[0] if request.batch else _by_itself(request)


def _by_itself(request: Solve) -> Minimum:
    """By the products of matrices of one table that many starts share."""
    law, t, y, weights = request.law, request.t, request.y, request.weights
    lower, upper = law.bounds(t, y.reshape(-1))

    def evaluate(theta: Array, rows: Integers) -> Local:
        target = y if len(y) == 1 else y[rows]
        weight = weights if len(weights) == 1 else weights[rows]
        local = law.curve.expand(theta, t, target, weight, request.objective, request.exact)
        return local if request.prior is None else _with_prior(local, theta, *request.prior)

    width = max(AT_WORK_ALONE // y.shape[1], 1)
    with np.errstate(all="ignore"):
        return minimise(
            evaluate, request.starts, lower, upper, max_iterations=request.max_iterations, stall_share=request.stall,
            width=width,
        )  # fmt: skip


def _with_prior(local: Local, theta: Array, mean: Array, precision: Array) -> Local:
    away = theta - mean
    return Local(
        local.value + 0.5 * (away * away) @ precision,
        local.gradient + away * precision,
        local.hessian + np.diag(precision),
        local.stiffness + precision,
    )


def _batch(requests: Sequence[Solve]) -> list[Minimum]:
    """The requests of one batch, as rows of one."""
    first, starts = requests[0], [len(request.starts) for request in requests]
    columns = [
        _Columns([request.t.T for request in requests], starts, first.size, False),
        _Columns([request.y for request in requests], starts, first.size, False),
        _Columns([request.weights for request in requests], starts, first.size, True),
    ]
    limits = [
        [np.broadcast_to(end, request.starts.shape) for end in request.law.bounds(request.t, request.y.reshape(-1))]
        for request in requests
    ]
    lower, upper = (np.concatenate([pair[k] for pair in limits]) for k in (0, 1))
    curve = first.law.curve
    assert isinstance(curve, (LogSumExp, Shape))
    held: list[tuple[Integers, list[Array]]] = []

    def evaluate(theta: Array, rows: Integers) -> Local:
        single = len(rows) == 1
        if not held or held[-1][0] is not rows:
            held[:] = [(rows, [part.of(np.repeat(rows, 2) if single else rows) for part in columns])]
        theta = np.repeat(theta, 2, 0) if single else theta
        t, y, weights = held[-1][1]
        local = curve.expand_each(theta, t, y, weights, first.objective, first.exact)
        return Local(*(part[:1] for part in local)) if single else local

    with np.errstate(all="ignore"):
        found = minimise(
            evaluate, np.concatenate([request.starts for request in requests]), lower, upper,
            max_iterations=first.max_iterations, stall_share=first.stall, width=max(AT_WORK // first.size, 16),
        )  # fmt: skip
    ends = np.cumsum([0, *starts])
    return [found.rows(slice(begin, end)) for begin, end in pairwise(ends.tolist())]


class _Columns:
    """Numbers [size, rows] of the tables of a batch, by row of the batch.

    Args:
        parts: of each request [1, n] (shared by its starts) or [S, n]; starts: the S of each.
        weights: whether rows that fill a table up are 0; otherwise they repeat its first one.
    """

    def __init__(self, parts: Sequence[Array], starts: Sequence[int], size: int, weights: bool) -> None:
        self._data = np.zeros((size, sum(len(part) for part in parts)))
        places, first = [], 0
        for part, count in zip(parts, starts, strict=True):
            width, n = part.shape
            self._data[:n, first : first + width] = part.T
            if not weights:
                self._data[n:, first : first + width] = part[:, 0]
            places.append(np.arange(first, first + width) if width > 1 else np.full(count, first))
            first += width
        self._place = np.concatenate(places)

    def of(self, rows: Integers) -> Array:
        return self._data.take(self._place[rows], axis=1)


class Stepwise(Protocol[P, T_co]):
    """A function written as steps: called, it runs alone; ``steps`` are for another one's ``yield from``."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

    def steps(self, *args: P.args, **kwargs: P.kwargs) -> Generator[Solve, Minimum, T_co]: ...


Steps: TypeAlias = Generator[Solve, Minimum, T]


def stepwise(function: Callable[P, Generator[Solve, Minimum, T]]) -> Stepwise[P, T]:
    """Of a function that yields what it wants solved, one that solves each request by itself."""

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        steps = function(*args, **kwargs)
        try:
            request = next(steps)
            while True:
                request = steps.send(solve(request))
        except StopIteration as end:
            return cast(T, end.value)

    alone.steps = function  # type: ignore[attr-defined]
    return cast("Stepwise[P, T]", alone)


def together(each: Iterable[Generator[Solve, Minimum, T]]) -> list[T | MetascaleError]:
    """Run steps side by side; the result of each, or the error that it ended with."""
    running = list(each)
    results: list[T | MetascaleError | None] = [None] * len(running)
    waiting: dict[int, Solve] = {}

    def go_on(k: int, found: Minimum | None) -> None:
        try:
            waiting[k] = next(running[k]) if found is None else running[k].send(found)
        except StopIteration as end:
            results[k] = end.value
        except MetascaleError as error:
            results[k] = error

    for k in range(len(running)):
        go_on(k, None)
    while waiting:
        groups: dict[object, list[int]] = {}
        for k, request in waiting.items():
            groups.setdefault(request.batch or k, []).append(k)
        # Those who are behind catch up: what few wait for is left until more do, or until nothing else is asked for.
        chosen = max(groups.values(), key=len)
        requests = [waiting.pop(k) for k in chosen]
        found = _batch(requests) if requests[0].batch else [solve(requests[0])]
        for k, minimum in zip(chosen, found, strict=True):
            go_on(k, minimum)
    return cast("list[T | MetascaleError]", results)
