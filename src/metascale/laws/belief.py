"""What a table, however small, says of the loss elsewhere: many forms with weak priors, joined into one normal.

Every form of `metascale.laws.space` is fitted with a prior on all of its parameters, so that it has an answer from no
run on. A form's parameters are normal about the fit (Gauss and Newton's curvature); a form weighs by how it predicts
each run from the others. The covariance of the law at two points then has three parts: what every form does not know of
its parameters, what the forms disagree about, and a discrepancy (a Matérn process pinned to the runs) for what all of
them get wrong; so runs where forms disagree, or far from all others, are worth something even to a form that is sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import ndtri

from metascale.laws import descent
from metascale.laws.descent import Link, Problem
from metascale.laws.formula import Formula, link_of
from metascale.laws.mixture import sites_of, weighted_median
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import Array, Integers
from metascale.laws.space import forms

NOISE = 0.01  # of a run before any is known, in ln loss or in units of the losses' spread
NOISE_WEIGHT = 4.0  # runs that this prior counts for
POWER, LOST = 2.0, 3.0  # a form's weight falls with this power of its error; with so many times the best it has none
EXPONENT, CHANGE = (0.3, 0.2), (0.0, 0.05)  # priors of exponents, and of how one changes with another scale's ln
FLOOR = 0.3  # standard deviation of the floor's prior, in losses
RUNAWAY = 2.0  # forms are held within this distance of their median (ln loss, or spreads)
RANGE = 0.5  # the discrepancy's length, in the region's extent along each scale
SHARE = 0.5  # the discrepancy's size, in the error of the best form
STARTED = 5  # runs from which starts beside the prior's are tried
MOST_ROWS = 800
_SAFE = 1e-3


@dataclass(frozen=True)
class Form:
    """One form: fitted parameters [p] and, in the coordinates that the fit moves in, their covariance [p, p]."""

    law: Formula
    problem: Problem
    theta: Array
    covariance: Array
    weight: float
    error: float

    def at(self, x: Array) -> tuple[Array, Array]:
        """Prediction [m] on the scale of the residuals, and its derivatives [m, p]."""
        return _linearised(self.problem, self.theta, x)


@dataclass(frozen=True)
class Belief:
    """The forms together.

    Attributes:
        noise: standard deviation of one run; discrepancy: that of the process far from all runs.
        sites: [k, d] ln of the scales that were run; length: [d] of the discrepancy.
        unit: what a difference of 1 on the scale of the residuals is worth: 1 for ln loss, else the losses' spread.
        starts: by form, the fit and the number of rows that it was last started afresh with.
    """

    forms: tuple[Form, ...]
    link: Link
    noise: float
    discrepancy: float
    sites: Array
    length: Array
    unit: float
    n: int
    starts: Mapping[str, tuple[Array, int]]

    @cached_property
    def weights(self) -> Array:
        return np.array([form.weight for form in self.forms])

    @cached_property
    def _root(self) -> Array:
        known = self._matern(self.sites, self.sites) + self.noise**2 * np.eye(len(self.sites))
        return np.asarray(np.linalg.cholesky(known))

    def _matern(self, a: Array, b: Array) -> Array:
        """Covariance of the discrepancy: Matérn's with smoothness 3/2, by rows of ln scales."""
        gaps = np.sqrt(3.0) * np.sqrt((((a[:, None] - b[None]) / self.length) ** 2).sum(2))
        return np.asarray(self.discrepancy**2 * (1 + gaps) * np.exp(-gaps))

    def pinned(self, logs: Array) -> Array:
        """[k, m] whose inner products are what the runs take from the covariance of the discrepancy."""
        if not len(self.sites):
            return np.zeros((0, len(logs)))
        return np.asarray(solve_triangular(self._root, self._matern(self.sites, logs), lower=True))

    def means(self, x: Array) -> tuple[Array, list[Array]]:
        """Of every form [F, m], runaways held near the others' median, and the derivatives."""
        found = [form.at(x) for form in self.forms]
        mean = np.array([part[0] for part in found])
        weight = np.repeat(self.weights[:, None], len(x), 1)
        centre = weighted_median(np.where(np.isfinite(mean), mean, np.inf), weight)
        reach = RUNAWAY * self.unit
        return np.clip(np.nan_to_num(mean, nan=np.inf), centre - reach, centre + reach), [part[1] for part in found]

    def joint(self, x: Array) -> LawAt:
        """The normal distribution of the law at rows of scales [m, d]."""
        mean, slopes = self.means(x)
        centre = self.weights @ mean
        roots = [
            np.sqrt(form.weight) * slope @ np.linalg.cholesky(form.covariance)
            for form, slope in zip(self.forms, slopes, strict=True)
        ]
        apart = (np.sqrt(self.weights)[:, None] * (mean - centre)).T
        logs = np.log(x)
        return LawAt(self, centre, np.concatenate([*roots, apart], 1), logs, self.pinned(logs))

    def predict(self, x: Array, level: float = 0.90) -> Array:
        """[3, m] median and ends of the interval for one new run, as losses."""
        at = self.joint(x)
        return self.losses(at.mean, np.sqrt(at.diagonal() + at.noise2), level)

    def losses(self, mean: Array, deviation: Array, level: float) -> Array:
        """[3, m] from the scale of the residuals."""
        ends = np.array([mean, mean, mean]) + float(ndtri((1 + level) / 2)) * np.outer([0, -1, 1], deviation)
        return np.asarray(np.exp(np.clip(ends, -700, 700)) if self.link == "log" else ends)


