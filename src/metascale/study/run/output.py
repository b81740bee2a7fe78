"""A trial's ``output.log`` is bounded: of what is too long its beginning and its end are kept."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

LIMIT = 16 * 2**20
"""Bytes of output.log above which it is cut."""
KEPT = 2**20
"""Bytes that are kept of its beginning, and of its end."""
_MARK = re.compile(rb"\n\[metascale: ([0-9]+) bytes of output are left out here\]\n")


def bound_output(path: Path, limit: int = LIMIT, kept: int = KEPT) -> None:
    """Cut an output that is longer than ``limit``, and say in it how much was left out.

    Whoever writes it appends (``O_APPEND``), and goes on after the cut. It is called by what watches a trial, several
    times a second; between two calls the file may be longer.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limit:
            _cut(path, kept)


def _cut(path: Path, kept: int) -> None:
    with open(path, "r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        begin = stream.read(kept)
        before = _MARK.match(stream.read(len(_mark(size)) * 2))
        # An earlier cut is counted in, and its mark is not output.
        skipped = (int(before[1]) - len(before[0])) if before else 0
        stream.seek(size - kept)
        end = stream.read(kept)
        stream.truncate(len(begin))
    with open(path, "ab") as stream:
        stream.write(_mark(size - len(begin) - len(end) + skipped) + end)


def _mark(n_bytes: int) -> bytes:
    return f"\n[metascale: {n_bytes} bytes of output are left out here]\n".encode()
