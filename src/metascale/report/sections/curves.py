"""What happened inside runs: learning curves, and the loss along the steps of adaptation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from metascale.core.errors import InputError
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import Cell, Draw, PageTable, Picture, Section, reading, table, upper_first
from metascale.report.study import (
    UNITS,
    ReportStudy,
    RunRow,
    StudySource,
    finite,
    mean_of_known,
    open_study,
    sem_column,
    unit_of,
)
from metascale.report.words import measured, number, scale_words, seed_words

_SETS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "validation": ("eval_stats", (("validation_loss", "meta-validation loss"),)),
    "train": (
        "train_stats",
        (
            ("train_query_loss", "meta-train query loss"),
            ("query_loss", "meta-train query loss"),
            # A learner that adapts on all examples has no query loss.
            ("support_loss_end", "meta-train support loss, adapted"),
        ),
    ),
}
MOST_POINTS = 60


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """One run's loss along its outer steps; ``kept_step`` is the one that was tested."""

    series: str
    x: float | None
    seed: int
    finished: bool
    steps: tuple[float, ...]
    values: tuple[float, ...]
    kept_step: float | None


@dataclass(frozen=True, slots=True)
class LearningTable:
    """Learning curves on one set; ``steps_a_point`` says how many recorded steps a point averages at most."""

    curves: tuple[LearningCurve, ...]
    x_name: str
    y_label: str
    steps_a_point: float
    x_label: str


@dataclass(frozen=True, slots=True)
class AdaptationCurve:
    """Meta-test value after K inner steps: the mean of ``seeds``, with the mean standard error across tasks."""

    series: str
    x: float | None
    inner_steps: tuple[int, ...]
    values: tuple[float, ...]
    task_sem: tuple[float | None, ...]
    seeds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class AdaptationTable:
    """Adaptation curves of meta-learnt starts (by scale) and of baselines."""

    curves: tuple[AdaptationCurve, ...]
    x_name: str
    y_label: str


def learning_curves_data(source: StudySource, which: str = "validation") -> LearningTable:
    """The loss of every run along its outer steps, on the meta-validation or the meta-train tasks.

    Runs that diverged or failed are there too, as far as they came. The kept step goes with validation. A training
    curve of more than 60 recorded steps is averaged over equal blocks of them.

    Raises:
        InputError: ``which`` is neither "validation" nor "train".
    """
    if which not in _SETS:
        raise InputError(f"learning curves are kept for {' and '.join(_SETS)}; there are none for '{which}'")
    study = open_study(source)
    record, choices = _SETS[which]
    names = study.series
    records = {run.id: run.run.rows(record) for run in study.main}
    column, words = _measure(choices, records.values())
    words = words if study.meta else words.removeprefix("meta-")
    curves, block = [], 1
    for run in study.main:
        pairs = [(finite(row.get("step")), finite(row.get(column))) for row in records[run.id]]
        known = [(step, value) for step, value in pairs if step is not None and value is not None]
        if not known:
            continue
        size = -(-len(known) // MOST_POINTS) if which == "train" else 1
        block = max(block, size)
        steps, values = _blocks(known, size)
        kept = run.kept_step if which == "validation" else None
        curves.append(
            LearningCurve(names[run.id], run.number(study.x_name), run.seed, run.finished, steps, values, kept)
        )
    curves.sort(key=lambda curve: (curve.series, curve.x or 0.0, curve.seed))
    unit = unit_of(column)
    return LearningTable(tuple(curves), study.x_name, f"{words} ({unit})" if unit else words, block, study.terms.step)


def adaptation_data(source: StudySource, measure: str = "loss_nats") -> AdaptationTable:
    """Meta-test loss (or ``measure="accuracy"``) after K inner steps, for each scale and each baseline that has it.

    The runs of one scale are averaged at the K that all of them have.
    """
    study = open_study(source)
    names = study.series
    groups: dict[tuple[bool, str, float | None], list[dict[int, tuple[float, float | None]]]] = {}
    for run in study.runs:
        curve = _adaptation(run, measure)
        if curve:
            x = run.number(study.x_name) if run.main else None
            groups.setdefault((not run.main, names[run.id], x), []).append(curve)
    curves = []
    for (_, series, x), runs in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0.0)):
        shared = sorted(set.intersection(*(set(run) for run in runs)))
        curves.append(
            AdaptationCurve(
                series=series,
                x=x,
                inner_steps=tuple(shared),
                values=tuple(statistics.fmean(run[k][0] for run in runs) for k in shared),
                task_sem=tuple(mean_of_known([run[k][1] for run in runs]) for k in shared),
                seeds=tuple(tuple(run[k][0] for k in shared) for run in runs),
            )
        )
    unit = unit_of(measure)
    words = f"{study.terms.test} {measure.removesuffix('_' + unit) if unit else measure}".replace("_", " ")
    return AdaptationTable(tuple(curves), study.x_name, f"{words} ({unit})" if unit else words)


