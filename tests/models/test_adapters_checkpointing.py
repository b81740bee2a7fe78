"""Checkpointed blocks: the same numbers to the second derivative and beyond, and less memory."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad
from transformers import T5Model

from metascale.core import trees
from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.models.kernels.recompute import RECOMPUTE, recomputed
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import DTYPES, random_backbone
from metascale.testing.model_contract import check_model
from metascale.training.memory import MemoryReport, measure_memory
from tests.models.tiny_backbones import CONFIGS, all_double, text_batch, tiny

FAMILIES = sorted(CONFIGS)
PARTIAL = {"bert": ("layer.1.attention.self.query",), "llama": ("layers.0.self_attn.q_proj",)}


def classifier(family: str, checkpoint_blocks: str, dtype: str = "float64", **fields: object) -> AdapterClassifier:
    settings = {"n_classes": 3, "rank": 2, "alpha": 4.0, "head": LearnedHead(), "dropout": 0.1, **fields}
    return AdapterClassifier(tiny(family, dtype=dtype), checkpoint_blocks=checkpoint_blocks, **settings)  # type: ignore[arg-type]


def point(model: AdapterClassifier, n_tasks: int = 2) -> Params:
    noise = torch.Generator().manual_seed(1)
    params = {n: v + 0.1 * torch.randn(v.shape, generator=noise, dtype=v.dtype) for n, v in model.init(0).items()}
    return trees.stack_tasks(params, n_tasks)


def derivatives(model: AdapterClassifier, params: Params, dropout: int | None = 5) -> tuple[torch.Tensor, ...]:
    """Losses, gradient and a Hessian-vector product."""
    leaves = trees.require_grad(params)
    losses = model.losses(leaves, text_batch(2, 3, 0), dropout)
    grads = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True)
    slope = sum((grad * torch.linspace(-1, 1, grad.numel(), dtype=grad.dtype).view_as(grad)).sum() for grad in grads)
    product = torch.autograd.grad(slope, list(leaves.values()))
    return (losses.detach(), *(grad.detach() for grad in grads), *product)


def same_derivatives(plain: AdapterClassifier, saving: AdapterClassifier) -> None:
    params = point(plain)
    with all_double():
        for expected, found in zip(derivatives(plain, params), derivatives(saving, params), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", ["adapters", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_second_derivatives_are_those_without(family: str, mode: str) -> None:
    plain, saving = classifier(family, "none"), classifier(family, mode)
    same_derivatives(plain, saving)


@pytest.mark.parametrize("mode", ["adapters", "all"])
@pytest.mark.parametrize("family", sorted(PARTIAL))
def test_blocks_without_adapters(family: str, mode: str) -> None:
    """The adapted block may lie above or below the others."""
    plain, saving = (classifier(family, m, targets=PARTIAL[family]) for m in ("none", mode))
    same_derivatives(plain, saving)


def blocks_run(model: AdapterClassifier) -> list[int]:
    """Which blocks run again in a backward pass."""
    calls: list[int] = []
    blocks = next(module for module in model.backbone.modules() if isinstance(module, torch.nn.ModuleList))
    handles = [
        next(module for module in block.modules() if isinstance(module, torch.nn.Linear)).register_forward_hook(
            lambda *_, number=number: calls.append(number)
        )
        for number, block in enumerate(blocks)
    ]
    leaves = trees.require_grad(point(model))
    losses = model.losses(leaves, text_batch(2, 3, 0))
    calls.clear()
    losses.sum().backward()
    for handle in handles:
        handle.remove()
    return calls


def test_which_blocks_run_again() -> None:
    low, high = PARTIAL["llama"], PARTIAL["bert"]
    assert blocks_run(classifier("llama", "none", targets=low)) == []
    assert blocks_run(classifier("llama", "adapters", targets=low)) == [0]
    assert blocks_run(classifier("llama", "all", targets=low)) == [1, 0]
    # Below the first adapter nothing needs a gradient, so nothing is run again.
    assert blocks_run(classifier("bert", "all", targets=high)) == [1]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_contract(family: str) -> None:
    dtype = "float64" if family == "bert" else "float32"
    model = classifier(family, "adapters", dtype)
    check_model(model, text_batch, dtype=DTYPES[dtype], drops_out=True, smooth=True)


def test_autocast_is_repeated() -> None:
    """A block run again in float32 would give another gradient."""
    models = [classifier("bert", mode, "float32", autocast=torch.bfloat16, dropout=0.0) for mode in ("none", "all")]
    params = point(models[0])
    expected, found = (derivatives(model, params) for model in models)
    first = 1 + len(params)
    assert all(torch.equal(a, b) for a, b in zip(expected[:first], found[:first], strict=True))
    for product, again in zip(expected[first:], found[first:], strict=True):  # sums in another order, in bfloat16
        assert float((again - product).norm()) <= 0.02 * float(product.norm())


def test_forward_mode_and_functional_transforms_pass_through() -> None:
    plain, saving = classifier("bert", "none"), classifier("bert", "adapters")
    params, batch = point(plain), text_batch(2, 3, 0)
    per_task = [torch.func.grad(lambda p, m=model: m.losses(p, batch).sum())(params) for model in (plain, saving)]
    assert all(torch.equal(value, per_task[1][name]) for name, value in per_task[0].items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, at the first use of forward mode
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(value.clone(), torch.ones_like(value)) for name, value in params.items()}
            slopes = [forward_ad.unpack_dual(model.losses(dual, batch)).tangent for model in (plain, saving)]
    assert torch.equal(*slopes)


def test_in_threads() -> None:
    model = classifier("gpt2", "adapters")
    params = point(model)
    expected = derivatives(model, params)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: derivatives(model, params), range(4)):
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def memory(mode: str, second_order: bool, layers: int = 6) -> MemoryReport:
    config = CONFIGS["bert"]()
    config.num_hidden_layers = layers
    model = AdapterClassifier(
        random_backbone(config, 0, attn_implementation="eager"),
        n_classes=3,
        rank=2,
        head=LearnedHead(),
        checkpoint_blocks=mode,  # type: ignore[arg-type]
    )
    params, batch = point(model, 1), text_batch(1, 12, 0)

    def call(_: object) -> None:
        leaves = trees.require_grad(params)
        grads = torch.autograd.grad(model.losses(leaves, batch).sum(), list(leaves.values()), create_graph=second_order)
        if second_order:
            torch.autograd.grad(sum(grad.square().sum() for grad in grads), list(leaves.values()))

    return measure_memory(call, {"weights": model.backbone.parameters(), "parameters": params.values()})


def test_memory_of_a_hessian_product_is_one_block_s() -> None:
    """Six blocks: a gradient and a Hessian product keep the blocks' inputs and one block's graph."""
    plain, saving = memory("none", second_order=False), memory("adapters", second_order=False)
    assert saving.by_kind["activations"] < 0.4 * plain.by_kind["activations"]
    product, saving_product = memory("none", second_order=True), memory("adapters", second_order=True)
    dynamic = lambda report: report.by_kind["activations"] + report.by_kind["gradients"]
    assert dynamic(saving_product) < 0.4 * dynamic(product)
    assert dynamic(saving_product) < dynamic(plain)


def test_derivatives_of_any_order() -> None:
    """Of a function with an integer output, a passed-through input and nested arguments."""

    def fn(inputs: dict[str, torch.Tensor], weights: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs["x"] * weights[0]).sin(), inputs["x"].argmax(), inputs["mask"]

    x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.9, 1.3, -0.4], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, dtype=torch.float64)

    def by_function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return recomputed(fn, {"x": x, "mask": mask}, [w])[0]

    assert torch.autograd.gradcheck(by_function, (x, w))
    assert torch.autograd.gradgradcheck(by_function, (x, w))
    (first,) = torch.autograd.grad(by_function(x, w).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    torch.testing.assert_close(third, -(w**3) * (w * x).cos(), rtol=1e-12, atol=0)
    value, index, passed = recomputed(fn, {"x": x, "mask": mask}, [w])
    assert value.requires_grad
    assert not index.requires_grad
    assert passed is mask


def test_the_meter_and_the_blocks_use_one_name() -> None:
    from metascale.training import memory

    assert RECOMPUTE == memory.RECOMPUTE


def test_refusals() -> None:
    with pytest.raises(InputError, match="'none', 'adapters', 'all'"):
        classifier("bert", "yes")
    whole = T5Model(CONFIGS["t5"]())
    with pytest.raises(InputError, match="give its encoder alone"):
        AdapterClassifier(whole, n_classes=3)
