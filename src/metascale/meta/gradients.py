"""Meta-gradient estimators: Reptile, first-order MAML and MAML with a curvature of choice, on one inner loop.

Each is called with unstacked meta-parameters θ and an episode of T tasks, and returns the mean over the tasks; the
learner applies it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch

from metascale.core.dropout import dropout_key
from metascale.core.errors import InputError
from metascale.core.trees import mean_tasks, require_grad, stack_tasks, subtract
from metascale.core.types import Batch, Episode, Model, Params
from metascale.hypergrad.curvature import Exact, Zero, loss_and_gradient, losses_of
from metascale.meta.inner import RATE_PREFIX, InnerLoop, InnerState, after, loss_parts
from metascale.meta.reverse import FullGraph, Sweep, Through, back_through_begin, begin, follow, unrolled_adjoint
from metascale.parallel.budget import profile
from metascale.training.memory import MemoryReport
from metascale.training.optimizers import Optimizer


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """Losses of one meta-batch, one number a task.

    Args:
        task_ids: the T tasks.
        support_loss_start: [T] support loss (nats) before adaptation; NaN when there was no inner step.
        support_loss_end: [T] support loss before the last inner step.
        query_loss: [T] query loss of the adapted parameters, or ``None`` when the estimator did not need it.
        diagnostics: further measurements of an estimator, [T] each, such as the residual of a linear solve.
    """

    task_ids: tuple[str, ...]
    support_loss_start: torch.Tensor
    support_loss_end: torch.Tensor
    query_loss: torch.Tensor | None
    diagnostics: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def parts(self, counts: Sequence[int]) -> list[EpisodeReport]:
        """The reports of consecutive groups of so many tasks."""
        ends = list(itertools.accumulate(counts))
        return [self._part(slice(end - count, end)) for end, count in zip(ends, counts, strict=True)]

    def _part(self, tasks: slice) -> EpisodeReport:
        return EpisodeReport(
            self.task_ids[tasks],
            self.support_loss_start[tasks],
            self.support_loss_end[tasks],
            None if self.query_loss is None else self.query_loss[tasks],
            {name: value[tasks] for name, value in self.diagnostics.items()},
        )


class MetaGradient(Protocol):
    """Estimates the meta-gradient of one meta-batch. ``key`` names its dropout masks (``None``: no dropout)."""

    @property
    def inner(self) -> InnerLoop: ...

    def __call__(
        self, model: Model, theta: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]: ...


def with_inner(gradient: MetaGradient, inner: InnerLoop) -> MetaGradient:
    """The estimator with another inner loop; estimators are dataclasses with a field ``inner``."""
    found: MetaGradient = replace(cast(Any, gradient), inner=inner)
    return found


def profile_gradient(
    gradient: MetaGradient,
    model: Model,
    theta: Params,
    episode: Episode,
    *,
    weights: Iterable[torch.Tensor] = (),
    device: str = "cpu",
) -> MemoryReport:
    """The memory of one meta-gradient: an outer step before its update, in one call of all tasks.

    No value is read, so model, parameters and texts may live on torch's ``"meta"`` device, without values: that counts
    the memory of a model which this machine could not run.
    """

    def estimate(watched: Model, watch: Callable[[Optimizer], Optimizer]) -> object:
        inner = replace(gradient.inner, optimizer=watch(gradient.inner.optimizer))
        return with_inner(gradient, inner)(watched, theta, episode, None)

    return profile(estimate, model, {"weights": weights, "parameters": theta.values()}, device)


@runtime_checkable
class PerTask(Protocol):
    """An estimator whose meta-gradient of a task depends on that task alone, so that trials may share a call."""

    def per_task(
        self, model: Model, stacked: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]: ...


def episode_report(
    episode: Episode,
    losses: Sequence[torch.Tensor],
    query_loss: torch.Tensor | None,
    diagnostics: Mapping[str, torch.Tensor] | None = None,
) -> EpisodeReport:
    """The report of an episode from the support losses [T] of its inner steps, of which the first and last count."""
    missing = torch.full((episode.n_tasks,), float("nan"))
    start, end = (losses[0], losses[-1]) if losses else (missing, missing)
    query = None if query_loss is None else query_loss.detach()
    return EpisodeReport(episode.task_ids, start.detach(), end.detach(), query, diagnostics or {})


def ends(states: Iterable[InnerState]) -> tuple[InnerState, InnerState, list[torch.Tensor]]:
    """The first and the last state, and the support losses [T] of every step; states in between are not kept."""
    iterator = iter(states)
    start = last = next(iterator)
    losses = []
    for last in iterator:
        if last.support_losses is not None:
            losses.append(last.support_losses)
    return start, last, losses


def _query_key(key: int | None) -> int | None:
    return None if key is None else dropout_key(key, "query-dropout")


@dataclass(frozen=True)
class Reptile:
    """θ − φ averaged over the tasks (Nichol et al. 2018, eq. 2 and section 3, batched version).

    With outer SGD of rate ε the update is "average, then interpolate": θ ← θ + ε · mean(φ − θ).

    Args:
        data: ``"support"`` adapts on the support set alone; ``"all"`` on support and query together, since Reptile
            needs no split (their section 6.1).
        report_query: also measure the query loss of the adapted parameters (one forward pass more).

    Raises:
        InputError: inner rates are to be learnt, for which Reptile has no gradient.
    """

    inner: InnerLoop = field(default_factory=InnerLoop)
    data: Literal["support", "all"] = "support"
    report_query: bool = False

    def __post_init__(self) -> None:
        if self.inner.learn_rates:
            raise InputError("Reptile has no gradient for inner rates: leave learn_rates out, or use MAML")

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        return mean_of(self.per_task(model, stack_tasks(theta, episode.n_tasks), episode, key))

    def per_task(
        self, model: Model, stacked: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]:
        """Every task's own θ − φ, at stacked meta-parameters [T, ...]."""
        batch = episode.support if self.data == "support" else episode.support.concat(episode.query)
        _, last, support_losses = ends(self.inner.iterate(model, stacked, batch, key=key))
        query_loss = None
        if self.report_query:
            final = after(model, last.step)
            query_loss = losses_of(loss_parts(final, episode.query, self.inner.micro_batch, None), last.params)
        adapted = {name: last.params.get(name, value) for name, value in stacked.items()}
        return subtract(stacked, adapted), episode_report(episode, support_losses, query_loss)


