"""Who may import whom, and what stays unloaded: the rooms of the architecture as a test."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "metascale"

BELOW_WORKFLOW = {
    "core",
    "tasks",
    "models",
    "hypergrad",
    "training",
    "parallel",
    "meta",
    "bilevel",
    "laws",
    "study",
    "report",
}

ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "tasks": {"core"},
    "models": {"core"},
    "hypergrad": {"core"},
    "training": {"core"},
    "parallel": {"core", "training", "meta"},
    "meta": {"core", "hypergrad", "training", "parallel"},
    "bilevel": {"core", "hypergrad", "training"},
    "laws": {
        "core.columns",
        "core.errors",
        "core.lazy",
        "core.optional",
        "core.streams",
        "core.suggest",
        "core.units",
    },
    "study": {"core", "laws"},
    "report": {"core", "laws", "study"},
    "testing": {"core"},
    "integrations": BELOW_WORKFLOW | {"integrations"},
    "workflow": BELOW_WORKFLOW | {"integrations", "recipes"},
    "recipes": BELOW_WORKFLOW | {"workflow"},
    "cli": {"core", "integrations", "laws", "report", "study", "tasks.data", "workflow"},
}
TORCH_FREE = ("laws", "study", "report")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too, but not for type checking alone."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    allowed = ALLOWED[room] | {room}
    for module in imports_of(path):
        if module == "metascale":
            continue
        if module.startswith("metascale."):
            inside = module.removeprefix("metascale.")
            fine = any(inside == name or inside.startswith(f"{name}.") for name in allowed)
            assert fine, f"{path.relative_to(PACKAGE)} ({room}) may not import {module}"
        elif room in TORCH_FREE:
            assert module.split(".")[0] not in ("torch", "transformers", "peft"), f"{room} never imports {module}"


@pytest.mark.parametrize(
    "module",
    [
        "metascale",
        "metascale.laws",
        "metascale.study",
        "metascale.report",
        "metascale.cli",
        "metascale.workflow.launch",
    ],
)
def test_light_modules_do_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_configurations_of_all_recipes_load_without_torch() -> None:
    code = (
        "import sys; from metascale.workflow.recipe import RECIPES, load_recipe;"
        "[load_recipe(name).study() for name in RECIPES]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
