"""Solving A x = b from products with A alone, for one system or for T stacked ones.

Every solver measures its residual ‖(A + damping·I) x − b‖ / ‖b‖: damping is part of the system that is solved.
``batched`` says that every tensor carries a leading task axis [T, ...] and that each task's system is its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.trees import tree_map
from metascale.core.types import Params

Matvec: TypeAlias = Callable[[Params], Params]
Status: TypeAlias = Literal["converged", "max_iterations", "fixed", "diverged", "negative_curvature"]
FAILED: tuple[Status, ...] = ("diverged", "negative_curvature")


class SolveFailed(MetascaleError, ArithmeticError):
    """A linear solve failed; the message says why and which field to change.

    Attributes:
        solution: the last finite one, with its measured residual.
    """

    def __init__(self, message: str, solution: LinearSolution):
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.solution)


@dataclass(frozen=True)
class LinearSolution:
    """An approximate solution.

    Args:
        x: shaped like the right-hand side.
        residual: measured ‖(A + damping·I) x − b‖ / ‖b‖, a scalar, or [T] where batched; ``None`` if not measured.
        iterations: products with A.
        status: ``converged`` (below the tolerance), ``max_iterations``, ``fixed`` (a rule with no stopping test),
            ``diverged`` or ``negative_curvature``.
    """

    x: Params
    residual: torch.Tensor | None
    iterations: int
    status: Status


class LinearSolver(Protocol):
    """Solves A x = b from products with A."""

    def __call__(self, matvec: Matvec, b: Params, *, batched: bool = False) -> LinearSolution: ...


def _dot(x: Params, y: Params, batched: bool) -> torch.Tensor:
    """Σ xᵢyᵢ, a scalar or [T]; half-precision tensors are multiplied and summed in float32."""

    def part(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(a.dtype, torch.float32)
        product = a.to(wide) * b.to(wide)
        return product.reshape(len(product), -1).sum(1) if batched else product.sum()

    return torch.stack([part(value, y[name]) for name, value in x.items()]).sum(0)


def _norm(x: Params, batched: bool) -> torch.Tensor:
    return _dot(x, x, batched).sqrt()


def _axpy(factor: torch.Tensor, x: Params, y: Params) -> Params:
    """factor · x + y with one factor in all, or one a task."""

    def combine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return factor.to(a.dtype).reshape(factor.shape + (1,) * (a.ndim - factor.ndim)) * a + b

    return tree_map(combine, x, y)


def _damped(matvec: Matvec, damping: float) -> Matvec:
    return (lambda x: tree_map(lambda a, b: a + damping * b, matvec(x), x)) if damping else matvec


def _relative(residual: Params, b: Params, batched: bool) -> torch.Tensor:
    size = _norm(b, batched)
    return _norm(residual, batched) / torch.where(size > 0, size, 1.0)


def _finish(solution: LinearSolution, raises: bool, advice: str) -> LinearSolution:
    if solution.status in FAILED and raises:
        worst = float(solution.residual.max()) if solution.residual is not None else float("nan")
        what = {"diverged": "diverged", "negative_curvature": "met negative curvature"}[solution.status]
        raise SolveFailed(
            f"the linear solve {what} after {solution.iterations} products (relative residual {worst:.3g}): {advice}",
            solution,
        )
    return solution


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class Identity:
    """x = scale · b, as if A were I / scale. ``measure`` spends one product on the residual."""

    scale: float = 1.0
    measure: bool = True

    def __call__(self, matvec: Matvec, b: Params, *, batched: bool = False) -> LinearSolution:
        x = tree_map(lambda value: self.scale * value, b)
        if not self.measure:
            return LinearSolution(x, None, 0, "fixed")
        residual = _relative(tree_map(torch.sub, matvec(x), b), b, batched)
        return LinearSolution(x, residual, 1, "fixed")


@dataclass(frozen=True)
class Neumann:
    """x = step · Σ_{i < terms} (I − step (A + damping·I))ⁱ b, the truncated Neumann series.

    It converges when every eigenvalue of A + damping·I lies in (0, 2/step). For a symmetric A the factor by which the
    residual changes never falls from one term to the next, so one rise proves divergence. Then the solver raises, or
    with ``on_failure="report"`` returns the sum with the smallest residual and the status ``diverged``.

    Raises:
        SolveFailed: the series diverges.
    """

    terms: int = 10
    step: float = 0.1
    damping: float = 0.0
    on_failure: Literal["raise", "report"] = "raise"

    def __post_init__(self) -> None:
        _check(self.terms >= 1, f"terms of the Neumann series must be at least 1, not {self.terms}")
        _check(self.step > 0, f"step of the Neumann series must be positive, not {self.step}")

    def __call__(self, matvec: Matvec, b: Params, *, batched: bool = False) -> LinearSolution:
        apply = _damped(matvec, self.damping)
        x, r = tree_map(torch.zeros_like, b), b
        residual = _relative(r, b, batched)
        floor = 100 * torch.finfo(residual.dtype).eps
        for term in range(1, self.terms + 1):
            longer = tree_map(lambda a, d: a + self.step * d, x, r)
            r = tree_map(lambda d, product: d - self.step * product, r, apply(r))
            measured = _relative(r, b, batched)
            if not bool((measured <= torch.clamp(residual * 1.0001, min=floor)).all()):
                solution = LinearSolution(x, residual, term, "diverged")
                return _finish(solution, self.on_failure == "raise", "lower the step below 2 / the largest eigenvalue")
            x, residual = longer, measured
        return LinearSolution(x, residual, self.terms, "fixed")


@dataclass(frozen=True)
class CG:
    """Conjugate gradients on A + damping·I, symmetric and positive definite (Hestenes and Stiefel 1952).

    A task stops at a relative residual of ``tol``. ``measure`` spends one more product on the residual at the end;
    otherwise it is the recurrence's, which rounding lets drift.

    Raises:
        SolveFailed: a direction of negative curvature was met, or a number is not finite.
    """

    max_iterations: int = 20
    tol: float = 1e-6
    damping: float = 0.0
    measure: bool = True
    on_failure: Literal["raise", "report"] = "raise"

    def __post_init__(self) -> None:
        _check(self.max_iterations >= 1, f"max_iterations of CG must be at least 1, not {self.max_iterations}")

    def __call__(self, matvec: Matvec, b: Params, *, batched: bool = False) -> LinearSolution:
        apply = _damped(matvec, self.damping)
        x, r, p = tree_map(torch.zeros_like, b), b, b
        square = _dot(r, r, batched)
        goal = square * self.tol**2
        spent, bad = 0, False
        active = square > goal
        while spent < self.max_iterations and bool(active.any()) and not bad:
            product = apply(p)
            spent += 1
            curvature = _dot(p, product, batched)
            bad = not bool((curvature[active] > 0).all()) or not bool(torch.isfinite(curvature).all())
            if bad:
                break
            rate = torch.where(active, square / torch.where(active, curvature, 1.0), 0.0)
            x, r = _axpy(rate, p, x), _axpy(-rate, product, r)
            previous, square = square, _dot(r, r, batched)
            p = _axpy(torch.where(active, square / torch.where(active, previous, 1.0), 0.0), p, r)
            active = active & (square > goal)
        rest = tree_map(torch.sub, apply(x), b) if self.measure else r
        residual = _relative(rest, b, batched)
        status: Status = "negative_curvature" if bad else "max_iterations" if bool(active.any()) else "converged"
        solution = LinearSolution(x, residual, spent + self.measure, status)
        return _finish(solution, self.on_failure == "raise", f"raise damping above {self.damping:g}")


@dataclass(frozen=True)
class Direct:
    """The dense matrix, built column by column and factorised: exact, for at most ``max_size`` unknowns."""

    damping: float = 0.0
    max_size: int = 4096

    def __call__(self, matvec: Matvec, b: Params, *, batched: bool = False) -> LinearSolution:
        apply = _damped(matvec, self.damping)
        flat = _ravel(b, batched)
        size = flat.shape[-1]
        _check(size <= self.max_size, f"Direct solves at most {self.max_size} unknowns, not {size}; use CG")
        columns = []
        for index in range(size):
            unit = torch.zeros_like(flat)
            unit[..., index] = 1.0
            columns.append(_ravel(apply(_unravel(unit, b)), batched))
        x = _unravel(torch.linalg.solve(torch.stack(columns, dim=-1), flat), b)
        residual = _relative(tree_map(torch.sub, apply(x), b), b, batched)
        return LinearSolution(x, residual, size + 1, "converged")


def _ravel(x: Params, batched: bool) -> torch.Tensor:
    """All numbers as one vector, or [T, d]."""
    return torch.cat([v.reshape(len(v), -1) if batched else v.reshape(-1) for v in x.values()], dim=-1)


def _unravel(flat: torch.Tensor, like: Params) -> Params:
    lead = flat.shape[:-1].numel()
    parts = flat.split([value.numel() // lead for value in like.values()], dim=-1)
    return {name: part.reshape(value.shape) for (name, value), part in zip(like.items(), parts, strict=True)}
