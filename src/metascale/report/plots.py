"""Plots of the frozen tables: each takes a table and axes, draws, and returns the axes.

A point's read-out (for the page's hover) rides on the artist, see `tip`. ``compact`` is the variant for a phone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator

from metascale.report.comparisons import ContestTable
from metascale.report.data import Fit, HeldOut, LawTable, ScaleTable
from metascale.report.reading import MAIN_KINDS
from metascale.report.series import method_label
from metascale.report.style import (
    BLUE,
    DASHES,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    SERIES,
    SOFT,
    Label,
    finish,
    log_y_ticks,
    nothing,
    option,
    pad_y,
    scale_x_ticks,
    side_labels,
    tip,
    y_scale_label,
)
from metascale.report.words import decimals, number, percent, scale_words, seed_words

Write = Callable[[float], str]


def plot_law(table: LawTable, ax: Axes, *, compact: bool = False, linear: bool = False, families: bool = False) -> Axes:
    """Loss against scale: runs, means with bars across seeds, the law with its band, baselines.

    Both axes are logarithmic; that of a scale with a value that is not positive is linear.

    Args:
        linear: a linear axis for the loss.
        families: draw the other fitted families too; a page shows them on demand.
    """
    scales = table.scales
    if not scales.points:
        return nothing(ax, "No finished run with a test loss")
    labels: list[Label] = []
    for fit in table.fits:
        colour = fit_colour(scales, fit)
        if fit.curve:
            ax.fill_between(fit.curve.x, fit.curve.low, fit.curve.high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(fit.curve.x, fit.curve.median, color=colour, linewidth=2, label=f"law {fit.series}".strip())
        if fit.curve and not fit.series:
            labels.append((fit.curve.median[-1], f"law, {100 * table.level:g} %", colour))

    def write(value: float) -> str:
        return f"{decimals(value)} {scales.unit}".strip()

    labels += _runs(scales, ax, write)
    labels += _levels(scales, ax, lambda value: decimals(value, 2), write)
    if not linear:
        ax.set_yscale("log")
    x_label = scale_x_ticks(ax, [point.x for point in scales.points], scales.x_label, 0.12 if compact else 0.07)
    for fit in table.fits:
        if fit.held_out:
            predicted = _held_out(fit.held_out, ax, scales, fit_colour(scales, fit) if fit.series else ORANGE)
            labels += [] if fit.series else [predicted]
    pad_y(ax, log=not linear)
    if not linear:
        log_y_ticks(ax)
    if families:
        _other_families(table, ax)
    side_labels(ax, labels, size=8 if compact else 9)
    y_label = y_scale_label(ax, scales.y_label)
    return finish(ax, table.finding, x_label, y_label, compact)


def plot_accuracy(table: ScaleTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Accuracy (linear) against scale (logarithmic): runs, means with bars across seeds, baselines and chance."""
    if not table.points:
        return nothing(ax, "No finished run with a test accuracy")
    labels = _runs(table, ax, percent)
    for series, (mean, colour) in zip(table.series, _last_means(table), strict=True):
        ax.plot(*_line(table, series), color=colour, linewidth=1.6)
        if len(table.series) == 1:
            labels.append((mean, method_label(series), colour))
    labels += _levels(table, ax, lambda value: percent(value, 0), percent)
    x_label = scale_x_ticks(ax, [point.x for point in table.points], table.x_label, 0.12 if compact else 0.07)
    pad_y(ax, log=False)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    side_labels(ax, labels, size=8 if compact else 9)
    return finish(ax, _accuracy_title(table), x_label, table.y_label, compact)


