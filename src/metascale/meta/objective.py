"""A model's loss on one batch as weighted micro-batches: what gradients and curvature are taken of."""

from __future__ import annotations

from typing import cast

import torch

from metascale.core.errors import InputError
from metascale.core.types import Batch, Model, OutputModel, Params
from metascale.hypergrad.hvp import LossPart


def loss_parts(model: Model, batch: Batch, micro_batch: int | None, dropout: int | None) -> tuple[LossPart, ...]:
    """The mean loss of each task on ``batch``, in parts of at most ``micro_batch`` examples with exact weights.

    Args:
        micro_batch: examples a forward pass; ``None`` means all of them.
        dropout: names the masks, which are those of the whole batch in every part.

    Raises:
        InputError: micro-batches of a model with batch statistics, whose loss they would change.
    """
    size = micro_batch or batch.n_examples
    if size >= batch.n_examples:
        return (_part(model, batch, 1.0, dropout),)
    if getattr(model, "batch_statistics", False):
        raise InputError(
            f"micro_batch={size} would change the loss of a model with batch statistics ({type(model).__name__}); "
            "leave it out"
        )
    whole = batch.numbered()
    starts = range(0, batch.n_examples, size)
    cut = [whole.examples(start, min(start + size, batch.n_examples)) for start in starts]
    return tuple(_part(model, part, part.n_examples / batch.n_examples, dropout) for part in cut)


def _part(model: Model, batch: Batch, weight: float, dropout: int | None) -> LossPart:
    has_outputs = hasattr(model, "output_losses")
    outputs_model = cast(OutputModel, model)

    def losses(params: Params) -> torch.Tensor:
        return model.losses(params, batch, dropout)

    def outputs(params: Params) -> torch.Tensor:
        return outputs_model.predict(params, batch, dropout)

    def output_losses(values: torch.Tensor) -> torch.Tensor:
        return outputs_model.output_losses(values, batch)

    def example_losses(params: Params) -> torch.Tensor:
        """Every example as a task of its own: as many numbers in the same order, so the dropout masks stay."""
        return model.losses(params, batch.map(lambda value: value.flatten(0, 1).unsqueeze(1)), dropout)

    return LossPart(
        losses,
        weight,
        outputs if has_outputs else None,
        output_losses if has_outputs else None,
        None if getattr(model, "batch_statistics", False) else example_losses,
        batch.n_examples,
    )
