"""SAMA's adaptation: closed forms against automatic differentiation of the update, the rest against differences."""

from __future__ import annotations

import pytest
import torch

from metascale.bilevel.adaptation import LastStep, adaptation, closed_form
from metascale.bilevel.updates import clipped, update_in_turn
from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.precondition import step_vjp
from metascale.training.optimizers import (
    LAMB,
    SGD,
    Adagrad,
    Adam,
    Lion,
    Muon,
    Optimizer,
    OptimizerState,
    RMSprop,
    clip_norm,
)

CLOSED: list[Optimizer] = [
    SGD(0.3),
    SGD(0.3, weight_decay=0.2),
    SGD(0.3, momentum=0.9),
    SGD(0.3, momentum=0.9, nesterov=True),
    Adam(0.1, eps=1e-3),
    Adam(0.1, beta1=0.0, weight_decay=0.3),
    RMSprop(0.1, eps=1e-4),
    RMSprop(0.1, momentum=0.9),
    Adagrad(0.1, lr_decay=0.2, eps=1e-4),
]
GENERAL: list[Optimizer] = [LAMB(0.1, weight_decay=0.1), Muon(0.1, other=Adam(0.05)), Lion(0.1, softness=0.5)]


def draw(seed: int, scale: float = 1.0) -> Params:
    g = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (4, 3), "vector": (5,)}
    return {n: scale * torch.randn(*shape, generator=g, dtype=torch.float64) for n, shape in shapes.items()}


def after_steps(optimizer: Optimizer, steps: int) -> tuple[Params, OptimizerState]:
    params, state = draw(0), optimizer.init(draw(0))
    for step in range(steps):
        params, state = optimizer.update(params, draw(10 + step), state)
    return params, state


def last_step(optimizer: Optimizer, steps: int, g: Params, max_norm: float | None = None) -> LastStep:
    params, before = after_steps(optimizer, steps)
    given, norm = clipped(g, max_norm)
    _, after = optimizer.update(params, given, before)
    return LastStep(given, after, params, before, norm, max_norm)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("optimizer", CLOSED, ids=repr)
def test_closed_forms_equal_automatic_differentiation_of_the_update(optimizer: Optimizer, steps: int) -> None:
    assert closed_form(optimizer)
    g, w = draw(50), draw(60)
    last = last_step(optimizer, steps, g)
    params, before = after_steps(optimizer, steps)
    truth = step_vjp(lambda d: optimizer.update(params, d, before)[0], g, w)
    found = adaptation(optimizer, LastStep(last.grads, last.after))(w)
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14)
        assert float(value.abs().max()) > 0


@pytest.mark.parametrize("optimizer", [*CLOSED, *GENERAL], ids=repr)
def test_adaptation_is_the_derivative_of_the_step_by_differences(optimizer: Optimizer) -> None:
    g, w = draw(50), draw(60)
    last = last_step(optimizer, 2, g)
    found = adaptation(optimizer, last)(w)
    params, before = after_steps(optimizer, 2)

    def along(moved: Params) -> float:
        stepped, _ = optimizer.update(params, moved, before)
        return -sum(float((stepped[name] * w[name]).sum()) for name in w)

    for name, index in (("matrix", (0, 0)), ("matrix", (3, 1)), ("vector", (2,))):
        ends = []
        for sign in (1, -1):
            moved = {n: v.clone() for n, v in g.items()}
            moved[name][index] += sign * 1e-6
            ends.append(along(moved))
        assert float(found[name][index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("optimizer", [SGD(0.3), Adam(0.1), LAMB(0.1)], ids=repr)
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_is_part_of_the_derivative(optimizer: Optimizer, max_norm: float) -> None:
    g, w = draw(50), draw(60)
    params, before = after_steps(optimizer, 2)
    truth = step_vjp(lambda d: optimizer.update(params, clip_norm(d, max_norm), before)[0], g, w)
    found = adaptation(optimizer, last_step(optimizer, 2, g, max_norm))(w)
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("optimizer", [Adam(0.1), RMSprop(0.1), Adagrad(0.1)], ids=repr)
def test_elements_that_never_had_a_gradient_have_no_derivative(optimizer: Optimizer) -> None:
    params = draw(0)
    zero = {name: torch.zeros_like(value) for name, value in params.items()}
    _, after = optimizer.update(params, zero, optimizer.init(params))
    found = adaptation(optimizer, LastStep(zero, after))(draw(60))
    assert all(float(value.abs().max()) == 0.0 for value in found.values())


def test_lion_is_refused_unless_it_is_soft() -> None:
    with pytest.raises(InputError, match="Lion's step is a sign, whose derivative is zero"):
        adaptation(Lion(0.1), last_step(Lion(0.1), 1, draw(50)))
    last = last_step(LAMB(0.1), 1, draw(50))
    adapt = adaptation(LAMB(0.1), LastStep(last.grads, last.after))
    with pytest.raises(InputError, match="the derivative of LAMB needs θ and its state from before the step"):
        adapt(draw(60))


@pytest.mark.parametrize("optimizer", [*CLOSED, *GENERAL], ids=repr)
def test_updating_in_turn_equals_updating_at_once_and_lets_go_of_the_old(optimizer: Optimizer) -> None:
    params, state = after_steps(optimizer, 3)
    g = draw(50)
    expected, expected_state = optimizer.update(params, g, state)
    seen: list[str] = []
    own = {slot: dict(values) for slot, values in state.items()}
    given, grads = dict(params), dict(g)
    found, after = update_in_turn(optimizer, given, grads, own, lambda tensors: seen.extend(tensors))
    assert not given
    assert not grads
    assert seen == list(params)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert set(after) == set(expected_state)
    for slot, values in expected_state.items():
        assert set(after[slot]) == set(values)
        torch.testing.assert_close(after[slot], values, rtol=1e-13, atol=1e-13)
