"""Executors of clusters with stand-ins for Ray and submitit: what is asked of them, and what their endings mean."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError, MetascaleError
from metascale.study.executors import ClusterExecutor
from metascale.study.executors import ray as of_ray
from metascale.study.executors import slurm as of_slurm
from metascale.study.executors.ray import RayExecutor
from metascale.study.executors.slurm import SlurmExecutor
from metascale.study.run.job import Ended, ExitCode, Job, describe_exit, was_killed
from metascale.study.run.session import _describe_death, _died


def job(name: str, folder: Path = Path("/study")) -> Job:
    return Job(name, f"label {name}", str(folder / "runs" / name), {"seed": 0}, "cpu", "owner", 1)


class Lost(Exception):
    """What Ray raises for a worker that is gone."""


class Failed(Exception):
    """What Ray raises for a task that raised."""


class Ray:
    """A cluster whose tasks have ended as ``endings`` say."""

    def __init__(self, endings: dict[str, Any], initialized: bool = False) -> None:
        self.endings, self.initialized = endings, initialized
        self.calls: list[Any] = []
        self.exceptions = SimpleNamespace(
            WorkerCrashedError=Lost, NodeDiedError=Lost, OutOfMemoryError=Lost, RayTaskError=Failed, RayError=Lost
        )

    def is_initialized(self) -> bool:
        return self.initialized

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def remote(self, function: Any) -> Any:
        assert function is of_ray.run_job
        return SimpleNamespace(options=self._options, remote=None)

    def _options(self, **options: Any) -> Any:
        self.calls.append(("options", options))
        return SimpleNamespace(remote=lambda fields: fields["trial_id"])

    def wait(self, references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        self.calls.append(("wait", references, num_returns, timeout))
        return [name for name in references if name in self.endings], []

    def get(self, reference: str) -> int:
        ending = self.endings[reference]
        if isinstance(ending, Exception):
            raise ending
        return int(ending)

    def cancel(self, reference: str, force: bool) -> None:
        self.calls.append(("cancel", reference, force))
        raise Lost


def test_trials_are_tasks_of_ray_that_start_again_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray({"a": 0, "b": Lost(), "c": 74})
    monkeypatch.setattr(of_ray, "_ray", lambda: ray)
    monkeypatch.setenv("PYTHONPATH", "/here")
    executor = RayExecutor(workers=4, cpus_per_trial=2, gpus_per_trial=0.5, threads_per_process=3)
    with executor.open() as pool:
        assert pool.free_device() == "cuda:0"
        for name in "abcd":
            pool.submit(job(name))
        assert pool.free_device() is None
        ended = pool.wait(1.5)
        assert [(one.job.trial_id, one.code) for one in ended] == [("a", 0), ("b", ExitCode.WORKER_LOST), ("c", 74)]
        assert [one.job.threads for one in ended] == [3, 3, 3]
        assert all(0 <= one.wall_s < 60 for one in ended)
        assert pool.free_device() == "cuda:0"
    assert ray.calls == [
        ("init", {"address": None, "log_to_driver": False, "include_dashboard": False}),
        ("options", {"num_cpus": 2, "num_gpus": 0.5, "max_retries": -1,
                     "runtime_env": {"env_vars": {"PYTHONPATH": "/here"}}}),
        ("wait", list("abcd"), 1, 1.5), ("cancel", "d", True), "shutdown",
    ]  # fmt: skip


def test_a_cluster_that_runs_is_left_running_and_a_task_that_raised_ends_the_study(monkeypatch: Any) -> None:
    ray = Ray({"a": Failed("no module")}, initialized=True)
    monkeypatch.setattr(of_ray, "_ray", lambda: ray)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    slept: list[float] = []
    monkeypatch.setattr(of_ray.time, "sleep", slept.append)
    with RayExecutor().open() as pool:
        assert pool.wait(0.25) == []
        pool.submit(job("a"))
        with pytest.raises(MetascaleError, match=r"^Ray could not run trial 'label a': no module$"):
            pool.wait(0.1)
    assert slept == [0.25]
    assert ("options", {"num_cpus": 1, "num_gpus": 0, "max_retries": -1, "runtime_env": None}) in ray.calls
    assert "shutdown" not in ray.calls
    assert (RayExecutor().workers, RayExecutor().device) == (64, "cpu")


@pytest.mark.parametrize(
    ("address", "where"), [(None, "a Ray cluster on this machine"), ("auto", "the Ray cluster at 'auto'")]
)
def test_a_ray_that_cannot_be_reached_is_told_in_one_line(address: Any, where: str, monkeypatch: Any) -> None:
    ray = Ray({})

    def refuse(**options: Any) -> None:
        assert options["include_dashboard"] is (False if address is None else None)
        raise ConnectionError("nobody listens\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(of_ray, "_ray", lambda: ray)
    with pytest.raises(InputError, match=f"^cannot reach {where}: nobody listens$"), RayExecutor(address).open():
        pytest.fail("there is no cluster")


def test_looking_for_a_cluster_leaves_the_signal_to_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray({})
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(of_ray, "_ray", lambda: ray)
    RayExecutor("auto").check()
    assert signal.getsignal(signal.SIGTERM) is before
    assert ray.calls == ["shutdown"]
    RayExecutor().check()
    ray.initialized = True
    RayExecutor("auto").check()
    assert ray.calls == ["shutdown"], "one that is connected already needs no look"


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "auto", "host", "host:port"])
def test_only_a_host_and_port_is_knocked_at(address: str) -> None:
    of_ray._knock(address)


# ---------------------------------------------------------------------------------------------- SLURM


class Uncompleted(Exception):
    """What submitit raises for a job that did not end by itself."""


class Refused(Exception):
    """What submitit raises for a job that was not taken."""


class Handle:
    def __init__(self, ending: Any) -> None:
        self.ending, self.cancelled = ending, 0

    def done(self) -> bool:
        return self.ending is not None

    def result(self) -> Any:
        if isinstance(self.ending, Exception):
            raise self.ending
        return self.ending

    def cancel(self, check: bool) -> None:
        assert not check
        self.cancelled += 1
        raise RuntimeError("gone already")


class Submitit:
    """A queue whose jobs end as ``endings`` say, in order."""

    def __init__(self, *endings: Any, refuses: str = "") -> None:
        self.handles = [Handle(ending) for ending in endings]
        self.refuses = refuses
        self.made: list[Any] = []
        self.sent: list[Any] = []
        self.core = SimpleNamespace(utils=SimpleNamespace(UncompletedJobError=Uncompleted, FailedJobError=Refused))

    def AutoExecutor(self, **options: Any) -> Any:
        self.made.append(options)
        return self

    def update_parameters(self, **options: Any) -> None:
        self.made.append(options)

    @contextmanager
    def batch(self) -> Any:
        self.made.append("batch")
        yield

    def submit(self, call: Any) -> Handle:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.sent.append(call)
        return self.handles[len(self.sent) - 1]


def test_what_is_claimed_at_one_time_is_one_array_and_a_lost_job_is_cancelled(monkeypatch: Any, tmp_path: Path) -> None:
    submitit = Submitit(0, Uncompleted(), None)
    monkeypatch.setattr(of_slurm, "require", lambda *names: submitit)
    slept: list[float] = []
    monkeypatch.setattr(of_slurm.time, "sleep", slept.append)
    executor = SlurmExecutor(workers=3, partition="gpu", memory_gb=8, poll_s=2.0, grace_s=30, options={"mem_gb": 9})
    with executor.open() as pool:
        for name in "abc":
            pool.submit(job(name, tmp_path))
        assert pool.free_device() is None
        ended = pool.wait(5.0)
        assert [(one.job.trial_id, one.code) for one in ended] == [("a", 0), ("b", ExitCode.WORKER_LOST)]
        assert pool.free_device() == "cpu"
        assert pool.wait(0.5) == []
        assert [handle.cancelled for handle in submitit.handles] == [0, 1, 0]
    assert [handle.cancelled for handle in submitit.handles] == [0, 1, 1]
    assert slept == [2.0, 0.5]
    assert submitit.made == [
        {"folder": tmp_path / "slurm" / "%j", "cluster": "slurm", "slurm_max_num_timeout": 100},
        executor.parameters(), "batch",
    ]  # fmt: skip
    assert executor.parameters() == {
        "name": "metascale", "timeout_min": 240, "cpus_per_task": 1, "gpus_per_node": 0, "slurm_signal_delay_s": 30,
        "slurm_array_parallelism": 3, "slurm_partition": "gpu", "mem_gb": 9,
        "slurm_additional_parameters": {"requeue": True, "open_mode": "append"},
    }  # fmt: skip
    assert "slurm_partition" not in SlurmExecutor().parameters()
    assert "mem_gb" not in SlurmExecutor().parameters()
    assert [(call.fields["trial_id"], call.grace_s) for call in submitit.sent] == [(name, 30) for name in "abc"]


def test_a_queue_that_takes_no_jobs_is_told_in_one_line(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(of_slurm, "require", lambda *names: Submitit(refuses="Invalid account\nmore"))
    with SlurmExecutor().open() as pool:
        pool.submit(job("a", tmp_path))
        with pytest.raises(MetascaleError, match=r"^cannot submit trials to SLURM: Invalid account$"):
            pool.wait(0.0)


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_slurm, "require_installed", lambda *names: None)
    for there, lacking in ({"sbatch"}, "srun"), ({"srun"}, "sbatch"), (set(), "sbatch"):
        monkeypatch.setattr(of_slurm.shutil, "which", lambda name, there=there: "/bin/x" if name in there else None)
        with pytest.raises(
            InputError, match=rf"this machine has no {lacking}; processes runs the trials here$"
        ) as caught:
            SlurmExecutor().check()
        assert (caught.value.field, caught.value.value) == ("executor", "slurm")
    SlurmExecutor(cluster="local").check()
    monkeypatch.setattr(of_slurm.shutil, "which", lambda name: "/bin/x")
    SlurmExecutor().check()


def test_a_preempted_job_is_stopped_and_queued_again_with_what_it_was(monkeypatch: Any, tmp_path: Path) -> None:
    stopped: list[float] = []

    class Supervisor:
        def __init__(self, asked: Job) -> None:
            assert asked == job("a", tmp_path)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def wait(self, grace_s: float) -> int:
            assert grace_s == 30
            return 77

        def stop(self, grace_s: float) -> None:
            stopped.append(grace_s)

    monkeypatch.setattr(of_slurm, "Supervisor", Supervisor)
    helpers = SimpleNamespace(DelayedSubmission=lambda one: one)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(helpers=helpers))
    trial = of_slurm.SlurmTrial(asdict(job("a", tmp_path)), 30)
    again = trial.checkpoint()
    assert (stopped, again.fields, again.grace_s) == ([], trial.fields, 30)
    assert trial() == 77
    trial.checkpoint()
    assert stopped == [30]
    assert trial.__getstate__() == {"fields": trial.fields, "grace_s": 30, "_supervisor": None}


# ---------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus_per_trial": -1}, "^gpus_per_trial of an executor is 0 or more, not -1$"),
        ({"processes_per_trial": 0}, "^processes_per_trial of an executor is more than 0, not 0$"),
        ({"threads_per_process": 0}, "^threads_per_process of an executor is more than 0, not 0$"),
        ({"hang_s": 0}, "^hang_s of an executor is more than 0, not 0$"),
        ({"trial_timeout_s": -1}, "^trial_timeout_s of an executor is more than 0, not -1$"),
        ({"processes_per_trial": 4, "gpus_per_trial": 2}, "^a trial on 4 processes needs 0, 1 or 4 GPUs, not 2$"),
    ],
)
def test_an_executor_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ClusterExecutor(**options)


@pytest.mark.parametrize(
    ("gpus", "processes", "device"),
    [(0, 1, "cpu"), (0.5, 1, "cuda:0"), (1, 4, "cuda:0"), (2, 1, "cuda:0,cuda:1"), (2, 2, "cuda:0,cuda:1")],
)
def test_the_devices_of_a_trial(gpus: float, processes: int, device: str) -> None:
    assert ClusterExecutor(gpus_per_trial=gpus, processes_per_trial=processes).device == device


def test_a_job_for_another_machine_has_all_that_it_needs() -> None:
    executor = ClusterExecutor(processes_per_trial=2, threads_per_process=3, hang_s=None, trial_timeout_s=7)
    found = executor.prepared(job("a"))
    assert (found.processes, found.threads, found.hang_s, found.trial_timeout_s) == (2, 3, None, 7)
    assert os.path.abspath("src") in [os.path.abspath(path) for path in found.import_paths] or found.import_paths
    assert found.together() == (found,)
    pair = Job(**{**asdict(found), "beside": (asdict(job("b")),)})
    assert [one.trial_id for one in pair.together()] == ["a", "b"]
    assert pair.together()[0].beside == ()


@pytest.mark.parametrize(
    ("code", "killed", "died", "words"),
    [
        (1, False, False, "the trial's process ended with exit status 1 and recorded no result"),
        (1077, False, True, "the trial's process ended with exit status 77 and recorded no result"),
        (-9, True, False, "the trial's process was ended by SIGKILL (signal 9)"),
        (-15, True, False, "the trial's process was ended by SIGTERM (signal 15)"),
        (-11, False, True, "the trial's process was ended by SIGSEGV (signal 11)"),
        (-250, False, True, "the trial's process was ended by an unknown signal (signal 250)"),
        (0, False, False, "the trial's process ended with exit status 0 and recorded no result"),
        (76, False, True, "the trial's process ended with exit status 76 and recorded no result"),
        (79, False, True, "the trial's process ended with exit status 79 and recorded no result"),
        (80, True, False, "the trial's process ended with exit status 80 and recorded no result"),
    ],
)
def test_what_an_exit_code_says(code: int, killed: bool, died: bool, words: str) -> None:
    assert (was_killed(code), _died(code), describe_exit(code)) == (killed, died, words)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (78, "the worker that ran the trial was lost 21 times"),
        (80, "the trial's process was killed from outside 4 times, which a system does that runs out of memory; the "
         "same command goes on from the last checkpoint"),
        (-9, "the trial's process was killed from outside by SIGKILL (signal 9) 4 times, which a system does that"),
        (79, "the trial took longer than 2.5 s and was killed"),
        (76, "the trial hung: it wrote nothing for 30 s and was killed"),
        (1, "the trial's process ended with exit status 1 and recorded no result"),
    ],
)  # fmt: skip
def test_what_is_recorded_of_an_attempt_that_recorded_nothing(code: int, words: str, tmp_path: Path) -> None:
    one = replace(job("a", tmp_path), hang_s=30.0, trial_timeout_s=2.5)
    assert _describe_death(Ended(one, code, 1.0)).startswith(words)
    without = replace(one, trial_timeout_s=None)
    assert _describe_death(Ended(without, 79, 1.0)).startswith("the trial took longer than its limit and was killed")
