"""Counting floating-point operations: torch's own counter around one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations (a multiply-add is two) of the matrix products and convolutions in ``call``.

    Element-wise work is not counted, nor are fused attention kernels on a CPU, which hide their products. Backward
    passes that run inside ``call`` are counted; those of grouped convolutions too high, as if ungrouped: count the
    convolutional network with one task.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return float(counter.get_total_flops())
