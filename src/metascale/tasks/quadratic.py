"""Quadratic tasks, loss 1/2 ||theta - c||^2: every meta-gradient has a closed form on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Batch, Episode, Split
from metascale.tasks.class_pools import pool_position


@dataclass(frozen=True)
class QuadraticTasks:
    """Task t's targets are its centre c_t, B times; implements ``TaskSource``.

    Inputs ``{"x": zeros [T, B, 1]}`` (nothing to read), targets [T, B, dimension] float32. With the loss
    1/2 ||theta - target||^2 averaged over B, the loss of a task is 1/2 ||theta - c||^2 plus a constant.

    Args:
        dimension: length of theta and of a centre.
        spread: standard deviation of the centres, each number drawn from N(0, spread^2).
        noise: standard deviation of targets around their centre; at 0 support and query hold the same exact centre.
        n_train_tasks: how many distinct training tasks (nested, as in ``FewShotTasks``); ``None``: endless.
        seed: training tasks and episodes; ``eval_seed``: validation and test tasks and episodes.

    Raises:
        InputError: a count below 1 or a negative deviation.
    """

    dimension: int = 4
    spread: float = 1.0
    noise: float = 0.0
    k_shot: int = 1
    n_query: int = 1
    n_train_tasks: int | None = None
    n_validation_tasks: int = 20
    n_test_tasks: int = 20
    seed: int = 0
    eval_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dimension", "k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"quadratic: {name} must be at least 1, not {value}")
        for name in ("spread", "noise"):
            if not getattr(self, name) >= 0:
                raise InputError(f"quadratic: {name} must be 0 or larger, not {getattr(self, name)}")

    def n_tasks(self, split: Split) -> int | None:
        """How many distinct tasks the split has; ``None``: endless."""
        return {"train": self.n_train_tasks, "validation": self.n_validation_tasks, "test": self.n_test_tasks}[split]

    def centre(self, split: Split, task: int) -> np.ndarray:
        """[dimension] the centre of task number ``task`` of the split."""
        seed = self.seed if split == "train" else self.eval_seed
        return self.spread * generator(seed, "quadratic-centre", split, task).standard_normal(self.dimension)

    def _task_of(self, split: Split, index: int) -> int:
        n_tasks = self.n_tasks(split)
        if index < 0 or (split != "train" and n_tasks is not None and index >= n_tasks):
            raise InputError(f"quadratic: there is no {split} task {index}; the split has {n_tasks}")
        if split != "train" or n_tasks is None:
            return index
        return pool_position(self.seed, "quadratic-visit-order", n_tasks, index)

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked: targets [T, k_shot, dimension] and [T, n_query, dimension].

        Raises:
            InputError: an index outside the split.
        """
        targets = np.empty((len(indices), self.n_query + self.k_shot, self.dimension))
        task_ids = []
        seed = self.seed if split == "train" else self.eval_seed
        for row, index in enumerate(indices):
            task = self._task_of(split, int(index))
            rng = generator(seed, "quadratic-episode", split, int(index))
            targets[row] = self.centre(split, task) + self.noise * rng.standard_normal(targets[row].shape)
            task_ids.append(f"{split}:{task}")
        values = torch.from_numpy(targets).float()
        zeros = torch.zeros(*values.shape[:2], 1)
        support = Batch({"x": zeros[:, self.n_query :]}, values[:, self.n_query :])
        query = Batch({"x": zeros[:, : self.n_query]}, values[:, : self.n_query])
        return Episode(tuple(task_ids), support, query)

    def describe(self) -> dict[str, Any]:
        """JSON: the settings and the centre of every task of every pool."""
        pools: dict[str, Any] = {}
        for split in SPLITS:
            n_tasks = self.n_tasks(split)
            pools[split] = None if n_tasks is None else [self.centre(split, task).tolist() for task in range(n_tasks)]
        settings = ("dimension", "spread", "noise", "k_shot", "n_query", "seed", "eval_seed")
        return {
            "kind": "regression",
            "data": "quadratic",
            "details": {"task": "the centre c of the loss 1/2 ||theta - c||^2"},
            **{name: getattr(self, name) for name in settings},
            "n_tasks": {split: self.n_tasks(split) for split in SPLITS},
            "pools": pools,
        }
