"""The one training loop: step, validate, stop early, keep the best, checkpoint, resume.

Meta-, bilevel and supervised training all run in it; each brings its own ``Trainable``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from metascale.core.columns import BEST_STEP, KEPT_STEP, VALIDATION_LOSS
from metascale.core.errors import CorruptFile, Diverged, InputError
from metascale.core.run import Checkpoint, Run
from metascale.core.types import Params
from metascale.training.state import from_bytes, to_bytes

State = TypeVar("State")


class Trainable(Protocol[State]):
    """What is trained. ``step`` number k depends on the state and on k alone."""

    def init(self) -> State: ...

    def step(self, state: State, k: int) -> tuple[State, Mapping[str, float | None]]:
        """The state after step k and a row of the training record, with the same names every time (``None``: no
        value at this step)."""
        ...

    def validate(self, state: State) -> Mapping[str, float]:
        """A row of the evaluation record; ``validation_loss_nats`` selects the best state."""
        ...

    def pack(self, state: State) -> Params:
        """The whole state as named tensors."""
        ...

    def unpack(self, tensors: Params, k: int) -> State:
        """The state after k steps from its tensors."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long to train and how often to validate.

    Args:
        max_steps: steps at most.
        eval_every: steps between validations; there is one at step 0 and one at the end as well.
        patience: validations without an improvement after which training stops; ``None`` trains all ``max_steps``.
        min_delta: an improvement lowers the best validation loss by more than this (nats).
        restore_best: end with the state of the lowest validation loss; otherwise with the last.
        checkpoint_every: steps between checkpoints besides those at validations.
        log_every: steps between rows of the training record.
    """

    max_steps: int
    eval_every: int = 100
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = True
    checkpoint_every: int = 1000
    log_every: int = 1

    def __post_init__(self) -> None:
        for name in ("max_steps", "eval_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of the schedule must be at least 1, not {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience of the schedule must be at least 1 validation, or none, not {self.patience}")


@dataclass(frozen=True)
class Progress:
    """What a resumed run needs besides the tensors."""

    step: int = 0
    validated_step: int = -1
    best_step: int = -1
    best_loss_nats: float = math.inf
    last_loss_nats: float = math.inf
    stale: int = 0
    stopped: bool = False


@dataclass(frozen=True)
class TrainResult(Generic[State]):
    """The selected state: that of ``kept_step``, with its validation loss.

    Args:
        steps: trained in all.
        best_step: where the validation loss was lowest; ``kept_step`` unless the last state was to be kept.
        status: ``"converged"`` when patience ran out, ``"max_steps"`` otherwise.
    """

    state: State = field(repr=False)
    steps: int
    kept_step: int
    validation_loss_nats: float
    best_step: int
    status: str
    pruned_at_step: int | None = None

    def row(self) -> dict[str, float | str]:
        """Columns of a trial's results."""
        pruned = {} if self.pruned_at_step is None else {"pruned_at_step": self.pruned_at_step}
        return {
            VALIDATION_LOSS: self.validation_loss_nats,
            KEPT_STEP: self.kept_step,
            BEST_STEP: self.best_step,
            "steps": self.steps,
            "training": self.status,
            **pruned,
        }


