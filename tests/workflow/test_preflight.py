"""What would fail inside every trial is refused at once, alike by the dry run, `run` and the Python API."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError, MissingDependency
from metascale.workflow import launch as launching
from metascale.workflow.launch import Place, plan, run
from metascale.workflow.preflight import check_devices, distinct_settings, preflight
from metascale.workflow.recipe import load_recipe
from tests.conftest import need

TEXTS = [f"word{number} says{number}" for number in range(400)]


def csv_file(path: Path, n_classes: int, n_texts: int = 12) -> str:
    rows = [f"{TEXTS[number]},class{number % n_classes:02d}" for number in range(n_classes * n_texts)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "model").mkdir()
    return {
        "FILE18": csv_file(folder / "eighteen.csv", 18),
        "FILE30": csv_file(folder / "thirty.csv", 30),
        "MODEL": str(folder / "model"),
    }


def silence(*_: Any, **__: Any) -> None:
    pytest.fail("a trial began")


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "too few classes in a split": (
        "csv",
        {"path": "FILE18", "k_shot": 1, "n_query": 2},
        {},
        "5 classes are needed but the validation split has 4",
    ),
    "more ways than classes": ("digits", {"n_way": 9, "n_tasks": [5, 10]}, {}, "9 classes are needed but the "),
    "too few examples": (
        "csv",
        {"path": "FILE30", "k_shot": 5, "n_query": 15},
        {},
        r"classes have fewer than 20 examples \(k_shot 5 \+ n_query 15\)",
    ),
    "too few examples at one point of an axis": (
        "digits",
        {"n_tasks": [5], "k_shot": [1, 5, 200]},
        {},
        r"fewer than 215 examples \(k_shot 200",
    ),
    "more tasks than combinations": (
        "csv",
        {"path": "FILE30", "k_shot": 1, "n_query": 2, "n_way": 2, "n_tasks": [5, 200]},
        {},
        "200 distinct training tasks were asked for but 18 training classes have only 153 combinations of 2",
    ),
    "more training classes than there are": (
        "digits",
        {"n_tasks": None, "n_train_classes": [8, 30]},
        {},
        "30 classes are needed but the train split has 24",
    ),
    "a net too deep for its images": (
        "digits",
        {"model": "conv", "depth": [1, 2, 4], "n_tasks": 5},
        {},
        "8x8 pixels allows at most 3 blocks",
    ),
    "a search's range": (
        "digits",
        {"n_tasks": [5, 10], "tune": {"space": {"n_way": {"choice": [5, 30]}}, "trials": 2}},
        {},
        "30 classes are needed",
    ),
    "no such column": ("csv", {"path": "FILE30", "label_column": "lable"}, {}, "has no column 'lable'"),
    "no CUDA device": ("digits", {}, {"devices": "cuda:7"}, "cuda:7"),
    "no MPS device": ("digits", {}, {"devices": ["cpu", "mps"]}, "'mps', and this machine has none"),
    "no CUDA device for images": ("shapes", {}, {"devices": "cuda:7"}, "cuda:7"),
    "8 bits without bitsandbytes": (
        "csv",
        {"path": "FILE30", "k_shot": 1, "n_query": 2, "backbone": "gpt2", "load_in_8bit": True, "method": "fomaml"},
        {},
        "'bitsandbytes'; install it with: pip install 'metascale.quant.'",
    ),
    "8 bits and second derivatives": (
        "csv",
        {"path": "FILE30", "k_shot": 1, "n_query": 2, "backbone": "gpt2", "load_in_8bit": True, "method": "maml"},
        {},
        "needs second derivatives, which an 8-bit backbone lacks; set load_in_8bit=false",
    ),
    "8 bits of random weights": (
        "csv",
        {"path": "FILE30", "backbone": "gpt2", "load_in_8bit": True, "random_weights": 1},
        {},
        "load_in_8bit needs real weights",
    ),
    "no folder of a model": (
        "csv",
        {"path": "FILE30", "k_shot": 1, "n_query": 2, "backbone": ["./nowhere", "./elsewhere"]},
        {},
        "there is no folder .*/nowhere, which backbone .* names",
    ),
    "an empty folder of a model": (
        "csv",
        {"path": "FILE30", "k_shot": 1, "n_query": 2, "backbone": "MODEL"},
        {},
        "cannot load the model '.*model': the folder must hold",
    ),
    "more images than there are": ("shapes", {"n_train": 5000}, {}, "n_train of 'small_digits' must be from 2 to 1078"),
    "a batch larger than the data": ("shapes", {"n_train": 40}, {}, "must be from 1 to its 40 training examples"),
    "a convolutional net too deep": (
        "shapes",
        {"architecture": ["mlp", "convnet"], "shrink": 4},
        {},
        "2x2 pixels allows at most 1 blocks",
    ),
    "nothing kept": ("data_pruning", {"keep": [0.01, 0.5]}, {}, "fewer than a batch of 64"),
    "a window longer than the text": (
        "model_size",
        {"n_train_tokens": 200, "n_sequence": 128},
        {},
        "200 training tokens, too few for one window of 128",
    ),
    "more words than there are": ("model_size", {"vocabulary": 40_000}, {}, "must be from 2 to 33278"),
    "more tokens than there are": ("model_size", {"n_train_tokens": 3_000_000}, {}, "from 1 to 2088628"),
}


def given(texts: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    return {key: texts.get(value, value) if isinstance(value, str) else value for key, value in values.items()}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_alike_everywhere_and_nothing_is_written(
    case: str, texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, values, place, said = REFUSED[case]
    if recipe == "model_size":
        need("wikitext-2-v1")
    if "cuda" in said and torch.cuda.is_available():
        pytest.skip("this machine has CUDA devices")
    if "mps" in said and torch.backends.mps.is_available():
        pytest.skip("this machine has MPS")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("metascale.study.search.run.run_any_study", silence)
    monkeypatch.setattr("metascale.workflow.estimate.cost_table", silence)
    values, folder = given(texts, values), tmp_path / "study"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((InputError, MissingDependency), match=said) as python:
        run(recipe, folder, values, place=Place(**place))
    devices = place.get("devices", "cpu")
    command = ["run", recipe, "--out", str(folder)]
    command += ["--devices", devices if isinstance(devices, str) else ",".join(devices)]
    command += [part for key, value in values.items() for part in ("--set", f"{key}={launching.canonical_json(value)}")]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(app, [*command, *more])
        assert isinstance(result.exception, (InputError, MissingDependency)), result.output
        assert str(result.exception) == str(python.value)
    assert "\n" not in str(python.value)
    assert sorted(tmp_path.rglob("*")) == before


def settings_of(recipe: str, values: dict[str, Any], **more: Any) -> list[tuple[Any, int]]:
    chosen = load_recipe(recipe)
    return distinct_settings(chosen, chosen.study(values, **more))


def test_one_check_stands_for_all_trials_that_differ_in_training_alone() -> None:
    """Seven sizes of pool, three seeds, five baselines and two rates read the same data: the largest pool decides."""
    ((settings, _),) = settings_of("digits", {"outer_lr": [1e-3, 1e-2]})
    assert settings.n_tasks == 200
    two = settings_of("digits", {"width": [16, 32], "n_tasks": [5, 50]}, baselines=False)
    assert [(one.width, one.n_tasks) for one, _ in two] == [(16, 50), (32, 50)]
    # Which 8 of the 24 training classes are used depends on the seed.
    eight = settings_of("digits", {"n_tasks": None, "n_train_classes": 8}, seeds=[3, 4], baselines=False)
    assert [seed for _, seed in eight] == [3, 4]


def test_a_language_model_is_not_loaded_to_check_its_tasks(
    texts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metascale.models.text.hf.load_backbone", silence)
    values = {"path": texts["FILE30"], "k_shot": 1, "n_query": 2, "n_tasks": 5, "backbone": "tinyllama"}
    plan("csv", values)
    with pytest.raises(InputError, match="18 training classes have only 8568 combinations"):
        plan("csv", {**values, "n_tasks": 10_000})


def test_the_hub_is_asked_before_the_folder_is_made_and_not_by_a_dry_run(
    texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    values = {"path": texts["FILE30"], "k_shot": 1, "n_query": 2, "backbone": "no-such/model-of-anyone"}
    planned = plan("csv", values)
    with pytest.raises(InputError, match="cannot load the model 'no-such/model-of-anyone'"):
        launching.launch(planned, tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("given", "lacking", "said"),
    [
        ({"executor": "slurm"}, "srun", "this machine has no sbatch"),
        ({"executor": "slurm"}, "submitit", "needs the package 'submitit'"),
        ({"executor": "ray"}, "ray", "needs the package 'ray'"),
        ({"executor": "ray", "address": "127.0.0.1:1"}, "", "cannot reach the Ray cluster at '127.0.0.1:1'"),
        ({"executor": "serial", "processes_per_trial": 2}, "torch.distributed", "needs torch.distributed"),
        ({"processes_per_trial": 2}, "torch", "needs the package 'torch'"),
    ],
)
@pytest.mark.parametrize("tune", [False, True])
def test_what_the_machine_lacks_is_refused_before_the_folder_is_made(
    given: dict[str, Any], lacking: str, said: str, tune: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not lacking:
        pytest.importorskip("ray", reason="ray is not installed")
    (tmp_path / "own.py").write_text("def train(config, run, device):\n    return {'loss': config['x']}\n")
    values: dict[str, Any] = {"x": [1.0, 2.0]}
    if tune:
        values["tune"] = {"space": {"lr": {"log": [0.1, 1.0]}}, "trials": 4, "objective": "loss"}
    if lacking == "torch.distributed":
        monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    elif lacking == "srun":
        pytest.importorskip("submitit", reason="submitit is not installed")
        monkeypatch.setenv("PATH", str(tmp_path))
    elif lacking:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *rest: None if name == lacking else find(name, *rest)
        )
        if lacking == "torch":
            monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises((InputError, MissingDependency), match=said):
        run(f"{tmp_path}/own.py:train", tmp_path / "study", values, loss="loss", place=Place(**given))
    assert not (tmp_path / "study").exists()


CHECKED = """
from dataclasses import dataclass

