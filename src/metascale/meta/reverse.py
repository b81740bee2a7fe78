"""Back through K inner steps: along the stored graph of all of them, or step by step with a curvature of choice.

One step is update(φ_k, state_k, g_k) with g_k the gradient of the support loss at φ_k. The reverse sweep takes the
update's vector-Jacobian product, which is cheap arithmetic on the adapted tensors, and a `Curvature` maps the adjoint
of g_k to that of φ_k. Only g_k is kept of every step: the states in between are recomputed from φ_0 and the gradients,
at next to no cost. So the memory is that of one micro-batch of one step and K + 1 copies of the adapted tensors, or
fewer where the inner loop keeps the gradients of a few steps at a time (`InnerLoop.keep_gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import torch

from metascale.core.errors import InputError
from metascale.core.streams import address
from metascale.core.trees import add, require_grad
from metascale.core.types import Batch, Episode, Model, Params
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Curvature,
    Diagonal,
    Exact,
    FiniteDifference,
    GaussNewton,
    LossPoint,
    Zero,
    pull_back,
)
from metascale.meta.inner import RATE_PREFIX, InnerLoop, InnerState, without_history


@dataclass(frozen=True)
class FullGraph:
    """Differentiate the stored graph of the whole trajectory; memory grows with K."""

    second_order: ClassVar[bool] = True


Through: TypeAlias = "FullGraph | Curvature"

KEYLESS = (FullGraph, Exact, GaussNewton, Zero)
"""What differentiates a task's steps by that task's numbers alone: neither random probes nor a shared step size."""

THROUGH: Mapping[str, Callable[[int], Through]] = {
    "unrolled": lambda probes: FullGraph(),
    "exact": lambda probes: Exact(),
    "gauss_newton": lambda probes: GaussNewton(),
    "block_diagonal": lambda probes: BlockDiagonal(),
    "diagonal": lambda probes: Diagonal("fisher"),
    "diagonal_hutchinson": lambda probes: Diagonal("hutchinson", probes),
    "finite_difference": lambda probes: FiniteDifference(),
    "none": lambda probes: Zero(),
}
"""How to differentiate the inner steps, by the names that users type; the argument is the number of random probes."""


def named_through(name: str, probes: int = 1) -> Through:
    """The entry of `THROUGH` called ``name``, or an `InputError`."""
    if name not in THROUGH:
        allowed = ", ".join(map(repr, THROUGH))
        raise InputError(
            f"there is no curvature '{name}'; allowed are {allowed}", field="through", value=name, allowed=allowed
        )
    return THROUGH[name](probes)


@dataclass(frozen=True, slots=True)
class InnerStart:
    """φ₀ without history; ``depends``: some of it is computed from θ and the support set, such as a head."""

    state: InnerState
    depends: bool


def begin(inner: InnerLoop, model: Model, stacked: Params, support: Batch) -> InnerStart:
    leaves = _own_leaves(stacked)
    with torch.enable_grad():
        params = model.begin(leaves, support)
    depends = any(value.requires_grad and value is not leaves.get(name) for name, value in params.items())
    return InnerStart(without_history(inner.start_from(params)), depends)


def back_through_begin(model: Model, stacked: Params, support: Batch, start: InnerStart, adjoint: Params) -> Params:
    """The adjoint of θ, from that of φ₀."""
    leaves = _own_leaves(stacked)
    if not start.depends:
        return {name: adjoint[name] if name in adjoint else torch.zeros_like(value) for name, value in leaves.items()}
    with torch.enable_grad():
        params = model.begin(leaves, support)
    return pull_back({name: params[name] for name in adjoint}, adjoint, leaves)


def _own_leaves(stacked: Params) -> Params:
    """The model's own meta-parameters, without learnt rates."""
    return require_grad({name: value for name, value in stacked.items() if not name.startswith(RATE_PREFIX)})


