"""Where the code of a study lies: a function's or recipe's file, a program's folder; and where it is after a move.

A study's ids have the place that its code had first. A project folder that is moved as a whole, study and code, goes on
from where it is now, by the same command or by ``resume``; other code is refused as another study's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metascale.core.columns import STUDY_JSON
from metascale.core.files import sha256_of
from metascale.study.content import FIRST, PLACES, RELATIVE, places_in, relative_to
from metascale.study.definition import load_definition
from metascale.study.design import Study

_KEYS = ("function", "recipe", "folder")
"""Keys of a base that name a file that runs (a function's as ``PATH.py:FUNCTION``), and the folder of a program."""


def placed(study: Study, folder: Path) -> Study:
    """The study of a command, with a record of where its code lies; ids are those of the study in ``folder``."""
    stored: Mapping[str, Any] = load_definition(folder).study.base if (folder / STUDY_JSON).exists() else {}
    records = {}
    for key, value in _code(study.base).items():
        first = places_in(stored).get(key, {}).get(FIRST, stored.get(key))
        known = isinstance(first, str) and (value in (first, stored[key]) or _moved(str(stored[key]), value))
        records[key] = {FIRST: first if known else value, RELATIVE: _seen_from(value, folder)}
    return replace(study, base={**study.base, PLACES: records}) if records else study


def found_again(study: Study, folder: Path) -> Study:
    """A stored study with its code where it was, or else as far from the study's folder as then."""
    base = dict(study.base)
    for key in _code(base):
        base[key] = code_of(study, folder, key)
    return study if base == study.base else replace(study, base=base)


def code_of(study: Study, folder: Path, key: str) -> str:
    """The place of a stored study's code now; the stored one where it is at neither place."""
    value = str(study.base[key])
    record = places_in(study.base).get(key, {})
    if _path(value).exists() or RELATIVE not in record:
        return value
    near = os.path.normpath(folder.absolute() / record[RELATIVE])
    return near if _path(near).exists() else value


def recipe_place(name: str, run_folder: Path) -> str:
    """The recipe that a finished run names, or its study where the file is no longer there.

    Never one by its place beside the study: reading a folder from elsewhere must not choose code to run.
    """
    folder = run_folder.absolute().parent.parent
    if not os.path.isabs(name) or Path(name).exists() or not (folder / STUDY_JSON).is_file():
        return name
    now = load_definition(folder).study.base.get("recipe")
    return now if isinstance(now, str) and os.path.isabs(now) and Path(now).name == Path(name).name else name


def _code(base: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a base that name code by its place; not functions and recipes of installed packages."""
    return {key: base[key] for key in _KEYS if isinstance(base.get(key), str) and os.path.isabs(base[key])}


def _path(value: str) -> Path:
    """``/PATH.py:FUNCTION`` or a plain path as the path."""
    place, colon, name = value.rpartition(":")
    return Path(place if colon and place.endswith(".py") and name.isidentifier() else value)


def _moved(was: str, now: str) -> bool:
    """Whether code is the same at another place: of one name, and gone from the first, or the same file at both."""
    one, other = _path(was), _path(now)
    if was[len(str(one)) :] != now[len(str(other)) :]:
        return False
    if one.suffix == ".py" or other.suffix == ".py":
        same = one.is_file() and other.is_file() and sha256_of(one.read_bytes()) == sha256_of(other.read_bytes())
        return one.name == other.name and (same or not one.exists())
    return not one.exists()


def _seen_from(value: str, folder: Path) -> str:
    path = _path(value)
    return relative_to(path, folder) + value[len(str(path)) :]
