"""Supervised trainings side by side: the steps of trials that share a network's shape, computed in one call.

What a step consists of besides matrix products is overhead of Python and of single operations, which S trials pay
once. Every matrix product, norm and update stays the trial's own, so its numbers are those that it has alone, to the
bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import torch

from metascale.core.trees import require_grad
from metascale.core.types import Batch, Params
from metascale.parallel.stacked import asked
from metascale.training.state import TrainState
from metascale.training.supervised import Examples, SupervisedTraining

MULTIPLE = 16
"""Only batches of a multiple of so many examples are joined: then every trial's activations begin at a multiple of 64
bytes, as in tensors of its own, on which the last bit of a matrix product depends."""


class JoiningModel(Protocol):
    """A supervised model whose objective is the mean loss of a batch, and that computes those of its kind together."""

    @property
    def kind(self) -> object:
        """What has to be equal of two models; ``None``: this one runs by itself."""
        ...

    def losses_of_each(
        self,
        models: Sequence[Any],
        params: Sequence[Params],
        batches: Sequence[Batch],
        dropouts: Sequence[int | None],
    ) -> torch.Tensor:
        """[S, B] losses of each of ``models``, to the bit those that it computes by itself."""
        ...


class JoinedTraining(SupervisedTraining):
    """A training whose steps are computed together with those of trials that run beside it, where there are any."""

    def step(self, state: TrainState, k: int) -> tuple[TrainState, Mapping[str, float]]:
        found: tuple[TrainState, Mapping[str, float]] = asked(_Step(self, state, k), None, 0.0)
        return found

    @cached_property
    def kind(self) -> object:
        """What has to be equal for two trainings to step together; ``None``: this one runs by itself."""
        model, n_batch = getattr(self.model, "kind", None), getattr(self.examples, "n_batch", 0)
        if model is None or self.autocast or self.device != "cpu" or n_batch == 0 or n_batch % MULTIPLE:
            return None
        return model, n_batch


@dataclass(frozen=True, slots=True)
class _Step:
    """Step ``k`` of a training."""

    training: JoinedTraining
    state: TrainState
    k: int

    def __call__(self, part: None, start: int) -> tuple[TrainState, Mapping[str, float]]:
        return SupervisedTraining.step(self.training, self.state, self.k)

    def kind(self, part: None) -> object:
        return self.training.kind

    def together(self, functions: Sequence[_Step], parts: Sequence[None]) -> list[object]:
        """What each step returns, or the exception that its update raises, such as `Diverged`."""
        batches = _batches(functions)
        leaves = [require_grad(one.state.params) for one in functions]
        models = [one.training.model for one in functions]
        keys = [one.training.dropout_at(one.k) for one in functions]
        losses = cast(JoiningModel, self.training.model).losses_of_each(models, leaves, batches, keys)
        objectives = losses.mean(1)
        flat = torch.autograd.grad(objectives.sum(), [value for own in leaves for value in own.values()])
        each = torch._foreach_norm(flat)  # as torch.nn.utils.get_total_norm takes them
        norms = torch.linalg.vector_norm(torch.stack(each).view(len(functions), -1), dim=1)
        nats = losses.detach().double().sum(1) / losses.shape[1]
        measured = torch.stack([nats, objectives.detach().double(), norms.double()], 1).tolist()
        size = len(leaves[0])
        found: list[object] = []
        for place, (one, numbers) in enumerate(zip(functions, measured, strict=True)):
            grads = dict(zip(leaves[place], flat[place * size : (place + 1) * size], strict=True))
            try:
                found.append(one.training.advance(one.state, one.k, grads, *numbers))
            except Exception as error:  # noqa: BLE001
                found.append(error)  # others are updated in place by now: no step may be taken again
        return found


def _batches(steps: Sequence[_Step]) -> list[Batch]:
    """The batch of every step; steps of the same number on the same examples share one."""
    found: dict[tuple[int, int], Batch] = {}
    batches = []
    for one in steps:
        examples: Examples = one.training.examples
        name = id(examples), one.k
        if name not in found:
            found[name] = examples.batch(one.k)
        batches.append(found[name])
    return batches
