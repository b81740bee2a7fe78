"""`--json` and `--quiet` of every command: one object on standard output, words elsewhere or nowhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from metascale.cli.main import app
from metascale.study import run_study
from tests.study.folders import tiny_study
from tests.test_cli import Call, call  # noqa: F401

OWN = """
def train(config, run, device):
    print("noise of the trial")
    return {"loss": 1.0 + config["width"] ** -0.5}
"""


def test_every_command_has_both_options() -> None:
    commands = dict(typer.main.get_command(app).commands)
    commands |= {f"data {name}": one for name, one in commands.pop("data").commands.items()}
    assert len(commands) > 20
    for name, one in commands.items():
        options = [option for parameter in one.params for option in parameter.opts]
        assert {"--json", "--quiet"} <= set(options), name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    run_study(tiny_study("power", n_tasks=(2, 5, 10, 20, 50)), folder)
    return folder


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("status", "STUDY"), {"name", "folder", "trials", "counts", "eta_s", "laws", "no_law", "disk", "damaged"}),
        (("verify", "STUDY"), {"ok", "n_files", "n_runs", "damages"}),
        (("reindex", "STUDY"), {"folder"}),
        (("stop", "STUDY"), {"folder", "running", "mode"}),
        (("watch", "STUDY", "--no-law", "--every", "0.1"), {"name", "folder", "trials", "counts", "eta_s", "disk"}),
        (("export", "STUDY", "--format", "csv", "--out", "OUT"), {"n_trials", "out", "damaged"}),
        (("recipes",), {"recipes"}),
        (("data", "list"), {"data_sets"}),
    ],
)
def test_json_is_one_object_and_quiet_leaves_it_alone(
    command: tuple[str, ...],
    keys: set[str],
    study: Path,
    tmp_path: Path,
    call: Call,  # noqa: F811
) -> None:
    places = {"STUDY": str(study), "OUT": str(tmp_path / "x.csv")}
    typed = [places.get(word, word) for word in command]
    code, printed, said = call(*typed, "--json")
    first = json.loads(printed.splitlines()[0])
    assert (code, set(first)) == (0, keys)
    assert said.strip()
    quiet = call(*typed, "--json", "--quiet")
    assert (quiet[0], quiet[2]) == (0, "")
    assert set(json.loads(quiet[1].splitlines()[0])) == keys
    assert call(*typed, "--quiet") == (0, "", "")


def test_an_error_is_json_too_and_quiet_does_not_silence_it(study: Path, call: Call) -> None:  # noqa: F811
    code, printed, said = call("run", "digits", "--out", "/tmp/x", "--set", "inner_lr=-1", "--json", "--quiet")
    found = json.loads(printed)["error"]
    assert (code, found["exit_status"], found["field"], found["value"]) == (2, 2, "inner_lr", -1)
    assert found["message"] in said
    assert call("status", "nowhere", "--quiet")[:2] == (2, "")
    assert "nowhere is not a study folder" in call("status", "nowhere", "--quiet")[2]
    assert call("doctor")[1]  # what the command before was asked is forgotten


def test_damage_is_said_in_both_ways(tmp_path: Path, call: Call) -> None:  # noqa: F811
    run_study(tiny_study("power"), tmp_path)
    damaged = next(tmp_path.glob("runs/*/result.json"))
    damaged.write_text(re.sub(r'("test_loss_nats": ?)', r"\g<1>9", damaged.read_text()))
    code, printed, said = call("status", str(tmp_path), "--no-law", "--json", "--quiet")
    assert (code, len(json.loads(printed)["damaged"])) == (1, 1)
    assert "left out" in said
    code, printed, _ = call("verify", str(tmp_path), "--json", "--quiet")
    assert (code, json.loads(printed)["ok"]) == (1, False)


@pytest.mark.usefixtures("undrawn")
def test_a_study_as_json(tmp_path: Path, call: Call) -> None:  # noqa: F811
    (tmp_path / "own.py").write_text(OWN)
    typed = ["run", f"{tmp_path}/own.py:train", "--out", str(tmp_path / "s"), "--set", "width=1,2,4,8,16"]
    typed += ["--loss", "loss", "--executor", "serial", "--seeds", "0-1", "--json"]
    code, printed, said = call(*typed)
    found = json.loads(printed)
    assert (code, found["total"], found["finished"], found["failed"]) == (0, 10, 10, 0)
    assert found["laws"][""]["n_observations"] == 10
    assert str(tmp_path / "s" / "report.html") in found["written"]
    assert "10 of 10 trials finished" in said
    again = call(*typed, "--quiet")
    assert (json.loads(again[1])["ran"], again[2]) == (0, "")
    assert json.loads(call("report", str(tmp_path / "s"), "--json", "--quiet")[1])["laws"][""]["law"]
    dry = call(*typed, "--dry-run", "--quiet")
    assert json.loads(dry[1])["costs"][0] == ["trials", "10"]


def test_a_study_without_a_law_says_what_it_compares(capsys: pytest.CaptureFixture[str]) -> None:
    from metascale.cli.run import print_conclusion
    from metascale.workflow.conclude import Conclusion

    arms = [("learnt", 0.29941, 0.9266), ("alike", 1.0897, None)]
    methods = tuple({"name": name, "kind": "trial", "loss": loss, "accuracy": right} for name, loss, right in arms)
    print_conclusion(Conclusion({}, "no axis is a scale", (), methods=methods))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["method", "loss", "accuracy"] in rows
    assert rows[-2:] == [["learnt", "0.299", "92.7%"], ["alike", "1.09", "-"]]
