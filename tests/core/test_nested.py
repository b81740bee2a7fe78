"""Inputs of any nesting, and episodes from tensors at hand."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.nested import batch, episode, flatten, unflatten

A, B, C = torch.zeros(2, 3), torch.ones(2), torch.full((2, 1), 2.0)


@pytest.mark.parametrize(
    ("value", "names", "back"),
    [
        (A, ["x"], {"x": A}),
        ((A, B), ["0", "1"], {"0": A, "1": B}),
        ({"left": A, "right": B}, ["left", "right"], {"left": A, "right": B}),
        (UserDict({"input_ids": A}), ["input_ids"], {"input_ids": A}),
        ({"pair": (A, [B, C])}, ["pair.0", "pair.1.0", "pair.1.1"], {"pair": (A, (B, C))}),
        ([A, {"mask": B}], ["0", "1.mask"], {"0": A, "1": {"mask": B}}),
    ],
)
def test_nested_inputs_have_names_and_come_back(value: Any, names: list[str], back: Any) -> None:
    flat = flatten(value)
    assert list(flat) == names
    assert unflatten(flat) == back


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": 3}}, "not int at 'a.b'"),
        ("text", "not str"),
        ({"a.b": A}, "may not be called 'a.b'"),
        ({"0": A}, "may not be called '0'"),
        ((), "at least one tensor"),
    ],
)
def test_other_inputs_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flatten(value)


def test_an_episode_stacks_the_tasks() -> None:
    labels = torch.tensor([0, 1])
    tasks = [(((A + task, B), labels), ((A - task, B), labels)) for task in range(3)]
    found = episode(tasks)
    assert found.task_ids == ("0", "1", "2")
    assert torch.equal(found.support.inputs["0"], torch.stack([A, A + 1, A + 2]))
    assert torch.equal(found.query.inputs["0"][2], A - 2)
    assert found.query.targets.shape == (3, 2)
    assert episode(tasks, ["a", "b", "c"]).task_ids == ("a", "b", "c")


def test_tasks_of_different_shapes_are_refused_with_both() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"task 1 has 'x' \[2, 4\], task 0 has 'x' \[2, 3\], 'targets' \[2\]"):
        batch([(A, labels), (torch.zeros(2, 4), labels)])
    with pytest.raises(InputError, match="the same names"):
        batch([(A, labels), ({"other": A}, labels)])
    with pytest.raises(InputError, match="has 2 targets but 3 examples in 'x'"):
        batch([(torch.zeros(3, 1), labels)])
    with pytest.raises(InputError, match="at least one task"):
        batch([])
