"""``python -m tests.study.runner_process JSON``: one runner in a process of its own, for tests that kill or stop it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from metascale.study import ProcessExecutor, Study, run_any_study
from metascale.study.errors import Interrupted

ROOT = Path(__file__).parents[2]


def start(study: Study, folder: Path, workers: int = 0, **options: Any) -> subprocess.Popen[str]:
    """Start a runner in a session, and so a process group, of its own."""
    fields = ("name", "trial", "base", "axes", "seeds", "extra")
    task = {
        "study": {name: getattr(study, name) for name in fields},
        "folder": str(folder),
        "workers": workers,
        "options": options,
    }
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.study.runner_process", json.dumps(task)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def main(text: str) -> int:
    task = json.loads(text)
    executor = ProcessExecutor(task["workers"]) if task["workers"] else None
    try:
        outcome = run_any_study(Study(**task["study"]), task["folder"], executor, **task["options"])
    except Interrupted as error:
        return error.exit_status
    print(json.dumps({"ran": outcome.ran, "finished": outcome.finished}))
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
