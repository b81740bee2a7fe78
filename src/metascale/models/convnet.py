"""The convolutional network of the few-shot benchmarks, for T tasks at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Params, TaskExecution
from metascale.models.kernels.convolution import convolve
from metascale.models.kernels.normalised_pooling import EPSILON, normalised_pooling
from metascale.models.kernels.pooled_patches import patch_moments, pooled_patches
from metascale.models.objectives import cross_entropy_per_task


@dataclass(frozen=True)
class ConvNet:
    """Blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, and a linear head.

    The network of Vinyals et al. 2016 as MAML uses it (Finn et al. 2017, section 5.2 and its code): normalisation
    always takes the statistics of the batch at hand, so predictions for a query set are transductive. Convolutions have
    no bias: the normalisation that follows would take it out again.

    T tasks run as grouped convolutions with T groups; with one task that is an ordinary convolution.

    Args:
        n_classes: outputs of the head.
        image_size: height and width of the (square) image; each block halves it.
        in_channels: channels of the image.
        filters: channels of every block.
        n_blocks: number of blocks.
        channels_last: keep activations in channels-last layout, the faster one on CPUs.

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
    def batch_statistics(self) -> bool:
        """Examples of a batch are coupled: a batch cannot be cut into micro-batches or single examples."""
        return True

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
        return self.output_losses(self.predict(params, batch), batch)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean cross-entropy in nats of logits [T, B, n_classes]."""
        return cross_entropy_per_task(outputs, batch.targets)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, n_classes]."""
        return torch.baddbmm(params["head.bias"].unsqueeze(1), self.features(params, batch), params["head.weight"])

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, n_features] the flattened output of the last block."""
        images = batch.inputs["x"]
        n_tasks, n_examples = images.shape[:2]
        if images.requires_grad:
            first, hidden = 0, self._arranged(images.permute(1, 3, 4, 0, 2))
        else:
            first, hidden = 1, self._first_block(params, images)
        for index in range(first, self.n_blocks):
            hidden = self._block(params, index, hidden, n_tasks)
        features = hidden.unflatten(1, (n_tasks, self.filters)).transpose(0, 1)
        return features.reshape(n_tasks, n_examples, self.n_features)

    def _first_block(self, params: Params, images: torch.Tensor) -> torch.Tensor:
        """[B, T·filters, H/2, W/2] from images that stay the same, with the normalisation folded into the weights."""
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

    def _block(self, params: Params, index: int, hidden: torch.Tensor, n_tasks: int) -> torch.Tensor:
        """[B, T·filters, H/2, W/2]."""
        weight, gain, shift = (params[f"block{index}.{name}"].flatten(0, 1) for name in ("weight", "gain", "shift"))
        return normalised_pooling(convolve(hidden, weight, n_tasks), gain, shift)

    @property
    def task_execution(self) -> TaskExecution:
        return "processes"

    def require_second_order(self) -> None:
        return None
