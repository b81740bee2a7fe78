"""A bilevel problem at one upper step, as functions of the lower parameters θ and the upper parameters λ.

The functions are pure: their batches and dropout masks are bound, so a loss called twice gives the same number twice.
A loss is one function, or a tuple of micro-batches whose mean it is; then one graph is alive at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from metascale.core.errors import InputError
from metascale.core.trees import add, require_grad, tree_map
from metascale.core.types import Params
from metascale.hypergrad.linear import Status

Loss: TypeAlias = Callable[[Params, Params], torch.Tensor]
"""(θ, λ) -> a scalar."""
Total: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The sum of a number over the processes that hold parts of θ."""
State: TypeAlias = dict[str, Params]
Advance: TypeAlias = Callable[[Params, State, Params], tuple[Params, State]]
"""One differentiable lower step: (θ, optimiser state, λ) -> the next θ and state."""


def alone(value: torch.Tensor) -> torch.Tensor:
    """`Total` where one process holds all of θ."""
    return value


@dataclass(frozen=True)
class LowerStep:
    """A lower step: where it started, and the function that repeats it."""

    params: Params
    state: State
    advance: Advance


class Reducer(Protocol):
    """Sums an upper gradient over processes while the backward pass that makes it still runs."""

    def ready(self, name: str, gradient: torch.Tensor) -> None:
        """Take the complete local gradient of one upper tensor; its reduction may start."""
        ...

    def finish(self) -> Params:
        """The means over all processes, once every tensor is ready."""
        ...


@dataclass(frozen=True)
class BilevelProblem:
    """min over λ of M(θ*(λ), λ) with θ* a minimiser of ℓ(θ, λ).

    Args:
        lower_loss: ℓ, or its micro-batches.
        upper_loss: M, or its micro-batches.
        adapt: w -> (∂u/∂g)ᵀ w for the lower optimiser's last step θ − u(g), for SAMA.
        history: the last lower steps, oldest first, for `Unrolled`.
        mixed_loss: ℓ for mixed products by perturbation, where that is not ``lower_loss``: without autocast, which
            rounds by more than the perturbation, and with held values constant.
        reducer: makes a reducer for one hypergradient, where several processes share the problem.
        average_lower: means over processes, in the joint-batch mode of data parallelism.
    """

    lower_loss: Loss | tuple[Loss, ...]
    upper_loss: Loss | tuple[Loss, ...]
    adapt: Callable[[Params], Params] | None = None
    history: tuple[LowerStep, ...] = ()
    mixed_loss: Loss | tuple[Loss, ...] | None = None
    reducer: Callable[[], Reducer] | None = None
    average_lower: Callable[[Params], Params] | None = None
    total: Total = alone

    @property
    def lower_parts(self) -> tuple[Loss, ...]:
        return self.lower_loss if isinstance(self.lower_loss, tuple) else (self.lower_loss,)

    @property
    def upper_parts(self) -> tuple[Loss, ...]:
        return self.upper_loss if isinstance(self.upper_loss, tuple) else (self.upper_loss,)

    @property
    def mixed_parts(self) -> tuple[Loss, ...]:
        chosen = self.lower_loss if self.mixed_loss is None else self.mixed_loss
        return chosen if isinstance(chosen, tuple) else (chosen,)


@dataclass(frozen=True)
class Hypergradient:
    """dM/dλ, and how it was estimated.

    Args:
        value: shaped like λ.
        upper_loss: M(θ, λ), a scalar without history.
        residual: of the linear solve, relative; ``None`` where nothing was solved or measured.
        iterations: products with the Hessian, or lower steps differentiated.
        status: as of `hypergrad.linear.LinearSolution`; ``fixed`` where nothing was iterated.
        lower: the new θ of a method that moves it on purpose (the multitask option of SAMA).
    """

    value: Params
    upper_loss: torch.Tensor
    residual: torch.Tensor | None = None
    iterations: int = 0
    status: Status = "fixed"
    lower: Params | None = None