def unrolled_adjoint(leaves: Params, last: InnerState, adjoint: Params) -> Params:
    """The adjoint of θ through the stored graph, from that of φ_K."""
    return pull_back({name: last.params[name] for name in adjoint}, adjoint, leaves)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A forward pass through K inner steps.

    Args:
        starts: the state before each group of steps whose gradients are kept together.
        losses: each step's support losses [T].
        gradients: those of the last group, by their step; a reverse sweep uses them up.
        last: the state after K steps.
    """

    starts: list[InnerState]
    losses: list[torch.Tensor]
    gradients: dict[int, Params]
    last: InnerState


def follow(
    inner: InnerLoop, model: Model, stacked: Params, support: Batch, key: int | None, start: InnerState
) -> Trajectory:
    """K inner steps without history."""
    path = Trajectory([start], [], {}, start)
    last = start
    for state in inner.iterate(model, stacked, support, key=key, start=start):
        if state.gradient is not None and state.support_losses is not None:
            if len(path.gradients) == inner.keep_gradients:
                path.gradients.clear()
                path.starts.append(replace(last, support_losses=None, gradient=None))
            path.losses.append(state.support_losses)
            path.gradients[last.step] = state.gradient
        last = state
    return replace(path, last=last)


@dataclass(frozen=True)
class Sweep:
    """The reverse sweep of one episode.

    Args:
        stacked: meta-parameters [T, ...].
        key: names the dropout masks of the forward pass and the random probes.
        curvature: maps the adjoint of a gradient to that of the parameters where it was taken.
        earlier: what a loss of the parameters before a step adds to their adjoint, given the state there.
    """

    inner: InnerLoop
    model: Model
    stacked: Params
    episode: Episode
    key: int | None
    curvature: Curvature
    earlier: Callable[[InnerState], Params | None] = lambda state: None

    def __call__(self, path: Trajectory, adjoint: Params) -> tuple[Params, Params]:
        """The adjoints of φ₀ and of the learnt rates, from that of φ_K."""
        slots: dict[str, Params] = {}
        on_rates: Params = {}
        on_anchor: Params = {}
        for before, grads in self._backwards(path):
            found = self._back_through_update(before, path.losses[before.step], grads, adjoint, slots)
            slots = found.slots
            on_rates = add(found.rates, on_rates) if on_rates else found.rates
            on_anchor = add(found.anchor, on_anchor) if on_anchor else found.anchor
            product = self.curvature(self._point(before), found.gradient)
            adjoint = {name: found.params.get(name, adjoint[name]) + value for name, value in product.items()}
            more = self.earlier(before)
            adjoint = adjoint if more is None else add(adjoint, more)
        return {n: value + on_anchor[n] if n in on_anchor else value for n, value in adjoint.items()}, on_rates

    def _backwards(self, path: Trajectory) -> Iterator[tuple[InnerState, Params]]:
        """The states before steps K − 1, ..., 0 and the gradients there, one group of steps after another."""
        stop, gradients = len(path.losses), path.gradients
        for start in reversed(path.starts):
            if stop > start.step and stop - 1 not in gradients:
                gradients.update(self._again(start, stop))
            for before in self._bisected(path.losses, gradients, start, stop):
                yield before, gradients.pop(before.step)
            stop = start.step

    def _again(self, state: InnerState, stop: int) -> Iterator[tuple[int, Params]]:
        """The gradients of steps ``state.step``, ..., ``stop`` − 1, with their steps."""
        steps = stop - state.step
        support = self.episode.support
        states = self.inner.iterate(self.model, self.stacked, support, steps=steps, key=self.key, start=state)
        for after in states:
            if after.step > state.step and after.gradient is not None:
                yield after.step - 1, after.gradient

    def _bisected(
        self, losses: list[torch.Tensor], gradients: dict[int, Params], state: InnerState, stop: int
    ) -> Iterator[InnerState]:
        """The states before steps ``stop`` − 1, ..., ``state.step``, by bisection, the later half first.

        At most log₂ K states exist at a time, and ½ K log₂ K updates are repeated.
        """
        if stop - state.step > 1:
            middle, half = state, (state.step + stop) // 2
            with torch.no_grad():
                while middle.step < half:
                    middle = self.inner.update(self.stacked, middle, losses[middle.step], gradients[middle.step])
            yield from self._bisected(losses, gradients, middle, stop)
            del middle
            yield from self._bisected(losses, gradients, state, half)
        elif stop > state.step:
            yield state

    def _point(self, state: InnerState) -> LossPoint:
        seed = 0 if self.key is None else self.key
        return LossPoint(
            state.params,
            self.inner.objective(self.model, self.episode.support, state.step, self.key, self.curvature),
            tuple(address(seed, "curvature", task_id, state.step) for task_id in self.episode.task_ids),
        )

    def _back_through_update(
        self, before: InnerState, losses: torch.Tensor, grads: Params, adjoint: Params, slots: dict[str, Params]
    ) -> _UpdateAdjoint:
        """The adjoints of the inputs of one step, the gradient being one of them."""
        grads = require_grad(grads)
        params = require_grad({name: before.params[name] for name in grads})
        optimizer = {
            slot: values if slot == "count" else require_grad(values) for slot, values in before.optimizer.items()
        }
        rates = require_grad({n: value for n, value in self.stacked.items() if n.startswith(RATE_PREFIX)})
        anchor = None if before.anchor is None else require_grad(before.anchor)
        with torch.enable_grad():
            state = InnerState(before.step, {**before.params, **params}, optimizer, anchor=anchor)
            new = self.inner.update(rates, state, losses, grads)
        # A flat dictionary for one call: (kind, name) on both sides.
        moving = {slot: values for slot, values in optimizer.items() if slot != "count"}
        outputs = {f"params/{name}": new.params[name] for name in grads}
        weights = {f"params/{name}": adjoint[name] for name in grads}
        for slot, values in slots.items():
            outputs |= {f"slot/{slot}/{name}": new.optimizer[slot][name] for name in values}
            weights |= {f"slot/{slot}/{name}": value for name, value in values.items()}
        groups = {"params": params, "gradient": grads, "rates": rates, "anchor": anchor or {}}
        groups |= {f"slot/{slot}": values for slot, values in moving.items()}
        inputs = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        found = pull_back(outputs, weights, inputs)
        by_group = {group: {name: found[f"{group}/{name}"] for name in values} for group, values in groups.items()}
        return _UpdateAdjoint(
            by_group["params"],
            by_group["gradient"],
            by_group["rates"],
            by_group["anchor"],
            {slot: by_group[f"slot/{slot}"] for slot in moving},
        )


@dataclass(frozen=True, slots=True)
class _UpdateAdjoint:
    params: Params
    gradient: Params
    rates: Params
    anchor: Params
    slots: dict[str, Params]
