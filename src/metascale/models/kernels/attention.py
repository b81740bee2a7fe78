"""Attention of short sequences in half precision on a CPU, computed in float32.

PyTorch's fused kernel takes several times as long for bfloat16 as for float32 when sequences are short (torch 2.13, 32
positions of 32 dimensions: forward and backward 6 times), since its small products have no fast path there. The
products of the layers around it keep their precision.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

HALF = (torch.bfloat16, torch.float16)

LONGEST = 128
"""Positions of the keys up to which the change of precision costs less than it saves."""


class ShortAttention(TorchFunctionMode):
    """Inside, ``scaled_dot_product_attention`` of short half-precision tensors on a CPU runs in float32.

    The result has the precision of the query, as outside.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key = (args[place] if len(args) > place else kwargs[name] for place, name in ((0, "query"), (1, "key")))
        if query.dtype not in HALF or query.device.type != "cpu" or key.shape[-2] > LONGEST:
            return func(*args, **kwargs)
        found = func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return found.to(query.dtype)


def _wide(value: Any) -> Any:
    """Half-precision tensors in float32; anything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALF else value
