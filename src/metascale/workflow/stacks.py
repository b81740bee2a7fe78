"""Which trials of a study run together in one process: decided by their configurations alone, before any runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from metascale.core.canonical import canonical_json, plain
from metascale.core.columns import TUNING
from metascale.core.errors import InputError
from metascale.study.design import Study, Trial
from metascale.study.search.search import search_of
from metascale.workflow.config import FewShotConfig
from metascale.workflow.recipe import Recipe

AUTO = 8
"""Few-shot trials of a stack at most, where it is chosen: of a small perceptron more are no faster on a CPU."""
AUTO_SUPERVISED = 16
"""The same of other trials, which have no axis of tasks."""


def stacks_of(recipe: Recipe[Any] | None, study: Study, stack: int | str) -> tuple[tuple[str, ...], ...]:
    """The ids of the trials of each stack, in the study's order.

    Trials are of one kind where they differ in seeds and free keys alone; those of a search, where it suggested them in
    one round as well. Those of a kind are cut, in order, into as few stacks of nearly equal size as ``stack`` allows,
    whatever the workers and whatever has run already.

    Args:
        stack: trials at most, or ``"auto"``.
    """
    if stack == 1:
        return ()
    kinds: dict[str, list[str]] = {}
    if recipe is not None:
        for trial, kind in _kinds(recipe, study):
            kinds.setdefault(kind, []).append(trial.id)
    few_shot = recipe is not None and issubclass(recipe.config, FewShotConfig)
    most = (AUTO if few_shot else AUTO_SUPERVISED) if stack == "auto" else int(stack)
    found = [group for ids in kinds.values() for group in _cut(ids, most)]
    return tuple(group for group in found if len(group) > 1)


def require_stacks(recipe: Recipe[Any] | None, study: Study, stack: int | str) -> None:
    """
    Raises:
        InputError: ``stack`` is a number of trials from 2, and none of the study can run together.
    """
    if stack in (1, "auto") or stacks_of(recipe, study, stack):
        return
    search = search_of(study)
    if search is not None and search.together > 1 and recipe is not None and next(_kinds(recipe, study), None):
        return
    raise InputError(
        f"no trials of study '{study.name}' can run together (see docs/tuning.md); leave `stack` out",
        field="stack",
        value=stack,
    )


def _kinds(recipe: Recipe[Any], study: Study) -> Iterator[tuple[Trial, str]]:
    """The trials that can run together with others, and what those have in common."""
    search = search_of(study)
    numbers: Counter[str] = Counter()
    for trial in study.trials():
        place: object = None
        if search is not None and trial.kind == TUNING:
            point = canonical_json({axis: trial.axes.get(axis) for axis in study.axes})
            place = numbers[point] // search.together
            numbers[point] += 1
        common = recipe.validate(trial.config).stack_kind()
        if common is not None:
            yield trial, canonical_json([place, plain(common)])


def _cut(ids: Sequence[str], size: int) -> list[tuple[str, ...]]:
    count = -(-len(ids) // size)
    ends = [len(ids) * (place + 1) // count for place in range(count)]
    return [tuple(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
