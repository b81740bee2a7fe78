"""Where tables come from besides files and objects in memory: readers of other programs' runs, by prefix or by folder.

They stand in rooms above this one, or in packages of users, so they are named and not imported: a reader is loaded when
a source asks for it. It is ``(source) -> (columns, name, notes)``, one row a run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError

Reader = Callable[[str], tuple[Mapping[str, Sequence[Any]], str, Sequence[str]]]

_OWN = "metascale.integrations.sources.read:read_columns"
SOURCES: dict[str, str] = dict.fromkeys(("wandb", "mlflow", "optuna", "tensorboard", "trainer", "lightning"), _OWN)
"""By prefix (``wandb:entity/project``), the address of a reader as ``package.module:function``."""
_LOG_NAMES = ("trainer_state.json",)


def register_source(prefix: str, address: str) -> None:
    """Let `read_table` read ``PREFIX:...`` with the function at ``package.module:function``.

    Raises:
        InputError: the prefix is one letter (a drive) or no name, or the address has no function.
    """
    if len(prefix) < 2 or not prefix.isidentifier():
        raise InputError(f"a prefix is a name of two letters or more, not '{prefix}'", field="prefix", value=prefix)
    if address.count(":") != 1 or not all(address.split(":")):
        raise InputError(f"'{address}' is no package.module:function", field="address", value=address)
    SOURCES[prefix] = address


def reader_of(source: str | Path) -> Reader | None:
    """The reader of a source; None where it is to be read as a table."""
    prefix, colon, _ = str(source).partition(":")
    if colon and prefix in SOURCES and not Path(source).is_file():
        return _load(SOURCES[prefix])
    path = Path(source).expanduser()
    is_log = path.name in _LOG_NAMES or path.suffix == ".wandb" or "tfevents" in path.name
    return _load(_OWN) if path.is_dir() or (is_log and path.is_file()) else None


def _load(address: str) -> Reader:
    module, _, name = address.partition(":")
    reader: Reader = getattr(importlib.import_module(module), name)
    return reader
