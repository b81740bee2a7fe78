"""What a recipe is, for people and programs: its question, data, profiles, and every key with meaning and range."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from metascale.core.canonical import plain
from metascale.workflow.config import TrialConfig
from metascale.workflow.recipe import Profile, Recipe

_NO_LIMIT = 1e6
"""Upper bounds from here on only keep nonsense out."""


@dataclass(frozen=True)
class Key:
    """A key of a recipe's configuration.

    Args:
        meaning: from the docstring of its class; empty where that does not name it.
        default: the recipe's, where the key does not vary.
        allowed: its type and range, in words.
        profiles: what each profile sets it to, or varies it over.
        own: whether the recipe's own class declares it.
    """

    name: str
    meaning: str
    default: object
    allowed: str
    profiles: Mapping[str, object]
    own: bool


@dataclass(frozen=True)
class Description:
    """A recipe in plain values. ``header`` is what its file says of command, data, hardware, time and results."""

    name: str
    title: str
    question: str
    header: Mapping[str, str]
    axes: Mapping[str, object]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    profiles: Mapping[str, Mapping[str, object]]
    keys: tuple[Key, ...]


def describe(recipe: Recipe[TrialConfig]) -> Description:
    """Everything about a recipe that a user may want to know before a study; nothing is run or read but its code."""
    profiles = {
        name: {
            "about": one.about,
            "values": plain(values_of(recipe, one)),
            "axes": plain(dict(recipe.axes if one.axes is None else one.axes)),
            "seeds": list(one.seeds or recipe.seeds),
            **({"question": one.question} if one.question else {}),
        }
        for name, one in recipe.profiles.items()
    }
    baselines = tuple(str(one.get("method", one)) for one in recipe.baselines)
    return Description(
        recipe.name,
        recipe.title,
        recipe.question,
        _header(inspect.getdoc(recipe.module) or ""),
        plain(dict(recipe.axes)),
        tuple(recipe.seeds),
        baselines,
        profiles,
        tuple(_keys(recipe)),
    )


def values_of(recipe: Recipe[TrialConfig], profile: Profile) -> dict[str, object]:
    """What a profile sets, and the defaults that its values bring with them."""
    brought = {key: value for one in recipe.following(profile.values) for key, value in one.values.items()}
    return {**brought, **profile.values}


def _keys(recipe: Recipe[TrialConfig]) -> Iterator[Key]:
    hints = get_type_hints(recipe.config, include_extras=True)
    meanings = _meanings(recipe.config)
    own = vars(recipe.config).get("__annotations__", {})
    fields = dataclasses.fields(recipe.config)
    for one in sorted(fields, key=lambda one: one.name not in own):
        varied = {
            name: (profile.axes or {}).get(one.name, values_of(recipe, profile).get(one.name))
            for name, profile in recipe.profiles.items()
            if one.name in (profile.axes or {}) or one.name in values_of(recipe, profile)
        }
        default = recipe.defaults.get(one.name, one.default)
        yield Key(
            one.name,
            meanings.get(one.name, ""),
            plain(default),
            allowed(hints[one.name]),
            plain(varied),
            one.name in own,
        )


def _header(doc: str) -> dict[str, str]:
    """``Data:       text`` and the indented lines under it, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in doc.splitlines():
        begin = re.match(r"([A-Z][a-z]+):\s+(.*)", line)
        if begin:
            name = begin[1]
            found[name] = begin[2].strip()
        elif name and line.startswith("  "):
            found[name] += f"\n{line.strip()}" if name == "Command" else f" {line.strip()}"
        else:
            name = ""
    return found


def _meanings(kind: type[TrialConfig]) -> dict[str, str]:
    """What the ``Args:`` of a class and of its bases say of each key."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        for names, text in _arguments(inspect.cleandoc(vars(owner).get("__doc__") or "")):
            found |= dict.fromkeys(names, text)
    return found


def _arguments(doc: str) -> Iterator[tuple[list[str], str]]:
    entries: list[list[str]] = []
    for line in doc.partition("Args:\n")[2].splitlines():
        if line.strip() and not line.startswith("    "):
            break
        if re.match(r"    \S", line):
            entries.append([line.strip()])
        elif line.strip() and entries:
            entries[-1].append(line.strip())
    for lines in entries:
        names, _, text = " ".join(lines).partition(": ")
        yield [name.strip() for name in names.split(",")], re.sub(r"``\"?([^`\"]*)\"?``", r"\1", text)


def allowed(hint: object) -> str:
    """The values that an annotation allows, in words.

    Example:
        >>> allowed(Literal["sgd", "adam"] | None)
        'sgd or adam; or none'
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{allowed(parts[0])}{_bounds(parts[1:])}"
    if origin in (Union, UnionType):
        some = [allowed(part) for part in parts if part is not NoneType]
        return " or ".join(some) + ("; or none" if NoneType in parts else "")
    if origin is Literal:
        names = [str(part) for part in parts]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    if origin is tuple:
        return f"a list, each {allowed(parts[0])}"
    words: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(hint, str(getattr(hint, "__name__", hint)))


def _bounds(marks: tuple[object, ...]) -> str:
    """``" above 0, at most 1"`` of the marks of an annotation."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = []
    for mark in marks:
        for part in getattr(mark, "metadata", (mark,)):
            limits = [(word, getattr(part, name)) for name, word in words.items() if hasattr(part, name)]
            found += [f"{word} {limit:g}" for word, limit in limits if limit < _NO_LIMIT]
    return " " + ", ".join(found) if found else ""
