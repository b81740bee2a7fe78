"""The parts of the page about shapes: a planted law predicts what was hidden, effects of axes, diagnoses, searches."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from metascale.core.errors import CorruptFile
from metascale.laws.held_out import LAW
from metascale.report.sections.checks import held_out_data, held_out_sentence, plot_held_out
from metascale.report.sections.diagnosis import advice, diagnosis_data, diagnosis_sentence, typical, verdict_of
from metascale.report.sections.shapes import ASPECT, shape_data
from metascale.report.sections.tuning import TuningTable, excess, name_of, plot_tuned, tuning_data
from metascale.report.study import open_study
from metascale.report.write import write_report
from tests.report.shape_fixture import ALPHA, E, law, write_shapes
from tests.report.study_fixture import make_study


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), {(16, 3, 1.0): {"edge": "high"}})


def test_the_law_of_the_small_shapes_predicts_the_hidden_ones(shapes: Path) -> None:
    (found,) = held_out_data(shapes)
    assert (len(found.seen), len(found.hidden)) == (15, 5)
    assert max(point.x for point in found.seen) < min(row.point.x for row in found.hidden)
    for row in found.hidden:
        said = row.predictions[LAW]
        assert said.predicted == pytest.approx(law(row.point.x), rel=0.03)
        assert said.holds(row.point.mean)
    assert found.n_inside(LAW) == 5
    assert found.rmse_log(LAW) < 0.03 < found.rmse_log("power"), "the power law without E falls too far"
    assert found.rmse_log("last value") > 0.1
    for name, truth in (("E", E), ("alpha", ALPHA)):
        assert found.parameters[name]["low"] < truth < found.parameters[name]["high"]
    assert "5 of 5 lie inside" in held_out_sentence(found, "n_params_total")


def test_a_hidden_point_off_the_law_is_told_as_outside(shapes: Path, tmp_path: Path) -> None:
    (found,) = held_out_data(write_shapes(tmp_path, {(64, 3, 2.0): {"factor": 2.0}}))
    (clean,) = held_out_data(shapes)
    assert [row.predictions for row in found.hidden] == [row.predictions for row in clean.hidden], "it was not seen"
    outside = [row.point.name for row in found.hidden if not row.predictions[LAW].holds(row.point.mean)]
    assert outside == ["width 64, depth 3, ratio 2"]
    assert "4 of 5 lie inside" in held_out_sentence(found, "n_params_total")
    plot_held_out((found,), ax := Figure().subplots(), y_label="loss", x_label="parameters")
    assert "4 of 5 larger ones inside its interval" in ax.get_title(loc="left").replace("\n", " ")


def test_axes_that_work_through_the_size_alone_do_nothing_at_equal_size(shapes: Path) -> None:
    table = shape_data(shapes)
    assert table is not None
    assert table.axes == ("width", "depth", "ratio", ASPECT)
    effects = {effect.axis: effect for effect in table.effects}
    assert effects["width"].overall.high < -0.2
    for effect in effects.values():
        assert effect.at_equal_size.low < 0.01
        assert effect.at_equal_size.high > -0.01
        assert abs(effect.at_equal_size.estimate) < 0.02
    widths = table.by_value("width", table.series[0])
    assert [row[0] for row in widths] == [4, 8, 16, 32, 64]
    assert [row[3] for row in widths] == [4] * 5
    assert all(a[1] > b[1] for a, b in itertools.pairwise(widths))


def test_a_planted_effect_of_depth_is_found_at_equal_size(tmp_path: Path) -> None:
    deeper = {(w, 3, r): {"factor": 0.8} for w in (4, 8, 16, 32, 64) for r in (1.0, 2.0)}
    table = shape_data(write_shapes(tmp_path, deeper))
    assert table is not None
    depth = next(effect for effect in table.effects if effect.axis == "depth")
    assert depth.at_equal_size.estimate == pytest.approx(math.log(0.8) / math.log2(3 / 2), abs=0.12)
    assert depth.at_equal_size.high < 0


def test_diagnoses_are_those_of_the_planted_gaps(shapes: Path) -> None:
    table = diagnosis_data(shapes)
    assert table.x_label == "epoch"
    assert [row.verdict for row in table.rows] == ["underfits"] * 8 + ["in balance"] * 4 + ["overfits"] * 8
    first = table.rows[0]
    assert first.gap == pytest.approx(0.1)
    assert first.validation == pytest.approx(open_study(shapes).points[0].mean, rel=1e-3)
    assert first.rise == pytest.approx(math.log(1.2))
    assert first.settings == {"dropout": 0.1}
    assert [row.point.axes["width"] for row in typical(table)] == [4, 16, 64]
    sentence = diagnosis_sentence(table)
    assert "8 underfit, 4 are in balance, 8 overfit" in sentence
    assert "10 % at the smallest" in sentence
    assert "70 % at the largest" in sentence


@pytest.mark.parametrize(
    ("train", "validation", "best", "short", "verdict"),
    [
        (0.4, 1.0, 1.0, False, "overfits"),
        (0.9, 1.0, 0.5, False, "underfits"),
        (0.9, 1.0, 1.0, False, "in balance"),
        (0.6, 1.0, 0.5, False, "in balance"),
        (0.4, 1.0, 1.0, True, "not converged"),
    ],
)
def test_verdicts(train: float, validation: float, best: float, short: bool, verdict: str) -> None:
    found = verdict_of(train, validation, best, short)
    assert found == verdict
    assert advice(found)


def test_searches_are_tables_and_curves_with_the_best_and_the_edges_marked(shapes: Path) -> None:
    table = tuning_data(shapes)
    assert (len(table.points), table.names, table.n_attempts) == (20, ("lr", "batch_size"), 140)
    assert {name_of(point): dict(point.edges) for point in table.points if point.edges} == {
        "width 16, depth 3, ratio 1.0": {"lr": "high"}
    }
    first = table.points[0]
    assert Counter(one.status for one in first.tried) == {"finished": 5, "pruned": 1, "diverged": 1}
    assert excess(first, first.tried[0]) == pytest.approx(math.log(2.0)), "a decade off is a loss of 2 against 1"
    ax = Figure().subplots()
    plot_tuned(table, ax, name="lr")
    assert ax.get_title(loc="left") == "Learning rate: 1 of 20 at an edge"
    assert ax.get_xscale() == "log"
    plot_tuned(TuningTable(table.points, {"lr": {"uniform": [0.001, 0.3]}}), linear := Figure().subplots(), name="lr")
    assert linear.get_xscale() == "linear", "the axis is that of its range"
    plot_tuned(table, batches := Figure().subplots(), name="batch_size")
    assert [text.get_text() for text in batches.get_xticklabels()] == ["32", "64", "128"]


@pytest.mark.long
@pytest.mark.usefixtures("undrawn")
def test_the_page_holds_every_part(shapes: Path) -> None:
    written = {path.name: path.read_bytes() for path in write_report(shapes)}
    assert {"shapes.png", "held_out.png", "diagnosis.png", "tuning.png"} <= set(written)
    page = written["report.html"].decode()
    for part in ("shapes", "held-out", "irregular", "diagnosis", "tuning"):
        assert f'<section id="{part}">' in page
    assert "0.1 ▲" in page


def test_a_damaged_tuning_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write_shapes(tmp_path)
    (tmp_path / "tuning.json").write_text(json.dumps([{"point": {}}]))
    with pytest.raises(CorruptFile, match=r"tuning\.json"):
        tuning_data(tmp_path)


def test_a_study_along_one_axis_has_none_of_the_shape_parts(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    assert shape_data(study) is None
    assert held_out_data(study) == ()
    assert tuning_data(study).points == ()
    assert diagnosis_data(study).rows == ()
