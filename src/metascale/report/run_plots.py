"""Plots of what happened inside runs: learning curves and adaptation steps. Table and axes in, axes out."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from metascale.report.curves import AdaptationTable, LearningTable
from metascale.report.frame import Label, finish, log_y_ticks, nothing, pad_y, side_labels, y_scale_label
from metascale.report.style import PAPER, SERIES, SOFT, ramp, tip
from metascale.report.words import decimals, number, scale_words, seed_words


def plot_learning_curves(table: LearningTable, ax: Axes, *, compact: bool = False, key: bool = True) -> Axes:
    """Loss along the steps of training, one line a run, coloured by scale, or by series where no scale varies.

    A dot is the checkpoint that was kept.
    """
    if not table.curves:
        return nothing(ax, "No learning curve on disk")
    scales = sorted({curve.x for curve in table.curves if curve.x is not None})
    colours = dict(zip(scales, ramp(len(scales)), strict=True))
    series = list(dict.fromkeys(curve.series for curve in table.curves))
    hues = {} if scales or len(series) < 2 else dict(zip(series, SERIES * len(series), strict=False))
    for curve in table.curves:
        place = series.index(curve.series)
        colour = colours[curve.x] if curve.x is not None else hues.get(curve.series, SOFT)
        style = ("-", "--", "-.")[(place // len(SERIES) if hues else place) % 3] if curve.finished else ":"
        (line,) = ax.plot(curve.steps, curve.values, style, color=colour, linewidth=1.2, alpha=0.9)
        ending = "" if curve.finished else ", not finished"
        scale = "" if curve.x is None else f", {scale_words(table.x_name, curve.x)}"
        tip(line, f"{curve.series}{scale}, {seed_words(curve.seed)}{ending}")
        if not curve.finished:
            ax.plot(curve.steps[-1], curve.values[-1], "x", color=colour, markersize=6, markeredgewidth=1.6)
        if curve.best_step is not None and curve.best_step in curve.steps:
            value = curve.values[curve.steps.index(curve.best_step)]
            (dot,) = ax.plot(curve.best_step, value, "o", color=colour, markersize=4.5, markeredgecolor=PAPER)
            tip(
                dot,
                f"{curve.series}{scale}, {seed_words(curve.seed)}: "
                f"kept step {number(curve.best_step)}, {decimals(value)}",
            )
    ax.set_yscale("log")
    pad_y(ax)
    log_y_ticks(ax)
    ax.xaxis.set_major_locator(MaxNLocator(4 if compact else 5, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    rows = 0
    if key and scales:
        handles = [Line2D([], [], color=colour, linewidth=3, label=number(x)) for x, colour in colours.items()]
        handles[0].set_label(scale_words(table.x_name, next(iter(colours))))
        rows = _key(ax, handles, 4 if compact else 8)
    elif key and hues:
        dashed = {name: "-" if place < len(SERIES) else "--" for place, name in enumerate(series)}
        handles = [Line2D([], [], color=hues[n], linewidth=2, linestyle=dashed[n], label=n) for n in series]
        rows = _key(ax, handles, 2 if compact else 4)
    title = table.y_label.split(" (")[0].capitalize()
    finish(ax, title, table.x_label, y_scale_label(ax, table.y_label), compact, 10 + 15 * rows)
    return ax


def plot_adaptation(table: AdaptationTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Meta-test loss after K inner steps; thin lines are seeds, bars are standard errors across meta-test tasks."""
    if not table.curves:
        return nothing(ax, "No adaptation curve on disk")
    labels: list[Label] = []
    for curve, (colour, style) in zip(table.curves, _adaptation_looks(table), strict=True):
        name = curve.series if curve.x is None else f"{curve.series}, {scale_words(table.x_name, curve.x)}"
        for values in curve.seeds if len(curve.seeds) > 1 else ():
            ax.plot(curve.inner_steps, values, color=colour, linewidth=0.7, alpha=0.55)
        bars = None if None in curve.task_sem else [sem or 0.0 for sem in curve.task_sem]
        ax.plot(curve.inner_steps, curve.values, style, color=colour, linewidth=1.8, zorder=3)
        if bars:
            ax.errorbar(
                curve.inner_steps, curve.values, bars, color=colour, fmt="none", elinewidth=1.0, capsize=2.5, zorder=3
            )
        for k, value, sem in zip(curve.inner_steps, curve.values, curve.task_sem, strict=True):
            (dot,) = ax.plot(k, value, "o", color=colour, markersize=5, markeredgecolor=PAPER, zorder=4)
            tip(dot, f"{name}, K = {k}: {decimals(value)}" + (f" ± {decimals(sem)} across tasks" if sem else ""))
        labels.append((curve.values[-1], name.replace(", ", ",\n") if compact else name, colour))
    ticks = sorted({k for curve in table.curves for k in curve.inner_steps})
    ax.set_xscale("function", functions=(np.log1p, np.expm1))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([str(k) for k in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yscale("log")
    pad_y(ax)
    log_y_ticks(ax)
    side_labels(ax, labels, size=8 if compact else 9)
    return finish(ax, _adaptation_title(table), "inner steps K", y_scale_label(ax, table.y_label), compact)


def _key(ax: Axes, handles: list[Line2D], columns: int) -> int:
    """A key between title and axes; returns how many rows it takes."""
    columns = min(len(handles), columns)
    ax.legend(
        handles=handles,
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(-0.015, 1.0),
        borderaxespad=0.0,
        fontsize=8,
        handlelength=0.9,
        columnspacing=0.8,
        handletextpad=0.35,
        frameon=False,
    )
    return -(-len(handles) // columns)


def _adaptation_looks(table: AdaptationTable) -> list[tuple[str, str]]:
    """Colour and line of each curve: a hue a series, dashed below its largest scale; baselines grey, then other."""
    series = list(dict.fromkeys(curve.series for curve in table.curves if curve.x is not None))
    hues = dict(zip(series, SERIES * len(series), strict=False))
    others = iter([SOFT, *SERIES[len(series) :], *SERIES * len(table.curves)])
    looks = []
    for curve in table.curves:
        if curve.x is None:
            looks.append((next(others), "-"))
        else:
            largest = max(other.x for other in table.curves if other.series == curve.series and other.x is not None)
            looks.append((hues[curve.series], "-" if curve.x == largest else "--"))
    return looks


def _adaptation_title(table: AdaptationTable) -> str:
    best = min(table.curves, key=lambda curve: min(curve.values))
    place = best.values.index(min(best.values))
    name = best.series if best.x is None else f"{best.series} from {scale_words(table.x_name, best.x)}"
    return f"Lowest of these after adaptation: {name}, {decimals(best.values[place])} at K = {best.inner_steps[place]}"
