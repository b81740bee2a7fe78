"""``python -m tests.study.soak FOLDER SECONDS [SEED]``: a study under four runners and a random killer; prints figures.

Of the blows, most kill a runner's whole process group (kill -9), some a single trial's process, some stop a runner for
longer than its lease, and some ask a runner to end (SIGTERM): its trials are saved after the step in progress. The pace
of the trials is set through the environment, so that their configurations, and with them the final bytes, are those of
an undisturbed run that does not wait.
"""

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

from metascale.study import ProcessExecutor, Study, read_study, run_study
from metascale.study.store.verify import verify_study
from tests.study import runner_process
from tests.study.folders import TRIALS, final_files

N_TRIALS, N_RUNNERS, N_WORKERS, LEASE_S = 100, 4, 2, 3.0
N_STEPS = 40
BLOWS = ("runner killed", "trial killed", "runner stopped", "runner asked to end")
STUDY = Study("soak", f"{TRIALS}:paced", {"n_steps": N_STEPS}, {"n_tasks": list(range(1, 26))}, (0, 1, 2, 3))


class Soak:
    """Four runners, kept running until the study is done, and what befell them."""

    def __init__(self, folder: Path, seconds: float, seed: int) -> None:
        self.folder = folder
        self.until = time.monotonic() + seconds
        self.chance = random.Random(seed)
        self.blows: Counter[str] = Counter()
        self.runners: list[subprocess.Popen[str]] = []
        self.stopped: dict[int, float] = {}
        self.n_started = 0
        self.unexpected: list[str] = []

    def run(self) -> None:
        next_blow = time.monotonic() + 3.0
        try:
            while not self.done():
                self.tend()
                now = time.monotonic()
                if now >= next_blow and now < self.until:
                    self.strike()
                    next_blow = now + self.chance.uniform(0.5, 3.5)
                time.sleep(0.1)
        finally:
            for runner in self.runners:
                if runner.poll() is None:
                    os.killpg(runner.pid, signal.SIGCONT)
                    try:
                        runner.wait(60)
                    except subprocess.TimeoutExpired:
                        os.killpg(runner.pid, signal.SIGKILL)
                runner.communicate()

    def done(self) -> bool:
        view = read_study(self.folder) if (self.folder / "study.json").exists() else None
        return view is not None and all((run.folder / "result.json").exists() for run in view.runs)

    def tend(self) -> None:
        """Bury the dead, wake those that slept past their lease, and start runners again."""
        for pid, since in list(self.stopped.items()):
            if time.monotonic() - since > 2 * LEASE_S:
                os.kill(pid, signal.SIGCONT)
                del self.stopped[pid]
        for runner in list(self.runners):
            code = runner.poll()
            if code is None:
                continue
            _, said = runner.communicate()
            # 1: some trial had failed when this runner saw the end, because its process was struck.
            if code not in (0, 1, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                self.unexpected.append(f"{code}: {said[-500:]}")
            self.runners.remove(runner)
        while len(self.runners) < N_RUNNERS and not self.done():
            self.runners.append(runner_process.start(STUDY, self.folder, N_WORKERS, lease_s=LEASE_S))
            self.n_started += 1

    def strike(self) -> None:
        self.blow(self.chance.choices(BLOWS, [0.6, 0.15, 0.15, 0.1])[0])

    def blow(self, kind: str) -> None:
        """Strike one of the runners."""
        victim = self.chance.choice(self.runners)
        try:
            if kind == "runner killed":
                os.killpg(victim.pid, signal.SIGKILL)
                self.stopped.pop(victim.pid, None)
            elif kind == "trial killed":
                servers = psutil.Process(victim.pid).children()
                trials = [trial for server in servers for trial in server.children()]
                if not trials:
                    return
                self.chance.choice(trials).kill()
            elif kind == "runner asked to end":
                victim.terminate()
            elif victim.pid not in self.stopped:
                os.kill(victim.pid, signal.SIGSTOP)
                self.stopped[victim.pid] = time.monotonic()
        except (ProcessLookupError, psutil.NoSuchProcess):
            return
        self.blows[kind] += 1


def figures(soak: Soak, whole: Path, wall_s: float) -> dict[str, Any]:
    """What came of it."""
    view = read_study(soak.folder)
    histories = [[event["event"] for event in run.history()] for run in view.runs]
    measured = [[row["step"] for row in run.measurements()] for run in view.runs]
    return {
        "trials": len(view.runs),
        "finished": sum(run.status == "finished" for run in view.runs),
        "blows": dict(soak.blows),
        "runners_started": soak.n_started,
        "attempts": sum(events.count("started") for events in histories),
        "trials_interrupted": sum(events.count("started") > 1 for events in histories),
        "saved_when_asked": sum(events.count("stopped") for events in histories),
        "finished_twice": sum(events.count("finished") > 1 for events in histories),
        "started_after_the_end": sum(
            "started" in events[events.index("finished") :] for events in histories if "finished" in events
        ),
        "checkpoints_written": sum(map(len, measured)),
        "checkpoints_repeated": sum(len(steps) - len(set(steps)) for steps in measured),
        "same_bytes": final_files(soak.folder) == final_files(whole),
        "verified": verify_study(soak.folder).ok,
        "unexpected": soak.unexpected,
        "wall_s": round(wall_s),
    }


def main(folder: Path, seconds: float, seed: int) -> None:
    run_study(STUDY, folder / "whole", ProcessExecutor(workers=2))
    os.environ["METASCALE_SOAK_PAUSE_S"] = str(seconds * N_RUNNERS * N_WORKERS * 0.5 / N_TRIALS / N_STEPS)
    soak = Soak(folder / "struck", seconds, seed)
    start = time.monotonic()
    soak.run()
    # The table: the runner that would have written it last may have been killed.
    del os.environ["METASCALE_SOAK_PAUSE_S"]
    run_study(STUDY, soak.folder)
    print(json.dumps(figures(soak, folder / "whole", time.monotonic() - start)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
