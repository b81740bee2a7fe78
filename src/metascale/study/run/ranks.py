"""One trial on several processes: torchrun starts them, rank 0 writes the run, the others only read it.

``python -m metascale.study.run.ranks PARENT PROCESSES WORKER JOB`` becomes torchrun, which starts this module again as
``... ranks --rank WORKER JOB`` for each process. The trial function is called in all of them, with torchrun's variables
(RANK, WORLD_SIZE, MASTER_ADDR, ...) in the environment: it opens and closes its process group itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import runpy
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from metascale.core.optional import require_installed
from metascale.core.run import Checkpoint, SharedRun
from metascale.study.design import load_function
from metascale.study.run.fork_server import die_with
from metascale.study.run.job import Code, Job, execute_here
from metascale.study.run.stopping import stop_on_signal
from metascale.study.store.checkpoints import list_checkpoints, read_checkpoint, step_of
from metascale.study.store.records import read_rows
from metascale.study.store.run_files import CHECKPOINTS, RESULT


def follower(folder: Path, resume_step: int | None) -> SharedRun:
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


def launch(arguments: list[str]) -> None:
    """Become torchrun for so many processes on this machine."""
    parent, processes, worker, job = arguments
    die_with(int(parent))
    # The supervisor's request to stop reaches the whole group; torchrun itself goes on.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    require_installed("torch", "torch", "a trial on several processes")
    sys.argv = ["torchrun", "--standalone", "--nproc-per-node", processes, "--max-restarts", "0"]
    sys.argv += ["--module", "metascale.study.run.ranks", "--rank", worker, job]
    runpy.run_module("torch.distributed.run", run_name="__main__")


def rank(arguments: list[str]) -> int:
    """Run one rank of the trial; its exit code."""
    worker, text = arguments
    die_with(os.getppid())
    faulthandler.enable()
    job = Job(**json.loads(text))
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    devices = job.device.split(",")
    device = devices[int(os.environ["LOCAL_RANK"])] if len(devices) == size else devices[0]
    errors = Path(os.environ["METASCALE_RANK_ERRORS"])
    step = os.environ["METASCALE_RESUME_STEP"]
    if number == 0:
        # SIGTERM is torchrun's: another rank died, and this one waits for it in vain.
        stop_on_signal(signal.SIGUSR1)
        code = execute_here(replace(job, device=device), replace(job.claim, worker=worker), job.watch())
        (errors / "code").write_text(str(int(code)))
        # Without a result the others have nothing to wait for: a status that torchrun takes for a failure ends them.
        return code if (Path(job.folder) / RESULT).exists() else code or 1
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    run = follower(Path(job.folder), int(step) if step else None)
    try:
        load_function(job.config["trial"])(dict(job.config), run, device)
    except (Exception, SystemExit):  # noqa: BLE001
        # Rank 0 waits for this one for ever, or fails for its sake: the supervisor records this trace.
        trace = f"rank {number} of {size}:\n{traceback.format_exc()}"
        (errors / f"rank-{number}.txt").write_bytes(trace.encode(errors="backslashreplace"))
        return 1
    return Code.RECORDED


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        sys.exit(rank(sys.argv[2:]))
    launch(sys.argv[1:])
