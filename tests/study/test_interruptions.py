"""Kills, stops, races and full disks: afterwards the files are those of an undisturbed run, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import metascale.core.files
from metascale.study import ProcessExecutor, RunStore, SerialExecutor, read_study, run_study
from metascale.study.errors import DiskFull
from metascale.study.store.claims import locked
from metascale.study.store.folder import run_folder
from metascale.study.store.index import Index
from tests.study import runner_process
from tests.study.folders import final_files, tiny_study
from tests.study.runner_process import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups")


def wait_for(condition, what: str, timeout_s: float = 20.0):
    """Poll until ``condition()`` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.01)


@pytest.fixture
def start():
    """`runner_process.start`; what still runs at the end of the test is killed."""
    processes = []

    def started(*arguments, **options):
        processes.append(runner_process.start(*arguments, **options))
        return processes[-1]

    yield started
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def stop_between_writes(pid: int, folder: Path, run: Path) -> None:
    """SIGSTOP, at an instant at which the process holds neither the run's lock nor the index's."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the stop")
        index = Index(folder / "index.sqlite3", timeout_s=0.0)
        try:
            with locked(run, 0.0):
                index.renew("nobody", 1.0)
            return
        except (TimeoutError, sqlite3.OperationalError):
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        finally:
            index.close()


def n_started(folder: Path) -> int:
    """How many attempts there were at all trials together."""
    return sum(path.read_text().count('"started"') for path in folder.glob("runs/*/history.jsonl"))


def finishes(folder: Path) -> list[int]:
    """How often each trial came to its end."""
    return [sum(event["event"] == "finished" for event in run.history()) for run in read_study(folder).runs]


@pytest.mark.parametrize(
    ("workers", "most_kills"),
    [(2, 2), pytest.param(0, 60, marks=pytest.mark.long), pytest.param(2, 60, marks=pytest.mark.long)],
)
def test_kill_9_at_random_instants_until_done(tmp_path, workers, most_kills, start):
    killed = tmp_path / "kills"
    # No trial passes its fourth step before two kills, however fast the machine is.
    study = tiny_study("busy_until_killed_twice", n_tasks=(2, 5, 7), n_steps=10, sleep_s=0.02, kills=str(killed))
    killed.write_text("none\nneeded\n")
    run_study(study, tmp_path / "whole")
    killed.write_text("")
    chance = random.Random(workers)
    kills = 0
    for attempt in range(60):
        before = n_started(tmp_path / "killed")
        process = start(study, tmp_path / "killed", workers)
        if (attempt + 1) % 4:
            # Three of four kills strike while trials run, however slowly the machine starts a process.
            wait_for(lambda p=process, n=before: p.poll() is not None or n_started(tmp_path / "killed") > n, "a trial")
        try:
            process.wait(chance.uniform(0.05, 0.5) if kills < most_kills else None)
        except subprocess.TimeoutExpired:
            family = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
            with open(killed, "a") as stream:
                stream.write("killed\n")
            assert psutil.wait_procs(family, timeout=5)[1] == [], "a killed runner left processes behind"
        _, message = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, message
    assert process.returncode == 0
    assert kills >= 2
    assert final_files(tmp_path / "killed") == final_files(tmp_path / "whole")
    # A kill between the result and its line in the history leaves none; two would be a trial run twice.
    assert all(count <= 1 for count in finishes(tmp_path / "killed"))


@pytest.mark.long
def test_kill_9_at_every_durable_operation(tmp_path):
    """A clean process forks a runner for n = 1, 2, ..., has it killed at its n-th durable write, and resumes."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.study.abort_at_every_write", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n_killed"] >= 20
    assert report["differing"] == []
    assert report["repeated"] == []


def test_two_runners_at_once_never_run_a_trial_twice(tmp_path, start):
    calls = tmp_path / "calls.txt"
    study = tiny_study("counted", n_tasks=tuple(range(1, 11)), sleep_s=0.01, calls=str(calls))
    runners = [start(study, tmp_path / "study", workers) for workers in (0, 2)]
    ran = []
    for runner in runners:
        out, err = runner.communicate(timeout=60)
        assert runner.returncode == 0, err
        ran.append(json.loads(out)["ran"])
    assert sum(ran) == 10
    assert sorted(calls.read_text().split()) == sorted(f"{n}/0" for n in range(1, 11))
    assert finishes(tmp_path / "study") == [1] * 10


