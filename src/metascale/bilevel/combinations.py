"""Settings of a hypergradient and of a training that do not go together."""

from __future__ import annotations

from metascale.core.errors import InputError
from metascale.hypergrad.problem import HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled


def refuse_combinations(method: HypergradientSolver, unroll_steps: int, roll_back: bool) -> None:
    """Refuse a method that asks for other lower steps than it will see, or whose effect is taken back.

    Raises:
        InputError: so it is; names both settings.
    """
    if method.remembers > unroll_steps:
        raise InputError(
            f"the method differentiates {method.remembers} lower steps, more than the {unroll_steps} of unroll_steps"
        )
    if isinstance(method, Unrolled) and 0 < method.remembers < unroll_steps and not method.truncated:
        raise InputError(
            f"Unrolled(steps={method.remembers}) sees a part of the {unroll_steps} lower steps of unroll_steps; set "
            "truncated=True to differentiate the last ones alone"
        )
    if roll_back and isinstance(method, SAMA) and method.multitask:
        raise InputError("roll_back takes back the move of θ that multitask=True asks for; choose one of them")
