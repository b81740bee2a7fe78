"""Canonical JSON and content ids: the same configuration always has the same name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from metascale.core.errors import InputError


def plain(value: object) -> Any:
    """``value`` as JSON types: dataclasses and mappings become dicts, tuples lists, NumPy scalars Python numbers.

    Raises:
        InputError: a value that JSON cannot hold, or a number that is not finite.
    """
    if value is None or type(value) in (str, bool, int):
        return value  # most of any configuration; the checks below are for the rest
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        found = {str(key): _plain_at(str(key), item) for key, item in value.items()}
        if len(found) != len(value):
            raise InputError("a configuration or record has two keys with the same text; keys must differ as texts")
        return found
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(
                f"a configuration or record cannot hold the number {value}; only finite numbers are allowed",
                value=value,
            )
        return value
    if hasattr(value, "__fspath__"):
        return str(value)
    raise InputError(f"a configuration or record cannot hold a {type(value).__name__}; only JSON types are allowed")


def _plain_at(key: str, value: object) -> Any:
    """``plain(value)``; an error names the key nearest to what is wrong."""
    try:
        return plain(value)
    except InputError as error:
        if error.field is not None:
            raise
        raise InputError(f"'{key}': {error}", field=key, value=error.value) from error


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, shortest round-trip floats."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: object, length: int = 12) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