def extremes(table: AdaptationTable) -> AdaptationTable:
    """Only the smallest and the largest scale of each series, and the baselines."""
    kept = []
    for curve in table.curves:
        scales = [other.x for other in table.curves if other.series == curve.series and other.x is not None]
        if curve.x is None or curve.x in (min(scales), max(scales)):
            kept.append(curve)
    return AdaptationTable(tuple(kept), table.x_name, table.y_label)


def _measure(choices: Sequence[tuple[str, str]], records: Iterable[Sequence[Mapping[str, Any]]]) -> tuple[str, str]:
    """The first column of ``choices`` that holds a number in any record, with its words."""
    filled = {name for rows in records for row in rows for name, value in row.items() if finite(value) is not None}
    for stem, words in choices:
        for name in (stem, *(f"{stem}_{unit}" for unit in UNITS)):
            if name in filled:
                return name, words
    return choices[0]


def _adaptation(run: RunRow, measure: str) -> dict[int, tuple[float, float | None]]:
    rows = run.run.rows("adaptation") if run.finished else []
    curve = {}
    for row in rows:
        steps, value = finite(row.get("inner_steps")), finite(row.get(measure))
        if steps is not None and value is not None:
            curve[int(steps)] = (value, finite(row.get(sem_column(measure))))
    return curve


