"""A study as the report sees it: runs with their rows of the results table, its laws, its series and points."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from metascale.core import notebook
from metascale.core.canonical import canonical_json
from metascale.core.columns import (
    BASELINES_JSON,
    BEST_STEP,
    COMMAND_JSON,
    KEPT_STEP,
    MAIN_KINDS,
    TEST_LOSS,
    TEST_POOL_JSON,
    TRIAL,
    TUNING,
)
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json
from metascale.core.units import finite as finite
from metascale.laws.held_out import Replicates
from metascale.laws.record import LawRecord, read_laws
from metascale.report.words import axis_label, measured, method_label, number, scale_symbol, scale_words, seed_words
from metascale.study.roles import Roles, assign, loss_of
from metascale.study.store.folder import RunView, StudyView, read_study
from metascale.study.store.records import format_cell
from metascale.study.store.table import results_table


@dataclass(frozen=True, slots=True)
class Terms:
    """Words for the test set, what a test number is a mean over, the trained models, and a step of training."""

    test: str
    unit: str
    trained: str
    step: str


META_TERMS = Terms(test="meta-test", unit="tasks", trained="meta-learnt", step="outer step")
SUPERVISED_TERMS = Terms(test="test", unit="examples", trained="trained", step="step")
TRAINED = "trained"
"""What the runs of a study without methods are called."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run and its cells of the results table; those of a nested axis are there under its last word as well."""

    run: RunView
    cells: Mapping[str, Any]
    method: str

    @property
    def id(self) -> str:
        return self.run.trial.id

    @property
    def label(self) -> str:
        return self.run.trial.label

    @property
    def seed(self) -> int:
        return self.run.trial.seed

    @property
    def kind(self) -> str:
        return str(self.cells["kind"])

    @property
    def status(self) -> str:
        return str(self.cells["status"])

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def main(self) -> bool:
        """Whether it is one of the trials that the axes vary; the others are baselines, controls and searches."""
        return self.kind in MAIN_KINDS

    @property
    def rate_falls(self) -> bool:
        """Whether its schedule lowers the rate until the last step, so that validation is meant to be best there."""
        config = self.run.trial.config
        return any(config.get(key) in ("linear", "cosine", "wsd") for key in ("outer_schedule", "schedule"))

    def number(self, column: str) -> float | None:
        """The cell as a finite number, or ``None`` when it is empty, absent, no number or not finite."""
        return finite(self.cells.get(column))

    @property
    def kept_step(self) -> float | None:
        """The step of the state that was tested: the best one, where the run does not say."""
        kept = self.number(KEPT_STEP)
        return self.number(BEST_STEP) if kept is None else kept

    def text(self, column: str) -> str:
        """The cell as results.csv shows it; empty where it has no value."""
        value = self.cells.get(column)
        return value if isinstance(value, str) else format_cell(value)


@dataclass(frozen=True, slots=True)
class Point:
    """The runs at one point of the axes, in one series: ``name`` says where, ``trials`` are one a seed."""

    series: str
    name: str
    axes: Mapping[str, Any]
    x: float
    losses: tuple[float, ...]
    trials: tuple[RunRow, ...]

    @property
    def runs(self) -> Replicates:
        """The point as the laws take it."""
        return Replicates(self.x, self.losses, self.name)

    @property
    def mean(self) -> float:
        """The geometric mean: laws are fitted to the logarithm of the loss."""
        return self.runs.mean

    @property
    def spread(self) -> float:
        """Standard deviation of ln loss across seeds; 0 for a single run."""
        return self.runs.spread


