"""The store of a study, its index, locks and disks, against tables of events."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.core.run import Checkpoint
from metascale.study import RunStore
from metascale.study.design import Trial
from metascale.study.store import index
from metascale.study.store import store as storing
from metascale.study.store.claims import Claim, put_claim, read_claim
from metascale.study.store.index import IndexRow
from metascale.study.store.run import StoredRun
from metascale.study.store.store import rebuild_index
from tests.study.folders import tiny_study


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Of a study of one trial."""
    return RunStore.create(tmp_path / "study", tiny_study(n_tasks=(2,)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1000.0, "wall": 5000.0}
    times = SimpleNamespace(monotonic=lambda: now["s"], time=lambda: now["wall"])
    monkeypatch.setattr(storing, "time", times)
    monkeypatch.setattr(index, "time", times)
    return now


def one(store: RunStore) -> Trial:
    (trial,) = store.trials
    return trial


def row(store: RunStore) -> IndexRow:
    found = store.index.row(one(store).id)
    assert found is not None
    return found


def events(store: RunStore) -> list[str]:
    return [str(event["event"]) for event in store.run_view(one(store)).history()]


def claimed(store: RunStore, owner: str = "A", **options: Any) -> Claim:
    claim = store.claim(one(store), owner, **options)
    assert claim is not None
    return claim


# ------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("status", "owner", "until", "alive", "free"),
    [
        ("pending", None, 0.0, None, True), ("failed", None, 0.0, None, True), ("diverged", None, 0.0, None, True),
        ("finished", None, 0.0, None, False), ("damaged", None, 0.0, None, False),
        ("running", None, 9e9, None, True), ("running", "A", 4999.9, True, True), ("running", "A", 5000.0, True, False),
        ("running", "A", 9e9, False, True), ("running", "A", 9e9, True, False), ("running", "A", 9e9, None, False),
    ],
)  # fmt: skip
def test_which_trials_may_be_claimed(
    status: Any, owner: Any, until: float, alive: Any, free: bool, store: RunStore, clock: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(storing, "is_alive", lambda owner: alive)
    assert store.is_free(IndexRow("x", status, owner, 1, until, "", 0, 0, 0, "")) is free


def test_a_lease_that_is_not_renewed_while_it_is_watched_is_over(store: RunStore, clock: Any, monkeypatch: Any) -> None:
    """The clock that wrote it was far ahead: it lasts 60 s, from whenever it is first seen here."""
    monkeypatch.setattr(storing, "is_alive", lambda owner: None)
    seen = IndexRow("x", "running", "A", 1, 9060.0, "", 0, 9000.0, 0, "")
    assert not store.is_free(seen)
    for at, free in ((1059.0, False), (1060.0, False), (1060.5, True)):
        clock["s"] = at
        assert store.is_free(seen) is free
    renewed = replace(seen, lease_until=9100.0, updated_at=9040.0)
    assert not store.is_free(renewed)
    clock["s"] = 1120.0
    assert not store.is_free(renewed)
    clock["s"] = 1121.0
    assert store.is_free(renewed)


def test_a_claim_from_the_first_to_the_last(store: RunStore, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "is_alive", lambda owner: True)
    trial, folder = one(store), store.run_view(one(store)).folder
    claim = claimed(store, device="cuda:1")
    assert (claim, read_claim(folder)) == (Claim(trial.id, "A", 1), claim)
    assert (row(store).device, row(store).lease_until) == ("cuda:1", 5060.0)
    assert json.loads((folder / "config.json").read_text()) == trial.config
    assert store.claim(trial, "B") is None, "another has it"
    run = StoredRun(folder, claim)
    run.begin(keep_checkpoints=False)
    run.progress(1, 2)
    run.save(Checkpoint(1, {}))
    store.release(trial, claim, 3.0)
    assert (row(store).status, row(store).wall_s, read_claim(folder), events(store)) == (
        "pending", 3.0, None, ["started", "lost"]
    )  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "checkpoints", "config.json", "history.jsonl"]
    seen = row(store)
    claim = claimed(store, "B", lease_s=5.0)
    assert (claim.attempt, row(store).lease_until) == (2, 5005.0)
    assert store.claim(trial, "C", seen=seen) is None, "it has changed since it was seen"
    (folder / "stop.json").write_text("{}")
    assert store.settle(trial, claim, 4.0, "it died") == "failed"
    assert (row(store).status, row(store).message, row(store).wall_s) == ("failed", "it died", 7.0)
    assert "killed" not in store.run_view(trial).history()[-1]
    claim = claimed(store, "C")
    assert not (folder / "error.txt").exists()
    assert not (folder / "stop.json").exists()
    assert store.settle(trial, claim, 1.0, "again", killed=True) == "failed"
    assert store.run_view(trial).was_killed()
    assert store.settle(trial, claim, 1.0, "too late") is None
    assert row(store).wall_s == 8.0


