"""Which streams of random numbers something asked for: (seed, purpose, index ...) each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metascale.core import streams


@contextmanager
def addresses() -> Iterator[list[tuple[object, ...]]]:
    """The addresses of all draws while it is open, in their order, each once."""
    seen: dict[tuple[object, ...], None] = {}
    found: list[tuple[object, ...]] = []
    address = streams.address

    def noted(seed: int, purpose: str, *index: int | str) -> int:
        seen[(int(seed), purpose, *(part if isinstance(part, str) else int(part) for part in index))] = None
        return address(seed, purpose, *index)

    with pytest.MonkeyPatch.context() as patch:
        for module in [each for each in sys.modules.values() if vars(each).get("address") is address]:
            patch.setattr(module, "address", noted)
        yield found
        found += seen
