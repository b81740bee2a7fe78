"""Durable files: temporary name, flush, fsync, rename, fsync of the folder. The one module of core that does I/O.

Every durable operation calls ``_durable_point`` first. With ``METASCALE_ABORT_AT_WRITE=n`` in the environment the n-th
of them ends the process as ``kill -9`` would: the deterministic half of the resume tests.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metascale.core.canonical import plain
from metascale.core.errors import CorruptFile

_operations = itertools.count(1)


def _durable_point() -> None:
    target = os.environ.get("METASCALE_ABORT_AT_WRITE")
    if target is not None and next(_operations) == int(target):
        os.kill(os.getpid(), signal.SIGKILL)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable. Windows cannot, and there it does nothing."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents where they are missing, each name durable in the folder above it."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data`` so that a reader, or a crash, sees the old content or the new, never a part."""
    _durable_point()
    payload = data.encode() if isinstance(data, str) else data
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace ``path`` at once but not durably: for what does not matter after a crash of the machine."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` atomically as indented JSON with sorted keys; non-finite numbers are refused."""
    write_atomic(path, json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, naming the file when it is not whole.

    Raises:
        CorruptFile: the text is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not valid JSON: {error}") from error


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append whole lines to a record that one writer owns, and make them durable."""
    _durable_point()
    text = "".join(f"{line}\n" for line in lines)
    new = not path.exists()
    _make_folder(path.parent)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        sync_folder(path.parent)


def heal_lines(path: Path) -> None:
    """Cut a torn last line (a full disk, a power cut) off a JSON-lines file."""
    if not path.exists():
        return
    with open(path, "r+b") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell() == 0:
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.truncate(path.read_bytes().rfind(b"\n") + 1)


def read_json_lines(path: Path) -> list[Any]:
    """The whole records of a JSON-lines file; a torn last line (a crash while appending) is left out."""
    if not path.exists():
        return []
    records = []
    data = path.read_bytes()
    # A tear may lie inside a character, and JSON may hold other line separators than "\n".
    whole = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line.decode()))
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"{path}, line {number}, is not valid JSON: {error}") from error
    return records


def sha256_of(data: bytes) -> str:
    """The SHA-256 of ``data`` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


WHOLE_BYTES = 256 << 20
"""Files up to this size are hashed whole; of a larger one, `content_of` takes samples."""
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 20


def content_of(path: Path) -> dict[str, Any]:
    """What a file holds, in a few numbers: ``name``, ``n_bytes`` and ``sha256``.

    A file above 256 MiB has ``"sampled": true`` besides, and its hash is of 64 blocks of 1 MiB, evenly spread with
    both ends among them: an edit between them that keeps the size is not seen. A file is read once a process as long
    as its size and times stay what they are.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    sign = (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    digest = _digest(path.absolute(), sign, WHOLE_BYTES)
    sampled = {"sampled": True} if state.st_size > WHOLE_BYTES else {}
    return {"name": path.name, "n_bytes": state.st_size, "sha256": digest, **sampled}


@functools.lru_cache(maxsize=10_000)
def _digest(path: Path, sign: tuple[int, int, int, int], whole_bytes: int) -> str:
    size, found = sign[0], hashlib.sha256()
    with open(path, "rb") as stream:
        if size > whole_bytes:
            for number in range(_SAMPLES):
                stream.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                found.update(stream.read(_SAMPLE_BYTES))
        else:
            while block := stream.read(_SAMPLE_BYTES):
                found.update(block)
    return found.hexdigest()
