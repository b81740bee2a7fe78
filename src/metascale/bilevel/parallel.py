"""How one or several processes share a bilevel step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from metascale.bilevel.levels import Levels
from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.problem import HypergradientSolver, Reducer
from metascale.hypergrad.sama import SAMA
from metascale.training.matrix_optimizers import LAMB, Muon
from metascale.training.optimizers import Optimizer


class Processes(Protocol):
    """Who takes which micro-batch, and what is averaged."""

    def check(self, lower_accumulation: int, upper_accumulation: int) -> None:
        """Refuse micro-batches that cannot be shared out evenly."""
        ...

    def share(self, batches: Callable[[int], Any], step: int, accumulation: int) -> list[tuple[int, Any]]:
        """This process's numbered micro-batches of a step."""
        ...

    def average(self, grads: Params) -> Params:
        """The mean of lower gradients over the processes."""
        ...

    def mean_loss(self, loss: torch.Tensor) -> torch.Tensor: ...

    def agree(self, buffers: Params) -> Params:
        """One set of buffers for all processes."""
        ...

    def reducer(self, upper: Params) -> Callable[[], Reducer] | None:
        """What reduces the upper gradient; ``None`` in a single process."""
        ...

    @property
    def average_lower(self) -> Callable[[Params], Params] | None:
        """What averages ∇_θM, in the joint mode; ``None`` keeps it local."""
        ...


def check_wrapped(
    levels: Levels, processes: Processes, lower_optimizer: Optimizer, method: HypergradientSolver
) -> None:
    """Refuse what does not go with a lower model that reduces its gradients itself.

    Raises:
        InputError: one process; with sharded parameters an upper gradient of each process's own, an optimiser that
            mixes the numbers of a tensor, or an exact mixed derivative.
    """
    if not levels.reduced:
        return
    if isinstance(processes, Alone):
        raise InputError(
            "a lower model in DistributedDataParallel or fully_shard needs processes=DataParallel(...) beside it"
        )
    if levels.shards is None:
        return
    if processes.average_lower is None:
        raise InputError("sharded parameters get the mean of the processes' upper gradients: use DataParallel('joint')")
    if isinstance(method, SAMA) and method.mixed == "exact":
        raise InputError("sharded parameters have no forward-mode derivatives: use SAMA(mixed='finite_difference')")
    if isinstance(lower_optimizer, LAMB | Muon):
        raise InputError(
            f"{type(lower_optimizer).__name__} takes norms of whole tensors, of which each process holds a shard; use "
            "an element-wise optimiser"
        )


@dataclass(frozen=True)
class Alone:
    """One process does everything."""

    def check(self, lower_accumulation: int, upper_accumulation: int) -> None:
        return None

    def share(self, batches: Callable[[int], Any], step: int, accumulation: int) -> list[tuple[int, Any]]:
        numbers = range(step * accumulation, (step + 1) * accumulation)
        return [(number, batches(number)) for number in numbers]

    def average(self, grads: Params) -> Params:
        return grads

    def mean_loss(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def agree(self, buffers: Params) -> Params:
        return buffers

    def reducer(self, upper: Params) -> Callable[[], Reducer] | None:
        return None

    @property
    def average_lower(self) -> Callable[[Params], Params] | None:
        return None
