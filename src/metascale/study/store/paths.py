"""Paths in a study's folder, which may be a stranger's: none leads out of it, and none is too long."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from metascale.core.errors import CorruptFile, InputError

OWN_FILES = "files"
"""The folder of a run that its program fills as it likes: links in it are neither followed nor hashed."""
LONGEST = 480
"""Bytes of the path of a study's folder: SQLite opens files whose whole path has at most 512."""
_LABEL = re.compile(r"[A-Za-z0-9._=+-]{1,200}")


def refuse_exits(folder: Path) -> None:
    """Refuse a folder that holds a link which leads out of it, or what is neither file nor folder.

    Raises:
        InputError: names the first such entry.
    """
    inside = os.path.realpath(folder) + os.sep
    for entry in _entries(str(folder)):
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if not f"{target}{os.sep}".startswith(inside):
                raise InputError(
                    f"{entry.path} is a link that leads out of its folder (to {target}), where nothing is read or "
                    "written for it; put what it means in its place, or remove it"
                )
        elif not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
            raise InputError(f"{entry.path} is neither a file nor a folder; remove it")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        above = os.path.basename(os.path.dirname(os.path.dirname(entry.path)))
                        if (above, entry.name) != ("runs", OWN_FILES):
                            waiting.append(entry.path)
                    elif not entry.is_file(follow_symlinks=False):
                        yield entry
        except (FileNotFoundError, NotADirectoryError):
            # Runs come and go while we look.
            continue


def check_label(label: object, path: Path) -> None:
    """Refuse a label that is not one plain name: it names a folder.

    Raises:
        CorruptFile: it is not.
    """
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise CorruptFile(
            f"{path} is not what was written: the label {label!r:.80} is no name of a folder, which has at most 200 "
            "letters, digits and . _ = + -"
        )


def place_of(folder: Path, name: str, named_in: Path) -> Path:
    """The file of a folder that another file of it names.

    Raises:
        CorruptFile: it would lie outside.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise CorruptFile(f"{named_in} is not what was written: it names the file {name!r:.80}, outside of its folder")
    return folder / path


def refuse_long_path(folder: Path) -> None:
    """Refuse a folder for a study whose files would have longer paths than SQLite opens.

    Raises:
        InputError: says how long it is, and how long it may be.
    """
    n_bytes = len(os.fsencode(os.path.abspath(folder)))
    if n_bytes > LONGEST:
        raise InputError(
            f"the path of the study's folder has {n_bytes} bytes; it may have at most {LONGEST} ({folder.name:.40}...)",
            field="out",
            allowed=f"at most {LONGEST} bytes",
        )
