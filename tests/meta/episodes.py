"""Small random episodes for the tests of this room."""

from __future__ import annotations

import torch

from metascale.core.types import Batch, Episode


def quadratic_episode(n_tasks: int, n_dimensions: int, seed: int = 0) -> Episode:
    centres = torch.randn(n_tasks, 1, n_dimensions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batch = Batch({"x": torch.zeros(n_tasks, 1, 1, dtype=torch.float64)}, centres)
    return Episode(tuple(f"task{i}" for i in range(n_tasks)), batch, batch)


def class_episode(
    n_tasks: int, shape: tuple[int, ...], n_classes: int = 3, support: int = 6, query: int = 9, seed: int = 0
) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def batch(n_examples: int) -> Batch:
        inputs = torch.randn(n_tasks, n_examples, *shape, generator=generator, dtype=torch.float64)
        return Batch({"x": inputs}, torch.randint(0, n_classes, (n_tasks, n_examples), generator=generator))

    return Episode(tuple(f"task{i}" for i in range(n_tasks)), batch(support), batch(query))
