"""The study's index: one SQLite row a trial, where runners claim trials. It can be rebuilt from the run folders.

A claim is one conditional UPDATE on the row as it was seen, so of two runners one gets the trial. It carries a lease,
renewed while the runner lives, and an attempt number; (owner, attempt) is the fence that later writes are checked by.
On a network file system only one machine's runners may use it, without the write-ahead log.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from metascale.core.errors import CorruptFile

Status: TypeAlias = Literal["pending", "running", "finished", "failed", "diverged", "damaged"]
STATUSES: tuple[Status, ...] = ("pending", "running", "finished", "failed", "diverged", "damaged")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL DEFAULT 'pending',
    owner TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    lease_until REAL NOT NULL DEFAULT 0,
    device TEXT NOT NULL DEFAULT '',
    started_at REAL NOT NULL DEFAULT 0,
    updated_at REAL NOT NULL DEFAULT 0,
    wall_s REAL NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID
"""
_COLUMNS = "id, status, owner, attempt, lease_until, device, started_at, updated_at, wall_s, message"
_MARKS = ", ".join("?" * 10)


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A trial as the index knows it. Times are seconds since the epoch; ``wall_s`` sums all attempts.

    While it runs, ``updated_at`` is when its lease was last renewed.
    """

    id: str
    status: Status
    owner: str | None
    attempt: int
    lease_until: float
    device: str
    started_at: float
    updated_at: float
    wall_s: float
    message: str


class Index:
    """A connection to the index. Use one a thread, and never across a fork."""

    def __init__(self, path: Path, *, timeout_s: float = 60.0) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        path = self.path
        with self._named():
            # The write-ahead log needs memory that its readers share, which a network file system does not give.
            mode = "TRUNCATE" if is_remote(path.parent) else "WAL"
            self._connection.execute(f"PRAGMA journal_mode={mode}")
            # A lost last commit after a power cut costs nothing: the folders are authoritative.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def rows(self) -> dict[str, IndexRow]:
        """Every trial's row by id."""
        with self._named():
            return _rows(self._connection)

    def row(self, trial_id: str) -> IndexRow | None:
        """One trial's row."""
        with self._named():
            query = f"SELECT {_COLUMNS} FROM trials WHERE id = ?"
            values = self._connection.execute(query, (trial_id,)).fetchone()
        return None if values is None else IndexRow(*values)

    def add(self, rows: Iterable[IndexRow]) -> None:
        """Add the trials that are not there yet."""
        with self._transaction():
            self._connection.executemany(f"INSERT OR IGNORE INTO trials ({_COLUMNS}) VALUES ({_MARKS})", _values(rows))

    def replace(self, rows: Iterable[IndexRow]) -> None:
        """Hold these trials and no others."""
        with self._transaction():
            self._connection.execute("DELETE FROM trials")
            self._connection.executemany(f"INSERT INTO trials ({_COLUMNS}) VALUES ({_MARKS})", _values(rows))

    def claim(self, seen: IndexRow, owner: str, device: str, lease_s: float) -> int | None:
        """Take the trial if its row is still as ``seen``; the attempt's number, or ``None`` if another was faster."""
        now = time.time()
        changed = self._change(
            "UPDATE trials SET status = 'running', owner = ?, attempt = attempt + 1, lease_until = ?, device = ?,"
            " started_at = ?, updated_at = ?, message = ''"
            " WHERE id = ? AND status = ? AND owner IS ? AND attempt = ? AND lease_until = ?",
            (owner, now + lease_s, device, now, now, seen.id, seen.status, seen.owner, seen.attempt, seen.lease_until),
        )
        return seen.attempt + 1 if changed else None

    def add_seconds(self, trial_id: str, wall_s: float) -> None:
        """Count ``wall_s`` more for a trial."""
        if wall_s:
            self._change("UPDATE trials SET wall_s = wall_s + ? WHERE id = ?", (wall_s, trial_id))

    def renew(self, owner: str, lease_s: float) -> int:
        """Renew every lease of ``owner``; how many there are."""
        query = "UPDATE trials SET lease_until = ?, updated_at = ? WHERE owner = ? AND status = 'running'"
        now = time.time()
        return self._change(query, (now + lease_s, now, owner))

    def settle(
        self, trial_id: str, owner: str | None, attempt: int, status: Status, wall_s: float = 0.0, message: str = ""
    ) -> bool:
        """Record how a claim ended; ``False`` when (owner, attempt) no longer holds the trial."""
        changed = self._change(
            "UPDATE trials SET status = ?, owner = NULL, lease_until = 0, updated_at = ?, wall_s = wall_s + ?,"
            " message = ? WHERE id = ? AND owner IS ? AND attempt = ?",
            (status, time.time(), wall_s, message, trial_id, owner, attempt),
        )
        return changed == 1

    def _change(self, query: str, values: tuple[object, ...]) -> int:
        with self._transaction():
            return self._connection.execute(query, values).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _named(self) -> AbstractContextManager[None]:
        return _naming(self.path)


@contextmanager
def opened_to_read(path: Path, *, timeout_s: float = 60.0) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing in the folder of the index at ``path``, which may be read-only.

    Raises:
        sqlite3.OperationalError: it cannot be opened or read from here.
    """
    # Without a log no process has the index open. Opened in the usual way it would get a log, which a reader leaves.
    at_rest = _has_log(path) and not path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?{'immutable=1' if at_rest else 'mode=ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def read_index(path: Path) -> dict[str, IndexRow]:
    """Every trial's row by id, with nothing written; none where there is no index or it cannot be opened from here.

    Raises:
        CorruptFile: the index is damaged.
    """
    if not path.exists():
        return {}
    # The index is locked, or needs files beside it in a read-only folder: the run folders say the same.
    with contextlib.suppress(sqlite3.OperationalError), _naming(path), opened_to_read(path) as connection:
        return _rows(connection)
    return {}


def _rows(connection: sqlite3.Connection) -> dict[str, IndexRow]:
    found = connection.execute(f"SELECT {_COLUMNS} FROM trials").fetchall()
    return {values[0]: IndexRow(*values) for values in found}


def _has_log(path: Path) -> bool:
    """Whether changes go through a write-ahead log, as bytes 18 and 19 of the file's header say."""
    try:
        with open(path, "rb") as stream:
            return stream.read(20)[18:] == b"\x02\x02"
    except OSError:
        # SQLite says what is wrong with it.
        return False


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError, TypeError) as error:
        raise CorruptFile(f"{path} cannot be read ({error}); rebuild it from the run folders") from error


REMOTE = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "gpfs", "lustre", "nfs", "nfs4", "panfs", "smb3"}
)
"""Kinds of file systems that several machines share."""


def is_remote(folder: Path) -> bool:
    """Whether ``folder`` is on a file system that other machines may share, as far as Linux tells."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return False
    place = str(folder.resolve())
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        _, point, name, *_ = line.split()
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind in REMOTE


def _values(rows: Iterable[IndexRow]) -> Iterator[tuple[object, ...]]:
    return (astuple(row) for row in rows)
