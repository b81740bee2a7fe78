"""The two levels of a bilevel problem: parameters to start from, and losses as functions of both.

Torch modules, Hugging Face models included, become levels through `from_modules`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.problem import Total, alone
from metascale.training.optimizers import OptimizerState


@dataclass
class Pass:
    """One pass through the lower model.

    Args:
        dropout: names the masks (the same number, the same masks); ``None`` is evaluation mode, without dropout.
        buffers: the lower model's buffers (batch-norm statistics) as the pass finds them; never written to.
        updated: the buffers as the pass leaves them, filled in by the loss when it has any. Only a training step
            keeps them.
        held: values that ``hold`` met so far, in the order of its calls.
        replay: what ``hold`` returns in their place, recorded in an earlier pass; ``None`` records.
    """

    dropout: int | None
    buffers: Params
    updated: Params = field(default_factory=dict)
    held: list[torch.Tensor] = field(default_factory=list)
    replay: list[torch.Tensor] | None = None

    def hold(self, value: torch.Tensor) -> torch.Tensor:
        """``value`` without history; in a perturbed pass what it was in the lower step that is being differentiated.

        Raises:
            InputError: the perturbed pass holds more values than the lower step did.
        """
        self.held.append(value.detach())
        if self.replay is None:
            return self.held[-1]
        if len(self.held) > len(self.replay):
            raise InputError(f"a perturbed pass holds value number {len(self.held)}; the lower step held fewer")
        return self.replay[len(self.held) - 1].to(value.dtype)


_CURRENT: ContextVar[Pass | None] = ContextVar("metascale_bilevel_pass", default=None)


def hold(value: torch.Tensor) -> torch.Tensor:
    """``value`` as a constant for every kind of derivative: for the inputs that an upper model takes from the lower.

    A weighting network sees an example's loss as data: the lower step does not differentiate its weight through it.
    ``detach`` does that for backward passes, but a finite difference moves θ and with it the detached loss, which adds
    a derivative that the lower step does not have. A held value stays what it was in the lower step.
    """
    current = _CURRENT.get()
    return value.detach() if current is None else current.hold(value)


@contextmanager
def current(context: Pass) -> Iterator[None]:
    """Calls of ``hold`` inside belong to this pass."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)


BilevelLoss: TypeAlias = Callable[[Params, Params, Any, Pass], torch.Tensor]
"""(θ, λ, batch, pass) -> a scalar, pure."""
ModuleLoss: TypeAlias = Callable[["BoundModule", "BoundModule", Any], torch.Tensor]
"""(lower model, upper model, batch) -> a scalar; both models are called like the modules they stand for."""


