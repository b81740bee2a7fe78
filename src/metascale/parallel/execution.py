"""How the tasks of a meta-batch run: chunks of tasks, spread over threads or processes, reduced in task order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from metascale.core.errors import InputError
from metascale.core.types import Episode, Model
from metascale.parallel.processes import task_processes
from metascale.parallel.stacked import joined
from metascale.training.memory import counting

Result = TypeVar("Result")
TOGETHER = 4
"""Tasks in one call of a process: more would not lower the overhead any further, and take more memory."""


@dataclass(frozen=True)
class Execution:
    """Cut T tasks into chunks of ``chunk`` and let ``workers`` of one intra-op thread each run them.

    Results come back in task order, so numbers depend on ``chunk`` (at rounding level) but not on ``workers``, as long
    as torch has one intra-op thread where ``workers`` is 1.

    Args:
        chunk: tasks in one call; ``None`` means all of them.
        workers: calls at the same time; 1 leaves torch's own threading alone.
        in_processes: the workers are processes, which start at the first use, instead of threads.
    """

    chunk: int | None = None
    workers: int = 1
    in_processes: bool = False

    def __post_init__(self) -> None:
        if (self.chunk is not None and self.chunk < 1) or self.workers < 1:
            field = "chunk" if self.chunk is not None and self.chunk < 1 else "workers"
            raise InputError(f"chunk and workers must be at least 1, not {self.chunk} and {self.workers}", field=field)

    @classmethod
    def best_for(cls, model: Model, device: str, threads: int | None = None, n_tasks: int | None = None) -> Execution:
        """One big batch on an accelerator; on a CPU as the model's ``task_execution`` says.

        Args:
            threads: how many may be used; ``None``: as many as torch uses.
            n_tasks: how many run at a time; ``None``: too few to distribute.
        """
        if torch.device(device).type != "cpu" or model.task_execution == "stacked":
            return cls()
        threads = threads or torch.get_num_threads()
        if model.task_execution == "threads":
            return cls(chunk=1, workers=threads)
        if threads == 1 or n_tasks is None or n_tasks < threads:
            return cls()
        return cls(chunk=min(TOGETHER, n_tasks // threads), workers=threads, in_processes=True)

    def alone(self) -> Execution:
        """The same chunks one after another in the calling thread, where memory and FLOPs can be measured."""
        return Execution(self.chunk)

    def map(self, function: Callable[[Episode, int], Result], episode: Episode) -> list[Result]:
        """``function(chunk of tasks, index of its first task)`` for every chunk, in task order.

        Args:
            function: for processes, a function of an importable module or an instance of such a module's class, so that
                they can load it; its result has no history then.

        Raises:
            InputError: several workers would run under autocast or inside a memory measurement, which reach one thread
                alone; or another process cannot load the function.
            ProcessEnded: a process was killed.
        """
        size = self.chunk or episode.n_tasks
        starts = range(0, episode.n_tasks, size)
        chunks = [(episode.tasks(start, min(start + size, episode.n_tasks)), start) for start in starts]
        if len(chunks) == 1:
            return [joined(function, episode)]
        if self.workers == 1:
            return [function(part, start) for part, start in chunks]
        if torch.is_autocast_enabled("cpu"):
            raise InputError(
                "autocast around several workers would not reach them; set the model's autocast=... instead"
            )
        if counting():
            raise InputError("live bytes are counted in one thread; measure memory with workers=1")
        if self.in_processes:
            return task_processes().map(function, chunks, min(self.workers, len(chunks)))
        return self._in_threads(function, chunks)

    def _in_threads(
        self, function: Callable[[Episode, int], Result], chunks: list[tuple[Episode, int]]
    ) -> list[Result]:
        grad_mode = torch.is_grad_enabled()
        outside = torch.get_num_threads()

        def run(item: tuple[Episode, int]) -> Result:
            torch.set_num_threads(1)  # of this worker thread: the calling thread's setting is put back below
            with torch.set_grad_enabled(grad_mode):
                return function(*item)

        try:
            with ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="metascale-task") as pool:
                return list(pool.map(run, chunks))
        finally:
            torch.set_num_threads(outside)
