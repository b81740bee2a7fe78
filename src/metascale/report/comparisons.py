"""Who does better on the same meta-test tasks: baselines beside meta-learnt starts, and paired tests between them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metascale.core.errors import CorruptFile
from metascale.laws.contrasts import PairedTest, holm, paired_test
from metascale.report.data import law_data, level_data, mean_of_known, standard_error
from metascale.report.reading import (
    StudyFolder,
    Trial,
    finite,
    has_scale,
    loss_column,
    read_study,
    sem_column,
    x_column,
)
from metascale.report.series import method_label, series_of
from metascale.report.words import scale_words
from metascale.study.store.records import read_rows

_NOT_SETTINGS = frozenset(
    {"kind", "method", "id", "label", "status", "message", "note", "notes", "n_tasks", "seed", "seeds"}
    | {"steps", "best_step", "training"}
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A method, or a meta-learnt start at one scale, on the meta-test tasks.

    ``task_sem`` is across meta-test tasks (of the per-task losses averaged over seeds, where those are on disk);
    ``seed_values`` are the runs' own means, one a seed.
    """

    name: str
    kind: str
    loss: float
    task_sem: float | None
    seed_values: tuple[float, ...]
    accuracy: float | None
    accuracy_task_sem: float | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ContestTable:
    """Contestants, best loss first."""

    rows: tuple[Contestant, ...]
    loss_label: str
    unit: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One paired test. ``seed_sem`` is the standard error across seeds of the mean difference, apart from the test."""

    first: str
    second: str
    test: PairedTest
    p_holm: float
    seed_sem: float | None


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """The family of comparisons that the Holm correction covers, and what could not be compared and why."""

    rows: tuple[Comparison, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who may take part: a series at one scale, or (without ``series``) a baseline or control."""

    name: str
    kind: str
    trials: tuple[Trial, ...]
    series: str = ""
    x: float = 0.0


def baselines_data(folder: Path | str | StudyFolder) -> ContestTable:
    """Baselines and controls beside each meta-learnt series at its smallest, its largest and its best scale."""
    study = read_study(folder)
    table = law_data(study).scales
    loss = loss_column(study)
    accuracies = {level.method: level for level in level_data(study, "test_accuracy")}
    entrants = {entrant.name: entrant for entrant in entrants_of(study)}
    rows = [
        row
        for series in dict.fromkeys(entrant.series for entrant in entrants.values() if entrant.series)
        for row in _ends_and_best([_meta_row(e, loss) for e in entrants.values() if e.series == series])
    ]
    for level in table.levels:
        entry = (study.baselines or {}).get(level.method, {})
        settings = {
            key: value for key, value in entry.items() if not key.startswith("test_") and key not in _NOT_SETTINGS
        }
        accuracy = accuracies.get(level.method)
        trials = entrants[method_label(level.method)].trials if method_label(level.method) in entrants else ()
        rows.append(
            Contestant(
                name=method_label(level.method),
                kind=level.kind,
                loss=level.value,
                task_sem=level.task_sem,
                seed_values=tuple(v for v in (trial.number(loss) for trial in trials) if v is not None),
                accuracy=accuracy.value if accuracy else None,
                accuracy_task_sem=accuracy.task_sem if accuracy else None,
                settings={key: value for key, value in settings.items() if value is not None},
            )
        )
    rows.sort(key=lambda row: (row.loss, row.name))
    return ContestTable(tuple(rows), table.y_label, table.unit)


def comparisons_data(folder: Path | str | StudyFolder, *, level: float = 0.95) -> ComparisonTable:
    """Each series' largest scale against every baseline and its own smallest scale, and each later series against the
    first at every scale of both, paired by meta-test task.

    Losses of several seeds are averaged task by task first, so that the unit is the task. The pairs are fixed by the
    design of the study, not picked by their results, and one Holm correction covers them all.
    """
    study = read_study(folder)
    entrants = entrants_of(study)
    pairs = _pairs(entrants, has_scale(study)) if len(entrants) > 1 else []
    losses: dict[str, dict[str, list[float]]] = {}
    notes, tests = [], []
    for entrant in (entrant for entrant in entrants if any(entrant.name in pair for pair in pairs)):
        found = _task_losses(entrant, loss_column(study).removeprefix("test_"))
        if isinstance(found, str):
            notes.append(found)
        else:
            losses[entrant.name] = found
    for first, second in pairs:
        if first not in losses or second not in losses:
            continue
        left, right = losses[first], losses[second]
        if set(left) != set(right):
            notes.append(
                f"{first} and {second} are not compared: they were tested on different tasks "
                f"({len(left)} and {len(right)}, {len(set(left) & set(right))} shared)."
            )
            continue
        if len(left) < 2:
            notes.append(f"{first} and {second} are not compared: a paired test needs at least 2 tasks.")
            continue
        tests.append(_compare(first, left, second, right, level))
    adjusted = holm([test.test.p_value for test in tests])
    return ComparisonTable(
        tuple(replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)), tuple(dict.fromkeys(notes))
    )


