from __future__ import annotations

import json

import pytest

from metascale.core.errors import Diverged, InputError
from metascale.core.files import read_json, read_json_lines, sha256_of
from metascale.core.run import Checkpoint, MemoryRun
from metascale.study.errors import LeaseLost
from metascale.study.store.claims import Claim, put_claim
from metascale.study.store.run import StoredRun

FIRST, SECOND = Claim("t", "first", 1), Claim("t", "second", 2)


@pytest.fixture
def folder(tmp_path):
    put_claim(tmp_path, FIRST)
    return tmp_path


def reopened(folder) -> StoredRun:
    """The run as the next attempt of the same owner finds it."""
    return StoredRun(folder, FIRST)


def scripted(run):
    """What a loop does with a run, and what it reads back."""
    seen = [run.latest(), run.rows("train")]
    for step in (1, 2, 3):
        run.append("train", {"step": step, "loss": 1 / step, "ids": ["a", step]})
    run.save(Checkpoint(3, {"theta": b"three"}))
    run.append("train", {"step": 4, "loss": 0.25, "ids": []})
    seen += [run.rows("train"), run.latest(), run.rows("train"), run.rows("nothing")]
    return seen


def test_it_behaves_as_the_run_in_memory_does(folder):
    assert scripted(StoredRun(folder, FIRST)) == scripted(MemoryRun())


def test_an_interrupted_run_goes_on_from_its_checkpoint(folder):
    scripted(StoredRun(folder, FIRST))
    run = reopened(folder)
    assert run.latest() == Checkpoint(3, {"theta": b"three"})
    run.append("train", {"step": 4, "loss": 0.25, "ids": []})
    run.finish({"loss": 1})
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3, 4]
    assert (folder / "train.csv").read_text().splitlines()[2] == '2,0.5,"[""a"",2]"'


def test_rows_without_a_checkpoint_are_run_again(folder):
    run = StoredRun(folder, FIRST)
    run.latest()
    run.append("train", {"step": 1})
    run.save(Checkpoint(1, {}))
    run.append("train", {"step": 2})
    run.append("late", {"step": 2})
    run._flush()
    again = reopened(folder)
    assert again.latest() == Checkpoint(1, {})
    assert again.rows("train") == [{"step": 1}]
    assert (folder / "train.csv").read_text() == "step\n1\n"
    assert not (folder / "late.csv").exists()


def test_a_row_of_the_checkpoints_own_step_that_came_after_it_is_not_doubled(folder):
    run = StoredRun(folder, FIRST)
    run.latest()
    run.append("train", {"step": 1})
    run.save(Checkpoint(1, {}))
    run.append("train", {"step": 1})
    run._flush()
    assert len(reopened(folder).rows("train")) == 1


def test_a_trial_that_never_asks_for_a_checkpoint_starts_from_nothing(folder):
    scripted(StoredRun(folder, FIRST))
    run = reopened(folder)
    run.append("train", {"step": 1, "other": 2})
    assert run.rows("train") == [{"step": 1, "other": 2}]
    assert run.latest() is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "record"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(folder, damage, caplog):
    run = StoredRun(folder, FIRST)
    run.latest()
    for step in (1, 2, 3):
        run.append("train", {"step": step})
        run.save(Checkpoint(step, {"theta": b"%d" % step}))
    blob = folder / "checkpoints/step-00000003/theta.bin"
    if damage == "flip":
        blob.write_bytes(b"4")
    elif damage == "truncate":
        blob.write_bytes(b"")
    elif damage == "delete":
        blob.unlink()
    else:
        (folder / "train.csv").write_text("step\n1\n2\n4\n")
    again = reopened(folder)
    assert again.latest() == Checkpoint(2, {"theta": b"2"})
    assert [row["step"] for row in again.rows("train")] == [1, 2]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    assert "step-00000003 is not usable" in caplog.text
    warning = read_json_lines(folder / "history.jsonl")[-1]
    assert warning["event"] == "warning"
    assert ("train.csv" if damage == "record" else "theta.bin") in warning["message"]
    again.append("train", {"step": 3})
    again.save(Checkpoint(3, {"theta": b"3"}))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]


def test_with_no_usable_checkpoint_it_starts_from_nothing(folder, caplog):
    run = StoredRun(folder, FIRST)
    run.latest()
    run.append("train", {"step": 1})
    run.save(Checkpoint(1, {"theta": b"1"}))
    (folder / "checkpoints/step-00000001/theta.bin").write_bytes(b"2")
    again = reopened(folder)
    assert again.latest() is None
    assert again.rows("train") == []
    assert "theta.bin" in caplog.text


