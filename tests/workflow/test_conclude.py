"""What is concluded from a table: series found again by the report, baselines of several seeds."""

from __future__ import annotations

import pytest

from metascale.study import Study
from metascale.study.roles import Roles
from metascale.study.store.table import ResultsTable
from metascale.workflow.conclude import baseline_results, laws_of

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
