"""Random numbers with an address inside any torch module, and attention that can be differentiated twice.

Whatever way a module drops out (layers, ``F.dropout``, inside attention or between LSTM layers), torch asks for
Bernoulli numbers at the level of its operators. There `AddressedRandomness` answers with the masks of
`core.dropout.DropoutMasks`, so that an example keeps its mask in whatever chunk or micro-batch it comes, and no
generator is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError

_ATEN = torch.ops.aten
Operator: TypeAlias = Callable[..., Any]


class AddressedRandomness(TorchDispatchMode):
    """Masks of one forward pass by their address; every other random number is refused.

    Args:
        key: names the masks; ``None`` refuses these too (evaluation).
        numbers: [B] integers that name the examples, or [T, B] where activations carry a leading task axis.
        axes: for each mask in turn the axis along which the examples lie (each of them several times in a row where it
            is longer than B, as heads of attention are), or ``None``: the mask belongs to no example (a weight's) and
            is the same for all. Default: the first axis.

    Attributes:
        shapes: those of the masks so far.
    """

    def __init__(self, key: int | None, numbers: torch.Tensor, axes: Sequence[int | None] = ()) -> None:
        super().__init__()
        self.key, self.numbers, self.axes = key, numbers, axes
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(
        self, func: Operator, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _draws(func, args, kwargs):
            return func(*args, **kwargs)
        name = str(func).removeprefix("aten.")
        if self.key is None:
            raise InputError(
                f"the module draws random numbers ({name}) in evaluation mode; a prediction must be a function of "
                "parameters and inputs",
                field="net",
            )
        if func in (_ATEN.bernoulli_.float, _ATEN.bernoulli.p):
            kept = self.kept(args[0], args[1] if len(args) > 1 else kwargs.get("p", 0.5))
            return args[0].copy_(kept) if func is _ATEN.bernoulli_.float else kept
        if func is _ATEN.native_dropout.default:
            values, rate = args[0], args[1]
            kept = self.kept(values, 1 - rate)
            return values * kept / (1 - rate), kept.bool()
        raise InputError(
            f"the module draws random numbers ({name}) that have no address, so a run could not be repeated; dropout "
            "of any kind is fine, other noise belongs into the inputs",
            field="net",
        )

    def kept(self, like: torch.Tensor, probability: float) -> torch.Tensor:
        """Ones with this probability, else zeros, shaped like ``like``."""
        place, lead = len(self.shapes), self.numbers.ndim - 1
        self.shapes.append(like.shape[lead:])
        if probability in (0.0, 1.0):
            return torch.full_like(like, probability)
        axis = self.axes[place] if place < len(self.axes) else 0
        whole = like.new_empty(()).expand(like.shape[lead:])
        assert self.key is not None
        if axis is None:
            mask = DropoutMasks(1 - probability, self.key, self.numbers.new_zeros(1))(whole.reshape(1, -1), str(place))
            return mask.sign().view(whole.shape).repeat(*like.shape[:lead], *[1] * whole.ndim)  # torch writes to it
        n_examples, moved = self.numbers.shape[-1], whole.movedim(axis, 0)
        numbers = self.numbers.flatten()
        rows = whole.reshape(1, -1)[:, : moved.numel() // n_examples].expand(len(numbers), -1)
        mask = DropoutMasks(1 - probability, self.key, numbers)(rows, str(place)).sign()
        return mask.view(*self.numbers.shape[:-1], *moved.shape).movedim(lead, lead + axis)


class Watched(AddressedRandomness):
    """Notes the masks' shapes and drops nothing: which axis is that of the examples is not known yet."""

    def kept(self, like: torch.Tensor, probability: float) -> torch.Tensor:
        self.shapes.append(like.shape)
        return torch.ones_like(like)


def example_axes(shapes: Sequence[torch.Size], with_more: Sequence[torch.Size]) -> tuple[int | None, ...]:
    """The axis of the examples of every mask, which is the one that grew with their number."""
    if len(shapes) != len(with_more):
        return ()
    pairs = zip(shapes, with_more, strict=True)
    grown = [[axis for axis, size in enumerate(few) if size != many[axis]] for few, many in pairs]
    return tuple(axes[0] if axes else None for axes in grown)


def _draws(func: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call of an operator reads a generator: its dropout may be zero, or switched off."""
    overload = cast(Any, func)
    if torch.Tag.nondeterministic_seeded not in overload.tags:
        return False
    for place, argument in enumerate(overload._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        if argument.name in ("dropout_p", "dropout") and value == 0:
            return False
        if argument.name in ("train", "training") and value is False:
            return False
    return True


class TwiceDifferentiable(TorchFunctionMode):
    """Attention by matrix products: fused kernels have no second derivative.

    Attributes:
        met: whether attention was computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = False

    def __torch_function__(
        self, func: Operator, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            self.met = True
            return _attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            self.met = True
            wanted = kwargs.get("need_weights", True)
            output, weights = func(*args, **{**kwargs, "need_weights": True})
            return output, weights if wanted else None
        return func(*args, **kwargs)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(q kᵀ · scale + mask) v, as `torch.nn.functional.scaled_dot_product_attention` defines it."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p, training=dropout_p > 0) @ value
