"""Who does better on the same test set, and at what cost: losses, and paired tests under one Holm correction."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from metascale.core import notebook
from metascale.core.columns import (
    BASELINE,
    COMPARED_KINDS,
    MAIN_KINDS,
    TEST_ACCURACY,
    TEST_CHOICE,
    TEST_EDGE,
    TEST_INNER_LR,
    TEST_INNER_STEPS,
    TEST_SCALE,
)
from metascale.core.errors import CorruptFile
from metascale.laws.contrasts import PairedTest, holm, paired_test
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import (
    Block,
    Cell,
    Folded,
    Note,
    PageTable,
    Picture,
    Section,
    reading,
    share,
    table,
    text_column,
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
)
from metascale.report.words import interval, measured, method_label, number, p_words, percent, scale_words
from metascale.study.roles import Better

REFERENCE = "melora"
"""The exact meta-gradient: where a study has it the other methods are compared with it, else with the first series."""
COSTS = {
    "steps": ("{step}s", 1.0),
    "step_flops": ("GFLOP an {step}", 1e9),
    "step_peak_bytes": ("peak MiB of a step", 2.0**20),
    "step_peak_without_weights_bytes": ("without frozen weights", 2.0**20),
}
"""Columns of results that say what training costs: title and unit."""
_LONG = 20
"""A table of more comparisons is folded."""
_NO_FILE = "has no test_tasks.csv."
_NOT_SETTINGS = frozenset(
    {"kind", "method", "id", "label", "status", "message", "note", "notes", "n_tasks", "seed", "seeds"}
    | {"steps", "best_step", "training"}
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A series at one scale, or (without ``series``) a baseline or control, on the test set.

    Args:
        x: its scale; 0 where the study has none.
        task_sem: across test tasks, of the per-task losses averaged over seeds where those are on disk.
        seed_values: the runs' own means, one a seed; none for a baseline that the study's conclusion computed.
        settings: what tuning chose: for a series, how its runs adapt to the test tasks.
        costs: means over its runs, by column of `COSTS`, where all recorded them.
        losses: one a seed, by task.
        unpaired: why it has no ``losses``.
        crossed: where it stands on the axes that change what a baseline does: only equals are compared.
    """

    name: str
    kind: str
    series: str
    method: str
    x: float
    loss: float
    task_sem: float | None
    seed_values: tuple[float, ...]
    accuracy: float | None
    accuracy_task_sem: float | None
    settings: Mapping[str, Any]
    costs: Mapping[str, float]
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    unpaired: str = ""
    crossed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One paired test; it does not use ``seed_sem``, the standard error across seeds of the mean difference."""

    first: str
    second: str
    test: PairedTest
    p_holm: float
    seed_sem: float | None


@dataclass(frozen=True, slots=True)
class Contest:
    """All contestants (series by scale, the largest first, then baselines), and the comparisons that Holm covers.

    ``notes`` say what could not be compared and why; ``items`` are what a test loss is a mean over.
    """

    rows: tuple[Contestant, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    loss_label: str
    unit: str
    better: Better = "lower"
    items: str = "tasks"

    @property
    def shown(self) -> tuple[Contestant, ...]:
        """Best loss first: baselines, and each series at its smallest, its largest and its best scale."""
        sign = -1 if self.better == "higher" else 1
        chosen = [row for row in self.rows if not row.series]
        for series in dict.fromkeys(row.series for row in self.rows if row.series):
            mine = [row for row in self.rows if row.series == series]
            chosen += {id(row): row for row in (mine[0], mine[-1], min(mine, key=lambda row: sign * row.loss))}.values()
        return tuple(sorted(chosen, key=lambda row: (sign * row.loss, row.name)))

    @property
    def reference(self) -> str:
        """The series that the others are compared with."""
        exact = [row.series for row in self.rows if row.series and row.method == REFERENCE]
        return next(iter([*exact, *(row.series for row in self.rows if row.series)]), "")

    def _repr_html_(self) -> str:
        """For notebooks: everyone's loss, then the paired tests and what could not be compared."""
        label = f"{self.loss_label}, {self.unit}" if self.unit and self.unit not in self.loss_label else self.loss_label
        losses = [
            (row.name, measured(row.loss), measured(row.task_sem), str(len(row.seed_values))) for row in self.shown
        ]
        parts = [notebook.table(("setting", label, f"SE across {self.items}", "seeds"), losses)]
        if self.comparisons:
            level = f"{100 * self.comparisons[0].test.level:g}\u00a0% interval"
            tests = [
                (
                    f"{one.first} − {one.second}",
                    measured(one.test.difference.estimate),
                    interval(one.test.difference.low, one.test.difference.high),
                    p_words(one.p_holm),
                )
                for one in self.comparisons
            ]
            parts.append(notebook.table((f"difference paired by {self.items}", "mean", level, "p after Holm"), tests))
        return f"<div>{''.join(parts)}{''.join(notebook.words(note) for note in self.notes)}</div>"


