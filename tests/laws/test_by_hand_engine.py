"""Objectives, Newton's steps, requests that are solved together, trends, noise and its intervals, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import f as fisher
from scipy.stats import norm
from scipy.stats import t as student

from metascale.core.errors import InputError
from metascale.laws import LAWS, fit_law, solving, trend, uncertainty
from metascale.laws.newton import Local, minimise, solve
from metascale.laws.objective import LeastSquares, LogHuber, weighted
from metascale.laws.observations import observe
from metascale.laws.record import Interval
from metascale.laws.solving import Solve, stepwise, together, valley_depth
from metascale.laws.space import forms, repeated
from metascale.laws.trend import answer, bends_upward, drop, rounding, trend_test, turn_test
from metascale.laws.uncertainty import Bootstrap, Noise, bootstrap, delta_covariance, replicate_weights, residual_noise

A = np.array
STEP = np.array([0.0, 1.0, 2.0, 3.0])
WAVE = 0.1 * np.array([1.0, -1.0, -1.0, 1.0])  # neither a mean nor a slope: regression leaves all of it


# ---------------------------------------------------------------------------------------------- objectives


def test_hubers_function_by_hand():
    """Inside 1/2: r^2 / 2; beyond: |r| / 2 - 1/8."""
    found, residual = LogHuber(0.5), A([-1.0, -0.5, 0.0, 0.25, 2.0])
    value, slope = [0.375, 0.125, 0, 0.03125, 0.875], [-0.5, -0.5, 0, 0.25, 0.5]
    curvature, majoriser = [0, 1, 1, 1, 0], [0.5, 1, 1, 1, 0.25]
    for penalty, weights in (
        (found.penalty(residual), np.ones(5)),
        (weighted(found, residual, A([2.0, 1, 3, 4, 0.5])), A([2.0, 1, 3, 4, 0.5])),
    ):
        for part, expected in zip(penalty, (value, slope, curvature, majoriser), strict=True):
            assert part.tolist() == pytest.approx((A(expected) * weights).tolist())
    assert (LogHuber().name, found.name, LogHuber().delta) == ("log-Huber(0.001)", "log-Huber(0.5)", 0.001)
    path = LogHuber(0.002).path()
    assert isinstance(path[0], LeastSquares)
    assert [one.delta for one in path[1:]] == pytest.approx([0.2, 0.02, 0.002])


def test_least_squares_by_hand():
    found, residual = LeastSquares(), A([-2.0, 0.0, 1.0])
    for penalty, w in (
        (found.penalty(residual), np.ones(3)),
        (weighted(found, residual, A([2.0, 3, 4])), A([2.0, 3, 4])),
    ):
        for part, expected in zip(penalty, ([2, 0, 0.5], [-2, 0, 1], [1, 1, 1], [1, 1, 1]), strict=True):
            assert part.tolist() == (A(expected) * w).tolist()
    assert (found.name, found.path()) == ("least squares", (found,))


def test_deviances_by_hand():
    """Halved squares 2 of 4 residuals: variance 1. A core of everything is Gaussian; none of it Laplace's density with
    scale s / delta = 0.5 / 1e-6."""
    gaussian = 4 * (np.log(2 * np.pi) + 1)
    assert LeastSquares().deviance(2.0, 4) == pytest.approx(gaussian)
    assert LogHuber(1e6).deviance(2.0, 4) == pytest.approx(gaussian, rel=1e-6)
    assert LogHuber(1e-6).deviance(2.0, 4) == pytest.approx(8 + 8 * np.log(1e6), rel=1e-6)
    assert LeastSquares().deviance(0.0, 4) == pytest.approx(4 * (np.log(2 * np.pi * 1e-300) + 1))
    assert LeastSquares().deviance(0.5, 0.5) == pytest.approx(0.5 * (np.log(2 * np.pi) + 1))


# ---------------------------------------------------------------------------------------------- Newton's steps


def test_a_singular_row_gives_nan_and_the_others_their_solution():
    matrix = A([[[2.0, 0], [0, 4]], [[1, 1], [1, 1]], [[0, 1], [1, 0]], [[1, 0], [0, 1]]])
    found = solve(matrix, A([[1.0, 2], [1, 2], [1, 2], [3, 4]]))
    assert found[[0, 2, 3]].tolist() == [[0.5, 0.5], [2, 1], [3, 4]]
    assert np.isnan(found[1]).all()
    assert solve(A([[[4.0]], [[-2.0]]]), A([[2.0], [3.0]])).tolist() == [[0.5], [-1.5]]


def bowl(matrix, centre, floor=1.0):
    matrix, centre = A(matrix, float), A(centre, float)

    def evaluate(theta, rows):
        away = theta - centre
        p = len(centre)
        return Local(
            floor + 0.5 * np.einsum("bp,pq,bq->b", away, matrix, away), away @ matrix,
            np.broadcast_to(matrix, (len(theta), p, p)), np.broadcast_to(np.diag(matrix), (len(theta), p)),
        )  # fmt: skip

    return evaluate


def test_damping_shrinks_by_ten_as_steps_descend():
    """A step covers 1 / (1 + damping): what is left is multiplied by 0.01 / 1.01, 0.001 / 1.001, 1e-4 / 1.0001. The
    promised decrease, half its square, is below 1e-13 at the fourth look, which is counted."""
    found = minimise(bowl([[1]], [0]), A([[1.0]]), A([-9.0]), A([9.0]))
    left = 0.01 / 1.01 * 0.001 / 1.001 * 1e-4 / 1.0001
    assert (int(found.iterations[0]), bool(found.converged[0])) == (4, True)
    assert found.theta[0, 0] == pytest.approx(left)
    assert found.decrement[0] == pytest.approx(0.5 * left**2)
    assert (found.value[0], found.hessian.tolist()) == (1.0, [[[1.0]]])
    part = minimise(bowl([[1]], [0]), A([[1.0], [0.5], [0.25]]), A([-9.0]), A([9.0])).rows(slice(1, 3))
    assert part.theta.shape == (2, 1)
    assert part.theta[:, 0] == pytest.approx([0.5 * left, 0.25 * left])
    assert part.iterations.shape == part.converged.shape == part.value.shape == part.decrement.shape == (2,)


def test_damping_grows_by_ten_until_a_step_descends():
    """The Hessian is told as 1/4 of what it is: steps of 1 / 0.26, 1 / 0.35 overshoot, 1 / 1.25 is taken."""

    def evaluate(theta, rows):
        value, gradient, _, stiffness = bowl([[1]], [0])(theta, rows)
        return Local(value, gradient, np.full((len(theta), 1, 1), 0.25), stiffness)

    for steps, left in ((1, 1.0), (2, 1.0), (3, 0.2)):
        found = minimise(evaluate, A([[1.0]]), A([-9.0]), A([9.0]), max_iterations=steps)
        assert (int(found.iterations[0]), bool(found.converged[0])) == (steps, False)
        assert found.theta[0, 0] == pytest.approx(left)


@pytest.mark.parametrize(
    ("centre", "low", "high", "end"), [((-1, 1), 0.0, 9.0, (0, 0.5)), ((3, 1), -9.0, 2.0, (2, 1.5))]
)
def test_a_coordinate_rests_at_its_bound(centre, low, high, end):
    """H = [[2, 1], [1, 2]]: with the first 1 off its centre the second lies 1/2 off, and the value is 1 + 0.75."""
    found = minimise(bowl([[2, 1], [1, 2]], centre), A([[1.0, 1.0], [-50.0, 50.0]]), A([low, low]), A([high, high]))
    assert found.converged.all()
    assert found.theta == pytest.approx(A([end, end]), abs=1e-6)
    assert found.value == pytest.approx([1.75, 1.75])


def test_a_start_is_moved_inside_its_bounds_and_a_row_without_a_value_is_left():
    seen = []

    def evaluate(theta, rows):
        seen.append(theta.copy())
        return Local(np.full(len(theta), np.nan), *np.zeros((1, len(theta), 1)), np.zeros((len(theta), 1, 1)),
                     np.ones((len(theta), 1)))  # fmt: skip

    found = minimise(evaluate, A([[5.0], [-5.0]]), A([[0.0], [-1.0]]), A([[1.0], [2.0]]))
    assert seen[0].tolist() == [[1.0], [-1.0]]
    assert (found.iterations.tolist(), found.converged.tolist()) == ([0, 0], [False, False])


@pytest.mark.parametrize(("value", "converged"), [(1e9, True), (4e8, False)])
def test_without_a_descent_at_the_strongest_damping_a_row_ends(value, converged):
    """Every step promises 1/2 and none descends: the damping passes 1e7 at the tenth. A promise of 1e-9 of the value is
    rounding."""

    def evaluate(theta, rows):
        return Local(np.full(len(theta), value), *np.ones((1, len(theta), 1)), np.ones((len(theta), 1, 1)),
                     np.ones((len(theta), 1)))  # fmt: skip

    found = minimise(evaluate, np.zeros((1, 1)), A([-1e9]), A([1e9]), stall_share=-1.0)
    assert (int(found.iterations[0]), bool(found.converged[0])) == (10, converged)
    assert found.decrement[0] == pytest.approx(0.5)
    assert found.theta[0, 0] == 0


def test_the_most_iterations_are_a_hundred():
    calls = []

    def evaluate(theta, rows):
        calls.append(1)
        return Local(np.array([1000.0 - len(calls)]), np.ones((1, 1)), np.ones((1, 1, 1)), np.ones((1, 1)))

    found = minimise(evaluate, np.zeros((1, 1)), A([-1e9]), A([1e9]))
    assert (int(found.iterations[0]), bool(found.converged[0])) == (100, False)
    assert found.value[0] == 899  # the start's own value and a hundred steps


def test_a_batch_in_parts_ends_where_each_row_ends_alone():
    starts, sizes = np.linspace(-3, 5, 11)[:, None], []

    def evaluate(theta, rows):
        sizes.append(len(rows))
        return bowl([[1]], [0])(theta, rows)

    whole = minimise(bowl([[1]], [0]), starts, A([-9.0]), A([9.0]))
    parts = minimise(evaluate, starts, A([-9.0]), A([9.0]), width=4)
    assert max(sizes) <= 4
    for name in ("theta", "value", "hessian", "decrement", "iterations", "converged"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


# ---------------------------------------------------------------------------------------------- solved together


def request(n=5, law="power", **more):
    t = np.linspace(0, 2, n)[:, None]
    given = {"law": LAWS[law], "t": t, "y": 1.0 - 0.5 * t.T, "weights": np.ones((1, n)), "objective": LeastSquares(),
             "starts": np.zeros((1, LAWS[law].n_parameters))}  # fmt: skip
    return Solve(**given | more)


def test_what_is_solved_in_one_batch():
    """Tables are filled up to the next of 18 sizes from 4 to 150; larger ones, priors and surfaces stay alone."""
    one = request()
    assert (one.max_iterations, one.exact, one.prior, one.stall) == (100, True, None, 1e-5)
    assert [request(n).size for n in (2, 4, 150)] == [4, 4, 150]
    assert 120 < request(121).size <= 150
    assert one.batch == request().batch
    for other in (request(151), request(prior=(np.zeros(2), np.ones(2)))):
        assert other.batch is None
    assert request(150).batch is not None
    different = (request(max_iterations=9), request(exact=False), request(stall_share=1e-9), request(60),
                 request(objective=LogHuber()), request(law="power_irreducible"))  # fmt: skip
    assert len({one.batch, *(each.batch for each in different)}) == 7
    assert (request(stall_share=0.5).stall, valley_depth(LAWS["power"]), valley_depth(LAWS["broken"])) == (
        0.5, 1e-5, 1e-3,
    )  # fmt: skip


def test_what_is_at_work_stays_in_the_cache(monkeypatch):
    """Alone 100,000 numbers of rows of 200; in a batch 24,000 of tables filled up to 4; bounds are the law's own."""
    asked = []

    def minimise(evaluate, start, lower, upper, **options):
        asked.append({**options, "rows": len(start), "lower": lower, "upper": upper})
        raise InputError("enough")

    monkeypatch.setattr(solving, "minimise", minimise)
    for one in (request(200, max_iterations=7, stall_share=0.5), request(4, max_iterations=7), request(1_000_000)):
        with pytest.raises(InputError):
            solving.solve(one)
    assert [each["width"] for each in asked] == [500, 6000, 1]
    assert [each["max_iterations"] for each in asked] == [7, 7, 100]
    assert [each["stall_share"] for each in asked] == [0.5, 1e-5, 1e-5]
    low, high = LAWS["power"].bounds(request(4).t, request(4).y.reshape(-1))
    assert (asked[1]["lower"].tolist(), asked[1]["upper"].tolist()) == (
        np.broadcast_to(low, (1, 2)).tolist(), np.broadcast_to(high, (1, 2)).tolist(),
    )  # fmt: skip


