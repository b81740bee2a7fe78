"""Models and tasks that the meta-gradient contract runs on: one with closed forms, one smooth with dropout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from metascale.core.dropout import DropoutMasks
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Episode, Params, TaskExecution


class _Subject(ABC):
    """What the two models have in common as an `OutputModel`."""

    @abstractmethod
    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor: ...

    @abstractmethod
    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor: ...

    def begin(self, params: Params, support: Batch) -> Params:
        return params

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        return self.output_losses(self.predict(params, batch, dropout), batch)

    @property
    def task_execution(self) -> TaskExecution:
        return "stacked"

    def require_second_order(self) -> None:
        return None


@dataclass(frozen=True)
class QuadraticModel(_Subject):
    """θ in R^d and the loss ½‖θ − c‖² with c the mean of the batch's targets [T, B, d].

    K inner SGD steps of rate a leave θ_K − c = (1−a)^K (θ − c), so the meta-gradient is (θ − c) times
    (1−a)^{2K} for MAML, (1−a)^K for first-order MAML and 1−(1−a)^K for Reptile (as θ − φ), and (λ/(1+λ))² for implicit
    MAML of proximal strength λ at its solution.
    """

    n_dimensions: int
    dtype: torch.dtype = torch.float64

    def init(self, seed: int) -> Params:
        generator = torch_generator(seed, "init", "theta")
        return {"theta": torch.randn(self.n_dimensions, generator=generator, dtype=self.dtype)}

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """½‖mean output − c‖² [T]: the same curvature 1 through the outputs as in θ."""
        centre = batch.targets.to(self.dtype).mean(1)
        return 0.5 * (outputs.mean(1) - centre).square().sum(1)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        return params["theta"].unsqueeze(1).expand(-1, batch.n_examples, -1)

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        return self.predict(params, batch)


def quadratic_episode(n_tasks: int, n_dimensions: int, seed: int = 0) -> Episode:
    """Tasks of the loss ½‖θ − c‖², with one random centre c for both sets of a task."""
    generator = torch_generator(seed, "contract", "centres")
    centres = torch.randn(n_tasks, 1, n_dimensions, dtype=torch.float64, generator=generator)
    batch = Batch({"x": torch.zeros(n_tasks, 1, 1, dtype=torch.float64)}, centres)
    return Episode(tuple(f"task{task}" for task in range(n_tasks)), batch, batch)


@dataclass(frozen=True)
class SmoothClassifier(_Subject):
    """A perceptron with one tanh layer and dropout, for T tasks: inputs ``x`` [T, B, 5], 3 classes."""

    n_inputs: int = 5
    width: int = 6
    n_classes: int = 3
    dropout_rate: float = 0.2

    def init(self, seed: int) -> Params:
        def draw(name: str, *shape: int) -> torch.Tensor:
            noise = torch.randn(shape, dtype=torch.float64, generator=torch_generator(seed, "init", name))
            return noise * float(shape[0] ** -0.5)

        return {
            "hidden.weight": draw("hidden.weight", self.n_inputs, self.width),
            "hidden.bias": 0.1 * draw("hidden.bias", self.width),
            "head.weight": draw("head.weight", self.width, self.n_classes),
        }

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses = F.cross_entropy(outputs.flatten(0, 1), batch.targets.flatten(), reduction="none")
        return losses.view(batch.targets.shape).mean(1)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        hidden = self.features(params, batch)
        if dropout is not None:
            masks = DropoutMasks.of(batch, self.dropout_rate, dropout)
            hidden = hidden * masks(hidden.flatten(0, 1), "hidden").view(hidden.shape)
        return torch.bmm(hidden, params["head.weight"])

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        return torch.tanh(torch.baddbmm(params["hidden.bias"].unsqueeze(1), batch.inputs["x"], params["hidden.weight"]))

    def episode(self, n_tasks: int, seed: int = 0) -> Episode:
        """Random support and query sets of ``n_tasks`` tasks."""

        def batch(name: str, n_examples: int) -> Batch:
            generator = torch_generator(seed, "contract", name)
            shape = (n_tasks, n_examples, self.n_inputs)
            inputs = torch.randn(shape, dtype=torch.float64, generator=generator)
            targets = torch.randint(0, self.n_classes, shape[:2], generator=generator)
            return Batch({"x": inputs}, targets)

        return Episode(tuple(f"task{task}" for task in range(n_tasks)), batch("support", 6), batch("query", 9))
