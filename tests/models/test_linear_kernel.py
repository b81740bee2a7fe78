"""Linear layers by oneDNN: the same numbers, derivatives and counts as PyTorch's own way, on any processor."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from transformers.pytorch_utils import Conv1D

from metascale.core.types import Batch
from metascale.models.kernels import attention
from metascale.models.kernels import linear as kernel
from metascale.models.kernels.attention import ShortAttention
from metascale.models.kernels.linear import add_of_columns, forward_of, forward_of_columns, linear, linear_added
from metascale.models.resnet_bk import ResNetBK
from metascale.models.text.lora import attach
from metascale.training.coordinate_check import activations
from metascale.training.flops import count_flops
from tests.models.tiny_backbones import tiny


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN for products of any size; the shapes of its results."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of PyTorch has no linear layer of oneDNN")
    made: list[tuple[int, ...]] = []
    compute = kernel._compute

    def noted(*tensors: torch.Tensor | None) -> torch.Tensor:
        result = compute(*tensors)
        made.append(tuple(result.shape))
        return result

    monkeypatch.setattr(kernel, "gains", lambda: True)
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(kernel, "_compute", noted)
    return made


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 3), (3, 7)])
def test_value_gradients_and_second_derivatives_are_those_of_float64(
    calls: list[tuple[int, ...]], n_in: int, n_out: int
) -> None:
    given = tensors((2, 4, n_in), (n_out, n_in), (n_out,))

    def derivatives(function: object, dtype: torch.dtype) -> list[torch.Tensor]:
        x, weight, bias = (value.to(dtype).requires_grad_() for value in given)
        y = function(x, weight, bias)
        first = torch.autograd.grad(y.pow(3).sum(), (x, weight, bias), create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, weight, bias))
        return [y, *first, *second]

    for found, expected in zip(derivatives(linear, torch.float32), derivatives(F.linear, torch.float64), strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(
            found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max())
        )
    assert len(calls) >= 6  # the value, two first derivatives, their derivatives


def test_only_the_derivatives_that_are_wanted_are_computed(calls: list[tuple[int, ...]]) -> None:
    x, weight = tensors((6, 4), (3, 4))
    linear(x, weight.requires_grad_()).sum().backward()
    assert calls == [(6, 3), (3, 4)]


def test_a_weight_gradient_copies_the_smaller_factor(calls: list[tuple[int, ...]]) -> None:
    x, weight = tensors((6, 3), (7, 3))
    linear(x, weight.requires_grad_()).sum().backward()
    assert calls == [(6, 7), (3, 7)]
    torch.testing.assert_close(weight.grad, x.sum(0).expand(7, 3))


def test_forward_mode(calls: list[tuple[int, ...]]) -> None:
    x, weight, bias, dx, dweight, dbias = tensors((4, 5), (3, 5), (3,), (4, 5), (3, 5), (3,))
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, at the first use of forward mode
        duals = [forward_ad.make_dual(*pair) for pair in ((x, dx), (weight, dweight), (bias, dbias))]
        change = forward_ad.unpack_dual(linear(*duals)).tangent
    torch.testing.assert_close(change, dx @ weight.T + x @ dweight.T + dbias)
    assert calls


def test_sums_that_start_from_something(calls: list[tuple[int, ...]]) -> None:
    stream, x, weight, left, right, total = tensors((2, 3, 4), (2, 3, 5), (4, 5), (6, 2), (6, 3), (2, 3))
    torch.testing.assert_close(linear_added(stream, x, weight), stream + x @ weight.T)
    expected = total + left.T @ right
    add_of_columns(total, left, right)
    torch.testing.assert_close(total, expected)
    assert len(calls) == 2


def test_what_it_is_not_for_goes_pytorchs_way(calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = tensors((4, 5), (3, 5))
    assert linear(x.double(), weight.double()).dtype == torch.float64
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(linear, (0, None))(x, weight), x @ weight.T)
    assert not calls
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 61)
    linear(x, weight)
    assert not calls
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 60)  # 4 · 5 · 3
    linear(x, weight)
    assert calls == [(4, 3)]


def test_operations_are_counted(calls: list[tuple[int, ...]]) -> None:
    x, weight = tensors((2, 4, 5), (3, 5))
    assert count_flops(lambda: linear(x, weight)) == 2 * 8 * 5 * 3


def test_a_coordinate_check_sees_the_same_activations(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ResNetBK(n_vocab=7, d_model=8, n_layers=1, n_positions=6)
    batch = Batch({"input_ids": torch.arange(6).view(1, 6)}, torch.arange(6).view(1, 6))
    by_onednn = activations(model, model.init(0), batch)
    assert calls
    monkeypatch.setattr(kernel, "gains", lambda: False)
    expected = activations(model, model.init(0), batch)
    assert by_onednn.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(by_onednn[name], value)


def test_a_layers_weight_is_read_at_every_call() -> None:
    layer = nn.Linear(5, 3)
    forward = forward_of(layer)
    (x,) = tensors((4, 5))
    with torch.no_grad():
        layer.weight.zero_()
    torch.testing.assert_close(forward(x), layer.bias.expand(4, 3))


def test_layers_of_gpt2_too(calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weight is [in, out]; values and both derivatives of the input, and their own way where it does not pay."""
    layer = Conv1D(3, 5)
    forward = forward_of_columns(layer)
    (given,) = tensors((2, 4, 5))

    def derivatives(function: object, dtype: torch.dtype) -> list[torch.Tensor]:
        x = given.to(dtype).requires_grad_()
        y = function(x)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return [y, first, *torch.autograd.grad(first.pow(2).sum(), x)]

    found = derivatives(forward, torch.float32)
    assert calls[:2] == [(8, 3), (8, 5)]
    exact = copy.deepcopy(layer).double()
    for one, other in zip(found, derivatives(exact, torch.float64), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))
    monkeypatch.setattr(kernel, "gains", lambda: False)
    assert torch.equal(forward(given), layer(given))


