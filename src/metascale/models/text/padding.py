"""Texts of different lengths in one batch."""

from __future__ import annotations

import torch

from metascale.core.types import Batch


def trimmed(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` without the columns that are padding in every text.

    Chunks of tasks and of examples keep the padding of the batch they were cut from. On an accelerator the columns
    stay: counting them would wait for the device.
    """
    ids = batch.inputs["input_ids"]
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return ids, torch.ones_like(ids)
    if ids.device.type != "cpu":
        return ids, mask
    used = mask.flatten(0, 1).any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return ids[..., :length], mask[..., :length]
