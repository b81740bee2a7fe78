"""Finding the way on the command line: what a recipe is, study files, completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metascale.workflow.describe import allowed, describe
from metascale.workflow.recipe import load_recipe, recipe_names
from metascale.workflow.study_file import study_text
from tests.test_cli import Call, call  # noqa: F401


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_every_recipe_has_a_meaning_and_a_range(name: str) -> None:
    found = describe(load_recipe(name))
    assert found.question
    assert not [key.name for key in found.keys if not key.meaning]
    assert not [key.name for key in found.keys if "typing" in key.allowed or "<" in key.allowed]
    assert {"Hardware", "Took"} & set(found.header)


def test_a_recipe_is_described_with_defaults_ranges_and_profiles() -> None:
    found = describe(load_recipe("digits"))
    keys = {key.name: key for key in found.keys}
    assert keys["outer_lr"].default == 0.003  # the recipe's, not the class's
    assert (keys["n_tasks"].default, found.axes) == (100, {"n_tasks": [2, 5, 10, 20, 50, 100, 200]})
    assert keys["method"].profiles == {"steps": "maml", "converged": "maml", "classes": "maml"}
    assert keys["n_train_classes"].profiles == {"classes": [5, 8, 12, 16, 20, 24]}
    assert keys["inner_momentum"].allowed == "a number at least 0, below 1"
    assert keys["k_shot"].allowed == "a whole number at least 1"
    assert keys["n_tasks"].allowed == "a whole number at least 1; or none"
    assert keys["tune_rates"].allowed == "a list, each a number above 0"
    assert keys["outer_final_rate"].meaning.startswith("how the outer rate moves")
    assert "2 minutes on 2 quiet cores" in found.header["Hardware"]
    assert allowed(bool | None) == "true or false; or none"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("run digits --meta_lr 0.1", "there is no option --meta_lr; here it is --set outer_lr=0.1"),
        ("run noisy-labels --meta-lr=0.1", "here it is --set upper_lr=0.1"),
        ("run banking77 --k_inner=3", "here it is --set inner_steps=3"),
        ("run banking77 --lora_r 8", "here it is --set rank=8"),
        ("run digits --lora_r 8", "other recipes call it 'rank', and this one has nothing of the kind"),
        ("run digits --num_meta_steps 50 --quick", "here it is --set max_steps=50"),
        ("run digits --inner-lr 0.3", "it is a key of the configuration: --set inner_lr=0.3"),
        ("run digits --num_workers 2", "where trials run is not a key: --workers"),
        ("run train.py:train --lr 0.3", "a key of your own function or program is given by --set lr=0.3 (options"),
        ("run train.py:train --n_trials 3", "here it is --tune: a number of trials"),
        ("evaluate study/runs/x --k_spt 5", "there is no option --k_spt; here it is --shots"),
    ],
)
def test_an_option_of_another_program_is_translated(typed: str, said: str, tmp_path: Path, call: Call) -> None:  # noqa: F811
    folder = tmp_path / "study"
    code, _, refusal = call(*typed.split(), *(["--out", str(folder)] if typed.startswith("run") else []))
    assert (code, folder.exists()) == (2, False)
    assert said in " ".join(refusal.split())


def test_any_other_unknown_option_is_refused_as_ever(call: Call) -> None:  # noqa: F811
    for typed in ("run digits --profil smoke --out x", "run digits --zzz --out x", "status x --zzz"):
        code, _, refusal = call(*typed.split())
        assert (code, "No such option" in refusal) == (2, True)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("fit losses.csv --zzz 3", "No such option: --zzz"),
        ("run digits --meta-lr 0.1", "there is no option --meta-lr; here it is --set outer_lr=0.1"),
        ("nonsense", "No such command 'nonsense'"),
        ("fit", "Missing argument 'table'"),
        ("evaluate x --shots few", "Invalid value for '--shots'"),
        ("data list --zzz", "No such option: --zzz"),
    ],
)
def test_a_usage_error_is_json_where_that_is_asked_for(typed: str, said: str, call: Call) -> None:  # noqa: F811
    code, printed, words = call(*typed.split(), "--json")
    found = json.loads(printed)["error"]
    assert (code, found["exit_status"], found["message"][: len(said)]) == (2, 2, said)
    assert said in " ".join(words.split())
    code, printed, _ = call(*typed.split())
    assert (code, printed) == (2, "")


def test_recipes_name_prints_it(call: Call) -> None:  # noqa: F811
    code, printed, _ = call("recipes", "digits")
    assert code == 0
    assert all(words in printed for words in ("outer_lr = 0.003", "--profile smoke", "2 quiet cores", "sgd, adam or"))
    found = json.loads(call("recipes", "model-size", "--json", "--quiet")[1])
    assert found["data_sets"] == ["wikitext-2-v1"]
    assert {"name", "meaning", "default", "allowed", "profiles", "own"} == set(found["keys"][0])
    assert "did you mean 'digits'" in call("recipes", "digit")[2]


def test_a_study_file_runs_as_it_is_and_with_its_comments_taken_away(tmp_path: Path, call: Call) -> None:  # noqa: F811
    file = tmp_path / "mine.yaml"
    assert call("init", "digits", "--profile", "smoke", "--out", str(file))[0] == 0
    typed = (
        "run",
        str(file),
        "--out",
        str(tmp_path / "study"),
        "--executor",
        "serial",
        "--json",
        "--quiet",
        "--dry-run",
    )
    code, printed, said = call(*typed)
    assert (code, said) == (0, "")
    assert json.loads(printed)["study"] == "digits"
    assert json.loads(printed)["costs"][-1] == ["axes", "n_tasks in [2, 5, 10, 20]; seeds [0, 1, 2]"]
    found = json.loads(call(*typed, "--seeds", "0-4", "--set", "n_tasks=2,5", "--set", "inner_lr=0.5")[1])
    assert found["costs"][-1] == ["axes", "n_tasks in [2, 5]; seeds [0, 1, 2, 3, 4]"]
    assert "there already" in call("init", "digits", "--out", str(file))[2]
    assert "ends in .yaml" in call("init", "digits", "--out", str(tmp_path / "x.txt"))[2]


@pytest.mark.parametrize("name", recipe_names())
def test_every_default_of_a_study_file_is_the_default(name: str) -> None:
    recipe = load_recipe(name)
    for profile in (None, *recipe.profiles):
        text = study_text(recipe, profile)
        given = yaml.safe_load(text)
        asked = {"path": "mine.csv"} if name == "csv" else {}
        plain = recipe.study({**given["values"], **asked}, profile, given["seeds"])
        uncommented = "\n".join(
            line.replace("# ", "", 1)
            if line.startswith("  # ") and ": " in line and line[4:].split(":")[0].isidentifier()
            else line
            for line in text.splitlines()
        )
        keys = {key.name for key in describe(recipe).keys}
        whole = {key: value for key, value in yaml.safe_load(uncommented)["values"].items() if key in keys}
        assert keys == set(whole)
        assert recipe.study({**whole, **asked}, profile, given["seeds"]).trials() == plain.trials()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe: digits\ninner_lr: 1\n", "keys of the recipe stand under values"),
        ("seeds: [0]\n", "neither a recipe nor a command"),
        ("recipe: digits\nseeds: 4-1\n", "a range goes up"),
        ("recipe: digits\nvalues: [1]\n", "'values' is not the configuration"),
        ("recipe: digits\nvalues: {meta_lr: 1}\n", "here it is 'outer_lr'"),
        ("recipe: digits\nbaselines: 3\n", "'baselines' is not false"),
    ],
)
def test_a_study_file_that_is_none_is_one_sentence(text: str, said: str, tmp_path: Path, call: Call) -> None:  # noqa: F811
    (tmp_path / "bad.yaml").write_text(text)
    code, _, error = call("run", str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "study"))
    assert (code, said in error, len(error.strip().splitlines())) == (2, True, 1), error
    assert not (tmp_path / "study").exists()
    assert "study file" in call("run", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "study"))[2]


OFFERED = [
    ("zsh", ("run", "dig"), "digits"),
    ("bash", ("run", "digits", "--profile", "sm"), "smoke"),
    ("fish", ("run", "digits", "--set", "inner_l"), "inner_lr="),
    ("zsh", ("run", "digits", "--scale", "n_ta"), "n_tasks"),
    ("zsh", ("init", "omni"), "omniglot"),
    ("zsh", ("recipes", "banking"), "banking77"),
    ("bash", ("evaluate", "mine/runs/n_t"), "mine/runs/n_tasks=2"),
    ("zsh", ("evaluate", "mine"), "mine/runs/n_tasks=2"),
    ("zsh", ("run", "digits", "--set", "method=ma"), "method=maml"),
    ("zsh", ("run", "mine.py", "--set", "a"), ""),
    ("fish", ("run", "digits", "--profile", "''"), "smoke"),
]
COMPLETE = """
import contextlib, io, json, os, sys
from metascale.cli.main import app
sys.argv, found = ["metascale"], []
for shell, words in json.loads(os.environ["CASES"]):
    line = " ".join(("metascale", *words))
    os.environ.update(_METASCALE_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=line, COMP_WORDS=line)
    os.environ.update(_TYPER_COMPLETE_FISH_ACTION="get-args", COMP_CWORD=str(len(words)))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app()
    found.append([said.getvalue(), sorted({"torch", "scipy", "matplotlib", "pandas"} & set(sys.modules))])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[tuple[str, tuple[str, ...]], list[str]], Path]:
    """What is offered, line by line, in one fresh process for all of `OFFERED`, which loads nothing heavy for any."""
    folder = tmp_path_factory.mktemp("completed")
    (folder / "mine" / "runs" / "n_tasks=2").mkdir(parents=True)
    (folder / "mine" / "study.json").write_text("{}")
    (folder / "mine.py").write_text("open('ran', 'w')")
    environment = {**os.environ, "CASES": json.dumps([case[:2] for case in OFFERED])}
    command = [sys.executable, "-c", COMPLETE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert [heavy for _, heavy in found] == [[]] * len(OFFERED)
    return {case[:2]: said.split("\n") for case, (said, _) in zip(OFFERED, found, strict=True)}, folder


@pytest.mark.parametrize(("shell", "words", "offered"), OFFERED)
def test_shells_are_offered_names(shell: str, words: tuple[str, ...], offered: str, completed) -> None:
    assert any(offered in line for line in completed[0][shell, words])


def test_no_file_is_run_for_the_names_in_it(completed) -> None:
    assert not (completed[1] / "ran").exists()


def test_what_is_said_beside_a_name_stays_on_its_line_and_a_key_waits_for_its_value(completed) -> None:
    profiles = [line for line in completed[0]["fish", ("run", "digits", "--profile", "''")] if line]
    assert {line.partition("\t")[0] for line in profiles} == set(load_recipe("digits").profiles)
    keys = [line for line in completed[0]["fish", ("run", "digits", "--set", "inner_l")] if line]
    assert [line.partition("\t")[0] for line in keys] == ["inner_lr=", "inner_lr=0.01"]
