"""Irregular points: exactly the planted ones, each with its planted cause; none in a table that follows its law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metascale.report.sections.checks import NO_CAUSE, cause_of, edges_at, irregular, irregular_data
from metascale.report.sections.tuning import TuningTable
from metascale.report.study import Point, open_study
from metascale.report.write import summarise
from tests.report.shape_fixture import write_shapes
from tests.report.study_fixture import run_row

FAULTS: dict[tuple[int, int, float], dict[str, Any]] = {
    (8, 2, 1.0): {"factor": 1.3, "converged": False},
    (16, 3, 1.0): {"factor": 1.25, "edge": "high"},
    (32, 2, 2.0): {"factor": [0.8, 1.3, 1.5]},
    (32, 3, 2.0): {"factor": 0.75, "converged": False},
}


def test_exactly_the_planted_points_are_found_with_their_planted_causes(tmp_path: Path) -> None:
    table = irregular_data(write_shapes(tmp_path, FAULTS))
    assert table.n_points == 20
    found = {row.name: row for row in table.rows}
    assert {name: row.cause.split(":")[0] for name, row in found.items()} == {
        "width 8, depth 2, ratio 1": "not converged",
        "width 16, depth 3, ratio 1": "at the edge of the tuned range",
        "width 32, depth 2, ratio 2": "seeds disagree",
        # Too low for its size: that training was cut short explains nothing.
        "width 32, depth 3, ratio 2": NO_CAUSE,
    }
    assert found["width 8, depth 2, ratio 1"].log_error == pytest.approx(0.26, abs=0.06)
    assert found["width 32, depth 3, ratio 2"].log_error == pytest.approx(-0.29, abs=0.06)
    assert "3 of 3 runs" in found["width 8, depth 2, ratio 1"].cause
    assert "learning rate at the high end" in found["width 16, depth 3, ratio 1"].cause
    part = irregular(open_study(tmp_path))
    assert "4 lie outside" in part.sentences[0]
    study = open_study(tmp_path)
    assert [row["name"] for row in summarise(study, (part,))["irregular"]] == [row.name for row in table.rows]
    assert [row.cells[1].text for row in part.tables[0].rows] == [row.cause for row in table.rows]


def test_values_that_a_rule_brought_to_the_end_of_a_range_are_told(tmp_path: Path) -> None:
    """The point was never searched: its runs used a weight decay of 1, where the range ends."""
    ranges = {"weight_decay": {"log": [1e-4, 1.0]}, "dropout": {"uniform": [0.0, 0.5]}, "batch": {"choice": [1, 2, 4]}}
    point = Point("s", "p", {}, 9.0, (1.0,), (run_row(weight_decay=1.0, dropout=0.2, batch=2),))
    table = TuningTable((), ranges)
    assert edges_at(point, table) == {"weight_decay": "high"}
    assert cause_of(point, 0.1, [point], table) == "at the edge of the tuned range: weight decay at the high end"
    assert cause_of(point, -0.1, [point], table) == NO_CAUSE


def test_a_table_on_its_law_has_no_irregular_points(tmp_path: Path) -> None:
    assert irregular_data(write_shapes(tmp_path)).rows == ()


def _point(x: float, losses: tuple[float, ...], best: int = 3, steps: int = 5) -> Point:
    trials = tuple(run_row(k, best_step=best, steps=steps) for k in range(len(losses)))
    return Point("s", f"x {x}", {"width": str(x)}, x, losses, trials)


def test_a_run_that_patience_did_not_stop_is_cut_short_where_the_others_were() -> None:
    runs = [run_row(k, training="converged", best_step=3, steps=5) for k in range(3)]
    others = [Point("s", str(k), {}, 2.0 + k, (1.0,), (run,)) for k, run in enumerate(runs)]
    odd = Point("s", "odd", {}, 9.0, (1.0,), (run_row(training="max_steps", best_step=3, steps=5),))
    assert cause_of(odd, 0.1, [*others, odd]).startswith("not converged: 1 of 1")
    assert cause_of(odd, 0.1, [odd]) == NO_CAUSE, "a study that gives all the same steps has no patience to run out"


@pytest.mark.parametrize(
    ("best", "steps", "excess", "cause"),
    [(5, 5, 0.1, "not converged: 2 of 2"), (4, 5, 0.1, NO_CAUSE), (5, 5, -0.1, NO_CAUSE)],
)
def test_training_that_was_cut_short_explains_a_high_loss_only(
    best: int, steps: int, excess: float, cause: str
) -> None:
    point = _point(4.0, (1.0, 1.0), best, steps)
    assert cause_of(point, excess, [point]).startswith(cause)