def test_a_prior_pulls_towards_its_mean():
    """Three rows at t = 0 pull ln A to 2 with weight 3, the prior to 0 with 9; alpha is told by its prior alone. The
    value is 3 (3/2)^2 / 2 + 9 (1/2)^2 / 2."""
    t = np.zeros((3, 1))
    asked = request(3, t=t, y=np.full((1, 3), 2.0), prior=(A([0.0, 0.25]), A([9.0, 4.0])))
    found = solving.solve(asked)
    assert found.theta[0] == pytest.approx([0.5, 0.25], abs=1e-6)
    assert found.value[0] == pytest.approx(3.375 + 1.125)
    assert found.hessian[0] == pytest.approx(A([[12.0, 0], [0, 4.0]]), abs=1e-9)


@pytest.mark.parametrize("n", [4, 7, 150, 151])
def test_a_line_is_found_alone_and_in_a_batch(n):
    """ln loss 1 - t/2 at n places."""
    two = request(n, y=3.0 - 0.25 * np.linspace(0, 2, n)[None])
    for found in (solving.solve(request(n)), *together([steps(request(n)), steps(two)])[:1]):
        assert found.theta[0] == pytest.approx([1.0, 0.5], abs=1e-6)
    assert together([steps(request(n)), steps(two)])[1].theta[0] == pytest.approx([3.0, 0.25], abs=1e-6)


