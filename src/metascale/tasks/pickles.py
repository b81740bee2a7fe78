"""Pickle files of plain data: numbers, texts, bytes, lists, dictionaries and NumPy arrays, and nothing that runs.

A pickle is a program that may call any function of any package. Here every name that it asks for is one of a few
stand-ins, which check what they are given and build the arrays themselves; any other name is refused before it is
looked up. So no code of the file's choice runs, not even NumPy's own readers of pickled arrays.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.errors import CorruptFile, InputError

_KIND = re.compile(r"[|<>=]?([biufSUO])(\d*)")
_FAILURES = (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def read_pickle(path: Path) -> Any:
    """The plain data of a pickle of Python 2 or 3, of any protocol; texts of Python 2 are read as Latin-1.

    Raises:
        InputError: the file cannot be read, or holds something else than plain data.
        CorruptFile: it is cut off or damaged.
    """
    try:
        with path.open("rb") as stream:
            return _finished(_Plain(stream, encoding="latin1").load())
    except _Foreign as error:
        raise InputError(
            f"{path} asks for {error}, and only arrays, numbers, texts, lists and dictionaries are read from a pickle",
            field="data",
            value=str(path),
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", field="data", value=str(path)) from error
    except (*_FAILURES, MemoryError, OverflowError, RecursionError, ImportError) as error:
        raise CorruptFile(f"{path} is not a whole pickle of plain data ({error or type(error).__name__})") from error


class _Foreign(Exception):
    """A name that is not plain data."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _Foreign(f"{module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Foreign("an object that is kept outside the file")


class _Type:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: Any, *options: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        found = _KIND.fullmatch(code) if isinstance(code, str) else None
        if found is None:
            raise _Foreign(f"an array of {code!r}")
        self.dtype = np.dtype(code)
        self.is_object = found[1] == "O"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Of what NumPy writes only the order of bytes, and the length of texts, say more than the code."""
        order, length = state[1], state[5]
        if any(state[place] is not None for place in (2, 3, 4)):
            raise _Foreign("an array with named fields")
        order = order.decode() if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)
        if self.dtype.kind in "SU" and isinstance(length, int) and 0 < length < 1 << 20:
            count = length // 4 if self.dtype.kind == "U" else length
            self.dtype = np.dtype(f"{self.dtype.byteorder}{self.dtype.kind}{count}")


class _Array:
    """Stands in for an array while it is filled; one that never is has no value."""

    value: Any

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        self.value = _array(data, kind, shape, "F" if by_column else "C")


def _array(data: Any, kind: Any, shape: Any, order: str = "C") -> Any:
    """The array, or for an array of objects the nested list of them, flat; its length is checked before it is made."""
    if not isinstance(kind, _Type) or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
        raise ValueError("an array without type or shape")
    if any(n < 0 for n in shape):
        raise ValueError(f"an array of shape {shape}")
    if kind.is_object:
        if not isinstance(data, list) or len(shape) != 1 or len(data) != shape[0]:
            raise ValueError(f"an array of objects of shape {shape} without as many of them")
        return data
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * kind.dtype.itemsize:
        raise ValueError(f"an array of shape {shape} whose bytes are of another number")
    found = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C")
    return found.astype(kind.dtype.newbyteorder("="), copy=False)


def _begun(*arguments: Any) -> _Array:
    """Stands in for NumPy's ``_reconstruct``, whose arguments are those of an empty array."""
    return _Array()


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (1,))[0]


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Foreign(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(*arguments: Any) -> bytes:
    """Stands in for ``bytes`` and ``bytearray`` without arguments, or of bytes."""
    if len(arguments) > 1 or not all(isinstance(value, bytes | bytearray) for value in arguments):
        raise _Foreign("bytes made of something else")
    return bytes(arguments[0]) if arguments else b""


class _Call:
    """A stand-in that can be called; nothing else can be done with it, nor to it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Foreign("a change of what reads it")


def _names() -> Iterator[tuple[tuple[str, str], _Call | str]]:
    for module in ("numpy.core", "numpy._core"):
        yield (f"{module}.multiarray", "_reconstruct"), _Call(_begun)
        yield (f"{module}.multiarray", "scalar"), _Call(_scalar)
        yield (f"{module}.numeric", "_frombuffer"), _Call(_array)
    yield ("numpy", "ndarray"), "numpy.ndarray"  # an argument of _reconstruct
    yield ("numpy", "dtype"), _Call(_Type)
    yield ("_codecs", "encode"), _Call(_encoded)
    yield ("collections", "OrderedDict"), _Call(dict)
    for module in ("builtins", "__builtin__"):
        yield (module, "bytes"), _Call(_bytes)
        yield (module, "bytearray"), _Call(_bytes)


_NAMES: Mapping[tuple[str, str], _Call | str] = dict(_names())


def _finished(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """The same data with arrays in the place of what stood for them; what is there twice is made once."""
    seen = {} if seen is None else seen
    if id(value) not in seen:
        found = value.value if isinstance(value, _Array) else value
        if isinstance(found, dict):
            found = {_finished(key, seen): _finished(each, seen) for key, each in found.items()}
        elif isinstance(found, list | tuple):
            found = type(found)(_finished(each, seen) for each in found)
        seen[id(value)] = found
    return seen[id(value)]
