"""Where the memory of a training step goes, method by method, where trials measured it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import Cell, Picture, Section, reading, table
from metascale.report.study import ReportStudy, StudySource, open_study

MEMORY_KINDS = {
    "weights": "frozen weights",
    "parameters": "trained parameters",
    "activations": "activations",
    "gradients": "gradients",
    "optimizer_state": "optimiser state",
    "other": "other",
}
"""What the columns ``step_<kind>_bytes`` of a trial's results hold."""
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


def memory_data(source: StudySource) -> tuple[MemoryRow, ...]:
    """Memory by series, the smallest first; nothing where trials did not measure it."""
    study = open_study(source)
    names = study.series
    groups: dict[str, list[list[float]]] = {}
    for run in study.main:
        values = [run.number(f"step_{kind}_bytes") for kind in MEMORY_KINDS]
        known = [value / _MIB for value in values if value is not None]
        if run.finished and len(known) == len(values):
            groups.setdefault(names[run.id], []).append(known)
    rows = [
        MemoryRow(series, len(found), tuple(statistics.fmean(column) for column in zip(*found, strict=True)))
        for series, found in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.total, row.series)))


def memory(study: ReportStudy) -> Section:
    """Where the memory of a training step goes, method by method."""
    found = memory_data(study)
    if not found:
        return Section("memory", "Memory")
    picture = Picture(
        "memory",
        "Live bytes at the peak of one training step, after a first step, by what they hold; means over seeds.",
        (lambda ax, compact: plot_memory(found, ax, compact=compact),),
        height_in=2.2 + 0.42 * len(found),
    )
    rows = [[Cell(row.series), *(reading(mib) for mib in row.by_kind), reading(row.total)] for row in found]
    heads = ("method", *MEMORY_KINDS.values(), "total")
    return Section("memory", "Memory", (picture, table("MiB at the peak of one step.", heads, rows)))


def plot_memory(rows: Sequence[MemoryRow], ax: Axes, *, compact: bool = False) -> Axes:
    """Stacked bars, one a series, smallest on top, with the total beside them."""
    if not rows:
        return style.nothing(ax, "No trial measured its memory")
    size = 8 if compact else 9
    reach = max(row.total for row in rows)
    for place, row in enumerate(rows):
        start = 0.0
        for kind, value, colour in zip(MEMORY_KINDS.values(), row.by_kind, style.SERIES, strict=True):
            label = kind if place == 0 else None
            (bar,) = ax.barh(place, value, left=start, height=0.62, color=colour, label=label)
            tip(bar, f"{row.series}: {kind} {value:.1f} MiB of {row.total:.1f}")
            start += value
        ax.text(
            start + 0.015 * reach, place, f"{row.total:.1f}", va="center", ha="left", fontsize=size, color=style.INK
        )
    ax.set_xlim(0, reach * 1.12)
    style.name_bars(ax, [row.series for row in rows], compact)
    columns = 2 if compact else 3
    figure, handles = ax.get_figure(root=True), ax.get_legend_handles_labels()
    if isinstance(figure, Figure):
        figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize=size, frameon=False)
    least, most = rows[0], rows[-1]
    ends = f"{least.total:.0f} MiB ({least.series}) to {most.total:.0f} MiB ({most.series})"
    style.finish(ax, f"Peak of one training step: {ends}", "live MiB at the peak", "", compact)
    ax.grid(visible=False, axis="y")
    return ax
