"""Studies of a user's own function or program: refused in a sentence, run, resumed, failed, concluded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.study import read_study, results_table
from metascale.study.roles import Reading
from metascale.study.status import study_status
from metascale.workflow import Place, plan, plan_from_folder, run
from metascale.workflow.launch import launch
from metascale.workflow.own import fill

SERIAL = Place("serial")
FUNCTIONS = '''
def train(config, run, device):
    """error = 3 · width^-1/2; the mean of the seeds is exact."""
    assert "function" not in config
    if config["width"] == 13:
        return {"error": float("nan")}
    return {"error": 3 * config["width"] ** -0.5 * (1 + 0.01 * (2 * config["seed"] - 1)), "lr": config.get("lr", 0.0)}

def tuned(config, run, device):
    return {"val": (config["lr"] - 0.3) ** 2 + 1 / config["width"], "error": 3 * config["width"] ** -0.5}

def two(config, run): ...

def listed(config, run, device):
    return [1]
'''
PROGRAM = """
import json, os, sys
width, seed, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("width", width)
if width == 13 and how != "well":
    if how == "raise": raise ValueError("unlucky width")
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "crash": os.kill(os.getpid(), 11)
    if how == "shout":
        for _ in range(20): print("x" * 2 ** 20)
        raise ValueError("after 20 MiB")
    if how == "list": json.dump([1], open(os.environ["METASCALE_RESULT"], "w"))
    if how == "text": open(os.environ["METASCALE_RESULT"], "w").write("{")
    sys.exit(0)
json.dump({"loss": 3 * width ** -0.5, "seed_seen": seed}, open(os.environ["METASCALE_RESULT"], "w"))
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return str(tmp_path / "mine.py")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return f"{sys.executable} train.py {{width}} {{seed}}"


