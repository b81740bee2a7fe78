"""Whether the loss falls, rises or turns along a scale: tests that need no law.

*Trend.* The largest of four regressions of ln loss: on a line in ln x and on three saturating shapes, since a law with
a floor bends away from a line and its misfit must not count as noise. The test is multiplicity-adjusted by simulating
the joint distribution under pure noise for the table's own design (multiple contrast test; Bretz, Pinheiro and Branson
2005, Biometrics 61, 738; for one bending shape already Hotelling 1939). Its interval is dual to it: it leaves out 0 if
and only if the trend is named. Distances between runs of one scale and between scales are pooled unless an F test
separates them.

*Turn.* Not monotone is what both rises and falls beyond chance: a parabola with significant slopes of opposite sign at
its ends (Lind and Mehlum 2010, Oxford Bull. Econ. Stat. 72, 109) that fits better than every monotone curve; or the
steepest stretches upwards and downwards, against noise from second differences, calibrated on a constant (Hall and
Heckman 2000, Ann. Stat. 28, 20).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import fdtrc, stdtr, stdtrit

from metascale.laws.observations import Array, Integers
from metascale.laws.record import Interval, Trend, TrendResult

POOLING_LEVEL = 0.1  # noise between runs and between scales is pooled unless an F test separates it at this level
MATTERS = 0.05  # a drop of the loss per factor of 10 of the scale that a reader would want to know of
BENDS = np.array([0.0, 1.5, 3.0, 6.0, -3.0])  # (e^-bu - 1) / (1 - e^-b) over the range u = 0 ... 1; 0 is the line
WEIGHTS = np.array([0.47, 0.24, 0.14, 0.08, 0.07])  # shares of the level, chosen for power on 4 scales
DRAWS = 10_000
BEND_SHARE = 0.7  # of 1 - level: how often a straight line may be given a floor
TURN_SHARE = 0.4  # of 1 - level: how sure a rise and a fall must be before a curve is not monotone
MOST_GROUPS = 24  # neighbouring scales are averaged to so many before turns are looked for
ROUNDING = 1e-12  # a spread of ln loss, relative to its size, that is only rounding


def trend_test(t: Array, y: Array, cell: Integers, level: float, nuisance: Array | None = None) -> TrendResult:
    """Whether ``y`` = ln loss [n] falls or rises with ``t`` = ln x [n], other things (``nuisance`` [n, q]) held fixed.

    Args:
        cell: [n] which distinct point a row is at: rows of one cell are runs that differ by chance alone.
    """
    held = np.ones((len(y), 1)) if nuisance is None else nuisance
    if np.ptp(y) <= rounding(y):
        return TrendResult("none", Interval(0.0, 0.0, 0.0), level)
    found = _contrast(t, y, cell, held, BENDS, WEIGHTS)
    if found is None:
        return TrendResult("undecided", None, level)
    t_values, freedom, units, smallest = found
    best = int(np.argmin(2 * stdtr(freedom, -np.abs(t_values)) / WEIGHTS))
    threshold = float(np.quantile(smallest, 1 - level)) * WEIGHTS[best]
    unit = float(units[best]) / float(np.ptp(t))
    estimate, reach = float(t_values[best]) * unit, float(stdtrit(freedom[best], 1 - threshold / 2)) * unit
    exponent = Interval(estimate, estimate - reach, estimate + reach)
    return TrendResult(answer(exponent), exponent, level)


def bends_upward(t: Array, y: Array, cell: Integers, level: float) -> bool:
    """Whether ln loss bends towards a floor: a one-sided test against a straight line in ln x."""
    bends = BENDS[1:]
    found = _contrast(t, y, cell, np.column_stack([np.ones_like(t), t - t.mean()]), bends, np.ones(len(bends)))
    if found is None or np.ptp(y) <= rounding(y):
        return False
    t_values, freedom, _, smallest = found
    t_values = t_values * np.sign(bends)
    best = int(np.argmax(np.abs(t_values)))
    p_value = 2 * float(stdtr(freedom[best], -abs(t_values[best])))
    return bool(t_values[best] > 0 and p_value < np.quantile(smallest, 2 * BEND_SHARE * (1 - level)))


def rounding(y: Array) -> float:
    """A spread of ln loss that is nothing but rounding."""
    return ROUNDING * max(1.0, float(np.abs(y).max()))


def _contrast(
    t: Array, y: Array, cell: Integers, held: Array, bends: Array, weights: Array
) -> tuple[Array, Array, Array, Array] | None:
    """Student's t of each shape, its degrees of freedom, the size of one t in falls of ln loss, and the null draws.

    None where what is held fixed leaves nothing to test.
    """
    basis, values, _ = np.linalg.svd(held, full_matrices=False)
    q = basis[:, values > 1e-9 * values[0]]
    span, n_free, within_freedom = float(np.ptp(t)), int(cell.max()) + 1 - q.shape[1], len(y) - int(cell.max()) - 1
    if n_free < 2 or span <= 0:
        return None
    shapes = _shapes((t - t.min()) / span, bends)
    shapes = shapes - (shapes @ q) @ q.T
    size = np.linalg.norm(shapes, axis=1)
    if (size < 1e-9).any():
        return None
    shapes = shapes / size[:, None]
    left = y - q @ (q.T @ y)
    means = np.bincount(cell, y) / np.bincount(cell)
    within = float(np.sum((y - means[cell]) ** 2))
    z = shapes @ left
    between = np.maximum(float(left @ left) - within - z * z, len(y) * rounding(y) ** 2)
    variance, freedom = _noise(between, n_free - 1, np.asarray(within), within_freedom)
    correlations = tuple(map(tuple, np.round(shapes @ shapes.T, 6).tolist()))
    smallest = _smallest_of_noise(correlations, n_free, within_freedom, tuple(weights.tolist()))
    return z / np.sqrt(variance), freedom, np.sqrt(variance) / size, smallest


def answer(exponent: Interval) -> Trend:
    """What the interval of the mean exponent says."""
    if exponent.low > 0:
        return "falls"
    if exponent.high < 0:
        return "rises"
    return "undecided" if drop(exponent.high) > MATTERS else "none"


def drop(exponent: float, factor: float = 10.0) -> float:
    """The share of the loss that goes when x grows by ``factor``."""
    return float(1 - factor ** -max(exponent, 0.0))


def _shapes(u: Array, bends: Array) -> Array:
    """[shapes, n] falling from 0 to -1 over u = 0 ... 1."""
    return np.array([-u if bend == 0 else np.expm1(-bend * u) / -np.expm1(-bend) for bend in bends])


def _noise(between: Array, freedom: int, within: Array, within_freedom: int) -> tuple[Array, Array]:
    """Variance and degrees of freedom: of all residuals, or of the scales alone where they differ by more."""
    pooled, total = (between + within) / (freedom + within_freedom), float(freedom + within_freedom)
    if within_freedom == 0:
        return pooled, np.full(between.shape, total)
    ratio = (between / freedom) / np.maximum(within / within_freedom, 1e-300)
    apart = fdtrc(freedom, within_freedom, ratio) < POOLING_LEVEL
    return np.where(apart, between / freedom, pooled), np.where(apart, float(freedom), total)


@lru_cache(maxsize=256)
def _smallest_of_noise(
    correlations: tuple[tuple[float, ...], ...], n_free: int, within_freedom: int, weights: tuple[float, ...]
) -> Array:
    """[draws] the smallest weighted p-value of the shapes in tables of pure noise of this design."""
    values, vectors = np.linalg.eigh(np.array(correlations))
    kept = np.argsort(-values)[: min(n_free, int(np.sum(values > 1e-5)))]
    rng = np.random.default_rng(20240)
    draws = rng.standard_normal((DRAWS, len(kept)))
    z = (draws * np.sqrt(values[kept])) @ vectors[:, kept].T
    rest, within = n_free - len(kept), np.zeros(DRAWS)
    total = np.sum(draws**2, 1) + (rng.chisquare(rest, DRAWS) if rest else 0.0)
    if within_freedom:
        within = rng.chisquare(within_freedom, DRAWS)
    between = np.maximum(total[:, None] - z * z, 1e-12)
    variance, freedom = _noise(between, n_free - 1, within[:, None], within_freedom)
    return np.asarray((2 * stdtr(freedom, -np.abs(z) / np.sqrt(variance)) / np.array(weights)).min(1))


def turn_test(t: Array, y: Array, level: float) -> TrendResult | None:
    """Where ``y`` [n] turns along ``t`` [n], if it both falls and rises beyond chance; None otherwise."""
    levels, cell = np.unique(np.round(t, 9), return_inverse=True)  # what differs by rounding is one scale
    counts = np.bincount(cell).astype(float)
    means = np.bincount(cell, y) / counts
    if len(levels) < 4 or np.ptp(means) <= rounding(y):
        return None
    within, freedom = float(np.sum((y - means[cell]) ** 2)), len(y) - len(levels)
    share = TURN_SHARE * (1 - level)
    return _parabola(levels, means, counts, within, freedom, share) or _stretches(levels, means, counts, share)


def _parabola(t: Array, y: Array, counts: Array, within: float, freedom: int, share: float) -> TrendResult | None:
    span = float(np.ptp(t))
    u = (t - t[0]) / span
    design = np.column_stack([np.ones_like(u), u, u * u])
    inverse = np.linalg.inv(design.T @ (design * counts[:, None]))
    constant, slope, bend = inverse @ design.T @ (counts * y)
    squares = float(counts @ (y - constant - slope * u - bend * u * u) ** 2)
    least = float(counts.sum()) * rounding(y) ** 2
    variances, freedoms = _noise(np.asarray(max(squares, least)), len(u) - 3, np.asarray(within), freedom)
    variance, reach = float(variances), float(stdtrit(float(freedoms), 1 - share / 2))
    ends = []
    for at in (0.0, 1.0):
        weights = np.array([0.0, 1.0, 2 * at])
        estimate = float(slope + 2 * bend * at)
        error = reach * float(np.sqrt(variance * (weights @ inverse @ weights)))
        ends.append(Interval(-estimate / span, (-estimate - error) / span, (-estimate + error) / span))
    first, last = (answer(end) for end in ends)
    if {first, last} != {"falls", "rises"}:
        return None
    monotone = min(float(counts @ (y - _monotone(y, counts, rising)) ** 2) for rising in (True, False))
    if (monotone - squares) / variance < reach**2:
        return None
    turn = float(np.exp(t[0] - span * slope / (2 * bend)))
    return TrendResult("not monotone", ends[1], 1 - share, (turn,))


def _monotone(y: Array, counts: Array, rising: bool) -> Array:
    return np.asarray(isotonic_regression(y, weights=counts, increasing=rising).x)


def _stretches(t: Array, y: Array, counts: Array, share: float) -> TrendResult | None:
    """The stretch that goes most evidently against the rest of the curve."""
    if len(t) > MOST_GROUPS:
        group = np.arange(len(t)) * MOST_GROUPS // len(t)
        total: Array = np.bincount(group, counts).astype(float)
        t, y, counts = np.bincount(group, counts * t) / total, np.bincount(group, counts * y) / total, total
    if len(t) < FEWEST_FOR_STRETCHES:
        return None
    u = (t - t[0]) / np.ptp(t)
    windows, steps = _contrasts(tuple(u.tolist()), tuple(counts.tolist()))
    limit = _steepest_of_noise(tuple(np.round(u, 6).tolist()), tuple(counts.tolist()), share)
    noise = max(float(np.sqrt(np.mean((steps @ y) ** 2))), rounding(y))
    found = windows @ y
    rise, fall = int(np.argmax(found)), int(np.argmin(found))
    if min(found[rise], -found[fall]) <= limit * noise:
        return None
    against = rise if y[-1] < y[0] else fall
    places = np.flatnonzero(windows[against])
    first, last = places[0], places[-1]
    inside = slice(first, last + 1)
    unit = 1 / float(windows[against, inside] @ t[inside])
    slope, reach = -float(found[against]) * unit, limit * noise * unit
    return TrendResult(
        "not monotone",
        Interval(slope, slope - reach, slope + reach),
        1 - share,
        (float(np.exp(t[first])), float(np.exp(t[last]))),
    )


FEWEST_FOR_STRETCHES = 7


@lru_cache(maxsize=64)
def _contrasts(u: tuple[float, ...], counts: tuple[float, ...]) -> tuple[Array, Array]:
    """Slopes over all stretches of at least 2 scales, and second differences, each of unit variance under noise."""
    t, r, n = np.array(u), np.array(counts), len(u)
    windows, steps = [], []
    for first in range(n - 1):
        for last in range(first + 2, n + 1):
            row = np.zeros(n)
            own = r[first:last]
            row[first:last] = own * (t[first:last] - np.average(t[first:last], weights=own))
            windows.append(row)
    for first in range(n - 2):
        row, at = np.zeros(n), t[first : first + 3]
        row[first : first + 3] = [1 / ((at[k] - at[k - 1]) * (at[k] - at[k - 2])) for k in range(3)]
        steps.append(row)
    return tuple(np.array(rows) / np.sqrt(np.sum(np.square(rows) / r, 1))[:, None] for rows in (windows, steps))


@lru_cache(maxsize=64)
def _steepest_of_noise(u: tuple[float, ...], counts: tuple[float, ...], share: float) -> float:
    """What the steepest stretch of pure noise, in units of that noise, passes in half of ``share`` of all tables."""
    windows, steps = _contrasts(u, counts)
    draws = np.random.default_rng(20240).standard_normal((DRAWS, len(u))) / np.sqrt(counts)
    noise = np.sqrt(np.mean((draws @ steps.T) ** 2, 1))
    return float(np.quantile((draws @ windows.T).max(1) / noise, 1 - share / 2))
