"""The maximal update parameterisation μP (Yang et al. 2022, arXiv 2203.03466): rates that carry over to wider models.

A model of width n is compared with one of a base width n₀, r = n/n₀. By table 3 of the paper, for Adam:

    tensor                                   initial deviation       learning rate
    hidden (two dimensions grow)             1/sqrt(fan-in), as is   1/r
    readout (only fan-in grows)              1/sqrt(fan-in), · r^-½  1/r
    the rest (embeddings, inputs, biases)    as is                   1

and for SGD: hidden 1, readout 1/r, the rest r. Where the readout is the embedding itself, the logits are divided by r.
Attention logits are q·k/d in place of q·k/sqrt(d), equal at the base width. At the base width μP changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, TypeVar, cast

import torch

from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.models.network import OneTask
from metascale.models.perceptron import Perceptron
from metascale.models.transformer import Transformer

WIDTH_FIELDS = ("d_model", "width")
Role = Literal["hidden", "readout", "other"]


class Scalable(Protocol):
    """A supervised model that is a dataclass with one of `WIDTH_FIELDS`."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names (ends of names) of the parameters that read the width out into a fixed number of outputs."""
        ...

    def init(self, seed: int) -> Params: ...

    def objective(
        self, params: Params, batch: Batch, dropout: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def losses(self, params: Params, batch: Batch) -> torch.Tensor: ...

    def predict(self, params: Params, batch: Batch) -> torch.Tensor: ...


M = TypeVar("M")
S = TypeVar("S", bound=Scalable)


def width_of(model: Scalable) -> int:
    """The model's width: its field ``d_model`` or ``width``."""
    inner = model.model if isinstance(model, OneTask) else model
    return int(getattr(inner, _width_field(inner)))


def at_width(model: M, width: int) -> M:
    """The same model at another width."""
    if isinstance(model, OneTask):
        return replace(model, model=at_width(model.model, width))
    return replace(model, **{_width_field(model): width})  # type: ignore[type-var]


def _width_field(model: object) -> str:
    names = {field.name for field in fields(model)}  # type: ignore[arg-type]
    for name in WIDTH_FIELDS:
        if name in names:
            return name
    raise InputError(f"{type(model).__name__} has no width: none of the fields {', '.join(WIDTH_FIELDS)}")


def roles(model: Scalable) -> dict[str, Role]:
    """What each parameter is to μP: found by which of its dimensions grow with the width."""
    width = width_of(model)
    with torch.device("meta"):
        narrow, wide = (at_width(model, factor * width).init(0) for factor in (1, 2))
    result: dict[str, Role] = {}
    for name, value in narrow.items():
        n_growing = sum(a != b for a, b in zip(value.shape, wide[name].shape, strict=True))
        if name.endswith(model.readouts) and n_growing:
            result[name] = "readout"
        else:
            result[name] = "hidden" if n_growing >= 2 else "other"
    return result


@dataclass(frozen=True)
class MuP:
    """``model`` in μP with respect to the same model at ``base_width``: a supervised model itself.

    Args:
        model: a `Transformer`, `ResNetBK`, `ResNet`, `ConvNet` with ``norm="group"``, `Perceptron`, or a `OneTask`.
        base_width: where the rate was tuned; there μP and the standard parameterisation are one.
    """

    model: Scalable
    base_width: int

    @property
    def ratio(self) -> float:
        """r, the width over the base width."""
        return width_of(self.model) / self.base_width

    @property
    def scaled(self) -> Scalable:
        """The model with attention and readout scaled."""
        if not isinstance(self.model, Transformer):
            return self.model
        base = at_width(self.model, self.base_width)
        scale = math.sqrt(base.head_dim) / self.model.head_dim
        multiplier = self.model.output_multiplier / (self.ratio if self.model.tied else 1.0)
        return replace(self.model, attention_scale=scale, output_multiplier=multiplier)

    @property
    def kind(self) -> object:
        """That of the model, where it computes its losses beside others of its kind (`Perceptron.kind`)."""
        return getattr(self.scaled, "kind", None)

    def losses_of_each(
        self,
        models: Sequence[MuP],
        params: Sequence[Params],
        batches: Sequence[Batch],
        dropouts: Sequence[int | None],
    ) -> torch.Tensor:
        """[S, B], as `Perceptron.losses_of_each`."""
        own = cast(Perceptron, self.scaled)
        return own.losses_of_each([cast(Perceptron, one.scaled) for one in models], params, batches, dropouts)

    def init(self, seed: int) -> Params:
        """The model's own tensors, readouts divided by sqrt(r)."""
        kinds = roles(self.model)
        shrink = 1 / math.sqrt(self.ratio)
        return {
            name: value * shrink if kinds[name] == "readout" else value for name, value in self.model.init(seed).items()
        }

    def rate_multipliers(self, optimizer: Literal["adam", "sgd"] = "adam") -> dict[str, float]:
        """Factor of the learning rate of every parameter."""
        r = self.ratio
        factors: dict[Role, float] = (
            {"hidden": 1 / r, "readout": 1 / r, "other": 1.0}
            if optimizer == "adam"
            else {"hidden": 1.0, "readout": 1 / r, "other": r}
        )
        kinds = roles(self.model)
        fixed = self._fixed_sizes() if optimizer == "sgd" else set()
        return {name: 1.0 if name in fixed else factors[kind] for name, kind in kinds.items()}

    def _fixed_sizes(self) -> set[str]:
        """Parameters that do not grow at all (the head's bias)."""
        with torch.device("meta"):
            own, wide = self.model.init(0), at_width(self.model, 2 * width_of(self.model)).init(0)
        return {name for name, value in own.items() if value.shape == wide[name].shape}

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scaled.objective(params, batch, dropout)

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        return self.scaled.losses(params, batch)

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        return self.scaled.predict(params, batch)


def parameterised(
    model: S, parameterisation: Literal["standard", "mup"], base_width: int
) -> tuple[S | MuP, dict[str, float] | None]:
    """The model as it is, or in μP with the factors of the Adam rates of its parameters."""
    if parameterisation == "standard":
        return model, None
    scaled = MuP(model, base_width)
    return scaled, scaled.rate_multipliers("adam")
