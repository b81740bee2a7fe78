"""How plots look: palette, figures without global state, files with the same bytes each time.

The palette is Okabe and Ito's, told apart by people with colour-blindness. The page swaps each colour for a variable of
its style sheet, so that one picture serves a light and a dark screen.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any
from urllib.parse import unquote
from xml.sax.saxutils import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from metascale.report.words import number, numbers

INK, SOFT, MUTED, GRID, PAPER = "#1b2530", "#5b6670", "#a9b3bc", "#dde2e7", "#fefefe"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#b0588f", "#c98600", "#3a9bd0"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
# Light to dark along one hue order, so that larger scales read as stronger; every step keeps apart from paper.
RAMP = ("#8fc6e4", "#5aa9d6", "#2b8cc4", "#0b6ba8", "#084f86", "#063765", "#042247")
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{colour: f"--series-{place}" for place, colour in enumerate(SERIES)},
    **{colour: f"--ramp-{place}" for place, colour in enumerate(RAMP)},
}
FEWEST_TICKS = 3
"""Labelled ticks that an axis of numbers has at least."""
_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "text.color": INK,
    "text.usetex": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": "auto",
    "svg.hashsalt": "metascale",
    "svg.fonttype": "none",
    "path.simplify": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """The look, for as long as a figure is drawn and saved."""
    with matplotlib.rc_context(_RC):
        yield


def figure_size(ax: Axes) -> tuple[float, float]:
    """Width and height in inches of the figure that holds ``ax``."""
    figure = ax.get_figure(root=True)
    return (figure.get_figwidth(), figure.get_figheight()) if isinstance(figure, Figure) else (6.4, 4.8)


def new_figure(width_in: float, height_in: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of its own (no pyplot state) with ``rows`` x ``columns`` axes that share their y axis."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    return figure, list(axes.ravel())


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as PNG, without date or program in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element for a page: ids start with ``prefix``, colours are variables, nothing is loaded."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", text)
    text = re.sub(
        r'<g id="tip:([^"]*)">', lambda found: f'<g class="tip"><title>{escape(unquote(found[1]))}</title>', text
    )
    text = re.sub(
        r'<g id="option:([^"]*)">',
        lambda found: (
            f'<g class="option" data-option="{escape(unquote(found[1]))}"><title>{escape(unquote(found[1]))}</title>'
        ),
        text,
    )
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'\b(?:xlink:)?href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    for colour, variable in VARIABLES.items():
        text = re.sub(re.escape(colour), f"var({variable}, {colour})", text, flags=re.IGNORECASE)
    return text.strip()


def ramp(count: int, first: int = 0, last: int = len(RAMP) - 1) -> tuple[str, ...]:
    """``count`` colours of the ramp from light to dark, between two of its places; a single one is the darkest."""
    places = np.linspace(first, last, max(count, 2)).round().astype(int)[-count:] if count else []
    return tuple(RAMP[place] for place in places)


Label = tuple[float, str, str]
"""A label in the right margin: the y value it belongs to, its text and its colour."""


def log_x_ticks(ax: Axes, values: Sequence[float], closest: float = 0.085) -> None:
    """A logarithmic x axis with ticks at the actual values; labels nearer than ``closest`` of the axis are left out.

    ``closest`` is right for labels of up to six characters, and grows with longer ones.
    """
    ax.set_xscale("log")
    _ticks_at(ax, values, closest, np.log, np.exp)


LEFT_IN = 0.8
"""Inches beside the axes that the y axis and the leaders of side labels take."""
TICK_SIZE, SMALL_TICK_SIZE = 9.5, 8.5


def scale_x_ticks(ax: Axes, values: Sequence[float], label: str, compact: bool, beside: Sequence[Label]) -> str:
    """Ticks at the actual values of a scale, and the axis's label: logarithmic, unless a value is not positive.

    Labels are left out where they would touch: ``beside`` are those of the right margin, which narrow the axes.
    """
    size, tick_size = (8, SMALL_TICK_SIZE) if compact else (9, TICK_SIZE)
    taken = max((width_in(line, size) for _, text, _ in beside for line in text.split("\n")), default=0.0)
    room = max(figure_size(ax)[0] - LEFT_IN - taken, 1.0)
    longest = max(numbers(sorted(set(values))), key=len)
    closest = max(0.12 if compact else 0.07, (width_in(longest, tick_size) + 0.08) / room / max(1.0, len(longest) / 6))
    if min(values) > 0:
        log_x_ticks(ax, values, closest)
        return f"{label} (log scale)"
    _ticks_at(ax, values, closest, float, float)
    return label


def _ticks_at(
    ax: Axes,
    values: Sequence[float],
    closest: float,
    to_axis: Callable[[float], float],
    from_axis: Callable[[float], float],
) -> None:
    ordered = sorted(set(values))
    low, high = to_axis(ordered[0]), to_axis(ordered[-1])
    span = (high - low) or 1.0
    ends = from_axis(low - 0.06 * span), from_axis(high + 0.06 * span)
    ax.set_xlim(*ends)
    closest *= max(1.0, max(len(number(value)) for value in ordered) / 6)
    shown: list[float] = []
    between: list[float] = []
    if len(ordered) < FEWEST_TICKS:
        between = round_ticks(*ends) if to_axis is np.log else _inside(MaxNLocator(5).tick_values(*ends), *ends)
    for value in [ordered[-1], *ordered[:-1], *between]:
        if all(abs(to_axis(value) - to_axis(other)) / (1.12 * span) >= closest for other in shown):
            shown.append(value)
    set_ticks(ax.xaxis, sorted({*ordered, *shown}), shown)


def log_y_ticks(ax: Axes) -> None:
    """A logarithmic y axis with four to nine ticks at round numbers, written plainly; a linear one stays as it is."""
    if ax.get_yscale() != "log":
        return
    low, high = ax.get_ylim()
    ticks = round_ticks(low, high)
    set_ticks(ax.yaxis, ticks, ticks)
    ax.set_ylim(low, high)


def set_ticks(axis: Axis, ticks: Sequence[float], labelled: Sequence[float]) -> None:
    """Ticks at these values, with a label at some of them and none between."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    texts = zip(ticks, numbers(ticks), strict=True)
    axis.set_major_formatter(FixedFormatter([text if tick in labelled else "" for tick, text in texts]))
    axis.set_minor_locator(NullLocator())


