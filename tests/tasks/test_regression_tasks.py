"""Sinusoids and quadratics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.tasks.regression import QuadraticTasks, SinusoidTasks


def test_sinusoids_follow_their_formula() -> None:
    source = SinusoidTasks(n_train_tasks=6)
    for split, indices in (("train", range(12)), ("test", range(12))):
        episode = source.episodes(split, indices)  # type: ignore[arg-type]
        for row, task_id in enumerate(episode.task_ids):
            amplitude, phase = source.task(split, int(task_id.split(":")[1]))  # type: ignore[arg-type]
            for batch in (episode.support, episode.query):
                expected = amplitude * np.sin(batch.inputs["x"][row].numpy().astype(float) - phase)
                np.testing.assert_allclose(batch.targets[row].numpy(), expected, atol=1e-5)


def test_sinusoid_ranges_are_the_published_ones() -> None:
    source = SinusoidTasks()
    drawn = np.array([source.task("train", task) for task in range(500)])
    for column, (low, high) in enumerate(((0.1, 5.0), (0.0, np.pi))):
        assert low <= drawn[:, column].min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < drawn[:, column].max() <= high
    x = source.episodes("train", range(50)).support.inputs["x"]
    assert x.shape == (50, 10, 1)
    assert -5 <= float(x.min()) < -4.9
    assert 4.9 < float(x.max()) <= 5


def test_sinusoid_query_sets_do_not_depend_on_the_number_of_shots() -> None:
    five, ten = SinusoidTasks(k_shot=5).episodes("test", [0]), SinusoidTasks(k_shot=10).episodes("test", [0])
    assert torch.equal(five.query.targets, ten.query.targets)


def test_sinusoid_pools_are_nested() -> None:
    small, large = (SinusoidTasks(n_train_tasks=n).describe()["pools"]["train"] for n in (5, 9))
    assert small == large[:5]
    assert len({tuple(task) for task in large}) == 9


def test_quadratic_targets_are_the_centre() -> None:
    source = QuadraticTasks(dimension=3, spread=2.0, k_shot=2, n_query=4, n_train_tasks=5)
    episode = source.episodes("train", range(5))
    assert episode.support.targets.shape == (5, 2, 3)
    assert episode.query.targets.shape == (5, 4, 3)
    for row, task_id in enumerate(episode.task_ids):
        centre = torch.from_numpy(np.array(source.task("train", int(task_id.split(":")[1])))).float()
        assert torch.equal(episode.support.targets[row], centre.expand(2, 3))
        assert torch.equal(episode.query.targets[row], centre.expand(4, 3))


def test_quadratic_spread_and_noise_are_standard_deviations() -> None:
    source = QuadraticTasks(dimension=50, spread=3.0, noise=0.5, k_shot=40)
    targets = source.episodes("train", range(60)).support.targets
    assert float(targets.mean(1).std()) == pytest.approx(3.0, rel=0.05)
    assert float(targets.std(1).mean()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("source", "name"), [(SinusoidTasks, "sinusoid"), (QuadraticTasks, "quadratic")])
def test_bad_settings_and_indices_are_refused(source: type, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: k_shot must be at least 1, not 0"):
        source(k_shot=0)
    with pytest.raises(InputError, match="n_train_tasks must be at least 1"):
        source(n_train_tasks=0)
    with pytest.raises(InputError, match=f"{name}: there is no test task 7; the split has 7"):
        source(n_test_tasks=7).episodes("test", [7])
    with pytest.raises(InputError, match="no train task -1"):
        source().episodes("train", [-1])


def test_quadratic_deviations_may_not_be_negative() -> None:
    with pytest.raises(InputError, match="noise must be 0 or larger"):
        QuadraticTasks(noise=-0.1)
