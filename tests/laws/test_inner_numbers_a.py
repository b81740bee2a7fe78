"""Numbers inside the fits of laws (starts, bounds, derivatives, steps) against a few independent lines."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from metascale.laws import descent, families
from metascale.laws.curves import Curve, LogSumExp, Shape, Smooth, Term, decaying, falling
from metascale.laws.descent import Problem
from metascale.laws.expression import parse
from metascale.laws.families import (
    LAWS,
    _broken_starts,
    _constrained_starts,
    _exponent_grid,
    _exponential_starts,
    _joint_starts,
    _kaplan_starts,
    _logistic_starts,
    _m3_starts,
    _m4_starts,
    _none_starts,
    _offset_starts,
    _shifted_starts,
    complex_step,
    data_constrained,
    nonnegative_coefficients,
)
from metascale.laws.newton import FIRST_DAMPING, Local, _advance, _State, _step
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.shapes import broken, m3

A = np.array
INF = math.inf

# ------------------------------------------------------------------------------------------- where fits start

T = A([[-1.3], [-0.4], [0.3], [0.9], [1.7]])
X = T[:, 0]
Y = np.log(0.7 + 1.9 * np.exp(-0.8 * X)) + 0.05 * A([1.0, -1.0, 0.5, 1.0, -0.5])
W = A([1.0, 2.0, 0.5, 3.0, 1.5])
SPAN = 3.0


def least(columns: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, float]:
    """Nonnegative least squares of relative residuals, by Lawson and Hanson's method."""
    root = np.sqrt(w)
    found, norm = nnls(columns / np.exp(y)[:, None] * root[:, None], root)
    return found, norm**2


def starts_by_loop(rows: Any, parts: Any, y: np.ndarray, w: np.ndarray, count: int) -> np.ndarray:
    """[ln coefficients, nonlinear] of the rows of least error; a coefficient of 0 is e^-10 of the smallest loss."""
    found = []
    for row in rows:
        columns = np.column_stack([np.ones_like(y), *parts(row)])
        coefficients, error = least(columns, y, w)
        found.append((error, [*np.log(np.maximum(coefficients, np.exp(y.min() - 10))), *row]))
    found.sort(key=lambda pair: pair[0])
    return A([row for _, row in found[:count]])


def exponents(span: float) -> list[float]:
    return [min(0.1 * 120 ** (k / 24) / span, 8.0) for k in range(25)]


def test_nonnegative_least_squares_of_three_columns_are_those_of_lawson_and_hanson() -> None:
    rng = np.random.default_rng(1)
    columns = rng.uniform(-1, 2, (20, 6, 3))
    y, w = rng.uniform(0.5, 3, 6), rng.uniform(0.5, 3, 6)
    coefficients, errors = nonnegative_coefficients(columns, y, w)
    for design, found, error in zip(columns, coefficients, errors, strict=True):
        wanted, misfit = least(design, np.log(y), w)
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert error == pytest.approx(misfit, rel=1e-6)
    assert {int(n) for n in (coefficients > 0).sum(1)} >= {1, 2}
    none, error = nonnegative_coefficients(-np.abs(columns[:1]), y, w)
    assert (none.tolist(), error.tolist()) == ([[0.0, 0.0, 0.0]], [math.inf])


@pytest.mark.parametrize("span", [0.5, 1.25, 3.0, 40.0])
def test_exponents_that_a_range_can_tell_apart(span: float) -> None:
    """From a tenth to twelve over the range of ln x, at most 8, of the sign of the fall."""
    t = A([[0.0], [0.4 * span], [span]])
    assert _exponent_grid(t, A([3.0, 2.0, 1.0])) == pytest.approx(exponents(span))
    assert _exponent_grid(t + 7, A([1.0, 2.0, 3.0])) == pytest.approx([-each for each in exponents(span)])


