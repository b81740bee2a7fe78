"""Few-shot regression of sinusoids (Finn, Abbeel & Levine 2017, section 5.1)."""

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

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, float(np.pi))
X = (-5.0, 5.0)


@dataclass(frozen=True)
class SinusoidTasks:
    """y = a sin(x - p) with a in [0.1, 5], p in [0, pi], x in [-5, 5]; implements ``TaskSource``.

    Inputs ``{"x": [T, B, 1]}`` and targets [T, B, 1], float32. The pool of N training tasks is the beginning of the
    pool of any larger N with the same seed; every visit draws fresh x.

    Args:
        n_train_tasks: how many distinct training tasks; ``None``: another one at every visit.
        seed: training tasks and episodes; ``eval_seed``: validation and test tasks and episodes.

    Raises:
        InputError: a count below 1.
    """

    k_shot: int = 10
    n_query: int = 10
    n_train_tasks: int | None = None
    n_validation_tasks: int = 100
    n_test_tasks: int = 200
    seed: int = 0
    eval_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"sinusoid: {name} must be at least 1, not {value}")

    def n_tasks(self, split: Split) -> int | None:
        """How many distinct tasks the split has; ``None``: endless."""
        return {"train": self.n_train_tasks, "validation": self.n_validation_tasks, "test": self.n_test_tasks}[split]

    def amplitude_and_phase(self, split: Split, task: int) -> tuple[float, float]:
        """The two numbers that make task number ``task`` of the split."""
        seed = self.seed if split == "train" else self.eval_seed
        rng = generator(seed, "sinusoid-task", split, task)
        return float(rng.uniform(*AMPLITUDE)), float(rng.uniform(*PHASE))

    def _task_of(self, split: Split, index: int) -> int:
        n_tasks = self.n_tasks(split)
        if index < 0 or (split != "train" and n_tasks is not None and index >= n_tasks):
            raise InputError(f"sinusoid: there is no {split} task {index}; the split has {n_tasks}")
        if split != "train" or n_tasks is None:
            return index
        return pool_position(self.seed, "sinusoid-visit-order", n_tasks, index)

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked: x and y [T, k_shot, 1] and [T, n_query, 1].

        Raises:
            InputError: an index outside the split.
        """
        x = np.empty((len(indices), self.n_query + self.k_shot, 1))
        y = np.empty_like(x)
        task_ids = []
        seed = self.seed if split == "train" else self.eval_seed
        for row, index in enumerate(indices):
            task = self._task_of(split, int(index))
            amplitude, phase = self.amplitude_and_phase(split, task)
            x[row] = generator(seed, "sinusoid-episode", split, int(index)).uniform(*X, size=x[row].shape)
            y[row] = amplitude * np.sin(x[row] - phase)
            task_ids.append(f"{split}:{task}")
        inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        # The query set comes first in the stream, so it is the same at every k_shot.
        support = Batch({"x": inputs[:, self.n_query :]}, targets[:, self.n_query :])
        query = Batch({"x": inputs[:, : self.n_query]}, targets[:, : self.n_query])
        return Episode(tuple(task_ids), support, query)

    def describe(self) -> dict[str, Any]:
        """JSON: the settings and the amplitude and phase of every task of every pool."""
        pools: dict[str, Any] = {}
        for split in SPLITS:
            n_tasks = self.n_tasks(split)
            pools[split] = (
                None if n_tasks is None else [list(self.amplitude_and_phase(split, task)) for task in range(n_tasks)]
            )
        return {
            "kind": "regression",
            "data": "sinusoid",
            "details": {"task": "amplitude, phase of y = amplitude * sin(x - phase)", "x": list(X)},
            "k_shot": self.k_shot,
            "n_query": self.n_query,
            "seed": self.seed,
            "eval_seed": self.eval_seed,
            "n_tasks": {split: self.n_tasks(split) for split in SPLITS},
            "pools": pools,
        }
