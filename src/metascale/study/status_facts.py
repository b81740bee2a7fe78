"""What `status` adds to the states: the last loss of a trial, and the room that a study takes on its disk."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from metascale.core.files import read_json
from metascale.study.design import flatten
from metascale.study.store.reading import RunView
from metascale.study.store.records import parse_cell
from metascale.study.store.run_files import RESULT

_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a study's folder holds, and that its device has left."""

    n_bytes: int
    n_files: int
    free_bytes: int


def disk_of(folder: Path) -> Disk:
    """How much room the study in ``folder`` takes."""
    n_bytes = n_files = 0
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        n_bytes += entry.stat(follow_symlinks=False).st_size
                        n_files += 1
        except FileNotFoundError:
            # A checkpoint that was replaced while we counted.
            continue
    return Disk(n_bytes, n_files, shutil.disk_usage(folder).free)


def last_loss(run: RunView, status: str) -> tuple[str, float] | None:
    """The name and value of a trial's loss: of its result once finished, else of the newest row of its records."""
    if status == "pending":
        return None
    # The run's folder may go while we read (it was deleted, or a diverged run starts again).
    with contextlib.suppress(FileNotFoundError):
        return _final_loss(run.folder) if status == "finished" else _newest_loss(run.folder)
    return None


def _newest_loss(folder: Path) -> tuple[str, float] | None:
    records = [path for path in folder.glob("*.csv") if path.is_file()]
    # Evaluations say more than training steps, and both more than tables.
    for path in sorted(records, key=lambda path: (not path.name.startswith("eval"), path.name)):
        found = _last_row_loss(path)
        if found is not None:
            return found
    return None


@functools.lru_cache(maxsize=100_000)
def _final_loss(folder: Path) -> tuple[str, float] | None:
    """A finished run is immutable, so its result is read once."""
    scalars = flatten(read_json(folder / RESULT).get("result") or {})
    for wanted in ("test_loss_nats", "loss"):
        if isinstance(scalars.get(wanted), float):
            return wanted, scalars[wanted]
    return next(((name, value) for name, value in scalars.items() if "loss" in name and isinstance(value, float)), None)


def _last_row_loss(path: Path) -> tuple[str, float] | None:
    with open(path, "rb") as stream:
        header = stream.readline().decode(errors="replace")
        stream.seek(max(stream.tell(), path.stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").split("\n")[:-1]
    if not lines:
        return None
    names, cells = next(csv.reader([header]), []), next(csv.reader([lines[-1]]), [])
    if len(names) != len(cells):
        return None
    for name, cell in zip(names, cells, strict=True):
        if "loss" in name:
            value = parse_cell(cell)
            return (name, float(value)) if isinstance(value, (int, float)) else None
    return None