from metascale.core.errors import InputError
from metascale.workflow import Count, Recipe, TrialConfig


@dataclass(frozen=True)
class Config(TrialConfig):
    size: Count = 1


RECIPE = Recipe(name="own", title="Own", question="?", config=Config, axes={"size": [1, 2, 3]}, seeds=(0,))


def check(config):
    if config.size > 2:
        raise InputError(f"there are 2 of them, not {config.size}", field="size", value=config.size)


def trial(config, run, device):
    return {"test_loss_nats": 1.0}
"""


def test_a_recipe_of_ones_own_has_a_check_too(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CHECKED)
    assert len(plan(str(tmp_path / "own.py"), {"size": [1, 2]}).study.trials()) == 2
    with pytest.raises(InputError, match="there are 2 of them, not 3"):
        plan(str(tmp_path / "own.py"))


def test_a_cluster_chooses_devices_by_itself() -> None:
    recipe = load_recipe("hypergradient_bias")
    preflight(recipe, recipe.study())
    with pytest.raises(InputError, match="`devices` has 'cuda:99', and this machine has"):
        preflight(recipe, recipe.study(), ["cpu", "cuda:99"])


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        (0, "cuda", "'cuda', and this machine has none"),
        (1, "cuda:1", "'cuda:1', and this machine has cuda:0 alone"),
        (4, "cuda:4", "'cuda:4', and this machine has 4, cuda:0 to cuda:3"),
        (4, "cuda:3", None),
        (1, "cuda", None),
    ],
)
def test_devices_are_counted(there: int, wanted: str, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    if said is None:
        return check_devices([wanted, "cpu"])
    with pytest.raises(InputError, match=said) as refused:
        check_devices([wanted])
    assert refused.value.field == "devices"
    return None
