"""Training against validation loss, configuration by configuration: does a net underfit, overfit, or neither?

For runs that leave the loss on training examples without dropout (``train_loss_nats``) beside every validation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes

from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import (
    Block,
    Cell,
    Draw,
    Folded,
    PageTable,
    Picture,
    Section,
    named,
    plain,
    reading,
    table,
    text_column,
    upper_first,
)
from metascale.report.sections.tuning import label_of
from metascale.report.study import (
    Point,
    ReportStudy,
    RunRow,
    StudySource,
    cut_short,
    finite,
    open_study,
    stopped_by_patience,
)
from metascale.report.words import axis_label, measured, number, percent, seed_words

TRAIN, VALIDATION = "train_loss_nats", "validation_loss_nats"
WIDE, NARROW = 0.5, 0.2
"""A gap above half of the validation loss is wide; one below a fifth is narrow."""
HIGH = 1.2
"""A validation loss this many times the lowest of the series is high."""
SETTINGS = ("dropout", "weight_decay")

Verdict = Literal["underfits", "overfits", "in balance", "not converged"]


@dataclass(frozen=True, slots=True)
class RunCurve:
    """One run: losses at every validation, and the place in them of the state that was kept."""

    seed: int
    at: tuple[float, ...]
    train: tuple[float, ...]
    validation: tuple[float, ...]
    kept: int

    @property
    def rise(self) -> float:
        """ln of the last validation loss over the kept one: what went on after the best."""
        last, kept = self.validation[-1], self.validation[self.kept]
        return math.log(last / kept) if last > 0 and kept > 0 else last - kept


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One configuration: means over its runs at the kept state.

    Args:
        rise: ln of the last validation loss over the kept one.
        settings: what regularised it, where that varies.
    """

    point: Point
    curves: tuple[RunCurve, ...]
    train: float
    validation: float
    rise: float
    verdict: Verdict
    settings: Mapping[str, float]

    @property
    def gap(self) -> float:
        return gap_of(self.train, self.validation)


@dataclass(frozen=True, slots=True)
class DiagnosisTable:
    """Every configuration, in order of series and size; ``x_label`` is what the curves run along."""

    rows: tuple[Diagnosis, ...]
    x_label: str


def diagnosis_data(source: StudySource) -> DiagnosisTable:
    """The diagnosis of every configuration whose runs kept both losses; none where none did."""
    study = open_study(source)
    found: list[tuple[Point, tuple[RunCurve, ...]]] = []
    labels = set()
    points = study.points
    patient = stopped_by_patience(points)
    for point in points:
        curves = [(trial, _curve(trial)) for trial in point.trials]
        known = tuple(curve for _, (curve, _) in curves if curve is not None)
        labels |= {label for _, (_, label) in curves}
        if known:
            found.append((point, known))
    rows = []
    for point, known in found:
        best = min(
            statistics.fmean(c.validation[c.kept] for c in curves)
            for other, curves in found
            if other.series == point.series
        )
        short = sum(cut_short(trial, patient) for trial in point.trials)
        rows.append(_diagnosed(point, known, best, 2 * short >= len(point.trials)))
    return DiagnosisTable(tuple(rows), "epoch" if labels == {"epoch"} else "step")


def _curve(trial: RunRow) -> tuple[RunCurve | None, str]:
    """The curve of one run, and what it runs along."""
    rows = [row for row in trial.run.rows("eval_stats") if _has(row, TRAIN) and _has(row, VALIDATION)]
    if not rows:
        return None, "epoch"
    label = "epoch" if all(_has(row, "epoch") for row in rows) else "step"
    validation = tuple(float(row[VALIDATION]) for row in rows)
    steps = [finite(row.get("step")) for row in rows]
    kept = steps.index(trial.kept_step) if trial.kept_step in steps else validation.index(min(validation))
    train = tuple(float(row[TRAIN]) for row in rows)
    return RunCurve(trial.seed, tuple(float(row[label]) for row in rows), train, validation, kept), label


def _has(row: Mapping[str, Any], name: str) -> bool:
    value = finite(row.get(name))
    return value is not None and value >= 0


