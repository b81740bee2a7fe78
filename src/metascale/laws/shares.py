"""Shares: accuracies, pass rates, error rates, as fractions or per cent. Which column is one, and the fit of its law.

A share of successes is p = c + (1 - c - m) σ(a + b₁ t₁ + ...): c is what chance gives, m what is missed however large
the scale, t the logarithms of the scales (or a loss, in `metascale.laws.two_steps`). Rows are fitted by
quasi-likelihood with variance p (1 - p) (ρ + (1 - ρ) / n): binomial counts of n questions that vary between runs by ρ
(Williams 1982, Extra-binomial variation in logistic linear models); without n, ρ alone. So 0 and 1 are observations
like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv, expit, logit, stdtrit, xlogy

from metascale.core.errors import InputError
from metascale.laws.observations import Array, Mask
from metascale.laws.record import Interval
from metascale.laws.verdict import is_score

Kind: TypeAlias = Literal["loss", "share", "error"]
KINDS: tuple[Kind, ...] = ("loss", "share", "error")
PER_CENT = 100.0
_PERCENT_WORDS = frozenset(("percent", "pct", "percentage"))
_RATES = ("pass rate", "win rate", "hit rate", "success rate", "solve rate", "em", "recall", "pass@")
_ERROR_RATES = ("error rate", "err rate", "failure rate", "misclassification", "top1 error", "top 1 error",
                "top5 error", "top 5 error", "classification error")  # fmt: skip
_NO_SHARES = frozenset(("reward", "bleu"))
_CLIP = 1e-9  # nearest that a fitted share comes to 0 or 1
_STEEPEST = 30.0  # of b, per unit of t in its own standard deviations
_PRIOR = 10.0  # standard deviation of b in the same unit: what keeps separated tables finite
_HIGHEST, _FULLEST = 0.95, 0.98  # of chance and of what is missed, and of both together
_ITERATIONS = 200
_BISECTIONS = 60


@dataclass(frozen=True)
class Metric:
    """How a column of shares is written: ``flipped`` where it counts failures, ``unit`` 100 where it is per cent."""

    name: str
    flipped: bool = False
    unit: float = 1.0

    def successes(self, values: Array) -> Array:
        """The column's values as shares of successes, in [0, 1].

        Raises:
            InputError: a value that is no share.
        """
        shares = np.asarray(values, float) / self.unit
        bad = ~((shares >= 0) & (shares <= 1))
        if bad.any():
            row, given = int(np.flatnonzero(bad)[0]), np.asarray(values, float)
            counts = given.max() > PER_CENT and bool((given == np.round(given)).all())
            raise InputError(
                f"'{self.name}' is {given[row]:g} in row {row + 1} ({int(bad.sum())} such rows); "
                f"a share lies between 0 and {self.unit:g}"
                + ("; divide counts by their numbers of questions, and give these as `trials`" if counts else ""),
                field="kind", value=self.name,
            )  # fmt: skip
        return 1 - shares if self.flipped else shares

    def written(self, successes: Array) -> Array:
        """Shares of successes as the column writes them."""
        return self.unit * (1 - successes if self.flipped else successes)


def metric_of(name: str, values: Array, kind: str | None = None) -> Metric | None:
    """How the column ``name`` is a share; None where it is a loss.

    Args:
        values: [n] finite; those of per cent reach beyond 1.
        kind: "share" or "error" (a share of failures) whatever the name, "loss" for none; None: by name and values.

    Raises:
        InputError: another kind, or a column that is named a share and holds other values.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind '{kind}' is unknown; allowed are: {', '.join(KINDS)}", field="kind", value=kind,
                         allowed=", ".join(KINDS))  # fmt: skip
    if kind == "loss" or not len(values):
        return None
    words = " ".join("".join(letter if letter.isalnum() or letter in "@%" else " " for letter in name.lower()).split())
    parts = set(words.split())
    named_error = any(f" {rate} " in f" {words} " for rate in _ERROR_RATES)
    known = named_error or is_score(name) or any(f" {rate}" in f" {words}" for rate in _RATES[-1:])
    known |= any(f" {rate} " in f" {words} " for rate in _RATES)
    largest, smallest = float(np.max(values)), float(np.min(values))
    per_cent = largest > 1 and (kind is not None or not parts & _NO_SHARES)
    metric = Metric(name, kind == "error" or (kind is None and named_error), PER_CENT if per_cent else 1.0)
    if bool(parts & _PERCENT_WORDS) or "%" in name:
        known, metric = known or kind is None, Metric(name, metric.flipped, PER_CENT)
    if kind is None and (not known or "loss" in parts or smallest < 0 or largest > metric.unit):
        return None
    metric.successes(np.asarray(values, float))
    return metric