@pytest.mark.parametrize("y", [Y, -Y, 1 - 0.3 * X, 0.2 * X**2 + 0.1 * X])
def test_starts_of_a_power_with_a_floor_or_a_shift(y: np.ndarray) -> None:
    sign = 1 if float((X - X.mean()) @ y) < 0 else -1
    powers = [sign * each for each in exponents(SPAN)]
    wanted = starts_by_loop([(a,) for a in powers], lambda row: [np.exp(-row[0] * X)], y, W, 4)
    assert _offset_starts(T, y, W) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    shifts = [-1.3 - 3 + k * (3 + 2.4) / 6 for k in range(7)]
    wanted = starts_by_loop(
        itertools.product(powers[::2], shifts), lambda row: [(np.exp(X) + np.exp(row[1])) ** -row[0]], y, W, 6
    )
    assert _shifted_starts(T, y, W) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    rates = [(1 if sign > 0 else -0.05) * 0.05 * 400 ** (k / 24) / math.exp(1.7) for k in range(25)]
    wanted = starts_by_loop([(k,) for k in rates], lambda row: [np.exp(-row[0] * np.exp(X))], y, W, 4)
    assert _exponential_starts(T, y, W) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_starts_of_the_simple_laws() -> None:
    assert _none_starts(T, A([3.0, 1.0, 2.0, 9.0, 7.0]), W).tolist() == [[3.0]]
    found = _m3_starts(T, Y, W)
    assert len(found) == 9
    for k, row in enumerate(found):
        gamma = -1.7 - 3 + k * (3 + 0.8 * SPAN) / 8
        slope, level = np.polyfit(np.log(np.exp(-X) + math.exp(gamma)), Y, 1, w=np.sqrt(W))
        assert row == pytest.approx([level, slope, gamma])
    accuracy = A([0.1, 0.3, 0.55, 0.8, 0.9])
    slope, level = np.polyfit(X, np.log(accuracy / (1 - accuracy)), 1, w=np.sqrt(W))
    assert _logistic_starts(T, np.log(accuracy), W)[0] == pytest.approx([level, slope])
    perfect = _logistic_starts(T, np.log([0.1, 0.3, 0.55, 0.8, 1.0]), np.ones(5))
    odds = [math.log(p / (1 - p)) for p in (0.1, 0.3, 0.55, 0.8)] + [9 * math.log(10)]
    assert perfect[0] == pytest.approx(np.polyfit(X, odds, 1)[::-1], rel=1e-6)


def test_starts_of_m4_are_lines_of_the_rewritten_equation() -> None:
    """ln(L - E) - ln L0 - κ ln(1 - L / L0) = ln A - α ln x, losses over the largest one; twelve of 36 are run."""
    loss = np.exp(Y - Y.max())
    rows = []
    for floor, head, kappa in itertools.product((0.0, 0.5, 0.8, 0.95), (0.02, 0.3, 1.5), (0.3, 1.0, 3.0)):
        e, top = floor * loss.min(), math.exp(head)
        left = np.log((loss - e) / top) - kappa * np.log(1 - loss / top)
        slope, constant = np.polyfit(X, left, 1, w=np.sqrt(W))
        low = math.log(e) if e else math.log(loss.min()) - 10
        error = W @ (left - constant - slope * X) ** 2
        rows.append((error, [Y.max() + low, Y.max() + head, math.log(kappa), constant, -slope]))
    rows.sort(key=lambda pair: pair[0])
    assert _m4_starts(T, Y, W) == pytest.approx(A([row for _, row in rows[:12]]))


def test_starts_of_a_break_are_hinges_at_quarters_of_the_range() -> None:
    loss = np.exp(Y - Y.max())
    rows = []
    for floor, part, width in itertools.product((0.0, 0.6, 0.9), (0.25, 0.5, 0.75), (0.1, 0.4)):
        e, place = floor * loss.min(), -1.3 + part * SPAN
        hinge = width * np.log(1 + np.exp((X - place) / width))
        design, target = np.column_stack([np.ones(5), X, hinge]), np.log(loss - e)
        root = np.sqrt(W)
        solution = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        low = math.log(e) if e else math.log(loss.min()) - 10
        top = Y.max()
        error = W @ (design @ solution - target) ** 2
        rows.append((error, [top + low, top + solution[0], -solution[1], -solution[2], place, math.log(width)]))
    rows.sort(key=lambda pair: pair[0])
    assert _broken_starts(T, Y, W) == pytest.approx(A([row for _, row in rows[:8]]), rel=1e-6)


SURFACE = A([[-1.0, -0.5], [-1.0, 0.8], [0.2, -0.5], [0.2, 1.1], [0.9, -0.5], [0.9, 0.8], [1.4, 0.1]])
ON_IT = np.log(1.1 + 0.8 * np.exp(-0.5 * SURFACE[:, 0]) + 0.6 * np.exp(-0.3 * SURFACE[:, 1]))
ON_IT = ON_IT + 0.02 * A([1, -1, 0.5, 1, -1, -0.5, 1.0])
WEIGHTS = A([1.0, 2.0, 0.5, 3.0, 1.5, 1.0, 2.5])


def test_starts_of_surfaces() -> None:
    """Exponents 0.04, 0.09 to 1.24 of Hoffmann's; of the law with repeats its two best, with R = 3 or 15 of either."""
    steps = [0.04 + 0.05 * k for k in range(25)]
    n, d = SURFACE.T
    wanted = starts_by_loop(
        itertools.product(steps, steps), lambda row: [np.exp(-row[0] * n), np.exp(-row[1] * d)], ON_IT, WEIGHTS, 4
    )
    assert _joint_starts(SURFACE, ON_IT, WEIGHTS) == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    repeats = itertools.product((math.log(3), math.log(15)), repeat=2)
    both = A([[*row, *pair] for (row, pair) in itertools.product(wanted[:2], list(repeats))])
    three = np.column_stack([SURFACE, SURFACE[:, 1] - 0.3])
    assert _constrained_starts(three, ON_IT, WEIGHTS) == pytest.approx(both, rel=1e-4, abs=1e-5)


