"""A run's folder, the job that writes it and the store that claims it, against tables of what was done to them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError
from metascale.core.run import Checkpoint
from metascale.study.design import Trial
from metascale.study.errors import Stopped
from metascale.study.store import checkpoints
from metascale.study.store import run as of_run
from metascale.study.store.checkpoints import clean_leftovers, list_checkpoints, prune, read_checkpoint, step_of
from metascale.study.store.claims import Claim, put_claim
from metascale.study.store.folder import (
    RunView,
    damage_of,
    file_hashes,
    lost_attempt,
    read_progress,
    remove_leftovers,
    tidy,
)
from metascale.study.store.run import StoredRun, note_lost
from metascale.study.store.seals import sealed

CLAIM = Claim("a", "owner", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder that attempt 1 of ``owner`` has claimed."""
    found = tmp_path / "runs" / "a"
    found.mkdir(parents=True)
    put_claim(found, CLAIM)
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------------------- a run's folder


def ended(folder: Path, **changes: Any) -> None:
    content = {"status": "finished", "result": {}, "files": file_hashes(folder), **changes}
    (folder / "result.json").write_text(json.dumps(sealed({k: v for k, v in content.items() if v is not None})))


def test_what_is_wrong_with_a_run_that_has_ended(folder: Path) -> None:
    for name in ("train.csv", "pool.json", "x.jsonl", "best/w.json", "w.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    assert damage_of(folder) == ""
    ended(folder)
    assert damage_of(folder) == ""
    result = folder / "result.json"
    none = f"{result} is not what was written: it is no ending of a run"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"status": "running"}, none), ({"status": None}, none), ({"files": []}, none), ({"files": None}, none),
        ({"status": "diverged", "result": None}, ""),
        ({"result": 3}, f"{result} cannot be read: it holds no mapping of results"),
    ]  # fmt: skip
    for changes, said in cases:
        ended(folder, **changes)
        assert damage_of(folder) == said
    ended(folder)
    changed = ": its SHA-256 is not the one that was recorded"
    for name, seen in (
        ("train.csv", True),
        ("pool.json", True),
        ("x.jsonl", True),
        ("w.bin", False),
        ("best/w.json", False),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(before + b" ")
        assert damage_of(folder) == (f"{folder / name} is not what was written{changed}" if seen else ""), name
        (folder / name).unlink()
        assert damage_of(folder) == (f"{folder / name} is missing" if seen else ""), name
        (folder / name).write_bytes(before)
    assert damage_of(folder) == ""


def test_the_files_of_a_result_are_all_but_what_tells_of_one_execution(folder: Path) -> None:
    kept = ["a.csv", "best/w.bin", "checkpoint", "config.json", "files/error.txt"]
    left = ["result.json", "error.txt", "checkpoints/x", "history.jsonl", "timing.jsonl", "output.log", "progress.json",
            "provenance.json", "provenance.jsonl", "seals.json", "stop.json", "claim.json", ".lock",
            "memory.json"]  # fmt: skip
    for name in (*kept, *left):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / "link").symlink_to("a.csv")
    found = file_hashes(folder)
    assert list(found) == kept
    # printf x | sha256sum
    assert set(found.values()) == {"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}


@pytest.mark.parametrize("keep", [True, False])
def test_tidying(keep: bool, folder: Path) -> None:
    for name in ("progress.json", "error.txt", "stop.json", "claim.json", "train.csv"):
        (folder / name).write_text("x")
    for step in (1, 2, 3):
        (folder / "checkpoints" / f"step-0000000{step}").mkdir(parents=True)
    for _ in range(2):
        tidy(folder, keep)
        assert sorted(path.name for path in folder.iterdir()) == (
            ["checkpoints", "train.csv"] if keep else ["train.csv"]
        )
        assert len(list_checkpoints(folder / "checkpoints")) == (2 if keep else 0)


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({}, True), ({"done": 1.5}, True), ({"note": 3}, False), ({"note": None}, False),
        *(({name: value}, False) for name in ("done", "total", "updated_at", "first_done", "first_at")
          for value in ("1", None)),
    ],
)  # fmt: skip
def test_a_progress_is_whole_or_none(changes: dict[str, Any], whole: bool, folder: Path) -> None:
    told = {"done": 1, "total": 2, "note": "", "updated_at": 3.0, "first_done": 0, "first_at": 1.0} | changes
    assert read_progress(folder) is None
    (folder / "progress.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    assert read_progress(folder) == (told if whole else None)
    for text in ("{", "[]", "[" * 100_000):
        (folder / "progress.json").write_text(text)
        assert read_progress(folder) is None


def history(folder: Path, *lines: Any) -> None:
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def started(at: float = 100.0, attempt: int = 1) -> dict[str, Any]:
    return {"event": "started", "at": at, "attempt": attempt}


def test_an_attempt_is_lost_where_it_has_no_end(folder: Path) -> None:
    assert lost_attempt(folder) is None
    for end in ("finished", "diverged", "failed", "stopped", "lost"):
        history(folder, started(), {"event": end, "at": 105.0})
        assert lost_attempt(folder) is None
    history(folder, {"event": "failed", "at": 90.0}, started(100.0, 2), {"event": "warning", "at": 150.0})
    assert lost_attempt(folder) == {"attempt": 2, "wall_s": 0.0}
    told = {"done": 1, "total": 2, "note": "", "updated_at": 104.0, "first_done": 0, "first_at": 1.0}
    (folder / "progress.json").write_text(json.dumps(told))
    assert lost_attempt(folder) == {"attempt": 2, "wall_s": 4.0}
    place = folder / "checkpoints" / "step-00000001"
    place.mkdir(parents=True)
    for at, seconds in ((103.0, 4.0), (109.0, 9.0)):
        os.utime(place, (at, at))
        assert lost_attempt(folder) == {"attempt": 2, "wall_s": seconds}
    assert note_lost(folder) == 9.0
    assert note_lost(folder) == 0.0, "it is noted once"
    assert {**events(folder)[-1], "at": 0} == {"event": "lost", "at": 0, "attempt": 2, "wall_s": 9.0}
    history(folder, started())
    assert note_lost(folder, 3.5) == 3.5
    (folder / "history.jsonl").write_text("no\n")
    assert lost_attempt(folder) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "line 2, is not what was written: it is no JSON object$"),
        ({"at": 1.0}, "line 2, is not what was written: it is no event with its time$"),
        ({"event": 3, "at": 1.0}, "it is no event with its time$"),
        *(({"event": "x", "at": at}, "it is no event with its time$") for at in (None, "1", True, 1e15, -1e15)),
        ({"event": "x", "at": 1.0, "wall_s": "1"}, "it is no event with its time$"),
        ({"event": "x", "at": 1e15 - 1}, None),
    ],
)
def test_an_event_has_a_name_and_a_time(line: Any, words: str | None, folder: Path) -> None:
    history(folder, started(), line)
    view = RunView(Trial("a", "a", "trial", 0, {}, {}), folder)
    if words is None:
        assert len(view.history()) == 2
        return
    with pytest.raises(CorruptFile, match=f"^{folder / 'history.jsonl'}, .*{words}"):
        view.history()


