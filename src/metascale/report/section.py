"""What a page is made of: sections of sentences, tables, pictures, lists and pairs, in the order they are read.

A section is one file in `metascale.report.sections`: data -> tables and plots -> words. It offers a function that takes
the study and returns a `Section`; `metascale.report.write` lists these functions in the order of the page. A section
without blocks is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from matplotlib.axes import Axes

from metascale.laws.record import Interval, Trend
from metascale.report.words import measured, number, percent

DASH = "–"
Draw: TypeAlias = Callable[[Axes, bool], Axes]
"""Draws on axes; the flag asks for the variant for narrow screens."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure: how to draw each of its axes, what its marks mean, and its height.

    Args:
        name: of the PNG file, and of the figure on the page.
        on_page: named variants that the page offers instead of ``draws``; the first is shown.
        same_y: all axes show the same quantity.
        heading: whether the page shows the plot's title above it.
    """

    kind: ClassVar[str] = "picture"
    name: str
    caption: str
    draws: tuple[Draw, ...]
    height_in: float = 4.8
    on_page: tuple[tuple[str, Draw], ...] = ()
    same_y: bool = False
    heading: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading; numbers are set flush right."""

    title: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, the number to sort by where it has one, and a read-out: all digits, or the name in the files."""

    text: str
    key: float | None = None
    full: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; ``mark`` is its class in the style sheet."""

    cells: tuple[Cell, ...]
    mark: str = ""


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table as the page shows it."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with their values."""

    kind: ClassVar[str] = "pairs"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence in small print."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Text in a fixed-width font, under a heading where it has one; with a heading long lines wrap."""

    kind: ClassVar[str] = "code"
    text: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: tuple[Block, ...]
    open: bool = False


Block: TypeAlias = "str | PageTable | Picture | Pairs | Bullets | Note | Code | Folded"


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page.

    Args:
        blocks: what it shows; a text is a paragraph.
        data: what it adds to summary.json.
        mark: its class in the style sheet.
    """

    id: str
    title: str
    blocks: tuple[Block, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)
    mark: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if isinstance(block, str))

    @property
    def tables(self) -> tuple[PageTable, ...]:
        """Its tables, folded ones included."""
        return tuple(block for block in unfolded(self.blocks) if isinstance(block, PageTable))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(block for block in unfolded(self.blocks) if isinstance(block, Picture))


@dataclass(frozen=True, slots=True)
class Finding:
    """What the study asked and found: the head of the page.

    Args:
        title: the answer as the title of a plot.
        exponent: α in L = A·x^-α, which some papers call β: above 0, L falls.
        level: of the exponent's interval.
        cautions: what of the answer says that a baseline does better, or that runs had not converged.
        parts: the sentences of the answer; the first is the page's headline, the others stand below it.
    """

    question: str
    answer: str
    title: str
    direction: Trend = "unknown"
    exponent: Interval | None = None
    level: float = 0.95
    verdict: str = ""
    cautions: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


def unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    """The blocks and what is inside folded ones, in reading order."""
    for block in blocks:
        yield block
        if isinstance(block, Folded):
            yield from unfolded(block.blocks)


def table(caption: str, columns: Sequence[Column | str], rows: Sequence[Sequence[Cell | str] | Row]) -> PageTable:
    """A table from plain parts: a heading given as text is one of numbers, except for the first.

    A column in which no row has anything is left out.
    """
    heads = [
        column if isinstance(column, Column) else Column(column, numeric=place > 0)
        for place, column in enumerate(columns)
    ]
    body = [
        row if isinstance(row, Row) else Row(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row))
        for row in rows
    ]
    idle = {k for k, head in enumerate(heads) if k and body and all(row.cells[k].text in (DASH, "") for row in body)}
    if idle:
        heads = [head for k, head in enumerate(heads) if k not in idle]
        body = [Row(tuple(cell for k, cell in enumerate(row.cells) if k not in idle), row.mark) for row in body]
    return PageTable(caption, tuple(heads), tuple(body))


def text_column(title: str) -> Column:
    """A column of words."""
    return Column(title, numeric=False)


def reading(value: float | None) -> Cell:
    """What was measured, with three significant digits."""
    return Cell(measured(value), value)


def plain(value: float | None) -> Cell:
    """A setting or a count."""
    return Cell(DASH if value is None else number(value), value)


def share(value: float | None, digits: int = 1) -> Cell:
    """A fraction as a percentage."""
    return Cell(percent(value, digits), value)


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


def of(series: str) -> str:
    """The start of a caption that belongs to one of several series."""
    return f"{series}. " if series else ""


def signed(value: float) -> str:
    """Three significant digits with a sign, a real minus among them."""
    return ("+" if value > 0 else "") + measured(value)
