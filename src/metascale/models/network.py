"""What models share: initial weights, checks, losses per task; and, with a linear head, both layouts of a task axis."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F

from metascale.core.columns import IGNORED
from metascale.core.dropout import DropoutMasks, drop
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import n_elements, stack_tasks
from metascale.core.types import Batch, Model, Params, TaskExecution, require_same_shape
from metascale.models.kernels.linear import linear

HeadStart: TypeAlias = Literal["learned", "shared", "zero", "prototype"]
"""What the head of a task starts from before its first inner step.

``"learned"``: a meta-parameter. ``"shared"``: one learnt vector for all classes, so that before adaptation every class
is equally likely whatever the labels are called (UNICORN-MAML, Ye and Chao 2022, arXiv 2106.16245, section 5).
``"zero"``: zeros. ``"prototype"``: the class means p_c of the support set's features, w_c = 2 p_c and b_c = -|p_c|^2,
with the meta-gradient through them (Proto-MAML, Triantafillou et al. 2020, arXiv 1903.03096, section 2.3).
"""
SHARED = "shared.weight"


class Network(ABC):
    """Outputs that are a linear function ``head`` of features: of one task, or of T tasks in one call.

    With a task axis parameters, batches and losses carry a leading axis of T tasks (a `core.types.Model`) and linear
    maps are [T, in, out]. Without one the network is a supervised model (see `models.language`): parameters are those
    of ``init``, batches [B, ...], and linear maps [out, in], as in `torch.nn.Linear`.
    """

    @property
    @abstractmethod
    def task_axis(self) -> bool: ...

    @abstractmethod
    def init(self, seed: int) -> Params:
        """The trainable tensors of one task."""

    @abstractmethod
    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, d] what the head reads; [B, d] without a task axis."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """Names (ends of names) of the parameters that read the width out into a fixed number of outputs."""
        return ("head.weight",)

    @property
    def head(self) -> HeadStart:
        return "learned"

    @property
    def head_shape(self) -> tuple[int, int]:
        """Features and outputs of the head; only of networks whose head may be made afresh."""
        raise NotImplementedError

    @property
    def task_execution(self) -> TaskExecution:
        return "stacked"

    def require_second_order(self) -> None:
        return None

    def begin(self, params: Params, support: Batch) -> Params:
        """``params`` with the head that every task starts from (see `HeadStart`).

        Raises:
            InputError: a class has no example in a support set, whose mean a prototype head needs.
        """
        if self.head == "learned":
            return params
        n_features, n_outputs = self.head_shape
        like = next(iter(params.values()))
        bias = like.new_zeros(support.n_tasks, n_outputs)
        if self.head == "prototype":
            weight, bias = prototype_head(self.features(params, support), support.targets, n_outputs)
        elif self.head == "shared":
            weight = params[SHARED].expand(-1, -1, n_outputs)
        else:
            weight = like.new_zeros(support.n_tasks, n_features, n_outputs)
        return {**params, "head.weight": weight, "head.bias": bias}

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean losses; without a task axis every example's [B], without history."""
        if self.task_axis:
            return self.output_losses(self.predict(params, batch, dropout), batch)
        with torch.no_grad():
            return self.example_losses(self.predict(params, batch, dropout), batch)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean losses of outputs [T, B, n_outputs]: cross-entropy in nats."""
        return cross_entropy_per_task(outputs, batch.targets)

    def example_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[B] losses of outputs [B, n_outputs]: cross-entropy in nats."""
        return cross_entropy_each(outputs, batch.targets)

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Without a task axis: the mean loss, and every example's without history."""
        losses = self.example_losses(self.predict(params, batch, dropout), batch)
        return losses.mean(), losses.detach()

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, n_outputs]; [B, n_outputs] without a task axis."""
        return self._linear(params, "head", self.features(params, batch, dropout))

    def n_params(self) -> int:
        """Parameters of one task, without making them."""
        with torch.device("meta"):
            return n_elements(self.init(0))

    def _init_linear(self, seed: int, name: str, n_in: int, n_out: int, std: float) -> Params:
        """Normal weights and a bias of zero."""
        shape = (n_in, n_out) if self.task_axis else (n_out, n_in)
        return {f"{name}.weight": normal(seed, name, *shape, std=std), f"{name}.bias": torch.zeros(n_out)}

    def _init_head(self, seed: int, n_features: int, n_outputs: int) -> Params:
        if self.head == "shared":
            return {SHARED: normal(seed, SHARED, n_features, 1, std=1 / math.sqrt(n_features))}
        if self.head != "learned":
            return {}
        return self._init_linear(seed, "head", n_features, n_outputs, 1 / math.sqrt(n_features))

    def _linear(self, params: Params, name: str, values: torch.Tensor) -> torch.Tensor:
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        return torch.baddbmm(bias.unsqueeze(1), values, weight) if self.task_axis else linear(values, weight, bias)

    def _drop(self, values: torch.Tensor, batch: Batch, rate: float, dropout: int | None, name: str) -> torch.Tensor:
        """Inverted dropout of activations [T, B, ..., d] or [B, ...]; none for ``dropout=None`` or rate 0."""
        if dropout is None or rate == 0 or not self.task_axis:
            return drop(values, rate, dropout, name)
        masks = DropoutMasks.of(batch, rate, dropout)
        return values * masks(values.flatten(0, 1), name).view(values.shape)


def prototype_head(features: torch.Tensor, targets: torch.Tensor, n_outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [T, d, C] and bias [T, C] whose logits are -|f - p_c|^2 but for a number that all classes share.

    Args:
        features: [T, B, d] of the support set.
        targets: [T, B] their classes.

    Raises:
        InputError: a class has no example in a support set.
    """
    means = class_means(features, targets, n_outputs)
    return 2 * means.transpose(1, 2), -means.square().sum(-1)


