"""What a step over tasks takes in memory, and how it is run so that its peak fits a budget, with the same numbers.

Cheapest first: fewer tasks in one call, fewer workers, checkpointed blocks, and last smaller micro-batches. A plan is
chosen by its own measured peak; estimates from small micro-batches are only used to skip plans that cannot fit.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

import torch

from metascale.core.types import Episode, Model, Params
from metascale.core.units import format_bytes
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import DoesNotFit, is_out_of_memory
from metascale.training.memory import LiveBytes, MemoryReport, WatchedModel, measure_memory
from metascale.training.optimizers import Optimizer, OptimizerState
from metascale.training.state import TrainState

FORWARD = ("begin", "losses", "predict", "features", "output_losses")
"""Methods that run a model forward."""
_log = logging.getLogger("metascale.parallel")
L = TypeVar("L", bound="Learner")


class Learner(Protocol):
    """What takes a step over the tasks of an episode, such as `meta.learner.MetaLearner`."""

    @property
    def execution(self) -> Execution: ...

    @property
    def micro_batch(self) -> int | None:
        """Examples of a task in one forward pass; ``None``: all of them."""
        ...

    def with_execution(self: L, execution: Execution) -> L: ...

    def with_micro_batch(self: L, size: int | None) -> L: ...

    def map_optimizers(self: L, change: Callable[[Optimizer], Optimizer]) -> L:
        """The same learner with ``change`` applied to its optimisers, inner and outer."""
        ...

    def init(self, model: Model, seed: int, device: str) -> TrainState: ...

    def step(self, model: Model, state: TrainState, episode: Episode) -> tuple[TrainState, object]: ...


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How a step is run.

    Args:
        chunk: tasks in one call.
        workers: calls at the same time, in threads or processes.
        checkpoint_blocks: the model's field of that name; ``None`` for models without one.
        micro_batch: examples of a task in one forward pass.
    """

    chunk: int
    workers: int
    checkpoint_blocks: str | None
    micro_batch: int


@dataclass(frozen=True)
class StepFit(Generic[L]):
    """What a memory budget chose.

    Args:
        plan: how a step is run.
        budget_bytes: what was allowed.
        peak_bytes: the measured peak of an outer step run that way, frozen weights included; several workers each count
            with the tensors of one call.
        learner, model: those given, set up as ``plan`` says.
    """

    plan: StepPlan
    budget_bytes: int
    peak_bytes: int
    learner: L
    model: Model

    def row(self) -> dict[str, int | str | None]:
        """JSON for the run's record."""
        return {
            "memory_budget_bytes": self.budget_bytes,
            "peak_bytes": self.peak_bytes,
            "chunk": self.plan.chunk,
            "workers": self.plan.workers,
            "checkpoint_blocks": self.plan.checkpoint_blocks,
            "micro_batch": self.plan.micro_batch,
        }


def fit_to_budget(learner: L, model: Model, episode: Episode, budget_bytes: int, *, device: str = "cpu") -> StepFit[L]:
    """The first of `plans`, fastest first, whose peak is within the budget.

    The budget covers tensors: weights, parameters, activations, gradients and optimiser state. Python, torch's
    libraries and the data set come on top. On a CPU the measurement, and so the plan, is the same every time.

    Args:
        episode: a meta-batch of the sizes that will be trained on, with its longest inputs.

    Raises:
        DoesNotFit: one task, one worker, checkpointed blocks and single examples still need more.
    """
    gauge = _Gauge(learner, model, episode.to(device), device)
    for plan in plans(learner, model, episode):
        if budget_bytes <= gauge.shared or gauge.estimate(plan) > budget_bytes:
            continue
        measured = gauge.measure(plan)
        if measured <= budget_bytes:
            _log.info("memory budget %s: %s, peak %s", format_bytes(budget_bytes), plan, format_bytes(measured))
            return StepFit(plan, budget_bytes, int(measured), *_set_up(learner, model, plan))
    *_, last = plans(learner, model, episode)
    needed = gauge.measure(last)
    raise DoesNotFit(
        f"the memory budget of {format_bytes(budget_bytes)} is too small: the most frugal plan (chunk={last.chunk}, "
        f"workers={last.workers}, checkpoint_blocks={last.checkpoint_blocks}, micro_batch={last.micro_batch}) needs "
        + ("more than this machine has" if math.isinf(needed) else format_bytes(needed))
        + f"; frozen weights alone are {format_bytes(gauge.weights_bytes)}"
    )


def plans(learner: Learner, model: Model, episode: Episode) -> Iterator[StepPlan]:
    """From the learner's own settings to the most frugal, one thing lowered at a time."""
    execution, mode = learner.execution, getattr(model, "checkpoint_blocks", None)
    largest = max(episode.support.n_examples, episode.query.n_examples)
    micro = min(learner.micro_batch or largest, largest)
    plan = StepPlan(min(execution.chunk or episode.n_tasks, episode.n_tasks), execution.workers, mode, micro)
    yield plan
    for chunk in _halvings(plan.chunk):
        plan = replace(plan, chunk=chunk)
        yield plan
    for workers in _halvings(plan.workers):
        plan = replace(plan, workers=workers)
        yield plan
    for stronger in {"none": ("adapters", "all"), "adapters": ("all",)}.get(mode or "", ()):
        plan = replace(plan, checkpoint_blocks=stronger)
        yield plan
    if not _coupled(model):
        for size in _halvings(plan.micro_batch):
            plan = replace(plan, micro_batch=size)
            yield plan


