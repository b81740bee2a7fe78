"""CAVIA: a few context numbers adapt to a task, the network does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch

from metascale.core.errors import InputError
from metascale.core.types import Batch, Model, OutputModel, Params, TaskExecution

CONTEXT = "context"


@dataclass(frozen=True)
class WithContext:
    """A `Model` that reads a context vector beside every flattened input; it starts each task at zero.

    With ``InnerLoop(adapt=("context",))`` and MAML this is CAVIA (Zintgraf et al. 2019, arXiv 1810.03642, eqs. 3 and
    4): the inner loop moves the context alone, the outer loop the network alone.

    Args:
        model: reads inputs ``x`` [T, B, d + n_context].
        n_context: numbers of the context.
    """

    model: Model
    n_context: int

    def __post_init__(self) -> None:
        if self.n_context < 1:
            raise InputError(f"a context has at least one number, not {self.n_context}", field="n_context")

    @property
    def task_execution(self) -> TaskExecution:
        return self.model.task_execution

    @property
    def batch_statistics(self) -> bool:
        return bool(getattr(self.model, "batch_statistics", False))

    @property
    def own_loss(self) -> bool:
        return bool(getattr(self.model, "own_loss", False))

    @property
    def loss(self) -> object:
        """The name of the model's loss, or the loss, where it says so."""
        return getattr(self.model, "loss", None)

    @property
    def output_losses(self) -> Callable[[torch.Tensor, Batch], torch.Tensor]:
        """The model's own, where it has one."""
        return cast(OutputModel, self.model).output_losses

    def at_step(self, step: int) -> WithContext:
        """With the model as an inner step sees it (`Module.at_step`)."""
        moves = getattr(self.model, "at_step", None)
        return self if moves is None else replace(self, model=moves(step))

    def require_second_order(self) -> None:
        self.model.require_second_order()

    def init(self, seed: int) -> Params:
        """The model's own: the context is no meta-parameter."""
        return self.model.init(seed)

    def begin(self, params: Params, support: Batch) -> Params:
        """The model's start, and a context of zeros [T, n_context]."""
        begun = self.model.begin(params, self._widened(_zeros(params, support, self.n_context), support))
        return {**begun, CONTEXT: _zeros(params, support, self.n_context)}

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean losses of the model."""
        return self.model.losses(_without(params), self._widened(params[CONTEXT], batch), dropout)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, ...] predictions of the model; with dropout where its ``predict`` takes it."""
        masks = {} if dropout is None else {"dropout": dropout}
        return cast(OutputModel, self.model).predict(_without(params), self._widened(params[CONTEXT], batch), **masks)

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] features of the model; with a context of zeros where there is none yet."""
        context = params.get(CONTEXT, _zeros(params, batch, self.n_context))
        return self.model.features(_without(params), self._widened(context, batch))

    def _widened(self, context: torch.Tensor, batch: Batch) -> Batch:
        x = batch.inputs["x"].flatten(2)
        beside = context.unsqueeze(1).expand(-1, x.shape[1], -1).to(x.dtype)
        return replace(batch, inputs={**batch.inputs, "x": torch.cat([x, beside], dim=2)})


def _zeros(params: Params, batch: Batch, n_context: int) -> torch.Tensor:
    return next(iter(params.values())).new_zeros(batch.n_tasks, n_context)


def _without(params: Params) -> Params:
    return {name: value for name, value in params.items() if name != CONTEXT}
