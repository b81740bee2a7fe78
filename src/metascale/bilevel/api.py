"""From a torch model to a bilevel training run in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import nn
from torch.utils.data import DataLoader

from metascale.bilevel.batches import Loaded
from metascale.bilevel.distributed import Processes
from metascale.bilevel.levels import (
    BoundModule,
    Levels,
    ModuleLoss,
    Pass,
    from_modules,
    keyed_mode,
    split_buffers,
)
from metascale.bilevel.training import Batches, BilevelState, BilevelTraining, Evaluate, check
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun, Run
from metascale.core.types import Params
from metascale.hypergrad.problem import HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.training import loop
from metascale.training.loop import Schedule, TrainResult
from metascale.training.optimizers import Optimizer
from metascale.training.schedules import RateSchedule
from metascale.training.torch_optimizers import from_torch

if TYPE_CHECKING:
    from typing_extensions import Unpack

Metrics = Callable[[BoundModule, BoundModule, Any], Mapping[str, float]]
"""(lower model, upper model, batch) -> numbers of one validation batch, in evaluation mode without gradients."""


@dataclass(frozen=True)
class Data:
    """The batches of a bilevel training.

    Args:
        lower, upper: batch number -> batch, such as `Shuffled`; or a DataLoader with a length, as `Loaded` reads it.
        validation: the batches that select the best step; without any, upper batch 0.
    """

    lower: Batches | DataLoader[Any]
    upper: Batches | DataLoader[Any]
    validation: Sequence[Any] | DataLoader[Any] = ()


class TrainingFields(TypedDict, total=False):
    """The fields of `BilevelTraining` that `train` passes on; optimisers may be torch's."""

    lower_optimizer: Optimizer | torch.optim.Optimizer
    upper_optimizer: Optimizer | torch.optim.Optimizer
    unroll_steps: int
    lower_accumulation: int
    upper_accumulation: int
    lower_max_norm: float | None
    upper_max_norm: float | None
    lower_schedule: RateSchedule | None
    upper_schedule: RateSchedule | None
    accumulate_by: Callable[[Any], float | torch.Tensor] | None
    roll_back: bool
    learn_upper: bool
    warmup: int
    autocast: torch.dtype | None
    upper_dropout: bool
    seed: int
    processes: Processes


def train(
    model: nn.Module,
    *,
    upper: nn.Module,
    lower_loss: ModuleLoss,
    upper_loss: ModuleLoss,
    data: Data,
    method: HypergradientSolver | None = None,
    steps: int | Schedule = 1000,
    metrics: Metrics | None = None,
    run: Run | None = None,
    **fields: Unpack[TrainingFields],
) -> TrainResult[BilevelState]:
    """Train ``model`` on ``lower_loss`` while ``upper`` learns from ``upper_loss``; both end with the best weights.

    Args:
        model, upper: the modules of the two levels.
        lower_loss, upper_loss: (lower model, upper model, batch) -> a scalar.
        method: how the hypergradient is estimated; `SAMA` where ``None``.
        steps: upper steps, or a whole `training.loop.Schedule`.
        metrics: further numbers of a validation batch. Their means are recorded as ``validation_<name>``; the upper
            loss is ``validation_loss_nats`` unless they bring their own ``loss_nats``.
        run: where records and checkpoints go; in memory where ``None``. Called again with the same run, it resumes.
        fields: of `BilevelTraining`: optimisers, ``unroll_steps``, clipping, ``autocast``, ... A torch.optim optimiser
            of the module is taken over with its state.

    Raises:
        InputError: a field is invalid, or `training.check` refuses the problem.
        Diverged: a number is not finite.
    """
    seed = fields.get("seed", 0)
    lower_batches, upper_batches = _batches(data.lower, "lower", seed), _batches(data.upper, "upper", seed)
    with _modes_kept(model, upper):
        levels = _levels(model, upper, lower_loss, upper_loss)
        levels, own = _take_over(levels, {"lower": model, "upper": upper}, dict(fields))
        validation = data.validation or [upper_batches(0)]
        training = BilevelTraining(
            levels,
            lower_batches,
            upper_batches,
            method=method or SAMA(),
            evaluate=evaluator(model, upper, levels, validation, metrics),
            **own,
        )
        check(training)
        schedule = Schedule(max_steps=steps, eval_every=max(1, steps // 10)) if isinstance(steps, int) else steps
        return loop.train(training, schedule, run or MemoryRun())


def _batches(given: Batches | DataLoader[Any], level: str, seed: int) -> Batches:
    return Loaded(given, seed, level) if isinstance(given, DataLoader) else given


@contextmanager
def _modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Afterwards every part is in the mode it was in, so that frozen parts are known in a further training."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _levels(model: nn.Module, upper: nn.Module, lower_loss: ModuleLoss, upper_loss: ModuleLoss) -> Levels:
    """`from_modules`, or `wrapped.from_wrapped` where the model reduces its gradients itself."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from metascale.bilevel.wrapped import from_wrapped, is_wrapped

        if is_wrapped(model):
            return from_wrapped(model, upper, lower_loss, upper_loss)
    return from_modules(model, upper, lower_loss, upper_loss)


def _take_over(
    levels: Levels, modules: Mapping[str, nn.Module], fields: dict[str, Any]
) -> tuple[Levels, dict[str, Any]]:
    """Torch optimisers among the fields replaced by ours; training starts from their states."""
    states = {}
    for level, module in modules.items():
        given = fields.get(f"{level}_optimizer")
        if isinstance(given, torch.optim.Optimizer):
            if any("initial_lr" in group for group in given.param_groups):
                raise InputError(
                    f"the {level} torch.optim.{type(given).__name__} has a learning-rate scheduler, which nothing "
                    f"would step here: leave it off and give {level}_schedule=, such as metascale.training.Cosine(...)",
                    field=f"{level}_optimizer",
                )
            optimizer, states[level] = from_torch(given, module)
            fields = {**fields, f"{level}_optimizer": optimizer}
    start = levels.start
    return (replace(levels, start=lambda: replace(start(), optimizers=states)) if states else levels), fields


def evaluator(
    model: nn.Module,
    upper: nn.Module,
    levels: Levels,
    batches: Iterable[Any],
    metrics: Metrics | None = None,
) -> Evaluate:
    """The means over ``batches`` of the upper loss and of ``metrics``, in evaluation mode."""

    def evaluate(theta: Params, buffers: Params, lam: Params) -> Mapping[str, float]:
        rows = []
        for batch in batches:
            row = {}
            with torch.no_grad():
                row["loss_nats"] = float(levels.upper_loss(theta, lam, batch, Pass(None, buffers)))
                if metrics is not None:
                    assert levels.bound is not None
                    with keyed_mode((model, upper), None, theta):
                        own, kept = split_buffers(buffers)
                        row |= metrics(levels.bound(theta | own), BoundModule(upper, lam | kept), batch)
            rows.append(row)
        return {f"validation_{name}": sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}

    return evaluate
