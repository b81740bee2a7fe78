"""Optional dependencies, checked at the point of use."""

from __future__ import annotations

import importlib
import importlib.util
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
        raise missing(str(error.name), extra, purpose) from error


def require_installed(module: str, extra: str, purpose: str) -> None:
    """Check that a top-level ``module`` is installed, without importing it.

    Raises:
        MissingDependency: the module is not installed; the message holds the install line.
    """
    if importlib.util.find_spec(module) is None:
        raise missing(module, extra, purpose)


def missing(package: str, extra: str, purpose: str) -> MissingDependency:
    """The error of an absent ``package``, with the line that installs it."""
    return MissingDependency(
        f"{purpose} needs the package '{package}'; install it with: pip install 'metascale[{extra}]'"
    )