def steps(*requests):
    found = None
    for each in requests:
        found = yield each
    return found


def test_steps_side_by_side_end_with_their_result_or_their_error():
    def fails():
        yield request()
        raise InputError("no law")

    def at_once():
        return "nothing asked"
        yield

    found = together([steps(request(), request(6)), fails(), at_once()])
    assert found[0].theta[0] == pytest.approx([1.0, 0.5], abs=1e-6)
    assert (type(found[1]), str(found[1]), found[2]) == (InputError, "no law", "nothing asked")
    assert together([]) == []

    @stepwise
    def doubled(n, *, by=2):
        found = yield request(n)
        return by * found.theta[0, 0]

    assert doubled(5) == pytest.approx(2.0, abs=1e-6)
    assert doubled(5, by=3) == pytest.approx(3.0, abs=1e-6)
    assert together([doubled.steps(5)])[0] == pytest.approx(2.0, abs=1e-6)
    assert doubled.__name__ == "doubled"


# ---------------------------------------------------------------------------------------------- trends


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.1, 0.2), "falls"), ((-0.2, -0.1), "rises"), ((0.0, 0.01), "none"), ((-0.1, 0.0), "none"),
        ((-0.1, 0.0222), "none"), ((-0.1, 0.0224), "undecided"),  # 1 - 10^-0.02228 is 5 %
    ],
)  # fmt: skip
def test_what_an_interval_of_exponents_says(ends, said):
    assert answer(Interval(0.0, *ends)) == said


def test_what_goes_of_a_loss_as_the_scale_grows():
    assert (drop(1.0), drop(1.0, 2.0), drop(0.0), drop(-1.0)) == (pytest.approx(0.9), 0.5, 0.0, 0.0)
    assert (rounding(A([0.5, -0.25])), rounding(A([-4.0, 1.0]))) == (1e-12, 4e-12)


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_the_trend_of_an_exact_line_is_its_slope(slope):
    t = np.arange(6.0)
    found = trend_test(t, 1 - slope * t, np.arange(6), 0.9)
    assert (found.answer, found.level, found.turns) == ("falls" if slope > 0 else "rises", 0.9, ())
    assert [found.exponent.estimate, found.exponent.low, found.exponent.high] == pytest.approx([slope] * 3, abs=1e-6)


