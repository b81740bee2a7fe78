"""Meta-training as the training loop sees it: step k trains on meta-batch k of the task source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from metascale.core.types import Model, Params, TaskSource
from metascale.meta.evaluate import Evaluation, adapted_predictor, evaluate
from metascale.meta.learner import LearnerState, MetaLearner
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import MicroBatches


@dataclass(frozen=True)
class MetaTraining:
    """A `training.loop.Trainable` over episodes.

    Args:
        model, learner, source: what is trained, how, and on which tasks.
        meta_batch: tasks an outer step.
        seed: of the initialisation.
        n_validation: fixed meta-validation tasks of each validation.
        eval_steps: inner steps at validation; ``None`` means those of training.
        eval_batch: tasks evaluated at once.
        device: where tensors live.
        execution: how the tasks of a validation run.
        micro_batches: halves the micro-batch when memory runs out, and remembers it.
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

    def init(self) -> LearnerState:
        return self.learner.init(self.model, self.seed, self.device)

    def step(self, state: LearnerState, k: int) -> tuple[LearnerState, Mapping[str, float]]:
        indices = range(k * self.meta_batch, (k + 1) * self.meta_batch)
        episode = self.source.episodes("train", indices).to(self.device)
        before = state
        state, report = self.micro_batches.attempt(
            lambda learner: learner.step(self.model, before, episode), self.learner, episode, k
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

    def validate(self, state: LearnerState) -> Mapping[str, float]:
        steps = self.learner.gradient.inner.steps if self.eval_steps is None else self.eval_steps

        def measure(learner: MetaLearner) -> Evaluation:
            return evaluate(
                adapted_predictor(self.model, learner.gradient.inner, state.params, [steps]),
                self.source,
                "validation",
                self.n_validation,
                batch=self.eval_batch,
                execution=self.execution,
                device=self.device,
            )

        first = self.source.episodes("validation", range(1))
        result = self.micro_batches.attempt(measure, self.learner, first, state.step)
        return {f"validation_{name}": value for name, value in result.at(steps).items()}

    def pack(self, state: LearnerState) -> Params:
        tensors = {f"params/{name}": value for name, value in state.params.items()}
        for slot, values in state.optimizer.items():
            tensors |= {f"optimizer/{slot}/{name}": value for name, value in values.items()}
        return tensors

    def unpack(self, tensors: Params, k: int) -> LearnerState:
        params: Params = {}
        optimizer: dict[str, Params] = {slot: {} for slot in self.learner.outer.init({})}  # some may hold no tensor
        for key, value in tensors.items():
            kind, rest = key.split("/", 1)
            if kind == "params":
                params[rest] = value.to(self.device)
            else:
                slot, name = rest.split("/", 1)
                optimizer.setdefault(slot, {})[name] = value if slot == "count" else value.to(self.device)
        # The order of names is part of the arithmetic (sums over tensors): take the model's own, as at the start.
        order = self.learner.gradient.inner.init(self.model.init(self.seed))
        params = {name: params[name] for name in order}
        optimizer = {
            slot: {name: values[name] for name in order if name in values} or values
            for slot, values in optimizer.items()
        }
        return LearnerState(k, params, optimizer)
