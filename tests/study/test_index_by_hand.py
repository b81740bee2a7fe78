"""The index of a study, the owners of its runs, its locks, disks and paths, against tables of events."""

from __future__ import annotations

import errno
import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.study import errors as of_study
from metascale.study.errors import DiskFull, explain_disk_full, is_disk_full, require_posix
from metascale.study.store import claims, index, paths
from metascale.study.store.claims import locked, new_owner, read_claim, retire
from metascale.study.store.index import Index, IndexRow, is_remote, opened_to_read, read_index
from metascale.study.store.once import once, reading_once

# ------------------------------------------------------------------------------- the index


def test_where_an_index_lies_decides_how_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for remote, mode, log in ((False, "wal", True), (True, "truncate", False)):
        monkeypatch.setattr(index, "is_remote", lambda folder, remote=remote: remote)
        path = tmp_path / f"{mode}.sqlite3"
        found = Index(path)
        assert found._connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert found._connection.execute("PRAGMA synchronous").fetchone() == (1,)
        found.close()
        assert index._has_log(path) is log
    assert index._has_log(tmp_path / "none") is False
    for content in (b"x" * 18 + b"\x02\x01", b"x" * 18 + b"\x02", b"\x02\x02"):
        (tmp_path / "x").write_bytes(content)
        assert index._has_log(tmp_path / "x") is False


def test_a_locked_index_is_waited_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    connect = sqlite3.connect
    monkeypatch.setattr(index.sqlite3, "connect", lambda path, **options: asked.append(options) or connect(path))
    for options, timeout in (({}, 60.0), ({"timeout_s": 2.5}, 2.5)):
        Index(tmp_path / "index.sqlite3", **options).close()
        assert asked.pop() == {"timeout": timeout, "isolation_level": None}


MOUNTS = """/dev/a / ext4 rw 0 0
server:/x /home nfs4 rw 0 0
/dev/b /home/me ext4 rw 0 0
tmpfs /home/me/far lustre rw 0 0
/dev/c /homely ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "remote"),
    [("/home/you/study", True), ("/home", True), ("/home/me/study", False), ("/home/me/far", True),
     ("/homely/x", False), ("/homes", False), ("/opt", False)],
)  # fmt: skip
def test_file_systems_that_machines_share(folder: str, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = SimpleNamespace(resolve=lambda: folder)
    for text, expected in ((MOUNTS, remote), (None, False)):
        mounts = SimpleNamespace(exists=lambda text=text: text is not None, read_text=lambda text=text: text)
        monkeypatch.setattr(index, "Path", lambda name, mounts=mounts: mounts)
        assert is_remote(found) is expected


def test_an_index_is_read_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "index.sqlite3"
    assert read_index(path) == {}
    found = Index(path)
    entry = IndexRow("t", "pending", None, 0, 0, "", 0, 0, 0, "")
    found.add([entry])
    assert read_index(path) == {"t": entry}
    found.close()
    asked: list[Any] = []
    connect = sqlite3.connect

    def noted(name: str, **options: Any) -> Any:
        asked.append((name.partition("?")[2], options))
        return connect(name, **options)

    monkeypatch.setattr(index.sqlite3, "connect", noted)
    assert read_index(path) == {"t": entry}
    assert [one.name for one in tmp_path.iterdir()] == ["index.sqlite3"]
    path.with_name("index.sqlite3-wal").write_text("")
    with opened_to_read(path, timeout_s=3):
        pass
    assert asked == [("immutable=1", {"uri": True, "timeout": 60.0}), ("mode=ro", {"uri": True, "timeout": 3})]
    path.with_name("index.sqlite3-wal").unlink()

    def locked_out(*given: Any, **options: Any) -> Any:
        raise sqlite3.OperationalError("locked")

    monkeypatch.setattr(index.sqlite3, "connect", locked_out)
    assert read_index(path) == {}
    with pytest.raises(sqlite3.OperationalError):
        Index(path)
    monkeypatch.undo()
    path.write_bytes(b"no database, whatever it says" * 99)
    words = rf"^{path} cannot be read \(file is not a database\); rebuild it from the run folders$"
    for act in (lambda: read_index(path), lambda: Index(path)):
        with pytest.raises(CorruptFile, match=words):
            act()


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    found = Index(tmp_path / "index.sqlite3")
    entry = IndexRow("t", "pending", None, 0, 0, "", 0, 0, 0, "")
    found.add([entry])
    with pytest.raises(CorruptFile):
        found.replace([entry, replace(entry, id="u"), entry])
    assert found.rows() == {"t": entry}
    found.add_seconds("t", 0.0)
    found.add_seconds("t", 1.5)
    assert found.rows()["t"].wall_s == 1.5
    found.close()


# ------------------------------------------------------------------------------- owners and locks


def test_a_machine_is_its_host_boot_and_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims.socket, "gethostname", lambda: "here")
    boot = SimpleNamespace(exists=lambda: True, read_text=lambda: "12345678-abcd\n")
    monkeypatch.setattr(claims, "Path", lambda name: boot)
    monkeypatch.setattr(claims.os, "readlink", lambda name: "pid:[4026531836]")
    assert claims._machine() == "here/12345678/4026531836"
    boot.exists = lambda: False
    assert claims._machine() == "here"


@pytest.mark.parametrize(
    ("ours", "theirs", "alive"),
    [
        ("here/b1/n", "here/b2/n", False), ("here/b1/n", "here/b2", False), ("here/b1/n", "here/b1/m", None),
        ("here/b1/n", "there/b2/n", None), ("here/b1/n", "here", None), ("here", "here/b2/n", None),
        ("here", "there", None),
    ],
)  # fmt: skip
def test_no_process_outlives_a_boot(ours: str, theirs: str, alive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_machine", lambda: ours)
    assert claims.is_alive(f"{theirs}:7:70:x") is alive


@pytest.mark.parametrize(("state", "started"), [(b"S", 4242), (b"R", 4242), (b"Z", None), (b"X", None), (b"x", None)])
def test_when_a_process_started_is_its_22nd_field(state: bytes, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of /proc/PID/stat, whose second field may hold spaces and parentheses."""
    rest = b" ".join(b"%d" % k for k in range(4, 22)) + b" 4242 1 2"
    stat = SimpleNamespace(read_bytes=lambda: b"7 (a (b) c) " + state + b" " + rest)
    monkeypatch.setattr(claims, "Path", lambda name: stat if name == "/proc/7/stat" else Path("/no"))
    monkeypatch.setattr(claims.sys, "platform", "linux")
    assert claims._started(7) == started
    assert claims._started(8) is None