def plot_baselines(table: ContestTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Bars of test loss, best on top, with standard errors across test tasks and a dot for every seed."""
    if not table.rows:
        return nothing(ax, "No method with a test loss")
    size = 8 if compact else 9
    reach = max(max(row.loss + (row.task_sem or 0.0), *(row.seed_values or (0.0,))) for row in table.rows)
    for place, row in enumerate(table.rows):
        main = row.kind in MAIN_KINDS
        (bar,) = ax.barh(place, row.loss, height=0.62, color=BLUE if main else MUTED)
        text = decimals(row.loss) + (f" ± {decimals(row.task_sem)}" if row.task_sem is not None else "")
        tip(
            bar, f"{row.name}: {text} {table.unit}" + (f", {percent(row.accuracy)}" if row.accuracy is not None else "")
        )
        if row.task_sem is not None:
            ax.errorbar(row.loss, place, xerr=row.task_sem, color=INK, elinewidth=1.2, capsize=3)
        if len(row.seed_values) > 1:
            places = place + np.linspace(-0.16, 0.16, len(row.seed_values))
            ax.plot(row.seed_values, places, "o", color=PAPER, markersize=3.6, markeredgecolor=INK, markeredgewidth=0.8)
        end = max(row.loss + (row.task_sem or 0.0), *(row.seed_values or (0.0,)))
        ax.text(end + 0.015 * reach, place, text, va="center", ha="left", fontsize=size, color=INK)
    ax.set_ylim(len(table.rows) - 0.4, -0.6)
    ax.set_xlim(0, reach * (1.42 if compact else 1.2))
    names = [row.name.replace(", ", ",\n") if compact else row.name for row in table.rows]
    ax.yaxis.set_major_locator(FixedLocator(range(len(names))))
    ax.yaxis.set_major_formatter(FixedFormatter(names))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(4 if compact else 6))
    ax.grid(visible=True, axis="x")
    best = table.rows[0]
    loss = table.loss_label.split(" (")[0]
    finding = f"Lowest {loss}: {best.name}, {decimals(best.loss)} {table.unit}"
    finish(ax, finding, table.loss_label, "", compact)
    ax.grid(visible=False, axis="y")
    return ax


def _other_families(table: LawTable, ax: Axes) -> None:
    """The curves a reader can ask for; they do not widen the axes, which are those of the data and the chosen law."""
    limits = ax.get_ylim()
    for fit in table.fits:
        colour = fit_colour(table.scales, fit)
        for place, other in enumerate(fit.others):
            (line,) = ax.plot(other.x, other.loss, color=colour, linewidth=1.4, linestyle=DASHES[place % len(DASHES)])
            option(line, other.name)
    ax.set_ylim(limits)


def _runs(table: ScaleTable, ax: Axes, write: Write) -> list[Label]:
    """Every run as a small dot and every scale's mean as a circle; labels for the series where there are several."""
    labels = []
    for place, series in enumerate(table.series):
        colour = SERIES[place % len(SERIES)]
        for point in (point for point in table.points if point.series == series):
            (dot,) = ax.plot(point.x, point.value, "o", color=colour, markersize=3.6, alpha=0.55, markeredgewidth=0)
            across = f" (± {write(point.task_sem)} across tasks)" if point.task_sem is not None else ""
            tip(
                dot,
                f"{series}, {scale_words(table.x_name, point.x)}, {seed_words(point.seed)}: "
                f"{write(point.value)}{across}",
            )
        for mean in (mean for mean in table.means if mean.series == series):
            if mean.seed_sem is not None:
                ax.errorbar(mean.x, mean.mean, mean.seed_sem, color=colour, elinewidth=1.4, capsize=3.5, zorder=4)
            (circle,) = ax.plot(
                mean.x,
                mean.mean,
                "o",
                color=colour,
                markersize=7.5,
                markeredgecolor=PAPER,
                markeredgewidth=1.2,
                zorder=5,
            )
            across = (
                f" ± {write(mean.seed_sem)} across {mean.n_seeds} seeds" if mean.seed_sem is not None else " (one seed)"
            )
            tip(circle, f"{series}, {scale_words(table.x_name, mean.x)}: mean {write(mean.mean)}{across}")
            if len(table.series) > 1 and mean.x == max(other.x for other in table.means if other.series == series):
                labels.append((mean.mean, series, colour))
    return labels


def _levels(table: ScaleTable, ax: Axes, short: Write, write: Write) -> list[Label]:
    """Baselines as horizontal lines with bands across tasks; their labels are shorter than their read-outs."""
    labels = []
    for level in table.levels:
        style = (0, (5, 3)) if level.kind == "baseline" else (0, (1.5, 2.5))
        line = ax.axhline(level.value, color=SOFT, linewidth=1.2, linestyle=style, zorder=1)
        if level.task_sem is not None:
            ax.axhspan(level.value - level.task_sem, level.value + level.task_sem, color=SOFT, alpha=0.12, linewidth=0)
        across = f" ± {write(level.task_sem)} across tasks" if level.task_sem is not None else ""
        tip(line, f"{method_label(level.method)}: {write(level.value)}{across}")
        labels.append((level.value, f"{method_label(level.method)} {short(level.value)}", SOFT))
    return labels


def fit_colour(scales: ScaleTable, fit: Fit) -> str:
    """The colour of a fit: its series', and ink for one law over several series."""
    if fit.series in scales.series:
        return SERIES[scales.series.index(fit.series) % len(SERIES)]
    return BLUE if len(scales.series) == 1 else INK


def _held_out(held_out: HeldOut, ax: Axes, scales: ScaleTable, colour: str) -> Label:
    """The prediction from smaller scales, drawn a little to the right of the measured mean so that both can be seen."""
    low, high = ax.get_xlim()
    x = held_out.x * (high / low) ** 0.018
    if held_out.low is not None and held_out.high is not None:
        ax.plot([x, x], [held_out.low, held_out.high], color=colour, linewidth=1.6, zorder=5)
    (diamond,) = ax.plot(
        x, held_out.predicted, "D", color=PAPER, markeredgecolor=colour, markeredgewidth=1.6, markersize=6, zorder=6
    )
    span = f" [{decimals(held_out.low)}, {decimals(held_out.high)}]" if held_out.low is not None else ""
    scale = scale_words(scales.x_name, held_out.x)
    tip(
        diamond,
        f"{scale} predicted from smaller scales: {decimals(held_out.predicted)}{span}; "
        f"measured {decimals(held_out.observed)}",
    )
    return held_out.predicted, "predicted from\nsmaller scales", colour


def _last_means(table: ScaleTable) -> list[tuple[float, str]]:
    ends = []
    for place, series in enumerate(table.series):
        last = max((mean for mean in table.means if mean.series == series), key=lambda mean: mean.x)
        ends.append((last.mean, SERIES[place % len(SERIES)]))
    return ends


def _line(table: ScaleTable, series: str) -> tuple[list[float], list[float]]:
    means = [mean for mean in table.means if mean.series == series]
    return [mean.x for mean in means], [mean.mean for mean in means]


def _accuracy_title(table: ScaleTable) -> str:
    means = [mean for mean in table.means if mean.series == table.series[0]]
    first, last = means[0], means[-1]
    named = table.y_label.capitalize()
    if len(table.series) > 1:
        ends = {s: _line(table, s)[1] for s in table.series}
        found = "; ".join(f"{method_label(s)} {percent(y[0])} to {percent(y[-1])}" for s, y in ends.items())
        return f"{named} from the smallest to the largest scale: {found}"
    if len(means) == 1:
        return f"{named} {percent(first.mean)} at {scale_words(table.x_name, first.x)}"
    scales = f"{scale_words(table.x_name, first.x)} to {number(last.x)}"
    return f"{named} from {scales}: {percent(first.mean)} to {percent(last.mean)}"
