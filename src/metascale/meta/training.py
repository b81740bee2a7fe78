"""Meta-training: a `Trainable` whose step k trains on meta-batch k of the task source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from metascale.core.types import Model, Params, TaskSource
from metascale.meta.evaluate import Evaluation, adapted_predictor, evaluate
from metascale.meta.learner import MetaLearner
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import MicroBatches
from metascale.training.state import TrainState


@dataclass(frozen=True)
class MetaTraining:
    """A `training.loop.Trainable` over episodes.

    Args:
        meta_batch: tasks an outer step.
        seed: of the initialisation.
        n_validation: fixed meta-validation tasks of each validation.
        eval_steps: inner steps at validation; ``None`` means those of training.
        eval_batch: tasks evaluated at once.
        execution: how the tasks of a validation run.
        micro_batches: halves the micro-batch when memory runs out.
    """

    model: Model
    learner: MetaLearner
    source: TaskSource
    meta_batch: int = 4
    seed: int = 0
    n_validation: int = 50
    eval_steps: int | None = None
    eval_batch: int = 8
    device: str = "cpu"
    execution: Execution = field(default_factory=Execution)
    micro_batches: MicroBatches = field(default_factory=MicroBatches)

    def init(self) -> TrainState:
        return self.learner.init(self.model, self.seed, self.device)

    def step(self, state: TrainState, k: int) -> tuple[TrainState, Mapping[str, float]]:
        indices = range(k * self.meta_batch, (k + 1) * self.meta_batch)
        episode = self.source.episodes("train", indices).to(self.device)
        before = state
        state, report = self.micro_batches.attempt(
            lambda size: self.learner.with_micro_batch(size).step(self.model, before, episode),
            self.learner.micro_batch,
            episode,
            k,
        )
        row = {"meta_gradient_norm": report.meta_gradient_norm}
        if self.learner.gradient.inner.steps:
            row["support_loss_start_nats"] = float(report.support_loss_start.mean())
            row["support_loss_end_nats"] = float(report.support_loss_end.mean())
        if report.query_loss is not None:
            row["query_loss_nats"] = float(report.query_loss.mean())
            spread = report.query_loss.std() if len(report.task_ids) > 1 else torch.zeros(())
            row["query_loss_std_nats"] = float(spread)
        row |= {name: float(value.mean()) for name, value in report.diagnostics.items()}
        return state, row

    def validate(self, state: TrainState) -> Mapping[str, float]:
        steps = self.learner.gradient.inner.steps if self.eval_steps is None else self.eval_steps

        def measure(micro_batch: int | None) -> Evaluation:
            inner = replace(self.learner.gradient.inner, micro_batch=micro_batch)
            return evaluate(
                adapted_predictor(self.model, inner, state.params, [steps]),
                self.source,
                "validation",
                self.n_validation,
                batch=self.eval_batch,
                execution=self.execution,
                device=self.device,
            )

        first = self.source.episodes("validation", range(1))
        result = self.micro_batches.attempt(measure, self.learner.micro_batch, first, state.step)
        return {f"validation_{name}": value for name, value in result.at(steps).items()}

    def pack(self, state: TrainState) -> Params:
        return state.pack()

    def unpack(self, tensors: Params, k: int) -> TrainState:
        return replace(self.init(), step=k).unpack(tensors)
