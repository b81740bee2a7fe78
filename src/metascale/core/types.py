"""The nouns: parameters, batches, episodes, and the protocols of task sources and models.

Shapes: T tasks, B examples a task. Parameters, batches and losses of a meta-batch carry a leading axis of T tasks.
This module does not import torch at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from metascale.core.errors import InputError

if TYPE_CHECKING:
    import torch

Params: TypeAlias = "dict[str, torch.Tensor]"
Split: TypeAlias = Literal["train", "validation", "test"]
TaskExecution: TypeAlias = Literal["stacked", "threads", "processes"]
"""``stacked``: all tasks in one call. ``threads``: one task a call, calls spread over threads. ``processes``: a few
tasks a call, calls spread over processes; all in one call where there are fewer tasks than processes."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples for each of T tasks.

    Args:
        inputs: named tensors [T, B, ...]: ``{"x": ...}`` for arrays and images,
            ``{"input_ids", "attention_mask"}`` for text.
        targets: [T, B] integer classes, or [T, B, ...] real values for regression.
        numbers: [T, B] integers that name the examples in dropout masks, so that a part of a batch has the masks that
            it has in the whole; ``None``: their places in the batch.
    """

    inputs: Mapping[str, torch.Tensor]
    targets: torch.Tensor
    numbers: torch.Tensor | None = None

    @property
    def n_tasks(self) -> int:
        return int(self.targets.shape[0])

    @property
    def n_examples(self) -> int:
        """Examples per task (B)."""
        return int(self.targets.shape[1])

    def map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with ``fn`` applied to every tensor."""
        numbers = None if self.numbers is None else fn(self.numbers)
        inputs = {name: fn(value) for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, targets=fn(self.targets), numbers=numbers)

    def numbered(self) -> Batch:
        """The batch with ``numbers``: those that it has, or the places of its examples."""
        if self.numbers is not None:
            return self
        import torch

        count = self.n_tasks * self.n_examples
        places = torch.arange(count, device=self.targets.device).view(self.n_tasks, self.n_examples)
        return replace(self, numbers=places)

    def tasks(self, start: int, stop: int) -> Batch:
        """Tasks ``start`` to ``stop`` (exclusive)."""
        return self.map(lambda value: value[start:stop])

    def examples(self, start: int, stop: int) -> Batch:
        """Examples ``start`` to ``stop`` (exclusive) of every task."""
        return self.map(lambda value: value[:, start:stop])

    def concat(self, other: Batch) -> Batch:
        """The examples of both, task by task; sequences [T, B, S] are padded with zeros (masked) to one length."""
        import torch

        def join(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            if first.ndim == 3 and first.shape[2] != second.shape[2]:
                length = max(first.shape[2], second.shape[2])
                first, second = (torch.nn.functional.pad(part, (0, length - part.shape[2])) for part in (first, second))
            return torch.cat([first, second], dim=1)

        inputs = {name: join(value, other.inputs[name]) for name, value in self.inputs.items()}
        joined = Batch(inputs, torch.cat([self.targets, other.targets], dim=1))
        if self.numbers is None or other.numbers is None:
            return joined
        return replace(joined, numbers=torch.cat([self.numbers, other.numbers], dim=1))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """On ``device``; floating-point tensors in ``dtype`` where given."""

        def move(value: torch.Tensor) -> torch.Tensor:
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return self.map(move)


@dataclass(frozen=True, slots=True)
class Episode:
    """Support and query sets of T tasks, stacked. ``task_ids`` name the tasks (not the visits)."""

    task_ids: tuple[str, ...]
    support: Batch
    query: Batch

    @property
    def n_tasks(self) -> int:
        return len(self.task_ids)

    def tasks(self, start: int, stop: int) -> Episode:
        """Tasks ``start`` to ``stop`` (exclusive)."""
        return Episode(self.task_ids[start:stop], self.support.tasks(start, stop), self.query.tasks(start, stop))

    def numbered(self) -> Episode:
        """The episode with every example of the meta-batch named by a number of its own (`Batch.numbers`)."""
        support, query = self.support.numbered(), self.query.numbered()
        if self.query.numbers is None and query.numbers is not None:
            query = replace(query, numbers=query.numbers + self.n_tasks * self.support.n_examples)
        return replace(self, support=support, query=query)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Episode:
        """Both sets on ``device``; floating-point tensors in ``dtype`` where given."""
        return replace(self, support=self.support.to(device, dtype), query=self.query.to(device, dtype))


@runtime_checkable
class TaskSource(Protocol):
    """Where episodes come from. Pure: the same arguments give the same bytes, in any order, on any worker."""

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked.

        In ``train`` an index is a visit: visits 0..N-1 see every one of the N tasks once, in a shuffled order, N..2N-1
        again in another order, each time with fresh examples. In ``validation`` and ``test`` an index is one fixed task
        with one fixed episode, the same for every N and every training seed, so that comparisons are paired.
        """
        ...

    def n_tasks(self, split: Split) -> int | None:
        """How many distinct tasks the split has; ``None`` for an unlimited supply."""
        ...

    def describe(self) -> Mapping[str, object]:
        """JSON for the run's record: the data set, the class split and every task of every pool."""
        ...


class Encoder(Protocol):
    """Turns texts into token ids; a text task source is given the one of its model."""

    @property
    def pad_id(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of token ids a text, special tokens included, cut at the encoder's own maximum length."""
        ...


@runtime_checkable
class Model(Protocol):
    """Parameters and a batch give one loss a task. Task t's loss depends on task t's parameters alone."""

    def init(self, seed: int) -> Params:
        """The trainable tensors of one model, without a task axis."""
        ...

    def begin(self, params: Params, support: Batch) -> Params:
        """The tensors that adaptation starts from, for stacked ``params`` [T, ...]: usually ``params`` themselves.

        A model whose head is made afresh for every task (zero, or from prototypes of the support set) adds it here.
        """
        ...

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean loss (nats a target for classification) of stacked ``params`` [T, ...] on ``batch`` [T, B, ...].

        ``dropout`` names the masks of this call: the same number gives the same masks, and an example of ``batch``
        keeps its own in every part of the batch (`DropoutMasks` sees to both). ``None`` means evaluation, without
        dropout.
        """
        ...

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, classes] logits, or [T, B, ...] predicted values for regression. No dropout."""
        ...

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] the representation that the head reads. No dropout."""
        ...

    @property
    def task_execution(self) -> TaskExecution:
        """How a meta-batch of this model runs fastest on a CPU."""
        ...

    def require_second_order(self) -> None:
        """Check that the losses have second derivatives.

        Raises:
            InputError: they do not (a fused attention kernel); the message names the setting.
        """
        ...


@runtime_checkable
class OutputModel(Model, Protocol):
    """A model whose losses are a function of its outputs, which Gauss-Newton curvature asks for.

    ``losses(params, batch, dropout)`` is ``output_losses(predict(params, batch, dropout), batch)``. A model whose
    normalisation couples the examples of a batch says so with an attribute ``batch_statistics = True``.
    """

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """As in `Model`, under the dropout masks of ``losses`` where ``dropout`` names them."""
        ...

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean losses of ``outputs`` [T, B, ...]."""
        ...


def require_same_shape(predictions: torch.Tensor, targets: torch.Tensor) -> None:
    """Refuse real-valued targets whose broadcasting would pair values that do not belong together.

    Raises:
        InputError: predictions [T, B, ...] and targets differ in shape.
    """
    if predictions.shape != targets.shape:
        raise InputError(
            f"targets must be shaped like the predictions, {list(predictions.shape)}, not {list(targets.shape)}"
        )
