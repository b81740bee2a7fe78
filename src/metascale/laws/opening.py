"""What every reader of tables shares: what it returns, files opened up to a bound when compressed, distinct names."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from metascale.core.errors import InputError
from metascale.core.units import format_bytes

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Read:
    """What a source held; ``notes`` say what was passed over."""

    columns: Columns
    source: str
    notes: tuple[str, ...] = ()
    decimal_comma: bool = False


MOST_BYTES = 256 << 20
"""Of what a compressed file expands to."""


OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, expanded where its ending says that it is compressed."""
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.open("rb")
    return io.BufferedReader(_Expanding(opener(path, "rb"), path))


class _Expanding(io.RawIOBase):
    """A compressed file as it expands, up to `MOST_BYTES`: a few bytes can stand for any number of equal ones."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._n_bytes = stream, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_bytes = int(self._stream.readinto(buffer))
        self._n_bytes += n_bytes
        if self._n_bytes > MOST_BYTES:
            raise InputError(
                f"'{self._path}' expands to more than {format_bytes(MOST_BYTES)}, the most that is read of it"
            )
        return n_bytes

    def close(self) -> None:
        self._stream.close()
        super().close()


def encoding_of(start: bytes) -> str:
    """Of a text that begins with these bytes: UTF-16 where its byte order mark says so, else UTF-8."""
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def require_distinct(names: Sequence[str], where: str) -> None:
    """Refuses columns of one name; ``where`` is what holds them, as the sentence names it."""
    if len(set(names)) != len(names):
        raise twice(next(name for name in names if names.count(name) > 1), where)


def twice(name: str, where: str) -> InputError:
    return InputError(f"{where} has two columns named '{name}'; names must differ", value=name)
