"""What the command-line library refuses: as JSON where asked, and translated where another program has the name."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from metascale.cli.answer import ask, give_error
from metascale.cli.flags import NAMES
from metascale.core.errors import InputError, MetascaleError

if TYPE_CHECKING:
    from metascale.workflow.recipe import Recipe

# Typer brings a copy of click with it, or depends on click: its own classes lead to whichever it is.
_USAGE: type[Exception] = next(one for one in typer.BadParameter.__mro__ if one.__name__ == "UsageError")


class Group(TyperGroup):
    """All commands: with ``--json``, a usage error (an unknown command or option, an argument missing) is JSON too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ask(args)
        with _usage_as_json():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _usage_as_json():
            return super().invoke(ctx)


class Command(TyperCommand):
    """A command that translates an unknown option where it can; else the command-line library says what it always says.

    Raises:
        InputError: an option that is called otherwise here, or is given by ``--set``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except _USAGE as error:
            option = getattr(error, "option_name", None)
            if type(error).__name__ != "NoSuchOption" or not option or ctx.resilient_parsing:
                raise
            flags = {one.name: max(one.opts, key=len) for one in self.params if one.param_type_name == "option"}
            said = translated(str(option), typed, flags, getattr(error, "possibilities", None) or ())
            if not said:
                raise
            raise InputError(f"there is no option {option}; {said}", field=_plain(str(option))) from error


def translated(option: str, typed: Sequence[str], flags: Mapping[str, str], near: Sequence[str] = ()) -> str:
    """What ``option`` is called here: ``here it is --set outer_lr=0.1``; empty where that is not known.

    Args:
        typed: the words of the command.
        flags: the flags of the command by parameter (`metascale.cli.flags.flags_of`).
        near: options of the command that have nearly this name.
    """
    from metascale.workflow.foreign import THEIRS, hint

    plain = _plain(option)
    own = [flags[NAMES[key]] for key in (plain, *THEIRS.get(plain, ())) if NAMES.get(key) in flags]
    if "values" not in flags:
        return f"here it is {own[0]}" if own else ""
    value, recipe = _value_of(option, typed), _recipe(typed)
    keys = [one.name for one in dataclasses.fields(recipe.config)] if recipe else []
    if plain in keys:
        return f"it is a key of the configuration: --set {plain}={value}"
    own_code = recipe is None and _is_own(typed)
    here = [] if own_code else [key for key in THEIRS.get(plain, ()) if not keys or key in keys]
    if here:
        return f"here it is {' or '.join(f'--set {key}={value}' for key in here)}"
    if own_code and (plain in THEIRS or not hint(plain, ())):
        others = f" (options of nearly this name: {', '.join(near)})" if near else ""
        return f"a key of your own function or program is given by --set {plain}={value}{others}"
    return hint(plain, keys)


@contextlib.contextmanager
def _usage_as_json() -> Iterator[None]:
    try:
        yield
    except _USAGE as error:
        give_error(" ".join(error.format_message().split()), error, 2)  # type: ignore[attr-defined]
        raise


def _plain(option: str) -> str:
    return option.lstrip("-").partition("=")[0].replace("-", "_")


def _value_of(option: str, typed: Sequence[str]) -> str:
    """The value that was given with the option, so that what is said can be typed; else dots."""
    for place, word in enumerate(typed):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and place + 1 < len(typed) and not typed[place + 1].startswith("--"):
            return typed[place + 1]
    return "..."


def _recipe(typed: Sequence[str]) -> Recipe[Any] | None:
    """The recipe of an installed package among the words; a file is not run for a hint."""
    from metascale.workflow.recipe import load_recipe, recipe_names

    found = next((name for word in typed if (name := word.replace("-", "_")) in recipe_names()), None)
    try:
        return load_recipe(found) if found else None
    except MetascaleError:
        return None


def _is_own(typed: Sequence[str]) -> bool:
    from metascale.workflow.own import is_function

    return any(word == "--command" or word.startswith("--command=") or is_function(word) for word in typed)
