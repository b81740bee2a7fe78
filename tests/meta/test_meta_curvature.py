"""Meta-Curvature: mode products against explicit Kronecker matrices, and the inner step of the published equation."""

from __future__ import annotations

from functools import reduce

import pytest
import torch

from metascale.core.trees import dot, stack_tasks, to
from metascale.meta.gradients import FOMAML, MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.meta_curvature import identities, modes_of, turned
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (3, 2, 5)])
def test_modes_are_a_kronecker_product(shape: tuple[int, ...]) -> None:
    gradient = drawn(2, *shape)
    matrices = [drawn(2, size, size, seed=place) for place, size in enumerate(modes_of(shape))]
    found = turned(gradient, matrices)
    for task in range(2):
        whole = reduce(torch.kron, [matrix[task] for matrix in matrices])
        torch.testing.assert_close(found[task].flatten(), whole @ gradient[task].flatten())


def test_it_starts_as_plain_descent() -> None:
    for shape in ((4, 3, 2, 2), (4, 3), (4,), ()):
        value = drawn(*shape)
        matrices = [matrix.unsqueeze(0) for matrix in identities(value)]
        torch.testing.assert_close(turned(value.unsqueeze(0), matrices)[0], value, rtol=0, atol=0)


def test_the_inner_step_is_the_published_one() -> None:
    """For a linear map [in, out] G ×₁ M₁ ×₂ M₂ = M₁ G M₂ᵀ."""
    model, episode = Perceptron(5, 3, width=4, depth=1, activation="tanh"), class_episode(2, (5,))
    inner = InnerLoop(SGD(0.3), 1, learn_rates=True, rates_by="mode")
    theta = inner.init(to(model.init(0), dtype=torch.float64))
    assert {name for name in theta if name.startswith("rate/head")} == {
        "rate/head.weight/mode0",
        "rate/head.weight/mode1",
        "rate/head.bias/mode0",
    }
    left, right = drawn(4, 4), drawn(3, 3)
    theta |= {"rate/head.weight/mode0": left, "rate/head.weight/mode1": right, "rate/head.bias/mode0": drawn(3)}
    _, state = inner.iterate(model, stack_tasks(theta, 2), episode.support)
    assert state.gradient is not None
    expected = theta["head.weight"] - 0.3 * left @ state.gradient["head.weight"] @ right.T
    torch.testing.assert_close(state.params["head.weight"], expected)
    expected = theta["head.bias"] - 0.3 * theta["rate/head.bias/mode0"] * state.gradient["head.bias"]
    torch.testing.assert_close(state.params["head.bias"], expected)


def test_of_convolutions_its_gradient_is_the_slope() -> None:
    model, episode = ConvNet(3, image_size=8, width=4, depth=2), class_episode(2, (1, 8, 8))
    inner = InnerLoop(SGD(0.1), 2, learn_rates=True, rates_by="mode")
    theta = inner.init(to(model.init(0), dtype=torch.float64))
    found, _ = MAML(inner)(model, theta, episode, None)
    way = {name: drawn(*value.shape) for name, value in theta.items() if name.startswith("rate/")}

    def loss(step: float) -> float:
        moved = {**theta, **{name: theta[name] + step * value for name, value in way.items()}}
        *_, last = inner.iterate(model, stack_tasks(moved, 2), episode.support)
        return float(model.losses(last.params, episode.query).mean())

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert float(dot({name: found[name] for name in way}, way)) == pytest.approx(slope, rel=1e-5)


def test_at_first_order_and_one_step_it_is_exact_for_the_matrices() -> None:
    """The gradient for the last step's matrices has no second derivative in it."""
    model, episode = Perceptron(5, 3, width=4, depth=1), class_episode(2, (5,))
    inner = InnerLoop(SGD(0.3), 1, learn_rates=True, rates_by="mode")
    theta = inner.init(to(model.init(0), dtype=torch.float64))
    exact, first = (kind(inner)(model, theta, episode, None)[0] for kind in (MAML, FOMAML))
    for name in theta:
        same = torch.allclose(exact[name], first[name], rtol=1e-10, atol=1e-14)
        assert same == name.startswith("rate/"), name
