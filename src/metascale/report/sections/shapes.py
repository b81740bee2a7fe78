"""Loss along each axis of a study that grows in several ways, and what an axis does at an equal size."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from metascale.core.columns import SIZE_JSON
from metascale.laws.effects import off_law, slope
from metascale.laws.picture import tip
from metascale.laws.record import Interval
from metascale.report import style
from metascale.report.section import (
    Cell,
    Draw,
    PageTable,
    Picture,
    Section,
    plain,
    reading,
    series_key,
    signed,
    text_column,
)
from metascale.report.section import table as page_table
from metascale.report.study import Point, ReportStudy, StudySource, finite, open_study
from metascale.report.words import axis_label, measured, number

TITLE = "Loss along each axis of the shape"
ASPECT = "width / depth"


@dataclass(frozen=True, slots=True)
class Shape:
    """One configuration: its values along the axes, its size, and its mean loss.

    ``off_law``: ln of its loss over the law's at its size, the law being fitted to all shapes of the series.
    """

    point: Point
    values: Mapping[str, float]
    off_law: float


@dataclass(frozen=True, slots=True)
class AxisEffect:
    """How ln loss changes when the value of an axis doubles: overall, and at an equal size.

    Simple regressions over the shapes of a series, with 95 % intervals (Student).
    """

    series: str
    axis: str
    overall: Interval
    at_equal_size: Interval


@dataclass(frozen=True, slots=True)
class ShapeTable:
    """Every shape, the axes they vary along (and width over depth), and each axis' effect."""

    shapes: tuple[Shape, ...]
    axes: tuple[str, ...]
    x_name: str

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shape.point.series for shape in self.shapes))

    def of(self, series: str) -> list[Shape]:
        return [shape for shape in self.shapes if shape.point.series == series]

    @property
    def effects(self) -> list[AxisEffect]:
        """Of every axis in every series that has enough shapes."""
        found = []
        for series, axis in itertools.product(self.series, self.axes):
            mine = self.of(series)
            doublings = [math.log2(shape.values[axis]) for shape in mine]
            whole = slope(doublings, [math.log(shape.point.mean) for shape in mine])
            rest = slope(doublings, [shape.off_law for shape in mine])
            if whole is not None and rest is not None:
                found.append(AxisEffect(series, axis, whole, rest))
        return found

    def by_value(self, axis: str, series: str) -> list[tuple[float, float, float, int]]:
        """(value, geometric mean of the loss, mean ln off the law, shapes) at every value of an axis."""
        rows = []
        for value in sorted({shape.values[axis] for shape in self.of(series)}):
            here = [shape for shape in self.of(series) if shape.values[axis] == value]
            losses = statistics.geometric_mean(shape.point.mean for shape in here)
            rows.append((value, losses, statistics.fmean(shape.off_law for shape in here), len(here)))
        return rows


def shape_data(source: StudySource) -> ShapeTable | None:
    """The table of a study with a measured scale and two or more axes of numbers; ``None`` for any other.

    A study of model sizes has tables of its own.
    """
    study = open_study(source)
    axes = [
        name
        for name, values in study.axes.items()
        if len(values) > 1 and all((finite(value) or 0) > 0 for value in values)
    ]
    if study.x_name in study.axes or len(axes) < 2 or (study.folder / SIZE_JSON).exists():
        return None
    shapes: list[Shape] = []
    for series in dict.fromkeys(point.series for point in study.points):
        mine = [point for point in study.points if point.series == series]
        off = off_law([point.runs for point in mine])
        shapes += [Shape(point, _values(point, axes), value) for point, value in zip(mine, off, strict=True)]
    names = (*axes, ASPECT) if {"width", "depth"} <= set(axes) else tuple(axes)
    return ShapeTable(tuple(shapes), names, study.x_name)


def _values(point: Point, axes: Sequence[str]) -> dict[str, float]:
    """A point's values along the axes of numbers, and its width over its depth."""
    values = {axis: finite(point.axes.get(axis)) or math.nan for axis in axes}
    if {"width", "depth"} <= set(values):
        values[ASPECT] = values["width"] / values["depth"]
    return values


