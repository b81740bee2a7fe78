"""Slopes of the loss along one axis or two: plain regressions on logarithms, with Student intervals.

Width against depth is one law L = A · d^−a · l^−b by least squares on ln L. With several seeds at a point, an F test
decides whether the scatter of seeds and the misfit of the law are pooled; where the misfit is the larger one it sets
the intervals, with the few degrees of freedom that the number of points leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc, stdtrit

from metascale.core.errors import InputError
from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import fit_law, require_scales
from metascale.laws.held_out import Replicates, table_of
from metascale.laws.objective import LogHuber
from metascale.laws.observations import bounded_exp, observe
from metascale.laws.record import Interval, Trend
from metascale.laws.trend import POOLING_LEVEL, trend_test
from metascale.laws.verdict import trend_of

CONTRASTS: Mapping[str, tuple[float, float]] = {
    "width": (1.0, 0.0),
    "depth": (0.0, 1.0),
    "width_minus_depth": (1.0, -1.0),
    "width_minus_depth_per_parameter": (0.5, -1.0),
}
"""What is estimated, as weights of the two exponents. Doubling the depth doubles the parameters of the layers and
doubling the width makes four times as many, so for equal parameters half of the width's exponent counts."""


@dataclass(frozen=True)
class WidthAndDepth:
    """The law L = A · d^−width · l^−depth on one table.

    Attributes:
        effects: by the names of `CONTRASTS`.
        log_coefficient: ln A.
        r2: of ln L.
        n_rows, n_points: runs, and points (width, depth) they lie at.
        freedom: degrees of freedom of the noise.
        noise: what the intervals hold: "seeds and misfit", "misfit" or "seeds".
    """

    effects: Mapping[str, Interval]
    log_coefficient: float
    r2: float
    n_rows: int
    n_points: int
    freedom: int
    noise: str
    level: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def width_and_depth(width: ArrayLike, depth: ArrayLike, loss: ArrayLike, level: float = 0.95) -> WidthAndDepth:
    """Fit the law to runs [n] at widths and depths.

    Raises:
        InputError: fewer than two widths or depths, both in step with one another, or no more runs than parameters.
    """
    log_d, log_l, y = (np.log(np.asarray(values, float)) for values in (width, depth, loss))
    design = np.column_stack([np.ones_like(y), -log_d, -log_l])
    for name, values in (("width", log_d), ("depth", log_l)):
        if len(np.unique(values)) < 2:
            raise InputError(f"the effect of {name} needs at least 2 values of it, not {len(np.unique(values))}")
    if np.linalg.matrix_rank(design) < 3:
        raise InputError("width and depth grow in step: their effects cannot be separated")
    if len(y) < 4:
        raise InputError(f"width and depth have 3 parameters and the table {len(y)} runs; at least 4 are needed")
    theta, *_ = np.linalg.lstsq(design, y, rcond=None)
    residuals = y - design @ theta
    variance, freedom, noise = _noise(residuals, np.column_stack([log_d, log_l]))
    covariance = variance * np.linalg.inv(design.T @ design)[1:, 1:]
    reach = float(stdtrit(freedom, (1 + level) / 2))
    effects = {}
    for name, weights in CONTRASTS.items():
        estimate = float(np.dot(weights, theta[1:]))
        error = reach * float(np.sqrt(max(np.dot(weights, covariance @ weights), 0.0)))
        effects[name] = Interval(estimate, estimate - error, estimate + error)
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(residuals @ residuals) / spread if spread > 0 else 0.0
    n_points = len(np.unique(design, axis=0))
    return WidthAndDepth(effects, float(theta[0]), r2, len(y), n_points, freedom, noise, level)


