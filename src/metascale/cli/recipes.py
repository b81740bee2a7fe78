"""The commands about recipes: list them, describe one, write a study file of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from metascale.cli import complete
from metascale.cli.answer import give
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.workflow.describe import Description, Key

out = Console()


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe, or a Python file that defines one.", autocompletion=complete.recipes)
    ] = None,
) -> None:
    """List the ready-made studies, or say all about one: question, data, time, profiles, every key."""
    if name is None:
        _list()
        return
    from metascale.workflow.describe import describe
    from metascale.workflow.recipe import load_recipe

    recipe = load_recipe(name)
    found = describe(recipe)
    give(
        **{one: getattr(found, one) for one in type(found).__dataclass_fields__},
        data_sets=recipe.data_sets_of({}),
    )
    _print(found, ", ".join(recipe.data_sets_of({})))


def init(
    recipe: Annotated[
        str, typer.Argument(help="A recipe, or a Python file that defines one.", autocompletion=complete.recipes)
    ],
    file: Annotated[Path, typer.Option("--out", help="The study file to write.")] = Path("study.yaml"),
    profile: Annotated[
        str | None, typer.Option(help="A variant of the recipe.", autocompletion=complete.profiles)
    ] = None,
) -> None:
    """Write a study file: a commented YAML with every key, which `metascale run FILE` runs."""
    from metascale.core.files import write_atomic
    from metascale.workflow.recipe import load_recipe
    from metascale.workflow.study_file import SUFFIXES, study_text

    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"`out` {file} is no study file: its name ends in .yaml or .yml", field="out", value=str(file))
    how = f"metascale run {file.name} --out runs/{file.stem}        (with --dry-run: what it costs)"
    text = study_text(load_recipe(recipe), profile, how)
    if file.exists():
        raise InputError(f"`out` {file} is there already; give another name", field="out", value=str(file))
    try:
        write_atomic(file, text)
    except OSError as error:
        raise InputError(f"`out` {file} cannot be written: {error.strerror}", field="out") from error
    give(out=file)
    out.print(Text(f"wrote {file}; edit it, then: metascale run {file} --out runs/{file.stem}"), soft_wrap=True)


def _list() -> None:
    from metascale.workflow.recipe import load_recipe, recipe_names

    table = Table("recipe", "what it is", "profiles", "data")
    found: list[dict[str, object]] = []
    for name in recipe_names():
        try:
            recipe = load_recipe(name)
        except InputError as error:  # one broken package hides no other recipe
            found.append({"name": name, "error": str(error)})
            table.add_row(name, str(error), "-", "-")
            continue
        data = recipe.data_sets_of({})
        found.append({"name": name, "title": recipe.title, "profiles": list(recipe.profiles), "data": data})
        table.add_row(name, recipe.title, "\n".join(recipe.profiles) or "-", ", ".join(data) or "-")
    give(recipes=found)
    out.print(table)
    out.print("metascale recipes NAME says all about one", highlight=False)


def _print(found: Description, data_sets: str) -> None:
    out.print(Text(f"{found.name}: {found.title}", style="bold"))
    out.print(Text(found.question))
    for name, text in {**found.header, "Data sets": data_sets or "none to download"}.items():
        out.print(Padding(Text(f"{name}: {text}"), (0, 0, 0, 2)))
    out.print(Padding(Text(f"Varied: {_values(found.axes)}; seeds {list(found.seeds)}"), (0, 0, 0, 2)))
    if found.baselines:
        out.print(Padding(Text(f"Beside it: {', '.join(found.baselines)}"), (0, 0, 0, 2)))
    for name, profile in found.profiles.items():
        out.print(Text(f"--profile {name}: {profile['about']}", style="bold"))
        out.print(Padding(Text(f"varied: {_values(profile['axes'])}; seeds {profile['seeds']}"), (0, 0, 0, 2)))
    for own, heading in ((True, "keys of this recipe (--set KEY=VALUE)"), (False, "keys that other recipes have too")):
        chosen = [key for key in found.keys if key.own is own]
        if chosen:
            out.print(Text(heading, style="bold"))
        for key in chosen:
            _print_key(key)


def _print_key(key: Key) -> None:
    line = Text(key.name, style="bold").append(f" = {_value(key.default)}", style="not bold")
    out.print(line.append(f"   {key.allowed}", style="not bold dim"))
    said = [key.meaning] if key.meaning else []
    said += [f"{name}: {_value(value)}" for name, value in key.profiles.items()]
    for text in said:
        out.print(Padding(Text(text), (0, 0, 0, 4)))


def _values(axes: object) -> str:
    pairs = axes.items() if isinstance(axes, Mapping) else ()
    return ", ".join(f"{key} in {_value(value)}" for key, value in pairs) or "nothing"


def _value(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) and value else json.dumps(value)