def test_tables_without_a_trend():
    t, cells = np.arange(6.0), np.arange(6)
    found = trend_test(t, np.full(6, 2.0), cells, 0.9)
    assert (found.answer, found.exponent, found.level) == ("none", Interval(0.0, 0.0, 0.0), 0.9)
    two = trend_test(t[:2], A([1.0, 2.0]), cells[:2], 0.9)
    assert (two.answer, two.exponent, two.level) == ("undecided", None, 0.9)
    assert trend_test(np.zeros(6), t, cells, 0.9).exponent is None
    # With the scale itself held fixed nothing is left to test.
    held = np.column_stack([np.ones(6), t])
    assert trend_test(t, t % 2, cells, 0.9, held).exponent is None
    assert not bends_upward(t, np.full(6, 2.0), cells, 0.9)
    assert not bends_upward(t[:3], A([1.0, 0.5, 0.4]), cells[:3], 0.9)


@pytest.mark.parametrize(("bend", "floor"), [(0.05, True), (-0.05, False), (0.0, False)])
def test_ln_loss_bends_towards_a_floor(bend, floor):
    t = np.arange(8.0)
    noise = 0.002 * A([1, -1, -1, 1, 1, -1, -1, 1.0])
    assert bends_upward(t, 3 - 0.4 * t + bend * t**2 / 2 + noise, np.arange(8), 0.95) is floor


def test_a_single_slope_has_students_interval_with_pooled_noise(monkeypatch):
    """With the line alone the test is a regression: WAVE leaves squares 0.04 over 2, Sxx = 5."""
    monkeypatch.setattr(trend, "BENDS", A([0.0]))
    monkeypatch.setattr(trend, "WEIGHTS", A([1.0]))
    found = trend_test(STEP, 1 - 0.5 * STEP + WAVE, np.arange(4), 0.9)
    reach = student.ppf(0.95, 2) * (0.02 / 5) ** 0.5
    assert found.exponent.estimate == pytest.approx(0.5)
    assert found.exponent.high - 0.5 == pytest.approx(reach, rel=0.03)  # its level is simulated
    # Two seeds a scale, 0.2 apart: squares 0.08 within over 4 and 0.08 between over 2: pooled 0.16 / 6, Sxx 10.
    t, cell = np.repeat(STEP, 2), np.repeat(np.arange(4), 2)
    y = 1 - 0.5 * t + np.repeat(WAVE, 2) + np.tile([0.1, -0.1], 4)
    reach = student.ppf(0.95, 6) * (0.16 / 6 / 10) ** 0.5
    assert trend_test(t, y, cell, 0.9).exponent.high - 0.5 == pytest.approx(reach, rel=0.08)
    # Scales three times as far: F = 18 passes 4.32, and the scales alone count: 0.72 / 2 over 10, two degrees.
    reach = student.ppf(0.95, 2) * (0.36 / 10) ** 0.5
    y = 1 - 0.5 * t + np.repeat(3 * WAVE, 2) + np.tile([0.1, -0.1], 4)
    assert trend_test(t, y, cell, 0.9).exponent.high - 0.5 == pytest.approx(reach, rel=0.08)


def test_noise_is_pooled_unless_the_scales_differ_by_more():
    limit = fisher.isf(0.1, 2, 4)
    for ratio, variance, freedom in ((0.99 * limit, (2 * 0.99 * limit + 4) / 6, 6), (1.01 * limit, 1.01 * limit, 2)):
        found = trend._noise(A(2 * ratio), 2, A(4.0), 4)
        assert (float(found[0]), float(found[1])) == (pytest.approx(variance), freedom)
    found = trend._noise(A([6.0]), 3, A(0.0), 0)
    assert (found[0].tolist(), found[1].tolist()) == ([2.0], [3.0])


def test_the_shapes_fall_from_0_to_1():
    u = A([0.0, 0.5, 1.0])
    found = trend._shapes(u, A([0.0, 2.0, -2.0]))
    half = (1 - np.exp(-1)) / (1 - np.exp(-2))
    assert found.tolist() == [
        pytest.approx([0, -0.5, -1]),
        pytest.approx([0, -half, -1]),
        pytest.approx([0, half - 1, -1]),
    ]


def test_curves_that_cannot_turn():
    t = np.arange(6.0)
    assert turn_test(t[:3], A([1.0, 0.0, 1.0]), 0.95) is None
    assert turn_test(t, np.full(6, 1.0), 0.95) is None
    assert turn_test(t, -t, 0.95) is None
    assert turn_test(t, (t - 2.5) ** 2, 0.95).turns == (pytest.approx(np.exp(2.5)),)
    close = np.repeat(t, 2) + np.tile([0, 1e-11], 6)
    assert turn_test(close, (np.repeat(t, 2) - 2.5) ** 2, 0.95).turns == (pytest.approx(np.exp(2.5)),)