@pytest.mark.usefixtures("undrawn")
def test_a_function_in_a_file_is_a_study_with_its_own_words(mine: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = {"width": [8, 16, 32, 64, 128]}
    outcome, conclusion = run(f"{mine}:train", out, values, seeds=[0, 1], place=SERIAL, loss="error", units="metres")
    assert outcome.finished == 10
    assert conclusion is not None
    assert conclusion.analyses[""].parameters["alpha"]["estimate"] == pytest.approx(0.5, abs=0.01)
    page = (out / "report.html").read_text()
    assert "error (metres)" in page
    for word in ("meta-test", "nats", "test_loss", "episode", "across tasks", "accuracy"):
        assert word not in page, word
    assert f"metascale run {mine}:train" in page
    assert {trial.loss_name for trial in study_status(out).trials} == {"error"}
    assert launch(plan_from_folder(out, SERIAL), out)[0].ran == 0, "resumed from the folder alone"
    again, _ = run(f"{mine}:train", out, {"width": [8, 16, 32, 64, 128, 256]}, seeds=[0, 1], place=SERIAL, loss="error")
    assert again.ran == 2


def test_a_number_that_is_not_finite_is_a_diverged_trial(mine: str, tmp_path: Path) -> None:
    outcome, _ = run(f"{mine}:train", tmp_path / "out", {"width": [8, 13, 16]}, place=SERIAL)
    assert (outcome.finished, outcome.diverged) == (2, 1)
    assert "the function returned error = nan" in results_table(tmp_path / "out").rows[1]["message"]


def test_a_function_is_tuned_on_the_validation_loss_it_names(mine: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    tune = {"space": {"lr": {"choice": [0.1, 0.3, 1.0]}}, "trials": 3, "startup": 3, "objective": "val", "prune": False}
    values = {"width": [8, 16, 32], "tune": tune}
    outcome, _ = run(f"{mine}:tuned", tmp_path / "out", values, place=SERIAL, loss="error")
    assert outcome.finished == 12
    finals = [row for row in results_table(tmp_path / "out").rows if row["kind"] == "trial"]
    assert [row["lr"] for row in finals] == [0.3] * 3


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        ("tran", {}, "has no function 'tran'; did you mean 'train'?"),
        ("two", {}, "takes (config, run, device) and returns a mapping of results; 'two' of"),
        ("train", {"function": 1}, "the key 'function' is metascale's own"),
        ("train", {"tune": 8}, "needs a space and an objective"),
    ],
)
def test_a_function_that_cannot_run_is_refused(mine: str, function: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(f"{mine}:{function}", {"width": [1, 2], **given})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "cannot be imported: it ends in sys.exit(0)"),
        ("import a_package_that_nobody_has", "cannot be imported: No module named 'a_package_that_nobody_has'"),
    ],
)
def test_a_file_or_module_that_breaks_on_loading_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    name = f"broken_{len(code)}"
    (tmp_path / f"{name}.py").write_text(f"{code}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    for source in (f"{tmp_path / name}.py:train", f"{name}:train", f"{tmp_path / name}.py"):
        with pytest.raises(InputError) as caught:
            plan(source, {"width": [1, 2]})
        assert said in str(caught.value)


def test_recipe_or_command_one_of_them(mine: str) -> None:
    for given in ({"recipe": None}, {"recipe": f"{mine}:train", "command": "true"}):
        with pytest.raises(InputError, match="one of them"):
            plan(**given)  # type: ignore[arg-type]


def test_a_program_is_a_study(program: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = {"width": [8, 16, 32, 64]}
    outcome, conclusion = run(None, out, values, command=f"{program} well", seeds=[0, 1], place=Place(workers=2))
    assert outcome.finished == 8
    assert conclusion is not None
    assert conclusion.analyses[""].parameters["alpha"]["estimate"] == pytest.approx(0.5, abs=0.01)
    assert "width 8\n" in (read_study(out).runs[0].folder / "output.log").read_text()
    assert [row["seed_seen"] for row in results_table(out).rows] == [0, 1] * 4
    os.chdir("/")
    assert launch(plan_from_folder(out, SERIAL), out)[0].ran == 0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "the program ended with exit status 1: ValueError: unlucky width"),
        ("crash", "the program ended with signal SIGSEGV"),
        ("kill", "the trial's process was killed from outside 4 times"),
        ("shout", "the program ended with exit status 1: ValueError: after 20 MiB"),
        ("nothing", "wrote no result: it must write a JSON object to the file that METASCALE_RESULT names"),
        ("list", "wrote a JSON list to METASCALE_RESULT, not an object"),
        ("text", "what the program wrote to METASCALE_RESULT is not JSON"),
    ],
)
def test_a_program_that_fails_says_how_and_is_tried_again(program: str, tmp_path: Path, how: str, message: str) -> None:
    out = tmp_path / "out"
    outcome, _ = run(None, out, {"width": [13]}, command=f"{program} {how}", place=SERIAL)
    assert outcome.failed == 1
    view = read_study(out).runs[0]
    assert message in view.message()
    assert (view.folder / "output.log").stat().st_size <= 16 * 2**20 + 100
    (tmp_path / "train.py").write_text(PROGRAM.replace("width == 13", "width == 14"))
    assert launch(plan_from_folder(out, SERIAL), out)[0].finished == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train {widht} {seed}", "did you mean 'width'?"),
        ("train {width}", "does not use seed: its trials would be one run several times"),
        ("train {seed}", "does not use width"),
        ("train 'x {width} {seed}", "cannot be split into arguments"),
        ("  ", "the command is empty"),
    ],
)
def test_a_command_that_cannot_mean_what_it_says_is_refused(command: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(None, {"width": [1, 2]}, command=command, seeds=[0, 1])
    assert message in str(caught.value)


def test_values_are_single_arguments_without_a_shell() -> None:
    values = {"name": "a b; rm -rf $HOME", "opt.lr": 1e-3, "on": True, "layers": [1, 2]}
    filled = fill("train --name={name} {opt.lr} {on} {layers} '{{literal}}'", values)
    assert filled == ["train", "--name=a b; rm -rf $HOME", "0.001", "true", "[1,2]", "{literal}"]


def test_the_loss_of_a_recipe_is_its_own() -> None:
    with pytest.raises(InputError, match="`loss` is for own functions and programs"):
        plan("digits", reading=Reading(loss="accuracy"))


def test_a_program_with_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay with the run, so that a program that was killed can go on from its own checkpoint."""
    text = "import json, os\nopen(os.environ['METASCALE_FILES'] + '/weights', 'w').write('1')\n"
    text += "json.dump({'loss': 1.0}, open(os.environ['METASCALE_RESULT'], 'w'))\n"
    (tmp_path / "p.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    run(None, tmp_path / "out", {"width": [1, 2, 3]}, command=f"{sys.executable} p.py {{width}}", place=SERIAL)
    view = read_study(tmp_path / "out").runs[0]
    assert (view.folder / "files" / "weights").read_text() == "1"
    assert json.loads((view.folder / "result.json").read_text())["result"] == {"loss": 1.0}
