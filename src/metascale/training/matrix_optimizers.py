"""LAMB and Muon in the form of `training.optimizers`: their steps mix the elements of a tensor.

Parameters are unstacked: with a leading task axis the norms would run over all tasks together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from metascale.core.trees import tree_map
from metascale.core.types import Params
from metascale.training.elementwise_optimizers import descend, root
from metascale.training.optimizers import Adam, OptimizerState


@dataclass(frozen=True)
class LAMB:
    """Adam's direction, scaled tensor by tensor to ‖θ‖ / ‖direction‖ (You et al. 2020, arXiv 1904.00962, algorithm 2).

    The scale is 1 where either norm is 0. Weight decay is part of the direction, as there.
    """

    mixes: ClassVar[bool] = True

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return Adam(self.lr).init(params)

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        count = state["count"]["count"] + 1
        m = tree_map(lambda a, g: torch.lerp(a, g, 1 - self.beta1), state["m"], grads)
        v = tree_map(lambda a, g: torch.lerp(a, g * g, 1 - self.beta2), state["v"], grads)
        c1, c2 = 1 - self.beta1 ** float(count), 1 - self.beta2 ** float(count)

        def step(first: torch.Tensor, second: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            direction = (first / c1) / (root(second) / c2**0.5 + self.eps) + self.weight_decay * value
            size, length = root(value.square().sum()), root(direction.square().sum())
            trust = torch.where((size > 0) & (length > 0), size / torch.where(length > 0, length, 1.0), 1.0)
            return self.lr * trust * direction

        return descend(params, tree_map(step, m, v, params), rates), {"m": m, "v": v, "count": {"count": count}}


@dataclass(frozen=True)
class Muon:
    """Momentum, orthogonalised by Newton–Schulz, for matrices; ``other`` for every other tensor (Jordan et al. 2024).

    As torch.optim.Muon for matrices, but the iteration runs in the parameters' own precision, not in bfloat16.

    Args:
        lr: of the matrices.
        scaling: ``"original"`` multiplies by √max(1, rows / columns), ``"match_rms_adamw"`` by 0.2 √max(rows, columns).
        other: the optimiser of vectors, scalars and tensors of more than two dimensions.
    """

    mixes: ClassVar[bool] = True

    lr: float
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    steps: int = 5
    scaling: Literal["original", "match_rms_adamw"] = "original"
    other: Adam = field(default_factory=lambda: Adam(1e-3))

    def init(self, params: Params) -> OptimizerState:
        matrices, rest = split_matrices(params)
        return {"velocity": tree_map(torch.zeros_like, matrices), **self.other.init(rest)}

    def _scale(self, shape: torch.Size) -> float:
        rows, columns = shape
        if self.scaling == "original":
            return max(1.0, rows / columns) ** 0.5
        return 0.2 * max(rows, columns) ** 0.5

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        matrices, rest = split_matrices(params)
        velocity = {n: torch.lerp(state["velocity"][n], grads[n], 1 - self.momentum) for n in matrices}
        moved = {n: torch.lerp(grads[n], b, self.momentum) if self.nesterov else b for n, b in velocity.items()}
        steps = {
            name: self.lr * (self._scale(p.shape) * orthogonalise(moved[name], self.steps) + self.weight_decay * p)
            for name, p in matrices.items()
        }
        others = {slot: values for slot, values in state.items() if slot != "velocity"}
        stepped, others = self.other.update(rest, {n: grads[n] for n in rest}, others, rates)
        stepped |= descend(matrices, steps, rates)
        return {name: stepped[name] for name in params}, {"velocity": velocity, **others}


def split_matrices(params: Params) -> tuple[Params, Params]:
    """The tensors of two dimensions, and the rest."""
    matrices = {name: value for name, value in params.items() if value.ndim == 2}
    return matrices, {name: value for name, value in params.items() if name not in matrices}


def orthogonalise(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """Singular values driven towards 1 by the quintic Newton–Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / root(x.square().sum()).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
