"""Predictions at any scales with intervals: several forms, weighted by how they predicted hidden corners of the table.

Every row of the prediction is a mixture of normal distributions on the scale of the residuals. A component's variance
is that of its parameters, plus that of a run, plus a discrepancy that grows with the distance from the table: the law
is wrong, and the further the more. Where the forms disagree the mixture is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from metascale.core.errors import CorruptFile, InputError
from metascale.laws import descent
from metascale.laws.descent import Link
from metascale.laws.expression import Bound, Expression, parse
from metascale.laws.observations import Array
from metascale.laws.prediction import Prediction, points_of
from metascale.laws.record import ComponentRecord, PredictorRecord

UNSURE = 0.3  # a form whose own variance is this share of the noise variance has half its weight there
MOST_SITES = 400
_BISECTIONS = 60
_FARTHEST_LOG = 50.0  # predictions further from the rest, on the scale of residuals, are kept finite here


@dataclass(frozen=True)
class Component:
    """One form with its weight and fitted parameters [p], their covariance [p, p]."""

    name: str
    expression: Expression
    weight: float
    theta: Array
    covariance: Array
    noise: float

    def at(self, x: Array, link: Link, bound: Bound | None = None) -> tuple[Array, Array]:
        """Prediction [m] and its variance [m] on the scale of the residuals."""
        with np.errstate(all="ignore"):
            value, jacobian = (bound or self.expression.bind(x)).value_and_jacobian(self.theta[None])
            mean, slope = descent.linked(value, jacobian, link)
        variance = np.einsum("mp,pq,mq->m", slope[0], self.covariance, slope[0])
        return mean[0], np.asarray(np.where(np.isfinite(variance), np.maximum(variance, 0.0), 1e6))


@dataclass(frozen=True)
class Mixture:
    """The predictor; see `PredictorRecord` for the attributes that it shares with the file."""

    components: tuple[Component, ...]
    link: Link
    x_names: tuple[str, ...]
    loss_name: str
    noise: float
    growth: float
    spread: float
    low: Array
    high: Array
    sites: Array

    @cached_property
    def weights(self) -> Array:
        return np.array([component.weight for component in self.components])

    def distance(self, x: Array) -> Array:
        """[m] in logarithms, from the nearest run of the table."""
        return distances(np.log(x), self.sites)

    def parts(self, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Of every component at rows [m, d]: mean, standard deviation with noise, and weight, each [F, m]."""
        rows = np.asarray(x, float)
        found = [component.at(rows, self.link) for component in self.components]
        mean, own = np.array([part[0] for part in found]), np.array([part[1] for part in found])
        weight = weights_at(self.weights, own, np.array([component.noise for component in self.components]))
        mean = tame(mean, weight)
        return (*widen(mean, own, weight, self.noise, self.growth, self.spread, self.distance(rows)), weight)

    @property
    def by(self) -> str:
        """Which forms predict."""
        if len(self.components) == 1:
            return self.components[0].name
        best = max(self.components, key=lambda component: component.weight)
        return f"{len(self.components)} forms together, chiefly {best.name} (weight {best.weight:.2f})"

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each row: an array [m, d], or what `points_of` reads.

        Raises:
            InputError: not one column a scale, or a scale that is not a positive number.
        """
        rows = points_of(points, self.x_names)
        if not (np.isfinite(rows).all() and (rows > 0).all()):
            raise InputError("scales must be positive finite numbers", field="x")
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it must lie between 0 and 1", field="level", value=level)
        ends = quantiles(*self.parts(rows), (0.5, (1 - level) / 2, (1 + level) / 2))
        losses = np.exp(np.clip(ends, -700, 700)) if self.link == "log" else ends
        beyond = np.maximum(rows / self.high, self.low / rows).max(1)
        return Prediction(
            rows, losses[0], losses[1], losses[2], level, np.maximum(beyond, 1.0), self.x_names, self.loss_name,
            self.by,
        )  # fmt: skip

    def record(self) -> PredictorRecord:
        components = tuple(
            ComponentRecord(
                part.name, part.expression.text, part.weight, part.expression.parameters, tuple(part.theta.tolist()),
                tuple(tuple(row) for row in part.covariance.tolist()), part.noise,
            ) for part in self.components
        )  # fmt: skip
        return PredictorRecord(
            self.link, self.x_names, self.loss_name, self.noise, self.growth, self.spread, tuple(self.low.tolist()),
            tuple(self.high.tolist()), tuple(tuple(row) for row in self.sites.tolist()), components,
        )  # fmt: skip

    @classmethod
    def of(cls, record: PredictorRecord) -> Mixture:
        """The predictor that a file holds.

        Raises:
            CorruptFile: it does not fit together.
        """
        try:
            parts = tuple(_component(part, record.x_names) for part in record.components)
            sites = np.array(record.sites, float)
            if record.link not in ("log", "identity") or not parts or sites.shape[1:] != (len(record.x_names),):
                raise ValueError("no forms, no sites or an unknown link")
        except (InputError, ValueError) as error:
            raise CorruptFile(f"the predictor of the law is damaged: {error}") from error
        return cls(
            parts, cast("Link", record.link), record.x_names, record.loss_name, record.noise, record.growth,
            record.spread, np.array(record.low), np.array(record.high), sites,
        )  # fmt: skip


def _component(record: ComponentRecord, names: tuple[str, ...]) -> Component:
    expression = parse(record.formula, names)
    theta, covariance = np.array(record.theta, float), np.array(record.covariance, float)
    if expression.parameters != record.parameters or covariance.shape != (len(theta), len(theta)):
        raise ValueError(f"the parameters of '{record.name}' do not belong to its formula")
    return Component(record.name, expression, record.weight, theta, covariance, record.noise)


def sites_of(x: Array) -> Array:
    """[k, d] ln of the distinct scales, thinned to `MOST_SITES` evenly along their sum."""
    distinct = np.unique(np.log(x), axis=0)
    if len(distinct) <= MOST_SITES:
        return np.asarray(distinct)
    order = np.argsort(distinct.sum(1), kind="stable")
    return np.asarray(distinct[order[np.linspace(0, len(order) - 1, MOST_SITES).astype(int)]])


def distances(log_x: Array, sites: Array) -> Array:
    """[m] Euclidean, to the nearest site, in ln units."""
    found = np.empty(len(log_x))
    for start in range(0, len(log_x), 2000):
        gaps = log_x[start : start + 2000, None, :] - sites[None]
        found[start : start + 2000] = np.sqrt((gaps**2).sum(2).min(1))
    return found


def weights_at(weight: Array, variance: Array, noise: Array) -> Array:
    """[F, m] the forms' weights at each row: less where a form does not know, by its own variance [F, m]."""
    reference = max(float(np.median(noise)) ** 2, 1e-300)
    here = weight[:, None] / (1 + variance / (UNSURE * reference))
    return np.asarray(here / np.maximum(here.sum(0), 1e-300))


