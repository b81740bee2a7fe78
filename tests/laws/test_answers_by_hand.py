"""What forecasts, groups, corners, profiles, costs and optima hold and say, of numbers chosen or worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.laws import allocation
from metascale.laws.approaches import Allocation, CrossCheck, cross_check, envelope, isoflop
from metascale.laws.corners import CornerTest, corners
from metascale.laws.cost import SIX_N_D, CostLaw, fit_cost
from metascale.laws.evaluation import row_weights, run_variance, weigh
from metascale.laws.families import LAWS
from metascale.laws.fitting import LawFit, fit_law
from metascale.laws.forecasting import Forecast, SeriesPredictor, SlopeModel, forecast
from metascale.laws.groups import Grouped
from metascale.laws.held_out import Prediction
from metascale.laws.irregular import _far_outside
from metascale.laws.likelihood import LikelihoodProfile, _crossings, profile
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.record import TrendResult

A = np.array
STEP = A([0.0, 1.0, 2.0, 3.0])
WAVE = 0.1 * A([1.0, -1.0, -1.0, 1.0])  # neither a mean nor a slope: squares 0.04
TABLE = observe(np.exp(STEP), np.exp(-0.5 * STEP + WAVE), x_name="N", loss_name="L")


@pytest.fixture(scope="module")
def line() -> LawFit:
    """N^-1/2 and the wave, by least squares."""
    return fit_law(LAWS["power"], TABLE, LeastSquares())


# ------------------------------------------------------------------------------------------- forecasts


def test_a_forecast_in_words_rows_and_record() -> None:
    predictor = SeriesPredictor(TABLE)
    found = Forecast(
        A([30.0, 20.0]),
        A([0.25, 0.5]),
        A([0.125, 0.25]),
        A([0.5, 1.0]),
        0.8,
        {"power": A([1.0, 2.0])},
        {"power": A([0.5, 0.5])},
        {"last_value": A([3.0, 4.0]), "tail_line": A([5.0, 6.0])},
        0.02,
        "N",
        "L",
        ("said",),
        predictor,
    )
    assert found.summary().splitlines() == [
        f"{'N':>14}{'L':>14}{'80 % interval':>26}{'tail line':>12}",
        f"{'30':>14}{'0.25':>14}{'0.125 to 0.5':>26}{'5':>12}",
        f"{'20':>14}{'0.5':>14}{'0.25 to 1':>26}{'6':>12}",
        "note: said",
    ]
    assert found.rows()[0] == {
        "N": 30.0,
        "median": 0.25,
        "low": 0.125,
        "high": 0.5,
        "last_value": 3.0,
        "tail_line": 5.0,
    }
    assert set(found.to_json()) == {
        "at",
        "median",
        "low",
        "high",
        "level",
        "members",
        "weights",
        "baselines",
        "noise_log",
        "x_name",
        "loss_name",
        "notes",
    }
    assert found.label == "forecast of one run (80 %)"
    band = found.band()
    assert (band.x, band.median, band.low, band.high) == ((20.0, 30.0), (0.5, 0.25), (0.25, 0.125), (1.0, 0.5))
    record = found.record()
    assert (record.law, record.x_names, record.loss_name, record.level, record.notes) == (
        "forecast",
        ("N",),
        "L",
        0.8,
        ("said",),
    )
    assert (record.n_observations, record.n_scales) == (4, 4)
    stored = record.predictor
    assert stored is not None
    assert (stored.link, stored.low, stored.high, stored.checkpoints) == (
        "log",
        (1.0,),
        (pytest.approx(math.e**3),),
        False,
    )
    assert (stored.reversion, stored.diffusion, stored.error) == (0.45, 3.0, ())
    again = SeriesPredictor.from_record(replace(stored, reversion=0.5, checkpoints=True, error=(0.1,) * 4))
    assert (again.model, again.checkpoints, again.observations.loss.tolist()) == (
        SlopeModel(0.5, 3.0),
        True,
        TABLE.loss.tolist(),
    )
    assert again.observations.error.tolist() == [0.1] * 4  # type: ignore[union-attr]
    assert (predictor.x_names, predictor.loss_name) == (("N",), "L")
    assert predictor.by == "the forecast: local slope and power_irreducible, m3 together"
    axes = found.plot()
    assert axes.lines[-1].get_xydata().tolist() == [[20.0, 6.0], [30.0, 5.0]]
    assert axes.lines[-1].get_linestyle() == "--"
    ahead = predictor.predict([math.e**4, 0.5, math.e])
    assert ahead.beyond == pytest.approx([math.e, 2.0, 1.0])
    assert ahead.level == 0.90


def test_notes_of_a_forecast() -> None:
    x = 2.0 ** np.arange(8)
    notes = forecast(x, 1 / x, [64.0, 128 * 33], x_name="N").notes
    assert notes == (
        "N = 4224 is 33 times the largest scale seen; intervals were tested up to 32 times",
        "at scales inside the table the laws are averaged, without the local slope",
    )
    assert forecast(x, 1 / x, [128 * 32.0]).notes == ()
    assert forecast(x[:7], 1 / x[:7], [128.0]).notes == (
        "only 7 distinct scales: the interval relies on how scaling curves usually behave",
    )
    (note,) = forecast(x, 1 / x, [256.0], checkpoints=True).notes
    assert note.startswith(
        "the rows are checkpoints of a run: a rate that decays after them lowers the loss by up to some 5 %"
    )
    assert forecast(x, 1 / x, [256.0], x_name="step").notes == (note,)
    assert forecast(x, 1 / x, [256.0], x_name="step", checkpoints=False).notes == ()


# ------------------------------------------------------------------------------------------- groups, corners, profiles


def grouped(**changed: Any) -> Grouped:
    one, two = ({"estimate": value, "low": value - 0.125, "high": value + 0.125} for value in (0.5, 0.25))
    given = {
        "law": "power",
        "reference": "a",
        "fits": {"a": 1, "b": 2},
        "trends": {"a": TrendResult("falls", None, 0.9), "b": TrendResult("undecided", None, 0.9)},
        "exponents": {"a": one, "b": two},
        "shared": {"estimate": 0.375, "low": 0.25, "high": 0.5},
        "differences": {"b": {"estimate": -0.25, "low": -0.5, "high": 0.0}},
        "statistic": 3.5,
        "p_value": 0.05,
        "level": 0.9,
        "notes": ("said",),
    }
    return Grouped(**{**given, **changed})


def test_groups_in_words() -> None:
    found = grouped()
    assert found.summary().splitlines() == [
        "the exponents differ (p = 0.05); 'a' falls fastest with scale ('b' is undecided)",
        f"  {'group':<24}{'exponent':>10}   90 % interval       minus 'a'",
        f"  {'a':<24}{'0.5000':>10}   0.3750 to 0.6250",
        f"  {'b':<24}{'0.2500':>10}   0.1250 to 0.3750   -0.2500 (-0.5000 to +0.0000)",
        f"  {'shared':<24}{'0.3750':>10}   0.2500 to 0.5000",
        "  note: said",
    ]
    stored = found.to_json()
    assert set(stored) == {
        "law",
        "reference",
        "exponents",
        "shared",
        "differences",
        "statistic",
        "p_value",
        "level",
        "verdict",
        "trends",
        "notes",
    }
    assert (stored["trends"]["b"]["answer"], stored["notes"], stored["verdict"]) == (
        "undecided",
        ["said"],
        found.verdict,
    )
    assert [grouped(p_value=p, level=0.5).better_shared for p in (0.5, 0.51)] == [False, True]
    assert grouped(p_value=0.11).verdict == (
        "one exponent 0.375 serves all 2 groups (p = 0.11): no evidence that one scales better ('b' is undecided)"
    )
    flat = {name: TrendResult("none", None, 0.9) for name in "ab"}
    assert (
        grouped(trends=flat).verdict
        == "no group shows a trend: their exponents (p = 0.05 for a shared one) describe noise"
    )
    rises = {"a": TrendResult("rises", None, 0.9), "b": TrendResult("falls", None, 0.9)}
    assert grouped(trends=rises).verdict == "the exponents differ (p = 0.05); 'a' has the largest exponent ('a' rises)"
    three = {
        "a": TrendResult("falls", None, 0.9),
        "b": TrendResult("not monotone", None, 0.9),
        "c": TrendResult("none", None, 0.9),
    }
    assert grouped(trends=three).verdict.endswith("('b' is not monotone, 'c' shows no trend)")


def test_hidden_corners_in_words() -> None:
    found = CornerTest(
        ("top", "upper part"), {"f": (0.5, 0.25), "g": (0.25, 0.5)}, (0.125, 0.375), (1.0, 0.5), (4, 6), 0.8, "log"
    )
    assert found.summary().splitlines() == [
        f"{'hidden corner':<28}{'rows':>6}{'rmse of ln loss':>18}{'inside 80 %':>14}  best form",
        f"{'top':<28}{4:>6}{'0.125':>18}{'100':>12} %  g (0.25)",
        f"{'upper part':<28}{6:>6}{'0.375':>18}{'50':>12} %  f (0.25)",
    ]
    assert found.to_json() == {
        "level": 0.8,
        "residuals": "ln loss",
        "corners": [
            {"corner": "top", "hidden": 4, "rmse": 0.125, "coverage": 1.0, "f": 0.5, "g": 0.25},
            {"corner": "upper part", "hidden": 6, "rmse": 0.375, "coverage": 0.5, "f": 0.25, "g": 0.5},
        ],
    }
    assert [replace(found, link="identity").measured, replace(found, metric="acc").measured] == ["loss", "acc"]
    many = replace(found, errors={name: (k + 1.0, k + 1.0) for k, name in enumerate("gfedcba")})
    axes = many.plot()
    assert [one.get_label() for one in axes.lines] == [*"gfedc", "forms together"]
    assert (axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "hidden corner", "rmse of ln loss")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["top", "upper part"]


def test_the_cuts_of_a_table_in_several_scales() -> None:
    """Five by five: 40 and 25 % of the products (10 % are 3 rows, less than 4), and the largest value, or two values,
    of each scale."""
    grid = np.stack(np.meshgrid(2.0 ** np.arange(5), 3.0 ** np.arange(5)), -1).reshape(-1, 2)
    found = dict(corners(grid))
    assert list(found) == [
        "top 40 % of the product",
        "top 25 % of the product",
        "top of scale 1",
        "upper part of scale 1",
        "top of scale 2",
        "upper part of scale 2",
    ]
    assert (found["top of scale 1"] == (grid[:, 0] < 16)).all()
    assert (found["upper part of scale 2"] == (grid[:, 1] < 27)).all()
    one = dict(corners(np.geomspace(1, 1000, 20)[:, None]))
    assert {name: int((~kept).sum()) for name, kept in one.items()} == {
        "top 40 % of the product": 8,
        "top 25 % of the product": 5,
    }
    assert corners(np.ones((2, 1))) == []


def test_a_profile_in_words_and_where_it_crosses(line: LawFit) -> None:
    found = LikelihoodProfile("E", A([1.0, 2.0]), A([0.5, 0.25]), {"A": A([3.0, 4.0])}, 0.9, 4.0, 1.25, 2.5)
    assert found.summary() == "E: 90 % profile interval 1.25 to 2.5"
    assert found.to_json() == {
        "parameter": "E",
        "values": [1.0, 2.0],
        "deviance": [0.5, 0.25],
        "others": {"A": [3.0, 4.0]},
        "level": 0.9,
        "threshold": 4.0,
        "low": 1.25,
        "high": 2.5,
        "identified": True,
    }
    opened = replace(found, low=-math.inf)
    assert opened.summary() == "E: 90 % profile interval open to 2.5: not identified by this table"
    assert (opened.to_json()["low"], opened.to_json()["identified"], replace(found, high=math.inf).identified) == (
        None,
        False,
        False,
    )
    axes = found.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("E", "rise of -2 log likelihood")
    assert axes.get_legend_handles_labels()[1] == ["profile of E", "90 % threshold"]
    assert axes.lines[1].get_ydata()[0] == 4.0
    values = A([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert _crossings(values, values**2, 0.0, 2.5) == (pytest.approx(-1.5), pytest.approx(1.5))
    assert _crossings(values, A([0.5, 0.2, 0.0, 1.0, 3.0]), 0.0, 2.0) == (-math.inf, pytest.approx(1.5))
    assert _crossings(values, values * 0, 0.0, 2.0) == (-math.inf, math.inf)
    assert _crossings(values, values * 0 + 5, 0.0, 2.0) == (0.0, 0.0)
    # Of a straight line: -2 log likelihood rises by n ln(1 + s^2 Sxx / squares) along the exponent.
    rise = profile(line, "alpha", level=0.9, n_points=5, reach=1.0)
    moved = (rise.values[-1] - 0.5) ** 2 * 5 / 0.04
    assert rise.deviance[-1] == pytest.approx(4 * math.log1p(moved))
    assert (rise.threshold, len(rise.values), rise.values[2]) == (
        pytest.approx(2.919986**2, rel=1e-6),
        5,
        pytest.approx(0.5),
    )
    assert rise.others["A"] == pytest.approx(np.exp(1.5 * (rise.values - 0.5)))


def test_how_far_outside_is_too_far() -> None:
    """1.3 reaches of the interval, on the side of the point, in logarithms."""
    band = Prediction(1.0, math.exp(-0.1), math.exp(0.2))
    assert [_far_outside(band, math.exp(x)) for x in (0.25, 0.27, -0.12, -0.14)] == [False, True, False, True]


# ------------------------------------------------------------------------------------------- costs, errors, optima


def test_a_cost_fitted_by_hand() -> None:
    """2 N D^1/2 exactly, and a row without a cost."""
    n, d = (axis.reshape(-1) for axis in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e10]))
    hours = 2 * n * d**0.5
    found = fit_cost(np.append(n, 1.0), np.append(d, 1.0), np.append(hours, np.nan), "gpu_hours")
    assert found.to_json() == {
        "name": "gpu_hours",
        "k": pytest.approx(2.0),
        "a": pytest.approx(1.0),
        "b": pytest.approx(0.5),
        "rmse_log": pytest.approx(0, abs=1e-9),
        "n": 6,
    }
    assert (found.unit, found.is_flops, found.root.tolist()) == ("gpu_hours", False, np.zeros((3, 3)).tolist())
    assert (
        CostLaw("Training FLOPs", A([0.0, 1, 1]), np.zeros((3, 3)), 0.0, 5).is_flops,
        CostLaw("pf_days", A([0.0, 1, 1]), np.zeros((3, 3)), 0.0, 5).is_flops,
    ) == (True, False)
    assert SIX_N_D.of([2.0], [3.0]) == pytest.approx([36.0])
    assert SIX_N_D.to_json() == {"name": "6 N D", "k": pytest.approx(6.0), "a": 1.0, "b": 1.0, "rmse_log": 0.0, "n": 0}
    drawn = CostLaw("h", A([1.0, 1, 1]), np.diag([0.5, 0.0, 0.0]), 0.1, 9).draws(2000, 0)
    assert (drawn.shape, drawn[0].tolist()) == ((2001, 3), [1, 1, 1])
    assert (drawn[1:, 0].std(), drawn[1:, 1].std()) == (pytest.approx(0.5, rel=0.05), 0.0)


def test_what_evaluation_errors_leave_unexplained() -> None:
    """Of equal errors s: squares / freedom - s^2; none where that is below 0. Weights are inverse variances, 1 "
    "on average."""
    residuals = A([0.3, -0.3, 0.3, -0.3])
    assert run_variance(residuals, np.full(4, 0.1), 3) == pytest.approx(0.36 / 3 - 0.01)
    assert run_variance(residuals, np.full(4, 0.5), 3) == 0.0
    assert row_weights(0.03, A([0.1, 0.3])) == pytest.approx(A([3.0, 1.0]) / 2)
    wave = 0.1 * A([1.0, -2.0, 1.0])  # three scales carry a power law, which leaves squares of 0.06
    loss = np.exp(-0.5 * STEP[:3] + wave)
    found = weigh(observe(np.exp(STEP[:3]), loss, noise=0.01 * loss))
    assert found.weights == pytest.approx(np.ones(3))
    assert found.run_variance == pytest.approx(0.06 - 1e-4, rel=1e-6)
    assert weigh(TABLE) is TABLE


