"""Shuffled mini-batches whose content is a function of their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

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


class Loaded:
    """A torch DataLoader as a function of the batch's number: batch n is n mod len(loader) of epoch n // len(loader).

    Each epoch starts from torch's generators seeded by (seed, purpose, epoch), and each batch is drawn with the global
    one seeded likewise, so that a resumed training sees the same batches; a generator of the loader's own is seeded
    anew. What a data set draws from Python's or NumPy's generators is not covered. To go back, or to resume inside an
    epoch, the epoch's batches before are drawn again.

    Raises:
        InputError: the loader has no length (a stream), or is empty.
    """

    def __init__(self, loader: DataLoader[Any], seed: int = 0, purpose: str = "batches") -> None:
        try:
            length = len(loader)
        except TypeError:
            length = -1
        if length < 1:
            what = "is empty" if length == 0 else "has no length, so batch n is no function of n"
            raise InputError(
                f"the {purpose} DataLoader {what}; give a function from a batch's number to the batch instead",
                field=purpose,
            )
        self.loader, self.seed, self.purpose, self.length = loader, seed, purpose, length
        self._place: tuple[int, int] = (-1, 0)  # the running epoch, and which of its batches comes next
        self._running: Iterator[Any] = iter(())
        self._kept: dict[int, Any] = {}  # batch 0, which checks and validation ask for again, and the latest

    def __call__(self, n: int) -> Any:
        if n in self._kept:
            return self._kept[n]
        epoch, place = divmod(n, self.length)
        if self._place[0] != epoch or self._place[1] > place:
            with self._seeded(epoch, -1):
                self._running = iter(self.loader)
            self._place = (epoch, 0)
        for number in range(self._place[1], place + 1):  # at least one
            with self._seeded(epoch, number):
                batch = next(self._running)
        self._place = (epoch, place + 1)
        self._kept = {number: kept for number, kept in self._kept.items() if number == 0} | {n: batch}
        return batch

    @contextmanager
    def _seeded(self, epoch: int, number: int) -> Iterator[None]:
        seed = int(generator(self.seed, self.purpose, "loader", epoch, number + 1).integers(2**62))
        own = getattr(self.loader, "generator", None)
        if own is not None and number < 0:
            own.manual_seed(seed)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            yield
