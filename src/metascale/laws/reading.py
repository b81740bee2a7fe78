"""Columns from files and from objects in memory: every path leads to the two kinds of `metascale.laws.numbers`.

CSV and JSON need nothing but this package; with pyarrow (extra ``data``) large ones are read several times faster, and
Parquet at all. What pyarrow balks at goes to the careful reader, so that a file has one answer and one refusal.
Data frames of any library come through narwhals.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib.util
import io
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.cells import plain_text
from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.units import format_bytes
from metascale.laws.numbers import TEXT, as_column, has_decimal_comma, parse_number
from metascale.laws.sources import reader_of

Columns = dict[str, NDArray[Any]]
CHUNK = 1 << 16  # rows that are held as Python objects at a time
DELIMITERS = (",", ";", "\t", "|")
_MOST_BYTES = 256 << 20
"""Of what a compressed file expands to."""
_ROWS_A_PART = 1024
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_COMMENT = re.compile(rb"(?m)^[ \t]*#(?![,;\t|])[^\r\n]*(?:\r\n?|\n|\Z)")
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


@dataclass(frozen=True)
class Read:
    """What a source held; ``notes`` say what was passed over."""

    columns: Columns
    source: str
    notes: tuple[str, ...] = ()
    decimal_comma: bool = False


def read(source: Any) -> Read:
    """Columns of a path, a data frame of any library, a mapping of columns, a list of mappings or a structured array.

    A source with a prefix, and a folder, go to a reader of other programs' runs (`metascale.laws.sources`).

    Raises:
        InputError: there is no such file, it is empty, ragged or no table, or two columns have one name.
        MissingDependency: Parquet without pyarrow.
    """
    if isinstance(source, Mapping):
        return Read(_of_mapping(source, "the table"), "the table")
    if isinstance(source, np.ndarray) and source.dtype.names:
        return Read({name: as_column(source[name]) for name in source.dtype.names}, "the array")
    if isinstance(source, (list, tuple)) and source and all(isinstance(row, Mapping) for row in source):
        return Read(_of_records([dict(row) for row in source], "the list"), "the list")
    if isinstance(source, (str, Path)) and (reader := reader_of(source)) is not None:
        columns, name, notes = reader(str(source))
        return Read(_of_mapping(columns, name), name, tuple(notes))
    if isinstance(source, (str, Path)):
        return _read_file(Path(source).expanduser())
    return Read(_of_frame(source), "the data frame")


def _read_file(path: Path) -> Read:
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; give a CSV, JSON, JSON Lines or Parquet table with one row a run")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    suffix = suffixes[-2] if len(suffixes) == 2 and suffixes[-1] in _OPENERS else (suffixes or [""])[-1]
    if suffix in _SPREADSHEETS:
        raise InputError(f"'{path}' is a spreadsheet; save it as CSV and give that")
    with _open(path) as stream:
        start = stream.read(4096)
    if suffix in (".parquet", ".pq") or start[:4] == b"PAR1":
        return Read(_read_parquet(path), path.name)
    if suffix in (".json", ".jsonl", ".ndjson") or start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return Read(_read_json(path), path.name)
    return _read_csv(path, start)


def _open(path: Path) -> IO[bytes]:
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        return path.open("rb")
    return io.BufferedReader(_Expanding(opener(path, "rb"), path))


class _Expanding(io.RawIOBase):
    """A compressed file as it expands, up to `_MOST_BYTES`: a few bytes can stand for any number of equal ones."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._n_bytes = stream, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_bytes = int(self._stream.readinto(buffer))
        self._n_bytes += n_bytes
        if self._n_bytes > _MOST_BYTES:
            raise InputError(
                f"'{self._path}' expands to more than {format_bytes(_MOST_BYTES)}, the most that is read of it"
            )
        return n_bytes

    def close(self) -> None:
        self._stream.close()
        super().close()


def _encoding(start: bytes) -> str:
    return "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


