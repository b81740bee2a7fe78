"""Exact = unrolled on adapted language models of every family, and what their kernels and precisions allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import dot, norm, stack_tasks, subtract
from metascale.core.types import Episode, Params
from metascale.hypergrad.curvature import Exact, FiniteDifference, GaussNewton
from metascale.meta.gradients import FOMAML, MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.reverse import THROUGH, FullGraph, named_through
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead, PrototypeHead, ZeroHead
from metascale.training.optimizers import SGD, Adam
from tests.models.tiny_backbones import text_batch, tiny

FAMILIES = ["llama", "gpt2", "bert", "distilbert", "t5"]
EPISODE = Episode(("a", "b"), text_batch(2, 6, 0), text_batch(2, 7, 1))
INNERS = {
    "momentum, clip, micro-batches": InnerLoop(SGD(0.05, momentum=0.9), steps=3, clip=0.5, micro_batch=4),
    "adam": InnerLoop(Adam(0.01, eps=1e-4), steps=3),
    "adamw, learnt rates": InnerLoop(Adam(0.01, eps=1e-4, weight_decay=0.1), steps=2, learn_rates=True),
}


class KeepFloat64(TorchFunctionMode):
    """Norms and soft-max of some families compute in float32 whatever their input; here they keep float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(args[0] if args else None, torch.Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in args):
                return args[0]
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def model_of(family: str, dtype: str = "float32", attention: str = "eager", **fields: Any) -> AdapterClassifier:
    settings = {"n_classes": 3, "rank": 3, "alpha": 6.0, "dropout": 0.1, "head": PrototypeHead(differentiable=True)}
    return AdapterClassifier(tiny(family, attention=attention, dtype=dtype), **(settings | fields))


def theta_of(model: AdapterClassifier, inner: InnerLoop) -> Params:
    """Away from B = 0, where the adapters' curvature is almost empty."""
    theta = {
        name: value + 0.05 * torch.randn(value.shape, dtype=value.dtype, generator=torch_generator(0, "noise", name))
        for name, value in model.init(0).items()
    }
    return inner.init(theta)


def relative(found: Params, expected: Params) -> float:
    assert found.keys() == expected.keys()
    return float(norm(subtract(found, expected)) / norm(expected))


@pytest.mark.parametrize("name", INNERS)
@pytest.mark.parametrize(
    ("dtype", "family"),
    [
        *(("float64", family) for family in FAMILIES),
        ("float32", "gpt2"),
        *(pytest.param("float32", family, marks=pytest.mark.long) for family in FAMILIES if family != "gpt2"),
    ],
)
def test_exact_is_unrolled(family: str, name: str, dtype: str) -> None:
    """To rounding in float64; float32 has the same arithmetic, so one family stands for the others by default."""
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    inner, model = INNERS[name], model_of(family, dtype)
    theta = theta_of(model, inner)
    with KeepFloat64():
        unrolled, _ = MAML(inner, FullGraph())(model, theta, EPISODE, 1)
        exact, _ = MAML(inner)(model, theta, EPISODE, 1)
    assert relative(exact, unrolled) < tolerance
    first, _ = FOMAML(inner)(model, theta, EPISODE, 1)
    assert relative(first, exact) > 1e-3  # there was something to find


