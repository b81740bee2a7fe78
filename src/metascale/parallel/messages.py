"""What goes through a pipe between a program and the processes that run its tasks.

A message is its length in eight bytes, then a pickle: this is the one place of the package that unpickles, which could
run code. Only a program and the children that it started itself speak so, through pipes that nobody else can reach;
nothing is read from a file or a network. Tensors travel as plain bytes, without history, and lie on the CPU.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, BinaryIO

import torch

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
