"""Who owns a running trial: a name for this runner, and whether the runner of a given name still lives."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from pathlib import Path


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


_retired: set[str] = set()


def new_owner() -> str:
    """A name for this runner, unlike every other: place, process id, start, and a random part."""
    pid = os.getpid()
    return f"{_machine()}:{pid}:{_started(pid)}:{secrets.token_hex(4)}"


def retire(owner: str) -> None:
    """Note that the runner named ``owner`` is over although its process, this one, lives on."""
    _retired.add(owner)


def is_alive(owner: str) -> bool | None:
    """Whether the runner named ``owner`` lives; ``None`` when that cannot be seen from here (another machine)."""
    if owner in _retired:
        return False
    machine, pid, started, _ = owner.rsplit(":", 3)
    if machine != _machine():
        return None
    now = _started(int(pid))
    return now is not None and str(now) == started
