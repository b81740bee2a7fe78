"""The process that trials are forked from: it loads the heavy modules once, so a trial starts in milliseconds.

Run by `ProcessExecutor` as ``python -m metascale.study.run.fork_server SOCKET PARENT``. It forks one process a job,
each in a process group of its own, and reports how each ended. When the runner dies, however it dies, so do they all.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from metascale.study.design import load_function
from metascale.study.run.job import Job
from metascale.study.run.stopping import die_with, stop_on_signal
from metascale.study.run.supervise import execute
from metascale.study.store.folder import OUTPUT
from metascale.study.store.provenance import machine, sources


def main(arguments: list[str]) -> None:
    """Serve jobs from the socket until it closes."""
    descriptor, parent = map(int, arguments)
    die_with(parent)
    # A signal that a handler exists for wakes `select` through this pipe.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    _Server(socket.socket(fileno=descriptor), wake_read).serve()


class _Server:
    def __init__(self, connection: socket.socket, wake: int) -> None:
        self._connection = connection
        self._wake = wake
        self._received = b""
        self._slots: dict[int, int] = {}
        self._loaded: set[str] = set()

    def serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._connection.fileno(), self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
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
            for pid, slot in self._slots.items():
                if slot == message["kill"]:
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
        pid = os.fork()
        if pid == 0:
            self._connection.close()
            run_trial(server, cores, job)
        # The child does it too; whoever comes first, its group exists before anyone signals it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        self._slots[pid] = slot

    def _reap(self) -> None:
        while self._slots:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._slots:
                report = {"slot": self._slots.pop(pid), "code": os.waitstatus_to_exitcode(status)}
                self._connection.sendall(json.dumps(report).encode() + b"\n")

    def _end_all(self) -> None:
        for pid in self._slots:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self._slots:
            os.waitpid(pid, 0)


def run_trial(server: int, cores: list[int], job: Job) -> NoReturn:
    """The forked process: a clean slate, the trial, and out without the server's exit handlers."""
    code = 1
    try:
        os.setpgid(0, 0)
        die_with(server)
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
        code = execute(job)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        # The process ends here whatever happened: nothing may return into the server's code.
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
