"""Packages whose public names load their modules only when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import cache


def lazy(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``, which offers what its ``__init__.py`` imports for type checkers.

    So a name is written where it comes from, once, and in ``__all__``. None may be called like a module of the
    package: importing that module would put it in the name's place.

    Example::

        if TYPE_CHECKING:
            from metascale.meta.gradients import MAML

        __all__ = ["MAML"]
        __getattr__, __dir__ = lazy(__name__)
    """

    @cache
    def homes() -> Mapping[str, str]:
        return _imports_for_type_checkers(package)

    def __getattr__(name: str) -> object:
        home = homes().get(name)
        if home is None:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        if home == package:
            return importlib.import_module(f"{package}.{name}")
        try:
            module = importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            from metascale.core.optional import missing

            raise missing("torch", "torch", f"{package}.{name}") from error
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes()})

    return __getattr__, __dir__


def _imports_for_type_checkers(package: str) -> dict[str, str]:
    """The module of each name that a package imports under ``TYPE_CHECKING``; for its own modules, the package."""
    import ast
    from importlib.resources import files

    source = files(package).joinpath("__init__.py").read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    checked = [node for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING" for node in block.body]
    froms = [node for node in checked if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in froms for alias in node.names}