def test_a_released_trial_took_what_was_measured_or_what_it_showed(store: RunStore) -> None:
    trial, folder = one(store), store.run_view(one(store)).folder
    claim = claimed(store)
    begun = {"event": "started", "at": 1000.0, "attempt": 1}
    (folder / "history.jsonl").write_text(json.dumps(begun) + "\n")
    told = {"done": 1, "total": 2, "note": "", "updated_at": 1007.0, "first_done": 0, "first_at": 1000.0}
    (folder / "progress.json").write_text(json.dumps(told))
    store.release(trial, claim)
    assert row(store).wall_s == 7.0
    assert not (folder / "progress.json").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_result_that_its_dead_runner_did_not_tell_is_settled_and_tidied(keep: bool, store: RunStore) -> None:
    trial, folder = one(store), store.run_view(one(store)).folder
    for how in ("settle", "release", "claim", "refresh"):
        claim = claimed(store)
        run = StoredRun(folder, claim)
        run.begin(keep_checkpoints=keep)
        run.save(Checkpoint(1, {}))
        run.finish({"loss": 1.0}, keep_checkpoints=True)
        put_claim(folder, claim)  # its process died before the tidying
        (folder / ".x.tmp").write_text("")
        if how == "settle":
            assert store.settle(trial, claim, 2.0) == "finished"
        elif how == "release":
            store.release(trial, claim, 2.0)
        elif how == "claim":
            store.index.settle(trial.id, "A", claim.attempt, "pending")
            assert store.claim(trial, "B") is None
        else:
            store.index.settle(trial.id, "A", claim.attempt, "pending")
            store.refresh()
        assert (row(store).status, read_claim(folder), (folder / "checkpoints").exists()) == ("finished", None, keep), (
            how
        )
        assert (folder / ".x.tmp").exists() is False
        assert row(store).wall_s == {"settle": 2.0}.get(how, 4.0)
        shutil.rmtree(folder)
        store.refresh()
        assert row(store).status == "pending", "a run whose folder is gone is run again"


def test_what_has_diverged_starts_from_nothing(store: RunStore) -> None:
    from metascale.core.errors import Diverged

    trial, folder = one(store), store.run_view(one(store)).folder
    claim = claimed(store)
    run = StoredRun(folder, claim)
    run.append("train", {"step": 1})
    run.save(Checkpoint(1, {}))
    run.write("best/w.bin", b"x")
    run.diverge(Diverged("inf", step=1), keep_checkpoints=True)
    assert store.settle(trial, claim, 1.0) == "diverged"
    (folder / "output.log").write_text("kept")
    claimed(store, "B")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "claim.json", "config.json", "history.jsonl", "output.log"
    ]  # fmt: skip


def test_a_claim_that_cannot_be_prepared_or_locked_is_none(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = one(store)

    def full(*given: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(storing, "_prepare", full)
        with pytest.raises(OSError, match="full"):
            store.claim(trial, "A")
    assert (row(store).status, row(store).owner, row(store).attempt) == ("pending", None, 1)
    waited: list[Any] = []

    def held(folder: Path, timeout_s: float | None = None) -> Any:
        waited.append(timeout_s)
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(storing, "locked", held)
        assert store.claim(trial, "A") is None
        assert waited == [2.0]
    with monkeypatch.context() as patch:
        patch.setattr(store.index, "claim", lambda *given: None)
        assert store.claim(trial, "A") is None, "another was faster"
    assert store.claim(replace(trial, id="unknown"), "A") is None


def test_the_index_is_built_from_the_folders(tmp_path: Path, clock: Any) -> None:
    store = RunStore.create(tmp_path, tiny_study(n_tasks=(2, 5, 7, 9)))
    going, broken, failed, _ = store.trials
    claim = store.claim(going, "A", device="cpu")
    assert claim is not None
    folder = store.run_view(going).folder
    history = [
        {"event": "started", "at": at, "attempt": attempt, "wall_s": 1.5}
        for at, attempt in ((1.0, 1), (2.0, 1), (3.0, 9))
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in history))
    store.claim(broken, "A")
    (store.run_view(broken).folder / "claim.json").write_text('{"x": 1}')
    claim = store.claim(failed, "A")
    assert claim is not None
    StoredRun(store.run_view(failed).folder, claim).fail("no\n", wall_s=2.5)
    store.reindex()
    rows = [store.index.row(trial.id) for trial in store.trials]
    ids = [trial.id for trial in store.trials]
    assert rows == [
        IndexRow(ids[0], "running", "A", 1, 5060.0, "", 2.0, 5000.0, 4.5, ""),
        IndexRow(ids[1], "pending", None, 0, 0.0, "", 0.0, 0.0, 0.0, ""),
        IndexRow(ids[2], "failed", None, 0, 0.0, "", 0.0, 0.0, 2.5, "no"),
        IndexRow(ids[3], "pending", None, 0, 0.0, "", 0.0, 0.0, 0.0, ""),
    ]
    store.close()
    for path in tmp_path.glob("index.sqlite3*"):
        path.write_bytes(b"no database" * 100)
    (tmp_path / "index.sqlite3-more").write_text("x")
    again = rebuild_index(str(tmp_path))
    assert [again.index.row(trial.id) for trial in again.trials] == rows
    assert not (tmp_path / "index.sqlite3-more").exists()


def test_a_folder_for_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = RunStore.create("~/a/b", tiny_study())
    folder = tmp_path / "a" / "b"
    assert (store.folder, store.study.name, len(store.view().runs)) == (folder, "tiny", 2)
    (folder / ".study.json.7.tmp").write_text("left")
    before = (folder / "study.json").stat().st_mtime_ns
    RunStore.create(folder, tiny_study(n_tasks=(2,))).close()
    assert ((folder / "study.json").stat().st_mtime_ns, (folder / ".study.json.7.tmp").exists()) == (before, False)
    assert len(RunStore.create(folder, tiny_study(n_tasks=(9,))).trials) == 3
    assert len(RunStore.open("~/a/b").trials) == 3
    (tmp_path / "other" / "runs").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"other has a folder 'runs' but no study.json: it is not a study; use another f"
    ):
        RunStore.create(tmp_path / "other", tiny_study())
    closed: list[int] = []

    def fails(self: RunStore) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunStore, "refresh", fails)
    monkeypatch.setattr(RunStore, "close", lambda self: closed.append(1))
    for make in (lambda: RunStore.open(folder), lambda: RunStore.create(folder, tiny_study())):
        with pytest.raises(KeyboardInterrupt):
            make()
    assert closed == [1, 1]
