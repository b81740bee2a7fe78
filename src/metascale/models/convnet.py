"""A convolutional network: that of the few-shot benchmarks for T tasks at once, and a supervised one."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F

from metascale.core.dropout import drop
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Params, TaskExecution
from metascale.models.kernels.convolution import convolve
from metascale.models.kernels.pooling import EPSILON, normalised_pooling, patch_moments, pooled_patches
from metascale.models.network import HeadStart, Network, check_rates, check_sizes, normal, refuse_head
from metascale.models.widths import layer_widths


@dataclass(frozen=True)
class ConvNet(Network):
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 max-pooling, and a linear head.

    ``norm="batch"`` is the network of Vinyals et al. 2016 as MAML uses it (Finn et al. 2017, section 5.2 and its code),
    for T tasks. Normalisation always takes the statistics of the batch at hand, so predictions for a query set are
    transductive. Every block pools, and the head reads the flattened last block. T tasks run as grouped convolutions
    with T groups; with one task that is an ordinary convolution.

    ``norm="group"`` is a supervised classifier without a task axis. Normalisation is within an example (Wu and He
    2018), so training and evaluation compute the same function but for dropout, and a prediction does not depend on the
    rest of its batch. The middle and the last block pool, and the head reads the mean over what is left.

    Convolutions have no bias: the normalisation that follows would take it out again, or has a shift of its own.

    Args:
        n_classes: outputs of the head.
        image_size: height and width of the (square) image; each pooling halves it.
        in_channels: channels of the image.
        width: channels of the first block.
        depth: number of blocks.
        norm: ``"batch"`` or ``"group"``.
        dropout_inner: rate after the pooling in the middle (``"group"`` only).
        dropout: rate before the head (``"group"`` only).
        ratio: channels of the last block over those of the first; those between lie evenly on a logarithmic scale.
        head: what the head of a task starts from (``"batch"`` only; see `models.network.HeadStart`).
        channels_last: keep activations in channels-last layout, the faster one on CPUs.
        steps: inner steps that have a gain and a shift of their own, [steps, out] in the parameters (MAML++, Antoniou
            et al. 2019, section 4; ``"batch"`` only); later steps share the last. 0: one for all.
        step: the inner step at hand (`at_step`).
    """

    n_classes: int
    image_size: int = 28
    in_channels: int = 1
    width: int = 64
    depth: int = 4
    norm: Literal["batch", "group"] = "batch"
    dropout_inner: float = 0.0
    dropout: float = 0.0
    ratio: float = 1.0
    head: HeadStart = "learned"
    channels_last: bool = True
    steps: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        check_sizes("convolutional network", width=self.width, depth=self.depth)
        check_rates("the convolutional network", dropout=self.dropout, dropout_inner=self.dropout_inner)
        if self.batch_statistics and (self.dropout or self.dropout_inner):
            raise InputError("dropout of the convolutional network needs norm='group'", field="dropout")
        if self.image_size >> len(self._pooled) < 1:
            raise InputError(
                f"an image of {self.image_size}x{self.image_size} pixels allows at most "
                f"{int(math.log2(self.image_size))} blocks of 2x2 pooling, not {len(self._pooled)}",
                field="depth",
            )
        if self.steps < 0 or (self.steps and not self.batch_statistics):
            raise InputError(
                f"steps of the convolutional network must be 0 or more, and 0 with norm='group', not {self.steps}",
                field="steps",
                value=self.steps,
            )
        refuse_head(self.head, self.task_axis)
        _ = self.widths

    def at_step(self, step: int) -> ConvNet:
        """The model as inner step ``step`` (from 0) sees it."""
        return replace(self, step=step) if self.steps else self

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.n_features, self.n_classes

    @property
    def batch_statistics(self) -> bool:
        """Examples of a batch are coupled: a batch cannot be cut into micro-batches or single examples."""
        return self.norm == "batch"

    @property
    def task_axis(self) -> bool:
        return self.norm == "batch"

    @property
    def task_execution(self) -> TaskExecution:
        return "processes"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every block."""
        return layer_widths(self.width, self.depth, self.ratio)

    @property
    def n_features(self) -> int:
        """Length of the representation that the head reads."""
        side = self.image_size >> self.depth if self.norm == "batch" else 1
        return self.widths[-1] * side**2

    @property
    def _middle(self) -> int:
        return (self.depth - 1) // 2

    @property
    def _pooled(self) -> set[int]:
        """The blocks that end in a pooling."""
        return set(range(self.depth)) if self.norm == "batch" else {self._middle, self.depth - 1}

    def init(self, seed: int) -> Params:
        """``block{i}.weight`` [out, in, 3, 3], ``.gain``, ``.shift`` [out] or [steps, out], then the head.

        Gains are one, shifts and biases zero. Weights are uniform as Glorot and Bengio 2010 with ``norm="batch"``, and
        normal as He et al. 2015 with ``norm="group"``.
        """
        params: Params = {}
        for index, (n_in, n_out) in enumerate(itertools.pairwise((self.in_channels, *self.widths))):
            name = f"block{index}"
            if self.norm == "group":
                params |= init_convolution(seed, name, n_in, n_out)
            else:
                weight = _glorot(seed, name, 9 * (n_in + n_out), n_out, n_in, 3, 3)
                params |= _normalised(name, weight, *([self.steps] if self.steps else []))
        if self.norm == "group" or self.head != "learned":
            return params | self._init_head(seed, self.n_features, self.n_classes)
        head = _glorot(seed, "head", self.n_features + self.n_classes, self.n_features, self.n_classes)
        return params | {"head.weight": head, "head.bias": torch.zeros(self.n_classes)}

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """The flattened last block [T, B, n_features], or its mean over the image [B, n_features]."""
        images = batch.inputs["x"]
        return (
            self._of_tasks(self._of_step(params), images)
            if self.norm == "batch"
            else self._of_images(params, images, dropout)
        )

    def _of_step(self, params: Params) -> Params:
        """Stacked parameters with the gains and shifts [T, out] of the step at hand."""
        if not self.steps:
            return params
        row = min(self.step, self.steps - 1)
        return {name: value[:, row] if name.endswith((".gain", ".shift")) else value for name, value in params.items()}

    def _of_images(self, params: Params, images: torch.Tensor, dropout: int | None) -> torch.Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        hidden = images.contiguous(memory_format=layout)
        for index in range(self.depth):
            hidden = F.relu(group_normalised(params, f"block{index}", hidden))
            if index in self._pooled:
                hidden = F.max_pool2d(hidden, 2)
            if index == self._middle:
                hidden = drop(hidden, self.dropout_inner, dropout, "inner")
        return drop(hidden.mean((2, 3)), self.dropout, dropout, "features")

    def _of_tasks(self, params: Params, images: torch.Tensor) -> torch.Tensor:
        n_tasks, n_examples = images.shape[:2]
        if images.requires_grad:
            first, hidden = 0, self._arranged(images.permute(1, 3, 4, 0, 2))
        else:
            first, hidden = 1, self._first_block(params, images)
        for index in range(first, self.depth):
            weight, gain, shift = (params[f"block{index}.{name}"].flatten(0, 1) for name in ("weight", "gain", "shift"))
            hidden = normalised_pooling(convolve(hidden, weight, n_tasks), gain, shift)
        by_task: torch.Tensor = hidden.unflatten(1, (n_tasks, -1)).transpose(0, 1)
        return by_task.reshape(n_tasks, n_examples, self.n_features)

    def _first_block(self, params: Params, images: torch.Tensor) -> torch.Tensor:
        """[B, T·width, H/2, W/2] from images that stay the same, with the normalisation folded into the weights."""
        weight = params["block0.weight"].flatten(2)
        mean, covariance = patch_moments(images)
        variance = (torch.bmm(weight, covariance) * weight).sum(2)
        gain = params["block0.gain"] * (variance + EPSILON).rsqrt()
        shift = params["block0.shift"] - gain * torch.bmm(weight, mean.unsqueeze(2)).squeeze(2)
        folded = (weight * gain.unsqueeze(2)).view(params["block0.weight"].shape)
        return self._arranged(pooled_patches(images, folded, shift).permute(1, 2, 3, 0, 4))

    def _arranged(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, T·C, H, W] from [B, H, W, T, C]."""
        flat = hidden.flatten(3).permute(0, 3, 1, 2)
        return flat if self.channels_last else flat.contiguous()

    def flops(self) -> dict[str, float]:
        """Forward floating-point operations of one image with ``norm="group"``; a multiply-add is two."""
        size, total = self.image_size, 0.0
        for index, (n_in, n_out) in enumerate(itertools.pairwise((self.in_channels, *self.widths))):
            total += 2.0 * 9 * size**2 * n_in * n_out
            size = size // 2 if index in self._pooled else size
        return {"convolutions": total, "readout": 2.0 * self.n_features * self.n_classes}