def test_the_end_is_written_with_the_hash_of_every_file(folder):
    run = StoredRun(folder, FIRST)
    scripted(run)
    run.write("pool/train.json", {"b": 1, "a": 2})
    run.write("best/theta.bin", b"\x00\xff")
    run.write("note.txt", "text")
    run.write("memory.json", {"micro_batches": []})
    run.measure({"wall_s": 1.5})
    run.finish({"loss": 0.25, "nested": {"n": (1, 2)}})
    ending = read_json(folder / "result.json")
    assert ending["result"] == {"loss": 0.25, "nested": {"n": [1, 2]}}
    assert set(ending["files"]) == {"best/theta.bin", "note.txt", "pool/train.json", "train.csv"}
    assert ending["files"]["best/theta.bin"] == sha256_of(b"\x00\xff")
    assert read_json(folder / "memory.json") == {"micro_batches": []}, "it is kept, and not part of what is compared"
    assert not (folder / "checkpoints").exists()
    assert read_json_lines(folder / "timing.jsonl") == [{"wall_s": 1.5}]


def test_checkpoints_are_kept_on_demand(folder):
    run = StoredRun(folder, FIRST)
    scripted(run)
    run.finish({}, keep_checkpoints=True)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000003"]


def test_divergence_is_a_result(folder):
    run = StoredRun(folder, FIRST)
    run.latest()
    run.append("train", {"step": 1})
    run.diverge(Diverged("loss is nan", step=2, task_ids=("a",), last_finite=0.5))
    ending = read_json(folder / "result.json")
    assert {key: ending[key] for key in ("status", "step", "task_ids", "last_finite", "message")} == {
        "status": "diverged",
        "step": 2,
        "task_ids": ["a"],
        "last_finite": 0.5,
        "message": "loss is nan",
    }
    assert (folder / "train.csv").read_text() == "step\n1\n"


def every_write(run):
    return [
        lambda: run.save(Checkpoint(9, {})),
        lambda: run.write("x.json", 1),
        run.latest,
        lambda: run.finish({}),
        lambda: run.diverge(Diverged("x", step=1)),
        lambda: run.fail("trace"),
        lambda: run.progress(1, 2),
        run.begin,
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("why", ["another owner", "finished"])
def test_nothing_is_written_after_the_claim_is_lost(folder, number, why):
    run = StoredRun(folder, FIRST)
    run.latest()
    run.append("train", {"step": 1})
    if why == "finished":
        reopened(folder).finish({})
    else:
        put_claim(folder, SECOND)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LeaseLost, match="first may not write"):
        every_write(run)[number]()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["config.json", "result.json", "stop.json", "../x", "/x", "", "checkpoints/x", "a/../../b", "t.csv"]
)
def test_a_trial_cannot_write_outside_or_over_the_runs_own_files(folder, name):
    with pytest.raises(InputError, match="cannot write"):
        StoredRun(folder, FIRST).write(name, 1)


@pytest.mark.parametrize("record", ["", "a/b", "..", "a b"])
def test_record_names_are_file_names(folder, record):
    with pytest.raises(InputError, match="cannot name a record"):
        StoredRun(folder, FIRST).append(record, {"step": 1})


def test_progress_is_told_but_not_more_than_twice_a_second(folder):
    run = StoredRun(folder, FIRST)
    run.progress(1, 10, "warm")
    run.progress(2, 10)
    told = json.loads((folder / "progress.json").read_text())
    assert (told["done"], told["total"], told["note"], told["first_done"]) == (1, 10, "warm", 1)
    run.progress(10, 10)
    assert json.loads((folder / "progress.json").read_text())["done"] == 10
    run.finish({})
    assert not (folder / "progress.json").exists()


def test_a_torn_line_of_the_history_is_cut_before_the_next(folder):
    run = StoredRun(folder, FIRST)
    run.begin(device="cpu")
    with open(folder / "history.jsonl", "a") as stream:
        stream.write('{"event": "sta')
    run.begin(device="cuda:0")
    events = read_json_lines(folder / "history.jsonl")
    assert [(row["event"], row.get("device")) for row in events] == [
        ("started", "cpu"), ("lost", None), ("started", "cuda:0"),
    ]  # fmt: skip
