"""What a study costs besides its trials: scheduling, sharing out, and the command line's start.

    python benchmarks/studies.py [--only overhead,balance,start,large,fit] [--trials 1000] [--workers 4] [--json FILE]

overhead: so many empty trials through local processes, everything durable (claim, history, result, index, table).
balance: 16 equal trials (each lasts for a fixed time) on the workers, against their own lengths.
start: the command line's help, a refused configuration, imports and a fit of a small table, medians of fresh processes.
large: 10,000 trials (100 scales, 100 seeds) one after another in one process; the same call again; then report, status
and resume (the run again, and the report), each in a process of its own. ``--folder`` keeps the study, and measures it
again where it is finished.
fit: a law fitted to tables of 100,000 and 1,000,000 rows, each in a process of its own.
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

import numpy

import metascale
from metascale.core.run import Run
from metascale.core.streams import generator
from metascale.study import ProcessExecutor, SerialExecutor, Study, read_study, run_study
from metascale.study.design import load_function

MODULE = "benchmarks.studies"
LIMITS = {"metascale --help": 0.5, "a refused configuration": 0.5, "import metascale": 0.3}
N_SCALES, FIT_ROWS = 100, (100_000, 1_000_000)


def empty(config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A trial that does nothing."""
    return {"value": config["k"]}


def equal(config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A trial that lasts a fixed time, so that the machine's other work does not change its length."""
    time.sleep(config["seconds"])
    return {"value": config["k"]}


def falling(config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A trial whose result follows a power law of its scale, with noise of its seed."""
    noise = 1 + 0.01 * float(generator(config["seed"], "noise", config["n_tasks"]).standard_normal())
    return {"test_loss_nats": 2 * config["n_tasks"] ** -0.3 * noise}


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


def command(*arguments: str) -> dict[str, float]:
    """Wall and processor seconds and peak memory of one Python process that must end well or refuse (status 2).

    Raises:
        SystemExit: it ended otherwise; with its last words.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen([sys.executable, *arguments], stdout=words, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began
        words.seek(0)
        if process.returncode not in (0, 2):
            raise SystemExit(f"{' '.join(arguments)}:\n{words.read().decode()[-2000:]}")
    return {"s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def start_times(repeats: int) -> list[dict[str, Any]]:
    """Medians of fresh processes; torch's own start would take seconds."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        small.write_text("N,loss\n" + "".join(f"{n},{2 * n**-0.3}\n" for n in (100, 200, 400, 800, 1600, 3200)))
        refused = ["run", "digits", "--out", folder, "--set", "k_shot=0"]
        commands = {
            "metascale --help": ["-m", "metascale", "--help"],
            "a refused configuration": ["-m", "metascale", *refused],
            "metascale fit, 6 rows": ["-m", "metascale", "fit", str(small)],
            "import metascale": ["-c", "import metascale"],
            "import metascale.laws": ["-c", "import metascale.laws"],
            "every name of metascale.laws": ["-c", "from metascale.laws import *"],
            "an empty Python": ["-c", "pass"],
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, arguments in commands.items():
                found[name].append(command(*arguments))
    return [
        {"what": "start", "name": name, "limit_s": LIMITS.get(name)}
        | {key: statistics.median(one[key] for one in times) for key in times[0]}
        for name, times in found.items()
    ]


def large_study(n_trials: int) -> Study:
    scales = [round(10 ** (1 + 4 * i / N_SCALES)) for i in range(N_SCALES)]
    return Study("large", f"{MODULE}:falling", {}, {"n_tasks": scales}, tuple(range(n_trials // N_SCALES)))


def run_large(folder: str, n_trials: int) -> None:
    """Run what is left of the large study, one trial after another in this process."""
    outcome = run_study(large_study(n_trials), folder, SerialExecutor())
    assert outcome.finished == outcome.total


def large(folder: Path, n_trials: int) -> list[dict[str, Any]]:
    """Seconds and memory of running the large study, and of the commands on it once it has finished."""
    run = ("-c", f"from {MODULE} import run_large; run_large({str(folder)!r}, {n_trials})")
    steps = {"run, one process": run, "run again, nothing left to do": run}
    if (folder / "results.csv").exists():
        del steps["run, one process"]
    steps |= {name: ("-m", "metascale", name, str(folder)) for name in ("report", "status", "resume")}
    n_trials = len(large_study(n_trials).trials())
    return [{"what": "large", "trials": n_trials, "name": name, **command(*step)} for name, step in steps.items()]


def fits(repeats: int) -> list[dict[str, Any]]:
    """Seconds and memory of `metascale fit` on long tables of one scale: 1,000 values, the other rows are seeds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in FIT_ROWS:
            draws = generator(0, "table", n)
            scale = numpy.repeat(numpy.round(numpy.geomspace(1e3, 1e9, 1000)), n // 1000)
            loss = 1.5 + 20 * scale**-0.2 * numpy.exp(0.02 * draws.standard_normal(n))
            seeds = numpy.tile(numpy.arange(n // 1000), 1000)
            table = Path(folder) / f"{n}.csv"
            numpy.savetxt(table, numpy.stack([scale, seeds, loss], 1), "%.9g", ",", header="N,seed,loss", comments="")
            times = [command("-m", "metascale", "fit", str(table)) for _ in range(repeats)]
            middle = {key: statistics.median(one[key] for one in times) for key in times[0]}
            rows.append({"what": "fit", "rows": n, **middle})
    return rows


def main() -> None:
    """Run what was asked for; every measurement is one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="overhead,balance,start")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", type=int, default=10_000, help="trials of the large study")
    parser.add_argument("--folder", type=Path, help="where the large study is, or is to be kept")
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
        elif name == "large":
            with tempfile.TemporaryDirectory() as temporary:
                found += large(asked.folder or Path(temporary) / "large", asked.large)
        elif name == "fit":
            found += fits(min(3, asked.repeats))
        else:
            parser.error(f"--only names overhead, balance, start, large and fit, not '{name}'")
    lines = [json.dumps({"metascale": metascale.__version__, **row}) for row in found]
    print("\n".join(lines))
    if asked.json is not None:
        asked.json.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
