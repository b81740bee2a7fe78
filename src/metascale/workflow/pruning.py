"""Training that a search may end early, by the thresholds in its trial's configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from metascale.core.run import Run
from metascale.study.search.search import PRUNE_KEY, PRUNED, Pruning
from metascale.training.loop import Schedule, Trainable, TrainResult, train

State = TypeVar("State")


def train_or_prune(
    process: Trainable[State], schedule: Schedule, run: Run, config: Mapping[str, Any]
) -> tuple[TrainResult[State], dict[str, Any]]:
    """`train`, ended at the first of the configuration's thresholds that the best validation loss so far lies above.

    Each threshold is a training of its own up to its step, which the next goes on from: so a resumed trial decides as
    one without a break. A trial without thresholds is trained as it is.

    Returns:
        The training's result, and what to add to the trial's row: ``pruned_at_step``, or nothing.
    """
    checkpoint = run.latest()
    done = checkpoint.step if checkpoint else 0
    for step, threshold in config.get(PRUNE_KEY) or ():
        if done > step or step >= schedule.max_steps:
            continue
        result = train(process, dataclasses.replace(schedule, max_steps=step), run)
        losses = [row[Pruning().column] for row in run.rows(Pruning().record) if row["step"] <= step]
        if result.status != "converged" and min(losses) > threshold:
            return result, {PRUNED: step}
    return train(process, schedule, run), {}
