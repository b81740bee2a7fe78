"""What results of laws hold and say: every field, line and key, of results whose numbers were chosen or worked out."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.laws.analysis import Analysis, with_interval
from metascale.laws.backtesting import (
    Backtest,
    BacktestRow,
    FamilyResult,
    backtest,
    compare_families,
    cuts_at,
    fit_note,
    interval_quality,
)
from metascale.laws.families import LAWS
from metascale.laws.fitting import LawFit, condition_number, fit_law
from metascale.laws.forecasting import last_value, tail_line
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import Observations, as_json, bounded_exp, observe, require_varied, table_warnings
from metascale.laws.record import HiddenScale, Interval, TrendResult
from metascale.laws.uncertainty import bootstrap

A = np.array
STEP = A([0.0, 1.0, 2.0, 3.0])
WAVE = 0.1 * A([1.0, -1.0, -1.0, 1.0])  # neither a mean nor a slope: squares 0.04
TABLE = observe(np.exp(STEP), np.exp(-0.5 * STEP + WAVE), x_name="N", loss_name="L")


@pytest.fixture(scope="module")
def line() -> LawFit:
    """N^-1/2 and the wave, by least squares."""
    return fit_law(LAWS["power"], TABLE, LeastSquares())


# ------------------------------------------------------------------------------------------- the table


def test_a_table_in_order_of_scale_with_its_parts() -> None:
    """Rows by scale; labels of runs by their order among labels; the errors of ln loss are those of the loss "
    "over it."""
    table = observe(
        [4, 1, 2, 1],
        [4.0, 2.0, 5.0, 8.0],
        run=["b", "a", "b", "c"],
        x_name="n",
        loss_name="y",
        noise=[1, 1, 1, 2],
        replicate=[0, 0, 0, 1],
    )
    assert (table.x[:, 0].tolist(), table.loss.tolist()) == ([1, 1, 2, 4], [2, 8, 5, 4])
    assert (table.scale.tolist(), table.run.tolist(), table.error.tolist()) == (
        [0, 0, 1, 2],
        [0, 2, 1, 1],
        [0.5, 0.25, 0.2, 0.25],
    )  # type: ignore[union-attr]
    assert (table.x_names, table.loss_name, table.notes) == (("n",), "y", ())
    assert (table.n, table.n_axes, table.n_scales, table.n_runs) == (4, 1, 3, 3)
    assert table.scales.tolist() == [[1], [2], [4]]
    assert table.scale_means(A([1.0, 3.0, 5.0, 7.0])).tolist() == [2, 5, 7]
    assert table.log_x[:, 0] == pytest.approx(np.log([1, 1, 2, 4]))
    assert table.log_loss == pytest.approx(np.log([2, 8, 5, 4]))
    weighed = replace(table, weights=A([1.0, 2, 3, 4]), run_variance=0.5)
    kept = weighed.keep(A([False, True, False, True]))
    assert (kept.x[:, 0].tolist(), kept.scale.tolist(), kept.run.tolist()) == ([1, 4], [0, 1], [1, 0])
    assert (kept.error.tolist(), kept.weights.tolist(), kept.run_variance) == ([0.25, 0.25], [2, 4], 0.5)  # type: ignore[union-attr]
    assert (kept.x_names, kept.loss_name, table.keep(A([True] * 4)).weights) == (("n",), "y", None)
    plain = observe([[1, 2], [1, 1]], [1, 2], x_name="n")
    assert (plain.x.tolist(), plain.x_names, plain.loss_name, plain.error) == (
        [[1, 1], [1, 2]],
        ("x1", "x2"),
        "loss",
        None,
    )
    alone = Observations(plain.x, plain.loss, plain.scale, plain.run)
    assert (alone.x_names, alone.loss_name, alone.notes, alone.run_variance) == (("x",), "loss", (), 0.0)
    assert bounded_exp([0, 1000, -1000]).tolist() == [1.0, math.exp(709), math.exp(-709)]
    assert as_json({"a": (A([1.0]), TrendResult("none", None, 0.9)), 2: [{"b": 1}]}) == {
        "a": [[1.0], {"answer": "none", "exponent": None, "level": 0.9, "turns": []}],
        "2": [{"b": 1}],
    }


