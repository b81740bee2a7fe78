"""The report of a study that the study room ran and the law room fitted: the seams between the three."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import Diverged
from metascale.core.files import write_json
from metascale.core.run import Run
from metascale.laws import analyse
from metascale.report import contest_data, law_data, open_study, write_report
from metascale.report.sections.law import law_finding
from metascale.report.sections.overview import trials
from metascale.study import Study, run_study

N_TASKS = (5, 10, 20, 40, 80)


def trial(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """A trial without torch: losses from a formula, records as a real one writes them."""
    n_tasks, seed = config["n_tasks"], config["seed"]
    if n_tasks == 80 and seed == 2:
        raise Diverged("loss is nan at step 3", step=3)
    rng = np.random.default_rng([n_tasks or 1, seed])
    mean = 1.4 if n_tasks is None else 1.6 * n_tasks**-0.2 * float(np.exp(rng.normal(0, 0.02)))
    for step in (10, 20, 30):
        run.append("eval_stats", {"step": step, "validation_loss_nats": mean * (1 + 1 / step)})
        run.append("train_stats", {"step": step, "train_query_loss_nats": mean * (1 + 2 / step)})
    losses = mean + np.random.default_rng(5).normal(0, 0.1, 12)
    for index, loss in enumerate(losses):
        run.append("test_tasks", {"step": 30, "episode": index, "task_id": f"test:{index}", "loss_nats": float(loss)})
    for steps in (0, 1, 5):
        run.append("adaptation", {"step": 30, "inner_steps": steps, "loss_nats": mean + 1 / (1 + steps)})
    sem = float(losses.std(ddof=1) / 12**0.5)
    return {"test_loss_nats": float(losses.mean()), "test_loss_sem_nats": sem, "best_step": 20, "steps": 30}


@pytest.fixture
def real_study(tmp_path: Path) -> Path:
    study = Study(
        name="formula",
        trial="tests.report.test_real_study:trial",
        base={"kind": "meta", "method": "maml", "n_way": 5, "n_tasks": 5},
        axes={"n_tasks": N_TASKS},
        seeds=(0, 1, 2),
        extra=[{"kind": "baseline", "method": "zero_shot", "n_tasks": None, "seeds": [0]}],
    )
    run_study(study, tmp_path / "study")
    points = law_data(tmp_path / "study").scales.points
    law = analyse(
        [point.x for point in points],
        [point.value for point in points],
        replicate=[point.seed for point in points],
        n_bootstrap=50,
        x_name="n_tasks",
        loss_name="test_loss_nats",
    )
    write_json(tmp_path / "study" / "law.json", law.to_json())
    return tmp_path / "study"


def test_a_real_study_is_read_whole(real_study: Path) -> None:
    section = trials(open_study(real_study))
    assert section.data["trials"] == {"finished": 15, "diverged": 1}
    table = law_data(real_study)
    assert [(mean.x, mean.n_seeds) for mean in table.scales.means] == [(5, 3), (10, 3), (20, 3), (40, 3), (80, 2)]
    assert table.scales.series == ("MAML",)
    assert [level.method for level in table.scales.levels] == ["zero_shot"]
    assert [row.second for row in contest_data(real_study).comparisons] == ["zero-shot", "MAML, N\u00a0=\u00a05"]
    (diverged,) = section.tables[0].rows
    assert "nan at step 3" in diverged.cells[-1].text


@pytest.mark.long
def test_a_real_law_is_reported_as_it_stands(real_study: Path) -> None:
    law = json.loads((real_study / "law.json").read_text())
    finding = law_finding(open_study(real_study))
    assert finding.direction == law["trend"] == "falls"
    assert finding.exponent is not None
    assert finding.exponent.low <= 0.2 + 0.05
    write_report(real_study)
    page = (real_study / "report.html").read_text()
    assert law["verdict"].startswith("test_loss_nats falls with n_tasks (")
    assert law["verdict"].replace("test_loss_nats", "Meta-test loss").replace("n_tasks", "N") in page
    for parameter in law["parameters"].values():
        assert f'data-key="{parameter["estimate"]}"' in page
