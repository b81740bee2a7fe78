"""SAMA: a hypergradient from first-order passes alone (Choe et al. 2023, arXiv 2310.05674)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.problem import BilevelProblem, Hypergradient, subtract_indirect, upper_gradients
from metascale.hypergrad.second import (
    Mixed,
    check_mixed,
    difference_step,
    mixed_exactly,
    mixed_product,
    overlapped_difference,
    perturbed,
)


@dataclass(frozen=True)
class SAMA:
    """v = D ∇_θM(θ); ∂M/∂λ − (∂²ℓ/∂λ∂θ)(θ) v, the mixed product as a central difference with ε = α/‖v‖.

    D = ∂u/∂g is the derivative of the lower optimiser's step θ − u(g). Three things are approximated: the step's own
    dependence on θ (∂u/∂θ is ignored), all steps but the last (ignored), and the mixed product (unless exact).

    Args:
        alpha: ‖ε v‖, the length of the perturbation (more where the parameters' precision requires it).
        adapt: multiply by D; otherwise v = ∇_θM ("unadapted"), as if the lower optimiser were SGD with rate 1.
        mixed: ``"exact"`` differentiates forward over reverse instead of taking a difference.
        multitask: leave θ at θ − ε v, as published runs did: a step on the clean upper set.

    Raises:
        InputError: ``adapt`` is set and the problem has no lower optimiser to adapt to.
    """

    remembers: ClassVar[int] = 0

    alpha: float = 0.01
    adapt: bool = True
    mixed: Mixed = "finite_difference"
    multitask: bool = False

    def __post_init__(self) -> None:
        check_mixed(self.mixed, self.alpha)

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
        else:
            product = mixed_product(problem.mixed_parts, lower, upper, v, epsilon, self.mixed)
            value = subtract_indirect(direct, product)
        moved = perturbed(lower, v, -epsilon) if self.multitask else None
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
