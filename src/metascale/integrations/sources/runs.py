"""What every reader of another program gives: runs with configuration and series, and the tables made of them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from metascale.core.cells import safe_text
from metascale.core.errors import InputError

MOST_POINTS = 5_000_000
"""Logged points that one source may hold."""
MOST_RUNS = 100_000
MOST_KEYS = 20_000
"""Nodes of one run's configuration, nested ones included."""

Scalar = bool | int | float | str | None
Columns = dict[str, list[Any]]

# A metric whose name has one of these words is better when it is larger; any other when it is smaller.
LARGER = frozenset(
    (
        *("acc", "accuracy", "auc", "auroc", "bleu", "f1", "kappa", "map", "mcc", "ndcg", "precision", "psnr"),
        *("r2", "recall", "return", "reward", "rouge", "score", "ssim"),
    )
)


@dataclass
class Series:
    """The points of one metric. A step that goes back is a run that was resumed: the later record wins.

    Attributes:
        replaced: points that a later record of their step, or of a step before theirs, took the place of.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)
    replaced: int = 0

    def add(self, step: int, value: float, at: float | None = None) -> None:
        """Append a point, in the order in which points were recorded."""
        if self.steps and self.steps[-1] == step and self.values[-1] == value:
            return
        self.cut(step)
        self.steps.append(step)
        self.values.append(value)
        self.times.append(at)

    def cut(self, step: int) -> None:
        """Drop the points at and after a step, from where a run was resumed."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
            self.times.pop()
            self.replaced += 1

    def best(self, larger: bool) -> int | None:
        """The index of the largest or smallest finite value, the first of equal ones; None where none is finite."""
        known = [k for k, value in enumerate(self.values) if math.isfinite(value)]
        if not known:
            return None
        return max(known, key=lambda k: (self.values[k] if larger else -self.values[k], -k))


@dataclass
class ImportedRun:
    """A run as another program recorded it.

    Args:
        id: unique within the source.
        name: what people call it.
        state: the program's own word in lower case, empty where it records none.
        config: by dotted key.
        started_at, ended_at: seconds since the epoch, where known.
        larger: metrics that the program itself says are better when larger (True) or smaller (False).
    """

    id: str
    name: str = ""
    state: str = ""
    config: dict[str, Scalar] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None
    larger: dict[str, bool] = field(default_factory=dict)

    def add(self, metric: str, step: int, value: float, at: float | None = None) -> None:
        """Append a point of a metric."""
        self.series.setdefault(metric, Series()).add(step, value, at)

    @property
    def steps(self) -> int | None:
        """The largest step that anything was logged at."""
        return max((one.steps[-1] for one in self.series.values() if one.steps), default=None)

    def times(self) -> tuple[float | None, float | None]:
        """When it began and ended; of the first and last point where the program does not say."""
        known = [at for one in self.series.values() for at in one.times if at is not None]
        begin = self.started_at if self.started_at is not None else min(known, default=None)
        end = self.ended_at if self.ended_at is not None else max(known, default=None)
        return begin, end


