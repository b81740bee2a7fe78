"""Normalisation, 2×2 max-pooling and ReLU as one operation with its second derivative written out.

`normalised_pooling` takes an image: composed from PyTorch's own operations, its second derivative would take many more
passes over the image. `pooled_patches` is the first block of a network on images that stay the same, without the
convolution's full output: the statistics of a linear function of the patches follow from those of the patches
(`patch_moments`), so the normalisation is folded into the weights before the convolution; and each 2×2 maximum sees one
4×4 patch, of which one matrix product gives all four candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
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
        return _where_active(_pooled_at(change, x, where), pooled)


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
        for_grad = _where_active(_pooled_at(for_g, x, where), pooled)
        return for_grad, _image(for_x, x), len(full) * rate * a_g, None, None, None, None


def _where_active(values: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """``values`` where the output of ReLU is above zero, and zero elsewhere."""
    result: torch.Tensor = torch.ops.aten.threshold_backward(values, pooled, 0)
    return result


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[N·H·W, C] of an image [N, C, H, W]: a view in channels-last layout, so that channels need no reshaping."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W], where it came from."""
    n_examples, _, height, width = like.shape
    return rows.view(n_examples, height, width, -1).permute(0, 3, 1, 2)


def _unpooled(grad: torch.Tensor, x: torch.Tensor, where: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """The gradient before ReLU and pooling, zero everywhere but at the maxima."""
    active = _where_active(grad, pooled)
    result: torch.Tensor = torch.ops.aten.max_pool2d_with_indices_backward(active, x, *POOL, where)
    return result


def _pooled_at(rows: torch.Tensor, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The values [N, C, H/2, W/2] at the maxima."""
    n_examples, n_channels, *size = where.shape
    chosen = rows.view(n_examples, -1, n_channels).gather(1, _rows(where).view(n_examples, -1, n_channels))
    return chosen.view(n_examples, *size, n_channels).permute(0, 3, 1, 2)


PATCHES_AT_ONCE = 1024
"""Patches in one matrix product on a CPU, so that the candidates stay in its cache."""


def patch_moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [T, 9C] and covariance [T, 9C, 9C] of the 3×3 patches around every pixel of images [T, B, C, H, W]."""
    patches = F.unfold(images.flatten(0, 1), 3, padding=1).unflatten(0, images.shape[:2])
    mean = patches.mean((1, 3))
    centred = patches - mean[:, None, :, None]
    return mean, torch.matmul(centred, centred.transpose(-1, -2)).sum(1) / (patches.shape[1] * patches.shape[3])


def pooled_patches(images: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """relu(maxpool(convolution + shift)), 2×2, zeros around the image: [T, B, H/2, W/2, out].

    Differentiable any number of times in reverse for ``weight`` and ``shift``, not for the images; and in forward mode.

    Args:
        images: [T, B, C, H, W].
        weight: [T, out, C, 3, 3].
        shift: [T, out].
    """
    n_tasks, n_examples, _, height, width = images.shape
    patches = F.unfold(images.flatten(0, 1), 4, padding=1, stride=2).transpose(1, 2)
    patches = patches.reshape(n_tasks, -1, patches.shape[2])
    pooled: torch.Tensor = _PooledPatches.apply(weight, shift, patches)
    return pooled.view(n_tasks, n_examples, height // 2, width // 2, -1)


POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Where a 3×3 window starts in a 4×4 patch: the four candidates of a maximum, in the order of pooling."""


def _candidates(weight: torch.Tensor) -> torch.Tensor:
    """[T, 16C, 4·out]: for every position, the weights [T, out, C, 3, 3] placed in the 4×4 patch."""
    placed = weight.new_zeros(weight.shape[0], weight.shape[2], 4, 4, 4, weight.shape[1])
    weight = weight.permute(0, 2, 3, 4, 1)
    for number, (i, j) in enumerate(POSITIONS):
        placed[:, :, i : i + 3, j : j + 3, number] = weight
    return placed.flatten(4).flatten(1, 3)


def _from_candidates(matrix: torch.Tensor, n_out: int) -> torch.Tensor:
    """The transpose of `_candidates`."""
    placed = matrix.view(matrix.shape[0], -1, 4, 4, 4, n_out)
    parts = [placed[:, :, i : i + 3, j : j + 3, number] for number, (i, j) in enumerate(POSITIONS)]
    return torch.stack(parts).sum(0).permute(0, 4, 1, 2, 3)


def _slices(patches: torch.Tensor) -> Iterator[slice]:
    n_tasks, n_rows, _ = patches.shape
    size = max(1, PATCHES_AT_ONCE // n_tasks) if patches.device.type == "cpu" else n_rows
    for start in range(0, n_rows, size):
        yield slice(start, start + size)


def _largest(patches: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """relu(max over the four candidates + shift) [T, R, out], and which of the four it was."""
    n_tasks, n_rows, _ = patches.shape
    matrix = _candidates(weight)
    pooled = shift.new_empty(n_tasks, n_rows, shift.shape[1])
    where = torch.empty(pooled.shape, dtype=torch.uint8, device=shift.device)
    for rows in _slices(patches):
        products = torch.bmm(patches[:, rows], matrix).unflatten(2, (4, -1))  # [T, rows, 4, out]
        largest, index = F.max_pool2d(products.permute(0, 3, 1, 2), (1, 4), return_indices=True)
        pooled[:, rows] = largest.squeeze(3).transpose(1, 2)
        where[:, rows] = index.squeeze(3).transpose(1, 2) & 3
    return pooled.add_(shift.unsqueeze(1)).relu_(), where


def _gather(
    patches: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, where: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """The chosen candidates, plus ``shift``; zero where the output was."""
    matrix = _candidates(weight)
    chosen = torch.empty_like(pooled)
    for rows in _slices(patches):
        products = torch.bmm(patches[:, rows], matrix).unflatten(2, (4, -1))
        chosen[:, rows] = products.gather(2, where[:, rows].long().unsqueeze(2)).squeeze(2)
    return _where_active(chosen.add_(shift.unsqueeze(1)), pooled)


def _scatter(
    grad: torch.Tensor, patches: torch.Tensor, where: torch.Tensor, pooled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The transpose of `_gather`: gradients for the weight and the shift."""
    active = _where_active(grad, pooled)
    n_tasks, n_out = active.shape[0], active.shape[2]
    matrix = active.new_zeros(n_tasks, patches.shape[2], 4 * n_out)
    for rows in _slices(patches):
        part = active[:, rows]
        full = part.new_zeros(n_tasks, part.shape[1], 4, n_out)
        full.scatter_(2, where[:, rows].long().unsqueeze(2), part.unsqueeze(2))
        matrix += torch.bmm(patches[:, rows].transpose(1, 2), full.flatten(2))
    return _from_candidates(matrix, n_out), active.sum(1)


class _PooledPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, shift: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        pooled, where = _largest(patches, weight, shift)
        ctx.save_for_backward(patches, where, pooled)
        ctx.save_for_forward(patches, where, pooled)
        ctx.set_materialize_grads(False)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        patches, where, pooled = ctx.saved_tensors
        return *_Scatter.apply(grad, patches, where, pooled.detach()), None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor:
        patches, where, pooled = ctx.saved_tensors
        n_tasks, _, n_out = pooled.shape
        weight, shift, images = tangents
        if images is not None:
            raise NotImplementedError("pooled_patches has no derivative in the images")
        weight = pooled.new_zeros(n_tasks, n_out, patches.shape[2] // 16, 3, 3) if weight is None else weight
        shift = pooled.new_zeros(n_tasks, n_out) if shift is None else shift
        return _gather(patches, weight, shift, where, pooled)


class _Scatter(torch.autograd.Function):
    """`_scatter`, linear in ``grad``; its derivative is `_Gather`, and that one's is `_Scatter`."""

    @staticmethod
    def forward(
        ctx: Any, grad: torch.Tensor, patches: torch.Tensor, where: torch.Tensor, pooled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(patches, where, pooled)
        return _scatter(grad, patches, where, pooled)

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _Gather.apply(weight, shift, *ctx.saved_tensors), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: torch.Tensor,
        shift: torch.Tensor,
        patches: torch.Tensor,
        where: torch.Tensor,
        pooled: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(patches, where, pooled)
        return _gather(patches, weight, shift, where, pooled)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *_Scatter.apply(grad, *ctx.saved_tensors), None, None, None
