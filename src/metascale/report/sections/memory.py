"""Where the memory of a training step goes, method by method: live bytes at the peak, by what they hold."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from metascale.report.reading import StudyFolder, read_study
from metascale.report.section import Cell, Picture, Section, fixed, table
from metascale.report.series import series_of
from metascale.report.style import INK, SERIES, finish, nothing, tip

KINDS = ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")
LABELS = {"weights": "frozen weights", "parameters": "trained parameters", "optimizer_state": "optimiser state"}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Mean live MiB at the peak of one step over the finished trials of a series, by kind."""

    series: str
    n_trials: int
    by_kind: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.by_kind)


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """Memory by series, the smallest first; ``kinds`` are words."""

    kinds: tuple[str, ...]
    rows: tuple[MemoryRow, ...]


def memory_data(folder: Path | str | StudyFolder) -> MemoryTable:
    """From the columns step_<kind>_bytes of results.csv; no rows where trials did not measure memory."""
    study = read_study(folder)
    names = series_of(study)
    groups: dict[str, list[list[float]]] = {}
    for trial in study.main:
        values = [trial.number(f"step_{kind}_bytes") for kind in KINDS]
        if trial.finished and None not in values:
            groups.setdefault(names[trial.id], []).append([(value or 0.0) / _MIB for value in values])
    rows = [
        MemoryRow(series, len(found), tuple(statistics.fmean(column) for column in zip(*found, strict=True)))
        for series, found in groups.items()
    ]
    rows.sort(key=lambda row: (row.total, row.series))
    return MemoryTable(tuple(LABELS.get(kind, kind) for kind in KINDS), tuple(rows))


def plot_memory(table: MemoryTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Stacked bars, one a series, smallest on top, with the total beside them."""
    if not table.rows:
        return nothing(ax, "No trial measured its memory")
    size = 8 if compact else 9
    reach = max(row.total for row in table.rows)
    for place, row in enumerate(table.rows):
        start = 0.0
        for kind, value, colour in zip(table.kinds, row.by_kind, SERIES, strict=True):
            label = kind if place == 0 else None
            (bar,) = ax.barh(place, value, left=start, height=0.62, color=colour, label=label)
            tip(bar, f"{row.series}: {kind} {value:.1f} MiB of {row.total:.1f}")
            start += value
        ax.text(start + 0.015 * reach, place, f"{row.total:.1f}", va="center", ha="left", fontsize=size, color=INK)
    ax.set_ylim(len(table.rows) - 0.4, -0.6)
    ax.set_xlim(0, reach * 1.12)
    ax.yaxis.set_major_locator(FixedLocator(range(len(table.rows))))
    ax.yaxis.set_major_formatter(FixedFormatter([row.series for row in table.rows]))
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(4 if compact else 6))
    columns = 2 if compact else 3
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.14), ncols=columns, fontsize=size, frameon=False)
    least, most = table.rows[0], table.rows[-1]
    finding = (
        f"Peak of one training step: {least.total:.0f} MiB ({least.series}) to {most.total:.0f} MiB ({most.series})"
    )
    finish(ax, finding, "live MiB at the peak", "", compact)
    ax.grid(visible=False, axis="y")
    return ax


def memory(study: StudyFolder) -> Section:
    """Peak memory by method and by what it holds."""
    found = memory_data(study)
    if not found.rows:
        return Section("memory", "Memory")
    picture = Picture(
        "memory",
        "Live bytes at the peak of one training step, after a first step, by what they hold; means over seeds.",
        (lambda ax, compact: plot_memory(found, ax, compact=compact),),
        height_in=2.2 + 0.42 * len(found.rows),
    )
    rows = [[Cell(row.series), *(fixed(mib, 2) for mib in row.by_kind), fixed(row.total, 2)] for row in found.rows]
    return Section(
        "memory", "Memory", (picture, table("MiB at the peak of one step.", ("method", *found.kinds, "in all"), rows))
    )
