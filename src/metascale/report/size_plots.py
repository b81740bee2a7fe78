"""Plots of a study of model sizes: perplexity against parameters, width and depth; time; loss against compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from metascale.laws.picture import tip
from metascale.report.size_data import architecture_name, predicted
from metascale.report.size_types import Size, SizeTable
from metascale.report.style import (
    INK,
    PAPER,
    SERIES,
    SOFT,
    Label,
    finish,
    log_x_ticks,
    log_y_ticks,
    nothing,
    pad_y,
    ramp,
    side_labels,
)
from metascale.report.words import decimals, number

X = "n_params_total"
FAR = 2.0
"""A floor that is so many times away from every model would only squeeze the figure."""


def plot_perplexity(table: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Test perplexity against all parameters, both logarithmic, every point labelled, with the fitted lines."""
    if not table.sizes:
        return nothing(ax, "No finished model")
    titles, labels = [], []
    for architecture, colour in _colours(table):
        own = [one for one in table.sizes if one.architecture == architecture]
        _points(ax, own, colour, lambda one: one.n_params_total, lambda one: one.perplexity, "perplexity")
        _name_points(ax, own, colour, compact, _perplexity)
        line, name = table.line(architecture, X), architecture_name(architecture)
        if line is not None and line.b is not None:
            x = np.geomspace(own[0].n_params_total, own[-1].n_params_total, 40)
            ax.plot(x, [predicted(line, value) for value in x], color=colour, linewidth=1.6)
            titles.append(f"{name} b = {decimals(line.b.estimate)}")
        labels.append((own[-1].perplexity, name, colour))
    labels += _floor_lines(table, ax)
    _log_axes(ax, [one.n_params_total for one in table.sizes], compact)
    side_labels(ax, labels, size=8 if compact else 9)
    finding = f"Perplexity = a·params^b: {', '.join(titles)}" if titles else "Too few sizes for a law"
    return finish(ax, finding, "parameters, embeddings included (log scale)", "test perplexity (log scale)", compact)


def plot_along(table: SizeTable, ax: Axes, *, compact: bool = False, architecture: str, depth: bool) -> Axes:
    """Test perplexity of one architecture against the width, a line a depth; or against the depth, a line a width."""
    own = [one for one in table.sizes if one.architecture == architecture]
    if not own:
        return nothing(ax, "No finished model")
    lines = sorted({one.d_model if depth else one.n_layers for one in own})
    for value, colour in zip(lines, ramp(len(lines), 1), strict=True):
        members = [one for one in own if (one.d_model if depth else one.n_layers) == value]
        members.sort(key=lambda one: one.n_layers if depth else one.d_model)
        label = f"d {value}" if depth else f"{value} {'layer' if value == 1 else 'layers'}"
        x = [float(one.n_layers if depth else one.d_model) for one in members]
        ax.plot(x, [one.perplexity for one in members], color=colour, linewidth=1.5, label=label)
        _points(ax, members, colour, lambda one: float(one.n_layers if depth else one.d_model), _perplexity, "")
    _log_axes(ax, [float(one.n_layers if depth else one.d_model) for one in own], compact)
    ax.legend(fontsize=8 if compact else 9, frameon=False, loc="best")
    what = "layers (log scale)" if depth else "width d (log scale)"
    return finish(ax, architecture_name(architecture), what, "test perplexity (log scale)", compact)


