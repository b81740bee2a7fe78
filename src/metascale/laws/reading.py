"""Columns from files and from objects in memory: every path leads to the two kinds of `metascale.laws.numbers`.

CSV and JSON need nothing but this package; with pyarrow (extra ``data``) large ones are read several times faster, and
Parquet at all. What pyarrow balks at goes to the careful reader, so that a file has one answer and one refusal.
Data frames of any library come through narwhals.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.units import format_bytes
from metascale.laws.delimited import read_csv
from metascale.laws.numbers import as_column
from metascale.laws.opening import MOST_BYTES, OPENERS, Columns, Read, encoding_of, opened, require_distinct, twice
from metascale.laws.sources import reader_of

_ROWS_A_PART = 1024
_SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


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
    suffix = suffixes[-2] if len(suffixes) == 2 and suffixes[-1] in OPENERS else (suffixes or [""])[-1]
    if suffix in _SPREADSHEETS:
        raise InputError(f"'{path}' is a spreadsheet; save it as CSV and give that")
    with opened(path) as stream:
        start = stream.read(4096)
    if suffix in (".parquet", ".pq") or start[:4] == b"PAR1":
        return Read(_read_parquet(path), path.name)
    if suffix in (".json", ".jsonl", ".ndjson") or start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        return Read(_read_json(path), path.name)
    return read_csv(path, start)


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
        raise twice(str(error).split("'")[1], "the data frame") from error
    whole = frame.collect() if isinstance(frame, narwhals.LazyFrame) else frame
    try:
        names = list(whole.columns)
        found = {name: _of_series(whole.get_column(name)) for name in names}  # [] takes a number for a row
    except DuplicateError as error:
        raise twice(str(error).split("'")[1], "the data frame") from error
    texts = [str(name) for name in names]
    require_distinct(texts, "the data frame")
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
    require_distinct([str(name) for name in source], where)
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
                raise twice(key, where)
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
    require_distinct(list(table.column_names), f"'{path}'")
    return _of_frame(table)


def _within_bounds(file: Any, path: Path, arrow: Any) -> Any:
    """A Parquet file's table. A few bytes can stand for any number of equal cells, so it is read by parts and counted.

    Raises:
        InputError: it becomes more than `MOST_BYTES`.
    """
    batches, n_bytes = [], 0
    for batch in file.iter_batches(batch_size=_ROWS_A_PART):
        n_bytes += batch.nbytes
        if n_bytes > MOST_BYTES:
            raise InputError(
                f"'{path}' has {file.metadata.num_rows:,} rows and becomes more than {format_bytes(MOST_BYTES)} when "
                "it is read: give a table with one row a run"
            )
        batches.append(batch)
    return arrow.Table.from_batches(batches, schema=file.schema_arrow)


def _read_json(path: Path) -> Columns:
    fast = _fast_json_lines(path)
    if fast is not None:
        return fast
    where = f"'{path}'"
    with opened(path) as stream:
        encoding = encoding_of(stream.read(2))
    try:
        with opened(path) as stream, io.TextIOWrapper(stream, encoding=encoding) as text:
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
            require_distinct([key for key, _ in pairs], "the JSON table")


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
            require_distinct(names, where)
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
        with opened(path) as stream:
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
