"""Study files: a recipe, seeds, roles and values in commented YAML, which `metascale init` writes and `run` reads."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.workflow.config import TrialConfig
from metascale.workflow.describe import Key, describe, values_of
from metascale.workflow.recipe import Recipe

SUFFIXES = (".yaml", ".yml")
KEYS: Mapping[str, str] = {
    "recipe": "a recipe's name or file, or a function as PATH.py:FUNCTION",
    "command": "instead of a recipe, a program",
    "profile": "a variant of the recipe",
    "seeds": "training seeds: a list, or a text such as 0-4",
    "values": "the configuration; a list makes an axis",
    "scale": "the axis or column that the law runs along; two of them: a law in both",
    "series": "axes that are compared, a law for each value",
    "best_of": "axes of which the best value counts, by validation",
    "loss": "own function or program: the column of its results to fit",
    "units": "own function or program: the unit of the loss",
    "better": "own function or program: lower or higher",
    "baselines": "false: no baselines beside the learner",
}
"""What a study file may hold; each is an option of `metascale run` too, and that one wins."""


def study_text(recipe: Recipe[TrialConfig], profile: str | None = None, how: str = "") -> str:
    """A study file of ``recipe``: its axes and seeds as they are, every other key in a comment with meaning and range.

    Args:
        how: a line for its head that says how it is run.

    Raises:
        InputError: the recipe has no such profile.
    """
    known = describe(recipe)
    chosen = recipe.profile(profile)
    axes = dict(recipe.axes if chosen.axes is None else chosen.axes)
    lines = [*_comment(f"{recipe.name}: {recipe.title}."), *_comment(chosen.question or recipe.question)]
    for name in ("Data", "Hardware", "Took"):
        lines += _comment(f"{name}: {known.header[name]}") if name in known.header else []
    lines += ["#", f"# {how}", ""] if how else [""]
    lines += [f"recipe: {recipe.source or recipe.name}"]
    lines += [f"profile: {profile}"] if profile else []
    lines += [f"seeds: {_yaml(list(chosen.seeds or recipe.seeds))}"]
    for name in ("scale", "series", "best_of"):
        lines += [*_comment(KEYS[name]), f"# {name}: [{next(iter(axes), 'KEY')}]"]
    lines += ["", "values:", *_comment("what varies: each list is an axis", 2)]
    lines += [f"  {name}: {_yaml(list(values))}" for name, values in axes.items()]
    lines += ["", *_comment("what stays the same; the values are the defaults, so a line counts when its # is gone", 2)]
    values = values_of(recipe, chosen)
    for key in known.keys:
        if key.name not in axes:
            lines += _key(key, values.get(key.name, key.default))
    return "\n".join(lines) + "\n"


def checked(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a study file holds, its lists as lists.

    Raises:
        InputError: an unknown key, no recipe or program, or a value of another kind.
    """
    for key in found:
        if key not in KEYS:
            near = suggest(key, KEYS, "a study file has")
            raise InputError(f"{where} has the key '{key}'; {near}; keys of the recipe stand under values", field=key)
    if ("recipe" in found) == ("command" in found):
        raise InputError(f"{where} names neither a recipe nor a command, or both; give one of them", field="recipe")
    kinds: dict[str, tuple[type, ...]] = {"values": (dict, type(None)), "baselines": (bool,), "seeds": (list, str, int)}
    kinds |= dict.fromkeys(("scale", "series", "best_of"), (list, str))
    for key, value in found.items():
        if not isinstance(value, kinds.get(key, (str,))):
            raise InputError(f"{where}: '{key}' is not {KEYS[key]}: {value!r}", field=key, value=value)
    lists = {
        key: [value] for key, value in found.items() if key in ("scale", "series", "best_of") and isinstance(value, str)
    }
    return {**found, **lists}


def _key(key: Key, value: object) -> list[str]:
    said = f"{(key.meaning or key.name).rstrip('.')} ({key.allowed})"
    return ["", *_comment(said, 2), f"  # {key.name}: {_yaml(value)}"]


def _comment(text: str, indent: int = 0) -> list[str]:
    return [f"{' ' * indent}# {line}" for line in textwrap.wrap(text, 100)]


def _yaml(value: object) -> str:
    """On one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