@dataclass(frozen=True)
class Form:
    """One shape of the law: its chance is ``floor``, or fitted where that is None; ``misses`` where m is fitted."""

    name: str
    floor: float | None = 0.0
    misses: bool = False

    def free(self, n_axes: int) -> Mask:
        """[n_axes + 3] which of a, b, c, m are fitted."""
        return np.array([True] * (1 + n_axes) + [self.floor is None, self.misses])


def forms_of(chance: float | None) -> tuple[Form, ...]:
    """The shapes to try: with the chance that is given, or with none and a fitted one."""
    if chance is not None:
        return (Form("logistic", chance), Form("logistic_ceiling", chance, True))
    return (
        Form("logistic"), Form("logistic_floor", None), Form("logistic_ceiling", 0.0, True),
        Form("logistic_both", None, True),
    )  # fmt: skip


@dataclass(frozen=True)
class ShareFit:
    """A form fitted to a table.

    Attributes:
        theta: [d + 3] a, b₁ ... b_d, c, m; covariance: [d + 3, d + 3], zero where fixed or at a bound.
        between: ρ, the variance between runs of one scale in units of p (1 - p).
        deviance: of the quasi-likelihood at the table's common ρ; freedom: rows less fitted parameters.
    """

    form: Form
    theta: Array
    covariance: Array
    between: float
    deviance: float
    freedom: int
    converged: bool

    @property
    def n_axes(self) -> int:
        return len(self.theta) - 3

    @property
    def n_fitted(self) -> int:
        return int(self.form.free(self.n_axes).sum())

    @property
    def slopes(self) -> Array:
        return self.theta[1:-2]


def curve(theta: Array, t: Array) -> Array:
    """[B, m] shares of θ [B, d + 3] at t [m, d]."""
    odds = theta[:, :1] + theta[:, 1:-2] @ t.T
    return np.asarray(theta[:, -2:-1] + (1 - theta[:, -2:-1] - theta[:, -1:]) * expit(odds))


def _derivatives(theta: Array, t: Array) -> tuple[Array, Array]:
    """p [n] and its derivatives [n, d + 3]."""
    rising = expit(theta[0] + t @ theta[1:-2])
    room = 1 - theta[-2] - theta[-1]
    slope = room * rising * (1 - rising)
    columns = [slope[:, None], slope[:, None] * t, (1 - rising)[:, None], -rising[:, None]]
    return theta[-2] + room * rising, np.hstack(columns)


def _deviance(p: Array, y: Array, weight: Array) -> float:
    kept = np.clip(p, _CLIP, 1 - _CLIP)
    return float(2 * weight @ (xlogy(y, y) + xlogy(1 - y, 1 - y) - xlogy(y, kept) - xlogy(1 - y, 1 - kept)))


def _scored(start: Array, free: Mask, t: Array, y: Array, weight: Array) -> tuple[Array, float, bool]:
    """Fisher scoring with Levenberg's damping inside the bounds; t in standard units."""
    d = t.shape[1]
    low = np.r_[-200.0, np.full(d, -_STEEPEST), 0.0, 0.0]
    high = np.r_[200.0, np.full(d, _STEEPEST), _HIGHEST, _HIGHEST if free[-2] else _FULLEST - start[-2]]
    prior = np.r_[1 / 60.0**2, np.full(d, 1 / _PRIOR**2), 0.0, 0.0]

    def value_of(theta: Array) -> float:
        return _deviance(_derivatives(theta, t)[0], y, weight) + float(prior @ theta**2)

    theta, damping = np.where(free, np.clip(start, low, high), start), 1e-3
    value, converged = value_of(theta), False
    for _ in range(_ITERATIONS):
        p, jacobian = _derivatives(theta, t)
        kept = np.clip(p, _CLIP, 1 - _CLIP)
        pull = jacobian.T @ (weight * (y - kept) / (kept * (1 - kept))) - prior * theta
        moving = free & ~((theta <= low) & (pull < 0)) & ~((theta >= high) & (pull > 0))
        information = (jacobian * (weight / (kept * (1 - kept)))[:, None]).T @ jacobian + np.diag(prior)
        part = information[np.ix_(moving, moving)]
        step = np.zeros_like(theta)
        step[moving] = np.linalg.solve(
            part + damping * np.diag(np.diag(part)) + 1e-12 * np.eye(len(part)), pull[moving]
        )
        moved = np.where(free, np.clip(theta + step, low, high), theta)
        if free[-2] and moved[-2] + moved[-1] > _FULLEST:
            moved[-2:] *= _FULLEST / (moved[-2] + moved[-1])
        tried = value_of(moved)
        if tried <= value + 1e-13 * (1 + abs(value)):
            small = bool(np.abs(moved - theta).max() < 1e-10)
            theta, value, damping = moved, tried, max(damping / 10, 1e-12)
            if small:
                converged = True
                break
        else:
            damping *= 10
            if damping > 1e12:
                converged = bool(np.abs(pull[moving] @ step[moving]) < 1e-9 * (1 + value))
                break
    return theta, value, converged


