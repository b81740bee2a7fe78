"""Minimising a penalty of residuals over the parameters of a formula: many starts at once, bounds, exact derivatives.

Starts: the nonlinear parameters are spread over what a table of this range can tell apart, the linear ones solved for
(variable projection, Golub and Pereyra 1973). Then Levenberg and Marquardt's method from the best, with Huber's penalty
approached in steps; a small penalty ends with Newton's method on the exact Hessian (complex steps of the gradient).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from metascale.laws.expression import Bound, Expression
from metascale.laws.objective import Objective
from metascale.laws.observations import Array, Mask

Link: TypeAlias = Literal["log", "identity"]
"""Residuals are differences of ln loss, or of losses where some are not positive."""

SCREENED = 256  # starts that are compared by the misfit of their best linear parameters
SCREENING_ROWS = 300
LARGEST_EXPONENT = 10.0
BEYOND = 30.0  # a parameter counted in the unit of a scale lies within its range, and this factor beyond
_TINY = 1e-300


class Solution(NamedTuple):
    """Where the starts ended: parameters [S, p], sums of penalties [S], converged [S]."""

    theta: Array
    value: Array
    converged: Mask


@dataclass(frozen=True)
class Problem:
    """A formula on a table.

    Attributes:
        x: [n, d]; loss: [n]; weights: [n].
        lower, upper: [p] bounds of the parameters, infinite where there are none.
        prior: mean [p] and precision [p] of a Gaussian prior, in units of the objective; of `coded` parameters it is
            that of the logarithm.
    """

    expression: Expression
    x: Array
    loss: Array
    weights: Array
    link: Link
    lower: Array
    upper: Array
    prior: tuple[Array, Array] | None = None

    @cached_property
    def bound(self) -> Bound:
        return self.expression.bind(self.x)

    @cached_property
    def target(self) -> Array:
        return np.log(self.loss) if self.link == "log" else self.loss

    @cached_property
    def coded(self) -> Mask:
        """[p] parameters moved by their logarithms: positive, nonlinear, and no exponents."""
        names, roles = self.expression.parameters, self.expression.roles
        nonlinear = np.array([name not in _solved(self).linear for name in names])
        exponents = np.array([roles[name] == ("exponent",) for name in names])
        return np.asarray(nonlinear & ~exponents & (self.lower >= 0) & (self.upper > self.lower))

    def keep(self, rows: NDArray[Any]) -> Problem:
        return replace(self, x=self.x[rows], loss=self.loss[rows], weights=self.weights[rows])

    def predict(self, theta: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """On the scale of the residuals [S, n], and the derivatives [S, n, p]."""
        return linked(*self.bound.value_and_jacobian(theta), self.link)

    def residuals(self, theta: Array) -> Array:
        """[S, n] observed minus predicted; infinite where a prediction has no logarithm."""
        value = self.bound.value(theta)
        if self.link == "log":
            value = np.where(value > 0, np.log(np.maximum(value, _TINY)), -np.inf)
        return np.asarray(self.target - value)

    def encode(self, theta: Array) -> Array:
        return np.where(self.coded, np.log(np.maximum(theta, _TINY)), theta)

    def decode(self, code: NDArray[Any]) -> NDArray[Any]:
        return np.where(self.coded, np.exp(np.where(self.coded, code, 0.0)), code)


def linked(value: NDArray[Any], jacobian: NDArray[Any], link: Link) -> tuple[NDArray[Any], NDArray[Any]]:
    """Losses and their derivatives on the scale of the residuals."""
    if link == "identity":
        return value, jacobian
    positive = np.real(value) > 0
    safe = np.where(positive, value, 1.0)
    return np.where(positive, np.log(safe), -np.inf), jacobian / safe[..., None]


def starts(problem: Problem, count: int, given: Mapping[str, float] | None = None) -> Array:
    """[count, p] the most promising of `SCREENED` values of the nonlinear parameters, with the best linear ones."""
    if len(problem.x) > SCREENING_ROWS:
        step = np.linspace(0, len(problem.x) - 1, SCREENING_ROWS).astype(int)
        problem = problem.keep(np.argsort(np.log(np.abs(problem.x) + _TINY).sum(1), kind="stable")[step])
    names, linear = problem.expression.parameters, _solved(problem).linear
    places = [k for k, name in enumerate(names) if name not in linear]
    draws = evenly(SCREENED if places else 1, max(len(places), 1))
    nonlinear = np.empty((len(draws), len(places)))
    for j, k in enumerate(places):
        nonlinear[:, j] = _spread(problem, k, draws[:, j])
        if given and names[k] in given:
            nonlinear[:, j] = given[names[k]] * np.exp(0.5 * (draws[:, j] - 0.5) * (np.arange(len(draws)) > 0))
    nonlinear = np.clip(nonlinear, problem.lower[places], problem.upper[places])
    theta, error = project(problem, nonlinear)
    order = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")[:count]
    return theta[order]


def evenly(n: int, d: int) -> Array:
    """[n, d] points that fill the unit cube evenly: Roberts' sequence (2018), a Kronecker recurrence.

    Its steps are powers of the root of x^(d+1) = x + 1, for d = 1 the golden section.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (d + 1))
    steps = root ** -np.arange(1.0, d + 1)
    return np.asarray((0.5 + np.arange(1, n + 1)[:, None] * steps) % 1.0)