def _diagnosed(point: Point, curves: tuple[RunCurve, ...], best: float, short: bool) -> Diagnosis:
    train = statistics.fmean(curve.train[curve.kept] for curve in curves)
    validation = statistics.fmean(curve.validation[curve.kept] for curve in curves)
    settings = {name: value for name in SETTINGS if (value := point.trials[0].number(name)) is not None}
    verdict = verdict_of(train, validation, best, short)
    return Diagnosis(point, curves, train, validation, statistics.fmean(c.rise for c in curves), verdict, settings)


def gap_of(train: float, validation: float) -> float:
    """The share of the validation loss that is absent in training."""
    return (validation - train) / validation if validation > 0 else 0.0


def verdict_of(train: float, validation: float, best: float, still_falling: bool) -> Verdict:
    """From the kept state's losses, the lowest validation loss of the series, and whether training was cut short."""
    gap = gap_of(train, validation)
    if still_falling:
        return "not converged"
    if gap > WIDE:
        return "overfits"
    if gap < NARROW and validation > HIGH * best:
        return "underfits"
    return "in balance"


def diagnosis_sentence(table: DiagnosisTable) -> str:
    """How many configurations have which verdict, and how the gap moves with the size."""
    rows = table.rows
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(one)} {_many(one, verdicts.count(one))}" for one in dict.fromkeys(verdicts))
    first, last = min(rows, key=lambda row: row.point.x), max(rows, key=lambda row: row.point.x)
    return (
        f"Of {len(rows)} configurations {counts}. The gap between training and validation, as a share of the "
        f"validation loss, is {100 * first.gap:.0f} % at the smallest ({first.point.name}) and "
        f"{100 * last.gap:.0f} % at the largest ({last.point.name})."
    )


def _many(verdict: str, count: int) -> str:
    words = {"underfits": "underfit", "overfits": "overfit", "in balance": "are in balance"}
    alone = {"in balance": "is in balance", "not converged": "had not converged"}
    return alone.get(verdict, verdict) if count == 1 else words.get(verdict, "had not converged")


def advice(verdict: Verdict) -> str:
    """What to change, in plain words."""
    return {
        "underfits": "the training loss itself is high: a larger net, or less dropout and weight decay",
        "overfits": "most of the validation loss is absent in training: more data, dropout or weight decay",
        "in balance": "regularisation looks about right",
        "not converged": "training ended before validation had stopped falling: train longer",
    }[verdict]