def train(process: Trainable[State], schedule: Schedule, run: Run) -> TrainResult[State]:
    """Train from the run's latest checkpoint, or from the start.

    Interrupted and resumed, a training leaves the same records and the same state, bit for bit, as an uninterrupted
    one. A run that is asked to stop saves the step in progress and ends there.

    Raises:
        Diverged: a loss is not finite; the message and attributes say where.
    """
    state, best, progress = _resume(process, run)
    began = time.perf_counter()
    while True:
        due = progress.step % schedule.eval_every == 0 or progress.step >= schedule.max_steps
        if due and progress.validated_step < progress.step:
            best, progress = _validate(process, schedule, run, state, best, progress)
            run.measure({"step": progress.step, "wall_s": time.perf_counter() - began})
            _save(process, run, state, best, progress)
        if progress.stopped or progress.step >= schedule.max_steps:
            break
        state, row = process.step(state, progress.step)
        progress = replace(progress, step=progress.step + 1)
        if progress.step % schedule.log_every == 0:
            run.append("train_stats", {"step": progress.step, **_finite(row, progress)})
        scheduled = progress.step % schedule.checkpoint_every == 0 and progress.step % schedule.eval_every > 0
        if scheduled or run.stop_asked():
            _save(process, run, state, best, progress, scheduled)
        run.progress(progress.step, schedule.max_steps)
    final, kept, loss = state, progress.step, progress.last_loss_nats
    if schedule.restore_best:
        kept, loss = progress.best_step, progress.best_loss_nats
        final = process.unpack(best, kept)
    status = "converged" if progress.stopped else "max_steps"
    return TrainResult(final, progress.step, kept, loss, progress.best_step, status)


def train_or_prune(
    process: Trainable[State], schedule: Schedule, run: Run, thresholds: Sequence[tuple[int, float]] = ()
) -> TrainResult[State]:
    """`train`, ended at the first threshold (step, loss) that the best validation loss so far lies above.

    Each threshold is a training of its own up to its step, from which the next goes on: a resumed trial decides as one
    without a break.
    """
    checkpoint = run.latest()
    done = checkpoint.step if checkpoint else 0
    for step, threshold in thresholds:
        if done > step or step >= schedule.max_steps:
            continue
        result = train(process, replace(schedule, max_steps=step), run)
        losses = [row["validation_loss_nats"] for row in run.rows("eval_stats")]
        if result.status != "converged" and min(losses) > threshold:
            return replace(result, pruned_at_step=step)
    return train(process, schedule, run)


def _validate(
    process: Trainable[State], schedule: Schedule, run: Run, state: State, best: Params, progress: Progress
) -> tuple[Params, Progress]:
    row = process.validate(state)
    _finite(row, progress)
    loss = float(row["validation_loss_nats"])
    run.append("eval_stats", {"step": progress.step, **row})
    progress = replace(progress, validated_step=progress.step, last_loss_nats=loss)
    if loss < progress.best_loss_nats - schedule.min_delta:
        return process.pack(state), replace(progress, best_step=progress.step, best_loss_nats=loss, stale=0)
    stale = progress.stale + 1
    stopped = schedule.patience is not None and stale >= schedule.patience
    return best, replace(progress, stale=stale, stopped=stopped)


def _finite(row: Mapping[str, float | None], progress: Progress) -> Mapping[str, float | None]:
    """The row itself; a run whose losses or other statistics (norms of gradients) overflow has diverged."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            last = None if math.isinf(progress.best_loss_nats) else progress.best_loss_nats
            words = name.replace("_nats", "").replace("_", " ")
            raise Diverged(f"{words} is {value} at step {progress.step}", step=progress.step, last_finite=last)
    return row


def _save(
    process: Trainable[State], run: Run, state: State, best: Params, progress: Progress, scheduled: bool = True
) -> None:
    blobs = {
        "state.safetensors": to_bytes(process.pack(state)),
        "best.safetensors": to_bytes(best),
        "progress.json": json.dumps(asdict(progress)).encode(),
    }
    run.save(Checkpoint(progress.step, blobs, scheduled))


def _resume(process: Trainable[State], run: Run) -> tuple[State, Params, Progress]:
    checkpoint = run.latest()
    if checkpoint is None:
        state = process.init()
        return state, process.pack(state), Progress()
    progress = Progress(**json.loads(checkpoint.blobs["progress.json"]))
    if progress.step != checkpoint.step:
        raise CorruptFile(f"the checkpoint of step {checkpoint.step} holds the state of step {progress.step}")
    state = process.unpack(from_bytes(checkpoint.blobs["state.safetensors"]), progress.step)
    return state, from_bytes(checkpoint.blobs["best.safetensors"]), progress
