"""docs/from-melora.md: every command is one that the command line takes, every key of the table is one that is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.recipes.melora import ESTIMATORS
from metascale.recipes.melora_config import KEYS, METHOD_OF_CURVATURE

PAGE = Path(__file__).parents[2] / "docs" / "from-melora.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ metascale (.*)$", TEXT, re.MULTILINE)
CONFIG = re.search(r"<!-- file: config.yml -->\n```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the page's reader: its configuration file, and a text file of their own."""
    monkeypatch.chdir(tmp_path)
    assert CONFIG is not None
    (tmp_path / "config.yml").write_text(CONFIG[1])
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
    monkeypatch.setattr("metascale.workflow.launch.check_data", lambda recipe, study: None)
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
