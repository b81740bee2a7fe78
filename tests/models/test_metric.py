"""Metric learners: class weights in closed form, and their meta-gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, stack_tasks, to
from metascale.core.types import Episode
from metascale.meta.gradients import FOMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.models.convnet import ConvNet
from metascale.models.metric import MetricClassifier, Prototypes, Ridge
from metascale.models.module import Module
from metascale.models.perceptron import Perceptron
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode

MLP = Perceptron(5, 3, width=7, depth=2, activation="tanh")


def episode(shape: tuple[int, ...] = (5,)) -> Episode:
    drawn = class_episode(2, shape)
    labels = (torch.arange(6) % 3).expand(2, -1).clone()
    return replace(drawn, support=replace(drawn.support, targets=labels))


def test_prototypes_by_hand() -> None:
    """Means (1, 0) and (0, 2): the point (1, 1) is at squared distances 1 and 2."""
    features = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]])
    weight, bias = Prototypes().solve({}, features, torch.tensor([[0, 0, 1]]), 2)
    logits = torch.tensor([[[1.0, 1.0]]]) @ weight + bias
    assert float(logits[0, 0, 0] - logits[0, 0, 1]) == pytest.approx(-1 + 2)
    with pytest.raises(InputError, match="task 0 has no example of class 2"):
        Prototypes().solve({}, features, torch.tensor([[0, 0, 1]]), 3)


def test_ridge_is_the_solution_of_its_normal_equations() -> None:
    """(XᵀX + λI) W = Xᵀ Y, the form in feature space, which the code does not use."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    targets = (torch.arange(6) % 3).expand(2, -1)
    metric = Ridge(ridge=0.3, scale=2.5)
    params = stack_tasks(to(metric.init(), dtype=torch.float64), 2)
    weight, bias = metric.solve(params, x, targets, 3)
    wanted = torch.nn.functional.one_hot(targets, 3).double()
    left = x.transpose(1, 2) @ x + 0.3 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(left @ (weight / 2.5), x.transpose(1, 2) @ wanted, rtol=1e-6, atol=1e-7)
    assert not bias.any()


@pytest.mark.parametrize("metric", [Prototypes(), Ridge()], ids=["protonet", "r2d2"])
@pytest.mark.parametrize(
    ("net", "shape"), [(MLP, (5,)), (ConvNet(3, image_size=8, width=4, depth=2), (1, 8, 8))], ids=["mlp", "conv"]
)
def test_meta_gradient_equals_finite_differences(metric: Prototypes | Ridge, net: Perceptron, shape: tuple) -> None:
    model, drawn = MetricClassifier(net, 3, metric), episode(shape)
    theta = to(model.init(0), dtype=torch.float64)
    assert not [name for name in theta if name.startswith("head.")]
    inner = InnerLoop(steps=0)
    found, report = FOMAML(inner)(model, theta, drawn, key=None)

    def loss(step: float) -> float:
        moved = stack_tasks({name: value + step * direction[name] for name, value in theta.items()}, 2)
        return float(model.losses(model.begin(moved, drawn.support), drawn.query).mean())

    generator = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}
    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert float(dot(found, direction)) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert report.query_loss is not None
    assert float(report.query_loss.mean()) == pytest.approx(loss(0.0))


def test_any_torch_module_trains_as_a_metric_learner() -> None:
    """Its own last layer is there and is never read."""
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    model, drawn = MetricClassifier(Module(net), 3, Prototypes()), episode()
    learner = MetaLearner(FOMAML(InnerLoop(steps=0)), SGD(0.1))
    state = start = learner.init(model, 0)
    losses = []
    for _ in range(5):
        state, report = learner.step(model, state, drawn)
        assert report.query_loss is not None
        losses.append(float(report.query_loss.mean()))
    assert losses[-1] < losses[0]
    moved = {name for name, value in start.params.items() if not torch.equal(value, state.params[name])}
    assert moved == {"0.weight", "0.bias"} or moved == {"0.weight"}


def test_a_ridge_head_refuses_what_is_not_positive() -> None:
    with pytest.raises(InputError, match="ridge of the ridge head must be positive"):
        Ridge(ridge=0.0)
