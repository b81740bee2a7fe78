"""Trials as submitit jobs: on this machine by submitit's local executor, and on a real SLURM where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from metascale.study import read_study, run_study
from metascale.study.executors.slurm import SUBMISSIONS, SlurmExecutor
from tests.study.folders import final_files, tiny_study
from tests.study.runner_process import ROOT

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'metascale[slurm]'")
pytestmark = [
    pytest.mark.timeout(180),
    # submitit opens its logs and processes for the system to close.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def local(**options) -> SlurmExecutor:
    return SlurmExecutor(cluster="local", poll_s=0.1, timeout_min=5, grace_s=10, **options)


def outside(files):
    """Without submitit's own scripts and logs."""
    return {name: data for name, data in files.items() if not name.startswith(f"{SUBMISSIONS}/")}


def test_jobs_give_the_bytes_of_one_process(tmp_path):
    study = tiny_study(n_tasks=(2, 5, 7))
    outcome = run_study(study, tmp_path / "jobs", local(workers=2))
    assert (outcome.finished, outcome.ran) == (3, 3)
    run_study(study, tmp_path / "whole")
    assert outside(final_files(tmp_path / "jobs")) == final_files(tmp_path / "whole")


def test_a_preempted_job_is_saved_at_once_and_requeued_and_goes_on_from_there(tmp_path, monkeypatch):
    """The signal comes long before the first checkpoint is due."""
    study = tiny_study(n_tasks=(2,), n_steps=200, save_every=100, sleep_s=0.05)
    folder = tmp_path / "jobs"
    interrupted, saved = [], set()
    done = submitit.LocalJob.done

    def interrupt_once(job, *arguments):
        told = list(folder.glob("runs/*/progress.json"))
        if not interrupted and told:
            (child,) = _tasks_of(int(job.job_id))
            os.kill(child, submitit.local.local.LocalJobEnvironment._usr_sig())
            interrupted.append(job.job_id)
        saved.update(path.name for path in folder.glob("runs/*/checkpoints/step-*"))
        return done(job, *arguments)

    monkeypatch.setattr(submitit.LocalJob, "done", interrupt_once)
    outcome = run_study(study, folder, local())
    assert interrupted
    assert (outcome.finished, outcome.ran) == (1, 1)
    history = read_study(folder).runs[0].history()
    assert [event["event"] for event in history] == ["started", "stopped", "started", "finished"]
    assert [event["attempt"] for event in history] == [1, 1, 1, 1]
    (at_once,) = [name for name in saved if name.endswith("-stop")]
    assert int(at_once.removeprefix("step-").removesuffix("-stop")) < 100
    assert [row["step"] for row in read_study(folder).runs[0].measurements()] == [100, 200]
    run_study(study, tmp_path / "whole")
    assert outside(final_files(folder)) == final_files(tmp_path / "whole")


def _tasks_of(controller: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(controller).children()]


def test_what_submitit_is_asked_for():
    executor = SlurmExecutor(partition="gpu", gpus_per_trial=2, memory_gb=40, options={"slurm_account": "physics"})
    asked = executor.parameters()
    assert (asked["slurm_partition"], asked["gpus_per_node"], asked["mem_gb"]) == ("gpu", 2, 40)
    assert asked["slurm_additional_parameters"]["requeue"]
    assert asked["slurm_account"] == "physics"


def _has_slurm() -> bool:
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        return False
    return subprocess.run(["sinfo", "-h"], capture_output=True, check=False).returncode == 0


@pytest.mark.long
@pytest.mark.skipif(
    not _has_slurm(), reason="no SLURM controller answers here (apt install slurm-wlm; docs/cluster.md)"
)
def test_a_real_slurm_runs_an_array_and_requeues_a_job(tmp_path):
    # A node may give its jobs another /tmp: the study lies under the checkout, which they see.
    folder = ROOT / "runs" / f"slurm-test-{os.getpid()}"
    study = tiny_study(n_tasks=(2, 5, 7), n_steps=40, sleep_s=0.2)
    executor = SlurmExecutor(workers=3, timeout_min=2, grace_s=10, poll_s=0.5)
    requeued: list[str] = []
    done = submitit.SlurmJob.done

    def requeue_once(job, *arguments):
        if not requeued and len(list(folder.glob("runs/*/checkpoints/step-*"))) >= 2:
            requeued.append(job.job_id)
            subprocess.run(["scontrol", "requeue", job.job_id], check=True)
        return done(job, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitit.SlurmJob, "done", requeue_once)
        try:
            outcome = run_study(study, folder, executor)
            assert (outcome.finished, outcome.failed) == (3, 0)
            assert requeued
            histories = [[event["event"] for event in run.history()] for run in read_study(folder).runs]
            assert sum(events.count("started") for events in histories) >= 4
            assert all(events[-1] == "finished" for events in histories)
            run_study(study, tmp_path / "whole")
            assert outside(final_files(folder)) == final_files(tmp_path / "whole")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
