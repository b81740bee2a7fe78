"""A project folder that moves with its code goes on: by the same command and by resume, with the same ids."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import metascale as ms
from metascale.core.errors import InputError
from metascale.core.files import read_json
from metascale.study.definition import load_definition
from metascale.workflow import Place
from metascale.workflow.launch import launch, plan_from_folder

FUNCTION = """
def train(config, run, device):
    assert sorted(config) == ["n", "seed"], config
    return {"loss": 1 + config["n"] ** -0.5}
"""
PROGRAM = """
import json, os, sys
json.dump({"loss": 1 + int(sys.argv[1]) ** -0.5}, open(os.environ["METASCALE_RESULT"], "w"))
"""
RECIPE = """
from dataclasses import dataclass
from metascale.workflow import Count, Recipe, TrialConfig

@dataclass(frozen=True)
class Config(TrialConfig):
    n: Count = 1

RECIPE = Recipe(name="own", title="t", question="q", config=Config, defaults={}, axes={"n": [1, 2]},
                loss="loss")

def trial(config, run, device):
    return {"loss": 1 + RECIPE.validate(config).n ** -0.5}
"""


def _run(kind: str, values: list[int]) -> tuple[int, int]:
    name, command = {
        "function": ("t.py:train", None),
        "recipe": ("./r.py", None),
        "program": (None, f"{sys.executable} p.py {{n}}"),
    }[kind]
    loss = {} if kind == "recipe" else {"loss": "loss"}
    place = Place("serial")
    found, _ = ms.run(name, "study", {"n": values}, seeds=[0], command=command, place=place, baselines=False, **loss)
    return found.finished, found.ran


def _project(folder: Path) -> None:
    folder.mkdir()
    for name, text in (("t.py", FUNCTION), ("p.py", PROGRAM), ("r.py", RECIPE)):
        (folder / name).write_text(text)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "kind",
    ["function", pytest.param("program", marks=pytest.mark.long), pytest.param("recipe", marks=pytest.mark.long)],
)
def test_a_moved_project_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _project(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "one")
    assert _run(kind, [1, 2]) == (2, 2)
    before = {trial.id for trial in load_definition(Path("study")).trials}
    monkeypatch.chdir(tmp_path)
    Path("one").rename("two")
    monkeypatch.chdir(tmp_path / "two")
    outcome, _ = launch(plan_from_folder("study", Place("serial")), "study")
    assert (outcome.finished, outcome.ran) == (2, 0)
    assert _run(kind, [1, 2, 4]) == (3, 1)
    assert before < {trial.id for trial in load_definition(Path("study")).trials}
    monkeypatch.chdir(tmp_path)
    Path("two").rename("three")
    monkeypatch.chdir(tmp_path / "three")
    assert _run(kind, [1, 2, 4, 8]) == (4, 1)
    assert _run(kind, [1, 2, 4, 8]) == (4, 0)


@pytest.mark.parametrize(("kind", "key"), [("function", "base.function"), ("program", "base.folder")])
def test_other_code_at_another_place_is_refused(
    kind: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path / "one")
    _project(tmp_path / "two")
    monkeypatch.chdir(tmp_path / "one")
    _run(kind, [1, 2])
    Path("study").rename(tmp_path / "two" / "study")
    monkeypatch.chdir(tmp_path / "two")
    (tmp_path / "two" / "t.py").write_text(FUNCTION.replace("1 +", "2 +"))
    with pytest.raises(InputError, match=key):
        _run(kind, [1, 2, 4])


def test_reading_a_folder_from_elsewhere_finds_no_code_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe beside the study, whose absolute place is gone, is loaded by run and resume alone."""
    from metascale.workflow.evaluate import recipe_place

    _project(tmp_path / "one")
    monkeypatch.chdir(tmp_path / "one")
    _run("recipe", [1, 2])
    monkeypatch.chdir(tmp_path)
    Path("one").rename("two")
    run = next((tmp_path / "two" / "study" / "runs").iterdir())
    named = str(tmp_path / "one" / "r.py")
    assert read_json(run / "config.json")["recipe"] == named
    assert recipe_place(named, run) == named
    assert json.loads((tmp_path / "two" / "study" / "study.json").read_text())["base"]["recipe"] == named
