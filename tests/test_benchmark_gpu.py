"""The script for a GPU runs whole on a CPU, on tiny shapes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A file of the script in this process, with the folders on the path that it has as a program; forgotten after."""
    monkeypatch.setattr(sys, "path", [str(GPU), str(GPU.parent), *sys.path])
    before = set(sys.modules)
    yield lambda name: runpy.run_path(str(GPU / name))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(GPU.parent)):
            del sys.modules[name]


def test_nothing_new_is_begun_once_the_time_is_up(tmp_path: Path, loaded: Callable[[str], dict[str, Any]]) -> None:
    asked = ["--tiny", "--device", "cpu", "--minutes", "0", "--out", str(tmp_path), "--parts", "memory"]
    loaded("__main__.py")["main"](asked)
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [row["note"] for row in rows] == ["left out: the time was up"] * 3
    assert "left out: the time was up" in (tmp_path / "gpu.md").read_text()


def test_a_variant_that_fails_is_told_and_costs_no_other(loaded: Callable[[str], dict[str, Any]]) -> None:
    def failing() -> dict[str, Any]:
        raise RuntimeError("complex numbers cannot be compiled\nat length")

    place = loaded("parts.py")["Place"]("cpu", True, 1)
    told = [place.tried({"variant": name}, measure) for name, measure in (("a", failing), ("b", lambda: {"s": 1}))]
    assert told == [
        {"variant": "a", "note": "failed: RuntimeError: complex numbers cannot be compiled"},
        {"variant": "b", "s": 1},
    ]
