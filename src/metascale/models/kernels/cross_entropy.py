"""Cross-entropy of a linear readout without ever holding all logits: chunk by chunk, the gradient taken on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from metascale.core.columns import IGNORED
from metascale.models.kernels.linear import add_of_columns, linear

_CHUNK_LOGITS = 1 << 22  # 16 MB of float32: a chunk stays in the last cache of a processor


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy (nats) of the logits ``hidden @ weight.T + bias``, and every target's own, without history.

    Logits are made once, in pieces that fit the cache, and the gradient of the mean is taken while a piece is there:
    the memory is that of a piece, and the traffic a fraction of that of separate products, softmax and loss.

    Args:
        hidden: [n, d].
        weight: [V, d].
        bias: [V], or ``None``.
        targets: [n] integers below V; `IGNORED` ones count for nothing and have loss 0.
    """
    mean, losses = _LinearCrossEntropy.apply(hidden, weight, bias, targets)
    return mean, losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        read = weight.to(hidden.dtype)  # under autocast the products are in the lower precision, the softmax is not
        counted = targets != IGNORED
        wanted = ctx.needs_input_grad[:3]
        losses = torch.empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        share = counted.to(losses.dtype) / counted.sum().clamp_min(1)
        grad_hidden = torch.empty_like(hidden) if any(wanted) else None
        grad_weight = torch.zeros_like(read) if wanted[1] else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=losses.dtype) if wanted[2] else None
        rows = max(1, _CHUNK_LOGITS // len(weight))
        for start in range(0, len(hidden), rows):
            piece = slice(start, start + rows)
            own, target = hidden[piece], targets[piece].clamp_min(0).unsqueeze(1)
            logits = linear(own, read).to(losses.dtype)
            if bias is not None:
                logits += bias
            top, chosen = logits.amax(1), logits.gather(1, target).squeeze(1)
            slopes = torch.softmax(logits, 1)
            losses[piece] = (top - chosen - slopes.amax(1).log()) * counted[piece]
            if grad_hidden is None:
                continue
            slopes.scatter_add_(1, target, torch.full_like(slopes[:, :1], -1.0))
            slopes = slopes.mul_(share[piece].unsqueeze(1))
            if grad_bias is not None:
                grad_bias += slopes.sum(0)
            slopes = slopes.to(hidden.dtype)
            grad_hidden[piece] = linear(slopes, read.t())
            if grad_weight is not None:
                add_of_columns(grad_weight, slopes, own)
        grads = (grad_hidden if wanted[0] else None, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(losses)
        return (losses * share).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = (
            None if grad is None else (grad * slope.to(grad.dtype)).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None)