def test_a_runner_stopped_past_its_lease_cannot_write_afterwards(tmp_path, start):
    study = tiny_study(n_tasks=(2,), n_steps=20, sleep_s=0.03)
    run_study(study, tmp_path / "whole")
    folder = tmp_path / "study"
    stopped = start(study, folder, lease_s=0.6)
    trial = study.trials()[0]
    wait_for(lambda: list((run_folder(folder, trial) / "checkpoints").glob("step-*")), "a checkpoint")
    stop_between_writes(stopped.pid, folder, run_folder(folder, trial))
    outcome = run_study(study, folder, lease_s=0.6)
    assert (outcome.ran, outcome.finished) == (1, 1)
    before = {path: path.read_bytes() for path in run_folder(folder, trial).rglob("*") if path.is_file()}
    os.kill(stopped.pid, signal.SIGCONT)
    out, err = stopped.communicate(timeout=30)
    assert stopped.returncode == 0, err
    assert json.loads(out) == {"ran": 0, "finished": 1}
    assert {path: path.read_bytes() for path in run_folder(folder, trial).rglob("*") if path.is_file()} == before
    assert final_files(folder) == final_files(tmp_path / "whole")


def test_trials_die_with_the_process_they_are_forked_from(tmp_path, start):
    runner = start(tiny_study("sleeps"), tmp_path, workers=2)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/asleep.json"))) == 2, "the start of both trials")
    (server,) = psutil.Process(runner.pid).children()
    trials = server.children()
    assert len(trials) == 2
    server.kill()
    assert psutil.wait_procs(trials, timeout=5)[1] == []
    _, message = runner.communicate(timeout=20)
    assert "ended unexpectedly" in message
    assert runner.returncode == 1


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_checkpoint_is_passed_over_on_resume(tmp_path, damage, caplog, start):
    study = tiny_study(n_tasks=(2,), n_steps=40, sleep_s=0.02)
    run_study(tiny_study(n_tasks=(2,), n_steps=40, sleep_s=0.02), tmp_path / "whole")
    runner = start(study, tmp_path / "hurt")
    run = run_folder(tmp_path / "hurt", study.trials()[0])
    wait_for(lambda: len(list((run / "checkpoints").glob("step-*"))) == 2, "two checkpoints")
    runner.kill()
    runner.communicate()
    newest = max((run / "checkpoints").glob("step-*"))
    blob = newest / "state.bin"
    blob.write_bytes(b"\x00" + blob.read_bytes()[1:] if damage == "flip" else blob.read_bytes()[:-3])
    assert run_study(study, tmp_path / "hurt").exit_status == 0
    assert f"checkpoint {newest.name} is not usable" in caplog.text
    assert final_files(tmp_path / "hurt") == final_files(tmp_path / "whole")


@pytest.mark.parametrize(("operation", "lasting"), [("write", True), ("write", False), ("fsync", True)])
def test_a_disk_full_at_the_nth_write_loses_nothing(tmp_path, monkeypatch, operation, lasting):
    """The n-th write fails, before its bytes are there (write) or after (fsync); every later one too, or none."""
    study = tiny_study(n_tasks=(2,), n_steps=2)
    run_study(study, tmp_path / "whole")
    target = (metascale.core.files, "_durable_point") if operation == "write" else (os, "fsync")
    original = getattr(*target)
    for n in range(1, 200):
        count = 0

        def full(*arguments, n=n):
            nonlocal count
            count += 1
            if count == n or (lasting and count > n):
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments)

        folder = tmp_path / f"{n}"
        with monkeypatch.context() as patch:
            patch.setattr(*target, full)
            try:
                run_study(study, folder)
            except DiskFull as error:
                message = str(error)
            else:
                break
        assert "run the same command again" in message
        assert run_study(study, folder).exit_status == 0
        assert final_files(folder) == final_files(tmp_path / "whole"), n
    assert n > 12


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(workers=2)])
def test_a_full_file_system_loses_nothing(tmp_path, executor):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        study = tiny_study(n_tasks=(2, 5, 7), n_steps=4)
        RunStore.create(disk / "study", study).close()
        ballast = disk / "ballast"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast.write_bytes(b"\0" * (free - 64 * 1024))
        with pytest.raises(DiskFull, match="no space left"):
            run_study(study, disk / "study", executor)
        ballast.unlink()
        assert run_study(study, disk / "study", executor).exit_status == 0
        run_study(study, tmp_path / "whole")
        assert final_files(disk / "study") == final_files(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)
