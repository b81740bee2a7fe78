"""Dropout masks that an example has in whatever batch, part of a batch or padding it comes in.

Every entry of a mask is a hash of (the call's name, the layer, the example's number, the position, the feature). So
micro-batches, chunks of tasks and threads change nothing, and no generator is wound through numbers that are not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metascale.core.streams import address, torch_generator
from metascale.core.types import Batch

_WORD = 2**32
_FEATURES, _POSITIONS = 0x5851F42D4C957F2D, 0x14057B7EF767814F
_FIRST, _SECOND = 0x2C1B3C6D, 0x297A2D39
"""Odd factors of the two rounds (Wellons 2018, "Prospecting for hash functions")."""


def dropout_key(seed: int, purpose: str, *index: int | str, bits: int = 62) -> int:
    """The number that names the masks of one call: the stream at this address, in ``bits`` bits."""
    return address(seed, purpose, *index) & ((1 << bits) - 1)


def drop(values: torch.Tensor, rate: float, dropout: int | None, name: str) -> torch.Tensor:
    """Inverted dropout with the mask that (``dropout``, ``name``) addresses; none for ``dropout=None`` or rate 0.

    For batches that are never cut or padded: the mask belongs to the whole tensor, not to its examples.
    """
    if dropout is None or rate == 0:
        return values
    return values * mask_like(values, rate, dropout, name)


def mask_like(values: torch.Tensor, rate: float, dropout: int, name: str) -> torch.Tensor:
    """The mask of `drop`: zero, or 1 / (1 − rate)."""
    generator = torch_generator(dropout, "dropout", name, device=str(values.device))
    keep = torch.empty_like(values, requires_grad=False).bernoulli_(1 - rate, generator=generator)
    return keep.div_(1 - rate)


@dataclass(frozen=True, slots=True, eq=False)
class DropoutMasks:
    """The masks of one call.

    Args:
        rate: probability with which an entry is dropped, in (0, 1).
        key: names the masks; the same key gives the same ones.
        numbers: [N] integers that name the examples of the batch.
    """

    rate: float
    key: int
    numbers: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, rate: float, key: int) -> DropoutMasks:
        """The masks of a batch, one task after the other, for activations [T · B, ..., d]."""
        numbers = batch.numbered().numbers
        assert numbers is not None
        return cls(rate, key, numbers.flatten())

    def __call__(self, like: torch.Tensor, layer: str) -> torch.Tensor:
        """The mask of one layer for activations [N, ..., d], in their precision: zero, or 1 / (1 − rate)."""
        name = address(self.key, "dropout", layer)
        n_examples, n_features = like.shape[0], like.shape[-1]
        n_positions = like[0, ..., 0].numel()
        positions = torch.arange(n_positions, device=like.device) * _POSITIONS
        rows = _scrambled(_scrambled(self.numbers.unsqueeze(1) ^ _signed(name)) + positions)
        columns = _scrambled((torch.arange(n_features, device=like.device) * _FEATURES) ^ _signed(name >> 64))
        words = _low_word(rows).view(n_examples, -1, 1) ^ _low_word(columns)
        words.mul_(_FIRST)
        words ^= (words >> 15) & 0x1FFFF
        words.mul_(_SECOND)
        kept = words >= round(self.rate * _WORD) - _WORD // 2
        return kept.to(like.dtype).div_(1.0 - self.rate).view(like.shape)


def _signed(number: int) -> int:
    """The low 64 bits, as the integer that a tensor can hold."""
    return (number + 2**63) % 2**64 - 2**63


def _scrambled(values: torch.Tensor) -> torch.Tensor:
    """Integers of 64 bits to others, no two alike (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return values ^ (values >> 31 & (1 << 33) - 1)


def _low_word(values: torch.Tensor) -> torch.Tensor:
    """Their low 32 bits."""
    return ((values & _WORD - 1) - _WORD // 2).to(torch.int32)
