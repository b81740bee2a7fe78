"""MAML++: weights of the steps by hand, closed forms on quadratics, finite differences, rates of single steps."""

from __future__ import annotations

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, stack_tasks, to
from metascale.meta.gradients import FOMAML, MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.multi_step import MultiStepMAML
from metascale.models.perceptron import Perceptron
from metascale.testing.subjects import QuadraticModel
from metascale.training.optimizers import SGD, Adam
from tests.meta.episodes import class_episode, quadratic_episode

RATE, STEPS = 0.3, 4
MODEL = Perceptron(5, 3, width=7, depth=1, activation="tanh")


def test_weights_move_from_equal_to_the_last_step() -> None:
    maml = MultiStepMAML(InnerLoop(SGD(RATE), STEPS), multi_step=10)
    assert maml.at(0).weights == (0.25, 0.25, 0.25, 0.25)
    assert maml.at(4).weights == pytest.approx((0.15, 0.15, 0.15, 0.55))
    assert maml.at(9).weights == pytest.approx((0.025, 0.025, 0.025, 0.925))
    assert MultiStepMAML(maml.inner, multi_step=100).at(99).weights[0] == pytest.approx(0.03 / 4)
    assert maml.at(10).weights == (0, 0, 0, 1)


@pytest.mark.parametrize(("first_order", "power"), [(0, 2), (10, 1)])
def test_closed_form_on_quadratics(first_order: int, power: int) -> None:
    """After k steps φ_k − c = (1 − a)^k (θ − c), so step k gives (1 − a)^{2k}, or (1 − a)^k at first order."""
    model, episode = QuadraticModel(3), quadratic_episode(5, 3)
    theta = model.init(1)
    estimator = MultiStepMAML(InnerLoop(SGD(RATE), STEPS), multi_step=10, first_order=first_order, step=4)
    found, _ = estimator(model, theta, episode, key=0)
    factor = sum(w * (1 - RATE) ** (power * k) for k, w in enumerate(estimator.weights, 1))
    expected = factor * (theta["theta"] - episode.query.targets[:, 0].mean(0))
    torch.testing.assert_close(found["theta"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("inner", [InnerLoop(SGD(0.3), 3), InnerLoop(Adam(0.05), 3)], ids=["sgd", "adam"])
@pytest.mark.parametrize("by", [None, "element", "step"])
def test_the_gradient_is_the_slope_of_the_weighted_query_losses(inner: InnerLoop, by: str | None) -> None:
    inner = InnerLoop(inner.optimizer, 3, learn_rates=by is not None, rates_by=by or "element")  # type: ignore[arg-type]
    episode, estimator = class_episode(3, (5,)), MultiStepMAML(inner, multi_step=8, step=2)
    theta = inner.init(to(MODEL.init(0), dtype=torch.float64))
    found, _ = estimator(MODEL, theta, episode, key=0)
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}

    def loss(step: float) -> float:
        moved = stack_tasks({name: value + step * direction[name] for name, value in theta.items()}, 3)
        states = list(inner.iterate(MODEL, moved, episode.support))[1:]
        losses = [float(MODEL.losses(state.params, episode.query).mean()) for state in states]
        return sum(w * each for w, each in zip(estimator.weights, losses, strict=True))

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert float(dot(found, direction)) == pytest.approx(slope, rel=2e-6, abs=1e-9)


def test_without_its_schedules_it_is_maml_and_at_first_order_fomaml() -> None:
    inner, episode = InnerLoop(SGD(0.3), 3), class_episode(2, (5,))
    theta = to(MODEL.init(0), dtype=torch.float64)
    for estimator, other in (
        (MultiStepMAML(inner), MAML(inner)),
        (MultiStepMAML(inner, first_order=1), FOMAML(inner)),
    ):
        found, _ = estimator(MODEL, theta, episode, 0)
        expected, _ = other(MODEL, theta, episode, 0)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [MAML, FOMAML])
def test_rates_of_single_steps_in_closed_form(kind: type) -> None:
    """θ_K − c = Π(1 − a r_k)(θ − c): the slope in r_k is −a |θ − c|² Π² / (1 − a r_k), and at first order the step that
    was taken then, −a Π_{j<k}(1 − a r_j) (θ − c), times the query gradient Π (θ − c).
    """
    model, episode = QuadraticModel(3), quadratic_episode(1, 3)
    inner = InnerLoop(SGD(RATE), 3, learn_rates=True, rates_by="step")
    theta = inner.init(model.init(1))
    assert theta["rate/theta"].shape == (3,)
    rates = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    found, _ = kind(inner)(model, {**theta, "rate/theta": rates}, episode, 0)
    left = 1 - RATE * rates
    distance = (theta["theta"] - episode.query.targets[0, 0]).square().sum()
    exact = -RATE * distance * left.prod() ** 2 / left
    first = -RATE * distance * left.prod() * torch.tensor([1.0, left[0], left[0] * left[1]], dtype=torch.float64)
    torch.testing.assert_close(found["rate/theta"], exact if kind is MAML else first, rtol=1e-10, atol=1e-12)


def test_later_steps_take_the_last_rate() -> None:
    model, episode = QuadraticModel(3), quadratic_episode(1, 3)
    inner = InnerLoop(SGD(RATE), 2, learn_rates=True, rates_by="step")
    theta = {**inner.init(model.init(1)), "rate/theta": torch.tensor([1.0, 0.5], dtype=torch.float64)}
    *_, last = inner.iterate(model, stack_tasks(theta, 1), episode.support, steps=4)
    centre = episode.query.targets[0, 0]
    expected = centre + (1 - RATE) * (1 - 0.5 * RATE) ** 3 * (theta["theta"] - centre)
    torch.testing.assert_close(last.params["theta"][0], expected, rtol=1e-12, atol=1e-14)


def test_the_learner_names_the_outer_step() -> None:
    """The second outer step is second-order, the first is not."""
    model, episode = QuadraticModel(3), quadratic_episode(1, 3)
    learner = MetaLearner(MultiStepMAML(InnerLoop(SGD(RATE), STEPS), first_order=1), SGD(1.0))
    state = start = learner.init(model, 0)
    for _ in range(2):
        state, _ = learner.step(model, state, episode)
    centre = episode.query.targets[0, 0]
    left = (1 - (1 - RATE) ** STEPS) * (1 - (1 - RATE) ** (2 * STEPS))
    expected = centre + left * (start.params["theta"] - centre)
    torch.testing.assert_close(state.params["theta"], expected, rtol=1e-12, atol=1e-14)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match="multi_step must be 0 or more outer steps, not -1"):
        MultiStepMAML(InnerLoop(steps=1), multi_step=-1)
    with pytest.raises(InputError, match="at least one inner step"):
        MultiStepMAML(InnerLoop(steps=0))
    with pytest.raises(InputError, match="rates of single inner steps need at least one inner step"):
        InnerLoop(steps=0, learn_rates=True, rates_by="step").init(MODEL.init(0))
