"""Ways back through the inner steps: exact = unrolled everywhere, and each curvature = its dense sweep."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, norm, stack_tasks, subtract
from metascale.core.types import Batch, Episode, Model, OutputModel, Params
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Curvature,
    Diagonal,
    Exact,
    FiniteDifference,
    GaussNewton,
    LossPoint,
    Zero,
)
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.inner import InnerLoop
from metascale.meta.reverse import THROUGH, FullGraph, named_through
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.testing.learner_contract import check_meta_gradient
from metascale.testing.subjects import QuadraticModel, SmoothClassifier
from metascale.training.optimizers import SGD, Adam
from metascale.workflow import config
from tests.meta.episodes import class_episode

SMOOTH = SmoothClassifier()
EPISODE = SMOOTH.episode(3)
KEY = 11
INNERS = {
    "sgd": InnerLoop(SGD(0.3), steps=3),
    "momentum": InnerLoop(SGD(0.1, momentum=0.9), steps=4),
    "nesterov": InnerLoop(SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01), steps=3),
    "adam": InnerLoop(Adam(0.05), steps=3),
    "adamw": InnerLoop(Adam(0.05, weight_decay=0.1), steps=3),
    "clipped": InnerLoop(Adam(0.05), steps=3, clip=0.2),
    "step_rates": InnerLoop(SGD(0.3), steps=3, step_rates=(1.0, 0.5)),
    "head_only": InnerLoop(SGD(0.3, momentum=0.9), steps=3, adapt=("head*",)),
    "windows": InnerLoop(SGD(0.3), steps=3, batch_size=4),
    "micro_batches": InnerLoop(SGD(0.3), steps=3, micro_batch=4),
    "windows_of_micro_batches": InnerLoop(Adam(0.05), steps=3, batch_size=5, micro_batch=2),
    "gradients_in_threes": InnerLoop(Adam(0.05, weight_decay=0.1), steps=7, batch_size=5, keep_gradients=3),
    "gradients_one_by_one": InnerLoop(SGD(0.1, momentum=0.9), steps=3, learn_rates=True, keep_gradients=1),
    "learnt_rates": InnerLoop(SGD(0.3, momentum=0.9), steps=3, learn_rates=True),
    "learnt_rates_adam": InnerLoop(Adam(0.05, weight_decay=0.1), steps=3, clip=0.3, learn_rates=True),
    "proximal": InnerLoop(SGD(0.2, momentum=0.5), steps=3, clip=0.5, proximal=0.7),
    "no_steps": InnerLoop(SGD(0.3), steps=0),
}


def relative(found: Params, expected: Params) -> float:
    assert found.keys() == expected.keys()
    return float(norm(subtract(found, expected)) / norm(expected))


@pytest.mark.parametrize("name", INNERS)
def test_exact_is_unrolled_with_dropout(name: str) -> None:
    """Masks are repeated in the reverse sweep: with other masks the numbers would differ in the first digit."""
    inner = INNERS[name]
    theta = inner.init(SMOOTH.init(0))
    unrolled, told = MAML(inner, FullGraph())(SMOOTH, theta, EPISODE, KEY)
    exact, report = MAML(inner)(SMOOTH, theta, EPISODE, KEY)
    assert relative(exact, unrolled) < 1e-12
    assert torch.equal(report.query_loss, told.query_loss)


@pytest.mark.parametrize("name", [name for name in INNERS if "micro" not in name])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Perceptron(n_inputs=5, n_outputs=3, width=7, depth=2, activation="gelu"), (5,)),
        (ConvNet(3, image_size=8, width=4, depth=2), (1, 8, 8)),
    ],
    ids=["mlp", "conv"],
)
def test_exact_is_unrolled_on_small_nets(
    name: str, dtype: torch.dtype, tolerance: float, model: Model, shape: tuple[int, ...]
) -> None:
    inner = INNERS[name]
    theta = {n: v.to(dtype) for n, v in inner.init(model.init(0)).items()}
    episode = class_episode(3, shape).to(dtype=dtype)
    unrolled, _ = MAML(inner, FullGraph())(model, theta, episode, None)
    exact, _ = MAML(inner)(model, theta, episode, None)
    assert all(value.dtype == dtype for value in exact.values())
    assert relative(exact, unrolled) < tolerance


@pytest.mark.parametrize("name", ["sgd", "adamw", "learnt_rates", "head_only"])
def test_no_curvature_is_first_order_maml_bit_for_bit(name: str) -> None:
    inner = INNERS[name]
    theta = inner.init(SMOOTH.init(0))
    found, _ = MAML(inner, Zero())(SMOOTH, theta, EPISODE, KEY)
    expected, _ = FOMAML(inner)(SMOOTH, theta, EPISODE, KEY)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@dataclass(frozen=True)
class NoCurvature:
    """Zero curvature that goes through the sweep."""

    second_order: bool = False

    def __call__(self, point, vector):  # type: ignore[no-untyped-def]
        return Zero()(point, vector)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "clipped", "learnt_rates", "head_only", "step_rates"])
def test_first_order_maml_is_the_sweep_without_curvature(name: str) -> None:
    """Only weight decay, of which the sweep keeps the factor 1 − rate · decay, tells them apart."""
    inner = INNERS[name]
    theta = inner.init(SMOOTH.init(0))
    swept, _ = MAML(inner, NoCurvature())(SMOOTH, theta, EPISODE, KEY)
    expected, _ = FOMAML(inner)(SMOOTH, theta, EPISODE, KEY)
    assert relative(swept, expected) < 1e-12


@pytest.mark.parametrize("name", ["gauss_newton", "block_diagonal", "diagonal", "finite_difference"])
def test_an_approximation_is_the_sweep_with_its_dense_matrix(name: str) -> None:
    """u_k = u_{k+1} − a · Ĥ_k u_{k+1} with the dense matrix Ĥ_k built from the curvature's definition, task by task."""
    rate, steps = 0.4, 3
    inner, theta, task = InnerLoop(SGD(rate), steps), SMOOTH.init(0), EPISODE.tasks(0, 1)
    found, _ = MAML(inner, named_through(name))(SMOOTH, theta, task, None)
    states = list(inner.iterate(SMOOTH, stack_tasks(theta, 1), task.support))
    names = list(theta)

    def whole(x: Params) -> torch.Tensor:
        return torch.cat([x[n].reshape(-1) for n in names])

    def unflattened(theta: torch.Tensor) -> Params:
        parts = theta.split([states[0].params[n].numel() for n in names])
        return {n: part.view_as(states[0].params[n]) for part, n in zip(parts, names, strict=True)}

    def loss(batch: Batch, vector: torch.Tensor) -> torch.Tensor:
        return SMOOTH.losses(unflattened(vector), batch).sum()

    def matrix(at: torch.Tensor) -> torch.Tensor:
        if name == "gauss_newton":
            logits = SMOOTH.predict(unflattened(at), task.support)[0]
            jacobian = torch.autograd.functional.jacobian(lambda v: SMOOTH.predict(unflattened(v), task.support)[0], at)
            p = logits.softmax(-1)
            inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            return torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / len(p)
        if name == "diagonal":
            examples = [task.support.examples(i, i + 1) for i in range(task.support.n_examples)]
            rows = torch.stack([torch.autograd.functional.jacobian(lambda v, b=b: loss(b, v), at) for b in examples])
            return torch.diag(rows.square().mean(0))
        hessian = torch.autograd.functional.hessian(lambda v: loss(task.support, v), at)
        if name == "block_diagonal":
            block = torch.cat([torch.full((theta[n].numel(),), float(n.startswith("head"))) for n in names])
            return hessian * (block[:, None] == block[None, :])
        return hessian

    adjoint = torch.autograd.functional.jacobian(lambda v: loss(task.query, v), whole(states[-1].params))
    for state in reversed(states[:-1]):
        adjoint = adjoint - rate * matrix(whole(state.params)) @ adjoint
    assert float((whole(found) - adjoint).norm() / adjoint.norm()) < (1e-7 if name == "finite_difference" else 1e-12)


