"""What can go wrong with a study as such, as opposed to with one of its trials."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metascale.core.errors import InputError, MetascaleError

POSIX = os.name == "posix"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LeaseLost(MetascaleError):
    """This process no longer owns the trial: another runner claimed it, so nothing more may be written."""


class Stopped(BaseException):
    """The run was asked to stop and has just saved: it ends here, to be resumed. No trial may take it for an error."""


class Killed(MetascaleError):
    """What the trial runs was ended by a signal from outside: it is resumed, and has not failed."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop; what ran is saved, or was given up at a second signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.exit_status = 128 + number


class DiskFull(MetascaleError):
    """The device that holds the study has no space left; what was recorded before is whole."""


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that the device, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def disk_full(folder: Path, doing: str) -> DiskFull:
    """The error to raise when ``doing`` met a full disk."""
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    return DiskFull(
        f"no space left on the device of {folder} ({free / 2**20:.1f} MiB free) while {doing}; "
        "everything recorded before is whole: free some space and run the same command again"
    )


@contextmanager
def explain_disk_full(folder: Path, doing: str) -> Iterator[None]:
    """Turn a full disk met inside the block into `DiskFull`."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not is_disk_full(error):
            raise
        raise disk_full(folder, doing) from error


def require_posix(what: str) -> None:
    """Refuse ``what`` on systems without process groups and POSIX signals.

    Raises:
        InputError: names the supported systems.
    """
    if not POSIX:
        raise InputError(f"{what} runs on Linux and macOS; on Windows use WSL")
