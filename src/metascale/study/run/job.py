"""One claimed trial as a job: what describes it, who may run it, how it ends. Here it runs in this process.

How a trial ended is written in its run's folder; the exit code only says what the folder cannot.
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import metascale
from metascale.core.errors import Diverged
from metascale.study.content import check_content
from metascale.study.errors import Killed, LeaseLost, Stopped, is_disk_full
from metascale.study.run.border import call_trial, checked_row, trace_of
from metascale.study.run.stopping import StopWatch
from metascale.study.store.claims import Claim, read_claim, take_over
from metascale.study.store.provenance import THREAD_VARIABLES, provenance_of
from metascale.study.store.run import StoredRun


@dataclass(frozen=True, slots=True)
class Job:
    """All that a process, here or elsewhere, needs to run a claimed trial. JSON types only.

    Args:
        device: one device, or as many as ``processes``, separated by commas.
        processes: processes that run the trial together.
        threads: threads of the numerical libraries in each process (0: as the environment says).
        hang_s: a trial that writes nothing for this many seconds is killed; ``None``: never.
        trial_timeout_s: an attempt that lasts longer is killed and has failed; ``None``: it may last.
        stop_seen: the request to stop that was there before the runner started.
        import_paths: where a process on another machine finds the user's own modules.
        facts: what the run's provenance keeps besides the place: the command, the hashes of the data.
        stack: the ids of the trials that run together in one process, this one among them; none where it runs alone.
        beside: the jobs of the others, as mappings; of the first job of a stack.
    """

    trial_id: str
    label: str
    folder: str
    config: dict[str, Any]
    device: str
    owner: str
    attempt: int
    keep_checkpoints: bool = False
    processes: int = 1
    threads: int = 0
    hang_s: float | None = None
    trial_timeout_s: float | None = None
    stop_seen: str = ""
    import_paths: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    stack: Sequence[str] = ()
    beside: Sequence[Mapping[str, Any]] = ()

    def together(self) -> tuple[Job, ...]:
        """This job and those beside it, each by itself."""
        return (replace(self, beside=()), *(Job(**fields) for fields in self.beside))

    def watch(self) -> StopWatch:
        return StopWatch(Path(self.folder).parents[1], self.stop_seen, Path(self.folder), self.claim)

    @property
    def claim(self) -> Claim:
        return Claim(self.trial_id, self.owner, self.attempt)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over: its exit code (``-n``: killed by signal n) and how long it took."""

    job: Job
    code: int
    wall_s: float


class Pool(Protocol):
    """An open executor. Each trial goes through `free_device`, a claim, `submit` and `wait`."""

    def free_device(self) -> str | None:
        """The device that the next job would run on, or ``None`` when every slot is taken."""
        ...

    def submit(self, job: Job) -> None:
        """Start ``job`` on the free slot."""
        ...

    def wait(self, timeout_s: float) -> list[Ended]:
        """Jobs that ended, after at most ``timeout_s`` seconds when none did."""
        ...


class Executor(Protocol):
    """A frozen description of where trials run. Leaving the context of `open` ends whatever still runs."""

    def check(self) -> None:
        """Refuse what this machine lacks to open it, before anything of a study is written.

        Raises:
            InputError: there is no such cluster, or this system cannot run trials so.
            MissingDependency: a package is not installed.
        """
        ...

    def open(self) -> AbstractContextManager[Pool]: ...


class ExitCode(enum.IntEnum):
    """Exit codes of a trial's process, above those of sysexits(3) that a library might use."""

    RECORDED = 0
    DISK_FULL = 74
    LEASE_LOST = 75
    HUNG = 76
    STOPPED = 77
    WORKER_LOST = 78
    TIMED_OUT = 79
    KILLED = 80


OWN_STATUS = 1000
"""Added to an exit status that the trial's process did not mean as an `ExitCode`: ``os._exit(77)`` asks for no stop."""
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


def was_killed(code: int) -> bool:
    """Whether a trial's process was ended from outside (by a person, or by a system without memory), not by itself."""
    return code == ExitCode.KILLED or any(code == -getattr(signal, name, 0) for name in _FROM_OUTSIDE if code)


def execute_again(job: Job, stop: StopWatch) -> int:
    """Run the trial of ``job`` as the one execution of its attempt that may write from here on."""
    try:
        claim = take_over(Path(job.folder), job.claim)
    except LeaseLost:
        return ExitCode.LEASE_LOST
    return execute_here(job, claim, stop)


def execute_here(job: Job, claim: Claim, stop: StopWatch) -> int:
    """Run the trial in this process, under ``claim``. Whatever the trial raises is recorded, here and nowhere else."""
    run = StoredRun(Path(job.folder), claim, stop)
    start = time.monotonic()

    def cost() -> dict[str, Any]:
        return {"wall_s": time.monotonic() - start, **_torch_threads()}

    try:
        run.describe({**provenance_of(job.config["trial"]), **_identity(job), **job.facts})
        run.begin(device=job.device, keep_checkpoints=job.keep_checkpoints, **_place())
        try:
            check_content(job.config)
            row = checked_row(call_trial(job.config, run, job.device))
            run.finish(row, keep_checkpoints=job.keep_checkpoints, **cost())
        except Diverged as error:
            run.diverge(error, keep_checkpoints=job.keep_checkpoints, **cost())
        except Stopped:
            run.pause(**cost())
            return ExitCode.STOPPED
        except Killed:
            run.pause(**cost())
            return ExitCode.KILLED
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, LeaseLost) or is_disk_full(error):
                raise
            run.fail(trace_of(error), **cost())
    except LeaseLost:
        return ExitCode.LEASE_LOST
    except OSError as error:
        if not is_disk_full(error):
            raise
        return ExitCode.DISK_FULL
    return ExitCode.RECORDED


def own_status(code: int, told: bool) -> int:
    """The exit code of a trial's process, which means an `ExitCode` only where the process ``told`` so."""
    return code + OWN_STATUS if code > 0 and not told else code


def record_death(job: Job, message: str, wall_s: float = 0.0) -> None:
    """Record as failed an attempt whose processes died before they recorded anything."""
    held = read_claim(Path(job.folder))
    if held is not None and job.claim.same_attempt(held):
        StoredRun(Path(job.folder), held).fail(f"{message}\n", wall_s=wall_s)


def describe_exit(code: int) -> str:
    """What the exit code of a trial's process says where the trial itself recorded nothing."""
    if code >= 0:
        code = code - OWN_STATUS if code >= OWN_STATUS else code
        return f"the trial's process ended with exit status {code} and recorded no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "an unknown signal"
    return f"the trial's process was ended by {name} (signal {-code})"


def _identity(job: Job) -> dict[str, Any]:
    stack = {"stack": list(job.stack)} if job.stack else {}
    return {
        **stack,
        "trial_id": job.trial_id,
        "seed": job.config.get("seed"),
        "device": job.device,
        "processes": job.processes,
        "attempt": job.attempt,
    }


def _place() -> dict[str, Any]:
    """What the history keeps about the place a trial runs in. The number of threads changes the last bits of sums."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "metascale": metascale.__version__,
        "python": sys.version.split()[0],
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def _torch_threads() -> dict[str, Any]:
    """The thread count that torch ended up with, where the trial loaded torch."""
    torch = sys.modules.get("torch")
    return {} if torch is None else {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
