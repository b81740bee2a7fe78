"""The coordinate check of μP: do activations, and their changes in training, keep their size as a model gets wider?

After a few steps at one rate, mean |activation| and mean |change since the start| of every matrix product are compared
across widths. Under μP no change grows with the width; under the standard parameterisation the logits' does
(Yang et al. 2022, arXiv 2203.03466, appendix D.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.core.errors import InputError
from metascale.core.trees import require_grad
from metascale.core.types import Batch, Params
from metascale.training.optimizers import Optimizer
from metascale.training.supervised import SupervisedModel

M = TypeVar("M", bound=SupervisedModel)
LOGITS = "logits"
_ONEDNN_LINEAR = "_linear_pointwise"
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", _ONEDNN_LINEAR)


@dataclass(frozen=True)
class CoordinateRow:
    """One activation of one model after ``step`` steps, the mean over its coordinates (and over seeds).

    Args:
        width: of the model.
        step: training steps taken.
        name: the parameter that the activation is a product with, or ``"logits"``.
        size: mean |activation|.
        change: mean |activation − the same at the start|.
    """

    width: int
    step: int
    name: str
    size: float
    change: float


@dataclass(frozen=True)
class CoordinateCheck:
    rows: tuple[CoordinateRow, ...]

    def last(self, quantity: Literal["size", "change"] = "change") -> dict[str, list[tuple[int, float]]]:
        """(width, ``size`` or ``change``) after the last step, ascending, by activation."""
        step = max(row.step for row in self.rows)
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows:
            if row.step == step:
                found.setdefault(row.name, []).append((row.width, row.size if quantity == "size" else row.change))
        return {name: sorted(pairs) for name, pairs in found.items()}

    def exponents(self, quantity: Literal["size", "change"] = "change") -> dict[str, float]:
        """Slope of log ``size`` or ``change`` against log width after the last step, by activation (if it changed)."""
        result = {}
        for name, pairs in self.last(quantity).items():
            widths, values = zip(*pairs, strict=True)
            if min(values) > 0 and len(pairs) > 1:
                result[name] = float(np.polyfit(np.log(widths), np.log(values), 1)[0])
        return result

    def steepest(self, quantity: Literal["size", "change"] = "change") -> tuple[str, float]:
        """The activation that grows fastest with the width, and its exponent.

        Raises:
            InputError: no activation changed.
        """
        found = self.exponents(quantity)
        if not found:
            raise InputError("no activation changed in this check: give it a higher rate or more steps")
        return max(found.items(), key=lambda item: item[1])


def measure_coordinates(
    model_at_width: Callable[[int], M],
    widths: Sequence[int],
    steps: int,
    batch: Batch,
    optimizer: Optimizer,
    *,
    rate_multipliers: Callable[[M], Mapping[str, float]] | None = None,
    seeds: Sequence[int] = (0,),
) -> CoordinateCheck:
    """Train every width for a few steps on one batch and measure its activations.

    Args:
        model_at_width: the model of a width, for example ``lambda width: MuP(at_width(model, width), base_width=64)``.
        widths: at least two.
        optimizer: with the rate of the base width.
        rate_multipliers: factors of the rate of a model's parameters, for example ``lambda m: m.rate_multipliers()``;
            ``None``: the same rate for all, the standard parameterisation.
        seeds: of initialisation; sizes are means over them.
    """
    sums: dict[tuple[int, int, str], np.ndarray] = {}
    for width in widths:
        model = model_at_width(width)
        factors = None if rate_multipliers is None else rate_multipliers(model)
        rates: float | Params = 1.0 if factors is None else {k: torch.tensor(v) for k, v in factors.items()}
        for seed in seeds:
            params, start = model.init(seed), None
            state = optimizer.init(params)
            for step in range(steps + 1):
                seen = activations(model, params, batch)
                start = start or seen
                for name, value in seen.items():
                    sizes = np.array([float(value.abs().mean()), float((value - start[name]).abs().mean())])
                    key = (width, step, name)
                    sums[key] = sums.get(key, np.zeros(2)) + sizes / len(seeds)
                leaves = require_grad(params)
                loss, _ = model.objective(leaves, batch)
                grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
                params, state = optimizer.update(params, grads, state, rates)
    return CoordinateCheck(tuple(CoordinateRow(*key, *map(float, value)) for key, value in sums.items()))


def activations(model: SupervisedModel, params: Params, batch: Batch) -> Params:
    """The result of every product with a parameter in one forward pass, by the parameter's name, and the logits.

    Products with parts of one tensor (experts) are put together row by row, in the order of the parts.
    """
    watch = _Watch({value.untyped_storage().data_ptr(): name for name, value in params.items()})
    with torch.no_grad(), watch:
        logits = model.predict(params, batch)
    return {**{name: torch.cat(parts) for name, parts in watch.seen.items()}, LOGITS: logits}


class _Watch(TorchDispatchMode):
    """Keeps the results of matrix products and convolutions with known tensors."""

    def __init__(self, names: Mapping[int, str]):
        super().__init__()
        self.names = names
        self.seen: dict[str, list[torch.Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        product = func.overloadpacket.__name__
        if product in _PRODUCTS:
            for arg in reversed(args[:2] if product == _ONEDNN_LINEAR else args):  # after its factors comes a bias
                name = self.names.get(arg.untyped_storage().data_ptr()) if isinstance(arg, torch.Tensor) else None
                if name is not None:
                    self.seen.setdefault(name, []).append(result)
                    break
        return result
