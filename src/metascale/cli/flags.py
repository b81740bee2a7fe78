"""How an error's arguments become flags: the library says ``outer_lr``, the command line ``--set outer_lr=...``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import typer

from metascale.core.errors import InputError

# What the library calls an argument, where the command's own parameter has another name.
NAMES = {
    "eval_inner_steps": "inner_steps",
    "hang_s": "hang_after",
    "k_shot": "shots",
    "loss": "y",
    "noise": "noise_column",
    "n_test_tasks": "n_tasks",
    "scale": "x",
    "trial_timeout_s": "trial_timeout",
    "trials": "tune",
}


def sentence(error: Exception, flags: Mapping[str, str], keys: Sequence[str] = ()) -> str:
    """The error's message in the words of the command line.

    A name in backquotes becomes the flag of that name, or ``--set NAME=...`` on a command that has ``--set``; so does
    the first mention of an `InputError`'s ``field`` where it has a flag or was given by ``--set``.

    Args:
        flags: of the command, by the names of its parameters (`flags_of`).
        keys: configuration keys that were given by ``--set``.
    """

    def flag_of(name: str, is_key: bool) -> str | None:
        for known in (name, NAMES.get(name, ""), f"{name}_dir"):
            if known in flags:
                return flags[known]
        return f"--set {name}=" if is_key and "values" in flags else None

    text = re.sub(r"`(\w+)`(=?)", lambda found: _put(flag_of(found[1], True) or found[1], found[2]), str(error))
    field = error.field if isinstance(error, InputError) else None
    flag = flag_of(field, field in keys) if field else None
    if flag is None or flag in text:
        return text
    word = rf"(?<![\w'\"./-]){re.escape(str(field))}(?![\w'\"])(=?)"
    return re.sub(word, lambda found: _put(flag, found[1]), text, count=1)


def flags_of(app: typer.Typer, arguments: Sequence[str]) -> dict[str, str]:
    """By parameter, the long flag of each option of the command in ``arguments`` (what follows ``metascale``)."""
    command: object = typer.main.get_command(app)
    for word in arguments:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
    return {
        parameter.name: max(parameter.opts, key=len)
        for parameter in getattr(command, "params", ())
        if parameter.param_type_name == "option"
    }


def keys_of(arguments: Sequence[str]) -> list[str]:
    """The configuration keys that ``--set key=value`` names."""
    apart = [text for flag, text in pairwise(arguments) if flag == "--set"]
    joined = [word.removeprefix("--set=") for word in arguments if word.startswith("--set=")]
    return [text.partition("=")[0] for text in [*apart, *joined]]


def _put(flag: str, sign: str) -> str:
    """A flag where a name stood; ``--set key=`` is completed unless the value follows."""
    if not flag.endswith("="):
        return f"{flag}{sign}"
    return flag if sign else f"{flag}..."
