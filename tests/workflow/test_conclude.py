"""What is concluded from a table: series found again by the report, baselines of several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.laws import SurfaceAnalysis, fit, load_law, write_laws
from metascale.laws.scales import ScalesAnalysis
from metascale.study import Study
from metascale.study.roles import Roles
from metascale.study.store.table import ResultsTable
from metascale.workflow.conclude import baseline_results, laws_of, record_of

COLUMNS = ("id", "x", "flag", "seed", "kind", "status", "method", "test_loss_nats")


def test_series_are_named_as_the_table_writes_their_values() -> None:
    rows = [
        dict(zip(COLUMNS, (f"{x}{flag}", x, flag, 0, "trial", "finished", "m", 2.0 * x**-0.3), strict=True))
        for x in (1, 2, 4, 8)
        for flag in (False, True, None)
    ]
    study = Study("s", "tests.study.trials:quick", {}, {"x": (1, 2, 4, 8), "flag": (False, True)}, (0,))
    analyses, reason = laws_of(
        study, ResultsTable(COLUMNS, tuple(rows)), Roles(("x",), ("flag",), loss="test_loss_nats")
    )
    assert set(analyses) == {"flag=false", "flag=true", "flag="}
    assert reason == ""


def test_a_baseline_of_several_seeds_is_their_mean() -> None:
    rows = [
        dict(zip(COLUMNS, (str(seed), None, None, seed, "baseline", "finished", "ft", loss), strict=True))
        for seed, loss in enumerate((1.0, 2.0, 6.0))
    ]
    assert baseline_results(ResultsTable(COLUMNS, tuple(rows)))["ft"]["test_loss_nats"] == pytest.approx(3.0)


def test_a_quantity_of_which_more_is_better_rises_without_alarm() -> None:
    rows = [
        dict(zip(COLUMNS, (str(x), x, None, 0, "trial", "finished", "m", 2.0 * x**0.3), strict=True))
        for x in (1, 2, 4, 8, 16)
    ]
    study = Study("s", "tests.study.trials:quick", {}, {"x": (1, 2, 4, 8, 16)}, (0,))
    for better, words in (("higher", "rises with x (growing with mean exponent"), ("lower", "RISES with x")):
        roles = Roles(("x",), loss="test_loss_nats", better=better)  # type: ignore[arg-type]
        analyses, _ = laws_of(study, ResultsTable(COLUMNS, tuple(rows)), roles)
        assert words in analyses[""].verdict


def test_a_study_of_two_scales_has_the_law_of_fit_and_predicts_from_its_file(tmp_path: Path) -> None:
    """Width and depth are no model size and data: the forms that `fit` tries, not Hoffmann's surface."""
    columns = ("id", "width", "depth", "seed", "kind", "status", "method", "test_loss_nats")
    places = [(w, d) for w in (8, 16, 32, 64, 128) for d in (1, 2, 4, 8)]
    losses = {(w, d): 1.0 + 6.0 * w**-0.5 + 2.0 * d**-0.7 for w, d in places}
    rows = [
        dict(zip(columns, (f"{w}-{d}", w, d, 0, "trial", "finished", "m", loss), strict=True))
        for (w, d), loss in losses.items()
    ]
    study = Study("s", "tests.study.trials:quick", {}, {"width": (8, 16), "depth": (1, 2)}, (0,))
    roles = Roles(("width", "depth"), loss="test_loss_nats")
    found = laws_of(study, ResultsTable(columns, tuple(rows)), roles)[0][""]
    table = {"width": [w for w, _ in places], "depth": [d for _, d in places], "loss": list(losses.values())}
    asked = fit(table, x=["width", "depth"], y="loss")
    assert isinstance(found, ScalesAnalysis)
    assert found.parameters == asked.parameters
    assert {axis: trend.answer for axis, trend in found.trends.items()} == {"width": "falls", "depth": "falls"}
    write_laws(tmp_path, {"": record_of(found)})
    ahead = load_law(tmp_path).predict([[256, 16]])
    assert ahead.rows() == asked.predict([[256, 16]]).rows()
    assert ahead.median[0] == pytest.approx(1.0 + 6.0 * 256**-0.5 + 2.0 * 16**-0.7, rel=0.02)
    names = ("id", "N", "tokens", *columns[3:])
    named = [dict(zip(names, (row["id"], 1e6 * row["width"], 1e8 * row["depth"], *list(row.values())[3:]), strict=True))
             for row in rows]  # fmt: skip
    surface = laws_of(study, ResultsTable(names, tuple(named)), Roles(("N", "tokens"), loss="test_loss_nats"))[0][""]
    assert isinstance(surface, SurfaceAnalysis)
    assert record_of(surface).predictor is not None
