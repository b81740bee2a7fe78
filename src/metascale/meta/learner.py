"""The learner: estimate a meta-gradient chunk by chunk, then apply it with an outer optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.streams import address
from metascale.core.trees import add, is_finite, norm, scale, stack_tasks
from metascale.core.types import Batch, Episode, Model, Params
from metascale.meta.evaluate import Predictor, adapted_predictor
from metascale.meta.gradients import EpisodeReport, MetaGradient, PerTask, ends, mean_of, with_inner
from metascale.meta.inner import join_loops, joins_tasks, kind_of
from metascale.meta.reverse import KEYLESS
from metascale.parallel.execution import Execution
from metascale.parallel.stacked import join_episodes, join_params
from metascale.training.optimizers import SGD, Optimizer, clip_norm, refuse_overwriting
from metascale.training.schedules import Constant, RateSchedule
from metascale.training.state import TrainState


@dataclass(frozen=True, slots=True)
class StepReport(EpisodeReport):
    """The losses of all T tasks of an outer step, and the norm of the meta-gradient before clipping."""

    meta_gradient_norm: float = field(kw_only=True)


@dataclass(frozen=True)
class MetaLearner:
    """A meta-gradient, an outer optimiser, and how tasks are run.

    Args:
        gradient: the estimator; it holds the inner loop.
        outer: the outer optimiser. Reptile's interpolation rate ε is ``SGD(lr=ε)``.
        clip: largest norm of the meta-gradient, or ``None``.
        execution: chunks, threads and processes.
        seed: names the dropout masks of training.
        rate: factor of the outer rate at every outer step.

    Raises:
        InputError: a clip that is not positive, or an outer optimiser that overwrites what it is given.
    """

    gradient: MetaGradient
    outer: Optimizer = field(default_factory=lambda: SGD(lr=0.1))
    clip: float | None = None
    execution: Execution = field(default_factory=Execution)
    seed: int = 0
    rate: RateSchedule = field(default_factory=Constant)

    def __post_init__(self) -> None:
        refuse_overwriting(self.outer, "an outer loop")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"clip of the learner must be positive, not {self.clip}", field="clip")

    @property
    def micro_batch(self) -> int | None:
        """Examples of a task in one forward pass; ``None``: all of them."""
        return self.gradient.inner.micro_batch

    def with_execution(self, execution: Execution) -> MetaLearner:
        return replace(self, execution=execution)

    def with_micro_batch(self, size: int | None) -> MetaLearner:
        inner = replace(self.gradient.inner, micro_batch=size)
        return replace(self, gradient=with_inner(self.gradient, inner))

    def map_optimizers(self, change: Callable[[Optimizer], Optimizer]) -> MetaLearner:
        """The same learner with ``change`` applied to its inner and its outer optimiser."""
        inner = replace(self.gradient.inner, optimizer=change(self.gradient.inner.optimizer))
        return replace(self, gradient=with_inner(self.gradient, inner), outer=change(self.outer))

    def init(self, model: Model, seed: int, device: str = "cpu") -> TrainState:
        """θ from the model's initialisation of that seed."""
        own = {name: value.to(device) for name, value in model.init(seed).items()}
        params = self.gradient.inner.init(own)
        return TrainState(0, params, self.outer.init(params))

    def step(self, model: Model, state: TrainState, episode: Episode) -> tuple[TrainState, StepReport]:
        """One outer step on a meta-batch.

        Raises:
            Diverged: a loss or the meta-gradient is not finite; names the step and the tasks.
        """
        key = address(self.seed, "meta-batch", state.step) & (2**62 - 1)
        total, report = self._at(state.step).meta_gradient(model, state.params, episode, key)
        _refuse_non_finite(total, report, state.step)
        if self.clip is not None:
            total = clip_norm(total, self.clip)
        params, optimizer = self.outer.update(state.params, total, state.optimizer, self.rate(state.step))
        return TrainState(state.step + 1, params, optimizer), report

    def _at(self, step: int) -> MetaLearner:
        """The learner of an outer step, where its estimator changes with it."""
        moves = getattr(self.gradient, "at", None)
        return self if moves is None else replace(self, gradient=moves(step))

    def meta_gradient(
        self, model: Model, params: Params, episode: Episode, key: int | None = None
    ) -> tuple[Params, StepReport]:
        """The mean meta-gradient of a meta-batch before clipping, shaped like θ, and its report.

        Args:
            params: θ, unstacked.
            key: names the dropout masks; ``None``: no dropout.

        Raises:
            InputError: the tasks cannot run as `execution` says.
        """
        estimate = _Estimate(self.gradient, model, params, key)
        results = self.execution.map(estimate, episode.numbered())
        total: Params | None = None
        for grads, chunk in results:  # task order: the sum does not depend on who was first
            share = scale(grads, len(chunk.task_ids) / episode.n_tasks)
            total = share if total is None else add(total, share)
        assert total is not None
        return total, _join([chunk for _, chunk in results], float(norm(total)))

    def adapt(self, model: Model, params: Params, support: Batch, steps: int | None = None) -> Params:
        """Adapted parameters φ [T, ...] after ``steps`` inner steps (default: those of training); no dropout."""
        states = self.gradient.inner.iterate(model, stack_tasks(params, support.n_tasks), support, steps=steps)
        _, last, _ = ends(states)
        return last.params

    def predictor(self, model: Model, state: TrainState, steps: int | None = None) -> Predictor:
        """What `evaluate` takes: predictions after ``steps`` inner steps (default: those of training)."""
        inner = self.gradient.inner
        return adapted_predictor(model, inner, state.params, [inner.steps if steps is None else steps])


