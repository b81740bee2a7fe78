"""Task-batched low-rank adapters: one pass of a frozen backbone serves T tasks.

An adapted layer computes y = W x + (alpha/r) · B_t A_t x (Hu et al. 2021, arXiv 2106.09685) for every task t at once:
x [T·B, S, d_in] is viewed as [T, B·S, d_in], and the tasks' own matrices enter through two batched products.
The adapters of a call reach the layers through a context variable, so threads can share one backbone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.autograd import forward_ad

from metascale.core.dropout import DropoutMasks
from metascale.core.streams import torch_generator
from metascale.core.types import Params
from metascale.models.kernels.attention import HALF, ShortAttention
from metascale.models.kernels.int8 import Int8Linear
from metascale.models.kernels.linear import forward_of, forward_of_columns
from metascale.models.kernels.recompute import recomputed

SUFFIX_A = ".lora_A"
SUFFIX_B = ".lora_B"
CONV1D = "Conv1D"
"""GPT-2's linear layer in transformers, whose weight is [d_in, d_out]."""
Checkpointing: TypeAlias = Literal["none", "adapters", "all"]
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "adapters", "all")


@dataclass(frozen=True, slots=True, eq=False)
class AdapterCall:
    """What the adapted layers need to know during one pass.

    Args:
        adapters: for each module name, A [T, r, d_in] and B [T, d_out, r].
        scale: alpha / r.
        n_tasks: T; the backbone's batch holds the tasks' examples one task after the other.
        masks: of the adapters' inputs; ``None`` means no dropout.
        checkpoint_blocks: keep only the inputs of blocks, and compute the rest again when a gradient is taken: of no
            block, of those that hold adapters, or of all.
    """

    adapters: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    n_tasks: int
    masks: DropoutMasks | None = None
    checkpoint_blocks: Checkpointing = "none"


_ACTIVE: ContextVar[AdapterCall | None] = ContextVar("metascale_adapter_call", default=None)
_ATTACH_LOCK = threading.Lock()


