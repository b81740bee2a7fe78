"""Which reader a source is for: its prefix says it, or what a file or folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.integrations.sources.lightning import METRICS, is_metrics, read_lightning
from metascale.integrations.sources.mlflow import read_mlflow
from metascale.integrations.sources.optuna import read_optuna
from metascale.integrations.sources.places import find
from metascale.integrations.sources.runs import Columns, Imported
from metascale.integrations.sources.tensorboard import is_events, read_tensorboard
from metascale.integrations.sources.trainer import STATE, is_state, read_trainer
from metascale.integrations.sources.wandb import is_wandb, read_offline, read_wandb


def _of_path(read: Callable[[Path], Imported]) -> Callable[[str], Imported]:
    def checked(source: str) -> Imported:
        path = Path(source).expanduser()
        if not path.exists():
            raise InputError(f"there is no file or folder '{source}'", value=source)
        return read(path)

    return checked


READERS: dict[str, Callable[[str], Imported]] = {
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "optuna": read_optuna,
    "tensorboard": _of_path(read_tensorboard),
    "trainer": _of_path(read_trainer),
    "lightning": _of_path(read_lightning),
}
"""By prefix: ``wandb:entity/project``."""

_LOGS: dict[str, tuple[Callable[[str], bool], Callable[[Path], Imported]]] = {
    "wandb": (is_wandb, read_offline),
    "tensorboard": (is_events, read_tensorboard),
    "trainer": (is_state, read_trainer),
    "lightning": (is_metrics, read_lightning),
}


def read_source(source: str | Path) -> Imported:
    """The runs of another program.

    Args:
        source: ``PREFIX:PLACE`` (`READERS`), or a file or folder whose content says what it is.

    Raises:
        InputError: nothing that is known, or several kinds of logs in one folder.
        MissingDependency: the source needs a package that is not installed.
    """
    text = str(source)
    prefix, colon, place = text.partition(":")
    if colon and prefix in READERS:
        if not place:
            raise InputError(f"'{text}' names no place after '{prefix}:'", field="source", value=text)
        return READERS[prefix](place)
    path = Path(text).expanduser()
    if not path.exists():
        hint = suggest(prefix, READERS, "prefixes are") if colon else f"prefixes are {', '.join(READERS)}"
        if place.startswith("//"):
            hint = f"the address of a database or server takes one, as in optuna:{text} or mlflow:{text}"
        raise InputError(f"there is no file or folder '{text}', and no such prefix; {hint}", field="source", value=text)
    kinds = kinds_of(path)
    if len(kinds) == 1:
        return _LOGS[kinds[0]][1](path)
    if kinds:
        told = " or ".join(f"{kind}:{text}" for kind in kinds)
        raise InputError(f"'{text}' holds logs of {' and '.join(kinds)}; say which: {told}", field="source", value=text)
    what = "is a folder that holds" if path.is_dir() else "holds"
    raise InputError(
        f"'{text}' {what} no runs that are known: *.wandb, *tfevents*, {STATE} or {METRICS}; give a table in it, or a "
        "prefix for a database or server, such as mlflow: or optuna:",
        field="source",
        value=text,
    )


def kinds_of(path: Path) -> list[str]:
    """The kinds of logs that a file is, or a folder holds, as prefixes."""
    if path.is_file():
        return [kind for kind, (is_one, _) in _LOGS.items() if is_one(path.name)]
    found = find(path, lambda name: any(is_one(name) for is_one, _ in _LOGS.values()))
    return [kind for kind, (is_one, _) in _LOGS.items() if any(is_one(file.name) for file in found)]


def read_columns(source: str) -> tuple[Columns, str, tuple[str, ...]]:
    """What `metascale.laws.read_table` asks for: columns with one row a run, the source's name, and the notes."""
    found = read_source(source)
    return found.table(), found.source, tuple(found.notes)
