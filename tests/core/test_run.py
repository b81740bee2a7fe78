"""The in-memory run: what a training loop relies on."""

from __future__ import annotations

from pathlib import Path

from metascale.core.run import Checkpoint, MemoryRun, Run


def test_it_is_a_run() -> None:
    run: Run = MemoryRun()
    assert isinstance(run.folder, Path)
    assert not run.folder.exists(), "nothing is created"
    run.progress(1, 2, "half")


def test_rows_come_back_in_order_and_are_copies() -> None:
    run = MemoryRun()
    row = {"step": 1, "loss": 0.5}
    run.append("train", row)
    row["loss"] = -1.0
    run.append("train", {"step": 2, "loss": 0.25})
    run.rows("train").clear()
    assert run.rows("train") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert run.rows("other") == []


def test_measurements_and_files_are_kept_apart_from_records() -> None:
    run = MemoryRun()
    run.measure({"step": 1, "wall_s": 2.0})
    run.write("pool.json", {"tasks": [1, 2]})
    run.write("theta.bin", b"bytes")
    assert run.measurements == [{"step": 1, "wall_s": 2.0}]
    assert run.files == {"pool.json": {"tasks": [1, 2]}, "theta.bin": b"bytes"}
    assert run.records == {}


def test_there_is_no_checkpoint_before_the_first_save() -> None:
    assert MemoryRun().latest() is None


def test_latest_cuts_every_record_back_to_the_checkpoint() -> None:
    run = MemoryRun()
    for step in range(1, 6):
        run.append("train", {"step": step})
        if step % 2 == 0:
            run.append("evaluation", {"step": step})
        if step == 3:
            run.save(Checkpoint(3, {"state": b"three"}))
    run.append("after", {"step": 5})
    found = run.latest()
    assert found == Checkpoint(3, {"state": b"three"})
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3]
    assert [row["step"] for row in run.rows("evaluation")] == [2]
    assert run.rows("after") == []


def test_a_later_save_replaces_the_checkpoint() -> None:
    run = MemoryRun()
    run.save(Checkpoint(1, {"state": b"one"}))
    run.append("train", {"step": 2})
    run.save(Checkpoint(2, {"state": b"two"}))
    assert run.latest() == Checkpoint(2, {"state": b"two"})
    assert run.rows("train") == [{"step": 2}]


def test_without_a_checkpoint_latest_drops_the_rows_of_an_unsaved_attempt() -> None:
    """A stored run starts its records afresh then; one in memory must not keep rows that will come again."""
    run = MemoryRun()
    run.append("train", {"step": 1})
    assert run.latest() is None
    assert run.rows("train") == []