def test_a_stretch_against_the_rest():
    """ln loss falls by 1 a step but rises from 3 to 5 of 0 ... 8: the stretch from 3 to 5 has the exponent -1."""
    t = np.arange(9.0)
    y = A([9.0, 8, 7, 6, 7, 8, 7, 6, 5])
    found = trend._stretches(t, y, np.ones(9), 0.5)
    assert found is not None
    assert (found.answer, found.level, found.turns) == (
        "not monotone", 0.5, (pytest.approx(np.exp(3)), pytest.approx(np.exp(5)))
    )  # fmt: skip
    assert found.exponent.estimate == pytest.approx(-1.0)
    assert found.exponent.high + 1 == pytest.approx(-1 - found.exponent.low)
    upside_down = trend._stretches(t, -y, np.ones(9), 0.5)
    assert upside_down.exponent.estimate == pytest.approx(1.0)
    assert trend._stretches(t[:6], y[:6], np.ones(6), 0.5) is None
    assert trend._stretches(t, -t, np.ones(9), 0.5) is None


def test_contrasts_of_pure_noise_have_variance_one():
    """Stretches of 4 places: 3 of two, 2 of three and one of all; second differences: 2. Weighted rows: 1 / counts."""
    windows, steps = trend._contrasts((0.0, 1.0, 2.0, 3.0), (1.0, 1.0, 2.0, 1.0))
    assert (windows.shape, steps.shape) == ((6, 4), (2, 4))
    variance = 1 / A([1.0, 1, 2, 1])
    assert (windows**2) @ variance == pytest.approx(np.ones(6))
    assert (steps**2) @ variance == pytest.approx(np.ones(2))
    assert steps @ np.ones(4) == pytest.approx([0, 0])
    assert steps @ np.arange(4.0) == pytest.approx([0, 0], abs=1e-12)
    assert windows @ np.ones(4) == pytest.approx(np.zeros(6), abs=1e-12)
    assert (windows @ np.arange(4.0) > 0).all()


# ---------------------------------------------------------------------------------------------- noise and intervals


def line(loss, x=None, **more):
    x = np.exp(STEP) if x is None else x
    return fit_law(LAWS["power"], observe(x, np.exp(loss), **more), LeastSquares())


def test_weights_of_scales_are_drawn_to_the_pooled_variance():
    """Squares 0.02 of the first scale and 0.08 of the second, one freedom each: pooled 0.05; variances (0.05 + 0.02) / 2
    and (0.05 + 0.08) / 2; a scale of one run keeps the pooled one."""  # noqa: E501
    found = replicate_weights(observe([1.0, 1, 2, 2, 3], np.exp([0.1, -0.1, 0.2, -0.2, 0.0])))
    assert found == pytest.approx([0.05 / 0.035] * 2 + [0.05 / 0.065] * 2 + [1.0])
    assert replicate_weights(observe([1.0, 1, 2], [2.0, 2, 1], replicate=[0, 1, 0])) == pytest.approx([2, 2, 1])
    with pytest.raises(InputError, match=r"^weights by replicate variance need a scale with at least 2 runs$"):
        replicate_weights(observe([1.0, 2], [2.0, 1]))


def test_noise_of_exact_tables_and_of_one_row_a_scale():
    assert residual_noise(line(1 - 0.5 * STEP + WAVE)) == Noise(pytest.approx(0.02), 0.0, 2, False)
    twice = line(np.repeat(1 - 0.5 * STEP, 2), np.repeat(np.exp(STEP), 2), replicate=np.tile([0, 1], 4))
    found = residual_noise(twice)
    assert (found.within, found.between, found.has_replicates) == (
        pytest.approx(0, abs=1e-20),
        pytest.approx(0, abs=1e-20),
        True,
    )


def sample_of(theta, noise=None, spread=None, loss=1 - 0.5 * STEP, n_failed=0):
    fit = line(loss)
    theta = A(theta, float)
    return Bootstrap(fit, theta, np.ones(len(theta)) if spread is None else A(spread), noise or Noise(0.0, 0.0, 2, False),  # noqa: E501
                     n_failed, "drawn by hand")  # fmt: skip


def test_a_bootstrap_of_five_refits():
    """ln A in units centred at t = 1.5, and alpha: ln A in the table's units is theta_0 + 1.5 alpha."""
    alphas = A([0.3, 0.4, 0.5, 0.6, 0.7])
    found = sample_of(np.column_stack([np.full(5, 0.25), alphas]), n_failed=2)
    assert found.fit.t_ref.tolist() == [1.5]
    assert found.parameters["alpha"] == pytest.approx(alphas)
    assert found.parameters["A"] == pytest.approx(np.exp(0.25 + 1.5 * alphas))
    assert found.interval("alpha", 0.5) == (pytest.approx(0.4), pytest.approx(0.6))
    assert found.interval("alpha") == (pytest.approx(0.31), pytest.approx(0.69))  # a tenth of a step from the ends
    assert found.intervals(0.5)["alpha"] == pytest.approx({"estimate": 0.5, "low": 0.4, "high": 0.6})
    assert found.standard_errors()["alpha"] == pytest.approx(0.025**0.5)
    shifted = sample_of(np.column_stack([np.full(5, 0.25), alphas + 0.4]))
    assert shifted.intervals(0.5)["alpha"] == pytest.approx({"estimate": 0.5, "low": 0.5, "high": 1.0})
    # The curve at x = e^2.5: 0.25 - alpha.
    assert found.log_curves([np.exp(2.5)])[:, 0] == pytest.approx(0.25 - alphas)
    median, low, high = found.curve([np.exp(2.5)], 0.5)
    assert [median[0], low[0], high[0]] == pytest.approx(np.exp([-0.25, -0.35, -0.15]))
    _, low, high = found.curve([np.exp(2.5)])
    assert [low[0], high[0]] == pytest.approx([np.quantile(np.exp(0.25 - alphas), q) for q in (0.025, 0.975)])
    stored = found.to_json()
    assert (stored["law"], stored["n_resamples"], stored["n_failed"], stored["how"]) == ("power", 5, 2, "drawn by hand")
    assert stored["noise"] == {"within_scale_log": 0.0, "misfit_log": 0.0}
    assert stored["parameters"] == found.intervals()
    assert stored["standard_errors"] == found.standard_errors()
    title, _, alpha = found.summary().splitlines()
    assert title == "power: drawn by hand"
    assert alpha == f"  {'alpha':<8} {'0.5':<14} se {'0.1581':<12} 95 % 0.31 to 0.69"


