"""What a component does where nothing is said: a changed default changes results without a word."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import FunctionType
from typing import Any


def defaults(component: type) -> dict[str, Any]:
    """The fields of a dataclass that have a default, but those that hold a function."""
    found = {}
    for field in fields(component):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if default is not MISSING and not isinstance(default, FunctionType) and not field.name.startswith("_"):
            found[field.name] = default
    return found
