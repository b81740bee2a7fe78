"""Checkpoints of one run: a temporary folder, fsync, a manifest with the SHA-256 of every part, rename.

    checkpoints/step-00000100/{<blob>.bin, ..., manifest.json}

The manifest also holds how long each record was, and carries a hash of itself, so that a flipped byte anywhere is seen.
``step-00000104-stop`` is one that was written because the run was asked to stop; a newer one takes its place.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, sha256_of, sync_folder, write_json
from metascale.core.run import Checkpoint

KEPT = 2
"""A corrupted newest checkpoint falls back to the one before it."""

_NAME = re.compile(r"step-([0-9]{8,})(-stop)?")
_BLOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MANIFEST = "manifest.json"
Marks = Mapping[str, Mapping[str, Any]]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, records: Marks) -> None:
    """Make ``checkpoint`` the newest one under ``folder``, and remove the older ones as `prune` does.

    Raises:
        InputError: a blob name that is no file name, or a step before the newest checkpoint's.
    """
    existing = list_checkpoints(folder)
    if existing and checkpoint.step < step_of(existing[-1]):
        raise InputError(f"a checkpoint at step {checkpoint.step} comes after one at step {step_of(existing[-1])}")
    final = folder / f"step-{checkpoint.step:08d}{'' if checkpoint.scheduled else '-stop'}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _fill(temporary, checkpoint, records)
        _publish(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    prune(folder)


def _fill(folder: Path, checkpoint: Checkpoint, records: Marks) -> None:
    blobs = {}
    for name, data in checkpoint.blobs.items():
        if not _BLOB.fullmatch(name):
            raise InputError(f"'{name}' cannot name a part of a checkpoint; use letters, digits, '_', '-' and '.'")
        with open(folder / f"{name}.bin", "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        blobs[name] = {"n_bytes": len(data), "sha256": sha256_of(data)}
    content = {"step": checkpoint.step, "blobs": blobs, "records": {name: dict(mark) for name, mark in records.items()}}
    manifest = {"content": content, "sha256": sha256_of(canonical_json(content).encode())}
    write_json(folder / _MANIFEST, manifest)


def _publish(temporary: Path, final: Path) -> None:
    folder = final.parent
    old = folder / f".{final.name}.old"
    if final.exists():
        # The same step saved again: `clean_leftovers` puts the old one back if we die between the two renames.
        os.replace(final, old)
    os.replace(temporary, final)
    sync_folder(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[Checkpoint, Marks]:
    """A checkpoint and its marks of the records.

    Raises:
        CorruptFile: a part is missing, or its bytes are not those that were written; the message names it.
    """
    if not (path / _MANIFEST).exists():
        raise CorruptFile(f"{path / _MANIFEST} is missing")
    manifest = read_json(path / _MANIFEST)
    content = manifest.get("content") if isinstance(manifest, dict) else None
    try:
        whole = content is not None and manifest.get("sha256") == sha256_of(canonical_json(content).encode())
    except (ValueError, RecursionError):
        whole = False
    if content is None or not whole or not _is_content(content):
        raise CorruptFile(f"{path / _MANIFEST} is not what was written")
    for name in (*content["blobs"], *content["records"]):
        if not _BLOB.fullmatch(name):
            raise CorruptFile(f"{path / _MANIFEST} is not what was written: {name!r:.80} names no part or record")
    blobs = {}
    for name, expected in content["blobs"].items():
        part = path / f"{name}.bin"
        data = part.read_bytes() if part.exists() else b""
        if {"n_bytes": len(data), "sha256": sha256_of(data)} != expected:
            raise CorruptFile(f"{part} is not what was written ({len(data)} of {expected['n_bytes']} bytes)")
        blobs[name] = data
    return Checkpoint(step=content["step"], blobs=blobs), content["records"]


def _is_content(found: Any) -> bool:
    """Whether a manifest has what `_fill` writes: a step, blobs by name, and marks of records."""
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return False
    parts = (found.get("blobs"), found.get("records"))
    return all(isinstance(part, dict) and all(isinstance(one, dict) for one in part.values()) for part in parts)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first; of the same step, the scheduled one is the newer."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: (step_of(path), _is_scheduled(path)))


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise InputError(f"{path} is not a checkpoint folder")
    return int(found[1])


def _is_scheduled(path: Path) -> bool:
    return not path.name.endswith("-stop")


def prune(folder: Path, keep: int = KEPT) -> None:
    """Remove all but the newest ``keep`` scheduled checkpoints, and the newest one where that is another.

    So a run that was stopped in between keeps the same ones as a run that was not.
    """
    found = list_checkpoints(folder)
    kept = [*[path for path in found if _is_scheduled(path)][-keep:], *found[-1:]]
    for path in found:
        if path not in kept:
            discard(path)


def discard(path: Path) -> None:
    """Remove one checkpoint; an interrupted removal leaves a hidden folder, never half a checkpoint."""
    hidden = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    os.replace(path, hidden)
    shutil.rmtree(hidden)


def clean_leftovers(folder: Path) -> None:
    """Remove what an interrupted write left; put back a checkpoint that was about to be replaced by its equal."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") and path.suffix == ".old" and path.is_dir():
            final = path.with_name(path.name[1:-4])
            if not final.exists():
                os.replace(path, final)
                continue
        if path.name.startswith("."):
            # A file manager leaves plain hidden files (.DS_Store).
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