@dataclass(frozen=True)
class LawAt:
    """The law at m points: mean [m] and its covariance in factors (`metascale.laws.picking.Joint`)."""

    belief: Belief
    mean: Array
    factor: Array
    logs: Array
    pinned: Array

    @property
    def n_points(self) -> int:
        return len(self.mean)

    @property
    def noise2(self) -> float:
        return self.belief.noise**2

    def columns(self, index: Integers) -> Array:
        apart = self.belief._matern(self.logs, self.logs[index])
        return np.asarray(self.factor @ self.factor[index].T + apart - self.pinned.T @ self.pinned[:, index])

    def diagonal(self) -> Array:
        known = (self.factor**2).sum(1) + self.belief.discrepancy**2 - (self.pinned**2).sum(0)
        return np.asarray(np.maximum(known, 0.0))


def believe(names: tuple[str, ...], x: Array, loss: Array, region: Array, before: Belief | None = None) -> Belief:
    """Fit the forms to runs at ``x`` [n, d] with their losses [n]; both may be empty.

    Args:
        region: [m, d] all points of interest, runs included: they centre the forms and give the discrepancy its length.
        before: the belief from fewer runs in the same region, from whose fits the search starts.
    """
    if len(x) > MOST_ROWS:
        rows = np.argsort(np.log(x).sum(1), kind="stable")[np.linspace(0, len(x) - 1, MOST_ROWS).astype(int)]
        x, loss = x[rows], loss[rows]
    n, link = len(x), link_of(loss)
    size = _size(loss, link)
    unit = 1.0 if link == "log" else size[0]
    known = before if before is not None and before.link == link else None
    noise = known.noise if known is not None and known.n else 3 * NOISE * unit
    starts = dict(known.starts) if known is not None else {}
    fitted = []
    for name, law in forms(names, region, link).items():
        problem, precision = _with_priors(law, x, loss, link, size)
        theta, afresh = _fitted(problem, precision, noise, starts.get(name))
        if theta is not None:
            starts[name] = (theta, afresh)
            fitted.append((law, problem, precision, theta))
    noise, covariances, errors = _judged(fitted, noise, unit)
    weights = np.where(errors <= LOST * errors.min(), (errors / errors.min()) ** -POWER, 0.0)
    weights = weights / weights.sum()
    chosen = tuple(
        Form(law, problem, theta, covariance, float(weight), float(error))
        for (law, problem, _, theta), covariance, weight, error in zip(
            fitted, covariances, weights, errors, strict=True
        )
        if weight > 0
    )
    discrepancy = max(SHARE * float(errors.min()), SHARE * noise) if n > len(names) else 3 * NOISE * unit
    logs = np.log(region)
    length = RANGE * np.sqrt(len(names)) * np.maximum(np.ptp(logs, 0), 0.5)
    return Belief(chosen, link, noise, discrepancy, sites_of(x) if n else np.zeros((0, len(names))), length, unit, n,
                  starts)  # fmt: skip


def _size(loss: Array, link: Link) -> tuple[float, float, float]:
    """In losses: the unit of coefficients, the centre, and the lowest; 1, 0 and 1 where nothing is known."""
    if not len(loss):
        return 1.0, 0.0, 1.0
    if link == "log":
        middle = float(np.exp(np.log(loss).mean()))
        return middle, float(np.log(middle)), float(loss.min())
    return max(float(loss.std()), 1e-9 * float(np.abs(loss).max()), 1e-300), float(loss.mean()), float(loss.min())


def _with_priors(
    law: Formula, x: Array, loss: Array, link: Link, size: tuple[float, float, float]
) -> tuple[Problem, Array]:
    """The problem, its prior's mean in place, and the prior's precision [p] in the coordinates of the fit."""
    names, linear = law.expression.parameters, law.expression.linear
    in_logs = law.expression.logarithm is not None and link == "log"
    found = [_informed(name, law) or _prior(name, name in linear and not in_logs, link, size) for name in names]
    mean, width = np.array(found, float).T
    lower, upper = np.array([law.bounds.get(name, (-np.inf, np.inf)) for name in names], float).T
    problem = Problem(law.expression, x, loss, np.ones(len(x)), link, lower, upper)
    return replace(problem, prior=(mean, 1 / width**2)), 1 / width**2


