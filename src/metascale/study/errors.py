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
    place = _nearest(folder)
    free, n_files = shutil.disk_usage(place).free, _files_left(place)
    room = f"{free / 2**20:.1f} MiB free" if n_files is None else f"{free / 2**20:.1f} MiB and {n_files} files free"
    return DiskFull(
        f"no space left on the device of {folder} ({room}) while {doing}; "
        "everything recorded before is whole: free some space and run the same command again"
    )


def _nearest(folder: Path) -> Path:
    """``folder``, or the nearest one above it that exists."""
    return next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))


def _files_left(place: Path) -> int | None:
    """How many more files the device takes (inodes); ``None`` where it has no such limit."""
    state = os.statvfs(place) if POSIX else None
    return state.f_favail if state is not None and state.f_files else None


def _has_no_file_left(error: BaseException, folder: Path) -> bool:
    """Whether SQLite could not make a file beside the index because the device takes no more files."""
    opening = isinstance(error, sqlite3.OperationalError) and "unable to open database file" in str(error)
    return opening and _files_left(_nearest(folder)) == 0


@contextmanager
def explain_disk_full(folder: Path, doing: str) -> Iterator[None]:
    """Turn a full disk met inside the block into `DiskFull`."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if not is_disk_full(error) and not _has_no_file_left(error, folder):
            raise
        raise disk_full(folder, doing) from error


def require_posix(what: str) -> None:
    """Refuse ``what`` on systems without process groups and POSIX signals.

    Raises:
        InputError: names the supported systems.
    """
    if not POSIX:
        raise InputError(f"{what} runs on Linux and macOS; on Windows use WSL")
