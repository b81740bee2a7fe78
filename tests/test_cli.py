"""The command line: help everywhere, one sentence and exit status 2 for bad input, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def metascale(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "metascale.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


COMMANDS = [
    "recipes",
    "run",
    "resume",
    "status",
    "report",
    "evaluate",
    "reindex",
    "doctor",
    "data",
    "fit",
    "forecast",
    "backtest",
    "optimum",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_everywhere(command: str) -> None:
    result = metascale(command, "--help")
    assert result.returncode == 0
    assert "Usage" in result.stdout


BAD = {
    "unknown recipe": (("run", "digit", "--out", "X"), "there is no recipe 'digit'; did you mean 'digits'?"),
    "unknown key": (("run", "digits", "--out", "X", "--set", "n_taks=3"), "did you mean 'n_tasks'?"),
    "no equals sign": (("run", "digits", "--out", "X", "--set", "n_tasks"), "--set needs key=value"),
    "out of range": (("run", "digits", "--out", "X", "--set", "k_shot=0"), "greater than or equal to 1"),
    "seeds": (("run", "digits", "--out", "X", "--seeds", "a"), "--seeds needs whole numbers"),
    "executor": (("run", "digits", "--out", "X", "--executor", "moon"), "--executor is 'processes' or 'serial'"),
    "profile": (("run", "digits", "--out", "X", "--profile", "huge"), "has no profile 'huge'"),
    "no csv file": (("run", "csv", "--out", "X", "--set", "path=none.csv"), "'none.csv' is no file"),
    "data folder": (("run", "banking77", "--out", "X"), "METASCALE_DATA"),
    "no study": (("status", "nowhere"), "nowhere"),
    "no run": (("evaluate", "nowhere"), "not a finished, meta-trained run"),
    "no data set": (("data", "check", "minst", "--data-dir", "."), "mnist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_status_2(case: str, tmp_path: Path) -> None:
    arguments, message = BAD[case]
    arguments = tuple(str(tmp_path / "study") if item == "X" else item for item in arguments)
    result = metascale(*arguments, env={"METASCALE_DATA": ""})
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_a_missing_option_is_a_usage_error() -> None:
    result = metascale("run", "digits")
    assert result.returncode == 2
    assert "--out" in result.stderr


def test_recipes_and_data_sets_are_listed() -> None:
    listed = metascale("recipes").stdout
    assert all(name in listed for name in ("digits", "banking77", "omniglot", "csv"))
    assert "banking77" in metascale("data", "list").stdout


def test_dry_run_says_the_cost_and_writes_nothing(tmp_path: Path) -> None:
    result = metascale("run", "digits", "--out", str(tmp_path / "study"), "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "26 (21 meta-trained)" in result.stdout
    assert "8.64 k trainable" in result.stdout
    assert not (tmp_path / "study").exists()


def test_config_file_and_numbers_in_scientific_notation(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("inner_lr: 1e-3\nn_tasks: [2, 4]\n")
    result = metascale(
        "run", "digits", "--out", str(tmp_path / "study"), "--config", str(tmp_path / "config.yml"), "--dry-run"
    )
    assert result.returncode == 0, result.stderr
    assert "n_tasks in [2, 4]" in result.stdout
    (tmp_path / "list.yml").write_text("- 1\n")
    bad = metascale("run", "digits", "--out", str(tmp_path / "study"), "--config", str(tmp_path / "list.yml"))
    assert bad.returncode == 2
    assert "must hold keys and values" in bad.stderr


def test_version() -> None:
    from metascale import __version__

    assert metascale("--version").stdout.strip() == __version__