def class_means(features: torch.Tensor, targets: torch.Tensor, n_outputs: int) -> torch.Tensor:
    """[T, C, d] mean features of each class.

    Raises:
        InputError: a class has no example in a support set.
    """
    members = F.one_hot(targets, n_outputs).to(features.dtype)
    counts = members.sum(1)
    if bool((counts == 0).any()):
        task, label = (int(index) for index in (counts == 0).nonzero()[0])
        raise InputError(
            f"the support set of task {task} has no example of class {label}; prototypes need one of every class"
        )
    return torch.bmm(members.transpose(1, 2), features) / counts.unsqueeze(-1)


def normal(seed: int, name: str, *shape: int, std: float) -> torch.Tensor:
    """Normal numbers of the stream that the parameter's name addresses; none are drawn on the ``meta`` device."""
    if torch.get_default_device().type == "meta":
        return torch.empty(*shape)
    return torch.randn(*shape, generator=torch_generator(seed, "init", name)) * std


def check_sizes(network: str, **sizes: int) -> None:
    """Refuse sizes below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"{name} of the {network} must be at least 1, not {value}", field=name, value=value)


def refuse_head(head: HeadStart, classifies_tasks: bool) -> None:
    """Refuse an unknown head, and one made afresh where there are no tasks of classes."""
    if head not in get_args(HeadStart):
        allowed = ", ".join(map(repr, get_args(HeadStart)))
        raise InputError(f"there is no head '{head}'; allowed are {allowed}", field="head", value=head, allowed=allowed)
    if head != "learned" and not classifies_tasks:
        raise InputError(
            f"head='{head}' is of tasks of classes; elsewhere the head is 'learned'", field="head", value=head
        )


def check_rates(network: str, **rates: float) -> None:
    """Refuse dropout rates outside [0, 1)."""
    for name, value in rates.items():
        if not 0 <= value < 1:
            message = f"{name} of {network} must be from 0 to below 1, not {value}"
            raise InputError(message, field=name, value=value)


def cross_entropy_per_task(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[T] mean cross-entropy in nats of logits [T, B, classes] against integer targets [T, B]."""
    return cross_entropy_each(logits.flatten(0, 1), targets.flatten()).view(targets.shape).mean(1)


def cross_entropy_each(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N, ...] cross-entropy in nats of logits [N, classes, ...]; zero where the target is `IGNORED`.

    Raises:
        InputError: a target that is no class (on a CPU: an accelerator is not waited for).
    """
    try:
        return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)
    except IndexError as error:
        found = targets[targets != IGNORED]
        raise InputError(
            f"targets name classes from {int(found.min())} to {int(found.max())}, but outputs have "
            f"{logits.shape[1]}, numbered from 0",
            field="targets",
        ) from error


def squared_error_per_task(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N] mean squared error of predictions [N, ...] against targets of the same shape, task by task (or any rows).

    Raises:
        InputError: their shapes differ, and broadcasting would pair values that do not belong together.
    """
    require_same_shape(predictions, targets)
    return (predictions - targets).square().flatten(1).mean(1)


@dataclass(frozen=True)
class OneTask:
    """A `Model` of T tasks used for one: a supervised model, whose tensors carry no task axis.

    Targets are classes (cross-entropy) or real values (squared error), as the model's own loss has them.

    Raises:
        InputError: a model that normalises by the batch at hand in evaluation too, as `ConvNet` does: its test numbers
            would depend on how the test set is cut into batches.
    """

    model: Model

    def __post_init__(self) -> None:
        if getattr(self.model, "batch_statistics", False):
            raise InputError(
                f"{type(self.model).__name__} takes the statistics of the evaluated batch, so it has no test loss of "
                "its own; use ConvNet with norm='group' or ResNet for supervised training",
                field="model",
            )

    @property
    def readouts(self) -> tuple[str, ...]:
        return ("head.weight",)

    def init(self, seed: int) -> Params:
        return self.model.init(seed)

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's mean loss, and every example's without history (of a second, dropout-free pass)."""
        stacked, one = self._stacked(params, batch)
        return self.model.losses(stacked, one, dropout)[0], self.losses(params, batch)

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B]."""
        with torch.no_grad():
            outputs = self.predict(params, batch)
            if batch.targets.is_floating_point():
                return squared_error_per_task(outputs, batch.targets)
            return cross_entropy_each(outputs, batch.targets)

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[B, outputs]."""
        return self.model.predict(*self._stacked(params, batch))[0]

    def _stacked(self, params: Params, batch: Batch) -> tuple[Params, Batch]:
        return stack_tasks(params, 1), batch.map(lambda value: value.unsqueeze(0))
