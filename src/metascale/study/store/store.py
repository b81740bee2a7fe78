"""A study on disk: claims, statuses, and the index that mirrors the run folders.

    study.json       the design and every trial          index.sqlite3    who runs what; rebuilt by `reindex`
    runs/<label>-<id>/ one folder a run (`run`)   results.csv, all_results.json   the table

The folders are authoritative: a run is finished when its ``result.json`` is there, whatever the index says.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.columns import STUDY_JSON
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import write_json
from metascale.study.definition import Definition, load_definition, save_definition
from metascale.study.design import Study, Trial
from metascale.study.store.claims import CLAIM, Claim, is_alive, locked, put_claim, read_claim
from metascale.study.store.folder import (
    CONFIG,
    ERROR,
    INDEX,
    NOT_COMPARED,
    PROGRESS,
    RESULT,
    RUNS,
    STARTED,
    STOP,
    RunView,
    StudyView,
    remove_leftovers,
    run_folder,
    tidy,
)
from metascale.study.store.index import Index, IndexRow, Status
from metascale.study.store.manifest import unseal
from metascale.study.store.once import reading_once
from metascale.study.store.paths import refuse_long_path
from metascale.study.store.run import StoredRun, note_lost

LEASE_S = 60.0
_LOCK_S = 2.0


class RunStore:
    """The store of one study. Open one a process and thread; it holds a connection to the index."""

    def __init__(self, folder: Path, definition: Definition) -> None:
        self.folder = folder
        self.definition = definition
        # Leases of other runners as first seen here: (until, seconds of our own clock that never goes back).
        self._leases: dict[str, tuple[float, float]] = {}
        unseal(folder)
        self.index = Index(folder / INDEX)

    @classmethod
    def create(cls, folder: Path | str, study: Study) -> RunStore:
        """The store for ``study``: made, opened again, or extended by new axis values, seeds and extras.

        Raises:
            InputError: the folder holds a study with another name, trial function or base, or its path is too long;
                nothing is touched.
        """
        folder = Path(folder).expanduser()
        refuse_long_path(folder)
        if (folder / STUDY_JSON).exists():
            load_definition(folder).extended(study)
        elif (folder / RUNS).exists():
            raise InputError(
                f"{folder} has a folder '{RUNS}' but no {STUDY_JSON}: it is not a study; use another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            # No other process is between writing and renaming while we hold the lock.
            for leftover in folder.glob(f".{STUDY_JSON}.*.tmp"):
                leftover.unlink()
            if (folder / STUDY_JSON).exists():
                known = load_definition(folder)
                definition = known.extended(study)
                if definition is not known:
                    save_definition(folder, definition)
            else:
                definition = Definition(study, study.trials())
                save_definition(folder, definition)
            store = cls(folder, definition)
            store._refresh_or_close()
        return store

    @classmethod
    def open(cls, folder: Path | str) -> RunStore:
        """The store in ``folder``.

        Raises:
            InputError: the folder holds no study.
        """
        folder = Path(folder).expanduser()
        definition = load_definition(folder)
        with locked(folder):
            store = cls(folder, definition)
        store._refresh_or_close()
        return store

    def _refresh_or_close(self) -> None:
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.index.close()

    @property
    def study(self) -> Study:
        return self.definition.study

    @property
    def trials(self) -> tuple[Trial, ...]:
        return self.definition.trials

    def view(self) -> StudyView:
        """The study for reading."""
        return StudyView(self.folder, self.study, tuple(self.run_view(trial) for trial in self.trials))

    def run_view(self, trial: Trial) -> RunView:
        return RunView(trial, run_folder(self.folder, trial))

    def claim(
        self, trial: Trial, owner: str, *, seen: IndexRow | None = None, device: str = "", lease_s: float = LEASE_S
    ) -> Claim | None:
        """Take a trial to run it: pending, failed or diverged as the index has it, or left by a dead owner.

        ``seen`` is the index row the decision to run rests on (default: the row now); nothing is claimed when it has
        changed since. ``None``: another runner has it, or it turned out to be finished.
        """
        row = seen or self.index.row(trial.id)
        if row is None or not self.is_free(row):
            return None
        folder = run_folder(self.folder, trial)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder, _LOCK_S):
                if row.status != "diverged" and (folder / RESULT).exists():
                    # Its runner died after the result was durable and before the index knew.
                    _tidy_dead(view := self.run_view(trial))
                    self._record(view, row)
                    return None
                attempt = self.index.claim(row, owner, device, lease_s)
                if attempt is None:
                    return None
                claim = Claim(trial.id, owner, attempt)
                try:
                    put_claim(folder, claim)
                    self.index.add_seconds(trial.id, note_lost(folder))
                    _prepare(folder, trial, restart=row.status == "diverged")
                except OSError:
                    self.index.settle(trial.id, owner, attempt, "pending")
                    raise
                return claim
        except TimeoutError:
            # A stopped process in the middle of a write: its write ends first.
            return None

    def is_free(self, row: IndexRow) -> bool:
        """Whether a trial with this row may be claimed.

        A lease is over at its time, or when it was not renewed while we watched it for as long as it lasts: the clock
        that it was written by may have been ahead, or have been set back since.
        """
        if row.status != "running":
            return row.status not in ("finished", "damaged")
        if row.owner is None or row.lease_until < time.time() or is_alive(row.owner) is False:
            return True
        now = time.monotonic()
        until, since = self._leases.get(row.id, (0.0, now))
        if until != row.lease_until:
            self._leases[row.id] = (row.lease_until, now)
            return False
        return now - since > row.lease_until - row.updated_at

    def settle(
        self, trial: Trial, claim: Claim, wall_s: float, death: str = "", *, killed: bool = False
    ) -> Status | None:
        """Record in the index how a claim ended, as the run's folder says; ``None`` when the claim was lost.

        ``death`` says how the trial's process died where it recorded nothing itself; the run then counts as failed,
        ``killed`` where that was no failure of its own (a search does not count it).

        Raises:
            LeaseLost: the run is another runner's by now.
        """
        view = self.run_view(trial)
        if (view.folder / RESULT).exists():
            with locked(view.folder):
                _tidy_dead(view)
        elif claim.same_attempt(held := read_claim(view.folder)):
            # The execution that died may have been one that a scheduler had started again.
            facts = {"killed": True} if killed else {}
            StoredRun(view.folder, held or claim).fail(f"{death}\n", wall_s=wall_s, **facts)
        return view.status if self._record(view, claim, wall_s) else None

    def release(self, trial: Trial, claim: Claim, wall_s: float = 0.0) -> None:
        """Give a trial back, to be resumed from its last checkpoint; one that ended meanwhile has ended."""
        view = self.run_view(trial)
        with locked(view.folder):
            if (view.folder / RESULT).exists():
                _tidy_dead(view)
            elif claim.same_attempt(read_claim(view.folder)):
                wall_s = max(wall_s, note_lost(view.folder, wall_s))
                (view.folder / PROGRESS).unlink(missing_ok=True)
                (view.folder / CLAIM).unlink()
            self._record(view, claim, wall_s)

    def refresh(self) -> None:
        """Bring the index up to the folders; claims of live and dead runners are left as they are."""
        with reading_once():
            self._refresh()

    def _refresh(self) -> None:
        rows = self.index.rows()
        self.index.add(self._row_from_folder(trial) for trial in self.trials if trial.id not in rows)
        for trial in self.trials:
            row = rows.get(trial.id)
            if row is None or row.status == "running":
                continue
            view = self.run_view(trial)
            has_result = (view.folder / RESULT).exists()
            _end_tidying(view)
            status = view.status if has_result else "pending"
            if status != row.status and (has_result or row.status not in ("pending", "failed")):
                self.index.settle(trial.id, row.owner, row.attempt, status, 0.0, view.message())

    def reindex(self) -> None:
        """Build the index anew from the run folders; runs in progress stay with their runners."""
        self.index.replace(self._row_from_folder(trial) for trial in self.trials)

    def _row_from_folder(self, trial: Trial) -> IndexRow:
        view = self.run_view(trial)
        _end_tidying(view)
        status, claim = view.status, None
        # A claim that a full disk broke is nobody's: nothing can be written under it, so the trial is free.
        with contextlib.suppress(CorruptFile):
            claim = read_claim(view.folder)
        if status != "running" or claim is None:
            status = "pending" if status == "running" else status
            return IndexRow(trial.id, status, None, 0, 0.0, "", 0.0, 0.0, view.wall_s(), view.message())
        starts = [event["at"] for event in view.history() if _starts(event, claim)]
        started_at = starts[-1] if starts else 0.0
        until = time.time() + LEASE_S
        renewed_at = until - LEASE_S
        return IndexRow(
            trial.id, status, claim.owner, claim.attempt, until, "", started_at, renewed_at, view.wall_s(), ""
        )

    def _record(self, view: RunView, of: Claim | IndexRow, wall_s: float = 0.0) -> bool:
        return self.index.settle(view.trial.id, of.owner, of.attempt, view.status, wall_s, view.message())


def rebuild_index(folder: Path | str) -> RunStore:
    """Open the study in ``folder`` with an index built anew, also when the old one cannot be read."""
    folder = Path(folder).expanduser()
    definition = load_definition(folder)
    try:
        store = RunStore(folder, definition)
    except CorruptFile:
        for path in folder.glob(f"{INDEX}*"):
            path.unlink()
        store = RunStore(folder, definition)
    store.reindex()
    return store


def _starts(event: Mapping[str, Any], claim: Claim) -> bool:
    return event.get("event") == STARTED and event.get("attempt") == claim.attempt


def _tidy_dead(view: RunView) -> None:
    """End the tidying of a run whose process may have died right after its result. Call it under the run's lock."""
    if view.damage():
        # Its checkpoints may be needed yet.
        return
    keep = [event["keep_checkpoints"] for event in view.history() if "keep_checkpoints" in event]
    remove_leftovers(view.folder)
    tidy(view.folder, keep_checkpoints=bool(keep and keep[-1]))


def _end_tidying(view: RunView) -> None:
    """Tidy a run that has a result and still a claim: its process died, or is at it and holds the lock."""
    if (view.folder / RESULT).exists() and (view.folder / CLAIM).exists():
        with contextlib.suppress(TimeoutError), locked(view.folder, _LOCK_S):
            _tidy_dead(view)


def _prepare(folder: Path, trial: Trial, restart: bool) -> None:
    """Make a claimed run's folder ready for its next attempt. Call it under the run's lock."""
    remove_leftovers(folder)
    if restart:
        # The result goes first: should we die here, what is left is an unfinished run, not an ended one with gaps.
        (folder / RESULT).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name not in NOT_COMPARED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / ERROR).unlink(missing_ok=True)
    for name in (PROGRESS, STOP):
        (folder / name).unlink(missing_ok=True)
    if not (folder / CONFIG).exists():
        write_json(folder / CONFIG, trial.config)
