"""Adapters of a run for others: a folder that `peft` loads, with a card; asked for apart, that folder on the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError, MetascaleError
from metascale.core.files import read_json, write_atomic
from metascale.core.optional import require
from metascale.integrations.adapter_run import ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD, read_adapter_run
from metascale.integrations.model_card import model_card

CARD = "README.md"
_BASE = "base_model_name_or_path"


def export_adapter(run_folder: Path | str, out: Path | str, base: str | None = None) -> list[Path]:
    """Write a run's adapters in the PEFT format with a model card; the paths written.

    Args:
        run_folder: ``STUDY/runs/NAME`` of a finished run.
        out: a new or empty folder.
        base: the base model's name for whoever loads the adapters, instead of the run's own (a folder here, say).

    Raises:
        InputError: the run has not finished or has no adapters, or ``out`` holds something.
        CorruptFile: a file of the run is not what it recorded.
    """
    run, out = read_adapter_run(Path(run_folder)), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--peft {out} is a file; it needs a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--peft {out} is not empty; it needs a new folder")
    files = dict(run.files)
    config = json.loads(files[ADAPTER_CONFIG])
    if base is not None:
        config[_BASE] = base
        files[ADAPTER_CONFIG] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    files[CARD] = model_card(run, config[_BASE], out.resolve().name).encode()
    for name, data in sorted(files.items()):
        write_atomic(out / name, data)
    return [out / name for name in sorted(files)]


def push_adapter(folder: Path | str, repo: str, *, public: bool = False, endpoint: str | None = None) -> str:
    """Upload an exported folder to a repository of the Hugging Face hub, made if it is not there; its address.

    The token is the one that huggingface_hub finds (``hf auth login``, ``HF_TOKEN``).

    Args:
        repo: ``OWNER/NAME``.
        public: whether a repository that is made now can be seen by everyone.
        endpoint: another hub than the public one.

    Raises:
        InputError: not an exported folder, a base model that only this machine has, or a name that is none.
        MissingDependency: huggingface_hub is not installed.
        MetascaleError: the hub refused.
    """
    folder = Path(folder)
    _check_pushable(folder, repo)
    hub: Any = require("huggingface_hub", "text", "pushing to the hub")
    errors: Any = require("huggingface_hub.errors", "text", "pushing to the hub")
    api = hub.HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD, CARD],
            commit_message="Adapters and card exported by metascale",
        )
    except (OSError, errors.HTTPError) as error:
        raise MetascaleError(
            f"the hub did not take {folder} as {repo}: {str(error).strip().splitlines()[0]}"
        ) from error
    return str(address)


def _check_pushable(folder: Path, repo: str) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: make it with `metascale export RUN --peft {folder}`")
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"--repo is OWNER/NAME, not '{repo}'")
    base = str(read_json(folder / ADAPTER_CONFIG).get(_BASE, ""))
    if not base or os.path.isabs(base) or base.startswith((".", "~")):
        raise InputError(
            f"{folder / ADAPTER_CONFIG} names the base model '{base}', which nobody else has; export again with "
            "--base NAME, the name of the base model on the hub"
        )
