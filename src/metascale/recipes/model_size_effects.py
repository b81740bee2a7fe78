"""Width against depth: how fast the loss falls along each, as exponents of one law L = A · d^−a · l^−b.

The exponents are those of least squares on ln L against ln d and ln l. Their intervals are Student's: with several
seeds at a point, the scatter of seeds and the misfit of the law are told apart by an F test, and the misfit decides
where it is the larger one, with the few degrees of freedom that the number of points leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from metascale.core.errors import InputError

POOLING_LEVEL = 0.1
"""Seeds and misfit are pooled unless the F test parts them at this level."""
CONTRASTS: Mapping[str, tuple[float, float]] = {
    "width": (1.0, 0.0),
    "depth": (0.0, 1.0),
    "width_minus_depth": (1.0, -1.0),
    "width_minus_depth_per_parameter": (0.5, -1.0),
}
"""What is estimated, as weights of the two exponents. Doubling the depth doubles the parameters of the layers and
doubling the width makes four times as many, so for equal parameters half of the width's exponent counts."""


@dataclass(frozen=True)
class Effect:
    """An exponent, or a difference of exponents, with its interval."""

    estimate: float
    low: float
    high: float


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

    effects: Mapping[str, Effect]
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
        raise InputError("width and depth grow in step: their effects cannot be told apart")
    if len(y) < 4:
        raise InputError(f"width and depth have 3 parameters and the table {len(y)} runs; at least 4 are needed")
    theta, *_ = np.linalg.lstsq(design, y, rcond=None)
    residuals = y - design @ theta
    variance, freedom, noise = _noise(residuals, np.column_stack([log_d, log_l]))
    covariance = variance * np.linalg.inv(design.T @ design)[1:, 1:]
    reach = float(student.ppf((1 + level) / 2, freedom))
    effects = {}
    for name, weights in CONTRASTS.items():
        estimate = float(np.dot(weights, theta[1:]))
        error = reach * float(np.sqrt(max(np.dot(weights, covariance @ weights), 0.0)))
        effects[name] = Effect(estimate, estimate - error, estimate + error)
    spread = float(np.sum((y - y.mean()) ** 2))
    r2 = 1 - float(residuals @ residuals) / spread if spread > 0 else 0.0
    n_points = len(np.unique(design, axis=0))
    return WidthAndDepth(effects, float(theta[0]), r2, len(y), n_points, freedom, noise, level)


def _noise(residuals: np.ndarray, points: np.ndarray) -> tuple[float, int, str]:
    """The variance of a run that the intervals are made of, its degrees of freedom, and what it is."""
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
    if f_distribution.sf(ratio, misfit_freedom, seeds_freedom) > POOLING_LEVEL:
        freedom = seeds_freedom + misfit_freedom
        return (seeds + misfit) / freedom, freedom, "seeds and misfit"
    return misfit / misfit_freedom, misfit_freedom, "misfit"