def _informed(name: str, law: Formula) -> tuple[float, float] | None:
    """The form's own prior, narrower for exponents than where a form is chosen by hidden corners: runs are few here."""
    weak = law.priors.get(name)
    kind = name.split("_")[0]
    if weak is None or kind not in ("a", "b", "n", "o"):
        return weak
    return CHANGE if kind == "o" else EXPONENT


def _prior(name: str, linear: bool, link: Link, size: tuple[float, float, float]) -> tuple[float, float]:
    """Mean and standard deviation of a coefficient by what it is: a floor, a term, an offset, a slope or a bend."""
    unit, centre, low = size
    kind, scale = name.split("_")[0], unit if linear else 1.0
    if kind == "E":
        return (0.5 * low, FLOOR * unit) if link == "log" else (low - 0.5 * unit, unit)
    if kind in ("c", "b"):
        return 0.5 * unit, unit
    if kind == "q":
        return (centre, 3 * unit) if linear else (float(np.log(unit)), 3.0)
    return (0.0, 0.1 * scale) if kind == "k" else (0.0, 0.5 * scale)


def _fitted(
    problem: Problem, precision: Array, noise: float, known: tuple[Array, int] | None
) -> tuple[Array | None, int]:
    """The best fit [p] with the prior, and with how many rows it was last searched from many starts."""
    n = len(problem.x)
    assert problem.prior is not None
    begin = problem.decode(problem.prior[0][None])
    if not n:
        return np.clip(begin[0], problem.lower, problem.upper), 0
    afresh = 0 if known is None else known[1]
    if known is not None:
        begin = np.concatenate([begin, known[0][None]])
    with np.errstate(all="ignore"):
        if n >= STARTED and n >= 1.5 * afresh:
            begin, afresh = np.concatenate([begin, descent.starts(problem, 3)]), n
        begin = np.clip(np.nan_to_num(begin, nan=0.1), problem.lower, problem.upper)
        wanted = replace(problem, prior=(problem.prior[0], noise**2 * precision))
        found = descent.minimise(wanted, begin, LeastSquares(), iterations=30, tolerance=1e-5)
    value = np.where(np.isfinite(found.value), found.value, np.inf)
    best = int(np.argmin(value))
    return (found.theta[best], afresh) if np.isfinite(value[best]) else (None, afresh)


def _linearised(problem: Problem, theta: Array, x: Array) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        value, jacobian = descent.linked(*problem.expression.bind(x).value_and_jacobian(theta[None]), problem.link)
        slope = jacobian[0] * np.where(problem.coded, theta, 1.0)
    return value[0], np.where(np.isfinite(slope), slope, 0.0)


def _judged(
    fitted: list[tuple[Formula, Problem, Array, Array]], noise: float, unit: float
) -> tuple[float, list[Array], Array]:
    """The noise that the best forms leave, every form's covariance, and [F] its error at each run left out."""
    tangents = [(problem.target - (at := _linearised(problem, theta, problem.x))[0], at[1], precision)
                for _, problem, precision, theta in fitted]  # fmt: skip
    for _ in range(3 if len(tangents[0][0]) else 0):
        spread = []
        for residual, slope, precision in tangents:
            freedom = len(residual) - float(_leverage(slope, _posterior(slope, precision, noise), noise).sum())
            prior = NOISE_WEIGHT * (NOISE * unit) ** 2
            spread.append((prior + float(residual @ residual)) / (NOISE_WEIGHT + max(freedom, 0.0)))
        noise = float(np.sqrt(np.median(np.sort(spread)[:3])))
    covariances = [_posterior(slope, precision, noise) for _, slope, precision in tangents]
    errors = np.ones(len(fitted))
    for k, ((residual, slope, _), covariance) in enumerate(zip(tangents, covariances, strict=True)):
        if len(residual):
            alone = residual / np.maximum(1 - _leverage(slope, covariance, noise), _SAFE)
            errors[k] = np.sqrt(np.mean(alone**2) + (_SAFE * unit * NOISE) ** 2)
    return noise, covariances, errors


def _posterior(slope: Array, precision: Array, noise: float) -> Array:
    return np.asarray(np.linalg.inv(slope.T @ slope / noise**2 + np.diag(precision)))


def _leverage(slope: Array, covariance: Array, noise: float) -> Array:
    """[n] the share of each run's own loss in its fit."""
    return np.asarray(np.einsum("np,pq,nq->n", slope, covariance, slope) / noise**2)
