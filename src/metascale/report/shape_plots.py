"""Plots of the loss along each axis of a study of shapes."""

from __future__ import annotations

import itertools
import math

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from metascale.laws.picture import tip
from metascale.report.shape_data import ASPECT, Shape, ShapeTable, by_value
from metascale.report.style import PAPER, SERIES, finish, log_label, log_x_ticks, log_y_ticks, nothing, pad_y
from metascale.report.words import axis_label, decimals, number


def plot_shape_axis(table: ShapeTable, ax: Axes, *, axis: str, y_label: str, compact: bool = False) -> Axes:
    """Loss against one axis: a thin line joins shapes alike in all else, a thick one the means over the rest."""
    if not table.shapes:
        return nothing(ax, "No finished shape")
    for series, colour in zip(table.series, itertools.cycle(SERIES)):
        mine = [shape for shape in table.shapes if shape.point.series == series]
        for alike in _alike(mine, axis) if axis != ASPECT else ():
            ax.plot(
                [shape.values[axis] for shape in alike], [shape.point.mean for shape in alike], color=colour,
                linewidth=0.7, alpha=0.45,
            )  # fmt: skip
        for shape in mine:
            (dot,) = ax.plot(shape.values[axis], shape.point.mean, "o", color=colour, markersize=3.2, alpha=0.6)
            tip(dot, f"{series}, {shape.point.name}: {decimals(shape.point.mean)}, {number(shape.point.x)} parameters")
        if axis != ASPECT:
            means = by_value(table, axis, series)
            ax.plot(
                [row[0] for row in means], [row[1] for row in means], "o-", color=colour, linewidth=2.0, markersize=5.5,
                markeredgecolor=PAPER,
            )  # fmt: skip
    ax.set_yscale("log")
    values = [shape.values[axis] for shape in table.shapes]
    log_x_ticks(ax, values, closest=0.16)
    if axis == ASPECT:
        powers = [2.0**k for k in range(math.ceil(math.log2(min(values))), math.floor(math.log2(max(values))) + 1)]
        ax.xaxis.set_major_locator(FixedLocator(powers))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    pad_y(ax)
    log_y_ticks(ax)
    label = axis if axis == ASPECT else axis_label(axis)
    return finish(ax, label.capitalize(), label, log_label(y_label), compact)


def _alike(shapes: list[Shape], axis: str) -> list[list[Shape]]:
    """Shapes that differ along one axis alone, in order of it."""
    groups: dict[tuple[tuple[str, float], ...], list[Shape]] = {}
    for shape in shapes:
        rest = tuple((name, value) for name, value in shape.values.items() if name not in (axis, ASPECT))
        groups.setdefault(rest, []).append(shape)
    return [sorted(group, key=lambda shape: shape.values[axis]) for group in groups.values() if len(group) > 1]
