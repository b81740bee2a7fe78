"""Classes and their examples, and which classes belong to which split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Split

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class ClassTable:
    """A labelled data set, indexed by class.

    Args:
        name: the data set's name; it is part of every random stream's address.
        classes: the class names; a class index is a position in this tuple.
        examples: the example ids of each class.
        fetch: example ids [...] to named input tensors [..., *shape].
        examples_by_split: example ids of each class in each split, test examples in no other split; needed only where
            splits share classes (``FewShotTasks(classes="shared")``).
        details: JSON for the run's record: source, licence, how the examples were made.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[np.ndarray, ...]
    fetch: Callable[[np.ndarray], dict[str, torch.Tensor]]
    examples_by_split: Mapping[Split, tuple[np.ndarray, ...]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"{self.name}: class names must be distinct")
        if len(self.examples) != len(self.classes):
            raise InputError(f"{self.name}: {len(self.classes)} classes but example ids for {len(self.examples)}")


@dataclass(frozen=True)
class ClassSplit:
    """Which class indices are meta-train, meta-validation and meta-test; no class is in two splits."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    def __post_init__(self) -> None:
        every = self.train + self.validation + self.test
        if len(set(every)) != len(every):
            raise InputError("a class split may not hold a class twice")

    def of(self, split: Split) -> tuple[int, ...]:
        """The class indices of ``split``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    @staticmethod
    def draw(name: str, groups: Sequence[str], n_groups: Mapping[Split, int], seed: int) -> ClassSplit:
        """Give whole groups of classes to the splits, at random but fixed by ``name`` and ``seed``.

        Args:
            groups: the group of each class; classes of one group (the rotations of one digit, the intents of one
                domain) stay together. Give each class its own group for a plain split.
            n_groups: how many groups each split gets; together all of them.

        Raises:
            InputError: a split would get no group, or the numbers do not add up to the number of groups.
        """
        names = sorted(set(groups))
        counts = [n_groups[split] for split in SPLITS]
        if min(counts) < 1 or sum(counts) != len(names):
            wanted = " + ".join(f"{n_groups[split]} {split}" for split in SPLITS)
            raise InputError(
                f"{name}: a class split of {wanted} does not fit; the three numbers must be at least 1 and add up to "
                f"{len(names)}"
            )
        order = generator(seed, "class-split", name).permutation(len(names))
        bounds = np.cumsum([0, *counts])
        members = []
        for start, stop in pairwise(bounds):
            chosen = {names[position] for position in order[start:stop]}
            members.append(tuple(index for index, group in enumerate(groups) if group in chosen))
        return ClassSplit(*members)


def split_sizes(name: str, n_classes: int, fractions: tuple[float, float, float]) -> dict[Split, int]:
    """How many of ``n_classes`` classes go to train, validation and test; train takes what rounding leaves.

    Raises:
        InputError: the fractions are not positive or do not add up to 1, or a split would be empty.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(f"{name}: split fractions must be positive and add up to 1, not {fractions}")
    n_validation, n_test = round(n_classes * fractions[1]), round(n_classes * fractions[2])
    sizes: dict[Split, int] = {
        "train": n_classes - n_validation - n_test,
        "validation": n_validation,
        "test": n_test,
    }
    empty = [split for split in SPLITS if sizes[split] < 1]
    if empty:
        raise InputError(f"{name}: {n_classes} classes are too few for the fractions {fractions}; {empty[0]} gets none")
    return sizes
