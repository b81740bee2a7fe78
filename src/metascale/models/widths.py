"""Widths of the layers of a net whose layers widen or narrow evenly from the first to the last. No torch."""

from __future__ import annotations

from metascale.core.errors import InputError


def layer_widths(width: int, depth: int, ratio: float = 1.0) -> tuple[int, ...]:
    """``depth`` widths from ``width`` to ``ratio`` · ``width``, each the same factor of the one before, rounded."""
    if not ratio > 0:
        raise InputError(f"ratio of the widths of the last and the first layer must be above 0, not {ratio}")
    if depth == 1 and ratio != 1:
        raise InputError(f"a net of one layer has no second width: ratio must be 1 at depth 1, not {ratio}")
    if ratio == 1:
        return (width,) * depth
    return tuple(max(1, round(width * ratio ** (layer / (depth - 1)))) for layer in range(depth))
