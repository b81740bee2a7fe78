"""Paired statistics over per-task losses: two methods on the same meta-test tasks.

The unit is the task. Nothing here mixes in the spread across training seeds, which has another cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.laws.record import Interval

_BLOCK_DRAWS = 2_000_000


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two methods on the same tasks; differences are first minus second, so below zero means the first loses less.

    ``difference`` is in the unit of the losses; ``cohen_d`` is ``None`` when every difference is the same.
    """

    n_tasks: int
    difference: Interval
    level: float
    p_value: float
    cohen_d: float | None
    rank_biserial: float


def paired_test(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> PairedTest:
    """Mean difference with its bootstrap interval, Wilcoxon's signed-rank test and two effect sizes.

    Args:
        first: [n] losses of one method, one a task.
        second: [n] losses of the other method, the same tasks in the same order.

    Raises:
        InputError: lengths differ, fewer than two tasks, a loss that is not finite, or a level outside (0, 1).
    """
    differences = paired_differences(first, second)
    return PairedTest(
        n_tasks=differences.size,
        difference=bootstrap_mean(differences, level=level, n_resamples=n_resamples, seed=seed),
        level=level,
        p_value=wilcoxon_p(differences),
        cohen_d=cohen_d(differences),
        rank_biserial=rank_biserial(differences),
    )


def paired_differences(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """``first - second``, task by task.

    Raises:
        InputError: the two do not pair, or hold a number that is not finite.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape:
        raise InputError(f"a paired test needs two lists of one length; the shapes are {left.shape} and {right.shape}")
    if left.size < 2:
        raise InputError(f"a paired test needs at least 2 tasks; there are {left.size}")
    differences = left - right
    if not np.isfinite(differences).all():
        raise InputError(f"a paired test needs finite losses; {int((~np.isfinite(differences)).sum())} tasks have none")
    return differences


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean of ``values`` with its percentile bootstrap interval, resampling whole tasks.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Raises:
        InputError: the level is not between 0 and 1, or there is nothing to resample.
    """
    sample = np.asarray(values, dtype=np.float64)
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must lie between 0 and 1; it is {level}")
    if sample.ndim != 1 or sample.size < 2 or n_resamples < 1:
        raise InputError(f"a bootstrap needs at least 2 values and 1 resample; got {sample.size} and {n_resamples}")
    draws = generator(seed, "report.bootstrap")
    means = np.empty(n_resamples)
    block = max(1, _BLOCK_DRAWS // sample.size)
    for start in range(0, n_resamples, block):
        stop = min(start + block, n_resamples)
        means[start:stop] = sample[draws.integers(0, sample.size, (stop - start, sample.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric about zero.

    Zero differences take part in the ranking and are then dropped (Pratt 1959). The distribution is exact up to 50
    tasks without ties or zeros, and normal with the tie correction otherwise. All differences zero: 1.
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, dtype=np.float64)
    if not values.any():
        return 1.0
    sizes = np.abs(values)
    exact = values.size <= 50 and sizes.all() and np.unique(sizes).size == sizes.size
    method = "exact" if exact else "approx"
    return float(wilcoxon(values, zero_method="pratt", correction=not exact, method=method).pvalue)


def cohen_d(differences: ArrayLike) -> float | None:
    """Mean difference over the standard deviation of the differences (Cohen's d_z); ``None`` when that is zero."""
    values = np.asarray(differences, dtype=np.float64)
    spread = float(values.std(ddof=1))
    rounding = 1e-12 * float(np.abs(values).max(initial=0.0))
    return float(values.mean()) / spread if spread > rounding else None


def rank_biserial(differences: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation: (positive - negative rank sums) / all ranks, in [-1, 1]; 0 if all tie.

    Source: Kerby, The simple difference formula (2014). Zeros are ranked but belong to neither sum, as in
    ``wilcoxon_p``.
    """
    from scipy.stats import rankdata

    values = np.asarray(differences, dtype=np.float64)
    ranks = rankdata(np.abs(values))
    total = float(ranks[values != 0].sum())
    return float((ranks * np.sign(values)).sum()) / total if total > 0 else 0.0


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted so that the chance of any false rejection stays below the level, in the order given.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).

    Raises:
        InputError: a p-value outside [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise InputError(f"p-values must lie in [0, 1]; got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)