class HypergradientSolver(Protocol):
    """Estimates dM/dλ at (θ, λ).

    The problem's history must hold ``remembers`` lower steps (-1: all since the last upper step); ``adapts``: the
    problem must have ``adapt``.
    """

    @property
    def remembers(self) -> int: ...

    @property
    def adapts(self) -> bool: ...

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient: ...


def gradients(
    losses: Sequence[Loss],
    lower: Params,
    upper: Params,
    *,
    of_lower: bool = True,
    of_upper: bool = True,
    unused: set[str] | None = None,
) -> tuple[torch.Tensor, Params, Params]:
    """The mean loss, and its gradients with respect to θ and λ (empty where not requested; zero where unused).

    ``unused``, where given, is filled with the names of θ that no loss depends on.

    Only what is requested is differentiated: a λ that merely weights per-example losses needs no backward pass through
    the lower model.

    Raises:
        InputError: a loss is not one number.
    """
    theta = require_grad(lower) if of_lower else tree_map(lambda a: a.detach(), lower)
    lam = require_grad(upper) if of_upper else tree_map(lambda a: a.detach(), upper)
    wanted = {**({f"lower/{n}": v for n, v in theta.items()} if of_lower else {})}
    wanted |= {f"upper/{n}": v for n, v in lam.items()} if of_upper else {}
    total: torch.Tensor | None = None
    sums: Params = {}
    for loss in losses:
        value = scalar(loss(theta, lam), "a loss")
        for name, gradient in zip(wanted, _gradient_or_none(value, list(wanted.values())), strict=True):
            if gradient is not None:
                sums[name] = gradient if name not in sums else sums[name] + gradient
        total = value.detach() if total is None else total + value.detach()
    assert total is not None
    if unused is not None:
        unused.update(name for name in lower if f"lower/{name}" not in sums)
    n = len(losses)

    def collect(prefix: str, like: Params) -> Params:
        found = {name: sums.get(f"{prefix}/{name}") for name in like}
        return {
            name: torch.zeros_like(like[name]) if g is None else (g / n if n > 1 else g) for name, g in found.items()
        }

    return total / n, collect("lower", lower) if of_lower else {}, collect("upper", upper) if of_upper else {}


def _gradient_or_none(value: torch.Tensor, inputs: list[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    if not value.requires_grad or not inputs:
        return [None] * len(inputs)
    found: Sequence[torch.Tensor | None] = torch.autograd.grad(value, inputs, allow_unused=True)
    return found


def scalar(value: torch.Tensor, what: str) -> torch.Tensor:
    """``value``, or an `InputError` where it is not a tensor of one number."""
    if not isinstance(value, torch.Tensor) or value.ndim:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f"{what} must be one number (a tensor without dimensions), not {shape}: take its mean")
    return value


def upper_gradients(problem: BilevelProblem, lower: Params, upper: Params) -> tuple[torch.Tensor, Params, Params]:
    """M, ∇_θM and the direct ∂M/∂λ."""
    value, by_lower, by_upper = gradients(problem.upper_parts, lower, upper)
    if problem.average_lower is not None:
        by_lower = problem.average_lower(by_lower)
    return value, by_lower, by_upper


def unroll(
    advance: Advance, params: Params, state: State, upper: Params, steps: int
) -> tuple[Params, State, tuple[LowerStep, ...]]:
    """Take ``steps`` lower steps: the last θ and state, and the history for `Unrolled`."""
    history = []
    for _ in range(steps):
        history.append(LowerStep(params, state, advance))
        params, state = advance(params, state, upper)
        params = tree_map(lambda a: a.detach(), params)
        state = {slot: tree_map(lambda a: a.detach(), values) for slot, values in state.items()}
    return params, state, tuple(history)


def subtract_indirect(direct: Params, indirect: Params) -> Params:
    """∂M/∂λ − indirect."""
    return add(direct, indirect, -1.0)


def refuse_reducer(problem: BilevelProblem, name: str) -> None:
    """Raise `InputError` where several processes share the problem, which only SAMA supports."""
    if problem.reducer is not None:
        raise InputError(f"{name} runs in one process; of the hypergradient methods only SAMA is data-parallel")
