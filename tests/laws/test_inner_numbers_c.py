"""Inner numbers of shares, simulated tables and schedules: each function against a few lines of NumPy of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.special import bdtr, betaincinv, fdtrc, ndtri, stdtr, stdtrit

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.laws import (
    multi_power,
    objective,
    schedule_fit,
    schedule_predictor,
    share_analysis,
    share_backtest,
    share_predictor,
    shares,
    simulate,
    solving,
    thinning,
    trend,
    two_steps,
    uncertainty,
    verdict,
)
from metascale.laws.newton import Local
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.schedule_fit import Run
from metascale.laws.schedule_predictor import SchedulePredictor
from metascale.laws.schedules import Schedule
from metascale.laws.share_predictor import SharePredictor
from metascale.laws.shares import Form, Metric, ShareFit
from metascale.laws.table import Table

COVARIANCE = np.array([[0.31, 0.05, 0.012], [0.09, 0.17, -0.021], [0.004, 0.015, 0.05]])  # not quite symmetric


@pytest.mark.parametrize("freedom", [0.4, 1.3, 1.7, 6.5])
def test_students_draws_of_a_share_s_parameters(freedom: float) -> None:
    theta, used = np.array([0.7, 0.21, 0.34]), max(freedom, 1.0)
    found = share_predictor._student_draws(theta, COVARIANCE, freedom, 300, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    values, vectors = np.linalg.eigh(0.5 * COVARIANCE + 0.5 * COVARIANCE.T)
    normal, squares = rng.standard_normal((300, 3)), rng.chisquare(used, (300, 1))
    bound = 0
    for row, own, square in zip(found, normal, squares[:, 0], strict=True):
        stretch = (used / square) ** 0.5
        bound += stretch > 20
        expected = theta + min(stretch, 20.0) * sum(own[j] * values[j] ** 0.5 * vectors[:, j] for j in range(3))
        chance, missed = (min(max(part, 0.0), 0.95) for part in expected[1:])
        crowd = max((chance + missed) / 0.99, 1.0)
        np.testing.assert_allclose(row, [expected[0], chance / crowd, missed / crowd], rtol=1e-11, atol=1e-13)
    assert (bound > 0) == (freedom < 1.5)
    assert (found[:, 1:] == 0).any()
    assert np.isclose(found[:, 1:].sum(1), 0.99).any()


def test_a_variance_below_0_is_none() -> None:
    found = share_predictor._student_draws(
        np.array([0.7, 0.2, 0.3]), np.diag([-0.4, 0.0, 0.0]), 3.0, 7, np.random.default_rng(2)
    )
    np.testing.assert_allclose(found, np.tile([0.7, 0.2, 0.3], (7, 1)))


def _predictor(log: bool, axes: int, **change: object) -> SharePredictor:
    sites = np.array([[2.0, 3.5], [4.0, 2.5], [6.0, 5.5]])[:, :axes]
    theta = np.array([[0.3, 0.4, -0.7, 0.12, 0.07], [-0.6, 0.9, 0.25, 0.03, 0.16]])
    spread = np.diag([0.04, 0.02, 0.03, 0.001, 0.002])
    spread[0, 1] = spread[1, 0] = 0.011
    keep = [0, *range(1, 1 + axes), 3, 4]
    given = {
        "metric": Metric("score", False, 100.0), "x_names": ("N", "D")[:axes], "names": ("a",) * (axes + 3),
        "theta": theta[:, keep], "covariance": np.array([spread, 1.7 * spread])[:, keep][:, :, keep],
        "freedom": np.array([5.0, 3.0]), "weights": np.array([0.65, 0.35]), "between": 0.06, "trials": 37.0,
        "log": log, "low": np.exp(sites.min(0)), "high": np.exp(sites.max(0)), "sites": sites, "growth": 0.45,
        **change,
    }  # fmt: skip
    return SharePredictor(**given)  # type: ignore[arg-type]


def _drawn(who: SharePredictor, own: np.ndarray, each: int, seed: int) -> np.ndarray:
    """[F * each, m] at t [each, m, d], draw by draw."""
    found = []
    for k, theta in enumerate(who.theta):
        rng = np.random.default_rng((seed, 77, k))
        drawn = share_predictor._student_draws(theta, who.covariance[k], who.freedom[k], each, rng)
        tilts, fades = rng.standard_normal(each), rng.standard_normal(each)
        steep = who.growth * sum(part**2 for part in theta[1:-2]) ** 0.5
        for i in range(each):
            line = []
            for t in own[i]:
                away = min(float(np.linalg.norm(t - site)) for site in who.sites)
                if len(t) == 1 and who.sites.min() <= t[0] <= who.sites.max():
                    away = 0.0
                odds = drawn[i, 0] + sum(b * at for b, at in zip(drawn[i, 1:-2], t, strict=True))
                odds += steep * away * tilts[i]
                chance, missed = drawn[i, -2], drawn[i, -1] * np.exp(-who.growth * away * abs(fades[i]))
                line.append(chance + (1 - chance - missed) / (1 + np.exp(-odds)))
            found.append(line)
    return np.array(found)


@pytest.mark.parametrize(("log", "axes"), [(True, 1), (True, 2), (False, 1)])
def test_expected_shares_are_drawn_form_by_form(log: bool, axes: int) -> None:
    who = _predictor(log, axes)
    t = np.array([[1.1, 2.2], [3.1, 4.4], [8.3, 7.7], [6.0, 5.5], [2.0, 3.5]])[:, :axes]
    each = 9
    found, weights = who.draws(np.exp(t) if log else t, each, seed=4)
    np.testing.assert_allclose(found, _drawn(who, np.tile(t, (each, 1, 1)), each, 4), rtol=1e-10)
    np.testing.assert_allclose(weights, [0.65 / each] * each + [0.35 / each] * each)
    rows = t + np.linspace(0.1, 0.8, each)[:, None, None]
    found, _ = who.draws(np.exp(rows) if log else rows, each)
    np.testing.assert_allclose(found, _drawn(who, rows, each, 0), rtol=1e-10)
    assert who.draws(np.exp(t))[0].shape == (1000, 5)


def test_odds_are_held_to_700() -> None:
    theta = np.array([[0.0, 600.0, 0.2, 0.0], [0.0, -600.0, 0.2, 0.0]])
    who = _predictor(False, 1, theta=theta, covariance=np.zeros((2, 4, 4)), growth=0.0)
    with np.errstate(all="raise"):
        found, _ = who.draws(np.array([[2.0]]), 2)
    np.testing.assert_allclose(found[:, 0], [1.0, 1.0, 0.2, 0.2])


@pytest.mark.parametrize("flipped", [False, True])
def test_a_share_is_predicted_in_the_column_s_unit(flipped: bool) -> None:
    who = _predictor(True, 2, metric=Metric("score", flipped, 100.0))
    x = np.exp(np.array([[1.1, 3.0], [3.1, 4.4], [8.3, 7.7]]))
    found = who.predict(x, 0.8)
    p, weights = who.draws(x)
    middle = shares.run_quantiles(p, weights, 0.06, np.inf, (0.5,))[0]
    low, high = shares.run_quantiles(p, weights, 0.06, 37.0, (0.1, 0.9))
    low, high = np.minimum(low, middle), np.maximum(high, middle)
    if flipped:
        middle, low, high = 1 - middle, 1 - high, 1 - low
    np.testing.assert_allclose([found.median, found.low, found.high], 100 * np.array([middle, low, high]), rtol=1e-12)
    np.testing.assert_allclose(found.beyond, [np.exp(0.9), 1.0, np.exp(2.3)])
    assert (found.level, who.predict(x).level, found.x_names, found.loss_name) == (0.8, 0.9, ("N", "D"), "score")
    assert found.by == "2 logistic shapes"


def test_a_median_that_counts_cannot_reach_is_inside_its_interval() -> None:
    who = _predictor(True, 1, between=0.0, trials=2.0)
    found = who.written_quantiles(np.array([[0.03, 0.97]]), np.array([1.0]), 0.2)
    np.testing.assert_allclose(found, [[3.0, 97.0], [0.0, 97.0], [3.0, 100.0]])


def _weighted(values: np.ndarray, weights: np.ndarray, levels: list[float]) -> list[float]:
    order = np.argsort(values)
    mass = np.cumsum(weights[order]) - weights[order] / 2
    return [float(np.interp(level, mass, values[order])) for level in levels]


def test_quantiles_of_a_run_between_runs_and_of_its_questions() -> None:
    p, weights, levels = np.array([[0.2, 0.7], [0.5, 0.93], [0.34, 0.81]]), np.array([3.0, 1.0, 2.5]), [0.11, 0.5, 0.87]
    rho, share = 0.13, weights / 6.5
    np.testing.assert_allclose(
        shares.run_quantiles(p, weights, 0.0, np.inf, levels).T,
        [_weighted(p[:, j], share, levels) for j in range(2)], rtol=1e-8,
    )  # fmt: skip
    size = 1 / rho - 1
    nodes = np.array([[[betaincinv(q * size, (1 - q) * size, (k + 0.5) / 15) for q in row] for row in p]
                      for k in range(15)])  # fmt: skip
    every = np.tile(share / 15, 15)
    np.testing.assert_allclose(
        shares.run_quantiles(p, weights, rho, np.inf, levels).T,
        [_weighted(nodes[:, :, j].reshape(-1), every, levels) for j in range(2)], rtol=1e-9,
    )  # fmt: skip
    for n, between, draws, mass in ((11.6, 0.0, p, share), (7.4, rho, nodes.reshape(45, 2), every)):
        k = np.arange(round(n) + 1)
        expected = []
        for j in range(2):
            at_most = sum(w * bdtr(k, round(n), q) for w, q in zip(mass, draws[:, j], strict=True))
            expected.append([float(k[np.argmax(at_most >= level)]) / round(n) for level in levels])
        np.testing.assert_allclose(shares.run_quantiles(p, weights, between, n, levels).T, expected)


def test_draws_are_thinned_to_their_quantiles() -> None:
    rng = np.random.default_rng(8)
    draws, weights = rng.random((201, 2)), rng.random(201) + 0.3
    found, mass = shares._thinned(draws, weights)
    middles = [(k + 0.5) / 200 for k in range(200)]
    np.testing.assert_allclose(found.T, [_weighted(draws[:, j], weights / weights.sum(), middles) for j in range(2)])
    np.testing.assert_allclose(mass, np.full(200, 0.005))
    np.testing.assert_array_equal(shares._thinned(draws[:200], weights[:200])[1], weights[:200])


def test_the_deviance_is_minus_two_log_likelihood_above_the_full_one() -> None:
    p, y, weight = np.array([0.3, 0.55, 0.8]), np.array([0.45, 0.0, 1.0]), np.array([2.0, 3.5, 1.7])
    expected = 2 * (2 * (0.45 * np.log(0.45 / 0.3) + 0.55 * np.log(0.55 / 0.7)) - 3.5 * np.log(0.45)
                    - 1.7 * np.log(0.8))  # fmt: skip
    assert shares._deviance(p, y, weight) == pytest.approx(expected, rel=1e-12)
    assert shares._deviance(np.array([0.0, 1.0]), np.array([0.4, 0.4]), np.array([1.0, 1.0])) == pytest.approx(
        2 * 2 * (0.4 * np.log(0.4) + 0.6 * np.log(0.6)) - 2 * np.log(1e-9), rel=1e-6
    )


def test_weights_and_the_variance_between_runs() -> None:
    trials, rho = np.array([7.0, 30.0, np.inf, 52.0]), 0.21
    np.testing.assert_allclose(shares.weights_of(rho, trials), [1 / (0.21 + 0.79 / n) for n in trials])
    np.testing.assert_allclose(shares.weights_of(0.0, trials), [7.0, 30.0, 1e12, 52.0])
    p, y = np.array([0.3, 0.6, 0.72, 0.15]), np.array([0.75, 0.2, 0.95, 0.5])
    found = shares.between_runs(p, y, trials, 3)
    pearson = sum(
        (b - a) ** 2 / (a * (1 - a)) / (found + (1 - found) / n) for a, b, n in zip(p, y, trials, strict=True)
    )
    assert pearson == pytest.approx(3, rel=1e-9)
    assert found == pytest.approx(shares.between_runs(p, y, trials, 3), abs=0)
    assert shares.between_runs(p, p + 0.01, np.full(4, 7.0), 3) == 0.0
    assert shares.between_runs(np.array([0.0]), np.array([1.0]), np.array([5.0]), 1) == pytest.approx(1.0)
    assert shares.between_runs(np.array([0.0, 1.0]), np.array([4e-4, 1.0]), np.array([np.inf] * 2), 1) == pytest.approx(
        (4e-4 - 1e-6) ** 2 / 1e-6 + 1e-6, rel=1e-5
    )


SCALES = {"N": [3.0, 7.0, 12.0], "D": [20.0, 50.0]}
TRUTH = {"E": 1.3, "A": 6.0, "alpha": 0.4, "B": 9.0, "beta": 0.27}


def _planted(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.asarray(1.3 + 6.0 * n**-0.4 + 9.0 * d**-0.27)


@pytest.mark.parametrize("crossed", [True, False])
def test_a_simulated_table_number_by_number(crossed: bool) -> None:
    scales = SCALES if crossed else {"N": SCALES["N"], "D": [20.0, 50.0, 90.0]}
    table = simulate.simulate_table(
        "E + A*N**(-alpha) + B*D**(-beta)", scales, TRUTH, seeds=2, noise=0.07, evaluation=0.03, cost="6*N*D + 11",
        crossed=crossed, loss_name="ce", seed=9,
    )  # fmt: skip
    pairs = [(n, d) for n in SCALES["N"] for d in SCALES["D"]] if crossed else [(3, 20), (7, 50), (12, 90)]
    n, d = np.repeat(np.array(pairs, float), 2, axis=0).T
    run, evaluation = np.random.default_rng([9, 505]).standard_normal((2, len(n)))
    loss = _planted(n, d) * np.exp(0.07 * run + 0.03 * evaluation)
    expected = {"N": n, "D": d, "seed": np.array([0, 1] * len(pairs)), "ce": loss, "ce_se": 0.03 * loss,
                "cost": 6 * n * d + 11}  # fmt: skip
    assert tuple(table.names) == tuple(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(table.numbers(name), column, rtol=1e-12, err_msg=name)


def test_a_simulated_table_by_default() -> None:
    table = simulate.simulate_table("power", {"tokens": [3.0, 8.0]}, {"A": 5.0, "alpha": 0.3})
    run = np.random.default_rng([0, 505]).standard_normal((2, 2))[0]
    np.testing.assert_allclose(table.numbers("loss"), 5 * np.array([3.0, 8.0]) ** -0.3 * np.exp(0.01 * run))
    assert tuple(table.names) == ("tokens", "seed", "loss")


@pytest.mark.parametrize(
    ("crossed", "lengths", "seeds", "rows"),
    [(True, (3, 4), 1, None), (True, (3, 4), 2, 24), (True, (13,), 1, 13), (True, (2, 7), 1, 14),
     (True, (3, 2), 2, None), (False, (6, 6), 2, None), (False, (12, 12), 1, None),
     (False, (13, 13), 1, 13), (False, (7, 7), 2, 14)],
)  # fmt: skip
def test_how_many_rows_are_simulated(
    crossed: bool, lengths: tuple[int, ...], seeds: int, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "MOST_ROWS", 12)
    scales = {f"x{k}": np.arange(n) + 2.0 for k, n in enumerate(lengths)}
    if rows is None:
        assert len(simulate._rows(scales, crossed, seeds)[1]) == (np.prod(lengths) if crossed else lengths[0])
        return
    with pytest.raises(InputError, match=rf"would have {rows} rows; at most 12$") as refused:
        simulate._rows(scales, crossed, seeds)
    assert refused.value.field == "scales"


def test_a_shape_fitted_in_the_scales_own_units() -> None:
    """The information is that in a, b and c themselves, beside the weak priors in standard units."""
    rng = np.random.default_rng(1)
    t = np.linspace(11.0, 19.0, 9)[:, None]
    truth = np.array([[-13.0, 0.9, 0.2, 0.0]])
    y = np.clip(shares.curve(truth, t)[0] + 0.02 * rng.standard_normal(9), 0, 1)
    trials = np.linspace(300, 700, 9)
    fit = shares.fit_share(Form("floor", None), t, y, trials, 0.004)
    rising = 1 / (1 + np.exp(-(fit.theta[0] + fit.theta[1] * t[:, 0])))
    p = fit.theta[2] + (1 - fit.theta[2]) * rising
    slope = (1 - fit.theta[2]) * rising * (1 - rising)
    jacobian = np.column_stack([slope, slope * t[:, 0], 1 - rising])
    weight = 1 / (0.004 + 0.996 / trials)
    centre, scale = t.mean(), t.std()
    standard = np.array(
        [[1.0, centre, 0.0], [0.0, scale, 0.0], [0.0, 0.0, 1.0]]
    )  # from a, b to those of (t - centre) / scale
    known = standard.T @ np.diag([1 / 3600, 0.01, 1.0]) @ standard
    information = jacobian.T @ (jacobian * (weight / (p * (1 - p)))[:, None]) + known
    np.testing.assert_allclose(fit.covariance[:3, :3], np.linalg.inv(information), rtol=1e-7)
    assert not fit.covariance[3].any()
    prior = standard.T @ np.diag([1 / 3600, 0.01, 0.0]) @ standard
    pull = jacobian.T @ (weight * (y - p) / (p * (1 - p))) - prior @ fit.theta[:3]
    np.testing.assert_allclose(pull / np.sqrt(np.diag(information)), 0, atol=1e-6)
    assert (fit.freedom, fit.between, fit.converged) == (6, 0.004, True)
    assert fit.deviance == pytest.approx(shares._deviance(p, y, weight))


# ------------------------------------------------------------------------------------------ rates and their law


RATES = Schedule(np.array([0.2, 0.5, 1.3, 1.3, 0.9, 0.9, 1.1, 0.6, 0.35, 0.35, 0.22]), 2)
THETA = np.array([0.7, -0.4, -0.9, 0.3, 0.8, -0.5, 0.45])


def _law(theta: np.ndarray, schedule: Schedule, step: int) -> float:
    """Equation 2, change by change; place k holds the rate of step k + 1."""
    floor, a, alpha, b, c, beta = np.exp(theta[:6])
    rates = schedule.rates / schedule.sum_unit
    found = floor + a * rates[:step].sum() ** -alpha
    for k in range(max(schedule.warmup, 1), step):
        drop, since = schedule.rates[k - 1] - schedule.rates[k], rates[k:step].sum()
        found -= b * drop * (1 - (1 + c * schedule.rates[k] ** -theta[6] * since) ** -beta)
    return float(found)


def test_the_law_of_rates_change_by_change() -> None:
    schedule = Schedule(RATES.rates, 2, 1.7)
    at = np.array([4, 5, 8, 11])
    found, jacobian = multi_power.curve_of(THETA, multi_power.Path.of(schedule, at, None))
    np.testing.assert_allclose(found, [_law(THETA, schedule, step) for step in at], rtol=1e-12)
    for k in range(7):
        move = np.eye(7)[k] * 1e-6
        slope = [(_law(THETA + move, schedule, step) - _law(THETA - move, schedule, step)) / 2e-6 for step in at]
        np.testing.assert_allclose(jacobian[:, k], slope, rtol=1e-6, atol=1e-9)
    names = dict(zip(multi_power.NAMES, [*np.exp(THETA[:6]), THETA[6]], strict=True))
    np.testing.assert_allclose(multi_power.loss_of(names, schedule, [8, 11, 4]), found[[2, 3, 0]])


def test_the_path_of_a_schedule() -> None:
    """After a warm-up of 2 the rate changes at places 2 (up by 0.8), 4, 6, 7, 8 and 10; the last is past step 10."""
    found = multi_power.Path.of(RATES, np.array([5, 10]), None)
    np.testing.assert_allclose(found.total, [4.2, 7.5])
    np.testing.assert_allclose(found.drop, [-0.8, 0.4, -0.2, 0.5, 0.25])
    np.testing.assert_allclose(found.log_rate, np.log([1.3, 0.9, 1.1, 0.6, 0.35]))
    np.testing.assert_allclose(found.since, [[3.5, 0.9, 0, 0, 0], [6.8, 4.2, 2.4, 1.3, 0.7]], atol=1e-12)
    zero = multi_power.Path.of(Schedule(np.array([2.0, 0.0, 1.0]), 0), np.array([3]), None)
    np.testing.assert_allclose(zero.log_rate, [np.log(2e-9), 0.0])


def test_changes_of_a_rate_are_joined() -> None:
    """Two steps and 2 groups a gap: from 2 to 6 ends at 4 and 6, to 12 at 9 and 12; more than 4 changes are joined."""
    rates = np.array([0.4, 1.0, 0.94, 0.8, 0.73, 0.61, 0.52, 0.4, 0.37, 0.21, 0.16, 0.13])
    schedule, at = Schedule(rates, 2, 1.3), np.array([6, 12])
    found = multi_power.Path.of(schedule, at, 2)
    summed = np.concatenate([[0.0], np.cumsum(rates)]) / 1.3
    parts = [[2, 3], [4, 5], [6, 7, 8], [9, 10, 11]]  # places, of steps to 4, 6, 9 and 12
    drops = [np.array([rates[k - 1] - rates[k] for k in part]) for part in parts]
    before = [drop @ summed[part] / drop.sum() for drop, part in zip(drops, parts, strict=True)]
    logs = [drop @ np.log(rates[part]) / drop.sum() for drop, part in zip(drops, parts, strict=True)]
    np.testing.assert_allclose(found.drop, [drop.sum() for drop in drops])
    np.testing.assert_allclose(found.log_rate, logs)
    since = summed[at][:, None] - np.array(before)
    assert (since[0, 2:] < 0).all()
    np.testing.assert_allclose(found.since, np.maximum(since, 0))
    np.testing.assert_allclose(found.total, summed[at])
    assert len(multi_power.Path.of(schedule, at).drop) == 8  # 4 groups a gap by default
    early = Schedule(np.array([1.0, 0.9, 0.7, 0.7, 0.7, 0.7]), 0)
    assert len(multi_power.Path.of(early, np.array([6]), 2).drop) == 2  # as many changes as groups are left alone
    few = multi_power.Path.of(schedule, np.array([6]), 4)
    assert len(few.drop) == 4
    up = multi_power.Path.of(Schedule(np.array([1.0, 1.5, 0.8, 0.7, 1.2]), 0), np.array([5]), 1)
    own = np.array([0.5, 0.7, 0.1, 0.5])
    np.testing.assert_allclose(up.drop, [-0.2])
    np.testing.assert_allclose(up.log_rate, [own @ np.log([1.5, 0.8, 0.7, 1.2]) / 1.8])
    np.testing.assert_allclose(up.since, [[5.2 - own @ [1.0, 2.5, 3.3, 4.0] / 1.8]])


def _schedule_predictor(**change: object) -> SchedulePredictor:
    root = np.random.default_rng(3).standard_normal((7, 7)) * 0.05
    given = {"theta": THETA, "covariance": root @ root.T, "rate_unit": 1.6, "sum_unit": 5.0, "noise": 0.03,
             "discrepancy": 0.02, "loss_name": "ce", "longest": (np.array([3]), np.array([2.0])), **change}  # fmt: skip
    return SchedulePredictor(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.7, 0.9])
def test_the_interval_of_a_run_under_a_schedule(level: float) -> None:
    who, at = _schedule_predictor(), np.array([4, 5, 8, 11])
    found = who.predict(RATES, level, [8, 4, 5, 11, 4])
    values, vectors = np.linalg.eigh(who.covariance)
    normal = np.random.default_rng(1213).standard_normal((300, 7))
    draws = np.array([THETA + vectors @ (row * np.maximum(values, 0) ** 0.5) for row in normal])
    np.testing.assert_allclose(who.draws, draws, rtol=1e-9, atol=1e-12)
    scaled = Schedule(RATES.rates / 1.6, 2, 5.0 / 1.6)
    middle = np.array([_law(THETA, scaled, step) for step in at])
    logs = np.log([multi_power.curve_of(draw, multi_power.Path.of(scaled, at))[0] for draw in draws])
    shares = (np.random.default_rng(7).permutation(300) + 0.5) / 300
    total = np.cumsum(RATES.rates)[at - 1] / 5.0
    assert total.min() < 1 < total.max()
    noise = np.sqrt(0.03**2 + (0.02 * (1 + np.log(np.maximum(total, 1)))) ** 2)
    low, high = np.quantile(logs + ndtri(shares)[:, None] * noise, [(1 - level) / 2, (1 + level) / 2], axis=0)
    np.testing.assert_allclose(found.median, middle)
    np.testing.assert_allclose(found.low, np.minimum(np.exp(low), middle))
    np.testing.assert_allclose(found.high, np.maximum(np.exp(high), middle))
    np.testing.assert_allclose(found.beyond, np.maximum(total, 1))
    np.testing.assert_allclose(found.rate, RATES.rates[at - 1])
    assert found.at.tolist() == at.tolist()


def test_parameters_in_the_units_of_a_table_give_the_same_law() -> None:
    who = _schedule_predictor()
    own = who.in_units(THETA)
    coded = np.array([*np.log(own[:6]), own[6]])
    scaled = RATES.scaled(1.6, 5.0)
    for step in (4, 8, 11):
        assert _law(coded, RATES, step) == pytest.approx(_law(THETA, scaled, step), rel=1e-12)


def test_between_the_drawn_steps_a_spread_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule_predictor, "_NODES", 3)
    who, at = _schedule_predictor(), [4, 5, 7, 8, 11]
    few, whole = who.predict(RATES, 0.8, at), who.predict(RATES, 0.8, [4, 7, 11])
    for end in ("low", "high"):
        away = np.log(getattr(few, end) / few.median)
        ends = np.log(getattr(whole, end) / whole.median)
        np.testing.assert_allclose(away, np.interp(at, [4, 7, 11], ends))


# ------------------------------------------------------------------------------------------ the fit of that law


def _runs() -> list[Run]:
    rng = np.random.default_rng(12)
    runs = []
    for name, scale, steps in (
        ("a", 1.0, [4, 5, 7, 8, 9, 11]),
        ("b", 0.7, [3, 5, 6, 8, 11]),
        ("c", 1.4, [4, 6, 9, 10]),
    ):
        schedule = Schedule(RATES.rates * scale + 0.01, 2)
        loss = np.array(
            [2.5 + 1.1 * schedule.summed[k - 1] ** -0.6 - 0.3 * (1.3 - schedule.rates[k - 1]) for k in steps]
        )
        runs.append(Run(name, schedule, np.array(steps), loss * np.exp(0.02 * rng.standard_normal(len(steps)))))
    return runs


PRIOR = np.log([0.06, 0.45, 0.045, 2000, 0.6, np.exp(0.6)]), np.array([2, 0.6, 1, 2, 0.5, 0.25])


def test_what_a_fit_of_rates_minimises(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass from a start: Huber's function of residuals over 0.01 beside the priors, its slope 0; then the noise."""
    monkeypatch.setattr(schedule_fit, "_PASSES", 1)
    runs = _runs()
    paths = [multi_power.Path.of(run.schedule.scaled(1.8, 12.0), run.steps) for run in runs]
    y = np.log(np.concatenate([run.loss for run in runs]))
    mean = PRIOR[0] + np.array([y.min(), 0, y.min(), 0, 0, 0])

    def left(theta: np.ndarray) -> np.ndarray:
        return np.log(np.concatenate([multi_power.curve_of(theta, path)[0] for path in paths])) - y

    def total(theta: np.ndarray) -> float:
        r = np.abs(np.concatenate([left(theta) / 0.01, (theta[1:] - mean) / PRIOR[1]]))
        return float(np.sum(np.where(r <= 2, r**2 / 2, 2 * r - 2)))

    start = np.r_[y.min() - 0.1, mean]
    theta, covariance, noise = schedule_fit._minimise(paths, [run.loss for run in runs], start)
    slope = [(total(theta + move) - total(theta - move)) / 2e-6 for move in 1e-6 * np.eye(7)]
    np.testing.assert_allclose(slope, 0, atol=2e-3)
    r = left(theta)
    assert noise == pytest.approx(1.4826 * float(np.median(np.abs(r))), rel=1e-9)
    alike = r[:5] @ r[1:6] + r[6:10] @ r[7:11] + r[11:14] @ r[12:15]
    correlation = min(max(alike / (r @ r), 0.0), 0.95)
    jacobian = np.column_stack([(left(theta + move) - left(theta - move)) / 2e-6 for move in 1e-6 * np.eye(7)])
    weight = noise**2 * (1 + correlation) / (1 - correlation)
    information = jacobian.T @ jacobian / weight + np.diag([0, *PRIOR[1] ** -2.0])
    np.testing.assert_allclose(covariance @ information, np.eye(7), atol=1e-4)
    monkeypatch.undo()
    again, _, settled = schedule_fit._minimise(paths, [run.loss for run in runs], None)
    assert np.isfinite(again).all()
    assert settled == pytest.approx(1.4826 * float(np.median(np.abs(left(again)))), rel=1e-9)


