"""Shares and schedules by hand: which column is one, the fit, its words and predictions; rates step by step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from metascale.core.errors import InputError
from metascale.laws import schedules, share_analysis
from metascale.laws.record import Interval, TrendResult
from metascale.laws.schedule_fit import Run, _require_whole, _steps_and_rates, fit_curves, fit_multi_power, runs_of
from metascale.laws.schedule_predictor import CurvePrediction, SchedulePredictor, parameters_of
from metascale.laws.schedules import Schedule, columns_of_schedule
from metascale.laws.share_analysis import ShareAnalysis, _trend_words, analyse_shares
from metascale.laws.share_backtest import _baselines, _quality
from metascale.laws.share_predictor import SharePredictor, _student_draws
from metascale.laws.shares import (
    Form,
    Metric,
    ShareFit,
    _covariance,
    _derivatives,
    _deviance,
    _scored,
    _starts,
    between_runs,
    curve,
    fit_share,
    forms_of,
    intervals_of,
    metric_of,
    run_quantiles,
    weights_of,
)
from metascale.laws.table import Table
from metascale.laws.two_steps import TaskPredictor, link_task

A = np.array


# ---------------------------------------------------------------------------------------------- which column is one


@pytest.mark.parametrize(
    ("name", "values", "kind", "flipped", "unit"),
    [
        ("acc", [0.2, 1.0], None, False, 1), ("Accuracy", [20, 40], None, False, 100), ("error rate", [0.2], None, True, 1),  # noqa: E501
        ("top-1 error", [30.0], None, True, 100), ("err_rate", [0.1], None, True, 1), ("failure rate", [0.1], None, True, 1),  # noqa: E501
        ("misclassification", [0.1], None, True, 1), ("top5_error", [0.1], None, True, 1), ("top 5 error", [1], None, True, 1),  # noqa: E501
        ("top1 error", [0.1], None, True, 1), ("classification error", [0.1], None, True, 1),
        ("pass@10", [0.1], None, False, 1), ("pass_rate", [0.1], None, False, 1), ("win rate", [55], None, False, 100),
        ("hit rate", [0.1], None, False, 1), ("success-rate", [0.1], None, False, 1), ("solve rate", [0.1], None, False, 1),  # noqa: E501
        ("EM", [0.1], None, False, 1), ("recall", [0.1], None, False, 1), ("reward", [0.5], None, False, 1),
        ("reward", [5.0], "share", False, 100), ("acc_pct", [0.5], None, False, 100), ("x %", [50], None, False, 100),
        ("percent", [0.5], None, False, 100), ("percentage right", [0.5], None, False, 100),
        ("x", [0.2], "share", False, 1), ("x", [0.2], "error", True, 1), ("x", [20.0], "error", True, 100),
        ("error rate", [0.2], "share", False, 1), ("acc", [0.2], "error", True, 1), ("x %", [0.5], "error", True, 100),
        ("loss", [0.2], "share", False, 1),
    ],
)  # fmt: skip
def test_columns_of_shares(name, values, kind, flipped, unit):
    assert metric_of(name, A(values, float), kind) == Metric(name, flipped, unit)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("loss", [0.2], None), ("acc loss", [0.2], None), ("x", [0.2], None), ("acc", [-0.1], None), ("acc", [150.0], None),  # noqa: E501
        ("acc", [], None), ("acc", [0.2], "loss"), ("reward", [5.0], None), ("bleu", [30.0], None), ("item", [0.1], None),  # noqa: E501
        ("loss %", [0.2], None), ("x %", [150.0], None),
    ],
)  # fmt: skip
def test_columns_of_losses(name, values, kind):
    assert metric_of(name, A(values, float), kind) is None


@pytest.mark.parametrize(
    ("values", "kind", "words", "value", "allowed"),
    [
        ([0.1], "zz", "kind 'zz' is unknown; allowed are: loss, share, error", "zz", "loss, share, error"),
        ([0.5, -1.0], "share", "'x' is -1 in row 2 (1 such rows); a share lies between 0 and 1", "x", None),
        ([120.0, 130.0], "share", "'x' is 120 in row 1 (2 such rows); a share lies between 0 and 100; divide counts by "
                                  "their numbers of questions, and give these as `trials`", "x", None),
        ([120.5, 130.0], "error", "'x' is 120.5 in row 1 (2 such rows); a share lies between 0 and 100", "x", None),
        ([50.0, -3.0], "share", "'x' is -3 in row 2 (1 such rows); a share lies between 0 and 100", "x", None),
    ],
)  # fmt: skip
def test_values_that_are_no_shares(values, kind, words, value, allowed):
    with pytest.raises(InputError) as caught:
        metric_of("x", A(values), kind)
    error = caught.value
    assert (str(error), error.field, error.value, error.allowed) == (words, "kind", value, allowed)


def test_shares_as_a_column_writes_them():
    failures = Metric("error", True, 100.0)
    assert failures.successes(A([20.0, 100.0, 0.0])).tolist() == [0.8, 0.0, 1.0]
    assert failures.written(A([0.75])).tolist() == [25.0]
    assert Metric("acc", False, 100.0).written(A([0.75])).tolist() == [75.0]
    assert (Metric("acc").flipped, Metric("acc").unit, Metric("acc").successes(A([0.25])).tolist()) == (
        False,
        1.0,
        [0.25],
    )


# ---------------------------------------------------------------------------------------------- the fit


def test_the_curve_and_its_derivatives():
    """Chance 0.2, missed 0.1: 0.2 + 0.7 / 2 at odds 1, 0.2 + 0.7 * 3/4 at odds 3."""
    theta, t = A([0.0, 1.0, 0.2, 0.1]), A([[0.0], [np.log(3)]])
    assert curve(theta[None], t)[0] == pytest.approx([0.55, 0.725])
    p, jacobian = _derivatives(theta, t)
    assert p == pytest.approx([0.55, 0.725])
    assert jacobian[0] == pytest.approx([0.175, 0.0, 0.5, -0.5])
    assert jacobian[1] == pytest.approx([0.7 * 0.1875, 0.7 * 0.1875 * np.log(3), 0.25, -0.75])


def test_deviances_and_weights():
    assert _deviance(A([0.5]), A([1.0]), A([2.0])) == pytest.approx(4 * np.log(2))
    assert _deviance(A([0.5, 0.25]), A([0.5, 0.25]), A([2.0, 3.0])) == pytest.approx(0)
    assert _deviance(A([0.0]), A([1.0]), A([1.0])) == pytest.approx(2 * np.log(1e9))
    assert _deviance(A([0.25]), A([0.5]), A([1.0])) == pytest.approx(np.log(0.5 / 0.25) + np.log(0.5 / 0.75))
    assert weights_of(0.0, A([10.0, np.inf])).tolist() == [10.0, 1e12]
    assert weights_of(0.1, A([10.0, np.inf])) == pytest.approx([1 / 0.19, 10.0])


def test_the_variance_between_runs_by_hand():
    """Four runs 0.1 off one half: 4 * .01 / .25 = .16. Without counts .16 / rho = 2; of 100 questions .16 / (rho + .01 -
    .01 rho) = 2; of ten, counting explains more than all of it."""  # noqa: E501
    p, y = np.full(4, 0.5), A([0.4, 0.6, 0.4, 0.6])
    assert between_runs(p, y, np.full(4, np.inf), 2) == pytest.approx(0.08)
    assert between_runs(p, y, np.full(4, 100.0), 2) == pytest.approx(0.07 / 0.99)
    assert between_runs(p, y, np.full(4, 10.0), 2) == 0.0
    assert between_runs(p, p, np.full(4, 100.0), 2) == 0.0
    assert between_runs(A([0.1]), A([1.0]), A([np.inf]), 1) == 1.0


def test_the_shapes_and_what_they_fit():
    assert [(form.name, form.floor, form.misses) for form in forms_of(None)] == [
        ("logistic", 0.0, False), ("logistic_floor", None, False), ("logistic_ceiling", 0.0, True),
        ("logistic_both", None, True),
    ]  # fmt: skip
    assert [(form.name, form.floor, form.misses) for form in forms_of(0.25)] == [
        ("logistic", 0.25, False), ("logistic_ceiling", 0.25, True),
    ]  # fmt: skip
    assert Form("x").free(2).tolist() == [True, True, True, False, False]
    assert Form("x", None, True).free(1).tolist() == [True] * 4
    fit = share_fit(Form("x", None))
    assert (fit.n_axes, fit.n_fitted, fit.slopes.tolist()) == (1, 3, [0.5])


def test_starts_are_lines_through_the_odds():
    """Of shares .2 and .8 at z = -1 and 1: chance 0 or .19, missed 0 or .19; of what is between, .02 to .98."""
    z, y = A([[-1.0], [1.0]]), A([0.2, 0.8])
    assert [start.tolist() for start in _starts(Form("logistic"), z, y)] == [
        pytest.approx([0, logit(0.8), 0, 0], abs=1e-12)
    ]  # fmt: skip
    found = _starts(Form("both", None, True), z, y)
    assert [start[2:].tolist() for start in found] == [
        pytest.approx(pair, abs=1e-12) for pair in ([0, 0], [0, 0.19], [0.19, 0], [0.19, 0.19])
    ]  # fmt: skip
    assert found[3][:2] == pytest.approx([0, logit(0.98)], abs=1e-12)
    low, high = logit(max((0.2 - 0.19) / 0.81, 0.02)), logit((0.8 - 0.19) / 0.81)
    assert found[2][:2] == pytest.approx([(low + high) / 2, (high - low) / 2])
    assert _starts(Form("x", 0.95), z, A([0.97, 0.98]))[0][2] == 0.9


def test_what_rows_tell_of_the_odds():
    """At odds 1 a row of weight 1 tells (1/4)^2 / (1/4); the prior of a has the standard deviation 60."""
    found = _covariance(np.zeros(4), A([True, False, False, False]), np.zeros((8, 1)), np.ones(8))
    assert found[0, 0] == pytest.approx(1 / (8 / 4 + 1 / 3600))
    assert np.count_nonzero(found) == 1
    at_bound = _covariance(A([0.0, 0, 0.0, 0.95]), np.ones(4, bool), A([[-1.0], [1.0]] * 4), np.ones(8))
    assert np.flatnonzero(np.diag(at_bound)).tolist() == [0, 1]


@pytest.mark.parametrize(("chance", "missed"), [(0.0, 0.0), (0.25, 0.0), (0.0, 0.1), (0.2, 0.1)])
def test_exact_shares_are_fitted(chance, missed):
    t = np.linspace(-8, 10, 40)[:, None]
    y = chance + (1 - chance - missed) * expit(1 + 0.75 * t[:, 0])
    form = Form("x", None if chance else 0.0, bool(missed))
    found = fit_share(form, t, y, np.full(40, 1e6), 0.0)
    assert found.theta == pytest.approx([1, 0.75, chance, missed], abs=2e-3)
    assert (found.between, found.freedom, found.converged, found.form) == (
        0.0,
        40 - 2 - bool(chance) - bool(missed),
        True,
        form,
    )
    assert found.deviance == pytest.approx(0, abs=0.1)


def test_rows_without_counts_and_a_given_chance():
    t = np.linspace(-4, 4, 9)[:, None]
    y = np.clip(0.25 + 0.75 * expit(t[:, 0]) + 0.02 * np.resize([1, -1, -1, 1], 9), 0, 1)
    found = fit_share(Form("logistic", 0.25), t, y, np.full(9, np.inf))
    assert (found.theta[2], found.theta[3], found.freedom) == (0.25, 0.0, 7)
    p = curve(found.theta[None], t)[0]
    assert found.between == pytest.approx(float(np.sum((y - p) ** 2 / (p * (1 - p)))) / 7, rel=1e-3)
    assert found.covariance[2].tolist() == [0, 0, 0, 0]
    counted = fit_share(Form("logistic", 0.25), t, y, np.full(9, 50.0))
    assert counted.between == 0.0  # counting 50 questions explains the scatter


# ---------------------------------------------------------------------------------------------- quantiles


def test_quantiles_of_draws_of_counts_and_of_runs():
    four, even = A([[0.2], [0.4], [0.6], [0.8]]), np.full(4, 0.25)
    found = run_quantiles(four, even, 0.0, np.inf, (0.5, 0.125, 0.0, 1.0))[:, 0]
    assert found == pytest.approx([0.5, 0.2, 0.2, 0.8])
    # Of four questions at one half at most k are right in 1, 5, 11, 15, 16 of 16.
    shares = (1 / 16, 1.01 / 16, 5 / 16 + 1e-9, 0.5, 0.69, 15.1 / 16)
    assert run_quantiles(A([[0.5]]), A([1.0]), 0.0, 4.0, shares)[:, 0].tolist() == [0.0, 0.25, 0.5, 0.5, 0.75, 1.0]
    # Between runs rho = 1/3 of variance 1/12 is the uniform distribution.
    assert run_quantiles(A([[0.5]]), A([3.0]), 1 / 3, np.inf, (0.1, 0.5, 0.9))[:, 0] == pytest.approx([0.1, 0.5, 0.9])
    # Of 4 questions then every count is as likely, 1 in 5.
    shares = (0.19, 0.21, 0.39, 0.41, 0.79, 0.81)
    assert run_quantiles(A([[0.5]]), A([1.0]), 1 / 3, 4.0, shares)[:, 0] == pytest.approx(
        [0, 0.25, 0.25, 0.5, 0.75, 1.0]
    )
    many = np.linspace(0, 1, 1001)[:, None]
    assert run_quantiles(many, np.ones(1001), 0.0, np.inf, (0.25,))[0, 0] == pytest.approx(0.25, abs=1e-3)
    assert run_quantiles(many, np.ones(1001), 0.0, 10.0, (0.52,))[0, 0] == 0.5  # 6 of 11 counts are at most 5


def share_fit(form=Form("logistic"), theta=(0.0, 0.5, 0.0, 0.0), covariance=None, **changes):  # noqa: B008
    given = {"form": form, "theta": A(theta), "covariance": np.diag([0.04, 0.01, 0, 0]) if covariance is None else covariance,  # noqa: E501
             "between": 0.04, "deviance": 3.0, "freedom": 2, "converged": True}  # fmt: skip
    return ShareFit(**given | changes)


def test_intervals_of_a_share_are_students():
    """With two degrees 4.302653 standard errors at 95 %; chance and missed stay between 0 and 1."""
    fit = share_fit(theta=(0.0, 0.5, 0.1, 0.9), covariance=np.diag([0.04, 0.01, 0.01, 0.01]))
    found = intervals_of(fit, ("a", "b", "chance", "missed"), 0.95)
    assert (found["a"].estimate, found["a"].low, found["a"].high) == (
        0,
        pytest.approx(-0.8605306),
        pytest.approx(0.8605306),
    )
    assert found["b"].high == pytest.approx(0.5 + 0.4302653)
    assert (found["chance"].low, found["chance"].high) == (0.0, pytest.approx(0.5302653))
    assert (found["missed"].low, found["missed"].high) == (pytest.approx(0.4697347), 1.0)


# ---------------------------------------------------------------------------------------------- a law of a share


def analysis(**changes):
    fits = {"logistic": share_fit(), "logistic_floor": share_fit(Form("logistic_floor", None), (0.5, 1.0, 0.25, 0.0)),
            "logistic_both": share_fit(Form("logistic_both", None, True), (0.5, 1.0, 0.25, 0.05))}  # fmt: skip
    given = {
        "metric": Metric("acc"), "x": A([[1.0], [2.0], [4.0]]), "x_names": ("N",), "successes": A([0.25, 0.5, 0.75]),
        "trials": A([10.0, 20.0, 30.0]), "fits": fits, "chosen": "logistic", "chance": "none", "level": 0.95,
        "criteria": {"logistic": 10.0, "logistic_floor": 12.0, "logistic_both": np.inf},
        "trends": {"N": TrendResult("rises", Interval(-0.5, -0.75, -0.25), 0.95)}, "log": True, "notes": ("first",),
    }  # fmt: skip
    return ShareAnalysis(**given | changes)


def without_spread(**changes):
    """Runs of one scale that differ by counting alone, of unknown numbers of questions: quick to draw."""
    fits = {name: replace(fit, between=0.0) for name, fit in analysis().fits.items()}
    return analysis(**{"fits": fits, "trials": np.full(3, np.inf), **changes})


def test_the_law_of_a_share_in_words():
    one = analysis()
    assert (one.trend, one.names, one.fit) == ("rises", ("a", "b", "chance", "missed"), one.fits["logistic"])
    assert one.verdict == (
        "acc rises with N: its odds grow as N^0.5 (0.25 to 0.75); no chance level in the table."
    )  # fmt: skip
    assert one.formula == "acc = chance + (1 - chance - missed) / (1 + exp(-(a + b ln N)))"
    assert one.summary().splitlines() == [
        one.verdict, "", f"law logistic: {one.formula}    (3 rows; quasi-likelihood)",
        f"  {'a':<8} {'0':<14} 95 % interval -0.860531 to 0.860531",
        f"  {'b':<8} {'0.5':<14} 95 % interval 0.0697347 to 0.930265",
        f"  {'chance':<8} {'0':<14} fixed", f"  {'missed':<8} {'0':<14} fixed",
        "  runs of one scale differ by 10 points (SD, at one half) beyond counting", "",
        "  shape: QAICc above the best: logistic 0.00, logistic_floor 2.00", "  note: first",
    ]  # fmt: skip
    assert "(SD, at one half), counting noise included" in analysis(trials=np.full(3, np.inf)).summary()
    apart = {"logistic": share_fit(between=0.0144)}
    assert "differ by 6 points (SD" in analysis(fits=apart, criteria={"logistic": 0.0}).summary()
    assert analysis(chance="given")._bounds_words() == "chance 0 as given"
    both = analysis(chosen="logistic_both", chance="fitted", metric=Metric("acc", unit=100.0))
    assert both._bounds_words() == (
        "chance fitted as 25 % (25 to 25), and 5 % (5 to 5) is missed at every scale of the table"
    )  # fmt: skip
    assert both.formula.startswith("acc / 100 = chance")
    assert analysis(metric=Metric("err", True)).formula.startswith("1 - err = chance")
    assert analysis(metric=Metric("err", True, 100.0)).formula.startswith("1 - err / 100 = chance")
    for flipped, words in ((False, "acc / 2 = chance"), (True, "1 - acc / 2 = chance")):
        assert analysis(metric=Metric("acc", flipped, 2.0)).formula.startswith(words)
    assert analysis(log=False).formula.endswith("exp(-(a + b N)))")
    two = analysis(x_names=("N", "D"), trends={"N": one.trends["N"], "D": TrendResult("none", Interval(0, 0, 0), 0.95)})
    assert (two.names, two.trend) == (("a", "b_N", "b_D", "chance", "missed"), "unknown")
    assert two.formula.endswith("exp(-(a + b_N ln N + b_D ln D)))")


def test_shapes_have_a_say_by_their_criteria():
    """A criterion higher by 2 has exp(-1) of the weight, halfway to an equal say; by more than 6 none."""
    found = analysis().predictor
    share = np.exp(-1) / (1 + np.exp(-1))
    assert found.weights == pytest.approx([0.5 * (1 - share) + 0.25, 0.5 * share + 0.25])
    assert (found.by, found.loss_name, found.trials, found.between, found.low.tolist(), found.high.tolist()) == (
        "2 logistic shapes", "acc", 20.0, 0.04, [1], [4],
    )  # fmt: skip
    for other, kept in ((16.0, 2), (16.01, 1)):
        one = analysis(criteria={"logistic": 10.0, "logistic_floor": other, "logistic_both": np.inf}).predictor
        assert len(one.theta) == kept
    assert one.by == "1 logistic shape"
    assert one.weights.tolist() == [1.0]
    lost = dict.fromkeys(("logistic", "logistic_floor", "logistic_both"), np.inf)
    with np.errstate(invalid="ignore"):
        assert len(analysis(criteria=lost).predictor.theta) == 3
    linear = analysis(log=False, x=A([[2.0], [1.0], [2.0]])).predictor
    assert linear.sites.tolist() == [[1], [2]]


def test_the_law_of_a_share_in_a_file():
    one = without_spread(trials=np.full(3, 20.0))
    stored = one.record()
    assert (stored.law, stored.formula, stored.x_names, stored.loss_name, stored.level, stored.trend) == (
        "logistic", one.formula, ("N",), "acc", 0.95, "rises",
    )  # fmt: skip
    assert (stored.objective, stored.objective_name, stored.n_observations, stored.n_scales, stored.notes) == (
        3.0, "quasi-deviance", 3, 3, ("first",),
    )  # fmt: skip
    assert stored.extrapolation_reason == "shares are not tested on a hidden scale"
    assert (stored.verdict, stored.parameters, stored.trends) == (one.verdict, one.parameters, one.trends)
    assert {name: (family.aicc, family.objective, family.converged) for name, family in stored.families.items()} == {
        "logistic": (10.0, 3.0, True), "logistic_floor": (12.0, 3.0, True), "logistic_both": (None, 3.0, True),
    }  # fmt: skip
    assert [len(stored.curve.x), stored.curve.x[0], stored.curve.x[-1]] == pytest.approx([60, 1, 4])
    assert stored.curve.x[30] / stored.curve.x[29] == pytest.approx(4 ** (1 / 59))
    found = one.to_json()
    assert "predictor" not in found
    assert (found["chance"], found["between_runs"]) == ("none", 0.0)
    again = SharePredictor.of(stored.predictor)
    assert again.predict([3.0]).rows() == one.predict([3.0]).rows()
    assert stored.predictor.trials == 20.0
    unknown = without_spread().predictor
    assert unknown.record().trials is None
    assert SharePredictor.of(unknown.record()).trials == np.inf
    linear = without_spread(log=False).band(3, 2.0)
    assert linear.x == (1.0, 4.5, 8.0)


def test_pictures_of_shares():
    axes = without_spread(metric=Metric("err", True, 100.0)).plot()
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "linear", "N", "err")
    assert axes.get_legend_handles_labels()[1] == ["one new run (90 %)", "runs"]
    assert axes.lines[1].get_ydata().tolist() == [75, 50, 25]
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(16)
    linear = without_spread(log=False).plot()
    assert (linear.get_xscale(), linear.lines[0].get_xdata()[-1]) == ("linear", 4)
    wide = share_fit(theta=(0.0, 0.5, 0.5, 0.0, 0.0), covariance=np.zeros((5, 5)), between=0.0)
    two = without_spread(x_names=("N", "D"), x=A([[1.0, 1.0], [2.0, 1.0], [4.0, 2.0]]), fits={"logistic": wide},
                   criteria={"logistic": 0.0})  # fmt: skip
    assert two.band() is None
    drawn = two.plot()
    assert (drawn.get_xlabel(), drawn.get_ylabel(), drawn.get_xscale(), drawn.get_yscale()) == (
        "predicted acc", "observed acc", "linear", "linear",
    )  # fmt: skip
    assert drawn.lines[0].get_ydata().tolist() == [0.25, 0.5, 0.75]
    assert len(drawn.lines) == 2


def test_one_shape_predicts_its_share():
    """Without spread: sigma(ln 3) = 3/4 at x = 3; of 10 questions the counts that a binomial has, between 0 and 1."""
    sure = replace(analysis(), fits={"logistic": share_fit(theta=(0.0, 1.0, 0.0, 0.0), covariance=np.zeros((4, 4)), between=0.0)},  # noqa: E501
                   criteria={"logistic": 0.0}, trials=np.full(3, 10.0))  # fmt: skip
    found = sure.predict([3.0], 0.9)
    assert (found.median[0], found.low[0], found.high[0]) == (
        pytest.approx(0.75),
        0.5,
        1.0,
    )  # P(<= 5) = .078, (<= 4) .02
    assert (found.level, found.beyond.tolist(), found.x_names, found.loss_name, found.by) == (
        0.9, [1.0], ("N",), "acc", "1 logistic shape",
    )  # fmt: skip
    assert sure.predict([8.0, 0.5]).beyond.tolist() == [2.0, 2.0]
    failures = replace(sure, metric=Metric("err", True, 100.0)).predict([3.0], 0.9)
    assert (failures.median[0], failures.low[0], failures.high[0]) == (pytest.approx(25), 0, 50)
    for points in ([0.0], [-1.0], [np.inf], [np.nan]):
        with pytest.raises(InputError, match=r"^scales must be positive finite numbers$") as caught:
            sure.predict(points)
        assert caught.value.field == "x"
    linear = replace(sure, log=False)
    assert linear.predict([np.log(3)]).median[0] == pytest.approx(0.75)  # the odds are linear in x itself
    with pytest.raises(InputError, match="level"):
        sure.predict([3.0], 1.0)


def test_draws_of_parameters_are_students_and_keep_their_range():
    rng = np.random.default_rng(0)
    found = _student_draws(A([1.0, 2.0, 0.9, 0.9]), np.diag([1.0, 0.0, 1.0, 1.0]), 5.0, 20_000, rng)
    assert np.quantile(found[:, 0] - 1, [0.25, 0.75]) == pytest.approx([-0.7267, 0.7267], abs=0.03)  # t with 5
    assert (found[:, 1] == 2).all()
    assert found[:, 2:].min() >= 0
    assert found[:, 2:].max() <= 0.95
    assert found[:, 2:].sum(1).max() <= 0.99 + 1e-12


ROWS = {"x": [1e6, 1e7, 1e8, 1e9], "values": [0.27, 0.40, 0.71, 0.90]}


def test_notes_on_a_law_of_a_share():
    counted = analyse_shares(**ROWS, chance=0.25, trials=100, x_name="N", loss_name="acc", notes=("first",))
    assert counted.notes == ("first", "'acc' is read as a share of successes (`kind` says otherwise)")
    assert (counted.chance, counted.trials.tolist(), counted.level, counted.log, counted.x_names) == (
        "given", [100] * 4, 0.95, True, ("N",),
    )  # fmt: skip
    plain = analyse_shares(ROWS["x"], [73.0, 60, 29, 10], kind="error")
    assert plain.notes == (
        "'accuracy' is read as a share of failures, in per cent (`kind` says otherwise)",
        "no chance level is given, and the table shows none: 0 is taken; a task with k choices has 1 / k (`chance`)",
        "without the number of questions (`trials`) the noise is told from the scatter about the law alone",
    )  # fmt: skip
    assert (plain.x_names, plain.metric, plain.trials.tolist(), plain.trend) == (
        ("x",), Metric("accuracy", True, 100.0), [np.inf] * 4, "falls",
    )  # fmt: skip
    assert share_analysis._notes(Metric("acc"), A([1.0]), None, "fitted", share_fit(converged=False)) == [
        "'acc' is read as a share of successes (`kind` says otherwise)",
        "the chance level is fitted; where the number of choices is known, give it as `chance`",
        "the fit did not converge: its parameters are not identified by this table",
    ]  # fmt: skip
    backwards = analyse_shares(ROWS["x"][::-1], ROWS["values"][::-1], chance=0.25, trials=[4, 3, 2, 1])
    assert (backwards.successes.tolist(), backwards.trials.tolist()) == (ROWS["values"], [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("change", "words", "field", "value"),
    [
        ({"trials": 0.5}, "`trials` must be numbers of questions, at least 1 in every row", "trials", None),
        ({"trials": [1, 2, np.nan, 4]}, "`trials` must be numbers of questions, at least 1 in every row", "trials", None),  # noqa: E501
        ({"chance": 0.95}, "`chance` is 0.95; it is a share of successes of 'accuracy', from 0 to 0.95", "chance", 0.95),  # noqa: E501
        ({"chance": -0.1}, "`chance` is -0.1; it is a share of successes of 'accuracy', from 0 to 0.95", "chance", -0.1),  # noqa: E501
        ({"x": [1, 1, 2, 2]}, "the table has 2 distinct values of 'x' in 4 rows; the law 'logistic' needs at least 3", None,  # noqa: E501
         None),
    ],
)  # fmt: skip
def test_laws_of_shares_that_are_refused(change, words, field, value):
    with pytest.raises(InputError) as caught:
        analyse_shares(**ROWS | change)
    assert (str(caught.value), caught.value.field, caught.value.value) == (words, field, value)


def test_a_chance_and_one_question_are_enough():
    assert analyse_shares(**ROWS, trials=1).trials.tolist() == [1] * 4
    assert share_analysis._floor(0.0, Metric("a")) == 0.0
    assert share_analysis._floor(94.9, Metric("a", unit=100.0)) == pytest.approx(0.949)
    assert share_analysis._floor(None, Metric("a")) is None


def test_of_few_scales_few_shapes_are_fitted():
    assert list(analyse_shares(ROWS["x"][:3], ROWS["values"][:3]).fits) == ["logistic"]
    assert list(analyse_shares(**ROWS).fits) == ["logistic", "logistic_floor", "logistic_ceiling"]


def test_a_link_has_a_slope_per_unit_of_loss():
    trend = TrendResult("rises", Interval(-0.5, -0.75, -0.25), 0.95)
    assert _trend_words("loss", trend, Metric("acc"), False) == (
        "changes with loss by 0.5 (0.25 to 0.75) in the log of its odds per unit"
    )  # fmt: skip


def test_baselines_of_shares():
    """The mean of the two runs at 8; the line through 4 and 8, whose odds double: 16 times 4/8 ... at 32 odds of 16."""
    x = A([1.0, 4.0, 8.0, 8.0])
    odds = A([1.0, 2.0, 4.0, 4.0])
    found = _baselines(x, odds / (1 + odds), A([32.0]), Metric("acc", unit=100.0))
    assert found["last value"][0].tolist() == pytest.approx([80.0])
    assert found["tail line"][0].tolist() == pytest.approx([100 * 16 / 17])
    assert found["tail line"][1] is found["tail line"][2]
    assert list(_baselines(A([2.0, 2.0]), A([0.2, 0.4]), A([4.0]), Metric("a"))) == ["last value"]
    sure = _baselines(A([1.0, 2.0]), A([0.0, 1.0]), A([2.0]), Metric("a"))
    assert sure["tail line"][0] == pytest.approx([0.999])
    assert _quality(A([1.0, 2.0]), None, 0.9) == (None, None, None)
    same = A([1.0, 3.0])
    assert _quality(A([1.0, 2.0]), (same, same, same), 0.9) == (pytest.approx(0.5**0.5), None, None)
    error, covered, score = _quality(A([1.0, 2.0]), (same, same - 0.5, same + 0.5), 0.9)
    assert (error, covered) == (pytest.approx(0.5**0.5), 0.5)
    assert score == pytest.approx((1 + 1 + 20 * 0.5) / 2)  # width 1 each; one misses its lower end by 0.5


# ---------------------------------------------------------------------------------------------- two steps


class Loss:
    """Predicts the loss 1 / x, give or take nothing."""

    x_names, loss_name, by = ("N",), "nll", "a stub"

    def predict(self, points, level=0.9):
        x = np.asarray(points, float).reshape(-1, 1)
        value = 1 / x[:, 0]
        return SimpleNamespace(x=x, median=value, low=value, high=value, beyond=np.ones(len(x)))


def test_a_share_is_read_off_a_loss():
    """Odds exp(4 - 4 loss): at a loss of 1 one half, at 1/2 exp(2)."""
    losses = A([3.0, 2.0, 1.5, 1.0, 0.5, 0.25, np.nan, 2.0])
    shares = expit(4 - 4 * losses)
    shares[7] = np.nan
    found = link_task(Loss(), losses, shares, trials=np.full(8, 1e6), chance=0.0, loss_name="acc", notes=("first",))
    assert (found.n_loss_rows, found.link.x_names, found.link.log, found.notes) == (6, ("nll",), False, ("first",))
    assert found.link.trials.tolist() == [1e6] * 6
    assert found.parameters["b"].estimate == pytest.approx(-4, abs=0.01)
    ahead = found.predict([1.0, 2.0])
    assert ahead.median == pytest.approx(expit([0, 2]), abs=2e-3)
    assert (ahead.loss.tolist(), ahead.via, ahead.loss_name, ahead.x_names) == ([1, 0.5], "nll", "acc", ("N",))
    assert ahead.by == f"nll, itself by a stub, and {found.link.predictor.by}"
    assert found.verdict == f"nll predicted from N; {found.link.verdict}"
    lines = found.summary().splitlines()
    assert lines[:4] == [found.verdict, "", "step 1: nll from N, the forecast of 6 runs", "step 2:"]
    assert lines[4].startswith("law logistic: acc = chance")
    assert lines[-1] == "  note: first"
    assert link_task(Loss(), losses, shares, n_loss_rows=9).n_loss_rows == 9
    wrong = link_task(Loss(), losses, 1 - shares, loss_name="acc")
    assert wrong.notes == ("the odds of 'acc' do not fall as 'nll' grows: the link has no use here",)
    with pytest.raises(InputError) as caught:
        link_task(Loss(), losses[:3], shares[:3])
    assert (str(caught.value), caught.value.field, caught.value.value) == (
        "'accuracy' and 'nll' are both known in 3 rows; a link from loss to share needs at least 4 different losses", "via",  # noqa: E501
        "nll",
    )  # fmt: skip
    assert link_task(Loss(), losses[:4], shares[:4]).n_loss_rows == 4
    joined = TaskPredictor(Loss(), found.link.predictor)
    assert joined._losses(A([[2.0]])).shape == (500, 1)
    assert set(joined._losses(A([[2.0]]))[:, 0]) == {0.5}


# ---------------------------------------------------------------------------------------------- schedules


def test_rates_between_the_steps_that_are_known():
    found = Schedule.of([5, 3], [1.0, 2.0])
    assert found.rates == pytest.approx([2 / 3, 4 / 3, 2, 1.5, 1])  # from 0 at step 0 to the first known one
    assert (found.warmup, found.sum_unit, found.summed.tolist()) == (2, 1.0, pytest.approx([2 / 3, 2, 4, 5.5, 6.5]))
    assert Schedule.of([1, 2], [1.0, 0.5]).rates.tolist() == [1.0, 0.5]
    assert Schedule.of([0, 2], [1.0, 0.5]).rates.tolist() == [0.75, 0.5]
    half = found.scaled(2.0, 13.0)
    assert (half.rates.tolist(), half.warmup, half.summed[-1]) == (
        pytest.approx([1 / 3, 2 / 3, 1, 0.75, 0.5]),
        2,
        pytest.approx(0.5),
    )
    assert Schedule.of([1, 2, 3], [0.9985, 0.9991, 1.0]).warmup == 1


@pytest.mark.parametrize(
    ("steps", "rates", "words"),
    [
        ([], [], "a schedule needs finite steps, at least 0, with a finite rate each"),
        ([-1.0], [1.0], "a schedule needs finite steps, at least 0, with a finite rate each"),
        ([np.nan], [1.0], "a schedule needs finite steps, at least 0, with a finite rate each"),
        ([1.0], [np.inf], "a schedule needs finite steps, at least 0, with a finite rate each"),
        ([1.0, 2.0], [1.0, -1.0], "a schedule has rates of at least 0, some above, and steps of at least 1"),
        ([1.0], [0.0], "a schedule has rates of at least 0, some above, and steps of at least 1"),
        ([0.5], [1.0], "a schedule has rates of at least 0, some above, and steps of at least 1"),
        ([2e7], [1.0], "a schedule of 2e+07 steps is longer than 10,000,000"),
    ],
)
def test_schedules_that_are_none(steps, rates, words):
    with pytest.raises(InputError) as caught:
        Schedule.of(steps, rates)
    assert (str(caught.value), caught.value.field) == (words, "schedule")


def test_the_longest_schedule(monkeypatch):
    monkeypatch.setattr(schedules, "MOST_STEPS", 3)
    assert len(Schedule.of([3], [1.0]).rates) == len(Schedule.named("constant:peak=1,steps=3").rates) == 3
    for make in (lambda: Schedule.of([4], [1.0]), lambda: Schedule.named("constant:peak=1,steps=4")):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize(
    ("text", "rates", "warmup"),
    [
        ("constant:peak=2,steps=3", [2, 2, 2], 0),
        ("constant:peak=2,steps=4,warmup=2", [1, 2, 2, 2], 1),
        ("linear:peak=1,steps=4,end=0", [0.75, 0.5, 0.25, 0], 0),
        ("linear:peak=1,steps=4", [0.775, 0.55, 0.325, 0.1], 0),
        ("linear: peak=1, steps=4,warmup=2,end=0.5", [0.5, 1, 0.75, 0.5], 1),
        ("cosine:peak=2,steps=2,end=0", [1, 0], 0),
        ("wsd:peak=1,steps=10,end=0", [1] * 8 + [0.5, 0], 0),
        ("wsd:peak=1,steps=4,decay=0.5,warmup=1,end=0", [1, 1, 0.5, 0], 0),
        ("wsd:peak=1,steps=4,decay=1,warmup=2,end=0", [0.5, 1, 0.5, 0], 1),
    ],
)
def test_schedules_by_name(text, rates, warmup):
    found = Schedule.named(text)
    assert found.rates == pytest.approx(rates, abs=1e-12)
    assert found.warmup == warmup
    assert Schedule.read(text).rates.tolist() == found.rates.tolist()
    assert Schedule.read(found) is found


LIMITS = "`schedule`: warmup is below steps, and decay and end are at most 1"


@pytest.mark.parametrize(
    ("text", "words", "value"),
    [
        ("cosine:peak=1", "`schedule` has no steps; give cosine:peak=3e-4,steps=24000", False),
        ("cosine:steps=1", "`schedule` has no peak; give cosine:peak=3e-4,steps=24000", False),
        ("cosine:peak=0,steps=5", "`schedule` has no peak; give cosine:peak=3e-4,steps=24000", False),
        ("constant:peak=1,steps=2,end=1", "`schedule`: 'end=1' is no setting of 'constant'; give peak, steps, warmup as "  # noqa: E501
                                          "numbers", True),
        ("cosine:peak=1,steps", "`schedule`: 'steps' is no setting of 'cosine'; give peak, steps, warmup, end as numbers",  # noqa: E501
         True),
        ("wsd:peak=-1", "`schedule`: 'peak=-1' is no setting of 'wsd'; give peak, steps, warmup, end, decay as numbers", True),  # noqa: E501
        ("wsd:peak=inf", "`schedule`: 'peak=inf' is no setting of 'wsd'; give peak, steps, warmup, end, decay as numbers",  # noqa: E501
         True),
        ("wsd:peak=a", "`schedule`: 'peak=a' is no setting of 'wsd'; give peak, steps, warmup, end, decay as numbers", True),  # noqa: E501
        ("cosine:peak=1,steps=5,warmup=5", LIMITS, False),
        ("wsd:peak=1,steps=5,decay=1.5", LIMITS, False),
        ("cosine:peak=1,steps=5,end=1.5", LIMITS, False),
    ],
)  # fmt: skip
def test_names_of_schedules_that_are_none(text, words, value):
    with pytest.raises(InputError) as caught:
        Schedule.named(text)
    assert (str(caught.value), caught.value.field, caught.value.value) == (words, "schedule", text if value else None)


def test_schedules_from_tables_and_files(tmp_path):
    for source in ({"step": [1, 2], "lr": [1.0, 0.5]}, Table({"Step": [1, 2], "learning_rate": [1.0, 0.5]}, "t")):
        assert Schedule.read(source).rates.tolist() == [1.0, 0.5]
    path = tmp_path / "s.csv"
    path.write_text("step,lr\n1,1.0\n2,0.5\n")
    for source in (path, str(path)):
        assert Schedule.read(source).rates.tolist() == [1.0, 0.5]
    with pytest.raises(InputError, match=r"^the schedule 'sine' is neither a file nor a name; ") as caught:
        Schedule.read("sine")
    assert (caught.value.field, caught.value.value) == ("schedule", "sine")
    for columns in ({"step": [1]}, {"lr": [1]}):
        with pytest.raises(InputError) as caught:
            columns_of_schedule(Table(columns, "t"))
        assert (str(caught.value), caught.value.field) == (
            "t is no schedule: it needs columns 'step' and 'lr'",
            "schedule",
        )


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([3, 2], "step 2 is outside the schedule's steps after its warm-up, 3 to 5"),
        (6, "step 6 is outside the schedule's steps after its warm-up, 3 to 5"),
        ([3.5], "step 3.5 is not one of the steps, 3 to 5"),
    ],
)
def test_steps_that_are_none_of_a_schedule(at, words):
    one = Schedule(np.ones(5), 2)
    assert one.steps([3, 5]).tolist() == [3, 5]
    assert one.steps(4).tolist() == [4]
    with pytest.raises(InputError) as caught:
        one.steps(at)
    assert (str(caught.value), caught.value.field) == (words, "at")
    assert f"step {caught.value.value:g} " in words


THETA = A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6])


def predictor(**changes):
    given = {"theta": THETA, "covariance": np.zeros((7, 7)), "rate_unit": 1e-3, "sum_unit": 1e-2, "noise": 0.0,
             "discrepancy": 0.0, "loss_name": "nll", "longest": (A([5, 10]), A([3.0, 2.5]))}  # fmt: skip
    return SchedulePredictor(**given | changes)


def test_the_loss_under_a_constant_rate():
    """Without a decay the loss is L0 + A S^-alpha: at the unit of the sums 2 + 0.06, at a quarter 2 + 0.12."""
    one = predictor()
    found = one.predict("constant:peak=1e-3,steps=40", at=[40, 10])
    assert found.at.tolist() == [10, 40]
    assert found.median == pytest.approx([2.06, 2.03])
    assert found.low == pytest.approx(found.median)
    assert found.high == pytest.approx(found.median)
    assert found.beyond == pytest.approx([1.0, 4.0])
    assert (found.rate.tolist(), found.level, found.loss_name, found.by, found.x_names) == (
        [1e-3, 1e-3], 0.9, "nll", "multi_power", ("step",),
    )  # fmt: skip
    end = one.predict("constant:peak=1e-3,steps=10")
    assert (end.at.tolist(), end.beyond.tolist()) == ([10], [1.0])
    assert one.in_units(THETA) == pytest.approx([2, 0.006, 0.5, 45, 2000 * 1e-3**0.6 / 1e-2, 0.6, 0.6])
    with pytest.raises(InputError, match="level"):
        one.predict("constant:peak=1,steps=2", level=0.0)
    rows = one.of_rows(Table({"step": [10, 40, 1, 40], "lr": [1e-3, 1e-3, 5e-4, 1e-3]}, "t"))
    assert np.isnan(rows["median"]).tolist() == [False, False, True, False]
    assert rows["median"][1] == rows["median"][3]
    assert rows["beyond"][0] == pytest.approx(1.0)


def test_noise_about_a_curve():
    """Noise 0.03 and discrepancy 0.04 make 0.05; past the longest run the discrepancy is 1 + ln 4 times as large."""
    noisy = predictor(noise=0.03, discrepancy=0.04).predict("constant:peak=1e-3,steps=40", 0.9, [10, 40])
    wide = np.hypot(0.03, 0.04 * (1 + np.log(4)))
    assert np.log(noisy.high / noisy.median) == pytest.approx(1.645 * A([0.05, wide]), rel=0.02)
    assert np.log(noisy.median / noisy.low) == pytest.approx(1.645 * A([0.05, wide]), rel=0.02)
    spread = predictor(covariance=np.diag([0.01, 0, 0, 0, 0, 0, 0.04]))
    assert spread.draws.shape == (300, 7)
    assert spread.draws[:, 0].std() == pytest.approx(0.1, rel=0.15)
    assert spread.draws[:, 6].std() == pytest.approx(0.2, rel=0.15)
    ends = parameters_of(THETA, spread, 0.8)
    assert list(ends) == ["L0", "A", "alpha", "B", "C", "beta", "gamma"]
    assert ends["gamma"] == pytest.approx((0.6, *np.quantile(spread.draws[:, 6], [0.1, 0.9])))
    assert ends["L0"][0] == pytest.approx(2.0)
    assert ends["alpha"] == pytest.approx((0.5, 0.5, 0.5))
    again = SchedulePredictor.of(noisy_record := predictor(noise=0.03, discrepancy=0.04).record())
    assert (noisy_record.link, noisy_record.noise, noisy_record.growth, noisy_record.x, noisy_record.loss) == (
        "schedule", 0.03, 0.04, (5.0, 10.0), (3.0, 2.5),
    )  # fmt: skip
    assert (noisy_record.rate_unit, noisy_record.sum_unit, noisy_record.loss_name) == (1e-3, 1e-2, "nll")
    assert again.predict("constant:peak=1e-3,steps=40", 0.9, [10, 40]).rows() == noisy.rows()


def test_a_short_curve_has_marks():
    one = predictor().predict("constant:peak=1e-3,steps=40", at=[10, 40])
    assert isinstance(one, CurvePrediction)
    assert one.plot().lines[0].get_marker() == "o"
    assert predictor().predict("constant:peak=1e-3,steps=40", at=[10, 20, 40]).plot().lines[0].get_marker() == "None"


LONG = {"run": [*"aaaab"], "step": [1, 2, 3, 3, 1], "lr": [0.5, 1.0, 1.0, 1.0, 1.0], "loss": [5.0, 4.0, 3.0, 9.0, 7.0]}


def test_the_runs_of_a_long_table():
    """Run a warms up in its first step and has step 3 twice; run b has one step."""
    runs, name, notes = runs_of(Table(LONG, "t"))
    assert (name, [run.name for run in runs]) == ("loss", ["a", "b"])
    assert (runs[0].steps.tolist(), runs[0].loss.tolist(), runs[0].schedule.warmup) == ([2, 3], [4, 3], 1)
    assert (runs[1].steps.tolist(), runs[1].loss.tolist()) == ([1], [7])
    assert notes == (
        "1 rows left out: in a warm-up", "1 rows left out: a step of the run once more (the first row of it counts)",
    )  # fmt: skip
    bad = Table({**LONG, "lr": [0.5, 1.0, 1.0, np.nan, np.nan], "loss": [5.0, 0.0, 3.0, 9.0, 7.0]}, "t")
    runs, _, notes = runs_of(bad)
    assert [run.steps.tolist() for run in runs] == [[3]]
    assert notes == (
        "2 rows left out: no number in 'step' or 'lr'", "1 rows left out: no number above 0 in 'loss'",
        "1 rows left out: in a warm-up", "1 of 2 runs have no row left (b)",
    )  # fmt: skip
    alone = runs_of(Table({"step": [1, 2], "lr": [1.0, 1.0], "loss": [2.0, 1.0]}, "t"))
    assert [(run.name, run.steps.tolist()) for run in alone[0]] == [("1", [1, 2])]
    assert alone[2] == ()
    assert _steps_and_rates(Table(LONG, "t")) == ("step", "lr")
    for column, words in (
        ("step", "no column of steps (such as 'step')"),
        ("lr", "no column of learning rates (such as 'lr')"),
    ):
        with pytest.raises(InputError) as caught:
            runs_of(Table({name: cells for name, cells in LONG.items() if name != column}, "t"))
        assert (str(caught.value), caught.value.field) == (
            f"t has {words}, which the law 'multi_power' needs", "law",
        )  # fmt: skip
    with pytest.raises(InputError) as caught:
        _require_whole(A([1.0, np.nan, 2.5, 3.5]), "step", "t")
    assert (str(caught.value), caught.value.field, caught.value.value) == (
        "'step' is 2.5 in row 3 of t (2 such rows); steps are whole numbers", "step", 2.5,
    )  # fmt: skip


def test_too_few_checkpoints_for_the_law():
    run = Run("a", Schedule(np.ones(9), 0), np.arange(1, 8), np.ones(7))
    with pytest.raises(InputError) as caught:
        fit_multi_power([run])
    assert (str(caught.value), caught.value.field) == (
        "the table has 7 checkpoints after the warm-up; the law 'multi_power' needs at least 8", "law",
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        fit_curves(Table(LONG, "t"))
    assert str(caught.value) == (
        "the table has 3 checkpoints after the warm-up; the law 'multi_power' needs at least 8 (1 rows left out: in a "
        "warm-up; 1 rows left out: a step of the run once more (the first row of it counts))"
    )
    with pytest.raises(InputError, match="has no column 'zz'"):
        fit_curves(Table(LONG, "t"), group="zz")
    with pytest.raises(InputError, match=r"^a: the table has 1 checkpoints"):
        fit_curves(Table({**LONG, "loss": [0, 0, 1, 0, 1]}, "t"), group="run")
    with pytest.raises(InputError, match="level"):
        fit_multi_power([run], level=2.0)
    with pytest.raises(InputError, match="step 10 is outside"):
        fit_multi_power([replace(run, steps=np.arange(4, 11))])


# ---------------------------------------------------------------------------------------------- scoring


PRIOR = A([1 / 60**2, 1 / 10**2, 0.0, 0.0])  # precisions of a and b in standard units


@pytest.mark.parametrize(
    ("y", "free", "chance"),
    [
        ([0.1, 0.2, 0.5, 0.7, 0.95], (True, True, False, False), 0.0),
        ([0.3, 0.2, 0.5, 0.7, 0.95], (True, True, True, False), 0.1),
        ([0.1, 0.2, 0.5, 0.7, 0.8], (True, True, False, True), 0.05),
        ([0.3, 0.28, 0.5, 0.8, 0.82], (True, True, True, True), 0.1),
        ([0.0, 0.0, 0.0, 1.0, 1.0], (True, True, False, False), 0.0),  # separated: the prior alone keeps it finite
    ],
)
def test_scoring_ends_where_no_other_search_gets_lower(y, free, chance):
    """SciPy's own search from there, and from elsewhere, finds nothing lower inside the bounds."""
    t, y, weight, free = A([-1.4, -0.7, 0.0, 0.7, 1.4])[:, None], A(y), np.full(5, 30.0), A(free)
    start = A([0.0, 1.0, chance, 0.0])
    theta, value, converged = _scored(start, free, t, y, weight)

    def objective(moving):
        whole = np.where(free, 0.0, start)
        whole[free] = moving
        return _deviance(_derivatives(whole, t)[0], y, weight) + float(PRIOR @ whole**2)

    assert value == pytest.approx(objective(theta[free]))
    bounds = A([(-200, 200), (-30, 30), (0, 0.95), (0, 0.95)])[free]
    for begin in (theta, A([0.5, 2.0, 0.2, 0.1])):
        other = minimize(objective, begin[free], bounds=bounds, method="L-BFGS-B")
        assert other.fun >= value - 1e-5 * (1 + value)
    assert converged
    assert theta[~free].tolist() == start[~free].tolist()