# Data frames, mappings, records.


def _of_frame(source: Any) -> Columns:
    import narwhals
    from narwhals.exceptions import DuplicateError

    if any(name is not None for name in getattr(getattr(source, "index", None), "names", ())):
        source = source.reset_index()  # what pandas made the rows' names is a column like any other
    try:
        frame = narwhals.from_native(source)
    except TypeError:
        raise InputError(
            f"a table must be a path, a data frame, or a mapping of columns, not {type(source).__name__}"
        ) from None
    except DuplicateError as error:
        raise _twice(str(error).split("'")[1], "the data frame") from error
    whole = frame.collect() if isinstance(frame, narwhals.LazyFrame) else frame
    try:
        names = list(whole.columns)
        found = {name: _of_series(whole[name]) for name in names}
    except DuplicateError as error:
        raise _twice(str(error).split("'")[1], "the data frame") from error
    texts = [str(name) for name in names]
    _require_distinct(texts, "the data frame")
    return dict(zip(texts, found.values(), strict=True))


def _of_series(series: Any) -> NDArray[Any]:
    import narwhals

    if series.dtype.is_integer() and series.null_count() == 0:
        return as_column(np.asarray(series.to_numpy()))
    if series.dtype.is_numeric():
        return as_column(np.asarray(series.cast(narwhals.Float64).to_numpy(), dtype=float))
    if isinstance(series.dtype, (narwhals.String, narwhals.Categorical, narwhals.Enum)):
        series = series.cast(narwhals.String)
    return as_column([None if cell is None or cell != cell else cell for cell in series.to_list()])