def test_a_backbone_with_layers_of_gpt2_takes_them(calls: list[tuple[int, ...]]) -> None:
    backbone = copy.deepcopy(tiny("gpt2"))
    ids = torch.arange(8).view(2, 4)
    expected = backbone(ids).last_hidden_state
    made = len(calls)
    attach(backbone, ["h.0.attn.c_attn"])
    torch.testing.assert_close(backbone(ids).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == made + 2 * 4  # four of such layers in each of two blocks


@pytest.mark.parametrize(
    ("vendor", "family", "expected"),
    [
        ("AuthenticAMD", "26", True),
        ("AuthenticAMD", "25", False),
        ("GenuineIntel", "26", False),
        ("AuthenticAMD", "", False),
    ],
)
def test_the_choice_follows_the_processor(
    vendor: str, family: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\n\nprocessor\t: 1\n"
    monkeypatch.setattr(kernel.Path, "read_text", lambda path, encoding: described)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert kernel.gains.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert kernel.gains.__wrapped__() is False


def test_short_attention_in_half_precision_is_that_of_float32_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value, bias = (part.bfloat16() for part in tensors(*[(2, 3, 6, 4)] * 3, (2, 3, 6, 6)))
    exact = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=bias.float())
    with ShortAttention():
        found = F.scaled_dot_product_attention(query, key, value=value, attn_mask=bias)
        assert F.scaled_dot_product_attention(query.float(), key.float(), value.float()).dtype == torch.float32
    assert torch.equal(found, exact.bfloat16())
    monkeypatch.setattr(attention, "LONGEST", 5)
    plain = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    with ShortAttention():
        assert torch.equal(F.scaled_dot_product_attention(query, key, value, attn_mask=bias), plain)
        few = F.scaled_dot_product_attention(query[:, :, :2], key, value, attn_mask=bias[:, :, :2])
    assert not torch.equal(plain, found)
    # The number of keys decides, however few the queries.
    assert torch.equal(few, F.scaled_dot_product_attention(query[:, :, :2], key, value, attn_mask=bias[:, :, :2]))
    assert not torch.equal(few, found[:, :, :2])
