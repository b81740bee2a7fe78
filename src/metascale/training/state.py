"""The state of a training, and its one form as named tensors and as bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from metascale.core.optional import require
from metascale.core.types import Params

if TYPE_CHECKING:
    import torch

    from metascale.training.optimizers import OptimizerState

Place: TypeAlias = "torch.device | str | None"


@dataclass(frozen=True, slots=True)
class TrainState:
    """After ``step`` steps: the parameters (θ in meta-training) and the optimiser's slots.

    An optimiser that overwrites its input changes the tensors of the state that a step was given.
    """

    step: int
    params: Params
    optimizer: OptimizerState

    def pack(self) -> Params:
        return pack({"params": self.params}, {"optimizer": self.optimizer})

    def unpack(self, tensors: Params, device: Place = None, *, copy: bool = False) -> TrainState:
        """What `pack` made of a state with the names of this one.

        Args:
            device: where tensors go; ``None``: where those of this state are.
            copy: share no memory with ``tensors``.
        """
        params = unpack_params(tensors, "params", self.params, device, copy=copy)
        optimizer = unpack_optimizer(tensors, "optimizer", self.optimizer, device, copy=copy)
        return TrainState(self.step, params, optimizer)


def pack(levels: Mapping[str, Params], optimizers: Mapping[str, OptimizerState]) -> Params:
    """Parameters as ``<level>/<name>`` and optimiser slots as ``<optimizer>/<slot>/<name>``."""
    flat = {f"{level}/{name}": value for level, params in levels.items() for name, value in params.items()}
    for optimizer, slots in optimizers.items():
        flat |= {
            f"{optimizer}/{slot}/{name}": value for slot, values in slots.items() for name, value in values.items()
        }
    return flat


def unpack_params(tensors: Params, level: str, like: Params, device: Place = None, *, copy: bool = False) -> Params:
    """One level of `pack`, in the order of ``like``, which norms (sums over tensors) depend on to rounding."""
    return {name: tensors[f"{level}/{name}"].to(device or value.device, copy=copy) for name, value in like.items()}


def unpack_optimizer(
    tensors: Params, optimizer: str, like: OptimizerState, device: Place = None, *, copy: bool = False
) -> OptimizerState:
    """One optimiser of `pack`, in the order of ``like``; step counts stay on the CPU."""
    return {
        slot: unpack_params(tensors, f"{optimizer}/{slot}", values, "cpu" if slot == "count" else device, copy=copy)
        for slot, values in like.items()
    }


def to_bytes(tensors: Params) -> bytes:
    """Named tensors in the safetensors format, which holds no code."""
    safetensors = require("safetensors.torch", "torch", "saving weights")
    ordered = {name: tensors[name].detach().contiguous().cpu().clone() for name in sorted(tensors)}
    data: bytes = safetensors.save(ordered)
    return data


def from_bytes(data: bytes) -> Params:
    """Named tensors from safetensors bytes, on the CPU."""
    safetensors = require("safetensors.torch", "torch", "loading weights")
    tensors: Params = safetensors.load(data)
    return tensors