def test_isoflop_and_envelope_by_hand() -> None:
    """Losses exp((ln N - ln C / 2)^2 + 1 - ln C / 10) at ln C = 0, 2, 4 and sizes 0 and ±1 about the minimum."""
    log_c, off = (axis.reshape(-1) for axis in np.meshgrid([10.0, 12.0, 14.0], [-0.5, 0.0, 0.5], indexing="ij"))
    compute, size = np.exp(log_c), np.exp(log_c / 2 + off + 0.1)
    loss = np.exp((off + 0.1) ** 2 + 3 - log_c / 10)
    found = isoflop(compute, size, loss, rise=1.0)
    assert found.n_params == pytest.approx(np.exp([5.0, 6, 7]))
    assert found.loss == pytest.approx(np.exp([2.0, 1.8, 1.6]))
    assert (found.exponent, found.log_coefficient, found.level, found.skipped) == (
        pytest.approx(0.5),
        pytest.approx(0, abs=1e-9),
        0.95,
        0,
    )
    assert found.predict([np.exp(20.0)]) == pytest.approx([np.exp(10.0)])
    assert (found.approach, found.notes) == ("isoFLOP parabolas", ())
    edge = isoflop(np.append(compute, [1e9] * 3), np.append(size, [1, 2, 3]), np.append(loss, [3, 2, 1]))
    assert (edge.skipped, edge.notes) == (1, ("1 levels left out: the lowest loss is at the edge of their sizes",))
    few = isoflop(np.append(compute, [1e9] * 2), np.append(size, [1, 2]), np.append(loss, [3, 2]))
    assert (few.skipped, few.notes) == (1, ("1 levels left out: fewer than 3 sizes",))
    best = envelope([1.0, 1.01, 10.0, 100.0, 1000.0], [2.0, 1.0, 2.0, 4.0, 9.0], [5.0, 4.0, 3.0, 2.0, 2.0])
    assert (best.n_params, best.skipped) == (pytest.approx([1.0, 2.0, 4.0]), 1)
    assert (best.approach, best.notes) == ("envelope", ("1 bins left out: a smaller budget did better",))
    assert best.exponent == pytest.approx(math.log(4) / math.log(100 / 1.01), rel=0.01)
    # Three points: t with one degree of freedom is 12.7062 at 97.5 %, 1 at 75 %.
    wide, narrow = (
        envelope([1.0, 10.0, 100.0], [1.0, 3.0, 4.0], [3.0, 2.0, 1.0], level=level) for level in (0.95, 0.5)
    )
    reach = [one.interval[1] - one.exponent for one in (wide, narrow)]
    assert reach[0] / reach[1] == pytest.approx(12.7062, rel=1e-5)
    left = (
        A([0.0, math.log(3), math.log(4)])
        - A([0.0, math.log(3), math.log(4)]).mean()
        - wide.exponent * A([-1, 0, 1]) * math.log(10)
    )
    assert reach[1] == pytest.approx(math.sqrt(left @ left / (2 * math.log(10) ** 2)))


