"""The loss along each axis of the shape."""

from __future__ import annotations

import math

from metascale.laws.record import Interval
from metascale.report.section import Cell, Column, Draw, PageTable, Picture, Row, Section, series_key, signed
from metascale.report.shape_data import ASPECT, by_value, shape_data
from metascale.report.shape_plots import plot_shape_axis
from metascale.report.study import ReportStudy
from metascale.report.words import axis_label, decimals, number


def shape_section(study: ReportStudy) -> Section:
    """What each axis does to the loss, in all and at an equal size."""
    table = shape_data(study)
    if table is None or not table.shapes:
        return Section("shapes", "Loss along each axis of the shape")
    shapes = table

    def draw(axis: str) -> Draw:
        return lambda ax, compact: plot_shape_axis(shapes, ax, axis=axis, y_label=study.loss_label, compact=compact)

    caption = (
        "Dots: shapes, means over seeds. Thin lines join shapes that are alike in all else; the thick line is the "
        "geometric mean over the rest of the grid."
    )
    picture = Picture("shapes", caption + series_key(table.series), tuple(map(draw, table.axes)), same_y=True)
    size = axis_label(table.x_name)
    rows = [
        Row(
            (
                Cell(effect.series), Cell(_axis(effect.axis)), _effect(effect.in_all), _effect(effect.at_equal_size),
            )
        )
        for effect in table.effects
    ]  # fmt: skip
    doubling = PageTable(
        "What doubling the value of an axis does to the loss, over the grid, and beside the law of its series at the "
        f"same {size}; simple regressions of ln loss over the shapes, 95 % intervals.",
        (Column("series", False), Column("axis", False), Column("in all"), Column(f"at equal {size}")),
        tuple(rows),
    )
    values = [
        Row(
            (
                Cell(series), Cell(_axis(axis)), Cell(number(value), value), Cell(str(count), count),
                Cell(decimals(loss, 4), loss), Cell(signed(off), off),
            )
        )
        for series in table.series
        for axis in table.axes
        if axis != ASPECT
        for value, loss, off, count in by_value(table, axis, series)
    ]  # fmt: skip
    means = PageTable(
        f"Geometric means over the shapes at each value; beside the law: mean of ln (loss / law at the same {size}).",
        (Column("series", False), Column("axis", False), *map(Column, ("value", "shapes", "loss", "beside the law"))),
        tuple(values),
    )
    told = [
        f"{_axis(effect.axis)}: {_effect(effect.at_equal_size).text}"
        for effect in table.effects
        if effect.at_equal_size.low > 0 or effect.at_equal_size.high < 0
    ]
    text = f"At equal {size} no axis of the shape changes the loss beyond its interval."
    if told:
        text = f"At equal {size}, doubling changes the loss by: {'; '.join(told)}."
    return Section("shapes", "Loss along each axis of the shape", (text, picture, doubling, means))


def _axis(axis: str) -> str:
    return axis if axis == ASPECT else axis_label(axis)


def _effect(one: Interval) -> Cell:
    """A slope of ln loss per doubling as per cent."""
    ends = [100 * (math.exp(value) - 1) for value in (one.estimate, one.low, one.high)]
    shown = [f"{end:+.1f}".replace("-", "−") for end in ends]
    return Cell(f"{shown[0]} % [{shown[1]}, {shown[2]}]", one.estimate)
