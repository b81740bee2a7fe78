"""Supervised training: a `Trainable` over batches, and the evaluation of its models."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
import torch.nn.functional as F

from metascale.core.columns import IGNORED
from metascale.core.dropout import dropout_key
from metascale.core.errors import Diverged, InputError
from metascale.core.run import Run
from metascale.core.trees import require_grad, to
from metascale.core.types import Batch, Params, Split
from metascale.training.loop import Schedule, TrainResult, train
from metascale.training.optimizers import Optimizer
from metascale.training.schedules import Constant, RateSchedule
from metascale.training.state import TrainState

Measure = Literal["perplexity", "accuracy"]


class SupervisedModel(Protocol):
    """A model of one task: parameters and batches carry no task axis."""

    def init(self, seed: int) -> Params: ...

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What training minimises (the mean loss plus penalties), and every target's nats without history."""
        ...

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        """Nats of every target, shaped like the targets. Evaluation: no dropout, no history."""
        ...

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """Logits [..., classes]. Evaluation: no dropout."""
        ...


class Examples(Protocol):
    """Where batches come from: pure functions of their arguments."""

    def batch(self, step: int) -> Batch: ...

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        """Every target of ``split`` once, or the first ``max_batches`` batches of them."""
        ...


@dataclass(frozen=True)
class SupervisedTraining:
    """A `training.loop.Trainable` over batches.

    Args:
        rate: factor of the learning rate at every step.
        rate_multipliers: factor of the learning rate of single parameters (μP), by name; ``None``: 1 for all.
        clip_norm: largest Euclidean norm of the gradient over all parameters; ``None``: no clipping.
        seed: of the initialisation and the dropout masks.
        measure: recorded beside the loss: ``"perplexity"`` a token of the examples' vocabulary, or ``"accuracy"``.
        max_validation_batches: ``None``: validate on every validation target.
        autocast: run the model in bfloat16 where that is safe (a GPU); losses and weights stay float32.
    """

    model: SupervisedModel
    examples: Examples
    optimizer: Optimizer
    rate: RateSchedule = field(default_factory=Constant)
    rate_multipliers: Mapping[str, float] | None = None
    clip_norm: float | None = 1.0
    seed: int = 0
    measure: Measure = "perplexity"
    max_validation_batches: int | None = None
    autocast: bool = False
    device: str = "cpu"

    def init(self) -> TrainState:
        params = to(self.model.init(self.seed), self.device)
        if self.rate_multipliers is not None and set(self.rate_multipliers) != set(params):
            odd = sorted(set(self.rate_multipliers) ^ set(params))
            raise InputError(f"rate_multipliers must name every parameter and nothing else; differing: {odd[:5]}")
        return TrainState(0, params, self.optimizer.init(params))

    def step(self, state: TrainState, k: int) -> tuple[TrainState, Mapping[str, float]]:
        batch = self.examples.batch(k).to(self.device)
        leaves = require_grad(state.params)
        with self._precision():
            loss, losses = self.model.objective(leaves, batch, self.dropout_at(k))
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        norm = float(torch.nn.utils.get_total_norm(list(grads.values())))
        counted = batch.targets != IGNORED
        nats = float(losses.double().sum() / counted.sum())
        return self.advance(state, k, grads, nats, float(loss.detach()), norm)

    def dropout_at(self, k: int) -> int:
        """The key of the dropout masks of step k."""
        return dropout_key(self.seed, "dropout of step", k, bits=63)

    def advance(
        self, state: TrainState, k: int, grads: Params, nats: float, objective: float, norm: float
    ) -> tuple[TrainState, Mapping[str, float]]:
        """Step k from its gradient: clipping, the optimiser, and the row of the training record.

        Args:
            grads: before clipping; their Euclidean norm is ``norm``.
            nats: mean loss of the batch's targets.

        Raises:
            Diverged: the objective or the norm is not finite; the state is untouched.
        """
        if not math.isfinite(objective + norm):
            raise Diverged(f"training loss is {objective}, its gradient's norm {norm}, at step {k}", step=k)
        if self.clip_norm is not None and norm > self.clip_norm:
            # Not in place, since autograd may give two names one tensor.
            grads = {name: value * (self.clip_norm / norm) for name, value in grads.items()}
        factor = self.rate(k)
        params, optimizer = self.optimizer.update(state.params, grads, state.optimizer, self._rates(factor))
        row = {"training_loss_nats": nats, "objective": objective, "gradient_norm": norm, "rate_factor": factor}
        return TrainState(k + 1, params, optimizer), row

    def _rates(self, factor: float) -> float | Params:
        if self.rate_multipliers is None:
            return factor
        return {name: torch.tensor(factor * value) for name, value in self.rate_multipliers.items()}

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16) if self.autocast else nullcontext()

    def validate(self, state: TrainState) -> Mapping[str, float]:
        return self.evaluate(state.params, "validation", self.max_validation_batches)

    def evaluate(self, params: Params, split: Split, max_batches: int | None = None) -> dict[str, float]:
        """Mean loss and measure over every target of ``split`` (or of its first batches), never with dropout."""
        total_nats, n_right, n_targets = 0.0, 0, 0
        for batch in self.examples.evaluation(split, max_batches):
            on_device = batch.to(self.device)
            with torch.no_grad(), self._precision():
                if self.measure == "perplexity":
                    losses = self.model.losses(params, on_device)
                else:
                    logits = self.model.predict(params, on_device).float()
                    losses = F.cross_entropy(logits, on_device.targets, reduction="none")
                    n_right += int((logits.argmax(-1) == on_device.targets).sum())
            total_nats += float(losses.double().sum())
            n_targets += int((on_device.targets != IGNORED).sum())
        if not n_targets:
            raise InputError(f"the {split} split holds no targets")
        loss = total_nats / n_targets
        result = {f"{split}_loss_nats": loss, f"{split}_targets": n_targets}
        if self.measure == "accuracy":
            return result | {f"{split}_accuracy": n_right / n_targets}
        return result | {f"{split}_perplexity": math.exp(loss) if loss < 700 else math.inf}

    def pack(self, state: TrainState) -> Params:
        """Copies, since the next step may overwrite the originals."""
        return {name: value.clone() for name, value in state.pack().items()}

    def unpack(self, tensors: Params, k: int) -> TrainState:
        with torch.device("meta"):
            params = self.model.init(self.seed)
            like = TrainState(k, params, self.optimizer.init(params))
        return like.unpack(tensors, self.device, copy=True)


@dataclass(frozen=True)
class SupervisedResult:
    """``validation`` and ``test`` hold the losses and measures of the selected state."""

    training: TrainResult[TrainState]
    validation: dict[str, float]
    test: dict[str, float]

    def row(self) -> dict[str, float | str]:
        """Columns of a trial's results; how many targets there were is left out."""
        counts = ("validation_targets", "test_targets")
        measured = {name: value for name, value in {**self.validation, **self.test}.items() if name not in counts}
        return {**self.training.row(), **measured}


def train_and_test(process: SupervisedTraining, schedule: Schedule, run: Run) -> SupervisedResult:
    """Train, select the state of the lowest validation loss, and only then evaluate it on the test set, once.

    Both results are written to the run as ``test.json``; the validation numbers are those of the whole validation set,
    even where ``max_validation_batches`` limited validation during training.
    """
    trained = train(process, schedule, run)
    validation = process.evaluate(trained.state.params, "validation")
    test = process.evaluate(trained.state.params, "test")
    run.write("test.json", {"step": trained.kept_step, **validation, **test})
    return SupervisedResult(trained, validation, test)