def test_starts_of_kaplans_law() -> None:
    """L^(1/αD) is linear in Nc^(αN/αD) and Dc; errors of it count αD² as much in ln L."""
    rows: list[Any] = []
    near = 0.05 * SURFACE
    n, d = near.T
    loss = 0.4 * np.log(np.exp(0.7 / 0.4 * (0.3 - n)) + np.exp(0.6 - d)) + 0.001 * A([1, -1, 0.5, 1, -1, -0.5, 1.0])
    grid = [0.02 * 40 ** (k / 12) for k in range(13)]
    for a, b in itertools.product(grid, grid):
        columns = np.column_stack([np.exp(-a / b * n), np.exp(-d)])
        level = loss.mean() / b
        found, error = least(columns, loss / b - level, WEIGHTS)
        logs = np.log(np.maximum(found, 1e-30)) + level
        rows.append((error * b * b, [logs[0] * b / a, logs[1], a, b]))
    rows.sort(key=lambda pair: pair[0])
    assert rows[6][0] > 1.001 * rows[5][0]
    assert _kaplan_starts(near, loss, WEIGHTS) == pytest.approx(A([row for _, row in rows[:6]]), rel=1e-4)


BOX_T, BOX_Y = A([[-2.0, 1.0, 1.5], [3.0, 4.0, 4.5]]), A([0.25, 0.75])
E, AMPLITUDE, EXPONENT, SURFACE_EXPONENT = (0.25 - 10, 0.75), (0.25 - 60, 0.75 + 60), (-8.0, 8.0), (0.005, 4.0)
BOUNDS = {
    "none": [AMPLITUDE],
    "power": [AMPLITUDE, EXPONENT],
    "power_irreducible": [E, AMPLITUDE, EXPONENT],
    "power_shifted": [E, AMPLITUDE, EXPONENT, (-2 - 6, 3 + 4)],
    "m3": [AMPLITUDE, EXPONENT, (-3 - 10, 2 + 4)],
    "m4": [E, (0.25, 0.75 + 8), (-4, 4), (-500, 500), EXPONENT],
    "broken": [E, AMPLITUDE, EXPONENT, EXPONENT, (-2 - 1, 3 + 1), (-3.5, 2)],
    "exponential": [E, AMPLITUDE, (-50, 50)],
    "logistic": [(-500, 500), EXPONENT],
    "chinchilla": [E, AMPLITUDE, AMPLITUDE, SURFACE_EXPONENT, SURFACE_EXPONENT],
    "kaplan": [(-400, 400), (-400, 400), SURFACE_EXPONENT, SURFACE_EXPONENT],
    "data_constrained": [E, AMPLITUDE, AMPLITUDE, SURFACE_EXPONENT, SURFACE_EXPONENT, (-2.3, 6.9), (-2.3, 6.9)],
}


@pytest.mark.parametrize("name", sorted(LAWS))
def test_how_far_a_search_goes(name: str) -> None:
    """From the smallest of the table's numbers down and from its largest up, where a parameter is in their unit."""
    low, high = LAWS[name].bounds(BOX_T[:, : LAWS[name].n_axes], BOX_Y)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [pytest.approx(pair) for pair in BOUNDS[name]]


def repeats(theta: np.ndarray, n: float, d: float, u: float) -> float:
    """Muennighoff's equations 5 to 7 in plain units."""
    e, a, b, rd, rn = np.exp(theta[[0, 1, 2, 5, 6]])
    alpha, beta = theta[3:5]
    u = min(u, d)
    un = min(n, (u**beta * alpha * a / (beta * b)) ** (1 / alpha))
    data = u * (1 + rd * (1 - math.exp(-(d / u - 1) / rd)))
    size = un * (1 + rn * (1 - math.exp(-(n / un - 1) / rn)))
    return math.log(e + a / size**alpha + b / data**beta)


def test_the_law_of_repeated_data_and_complex_steps() -> None:
    theta = A([[0.3, 0.9, 0.7, 0.6, 0.4, 1.1, 0.8], [-0.2, 0.5, 1.2, 0.4, 0.7, 0.3, 1.4]])
    t = A([[0.5, 2.0, 0.7], [6.0, 1.0, 0.2], [-3.0, 1.5, 2.5], [4.0, 3.0, 3.0]])
    wanted = [[repeats(row, *np.exp(at)) for at in t] for row in theta]
    assert data_constrained(theta, t) == pytest.approx(A(wanted))
    value, jacobian = complex_step(data_constrained)(theta, t)
    assert value == pytest.approx(A(wanted))
    for k, step in enumerate(1e-6 * np.eye(7)):
        slope = (data_constrained(theta + step, t) - data_constrained(theta - step, t)) / 2e-6
        assert jacobian[..., k] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_units_of_a_rate_and_of_amplitudes() -> None:
    """exp(-k x / x_ref) has k / x_ref in the table's unit."""
    moved = LAWS["exponential"].units(A([[0.5, 0.7, 3.0]]), A([math.log(4)]))
    assert moved.tolist() == [[0.5, 0.7, pytest.approx(0.75)]]
    assert LAWS["m4"].decode(A([0.0, 1.0, -1.0, 2.0, -3.0])) == pytest.approx([1, math.e, 1 / math.e, math.e**2, -3])
    assert families.rises(A([0.0, 1.0, 2.0]), A([1.0, 1.0, 1.0])) is False


