"""Asking for a stop: of all runners of a study, of one attempt of a trial, or of this process by a signal.

A study is asked by a small file in its folder that runners and trials look for: those that run when it comes obey it,
those that start later do not. One attempt is asked by a file in its run's folder that names it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from metascale.core.files import read_json, write_json
from metascale.study.errors import Interrupted
from metascale.study.store.claims import Claim
from metascale.study.store.folder import STOP

Mode: TypeAlias = Literal["finish", "checkpoint"]
"""Running trials run to their end, or are saved after the step in progress and end there."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_signalled = threading.Event()
"""Whether a signal asked this process to stop: one note a process, as a signal reaches all of it."""


def ask_to_stop(folder: Path, mode: Mode) -> None:
    """Have every runner of the study start no new trial; what runs ends as ``mode`` says."""
    write_json(folder / STOP, {"mode": mode, "request": secrets.token_hex(8), "at": time.time()})


def ask_run_to_stop(run_folder: Path, claim: Claim) -> None:
    """Have the attempt of ``claim``, and no other, end as soon as it is saved, wherever it runs."""
    write_json(run_folder / STOP, {"owner": claim.owner, "attempt": claim.attempt, "at": time.time()})


def read_request(folder: Path) -> dict[str, Any] | None:
    """The last request to stop in a folder."""
    path = folder / STOP
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        # Another attempt has begun and removed it.
        return None
    return found


@dataclass(slots=True)
class StopWatch:
    """Reports a stop request issued after this process started.

    Args:
        folder: the study's.
        seen: the request that was there already.
        run_folder, claim: of the one attempt that asks, where it is one.
    """

    folder: Path
    seen: str
    run_folder: Path | None = None
    claim: Claim | None = None

    @classmethod
    def start(cls, folder: Path) -> StopWatch:
        """A watch for requests that come from now on."""
        found = read_request(folder)
        return cls(folder, "" if found is None else str(found["request"]))

    def signalled(self) -> bool:
        """`is_signalled`: free of charge, unlike `asked`, which looks for files."""
        return is_signalled()

    def asked(self) -> Mode | None:
        """How to stop, if a stop was requested."""
        if is_signalled() or self._attempt_asked():
            return "checkpoint"
        found = read_request(self.folder)
        if found is None or found["request"] == self.seen:
            return None
        mode: Mode = found["mode"]
        return mode

    def _attempt_asked(self) -> bool:
        found = None if self.run_folder is None else read_request(self.run_folder)
        mine = None if self.claim is None else (self.claim.owner, self.claim.attempt)
        return found is not None and (found["owner"], found["attempt"]) == mine


def is_signalled() -> bool:
    """Whether a signal asked this process to stop."""
    return _signalled.is_set()


def stop_on_signal(*signals: signal.Signals) -> None:
    """Have each of ``signals`` ask this process to stop, for the rest of its life."""
    for number in signals:
        signal.signal(number, lambda number, frame: _signalled.set())


@contextmanager
def stopping_on_signals(*signals: signal.Signals) -> Iterator[Callable[[], None]]:
    """Inside the block, the first of ``signals`` asks this process to stop, and a second one ends the block at once.

    A signal that is ignored, or that the program handles itself, is left alone; so are all outside the main thread.
    The block gets a function that takes the signals back from a library that took them when it was opened (Ray).

    Raises:
        Interrupted: at the end of the block when a signal came, in the middle of it when a second one did.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        _signalled.set()
        if len(came) > 1:
            raise Interrupted(number)

    ours: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        ordinary = (signal.SIG_DFL, signal.default_int_handler)
        ours = {number: handler for number in signals if (handler := signal.getsignal(number)) in ordinary}

    def take() -> None:
        for number in ours:
            signal.signal(number, note)

    try:
        take()
        yield take
        if came:
            raise Interrupted(came[0])
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if came:
            _signalled.clear()


def die_with(parent: int, number: int = 9) -> None:
    """Have the system signal this process when its parent ends (Linux; elsewhere the closed socket does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends (Linux): none is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
