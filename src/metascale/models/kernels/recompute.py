"""Checkpointing that stays cheap under second derivatives: run a block again instead of keeping what is inside it.

A checkpointed block keeps its inputs alone. Its backward pass runs it again; and that backward pass is itself a block
that keeps its inputs alone, so a second derivative runs both again, one block's graph at a time (section 3 of Chen et
al. 2016, arXiv 1604.06174, applied to the backward pass as well). Checkpointing by saved-tensor hooks would keep, when
a gradient is taken with ``create_graph``, all that it had just recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

Tensors: TypeAlias = tuple[torch.Tensor, ...]
Pure: TypeAlias = Callable[..., Tensors]
"""A pure function of tensors that returns a tuple of tensors."""

RECOMPUTE = "metascale.recompute"
"""The name under which profilers, and the memory meter, see a block being run again."""


def recomputed(fn: Callable[..., Any], inputs: Sequence[Any], tensors: Sequence[torch.Tensor]) -> Any:
    """``fn(inputs, tensors)`` that keeps its arguments alone for derivatives of any order.

    Args:
        fn: a pure function of ``inputs`` (any nesting, tensors in it are differentiated) and ``tensors``. It must read
            no other tensor that needs a gradient, and draw from no global generator.
        inputs, tensors: its arguments.

    Returns:
        What ``fn`` returns. A tensor that ``fn`` only passes through is returned as it came.
    """
    leaves, structure = tree_flatten(inputs)
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    arguments = (*(leaves[index] for index in places), *tensors)
    shape = _Structure()

    def pure(*values: torch.Tensor) -> Tensors:
        filled = list(leaves)
        for index, value in zip(places, values, strict=False):
            filled[index] = value
        return shape.made_by(fn(tree_unflatten(filled, structure), values[len(places) :]), values)

    made = _Recomputed.apply(_in_this_precision(pure, arguments), *arguments)
    return shape.around(made, arguments)


class _Structure:
    """How the tensors that a function makes lie in what it returns; known after its first call."""

    def __init__(self) -> None:
        self.structure: Any = None
        self.leaves: list[Any] = []

    def made_by(self, result: Any, arguments: Tensors) -> Tensors:
        """The tensors in ``result`` that are no arguments passed through."""
        found, structure = tree_flatten(result)
        own = {id(value): index for index, value in enumerate(arguments)}
        made = tuple(value for value in found if isinstance(value, torch.Tensor) and id(value) not in own)
        if self.structure is None:
            self.structure = structure
            self.leaves = [_place(value, own) for value in found]
        return made

    def around(self, made: Tensors, arguments: Tensors) -> Any:
        """The whole result again."""
        left = iter(made)
        fill: dict[type, Callable[[Any], Any]] = {
            _Made: lambda _: next(left),
            _Passed: lambda leaf: arguments[leaf.index],
        }
        return tree_unflatten([fill.get(type(leaf), lambda x: x)(leaf) for leaf in self.leaves], self.structure)


class _Made:
    """Stands for a tensor that the function made."""


@dataclass(frozen=True, slots=True)
class _Passed:
    """Stands for an argument that the function passed through."""

    index: int


def _place(value: Any, own: dict[int, int]) -> Any:
    if id(value) in own:
        return _Passed(own[id(value)])
    return _Made() if isinstance(value, torch.Tensor) else value


class _Recomputed(torch.autograd.Function):
    """``fn(*inputs)``; its backward pass is a `_Recomputed` too."""

    @staticmethod
    def forward(ctx: Any, fn: Pure, *inputs: torch.Tensor) -> Tensors:
        ctx.fn = fn
        ctx.save_for_backward(*inputs)
        outputs = fn(*inputs)
        ctx.mark_non_differentiable(*(value for value in outputs if not value.is_floating_point()))
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        found = iter(_Recomputed.apply(_pullback(ctx.fn, len(inputs), wanted), *inputs, *cotangents))
        return (None, *(next(found) if is_wanted else None for is_wanted in wanted))


def _pullback(fn: Pure, n_inputs: int, wanted: Sequence[bool]) -> Pure:
    """(inputs, cotangents of the outputs) -> gradients of the wanted inputs; pure, and differentiable where asked."""

    def pull(*values: torch.Tensor) -> Tensors:
        inputs, cotangents = list(values[:n_inputs]), values[n_inputs:]
        create_graph = torch.is_grad_enabled()
        for index, is_wanted in enumerate(wanted):
            if is_wanted and not (create_graph and inputs[index].requires_grad):
                inputs[index] = inputs[index].detach().requires_grad_()
        with torch.enable_grad(), torch.profiler.record_function(RECOMPUTE):
            outputs = fn(*inputs)
        live = [(value, weight) for value, weight in zip(outputs, cotangents, strict=True) if value.requires_grad]
        leaves = [value for value, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
        if not live:
            return tuple(torch.zeros_like(value) for value in leaves)
        return torch.autograd.grad(
            [value for value, _ in live],
            leaves,
            [weight for _, weight in live],
            create_graph=create_graph,
            materialize_grads=True,
        )

    return pull


def _in_this_precision(fn: Pure, arguments: Sequence[torch.Tensor]) -> Pure:
    """``fn`` under the autocast setting of now: a backward pass runs outside of it."""
    kind = arguments[0].device.type
    if kind == "meta":
        return fn
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def run(*values: torch.Tensor) -> Tensors:
        with torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False):
            return fn(*values)

    return run
