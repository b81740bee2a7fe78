"""The files of a run's folder: their names, their hashes, and tidying what an interruption left."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metascale.core.columns import PROVENANCE_JSON, PROVENANCE_JSONL
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json_lines, sha256_of
from metascale.study.definition import load_definition
from metascale.study.design import Study, Trial
from metascale.study.store.checkpoints import clean_leftovers, list_checkpoints, prune
from metascale.study.store.claims import CLAIM, LOCK
from metascale.study.store.index import Status
from metascale.study.store.once import once
from metascale.study.store.records import read_rows
from metascale.study.store.seals import read_sealed

CONFIG, RESULT, ERROR, STOP = "config.json", "result.json", "error.txt", "stop.json"
HISTORY, TIMING, OUTPUT, PROGRESS = "history.jsonl", "timing.jsonl", "output.log", "progress.json"
CHECKPOINTS, INDEX, SEALS = "checkpoints", "index.sqlite3", "seals.json"
STARTED, LOST = "started", "lost"
ENDS = ("finished", "diverged", "failed", "stopped", LOST)
"""Events of the history: an attempt starts, and ends in one of these ways."""
MEMORY = "memory.json"
"""The micro-batches that fitted into memory: a trial writes it, and the machine decides what is in it."""

_OF_ONE_EXECUTION = (HISTORY, TIMING, OUTPUT, PROGRESS, PROVENANCE_JSON, PROVENANCE_JSONL, SEALS, STOP, CLAIM, LOCK)
OWN = (CONFIG, RESULT, ERROR, CHECKPOINTS, *_OF_ONE_EXECUTION)
"""What the engine itself writes; a trial's files have other names."""
NOT_COMPARED = (*_OF_ONE_EXECUTION, MEMORY)
"""Files about one execution: two runs of one configuration, or two folders of one study, may differ in these."""
_PROGRESS_NUMBERS = ("done", "total", "updated_at", "first_done", "first_at")


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that belongs to the run's result, by name, checkpoints and measurements left out."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    kept = [name for name in names if name.split("/")[0] not in (*NOT_COMPARED, CHECKPOINTS, RESULT, ERROR)]
    return {name: sha256_of((folder / name).read_bytes()) for name in kept}


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is wrong with a run that has ended, in a sentence (empty: nothing), and its ``result.json``."""

    damage: str
    ending: Mapping[str, Any] = field(default_factory=dict)


def _ended(folder: Path) -> _Ended | None:
    """A run that has ended, checked; ``None`` for any other.

    Checked are the result by its own hash, and by the hashes in it the configuration, the records and all else that
    readers of a study read. Weights are checked by whoever loads them, and by `verify`. A run whose files have not
    changed since is not read again.
    """
    return once(("ended", folder), lambda: _look_at(folder))


def _look_at(folder: Path) -> _Ended | None:
    signs = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            state = entry.stat()
            signs.append((entry.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    return _checked(folder, tuple(sorted(signs))) if any(sign[0] == RESULT for sign in signs) else None


@functools.lru_cache(maxsize=100_000)
def _checked(folder: Path, signs: tuple[tuple[str, int, int, int, int], ...]) -> _Ended:
    try:
        ending = read_sealed(folder / RESULT)
    except CorruptFile as error:
        return _Ended(str(error))
    damage = _damage(folder, ending)
    return _Ended(damage, {} if damage else ending)


def damage_of(folder: Path) -> str:
    """What is wrong with a run that has ended, in a sentence; empty where its files are what was written."""
    ended = _ended(folder)
    return "" if ended is None else ended.damage


def _damage(folder: Path, ending: Mapping[str, Any]) -> str:
    try:
        if ending.get("status") not in ("finished", "diverged") or not isinstance(ending.get("files"), dict):
            return f"{folder / RESULT} is not what was written: it is no ending of a run"
        if ending["status"] == "finished" and not isinstance(ending.get("result"), dict):
            return f"{folder / RESULT} cannot be read: it holds no mapping of results"
        for name, expected in ending["files"].items():
            path = folder / name
            if "/" not in name and path.suffix in (".csv", ".json", ".jsonl"):
                if not path.is_file():
                    return f"{path} is missing"
                if sha256_of(path.read_bytes()) != expected:
                    return f"{path} is not what was written: its SHA-256 is not the one that was recorded"
    except CorruptFile as error:
        return str(error)
    return ""


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
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(progress, dict) or not isinstance(progress.get("note"), str):
        return None
    return progress if all(isinstance(progress.get(name), (int, float)) for name in _PROGRESS_NUMBERS) else None


def lost_attempt(folder: Path) -> dict[str, Any] | None:
    """The attempt whose process died before it noted an end: its number, and its seconds up to its last sign of life.

    A sign of life is a checkpoint, or progress that the run told.
    """
    try:
        known = [event for event in _read_events(folder / HISTORY) if event["event"] in (STARTED, *ENDS)]
    except CorruptFile:
        return None  # a damaged history keeps no run from going on
    if not known or known[-1]["event"] != STARTED:
        return None
    began, told = float(known[-1]["at"]), read_progress(folder) or {}
    signs = [path.stat().st_mtime for path in list_checkpoints(folder / CHECKPOINTS)]
    last = max([began, *signs, told.get("updated_at", began)])
    return {"attempt": known[-1].get("attempt"), "wall_s": last - began}


def _read_objects(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON objects.

    Raises:
        CorruptFile: a line is none.
    """
    found = read_json_lines(path)
    for number, one in enumerate(found, start=1):
        if not isinstance(one, dict):
            raise CorruptFile(f"{path}, line {number}, is not what was written: it is no JSON object")
    return found


