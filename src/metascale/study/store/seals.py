"""A JSON file that holds the SHA-256 of its own content, so that a changed byte shows to whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json, sha256_of

SEAL = "sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` with the SHA-256 of all of it."""
    whole = {key: value for key, value in content.items() if key != SEAL}
    return {**whole, SEAL: sha256_of(canonical_json(whole).encode())}


def is_unsealed(stored: object) -> bool:
    """Whether what was read from a file of a study has no hash at all, as earlier versions wrote them."""
    return isinstance(stored, dict) and SEAL not in stored


def read_sealed(path: Path) -> dict[str, Any]:
    """What `sealed` made.

    Raises:
        CorruptFile: it is not what was written; the message names it.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or SEAL not in stored:
        raise CorruptFile(f"{path} is not what was written: it has no '{SEAL}' of its own")
    try:
        own = sealed(stored)[SEAL]
    except (ValueError, RecursionError) as error:  # no number, half a character, nesting without end
        raise CorruptFile(f"{path} is not what was written: {error}") from error
    if stored[SEAL] != own:
        raise CorruptFile(f"{path} is not what was written: its content is not that of its own SHA-256")
    return stored
