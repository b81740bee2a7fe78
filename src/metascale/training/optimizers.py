"""Optimisers as pure functions: (parameters, gradients, state) give new parameters and state, differentiably.

The same objects serve the inner loop (stacked parameters [T, ...], where autograd may flow through the update) and the
outer loop. An element-wise one treats every task's slice as an optimiser of its own would.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeGuard

import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, tree_map, zeros_like
from metascale.core.types import Params

OptimizerState: TypeAlias = dict[str, Params]
"""Named slots, each a dictionary shaped like the parameters (``count`` holds one number, on the CPU)."""


class Optimizer(Protocol):
    """An update rule. ``rates`` multiplies the step: one number, or one tensor a parameter (Meta-SGD).

    A rule that overwrites its input sets ``overwrites = True``; one whose step for a number depends on other numbers of
    the same tensor, ``mixes = True``.
    """

    def init(self, params: Params) -> OptimizerState: ...

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]: ...


def refuse_overwriting(optimizer: Optimizer, where: str) -> None:
    """Raise `InputError` for an optimiser that overwrites its input, which ``where`` still needs."""
    if getattr(optimizer, "overwrites", False):
        raise InputError(
            f"{type(optimizer).__name__} overwrites parameters and state, which {where} needs as they were; use Adam "
            "with weight_decay"
        )


def refuse_mixing(optimizer: Optimizer) -> None:
    """Raise `InputError` for an optimiser that mixes the numbers of a tensor: in an inner loop, those of all tasks."""
    if getattr(optimizer, "mixes", False):
        raise InputError(
            f"{type(optimizer).__name__} mixes the numbers of a tensor, which in an inner loop holds all tasks; an "
            "inner optimiser must be element-wise, such as SGD or Adam"
        )


class _Descent:
    """An optimiser given by its steps: parameters − rates · steps."""

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        """What is subtracted (the learning rate included), and the state after it."""
        raise NotImplementedError

    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        steps, state = self.steps(params, grads, state)
        if isinstance(rates, dict):
            return tree_map(lambda p, s, r: p - r * s, params, steps, rates), state
        return tree_map(lambda p, s: torch.sub(p, s, alpha=rates), params, steps), state


@dataclass(frozen=True)
class SGD(_Descent):
    """Stochastic gradient descent with heavy-ball or Nesterov momentum and decoupled weight decay.

    The step is ``lr · (d + weight_decay · parameter)`` with ``d`` the gradient or its momentum, in the form
    v ← momentum · v + g (Sutskever et al. 2013, up to their scaling of the rate).
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {"velocity": zeros_like(params)} if self.momentum else {}

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        steps = grads
        if self.momentum:
            velocity = tree_map(lambda v, g: self.momentum * v + g, state["velocity"], grads)
            steps = tree_map(lambda v, g: g + self.momentum * v, velocity, grads) if self.nesterov else velocity
            state = {"velocity": velocity}
        if self.weight_decay:
            steps = tree_map(lambda s, p: s + self.weight_decay * p, steps, params)
        return tree_map(lambda s: self.lr * s, steps), state


