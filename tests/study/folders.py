"""What the tests compare: the files of a study folder that must not depend on how it was interrupted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from metascale.core.columns import RESULTS_CSV, WALL_S
from metascale.study import Study
from metascale.study.store.folder import NOT_COMPARED

TRIALS = "tests.study.trials"


def tiny_study(function: str = "train", n_tasks: tuple[int, ...] = (2, 5), seeds: tuple[int, ...] = (0,), **base: Any):
    """A study of short trials; ``base`` are further keys of its configuration."""
    return Study("tiny", f"{TRIALS}:{function}", {"n_tasks": 1, **base}, {"n_tasks": list(n_tasks)}, seeds)


def ranks_study(**base: Any) -> Study:
    """A study of one trial that several processes run together."""
    return Study("ranks", f"{TRIALS}:ranks", {"n_steps": 4, **base}, {}, (0,))


def without_seconds(path: Path) -> bytes:
    """A file's bytes; of results.csv without the column of measured seconds."""
    if path.name != RESULTS_CSV:
        return path.read_bytes()
    rows = [*csv.DictReader(io.StringIO(path.read_text()))]
    return json.dumps([{key: cell for key, cell in row.items() if key != WALL_S} for row in rows]).encode()


def final_files(folder: Path) -> dict[str, bytes]:
    """Every file by name, without the index, the locks and what tells of one execution alone."""
    return {
        path.relative_to(folder).as_posix(): without_seconds(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED and not path.name.startswith("index.sqlite3")
    }
