"""From a torch model to a bilevel training run in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from metascale.bilevel.levels import BoundModule, Levels, ModuleLoss, Pass, from_modules, keyed_mode
from metascale.bilevel.training import Batches, BilevelState, BilevelTraining, Evaluate, check
from metascale.core.run import MemoryRun, Run
from metascale.core.types import Params
from metascale.hypergrad.problem import HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.training import loop
from metascale.training.loop import Schedule, TrainResult
from metascale.training.torch_optimizers import from_torch

Metrics = Callable[[BoundModule, BoundModule, Any], Mapping[str, float]]
"""(lower model, upper model, batch) -> numbers of one validation batch, in evaluation mode without gradients."""


@dataclass(frozen=True)
class Data:
    """The batches of a bilevel training.

    Args:
        lower, upper: batch number -> batch, such as `Shuffled`.
        validation: the batches that select the best step; without any, upper batch 0.
    """

    lower: Batches
    upper: Batches
    validation: Sequence[Any] = ()


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
    **fields: Any,
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
    levels = _levels(model, upper, lower_loss, upper_loss)
    levels, fields = _take_over(levels, {"lower": model, "upper": upper}, fields)
    training = BilevelTraining(
        levels,
        data.lower,
        data.upper,
        method=method or SAMA(),
        evaluate=evaluator(model, upper, levels, data, metrics),
        **fields,
    )
    check(training)
    schedule = Schedule(max_steps=steps, eval_every=max(1, steps // 10)) if isinstance(steps, int) else steps
    return loop.train(training, schedule, run or MemoryRun())


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
            optimizer, states[level] = from_torch(given, module)
            fields = {**fields, f"{level}_optimizer": optimizer}
    start = levels.start
    return (replace(levels, start=lambda: replace(start(), optimizers=states)) if states else levels), fields


def evaluator(
    model: nn.Module, upper: nn.Module, levels: Levels, data: Data, metrics: Metrics | None = None
) -> Evaluate:
    """The means over the validation batches of the upper loss and of ``metrics``, in evaluation mode."""

    def evaluate(theta: Params, buffers: Params, lam: Params) -> Mapping[str, float]:
        rows = []
        for batch in data.validation or [data.upper(0)]:
            row = {}
            with torch.no_grad():
                row["loss_nats"] = float(levels.upper_loss(theta, lam, batch, Pass(None, buffers)))
                if metrics is not None:
                    assert levels.bound is not None
                    with keyed_mode((model, upper), None, theta):
                        row |= metrics(levels.bound(theta | buffers), BoundModule(upper, lam), batch)
            rows.append(row)
        return {f"validation_{name}": sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}

    return evaluate
