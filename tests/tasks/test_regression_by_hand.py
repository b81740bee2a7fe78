"""Regression tasks that a formula makes: draws by their address, whole descriptions, refusals with their argument."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.tasks.fewshot import pool_position
from metascale.tasks.regression import QuadraticTasks, SinusoidTasks

SPLITS: tuple[Any, ...] = ("train", "validation", "test")
COUNTS = ("k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks")


def refused(make: Any) -> tuple[str, str | None, object]:
    with pytest.raises(InputError) as caught:
        make()
    return str(caught.value), caught.value.field, caught.value.value


@pytest.mark.parametrize("kind", [SinusoidTasks, QuadraticTasks])
def test_the_least_of_each_count(kind: Any) -> None:
    for name in (*COUNTS, *(("dimension",) if kind is QuadraticTasks else ())):
        assert getattr(kind(**{name: 1}), name) == 1
        said = f"{kind.name}: {name} must be at least 1, not 0"
        assert refused(lambda given=name: kind(**{given: 0})) == (said, name, 0)
    source = kind(n_validation_tasks=2, n_test_tasks=3)
    for split, index, held in (("train", -1, None), ("validation", 2, 2), ("test", 3, 3), ("test", -1, 3)):
        said = f"{kind.name}: there is no {split} task {index}; the split has {held}"
        assert refused(lambda at=(split, index): source.episodes(at[0], [at[1]]))[0] == said
    assert [source.n_tasks(split) for split in SPLITS] == [None, 2, 3]
    assert source.episodes("test", [2]).task_ids == ("test:2",)
    assert source.episodes("train", [7]).task_ids == ("train:7",)


def test_deviations_are_not_negative() -> None:
    for name in ("spread", "noise"):
        assert getattr(QuadraticTasks(**{name: 0.0}), name) == 0
        for value in (-0.5, float("nan")):
            message, field, given = refused(lambda of=(name, value): QuadraticTasks(**{of[0]: of[1]}))
            assert (message, field) == (f"quadratic: {name} must be 0 or larger, not {value}", name)
            assert given is value


def test_a_sinusoid_by_its_address() -> None:
    """Amplitude and phase, then the examples: 2 of the query set and 3 of the support set, in this order."""
    source = SinusoidTasks(
        k_shot=3, n_query=2, n_train_tasks=4, n_validation_tasks=1, n_test_tasks=2, seed=5, eval_seed=6
    )
    for split, index, task, seed in (
        ("train", 6, pool_position(5, "sinusoid-visit-order", 4, 6), 5),
        ("test", 1, 1, 6),
    ):
        rng = generator(seed, "sinusoid-task", split, task)
        amplitude, phase = rng.uniform(0.1, 5.0), rng.uniform(0.0, np.pi)
        assert source.task(split, task) == [amplitude, phase]  # type: ignore[arg-type]
        x = generator(seed, "sinusoid-episode", split, index).uniform(-5, 5, size=(5, 1))
        y = amplitude * np.sin(x - phase)
        episode = source.episodes(split, [index])  # type: ignore[arg-type]
        assert episode.task_ids == (f"{split}:{task}",)
        for batch, rows in ((episode.query, slice(0, 2)), (episode.support, slice(2, 5))):
            assert batch.inputs["x"].dtype == batch.targets.dtype == torch.float32
            np.testing.assert_allclose(batch.inputs["x"][0], x[rows], rtol=1e-6)
            np.testing.assert_allclose(batch.targets[0], y[rows], rtol=1e-5, atol=1e-6)
    assert source.describe() == {
        "kind": "regression", "data": "sinusoid",
        "details": {"task": "amplitude, phase of y = amplitude * sin(x - phase)", "x": [-5.0, 5.0]},
        "k_shot": 3, "n_query": 2, "seed": 5, "eval_seed": 6, "n_tasks": {"train": 4, "validation": 1, "test": 2},
        "pools": {
            split: [source.task(split, task) for task in range(n)] for split, n in zip(SPLITS, (4, 1, 2), strict=True)
        },
    }  # fmt: skip
    assert SinusoidTasks().describe()["pools"]["train"] is None


def test_a_quadratic_by_its_address() -> None:
    source = QuadraticTasks(2, 3.0, 0.5, 1, 2, 2, 1, 1, 5, 6)
    centre = generator(6, "quadratic-centre", "test", 0).standard_normal(2) * 3
    np.testing.assert_allclose(source.task("test", 0), centre)
    noise = generator(6, "quadratic-episode", "test", 0).standard_normal((3, 2)) * 0.5
    episode = source.episodes("test", [0])
    np.testing.assert_allclose(episode.query.targets[0], centre + noise[:2], rtol=1e-5)
    np.testing.assert_allclose(episode.support.targets[0], centre + noise[2:], rtol=1e-5)
    assert episode.support.inputs["x"].tolist() == [[[0.0]]]
    assert episode.query.inputs["x"].tolist() == [[[0.0], [0.0]]]
    assert source.describe() == {
        "kind": "regression", "data": "quadratic", "details": {"task": "the centre c of the loss 1/2 ||theta - c||^2"},
        "dimension": 2, "spread": 3.0, "noise": 0.5, "k_shot": 1, "n_query": 2, "seed": 5, "eval_seed": 6,
        "n_tasks": {"train": 2, "validation": 1, "test": 1},
        "pools": {
            split: [source.task(split, task) for task in range(n)] for split, n in zip(SPLITS, (2, 1, 1), strict=True)
        },
    }  # fmt: skip