def test_a_run_as_it_is_read(folder: Path) -> None:
    view = RunView(Trial("a", "a", "trial", 0, {}, {}), folder)
    assert (view.status, view.message(), view.error(), view.history(), view.result(), view.ending()) == (
        "running", "", "", [], None, None
    )  # fmt: skip
    (folder / "claim.json").unlink()
    assert view.status == "pending"
    (folder / "error.txt").write_text("Traceback\n  line\nValueError: no\n\n")
    assert (view.status, view.message(), view.was_killed()) == ("failed", "ValueError: no", False)
    for ends, killed in (([{"killed": True}], True), ([{"killed": True}, {}], False), ([{}, {"killed": True}], True)):
        history(
            folder, *({"event": "failed", "at": 1.0, "wall_s": 2.5, **end} for end in ends), {"event": "note", "at": 1}
        )
        assert (view.was_killed(), view.wall_s()) == (killed, 2.5 * len(ends))
    (folder / "b.csv").write_text("step\n1\n")
    (folder / "a.csv").write_text("step\n2\n")
    (folder / "timing.jsonl").write_text('{"s": 1}\n')
    assert (view.record_names(), view.rows("a"), view.rows("c")) == (("a", "b"), [{"step": 2}], [])
    assert view.measurements() == [{"s": 1}]
    (folder / "timing.jsonl").write_text("[1]\n")
    with pytest.raises(CorruptFile, match="line 1, is not what was written: it is no JSON object"):
        view.measurements()
    ended(folder, status="diverged", message="inf", result=None)
    assert (view.status, view.message(), view.was_killed(), view.result()) == ("diverged", "inf", False, None)
    ended(folder, result={"loss": 1.0})
    first = view.result()
    assert first == {"loss": 1.0}
    first["loss"] = 2.0
    assert view.result() == {"loss": 1.0}, "what is read is the reader's own"
    assert view.message() == ""
    (folder / "a.csv").write_text("step\n3\n")
    assert (view.status, view.record_names(), view.rows("a"), view.result()) == ("damaged", (), [], None)
    assert view.message() == view.damage() != ""


