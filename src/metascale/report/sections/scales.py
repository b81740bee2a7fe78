"""Test values along the scale of a study: every run, the mean at every scale, baselines; accuracies as a section.

Three causes of spread stand apart and are never pooled: *seeds* (training again), *tasks* (which test tasks, each with
its one fixed episode, so the draw of an episode is part of it) and the fit of a curve. ``seed_sem`` is a standard
error across seeds, ``task_sem`` one across test tasks within a run; ``None`` where too few make it unknown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from metascale.core.columns import BASELINE, COMPARED_KINDS, TEST_ACCURACY
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import (
    Draw,
    Picture,
    Section,
)
from metascale.report.study import (
    ReportStudy,
    RunRow,
    StudySource,
    finite,
    mean_of_known,
    open_study,
    sem_column,
    standard_error,
    unit_of,
)
from metascale.report.words import (
    axis_label,
    in_order,
    method_label,
    number,
    percent,
    scale_words,
    seed_words,
)
from metascale.study.design import flatten

Write = Callable[[float], str]


READ_OUTS = 1000
"""Runs with a read-out of their own in a picture; of more, those of the means at each scale tell enough."""


@dataclass(frozen=True, slots=True)
class RunValue:
    """One finished run: its test value, with the standard error across test tasks."""

    series: str
    x: float
    seed: int
    value: float
    task_sem: float | None


@dataclass(frozen=True, slots=True)
class ScaleMean:
    """The mean of one scale's runs; ``task_sem`` is the mean of the runs' own standard errors across tasks."""

    series: str
    x: float
    n_seeds: int
    mean: float
    seed_sem: float | None
    task_sem: float | None


@dataclass(frozen=True, slots=True)
class BaselineLine:
    """A baseline or control, which does not depend on the axis: a horizontal line."""

    method: str
    kind: str
    value: float
    task_sem: float | None


@dataclass(frozen=True, slots=True)
class ScaleTable:
    """Test values along the axis of the study, each a mean over ``items``."""

    x_name: str
    x_label: str
    y_label: str
    unit: str
    series: tuple[str, ...]
    points: tuple[RunValue, ...]
    means: tuple[ScaleMean, ...]
    levels: tuple[BaselineLine, ...]
    items: str = "tasks"


def scale_data(source: StudySource, column: str, y_label: str) -> ScaleTable:
    """One column of the results along the axis, for the finished main runs, with the baselines as levels."""
    study = open_study(source)
    names = study.series
    points = []
    for run in study.main:
        x, value = run.number(study.x_name), run.number(column)
        if run.finished and x is not None and value is not None:
            points.append(RunValue(names[run.id], x, run.seed, value, run.number(sem_column(column))))
    points.sort(key=lambda point: (in_order(point.series), point.x, point.seed))
    places = dict.fromkeys((point.series, point.x) for point in points)
    return ScaleTable(
        x_name=study.x_name,
        x_label=axis_label(study.x_name),
        y_label=y_label,
        unit=unit_of(column),
        series=tuple(dict.fromkeys(point.series for point in points)),
        points=tuple(points),
        means=tuple(_mean([point for point in points if (point.series, point.x) == place]) for place in places),
        levels=_levels(study, column),
        items=study.terms.unit,
    )


def _mean(runs: list[RunValue]) -> ScaleMean:
    values = [run.value for run in runs]
    task_sem = mean_of_known([run.task_sem for run in runs])
    first = runs[0]
    return ScaleMean(first.series, first.x, len(runs), statistics.fmean(values), standard_error(values), task_sem)


def _levels(study: ReportStudy, column: str) -> tuple[BaselineLine, ...]:
    """Baselines and controls, the lowest first: means over finished runs, else what the conclusion computed.

    One that changes along the axis is no horizontal line, and is left to the table of comparisons.
    """
    groups: dict[tuple[str, str], list[RunRow]] = {}
    along = {key for key in study.roles.crossed if key.rsplit(".", 1)[-1] == study.x_name}
    for run in study.of_kind(*COMPARED_KINDS):
        place = study.crossed_at(run)
        if run.finished and run.number(column) is not None and not along & set(place):
            words = [f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {value}" for key, value in place.items()]
            groups.setdefault((", ".join([run.method, *words]), run.kind), []).append(run)
    levels = []
    for (method, kind), runs in groups.items():
        values = [value for run in runs if (value := run.number(column)) is not None]
        sem = mean_of_known([run.number(sem_column(column)) for run in runs])
        levels.append(BaselineLine(method, kind, statistics.fmean(values), sem))
    for method, entry in study.baselines.items():
        concluded = finite(entry.get(column))
        if concluded is not None and not study.roles.crossed and method not in {level.method for level in levels}:
            levels.append(
                BaselineLine(method, str(entry.get("kind", BASELINE)), concluded, finite(entry.get(sem_column(column))))
            )
    return tuple(sorted(levels, key=lambda level: (level.value, level.method)))


def accuracy_data(source: StudySource) -> ScaleTable:
    """Test accuracy (a fraction) along the axis; chance is one of the levels where n_way is fixed."""
    study = open_study(source)
    scales = scale_data(study, TEST_ACCURACY, f"{study.terms.test} accuracy")
    chance = _chance(study)
    if chance is None or not scales.points:
        return scales
    levels = (*scales.levels, BaselineLine("chance", "chance", chance, None))
    return replace(scales, levels=tuple(sorted(levels, key=lambda level: (level.value, level.method))))


def _chance(study: ReportStudy) -> float | None:
    """The accuracy of guessing, 1 / n_way, where the configuration has n_way and it is not an axis."""
    if "n_way" in study.axes:
        return None
    ways = {finite(value) for key, value in flatten(study.base).items() if key.rsplit(".", 1)[-1] == "n_way"}
    n_way = next(iter(ways)) if len(ways) == 1 else None
    return 1 / n_way if n_way else None


def runs_caption(scales: ScaleTable) -> str:
    if all(mean.seed_sem is None for mean in scales.means):
        return "Circles: runs, one seed each, so there is no error bar across seeds."
    return "Small dots: runs, one a seed. Circles: mean over seeds, bar ± 1 standard error across seeds."


def levels_words(scales: ScaleTable) -> str:
    if not scales.levels:
        return ""
    known = any(level.task_sem is not None for level in scales.levels)
    return f" Grey lines: baselines{f', band ± 1 standard error across test {scales.items}' if known else ''}."


def accuracy(study: ReportStudy) -> Section:
    """Test accuracy along the scale."""
    found = accuracy_data(study)
    if not found.points:
        return Section("accuracy", "Accuracy")
    caption = runs_caption(found) + levels_words(found)
    draw: Draw = lambda ax, compact: plot_accuracy(found, ax, compact=compact)
    return Section("accuracy", "Accuracy", (Picture("accuracy", caption, (draw,)),))


def plot_accuracy(table: ScaleTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Accuracy (linear) against scale (logarithmic): runs, means with bars across seeds, baselines and chance."""
    if not table.points:
        return style.nothing(ax, "No finished run with a test accuracy")
    labels = draw_runs(table, ax, percent)
    for series, (mean, colour) in zip(table.series, _last_means(table), strict=True):
        ax.plot(*_line(table, series), color=colour, linewidth=1.6)
        if len(table.series) == 1:
            labels.append((mean, method_label(series), colour))
    labels += draw_levels(table, ax, lambda value: percent(value, 0), percent)
    x_label = style.scale_x_ticks(ax, [point.x for point in table.points], table.x_label, compact, labels)
    style.pad_y(ax, log=False)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    style.side_labels(ax, labels, size=8 if compact else 9)
    return style.finish(ax, _accuracy_title(table), x_label, table.y_label, compact)


