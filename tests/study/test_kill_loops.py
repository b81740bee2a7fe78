"""Kills of runners and trials at random instants, over whole studies of recipes: the end has the undisturbed bytes.

The small twins that run by default: `test_interruptions.py` (a plain study), `test_tuning.py` (a search).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metascale.study import verify_study
from tests.recipes.small_wikitext import write_small_wikitext
from tests.study.folders import final_files
from tests.study.kill_loop import run_killed, run_whole

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
N_KILLS = 8
SHAPES: dict[str, Any] = {
    "n_train": 400, "max_epochs": 30, "eval_epochs": 1, "batch_size": 16, "n_validation": 100, "width": [8, 16],
    "depth": [1, 2], "ratio": 1.0, "tune": {"trials": 4, "startup": 2, "together": 2},
}  # fmt: skip
SIZE: dict[str, Any] = {
    "d_model": [16, 32], "n_layers": 1, "n_heads": 2, "vocabulary": 22, "n_sequence": 16, "batch_size": 4,
    "max_steps": 120, "warmup": 2, "eval_every": 10, "base_width": 16, "parameterisation": "mup",
    "evaluation_tokens": 100, "measure_memory": False, "architecture": ["transformer", "resnet_bk"],
    "tune": {"space": {"lr": {"choice": [1e-2, 3e-2]}}, "trials": 2, "prune": False},
}  # fmt: skip
MELORA: dict[str, Any] = {
    "data": "synthetic", "n_way": 3, "n_query": 2, "budget_flops": 2e10, "n_validation_tasks": 2, "n_test_tasks": 4,
    "tune_rates": [0.1], "tune_steps": [1, 3], "method": ["fomaml", "melora"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "values", "profile"),
    [("shapes", SHAPES, None), ("model-size", SIZE, "quick"), ("melora", MELORA, "smoke")],
    ids=["shapes, tuned", "model-size, tuned", "melora"],
)
def test_a_study_killed_again_and_again_ends_with_the_bytes_of_an_undisturbed_one(
    recipe: str, values: dict[str, Any], profile: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe == "model-size":
        monkeypatch.setenv("METASCALE_DATA", str(write_small_wikitext(tmp_path / "data")))
    if recipe == "melora":
        pytest.importorskip("transformers")
    task = {"recipe": recipe, "values": values, "profile": profile}
    run_whole(task, tmp_path / "whole")
    kills = run_killed(task, tmp_path / "killed", N_KILLS, seed=1)
    assert sum(kills.values()) >= 3
    whole, killed = final_files(tmp_path / "whole"), final_files(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []
    assert verify_study(tmp_path / "killed").ok
