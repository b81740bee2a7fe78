"""Pages of studies whose axes have roles: baselines only beside learners of their own shots, levels by series."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.report import contest_data, law_data
from metascale.report.write import write_report
from metascale.study.roles import Roles
from tests.report.study_fixture import StudyBuilder, write_csv

LOSSES = {1: 1.0, 5: 0.4}
"""Of the learner by shots; the baseline loses .1 less than the learner of its own shots."""


def shots_study(folder: Path, roles: Roles, scales: tuple[int, ...] = (2, 4)) -> Path:
    axes = {"n_tasks": list(scales), "k_shot": [1, 5]}
    builder = StudyBuilder(folder, axes, name="shots", base={"method": "maml"}, roles=roles)
    for shots, loss in LOSSES.items():
        runs = [(f"maml-{n}-{shots}", {"n_tasks": n, "k_shot": shots}, "meta", loss + 1 / n) for n in scales]
        runs.append((f"ft-{shots}", {"method": "fine_tuning", "k_shot": shots}, "baseline", loss - 0.1))
        for label, sets, kind, value in runs:
            run = builder.run(label, sets, kind=kind, result={"test_loss_nats": value})
            rows = [{"step": 1, "task_id": f"t{k}", "loss_nats": value + 0.01 * k} for k in range(8)]
            write_csv(run / "test_tasks.csv", rows)
    return builder.write()


@pytest.fixture
def crossed(tmp_path: Path) -> Path:
    roles = Roles(("n_tasks",), ("k_shot",), crossed=("k_shot",), loss="test_loss_nats")
    return shots_study(tmp_path, roles)


def test_a_learner_meets_the_baseline_of_its_own_shots_alone(crossed: Path) -> None:
    found = contest_data(crossed)
    against = {(one.first, one.second) for one in found.comparisons if one.second.startswith("fine-tuning")}
    learner = "MAML, k shot {}, N\u00a0=\u00a04"
    assert against == {(learner.format(1), "fine-tuning, k shot 1"), (learner.format(5), "fine-tuning, k shot 5")}
    losses = {row.name: row.loss for row in found.rows if not row.series}
    assert losses == pytest.approx({"fine-tuning, k shot 1": 0.9, "fine-tuning, k shot 5": 0.3})


@pytest.mark.usefixtures("undrawn")
def test_baselines_are_lines_of_their_own(crossed: Path) -> None:
    levels = {level.method: level.value for level in law_data(crossed).scales.levels}
    assert levels == pytest.approx({"fine_tuning, k shot 1": 0.9, "fine_tuning, k shot 5": 0.3})
    write_report(crossed)


def test_a_baseline_that_changes_along_the_scale_is_no_horizontal_line(tmp_path: Path) -> None:
    roles = Roles(("k_shot",), ("n_tasks",), crossed=("k_shot",), loss="test_loss_nats")
    folder = shots_study(tmp_path, roles)
    assert law_data(folder).scales.levels == ()
    against = [(one.first, one.second) for one in contest_data(folder).comparisons if "fine" in one.second]
    scale = "support examples a class\u00a0=\u00a05"
    assert all(scale in first and second == "fine-tuning, k shot 5" for first, second in against)
    assert against