def tame(mean: Array, weight: Array) -> Array:
    """Means [F, m] kept finite: what runs away is held far from the weighted median, where its weight is not lost."""
    centre = weighted_median(np.where(np.isfinite(mean), mean, np.inf), weight)
    return np.asarray(np.clip(np.nan_to_num(mean, nan=np.inf), centre - _FARTHEST_LOG, centre + _FARTHEST_LOG))


def weighted_median(values: Array, weight: Array) -> Array:
    """[m] of every column of [F, m]."""
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, 0)
    total = np.cumsum(np.take_along_axis(weight, order, 0), 0)
    first = np.argmax(total >= 0.5 * total[-1], axis=0)
    found = ranked[first, np.arange(values.shape[1])]
    return np.where(np.isfinite(found), found, 0.0)


def widen(
    mean: Array, own: Array, weight: Array, noise: float, growth: float, spread: float, distance: Array
) -> tuple[Array, Array]:
    """Means drawn towards their median by ``spread`` [F, m], and standard deviations with noise and discrepancy."""
    centre = weighted_median(mean, weight)
    drawn = centre + spread * (mean - centre)
    return drawn, np.sqrt(spread**2 * own + noise**2 + (growth * distance) ** 2)


def quantiles(mean: Array, deviation: Array, weight: Array, shares: Sequence[float]) -> Array:
    """[len(shares), m] of mixtures of normals [F, m], by bisection."""
    reach = float(ndtri(max(max(shares), 1 - min(shares)))) + 1.0
    known = weight > 1e-9
    deviation = np.maximum(deviation, 1e-150)  # losses without any noise: a step at the mean, and no 0/0 there
    bottom = np.where(known, mean - reach * deviation, np.inf).min(0)
    top = np.where(known, mean + reach * deviation, -np.inf).max(0)
    found = []
    for share in shares:
        low, high = bottom.copy(), top.copy()
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = (weight * ndtr((middle - mean) / deviation)).sum(0) < share
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        found.append(0.5 * (low + high))
    return np.array(found)
