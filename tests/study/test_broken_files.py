"""Small files that a full disk, a crash or a file manager broke, left or removed: named, or passed over."""

from __future__ import annotations

import os
import shutil

import pytest

from metascale.core.errors import Diverged
from metascale.core.files import read_json, read_json_lines
from metascale.core.run import Checkpoint
from metascale.study import RunStore, read_study, run_study
from metascale.study.status import last_loss, study_status
from metascale.study.store.checkpoints import clean_leftovers, read_checkpoint, write_checkpoint
from metascale.study.store.claims import Claim, new_owner, put_claim
from metascale.study.store.run import StoredRun
from metascale.study.store.store import rebuild_index
from metascale.study.store.verify import verify_study
from tests.study.folders import tiny_study


def test_a_torn_line_of_the_provenance_is_cut_before_the_next(tmp_path):
    run_study(tiny_study(n_tasks=(2,)), tmp_path)
    path = tmp_path / "provenance.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert run_study(tiny_study(n_tasks=(2, 5)), tmp_path, facts={"command": "second"}).finished == 2
    assert run_study(tiny_study(n_tasks=(2, 5, 7)), tmp_path, facts={"command": "third"}).finished == 3
    assert [line["command"] for line in read_json_lines(path)] == ["second", "third"]
    (damage,) = verify_study(tmp_path).damages
    assert damage.path == path, "what the first call had written is gone"


@pytest.mark.parametrize("content", [b"", b'{"done": 3, "to', b"\xff", b"[]", b'{"done": 3}'])
def test_a_broken_progress_tells_nothing(tmp_path, content):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    run = StoredRun(store.run_view(trial).folder, store.claim(trial, new_owner()))
    run.progress(3, 12)
    assert study_status(tmp_path).trials[0].done == 3
    (run.folder / "progress.json").write_bytes(content)
    told = study_status(tmp_path).trials[0]
    assert (told.status, told.done, told.left_s) == ("running", None, None)


def test_a_deleted_run_is_pending_to_status_and_named_by_verify(tmp_path):
    run_study(tiny_study(), tmp_path)
    run = read_study(tmp_path).runs[0]
    shutil.rmtree(run.folder)
    first, second = study_status(tmp_path).trials
    assert (first.status, first.loss, second.status) == ("pending", None, "finished")
    assert last_loss(run, "finished") is None
    (damage,) = verify_study(tmp_path).damages
    assert damage.path == run.folder
    assert damage.problem == "missing, although the index has its trial as finished"
    assert run_study(tiny_study(), tmp_path).ran == 1
    assert verify_study(tmp_path).ok


@pytest.mark.parametrize("content", ["", "[]", '{"owner": "me"}'])
def test_a_broken_claim_counts_as_none_when_the_index_is_rebuilt(tmp_path, content):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    assert store.claim(trial, new_owner()) is not None
    (store.run_view(trial).folder / "claim.json").write_text(content)
    store.close()
    rebuilt = rebuild_index(tmp_path)
    assert rebuilt.index.row(trial.id).status == "pending"
    rebuilt.close()
    assert run_study(tiny_study(), tmp_path).finished == 2


def test_status_and_verify_write_nothing_into_the_folder(tmp_path):
    run_study(tiny_study(), tmp_path)
    os.utime(tmp_path, (1, 1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert study_status(tmp_path).counts["finished"] == 2
    assert verify_study(tmp_path).ok
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert tmp_path.stat().st_mtime == 1, "no file was made and removed again"


def test_where_the_index_cannot_be_opened_the_folders_are_read(tmp_path):
    run_study(tiny_study(), tmp_path)
    (tmp_path / "index.sqlite3").unlink()
    (tmp_path / "index.sqlite3").mkdir()
    assert study_status(tmp_path).counts["finished"] == 2
    (damage,) = verify_study(tmp_path).damages
    assert damage.path == tmp_path / "index.sqlite3"


def test_a_failure_whose_trace_is_no_text_is_recorded(tmp_path):
    outcome = run_study(tiny_study("names_no_text"), tmp_path)
    assert (outcome.failed, outcome.finished) == (1, 1)
    assert read_study(tmp_path).runs[0].message() == "ValueError: bad name \\udcff"


def test_a_divergence_whose_message_is_no_text_is_recorded(tmp_path):
    put_claim(tmp_path, Claim("t", "me", 1))
    StoredRun(tmp_path, Claim("t", "me", 1)).diverge(Diverged("bad name \udcff", step=1))
    assert read_json(tmp_path / "result.json")["message"] == "bad name \\udcff"


def test_hidden_files_among_the_checkpoints_go(tmp_path):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    write_checkpoint(folder, Checkpoint(1, {"state": b"one"}), {})
    (folder / ".DS_Store").write_bytes(b"Bud1")
    elsewhere.mkdir()
    (folder / ".link").symlink_to(elsewhere)
    clean_leftovers(folder)
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert read_checkpoint(folder / "step-00000001")[0].blobs == {"state": b"one"}
    assert elsewhere.is_dir()
