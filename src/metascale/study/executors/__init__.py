"""Where trials run: on this machine, on a Ray cluster, or on a SLURM cluster. Here: what these have in common."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace

from metascale.core.errors import InputError
from metascale.core.optional import require_installed
from metascale.study.run.job import Job
from metascale.study.run.supervise import HANG_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterExecutor:
    """What every cluster's executor knows of a trial.

    Args:
        gpus_per_trial: set aside for each trial; with a GPU the trial's device is ``cuda``.
        processes_per_trial: processes that run one trial together on its node, by torchrun.
        threads_per_process: threads of the numerical libraries in each process.
        hang_s: a trial that wrote nothing for this many seconds is killed; ``None``: never.
        trial_timeout_s: an attempt at a trial that lasts longer is killed and has failed; ``None``: it may last.

    Raises:
        InputError: a number that is out of range, or GPUs that the processes of a trial cannot share.
    """

    gpus_per_trial: float = 0
    processes_per_trial: int = 1
    threads_per_process: int = 1
    hang_s: float | None = HANG_S
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        check_positive(self, "processes_per_trial", "threads_per_process", "hang_s", "trial_timeout_s")
        gpus, processes = self.gpus_per_trial, self.processes_per_trial
        if gpus < 0:
            raise InputError(f"gpus_per_trial of an executor is 0 or more, not {gpus}", field="gpus_per_trial")
        if processes > 1 and gpus > 1 and gpus != processes:
            raise InputError(f"a trial on {processes} processes needs 0, 1 or {processes} GPUs, not {gpus}")

    @property
    def device(self) -> str:
        n_gpus = max(1, int(self.gpus_per_trial))
        return ",".join(f"cuda:{k}" for k in range(n_gpus)) if self.gpus_per_trial else "cpu"

    def prepared(self, job: Job) -> Job:
        """``job`` with all that another machine needs to run it."""
        return replace(
            job,
            processes=self.processes_per_trial,
            threads=self.threads_per_process,
            hang_s=self.hang_s,
            trial_timeout_s=self.trial_timeout_s,
            import_paths=_own_import_paths(),
        )


def require_torch(processes: int) -> None:
    """
    Raises:
        MissingDependency: trials run on several processes together, by torchrun, and torch is not installed.
    """
    if processes > 1:
        require_installed("torch", "torch", "a trial on several processes")


def check_positive(executor: object, *names: str) -> None:
    """Refuse an executor's field that is not a positive number (``None`` is allowed).

    Raises:
        InputError: names the field.
    """
    for name in names:
        value = getattr(executor, name)
        if value is not None and value <= 0:
            raise InputError(f"{name} of an executor is more than 0, not {value}", field=name, value=value)


def _own_import_paths() -> list[str]:
    """The import path of this process beyond Python's own, which another machine has for itself."""
    found = [os.path.abspath(path) for path in sys.path]
    installed = tuple({os.path.abspath(place) + os.sep for place in (sys.prefix, sys.base_prefix)})
    return [path for path in dict.fromkeys(found) if not f"{path}{os.sep}".startswith(installed)]