def _halvings(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


def _coupled(model: Model) -> bool:
    """Batch statistics: micro-batches would change the numbers."""
    return bool(getattr(model, "batch_statistics", False))


def _set_up(learner: L, model: Model, plan: StepPlan) -> tuple[L, Model]:
    sized = learner.with_micro_batch(None if _coupled(model) else plan.micro_batch)
    own: Any = model
    if plan.checkpoint_blocks is not None and own.checkpoint_blocks != plan.checkpoint_blocks:
        own = replace(own, checkpoint_blocks=plan.checkpoint_blocks)
    return sized.with_execution(replace(learner.execution, chunk=plan.chunk, workers=plan.workers)), own


class _Gauge(Generic[L]):
    """Measures single calls of a few tasks and remembers the peaks."""

    def __init__(self, learner: L, model: Model, episode: Episode, device: str):
        self._learner, self._model, self._episode, self._device = learner, model, episode, device
        self._state = learner.init(model, 0, device)
        self._weights = frozen_weights(model)
        self._known: dict[StepPlan, float] = {}
        self.weights_bytes = _storage_bytes(self._weights)
        self.shared = _storage_bytes([*self._weights, *self._state.params.values(), *_slots(self._state.optimizer)])

    def estimate(self, plan: StepPlan) -> float:
        """A low estimate, so that hopeless plans are not run: a straight line through two small micro-batches.

        It ends at the size of the support set, beyond which second-order passes do not grow.
        """
        support = self._episode.support.n_examples
        small = max(1, support // 8)
        if _coupled(self._model) or plan.micro_batch <= 2 * small:
            return self.measure(plan)
        low, high = (self.measure(replace(plan, chunk=1, workers=1, micro_batch=size)) for size in (small, 2 * small))
        if math.isinf(high):
            return high
        one = low + (high - low) * (min(plan.micro_batch, support) - small) / small
        return self._together(self.shared + (one - self.shared) * plan.chunk, plan.workers)

    def measure(self, plan: StepPlan) -> float:
        """The peak in bytes; infinite where memory ran out."""
        alone = replace(plan, workers=1)
        if alone not in self._known:
            self._known[alone] = self._peak(alone)
        return self._together(self._known[alone], plan.workers)

    def _together(self, peak: float, workers: int) -> float:
        """The peak of several workers, each with that of one: threads share what all calls read, processes copy it."""
        if workers == 1:
            return peak
        if self._learner.execution.in_processes:
            return self.shared + workers * peak
        return peak + (workers - 1) * (peak - self.shared)

    def _peak(self, plan: StepPlan) -> float:
        learner, model = _set_up(self._learner, self._model, plan)
        tasks = self._episode.tasks(0, plan.chunk)
        try:
            report = profile_step(learner, model, self._state, tasks, weights=self._weights, device=self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        return report.peak_bytes


def _storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Each storage counts once."""
    return sum({value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}.values())


def _slots(state: OptimizerState) -> list[torch.Tensor]:
    return [value for slot in state.values() for value in slot.values()]


def frozen_weights(model: Model) -> list[torch.Tensor]:
    """Parameters and buffers of a model's frozen backbone; empty without one."""
    backbone = getattr(model, "backbone", None)
    return [] if backbone is None else [*backbone.parameters(), *backbone.buffers()]


def profile_step(
    learner: Learner,
    model: Model,
    state: TrainState,
    episode: Episode,
    *,
    weights: Iterable[torch.Tensor] = (),
    device: str = "cpu",
) -> MemoryReport:
    """The memory of ``learner.step`` by what it holds; its tasks run in this thread.

    Args:
        learner, model, state, episode: of the step. Chunks run one after another, whatever ``learner.execution`` says
            of workers: with w threads the part that is no static tensor counts w times.
        weights: the frozen tensors of the model (`frozen_weights` finds a backbone's).
        device: on a GPU the allocator's peak is taken as well.
    """
    alone = learner.with_execution(learner.execution.alone())

    def step(watched: Model, watch: Callable[[Optimizer], Optimizer]) -> object:
        return alone.map_optimizers(watch).step(watched, state, episode)

    static = {"weights": weights, "parameters": state.params.values(), "optimizer_state": _slots(state.optimizer)}
    return profile(step, model, static, device)


def profile(
    call: Callable[[Model, Callable[[Optimizer], Optimizer]], object],
    model: Model,
    static: dict[str, Iterable[torch.Tensor]],
    device: str = "cpu",
) -> MemoryReport:
    """The memory of ``call(model, watch)`` by what it holds.

    Args:
        call: uses the model that it is given, and optimisers that went through ``watch``; both report to the meter.
        static: tensors that exist already, by kind (`training.memory.KINDS`).
    """

    def measured(meter: LiveBytes) -> object:
        watched = cast(Model, WatchedModel(model, meter, FORWARD))
        return call(watched, lambda optimizer: _watched(optimizer, meter))

    return measure_memory(measured, static, device, default="other")


def _watched(optimizer: Optimizer, meter: LiveBytes) -> Optimizer:
    """An optimiser of the same kind and fields whose ``update`` labels gradients, parameters and state."""
    kind = type(optimizer)

    class WatchedOptimizer(kind):  # type: ignore[misc, valid-type]
        def update(
            self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
        ) -> tuple[Params, OptimizerState]:
            new, slots = super().update(params, grads, state, rates)
            meter.label("gradients", grads)
            meter.label("parameters", new)
            meter.label("optimizer_state", slots)
            return new, slots

    twin = copy.copy(optimizer)
    object.__setattr__(twin, "__class__", WatchedOptimizer)
    return twin
