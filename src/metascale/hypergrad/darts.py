"""One virtual lower step: the second-order gradient of DARTS, and T1–T2."""

from __future__ import annotations

from dataclasses import dataclass

from metascale.core.errors import InputError
from metascale.core.trees import add, scale
from metascale.core.types import Params
from metascale.hypergrad.implicit import refuse_reducer
from metascale.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    gradients,
    subtract_indirect,
    upper_gradients,
)
from metascale.hypergrad.second import MIXED, Mixed, difference_step, mixed_by_difference, mixed_exactly


@dataclass(frozen=True)
class DARTS:
    """θ' = θ − step · ∇_θℓ(θ, λ); ∂M/∂λ(θ') − step · (∂²ℓ/∂λ∂θ)(θ) ∇_θM(θ') (Liu et al. 2019, arXiv 1806.09055, eq. 7).

    It is the exact derivative of one plain gradient step; with the real steps of training in place of the virtual one
    it is T1–T2 (Luketina et al. 2016). The mixed product is the central difference of DARTS unless it is asked for
    exactly.

    Args:
        step: rate ξ of the virtual step.
        alpha: ‖ε v‖ of the difference.
        mixed: how the mixed product is found.
    """

    step: float = 0.1
    alpha: float = 0.01
    mixed: Mixed = "finite_difference"

    def __post_init__(self) -> None:
        check_mixed(self.mixed, self.alpha)
        if self.step <= 0:
            raise InputError(f"step of DARTS must be positive, not {self.step}")

    @property
    def remembers(self) -> int:
        return 0

    @property
    def adapts(self) -> bool:
        return False

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        refuse_reducer(problem, "DARTS")
        _, slope, _ = gradients(problem.lower_parts, lower, upper, of_upper=False)
        loss, v, direct = upper_gradients(problem, add(lower, slope, -self.step), upper)
        if self.mixed == "exact":
            product = mixed_exactly(problem.mixed_parts, lower, upper, v)
        else:
            epsilon = difference_step(lower, v, self.alpha)
            product = mixed_by_difference(problem.mixed_parts, lower, upper, v, epsilon)
        return Hypergradient(subtract_indirect(direct, scale(product, self.step)), loss)


def check_mixed(mixed: str, alpha: float) -> None:
    """Refuse an unknown way to find mixed products, or a perturbation of no size.

    Raises:
        InputError: either.
    """
    if mixed not in MIXED:
        raise InputError(f"mixed must be one of {', '.join(map(repr, MIXED))}, not {mixed!r}")
    if alpha <= 0:
        raise InputError(f"alpha must be positive, not {alpha}")
