"""Counting floating-point operations: torch's own counter around one call, and the two conventions for training.

``"exact"``: every matrix product by its sizes, by component, as a model's ``flops`` gives them for a forward pass; the
backward pass of a product is two products of the same size, so training costs three times the forward pass. Attention
counts the pairs that causality leaves; a mixture of experts the one expert a token passes; embeddings nothing.
``"6ND"``: six operations a parameter and token (Kaplan et al. 2020), where N leaves out embeddings and the readout. It
ignores attention pairs and the readout, and counts all experts of a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

FlopConvention = Literal["exact", "6ND"]


def count_flops(call: Callable[[], object]) -> float:
    """Floating-point operations (a multiply-add is two) of the matrix products and convolutions in ``call``.

    Element-wise work is not counted, nor are fused attention kernels and `torch.nn.LSTM` on a CPU, which hide their
    products (torch 2.13). Backward passes that run inside ``call`` are counted; those of grouped convolutions too high,
    as if ungrouped: count the convolutional network with one task.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _product_added})
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # In eval mode without gradients it runs a whole encoder layer as one operation, which torch 2.13 counts as zero.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return float(counter.get_total_flops())


def _product_added(added: Any, left: Any, right: Any, *args: Any, out_shape: Any = None, **settings: Any) -> int:
    """Operations of an in-place ``added += left @ right``, by shapes; torch's counter leaves it out."""
    return 2 * int(left[0]) * int(left[1]) * int(right[1])


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
