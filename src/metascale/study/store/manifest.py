"""``seals.json``: the hashes of what a study derives from its runs, and of every run that has ended.

A run's own ``result.json`` cannot say that it was deleted, nor ``law.json`` that it was edited: this file can. A call
that is about to change something takes its hash out first, so an interrupted call never looks like damage.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from metascale.core.columns import (
    ALL_RESULTS_JSON,
    COMMAND_JSON,
    PROVENANCE_JSON,
    PROVENANCE_JSONL,
    RESULTS_CSV,
    STUDY_JSON,
)
from metascale.core.errors import CorruptFile
from metascale.core.files import sha256_of, write_json
from metascale.study.store.claims import CLAIM, locked
from metascale.study.store.folder import HISTORY, INDEX, OUTPUT, RESULT, SEALS, TIMING, StudyView
from metascale.study.store.paths import place_of
from metascale.study.store.seals import read_sealed, sealed

TABLES = (RESULTS_CSV, ALL_RESULTS_JSON)
_OF_RUN = (RESULT, HISTORY, TIMING, PROVENANCE_JSON, OUTPUT)
_FILES, _RUNS, _INDEX, _PROVENANCE = "files", "runs", "index", "provenance"


def read_seals(folder: Path) -> dict[str, Any]:
    """The hashes of a study; nothing where an earlier version wrote the folder.

    Raises:
        CorruptFile: the file is not what was written.
    """
    if not (folder / SEALS).exists():
        return {}
    seals = read_sealed(folder / SEALS)
    hashes = [seals.get(_FILES, {}), *(runs.values() if isinstance(runs := seals.get(_RUNS, {}), dict) else [None])]
    mark = seals.get(_PROVENANCE)
    marked = mark is None or (isinstance(mark, dict) and isinstance(mark.get("n_bytes"), int) and "sha256" in mark)
    if not marked or not all(isinstance(one, dict) for one in hashes):
        raise CorruptFile(f"{folder / SEALS} is not what was written: it does not hold hashes by name")
    return seals


def unseal(folder: Path, *, files: Iterable[str] | None = (), runs: Iterable[str] = ()) -> None:
    """Take out the hashes of the index, of ``files`` (``None``: of all) and of the runs that are about to change."""
    seals = _read_or_none(folder)
    kept = {name: found for name, found in seals.get(_FILES, {}).items() if files is not None and name not in {*files}}
    left = {trial: found for trial, found in seals.get(_RUNS, {}).items() if trial not in {*runs}}
    after = sealed({_INDEX: None, _PROVENANCE: seals.get(_PROVENANCE), _FILES: kept, _RUNS: left})
    if after != seals:
        write_json(folder / SEALS, after)


def seal_study(view: StudyView, written: Iterable[Path]) -> None:
    """Keep the hashes of the files ``written``, and of the index, the provenance and the runs that ended since.

    What has a hash already keeps it: a file that was damaged meanwhile stays damaged.
    """
    folder = view.folder
    with locked(folder):
        for leftover in folder.glob(f".{SEALS}.*.tmp"):
            leftover.unlink()
        seals = _read_or_none(folder)
        files = dict(seals.get(_FILES, {}))
        for path in sorted(path for path in (*written, folder / COMMAND_JSON) if path.is_file()):
            files[path.relative_to(folder).as_posix()] = _hash(path)
        runs = dict(seals.get(_RUNS, {}))
        for run in view.runs:
            if run.trial.id not in runs and run.ending() is not None and not (run.folder / CLAIM).exists():
                there = [name for name in _OF_RUN if (run.folder / name).exists()]
                runs[run.trial.id] = {name: _hash(run.folder / name) for name in there}
        index, log = folder / INDEX, folder / f"{INDEX}-wal"
        # While another runner has it open, the index is not at rest and has no hash.
        at_rest = index.is_file() and not (log.exists() and log.stat().st_size)
        known = seals.get(_PROVENANCE)
        content = {
            _FILES: files,
            _RUNS: runs,
            _INDEX: _hash(index) if at_rest else None,
            _PROVENANCE: _mark(folder) if _begins_as(folder, known) else known,
        }
        write_json(folder / SEALS, sealed(content))


def check_table(path: Path) -> None:
    """Refuse a table of a study that is not the one that was written.

    Raises:
        CorruptFile: it is not, or the hashes themselves are damaged.
    """
    expected = read_seals(path.parent).get(_FILES, {}).get(path.name)
    if expected is not None and _hash(path) != expected:
        raise CorruptFile(f"{path} is not what was written; `metascale report` writes it anew")


def is_concluded(view: StudyView, name: str) -> bool:
    """Whether ``name`` is a sealed file, written after the study's definition, of the very runs that are finished now.

    Asked are the hashes of the file and of results.csv, and which runs that table calls finished.
    """
    folder, seals = view.folder, _read_or_none(view.folder).get(_FILES, {})
    for path in (folder / name, folder / RESULTS_CSV):
        if name not in seals or not path.is_file() or _hash(path) != seals.get(path.name):
            return False
    if (folder / name).stat().st_mtime_ns < (folder / STUDY_JSON).stat().st_mtime_ns:
        return False
    with open(folder / RESULTS_CSV, newline="", encoding="utf-8") as stream:
        concluded = {row.get("id") for row in csv.DictReader(stream) if row.get("status") == "finished"}
    return concluded == {run.trial.id for run in view.runs if run.status == "finished"}


def broken_seals(view: StudyView, running: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Every file that is not what its hash in ``seals.json`` says, and how; runs in progress are left out.

    Raises:
        CorruptFile: ``seals.json`` itself is damaged.
    """
    folder, busy = view.folder, {*running}
    seals = read_seals(folder)
    for name, expected in seals.get(_FILES, {}).items():
        yield from _broken(place_of(folder, name, folder / SEALS), expected, "; `metascale report` writes it anew")
    folders = {run.trial.id: run.folder for run in view.runs}
    for trial, files in seals.get(_RUNS, {}).items():
        place = folders.get(trial)
        if place is None or trial in busy or (place / CLAIM).exists():
            continue
        if not place.is_dir():
            yield place, "missing, although its trial had ended"
            continue
        for name, expected in files.items():
            yield from _broken(place_of(place, name, folder / SEALS), expected, "")
    if seals.get(_INDEX) is not None and not busy:
        yield from _broken(folder / INDEX, seals[_INDEX], "; `metascale reindex` builds it anew")
    if not _begins_as(folder, seals.get(_PROVENANCE)):
        yield folder / PROVENANCE_JSONL, "its first lines are not those that were written"


def _broken(path: Path, expected: str, remedy: str) -> Iterator[tuple[Path, str]]:
    if not path.is_file():
        yield path, f"missing{remedy}"
    elif _hash(path) != expected:
        yield path, f"its SHA-256 is not the one that was recorded{remedy}"


def _read_or_none(folder: Path) -> dict[str, Any]:
    try:
        return read_seals(folder)
    except CorruptFile:
        # `verify` names it; what it held is lost, and the hashes of what is there now take its place.
        return {}


def _hash(path: Path) -> str:
    return sha256_of(path.read_bytes())


def _mark(folder: Path) -> dict[str, Any] | None:
    """Length and hash of the provenance, to which later calls append."""
    path = folder / PROVENANCE_JSONL
    if not path.is_file():
        return None
    data = path.read_bytes()
    return {"n_bytes": len(data), "sha256": sha256_of(data)}


def _begins_as(folder: Path, mark: dict[str, Any] | None) -> bool:
    if mark is None:
        return True
    path = folder / PROVENANCE_JSONL
    return path.is_file() and sha256_of(path.read_bytes()[: mark["n_bytes"]]) == mark["sha256"]
