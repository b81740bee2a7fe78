"""Pools of tasks: distinct class combinations, drawn so that a smaller pool is the beginning of a larger one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

import numpy as np

from metascale.core.streams import generator

# Below this many combinations all are listed and shuffled; above it they are drawn and repetitions dropped. The choice
# depends on the classes alone, never on the size of the pool, so pools stay nested.
_LISTED = 100_000


def combinations_in_random_order(n_classes: int, n_way: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Every ``n_way``-subset of ``range(n_classes)`` once, in random order; each is a sorted tuple."""
    total = math.comb(n_classes, n_way)
    if total <= _LISTED:
        listed = list(combinations(range(n_classes), n_way))
        yield from (listed[position] for position in rng.permutation(total))
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < total:
        drawn = random_combination(n_classes, n_way, rng)
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def random_combination(n_classes: int, n_way: int, rng: np.random.Generator) -> tuple[int, ...]:
    """One ``n_way``-subset of ``range(n_classes)``, uniformly, as a sorted tuple."""
    return tuple(sorted(rng.choice(n_classes, n_way, replace=False, shuffle=False).tolist()))


def distinct_pool(
    classes: tuple[int, ...], n_way: int, n_tasks: int, seed: int, purpose: str, *index: str
) -> tuple[tuple[int, ...], ...]:
    """``n_tasks`` distinct combinations of ``classes``; nested in ``n_tasks``. There must be that many."""
    ordered = combinations_in_random_order(len(classes), n_way, generator(seed, purpose, *index))
    return tuple(tuple(classes[position] for position in next(ordered)) for _ in range(n_tasks))


@lru_cache(maxsize=16)
def visit_order(seed: int, purpose: str, n_tasks: int, visits_before: int) -> np.ndarray:
    """The shuffled order in which one pass visits ``range(n_tasks)``; kept because every visit of the pass asks."""
    order = generator(seed, purpose, n_tasks, visits_before).permutation(n_tasks)
    order.setflags(write=False)
    return order


def pool_position(seed: int, purpose: str, n_tasks: int, visit: int) -> int:
    """Which of ``n_tasks`` tasks visit number ``visit`` goes to: each once a pass, each pass in its own order."""
    visits_before, place = divmod(visit, n_tasks)
    return int(visit_order(seed, purpose, n_tasks, visits_before)[place])
