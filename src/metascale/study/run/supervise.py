"""Running one job in processes of its own, watched: where no fork server is near, or where a trial needs several.

``python -m metascale.study.run.supervise trial PARENT JOB`` runs a trial in one process. ``... launch PARENT PROCESSES
WORKER JOB`` becomes torchrun, without restarts of its own (its elastic restart may hang), which starts ``... rank
WORKER JOB`` for each process: rank 0 writes the run, the others only read it. The trial function is called in all of
them with torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...) in the environment, and opens and closes its process
group itself. The supervisor kills what hangs and records what died; the next attempt resumes from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.files import write_atomic
from metascale.core.optional import require_installed
from metascale.core.run import Checkpoint, SharedRun
from metascale.study.errors import LeaseLost, is_disk_full, require_posix
from metascale.study.run.border import call_trial
from metascale.study.run.job import (
    ExitCode,
    Job,
    describe_exit,
    execute_again,
    execute_here,
    own_status,
    record_death,
)
from metascale.study.run.output import bound_output
from metascale.study.run.stopping import adopt_orphans, die_with, is_signalled, stop_on_signal
from metascale.study.store.checkpoints import list_checkpoints, read_checkpoint, step_of
from metascale.study.store.claims import take_over
from metascale.study.store.folder import CHECKPOINTS, ERROR, OUTPUT, RESULT
from metascale.study.store.provenance import THREAD_VARIABLES
from metascale.study.store.records import read_rows
from metascale.study.store.run import StoredRun

HANG_S = 3600.0
"""A trial that wrote nothing for an hour counts as hung; trials write their progress many times a minute."""
GRACE_S = 20.0
"""How long a trial that was asked to stop has to save itself before it is killed."""
_POLL_S = 0.2
_ERRORS = "METASCALE_RANK_ERRORS"
"""The variable that names the folder where the processes of a trial tell how they ended: an exit code, and traces."""
_CODE = "code"
_COMMAND = (sys.executable, "-m", "metascale.study.run.supervise")


def execute(job: Job) -> int:
    """Run the trial of ``job`` in this process, or in as many as it asks for, and record how it ended."""
    return supervise(job) if job.processes > 1 else execute_here(job, job.claim, job.watch())


def supervise(job: Job, grace_s: float = GRACE_S) -> int:
    """Run ``job`` in processes of its own and watch them; its exit code."""
    with Supervisor(job) as supervisor:
        return supervisor.wait(grace_s)


class Supervisor:
    """One execution of a job in processes of its own, which end with it."""

    def __init__(self, job: Job) -> None:
        require_posix("a trial in processes of its own")
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
        """Checkpoint and terminate the trial; blocks until it has exited. Safe to call in a signal handler."""
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
            code = self._watch(grace_s, start)
        except LeaseLost:
            return ExitCode.LEASE_LOST
        except OSError as error:
            if not is_disk_full(error):
                raise
            return ExitCode.DISK_FULL
        finally:
            bound_output(self._folder / OUTPUT)
        if self.job.processes > 1:
            code = self._end_of_ranks(code, time.monotonic() - start)
        return ExitCode.WORKER_LOST if self._preempted(code) else code

    def _preempted(self, code: int) -> bool:
        """Whether the machine ended the trial (SIGTERM: a drained node, a requeued job), rather than anyone here."""
        by_signal = code in (ExitCode.STOPPED, -signal.SIGTERM)
        return by_signal and self._asked_at is None and self.job.watch().asked() is None

    def _start(self) -> None:
        job = self.job
        paths = dict.fromkeys([*job.import_paths, *(os.path.abspath(path) for path in sys.path)])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), _ERRORS: str(self._errors)}
        if job.threads:
            environment.update(dict.fromkeys(THREAD_VARIABLES, str(job.threads)))
        command = ["trial", str(os.getpid())]
        if job.processes > 1:
            claim = take_over(self._folder, job.claim)
            # The records are cut back once, here; then every process starts from the same checkpoint.
            checkpoint = StoredRun(self._folder, claim).latest()
            environment.update(
                METASCALE_RESUME_STEP="" if checkpoint is None else str(checkpoint.step),
                TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
            )
            command = ["launch", str(os.getpid()), str(job.processes), claim.worker]
        with open(self._folder / OUTPUT, "ab") as output:
            self._process = subprocess.Popen(
                [*_COMMAND, *command, json.dumps(asdict(job))],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _watch(self, grace_s: float, start: float) -> int:
        assert self._process is not None
        pulse = Pulse(self._folder)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return own_status(self._process.wait(_POLL_S), (self._errors / _CODE).exists())
            bound_output(self._folder / OUTPUT)
            if is_signalled() and self._asked_at is None:
                self.ask_to_stop()
            if (late := overdue(self.job, start, pulse)) is not None:
                self._kill()
                return late
            if self._asked_at is not None and time.monotonic() - self._asked_at > grace_s:
                self._kill()
                return ExitCode.STOPPED

    def _end_of_ranks(self, code: int, wall_s: float) -> int:
        if code == 0 or code in (ExitCode.HUNG, ExitCode.TIMED_OUT, ExitCode.STOPPED):
            return code
        of_first = self._errors / _CODE
        traces = sorted(self._errors.glob("rank-*.txt"), key=lambda path: path.stat().st_mtime_ns)
        if of_first.exists():
            # Rank 0 recorded how it ended; torchrun reports the others it took down as a failure.
            error = self._folder / ERROR
            if error.exists() and traces and traces[0].stat().st_mtime_ns < of_first.stat().st_mtime_ns:
                # Rank 0 failed because another had: that one is the cause.
                write_atomic(error, f"{error.read_text()}\n{traces[0].read_text()}")
            return int(of_first.read_text())
        message = traces[0].read_text() if traces else describe_exit(code)
        record_death(self.job, message, wall_s)
        return ExitCode.RECORDED

    def _kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def overdue(job: Job, start: float, pulse: Pulse) -> ExitCode | None:
    """Why a trial that began at ``start`` (of the monotonic clock) is to be killed now; ``None`` where it may go on.

    The trials of a stack may take as long together as one after another.
    """
    if job.trial_timeout_s is not None and time.monotonic() - start > job.trial_timeout_s * max(1, len(job.stack)):
        return ExitCode.TIMED_OUT
    if job.hang_s is not None and pulse.silent_s() > job.hang_s:
        return ExitCode.HUNG
    return None


class Pulse:
    """Watches folders of runs. Clocks of other machines do not matter: only that something changed in one of them."""

    def __init__(self, *folders: Path) -> None:
        self._folders = folders
        self._signs = self._look()
        self._changed = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the runs last wrote anything, as seen from here."""
        signs = self._look()
        if signs != self._signs:
            self._signs, self._changed = signs, time.monotonic()
        return time.monotonic() - self._changed

    def _look(self) -> tuple[tuple[tuple[str, int, int], ...], ...]:
        return tuple(_signs_of_life(folder) for folder in self._folders)