def weights_of(between: float, trials: Array) -> Array:
    """1 / (ρ + (1 - ρ) / n)."""
    return 1 / np.maximum(between + (1 - between) / trials, 1e-12)


def between_runs(p: Array, y: Array, trials: Array, freedom: int) -> float:
    """ρ at which Pearson's sum of squares is its degrees of freedom; 0 where counting explains it."""
    kept = np.clip(p, 1e-6, 1 - 1e-6)
    squares = (y - kept) ** 2 / (kept * (1 - kept))

    def excess(between: float) -> float:
        return float(squares @ weights_of(between, trials)) - freedom

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def fit_share(form: Form, t: Array, y: Array, trials: Array, between: float | None = None) -> ShareFit:
    """Fit a form by quasi-likelihood.

    Args:
        t: [n, d] logarithms of the scales, or losses; y: [n] shares of successes; trials: [n] questions a row, infinite
            where they are unknown.
        between: ρ where it is known; otherwise estimated.
    """
    centre, scale = t.mean(0), np.maximum(t.std(0), 1e-12)
    z, d = (t - centre) / scale, t.shape[1]
    free, n = form.free(d), len(y)
    freedom = max(n - int(free.sum()), 1)
    counted = bool(np.isfinite(trials).any())
    rho = (0.0 if counted else 0.01) if between is None else between
    theta, converged = _starts(form, z, y)[0], False
    for turn in range(1 if between is not None else 5):
        weight = weights_of(rho, trials)
        begin = _starts(form, z, y) if turn == 0 else [theta]
        found = [_scored(start, free, z, y, weight) for start in begin]
        theta, _, converged = min(found, key=lambda one: one[1])
        if between is None:
            before, rho = rho, between_runs(_derivatives(theta, z)[0], y, trials, freedom)
            rho = max(rho, 0.0 if counted else 1e-10)
            if abs(rho - before) <= 1e-6 * (rho + 1e-9):
                break
    weight = weights_of(rho, trials)
    covariance = _covariance(theta, free, z, weight)
    p = _derivatives(theta, z)[0]
    back = np.eye(d + 3)
    back[0, 1 : 1 + d] = -centre / scale
    back[np.arange(1, 1 + d), np.arange(1, 1 + d)] = 1 / scale
    return ShareFit(
        form, back @ theta, back @ covariance @ back.T, rho, _deviance(p, y, weight), freedom, converged
    )  # fmt: skip


def _starts(form: Form, z: Array, y: Array) -> list[Array]:
    """Straight lines through the odds, for a few values of what chance and ceiling may be."""
    bottom, top = float(y.min()), float(y.max())
    floors = [form.floor] if form.floor is not None else sorted({0.0, 0.95 * bottom})
    misses = [0.0] if not form.misses else sorted({0.0, 0.95 * (1 - top)})
    found = []
    for floor, miss in product(floors, misses):
        c = min(floor, 0.9)
        m = min(miss, 0.9 * (1 - c))
        odds = logit(np.clip((y - c) / (1 - c - m), 0.02, 0.98))
        design = np.column_stack([np.ones(len(y)), z])
        line = np.linalg.lstsq(design, odds, rcond=None)[0]
        found.append(np.r_[line, c, m])
    return found


