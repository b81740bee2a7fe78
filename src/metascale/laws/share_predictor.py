"""What predicts a share: logistic shapes with weights, whose predictions stay between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metascale.core.errors import InputError
from metascale.laws.fitting import require_level
from metascale.laws.mixture import distances
from metascale.laws.observations import Array
from metascale.laws.prediction import Prediction, points_of
from metascale.laws.record import ComponentRecord, PredictorRecord
from metascale.laws.shares import Metric, run_quantiles

DRAWS = 500  # of the parameters of a form
GROWTH = 0.35  # standard deviation by which the slope of the odds may be off beyond the table, in units of itself
LINEAR_LINK, LOG_LINK = LINKS = "share of loss", "share"
FORMULA = "share = chance + (1 - chance - missed) / (1 + exp(-(a + b ln x)))"


@dataclass(frozen=True)
class SharePredictor:
    """Shapes with weights; their predictions are shares of a new run, in the unit of the column.

    Attributes:
        theta: [F, d + 3]; covariance: [F, d + 3, d + 3]; freedom: [F] of Student's t; weights: [F].
        between: ρ of a run; trials: questions of a new run (infinite: its counting noise is part of ρ).
        log: whether t is the logarithm of the scales; else the scales (losses) themselves.
        low, high: [d] ends of the table; sites: [k, d] t of the rows.
    """

    metric: Metric
    x_names: tuple[str, ...]
    names: tuple[str, ...]
    theta: Array
    covariance: Array
    freedom: Array
    weights: Array
    between: float
    trials: float
    log: bool
    low: Array
    high: Array
    sites: Array
    growth: float = GROWTH

    @property
    def loss_name(self) -> str:
        return self.metric.name

    @property
    def by(self) -> str:
        """Which shapes predict."""
        return f"{len(self.theta)} logistic shape{'s' if len(self.theta) > 1 else ''}"

    def places(self, points: Any) -> Array:
        """Rows [m, d] of scales.

        Raises:
            InputError: not one column a scale, or a scale that is not a positive number.
        """
        rows = points_of(points, self.x_names)
        if not np.isfinite(rows).all() or (self.log and not (rows > 0).all()):
            raise InputError("scales must be positive finite numbers", field="x")
        return rows

    def draws(self, x: Array, each: int = DRAWS, seed: int = 0) -> tuple[Array, Array]:
        """Expected shares of successes [K, m] at rows [m, d] with all that is not known, and the draws' weights [K].

        With ``x`` [each, m, d] every draw of a form's parameters has rows of its own.
        """
        t = np.log(x) if self.log else np.asarray(x, float)
        own = np.broadcast_to(t, (each, *t.shape[-2:])) if t.ndim == 2 else t
        away = np.array([self._away(rows) for rows in own]) if t.ndim == 3 else np.broadcast_to(
            self._away(t), own.shape[:2])  # fmt: skip
        found = []
        for k, theta in enumerate(self.theta):
            rng = np.random.default_rng((seed, 77, k))
            drawn = _student_draws(theta, self.covariance[k], float(self.freedom[k]), each, rng)
            steep = self.growth * float(np.sqrt(np.sum(theta[1:-2] ** 2)))
            odds = drawn[:, :1] + np.einsum("kmd,kd->km", own, drawn[:, 1:-2])
            odds = odds + steep * away * rng.standard_normal((each, 1))
            # What the table shows as missed at any scale may sink on beyond it; it does not grow.
            missed = drawn[:, -1:] * np.exp(-self.growth * away * np.abs(rng.standard_normal((each, 1))))
            room = 1 - drawn[:, -2:-1] - missed
            found.append(drawn[:, -2:-1] + room / (1 + np.exp(-np.clip(odds, -700, 700))))
        return np.concatenate(found), np.repeat(self.weights / each, each)

    def _away(self, t: Array) -> Array:
        """[m] how far rows are from the table; of one scale 0 everywhere inside it."""
        found = distances(t, self.sites)
        inside = (t >= self.sites.min(0)) & (t <= self.sites.max(0))
        return np.where(inside[:, 0], 0.0, found) if t.shape[1] == 1 else found

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each row: an array, or what `points_of` reads."""
        require_level(level)
        rows = self.places(points)
        beyond = np.maximum(np.maximum(rows / self.high, self.low / rows).max(1), 1.0)
        ends = self.written_quantiles(*self.draws(rows), level)
        return Prediction(rows, *ends, level, beyond, self.x_names, self.loss_name, self.by)

    def written_quantiles(self, p: Array, weights: Array, level: float) -> tuple[Array, Array, Array]:
        """Median, low and high in the column's unit, of one run whose expected share is among the draws."""
        shares = (0.5, (1 - level) / 2, (1 + level) / 2)
        middle = run_quantiles(p, weights, self.between, np.inf, (0.5,))[0]
        found = run_quantiles(p, weights, self.between, self.trials, shares)
        ends = np.sort([self.metric.written(np.minimum(found[1], middle)),
                        self.metric.written(np.maximum(found[2], middle))], axis=0)  # fmt: skip
        return self.metric.written(middle), ends[0], ends[1]

    def record(self) -> PredictorRecord:
        components = tuple(
            ComponentRecord(
                f"form {k + 1}", FORMULA, float(self.weights[k]), self.names, tuple(self.theta[k].tolist()),
                tuple(tuple(row) for row in self.covariance[k].tolist()), float(self.freedom[k]),
            ) for k in range(len(self.theta))
        )  # fmt: skip
        return PredictorRecord(
            LOG_LINK if self.log else LINEAR_LINK, self.x_names, self.loss_name, noise=self.between, growth=self.growth,
            low=tuple(self.low.tolist()), high=tuple(self.high.tolist()),
            sites=tuple(tuple(row) for row in self.sites.tolist()), components=components,
            trials=float(self.trials) if np.isfinite(self.trials) else None, flipped=self.metric.flipped,
            unit=self.metric.unit,
        )  # fmt: skip

    @classmethod
    def of(cls, record: PredictorRecord) -> SharePredictor:
        """The predictor that a file holds."""
        parts = record.components
        return cls(
            Metric(record.loss_name, record.flipped, record.unit), record.x_names, parts[0].parameters,
            np.array([part.theta for part in parts]), np.array([part.covariance for part in parts]),
            np.array([part.noise for part in parts]), np.array([part.weight for part in parts]), record.noise,
            np.inf if record.trials is None else record.trials, record.link == LOG_LINK, np.array(record.low),
            np.array(record.high), np.array(record.sites), record.growth,
        )  # fmt: skip


def _student_draws(theta: Array, covariance: Array, freedom: float, count: int, rng: np.random.Generator) -> Array:
    """[count, p] of a multivariate t, chance and what is missed kept within their range."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    normal = rng.standard_normal((count, len(theta))) * np.sqrt(np.maximum(values, 0.0))
    scale = np.sqrt(max(freedom, 1.0) / rng.chisquare(max(freedom, 1.0), (count, 1)))
    drawn = theta + np.minimum(scale, 20.0) * (normal @ vectors.T)
    drawn[:, -2:] = np.clip(drawn[:, -2:], 0.0, 0.95)
    crowded = np.maximum(drawn[:, -2:].sum(1, keepdims=True) / 0.99, 1.0)
    drawn[:, -2:] /= crowded
    return np.asarray(drawn)
