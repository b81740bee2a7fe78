"""What the entries hand on: which function is asked with which rows, columns and options, and their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale import laws
from metascale.core.errors import InputError
from metascale.laws import analysis, entry, many, metrics
from metascale.laws.cost import SIX_N_D
from metascale.laws.families import LAWS
from metascale.laws.fitting import fit_law
from metascale.laws.metrics import ShareOptions
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.shares import Metric
from metascale.laws.table import Table

CURVE = {"tokens": [1.0, 2.0, 4.0, 8.0], "loss": [8.0, 4.0, 2.0, 1.0], "sem": [0.5, 0.25, 0.5, 0.25]}
GROUPS = {"tokens": [1.0, 2.0, 4.0, 1.0, 2.0, 4.0], "loss": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "arm": list("aaabbb")}
SURFACE = {"N": [1e6, 1e7, 1e6, 1e7], "D": [1e8, 1e8, 1e9, 1e9], "loss": [4.0, 3.0, 2.0, 1.0]}
SHARE = {"tokens": [1.0, 2.0, 4.0, 8.0], "acc": [0.2, 0.3, 0.4, 0.5], "loss": [8.0, 4.0, 2.0, 1.0], "q": [10.0] * 4}


class Asked:
    """Takes the place of a function and keeps what it was asked; arrays are lists."""

    def __init__(self, answer: Any = "law") -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.answer = answer

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls.append((tuple(map(plain, given)), {name: plain(value) for name, value in named.items()}))
        return self.answer(*given, **named) if callable(self.answer) else self.answer

    @property
    def only(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (call,) = self.calls
        return call


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def instead(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, answer: Any = "law") -> Asked:
    asked = Asked(answer)
    monkeypatch.setattr(place, name, asked)
    return asked


# ------------------------------------------------------------------------------------------- fit


def jobs_named(jobs: dict[str, Any]) -> dict[str, str]:
    return {name: f"law {name}" for name in jobs}


def test_a_fit_of_a_curve_hands_on_its_columns_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = instead(monkeypatch, entry, "fit_each", jobs_named)
    assert entry.fit(CURVE, y="loss", noise="sem", level=0.8, law="power") == "law "
    ((jobs,), _) = asked.only
    assert {name: plain(value) for name, value in jobs[""].items()} == {
        "x": [1, 2, 4, 8],
        "loss": [8, 4, 2, 1],
        "replicate": [0, 1, 2, 3],
        "x_name": "tokens",
        "loss_name": "loss",
        "noise": [0.5, 0.25, 0.5, 0.25],
        "run": None,
        "notes": (),
        "level": 0.8,
        "law": "power",
    }
    asked = instead(monkeypatch, entry, "fit_each", jobs_named)
    several = entry.fit({**CURVE, "run": list("aabb"), "step": [1, 2, 1, 2]}, x="tokens", y=["loss", "sem"], run="run")
    assert list(several) == ["loss", "sem"]
    assert [jobs[""]["loss_name"] for (jobs,), _ in asked.calls] == ["loss", "sem"]
    assert [plain(jobs[""]["x"]) for (jobs,), _ in asked.calls] == [[2, 8], [2, 8]]
    assert asked.calls[0][0][0][""]["run"] is None, "the end of a run is a run of its own"
    instead(monkeypatch, entry, "fit_each", jobs_named)
    whole = entry.fit(
        {**CURVE, "run": list("aabb"), "step": [1, 2, 1, 2]}, x="tokens", y="loss", run="run", checkpoints=True
    )
    assert whole == "law "
    ((jobs,), _) = entry.fit_each.only  # type: ignore[attr-defined]
    assert plain(jobs[""]["run"]) == [0, 0, 1, 1]
    assert len(jobs[""]["notes"]) == 1


def test_groups_are_fitted_apart_and_compared_by_laws_that_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, entry, "fit_each", jobs_named)
    compared = instead(monkeypatch, entry, "grouped", "compared")
    found = entry.fit(GROUPS, group="arm", level=0.8, seed=3)
    assert (dict(found), found.comparison) == ({"a": "law a", "b": "law b"}, "compared")
    (_, named) = compared.only
    assert named == {
        "x": [1, 2, 4, 1, 2, 4],
        "loss": [6, 5, 4, 3, 2, 1],
        "replicate": [0, 1, 2, 3, 4, 5],
        "x_name": "tokens",
        "loss_name": "loss",
        "group": list("aaabbb"),
        "law": "power",
        "level": 0.8,
        "seed": 3,
    }
    compared = instead(monkeypatch, entry, "grouped", "compared")
    entry.fit(GROUPS, group="arm", law="power_irreducible")
    assert {name: compared.only[1][name] for name in ("law", "level", "seed")} == {
        "law": "power_irreducible",
        "level": 0.95,
        "seed": 0,
    }
    assert entry.fit(GROUPS, group="arm", law="m4").comparison is None
    assert entry.fit(GROUPS, series="arm").comparison is None
    alone = {name: cells[:3] for name, cells in GROUPS.items()}
    assert entry.fit(alone, group="arm").comparison is None
    assert len(compared.calls) == 1


def test_a_fit_in_several_scales_and_of_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = instead(monkeypatch, entry, "fit_each", jobs_named)
    assert entry.fit(SURFACE, x=["N", "D"], seed=5) == "law "
    ((jobs,), _) = asked.only
    assert {name: plain(value) for name, value in jobs[""].items()} == {
        "x": [[1e6, 1e8], [1e7, 1e8], [1e6, 1e9], [1e7, 1e9]],
        "loss": [4, 3, 2, 1],
        "x_name": ("N", "D"),
        "loss_name": "loss",
        "run": None,
        "replicate": [0, 1, 2, 3],
        "notes": (),
        "seed": 5,
    }
    arrays = instead(monkeypatch, analysis, "fit")
    assert entry.fit([1, 2], [3, 4], level=0.8) == entry.fit(None, [3, 4], x=[1, 2], level=0.8) == "law"
    assert arrays.calls == [(([1, 2], [3, 4]), {"level": 0.8})] * 2
    shares = instead(monkeypatch, entry, "analyse_arrays")
    assert entry.fit([1, 2], [0.3, 0.4], loss_name="acc", x_name="N", chance=0.25, notes=("n",), level=0.8) == "law"
    ((x, loss, metric, how, names), named) = shares.only
    assert (x, loss, metric, how, names, named) == (
        [1, 2],
        [0.3, 0.4],
        Metric("acc"),
        ShareOptions(None, 0.25, None, None),
        ("N",),
        {"level": 0.8, "notes": ("n",)},
    )
    many_ = instead(monkeypatch, entry, "fit_each", jobs_named)
    found = entry.fit_many(
        {"one": {"tokens": [1, 2], "loss": [2, 1]}, "two": {"tokens": [1, 2], "loss": [3, 2]}}, seed=2
    )
    assert dict(found) == {"one": "law one", "two": "law two"}
    ((jobs,), _) = many_.only
    assert [
        (plain(job["x"]), plain(job["loss"]), job["x_name"], job["run"], job["notes"], job["seed"])
        for job in jobs.values()
    ] == [
        ([1, 2], [2, 1], "tokens", None, (), 2),
        ([1, 2], [3, 2], "tokens", None, (), 2),
    ]
    many_ = instead(monkeypatch, entry, "fit_each", jobs_named)
    entry.fit_many({"two": SURFACE}, x=["N", "D"], y="loss", level=0.8)
    ((jobs,), _) = many_.only
    assert (plain(jobs["two"]["x"])[0], jobs["two"]["x_name"], jobs["two"]["level"], jobs["two"]["notes"]) == (
        [1e6, 1e8],
        ("N", "D"),
        0.8,
        (),
    )


def test_the_law_of_schedules_is_asked_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = instead(monkeypatch, entry, "fit_curves", {"": SimpleNamespace(predict=lambda *given: given)})
    entry.fit(CURVE, y="loss", law="multi_power", run="r", level=0.8, group="g")
    ((table, y, run, level, group), _) = asked.only
    assert (table.names, y, run, level, group) == (("tokens", "loss", "sem"), "loss", "r", 0.8, "g")
    assert entry.forecast(CURVE, law="multi_power", schedule="cosine", at=[3], level=0.7) == ("cosine", [3], 0.7)
    assert asked.calls[1][0][1:] == (None, None, 0.95, None)


# ------------------------------------------------------------------------------------------- forecast and others


def test_a_forecast_hands_on_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = instead(monkeypatch, entry.forecasting, "forecast")
    assert entry.forecast([1, 2, 3], [3, 2, 1], [4], level=0.8, x_name="N") == "law"
    assert asked.only == (([1, 2, 3], [3, 2, 1], [4]), {"level": 0.8, "x_name": "N"})
    asked = instead(monkeypatch, entry.forecasting, "forecast")
    assert entry.forecast(None, [3, 2, 1], [4], x=[1, 2, 3]) == "law"
    assert asked.only == (([1, 2, 3], [3, 2, 1], [4]), {"level": 0.90})
    asked = instead(monkeypatch, entry.forecasting, "forecast")
    found = entry.forecast(GROUPS, at=[9], group="arm", level=0.8, model="m")
    assert dict(found) == {"a": "law", "b": "law"}
    assert asked.calls[1][1] == {
        "at": [9],
        "level": 0.8,
        "x": [1, 2, 4],
        "loss": [3, 2, 1],
        "replicate": [0, 1, 2],
        "x_name": "tokens",
        "loss_name": "loss",
        "checkpoints": False,
        "model": "m",
    }
    asked = instead(monkeypatch, entry.forecasting, "forecast")
    two = entry.forecast({**CURVE, "bpb": [4.0, 3, 2, 1]}, at=[9], y=["loss", "bpb"], x="tokens", level=0.7)
    assert (list(two), [call[1]["loss_name"] for call in asked.calls], asked.calls[0][1]["level"]) == (
        ["loss", "bpb"],
        ["loss", "bpb"],
        0.7,
    )
    mixture = Asked("ahead")
    chosen = instead(monkeypatch, entry, "choose", SimpleNamespace(mixture=SimpleNamespace(predict=mixture)))
    assert entry.forecast(SURFACE, at={"N": [1e9], "D": [1e10]}, x=["N", "D"], level=0.6) == "ahead"
    assert mixture.only == (([[1e9, 1e10]], 0.6), {})
    ((table,), _) = chosen.only
    assert (table.x_names, table.loss.tolist()) == (("N", "D"), [4, 2, 3, 1])
    share = SimpleNamespace(predict=lambda at, level: (at, level))
    instead(monkeypatch, entry, "_fit_arrays", share)
    assert entry.forecast([1, 2], [0.3, 0.4], [4], loss_name="acc", level=0.8) == ([4], 0.8)


def test_a_backtest_hands_on_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = instead(monkeypatch, entry.backtesting, "backtest")
    assert entry.backtest([1, 2, 3], [3, 2, 1], level=0.8, x_name="N") == entry.backtest(
        None, [3, 2, 1], x=[1, 2, 3], level=0.8, x_name="N"
    )
    assert asked.calls == [(([1, 2, 3], [3, 2, 1]), {"level": 0.8, "x_name": "N"})] * 2
    asked = instead(monkeypatch, entry.backtesting, "backtest")
    assert dict(entry.backtest(GROUPS, group="arm", families=("power",))) == {"a": "law", "b": "law"}
    assert asked.calls[0][1] == {
        "level": 0.90,
        "x": [1, 2, 4],
        "loss": [6, 5, 4],
        "replicate": [0, 1, 2],
        "x_name": "tokens",
        "loss_name": "loss",
        "families": ("power",),
    }
    two = entry.backtest({**CURVE, "bpb": [4.0, 3, 2, 1]}, y=["loss", "bpb"], x="tokens", level=0.7)
    assert (list(two), [call[1]["loss_name"] for call in asked.calls[2:]], asked.calls[2][1]["level"]) == (
        ["loss", "bpb"],
        ["loss", "bpb"],
        0.7,
    )
    corners = instead(monkeypatch, entry, "backtest_corners", "corners")
    assert entry.backtest(SURFACE, x=["N", "D"], level=0.6) == "corners"
    ((table, level), _) = corners.only
    assert (table.x_names, level) == (("N", "D"), 0.6)
    shares = instead(monkeypatch, entry, "backtest_arrays", "shares")
    assert entry.backtest([1, 2], [0.3, 0.4], loss_name="acc", level=0.8, chance=0.1) == "shares"
    assert shares.only == (([1, 2], [0.3, 0.4], Metric("acc"), ShareOptions(None, 0.1, None, None), ("x",), 0.8), {})
    tested = instead(monkeypatch, entry, "backtest_metric", [("", "tested", None)])
    assert entry.backtest(SHARE, y="acc", level=0.75) == "tested"
    ((found, metric, how, level), _) = tested.only
    assert (found.table.n_rows, metric, how, level) == (4, Metric("acc"), ShareOptions(None, None, None, None), 0.75)


def test_an_optimum_hands_on_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    best = Asked("best")
    asked = instead(monkeypatch, entry, "analyse_surface", SimpleNamespace(optimum=best))
    assert entry.optimum(SURFACE, [1e18], n="N", d="D", y="loss", n_bootstrap=5, seed=2, unique_tokens=3.0) == "best"
    (_, named) = asked.only
    assert named == {
        "x": [[1e6, 1e8], [1e7, 1e8], [1e6, 1e9], [1e7, 1e9]],
        "loss": [4, 3, 2, 1],
        "x_name": ("N", "D"),
        "loss_name": "loss",
        "run": None,
        "replicate": [0, 1, 2, 3],
        "notes": (),
        "law": "auto",
        "n_bootstrap": 5,
        "seed": 2,
    }
    assert best.only == (([1e18],), {"level": 0.90, "cost": SIX_N_D, "unique_tokens": 3.0})
    priced = {**SURFACE, "hours": [1.0, 10.0, 10.0, 100.0]}
    law = instead(monkeypatch, entry, "fit_cost", "cost law")
    entry.optimum(priced, [1.0], law="kaplan", level=0.8, cost="hours")
    assert law.only == (([1e6, 1e7, 1e6, 1e7], [1e8, 1e8, 1e9, 1e9], [1, 10, 10, 100], "hours"), {})
    assert (asked.calls[1][1]["law"], best.calls[1]) == ("kaplan", (([1.0],), {"level": 0.8, "cost": "cost law"}))
    size, data = (axis.reshape(-1) for axis in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    fit = fit_law(
        LAWS["chinchilla"], observe(np.column_stack([size, data]), 2 + 4 / size**0.3 + 9 / data**0.3), LeastSquares()
    )
    own = instead(monkeypatch, entry.allocation, "optimum", "own")
    assert entry.optimum(fit, [1e18], level=0.7, seed=1) == "own"
    assert own.only == ((fit, [1e18]), {"level": 0.7, "cost": SIX_N_D, "seed": 1})


def test_which_kind_of_law_arrays_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def steps(*given: Any, **named: Any) -> Any:
        asked.append((tuple(map(plain, given)), named))
        return "curve"
        yield

    scales = instead(monkeypatch, analysis, "analyse_scales", "scales")
    surface = instead(monkeypatch, analysis, "analyse_surface", "surface")
    monkeypatch.setattr(analysis, "analyse", SimpleNamespace(steps=steps))
    given = {"level": 0.8, "n_bootstrap": 7, "seed": 3, "loss_name": "L", "run": "r", "replicate": "s", "notes": ("n",)}
    assert (
        analysis.fit(
            [[1.0], [2.0]], [2.0, 1.0], law="power", weights="w", noise="e", objective="o", x_name="N", **given
        )
        == "curve"
    )
    assert asked == [
        (
            ([1, 2], [2, 1]),
            {
                **given,
                "law": "power",
                "x_name": "N",
                "objective": "o",
                "weights": "w",
                "noise": "e",
            },
        )
    ]
    two = [[1.0, 2.0], [3.0, 4.0]]
    assert analysis.fit(two, [2.0, 1.0], law="kaplan", noise="e", objective="o", **given) == "surface"
    assert surface.only == (
        (two, [2.0, 1.0]),
        {**given, "law": "kaplan", "x_name": ("N", "D"), "objective": "o", "noise": "e"},
    )
    assert (
        analysis.fit(two, [2.0, 1.0], x_name=("a", "b"), bounds={"E": (0, 1)}, fixed={"A": 1}, objective="o", **given)
        == "scales"
    )
    kept = {name: value for name, value in given.items() if name not in ("n_bootstrap", "seed")}
    assert scales.only == (
        (two, [2.0, 1.0]),
        {
            **kept,
            "law": "auto",
            "x_name": ("a", "b"),
            "bounds": {"E": (0, 1)},
            "fixed": {"A": 1},
            "objective": "o",
        },
    )
    usual = {"law": "auto", "level": 0.95, "n_bootstrap": 1000, "seed": 0, "loss_name": "loss", "notes": ()}
    assert (analysis.fit([1.0, 2.0], [2.0, 1.0]), analysis.fit(two, [2.0, 1.0])) == ("curve", "surface")
    for told, names in ((asked[1][1], "x"), (surface.calls[1][1], ("N", "D"))):
        assert {name: value for name, value in told.items() if value is not None} == {**usual, "x_name": names}
    assert analysis.fit([1.0, 2.0], [2.0, 1.0], law="a*x") == "scales"
    assert scales.calls[1][0][0] == [[1.0], [2.0]]
    assert [
        analysis._names(*one) for one in ((None, 1), (None, 2), (None, 5), ("n", 1), ("n", 2), (("a", "b"), 2), ((), 3))
    ] == [
        ("x",),
        ("N", "D"),
        ("N", "D", "U", "x4", "x5"),
        ("n",),
        ("N", "D"),
        ("a", "b"),
        ("N", "D", "U"),
    ]


def test_shares_are_read_directly_or_off_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = instead(monkeypatch, metrics, "analyse_shares", "direct")
    linked = instead(monkeypatch, metrics, "link_task", "linked")
    first = instead(monkeypatch, metrics, "predictor_of_loss", "first")
    assert entry.fit(SHARE, y="acc", x="tokens", chance=0.1, trials="q", level=0.8) == "direct"
    ((x, values), named) = direct.only
    assert (x, values, named) == (
        [[1], [2], [4], [8]],
        [0.2, 0.3, 0.4, 0.5],
        {
            "x_name": ("tokens",),
            "metric": Metric("acc"),
            "chance": 0.1,
            "trials": [10.0] * 4,
            "level": 0.8,
            "loss_name": "acc",
            "notes": (),
        },
    )
    assert entry.fit(SHARE, y="acc", x="tokens", via="loss") == "linked"
    assert first.only == (([[1], [2], [4], [8]], [8, 4, 2, 1], ("tokens",), "loss", None), {})
    assert linked.only == (
        ("first", [8, 4, 2, 1], [0.2, 0.3, 0.4, 0.5]),
        {
            "n_loss_rows": 4,
            "metric": Metric("acc"),
            "chance": None,
            "trials": None,
            "level": 0.95,
            "loss_name": "acc",
            "notes": (),
        },
    )
    arrays = (np.array([1.0, 2.0]), [0.2, 0.3], Metric("acc"))
    assert metrics.analyse_arrays(*arrays, ShareOptions(trials=5), ("n",), level=0.7) == "direct"
    assert direct.calls[1] == (
        ([1, 2], [0.2, 0.3]),
        {
            "x_name": ("n",),
            "metric": Metric("acc"),
            "chance": None,
            "trials": 5,
            "loss_name": "acc",
            "level": 0.7,
        },
    )
    assert metrics.analyse_arrays(*arrays, ShareOptions(via=[3.0, 2.0], chance=0.1), ("n",)) == "linked"
    assert first.calls[1] == (([1, 2], [3, 2], ("n",), "loss"), {})
    assert linked.calls[1] == (
        ("first", [3, 2], [0.2, 0.3]),
        {
            "metric": Metric("acc"),
            "chance": 0.1,
            "trials": None,
            "loss_name": "acc",
        },
    )


def test_a_backtest_of_shares_refits_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways where the share is read off a loss; rows that are not seen, or have no share, are not fitted to."""
    ways: dict[str, Callable[[Any], Any]] = {}

    def keep(x: Any, values: Any, names: Any, metric: Any, refits: Any, level: float) -> str:
        ways.update(refits)
        return f"{names} {level}"

    monkeypatch.setattr(metrics, "backtest_shares", keep)
    fitted = instead(monkeypatch, metrics, "_law_of_arrays")
    shares = [0.2, np.nan, 0.4, 0.5]
    how = ShareOptions(via=[4.0, 3.0, 2.0, 1.0], trials=[1, 2, 3, 4])
    assert metrics.backtest_arrays([1, 2, 3, 4], shares, Metric("acc"), how, ("n",), 0.8) == "('n',) 0.8"
    assert list(ways) == ["forecast", "without the loss"]
    seen = np.array([True, True, True, False])
    ways["forecast"](seen)
    ways["without the loss"](seen)
    (x, _, metric, options, names), _ = fitted.calls[0]
    assert (x, metric, plain(options.via), plain(options.trials), names) == (
        [[1], [2], [3]],
        Metric("acc"),
        [4, 3, 2],
        [1, 2, 3],
        ("n",),
    )
    (x, values, _, options, _), _ = fitted.calls[1]
    assert (x, values, options.via, plain(options.trials)) == ([[1], [3]], [0.2, 0.4], None, [1, 3])
    ways.clear()
    metrics.backtest_arrays([1, 2, 3, 4], [0.2, 0.3, 0.4, 0.5], Metric("acc"), ShareOptions(trials=9), ("n",), 0.8)
    ways["forecast"](seen)
    assert (list(ways), fitted.calls[-1][0][3].trials) == (["forecast"], 9)


