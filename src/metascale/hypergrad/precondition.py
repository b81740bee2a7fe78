"""The derivative D = ∂u/∂g of a lower optimiser's step θ − u(g), which SAMA multiplies by.

Element-wise optimisers have a diagonal D in closed form, from the last gradient g and the state after the step.
Other updates give their vector-Jacobian product. Decoupled weight decay does not enter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from metascale.core.errors import InputError
from metascale.core.trees import require_grad, tree_map
from metascale.core.types import Params
from metascale.hypergrad.problem import Total, alone


def adam_derivative(
    g: torch.Tensor,
    m: torch.Tensor,
    s: torch.Tensor,
    *,
    count: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> torch.Tensor:
    """(η/c₁) [(1−β₁)/(r+e) − m (1−β₂) g / (c₂ r (r+e)²)], r = √(s/c₂), cᵢ = 1 − βᵢᵗ; zero where s is.

    ``m`` and ``s`` are the moments after step number ``count``.
    """
    c1, c2 = 1 - betas[0] ** count, 1 - betas[1] ** count
    dead = s == 0
    r = (s / c2).sqrt_().masked_fill_(dead, 1.0)
    below = r + eps
    # Few passes over the weights, in place: lr / (c₁ (r+e)) · [(1−β₁) − m g (1−β₂) / (c₂ r (r+e))].
    slope = (m * g).div_(r.mul_(below)).mul_((betas[1] - 1) / c2).add_(1 - betas[0])
    return slope.div_(below).mul_(lr / c1).masked_fill_(dead, 0.0)


def rmsprop_derivative(g: torch.Tensor, s: torch.Tensor, *, lr: float, decay: float, eps: float) -> torch.Tensor:
    """η [1/(r+e) − (1−decay) g² / (r (r+e)²)], r = √s after the step; 0 where s is. Momentum does not change it."""
    r, alive = _root(s)
    below = r + eps
    return torch.where(alive, lr * (1 / below - (1 - decay) * g.square() / (r * below.square())), 0.0)


def adagrad_derivative(g: torch.Tensor, s: torch.Tensor, *, rate: float, eps: float) -> torch.Tensor:
    """rate [1/(r+e) − g² / (r (r+e)²)], r = √s after the step, ``rate`` that of the step; 0 where s is."""
    r, alive = _root(s)
    below = r + eps
    return torch.where(alive, rate * (1 / below - g.square() / (r * below.square())), 0.0)


def _root(square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alive = square > 0
    return torch.where(alive, square, 1.0).sqrt(), alive


def multiply(derivative: Params, w: Params) -> Params:
    """D ⊙ w for a diagonal D."""
    return tree_map(torch.mul, w, derivative)


def step_vjp(step: Callable[[Params], Params], grads: Params, w: Params) -> Params:
    """(∂u/∂g)ᵀ w for ``step``: g -> θ − u(g).

    Raises:
        InputError: the step does not depend on the gradient differentiably.
    """
    leaves = require_grad(grads)
    after = step(leaves)
    live = {name: value for name, value in after.items() if value.requires_grad}
    if not live:
        raise InputError("the lower optimiser's step has no derivative with respect to the gradient: set adapt=False")
    found = torch.autograd.grad(
        list(live.values()), list(leaves.values()), [-w[name] for name in live], allow_unused=True
    )
    return {n: torch.zeros_like(v) if d is None else d for (n, v), d in zip(grads.items(), found, strict=True)}


def clip_vjp(clipped: Params, norm: float, max_norm: float, w: Params, total: Total = alone) -> Params:
    """w pulled back through the clipping of a gradient of ``norm`` to ``max_norm``, given the clipped gradient.

    ``total`` sums a number over the processes that hold parts of the gradient.
    """
    if norm <= max_norm:
        return w
    along = total(torch.stack([(g * w[name]).sum() for name, g in clipped.items()]).sum()) / max_norm**2
    return tree_map(lambda part, g: (part - along * g) * (max_norm / norm), w, clipped)
