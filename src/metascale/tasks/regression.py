"""Regression tasks that a formula makes: sinusoids, and quadratics on which every meta-gradient has a closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Batch, Episode, Split
from metascale.tasks.fewshot import pool_position


class RegressionTasks(ABC):
    """A `TaskSource` whose task number t is a function of t; the fields of its subclasses are its settings.

    The pool of N training tasks is the beginning of the pool of any larger N with the same seed; every visit draws
    fresh examples.
    """

    name: ClassVar[str]
    k_shot: int
    n_query: int
    n_train_tasks: int | None
    n_validation_tasks: int
    n_test_tasks: int
    seed: int
    eval_seed: int

    @abstractmethod
    def task(self, split: Split, task: int) -> list[float]:
        """The numbers that make task number ``task`` of the split."""

    @abstractmethod
    def draw(self, task: list[float], n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [n, ...] and targets [n, ...] of ``n`` examples of a task."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What `describe` says besides sizes, seeds and tasks."""

    def n_tasks(self, split: Split) -> int | None:
        """How many distinct tasks the split has; ``None``: endless."""
        return {"train": self.n_train_tasks, "validation": self.n_validation_tasks, "test": self.n_test_tasks}[split]

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked: support [T, k_shot, ...] and query [T, n_query, ...], float32."""
        tasks = [self._task_of(split, int(index)) for index in indices]
        purpose = f"{self.name}-episode"
        drawn = [
            self.draw(
                self.task(split, task),
                self.n_query + self.k_shot,
                generator(self._seed(split), purpose, split, int(index)),
            )
            for task, index in zip(tasks, indices, strict=True)
        ]
        x, y = (torch.from_numpy(np.stack(part)).float() for part in zip(*drawn, strict=True))
        # The query set comes first in the stream, so it is the same at every k_shot.
        support = Batch({"x": x[:, self.n_query :]}, y[:, self.n_query :])
        query = Batch({"x": x[:, : self.n_query]}, y[:, : self.n_query])
        return Episode(tuple(f"{split}:{task}" for task in tasks), support, query)

    def describe(self) -> dict[str, Any]:
        """JSON: the settings and the numbers of every task of every pool."""
        pools = {}
        for split in SPLITS:
            n_tasks = self.n_tasks(split)
            pools[split] = None if n_tasks is None else [self.task(split, task) for task in range(n_tasks)]
        return {
            "kind": "regression",
            "data": self.name,
            **self.details(),
            **{name: getattr(self, name) for name in ("k_shot", "n_query", "seed", "eval_seed")},
            "n_tasks": {split: self.n_tasks(split) for split in SPLITS},
            "pools": pools,
        }

    def _seed(self, split: Split) -> int:
        return self.seed if split == "train" else self.eval_seed

    def _task_of(self, split: Split, index: int) -> int:
        n_tasks = self.n_tasks(split)
        if index < 0 or (split != "train" and n_tasks is not None and index >= n_tasks):
            raise InputError(f"{self.name}: there is no {split} task {index}; the split has {n_tasks}")
        if split != "train" or n_tasks is None:
            return index
        return pool_position(self.seed, f"{self.name}-visit-order", n_tasks, index)

    def _check_counts(self, *more: str) -> None:
        for name in (*more, "k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{self.name}: {name} must be at least 1, not {value}", field=name, value=value)


@dataclass(frozen=True)
class SinusoidTasks(RegressionTasks):
    """y = a sin(x - p) with a in [0.1, 5], p in [0, pi], x in [-5, 5] (Finn, Abbeel & Levine 2017, section 5.1).

    Inputs ``{"x": [T, B, 1]}`` and targets [T, B, 1].

    Args:
        n_train_tasks: how many distinct training tasks; ``None``: another one at every visit.
        seed: training tasks and episodes; ``eval_seed``: validation and test tasks and episodes.
    """

    name = "sinusoid"
    amplitudes: ClassVar[tuple[float, float]] = (0.1, 5.0)
    phases: ClassVar[tuple[float, float]] = (0.0, float(np.pi))
    x: ClassVar[tuple[float, float]] = (-5.0, 5.0)

    k_shot: int = 10
    n_query: int = 10
    n_train_tasks: int | None = None
    n_validation_tasks: int = 100
    n_test_tasks: int = 200
    seed: int = 0
    eval_seed: int = 0

    def __post_init__(self) -> None:
        self._check_counts()

    def task(self, split: Split, task: int) -> list[float]:
        """Amplitude and phase of task number ``task`` of the split."""
        rng = generator(self._seed(split), "sinusoid-task", split, task)
        return [float(rng.uniform(*self.amplitudes)), float(rng.uniform(*self.phases))]

    def draw(self, task: list[float], n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        amplitude, phase = task
        x = rng.uniform(*self.x, size=(n, 1))
        return x, amplitude * np.sin(x - phase)

    def details(self) -> dict[str, Any]:
        return {"details": {"task": "amplitude, phase of y = amplitude * sin(x - phase)", "x": list(self.x)}}


@dataclass(frozen=True)
class QuadraticTasks(RegressionTasks):
    """Task t's targets are its centre c_t, B times: with loss 1/2 ||theta - target||^2, 1/2 ||theta - c_t||^2.

    Inputs ``{"x": zeros [T, B, 1]}`` (nothing to read), targets [T, B, dimension]. With noise, the loss of a task is
    1/2 ||theta - c||^2 plus a constant in expectation.

    Args:
        dimension: length of theta and of a centre.
        spread: standard deviation of the centres, each number drawn from N(0, spread^2).
        noise: standard deviation of targets around their centre; at 0 support and query hold the same exact centre.
        n_train_tasks: how many distinct training tasks; ``None``: endless.
        seed: training tasks and episodes; ``eval_seed``: validation and test tasks and episodes.
    """

    name = "quadratic"

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
        self._check_counts("dimension")
        for name in ("spread", "noise"):
            value = getattr(self, name)
            if not value >= 0:
                raise InputError(f"quadratic: {name} must be 0 or larger, not {value}", field=name, value=value)

    def task(self, split: Split, task: int) -> list[float]:
        """The centre of task number ``task`` of the split."""
        draw = generator(self._seed(split), "quadratic-centre", split, task).standard_normal(self.dimension)
        return [self.spread * float(value) for value in draw]

    def draw(self, task: list[float], n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((n, 1)), np.array(task) + self.noise * rng.standard_normal((n, self.dimension))

    def details(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("dimension", "spread", "noise")}
        return {"details": {"task": "the centre c of the loss 1/2 ||theta - c||^2"}, **settings}
