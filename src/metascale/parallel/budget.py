"""A memory budget: how an outer step is run so that its measured peak fits, with the same numbers.

Cheapest first: fewer tasks in one call, fewer workers, checkpointed blocks, and last smaller micro-batches. A way is
chosen when its own measured peak fits; estimates from small micro-batches only spare the ways that have no chance.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from metascale.core.types import Episode, Model
from metascale.core.units import format_bytes
from metascale.meta.learner import LearnerState, MetaLearner
from metascale.parallel.out_of_memory import DoesNotFit, is_out_of_memory, with_micro_batch
from metascale.parallel.profile import frozen_weights, profile_step

_log = logging.getLogger("metascale.meta")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a step.

    Args:
        chunk: tasks in one call.
        workers: calls at the same time, in threads or processes.
        checkpoint_blocks: of a model that has such a field, ``None`` otherwise.
        micro_batch: examples of a task in one forward pass.
    """

    chunk: int
    workers: int
    checkpoint_blocks: str | None
    micro_batch: int


@dataclass(frozen=True)
class Plan:
    """What a memory budget chose.

    Args:
        way: how a step runs.
        budget_bytes: what was allowed.
        peak_bytes: the measured peak of an outer step run that way, frozen weights included; with several workers that
            of one call's tensors once for each.
        learner, model: the ones given, set up that way.
    """

    way: Way
    budget_bytes: int
    peak_bytes: int
    learner: MetaLearner
    model: Model

    def row(self) -> dict[str, Any]:
        """JSON for the run's record."""
        return {
            "memory_budget_bytes": self.budget_bytes,
            "peak_bytes": self.peak_bytes,
            "chunk": self.way.chunk,
            "workers": self.way.workers,
            "checkpoint_blocks": self.way.checkpoint_blocks,
            "micro_batch": self.way.micro_batch,
        }


def fit_to_budget(
    learner: MetaLearner, model: Model, episode: Episode, budget_bytes: int, *, device: str = "cpu"
) -> Plan:
    """The first way, from the fastest on, whose peak is within the budget.

    The budget is for tensors: weights, parameters, activations, gradients and optimiser state. Python, torch's
    libraries and the data set come on top of it. On a CPU the measurement is the same each time, and so is the plan.

    Args:
        episode: a meta-batch of the sizes that will be trained on, with its longest inputs.

    Raises:
        DoesNotFit: one task, one worker, checkpointed blocks and single examples need more; says how much.
    """
    gauge = _Gauge(learner, model, episode.to(device), device)
    for way in ways(learner, model, episode):
        if budget_bytes <= gauge.shared or gauge.estimate(way) > budget_bytes:
            continue
        measured = gauge.measure(way)
        if measured <= budget_bytes:
            _log.info("memory budget %s: %s, peak %s", format_bytes(budget_bytes), way, format_bytes(measured))
            return Plan(way, budget_bytes, int(measured), *set_up(learner, model, way))
    *_, last = ways(learner, model, episode)
    needed = gauge.measure(last)
    raise DoesNotFit(
        f"the memory budget of {format_bytes(budget_bytes)} is too small: the most frugal way (chunk={last.chunk}, "
        f"workers={last.workers}, checkpoint_blocks={last.checkpoint_blocks}, micro_batch={last.micro_batch}) needs "
        + ("more than this machine has" if math.isinf(needed) else format_bytes(needed))
        + f"; frozen weights alone are {format_bytes(gauge.weights_bytes)}"
    )


def set_up(learner: MetaLearner, model: Model, way: Way) -> tuple[MetaLearner, Model]:
    """Learner and model that run that way."""
    sized = with_micro_batch(learner, None if _coupled(model) else way.micro_batch)
    execution = replace(learner.execution, chunk=way.chunk, workers=way.workers)
    return replace(sized, execution=execution), _checkpointed(model, way.checkpoint_blocks)


def _checkpointed(model: Any, mode: str | None) -> Any:
    return model if mode is None or model.checkpoint_blocks == mode else replace(model, checkpoint_blocks=mode)


def _coupled(model: Model) -> bool:
    """Batch statistics: micro-batches would change the numbers."""
    return bool(getattr(model, "batch_statistics", False))


def ways(learner: MetaLearner, model: Model, episode: Episode) -> Iterator[Way]:
    """From the way that was asked for to the most frugal, one thing lowered at a time."""
    execution, mode = learner.execution, getattr(model, "checkpoint_blocks", None)
    largest = max(episode.support.n_examples, episode.query.n_examples)
    micro = min(learner.gradient.inner.micro_batch or largest, largest)
    way = Way(min(execution.chunk or episode.n_tasks, episode.n_tasks), execution.workers, mode, micro)
    yield way
    for chunk in _halvings(way.chunk):
        way = replace(way, chunk=chunk)
        yield way
    for workers in _halvings(way.workers):
        way = replace(way, workers=workers)
        yield way
    for stronger in {"none": ("adapters", "all"), "adapters": ("all",)}.get(mode or "", ()):
        way = replace(way, checkpoint_blocks=stronger)
        yield way
    if not _coupled(model):
        for size in _halvings(way.micro_batch):
            way = replace(way, micro_batch=size)
            yield way


def _halvings(number: int) -> Iterator[int]:
    while number > 1:
        number //= 2
        yield number


class _Gauge:
    """Measures single calls of a few tasks; remembers what it measured."""

    def __init__(self, learner: MetaLearner, model: Model, episode: Episode, device: str):
        self._learner, self._model, self._episode, self._device = learner, model, episode, device
        self._state: LearnerState = learner.init(model, 0, device)
        self._weights: list[torch.Tensor] = frozen_weights(model)
        self._known: dict[Way, float] = {}
        self.weights_bytes = sum(_sizes(self._weights).values())
        own = [*self._state.params.values(), *(v for slot in self._state.optimizer.values() for v in slot.values())]
        self.shared = sum(_sizes([*self._weights, *own]).values())

    def estimate(self, way: Way) -> float:
        """A low estimate, so that hopeless ways are not run: a straight line through two small micro-batches.

        It ends at the size of the support set, beyond which second-order passes do not grow.
        """
        support = self._episode.support.n_examples
        small = max(1, support // 8)
        if _coupled(self._model) or way.micro_batch <= 2 * small:
            return self.measure(way)
        low, high = (self.measure(replace(way, chunk=1, workers=1, micro_batch=size)) for size in (small, 2 * small))
        one = low + (high - low) * (min(way.micro_batch, support) - small) / small
        return self._together(self.shared + (one - self.shared) * way.chunk, way.workers)

    def measure(self, way: Way) -> float:
        """The peak of a way; infinite if it failed."""
        alone = replace(way, workers=1)
        if alone not in self._known:
            self._known[alone] = self._peak(alone)
        return self._together(self._known[alone], way.workers)

    def _together(self, peak: float, workers: int) -> float:
        """The peak of several workers, each with that of one: threads share what all calls read, processes copy it."""
        if self._learner.execution.in_processes and workers > 1:
            return self.shared + workers * peak
        return peak + (workers - 1) * (peak - self.shared)

    def _peak(self, way: Way) -> float:
        learner, model = set_up(self._learner, self._model, way)
        tasks = self._episode.tasks(0, way.chunk)
        try:
            report = profile_step(learner, model, self._state, tasks, weights=self._weights, device=self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        return report.peak_bytes


def _sizes(tensors: list[torch.Tensor]) -> dict[int, int]:
    """Bytes of each storage once."""
    return {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
