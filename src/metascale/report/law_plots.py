"""The picture of a law: PNG by matplotlib, and one self-contained HTML file that zooms, hovers and asks nobody for anything.

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
from metascale.laws.arrays import Array
from metascale.laws.forecast import Forecast


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
    write_atomic(path, PAGE.replace("%TITLE%", title).replace("%DATA%", data))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>%TITLE%</title>
<style>
:root { color-scheme: light dark; --ink: light-dark(#1b2530, #e8edf2); --soft: light-dark(#5b6670, #a9b3bc);
  --grid: light-dark(#dde2e7, #36414c); --paper: light-dark(#fefefe, #161c22); }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h2 { margin: 0; font-size: 1.15rem; } p { margin: .2rem 0 .6rem; color: var(--soft); }
svg { width: 100%; height: auto; touch-action: none; } text { fill: var(--soft); font-size: 12px; }
button { font: inherit; margin-right: .4rem; } #tip { position: fixed; pointer-events: none; background: var(--paper);
  border: 1px solid var(--grid); padding: .2rem .5rem; font-size: 13px; display: none; white-space: pre; }
</style></head><body><main></main><div id="tip" role="status"></div>
<script type="application/json" id="data">%DATA%</script>
<script>
"use strict";
const NS = "http://www.w3.org/2000/svg", W = 900, H = 470, M = {l: 74, r: 16, t: 14, b: 48};
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#b0588f"];
const tip = document.getElementById("tip");
function make(tag, attributes, parent, text) {
  const node = document.createElementNS(tag === "div" || tag === "h2" || tag === "p" || tag === "button" || tag === "section"
    ? "http://www.w3.org/1999/xhtml" : NS, tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}
function show(event, text) { tip.textContent = text; tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 240) + "px"; tip.style.top = event.clientY + 14 + "px"; }
function number(value) { return Number(value.toPrecision(5)).toString(); }
function ticks(low, high, log) {
  const out = [];
  if (log) {
    const wide = Math.log10(high / low) > 3;
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const m of wide ? [1] : [1, 2, 5]) { const v = m * 10 ** e; if (v >= low && v <= high) out.push(v); }
    if (out.length > 1) return out;
    out.length = 0;
  }
  const raw = (high - low) / 6, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * unit).find(s => s >= raw);
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) out.push(v);
  return out;
}
function panel(picture, parent) {
  const section = make("section", {}, parent);
  make("h2", {}, section, picture.title); make("p", {}, section, picture.subtitle);
  const bar = make("div", {}, section), state = {logX: true, logY: true, view: null};
  const xs = picture.points.map(p => p[0]).concat(...picture.bands.map(b => b.x));
  const ys = picture.points.map(p => p[1]).concat(...picture.bands.map(b => b.low.concat(b.high)));
  const full = {x0: Math.min(...xs) / 1.1, x1: Math.max(...xs) * 1.1, y0: Math.min(...ys) / 1.03, y1: Math.max(...ys) * 1.03};
  const svg = make("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": picture.title}, section);
  for (const [name, label] of [["logX", "x: log / linear"], ["logY", "y: log / linear"]])
    make("button", {type: "button"}, bar, label).onclick = () => { state[name] = !state[name]; draw(); };
  make("button", {type: "button"}, bar, "whole range").onclick = () => { state.view = null; draw(); };
  make("p", {}, section, "Drag to zoom, hover for numbers.");
  const to = (v, a, b, log) => log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a);
  const from = (s, a, b, log) => log ? a * (b / a) ** s : a + s * (b - a);
  function draw() {
    svg.replaceChildren();
    const v = state.view || full;
    const X = x => M.l + (W - M.l - M.r) * to(x, v.x0, v.x1, state.logX);
    const Y = y => H - M.b - (H - M.t - M.b) * to(y, v.y0, v.y1, state.logY);
    const clip = "clip" + Math.random().toString(36).slice(2);
    make("rect", {x: M.l, y: M.t, width: W - M.l - M.r, height: H - M.t - M.b}, make("clipPath", {id: clip}, make("defs", {}, svg)));
    for (const x of ticks(v.x0, v.x1, state.logX)) {
      make("line", {x1: X(x), x2: X(x), y1: M.t, y2: H - M.b, stroke: "var(--grid)"}, svg);
      make("text", {x: X(x), y: H - M.b + 18, "text-anchor": "middle"}, svg, number(x));
    }
    for (const y of ticks(v.y0, v.y1, state.logY)) {
      make("line", {x1: M.l, x2: W - M.r, y1: Y(y), y2: Y(y), stroke: "var(--grid)"}, svg);
      make("text", {x: M.l - 8, y: Y(y) + 4, "text-anchor": "end"}, svg, number(y));
    }
    make("text", {x: (W + M.l) / 2, y: H - 8, "text-anchor": "middle"}, svg, picture.x_name);
    make("text", {x: 16, y: H / 2, transform: `rotate(-90 16 ${H / 2})`, "text-anchor": "middle"}, svg, picture.loss_name);
    const plot = make("g", {"clip-path": `url(#${clip})`}, svg);
    const surface = make("rect", {x: M.l, y: M.t, width: W - M.l - M.r, height: H - M.t - M.b, fill: "transparent"}, plot);
    picture.bands.forEach((band, k) => {
      const colour = COLOURS[k % 4], line = ys => band.x.map((x, i) => `${X(x)},${Y(ys[i])}`);
      make("polygon", {points: line(band.low).concat(line(band.high).reverse()).join(" "), fill: colour, opacity: .18}, plot);
      make("polyline", {points: line(band.median).join(" "), fill: "none", stroke: colour, "stroke-width": 2}, plot);
      make("text", {x: W - M.r - 6, y: M.t + 18 + 18 * k, "text-anchor": "end", style: `fill:${colour}`}, svg, band.name);
      band.x.forEach((x, i) => { const dot = make("circle", {cx: X(x), cy: Y(band.median[i]), r: 7, fill: "transparent"}, plot);
        dot.onpointermove = e => show(e, `${band.name}\\n${picture.x_name} ${number(x)}: ${number(band.median[i])}` +
          ` (${number(band.low[i])} to ${number(band.high[i])})`); dot.onpointerleave = () => tip.style.display = "none"; });
    });
    for (const [x, y] of picture.points) {
      const dot = make("circle", {cx: X(x), cy: Y(y), r: 4, fill: "var(--soft)", opacity: .7}, plot);
      dot.onpointermove = e => show(e, `${picture.x_name} ${number(x)}\\n${picture.loss_name} ${number(y)}`);
      dot.onpointerleave = () => tip.style.display = "none";
    }
    const h = picture.hidden;
    if (h) { make("line", {x1: X(h.x), x2: X(h.x), y1: Y(h.low), y2: Y(h.high), stroke: "var(--ink)", "stroke-width": 2}, plot);
      const mark = make("rect", {x: X(h.x) - 5, y: Y(h.y) - 5, width: 10, height: 10, fill: "var(--ink)"}, plot);
      mark.onpointermove = e => show(e, `predicted without the largest scale\\n${number(h.y)} (${number(h.low)} to ${number(h.high)})`);
      mark.onpointerleave = () => tip.style.display = "none"; }
    let start = null, box = null;
    const at = e => { const r = svg.getBoundingClientRect(); return [(e.clientX - r.left) * W / r.width, (e.clientY - r.top) * H / r.height]; };
    surface.onpointerdown = e => { start = at(e); surface.setPointerCapture(e.pointerId);
      box = make("rect", {fill: "var(--soft)", opacity: .2}, plot); };
    surface.onpointermove = e => { if (!start) return; const p = at(e);
      for (const [k, val] of Object.entries({x: Math.min(p[0], start[0]), y: Math.min(p[1], start[1]),
        width: Math.abs(p[0] - start[0]), height: Math.abs(p[1] - start[1])})) box.setAttribute(k, val); };
    surface.onpointerup = e => { if (!start) return; const p = at(e), s = start; start = null;
      if (Math.abs(p[0] - s[0]) > 12 && Math.abs(p[1] - s[1]) > 12) {
        const fx = q => from((q - M.l) / (W - M.l - M.r), v.x0, v.x1, state.logX);
        const fy = q => from((H - M.b - q) / (H - M.t - M.b), v.y0, v.y1, state.logY);
        state.view = {x0: fx(Math.min(p[0], s[0])), x1: fx(Math.max(p[0], s[0])), y0: fy(Math.max(p[1], s[1])), y1: fy(Math.min(p[1], s[1]))};
      }
      draw(); };
  }
  draw();
}
for (const picture of JSON.parse(document.getElementById("data").textContent)) panel(picture, document.querySelector("main"));
</script></body></html>
"""
