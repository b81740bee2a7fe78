from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.core.run import Checkpoint
from metascale.study import RunStore, Study, read_study, run_study
from metascale.study.status import study_status
from metascale.study.store import claims as owner_module
from metascale.study.store.claims import is_alive, new_owner
from metascale.study.store.folder import run_folder
from metascale.study.store.run import StoredRun
from metascale.study.store.seals import sealed
from metascale.study.store.store import rebuild_index
from tests.study.folders import final_files, tiny_study


def dead_owner() -> str:
    """An owner on this machine whose process ended: this process's id with another start."""
    machine, pid, _, chance = new_owner().rsplit(":", 3)
    return f"{machine}:{pid}:1:{chance}"


def test_create_opens_again_without_touching_anything(tmp_path):
    RunStore.create(tmp_path, tiny_study()).close()
    before = final_files(tmp_path)
    store = RunStore.create(tmp_path, tiny_study())
    assert final_files(tmp_path) == before
    assert store.trials == tiny_study().trials()
    assert RunStore.open(tmp_path).study == store.definition.study


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": {"n_tasks": 1, "n_steps": 8}}, "base.n_steps"),
        ({"base": {"n_tasks": 1, "inner": {"lr": 2}}}, "base.inner.lr"),
        ({"name": "other"}, "another name"),
        ({"trial": "tests.study.trials:empty"}, "another trial"),
    ],
)
def test_another_base_is_refused_by_key_and_nothing_is_touched(tmp_path, change, named):
    run_study(tiny_study(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=named):
        run_study(dataclasses.replace(tiny_study(), **change), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_study_grows_to_the_total_asked_for_and_equals_one_run_at_once(tmp_path):
    small = run_study(tiny_study(), tmp_path / "grown")
    large = run_study(tiny_study(n_tasks=(2, 5, 7), seeds=(0, 1)), tmp_path / "grown")
    assert (small.ran, large.ran, large.skipped, large.total) == (2, 4, 2, 6)
    run_study(tiny_study(n_tasks=(2, 5, 7), seeds=(0, 1)), tmp_path / "at_once")
    assert final_files(tmp_path / "grown") == final_files(tmp_path / "at_once")


def test_asking_for_fewer_trials_runs_none_and_forgets_none(tmp_path):
    run_study(tiny_study(seeds=(0, 1)), tmp_path)
    before = final_files(tmp_path)
    outcome = run_study(tiny_study(seeds=(1,)), tmp_path)
    assert (outcome.total, outcome.ran) == (2, 0)
    assert final_files(tmp_path) == before
    run_study(tiny_study(n_tasks=(9,), seeds=(1,)), tmp_path)
    assert [run.trial.config["n_tasks"] for run in read_study(tmp_path).runs] == [9, 2, 2, 5, 5]


def test_the_order_of_axes_and_trials_survives_the_disk(tmp_path):
    study = Study("s", "a:b", {}, {"z": [1, 2], "a.c": [[3], [1]]}, [1, 0], extra=[{"y": 1, "b": 2, "seeds": [4]}])
    RunStore.create(tmp_path, study)
    assert read_study(tmp_path).study == dataclasses.replace(study, seeds=(1, 0), extra=tuple(study.extra))
    assert tuple(run.trial for run in read_study(tmp_path).runs) == study.trials()


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a study folder"):
        RunStore.open(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="not a study"):
        RunStore.create(tmp_path, tiny_study())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_newer_format_and_a_changed_file_are_named(tmp_path):
    RunStore.create(tmp_path, tiny_study())
    stored = json.loads((tmp_path / "study.json").read_text())
    newer = sealed({**stored, "format": 99, "package_version": "9.9"})
    (tmp_path / "study.json").write_text(json.dumps(newer))
    with pytest.raises(InputError, match=r"format 99, written by metascale 9\.9"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({**stored, "base": {"n_tasks": 3, "lr": 1}}))
    with pytest.raises(CorruptFile, match=r"study\.json"):
        read_study(tmp_path)


def test_one_of_two_claims_wins(tmp_path):
    first, second = RunStore.create(tmp_path, tiny_study()), RunStore.open(tmp_path)
    trial = first.trials[0]
    seen = second.index.row(trial.id)
    assert first.claim(trial, new_owner()) is not None
    assert second.claim(trial, new_owner()) is None
    # Both saw the trial free, and the second comes too late.
    assert second.claim(trial, new_owner(), seen=seen) is None


@pytest.mark.parametrize("why", ["owner dead", "lease over"])
def test_a_trial_of_a_dead_or_silent_owner_is_claimed_again(tmp_path, why):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    owner = dead_owner() if why == "owner dead" else new_owner()
    old = store.claim(trial, owner, lease_s=60.0 if why == "owner dead" else 0.05)
    time.sleep(0.1)
    new = store.claim(trial, new_owner())
    assert new is not None
    assert new.attempt == old.attempt + 1
    assert store.settle(trial, old, 1.0, "died") is None
    assert store.index.row(trial.id).status == "running"


def test_one_of_two_takes_over_from_a_dead_owner(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    store.claim(trial, dead_owner())
    seen = store.index.row(trial.id)
    assert store.claim(trial, new_owner(), seen=seen) is not None
    assert store.claim(trial, new_owner(), seen=seen) is None


def test_a_claim_that_cannot_be_prepared_is_given_back(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = RunStore.create(tmp_path, tiny_study())
    monkeypatch.setattr("metascale.study.store.store.write_json", full)
    with pytest.raises(OSError, match="No space"):
        store.claim(store.trials[0], new_owner())
    assert store.index.row(store.trials[0].id).status == "pending"


def test_a_claim_puts_back_the_checkpoint_that_a_kill_caught_between_two_renames(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    run = StoredRun(run_folder(tmp_path, trial), store.claim(trial, dead_owner()))
    run.latest()
    run.save(Checkpoint(3, {"theta": b"3"}))
    (run.checkpoints / "step-00000003").rename(run.checkpoints / ".step-00000003.old")
    again = StoredRun(run.folder, store.claim(trial, new_owner()))
    assert again.latest() == Checkpoint(3, {"theta": b"3"})


def test_a_renewed_lease_holds(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial, owner = store.trials[0], new_owner()
    store.claim(trial, owner, lease_s=0.05)
    assert store.index.renew(owner, 60.0) == 1
    time.sleep(0.1)
    assert store.claim(trial, new_owner()) is None


def test_an_owner_of_an_earlier_boot_of_this_machine_is_dead(monkeypatch, tmp_path):
    monkeypatch.setattr("metascale.study.store.claims._machine", lambda: "here/boot-one/4026531836")
    owner = new_owner()
    assert is_alive(owner) is True
    store = RunStore.create(tmp_path, tiny_study())
    assert store.claim(store.trials[0], owner, lease_s=3600.0) is not None
    monkeypatch.setattr("metascale.study.store.claims._machine", lambda: "here/boot-one/container")
    assert is_alive(owner) is None
    monkeypatch.setattr("metascale.study.store.claims._machine", lambda: "there/boot-two/4026531836")
    assert is_alive(owner) is None
    assert store.claim(store.trials[0], new_owner()) is None
    monkeypatch.setattr("metascale.study.store.claims._machine", lambda: "here/boot-two/4026531836")
    assert is_alive(owner) is False
    assert store.claim(store.trials[0], new_owner()) is not None


class Clock:
    """The wall clock and the one that never goes back, both moved by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 50.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_by(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds


def test_a_clock_set_back_makes_nobody_wait_longer_than_a_lease(monkeypatch, tmp_path):
    clock = Clock()
    for module in ("store", "index"):
        monkeypatch.setattr(f"metascale.study.store.{module}.time", clock)
    store, elsewhere = RunStore.create(tmp_path, tiny_study()), "there/boot/1:7:8:abc"
    trial = store.trials[0]
    assert store.claim(trial, elsewhere, lease_s=60.0) is not None
    clock.wall -= 3 * 86_400
    assert store.claim(trial, new_owner()) is None
    # Its runner lives, and renews the lease by a clock of its own.
    for _ in range(8):
        clock.pass_by(15.0)
        monkeypatch.setattr(clock, "wall", clock.wall + 3 * 86_400)
        assert store.index.renew(elsewhere, 60.0) == 1
        monkeypatch.setattr(clock, "wall", clock.wall - 3 * 86_400)
        assert store.claim(trial, new_owner()) is None
    clock.pass_by(59.0)
    assert store.claim(trial, new_owner()) is None
    clock.pass_by(2.0)
    assert store.claim(trial, new_owner()) is not None


def test_owners_are_told_apart():
    assert new_owner() != new_owner()
    assert is_alive(new_owner()) is True
    assert is_alive(dead_owner()) is False
    assert is_alive("another/machine:1:1:abc") is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start is only known by the wall clock")
def test_an_owner_lives_on_when_the_wall_clock_is_set(monkeypatch):
    owner = new_owner()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 5.0)
    assert is_alive(owner) is True


@pytest.mark.parametrize("platform", [sys.platform, "darwin"])
def test_a_process_that_ended_is_no_owner_before_it_is_waited_for(monkeypatch, platform):
    machine, _, _, chance = new_owner().rsplit(":", 3)
    with subprocess.Popen(["sleep", "60"]) as process:
        monkeypatch.setattr(sys, "platform", platform)
        name = f"{machine}:{process.pid}:{owner_module._started(process.pid)}:{chance}"
        assert is_alive(name) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_alive(name) is False
        monkeypatch.undo()
    assert is_alive(name) is False


@pytest.mark.parametrize("keep", [False, True])
def test_a_result_that_the_index_missed_is_adopted_not_run_again(tmp_path, keep):
    run_study(tiny_study(), tmp_path / "whole", keep_checkpoints=keep)
    store = RunStore.create(tmp_path / "cut", tiny_study())
    for trial in store.trials:
        claim = store.claim(trial, dead_owner())
        run = StoredRun(run_folder(store.folder, trial), claim)
        run.begin(keep_checkpoints=keep)
        # The result is durable, and the process dies before it can tidy up.
        for path in run_folder(tmp_path / "whole", trial).rglob("*"):
            if path.is_file() and path.name not in ("history.jsonl", ".lock"):
                copy = run.folder / path.relative_to(run_folder(tmp_path / "whole", trial))
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        (run.folder / ".litter.json.1.tmp").write_text("half")
    outcome = run_study(tiny_study(), tmp_path / "cut")
    assert (outcome.ran, outcome.finished) == (0, 2)
    assert final_files(tmp_path / "cut") == final_files(tmp_path / "whole")
    assert (run.folder / "checkpoints").exists() == keep


@pytest.mark.parametrize("damage", ["lost", "garbage", "stale"])
def test_the_index_is_rebuilt_from_the_folders(tmp_path, damage):
    study = tiny_study("sometimes_fails", n_tasks=(2, 5, 7), fail_at=5, cured=str(tmp_path / "cured"))
    folder = tmp_path / "study"
    run_study(study, folder)
    store = RunStore.open(folder)
    before = {key: (row.status, row.message) for key, row in store.index.rows().items()}
    store.close()
    assert sorted(status for status, _ in before.values()) == ["failed", "finished", "finished"]
    if damage == "stale":
        changed = RunStore.open(folder)
        for row in changed.index.rows().values():
            changed.index.settle(row.id, None, row.attempt, "pending")
    else:
        for path in folder.glob("index.sqlite3*"):
            path.unlink()
        if damage == "garbage":
            (folder / "index.sqlite3").write_bytes(b"not a database" * 1000)
            with pytest.raises(CorruptFile, match="cannot be read"):
                RunStore.open(folder)
    store = rebuild_index(folder)
    assert {key: (row.status, row.message) for key, row in store.index.rows().items()} == before
    assert all(row.wall_s > 0 for row in store.index.rows().values())


def test_rebuilding_leaves_running_trials_to_their_runner(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial, owner = store.trials[0], new_owner()
    claim = store.claim(trial, owner)
    store.reindex()
    assert store.claim(trial, new_owner()) is None
    assert store.index.renew(owner, 60.0) == 1
    store.release(trial, claim)
    assert store.index.row(trial.id).status == "pending"


def test_rebuilding_keeps_when_a_running_attempt_started(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    run = StoredRun(run_folder(tmp_path, trial), store.claim(trial, new_owner()))
    store.reindex()
    assert study_status(tmp_path).trials[0].wall_s == 0.0, "claimed, and not started yet"
    run.begin(device="cpu")
    store.reindex()
    (started,) = store.run_view(trial).history()
    assert store.index.row(trial.id).started_at == started["at"]
    assert study_status(tmp_path).trials[0].wall_s < 1e6


def test_a_deleted_run_is_run_again(tmp_path):
    run_study(tiny_study(), tmp_path)
    before = final_files(tmp_path)
    run = read_study(tmp_path).runs[0]
    for path in sorted(run.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.folder.rmdir()
    assert run_study(tiny_study(), tmp_path).ran == 1
    assert final_files(tmp_path) == before


def test_reading_needs_no_index_and_writes_nothing(tmp_path):
    run_study(tiny_study(), tmp_path)
    for path in tmp_path.glob("index.sqlite3*"):
        path.unlink()
    view = read_study(tmp_path)
    run = view.runs[0]
    assert run.status == "finished"
    assert run.record_names() == ("evaluation", "train")
    assert [row["step"] for row in run.rows("evaluation")] == [2, 4, 6]
    assert run.result()["curve"] == [row["loss"] for row in run.rows("train")]
    assert len(run.measurements()) == 3
    assert [event["event"] for event in run.history()] == ["started", "finished"]
    assert not list(tmp_path.glob("index.sqlite3*"))
