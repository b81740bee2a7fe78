"""Studies of a user's own function or program: how one is named, checked before it runs, and run as a trial.

A function is ``(config, run, device) -> mapping``. A program is a command line with ``{key}`` where a value of the
configuration belongs; it writes a JSON object to the file that the environment variable METASCALE_RESULT names.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

from metascale.core.canonical import canonical_json, plain
from metascale.core.errors import Diverged, InputError, MetascaleError
from metascale.core.files import sha256_of
from metascale.core.run import Run
from metascale.core.suggest import suggest
from metascale.study.content import PLACES
from metascale.study.design import TUNE_KEY, Study, Trial, TrialFunction, flatten
from metascale.study.errors import Killed, Stopped
from metascale.study.roles import Reading, assign
from metascale.study.run.job import was_killed
from metascale.study.run.output import KEPT, bound_output
from metascale.study.run.stopping import die_with
from metascale.study.search.search import Search, searched_points
from metascale.study.store.folder import OUTPUT
from metascale.workflow.recipe import ERRORS_OF_CODE, cannot_import, module_of_file

FUNCTION, COMMAND, FOLDER = "function", "command", "folder"
"""Keys of a study's base: what runs, and the folder that a program starts in."""
RESULT_VARIABLE, FILES_VARIABLE = "METASCALE_RESULT", "METASCALE_FILES"
FILES = "files"
LAST_LINES = 20
GRACE_S = 20.0
_SHELL_KILLED = 128 + 9
"""The exit status of a shell whose command was killed."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def is_function(name: str) -> bool:
    """Whether a name is one of a function, ``PATH.py:FUNCTION`` or ``package.module:function``, not of a recipe."""
    return ":" in name


def own_study(
    function: str | None,
    command: str | None,
    values: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    reading: Reading | None = None,
) -> Study:
    """The study of a function or a program; a list makes an axis. Everything is checked that can be before it runs.

    Raises:
        InputError: the function cannot be loaded or does not take (config, run, device); a placeholder without a key,
            or an axis or seeds that the program does not get.
    """
    base = dict(values or {})
    for key in (FUNCTION, COMMAND, FOLDER, PLACES, "kind"):
        if key in base:
            raise InputError(f"the key '{key}' is metascale's own: call yours something else", field=key)
    tune = base.pop(TUNE_KEY, None)
    axes = {key: list(base.pop(key)) for key in list(base) if isinstance(base[key], (list, tuple))}
    if function is not None:
        source = _absolute(function)
        load_own(source)
        name, trial, base[FUNCTION] = source.rpartition(":")[2], "function_trial", source
    else:
        arguments = _split(command or "")
        name, trial = _program_name(arguments), "command_trial"
        base |= {COMMAND: command, FOLDER: os.getcwd()}
    if tune is not None:
        base[TUNE_KEY] = _search(tune).to_json()
    reading = reading or Reading()
    roles = assign(
        axes,
        scale=reading.scale,
        series=reading.series,
        best_of=reading.best_of,
        loss=reading.loss,
        units=reading.units,
        better=reading.better,
    )
    study = Study(name, f"{__name__}:{trial}", plain(base), axes, list(seeds or (0,)), roles=roles)
    if tune is not None:
        searched_points(study, _search(tune))
    if command is not None:
        _check_command(study, command)
    return study


def is_own(study: Study) -> bool:
    """Whether `own_study` made it."""
    return study.trial.partition(":")[0] == __name__


def check_own(study: Study) -> None:
    """Refuse to go on with a study whose function or program cannot be started.

    Raises:
        InputError: it is not there any more.
    """
    if FUNCTION in study.base:
        load_own(study.base[FUNCTION])
    elif not Path(study.base[FOLDER]).is_dir():
        raise InputError(
            f"the program of study '{study.name}' ran in {study.base[FOLDER]}, which is no folder any more"
        )


def source_hashes(study: Study) -> dict[str, str]:
    """SHA-256 of the files that run: the function's, or those that the command names."""
    if FUNCTION in study.base:
        files = [Path(study.base[FUNCTION].rpartition(":")[0])]
    else:
        files = [Path(study.base[FOLDER]) / part for part in _split(study.base[COMMAND])]
    return {path.name: sha256_of(path.read_bytes()) for path in files if path.is_file()}


