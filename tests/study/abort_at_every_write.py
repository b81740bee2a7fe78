"""``python -m tests.study.abort_at_every_write FOLDER``: kill a runner at its n-th durable write for every n, resume.

One process that has no threads forks the runners, which is fast. It prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from metascale.study import read_study, run_study
from tests.study import trials  # noqa: F401  (loaded once, before the forks)
from tests.study.folders import final_files, tiny_study

STUDY = tiny_study(n_tasks=(2, 5), n_steps=4)


def runner(folder: Path, abort_at: int | None) -> int:
    """Run the study in a fork; how it ended."""
    pid = os.fork()
    if pid == 0:
        if abort_at is not None:
            os.environ["METASCALE_ABORT_AT_WRITE"] = str(abort_at)
        os._exit(run_study(STUDY, folder).exit_status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path) -> None:
    runner(folder / "whole", None)
    whole = final_files(folder / "whole")
    differing, repeated = [], []
    n = 1
    while (code := runner(folder / str(n), n)) == -signal.SIGKILL:
        ended = {run.trial.id for run in read_study(folder / str(n)).runs if run.result()} if n > 1 else set()
        resumed = runner(folder / str(n), None)
        if resumed != 0 or final_files(folder / str(n)) != whole:
            differing.append(n)
        for run in read_study(folder / str(n)).runs:
            starts = sum(event["event"] == "started" for event in run.history())
            if run.trial.id in ended and starts > 1:
                repeated.append(n)
        n += 1
    if code != 0:
        differing.append(n)
    print(json.dumps({"n_killed": n - 1, "differing": differing, "repeated": repeated}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
