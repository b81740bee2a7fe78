"""Keeping a runner's claims alive while it lives."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from metascale.study.store.index import Index


@contextlib.contextmanager
def renewed(index_path: Path, owner: str, lease_s: float) -> Iterator[None]:
    """Renew every lease of ``owner``, from a thread of its own, four times a lease."""
    stop = threading.Event()

    def beat() -> None:
        index = Index(index_path)
        while not stop.wait(lease_s / 4):
            try:
                index.renew(owner, lease_s)
            except sqlite3.OperationalError:
                # Locked or full for a moment: three more beats fit into the lease, and the fence holds anyway.
                continue
        index.close()

    thread = threading.Thread(target=beat, name="metascale-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
