"""Models on Hugging Face backbones: adapters, full fine-tuning, heads, loading, the PEFT file format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.models.text.any_model import LoRA
    from metascale.models.text.classifiers import AdapterClassifier, FullClassifier, TextClassifier
    from metascale.models.text.heads import Head, LearnedHead, PrototypeHead, ScoreHead, ZeroHead, named_head
    from metascale.models.text.hf import (
        TextEncoder,
        count_parameters,
        load_backbone,
        load_config,
        load_encoder,
        random_backbone,
    )
    from metascale.models.text.language_model import AdapterLanguageModel
    from metascale.models.text.peft_format import load_peft, peft_files, save_peft

__all__ = [
    "AdapterClassifier",
    "AdapterLanguageModel",
    "FullClassifier",
    "Head",
    "LearnedHead",
    "LoRA",
    "PrototypeHead",
    "ScoreHead",
    "TextClassifier",
    "TextEncoder",
    "ZeroHead",
    "count_parameters",
    "load_backbone",
    "load_config",
    "load_encoder",
    "load_peft",
    "named_head",
    "peft_files",
    "random_backbone",
    "save_peft",
]

__getattr__, __dir__ = lazy(__name__)
