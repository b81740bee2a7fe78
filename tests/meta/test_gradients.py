"""Meta-gradients: closed forms, finite differences in float64, recomputed = unrolled, batched = one task at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, stack_tasks, to
from metascale.core.types import Episode, Model, Params
from metascale.hypergrad.curvature import Exact
from metascale.meta.gradients import FOMAML, MAML, MetaGradient, Reptile
from metascale.meta.inner import InnerLoop
from metascale.meta.reverse import FullGraph, Through
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.testing.subjects import QuadraticModel
from metascale.training.optimizers import SGD, Adam
from tests.meta.episodes import class_episode, quadratic_episode

RATE, STEPS = 0.3, 4
HEADS = {
    head: Perceptron(n_inputs=5, n_outputs=3, width=7, depth=2, activation="tanh", head=head)
    for head in ("shared", "zero", "prototype")
}
MLP_MODEL = Perceptron(n_inputs=5, n_outputs=3, width=7, depth=2, activation="tanh")
INNERS = {
    "sgd": InnerLoop(SGD(0.3), steps=3),
    "momentum": InnerLoop(SGD(0.1, momentum=0.9), steps=3),
    "nesterov": InnerLoop(SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), steps=3),
    "adam": InnerLoop(Adam(0.05), steps=3),
    "adamw": InnerLoop(Adam(0.05, weight_decay=0.1), steps=3),
    "clipped": InnerLoop(SGD(0.3), steps=3, clip=0.2),
    "step_rates": InnerLoop(SGD(0.3), steps=3, step_rates=(1.0, 0.5)),
    "head_only": InnerLoop(SGD(0.3), steps=3, adapt=("head*",)),
    "minibatches": InnerLoop(SGD(0.3), steps=3, batch_size=4),
    "micro_batches": InnerLoop(SGD(0.3), steps=3, micro_batch=4),
    "meta_sgd": InnerLoop(SGD(0.3), steps=3, learn_rates=True),
    "no_steps": InnerLoop(SGD(0.3), steps=0),
}


def every_class(episode: Episode) -> Episode:
    """The episode with support labels 0, 1, 2, 0, 1, 2, ..."""
    labels = torch.arange(episode.support.n_examples) % 3
    support = replace(episode.support, targets=labels.expand(episode.n_tasks, -1).clone())
    return replace(episode, support=support)


def theta_of(model: Model, inner: InnerLoop) -> Params:
    return inner.init(to(model.init(0), dtype=torch.float64))


def query_loss(model: Model, inner: InnerLoop, theta: Params, episode: Episode) -> float:
    """The mean adapted query loss as a plain function of θ, without any derivative."""
    *_, last = inner.iterate(model, stack_tasks(theta, episode.n_tasks), episode.support)
    return float(model.losses(last.params, episode.query).mean())


@pytest.mark.parametrize(
    ("estimator", "factor"),
    [
        (MAML(InnerLoop(SGD(RATE), STEPS), FullGraph()), (1 - RATE) ** (2 * STEPS)),
        (MAML(InnerLoop(SGD(RATE), STEPS)), (1 - RATE) ** (2 * STEPS)),
        (FOMAML(InnerLoop(SGD(RATE), STEPS)), (1 - RATE) ** STEPS),
        (Reptile(InnerLoop(SGD(RATE), STEPS)), 1 - (1 - RATE) ** STEPS),
        (Reptile(InnerLoop(SGD(RATE), STEPS), data="all"), 1 - (1 - RATE) ** STEPS),
    ],
)
def test_closed_form_on_quadratics(estimator: MetaGradient, factor: float) -> None:
    model, episode = QuadraticModel(3), quadratic_episode(5, 3)
    theta = model.init(1)
    found, _ = estimator(model, theta, episode, key=0)
    expected = factor * (theta["theta"] - episode.query.targets[:, 0].mean(0))
    torch.testing.assert_close(found["theta"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", INNERS)
@pytest.mark.parametrize("through", [FullGraph(), Exact()], ids=["unrolled", "exact"])
def test_maml_equals_finite_differences(name: str, through: Through) -> None:
    check_directional(MLP_MODEL, INNERS[name], through)


@pytest.mark.parametrize("name", ["momentum", "meta_sgd", "head_only"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("through", [FullGraph(), Exact()], ids=["unrolled", "exact"])
def test_maml_equals_finite_differences_whatever_the_head_starts_from(name: str, head: str, through: Through) -> None:
    check_directional(HEADS[head], INNERS[name], through)


def check_directional(model: Model, inner: InnerLoop, through: Through) -> None:
    """The meta-gradient along a random direction is the slope of the adapted query loss."""
    episode = every_class(class_episode(3, (5,)))
    theta = theta_of(model, inner)
    found, _ = MAML(inner, through)(model, theta, episode, key=0)
    generator = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}
    step = 1e-6
    high = query_loss(model, inner, {n: v + step * direction[n] for n, v in theta.items()}, episode)
    low = query_loss(model, inner, {n: v - step * direction[n] for n, v in theta.items()}, episode)
    assert float(dot(found, direction)) == pytest.approx((high - low) / (2 * step), rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("name", INNERS)
@pytest.mark.parametrize(
    ("model", "shape"),
    [(MLP_MODEL, (5,)), (ConvNet(3, image_size=8, width=4, depth=2), (1, 8, 8))],
    ids=["mlp", "conv"],
)
def test_recomputed_equals_unrolled(name: str, model: Model, shape: tuple[int, ...]) -> None:
    inner = INNERS[name]
    if inner.micro_batch and isinstance(model, ConvNet):
        pytest.skip("batch statistics do not allow micro-batches")
    theta, episode = theta_of(model, inner), class_episode(3, shape)
    unrolled, _ = MAML(inner, FullGraph())(model, theta, episode, key=0)
    recomputed, _ = MAML(inner)(model, theta, episode, key=0)
    for parameter, value in unrolled.items():
        torch.testing.assert_close(recomputed[parameter], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [Reptile, FOMAML, MAML])
@pytest.mark.parametrize(
    ("model", "shape"),
    [(MLP_MODEL, (5,)), (ConvNet(3, image_size=8, width=4, depth=2), (1, 8, 8))],
    ids=["mlp", "conv"],
)
def test_batched_tasks_equal_single_tasks(kind: type, model: Model, shape: tuple[int, ...]) -> None:
    estimator, episode = kind(InnerLoop(SGD(0.2), steps=3)), class_episode(4, shape)
    theta = theta_of(model, estimator.inner)
    together, report = estimator(model, theta, episode, key=0)
    alone = [estimator(model, theta, episode.tasks(i, i + 1), key=0) for i in range(4)]
    for parameter, value in together.items():
        mean = torch.stack([grads[parameter] for grads, _ in alone]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-11)
    singles = torch.cat([single.support_loss_end for _, single in alone])
    torch.testing.assert_close(report.support_loss_end, singles, rtol=1e-9, atol=1e-11)


def test_first_order_is_the_query_gradient_at_the_adapted_parameters() -> None:
    inner, episode = InnerLoop(Adam(0.1), steps=4), class_episode(2, (5,))
    theta = theta_of(MLP_MODEL, inner)
    *_, last = inner.iterate(MLP_MODEL, stack_tasks(theta, 2), episode.support)
    leaves = {n: v.detach().requires_grad_(True) for n, v in last.params.items()}
    expected = torch.autograd.grad(MLP_MODEL.losses(leaves, episode.query).mean(), list(leaves.values()))
    found, _ = FOMAML(inner)(MLP_MODEL, theta, episode, key=0)
    for value, grad in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(value, grad.sum(0), rtol=1e-10, atol=1e-12)


def test_first_order_meta_sgd_rates_follow_the_sum_of_steps() -> None:
    """With one step φ = θ − lr·α∘g, so d query/dα = −lr·g∘∇query: exact even at first order."""
    inner, episode = InnerLoop(SGD(0.3), steps=1, learn_rates=True), class_episode(2, (5,))
    theta = theta_of(MLP_MODEL, inner)
    first, _ = FOMAML(inner)(MLP_MODEL, theta, episode, key=0)
    exact, _ = MAML(inner)(MLP_MODEL, theta, episode, key=0)
    for name in theta:
        if name.startswith("rate/"):
            torch.testing.assert_close(first[name], exact[name], rtol=1e-9, atol=1e-12)


def test_micro_batches_change_nothing() -> None:
    episode = class_episode(2, (5,), support=7)
    whole = InnerLoop(SGD(0.3), steps=3)
    theta = theta_of(MLP_MODEL, whole)
    expected, _ = MAML(whole)(MLP_MODEL, theta, episode, key=0)
    found, _ = MAML(replace(whole, micro_batch=3))(MLP_MODEL, theta, episode, key=0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


def test_parameters_that_do_not_adapt_stay() -> None:
    inner, episode = InnerLoop(SGD(0.5), steps=2, adapt=("head*",)), class_episode(2, (5,))
    theta = theta_of(MLP_MODEL, inner)
    *_, last = inner.iterate(MLP_MODEL, stack_tasks(theta, 2), episode.support)
    torch.testing.assert_close(last.params["layer0.weight"][1], theta["layer0.weight"], rtol=0, atol=0)
    assert not torch.equal(last.params["head.weight"][0], theta["head.weight"])


def test_unknown_pattern_is_refused() -> None:
    with pytest.raises(InputError, match=r"no parameter matches \['tail\*'\]; the model has: layer0.weight"):
        InnerLoop(adapt=("tail*",)).adapted_names(MLP_MODEL.init(0))


def test_adam_with_zero_gradients_has_finite_second_order() -> None:
    """LoRA starts with exactly zero gradients on A; the root of a zero second moment must not poison the sweep."""
    model = QuadraticModel(2)
    episode = quadratic_episode(1, 2)
    theta = {"theta": episode.query.targets[0, 0].clone()}  # at the optimum: gradient exactly zero
    for through in (FullGraph(), Exact()):
        found, _ = MAML(InnerLoop(Adam(0.1), steps=3), through)(model, theta, episode, key=0)
        assert torch.isfinite(found["theta"]).all()
