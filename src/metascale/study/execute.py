"""Running one claimed trial in this process: the one place that catches every exception, and records it.

How a trial ended is written in its run's folder; the exit code only tells what the folder cannot.
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metascale
from metascale.core.errors import Diverged
from metascale.study.design import load_function
from metascale.study.errors import LeaseLost, is_disk_full
from metascale.study.fence import Claim
from metascale.study.stored_run import StoredRun

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Job:
    """All that a process, here or elsewhere, needs to run a claimed trial. JSON types only."""

    trial_id: str
    label: str
    folder: str
    config: dict[str, Any]
    device: str
    owner: str
    attempt: int
    keep_checkpoints: bool = False

    @property
    def claim(self) -> Claim:
        return Claim(self.trial_id, self.owner, self.attempt)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over: its exit code (``-n``: killed by signal n) and how long it took."""

    job: Job
    code: int
    wall_s: float


class Code(enum.IntEnum):
    """Exit codes of a trial's process, from the range that sysexits(3) leaves to the application's own trouble."""

    RECORDED = 0
    DISK_FULL = 74
    LEASE_LOST = 75


def execute(job: Job) -> int:
    """Run the trial of ``job`` and record how it ended."""
    run = StoredRun(Path(job.folder), job.claim)
    start = time.monotonic()

    def wall_s() -> float:
        return time.monotonic() - start

    try:
        run.begin(device=job.device, keep_checkpoints=job.keep_checkpoints, **where())
        try:
            row = load_function(job.config["trial"])(dict(job.config), run, job.device)
            run.finish(row, keep_checkpoints=job.keep_checkpoints, wall_s=wall_s(), **torch_threads())
        except Diverged as error:
            run.diverge(error, keep_checkpoints=job.keep_checkpoints, wall_s=wall_s(), **torch_threads())
        except (Exception, SystemExit) as error:
            if isinstance(error, LeaseLost) or is_disk_full(error):
                raise
            run.fail(traceback.format_exc(), wall_s=wall_s(), **torch_threads())
    except LeaseLost:
        return Code.LEASE_LOST
    except OSError as error:
        if not is_disk_full(error):
            raise
        return Code.DISK_FULL
    return Code.RECORDED


def where() -> dict[str, Any]:
    """What the history keeps about the place a trial runs in. The number of threads changes the last bits of sums."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "metascale": metascale.__version__,
        "python": sys.version.split()[0],
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def torch_threads() -> dict[str, Any]:
    """The thread count that torch ended up with, where the trial loaded torch."""
    torch = sys.modules.get("torch")
    return {} if torch is None else {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}


def describe_exit(code: int) -> str:
    """What the exit code of a trial's process says where the trial recorded nothing itself."""
    if code >= 0:
        return f"the trial's process ended with exit status {code} and recorded no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "an unknown signal"
    return f"the trial's process was ended by {name} (signal {-code})"
