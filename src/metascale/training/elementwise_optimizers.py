"""RMSprop, Adagrad and Lion in the form of `training.optimizers`: pure and differentiable updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metascale.core.errors import InputError
from metascale.core.trees import tree_map
from metascale.core.types import Params
from metascale.training.optimizers import OptimizerState


def descend(params: Params, steps: Params, rates: float | Params) -> Params:
    """params − rates · steps."""
    if isinstance(rates, dict):
        return tree_map(lambda p, s, r: p - r * s, params, steps, rates)
    return tree_map(lambda p, s: torch.sub(p, s, alpha=rates), params, steps)


def root(square: torch.Tensor) -> torch.Tensor:
    """√ with the derivative 0 at 0, where the true one is infinite."""
    alive = square > 0
    return torch.where(alive, torch.where(alive, square, 1.0).sqrt(), 0.0)


@dataclass(frozen=True)
class RMSprop:
    """s ← decay · s + (1 − decay) · g²; step lr · g / (√s + eps), with heavy-ball momentum on top when it is not 0
    (Tieleman and Hinton 2012, in the form of torch.optim.RMSprop).
    """

    lr: float
    decay: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        state = {"v": tree_map(torch.zeros_like, params)}
        return {**state, "velocity": tree_map(torch.zeros_like, params)} if self.momentum else state

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        v = tree_map(lambda s, g: torch.lerp(s, g * g, 1 - self.decay), state["v"], grads)
        steps = tree_map(lambda g, s: g / (root(s) + self.eps), grads, v)
        after: OptimizerState = {"v": v}
        if self.momentum:
            steps = tree_map(lambda b, d: self.momentum * b + d, state["velocity"], steps)
            after["velocity"] = steps
        return descend(params, tree_map(lambda d: self.lr * d, steps), rates), after


@dataclass(frozen=True)
class Adagrad:
    """s ← s + g²; step lr / (1 + (t − 1) · lr_decay) · g / (√s + eps) (Duchi et al. 2011, as torch.optim.Adagrad)."""

    lr: float
    lr_decay: float = 0.0
    eps: float = 1e-10
    initial: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {
            "v": tree_map(lambda p: torch.full_like(p, self.initial), params),
            "count": {"count": torch.zeros((), dtype=torch.float64)},
        }

    def rate(self, count: float) -> float:
        """The rate of step number ``count``, from 1."""
        return self.lr / (1 + (count - 1) * self.lr_decay)

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        count = state["count"]["count"] + 1
        v = tree_map(lambda s, g: s + g * g, state["v"], grads)
        rate = self.rate(float(count))
        steps = tree_map(lambda g, s: rate * g / (root(s) + self.eps), grads, v)
        return descend(params, steps, rates), {"v": v, "count": {"count": count}}


@dataclass(frozen=True)
class Lion:
    """Step lr · (sign(c) + weight_decay · θ), c = β₁m + (1 − β₁)g; m ← β₂m + (1 − β₂)g (Chen et al. 2023,
    arXiv 2302.06675).

    Args:
        softness: 0 is Lion itself, whose step has a zero derivative wherever it has one. Above 0 the sign becomes
            c / √(c² + (softness · rms(c))²), one rms per tensor: another optimiser, with a useful derivative.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    softness: float = 0.0

    def __post_init__(self) -> None:
        if self.softness < 0:
            raise InputError(f"softness of Lion must not be negative, not {self.softness}")

    @property
    def mixes(self) -> bool:
        """Whether a step depends on all numbers of a tensor."""
        return self.softness > 0

    def init(self, params: Params) -> OptimizerState:
        return {"m": tree_map(torch.zeros_like, params)}

    def _direction(self, c: torch.Tensor) -> torch.Tensor:
        if not self.softness:
            return c.sign()
        width = self.softness**2 * c.square().mean()
        return c / torch.where(width > 0, c.square() + width, 1.0).sqrt()

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        directions = tree_map(lambda m, g: self._direction(torch.lerp(m, g, 1 - self.beta1)), state["m"], grads)
        steps = tree_map(lambda d, p: self.lr * (d + self.weight_decay * p), directions, params)
        m = tree_map(lambda a, g: torch.lerp(a, g, 1 - self.beta2), state["m"], grads)
        return descend(params, steps, rates), {"m": m}
