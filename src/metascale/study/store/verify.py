"""Is a study still what was written? Every hash checked, every damaged file named. Nothing is changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from metascale.core.canonical import canonical_json, content_id
from metascale.core.columns import ALL_RESULTS_JSON, PROVENANCE_JSON, PROVENANCE_JSONL, RESULTS_CSV, STUDY_JSON
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json, read_json_lines, sha256_of
from metascale.study.content import identity
from metascale.study.store.checkpoints import list_checkpoints, read_checkpoint
from metascale.study.store.folder import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    HISTORY,
    INDEX,
    RESULT,
    SEALS,
    TIMING,
    RunView,
    StudyView,
    read_study,
)
from metascale.study.store.index import IndexRow, opened_to_read, read_index
from metascale.study.store.manifest import broken_seals, read_seals
from metascale.study.store.paths import place_of
from metascale.study.store.seals import read_sealed
from metascale.study.store.table import FINALS, complete_results, results_table, unsealed_finals


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what was written, and how that shows."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class Verification:
    n_runs: int
    n_files: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        return not self.damages


def verify_study(folder: Path | str) -> Verification:
    """Check every file of the study in ``folder`` that has a hash, or that others determine.

    Raises:
        InputError: the folder holds no study.
        CorruptFile: ``study.json`` itself is damaged: then nothing else can be checked.
    """
    view = read_study(folder)
    damages: list[Damage] = []
    n_files = 1
    for run in view.runs:
        count, found = _verify_run(run)
        n_files += count
        damages += found
    damages += _unreadable(view.folder / PROVENANCE_JSONL, read_json_lines)
    damages += _verify_index(view)
    if note := unsealed_finals(view.folder):
        damages.append(Damage(view.folder / FINALS, note.removeprefix(f"{view.folder / FINALS} was ")))
    count, found = _verify_seals(view, {damage.path for damage in damages})
    n_files += count
    damages += found
    if not damages and all(run.status in ("finished", "failed", "diverged") for run in view.runs):
        # Before all trials ended the table may rightly lag behind the folders.
        n_files += 2
        damages += _verify_table(view)
    return Verification(len(view.runs), n_files, tuple(damages))


def missing_results(view: StudyView) -> tuple[str, ...]:
    """Label and path of every result that is not there although the index has its trial as ended.

    Empty where there is no index that can be read: the run folders are authoritative.
    """
    try:
        rows = read_index(view.folder / INDEX)
    except (CorruptFile, sqlite3.OperationalError):
        return ()
    lost = [run for run in view.runs if _has_lost_result(run, rows.get(run.trial.id))]
    return tuple(f"{run.trial.label}: {run.folder / RESULT} is missing, although its trial had ended" for run in lost)


def _has_lost_result(run: RunView, row: IndexRow | None) -> bool:
    return row is not None and row.status in ("finished", "diverged") and not (run.folder / RESULT).exists()


def _verify_run(run: RunView) -> tuple[int, list[Damage]]:
    folder = run.folder
    if not folder.is_dir():
        return 0, []
    damages, n_files = [], 0
    if (folder / RESULT).exists():
        hashes, problem = _sealed_files(folder)
        n_files += 1 + len(hashes)
        if problem:
            damages.append(Damage(folder / RESULT, problem))
        try:
            for name, expected in hashes.items():
                damages += _verify_hash(place_of(folder, name, folder / RESULT), expected)
        except CorruptFile as error:
            damages.append(Damage(folder / RESULT, str(error)))
    elif (folder / CONFIG).exists():
        n_files += 1
        damages += _verify_config(run)
    for checkpoint in list_checkpoints(folder / CHECKPOINTS):
        n_files += 1
        damages += _unreadable(checkpoint, read_checkpoint)
    for name in (HISTORY, TIMING):
        n_files += 1
        damages += _unreadable(folder / name, read_json_lines)
    if (folder / PROVENANCE_JSON).exists():
        n_files += 1
        damages += _unreadable(folder / PROVENANCE_JSON, read_json)
    return n_files, damages


def _sealed_files(folder: Path) -> tuple[dict[str, str], str]:
    """The hashes that a result holds, and what is wrong with the result itself."""
    try:
        ending = read_json(folder / RESULT)
    except CorruptFile as error:
        return {}, str(error)
    if not isinstance(ending, dict) or not isinstance(ending.get("files"), dict):
        return {}, "it holds no hashes of the run's files"
    try:
        read_sealed(folder / RESULT)
    except CorruptFile as error:
        return ending["files"], str(error)
    return ending["files"], ""


def _verify_hash(path: Path, expected: str) -> Iterator[Damage]:
    if path.is_symlink():
        yield Damage(path, "a link, in the place of the file that was written")
    elif not path.is_file():
        yield Damage(path, "missing")
    elif sha256_of(path.read_bytes()) != expected:
        yield Damage(path, "its SHA-256 is not the one that was recorded")


def _verify_config(run: RunView) -> Iterator[Damage]:
    path = run.folder / CONFIG
    try:
        config = read_json(path)
    except CorruptFile as error:
        yield Damage(path, str(error))
        return
    if not isinstance(config, dict) or content_id(identity(config)) != run.trial.id:
        yield Damage(path, f"it is not the configuration of trial {run.trial.id}")


def _unreadable(path: Path, read: Callable[[Path], object]) -> Iterator[Damage]:
    try:
        read(path)
    except CorruptFile as error:
        yield Damage(path, str(error))


def _verify_index(view: StudyView) -> Iterator[Damage]:
    path = view.folder / INDEX
    if not path.exists():
        return
    try:
        # Read only: `reindex` repairs a damaged index.
        with opened_to_read(path, timeout_s=10) as connection:
            answers = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        rows = read_index(path)
    except sqlite3.OperationalError:
        # Locked, or not to be opened in a folder for reading alone: the run folders are authoritative.
        return
    except (sqlite3.DatabaseError, UnicodeDecodeError, CorruptFile) as error:
        yield Damage(path, f"{error}; `metascale reindex` builds it anew")
        return
    if answers != ["ok"]:
        yield Damage(path, f"{answers[0]}; `metascale reindex` builds it anew")
        return
    for run in view.runs:
        row = rows.get(run.trial.id)
        if row is not None and row.status != "pending" and not run.folder.is_dir():
            yield Damage(run.folder, f"missing, although the index has its trial as {row.status}")
        elif row is not None and _has_lost_result(run, row):
            yield Damage(run.folder / RESULT, f"missing, although the index has its trial as {row.status}")
        elif row is not None and row.status == "failed" and run.status == "pending":
            yield Damage(run.folder / ERROR, f"missing, although the index has its trial as {row.status}")


def _verify_seals(view: StudyView, known: set[Path]) -> tuple[int, list[Damage]]:
    """How many files ``seals.json`` speaks of, and those that are not what it says and not ``known`` already."""
    path = view.folder / SEALS
    if not path.exists():
        # Since format 2 a store has the file before it has any result.
        expected = read_json(view.folder / STUDY_JSON)["format"] > 1 and (view.folder / INDEX).exists()
        return 0, [Damage(path, "missing, so nothing can be said of the files that it speaks of")] if expected else []
    try:
        seals = read_seals(view.folder)
        broken = list(broken_seals(view, _in_progress(view)))
    except CorruptFile as error:
        return 1, [Damage(path, str(error))]
    found = [Damage(place, problem) for place, problem in broken if not known & {place, place.parent}]
    return 1 + len(seals.get("files", {})) + sum(len(files) for files in seals.get("runs", {}).values()), found


def _in_progress(view: StudyView) -> list[str]:
    """Ids of the trials that the index has with a runner."""
    with contextlib.suppress(CorruptFile):
        return [row.id for row in read_index(view.folder / INDEX).values() if row.status == "running"]
    return []


def _verify_table(view: StudyView) -> Iterator[Damage]:
    table = results_table(view)
    path = view.folder / RESULTS_CSV
    if path.exists() and path.read_bytes() != table.to_csv().encode():
        yield Damage(path, "it is not the table of the runs; `metascale report` writes it anew")
    path = view.folder / ALL_RESULTS_JSON
    if not path.exists():
        return
    try:
        same = canonical_json(read_json(path)) == canonical_json(complete_results(view))
    except CorruptFile as error:
        yield Damage(path, str(error))
        return
    if not same:
        yield Damage(path, "it does not hold the results of the runs; `metascale report` writes it anew")
