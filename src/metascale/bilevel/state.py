"""The state of a bilevel training, and its form as named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from metascale.core.errors import Diverged
from metascale.core.types import Params
from metascale.training.optimizers import OptimizerState


@dataclass(frozen=True)
class BilevelState:
    """After ``step`` upper steps: both levels and their optimisers. A training step consumes it."""

    step: int
    lower: Params
    buffers: Params
    upper: Params
    lower_optimizer: OptimizerState
    upper_optimizer: OptimizerState

    def held_apart(self) -> BilevelState:
        """The same tensors, the lower level's in dictionaries of their own, which a step does not empty."""
        own = copied(self.lower_optimizer)
        return replace(self, lower=dict(self.lower), buffers=dict(self.buffers), lower_optimizer=own)

    def tensors(self) -> Params:
        """The whole state as named tensors."""
        found: Params = {}
        for kind in ("lower", "buffers", "upper"):
            found |= {f"{kind}/{name}": value for name, value in getattr(self, kind).items()}
        for kind in ("lower_optimizer", "upper_optimizer"):
            for slot, values in getattr(self, kind).items():
                found |= {f"{kind}/{slot}/{name}": value for name, value in values.items()}
        return found

    def with_lower(self, change: Callable[[Params], Params]) -> BilevelState:
        """``change`` applied to θ and to every slot of its optimiser."""
        optimizer = {slot: change(values) for slot, values in self.lower_optimizer.items()}
        return replace(self, lower=change(self.lower), lower_optimizer=optimizer)

    def refilled(self, tensors: Params) -> BilevelState:
        """This state with other tensors, which take over its devices and its order of names.

        The order is part of the arithmetic: norms are sums over tensors.
        """

        def level(kind: str, like: Params) -> Params:
            return {name: tensors[f"{kind}/{name}"].to(value.device) for name, value in like.items()}

        def slots(kind: str, like: OptimizerState) -> OptimizerState:
            return {slot: level(f"{kind}/{slot}", values) for slot, values in like.items()}

        return BilevelState(
            self.step,
            level("lower", self.lower),
            level("buffers", self.buffers),
            level("upper", self.upper),
            slots("lower_optimizer", self.lower_optimizer),
            slots("upper_optimizer", self.upper_optimizer),
        )


def copied(state: OptimizerState) -> OptimizerState:
    """The same tensors in dictionaries of their own."""
    return {slot: dict(values) for slot, values in state.items()}


def check_finite(row: Mapping[str, float | None], k: int) -> None:
    """Refuse to go on from a step whose numbers are not finite; a residual may be absent.

    Raises:
        Diverged: one is not; the message names it.
    """
    for name, value in row.items():
        if value is not None and name != "solver_residual" and not math.isfinite(value):
            raise Diverged(f"{name} is {value} at step {k}", step=k)
