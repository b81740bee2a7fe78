"""The command line: help everywhere, one sentence and exit status 2 for bad input, nothing written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

Call: TypeAlias = Callable[..., tuple[int, str, str]]


def metascale(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb", **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "metascale", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit status, standard output, standard error."""
    from metascale.cli.main import main

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metascale", *arguments])
        for name, value in {"COLUMNS": "200", "TERM": "dumb", "METASCALE_DATA": ""}.items():
            monkeypatch.setenv(name, value)
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return called


COMMANDS = [
    "recipes",
    "run",
    "resume",
    "status",
    "report",
    "evaluate",
    "watch",
    "verify",
    "reindex",
    "stop",
    "export",
    "push",
    "coordinate-check",
    "doctor",
    "data",
    "fit",
    "forecast",
    "backtest",
    "optimum",
    "import",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_everywhere(command: str, call: Call) -> None:
    code, printed, _ = call(command, "--help")
    assert code == 0
    assert "Usage" in printed


BAD = {
    "unknown recipe": (("run", "digit", "--out", "X"), "there is no recipe 'digit'; did you mean 'digits'?"),
    "unknown key": (("run", "digits", "--out", "X", "--set", "n_taks=3"), "did you mean 'n_tasks'?"),
    "no equals sign": (("run", "digits", "--out", "X", "--set", "n_tasks"), "--set needs key=value"),
    "out of range": (("run", "digits", "--out", "X", "--set", "k_shot=0"), "greater than or equal to 1"),
    "seeds": (("run", "digits", "--out", "X", "--seeds", "a"), "--seeds needs whole numbers"),
    "executor": (
        ("run", "digits", "--out", "X", "--executor", "moon"),
        "--executor is one of processes, serial, ray, slurm, not 'moon'",
    ),
    "profile": (("run", "digits", "--out", "X", "--profile", "huge"), "has no profile 'huge'"),
    "no csv file": (("run", "csv", "--out", "X", "--set", "path=none.csv"), "none.csv' is no file"),
    "data folder": (("run", "banking77", "--out", "X"), "METASCALE_DATA"),
    "no weak labels": (
        ("run", "noisy_labels", "--out", "X", "--data-dir", "EMPTY"),
        "metascale data get wrench_trec",
    ),
    "no plain texts": (
        ("run", "auxiliary_tasks", "--out", "X", "--data-dir", "EMPTY", "--set", "data=wrench_sms"),
        "the data set 'wrench_sms' lacks",
    ),
    "one of two data sets": (
        ("run", "data_pruning", "--out", "X", "--data-dir", "EMPTY", "--set", "data=[digits, mnist]"),
        "the data set 'mnist' lacks",
    ),
    "no drawings": (("run", "omniglot", "--out", "X", "--data-dir", "EMPTY"), "the data set 'omniglot' lacks"),
    "no questions": (("run", "melora", "--out", "X", "--data-dir", "EMPTY"), "the data set 'banking77' lacks"),
    "no data folder named": (("run", "noisy_labels", "--out", "X"), "METASCALE_DATA"),
    "no model in the data folder": (
        ("run", "melora", "--out", "X", "--data-dir", "EMPTY", "--profile", "laptop-synthetic"),
        "which backbone 'data:stories260k/hf' names",
    ),
    "no model folder": (
        ("run", "melora", "--out", "X", "--set", "data=synthetic", "--set", "backbone=./nowhere"),
        "/nowhere, which backbone '",
    ),
    "near executor": (("run", "digits", "--out", "X", "--executor", "slrum"), "did you mean 'slurm'?"),
    "address": (("run", "digits", "--out", "X", "--address", "h:1"), "--address goes with --executor ray"),
    "partition": (("run", "digits", "--out", "X", "--partition", "gpu"), "--partition goes with --executor slurm"),
    "gpus": (("run", "digits", "--out", "X", "--gpus-per-trial", "1"), "name --devices"),
    "no such device": (
        ("run", "digits", "--out", "X", "--devices", "gpu0", "--dry-run"),
        "--devices has 'gpu0'; a device is cpu, mps, cuda or cuda:NUMBER",
    ),
    "device of a cluster": (
        ("run", "digits", "--out", "X", "--executor", "slurm", "--devices", "cuda:0"),
        "--devices goes with --executor processes or serial, not slurm; name --gpus-per-trial instead",
    ),
    "serial workers": (
        ("run", "digits", "--out", "X", "--executor", "serial", "--workers", "4"),
        "it cannot go with --workers 4",
    ),
    "serial hang": (
        ("run", "digits", "--out", "X", "--executor", "serial", "--hang-after", "9"),
        "--hang-after goes with --executor processes or ray or slurm, not serial",
    ),
    "serial time": (
        ("run", "digits", "--out", "X", "--executor", "serial", "--trial-timeout", "9"),
        "--trial-timeout goes with --executor processes or ray or slurm, not serial",
    ),
    "cpus": (("run", "digits", "--out", "X", "--cpus-per-trial", "2"), "--cpus-per-trial goes with --executor ray"),
    "time limit": (("run", "digits", "--out", "X", "--time-limit-min", "9"), "goes with --executor slurm"),
    "resumed elsewhere": (("resume", "nowhere", "--cpus-per-trial", "2"), "goes with --executor ray or slurm"),
    "devices": (
        ("run", "digits", "--out", "X", "--devices", "cpu,"),
        "--devices has ''; a device is cpu, mps, cuda or cuda:NUMBER",
    ),
    "no study": (("status", "nowhere"), "nowhere"),
    "nothing to watch": (("watch", "nowhere"), "nowhere is not a study folder"),
    "nothing to verify": (("verify", "nowhere"), "nowhere is not a study folder"),
    "nothing to stop": (("stop", "nowhere"), "nowhere is not a study folder"),
    "nothing to index": (("reindex", "nowhere"), "nowhere is not a study folder"),
    "nothing to export": (("export", "nowhere", "--format", "csv", "--out", "X"), "nowhere is not a study folder"),
    "export format": (("export", "nowhere", "--format", "xlsx", "--out", "X"), "format is one of csv, json"),
    "nothing to import": (("import", "nowhere", "--out", "X"), "there is no file or folder 'nowhere'"),
    "imported where": (("import", "nowhere", "--out", "."), "--out . is a folder; give a file, such as runs.csv"),
    "no run": (("evaluate", "nowhere"), "not a finished, meta-trained run"),
    "no data set": (("data", "check", "minst", "--data-dir", "."), "mnist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_status_2(case: str, tmp_path: Path, call: Call) -> None:
    arguments, message = BAD[case]
    (tmp_path / "empty").mkdir()
    places = {"X": str(tmp_path / "study"), "EMPTY": str(tmp_path / "empty")}
    arguments = tuple(places.get(item, item) for item in arguments)
    code, _, said = call(*arguments)
    assert code == 2, said
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()


TABLE = "n_tasks,loss\n" + "".join(f"{n},{0.5 + 2 * n**-0.4}\n" for n in (2, 5, 10, 20, 50, 100))
WRITERS = {
    "run": ("run", "digits", "--executor", "serial", "--seeds", "0"),
    "fit": ("fit", "TABLE"),
    "forecast": ("forecast", "TABLE", "--to", "1000"),
    "backtest": ("backtest", "TABLE"),
    "optimum": ("optimum", "TABLE", "--compute", "1e20"),
    "coordinate-check": ("coordinate-check", "mlp"),
}


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.parametrize("out", ["FILE", "FILE/x", "/proc/x/y"])
def test_a_folder_that_cannot_be_made_is_refused_before_work_starts(
    command: str, out: str, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "table.csv").write_text(TABLE)
    arguments = [str(tmp_path / "table.csv") if item == "TABLE" else item for item in WRITERS[command]]
    code, printed, said = call(*arguments, "--out", str(tmp_path / out))
    assert (code, printed) == (2, "")
    assert f"--out {tmp_path / out} cannot be made: " in said
    assert len(said.strip().splitlines()) == 1
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_refused(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write everywhere
    code, _, said = call("forecast", str(tmp_path / "table.csv"), "--to", "1000", "--out", str(tmp_path))
    assert (code, f"--out {tmp_path} cannot be written: Permission denied" in said) == (2, True), said
    code, _, said = call("report", str(tmp_path))
    assert (code, f"the study's folder {tmp_path} cannot be written: Permission denied" in said) == (2, True), said


def test_a_refused_command_leaves_no_empty_folder(tmp_path: Path, call: Call) -> None:
    (tmp_path / "table.csv").write_text(TABLE)
    code, _, said = call("fit", str(tmp_path / "table.csv"), "--law", "parabola", "--out", str(tmp_path / "a" / "b"))
    assert (code, "is unknown" in said) == (2, True), said
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "a.csv"), "metascale: a.csv: No space left on device"),
        (sqlite3.OperationalError("database is locked"), "metascale: OperationalError: database is locked"),
        (TimeoutError("no\nanswer"), "metascale: TimeoutError: no answer"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence_and_exit_status_1(
    error: Exception, sentence: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metascale.workflow import doctor as machine

    def fail() -> None:
        raise error

    monkeypatch.setattr(machine, "describe_machine", fail)
    assert call("doctor") == (1, "", sentence + "\n")


@pytest.mark.parametrize("command", ["run", "status", "report", "evaluate"])
def test_studies_are_refused_in_a_sentence_where_there_is_no_posix(
    command: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metascale.cli.main.POSIX", False)
    out = ("--out", str(tmp_path / "study")) if command == "run" else ()
    code, _, said = call(command, "digits", *out)
    assert (code, said) == (
        2,
        f"metascale: `metascale {command}` runs on Linux and macOS; on Windows use WSL "
        "(fit, forecast, backtest and optimum work everywhere)\n",
    )
    assert not (tmp_path / "study").exists()
    (tmp_path / "table.csv").write_text(TABLE)
    assert call("forecast", str(tmp_path / "table.csv"), "--to", "1000")[0] == 0


def test_a_missing_option_is_a_usage_error() -> None:
    result = metascale("run", "digits")
    assert result.returncode == 2
    assert "--out" in result.stderr


def test_recipes_and_data_sets_are_listed(call: Call) -> None:
    listed = call("recipes")[1]
    assert all(name in listed for name in ("digits", "banking77", "omniglot", "csv"))
    assert "banking77" in call("data", "list")[1]


def test_dry_run_says_the_cost_and_writes_nothing(tmp_path: Path, call: Call) -> None:
    code, printed, error = call("run", "digits", "--out", str(tmp_path / "study"), "--dry-run")
    assert code == 0, error
    assert "28 (21 meta-trained)" in printed
    assert "8.64 k trainable" in printed
    assert not (tmp_path / "study").exists()


def test_config_file_and_numbers_in_scientific_notation(tmp_path: Path, call: Call) -> None:
    (tmp_path / "config.yml").write_text("inner_lr: 1e-3\nn_tasks: [2, 4]\n")
    code, printed, error = call(
        "run", "digits", "--out", str(tmp_path / "study"), "--config", str(tmp_path / "config.yml"), "--dry-run"
    )
    assert code == 0, error
    assert "n_tasks in [2, 4]" in printed
    (tmp_path / "list.yml").write_text("- 1\n")
    code, _, error = call("run", "digits", "--out", str(tmp_path / "study"), "--config", str(tmp_path / "list.yml"))
    assert code == 2
    assert "must hold keys and values" in error


def test_version() -> None:
    from metascale import __version__

    assert metascale("--version").stdout.strip() == __version__