# ------------------------------------------------------------------------------------------- curves and their expansion


def slopes(function: Any, theta: np.ndarray) -> np.ndarray:
    """Central differences of a function of one point [p], along the last axis of what it gives."""
    steps = 1e-5 * np.eye(len(theta))
    return np.stack([(function(theta + step) - function(theta - step)) / 2e-5 for step in steps], -1)


CURVES: dict[str, tuple[Curve, int]] = {
    "a power": (LogSumExp(2, (Term(0, 1, falling(0)),)), 1),
    "a floor and a power": (LogSumExp(3, (Term(0), Term(1, 2, falling(0)))), 1),
    "three terms, one exponent of two": (
        LogSumExp(4, (Term(0, 3, falling(0)), Term(1, 3, decaying(0)), Term(2))), 1),
    "a surface": (LogSumExp(5, (Term(0), Term(1, 3, falling(0)), Term(2, 4, falling(1)))), 2),
    "m3": (Shape(3, m3), 1),
    "a break": (Shape(6, broken), 1),
    "Kaplan's": (Smooth(4, families.kaplan), 2),
}  # fmt: skip
POINTS = A([[0.3, 0.5, 0.7, 0.4, 0.6, -0.9], [-0.2, 0.8, 0.35, 0.9, 0.45, -0.4]])


@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber(0.4)], ids=["squares", "Huber"])
@pytest.mark.parametrize("name", CURVES)
def test_an_expansion_is_that_of_differences(name: str, objective: Objective) -> None:
    """Value, gradient and Hessian of the weighted penalties; the majoriser's Hessian has Σ w m J² on its diagonal."""
    curve, n_axes = CURVES[name]
    p = curve.n_parameters  # type: ignore[attr-defined]
    theta = POINTS[:, :p]
    t = np.column_stack([X, 0.6 * X[::-1] ** 2 - 0.3])[:, :n_axes]
    offsets = A([[0.1, -0.7, 0.2, 0.9, -0.05], [-0.2, 0.3, 0.8, -0.6, 0.07]])
    target = curve.log_predict(theta, t) + offsets
    weights = A([W, [0.5, 1.5, 2.5, 0.25, 3.0]])
    local = curve.expand(theta, t, target, weights, objective)
    shared = curve.expand(theta, t, target[0], W, objective)
    for b in range(2):

        def total(at: np.ndarray, b: int = b) -> np.ndarray:
            residual = target[b] - curve.log_predict(at[None], t)[0]
            return weights[b] @ objective.penalty(residual).value

        def gradient(at: np.ndarray, b: int = b) -> np.ndarray:
            one = slice(b, b + 1)
            return curve.expand(at[None], t, target[one], weights[one], objective).gradient[0]

        jacobian = slopes(lambda at: curve.log_predict(at[None], t)[0], theta[b])
        assert curve.jacobian(theta[b : b + 1], t)[1][0] == pytest.approx(jacobian, rel=1e-6, abs=1e-8)
        parts = objective.penalty(offsets[b])
        assert local.value[b] == pytest.approx(weights[b] @ parts.value)
        assert local.gradient[b] == pytest.approx(slopes(total, theta[b]), rel=1e-6, abs=1e-8)
        assert local.hessian[b] == pytest.approx(slopes(gradient, theta[b]), rel=1e-4, abs=1e-5)
        assert local.stiffness[b] == pytest.approx((weights[b] * parts.majoriser) @ jacobian**2, rel=1e-6)
        if not isinstance(curve, LogSumExp):
            rough = curve.expand(theta, t, target, weights, objective, exact=False)
            bend = jacobian.T @ (jacobian * (weights[b] * parts.curvature)[:, None])
            assert rough.hessian[b] == pytest.approx(bend, rel=1e-6, abs=1e-8)
    for part, alone in zip(shared, local, strict=True):
        assert part[0] == pytest.approx(alone[0])


EACH = {"a constant": (LogSumExp(1, (Term(0),)), 1), **{name: pair for name, pair in CURVES.items() if pair[1] == 1}}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber(0.4)], ids=["squares", "Huber"])
@pytest.mark.parametrize("name", EACH)
def test_tables_side_by_side_expand_as_each_alone(name: str, objective: Objective, exact: bool) -> None:
    curve = EACH[name][0]
    theta = POINTS[:, : curve.n_parameters]  # type: ignore[attr-defined]
    t, weights = np.column_stack([X, 0.8 * X + 0.3]), np.column_stack([W, [0.5, 1.5, 2.5, 0.25, 3.0]])
    target = np.column_stack([Y, 1.2 - 0.4 * Y])
    found = curve.expand_each(theta, t, target, weights, objective, exact)  # type: ignore[attr-defined]
    for b in range(2):
        one = slice(b, b + 1)
        wanted = curve.expand(theta[one], t[:, one], target[:, b], weights[:, b], objective, exact)
        for part, alone in zip(found, wanted, strict=True):
            assert part[b] == pytest.approx(alone[0], rel=1e-6, abs=1e-7)


