"""Loss along each axis of a study that grows in several ways, and what an axis does at an equal size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metascale.laws.effects import off_law, slope
from metascale.laws.record import Interval
from metascale.report.size_data import FILE as SIZE_FILE
from metascale.report.study import Point, StudySource, finite, open_study

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
    """What doubling the value of an axis does, in ln loss: in all, and at an equal size.

    Simple regressions over the shapes of a series, with 95 % intervals (Student).
    """

    series: str
    axis: str
    in_all: Interval
    at_equal_size: Interval


@dataclass(frozen=True, slots=True)
class ShapeTable:
    """Every shape, the axes they vary along (and width over depth), and each axis' effect."""

    shapes: tuple[Shape, ...]
    axes: tuple[str, ...]
    x_name: str
    effects: tuple[AxisEffect, ...]

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shape.point.series for shape in self.shapes))


def shape_data(source: StudySource) -> ShapeTable | None:
    """The table of a study with a measured scale and two or more axes of numbers; ``None`` for any other.

    A study of model sizes has tables of its own.
    """
    study = open_study(source)
    x_name, varied = study.x_name, study.axes
    axes = [
        name for name, values in varied.items() if len(values) > 1 and all((finite(value) or 0) > 0 for value in values)
    ]
    if x_name in varied or len(axes) < 2 or (study.folder / SIZE_FILE).exists():
        return None
    points = study.points
    shapes: list[Shape] = []
    for series in dict.fromkeys(point.series for point in points):
        mine = [point for point in points if point.series == series]
        off = dict(zip(map(id, mine), off_law([point.runs for point in mine]), strict=True))
        shapes += [Shape(point, values_of(point, axes), off[id(point)]) for point in mine]
    names = (*axes, ASPECT) if {"width", "depth"} <= set(axes) else tuple(axes)
    effects = [
        effect for series in dict.fromkeys(p.series for p in points) for effect in _effects(shapes, series, names)
    ]
    return ShapeTable(tuple(shapes), names, x_name, tuple(effects))


def values_of(point: Point, axes: Sequence[str]) -> dict[str, float]:
    """A point's values along the axes of numbers, and its width over its depth."""
    values = {axis: finite(point.axes.get(axis)) or math.nan for axis in axes}
    if {"width", "depth"} <= set(values):
        values[ASPECT] = values["width"] / values["depth"]
    return values


def _effects(shapes: Sequence[Shape], series: str, axes: Sequence[str]) -> list[AxisEffect]:
    mine = [shape for shape in shapes if shape.point.series == series]
    found = []
    for axis in axes:
        doublings = [math.log2(shape.values[axis]) for shape in mine]
        whole = slope(doublings, [math.log(shape.point.mean) for shape in mine])
        rest = slope(doublings, [shape.off_law for shape in mine])
        if whole is not None and rest is not None:
            found.append(AxisEffect(series, axis, whole, rest))
    return found


def by_value(table: ShapeTable, axis: str, series: str) -> list[tuple[float, float, float, int]]:
    """(value, geometric mean of the loss, mean ln off the law, shapes) at every value of an axis."""
    mine = [shape for shape in table.shapes if shape.point.series == series]
    rows = []
    for value in sorted({shape.values[axis] for shape in mine}):
        here = [shape for shape in mine if shape.values[axis] == value]
        losses = statistics.geometric_mean(shape.point.mean for shape in here)
        rows.append((value, losses, statistics.fmean(shape.off_law for shape in here), len(here)))
    return rows
