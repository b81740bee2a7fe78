"""What a runner tells of a study in progress, to whom, and what it returns at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

EventKind: TypeAlias = Literal[
    "started", "finished", "failed", "diverged", "lost", "waiting", "interrupted", "stopping"
]


@dataclass(frozen=True, slots=True)
class Event:
    """What a runner tells its reporter: a trial ``started`` or came to one of the statuses, or the runner ``waits``
    for trials of other runners, was asked to stop (``stopping``), or was ``interrupted``."""

    kind: EventKind
    label: str = ""
    message: str = ""
    wall_s: float = 0.0
    done: int = 0
    total: int = 0
    eta_s: float | None = None


class Reporter(Protocol):
    """Whoever shows a study in progress."""

    def begin(self, folder: Path, total: int, done: int) -> None: ...

    def event(self, event: Event) -> None: ...

    def end(self, outcome: StudyOutcome | None) -> None:
        """The last call, also after an error or an interruption (``None``)."""
        ...


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How the trials that the command asked for stand at its end.

    Args:
        total: trials asked for; finished + failed + diverged + pending of them.
        ran: attempts that this call ran itself.
        skipped: trials that had ended before this call.
        wall_s: seconds that this call took.
        stopped: whether it ended early because somebody asked (`metascale.study.run.stopping`).
    """

    folder: Path
    total: int
    finished: int
    failed: int
    diverged: int
    pending: int
    ran: int
    skipped: int
    wall_s: float
    stopped: bool = False

    @property
    def exit_status(self) -> int:
        """0 when every trial finished or diverged, else 1. A diverged trial is a result, shown and never fitted."""
        return 1 if self.failed or self.pending else 0