def contest_data(source: StudySource, *, level: float = 0.95) -> Contest:
    """Everyone on the same test set, and the paired tests that the study's design asks for."""
    study = open_study(source)
    rows = contestants(study)
    found = Contest(tuple(rows), (), (), study.loss_label, study.unit, study.roles.better, study.terms.unit)
    comparisons, notes = _compare(rows, _pairs(rows, found.reference), level)
    return replace(found, comparisons=comparisons, notes=notes)


def contestants(study: ReportStudy) -> list[Contestant]:
    names, scaled = study.series, study.scaled
    groups: dict[str, dict[float, list[RunRow]]] = {}
    for run in study.main:
        x = run.number(study.x_name) if scaled else 0.0
        if run.finished and x is not None and run.number(study.loss_name) is not None:
            groups.setdefault(names[run.id], {}).setdefault(x, []).append(run)
    rows = []
    for series, scales in groups.items():
        for x, runs in sorted(scales.items(), reverse=True):
            name = f"{series}, {scale_words(study.x_name, x)}" if scaled else series
            rows.append(_contestant(study, name, runs, series, x))
    others: dict[tuple[str, str], list[RunRow]] = {}
    for run in study.of_kind(*COMPARED_KINDS):
        if run.finished and run.number(study.loss_name) is not None:
            others.setdefault((run.kind, _concluded_name(study, run)), []).append(run)
    for _, runs in sorted(others.items()):
        where = [
            f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {value}" for key, value in study.crossed_at(runs[0]).items()
        ]
        rows.append(_contestant(study, ", ".join([method_label(runs[0].method), *where]), runs))
    known = {name for _, name in others}
    more = [_concluded(study, method) for method in study.baselines if method not in known]
    return rows + [row for row in more if row is not None]


def _contestant(study: ReportStudy, name: str, runs: Sequence[RunRow], series: str = "", x: float = 0.0) -> Contestant:
    loss = study.loss_name
    values = tuple(value for value in (run.number(loss) for run in runs) if value is not None)
    per_task, unpaired = _task_losses(name, runs, loss.removeprefix("test_"))
    task_sem = mean_of_known([run.number(sem_column(loss)) for run in runs])
    if series and not unpaired:
        task_sem = standard_error([statistics.fmean(losses) for losses in per_task.values()])
    costs = {name: mean_of_known([run.number(name) for run in runs]) for name in COSTS}
    return Contestant(
        name=name,
        kind=runs[0].kind,
        series=series,
        method=runs[0].method,
        x=x,
        loss=statistics.fmean(values),
        task_sem=task_sem,
        seed_values=values,
        accuracy=mean_of_known([run.number(TEST_ACCURACY) for run in runs]),
        accuracy_task_sem=mean_of_known([run.number(sem_column(TEST_ACCURACY)) for run in runs]),
        settings=_adaptations(runs) if series else _settings(study.baselines.get(_concluded_name(study, runs[0]), {})),
        costs={name: value for name, value in costs.items() if value is not None},
        losses=per_task,
        unpaired=unpaired,
        crossed=study.crossed_at(runs[0]),
    )


def _concluded_name(study: ReportStudy, run: RunRow) -> str:
    """A baseline as the study's conclusion names it: its method and where it stands on the crossed axes."""
    return ", ".join([run.method, *(f"{key}={value}" for key, value in study.crossed_at(run).items())])


