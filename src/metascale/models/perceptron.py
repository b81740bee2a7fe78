"""A multilayer perceptron, for one task or for many at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F

from metascale.core.dropout import mask_like
from metascale.core.types import Batch, Params
from metascale.models.network import HeadStart, Network, check_rates, check_sizes, refuse_head, squared_error_per_task
from metascale.models.widths import layer_widths

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu}


@dataclass(frozen=True)
class Perceptron(Network):
    """``depth`` hidden layers on flattened inputs and a linear output.

    Weights start as He et al. 2015 (arXiv 1502.01852, eq. 10), biases at zero, the output layer at 1/sqrt(width).

    Args:
        n_inputs: numbers in one example.
        n_outputs: classes, or dimensions of the regression target.
        width: units of the first hidden layer.
        depth: hidden layers, at least one.
        activation: of the hidden layers; ``"tanh"`` and ``"gelu"`` have smooth derivatives.
        loss: ``"cross_entropy"`` (nats) or ``"squared_error"``.
        dropout: rate after every hidden layer.
        ratio: units of the last hidden layer over those of the first; those between lie evenly on a logarithmic scale.
        head: what the output layer of a task starts from (see `models.network.HeadStart`).
        task_axis: T tasks at once, each with its own parameters; ``False``: one supervised task (see `Network`).
    """

    n_inputs: int
    n_outputs: int
    width: int = 64
    depth: int = 2
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    dropout: float = 0.0
    ratio: float = 1.0
    head: HeadStart = "learned"
    task_axis: bool = True

    def __post_init__(self) -> None:
        check_sizes("perceptron", width=self.width, depth=self.depth)
        check_rates("the perceptron", dropout=self.dropout)
        refuse_head(self.head, self.task_axis and self.loss == "cross_entropy")
        _ = self.widths

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.widths[-1], self.n_outputs

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of every hidden layer."""
        return layer_widths(self.width, self.depth, self.ratio)

    @property
    def joins_tasks(self) -> bool:
        """Whether tasks of several trials may share a call: no dropout, whose masks belong to one trial."""
        return self.task_axis and not self.dropout

    def init(self, seed: int) -> Params:
        """``layer{i}.weight`` and ``layer{i}.bias`` of the hidden layers, then ``head``."""
        params: Params = {}
        for layer, (n_in, n_out) in enumerate(itertools.pairwise((self.n_inputs, *self.widths))):
            params |= self._init_linear(seed, f"layer{layer}", n_in, n_out, math.sqrt(2 / n_in))
        return params | self._init_head(seed, self.widths[-1], self.n_outputs)

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """The last hidden layer: [T, B, d], or [B, d] without a task axis."""
        hidden = batch.inputs["x"].flatten(2 if self.task_axis else 1)
        for layer in range(self.depth):
            name = f"layer{layer}"
            hidden = ACTIVATIONS[self.activation](self._linear(params, name, hidden))
            hidden = self._drop(hidden, batch, self.dropout, dropout, name)
        return hidden

    @property
    def kind(self) -> Perceptron | None:
        """What supervised perceptrons have in common whose losses `losses_of_each` computes; ``None`` of tasks."""
        return None if self.task_axis else replace(self, dropout=0.0)

    def losses_of_each(
        self,
        models: Sequence[Perceptron],
        params: Sequence[Params],
        batches: Sequence[Batch],
        dropouts: Sequence[int | None],
    ) -> torch.Tensor:
        """[S, B] losses of S perceptrons of one kind, each on its own batch: to the bit what each computes by itself.

        Matrix products are one for every perceptron, of the size and alignment that it has alone; the rest is computed
        for all in one call.
        """

        def linear_of_each(name: str, values: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.stack([self._linear(own, name, x) for own, x in zip(params, values, strict=True)])

        values: Sequence[torch.Tensor] = [batch.inputs["x"].flatten(1) for batch in batches]
        for layer in range(self.depth):
            name = f"layer{layer}"
            hidden = ACTIVATIONS[self.activation](linear_of_each(name, values))
            masks = _masks(models, dropouts, hidden, name)
            values = (hidden if masks is None else hidden * masks).unbind()
        outputs = linear_of_each("head", values)
        targets = torch.stack([batch.targets for batch in batches])
        joined = Batch({}, targets.flatten(0, 1))
        return self.example_losses(outputs.flatten(0, 1), joined).view(len(models), -1)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean losses of outputs [T, B, n_outputs]."""
        if self.loss == "squared_error":
            return squared_error_per_task(outputs, batch.targets)
        return super().output_losses(outputs, batch)

    def example_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[B] losses of outputs [B, n_outputs]."""
        if self.loss == "squared_error":
            return squared_error_per_task(outputs, batch.targets)
        return super().example_losses(outputs, batch)

    def flops(self) -> dict[str, float]:
        """Forward floating-point operations of one example by component; a multiply-add is two."""
        widths = (self.n_inputs, *self.widths)
        hidden = sum(n_in * n_out for n_in, n_out in itertools.pairwise(widths))
        return {"hidden_layers": 2.0 * hidden, "readout": 2.0 * widths[-1] * self.n_outputs}


def _masks(
    models: Sequence[Perceptron], dropouts: Sequence[int | None], hidden: torch.Tensor, name: str
) -> torch.Tensor | None:
    """Every perceptron's dropout mask of one layer, [S, B, d]; masks of one rate and key are drawn once."""
    found: dict[tuple[float, int | None], torch.Tensor] = {}
    wanted = [(model.dropout, None if model.dropout == 0 else key) for model, key in zip(models, dropouts, strict=True)]
    if all(key is None for _, key in wanted):
        return None
    for rate, key in wanted:
        if (rate, key) not in found:
            like = hidden[0]
            found[rate, key] = torch.ones_like(like) if key is None else mask_like(like, rate, key, name)
    return torch.stack([found[one] for one in wanted])


@dataclass(frozen=True)
class ResidualPerceptron(Network):
    """Features that start as the inputs are: e^s (x + W relu(V x + b) + c), with s, W, b and c zero at the start.

    For inputs that are features already, of an encoder that stays frozen: training starts from what they can do.

    Args:
        n_inputs: numbers in one example, and in its features.
        n_outputs: classes.
        width: hidden units.
        head: what the output layer of a task starts from (see `models.network.HeadStart`).
    """

    n_inputs: int
    n_outputs: int
    width: int = 64
    head: HeadStart = "learned"

    def __post_init__(self) -> None:
        check_sizes("perceptron", width=self.width)
        refuse_head(self.head, True)

    @property
    def task_axis(self) -> bool:
        return True

    @property
    def head_shape(self) -> tuple[int, int]:
        return self.n_inputs, self.n_outputs

    def init(self, seed: int) -> Params:
        """``layer0`` and ``layer1`` of the change, ``scale`` [1], which is s, and ``head``."""
        change = self._init_linear(seed, "layer0", self.n_inputs, self.width, math.sqrt(2 / self.n_inputs))
        change |= self._init_linear(seed, "layer1", self.width, self.n_inputs, 0.0)
        return {**change, "scale": torch.zeros(1), **self._init_head(seed, self.n_inputs, self.n_outputs)}

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, n_inputs]."""
        inputs = batch.inputs["x"].flatten(2)
        change = self._linear(params, "layer1", torch.relu(self._linear(params, "layer0", inputs)))
        return params["scale"].exp().unsqueeze(-1) * (inputs + change)