def _covariance(theta: Array, free: Mask, z: Array, weight: Array) -> Array:
    p, jacobian = _derivatives(theta, z)
    kept = np.clip(p, _CLIP, 1 - _CLIP)
    inside = free.copy()
    inside[-2:] &= (theta[-2:] > 0) & (theta[-2:] < _HIGHEST)
    information = (jacobian * (weight / (kept * (1 - kept)))[:, None]).T @ jacobian
    d = z.shape[1]
    information += np.diag(np.r_[1 / 60.0**2, np.full(d, 1 / _PRIOR**2), 1.0, 1.0])  # a chance is known to 1 at least
    found: Array = np.zeros(information.shape)
    found[np.ix_(inside, inside)] = np.linalg.inv(information[np.ix_(inside, inside)])
    return found


def run_quantiles(p: Array, weight: Array, between: float, trials: float, shares: Sequence[float]) -> Array:
    """[len(shares), m] quantiles of the share of one new run whose expected share is one of ``p`` [K, m].

    Args:
        weight: [K] of the draws; between: ρ; trials: questions of the new run; infinite: they add no noise.

    Between runs the share is beta-distributed with variance ρ p (1 - p); of n questions it is k / n, where k is
    binomial given the run's own share: a whole number, 0 and n included.
    """
    kept = np.clip(p, _CLIP, 1 - _CLIP)
    if between > 1e-9:
        size = (1 - between) / between
        kept, weight = _thinned(kept, weight)
        own = _beta_nodes(kept, size)
        draws, weights = own.reshape(-1, p.shape[1]), np.repeat(weight[None] / len(own), len(own), 0).reshape(-1)
    else:
        draws, weights = kept, weight
    weights = weights / weights.sum()
    if np.isfinite(trials):
        return _binomial_quantiles(*_thinned(draws, weights), round(trials), shares)
    return _quantiles(draws, weights, shares)


_NODES = 15  # of the beta distribution between runs
_POINTS = 200  # that stand for the draws where a distribution is laid about each of them


def _quantiles(draws: Array, weights: Array, shares: ArrayLike) -> Array:
    """[len(shares), m] of weighted draws [K, m]."""
    order, levels = np.argsort(draws, axis=0), np.asarray(shares, float)
    ranked = np.take_along_axis(draws, order, 0)
    mass = np.cumsum(weights[order], axis=0) - 0.5 * weights[order]
    return np.column_stack([np.interp(levels, mass[:, j], ranked[:, j]) for j in range(draws.shape[1])])


def _thinned(draws: Array, weights: Array) -> tuple[Array, Array]:
    """At most `_POINTS` draws [K, m] of equal weight, with the quantiles of all."""
    if len(draws) <= _POINTS:
        return draws, weights
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    return _quantiles(draws, weights / weights.sum(), middles), np.full(_POINTS, 1 / _POINTS)


def _beta_nodes(p: Array, size: float) -> Array:
    """[nodes, K, m] quantiles of beta distributions of mean p and variance p (1 - p) / (size + 1)."""
    shares = (np.arange(_NODES) + 0.5) / _NODES
    first, second = np.maximum(p * size, 1e-6), np.maximum((1 - p) * size, 1e-6)
    return np.asarray([betaincinv(first, second, share) for share in shares])


def _binomial_quantiles(p: Array, weights: Array, n: int, shares: Sequence[float]) -> Array:
    """Smallest k / n whose probability of at most k reaches a share, of a mixture of binomials p [K, m]."""
    found = []
    for share in shares:
        low, high = np.full(p.shape[1], -1), np.full(p.shape[1], n)
        while (high - low > 1).any():
            middle = (low + high) // 2
            at_most = np.where(middle[None] >= n, 1.0, betainc(
                np.maximum(n - middle, 1)[None], np.maximum(middle, 0)[None] + 1.0, 1 - p
            ))  # fmt: skip
            enough = (weights @ at_most >= share) & (middle >= 0)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        found.append(high / n)
    return np.array(found)


def intervals_of(fit: ShareFit, names: Sequence[str], level: float) -> dict[str, Interval]:
    """Estimates with intervals by Student's t; chance and misses stay within 0 and 1."""
    reach = float(stdtrit(fit.freedom, (1 + level) / 2))
    error = np.sqrt(np.maximum(np.diag(fit.covariance), 0.0))
    found = {}
    for k, name in enumerate(names):
        low, high = fit.theta[k] - reach * error[k], fit.theta[k] + reach * error[k]
        if k >= len(names) - 2:
            low, high = max(low, 0.0), min(high, 1.0)
        found[name] = Interval(float(fit.theta[k]), float(low), float(high))
    return found
