"""Regression tasks from real tables: the rows of one group are one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Batch, Episode, Split
from metascale.tasks.fewshot import ClassSplit, pool_position
from metascale.tasks.labelled import columns_of, input_columns, label_column, names_of
from metascale.tasks.tables import Features, column_of, features_of, read_table


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Rows with real targets, indexed by group.

    Args:
        name: the data set's name; it is part of every random stream's address.
        groups: the group names.
        rows: the row numbers of each group.
        x: [n, d] float32.
        y: [n, 1] float32.
        details: JSON for the run's record; ``features`` says what each of the d numbers is.
        target_mean, target_sd: y = (target - mean) / sd; 0 and 1 where targets are as they stand in the table.
    """

    name: str
    groups: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    x: torch.Tensor
    y: torch.Tensor
    details: dict[str, Any] = field(default_factory=dict)
    target_mean: float = 0.0
    target_sd: float = 1.0


@dataclass(frozen=True)
class GroupTasks:
    """Regression tasks over a table; implements ``TaskSource``: inputs ``x`` [T, B, d], targets [T, B, 1].

    A task is a group. Every visit draws fresh rows, without replacement: those of the query set first, so that query
    sets do not depend on ``k_shot``. Groups of validation and test are visited in turn, in an order of their own; what
    is drawn from them depends on ``eval_seed`` only.

    Args:
        table: the data.
        split: which groups are meta-train, meta-validation and meta-test.
        k_shot: support rows of a task.
        n_query: query rows of a task.
        n_train_tasks: how many of the training groups are used: the first of an order drawn from ``seed``, so that a
            smaller pool is part of a larger one; ``None``: all.
        n_validation_tasks, n_test_tasks: how many evaluation episodes.
        seed: the training pool and the training episodes.
        eval_seed: the validation and test episodes.

    Raises:
        InputError: a count below 1; fewer groups or rows than asked for.
    """

    table: GroupTable
    split: ClassSplit
    k_shot: int = 10
    n_query: int = 15
    n_train_tasks: int | None = None
    n_validation_tasks: int = 100
    n_test_tasks: int = 600
    seed: int = 0
    eval_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{self.table.name}: {name} must be at least 1, not {value}", field=name, value=value)
        needed = self.k_shot + self.n_query
        for split in SPLITS:
            if not self.split.of(split):
                raise InputError(f"{self.table.name}: the {split} split has no group", field="split")
            for place in self.split.of(split):
                if len(self.table.rows[place]) < needed:
                    raise InputError(
                        f"{self.table.name}: the {split} group '{self.table.groups[place]}' has "
                        f"{len(self.table.rows[place])} rows; {needed} are needed (k_shot + n_query)",
                        field="k_shot",
                    )
        available = len(self.split.train)
        if self.n_train_tasks is not None and self.n_train_tasks > available:
            raise InputError(
                f"{self.table.name}: {self.n_train_tasks} training tasks were asked for but there are {available} "
                "training groups",
                field="n_train_tasks",
                value=self.n_train_tasks,
            )

    def n_tasks(self, split: Split) -> int:
        """How many tasks the split has; for evaluation: fixed episodes."""
        if split == "train":
            return self.n_train_tasks or len(self.split.train)
        return self.n_validation_tasks if split == "validation" else self.n_test_tasks

    @cached_property
    def _pools(self) -> dict[Split, tuple[int, ...]]:
        name, found = self.table.name, {}
        for split in SPLITS:
            seed = self.seed if split == "train" else self.eval_seed
            places = self.split.of(split)
            order = generator(seed, "group-order", name, split).permutation(len(places))
            found[split] = tuple(places[place] for place in order)
        found["train"] = found["train"][: self.n_train_tasks]
        return found

    def _task(self, split: Split, index: int) -> tuple[str, np.ndarray]:
        """The task id of episode ``index``, and its group's rows in random order."""
        name, pool, n_tasks = self.table.name, self._pools[split], self.n_tasks(split)
        if index < 0 or (split != "train" and index >= n_tasks):
            raise InputError(f"{name}: there is no {split} episode {index}; the split has {n_tasks}", field="indices")
        if split == "train":
            place, repeat = pool[pool_position(self.seed, f"visit-order {name}", len(pool), index)], 0
            rng = generator(self.seed, "train-episode", name, index)
        else:
            place, repeat = pool[index % len(pool)], index // len(pool)
            rng = generator(self.eval_seed, "evaluation-episode", name, split, index)
        task_id = f"{split}:{self.table.groups[place]}" + (f"#{repeat}" if repeat else "")
        return task_id, rng.permutation(self.table.rows[place])

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked: support [T, k_shot, ...], query [T, n_query, ...], float32."""
        tasks = [self._task(split, int(index)) for index in indices]
        bounds = (0, self.n_query, self.n_query + self.k_shot)
        parts = [np.stack([rows[start:stop] for _, rows in tasks]) for start, stop in pairwise(bounds)]
        query, support = (Batch({"x": self.table.x[rows]}, self.table.y[rows]) for rows in parts)
        return Episode(tuple(task_id for task_id, _ in tasks), support, query)

    def describe(self) -> dict[str, Any]:
        """JSON: the data set, the split and every task of every pool, by the names of groups."""
        names = self.table.groups
        counts = {split: [len(self.table.rows[place]) for place in self.split.of(split)] for split in SPLITS}
        pools = {
            split: [[names[pool[index % len(pool)]]] for index in range(self.n_tasks(split))]
            for split, pool in self._pools.items()
        }
        return {
            "kind": "few-shot regression",
            "data": self.table.name,
            "details": dict(self.table.details),
            **{name: getattr(self, name) for name in ("k_shot", "n_query", "seed", "eval_seed")},
            "target_mean": self.table.target_mean,
            "target_sd": self.table.target_sd,
            "n_tasks": {split: self.n_tasks(split) for split in SPLITS},
            "split": {split: [names[place] for place in self.split.of(split)] for split in SPLITS},
            "rows_per_group": {split: {"min": min(n), "max": max(n)} for split, n in counts.items()},
            "pools": pools,
        }


@dataclass(frozen=True, eq=False)
class Grouped:
    """n rows: their features, targets [n] (float64) and groups."""

    features: Features
    targets: np.ndarray
    groups: tuple[str, ...]


def read_grouped(
    data: object,
    group: str,
    *,
    label: str | None = None,
    inputs: Sequence[str] | str | None = None,
    categorical: Sequence[str] | str = (),
) -> Grouped:
    """The rows of a table with a column of groups and one of real targets (see `tasks.few_shot`).

    Raises:
        InputError: data of another kind; a column that is absent, a row without group or target.
    """
    named = [categorical] if isinstance(categorical, str) else list(categorical)
    whole: Any = data
    hugging_face = hasattr(data, "column_names") and not hasattr(data, "iloc")
    if hugging_face and isinstance(whole.column_names, dict):
        raise InputError("give one part of the data set: groups are what is held out for tests", field="data")
    table = columns_of(whole, label) if hugging_face else read_table(data)
    if table is None:
        raise InputError(
            "group= is for a table with columns: a data frame, a mapping of columns, a data set of scikit-learn or one "
            f"part of a Hugging Face data set, not for {type(data).__name__}",
            field="group",
            value=group,
        )
    target = label_column(table, label)
    if group not in table.columns or group == target:
        others = ", ".join(name for name in table.columns if name != target)
        raise InputError(f"there is no group column '{group}'; there are {others}", field="group", value=group)
    wanted = input_columns(table, [target, group], inputs, named)
    groups = names_of(table.columns[group], "group")
    targets = column_of(target, table.columns[target])
    if not isinstance(targets, np.ndarray):
        raise InputError(f"the targets of regression are numbers; column '{target}' holds texts", field="label")
    if np.isnan(targets).any():
        raise InputError(f"row {int(np.isnan(targets).argmax())} has no number in '{target}'", field="label")
    return Grouped(features_of(table.columns, wanted, {*table.categorical, *named}), targets, groups)
