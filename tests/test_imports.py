"""Who may import whom, and what stays unloaded: the rooms of the architecture as a test."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
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
    "parallel": {"core", "training"},
    "meta": {"core", "hypergrad", "training", "parallel"},
    "bilevel": {"core", "hypergrad", "training"},
    "laws": {
        "core.canonical",
        "core.cells",
        "core.columns",
        "core.errors",
        "core.files",
        "core.lazy",
        "core.notebook",
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
    "__main__": {"cli"},
    "cli": {"core", "integrations", "laws", "report", "study", "tasks.datasets", "workflow"},
}
TORCH_FREE = ("laws", "study", "report")


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@dataclass(frozen=True)
class Import:
    """One import statement of a module: the module named, and the names taken from it (none for ``import a.b``)."""

    module: str
    names: tuple[str, ...] = ()


@functools.cache
def imports_of(path: Path, typing_too: bool = False) -> list[Import]:
    """Every import of a file, inside functions too; those for type checking alone only where asked for."""
    found: list[Import] = []
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only and not typing_too:
            continue
        if isinstance(node, ast.Import):
            found += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(Import(node.module or "", tuple(alias.name for alias in node.names)))
    return found


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def home_of(package: str, name: str) -> str:
    """The module that defines what ``from package import name`` gives, looked up through the faces of rooms."""
    if MODULES[package].name == "__init__.py":
        for taken in imports_of(MODULES[package], typing_too=True):
            if name in taken.names and taken.module in MODULES:
                return home_of(taken.module, name)
    return f"{package}.{name}" if f"{package}.{name}" in MODULES else package


def graph() -> dict[str, set[str]]:
    """Which of our modules each of our modules imports. A name that a room's face offers counts as its own module's."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        targets: set[str] = set()
        for taken in imports_of(path):
            if taken.module in MODULES:
                targets |= {home_of(taken.module, name) for name in taken.names} or {taken.module}
        edges[module] = targets - {module}
    return edges


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    allowed = ALLOWED[room] | {room}
    for module in (taken.module for taken in imports_of(path)):
        if module == "metascale":
            continue
        if module.startswith("metascale."):
            inside = module.removeprefix("metascale.")
            fine = any(inside == name or inside.startswith(f"{name}.") for name in allowed)
            assert fine, f"{path.relative_to(PACKAGE)} ({room}) may not import {module}"
        elif room in TORCH_FREE:
            assert module.split(".")[0] not in ("torch", "transformers", "peft"), f"{room} never imports {module}"


def test_no_module_imports_itself_by_a_detour() -> None:
    try:
        tuple(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        # graphlib names a circle from imported to importing.
        circle = " imports ".join(reversed(error.args[1]))
        pytest.fail(f"a circle of imports: {circle}. Move what they share into a module below both.")


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_what_is_public(room: str) -> None:
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert ast.get_docstring(tree), f"{room}/__init__.py has no docstring"
    assigned = {
        ast.unparse(target)
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    assert "__all__" in assigned, f"{room}/__init__.py has no __all__"


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_a_public_name_is_no_module_beside_it(room: str) -> None:
    """A lazy name that is also a module's name would become that module as soon as somebody imports it."""
    (found,) = (
        node.value
        for node in ast.parse((PACKAGE / room / "__init__.py").read_text()).body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if ast.unparse(target) == "__all__"
    )
    beside = {path.stem for path in (PACKAGE / room).iterdir()}
    # `meta` binds its function after its module is loaded, which the next test tries out.
    assert set(ast.literal_eval(found)) & beside == ({"evaluate"} if room == "meta" else set())


@pytest.mark.long
@pytest.mark.parametrize("room", ["", *ROOMS])
def test_public_names_are_what_they_say_whatever_was_imported_before(room: str) -> None:
    package = f"metascale.{room}".rstrip(".")
    code = (
        f"import importlib, pkgutil, types, {package} as face\n"
        "for found in pkgutil.iter_modules(face.__path__, face.__name__ + '.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "assert [] == [name for name in face.__all__ if not hasattr(face, name)]\n"
        "wrong = [name for name in face.__all__ if isinstance(getattr(face, name), types.ModuleType)]\n"
        "assert wrong == [], f'a module took the place of {wrong}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
        "import sys; from metascale.workflow.recipe import SHIPPED, load_recipe;"
        "[load_recipe(name).study() for name in SHIPPED]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "pydantic", "typer", "rich", "jinja2", "yaml", "psutil", "optuna")


def test_importing_the_package_loads_next_to_nothing() -> None:
    """Guards the import time by what is loaded: torch alone takes seconds, these three modules milliseconds."""
    code = (
        "import sys, metascale; ours = sorted(name for name in sys.modules if name.startswith('metascale'));"
        f"print(ours, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['metascale', 'metascale.core', 'metascale.core.lazy'] []"


def test_the_law_half_of_the_public_face_works_without_torch() -> None:
    code = (
        "import sys, metascale as ms;"
        "ms.fit, ms.forecast, ms.backtest, ms.optimum, ms.read_table, ms.Study, ms.laws.grouped, ms.study.run_study;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def faces() -> list[Path]:
    """Files of packages that offer names lazily."""
    return [path for path in MODULES.values() if path.name == "__init__.py" and "= lazy(" in path.read_text()]


@pytest.mark.parametrize("path", faces(), ids=lambda path: path.parent.name)
def test_a_lazy_face_imports_for_type_checkers_what_it_names(path: Path) -> None:
    package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    run_time = {name for taken in imports_of(path) for name in taken.names}
    imported = {
        name
        for taken in imports_of(path, typing_too=True)
        if taken.module != package
        for name in taken.names
        if name not in run_time
    }
    assert imported == {*importlib.import_module(package).__all__}