def test_when_a_process_started_elsewhere_is_what_psutil_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(claims.sys, "platform", "darwin")
    state = {"status": "running"}
    process = SimpleNamespace(status=lambda: state["status"], create_time=lambda: 12.3456)
    monkeypatch.setattr(psutil, "Process", lambda pid: process)
    assert claims._started(7) == 12346
    state["status"] = psutil.STATUS_ZOMBIE
    assert claims._started(7) is None

    def none(pid: int) -> Any:
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", none)
    assert claims._started(7) is None


def test_a_lock_is_waited_for_and_is_a_file_of_the_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(TimeoutError), locked(tmp_path, 0.02):
            pytest.fail("it is held")
    with locked(tmp_path, 0.02):
        pass


def test_a_heartbeat_goes_on_where_the_index_is_locked_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []

    class Locked:
        def __init__(self, path: Path) -> None: ...

        def renew(self, owner: str, lease_s: float) -> int:
            beats.append(owner)
            raise sqlite3.OperationalError("locked")

        def close(self) -> None:
            beats.append("closed")

    waits = iter([False, False, True])

    class Event:
        def wait(self, timeout: float) -> bool:
            return next(waits)

        def set(self) -> None: ...

    import threading

    monkeypatch.setattr(claims, "Index", Locked)
    monkeypatch.setattr(claims, "threading", SimpleNamespace(Event=Event, Thread=threading.Thread))
    with claims.renewed(tmp_path / "i", "A", 1.0):
        pass
    assert beats == ["A", "A", "closed"]


def test_owners_are_unlike_each_other() -> None:
    one, two = new_owner(), new_owner()
    machine, pid, started, chance = one.rsplit(":", 3)
    assert (machine, pid, len(chance)) == (claims._machine(), str(os.getpid()), 8)
    assert started == str(claims._started(os.getpid()))
    assert one != two
    retire(one)
    assert (claims.is_alive(one), claims.is_alive(two)) == (False, True)


@pytest.mark.parametrize("content", ['{"x": 1}', "[1]", "{"])
def test_a_claim_that_is_none(content: str, tmp_path: Path) -> None:
    assert read_claim(tmp_path) is None
    (tmp_path / "claim.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"claim.json holds no claim$|is not valid JSON"):
        read_claim(tmp_path)


# ------------------------------------------------------------------------------- disks, paths and blocks


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, ""), True), (OSError(errno.EDQUOT, ""), True), (OSError(errno.EIO, ""), False),
        (sqlite3.OperationalError("database or disk is full"), True), (sqlite3.OperationalError("locked"), False),
        (ValueError("disk is full"), False),
    ],
)  # fmt: skip
def test_which_errors_are_a_full_disk(error: Exception, full: bool, tmp_path: Path, monkeypatch: Any) -> None:
    assert is_disk_full(error) is full
    monkeypatch.setattr(of_study.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * 2**19))
    monkeypatch.setattr(of_study.os, "statvfs", lambda place: SimpleNamespace(f_favail=7, f_files=9))
    with pytest.raises(DiskFull if full else type(error)) as caught, explain_disk_full(tmp_path / "x", "saving"):
        raise error
    if full:
        assert str(caught.value) == (
            f"no space left on the device of {tmp_path / 'x'} (1.5 MiB and 7 files free) while saving; everything "
            "recorded before is whole: free some space and run the same command again"
        )
        monkeypatch.setattr(of_study.os, "statvfs", lambda place: SimpleNamespace(f_favail=7, f_files=0))
        assert "(1.5 MiB free) while" in str(of_study.disk_full(tmp_path, "saving"))


