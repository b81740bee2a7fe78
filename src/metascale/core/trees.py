"""Arithmetic on parameter dictionaries, written once. Every function keeps the order of its first argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from metascale.core.types import Params


def tree_map(fn: Callable[..., torch.Tensor], first: Params, *others: Params) -> Params:
    """``fn`` applied name by name."""
    return {name: fn(value, *(other[name] for other in others)) for name, value in first.items()}


def add(x: Params, y: Params, scale: float = 1.0) -> Params:
    """x + scale · y."""
    return tree_map(lambda a, b: torch.add(a, b, alpha=scale), x, y)


def subtract(x: Params, y: Params) -> Params:
    """x − y."""
    return tree_map(torch.sub, x, y)


def scale(x: Params, factor: float) -> Params:
    """factor · x."""
    return tree_map(lambda a: a * factor, x)


def zeros_like(x: Params) -> Params:
    """Zeros of the same shapes."""
    return tree_map(torch.zeros_like, x)


def dot(x: Params, y: Params) -> torch.Tensor:
    """Σ xᵢ yᵢ over every element of every tensor; a scalar."""
    return torch.stack([(value * y[name]).sum() for name, value in x.items()]).sum()


def norm(x: Params) -> torch.Tensor:
    """Euclidean norm over every element; a scalar."""
    return dot(x, x).sqrt()


def detach(x: Params) -> Params:
    """Without history."""
    return tree_map(lambda a: a.detach(), x)


def require_grad(x: Params) -> Params:
    """Detached leaves that collect gradients."""
    return tree_map(lambda a: a.detach().requires_grad_(True), x)


def stack_tasks(x: Params, n_tasks: int) -> Params:
    """One set of parameters shared by T tasks: [...] viewed as [T, ...] without a copy."""
    return tree_map(lambda a: a.unsqueeze(0).expand(n_tasks, *a.shape), x)


def concat_tasks(parts: Sequence[Params]) -> Params:
    """Stacked parameters of consecutive chunks of tasks, joined along the task axis."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def mean_tasks(x: Params) -> Params:
    """The mean over the task axis."""
    return tree_map(lambda a: a.mean(0), x)


def to(x: Params, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Params:
    """On ``device`` and in ``dtype``."""
    return tree_map(lambda a: a.to(device=device, dtype=dtype), x)


def n_elements(x: Params) -> int:
    """How many numbers there are in all."""
    return sum(value.numel() for value in x.values())


def is_finite(x: Params) -> bool:
    """Whether every number is finite."""
    return all(bool(torch.isfinite(value).all()) for value in x.values())