def typical(table: DiagnosisTable, count: int = 3) -> tuple[Diagnosis, ...]:
    """The smallest, the middle and the largest configuration of each series (of several: smallest and largest)."""
    series = list(dict.fromkeys(row.point.series for row in table.rows))
    shown = []
    for name in series:
        mine = sorted((row for row in table.rows if row.point.series == name), key=lambda row: row.point.x)
        places = (0, len(mine) // 2, len(mine) - 1) if len(series) == 1 else (0, len(mine) - 1)
        shown += [mine[place] for place in dict.fromkeys(places[:count])]
    return tuple(shown[:4])


def plot_diagnosis(row: Diagnosis, ax: Axes, *, x_label: str, compact: bool = False) -> Axes:
    """Loss on training (dashed, without dropout) and validation (solid) examples; a dot is the state that was kept."""
    if not row.curves:
        return style.nothing(ax, "No learning curve on disk")
    for curve in row.curves:
        (low,) = ax.plot(curve.at, curve.train, "--", color=style.BLUE, linewidth=1.2, alpha=0.9)
        (high,) = ax.plot(curve.at, curve.validation, "-", color=style.VERMILION, linewidth=1.2, alpha=0.9)
        tip(low, f"{row.point.name}, {seed_words(curve.seed)}: training")
        tip(high, f"{row.point.name}, {seed_words(curve.seed)}: validation")
        kept = (curve.at[curve.kept], curve.validation[curve.kept])
        (dot,) = ax.plot(*kept, "o", color=style.VERMILION, markersize=5, markeredgecolor=style.PAPER)
        tip(dot, f"{seed_words(curve.seed)}: kept at {x_label} {number(curve.at[curve.kept])}")
    ax.set_yscale("log")
    style.pad_y(ax)
    style.log_y_ticks(ax)
    style.step_ticks(ax, compact=True)
    title = f"{number(row.point.x)}: {row.verdict}, gap {100 * row.gap:.0f} %"
    return style.finish(ax, title, x_label, style.y_scale_label(ax, "loss (nats)"), compact)


def gap_words(rows: Sequence[Diagnosis]) -> str:
    """The thresholds behind the verdicts, for a caption."""
    return (
        f"Losses at the kept state, without dropout, means over seeds. Overfits: the gap is over {100 * WIDE:.0f} % of "
        f"the validation loss. Underfits: it is under {100 * NARROW:.0f} % and the validation loss over "
        f"{measured(HIGH)} times the lowest of the series. Not converged: half of the runs or more were not "
        "stopped by patience. Rise: how far validation had risen again at the last step, in ln loss."
    )


_LONG = 12
"""Longer tables are folded."""
COVERAGE_LEVEL = 0.90
"""Of the intervals that the backtest counts hits of (`metascale.laws.backtesting`)."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """Finished runs that had not converged.

    Args:
        improving: those whose best validation was their last.
        by_budget: those that the most steps allowed ended, where runs were to end by patience.
        scheduled: those of either kind whose rate falls until that last step, where ending is meant.
        n_known: runs of which it is known.
        patient: whether runs were to end by patience; otherwise by a number of steps.
        untrained: those that kept the state before training, which no later one beat.
    """

    improving: tuple[RunRow, ...]
    by_budget: tuple[RunRow, ...]
    scheduled: tuple[RunRow, ...]
    n_known: int
    patient: bool
    untrained: tuple[RunRow, ...] = ()


def convergence_data(source: StudySource) -> Convergence:
    """From the kept step, the number of steps and the ending of every finished run."""
    study = open_study(source)
    finished = [run for run in study.main if run.finished]
    known = [run for run in finished if run.number("steps") and run.number("best_step") is not None]
    patient = any(run.text("training") == "converged" for run in known) or study.base.get("budget") == "converged"
    best_last = [run for run in known if run.number("best_step") == run.number("steps")]
    capped = [run for run in known if patient and run.text("training") == "max_steps" and run not in best_last]
    improving = tuple(run for run in best_last if not run.rate_falls)
    by_budget = tuple(run for run in capped if not run.rate_falls)
    scheduled = tuple(run for run in known if run.rate_falls and (run in best_last or run in capped))
    untrained = tuple(run for run in known if run.number("kept_step") == 0)
    return Convergence(improving, by_budget, scheduled, len(known), patient, untrained)


def unconverged(study: ReportStudy) -> tuple[str, ...]:
    """How many runs ended before they had converged, and how many kept their untrained start; nothing where none."""
    found = convergence_data(study)
    counts = {
        "at the step cap with validation still falling": len(found.improving),
        "at the step cap before patience ran out": len(found.by_budget),
        "at the step cap, where the schedule of their rate ends": len(found.scheduled),
    }
    words = [f"{count} of {found.n_known} runs ended {how}" for how, count in counts.items() if count]
    ended = (f"{', '.join(words)}: the losses also measure the budget.",) if words else ()
    kept = f"{len(found.untrained)} of {found.n_known} runs kept the state before training, which no later one beat."
    return (*ended, kept) if found.untrained else ended


def convergence_sentences(found: Convergence) -> tuple[str, ...]:
    """How many runs had not converged; empty where the study records nothing of it."""
    if not found.n_known:
        return ()
    sentences = []
    n_improving, n_budget = len(found.improving), len(found.by_budget)
    of = f"of {found.n_known} finished runs"
    if n_improving:
        who = f"All {of.removeprefix('of ')}" if n_improving == found.n_known else f"{n_improving} {of}"
        sentences.append(
            f"{who} had the lowest validation loss at the last evaluation: more steps might have lowered it further, "
            "so their loss also measures the budget."
        )
    if n_budget:
        sentences.append(
            f"{n_budget} {of} {'was' if n_budget == 1 else 'were'} ended by the most steps allowed, not by patience, "
            "some time after the lowest validation loss."
        )
    if found.scheduled:
        n_scheduled = len(found.scheduled)
        whose = "its" if n_scheduled == 1 else "their"
        sentences.append(
            f"{n_scheduled} {of} ended at the most steps allowed, where the schedule of {whose} rate "
            f"ends; {_n_best_last(found)} of them had the lowest validation loss there, as a falling rate is meant to "
            "give. A longer schedule might lower it further, so the loss also measures the budget."
        )
    if found.untrained:
        sentences.append(
            f"{len(found.untrained)} {of} kept the state before training: no later one had a lower validation loss."
        )
    if not sentences:
        ended = "ended by patience" if found.patient else "had their lowest validation loss before the end"
        sentences.append(f"All {found.n_known} finished runs {ended}.")
    return tuple(sentences)


def _n_best_last(found: Convergence) -> int:
    return sum(run.number("best_step") == run.number("steps") for run in found.scheduled)


def coverage_sentences(study: ReportStudy) -> tuple[str, ...]:
    """The share of hidden scales inside the intervals of each chosen law, over the cuts of its backtest."""
    sentences = []
    for series, law in study.laws_by_series.items():
        inside = law.families[law.law].backtest_coverage if law.law in law.families else None
        if inside is not None:
            sentences.append(
                f"{f'{series}: ' if series else ''}In the backtest of '{law.law}', {percent(inside, 0)} of the hidden "
                f"scales lay inside the {percent(COVERAGE_LEVEL, 0)} intervals that the smaller scales gave."
            )
    return tuple(sentences)


def fit_diagnosis(study: ReportStudy) -> Section:
    """Training against validation loss of every configuration."""
    found = diagnosis_data(study)
    if not found.rows:
        return Section("diagnosis", "Underfit or overfit?")
    chosen = typical(found)

    def draw(row: Diagnosis) -> Draw:
        return lambda ax, compact: plot_diagnosis(row, ax, x_label=found.x_label, compact=compact)

    names = "; ".join(f"{number(row.point.x)}: {named(row.point.series, row.point.name)}" for row in chosen)
    caption = f"Dashed: training examples, without dropout; solid: validation; dots: kept. {names}."
    words = [upper_first(f"{one}: {advice(one)}.") for one in dict.fromkeys(row.verdict for row in found.rows)]
    return Section(
        "diagnosis",
        "Underfit or overfit?",
        (
            diagnosis_sentence(found),
            " ".join(words),
            Picture("diagnosis", caption, tuple(map(draw, chosen)), same_y=True),
            diagnosis_table(found),
        ),
    )


def diagnosis_table(found: DiagnosisTable) -> PageTable:
    """Losses, gap and verdict of every configuration, with the settings that regularise it."""
    settings = [name for name in SETTINGS if any(name in row.settings for row in found.rows)]
    rows = [
        [
            Cell(named(row.point.series, row.point.name)), plain(row.point.x),
            *(plain(row.settings.get(name)) for name in settings), reading(row.train), reading(row.validation),
            Cell(f"{100 * row.gap:.0f} %", row.gap), reading(row.rise), Cell(row.verdict),
        ]
        for row in found.rows
    ]  # fmt: skip
    heads = ("configuration", "size", *map(label_of, settings), "training", "validation", "gap", "rise")
    return table(gap_words(found.rows), (*heads, text_column("diagnosis")), rows)


def convergence(study: ReportStudy) -> Section:
    """Runs that had not converged, and how many hidden scales lay inside the backtest's intervals."""
    found = convergence_data(study)
    blocks: list[Block] = [*convergence_sentences(found), *coverage_sentences(study)]
    if found.improving or found.by_budget or found.scheduled:
        runs = unconverged_table(found, study)
        blocks.append(Folded(f"{len(runs.rows)} runs", (runs,)) if len(runs.rows) > _LONG else runs)
    return Section("diagnostics", "Diagnostics", tuple(blocks))


def unconverged_table(found: Convergence, study: ReportStudy) -> PageTable:
    """The runs that ended while they were improving, by the budget, or with their schedule."""
    endings = {run.id: "still improving" for run in found.improving} | {run.id: "budget" for run in found.by_budget}
    endings |= {run.id: "end of the schedule" for run in found.scheduled}
    listed = [run for run in study.main if run.id in endings]
    scaled = any(run.number(study.x_name) is not None for run in listed)
    rows = []
    for run in listed:
        names = ([study.x_name] if scaled else []) + ["steps", "best_step"]
        rows.append(
            [
                Cell(study.name_of(run), full=run.label),
                *(plain(run.number(name)) for name in names),
                Cell(endings[run.id]),
            ]
        )
    scale = (axis_label(study.x_name),) if scaled else ()
    which = "that patience did not end" if found.scheduled else "that had not converged"
    caption = f"Runs {which}. Best step: where the validation loss was lowest."
    return table(caption, ("run", *scale, "steps", "best step", text_column("ended")), rows)
