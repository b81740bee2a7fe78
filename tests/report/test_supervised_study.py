"""A study without meta-learning: its own words, a measured scale, and series that its launcher names."""

from __future__ import annotations

import html
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.report.sections.contest import contest_data
from metascale.report.sections.curves import learning_curves_data
from metascale.report.sections.law import law_data, law_finding, scales_table
from metascale.report.sections.memory import MEMORY_KINDS, memory_data
from metascale.report.sections.overview import missing_data
from metascale.report.sections.scales import accuracy_data
from metascale.report.sections.standing import contest_finding
from metascale.report.study import SUPERVISED_TERMS, open_study
from metascale.report.write import finding_of, write_report
from metascale.study.design import Trial
from metascale.study.roles import Roles
from tests.report.study_fixture import StudyBuilder, change, write_csv


@pytest.fixture
def width_study(tmp_path: Path) -> Path:
    """Two architectures at three widths and two depths; the law runs along the measured number of parameters."""
    axes = {"architecture": ["transformer", "resnet_bk"], "width": [8, 16, 32], "depth": [2, 4]}
    launched = {"command": "c", "question": "q?"}
    builder = StudyBuilder(
        tmp_path,
        axes,
        name="model-size",
        launched=launched,
        roles=Roles(("n_params_non_embedding",), ("architecture",), loss="test_loss_nats"),
    )
    for architecture, width, depth in itertools.product(*axes.values()):
        n = width**2 * depth
        sets = {"architecture": architecture, "width": width, "depth": depth}
        result = {"n_params_non_embedding": n, "test_loss_nats": 4 + n**-0.3}
        builder.run(f"{architecture}-{width}-{depth}", sets, result=result)
    return builder.write()


def test_only_the_named_axis_makes_series_and_the_measured_scale_is_the_x_axis(width_study: Path) -> None:
    study = open_study(width_study)
    assert study.terms is SUPERVISED_TERMS
    assert learning_curves_data(study).x_label == "step"
    scales = law_data(study).scales
    assert scales.x_name == "n_params_non_embedding"
    assert scales.x_label == "non-embedding parameters"
    assert len(set(study.series.values())) == 2
    assert len(scales.points) == 12


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_called_meta(width_study: Path) -> None:
    study = open_study(width_study)
    assert law_data(study).scales.y_label == "test loss (nats)"
    assert "trained trials" not in law_finding(study).answer
    assert "meta" not in " ".join(missing_data(study)).lower()
    assert "adaptation" not in " ".join(missing_data(study)).lower()
    (width_study / "baselines.json").write_text('{"bigram": {"kind": "baseline", "test_loss_nats": 3.0}}')
    assert few_shot_words(width_study) == []


def test_the_law_table_has_no_column_that_is_empty(width_study: Path) -> None:
    study = open_study(width_study)
    means = scales_table(law_data(study), accuracy_data(study))
    assert [column.title for column in means.columns] == [
        *("series", "non-embedding parameters", "seeds", "test loss (nats)")
    ]
    assert "task" not in means.caption


FEW_SHOT = re.compile(r"\b(meta|few-shot|tasks?|episodes?|outer|inner|adapt\w*|shots?)\b", re.IGNORECASE)


def few_shot_words(folder: Path) -> list[str]:
    """What a page says of few-shot learning, apart from where the study comes from."""
    page = next(path for path in write_report(folder) if path.name == "report.html").read_text()
    shown = re.sub(r"<(script|style)[\s\S]*?</\1>", "", page)
    text = html.unescape(re.sub(r"<[^>]+>", " ", shown)).split("Where this comes from")[0]
    return [text[max(0, found.start() - 50) : found.end() + 30] for found in FEW_SHOT.finditer(text)]


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_settings_says_nothing_of_tasks_and_episodes(settings_study: Path) -> None:
    (settings_study / "baselines.json").write_text('{"bigram": {"kind": "baseline", "test_loss_nats": 0.5}}')
    assert few_shot_words(settings_study) == []


@pytest.fixture
def settings_study(tmp_path: Path) -> Path:
    """Three settings of no scale, two seeds, twenty test examples each: the second setting loses a tenth less."""
    builder = StudyBuilder(tmp_path, {"method": ["plain", "weighted", "third"]}, name="arms", seeds=(0, 1))
    for method, shift in (("plain", 0.0), ("weighted", -0.1), ("third", 0.02)):
        for seed in (0, 1):
            losses = [1 + 0.05 * example + shift + 0.01 * seed for example in range(20)]
            result = {"test_loss_nats": sum(losses) / len(losses)}
            run = builder.run(f"{method}-{seed}", {"method": method}, seed, result=result)
            rows = [{"step": 1, "task_id": f"e{i}", "loss_nats": loss} for i, loss in enumerate(losses)]
            write_csv(run / "test_tasks.csv", rows)
    return builder.write()


@pytest.mark.usefixtures("undrawn")
def test_a_study_of_settings_answers_with_the_best_one_and_its_paired_test(settings_study: Path) -> None:
    found = finding_of(open_study(settings_study))
    assert replace(found, parts=()) == contest_finding(open_study(settings_study))
    assert found.parts == (found.answer,)
    assert found.title == "Lowest loss: weighted"
    assert "0.100 below plain" in found.answer
    assert [(row.first, row.second) for row in contest_data(settings_study).comparisons] == [
        ("weighted", "plain"),
        ("third", "plain"),
    ]
    assert missing_data(settings_study) == ("Learning curves are missing: no run folder has eval_stats.csv.",)
    page = next(path for path in write_report(settings_study) if path.name == "report.html").read_text()
    assert "Lowest test loss: weighted" in page
    assert "Side by side, on the same tests" in page
    assert "Against baselines" not in page
    assert "Caveats" not in page, "a study without a law has none to be careful of"


@pytest.mark.usefixtures("undrawn")
def test_memory_is_the_mean_by_kind_and_is_left_out_where_it_was_not_measured(settings_study: Path) -> None:
    assert memory_data(settings_study) == ()

    def measured(trial: Trial, result: dict[str, Any]) -> dict[str, Any] | None:
        """The two trials of a method hold 1 and 3 MiB of each kind; "third" was not measured."""
        sizes = {f"step_{kind}_bytes": (1 + 2 * trial.seed) << 20 for kind in MEMORY_KINDS}
        return None if trial.axes["method"] == "third" else {**result, **sizes}

    change(settings_study, measured)
    found = memory_data(settings_study)
    assert [(row.n_trials, row.by_kind) for row in found] == [(2, (2.0,) * 6)] * 2
    assert {row.series for row in found} == {"plain", "weighted"}
    written = [path.name for path in write_report(settings_study)]
    assert "memory.png" in written