# ------------------------------------------------------------------------------------------- Newton's steps


def test_a_damped_step_with_a_coordinate_at_rest() -> None:
    """(H + λ M) d = -g, without the coordinates at a bound whose gradient points outward; the fall is -g d / 2."""
    hessian, stiffness = A([[3.0, 1.0], [1.0, 2.0]]), A([4.0, 0.5])
    gradient = A([[1.5, -0.7], [1.5, -0.7], [1.5, -0.7], [1.5, -0.7], [-1.5, 0.7]])
    theta = A([[0.5, 0.5], [0.0, 0.5], [0.5, 1.0], [0.0, 1.0], [0.0, 1.0]])
    damping = A([0.3, 0.3, 0.3, 0.3, 0.7])
    state = _State(theta, np.zeros(5), gradient.copy(), np.repeat(hessian[None], 5, 0), np.tile(stiffness, (5, 1)),
                   damping, *(np.zeros(5) for _ in range(5)))  # fmt: skip
    step, fall = _step(state, np.zeros((5, 2)), np.ones((5, 2)))
    free = [[0, 1], [1], [0], [], [0, 1]]
    for row, places in enumerate(free):
        wanted = np.zeros(2)
        matrix = hessian + damping[row] * np.diag(stiffness)
        if places:
            wanted[places] = -np.linalg.solve(matrix[np.ix_(places, places)], gradient[row, places])
        assert step[row] == pytest.approx(wanted)
        assert fall[row] == pytest.approx(-0.5 * gradient[row] @ wanted)
    state.gradient[0, 0] = math.nan
    assert _step(state, np.zeros((5, 2)), np.ones((5, 2)))[1][0] == -1.0


def test_a_state_begins_with_its_expansion() -> None:
    local = Local(A([2.0, math.nan]), A([[1.0], [2.0]]), A([[[3.0]], [[4.0]]]), A([[5.0], [6.0]]))
    state = _State.at(lambda theta, rows: local, A([[0.5], [0.7]]), A([0, 1]))
    assert (state.theta.tolist(), state.damping.tolist()) == ([[0.5], [0.7]], [FIRST_DAMPING] * 2)
    assert (state.earlier[0], state.alive.tolist(), state.converged.tolist()) == (2.0, [True, False], [False, False])
    assert (state.decrement.tolist(), state.iterations.tolist()) == ([INF, INF], [0, 0])
    assert (state.stiffness.tolist(), state.hessian[:, 0, 0].tolist()) == ([[5.0], [6.0]], [3.0, 4.0])


def test_one_advance_of_a_bowl() -> None:
    """f = 1 + (x - c)' H (x - c) / 2 with a step damped by 0.01; the fall is counted as an undamped step's. A row whose
    step leads up is damped tenfold and stays; a row that has next to no fall left has converged."""
    hessian, stiffness, c = A([[3.0, 1.0], [1.0, 2.0]]), A([4.0, 0.5]), A([0.7, -0.4])

    def evaluate(theta: np.ndarray, rows: np.ndarray) -> Local:
        away, n = theta - c, len(theta)
        value = (
            1 + 0.5 * np.einsum("bp,pq,bq->b", away, hessian, away) + np.where((rows == 1) & (theta[:, 0] > 0), 9, 0)
        )
        return Local(value, away @ hessian, np.repeat(hessian[None], n, 0), np.tile(stiffness, (n, 1)))

    rows = np.arange(3)
    begin = A([[0.0, 0.0], [0.0, 0.0], [0.7 + 1e-9, -0.4]])
    state = _State.at(evaluate, begin, rows)
    far = np.full((3, 2), 9.0)
    _advance(evaluate, state, rows, -far, far, 1e-13, 1e-5)
    gradient = hessian @ -c
    step = -np.linalg.solve(hessian + 0.01 * np.diag(stiffness), gradient)
    fall = -0.5 * gradient @ step * 1.01
    assert state.theta == pytest.approx(A([step, [0.0, 0.0], begin[2]]))
    assert state.decrement[:2] == pytest.approx([fall, fall])
    assert state.damping == pytest.approx([1e-3, 0.1, 1e-2])
    assert (state.iterations.tolist(), state.converged.tolist()) == ([1, 1, 1], [False, False, True])
    assert state.gradient[0] == pytest.approx(hessian @ (step - c))
    assert state.value[:2] == pytest.approx([1 + 0.5 * (step - c) @ hessian @ (step - c), 1 + 0.5 * c @ hessian @ c])


# ------------------------------------------------------------------------------------------- descent


