"""A search trial ends at the threshold that its configuration holds, whole or interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from metascale.core.run import MemoryRun
from metascale.core.types import Params
from metascale.training.loop import Schedule, train_or_prune


class Stopped(Exception):
    """The process dies here."""


class Falling:
    """Validation loss 10 − step; dies in step ``dies_at`` where given."""

    def __init__(self, dies_at: int | None = None):
        self.dies_at = dies_at

    def init(self) -> int:
        return 0

    def step(self, state: int, k: int) -> tuple[int, Mapping[str, float]]:
        if k == self.dies_at:
            raise Stopped
        return state + 1, {"k": float(k)}

    def validate(self, state: int) -> Mapping[str, float]:
        return {"validation_loss_nats": 10.0 - state}

    def pack(self, state: int) -> Params:
        return {"state": torch.tensor(state)}

    def unpack(self, tensors: Params, k: int) -> int:
        return int(tensors["state"])


SCHEDULE = Schedule(max_steps=8, eval_every=2)


@pytest.mark.parametrize(
    ("thresholds", "ended"),
    [([], None), ([(2, 9.0), (4, 7.0)], None), ([(2, 8.0), (4, 5.9)], 4), ([(2, 7.9)], 2), ([(8, 0.0)], None)],
)
def test_training_ends_where_the_best_loss_so_far_is_above_the_threshold(
    thresholds: list[tuple[int, float]], ended: int | None
) -> None:
    run = MemoryRun()
    result = train_or_prune(Falling(), SCHEDULE, run, thresholds)
    assert result.row().get("pruned_at_step", "absent") == ("absent" if ended is None else ended)
    assert result.steps == (ended or 8)
    assert [one["step"] for one in run.rows("eval_stats")] == list(range(0, (ended or 8) + 1, 2))


@pytest.mark.parametrize("thresholds", [[(2, 8.5), (4, 6.5)], [(2, 8.5), (6, 3.0)]])
@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_an_interrupted_trial_decides_as_a_whole_one(thresholds: list[tuple[int, float]], dies_at: int) -> None:
    def records(run: MemoryRun) -> dict[str, Any]:
        return dict(run.records)

    whole, broken = MemoryRun(), MemoryRun()
    expected = train_or_prune(Falling(), SCHEDULE, whole, thresholds)
    with pytest.raises(Stopped):
        train_or_prune(Falling(dies_at), SCHEDULE, broken, thresholds)
    assert train_or_prune(Falling(), SCHEDULE, broken, thresholds) == expected
    assert records(broken) == records(whole)
