"""Named randomness: every draw comes from a generator addressed by (seed, purpose, index).

Batch k is a function of k, so a resumed run needs only its step number, and nothing reads or moves a global generator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def address(seed: int, purpose: str, *index: int | str) -> int:
    """A 128-bit integer that names one stream; different arguments give unrelated streams."""
    text = "\x1f".join([str(int(seed)), purpose, *(f"{type(part).__name__}:{part}" for part in index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """The NumPy generator at this address."""
    return np.random.Generator(np.random.Philox(key=address(seed, purpose, *index)))


def torch_generator(seed: int, purpose: str, *index: int | str, device: str = "cpu") -> torch.Generator:
    """The torch generator at this address (63 bits of it), on ``device``."""
    import torch

    return torch.Generator(device=device).manual_seed(address(seed, purpose, *index) & (2**63 - 1))