def plot_time(table: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Wall time of a trial against its parameters, both logarithmic."""
    timed = [one for one in table.sizes if one.wall_s]
    if not timed:
        return nothing(ax, "No trial was timed")
    labels: list[Label] = []
    for architecture, colour in _colours(table):
        own = [one for one in timed if one.architecture == architecture]
        if not own:
            continue
        _points(ax, own, colour, lambda one: one.n_params_total, lambda one: one.wall_s or 0.0, "s")
        _name_points(ax, own, colour, compact, lambda one: one.wall_s or 0.0)
        labels.append((own[-1].wall_s or 0.0, architecture_name(architecture), colour))
    _log_axes(ax, [one.n_params_total for one in timed], compact)
    side_labels(ax, labels, size=8 if compact else 9)
    first, last = min(timed, key=lambda one: one.wall_s or 0.0), max(timed, key=lambda one: one.wall_s or 0.0)
    finding = f"A trial took {number(round(first.wall_s or 0))} to {number(round(last.wall_s or 0))} s"
    return finish(ax, finding, "parameters, embeddings included (log scale)", "wall time in s (log scale)", compact)


def plot_compute(table: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Loss against training FLOPs: validation along every run (thin), test loss at its end, and the frontier."""
    if not table.curves:
        return nothing(ax, "No run has a curve")
    labels: list[Label] = []
    for architecture, colour in _colours(table):
        for curve in (one for one in table.curves if one.architecture == architecture):
            ax.plot(curve.flops, curve.losses, color=colour, linewidth=0.7, alpha=0.35)
            (dot,) = ax.plot(*curve.end, "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.8)
            tip(dot, f"{curve.label}, seed {curve.seed}: {decimals(curve.end[1])} nats at {curve.end[0]:.3g} FLOPs")
        frontier = table.frontier.get(architecture, ())
        if frontier:
            x, y = zip(*frontier, strict=True)
            ax.plot(x, y, color=colour, linewidth=2, marker="o", markersize=7, markeredgecolor=PAPER)
            labels.append((y[-1], f"{architecture_name(architecture)},\nfrontier", colour))
    ends = [curve.end[0] for curve in table.curves]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(min(min(curve.flops) for curve in table.curves), max(ends) * 1.15)
    highest = max(curve.end[1] for curve in table.curves)
    ax.set_ylim(min(curve.end[1] for curve in table.curves) * 0.98, highest * 1.18)
    log_y_ticks(ax)
    side_labels(ax, labels, size=8 if compact else 9)
    finding = f"Test loss {_best_by_compute(table)}"
    return finish(ax, finding, "training FLOPs (log scale)", "loss (nats, log scale)", compact)


def _best_by_compute(table: SizeTable) -> str:
    """The lowest end of every architecture's frontier."""
    parts = [
        f"{architecture_name(name)} {decimals(points[-1][1])} at {points[-1][0]:.2g} FLOPs"
        for name in table.architectures
        if (points := table.frontier.get(name))
    ]
    return ", ".join(parts)


def _colours(table: SizeTable) -> list[tuple[str, str]]:
    return [(name, SERIES[place % len(SERIES)]) for place, name in enumerate(table.architectures)]


def _perplexity(one: Size) -> float:
    return one.perplexity


def _points(
    ax: Axes, sizes: Sequence[Size], colour: str, x: Callable[[Size], float], y: Callable[[Size], float], unit: str
) -> None:
    """A circle a configuration; a bar across seeds where perplexity is drawn."""
    for one in sizes:
        if one.perplexity_sem is not None and y(one) == one.perplexity:
            ax.errorbar(x(one), y(one), one.perplexity_sem, color=colour, elinewidth=1.3, capsize=3)
        (circle,) = ax.plot(x(one), y(one), "o", color=colour, markersize=7, markeredgecolor=PAPER, zorder=5)
        spread = "" if one.perplexity_sem is None or y(one) != one.perplexity else f" ± {number(one.perplexity_sem)}"
        words = f"{architecture_name(one.architecture)} {one.label}: {number(y(one))}{spread} {unit}".rstrip()
        tip(circle, f"{words}, {number(one.n_params_total)} parameters, {one.n_seeds} seeds")


def _name_points(ax: Axes, sizes: Sequence[Size], colour: str, compact: bool, y: Callable[[Size], float]) -> None:
    """Width × depth beside every point, clear of its error bar; the largest has its name on the left."""
    for one in sizes:
        left = one is sizes[-1]
        ax.annotate(
            one.label,
            (one.n_params_total, y(one)),
            xytext=(-8 if left else 8, 4),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=7.5 if compact else 8.5,
            color=colour,
        )


def _floor_lines(table: SizeTable, ax: Axes) -> list[Label]:
    """The counting models' test perplexities as horizontal lines; one far from all models is only written down."""
    labels, far = [], []
    low, high = (end(one.perplexity for one in table.sizes) for end in (min, max))
    for order in ("unigram", "bigram"):
        value = table.floors.get(f"{order}_test")
        if value is None:
            continue
        words = f"{order} {number(round(value))}"
        if not low / FAR < value < high * FAR:
            far.append(f"{words} lies {'above' if value > high else 'below'}")
            continue
        line = ax.axhline(value, color=SOFT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        tip(line, words)
        labels.append((value, words, INK))
    ax.text(1.0, 1.0, "\n".join(far), transform=ax.transAxes, ha="right", va="top", fontsize=8.5, color=SOFT)
    return labels


def _log_axes(ax: Axes, x: Sequence[float], compact: bool) -> None:
    ax.set_yscale("log")
    log_x_ticks(ax, x, closest=0.16 if compact else 0.1)
    pad_y(ax, part=0.09)
    log_y_ticks(ax)
