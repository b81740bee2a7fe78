"""Functional optimisers against torch.optim, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from metascale.training.optimizers import SGD, Adam, Optimizer, clip_norm, clip_norm_per_task

PAIRS = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        SGD(0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    "adamw": (Adam(0.05, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_five_steps_equal_torch_optim(name: str) -> None:
    ours, theirs = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    leaf = start.clone().requires_grad_(True)
    reference = theirs([leaf])
    params, state = {"w": start.clone()}, ours.init({"w": start})
    for _ in range(5):
        grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        leaf.grad = grad.clone()
        reference.step()
        params, state = ours.update(params, {"w": grad}, state)
    torch.testing.assert_close(params["w"], leaf.detach(), rtol=1e-12, atol=1e-12)


def test_sgd_weight_decay_is_decoupled_from_momentum() -> None:
    params, state = {"w": torch.ones(1)}, {}
    params, _ = SGD(0.1, weight_decay=0.5).update(params, {"w": torch.zeros(1)}, state)
    assert float(params["w"]) == pytest.approx(0.95)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.1)], ids=["momentum", "adam"])
def test_updates_are_differentiable(optimizer: Optimizer) -> None:
    def two_steps(grad: torch.Tensor) -> torch.Tensor:
        params, state = {"w": torch.ones(3, dtype=torch.float64)}, optimizer.init({"w": grad})
        for scale in (1.0, -0.5):
            params, state = optimizer.update(params, {"w": scale * grad}, state)
        return params["w"]

    grad = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(two_steps, (grad,))


def test_rates_scale_the_step_element_by_element() -> None:
    rates = {"w": torch.tensor([0.0, 2.0])}
    params, _ = SGD(0.1).update({"w": torch.zeros(2)}, {"w": torch.ones(2)}, {}, rates)
    torch.testing.assert_close(params["w"], torch.tensor([0.0, -0.2]))


@pytest.mark.parametrize(("clip", "expected"), [(clip_norm, [0.6, 0.8]), (clip_norm_per_task, [1.0, 1.0])])
def test_clipping(clip: Callable, expected: list[float]) -> None:
    grads = {"w": torch.tensor([[3.0], [4.0]])}
    torch.testing.assert_close(clip(grads, 1.0)["w"].flatten(), torch.tensor(expected))
    small = {"w": torch.tensor([[0.03], [0.04]])}
    torch.testing.assert_close(clip(small, 1.0)["w"], small["w"])


def test_clipping_per_task_takes_scalar_parameters_into_the_norm() -> None:
    """A scalar parameter stacks to [T]; task 0 has norm 5, task 1 has norm 0.5."""
    grads = {"w": torch.tensor([[3.0], [0.3]]), "temperature": torch.tensor([4.0, 0.4])}
    clipped = clip_norm_per_task(grads, 1.0)
    torch.testing.assert_close(clipped["temperature"], torch.tensor([0.8, 0.4]))
    torch.testing.assert_close(clipped["w"], torch.tensor([[0.6], [0.3]]))


def test_each_task_is_clipped_to_its_own_norm() -> None:
    """Task 0 has norm 5 over both tensors (3, 4 in a matrix and 0), task 1 has 1: to 2, the first becomes 2 / 5 of
    itself and the second stays; clipped together both are scaled by 2 / sqrt(26)."""
    grads = {"w": torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[0.0, 0.6], [0.0, 0.0]]]), "b": torch.tensor([0.0, 0.8])}
    apart, together = clip_norm_per_task(grads, 2.0), clip_norm(grads, 2.0)
    torch.testing.assert_close(apart["w"][0], grads["w"][0] * 0.4)
    torch.testing.assert_close((apart["w"][1], apart["b"]), (grads["w"][1], grads["b"]))
    torch.testing.assert_close(together["w"], grads["w"] * (2 / 26**0.5))
    torch.testing.assert_close(clip_norm(grads, 6.0), grads)
