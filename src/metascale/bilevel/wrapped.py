"""Lower models that reduce their gradients themselves: DistributedDataParallel, and parameters sharded by FSDP2.

Both act on a module's own parameters: they ignore tensors passed in their place (as `from_modules` does), and
``torch.autograd.grad`` starts no reduction. So here θ is put into the module, which runs as it is, and its ``backward``
fills the gradients; for the rest of the training that is one differentiable function of θ and λ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from metascale.bilevel.levels import (
    BilevelLoss,
    BoundModule,
    Levels,
    ModuleLoss,
    Pass,
    Start,
    current,
    from_modules,
    frozen_parts,
    joined_buffers,
    keyed_mode,
    persistent_buffers,
    split_buffers,
    trainable,
)
from metascale.core.errors import InputError
from metascale.core.types import Params


def is_wrapped(model: nn.Module) -> bool:
    return isinstance(model, DistributedDataParallel | FSDPModule)


def from_wrapped(model: nn.Module, upper: nn.Module, lower_loss: ModuleLoss, upper_loss: ModuleLoss) -> Levels:
    """`from_modules` for a lower model in DistributedDataParallel, or one to which ``fully_shard`` was applied.

    With DistributedDataParallel the lower steps go through the wrapper, which averages θ's gradient while the backward
    pass runs; the passes of the upper step see the bare module. With ``fully_shard`` every pass goes through the
    module, and θ, its gradient and the optimiser's state are this process's shards.

    Raises:
        InputError: a level has no parameters, or parameters in half precision.
    """
    if isinstance(model, DistributedDataParallel):
        bare = from_modules(model.module, upper, lower_loss, upper_loss)
        own = _Own(model, dict(model.module.named_parameters()), persistent_buffers(model.module))
        through = own.bind(upper, lower_loss)

        def lower(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            loss = through if _wanted(theta) else bare.lower_loss
            return loss(theta, lam, batch, context)

        return replace(bare, lower_loss=lower, reduced=True)
    return _sharded(model, upper, lower_loss, upper_loss)


def _sharded(model: nn.Module, upper: nn.Module, lower_loss: ModuleLoss, upper_loss: ModuleLoss) -> Levels:
    shards = FSDPShards({name: p for name, p in model.named_parameters() if p.requires_grad})
    own = _Own(model, dict(shards.params), persistent_buffers(model))
    mine = {**dict(upper.named_parameters()), **persistent_buffers(upper)}

    def start() -> Start:
        local = {name: _local(p).clone() for name, p in shards.params.items()}
        both = joined_buffers(own.buffers, persistent_buffers(upper))
        return Start(local, trainable(upper), {name: value.detach().clone() for name, value in both.items()})

    def mirror(level: str, tensors: Params) -> None:
        if level == "lower":
            own.put(tensors)
            return
        for name, value in tensors.items():
            mine[name].data = value

    start()
    losses = own.bind(upper, lower_loss), own.bind(upper, upper_loss)
    return Levels(start, *losses, mirror, own.bound, reduced=True, shards=shards)


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """The storage of this process's part of a parameter."""
    return cast(DTensor, parameter.detach()).to_local() if isinstance(parameter, DTensor) else parameter.detach()


def _wanted(tensors: Params) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in tensors.values())