def _signs_of_life(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the run's files; equal twice means that nothing was written between."""
    found = []
    for place in (folder, folder / CHECKPOINTS):
        # A folder may not be there yet, or be replaced meanwhile: the next call sees it.
        with contextlib.suppress(FileNotFoundError), os.scandir(place) as entries:
            for entry in entries:
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def _trial(parent: str, job_json: str) -> int:
    """Run the job; its exit code. SIGUSR1 and SIGTERM ask it to save the step in progress and end."""
    die_with(int(parent))
    faulthandler.enable()
    job = Job(**json.loads(job_json))
    stop_on_signal(signal.SIGUSR1, signal.SIGTERM)
    adopt_orphans()
    code = execute_again(job, job.watch())
    (Path(os.environ[_ERRORS]) / _CODE).write_text(str(int(code)))
    return code


def _launch(parent: str, processes: str, worker: str, job_json: str) -> int:
    """Become torchrun for so many processes on this machine."""
    die_with(int(parent))
    # The supervisor's request to stop reaches the whole group; torchrun itself ignores it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    require_installed("torch", "torch", "a trial on several processes")
    sys.argv = ["torchrun", "--standalone", "--nproc-per-node", processes, "--max-restarts", "0"]
    sys.argv += ["--module", _COMMAND[-1], "rank", worker, job_json]
    runpy.run_module("torch.distributed.run", run_name="__main__")
    return 0


def _rank(worker: str, job_json: str) -> int:
    """Run one rank of the trial; its exit code."""
    die_with(os.getppid())
    faulthandler.enable()
    job = Job(**json.loads(job_json))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    devices = job.device.split(",")
    device = devices[int(os.environ["LOCAL_RANK"])] if len(devices) == size else devices[0]
    errors = Path(os.environ[_ERRORS])
    step = os.environ["METASCALE_RESUME_STEP"]
    if rank == 0:
        # SIGTERM is torchrun's: another rank died, and this one would wait for it for ever.
        stop_on_signal(signal.SIGUSR1)
        code = execute_here(replace(job, device=device), replace(job.claim, worker=worker), job.watch())
        (errors / _CODE).write_text(str(int(code)))
        # Without a result the others have nothing to wait for: a status that torchrun takes for a failure ends them.
        return code if (Path(job.folder) / RESULT).exists() else code or 1
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    run = _follower(Path(job.folder), int(step) if step else None)
    try:
        call_trial(job.config, run, device)
    except (Exception, SystemExit):  # noqa: BLE001
        # Rank 0 waits for this one for ever, or fails because of it: the supervisor records this trace.
        trace = f"rank {rank} of {size}:\n{traceback.format_exc()}"
        (errors / f"rank-{rank}.txt").write_bytes(trace.encode(errors="backslashreplace"))
        return 1
    return ExitCode.RECORDED


def _follower(folder: Path, resume_step: int | None) -> SharedRun:
    """The run as every rank but the first sees it: it reads what rank 0 resumes from, and writes nothing."""

    def latest() -> Checkpoint | None:
        if resume_step is None:
            return None
        for path in reversed(list_checkpoints(folder / CHECKPOINTS)):
            if step_of(path) == resume_step:
                return read_checkpoint(path)[0]
        raise FileNotFoundError(f"rank 0 went past the checkpoint of step {resume_step} before this rank read it")

    def rows(record: str) -> list[dict[str, Any]]:
        if resume_step is None:
            return []
        return [row for row in read_rows(folder / f"{record}.csv") if row["step"] <= resume_step]

    return SharedRun(None, folder=folder, rows=rows, latest=latest)


if __name__ == "__main__":
    _MODES: dict[str, Callable[..., int]] = {"trial": _trial, "launch": _launch, "rank": _rank}
    sys.exit(_MODES[sys.argv[1]](*sys.argv[2:]))