def test_new_runs_about_refits_that_agree():
    """Of variance 0.09 within and 0.16 between a run varies by 0.5, the mean of nine by sqrt(0.17), times the spread."""  # noqa: E501
    n = 4001
    found = sample_of(np.tile([0.25, 0.5], (n, 1)), Noise(0.09, 0.16, 2, True), np.full(n, 2.0))
    draws = np.random.default_rng(3).standard_normal((n, 1))
    for runs, size in ((1, 1.0), (9, 2 * 0.17**0.5)):
        median, low, high = found.predictive([np.exp(1.5)], 0.8, np.random.default_rng(3), runs)
        expected = np.quantile(np.exp(0.25 + size * draws), [0.5, 0.1, 0.9])
        assert [median[0], low[0], high[0]] == pytest.approx(expected)
    assert found.predictive([np.exp(1.5)], 0.8, np.random.default_rng(3))[1] == pytest.approx(
        np.quantile(np.exp(0.25 + draws), 0.1)
    )  # fmt: skip
    mean = found.predict_mean(np.exp(1.5), 0.8, 9, (3,))
    assert mean.estimate == pytest.approx(np.exp(0.25))
    expected = np.quantile(
        np.exp(0.25 + 2 * 0.17**0.5 * np.random.default_rng((3,)).standard_normal((n, 1))), [0.1, 0.9]
    )
    assert [mean.low, mean.high] == pytest.approx(expected)
    assert norm.ppf(0.9) * 2 * 0.17**0.5 == pytest.approx(np.log(mean.high) - 0.25, rel=0.1)


def test_a_bootstrap_in_a_picture_and_for_arviz(monkeypatch):
    found = sample_of([[0.25, 0.4], [0.25, 0.5], [0.25, 0.6]])
    axes = found.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "loss")
    assert found.fit.law.formula in axes.get_legend_handles_labels()[1]
    assert len(axes.collections) == 1
    given = []
    for version in ("0.23", "1.0"):
        tool = SimpleNamespace(__version__=version, from_dict=lambda *a, **k: given.append((a, k)) or "made")
        monkeypatch.setattr(uncertainty, "require", lambda *names, tool=tool: tool)
        assert found.to_arviz() == "made"
    (none, old), ((new,), nothing) = given
    assert (none, nothing) == ((), {})
    for groups in (old, new):
        assert set(groups) == {"posterior", "observed_data", "constant_data"}
        assert groups["posterior"]["alpha"].tolist() == [pytest.approx([0.4, 0.5, 0.6])]
        assert groups["observed_data"]["loss"].tolist() == found.fit.observations.loss.tolist()
        assert groups["constant_data"]["x"].tolist() == found.fit.observations.x[:, 0].tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_resamples": 1}, "a bootstrap needs at least 2 resamples, got 1"),
        ({"kind": "rows"}, "bootstrap kind 'rows' is unknown; allowed are: auto, runs, residuals"),
    ],
)
def test_a_bootstrap_that_is_refused(options, words):
    with pytest.raises(InputError) as caught:
        bootstrap(line(1 - 0.5 * STEP), **options)
    assert str(caught.value) == words


def test_what_is_resampled():
    """By default new noise is drawn about the curve; of 40 runs without repeats, and of checkpoints, whole runs."""

    def how(n, seeds=1, **more):
        x = np.repeat(np.exp(np.linspace(0, 3, n)), seeds)
        y = 1 - 0.5 * np.log(x) + 0.05 * np.random.default_rng(0).standard_normal(len(x))
        return bootstrap(line(y, x, **more), 2).how

    assert how(39).startswith("2 bootstrap tables drawn about the curve; noise of ln loss 0.0")
    assert how(39).endswith("; Student spread with 37 degrees of freedom")
    assert how(40) == "2 bootstrap resamples of 40 runs"
    assert how(20, 2).startswith("2 bootstrap tables")
    assert " between runs of one scale (2 a scale; variance over degrees of freedom, so that few seeds do not shrink it)" in (  # noqa: E501
        how(20, 2)
    )  # fmt: skip
    assert how(6, run=[0, 0, 1, 1, 2, 2]) == "2 bootstrap resamples of 3 runs"
    assert bootstrap(line(1 - 0.5 * STEP + WAVE), 2, kind="runs").how == "2 bootstrap resamples of 4 runs"
    assert bootstrap(line(1 - 0.5 * STEP + WAVE), 3).theta.shape[0] <= 3


