"""What the shell offers after TAB: recipes, profiles, keys and runs. Nothing here loads torch."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from metascale.core.errors import MetascaleError

if TYPE_CHECKING:
    from metascale.workflow.recipe import Recipe

_MOST = 200
_WIDTH = 70
"""Of what is said beside a name: Typer breaks lines at 80, and a shell takes the next line for a name of its own."""


def recipes(incomplete: str) -> Iterator[tuple[str, str]]:
    """Recipes by name, with their titles; the shell itself offers files."""
    from metascale.workflow.recipe import load_recipe, recipe_names

    for name in recipe_names():
        if name.startswith(incomplete.replace("-", "_")):
            try:
                yield name, _line(load_recipe(name).title)
            except MetascaleError:  # one broken package hides no other recipe
                yield name, ""


def profiles(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Profiles of the recipe that was typed before."""
    recipe = _recipe(ctx)
    for name, one in recipe.profiles.items() if recipe else ():
        if name.startswith(incomplete):
            yield name, _line(one.about)


def settings(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """``key=`` of the recipe that was typed before, then its values where they are a choice."""
    recipe = _recipe(ctx)
    if recipe is None:
        return
    from metascale.workflow.describe import describe

    typed, sign, value = incomplete.partition("=")
    known = describe(recipe).keys
    if sign:
        for choice in (choice for key in known if key.name == typed for choice in _choices(key.allowed)):
            if choice.startswith(value):
                yield f"{typed}={choice}", ""
        return
    found = [key for key in known if key.name.startswith(typed)]
    for key in found:
        yield f"{key.name}=", _line(key.meaning.partition(";")[0])
        if len(found) == 1 or key.name == typed:  # a second candidate keeps a shell from adding a space after the sign
            yield f"{key.name}={_short(key.default)}", "the default"


def keys(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Keys of the recipe that was typed before."""
    recipe = _recipe(ctx)
    for one in dataclasses.fields(recipe.config) if recipe else ():
        if one.name.startswith(incomplete):
            yield one.name


def runs(incomplete: str) -> Iterator[str]:
    """Run folders of a study, as STUDY/runs/NAME; folders on the way there."""
    place = Path(incomplete).expanduser()
    inside = incomplete.endswith("/") or (place / "study.json").is_file()
    above, start = (place, "") if inside else (place.parent, place.name)
    if (above / "study.json").is_file() and (start == "" or "runs".startswith(start)):
        above, start = above / "runs", ""
    if not above.is_dir():
        return
    found = (one for one in sorted(above.iterdir()) if one.is_dir() and one.name.startswith(start))
    for one, _ in zip((one for one in found if not one.name.startswith(".")), range(_MOST), strict=False):
        yield str(one) if above.name == "runs" else f"{one}/"


def _recipe(ctx: typer.Context) -> Recipe | None:  # type: ignore[type-arg]
    from metascale.workflow.own import is_function
    from metascale.workflow.recipe import is_file, load_recipe

    # An option that waits for its value leaves what was typed before it unparsed.
    name = ctx.params.get("recipe") or next((word for word in ctx.args if not word.startswith("-")), None)
    # A file is not run for a press of TAB.
    if not name or is_function(name) or is_file(name):
        return None
    try:
        return load_recipe(name)
    except MetascaleError:
        return None


def _choices(allowed: str) -> list[str]:
    if allowed.startswith(("a ", "true")):
        return ["true", "false"] if allowed.startswith("true") else []
    return allowed.partition(";")[0].replace(" or ", ", ").split(", ")


def _line(text: str) -> str:
    return textwrap.shorten(text, _WIDTH, placeholder="…")


def _short(value: object) -> str:
    import json

    return json.dumps(value, separators=(",", ":"))
