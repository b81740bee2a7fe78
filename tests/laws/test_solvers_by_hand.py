"""Searches, forms together, profiles, optima and entries of laws against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import allocation, approaches, descent, entry
from metascale.laws.belief import EXPONENT, LawAt, _informed, _prior, _size, believe
from metascale.laws.corners import Corner, _carries, _reference, calibrate, mix, scores_of
from metascale.laws.descent import Problem, evenly, linked, project
from metascale.laws.expression import parse
from metascale.laws.families import (
    LAWS,
)
from metascale.laws.fitting import fit_law
from metascale.laws.formula import (
    fit_formula,
    problem_of,
    spread,
    with_prior,
)
from metascale.laws.groups import _crossings, _differences, _statistic
from metascale.laws.library import law_of
from metascale.laws.likelihood import profile
from metascale.laws.metrics import ShareOptions
from metascale.laws.mixture import Component, Mixture
from metascale.laws.multi_power import loss_of
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import observe
from metascale.laws.schedules import Schedule
from metascale.laws.table import Table

A = np.array
INF = math.inf


# ------------------------------------------------------------------------------------------- descent and formulas


def problem(text: str, x: list[float], loss: list[float], **more: Any) -> Problem:
    expression = parse(text, ("x",))
    p = len(expression.parameters)
    given = {
        "lower": np.full(p, -INF),
        "upper": np.full(p, INF),
        "weights": np.ones(len(x)),
        "link": "identity",
        **more,
    }
    return Problem(expression, A(x)[:, None], A(loss), **given)


def test_points_that_fill_the_cube_evenly() -> None:
    golden = (math.sqrt(5) - 1) / 2
    assert evenly(3, 1)[:, 0] == pytest.approx([(0.5 + k * golden) % 1 for k in (1, 2, 3)])
    plastic = 1.324717957244746  # x^3 = x + 1
    assert evenly(1, 2)[0] == pytest.approx([(0.5 + 1 / plastic) % 1, (0.5 + 1 / plastic**2) % 1])


def test_where_a_search_begins() -> None:
    """Of a bounded parameter evenly between its bounds; of a scale from a thirtieth of the smallest to thirty times the
    largest; of an exponent from 0.02 to 1.5 on either side; of others over six decades."""
    draws = A([0.0, 0.25, 0.5, 0.75, 0.999])

    def spread_of(text: str, name: str, low: float = -INF, high: float = INF) -> Any:
        one = problem(text, [2.0, 10.0], [1.0, 2.0])
        k = one.expression.parameters.index(name)
        lower, upper = one.lower.copy(), one.upper.copy()
        lower[k], upper[k] = low, high
        return descent._spread(replace(one, lower=lower, upper=upper), k, draws)

    assert spread_of("a*x + tanh(h)", "h", 1.0, 3.0) == pytest.approx(1 + 2 * draws)
    # As a tanh of a sum with x the shift is counted in the unit of x.
    scale = spread_of("a*tanh(x + h)", "h")
    assert scale[[0, -1]] == pytest.approx([2 / 30, 2 / 30 * 4500**0.999])
    assert spread_of("a*tanh(x + h)", "h", 0.5, 6.0)[[0, -1]] == pytest.approx([0.5, 0.5 * 12**0.999])
    positive = spread_of("a*x**h", "h", 0.0)
    assert positive == pytest.approx(0.02 * 75**draws)
    either = spread_of("a*x**h", "h")
    assert either[0] == pytest.approx(-1.5)
    assert either[[2, 4]] == pytest.approx([0.02, 0.02 * 75 ** (2 * 0.999 - 1)])
    free = spread_of("a*x + tanh(h)", "h")
    ladder = 10.0 ** (-3 + A([0, 3, 6, 9, 12]) / 2)
    assert free == pytest.approx(ladder * [-1, -1, 1, 1, 1])
    assert spread_of("a*x + tanh(h)", "h", 0.0) == pytest.approx(ladder)


@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber(0.1)])
@pytest.mark.parametrize("prior", [None, (A([1.0, 0.5, -0.5]), A([4.0, 2.0, 3.0]))])
def test_the_direction_of_a_step_is_the_fall_of_what_is_minimised(objective: Any, prior: Any) -> None:
    """The value is the weighted penalty and half the prior's squares, the right side its negative derivative, and the
    curvature that of the quadratic that majorises it."""
    weights = A([1.0, 2.0, 0.5, 4.0])
    one = problem("a + b*x**c", [1.0, 2.0, 3.0, 5.0], [2.0, 2.5, 1.0, 4.0], weights=weights, prior=prior)
    point = A([[0.5, 0.25, 1.25]])
    value, right, bend = descent._local(one, point, objective)
    x, (a, b, c) = one.x[:, 0], one.decode(point)[0]
    residuals = one.loss - a - b * x**c
    wanted = (weights * objective.penalty(residuals[None]).value[0]).sum()
    if prior is not None:
        wanted += 0.5 * (prior[1] * (point[0] - prior[0]) ** 2).sum()
    assert value == pytest.approx([wanted])
    steps = 1e-6 * np.eye(3)
    ahead, behind = (descent._local(one, point + sign * steps, objective)[0] for sign in (1, -1))
    assert right[0] == pytest.approx((behind - ahead) / 2e-6, rel=1e-5, abs=1e-7)
    slopes = np.column_stack([np.ones(4), x**c, b * x**c * np.log(x)])
    majorised = slopes.T @ (slopes * (weights * objective.penalty(residuals[None]).majoriser[0])[:, None])
    assert bend[0] == pytest.approx(majorised if prior is None else majorised + np.diag(prior[1]))


def test_a_point_without_a_value_pulls_nowhere() -> None:
    one = problem("a*x**c", [1.0, 10.0], [1.0, 2.0])
    with np.errstate(all="ignore"):
        value, right, bend = descent._local(one, A([[1.0, 400.0], [1.0, 0.0]]), LeastSquares())
    assert (value[0], right[0].tolist(), bend[0].tolist()) == (INF, [0.0, 0.0], [[0.0, 0.0]] * 2)
    assert math.isfinite(value[1])


def test_linear_parameters_are_solved_for_inside_their_bounds() -> None:
    one = problem("a + b*x", [1.0, 2.0, 3.0], [5.0, 7.0, 9.0])
    theta, error = project(one, np.zeros((1, 0)))
    assert (theta[0], error[0]) == (pytest.approx([3, 2], abs=1e-6), pytest.approx(0, abs=1e-9))
    held = replace(one, upper=A([INF, 1.0]), weights=A([1.0, 1.0, 2.0]))
    theta, error = project(held, np.zeros((1, 0)))
    level = float(np.average(A([4.0, 5.0, 6.0]), weights=held.weights))
    assert theta[0] == pytest.approx([level, 1.0], abs=1e-6)
    assert error[0] == pytest.approx((held.weights * (A([4.0, 5, 6]) - level) ** 2).sum())
    value, slopes = linked(A([[2.0, 0.0, -1.0]]), A([[[4.0], [1.0], [1.0]]]), "log")
    assert (value[0].tolist(), slopes[0, 0, 0]) == ([math.log(2), -INF, -INF], 2.0)
    assert linked(A([[2.0]]), A([[[4.0]]]), "identity")[1].tolist() == [[[4.0]]]
    coded = problem("a*tanh(x/h)", [1.0, 2.0], [1.0, 2.0], lower=A([-INF, 0.0]))
    assert coded.coded.tolist() == [False, True]
    assert coded.encode(A([[2.0, math.e]])).tolist() == [[2.0, 1.0]]
    assert coded.decode(A([[2.0, 1.0]])).tolist() == [[2.0, math.e]]
    assert replace(coded, upper=A([INF, 0.0])).coded.tolist() == [False, False]
    assert coded.keep(A([1])).loss.tolist() == [2.0]
    logs = problem("a*x", [1.0, 2.0], [1.0, 4.0], link="log")
    assert logs.residuals(A([[1.0], [-1.0]])).tolist() == [[0.0, math.log(2)], [INF, INF]]


def test_a_search_that_has_no_finite_value_says_so() -> None:
    one = problem("a + log(b - x)", [5.0, 6.0], [1.0, 2.0])
    theta, value, converged, agree = descent.fit(one, LeastSquares(), A([[1.0, 2.0], [3.0, 4.0]]))
    assert (theta.tolist(), value, converged, agree) == ([1.0, 2.0], INF, False, 0)
    line = problem("a + b*x", [1.0, 2.0, 3.0], [5.0, 7.0, 9.5])
    slope, level = np.polyfit([1.0, 2, 3], [5.0, 7, 9.5], 1)
    for exact in (True, False):
        found = descent.fit(line, LeastSquares(), A([[0.0, 0.0], [1.0, 1.0]]), exact)
        assert (found[0], found[2], found[3]) == (pytest.approx([level, slope], rel=1e-6), True, 2)
    # A prior of a = 0 with precision 3 adds 3 a^2 / 2 to half the squares.
    pulled = replace(line, prior=(np.zeros(2), A([3.0, 0.0])))
    matrix = A([[3 + 3.0, 6.0], [6.0, 14.0]])
    theta = descent.fit(pulled, LeastSquares(), A([[0.0, 0.0]]))[0]
    assert theta == pytest.approx(np.linalg.solve(matrix, [21.5, 5 + 14 + 28.5]), rel=1e-6)


def test_covariance_of_a_line_and_of_runs_with_several_rows() -> None:
    """Residuals ±0.1 leave a noise of 1.4826 · 0.1 (their 0.9 quantile over 1.645 is less), times √(6 / 4); where two
    rows are of one run the scores are summed over runs first."""
    x = A([1.0, 1.0, 2.0, 2.0, 4.0, 4.0])
    signs = A([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    table = observe(x, -(1 + 2 * x) + 0.1 * signs, signed=True, replicate=np.arange(6))
    one = problem_of(law_of("a + b*x", ("x",)), table)
    covariance, noise = spread(one, A([-1.0, -2.0]), LeastSquares(), table)
    expected = 0.14826 * math.sqrt(6 / 4)
    design = np.column_stack([np.ones(6), x])
    assert noise == pytest.approx(expected)
    assert covariance == pytest.approx(expected**2 * np.linalg.inv(design.T @ design))
    runs = observe(x, -(1 + 2 * x) + 0.1 * signs, signed=True, replicate=np.arange(6), run=[0, 1, 0, 1, 2, 3])
    residual = runs.loss + 1 + 2 * x
    scores = np.array([(design * residual[:, None])[runs.run == k].sum(0) for k in range(4)])
    inverse = np.linalg.inv(design.T @ design)
    found, _ = spread(problem_of(law_of("a + b*x", ("x",)), runs), A([-1.0, -2.0]), LeastSquares(), runs)
    assert found == pytest.approx(inverse @ scores.T @ scores @ inverse)
    fixed, _ = spread(replace(one, lower=A([-1.0, -INF]), upper=A([-1.0, INF])), A([-1.0, -2.0]), LeastSquares(), table)
    assert (fixed[0].tolist(), fixed[1, 0]) == ([0.0, 0.0], 0.0)
    assert fixed[1, 1] == pytest.approx((0.14826 * math.sqrt(6 / 5)) ** 2 / (x @ x))


def test_intervals_of_parameters_are_in_logarithms_where_they_are_positive() -> None:
    """With 6 runs and 2 free parameters Student's t has 4 degrees of freedom: 2.776445 at 97.5 %."""
    x = A([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    fit = fit_formula(law_of("a + b*x", ("x",)).constrained({"b": (0.0, 10.0)}), observe(x, 1 + 2 * x))
    known = replace(fit, theta=A([1.0, 2.0]), covariance=np.diag([0.25, 0.04]))
    found = known.intervals(0.95)
    assert (found["a"].low, found["a"].high) == (pytest.approx(1 - 2.776445 * 0.5), pytest.approx(1 + 2.776445 * 0.5))
    factor = math.exp(2.776445 * 0.1)
    assert (found["b"].low, found["b"].high) == (pytest.approx(2 / factor), pytest.approx(2 * factor))
    assert replace(known, theta=A([1.0, 9.5])).intervals(0.95)["b"].high == 10.0
    assert (known.free, known.at_bound, replace(known, theta=A([1.0, 10.0])).at_bound) == (("a", "b"), (), ("b",))
    assert replace(known, theta=A([1.0, 0.0])).intervals(0.95)["b"].low == 0.0
    assert (known.names, known.link, known.parameters) == (("a", "b"), "log", {"a": 1.0, "b": 2.0})
    pull = with_prior(fit.problem, replace(fit.formula, priors={"b": (3.0, 0.5)}), LeastSquares(), 0.2)
    assert pull.prior is not None
    assert (pull.prior[0].tolist(), pull.prior[1]) == ([0.0, 3.0], pytest.approx([0.0, 0.04 / 0.25]))
    assert with_prior(fit.problem, fit.formula, LeastSquares(), 0.2) is fit.problem


# ------------------------------------------------------------------------------------------- forms together


def corner(mean: list[list[float]], target: list[float], distance: list[float]) -> Corner:
    value = A(mean)
    return Corner("c", np.ones(1, bool), value, np.zeros_like(value), np.full(len(value), 0.1), A(target), A(distance))


def test_forms_are_scored_beside_the_good_ones() -> None:
    """Errors 1, 2 and 4 about 0: the median of the best five, 2, is the unit; of two corners the geometric mean."""
    one = corner([[1.0, -1.0], [2.0, 2.0], [4.0, -4.0]], [0.0, 0.0], [1.0, 1.0])
    assert one.errors.tolist() == [1, 2, 4]
    assert _reference(one) == 2.0
    assert scores_of([one], 3) == pytest.approx([1, 2, 4])
    other = corner([[4.0], [2.0], [math.nan]], [0.0], [1.0])
    assert other.errors.tolist()[2] == INF
    assert scores_of([one, other], 3)[:2] == pytest.approx([1, 1])
    many = corner([[float(k)] for k in (1, 2, 3, 4, 5, 600, 700)], [0.0], [1.0])
    assert _reference(many) == 3.0
    assert _reference(corner([[0.0]], [0.0], [1.0])) == 1e-12
    law = law_of("a + b*x + c*x**2", ("x",))
    assert [_carries(law, SimpleNamespace(n_scales=n)) for n in (4, 5)] == [False, True]  # type: ignore[arg-type]
    assert _carries(law_of("a*x", ("x",)), SimpleNamespace(n_scales=1))  # type: ignore[arg-type]


def test_the_discrepancy_is_what_corners_need() -> None:
    """Within the noise nothing is doubted; a corner 1 off with a noise of 0.1 needs growth where 1.645 of it reach 1;
    and where intervals are too wide what the forms disagree by counts less."""
    weights = A([1.0])
    assert calibrate([corner([[0.0, 0.0]], [0.05, -0.05], [1.0, 1.0])], weights) == (0.0, 0.7)
    growth, spread_ = calibrate([corner([[0.0, 0.0]], [1.0, 1.0], [2.0, 2.0])], weights)
    needed = math.sqrt((1 / 1.6448536) ** 2 - 0.01) / 2
    assert (growth, spread_) == (pytest.approx(needed, rel=1e-3), 1.0)
    assert growth >= needed
    fits = [
        SimpleNamespace(noise=noise, formula=law_of("a*x", ("x",)), theta=A([1.0]), covariance=np.eye(1), link="log")
        for noise in (0.3, 0.1, 0.2)
    ]
    table = observe([1.0, 4.0], [1.0, 2.0], x_name="n", loss_name="y")
    found = mix(fits, A([0.2, 0.5, 0.3]), [], table)  # type: ignore[arg-type]
    assert (found.noise, found.growth, found.spread) == (0.1, 0.0, 1.0)
    assert (found.low.tolist(), found.high.tolist(), found.x_names, found.loss_name) == ([1.0], [4.0], ("n",), "y")
    assert [part.weight for part in found.components] == [0.2, 0.5, 0.3]
    assert mix(fits, A([0.2, 0.4, 0.4]), [], table).noise == 0.2  # type: ignore[arg-type]


def test_priors_of_the_forms_that_plan() -> None:
    """In units of the losses' geometric mean 2: a floor at half of the lowest, 0.3 of the unit wide; a term at "
    "half of it."""
    size = _size(A([1.0, 4.0]), "log")
    assert size == (pytest.approx(2.0), pytest.approx(math.log(2)), 1.0)
    assert _size(A([]), "log") == (1.0, 0.0, 1.0)
    assert _size(A([1.0, 3.0]), "identity") == (1.0, 2.0, 1.0)
    assert _prior("E", True, "log", size) == (0.5, pytest.approx(0.6))
    assert _prior("E", True, "identity", (1.0, 2.0, 1.0)) == (0.5, 1.0)
    assert (
        _prior("c_N", True, "log", size) == _prior("b", True, "log", size) == (pytest.approx(1.0), pytest.approx(2.0))
    )
    assert _prior("q", True, "log", size) == (pytest.approx(math.log(2)), pytest.approx(6.0))
    assert _prior("q", False, "log", size) == (pytest.approx(math.log(2)), 3.0)
    assert _prior("k_N", True, "log", size) == (0.0, pytest.approx(0.2))
    assert (_prior("k_N", False, "log", size), _prior("m", False, "log", size)) == ((0.0, 0.1), (0.0, 0.5))
    law = SimpleNamespace(priors={"a_N": (9.0, 9.0), "o_N_D": (9.0, 9.0), "h": (1.0, 2.0)})
    assert [_informed(name, law) for name in ("a_N", "o_N_D", "h", "c_N")] == [EXPONENT, (0.0, 0.05), (1.0, 2.0), None]  # type: ignore[arg-type]
    assert EXPONENT == (0.3, 0.2)


def test_a_belief_of_many_runs_is_thinned_and_goes_on_from_an_earlier_one() -> None:
    x = np.geomspace(1e3, 1e6, 801)[:, None]
    loss = 1 + 20 * x[:, 0] ** -0.3
    region = np.geomspace(1e3, 1e7, 4)[:, None]
    few = believe(("N",), x[::200], loss[::200], region)
    assert (few.n, len(few.sites), few.link, few.unit) == (5, 5, "log", 1.0)
    many = believe(("N",), x, loss, region, few)
    assert many.n == 800
    assert set(few.starts) <= set(many.starts)
    at = many.joint(region)
    assert isinstance(at, LawAt)
    assert (at.n_points, at.noise2) == (4, many.noise**2)
    assert many.predict(region)[0] == pytest.approx(1 + 20 * region[:, 0] ** -0.3, rel=0.02)
    assert at.columns(A([0, 3])).shape == (4, 2)
    assert np.diag(at.columns(np.arange(4))) == pytest.approx(at.diagonal(), abs=1e-9)


def test_a_predictor_stands_by_its_weights() -> None:
    part = Component("form", parse("a*x", ("x",)), 1.0, A([2.0]), np.zeros((1, 1)), 0.1)
    found = Mixture((part,), "identity", ("x",), "loss", 0.1, 0.0, 1.0, A([1.0]), A([4.0]), np.log(A([[1.0], [4.0]])))
    record = found.record()
    assert (record.link, record.x_names, record.loss_name, record.noise, record.growth, record.spread) == (
        "identity",
        ("x",),
        "loss",
        0.1,
        0.0,
        1.0,
    )
    assert (record.low, record.high, record.sites) == ((1.0,), (4.0,), ((0.0,), (pytest.approx(math.log(4)),)))
    one = record.components[0]
    assert (one.name, one.formula, one.weight, one.parameters, one.theta, one.covariance, one.noise) == (
        "form",
        "a*x",
        1.0,
        ("a",),
        (2.0,),
        ((0.0,),),
        0.1,
    )


# ------------------------------------------------------------------------------------------- groups, profiles, optima


def test_statistics_of_groups_by_hand() -> None:
    """Two groups on a grid of three exponents: together least at the middle, 5 against 1 + 2 apart."""
    least = A([[[1.0, 3.0, 9.0]], [[8.0, 2.0, 4.0]]])
    statistic, place = _statistic(least, 10)
    assert (statistic[0], place[0]) == (pytest.approx(10 * math.log(5 / 3)), 1)
    x = A([1.0, 10.0, 100.0])
    found = _crossings(A([[1.0, -1.0, -2.0], [2.0, 1.0, -1.0], [1.0, 2.0, 3.0], [-3.0, 1.0, -1.0]]), x)
    assert found[[0, 1, 3]] == pytest.approx([10**0.5, 10**1.5, 10**0.75])
    assert np.isnan(found[2])
    samples = {
        name: SimpleNamespace(parameters={"alpha": A(values_)})
        for name, values_ in {"a": [0.1, 0.2, 0.3], "b": [0.5, 0.7, 0.6, 0.9]}.items()
    }
    fits = {name: SimpleNamespace(parameters={"alpha": alpha}) for name, alpha in {"a": 0.2, "b": 0.6}.items()}
    assert _differences(samples, fits, "a", 0.5) == {  # type: ignore[arg-type]
        "b": {"estimate": pytest.approx(0.4), "low": pytest.approx(0.35), "high": pytest.approx(0.45)},
    }


def test_a_profile_of_a_law_with_one_parameter() -> None:
    """Nothing is left to fit beside it: -2 log likelihood rises by n ln(1 + n d^2 / squares)."""
    table = observe([1.0, 2.0, 4.0, 8.0], np.exp([0.1, -0.1, -0.1, 0.1]))
    found = profile(fit_law(LAWS["none"], table, LeastSquares()), "A", n_points=3, reach=2.0)
    moved = math.log(found.values[-1])
    assert found.deviance[-1] == pytest.approx(4 * math.log1p(4 * moved**2 / 0.04))
    assert (found.others, found.values[1]) == ({}, pytest.approx(1.0))


def test_valleys_without_a_minimum_inside_are_left_out() -> None:
    """A valley that bends down, and one whose parabola has its vertex beyond its points."""
    assert approaches._vertex(A([0.0, 1.0, 2.0]), A([1.0, 0.5, 1.0]), 1, 0.1) == (
        pytest.approx(1.0),
        pytest.approx(0.5),
    )
    flat = A([0.0, 0.0, 0.0, 0.0, 0.0])
    assert approaches._vertex(A([0.0, 1.0, 2.0, 3.0, 4.0]), flat - A([0, 0.01, 0.02, 0.01, 0]) * -1, 0 + 2, 1.0) is None
    assert approaches._vertex(A([0.0, 1.0, 1.1]), A([0.02, 0.0, 0.0001]), 1, 0.001) is not None
    wide = approaches._vertex(A([0.0, 1.0, 2.0, 3.0, 4.0]), A([0.9, 0.04, 0.0, 0.04, 0.9]), 2, 0.05)
    assert wide == (pytest.approx(2.0), pytest.approx(0.0, abs=1e-9))


def test_optima_of_other_surfaces_by_search() -> None:
    """Kaplan's law is least where alpha_N (N_c / N)^(alpha_N / alpha_D) = alpha_D D_c / D, whose exponent of N in C is
    alpha_D / (alpha_N + alpha_D): with alpha_N = alpha_D the half, N_c D = D_c N."""
    size, data = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    table = observe(np.column_stack([size, data]), ((4e12 / size) + 1e12 / data) ** 0.1, x_name=("N", "D"))
    fit = fit_law(LAWS["kaplan"], table, LeastSquares())
    found = allocation.frontier(fit, 6e16, 6e18, 3, n_bootstrap=20)
    assert found.compute == pytest.approx([6e16, 6e17, 6e18])
    assert found.n_params["estimate"] == pytest.approx(np.sqrt(4 * found.compute / 6), rel=1e-3)
    assert found.tokens["estimate"] == pytest.approx(found.n_params["estimate"] / 4, rel=2e-3)
    assert found.exponent["estimate"] == pytest.approx(0.5, abs=1e-3)
    assert found.loss["estimate"] == pytest.approx((2 * 1e12 / found.tokens["estimate"]) ** 0.1, rel=1e-3)
    assert (found.law, found.level, found.gpu_hours, found.unique_tokens) == ("kaplan", 0.90, None, None)
    bound = replace(fit, at_bound=("Nc", "alpha_N"))
    notes = allocation.optimum(bound, [6e16, 6.1e21], n_bootstrap=20, flops_per_second=1e15).notes
    assert notes[-1] == "Nc, alpha_N ended on a bound: the allocation is not identified by this table"
    assert notes[1] == "the largest budget is 10.2 times the largest run of the table (6e+20 FLOPs)"
    hours = allocation.optimum(fit, [7.2e18], n_bootstrap=20, flops_per_second=1e15, utilisation=0.5)
    assert hours.gpu_hours == pytest.approx([7.2e18 / 5e14 / 3600])
    assert allocation.optimum(fit, [7.2e18], n_bootstrap=20, flops_per_second=1e15).gpu_hours == pytest.approx([5.0])


# ------------------------------------------------------------------------------------------- entries


def test_names_of_scales_and_options_of_shares() -> None:
    assert [entry._names(given) for given in (None, "a", ["a", "b"])] == [(), ("a",), ("a", "b")]
    two = np.ones((3, 2))
    assert [
        entry._scale_names(*one)
        for one in (
            (two, {}),
            (two, {"x_name": ("N", "D")}),
            (two, {"x_name": "N"}),
            ([1, 2], {}),
            ([1, 2], {"x_name": "N"}),
        )
    ] == [("x1", "x2"), ("N", "D"), ("x1", "x2"), ("x",), ("N",)]
    assert [
        ShareOptions(**given).given
        for given in ({}, {"kind": "share"}, {"via": "l", "trials": 3}, {"via": "l"}, {"chance": 0.1, "via": "l"})
    ] == [
        None,
        None,
        "trials",
        "via",
        "chance",
    ]
    with pytest.raises(InputError, match="`bounds` is not for shares"):
        entry._share_level({"bounds": 1})
    assert (entry._share_level({"level": 0.8, "seed": 1, "n_bootstrap": 3, "law": "auto"}), entry._share_level({})) == (
        0.8,
        0.95,
    )


def test_sizes_and_tokens_of_one_group() -> None:
    """Rows without a number are left out and counted; compute is turned into tokens, C = 6 N D."""
    table = Table(
        {
            "N": [1e6, 1e6, None, 2e6],
            "D": [1e8, 2e8, 1e8, None],
            "loss": [3.0, 2.0, 1.0, 1.0],
            "run": ["a", "a", "b", "c"],
        },
        "t",
    )
    found = entry.sizes_of(table, None, None, SimpleNamespace(loss=None, run="run", noise=None))  # type: ignore[arg-type]
    assert (found.x.tolist(), found.loss.tolist(), found.names, found.loss_name) == (
        [[1e6, 1e8], [1e6, 2e8]],
        [3.0, 2.0],
        ("N", "D"),
        "loss",
    )
    assert found.table.notes == ("2 rows left out: no number in N, D or loss",)
    assert (found.replicate.tolist(), found.run, found.noise) == ([0, 1], None, None)
    costs = Table({"N": [1e6, 2e6], "C": [6e14, 6e14], "se": [0.1, 0.2], "L": [2.0, 1.0]}, "t")
    made = entry.sizes_of(costs, "N", "C", SimpleNamespace(loss="L", run=None, noise="se"))  # type: ignore[arg-type]
    assert (made.x.tolist(), made.names, made.noise.tolist()) == ([[1e6, 1e8], [2e6, 5e7]], ("N", "C / 6N"), [0.1, 0.2])  # type: ignore[union-attr]
    assert made.table.notes == ()


def test_the_multi_power_law_by_hand() -> None:
    """Rates 2, 2, 1, 1 after no warm-up: S1 = 2, 4, 5, 6; one drop of 1 at step 3, from which S = 1 and 2."""
    p = {"L0": 2.0, "A": 3.0, "alpha": 0.5, "B": 0.4, "C": 1.5, "beta": 0.7, "gamma": 0.6}
    found = loss_of(p, Schedule(A([2.0, 2.0, 1.0, 1.0]), 0), [4, 1, 3])
    since = {4: 2.0, 3: 1.0}
    expected = [
        2 + 3 * total**-0.5 - (0.4 * 1.0 * (1 - (1 + 1.5 * since[step]) ** -0.7) if step in since else 0.0)
        for step, total in ((4, 6.0), (1, 2.0), (3, 5.0))
    ]
    assert found == pytest.approx(expected)
