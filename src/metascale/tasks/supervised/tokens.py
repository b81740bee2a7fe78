"""Streams of tokens for language models, and the floors that counting words achieves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from metascale.core.columns import IGNORED
from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.core.streams import generator
from metascale.core.types import Batch, Split


@dataclass(frozen=True, eq=False)
class TokenStream:
    """Training, validation and test tokens of one vocabulary.

    Training batch k holds windows of ``n_sequence`` consecutive tokens with the token after each as its target. An
    epoch cuts the training tokens into windows from its own random offset and takes them in its own random order;
    batches run on from epoch to epoch, so every window of an epoch is seen once. Evaluation scores every token of a
    split once, the first one too (an end-of-text token stands before it), in windows of ``n_sequence`` that do not
    overlap: a token is predicted from the 1 to ``n_sequence`` tokens that stand before it in its window.

    Args:
        name: of the data set.
        vocabulary: the tokens, by id.
        tokens: ids of each split.
        boundary: id of the end-of-text token.
        n_sequence, n_batch: tokens a window, windows a training batch.
        seed: of the order of training windows.
        n_words: words of each split as the source separates them (with end-of-line marks), for perplexity a word.
        details: what a run's record should say about the text.
    """

    name: str
    vocabulary: tuple[str, ...]
    tokens: Mapping[Split, np.ndarray]
    boundary: int
    n_sequence: int = 128
    n_batch: int = 32
    seed: int = 0
    n_words: Mapping[Split, int] | None = None
    details: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("n_sequence", "n_batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of the text '{self.name}' must be at least 1, not {getattr(self, name)}")
        if self.n_windows < 1:
            raise InputError(
                f"the text '{self.name}' has {len(self.tokens['train'])} training tokens, too few for one window of "
                f"{self.n_sequence} (it takes {2 * self.n_sequence})"
            )

    @property
    def n_vocab(self) -> int:
        return len(self.vocabulary)

    @property
    def n_windows(self) -> int:
        """Training windows an epoch, the same for every offset."""
        return len(self.tokens["train"]) // self.n_sequence - 1

    @property
    def batch_tokens(self) -> int:
        """Targets of one training batch."""
        return self.n_batch * self.n_sequence

    @property
    def steps_per_epoch(self) -> int:
        """Training batches that cover an epoch (the last one runs into the next epoch)."""
        return -(-self.n_windows // self.n_batch)

    def batch(self, step: int) -> Batch:
        """Training batch ``step``: ``input_ids`` and targets [n_batch, n_sequence] int64."""
        places = np.arange(step * self.n_batch, (step + 1) * self.n_batch)
        starts = np.empty(self.n_batch, np.int64)
        for epoch in np.unique(places // self.n_windows):
            offset, order = _epoch(self.seed, int(epoch), self.n_windows, self.n_sequence)
            here = places // self.n_windows == epoch
            starts[here] = offset + self.n_sequence * order[places[here] % self.n_windows]
        windows = self.tokens["train"][starts[:, None] + np.arange(self.n_sequence + 1)].astype(np.int64)
        return Batch({"input_ids": torch.from_numpy(windows[:, :-1])}, torch.from_numpy(windows[:, 1:]))

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        """Batches that hold every token of ``split`` as a target once, in order; padding targets are `IGNORED`.

        Args:
            max_batches: stop after this many (a quick look: the start of the split).
        """
        targets = self.tokens[split].astype(np.int64)
        inputs = np.concatenate([[self.boundary], targets[:-1]])
        padding = -len(targets) % self.n_sequence
        inputs = np.pad(inputs, (0, padding), constant_values=self.boundary).reshape(-1, self.n_sequence)
        targets = np.pad(targets, (0, padding), constant_values=IGNORED).reshape(-1, self.n_sequence)
        for number, start in enumerate(range(0, len(inputs), self.n_batch)):
            if number == max_batches:
                return
            rows = slice(start, start + self.n_batch)
            yield Batch({"input_ids": torch.from_numpy(inputs[rows])}, torch.from_numpy(targets[rows]))

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record; perplexities are a token of this vocabulary."""
        return {
            "name": self.name,
            "n_vocab": self.n_vocab,
            "vocabulary_sha256": sha256_of("\n".join(self.vocabulary).encode()),
            "n_tokens": {split: len(ids) for split, ids in self.tokens.items()},
            "n_words": dict(self.n_words or {}),
            "n_sequence": self.n_sequence,
            "n_batch": self.n_batch,
            "seed": self.seed,
            **(self.details or {}),
        }


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n_windows: int, n_sequence: int) -> tuple[int, np.ndarray]:
    """The offset of an epoch's windows, and their order."""
    draw = generator(seed, "windows", epoch)
    offset = int(draw.integers(n_sequence))
    return offset, draw.permutation(n_windows)


_EM_STEPS = 200


@dataclass(frozen=True)
class Floors:
    """Mean loss (nats a token) of counting models on validation and test tokens, on the stream's vocabulary.

    Args:
        unigram: by relative frequency, one added to every count.
        bigram: weight·(relative frequency after the previous token) + (1 − weight)·unigram (Jelinek and Mercer 1980).
        bigram_weight: fitted to the validation tokens, so the bigram's test loss is the clean one.
    """

    unigram: dict[Split, float]
    bigram: dict[Split, float]
    bigram_weight: float

    def perplexity(self, order: Literal["unigram", "bigram"], split: Split) -> float:
        """exp of the loss of ``"unigram"`` or ``"bigram"``."""
        return float(np.exp(getattr(self, order)[split]))


def floors(stream: TokenStream) -> Floors:
    """Count the training tokens of ``stream`` and score its validation and test tokens, every one of them."""
    from scipy import sparse

    train, n = stream.tokens["train"].astype(np.int64), stream.n_vocab
    single = (np.bincount(train, minlength=n) + 1.0) / (len(train) + n)
    pairs = sparse.csr_matrix((np.ones(len(train) - 1), (train[:-1], train[1:])), shape=(n, n))
    pairs.sum_duplicates()
    followed = np.maximum(np.asarray(pairs.sum(1)).ravel(), 1.0)
    evaluated: tuple[Split, ...] = ("validation", "test")
    one: dict[Split, np.ndarray] = {}
    two: dict[Split, np.ndarray] = {}
    for split in evaluated:
        targets = stream.tokens[split].astype(np.int64)
        before = np.concatenate([[stream.boundary], targets[:-1]])
        one[split] = single[targets]
        two[split] = np.asarray(pairs[before, targets]).ravel() / followed[before]
    weight = _mixture_weight(two["validation"], one["validation"])
    return Floors(
        {split: float(-np.log(one[split]).mean()) for split in evaluated},
        {split: float(-np.log(weight * two[split] + (1 - weight) * one[split]).mean()) for split in evaluated},
        weight,
    )


def _mixture_weight(first: np.ndarray, second: np.ndarray) -> float:
    """The weight of ``first`` that maximises the likelihood, by expectation-maximisation."""
    weight = 0.5
    for _ in range(_EM_STEPS):
        updated = float((weight * first / (weight * first + (1 - weight) * second)).mean())
        if abs(updated - weight) < 1e-10:
            break
        weight = updated
    return weight
