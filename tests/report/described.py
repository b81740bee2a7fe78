"""Tables and pictures in words, so that a test can say the whole of what a reader sees."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from metascale.report import style
from metascale.report.section import Cell, PageTable
from metascale.report.style import new_figure, styled

COLOURS = {
    **{getattr(style, name): name.lower() for name in ("INK", "SOFT", "MUTED", "PAPER", "GRID")},
    **dict(zip(style.SERIES, ("blue", "red", "green", "purple", "orange", "sky"), strict=True)),
    **{colour: f"ramp {place}" for place, colour in enumerate(style.RAMP)},
}


def told(table: PageTable) -> list[str]:
    """Headings (``#`` before those of numbers) and rows; a cell's key is in braces, its read-out in brackets."""
    heads = " | ".join(("#" if column.numeric else "") + column.title for column in table.columns)
    rows = [(f"{row.mark}: " if row.mark else "") + " | ".join(map(_cell, row.cells)) for row in table.rows]
    return [heads, *(text.replace("\u00a0", " ") for text in rows)]


def _cell(cell: Cell) -> str:
    key = "" if cell.key is None else f" {{{cell.key:.4g}}}"
    return cell.text + key + (f" [{cell.full}]" if cell.full else "")


def axes(width: float = 8.0, height: float = 4.8) -> Axes:
    """New axes in the page's style."""
    with styled():
        _, (ax,) = new_figure(width, height)
    return ax


def marks(ax: Axes) -> list[str]:
    """Every line, mark, band and bar: what it looks like, where it is, and its reading."""
    return [*map(_line, ax.lines), *map(_area, ax.collections), *map(_bar, ax.patches)]


def words(ax: Axes) -> list[str]:
    """Every text inside or beside the axes: colour, size, place, text."""
    return [f"{_colour(t.get_color())} {t.get_fontsize():g} {_place(t)}: {_plain(t.get_text())}" for t in ax.texts]


def frame(ax: Axes) -> dict[str, object]:
    """Title, labels, scales, limits and labelled ticks."""
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return {
        "title": _plain(ax.get_title(loc="left")),
        "x": f"{ax.get_xlabel()}: {ax.get_xscale()} {_numbers(ax.get_xlim())}",
        "y": f"{ax.get_ylabel()}: {ax.get_yscale()} {_numbers(ax.get_ylim())}",
        "x ticks": _ticks(ax.xaxis.get_ticklabels()),
        "y ticks": _ticks(ax.yaxis.get_ticklabels()),
    }


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\n", " / ")


def _ticks(labels: Sequence[Text]) -> str:
    return " ".join(label.get_text().replace("\u00a0", " ") or "·" for label in labels)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values)


def _colour(value: object) -> str:
    code = to_hex(value)  # type: ignore[arg-type]
    return COLOURS.get(code, code)


def _reading(gid: str | None) -> str:
    return f" «{_plain(unquote(gid.removeprefix('tip:')))}»" if gid else ""


def _place(text: Text) -> str:
    where = text.xyann if hasattr(text, "xyann") else text.get_position()
    return f"{text.get_ha()} {text.get_va()} ({_numbers(where)})"


def _points(x: object, y: object) -> str:
    pairs = [f"({_numbers(pair)})" for pair in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True)]  # type: ignore[call-overload]
    return " ".join(pairs if len(pairs) < 6 else [*pairs[:2], f"... {len(pairs)}", pairs[-1]])


def _line(line: Line2D) -> str:
    parts = [_colour(line.get_color())]
    if line.get_linestyle() not in ("None", "", " ") and len(np.atleast_1d(line.get_xdata())) > 1:
        dashes = line._unscaled_dash_pattern[1]
        parts.append(f"line {line.get_linewidth():g}" + (f" dashes {_numbers(dashes)}" if dashes else ""))
    if line.get_marker() not in ("None", "", " ", None):
        edge = f"{_colour(line.get_markeredgecolor())} {line.get_markeredgewidth():g}"
        face = "hollow" if line.get_markerfacecolor() == "none" else _colour(line.get_markerfacecolor())
        parts.append(f"{line.get_marker()} {line.get_markersize():g} {face} edge {edge}")
    parts += [f"alpha {line.get_alpha():g}"] if line.get_alpha() is not None else []
    parts += [f"z {line.get_zorder():g}"] if line.get_zorder() != 2 else []
    label = str(line.get_label())
    parts += [f"'{label}'"] if label and not label.startswith("_") else []
    return f"{' '.join(parts)}: {_points(line.get_xdata(), line.get_ydata())}{_reading(line.get_gid())}"


def _area(area: object) -> str:
    kind = "band" if isinstance(area, PolyCollection) else "dots" if isinstance(area, PathCollection) else "bars"
    paint = area.get_facecolor() if kind == "band" else area.get_edgecolor()  # type: ignore[attr-defined]
    alpha = f" alpha {area.get_alpha():g}" if area.get_alpha() is not None else ""  # type: ignore[attr-defined]
    width = f" {area.get_linewidth()[0]:g}"  # type: ignore[attr-defined]
    parts = [_points(each.vertices[:, 0], each.vertices[:, 1]) for each in area.get_paths()]  # type: ignore[attr-defined]
    return f"{kind} {_colour(paint[0])}{width}{alpha} z {area.get_zorder():g}: {' ; '.join(parts)}"  # type: ignore[attr-defined]


def _bar(bar: object) -> str:
    x, y, width, height = (getattr(bar, f"get_{name}")() for name in ("x", "y", "width", "height"))
    alpha = bar.get_alpha()  # type: ignore[attr-defined]
    look = _colour(bar.get_facecolor()) + (f" alpha {alpha:g}" if alpha is not None else "")  # type: ignore[attr-defined]
    return f"bar {look}: x {_numbers((x, x + width))} y {_numbers((y, y + height))}{_reading(bar.get_gid())}"  # type: ignore[attr-defined]