class Active(AbstractContextManager[None]):
    """Adapted layers that run inside use ``call``; other threads do not see it. It can be entered again and again."""

    def __init__(self, call: AdapterCall):
        self._call = call
        self._tokens: list[Token[AdapterCall | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_ACTIVE.set(self._call))

    def __exit__(self, *error: object) -> None:
        _ACTIVE.reset(self._tokens.pop())


class AdaptedForward:
    """Takes the place of a linear layer's ``forward``; without an active call it is that ``forward``."""

    def __init__(self, name: str, base: Callable[..., torch.Tensor]):
        self.name = name
        self.base = base

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        call = _ACTIVE.get()
        if call is None or self.name not in call.adapters:
            return y
        return add_adapter(y, x, self.name, call)


def add_adapter(y: torch.Tensor, x: torch.Tensor, name: str, call: AdapterCall) -> torch.Tensor:
    """y + scale · B_t A_t x, in y's precision, for y [T·B, ..., d_out] and x [T·B, ..., d_in]."""
    a, b = (matrix.to(y.dtype) for matrix in call.adapters[name])
    inputs = x.to(y.dtype)
    if call.masks is not None:
        inputs = inputs * call.masks(inputs, name)
    inputs = inputs.reshape(call.n_tasks, -1, x.shape[-1])
    base = y.reshape(call.n_tasks, -1, y.shape[-1])
    hidden = torch.bmm(inputs, a.transpose(1, 2))
    return torch.baddbmm(base, hidden, b.transpose(1, 2), alpha=call.scale).view(y.shape)


class CheckpointedForward:
    """Takes the place of a block's ``forward``: the block is run again for a gradient when the call asks for it.

    Under ``torch.func`` and forward-mode differentiation, which keep nothing for later, the block runs as it is.
    Elsewhere a block in half precision runs its short attentions in float32 (`ShortAttention`), every time.
    """

    def __init__(self, name: str, block: nn.Module):
        self.name = name
        self.forward = block.forward
        self.half = any(p.dtype in HALF for p in block.parameters())

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """The block as it is."""
        if not self.half or _in_transform():
            return self.forward(*args, **kwargs)
        with ShortAttention():
            return self.forward(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = _ACTIVE.get()
        if call is None or call.checkpoint_blocks == "none" or not torch.is_grad_enabled() or _in_transform():
            return self.base(*args, **kwargs)
        own = [name for name in call.adapters if name.startswith(self.name + ".")]
        if call.checkpoint_blocks == "adapters" and not own:
            return self.base(*args, **kwargs)

        def run(inputs: tuple[Any, Any], matrices: tuple[torch.Tensor, ...]) -> Any:
            adapters = dict(zip(own, zip(matrices[::2], matrices[1::2], strict=True), strict=True))
            with Active(replace(call, adapters=adapters)):
                return self.base(*inputs[0], **inputs[1])

        return recomputed(run, (args, kwargs), [matrix for name in own for matrix in call.adapters[name]])


def _in_transform() -> bool:
    return bool(torch._C._are_functorch_transforms_active()) or forward_ad._current_level >= 0


def attach(backbone: nn.Module, names: Iterable[str]) -> None:
    """Let the named linear layers, and the blocks around and beside them, take adapters. Again, it changes nothing.

    Every plain linear layer of the backbone, GPT-2's kind too, computes by `models.kernels.linear` from then on.
    """
    with _ATTACH_LOCK:
        for module in backbone.modules():
            if "forward" in vars(module):
                continue
            if type(module) is nn.Linear:
                module.forward = forward_of(module)  # type: ignore[method-assign,assignment]
            elif type(module).__name__ == CONV1D:
                module.forward = forward_of_columns(module)
        for name in names:
            module = backbone.get_submodule(name)
            if not isinstance(module.forward, AdaptedForward):
                module.forward = AdaptedForward(name, module.forward)
            stack = enclosing_block(backbone, name).rpartition(".")[0]
            for number, block in backbone.get_submodule(stack).named_children() if stack else ():
                if not isinstance(block.forward, CheckpointedForward):
                    block.forward = CheckpointedForward(f"{stack}.{number}", block)


def enclosing_block(backbone: nn.Module, name: str) -> str:
    """The name of the outermost list item (a Transformer block) around ``name``; empty when there is none."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        if isinstance(backbone.get_submodule(".".join(parts[:depth])), nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return ""


def linear_shapes(backbone: nn.Module) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of every layer that can be adapted: ``nn.Linear``, its quantised kinds, GPT-2's ``Conv1D``."""
    shapes = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear):
            shapes[name] = (module.in_features, module.out_features)
        elif is_transposed(module):
            shapes[name] = (int(module.nx), int(module.nf))
    return shapes


def is_transposed(module: nn.Module) -> bool:
    """Whether a layer is GPT-2's ``Conv1D``, whose weight is [d_in, d_out], or stands for one."""
    return type(module).__name__ == CONV1D or (isinstance(module, Int8Linear) and module.transposed)


def init_adapters(shapes: Mapping[str, tuple[int, int]], rank: int, seed: int, dtype: torch.dtype) -> Params:
    """A uniform in ±1/sqrt(d_in) (Kaiming with a = sqrt 5, as peft) and B zero: the start is the backbone itself."""
    params: Params = {}
    for name, (d_in, d_out) in shapes.items():
        bound = 1.0 / math.sqrt(d_in)
        generator = torch_generator(seed, "init", name)
        params[name + SUFFIX_A] = torch.empty(rank, d_in, dtype=dtype).uniform_(-bound, bound, generator=generator)
        params[name + SUFFIX_B] = torch.zeros(d_out, rank, dtype=dtype)
    return params


def adapters_of(params: Params, names: Iterable[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The A and B of each named module."""
    return {name: (params[name + SUFFIX_A], params[name + SUFFIX_B]) for name in names}
