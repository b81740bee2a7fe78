"""The array type of the room, and the one exponential that cannot overflow."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = "NDArray[Any]"
LARGEST_LOG = 690.0  # e^690 is 1e299: as good as infinite, and still a number that JSON holds


def bounded_exp(logs: ArrayLike) -> Array:
    """e^logs, kept between 1e-299 and 1e299: what a table does not identify stays finite."""
    return np.asarray(np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG)))
