"""The library speaks of arguments, the command line of flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from metascale.cli.flags import flags_of, keys_of, sentence
from metascale.core.errors import InputError, MissingDependency

FLAGS = {"executor": "--executor", "hang_after": "--hang-after", "values": "--set", "out_dir": "--out"}


@pytest.mark.parametrize(
    ("error", "keys", "said"),
    [
        (InputError("executor is one of a, b", field="executor"), [], "--executor is one of a, b"),
        (InputError("`hang_s` goes with `executor` ray"), [], "--hang-after goes with --executor ray"),
        (MissingDependency("`executor` ray needs 'ray'"), [], "--executor ray needs 'ray'"),
        (
            InputError("outer_lr must be positive", field="outer_lr"),
            ["outer_lr"],
            "--set outer_lr=... must be positive",
        ),
        (InputError("outer_lr=-1: too small", field="outer_lr"), ["outer_lr"], "--set outer_lr=-1: too small"),
        (InputError("outer_lr must be positive", field="outer_lr"), [], "outer_lr must be positive"),
        (InputError("give `path`, a CSV file"), [], "give --set path=..., a CSV file"),
        (InputError("`path`=FILE is needed"), [], "--set path=FILE is needed"),
        (InputError("there is no key 'executor'", field="executor"), [], "there is no key 'executor'"),
        (InputError("out /x is a file", field="out"), [], "--out /x is a file"),
        (InputError("the executors are a, b", field="executor"), [], "the executors are a, b"),
    ],
)
def test_names_become_flags(error: Exception, keys: list[str], said: str) -> None:
    assert sentence(error, FLAGS, keys) == said


def test_a_command_without_set_leaves_keys_alone() -> None:
    assert sentence(InputError("`path` is no file", field="path"), {}, ["path"]) == "path is no file"


def test_flags_are_those_of_the_command_typed() -> None:
    from metascale.cli.main import app

    assert flags_of(app, ["run", "digits", "--out", "x"])["hang_after"] == "--hang-after"
    assert set(flags_of(app, ["data", "get", "minst"]).values()) == {"--data-dir", "--json", "--quiet"}
    assert flags_of(app, ["export", "x"])["kind"] == "--format"
    assert set(flags_of(app, ["no-such-command"])) <= {"version", "install_completion", "show_completion"}


def test_keys_are_those_of_set() -> None:
    assert keys_of(["run", "digits", "--set", "a=1", "--set=b=[1,2]", "--out", "x"]) == ["a", "b"]


PACKAGE = Path(__file__).parent.parent / "src" / "metascale"
FLAG = re.compile(r"(?<![\w-])--[a-z]")
ONE_ARGUMENT = re.compile(r" ?--[a-z-]+(=\S*)? ?")
"""An item of a command line that a module hands to another program or records: no sentence."""


def literals(path: Path) -> list[str]:
    """The texts of a module, f-strings piece by piece, without the header of a recipe."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    header = tree.body[0] if path.parent.name == "recipes" and ast.get_docstring(tree) else None
    header_texts = [] if header is None else [id(node) for node in ast.walk(header)]
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in header_texts]
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "cli"],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_no_message_of_the_library_names_a_flag(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    said = [text for text in literals(path) if FLAG.search(text) and not ONE_ARGUMENT.fullmatch(text)]
    assert said == [], f"{name} speaks of flags; say the argument, as `argument` or by InputError(field=...)"
