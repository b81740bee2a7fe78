"""A mixture of experts in which every token goes through one of them (Fedus et al. 2021, Switch Transformer)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from metascale.core.types import Params
from metascale.models.kernels.linear import linear
from metascale.models.network import normal

Gate = Literal["probability", "published"]


def init_mixture(seed: int, name: str, n_experts: int, d_model: int, d_hidden: int, scale: float) -> Params:
    """Router [E, d] and experts ``.up`` [E, h, d], ``.down`` [E, d, h] and biases; ``scale`` multiplies ``down``."""
    inward = 1 / math.sqrt(d_model)
    return {
        f"{name}.router": normal(seed, f"{name}.router", n_experts, d_model, std=inward),
        f"{name}.router_bias": torch.zeros(n_experts),
        f"{name}.up": normal(seed, f"{name}.up", n_experts, d_hidden, d_model, std=math.sqrt(2) * inward),
        f"{name}.up_bias": torch.zeros(n_experts, d_hidden),
        f"{name}.down": normal(seed, f"{name}.down", n_experts, d_model, d_hidden, std=scale / math.sqrt(d_hidden)),
        f"{name}.down_bias": torch.zeros(n_experts, d_model),
    }


def mixture(params: Params, name: str, tokens: torch.Tensor, gate: Gate) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen expert's output for ``tokens`` [n, d], and the load-balancing loss.

    Args:
        gate: ``"probability"``: the output is scaled by the expert's probability among all experts, which is how the
            router learns. ``"published"``: by a softmax over the chosen logit alone, which is always 1, so that the
            router never learns.

    Returns:
        [n, d], and E·Σ_e (share of tokens of e)·(mean probability of e): 1 when both are even, at most E.
    """
    logits = linear(tokens, params[f"{name}.router"], params[f"{name}.router_bias"])
    probabilities = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.argmax(1)
    counts = torch.bincount(chosen, minlength=logits.shape[1])
    order = chosen.argsort(stable=True)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    outputs = [
        linear(F.relu(linear(own, up, up_bias)), down, down_bias)
        for own, up, up_bias, down, down_bias in zip(
            _Permute.apply(tokens, order, places).split(counts.tolist()),
            *(params[f"{name}.{part}"].unbind(0) for part in ("up", "up_bias", "down", "down_bias")),
            strict=True,
        )
    ]
    result: torch.Tensor = _Permute.apply(torch.cat(outputs), places, order)
    if gate == "probability":
        result = result * probabilities.gather(1, chosen.unsqueeze(1)).to(result.dtype)
    shares = counts.to(probabilities.dtype) / len(tokens)
    return result, len(shares) * (shares * probabilities.mean(0)).sum()


class _Permute(torch.autograd.Function):
    """Rows in another order; the gradient gathers by the inverse order, where torch's own would scatter and add."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def mixture_flops(n_tokens: int, n_experts: int, d_model: int, d_hidden: int) -> dict[str, float]:
    """Forward floating-point operations of ``n_tokens``: the router reads all, each token passes one expert."""
    return {
        "router": float(n_tokens * 2 * n_experts * d_model),
        "experts": float(n_tokens * 2 * 2 * d_model * d_hidden),
    }
