"""A study without meta-learning: its own words, a measured scale, and series that its launcher names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metascale.report.answer import answer
from metascale.report.comparisons import comparisons_data
from metascale.report.data import law_data
from metascale.report.findings import find
from metascale.report.overview import missing_data
from metascale.report.reading import SUPERVISED, read_results, read_study
from metascale.report.sections.curves import learning_curves_data
from metascale.report.sections.memory import KINDS, memory_data
from metascale.report.series import series_of
from metascale.report.write import write_report
from tests.report.study_fixture import write_csv


@pytest.fixture
def width_study(tmp_path: Path) -> Path:
    """Two architectures at three widths and two depths; the law runs along the measured number of parameters."""
    rows = []
    for architecture in ("transformer", "resnet_bk"):
        for width in (8, 16, 32):
            for depth in (2, 4):
                n = width**2 * depth
                label = f"{architecture}-{width}-{depth}"
                rows.append(
                    {
                        "id": f"i{label}",
                        "label": label,
                        "seed": 0,
                        "kind": "trial",
                        "status": "finished",
                        "message": "",
                        "architecture": architecture,
                        "width": width,
                        "depth": depth,
                        "n_params_non_embedding": n,
                        "test_loss_nats": 4 + n**-0.3,
                    }
                )
    write_csv(tmp_path / "results.csv", rows)
    axes = [["architecture", ["transformer", "resnet_bk"]], ["width", [8, 16, 32]], ["depth", [2, 4]]]
    (tmp_path / "study.json").write_text(json.dumps({"name": "model-size", "axes": axes, "base": {}}))
    launched = {"command": "c", "question": "q?", "scale": "n_params_non_embedding", "series": ["architecture"]}
    (tmp_path / "command.json").write_text(json.dumps(launched))
    return tmp_path


def test_only_the_named_axis_makes_series_and_the_measured_scale_is_the_x_axis(width_study: Path) -> None:
    study = read_study(width_study)
    assert study.terms is SUPERVISED
    assert learning_curves_data(study).x_label == "step"
    scales = law_data(study).scales
    assert scales.x_name == "n_params_non_embedding"
    assert scales.x_label == "non-embedding parameters"
    assert len(set(series_of(study).values())) == 2
    assert len(scales.points) == 12


def test_nothing_is_called_meta(width_study: Path) -> None:
    study = read_study(width_study)
    assert law_data(study).scales.y_label == "test loss (nats)"
    assert "trained trials" not in find(study).answer
    assert "meta" not in " ".join(missing_data(study)).lower()
    assert "adaptation" not in " ".join(missing_data(study)).lower()
    page = next(path for path in write_report(width_study) if path.name == "report.html").read_text()
    assert "meta-test" not in page.lower()
    assert "meta-learn" not in page.lower()


@pytest.fixture
def settings_study(tmp_path: Path) -> Path:
    """Three settings of no scale, two seeds, twenty test examples each: the second setting loses a tenth less."""
    rows = []
    for method, shift in (("plain", 0.0), ("weighted", -0.1), ("third", 0.02)):
        for seed in (0, 1):
            losses = [1 + 0.05 * example + shift + 0.01 * seed for example in range(20)]
            folder = tmp_path / "runs" / f"{method}-{seed}-i{method}{seed}"
            folder.mkdir(parents=True)
            write_csv(
                folder / "test_tasks.csv",
                [{"step": 1, "task_id": f"e{i}", "loss_nats": loss} for i, loss in enumerate(losses)],
            )
            row = {"id": f"i{method}{seed}", "label": f"{method}-{seed}", "seed": seed, "kind": "trial"}
            mean = sum(losses) / len(losses)
            rows.append({**row, "status": "finished", "message": "", "method": method, "test_loss_nats": mean})
    write_csv(tmp_path / "results.csv", rows)
    axes = [["method", ["plain", "weighted", "third"]]]
    (tmp_path / "study.json").write_text(json.dumps({"name": "arms", "axes": axes, "base": {"method": "plain"}}))
    return tmp_path


def test_a_study_of_settings_answers_with_the_best_one_and_its_paired_test(settings_study: Path) -> None:
    found = answer(read_study(settings_study))
    assert found.title == "Lowest loss: weighted"
    assert "0.100 below plain" in found.answer
    assert [(row.first, row.second) for row in comparisons_data(settings_study).rows] == [
        ("weighted", "plain"),
        ("third", "plain"),
    ]
    assert missing_data(settings_study) == ("Learning curves are missing: no run folder has eval_stats.csv.",)
    page = next(path for path in write_report(settings_study) if path.name == "report.html").read_text()
    assert "Lowest test loss: weighted" in page
    assert "Side by side, on the same tests" in page
    assert "Against baselines" not in page
    assert "Caveats" not in page, "a study without a law has none to be careful of"


def test_memory_is_the_mean_by_kind_and_is_left_out_where_it_was_not_measured(settings_study: Path) -> None:
    assert memory_data(settings_study).rows == ()
    path = settings_study / "results.csv"
    rows = read_results(path)
    for number, row in enumerate(rows):
        # The two trials of a method hold 1 and 3 MiB of each kind more than nothing; "third" was not measured.
        for kind in KINDS:
            row[f"step_{kind}_bytes"] = "" if row["method"] == "third" else str((1 + 2 * (number % 2)) << 20)
    write_csv(path, rows, raw_text=True)
    found = memory_data(settings_study).rows
    assert [(row.n_trials, row.by_kind) for row in found] == [(2, (2.0,) * 6)] * 2
    assert {row.series for row in found} == {"plain", "weighted"}
    written = [path.name for path in write_report(settings_study)]
    assert "memory.png" in written
