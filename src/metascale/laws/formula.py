"""One formula on a table of any number of scales: bounds, fixed values, starts; fit, covariance, predictions.

Residuals are of ln loss where all losses are positive (Huber's penalty, as everywhere in this room) and of the loss
itself otherwise; which it was is said in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from metascale.core.errors import InputError
from metascale.laws import descent
from metascale.laws.descent import Link, Problem
from metascale.laws.expression import Expression, as_name, parse
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.observations import Array, Observations
from metascale.laws.record import Interval

STARTS = 12
ROBUST = 0.1  # Huber's delta in units of the noise, for formulas that are chosen by the machine
NORMAL_MAD = 1.4826
_HUBER_SHARE = 1e-3  # delta for losses that are not all positive, in units of their standard deviation


@dataclass(frozen=True)
class Formula:
    """A law as text.

    Attributes:
        axes: the scales that the text names, in the order of a table's columns.
        bounds: of parameters, infinite by default; starts: where their search begins; priors: mean and standard
            deviation (of the logarithm, for positive nonlinear parameters that are no exponents).
        objective: what fits of this law minimise unless told otherwise; None: by the sign of the losses.
        published: parameters as the reference gives them.
        needs: what the table must satisfy, for the library's list.
    """

    name: str
    text: str
    axes: tuple[str, ...]
    reference: str = "the user's formula"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    objective: Objective | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    needs: str = ""

    @cached_property
    def expression(self) -> Expression:
        return parse(self.text, self.axes)

    def on(self, columns: Sequence[str]) -> Formula:
        """The law with its axes renamed to a table's columns, in order."""
        if len(columns) != len(self.axes):
            raise InputError(
                f"the law '{self.name}' is in {len(self.axes)} scales ({', '.join(self.axes)}) and the table has "
                f"{len(columns)} ({', '.join(columns)})",
                field="law",
            )
        taken = set(self.expression.parameters) & {as_name(column) for column in columns}
        if taken:
            raise InputError(
                f"'{sorted(taken)[0]}' is a scale of the table and a parameter of the law '{self.name}'; rename the "
                "column",
                field="x",
            )
        renamed = dict(zip((as_name(axis) for axis in self.axes), (as_name(column) for column in columns), strict=True))
        return replace(self, text=_rename(self.text, renamed), axes=tuple(columns))

    def constrained(
        self, bounds: Mapping[str, tuple[float, float]] | None = None, fixed: Mapping[str, float] | None = None
    ) -> Formula:
        """With bounds and fixed parameters of the user's (a fixed one is bounded to its value).

        Raises:
            InputError: no such parameter, bounds in the wrong order, or a value outside them.
        """
        asked = {**(bounds or {}), **{name: (value, value) for name, value in (fixed or {}).items()}}
        for name, (low, high) in asked.items():
            where = "fix" if fixed and name in fixed else "bound"
            if name not in self.expression.parameters:
                raise InputError(
                    f"`{where}`: the law has no parameter '{name}'; it has {', '.join(self.expression.parameters)}",
                    field=where, value=name, allowed=", ".join(self.expression.parameters),
                )  # fmt: skip
            if not low <= high or np.isnan(low) or np.isnan(high):
                raise InputError(f"`{where}`: '{name}' from {low:g} to {high:g} is no range", field=where)
        if len(fixed or {}) == len(self.expression.parameters):
            raise InputError("`fix`: every parameter is fixed; leave one to fit", field="fix")
        return replace(self, bounds={**self.bounds, **asked})


def _rename(text: str, names: Mapping[str, str]) -> str:
    import re

    return re.sub(r"[^\W\d]\w*", lambda found: names.get(found[0], found[0]), text)


def link_of(loss: Array) -> Link:
    """Residuals of ln loss where that exists."""
    return "log" if bool((loss > 0).all()) else "identity"


def default_objective(loss: Array) -> Objective:
    """Huber's penalty of ln loss, or of the loss with delta in units of its spread where it is not positive."""
    if link_of(loss) == "log":
        return LogHuber()
    return LogHuber(max(_HUBER_SHARE * float(np.std(loss)), 1e-300))


