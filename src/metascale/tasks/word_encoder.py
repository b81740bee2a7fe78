"""A word-level encoder, so that text tasks can be used without a tokenizer file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from metascale.core.errors import InputError

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2


def words_of(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _TOKEN.findall(text.casefold())


@dataclass(frozen=True)
class WordEncoder:
    """Word ``i`` of ``words`` is token i + 2; 0 is padding, 1 an unknown word. Implements ``Encoder``.

    Raises:
        InputError: a word twice, or ``max_length`` below 1.
    """

    words: tuple[str, ...]
    max_length: int = 64

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words):
            raise InputError("the words of a WordEncoder must be distinct")
        if self.max_length < 1:
            raise InputError(f"max_length must be at least 1, not {self.max_length}")

    @staticmethod
    def from_texts(texts: Iterable[str], max_words: int | None = None, max_length: int = 64) -> WordEncoder:
        """The most frequent words of ``texts`` (ties in alphabetical order)."""
        counts = Counter(word for text in texts for word in words_of(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return WordEncoder(tuple(ordered[:max_words]), max_length)

    @property
    def pad_id(self) -> int:
        return _PAD

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, padding and unknown included."""
        return len(self.words) + _FIRST_WORD

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: position + _FIRST_WORD for position, word in enumerate(self.words)}

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids a text, at most ``max_length`` long."""
        ids = self._ids
        return [[ids.get(word, _UNKNOWN) for word in words_of(text)[: self.max_length]] for text in texts]
