"""Who may write a run: the runner that owns the trial, its lease, and the lock and claim in the run's folder.

Every durable write happens under the run's lock and only while ``claim.json`` names the writer. A runner that slept
past its lease finds another name there and is refused; a runner that claims waits for a write in progress. This needs
nothing but the folder, so a trial's process never opens the index.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json, replace_text
from metascale.study.errors import LeaseLost
from metascale.study.store.index import Index

CLAIM = "claim.json"
LOCK = ".lock"
_RETRY_S = 0.01
_retired: set[str] = set()


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
    # Here because it takes 30 ms, and readers of a study lock nothing.
    import filelock

    # Without the fallback: a lock that is a file's existence would outlive its holder.
    lock = filelock.FileLock(
        folder / LOCK, -1 if timeout_s is None else timeout_s, poll_interval=_RETRY_S, fallback_to_soft=False
    )
    with lock:
        yield


def put_claim(folder: Path, claim: Claim) -> None:
    """Make ``claim`` the one whose writes are allowed. Call it under the lock."""
    # Not fsynced: the claim guards against processes that live, and none of them outlives the machine.
    replace_text(folder / CLAIM, canonical_json(claim))


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


def _machine() -> str:
    # Process ids mean nothing across boots and pid namespaces (containers), so both are part of the place's name.
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        parts += [boot.read_text().strip()[:8], os.readlink("/proc/self/ns/pid").strip("pid:[]")]
    return "/".join(parts)


def _started(pid: int) -> int | None:
    """When process ``pid`` started, on a clock of this system; ``None`` when there is no such process or it has ended.

    On Linux these are clock ticks since the boot: the wall clock, from which psutil counts, may be set.
    """
    if sys.platform == "linux":
        return _started_in_ticks(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() * 1000)
    except psutil.NoSuchProcess:
        return None


def _started_in_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the program's name in parentheses, may hold spaces and parentheses itself.
    fields = stat[stat.rindex(b")") + 1 :].split()
    state, ticks = fields[0], fields[19]
    return None if state in (b"Z", b"X", b"x") else int(ticks)


def new_owner() -> str:
    """A name for this runner, unlike every other: place, process id, start, and a random part."""
    pid = os.getpid()
    return f"{_machine()}:{pid}:{_started(pid)}:{secrets.token_hex(4)}"


def retire(owner: str) -> None:
    """Note that the runner named ``owner`` is over although its process, this one, lives on."""
    _retired.add(owner)


def is_alive(owner: str) -> bool | None:
    """Whether the runner named ``owner`` lives; ``None`` when that cannot be seen from here (another machine).

    One of an earlier boot of this machine is dead.
    """
    if owner in _retired:
        return False
    machine, pid, started, _ = owner.rsplit(":", 3)
    ours = _machine()
    if machine != ours:
        theirs, here = machine.split("/"), ours.split("/")
        # No process outlives a boot of its machine. In another pid namespace of this boot it cannot be seen.
        return False if theirs[0] == here[0] and len(theirs) > 1 < len(here) and theirs[1] != here[1] else None
    now = _started(int(pid))
    return now is not None and str(now) == started


@contextlib.contextmanager
def renewed(index_path: Path, owner: str, lease_s: float) -> Iterator[None]:
    """Renew every lease of ``owner``, from a thread of its own, four times a lease."""
    stop = threading.Event()

    def beat() -> None:
        index = Index(index_path)
        while not stop.wait(lease_s / 4):
            try:
                index.renew(owner, lease_s)
            except sqlite3.OperationalError:
                # Locked or full for a moment: three more beats fit into the lease, and the fence holds anyway.
                continue
        index.close()

    thread = threading.Thread(target=beat, name="metascale-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
