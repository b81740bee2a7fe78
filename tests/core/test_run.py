"""The in-memory run: what a training loop relies on."""

from __future__ import annotations

from pathlib import Path

from metascale.core.run import Checkpoint, MemoryRun, Run, SharedRun


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


def test_of_a_shared_run_the_first_process_writes_and_the_others_keep_their_rows() -> None:
    inner, other = MemoryRun(), SharedRun(None, folder=Path("there"), rows=lambda record: [{"step": 0, "of": record}])
    first = SharedRun(inner)
    for run in (first, other):
        run.append("train", {"step": 1})
        run.append("train", {"step": 2})
        run.measure({"wall_s": 1.0})
        run.write("a.json", 3)
        run.progress(1, 2)
        run.save(Checkpoint(2, {"state": b"two"}))
    assert (first.folder, other.folder) == (Path("memory"), Path("there"))
    assert inner.records == {"train": [{"step": 1}, {"step": 2}]}
    assert (inner.measurements, inner.files) == ([{"wall_s": 1.0}], {"a.json": 3})
    assert first.rows("train") == inner.rows("train")
    assert first.latest() == Checkpoint(2, {"state": b"two"})
    assert other.rows("train") == [{"step": 0, "of": "train"}, {"step": 1}, {"step": 2}]
    assert other.rows("new") == [{"step": 0, "of": "new"}]
    assert other.latest() is None
    assert SharedRun(None).rows("train") == []
    assert SharedRun(None).folder == Path("memory")
    assert SharedRun(None, latest=lambda: Checkpoint(5, {})).latest() == Checkpoint(5, {})


def test_processes_agree_on_what_the_first_one_says() -> None:
    class Stopping(MemoryRun):
        def stop_asked(self) -> bool:
            return True

    said = []

    def share(value: object) -> object:
        """Notes what this process knows; the first process's value comes back."""
        said.append(value)
        return "of the first"

    other = SharedRun(None, share=share)
    assert (other.latest(), other.stop_asked()) == ("of the first", "of the first")
    other.save(Checkpoint(1, {}))
    assert said == [None, False, None]
    assert SharedRun(Stopping()).stop_asked() is True
    assert SharedRun(MemoryRun()).stop_asked() is False
    assert SharedRun(None).stop_asked() is False
