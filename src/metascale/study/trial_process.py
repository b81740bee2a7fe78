"""``python -m metascale.study.trial_process PARENT JOB``: one job in this process, for a supervisor that watches it."""

from __future__ import annotations

import faulthandler
import json
import signal
import sys

from metascale.study.execute import Job, execute_again
from metascale.study.fork_server import die_with
from metascale.study.stopping import stop_on_signal


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
