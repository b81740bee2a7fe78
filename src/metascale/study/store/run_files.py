"""The files of a run's folder: their names, their hashes, and tidying what an interruption left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.files import sha256_of
from metascale.study.run.stopping import STOP
from metascale.study.store.checkpoints import clean_leftovers, prune
from metascale.study.store.fence import CLAIM, LOCK
from metascale.study.store.provenance import STUDY_PROVENANCE

CONFIG, RESULT, ERROR = "config.json", "result.json", "error.txt"
HISTORY, TIMING, OUTPUT, PROGRESS = "history.jsonl", "timing.jsonl", "output.log", "progress.json"
PROVENANCE = "provenance.json"
CHECKPOINTS, SEAL = "checkpoints", "sha256"
MEMORY = "memory.json"
"""The micro-batches that fitted into memory: a trial writes it, and the machine decides what is in it."""

_OF_ONE_EXECUTION = (HISTORY, TIMING, OUTPUT, PROGRESS, PROVENANCE, STUDY_PROVENANCE, STOP, CLAIM, LOCK)
OWN = (CONFIG, RESULT, ERROR, CHECKPOINTS, *_OF_ONE_EXECUTION)
"""What the engine itself writes; a trial's files have other names."""
NOT_COMPARED = (*_OF_ONE_EXECUTION, MEMORY)
"""Files that tell of one execution: two runs of one configuration, or two folders of one study, may differ in these."""
_PROGRESS_NUMBERS = ("done", "total", "updated_at", "first_done", "first_at")


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that belongs to the run's result, by name, checkpoints and measurements left out."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if name.split("/")[0] not in (*NOT_COMPARED, CHECKPOINTS, RESULT, ERROR)]
    return {name: sha256_of((folder / name).read_bytes()) for name in kept}


def sealed_hash(ending: Mapping[str, Any]) -> str:
    """The SHA-256 that ``result.json`` holds of all else in it, so that a changed result shows."""
    return sha256_of(canonical_json({key: value for key, value in ending.items() if key != SEAL}).encode())


def tidy(folder: Path, keep_checkpoints: bool) -> None:
    """Remove what only a run in progress needs; done again after a crash in the middle, it ends the same."""
    if keep_checkpoints:
        prune(folder / CHECKPOINTS)
    else:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for name in (PROGRESS, ERROR, STOP, CLAIM):
        (folder / name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of interrupted writes. Call it under the run's lock."""
    for path in folder.rglob(".*.tmp"):
        if path.is_file():
            path.unlink()
    clean_leftovers(folder / CHECKPOINTS)


def read_progress(folder: Path) -> dict[str, Any] | None:
    """What a running trial last told of itself, if anything; a file that a full disk or a crash broke tells nothing."""
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("note"), str):
        return None
    return told if all(isinstance(told.get(name), (int, float)) for name in _PROGRESS_NUMBERS) else None
