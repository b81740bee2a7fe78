"""Numbers as people write them in tables: 125M, 1,000,000, 6e20, 2·10^21, 1.2 PF-days, 45 %, 3,21 with a comma.

A table has two kinds of columns: numbers (integers or floats) and text (NumPy strings of any length, empty for none).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.laws.observations import Array

TEXT = np.dtypes.StringDType()
NO_NUMBER = frozenset(
    {
        *("", "nan", "-nan", "na", "n/a", "#n/a", "null", "none", "missing", "?"),
        *("diverged", "oom", "crashed", "failed", "error", "timeout"),
        *("inf", "-inf", "+inf", "infinity", "-infinity"),
    }
)
"""Cells, in lower case, that stand for no number: the row is left out, and said."""

PF_DAY = 1e15 * 86400.0
_PREFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_FLOP_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_WORDS = {"thousand": 1e3, "million": 1e6, "mn": 1e6, "billion": 1e9, "bn": 1e9, "trillion": 1e12, "tn": 1e12}
_NOUNS = r"tokens?|params?|parameters?|examples?|samples?|tasks?|steps?|nats?|bits?|bpb|runs?|shots?"
_POINT = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*|[0-9]{1,3}(?:[ \u00a0\u202f][0-9]{3})+)?(?:\.[0-9]+)?"
_COMMA = r"(?:[1-9][0-9]{0,2}(?:\.[0-9]{3})+|[0-9]+|[0-9]{1,3}(?:[ \u00a0\u202f][0-9]{3})+)?(?:,[0-9]+)?"
_POWER = r"(?:[eE][-+]?[0-9]+)?(?:\s*[x×·*]\s*10\s*(?:\^|\*\*)\s*\{?([-+]?[0-9]+)\}?)?"
_UNIT = r"(?:([kmbgt])(?![a-z])|(thousand|million|mn|billion|bn|trillion|tn))?"
_REST = rf"\s*(?:(%)|(pf(?:lops?)?[-/ ]?(?:s-)?days?|petaflops?/?s?-days?)|([kmgtpezy]?)flops?|(?:{_NOUNS}))?"
_TEN = re.compile(r"10\s*(?:\^|\*\*)\s*\{?([-+]?[0-9]+)\}?")


def _pattern(number: str) -> re.Pattern[str]:
    return re.compile(rf"([-+]?{number}){_POWER}\s*{_UNIT}{_REST}", re.IGNORECASE)


# The mantissa with its own exponent is group 1 up to the power; written twice, once for each decimal mark.
_PATTERNS = {False: _pattern(_POINT), True: _pattern(_COMMA)}
_OWN_EXPONENT = re.compile(r"[eE][-+]?[0-9]+")


def parse_number(text: str, decimal_comma: bool = False) -> float | None:
    """One cell as a number; NaN where it stands for none (`NO_NUMBER`); ``None`` for anything else.

    Per cent are divided by 100; PF-days and FLOPs with a prefix are FLOPs; bits and nats keep their unit.

    Example:
        >>> parse_number("125M"), parse_number("1,000,000"), parse_number("45 %"), parse_number("2.5B tokens")
        (125000000.0, 1000000.0, 0.45, 2500000000.0)
    """
    plain = text.strip()
    if plain.lower() in NO_NUMBER:
        return float("nan")
    if "." not in plain or not decimal_comma:
        try:
            return float(plain)
        except ValueError:
            pass
    if found := _TEN.fullmatch(plain):
        return float(10.0 ** int(found[1]))
    match = _PATTERNS[decimal_comma].fullmatch(plain)
    if match is None and decimal_comma:
        # A number that a program wrote among those of a spreadsheet: 1.5e6, 0.001.
        try:
            return float(plain)
        except ValueError:
            return None
    if match is None or not match[1].strip("+-"):
        return None
    return _value(match, plain, decimal_comma)


def _value(match: re.Match[str], plain: str, decimal_comma: bool) -> float:
    digits = match[1].replace("_", "").replace(" ", "").replace("\u00a0", "").replace("\u202f", "")
    digits = digits.replace(".", "").replace(",", ".") if decimal_comma else digits.replace(",", "")
    exponent = _OWN_EXPONENT.match(plain, match.end(1))
    value = float(digits + (exponent[0] if exponent else ""))
    if match[2]:
        value *= 10.0 ** int(match[2])
    if match[3]:
        value *= _PREFIXES[match[3].lower()]
    if match[4]:
        value *= _WORDS[match[4].lower()]
    if match[5]:
        return value / 100.0
    if match[6]:
        return value * PF_DAY
    return value * _FLOP_PREFIXES[(match[7] or "").lower()]


def parse_numbers(cells: NDArray[Any], decimal_comma: bool = False) -> tuple[Array, int | None]:
    """[n] floats of a column of text, and the first row that holds no number though it says something."""
    if not decimal_comma:
        try:
            return cells.astype(float), None
        except ValueError:
            pass
        try:
            return np.where(cells == "", "nan", cells).astype(TEXT).astype(float), None
        except ValueError:
            pass
    known: dict[str, float | None] = {}
    values = np.empty(len(cells))
    for row, cell in enumerate(cells.tolist()):
        if cell not in known:
            known[cell] = parse_number(cell, decimal_comma)
        value = known[cell]
        if value is None:
            return values, row
        values[row] = value
    return values, None


def units_of_information(cells: NDArray[Any]) -> tuple[str, ...]:
    """Which of bits and nats the cells of a column name."""
    last = {cell.rpartition(" ")[2].lower().rstrip("s") for cell in set(cells.tolist()) if " " in cell}
    return tuple(unit + "s" for unit in ("bit", "nat") if unit in last)


def as_column(values: Iterable[Any]) -> NDArray[Any]:
    """A column of either kind: numbers where every cell is one (or None, as NaN), else text.

    A boolean is text, ``"True"``; None among text is empty.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1:
        if values.dtype.kind in "iu" or values.dtype == TEXT:
            return values
        if values.dtype.kind == "f":
            return values.astype(float, copy=False)
        if values.dtype.kind in "SM":
            return values.astype("U").astype(TEXT)
    cells = values.tolist() if isinstance(values, np.ndarray) else list(values)
    kinds = {type(cell) for cell in cells}
    if kinds <= {str}:
        return np.array(cells, dtype=TEXT)
    if kinds <= {int} and all(-(2**63) <= cell < 2**63 for cell in cells):
        return np.array(cells, dtype=np.int64)
    if kinds and all(_is_number(kind) or kind is type(None) for kind in kinds) and kinds != {type(None)}:
        return np.array([float("nan") if cell is None else float(cell) for cell in cells])
    return np.array([cell_text(cell) for cell in cells], dtype=TEXT)


