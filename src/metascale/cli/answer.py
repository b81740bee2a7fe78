"""``--json`` and ``--quiet``, which every command has: what a command tells programs, and what it keeps to itself."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from metascale.cli.place import parameters_of
from metascale.core.errors import InputError

OWN_JSON = "json_"
"""The parameter of a command that prints its JSON itself: the law commands."""


@dataclass
class _Answer:
    """Of the command that runs: how it was asked, where its words would go, and what it gave."""

    as_json: bool = False
    quiet: bool = False
    given: dict[str, Any] = field(default_factory=dict)
    out: IO[str] | None = None
    err: IO[str] | None = None


_now = _Answer()


def forget() -> None:
    """Forget how the command before was asked, in a process that runs several."""
    global _now
    _now = _Answer()


def ask(typed: Sequence[str]) -> None:
    """Note whether the words of a command ask for JSON, for what is refused before the command runs."""
    global _now
    _now = _Answer(as_json="--json" in typed)


def give(**values: object) -> None:
    """Add to what ``--json`` prints when the command ends, however it ends."""
    _now.given |= values


def give_line(values: Mapping[str, object]) -> None:
    """Print one JSON object at once, for a command that goes on (`watch`); nothing without ``--json``."""
    if _now.as_json:
        _print(values)


def warn(text: str, style: str) -> None:
    """Say on standard error what ``--quiet`` does not silence."""
    Console(file=_now.err or sys.stderr).print(Text(f"metascale: {text}"), style=style, soft_wrap=True)


def give_error(sentence: str, error: Exception, status: int) -> None:
    """With ``--json``, the error as JSON in the place of the answer; the sentence goes to standard error as ever."""
    if not _now.as_json:
        return
    found: dict[str, Any] = {"message": sentence, "exit_status": status}
    if isinstance(error, InputError):
        found |= {"field": error.field, "value": error.value, "allowed": error.allowed}
    _print({"error": found})


def answering(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options ``--json`` and ``--quiet``, in the place of which it calls `give`.

    With ``--json``, words go to standard error, and what was given is printed as one JSON object. With ``--quiet``
    there are no words at all but errors and damage.
    """
    known = parameters_of(command)
    own = OWN_JSON in known
    added = parameters_of(_options)
    if own:
        del added["as_json"]

    def answered(**given: Any) -> None:
        global _now
        quiet = bool(given.pop("quiet"))
        as_json = bool(given[OWN_JSON] if own else given.pop("as_json"))
        _now = _Answer(as_json, quiet, {}, sys.stdout, sys.stderr)
        try:
            with _words(quiet, as_json, own):
                command(**given)
        except typer.Exit:
            _finish(own)
            raise
        _finish(own)

    # Typer reads both: the signature for the defaults, the annotations for the types.
    parameters = {**known, **added}
    answered.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    answered.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    answered.__name__, answered.__doc__ = command.__name__, command.__doc__
    return answered


def _options(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; words go to standard error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No words but errors; with --json, the JSON alone.")] = False,
) -> None: ...


@contextlib.contextmanager
def _words(quiet: bool, as_json: bool, own: bool) -> Iterator[None]:
    """Send words where they belong; a command that prints its JSON itself keeps standard output for it."""
    with contextlib.ExitStack() as stack:
        if quiet:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            if not (as_json and own):
                stack.enter_context(contextlib.redirect_stdout(nowhere))
        elif as_json and not own:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _finish(own: bool) -> None:
    if _now.as_json and not own:
        _print(_now.given)


def _print(values: Mapping[str, object]) -> None:
    out = _now.out or sys.stdout
    out.write(json.dumps(_jsonable(values), indent=2 if out.isatty() else None, ensure_ascii=False) + "\n")
    out.flush()


def _jsonable(value: Any) -> Any:
    """JSON types; a number that is not finite is null, since JSON has none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
