"""Hypergradients by differentiating the lower steps that were taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from metascale.core.errors import InputError
from metascale.core.trees import add, require_grad
from metascale.core.types import Params
from metascale.hypergrad.problem import BilevelProblem, Hypergradient, LowerStep, State, refuse_reducer, upper_gradients
from metascale.hypergrad.second import pieces, second_order


@dataclass(frozen=True)
class Unrolled:
    """Reverse-mode through the lower steps since the last upper step, the optimiser's state included.

    Each step's graph is rebuilt from its stored start and freed again, so memory grows with the number of steps by one
    copy of θ and the optimiser's state, not by activations. Exact for the steps that it sees.

    Args:
        steps: lower steps to differentiate; ``None`` takes every one in the problem's history.
        truncated: allow a history longer than ``steps`` and differentiate its end alone (Shaban et al. 2019), which is
            biased; otherwise such a history is refused.
    """

    adapts: ClassVar[bool] = False

    steps: int | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps of Unrolled must be at least 1, or none, not {self.steps}", field="steps")
        if self.truncated and self.steps is None:
            raise InputError("a truncated Unrolled needs the number of steps that it keeps", field="steps")

    @property
    def remembers(self) -> int:
        return -1 if self.steps is None else self.steps

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        refuse_reducer(problem, "Unrolled")
        history = self._window(problem.history)
        loss, cotangent, value = upper_gradients(problem, lower, upper)
        states: State = {}
        for step in reversed(history):
            cotangent, states, part = _pull_back(step, upper, cotangent, states)
            value = add(value, part)
        return Hypergradient(value, loss, None, len(history), "fixed")

    def _window(self, history: tuple[LowerStep, ...]) -> tuple[LowerStep, ...]:
        if self.steps is None:
            if not history:
                raise InputError("Unrolled needs the lower steps that were taken: the problem's history is empty")
            return history
        if len(history) < self.steps or (len(history) > self.steps and not self.truncated):
            hint = "; set truncated=True to differentiate the last ones alone" if len(history) > self.steps else ""
            raise InputError(f"Unrolled differentiates {self.steps} lower steps, but {len(history)} are there{hint}")
        return history[len(history) - self.steps :]


def _pull_back(step: LowerStep, upper: Params, cotangent: Params, states: State) -> tuple[Params, State, Params]:
    """Cotangents of (θ, state) after a step turned into those before it, and the step's part of dM/dλ."""
    theta, lam = require_grad(step.params), require_grad(upper)
    slots = {slot: require_grad(values) for slot, values in step.state.items() if slot != "count"}
    with second_order("Unrolled"):
        after, state = step.advance(theta, {**step.state, **slots}, lam)
        pairs = [(after[name], cotangent[name]) for name in theta]
        pairs += [
            (value, states[slot][name]) for slot in slots if slot in states for name, value in state[slot].items()
        ]
        pairs = [(output, g) for output, g in pairs if output.requires_grad]
        inputs = [*theta.values(), *lam.values(), *(v for values in slots.values() for v in values.values())]
        found = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    n, m = len(theta), len(lam)
    before: State = {}
    rest = list(found[n + m :])
    for slot, values in slots.items():
        before[slot] = pieces(rest[: len(values)], values)
        rest = rest[len(values) :]
    return pieces(found[:n], theta), before, pieces(found[n : n + m], lam)
