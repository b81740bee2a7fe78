"""How the tasks of a meta-batch run: chunks of tasks, spread over threads, reduced in task order."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from metascale.core.errors import InputError
from metascale.core.types import Episode, Model
from metascale.training.memory import counting

Result = TypeVar("Result")
TOGETHER = 4
"""Tasks in one call of a model that runs stacked and on threads: with fewer, threads wait for Python's lock."""


@dataclass(frozen=True)
class Execution:
    """Cut T tasks into chunks of ``chunk`` and run the chunks on ``threads`` threads of one intra-op thread each.

    Results come back in task order, so numbers depend on ``chunk`` (at rounding level) but not on ``threads``.

    Args:
        chunk: tasks in one call; ``None`` means all of them.
        threads: threads that run chunks at the same time; 1 leaves torch's own threading alone.
    """

    chunk: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if (self.chunk is not None and self.chunk < 1) or self.threads < 1:
            raise InputError(f"chunk and threads must be at least 1, not {self.chunk} and {self.threads}")

    @classmethod
    def best_for(cls, model: Model, device: str, threads: int | None = None, n_tasks: int | None = None) -> Execution:
        """One big batch on an accelerator; on a CPU what the model says (`TaskExecution`).

        Args:
            threads: that may be used; ``None``: as many as torch uses.
            n_tasks: that will be run at a time; ``None``: too few to share out.
        """
        if torch.device(device).type != "cpu" or model.task_execution == "stacked":
            return cls()
        threads = threads or torch.get_num_threads()
        if model.task_execution == "threads":
            return cls(chunk=1, threads=threads)
        shared_out = threads > 1 and n_tasks is not None and n_tasks >= TOGETHER * threads
        return cls(chunk=TOGETHER, threads=threads) if shared_out else cls()

    def map(self, fn: Callable[[Episode, int], Result], episode: Episode) -> list[Result]:
        """``fn(chunk of tasks, index of its first task)`` for every chunk, in task order.

        Raises:
            InputError: memory is being counted, which sees one thread, and several would run.
        """
        size = self.chunk or episode.n_tasks
        starts = range(0, episode.n_tasks, size)
        chunks = [(episode.tasks(start, min(start + size, episode.n_tasks)), start) for start in starts]
        if self.threads == 1 or len(chunks) == 1:
            return [fn(part, start) for part, start in chunks]
        if counting():
            raise InputError("live bytes are counted in one thread; measure memory with threads=1")
        grad_mode = torch.is_grad_enabled()
        outside = torch.get_num_threads()

        def run(item: tuple[Episode, int]) -> Result:
            torch.set_num_threads(1)  # of this worker thread: the calling thread's setting is put back below
            with torch.set_grad_enabled(grad_mode):
                return fn(*item)

        try:
            with ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="metascale-task") as pool:
                return list(pool.map(run, chunks))
        finally:
            torch.set_num_threads(outside)