def problem(text: str, x: Any, loss: Any, **more: Any) -> Problem:
    expression = parse(text, ("x",))
    p, x = len(expression.parameters), A(x, float)
    given: dict[str, Any] = {
        "lower": np.full(p, -INF), "upper": np.full(p, INF), "weights": np.ones(len(x)), "link": "identity", **more,
    }  # fmt: skip
    return Problem(expression, x[:, None], A(loss, float), **given)


def test_a_line_is_approached_with_a_damping_that_falls_to_a_fifth() -> None:
    """Of a x the error left is λ / (1 + λ) of that before: λ = 1e-3, 2e-4, 4e-5. A search ends when the sum has fallen
    by less than the tolerance twice in a row."""
    one = problem("a*x", [1.0, 2.0, 4.0], [2.5, 4.0, 8.5], weights=A([1.0, 2.0, 0.5]))
    w, x, y = one.weights, one.x[:, 0], one.loss
    best, bend = (w * x) @ y / ((w * x) @ x), (w * x) @ x
    least = 0.5 * w @ (y - best * x) ** 2
    error, values = -best, [least + 0.5 * bend * best**2]
    for k in range(3):
        lam = 1e-3 / 5**k
        error *= lam / (1 + lam)
        values.append(least + 0.5 * bend * error**2)
        found = descent.minimise(one, A([[0.0]]), LeastSquares(), iterations=k + 1)
        assert found.theta[0, 0] - best == pytest.approx(error, rel=1e-4)
        assert found.value[0] == pytest.approx(values[-1])
    falls = [(before - after) / before for before, after in itertools.pairwise(values)]
    assert falls[1] > 1e-9 > falls[2] > 0
    assert not descent.minimise(one, A([[0.0]]), LeastSquares(), iterations=3).converged[0]
    assert not descent.minimise(one, A([[0.0]]), LeastSquares(), iterations=2, tolerance=1e-2).converged[0]
    assert descent.minimise(one, A([[0.0]]), LeastSquares(), iterations=3, tolerance=1e-2).converged[0]


def test_damping_grows_eightfold_until_a_step_descends() -> None:
    """exp(h) against 10 from h = 0: 9 / (1 + λ) overshoots for 0.001 times 1, 8, 64 and 512, and not for 4.096."""
    one = problem("exp(h*x)", [1.0], [10.0])
    at = 9 / 5.096
    after = at + (10 - math.exp(at)) / math.exp(at) / (1 + 4.096 / 5)
    for iterations, wanted in ((1, 0.0), (4, 0.0), (5, at), (6, after)):
        found = descent.minimise(one, A([[0.0]]), LeastSquares(), iterations=iterations)
        assert found.theta[0, 0] == pytest.approx(wanted, rel=1e-9)


def test_a_move_is_damped_by_own_curvature_and_rests_at_bounds() -> None:
    bend, gradient = A([[3.0, 1.0], [1.0, 2.0]]), A([[1.5, -0.7], [-1.5, -0.7], [-1.5, 0.7], [9.0, -0.7]])
    code = A([[0.5, 0.5], [0.0, 0.5], [0.0, 0.9], [0.9, 0.5]])
    damping = A([0.3, 0.3, 2.0, 0.5])
    found = descent._move(code, gradient, np.repeat(bend[None], 4, 0), damping, np.zeros(2), np.ones(2))
    for row, places in enumerate(([0, 1], [1], [1], [0, 1])):
        matrix = bend + damping[row] * np.diag(np.diag(bend))
        wanted = np.zeros(2)
        wanted[places] = np.linalg.solve(matrix[np.ix_(places, places)], gradient[row, places])
        assert found[row] == pytest.approx(np.clip(code[row] + wanted, 0, 1), rel=1e-9, abs=1e-12)
    # At the upper bound and pulled beyond: it stays, and the other moves alone.
    found = descent._move(A([[1.0, 0.5]]), A([[2.0, 0.3]]), bend[None], A([0.5]), np.zeros(2), np.ones(2))
    assert found[0] == pytest.approx([1.0, 0.5 + 0.3 / (1.5 * 2)])


@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber(0.15)], ids=["squares", "Huber"])
@pytest.mark.parametrize("prior", [None, (A([0.4, 0.2, 0.9]), A([4.0, 2.0, 3.0]))], ids=["plain", "prior"])
def test_the_exact_hessian_and_its_minimum(objective: Objective, prior: Any) -> None:
    """Of ln(a + b tanh(x / h)), h by its logarithm: differences of the fall; Newton's end has no fall left."""
    x = A([0.5, 1.0, 2.0, 3.0, 5.0, 6.0])
    loss = (1 + 2 * np.tanh(x / 2)) * np.exp([0.1, -0.2, 0.05, 0.3, -0.1, -0.02])
    one = problem("a + b*tanh(x/h)", x, loss, lower=A([-INF, -INF, 0.0]), weights=A([1, 2, 0.5, 1, 3, 1.5]),
                  link="log", prior=prior)  # fmt: skip
    assert one.coded.tolist() == [False, False, True]
    code = A([1.2, 1.7, 0.5])
    wanted = -slopes(lambda at: descent._local(one, at[None], objective)[1][0], code)
    assert descent._hessian(one, code, objective) == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    theta, value, converged = descent.polish(one, one.decode(code[None])[0], objective)
    end, fall, _ = descent._local(one, one.encode(theta[None]), objective)
    assert (converged, value, fall[0]) == (True, pytest.approx(end[0]), pytest.approx(np.zeros(3), abs=1e-6))
    assert not descent.polish(one, one.decode(code[None])[0], objective, iterations=1)[2]


