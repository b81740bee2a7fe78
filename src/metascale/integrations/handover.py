"""What the callbacks for other trainers share: checkpoint folders as parts of a run's checkpoints, records, pruning."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from metascale.core.errors import CorruptFile, Diverged
from metascale.core.run import Checkpoint, Run

_INDEX = "files.json"
TRAIN, EVALUATION = "train_stats", "eval_stats"
_TIMED = re.compile(r"(?:\b|_)(?:runtime|per_second|time|mem|memory)(?:\b|_)")


class Handover:
    """A run as another trainer's callback sees it.

    Attributes:
        folder: a new temporary folder for the trainer's own files; it goes when the callback goes.
        checkpoint: the newest checkpoint of an earlier attempt, unpacked into that folder; None at a first one.
        step: where that checkpoint stands.
    """

    def __init__(self, run: Run, prune_above: Iterable[Sequence[float]] = ()):
        self.run = run
        self.thresholds = [(float(step), float(loss)) for step, loss in prune_above]
        self.folder = Path(tempfile.mkdtemp(prefix="metascale-"))
        self._removed = weakref.finalize(self, shutil.rmtree, self.folder, True)
        found = run.latest()
        self.step = 0 if found is None else found.step
        self._rows: dict[str, list[Mapping[str, float]]] = {}  # by record: a run would read its file at every log
        self.checkpoint = None if found is None else self._unpack(found)

    def save(self, step: int, folders: Sequence[Path], scheduled: bool) -> None:
        """Hand a checkpoint to the run: every file of these folders (or the files themselves), the first counting.

        Does not return where the run was asked to stop. All bytes are in memory at once.
        """
        blobs: dict[str, bytes] = {}
        names: list[str] = []
        for folder in folders:
            files = [folder] if folder.is_file() else sorted(file for file in folder.rglob("*") if file.is_file())
            for file in files:
                blobs[f"file-{len(names):05d}"] = file.read_bytes()
                names.append(file.relative_to(folder.parent).as_posix())
        blobs[_INDEX] = json.dumps({"names": names, "first": folders[0].name}).encode()
        self.run.save(Checkpoint(step, blobs, scheduled))

    def _unpack(self, found: Checkpoint) -> Path:
        index = json.loads(found.blobs[_INDEX])
        for k, name in enumerate(index["names"]):
            path = self.folder / name
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise CorruptFile(f"the checkpoint of step {found.step} names a file outside its folder: '{name}'")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.blobs[f"file-{k:05d}"])
        return self.folder / str(index["first"])

    def record(self, kind: str, step: int, values: Mapping[str, object]) -> dict[str, float]:
        """Append the numbers of a log to a record; seconds and bytes go to the measurements.

        A record has the same columns in every row: a log with others gets a record of its own (``eval_stats_2``).

        Raises:
            Diverged: a number is not finite.
        """
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step"
        }
        measured = {name: value for name, value in numbers.items() if _TIMED.search(name)}
        kept = {name: value for name, value in numbers.items() if name not in measured}
        for name, value in kept.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {step}", step=step)
        if measured:
            self.run.measure({"step": step, **measured})
        if kept:
            record, row = self._record_of(kind, set(kept)), {"step": step, **kept}
            self.run.append(record, row)
            self._rows_of(record).append(row)
        return kept

    def _record_of(self, kind: str, names: set[str]) -> str:
        return next(
            record
            for record in _records(kind)
            if not (rows := self._rows_of(record)) or rows[0].keys() - {"step"} == names
        )

    def _rows_of(self, record: str) -> list[Mapping[str, float]]:
        if record not in self._rows:
            self._rows[record] = list(self.run.rows(record))
        return self._rows[record]

    def rows(self, kind: str) -> list[Mapping[str, float]]:
        """The rows of a kind in the order of their steps, whatever record they stand in."""
        found: list[Mapping[str, float]] = []
        for record in _records(kind):
            if not (rows := self._rows_of(record)):
                break
            found += rows
        return sorted(found, key=lambda row: row["step"])

    def last(self) -> dict[str, float]:
        """The last value of everything that was recorded, ``step`` and ``epoch`` left out."""
        rows = [*self.rows(TRAIN), *self.rows(EVALUATION)]
        return {name: value for row in rows for name, value in row.items() if name not in ("step", "epoch")}

    def pruned(self, metric: str) -> int | None:
        """The first threshold step that has been reached and above whose loss the best value so far lies."""
        rows = [row for row in self.rows(EVALUATION) if metric in row]
        for step, threshold in self.thresholds:
            seen = [row[metric] for row in rows if row["step"] <= step]
            reached = any(row["step"] >= step for row in rows)
            if reached and seen and min(seen) > threshold:
                return int(step)
        return None


def _records(kind: str) -> Iterator[str]:
    """The names of a kind's records, without end: one for each set of columns."""
    return itertools.chain([kind], (f"{kind}_{k}" for k in itertools.count(2)))