@dataclass(frozen=True)
class ReportStudy:
    """A study folder with what was concluded from it. What is asked for every run is made once.

    Args:
        launched: what command.json says: the command and the question.
        laws: by series as the study's files name them, ``method=maml``; a single law has the empty name.
        baselines: what the study's conclusion says of each baseline method.
    """

    view: StudyView
    runs: tuple[RunRow, ...]
    columns: tuple[str, ...]
    launched: Mapping[str, Any] = field(default_factory=dict)
    laws: Mapping[str, LawRecord] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    test_pool: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.view.folder

    @property
    def name(self) -> str:
        return self.view.study.name

    @property
    def base(self) -> Mapping[str, Any]:
        return self.view.study.base

    @cached_property
    def main(self) -> tuple[RunRow, ...]:
        """The trials that the axes vary, whatever their status."""
        return tuple(run for run in self.runs if run.main)

    def of_kind(self, *kinds: str) -> tuple[RunRow, ...]:
        """Trials of these kinds, whatever their status."""
        return tuple(run for run in self.runs if run.kind in kinds)

    @cached_property
    def terms(self) -> Terms:
        """How this study speaks of its test set."""
        supervised = self.main and all(run.kind == TRIAL for run in self.main)
        return SUPERVISED_TERMS if supervised else META_TERMS

    @property
    def meta(self) -> bool:
        return self.terms is META_TERMS

    @cached_property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The axes, named by their last word (``task.n_tasks`` is ``n_tasks``)."""
        return {key.rsplit(".", 1)[-1]: tuple(values) for key, values in self.view.study.axes.items()}

    @property
    def law(self) -> LawRecord | None:
        """The study's law, or the first of several."""
        return next(iter(self.laws.values()), None)

    @cached_property
    def roles(self) -> Roles:
        """The stored roles of the axes; without them the first axis of numbers is the scale, every other a series."""
        return self.view.study.roles or assign(self.view.study.axes, loss="")

    @cached_property
    def x_name(self) -> str:
        """The law's scale, else the study's."""
        named = [self.law.x_name] if self.law and self.law.x_name else []
        candidates = [_short(name) for name in (*named, *self.roles.scales[:1])]
        return next((name for name in candidates if name in self.columns), candidates[0] if candidates else "n_tasks")

    @property
    def scaled(self) -> bool:
        """Whether the study varies a scale; otherwise it compares methods or settings."""
        return self.x_name in self.columns

    @cached_property
    def loss_name(self) -> str:
        named = self.law.loss_name if self.law else self.roles.loss
        if named in self.columns:
            return named
        losses = [name for name in self.columns if name.startswith("test_loss") and "_sem" not in name]
        guessed = loss_of(self.columns, [run.cells for run in self.main])
        return losses[0] if losses else self.roles.loss or guessed or TEST_LOSS

    @property
    def unit(self) -> str:
        """Of the loss: as the study states it, else as its column's name ends."""
        return self.roles.units or unit_of(self.loss_name)

    @property
    def loss_words(self) -> str:
        """What the loss is called: that of the test set, or a loss of the user's own by its name."""
        if self.loss_name.startswith("test_loss"):
            return f"{self.terms.test} loss"
        unit = unit_of(self.loss_name)
        return self.loss_name.removesuffix(f"_{self.loss_name.rsplit('_', 1)[-1]}" if unit else "").replace("_", " ")

    @property
    def loss_label(self) -> str:
        """The loss with its unit, as an axis title."""
        return self.loss_words + (f" ({self.unit})" if self.unit else "")

    def in_words(self, text: str) -> str:
        """A sentence of the laws with the loss and its scales as the page calls them, not as columns."""
        words = {name: scale_symbol(name) for law in self.laws.values() for name in law.x_names}
        words[self.loss_name] = self.loss_words
        columns = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
        return re.sub(rf"(?<![\w.])(?:{columns})(?!\w|\.\w)", lambda found: words[found[0]], text)

    @cached_property
    def series(self) -> dict[str, str]:
        """The series of every trial by id: its method, and what else tells apart finished runs of one scale.

        The second scale of a law in two is drawn as a series.
        """
        return self._names((*self.roles.series, *self.roles.scales))

    def _names(self, apart: Sequence[str]) -> dict[str, str]:
        """Every trial by id: its method, and its values of these columns where finished runs differ in them."""
        finished = [run for run in self.main if run.finished]
        extra = [
            name
            for name in dict.fromkeys(map(_short, apart))
            if name not in (self.x_name, "method") and len({run.text(name) for run in finished}) > 1
        ]

        def name(run: RunRow) -> str:
            parts = [f"{column.replace('_', ' ')} {_value_words(run, column)}" for column in extra if run.text(column)]
            unnamed = run.method == TRAINED and parts
            return ", ".join(parts if unnamed else [method_label(run.method), *parts])

        return {run.id: name(run) for run in self.runs}

    @cached_property
    def laws_by_series(self) -> dict[str, LawRecord]:
        """The law of every series by the series' name on the page; a study with one law has it under the empty name."""
        if len(self.laws) < 2:
            return {"": self.law} if self.law else {}
        names = self._names(self.roles.series)
        found = {}
        for run in self.main:
            label = ", ".join(f"{key}={run.text(key)}" for key in self.roles.series)
            if label in self.laws:
                found[names[run.id]] = self.laws[label]
        return dict(sorted(found.items())) or {"": next(iter(self.laws.values()))}

    def place(self, run: RunRow) -> str:
        """Where a run stands on the other axes than scale, method and seed, in words; a search's trial has a number."""
        told = [
            f"{axis_label(axis)} {method_label(_words(run, axis))}"
            for axis, values in self.axes.items()
            if len(values) > 1 and axis not in (self.x_name, "method") and run.text(axis)
        ]
        return ", ".join([*told, *([f"search {run.label.rsplit('-', 1)[-1]}"] if run.kind == TUNING else [])])

    def name_of(self, run: RunRow) -> str:
        """A run in words, its method left out where all have one: ``N = 10, seed 0``."""
        x = run.number(self.x_name)
        several = len({other.method for other in self.runs}) > 1
        parts = (
            method_label(run.method) if several else "",
            self.place(run),
            "" if x is None else scale_words(self.x_name, x),
            "" if run.kind == TUNING else seed_words(run.seed),
        )
        return ", ".join(part for part in parts if part) or run.label

    def _repr_html_(self) -> str:
        """For notebooks: how the trials ended, the laws' verdicts, and the mean loss of every point."""
        statuses = Counter(run.status for run in self.runs)
        told = ", ".join(f"{count} {status}" for status, count in statuses.items())
        verdicts = [f"{name}: {law.verdict}" if name else law.verdict for name, law in self.laws.items()]
        head = "".join(notebook.words(self.in_words(line)) for line in (f"{self.name}: {told}", *verdicts))
        rows = [
            (point.series, scale_words(self.x_name, point.x), measured(point.mean), str(len(point.losses)))
            for point in self.points
        ]
        return f"<div>{head}{notebook.table(('series', 'scale', self.loss_label, 'seeds'), rows)}</div>"

    def crossed_at(self, run: RunRow) -> dict[str, str]:
        """Where a run stands on the axes that change what a baseline does; only there may the two be compared."""
        return {key: run.text(key) for key in self.roles.crossed if run.text(key)}

    @property
    def level(self) -> float:
        """Of the law's intervals."""
        return self.law.level if self.law else 0.95

    @property
    def points(self) -> list[Point]:
        """The finished runs by series and point of the axes: one point is one configuration, with a run a seed."""
        return list(self._points)

    @cached_property
    def _points(self) -> tuple[Point, ...]:
        names = self.series
        axes = [name for name, values in self.axes.items() if len(values) > 1]
        groups: dict[tuple[str, str], list[RunRow]] = {}
        for run in self.main:
            loss = run.number(self.loss_name)
            if run.finished and run.number(self.x_name) is not None and loss is not None and loss > 0:
                place = canonical_json([run.text(axis) for axis in axes])
                groups.setdefault((names[run.id], place), []).append(run)
        stored = self.view.study.roles
        told = [axis for axis in axes if axis not in ("method", *map(_short, stored.series if stored else ()))]
        points = [
            Point(
                series=series,
                name=", ".join(f"{axis_label(axis)} {_words(runs[0], axis)}" for axis in told) or series,
                axes={axis: runs[0].cells.get(axis) for axis in axes},
                x=runs[0].number(self.x_name) or 0.0,
                losses=tuple(run.number(self.loss_name) or 0.0 for run in runs),
                trials=tuple(runs),
            )
            for (series, _), runs in groups.items()
        ]
        return tuple(sorted(points, key=lambda point: (point.series, point.x, point.name)))