def test_repeated_rows_are_dropped_and_said() -> None:
    rows = {"x": [1, 1, 2, 2, 2], "loss": [3, 3, 2, 2, 2]}
    assert observe(**rows).notes == ("3 duplicated rows dropped (same scale, loss and replicate)",)
    assert observe([1, 1, 2], [3, 3, 2]).notes == ("1 duplicated row dropped (same scale, loss and replicate)",)
    assert observe(**rows, replicate=[0, 1, 0, 1, 1]).n == 4
    assert observe([1, 1.5], [1, 2], replicate=[1.25, 1.25]).n == 2
    assert observe([1, 2], [-1, 0], signed=True).loss.tolist() == [-1, 0]


def test_what_a_table_is_warned_of() -> None:
    """Gaps of ln x: three of ln 2 and one of ln 3000, which is above ln 1000 and more than 10 times the median."""

    def warned(x: list[float], **more: Any) -> tuple[str, ...]:
        return table_warnings(observe(x, np.arange(1.0, len(x) + 1), x_name="N", **more))

    assert warned([1, 2, 4, 8, 24000]) == ("'N' jumps from 8 to 2.4e+04: check that all rows are in the same unit",)
    assert warned([1, 2, 4, 8, 7900]) == warned([1, 2, 6000]) == warned([1, 100, 10000, 30_000_000]) == ()
    assert warned([1, 2, 3000, 6000])[0].startswith("'N' jumps from 2 to 3000"), "three gaps are enough"
    (note,) = warned([1, 2, 4], run=["a", "a", "b"])
    assert note.startswith("3 rows of 2 runs: checkpoints of a run whose learning rate still decays are not scaling")
    require_varied(observe([1, 2], [1, 2]))


# ------------------------------------------------------------------------------------------- a fitted law


def test_a_fitted_law_in_numbers_and_words(line: LawFit) -> None:
    """Squares 0.04: half of them are the objective, 0.1 the rms; about the mean of four scales ln loss has 0.25 · 5 and
    0.04;    level and slope do not share anything about the centre, so their condition is 1."""
    r2 = 1 - 0.04 / 1.29
    found = line.to_json()
    assert found.pop("parameters") == pytest.approx({"A": 1.0, "alpha": 0.5})
    numbers = {name: found.pop(name) for name in ("objective", "rmse_log", "r2_log", "condition")}
    assert numbers == pytest.approx({"objective": 0.02, "rmse_log": 0.1, "r2_log": r2, "condition": 1.0})
    assert found == {
        "law": "power",
        "formula": "L = A x^-alpha",
        "objective_name": "least squares",
        "converged": True,
        "n_starts": 1,
        "n_agree": 1,
        "at_bound": [],
    }
    assert replace(line, condition=math.inf).to_json()["condition"] is None
    assert (line.finite_aicc, line.notes) == (None, ())
    assert line.deviance == pytest.approx(4 * (math.log(2 * math.pi * 0.01) + 1))
    text = replace(line, objective_value=0.25, n_agree=2, n_starts=3).summary().splitlines()
    assert text[0] == "L = A x^-alpha   (power; least squares = 0.25)"
    assert [row.split()[0] for row in text[1:3]] == ["A", "alpha"]
    assert text[2].startswith("  alpha    0.5") or text[2].startswith("  alpha    0.4999")
    assert text[3:] == ["  4 rows, 4 scales; rmse of ln loss 0.1; converged, 2 of 3 starts agree"]
    assert replace(line, converged=False).summary().endswith("NOT converged, 1 of 1 starts agree")
    assert line.predict([1.0, math.e**2]) == pytest.approx([1.0, math.exp(-1)])
    assert line.log_predict([math.e], line.theta[None] + [0.5, 0.0])[0] == pytest.approx([0.0])
    record = line.record(0.8, {"A": {"estimate": 1.0, "low": 0.5, "high": 2.0}}, ("said",))
    assert (record.law, record.formula, record.x_names, record.loss_name, record.level) == (
        "power",
        "L = A x^-alpha",
        ("N",),
        "L",
        0.8,
    )
    assert (dict(record.parameters), record.objective_name, record.notes) == (
        {"A": Interval(1.0, 0.5, 2.0)},
        "least squares",
        ("said",),
    )
    assert (record.n_observations, record.n_scales, record.objective) == (4, 4, line.objective_value)
    assert record.r2_log == pytest.approx(r2)
    axes = line.plot()
    assert [len(one.get_xdata()) for one in axes.lines] == [4, 200]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_legend_handles_labels()[1]) == ("N", "L", ["L = A x^-alpha"])
    assert axes.lines[1].get_xdata()[[0, -1]] == pytest.approx([1, math.e**3])
    assert fit_law(LAWS["none"], TABLE).r2_log == 0.0