def _of_mapping(source: Mapping[Any, Any], where: str) -> Columns:
    _require_distinct([str(name) for name in source], where)
    columns = {str(name): as_column(values) for name, values in source.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise InputError(f"the columns of {where} differ in length: {told}; there must be one cell a row")
    return columns


def _of_records(rows: Iterable[Mapping[str, Any]], where: str) -> Columns:
    """Columns of records; nested ones by dotted key, None where a record has no such key."""
    cells: dict[str, list[Any]] = {}
    n = 0
    for row in rows:
        for key, value in _flat(row, "", where):
            column = cells.setdefault(key, [])
            column.extend([None] * (n - len(column)))
            if len(column) > n:
                raise _twice(key, where)
            column.append(value)
        n += 1
    return {key: as_column(column + [None] * (n - len(column))) for key, column in cells.items()}


def _flat(row: Mapping[str, Any], before: str, where: str) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.", where)
        else:
            yield name, value


def _require_distinct(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise _twice(next(name for name in names if names.count(name) > 1), where)


def _twice(name: str, where: str) -> InputError:
    return InputError(f"{where} has two columns named '{name}'; names must differ", value=name)


# Parquet and JSON.


def _read_parquet(path: Path) -> Columns:
    parquet = require("pyarrow.parquet", "data", "reading Parquet")
    arrow = require("pyarrow", "data", "reading Parquet")
    try:
        with parquet.ParquetFile(str(path)) as file:
            table = _within_bounds(file, path, arrow)
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all
        raise InputError(f"'{path}' is not a Parquet table ({str(error).splitlines()[0]})") from error
    _require_distinct(list(table.column_names), f"'{path}'")
    return _of_frame(table)


def _within_bounds(file: Any, path: Path, arrow: Any) -> Any:
    """A Parquet file's table. A few bytes can stand for any number of equal cells, so it is read by parts and counted.

    Raises:
        InputError: it becomes more than `_MOST_BYTES`.
    """
    batches, n_bytes = [], 0
    for batch in file.iter_batches(batch_size=_ROWS_A_PART):
        n_bytes += batch.nbytes
        if n_bytes > _MOST_BYTES:
            raise InputError(
                f"'{path}' has {file.metadata.num_rows:,} rows and becomes more than {format_bytes(_MOST_BYTES)} when "
                "it is read: give a table with one row a run"
            )
        batches.append(batch)
    return arrow.Table.from_batches(batches, schema=file.schema_arrow)


def _read_json(path: Path) -> Columns:
    fast = _fast_json_lines(path)
    if fast is not None:
        return fast
    where = f"'{path}'"
    with _open(path) as stream:
        encoding = _encoding(stream.read(2))
    try:
        with _open(path) as stream, io.TextIOWrapper(stream, encoding=encoding) as text:
            if path.suffix.lower() == ".json" or path.with_suffix("").suffix.lower() == ".json":
                whole = text.read()
                try:
                    return _of_document(json.loads(whole, object_pairs_hook=_Pairs), where)
                except json.JSONDecodeError:
                    return _of_records(_json_lines(whole.splitlines(), where), where)
            return _of_records(_json_lines(text, where), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not a text table in UTF-8 ({error.reason})") from error


class _Pairs(dict[str, Any]):
    """A JSON object that refuses a key given twice."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        if len(self) != len(pairs):
            _require_distinct([key for key, _ in pairs], "the JSON table")


def _json_lines(lines: Iterable[str], where: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_Pairs)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}, line {number} is not JSON ({error.msg})") from error
        if isinstance(row, list) and number == 1:
            raise InputError(f'{where} holds lists; JSON Lines have one object a line, such as {{"N": 1, "loss": 2}}')
        if not isinstance(row, Mapping):
            raise InputError(f"{where}, line {number} is not an object; each line is one row, by the columns' names")
        yield row


def _of_document(document: Any, where: str) -> Columns:
    """Columns of a JSON document: a list of rows, columns by name, or what pandas writes (split, index, columns)."""
    if isinstance(document, list) and document and all(isinstance(row, Mapping) for row in document):
        return _of_records(document, where)
    if isinstance(document, Mapping) and document:
        if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):
            names = [str(name) for name in document["columns"]]
            _require_distinct(names, where)
            for number, row in enumerate(document["data"], start=1):
                if not isinstance(row, list) or len(row) != len(names):
                    raise InputError(f"{where}, row {number} does not have the {len(names)} cells of the columns")
            return {name: as_column([row[k] for row in document["data"]]) for k, name in enumerate(names)}
        if isinstance(document.get("data"), list) and document["data"]:
            return _of_document(document["data"], where)
        values = list(document.values())
        if all(isinstance(value, list) for value in values):
            return _of_mapping(document, where)
        if all(isinstance(value, Mapping) for value in values):
            by_column = all(not isinstance(cell, (Mapping, list)) for value in values for cell in value.values())
            keys = [list(value) for value in values]
            if by_column and all(key == keys[0] for key in keys):
                return _of_mapping({name: list(value.values()) for name, value in document.items()}, where)
        if not any(isinstance(value, (list, Mapping)) for value in values):
            return _of_records([document], where)
    raise InputError(f"{where} holds no table; give a list of rows by the columns' names, or lists by column")


def _fast_json_lines(path: Path) -> Columns | None:
    """JSON Lines through pyarrow, or None where it is absent, or would read a cell otherwise than as it is written."""
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if not suffixes & {".jsonl", ".ndjson"} or importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    from pyarrow import json as arrow_json

    try:
        with _open(path) as stream:
            table = arrow_json.read_json(stream)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return None
    while any(pyarrow.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    plain = (pyarrow.types.is_string, pyarrow.types.is_int64, pyarrow.types.is_float64, pyarrow.types.is_boolean)
    if len(set(table.column_names)) != table.num_columns or not all(
        any(kind(field.type) for kind in plain) for field in table.schema
    ):
        return None
    return _of_frame(table)


# CSV: any delimiter, comments, blank lines, byte order marks, quotes.


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


def _read_csv(path: Path, start: bytes) -> Read:
    encoding = _encoding(start)
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
    with _open(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
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
            _require_distinct(names, f"'{path}'")
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

    with _open(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
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

    with _open(path) as stream:
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
