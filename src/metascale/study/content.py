"""A study knows its data by content: which files its trials read, and what they held when it began.

A study's base has, under `CONTENT`, what was read: by a key of the configuration that names a file (``path``) or by
the name of a set of files, every location with the file's name, size and SHA-256. A trial's configuration has the
record of its own file. Where a file lies is no part of a trial's identity, what it holds is: the same content at
another place makes the same trial, and other content at the same place is refused.

Code is known by its place, because it may be edited: under `PLACES` a base has, by a key that names the file or folder
of what runs, where it lay first, which is what trials are told apart by, and where it lies as seen from the study.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.files import content_of

CONTENT = "data_content"
"""The key of a study's base and of a trial's configuration; not for keys of users."""
PLACES = "code_places"
"""The key of a study's base, and of a trial's configuration where code has moved; not for keys of users."""
FIRST = "first"
"""Of a record of code: the value of its key when the study began."""
RELATIVE = "from_study"
"""Of a record in a base: the location as seen from the study's folder, so that both may move together."""
_SHOWN = 12
_SAME = ("sha256", "n_bytes")


def content_in(config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a base or a configuration records of its files; nothing where it was made without."""
    found = config.get(CONTENT)
    return found if isinstance(found, Mapping) else {}


def of_trial(config: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's configuration as merged from the base: of what the base records, the trial's own files are kept."""
    whole = {key: value for key, value in config.items() if key not in (CONTENT, PLACES)}
    came = {key: {FIRST: record[FIRST]} for key, record in places_in(config).items() if record[FIRST] != config[key]}
    whole |= {PLACES: came} if came else {}
    kept = {}
    for key, places in content_in(config).items():
        record = places.get(config[key]) if isinstance(config.get(key), str) else None
        if record is not None:
            kept[key] = {name: value for name, value in record.items() if name != RELATIVE}
    return {**whole, CONTENT: kept} if kept else whole


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a trial itself: its configuration with what its files hold instead of where they are."""
    return {key: value for key, value in _began(config).items() if key not in content_in(config)}


def base_identity(base: Mapping[str, Any]) -> dict[str, Any]:
    """A base without what it records of files, and without their locations."""
    return {key: value for key, value in _began(base).items() if key != CONTENT and key not in content_in(base)}


def places_in(config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a base or a configuration records of where its code lies; nothing where it was made without."""
    found = config.get(PLACES)
    return found if isinstance(found, Mapping) else {}


def _began(config: Mapping[str, Any]) -> dict[str, Any]:
    """A base or configuration with its code where it lay first."""
    own = {key: value for key, value in config.items() if key != PLACES}
    return {**own, **{key: record[FIRST] for key, record in places_in(config).items()}}


def check_content(config: Mapping[str, Any]) -> None:
    """Refuse to run a trial whose file no longer holds what its study began with.

    Raises:
        InputError: it holds something else, or is not there.
    """
    for key, record in content_in(config).items():
        find(record, [Path(config[key])], f"`{key}`")


def find(record: Mapping[str, Any], places: Iterable[Path], what: str) -> Path:
    """The first of some places at which a file has the content of ``record``.

    Raises:
        InputError: there is none; the sentence has the hashes.
    """
    other = None
    for place in (places := list(places)):
        if place.is_file():
            found = content_of(place)
            if same(record, found):
                return place
            other = other or (place, found)
    if other is not None:
        raise InputError(_refusal(what, record, *other))
    raise InputError(
        f"{what} is not there: {places[0]} is no file; the study's trials read one of {record['n_bytes']:,} bytes with "
        f"SHA-256 {record['sha256'][:_SHOWN]}...; put it back, or name its new place in the study's `run` command"
    )


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same content."""
    return all(one.get(name) == other.get(name) for name in _SAME)


def refuse_other_content(ours: Mapping[str, Any], asked: Mapping[str, Any], varied: Iterable[str]) -> None:
    """Refuse a command that would run a study's new trials on other data than its first ones.

    Args:
        ours, asked: bases of the study in the folder and of the command.
        varied: axes of the command. Of a file that is an axis a study may hold many.

    Raises:
        InputError: a file holds something else, or has another name.
    """
    known = content_in(ours)
    for key, places in content_in(asked).items():
        mine = known.get(key, {})
        by_place, by_name = dict(mine), {record["name"]: record for record in mine.values()}
        for place, record in places.items():
            if key in varied:
                first = by_place.get(place)
            elif key in asked:
                first = next(iter(mine.values()), None)
            else:
                first = by_name.get(record["name"])
            if first is None:
                continue
            if not same(first, record):
                raise InputError(_refusal(f"`{key}`" if key in asked else key, first, Path(place), record))
            if first["name"] != record["name"]:
                raise InputError(
                    f"`{key}` {place} has the content that the study began with under another name, and which classes "
                    f"are for training is drawn by the name: call it {first['name']}, or use a new folder",
                    field=key,
                    value=place,
                )


def merged_content(ours: Mapping[str, Any], asked: Mapping[str, Any], varied: Iterable[str]) -> dict[str, Any]:
    """What a study records of its files after a command: the places of the command, and other values of an axis."""
    found = {key: dict(places) for key, places in content_in(ours).items()}
    for key, places in content_in(asked).items():
        found[key] = {**(found.get(key, {}) if key in varied else {}), **places}
    return found


def relative_to(place: Path, folder: Path) -> str:
    """``place`` as seen from a study's folder."""
    return os.path.relpath(place.absolute(), folder.absolute())


def _refusal(what: str, record: Mapping[str, Any], place: Path, found: Mapping[str, Any]) -> str:
    return (
        f"{what}: {place} is not the file that the study's trials read: its SHA-256 is {found['sha256'][:_SHOWN]}... "
        f"({found['n_bytes']:,} bytes), theirs {record['sha256'][:_SHOWN]}... ({record['n_bytes']:,} bytes); "
        "one study holds one state of its data: put the first file back, or use a new folder"
    )
