"""What one outer step of a trial costs: operations counted, live bytes measured, and the steps that a budget pays."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.core.types import Episode, Model
from metascale.core.units import parse_bytes
from metascale.meta.learner import MetaLearner
from metascale.parallel.budget import fit_to_budget, frozen_weights, profile_step
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.memory import KINDS
from metascale.training.state import TrainState
from metascale.workflow.config import FewShotConfig

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts

VALIDATIONS = 10
"""Validations of a training under a compute budget, after the one at its start: the same number for every method."""

LOOKED_AT = 16
"""Meta-batches among which the longest inputs are looked for."""


def step_cost(
    settings: FewShotConfig, parts: Parts, learner: MetaLearner, seed: int, device: str
) -> tuple[FewShotConfig, dict[str, Any]]:
    """The settings with the outer steps that a compute budget pays for, and the columns that say what a step costs.

    ``step_flops`` is counted on the first meta-batch of the trial, so that methods are compared on the same texts;
    ``step_peak_bytes`` and ``step_<kind>_bytes`` on its first two tasks, one after another, since more of them add
    nothing. Neither is there unless the configuration asks for it.

    Raises:
        InputError: the budget does not pay for one step.
    """
    columns: dict[str, Any] = {}
    if settings.budget != "compute" and not settings.measure_memory:
        return settings, columns
    model, state = parts.model, learner.init(parts.model, seed, device)
    episode = parts.source.episodes("train", range(settings.meta_batch)).to(device)
    if settings.budget == "compute":
        alone = dataclasses.replace(learner, execution=learner.execution.alone())
        columns["step_flops"] = count_flops(lambda: alone.step(model, state, episode))
        settings = _paid_for(settings, columns["step_flops"])
    if settings.measure_memory:
        columns |= step_memory(learner, model, state, episode.tasks(0, 2))
    return settings, columns


def _paid_for(settings: FewShotConfig, step_flops: float) -> FewShotConfig:
    assert settings.budget_flops is not None
    steps = int(settings.budget_flops // step_flops)
    if steps < 1:
        raise InputError(
            f"budget_flops={settings.budget_flops:g} does not pay for one outer step of method '{settings.method}', "
            f"which takes {step_flops:.3g} operations"
        )
    return dataclasses.replace(settings, max_steps=steps, eval_every=max(1, -(-steps // VALIDATIONS)))


def step_memory(learner: MetaLearner, model: Model, state: TrainState, episode: Episode) -> dict[str, int]:
    """Live bytes at the peak of one outer step, in all, without the frozen weights, and by what they hold.

    Tasks run one after another. Bytes of live tensors are the same in every run; the first step, which makes what
    later ones share, is left out.
    """
    alone = dataclasses.replace(learner, execution=Execution(chunk=1))
    alone.step(model, state, episode.tasks(0, 1))
    report = profile_step(alone, model, state, episode, weights=frozen_weights(model))
    return {
        "step_peak_bytes": report.live_bytes,
        "step_peak_without_weights_bytes": report.live_bytes - int(report.by_kind["weights"]),
        **{f"step_{kind}_bytes": int(report.by_kind[kind]) for kind in KINDS},
    }


def within_budget(
    settings: FewShotConfig, parts: Parts, learner: MetaLearner, run: Run, device: str
) -> tuple[MetaLearner, Parts]:
    """Learner and model set up so that an outer step's peak stays within ``memory_budget``: the same numbers.

    The plan chosen is written to the run as ``memory_plan.json``. It is measured on the meta-batch with the longest
    inputs among the first `LOOKED_AT`; a longer one that does not fit halves the micro-batch when it comes.

    Raises:
        DoesNotFit: not even the most frugal plan fits.
    """
    if settings.memory_budget is None:
        return learner, parts
    size = settings.meta_batch
    batches = (parts.source.episodes("train", range(k * size, (k + 1) * size)) for k in range(LOOKED_AT))
    longest = max(batches, key=_n_inputs)
    fitted = fit_to_budget(learner, parts.model, longest, parse_bytes(settings.memory_budget), device=device)
    run.write("memory_plan.json", fitted.row())
    return fitted.learner, dataclasses.replace(parts, model=fitted.model)


def _n_inputs(episode: Episode) -> int:
    return sum(value.numel() for batch in (episode.support, episode.query) for value in batch.inputs.values())
