"""Whether every point lies on the law: larger configurations predicted from smaller ones, and irregular points.

The first is for studies that grow in several ways at once, so that a measured size is the scale.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from metascale.laws.held_out import LAW, SHARE, HeldOut, Prediction, hold_out
from metascale.laws.irregular import leave_one_out
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import (
    DASH,
    Cell,
    PageTable,
    Picture,
    Row,
    Section,
    named,
    plain,
    reading,
    series_key,
    signed,
    table,
    text_column,
)
from metascale.report.sections.tuning import TuningTable, edges_used, label_of, tuning_data
from metascale.report.study import Point, ReportStudy, StudySource, cut_short, finite, open_study, stopped_by_patience
from metascale.report.words import axis_label, interval, measured, number


def held_out_data(source: StudySource, share: float = SHARE) -> tuple[HeldOut, ...]:
    """The check of every series of a study whose scale is measured; none for a study along one axis.

    Args:
        share: of the configurations, the largest by the scale, hidden.
    """
    study = open_study(source)
    if not study.law or study.x_name in study.axes:
        return ()
    points = study.points
    series = dict.fromkeys(point.series for point in points)
    found = [
        hold_out([point.runs for point in points if point.series == name], study.level, share, name) for name in series
    ]
    return tuple(one for one in found if one is not None)


def held_out_sentence(one: HeldOut, x_name: str) -> str:
    """The check in words."""
    inside, n = one.n_inside(LAW), len(one.hidden)
    sizes = [row.point.x for row in one.hidden]
    parts = [
        f"{name} = {measured(part['estimate'])} {interval(part['low'], part['high'])}"
        for name, part in one.parameters.items()
    ]
    of_seen = ", ".join(parts)
    closer = [name for name in one.predictors if name != LAW and one.rmse_log(name) < one.rmse_log(LAW)]
    text = (
        f"{one.series}: fitted to the {len(one.seen)} configurations of up to {number(one.seen[-1].x)} "
        f"{axis_label(x_name)}, the power law with irreducible loss ({of_seen}) predicts the {n} larger ones, of "
        f"{number(min(sizes))} to {number(max(sizes))}: {inside} of {n} lie inside its {100 * one.level:g} % "
        f"prediction interval; its error is {measured(one.rmse_log(LAW))} in ln loss"
    )
    if closer:
        return text + "; closer were " + ", ".join(f"{name} ({measured(one.rmse_log(name))})" for name in closer) + "."
    return text + ", less than that of every plain baseline."


def plot_held_out(table: tuple[HeldOut, ...], ax: Axes, *, y_label: str, x_label: str, compact: bool = False) -> Axes:
    """Seen points filled, hidden ones hollow, the law of the seen ones with its prediction interval."""
    if not table:
        return style.nothing(ax, "Too few configurations to hide the largest")
    for one, colour in zip(table, style.SERIES * len(table), strict=False):
        x, median, low, high = (list(column) for column in zip(*one.curve, strict=True))
        ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        ax.plot(x, median, color=colour, linewidth=1.8)
        ax.axvline(one.hidden[0].point.x / 1.03, color=style.SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        for point in one.seen:
            (dot,) = ax.plot(point.x, point.mean, "o", color=colour, markersize=5, markeredgecolor=style.PAPER)
            tip(dot, f"{one.series}, {point.name}: {measured(point.mean)}, {number(point.x)} {x_label}")
        for row in one.hidden:
            inside = row.predictions[LAW].holds(row.point.mean)
            (ring,) = ax.plot(
                row.point.x, row.point.mean, "o", markersize=6.5, markerfacecolor="none", markeredgewidth=1.8,
                color=colour if inside else style.ORANGE, markeredgecolor=colour if inside else style.ORANGE,
            )  # fmt: skip
            said = row.predictions[LAW]
            words = f"{measured(said.predicted)} {interval(said.low, said.high)}"
            tip(ring, f"{one.series}, {row.point.name}: measured {measured(row.point.mean)}, predicted {words}")
    ax.set_yscale("log")
    sizes = [point.x for one in table for point in (*one.seen, *(row.point for row in one.hidden))]
    style.log_x_ticks(ax, sizes, closest=0.14 if compact else 0.09)
    style.pad_y(ax)
    style.log_y_ticks(ax)
    n_hidden, n_inside = sum(len(one.hidden) for one in table), sum(one.n_inside(LAW) or 0 for one in table)
    title = f"Law of the smaller nets: {n_inside} of {n_hidden} larger ones inside its interval"
    return style.finish(ax, title, f"{x_label} (log scale)", style.log_label(y_label), compact)


UNEVEN = 3.0
"""Seeds disagree where their standard deviation is so many times the median of the other points'."""
NO_CAUSE = "none known"


