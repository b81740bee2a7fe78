"""The run that a trial writes: `metascale.core.run.Run` on a folder of its own.

    config.json      what determines the run            <record>.csv    rows, exact
    result.json      how it ended; then it is immutable  checkpoints/    the newest two, gone at the end unless kept
    error.txt        the traceback of a failed attempt   history.jsonl, timing.jsonl, output.log   who, where, how long
    provenance.json  versions, revision, hardware, threads, data and command of the last attempt

Everything but what `run_files.NOT_COMPARED` lists has the same bytes however often the run was interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from metascale.core.canonical import canonical_json, plain
from metascale.core.columns import PROVENANCE_JSON
from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError
from metascale.core.files import append_lines, heal_lines, replace_text, write_atomic, write_json
from metascale.core.run import Checkpoint
from metascale.study.errors import Stopped
from metascale.study.store.checkpoints import discard, list_checkpoints, read_checkpoint, step_of, write_checkpoint
from metascale.study.store.claims import CLAIM, Claim, check_claim, fenced
from metascale.study.store.folder import (
    CHECKPOINTS,
    ERROR,
    HISTORY,
    LOST,
    OWN,
    PROGRESS,
    RESULT,
    STARTED,
    TIMING,
    file_hashes,
    lost_attempt,
    tidy,
)
from metascale.study.store.records import RecordFile
from metascale.study.store.seals import sealed

_PROGRESS_EVERY_S = 0.5
_LOOK_EVERY_S = 0.25
_log = logging.getLogger("metascale.study")


class StopRequests(Protocol):
    """Whether somebody asked for a stop (`metascale.study.run.stopping.StopWatch`)."""

    def signalled(self) -> bool:
        """By a signal to this process; costs nothing."""
        ...

    def asked(self) -> str | None:
        """How to stop; ``"checkpoint"``: as soon as the run is saved. Looks for files, perhaps on a network."""
        ...


class StoredRun:
    """A `Run` whose writes are durable, and refused once another runner holds the trial.

    A trial that never calls `latest` before it appends or saves starts from nothing: earlier rows and checkpoints of
    an interrupted attempt are removed.
    """

    def __init__(self, folder: Path, claim: Claim, stop: StopRequests | None = None) -> None:
        self._folder = folder
        self._claim = claim
        self._pid = os.getpid()
        self._stop = stop
        self._records: dict[str, RecordFile] = {}
        self._measurements: list[str] = []
        self._loaded = False
        self._asked = False
        self._next_progress = 0.0
        self._next_look = 0.0
        self._first_progress: dict[str, Any] = {}

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def checkpoints(self) -> Path:
        return self._folder / CHECKPOINTS

    def append(self, record: str, row: Mapping[str, Any]) -> None:
        if not record or not record.replace("_", "").replace("-", "").isalnum():
            raise InputError(f"'{record}' cannot name a record; use letters, digits, '_' and '-'")
        self._start_afresh_unless_asked()
        self._record(record).append(row)

    def rows(self, record: str) -> list[dict[str, Any]]:
        if not self._loaded:
            self._recover()
        return self._records[record].rows() if record in self._records else []

    def measure(self, row: Mapping[str, Any]) -> None:
        self._measurements.append(canonical_json(row))

    def write(self, name: str, value: Any) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or path.parts[0] in OWN:
            raise InputError(f"a trial cannot write '{name}': it needs a name of its own inside the run's folder")
        if len(path.parts) == 1 and path.suffix == ".csv":
            raise InputError(f"a trial cannot write '{name}': CSV files beside the configuration are records; append")
        with self._fenced():
            if isinstance(value, (bytes, str)):
                write_atomic(self._folder / path, value)
            else:
                write_json(self._folder / path, value)

    def save(self, checkpoint: Checkpoint) -> None:
        self._start_afresh_unless_asked()
        with self._fenced():
            self._flush()
            marks = {name: record.mark() for name, record in sorted(self._records.items())}
            write_checkpoint(self.checkpoints, checkpoint, marks)
        if self._stop is not None and self._stop.asked() == "checkpoint":
            raise Stopped(f"asked to stop; step {checkpoint.step} is saved")

    def stop_asked(self) -> bool:
        """Whether this run is to be saved now, and end there."""
        now = time.monotonic()
        # A request is a file, perhaps on a network: it is not looked for at every step. A signal costs nothing.
        if self._stop is None or (now < self._next_look and not self._stop.signalled()):
            return False
        self._next_look = now + _LOOK_EVERY_S
        return self._stop.asked() == "checkpoint"

    def latest(self) -> Checkpoint | None:
        self._asked = True
        return self._recover()

    def _recover(self) -> Checkpoint | None:
        """Cut the records back to the newest usable checkpoint; the ones after it go."""
        with self._fenced():
            for path in reversed(list_checkpoints(self.checkpoints)):
                try:
                    checkpoint, marks = read_checkpoint(path)
                    records = {name: RecordFile.cut_back(self._record_path(name), mark) for name, mark in marks.items()}
                except CorruptFile as error:
                    self._warn(f"checkpoint {path.name} is not usable, going back to the one before it: {error}")
                    continue
                self._adopt(records)
                for later in list_checkpoints(self.checkpoints):
                    if step_of(later) > checkpoint.step:
                        discard(later)
                return checkpoint
            self._adopt({})
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        return None

    def progress(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now < self._next_progress and done < total:
            return
        self._next_progress = now + _PROGRESS_EVERY_S
        self._refuse_forks()
        check_claim(self._folder, self._claim)
        state = {"done": done, "total": total, "note": note, "updated_at": time.time()}
        # The first call of an attempt is where its rate counts from: a resumed run starts in the middle.
        self._first_progress = self._first_progress or {"first_done": done, "first_at": state["updated_at"]}
        state.update(self._first_progress)
        replace_text(self._folder / PROGRESS, canonical_json(state))

    def describe(self, provenance: Mapping[str, Any]) -> None:
        """Keep where this attempt comes from and runs."""
        with self._fenced():
            text = json.dumps(plain(provenance), indent=1, sort_keys=True) + "\n"
            replace_text(self._folder / PROVENANCE_JSON, text)

    def pause(self, **facts: Any) -> None:
        """Note that this attempt ends at its last checkpoint, as somebody asked."""
        with self._fenced():
            self._note("stopped", attempt=self._claim.attempt, **facts)
            (self._folder / PROGRESS).unlink(missing_ok=True)

    def begin(self, **facts: Any) -> None:
        """Note in the history that this attempt starts, with ``facts`` about where it runs."""
        with self._fenced():
            note_lost(self._folder)
            self._note(STARTED, attempt=self._claim.attempt, owner=self._claim.owner, **facts)

    def finish(self, row: Mapping[str, Any], *, keep_checkpoints: bool = False, **facts: Any) -> None:
        """Make the records and the result durable; from here on the run is immutable."""
        self._start_afresh_unless_asked()
        with self._fenced():
            self._flush()
            self._seal({"status": "finished", "result": plain(row)}, keep_checkpoints, facts)

    def diverge(self, error: Diverged, *, keep_checkpoints: bool = False, **facts: Any) -> None:
        """Record that the run ended in a number that is not finite."""
        self._start_afresh_unless_asked()
        found = {
            "step": _plain_or_none(error.step),
            "task_ids": _plain_or_none(list(error.task_ids)) or [],
            "last_finite": _plain_or_none(error.last_finite),
        }
        with self._fenced():
            self._flush()
            message = str(error).encode(errors="backslashreplace").decode()
            self._seal({"status": "diverged", "message": message, **found}, keep_checkpoints, facts)

    def fail(self, trace: str, **facts: Any) -> None:
        """Keep the traceback of a failed attempt; the checkpoints stay for the next one.

        The fact ``killed`` says that it was ended from outside again and again, which a search never counts.
        """
        with self._fenced():
            # A trace may quote a file name that is no text; it is kept escaped.
            write_atomic(self._folder / ERROR, trace.encode(errors="backslashreplace"))
            (self._folder / PROGRESS).unlink(missing_ok=True)
            self._note("failed", attempt=self._claim.attempt, **facts)
            (self._folder / CLAIM).unlink()

    def _seal(self, ending: dict[str, Any], keep_checkpoints: bool, facts: Mapping[str, Any]) -> None:
        write_json(self._folder / RESULT, sealed({**ending, "files": file_hashes(self._folder)}))
        self._note(ending["status"], attempt=self._claim.attempt, **facts)
        tidy(self._folder, keep_checkpoints)

    def _record(self, name: str) -> RecordFile:
        if name not in self._records:
            self._records[name] = RecordFile(self._record_path(name))
        return self._records[name]

    def _record_path(self, name: str) -> Path:
        return self._folder / f"{name}.csv"

    def _adopt(self, records: dict[str, RecordFile]) -> None:
        """Take ``records`` as they were at a checkpoint; rows and records after it go."""
        for path in self._folder.glob("*.csv"):
            if path.stem not in records:
                path.unlink()
        for record in records.values():
            record.truncate()
        self._records = records
        self._loaded = True

    def _start_afresh_unless_asked(self) -> None:
        if self._asked:
            return
        self._asked = True
        with self._fenced():
            self._adopt({})
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _flush(self) -> None:
        for record in self._records.values():
            record.flush()
        if self._measurements:
            heal_lines(self._folder / TIMING)
            append_lines(self._folder / TIMING, self._measurements)
            self._measurements = []

    def _warn(self, message: str) -> None:
        _log.warning("%s: %s", self._folder.name, message)
        self._note("warning", attempt=self._claim.attempt, message=message)

    def _note(self, event: str, **facts: Any) -> None:
        _note(self._folder, event, **facts)

    def _refuse_forks(self) -> None:
        if os.getpid() != self._pid:
            raise MetascaleError("a process that the trial forked cannot write its run: one process writes a run")

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        self._refuse_forks()
        with fenced(self._folder, self._claim):
            yield


def _plain_or_none(value: object) -> Any:
    """``value`` as JSON types; ``None`` where it cannot be (a last finite value that is none)."""
    try:
        return plain(value)
    except InputError:
        return None


def note_lost(folder: Path, wall_s: float = 0.0) -> float:
    """Note the end of an attempt whose process died before it could; its seconds, 0 where there is none.

    Call it under the run's lock. ``wall_s`` is how long the attempt took where somebody measured it.
    """
    lost = lost_attempt(folder)
    if lost is None:
        return 0.0
    lost["wall_s"] = wall_s or lost["wall_s"]
    _note(folder, LOST, **lost)
    return float(lost["wall_s"])


def _note(folder: Path, event: str, **facts: Any) -> None:
    heal_lines(folder / HISTORY)
    with open(folder / HISTORY, "a", encoding="utf-8") as stream:
        stream.write(canonical_json({"event": event, "at": time.time(), **facts}) + "\n")
