"""Bytes, seconds and counts as people read and write them: the one reader and writer of each."""

from __future__ import annotations

import math
import re

from metascale.core.errors import InputError

UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


def parse_bytes(text: str | int, where: str = "memory_budget") -> int:
    """Bytes from a number with a unit (``"8GiB"`` is 8 · 2³⁰, ``"8GB"`` 8 · 10⁹), or from a whole number of bytes.

    Raises:
        InputError: it is neither, or less than one byte; ``where`` names what it was given for.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        size = float(text)
    else:
        plain = str(text).strip()
        match = _SIZE.fullmatch(plain)
        units = {unit.lower(): factor for unit, factor in UNITS.items()}
        if plain.isdigit():
            size = float(plain)
        elif match and match[2].lower() in units:
            size = float(match[1]) * units[match[2].lower()]
        else:
            raise InputError(
                f"{where} must be a number of bytes with a unit of {', '.join(UNITS)}, such as 8GiB, not {text!r}"
            )
    if size < 1:
        raise InputError(f"{where} must be at least one byte, not {text!r}")
    return int(size)


def format_bytes(n_bytes: float) -> str:
    """The largest binary unit of which there is at least one, and two decimals: ``"1.50 GiB"``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if n_bytes >= UNITS[unit]:
            return f"{n_bytes / UNITS[unit]:.2f} {unit}"
    return f"{n_bytes:.0f} B"


def format_seconds(seconds: float | None) -> str:
    """A duration to two units: ``"4.2 s"``, ``"42 s"``, ``"3 min 07 s"``, ``"2 h 05 min"``; ``"?"`` where unknown."""
    if seconds is None:
        return "?"
    if round(seconds) < 60:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def format_count(value: float, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: ``1234567`` is ``"1.23 M"``; ``unit`` follows the prefix."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}".rstrip()
        value /= 1000.0
    return f"{value:.3g} E{unit}"


def finite(value: object) -> float | None:
    """``value`` as a finite float, also where it is a number written as text; else ``None``."""
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        converted = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return converted if math.isfinite(converted) else None