@dataclass(frozen=True, slots=True)
class Irregular:
    """A point off the law.

    Args:
        observed: mean loss of its runs.
        predicted, low, high: what all other points say for the mean of as many runs.
        log_error: ln(observed / predicted).
        cause: a suggestion, or "none known".
    """

    series: str
    name: str
    x: float
    n_runs: int
    observed: float
    predicted: float
    low: float
    high: float
    log_error: float
    cause: str


@dataclass(frozen=True, slots=True)
class IrregularTable:
    """The irregular ones among ``n_points`` points that could be predicted.

    A share of (1 - level) of them or somewhat more is so by chance: 8 % in ten simulated tables where it should be 5 %.
    """

    rows: tuple[Irregular, ...]
    n_points: int
    level: float
    x_name: str


def irregular_data(source: StudySource) -> IrregularTable:
    """Every point of a study with a law, predicted from all the other points of its series."""
    study = open_study(source)
    tuned = tuning_data(study)
    found: list[Irregular] = []
    n_points = 0
    points = study.points
    for series, law in study.laws_by_series.items():
        mine = [point for point in points if not series or point.series == series]
        if len({point.series for point in mine}) > 1:
            continue  # one law.json beside several series does not say whose it is
        asked = leave_one_out([point.runs for point in mine], law.law, study.level)
        n_points += len(asked)
        for place, band in asked.items():
            if not band.holds(mine[place].mean):
                found.append(_irregular(mine[place], band, mine, tuned))
    found.sort(key=lambda row: (row.series, row.x, row.name))
    return IrregularTable(tuple(found), n_points, study.level, study.x_name)


def _irregular(point: Point, band: Prediction, points: Sequence[Point], tuned: TuningTable) -> Irregular:
    assert band.low is not None
    assert band.high is not None
    error = float(np.log(point.mean / band.predicted))
    cause = cause_of(point, point.mean - band.predicted, points, tuned)
    return Irregular(
        point.series, point.name, point.x, len(point.losses), point.mean, band.predicted, band.low, band.high, error,
        cause,
    )  # fmt: skip


def cause_of(point: Point, excess: float, points: Sequence[Point], tuned: TuningTable | None = None) -> str:
    """What in the records may explain why a point lies ``excess`` above (or, negative, below) the law.

    Training that had not ended and a tuned value at the end of its range can only make a loss too high.
    """
    if excess > 0:
        patient = stopped_by_patience(points)
        short = sum(1 for trial in point.trials if cut_short(trial, patient))
        if 2 * short >= len(point.trials):
            return f"not converged: {short} of {len(point.trials)} runs ended at the last step allowed"
        ends = {} if tuned is None else edges_at(point, tuned)
        if ends:
            told = ", ".join(f"{label_of(name)} at the {end} end" for name, end in ends.items())
            return f"at the edge of the tuned range: {told}"
    others = [other.spread for other in points if other is not point and len(other.losses) > 1]
    usual = statistics.median(others) if others else 0.0
    if usual > 0 and point.spread > UNEVEN * usual:
        return f"seeds disagree: {point.spread / usual:.1f} times the usual spread"
    return NO_CAUSE


def edges_at(point: Point, tuned: TuningTable) -> dict[str, str]:
    """Tuned values of a point at an end of their range: those that its runs used, else those that its search found."""
    used = edges_used(tuned, {name: point.trials[0].number(name) for name in tuned.ranges})
    if used or tuned.ranges:
        return used
    here = [
        one
        for one in tuned.points
        if all(_same(point.axes[axis], value) for axis, value in one.point.items() if axis in point.axes)
    ]
    return {name: end for one in here for name, end in one.edges.items()}


