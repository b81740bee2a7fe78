"""The commands about a study's folder, on a study that is there."""

from __future__ import annotations

import csv
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import metascale as ms
from metascale.cli import study as cli_study
from metascale.cli.main import app
from metascale.core.files import read_json
from metascale.study import Study, read_study, run_study
from metascale.study.definition import load_definition, save_definition
from metascale.study.search.run import run_tuned_study
from tests.study import runner_process
from tests.study.folders import TRIALS, tiny_study
from tests.test_cli import Call, call  # noqa: F401


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve finished trials whose loss follows a power law."""
    folder = tmp_path_factory.mktemp("cli") / "study"
    run_study(Study("power", f"{TRIALS}:power", {}, {"n_tasks": [2, 5, 10, 20]}, (0, 1, 2)), folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def test_status_shows_the_trials_the_law_with_its_interval_and_the_disk(whole: Path, call: Call) -> None:  # noqa: F811
    code, said, _ = call("status", str(whole))
    assert code == 0
    for words in (
        "n_tasks=2-seed=0",
        "n_tasks=20-seed=2",
        "finished",
        "alpha = 0.",
        "95 % intervals, 12 trials",
        "disk:",
    ):
        assert words in said, words
    assert "law" not in call("status", str(whole), "--no-law")[1]


def test_status_for_programs(whole: Path, call: Call) -> None:  # noqa: F811
    code, said, _ = call("status", str(whole), "--json")
    found = json.loads(said)
    assert code == 0
    assert found["counts"]["finished"] == len(found["trials"]) == 12
    assert {"device", "done", "total", "loss", "steps_per_s", "left_s"} <= found["trials"][0].keys()
    alpha = found["laws"][""]["parameters"]["alpha"]
    assert alpha["low"] < 0.3 < alpha["high"]
    assert found["disk"]["n_bytes"] > 0


def test_watch_leaves_when_every_trial_has_ended(whole: Path, call: Call) -> None:  # noqa: F811
    code, said, _ = call("watch", str(whole))
    assert code == 0
    assert "12 finished" in said or "n_tasks=2-seed=0" in said


def test_watch_stays_from_a_search_to_the_end_of_the_trials_after_it(
    tmp_path: Path,
    call: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = {"space": {"rate": {"log": [1e-4, 1.0]}}, "trials": 6, "prune": False}
    run_tuned_study(
        Study("bowl", "tests.study.tuning_trials:bowl", {"rate": 0.5, "tune": search}, {}, (0, 1)), tmp_path
    )
    whole = load_definition(tmp_path)
    first_round = replace(whole, trials=tuple(one for one in whole.trials if one.kind == "tuning")[:4])
    assert len(whole.trials) == 8
    save_definition(tmp_path, first_round)
    slept = []

    def goes_on(seconds: float) -> None:
        """The runner adds the second round, and then the trials of the axes."""
        slept.append(seconds)
        save_definition(tmp_path, replace(whole, trials=whole.trials if len(slept) > 1 else first_round.trials))

    monkeypatch.setattr(cli_study.time, "sleep", goes_on)
    code, said, _ = call("watch", str(tmp_path), "--no-law")
    assert (code, len(slept)) == (0, 2)
    assert "8/8 trials ended" in said


def test_verify_names_what_is_damaged_with_exit_status_1(folder: Path, call: Call) -> None:  # noqa: F811
    code, said, _ = call("verify", str(folder))
    assert (code, "files of 12 trials" in said) == (0, True)
    damaged = next(folder.glob("runs/*/config.json"))
    damaged.write_bytes(damaged.read_bytes()[:-2])
    code, said, _ = call("verify", str(folder))
    assert code == 1
    assert str(damaged) in said
    assert "1 of" in said


def test_reindex_builds_the_index_anew(folder: Path, call: Call) -> None:  # noqa: F811
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    (folder / "index.sqlite3").write_bytes(b"no database")
    assert call("reindex", str(folder))[0] == 0
    assert json.loads(call("status", str(folder), "--json", "--no-law")[1])["counts"]["finished"] == 12


def test_stop_now_saves_what_runs(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("METASCALE_TEST_PAUSE_S", "0.02")
    study = tiny_study("heeds", n_tasks=(2, 5), n_steps=510, save_every=500)
    runner = runner_process.start(study, tmp_path, workers=2)
    while sum(read_json(path)["done"] > 5 for path in tmp_path.glob("runs/*/progress.json")) < 2:
        time.sleep(0.02)
    code, said, _ = call("stop", str(tmp_path), "--now")
    assert code == 0
    assert "2 running trials are saved after the step in progress and end; no new one starts" in " ".join(said.split())
    _, told = runner.communicate(timeout=60)
    assert runner.returncode == 1, told
    assert len(list(tmp_path.glob("runs/*/checkpoints/*-stop"))) == 2
    assert "no trial is running" in call("stop", str(tmp_path))[1]


def test_export_writes_the_table(whole: Path, tmp_path: Path, call: Call) -> None:  # noqa: F811
    code, said, _ = call("export", str(whole), "--format", "csv", "--out", str(tmp_path / "table.csv"))
    assert (code, "12 trials written to" in said) == (0, True)
    with open(tmp_path / "table.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 12


def test_what_export_and_push_refuse(whole: Path, tmp_path: Path, call: Call) -> None:  # noqa: F811
    run, out = str(read_study(whole).runs[0].folder), str(tmp_path / "out")
    for arguments, message in (
        (("export", str(whole)), "export needs --format and --out for a study, or --peft"),
        (("export", str(whole), "--format", "csv"), "export needs --format and --out"),
        (("export", run, "--peft", out, "--format", "csv"), "--peft goes without --format and --out"),
        (("export", str(whole), "--peft", out), "is not a run's folder (STUDY/runs/NAME)"),
        (("export", run, "--peft", out), "has no adapters"),
        (("push", out, "--repo", "me/mine"), "has no adapter_config.json: it is not a folder of exported adapters"),
    ):
        code, _, said = call(*arguments)
        assert (code, message in said) == (2, True), (arguments, said)
    assert not Path(out).exists()


@pytest.mark.usefixtures("undrawn")
def test_a_home_folder_is_one_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ``~`` as it is after ``--out=`` and in quotes, and Python always: no folder is called ``~``."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "f.py").write_text("def train(config, run, device):\n    return {'loss': 1 + config['n'] ** -0.5}\n")
    ran = ["run", "~/f.py:train", "--set", "n=[1,2,4,8]", "--loss", "loss", "--out=~/study", "--executor", "serial"]
    commands = [
        "status ~/study",
        "verify ~/study",
        "export ~/study --format csv --out ~/t.csv",
        "fit ~/t.csv --out ~/law",
    ]
    for line in (ran, *(command.split() for command in commands)):
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
    assert {path.name for path in home.iterdir()} == {"f.py", "study", "t.csv", "law"}
    ms.run("~/f.py:train", "~/study", {"n": [1, 2, 4, 8, 16]}, loss="loss", place=ms.Place("serial"))
    assert len(read_study("~/study").runs) == 5
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("returned", ['"bad"', "True"])
def test_a_fit_leaves_out_the_trial_whose_loss_is_no_number_as_the_run_does(
    tmp_path: Path,
    call: Call,  # noqa: F811
    returned: str,
) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        f"def go(config, run, device):\n    w = config['w']\n    return {{'loss': {returned} if w == 16 else 1 / w}}\n"
    )
    folder = str(tmp_path / "study")
    call("run", f"{own}:go", "--set", "w=[2,4,8,16,32,64]", "--scale", "w", "--executor", "serial", "--out", folder)
    assert read_json(tmp_path / "study" / "law.json")["n_observations"] == 5
    code, shown, _ = call("fit", folder, "--bootstrap", "20")
    assert code == 0
    assert "(5 rows, 5 scales)" in shown
    assert "1 rows left out: no number in w or loss" in " ".join(shown.split())
