"""What a study costs besides its trials: scheduling, sharing out, and the command line's start.

    python benchmarks/studies.py [--only overhead,balance,start] [--trials 1000] [--workers 4] [--json FILE]

overhead: so many empty trials through local processes, everything durable (claim, history, result, index, table).
balance: 16 equal trials (each computes for a fixed number of steps) on the workers, against their own lengths.
start: the command line's help, a refused configuration and the import, medians of fresh processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import metascale
from metascale.core.run import Run
from metascale.study import ProcessExecutor, Study, read_study, run_study
from metascale.study.design import load_function

MODULE = "benchmarks.studies"
LIMITS = {"--help": 0.5, "a refused configuration": 0.5, "import metascale": 0.3}


def empty(config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A trial that does nothing."""
    return {"value": config["k"]}


def equal(config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A trial that lasts a fixed time, so that the machine's other work does not change its length."""
    time.sleep(config["seconds"])
    return {"value": config["k"]}


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for, and they."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def overhead(n_trials: int, workers: int) -> dict[str, Any]:
    """Seconds for empty trials, and again for the command that finds nothing left to do."""
    study = Study("empty", f"{MODULE}:empty", {}, {"k": list(range(n_trials))}, (0,))
    with tempfile.TemporaryDirectory() as folder:
        start, spent = time.perf_counter(), _cpu_seconds()
        outcome = run_study(study, folder, ProcessExecutor(workers))
        first_s, cpu_s = time.perf_counter() - start, _cpu_seconds() - spent
        assert outcome.finished == n_trials
        start = time.perf_counter()
        assert run_study(study, folder, ProcessExecutor(workers)).ran == 0
        again_s = time.perf_counter() - start
        n_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    each = {"cpu_s": cpu_s, "ms_a_trial": 1000 * first_s / n_trials, "kib_a_trial": n_bytes / 1024 / n_trials}
    return {"what": "overhead", "trials": n_trials, "workers": workers, "s": first_s, "again_s": again_s, **each}


def balance(n_trials: int, workers: int, seconds: float) -> dict[str, Any]:
    """How near equal trials come to using all workers all the time."""
    study = Study("equal", f"{MODULE}:equal", {"seconds": seconds}, {"k": list(range(n_trials))}, (0,))
    load_function(study.trial)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_study(study, folder, ProcessExecutor(workers))
        wall_s = time.perf_counter() - start
        assert all(run.status == "finished" for run in read_study(folder).runs)
    ideal_s = seconds * n_trials / workers
    found = {"trials": n_trials, "workers": workers, "seconds_each": seconds, "s": wall_s, "ideal_s": ideal_s}
    return {"what": "balance", **found, "of_ideal": ideal_s / wall_s}


def start_times(repeats: int) -> list[dict[str, Any]]:
    """Medians of fresh processes; torch's own start would take seconds."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "--help": ["-m", "metascale", "--help"],
            "a refused configuration": [
                "-m",
                "metascale.cli.main",
                "run",
                "digits",
                "--out",
                folder,
                "--set",
                "k_shot=0",
            ],
            "import metascale": ["-c", "import metascale"],
            "an empty Python": ["-c", "pass"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], capture_output=True, check=False)
                times[name].append(time.perf_counter() - start)
    return [
        {"what": "start", "name": name, "s": statistics.median(found), "limit_s": LIMITS.get(name)}
        for name, found in times.items()
    ]


def main() -> None:
    """Run what was asked for; every measurement is one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="overhead,balance,start")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    root = str(Path(__file__).parents[1])
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    found: list[dict[str, Any]] = []
    for name in asked.only.split(","):
        if name == "overhead":
            found.append(overhead(asked.trials, asked.workers))
        elif name == "balance":
            found.append(balance(16, asked.workers, asked.seconds))
        elif name == "start":
            found += start_times(asked.repeats)
        else:
            parser.error(f"--only names overhead, balance and start, not '{name}'")
    lines = [json.dumps({"metascale": metascale.__version__, **row}) for row in found]
    print("\n".join(lines))
    if asked.json is not None:
        asked.json.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