def _spread(problem: Problem, k: int, draw: Array) -> Array:
    """Values of one nonlinear parameter from uniform draws."""
    name, low, high = problem.expression.parameters[k], problem.lower[k], problem.upper[k]
    role = problem.expression.roles[name]
    if role and role != ("exponent",):
        columns = [problem.x[:, problem.expression.variables.index(axis)] for axis in role]
        bottom, top = min(c.min() for c in columns) / BEYOND, max(c.max() for c in columns) * BEYOND
        bottom, top = max(bottom, low, _TINY), min(top, high)
        if 0 < bottom < top:
            return np.asarray(np.exp(np.log(bottom) + draw * np.log(top / bottom)))
    if np.isfinite(low) and np.isfinite(high) and not (role and high - low > 2):
        return np.asarray(low + (high - low) * draw)
    size = np.exp(np.log(0.02) + np.abs(2 * draw - 1) * np.log(1.5 / 0.02)) if role else np.geomspace(1e-3, 1e3, 13)[
        np.minimum((draw * 13).astype(int), 12)
    ]  # fmt: skip
    if low >= 0:
        return np.asarray(np.exp(np.log(0.02) + draw * np.log(75.0)) if role else size)
    return np.asarray(np.where(draw < (0.15 if role else 0.5), -size, size))


def project(problem: Problem, nonlinear: Array) -> tuple[Array, Array]:
    """Full parameters [S, p] with the linear ones solved for within their bounds, and the misfits [S]."""
    solved = _solved(problem)
    names, linear, in_logs = problem.expression.parameters, solved.linear, solved is not problem.expression
    theta = np.zeros((len(nonlinear), len(names)))
    places = [k for k, name in enumerate(names) if name not in linear]
    theta[:, places] = nonlinear
    if linear:
        parts, rest = solved.parts
        columns = np.stack([part.bind(problem.x).value(nonlinear) for part in parts], -1)
        aim = problem.target if in_logs else problem.loss
        target = aim - (0.0 if rest is None else rest.bind(problem.x).value(nonlinear))
        target = np.broadcast_to(target, columns.shape[:2])
        scale = np.sqrt(problem.weights) / (problem.loss if problem.link == "log" and not in_logs else 1.0)
        index = [names.index(name) for name in linear]
        theta[:, index] = _within(columns * scale[:, None], target * scale, problem.lower[index], problem.upper[index])
    residual = problem.residuals(theta)
    return theta, np.asarray((problem.weights * residual**2).sum(1))


def _solved(problem: Problem) -> Expression:
    """The expression whose linear parameters are solved for: of ln loss, where the law is an exponential."""
    return (problem.expression.logarithm if problem.link == "log" else None) or problem.expression