StudySource: TypeAlias = Path | str | ReportStudy
"""A study's folder, or the study already read."""


def open_study(source: StudySource) -> ReportStudy:
    """The study in a folder, with what was concluded from it; a study already read comes back as it is.

    Raises:
        InputError: the folder holds no study.
        CorruptFile: a file of the study cannot be parsed.
    """
    if isinstance(source, ReportStudy):
        return source
    view = read_study(source)
    table = results_table(view)
    short = {key: key.rsplit(".", 1)[-1] for key in view.study.axes if key in table.columns}
    rows = []
    for run, row in zip(view.runs, table.rows, strict=True):
        cells = {**{word: row[key] for key, word in short.items()}, **row}
        rows.append(RunRow(run, cells, _method(cells, view.study.base)))
    return ReportStudy(
        view=view,
        runs=tuple(rows),
        columns=tuple(dict.fromkeys([*short.values(), *table.columns])) if rows else (),
        launched=_mapping(view.folder / COMMAND_JSON),
        laws=read_laws(view.folder),
        baselines=_mapping(view.folder / BASELINES_JSON),
        test_pool=_mapping(view.folder / TEST_POOL_JSON),
    )


def _method(cells: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The method of a run; beside baselines, that of an only learner is in the base configuration alone."""
    unnamed = TRAINED if cells["kind"] in (TRIAL, TUNING) else "meta-learnt"
    return str(cells.get("method") or cells.get("result.method") or base.get("method") or unnamed)


def stopped_by_patience(points: Sequence[Point]) -> bool:
    """Whether half of all runs or more ended because validation had stopped improving: then all are meant to."""
    endings = [trial.text("training") == "converged" for point in points for trial in point.trials]
    return 2 * sum(endings) >= len(endings) > 0


def cut_short(trial: RunRow, patient: bool) -> bool:
    """Whether a run was best at its last validation, or (``patient``) ended at the last step that it was allowed."""
    best, steps = trial.number("best_step"), trial.number("steps")
    best_last = best is not None and steps is not None and best >= steps > 0
    return best_last or (patient and trial.text("training") == "max_steps")


UNITS = {"nats": "nats", "s": "s", "mse": "MSE"}


def unit_of(column: str) -> str:
    """The unit that the end of a column's name states, or nothing."""
    return UNITS.get(column.rsplit("_", 1)[-1], "")


def sem_column(column: str) -> str:
    """The column of the standard error that goes with ``column``: test_loss_nats -> test_loss_sem_nats."""
    stem, _, unit = column.rpartition("_")
    return f"{stem}_sem_{unit}" if unit in UNITS else f"{column}_sem"


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean, or ``None`` as soon as one value is unknown."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of a mean; ``None`` for fewer than two values."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _short(key: str) -> str:
    """The last word of a dotted key."""
    return key.rsplit(".", 1)[-1]


def _mapping(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where there is no file."""
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptFile(f"{path} must hold one JSON object; it holds a {type(value).__name__}")
    return value


def _value_words(run: RunRow, column: str) -> str:
    """A cell as a series is named by it: whole numbers with separators, methods by their names."""
    value = run.number(column)
    if value is not None and value == int(value):
        return number(value)
    return method_label(run.text(column))


def _words(run: RunRow, axis: str) -> str:
    """A cell for reading: numbers without a needless fraction."""
    value = run.number(axis)
    return run.text(axis) if value is None else number(value)