def test_many_tables_are_fitted_in_parts_and_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "SIDE_BY_SIDE", 2)
    assert list(many._parts(list("abcde"))) == [["a", "b"], ["c", "d"], ["e"]]
    good = {"x": [1.0, 2.0, 3.0, 4.0], "loss": [4.0, 3.0, 2.0, 1.0], "n_bootstrap": 5}
    bad = {**good, "loss": [1.0, 2.0, 3.0, -1.0]}
    for jobs, words in (({"a": good, "b": bad}, "b: 'loss' is -1 in row 4"), ({"b": bad}, "'loss' is -1 in row 4")):
        with pytest.raises(InputError) as caught:
            many.fit_each(jobs)
        assert str(caught.value).startswith(words)


# ------------------------------------------------------------------------------------------- defaults


DEFAULTS = {
    "analyse": "hold_out='largest' level=0.95 n_bootstrap=1000 seed=0 law='auto' x_name='x' loss_name='loss' notes=()",
    "backtest": "level=0.9",
    "backtest_corners": "level=0.9",
    "bootstrap_mean": "level=0.95 n_resamples=10000 seed=0",
    "crossover": "level=0.95",
    "envelope": "level=0.95 bins_per_decade=4",
    "fit_cost": "name='cost'",
    "forecast": "level=0.9",
    "frontier": "n_points=50",
    "grouped": "law='power' level=0.95 n_bootstrap=400 seed=0 x_name='x' loss_name='loss'",
    "hold_out": "level=0.95 share=0.25 series=''",
    "isoflop": "level=0.95 rise=0.05",
    "leave_one_out": "level=0.95",
    "optimum": "law='auto' level=0.9",
    "paired_test": "level=0.95 n_resamples=10000 seed=0",
    "profile": "level=0.95 n_points=41 reach=4.0",
    "slope": "level=0.95",
    "training_flops": "n_layers=0 d_model=0 sequence=0",
    "width_and_depth": "level=0.95",
}
"""As the reference of public names shows them; what a user's numbers rest on where nothing is said."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_public_functions_are_those_of_the_reference(name: str) -> None:
    told = inspect.signature(getattr(laws, name)).parameters.values()
    given = [f"{one.name}={one.default!r}" for one in told if one.default is not one.empty and one.default is not None]
    assert " ".join(given) == DEFAULTS[name]


def test_intervals_that_nobody_asks_for_are_those_of_one_run_at_ninety_per_cent() -> None:
    table = observe([1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 2.1, 1.0])
    x, loss = table.x[:, 0], table.loss
    found = laws.analyse(x, loss, n_bootstrap=20)
    assert (found.level, found.predict([16.0]).level) == (0.95, 0.90)
    ahead = laws.forecast(x, loss, [16.0])
    assert (ahead.level, ahead.x_name, ahead.loss_name) == (0.90, "x", "loss")
    assert ahead.predict([16.0]).rows() == found.predict([16.0]).rows()
    assert Table({"n": [1]}, "t").notes == ()
