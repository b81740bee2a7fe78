"""Batch normalisation, 2×2 max-pooling and ReLU as one operation with a second derivative written out.

Composed from PyTorch's own operations, the second derivative takes many more passes over the image.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

EPSILON = 1e-5
"""Added to variances before the square root is taken."""

POOL = ([2, 2], [2, 2], [0, 0], [1, 1], False)
"""Kernel, stride, padding, dilation and rounding of the pooling."""


def normalised_pooling(x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """relu(maxpool(gain · (x − mean)/sqrt(variance + ε) + shift)): [N, C, H/2, W/2] from x [N, C, H, W].

    The statistics are those of the batch. Differentiable any number of times in reverse, once in forward mode.
    """
    result: torch.Tensor = _NormalisedPooling.apply(x, gain, shift)
    return result


class _NormalisedPooling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        normal, mean, rate = torch.native_batch_norm(x, gain, shift, None, None, True, 0.0, EPSILON)
        pooled, where = F.max_pool2d(normal, 2, return_indices=True)
        pooled = pooled.relu_()
        ctx.save_for_backward(x, gain, mean, rate, where, pooled)
        ctx.save_for_forward(x, gain, mean, rate, where, pooled)
        ctx.set_materialize_grads(False)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, gain, mean, rate, where, pooled = ctx.saved_tensors
        result: tuple[torch.Tensor, ...] = _Backward.apply(grad, x, gain, mean, rate, where, pooled.detach())
        return result

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor:
        x, gain, mean, rate, where, pooled = ctx.saved_tensors
        normal = (_rows(x) - mean) * rate
        change = torch.zeros_like(normal)
        if tangents[0] is not None:
            step = _rows(tangents[0])
            change = gain * rate * (step - step.mean(0) - normal * (step * normal).mean(0))
        if tangents[1] is not None:
            change = change + tangents[1] * normal
        if tangents[2] is not None:
            change = change + tangents[2]
        return torch.ops.aten.threshold_backward(_pooled_at(change, x, where), pooled, 0)


class _Backward(torch.autograd.Function):
    """Gradients for x, gain and shift, as a function of the output's gradient, x and gain.

    With x̂ = rate · (x − mean), ⟨·⟩ the mean over the M values of a channel, P q = q − ⟨q⟩ − x̂⟨q x̂⟩ and g the output's
    gradient brought back through ReLU and pooling: (gain · rate · P g, Σ g x̂, Σ g). Since dx̂ = rate · P dx and
    d rate = −rate² ⟨x̂ dx⟩, weights (a, b, c) on the three give

        for g:    gain · rate · P a + b x̂ + c
        for gain: rate · Σ a P g
        for x:    rate · P q − gain · rate² · (Σ a P g / M) · x̂,
                  with q = (b − gain · rate · ⟨a x̂⟩) g − gain · rate · ⟨g x̂⟩ a
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: torch.Tensor,
        x: torch.Tensor,
        gain: torch.Tensor,
        mean: torch.Tensor,
        rate: torch.Tensor,
        where: torch.Tensor,
        pooled: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(grad, x, gain, mean, rate, where, pooled)
        ctx.set_materialize_grads(False)
        full = _unpooled(grad, x, where, pooled)
        found: tuple[torch.Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
            full, x, gain, None, None, mean, rate, True, EPSILON, [True, True, True]
        )
        return found

    @staticmethod
    def backward(ctx: Any, *weights: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        grad, x, gain, mean, rate, where, pooled = ctx.saved_tensors
        images, full = _rows(x), _rows(_unpooled(grad, x, where, pooled))
        if torch.is_grad_enabled():  # a third derivative is asked for: the statistics depend on x
            mean = images.mean(0)
            rate = ((images - mean).square().mean(0) + EPSILON).rsqrt()
        a = torch.zeros_like(images) if weights[0] is None else _rows(weights[0])
        b, c = (torch.zeros_like(gain) if weight is None else weight for weight in weights[1:])
        a_mean, g_mean = a.mean(0), full.mean(0)
        a_normal = rate * ((a * images).mean(0) - mean * a_mean)  # ⟨a x̂⟩
        g_normal = rate * ((full * images).mean(0) - mean * g_mean)
        a_g = (a * full).mean(0) - a_mean * g_mean - a_normal * g_normal  # Σ a P g / M
        strength = gain * rate
        of_g, of_a = b - strength * a_normal, -strength * g_normal  # q = of_g · g + of_a · a
        slope = rate * of_g  # of x in the gradient for g
        for_g = torch.addcmul(c - strength * a_mean - slope * mean, images, slope).addcmul_(a, strength)
        q_mean, q_normal = of_g * g_mean + of_a * a_mean, of_g * g_normal + of_a * a_normal
        curved = -rate.square() * (q_normal + strength * a_g)  # of x in the gradient for x
        for_x = torch.addcmul(-rate * q_mean - curved * mean, images, curved)
        for_x = for_x.addcmul_(full, slope).addcmul_(a, rate * of_a)
        for_grad = torch.ops.aten.threshold_backward(_pooled_at(for_g, x, where), pooled, 0)
        return for_grad, _image(for_x, x), len(full) * rate * a_g, None, None, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[N·H·W, C] of an image [N, C, H, W]: a view in channels-last layout, so that channels need no reshaping."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W], where it came from."""
    n_examples, _, height, width = like.shape
    return rows.view(n_examples, height, width, -1).permute(0, 3, 1, 2)


def _unpooled(grad: torch.Tensor, x: torch.Tensor, where: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """The gradient before ReLU and pooling, zero everywhere but at the maxima."""
    active = torch.ops.aten.threshold_backward(grad, pooled, 0)
    result: torch.Tensor = torch.ops.aten.max_pool2d_with_indices_backward(active, x, *POOL, where)
    return result


def _pooled_at(rows: torch.Tensor, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The values [N, C, H/2, W/2] at the maxima."""
    n_examples, n_channels, *size = where.shape
    chosen = rows.view(n_examples, -1, n_channels).gather(1, _rows(where).view(n_examples, -1, n_channels))
    return chosen.view(n_examples, *size, n_channels).permute(0, 3, 1, 2)
