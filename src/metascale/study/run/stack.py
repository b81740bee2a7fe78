"""Trials that run together in one process: a stack. Each keeps its own run, claim, records and end.

The module of the trial function says how, by a function ``together(runs)`` that runs every function of a list to its
end; it may compute for several of them at once what is of one kind.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TextIO, TypeAlias, cast

from metascale.study.design import load_function
from metascale.study.run.job import Job, execute_here
from metascale.study.run.supervise import execute
from metascale.study.store.folder import OUTPUT

Together: TypeAlias = Callable[[Sequence[Callable[[], None]]], None]
TOGETHER = "together"


def execute_all(job: Job, own_output: bool = False) -> list[int]:
    """Run the trial of ``job``, and in this process those beside it; their exit codes, in order.

    Args:
        own_output: what the Python code of each trial prints goes to its own folder; else where it goes now.
    """
    if not job.beside:
        return [int(execute(job))]
    jobs = job.together()
    codes = [1] * len(jobs)

    def run(place: int) -> None:
        each = jobs[place]
        with _printing_to(Path(each.folder) / OUTPUT) if own_output else nullcontext():
            codes[place] = int(execute_here(each, each.claim, each.watch()))

    module, _, _ = job.config["trial"].partition(":")
    cast(Together, load_function(f"{module}:{TOGETHER}"))([partial(run, place) for place in range(len(jobs))])
    return codes


class _Output(io.TextIOBase):
    """A stream of this process that each thread may lead to a file of its own."""

    def __init__(self, onward: TextIO) -> None:
        self._onward, self._own = onward, threading.local()

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

    def fileno(self) -> int:
        return self._onward.fileno()

    def _stream(self) -> TextIO:
        found: TextIO = getattr(self._own, "stream", self._onward)
        return found

    @contextmanager
    def into(self, stream: TextIO) -> Iterator[None]:
        """Inside the block this thread writes to ``stream``."""
        self._own.stream = stream
        try:
            yield
        finally:
            del self._own.stream


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Inside the block what the Python code of this thread prints goes to a file."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _Output):
            setattr(sys, name, _Output(getattr(sys, name)))
    with (
        open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1) as stream,
        cast(_Output, sys.stdout).into(stream),
        cast(_Output, sys.stderr).into(stream),
    ):
        yield
