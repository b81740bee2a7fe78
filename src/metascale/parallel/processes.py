"""What goes through a pipe between a program and the processes that run its tasks.

A message is its length in eight bytes, then a pickle: this is the one place of the package that unpickles, which could
run code. Only a program and the children that it started itself speak so, through pipes that nobody else can reach;
nothing is read from a file or a network. Tensors travel as plain bytes, without history, and lie on the CPU.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.types import Episode

_MODEL = "model"


class CannotBeSent(Exception):
    """Another process could not make this object from bytes: a closure, say."""


class CannotBeLoaded(Exception):
    """This process does not find a class or function that the bytes name: one of the script that was started, say."""


def send(stream: BinaryIO, message: bytes) -> None:
    """Write one message."""
    stream.write(len(message).to_bytes(8, "little"))
    stream.write(message)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """The next message; ``None`` when the other side has gone."""
    size = stream.read(8)
    if len(size) < 8:
        return None
    expected = int.from_bytes(size, "little")
    message = stream.read(expected)
    return message if len(message) == expected else None


def pack(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        CannotBeSent: it holds what has no name in a module.
    """
    return _packed(value, find_model=False)[0]


def pack_around_model(value: Any) -> tuple[bytes, Any]:
    """A value as bytes without the first model that it holds, and that model (``None``: it holds none).

    A model is an object that says how its tasks run.

    Raises:
        CannotBeSent: the value holds what has no name in a module.
    """
    return _packed(value, find_model=True)


def portable(error: Exception) -> Exception:
    """The error, or one with the same words where it does not survive the way."""
    try:
        unpack(pack(error))
    except (CannotBeSent, CannotBeLoaded, TypeError, ValueError):  # a constructor that asks for more than the words
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def unpack(message: bytes, model: Any = None) -> Any:
    """The value, with ``model`` where one was left out.

    Raises:
        CannotBeLoaded: a class or function in it is not found here.
    """
    try:
        return _Unpickler(io.BytesIO(message), model).load()
    except (AttributeError, ImportError) as error:
        raise CannotBeLoaded(f"{type(error).__name__}: {error}") from error


def _packed(value: Any, find_model: bool) -> tuple[bytes, Any]:
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
        self.model: Any = None

    def persistent_id(self, value: Any) -> str | None:
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
    def __init__(self, stream: io.BytesIO, model: Any) -> None:
        super().__init__(stream)
        self._model = model

    def persistent_load(self, name: str) -> Any:
        return self._model


def _tensor(data: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""A terminal or a scheduler sends these to all processes at once; the program decides what they mean, and this process
ends with it."""


def main() -> None:
    """Serve the program at the other end of standard input and output."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # What a model prints must not get among the replies.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # A broken pipe: the program ended while this process worked, and nobody is left to tell.
    with contextlib.suppress(BrokenPipeError):
        serve(requests, replies)
    sys.stdout.flush()
    os._exit(0)  # nothing here needs the second that Python and torch take to leave


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer every request until there are no more."""
    model: Any = None
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
            # Whatever it ran: the error is sent back and raised in the program that asked.
            reply = pack(("failed", portable(error), traceback.format_exc()))
        send(replies, reply)


def _run(model: Any, function: bytes, part: bytes, start: int, with_gradients: bool) -> Any:
    with torch.set_grad_enabled(with_gradients):
        return unpack(function, model)(unpack(part), start)


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
