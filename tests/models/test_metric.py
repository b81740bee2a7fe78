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
from metascale.models.metric import Metric, MetricClassifier, Prototypes, Ridge
from metascale.models.module import Module
from metascale.models.perceptron import Perceptron
from metascale.models.svm import NotSolved, SupportVectors, _Dual
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


@pytest.mark.parametrize("metric", [Prototypes(), Ridge(), SupportVectors()], ids=["protonet", "r2d2", "metaoptnet"])
@pytest.mark.parametrize(
    ("net", "shape"), [(MLP, (5,)), (ConvNet(3, image_size=8, width=4, depth=2), (1, 8, 8))], ids=["mlp", "conv"]
)
def test_meta_gradient_equals_finite_differences(metric: Metric, net: Perceptron, shape: tuple) -> None:
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


def clusters(n_tasks: int, n_classes: int, shots: int, d: int, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes: some examples lie inside the margin, some on it, some beyond."""
    generator = torch.Generator().manual_seed(n_classes * shots + d)
    targets = (torch.arange(n_classes * shots) % n_classes).expand(n_tasks, -1)
    means = torch.randn(n_tasks, n_classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n_tasks, n_classes * shots, d, generator=generator, dtype=torch.float64)
    return size * (noise + means.gather(1, targets.unsqueeze(2).expand(-1, -1, d))), targets


def machine(features: torch.Tensor, targets: torch.Tensor, n_classes: int, penalty: float = 0.1) -> torch.Tensor:
    scale = {"metric.log_scale": torch.zeros(len(features), 1, dtype=torch.float64)}
    return SupportVectors(penalty).solve(scale, features, targets, n_classes)[0]


def test_support_vectors_by_hand() -> None:
    """Examples at ±1: by symmetry w₀ = −w₁ = a, and a² + 2 c · max(0, 1 − 2a) is least at a = min(1/2, 2c)."""
    features, targets = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64), torch.tensor([[0, 1]])
    for penalty, a in ((0.1, 0.2), (1.0, 0.5)):
        found = machine(features, targets, 2, penalty)
        torch.testing.assert_close(found[0], torch.tensor([[a, -a]], dtype=torch.float64), rtol=1e-8, atol=0)
    thrice = SupportVectors(1.0).solve({"metric.log_scale": torch.full((1, 1), 3.0).log()}, features, targets, 2)[0]
    torch.testing.assert_close(thrice[0], torch.tensor([[1.5, -1.5]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("shape", "penalty"),
    [((3, 5, 1, 20, 1.0), 0.1), ((2, 3, 6, 2, 1.0), 0.1), ((2, 4, 5, 6, 300.0), 1e-4), ((2, 5, 2, 8, 0.01), 10.0)],
)
def test_support_vectors_are_those_of_scikit_learn(shape: tuple[int, int, int, int, float], penalty: float) -> None:
    svm = pytest.importorskip("sklearn.svm")
    features, targets = clusters(*shape)
    found = machine(features, targets, shape[1], penalty)
    for x, y, weight in zip(features, targets, found, strict=True):
        oracle = svm.LinearSVC(
            C=penalty, multi_class="crammer_singer", fit_intercept=False, tol=1e-10, max_iter=1_000_000
        ).fit(x.numpy(), y.numpy())
        error = (weight.T - torch.from_numpy(oracle.coef_)).abs().max()
        assert error < 1e-5 * weight.abs().max()


def test_the_optimum_closes_the_gap_to_the_primal() -> None:
    """½ |W|² + c Σ max_k ([k ≠ y] + (w_k − w_y) f) equals the dual's value, of which no other α is above."""
    features, targets = clusters(2, 3, 6, 2, 1.0)
    weight, own = machine(features, targets, 3), torch.nn.functional.one_hot(targets, 3)
    logits = features @ weight
    slacks = (logits + 1 - own - (logits * own).sum(2, keepdim=True)).amax(2)
    assert bool((slacks > 1e-3).any())
    assert bool((slacks < 1e-3).any())
    primal = 0.5 * weight.square().sum((1, 2)) + 0.1 * slacks.sum(1)
    problem = _Dual.of(features, own.double(), 0.1)
    alpha = problem.given(problem.held_bounds())
    assert float((alpha - 0.1 * own).max()) < 1e-12
    assert float(alpha.sum(2).abs().max()) < 1e-12
    dual = (alpha * own).sum((1, 2)) - 0.5 * weight.square().sum((1, 2))
    torch.testing.assert_close(primal, dual, rtol=1e-7, atol=0)


def test_support_vectors_can_be_differentiated_twice() -> None:
    features, targets = clusters(1, 3, 2, 4, 1.0)
    leaf = features.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: machine(x, targets, 3), (leaf,), atol=1e-4)


def test_repeated_examples_and_wrong_bounds() -> None:
    """Two copies of each example are one of twice the penalty; bounds that do not hold are told."""
    features, targets = clusters(2, 3, 2, 4, 1.0)
    twice = machine(torch.cat([features, features], 1), torch.cat([targets, targets], 1), 3)
    torch.testing.assert_close(twice, machine(features, targets, 3, 0.2), rtol=1e-6, atol=1e-8)
    problem = _Dual.of(features, torch.nn.functional.one_hot(targets, 3).double(), 0.1)
    wrong = torch.zeros_like(problem.upper, dtype=torch.bool)
    with pytest.raises(NotSolved, match="its conditions are off by"):
        problem.check(problem.given(wrong), wrong)


def test_a_task_may_have_more_classes_than_another() -> None:
    """Without a number of classes, the support set tells it; with one, a class that it lacks is an error."""
    free, fixed = MetricClassifier(MLP, None, Prototypes()), MetricClassifier(MLP, 4, Prototypes())
    drawn = episode()
    params = stack_tasks(to(free.init(0), dtype=torch.float64), 2)
    assert free.predict(free.begin(params, drawn.support), drawn.query).shape[2] == 3
    with pytest.raises(InputError, match="no example of class 3"):
        fixed.begin(params, drawn.support)


def test_a_ridge_head_refuses_what_is_not_positive() -> None:
    with pytest.raises(InputError, match="ridge of the ridge head must be positive"):
        Ridge(ridge=0.0)
    with pytest.raises(InputError, match="penalty of the support vector head must be positive, not -1"):
        SupportVectors(penalty=-1)


def test_a_scale_multiplies_the_logits_and_moves_no_accuracy() -> None:
    model, drawn = MetricClassifier(MLP, None, Prototypes()), episode()
    begun = model.begin(stack_tasks(to(model.init(0), dtype=torch.float64), drawn.n_tasks), drawn.support)
    logits = replace(model, scale=1 / 3).predict(begun, drawn.query)
    torch.testing.assert_close(logits, model.predict(begun, drawn.query) / 3)
    assert torch.equal(logits.argmax(-1), model.predict(begun, drawn.query).argmax(-1))
