"""Which trials a runner tries again by itself: those that hung, and those whose machine was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from metascale.study.run.job import Code, Ended, describe_exit
from metascale.study.store.run_files import read_progress

HANGS_RETRIED = 1
LOSSES_RETRIED = 20
"""A trial goes on elsewhere when its node is lost; one that loses node after node is at fault itself."""


@dataclass(slots=True)
class Retries:
    """How often each trial of this call hung or was lost."""

    hangs: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)

    def after_hang(self, trial_id: str) -> bool:
        """Count a hang; whether to try again."""
        self.hangs[trial_id] += 1
        return self.hangs[trial_id] <= HANGS_RETRIED

    def after_loss(self, trial_id: str) -> bool:
        """Count a loss of the place where it ran; whether to go on elsewhere."""
        self.losses[trial_id] += 1
        return self.losses[trial_id] <= LOSSES_RETRIED


def describe_death(ended: Ended) -> str:
    """What to record for an attempt that recorded nothing itself."""
    if ended.code == Code.WORKER_LOST:
        return f"the place where the trial ran was lost {LOSSES_RETRIED + 1} times"
    if ended.code != Code.HUNG:
        return describe_exit(ended.code)
    told = read_progress(Path(ended.job.folder))
    where = f"; it last told of step {told['done']} of {told['total']}" if told else ""
    return f"the trial hung: it wrote nothing for {ended.job.hang_s:g} s and was killed{where}"
