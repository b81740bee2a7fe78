"""From a configuration to the arguments of a few-shot task source, and to a text backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.workflow.config import FewShotConfig


def source_fields(config: FewShotConfig, seed: int) -> dict[str, Any]:
    """The fields that every few-shot source shares. A baseline's ``n_tasks`` does not matter; it may be endless."""
    return {
        "n_way": config.n_way,
        "k_shot": config.k_shot,
        "n_query": config.n_query,
        "n_train_tasks": config.n_tasks,
        "n_validation_tasks": config.n_validation_tasks,
        "n_test_tasks": config.n_test_tasks,
        "seed": seed,
        "n_train_classes": config.n_train_classes,
        "labels": config.labels,
        "classes": config.classes,
    }


def data_dir() -> Path:
    """The folder of data sets named by ``--data-dir`` or ``METASCALE_DATA``.

    Raises:
        InputError: neither is set.
    """
    named = os.environ.get("METASCALE_DATA")
    if not named:
        raise InputError("no data folder is named; pass --data-dir DIR or set METASCALE_DATA")
    return Path(named)


ALIASES = {"gpt2-small": "gpt2"}
"""Other names of known backbones."""


def check_backbone(name: str) -> None:
    """Refuse a backbone that is named as a folder and is none; a hub name is left to the loader.

    Raises:
        InputError: the folder is not there, or ``data:`` is used without a data folder.
    """
    path = Path(backbone_path(name))
    named_as_folder = name.startswith(("data:", "~", ".")) or path.is_absolute()
    if named_as_folder and not path.is_dir():
        raise InputError(f"there is no folder {path}, which backbone '{name}' names")


def backbone_path(name: str) -> str:
    """A backbone's name or path; ``data:FOLDER`` is a folder of the data folder, wherever that is on this machine."""
    name = ALIASES.get(name, name)
    return str(data_dir() / name.removeprefix("data:")) if name.startswith("data:") else name
