"""Where data sets are, whether they are whole, and how to get them. No torch here, so the command line stays quick."""

from __future__ import annotations

import difflib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import write_atomic
from metascale.tasks.data_files import DATASETS, DataFile, DataSet

ENVIRONMENT = "METASCALE_DATA"
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 18

Progress = Callable[[str, int, "int | None"], None]
"""Called with a file's path, the bytes received so far, and the bytes expected (``None``: the server did not say)."""


@dataclass(frozen=True)
class FileReport:
    """One file's state; ``note`` says what is wrong with a corrupt one."""

    path: str
    status: Literal["ok", "missing", "corrupt"]
    note: str = ""


@dataclass(frozen=True)
class DataReport:
    """The state of a data set in a data folder."""

    name: str
    folder: Path
    files: tuple[FileReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is there and whole."""
        return all(file.status == "ok" for file in self.files)


def list_datasets() -> tuple[DataSet, ...]:
    """Every registered data set, by name."""
    return tuple(DATASETS[name] for name in sorted(DATASETS))


def _data_set(name: str) -> DataSet:
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        raise InputError(f"there is no data set '{name}'{hint} Known are: {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


def _files(data_set: DataSet, only: Sequence[str] | None) -> tuple[DataFile, ...]:
    return tuple(file for file in data_set.files if only is None or file.path in only)


def data_folder(name: str, data_dir: Path | str | None = None) -> Path:
    """The folder of data set ``name``: below ``data_dir``, else below the folder that METASCALE_DATA names.

    Raises:
        InputError: an unknown data set, or neither place is named.
    """
    _data_set(name)
    root = str(data_dir) if data_dir is not None else os.environ.get(ENVIRONMENT, "")
    if not root:
        raise InputError(
            f"where is the data set '{name}'? Name the data folder with --data-dir D or {ENVIRONMENT}=D; "
            f"to download it: metascale data get {name} --data-dir D"
        )
    return Path(root).expanduser() / name


def check(name: str, data_dir: Path | str | None = None, *, only: Sequence[str] | None = None) -> DataReport:
    """Read every file (or those in ``only``) and say whether it is ok, missing or corrupt.

    Raises:
        InputError: an unknown data set, or no data folder is named.
    """
    folder = data_folder(name, data_dir)
    reports = []
    for file in _files(_data_set(name), only):
        path = folder / file.path
        if not path.is_file():
            reports.append(FileReport(file.path, "missing"))
            continue
        problem = file.problem(path.read_bytes())
        reports.append(FileReport(file.path, "corrupt" if problem else "ok", problem or ""))
    return DataReport(name, folder, tuple(reports))


def locate(
    name: str,
    data_dir: Path | str | None = None,
    *,
    only: Sequence[str] | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The folder of data set ``name``, with its files (or those in ``only``) present.

    Contents are not checked here (``check`` does); what is missing is downloaded only when ``download`` says so.

    Raises:
        InputError: an unknown data set, no data folder named, files missing, or a download that failed.
        CorruptFile: a downloaded file is not what it should be.
    """
    folder = data_folder(name, data_dir)
    missing = [file for file in _files(_data_set(name), only) if not (folder / file.path).is_file()]
    if missing and not download:
        raise InputError(
            f"the data set '{name}' lacks {', '.join(file.path for file in missing)} in {folder}; "
            f"to download it: metascale data get {name} --data-dir {folder.parent}"
        )
    for file in missing:
        _download(name, file, folder, progress)
    return folder


def get(
    name: str,
    data_dir: Path | str | None = None,
    progress: Progress | None = None,
    *,
    only: Sequence[str] | None = None,
) -> Path:
    """Download what is missing or corrupt of data set ``name`` from its public home; give its folder.

    Each file is checked before it is written, and written whole or not at all.

    Raises:
        InputError: an unknown data set, no data folder named, no connection, or a folder that cannot be written.
        CorruptFile: a downloaded file is not what it should be.
    """
    report = check(name, data_dir, only=only)
    wanted = {file.path for file in report.files if file.status != "ok"}
    for file in _data_set(name).files:
        if file.path in wanted:
            _download(name, file, report.folder, progress)
    return report.folder


def _download(name: str, file: DataFile, folder: Path, progress: Progress | None) -> None:
    data = _read_url(name, file, folder / file.path, progress)
    problem = file.problem(data)
    if problem:
        raise CorruptFile(f"{file.url} does not hold the file {file.path} of '{name}': {problem}; nothing was written")
    try:
        write_atomic(folder / file.path, data)
    except OSError as error:
        raise InputError(f"cannot write {folder / file.path}: {error.strerror or error}") from error


def _read_url(name: str, file: DataFile, target: Path, progress: Progress | None) -> bytes:
    received = bytearray()
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
            expected = int(length) if length is not None else None
            while chunk := response.read(_CHUNK_BYTES):
                received += chunk
                if progress is not None:
                    progress(file.path, len(received), expected)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(
            f"could not download {file.url} for the data set '{name}' ({reason}); connect, or put the file at {target}"
        ) from error
    if expected is not None and len(received) != expected:
        raise InputError(f"the download of {file.url} broke off after {len(received)} of {expected} bytes; try again")
    return bytes(received)
