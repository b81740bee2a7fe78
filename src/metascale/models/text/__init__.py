"""Models on Hugging Face backbones: adapters, full fine-tuning, heads, loading, the PEFT file format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.models.text.classifiers import AdapterClassifier, FullClassifier, TextClassifier
    from metascale.models.text.heads import Head, LearnedHead, PrototypeHead, ZeroHead, named_head
    from metascale.models.text.hf import (
        TextEncoder,
        count_parameters,
        load_backbone,
        load_config,
        load_encoder,
        random_backbone,
    )
    from metascale.models.text.peft_format import load_peft, peft_files, save_peft

__all__ = [
    "AdapterClassifier",
    "FullClassifier",
    "Head",
    "LearnedHead",
    "PrototypeHead",
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AdapterClassifier": "metascale.models.text.classifiers",
        "FullClassifier": "metascale.models.text.classifiers",
        "TextClassifier": "metascale.models.text.classifiers",
        "Head": "metascale.models.text.heads",
        "LearnedHead": "metascale.models.text.heads",
        "PrototypeHead": "metascale.models.text.heads",
        "ZeroHead": "metascale.models.text.heads",
        "named_head": "metascale.models.text.heads",
        "TextEncoder": "metascale.models.text.hf",
        "count_parameters": "metascale.models.text.hf",
        "load_backbone": "metascale.models.text.hf",
        "load_config": "metascale.models.text.hf",
        "load_encoder": "metascale.models.text.hf",
        "random_backbone": "metascale.models.text.hf",
        "load_peft": "metascale.models.text.peft_format",
        "peft_files": "metascale.models.text.peft_format",
        "save_peft": "metascale.models.text.peft_format",
    },
)
