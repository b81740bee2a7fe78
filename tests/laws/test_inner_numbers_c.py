"""Inner numbers of shares, simulated tables and schedules: each function against a few lines of NumPy of its own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import bdtr, betaincinv

from metascale.core.errors import InputError
from metascale.laws import share_predictor, shares, simulate
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