def draw_runs(table: ScaleTable, ax: Axes, write: Write) -> list[style.Label]:
    """Every run as a small dot and every scale's mean as a circle; labels for the series where there are several."""
    labels = []
    for place, series in enumerate(table.series):
        colour = style.SERIES[place % len(style.SERIES)]
        own = [point for point in table.points if point.series == series]
        dots = partial(ax.plot, marker="o", linestyle="", color=colour, markersize=3.6, alpha=0.55, markeredgewidth=0)
        if len(table.points) > READ_OUTS:
            dots([point.x for point in own], [point.value for point in own])
            own = []
        for point in own:
            (dot,) = dots(point.x, point.value)
            across = f" (± {write(point.task_sem)} across {table.items})" if point.task_sem is not None else ""
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
                markeredgecolor=style.PAPER,
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


def draw_levels(table: ScaleTable, ax: Axes, short: Write, write: Write) -> list[style.Label]:
    """Baselines as horizontal lines with bands across tasks; their labels are shorter than their read-outs."""
    labels = []
    for level in table.levels:
        dashes = (0, (5, 3)) if level.kind == "baseline" else (0, (1.5, 2.5))
        line = ax.axhline(level.value, color=style.SOFT, linewidth=1.2, linestyle=dashes, zorder=1)
        if level.task_sem is not None:
            ax.axhspan(
                level.value - level.task_sem, level.value + level.task_sem, color=style.SOFT, alpha=0.12, linewidth=0
            )
        across = f" ± {write(level.task_sem)} across {table.items}" if level.task_sem is not None else ""
        tip(line, f"{method_label(level.method)}: {write(level.value)}{across}")
        labels.append((level.value, f"{method_label(level.method)} {short(level.value)}", style.SOFT))
    return labels


def _last_means(table: ScaleTable) -> list[tuple[float, str]]:
    ends = []
    for place, series in enumerate(table.series):
        last = max((mean for mean in table.means if mean.series == series), key=lambda mean: mean.x)
        ends.append((last.mean, style.SERIES[place % len(style.SERIES)]))
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