def _blocks(pairs: Sequence[tuple[float, float]], size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means of ``size`` neighbours, at the last step of each block."""
    blocks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return tuple(block[-1][0] for block in blocks), tuple(statistics.fmean(v for _, v in block) for block in blocks)


def plot_learning_curves(table: LearningTable, ax: Axes, *, compact: bool = False, key: bool = True) -> Axes:
    """Loss along the steps of training, one line a run, coloured by scale, or by series where no scale varies.

    A dot is the checkpoint that was kept.
    """
    if not table.curves:
        return style.nothing(ax, "No learning curve on disk")
    scales = sorted({curve.x for curve in table.curves if curve.x is not None})
    colours = dict(zip(scales, style.ramp(len(scales)), strict=True))
    series = list(dict.fromkeys(curve.series for curve in table.curves))
    hues = {} if scales or len(series) < 2 else dict(zip(series, style.SERIES * len(series), strict=False))
    for curve in table.curves:
        place = series.index(curve.series)
        colour = colours[curve.x] if curve.x is not None else hues.get(curve.series, style.SOFT)
        dashes = ("-", "--", "-.")[(place // len(style.SERIES) if hues else place) % 3] if curve.finished else ":"
        (line,) = ax.plot(curve.steps, curve.values, dashes, color=colour, linewidth=1.2, alpha=0.9)
        ending = "" if curve.finished else ", not finished"
        scale = "" if curve.x is None else f", {scale_words(table.x_name, curve.x)}"
        tip(line, f"{curve.series}{scale}, {seed_words(curve.seed)}{ending}")
        if not curve.finished:
            ax.plot(curve.steps[-1], curve.values[-1], "x", color=colour, markersize=6, markeredgewidth=1.6)
        if curve.kept_step is not None and curve.kept_step in curve.steps:
            value = curve.values[curve.steps.index(curve.kept_step)]
            (dot,) = ax.plot(curve.kept_step, value, "o", color=colour, markersize=4.5, markeredgecolor=style.PAPER)
            tip(
                dot,
                f"{curve.series}{scale}, {seed_words(curve.seed)}: "
                f"kept step {number(curve.kept_step)}, {measured(value)}",
            )
    ax.set_yscale("log")
    style.pad_y(ax)
    style.log_y_ticks(ax)
    style.step_ticks(ax, compact)
    rows = 0
    if key and scales:
        handles = [Line2D([], [], color=colour, linewidth=3, label=number(x)) for x, colour in colours.items()]
        handles[0].set_label(scale_words(table.x_name, next(iter(colours))))
        rows = _key(ax, handles, 4 if compact else 8)
    elif key and hues:
        dashed = {name: "-" if place < len(style.SERIES) else "--" for place, name in enumerate(series)}
        handles = [Line2D([], [], color=hues[n], linewidth=2, linestyle=dashed[n], label=n) for n in series]
        rows = _key(ax, handles, 2 if compact else 4)
    title = table.y_label.split(" (")[0].capitalize()
    style.finish(ax, title, table.x_label, style.y_scale_label(ax, table.y_label), compact, 10 + 15 * rows)
    return ax


def plot_adaptation(table: AdaptationTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Meta-test loss after K inner steps; thin lines are seeds, bars are standard errors across meta-test tasks."""
    if not table.curves:
        return style.nothing(ax, "No adaptation curve on disk")
    labels: list[style.Label] = []
    for curve, (colour, dashes) in zip(table.curves, _adaptation_looks(table), strict=True):
        name = curve.series if curve.x is None else f"{curve.series}, {scale_words(table.x_name, curve.x)}"
        for values in curve.seeds if len(curve.seeds) > 1 else ():
            ax.plot(curve.inner_steps, values, color=colour, linewidth=0.7, alpha=0.55)
        bars = None if None in curve.task_sem else [sem or 0.0 for sem in curve.task_sem]
        ax.plot(curve.inner_steps, curve.values, dashes, color=colour, linewidth=1.8, zorder=3)
        if bars:
            ax.errorbar(
                curve.inner_steps, curve.values, bars, color=colour, fmt="none", elinewidth=1.0, capsize=2.5, zorder=3
            )
        for k, value, sem in zip(curve.inner_steps, curve.values, curve.task_sem, strict=True):
            (dot,) = ax.plot(k, value, "o", color=colour, markersize=5, markeredgecolor=style.PAPER, zorder=4)
            tip(dot, f"{name}, K = {k}: {measured(value)}" + (f" ± {measured(sem)} across tasks" if sem else ""))
        labels.append((curve.values[-1], name.replace(", ", ",\n") if compact else name, colour))
    ticks = sorted({k for curve in table.curves for k in curve.inner_steps})
    ax.set_xscale("function", functions=(np.log1p, np.expm1))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([str(k) for k in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yscale("log")
    style.pad_y(ax)
    style.log_y_ticks(ax)
    style.side_labels(ax, labels, size=8 if compact else 9)
    return style.finish(ax, _adaptation_title(table), "inner steps K", style.y_scale_label(ax, table.y_label), compact)


def _key(ax: Axes, handles: list[Line2D], columns: int) -> int:
    """A key between title and axes, in as many of ``columns`` as there is room for; returns how many rows it takes."""
    place = ax.get_subplotspec()
    room = style.figure_size(ax)[0] * 0.82 / (place.get_gridspec().ncols if place else 1)
    widths = [style.width_in(str(handle.get_label()), 8) for handle in handles]
    for n_columns in range(min(len(handles), columns), 0, -1):
        rows = -(-len(handles) // n_columns)
        if sum(max(widths[k : k + rows]) + 0.27 for k in range(0, len(widths), rows)) <= room:
            break
    ax.legend(
        handles=handles,
        ncols=n_columns,
        loc="lower left",
        bbox_to_anchor=(-0.015, 1.0),
        borderaxespad=0.0,
        fontsize=8,
        handlelength=0.9,
        columnspacing=0.8,
        handletextpad=0.35,
        frameon=False,
    )
    return rows


def _adaptation_looks(table: AdaptationTable) -> list[tuple[str, str]]:
    """Colour and line of each curve: a hue a series, dashed below its largest scale; baselines grey, then other."""
    series = list(dict.fromkeys(curve.series for curve in table.curves if curve.x is not None))
    hues = dict(zip(series, style.SERIES * len(series), strict=False))
    others = iter([style.SOFT, *style.SERIES[len(series) :], *style.SERIES * len(table.curves)])
    looks = []
    for curve in table.curves:
        if curve.x is None:
            looks.append((next(others), "-"))
        else:
            largest = max(other.x for other in table.curves if other.series == curve.series and other.x is not None)
            looks.append((hues[curve.series], "-" if curve.x == largest else "--"))
    return looks


def _adaptation_title(table: AdaptationTable) -> str:
    best = min(table.curves, key=lambda curve: min(curve.values))
    place = best.values.index(min(best.values))
    name = best.series if best.x is None else f"{best.series} from {scale_words(table.x_name, best.x)}"
    return f"Lowest of these after adaptation: {name}, {measured(best.values[place])} at K = {best.inner_steps[place]}"


def learning(study: ReportStudy) -> Section:
    """Losses along the steps of training, on training and validation sets."""
    found = [curves for which in ("train", "validation") if (curves := learning_curves_data(study, which)).curves]
    if not found:
        return Section("learning", "Learning curves")

    def draw(curves: LearningTable) -> Draw:
        return lambda ax, compact: plot_learning_curves(curves, ax, compact=compact)

    picture = Picture("learning_curves", _learning_caption(found), tuple(map(draw, found)))
    return Section("learning", "Learning curves", (picture,))


def _learning_caption(tables: Sequence[LearningTable]) -> str:
    words = "One line a run. Dots: the kept checkpoint. Dotted lines that end in ×: runs that did not finish."
    blocks = max(table.steps_a_point for table in tables)
    if blocks > 1:
        words += f" Meta-train losses are means over blocks of {blocks:g} recorded steps."
    series = list(dict.fromkeys(curve.series for table in tables for curve in table.curves))
    if len(series) > 1 and any(curve.x is not None for table in tables for curve in table.curves):
        styles = zip(("solid", "dashed", "dash-dotted"), series, strict=False)
        words += " " + upper_first("; ".join(f"{dashes}: {name}" for dashes, name in styles)) + "."
    return words


def adaptation(study: ReportStudy) -> Section:
    """The loss after K inner steps: drawn for the smallest and largest scale, and all scales as a table."""
    found = adaptation_data(study)
    if not found.curves:
        return Section("adaptation", "Adaptation steps")
    picture = Picture(
        "adaptation",
        "Lines: mean over seeds, dashed for the smallest scale; thin lines: single seeds. "
        "Bars: ± 1 standard error across test tasks.",
        (lambda ax, compact: plot_adaptation(extremes(found), ax, compact=compact),),
    )
    return Section("adaptation", "Adaptation steps", (picture, adaptation_table(found)))


def adaptation_table(found: AdaptationTable) -> PageTable:
    """Loss after K inner steps, all scales."""
    steps = sorted({k for curve in found.curves for k in curve.inner_steps})
    rows = []
    for curve in found.curves:
        values = dict(zip(curve.inner_steps, curve.values, strict=True))
        name = curve.series if curve.x is None else f"{curve.series}, {scale_words(found.x_name, curve.x)}"
        rows.append([Cell(name), *(reading(values.get(k)) for k in steps)])
    caption = f"{upper_first(found.y_label)} after K inner steps, means over seeds."
    return table(caption, ("start", *(f"K = {k}" for k in steps)), rows)
