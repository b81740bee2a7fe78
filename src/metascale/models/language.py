"""What every language model shares: from hidden states to losses, logits and counts.

Supervised models follow the `Model` protocol as far as it makes sense without tasks: parameters and batches carry no
task axis (a language model of one task gains nothing from it, and stacked weights would cost a view in every layer).
A supervised model has four methods:

    init(seed) -> Params                                      trainable tensors
    objective(params, batch, dropout) -> (loss, losses)       what training minimises, and each target's nats (detached)
    losses(params, batch) -> Tensor                           nats of every target, shaped like the targets; evaluation
    predict(params, batch) -> Tensor                          logits [..., classes]; evaluation

``loss`` is the mean of ``losses`` plus the model's own penalties (load balancing). ``dropout`` names the masks of one
training call; the methods of evaluation take none and never drop anything. The batch is `core.types.Batch` with tensors
[B, ...]. Language models read ``input_ids`` [B, N] and take next tokens [B, N] as targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from metascale.core.types import Batch, Params
from metascale.models.kernels.cross_entropy import linear_cross_entropy
from metascale.models.kernels.linear import linear


class LanguageModel(ABC):
    """A model whose logits are a linear function of hidden states [B, N, d] (or [B, d], for whole sequences)."""

    @abstractmethod
    def init(self, seed: int) -> Params:
        """The trainable tensors."""

    @abstractmethod
    def hidden(
        self, params: Params, input_ids: torch.Tensor, dropout: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the readout reads, and the penalty to add to the training loss (``None``: none)."""

    @abstractmethod
    def readout(self, params: Params) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [V, d] and bias [V] or ``None``."""

    @property
    @abstractmethod
    def embedding_names(self) -> tuple[str, ...]:
        """Parameters that `n_non_embedding` leaves out: token and position embeddings and the readout."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names (ends of names) of the parameters that read the width out into a fixed number of outputs."""
        return ("head.weight",)

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The training loss (mean nats plus penalty), and every target's nats without history."""
        hidden, penalty = self.hidden(params, batch.inputs["input_ids"], dropout)
        mean, losses = linear_cross_entropy(hidden.flatten(0, -2), *self.readout(params), batch.targets.flatten())
        return mean if penalty is None else mean + penalty, losses.view(batch.targets.shape)

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        """Nats of every target, shaped like the targets; 0 where a target is ignored. Without history."""
        with torch.no_grad():
            return self.objective(params, batch)[1]

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """Logits [B, N, V]; position i sees tokens 0 to i alone, if the model is causal."""
        hidden, _ = self.hidden(params, batch.inputs["input_ids"])
        return linear(hidden, *self.readout(params))

    def n_params(self) -> int:
        """All parameters, without making them."""
        return sum(value.numel() for value in self.shapes().values())

    def n_non_embedding(self) -> int:
        """Parameters besides embeddings and readout: the axis of scaling laws (Kaplan et al. 2020)."""
        left_out = set(self.embedding_names)
        return sum(value.numel() for name, value in self.shapes().items() if name not in left_out)

    def shapes(self) -> Params:
        """The parameters on the ``meta`` device, which holds no numbers."""
        with torch.device("meta"):
            return self.init(0)


Norm = Literal["rms", "layer"]
_EPSILON = 1e-5


def init_norm(kind: Norm, name: str, d_model: int) -> Params:
    """Gain one and, for layer normalisation, shift zero."""
    params = {f"{name}.gain": torch.ones(d_model)}
    return params if kind == "rms" else params | {f"{name}.shift": torch.zeros(d_model)}


def normalise(kind: Norm, params: Params, name: str, values: torch.Tensor) -> torch.Tensor:
    """Root-mean-square (Zhang and Sennrich 2019) or layer normalisation (Ba et al. 2016) of ``values`` [..., d]."""
    gain = params[f"{name}.gain"]
    if kind == "layer":
        return F.layer_norm(values, gain.shape, gain, params[f"{name}.shift"], _EPSILON)
    if values.device.type == "cpu":
        normalised: torch.Tensor = _RootMeanSquare.apply(values, gain)
        return normalised
    return F.rms_norm(values, gain.shape, gain, _EPSILON)


class _RootMeanSquare(torch.autograd.Function):
    """On CPUs torch composes this from single operations; with its own backward it takes half the time."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        width = values.shape[-1]
        inverse = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_().div_(width).add_(_EPSILON).rsqrt_()
        normalised: torch.Tensor = values * inverse
        ctx.save_for_backward(normalised, inverse, gain)
        return normalised * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normalised, inverse, gain = ctx.saved_tensors
        slopes = (grad * normalised).reshape(-1, len(gain))
        along = torch.mv(slopes, gain).div_(len(gain)).view(inverse.shape)
        own: torch.Tensor = torch.addcmul(grad * gain, normalised, along, value=-1).mul_(inverse)
        return own, slopes.sum(0)
