"""The heartbeat of a running trial: whatever it writes into its folder. A hang is a pulse that stopped."""

from __future__ import annotations

import os
import time
from pathlib import Path

from metascale.study.store.run_files import CHECKPOINTS

HANG_S = 3600.0
"""A trial that gave no sign of life for an hour is taken to hang; trials tell their progress many times a minute."""


class Pulse:
    """Watches one run's folder. Clocks of other machines do not matter: only that something changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signs = signs_of_life(folder)
        self._changed = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the run last wrote anything, as seen from here."""
        signs = signs_of_life(self._folder)
        if signs != self._signs:
            self._signs, self._changed = signs, time.monotonic()
        return time.monotonic() - self._changed


def signs_of_life(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the run's files; equal twice means that nothing was written between."""
    found = []
    for place in (folder, folder / CHECKPOINTS):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    status = entry.stat()
                    found.append((entry.name, status.st_size, status.st_mtime_ns))
        except FileNotFoundError:
            # Not there yet, or replaced while we looked: the next look sees it.
            continue
    return tuple(sorted(found))
