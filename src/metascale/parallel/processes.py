"""Processes that run the tasks of a meta-batch side by side, each with one thread and a Python of its own.

Threads share Python's lock, which a net of many small operations on few cores keeps waiting for. The processes start
at the first use, stay for the next meta-batch, and end with the program. A model is sent once; parameters and data of
every meta-batch go through a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.types import Episode
from metascale.parallel.messages import CannotBeLoaded, CannotBeSent, pack, pack_around_model, receive, send, unpack

_PATIENCE_S = 5.0
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Memory that a step freed is kept for the next, instead of going back to the system page by page (glibc).
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}
_REMEDY = (
    "define models and functions in a module that can be imported, or let tasks run stacked or in threads (see "
    "task_execution)"
)
_START = "import sys; sys.path[:] = {path!r}; from metascale.parallel.task_process import main; main()"


class ProcessEnded(MetascaleError):
    """A process that ran tasks ended before it answered: it was killed, or the machine had no memory for it."""


class TaskProcesses:
    """A growing set of processes. Close it, or let the end of the program do so."""

    def __init__(self) -> None:
        self.processes: list[TaskProcess] = []
        self._one_at_a_time = threading.Lock()

    def map(self, function: Any, chunks: Sequence[tuple[Episode, int]], n_processes: int) -> list[Any]:
        """``function(chunk of tasks, index of its first task)`` for every chunk, in their order.

        Args:
            function: a callable that another process can load: an instance of a class of a module, or a function of
                one. The first model that it holds is turned into bytes each time, and sent where they are new.
            n_processes: that work at the same time.

        Raises:
            InputError: another process cannot load the function or the model.
            ProcessEnded: a process ended before it answered.
        """
        with self._one_at_a_time:  # threads that share the processes take turns
            return self._map(function, chunks, n_processes)

    def _map(self, function: Any, chunks: Sequence[tuple[Episode, int]], n_processes: int) -> list[Any]:
        while len(self.processes) < n_processes:
            self.processes.append(TaskProcess())
        try:
            request, model = pack_around_model(function)
            model_message = pack(("model", pack(model)))
        except CannotBeSent as error:
            raise InputError(f"{_name(function)} cannot be sent to another process: {error}; {_REMEDY}") from error
        # By its bytes: a model that was changed in place since is another one.
        digest = hashlib.sha256(model_message).digest()
        gradients = torch.is_grad_enabled()
        idle: queue.SimpleQueue[TaskProcess] = queue.SimpleQueue()
        for process in self.processes[:n_processes]:
            idle.put(process)

        def run(chunk: tuple[Episode, int]) -> Any:
            process = idle.get()
            try:
                return process.call(digest, model_message, pack(("call", request, pack(chunk[0]), chunk[1], gradients)))
            finally:
                idle.put(process)

        with contextlib.ExitStack() as interrupted:
            interrupted.callback(self.close)  # replies may be under way that nobody will read
            with ThreadPoolExecutor(n_processes, thread_name_prefix="metascale-task") as threads:
                replies = list(threads.map(run, chunks))
            interrupted.pop_all()
        return [_result(reply) for reply in replies]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.dismiss()
        for process in self.processes:
            process.join()
        self.processes.clear()


class TaskProcess:
    """One process, and the pipe to it."""

    def __init__(self) -> None:
        self._holds = b""
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
        )

    @property
    def pid(self) -> int:
        """As the system numbers it."""
        return self._child.pid

    def call(self, digest: bytes, model_message: bytes, request: bytes) -> tuple[Any, ...]:
        """The reply to a request, after sending the model of that digest where it is not there yet."""
        if self._holds != digest:
            reply = self._answer(model_message)
            if reply[0] != "done":
                return reply
            self._holds = digest
        return self._answer(request)

    def _answer(self, request: bytes) -> tuple[Any, ...]:
        answer = None
        with contextlib.suppress(BrokenPipeError):
            send(cast("BinaryIO", self._child.stdin), request)
            answer = receive(cast("BinaryIO", self._child.stdout))
        if answer is None:
            status = self._child.wait()
            raise ProcessEnded(
                f"a process that ran tasks ended with status {status} before it answered; it was killed, or the "
                "machine had too little memory for it"
            )
        return tuple(unpack(answer))

    def dismiss(self) -> None:
        """Tell it that nothing more will come."""
        with contextlib.suppress(BrokenPipeError):
            cast("BinaryIO", self._child.stdin).close()

    def join(self) -> None:
        """Wait for its end, after some patience by force."""
        try:
            self._child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        cast("BinaryIO", self._child.stdout).close()


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _result(reply: tuple[Any, ...]) -> Any:
    kind, *values = reply
    if kind == "done":
        return values[0]
    error, trace = values
    if isinstance(error, CannotBeLoaded):
        raise InputError(f"another process could not load what it should run ({error}); {_REMEDY}")
    raise error from RuntimeError(f"in a process that ran tasks:\n{trace}")


_shared: dict[int, TaskProcesses] = {}


def task_processes() -> TaskProcesses:
    """The processes that everything in this program shares; a fork of it starts its own."""
    return _shared.setdefault(os.getpid(), TaskProcesses())


@atexit.register
def _close_own() -> None:
    if os.getpid() in _shared:
        _shared[os.getpid()].close()
