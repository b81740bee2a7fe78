"""The loop: early stopping, restore-best, and interrupted = uninterrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.run import Checkpoint, MemoryRun
from metascale.core.streams import generator
from metascale.core.types import Params
from metascale.training.loop import Schedule, train
from metascale.training.state import from_bytes, to_bytes


class Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


@dataclass
class Walk:
    """The state is a number that takes named random steps; its validation loss follows a script."""

    losses: Mapping[int, float] = field(default_factory=dict)
    die_at: int | None = None

    def init(self) -> tuple[int, torch.Tensor]:
        return 0, torch.zeros(1, dtype=torch.float64)

    def step(self, state: tuple[int, torch.Tensor], k: int) -> tuple[tuple[int, torch.Tensor], Mapping[str, float]]:
        if k == self.die_at:
            raise Interrupted
        value = state[1] + float(generator(0, "walk", k).normal())
        return (k + 1, value), {"value": float(value)}

    def validate(self, state: tuple[int, torch.Tensor]) -> Mapping[str, float]:
        return {"validation_loss_nats": self.losses.get(state[0], float(state[1] ** 2))}

    def pack(self, state: tuple[int, torch.Tensor]) -> Params:
        return {"value": state[1]}

    def unpack(self, tensors: Params, k: int) -> tuple[int, torch.Tensor]:
        return k, tensors["value"]


def test_restores_the_best_state_not_the_last() -> None:
    walk = Walk({0: 5.0, 2: 3.0, 4: 1.0, 6: 2.0, 8: 4.0})
    run = MemoryRun()
    result = train(walk, Schedule(max_steps=8, eval_every=2), run)
    assert (result.best_step, result.steps, result.status) == (4, 8, "max_steps")
    assert (result.kept_step, result.validation_loss_nats) == (4, 1.0)
    assert float(result.state[1]) == run.rows("train_stats")[3]["value"]
    last = train(walk, Schedule(max_steps=8, eval_every=2, restore_best=False), MemoryRun())
    assert float(last.state[1]) == run.rows("train_stats")[-1]["value"]
    assert (last.best_step, last.kept_step, last.validation_loss_nats) == (4, 8, 4.0)


def test_patience_counts_validations_without_an_improvement_above_min_delta() -> None:
    walk = Walk({0: 5.0, 1: 3.0, 2: 2.95, 3: 2.92, 4: 1.0})
    result = train(walk, Schedule(max_steps=50, eval_every=1, patience=2, min_delta=0.1), MemoryRun())
    assert (result.status, result.steps, result.best_step) == ("converged", 3, 1)


@pytest.mark.parametrize("die_at", [0, 1, 4, 5, 6, 11, 16])
@pytest.mark.parametrize("patience", [None, 2])
def test_interrupted_equals_uninterrupted(die_at: int, patience: int | None) -> None:
    schedule = Schedule(max_steps=17, eval_every=5, checkpoint_every=3, patience=patience)
    whole = MemoryRun()
    expected = train(Walk(), schedule, whole)
    broken = MemoryRun()
    if die_at < expected.steps:
        with pytest.raises(Interrupted):
            train(Walk(die_at=die_at), schedule, broken)
    resumed = train(Walk(), schedule, broken)
    assert broken.records == whole.records
    assert (resumed.steps, resumed.best_step, resumed.status) == (expected.steps, expected.best_step, expected.status)
    assert torch.equal(resumed.state[1], expected.state[1])


class Stopping(MemoryRun):
    """A run that is asked to stop after a step, and as a stored one does, ends once that step is saved."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.stop_at: int | None = stop_at

    def append(self, record: str, row: Mapping[str, object]) -> None:
        super().append(record, row)
        self.step = row["step"]

    def stop_asked(self) -> bool:
        return self.step == self.stop_at

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if self.stop_asked():
            self.saved, self.stop_at = checkpoint, None
            raise Interrupted


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5, 6, 10, 16, 17])
def test_a_run_that_is_asked_to_stop_is_saved_at_that_very_step(stop_at: int) -> None:
    """3 and 6 are on the schedule of checkpoints, 5, 10 and 17 on that of validations, the others on neither."""
    schedule = Schedule(max_steps=17, eval_every=5, checkpoint_every=3)
    whole, run = MemoryRun(), Stopping(stop_at)
    expected = train(Walk(), schedule, whole)
    with pytest.raises(Interrupted):
        train(Walk(), schedule, run)
    assert (run.saved.step, run.saved.scheduled) == (stop_at, stop_at in (3, 6))
    assert float(from_bytes(run.saved.blobs["state.safetensors"])["value"]) == run.records["train_stats"][-1]["value"]
    resumed = train(Walk(), schedule, run)
    assert run.records == whole.records
    assert torch.equal(resumed.state[1], expected.state[1])


def test_resuming_a_finished_training_runs_no_step() -> None:
    run, schedule = MemoryRun(), Schedule(max_steps=6, eval_every=2)
    first = train(Walk(), schedule, run)
    again = train(Walk(die_at=0), schedule, run)
    assert torch.equal(first.state[1], again.state[1])
    assert len(run.rows("train_stats")) == 6


def test_non_finite_validation_loss_diverges_with_the_last_finite_value() -> None:
    with pytest.raises(Diverged, match="validation loss is nan at step 2") as caught:
        train(Walk({0: 1.0, 1: 0.5, 2: float("nan")}), Schedule(max_steps=5, eval_every=1), MemoryRun())
    assert (caught.value.step, caught.value.last_finite) == (2, 0.5)


def test_a_logged_statistic_that_overflows_is_a_divergence() -> None:
    """A gradient norm can overflow while the loss is still finite: the trial diverged, it did not fail."""

    class Exploding(Walk):
        def step(self, state: tuple[int, torch.Tensor], k: int) -> tuple[tuple[int, torch.Tensor], Mapping[str, float]]:
            state, row = super().step(state, k)
            return state, {**row, "grad_norm": float("inf") if k == 3 else 1.0}

    run = MemoryRun()
    with pytest.raises(Diverged, match="grad norm is inf at step 4") as caught:
        train(Exploding({0: 1.0, 2: 0.5, 4: 0.2}), Schedule(max_steps=5, eval_every=2), run)
    assert (caught.value.step, caught.value.last_finite) == (4, 0.5)
    assert len(run.rows("train_stats")) == 3


def test_schedule_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="eval_every of the schedule must be at least 1, not 0"):
        Schedule(max_steps=3, eval_every=0)
    with pytest.raises(InputError, match="patience"):
        Schedule(max_steps=3, patience=0)


def test_weights_round_trip_bit_for_bit() -> None:
    tensors = {"b": torch.randn(3, dtype=torch.float64).t(), "a": torch.arange(6.0).view(2, 3).t()}
    back = from_bytes(to_bytes(tensors))
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