def _is_number(kind: type) -> bool:
    import numbers

    return (issubclass(kind, numbers.Real) or kind.__name__ == "Decimal") and not issubclass(kind, (bool, np.bool_))


def cell_text(cell: object) -> str:
    """A cell as text: a float so that it reads back the same, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, float):  # NumPy's floats too, whose own repr names their type
        return "" if cell != cell else repr(float(cell))
    return str(cell)


_DECIMAL = re.compile(r"[-+]?[0-9]*,[0-9]+(?:[eE][-+]?[0-9]+)?\s*[%kKMBGT]?")
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+")
_SURELY_THOUSANDS = re.compile(
    r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3}){2,}(?:\.[0-9]*)?|[-+]?[1-9][0-9]{0,2},[0-9]{3}\.[0-9]*"
)
_DECIMAL_POINT = re.compile(r"[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?")


def has_decimal_comma(columns: Sequence[NDArray[Any]], delimiter: str) -> bool:
    """Whether a comma is the decimal mark of a file's numbers.

    ``3,21`` can be nothing else, ``1,000,000`` the opposite. ``1,234`` may be either: it is a decimal where the cells
    are parted by semicolons, as spreadsheets of those languages do, and no number of the file has a decimal point.
    """
    text = [cells for cells in columns if cells.dtype == TEXT]
    commas = {cell.strip() for cells in text for cell in cells[np.strings.find(cells, ",") >= 0].tolist()}
    if any(_DECIMAL.fullmatch(cell) and not _THOUSANDS.fullmatch(cell) for cell in commas):
        return True
    doubtful = any(_THOUSANDS.fullmatch(cell) for cell in commas)
    if not doubtful or delimiter != ";" or any(_SURELY_THOUSANDS.fullmatch(cell) for cell in commas):
        return False
    if any(cells.dtype.kind == "f" and np.any(np.isfinite(cells) & (cells != np.floor(cells))) for cells in columns):
        return False
    for cells in text:
        dotted = cells[np.strings.find(cells, ".") >= 0]
        if any(_DECIMAL_POINT.fullmatch(cell.strip()) for cell in set(dotted.tolist())):
            return False
    return True