def _within(columns: Array, target: Array, lower: Array, upper: Array) -> Array:
    """Least squares in boxes: what leaves its box is put on the edge, and the rest solved again."""
    size = np.sqrt((columns**2).sum(1)) + _TINY
    scaled = columns / size[:, None, :]
    scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    gram = np.einsum("snk,snl->skl", scaled, scaled)
    moment = np.einsum("snk,sn->sk", scaled, np.where(np.isfinite(target), target, 0.0))
    n_columns = len(lower)
    edge = np.zeros((len(columns), n_columns))
    held = np.zeros((len(columns), n_columns), bool)
    found = edge
    for _ in range(n_columns + 1):
        free = (~held).astype(float)
        matrix = gram * free[:, :, None] * free[:, None, :] + (held + 1e-11)[:, :, None] * np.eye(n_columns)
        right = (moment - np.einsum("skl,sl->sk", gram, edge)) * free
        found = np.linalg.solve(matrix, right[..., None])[..., 0] * free + edge
        low, high = lower * size, upper * size
        below, above = (found < low - 1e-12 * np.abs(low)) & ~held, (found > high + 1e-12 * np.abs(high)) & ~held
        if not (below | above).any():
            break
        edge = np.where(below, low, np.where(above, high, edge))
        held |= below | above
    return np.asarray(found / size)


def minimise(
    problem: Problem, theta: Array, objective: Objective, *, iterations: int = 100, tolerance: float = 1e-9
) -> Solution:
    """Levenberg and Marquardt's method from every start [S, p]; weights of Huber's penalty are its majoriser's."""
    coded = problem.coded
    with np.errstate(all="ignore"):
        low, high = problem.encode(problem.lower[None])[0], problem.encode(problem.upper[None])[0]
        low = np.where(coded, np.maximum(low, -700), low)
        code = np.clip(problem.encode(theta), low, high)
        damping = np.full(len(code), 1e-3)
        value, gradient, bend = _local(problem, code, objective)
        done = ~np.isfinite(value)
        failed = done.copy()
        quiet = np.zeros(len(code), int)
        for _ in range(iterations):
            live = np.flatnonzero(~done)
            if not len(live):
                break
            trial = _move(code[live], gradient[live], bend[live], damping[live], low, high)
            new_value, new_gradient, new_bend = _local(problem, trial, objective)
            better = np.isfinite(new_value) & (new_value <= value[live])
            fall = np.where(better, (value[live] - new_value) / (value[live] + _TINY), np.inf)
            chosen = live[better]
            code[chosen], value[chosen] = trial[better], new_value[better]
            gradient[chosen], bend[chosen] = new_gradient[better], new_bend[better]
            damping[live] = np.where(better, np.maximum(damping[live] / 5, 1e-14), damping[live] * 8)
            quiet[live] = np.where(fall < tolerance, quiet[live] + 1, np.where(better, 0, quiet[live]))
            done[live] |= (quiet[live] >= 2) | (damping[live] > 1e12)
    return Solution(np.asarray(problem.decode(code)), value, np.asarray(done & ~failed))


def _local(problem: Problem, code: Array, objective: Objective) -> tuple[Array, Array, Array]:
    """Value [S], downhill direction's right side [S, p] and majorised curvature [S, p, p] at coded parameters."""
    theta = problem.decode(code)
    predicted, jacobian = problem.predict(theta)
    if problem.coded.any():
        jacobian = jacobian * np.where(problem.coded, theta, 1.0)[:, None, :]
    penalty = objective.penalty(problem.target - predicted)
    value = (problem.weights * penalty.value).sum(1)
    bad = ~(np.isfinite(value) & np.isfinite(jacobian).all((1, 2)))
    jacobian = np.where(bad[:, None, None], 0.0, jacobian)
    slope = np.where(bad[:, None], 0.0, penalty.slope * problem.weights)
    weight = np.where(bad[:, None], 0.0, penalty.majoriser * problem.weights)
    gradient = np.matmul(slope[:, None, :], jacobian)[:, 0]
    bend = np.matmul((jacobian * weight[..., None]).transpose(0, 2, 1), jacobian)
    if problem.prior is not None:
        mean, precision = problem.prior
        away = code - mean
        value, gradient = value + 0.5 * (away * away) @ precision, gradient - away * precision
        bend = bend + np.diag(precision)
    return np.where(bad, np.inf, value), gradient, bend


def _move(code: Array, gradient: Array, bend: Array, damping: Array, low: Array, high: Array) -> Array:
    """A damped step, in units of each parameter's own curvature; parameters on a bound that pull outwards stay."""
    p = code.shape[1]
    diagonal = np.sqrt(np.einsum("spp->sp", bend)) + 1e-150
    stuck = ((code <= low) & (gradient < 0)) | ((code >= high) & (gradient > 0))
    for _ in range(2):
        free = (~stuck).astype(float)
        matrix = bend / (diagonal[:, :, None] * diagonal[:, None, :]) * free[:, :, None] * free[:, None, :]
        matrix = matrix + ((1 - free) + (damping + 1e-13)[:, None])[:, :, None] * np.eye(p)
        step = np.linalg.solve(matrix, (gradient / diagonal * free)[..., None])[..., 0] / diagonal * free
        trial = np.clip(code + step, low, high)
        out = ((trial == low) | (trial == high)) & (step != 0)
        if not out.any():
            break
        stuck |= out & (np.abs(trial - code) <= 1e-15 * np.abs(code))
    return np.asarray(trial)


