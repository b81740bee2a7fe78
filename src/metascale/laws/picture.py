"""The picture of a law: on a matplotlib axis, as PNG, and as a page that loads nothing and whose values can be read.

Compute, then draw: a `LawPicture` holds all that is drawn. Reports draw the same law with `draw_band`, `draw_hidden`
and `draw_families` inside frames of their own. matplotlib is loaded only when something is drawn.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.files import write_atomic
from metascale.laws.record import Band, HiddenScale, LawRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, VERMILION, INK, GREY, PAPER = "#0072b2", "#d55e00", "#1b2530", "#888888", "#fefefe"
COLOURS = (BLUE, VERMILION, "#009e73", "#b0588f", "#c98600", "#3a9bd0")  # Okabe and Ito's, safe for the colour-blind
DASHES = ((0, (5, 2)), (0, (2, 2)), (0, (7, 2, 1.5, 2)), (0, (1, 1.5)))
PLAIN_DECADES = 1.0  # a log axis shorter than this has labels between powers of ten: 2.5 reads better than 2.5 x 10^0
MOST_READINGS = 1000  # runs; a larger table has its values in the page's tables alone
ROWS_OF_A_CURVE = 25  # shown of a curve in the page's tables


@dataclass(frozen=True, slots=True)
class LawPicture:
    """Runs, bands (the law, its forecast) by their labels, and the largest scale predicted without being seen."""

    title: str
    subtitle: str
    x_name: str
    loss_name: str
    x: tuple[float, ...]
    loss: tuple[float, ...]
    bands: dict[str, Band]
    hidden: HiddenScale | None = None

    @property
    def signed(self) -> bool:
        """Whether some losses are not positive, so that they have no logarithmic axis."""
        return min(self.loss, default=1.0) <= 0

    @classmethod
    def of(
        cls, record: LawRecord, x: ArrayLike, loss: ArrayLike, more: dict[str, Band] | None = None, name: str = ""
    ) -> LawPicture:
        """A law in one scale over its runs, with further bands such as a forecast; ``name`` is that of a group."""
        bands = {} if record.curve is None else {f"{record.formula} ({100 * record.level:g} %)": record.curve}
        title = f"{record.loss_name} against {record.x_name}" + (f": {name}" if name else "")
        return cls(
            title, record.verdict, record.x_name, record.loss_name, tuple(np.asarray(x, float).tolist()),
            tuple(np.asarray(loss, float).tolist()), {**bands, **(more or {})}, record.extrapolation,
        )  # fmt: skip


def plot_law(picture: LawPicture, ax: Axes | None = None, *, y_scale: Literal["log", "linear"] = "log") -> Axes:
    """Draw the picture on ``ax``, a new one by default; the scale is logarithmic."""
    ax = axis_or_new(ax)
    readings = len(picture.x) <= MOST_READINGS
    for x, loss in zip(picture.x, picture.loss, strict=True) if readings else [(picture.x, picture.loss)]:
        (dots,) = ax.plot(x, loss, "o", ms=4, alpha=0.55, color="#4c566a", zorder=3)
        if readings:
            tip(dots, f"{picture.x_name} {x:.5g}: {picture.loss_name} {loss:.5g}")
    dots.set_label("runs")
    for (label, band), colour in zip(picture.bands.items(), COLOURS, strict=False):
        draw_band(ax, band, colour, label)
        for x, median, low, high in rows_of(band):
            (spot,) = ax.plot(x, median, "o", ms=8, color=colour, alpha=0.0, zorder=2)
            tip(spot, f"{label}\n{picture.x_name} {x:.5g}: {median:.5g} ({low:.5g} to {high:.5g})")
    hidden = picture.hidden
    if hidden is not None:
        words = "predicted without the largest scale"
        draw_hidden(ax, hidden, INK, hidden_words(hidden, picture.x_name), label=words)
    finish(
        ax, picture.x_name, picture.loss_name, x_scale="log" if min(picture.x, default=1.0) > 0 else "linear",
        y_scale="linear" if picture.signed else y_scale,
    )  # fmt: skip
    ax.set_title(picture.title, loc="left", fontsize=11)
    ax.grid(visible=True, which="major", color="#dde2e7", lw=0.7)
    return ax


def draw_band(ax: Axes, band: Band, colour: str, label: str = "", line: str = "-") -> None:
    """A curve with its interval."""
    ax.fill_between(band.x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(band.x, band.median, line, color=colour, linewidth=2, markersize=3, label=label)


def draw_hidden(ax: Axes, hidden: HiddenScale, colour: str, reading: str, *, at: float = 1.0, label: str = "") -> None:
    """The prediction of the largest scale from the smaller ones; ``at`` moves it off the measured point."""
    x = hidden.x * at
    if hidden.low is not None and hidden.high is not None:
        ax.plot([x, x], [hidden.low, hidden.high], color=colour, linewidth=1.6, zorder=5)
    (diamond,) = ax.plot(
        x, hidden.predicted, "D", color=PAPER, markeredgecolor=colour, markeredgewidth=1.6, markersize=6, zorder=6,
        label=label,
    )  # fmt: skip
    tip(diamond, reading)


def draw_families(ax: Axes, record: LawRecord, colour: str) -> None:
    """The families that were not chosen, as options of a page; the axes keep the limits that they have."""
    limits = ax.get_ylim()
    for place, (name, losses) in enumerate(record.family_curves().items()):
        assert record.curve is not None
        style = DASHES[place % len(DASHES)]
        (line,) = ax.plot(record.curve.x, losses, color=colour, linewidth=1.4, linestyle=style)
        line.set_gid("option:" + quote(name))
    ax.set_ylim(limits)


def hidden_words(hidden: HiddenScale, x_name: str) -> str:
    """The prediction of the largest scale as text."""
    ends = "" if hidden.low is None or hidden.high is None else f" ({hidden.low:.5g} to {hidden.high:.5g})"
    return (
        f"predicted without the largest scale\n{x_name} {hidden.x:.5g}: {hidden.predicted:.5g}{ends}, "
        f"measured {hidden.observed:.5g}"
    )


def rows_of(band: Band) -> list[tuple[float, float, float, float]]:
    """Some points of a curve from end to end: (x, median, low, high)."""
    n = len(band.x)
    places = np.unique(np.linspace(0, n - 1, min(n, ROWS_OF_A_CURVE)).round().astype(int)).tolist()
    return [(band.x[k], band.median[k], band.low[k], band.high[k]) for k in places]


def tip(artist: Artist, text: str) -> None:
    """Give ``artist`` a reading; `svg` makes it the title that a browser shows on hovering."""
    artist.set_gid("tip:" + quote(text))


def axis_or_new(ax: Axes | None) -> Axes:
    """``ax``, or one axis in a figure of its own."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 4.4), layout="constrained").subplots()


