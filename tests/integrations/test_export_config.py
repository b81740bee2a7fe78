"""Exports with the fixed configuration."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.integrations.export import export_study
from metascale.study import run_study
from tests.study.folders import tiny_study


def test_the_fixed_configuration_stands_beside_what_varies(tmp_path: Path) -> None:
    run_study(tiny_study("power", rate=1e-3, optimiser={"name": "=sgd"}, widths=[1, 2]), tmp_path / "s")
    assert export_study(tmp_path / "s", "csv", str(tmp_path / "t.csv"), config=True) == 2
    with open(tmp_path / "t.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["n_tasks"], row["config.rate"], row["config.widths"]) for row in rows] == [
        ("2", "0.001", "[1,2]"), ("5", "0.001", "[1,2]")
    ]  # fmt: skip
    assert [row["config.optimiser.name"] for row in rows] == ["'=sgd"] * 2
    assert "config.n_tasks" not in rows[0]
    export_study(tmp_path / "s", "json", str(tmp_path / "t.json"), config=True)
    assert json.loads((tmp_path / "t.json").read_text())[0]["config.rate"] == 0.001
    with pytest.raises(InputError, match="anyhow"):
        export_study(tmp_path / "s", "mlflow", str(tmp_path / "m"), config=True)
