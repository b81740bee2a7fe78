"""CSV tables: any delimiter, comments, blank lines, byte order marks, quotes."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.cells import plain_text
from metascale.core.errors import InputError
from metascale.laws.numbers import TEXT, as_column, has_decimal_comma, parse_number
from metascale.laws.opening import Columns, Read, encoding_of, opened, require_distinct

CHUNK = 1 << 16  # rows that are held as Python objects at a time


DELIMITERS = (",", ";", "\t", "|")


_COMMENT = re.compile(rb"(?m)^[ \t]*#(?![,;\t|])[^\r\n]*(?:\r\n?|\n|\Z)")


@dataclass(frozen=True)
class _Head:
    """The header of a CSV file, and how many lines stand before the rows."""

    names: list[str]
    delimiter: str
    lines: int


class _Lines:
    """The lines of a text after ``skip``, comments left out and counted; ``number`` is that of the last one."""

    def __init__(self, text: Iterable[str], skip: int = 0):
        self.text, self.skip, self.number, self.comments = text, skip, 0, 0

    def __iter__(self) -> Iterator[str]:
        for line in self.text:
            self.number += 1
            if self.number <= self.skip:
                continue
            if line.lstrip(" \t")[:1] == "#" and line.lstrip(" \t")[1:2] not in DELIMITERS:
                self.comments += 1
                continue
            yield line


def read_csv(path: Path, start: bytes) -> Read:
    encoding = encoding_of(start)
    try:
        head = _header(path, encoding)
        found = _fast_csv(path, head) if encoding == "utf-8-sig" else None
        columns, comments = found or _careful_csv(path, encoding, head)
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not a text table in UTF-8 ({error.reason}); give a CSV file") from error
    except (csv.Error, OSError, EOFError) as error:
        raise InputError(f"'{path}' is not a CSV table ({error})") from error
    columns = {plain_text(name): _plain_texts(values) for name, values in columns.items()}
    if not len(next(iter(columns.values()))):
        raise InputError(f"'{path}' has no rows; give a header line and one row a run")
    notes = () if not comments else (f"{comments} lines that begin with # are comments, not rows",)
    decimal = has_decimal_comma(list(columns.values()), head.delimiter)
    if decimal:
        notes = (*notes, "numbers are read with a decimal comma")
    return Read(columns, path.name, notes, decimal)


def _plain_texts(values: NDArray[Any]) -> NDArray[Any]:
    """Texts without the apostrophe that keeps spreadsheets from running them."""
    if values.dtype.kind not in "OUT" or not any(isinstance(one, str) and one.startswith("'") for one in values):
        return values
    return np.array([plain_text(one) if isinstance(one, str) else one for one in values], dtype=values.dtype)


def _header(path: Path, encoding: str) -> _Head:
    """The first line that is no comment; the last comment before it where that line already holds numbers."""
    comments: list[str] = []
    with opened(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
        for number, line in enumerate(text, start=1):
            bare = line.strip()
            if not bare.strip(",;\t| "):
                continue
            if bare[0] == "#" and bare[1:2] not in DELIMITERS:
                comments.append(bare.lstrip("# \t"))
                continue
            delimiter = _delimiter(line)
            names, skip = _split(line, delimiter), number
            if all(_is_number(cell) for cell in names):
                above = _split(comments[-1], delimiter) if comments else []
                if len(above) != len(names) or any(_is_number(cell) for cell in above):
                    raise InputError(
                        f"'{path}' has no header: its first line is '{line.strip()[:60]}'; name the columns"
                    )
                names, skip = above, number - 1
            require_distinct(names, f"'{path}'")
            return _Head(names, delimiter, skip)
    raise InputError(f"'{path}' has no rows; give a header line and one row a run")


def _delimiter(line: str) -> str:
    """The one that cuts a header into most names; blanks where none of them occurs."""
    found = max(DELIMITERS, key=lambda mark: len(_split(line, mark)))
    return found if len(_split(line, found)) > 1 or len(line.split()) == 1 or '"' in line else " "


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]


def _is_number(cell: str) -> bool:
    value = parse_number(cell, decimal_comma="," in cell)
    return value is not None and value == value


def _careful_csv(path: Path, encoding: str, head: _Head) -> tuple[Columns, int]:
    """Columns and the number of comments among the rows, by the standard library; a ragged row is refused by line."""
    parts: list[list[NDArray[Any]]] = [[] for _ in head.names]
    held: list[list[str]] = []
    width, row = len(head.names), 0

    def flush() -> None:
        for part, cells in zip(parts, zip(*held, strict=True), strict=False):
            part.append(np.array(cells, dtype=TEXT))
        held.clear()

    with opened(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
        lines = _Lines(text, head.lines)
        blanks = head.delimiter == " "
        rows = (line.split() for line in lines) if blanks else csv.reader(lines, delimiter=head.delimiter, strict=True)
        for cells in rows:
            if (len(cells) != width or not cells[0]) and not any(cell.strip() for cell in cells):
                continue
            row += 1
            if len(cells) != width:
                raise InputError(
                    f"'{path}', line {lines.number}: row {row} has {len(cells)} cells and the header {width}"
                )
            held.append(cells)
            if len(held) == CHUNK:
                flush()
    flush()
    columns: Columns = {}
    for name, part in zip(head.names, parts, strict=True):
        columns[name] = typed(np.concatenate([np.array([], dtype=TEXT), *part]))
        part.clear()
    return columns, lines.comments


FAST_FROM = 1 << 22  # bytes: below, importing pyarrow takes longer than it saves


def _fast_csv(path: Path, head: _Head) -> tuple[Columns, int] | None:
    """The same through pyarrow; None where it is absent, not worth it, or where the file needs the careful reader."""
    if head.delimiter == " " or path.stat().st_size < FAST_FROM or importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow

    with opened(path) as stream:
        data = stream.read().removeprefix(b"\xef\xbb\xbf")
    if b'"' in data or b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        return None
    start = 0
    for _ in range(head.lines):
        start = data.find(b"\n", start) + 1
        if not start:
            return None
    data, comments = _COMMENT.subn(b"", data[start:]) if b"#" in data else (data[start:], 0)
    odd = re.search(_ODD_NUMBER, data) is not None
    try:
        table = _arrow_table(data, head, head.names if odd else [])
        columns = {name: table.column(name) for name in head.names}
        del table
        plain = (pyarrow.types.is_int64, pyarrow.types.is_float64, pyarrow.types.is_string)
        others = [name for name, found in columns.items() if not any(kind(found.type) for kind in plain)]
        if others:
            columns |= {name: _arrow_table(data, head, others).column(name) for name in others}
    except pyarrow.ArrowInvalid:
        return None
    del data
    for name in head.names:
        found = columns[name].to_numpy()
        columns[name] = typed(found.astype(TEXT)) if found.dtype == object else as_column(found)
    empty = np.all([cells == "" if cells.dtype == TEXT else np.isnan(cells) for cells in columns.values()], axis=0)
    return None if empty.any() else (columns, comments)


# 007 and 0x1F are labels, which pyarrow reads as numbers, and +1 is whole.
_ODD_NUMBER = re.compile(rb"(?:^|[,;\t|\n ])(?:[-+]?0[0-9xX]|\+[0-9])")


def _arrow_table(data: bytes, head: _Head, as_text: Sequence[str]) -> Any:
    import pyarrow
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(
        pyarrow.BufferReader(data),
        read_options=arrow_csv.ReadOptions(column_names=head.names),
        parse_options=arrow_csv.ParseOptions(delimiter=head.delimiter, quote_char=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(as_text, pyarrow.string()),
            include_columns=list(as_text) if 0 < len(as_text) < len(head.names) else [],
            strings_can_be_null=False,
            null_values=[""],
        ),
    )


def typed(cells: NDArray[Any]) -> NDArray[Any]:
    """A column of text as integers or floats where every cell is one or empty; else the text without blanks around.

    ``007``, ``1_000`` and ``0x1F`` are labels and stay as they are.
    """
    cells = np.strings.strip(cells)
    empty = cells == ""
    if empty.all() or np.any(np.strings.find(cells, "_") >= 0):
        return cells
    bare = np.strings.lstrip(cells, "+-")
    if np.any(np.strings.startswith(bare, "0") & np.strings.isdigit(bare) & (np.strings.str_len(bare) > 1)):
        return cells
    try:
        return cells.astype(np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return (np.where(empty, "nan", cells).astype(TEXT) if empty.any() else cells).astype(float)
    except ValueError:
        return cells
