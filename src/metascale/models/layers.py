"""Initial weights, and normalisation over the last dimension."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from metascale.core.streams import torch_generator
from metascale.core.types import Params

Norm = Literal["rms", "layer"]
_EPS = 1e-5


def normal(seed: int, name: str, *shape: int, std: float) -> torch.Tensor:
    """Normal numbers of the stream that the parameter's name addresses; none are drawn on the ``meta`` device."""
    if torch.get_default_device().type == "meta":
        return torch.empty(*shape)
    return torch.randn(*shape, generator=torch_generator(seed, "init", name)) * std


def init_norm(kind: Norm, name: str, d_model: int) -> Params:
    """Gain one and, for layer normalisation, shift zero."""
    params = {f"{name}.gain": torch.ones(d_model)}
    return params if kind == "rms" else params | {f"{name}.shift": torch.zeros(d_model)}


def normalise(kind: Norm, params: Params, name: str, values: torch.Tensor) -> torch.Tensor:
    """Root-mean-square (Zhang and Sennrich 2019) or layer normalisation (Ba et al. 2016) of ``values`` [..., d]."""
    gain = params[f"{name}.gain"]
    if kind == "layer":
        return F.layer_norm(values, gain.shape, gain, params[f"{name}.shift"], _EPS)
    if values.device.type == "cpu":
        normalised: torch.Tensor = _RootMeanSquare.apply(values, gain)
        return normalised
    return F.rms_norm(values, gain.shape, gain, _EPS)


class _RootMeanSquare(torch.autograd.Function):
    """On CPUs torch composes this from single operations; with its own backward it takes half the time."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        width = values.shape[-1]
        inverse = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_().div_(width).add_(_EPS).rsqrt_()
        normalised = values * inverse
        ctx.save_for_backward(normalised, inverse, gain)
        return normalised * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normalised, inverse, gain = ctx.saved_tensors
        slopes = (grad * normalised).reshape(-1, len(gain))
        along = torch.mv(slopes, gain).div_(len(gain)).view(inverse.shape)
        return torch.addcmul(grad * gain, normalised, along, value=-1).mul_(inverse), slopes.sum(0)
