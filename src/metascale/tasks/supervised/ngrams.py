"""What counting words achieves: the floors that a language model has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from metascale.core.types import Split
from metascale.tasks.supervised.token_stream import TokenStream

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

    def perplexity(self, order: str, split: Split) -> float:
        """exp of the loss of ``"unigram"`` or ``"bigram"``."""
        return float(np.exp(getattr(self, order)[split]))


def floors(stream: TokenStream) -> Floors:
    """Count the training tokens of ``stream`` and score its validation and test tokens, every one of them."""
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
