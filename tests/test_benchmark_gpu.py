"""The script for a GPU runs whole on a CPU, on tiny shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu"


@pytest.mark.long
def test_every_part_is_measured_and_stands_in_one_table(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU), "--tiny", "--device", "cpu", "--repeats", "1", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {"lora", "memory", "bilevel", "stacked", "sizes"}
    unmeasured = [row for row in rows if "median_s" not in row and "peak_mib" not in row]
    assert {row["note"] for row in unmeasured} <= {"graphs are a GPU's"}
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("| --- | --- |") == 1
    for wanted in ("| Reptile, tasks stacked |", "| sama |", "| stacks of 7 |", "| ResNetBK, compiled |"):
        assert wanted in page


def test_nothing_new_is_begun_once_the_time_is_up(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU), "--tiny", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path)]
    subprocess.run([*command, "--parts", "memory"], check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [row["note"] for row in rows] == ["left out: the time was up"] * 3
    assert "left out: the time was up" in (tmp_path / "gpu.md").read_text()


FAILING = """
import parts
def failing():
    raise RuntimeError("complex numbers cannot be compiled\\nat length")
place = parts.Place("cpu", True, 1)
print([place.tried({"variant": name}, measure) for name, measure in (("a", failing), ("b", lambda: {"s": 1}))])
"""


def test_a_variant_that_fails_is_told_and_costs_no_other() -> None:
    paths = f"import sys; sys.path[:0] = [{str(GPU)!r}, {str(GPU.parent)!r}]"
    told = subprocess.run([sys.executable, "-c", paths + FAILING], check=True, capture_output=True, text=True).stdout
    rows = [
        {"variant": "a", "note": "failed: RuntimeError: complex numbers cannot be compiled"},
        {"variant": "b", "s": 1},
    ]
    assert told == f"{rows}\n"