def test_an_approximation_meets_momentum_and_adam_as_the_exact_one_does() -> None:
    """A difference of gradients knows nothing of the optimiser: through it the sweep must still find the same."""
    for name in ("nesterov", "adamw", "learnt_rates_adam", "windows_of_micro_batches", "proximal"):
        inner = INNERS[name]
        theta = inner.init(SMOOTH.init(0))
        exact, _ = MAML(inner)(SMOOTH, theta, EPISODE, KEY)
        found, _ = MAML(inner, FiniteDifference())(SMOOTH, theta, EPISODE, KEY)
        assert relative(found, exact) < 1e-6


@pytest.mark.parametrize("estimator", [MAML, FOMAML, lambda inner: MAML(inner, FullGraph())])
def test_micro_batches_of_support_and_query_change_nothing(estimator: type) -> None:
    whole = INNERS["momentum"]
    theta = SMOOTH.init(0)
    expected, told = estimator(whole)(SMOOTH, theta, EPISODE, None)
    found, report = estimator(replace(whole, micro_batch=4))(SMOOTH, theta, EPISODE, None)
    assert relative(found, expected) < 1e-12
    torch.testing.assert_close(report.query_loss, told.query_loss, rtol=1e-12, atol=0)


class LargestBatch(SmoothClassifier):
    """Remembers the largest batch it saw."""

    seen: ClassVar[list[int]] = []

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        self.seen.append(batch.n_examples)
        return super().losses(params, batch, dropout)


