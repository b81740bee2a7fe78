"""The convolutional network of the few-shot benchmarks, for T tasks at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Params
from metascale.models.objectives import cross_entropy_per_task


@dataclass(frozen=True)
class ConvNet:
    """Blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, and a linear head.

    The network of Vinyals et al. 2016 as MAML uses it (Finn et al. 2017, section 5.2 and its code): normalisation
    always takes the statistics of the batch at hand, so predictions for a query set are transductive. Convolutions have
    no bias: the normalisation that follows would take it out again.

    T tasks run as one grouped convolution with T groups; with one task that is an ordinary convolution.

    Args:
        n_classes: outputs of the head.
        image_size: height and width of the (square) image; each block halves it.
        in_channels: channels of the image.
        filters: channels of every block.
        n_blocks: number of blocks.
        channels_last: keep activations in channels-last layout, the faster one on CPUs for single tasks.

    Raises:
        InputError: the image is too small for that many blocks.
    """

    n_classes: int
    image_size: int = 28
    in_channels: int = 1
    filters: int = 64
    n_blocks: int = 4
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.image_size >> self.n_blocks < 1:
            raise InputError(
                f"an image of {self.image_size}x{self.image_size} pixels allows at most "
                f"{int(math.log2(self.image_size))} blocks of 2x2 pooling, not {self.n_blocks}"
            )

    @property
    def n_features(self) -> int:
        """Length of the representation that the head reads."""
        return self.filters * (self.image_size >> self.n_blocks) ** 2

    def init(self, seed: int) -> Params:
        """``block{i}.weight`` [out, in, 3, 3], ``.gain``, ``.shift`` [out]; ``head.weight`` [d, classes], ``.bias``.

        Weights are uniform as Glorot and Bengio 2010, gains one, shifts and biases zero.
        """
        params: Params = {}
        n_in = self.in_channels
        for index in range(self.n_blocks):
            bound = math.sqrt(6.0 / (9 * (n_in + self.filters)))
            generator = torch_generator(seed, "init", f"block{index}")
            weight = torch.empty(self.filters, n_in, 3, 3).uniform_(-bound, bound, generator=generator)
            params[f"block{index}.weight"] = weight
            params[f"block{index}.gain"] = torch.ones(self.filters)
            params[f"block{index}.shift"] = torch.zeros(self.filters)
            n_in = self.filters
        bound = math.sqrt(6.0 / (self.n_features + self.n_classes))
        head = torch.empty(self.n_features, self.n_classes)
        params["head.weight"] = head.uniform_(-bound, bound, generator=torch_generator(seed, "init", "head"))
        params["head.bias"] = torch.zeros(self.n_classes)
        return params

    def begin(self, params: Params, support: Batch) -> Params:
        """The head is meta-learnt: nothing is made afresh."""
        return params

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean cross-entropy in nats; there is no dropout, whatever ``dropout`` says."""
        return cross_entropy_per_task(self.predict(params, batch), batch.targets)

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, n_classes]."""
        return torch.baddbmm(params["head.bias"].unsqueeze(1), self.features(params, batch), params["head.weight"])

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, n_features] the flattened output of the last block."""
        images = batch.inputs["x"]
        n_tasks, n_examples = images.shape[:2]
        hidden = images.transpose(0, 1).flatten(1, 2)  # [B, T·channels, H, W]: one group of channels a task
        if self.channels_last and n_tasks == 1:
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        for index in range(self.n_blocks):
            weight = params[f"block{index}.weight"].flatten(0, 1)
            hidden = F.conv2d(hidden, weight, padding=1, groups=n_tasks)
            gain, shift = params[f"block{index}.gain"].flatten(), params[f"block{index}.shift"].flatten()
            hidden = F.batch_norm(hidden, None, None, gain, shift, training=True)
            hidden = F.max_pool2d(hidden.relu(), 2)
        features = hidden.unflatten(1, (n_tasks, self.filters)).transpose(0, 1)
        return features.reshape(n_tasks, n_examples, self.n_features)

    @property
    def task_execution(self) -> Literal["stacked", "threads"]:
        return "threads"

    def require_second_order(self) -> None:
        return None
