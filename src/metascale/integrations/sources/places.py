"""Files of a source: found without leaving the folder, read with a bound."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.units import format_bytes

MOST_FILES = 200_000
"""Files and folders that are looked at below a folder."""
MOST_LOG_BYTES = 8 << 30
"""Event and run logs of one source together; they are read record by record."""
MOST_TEXT_BYTES = 256 << 20
"""One CSV or JSON file."""


def find(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """The regular files below a folder whose name is wanted, sorted by path; links inside the folder are not followed.

    Raises:
        InputError: a link leads out of the folder, or there are more than `MOST_FILES`.
    """
    root = root.resolve()
    found: list[Path] = []
    looked_at = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        looked_at += len(folders) + len(files)
        if looked_at > MOST_FILES:
            raise InputError(f"'{root}' holds more than {MOST_FILES:,} files, the most that are looked at")
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                if (name in folders or wanted(name)) and not path.resolve().is_relative_to(root):
                    raise InputError(f"'{path}' is a link that leaves the folder '{root}'; it is not followed")
            elif name in files and wanted(name) and stat.S_ISREG(path.lstat().st_mode):
                found.append(path)
    return sorted(found)


def require_small(paths: list[Path], most: int = MOST_LOG_BYTES) -> None:
    """Refuse files that are too large together.

    Raises:
        InputError: with the bound.
    """
    total = sum(path.stat().st_size for path in paths)
    if total > most:
        where = f"'{paths[0]}'" if len(paths) == 1 else f"the {len(paths)} files below '{os.path.commonpath(paths)}'"
        raise InputError(
            f"{where}: {format_bytes(total)}, more than the {format_bytes(most)} that are read", value=total
        )


def read_text(path: Path) -> str:
    """A text file of at most `MOST_TEXT_BYTES`.

    Raises:
        InputError: it is larger, or not text in UTF-8.
    """
    require_small([path], MOST_TEXT_BYTES)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not text in UTF-8 ({error.reason})") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    text = read_text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"'{path}' is not JSON ({reason})") from error
    if not isinstance(found, dict):
        raise InputError(f"'{path}' holds a JSON {type(found).__name__}, not an object")
    return found


def database_errors() -> tuple[type[Exception], ...]:
    """What SQLAlchemy raises for a database: no driver, no such kind, not reachable, other tables than expected."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:  # MLflow reads a server without it
        return (ImportError,)
    return (ImportError, SQLAlchemyError)


def without_password(text: str) -> str:
    """Text with the addresses of servers and databases as they may be shown and stored."""
    return re.sub(r"(?<=://)([^/@:\s]*):[^@/\s]*(?=@)", r"\1:***", text)


def name_below(path: Path, root: Path) -> str:
    """A folder's name as seen from the root; the root's own name for itself."""
    relative = path.resolve().relative_to(root.resolve()).as_posix()
    return root.resolve().name if relative == "." else relative
