"""Parts of the page of a factorial study: what raising each factor does, with every setting of the others.

A factor's axis has two values. Trials of a seed share their start and the test tasks, so differences are paired by
seed; intervals are Student's t over seeds.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paired import Rows, gap_with_interval, main_rows

from metascale.core.columns import TEST_LOSS
from metascale.report.section import Block, Cell, table, text_column
from metascale.report.words import axis_label, number

if TYPE_CHECKING:
    from results import Record

Axes = Mapping[str, Sequence[Any]]


def effect(rows: Rows, axes: Axes, factor: str, fixed: Mapping[str, Any]) -> list[float]:
    """Test loss at the second value of ``factor`` minus that at the first, seed by seed, the others as in ``fixed``.

    What ``fixed`` leaves open is averaged over.
    """
    low, high = axes[factor]
    losses: dict[tuple[Any, Any], list[float]] = {}
    for row in rows:
        if all(row[key] == value for key, value in fixed.items()):
            losses.setdefault((row[factor], row["seed"]), []).append(float(row[TEST_LOSS]))
    seeds = sorted({seed for _, seed in losses})
    return [statistics.fmean(losses[high, seed]) - statistics.fmean(losses[low, seed]) for seed in seeds]


def factors(one: Record) -> list[Block]:
    """Every factor's effect on average, and with each setting of the others."""
    rows, axes = main_rows(one), one.study.view.study.axes
    shown = []
    for factor, (low, high) in axes.items():
        others = [key for key in axes if key != factor]
        settings: list[dict[str, Any]] = [{}]
        settings += [
            dict(zip(others, values, strict=True)) for values in itertools.product(*(axes[key] for key in others))
        ]
        for fixed in settings:
            where = ", ".join(f"{axis_label(key)} {number(value)}" for key, value in fixed.items()) or "on average"
            name = f"{axis_label(factor)}, {number(low)} to {number(high)}"
            found = effect(rows, axes, factor, fixed)
            fallen = f"{sum(gap < 0 for gap in found)} of {len(found)}"
            shown.append([Cell(name if not fixed else ""), Cell(where), Cell(gap_with_interval(found)), Cell(fallen)])
    caption = (
        f"Change of test loss in nats when one factor is raised, paired by seed, with 95 % intervals over "
        f"{len({row['seed'] for row in rows})} seeds (Student's t, each for itself); last: in how many seeds it falls."
    )
    return [table(caption, (text_column("raised"), text_column("with"), "change (nats)", "falls"), shown)]


def answer(one: Record) -> str | None:
    """Each factor's effect on average; ``None`` of a study that is not factorial."""
    axes = one.study.view.study.axes
    if len(axes) < 3 or any(len(values) != 2 for values in axes.values()):
        return None
    return said(main_rows(one), axes)


def said(rows: Rows, axes: Axes) -> str:
    """The sentence of `answer` from the rows of a study."""
    each = [
        f"{axis_label(key)}, {number(low)} to {number(high)}: {gap_with_interval(effect(rows, axes, key, {}))}"
        for key, (low, high) in axes.items()
    ]
    n_seeds = len({row["seed"] for row in rows})
    return (
        f"Change of test loss in nats, averaged over the settings of the others (95 % intervals over {n_seeds} seeds): "
        f"{'; '.join(each)}."
    )


PARTS: dict[str, Callable[[Record], Sequence[Block]]] = {"factors": factors}
