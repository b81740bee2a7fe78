"""SAMA: a hypergradient from first-order passes alone (Choe et al. 2023, arXiv 2310.05674)."""

from __future__ import annotations

from dataclasses import dataclass

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.darts import check_mixed
from metascale.hypergrad.problem import BilevelProblem, Hypergradient, subtract_indirect, upper_gradients
from metascale.hypergrad.second import (
    Mixed,
    difference_step,
    mixed_by_difference,
    mixed_exactly,
    overlapped_difference,
    shifted,
)


@dataclass(frozen=True)
class SAMA:
    """v = D ∇_θM(θ); ∂M/∂λ − (∂²ℓ/∂λ∂θ)(θ) v, the mixed product as a central difference with ε = α/‖v‖.

    D = ∂u/∂g is the derivative of the lower optimiser's step θ − u(g). Three things are approximated: the step's own
    dependence on θ (∂u/∂θ is left out), every step but the last, and the mixed product (unless exact).

    Args:
        alpha: ‖ε v‖, the length of the perturbation (enlarged where the parameters' precision asks for it).
        adapt: multiply by D; without, v = ∇_θM ("unadapted"), as if the lower optimiser were SGD with rate 1.
        mixed: ``"exact"`` takes the derivative forward over reverse in place of the difference.
        multitask: leave θ at θ − ε v, as published runs did: a step on the clean upper set.

    Raises:
        InputError: ``adapt`` is set and the problem has no lower optimiser to adapt to.
    """

    alpha: float = 0.01
    adapt: bool = True
    mixed: Mixed = "finite_difference"
    multitask: bool = False

    def __post_init__(self) -> None:
        check_mixed(self.mixed, self.alpha)

    @property
    def remembers(self) -> int:
        return 0

    @property
    def adapts(self) -> bool:
        return self.adapt

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        loss, v, direct = upper_gradients(problem, lower, upper)
        if self.adapt:
            if problem.adapt is None:
                raise InputError(
                    "SAMA with adapt=True needs the lower optimiser's last step; set adapt=False or give it"
                )
            v = problem.adapt(v)
        epsilon = difference_step(lower, v, self.alpha, problem.total)
        if problem.reducer is not None:
            value = self._reduced(problem, lower, upper, v, epsilon, direct)
        elif self.mixed == "exact":
            value = subtract_indirect(direct, mixed_exactly(problem.mixed_parts, lower, upper, v))
        else:
            product = mixed_by_difference(problem.mixed_parts, lower, upper, v, epsilon)
            value = subtract_indirect(direct, product)
        moved = shifted(lower, v, -epsilon) if self.multitask else None
        return Hypergradient(value, loss, lower=moved)

    def _reduced(
        self, problem: BilevelProblem, lower: Params, upper: Params, v: Params, epsilon: float, direct: Params
    ) -> Params:
        assert problem.reducer is not None
        reducer = problem.reducer()
        if self.mixed == "finite_difference":
            return overlapped_difference(problem.mixed_parts, lower, upper, v, epsilon, direct, reducer)
        value = subtract_indirect(direct, mixed_exactly(problem.mixed_parts, lower, upper, v))
        for name, part in value.items():
            reducer.ready(name, part)
        return reducer.finish()
