"""Meta-Curvature: learnt matrices along the modes of a tensor turn its gradient before the inner step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def modes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the modes of a parameter: of a convolution outputs, inputs and the pixels of the kernel together."""
    return tuple(shape[:2]) + ((math.prod(shape[2:]),) if len(shape) > 2 else ())


def identities(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Where learning starts, for a parameter without a task axis: one matrix a mode, and for a vector (a bias, a gain)
    a factor for each element."""
    if value.ndim < 2:
        return (torch.ones_like(value),)
    return tuple(torch.eye(size, dtype=value.dtype, device=value.device) for size in modes_of(value.shape))


def turned(gradient: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """G ×₁ M₁ ×₂ M₂ ×₃ M₃ for T tasks: [T, ...] from a gradient [T, ...] and matrices [T, d, d], mode by mode.

    Meta-Curvature (Park and Oliva 2019, arXiv 1902.03356, section 3.2): the inner step θ − a · vec⁻¹((M₁ ⊗ M₂ ⊗ M₃)
    vec G), with the matrices meta-learnt. One factor [T, d] or [T] stands for the matrix of a vector or a number.
    """
    if gradient.ndim < 3:
        return gradient * matrices[0]
    tensor = gradient.reshape(gradient.shape[0], *modes_of(gradient.shape[1:]))
    for mode, matrix in enumerate(matrices, 1):
        rows = tensor.movedim(mode, 1)
        tensor = torch.bmm(matrix, rows.flatten(2)).view(rows.shape).movedim(1, mode)
    return tensor.reshape(gradient.shape)
