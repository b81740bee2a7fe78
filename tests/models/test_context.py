"""CAVIA's context: the contract, what moves in which loop, and the meta-gradient."""

from __future__ import annotations

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, stack_tasks, to
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import MAML
from metascale.meta.inner import InnerLoop
from metascale.models.context import WithContext
from metascale.models.perceptron import Perceptron
from metascale.testing.model_contract import check_model
from metascale.training.optimizers import SGD
from tests.models.test_small_models import regression_batches

MODEL = WithContext(Perceptron(2 + 3, 1, width=6, depth=1, activation="tanh", loss="squared_error"), 3)
INNER = InnerLoop(SGD(0.3), 2, adapt=("context",))
BATCHES = regression_batches(2, 1)


def episode() -> Episode:
    return Episode(("a", "b"), to_double(BATCHES(2, 6, 0)), to_double(BATCHES(2, 9, 1)))


def to_double(batch: Batch) -> Batch:
    return batch.map(torch.Tensor.double)


def test_it_keeps_the_contract() -> None:
    check_model(MODEL, BATCHES, dtype=torch.float64, smooth=True)
    with pytest.raises(InputError, match="a context has at least one number, not 0"):
        WithContext(MODEL.model, 0)


def test_a_head_made_from_the_support_set_reads_the_context_too() -> None:
    model = WithContext(Perceptron(2 + 3, 2, width=6, depth=1, head="prototype"), 3)
    batch = Batch({"x": BATCHES(2, 4, 0).inputs["x"]}, torch.tensor([[0, 1, 1, 0]] * 2))
    params = stack_tasks(model.init(0), 2)
    begun = model.begin(params, batch)
    means = torch.stack([model.features(params, batch)[:, rows].mean(1) for rows in ([0, 3], [1, 2])], 2)
    torch.testing.assert_close(begun["head.weight"], 2 * means)


def test_a_context_of_zeros_is_the_network_without_it_and_a_step_is_by_hand() -> None:
    """The slope in the context of one linear layer under tanh is the chain rule, written out."""
    theta, drawn = to(MODEL.init(0), dtype=torch.float64), episode()
    stacked = stack_tasks(theta, 2)
    states = list(INNER.iterate(MODEL, stacked, drawn.support, steps=1))
    weight, bias = theta["layer0.weight"], theta["layer0.bias"]
    x, y = drawn.support.inputs["x"], drawn.support.targets
    hidden = torch.tanh(x @ weight[:2] + bias)
    out = hidden @ theta["head.weight"] + theta["head.bias"]
    torch.testing.assert_close(MODEL.predict(states[0].params, drawn.support), out)
    through = (2 * (out - y) / 6) @ theta["head.weight"].T * (1 - hidden**2)
    slope = (through @ weight[2:].T).sum(1)
    torch.testing.assert_close(states[1].params["context"], -0.3 * slope)
    assert all(torch.equal(states[1].params[name], value) for name, value in stacked.items())


def test_the_meta_gradient_is_the_slope_of_the_adapted_query_loss() -> None:
    theta, drawn = to(MODEL.init(0), dtype=torch.float64), episode()
    found, _ = MAML(INNER)(MODEL, theta, drawn, key=None)
    assert found.keys() == theta.keys()
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}

    def loss(step: float) -> float:
        moved = stack_tasks({name: value + step * direction[name] for name, value in theta.items()}, 2)
        *_, last = INNER.iterate(MODEL, moved, drawn.support)
        return float(MODEL.losses(last.params, drawn.query).mean())

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert float(dot(found, direction)) == pytest.approx(slope, rel=2e-6, abs=1e-9)