def test_the_covariance_of_a_line_by_hand():
    """Squares 0.04 over 2; rows 4 and Sxx 5. Huber's objective costs pi / 2 more; misfit counts once a scale."""
    one = line(1 - 0.5 * STEP + WAVE)
    assert delta_covariance(one) == pytest.approx(np.diag([0.02 / 4, 0.02 / 5]), abs=1e-12)
    assert delta_covariance(one, Noise(0.04, 0.0, 2, False)) == pytest.approx(np.diag([0.01, 0.008]), abs=1e-12)
    two = line(np.repeat(1 - 0.5 * STEP + WAVE, 2), np.repeat(np.exp(STEP), 2), replicate=np.tile([0, 1], 4))
    assert delta_covariance(two, Noise(0.04, 0.06, 2, True)) == pytest.approx(
        np.diag([(0.04 + 2 * 0.06) / 8, (0.04 + 2 * 0.06) / 10]), abs=1e-12
    )  # fmt: skip
    huber = fit_law(LAWS["power"], one.observations, LogHuber(10.0))
    assert delta_covariance(huber, Noise(0.02, 0.0, 2, False)) == pytest.approx(
        np.pi / 2 * np.diag([0.02 / 4, 0.02 / 5]), abs=1e-9
    )  # fmt: skip


def test_residuals_to_draw_from_have_variance_one():
    """Residuals -3, -1, 1, 3 of ln loss: mean square 5. Of a robust fit those of its two parameters, nearest to zero,
    are left out: 3 and -3 over 3."""

    def fit(objective, residuals):
        return SimpleNamespace(objective=objective, residuals=A(residuals), law=SimpleNamespace(n_parameters=2))

    left = [-3.0, -1.0, 1.0, 3.0]
    assert uncertainty._pool(fit(LeastSquares(), left), A(left)) == pytest.approx(A(left) / 5**0.5)
    assert sorted(uncertainty._pool(fit(LogHuber(0.5), left), A(left))) == pytest.approx([-1, 1])
    assert uncertainty._pool(fit(LogHuber(2.0), left), A(left)) == pytest.approx(A(left) / 5**0.5)  # half is no less
    assert uncertainty._pool(fit(LeastSquares(), left), np.zeros(4)).tolist() == [0] * 4


class Drawn:
    """Draws that are known: chi-square its freedom times 4, normal 1, choices the first of what there is."""

    def chisquare(self, freedom, n):
        return np.full(n, 4.0 * freedom)

    def standard_normal(self, shape):
        return np.ones(shape)

    def choice(self, pool, shape):
        return np.full(shape, pool[0])


def tables(n, within, between, error=None, replicates=True, wave=0.01):
    residuals = wave * np.resize([1.0, -1.0], n)
    scale = np.arange(n) // 2
    table = SimpleNamespace(n=n, n_scales=n // 2, log_loss=residuals + 5.0, scale=scale, error=error,
                            scale_means=lambda values: np.bincount(scale, values) / 2)  # fmt: skip
    fit = SimpleNamespace(observations=table, residuals=residuals, objective=LeastSquares(),
                          law=SimpleNamespace(n_parameters=2))  # fmt: skip
    return uncertainty._noisy_tables(fit, Noise(within, between, 3, replicates), 2, Drawn())


def test_tables_drawn_about_a_curve():
    """The spread is sqrt(3 / 12); about 5.0 each row moves by (0.3 + 0.4) / 2, from 20 rows on by signed residuals."""
    found, spread = tables(18, 0.09, 0.16)
    assert (found.shape, spread.tolist()) == ((2, 18), [0.5, 0.5])
    assert found == pytest.approx(np.full((2, 18), 5.35))
    found, _ = tables(20, 0.09, 0.0)
    assert found == pytest.approx(np.full((2, 20), 5.0 - 0.15))  # residual +1, sign -1
    found, _ = tables(20, 0.09, 0.16)
    assert found == pytest.approx(np.full((2, 20), 5.0 + (-0.3 + 0.4) / 2))
    error = np.full(18, 0.4)
    found, spread = tables(18, 0.09, 0.0, error)
    # Squares 18 * 1e-4 are less than evaluation alone gives: the variance between runs is drawn as none, or nearly.
    assert found == pytest.approx(5.0 + np.hypot(0.3 * spread[:, None], error) * np.ones((2, 18)))


def test_what_was_drawn_in_words():
    def told(noise, error=None, n=8, n_scales=4):
        return uncertainty._describe(
            SimpleNamespace(observations=SimpleNamespace(n=n, n_scales=n_scales, error=error)), noise, 9
        )

    start, end = (
        "9 bootstrap tables drawn about the curve; noise of ln loss 0.3",
        "; Student spread with 5 degrees of freedom",
    )
    seeds = (
        " between runs of one scale (2 a scale; variance over degrees of freedom, so that few seeds do not shrink it)"
    )
    assert told(Noise(0.09, 0.0, 5, False)) == start + end
    assert told(Noise(0.09, 0.0, 5, True)) == start + seeds + end
    assert told(Noise(0.09, 0.16, 5, True)) == start + seeds + ", 0.4 between the scales and the curve (misfit)" + end
    assert told(Noise(0.09, 0.16, 5, True), A([0.1])) == (
        "9 bootstrap tables drawn about the curve; noise of ln loss 0.3 beside the known errors of evaluation; Student spread "  # noqa: E501
        "with 5 degrees of freedom"
    )


# ---------------------------------------------------------------------------------------------- the forms of auto


