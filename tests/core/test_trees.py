"""Arithmetic on parameter dictionaries, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from metascale.core import trees
from metascale.core.types import Params


def params(*numbers: float) -> Params:
    return {"w": torch.tensor([[numbers[0], numbers[1]]]), "b": torch.tensor([numbers[2]])}


X, Y = params(1.0, 2.0, 3.0), params(10.0, -1.0, 0.5)


def same(found: Params, expected: Params) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], value) for name, value in expected.items())


def test_arithmetic_by_hand() -> None:
    assert same(trees.add(X, Y), params(11.0, 1.0, 3.5))
    assert same(trees.add(X, Y, -2.0), params(-19.0, 4.0, 2.0))
    assert same(trees.subtract(X, Y), params(-9.0, 3.0, 2.5))
    assert same(trees.scale(X, -0.5), params(-0.5, -1.0, -1.5))
    assert same(trees.zeros_like(X), params(0.0, 0.0, 0.0))
    assert float(trees.dot(X, Y)) == 10.0 - 2.0 + 1.5
    assert float(trees.norm(X)) == pytest.approx(math.sqrt(14))
    assert trees.dot(X, Y).shape == trees.norm(X).shape == ()
    assert trees.n_elements(X) == 3
    assert same(trees.tree_map(lambda a, b, c: a * b + c, X, Y, X), params(11.0, 0.0, 4.5))


def test_arguments_are_left_alone() -> None:
    x, y = params(1.0, 2.0, 3.0), params(10.0, -1.0, 0.5)
    for call in (trees.add, trees.subtract, trees.dot):
        call(x, y)
    trees.scale(x, 5.0)
    trees.require_grad(x)
    assert same(x, X)
    assert same(y, Y)
    assert not any(value.requires_grad for value in x.values())


def test_the_order_of_the_first_argument_is_kept_and_names_are_matched() -> None:
    turned = {"b": Y["b"], "w": Y["w"]}
    assert same(trees.add(X, turned), params(11.0, 1.0, 3.5))
    assert list(trees.add(turned, X)) == ["b", "w"]
    assert float(trees.dot(X, turned)) == float(trees.dot(X, Y))
    with pytest.raises(KeyError, match="b"):
        trees.add(X, {"w": Y["w"]})


def test_tasks_are_stacked_without_a_copy_and_averaged() -> None:
    stacked = trees.stack_tasks(X, 3)
    assert stacked["w"].shape == (3, 1, 2)
    assert stacked["w"].data_ptr() == X["w"].data_ptr(), "a view, not a copy"
    assert same(trees.mean_tasks(stacked), X)
    joined = trees.concat_tasks([trees.stack_tasks(X, 1), trees.stack_tasks(Y, 3)])
    assert joined["b"].tolist() == [[3.0], [0.5], [0.5], [0.5]]
    assert trees.mean_tasks(joined)["b"].tolist() == [1.125]


def test_history() -> None:
    leaves = trees.require_grad(X)
    assert all(value.requires_grad and value.is_leaf for value in leaves.values())
    scaled = trees.scale(leaves, 3.0)
    (slope,) = torch.autograd.grad(trees.dot(scaled, scaled), [leaves["b"]])
    assert slope.tolist() == [2 * 9 * 3.0]
    assert not any(value.requires_grad for value in trees.detach(scaled).values())
    again = trees.require_grad(scaled)
    assert all(value.is_leaf for value in again.values())


def test_types_move_and_values_stay() -> None:
    moved = trees.to(X, dtype=torch.float64)
    assert all(value.dtype == torch.float64 for value in moved.values())
    assert same(trees.to(moved, device="cpu", dtype=torch.float32), X)
    assert same(trees.to(X), X)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found(bad: float) -> None:
    assert trees.is_finite(X)
    assert not trees.is_finite(params(1.0, 2.0, bad))
    assert not trees.is_finite(params(1.0, bad, 2.0))
