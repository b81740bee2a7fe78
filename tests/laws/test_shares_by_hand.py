"""Backtests of shares with unknown rows, laws that refuse, and shapes alone, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import metascale as ms
from metascale.core.errors import InputError
from metascale.laws.share_backtest import ShareBacktest, ShareBacktestRow, backtest_shares
from metascale.laws.shares import Metric

POWERS = np.array([[1.0], [2.0], [4.0], [8.0], [16.0]])
UNKNOWN = float("nan")


def says(median, low, high, seen):
    """A law that says the same of every row, and keeps which rows it was fitted to."""

    def refit(kept):
        seen.append(kept.tolist())
        return SimpleNamespace(
            predict=lambda at, level: SimpleNamespace(**{
                name: np.full(len(at), value) for name, value in (("median", median), ("low", low), ("high", high))
            })
        )  # fmt: skip

    return refit


def refuses(kept):
    raise InputError("too few rows")


def test_rows_whose_share_is_unknown_are_neither_hidden_nor_the_last_value():
    """Cuts below 16 and below 8; the share at 8 is unknown: 0.9 at 16 is all that is hidden, 0.5 at 4 the last seen."""
    seen = []
    found = backtest_shares(
        POWERS, np.array([0.2, 0.3, 0.5, UNKNOWN, 0.9]), ("N",), Metric("acc"),
        {"forecast": says(0.8, 0.7, 0.85, seen), "none": refuses}, level=0.8,
    )  # fmt: skip
    assert seen == [[True] * 4 + [False], [True] * 3 + [False] * 2]
    assert [(row.predictor, row.horizon, row.n_seen, row.n_hidden) for row in found.rows] == [
        (name, horizon, n_seen, 1)
        for horizon, n_seen in ((2, 4), (4, 3)) for name in ("forecast", "none", "last value", "tail line")
    ]  # fmt: skip
    for row in found.rows[::4]:
        # 0.05 above the interval of width 0.15: 0.15 + 2 / 0.2 * 0.05.
        assert (row.rmse, row.coverage, row.interval_score) == pytest.approx((0.1, 0.0, 0.65))
    assert {(row.rmse, row.coverage, row.interval_score) for row in found.rows[1::4]} == {(None, None, None)}
    assert [row.rmse for row in found.rows[2::4]] == pytest.approx([0.4, 0.4])
    # From 3:7 at 2 to 1:1 at 4 the odds grow by 7/3 a doubling: (7/3)^2 = 49:9 at 16.
    assert [row.rmse for row in found.rows[3::4]] == pytest.approx([0.9 - 49 / 58] * 2)
    assert (found.level, found.x_name, found.metric) == (0.8, "N", Metric("acc"))


def test_a_cut_that_hides_or_leaves_nothing_known_is_passed_over():
    said = {"forecast": says(0.5, 0.4, 0.6, [])}
    top = backtest_shares(POWERS, np.array([0.2, 0.3, 0.5, 0.6, UNKNOWN]), ("N",), Metric("acc"), said)
    assert {(row.horizon, row.n_hidden) for row in top.rows} == {(4.0, 1)}
    assert [row.coverage for row in top.rows if row.predictor == "forecast"] == [1.0]
    low = backtest_shares(POWERS, np.array([UNKNOWN, UNKNOWN, UNKNOWN, 0.6, 0.7]), ("N",), Metric("acc"), said)
    assert {(row.horizon, row.predictor) for row in low.rows} == {(2.0, "forecast"), (2.0, "last value")}
    with pytest.raises(
        InputError, match=r"^the table has 3 distinct values of 'N'; a backtest needs at least 4 \(3 to"
    ):
        backtest_shares(POWERS[:3], np.array([0.2, 0.3, 0.5]), ("N",), Metric("acc"), said)
    with pytest.raises(InputError, match=r"^the table has 1 distinct values of 'N'"):
        backtest_shares(POWERS, np.array([0.2] + [UNKNOWN] * 4), ("N",), Metric("acc"), said)


def test_corners_of_shares_leave_out_what_is_unknown_and_need_the_forecast():
    """4 x 4 rows of shares 0.5; the law says 0.6. A row in the corner is unknown."""
    x = np.array([[a, b] for a in (1.0, 2.0, 4.0, 8.0) for b in (1.0, 2.0, 4.0, 8.0)])
    values = np.full(16, 0.5)
    values[-1] = UNKNOWN
    found = backtest_shares(
        x, values, ("N", "D"), Metric("acc"),
        {"forecast": says(0.6, 0.4, 0.7, []), "other": says(0.7, 0.6, 0.8, []), "none": refuses},
    )  # fmt: skip
    assert found.mixture == pytest.approx([0.1] * len(found.corners))
    assert found.coverage == (1.0,) * len(found.corners)
    assert list(found.errors) == ["other"]
    assert found.errors["other"] == pytest.approx([0.2] * len(found.corners))
    hidden = dict(zip(found.corners, found.hidden, strict=True))
    assert (hidden["top of scale 1"], hidden["upper part of scale 1"]) == (3, 7)
    assert (found.level, found.link, found.metric) == (0.9, "identity", "acc")
    with pytest.raises(InputError, match=r"^a table of 15 rows has no corner to hide; it needs more rows$") as caught:
        backtest_shares(x, values, ("N", "D"), Metric("acc"), {"forecast": refuses})
    assert caught.value.field == "x"


def test_a_shape_alone_does_not_doubt_itself_beyond_the_table():
    """Odds of exactly x / 1000: alone the logistic shape is sure of them, and the forecast allows for another slope."""
    x = 10.0 ** np.arange(1, 6)
    found = ms.backtest({"N": x, "acc": x / (1000 + x)}, x="N", y="acc", chance=0.0)
    far = {row.predictor: row for row in found.rows if row.horizon == 100}
    assert far["logistic"].interval_score < 1e-3
    assert far["forecast"].interval_score > 0.02


def test_the_summary_of_a_backtest_of_shares_has_a_line_a_predictor_and_a_column_a_cut():
    rows = tuple(
        ShareBacktestRow(*cells)
        for cells in (
            ("forecast", 2.0, 4, 1, 0.25, 0.5, 0.75), ("last value", 2.0, 4, 1, 0.5, None, None),
            ("forecast", 4.0, 3, 2, 0.75, 1.0, 0.25), ("last value", 4.0, 3, 2, None, None, None),
        )
    )  # fmt: skip
    found = ShareBacktest(rows, 0.9, "N", Metric("a metric of a long name", unit=100.0))
    cells = [("rmse of a metric of a long name", "x2 (4 seen)", "x4 (3 seen)"),
             ("forecast", "0.2500 (50 %)", "0.7500 (100 %)"), ("last value", "0.5000", "-")]  # fmt: skip
    lines = [f"{name:<33}{first:>18}{second:>18}" for name, first, second in cells]
    assert found.summary().splitlines() == [*lines, "in brackets: hidden rows inside the 90 % interval"]
    assert found.means() == {
        "forecast": {"rmse": 0.5, "coverage": 0.75, "interval_score": 0.5, "n_cuts": 2.0},
        "last value": {"rmse": 0.5, "coverage": None, "interval_score": None, "n_cuts": 1.0},
    }
    stored = found.to_json()
    assert stored["rows"][1] == {"predictor": "last value", "horizon": 2.0, "n_seen": 4, "n_hidden": 1, "rmse": 0.5,
                                 "coverage": None, "interval_score": None}  # fmt: skip
    assert {name: stored[name] for name in ("level", "x_name", "loss_name", "unit", "means")} == {
        "level": 0.9, "x_name": "N", "loss_name": "a metric of a long name", "unit": "per cent", "means": found.means(),
    }  # fmt: skip
    assert replace(found, metric=Metric("acc")).to_json()["unit"] == "share"
    axes = found.plot()
    assert axes.get_ylabel() == "rmse of a metric of a long name"
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["forecast"].get_xydata().tolist() == [[2.0, 0.25], [4.0, 0.75]]
    assert lines["last value"].get_xydata().tolist() == [[2.0, 0.5]]
    assert (lines["forecast"].get_linewidth(), lines["forecast"].get_color()) == (2.5, "black")
