"""3×3 convolutions whose second derivatives cost what they must.

PyTorch takes the second derivatives of a convolution by way of general, transposed and grouped convolutions. Here all
of them are the three convolutions that a gradient needs anyway, in the layout of their operands.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

OUTPUT, INPUT, WEIGHT = 0, 1, 2
"""The three places of the form ⟨output, input ∗ weight⟩."""

Place: TypeAlias = int


def convolve(x: torch.Tensor, weight: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """[N, out, H, W] from x [N, in, H, W] and weight [out, in/groups, 3, 3]: stride 1, zeros around the image.

    Differentiable any number of times in reverse, and in forward mode (``torch.autograd.forward_ad``).
    """
    return _partial(OUTPUT, x, weight.contiguous(memory_format=_layout(x)), groups)


def _partial(missing: Place, first: torch.Tensor, second: torch.Tensor, groups: int) -> torch.Tensor:
    """With history where autograd is on; the bare kernel elsewhere, since a Function costs more than a small kernel."""
    if not torch.is_grad_enabled():
        return _compute(missing, first, second, groups)
    result: torch.Tensor = _Partial.apply(first, second, missing, groups)
    return result


def _compute(missing: Place, first: torch.Tensor, second: torch.Tensor, groups: int) -> torch.Tensor:
    """The gradient of ⟨output, input ∗ weight⟩ for the missing tensor, given the two others in order."""
    layout = _layout(first)
    second = second.contiguous(memory_format=layout)
    if missing == OUTPUT:
        return F.conv2d(first, second, padding=1, groups=groups)
    if missing == INPUT:
        shape = (first.shape[0], groups * second.shape[1], *first.shape[2:])
    else:
        shape = (first.shape[1], second.shape[1] // groups, 3, 3)
    absent = torch.empty(shape, dtype=first.dtype, device=first.device, memory_format=layout)  # only its shape is read
    x, weight = (absent, second) if missing == INPUT else (second, absent)
    wanted = [missing == INPUT, missing == WEIGHT, False]
    found = torch.ops.aten.convolution_backward(
        first, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups, wanted
    )
    result: torch.Tensor = found[missing - 1]
    return result


def _layout(x: torch.Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


_KNOWN = {OUTPUT: (INPUT, WEIGHT), INPUT: (OUTPUT, WEIGHT), WEIGHT: (OUTPUT, INPUT)}


class _Partial(torch.autograd.Function):
    """`_compute`. The form is linear in each of its three tensors, so the derivative of one partial is another."""

    @staticmethod
    def forward(ctx: Any, first: torch.Tensor, second: torch.Tensor, missing: Place, groups: int) -> torch.Tensor:
        ctx.missing, ctx.groups = missing, groups
        ctx.save_for_backward(first, second)
        ctx.save_for_forward(first, second)
        ctx.set_materialize_grads(False)
        return _compute(missing, first, second, groups)

    @staticmethod
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """``given`` takes the missing place; each of the operands in turn becomes the missing one."""
        first, second = ctx.saved_tensors
        given = given.contiguous(memory_format=_layout(first))
        left, right = _KNOWN[ctx.missing]
        wants_first, wants_second = ctx.needs_input_grad[:2]
        return (
            _in_order(left, ctx.missing, given, right, second, ctx.groups) if wants_first else None,
            _in_order(right, ctx.missing, given, left, first, ctx.groups) if wants_second else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor:
        first, second = ctx.saved_tensors
        parts = []
        if tangents[0] is not None:
            parts.append(_partial(ctx.missing, tangents[0], second, ctx.groups))
        if tangents[1] is not None:
            parts.append(_partial(ctx.missing, first, tangents[1], ctx.groups))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _in_order(
    missing: Place, place: Place, given: torch.Tensor, other_place: Place, other: torch.Tensor, groups: int
) -> torch.Tensor:
    first, second = (given, other) if place < other_place else (other, given)
    return _partial(missing, first, second, groups)
