"""Irregular points: those that lie off the law of all the others by more than their interval, and what may be why."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metascale.laws.held_out import Prediction
from metascale.laws.irregular import leave_one_out
from metascale.report.points import Point, points_of
from metascale.report.reading import StudyFolder, Trial, finite, read_study, x_column
from metascale.report.series import laws_by_series
from metascale.report.tuning import TuningTable, edges_used, label_of, tuning_data

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
    """The irregular ones among ``n_points`` points that were asked.

    A share of (1 - level) of them or somewhat more is so by chance: 8 % in ten simulated tables where it should be 5 %.
    """

    rows: tuple[Irregular, ...]
    n_points: int
    level: float
    x_name: str


def irregular_data(folder: Path | str | StudyFolder) -> IrregularTable:
    """Every point of a study with a law, predicted from all the other points of its series."""
    study = read_study(folder)
    level = finite((study.law or {}).get("level")) or 0.95
    tuned = tuning_data(study)
    found: list[Irregular] = []
    n_points = 0
    points = points_of(study)
    for series, law in laws_by_series(study).items():
        mine = [point for point in points if not series or point.series == series]
        if len({point.series for point in mine}) > 1:
            continue  # one law.json beside several series does not say whose it is
        asked = leave_one_out([point.runs for point in mine], str(law.get("law")), level)
        n_points += len(asked)
        for place, band in asked.items():
            if not band.holds(mine[place].mean):
                found.append(_irregular(mine[place], band, mine, tuned))
    found.sort(key=lambda row: (row.series, row.x, row.name))
    return IrregularTable(tuple(found), n_points, level, x_column(study))


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
    """What in the records may explain that a point lies ``excess`` above (or, negative, below) the law.

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


def _same(cell: str, value: Any) -> bool:
    """Whether a cell of results.csv holds this value: 2 and 2.0 are one."""
    numbers = finite(cell), finite(value)
    return numbers[0] == numbers[1] if None not in numbers else cell == str(value)


def stopped_by_patience(points: Sequence[Point]) -> bool:
    """Whether half of all runs or more ended because validation had stopped improving: then that is how they should."""
    endings = [trial.cells.get("training") == "converged" for point in points for trial in point.trials]
    return 2 * sum(endings) >= len(endings) > 0


def cut_short(trial: Trial, patient: bool) -> bool:
    """Whether a run was best at its last validation, or (``patient``) ended at the last step that it was allowed."""
    best, steps = trial.number("best_step"), trial.number("steps")
    best_last = best is not None and steps is not None and best >= steps > 0
    return best_last or (patient and trial.cells.get("training") == "max_steps")