@pytest.mark.parametrize("head", [ZeroHead(), LearnedHead(), PrototypeHead(), PrototypeHead(differentiable=True)])
@pytest.mark.parametrize("through", [FullGraph(), Exact()], ids=["unrolled", "exact"])
def test_every_head_agrees_with_finite_differences(head: Any, through: Any) -> None:
    """Prototypes are a function of θ, and yet the inner gradient of an adapter is not taken through them."""
    inner = InnerLoop(SGD(0.05), steps=2)
    model = model_of("bert", "float64", head=head)
    theta = theta_of(model, inner)
    found, _ = MAML(inner, through)(model, theta, EPISODE, None)
    direction = {
        n: torch.randn(v.shape, dtype=v.dtype, generator=torch_generator(1, "way", n)) for n, v in theta.items()
    }

    def query_loss(step: float) -> float:
        moved = stack_tasks({n: v + step * direction[n] for n, v in theta.items()}, 2)
        start = model.begin(stack_tasks(theta, 2), EPISODE.support) if head == PrototypeHead() else {}
        state = inner.start(model, moved, EPISODE.support)
        # prototypes that are constants stay at those of θ
        params = {n: start[n] if n in start and n.startswith("head") else v for n, v in state.params.items()}
        for _ in range(inner.steps):
            state = inner.advance(
                model, moved, type(state)(state.step, params, {}), EPISODE.support, key=None, create_graph=False
            )
            params = state.params
        return float(model.losses(params, EPISODE.query).mean())

    step = 1e-5
    difference = (query_loss(step) - query_loss(-step)) / (2 * step)
    assert float(dot(found, direction)) == pytest.approx(difference, rel=1e-6)


def test_first_order_maml_differentiates_the_prototypes() -> None:
    """Without inner steps the first-order meta-gradient is the gradient of the prototype network's query loss."""
    inner, model = InnerLoop(SGD(0.05), steps=0), model_of("gpt2", "float64")
    theta = theta_of(model, inner)
    leaves = {name: value.clone().requires_grad_(True) for name, value in stack_tasks(theta, 2).items()}
    loss = model.losses(model.begin(leaves, EPISODE.support), EPISODE.query).sum()
    expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    found, _ = FOMAML(inner)(model, theta, EPISODE, None)
    assert relative(found, {name: value.mean(0) for name, value in expected.items()}) < 1e-12


def test_fused_attention_is_refused_by_name_where_second_derivatives_are_needed() -> None:
    model = model_of("bert", attention="sdpa")
    inner = InnerLoop(SGD(0.05), steps=1)
    theta = theta_of(model, inner)
    first_order = [FiniteDifference(0.01), GaussNewton("difference"), named_through("diagonal"), named_through("none")]
    for through in [*(named_through(name) for name in THROUGH), GaussNewton("difference")]:
        if through.second_order:
            with pytest.raises(InputError, match=r'attn_implementation="sdpa".*load the backbone with.*"eager"'):
                MAML(inner, through)(model, theta, EPISODE, None)
    eager = model_of("bert")
    for through in first_order:
        found, _ = MAML(inner, through)(model, theta, EPISODE, None)
        expected, _ = MAML(inner, through)(eager, theta, EPISODE, None)
        assert relative(found, expected) < 1e-3


@pytest.mark.parametrize("checkpoint", ["none", "adapters"])
def test_bfloat16_repeats_its_own_numbers(checkpoint: Any) -> None:
    """Under autocast the sweep sees the same rounded pass again, so exact and unrolled agree far below bfloat16."""
    inner = InnerLoop(SGD(0.05, momentum=0.9), steps=3, micro_batch=4)
    model = model_of("bert", autocast=torch.bfloat16, checkpoint_blocks=checkpoint)
    theta = theta_of(model, inner)
    unrolled, _ = MAML(inner, FullGraph())(model, theta, EPISODE, 1)
    exact, _ = MAML(inner)(model, theta, EPISODE, 1)
    full, _ = MAML(inner)(model_of("bert"), theta, EPISODE, 1)
    assert relative(exact, unrolled) < 1e-2
    assert 1e-4 < relative(exact, full) < 0.3


@pytest.mark.parametrize("name", ["gauss_newton", "block_diagonal", "diagonal", "diagonal_hutchinson"])
def test_checkpointed_blocks_give_the_same_curvature(name: str) -> None:
    inner = InnerLoop(SGD(0.05), steps=2, micro_batch=4)
    plain, checkpointed = (model_of("gpt2", "float64", checkpoint_blocks=kind) for kind in ("none", "adapters"))
    theta = theta_of(plain, inner)
    expected, _ = MAML(inner, named_through(name, 2))(plain, theta, EPISODE, 1)
    found, _ = MAML(inner, named_through(name, 2))(checkpointed, theta, EPISODE, 1)
    assert relative(found, expected) < 1e-10