@pytest.mark.parametrize(("left", "words", "full"), [
    (0, "unable to open database file", True), (1, "unable to open database file", False), (0, "locked", False),
])  # fmt: skip
def test_a_device_without_files_left_is_full(
    left: int, words: str, full: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    asked: list[Any] = []

    def state(place: Path) -> Any:
        asked.append(place)
        return SimpleNamespace(f_favail=left, f_files=9)

    monkeypatch.setattr(of_study.os, "statvfs", state)
    monkeypatch.setattr(of_study.shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    error = sqlite3.OperationalError(words)
    with pytest.raises(DiskFull if full else sqlite3.OperationalError), explain_disk_full(tmp_path / "a" / "b", "x"):
        raise error
    assert set(asked) <= {tmp_path}, "the nearest folder that is there is asked"
    monkeypatch.setattr(of_study, "POSIX", False)
    assert of_study._files_left(tmp_path) is None
    with pytest.raises(InputError, match=r"^a dance runs on Linux and macOS; on Windows use WSL$"):
        require_posix("a dance")


@pytest.mark.parametrize(("n_bytes", "fits"), [(480, True), (481, False)])
def test_how_long_a_path_may_be(n_bytes: int, fits: bool) -> None:
    folder = Path("/" + "ä" * 20 + "x" * (n_bytes - 41))
    if fits:
        paths.refuse_long_path(folder)
        return
    with pytest.raises(InputError) as caught:
        paths.refuse_long_path(folder)
    shown = ("ä" * 20 + "x" * 20)[:40]
    assert str(caught.value) == f"the path of the study's folder has 481 bytes; it may have at most 480 ({shown}...)"
    assert (caught.value.field, caught.value.allowed) == ("out", "at most 480 bytes")


@pytest.mark.parametrize(("name", "inside"), [
    ("a", True), ("a/b", True), ("a..b", True), ("", False), ("/a", False), ("../a", False), ("a/../b", False),
    ("a\0", False),
])  # fmt: skip
def test_files_that_others_name_lie_inside(name: str, inside: bool, tmp_path: Path) -> None:
    if inside:
        assert paths.place_of(tmp_path, name, tmp_path / "x") == tmp_path / name
        return
    with pytest.raises(
        CorruptFile, match=r"/x is not what was written: it names the file '.*', outside of its folder$"
    ):
        paths.place_of(tmp_path, name, tmp_path / "x")


def test_labels_and_links(tmp_path: Path) -> None:
    for label in ("a", "A9._=+-", "x" * 200):
        paths.check_label(label, tmp_path)
    for label in ("", "a/b", "a b", "x" * 201, 3, None):
        with pytest.raises(
            CorruptFile, match=r"is not what was written: the label .* is no name of a folder, which has at"
        ):
            paths.check_label(label, tmp_path)  # type: ignore[arg-type]
    study = tmp_path / "study"
    (study / "runs" / "a" / "files").mkdir(parents=True)
    (study / "runs" / "a" / "files" / "out").symlink_to("/etc/hosts")
    (study / "inside").symlink_to(study / "runs")
    (study / "self").symlink_to(study)
    paths.refuse_exits(study)
    for place in ("out", "files/out", "runs/a/out"):
        link = study / place
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "study2")
        with pytest.raises(
            InputError, match=rf"^{link} is a link that leads out of its folder \(to {tmp_path}/study2\)"
        ):
            paths.refuse_exits(study)
        link.unlink()
    os.mkfifo(study / "pipe")
    with pytest.raises(InputError, match=r"pipe is neither a file nor a folder; remove it$"):
        paths.refuse_exits(study)
    paths.refuse_exits(tmp_path / "none")


def test_in_a_block_a_thing_is_made_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    assert (once("a", make), once("a", make)) == (1, 2)
    with reading_once():
        assert (once("a", make), once("a", make), once("b", make)) == (3, 3, 4)
        with reading_once():
            assert once("a", make) == 3
        assert once("b", make) == 4
    assert once("a", make) == 5
