"""A model of many tasks used for one: ordinary supervised training of the meta-learning models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Model, Params
from metascale.models.objectives import squared_errors


@dataclass(frozen=True)
class OneTask:
    """A `Model` with T = 1 behind the interface of supervised models: tensors carry no task axis.

    Targets are classes (cross-entropy) or real values (squared error), as the model's own loss has them.

    Raises:
        InputError: a model that normalises by the batch at hand in evaluation too, as `ConvNet` does: its test numbers
            would depend on how the test set is cut into batches.
    """

    model: Model

    def __post_init__(self) -> None:
        if getattr(self.model, "batch_statistics", False):
            raise InputError(
                f"{type(self.model).__name__} takes the statistics of the evaluated batch, so it has no test loss of "
                "its own; use ConvClassifier or ResNet for supervised training"
            )

    def init(self, seed: int) -> Params:
        return self.model.init(seed)

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's mean loss, and every example's without history (of a second, dropout-free pass)."""
        stacked, one = self._stacked(params, batch)
        return self.model.losses(stacked, one, dropout)[0], self.losses(params, batch)

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B]."""
        with torch.no_grad():
            outputs = self.predict(params, batch)
            if batch.targets.is_floating_point():
                return squared_errors(outputs, batch.targets).flatten(1).mean(1)
            return F.cross_entropy(outputs, batch.targets, reduction="none")

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B, outputs]."""
        return self.model.predict(*self._stacked(params, batch))[0]

    def _stacked(self, params: Params, batch: Batch) -> tuple[Params, Batch]:
        return stack_tasks(params, 1), batch.map(lambda value: value.unsqueeze(0))