@dataclass(frozen=True, slots=True)
class _Estimate:
    """The meta-gradient of a chunk of tasks, as an object that processes can load."""

    gradient: MetaGradient
    model: Model
    params: Params
    key: int | None

    def __call__(self, part: Episode, start: int) -> tuple[Params, EpisodeReport]:
        return self.gradient(self.model, self.params, part, self.key)

    def kind(self, part: Episode) -> object:
        loop = kind_of(self.gradient.inner)
        if loop is None or not (isinstance(self.gradient, PerTask) and joins_tasks(self.model)):
            return None
        through = getattr(self.gradient, "through", None)
        if not (through is None or isinstance(through, KEYLESS)):
            return None
        return with_inner(self.gradient, loop), self.model

    def together(self, functions: Sequence[_Estimate], parts: Sequence[Episode]) -> list[tuple[Params, EpisodeReport]]:
        counts = [part.n_tasks for part in parts]
        inner = join_loops([function.gradient.inner for function in functions], counts)
        params = join_params([function.params for function in functions], counts)
        gradient = cast(PerTask, with_inner(self.gradient, inner))
        grads, report = gradient.per_task(self.model, params, join_episodes(parts), None)
        split = {name: value.split(counts) for name, value in grads.items()}
        return [
            mean_of(({name: values[index] for name, values in split.items()}, own))
            for index, own in enumerate(report.parts(counts))
        ]


def _join(reports: list[EpisodeReport], meta_gradient_norm: float) -> StepReport:
    query = [report.query_loss for report in reports if report.query_loss is not None]
    names = reports[0].diagnostics
    return StepReport(
        tuple(name for report in reports for name in report.task_ids),
        torch.cat([report.support_loss_start for report in reports]),
        torch.cat([report.support_loss_end for report in reports]),
        torch.cat(query) if query else None,
        {name: torch.cat([report.diagnostics[name] for report in reports]) for name in names},
        meta_gradient_norm=meta_gradient_norm,
    )


def _refuse_non_finite(grads: Params, report: StepReport, step: int) -> None:
    watched = report.support_loss_end if report.query_loss is None else report.query_loss
    bad = ~torch.isfinite(watched)
    if report.query_loss is None and torch.isnan(report.support_loss_end).all() and is_finite(grads):
        return  # an inner loop of zero steps has no support loss to watch
    if bool(bad.any()):
        names = tuple(name for name, is_bad in zip(report.task_ids, bad.tolist(), strict=True) if is_bad)
        raise Diverged(
            f"the loss of task(s) {', '.join(names)} is not finite at outer step {step}; lower the inner or outer rate",
            step=step,
            task_ids=names,
        )
    if not is_finite(grads):
        raise Diverged(f"the meta-gradient is not finite at outer step {step}", step=step, task_ids=report.task_ids)
