"""Blocks that see a study's folder in one state: what has ended is read and checked once, however often it is asked."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

Value = TypeVar("Value")

_seen: contextvars.ContextVar[dict[Hashable, object] | None] = contextvars.ContextVar("metascale_seen", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Inside the block (or the outermost of several) `once` makes each thing once. It ends with the block."""
    if _seen.get() is not None:
        yield
        return
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


def once(key: Hashable, make: Callable[[], Value]) -> Value:
    """What ``make`` returns, from the first call with ``key`` in the block; outside of one, of this call."""
    seen = _seen.get()
    if seen is None:
        return make()
    if key not in seen:
        seen[key] = make()
    return cast(Value, seen[key])
