"""The further optimisers against torch.optim and their papers' formulas, and taking over a torch optimiser midway."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.training.optimizers import LAMB, Adagrad, Adam, Lion, Muon, orthogonalise
from metascale.training.torch_optimizers import from_torch

Make = Callable[[nn.Module], torch.optim.Optimizer]
MAKES: dict[str, Make] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), 0.1),
    "sgd-decay": lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=0.3),
    "momentum": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.8),
    "nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.8, nesterov=True),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 0.05, betas=(0.8, 0.95), eps=0.01),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 0.05, weight_decay=0.2),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.02, alpha=0.9),
    "rmsprop-momentum": lambda m: torch.optim.RMSprop(m.parameters(), 0.02, momentum=0.7),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.1, lr_decay=0.1, initial_accumulator_value=0.2),
}


def module(bias: bool = True) -> nn.Module:
    layer = nn.Linear(4, 3, bias=bias).double()
    with torch.no_grad():
        for index, value in enumerate(layer.parameters()):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64))
    return layer


def gradient(layer: nn.Module, step: int) -> Params:
    return {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(100 * step + index), dtype=torch.float64)
        for index, (name, value) in enumerate(layer.named_parameters())
    }


def walk(layer: nn.Module, theirs: torch.optim.Optimizer, steps: range) -> Params:
    for step in steps:
        for name, value in layer.named_parameters():
            value.grad = gradient(layer, step)[name]
        theirs.step()
    return {name: value.detach().clone() for name, value in layer.named_parameters()}


@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("name", MAKES)
def test_our_update_is_that_of_torch_from_the_start_and_taken_over_midway(name: str, taken: int) -> None:
    layer = module()
    theirs = MAKES[name](layer)
    params = walk(layer, theirs, range(taken))
    ours, state = from_torch(theirs, layer)
    for step in range(taken, taken + 4):
        params, state = ours.update(params, gradient(layer, step), state)
    expected = walk(layer, theirs, range(taken, taken + 4))
    for key, value in expected.items():
        torch.testing.assert_close(params[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("scaling", [None, "match_rms_adamw"])
def test_muon_is_that_of_torch_up_to_its_bfloat16_iteration(scaling: str | None) -> None:
    layer = module(bias=False)
    theirs = torch.optim.Muon(layer.parameters(), 0.05, adjust_lr_fn=scaling)
    params = walk(layer, theirs, range(0))
    ours, state = from_torch(theirs, layer)
    for step in range(3):
        params, state = ours.update(params, gradient(layer, step), state)
    expected = walk(layer, theirs, range(3))["weight"]
    # Newton–Schulz in bfloat16 is right to about a hundredth of the step.
    torch.testing.assert_close(params["weight"], expected, rtol=0, atol=0.01)
    start = module(bias=False).get_parameter("weight").detach()
    assert float((params["weight"] - start).abs().max()) > 0.03


def test_muon_pushes_singular_values_towards_one_and_leaves_vectors_to_the_other() -> None:
    wide = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for matrix in (wide, wide.T):
        values = torch.linalg.svdvals(orthogonalise(matrix, 5))
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    layer = module()
    params = {name: value.detach() for name, value in layer.named_parameters()}
    muon, other = Muon(0.1, other=Adam(0.01)), Adam(0.01)
    state, plain = muon.init(params), other.init({"bias": params["bias"]})
    for step in range(3):
        grads = gradient(layer, step)
        stepped, plain = other.update({"bias": params["bias"]}, {"bias": grads["bias"]}, plain)
        params, state = muon.update(params, grads, state)
        assert torch.equal(params["bias"], stepped["bias"])
    assert list(params) == ["weight", "bias"]


def test_lamb_scales_adams_direction_to_the_norm_of_the_parameters() -> None:
    layer = module()
    params = {name: value.detach() for name, value in layer.named_parameters()}
    lamb, adam = LAMB(0.1, eps=1e-6), Adam(1.0, eps=1e-6)
    zero = {name: torch.zeros_like(value) for name, value in params.items()}
    state, adam_state = lamb.init(params), adam.init(params)
    for step in range(3):
        grads = gradient(layer, step)
        direction, adam_state = adam.update(zero, grads, adam_state)
        after, state = lamb.update(params, grads, state)
        for name, value in params.items():
            move = after[name] - value
            expected = 0.1 * value.norm() * direction[name] / direction[name].norm()
            torch.testing.assert_close(move, expected, rtol=1e-10, atol=1e-12)
        params = after


def test_lion_steps_by_the_sign_of_its_interpolation() -> None:
    params = {"w": torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)}
    lion, g = Lion(0.1, 0.9, 0.99, weight_decay=0.5), {"w": torch.tensor([0.2, -0.3, 0.0], dtype=torch.float64)}
    after, state = lion.update(params, g, lion.init(params))
    torch.testing.assert_close(after["w"], params["w"] - 0.1 * (g["w"].sign() + 0.5 * params["w"]))
    torch.testing.assert_close(state["m"]["w"], 0.01 * g["w"])
    against = {"w": torch.tensor([-0.01, 0.0, 0.0], dtype=torch.float64)}
    again, _ = Lion(0.1).update(params, against, state)
    c = 0.9 * state["m"]["w"] + 0.1 * against["w"]
    torch.testing.assert_close(again["w"], params["w"] - 0.1 * c.sign())
    assert float(c[0]) > 0


def test_soft_lion_approaches_lion() -> None:
    params = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    g = {"w": torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)}
    hard, _ = Lion(0.1).update(params, g, Lion(0.1).init(params))
    soft, _ = Lion(0.1, softness=1e-6).update(params, g, Lion(0.1).init(params))
    torch.testing.assert_close(soft["w"], hard["w"], rtol=0, atol=1e-6)


def test_zero_gradients_leave_parameters_and_derivatives_finite() -> None:
    for optimizer in (Adagrad(0.1), LAMB(0.1), Muon(0.1, weight_decay=0.0), Lion(0.1, softness=0.1)):
        params = {"w": torch.ones(3, 3, dtype=torch.float64)}
        g = {"w": torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)}
        after, _ = optimizer.update(params, g, optimizer.init(params))
        torch.testing.assert_close(after["w"], params["w"])
        (slope,) = torch.autograd.grad(after["w"].sum(), g["w"])
        assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: torch.optim.NAdam(m.parameters()),
            "torch.optim.NAdam has no counterpart here; allowed are SGD, Adam",
        ),
        (lambda m: torch.optim.Adam(m.parameters(), weight_decay=0.1), "weight_decay=0.1 has no counterpart"),
        (lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), "amsgrad=True has no counterpart"),
        (lambda m: torch.optim.RMSprop(m.parameters(), centered=True), "centered=True has no counterpart"),
        (
            lambda m: torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.1),
            "SGD with momentum with weight_decay=0.1 has no counterpart",
        ),
        (
            lambda m: torch.optim.Adam([{"params": [m.weight], "lr": 0.1}, {"params": [m.bias], "lr": 0.2}]),
            "the parameter groups of torch.optim.Adam differ",
        ),
        (lambda m: torch.optim.Adam([m.weight]), "must hold exactly the module's parameters"),
    ],
)
def test_what_has_no_counterpart_is_refused(make: Make, message: str) -> None:
    layer = module()
    with pytest.raises(InputError, match=re.escape(message)):
        from_torch(make(layer), layer)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_an_optimiser_that_maximises_is_refused(kind: str) -> None:
    """higher 0.2.1 passes it over, and descends."""
    layer = module()
    with pytest.raises(InputError, match=rf"{kind} with maximize=True has no counterpart"):
        from_torch(getattr(torch.optim, kind)(layer.parameters(), 0.1, maximize=True), layer)