def objective_words(objective: Objective, link: Link) -> str:
    """What was minimised, for notes."""
    if link == "log":
        return f"{objective.name} of residuals of ln loss" if isinstance(objective, LeastSquares) else objective.name
    kind = "least squares" if isinstance(objective, LeastSquares) else objective.name.replace("log-", "")
    return f"{kind} of the loss itself, since not all losses are positive"


@dataclass(frozen=True)
class FormulaFit:
    """A formula fitted to a table.

    Attributes:
        theta: [p] in the order of ``formula.expression.parameters``; covariance: [p, p], zero where fixed or at a
            bound.
        noise: standard deviation of one row about the fit, on the scale of the residuals.
    """

    formula: Formula
    observations: Observations
    objective: Objective
    problem: Problem
    theta: Array
    objective_value: float
    covariance: Array
    noise: float
    converged: bool
    n_starts: int
    n_agree: int

    @property
    def link(self) -> Link:
        return self.problem.link

    @property
    def names(self) -> tuple[str, ...]:
        return self.formula.expression.parameters

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.names, self.theta, strict=True)}

    @property
    def free(self) -> tuple[str, ...]:
        """Parameters that were not fixed."""
        return tuple(
            name for name, low, high in zip(self.names, self.problem.lower, self.problem.upper, strict=True)
            if high > low
        )  # fmt: skip

    @property
    def at_bound(self) -> tuple[str, ...]:
        low, high = self.problem.lower, self.problem.upper
        return tuple(
            name for k, name in enumerate(self.names)
            if high[k] > low[k] and (self.theta[k] <= low[k] or self.theta[k] >= high[k])
        )  # fmt: skip

    @cached_property
    def residuals(self) -> Array:
        """[n] observed minus predicted, on the scale of the residuals."""
        return np.asarray(self.problem.residuals(self.theta[None])[0])

    @property
    def rmse(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def r2(self) -> float:
        """Share of the variance of the residuals' scale that the law explains."""
        spread = float(np.sum((self.problem.target - self.problem.target.mean()) ** 2))
        return float(1 - np.sum(self.residuals**2) / spread) if spread > 0 else 0.0

    @property
    def aicc(self) -> float:
        n, k = self.observations.n, len(self.free) + 1
        if n <= k + 1:
            return float("inf")
        return float(self.objective.deviance(self.objective_value, n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))

    def predict(self, x: ArrayLike) -> Array:
        """Loss at rows of scales [m, d]."""
        with np.errstate(all="ignore"):
            return np.asarray(self.formula.expression.bind(np.asarray(x, float)).value(self.theta[None])[0])

    def linearised(self, x: Array) -> tuple[Array, Array]:
        """On the scale of the residuals: prediction [m] and its derivatives by the parameters [m, p]."""
        with np.errstate(all="ignore"):
            bound = self.formula.expression.bind(np.asarray(x, float))
            value, jacobian = descent.linked(*bound.value_and_jacobian(self.theta[None]), self.link)
        return value[0], jacobian[0]

    def variance(self, x: Array) -> Array:
        """[m] of the prediction, from the covariance of the parameters."""
        jacobian = self.linearised(x)[1]
        return np.asarray(np.maximum(np.einsum("mp,pq,mq->m", jacobian, self.covariance, jacobian), 0.0))

    def refit(self, observations: Observations) -> FormulaFit:
        """The same formula on another table, started from this fit: milliseconds, for one more row or one less."""
        weights = np.ones(observations.n)
        problem = replace(self.problem, x=observations.x, loss=observations.loss, weights=weights)
        found = descent.minimise(problem, self.theta[None], self.objective, iterations=30, tolerance=1e-8)
        theta = found.theta[0]
        covariance, noise = spread(problem, theta, self.objective, observations)
        return replace(
            self, observations=observations, problem=problem, theta=theta, objective_value=float(found.value[0]),
            covariance=covariance, noise=noise, converged=bool(found.converged[0]),
        )  # fmt: skip

    def intervals(self, level: float) -> dict[str, Interval]:
        """Of every parameter by its standard error and Student's t; on the logarithm for positive ones."""
        reach = float(stdtrit(max(self.observations.n_runs - len(self.free), 1), (1 + level) / 2))
        found = {}
        for k, name in enumerate(self.names):
            value, error = float(self.theta[k]), float(np.sqrt(max(self.covariance[k, k], 0.0)))
            if self.problem.lower[k] >= 0 and value > 0 and error > 0:
                factor = float(np.exp(min(reach * error / value, 700.0)))
                low, high = value / factor, value * factor
            else:
                low, high = value - reach * error, value + reach * error
            low, high = max(low, float(self.problem.lower[k])), min(high, float(self.problem.upper[k]))
            found[name] = Interval(value, min(low, value), max(high, value))
        return found


def fit_formula(formula: Formula, observations: Observations, objective: Objective | None = None) -> FormulaFit:
    """Fit a law of the library's or the user's from many starts.

    Raises:
        InputError: fewer rows or distinct scales than parameters + 1, or no start gives finite predictions.
    """
    law = formula if formula.axes == observations.x_names else formula.on(observations.x_names)
    problem = problem_of(law, observations)
    n_free = int((problem.upper > problem.lower).sum())
    if observations.n_scales < n_free + 1:
        raise InputError(
            f"the law '{law.name}' has {n_free} parameters to fit and the table {observations.n_scales} distinct "
            f"scales; it needs at least {n_free + 1}",
            field="law",
        )
    wanted = objective or law.objective or default_objective(observations.loss)
    with np.errstate(all="ignore"):
        begin = descent.starts(problem, STARTS, law.starts)
        theta, value, converged, agree = descent.fit(problem, wanted, begin)
    if not np.isfinite(value):
        raise InputError(
            f"the law '{law.name}' has no finite prediction for this table from any of its starts; give bounds that "
            "keep it positive" if problem.link == "log" else f"the law '{law.name}' has no finite prediction",
            field="law",
        )  # fmt: skip
    covariance, noise = spread(problem, theta, wanted, observations)
    return FormulaFit(law, observations, wanted, problem, theta, value, covariance, noise, converged, len(begin), agree)


def problem_of(law: Formula, observations: Observations) -> Problem:
    """The formula on the table, with its bounds and without its priors."""
    names = law.expression.parameters
    lower = np.array([law.bounds.get(name, (-np.inf, np.inf))[0] for name in names])
    upper = np.array([law.bounds.get(name, (-np.inf, np.inf))[1] for name in names])
    return Problem(
        law.expression, observations.x, observations.loss, np.ones(observations.n), link_of(observations.loss), lower,
        upper,
    )  # fmt: skip


def robust_fit(
    formula: Formula, observations: Observations, link: Link, count: int = 6, tolerance: float = 1e-5
) -> FormulaFit | None:
    """A fast fit for choosing among forms, with the formula's priors; None where no start leads anywhere.

    Huber's penalty, its delta `ROBUST` times the noise that least squares leaves: nearly the median regression that
    the log-Huber penalty of `fit_law` is, at any noise.
    """
    problem = replace(problem_of(formula, observations), link=link)
    with np.errstate(all="ignore"):
        begin = descent.starts(problem, count, formula.starts)
        floor = 1e-9 * (1.0 if link == "log" else float(np.std(observations.loss)) + 1e-300)
        guess = max(0.3 * float(np.std(problem.target)), floor)
        theta, noise, objective = begin, 0.1 * guess, LeastSquares()
        found = descent.minimise(with_prior(problem, formula, objective, noise), theta, objective, iterations=40,
                                 tolerance=tolerance)  # fmt: skip
        order = np.argsort(np.where(np.isfinite(found.value), found.value, np.inf), kind="stable")[:2]
        theta = found.theta[order]
        if not np.isfinite(found.value[order[0]]):
            return None
        noise = max(NORMAL_MAD * float(np.median(np.abs(problem.residuals(theta[:1])))), floor)
        wanted = LogHuber(ROBUST * noise)
        for delta in (0.5, ROBUST):
            step = LogHuber(delta * noise)
            found = descent.minimise(with_prior(problem, formula, step, noise), theta, step, iterations=20,
                                     tolerance=tolerance)  # fmt: skip
            theta = found.theta
        best = int(np.argmin(np.where(np.isfinite(found.value), found.value, np.inf)))
        if not np.isfinite(found.value[best]):
            return None
        problem = with_prior(problem, formula, wanted, noise)
        covariance, noise = spread(problem, theta[best], wanted, observations)
        if not np.isfinite(noise):
            return None
    return FormulaFit(
        formula, observations, wanted, problem, theta[best], float(found.value[best]), covariance, noise,
        bool(found.converged[best]), len(begin), len(theta),
    )  # fmt: skip


def with_prior(problem: Problem, formula: Formula, objective: Objective, noise: float) -> Problem:
    """The problem with the formula's priors, in the units that an objective counts noise of this size in."""
    if not formula.priors:
        return problem
    names = formula.expression.parameters
    mean = np.array([formula.priors.get(name, (0.0, np.inf))[0] for name in names])
    width = np.array([formula.priors.get(name, (0.0, np.inf))[1] for name in names])
    slope, curvature = huber_moments(objective, noise)
    return replace(problem, prior=(mean, noise**2 * slope / curvature / width**2))


def huber_moments(objective: Objective, noise: float) -> tuple[float, float]:
    """Of standard normal residuals: mean squared slope of the penalty, and its mean curvature."""
    if not isinstance(objective, LogHuber):
        return 1.0, 1.0
    k = min(objective.delta / max(noise, 1e-300), 40.0)  # beyond, nothing of a normal distribution lies outside
    inside = float(2 * ndtr(k) - 1)
    density = float(np.exp(-k * k / 2) / np.sqrt(2 * np.pi))
    return max(inside - 2 * k * density + 2 * k * k * (1 - float(ndtr(k))), 1e-300), max(inside, 1e-300)


def spread(problem: Problem, theta: Array, objective: Objective, observations: Observations) -> tuple[Array, float]:
    """Covariance [p, p] of the parameters, and the standard deviation of a row about the fit.

    The variance of an M-estimator with normal residuals (Huber 1964); where several rows are of one run, the sandwich
    that sums over runs first (Liang and Zeger 1986).
    """
    with np.errstate(all="ignore"):
        predicted, jacobian = problem.predict(theta[None])
    residual, jacobian = problem.target - predicted[0], np.where(np.isfinite(jacobian[0]), jacobian[0], 0.0)
    free = (problem.upper > problem.lower) & (theta > problem.lower) & (theta < problem.upper)
    size = np.sqrt((jacobian**2).sum(0))
    free &= size > 0
    freedom = max(len(residual) - int((problem.upper > problem.lower).sum()), 1)
    inflate = float(np.sqrt(len(residual) / freedom))
    core = NORMAL_MAD * float(np.median(np.abs(residual)))
    noise = inflate * max(core, float(np.quantile(np.abs(residual), 0.9)) / 1.645)
    slope, curvature = huber_moments(objective, noise)
    p = len(theta)
    covariance = np.zeros((p, p))
    if not free.any() or not np.isfinite(noise):
        return covariance, noise
    columns = jacobian[:, free] / size[free]
    information = columns.T @ columns
    if problem.prior is not None:
        inner = np.where(problem.coded, 1 / np.maximum(np.abs(theta), 1e-300), 1.0)[free]
        weight = problem.prior[1][free] * inner**2 / size[free] ** 2 / curvature
        information = information + np.diag(weight)
    if not np.isfinite(information).all():
        return covariance, float("inf")
    try:
        inverse = np.linalg.pinv(information, rcond=1e-13, hermitian=True)
    except np.linalg.LinAlgError:  # entries so far apart that the eigenvalues are not found
        return covariance, float("inf")
    if observations.n_runs < observations.n:
        scores = np.zeros((observations.n_runs, int(free.sum())))
        np.add.at(scores, observations.run, columns * objective.penalty(residual).slope[:, None])
        middle = scores.T @ scores / curvature**2
    else:
        middle = information * noise**2 * slope / curvature**2
    inner_covariance = inverse @ middle @ inverse / np.outer(size[free], size[free])
    covariance[np.ix_(free, free)] = inner_covariance
    return covariance, noise