def test_chance_and_what_is_missed_leave_something_between_them():
    """Of shares that do not move chance and ceiling meet: together they are at most 0.98, and at a given chance of 1/4
    at most 0.73 is missed."""
    t, weight = np.linspace(-1, 1, 6)[:, None], np.full(6, 1e4)
    theta, _, _ = _scored(A([0.0, 1.0, 0.9, 0.9]), A([True] * 4), t, np.full(6, 0.5), weight)
    assert theta[2] + theta[3] <= 0.98 + 1e-9
    theta, _, _ = _scored(A([0.0, 0.0, 0.25, 0.9]), A([False, False, False, True]), t, np.full(6, 0.25), weight)
    assert theta.tolist() == pytest.approx([0.0, 0.0, 0.25, 0.73])
    theta, _, _ = _scored(A([0.0, 0.0, 0.0, 0.5]), A([False, False, False, True]), t, np.full(6, 0.0), weight)
    assert theta[3] == pytest.approx(0.98)
    steep, _, _ = _scored(A([0.0, 1.0, 0.0, 0.0]), A([True, True, False, False]), t, np.repeat([0.0, 1.0], 3),
                          np.full(6, 1e12))  # fmt: skip
    assert steep[1] == pytest.approx(30.0, rel=0.2)
    assert steep[1] <= 30.0