def _concluded(study: ReportStudy, method: str) -> Contestant | None:
    """A baseline that the study's conclusion computed without a trial."""
    entry = study.baselines[method]
    names = (study.loss_name, sem_column(study.loss_name), TEST_ACCURACY, sem_column(TEST_ACCURACY))
    loss, sem, accuracy, accuracy_sem = (finite(entry.get(name)) for name in names)
    if loss is None:
        return None
    kind = str(entry.get("kind", BASELINE))
    return Contestant(
        method_label(method), kind, "", method, 0.0, loss, sem, (), accuracy, accuracy_sem, _settings(entry), {}
    )


def _adaptations(runs: Sequence[RunRow]) -> dict[str, Any]:
    """How a series' runs adapted to the test tasks: a value, or the ends of several."""
    found: dict[str, Any] = {}
    for name, column in (("inner_lr", TEST_INNER_LR), ("inner_steps", TEST_INNER_STEPS), ("scale", TEST_SCALE)):
        values = sorted({value for run in runs if (value := run.number(column)) is not None})
        if values:
            found[name] = values[0] if len(values) == 1 else f"{number(values[0])} to {number(values[-1])}"
    return found


def _settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What tuning chose for a baseline."""
    names = [name for name in entry if not name.startswith("test_") and name not in _NOT_SETTINGS]
    return {name: entry[name] for name in names if entry[name] is not None}


def _task_losses(name: str, runs: Sequence[RunRow], column: str) -> tuple[dict[str, list[float]], str]:
    """Losses by task id, one a seed (the mean of a task's episodes, where it has several), or why there are none."""
    tasks: dict[str, list[float]] = {}
    for place, run in enumerate(runs):
        rows = run.run.rows("test_tasks")
        if not rows:
            return {}, f"{name} is not compared: run {run.label} {_NO_FILE}"
        if "task_id" not in rows[0] or column not in rows[0]:
            raise CorruptFile(
                f"{run.run.folder}/test_tasks.csv must have the columns task_id and {column}; it has {list(rows[0])}"
            )
        episodes: dict[str, list[float]] = {}
        for row in rows:
            value = finite(row[column])
            if value is None:
                return {}, f"{name} is not compared: {run.label} has tasks without a finite loss."
            episodes.setdefault(str(row["task_id"]), []).append(value)
        if place and set(episodes) != set(tasks):
            return {}, f"{name} is not compared: its seeds were tested on different tasks."
        for task, values in episodes.items():
            tasks.setdefault(task, []).append(statistics.fmean(values))
    return tasks, ""


def _pairs(rows: Sequence[Contestant], reference: str) -> list[tuple[Contestant, Contestant]]:
    """Each series' largest scale meets every baseline and its own smallest scale; then each other series meets the
    reference series at every scale of both.

    The pairs are fixed by the design of the study, not picked by their results.
    """
    series: dict[str, dict[float, Contestant]] = {}
    for row in rows:
        if row.series:
            series.setdefault(row.series, {})[row.x] = row
    pairs = []
    for scales in series.values():
        largest, smallest = scales[max(scales)], scales[min(scales)]
        pairs += [(largest, other) for other in beside(rows, largest) if other.seed_values]
        pairs += [(largest, smallest)] if len(scales) > 1 else []
    for name, scales in series.items():
        if name != reference:
            pairs += [(scales[x], series[reference][x]) for x in sorted(scales) if x in series[reference]]
    return pairs


def beside(rows: Sequence[Contestant], learner: Contestant) -> list[Contestant]:
    """The baselines and controls that a learner is compared with."""
    return [row for row in rows if not row.series and row.crossed.items() <= learner.crossed.items()]


def _compare(
    rows: Sequence[Contestant], pairs: Sequence[tuple[Contestant, Contestant]], level: float
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """The paired tests with one Holm correction, and notes on what could not be tested.

    Losses of several seeds are averaged task by task first, so that the unit is the task.
    """
    asked = {id(row) for pair in pairs for row in pair}
    met = [row for row in rows if id(row) in asked]
    notes = [row.unpaired for row in met if row.unpaired]
    if met and all(row.unpaired.endswith(_NO_FILE) for row in met):
        notes = ["No paired tests: no run of this study wrote test_tasks.csv, the losses of single tests."]
    tests = []
    for first, second in pairs:
        if first.unpaired or second.unpaired:
            continue
        left, right = set(first.losses), set(second.losses)
        if left != right:
            notes.append(
                f"{first.name} and {second.name} are not compared: they were tested on different tasks "
                f"({len(left)} and {len(right)}, {len(left & right)} shared)."
            )
        elif len(left) < 2:
            notes.append(f"{first.name} and {second.name} are not compared: a paired test needs at least 2 tasks.")
        else:
            tests.append(_comparison(first, second, level))
    adjusted = holm([test.test.p_value for test in tests])
    corrected = tuple(replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True))
    return corrected, tuple(dict.fromkeys(notes))


def _comparison(first: Contestant, second: Contestant, level: float) -> Comparison:
    tasks = sorted(first.losses)
    left, right = ([statistics.fmean(side.losses[task]) for task in tasks] for side in (first, second))
    test = paired_test(left, right, level=level)
    spreads = [
        standard_error(
            [statistics.fmean(side.losses[task][seed] for task in tasks) for seed in range(len(side.losses[tasks[0]]))]
        )
        for side in (first, second)
    ]
    known = [spread for spread in spreads if spread is not None]
    seed_sem = sum(spread**2 for spread in known) ** 0.5 if known else None
    return Comparison(first.name, second.name, test, test.p_value, seed_sem)


def at_an_edge(study: ReportStudy) -> tuple[str, ...]:
    """A sentence for every method and chosen value that lies at an end of what meta-validation chose from."""
    chosen: dict[str, int] = {}
    at: dict[tuple[str, str], int] = {}
    for run in (*study.main, *study.of_kind(*COMPARED_KINDS)):
        if run.finished and run.text(TEST_CHOICE) == "validation":
            name = study.series[run.id] if run.main else method_label(run.method)
            chosen[name] = chosen.get(name, 0) + 1
            for edge in filter(None, run.text(TEST_EDGE).split(", ")):
                at[name, edge] = at.get((name, edge), 0) + 1
    return tuple(
        f"{name}: meta-validation chose the {edge} on offer in {count} of {chosen[name]} "
        f"{'run' if chosen[name] == 1 else 'runs'}; values beyond it might do better."
        for (name, edge), count in at.items()
    )


def contest(study: ReportStudy) -> Section:
    """Losses side by side, and the paired tests."""
    found = contest_data(study)
    beside = any(row.kind not in MAIN_KINDS for row in found.rows)
    title = (
        f"Against baselines, on the same {'tasks' if study.meta else 'tests'}"
        if beside
        else "Side by side, on the same tests"
    )
    data = {
        "methods": [_for_programs(row) for row in found.shown],
        "comparisons": found.comparisons,
        "not_compared": found.notes,
    }
    if not found.rows:
        return Section("baselines", title, data=data)
    across_tasks = any(row.task_sem is not None for row in found.rows)
    picture = Picture(
        "baselines",
        (f"Bars: ± 1 standard error across test {found.items} (not across seeds). " if across_tasks else "")
        + "Dots: single seeds.",
        (lambda ax, compact: plot_baselines(found, ax, compact=compact),),
        height_in=1.5 + 0.42 * len(found.shown),
    )
    tests: list[Block] = [comparisons_table(found)] if found.comparisons else []
    if len(found.comparisons) > _LONG:
        tests = [Folded(f"All {len(found.comparisons)} comparisons", tuple(tests))]
    notes = map(Note, (*at_an_edge(study), *found.notes))
    return Section("baselines", title, (picture, contest_table(found), *tests, *notes), data)


def _for_programs(row: Contestant) -> dict[str, Any]:
    names = ("name", "kind", "loss", "task_sem", "seed_values", "accuracy", "accuracy_task_sem", "settings", "costs")
    return {name: getattr(row, name) for name in names}


def contest_table(found: Contest) -> PageTable:
    """Methods by test loss."""
    rows = []
    for row in found.shown:
        settings = ", ".join(f"{key.replace('_', ' ')} {_setting(value)}" for key, value in row.settings.items())
        losses = (reading(row.loss), reading(row.task_sem), share(row.accuracy), share(row.accuracy_task_sem))
        rows.append([Cell(row.name), Cell(row.kind), *losses, Cell(settings)])
    heads = (
        "method",
        text_column("kind"),
        found.loss_label,
        f"SE across {found.items}",
        "accuracy",
        f"its SE across {found.items}",
    )
    caption = "All on the same test set, best loss first; a series with scales at its smallest, largest and best one."
    return table(caption, (*heads, text_column("tuned settings")), rows)


def _setting(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def comparisons_table(found: Contest) -> PageTable:
    """Paired differences with their tests."""
    firsts = {row.first for row in found.comparisons}
    rows = []
    for row in found.comparisons:
        test, difference = row.test, row.test.difference
        rows.append(
            [
                Cell(row.second if len(firsts) == 1 else f"{row.first} − {row.second}"),
                reading(difference.estimate),
                Cell(interval(difference.low, difference.high), difference.estimate),
                reading(row.seed_sem),
                Cell(p_words(row.p_holm), row.p_holm),
                reading(test.cohen_d),
                reading(test.rank_biserial),
                Cell(str(test.n_tasks), test.n_tasks),
            ]
        )
    level = 100 * found.comparisons[0].test.level
    by = "task (a task's episodes are averaged first)" if found.items == "tasks" else found.items[:-1]
    first = f"{next(iter(firsts))} minus" if len(firsts) == 1 else "difference"
    heads = (
        first, found.unit or "loss", f"{level:g} % across {found.items}", "SE across seeds", "p (Holm)",
        "Cohen's d", "rank-biserial", found.items,
    )  # fmt: skip
    caption = (
        f"Paired by test {by}; below zero the first loses less. Interval: bootstrap over {found.items} of the losses "
        "averaged over seeds, so for these seeds; SE across seeds is separate; "
        f"p: Wilcoxon signed-rank, corrected by Holm for {len(found.comparisons)} comparisons."
    )
    return table(caption, heads, rows)


def plot_baselines(found: Contest, ax: Axes, *, compact: bool = False) -> Axes:
    """Bars of test loss, best on top, with standard errors across test tasks and a dot for every seed."""
    rows = found.shown
    if not rows:
        return style.nothing(ax, "No method with a test loss")
    ends = [max(row.loss + (row.task_sem or 0.0), *(row.seed_values or (0.0,))) for row in rows]
    reach = max(ends)
    for place, (row, end) in enumerate(zip(rows, ends, strict=True)):
        (bar,) = ax.barh(place, row.loss, height=0.62, color=style.BLUE if row.kind in MAIN_KINDS else style.MUTED)
        text = measured(row.loss) + (f" ± {measured(row.task_sem)}" if row.task_sem is not None else "")
        accuracy = f", {percent(row.accuracy)}" if row.accuracy is not None else ""
        tip(bar, f"{row.name}: {text} {found.unit}{accuracy}")
        if row.task_sem is not None:
            ax.errorbar(row.loss, place, xerr=row.task_sem, color=style.INK, elinewidth=1.2, capsize=3)
        if len(row.seed_values) > 1:
            places = place + np.linspace(-0.16, 0.16, len(row.seed_values))
            ax.plot(
                row.seed_values,
                places,
                "o",
                color=style.PAPER,
                markersize=3.6,
                markeredgecolor=style.INK,
                markeredgewidth=0.8,
            )
        _end_label(ax, end, reach, place, text, compact)
    ax.set_xlim(0, reach * (1.42 if compact else 1.2))
    style.name_bars(ax, [row.name.replace(", ", ",\n") if compact else row.name for row in rows], compact)
    best, loss = rows[0], found.loss_label.split(" (")[0]
    style.finish(ax, f"Lowest {loss}: {best.name}, {measured(best.loss)} {found.unit}", found.loss_label, "", compact)
    ax.grid(visible=False)  # every bar has its number, which a line would strike through
    return ax


def _end_label(ax: Axes, end: float, reach: float, place: int, text: str, compact: bool) -> None:
    """A bar's number beside its end."""
    size = 8 if compact else 9
    ax.text(end + 0.015 * reach, place, text, va="center", ha="left", fontsize=size, color=style.INK)