@dataclass
class Imported:
    """The runs of one source. ``notes`` say what was passed over or is not what one would guess."""

    source: str
    runs: list[ImportedRun]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError(f"{self.source} holds no run")
        twice = [name for name, n in Counter(run.id for run in self.runs).items() if n > 1]
        if twice:
            raise InputError(f"{self.source} has two runs named '{twice[0]}'; names must differ", value=twice[0])
        replaced = sum(one.replaced for run in self.runs for one in run.series.values())
        if replaced:
            resumed = sum(any(one.replaced for one in run.series.values()) for run in self.runs)
            self.notes.append(
                f"{replaced:,} points of {_count(resumed, 'run')} were recorded again at the same or an earlier step, "
                "as after a resume: the later record counts"
            )

    def table(self) -> Columns:
        """One row a run.

        Columns: ``run``, ``name``, ``state``, the configuration; for a metric ``loss`` its last value ``loss`` with
        ``loss_step``, and, where a run has several, its best ``loss_min`` with ``loss_min_step`` (``_max`` for
        accuracies and the like);
        ``steps`` (the largest step), ``started_at``, ``ended_at`` (UTC), ``wall_s``. What a run does not have is None.
        A key of the configuration that is called like another column is ``config.KEY``; a metric, ``metric.NAME``.

        Raises:
            InputError: two columns would have one name.
        """
        metrics = self._metrics()
        derived = {name: _of_metric(name, best) for name, best in metrics.items()}
        names = self._names(derived)
        rows = []
        for run in self.runs:
            row = _facts(run)
            row |= {names[f"config.{key}"]: value for key, value in run.config.items()}
            for metric, one in run.series.items():
                if one.steps:
                    base, best = names[f"metric.{metric}"], metrics[metric]
                    row |= dict(zip(_of_metric(base, best), _ends(one, best), strict=False))
            rows.append(row)
        order = ["run", "name", "state", *(names[f"config.{key}"] for key in self._keys())]
        order += [each for name, best in metrics.items() for each in _of_metric(names[f"metric.{name}"], best)]
        return _columns(rows, [*order, "steps", "started_at", "ended_at", "wall_s"])

    def curves(self) -> Columns:
        """One row a logged step of a run.

        Columns: ``run``, ``name``, ``state``, the configuration, ``step``, ``time`` (UTC of the step's last point) and
        the metrics, None where a metric was not logged at that step.

        Raises:
            InputError: two columns would have one name.
        """
        metrics = self._metrics()
        names = self._names({name: (name,) for name in metrics}, ("step", "time"))
        rows = []
        for run in self.runs:
            same = {key: value for key, value in _facts(run).items() if key in ("run", "name", "state")}
            same |= {names[f"config.{key}"]: value for key, value in run.config.items()}
            at: dict[int, dict[str, Any]] = {}
            for metric, one in run.series.items():
                for step, value, when in zip(one.steps, one.values, one.times, strict=True):
                    row = at.setdefault(step, {"time": None})
                    row[names[f"metric.{metric}"]] = value
                    row["time"] = max(when or 0.0, row["time"] or 0.0) or None
            for step in sorted(at):
                rows.append({**same, **at[step], "step": step, "time": utc(at[step]["time"])})
        order = ["run", "name", "state", *(names[f"config.{key}"] for key in self._keys()), "step", "time"]
        return _columns(rows, [*order, *(names[f"metric.{name}"] for name in metrics)])

    def _metrics(self) -> dict[str, str]:
        """Which end of each metric is its best: ``"max"``, ``"min"``, or neither where no run has two points of it."""
        most: dict[str, int] = {}
        for run in self.runs:
            for name, one in run.series.items():
                if one.steps:
                    most[name] = max(len(one.steps), most.get(name, 0))
        ends = {True: "max", False: "min"}
        return {name: ends[self._larger(name)] if n > 1 else "" for name, n in most.items()}

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(key for run in self.runs for key in run.config))

    def _larger(self, metric: str) -> bool:
        said = {run.larger[metric] for run in self.runs if metric in run.larger}
        if len(said) == 1:
            return said.pop()
        return not LARGER.isdisjoint(re.split(r"[^a-z0-9]+", metric.lower()))

    def _names(self, metrics: Mapping[str, tuple[str, ...]], own: tuple[str, ...] = ()) -> dict[str, str]:
        """The column of every ``config.KEY`` and ``metric.NAME``."""
        reserved = {"run", "name", "state", "steps", "started_at", "ended_at", "wall_s", *own}
        derived = {each for columns in metrics.values() for each in columns[1:]}  # loss_min of loss, say
        names, used = {}, Counter(reserved)
        for metric, columns in metrics.items():
            clash = metric in derived or not reserved.isdisjoint(columns)
            names[f"metric.{metric}"] = f"metric.{metric}" if clash else metric
            used.update(f"metric.{each}" if clash else each for each in columns)
        taken = reserved.union(*([each, f"metric.{each}"] for columns in metrics.values() for each in columns))
        for key in self._keys():
            names[f"config.{key}"] = f"config.{key}" if key in taken else key
            used[names[f"config.{key}"]] += 1
        twice = next((name for name, n in used.items() if n > 1), None)
        if twice is not None:
            raise InputError(f"{self.source} would have two columns named '{twice}'; names must differ", value=twice)
        return names


def _of_metric(name: str, best: str) -> tuple[str, ...]:
    ends = (f"{name}_{best}", f"{name}_{best}_step") if best else ()
    return name, f"{name}_step", *ends


def _ends(one: Series, end: str) -> tuple[float | int | None, ...]:
    best = one.best(end == "max")
    found = (None, None) if best is None else (one.values[best], one.steps[best])
    return (one.values[-1], one.steps[-1], *found)


def _facts(run: ImportedRun) -> dict[str, Any]:
    begin, end = run.times()
    wall = None if begin is None or end is None else round(max(0.0, end - begin), 3)
    return {
        "run": run.id,
        "name": run.name or run.id,
        "state": run.state or None,
        "steps": run.steps,
        "started_at": utc(begin),
        "ended_at": utc(end),
        "wall_s": wall,
    }


def _columns(rows: list[dict[str, Any]], order: list[str]) -> Columns:
    """Columns in an order; those in which no row has anything are left out."""
    filled = {name for row in rows for name, value in row.items() if value is not None}
    return {name: [row.get(name) for row in rows] for name in order if name in filled}


def utc(seconds: float | None) -> str | None:
    """A time in ISO 8601."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return None


def flat(config: object, where: str) -> dict[str, Scalar]:
    """A nested configuration by dotted key; a list becomes JSON.

    Raises:
        InputError: it has more than `MOST_KEYS` nodes, or two keys become one.
    """
    found: dict[str, Scalar] = {}
    for key, value in _leaves(config, "", _Budget(where)):
        if key in found:
            raise InputError(f"{where} has two keys '{key}' in its configuration; names must differ", value=key)
        found[key] = value
    return found


class _Budget:
    def __init__(self, where: str):
        self.where, self.left = where, MOST_KEYS

    def spend(self, value: object, depth: int = 0) -> None:
        """Count the nodes of a value, and refuse when there are too many."""
        self.left -= 1
        if self.left < 0 or depth > 64:
            raise InputError(f"the configuration of {self.where} has more than {MOST_KEYS:,} entries, or 64 levels")
        inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        for one in inside:
            self.spend(one, depth + 1)


def _leaves(value: object, key: str, budget: _Budget) -> Iterator[tuple[str, Scalar]]:
    if not key:
        budget.spend(value)
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _leaves(inside, f"{key}.{name}" if key else str(name), budget)
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield key, value
    else:
        yield key, json.dumps(value, default=str, sort_keys=True)


def number(value: object) -> float | None:
    """A metric's value: a number, or None for what is none (True and False among them)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def to_csv(columns: Columns) -> str:
    """CSV text; floats read back bit for bit, an empty cell is None, and no spreadsheet runs a text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([safe_text(name) for name in columns])
    for row in zip(*columns.values(), strict=True):
        writer.writerow([safe_text(value) if isinstance(value, str) else value for value in row])
    return stream.getvalue()
