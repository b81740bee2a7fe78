"""Packages whose public names load their modules only when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping


def lazy(
    package: str, names: Mapping[str, str], subpackages: tuple[str, ...] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``, which offers each of ``names`` from the module it is mapped to.

    The package writes the same names under ``TYPE_CHECKING``, for type checkers and editors, and in ``__all__``. None
    may be called like a module of the package: importing that module would put it in the name's place.

    Args:
        subpackages: packages inside ``package`` that are imported when they are first named.

    Example:
        ``__getattr__, __dir__ = lazy(__name__, {"MAML": "metascale.meta.gradients"})``
    """

    def __getattr__(name: str) -> object:
        if name in subpackages:
            return importlib.import_module(f"{package}.{name}")
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(importlib.import_module(names[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, *subpackages})

    return __getattr__, __dir__