def _compare(
    first: str, left: Mapping[str, Sequence[float]], second: str, right: Mapping[str, Sequence[float]], level: float
) -> Comparison:
    tasks = sorted(left)
    test = paired_test(
        [statistics.fmean(left[task]) for task in tasks], [statistics.fmean(right[task]) for task in tasks], level=level
    )
    spreads = [
        standard_error([statistics.fmean(side[task][seed] for task in tasks) for seed in range(len(side[tasks[0]]))])
        for side in (left, right)
    ]
    known = [spread for spread in spreads if spread is not None]
    seed_sem = sum(spread**2 for spread in known) ** 0.5 if known else None
    return Comparison(first, second, test, test.p_value, seed_sem)


def entrants_of(study: StudyFolder) -> list[Entrant]:
    """Every series at every scale, the largest first, then each baseline and control.

    Without a scale every series takes part once.
    """
    x_name, names = x_column(study), series_of(study)
    scaled = has_scale(study)
    groups: dict[str, dict[float, list[Trial]]] = {}
    for trial in study.main:
        x = trial.number(x_name) if scaled else 0.0
        if trial.finished and x is not None and trial.number(loss_column(study)) is not None:
            groups.setdefault(names[trial.id], {}).setdefault(x, []).append(trial)
    if not scaled:
        alone = [Entrant(name, trials[0.0][0].kind, tuple(trials[0.0]), name) for name, trials in groups.items()]
        return alone + _side_entrants(study)
    entrants = []
    for series, scales in groups.items():
        for x, trials in sorted(scales.items(), reverse=True):
            entrants.append(Entrant(f"{series}, {scale_words(x_name, x)}", trials[0].kind, tuple(trials), series, x))
    return entrants + _side_entrants(study)


def _side_entrants(study: StudyFolder) -> list[Entrant]:
    others: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.of_kind("baseline", "control"):
        if trial.finished:
            others.setdefault((trial.kind, trial.method), []).append(trial)
    return [Entrant(method_label(method), kind, tuple(rows)) for (kind, method), rows in sorted(others.items())]


def _pairs(entrants: Sequence[Entrant], scaled: bool) -> list[tuple[str, str]]:
    """The largest scale of a series meets its smallest and every baseline; then each later series the first, scale by
    scale.

    Without scales, the study's first setting meets every other one.
    """
    if not scaled:
        return [(other.name, entrants[0].name) for other in entrants[1:]]
    series: dict[str, dict[float, str]] = {}
    for entrant in entrants:
        if entrant.series:
            series.setdefault(entrant.series, {})[entrant.x] = entrant.name
    baselines = [entrant.name for entrant in entrants if not entrant.series]
    pairs = []
    for scales in series.values():
        largest, smallest = scales[max(scales)], scales[min(scales)]
        pairs += [(largest, other) for other in [*baselines, *([smallest] if len(scales) > 1 else [])]]
    reference, *later = [*series.values()] or [{}]
    pairs += [(scales[x], reference[x]) for scales in later for x in sorted(scales) if x in reference]
    return pairs


def _ends_and_best(rows: Sequence[Contestant]) -> list[Contestant]:
    """Of a series' rows, the largest scale first: that one, the smallest, and the one of lowest loss."""
    shown = {0, len(rows) - 1, min(range(len(rows)), key=lambda place: rows[place].loss)}
    return [rows[place] for place in sorted(shown)]


def _meta_row(entrant: Entrant, loss: str) -> Contestant:
    values = tuple(value for value in (trial.number(loss) for trial in entrant.trials) if value is not None)
    accuracies = [trial.number("test_accuracy") for trial in entrant.trials]
    per_task = _task_losses(entrant, loss.removeprefix("test_"))
    if isinstance(per_task, str):
        task_sem = mean_of_known([trial.number(sem_column(loss)) for trial in entrant.trials])
    else:
        task_sem = standard_error([statistics.fmean(runs) for runs in per_task.values()])
    return Contestant(
        name=entrant.name,
        kind=entrant.kind,
        loss=statistics.fmean(values),
        task_sem=task_sem,
        seed_values=values,
        accuracy=mean_of_known(accuracies),
        accuracy_task_sem=mean_of_known([trial.number("test_accuracy_sem") for trial in entrant.trials]),
        settings={},
    )


def _task_losses(entrant: Entrant, column: str) -> dict[str, list[float]] | str:
    """Losses by task id, one a seed (the mean of a task's episodes, where it has several); or why there are none."""
    tasks: dict[str, list[float]] = {}
    for place, trial in enumerate(entrant.trials):
        rows = read_rows(trial.folder / "test_tasks.csv") if trial.folder else []
        if not rows:
            return f"{entrant.name} is not compared: run {trial.label or trial.id} has no test_tasks.csv."
        if "task_id" not in rows[0] or column not in rows[0]:
            raise CorruptFile(
                f"{trial.folder}/test_tasks.csv must have the columns task_id and {column}; it has {list(rows[0])}"
            )
        episodes: dict[str, list[float]] = {}
        for row in rows:
            value = finite(row[column])
            if value is None:
                return f"{entrant.name} is not compared: {trial.label or trial.id} has tasks without a finite loss."
            episodes.setdefault(str(row["task_id"]), []).append(value)
        if place and set(episodes) != set(tasks):
            return f"{entrant.name} is not compared: its seeds were tested on different tasks."
        for task, values in episodes.items():
            tasks.setdefault(task, []).append(statistics.fmean(values))
    return tasks
