"""What a training loop needs of the record of its run; `metascale.study` implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One durable state of a run: the step it belongs to and its named byte strings (each checked by SHA-256).

    Args:
        scheduled: whether an undisturbed run writes this one as well. One written only because the run was
            asked to stop is deleted as soon as a scheduled one is newer.
    """

    step: int
    blobs: Mapping[str, bytes]
    scheduled: bool = True


class Run(Protocol):
    """A run's record. One process writes it; what is finished is immutable.

    Records (``append``) hold only what the configuration determines, so an interrupted and resumed run ends with the
    same bytes as an uninterrupted one; seconds and bytes measured go to ``measure``.
    """

    @property
    def folder(self) -> Path:
        """The run's own folder; nothing is written outside it."""
        ...

    def append(self, record: str, row: Mapping[str, object]) -> None:
        """Append ``row`` (an integer ``step``, the same keys each time) to a record; it is durable at ``save``."""
        ...

    def rows(self, record: str) -> list[dict[str, Any]]:
        """Every row of a record so far, in order."""
        ...

    def measure(self, row: Mapping[str, object]) -> None:
        """Append a measurement (wall time, memory): not part of what is compared bit for bit."""
        ...

    def write(self, name: str, value: object) -> None:
        """Write a JSON value (or bytes, or text) as the file ``name`` of the run, atomically."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Make records and checkpoint durable together; the previous checkpoint stays until this one is whole."""
        ...

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or ``None``; records are cut back to it: later steps are run again."""
        ...

    def stop_asked(self) -> bool:
        """Whether the run is to end now: the loop saves the step it has just done, and ``save`` does not return.

        Cheap enough to be asked after every step.
        """
        ...

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report how far the run is to those who watch; cheap, and never part of the record."""
        ...


class MemoryRun:
    """A `Run` that keeps everything in memory: for tests, notebooks and single trainings without a study.

    ``folder`` is where ``write`` would have put files; nothing is created there.
    """

    def __init__(self) -> None:
        self.records: dict[str, list[dict[str, Any]]] = {}
        self.measurements: list[dict[str, Any]] = []
        self.files: dict[str, object] = {}
        self._checkpoint: Checkpoint | None = None

    @property
    def folder(self) -> Path:
        return Path("memory")

    def append(self, record: str, row: Mapping[str, object]) -> None:
        self.records.setdefault(record, []).append(dict(row))

    def rows(self, record: str) -> list[dict[str, Any]]:
        return list(self.records.get(record, []))

    def measure(self, row: Mapping[str, object]) -> None:
        self.measurements.append(dict(row))

    def write(self, name: str, value: object) -> None:
        self.files[name] = value

    def save(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def latest(self) -> Checkpoint | None:
        if self._checkpoint is None:
            self.records = {}
        else:
            step = self._checkpoint.step
            self.records = {name: [row for row in rows if row["step"] <= step] for name, rows in self.records.items()}
        return self._checkpoint

    def stop_asked(self) -> bool:
        return False

    def progress(self, done: int, total: int, note: str = "") -> None:
        return None


class SharedRun:
    """One run for several processes: the first writes it, the others keep their rows to themselves and write nothing.

    Args:
        run: the run in the first process, ``None`` in the others.
        share: gives the first process's value to every process; all of them call it at the same points of the program.
            Without it each process goes by what it knows itself.
        folder, rows, latest: where the others find what the first resumes from, when they do not get it by ``share``.
    """

    def __init__(
        self,
        run: Run | None,
        *,
        share: Callable[[Any], Any] | None = None,
        folder: Path = Path("memory"),
        rows: Callable[[str], list[dict[str, Any]]] = lambda record: [],
        latest: Callable[[], Checkpoint | None] = lambda: None,
    ) -> None:
        self._run = run
        self._share = share
        self._folder = folder
        self._stored = rows
        self._latest = latest
        self._rows: dict[str, list[dict[str, Any]]] = {}

    @property
    def folder(self) -> Path:
        return self._folder if self._run is None else self._run.folder

    def append(self, record: str, row: Mapping[str, object]) -> None:
        if self._run is not None:
            self._run.append(record, row)
        else:
            self._rows.setdefault(record, self._stored(record)).append(dict(row))

    def rows(self, record: str) -> list[dict[str, Any]]:
        if self._run is not None:
            return self._run.rows(record)
        return list(self._rows.get(record) or self._stored(record))

    def measure(self, row: Mapping[str, object]) -> None:
        if self._run is not None:
            self._run.measure(row)

    def write(self, name: str, value: object) -> None:
        if self._run is not None:
            self._run.write(name, value)

    def save(self, checkpoint: Checkpoint) -> None:
        """The others wait here until the first process has saved."""
        if self._run is not None:
            self._run.save(checkpoint)
        self._agreed(None)

    def latest(self) -> Checkpoint | None:
        return self._agreed(self._latest() if self._run is None else self._run.latest())

    def stop_asked(self) -> bool:
        """The first process's answer, everywhere at the same step; without ``share`` its end ends the others."""
        return self._agreed(self._run is not None and self._run.stop_asked())

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self._run is not None:
            self._run.progress(done, total, note)

    def _agreed(self, value: Value) -> Value:
        if self._share is None:
            return value
        agreed: Value = self._share(value)
        return agreed
