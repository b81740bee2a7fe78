"""Linear layers by oneDNN where PyTorch's own way to them leaves half of the processor idle.

PyTorch takes float32 matrix products to Intel's MKL, which on AMD's processors uses instructions of 256 bits. oneDNN,
in the same build of PyTorch, uses those of 512 bits. Processors that execute these at full width (AMD's family 26, Zen
5) gain a factor of 2 by it; earlier ones gain nothing. The choice depends on the processor and on the shapes alone,
never on a measurement, so that a run and its resumption on one machine take the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LEAST_PRODUCTS = 2**22
"""Multiplications below which oneDNN's preparations cost more than it saves."""

FULL_WIDTH_FAMILY = 26
"""The first family of AMD's processors that executes 512 bits at once."""


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x weightᵀ + bias, as ``torch.nn.functional.linear``: [..., out] from x [..., in] and weight [out, in].

    Differentiable any number of times in reverse, and in forward mode. The last bits may differ from PyTorch's.
    """
    if not _pays(x, weight):
        return F.linear(x, weight, bias)
    return _product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], weight.shape[0])


def linear_added(to: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """to + x weightᵀ, for ``to`` [..., out]: one product that starts from it, or `linear` and a sum."""
    if _pays(x, weight):
        return to + linear(x, weight)
    added = torch.addmm(to.flatten(0, -2), x.flatten(0, -2), weight.t())
    return added.view(to.shape)


def add_of_columns(to: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """to += leftᵀ right, for ``to`` [M, N], left [K, M], right [K, N]. Without derivatives."""
    if _pays(left.t(), right.t()):
        to += _of_columns(left, right)
    else:
        to.addmm_(left.t(), right)


def forward_of(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """A ``forward`` for a layer: `linear` of its weight and bias at the time of the call."""
    return _Forward(layer)


class _Forward:
    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.layer.weight, self.layer.bias)


def forward_of_columns(layer: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same for a layer whose weight is [in, out], as GPT-2's are; where oneDNN does not pay its own ``forward``."""
    return _ForwardOfColumns(layer)


class _ForwardOfColumns:
    def __init__(self, layer: Any) -> None:
        self.layer, self.base = layer, layer.forward

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.layer.weight.t()
        result: torch.Tensor = linear(x, weight, self.layer.bias) if _pays(x, weight) else self.base(x)
        return result


@functools.cache
def gains() -> bool:
    """Whether this machine's float32 products are faster by oneDNN (see the module)."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.mkl.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return False
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in described.split("\n"))}
    family = facts.get("cpu family", "")
    return facts.get("vendor_id") == "AuthenticAMD" and family.isdigit() and int(family) >= FULL_WIDTH_FAMILY


def _pays(x: torch.Tensor, weight: torch.Tensor) -> bool:
    plain = type(x) is torch.Tensor and type(weight) in (torch.Tensor, nn.Parameter)
    if not plain or x.dtype != torch.float32 or weight.dtype != torch.float32 or x.device.type != "cpu":
        return False
    if weight.device.type != "cpu" or x.numel() * weight.shape[0] < LEAST_PRODUCTS or not gains():
        return False
    traced = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
    return not traced and not torch.is_autocast_enabled("cpu")


def _product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """left rightᵀ + bias: [M, N] from [M, K] and [N, K]; without history where autograd is off."""
    if not torch.is_grad_enabled():
        return _compute(left, right, bias)
    result: torch.Tensor = _Product.apply(left, right, bias)
    return result


def _compute(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return result


def _of_columns(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """leftᵀ right: [M, N] from [K, M] and [K, N]. The kernel copies its first operand: that is the smaller one."""
    if left.shape[1] <= right.shape[1]:
        return _product(left.t(), right.t())
    return _product(right.t(), left.t()).t()


class _Product(torch.autograd.Function):
    """Linear in each of the two factors, so every derivative is a product again."""

    @staticmethod
    def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(left, right)
        ctx.save_for_forward(left, right)
        ctx.set_materialize_grads(False)
        return _compute(left, right, bias)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        if given is None:
            return None, None, None
        left, right = ctx.saved_tensors
        wants_left, wants_right, wants_bias = ctx.needs_input_grad
        return (
            _product(given, right.t()) if wants_left else None,
            _of_columns(given, left) if wants_right else None,
            given.sum(0) if wants_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor | None:
        left, right = ctx.saved_tensors
        of_left, of_right, of_bias = tangents
        parts = []
        if of_left is not None:
            parts.append(_product(of_left, right))
        if of_right is not None:
            parts.append(_product(left, of_right))
        if of_bias is not None:
            parts.append(of_bias.expand(left.shape[0], -1))
        return functools.reduce(torch.add, parts) if parts else None
