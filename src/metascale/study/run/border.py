"""The border of a trial: what a trial function returns, or does instead, before anything of it is recorded."""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.study.design import load_function

ALLOWED = "a mapping of names to finite numbers, texts, booleans or None (or to lists and mappings of these)"
_EXAMPLE = "such as {'loss': 0.5}"
_SHOWN = 80
_DEEPEST = 50
_OF_A_FORK = 70


def call_trial(config: Mapping[str, Any], run: Run, device: str) -> object:
    """What the trial function that ``config`` names returns, in this process and no other.

    A process that the trial forked and that comes back from the function ends here: it is not the trial, and nothing
    that it returns or raises is the trial's.
    """
    pid = os.getpid()
    try:
        return load_function(config["trial"])(dict(config), run, device)
    finally:
        if os.getpid() != pid:
            _end_fork()


def _end_fork() -> None:
    if sys.exc_info()[0] is not None:
        traceback.print_exc()
    sys.stderr.write("metascale: a process that the trial forked came back from the trial function; it ends here\n")
    sys.stderr.flush()
    os._exit(_OF_A_FORK)


def trace_of(error: BaseException) -> str:
    """The traceback of what the trial raised; where that is `sys.exit`, with a sentence about it as the last line."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, SystemExit):
        trace += f"the trial called sys.exit({error.code!r}): a trial ends by returning {ALLOWED}, or by raising\n"
    return trace


def checked_row(returned: object) -> dict[str, Any]:
    """What a trial returned, as JSON types. Scalars of NumPy and torch become Python's.

    Raises:
        InputError: it is no mapping of names, or holds what is not allowed; the message says what and where.
    """
    if not isinstance(returned, Mapping):
        raise InputError(f"the trial returned {_described(returned)}; a trial returns {ALLOWED}, {_EXAMPLE}")
    row = _mapping(returned, "")
    dotted: set[str] = set()
    for name in _dotted(row):
        if name in dotted:
            raise InputError(f"the trial returned two results that are called '{name}': each needs a name of its own")
        dotted.add(name)
    return row


def _mapping(value: Mapping[Any, Any], where: str, depth: int = 0) -> dict[str, Any]:
    for name in value:
        if not isinstance(name, str) or not name:
            within = f" in '{where}'" if where else ""
            raise InputError(f"the trial returned a result named {_described(name)}{within}; names are texts")
        _check_text(name, "the trial returned a name", "a name")
    return {
        str(name): _value(item, f"{where}.{name}" if where else str(name), depth + 1) for name, item in value.items()
    }


def _value(value: Any, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InputError(
            f"the trial returned '{where[:_SHOWN]}...', which holds itself or is nested more than {_DEEPEST} deep"
        )
    if isinstance(value, Mapping):
        return _mapping(value, where, depth)
    if isinstance(value, (list, tuple)):
        return [_value(item, f"{where}[{place}]", depth + 1) for place, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_text(value, f"the trial returned '{where}'", "a text")
        return str(value)
    if isinstance(value, (int, float)):
        return _number(value, where)
    raise InputError(f"the trial returned '{where}', which is {_described(value)}; a trial returns {ALLOWED}")


def _number(value: int | float, where: str) -> int | float:
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        shown = f"a whole number of {value.bit_length()} bits" if isinstance(value, int) else f"= {float(value)}"
        raise InputError(
            f"the trial returned '{where}' {shown}: a result is finite (a trial whose loss is not raises "
            "metascale.core.errors.Diverged, and counts as diverged)"
        )
    return int(value) if isinstance(value, int) else float(value)


def _check_text(text: str, what: str, kind: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} that cannot be written as UTF-8 ({text!r:.{_SHOWN}}): {kind} is Unicode") from error


def _dotted(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The names of a row's columns, with repetitions."""
    found: list[str] = []
    for name, value in row.items():
        nested = isinstance(value, dict) and value
        found += _dotted(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return found


def _described(value: object) -> str:
    """A value in words: its type, and its shape or its text where that is short."""
    kind = type(value).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{article} {kind} of shape {tuple(map(int, shape))}"
    if value is None:
        return "None"
    text = repr(value) if isinstance(value, (bool, int, float, complex, str, bytes, list, tuple)) else ""
    return f"{article} {kind} ({text})" if 0 < len(text) <= _SHOWN else f"{article} {kind}"