def test_weights_and_the_condition_of_parameters() -> None:
    """A pair of columns 1 and t with the correlation r has the eigenvalues 1 ± r: the condition is (1 + r) / (1 "
    "- r)."""
    law = LAWS["power"]
    t = A([[1.0], [3.0]])
    r = 4 / math.sqrt(2 * 10)
    assert condition_number(law, A([0.0, 0.5]), t, np.ones(2)) == pytest.approx((1 + r) / (1 - r))
    assert condition_number(law, A([0.0, 0.5]), t, A([1.0, 0.0])) > 1e12
    assert condition_number(law, A([0.0, 0.5]), 0 * t, np.ones(2)) == math.inf
    table = replace(TABLE, weights=A([1.0, 2.0, 3.0, 4.0]))
    assert fit_law(law, table, LeastSquares()).weights.tolist() == [1, 2, 3, 4]
    assert fit_law(law, table, LeastSquares(), A([1.0] * 4)).weights.tolist() == [1] * 4
    assert fit_law(law, TABLE).objective == LogHuber()


def test_a_fit_of_several_scales_is_drawn_against_what_was_observed() -> None:
    size, data = (axis.reshape(-1) for axis in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    table = observe(np.column_stack([size, data]), 2 + 4 / size**0.3 + 9 / data**0.3, x_name=("N", "D"), loss_name="L")
    axes = fit_law(LAWS["chinchilla"], table, LeastSquares()).plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted L", "observed L")
    ends, dots = (one.get_xydata() for one in axes.lines)
    assert ends[:, 0] == pytest.approx([table.loss.min(), table.loss.max()], rel=1e-4)
    assert dots[:, 1].tolist() == table.loss.tolist()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ((2.0, 1.0, 3.0), "2 (1 to 3)"),
        ((2.0, 0.1, 100.1), "2 (not identified)"),
        ((2.0, 0.1, 99.9), "2 (0.1 to 99.9)"),
        ((2.0, -201.0, 3.0), "2 (not identified)"),
        ((2.0, -199.0, 3.0), "2 (-199 to 3)"),
        ((0.5, -1.0, 101.0), "0.5 (not identified)"),
        ((0.5, 0.0, 99.0), "0.5 (0 to 99)"),
    ],
)
def test_an_interval_of_no_use_is_none(part: tuple[float, float, float], said: str) -> None:
    """A thousandfold from end to end; or, where it holds 0, a hundred times the estimate, or a hundred."""
    assert with_interval(dict(zip(("estimate", "low", "high"), part, strict=True))) == said


def test_an_analysis_in_words(line: LawFit) -> None:
    none = FamilyResult(LAWS["none"], None, None, None, (), "not fitted: 1 parameters, 1 distinct scales")
    own = FamilyResult(LAWS["power"], replace(line, at_bound=("A",)), 0.0625, 0.5, (0.0625,), "flat")
    hidden = HiddenScale(20.0, "power", 0.25, 0.5, 0.25, 0.75, 0.6931, {"last_value": 0.5, "tail_line": 0.125})
    parts = {
        "power": {"A": {"estimate": 1.0, "low": 0.5, "high": 2.0}, "alpha": {"estimate": 0.5, "low": 0.4, "high": 0.6}}
    }
    found = Analysis(
        replace(line, at_bound=("A",), objective_value=0.25),
        bootstrap(line, 20),
        {"none": none, "power": own},
        parts,
        0.9,
        TrendResult("falls", Interval(0.5, 0.4, 0.6), 0.9),
        None,
        "It falls.",
        hidden,
        None,
        ("first",),
    )
    r2 = 1 - 0.04 / 1.29
    assert found.summary().splitlines() == [
        "It falls.",
        "",
        "law power: L = A x^-alpha    (4 rows, 4 scales)",
        "  A        1              at its bound: not identified by this table",
        "  alpha    0.5            90 % interval 0.4 to 0.6",
        f"  least squares = 0.25, R2 of log loss {r2:.4f}",
        "",
        f"  {'family':<18}{'rmse log':>10}{'AICc':>11}{'backtest':>10}{'90 % holds':>12}",
        f"  {'none':<18}not fitted: 1 parameters, 1 distinct scales",
        f"* {'power':<18}{'0.1000':>10}{'-':>11}{'0.0625':>10}{'50 %':>12}",
        "      A 1 (at its bound), alpha 0.5 (0.4 to 0.6)",
        "      [flat]",
        "",
        "  largest N = 20 hidden ('power' refitted): observed 0.25, predicted 0.5 (90 % 0.25 to 0.75), log error "
        "+0.6931; "
        "baselines: last value 0.5, tail line 0.125",
        "  note: first",
    ]
    untested = replace(found, extrapolation=None, extrapolation_reason="too few")
    assert "  extrapolation not tested: too few" in untested.summary().splitlines()
    bare = replace(found, families={"power": replace(own, backtest_rmse_log=None, backtest_coverage=None, note="")})
    assert f"* {'power':<18}{'0.1000':>10}{'-':>11}{'-':>10}{'-':>12}" in bare.summary().splitlines()
    assert "[" not in bare.summary()
    record = untested.record()
    assert (record.trend, dict(record.trends), record.verdict) == ("falls", {"N": found.trend_test}, "It falls.")
    assert list(record.families) == ["power"]
    family = record.families["power"]
    assert (family.backtest_rmse_log, family.backtest_coverage, family.converged, family.note) == (
        0.0625,
        0.5,
        True,
        "flat",
    )
    assert (family.objective, family.aicc, family.rmse_log) == (line.objective_value, None, pytest.approx(0.1))
    assert (record.extrapolation, record.extrapolation_reason, record.end_exponent) == (None, "too few", None)
    # Misfit alone: squares 0.04 over 4 - 2 degrees of freedom.
    assert (record.within_scale_log, record.misfit_log) == (0.0, pytest.approx(0.02**0.5)) or record.misfit_log == 0.0
    assert record.curve is not None
    assert (len(record.curve.x), record.curve.x[0], record.curve.x[-1]) == (
        200,
        pytest.approx(1),
        pytest.approx(math.e**3),
    )
    assert all(
        low <= mid <= high
        for low, mid, high in zip(record.curve.low, record.curve.median, record.curve.high, strict=True)
    )
    assert len(found.curve(7).x) == 7