@dataclass(frozen=True)
class Start:
    """Where training starts: θ, λ, the lower model's buffers, and optimiser states where they are not fresh.

    ``optimizers`` may hold a state under ``"lower"`` and ``"upper"``.
    """

    lower: Params
    upper: Params
    buffers: Params = field(default_factory=dict)
    optimizers: Mapping[str, OptimizerState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, level in (("lower", self.lower), ("upper", self.upper)):
            if not level:
                raise InputError(f"the {name} level has no parameters that require gradients")
            for key, value in level.items():
                if not value.is_floating_point() or value.dtype.itemsize < 4:
                    raise InputError(
                        f"the {name} parameter '{key}' is {value.dtype}: levels are kept in float32 or float64; load "
                        "the model in float32 and set autocast=torch.bfloat16 for speed"
                    )


class Shards(Protocol):
    """θ spread over processes."""

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all shards of a number that each process has of its own."""
        ...

    def whole(self, tensors: Params) -> Params:
        """Shards of θ, or of what is shaped like it, as whole tensors."""
        ...

    def part(self, tensors: Params) -> Params:
        """This process's shards of whole tensors."""
        ...


@dataclass(frozen=True, eq=False)
class Levels:
    """The parameters of both levels, and their losses.

    Args:
        start: gives θ, λ and buffers to start from.
        lower_loss, upper_loss: ℓ and M.
        mirror: called with every new tensor, by level (``"lower"``, with its buffers, or ``"upper"``) and name.
        bound: the lower model with given parameters and buffers, where it is a module.
        reduced: the lower model averages θ's gradients over the processes itself.
        shards: how θ is spread over the processes; ``None`` where each holds all of it.
    """

    start: Callable[[], Start]
    lower_loss: BilevelLoss
    upper_loss: BilevelLoss
    mirror: Callable[[str, Params], None] = lambda level, tensors: None
    bound: Callable[[Params], BoundModule] | None = None
    reduced: bool = False
    shards: Shards | None = None

    @property
    def total(self) -> Total:
        """Sums a number over the processes that hold parts of θ."""
        return self.shards.total if self.shards else alone


def from_functions(lower: Params, upper: Params, lower_loss: BilevelLoss, upper_loss: BilevelLoss) -> Levels:
    """Levels of plain tensors and functions."""
    start = Start(lower, upper)

    def bind(loss: BilevelLoss) -> BilevelLoss:
        def call(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            with current(context):
                return loss(theta, lam, batch, context)

        return call

    return Levels(lambda: start, bind(lower_loss), bind(upper_loss))


class BoundModule:
    """A torch module with given tensors in place of its own, which stay as they are.

    It is called like the module. Attributes are the module's: a part (``model.encoder``, ``model[0]``) is bound as
    well, parameters and buffers are the given ones, other methods of the module's class run on the given tensors.
    """

    module: nn.Module
    _tensors: Params

    def __init__(self, module: nn.Module, tensors: Params) -> None:
        self.__dict__.update(module=module, _tensors=tensors)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(self.module, self._tensors, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        if isinstance(value, nn.Module):
            return self._part(name, value)
        if isinstance(value, torch.Tensor):
            return self._tensors.get(name, value)
        if not inspect.ismethod(value) or value.__self__ is not self.module:
            return value
        if hasattr(nn.Module, name) and name != "forward":
            raise InputError(
                f"'{name}' of a module cannot be used in a loss of bilevel training, where other tensors stand for its "
                "own; call the module, its parts or its own methods, or use parameters() and named_parameters()"
            )
        return functools.partial(self._method, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise InputError(f"a loss of bilevel training cannot set '{name}': the modules must not change in a pass")

    def __getitem__(self, index: Any) -> Any:
        part = self.module[index]  # type: ignore[index]
        return self._part(next(name for name, child in self.module.named_children() if child is part), part)

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The given tensors by name, and the module's own (frozen ones) where none is given."""
        return ((name, self._tensors.get(name, value)) for name, value in self.module.named_parameters())

    def parameters(self) -> Iterator[torch.Tensor]:
        """As `named_parameters`."""
        return (value for _, value in self.named_parameters())

    def _part(self, name: str, part: nn.Module) -> BoundModule:
        prefix = name + "."
        own = {key.removeprefix(prefix): v for key, v in self._tensors.items() if key.startswith(prefix)}
        return BoundModule(part, own)

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        held = {f"held.{key}": value for key, value in self._tensors.items()}
        return torch.func.functional_call(_Method(self.module), held, (name, *args), kwargs)


class _Method(nn.Module):
    """A module whose forward pass is a method of another."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.training = held.training
        self.held = held

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.held, name)(*args, **kwargs)


def trainable(module: nn.Module) -> Params:
    """The parameters that require gradients, by name, without history."""
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}


UPPER = "upper:"
"""Before the name of an upper module's buffer, among the buffers of both levels."""


def split_buffers(buffers: Params) -> tuple[Params, Params]:
    """The lower and the upper module's buffers, by their own names."""
    lower = {name: value for name, value in buffers.items() if not name.startswith(UPPER)}
    upper = {name.removeprefix(UPPER): value for name, value in buffers.items() if name.startswith(UPPER)}
    return lower, upper


def joined_buffers(lower: Mapping[str, torch.Tensor], upper: Mapping[str, torch.Tensor]) -> Params:
    """Both modules' buffers in one dictionary."""
    return {**lower, **{UPPER + name: value for name, value in upper.items()}}


def _refuse_lazy(**levels: nn.Module) -> None:
    for level, module in levels.items():
        for name, value in module.named_parameters():
            if isinstance(value, nn.parameter.UninitializedParameter):
                raise InputError(
                    f"the {level} parameter '{name}' has no shape yet: call the module once with a batch, which makes "
                    "its lazy layers, before it is trained"
                )


def from_modules(model: nn.Module, upper: nn.Module, lower_loss: ModuleLoss, upper_loss: ModuleLoss) -> Levels:
    """Levels of two torch modules: θ are the model's parameters that require gradients, λ those of ``upper``.

    The losses receive both modules bound to the tensors of the pass. In a pass that names its dropout masks they are in
    training mode, otherwise in evaluation mode; batch normalisation that is in evaluation mode inside a module in
    training mode when the levels are made stays in it. Buffers are cloned for each pass: only lower training
    steps update batch statistics, of both modules. Training starts from the modules' weights, and the modules always
    hold the tensors of the current state (without a copy), so afterwards they hold what was learnt.

    Raises:
        InputError: a level has no parameters, parameters in half precision, or lazy ones that have no shape yet.
    """
    _refuse_lazy(lower=model, upper=upper)
    kept, kept_upper = persistent_buffers(model), persistent_buffers(upper)
    still = frozen_parts(model, upper)

    def start() -> Start:
        buffers = {name: value.detach().clone() for name, value in joined_buffers(kept, kept_upper).items()}
        return Start(trainable(model), trainable(upper), buffers)

    def bind(loss: ModuleLoss) -> BilevelLoss:
        def call(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            copies = {name: value.clone() for name, value in context.buffers.items()}
            lower_copies, upper_copies = split_buffers(copies)
            spare = {name: value.clone() for name, value in upper.named_buffers() if name not in kept_upper}
            with current(context), keyed_mode((model, upper), context.dropout, theta, still):
                value = loss(
                    BoundModule(model, theta | lower_copies), BoundModule(upper, lam | upper_copies | spare), batch
                )
            if context.dropout is not None:
                context.updated = copies
            return value

        return call

    own: dict[str, dict[str, torch.Tensor]] = {
        "lower": {**dict(model.named_parameters()), **kept},
        "upper": {**dict(upper.named_parameters()), **kept_upper},
    }

    def mirror(level: str, tensors: Params) -> None:
        for name, value in tensors.items():
            own[level][name].data = value

    start()
    return Levels(start, bind(lower_loss), bind(upper_loss), mirror, lambda tensors: BoundModule(model, tensors))


def frozen_parts(*modules: nn.Module) -> frozenset[nn.Module]:
    """Layers with running statistics that are in evaluation mode inside a module in training mode: frozen on purpose.

    Other parts are trained whatever their mode: a pretrained backbone comes in evaluation mode as a whole.
    """
    return frozenset(
        part
        for module in modules
        if module.training
        for part in module.modules()
        if not part.training and getattr(part, "running_mean", None) is not None
    )


def persistent_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers in a module's state dictionary; the others are constants, such as position numbers."""
    saved = module.state_dict(keep_vars=True)
    return {name: value for name, value in module.named_buffers() if name in saved}


@contextmanager
def keyed_mode(
    modules: tuple[nn.Module, ...],
    dropout: int | None,
    tensors: Params,
    still: frozenset[nn.Module] = frozenset(),
) -> Iterator[None]:
    """Training mode, except for the parts in ``still``, or evaluation mode.

    In training mode the global generators are seeded by ``dropout`` and restored afterwards: dropout layers draw from
    them only. A module's mode may differ from that of its parts (a pretrained backbone comes in evaluation mode), so
    each part is set.
    """
    training = dropout is not None
    for module in modules:
        for part in module.modules():
            wanted = training and part not in still
            if part.training != wanted:
                part.training = wanted
    devices = sorted({value.device.index or 0 for value in tensors.values() if value.device.type == "cuda"})
    with torch.random.fork_rng(devices, enabled=training):
        if dropout is not None and all(value.device.type == "cpu" for value in tensors.values()):
            # torch.manual_seed would seed every device, which takes milliseconds.
            torch.default_generator.manual_seed(dropout)
        elif dropout is not None:
            torch.manual_seed(dropout)
        yield
