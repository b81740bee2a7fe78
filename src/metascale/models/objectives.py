"""Losses with a task axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from metascale.core.types import require_same_shape


def cross_entropy_per_task(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[T] mean cross-entropy in nats of logits [T, B, classes] against integer targets [T, B]."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


def squared_error_per_task(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[T] mean squared error of predictions [T, B, ...] against targets of the same shape."""
    return squared_errors(predictions, targets).flatten(1).mean(1)


def squared_errors(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(predictions − targets)², element by element.

    Raises:
        InputError: their shapes differ, and broadcasting would pair values that do not belong together.
    """
    require_same_shape(predictions, targets)
    return (predictions - targets).square()
