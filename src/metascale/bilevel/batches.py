"""Shuffled mini-batches whose content is a function of their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator


@lru_cache(maxsize=8)
def _order(seed: int, purpose: str, epoch: int, n: int) -> np.ndarray[Any, Any]:
    return generator(seed, purpose, epoch).permutation(n)


@dataclass(frozen=True, eq=False)
class Shuffled:
    """Batch n of endless epochs, each in its own order; the incomplete batch at an epoch's end is dropped.

    Args:
        data: named tensors with one row an example, or a sequence of examples (a torch Dataset).
        batch_size: examples a batch.
        seed, purpose: of the orders; data sets that share a seed need different purposes.
        collate: joins a list of examples; ``torch.utils.data.default_collate`` where ``None``. Not for tensors.
        device: where batches of named tensors go.

    Raises:
        InputError: fewer examples than one batch needs, or tensors of different lengths.
    """

    data: Mapping[str, torch.Tensor] | Sequence[Any]
    batch_size: int
    seed: int = 0
    purpose: str = "batches"
    collate: Callable[[list[Any]], Any] | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, Mapping):
            lengths = {name: len(value) for name, value in self.data.items()}
            if len(set(lengths.values())) != 1:
                raise InputError(f"the tensors of a data set must have one length, not {lengths}")
        if not 1 <= self.batch_size <= self.n_examples:
            raise InputError(
                f"batch_size must lie between 1 and the {self.n_examples} examples, not {self.batch_size}",
                field="batch_size",
            )

    @property
    def n_examples(self) -> int:
        if isinstance(self.data, Mapping):
            return len(next(iter(self.data.values())))
        return len(self.data)

    def indices(self, n: int) -> list[int]:
        epoch, place = divmod(n, self.n_examples // self.batch_size)
        order = _order(self.seed, self.purpose, epoch, self.n_examples)
        return [int(i) for i in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def __call__(self, n: int) -> Any:
        chosen = self.indices(n)
        if isinstance(self.data, Mapping):
            rows = torch.tensor(chosen)
            return {name: value[rows].to(self.device) for name, value in self.data.items()}
        collate = self.collate or torch.utils.data.default_collate
        return collate([self.data[i] for i in chosen])
