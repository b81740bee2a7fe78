"""Running one job in processes of its own, watched: where no fork server is near, and where a trial needs several.

One process a trial is ``python -m metascale.study.run.trial_process``; several are started by torchrun without restarts
of its own (its elastic restart may hang): the supervisor kills what hangs and says what died, and the next attempt goes
on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from metascale.core.errors import InputError
from metascale.core.files import write_atomic
from metascale.study.errors import LeaseLost, is_disk_full
from metascale.study.run.job import Code, Job, describe_exit, record_death
from metascale.study.run.pulse import Pulse
from metascale.study.run.stopping import is_signalled
from metascale.study.store.fence import take_over
from metascale.study.store.provenance import THREAD_VARIABLES
from metascale.study.store.run_files import ERROR, OUTPUT
from metascale.study.store.stored_run import StoredRun

_POLL_S = 0.2
GRACE_S = 20.0
"""How long a trial that was asked to stop has to save itself before it is killed."""


def supervise(job: Job, grace_s: float = GRACE_S) -> int:
    """Run ``job`` in processes of its own and watch them; its exit code.

    Raises:
        LeaseLost: never; it is an exit code.
    """
    supervisor = Supervisor(job)
    with supervisor:
        return supervisor.wait(grace_s)


class Supervisor:
    """One execution of a job in processes of its own, which end with it."""

    def __init__(self, job: Job) -> None:
        if job.processes > 1 and len(job.device.split(",")) not in (1, job.processes):
            raise InputError(
                f"a trial on {job.processes} processes needs one device or {job.processes}, not '{job.device}'"
            )
        self.job = job
        self._folder = Path(job.folder)
        self._errors = Path(tempfile.mkdtemp(prefix="metascale-ranks-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._kill()
        shutil.rmtree(self._errors, ignore_errors=True)

    def ask_to_stop(self) -> None:
        """Have the trial save the step in progress and end."""
        self._asked_at = self._asked_at or time.monotonic()
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGUSR1)

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Have the trial saved and ended, and be gone when this returns. Call it from a signal's handler."""
        self.ask_to_stop()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
            self._kill()

    def wait(self, grace_s: float = GRACE_S) -> int:
        """Start the processes and watch them until they end; the job's exit code."""
        try:
            start = time.monotonic()
            self._start()
            code = self._watch(grace_s)
        except LeaseLost:
            return Code.LEASE_LOST
        except OSError as error:
            if not is_disk_full(error):
                raise
            return Code.DISK_FULL
        if self.job.processes > 1:
            code = self._end_of_ranks(code, time.monotonic() - start)
        return Code.WORKER_LOST if self._wanted_back(code) else code

    def _wanted_back(self, code: int) -> bool:
        """Whether the machine ended the trial (SIGTERM: a drained node, a requeued job), rather than anyone here."""
        by_signal = code in (Code.STOPPED, -signal.SIGTERM)
        return by_signal and self._asked_at is None and self.job.watch().asked() is None

    def _start(self) -> None:
        job = self.job
        paths = dict.fromkeys([*job.import_paths, *(os.path.abspath(path) for path in sys.path)])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        if job.threads:
            environment.update(dict.fromkeys(THREAD_VARIABLES, str(job.threads)))
        command = [sys.executable, "-m", "metascale.study.run.trial_process", str(os.getpid()), json.dumps(asdict(job))]
        if job.processes > 1:
            claim = take_over(self._folder, job.claim)
            # The records are cut back once, here; then every process starts from the same checkpoint.
            checkpoint = StoredRun(self._folder, claim).latest()
            environment.update(
                METASCALE_RANK_ERRORS=str(self._errors),
                METASCALE_RESUME_STEP="" if checkpoint is None else str(checkpoint.step),
                TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
            )
            command = [sys.executable, "-m", "metascale.study.run.ranks", str(os.getpid()), str(job.processes)]
            command += [claim.worker, json.dumps(asdict(job))]
        with open(self._folder / OUTPUT, "ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _watch(self, grace_s: float) -> int:
        assert self._process is not None
        pulse = Pulse(self._folder)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_POLL_S)
            if is_signalled() and self._asked_at is None:
                self.ask_to_stop()
            if self.job.hang_s is not None and pulse.silent_s() > self.job.hang_s:
                self._kill()
                return Code.HUNG
            if self._asked_at is not None and time.monotonic() - self._asked_at > grace_s:
                self._kill()
                return Code.STOPPED

    def _end_of_ranks(self, code: int, wall_s: float) -> int:
        if code == 0 or code in (Code.HUNG, Code.STOPPED):
            return code
        told = self._errors / "code"
        traces = sorted(self._errors.glob("rank-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        if told.exists():
            # Rank 0 recorded how it ended; torchrun reports the others it took down as a failure.
            error = self._folder / ERROR
            if error.exists() and traces and traces[0].stat().st_mtime_ns < told.stat().st_mtime_ns:
                # Rank 0 failed because another had: that one is the cause.
                write_atomic(error, f"{error.read_text()}\n{traces[0].read_text()}")
            return int(told.read_text())
        message = traces[0].read_text() if traces else describe_exit(code)
        record_death(self.job, message, wall_s)
        return Code.RECORDED

    def _kill(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
