"""Processes that run the tasks of a meta-batch side by side, each with one thread and its own Python interpreter.

Threads share Python's lock, on which a net of many small operations keeps waiting. The processes start at the first
use, stay for the next meta-batch, and end with the program. A model is sent once; parameters and data of every
meta-batch go through a pipe.

A message is its length in eight bytes, then a pickle: this is the one module of the package that unpickles, which can
run code. Only a program and the children that it started itself exchange messages, through pipes that nobody else can
reach; nothing is read from a file or a network. Tensors travel as plain bytes, without history, and lie on the CPU.

Requests: ("model", its bytes), kept for all calls that follow; ("call", function, chunk of tasks, index of its first,
whether gradients are on). Replies: ("done", result) or ("failed", the error, its traceback).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.types import Episode

Result = TypeVar("Result")
_MODEL = "model"


class CannotBeSent(Exception):
    """An object that another process cannot load, such as a closure."""


class CannotBeLoaded(Exception):
    """A message names a class or function that this process cannot import, such as one of the program's own script."""


def send(stream: BinaryIO, message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """The next message; ``None`` when the other side has closed the pipe."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    expected = int.from_bytes(size, "little")
    message = stream.read(expected)
    return message if len(message) == expected else None


def pack(value: object) -> bytes:
    """A value as bytes.

    Raises:
        CannotBeSent: it holds a class or function that cannot be imported by name.
    """
    return _packed(value, find_model=False)[0]


def pack_around_model(value: object) -> tuple[bytes, object]:
    """A value as bytes without the first model that it holds, and that model (``None``: it holds none).

    A model is an object with an attribute ``task_execution``.

    Raises:
        CannotBeSent: the value holds a class or function that cannot be imported by name.
    """
    return _packed(value, find_model=True)


def portable(error: Exception) -> Exception:
    """The error, or a `RuntimeError` with its message where it cannot be sent."""
    try:
        unpack(pack(error))
    except (CannotBeSent, CannotBeLoaded, TypeError, ValueError):  # a constructor with more arguments than the message
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def unpack(message: bytes, model: object = None) -> Any:
    """The value, with ``model`` where `pack_around_model` left one out.

    Raises:
        CannotBeLoaded: this process cannot import a class or function of it.
    """
    try:
        return _Unpickler(io.BytesIO(message), model).load()
    except (AttributeError, ImportError) as error:
        raise CannotBeLoaded(f"{type(error).__name__}: {error}") from error


def _packed(value: object, find_model: bool) -> tuple[bytes, object]:
    stream = io.BytesIO()
    pickler = _Pickler(stream, find_model)
    try:
        pickler.dump(value)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise CannotBeSent(str(error)) from error
    return stream.getvalue(), pickler.model


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, find_model: bool) -> None:
        super().__init__(stream, protocol=5)
        self._find_model = find_model
        self.model: object = None

    def persistent_id(self, value: object) -> str | None:
        if self._find_model and self.model is None and hasattr(type(value), "task_execution"):
            self.model = value
        return _MODEL if self.model is not None and value is self.model else None

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not torch.Tensor or value.layout is not torch.strided:
            return NotImplemented
        plain = value.detach().cpu().contiguous()
        data = bytearray(plain.reshape(-1).view(torch.uint8).numpy())
        return _tensor, (data, plain.dtype, tuple(plain.shape))


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, model: object) -> None:
        super().__init__(stream)
        self._model = model

    def persistent_load(self, name: str) -> object:
        return self._model


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


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
_START = "import sys; sys.path[:] = {path!r}; from metascale.parallel.processes import main; main()"


class ProcessEnded(MetascaleError):
    """A process that ran tasks ended before it answered: it was killed, or the machine had no memory for it."""


class TaskProcesses:
    """A growing set of processes, which end with `close` or with the program."""

    def __init__(self) -> None:
        self.processes: list[TaskProcess] = []
        self._one_at_a_time = threading.Lock()

    def map(
        self, function: Callable[[Episode, int], Result], chunks: Sequence[tuple[Episode, int]], n_processes: int
    ) -> list[Result]:
        """``function(chunk of tasks, index of its first task)`` for every chunk, in their order.

        Args:
            function: a function of an importable module, or an instance of such a module's class. The first model that
                it holds is pickled every time, but sent only where its bytes are new.
            n_processes: how many work at the same time.

        Raises:
            InputError: another process cannot load the function or the model.
            ProcessEnded: a process ended before it answered.
        """
        with self._one_at_a_time:  # threads that share the processes take turns
            return self._map(function, chunks, n_processes)

    def _map(
        self, function: Callable[[Episode, int], Result], chunks: Sequence[tuple[Episode, int]], n_processes: int
    ) -> list[Result]:
        while len(self.processes) < n_processes:
            self.processes.append(TaskProcess())
        try:
            request, model = pack_around_model(function)
            model_message = pack(("model", pack(model)))
        except CannotBeSent as error:
            raise InputError(f"{_name(function)} cannot be sent to another process: {error}; {_REMEDY}") from error
        # By its bytes: a model that was changed in place is sent again.
        digest = hashlib.sha256(model_message).digest()
        gradients = torch.is_grad_enabled()
        idle: queue.SimpleQueue[TaskProcess] = queue.SimpleQueue()
        for process in self.processes[:n_processes]:
            idle.put(process)

        def run(chunk: tuple[Episode, int]) -> tuple[Any, ...]:
            process = idle.get()
            try:
                return process.call(digest, model_message, pack(("call", request, pack(chunk[0]), chunk[1], gradients)))
            finally:
                idle.put(process)

        with contextlib.ExitStack() as interrupted:
            interrupted.callback(self.close)  # unread replies would be taken for those of the next call
            with ThreadPoolExecutor(n_processes, thread_name_prefix="metascale-task") as threads:
                replies = list(threads.map(run, chunks))
            interrupted.pop_all()
        return [_result(reply) for reply in replies]

    def close(self) -> None:
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
        return self._child.pid

    def call(self, digest: bytes, model_message: bytes, request: bytes) -> tuple[Any, ...]:
        """The reply to a request; the model is sent first where the process does not hold the one of that digest."""
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
        """Close its input, which ends it."""
        with contextlib.suppress(BrokenPipeError):
            cast("BinaryIO", self._child.stdin).close()

    def join(self) -> None:
        """Wait for its end; kill it if that takes too long."""
        try:
            self._child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        cast("BinaryIO", self._child.stdout).close()


def _name(function: object) -> str:
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
    """The processes that everything in this program shares; a forked program starts its own."""
    return _shared.setdefault(os.getpid(), TaskProcesses())


@atexit.register
def _close_own() -> None:
    if os.getpid() in _shared:
        _shared[os.getpid()].close()


IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that a terminal or a scheduler sends to all processes at once: the program handles them, and its end closes
the pipes of these processes."""


def main() -> None:
    """The child: serve the program at the other end of standard input and output."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # What a model prints must not mix with the replies.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # A broken pipe: the program ended while this process worked.
    with contextlib.suppress(BrokenPipeError):
        serve(requests, replies)
    sys.stdout.flush()
    os._exit(0)  # without the second that Python and torch take to shut down


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer every request until the pipe is closed."""
    model: object = None
    while (message := receive(requests)) is not None:
        kind, *values = unpack(message)
        result = None
        try:
            if kind == "model":
                model = unpack(*values)
            else:
                result = _run(model, *values)
            reply = pack(("done", result))
        except Exception as error:  # noqa: BLE001
            # Any error of the caller's function is sent back and raised in the program.
            reply = pack(("failed", portable(error), traceback.format_exc()))
        send(replies, reply)


def _run(model: object, function: bytes, part: bytes, start: int, with_gradients: bool) -> object:
    with torch.set_grad_enabled(with_gradients):
        return unpack(function, model)(unpack(part), start)
