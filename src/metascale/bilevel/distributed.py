"""Bilevel training in one process or several: each takes its share of the micro-batches, gradients are averaged.

The lower gradient is averaged at every lower step, the upper gradient once an upper step, while SAMA's third pass still
runs. Processes are started by torchrun (gloo on CPUs, NCCL on GPUs).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from metascale.bilevel.levels import Levels
from metascale.core.errors import InputError
from metascale.core.run import Run, SharedRun
from metascale.core.types import Params
from metascale.hypergrad.problem import HypergradientSolver, Reducer
from metascale.hypergrad.sama import SAMA
from metascale.training.optimizers import Optimizer

__all__ = ["DataParallel", "initialise", "shared"]

B = TypeVar("B")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Which process takes which micro-batch, and what is averaged. This one: a single process does everything."""

    def check(self, lower_accumulation: int, upper_accumulation: int) -> None:
        """Raise `InputError` where micro-batches cannot be divided evenly."""

    def share(self, batches: Callable[[int], B], step: int, accumulation: int) -> list[tuple[int, B]]:
        """This process's micro-batches of a step, with their numbers."""
        numbers = range(step * accumulation, (step + 1) * accumulation)
        return [(number, batches(number)) for number in numbers]

    def average(self, grads: Params) -> Params:
        """The mean of lower gradients over the processes."""
        return grads

    def mean_loss(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def agree(self, buffers: Params) -> Params:
        """One set of buffers for all processes."""
        return buffers

    def unused(self, found: set[str], among: Params) -> set[str]:
        """Those of ``found`` that every process found."""
        return found

    def reducer(self, upper: Params) -> Callable[[], Reducer] | None:
        """Makes what reduces the upper gradient; ``None`` in a single process."""
        return None

    @property
    def average_lower(self) -> Callable[[Params], Params] | None:
        """Averages ∇_θM, in the joint mode; ``None`` keeps it local."""
        return None


@dataclass(frozen=True)
class DataParallel(Processes):
    """Micro-batch j of a step belongs to process j modulo the number of processes.

    So P processes compute what one computes with the same accumulation, up to the order of sums, in the ``"joint"``
    mode. In the ``"local"`` mode of the SAMA paper ∇_θM is not averaged: each process forms its own hypergradient
    estimate and the estimates are averaged. That saves a reduction of the size of θ; the mean is the same only in
    expectation, since a product of means is not the mean of products.

    Args:
        mode: ``"local"`` or ``"joint"``.
        overlap: start reducing upper gradients while the third pass runs; otherwise after it.
        bucket_bytes: gradients are reduced in groups of about this size.
    """

    mode: Literal["local", "joint"] = "local"
    overlap: bool = True
    bucket_bytes: int = 25 * 2**20

    def __post_init__(self) -> None:
        if self.mode not in ("local", "joint"):
            raise InputError(f"mode of DataParallel must be 'local' or 'joint', not {self.mode!r}")

    def check(self, lower_accumulation: int, upper_accumulation: int) -> None:
        if not dist.is_initialized():
            raise InputError(
                "DataParallel needs an initialised process group: start with torchrun and call initialise()"
            )
        for name, count in (("lower_accumulation", lower_accumulation), ("upper_accumulation", upper_accumulation)):
            if count % dist.get_world_size():
                raise InputError(f"{name} is {count}: it must be a multiple of the {dist.get_world_size()} processes")

    def share(self, batches: Callable[[int], B], step: int, accumulation: int) -> list[tuple[int, B]]:
        numbers = range(step * accumulation + dist.get_rank(), (step + 1) * accumulation, dist.get_world_size())
        return [(number, batches(number)) for number in numbers]

    def average(self, grads: Params) -> Params:
        reducer = BucketReducer(grads, self.bucket_bytes)
        for name in reducer.order:
            reducer.ready(name, grads[name])
        return reducer.finish()

    def mean_loss(self, loss: torch.Tensor) -> torch.Tensor:
        total = loss.detach().clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    def agree(self, buffers: Params) -> Params:
        """Process 0's buffers everywhere, as DistributedDataParallel does."""
        shared = {name: value.clone() for name, value in buffers.items()}
        for value in shared.values():
            dist.broadcast(value, 0)
        return shared

    def unused(self, found: set[str], among: Params) -> set[str]:
        like = next(iter(among.values()))
        flags = torch.tensor([name in found for name in among], dtype=torch.int32, device=like.device)
        dist.all_reduce(flags, dist.ReduceOp.MIN)
        return {name for name, flag in zip(among, flags.tolist(), strict=True) if flag}

    def reducer(self, upper: Params) -> Callable[[], Reducer] | None:
        return lambda: BucketReducer(upper, self.bucket_bytes, eager=self.overlap)

    @property
    def average_lower(self) -> Callable[[Params], Params] | None:
        return self.average if self.mode == "joint" else None


def check_wrapped(
    levels: Levels, processes: Processes, lower_optimizer: Optimizer, method: HypergradientSolver
) -> None:
    """Refuse what does not work with a lower model that reduces its gradients itself.

    Raises:
        InputError: one process; with sharded parameters an upper gradient of each process's own, an optimiser that
            mixes the numbers of a tensor, or an exact mixed derivative.
    """
    if not levels.reduced:
        return
    if not isinstance(processes, DataParallel):
        raise InputError(
            "a lower model in DistributedDataParallel or fully_shard needs processes=DataParallel(...) beside it",
            field="processes",
        )
    if levels.shards is None:
        return
    if processes.average_lower is None:
        raise InputError(
            "sharded parameters get the mean of the processes' upper gradients: use DataParallel('joint')",
            field="processes",
        )
    if isinstance(method, SAMA) and method.mixed == "exact":
        raise InputError("sharded parameters have no forward-mode derivatives: use SAMA(mixed='finite_difference')")
    if getattr(lower_optimizer, "mixes", False):
        raise InputError(
            f"{type(lower_optimizer).__name__} takes norms of whole tensors, of which each process holds a shard; use "
            "an element-wise optimiser",
            field="lower_optimizer",
        )


class BucketReducer:
    """Averages tensors over the processes, bucket by bucket, each as soon as all its tensors are ready.

    Buckets are cut and started in the same order everywhere, from the last tensor to the first, which is about the
    order in which a backward pass completes them.
    """

    def __init__(self, like: Params, bucket_bytes: int, eager: bool = True) -> None:
        self.order = list(reversed(like))
        self._like, self._eager = like, eager
        self._parts: Params = {}
        self._buckets: list[list[str]] = []
        self._running: list[tuple[list[str], torch.Tensor, Any]] = []
        room = 0
        for name in self.order:
            value = like[name]
            size = value.numel() * value.element_size()
            fits = self._buckets and room >= size and like[self._buckets[-1][0]].dtype == value.dtype
            if not fits:
                self._buckets.append([])
                room = bucket_bytes
            self._buckets[-1].append(name)
            room -= size

    def ready(self, name: str, gradient: torch.Tensor) -> None:
        self._parts[name] = gradient
        if self._eager:
            self._start()

    def _start(self) -> None:
        while self._buckets and all(name in self._parts for name in self._buckets[0]):
            names = self._buckets.pop(0)
            flat = torch.cat([self._parts.pop(name).detach().reshape(-1) for name in names])
            self._running.append((names, flat, dist.all_reduce(flat, async_op=True)))

    def finish(self) -> Params:
        self._start()
        found: Params = {}
        for names, flat, work in self._running:
            work.wait()
            flat /= dist.get_world_size()
            parts = flat.split([self._like[name].numel() for name in names])
            found |= {name: part.view_as(self._like[name]) for name, part in zip(names, parts, strict=True)}
        return {name: found[name] for name in self._like}


def initialise(timeout_s: float = 600.0) -> int:
    """Join the process group that torchrun describes (gloo without a GPU, else NCCL); returns this process's rank.

    With NCCL the process takes the GPU of its local rank.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return dist.get_rank()


def shared(run: Run | None) -> SharedRun:
    """One run for all processes: process 0 writes ``run``, which the others ignore; all resume from its checkpoint."""
    return SharedRun(run if dist.get_rank() == 0 else None, share=_from_first)


def _from_first(value: Value) -> Value:
    """Process 0's value, in every process."""
    held = [value]
    dist.broadcast_object_list(held, 0)
    return held[0]
