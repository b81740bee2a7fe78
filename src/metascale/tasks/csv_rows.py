"""Labelled texts from the bytes of a CSV file, line by line; what would be guessed is refused with its line."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metascale.core.errors import InputError

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}


class LabelledText(NamedTuple):
    """One row of a data set; ``origin`` names the file or part that it comes from."""

    text: str
    label: str
    origin: str = ""


class CsvTexts(NamedTuple):
    """The rows of a file, and how it was read: ``"UTF-8, comma"``."""

    rows: list[LabelledText]
    form: str


def normal(text: str) -> str:
    """``text`` in the Unicode form NFKC, so that one text has one spelling, without spaces at its ends."""
    return unicodedata.normalize("NFKC", text).strip()


def parse_csv(path: Path, data: bytes, text_column: str, label_column: str, origin: str = "") -> CsvTexts:
    """The rows of a UTF-8 file whose first line names the columns; texts and labels in the form NFKC.

    The delimiter is the first of comma, tab and semicolon by which the first line has both columns. Empty lines are
    passed over.

    Raises:
        InputError: no UTF-8; a column that is missing; a row with other cells than the header, without text or label,
            or with a quote that is not closed where its cell ends; each with the line.
    """
    text, form = _decoded(path, data)
    # Lines end as files have them; str.splitlines would also cut at separators that a text may hold.
    lines = io.StringIO(text, newline="").readlines()
    delimiter, columns = _columns(path, lines, text_column, label_column)
    at_text, at_label = columns.index(text_column), columns.index(label_column)
    rows, spans = [], []
    for first, last, cells in _rows(path, lines, delimiter):
        if len(cells) != len(columns):
            n_cells = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
            raise InputError(
                f"{path}, line {first}, has {n_cells} where the header has {len(columns)} "
                f"({', '.join(columns)}); a cell that holds a {DELIMITERS[delimiter]} or a quote stands in quotes"
            )
        row = LabelledText(normal(cells[at_text]), normal(cells[at_label]), origin)
        if not row.text or not row.label:
            raise InputError(f"{path}, line {last}: the {'label' if row.text else 'text'} is empty")
        rows.append(row)
        if last > first:
            spans.append((first, last))
    _refuse_swallowed_rows(path, lines, delimiter, len(columns), at_label, rows, spans)
    return CsvTexts(rows, f"{form}, {DELIMITERS[delimiter]}")


def _decoded(path: Path, data: bytes) -> tuple[str, str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"cannot read {path} as a UTF-8 CSV file: line {line} holds the byte 0x{data[error.start]:02x}; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"cannot read {path} as a UTF-8 CSV file: line {line} holds a NUL character")
    return text, "UTF-8 with a byte-order mark" if data.startswith(b"\xef\xbb\xbf") else "UTF-8"


def _columns(path: Path, lines: list[str], text_column: str, label_column: str) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns."""
    seen = []
    for delimiter in DELIMITERS:
        header = next(_rows(path, lines[:1], delimiter, skip=0), (1, 1, []))[2]
        names = [name.strip() for name in header]
        if {text_column, label_column} <= set(names):
            return delimiter, names
        seen.append(names)
    column = text_column if text_column not in seen[0] else label_column
    raise InputError(f"{path} has no column '{column}'; its columns are {', '.join(seen[0]) or 'none'}")


def _rows(path: Path, lines: list[str], delimiter: str, skip: int = 1) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and cells of every row that is not empty, after the first ``skip``: the header.

    Raises:
        InputError: a quote that does not end its cell, or a cell that is too long; with the line where the row begins.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(_stray_quote(path, first, reader.line_num, error)) from error
        if skip:
            skip -= 1
        elif cells:
            yield first, reader.line_num, cells


def _stray_quote(path: Path, first: int, last: int, error: csv.Error) -> str:
    if "field larger" in str(error):
        return (
            f"{path}, line {first}, has a cell of more than {csv.field_size_limit():,} characters; cut it, or look for "
            "a quote that is not closed"
        )
    how = "is never closed" if "unexpected end" in str(error) else f"ends in the middle of a cell in line {last}"
    return (
        f"{path}, line {first}: the quote that opens a cell of this row {how}; a cell that begins with a quote ends "
        'with one, and a quote inside it is written twice ("")'
    )


def _refuse_swallowed_rows(
    path: Path,
    lines: list[str],
    delimiter: str,
    n_columns: int,
    at_label: int,
    rows: list[LabelledText],
    spans: list[tuple[int, int]],
) -> None:
    """Refuse a cell over several lines that holds whole rows: between two stray quotes a file still looks well formed.

    Raises:
        InputError: an inner line of a row has the header's cells and a label of the file.
    """
    labels = {row.label for row in rows}
    for first, last in spans:
        # The first and the last line of the row are its own; between them whole lines are inside a cell.
        for number in range(first + 1, last):
            cells = next(csv.reader([lines[number - 1]], delimiter=delimiter), [])
            if len(cells) == n_columns > 1 and normal(cells[at_label]) in labels:
                raise InputError(
                    f"{path}, line {first}: a quote opens a cell that runs to line {last} and holds what looks like "
                    f"rows of their own (line {number}); close the quote, or write it twice"
                )
