"""Tables of what happened inside runs: learning curves and adaptation steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.report.data import mean_of_known
from metascale.report.reading import META, UNITS, StudyFolder, Trial, finite, read_study, sem_column, unit_of, x_column
from metascale.report.series import series_of
from metascale.study.store.records import read_rows

_SETS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "validation": ("eval_stats.csv", (("validation_loss", "meta-validation loss"),)),
    "train": (
        "train_stats.csv",
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
    """One run's loss along its outer steps; ``best_step`` is the one that was kept."""

    series: str
    x: float | None
    seed: int | None
    finished: bool
    steps: tuple[float, ...]
    values: tuple[float, ...]
    best_step: float | None


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


def learning_curves_data(folder: Path | str | StudyFolder, which: str = "validation") -> LearningTable:
    """The loss of every run along its outer steps, on the meta-validation or the meta-train tasks.

    Runs that diverged or failed are there too, as far as they came. The kept step goes with validation. A training
    curve of more than 60 recorded steps is averaged over equal blocks of them.

    Raises:
        InputError: ``which`` is neither "validation" nor "train".
    """
    if which not in _SETS:
        raise InputError(f"learning curves are kept for {' and '.join(_SETS)}; there are none for '{which}'")
    study = read_study(folder)
    file, choices = _SETS[which]
    x_name, names = x_column(study), series_of(study)
    records = {trial.id: read_rows(trial.folder / file) for trial in study.main if trial.folder}
    column, words = _measure(choices, records.values())
    words = words if study.terms is META else words.removeprefix("meta-")
    curves, block = [], 1
    for trial in study.main:
        pairs = [(finite(row.get("step")), finite(row.get(column))) for row in records.get(trial.id, ())]
        known = [(step, value) for step, value in pairs if step is not None and value is not None]
        if not known:
            continue
        size = -(-len(known) // MOST_POINTS) if which == "train" else 1
        block = max(block, size)
        steps, values = _blocks(known, size)
        best = trial.number("best_step") if which == "validation" else None
        curves.append(
            LearningCurve(names[trial.id], trial.number(x_name), trial.seed, trial.finished, steps, values, best)
        )
    curves.sort(key=lambda curve: (curve.series, curve.x or 0.0, -1 if curve.seed is None else curve.seed))
    unit = unit_of(column)
    return LearningTable(tuple(curves), x_name, f"{words} ({unit})" if unit else words, block, study.terms.step)


def adaptation_data(folder: Path | str | StudyFolder, measure: str = "loss_nats") -> AdaptationTable:
    """Meta-test loss (or ``measure="accuracy"``) after K inner steps, for each scale and each baseline that has it.

    The runs of one scale are averaged at the K that all of them have.
    """
    study = read_study(folder)
    x_name, names = x_column(study), series_of(study)
    groups: dict[tuple[bool, str, float | None], list[dict[int, tuple[float, float | None]]]] = {}
    for trial in study.trials:
        curve = _adaptation(trial, measure)
        if curve:
            is_meta = trial.main
            x = trial.number(x_name) if is_meta else None
            groups.setdefault((not is_meta, names[trial.id], x), []).append(curve)
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
    return AdaptationTable(tuple(curves), x_name, f"{words} ({unit})" if unit else words)


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


def _adaptation(trial: Trial, measure: str) -> dict[int, tuple[float, float | None]]:
    rows = read_rows(trial.folder / "adaptation.csv") if trial.folder and trial.finished else []
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
