"""The fence around a run's folder: a file lock and the claim that holds it.

Every durable write happens under the run's lock and only while ``claim.json`` names the writer. A runner that slept
past its lease finds another name there and is refused; a runner that claims waits for a write in progress. The fence
needs nothing but the folder, so a trial's process never opens the index.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json
from metascale.study.errors import LeaseLost

CLAIM = "claim.json"
LOCK = ".lock"
_RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial taken by a runner: what every later write of the run is checked by.

    ``worker`` names one execution of the attempt where a scheduler may start it again by itself (a node that was lost,
    a job that was requeued): the last to start is the one that may write.
    """

    trial_id: str
    owner: str
    attempt: int
    worker: str = ""

    def same_attempt(self, other: Claim | None) -> bool:
        """Whether ``other`` is this attempt, whoever executes it."""
        return other is not None and (self.trial_id, self.owner, self.attempt) == (
            other.trial_id,
            other.owner,
            other.attempt,
        )


@contextmanager
def locked(folder: Path, timeout_s: float | None = None) -> Iterator[None]:
    """Hold the lock of ``folder``; the system frees it when the holder dies.

    Raises:
        TimeoutError: somebody else held it for ``timeout_s`` seconds.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if timeout_s is None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            _lock_before(descriptor, time.monotonic() + timeout_s, folder)
        yield
    finally:
        os.close(descriptor)


def _lock_before(descriptor: int, deadline: float, folder: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the lock of {folder} is held by another process") from error
            time.sleep(_RETRY_S)


def put_claim(folder: Path, claim: Claim) -> None:
    """Make ``claim`` the one whose writes are allowed. Call it under the lock."""
    # Not fsynced: the claim guards against processes that live, and none of them outlives the machine.
    temporary = folder / f".{CLAIM}.{os.getpid()}.tmp"
    temporary.write_text(canonical_json(claim))
    os.replace(temporary, folder / CLAIM)


def take_over(folder: Path, claim: Claim) -> Claim:
    """Make this execution of the attempt the one that may write; an earlier one is refused from here on.

    Raises:
        LeaseLost: the attempt is over, or another runner's by now.
    """
    mine = replace(claim, worker=secrets.token_hex(4))
    with locked(folder):
        if not claim.same_attempt(read_claim(folder)):
            check_claim(folder, mine)
        put_claim(folder, mine)
    return mine


def read_claim(folder: Path) -> Claim | None:
    """The claim whose writes are allowed now.

    Raises:
        CorruptFile: it is not what was written.
    """
    path = folder / CLAIM
    if not path.exists():
        return None
    stored = read_json(path)
    try:
        return Claim(**stored)
    except TypeError as error:
        raise CorruptFile(f"{path} holds no claim") from error


@contextmanager
def fenced(folder: Path, claim: Claim) -> Iterator[None]:
    """A durable write by ``claim``.

    Raises:
        LeaseLost: the run is finished, or another runner's by now.
    """
    with locked(folder):
        check_claim(folder, claim)
        yield


def check_claim(folder: Path, claim: Claim) -> None:
    """Raise `LeaseLost` unless ``claim`` still holds the run."""
    now = read_claim(folder)
    if now != claim:
        holder = "nobody" if now is None else f"{now.owner}, attempt {now.attempt}"
        raise LeaseLost(f"attempt {claim.attempt} of {claim.owner} may not write to {folder}: it is held by {holder}")