def test_linear_parameters_beside_a_part_without_them() -> None:
    """Of ln loss the linear ones are those of relative residuals; of an exponential, those of ln loss itself."""
    x, w = A([1.0, 2.0, 3.0, 5.0]), A([1.0, 2.0, 0.5, 3.0])
    loss = A([5.0, 6.5, 7.0, 9.0])
    one = problem("2*E + b*x**c + x", x, loss, weights=w, link="log")
    theta, error = descent.project(one, A([[0.5], [1.5]]))
    for row, c in enumerate((0.5, 1.5)):
        design = np.column_stack([np.full(4, 2.0), x**c])
        root = np.sqrt(w) / loss
        e, b = np.linalg.lstsq(design * root[:, None], (loss - x) * root, rcond=None)[0]
        assert dict(zip(one.expression.parameters, theta[row], strict=True)) == pytest.approx({"E": e, "b": b, "c": c})
        assert error[row] == pytest.approx(w @ (np.log(loss) - np.log(2 * e + b * x**c + x)) ** 2)
    free = problem("2*E + b*x**c + x", x, loss, weights=w)
    theta, error = descent.project(free, A([[0.5]]))
    design = np.column_stack([np.full(4, 2.0), np.sqrt(x)])
    e, b = np.linalg.lstsq(design * np.sqrt(w)[:, None], (loss - x) * np.sqrt(w), rcond=None)[0]
    assert dict(zip(free.expression.parameters, theta[0], strict=True)) == pytest.approx({"E": e, "b": b, "c": 0.5})
    assert error[0] == pytest.approx(w @ (loss - 2 * e - b * np.sqrt(x) - x) ** 2)
    logs = problem("exp(a + b*log(x))", x, loss, weights=w, link="log")
    slope, level = np.polyfit(np.log(x), np.log(loss), 1, w=np.sqrt(w))
    theta, error = descent.project(logs, np.zeros((1, 0)))
    assert theta[0] == pytest.approx([level, slope])
    assert error[0] == pytest.approx(w @ (np.log(loss) - level - slope * np.log(x)) ** 2)