@dataclass(frozen=True, eq=False)
class FSDPShards:
    """How θ is spread over the processes, by parameter.

    Raises:
        InputError: a parameter is not sharded in one dimension.
    """

    params: dict[str, torch.nn.Parameter]

    def __post_init__(self) -> None:
        for name, p in self.params.items():
            if not isinstance(p, DTensor) or p.device_mesh.ndim != 1:
                raise InputError(f"'{name}' is not sharded over one dimension of processes: call fully_shard(model)")

    def total(self, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    def whole(self, tensors: Params) -> Params:
        """Shards as whole tensors, the same everywhere; other tensors (a step count) are returned as they are."""
        return {name: self._whole(name, value) for name, value in tensors.items()}

    def _whole(self, name: str, value: torch.Tensor) -> torch.Tensor:
        p = self.params.get(name)
        if p is None:
            return value
        like = cast(DTensor, p)
        spread = DTensor.from_local(
            value, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return spread.full_tensor()

    def part(self, tensors: Params) -> Params:
        return {name: self._part(name, value) for name, value in tensors.items()}

    def _part(self, name: str, value: torch.Tensor) -> torch.Tensor:
        p = self.params.get(name)
        if p is None:
            return value
        like = cast(DTensor, p)
        (placement,) = like.placements
        dim = cast(Shard, placement).dim
        parts = value.chunk(like.device_mesh.size(), dim)
        rank = like.device_mesh.get_local_rank()
        return parts[rank].clone() if rank < len(parts) else value.narrow(dim, 0, 0).clone()


class _Own:
    """A wrapped module that runs with θ in its own parameters."""

    def __init__(self, model: nn.Module, params: dict[str, torch.nn.Parameter], buffers: Params) -> None:
        self.model, self.params, self.buffers = model, params, buffers

    def put(self, tensors: Params) -> None:
        """Set the parameters and buffers of these names."""
        with torch.no_grad():
            for part in self.model.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()  # an earlier pass without gradients leaves whole parameters behind
            for name, value in tensors.items():
                if name in self.buffers:
                    self.buffers[name].copy_(value)
                elif isinstance(self.params[name], DTensor):
                    _local(self.params[name]).copy_(value)
                else:
                    self.params[name].data = value.detach()

    def bound(self, tensors: Params) -> BoundModule:
        """The module with these tensors, without a graph."""
        self.put(tensors)
        return _AsItIs(self.model, False)

    def collect(self) -> Params:
        """The gradients that a backward pass left; they are cleared."""
        found = {name: p.grad for name, p in self.params.items() if p.grad is not None}
        for p in self.params.values():
            p.grad = None
        return {name: _local(gradient) for name, gradient in found.items()}

    def bind(self, upper: nn.Module, loss: ModuleLoss) -> BilevelLoss:
        """The loss as a function of (θ, λ, batch, pass)."""
        still = frozen_parts(self.model, upper)

        def call(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            lower_buffers, kept = split_buffers(context.buffers)
            self.put(theta | lower_buffers)
            spare = {name: kept.get(name, value).clone() for name, value in upper.named_buffers()}
            differentiated = _wanted(theta)

            def run(given: Params) -> torch.Tensor:
                with current(context), keyed_mode((self.model, upper), context.dropout, theta, still):
                    model = _AsItIs(self.model, differentiated)
                    return loss(model, BoundModule(upper, given | spare), batch)

            if differentiated:
                function: Callable[..., torch.Tensor] = _Through.apply
                value = function(run, self, tuple(theta), tuple(lam), *theta.values(), *lam.values())
            else:
                value = run(lam)
            if context.dropout is not None:
                after = joined_buffers(self.buffers, {name: spare[name] for name in kept})
                context.updated = {name: value.clone() for name, value in after.items()}
            return value

        return call


class _AsItIs(BoundModule):
    """A module with its own tensors; without a graph where θ is not differentiated."""

    def __init__(self, module: nn.Module, differentiated: bool) -> None:
        super().__init__(module, {})
        self.__dict__["_context"] = nullcontext if differentiated else torch.no_grad

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._context():
            return self.module(*args, **kwargs)

    def _part(self, name: str, part: nn.Module) -> BoundModule:
        raise InputError(
            f"a loss cannot use '{name}' of a model in DistributedDataParallel or fully_shard alone: its wrapper works "
            "in the whole model's forward pass; call the model"
        )

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self._part(name, self.module)


class _Through(torch.autograd.Function):
    """``run(λ)`` as a function of θ and λ; θ's gradient is what the module's own backward pass leaves."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Params], torch.Tensor], own: _Own, lower: Any, upper: Any, *tensors: torch.Tensor
    ) -> torch.Tensor:
        given = dict(zip(upper, tensors[len(lower) :], strict=True))
        with torch.enable_grad():
            ctx.lam = {name: value.detach().requires_grad_(value.requires_grad) for name, value in given.items()}
            ctx.value = run(ctx.lam)
        ctx.own, ctx.lower = own, lower
        detached: torch.Tensor = ctx.value.detach()
        return detached

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        value, ctx.value = ctx.value, None
        value.backward(upstream)
        found = ctx.own.collect()
        return (None, None, None, None, *(found.get(name) for name in ctx.lower), *(v.grad for v in ctx.lam.values()))
