"""Trials side by side: calls of several trials that share shapes run as one call along the task axis.

Each trial keeps its own, unchanged loop. It runs in a thread of its own, of which one runs at a time, until it comes to
a call of `Execution.map`, or to a step of a `JoinedTraining` (`parallel.trainings`); when all trials have come to one,
calls of one kind are joined, and each trial goes on with its own part of the results. So a trial that ends, diverges or
stops early leaves, and the others go on.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch

from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Episode, Params
from metascale.training.memory import counting

_log = logging.getLogger("metascale.parallel")

TASKS_TOGETHER = 64
"""Tasks in one joined call on a CPU: more would leave its caches (a small perceptron: 2 MB a copy at 64 tasks)."""

MULTIPLE = 8
"""Only calls with a multiple of so many tasks are joined: then each trial's part of every tensor begins at a multiple
of 32 bytes, as in a call of its own, on which the last bit of a matrix product depends (vectors of 8 float32)."""


@runtime_checkable
class Joinable(Protocol):
    """A function of a part (a chunk of tasks), ``function(part, start)``, that may run together with others of its
    kind."""

    def kind(self, part: Any) -> object:
        """What has to be equal for two calls to run as one; ``None``: this one runs by itself."""
        ...

    def together(self, functions: Sequence[Any], parts: Sequence[Any]) -> list[Any]:
        """What each of ``functions`` returns for its own part, or the exception that it raises, computed in one call.

        This one is the first. What raises here as a whole has changed nothing: then each runs by itself.
        """
        ...


class Strand:
    """One trial's thread. It and the thread that resumes it take turns; they never run at the same time."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        # Locks, since a semaphore of Python's takes twice as long to wake the other thread.
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._abandoned = False
        self.call: Call | None = None
        self._said: set[str] = set()
        self.error: BaseException | None = None
        self.ended = False
        self._n_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._main, name="metascale-trial", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self._abandoned:
                _strand.set(self)
                torch.set_num_threads(self._n_threads)
                self._run()
        except BaseException as error:  # noqa: BLE001
            self.error = error  # raised where the trials were started
        finally:
            self.ended = True
            self._back.release()

    def resume(self) -> None:
        """Let the trial run to its next call, or to its end."""
        self.call = None
        self._go.release()
        self._back.acquire()

    def ask(self, call: Call) -> Any:
        """In the trial's own thread: the result of ``call``, once it has one. Why it was not joined is said once.

        Raises:
            KeyboardInterrupt: the trials are abandoned.
        """
        self.call = call
        self._back.release()
        self._go.acquire()
        if self._abandoned:
            raise KeyboardInterrupt
        if call.why_alone and call.why_alone not in self._said:
            self._said.add(call.why_alone)
            _log.warning("%s", call.why_alone)
        if call.error is not None:
            raise call.error
        return call.result

    def abandon(self) -> None:
        """End the trial at its next call, or now where it waits for one."""
        if not self.ended:
            self._abandoned = True
            self._go.release()
        self._thread.join()


@dataclass(slots=True)
class Call:
    """A call that waits for its result. ``share``: of what one joined call may hold.

    ``why_alone``: a sentence, where a joined call failed and this one was computed by itself.
    """

    function: Callable[[Any, int], Any]
    part: Any
    kind: object
    share: float
    result: Any = None
    error: Exception | None = None
    why_alone: str = ""

    def run(self) -> None:
        try:
            self.result = self.function(self.part, 0)
        except Exception as error:  # noqa: BLE001
            self.error = error  # raised in the trial, as if it had made the call itself


_strand: contextvars.ContextVar[Strand | None] = contextvars.ContextVar("metascale_strand", default=None)


def run_together(runs: Sequence[Callable[[], None]]) -> None:
    """Run every function to its end, joining their calls.

    Raises:
        BaseException: the first error that one of them raised, after the others have ended.
    """
    strands = [Strand(run) for run in runs]
    try:
        live = strands
        while live:
            for strand in live:
                strand.resume()
            live = [strand for strand in live if not strand.ended]
            answer([strand.call for strand in live if strand.call is not None])
    finally:
        for strand in strands:
            strand.abandon()
    for strand in strands:
        if strand.error is not None:
            raise strand.error


def joined(function: Callable[[Episode, int], Any], part: Episode) -> Any:
    """``function(part, 0)``, together with calls of its kind of the trials that run beside this one, if any do."""
    if _strand.get() is None or part.n_tasks % MULTIPLE:
        return function(part, 0)
    on_cpu = part.query.targets.device.type == "cpu"
    return asked(function, part, part.n_tasks / TASKS_TOGETHER if on_cpu else 0.0, shapes_of(part))


def asked(function: Callable[[Any, int], Any], part: Any, share: float, shapes: object = None) -> Any:
    """``function(part, 0)``, together with others of its kind and ``shapes`` whose shares add up to 1 at most."""
    strand = _strand.get()
    if strand is None or not isinstance(function, Joinable) or _watched():
        return function(part, 0)
    kind = function.kind(part)
    if kind is None:
        return function(part, 0)
    return strand.ask(Call(function, part, (kind, shapes, torch.is_grad_enabled()), share))


def _watched() -> bool:
    """Whether somebody counts what this thread computes, or changes how: that ends at the thread."""
    return counting() or torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack() > 0


def answer(calls: Sequence[Call]) -> None:
    """Give every call its result; those of one kind are computed in as few calls as their shares allow."""
    waiting = list(calls)
    while waiting:
        first = waiting[0]
        alike = [call for call in waiting if call.kind == first.kind]
        group = alike[: max(1, int(1 / first.share))] if first.share else alike
        _run_group(group)
        waiting = [call for call in waiting if not any(call is each for each in group)]


def _run_group(group: Sequence[Call]) -> None:
    if len(group) > 1:
        function = cast(Joinable, group[0].function)
        try:
            results = function.together([call.function for call in group], [call.part for call in group])
        except Exception as error:  # noqa: BLE001
            # Whose it is, each call by itself will show: memory that is short for all may do for one.
            reason = (str(error).splitlines() or [""])[0]
            for call in group:
                call.why_alone = (
                    f"{len(group)} trials could not be computed in one call, so each was computed by itself: "
                    f"{type(error).__name__}: {reason}"
                )
        else:
            for call, result in zip(group, results, strict=True):
                if isinstance(result, Exception):
                    call.error = result
                else:
                    call.result = result
            return
    for call in group:
        call.run()


def shapes_of(part: Episode) -> tuple[object, ...]:
    """What the tensors of joined episodes have in common."""
    return tuple(
        (name, tuple(value.shape), value.dtype, value.device)
        for batch in (part.support, part.query)
        for name, value in (*sorted(batch.inputs.items()), ("", batch.targets))
    )


def join_episodes(parts: Sequence[Episode]) -> Episode:
    """The tasks of all parts, without numbers for dropout masks, which belong to one trial."""
    names = tuple(name for part in parts for name in part.task_ids)
    support, query = ([getattr(part, side) for part in parts] for side in ("support", "query"))
    return Episode(names, _join_batches(support), _join_batches(query))


def _join_batches(batches: Sequence[Batch]) -> Batch:
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    return Batch(inputs, torch.cat([batch.targets for batch in batches]))


def join_params(params: Sequence[Params], counts: Sequence[int]) -> Params:
    """Each trial's parameters, repeated for its tasks: [ΣT, ...]."""
    stacked = [stack_tasks(own, count) for own, count in zip(params, counts, strict=True)]
    return {name: torch.cat([own[name] for own in stacked]) for name in stacked[0]}