def test_the_forms_in_one_scale():
    found = forms(("my N",), A([[1.0], [np.exp(2)]]), "log")
    assert list(found) == ["floor + powers", "square of logs", "floor + square of logs"]
    assert found["floor + powers"].text == "E + c_my_N*(my_N/2.71828)**(-a_my_N)"
    square = "q + l_my_N*log((my_N/2.71828)) + k_my_N_my_N*log((my_N/2.71828))**2"
    assert found["square of logs"].text == f"exp({square})"
    assert found["floor + square of logs"].text == f"E + exp({square})"
    assert forms(("my N",), A([[1.0], [np.exp(2)]]), "identity")["square of logs"].text == square
    one = found["floor + powers"]
    assert dict(one.bounds) == {"E": (0.0, np.inf), "c_my_N": (0.0, np.inf), "a_my_N": (-3.0, 4.0)}
    assert dict(one.priors) == {"a_my_N": (0.3, 0.5)}
    assert (one.reference, one.axes) == ("one of the forms that `auto` tries", ("my N",))
    signed = forms(("N",), A([[1.0], [2.0]]), "identity")["floor + powers"]
    assert dict(signed.bounds) == {"c_N": (0.0, np.inf), "a_N": (-3.0, 4.0)}
    assert next(iter(forms(("E",), A([[1.0], [2.0]]), "log")["floor + powers"].bounds)) == "E_"


def test_the_forms_in_two_scales():
    """Centres are 1, so that u is (N/1) and (D/1)."""
    found = {name: one.text for name, one in forms(("N", "D"), np.ones((4, 2)), "log").items()}
    n, d = "(N/1)", "(D/1)"
    powers = f"E + c_N*{n}**(-a_N) + c_D*{d}**(-a_D)"
    product = f"b*{n}**(-b_N)*{d}**(-b_D)"
    assert found["floor + powers"] == powers
    assert found["floor + product"] == f"E + {product}"
    assert found["floor + powers + product"] == f"{powers} + {product}"
    assert found["floor + (powers)^g"] == f"E + (c_N*{n}**(-a_N) + c_D*{d}**(-a_D))**g"
    crossed = f"q + l_N*log({n}) + l_D*log({d}) + k_N_D*log({n})*log({d})"
    assert found["crossed logs"] == f"exp({crossed})"
    assert found["floor + crossed logs"] == f"E + exp({crossed})"
    assert found["square of logs"] == f"exp({crossed} + k_N_N*log({n})**2 + k_D_D*log({d})**2)"
    bowl_of = f"l_N*log({n}) + k_N_N*log({n})**2 + k_N_D*log({n})*log({d})"
    rest = f"E + c_D*{d}**(-a_D)"
    assert found["floor + powers + bowl in N"] == f"{rest} + {bowl_of}"
    assert found["floor + powers + product with bowl in N"] == f"{rest} + b*exp({bowl_of} + l_D*log({d}))"
    saturated = f"(1/{n} + s_N)**a_N"
    assert found["floor + powers, N saturating"] == f"{rest} + c_N*{saturated}"
    assert found["floor + product, N saturating"] == f"E + b*{d}**(-b_D)*{saturated}"
    assert found["floor + powers + product, N saturating"] == f"{rest} + b*{d}**(-b_D)*{saturated}"
    assert found["floor + powers, D's changing with N"] == (
        f"E + c_N*{n}**(-a_N) + b*{n}**m_N*{d}**(-(n_D + o_N_D*log({n})))"
    )  # fmt: skip
    assert "floor + powers, N's changing with D" in found
    assert len(found) == 4 + 4 + 2 * 5 + 2
    law = forms(("N", "D"), np.ones((4, 2)), "log")
    pair = law["floor + powers, D's changing with N"]
    assert dict(pair.priors) == {"a_N": (0.3, 0.5), "m_N": (0.0, 0.5), "n_D": (0.3, 0.5), "o_N_D": (0.0, 0.2)}
    assert dict(pair.bounds) == {"E": (0.0, np.inf), "c_N": (0.0, np.inf), "a_N": (-3.0, 4.0), "b": (0.0, np.inf),
                                 "m_N": (-3.0, 4.0), "n_D": (-3.0, 4.0), "o_N_D": (-1.0, 1.0)}  # fmt: skip
    both = law["floor + product"]
    assert dict(both.bounds) == {"E": (0.0, np.inf), "b": (0.0, np.inf), "b_N": (-3.0, 4.0), "b_D": (-3.0, 4.0)}
    assert dict(both.priors) == {"b_N": (0.3, 0.5), "b_D": (0.3, 0.5)}
    other = law["floor + powers, N saturating"]
    assert (other.bounds["s_N"], other.priors["s_N"]) == ((1e-9, 1e4), (-4.0, 4.0))
    assert (law["floor + (powers)^g"].bounds["g"], law["floor + (powers)^g"].priors["g"]) == ((0.05, 5.0), (0.0, 1.0))


def test_pairs_are_for_three_scales_at_most():
    three, four = (forms(tuple("ABFD"[:d]), np.ones((4, d)), "log") for d in (3, 4))
    assert sum("'s changing with " in name for name in three) == 6
    assert sum("'s changing with " in name for name in four) == 0
    assert sum("saturating" in name for name in four) == 12


def test_a_part_of_a_scale_is_sometimes_equal_to_it():
    """Three rows equal and three below, at the least, and none above."""
    whole = A([1.0, 2, 3, 4, 5, 6])
    assert repeated(np.column_stack([whole, A([1.0, 2, 3, 2, 2, 2])])) == [(0, 1)]
    assert repeated(np.column_stack([A([1.0, 2, 3, 2, 2, 2]), whole])) == [(1, 0)]
    assert repeated(np.column_stack([whole, A([1.0, 2, 3, 2, 2, 7])])) == []
    assert repeated(np.column_stack([whole, A([1.0, 2, 2, 2, 2, 2])])) == []
    assert repeated(np.column_stack([whole, A([1.0, 2, 3, 4, 2, 2])])) == []