def step_ticks(ax: Axes, compact: bool) -> None:
    """An x axis of steps or epochs: whole numbers where the axis has three of them."""
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(
        MaxNLocator(4 if compact else 5, integer=high - low >= FEWEST_TICKS - 1, min_n_ticks=FEWEST_TICKS)
    )
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def spaced(
    ax: Axes,
    positions: Sequence[float],
    texts: Sequence[str],
    size: float,
    to_axis: Callable[[float], float] = float,
) -> list[str]:
    """The labels along an x axis that have room beside their neighbours, the others empty; the ends go first.

    ``positions`` are on the axis, after ``to_axis``, such as a logarithm.
    """
    low, high = map(to_axis, ax.get_xlim())
    place = ax.get_subplotspec()
    room = figure_size(ax)[0] * 0.78 / (place.get_gridspec().ncols if place else 1)
    shown: list[int] = []
    order = list(range(len(texts)))
    for index in dict.fromkeys([*order[:1], *order[-1:], *order[len(order) // 2 :], *order]):
        gaps = (
            abs(positions[index] - positions[other]) / (high - low) * room
            - (width_in(texts[index], size) + width_in(texts[other], size)) / 2
            for other in shown
        )
        if all(gap >= 0.08 for gap in gaps):
            shown.append(index)
    return [text if index in shown else "" for index, text in enumerate(texts)]


def _inside(ticks: Sequence[float], low: float, high: float) -> list[float]:
    return [round(float(tick), 12) for tick in ticks if low <= tick <= high]


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers in [low, high], close to evenly spaced on a logarithmic axis where the range is wide."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [round(m * 10.0**d, 12) for d in decades for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if 4 <= len(ticks) <= 9:
            return ticks
    ticks = [float(tick) for tick in MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    return [round(tick, 12) for tick in ticks if low <= tick <= high and tick > 0]


def spread(positions: Sequence[float], gap: float | Sequence[float], low: float, high: float) -> list[float]:
    """``positions`` moved as little as needed so that neighbours are ``gap`` apart, inside [low, high] if they fit.

    Pool-adjacent-violators on the positions less their places: the least-squares answer.

    Args:
        gap: the distance of neighbours, or the height of each, so that two are half of both apart.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    heights = [gap] * len(order) if isinstance(gap, (int, float)) else [gap[index] for index in order]
    steps = [0.0, *((one + other) / 2 for one, other in pairwise(heights))]
    places = list(accumulate(steps[: len(order)]))
    blocks: list[list[float]] = []
    for place, index in enumerate(order):
        blocks.append([positions[index] - places[place], 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, count = blocks.pop()
            before, weight = blocks[-1]
            blocks[-1] = [(before * weight + mean * count) / (weight + count), weight + count]
    flat = [mean for mean, count in blocks for _ in range(int(count))]
    top = high - places[-1] if order else high
    moved = [0.0] * len(order)
    for place, index in enumerate(order):
        moved[index] = max(min(flat[place], top), min(low, top)) + places[place]
    return moved


def side_labels(
    ax: Axes,
    entries: Sequence[Label],
    *,
    size: float = 9.0,
    at: float = 1.015,
    gap: float | None = None,
) -> None:
    """Labels (data y, text, colour) in the right margin, kept apart, with a thin leader where one had to move."""
    if not entries:
        return
    place = ax.get_subplotspec()
    height_pt = figure_size(ax)[1] * 72 * 0.74 / (place.get_gridspec().nrows if place else 1)
    heights = [gap or (text.count("\n") + 1) * size * 1.3 / height_pt for _, text, _ in entries]
    to_axes = ax.transData + ax.transAxes.inverted()
    x_right = ax.get_xlim()[1]
    wanted = [float(to_axes.transform((x_right, y))[1]) for y, _, _ in entries]
    for y, moved, (_, text, colour) in zip(wanted, spread(wanted, heights, 0.0, 1.0), entries, strict=True):
        ax.annotate(
            text,
            xy=(1.0, y),
            xycoords="axes fraction",
            xytext=(at + 0.025, moved),
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=size,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def finish(ax: Axes, finding: str, x_label: str, y_label: str, compact: bool, pad_pt: float = 10) -> Axes:
    """Axis titles, the finding as title, and the grid."""
    size = 9 if compact else 10
    ax.set_xlabel(x_label, fontsize=size)
    ax.set_ylabel(y_label, fontsize=size)
    ax.tick_params(labelsize=SMALL_TICK_SIZE if compact else TICK_SIZE)
    ax.grid(visible=True, axis="y")
    place = ax.get_subplotspec()
    per_row = place.get_gridspec().ncols if place else 1
    # What belongs together stays on one line: "α = 0.16", "[0.15, 0.17]".
    bound = re.sub(r" (?==)|(?<==) |(?<=\d,) (?=[\d−])|(?<=\d) (?=%)", "\u00a0", finding)
    title_size = 10 if compact else 12
    room_in = (figure_size(ax)[0] - max(0.9, 0.4 + _names_in(ax, 8.5 if compact else 9.5))) / per_row
    lines = _wrapped(bound, int(figure_size(ax)[0] * 9.0 / per_row), room_in, title_size)
    ax.set_title("\n".join(lines), loc="left", fontsize=title_size, weight="bold", pad=pad_pt)
    return ax


def width_in(text: str, size: float, weight: str = "normal") -> float:
    """The width in inches of one line of text."""
    return _ems(text, weight) * size / 72


@lru_cache(maxsize=4096)
def _ems(text: str, weight: str) -> float:
    """The width of one line of text in sizes of its font: it is asked for often, and outlines of letters take long."""
    font = FontProperties(family=_RC["font.family"], weight=weight)
    return float(TextPath((0, 0), text, size=1, prop=font).get_extents().width) if text.strip() else 0.0


def _names_in(ax: Axes, size: float) -> float:
    """Inches that names beside the y axis take; 0 where it has numbers."""
    names = ax.yaxis.get_major_formatter()
    lines = [line for name in names.seq for line in name.split("\n")] if isinstance(names, FixedFormatter) else []
    return max((width_in(line, size) for line in lines), default=0.0)


def _wrapped(text: str, n_characters: int, room_in: float, size: float) -> list[str]:
    """Lines of at most so many characters, fewer where wide ones would make a bold line wider than the room."""
    for count in range(n_characters, 11, -2):
        lines = textwrap.wrap(text, count, break_long_words=False, break_on_hyphens=False)
        if all(width_in(line, size, "bold") <= room_in for line in lines):
            break
    return lines


def nothing(ax: Axes, text: str) -> Axes:
    """Axes that say why they are empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=SOFT)
    return ax


_FINITE = (1e-300, 1e300)


def pad_y(ax: Axes, *, log: bool = True, part: float = 0.05) -> None:
    """Limits of the y axis: what is drawn, here and on axes that share it, and ``part`` of its span on both sides.

    A logarithmic axis becomes linear where something drawn is not positive.
    """
    drawn = [other.dataLim for other in ax.get_shared_y_axes().get_siblings(ax) if other.has_data()]
    low, high = min(limits.y0 for limits in drawn), max(limits.y1 for limits in drawn)
    if log and low <= 0:
        ax.set_yscale("linear")
        log = False
    if log:
        low, high = np.log(low), np.log(high)
    pad = part * (high - low) or 0.05
    ends = np.array([low - pad, high + pad])
    if log:  # within the numbers that a float has, whatever the span
        ends = np.exp(np.clip(ends, *np.log(_FINITE)))
    ax.set_ylim(*np.clip(ends, -_FINITE[1], _FINITE[1]))


def y_scale_label(ax: Axes, label: str) -> str:
    """The y axis's title, which says so where its scale is logarithmic."""
    return log_label(label) if ax.get_yscale() == "log" else label


def log_label(label: str) -> str:
    """An axis title that says that its scale is logarithmic."""
    return f"{label[:-1]}, log scale)" if label.endswith(")") else f"{label} (log scale)"


def name_bars(ax: Axes, names: Sequence[str], compact: bool) -> None:
    """One name a bar, the first on top."""
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.yaxis.set_major_locator(FixedLocator(range(len(names))))
    ax.yaxis.set_major_formatter(FixedFormatter(list(names)))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(4 if compact else 6))
