"""The parts of the page about shapes: the loss along each axis, and the law asked for what it had not seen."""

from __future__ import annotations

import math

from metascale.laws.contrasts import Interval
from metascale.laws.held_out import LAW, HeldOut
from metascale.report.held_out import held_out_sentence
from metascale.report.page_tables import DASH, Cell, Column, Content, Row
from metascale.report.reading import axis_label
from metascale.report.section import Section, signed
from metascale.report.shape_data import ASPECT, ShapeTable, by_value
from metascale.report.words import decimals, interval, number


def shape_section(table: ShapeTable | None) -> Section | None:
    """What each axis does to the loss, in all and at an equal size."""
    if table is None or not table.shapes:
        return None
    size = axis_label(table.x_name)
    rows = [
        Row(
            (
                Cell(effect.series), Cell(_axis(effect.axis)), _effect(effect.in_all), _effect(effect.at_equal_size),
            )
        )
        for effect in table.effects
    ]  # fmt: skip
    doubling = Content(
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
    means = Content(
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
    return Section("shapes", "Loss along each axis of the shape", (text,), ("shapes",), (doubling, means))


def held_out_section(found: tuple[HeldOut, ...], size: str) -> Section | None:
    """The check of every series in words, as a picture, and as tables; ``size`` is the scale's column."""
    if not found:
        return None
    tables = []
    for one in found:
        rows = []
        for hidden in one.hidden:
            said = hidden.predictions[LAW]
            inside = said.holds(hidden.point.mean)
            rows.append(
                Row(
                    (
                        Cell(hidden.point.name), Cell(number(hidden.point.x), hidden.point.x),
                        Cell(decimals(hidden.point.mean, 4), hidden.point.mean),
                        Cell(decimals(said.predicted, 4), said.predicted), Cell(interval(said.low, said.high, 4)),
                        Cell("inside" if inside else "outside"),
                    ),
                    "" if inside else "diverged",
                )
            )  # fmt: skip
        columns = (
            Column("configuration", False), Column(axis_label(size)), Column("measured"), Column("law with E"),
            Column(f"{100 * one.level:g} % interval"), Column("measured lies", False),
        )  # fmt: skip
        tables.append(Content(f"{one.series}. Predicted without having been seen.", columns, tuple(rows)))
        tables.append(_predictors_table(one))
    return Section(
        "held-out",
        "The law of the smaller ones, asked for the larger ones",
        tuple(held_out_sentence(one, size) for one in found),
        ("held_out",),
        tuple(tables),
    )


def _predictors_table(one: HeldOut) -> Content:
    """Every predictor's error over the hidden configurations, and how many its own interval held."""
    rows = []
    for name in one.predictors:
        inside = one.n_inside(name)
        held = DASH if inside is None else f"{inside} of {len(one.hidden)}"
        error = one.rmse_log(name)
        rows.append(
            Row((Cell("law with E" if name == LAW else name), Cell(decimals(error), error), Cell(held, inside)))
        )
    caption = f"{one.series}. Over the {len(one.hidden)} hidden configurations; the law with E is the table above."
    return Content(caption, (Column("predictor", False), Column("error of ln loss"), Column("inside")), tuple(rows))


def _axis(axis: str) -> str:
    return axis if axis == ASPECT else axis_label(axis)


def _effect(one: Interval) -> Cell:
    """A slope of ln loss per doubling as per cent."""
    ends = [100 * (math.exp(value) - 1) for value in (one.estimate, one.low, one.high)]
    shown = [f"{end:+.1f}".replace("-", "−") for end in ends]
    return Cell(f"{shown[0]} % [{shown[1]}, {shown[2]}]", one.estimate)
