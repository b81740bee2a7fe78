"""Numbers inside the fits of laws (starts, bounds, derivatives, steps, variances) against a few independent lines."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from metascale.laws import families
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

A = np.array

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
