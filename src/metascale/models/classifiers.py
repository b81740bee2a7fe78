"""Supervised image classifiers of stated width and depth: a perceptron and a convolutional network, with dropout.

They normalise within an example (group normalisation), so training and evaluation compute the same function but for
dropout, and a prediction does not depend on the rest of its batch. For the few-shot networks, which take statistics of
the batch at hand, see `mlp` and `convnet`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.models.language import drop, normal
from metascale.models.layer_widths import layer_widths

Activation = Literal["relu", "tanh", "gelu"]
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}


class Classifier(ABC):
    """Images [B, C, H, W] to logits through features [B, d] and a linear head ``head.weight`` [classes, d]."""

    @abstractmethod
    def init(self, seed: int) -> Params:
        """The trainable tensors."""

    @abstractmethod
    def features(self, params: Params, images: torch.Tensor, dropout: int | None = None) -> torch.Tensor:
        """[B, d] what the head reads."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names (ends of names) of the parameters that read the width out into a fixed number of outputs."""
        return ("head.weight",)

    def logits(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[B, classes]."""
        features = self.features(params, batch.inputs["x"], dropout)
        return F.linear(features, params["head.weight"], params["head.bias"])

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy in nats, and every example's without history."""
        losses = F.cross_entropy(self.logits(params, batch, dropout), batch.targets, reduction="none")
        return losses.mean(), losses.detach()

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B] nats, without dropout and history."""
        with torch.no_grad():
            return self.objective(params, batch)[1]

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B, classes] logits, without dropout."""
        return self.logits(params, batch)

    def n_params(self) -> int:
        """All parameters, without making them."""
        with torch.device("meta"):
            return sum(value.numel() for value in self.init(0).values())


def init_head(seed: int, n_features: int, n_classes: int) -> Params:
    """A linear head [classes, features] with deviation 1/sqrt(features), bias zero."""
    weight = normal(seed, "head", n_classes, n_features, std=1 / math.sqrt(n_features))
    return {"head.weight": weight, "head.bias": torch.zeros(n_classes)}


def init_convolution(seed: int, name: str, n_in: int, n_out: int) -> Params:
    """``.weight`` [out, in, 3, 3] as He et al. 2015 and the gain and shift of the group normalisation after it."""
    return {
        f"{name}.weight": normal(seed, name, n_out, n_in, 3, 3, std=math.sqrt(2 / (9 * n_in))),
        f"{name}.gain": torch.ones(n_out),
        f"{name}.shift": torch.zeros(n_out),
    }