@pytest.mark.parametrize("through", [*THROUGH.values()], ids=list(THROUGH))
def test_no_pass_is_larger_than_a_micro_batch(through) -> None:  # type: ignore[no-untyped-def]
    model = LargestBatch()
    model.seen.clear()
    MAML(InnerLoop(SGD(0.1), steps=2, micro_batch=4), through(1))(model, model.init(0), EPISODE, KEY)
    Reptile(InnerLoop(SGD(0.1), steps=2, micro_batch=4), report_query=True)(model, model.init(0), EPISODE, KEY)
    assert max(model.seen) == 4


def test_micro_batches_of_a_model_with_batch_statistics_are_refused() -> None:
    model, episode = (
        ConvNet(3, image_size=8, width=4, depth=2),
        class_episode(2, (1, 8, 8)).to(dtype=torch.float32),
    )
    with pytest.raises(InputError, match=r"micro_batch=4 would change the loss of a model with batch statistics"):
        MAML(InnerLoop(SGD(0.1), micro_batch=4))(model, model.init(0), episode, None)
    with pytest.raises(InputError, match="one gradient an example, which a model with batch statistics"):
        MAML(InnerLoop(SGD(0.1)), Diagonal())(model, model.init(0), episode, None)


@pytest.mark.parametrize(
    "through",
    [GaussNewton(), GaussNewton("difference"), BlockDiagonal(), BlockDiagonal("probes"), FiniteDifference()],
    ids=lambda through: type(through).__name__,
)
def test_a_net_with_batch_statistics_takes_the_other_curvatures(through: Curvature) -> None:
    model, episode = ConvNet(3, image_size=8, width=4, depth=2), class_episode(2, (1, 8, 8))
    theta = {name: value.double() for name, value in model.init(0).items()}
    exact, _ = MAML(InnerLoop(SGD(0.1), steps=2))(model, theta, episode, None)
    found, _ = MAML(InnerLoop(SGD(0.1), steps=2), through)(model, theta, episode, None)
    assert float(dot(found, exact) / norm(found) / norm(exact)) > 0.5


CONTRACT: dict[str, tuple[str, bool]] = {
    "unrolled": ("maml", True),
    "exact": ("maml", True),
    "gauss_newton": ("maml", False),
    "block_diagonal": ("maml", False),
    "diagonal": ("", False),
    "diagonal_hutchinson": ("maml", False),
    "finite_difference": ("maml", True),
    "none": ("fomaml", False),
}
FACTORS = {
    "maml": lambda rate, steps: (1 - rate) ** (2 * steps),
    "fomaml": lambda rate, steps: (1 - rate) ** steps,
}


@pytest.mark.parametrize("name", THROUGH)
def test_every_way_keeps_the_contract(name: str) -> None:
    """On quadratics every curvature but Fisher's is the Hessian, 1."""
    kind, exact = CONTRACT[name]
    check_meta_gradient(
        lambda rate, steps: MAML(InnerLoop(SGD(rate), steps), named_through(name, 2)), FACTORS.get(kind), exact=exact
    )


def test_names_of_the_configuration_are_those_of_the_library() -> None:
    assert set(config.Curvature.__args__) == set(THROUGH)  # type: ignore[attr-defined]
    assert set(config.FIRST_ORDER) == {name for name in THROUGH if not named_through(name).second_order}
    with pytest.raises(InputError, match=re.escape("there is no curvature 'hessian'; allowed are 'unrolled', 'exact'")):
        named_through("hessian")
    assert named_through("diagonal_hutchinson", 5) == Diagonal("hutchinson", 5)


