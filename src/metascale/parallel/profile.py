"""The memory of one outer step, by what it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch

from metascale.core.types import Episode, Model, Params
from metascale.meta.gradients import MetaGradient
from metascale.meta.learner import LearnerState, MetaLearner
from metascale.training.memory import LiveBytes, MemoryReport, WatchedModel, measure_memory
from metascale.training.optimizers import Optimizer, OptimizerState

FORWARD = ("begin", "losses", "predict", "features", "output_losses")
"""What runs a model forward."""


def profile_step(
    learner: MetaLearner,
    model: Model,
    state: LearnerState,
    episode: Episode,
    *,
    weights: Iterable[torch.Tensor] = (),
    device: str = "cpu",
) -> MemoryReport:
    """The memory of ``learner.step``, whose tasks run in this thread.

    Args:
        learner, model, state, episode: of the step. Chunks run one after another, whatever ``learner.execution`` says
            of workers: with w threads the part that is no static tensor counts w times.
        weights: the frozen tensors of the model (``frozen_weights`` finds a backbone's).
        device: on a GPU the allocator's peak is taken as well.
    """
    static = {"weights": weights, "parameters": state.params.values(), "optimizer_state": _tensors(state.optimizer)}
    alone = replace(learner, execution=learner.execution.alone())

    def call(meter: LiveBytes) -> object:
        return _watched_learner(alone, meter).step(cast(Model, WatchedModel(model, meter, FORWARD)), state, episode)

    return measure_memory(call, static, device, default="other")


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

    No number is looked at on the way, so that model, parameters and texts may be on torch's ``"meta"`` device, without
    values: that counts the memory of a model which this machine could not run.
    """
    static = {"weights": weights, "parameters": theta.values()}

    def call(meter: LiveBytes) -> object:
        own: Any = gradient
        inner = replace(own.inner, optimizer=_watched(own.inner.optimizer, meter))
        return replace(own, inner=inner)(WatchedModel(model, meter, FORWARD), theta, episode, None)

    return measure_memory(call, static, device, default="other")


def frozen_weights(model: Any) -> list[torch.Tensor]:
    """Parameters and buffers of a model's frozen backbone, or none."""
    backbone = getattr(model, "backbone", None)
    return [] if backbone is None else [*backbone.parameters(), *backbone.buffers()]


def _watched_learner(learner: MetaLearner, meter: LiveBytes) -> MetaLearner:
    """The learner with optimisers, inner and outer, that say what their tensors are."""
    gradient: Any = learner.gradient
    inner = replace(gradient.inner, optimizer=_watched(gradient.inner.optimizer, meter))
    return replace(learner, gradient=replace(gradient, inner=inner), outer=_watched(learner.outer, meter))


def _watched(optimizer: Optimizer, meter: LiveBytes) -> Optimizer:
    """An optimiser of the same kind and fields whose ``update`` labels gradients, parameters and state."""
    kind = type(optimizer)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def update(
            self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
        ) -> tuple[Params, OptimizerState]:
            new, slots = super().update(params, grads, state, rates)
            meter.label("gradients", grads)
            meter.label("parameters", new)
            meter.label("optimizer_state", slots)
            return new, slots

    twin = copy.copy(optimizer)
    object.__setattr__(twin, "__class__", Watched)
    return twin


def _tensors(state: OptimizerState) -> list[torch.Tensor]:
    return [value for slot in state.values() for value in slot.values()]
