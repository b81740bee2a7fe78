"""Texts to token ids with the tokenizer that belongs to a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.models.text.architectures import SHAPES
from metascale.models.text.hf import cannot_load, source_options


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """An `Encoder` over a Hugging Face tokenizer. It does not pad: a batch is padded to its own longest text.

    A text without any token (an empty one, where the tokenizer adds no special tokens) becomes one padding token, so
    that every text has a position to read.

    Args:
        tokenizer: from transformers.
        max_length: tokens kept of a text, special tokens included.

    Raises:
        InputError: ``max_length`` leaves no room for a token.
    """

    tokenizer: Any = field(repr=False)
    max_length: int = 64

    def __post_init__(self) -> None:
        special = self.tokenizer.num_special_tokens_to_add()
        if self.max_length <= special:
            raise InputError(
                f"max_length must be more than the tokenizer's {special} special tokens, not {self.max_length}"
            )

    @property
    def pad_id(self) -> int:
        """The padding token, or, for a tokenizer without one (Llama, GPT-2), its end-of-text or unknown token, or 0.

        Which it is does not matter to a model: the attention mask hides it.
        """
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.unk_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, padding=False)
        return [list(ids) or [self.pad_id] for ids in encoded["input_ids"]]


def load_encoder(name_or_path: str | Path, max_length: int = 64) -> TextEncoder:
    """The tokenizer of a local folder, a hub name or a known shape. Nothing is fetched for a folder or when offline.

    Raises:
        InputError: there is no tokenizer that transformers can read.
        MissingDependency: transformers is not installed.
    """
    transformers = require("transformers", "text", "a tokenizer")
    name = str(name_or_path)
    if name in SHAPES and not Path(name).is_dir():
        name = SHAPES[name].hub_name
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **source_options(name))
    except (OSError, ValueError) as error:
        raise cannot_load(name, error, "the folder must hold a tokenizer that transformers can read") from error
    return TextEncoder(tokenizer, max_length)
