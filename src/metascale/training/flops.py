"""Counting floating-point operations: torch's own counter around one call, and the two conventions for training.

``"exact"``: every matrix product by its sizes, by component, as a model's ``flops`` gives them for a forward pass; the
backward pass of a product is two products of the same size, so training costs three times the forward pass. Attention
counts the pairs that causality leaves; a mixture of experts the one expert a token passes; embeddings nothing.
``"6ND"``: six operations a parameter and token (Kaplan et al. 2020), where N leaves out embeddings and the readout. It
ignores attention pairs and the readout, and counts all experts of a mixture.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

FlopConvention = Literal["exact", "6ND"]


class FlopsNotCounted(UserWarning):
    """An operation ran whose work `count_flops` cannot tell from its shapes: the count is too low by it."""


def count_flops(call: Callable[[], object]) -> float:
    """Floating-point operations (a multiply-add is two) of the matrix products and convolutions in ``call``.

    Element-wise work is not counted. What torch's counter leaves out (torch 2.13: matrix times vector, dot, bilinear,
    fused attention and `torch.nn.LSTM` on a CPU, grouped and integer products) is counted by formula. Backward passes
    that run inside ``call`` are counted; those of grouped convolutions too high, as if ungrouped: count the
    convolutional network with one task.

    Warns:
        FlopsNotCounted: names each operation that holds products and has no formula: recurrent layers of cuDNN, sparse
            products, decompositions and solves, Fourier transforms, and operations that are not torch's own.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    seen = _Uncounted(set(counter.flop_registry))
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # In eval mode without gradients it runs a whole encoder layer as one operation, which torch 2.13 counts as zero.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with seen, counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    if seen.names:
        warnings.warn(
            f"the work of {', '.join(sorted(seen.names))} is not counted: its floating-point operations cannot be told "
            "from shapes, so the count is too low",
            FlopsNotCounted,
            stacklevel=2,
        )
    return float(counter.get_total_flops())


class _NoModules:
    """In the place of torch's tracker of modules, since the total alone is wanted: its hooks on the inputs of modules
    make a gradient inside a backward pass, such as that of a block run again, an error (torch 2.13)."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """There is nothing to watch."""

    def __exit__(self, *args: object) -> None:
        """There was nothing to watch."""


class _Uncounted(TorchDispatchMode):
    """Collects the names of operations that do more than element-wise work and have no formula."""

    def __init__(self, counted: set[Any]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet not in self._counted and (func.namespace not in _OWN or _HIDES_PRODUCTS.search(packet.__name__)):
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


_OWN = frozenset({"aten", "prims", "prim", "c10d", "_c10d_functional", "profiler", "inductor", "debugprims"})
_HIDES_PRODUCTS = re.compile(
    r"_rnn|^lstm|sparse_|_fft_|linalg_(?!vector_norm|cross|vecdot)|cholesky|triangular_solve|lu_solve|ormqr|geqrf|"
    r"_euclidean_dist|_cdist|_transformer_encoder|_native_multi_head|attention|pack_mm|(mm|mv)_?$|convolution|trilinear"
)
"""Names of torch's operations that multiply matrices or do as much; those with a formula never get here."""


