"""The process that trials are forked from: it loads the heavy modules once, so a trial starts in milliseconds.

Run by `ProcessExecutor` as ``python -m metascale.study.run.fork_server SOCKET PARENT``. It forks one process a job,
each in a process group of its own, and reports how each ended. When the runner dies, however it dies, so do they all.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# Every trial takes a lock, and would load this by itself.
import filelock  # noqa: F401
import psutil

from metascale.study.design import load_function
from metascale.study.run.job import Job, own_status
from metascale.study.run.stack import execute_all
from metascale.study.run.stopping import adopt_orphans, die_with, stop_on_signal
from metascale.study.store.folder import OUTPUT
from metascale.study.store.provenance import machine, sources

_POLL_S = 0.05
_ALARM_S = 30
_GRACE_S = 2.0
"""How long what a trial left behind has to end after SIGTERM, before it is killed."""


def main(arguments: list[str]) -> None:
    """Serve jobs from the socket until it closes."""
    descriptor, parent = map(int, arguments)
    # A signal that a handler exists for wakes `select` through this pipe.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    # Not SIGKILL: the server first ends its trials and all that they started. An alarm ends it where it cannot.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_ALARM_S if os.getppid() != parent else 0))
    die_with(parent, signal.SIGTERM)
    adopt_orphans()
    _Server(socket.socket(fileno=descriptor), wake_read, parent).serve()


@dataclass(slots=True)
class _Trial:
    """A process of ``n`` trials: its slot, where it tells how they ended, and their exit codes, while the end of what
    it started is waited for."""

    slot: int
    told: int
    n: int
    codes: list[int] | None = None
    until: float = 0.0


class _Server:
    def __init__(self, connection: socket.socket, wake: int, parent: int) -> None:
        self._connection = connection
        self._wake = wake
        self._parent = parent
        self._received = b""
        self._trials: dict[int, _Trial] = {}
        self._loaded: set[str] = set()

    def serve(self) -> None:
        while True:
            ending = any(trial.codes is not None for trial in self._trials.values())
            ready, _, _ = select.select([self._connection.fileno(), self._wake], [], [], _POLL_S if ending else None)
            if os.getppid() != self._parent:
                self._end_all()
                return
            if self._wake in ready:
                os.read(self._wake, 4096)
            self._reap()
            self._see_off()
            if self._connection.fileno() in ready:
                data = self._connection.recv(1 << 20)
                if not data:
                    self._end_all()
                    return
                *lines, self._received = (self._received + data).split(b"\n")
                for line in lines:
                    self._handle(json.loads(line))

    def _handle(self, message: dict[str, Any]) -> None:
        if "job" in message:
            self._load(message["job"]["config"]["trial"])
            self._fork(message["slot"], message["cores"], Job(**message["job"]))
            return
        if "kill" in message:
            for pid, trial in self._trials.items():
                if trial.slot == message["kill"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
            return
        sys.path[:] = message["sys_path"]
        for module in message["preload"]:
            importlib.import_module(module)
        # Gathered before the first fork, so that every trial inherits it.
        machine()

    def _load(self, function: str) -> None:
        """Load the trial function's module before the first fork that needs it."""
        if function in self._loaded:
            return
        self._loaded.add(function)
        sources(function)
        try:
            load_function(function)
        except (Exception, SystemExit):  # noqa: BLE001
            # The trial's own process meets the same error, and records it.
            return

    def _fork(self, slot: int, cores: list[int], job: Job) -> None:
        server = os.getpid()
        told, tell = os.pipe()
        os.set_blocking(told, False)
        # A collection in the trial's process would write to, and so copy, every page that it shares with this one.
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            self._connection.close()
            run_trial(server, cores, job, tell)
        os.close(tell)
        # The child does it too; whoever comes first, its group exists before anyone signals it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        self._trials[pid] = _Trial(slot, told, 1 + len(job.beside))
        self._send({"slot": slot, "pid": pid})

    def _reap(self) -> None:
        """Note which trials ended, and ask what they left behind to end."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                trial = self._trials.get(pid)
                if trial is None:
                    continue  # what a trial had left behind
                told = b""
                with contextlib.suppress(BlockingIOError):
                    told = os.read(trial.told, 1 << 16)
                code = own_status(os.waitstatus_to_exitcode(status), bool(told))
                # One of several trials that ended has not ended the others: its code says nothing of them.
                trial.codes = json.loads(told) if told and code >= 0 and trial.n > 1 else [code] * trial.n
                trial.until = time.monotonic() + _GRACE_S
                self._signal_left(pid, signal.SIGTERM)

    def _see_off(self) -> None:
        """Report trials that ended once nothing that they started lives any more."""
        for pid, trial in list(self._trials.items()):
            if trial.codes is None:
                continue
            if self._signal_left(pid, signal.SIGKILL if time.monotonic() > trial.until else None):
                continue
            del self._trials[pid]
            os.close(trial.told)
            self._send({"slot": trial.slot, "codes": trial.codes})

    def _signal_left(self, group: int, number: signal.Signals | None) -> bool:
        """Signal what is left of an ended trial: its process group, and what left that and became our child."""
        left = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number or 0)
            left = True
        for orphan in _children():
            # A process may be in the group of a trial that runs only if that trial, which adopts its own, started it.
            if orphan not in self._trials:
                left = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, number or 0)
        return left

    def _send(self, message: Mapping[str, object]) -> None:
        # The runner is gone: the next look at the connection ends everything.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _end_all(self) -> None:
        """Kill every trial and all that they started."""
        for pid in self._trials:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        until = time.monotonic() + _GRACE_S
        while time.monotonic() < until:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            # What a killed trial had started is ours by now.
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(_POLL_S / 10)


def _children() -> list[int]:
    """The processes that this one, which has a single thread, is the parent of: none ends unseen before it is reaped.

    Linux tells them in one file; elsewhere every process of the machine is asked for its parent (milliseconds).
    """
    own = os.getpid()
    try:
        return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
    except OSError:
        return [child.pid for child in psutil.Process(own).children()]


def run_trial(server: int, cores: list[int], job: Job, tell: int) -> NoReturn:
    """The forked process: a clean slate, the trial, and out without the server's exit handlers."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with(server)
        adopt_orphans()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        stop_on_signal(signal.SIGUSR1, signal.SIGTERM)
        output = os.open(Path(job.folder) / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable()
        if cores:
            os.sched_setaffinity(0, cores)
        codes = execute_all(job, own_output=True)
        os.write(tell, json.dumps(codes).encode())
        code = codes[0] if len(codes) == 1 else 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        # The process ends here whatever happened: nothing may return into the server's code.
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
