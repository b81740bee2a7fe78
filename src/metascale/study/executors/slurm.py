"""Trials as jobs of a SLURM cluster, through submitit. The study folder is on storage that every node shares.

Trials claimed at one time are submitted as one array. A job that is preempted or reaches its time limit has its trial
saved after the step in progress and is requeued; the new execution takes over the run. This process is the coordinator:
it claims, and it alone writes the index.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from metascale.core.errors import InputError, MetascaleError
from metascale.core.optional import require, require_installed
from metascale.study.executors import ClusterExecutor, check_positive, require_torch
from metascale.study.run.job import Ended, ExitCode, Job, Pool
from metascale.study.run.supervise import Supervisor

SUBMISSIONS = "slurm"
"""Where submitit keeps its scripts and logs, inside the study's folder."""


@dataclass(frozen=True, slots=True)
class SlurmExecutor(ClusterExecutor):
    """One SLURM job a trial, in arrays.

    Args:
        partition: where to submit; empty for the cluster's default.
        workers: trials in flight, whether they run or wait in SLURM's queue.
        cpus_per_trial, memory_gb: what each job asks for.
        timeout_min: time limit of a job; a longer trial is requeued and resumes, at most ``max_timeouts`` times.
        grace_s: how long before the limit a job is signalled: the time that a trial has to save itself.
        options: further parameters of submitit, such as ``{"slurm_account": "physics"}``.
        cluster: ``"slurm"``; ``"local"`` runs the same jobs on this machine, for trying out.
    """

    partition: str = ""
    workers: int = 100
    cpus_per_trial: int = 1
    memory_gb: float | None = None
    timeout_min: int = 240
    max_timeouts: int = 100
    grace_s: int = 120
    options: Mapping[str, Any] = field(default_factory=dict)
    cluster: Literal["slurm", "local"] = "slurm"
    poll_s: float = 5.0

    def __post_init__(self) -> None:
        ClusterExecutor.__post_init__(self)
        check_positive(self, "workers", "cpus_per_trial", "timeout_min", "grace_s", "memory_gb", "poll_s")

    def check(self) -> None:
        require_installed("submitit", "slurm", "`executor` slurm")
        require_torch(self.processes_per_trial)
        lacking = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
        if self.cluster == "slurm" and lacking:
            raise InputError(
                f"`executor` slurm submits from a node of a SLURM cluster, and this machine has no {lacking[0]}; "
                "processes runs the trials here",
                field="executor",
                value="slurm",
            )

    @contextmanager
    def open(self) -> Iterator[Pool]:
        submitit = require("submitit", "slurm", "`executor` slurm")
        pool = _SlurmPool(submitit, self)
        try:
            yield pool
        finally:
            pool.cancel()

    def parameters(self) -> dict[str, Any]:
        """The parameters for submitit."""
        found: dict[str, Any] = {
            "name": "metascale",
            "timeout_min": self.timeout_min,
            "cpus_per_task": self.cpus_per_trial,
            "gpus_per_node": self.gpus_per_trial,
            "slurm_signal_delay_s": self.grace_s,
            "slurm_array_parallelism": self.workers,
            "slurm_additional_parameters": {"requeue": True, "open_mode": "append"},
        }
        if self.partition:
            found["slurm_partition"] = self.partition
        if self.memory_gb is not None:
            found["mem_gb"] = self.memory_gb
        return {**found, **self.options}


class SlurmTrial:
    """What submitit pickles: a job's fields, and what to do when it is preempted."""

    def __init__(self, fields: Mapping[str, Any], grace_s: float) -> None:
        self.fields = dict(fields)
        self.grace_s = grace_s
        self._supervisor: Any = None

    def __call__(self) -> int:
        with Supervisor(Job(**self.fields)) as supervisor:
            self._supervisor = supervisor
            return int(supervisor.wait(self.grace_s))

    def checkpoint(self) -> Any:
        """Called in the signal's handler: the trial is saved and ends, then the job is queued again."""
        import submitit

        if self._supervisor is not None:
            self._supervisor.stop(self.grace_s)
        return submitit.helpers.DelayedSubmission(SlurmTrial(self.fields, self.grace_s))

    def __getstate__(self) -> dict[str, Any]:
        return {"fields": self.fields, "grace_s": self.grace_s, "_supervisor": None}


class _SlurmPool:
    def __init__(self, submitit: Any, executor: SlurmExecutor) -> None:
        self._submitit = submitit
        self._executor = executor
        self._waiting: list[Job] = []
        self._running: list[tuple[Any, Job, float]] = []

    def free_device(self) -> str | None:
        in_flight = len(self._waiting) + len(self._running)
        return self._executor.device if in_flight < self._executor.workers else None

    def submit(self, job: Job) -> None:
        self._waiting.append(self._executor.prepared(job))

    def wait(self, timeout_s: float) -> list[Ended]:
        self._send()
        time.sleep(min(timeout_s, self._executor.poll_s))
        ended = [self._end(*item) for item in self._running if item[0].done()]
        over = {item.job.trial_id for item in ended}
        self._running = [item for item in self._running if item[1].trial_id not in over]
        return ended

    def _send(self) -> None:
        """Submit what was claimed since the last look, as one array."""
        if not self._waiting:
            return
        jobs, self._waiting = self._waiting, []
        folder = Path(jobs[0].folder).parents[1] / SUBMISSIONS
        try:
            executor = self._submitit.AutoExecutor(
                folder=folder / "%j",
                cluster=self._executor.cluster,
                **{f"{self._executor.cluster}_max_num_timeout": self._executor.max_timeouts},
            )
            executor.update_parameters(**self._executor.parameters())
            calls = [SlurmTrial(asdict(job), self._executor.grace_s) for job in jobs]
            with executor.batch():
                sent = [executor.submit(call) for call in calls]
        except (RuntimeError, self._submitit.core.utils.FailedJobError) as error:
            raise MetascaleError(f"cannot submit trials to SLURM: {str(error).strip().splitlines()[0]}") from error
        now = time.monotonic()
        self._running += [(handle, job, now) for handle, job in zip(sent, jobs, strict=True)]

    def _end(self, handle: Any, job: Job, start: float) -> Ended:
        utils = self._submitit.core.utils
        try:
            code = int(handle.result())
        except (utils.UncompletedJobError, utils.FailedJobError):
            # Cancelled, its node lost, or out of time for good: nothing is known, so it resumes elsewhere.
            code = ExitCode.WORKER_LOST
        if code == ExitCode.WORKER_LOST:
            # It resumes in another job; SLURM may have requeued this one by itself.
            self._cancel(handle)
        return Ended(job, code, time.monotonic() - start)

    def _cancel(self, handle: Any) -> None:
        with contextlib.suppress(OSError, RuntimeError, self._submitit.core.utils.FailedJobError):
            handle.cancel(check=False)

    def cancel(self) -> None:
        """End what still runs or waits; its trials are given back by the runner."""
        for handle, _, _ in self._running:
            self._cancel(handle)
        self._running.clear()
        self._waiting.clear()