def _same(cell: Any, value: Any) -> bool:
    """Whether a cell of the results holds this value: 2 and 2.0 are one."""
    numbers = finite(cell), finite(value)
    return numbers[0] == numbers[1] if None not in numbers else str(cell) == str(value)


def irregular(study: ReportStudy) -> Section:
    """Points outside the interval that all other points give them."""
    found = irregular_data(study)
    data = {"irregular": found.rows}
    if not found.n_points:
        return Section("irregular", "Irregular points", data=data)
    chance = (1 - found.level) * found.n_points
    text = (
        f"Each of {found.n_points} points was predicted from all the others of its series: {len(found.rows)} lie "
        f"outside their {100 * found.level:g} % prediction interval (about {chance:.1f} would by chance alone)."
    )
    blocks = (text, irregular_table(found)) if found.rows else (text,)
    return Section("irregular", "Irregular points", blocks, data)


def irregular_table(found: IrregularTable) -> PageTable:
    """The points, with a suggested cause."""
    rows = [
        [
            Cell(named(row.series, row.name)), Cell(row.cause), plain(row.x), plain(row.n_runs),
            reading(row.observed), reading(row.predicted), Cell(interval(row.low, row.high)),
            Cell(signed(row.log_error), row.log_error),
        ]
        for row in found.rows
    ]  # fmt: skip
    heads = ("point", text_column("suggested cause"), axis_label(found.x_name), "runs", "measured", "law", "interval")
    caption = (
        "A cause is a suggestion from the records: training that patience did not stop, a tuned value at the end of "
        "its range (both only for losses above the law), or seeds further apart than elsewhere."
    )
    return table(caption, (*heads, "ln measured / law"), rows)


def held_out(study: ReportStudy) -> Section:
    """The check of every series: in words, as a picture, and as tables."""
    found = held_out_data(study)
    title = "Extrapolation: small-model law vs. held-out large models"
    if not found:
        return Section("held-out", title)
    x_name = study.x_name
    caption = (
        f"Filled: configurations that the law was fitted to. Rings: larger ones that it predicts, orange where they "
        f"lie outside. Band: {100 * found[0].level:g} % prediction interval for the mean of a configuration's runs."
    )

    def draw(ax: Axes, compact: bool) -> Axes:
        return plot_held_out(found, ax, y_label=study.loss_label, x_label=axis_label(x_name), compact=compact)

    picture = Picture("held_out", caption + series_key([one.series for one in found]), (draw,))
    tables = [one for check in found for one in (hidden_table(check, x_name), predictors_table(check))]
    return Section("held-out", title, (*(held_out_sentence(one, x_name) for one in found), picture, *tables))


def hidden_table(one: HeldOut, x_name: str) -> PageTable:
    """Every hidden configuration as measured and as predicted."""
    rows = []
    for hidden in one.hidden:
        said = hidden.predictions[LAW]
        inside = said.holds(hidden.point.mean)
        cells = (
            Cell(hidden.point.name), plain(hidden.point.x), reading(hidden.point.mean), reading(said.predicted),
            Cell(interval(said.low, said.high)), Cell("inside" if inside else "outside"),
        )  # fmt: skip
        rows.append(Row(cells, "" if inside else "diverged"))
    heads = ("configuration", axis_label(x_name), "measured", "law with E", f"{100 * one.level:g} % interval")
    return table(
        f"{one.series}. Predicted by a law that was not fitted to them.", (*heads, text_column("measured lies")), rows
    )


def predictors_table(one: HeldOut) -> PageTable:
    """Every predictor's error over the hidden configurations, and how many lie inside its own interval."""
    rows = []
    for name in one.predictors:
        inside = one.n_inside(name)
        held = DASH if inside is None else f"{inside} of {len(one.hidden)}"
        rows.append([Cell("law with E" if name == LAW else name), reading(one.rmse_log(name)), Cell(held, inside)])
    caption = (
        f"{one.series}. Over the {len(one.hidden)} hidden configurations; the law with E is that of the table above."
    )
    return table(caption, ("predictor", "error of ln loss", "inside"), rows)
