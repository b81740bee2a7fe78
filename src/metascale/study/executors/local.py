"""Where trials run: here one after another, or in processes on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError, MetascaleError
from metascale.study.errors import require_posix
from metascale.study.executors import check_positive, require_torch
from metascale.study.run.job import Ended, ExitCode, Job, Pool
from metascale.study.run.output import bound_output
from metascale.study.run.stack import execute_all
from metascale.study.run.supervise import HANG_S, Pulse, overdue
from metascale.study.store.folder import OUTPUT
from metascale.study.store.provenance import THREAD_VARIABLES


@dataclass(frozen=True, slots=True)
class SerialExecutor:
    """Trials one after another in this process, on the devices in turn. A trial that crashes takes the runner along.

    With ``processes_per_trial`` above 1 each trial runs in so many processes of its own, by torchrun.
    """

    devices: Sequence[str] = ("cpu",)
    processes_per_trial: int = 1

    def __post_init__(self) -> None:
        check_devices(self.devices)
        check_positive(self, "processes_per_trial")

    def check(self) -> None:
        require_torch(self.processes_per_trial)

    @contextmanager
    def open(self) -> Iterator[Pool]:
        yield _SerialPool(self.devices, self.processes_per_trial)


@dataclass(slots=True)
class _SerialPool:
    devices: Sequence[str]
    processes: int
    started: int = 0
    waiting: list[Job] = field(default_factory=list)

    def free_device(self) -> str | None:
        return None if self.waiting else device_of(self.devices, self.started, self.processes)

    def submit(self, job: Job) -> None:
        self.waiting.append(job)
        self.started += 1

    def wait(self, timeout_s: float) -> list[Ended]:
        if not self.waiting:
            time.sleep(timeout_s)
            return []
        start = time.monotonic()
        job = self.waiting[0]
        codes = execute_all(replace(job, processes=self.processes))
        self.waiting.clear()
        return _ended(job, codes, time.monotonic() - start)


@dataclass(frozen=True, slots=True)
class ProcessExecutor:
    """One process a trial, ``workers`` at a time, each forked from a server that has loaded the heavy modules.

    Args:
        workers: trials at a time.
        devices: worker k runs on ``devices[k % len(devices)]``: ``("cuda:0", "cuda:1")`` or ``("cpu",)``.
        threads_per_worker: threads of the numerical libraries in each trial, set before they load. It is recorded with
            every attempt, because it changes the last bits of sums.
        preload: modules to load once, before the first fork (``"torch"``); the trial function's module always is.
        pin_cores: give worker k ``threads_per_worker`` cores of its own.
        processes_per_trial: processes that run one trial together, by torchrun, each with a device of its own.
        hang_s: a trial that wrote nothing (progress, records, output) for so long is killed; ``None`` never.
        trial_timeout_s: an attempt at a trial that lasts longer is killed and has failed; ``None``: it may last.
    """

    workers: int
    devices: Sequence[str] = ("cpu",)
    threads_per_worker: int = 1
    preload: Sequence[str] = ()
    pin_cores: bool = False
    processes_per_trial: int = 1
    hang_s: float | None = HANG_S
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        check_devices(self.devices)
        check_positive(self, "workers", "threads_per_worker", "processes_per_trial", "hang_s", "trial_timeout_s")

    def check(self) -> None:
        require_posix("a study in processes")
        require_torch(self.processes_per_trial)

    @contextmanager
    def open(self) -> Iterator[Pool]:
        self.check()
        ours, theirs = socket.socketpair()
        pinned = {name: str(self.threads_per_worker) for name in THREAD_VARIABLES}
        command = [sys.executable, "-m", "metascale.study.run.fork_server", str(theirs.fileno()), str(os.getpid())]
        # Its own session: Ctrl-C reaches the runner alone, which then ends the trials in order.
        server = subprocess.Popen(
            command,
            env={**os.environ, **pinned},
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        pool = _ProcessPool(self, ours)
        try:
            pool.send({"sys_path": sys.path, "preload": list(self.preload)})
            yield pool
        finally:
            # The end of the connection makes the server end every trial and itself.
            ours.close()
            server.wait()


class _ProcessPool:
    def __init__(self, executor: ProcessExecutor, connection: socket.socket) -> None:
        self._executor = executor
        self._connection = connection
        self._received = b""
        self._running: dict[int, tuple[Job, float, Pulse]] = {}
        # The processes of running trials, by slot, and why we killed one.
        self._pids: dict[int, int] = {}
        self._killed: dict[int, ExitCode] = {}

    def free_device(self) -> str | None:
        slot = self._free_slot()
        if slot is None:
            return None
        return device_of(self._executor.devices, slot, self._executor.processes_per_trial)

    def submit(self, job: Job) -> None:
        slot = self._free_slot()
        if slot is None:
            raise MetascaleError("a job was submitted while every worker was busy")
        executor = self._executor
        job = replace(
            job,
            processes=executor.processes_per_trial,
            hang_s=executor.hang_s,
            trial_timeout_s=executor.trial_timeout_s,
        )
        self._running[slot] = (job, time.monotonic(), Pulse(*_folders(job)))
        self.send({"slot": slot, "cores": self._cores(slot), "job": asdict(job)})

    def wait(self, timeout_s: float) -> list[Ended]:
        for slot, watched in self._running.items():
            self._watch(slot, *watched)
        select.select([self._connection], [], [], timeout_s)
        ended = []
        for message in self._receive():
            slot = message["slot"]
            if "pid" in message:
                self._pids[slot] = message["pid"]
                continue
            job, start, _ = self._running.pop(slot)
            self._pids.pop(slot, None)
            for folder in _folders(job):
                bound_output(folder / OUTPUT)
            killed = self._killed.pop(slot, None)
            codes = message["codes"] if killed is None else [killed] * len(_folders(job))
            ended += _ended(job, codes, time.monotonic() - start)
        return ended

    def _watch(self, slot: int, job: Job, start: float, pulse: Pulse) -> None:
        """Bound a trial's output, and kill it where it is overdue. One on several processes has its own supervisor."""
        if job.processes > 1:
            return
        for folder in _folders(job):
            bound_output(folder / OUTPUT)
        code = overdue(job, start, pulse)
        if code is not None and slot not in self._killed:
            self._killed[slot] = code
            self.send({"kill": slot})

    def send(self, message: Mapping[str, object]) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._server_died() from error

    def _receive(self) -> list[dict[str, Any]]:
        while select.select([self._connection], [], [], 0)[0]:
            try:
                data = self._connection.recv(65536)
            except ConnectionResetError as error:
                raise self._server_died() from error
            if not data:
                raise self._server_died()
            self._received += data
        *lines, self._received = self._received.split(b"\n")
        return [json.loads(line) for line in lines]

    def _server_died(self) -> MetascaleError:
        # Its trials die with it; what they started is in their groups.
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        return MetascaleError(
            "the process that starts the trials ended unexpectedly (its message is above); run the same command again"
        )

    def _free_slot(self) -> int | None:
        return next((slot for slot in range(self._executor.workers) if slot not in self._running), None)

    def _cores(self, slot: int) -> list[int]:
        if not self._executor.pin_cores or not hasattr(os, "sched_getaffinity"):
            return []
        cores, share = sorted(os.sched_getaffinity(0)), self._executor.threads_per_worker
        return [cores[(slot * share + k) % len(cores)] for k in range(share)]


def _folders(job: Job) -> list[Path]:
    """The runs' folders of a job and of those beside it."""
    return [Path(each.folder) for each in job.together()]


def _ended(job: Job, codes: Sequence[int], wall_s: float) -> list[Ended]:
    return [Ended(each, code, wall_s) for each, code in zip(job.together(), codes, strict=True)]


def device_of(devices: Sequence[str], slot: int, processes: int) -> str:
    """The device of a slot, or those of its processes, separated by commas."""
    if len(devices) == 1:
        return devices[0]
    return ",".join(devices[(slot * processes + k) % len(devices)] for k in range(processes))


def check_devices(devices: Sequence[str]) -> None:
    """Refuse anything but a list of device names.

    Raises:
        InputError: an empty list, or a single text.
    """
    if isinstance(devices, str) or not devices:
        raise InputError(f"an executor needs a list of at least one device, such as ['cpu'], not {devices!r}")
