"""Reading a study folder: runs, results and records, from the run folders alone. Nothing is written, no index opened.

view = read_study("runs/demo")
for run in view.runs:
    if run.status == "finished":
        losses = [row["loss"] for row in run.rows("validation")]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.files import read_json, read_json_lines
from metascale.study.definition import load_definition
from metascale.study.design import Study, Trial
from metascale.study.store.fence import CLAIM
from metascale.study.store.index import Status
from metascale.study.store.records import read_rows
from metascale.study.store.run_files import ERROR, HISTORY, RESULT, TIMING

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
        """Seconds spent on the run, over all attempts that came to an end."""
        return sum(event.get("wall_s", 0.0) for event in self.history())

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