def _noise(residuals: np.ndarray, points: np.ndarray) -> tuple[float, int, str]:
    """The variance behind the intervals, its degrees of freedom, and its source."""
    cell = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(cell)
    means = np.bincount(cell, weights=residuals) / counts
    seeds, misfit = float(np.sum((residuals - means[cell]) ** 2)), float(np.sum(counts * means**2))
    seeds_freedom, misfit_freedom = len(residuals) - len(counts), len(counts) - 3
    if seeds_freedom == 0:
        return misfit / misfit_freedom, misfit_freedom, "misfit"
    if misfit_freedom == 0:
        return seeds / seeds_freedom, seeds_freedom, "seeds"
    ratio = (misfit / misfit_freedom) / max(seeds / seeds_freedom, 1e-300)
    if fdtrc(misfit_freedom, seeds_freedom, ratio) > POOLING_LEVEL:
        freedom = seeds_freedom + misfit_freedom
        return (seeds + misfit) / freedom, freedom, "seeds and misfit"
    return misfit / misfit_freedom, misfit_freedom, "misfit"


def slope(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Interval | None:
    """Slope of least squares of ``y`` [n] on ``x`` [n], with its Student interval.

    ``None`` for fewer than three points or a single x.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if len(a) < 3 or len(np.unique(a)) < 2:
        return None
    a, b = a - np.mean(a), b - np.mean(b)
    estimate = float(a @ b / (a @ a))
    error = math.sqrt(float(np.sum((b - estimate * a) ** 2)) / (len(a) - 2) / float(a @ a))
    reach = float(stdtrit(len(a) - 2, (1 + level) / 2)) * error
    return Interval(estimate, estimate - reach, estimate + reach)


def off_law(points: Sequence[Replicates]) -> list[float]:
    """ln of every point's mean loss over the power law fitted to all of them.

    The law has an irreducible loss where there are enough scales for it; too few scales for any law give zeros.
    """
    n_scales = len({point.x for point in points})
    names = ("power_irreducible", "power", "none")
    name = next((name for name in names if n_scales > ONE_AXIS[name].n_parameters), None)
    if name is None:
        return [0.0] * len(points)
    predicted = fit_law(ONE_AXIS[name], table_of(points), LogHuber(1e-3)).predict([point.x for point in points])
    return [math.log(point.mean / float(value)) for point, value in zip(points, predicted, strict=True)]


@dataclass(frozen=True)
class PerplexityLine:
    """perplexity = a · x^b by least squares on logarithms, over runs; ln perplexity is the loss.

    Attributes:
        b_low, b_high: the interval that decides the trend of the loss, times the mean loss: the two cannot disagree.
        trend: of the loss.
        r2: of ln perplexity over all runs.
    """

    a: float
    b: float
    b_low: float
    b_high: float
    trend: Trend
    r2: float
    n_runs: int
    n_sizes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def perplexity_line(
    x: ArrayLike, perplexity: ArrayLike, *, replicate: Sequence[Any] | None = None, level: float = 0.95,
    x_name: str = "x", y_name: str = "perplexity",
) -> PerplexityLine:  # fmt: skip
    """Fit perplexity = a · x^b to runs [n].

    Raises:
        InputError: fewer than three sizes, or a perplexity of 1 or less.
    """
    table = observe(x, np.log(np.asarray(perplexity, float)), replicate=replicate, x_name=x_name, loss_name=y_name)
    require_scales(table, "power")
    t, loss = table.log_x[:, 0], table.loss
    b, constant = np.polyfit(t, loss, 1)
    decided = trend_test(t, table.log_loss, table.scale, level).exponent
    ends = (decided.low, decided.high) if decided else (0.0, 0.0)
    left, spread = loss - constant - b * t, float(np.sum((loss - loss.mean()) ** 2))
    return PerplexityLine(
        a=float(bounded_exp(constant)),
        b=float(b),
        b_low=min(float(b), -float(loss.mean()) * ends[1]),
        b_high=max(float(b), -float(loss.mean()) * ends[0]),
        trend=trend_of(table, level).answer,
        r2=1 - float(left @ left) / spread if spread > 0 else 0.0,
        n_runs=table.n,
        n_sizes=table.n_scales,
    )


def undominated(cost: ArrayLike, loss: ArrayLike) -> list[tuple[float, float]]:
    """The runs [n] that no run of at most the same cost beats: (cost, loss), ascending."""
    pairs = sorted(zip(np.asarray(cost, float).tolist(), np.asarray(loss, float).tolist(), strict=True))
    found: list[tuple[float, float]] = []
    for here, value in pairs:
        if not found or value < found[-1][1]:
            found.append((here, value))
    return found
