"""Frozen linear layers in 8 bits: a quarter of the float32 weights' memory, for the cost of a cast in every pass.

Row o of a weight W [out, in] is kept as integers q = round(W / s) in ±127 with one scale s = max |W_o| / 127 (absolute
maximum, symmetric, as LLM.int8() of Dettmers et al. 2022, arXiv 2208.07339, without its split of outliers). The weights
alone are rounded: a pass casts one layer's integers to the precision of its input, multiplies, and scales the outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metascale.models.kernels.linear import linear

LARGEST = 127


class Int8Linear(nn.Linear):
    """A frozen linear layer in 8 bits. Differentiable in its input, any number of times.

    Args:
        weight: [out, in] of the layer that it stands for.
        bias: [out], or ``None``; kept as it is.
        transposed: the layer was GPT-2's ``Conv1D``, whose own weight is [in, out].
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool = False) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.transposed = transposed
        weight = weight.detach()
        scale = weight.abs().amax(1) / LARGEST
        safe = torch.where(scale > 0, scale, 1.0)
        rounded = (weight / safe[:, None]).round().to(torch.int8)
        self.register_parameter("weight", nn.Parameter(rounded, requires_grad=False))
        self.register_buffer("scale", scale)
        own = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", own)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = _Product.apply(input, self.weight, False)
        scaled = product * self.get_buffer("scale").to(product.dtype)
        return scaled if self.bias is None else scaled + self.bias.to(product.dtype)


def quantise(module: nn.Module) -> None:
    """Put `Int8Linear` in the place of every linear layer inside ``module``, GPT-2's ``Conv1D`` included.

    Embeddings, norms and biases stay as they are.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child.weight, child.bias))
            elif type(child).__name__ == "Conv1D":
                weight, bias = child.get_parameter("weight"), child.get_parameter("bias")
                setattr(parent, name, Int8Linear(weight.t(), bias, transposed=True))


def is_int8(module: nn.Module) -> bool:
    """Whether `quantise` was here."""
    return any(isinstance(child, Int8Linear) for child in module.modules())


class _Product(torch.autograd.Function):
    """x Wᵀ, or x W, with the integers W [out, in], which it keeps as they are; its derivative in x is the other one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, backwards: bool) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)
        ctx.backwards = backwards
        cast = weight.to(x.dtype)
        return linear(x, cast.t() if backwards else cast)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _Product.apply(given, weight, not ctx.backwards), None, None

    @staticmethod
    def jvp(ctx: Any, along: torch.Tensor, *others: object) -> torch.Tensor:
        (weight,) = ctx.saved_tensors
        result: torch.Tensor = _Product.apply(along, weight, ctx.backwards)
        return result