# ------------------------------------------------------------------------------------------- backtests


@pytest.mark.parametrize(
    ("levels", "cut"),
    [
        ([1, 2, 4, 8], [(3, 2.0)]),
        ([1, 2, 4, 8, 16], [(4, 2.0), (3, 4.0)]),
        ([1, 2, 4, 8, 16, 20], [(5, 1.25), (4, 2.5), (3, 5.0)]),
        ([float(k) for k in range(1, 13)], [(6, 2.0), (3, 4.0)]),
        ([float(k) for k in range(1, 12)], [(10, 1.1), (5, 2.2)]),
        ([100.0 + k for k in range(13)], [(12, 112 / 111)]),
        ([1, 2, 3], []),
    ],
)
def test_where_a_table_is_cut(levels: list[float], cut: list[tuple[int, float]]) -> None:
    """At 1/2, 1/4, 1/8 and 1/16 of the largest, with three scales left to see, and just below it where there are fewer
    than 12 or no other cut."""
    found = cuts_at(A(levels, float))
    assert [(one.n_scales, pytest.approx(one.horizon)) for one in found] == cut
    for one in found:
        assert one.seen.sum() == one.n_scales
        assert (one.hidden == ~one.seen).all()


def test_a_backtest_in_numbers_and_words() -> None:
    rows = (
        BacktestRow("forecast", 2.0, 4, 1, 0.25, 1.0, 0.5),
        BacktestRow("power", 2.0, 4, 1, 0.5, 0.0, 1.5),
        BacktestRow("last value", 2.0, 4, 1, 1.0, None, None),
        BacktestRow("forecast", 4.0, 3, 2, 0.75, 0.5, 1.5),
        BacktestRow("power", 4.0, 3, 2, None, None, None),
        BacktestRow("last value", 4.0, 3, 2, 2.0, None, None),
    )
    found = Backtest(rows, 0.8, "N", "L")
    assert found.means() == {
        "forecast": {"rmse_log": 0.5, "coverage": 0.75, "interval_score": 1.0, "n_cuts": 2.0},
        "power": {"rmse_log": 0.5, "coverage": 0.0, "interval_score": 1.5, "n_cuts": 1.0},
        "last value": {"rmse_log": 1.5, "coverage": None, "interval_score": None, "n_cuts": 2.0},
    }
    assert found.summary().splitlines() == [
        f"{'rmse of ln loss':<18}{'x2 (4 seen)':>18}{'x4 (3 seen)':>18}",
        f"{'forecast':<18}{'0.2500 (100 %)':>18}{'0.7500 (50 %)':>18}",
        f"{'power':<18}{'0.5000 (0 %)':>18}{'-':>18}",
        f"{'last value':<18}{'1.0000':>18}{'2.0000':>18}",
        "in brackets: hidden rows inside the 80 % interval",
    ]
    stored = found.to_json()
    assert stored["rows"][0] == {
        "predictor": "forecast",
        "horizon": 2.0,
        "n_seen": 4,
        "n_hidden": 1,
        "rmse_log": 0.25,
        "coverage": 1.0,
        "interval_score": 0.5,
    }
    assert (stored["level"], stored["x_name"], stored["loss_name"], stored["means"]) == (0.8, "N", "L", found.means())
    axes = found.plot()
    assert [one.get_label() for one in axes.lines] == ["forecast", "power", "last value"]
    assert [one.get_xydata().tolist() for one in axes.lines[:2]] == [[[2.0, 0.25], [4.0, 0.75]], [[2.0, 0.5]]]
    assert [(one.get_linewidth(), one.get_markersize()) for one in axes.lines] == [(2.5, 3), (1.0, 3), (1.0, 3)]
    assert (axes.lines[0].get_color(), axes.get_ylabel()) == ("black", "rmse of ln L")
    wide = replace(found, rows=(replace(rows[0], predictor="a" * 20),))
    assert wide.summary().splitlines()[1].startswith("a" * 20 + "  ")


