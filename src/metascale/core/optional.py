"""Optional dependencies, asked for at the point of use."""

from __future__ import annotations

import importlib
from types import ModuleType

from metascale.core.errors import MissingDependency


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or say which extra installs it.

    Raises:
        MissingDependency: the module is not installed; the message holds the install line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise MissingDependency(
            f"{purpose} needs the package '{error.name}'; install it with: pip install 'metascale[{extra}]'"
        ) from error
