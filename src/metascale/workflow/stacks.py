"""Which trials of a study run together in one process: decided by their configurations alone, before any runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metascale.core.canonical import canonical_json, plain
from metascale.core.errors import InputError
from metascale.study.design import Study, Trial
from metascale.study.search.search import search_of
from metascale.workflow.config import FewShotConfig
from metascale.workflow.recipe import Recipe

AUTO = 8
"""Trials of a stack at most, where it is chosen: of a small perceptron more are no faster on a CPU."""

FREE = frozenset(
    {"n_tasks", "n_train_classes", "inner_lr", "budget", "max_steps", "visits_per_task", "eval_every", "patience"}
    | {"min_delta", "outer_optimizer", "outer_lr", "outer_clip", "outer_momentum", "outer_beta1", "outer_beta2"}
    | {"outer_weight_decay", "outer_schedule", "outer_warmup", "outer_final_rate", "outer_decay_share"}
)
"""Keys in which the trials of a stack may differ, besides their seeds."""

MULTIPLE = 8
"""Of tasks: other meta-batches are not joined (`metascale.parallel.stacked.MULTIPLE`, which needs torch)."""
JOINING = ("reptile", "fomaml", "maml")
CURVATURES = ("unrolled", "exact", "gauss_newton", "none")


def stacks_of(recipe: Recipe[Any] | None, study: Study, stack: int | str) -> tuple[tuple[str, ...], ...]:
    """The ids of the trials of each stack, in the study's order.

    Trials are of one kind where they differ in seeds and `FREE` keys alone. Those of a kind are cut, in order, into as
    few stacks of nearly equal size as ``stack`` allows. It does not depend on workers or on what has run already.

    Args:
        stack: trials at most, or ``"auto"``.
    """
    if stack == 1:
        return ()
    kinds: dict[str, list[str]] = {}
    if recipe is not None and issubclass(recipe.config, FewShotConfig) and search_of(study) is None:
        for trial, kind in _kinds(recipe, study.trials()):
            kinds.setdefault(kind, []).append(trial.id)
    found = [group for ids in kinds.values() for group in _cut(ids, AUTO if stack == "auto" else int(stack))]
    return tuple(group for group in found if len(group) > 1)


def require_stacks(recipe: Recipe[Any] | None, study: Study, stack: int | str) -> None:
    """
    Raises:
        InputError: ``stack`` is a number of trials from 2, and none of the study can run together.
    """
    if stack not in (1, "auto") and not stacks_of(recipe, study, stack):
        raise InputError(
            f"no trials of study '{study.name}' can run together (see docs/tuning.md); leave `stack` out",
            field="stack",
            value=stack,
        )


def _kinds(recipe: Recipe[Any], trials: Iterable[Trial]) -> Iterable[tuple[Trial, str]]:
    for trial in trials:
        settings = recipe.validate(trial.config)
        if joins(settings):
            values: Mapping[str, object] = {
                each.name: getattr(settings, each.name)
                for each in dataclasses.fields(settings)
                if each.name not in FREE
            }
            yield trial, canonical_json(plain(values))


def joins(settings: FewShotConfig) -> bool:
    """Whether the trials of a configuration can share calls with others."""
    method, curvature = settings.estimator
    estimated = method in JOINING and (method != "maml" or curvature in CURVATURES)
    measured = settings.budget == "compute" or settings.measure_memory or settings.memory_budget is not None
    aligned = settings.meta_batch % MULTIPLE == 0 and settings.inner_clip is None and settings.rates_by != "mode"
    return settings.kind == "meta" and settings.tasks_apart and estimated and aligned and not measured


def _cut(ids: Sequence[str], size: int) -> list[tuple[str, ...]]:
    count = -(-len(ids) // size)
    ends = [len(ids) * (place + 1) // count for place in range(count)]
    return [tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
