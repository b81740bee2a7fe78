"""Meta-gradient estimators: Reptile, first-order MAML and exact MAML, on one inner loop.

Each is called with unstacked meta-parameters θ and an episode of T tasks, and returns the mean over the tasks. How the
result is applied is the learner's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from metascale.core.streams import address
from metascale.core.trees import mean_tasks, require_grad, stack_tasks, subtract
from metascale.core.types import Batch, Episode, Model, Params
from metascale.meta.inner import RATE_PREFIX, InnerLoop, InnerState


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """Losses of one meta-batch, one number a task.

    Args:
        task_ids: the T tasks.
        support_loss_start: [T] support loss (nats) before adaptation; NaN when there was no inner step.
        support_loss_end: [T] support loss before the last inner step.
        query_loss: [T] query loss of the adapted parameters, or ``None`` when the estimator did not need it.
    """

    task_ids: tuple[str, ...]
    support_loss_start: torch.Tensor
    support_loss_end: torch.Tensor
    query_loss: torch.Tensor | None


class MetaGradient(Protocol):
    """Estimates the meta-gradient of one meta-batch. ``key`` names its dropout masks (``None``: no dropout)."""

    @property
    def inner(self) -> InnerLoop: ...

    def __call__(
        self, model: Model, theta: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]: ...


def _report(episode: Episode, states: list[InnerState], query_loss: torch.Tensor | None) -> EpisodeReport:
    losses = [state.support_losses for state in states if state.support_losses is not None]
    missing = torch.full((episode.n_tasks,), float("nan"))
    start, end = (losses[0], losses[-1]) if losses else (missing, missing)
    return EpisodeReport(
        episode.task_ids, start.detach(), end.detach(), None if query_loss is None else query_loss.detach()
    )


def _query_key(key: int | None) -> int | None:
    return None if key is None else address(key, "query-dropout") & (2**62 - 1)


@dataclass(frozen=True)
class Reptile:
    """θ − φ averaged over the tasks (Nichol et al. 2018, eq. 2 and section 3, batched version).

    With outer SGD of rate ε the update is "average, then interpolate": θ ← θ + ε · mean(φ − θ).

    Args:
        inner: the inner loop.
        data: ``"support"`` adapts on the support set alone; ``"all"`` on support and query together, since Reptile
            needs no split (their section 6.1).
        report_query: also measure the query loss of the adapted parameters (one forward pass more).
    """

    inner: InnerLoop = field(default_factory=InnerLoop)
    data: Literal["support", "all"] = "support"
    report_query: bool = False

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        stacked = stack_tasks(theta, episode.n_tasks)
        batch = episode.support if self.data == "support" else episode.support.concat(episode.query)
        states = list(self.inner.iterate(model, stacked, batch, key=key))
        query_loss = None
        if self.report_query:
            with torch.no_grad():
                query_loss = model.losses(states[-1].params, episode.query)
        adapted = {name: states[-1].params.get(name, value) for name, value in stacked.items()}
        return mean_tasks(subtract(stacked, adapted)), _report(episode, states, query_loss)


@dataclass(frozen=True)
class FOMAML:
    """First-order MAML: the query gradient at the adapted parameters (Finn et al. 2017, section 5.2).

    Learnt inner rates get their first-order gradient, −(query gradient) ∘ (the last steps' sum), as Meta-SGD without
    second derivatives.
    """

    inner: InnerLoop = field(default_factory=InnerLoop)

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        stacked = stack_tasks(theta, episode.n_tasks)
        states = list(self.inner.iterate(model, stacked, episode.support, key=key))
        losses, grads = query_gradient(model, states[-1].params, episode.query, key)
        meta = {}
        for name, value in stacked.items():
            if name.startswith(RATE_PREFIX):
                own = name.removeprefix(RATE_PREFIX)
                moved = states[-1].params[own] - states[0].params[own]
                meta[name] = grads[own] * moved / torch.where(value == 0, 1.0, value)
            else:
                meta[name] = grads[name] if name in grads else torch.zeros_like(value)
        return mean_tasks(meta), _report(episode, states, losses)


@dataclass(frozen=True)
class MAML:
    """The exact meta-gradient through the K inner steps (Finn et al. 2017, eq. 1), second order included.

    Args:
        inner: the inner loop.
        backward: ``"unrolled"`` keeps the graph of the whole trajectory; ``"recomputed"`` stores only the states and
            differentiates one inner step at a time, in reverse: the same number to rounding, in memory that does not
            grow with K by more than the parameters (ALGORITHMS: u_k = vjp of step k).
    """

    inner: InnerLoop = field(default_factory=InnerLoop)
    backward: Literal["recomputed", "unrolled"] = "recomputed"

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        model.require_second_order()
        if self.backward == "unrolled":
            return self._unrolled(model, theta, episode, key)
        return self._recomputed(model, theta, episode, key)

    def _unrolled(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        leaves = require_grad(stack_tasks(theta, episode.n_tasks))
        states = list(self.inner.iterate(model, leaves, episode.support, key=key, create_graph=True))
        losses = model.losses(states[-1].params, episode.query, _query_key(key))
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return mean_tasks(dict(zip(leaves, grads, strict=True))), _report(episode, states, losses)

    def _recomputed(
        self, model: Model, theta: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]:
        stacked = stack_tasks(theta, episode.n_tasks)
        states = list(self.inner.iterate(model, stacked, episode.support, key=key))
        losses, adjoint = query_gradient(model, states[-1].params, episode.query, key)
        meta = {name: torch.zeros_like(value) for name, value in stacked.items()}
        slots: dict[str, Params] = {}
        for state in reversed(states[:-1]):
            adjoint, slots, direct = self._pull_back(model, stacked, state, episode.support, key, adjoint, slots)
            meta = {name: value + direct[name] if name in direct else value for name, value in meta.items()}
        start = self._pull_back_start(model, stacked, episode.support, adjoint)
        meta = {name: value + start[name] if name in start else value for name, value in meta.items()}
        return mean_tasks(meta), _report(episode, states, losses)

    def _pull_back(
        self,
        model: Model,
        theta: Params,
        state: InnerState,
        support: Batch,
        key: int | None,
        adjoint: Params,
        slots: dict[str, Params],
    ) -> tuple[Params, dict[str, Params], Params]:
        """The adjoints of (parameters, optimiser slots) before one step, from those after it; and of learnt rates."""
        params = require_grad(state.params)
        optimizer = {
            slot: values if slot == "count" else require_grad(values) for slot, values in state.optimizer.items()
        }
        rates = require_grad({name: value for name, value in theta.items() if name.startswith(RATE_PREFIX)})
        before = InnerState(state.step, params, optimizer)
        after = self.inner.advance(model, rates, before, support, key=key, create_graph=True)
        outputs, weights = [], []
        for name, value in after.params.items():
            if value.requires_grad:
                outputs.append(value)
                weights.append(adjoint[name])
        for slot, values in slots.items():
            for name, weight in values.items():
                outputs.append(after.optimizer[slot][name])
                weights.append(weight)
        moving = {slot: values for slot, values in optimizer.items() if slot != "count"}
        inputs = [*params.values(), *(v for values in moving.values() for v in values.values()), *rates.values()]
        found = iter(torch.autograd.grad(outputs, inputs, weights, materialize_grads=True))
        new_adjoint = {name: next(found) for name in params}
        new_slots = {slot: {name: next(found) for name in values} for slot, values in moving.items()}
        return new_adjoint, new_slots, {name: next(found) for name in rates}

    def _pull_back_start(self, model: Model, theta: Params, support: Batch, adjoint: Params) -> Params:
        """Through ``Model.begin``: a head built from the support set may depend on θ."""
        leaves = require_grad({name: value for name, value in theta.items() if not name.startswith(RATE_PREFIX)})
        with torch.enable_grad():
            start = model.begin(leaves, support)
        live = [name for name, value in start.items() if value.requires_grad]
        found = torch.autograd.grad(
            [start[name] for name in live],
            list(leaves.values()),
            [adjoint[name] for name in live],
            materialize_grads=True,
        )
        return dict(zip(leaves, found, strict=True))


def query_gradient(model: Model, params: Params, query: Batch, key: int | None) -> tuple[torch.Tensor, Params]:
    """Query losses [T] and each task's gradient of its own, at adapted parameters [T, ...]."""
    leaves = require_grad(params)
    losses = model.losses(leaves, query, _query_key(key))
    grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return losses.detach(), dict(zip(leaves, grads, strict=True))