def _read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a history: each with a name and a time.

    Raises:
        CorruptFile: a line is no such event.
    """
    found = _read_objects(path)
    for number, one in enumerate(found, start=1):
        times = [one.get("at"), one.get("wall_s", 0.0)]
        if not isinstance(one.get("event"), str) or not all(_is_time(time) for time in times):
            raise CorruptFile(f"{path}, line {number}, is not what was written: it is no event with its time")
    return found


def _is_time(value: object) -> bool:
    """Whether it is seconds, and not a number that no clock has."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


RUNS = "runs"


@dataclass(frozen=True, slots=True)
class RunView:
    """One run of a study, read from its folder (which need not exist yet)."""

    trial: Trial
    folder: Path

    @property
    def status(self) -> Status:
        """How far the run is. ``running`` means claimed: its runner may have died since."""
        ended = _ended(self.folder)
        if ended is not None:
            status: Status = "damaged" if ended.damage else ended.ending["status"]
            return status
        if (self.folder / CLAIM).exists():
            return "running"
        return "failed" if (self.folder / ERROR).exists() else "pending"

    def damage(self) -> str:
        """Why an ended run cannot be trusted (`damage_of`); empty otherwise. Readers leave such a run out."""
        return damage_of(self.folder)

    def ending(self) -> dict[str, Any] | None:
        """The whole of ``result.json``: status, result or divergence, and the hashes of the run's files.

        ``None`` before the run has ended, and where a file of it is not what was written.
        """
        ended = _ended(self.folder)
        return None if ended is None or ended.damage else copy.deepcopy(dict(ended.ending))

    def result(self) -> dict[str, Any] | None:
        """The row that the trial returned, once finished."""
        ending = self.ending()
        return None if ending is None else ending.get("result")

    def record_names(self) -> tuple[str, ...]:
        """The records that the run has, sorted."""
        return () if self.damage() else tuple(sorted(path.stem for path in self.folder.glob("*.csv")))

    def rows(self, record: str) -> list[dict[str, Any]]:
        """The rows of a record as they were appended; none when there is no such record."""
        return [] if self.damage() else read_rows(self.folder / f"{record}.csv")

    def measurements(self) -> list[dict[str, Any]]:
        """What the trial measured (seconds, bytes), over all attempts."""
        return _read_objects(self.folder / TIMING)

    def history(self) -> list[dict[str, Any]]:
        """Attempts, where they ran, warnings and how they ended."""
        return _read_events(self.folder / HISTORY)

    def wall_s(self) -> float:
        """Seconds spent on the run, over all attempts; one whose process died counts up to its last sign of life."""
        return sum(float(event.get("wall_s", 0.0)) for event in self.history())

    def message(self) -> str:
        """Why it failed or diverged, or what is damaged, in a line; empty otherwise."""
        ended = _ended(self.folder)
        if ended is not None:
            return ended.damage or str(ended.ending.get("message", ""))
        lines = self.error().strip().splitlines()
        return lines[-1] if lines else ""

    def was_killed(self) -> bool:
        """Whether it failed because it was killed from outside again and again: no failure of its own."""
        if self.status != "failed":
            return False
        ends = [event for event in self.history() if event.get("event") in ENDS]
        return bool(ends and ends[-1].get("killed"))

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
    folder = Path(folder).expanduser()
    definition = load_definition(folder)
    runs = tuple(RunView(trial, run_folder(folder, trial)) for trial in definition.trials)
    return StudyView(folder, definition.study, runs)


def damaged_runs(view: StudyView) -> tuple[str, ...]:
    """Label and damage of every run that readers leave out."""
    found = ((run.trial.label, run.damage()) for run in view.runs)
    return tuple(f"{label}: {damage}" for label, damage in found if damage)


def run_folder(folder: Path, trial: Trial) -> Path:
    """Where a trial's run is kept."""
    return folder / RUNS / trial.folder_name