def load_own(source: str) -> TrialFunction:
    """The function of ``PATH.py:FUNCTION`` or ``package.module:function``.

    Raises:
        InputError: it cannot be loaded, or does not take (config, run, device).
    """
    place, _, name = source.rpartition(":")
    module = module_of_file(Path(place), "file") if place.endswith(".py") else _module_named(place)
    function = getattr(module, name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(f"{place} has no function '{name}'; {suggest(name, known, 'it has')}", field="recipe")
    try:
        inspect.signature(function).bind({}, None, "cpu")
    except TypeError as error:
        raise InputError(
            f"a trial function takes (config, run, device) and returns a mapping of results; '{name}' of {place} takes "
            f"{inspect.signature(function)}",
            field="recipe",
        ) from error
    return cast(TrialFunction, function)


def _module_named(name: str) -> ModuleType:
    """The module of that name, of a package or of the folder that the command runs in."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ERRORS_OF_CODE as error:
        raise cannot_import(name, error) from error


def function_trial(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """One trial of a user's function; the configuration that it gets is the user's keys and the seed."""
    own = {key: value for key, value in config.items() if key not in (FUNCTION, TUNE_KEY, PLACES, "trial")}
    row = load_own(config[FUNCTION])(own, run, device)
    return _checked(row, "the function returned") if isinstance(row, Mapping) else row


def command_trial(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """One trial of a user's program: its output goes into the run's output.log, its result is read from JSON."""
    arguments = fill(config[COMMAND], _values(config, device))
    files = run.folder.resolve() / FILES
    files.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="metascale-") as place:
        result = Path(place) / "result.json"
        variables = {RESULT_VARIABLE: str(result), FILES_VARIABLE: str(files)}
        _run_program(arguments, config[FOLDER], variables, run)
        row = _read_result(result)
    if not any(files.iterdir()):
        files.rmdir()
    return _checked(row, "the program wrote")


def fill(command: str, values: Mapping[str, Any]) -> list[str]:
    """A command line's arguments with the values in place of ``{key}``; ``{{`` and ``}}`` are braces.

    Raises:
        InputError: a placeholder that is no key.
    """

    def put(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        if found[1] not in values:
            raise InputError(
                f"the command has '{found[0]}', which is no key of the configuration; "
                f"{suggest(found[1], values, 'keys are')} (write {{{{ and }}}} for braces)",
                field="command",
            )
        value = values[found[1]]
        return value if isinstance(value, str) else canonical_json(value)

    return [_PLACEHOLDER.sub(put, part) for part in _split(command)]


def _values(config: Mapping[str, Any], device: str) -> dict[str, Any]:
    own = {key: value for key, value in config.items() if key not in (COMMAND, FOLDER, TUNE_KEY, PLACES, "trial")}
    return {**own, **flatten(own), "device": device}


def _split(command: str) -> list[str]:
    try:
        parts = shlex.split(command)
    except ValueError as error:
        raise InputError(f"the command cannot be split into arguments: {error}", field="command") from error
    if not parts:
        raise InputError("the command is empty", field="command")
    return parts


def _program_name(arguments: Sequence[str]) -> str:
    scripts = [part for part in arguments if Path(part).suffix in (".py", ".sh", ".R", ".jl")]
    return Path((scripts or arguments)[0]).stem


def _check_command(study: Study, command: str) -> None:
    """Refuse a placeholder without a key, and an axis, seeds or a searched range that the program would not get."""
    trials: Sequence[Trial] = study.trials()
    search = study.base.get(TUNE_KEY)
    ranges = dict.fromkeys(search["space"], 0) if search else {}
    for trial in trials:
        fill(command, {**_values(trial.config, "cpu"), **ranges})
    used = {found[1] for found in _PLACEHOLDER.finditer(command)}
    whole = {one for found in used if found for one in (found, found.partition(".")[0])}
    missing = [key for key in (*study.axes, *ranges) if key not in whole]
    if len(study.seeds) > 1 and "seed" not in used:
        missing.append("seed")
    if missing:
        raise InputError(
            f"the command does not use {', '.join(missing)}: its trials would be one run several times; write "
            f"{' '.join(f'{{{key}}}' for key in missing)} where the program takes it",
            field="command",
        )


def _search(given: object) -> Search:
    if not isinstance(given, Mapping) or "objective" not in given:
        raise InputError(
            f"'{TUNE_KEY}' of an own function or program needs a space and an objective: the column of its results "
            "that the search minimises, a validation loss",
            field=TUNE_KEY,
        )
    return Search.from_json(given)


def _absolute(function: str) -> str:
    place, _, name = function.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{name}" if place.endswith(".py") else function


def _run_program(arguments: Sequence[str], folder: str, variables: Mapping[str, str], run: Run) -> None:
    """Run a program to its end; a stop that is asked for ends it, and the trial starts it again when it is resumed."""
    log = run.folder / OUTPUT
    with open(log, "ab") as output:
        begin = output.tell()
        # A group of its own, which ends with it; Ctrl-C in a terminal reaches the runner alone.
        alone = sys.platform == "linux"
        try:
            process = subprocess.Popen(
                arguments,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(die_with, os.getpid()),
                start_new_session=alone,
            )
        except OSError as error:
            raise MetascaleError(f"the program '{arguments[0]}' cannot be started: {error.strerror}") from error
    try:
        code = _wait(process, log, run)
    finally:
        if alone:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        bound_output(log)
    if code != 0 and run.stop_asked():
        raise Stopped("asked to stop; the program starts again when the trial is resumed")
    if code == _SHELL_KILLED or was_killed(code):
        raise Killed("the program was killed from outside; it starts again when the trial is resumed")
    if code != 0:
        _fail(log, begin, code)


def _wait(process: subprocess.Popen[bytes], log: Path, run: Run) -> int:
    while True:
        try:
            return process.wait(0.1)
        except subprocess.TimeoutExpired:
            bound_output(log)
            if run.stop_asked():
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> NoReturn:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    raise Stopped("asked to stop; the program starts again when the trial is resumed")


def _fail(log: Path, begin: int, code: int) -> NoReturn:
    """Fail with the last lines that the program wrote since ``begin`` (bytes): an earlier attempt's stand before."""
    size = log.stat().st_size
    begin = begin if begin <= size else 0  # a log that was cut is shorter than it was
    with open(log, "rb") as stream:
        stream.seek(max(begin, size - KEPT))
        lines = stream.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    how = f"exit status {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    last = f": {lines[-1].strip()}" if lines else ", and wrote nothing"
    raise MetascaleError("\n".join(["the program's last lines:", *lines, f"the program ended with {how}{last}"]))


def _read_result(path: Path) -> Mapping[str, Any]:
    """The JSON object that the program wrote.

    Raises:
        MetascaleError: there is none.
    """
    if not path.exists():
        raise MetascaleError(
            "the program ended well and wrote no result: it must write a JSON object to the file that "
            f"{RESULT_VARIABLE} names"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise MetascaleError(f"what the program wrote to {RESULT_VARIABLE} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise MetascaleError(f"the program wrote a JSON {type(found).__name__} to {RESULT_VARIABLE}, not an object")
    return found


def _checked(row: Mapping[str, Any], who: str) -> Mapping[str, Any]:
    """The row, unless a number in it is not finite: then the trial has diverged."""
    for key, value in flatten(dict(row)).items():
        number = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
        if isinstance(number, float) and number - number != 0:
            raise Diverged(f"{who} {key} = {number}", step=0)
    return row
