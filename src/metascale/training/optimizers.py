"""Optimisers as pure functions: (parameters, gradients, state) give new parameters and state, differentiably.

The same objects serve the inner loop (stacked parameters [T, ...], where autograd may flow through the update) and the
outer loop. Being element-wise, they treat every task's slice as an optimiser of its own would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, tree_map
from metascale.core.types import Params

OptimizerState: TypeAlias = dict[str, Params]
"""Named slots, each a dictionary shaped like the parameters (``count`` holds one number, on the CPU)."""


class Optimizer(Protocol):
    """An update rule. ``rates`` multiplies the step: one number, or one tensor a parameter (Meta-SGD).

    A rule that overwrites what it is given says ``overwrites = True``; one whose step for a number depends on others of
    the same tensor, ``mixes = True``.
    """

    def init(self, params: Params) -> OptimizerState: ...

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]: ...


def refuse_overwriting(optimizer: Optimizer, where: str) -> None:
    """Refuse an optimiser that overwrites what ``where`` still needs.

    Raises:
        InputError: so it does.
    """
    if getattr(optimizer, "overwrites", False):
        raise InputError(
            f"{type(optimizer).__name__} overwrites parameters and state, which {where} needs as they were; use Adam "
            "with weight_decay"
        )


def refuse_mixing(optimizer: Optimizer) -> None:
    """Refuse an optimiser whose step mixes the numbers of a tensor, which in an inner loop are those of all tasks.

    Raises:
        InputError: so it does.
    """
    if getattr(optimizer, "mixes", False):
        raise InputError(
            f"{type(optimizer).__name__} mixes the numbers of a tensor, which in an inner loop holds all tasks; an "
            "inner optimiser must be element-wise, such as SGD or Adam"
        )


def _apply(params: Params, steps: Params, rates: float | Params) -> Params:
    """params − rates · steps."""
    if isinstance(rates, dict):
        return {name: value - rates[name] * steps[name] for name, value in params.items()}
    return {name: torch.sub(value, steps[name], alpha=rates) for name, value in params.items()}


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball or Nesterov momentum and decoupled weight decay.

    The step is ``lr · (d + weight_decay · parameter)`` with ``d`` the gradient or its momentum, in the form
    v ← momentum · v + g (Sutskever et al. 2013, up to their scaling of the rate).
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {"velocity": tree_map(torch.zeros_like, params)} if self.momentum else {}

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        steps = grads
        if self.momentum:
            velocity = tree_map(lambda v, g: self.momentum * v + g, state["velocity"], grads)
            steps = tree_map(lambda v, g: g + self.momentum * v, velocity, grads) if self.nesterov else velocity
            state = {"velocity": velocity}
        if self.weight_decay:
            steps = tree_map(lambda s, p: s + self.weight_decay * p, steps, params)
        return _apply(params, tree_map(lambda s: self.lr * s, steps), rates), state


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay (Loshchilov and Hutter 2019) when it is not 0.

    Where the second moment is exactly zero the step is zero and so is its derivative: the square root has none there,
    and LoRA's A matrices start with exactly zero gradients.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {
            "m": tree_map(torch.zeros_like, params),
            "v": tree_map(torch.zeros_like, params),
            "count": {"count": torch.zeros((), dtype=torch.float64)},
        }

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        count = state["count"]["count"] + 1
        m = tree_map(lambda a, g: torch.lerp(a, g, 1 - self.beta1), state["m"], grads)
        v = tree_map(lambda a, g: torch.lerp(a, g * g, 1 - self.beta2), state["v"], grads)
        n = float(count)
        c1, c2 = 1 - self.beta1**n, 1 - self.beta2**n

        def step(first: torch.Tensor, second: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            alive = second > 0
            root = torch.where(alive, torch.where(alive, second, 1.0).sqrt(), 0.0)
            direction = (first / c1) / (root / c2**0.5 + self.eps)
            return self.lr * (direction + self.weight_decay * value if self.weight_decay else direction)

        steps = {name: step(m[name], v[name], value) for name, value in params.items()}
        return _apply(params, steps, rates), {"m": m, "v": v, "count": {"count": count}}


def clip_norm(grads: Params, max_norm: float) -> Params:
    """Gradients scaled down to a Euclidean norm of at most ``max_norm`` over all tensors together."""
    factor = (max_norm / dot(grads, grads).clamp_min(1e-24).sqrt()).clamp(max=1.0)
    return tree_map(lambda g: g * factor, grads)


def clip_norm_per_task(grads: Params, max_norm: float) -> Params:
    """Stacked gradients [T, ...], each task's scaled down to a norm of at most ``max_norm``."""
    squares = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in grads.values()]).sum(0)
    factor = (max_norm / squares.clamp_min(1e-24).sqrt()).clamp(max=1.0)
    return tree_map(lambda g: g * factor.view(-1, *[1] * (g.ndim - 1)), grads)
