"""The picture of a law: PNG by matplotlib, and one self-contained HTML file that zooms, hovers and loads nothing.

Compute, then draw: `law_picture` gathers what is drawn into a frozen record, and the two writers only draw it.
"""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.files import write_atomic
from metascale.laws.allocation import Optimum
from metascale.laws.forecasting import Forecast
from metascale.laws.observations import Array
from metascale.laws.picture import plain_numbers


@dataclass(frozen=True)
class Band:
    """A curve with an interval: lists of equal length."""

    name: str
    x: list[float]
    median: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class LawPicture:
    """Everything that a picture of a law shows.

    Attributes:
        points: [x, loss] of every run; bands: the curve of the law, the forecast.
        hidden: the largest scale as it was predicted without being seen, or None.
    """

    title: str
    subtitle: str
    x_name: str
    loss_name: str
    points: list[list[float]]
    bands: list[Band]
    hidden: dict[str, float] | None


def law_picture(
    record: dict[str, Any], x: Array, loss: Array, forecast: Forecast | None = None, name: str = ""
) -> LawPicture:
    """Gather the picture of an analysis (its JSON form) over its table, with a forecast when there is one."""
    curve = record["curve"]
    percent = f"{100 * record['level']:g} %"
    bands = [Band(f"{record['formula']} ({percent})", curve["x"], curve["median"], curve["low"], curve["high"])]
    if forecast is not None:
        order = np.argsort(forecast.at)
        columns = (forecast.at, forecast.median, forecast.low, forecast.high)
        ordered = [column[order].tolist() for column in columns]
        bands.append(Band(f"forecast of one run ({100 * forecast.level:g} %)", *ordered))
    found = record["extrapolation"]
    hidden = None
    if found:
        hidden = {
            key: found[name]
            for key, name in (("x", "held_out_x"), ("y", "predicted"), ("low", "low"), ("high", "high"))
        }
    title = f"{record['loss_name']} against {record['x_name']}" + (f": {name}" if name else "")
    points = [[float(a), float(b)] for a, b in zip(x, loss, strict=True)]
    return LawPicture(title, record["verdict"], record["x_name"], record["loss_name"], points, bands, hidden)


def surface_picture(record: dict[str, Any], compute: Array, loss: Array, best: Optimum) -> LawPicture:
    """Loss against compute: every run, and the least loss that the fitted surface allows at each budget."""
    columns = (best.compute, best.loss["estimate"], best.loss["low"], best.loss["high"])
    label = f"compute-optimal loss ({100 * best.level:g} % interval of the law)"
    band = Band(label, *(column.tolist() for column in columns))
    points = [[float(a), float(b)] for a, b in zip(compute, loss, strict=True)]
    title = f"{record['loss_name']} against compute"
    return LawPicture(title, record["verdict"], "compute (6 N D FLOPs)", record["loss_name"], points, [band], None)


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0588f")


def plot_picture(picture: LawPicture, ax: Any) -> Any:
    """Draw on a matplotlib axis."""
    points = np.array(picture.points)
    ax.plot(points[:, 0], points[:, 1], "o", ms=4, alpha=0.55, color="#4c566a", label="runs", zorder=3)
    for band, colour in zip(picture.bands, COLOURS, strict=False):
        ax.plot(band.x, band.median, color=colour, label=band.name)
        ax.fill_between(band.x, band.low, band.high, color=colour, alpha=0.18, lw=0)
    if picture.hidden:
        hidden = picture.hidden
        error = [[hidden["y"] - hidden["low"]], [hidden["high"] - hidden["y"]]]
        label = "predicted without the largest scale"
        ax.errorbar([hidden["x"]], [hidden["y"]], error, fmt="D", ms=5, color="#1b2530", capsize=3, label=label)
    ax.set(xscale="log", yscale="log", xlabel=picture.x_name, ylabel=picture.loss_name)
    plain_numbers(ax.yaxis)
    ax.set_title(picture.title, loc="left", fontsize=11)
    ax.grid(True, which="major", color="#dde2e7", lw=0.7)
    ax.legend(frameon=False, fontsize=8)
    return ax


def write_png(pictures: Sequence[LawPicture], path: Path) -> None:
    """One panel a picture, side by side, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6 * len(pictures), 4.6), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    for ax, picture in zip(np.atleast_1d(figure.subplots(1, len(pictures))), pictures, strict=True):
        plot_picture(picture, ax)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_atomic(path, stream.getvalue())


def write_html(pictures: Sequence[LawPicture], path: Path) -> None:
    """One page with every picture, its data inside; nothing is loaded from anywhere."""
    # "</" inside a script element would end it, whatever the name of a column.
    data = json.dumps([asdict(picture) for picture in pictures], allow_nan=False).replace("</", "<\\/")
    title = html.escape(pictures[0].title if pictures else "law")
    script = Path(__file__).with_name("law_plot.js").read_text(encoding="utf-8")
    write_atomic(path, PAGE.replace("%SCRIPT%", script).replace("%TITLE%", title).replace("%DATA%", data))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>%TITLE%</title>
<style>
:root { color-scheme: light dark; --ink: light-dark(#1b2530, #e8edf2); --soft: light-dark(#5b6670, #a9b3bc);
  --grid: light-dark(#dde2e7, #36414c); --paper: light-dark(#fefefe, #161c22); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h2 { margin: 0; font-size: 1.15rem; } p { margin: .2rem 0 .6rem; color: var(--soft); }
svg { width: 100%; height: auto; touch-action: none; } text { fill: var(--soft); font-size: 12px; }
button { font: inherit; margin-right: .4rem; } #tip { position: fixed; pointer-events: none; background: var(--paper);
  border: 1px solid var(--grid); padding: .2rem .5rem; font-size: 13px; display: none; white-space: pre; }
</style></head><body><main></main><div id="tip" role="status"></div>
<script type="application/json" id="data">%DATA%</script>
<script>
%SCRIPT%
</script></body></html>
"""