def init_convolution(seed: int, name: str, n_in: int, n_out: int) -> Params:
    """``.weight`` [out, in, 3, 3] as He et al. 2015, and the gain and shift of the normalisation after it."""
    return _normalised(name, normal(seed, name, n_out, n_in, 3, 3, std=math.sqrt(2 / (9 * n_in))))


def _normalised(name: str, weight: torch.Tensor, *steps: int) -> Params:
    shape = (*steps, weight.shape[0])
    return {f"{name}.weight": weight, f"{name}.gain": torch.ones(shape), f"{name}.shift": torch.zeros(shape)}


def _glorot(seed: int, name: str, fans: int, *shape: int) -> torch.Tensor:
    """Uniform numbers of the parameter's stream, for ``fans`` = fan-in + fan-out; none on the ``meta`` device."""
    if torch.get_default_device().type == "meta":
        return torch.empty(*shape)
    bound = math.sqrt(6.0 / fans)
    return torch.empty(*shape).uniform_(-bound, bound, generator=torch_generator(seed, "init", name))


def group_normalised(params: Params, name: str, images: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """3×3 convolution and group normalisation (Wu and He 2018; at most 8 groups that divide the channels)."""
    weight = params[f"{name}.weight"]
    hidden = F.conv2d(images, weight, stride=stride, padding=1)
    return F.group_norm(hidden, math.gcd(8, weight.shape[0]), params[f"{name}.gain"], params[f"{name}.shift"])
