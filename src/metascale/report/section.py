"""One further part of the page, and the words that such parts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metascale.report.page_tables import Content


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; ``pictures`` are names of the study's pictures."""

    id: str
    title: str
    sentences: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    tables: tuple[Content, ...] = ()


def series_key(series: Sequence[str]) -> str:
    """Which colour is which series, in the order of `style.SERIES`; empty for one series."""
    colours = ("blue", "red", "green", "purple", "orange", "sky blue")
    if len(series) < 2:
        return ""
    return (
        " " + upper_first("; ".join(f"{colour}: {name}" for colour, name in zip(colours, series, strict=False))) + "."
    )


def upper_first(text: str) -> str:
    """A sentence's beginning; names in it stay as they are written."""
    return text[:1].upper() + text[1:]


def named(series: str, name: str) -> str:
    """A configuration by series and place, without the name of an only series."""
    return name if series == "trained" else f"{series}, {name}"


def signed(value: float) -> str:
    """Three decimals with a sign, a real minus among them."""
    return f"{value:+.3f}".replace("-", "−")
