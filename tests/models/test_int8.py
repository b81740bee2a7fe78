"""Linear layers in 8 bits: what rounding does to the weights, and that nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.core import trees
from metascale.core.errors import InputError
from metascale.models.kernels.int8 import Int8Linear, is_int8, quantise
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier, TextClassifier
from metascale.models.text.hf import load_backbone, load_whole, precision_of, random_backbone
from metascale.models.text.lora import is_transposed, linear_shapes
from metascale.training.memory import measure_memory
from tests.models.tiny_backbones import CONFIGS, text_batch

STORIES = Path(os.environ.get("METASCALE_DATA", "/nowhere")) / "stories260k" / "hf"


def dequantised(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.float() * layer.get_buffer("scale")[:, None]


def test_a_row_by_hand() -> None:
    """254 / 127 = 2 a step: 3 lies between 1 and 2 steps, and halves go to the even number."""
    layer = Int8Linear(torch.tensor([[254.0, 3.1, -5.0, 0.9], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([1.0, -1.0]))
    assert layer.weight.tolist() == [[127, 2, -2, 0], [0, 0, 0, 0]]
    assert layer.get_buffer("scale").tolist() == [2.0, 0.0]
    assert layer(torch.ones(1, 4)).tolist() == [[1.0 + 2 * 127, -1.0]]


def test_the_product_is_that_of_the_rounded_weights() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, 11), torch.randn(7), torch.randn(2, 3, 11)
    layer = Int8Linear(weight, bias)
    rounded = dequantised(layer)
    assert bool(((weight - rounded).abs() <= layer.get_buffer("scale")[:, None] / 2 * (1 + 1e-5)).all())
    torch.testing.assert_close(layer(x), F.linear(x, rounded, bias))


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_derivatives_of_every_order_and_direction() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(3, 4), torch.randn(3))
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def curved(value: torch.Tensor) -> torch.Tensor:
        return layer(layer(value.sin()).tanh() @ torch.ones(3, 4, dtype=value.dtype))

    assert torch.autograd.gradcheck(curved, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(curved, x)


def test_a_pass_keeps_no_cast_weights() -> None:
    """What autograd holds of two layers of 256 x 256 is far below their float32 weights."""
    layers = nn.Sequential(*(Int8Linear(torch.randn(256, 256), None) for _ in range(4)))
    x = torch.ones(2, 256, requires_grad=True)
    report = measure_memory(lambda meter: layers(x).sum().backward(), {"weights": layers.parameters()})
    assert report.by_kind["weights"] == 4 * 256 * 256
    assert report.live_bytes - report.by_kind["weights"] < 2 * 4 * 256 * 256


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_a_backbone_is_the_one_with_rounded_weights(family: str) -> None:
    """Hidden states and the adapters' gradients; GPT-2's layers hold their weights the other way round."""
    quantised = random_backbone(CONFIGS[family](), 0, attn_implementation="eager", dtype="int8")
    plain = random_backbone(CONFIGS[family](), 0, attn_implementation="eager")
    assert precision_of(quantised) == "int8"
    assert not is_int8(plain)
    assert linear_shapes(quantised) == linear_shapes(plain)
    with torch.no_grad():
        for name, layer in quantised.named_modules():
            if isinstance(layer, Int8Linear):
                own = plain.get_submodule(name)
                assert is_transposed(layer) == is_transposed(own)
                own.weight.copy_(dequantised(layer).t() if is_transposed(own) else dequantised(layer))  # type: ignore[operator,union-attr]
    batch = text_batch(2, 6, 0)
    found = []
    for backbone in (quantised, plain):
        model = AdapterClassifier(backbone, n_classes=3, rank=2)
        model.require_second_order()
        params = trees.require_grad(model.begin(trees.stack_tasks(model.init(0), 2), batch))
        losses = model.losses(params, batch)
        found.append((losses.detach(), *torch.autograd.grad(losses.sum(), list(params.values()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert AdapterClassifier(quantised, n_classes=3, rank=2).describe()["dtype"] == "int8"


def test_what_trains_weights_refuses_them() -> None:
    backbone = random_backbone(CONFIGS["bert"](), 0, dtype="int8")
    for start in (lambda: FullClassifier(backbone, 3), lambda: TextClassifier(backbone, 3)):
        with pytest.raises(InputError, match="needs weights in floating point, not int8"):
            start()
    with pytest.raises(InputError, match="two ways to 8 bits"):
        load_backbone("gpt2", dtype="int8", load_in_8bit=True)


@pytest.mark.skipif(not STORIES.exists(), reason="METASCALE_DATA has no stories260k")
def test_the_loss_of_a_trained_language_model_hardly_moves() -> None:
    """A model of 260,000 parameters on what it writes itself, greedily: less than 1 % of the nats a token."""
    model = load_whole(STORIES, "AutoModelForCausalLM", "eager")
    ids = model.generate(torch.tensor([[1]]), max_new_tokens=150, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        before = float(model(ids, labels=ids).loss)
        quantise(model)
        after = float(model(ids, labels=ids).loss)
    assert 0 < abs(after - before) < 0.01 * before
