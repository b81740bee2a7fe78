"""Text tasks without a language model: a word-level encoder, and texts as word frequencies."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Batch, Episode, Split
from metascale.tasks.fewshot import EpisodePlan, FewShotTasks

# Scripts that put no space between words: Han, kana, bopomofo; Thai, Lao, Myanmar, Khmer and Tai.
_HAN = (
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3041-\u3096\u309d-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_ABUGIDAS = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf\u1000-\u109f\u1780-\u17d3\u1950-\u19df"
_TOKEN = re.compile(rf"([{_HAN}]+)|([{_ABUGIDAS}]+)|(?:(?![{_HAN}{_ABUGIDAS}])\w)+|[^\w\s]")
_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2


def words_of(text: str) -> list[str]:
    """Lower-case words and punctuation marks of the text in Unicode's form NFKC.

    Words of scripts that put no spaces between them have no borders that could be seen: of Han and kana every pair of
    neighbouring characters is a word, and of Thai, Lao, Myanmar and Khmer, whose letters say less, every three.
    """
    if text.isascii():
        return [found[0] for found in _TOKEN.finditer(text.lower())]
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = []
    for found in _TOKEN.finditer(folded):
        size = 2 if found[1] else 3 if found[2] else len(found[0])
        words += [found[0][start : start + size] for start in range(max(1, len(found[0]) - size + 1))]
    return words


@dataclass(frozen=True)
class WordEncoder:
    """Word ``i`` of ``words`` is token i + 2; 0 is padding, 1 an unknown word. Implements ``Encoder``."""

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


@dataclass(frozen=True)
class BagOfWords:
    """The episodes of a text source with inputs ``{"x": [T, B, n_tokens]}``: the share of each token in the text.

    Args:
        source: a few-shot source of ``input_ids`` and ``attention_mask`` [T, B, S].
        n_tokens: size of the vocabulary.
        length: scale every text's counts to this Euclidean length instead, so that long and short texts move a network
            alike, and its first layer neither starves nor bursts.
    """

    source: FewShotTasks
    n_tokens: int
    length: float | None = None

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        episode = self.source.episodes(split, indices)
        return Episode(episode.task_ids, self._counted(episode.support), self._counted(episode.query))

    def n_tasks(self, split: Split) -> int | None:
        return self.source.n_tasks(split)

    def describe(self) -> dict[str, Any]:
        kind = "shares" if self.length is None else f"counts scaled to length {self.length:g}"
        return {**self.source.describe(), "inputs": f"{kind} of {self.n_tokens} tokens"}

    def plan(self, split: Split, indices: Sequence[int]) -> EpisodePlan:
        """As the source's: which classes and labels the episodes have."""
        return self.source.plan(split, indices)

    def _counted(self, batch: Batch) -> Batch:
        counts = token_counts(**batch.inputs, n_tokens=self.n_tokens)
        if self.length is None:
            return Batch(
                {"x": counts / batch.inputs["attention_mask"].sum(2, keepdim=True).clamp(min=1)}, batch.targets
            )
        return Batch({"x": self.length * F.normalize(counts, dim=2)}, batch.targets)


def token_counts(input_ids: torch.Tensor, attention_mask: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """[..., n_tokens] how often each token occurs in texts [..., S]."""
    counts = torch.zeros(*input_ids.shape[:-1], n_tokens)
    return counts.scatter_add_(-1, input_ids, attention_mask.float())
