"""Hypergradients by the implicit function theorem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from metascale.core.types import Params
from metascale.hypergrad.linear import CG, LinearSolver
from metascale.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    refuse_reducer,
    subtract_indirect,
    upper_gradients,
)
from metascale.hypergrad.second import SecondDerivatives


@dataclass(frozen=True)
class Implicit:
    """∂M/∂λ − (∂²ℓ/∂λ∂θ) x with x ≈ (∂²ℓ/∂θ²)⁻¹ ∇_θM (Pedregosa 2016, arXiv 1602.02355; Lorraine et al. 2020).

    Exact at a minimiser of the lower loss when the linear solve is.

    Raises:
        SolveFailed: the linear solve fails.
        InputError: the lower loss has no second derivatives.
    """

    remembers: ClassVar[int] = 0
    adapts: ClassVar[bool] = False

    solver: LinearSolver = field(default_factory=CG)

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        refuse_reducer(problem, "Implicit")
        loss, by_lower, direct = upper_gradients(problem, lower, upper)
        second = SecondDerivatives(problem.lower_parts, lower, upper)
        solution = self.solver(second.hessian, by_lower)
        value = subtract_indirect(direct, second.mixed(solution.x))
        return Hypergradient(value, loss, solution.residual, solution.iterations, solution.status)
