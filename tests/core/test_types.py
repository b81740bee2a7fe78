"""Batches and episodes: slices, joins and moves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metascale.core.types import Batch, Episode, Model, TaskSource
from metascale.models.perceptron import Perceptron
from metascale.tasks.regression import QuadraticTasks


def text_batch(n_tasks: int = 3, n_examples: int = 4, length: int = 5, first: int = 1) -> Batch:
    n = n_tasks * n_examples
    ids = torch.arange(first, first + n * length).reshape(n_tasks, n_examples, length)
    targets = torch.arange(first, first + n).reshape(n_tasks, n_examples)
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets)


def same(found: Batch, expected: Batch) -> bool:
    names = list(found.inputs) == list(expected.inputs)
    inputs = all(torch.equal(found.inputs[name], value) for name, value in expected.inputs.items())
    return names and inputs and torch.equal(found.targets, expected.targets)


def test_sizes_come_from_the_targets() -> None:
    batch = text_batch()
    assert (batch.n_tasks, batch.n_examples) == (3, 4)
    assert type(batch.n_tasks) is int


def test_map_reaches_every_tensor_and_returns_a_new_batch() -> None:
    batch = text_batch()
    doubled = batch.map(lambda value: value * 2)
    assert torch.equal(doubled.inputs["input_ids"], batch.inputs["input_ids"] * 2)
    assert torch.equal(doubled.inputs["attention_mask"], batch.inputs["attention_mask"] * 2)
    assert torch.equal(doubled.targets, batch.targets * 2)
    assert same(batch, text_batch())
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.targets = doubled.targets  # type: ignore[misc]


def test_slices_of_tasks_and_examples() -> None:
    batch = text_batch()
    part = batch.tasks(1, 3)
    assert torch.equal(part.inputs["input_ids"], batch.inputs["input_ids"][1:3])
    assert torch.equal(part.targets, batch.targets[1:3])
    part = batch.examples(1, 2)
    assert torch.equal(part.inputs["input_ids"], batch.inputs["input_ids"][:, 1:2])
    assert torch.equal(part.targets, batch.targets[:, 1:2])


@pytest.mark.parametrize(("first", "second"), [(5, 5), (5, 8), (8, 5)])
def test_concat_joins_examples_and_pads_sequences_with_masked_zeros(first: int, second: int) -> None:
    left, right = text_batch(length=first), text_batch(n_examples=2, length=second, first=500)
    joined = left.concat(right)
    longest = max(first, second)
    assert joined.inputs["input_ids"].shape == (3, 6, longest)
    assert torch.equal(joined.targets, torch.cat([left.targets, right.targets], dim=1))
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(joined.inputs[name][:, :4, :first], left.inputs[name])
        assert torch.equal(joined.inputs[name][:, 4:, :second], right.inputs[name])
    mask = joined.inputs["attention_mask"]
    assert mask.sum().item() == 3 * (4 * first + 2 * second), "what was added is masked"
    assert not joined.inputs["input_ids"][mask == 0].any()


def test_concat_of_images_and_regression_targets() -> None:
    left = Batch({"x": torch.zeros(2, 3, 1, 8, 8)}, torch.zeros(2, 3, 1))
    right = Batch({"x": torch.ones(2, 1, 1, 8, 8)}, torch.ones(2, 1, 1))
    joined = left.concat(right)
    assert joined.inputs["x"].shape == (2, 4, 1, 8, 8)
    assert joined.targets.tolist() == [[[0.0], [0.0], [0.0], [1.0]]] * 2


def test_cut_and_joined_is_whole() -> None:
    batch = text_batch()
    assert same(batch.examples(0, 1).concat(batch.examples(1, 4)), batch)


def test_a_type_moves_floating_point_tensors_only() -> None:
    batch = Batch({"x": torch.zeros(2, 3, 1), "ids": torch.zeros(2, 3, dtype=torch.long)}, torch.ones(2, 3).long())
    moved = batch.to("cpu", torch.float64)
    assert moved.inputs["x"].dtype == torch.float64
    assert moved.inputs["ids"].dtype == moved.targets.dtype == torch.long
    assert Batch({}, torch.ones(2, 3)).to(dtype=torch.float16).targets.dtype == torch.float16
    assert same(batch.to(), batch)


def test_an_episode_is_cut_by_tasks_together_with_its_names() -> None:
    episode = Episode(("a", "b", "c"), text_batch(), text_batch(n_examples=2, first=100))
    part = episode.tasks(1, 3)
    assert part.task_ids == ("b", "c")
    assert part.n_tasks == 2
    assert same(part.support, episode.support.tasks(1, 3))
    assert same(part.query, episode.query.tasks(1, 3))
    moved = Episode(("a",), Batch({}, torch.ones(1, 2)), Batch({}, torch.ones(1, 2))).to("cpu", torch.float64)
    assert moved.support.targets.dtype == moved.query.targets.dtype == torch.float64


def test_protocols_can_be_asked_for() -> None:
    source: Any = QuadraticTasks()
    model: Any = Perceptron(4, 2)
    assert isinstance(source, TaskSource)
    assert isinstance(model, Model)
    assert not isinstance(model, TaskSource)
    assert not isinstance(source, Model)
