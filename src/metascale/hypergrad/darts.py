"""The second-order gradient of DARTS, through one virtual lower step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metascale.core.errors import InputError
from metascale.core.trees import add, scale
from metascale.core.types import Params
from metascale.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    gradients,
    refuse_reducer,
    subtract_indirect,
    upper_gradients,
)
from metascale.hypergrad.second import Mixed, check_mixed, difference_step, mixed_product


@dataclass(frozen=True)
class DARTS:
    """θ' = θ − step · ∇_θℓ(θ, λ); ∂M/∂λ(θ') − step · (∂²ℓ/∂λ∂θ)(θ) ∇_θM(θ') (Liu et al. 2019, arXiv 1806.09055, eq. 7).

    The exact derivative of one plain gradient step; with the real steps of training in place of the virtual one it is
    T1–T2 (Luketina et al. 2016).

    Args:
        step: rate ξ of the virtual step.
        alpha: ‖ε v‖ of the difference.
        mixed: the mixed product as DARTS's central difference, or exact.
    """

    remembers: ClassVar[int] = 0
    adapts: ClassVar[bool] = False

    step: float = 0.1
    alpha: float = 0.01
    mixed: Mixed = "finite_difference"

    def __post_init__(self) -> None:
        check_mixed(self.mixed, self.alpha)
        if self.step <= 0:
            raise InputError(f"step of DARTS must be positive, not {self.step}", field="step")

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        refuse_reducer(problem, "DARTS")
        _, slope, _ = gradients(problem.lower_parts, lower, upper, of_upper=False)
        loss, v, direct = upper_gradients(problem, add(lower, slope, -self.step), upper)
        epsilon = difference_step(lower, v, self.alpha)
        product = mixed_product(problem.mixed_parts, lower, upper, v, epsilon, self.mixed)
        return Hypergradient(subtract_indirect(direct, scale(product, self.step)), loss)
