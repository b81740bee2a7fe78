"""The options of every command with their defaults, as a table that lasts: scripts are written with them.

python -m tests.test_cli_options    writes the table anew, after an option was changed on purpose
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from metascale.cli.main import app

TABLE = Path(__file__).with_name("cli_options.json")


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield f"{prefix}{name}", one
            yield from commands(one, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", one


def plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def option(one: Any) -> list[Any]:
    """Names, default, and what is not as Typer has it by itself."""
    default = one.default.value if isinstance(one.default, enum.Enum) else one.default
    names = ("required", "multiple", "is_flag", "min", "max", "metavar", "hidden")
    said = {name: getattr(one, name, None) for name in names} | {
        "no default shown": getattr(one, "show_default", True) is False,
        "completes": bool(getattr(one, "_custom_shell_complete", None)),
        "no help": not getattr(one, "help", None),
    }
    return [[*one.opts, *one.secondary_opts], plain(default), {name: value for name, value in said.items() if value}]


def options() -> dict[str, Any]:
    group = typer.main.get_command(app)
    found = {"": [[option(one) for one in group.params], group.no_args_is_help]}
    for name, one in commands(group):
        found[name] = [[option(each) for each in one.params], one.no_args_is_help]
    return dict(json.loads(json.dumps(found)))


def test_the_options_of_commands_last() -> None:
    changed = "an option has changed; where that was meant: python -m tests.test_cli_options"
    assert options() == json.loads(TABLE.read_text()), changed
    assert typer.main.get_command(app).name == "metascale"  # in every line of usage


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in options().items()]
    TABLE.write_text("{{\n{}\n}}\n".format(",\n".join(lines)))
