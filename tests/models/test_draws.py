"""The same seed gives the same start in the next version: a run that goes on, and a study that grows, need it.

A draw's address is its name: these sums, noted when this was written, change with a name, an order, a scale or a
distribution.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from metascale.core.types import Model
from metascale.models.convnet import ConvNet
from metascale.models.module import Module
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.transformer import Transformer
from tests.models.tiny_backbones import tiny

SHAPE: dict[str, Any] = {"n_vocab": 3, "n_layers": 1, "n_positions": 2}
MODELS: dict[str, Model] = {
    "perceptron": Perceptron(3, 2, width=2, depth=2),
    "residual perceptron": ResidualPerceptron(3, 2, width=2),
    "convolutional": ConvNet(2, image_size=2, depth=1, width=1),
    "residual": ResNet(n_classes=2, in_channels=1, width=1, n_blocks=1),
    "transformer": Transformer(d_model=4, n_heads=1, **SHAPE),
    "resnet-bk": ResNetBK(d_model=2, **SHAPE),
    "any module": Module(nn.Linear(2, 1), start="seed"),
    "made module": Module(lambda: nn.Linear(2, 1), start="seed"),
    "adapters": AdapterClassifier(tiny("bert", "eager", "float32"), n_classes=2, rank=1, head=LearnedHead()),
}
STARTS: dict[str, dict[str, tuple[float, float]]] = {
    "perceptron": {
        "layer0.weight": (-0.40349, 4.61615), "layer1.weight": (-1.00346, 0.93592), "head.weight": (2.8854, 2.32302),
    },
    "residual perceptron": {"layer0.weight": (-0.40349, 4.61615), "head.weight": (1.51059, 1.90602)},
    "convolutional": {
        "block0.weight": (0.63895, 0.8695), "block0.gain": (1.0, 1.0), "head.weight": (-2.31313, 2.71204),
    },
    "residual": {
        "stem.weight": (-0.5331, 1.42419), "stem.gain": (1.0, 1.0),
        "stage0.block0.first.weight": (0.18797, 1.17731), "stage0.block0.first.gain": (1.0, 1.0),
        "stage0.block0.second.weight": (-2.29057, 1.20126), "stage0.block0.second.gain": (1.0, 1.0),
        "stage1.block0.first.weight": (0.33705, 4.66822), "stage1.block0.first.gain": (2.0, 2.0),
        "stage1.block0.second.weight": (0.72851, 4.57232), "stage1.block0.second.gain": (2.0, 2.0),
        "stage2.block0.first.weight": (0.90911, 8.2783), "stage2.block0.first.gain": (4.0, 4.0),
        "stage2.block0.second.weight": (-0.61742, 6.9761), "stage2.block0.second.gain": (4.0, 4.0),
        "head.weight": (1.58771, 1.51808),
    },
    "transformer": {
        "embedding": (0.03768, 0.00513), "layer0.attention.norm.gain": (4.0, 4.0),
        "layer0.attention.in": (-1.03293, 10.06655), "layer0.attention.out": (-0.24248, 2.95219),
        "layer0.feed_forward.norm.gain": (4.0, 4.0), "layer0.feed_forward.in": (0.95089, 29.22571),
        "layer0.feed_forward.out": (0.40392, 2.39973), "final.gain": (4.0, 4.0),
    },
    "resnet-bk": {
        "embedding": (0.02304, 0.00205), "positions": (-0.05149, 0.00627), "layer0.norm.gain": (2.0, 2.0),
        "layer0.mixture.router": (-0.58086, 4.46225), "layer0.mixture.up": (6.04622, 42.97853),
        "layer0.mixture.down": (-2.70561, 2.13211), "layer0.potential": (0.63566, 0.20889),
        "layer0.out": (1.93141, 1.12972), "layer0.scale": (1.0, 1.0), "final.gain": (2.0, 2.0),
        "head.weight": (1.85009, 2.85903),
    },
    "any module": {"weight": (-0.11876, 0.11915), "bias": (0.03671, 0.00135)},
    "made module": {"weight": (0.73654, 0.28432), "bias": (-0.58324, 0.34017)},
    "adapters": {
        "encoder.layer.0.attention.self.query.lora_A": (0.37296, 0.33668),
        "encoder.layer.0.attention.self.value.lora_A": (-0.9512, 0.32356),
        "encoder.layer.1.attention.self.query.lora_A": (-0.54987, 0.28939),
        "encoder.layer.1.attention.self.value.lora_A": (0.32041, 0.37614), "head.weight": (-1.26562, 0.66559),
    },
}  # fmt: skip
"""Sum and sum of squares of each parameter at seed 3; all others start at zero."""


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_start_that_it_gave(name: str) -> None:
    params = MODELS[name].init(3)
    drawn = {key: value.double() for key, value in params.items() if bool((value != 0).any())}
    assert drawn.keys() == STARTS[name].keys()
    for key, value in drawn.items():
        found = torch.stack([value.sum(), value.square().sum()]).tolist()
        assert found == pytest.approx(STARTS[name][key], abs=2e-5), key
