"""Inner numbers of shares, simulated tables and schedules: each function against a few lines of NumPy of its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import bdtr, betaincinv, ndtri

from metascale.core.errors import InputError
from metascale.laws import multi_power, schedule_fit, schedule_predictor, share_predictor, shares, simulate, two_steps
from metascale.laws.schedule_fit import Run
from metascale.laws.schedule_predictor import SchedulePredictor
from metascale.laws.schedules import Schedule
from metascale.laws.share_predictor import SharePredictor
from metascale.laws.shares import Form, Metric

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
    for n, between, draws, mass in ((11.4, 0.0, p, share), (7.0, rho, nodes.reshape(45, 2), every)):
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
    few = multi_power.Path.of(schedule, np.array([6]), 4)
    assert len(few.drop) == 4  # as many changes as groups are left alone
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
        middle, reach = 5 * x[:, 0] ** -0.2, 0.1 * x[:, 0] * ndtri((1 + level) / 2)
        return SimpleNamespace(x=x, median=middle, low=middle - reach, high=middle + 1.5 * reach, beyond=x[:, 0] + 1)


def test_losses_of_a_new_run_and_both_steps_of_its_share() -> None:
    link = _predictor(False, 1, theta=np.array([[2.0, -1.3, 0.1, 0.05], [1.1, -0.7, 0.2, 0.03]]))
    joined, x = two_steps.TaskPredictor(_Loss(), link), np.array([2.0, 3.0])  # type: ignore[arg-type]
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995])
    at = np.concatenate([(1 - levels[::-1]) / 2, [0.5], (1 + levels) / 2])
    middle = 5 * x**-0.2
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