@dataclass(frozen=True)
class Refuses(SmoothClassifier):
    """Says that it has no second derivatives."""

    def require_second_order(self) -> None:
        raise InputError("no second derivative here")


@pytest.mark.parametrize("name", THROUGH)
def test_a_model_without_second_derivatives_is_refused_where_they_are_needed(name: str) -> None:
    estimator, model = MAML(InnerLoop(SGD(0.1), 2), named_through(name)), Refuses()
    if name in config.FIRST_ORDER:
        estimator(model, model.init(0), EPISODE, KEY)
    else:
        with pytest.raises(InputError, match="no second derivative here"):
            estimator(model, model.init(0), EPISODE, KEY)


@pytest.mark.parametrize("model", [SMOOTH, QuadraticModel(3), Perceptron(5, 3, loss="squared_error"), Perceptron(5, 3)])
def test_losses_are_those_of_the_outputs(model: OutputModel) -> None:
    params = stack_tasks(model.init(0), 3)
    batch = EPISODE.support if isinstance(model, SmoothClassifier) else class_episode(3, (5,)).support
    if isinstance(model, QuadraticModel) or getattr(model, "loss", "") == "squared_error":
        batch = replace(batch, targets=torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0)))
    params = {name: value.to(batch.inputs["x"].dtype) for name, value in params.items()}
    assert isinstance(model, OutputModel)
    for dropout in (None, 3):
        outputs = model.predict(params, batch, dropout)
        torch.testing.assert_close(model.output_losses(outputs, batch), model.losses(params, batch, dropout))


def test_random_probes_of_a_task_do_not_depend_on_its_neighbours() -> None:
    estimator = MAML(InnerLoop(SGD(0.3), 3), Diagonal("hutchinson", 1))
    theta = SMOOTH.init(0)
    together, _ = estimator(SMOOTH, theta, EPISODE, None)
    alone = [estimator(SMOOTH, theta, EPISODE.tasks(i, i + 1), None)[0] for i in range(3)]
    mean = {name: torch.stack([grads[name] for grads in alone]).mean(0) for name in together}
    assert relative(mean, together) < 1e-12
    renamed = Episode(("other", "names", "here"), EPISODE.support, EPISODE.query)
    assert relative(estimator(SMOOTH, theta, renamed, None)[0], together) > 1e-6


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_sweep_sees_every_step_in_reverse_at_its_own_parameters(steps: int) -> None:
    """Of the forward pass only gradients are kept; the states that follow from them are those that were, to the bit."""
    seen: list[Params] = []

    @dataclass(frozen=True)
    class Spy:
        second_order: bool = True

        def __call__(self, point: LossPoint, vector: Params) -> Params:
            seen.append(point.params)
            return Exact()(point, vector)

    inner = InnerLoop(Adam(0.05, weight_decay=0.1), steps, clip=0.3, learn_rates=True)
    theta = inner.init(SMOOTH.init(0))
    MAML(inner, Spy())(SMOOTH, theta, EPISODE, None)
    states = list(inner.iterate(SMOOTH, stack_tasks(theta, 3), EPISODE.support))
    assert len(seen) == steps
    for params, state in zip(seen, reversed(states[:-1]), strict=True):
        assert all(torch.equal(params[name], value) for name, value in state.params.items())


def test_few_states_exist_at_a_time() -> None:
    """The inner optimiser's state, three times the parameters with Adam, is not kept for every step."""
    seen: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    @dataclass(frozen=True)
    class Counting(Adam):
        def update(self, params, grads, state, rates=1.0):  # type: ignore[no-untyped-def]
            new, slots = super().update(params, grads, state, rates)
            seen.extend(weakref.ref(value["m"]["head.weight"]) for value in (state, slots))
            most.append(len({id(value) for reference in seen if (value := reference()) is not None}))
            return new, slots

    MAML(InnerLoop(Counting(0.05), 32))(SMOOTH, SMOOTH.init(0), EPISODE, None)
    assert max(most) <= 9  # log₂ 32 and what is in hand
    assert len(most) == 32 + 32 // 2 * 5 + 32  # forward, again from the gradients, and for their derivatives