def finish(
    ax: Axes,
    x_label: str,
    y_label: str,
    *,
    x_scale: Literal["log", "linear"] = "log",
    y_scale: Literal["log", "linear"] = "log",
) -> Axes:
    """Logarithmic axes with labels, and a legend of what has a name."""
    ax.set(xscale=x_scale, yscale=y_scale, xlabel=x_label, ylabel=y_label)
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)
    return ax


def finish_outside(ax: Axes, y_label: str) -> Axes:
    """Finish a picture of many predictors, whose names stand beside it."""
    finish(ax, "largest scale over largest scale seen", y_label)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plain_numbers(axis: Axis) -> None:
    """Label a short logarithmic axis: with plain numbers, or at 1 and 3 times powers of 10 where they are large."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or low <= 0:
        return
    decades = np.log10(high / low)
    if decades < PLAIN_DECADES and 1e-3 < low < 1e4:
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    elif 1 <= decades < 3:
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
        axis.set_minor_formatter(NullFormatter())


def write_png(drawn: Figure | Axes, path: Path) -> None:
    """A figure, or that of an axis, as a file without date or program in it."""
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    assert figure is not None
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    write_atomic(path, stream.getvalue())


def figure_of(pictures: Sequence[LawPicture], y_scale: Literal["log", "linear"] = "log") -> Figure:
    """One panel a picture: up to three side by side, more in rows of two."""
    from matplotlib.figure import Figure

    n = len(pictures)
    n_columns = n if n <= 3 else 2
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(6.6 * n_columns, 4.6 * n_rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(n_rows, n_columns)).ravel()
    for ax, picture in zip(panels[:n], pictures, strict=True):
        plot_law(picture, ax, y_scale=y_scale)
    for ax in panels[n:]:
        ax.remove()
    return figure


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an element of a page: its readings are titles, its ids start with ``prefix``."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "metascale", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    unneeded = r'\s*<metadata>.*?</metadata>| xmlns(:xlink)?="[^"]*"'
    text = re.sub(unneeded, "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="tip:([^"]*)">', lambda found: f"<g><title>{escape(unquote(found[1]))}</title>", text)
    text = re.sub(r'\bid="|\bhref="#|url\(#', lambda found: f"{found[0]}{prefix}-", text)
    return text.strip()


def write_html(pictures: Sequence[LawPicture], path: Path) -> None:
    """One page with every picture, on logarithmic and on linear axes of the loss, and tables of what is drawn."""
    sections = "".join(_section(picture, f"p{place}") for place, picture in enumerate(pictures))
    title = html.escape(pictures[0].title if pictures else "law")
    write_atomic(path, PAGE.replace("%TITLE%", title).replace("%SECTIONS%", sections))


def _section(picture: LawPicture, prefix: str) -> str:
    switch = "".join(
        f'<input type="radio" name="{prefix}" id="{prefix}-{name}"{" checked" if name == "log" else ""}>'
        f'<label for="{prefix}-{name}">{name} {html.escape(picture.loss_name)}</label>'
        for name in ("log", "linear")
    )
    views = "".join(
        f'<div class="{name}">{svg(figure_of([picture], name), f"{prefix}-{name}")}</div>' for name in ("log", "linear")
    )
    interval = (picture.x_name, picture.loss_name, "low", "high")
    tables = [_table(label, interval, rows_of(band)) for label, band in picture.bands.items()]
    tables.append(_table("runs", (picture.x_name, picture.loss_name), list(zip(picture.x, picture.loss, strict=True))))
    hidden = "" if picture.hidden is None else f"<p>{html.escape(hidden_words(picture.hidden, picture.x_name))}</p>"
    return (
        f"<section><h2>{html.escape(picture.title)}</h2><p>{html.escape(picture.subtitle)}</p>{switch}{views}{hidden}"
        f"{''.join(tables)}</section>\n"
    )


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{value:.6g}</td>' for value in row)}</tr>\n" for row in rows)
    summary = f"<summary>{html.escape(caption)}: {len(rows)} rows</summary>"
    return f"<details>{summary}<table><tr>{head}</tr>\n{body}</table></details>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>%TITLE%</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2530; background: #fefefe; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h2 { margin: 0; font-size: 1.15rem; } p { margin: .2rem 0 .6rem; color: #5b6670; white-space: pre-line; }
svg { width: 100%; height: auto; } label { margin-right: 1rem; } summary { cursor: pointer; }
input:nth-of-type(1):checked ~ .linear, input:nth-of-type(2):checked ~ .log { display: none; }
table { border-collapse: collapse; margin: .3rem 0 1rem; } th, td { text-align: right; padding: .1rem .8rem; }
</style></head><body><main>
%SECTIONS%</main></body></html>
"""
