"""examples/from_melora.py maps every key; docs/from-melora.md shows commands and keys that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError
from metascale.recipes.melora import ESTIMATORS
from metascale.workflow.recipe import load_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "from_melora.py"
spec = importlib.util.spec_from_file_location("from_melora", SCRIPT)
assert spec is not None
assert spec.loader is not None
from_melora = importlib.util.module_from_spec(spec)
spec.loader.exec_module(from_melora)
KEYS, METHOD_OF_CURVATURE, translate = from_melora.KEYS, from_melora.METHOD_OF_CURVATURE, from_melora.translate
RECIPE = load_recipe("melora")
PAGE = ROOT / "docs" / "from-melora.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ metascale (.*)$", TEXT, re.MULTILINE)
CONFIG, OURS = re.findall(r"<!-- file: \w+.yml -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the page's reader: its configuration file, and a text file of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(CONFIG)
    (tmp_path / "ours.yml").write_text(OURS)
    (tmp_path / "mine.csv").write_text("text,label\nhello,a\n")
    return tmp_path


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("run ")])
def test_a_command_of_the_page_plans_a_study(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned: list[Any] = []

    def launch(plan: Any, *_: Any, **__: Any) -> Any:
        planned.append(plan)
        raise SystemExit(0)

    monkeypatch.setattr("metascale.workflow.launch.launch", launch)
    # The data set itself is not needed to plan a study, and is not everywhere.
    monkeypatch.setattr("metascale.workflow.launch.preflight", lambda recipe, study, devices: ())
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, (result.output, result.exception)
    (plan,) = planned
    assert plan.recipe.name == "melora"
    assert len(plan.study.trials()) >= 3


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("run ")])
def test_other_commands_of_the_page_exist(command: str) -> None:
    name, *_ = shlex.split(command)
    assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_the_tables_name_every_key_and_every_method() -> None:
    assert len(COMMANDS) >= 12
    for path, ours in KEYS.items():
        assert f"`{ours}`" in TEXT, ours
        assert path in TEXT or path.rsplit(".", 1)[1] in TEXT, path
    for curvature, method in METHOD_OF_CURVATURE.items():
        assert f"`{method}`" in TEXT
        assert curvature in TEXT
    assert all(f"`{method}`" in TEXT for method in ESTIMATORS)


THEIRS = """
models:
  selected_model: distilbert
lora:
  default_rank: 4
  alpha: 8
  dropout: 0.2
  target_modules:
    gpt2: ["attn.c_attn"]
    distilbert: ["q_lin"]
meta_learning:
  inner:
    default_lr: 0.02
    default_num_steps: 5
  outer:
    default_lr: 0.001
  default_meta_batch_size: 2
  num_iterations: 300
memory_optimization:
  gradient_accumulation:
    default_micro_batch: 8
  checkpointing:
    enabled: true
    checkpoint_lora_only: true
  hessian_approximation:
    method: block_diagonal
evaluation:
  memory_profiling:
    enabled: true
    detailed_breakdown: true
"""


def test_every_key_of_theirs_becomes_ours() -> None:
    assert translate(yaml.safe_load(THEIRS)) == {
        "backbone": "distilbert",
        "rank": 4,
        "alpha": 8,
        "dropout": 0.2,
        "targets": ["q_lin"],
        "inner_lr": 0.02,
        "inner_steps": 5,
        "outer_lr": 0.001,
        "meta_batch": 2,
        "max_steps": 300,
        "micro_batch": 8,
        "checkpointing": "adapters",
        "method": "melora_block_diagonal",
        "measure_memory": True,
    }
    used = set(translate(yaml.safe_load(THEIRS)))
    assert used == set(KEYS.values()), "no key of the table is left untested"


def test_their_form_makes_a_study_and_set_wins_over_it() -> None:
    study = RECIPE.study(translate({**yaml.safe_load(THEIRS), "rank": 16}))
    assert study.base["rank"] == 16
    assert study.base["backbone"] == "distilbert"
    assert study.axes == {"method": ["melora_block_diagonal"]}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"checkpointing": {"enabled": False, "checkpoint_lora_only": True}}, "none"),
        ({"checkpointing": {"enabled": True, "checkpoint_lora_only": False}}, "all"),
        ({"checkpointing": {"enabled": True}}, "adapters"),
    ],
)
def test_checkpointing_is_two_keys_of_theirs_and_one_of_ours(theirs: dict[str, Any], ours: str) -> None:
    assert translate({"memory_optimization": theirs}) == {"checkpointing": ours}


@pytest.mark.parametrize("curvature", METHOD_OF_CURVATURE)
def test_every_hessian_approximation_has_a_method(curvature: str) -> None:
    values = translate({"memory_optimization": {"hessian_approximation": {"method": curvature}}})
    estimator, ours = RECIPE.validate(values).estimator
    assert ours == curvature
    assert estimator == ("fomaml" if curvature == "none" else "maml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora": {"default_rnak": 4}}, "no key 'lora.default_rnak'; did you mean 'lora.default_rank'?"),
        ({"meta_learning": {"inner": {"lr": 1}}}, "no key 'meta_learning.inner.lr'; did you mean"),
        ({"models": "gpt2"}, "no key 'models'"),
        ({"lora": {"target_modules": {"gtp2": ["a"]}}}, "no family 'gtp2'; did you mean 'gpt2'?"),
        ({"memory_optimization": {"checkpointing": {"enabled": "yes"}}}, "is true or false, not 'yes'"),
        ({"memory_optimization": {"hessian_approximation": {"method": "diag"}}}, "did you mean 'diagonal'?"),
        ({"evaluation": {"memory_profiling": {"enabled": False, "detailed_breakdown": True}}}, "is part of a profile"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        translate(values)
    assert message in str(caught.value)


def test_the_script_prints_what_the_page_shows(folder: Path) -> None:
    def convert(file: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPT), file], capture_output=True, text=True, check=False)

    assert convert("config.yml").stdout == OURS
    (folder / "wrong.yml").write_text("lora: {default_rnak: 4}")
    refused = convert("wrong.yml")
    assert refused.returncode != 0
    assert refused.stderr.startswith("from_melora: the configuration has no key 'lora.default_rnak'")
