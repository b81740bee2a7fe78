"""Which files the trials of a recipe read, where they are now, and whether they hold what the study began with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metascale.core.columns import PROVENANCE_JSON, PROVENANCE_JSONL, STUDY_JSON
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import content_of, read_json, read_json_lines
from metascale.study.content import CONTENT, RELATIVE, content_in, find, refuse_other_content, relative_to, same
from metascale.study.definition import load_definition
from metascale.study.design import Study
from metascale.tasks.datasets import DATASETS, data_folder
from metascale.workflow.config import FILE_KEYS
from metascale.workflow.preflight import data_sets, model_folders
from metascale.workflow.recipe import Recipe


def known_by_content(recipe: Recipe[Any] | None, study: Study, folder: Path) -> Study:
    """The study with a record of every file that its trials read and that is there now.

    A study in ``folder`` that an older version began has no records: its files are compared with the hashes in its
    provenance, and its trials stay the ones that it has.

    Raises:
        InputError: the study in ``folder`` began with other content.
    """
    if recipe is None:
        return study
    files = {key: _own_files(study, key, folder) for key in FILE_KEYS}
    content = {**files, **_shared_files(recipe, study)}
    content = {key: places for key, places in content.items() if places}
    base = {key: value for key, value in study.base.items() if key != CONTENT}
    stored = load_definition(folder).study if (folder / STUDY_JSON).exists() else None
    if stored is not None and CONTENT not in stored.base:
        _compare_with_provenance(folder, content)
        for key in [key for key in FILE_KEYS if key in content and key in stored.base]:
            base[key] = _place_of_before(stored.base[key], content.pop(key), base[key])
    return replace(study, base={**base, CONTENT: content} if content else base)


def _own_files(study: Study, key: str, folder: Path) -> dict[str, dict[str, Any]]:
    places = dict.fromkeys(trial.config.get(key) for trial in study.trials())
    found = {place: Path(place) for place in places if isinstance(place, str) and place and Path(place).is_file()}
    return {place: {**content_of(path), RELATIVE: relative_to(path, folder)} for place, path in found.items()}


def _shared_files(recipe: Recipe[Any], study: Study) -> dict[str, dict[str, dict[str, Any]]]:
    """Records of data sets and of models' folders, by what they are called; where they lie does not matter."""
    sets = {f"data set {name}": _set_files(name) for name in data_sets(recipe, study)}
    models = {f"model {name}": _model_files(path) for name, path in model_folders(recipe, study)}
    return {**sets, **models}


def _set_files(name: str) -> dict[str, dict[str, Any]]:
    paths = {f"{name}/{file.path}": data_folder(name) / file.path for file in DATASETS[name].files}
    return {shown: {**content_of(path), "name": shown} for shown, path in paths.items() if path.is_file()}


def _model_files(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: content_of(path) for path in sorted(folder.iterdir()) if path.is_file()}


def hashes_of(recipe: Recipe[Any], study: Study) -> dict[str, str]:
    """SHA-256 by file name of every data file that the trials read and that is there now, for the provenance."""
    own = [_own_files(study, key, Path()) for key in FILE_KEYS]
    files = [*own, *(_set_files(name) for name in data_sets(recipe, study))]
    return {record["name"]: record["sha256"] for places in files for record in places.values()}


def _compare_with_provenance(folder: Path, content: Mapping[str, Mapping[str, Any]]) -> None:
    recorded: dict[str, str] = {}
    for told in read_json_lines(folder / PROVENANCE_JSONL):
        recorded |= told.get("data_sha256") or {}
    _refuse_other_hashes(recorded, content)


def _refuse_other_hashes(recorded: Mapping[str, str], content: Mapping[str, Mapping[str, Any]]) -> None:
    for places in content.values():
        for place, record in places.items():
            before = recorded.get(record["name"], record["sha256"])
            if before != record["sha256"]:
                raise InputError(
                    f"{place} is not the file that the study's trials read: its SHA-256 is {record['sha256'][:12]}..., "
                    f"theirs {before[:12]}...; put the first file back, or use a new folder"
                )


def _place_of_before(stored: object, places: Mapping[str, Mapping[str, Any]], asked: object) -> object:
    """The location as an older version stored it, where the same file is there; else the one asked for."""
    record = places.get(asked) if isinstance(asked, str) else None
    here = isinstance(stored, str) and Path(stored).is_file()
    return stored if record is not None and here and same(record, content_of(Path(str(stored)))) else asked


def located(study: Study, folder: Path) -> Study:
    """A stored study with its files where they are now: where they were, or as far from the study's folder as then.

    Raises:
        InputError: a file is at neither place, or holds something else.
    """
    moved: dict[str, dict[str, str]] = {}
    for key, places in content_in(study.base).items():
        if key not in FILE_KEYS:
            continue
        for place, record in places.items():
            found = str(find(record, _candidates(place, record, folder), f"`{key}`"))
            if found != place:
                moved.setdefault(key, {})[place] = found
    if not moved:
        return study
    base, axes = dict(study.base), {key: list(values) for key, values in study.axes.items()}
    content = {key: dict(places) for key, places in content_in(base).items()}
    for key, found_at in moved.items():
        content[key] = {found_at.get(place, place): record for place, record in content[key].items()}
        base[key] = found_at.get(base.get(key, ""), base.get(key))
        if key in axes:
            axes[key] = [found_at.get(value, value) for value in axes[key]]
    return replace(study, base={**base, CONTENT: content}, axes=axes)


def _candidates(place: str, record: Mapping[str, Any], folder: Path) -> list[Path]:
    nearby = [Path(os.path.normpath(folder.absolute() / record[RELATIVE]))] if RELATIVE in record else []
    return [Path(place), *nearby]


def located_run(recipe: Recipe[Any], config: Mapping[str, Any], run_folder: Path) -> dict[str, Any]:
    """A finished run's configuration with its files where they are now.

    Raises:
        InputError: a file is not there, or is not what the run read; a data set neither.
    """
    folder, found = run_folder.absolute().parent.parent, dict(config)
    known: Mapping[str, Mapping[str, Any]] = {}
    if (folder / STUDY_JSON).is_file():
        known = content_in(load_definition(folder).study.base)
    for key, record in content_in(config).items():
        others = [(place, one) for place, one in known.get(key, {}).items() if same(one, record)]
        candidates = [path for place, one in others for path in _candidates(place, one, folder)]
        found[key] = str(find(record, [Path(config[key]), *candidates], f"`{key}`"))
    sets = {f"data set {name}": _set_files(name) for name in recipe.data_sets_of(config)}
    if known:
        refuse_other_content({CONTENT: known}, {CONTENT: sets}, ())
    own = {key: {str(config[key]): content_of(Path(config[key]))} for key in _unrecorded(config)}
    _refuse_other_hashes(_recorded_by(run_folder), {**sets, **own})
    return found


def _unrecorded(config: Mapping[str, Any]) -> Sequence[str]:
    named = [key for key in FILE_KEYS if key not in content_in(config) and isinstance(config.get(key), str)]
    return [key for key in named if Path(config[key]).is_file()]


def _recorded_by(run_folder: Path) -> Mapping[str, str]:
    """The hashes in a run's provenance; none where it has none."""
    try:
        told = read_json(run_folder / PROVENANCE_JSON) if (run_folder / PROVENANCE_JSON).exists() else {}
    except CorruptFile:
        return {}
    hashes = told.get("data_sha256") if isinstance(told, dict) else None
    return hashes if isinstance(hashes, dict) else {}