def test_starts_about_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is the given value, the others within a factor of e^(1/4) either side, inside the bounds."""
    seen: list[np.ndarray] = []

    def project(one: Problem, nonlinear: np.ndarray) -> Any:
        seen.append(nonlinear)
        return np.column_stack([nonlinear, np.arange(len(nonlinear))]), np.where(
            nonlinear[:, 0] > 2.2, INF, -one.loss[0]
        )

    monkeypatch.setattr(descent, "project", project)
    one = problem("a*x**c", [1.0, 2.0], [1.0, 2.0], lower=A([-INF, 1.9]), upper=A([INF, INF]))
    found = descent.starts(one, 5, {"c": 2.0, "z": 1.0})
    golden = (math.sqrt(5) - 1) / 2
    draws = (0.5 + np.arange(1, 257) * golden) % 1
    wanted = np.maximum(2 * np.exp(0.5 * (draws - 0.5)), 1.9)
    wanted[0] = 2.0
    assert seen[0][:, 0] == pytest.approx(wanted)
    assert found[:, 1].tolist() == np.flatnonzero(wanted <= 2.2)[:5].tolist()
    descent.starts(one, 5)
    assert seen[1][:, 0] == pytest.approx(descent._spread(one, 1, draws).clip(1.9))
    long = problem("a*x", np.arange(1.0, 700.0)[::-1], np.arange(1.0, 700.0))
    kept: list[Any] = []
    monkeypatch.setattr(descent, "project", lambda one, rows: kept.append(one.x[:, 0]) or (rows, np.zeros(len(rows))))
    descent.starts(long, 1)
    assert kept[0].tolist() == (1 + np.linspace(0, 698, 300).astype(int)).tolist()


def test_boxes_hold_what_leaves_them() -> None:
    """Columns of unlike lengths: the second of three is put on its edge, the third on its own, the first solved for."""
    columns = A([[1.0, 20.0, 0.3], [2.0, -10.0, 0.1], [0.5, 30.0, -0.2], [1.5, 5.0, 0.4]])
    target = columns @ A([2.0, 0.5, -3.0]) + A([0.1, -0.1, 0.05, 0.2])
    low, high = A([-INF, 0.0, -1.0]), A([INF, 0.2, INF])
    rest = target - columns[:, 1:] @ A([0.2, -1.0])
    wanted = [columns[:, 0] @ rest / (columns[:, 0] @ columns[:, 0]), 0.2, -1.0]
    assert descent._within(columns[None], target[None], low, high)[0] == pytest.approx(wanted, rel=1e-6)
    free = descent._within(columns[None], target[None], np.full(3, -INF), np.full(3, INF))[0]
    assert free == pytest.approx(np.linalg.lstsq(columns, target, rcond=None)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "exact", "steps"),
    [
        (LeastSquares(), True, [(6, 1.0, 100, 1e-7), (4, 1.0, 60, 1e-9)]),
        (LeastSquares(), False, [(6, 1.0, 40, 1e-7), (2, 1.0, 60, 1e-9)]),
        (LogHuber(0.01), True, [(6, 1.0, 40, 1e-7), (4, 1.0, 30, 1e-6), (4, 0.1, 30, 1e-6), (4, 0.01, 60, 1e-9)]),
        (LogHuber(0.01), False, [(6, 1.0, 40, 1e-7), (2, 1.0, 30, 1e-6), (2, 0.1, 30, 1e-6), (2, 0.01, 60, 1e-9)]),
    ],
)
def test_the_steps_from_many_starts_to_one_minimum(
    objective: Objective, exact: bool, steps: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many points go on, with which delta, for how long; agreement is a part in a thousand of the value."""
    told: list[Any] = []

    def minimise(one: Problem, theta: np.ndarray, step: Objective, **how: Any) -> Any:
        told.append((len(theta), getattr(step, "delta", 1.0), how["iterations"], how["tolerance"]))
        value = A([3.0, math.nan, 1.0, 1.0005, 1.002, 2.0]) if len(theta) == 6 else A([1.0005, 1.0, 1.0009, 1.002])
        return descent.Solution(theta + 10, value[: len(theta)], A([False, True] * 3)[: len(theta)])

    monkeypatch.setattr(descent, "minimise", minimise)
    monkeypatch.setattr(descent, "polish", lambda one, theta, wanted: (theta + 0.5, 0.99, wanted is objective))
    one = problem("a*x", [1.0, 2.0], [1.0, 2.0])
    theta, value, converged, agree = descent.fit(one, objective, np.arange(6.0)[:, None], exact)
    assert told == [(n, pytest.approx(delta), *rest) for n, delta, *rest in steps]
    # The second of those that went on, moved by 10 in each step: the start number 3.
    end = 3 + 10 * len(steps)
    assert (theta.tolist(), value) == (([end + 0.5], 0.99) if exact else ([end], 1.0))
    assert (converged, agree) == (True, 3 if exact else 2)


def test_signs_and_ranges_of_what_is_tried() -> None:
    """An exponent is negative in 15 of 100 tries, another parameter in half; a range of exponents wider than 2 is not
    tried evenly."""
    draws = A([0.149, 0.151, 0.499, 0.501, 1.0])
    one = problem("a*x**h + tanh(z)", [2.0, 10.0], [1.0, 2.0])
    h, z = (one.expression.parameters.index(name) for name in ("h", "z"))
    sizes = 0.02 * 75 ** np.abs(2 * draws - 1)
    assert descent._spread(one, h, draws) == pytest.approx(sizes * [-1, 1, 1, 1, 1])
    ladder = 10.0 ** (-3 + 0.5 * A([1, 1, 6, 6, 12]))
    assert descent._spread(one, z, draws) == pytest.approx(ladder * [-1, -1, -1, 1, 1])
    for high, wanted in ((3.0, 1 + 2 * draws), (3.5, 0.02 * 75**draws)):
        lower, upper = one.lower.copy(), one.upper.copy()
        lower[h], upper[h] = 1.0, high
        assert descent._spread(replace(one, lower=lower, upper=upper), h, draws) == pytest.approx(wanted)
    kept = replace(one, weights=A([3.0, 5.0])).keep(A([1]))
    assert (kept.x.tolist(), kept.loss.tolist(), kept.weights.tolist()) == ([[10.0]], [2.0], [5.0])


def test_a_polish_leaves_what_is_at_its_bound() -> None:
    x, w = A([1.0, 2.0, 4.0, 5.0]), A([1.0, 2.0, 0.5, 3.0])
    loss = A([3.0, 4.5, 9.5, 11.0])
    one = problem("a + b*x", x, loss, weights=w, upper=A([INF, 1.5]))
    theta, value, converged = descent.polish(one, A([0.3, 1.5]), LeastSquares())
    level = np.average(loss - 1.5 * x, weights=w)
    assert (theta.tolist(), converged) == ([pytest.approx(level), 1.5], True)
    assert value == pytest.approx(0.5 * w @ (loss - 1.5 * x - level) ** 2)
    free = replace(one, upper=A([INF, INF]))
    theta, value, converged = descent.polish(free, A([0.3, 1.5]), LeastSquares())
    assert theta[::-1] == pytest.approx(np.polyfit(x, loss, 1, w=np.sqrt(w)), rel=1e-6)
