"""The files of a run's folder: their names, their hashes, and tidying what an interruption left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.columns import PROVENANCE_JSON, PROVENANCE_JSONL
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json, read_json_lines, sha256_of
from metascale.study.definition import load_definition
from metascale.study.design import Study, Trial
from metascale.study.store.checkpoints import clean_leftovers, list_checkpoints, prune
from metascale.study.store.claims import CLAIM, LOCK
from metascale.study.store.index import Status
from metascale.study.store.records import read_rows

CONFIG, RESULT, ERROR, STOP = "config.json", "result.json", "error.txt", "stop.json"
HISTORY, TIMING, OUTPUT, PROGRESS = "history.jsonl", "timing.jsonl", "output.log", "progress.json"
CHECKPOINTS, SEAL = "checkpoints", "sha256"
STARTED, LOST = "started", "lost"
ENDS = ("finished", "diverged", "failed", "stopped", LOST)
"""Events of the history: an attempt starts, and ends in one of these ways."""
MEMORY = "memory.json"
"""The micro-batches that fitted into memory: a trial writes it, and the machine decides what is in it."""

_OF_ONE_EXECUTION = (HISTORY, TIMING, OUTPUT, PROGRESS, PROVENANCE_JSON, PROVENANCE_JSONL, STOP, CLAIM, LOCK)
OWN = (CONFIG, RESULT, ERROR, CHECKPOINTS, *_OF_ONE_EXECUTION)
"""What the engine itself writes; a trial's files have other names."""
NOT_COMPARED = (*_OF_ONE_EXECUTION, MEMORY)
"""Files about one execution: two runs of one configuration, or two folders of one study, may differ in these."""
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
    """The last progress of a running trial; ``None`` before the first, or where a full disk or crash broke it."""
    try:
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(progress, dict) or not isinstance(progress.get("note"), str):
        return None
    return progress if all(isinstance(progress.get(name), (int, float)) for name in _PROGRESS_NUMBERS) else None


def lost_attempt(folder: Path) -> dict[str, Any] | None:
    """The attempt whose process died before it noted an end: its number, and its seconds up to its last sign of life.

    A sign of life is a checkpoint, or progress that the run told.
    """
    try:
        known = [event for event in read_json_lines(folder / HISTORY) if event.get("event") in (STARTED, *ENDS)]
    except CorruptFile:
        return None  # a damaged history keeps no run from going on
    if not known or known[-1]["event"] != STARTED:
        return None
    began, told = float(known[-1]["at"]), read_progress(folder) or {}
    signs = [path.stat().st_mtime for path in list_checkpoints(folder / CHECKPOINTS)]
    last = max([began, *signs, told.get("updated_at", began)])
    return {"attempt": known[-1].get("attempt"), "wall_s": last - began}


RUNS = "runs"


@dataclass(frozen=True, slots=True)
class RunView:
    """One run of a study, read from its folder (which need not exist yet)."""

    trial: Trial
    folder: Path

    @property
    def status(self) -> Status:
        """How far the run is. ``running`` means claimed: its runner may have died since."""
        ending = self.ending()
        if ending is not None:
            status: Status = ending["status"]
            return status
        if (self.folder / CLAIM).exists():
            return "running"
        return "failed" if (self.folder / ERROR).exists() else "pending"

    def ending(self) -> dict[str, Any] | None:
        """The whole of ``result.json``: status, result or divergence, and the hashes of the run's files."""
        return read_json(self.folder / RESULT) if (self.folder / RESULT).exists() else None

    def result(self) -> dict[str, Any] | None:
        """The row that the trial returned, once finished."""
        ending = self.ending()
        return None if ending is None else ending.get("result")

    def record_names(self) -> tuple[str, ...]:
        """The records that the run has, sorted."""
        return tuple(sorted(path.stem for path in self.folder.glob("*.csv")))

    def rows(self, record: str) -> list[dict[str, Any]]:
        """The rows of a record as they were appended; none when there is no such record."""
        return read_rows(self.folder / f"{record}.csv")

    def measurements(self) -> list[dict[str, Any]]:
        """What the trial measured (seconds, bytes), over all attempts."""
        return read_json_lines(self.folder / TIMING)

    def history(self) -> list[dict[str, Any]]:
        """Attempts, where they ran, warnings and how they ended."""
        return read_json_lines(self.folder / HISTORY)

    def wall_s(self) -> float:
        """Seconds spent on the run, over all attempts; one whose process died counts up to its last sign of life."""
        return sum(float(event.get("wall_s", 0.0)) for event in self.history())

    def message(self) -> str:
        """Why it failed or diverged, in a line; empty otherwise."""
        ending = self.ending()
        if ending is not None:
            return str(ending.get("message", ""))
        lines = self.error().strip().splitlines()
        return lines[-1] if lines else ""

    def error(self) -> str:
        """The traceback of the last failed attempt, or nothing."""
        path = self.folder / ERROR
        return path.read_text() if path.exists() else ""


@dataclass(frozen=True, slots=True)
class StudyView:
    """A study folder as it stands."""

    folder: Path
    study: Study
    runs: tuple[RunView, ...]


def read_study(folder: Path | str) -> StudyView:
    """The study in ``folder``, with one `RunView` a trial in the study's order.

    Raises:
        InputError: the folder holds no study, or a newer version wrote it.
        CorruptFile: a file is not what was written.
    """
    folder = Path(folder)
    definition = load_definition(folder)
    runs = tuple(RunView(trial, run_folder(folder, trial)) for trial in definition.trials)
    return StudyView(folder, definition.study, runs)


def run_folder(folder: Path, trial: Trial) -> Path:
    """Where a trial's run is kept."""
    return folder / RUNS / trial.folder_name
