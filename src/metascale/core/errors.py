"""The errors that metascale raises on purpose. Each message says what, where, and what is allowed."""

from __future__ import annotations

from functools import partial


class MetascaleError(Exception):
    """Base of every error that metascale raises on purpose."""


class InputError(MetascaleError, ValueError):
    """Invalid user input: one sentence says what, where and what is allowed (exit status 2 on the command line).

    Args:
        message: the sentence. It speaks of arguments, never of command-line flags.
        field: the argument at fault, as the function or configuration names it; the command line turns it into its
            flag.
        value: what was given.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, message: str, *, field: str | None = None, value: object = None, allowed: str | None = None):
        super().__init__(message)
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), field=self.field, value=self.value, allowed=self.allowed), (str(self),)


class MissingDependency(MetascaleError, ImportError):
    """An optional dependency is absent; the message holds the line that installs it."""


class CorruptFile(MetascaleError):
    """A file's bytes differ from what was recorded when it was written."""


class Diverged(MetascaleError, ArithmeticError):
    """A non-finite number appeared.

    Attributes:
        step: the outer step at which it appeared.
        task_ids: the tasks whose loss was not finite, where known.
        last_finite: the last finite value of the quantity, or ``None``.
    """

    def __init__(self, message: str, *, step: int, task_ids: tuple[str, ...] = (), last_finite: float | None = None):
        super().__init__(message)
        self.step = step
        self.task_ids = task_ids
        self.last_finite = last_finite

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(type(self), step=self.step, task_ids=self.task_ids, last_finite=self.last_finite)
        return make, (str(self),)
