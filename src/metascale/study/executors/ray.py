"""Trials as tasks of a Ray cluster. The study folder is on storage that every node reaches at the same path.

Ray starts a task again when its node is lost: the new execution takes over the run and resumes from its last
checkpoint, and the old one, should it still live, is refused at its next write. The trial itself runs in a process
under the task, so that a trial that crashes fails, as anywhere, and does not look like a lost node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from metascale.core.errors import InputError, MetascaleError
from metascale.core.optional import require
from metascale.study.executors import ClusterExecutor, check_positive, require_torch
from metascale.study.run.job import Ended, ExitCode, Job, Pool
from metascale.study.run.supervise import supervise

_KNOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class RayExecutor(ClusterExecutor):
    """One Ray task a trial, started again without limit when its node is lost.

    Args:
        address: of a running cluster (``"auto"``: the one of this machine); ``None`` starts one here for the study.
        workers: trials in flight, whether they run or wait in Ray's queue.
        cpus_per_trial: what the cluster sets aside for each.
    """

    address: str | None = None
    workers: int = 64
    cpus_per_trial: float = 1

    def __post_init__(self) -> None:
        ClusterExecutor.__post_init__(self)
        check_positive(self, "workers", "cpus_per_trial")

    def check(self) -> None:
        ray = _ray()
        require_torch(self.processes_per_trial)
        if self.address is not None and not ray.is_initialized():
            terminate = signal.getsignal(signal.SIGTERM)
            try:
                _connect(ray, self.address)
                ray.shutdown()
            finally:
                # Ray took the signal for itself, and would keep it from the study that follows.
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, terminate)

    @contextmanager
    def open(self) -> Iterator[Pool]:
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address)
        pool = _RayPool(ray, self)
        try:
            yield pool
        finally:
            pool.cancel()
            if ours:
                ray.shutdown()


def _ray() -> Any:
    # Read by Ray when it is first imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return require("ray", "ray", "`executor` ray")


def run_job(fields: Mapping[str, Any]) -> int:
    """The task: one job in a watched process of its own, on the node where Ray put it."""
    return int(supervise(Job(**fields)))


def _connect(ray: Any, address: str | None) -> None:
    if address is not None:
        _knock(address)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "a Ray cluster on this machine" if address is None else f"the Ray cluster at '{address}'"
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"cannot reach {where}: {reason}") from error


def _knock(address: str) -> None:
    """Refuse ``host:port`` where nobody listens at once; Ray itself tries for minutes.

    Raises:
        InputError: nobody listens there.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise InputError(f"cannot reach the Ray cluster at '{address}': {error.strerror or error}") from error


class _RayPool:
    def __init__(self, ray: Any, executor: RayExecutor) -> None:
        self._ray = ray
        self._executor = executor
        self._running: dict[Any, tuple[Job, float]] = {}
        path = os.environ.get("PYTHONPATH", "")
        self._task = ray.remote(run_job).options(
            num_cpus=executor.cpus_per_trial,
            num_gpus=executor.gpus_per_trial,
            max_retries=-1,
            runtime_env={"env_vars": {"PYTHONPATH": path}} if path else None,
        )

    def free_device(self) -> str | None:
        return self._executor.device if len(self._running) < self._executor.workers else None

    def submit(self, job: Job) -> None:
        job = self._executor.prepared(job)
        self._running[self._task.remote(asdict(job))] = (job, time.monotonic())

    def wait(self, timeout_s: float) -> list[Ended]:
        if not self._running:
            time.sleep(timeout_s)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._end(reference) for reference in ready]

    def _end(self, reference: Any) -> Ended:
        job, start = self._running.pop(reference)
        errors = self._ray.exceptions
        try:
            code = int(self._ray.get(reference))
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError):
            code = ExitCode.WORKER_LOST
        except errors.RayTaskError as error:
            raise MetascaleError(f"Ray could not run trial '{job.label}': {error}") from error
        return Ended(job, code, time.monotonic() - start)

    def cancel(self) -> None:
        """End what still runs; its trials are given back by the runner."""
        for reference in self._running:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
        self._running.clear()