def polish(problem: Problem, theta: Array, objective: Objective, iterations: int = 50) -> tuple[Array, float, bool]:
    """Newton's method from one point [p] with the exact Hessian, away from bounds; the point, its value, converged."""
    coded = problem.coded
    with np.errstate(all="ignore"):
        low, high = problem.encode(problem.lower[None])[0], problem.encode(problem.upper[None])[0]
        code = problem.encode(theta[None])[0]
        value, gradient, bend = _local(problem, code[None], objective)
        damping = 1e-6
        free = (code > low) & (code < high)
        for _ in range(iterations):
            hessian = _hessian(problem, code, objective)
            scale = np.sqrt(np.diag(bend[0])) + 1e-150
            system = hessian / np.outer(scale, scale)
            for _ in range(12):
                matrix = system + damping * np.eye(len(code))
                matrix = np.where(np.outer(free, free), matrix, np.eye(len(code)))
                step = np.linalg.lstsq(matrix, gradient[0] / scale * free, rcond=None)[0] / scale
                trial = np.clip(code + step, np.where(coded, np.maximum(low, -700), low), high)
                new = _local(problem, trial[None], objective)
                if new[0][0] < value[0]:
                    break
                damping = min(damping * 10, 1e10)
            else:
                return problem.decode(code), float(value[0]), True
            fall = float(value[0] - new[0][0])
            code, (value, gradient, bend), damping = trial, new, max(damping / 30, 1e-14)
            if fall <= 1e-13 * float(value[0]):
                return problem.decode(code), float(value[0]), True
        return problem.decode(code), float(value[0]), False


def _hessian(problem: Problem, code: Array, objective: Objective) -> Array:
    """[p, p] exact second derivatives of the sum of penalties in the coded parameters."""
    p, step = len(code), 1e-30
    moved = code[None] + 1j * step * np.eye(p)
    theta = problem.decode(moved)
    predicted, jacobian = problem.predict(theta)
    jacobian = jacobian * np.where(problem.coded, theta, 1.0)[:, None, :]
    penalty = objective.penalty(problem.target - predicted[0].real)
    second = jacobian.imag / step
    first = jacobian[0].real
    bend = first.T @ (first * (problem.weights * penalty.curvature)[:, None])
    found = bend - np.einsum("n,jnk->jk", problem.weights * penalty.slope, second)
    if problem.prior is not None:
        found = found + np.diag(problem.prior[1])
    return np.asarray(0.5 * (found + found.T))


def fit(problem: Problem, objective: Objective, begin: Array, exact: bool = True) -> tuple[Array, float, bool, int]:
    """The best minimum from starts [S, p]: parameters, sum of penalties, converged, how many starts agree.

    Args:
        exact: whether to end with Newton's method to rounding; without, to a part in a million of the objective.
    """
    *easier, wanted = objective.path()
    first = easier[0] if easier else wanted
    scouts = minimise(problem, begin, first, iterations=40 if easier or not exact else 100, tolerance=1e-7)
    order = np.argsort(np.where(np.isfinite(scouts.value), scouts.value, np.inf), kind="stable")
    theta = scouts.theta[order[: 4 if exact else 2]]
    for step in easier[1:]:
        theta = minimise(problem, theta, step, iterations=30, tolerance=1e-6).theta
    found = minimise(problem, theta, wanted, iterations=60, tolerance=1e-9)
    if not np.isfinite(found.value).any():
        return theta[0], float("inf"), False, 0
    best = int(np.nanargmin(np.where(np.isfinite(found.value), found.value, np.inf)))
    agree = int((np.abs(found.value - found.value[best]) <= 1e-3 * found.value[best] + 1e-24).sum())
    if not exact:
        return found.theta[best], float(found.value[best]), bool(found.converged[best]), agree
    point, value, converged = polish(problem, found.theta[best], wanted)
    return np.asarray(point), value, converged, agree
