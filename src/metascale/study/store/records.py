"""A run's records: CSV files that hold typed rows exactly, and can be cut back to what a checkpoint saw.

One row is one line. A cell reads back as the value that was written: floats with ``repr`` (bit for bit), ``None`` as
nothing, booleans as ``true``/``false``, lists and mappings as JSON, and a text that would look like one of these as
quoted JSON.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json, plain
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import append_lines

_INTEGER = re.compile(r"-?[0-9]+")
_FLOAT = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LITERALS = {"": None, "true": True, "false": False}
_JSON_STARTS = ('"', "[", "{")


def format_cell(value: Any) -> str:
    """The text of one value (JSON types only)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        ambiguous = value in _LITERALS or _FLOAT.fullmatch(value) or value.startswith(_JSON_STARTS)
        return json.dumps(value) if ambiguous or not value.isprintable() else value
    return canonical_json(value)


def parse_cell(text: str) -> Any:
    """The value that `format_cell` wrote."""
    if text in _LITERALS:
        return _LITERALS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return json.loads(text) if text.startswith(_JSON_STARTS) else text


def format_row(cells: Sequence[str]) -> str:
    """One CSV line, without its end."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(cells)
    return stream.getvalue()


def parse_rows(text: str, where: str) -> list[dict[str, Any]]:
    """The rows of a record's text.

    Raises:
        CorruptFile: a line has more or fewer cells than the header, or a cell that cannot be read.
    """
    # Only "\n" ends a line: str.splitlines would also cut at the separators that a text cell may hold.
    lines = csv.reader(f"{line}\n" for line in text.split("\n")[:-1])
    rows: list[dict[str, Any]] = []
    try:
        header = next(lines, [])
        for cells in lines:
            rows.append(dict(zip(header, map(parse_cell, cells), strict=True)))
    except (ValueError, csv.Error) as error:
        raise CorruptFile(f"{where}, line {lines.line_num}, cannot be read: {error}") from error
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a record on disk; a torn last line (a write in progress) is left out."""
    if not path.exists():
        return []
    data = path.read_bytes()
    try:
        text = data[: data.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path} is not UTF-8: {error}") from error
    return parse_rows(text, str(path))


class RecordFile:
    """One record of the run that this process writes: the durable part on disk, and rows waiting for `flush`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_bytes = 0
        self._header: list[str] | None = None
        self._hash = hashlib.sha256()
        self._waiting: list[str] = []

    def append(self, row: Mapping[str, Any]) -> None:
        """Hold ``row`` until the next `flush`.

        Raises:
            InputError: no integer ``step``, other keys than the first row's, or a value that JSON cannot hold.
        """
        values = plain(row)
        step = values.get("step")
        if isinstance(step, bool) or not isinstance(step, int):
            raise InputError(f"a row of record '{self.path.stem}' needs an integer 'step', not {step!r}")
        if self._header is None:
            self._header = list(values)
            self._waiting.append(format_row(self._header))
        if set(values) != set(self._header):
            raise InputError(
                f"record '{self.path.stem}' has the keys {', '.join(self._header)}; "
                f"the row of step {step} has {', '.join(values)}"
            )
        self._waiting.append(format_row([format_cell(values[key]) for key in self._header]))

    def rows(self) -> list[dict[str, Any]]:
        """Every row so far, waiting ones included."""
        text = self.path.read_bytes()[: self.n_bytes].decode() if self.n_bytes else ""
        return parse_rows(text + _lines(self._waiting), str(self.path))

    def flush(self) -> None:
        """Make the waiting rows durable."""
        if not self._waiting:
            return
        # What lies past the durable part is left of an append that failed (a full disk): cut it off first.
        _truncate(self.path, self.n_bytes)
        append_lines(self.path, self._waiting)
        self._count(_lines(self._waiting).encode())
        self._waiting = []

    def mark(self) -> dict[str, Any]:
        """What a checkpoint remembers of the durable part, to cut back to it."""
        return {"n_bytes": self.n_bytes, "sha256": self._hash.hexdigest()}

    @classmethod
    def cut_back(cls, path: Path, mark: Mapping[str, Any]) -> RecordFile:
        """The record as it was at ``mark``; later rows are cut off.

        Raises:
            CorruptFile: the bytes up to the mark are not those that were written.
        """
        record = cls(path)
        data = path.read_bytes()[: mark["n_bytes"]] if path.exists() else b""
        record._count(data)
        if record.mark() != dict(mark):
            raise CorruptFile(f"the first {mark['n_bytes']} bytes of {path} are not those that were written")
        record._header = next(csv.reader([data[: data.index(b"\n")].decode()])) if data else None
        return record

    def truncate(self) -> None:
        """Cut the file to its durable part."""
        _truncate(self.path, self.n_bytes)

    def _count(self, data: bytes) -> None:
        self.n_bytes += len(data)
        self._hash.update(data)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _truncate(path: Path, n_bytes: int) -> None:
    if path.exists() and path.stat().st_size > n_bytes:
        with open(path, "r+b") as stream:
            stream.truncate(n_bytes)
            stream.flush()
            os.fsync(stream.fileno())