def test_temporary_files_of_interrupted_writes_go(folder: Path) -> None:
    for name in (".a.tmp", "deep/.b.tmp", "keep.tmp", ".keep"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".folder.tmp").mkdir()
    (folder / "checkpoints" / ".step-00000001.tmp").mkdir(parents=True)
    remove_leftovers(folder)
    left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert left == [".folder.tmp", ".keep", "checkpoints", "claim.json", "deep", "keep.tmp"]


# ------------------------------------------------------------------------------- checkpoints


def test_checkpoints_in_their_order_and_what_is_pruned(tmp_path: Path) -> None:
    names = ["step-00000010", "step-00000002", "step-00000010-stop", "step-00000012-stop", "step-100000000"]
    for name in (*names, "step-1", ".step-00000003.tmp", "step-00000004x", "other"):
        (tmp_path / name).mkdir()
    order = ["step-00000002", "step-00000010-stop", "step-00000010", "step-00000012-stop", "step-100000000"]
    assert [path.name for path in list_checkpoints(tmp_path)] == order
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [2, 10, 10, 12, 100_000_000]
    with pytest.raises(InputError, match=r"other is not a checkpoint folder$"):
        step_of(tmp_path / "other")
    prune(tmp_path, keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [order[0], order[2], order[4]]
    (tmp_path / "step-200000000-stop").mkdir()
    prune(tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == [order[2], order[4], "step-200000000-stop"]
    assert list_checkpoints(tmp_path / "none") == []


def test_what_an_interrupted_write_left(tmp_path: Path) -> None:
    for name in (".step-00000001.old", ".step-00000002.old", "step-00000002", ".step-00000003.tmp", "step-00000004"):
        (tmp_path / name).mkdir()
    (tmp_path / ".x.old").write_text("a plain file")
    (tmp_path / ".link").symlink_to(tmp_path / "step-00000004")
    clean_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002", "step-00000004"]
    clean_leftovers(tmp_path / "none")


def manifest(content: Any, **changes: Any) -> str:
    from metascale.core.canonical import canonical_json
    from metascale.core.files import sha256_of

    return json.dumps({"content": content, "sha256": sha256_of(canonical_json(content).encode()), **changes})


WHOLE = {"step": 3, "blobs": {}, "records": {}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "manifest.json is missing$"),
        ("{", "is not valid JSON"),
        ("[]", "manifest.json is not what was written$"),
        (json.dumps({"content": WHOLE}), "manifest.json is not what was written$"),
        (manifest(WHOLE, sha256="0"), "manifest.json is not what was written$"),
        ('{"content": {"a": NaN}, "sha256": ""}', "manifest.json is not what was written$"),
        *((manifest(content), "manifest.json is not what was written$") for content in (
            3, None, {**WHOLE, "step": "3"}, {"step": 3, "blobs": {}}, {**WHOLE, "blobs": []},
            {**WHOLE, "blobs": {"a": 3}}, {**WHOLE, "records": {"a": []}})),
        (manifest({**WHOLE, "blobs": {"../a": {}}}), r"manifest.json is not what was written: '../a' names no part or"),
        (manifest({**WHOLE, "records": {"a b": {}}}), r"manifest.json is not what was written: 'a b' names no part or"),
        (manifest({**WHOLE, "blobs": {"a": {"n_bytes": 7, "sha256": ""}}}), r"a.bin is not what was written \(0 of 7"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_what_was_written(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CorruptFile, match=words):
        read_checkpoint(tmp_path)


def test_a_checkpoint_reads_back_with_its_marks(tmp_path: Path) -> None:
    marks = {"train": {"n_bytes": 3, "sha256": "x"}}
    for step, scheduled, name in ((3, True, "step-00000003"), (4, False, "step-00000004-stop")):
        checkpoints.write_checkpoint(tmp_path, Checkpoint(step, {"a.b": b"1", "c": b""}, scheduled), marks)
        assert read_checkpoint(tmp_path / name) == (Checkpoint(step, {"a.b": b"1", "c": b""}), marks)
    with pytest.raises(InputError, match=r"^a checkpoint at step 2 comes after one at step 4$"):
        checkpoints.write_checkpoint(tmp_path, Checkpoint(2, {}), {})
    with pytest.raises(
        InputError, match=r"^'.a' cannot name a part of a checkpoint; use letters, digits, '_', '-' and"
    ):
        checkpoints.write_checkpoint(tmp_path, Checkpoint(5, {".a": b""}), {})


# ------------------------------------------------------------------------------- the run that a trial writes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 100.0}
    monkeypatch.setattr(of_run, "time", SimpleNamespace(monotonic=lambda: now["s"], time=lambda: 1000.0 + now["s"]))
    return now


def test_progress_is_told_twice_a_second_and_at_the_end(folder: Path, clock: dict[str, float]) -> None:
    stored = StoredRun(folder, CLAIM)
    stored.progress(5, 9, "warm")
    first = {"first_done": 5, "first_at": 1100.0}
    assert read_progress(folder) == {"done": 5, "total": 9, "note": "warm", "updated_at": 1100.0, **first}
    for at, done, told in ((100.4, 6, 5), (100.5, 7, 7), (100.6, 8, 7), (100.7, 9, 9)):
        clock["s"] = at
        stored.progress(done, 9)
        progress = read_progress(folder)
        assert progress is not None
        assert (progress["done"], progress["first_done"], progress["first_at"]) == (told, 5, 1100.0)
    assert progress["note"] == ""


def test_a_stop_is_looked_for_four_times_a_second_and_a_signal_at_every_step(
    folder: Path, clock: dict[str, float]
) -> None:
    looks: list[float] = []
    state: dict[str, Any] = {"mode": None, "signal": False}

    class Stop:
        def signalled(self) -> bool:
            return bool(state["signal"])

        def asked(self) -> Any:
            looks.append(clock["s"])
            return state["mode"]

    stored = StoredRun(folder, CLAIM, Stop())
    assert StoredRun(folder, CLAIM).stop_asked() is False
    for at in (100.0, 100.2, 100.25, 100.4):
        clock["s"] = at
        assert stored.stop_asked() is False
    assert looks == [100.0, 100.25]
    state.update(mode="finish", signal=True)
    assert stored.stop_asked() is False
    state["mode"] = "checkpoint"
    assert stored.stop_asked() is True
    assert looks[2:] == [100.4, 100.4]
    with pytest.raises(Stopped, match=r"^asked to stop; step 3 is saved$"):
        stored.save(Checkpoint(3, {}))
    state["mode"] = "finish"
    stored.save(Checkpoint(4, {}))


def test_the_history_of_an_attempt(folder: Path, clock: dict[str, float]) -> None:
    stored = StoredRun(folder, CLAIM)
    stored.begin(device="cpu")
    stored.describe({"b": 1, "a": (2,)})
    assert (folder / "provenance.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    stored.progress(1, 2)
    stored.pause(wall_s=2.0)
    assert not (folder / "progress.json").exists()
    stored.progress(1, 2)
    stored.fail("trace \udcff\n", wall_s=3.0)
    assert (folder / "error.txt").read_text() == "trace \\udcff\n"
    assert [path.name for path in folder.iterdir() if path.name in ("progress.json", "claim.json")] == []
    assert events(folder) == [
        {"event": "started", "at": 1100.0, "attempt": 1, "owner": "owner", "device": "cpu"},
        {"event": "stopped", "at": 1100.0, "attempt": 1, "wall_s": 2.0},
        {"event": "failed", "at": 1100.0, "attempt": 1, "wall_s": 3.0},
    ]
    put_claim(folder, CLAIM)
    again = StoredRun(folder, CLAIM)
    nan = float("nan")
    again.diverge(Diverged("bad \udcff", step=2, task_ids=(), last_finite=nan), keep_checkpoints=True, wall_s=1.0)  # type: ignore[arg-type]
    ending = json.loads((folder / "result.json").read_text())
    assert ending["message"] == "bad \\udcff"
    assert (ending["step"], ending["task_ids"], ending["last_finite"]) == (2, [], None)
    assert events(folder)[-1] == {"event": "diverged", "at": 1100.0, "attempt": 1, "wall_s": 1.0}


@pytest.mark.parametrize("end", ["finish", "diverge"])
def test_checkpoints_of_a_run_that_has_ended_go_unless_they_are_kept(end: str, folder: Path) -> None:
    for options, kept in (({}, False), ({"keep_checkpoints": True}, True)):
        put_claim(folder, CLAIM)
        stored = StoredRun(folder, CLAIM)
        stored.save(Checkpoint(1, {}))
        given: Any = {} if end == "finish" else Diverged("inf", step=1)
        getattr(stored, end)(given, **options)
        assert (folder / "checkpoints").exists() is kept


def test_records_have_names_and_one_process_writes_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredRun(folder, CLAIM)
    for name in ("a_b-c1", "x"):
        stored.append(name, {"step": 1})
    for name in ("", "_-", "a.b"):
        with pytest.raises(InputError, match=f"^'{name}' cannot name a record; use letters, digits, '_' and '-'$"):
            stored.append(name, {"step": 1})
    assert (stored.rows("x"), stored.rows("y"), stored.folder, stored.checkpoints) == (
        [{"step": 1}], [], folder, folder / "checkpoints"
    )  # fmt: skip
    for name, words in (("a/../b", "it needs a name of its own"), (".", "it needs a name"),
                        ("claim.json/x", "it needs"),
                        ("x.csv", "CSV files beside the configuration are records; append$")):  # fmt: skip
        with pytest.raises(InputError, match=f"^a trial cannot write '{name}': {words}"):
            stored.write(name, 1)
    stored.write("deep/x.csv", "a,b\n")
    stored.write("deep/b.bin", b"\x00")
    stored.write("deep/c.json", {"b": 1})
    assert [(folder / "deep" / name).read_bytes() for name in ("x.csv", "b.bin", "c.json")] == [
        b"a,b\n", b"\x00", b'{\n  "b": 1\n}\n'
    ]  # fmt: skip
    monkeypatch.setattr(of_run.os, "getpid", lambda: -1)
    for act in (lambda: stored.write("y", "1"), lambda: stored.progress(1, 2), lambda: stored.save(Checkpoint(1, {}))):
        with pytest.raises(MetascaleError, match=r"^a process that the trial forked cannot write its run: one process"):
            act()
