"""Watchdog, stopping, several processes a trial, Ray and SLURM: each with real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from metascale.core.errors import InputError, MissingDependency
from metascale.study import ProcessExecutor, RunStore, SerialExecutor, read_study, run_study
from metascale.study.executors.local import device_of
from metascale.study.executors.ray import RayExecutor
from metascale.study.executors.slurm import SlurmExecutor
from metascale.study.run.job import ExitCode, Job
from metascale.study.run.stopping import ask_to_stop
from metascale.study.run.supervise import supervise
from metascale.study.store.claims import new_owner
from metascale.study.store.folder import run_folder
from tests.study.folders import final_files, ranks_study, tiny_study

pytestmark = pytest.mark.timeout(120)


def events(folder, name):
    """How often something happened in the histories of a study."""
    return sum(event["event"] == name for run in read_study(folder).runs for event in run.history())


def test_a_hung_trial_is_killed_and_goes_on_from_its_checkpoint(tmp_path):
    study = tiny_study("hangs_once", n_tasks=(2, 5))
    outcome = run_study(study, tmp_path, ProcessExecutor(workers=2, hang_s=1.5))
    assert (outcome.finished, outcome.failed, outcome.ran) == (2, 0, 3)
    hung = read_study(tmp_path).runs[1]
    assert [event["event"] for event in hung.history()] == ["started", "failed", "started", "finished"]


def test_a_trial_that_always_hangs_failed_and_says_so(tmp_path):
    study = tiny_study("hangs_once", n_tasks=(2, 5), always=True)
    outcome = run_study(study, tmp_path, ProcessExecutor(workers=2, hang_s=1.0))
    assert (outcome.finished, outcome.failed, outcome.ran) == (1, 1, 3)
    message = read_study(tmp_path).runs[1].message()
    assert message == "the trial hung: it wrote nothing for 1 s and was killed; its last step was 1 of 6"


@pytest.mark.parametrize("mode", [pytest.param("finish", marks=pytest.mark.long), "checkpoint"])
def test_a_study_asked_to_stop_drains_and_goes_on_later(tmp_path, mode):
    study = tiny_study(n_tasks=(2, 5, 7, 9), n_steps=40, sleep_s=0.03)
    folder = tmp_path / "study"
    run_study(tiny_study(n_tasks=(2, 5, 7, 9), n_steps=40, sleep_s=0.03), tmp_path / "whole", ProcessExecutor(4))

    def ask():
        while not list(folder.glob("runs/*/checkpoints/step-*")):
            time.sleep(0.01)
        ask_to_stop(folder, mode)

    asker = threading.Thread(target=ask)
    asker.start()
    outcome = run_study(study, folder, ProcessExecutor(workers=2))
    asker.join()
    assert outcome.stopped
    assert outcome.exit_status == 1
    assert (outcome.finished, outcome.pending) == ((2, 2) if mode == "finish" else (0, 4))
    assert events(folder, "stopped") == (0 if mode == "finish" else 2)
    again = run_study(study, folder, ProcessExecutor(workers=2))
    assert (again.finished, again.stopped) == (4, False)
    assert final_files(folder) == final_files(tmp_path / "whole")


@pytest.mark.long
def test_a_trial_on_two_processes_gives_the_same_bytes_in_every_executor(tmp_path):
    outcome = run_study(ranks_study(), tmp_path / "one", SerialExecutor(processes_per_trial=2))
    assert outcome.finished == 1, read_study(tmp_path / "one").runs[0].error()
    assert read_study(tmp_path / "one").runs[0].result()["size"] == 2
    run_study(ranks_study(), tmp_path / "two", ProcessExecutor(workers=1, processes_per_trial=2))
    assert final_files(tmp_path / "one") == final_files(tmp_path / "two")


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "RuntimeError: the second rank came off"),
        # Rank 0 sees the connection close, or torchrun ends it first.
        pytest.param("dies", "", marks=pytest.mark.long),
        pytest.param("hangs", "", marks=pytest.mark.long),
    ],
)
def test_a_rank_that_breaks_ends_the_trial_which_goes_on_from_its_checkpoint(tmp_path, how, message):
    study = ranks_study(break_at=3, how=how)
    # Longer than a slow machine takes to load torch, which looks like a hang.
    executor = ProcessExecutor(workers=1, processes_per_trial=2, hang_s=30.0)
    outcome = run_study(study, tmp_path, executor)
    run = read_study(tmp_path).runs[0]
    if how == "hangs":
        assert (outcome.finished, outcome.ran) == (1, 2)
    else:
        assert outcome.failed == 1
        assert message in run.message()
        assert run_study(study, tmp_path, executor).finished == 1
    assert [row["step"] for row in run.rows("train")] == [1, 2, 3, 4]


def test_devices_are_shared_out_to_the_processes_of_a_trial():
    four = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
    assert [device_of(four, slot, 2) for slot in (0, 1, 2)] == ["cuda:0,cuda:1", "cuda:2,cuda:3", "cuda:0,cuda:1"]
    assert [device_of(four, slot, 1) for slot in (0, 5)] == ["cuda:0", "cuda:1"]
    assert device_of(("cpu",), 3, 2) == "cpu"


def test_what_is_missing_is_named_with_its_install_line(tmp_path, monkeypatch):
    for module, executor, extra in (("ray", RayExecutor(), "ray"), ("submitit", SlurmExecutor(), "slurm")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependency, match=rf"pip install 'metascale\[{extra}\]'"):
            run_study(tiny_study(), tmp_path / module, executor)


@pytest.mark.parametrize("name", ["workers", "cpus_per_trial", "hang_s", "gpus_per_trial"])
def test_bad_numbers_of_a_cluster_executor_are_refused(name):
    for kind in (RayExecutor, SlurmExecutor):
        with pytest.raises(InputError, match=name):
            kind(**{name: -1})


def test_a_trial_that_its_machine_wants_back_ends_at_a_checkpoint_and_goes_on_elsewhere(tmp_path):
    """SIGTERM, as a drained node or a requeued job sends it, is no failure."""
    study = tiny_study(n_tasks=(2,), n_steps=40, sleep_s=0.05)
    store = RunStore.create(tmp_path, study)
    trial = store.trials[0]
    claim = store.claim(trial, new_owner())
    job = Job(
        trial.id, trial.label, str(run_folder(tmp_path, trial)), dict(trial.config), "cpu", claim.owner, claim.attempt
    )

    def terminate():
        while not list(tmp_path.glob("runs/*/checkpoints/step-*")):
            time.sleep(0.01)
        (child,) = psutil.Process().children()
        child.terminate()

    sender = threading.Thread(target=terminate)
    sender.start()
    code = supervise(job)
    sender.join()
    assert code == ExitCode.WORKER_LOST
    assert [event["event"] for event in read_study(tmp_path).runs[0].history()] == ["started", "stopped"]
    store.release(trial, claim)
    store.close()
    assert run_study(study, tmp_path).finished == 1
    assert [row["step"] for row in read_study(tmp_path).runs[0].measurements()] == list(range(2, 41, 2))


@pytest.mark.parametrize("executor", [ProcessExecutor(workers=1), SerialExecutor(processes_per_trial=2)])
def test_processes_are_refused_in_a_sentence_where_there_is_no_posix(tmp_path, monkeypatch, executor):
    monkeypatch.setattr("metascale.study.errors.POSIX", False)
    with pytest.raises(InputError, match="runs on Linux and macOS; on Windows use WSL"):
        run_study(tiny_study(), tmp_path, executor)


def test_no_import_needs_fcntl():
    code = (
        "import sys; sys.modules['fcntl'] = None;"
        "import metascale.study, metascale.laws, metascale.report, metascale.study.status, metascale.cli.main;"
        "[getattr(metascale.study, name) for name in metascale.study.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