def plot_shape_axis(table: ShapeTable, ax: Axes, *, axis: str, y_label: str, compact: bool = False) -> Axes:
    """Loss against one axis: a thin line joins shapes alike in all else, a thick one the means over the rest."""
    if not table.shapes:
        return style.nothing(ax, "No finished shape")
    for series, colour in zip(table.series, itertools.cycle(style.SERIES)):
        for alike in _alike(table.of(series), axis) if axis != ASPECT else ():
            losses = [shape.point.mean for shape in alike]
            ax.plot([shape.values[axis] for shape in alike], losses, color=colour, linewidth=0.7, alpha=0.45)
        for shape in table.of(series):
            (dot,) = ax.plot(shape.values[axis], shape.point.mean, "o", color=colour, markersize=3.2, alpha=0.6)
            tip(dot, f"{series}, {shape.point.name}: {measured(shape.point.mean)}, {number(shape.point.x)} parameters")
        if axis != ASPECT:
            values, means, *_ = zip(*table.by_value(axis, series), strict=True)
            ax.plot(values, means, "o-", color=colour, linewidth=2.0, markersize=5.5, markeredgecolor=style.PAPER)
    ax.set_yscale("log")
    everywhere = [shape.values[axis] for shape in table.shapes]
    style.log_x_ticks(ax, everywhere, closest=0.16)
    if axis == ASPECT:
        low, high = math.ceil(math.log2(min(everywhere))), math.floor(math.log2(max(everywhere)))
        ax.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(low, high + 1)]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    style.pad_y(ax)
    style.log_y_ticks(ax)
    return style.finish(ax, _axis(axis).capitalize(), _axis(axis), style.log_label(y_label), compact)


def _alike(shapes: list[Shape], axis: str) -> list[list[Shape]]:
    """Shapes that differ along one axis alone, in order of it."""
    groups: dict[tuple[tuple[str, float], ...], list[Shape]] = {}
    for shape in shapes:
        rest = tuple((name, value) for name, value in shape.values.items() if name not in (axis, ASPECT))
        groups.setdefault(rest, []).append(shape)
    return [sorted(group, key=lambda shape: shape.values[axis]) for group in groups.values() if len(group) > 1]


def shapes(study: ReportStudy) -> Section:
    """How the loss changes along each axis, overall and at an equal size."""
    found = shape_data(study)
    if found is None or not found.shapes:
        return Section("shapes", TITLE)

    def draw(axis: str) -> Draw:
        return lambda ax, compact: plot_shape_axis(found, ax, axis=axis, y_label=study.loss_label, compact=compact)

    caption = (
        "Dots: shapes, means over seeds. Thin lines join shapes that differ along this axis only; the thick line is "
        "the geometric mean over the rest of the grid."
    )
    picture = Picture("shapes", caption + series_key(found.series), tuple(map(draw, found.axes)), same_y=True)
    size = axis_label(found.x_name)
    told = [
        f"{_axis(effect.axis)}: {_effect(effect.at_equal_size).text}"
        for effect in found.effects
        if effect.at_equal_size.low > 0 or effect.at_equal_size.high < 0
    ]
    text = f"At equal {size} no axis of the shape changes the loss beyond its interval."
    if told:
        text = f"At equal {size}, doubling changes the loss by: {'; '.join(told)}."
    return Section("shapes", TITLE, (text, picture, _effects_table(found, size), _values_table(found, size)))


def _effects_table(found: ShapeTable, size: str) -> PageTable:
    caption = (
        "How the loss changes when the value of an axis doubles: over the whole grid, and relative to the law of its "
        f"series at the same {size}; simple regressions of ln loss over the shapes, 95 % intervals."
    )
    rows = [(one.series, _axis(one.axis), _effect(one.overall), _effect(one.at_equal_size)) for one in found.effects]
    return page_table(caption, ("series", text_column("axis"), "overall", f"at equal {size}"), rows)


def _values_table(found: ShapeTable, size: str) -> PageTable:
    rows = [
        (series, _axis(axis), plain(value), Cell(str(count), count), reading(loss), Cell(signed(off), off))
        for series in found.series
        for axis in found.axes
        if axis != ASPECT
        for value, loss, off, count in found.by_value(axis, series)
    ]
    caption = f"Geometric means over the shapes at each value; off the law: mean of ln (loss / law at the same {size})."
    return page_table(caption, ("series", text_column("axis"), "value", "shapes", "loss", "off the law"), rows)


def _axis(axis: str) -> str:
    return axis if axis == ASPECT else axis_label(axis)


def _effect(one: Interval) -> Cell:
    """A slope of ln loss per doubling as per cent."""
    ends = [100 * (math.exp(value) - 1) for value in (one.estimate, one.low, one.high)]
    shown = [f"{end:+.1f}".replace("-", "−") for end in ends]
    return Cell(f"{shown[0]} % [{shown[1]}, {shown[2]}]", one.estimate)
