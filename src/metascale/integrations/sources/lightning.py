"""The ``metrics.csv`` and ``hparams.yaml`` of Lightning's CSVLogger.

A resumed run gets a new ``version_N``: its earlier steps stand in another folder, which nothing names. Where the
version is given, Lightning deletes the rows of before. Needs no package.
"""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import yaml

from metascale.core.errors import InputError
from metascale.integrations.sources.places import find, name_below, read_text, require_small
from metascale.integrations.sources.runs import MOST_POINTS, Imported, ImportedRun, flat
from metascale.integrations.sources.wandb import refuse_twins

METRICS, SETTINGS = "metrics.csv", "hparams.yaml"
_MOST_SETTINGS_BYTES = 1 << 20


def is_metrics(name: str) -> bool:
    return name == METRICS


def read_lightning(path: Path) -> Imported:
    """A run for each folder that holds a ``metrics.csv``.

    Raises:
        InputError: there is none, it has no column 'step', or two columns with one name.
    """
    files = [path] if path.is_file() else find(path, is_metrics)
    if not files:
        raise InputError(f"'{path}' holds no {METRICS} of Lightning's CSVLogger", value=str(path))
    root = path.parent if path.is_file() else path
    notes: list[str] = []
    runs = [_run(file, name_below(file.parent, root), notes) for file in files]
    late = [run for run in runs if _begins_late(run)]
    if late:
        notes.append(
            f"{late[0].id} begins at step {_first_step(late[0])}{_and(len(late) - 1)}: Lightning logs a resumed run in "
            "a new folder, and its earlier steps stand in another one, or deletes them where the folder is the same"
        )
    return Imported(str(path), runs, notes)


def _and(more: int) -> str:
    return f" and {more} others begin late as well" if more else ""


def _begins_late(run: ImportedRun) -> bool:
    """Whether every metric begins later than one interval of its own logging; one with a single point says nothing."""
    steps = [one.steps for name, one in run.series.items() if len(one.steps) > 1 and name != "epoch"]
    return bool(steps) and all(each[0] > min(b - a for a, b in pairwise(each)) for each in steps)


def _first_step(run: ImportedRun) -> int | None:
    return min((one.steps[0] for one in run.series.values() if one.steps), default=None)


def _run(file: Path, name: str, notes: list[str]) -> ImportedRun:
    run = ImportedRun(name)
    settings = file.parent / SETTINGS
    if settings.is_file() and not settings.is_symlink():
        run.config = _settings(settings, notes)
    reader = csv.reader(read_text(file).splitlines())
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        raise InputError(f"'{file}', line {reader.line_num}, cannot be read as CSV: {error}") from error
    header = lines[0] if lines else []
    refuse_twins(header, file)
    if "step" not in header:
        raise InputError(f"'{file}' has no column 'step', as Lightning's CSVLogger writes it")
    if len(lines) * len(header) > MOST_POINTS:
        raise InputError(f"'{file}': more than {MOST_POINTS:,} points, the most that are read")
    at = header.index("step")
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(f"'{file}', row {number} has {len(line)} cells and the header {len(header)}")
        step = int(_number(line[at], file, number, "step"))
        for metric, cell in zip(header, line, strict=True):
            if metric != "step" and cell.strip():
                run.add(metric, step, _number(cell, file, number, metric))
    return run


def _number(cell: str, file: Path, row: int, column: str) -> float:
    try:
        value = float(cell)
        return float(int(value)) if column == "step" else value
    except (ValueError, OverflowError):
        raise InputError(f"'{file}', row {row}: '{column}' is '{cell}', not a number") from None


def _settings(path: Path, notes: list[str]) -> dict[str, bool | int | float | str | None]:
    """The hyperparameters; those with tags for Python objects are not read, since loading them would run code."""
    require_small([path], _MOST_SETTINGS_BYTES)
    try:
        found = yaml.safe_load(read_text(path))
    except yaml.constructor.ConstructorError:
        notes.append(f"{path} holds Python objects; it is not read, since that would run code")
        return {}
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"'{path}' is not YAML ({str(error).splitlines()[0]})") from error
    return flat(found, str(path)) if isinstance(found, dict) else {}