def _product(left: Any, right: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """left [.., m, k] times right [k, n] or [k]."""
    return 2 * int(math.prod(left)) * int(math.prod(right[1:]))


def _linear(x: Any, weight: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """x [.., in] times the transpose of weight [out, in]."""
    return 2 * int(math.prod(x)) * int(weight[0])


def _product_added(added: Any, left: Any, right: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """``added + left @ right``, in place or not."""
    return _product(left, right)


def _products_added(added: Any, left: Any, right: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """``added`` and b products [b, m, k] times [b, k, n], summed or not."""
    return 2 * int(math.prod(left)) * int(right[2])


def _grouped_product(left: Any, right: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """Groups of rows [m, k] times [groups, k, n], of columns [m, k] times rows [k, n], or [groups, m, k] times [k, n].

    Each row, column or matrix meets one group; stacked operands on both sides are an ordinary batch.
    """
    rows = left if len(left) == 2 or len(right) == 3 else left[1:]
    return 2 * int(math.prod(rows)) * int(right[-1])


def _trilinear(
    one: Any, two: Any, three: Any, expand1: Any, expand2: Any, expand3: Any, summed: Any, *args: Any, **settings: Any
) -> int:
    """Σ one · two · three over the summed dimensions, as torch does it: one with two, and the result with three."""
    n_dims = len(one) + len(expand1)
    sizes = [1] * n_dims
    present: list[set[int]] = []
    for shape, expanded in ((one, expand1), (two, expand2), (three, expand3)):
        own = [d for d in range(n_dims) if d not in expanded]
        present.append(set(own))
        for d, size in zip(own, shape, strict=True):
            sizes[d] = max(sizes[d], int(size))
    first = present[0] | present[1]
    left = (first - {d for d in summed if d not in present[2]}) | present[2]
    return 2 * math.prod(sizes[d] for d in first) + 2 * math.prod(sizes[d] for d in left)


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """Q Kᵀ and the weights times V, all pairs; [batch, heads, length, width] each."""
    return 2 * int(math.prod(query[:3])) * int(key[2]) * (int(query[3]) + int(value[3]))


def _attention_backward(upstream: Any, query: Any, key: Any, value: Any, *args: Any, **settings: Any) -> int:
    """Q Kᵀ again, the gradients of Q and K from its own, and those of the weights and V."""
    return 2 * int(math.prod(query[:3])) * int(key[2]) * (3 * int(query[3]) + 2 * int(value[3]))


def _recurrent(x: Any, w_input: Any, w_hidden: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """One direction of one layer: every step's input and hidden state times their weights [gates · hidden, in]."""
    return 2 * int(math.prod(x[:-1])) * int(math.prod(w_input) + math.prod(w_hidden))


def _recurrent_backward(x: Any, w_input: Any, w_hidden: Any, *args: Any, **settings: Any) -> int:
    return 2 * _recurrent(x, w_input, w_hidden)


_aten = torch.ops.aten
_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten.addmm_: _product_added,
    _aten.mv: _product,
    _aten.dot: _product,
    _aten.vdot: _product,
    _aten.addmv: _product_added,
    _aten.addmv_: _product_added,
    _aten._int_mm: _product,
    _aten._addmm_activation: _product_added,
    _aten.addbmm: _products_added,
    _aten.addbmm_: _products_added,
    _aten.baddbmm_: _products_added,
    _aten._grouped_mm: _grouped_product,
    _aten._trilinear: _trilinear,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten.mkldnn_rnn_layer: _recurrent,
    _aten.mkldnn_rnn_layer_backward: _recurrent_backward,
}
"""By shapes, what torch's counter leaves out."""
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _FORMULAS[torch.ops.mkldnn._linear_pointwise] = _linear


@dataclass(frozen=True)
class TrainingFlops:
    """Floating-point operations of a whole training.

    Args:
        components: exact operations by component, forward and backward.
        six_nd: 6·N·D with N non-embedding parameters and D tokens (or examples).
    """

    components: Mapping[str, float]
    six_nd: float

    @property
    def exact(self) -> float:
        return sum(self.components.values())

    def total(self, convention: FlopConvention) -> float:
        return self.exact if convention == "exact" else self.six_nd

    def shares(self) -> dict[str, float]:
        """Each component's share of the exact total."""
        return {name: value / self.exact for name, value in self.components.items()}


def training_flops(
    forward: Mapping[str, float], n_passes: float, n_params: int, n_tokens: float, backward_factor: float = 2.0
) -> TrainingFlops:
    """Operations of a training from a model's forward operations for one sequence (or image).

    Args:
        forward: operations of one forward pass by component, as a model's ``flops`` gives them.
        n_passes: sequences (or images) that training saw, repeats included.
        n_params: N of the 6ND convention.
        n_tokens: D of the 6ND convention, repeats included.
        backward_factor: operations of the backward pass for one of the forward pass.
    """
    factor = (1 + backward_factor) * n_passes
    return TrainingFlops({name: factor * value for name, value in forward.items()}, 6.0 * n_params * n_tokens)
