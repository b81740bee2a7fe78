"""The residual network of small images (He et al. 2015b, section 4.2): 6n+2 layers, widths w, 2w, 4w."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from metascale.core.dropout import drop
from metascale.core.types import Batch, Params
from metascale.models.convnet import group_normalised, init_convolution
from metascale.models.network import Network, check_rates, check_sizes


@dataclass(frozen=True)
class ResNet(Network):
    """A convolution, three stages of ``n_blocks`` residual blocks of two, the mean over the image, a linear head.

    The second and third stages halve the image and double the channels; their shortcuts take every second pixel and
    fill the new channels with zeros (option A of the paper), so they have no parameters. Normalisation is by groups
    within an example, where the paper's is by batch: nothing then depends on whether the model is being trained.

    Args:
        n_classes: outputs.
        in_channels: channels of the image.
        width: channels of the first stage (16 in the paper).
        n_blocks: n of 6n+2 (3 in the paper's ResNet-20).
        dropout: rate before the head.
    """

    n_classes: int = 10
    in_channels: int = 1
    width: int = 16
    n_blocks: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes("residual network", width=self.width, n_blocks=self.n_blocks)
        check_rates("the residual network", dropout=self.dropout)

    task_axis = False

    @property
    def n_layers(self) -> int:
        """Layers with weights, 6n+2."""
        return 6 * self.n_blocks + 2

    def init(self, seed: int) -> Params:
        """``stem``, ``stage{s}.block{b}.first`` and ``.second`` (weight, gain, shift), then the head."""
        params = init_convolution(seed, "stem", self.in_channels, self.width)
        n_in = self.width
        for stage in range(3):
            n_out = self.width * 2**stage
            for block in range(self.n_blocks):
                name = f"stage{stage}.block{block}"
                params |= init_convolution(seed, f"{name}.first", n_in, n_out)
                params |= init_convolution(seed, f"{name}.second", n_out, n_out)
                n_in = n_out
        return params | self._init_head(seed, n_in, self.n_classes)

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[B, 4w]."""
        images = batch.inputs["x"]
        hidden = F.relu(group_normalised(params, "stem", images.contiguous(memory_format=torch.channels_last)))
        for stage in range(3):
            for block in range(self.n_blocks):
                name = f"stage{stage}.block{block}"
                stride = 2 if stage and not block else 1
                inner = F.relu(group_normalised(params, f"{name}.first", hidden, stride))
                inner = group_normalised(params, f"{name}.second", inner)
                hidden = F.relu(inner + _shortcut(hidden, stride))
        return drop(hidden.mean((2, 3)), self.dropout, dropout, "features")

    def flops(self, image_size: int) -> dict[str, float]:
        """Forward floating-point operations of one image by component; a multiply-add is two."""
        size, total = image_size, 2.0 * 9 * image_size**2 * self.in_channels * self.width
        for stage in range(3):
            n_out = self.width * 2**stage
            size = -(-size // 2) if stage else size
            products = (2 * self.n_blocks - 1) * n_out**2 + n_out * (n_out // 2 if stage else n_out)
            total += 2.0 * 9 * size**2 * products
        return {"convolutions": total, "readout": 2.0 * 4 * self.width * self.n_classes}


def _shortcut(hidden: torch.Tensor, stride: int) -> torch.Tensor:
    """The identity, or every second pixel and as many channels of zeros as there were."""
    if stride == 1:
        return hidden
    return F.pad(hidden[:, :, ::2, ::2], (0, 0, 0, 0, 0, hidden.shape[1]))
