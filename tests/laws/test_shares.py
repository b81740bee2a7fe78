"""Shares with a chance level, shares that are read off a loss, several metrics of one table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import betabinom, binom

import metascale as ms
from metascale.core.errors import InputError
from metascale.laws.metrics import ShareOptions
from metascale.laws.several import parts_of
from metascale.laws.share_analysis import analyse_shares
from metascale.laws.share_backtest import _baselines
from metascale.laws.shares import Form, _derivatives, curve, fit_share, metric_of, run_quantiles, weights_of
from metascale.laws.table import read_table

N = np.geomspace(1e7, 1e10, 10)
FOUR_CHOICES = 0.25 + 0.75 * expit(-18 + 0.9 * np.log(N))


@pytest.mark.parametrize(
    ("name", "values", "kind", "flipped", "unit"),
    [
        ("accuracy", [0.0, 0.4, 1.0], None, False, 1),
        ("val/acc", [20.0, 55.0], None, False, 100),
        ("pass@1", [0.1, 0.2], None, False, 1),
        ("test_error_rate", [0.5, 0.2], None, True, 1),
        ("solved (%)", [0.5, 0.2], None, False, 100),
        ("y", [0.5, 0.2], "share", False, 1),
        ("y", [50.0, 20.0], "error", True, 100),
    ],
)
def test_a_share_is_known_by_its_name_and_values_or_by_kind(name, values, kind, flipped, unit):
    found = metric_of(name, np.array(values), kind)
    assert (found.flipped, found.unit) == (flipped, unit)
    shares = np.array(values) / unit
    np.testing.assert_allclose(found.successes(np.array(values)), 1 - shares if flipped else shares)
    np.testing.assert_allclose(found.written(found.successes(np.array(values))), values)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [("loss", [0.5, 0.4], None), ("accuracy", [0.5], "loss"), ("accuracy_loss", [0.1], None), ("reward", [7.0], None),
     ("mean_squared_error", [0.5], None), ("score", [850.0], None)],
)  # fmt: skip
def test_a_loss_is_no_share(name, values, kind):
    assert metric_of(name, np.array(values), kind) is None


def test_a_chance_and_a_ceiling_that_were_planted_come_back():
    found = analyse_shares(N, FOUR_CHOICES)
    assert found.chance == "fitted"
    for name, value in {"a": -18, "b": 0.9, "chance": 0.25}.items():
        assert found.parameters[name].estimate == pytest.approx(value, rel=1e-6)
    given = analyse_shares(N, 100 * FOUR_CHOICES, chance=25.0, loss_name="accuracy")
    assert (given.chance, given.chosen) == ("given", "logistic")
    assert given.parameters["b"].estimate == pytest.approx(0.9, rel=1e-6)
    assert "chance 25 % as given" in given.verdict
    top = analyse_shares(N, 0.8 * expit(-18 + 0.9 * np.log(N)))
    assert top.chosen == "logistic_ceiling"
    assert top.parameters["missed"].estimate == pytest.approx(0.2, rel=1e-6)


def test_counts_with_zeros_are_fitted_by_their_likelihood():
    """Against a direct maximum of the binomial likelihood; standard errors against its second differences."""
    x, counts = np.array([1.0, 10, 100, 1000, 1e4]), np.array([0, 3, 9, 18, 20])
    fit = fit_share(Form("logistic"), np.log(x)[:, None], counts / 20, np.full(5, 20.0), between=0.0)

    def minus_log(theta):
        odds = theta[0] + theta[1] * np.log(x)
        return float(-(counts @ odds - 20 * np.logaddexp(0, odds).sum()))

    best = minimize(minus_log, [0.0, 0.5], method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(fit.theta[:2], best.x, rtol=0.01)  # the weak prior on the slope moves it by less
    step, hessian = 1e-3, np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            ends = [minus_log(fit.theta[:2] + step * (a * np.eye(2)[i] + b * np.eye(2)[j]))
                    for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]  # fmt: skip
            hessian[i, j] = (ends[0] - ends[1] - ends[2] + ends[3]) / (4 * step**2)
    np.testing.assert_allclose(fit.covariance[:2, :2], np.linalg.inv(hessian), rtol=0.02)


def test_derivatives_of_a_share_are_its_differences_by_every_parameter():
    theta, t = np.array([-1.0, 0.7, -0.4, 0.25, 0.1]), np.array([[0.5, 1.0], [2.0, -1.0], [-3.0, 0.2]])
    p, jacobian = _derivatives(theta, t)
    np.testing.assert_allclose(p, curve(theta[None], t)[0], rtol=1e-14)
    ends = [curve((theta + sign * 1e-6 * np.eye(5)), t) for sign in (1, -1)]
    np.testing.assert_allclose(jacobian, ((ends[0] - ends[1]) / 2e-6).T, atol=1e-9)


def test_a_row_weighs_by_what_runs_differ_and_by_its_questions():
    """Variance in units of p (1 - p): 0.1 + 0.9 / 10 = 0.19 of ten questions, 1 of one, 0.1 of very many."""
    np.testing.assert_allclose(1 / weights_of(0.1, np.array([10, 1, np.inf])), [0.19, 1.0, 0.1])


def test_what_varies_between_runs_beyond_counting_is_found():
    rng = np.random.default_rng(1)
    own = rng.beta(FOUR_CHOICES * 50, (1 - FOUR_CHOICES) * 50, (40, 10))
    seen = rng.binomial(1000, own) / 1000
    found = analyse_shares(np.tile(N, 40), seen.ravel(), trials=1000, chance=0.25)
    assert found.fit.between == pytest.approx(1 / 51, rel=0.15)
    counted = rng.binomial(1000, np.tile(FOUR_CHOICES, 40)) / 1000
    assert analyse_shares(np.tile(N, 40), counted, trials=1000, chance=0.25).fit.between < 2e-4


def test_intervals_of_one_run_are_those_of_the_binomial_at_the_bounds():
    p, shares = np.array([[0.001, 0.3, 0.999]]), (0.05, 0.5, 0.95)
    exact = np.array([binom.ppf(shares, 100, share) / 100 for share in p[0]]).T
    np.testing.assert_array_equal(run_quantiles(p, np.ones(1), 0.0, 100, shares), exact)
    found = run_quantiles(np.array([[0.02, 0.5]]), np.ones(1), 1 / 51, 100, shares)
    wide = np.array([betabinom.ppf(shares, 100, 50 * share, 50 * (1 - share)) / 100 for share in (0.02, 0.5)]).T
    np.testing.assert_allclose(found, wide, atol=0.011)
    assert (run_quantiles(p, np.ones(1), 0.01, np.inf, shares) >= 0).all()


@pytest.mark.parametrize("trials", [100, 10_000])
def test_many_draws_are_thinned_without_moving_the_quantiles(trials):
    """Uniform p and k of n questions: k is uniform on 0 ... n, so its quantiles are the shares themselves."""
    drawn = np.random.default_rng(0).permutation((np.arange(4000) + 0.5) / 4000)[:, None]
    shares = (0.005, 0.05, 0.5, 0.95, 0.995)
    found = run_quantiles(drawn, np.full(4000, 1 / 4000), 0.0, trials, shares)
    np.testing.assert_allclose(found[:, 0], shares, atol=0.003 + 1 / trials)


def test_a_ceiling_is_never_below_the_chance_that_is_given():
    """Accuracies that fall a little below chance: what is missed leaves room for the chance."""
    seen = [0.25, 0.26, 0.24, 0.25, 0.235, 0.24, 0.22, 0.23]
    found = analyse_shares(np.geomspace(1e6, 1e9, 8), seen, chance=0.25)
    assert found.fits["logistic_ceiling"].theta[-1] <= 0.73 + 1e-12


def test_an_error_rate_is_the_mirror_of_an_accuracy_and_nothing_leaves_its_bounds():
    seen = np.random.default_rng(0).binomial(500, FOUR_CHOICES) / 500
    accuracy, error = (analyse_shares(N, values, kind=kind, chance=0.25, trials=500)
                       for values, kind in ((seen, "share"), (1 - seen, "error")))  # fmt: skip
    ahead, behind = accuracy.predict([2e10, 1e13]), error.predict([2e10, 1e13])
    np.testing.assert_allclose(ahead.low, 1 - behind.high)
    np.testing.assert_allclose(ahead.median, 1 - behind.median)
    assert ahead.high[1] <= 1
    assert (accuracy.trend, error.trend) == ("rises", "falls")
    assert accuracy.trends["x"].exponent.estimate == pytest.approx(-error.trends["x"].exponent.estimate)


@pytest.mark.parametrize(
    ("trials", "tables", "most"),
    [
        (300, 6, 1),
        pytest.param(None, 6, 1, marks=pytest.mark.long),
        *(pytest.param(trials, 40, 6, marks=pytest.mark.long) for trials in (None, 300)),
    ],
)
def test_noise_names_a_trend_as_rarely_as_its_level_says(trials, tables, most):
    rng = np.random.default_rng(5)
    found = [analyse_shares(np.geomspace(1, 1e3, 8), rng.binomial(300, 0.4, 8) / 300, trials=trials).trend
             for _ in range(tables)]  # fmt: skip
    assert sum(answer not in ("none", "undecided") for answer in found) <= most


@pytest.mark.parametrize("tables", [4, pytest.param(12, marks=pytest.mark.long)])
def test_forecasts_of_several_shapes_hold_what_comes(tables):
    """Logistic in ln N, and accuracies that follow a loss with a floor: 16 times beyond the table."""
    rng, held = np.random.default_rng(2), []
    for k in range(tables):
        x = np.geomspace(1e7, 1.6e11, 12)
        loss = 1.9 + 60 * x**-0.25
        p = 0.25 + 0.75 * (expit(-9 + 0.45 * np.log(x)) if k % 2 else expit(-4 * (loss - 2.5)))
        seen = rng.binomial(1000, p) / 1000
        ahead = analyse_shares(x[:8], seen[:8], trials=1000, chance=0.25).predict(x[8:])
        held.append((ahead.low <= seen[8:]) & (seen[8:] <= ahead.high))
    assert 0.8 <= np.mean(held) <= 1.0


def test_beyond_the_table_the_slope_of_the_odds_may_be_off():
    """16 times beyond it: by 0.35 of itself (SD), 0.35 x 0.9 x ln 16 in the odds; nothing inside the table."""
    predictor = analyse_shares(N, expit(-18 + 0.9 * np.log(N)), chance=0.0).predictor
    alone = replace(predictor, covariance=np.zeros_like(predictor.covariance))
    odds = logit(alone.draws(np.array([[16 * N[-1]], [N[3]]]))[0])
    assert odds[:, 0].std() == pytest.approx(0.35 * 0.9 * np.log(16), rel=0.1)
    assert odds[:, 1].std() < 1e-6
    between = predictor.predict(np.geomspace(N[0], N[-1], 40))  # of one scale nothing between two runs is beyond
    assert (np.diff(between.median) > 0).all()


def table(n=9):
    rng = np.random.default_rng(0)
    x = np.geomspace(1e7, 2e9, n)
    loss = (2 + 40 * x**-0.25) * np.exp(0.003 * rng.standard_normal(n))
    seen = rng.binomial(1000, 0.25 + 0.75 * expit(-4 * (loss - 2.4))) / 1000
    return {"N": x, "loss": loss, "acc": seen, "asked": np.full(n, 1000), "note": ["-"] * n}


def test_a_share_is_read_off_a_loss_and_both_errors_are_told():
    columns = table()
    task = ms.fit(columns, x="N", y="acc", via="loss", chance=0.25, trials="asked")
    slope = task.parameters["b"]
    assert slope.low < -4 < slope.high
    found, loss = task.predict([1e10]), ms.forecast(columns, at=[1e10], x="N", y="loss")
    assert found.loss[0] == pytest.approx(loss.median[0])
    link = task.link.fit.theta
    ends = 0.25 + 0.75 * expit(link[0] + link[1] * np.array([loss.high[0], loss.low[0]]))
    np.testing.assert_allclose([part[0] for part in found.from_loss], ends, atol=0.01)
    assert found.from_link[0][0] < found.median[0] < found.from_link[1][0]
    width = found.high[0] - found.low[0]
    parts = np.ptp(found.from_loss), np.ptp(found.from_link)  # of errors without a common cause, here nearly normal
    assert width == pytest.approx(np.hypot(*parts), rel=0.05)


def test_several_metrics_have_a_law_each_and_a_refused_one_loses_no_other():
    found = ms.fit(table(), x="N", y=["loss", "acc", "note"], level=0.9, n_bootstrap=50)
    assert list(found) == ["loss", "acc"]
    assert "not a number" in found.refused["note"]
    assert found["acc"].trend == "rises"
    assert [line.split()[0] for line in found.table().splitlines()] == ["metric", "loss", "acc", "note"]
    ahead = ms.forecast(table(), at=[1e10], x="N", y=["loss", "acc"])
    assert ahead["loss"].median[0] < 2.2
    assert ahead["acc"].low[0] > 0.6
    with pytest.raises(InputError, match="not a number"):
        ms.fit(table(), x="N", y=["note", "note2"])


def test_options_of_shares_are_for_the_shares_and_options_of_losses_for_the_losses():
    """Chance, trials and the loss that is read off go to "acc" alone, least squares to the loss."""
    columns, squares = table(), ms.laws.LeastSquares()
    asked = {"chance": 0.25, "trials": "asked", "via": "loss"}
    found = ms.fit(columns, x="N", y=["loss", "acc"], n_bootstrap=50, objective=squares, **asked)
    alone = ms.fit(columns, x="N", y="loss", n_bootstrap=50, objective=squares)
    assert found["loss"].parameters == alone.parameters
    assert found["acc"].parameters == ms.fit(columns, x="N", y="acc", **asked).parameters
    ahead = ms.forecast(columns, at=[1e10], x="N", y=["loss", "acc"], chance=0.25)
    assert list(ahead) == ["loss", "acc"]
    tested = ms.backtest(columns, x="N", y=["loss", "acc"], chance=0.25)
    assert [type(one).__name__ for one in tested.values()] == ["Backtest", "ShareBacktest"]


def test_a_kind_is_said_of_the_metrics_whose_names_do_not_tell():
    columns = {**table(), "solved": table()["acc"], "nll": table()["loss"]}
    parts = parts_of(read_table(columns), ["nll", "loss", "acc", "solved"], ShareOptions("error", 0.25))
    assert {name: (part.how.kind, part.how.chance) for name, part in parts.items()} == {
        "nll": ("loss", None), "loss": ("loss", None), "acc": (None, 0.25), "solved": ("error", 0.25)
    }  # fmt: skip
    with pytest.raises(InputError, match="`chance` is for shares such as accuracies, and 'nll' and 'loss' are read"):
        ms.fit(columns, x="N", y=["nll", "loss"], chance=0.25)


@pytest.mark.parametrize(("kind", "unit"), [("share", 1), ("error", 1), ("share", 100)])
def test_a_backtest_of_shares_hides_the_largest_scale(kind, unit):
    """Odds of .01, .1, 1, 10, 100: the last value misses by 100/101 - 10/11 = 90/1111, a straight line by nothing."""
    x, odds = 10.0 ** np.arange(1, 6), 10.0 ** np.arange(-2, 3)
    seen = unit * (odds if kind == "share" else 1) / (1 + odds)
    found = ms.backtest({"N": x, "y": seen}, x="N", y="y", kind=kind, chance=0.0)
    near, far = ({row.predictor: row for row in found.rows if row.horizon == horizon} for horizon in (10, 100))
    assert near["last value"].rmse == pytest.approx(unit * 90 / 1111)
    assert far["last value"].rmse == pytest.approx(unit * np.hypot(10 / 11 - 0.5, 100 / 101 - 0.5) / 2**0.5)
    for rows in (near, far):
        assert rows["tail line"].rmse == pytest.approx(0, abs=1e-9 * unit)
        assert rows["forecast"].rmse < 0.01 * unit
        assert (rows["logistic"].coverage, rows["last value"].coverage) == (1, None)
    assert found.summary().splitlines()[0].split() == ["rmse", "of", "y", "x10", "(4", "seen)", "x100", "(3", "seen)"]
    assert ms.backtest(x, seen, kind=kind, chance=0.0, loss_name="y").rows == found.rows
    assert found.to_json()["unit"] == ("share" if unit == 1 else "per cent")


def test_the_tail_line_of_a_share_is_the_odds_of_its_last_octave():
    """From 1:1 at 4 to 4:1 at 8 the odds grow fourfold a doubling: 16:1 at 16, whatever they were at 1 and 2."""
    found = _baselines(
        np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.3, 0.1, 0.5, 0.8]), np.array([16.0]), metric_of("acc", np.ones(1))
    )
    assert found["tail line"][0][0] == pytest.approx(16 / 17)
    assert found["last value"][0][0] == pytest.approx(0.8)


def test_a_share_that_is_read_off_a_loss_is_tested_both_ways_and_without_what_is_hidden():
    columns = table(8)
    found = ms.backtest(columns, x="N", y="acc", via="loss", chance=0.25, trials="asked")
    assert {"forecast", "without the loss", "logistic", "last value", "tail line"} <= set(found.means())
    changed = {**columns, "loss": np.where(columns["N"] < 9e8, columns["loss"], 3.0)}  # hidden from both steps
    again = ms.backtest(changed, x="N", y="acc", via="loss", chance=0.25, trials="asked")
    last = [[row for row in one.rows if row.predictor == "forecast" and row.horizon > 3][-1] for one in (found, again)]
    assert last[0] == last[1]


@pytest.mark.long
def test_a_backtest_of_a_share_from_arrays_is_that_of_the_table():
    columns = table(8)
    found = ms.backtest(columns, x="N", y="acc", via="loss", chance=0.25, trials="asked")
    arrays = ms.backtest(columns["N"], columns["acc"], loss_name="acc", via=columns["loss"], chance=0.25, trials=1000)
    assert arrays.rows == found.rows


def test_a_backtest_of_shares_in_several_scales_hides_corners():
    size, data = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 5)))
    seen = 0.25 + 0.75 * expit(-20 + 0.5 * np.log(size) + 0.5 * np.log(data))
    found = ms.backtest({"N": size, "D": data, "acc": seen}, x=["N", "D"], y="acc", chance=0.25)
    assert "top of scale 1" in found.corners
    assert max(found.mixture) < 0.01
    assert found.to_json()["residuals"] == "acc"
    assert "rmse of acc" in found.summary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"y": "loss", "chance": 0.25}, "read as a loss"),
        ({"y": "acc", "kind": "guess"}, "kind 'guess' is unknown"),
        ({"y": "acc", "chance": 25}, "from 0 to 0.95"),
        ({"y": "acc", "law": "power", "kind": "share"}, "not for shares"),
        ({"y": "acc", "objective": ms.laws.LeastSquares()}, "not for shares"),
        ({"y": "acc", "trials": 0}, "at least 1"),
        ({"y": "loss", "kind": "share"}, "a share lies between 0 and 100$"),
        ({"y": "asked", "kind": "share"}, "divide counts by their numbers of questions"),
        ({"via": "loss"}, "name the share that is read off 'loss'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    columns = table()
    columns["loss"] = columns["loss"] * 100
    with pytest.raises(InputError, match=words):
        ms.fit(columns, x="N", **options)
