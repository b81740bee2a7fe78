"""Many tables fitted at once: on every core, each worker a process that loads NumPy and SciPy once.

A worker is this module run by the same interpreter; it reads its share of the tables and writes their laws, pickled,
through pipes. Nothing of the caller's program is imported there, so that no ``if __name__ == "__main__"`` is needed.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from metascale.core.errors import InputError, MetascaleError
from metascale.laws.analysis import Analysis, fit
from metascale.laws.scales import ScalesAnalysis
from metascale.laws.surface_fit import SurfaceAnalysis

FEWEST = 8  # fewer tables are fitted here: a worker takes as long to start as one or two fits
Law = Analysis | SurfaceAnalysis | ScalesAnalysis
Arguments = Mapping[str, Any]


def fit_each(jobs: Mapping[str, Arguments], workers: int | None = None) -> dict[str, Law]:
    """`metascale.laws.analysis.fit` of every table by its name, in processes where there are several cores.

    Args:
        jobs: the arguments of each fit; workers: processes, by default one a core that this process may use.

    Raises:
        InputError: a table cannot be fitted; the message names it.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1", field="workers", value=workers)
    count = min(workers or _cores(), len(jobs) // (1 if workers else FEWEST))
    names = list(jobs)
    if count < 2:
        return {name: _named(name, _one(jobs[name]), len(jobs)) for name in names}
    shares = [names[k::count] for k in range(count)]
    with ThreadPoolExecutor(count) as waiting:
        answers = list(waiting.map(lambda share: _worker([jobs[name] for name in share]), shares))
    found: dict[str, Law | MetascaleError] = {}
    for share, laws in zip(shares, answers, strict=True):
        found.update(zip(share, laws, strict=True))
    return {name: _named(name, found[name], len(jobs)) for name in names}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one(arguments: Arguments) -> Law | MetascaleError:
    try:
        return fit(**arguments)
    except MetascaleError as error:
        return error


def _named(name: str, law: Law | MetascaleError, n: int) -> Law:
    if isinstance(law, InputError) and n > 1:
        raise InputError(f"{name}: {law}", field=law.field, value=law.value, allowed=law.allowed) from law
    if isinstance(law, MetascaleError):
        raise law
    return law


def _worker(share: Sequence[Arguments]) -> list[Law | MetascaleError]:
    """The laws of one worker's share."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", "metascale.laws.many"], input=pickle.dumps(list(share)), capture_output=True,
        env={**os.environ, **threads, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise MetascaleError(f"a worker that fitted {len(share)} tables ended with status {done.returncode}: "
                             f"{done.stderr.decode(errors='replace').strip()[-500:]}")  # fmt: skip
    found: list[Law | MetascaleError] = pickle.loads(done.stdout)
    return found


if __name__ == "__main__":
    from metascale.laws.many import _one as one  # by its own name: what it returns is not of "__main__"

    sys.stdout.buffer.write(pickle.dumps([one(part) for part in pickle.load(sys.stdin.buffer)]))