def test_the_score_of_an_interval() -> None:
    """Width 1 and, of 90 %, 20 for each unit missed: by 0, 0.5 below and 0.25 above."""
    covered, score = interval_quality(A([0.0, 1.0, -0.5, 1.25]), np.zeros(4), np.ones(4), 0.9)
    assert (covered, score) == (0.5, pytest.approx((4 + 20 * 0.75) / 4))


def test_baselines_of_a_backtest_by_hand() -> None:
    """A power law of exponent 1: half of the last value is at twice the scale, so the last value is ln 2 off."""
    x = A([1.0, 2.0, 4.0, 8.0])
    found = backtest(x, 1 / x, families=("power",), x_name="N", loss_name="L")
    rows = {row.predictor: row for row in found.rows}
    assert list(rows) == ["forecast", "power", "last value", "tail line"]
    assert (rows["last value"].rmse_log, rows["tail line"].rmse_log) == (
        pytest.approx(math.log(2)),
        pytest.approx(0, abs=1e-9),
    )
    assert {(row.horizon, row.n_seen, row.n_hidden) for row in found.rows} == {(2.0, 3, 1)}
    assert (found.level, found.x_name, found.loss_name) == (0.90, "N", "L")
    assert rows["last value"].coverage is None
    compared = compare_families(observe(x, 1 / x), LeastSquares(), ("power", "power_irreducible", "m4"))
    assert [(name, one.cut_errors) for name, one in compared.items()] == [
        ("power", (pytest.approx(0, abs=1e-9),)),
        ("power_irreducible", (None,)),
        ("m4", (None,)),
    ]
    assert compared["m4"].note == "not fitted: 5 parameters, 4 distinct scales"
    assert (compared["power_irreducible"].backtest_rmse_log, compared["power"].backtest_rmse_log) == (
        None,
        pytest.approx(0, abs=1e-9),
    )
    assert last_value([1, 4, 4], [3, 2, 8], [9, 10]) == pytest.approx([4, 4])
    assert tail_line([1, 2, 4, 8], [9, 4, 2, 1], [16, 32]) == pytest.approx([0.5, 0.25])
    assert tail_line([4, 4], [1, 4], [8]) == pytest.approx([2])
    # The last octave of 1, 10 and 15 holds 10 and 15.
    assert tail_line([1, 10, 15], [5.0, 3.0, 2.0], [22.5]) == pytest.approx([4 / 3])


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({}, ""),
        ({"converged": False, "at_bound": ("E", "c")}, "did not converge; E, c at the bound"),
        (
            {"condition": 1.01e8, "n_agree": 1, "n_starts": 4},
            "parameters not identified one by one; only 1 of 4 starts came here",
        ),
        ({"condition": 1e8, "n_agree": 1, "n_starts": 1}, ""),
        ({"n_agree": 2, "n_starts": 4}, ""),
    ],
)
def test_what_a_reader_should_know_of_a_fit(changed: dict[str, Any], note: str) -> None:
    fit = {"converged": True, "at_bound": (), "condition": 1.0, "n_agree": 4, "n_starts": 4}
    assert fit_note(SimpleNamespace(**{**fit, **changed})) == note  # type: ignore[arg-type]