@dataclass(frozen=True)
class FOMAML:
    """First-order MAML: the query gradient at the adapted parameters (Finn et al. 2017, section 5.2).

    Curvature and weight decay of the inner steps are ignored; a head built from θ and the support set is differentiated
    exactly. Learnt inner rates get −(query gradient) ∘ (sum of the steps), as in Meta-SGD without second derivatives;
    rates of single steps and matrices, each with its own.
    """

    inner: InnerLoop = field(default_factory=InnerLoop)

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        return mean_of(self.per_task(model, stack_tasks(theta, episode.n_tasks), episode, key))

    def per_task(
        self, model: Model, stacked: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]:
        """Every task's own meta-gradient, at stacked meta-parameters [T, ...]."""
        start = begin(self.inner, model, stacked, episode.support)
        first, last, support = ends(self.inner.iterate(model, stacked, episode.support, key=key, start=start.state))
        final = after(model, last.step)
        losses, grads = query_gradient(final, last.params, episode.query, key, self.inner.micro_batch)
        meta = back_through_begin(model, stacked, episode.support, start, grads)
        if self.inner.learn_rates and self.inner.rates_by != "element":
            path = follow(self.inner, model, stacked, episode.support, key, start.state)
            _, on_rates = Sweep(self.inner, model, stacked, episode, key, Zero())(path, grads)
            meta = complete(meta | on_rates, stacked)
        for name in set(stacked) - set(meta):
            own, value = name.removeprefix(RATE_PREFIX), stacked[name]
            moved = last.params[own] - first.params[own]
            meta[name] = grads[own] * moved / torch.where(value == 0, 1.0, value)
        return {name: meta[name] for name in stacked}, episode_report(episode, support, losses)


@dataclass(frozen=True)
class MAML:
    """The meta-gradient through the K inner steps (Finn et al. 2017, eq. 1), exact unless ``through`` approximates.

    Args:
        through: how to differentiate the inner steps. `Exact` goes back one inner step at a time, from stored
            gradients; `FullGraph` keeps the graph of the whole trajectory: the same number to rounding, in memory that
            grows with K. The other curvatures replace the Hessian by an approximation, and `Zero` makes this `FOMAML`.

    Raises:
        InputError: ``through`` needs second derivatives, which the model lacks.
    """

    inner: InnerLoop = field(default_factory=InnerLoop)
    through: Through = field(default_factory=Exact)

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        return mean_of(self.per_task(model, stack_tasks(theta, episode.n_tasks), episode, key))

    def per_task(
        self, model: Model, stacked: Params, episode: Episode, key: int | None
    ) -> tuple[Params, EpisodeReport]:
        """Every task's own meta-gradient, at stacked meta-parameters [T, ...]."""
        if isinstance(self.through, Zero):
            return FOMAML(self.inner).per_task(model, stacked, episode, key)
        if self.through.second_order:
            model.require_second_order()
        if isinstance(self.through, FullGraph):
            leaves = require_grad(stacked)
            with torch.enable_grad():
                trajectory = self.inner.iterate(model, leaves, episode.support, key=key, create_graph=True)
                _, last, support_losses = ends(trajectory)
            final = after(model, last.step)
            losses, adjoint = query_gradient(final, last.params, episode.query, key, self.inner.micro_batch)
            meta = unrolled_adjoint(leaves, last, adjoint)
            return meta, episode_report(episode, support_losses, losses)
        start = begin(self.inner, model, stacked, episode.support)
        path = follow(self.inner, model, stacked, episode.support, key, start.state)
        final = after(model, path.last.step)
        losses, adjoint = query_gradient(final, path.last.params, episode.query, key, self.inner.micro_batch)
        adjoint, on_rates = Sweep(self.inner, model, stacked, episode, key, self.through)(path, adjoint)
        meta = back_through_begin(model, stacked, episode.support, start, adjoint) | on_rates
        return complete(meta, stacked), episode_report(episode, path.losses, losses)


def mean_of(found: tuple[Params, EpisodeReport]) -> tuple[Params, EpisodeReport]:
    """Meta-gradients of single tasks as their mean, and the report as it is."""
    return mean_tasks(found[0]), found[1]


def complete(meta: Params, stacked: Params) -> Params:
    """``meta`` in the order of ``stacked``, with zeros for what it lacks."""
    return {name: meta[name] if name in meta else torch.zeros_like(value) for name, value in stacked.items()}


def query_gradient(
    model: Model, params: Params, query: Batch, key: int | None, micro_batch: int | None = None
) -> tuple[torch.Tensor, Params]:
    """Query losses [T] and each task's own gradient, at adapted parameters [T, ...]."""
    return loss_and_gradient(loss_parts(model, query, micro_batch, _query_key(key)), params, tuple(params))
