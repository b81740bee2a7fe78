"""``python -m metascale.study.run.trial_process PARENT JOB``: one job in this process, watched by a supervisor."""

from __future__ import annotations

import faulthandler
import json
import signal
import sys

from metascale.study.run.fork_server import die_with
from metascale.study.run.job import Job, execute_again
from metascale.study.run.stopping import stop_on_signal


def main(arguments: list[str]) -> int:
    """Run the job; its exit code. SIGUSR1 and SIGTERM ask it to save the step in progress and end."""
    parent, text = arguments
    die_with(int(parent))
    faulthandler.enable()
    job = Job(**json.loads(text))
    stop_on_signal(signal.SIGUSR1, signal.SIGTERM)
    return execute_again(job, job.watch())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