@pytest.mark.parametrize(("gap", "off"), [(0.9, 0.01), (1.0, 1e-4)])
def test_what_a_law_misses_of_runs_that_it_has_not_seen(
    gap: float, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stubbed optima: each run is predicted by the law moved by its own share, and its late half counts."""
    runs = _runs()
    calls: list[int] = []
    spread = np.diag([1e-6, 2e-6, 3e-6, 1e-6, 5e-7, 4e-6, 1e-6])
    sum_unit, rate_unit = max(run.schedule.summed[-1] for run in runs), max(run.schedule.rates.max() for run in runs)

    def minimise(paths: list[multi_power.Path], seen: list[np.ndarray], start: np.ndarray | None) -> tuple[object, ...]:
        calls.append(sum(len(one) for one in seen))
        np.testing.assert_array_equal(
            np.full(7, np.nan) if start is None else start, THETA + off if calls[1:] else np.nan
        )
        return THETA + off * len(calls), spread * len(calls), 0.013

    monkeypatch.setattr(schedule_fit, "_minimise", minimise)
    paths = [multi_power.Path.of(run.schedule.scaled(rate_unit, sum_unit), run.steps) for run in runs]
    near = [
        Run(run.name, run.schedule, run.steps, multi_power.curve_of(THETA + off, path)[0] * gap ** (run.steps - 4))
        for run, path in zip(runs, paths, strict=True)
    ]
    fit = schedule_fit.fit_multi_power(near)
    assert calls == [15, 9, 10, 11]
    assert (fit.rate_unit, fit.sum_unit, fit.noise, fit.level) == (rate_unit, sum_unit, 0.013, 0.95)
    excess, ends = [], {}
    for k, (run, path) in enumerate(zip(near, paths, strict=True)):
        theta = THETA + off * (k + 2)
        value, jacobian = multi_power.curve_of(theta, path)
        missed = np.log(value / run.loss)
        ends[run.name] = missed[-1]
        slope = jacobian / value[:, None]
        own = np.array([row @ (spread * (k + 2)) @ row for row in slope])
        late = range(len(missed) // 2, len(missed))
        excess.append(np.mean([missed[j] ** 2 - own[j] for j in late]) - 0.013**2)
    assert fit.held_out == pytest.approx(ends)
    expected = max(float(np.mean(excess)), 0.0) ** 0.5
    assert (expected > 0.004) == (gap == 0.9)
    assert fit.discrepancy == pytest.approx(max(expected, 0.004))


def test_the_end_of_a_long_run_is_its_last_twentieth(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = np.linspace(1.3, 0.4, 60)
    losses = 3.0 + 0.01 * np.arange(59) ** 1.5
    runs = [Run(name, Schedule(rates, 0), np.arange(1, 60), losses + shift) for name, shift in (("a", 0.0), ("b", 0.4))]
    monkeypatch.setattr(schedule_fit, "_minimise", lambda *_: (THETA, np.zeros((7, 7)), 0.01))
    fit = schedule_fit.fit_multi_power(runs)
    path = multi_power.Path.of(runs[0].schedule.scaled(fit.rate_unit, fit.sum_unit), runs[0].steps)
    value = multi_power.curve_of(THETA, path)[0]
    for run in runs:
        assert fit.held_out[run.name] == pytest.approx(np.log(value[-2:] / run.loss[-2:]).mean())  # 59 // 20 = 2
    few = [
        Run("a", RATES, np.array([4, 5, 6, 7, 8]), np.full(5, 2.0)),
        Run("b", RATES, np.arange(3, 11), np.full(8, 2.0)),
    ]
    found = schedule_fit.fit_multi_power(few)
    assert list(found.held_out) == ["a"]  # without b 5 checkpoints are left, fewer than 8
    seven = [few[0], Run("b", RATES, np.arange(3, 10), np.full(7, 2.0))]
    assert (schedule_fit.fit_multi_power(seven).held_out, schedule_fit.fit_multi_power(seven).discrepancy) == (
        {},
        0.006,
    )


# ------------------------------------------------------------------------------------------ two steps


class _Loss:
    """ln loss is normal about its law with a spread that grows along the rows."""

    x_names, loss_name, by = ("N",), "ce", "a stub"

    def predict(self, points: object, level: float = 0.9) -> SimpleNamespace:
        x = np.asarray(points, float).reshape(-1, 1)
        middle, reach = 9 * x[:, 0] ** -0.2, 0.1 * x[:, 0] * ndtri((1 + level) / 2)
        return SimpleNamespace(x=x, median=middle, low=middle - reach, high=middle + 1.5 * reach, beyond=x[:, 0] + 1)


def test_losses_of_a_new_run_and_both_steps_of_its_share() -> None:
    link = _predictor(False, 1, theta=np.array([[2.0, -1.3, 0.1, 0.05], [1.1, -0.7, 0.2, 0.03]]))
    joined, x = two_steps.TaskPredictor(_Loss(), link), np.array([2.0, 3.0])  # type: ignore[arg-type]
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995])
    at = np.concatenate([(1 - levels[::-1]) / 2, [0.5], (1 + levels) / 2])
    middle = 9 * x**-0.2  # beyond the losses of the link
    away = 0.1 * ndtri(at)[:, None] * x
    curve = middle + np.where(away > 0, 1.5 * away, away)
    wanted = (np.random.default_rng(311).permutation(500) + 0.5) / 500
    losses = np.column_stack([np.interp(wanted, at, curve[:, j]) for j in range(2)])
    np.testing.assert_allclose(joined._losses(x[:, None]), losses, rtol=1e-9)
    found = joined.predict(x, 0.8)
    both = link.written_quantiles(*link.draws(losses[:, :, None]), 0.8)
    by_link = link.written_quantiles(*link.draws(middle[:, None]), 0.8)
    by_loss = []
    for column in losses.T:
        p = np.concatenate([c + (1 - c - m) / (1 + np.exp(-a - b * column)) for a, b, c, m in link.theta])
        by_loss.append(100 * np.array(_weighted(p, np.repeat(link.weights / 500, 500), [0.1, 0.9])))
    np.testing.assert_allclose([found.median, found.low, found.high], both)
    np.testing.assert_allclose(found.from_link, by_link[1:])
    np.testing.assert_allclose(np.transpose(found.from_loss), by_loss, rtol=1e-7)
    np.testing.assert_allclose([found.loss, found.loss_low, found.loss_high], [
        middle, middle - 0.1 * x * ndtri(0.9), middle + 0.15 * x * ndtri(0.9)])  # fmt: skip
    assert (found.beyond.tolist(), found.level, joined.predict(x).level) == ([3.0, 4.0], 0.8, 0.9)


# ------------------------------------------------------------------------------------------ trends and turns


T = np.array([0.3, 1.1, 1.1, 2.6, 3.2, 3.2, 4.9, 6.0, 6.0, 7.4])
CELL = np.array([0, 1, 1, 2, 3, 3, 4, 5, 5, 6])
Y = np.array([1.31, 1.02, 1.11, 0.93, 0.62, 0.71, 0.55, 0.41, 0.29, 0.33])
BENDS, WEIGHTS = [0.0, 1.5, 3.0, 6.0, -3.0], np.array([0.47, 0.24, 0.14, 0.08, 0.07])


def _shape(u: np.ndarray, bend: float) -> np.ndarray:
    return -u if bend == 0 else (np.exp(-bend * u) - 1) / (1 - np.exp(-bend))


def _pooled(between: float, freedom: int, within: float, runs: int) -> tuple[float, int]:
    if runs and fdtrc(freedom, runs, (between / freedom) / (within / runs)) < 0.1:
        return between / freedom, freedom
    return (between + within) / (freedom + runs), freedom + runs


@pytest.mark.parametrize("jagged", [0.0, 0.6])
def test_every_contrast_is_students_t(jagged: float) -> None:
    """Each shape is a regression beside what is held fixed: its t, one t in falls of ln loss, and the null draws."""
    held = np.column_stack([np.ones(10), np.array([0.2, 0.5, 0.5, 0.1, 0.9, 0.9, 0.4, 0.3, 0.3, 0.8]) ** 2])
    y = Y + jagged * np.array([1, -1, -1, 1, -1, -1, 1, -1, -1, 1])
    found = trend._contrast(T, y, CELL, held, np.array(BENDS), WEIGHTS)
    assert found is not None
    t_values, freedom, units, smallest = found
    within = sum((y[k == CELL] - y[k == CELL].mean()) @ (y[k == CELL] - y[k == CELL].mean()) for k in range(7))
    shapes = []
    for k, bend in enumerate(BENDS):
        shape = _shape((T - 0.3) / 7.1, bend)
        design = np.column_stack([held, shape])
        estimate, squares, *_ = np.linalg.lstsq(design, y, rcond=None)
        variance, spare = _pooled(float(squares[0]) - within, 4, within, 3)
        error = (variance * np.linalg.inv(design.T @ design)[2, 2]) ** 0.5
        assert t_values[k] == pytest.approx(estimate[2] / error, rel=1e-9)
        assert (freedom[k], units[k]) == (spare, pytest.approx(error, rel=1e-9))
        left = shape - held @ np.linalg.lstsq(held, shape, rcond=None)[0]
        shapes.append(left / np.linalg.norm(left))
    assert {4} == set(freedom) if jagged else freedom.tolist()
    np.testing.assert_allclose(smallest, _null(np.array(shapes), 5, 3, WEIGHTS), rtol=1e-4)


def _null(shapes: np.ndarray, n_free: int, runs: int, weights: np.ndarray) -> np.ndarray:
    """Smallest weighted p-values of the first 10,000 draws of the stream, of tables of noise with this design."""
    values, vectors = np.linalg.eigh(np.round(shapes @ shapes.T, 6))
    kept = [k for k in np.argsort(-values) if values[k] > 1e-5][:n_free]
    rng = np.random.default_rng(20240)
    draws = rng.standard_normal((10_000, len(kept)))
    z = draws @ (vectors[:, kept] * values[kept] ** 0.5).T
    rest = rng.chisquare(n_free - len(kept), 10_000) if n_free > len(kept) else 0.0
    within = rng.chisquare(runs, 10_000)[:, None] if runs else np.zeros((10_000, 1))
    between = np.maximum(((draws**2).sum(1) + rest)[:, None] - z**2, 1e-12)
    variance, spare = (between + within) / (n_free - 1 + runs), np.full(z.shape, n_free - 1.0 + runs)
    if runs:
        apart = fdtrc(n_free - 1, runs, between / (n_free - 1) / (within / runs)) < 0.1
        variance, spare = np.where(apart, between / (n_free - 1), variance), np.where(apart, n_free - 1, spare)
    return np.asarray((2 * stdtr(spare, -np.abs(z) / variance**0.5) / weights).min(1))


@pytest.mark.parametrize(("n_free", "runs"), [(5, 0), (2, 4), (9, 3), (3, 1)])
def test_the_smallest_p_values_of_noise(n_free: int, runs: int) -> None:
    shapes = np.random.default_rng(4).standard_normal((4, 6)) + 0.7
    shapes /= np.linalg.norm(shapes, axis=1)[:, None]
    weights = np.array([0.5, 0.26, 0.17, 0.07])
    correlations = tuple(map(tuple, np.round(shapes @ shapes.T, 6).tolist()))
    found = trend._smallest_of_noise(correlations, n_free, runs, tuple(weights.tolist()))
    np.testing.assert_allclose(found, _null(shapes, n_free, runs, weights), rtol=1e-6)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_of_a_trend_is_that_of_its_best_contrast(level: float) -> None:
    found = trend.trend_test(T, Y, CELL, level)
    contrast = trend._contrast(T, Y, CELL, np.ones((10, 1)), np.array(BENDS), WEIGHTS)
    assert contrast is not None
    t_values, freedom, units, smallest = contrast
    p = [2 * stdtr(f, -abs(t)) / w for t, f, w in zip(t_values, freedom, WEIGHTS, strict=True)]
    k = int(np.argmin(p))
    reach = stdtrit(freedom[k], 1 - np.quantile(smallest, 1 - level) * WEIGHTS[k] / 2) * units[k] / 7.1
    assert found.exponent is not None
    middle = t_values[k] * units[k] / 7.1
    assert (found.answer, found.level) == ("falls", level)
    np.testing.assert_allclose(
        [found.exponent.estimate, found.exponent.low, found.exponent.high], [middle, middle - reach, middle + reach]
    )


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("bend", [0.005, 0.012, 0.016, 0.02, 0.03])
def test_whether_a_bend_is_beyond_chance(level: float, bend: float) -> None:
    y = Y + bend * (T - 3.5) ** 2 - 0.05
    held = np.column_stack([np.ones(10), T])
    found = trend._contrast(T, y, CELL, held, np.array(BENDS[1:]), np.ones(4))
    assert found is not None
    signed = found[0] * np.array([1, 1, 1, -1])
    k = int(np.argmax(np.abs(signed)))
    p = 2 * stdtr(found[1][k], -abs(signed[k]))
    expected = signed[k] > 0 and p < np.quantile(found[3], 1.4 * (1 - level))
    assert trend.bends_upward(T, y, CELL, level) == expected


def _turning(depth: float) -> tuple[np.ndarray, np.ndarray]:
    t = np.array([0.5, 1.2, 1.2, 2.9, 4.1, 4.1, 5.0, 6.6])
    return t, depth * (t - 3.0) ** 2 + np.array([0.01, -0.02, 0.015, 0.02, -0.015, 0.005, -0.02, 0.01])


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_a_parabola_turns_where_both_ends_are_steep(level: float) -> None:
    t, y = _turning(0.1)
    found = trend.turn_test(t, y, level)
    levels, cell = np.unique(t, return_inverse=True)
    design = np.column_stack([np.ones(8), t, t**2])
    (_, b, c), squares, *_ = np.linalg.lstsq(design, y, rcond=None)
    within = sum(((y[cell == k] - y[cell == k].mean()) ** 2).sum() for k in range(6))
    variance, spare = _pooled(float(squares[0]) - within, 3, within, 2)
    share = 0.4 * (1 - level)
    weights = np.array([0, 1, 2 * levels[-1]])
    error = stdtrit(spare, 1 - share / 2) * (variance * weights @ np.linalg.inv(design.T @ design) @ weights) ** 0.5
    slope = -(b + 2 * c * levels[-1])
    assert found is not None
    assert found.exponent is not None
    assert (found.answer, found.level) == ("not monotone", pytest.approx(1 - share))
    np.testing.assert_allclose(
        [found.exponent.estimate, found.exponent.low, found.exponent.high], [slope, slope - error, slope + error],
        rtol=1e-7,
    )  # fmt: skip
    np.testing.assert_allclose(found.turns, [np.exp(-b / (2 * c))])


def test_contrasts_of_stretches_are_slopes_of_weighted_lines() -> None:
    u, counts = np.array([0.0, 0.13, 0.4, 0.55, 1.0]), np.array([2.0, 1.0, 3.0, 1.0, 4.0])
    windows, steps = trend._contrasts(tuple(u), tuple(counts))
    y, k = np.array([0.7, -0.2, 0.5, 1.9, 1.1]), 0
    for first in range(4):
        for last in range(first + 2, 6):
            own = slice(first, last)
            slope = np.polyfit(u[own], y[own], 1, w=counts[own] ** 0.5)[0]
            middle = np.average(u[own], weights=counts[own])
            assert windows[k] @ y == pytest.approx(slope * (counts[own] @ (u[own] - middle) ** 2) ** 0.5, rel=1e-9)
            k += 1
    assert len(windows) == k
    for j in range(3):
        a, b, c = u[j : j + 3]
        row = np.array([1 / ((a - b) * (a - c)), 1 / ((b - a) * (b - c)), 1 / ((c - a) * (c - b))])
        size = (row**2 @ (1 / counts[j : j + 3])) ** 0.5
        assert abs(steps[j] @ y) == pytest.approx(abs(row @ y[j : j + 3]) / size, rel=1e-9)
    draws = np.random.default_rng(20240).standard_normal((10_000, 5)) / counts**0.5
    steepest = (draws @ windows.T).max(1) / ((draws @ steps.T) ** 2).mean(1) ** 0.5
    assert trend._steepest_of_noise(tuple(u), tuple(counts), 0.06) == pytest.approx(np.quantile(steepest, 0.97))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_stretch_against_the_rest_and_its_interval(sign: float) -> None:
    t = np.array([0.2, 1.0, 2.1, 2.9, 4.2, 5.0, 6.3, 7.1, 8.0])
    y = sign * np.array([9.0, 8.1, 7.0, 6.2, 7.3, 8.4, 7.1, 6.0, 5.2])
    counts = np.array([1.0, 2.0, 1.0, 3.0, 1.0, 2.0, 1.0, 1.0, 2.0])
    found = trend._stretches(t, y, counts, 0.3)
    u = (t - 0.2) / 7.8
    windows, steps = trend._contrasts(tuple(u), tuple(counts))
    limit = trend._steepest_of_noise(tuple(np.round(u, 6)), tuple(counts), 0.3)
    noise = ((steps @ y) ** 2).mean() ** 0.5
    k = int(np.argmax(sign * (windows @ y)))
    places = np.flatnonzero(windows[k])
    own = slice(places[0], places[-1] + 1)
    slope = -np.polyfit(t[own], y[own], 1, w=counts[own] ** 0.5)[0]
    reach = limit * noise / (windows[k] @ t)
    assert found is not None
    assert found.exponent is not None
    np.testing.assert_allclose(
        [found.exponent.estimate, found.exponent.low, found.exponent.high], [slope, slope - reach, slope + reach]
    )
    np.testing.assert_allclose(found.turns, np.exp(t[[places[0], places[-1]]]))
    assert found.level == 0.7


def test_neighbouring_scales_are_averaged_to_24_groups() -> None:
    t = np.cumsum(np.linspace(0.5, 0.9, 30))
    y = -0.3 * t + 2.5 * np.exp(-((t - 11) ** 2) / 2)
    counts = np.resize([1.0, 3.0, 2.0], 30)
    group = np.array([k * 24 // 30 for k in range(30)])
    total = np.array([counts[group == k].sum() for k in range(24)])
    joined = [np.array([(counts * v)[group == k].sum() for k in range(24)]) / total for v in (t, y)]
    assert trend._stretches(t, y, counts, 0.2) == trend._stretches(*joined, total, 0.2)
    assert trend._stretches(t, y, counts, 0.2) is not None
    assert trend._stretches(t[:24], y[:24], counts[:24], 0.2) is not None


# ------------------------------------------------------------------------------------------ noise and refits


def _fitted(
    n: int, n_scales: int, residuals: np.ndarray, error: np.ndarray | None = None, p: int = 2
) -> SimpleNamespace:
    scale = np.arange(n) * n_scales // n
    observations = SimpleNamespace(n=n, n_scales=n_scales, scale=scale, error=error, log_loss=1.5 + residuals,
                                   scale_means=lambda v: np.bincount(scale, v) / np.bincount(scale))  # fmt: skip
    return SimpleNamespace(
        observations=observations, residuals=residuals, law=SimpleNamespace(n_parameters=p, name="line"),
        objective=LeastSquares(),
    )  # fmt: skip


@pytest.mark.parametrize(("wave", "pooled"), [(0.02, True), (0.3, False)])
def test_noise_within_and_between_scales(wave: float, pooled: bool) -> None:
    residuals = wave * np.array([1, 1, 1, -1, -1, 1, 1, -1, -1, -1, 1]) + 0.05 * np.array(
        [1, -1, 0.4, 0.7, -0.2, -0.9, 0.3, 0.5, -0.7, 0.1, 0.6])  # fmt: skip
    fit = _fitted(11, 5, residuals)
    parts = [residuals[fit.observations.scale == k] for k in range(5)]
    within = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    between = sum(len(part) * float(part.mean()) ** 2 for part in parts)
    found = uncertainty.residual_noise(fit)  # type: ignore[arg-type]
    assert found.has_replicates
    if pooled:
        assert (found.within, found.between, found.freedom) == (pytest.approx((within + between) / 9), 0.0, 9)
    else:
        assert (found.within, found.freedom) == (pytest.approx(within / 6), 3)
        assert found.between == pytest.approx((between / 3 - within / 6) / (11 / 5))
    alone = uncertainty.residual_noise(_fitted(5, 5, residuals[:5], p=3))  # type: ignore[arg-type]
    assert alone == uncertainty.Noise(pytest.approx(float(residuals[:5] @ residuals[:5]) / 2), 0.0, 2, False)
    error = np.linspace(0.01, 0.06, 11)
    known = uncertainty.residual_noise(_fitted(11, 5, residuals, error))  # type: ignore[arg-type]
    assert (known.between, known.freedom, known.has_replicates) == (0.0, 9, True)
    assert float((residuals**2 / (known.within + error**2)).sum()) == pytest.approx(9, rel=1e-6)
    sure = uncertainty.residual_noise(_fitted(11, 11, residuals, 9 * error + 9.0))  # type: ignore[arg-type]
    assert (sure.within, sure.has_replicates) == (pytest.approx(1e-12 * float(np.mean((9 * error + 9) ** 2))), False)


def test_weights_of_replicates() -> None:
    y, scale = np.array([0.3, 0.9, 1.4, 0.2, 0.5, 0.8]), np.array([0, 0, 0, 1, 1, 2])
    table = SimpleNamespace(log_loss=y, scale=scale, n=6, n_scales=3,
                            scale_means=lambda v: np.bincount(scale, v) / np.bincount(scale))  # fmt: skip
    first, second = float(np.var(y[:3]) * 3), float(np.var(y[3:5]) * 2)
    pooled = (first + second) / 3
    variance = [(pooled + first) / 3] * 3 + [(pooled + second) / 2] * 2 + [pooled]
    np.testing.assert_allclose(uncertainty.replicate_weights(table), pooled / np.array(variance))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n", "n_scales", "between", "error"),
    [(22, 22, 0.0, False), (22, 8, 0.03, False), (18, 6, 0.03, False), (23, 23, 0.0, True)],
)
def test_tables_about_a_curve_draw_by_draw(n: int, n_scales: int, between: float, error: bool) -> None:
    residuals = 0.1 * np.random.default_rng(3).standard_normal(n) + 0.02
    known = np.linspace(0.03, 0.12, n) if error else None
    fit, noise = _fitted(n, n_scales, residuals, known), uncertainty.Noise(0.02, between, 5, n_scales < n)
    found, spread = uncertainty._noisy_tables(fit, noise, 4, np.random.default_rng(6))  # type: ignore[arg-type]
    rng = np.random.default_rng(6)
    expected = (5 / rng.chisquare(5, 4)) ** 0.5
    if n >= 20:
        pool = residuals / np.sqrt(0.02 + known**2) if known is not None else residuals
        pool = pool - pool.mean()
        if between:
            means = fit.observations.scale_means(residuals)
            pool = residuals - means[fit.observations.scale]
        pool = pool / np.mean(pool**2) ** 0.5
        draws = rng.choice(pool, (4, n)) * rng.choice([-1.0, 1.0], (4, n))
    else:
        draws = rng.standard_normal((4, n))
    if known is not None:
        squares = rng.chisquare(5, 4)
        variance = uncertainty.run_variances(residuals, known, squares)
        expected = np.sqrt(variance / 0.02)
        moved = draws * np.sqrt(variance[:, None] + known**2)
    else:
        misfit = rng.standard_normal((4, n_scales))[:, fit.observations.scale]
        moved = (draws * 0.02**0.5 + misfit * between**0.5) * expected[:, None]
    np.testing.assert_allclose(spread, expected)
    np.testing.assert_allclose(found, 1.5 + moved)


def test_new_runs_about_the_refits() -> None:
    logs = np.array([[0.2, 0.9], [0.4, 0.7], [0.1, 1.3], [0.5, 0.8]])
    spread = np.array([0.8, 1.2, 1.7, 0.6])
    fit = SimpleNamespace(log_predict=lambda _x, _theta: logs, predict=lambda _x: np.array([1.33]))
    sample = uncertainty.Bootstrap(fit, np.zeros((4, 2)), spread, uncertainty.Noise(0.04, 0.01, 3, True), 0, "")  # type: ignore[arg-type]
    found = sample.predictive([1.0, 2.0], 0.7, np.random.default_rng(11), runs=3)
    own = np.random.default_rng(11).standard_normal((4, 2)) * (0.01 + 0.04 / 3) ** 0.5 * spread[:, None]
    np.testing.assert_allclose(found, np.quantile(np.exp(logs + own), [0.5, 0.15, 0.85], axis=0))
    one = np.random.default_rng(11).standard_normal((4, 2)) * 0.05**0.5 * spread[:, None]
    np.testing.assert_allclose(
        sample.predictive([1.0, 2.0], 0.7, np.random.default_rng(11)),
        np.quantile(np.exp(logs + one), [0.5, 0.15, 0.85], axis=0),
    )
    np.testing.assert_allclose(sample.curve([1.0, 2.0]), np.quantile(np.exp(logs), [0.5, 0.025, 0.975], axis=0))
    mean = sample.predict_mean(1.0, 0.7, 3, (2, 5))
    _, low, high = sample.predictive([1.0], 0.7, np.random.default_rng((2, 5)), runs=3)
    assert (mean.estimate, mean.low, mean.high) == (1.33, min(low[0], 1.33), max(high[0], 1.33))


# ------------------------------------------------------------------------------------------ penalties and samples


def test_hubers_deviance_is_that_of_its_density() -> None:
    """-2 log likelihood, the scale that makes it least among many; the normalising integral is summed."""
    huber, total, n = LogHuber(0.3), 1.7, 12.0
    r = np.linspace(-30, 30, 60_001)
    rho = np.where(np.abs(r) <= 0.3, r**2 / 2, 0.3 * (np.abs(r) - 0.15))
    found = [2 * (total / s + n * np.log(np.exp(-rho / s).sum() * 0.001)) for s in np.geomspace(0.03, 0.6, 60)]
    assert huber.deviance(total, n) == pytest.approx(min(found), abs=2e-2)
    assert huber.deviance(total, n) <= min(found) + 1e-4
    assert LeastSquares().deviance(1.7, 12.0) == pytest.approx(12 * (np.log(2 * np.pi * 3.4 / 12) + 1))


def test_weighted_penalties() -> None:
    r, w = np.array([-0.9, -0.2, 0.0, 0.15, 0.7]), np.array([1.3, 0.4, 2.2, 0.9, 1.7])
    core = np.abs(r) <= 0.3
    value = np.where(core, r**2 / 2, 0.3 * (np.abs(r) - 0.15))
    slope = np.where(core, r, 0.3 * np.sign(r))
    ratio = np.where(core, 1.0, 0.3 / np.maximum(np.abs(r), 0.3))
    np.testing.assert_allclose(objective.weighted(LogHuber(0.3), r, w), [w * value, w * slope, w * core, w * ratio])
    np.testing.assert_allclose(LogHuber(0.3).penalty(r), [value, slope, core, ratio])
    np.testing.assert_allclose(objective.weighted(LeastSquares(), r, w), [w * r**2 / 2, w * r, w, w])


@pytest.mark.parametrize("most", [3, 7, 11, 16, 22, 30, 40])
def test_parts_of_a_table_share_what_is_kept(most: int) -> None:
    """One row more for each part in turn that has more, until so many are kept; what is left over from the first on."""
    counts = np.array([9, 2, 5, 14, 1])
    shares = np.zeros(5, int)
    while shares.sum() < min(most, counts.sum()):
        open_parts = np.flatnonzero(counts > shares)
        shares[open_parts[: most - shares.sum()]] += 1
    assert thinning._shares(counts, most).tolist() == shares.tolist()


def test_rows_are_drawn_from_every_part() -> None:
    rng = np.random.default_rng(2)
    table = Table({"x": np.repeat([2.0, 5.0, 11.0, 40.0], [30, 3, 17, 9]), "loss": rng.random(59) + 1}, "made")
    kept = thinning.sampled(table, ["x"], most=23)
    order = generator(0, "laws.sample", 0).random(59)
    rows = []
    for value, share in ((2.0, 7), (5.0, 3), (11.0, 7), (40.0, 6)):  # 3 whole, then 20 over three
        own = np.flatnonzero(table.numbers("x") == value)
        rows += own[np.argsort(order[own])[:share]].tolist()
    np.testing.assert_array_equal(kept.numbers("loss"), table.numbers("loss")[sorted(rows)])
    assert thinning.sampled(table, ["x"], most=59) is table
    assert thinning.sampled(table, ["x"]) is table


def test_bins_of_a_scale_are_halved_until_they_are_half_as_many_as_rows() -> None:
    values = np.exp(np.random.default_rng(7).random(300) * 5)
    found = thinning._strata([values], np.zeros(300), 40)
    logs = np.log(values)
    expected = np.floor((logs - logs.min()) / np.ptp(logs) * 16 * (1 - 1e-12))  # 64 and 32 are more than 20
    np.testing.assert_array_equal(found, np.unique(expected, return_inverse=True)[1])
    whole = thinning._strata([np.repeat([3.0, 7.0, 19.0], 4)], np.resize([1.0, 2.0], 12), 12)
    assert whole.tolist() == [0, 3, 0, 3, 1, 4, 1, 4, 2, 5, 2, 5]


# ------------------------------------------------------------------------------------------ the law of a share


def test_trends_of_a_share_are_its_slopes() -> None:
    covariance = np.zeros((5, 5))
    covariance[1, 1], covariance[2, 2] = 0.09, 0.0004
    fit = ShareFit(Form("logistic"), np.array([0.3, 1.4, -0.25, 0.0, 0.0]), covariance, 0.02, 1.0, 6, True)
    t, y = np.random.default_rng(1).random((9, 2)), np.linspace(0.2, 0.7, 9)
    for flipped, sign in ((False, -1), (True, 1)):
        found = share_analysis._trends(t, y, fit, ("N", "D"), Metric("m", flipped), 0.8)
        for name, slope, error in (("N", 1.4, 0.3), ("D", -0.25, 0.02)):
            reach, exponent = stdtrit(6, 0.9) * error, found[name].exponent
            assert exponent is not None
            ends = (sign * slope - reach, sign * slope + reach)
            assert (exponent.estimate, exponent.low, exponent.high) == pytest.approx((sign * slope, *ends))
        assert [found[name].answer for name in ("N", "D")] == (["falls", "rises"] if flipped else ["rises", "falls"])


def test_criteria_of_shapes_at_one_noise() -> None:
    t = np.linspace(0, 4, 9)[:, None]
    y = 0.15 + 0.7 / (1 + np.exp(3 - 1.6 * t[:, 0])) + 0.02 * np.array([1, -1, 0.5, 1, -0.7, 0.2, -1, 0.8, -0.3])
    trials = np.linspace(200.0, 600.0, 9)
    for counted in (trials, np.full(9, np.inf)):
        fits = {form.name: shares.fit_share(form, t, y, counted) for form in shares.forms_of(None)}
        found = share_analysis._criteria(fits, t, y, counted)
        widest = fits["logistic_both"]
        rho = shares.between_runs(shares.curve(widest.theta[None], t)[0], y, counted, 5)
        rho = rho if counted is trials else max(rho, 1e-10)
        for name, k in (("logistic", 3), ("logistic_floor", 4), ("logistic_ceiling", 4), ("logistic_both", 5)):
            deviance = shares.fit_share(fits[name].form, t, y, counted, rho).deviance
            assert found[name] == pytest.approx(deviance + 2 * k + 2 * k * (k + 1) / (8 - k))
    few = {"logistic": shares.fit_share(Form("logistic"), t[:4], y[:4], trials[:4])}
    assert share_analysis._criteria(few, t[:4], y[:4], trials[:4]) == {"logistic": 0.0}


def test_the_tail_of_a_share_and_its_last_value() -> None:
    x, at = np.array([3.0, 5.0, 6.2, 6.2, 9.0, 9.0, 10.0]), np.array([17.0, 31.0])
    p = np.array([0.1, 0.25, 0.3, 0.36, 0.4, 0.52, 0.61])
    found = share_backtest._baselines(x, p, at, Metric("err", True, 100.0))
    own = x >= 5.0
    slope, constant = np.polyfit(np.log(x[own]), np.log(p[own] / (1 - p[own])), 1)
    line = 1 / (1 + np.exp(-(constant + slope * np.log(at))))
    np.testing.assert_allclose(found["tail line"][0], 100 * (1 - line))  # type: ignore[index]
    np.testing.assert_allclose(found["last value"][0], [39.0, 39.0])  # type: ignore[index]
    far = share_backtest._baselines(np.array([1.0, 2.9, 7.0]), np.array([0.2, 0.3, 0.5]), at, Metric("acc"))
    slope = np.log(7 / 3) / np.log(7 / 2.9)
    np.testing.assert_allclose(far["tail line"][0], 1 / (1 + (at / 7) ** -slope))  # type: ignore[index]


# ------------------------------------------------------------------------------------------ verdicts


def test_trends_along_scales_hold_the_others_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a grid a cubic in each of the others, in standard units, and their products; on a grid each block's own."""
    calls: list[tuple[np.ndarray, ...]] = []

    def tested(t: np.ndarray, y: np.ndarray, cell: np.ndarray, level: float, held: np.ndarray) -> str:
        calls.append((t, y, cell, np.asarray(level), held))
        return f"trend {len(calls)}"

    monkeypatch.setattr(verdict, "trend_test", tested)
    monkeypatch.setattr(verdict, "turn_test", lambda *given: calls.append(given))
    logs = np.random.default_rng(5).random((9, 3)) * 3 + 1
    table = SimpleNamespace(
        x_names=("N", "D", "U"), log_x=logs, log_loss=np.linspace(2, 1, 9) ** 2, n_scales=9, scale=np.arange(9)
    )
    assert verdict.axis_trends(table, 0.9) == {"N": "trend 1", "D": "trend 2", "U": "trend 3"}  # type: ignore[arg-type]
    for axis, others in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        z = (logs[:, others] - logs[:, others].mean(0)) / logs[:, others].std(0)
        np.testing.assert_allclose(calls[axis][0], logs[:, axis])
        np.testing.assert_allclose(calls[axis][4], np.column_stack([np.ones(9), z, z**2, z**3, z[:, 0] * z[:, 1]]))
    calls.clear()
    grid = np.array([[0.3, 1.0], [0.3, 2.0], [1.1, 1.0], [1.1, 2.0], [1.9, 1.0], [1.9, 2.0]])
    y = np.array([3.0, 2.5, 2.2, 1.9, 1.7, 1.2])
    flat = SimpleNamespace(x_names=("N", "D"), log_x=grid, log_loss=y, n_scales=6, scale=np.arange(6))
    found = verdict.axis_trends(flat, 0.8)  # type: ignore[arg-type]
    assert list(found) == ["N", "D"]
    (t, left, level), (_, whole, cell, _, held) = calls[:2]
    np.testing.assert_allclose(t, grid[:, 0])
    np.testing.assert_allclose(left, y - np.resize([np.mean(y[::2]), np.mean(y[1::2])], 6))
    np.testing.assert_allclose(whole, y)
    np.testing.assert_allclose(held, np.tile(np.eye(2), (3, 1)))
    assert (level, cell.tolist()) == (0.8, [0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(calls[3][4], np.repeat(np.eye(3), 2, axis=0))


@pytest.mark.parametrize("waves", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_neighbouring_residuals_against_those_of_noise(waves: float) -> None:
    n = 9
    t = np.linspace(0.0, 4.0, n)[:, None]
    residuals = 0.05 * np.cos(2 * np.pi * waves * t[:, 0] / 4.3) + 0.003 * np.arange(n)
    counts = np.array([1, 2, 1, 3, 1, 1, 2, 1, 1])
    line = SimpleNamespace(jacobian=lambda theta, x: (None, np.column_stack([np.ones(n), x[:, 0]])[None]))
    table = SimpleNamespace(scale=np.repeat(np.arange(n), counts), scales=np.exp(t), scale_means=lambda v: v)
    fit = SimpleNamespace(
        observations=table, theta=np.zeros(2), t_ref=np.array([1.7]), residuals=residuals,
        law=SimpleNamespace(curve=line),
    )  # fmt: skip
    design = np.column_stack([np.ones(n), t[:, 0] - 1.7]) * counts[:, None] ** 0.5
    project = np.eye(n) - design @ np.linalg.inv(design.T @ design) @ design.T
    left = project @ (residuals * counts**0.5)
    noise = np.random.default_rng(20240).standard_normal((2000, n)) @ project
    null = (noise[:, 1:] * noise[:, :-1]).sum(1) / (noise**2).sum(1)
    p = np.mean(null >= left[1:] @ left[:-1] / (left @ left))
    assert verdict.describes(fit) == (p > 0.01)  # type: ignore[arg-type]


def test_the_slope_at_the_largest_scale() -> None:
    theta = np.array([0.2, 0.9, 0.4, 0.55])

    def logs(x: object, own: np.ndarray | None = None) -> np.ndarray:
        return -np.outer(theta if own is None else own, np.log(np.asarray(x, float)) ** 2)

    fit = SimpleNamespace(
        observations=SimpleNamespace(x=np.array([[3.0], [20.0], [7.0]])),
        log_predict=lambda x: logs(x, np.array([0.37]))[0],
    )
    found = verdict.end_exponent(SimpleNamespace(fit=fit, log_curves=logs), 0.6)  # type: ignore[arg-type]
    steep = 2 * np.log(20.0) - 0.01
    assert found.estimate == pytest.approx(0.37 * steep)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(theta * steep, [0.2, 0.8])))


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_a_bend_on_both_sides_of_what_is_named(level: float) -> None:
    held = np.column_stack([np.ones(10), T])

    def margin(bend: float) -> tuple[float, bool]:
        y = Y + bend * (T - 3.5) ** 2
        found = trend._contrast(T, y, CELL, held, np.array(BENDS[1:]), np.ones(4))
        assert found is not None
        k = int(np.argmax(np.abs(found[0])))
        up = found[0][k] * np.sign(BENDS[k + 1]) > 0
        p = 2 * stdtr(found[1][k], -abs(found[0][k])) / np.quantile(found[3], 1.4 * (1 - level))
        return p if up else np.inf, trend.bends_upward(T, y, CELL, level)

    low, high = -0.05, 0.1
    for _ in range(15):
        middle = (low + high) / 2
        low, high = (low, middle) if margin(middle)[0] < 1 else (middle, high)
    assert (margin(low)[1], margin(high)[1]) == (False, True)
    assert margin(high)[0] > 0.98


def test_a_parabola_is_no_turn_where_a_monotone_curve_fits_as_well() -> None:
    """Ends that both are steep enough; what a monotone curve fits worse, against the square of Student's quantile."""
    outcomes = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        t = np.array([0.0, 1.0, 2.2, 3.1, 4.0, 5.3, 6.1])
        y = 0.03 * (t - 3.6) ** 2 + 0.08 * rng.standard_normal(7)
        u = t / 6.1
        design = np.column_stack([np.ones(7), u, u**2])
        (_, b, c), squares, *_ = np.linalg.lstsq(design, y, rcond=None)
        variance, reach = squares[0] / 4, stdtrit(4, 0.9)
        inverse = np.linalg.inv(design.T @ design)
        ends = [(b + 2 * c * at) / (variance * np.array([0, 1, 2 * at]) @ inverse @ np.array([0, 1, 2 * at])) ** 0.5
                for at in (0.0, 1.0)]  # fmt: skip
        gain = min(((y - isotonic_regression(y, increasing=up).x) ** 2).sum() for up in (True, False)) - squares[0]
        expected = min(-ends[0], ends[1]) > reach and gain / variance >= reach**2
        found = trend._parabola(t, y, np.ones(7), 0.0, 0, 0.2)
        assert (found is not None) == expected
        outcomes.add((expected, bool(min(-ends[0], ends[1]) > reach), bool(gain / variance >= reach)))
    assert {(True, True, True), (False, True, True)} <= outcomes


# ------------------------------------------------------------------------------------------ the delta method


X = np.array([2.0, 3.5, 3.5, 9.0, 17.0, 40.0, 40.0])
REF = np.array([1.8])
UNITS = np.array([[1.0, 0.7], [0.0, 1.3]])  # of centred to user's coded parameters


def _curve_fit(error: np.ndarray | None, robust: bool) -> SimpleNamespace:
    theta = np.array([0.4, 0.25])

    def jacobian(own: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value = own[0, 0] + np.exp(-own[0, 1] * t[:, 0])
        return value[None], np.column_stack([np.ones(len(t)), -t[:, 0] * np.exp(-own[0, 1] * t[:, 0])])[None]

    scale = np.array([0, 1, 1, 2, 3, 4, 4])
    residuals = np.array([0.05, -0.03, 0.06, 0.02, -0.07, 0.04, -0.01])
    law = SimpleNamespace(
        n_parameters=2, curve=SimpleNamespace(jacobian=jacobian), positive=(True, False),
        decode=lambda coded: np.array([np.exp(coded[0]), coded[1]]),
        units=lambda own, ref: own @ UNITS.T + np.array([0.31, ref[0] * 0.2]),
    )  # fmt: skip
    table = SimpleNamespace(
        n=7, n_scales=5, n_axes=1, scale=scale, error=error, log_x=np.log(X)[:, None],
        scale_means=lambda v: np.bincount(scale, v) / np.bincount(scale),
    )  # fmt: skip
    return SimpleNamespace(
        observations=table, residuals=residuals, law=law, theta=theta, t_ref=REF, parameters={"A": 1.9, "b": 0.6},
        weights=np.array([1.3, 0.6, 0.9, 1.1, 0.8, 1.6, 0.7]), objective=LogHuber() if robust else LeastSquares(),
    )  # fmt: skip


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_the_delta_method_in_matrices(known: bool, robust: bool) -> None:
    error = np.array([0.02, 0.05, 0.03, 0.06, 0.04, 0.07, 0.025]) if known else None
    fit, factor = _curve_fit(error, robust), np.pi / 2 if robust else 1.0
    noise = uncertainty.residual_noise(fit)  # type: ignore[arg-type]
    given = uncertainty.Noise(0.013, 0.007, 3, True)
    t = np.log(X) - 1.8
    jacobian = np.column_stack([np.ones(7), -t * np.exp(-0.25 * t)])
    inverse = np.linalg.inv(jacobian.T @ np.diag(fit.weights) @ jacobian)

    def covariance(noise: uncertainty.Noise) -> np.ndarray:
        if error is None:
            return np.asarray(factor * inverse * (noise.within + noise.between * 7 / 5))
        rows = inverse @ jacobian.T @ np.diag(fit.weights)
        return np.asarray(factor * rows @ np.diag(noise.within + error**2) @ rows.T)

    for own, passed in ((noise, None), (given, given)):
        np.testing.assert_allclose(uncertainty.delta_covariance(fit, passed), covariance(own))  # type: ignore[arg-type]
    np.testing.assert_allclose(uncertainty.unit_matrix(fit), UNITS)  # type: ignore[arg-type]
    reach = stdtrit(noise.freedom, 0.9) * np.diag(UNITS @ covariance(noise) @ UNITS.T) ** 0.5
    coded = UNITS @ fit.theta + [0.31, 0.36]
    found = uncertainty.delta_intervals(fit, 0.8)  # type: ignore[arg-type]
    for k, (name, decode) in enumerate((("A", np.exp), ("b", float))):
        assert found[name]["estimate"] == fit.parameters[name]
        assert found[name]["low"] == pytest.approx(decode(coded[k] - reach[k]))
        assert found[name]["high"] == pytest.approx(decode(coded[k] + reach[k]))
    assert uncertainty.delta_intervals(fit) == uncertainty.delta_intervals(fit, 0.95)  # type: ignore[arg-type]
    at = np.array([5.0, 90.0])
    own = np.column_stack([np.ones(2), -(np.log(at) - 1.8) * np.exp(-0.25 * (np.log(at) - 1.8))])
    value = 0.4 + np.exp(-0.25 * (np.log(at) - 1.8))
    variance = np.array([row @ covariance(noise) @ row for row in own]) + noise.within + noise.between
    for level, said in ((0.7, (0.7,)), (0.9, ())):
        away = stdtrit(noise.freedom, (1 + level) / 2) * variance**0.5
        np.testing.assert_allclose(
            uncertainty.delta_prediction(fit, at, *said),  # type: ignore[arg-type]
            np.exp([value, value - away, value + away]),
        )


@pytest.mark.parametrize("kind", ["runs", "residuals"])
def test_what_is_asked_of_a_bootstrap(kind: str) -> None:
    fit = _curve_fit(None, False)
    table = fit.observations
    table.n_runs, table.run, table.log_loss = 4, np.array([0, 1, 1, 2, 3, 3, 0]), np.linspace(2, 1, 7)
    fit.law.name = "line"
    steps = uncertainty.bootstrap.steps(fit, 5, seed=13, kind=kind)
    asked = next(steps)
    rng = np.random.default_rng([13, 101])
    if kind == "runs":
        draws = rng.multinomial(4, [0.25] * 4, 5)
        np.testing.assert_allclose(asked.weights, [[row[r] * w for r, w in zip(table.run, fit.weights, strict=True)]
                                                   for row in draws])  # fmt: skip
        np.testing.assert_allclose(asked.y, table.log_loss[None])
        spread = np.ones(5)
    else:
        targets, spread = uncertainty._noisy_tables(fit, uncertainty.residual_noise(fit), 5, rng)
        np.testing.assert_allclose(asked.y, targets)
        np.testing.assert_allclose(asked.weights, fit.weights[None])
    np.testing.assert_allclose(asked.t, (np.log(X) - 1.8)[:, None])
    np.testing.assert_allclose(asked.starts, np.tile(fit.theta, (5, 1)))
    assert (asked.max_iterations, asked.exact, asked.stall_share, asked.prior) == (200, False, 1e-6, None)
    theta = np.arange(10.0).reshape(5, 2)
    theta[1, 0] = np.nan
    with pytest.raises(StopIteration) as end:
        steps.send(SimpleNamespace(theta=theta, value=np.array([1.0, 1.0, np.inf, 1.0, 1.0])))
    made = end.value.value
    assert (made.theta.tolist(), made.n_failed) == ([[0, 1], [6, 7], [8, 9]], 2)
    np.testing.assert_allclose(made.spread, spread[[0, 3, 4]])


def test_a_pool_of_a_robust_fit_leaves_out_the_rows_it_passes_through() -> None:
    residuals = np.array([0.01, -0.6, 0.3, -0.02, 0.9, -0.4, 0.25])
    fit = SimpleNamespace(residuals=residuals, objective=LogHuber(0.1), law=SimpleNamespace(n_parameters=3))
    centred = residuals - 0.05
    kept = np.array([0.3, -0.4, -0.6, 0.9]) - 0.05
    np.testing.assert_allclose(uncertainty._pool(fit, centred), kept / np.mean(kept**2) ** 0.5)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ requests and schedules


def test_a_prior_adds_a_parabola() -> None:
    rng = np.random.default_rng(0)
    local = Local(rng.random(3), rng.random((3, 2)), rng.random((3, 2, 2)), rng.random((3, 2)))
    theta, mean, precision = rng.random((3, 2)), np.array([0.3, -0.7]), np.array([2.5, 0.4])
    found = solving._with_prior(local, theta, mean, precision)
    for k in range(3):
        away = theta[k] - mean
        assert found.value[k] == pytest.approx(local.value[k] + (2.5 * away[0] ** 2 + 0.4 * away[1] ** 2) / 2)
        np.testing.assert_allclose(found.gradient[k], local.gradient[k] + away * precision)
        np.testing.assert_allclose(found.hessian[k], local.hessian[k] + np.array([[2.5, 0], [0, 0.4]]))
        np.testing.assert_allclose(found.stiffness[k], local.stiffness[k] + precision)


@pytest.mark.parametrize("weights", [False, True])
def test_columns_of_a_batch(weights: bool) -> None:
    """Two starts share the first table of 2 rows; the second has 3 starts with rows of their own."""
    first, second = np.array([[2.0, 3.0]]), np.array([[4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [1.5, 2.5, 3.5]])
    columns = solving._Columns([first, second], [2, 3], 4, weights)
    found = columns.of(np.array([4, 0, 1, 2]))
    fill = [0, 0, 0, 0] if weights else [1.5, 2, 2, 4]
    np.testing.assert_allclose(found, [[1.5, 2, 2, 4], [2.5, 3, 3, 5], [3.5, fill[1], fill[2], 6], fill])


@pytest.mark.parametrize(
    ("text", "at"),
    [("linear:peak=0.3,steps=9,warmup=3,end=0.2", lambda g: 1 - 0.8 * g),
     ("cosine:peak=0.3,steps=9,warmup=3", lambda g: 0.1 + 0.9 * (1 + np.cos(np.pi * g)) / 2),
     ("constant:peak=0.3,steps=9,warmup=3", lambda g: 1.0)],
)  # fmt: skip
def test_named_rates(text: str, at: Any) -> None:
    found = Schedule.named(text)
    expected = [0.1, 0.2, 0.3, *(0.3 * at(k / 6) for k in range(1, 7))]
    np.testing.assert_allclose(found.rates, expected)
    assert (found.warmup, found.sum_unit) == (2, 1.0)


def test_named_rates_that_decay_at_the_end() -> None:
    found = Schedule.named("wsd:peak=0.4,steps=11,warmup=2,end=0.3,decay=0.35")  # 11 * 0.65 = 7.15: from step 7 on
    np.testing.assert_allclose(found.rates, [0.2, *[0.4] * 6, *(0.4 * (1 - 0.7 * k / 4) for k in (1, 2, 3, 4))])
    found = Schedule.named("wsd:peak=0.4,steps=10")
    np.testing.assert_allclose(found.rates, [*[0.4] * 8, 0.4 * 0.55, 0.04])
    np.testing.assert_allclose(found.scaled(0.2, 7.0).rates, found.rates / 0.2)
    np.testing.assert_allclose(found.scaled(0.2, 7.0).summed, np.cumsum(found.rates) / 7.0)


def test_rates_before_the_first_that_is_known() -> None:
    """They rise from 0 at step 0; the warm-up ends at 99.9 % of the largest rate."""
    found = Schedule.of([8, 3, 5], [0.5, 0.6, 0.9])
    np.testing.assert_allclose(found.rates, [0.2, 0.4, 0.6, 0.75, 0.9, 0.9 - 0.4 / 3, 0.9 - 0.8 / 3, 0.5])
    assert found.warmup == 4
    assert Schedule.of([1, 2, 3], [0.5, 0.9992, 1.0]).warmup == 1
    assert Schedule.of([1, 2, 3], [0.5, 0.9988, 1.0]).warmup == 2
    np.testing.assert_allclose(Schedule.of([1, 3], [0.5, 0.7]).rates, [0.5, 0.6, 0.7])
    np.testing.assert_allclose(Schedule.of([0, 2], [0.5, 0.7]).rates, [0.6, 0.7])


# ------------------------------------------------------------------------------------------ searches step by step


@pytest.mark.parametrize("given", [False, True])
def test_passes_of_a_fit_of_rates_until_the_weight_stays(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stubbed searches end at offsets of ln loss that are known; each begins where the one before it ended."""
    schedule, steps = Schedule(np.linspace(1.3, 0.4, 40), 0), np.arange(1, 41)
    path = multi_power.Path.of(schedule, steps)
    bottom = np.zeros(7)
    log_curve = np.log(multi_power.curve_of(bottom, path)[0])
    signs = np.array([0.3, 1.0, 1.7, 0.8])[np.arange(40) % 4] * np.repeat([1, 1, 1, -1], 10)
    loss = np.exp(log_curve - 0.02 * signs)  # residuals of the law with theta 0
    asked: list[tuple[np.ndarray, float]] = []

    def search(fun: Any, begin: np.ndarray, jac: Any, **options: Any) -> SimpleNamespace:
        residuals = fun(bottom)
        weight = 0.02 * signs[0] / residuals[0]
        asked.append((np.asarray(begin), weight))
        np.testing.assert_allclose(residuals[:40], 0.02 * signs / weight, rtol=1e-6)
        low = np.log(loss).min()
        np.testing.assert_allclose(residuals[40:], -(PRIOR[0] + np.array([low, 0, low, 0, 0, 0])) / PRIOR[1])
        moved = [(fun(step) - fun(-step)) / 2e-6 for step in 1e-6 * np.eye(7)]
        np.testing.assert_allclose(jac(bottom), np.transpose(moved), rtol=1e-5, atol=1e-4)
        assert options == {"method": "trf", "loss": "huber", "f_scale": 2.0, "max_nfev": 60, "xtol": 1e-12,
                           "ftol": 1e-12, "gtol": 1e-12}  # fmt: skip
        return SimpleNamespace(x=bottom, cost=float(-len(asked)))

    monkeypatch.setattr(schedule_fit, "least_squares", search)
    start = np.full(7, 0.2)
    _, _, noise = schedule_fit._minimise([path], [loss], start if given else None)
    assert noise == pytest.approx(1.4826 * 0.02 * 0.9)
    correlation = signs[1:] @ signs[:-1] / (signs @ signs)
    weight = noise * ((1 + correlation) / (1 - correlation)) ** 0.5
    low = np.log(loss).min()
    mean = PRIOR[0] + np.array([low, 0, low, 0, 0, 0])
    first = [(start, 0.01)] if given else [
        (np.r_[low + np.log(0.9), mean], 0.01), (np.r_[low + np.log(0.9), mean + np.eye(6)[1] / 2], 0.01),
        (bottom, 0.01)]  # fmt: skip
    expected = [*first, (bottom, weight)]
    assert len(asked) == len(expected)
    for one, other in zip(asked, expected, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-9)
        assert one[1] == pytest.approx(other[1], rel=1e-6)


@pytest.mark.parametrize(("alternating", "expected"), [(False, 0.95), (True, 0.0)])
def test_how_alike_neighbours_count(alternating: bool, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, steps = Schedule(np.linspace(1.3, 0.4, 60), 0), np.arange(1, 61)
    path, theta = multi_power.Path.of(schedule, steps), np.array([0.2, -0.5, -0.7, -0.3, 0.4, -0.2, 0.5])
    value, jacobian = multi_power.curve_of(theta, path)
    away = 0.05 * (-1.0) ** (np.arange(60) * alternating)
    monkeypatch.setattr(schedule_fit, "least_squares", lambda *_, **__: SimpleNamespace(x=theta, cost=1.0))
    _, covariance, noise = schedule_fit._minimise([path], [value * np.exp(-away)], theta)
    slope = jacobian / value[:, None]
    weight = noise**2 * (1 + expected) / (1 - expected)
    information = slope.T @ slope / weight + np.diag([0, *PRIOR[1] ** -2.0])
    assert noise == pytest.approx(1.4826 * 0.05)
    np.testing.assert_allclose(covariance, np.linalg.inv(information), rtol=1e-6)


@pytest.mark.parametrize("counted", [False, True])
def test_the_noise_between_runs_and_the_shape_agree(counted: bool) -> None:
    """Where rho is estimated, the shape is that of this rho, and Pearson's sum there is its degrees of freedom."""
    t = np.linspace(3.0, 7.0, 8)[:, None]
    y = 0.1 + 0.8 / (1 + np.exp(6.5 - 1.4 * t[:, 0])) + 0.06 * np.array([1, -1, 1, 0.5, -0.8, -0.4, 1, -0.9])
    trials = np.linspace(150.0, 420.0, 8) if counted else np.full(8, np.inf)
    for form, spare in ((Form("a"), 6), (Form("b", 0.1), 6), (Form("c", None), 5)):
        fit = shares.fit_share(form, t, y, trials)
        p = shares.curve(fit.theta[None], t)[0]
        pearson = ((y - p) ** 2 / (p * (1 - p)) / (fit.between + (1 - fit.between) / trials)).sum()
        assert (fit.freedom, pearson) == (spare, pytest.approx(spare, rel=1e-3))
        again = shares.fit_share(form, t, y, trials, fit.between)
        np.testing.assert_allclose(again.theta, fit.theta, rtol=1e-3)
    assert shares.fit_share(Form("c", None), t[:3], y[:3], trials[:3], 0.02).freedom == 1


@pytest.mark.parametrize(("counted", "expected"), [(False, 1e-10), (True, 0.0)])
def test_criteria_of_an_exact_table(counted: bool, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    t = np.linspace(1.0, 4.0, 7)[:, None]
    fit = ShareFit(Form("logistic"), np.array([-2.0, 0.9, 0.0, 0.0]), np.zeros((4, 4)), 0.3, 1.0, 5, True)
    asked = []

    def fitted(form: Form, t: np.ndarray, y: np.ndarray, trials: np.ndarray, between: float) -> SimpleNamespace:
        asked.append(between)
        return SimpleNamespace(deviance=4.25)

    monkeypatch.setattr(share_analysis, "fit_share", fitted)
    y, trials = shares.curve(fit.theta[None], t)[0], np.full(7, 90.0 if counted else np.inf)
    assert share_analysis._criteria({"logistic": fit}, t, y, trials) == {"logistic": 4.25 + 6 + 24 / 3}
    assert asked == [expected]


@pytest.mark.parametrize("flipped", [False, True])
def test_turns_of_a_share_are_those_of_its_odds(flipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(share_analysis, "turn_test", lambda *asked: given.append(asked))
    fit = ShareFit(Form("logistic"), np.array([0.3, 1.4, 0.0, 0.0]), np.diag([0.1, 0.04, 0, 0]), 0.02, 1.0, 4, True)
    y = np.array([0.0, 0.3, 0.55, 0.8, 1.0])
    share_analysis._trends(np.arange(5.0)[:, None] * 0.7, y, fit, ("N",), Metric("m", flipped), 0.85)
    squeezed = (4 * y + 0.5) / 5
    np.testing.assert_allclose(given[0][0], np.arange(5) * 0.7)
    np.testing.assert_allclose(given[0][1], (-1 if flipped else 1) * np.log(squeezed / (1 - squeezed)))
    assert given[0][2] == 0.85


def test_covariance_of_what_is_fitted_inside_its_bounds() -> None:
    z, weight, free = np.array([[-1.2], [0.1], [0.7], [1.5]]), np.array([30.0, 12.0, 50.0, 21.0]), np.array([True] * 4)
    for c, m, inside in (
        (0.2, 0.1, [0, 1, 2, 3]),
        (0.0, 0.1, [0, 1, 3]),
        (0.2, 0.0, [0, 1, 2]),
        (0.02, 0.95, [0, 1, 2]),
    ):
        theta = np.array([0.4, 0.9, c, m])
        rising = 1 / (1 + np.exp(-0.4 - 0.9 * z[:, 0]))
        p, slope = c + (1 - c - m) * rising, (1 - c - m) * rising * (1 - rising)
        jacobian = np.column_stack([slope, slope * z[:, 0], 1 - rising, -rising])
        information = jacobian.T @ np.diag(weight / (p * (1 - p))) @ jacobian + np.diag([1 / 3600, 0.01, 1, 1])
        expected = np.zeros((4, 4))
        expected[np.ix_(inside, inside)] = np.linalg.inv(information[np.ix_(inside, inside)])
        np.testing.assert_allclose(shares._covariance(theta, free, z, weight), expected, rtol=1e-9)
    held = shares._covariance(np.array([0.4, 0.9, 0.2, 0.1]), np.array([True, True, False, False]), z, weight)
    assert not held[2:].any()
    assert not held[:, 2:].any()


@pytest.mark.parametrize("counted", [False, True])
def test_passes_of_a_shape_until_the_noise_stays(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stubbed noise: five passes at most, one more than it takes for rho to stay within a millionth of itself."""
    t, y = np.linspace(1.0, 3.0, 6)[:, None], np.array([0.2, 0.3, 0.45, 0.5, 0.7, 0.75])
    trials = np.full(6, 40.0 if counted else np.inf)
    for noises, expected, end in (
        ([0.3, 0.2, 0.2 * (1 + 5e-6), 0.25, 0.26], 5, 0.26), ([0.3, 0.2, 0.2 * (1 + 5e-7)], 3, 0.2),
        ([0.0, 0.0], 1 if counted else 2, 0.0 if counted else 1e-10),
    ):  # fmt: skip
        left, used = list(noises), []
        monkeypatch.setattr(shares, "between_runs", lambda *_, left=left: left.pop(0))
        whole = shares._scored

        def scored(*given: Any, used: list[float] = used, whole: Any = whole) -> Any:
            used.append(given[4][0])
            return whole(*given)

        monkeypatch.setattr(shares, "_scored", scored)
        fit = shares.fit_share(Form("logistic"), t, y, trials)
        monkeypatch.setattr(shares, "_scored", whole)
        before = [0.0 if counted else 0.01, *noises][:expected]
        size = [rho + (1 - rho) / trials[0] for rho in (max(one, 0.0 if counted else 1e-10) for one in before)]
        np.testing.assert_allclose(used, 1 / np.array(size), rtol=1e-9)
        assert fit.between == pytest.approx(end, rel=1e-5)


def _wavy(n: int, lean: float, twice: bool = False) -> tuple[SimpleNamespace, float]:
    """A fit of a line whose residuals are noise with some of the neighbour's, and its statistic."""
    t = np.linspace(0.0, 5.0, n)[:, None]
    noise = np.random.default_rng(9).standard_normal(n)
    residuals = 0.05 * (noise + lean * np.concatenate([[0.0], noise[:-1]]))
    columns = [np.ones(n), 1e-3 * t[:, 0], *([1e-3 * t[:, 0]] if twice else [])]
    line = SimpleNamespace(jacobian=lambda theta, x: (None, np.column_stack(columns)[None]))
    table = SimpleNamespace(scale=np.arange(n), scales=np.exp(t), scale_means=lambda v: v)
    fit = SimpleNamespace(observations=table, theta=np.zeros(2), t_ref=np.zeros(1), residuals=residuals,
                          law=SimpleNamespace(curve=line))  # fmt: skip
    design = np.column_stack(columns[:2])
    left = residuals - design @ np.linalg.lstsq(design, residuals, rcond=None)[0]
    return fit, float(left[1:] @ left[:-1] / (left @ left))


@pytest.mark.parametrize("n", [301, 400])
def test_of_many_scales_the_statistic_is_normal(n: int) -> None:
    outcomes = set()
    for lean in np.linspace(0.0, 0.3, 13):
        fit, statistic = _wavy(n, lean)
        expected = statistic * n**0.5 < 2.3263478740408408  # its tail holds 1 in 100
        assert verdict.describes(fit) == expected  # type: ignore[arg-type]
        outcomes.add(expected)
    assert outcomes == {False, True}


@pytest.mark.parametrize("twice", [False, True])
def test_what_a_small_derivative_takes_away_is_no_wave(twice: bool) -> None:
    fit, _ = _wavy(12, 0.0, twice)
    fit.residuals = fit.residuals + np.linspace(-1.0, 1.0, 12)  # a line, which the law itself can follow
    assert verdict.describes(fit)  # type: ignore[arg-type]
    fit.residuals = fit.residuals + np.linspace(-1.5, 1.5, 12) ** 2
    assert not verdict.describes(fit)  # type: ignore[arg-type]
