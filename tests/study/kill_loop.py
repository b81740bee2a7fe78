"""``python -m tests.study.kill_loop JSON``: a runner of a recipe's study, and a loop that kills it and its trials."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from metascale.study.search.run import run_any_study
from metascale.workflow.launch import Place, plan
from tests.study.runner_process import ROOT

N_WORKERS = 2
PATIENCE_S = 180.0


def start(task: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    """Start a runner of the recipe's study in a process group of its own."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.study.kill_loop", json.dumps({**task, "folder": str(folder)})],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_whole(task: dict[str, Any], folder: Path) -> None:
    """Run the study to its end, undisturbed."""
    process = start(task, folder)
    _, said = process.communicate()
    assert process.returncode == 0, said


def run_killed(task: dict[str, Any], folder: Path, n_kills: int, seed: int) -> Counter[str]:
    """Run the same command until it is done; runners and trials are killed at random instants in which trials run."""
    chance, kills = random.Random(seed), Counter[str]()
    while True:
        process = start(task, folder)
        try:
            while process.poll() is None and sum(kills.values()) < n_kills:
                before = _n_starts(folder)
                _wait(lambda p=process, n=before: p.poll() is not None or _n_starts(folder) > n)
                time.sleep(chance.uniform(0.0, 1.0))
                if process.poll() is not None:
                    break
                if chance.random() < 0.5:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills["runner"] += 1
                    break
                kills["trial"] += _kill_a_trial(process.pid, chance)
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        if process.returncode == 0:
            return kills
        # 1: a trial was killed more often than a call goes on with it.
        assert process.returncode in (1, -signal.SIGKILL), said


def _kill_a_trial(runner: int, chance: random.Random) -> bool:
    try:
        servers = psutil.Process(runner).children()
        trials = [trial for server in servers for trial in server.children()]
        if trials:
            chance.choice(trials).kill()
        return bool(trials)
    except psutil.NoSuchProcess:
        return False


def _n_starts(folder: Path) -> int:
    return sum(path.read_text().count('"started"') for path in folder.glob("runs/*/history.jsonl"))


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def main(text: str) -> int:
    task = json.loads(text)
    planned = plan(
        task["recipe"], task["values"], profile=task.get("profile"), seeds=[0], place=Place(workers=N_WORKERS)
    )
    return run_any_study(planned.study, task["folder"], planned.executor).exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
