"""A noisy two-class problem with batch statistics and dropout, and a quadratic one in float64."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel import Shuffled, WeightNet
from metascale.bilevel.levels import BoundModule, Levels, Pass, from_functions, from_modules
from metascale.bilevel.training import BilevelTraining
from metascale.bilevel.wrapped import from_wrapped, is_wrapped
from metascale.core.types import Params
from metascale.training.optimizers import Adam


def network(seed: int = 0, dropout: float = 0.3, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    middle: list[nn.Module] = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 2))


def data(noise: float = 0.4) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Noisy training examples, clean ones for the upper level, and clean ones for validation."""
    g = torch.Generator().manual_seed(1)
    x, direction = torch.randn(300, 6, generator=g), torch.randn(6, generator=g)
    clean = (x @ direction > 0).long()
    noisy = torch.where(torch.rand(300, generator=g) < noise, 1 - clean, clean)
    return (
        {"x": x[:200], "y": noisy[:200]},
        {"x": x[200:250], "y": clean[200:250]},
        {"x": x[250:], "y": clean[250:]},
    )


def lower_loss(model: BoundModule, weights: BoundModule, batch: Any) -> torch.Tensor:
    return weights(F.cross_entropy(model(batch["x"]), batch["y"], reduction="none"))


def upper_loss(model: BoundModule, weights: BoundModule, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def noisy_training(model: nn.Module | None = None, upper: nn.Module | None = None, **fields: Any) -> BilevelTraining:
    noisy, clean, _ = data()
    fields = {"lower_optimizer": Adam(1e-2), "upper_optimizer": Adam(1e-2), **fields}
    chosen = model or network()
    make = from_wrapped if is_wrapped(chosen) else from_modules
    return BilevelTraining(
        make(chosen, upper or WeightNet(8), lower_loss, upper_loss),
        Shuffled(noisy, 20),
        Shuffled(clean, 10, purpose="upper"),
        **fields,
    )


def quadratic_levels() -> Levels:
    """ℓ = ½ θᵀAθ − θᵀ(Bλ + c_batch), M = ½‖θ − t‖²: the mixed derivative −B is constant."""
    g = torch.Generator().manual_seed(2)
    root, b = torch.randn(5, 5, generator=g, dtype=torch.float64), torch.randn(5, 3, generator=g, dtype=torch.float64)
    a, target = root @ root.T / 5 + torch.eye(5, dtype=torch.float64), torch.randn(5, generator=g, dtype=torch.float64)

    def lower(theta: Params, lam: Params, batch: torch.Tensor, context: Pass) -> torch.Tensor:
        return 0.5 * theta["w"] @ a @ theta["w"] - theta["w"] @ (b @ lam["l"] + batch)

    def upper(theta: Params, lam: Params, batch: torch.Tensor, context: Pass) -> torch.Tensor:
        return 0.5 * (theta["w"] - target - batch).square().sum() + 0.1 * lam["l"].square().sum()

    start = {"w": torch.ones(5, dtype=torch.float64)}, {"l": torch.full((3,), 0.5, dtype=torch.float64)}
    return from_functions(*start, lower, upper)


def vector(n: int) -> torch.Tensor:
    """Batch n of the quadratic problem."""
    return 0.3 * torch.randn(5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
