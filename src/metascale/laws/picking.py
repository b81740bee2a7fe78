"""Which of many points to measure for their cost, where everything is jointly normal: greedy, by rank-one updates.

Measuring point i with noise of variance s² takes K(:, i) K(i, :) / (K(i, i) + s²) from the covariance K,
whatever the outcome: a plan's promise is known before its runs. A set is grown by the run with the largest fall of the
targets' mean variance per cost^p. Of the sets for several p the one that leaves least is taken: cheap runs (p = 1)
can crowd out the one that matters and the best run alone (p = 0) can eat the budget; of sets that leave nearly the
same, it is the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metascale.laws.observations import Array, Integers, Mask

POWERS = (0.0, 0.5, 1.0)
MOST_PICKS = 500
NEARLY = 0.02


class Joint(Protocol):
    """A joint normal distribution of the law at ``n_points`` points; ``noise2``: variance of a run about it."""

    @property
    def n_points(self) -> int: ...

    @property
    def noise2(self) -> float: ...

    def columns(self, index: Integers) -> Array:
        """[n_points, len(index)] covariances."""
        ...

    def diagonal(self) -> Array:
        """[n_points] variances."""
        ...


@dataclass(frozen=True)
class Dense:
    """The covariance [n, n] as a matrix."""

    covariance: Array
    noise2: float

    @property
    def n_points(self) -> int:
        return len(self.covariance)

    def columns(self, index: Integers) -> Array:
        return np.asarray(self.covariance[:, index])

    def diagonal(self) -> Array:
        return np.asarray(np.diag(self.covariance).copy())


@dataclass(frozen=True)
class Picks:
    """A plan.

    Attributes:
        index: [k] candidates in the order in which they were picked; cost: [k].
        before: mean variance of the targets without any run; left: [k] after each.
        predictive: [k] variance of each run's own loss, noise included, before it and after those ahead of it.
        targets: [m] variance of every target after all.
    """

    index: Integers
    cost: Array
    before: float
    left: Array
    predictive: Array
    targets: Array

    @property
    def after(self) -> float:
        return float(self.left[-1]) if len(self.left) else self.before


def pick(
    joint: Joint, cost: Array, targets: Integers, budget: float, *, most: int | None = None,
    free: Mask | None = None, powers: Sequence[float] = POWERS,
) -> Picks:  # fmt: skip
    """The best of the greedy plans for ``powers``.

    Args:
        cost: [n] of the candidates, which are the first n points; targets: [m] indices of points.
        most: runs at most; free: [n] candidates that may be picked.
    """
    found = [grow(joint, cost, targets, budget, power, most=most, free=free) for power in powers]
    best = min(plan.after for plan in found)
    return min((plan for plan in found if plan.after <= (1 + NEARLY) * best), key=lambda plan: len(plan.index))


def grow(
    joint: Joint, cost: Array, targets: Integers, budget: float, power: float, *, most: int | None = None,
    free: Mask | None = None,
) -> Picks:  # fmt: skip
    """Pick while the budget lasts, each time the candidate with the largest fall of variance per cost**power."""
    n, noise2 = len(cost), joint.noise2
    open_ = np.ones(n, bool) if free is None else free.copy()
    with_targets, variance = joint.columns(targets), joint.diagonal()
    before, left = float(variance[targets].mean()), budget
    index: list[int] = []
    steps: list[Array] = []
    after, predictive = [], []
    price = cost**power
    for _ in range(min(n, MOST_PICKS if most is None else most)):
        possible = open_ & (cost <= left)
        if not possible.any():
            break
        gain = (with_targets[:n] ** 2).mean(1) / (np.maximum(variance[:n], 0.0) + noise2)
        best = int(np.argmax(np.where(possible, gain / price, -1.0)))
        column = joint.columns(np.array([best]))[:, 0]
        if steps:
            known = np.array(steps)
            column = column - known[:, best] @ known
        total = max(float(column[best]), 0.0) + noise2
        step = column / np.sqrt(total)
        with_targets = with_targets - step[:, None] * step[targets]
        variance = variance - step**2
        steps.append(step)
        index.append(best)
        predictive.append(total)
        after.append(float(np.maximum(variance[targets], 0.0).mean()))
        open_[best] = False
        left -= cost[best]
    chosen = np.array(index, dtype=np.intp)
    return Picks(
        chosen, cost[chosen], before, np.array(after), np.array(predictive), np.maximum(variance[targets], 0.0)
    )