def test_allocations_side_by_side() -> None:
    """Both at the largest budget, 100: the other's optimum 20 with the ends 20 · 100^∓0.05 about its middle at 10."""
    other = Allocation(
        "envelope", A([1.0, 100.0]), A([2.0, 20.0]), A([3.0, 2.0]), 0.5, math.log(2.0), (0.4, 0.6), 0.9, 1, ("said",)
    )

    def optimum(low: float, middle: float, high: float) -> Any:
        parts = {"estimate": A([1.0, middle]), "low": A([1.0, low]), "high": A([1.0, high])}
        return SimpleNamespace(compute=A([10.0, 100.0]), n_params=parts, cost=SIX_N_D)

    found = CrossCheck(optimum(10, 15, 21), (other,), {"isoFLOP parabolas": "too few"})
    size, low, high = found.at_budget(other)
    assert (size, low, high) == (pytest.approx(20), pytest.approx(20 * 10**-0.1), pytest.approx(20 * 10**0.1))
    assert found.agrees(other)
    assert CrossCheck(optimum(1, 16, 17), (), {}).agrees(other), "the parametric one lies in the other's interval"
    assert not CrossCheck(optimum(1, 15, 19), (), {}).agrees(other)
    assert found.summary().splitlines() == [
        "isoFLOP parabolas: not applicable (too few)",
        "envelope: N_opt ~ C^0.5000 (90 % 0.4000 to 0.6000); at 100 FLOPs N = 20 (15.9 to 25.2), agrees with the "
        "parametric 15",
    ]
    assert found.to_json() == [{**other.to_json(), "agrees": True}]
    assert other.to_json() == {
        "approach": "envelope",
        "compute": [1.0, 100.0],
        "n_params": [2.0, 20.0],
        "loss": [3.0, 2.0],
        "level": 0.9,
        "skipped": 1,
        "exponent": {"estimate": 0.5, "low": 0.4, "high": 0.6},
        "log_coefficient": math.log(2.0),
        "notes": ["said"],
    }
    axes = other.plot()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_legend_handles_labels()[1]) == (
        "compute (FLOPs)",
        "N",
        ["envelope", "C^0.500"],
    )
    checked = cross_check([1.0, 2.0], [1.0, 2.0], [2.0, 1.0], SimpleNamespace(cost=SIX_N_D, level=0.9))  # type: ignore[arg-type]
    assert (checked.others, list(checked.refused)) == ((), ["isoFLOP parabolas", "envelope"])


def test_training_flops_with_attention() -> None:
    """6 N D, and 12 · 2 · 8 · 16 = 3,072 a token."""
    assert allocation.training_flops(1e10, 2e11) == 1.2e22
    assert allocation.training_flops(100, 10, n_layers=2, d_model=8, sequence=16) == 6 * 100 * 10 + 3072 * 10
