"""Results of a recorded study, and differences of its methods paired by seed, as the pages of results say them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scipy.stats import t as student

from metascale.core.columns import MAIN_KINDS
from metascale.report.words import interval, measured

if TYPE_CHECKING:
    from results import Record

Rows = Sequence[Mapping[str, Any]]


def main_rows(one: Record) -> Rows:
    """Finished trials that are results: those of searches stay out."""
    return [row for row in one.table.finished().rows if row["kind"] in MAIN_KINDS]


def se(values: Sequence[float]) -> float:
    """The standard error of the mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def differences(rows: Rows, series: str, first: str, second: str, column: str) -> list[float]:
    """``first`` minus ``second`` of one column, seed by seed."""
    values = {(row[series], row["seed"]): float(row[column]) for row in rows}
    seeds = sorted(seed for name, seed in values if name == first)
    return [values[first, seed] - values[second, seed] for seed in seeds]


def spread(found: Sequence[float]) -> tuple[float, float, float]:
    """The mean and the ends of its 95 % interval (Student's t)."""
    half = float(student.ppf(0.975, len(found) - 1)) * se(found)
    return statistics.fmean(found), statistics.fmean(found) - half, statistics.fmean(found) + half


def gap_with_interval(found: Sequence[float]) -> str:
    """The mean of differences and its 95 % interval in their own unit."""
    mean, low, high = spread(found)
    return f"{measured(mean)} {interval(low, high)}"


def points_with_interval(found: Sequence[float]) -> str:
    """The same of differences of shares, in percentage points."""
    mean, low, high = (100 * value for value in spread(found))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
