"""Models that turn parameters and a batch into losses: of T tasks at once, or of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.models.context import WithContext
    from metascale.models.convnet import ConvNet
    from metascale.models.language import LanguageModel
    from metascale.models.metric import MetricClassifier, Prototypes, Ridge
    from metascale.models.module import Module
    from metascale.models.mup import MuP, at_width, roles, width_of
    from metascale.models.network import Network, OneTask, cross_entropy_per_task, squared_error_per_task
    from metascale.models.perceptron import Perceptron
    from metascale.models.resnet import ResNet
    from metascale.models.resnet_bk import DecodingState, ResNetBK
    from metascale.models.svm import SupportVectors
    from metascale.models.transformer import Transformer
    from metascale.models.widths import layer_widths

__all__ = [
    "ConvNet",
    "DecodingState",
    "LanguageModel",
    "MetricClassifier",
    "Module",
    "MuP",
    "Network",
    "OneTask",
    "Perceptron",
    "Prototypes",
    "ResNet",
    "ResNetBK",
    "Ridge",
    "SupportVectors",
    "Transformer",
    "WithContext",
    "at_width",
    "cross_entropy_per_task",
    "layer_widths",
    "roles",
    "squared_error_per_task",
    "width_of",
]

__getattr__, __dir__ = lazy(__name__)
