"""Methods side by side on the same meta-test tasks: means, costs, and every one against a reference, with statistics.

For studies whose axis ``method`` holds several meta-learners. The unit of every test is the task: losses of several
seeds are averaged task by task first.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metascale.core.canonical import plain
from metascale.laws.contrasts import PairedTest, holm, paired_test
from metascale.study.store.folder import RunView, StudyView

COSTS = ("steps", "step_flops", "step_peak_bytes", "step_peak_without_weights_bytes")
_KINDS = ("meta", "baseline", "control")


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method, at one point of the other axes.

    Args:
        method, kind, point: which; ``point`` holds the values of the axes beside the method.
        seeds: training seeds that finished.
        loss_nats, accuracy: means over seeds and tasks.
        loss_seed_sem, loss_task_sem: standard errors, over seeds (of their means) and over tasks (of seed means).
        costs: outer steps, operations of one, live bytes at its peak; where the trials recorded them.
    """

    method: str
    kind: str
    point: Mapping[str, Any]
    seeds: tuple[int, ...]
    loss_nats: float
    loss_seed_sem: float | None
    loss_task_sem: float | None
    accuracy: float | None
    costs: Mapping[str, float]
    losses: Mapping[str, float]

    @property
    def name(self) -> str:
        """The method and where it stands on the other axes."""
        return ", ".join([self.method, *(f"{key}={value}" for key, value in self.point.items())])


@dataclass(frozen=True, slots=True)
class MethodPair:
    """First minus second, paired by task; below zero the first loses less. ``p_holm`` covers all pairs of the study."""

    first: str
    second: str
    test: PairedTest
    p_holm: float


def method_rows(view: StudyView) -> list[MethodRow]:
    """Finished methods, in the study's order."""
    groups: dict[str, list[RunView]] = {}
    for run in view.runs:
        if run.trial.kind in _KINDS and run.status == "finished":
            groups.setdefault(_key(run, view), []).append(run)
    return [_row(runs, view) for runs in groups.values()]


def _key(run: RunView, view: StudyView) -> str:
    return str([run.trial.config.get("method"), _point(run, view), run.trial.kind])


def _point(run: RunView, view: StudyView) -> dict[str, Any]:
    varied = {key for key, values in view.study.axes.items() if len(values) > 1 and key != "method"}
    return {key: value for key, value in run.trial.axes.items() if key in varied}


def _row(runs: Sequence[RunView], view: StudyView) -> MethodRow:
    tasks: dict[str, list[float]] = {}
    means, accuracies = [], []
    for run in runs:
        rows = run.rows("test_tasks")
        means.append(statistics.fmean(row["loss_nats"] for row in rows))
        known = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
        accuracies += [statistics.fmean(known)] if known else []
        for row in rows:
            tasks.setdefault(f"{row['episode']}/{row['task_id']}", []).append(row["loss_nats"])
    losses = {task: statistics.fmean(values) for task, values in tasks.items() if len(values) == len(runs)}
    results = [run.result() or {} for run in runs]
    first = runs[0].trial
    return MethodRow(
        method=str(first.config.get("method")),
        kind=first.kind,
        point=_point(runs[0], view),
        seeds=tuple(run.trial.seed for run in runs),
        loss_nats=statistics.fmean(means),
        loss_seed_sem=_sem(means),
        loss_task_sem=_sem(list(losses.values())),
        accuracy=statistics.fmean(accuracies) if accuracies else None,
        costs={
            name: statistics.fmean(float(row[name]) for row in results)
            for name in COSTS
            if all(row.get(name) is not None for row in results)
        },
        losses=losses,
    )


def _sem(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def method_pairs(rows: Sequence[MethodRow], references: Sequence[str], level: float = 0.95) -> list[MethodPair]:
    """Every meta-learner against each reference method at the same point, then one Holm correction over all of them.

    The pairs are fixed by the study's design, not picked by their results. A reference that is a baseline stands at no
    point and is compared at every one. Rows that were tested on other tasks are left out.
    """
    pairs: list[tuple[str, str, PairedTest]] = []
    for reference in references:
        for row in rows:
            if row.kind != "meta" or row.method == reference:
                continue
            for other in rows:
                there = other.method == reference and (other.kind != "meta" or other.point == row.point)
                if there and row.losses.keys() == other.losses.keys() and len(row.losses) > 1:
                    order = sorted(row.losses)
                    test = paired_test([row.losses[t] for t in order], [other.losses[t] for t in order], level=level)
                    pairs.append((row.name, other.name, test))
    adjusted = holm([test.p_value for _, _, test in pairs])
    return [MethodPair(*pair, p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]


def methods_json(rows: Sequence[MethodRow], pairs: Sequence[MethodPair]) -> dict[str, Any]:
    """JSON of the whole comparison."""
    shown = [{key: value for key, value in plain(row).items() if key != "losses"} for row in rows]
    return {"methods": shown, "comparisons": plain(list(pairs))}


def methods_markdown(rows: Sequence[MethodRow], pairs: Sequence[MethodPair]) -> str:
    """Two tables: the methods, best loss first, and the comparisons."""
    lines = [
        "| method | meta-test loss | ± s.e. over seeds | ± s.e. over tasks | accuracy | outer steps "
        "| GFLOP an outer step | peak MiB | without weights |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.loss_nats):
        cells = [row.name, _number(row.loss_nats), _number(row.loss_seed_sem), _number(row.loss_task_sem)]
        cells.append("-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %")
        cells.append(_cost(row, "steps", 1, 0))
        cells.append(_cost(row, "step_flops", 1e9, 2))
        cells += [_cost(row, name, 2**20, 1) for name in ("step_peak_bytes", "step_peak_without_weights_bytes")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| first minus second | difference (nats) | interval | Wilcoxon p, Holm | Cohen's d | rank-biserial |",
        "|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        test = pair.test
        cells = [f"{pair.first} − {pair.second}", f"{test.difference.estimate:+.4f}"]
        cells.append(f"[{test.difference.low:+.4f}, {test.difference.high:+.4f}]")
        cells += [f"{pair.p_holm:.2g}", "-" if test.cohen_d is None else f"{test.cohen_d:+.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{test.rank_biserial:+.2f}'])} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cost(row: MethodRow, name: str, unit: float, digits: int) -> str:
    return f"{row.costs[name] / unit:,.{digits}f}" if name in row.costs else "-"