@dataclass(frozen=True)
class Adam(_Descent):
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
        return {"m": zeros_like(params), "v": zeros_like(params), "count": _zero_count()}

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        state, c1, root2 = _moments(grads, state, self.beta1, self.beta2)

        def step(first: torch.Tensor, second: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            direction = (first / c1) / (_root(second) / root2 + self.eps)
            return self.lr * (direction + self.weight_decay * value if self.weight_decay else direction)

        return tree_map(step, state["m"], state["v"], params), state


def has_own_rate(optimizer: Optimizer) -> TypeGuard[SGD | Adam]:
    """Whether `TaskRates` can give every task a rate of its own: the step is lr times what no rate enters."""
    return isinstance(optimizer, (SGD, Adam))


@dataclass(frozen=True, eq=False)
class TaskRates(_Descent):
    """``optimizer`` on stacked parameters [T, ...], task t at the rate ``rates[t]``: the numbers of T optimisers."""

    optimizer: SGD | Adam
    rates: torch.Tensor

    def init(self, params: Params) -> OptimizerState:
        return self.optimizer.init(params)

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        steps, state = replace(self.optimizer, lr=1.0).steps(params, grads, state)

        def scaled(step: torch.Tensor) -> torch.Tensor:
            return self.rates.to(step).view(-1, *[1] * (step.ndim - 1)) * step

        return tree_map(scaled, steps), state


def _zero_count() -> Params:
    return {"count": torch.zeros((), dtype=torch.float64)}


def _moments(grads: Params, state: OptimizerState, beta1: float, beta2: float) -> tuple[OptimizerState, float, float]:
    """Adam's moments after one more gradient, and the bias corrections 1 − β₁ᵗ and √(1 − β₂ᵗ)."""
    count = state["count"]["count"] + 1
    m = tree_map(lambda a, g: torch.lerp(a, g, 1 - beta1), state["m"], grads)
    v = tree_map(lambda a, g: torch.lerp(a, g * g, 1 - beta2), state["v"], grads)
    t = float(count)
    return {"m": m, "v": v, "count": {"count": count}}, 1 - float(beta1**t), float((1 - beta2**t) ** 0.5)


def _root(square: torch.Tensor) -> torch.Tensor:
    """√ with the derivative 0 at 0, where the true one is infinite."""
    alive = square > 0
    return torch.where(alive, torch.where(alive, square, 1.0).sqrt(), 0.0)


@dataclass(frozen=True)
class InPlaceAdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019) in torch's fused kernel, for large models.

    ``update`` overwrites parameters and state and returns the same objects: half the memory and a fraction of the
    passes of `Adam`, no derivatives through the update. Parameters with fewer than two dimensions (gains, biases) are
    not decayed.

    Args:
        lr: learning rate; ``rates`` of ``update`` multiplies it.
        weight_decay: per unit of the learning rate before ``rates`` of single tensors: a tensor's decay follows the
            schedule but not its own multiplier, so that under μP it does not depend on the width.
    """

    overwrites: ClassVar[bool] = True

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {
            "m": tree_map(lambda value: torch.zeros_like(value, requires_grad=False), params),
            "v": tree_map(lambda value: torch.zeros_like(value, requires_grad=False), params),
            "count": {"count": torch.zeros((), dtype=torch.float32)},
        }

    @torch.no_grad()
    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        groups: dict[tuple[float, bool], list[str]] = {}
        for name, value in params.items():
            rate = float(rates[name]) if isinstance(rates, dict) else rates
            groups.setdefault((rate, value.ndim >= 2), []).append(name)
        # Vectors have no multiplier of their own; where there are none, the largest rate has the smallest.
        base = next((rate for rate, decayed in groups if not decayed), max((rate for rate, _ in groups), default=1.0))
        for (rate, decayed), names in groups.items():
            fused_adamw(
                [params[name] for name in names],
                [grads[name] for name in names],
                [state["m"][name] for name in names],
                [state["v"][name] for name in names],
                state["count"]["count"],
                self,
                lr=self.lr * rate,
                weight_decay=self.weight_decay * base / rate if decayed and rate else 0.0,
            )
        state["count"]["count"] += 1
        return params, state


def fused_adamw(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    m: list[torch.Tensor],
    v: list[torch.Tensor],
    count: torch.Tensor,
    like: Adam | InPlaceAdamW,
    *,
    lr: float,
    weight_decay: float,
) -> None:
    """Torch's fused AdamW on ``params``, ``m`` and ``v``, in place, after ``count`` steps; β and eps are ``like``'s.

    The kernel of ``torch.optim.AdamW(fused=True)`` without what that does around it, half the time of a small network's
    step. A call of the kernel takes tensors of one device and one precision.
    """
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(params):
        kinds.setdefault((value.device, value.dtype), []).append(place)
    for (device, _), places in kinds.items():
        step = count.to(device, torch.float32) + 1
        torch._fused_adamw_(
            [params[place] for place in places],
            [grads[place] for place in places],
            [m[place] for place in places],
            [v[place] for place in places],
            [],
            [step] * len(places),
            amsgrad=False,
            beta1=like.beta1,
            beta2=like.beta2,
            lr=lr,
            weight_decay=weight_decay,
            eps=like.eps,
            maximize=False,
        )


@dataclass(frozen=True)
class RMSprop(_Descent):
    """s ← decay · s + (1 − decay) · g²; step lr · g / (√s + eps), with heavy-ball momentum on top when it is not 0
    (Tieleman and Hinton 2012, in the form of torch.optim.RMSprop).
    """

    lr: float
    decay: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        state = {"v": zeros_like(params)}
        return {**state, "velocity": zeros_like(params)} if self.momentum else state

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        v = tree_map(lambda s, g: torch.lerp(s, g * g, 1 - self.decay), state["v"], grads)
        steps = tree_map(lambda g, s: g / (_root(s) + self.eps), grads, v)
        after: OptimizerState = {"v": v}
        if self.momentum:
            steps = tree_map(lambda b, d: self.momentum * b + d, state["velocity"], steps)
            after["velocity"] = steps
        return tree_map(lambda d: self.lr * d, steps), after


@dataclass(frozen=True)
class Adagrad(_Descent):
    """s ← s + g²; step lr / (1 + (t − 1) · lr_decay) · g / (√s + eps) (Duchi et al. 2011, as torch.optim.Adagrad)."""

    lr: float
    lr_decay: float = 0.0
    eps: float = 1e-10
    initial: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {"v": tree_map(lambda p: torch.full_like(p, self.initial), params), "count": _zero_count()}

    def rate(self, count: float) -> float:
        """The rate of step number ``count``, from 1."""
        return self.lr / (1 + (count - 1) * self.lr_decay)

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        count = state["count"]["count"] + 1
        v = tree_map(lambda s, g: s + g * g, state["v"], grads)
        rate = self.rate(float(count))
        return tree_map(lambda g, s: rate * g / (_root(s) + self.eps), grads, v), {"v": v, "count": {"count": count}}


@dataclass(frozen=True)
class Lion(_Descent):
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
            raise InputError(f"softness of Lion must not be negative, not {self.softness}", field="softness")

    @property
    def mixes(self) -> bool:
        """Whether a step depends on all numbers of a tensor."""
        return self.softness > 0

    def init(self, params: Params) -> OptimizerState:
        return {"m": zeros_like(params)}

    def _direction(self, c: torch.Tensor) -> torch.Tensor:
        if not self.softness:
            return c.sign()
        width = self.softness**2 * c.square().mean()
        return c / torch.where(width > 0, c.square() + width, 1.0).sqrt()

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        directions = tree_map(lambda m, g: self._direction(torch.lerp(m, g, 1 - self.beta1)), state["m"], grads)
        steps = tree_map(lambda d, p: self.lr * (d + self.weight_decay * p), directions, params)
        return steps, {"m": tree_map(lambda a, g: torch.lerp(a, g, 1 - self.beta2), state["m"], grads)}


@dataclass(frozen=True)
class LAMB(_Descent):
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

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        state, c1, root2 = _moments(grads, state, self.beta1, self.beta2)

        def step(first: torch.Tensor, second: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            direction = (first / c1) / (_root(second) / root2 + self.eps) + self.weight_decay * value
            size, length = _root(value.square().sum()), _root(direction.square().sum())
            trust = torch.where((size > 0) & (length > 0), size / torch.where(length > 0, length, 1.0), 1.0)
            return self.lr * trust * direction

        return tree_map(step, state["m"], state["v"], params), state


@dataclass(frozen=True)
class Muon(_Descent):
    """Momentum, orthogonalised by Newton–Schulz, for matrices; ``other`` for every other tensor (Jordan et al. 2024).

    As torch.optim.Muon for matrices, but the iteration runs in the parameters' own precision, not in bfloat16.
    Parameters are unstacked: with a leading task axis they would not be matrices.

    Args:
        lr: of the matrices.
        iterations: of Newton–Schulz.
        scaling: ``"original"`` multiplies by √max(1, rows / columns), ``"match_rms_adamw"`` by 0.2 √max(rows, columns).
        other: the optimiser of vectors, scalars and tensors of more than two dimensions.
    """

    mixes: ClassVar[bool] = True

    lr: float
    momentum: float = 0.95
    nesterov: bool = True
    weight_decay: float = 0.1
    iterations: int = 5
    scaling: Literal["original", "match_rms_adamw"] = "original"
    other: Adam = field(default_factory=lambda: Adam(1e-3))

    def init(self, params: Params) -> OptimizerState:
        matrices, rest = _split_matrices(params)
        return {"velocity": zeros_like(matrices), **self.other.init(rest)}

    def _scale(self, shape: torch.Size) -> float:
        rows, columns = shape
        if self.scaling == "original":
            return float(max(1.0, rows / columns) ** 0.5)
        return 0.2 * float(max(rows, columns) ** 0.5)

    def steps(self, params: Params, grads: Params, state: OptimizerState) -> tuple[Params, OptimizerState]:
        matrices, rest = _split_matrices(params)
        velocity = {n: torch.lerp(state["velocity"][n], grads[n], 1 - self.momentum) for n in matrices}
        moved = {n: torch.lerp(grads[n], b, self.momentum) if self.nesterov else b for n, b in velocity.items()}
        steps = {
            name: self.lr * (self._scale(p.shape) * orthogonalise(moved[name], self.iterations) + self.weight_decay * p)
            for name, p in matrices.items()
        }
        others = {slot: values for slot, values in state.items() if slot != "velocity"}
        other_steps, others = self.other.steps(rest, {n: grads[n] for n in rest}, others)
        return steps | other_steps, {"velocity": velocity, **others}


def _split_matrices(params: Params) -> tuple[Params, Params]:
    matrices = {name: value for name, value in params.items() if value.ndim == 2}
    return matrices, {name: value for name, value in params.items() if name not in matrices}


def orthogonalise(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """Singular values driven towards 1 by the quintic Newton–Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / _root(x.square().sum()).clamp_min(1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def clip_norm(grads: Params, max_norm: float) -> Params:
    """Gradients scaled down to a Euclidean norm of at most ``max_norm`` over all tensors together."""
    factor = (max_norm / dot(grads, grads).clamp_min(1e-24).sqrt()).clamp(max=1.0)
    return tree_map(lambda g: g * factor, grads)


def clip_norm_per_task(grads: Params, max_norm: float) -> Params:
    """Stacked gradients [T, ...], each task's scaled down to a norm of at most ``max_norm``."""
    squares = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in grads.values()]).sum(0)
    factor = (max_norm / squares.clamp_min(1e-24).sqrt()).clamp(max=1.0)
    return tree_map(lambda g: g * factor.view(-1, *[1] * (g.ndim - 1)), grads)