def convolve(params: Params, name: str, images: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """3x3 convolution and group normalisation (Wu and He 2018; at most 8 groups that divide the channels)."""
    weight = params[f"{name}.weight"]
    hidden = F.conv2d(images, weight, stride=stride, padding=1)
    return F.group_norm(hidden, math.gcd(8, weight.shape[0]), params[f"{name}.gain"], params[f"{name}.shift"])


def check_shape(model: str, **sizes: int) -> None:
    """Refuse sizes below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} of the {model} must be at least 1, not {value}")


def check_rate(model: str, rate: float) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise InputError(f"dropout of the {model} must be from 0 to below 1, not {rate}")


@dataclass(frozen=True)
class PerceptronClassifier(Classifier):
    """``depth`` hidden layers of ``width`` units on flattened images.

    Args:
        n_inputs: pixels of an image.
        n_classes: outputs.
        width: units of the first hidden layer.
        dropout: rate after every hidden layer.
        ratio: units of the last hidden layer over those of the first; those between lie evenly on a logarithmic scale.
    """

    n_inputs: int
    n_classes: int = 10
    width: int = 64
    depth: int = 2
    activation: Activation = "relu"
    dropout: float = 0.0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_shape("perceptron", width=self.width, depth=self.depth)
        check_rate("perceptron", self.dropout)
        _ = self.widths

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every hidden layer."""
        return layer_widths(self.width, self.depth, self.ratio)

    def init(self, seed: int) -> Params:
        """``layer{i}.weight`` [out, in] (He et al. 2015) and ``.bias``, then the head."""
        params: Params = {}
        n_in = self.n_inputs
        for layer, n_out in enumerate(self.widths):
            name = f"layer{layer}"
            params[f"{name}.weight"] = normal(seed, name, n_out, n_in, std=math.sqrt(2 / n_in))
            params[f"{name}.bias"] = torch.zeros(n_out)
            n_in = n_out
        return params | init_head(seed, n_in, self.n_classes)

    def features(self, params: Params, images: torch.Tensor, dropout: int | None = None) -> torch.Tensor:
        """[B, units of the last hidden layer]."""
        hidden = images.flatten(1)
        for layer in range(self.depth):
            name = f"layer{layer}"
            hidden = ACTIVATIONS[self.activation](F.linear(hidden, params[f"{name}.weight"], params[f"{name}.bias"]))
            hidden = drop(hidden, self.dropout, dropout, name)
        return hidden

    def flops(self) -> dict[str, float]:
        """Forward floating-point operations of one image by component; a multiply-add is two."""
        widths = (self.n_inputs, *self.widths)
        hidden = sum(n_in * n_out for n_in, n_out in itertools.pairwise(widths))
        return {"hidden_layers": 2.0 * hidden, "readout": 2.0 * widths[-1] * self.n_classes}


@dataclass(frozen=True)
class ConvClassifier(Classifier):
    """``depth`` 3x3 convolutions of ``width`` channels with group normalisation and ReLU.

    2x2 max-pooling follows the middle layer and the last one; the mean over what is left is the representation.

    Args:
        n_classes: outputs.
        in_channels: channels of the image.
        width: channels of the first convolution.
        dropout_inner: rate after the pooling in the middle.
        dropout: rate before the head.
        ratio: channels of the last convolution over those of the first; those between lie evenly on a logarithmic
            scale.
    """

    n_classes: int = 10
    in_channels: int = 1
    width: int = 32
    depth: int = 2
    dropout_inner: float = 0.0
    dropout: float = 0.0
    ratio: float = 1.0

    def __post_init__(self) -> None:
        check_shape("convolutional network", width=self.width, depth=self.depth)
        check_rate("convolutional network", self.dropout)
        check_rate("convolutional network", self.dropout_inner)
        _ = self.widths

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every convolution."""
        return layer_widths(self.width, self.depth, self.ratio)

    @property
    def _middle(self) -> int:
        return (self.depth - 1) // 2

    def init(self, seed: int) -> Params:
        """``block{i}.weight`` [out, in, 3, 3], ``.gain``, ``.shift``, then the head."""
        params: Params = {}
        n_in = self.in_channels
        for layer, n_out in enumerate(self.widths):
            params |= init_convolution(seed, f"block{layer}", n_in, n_out)
            n_in = n_out
        return params | init_head(seed, n_in, self.n_classes)

    def features(self, params: Params, images: torch.Tensor, dropout: int | None = None) -> torch.Tensor:
        """[B, channels of the last convolution]."""
        hidden = images.contiguous(memory_format=torch.channels_last)
        for layer in range(self.depth):
            hidden = F.relu(convolve(params, f"block{layer}", hidden))
            if layer in (self._middle, self.depth - 1):
                hidden = F.max_pool2d(hidden, 2)
            if layer == self._middle:
                hidden = drop(hidden, self.dropout_inner, dropout, "inner")
        return drop(hidden.mean((2, 3)), self.dropout, dropout, "features")

    def flops(self, image_size: int) -> dict[str, float]:
        """Forward floating-point operations of one image by component; a multiply-add is two."""
        pixels, total = image_size**2, 0.0
        n_in = self.in_channels
        for layer, n_out in enumerate(self.widths):
            total += 2 * 9 * pixels * n_in * n_out
            n_in = n_out
            if layer == self._middle:
                pixels = (image_size // 2) ** 2
        return {"convolutions": total, "readout": 2.0 * n_in * self.n_classes}
