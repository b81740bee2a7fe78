"""The law of the smaller configurations, asked for the larger ones: inside its prediction interval or not, in numbers.

For studies that grow in several ways at once, so that a measured size is the scale: the configurations of the largest
quarter are hidden, the power law with irreducible loss is fitted to the rest, and each hidden one is predicted.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from metascale.laws.held_out import LAW, SHARE, HeldOut, hold_out
from metascale.report.frame import finish, log_label, log_x_ticks, log_y_ticks, nothing, pad_y
from metascale.report.points import points_of
from metascale.report.reading import (
    StudyFolder,
    axis_label,
    axis_values,
    finite,
    loss_column,
    read_study,
    unit_of,
    x_column,
)
from metascale.report.style import ORANGE, PAPER, SERIES, SOFT, tip
from metascale.report.words import decimals, interval, number


def held_out_data(folder: Path | str | StudyFolder, share: float = SHARE) -> tuple[HeldOut, ...]:
    """The check of every series of a study whose scale is measured; none for a study along one axis.

    Args:
        share: of the configurations, the largest by the scale, hidden.
    """
    study = read_study(folder)
    if not study.law or x_column(study) in axis_values(study):
        return ()
    level = finite(study.law.get("level")) or 0.95
    points = points_of(study)
    series = dict.fromkeys(point.series for point in points)
    found = [hold_out([point.runs for point in points if point.series == name], level, share, name) for name in series]
    return tuple(one for one in found if one is not None)


def held_out_sentence(one: HeldOut, x_name: str) -> str:
    """The check in words."""
    inside, n = one.n_inside(LAW), len(one.hidden)
    sizes = [row.point.x for row in one.hidden]
    parts = [
        f"{name} = {decimals(part['estimate'])} {interval(part['low'], part['high'])}"
        for name, part in one.parameters.items()
    ]
    of_seen = ", ".join(parts)
    closer = [name for name in one.predictors if name != LAW and one.rmse_log(name) < one.rmse_log(LAW)]
    text = (
        f"{one.series}: fitted to the {len(one.seen)} configurations of up to {number(one.seen[-1].x)} "
        f"{axis_label(x_name)}, the power law with irreducible loss ({of_seen}) was asked for the {n} larger ones, of "
        f"{number(min(sizes))} to {number(max(sizes))}: {inside} of {n} lie inside its {100 * one.level:g} % "
        f"prediction interval; its error is {decimals(one.rmse_log(LAW))} in ln loss"
    )
    if closer:
        return text + "; closer came " + ", ".join(f"{name} ({decimals(one.rmse_log(name))})" for name in closer) + "."
    return text + ", less than that of every plain baseline."


def plot_held_out(table: tuple[HeldOut, ...], ax: Axes, *, y_label: str, x_label: str, compact: bool = False) -> Axes:
    """Seen points filled, hidden ones hollow, the law of the seen ones with its prediction interval."""
    if not table:
        return nothing(ax, "Too few configurations to hide the largest")
    for one, colour in zip(table, SERIES * len(table), strict=False):
        x, median, low, high = (list(column) for column in zip(*one.curve, strict=True))
        ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        ax.plot(x, median, color=colour, linewidth=1.8)
        ax.axvline(one.hidden[0].point.x / 1.03, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        for point in one.seen:
            (dot,) = ax.plot(point.x, point.mean, "o", color=colour, markersize=5, markeredgecolor=PAPER)
            tip(dot, f"{one.series}, {point.name}: {decimals(point.mean)}, {number(point.x)} {x_label}")
        for row in one.hidden:
            inside = row.predictions[LAW].holds(row.point.mean)
            (ring,) = ax.plot(
                row.point.x, row.point.mean, "o", markersize=6.5, markerfacecolor="none", markeredgewidth=1.8,
                color=colour if inside else ORANGE, markeredgecolor=colour if inside else ORANGE,
            )  # fmt: skip
            said = row.predictions[LAW]
            words = f"{decimals(said.predicted)} {interval(said.low, said.high)}"
            tip(ring, f"{one.series}, {row.point.name}: measured {decimals(row.point.mean)}, predicted {words}")
    ax.set_yscale("log")
    sizes = [point.x for one in table for point in (*one.seen, *(row.point for row in one.hidden))]
    log_x_ticks(ax, sizes, closest=0.14 if compact else 0.09)
    pad_y(ax)
    log_y_ticks(ax)
    n_hidden, n_inside = sum(len(one.hidden) for one in table), sum(one.n_inside(LAW) or 0 for one in table)
    title = f"The law of the smaller nets: {n_inside} of {n_hidden} larger ones inside its interval"
    return finish(ax, title, f"{x_label} (log scale)", log_label(y_label), compact)


def loss_words(study: StudyFolder) -> str:
    """The test loss with its unit, as an axis title."""
    unit = unit_of(loss_column(study))
    return f"{study.terms.test} loss" + (f" ({unit})" if unit else "")
