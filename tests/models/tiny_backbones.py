"""Tiny random backbones of every supported family, and text batches for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import pytest
import torch
from torch import nn
from transformers import BertConfig, DistilBertConfig, GemmaConfig, GPT2Config, LlamaConfig, T5Config

from metascale.core.types import Batch
from metascale.models.text.hf import random_backbone

VOCABULARY = 99
CONFIGS = {
    "llama": lambda: LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
    ),
    "gemma": lambda: GemmaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=VOCABULARY,
    ),
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=1, n_positions=64
    ),
    "bert": lambda: BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY
    ),
    "distilbert": lambda: DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY),
    "t5": lambda: T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=VOCABULARY),
}
# Root-mean-square norms (Llama, Gemma, T5) compute in float32 whatever the weights' type.
FULL_FLOAT64 = {"gpt2", "bert", "distilbert"}


@contextmanager
def all_double() -> Iterator[None]:
    """Computes in float64 where a model asks for float32 by name (norms and attention weights of some families)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@lru_cache
def tiny(family: str, attention: str = "eager", dtype: str = "float32", seed: int = 0) -> nn.Module:
    return random_backbone(CONFIGS[family](), seed, attn_implementation=attention, dtype=dtype)


def text_batch(n_tasks: int, n_examples: int, seed: int, length: int = 9, n_classes: int = 3) -> Batch:
    """Random token ids of random lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (n_tasks, n_examples, length), generator=generator)
    lengths = torch.randint(2, length + 1, (n_tasks, n_examples, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    targets = torch.arange(n_examples).remainder(n_classes).expand(n_tasks, n_examples).contiguous()
    return Batch({"input_ids": ids * mask, "attention_mask": mask}, targets)
