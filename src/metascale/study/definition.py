"""``study.json``: what a study folder holds, and what the same folder may become.

The file lists every trial beside the design that made it, so a study may grow: the same name, trial function and base
with more axis values, seeds or extras. Numbers in a command mean the total; a command that asks for fewer trials than
the folder holds runs those and leaves the rest alone.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import metascale
from metascale.core.canonical import plain
from metascale.core.columns import STUDY_JSON, TUNING
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_json
from metascale.study.content import CONTENT, base_identity, merged_content, refuse_other_content
from metascale.study.design import TUNE_KEY, Study, Trial, build_trial, differing_keys
from metascale.study.roles import Roles
from metascale.study.store.once import once
from metascale.study.store.paths import check_label, refuse_exits
from metascale.study.store.seals import SEAL, read_sealed, sealed

FORMAT = 2
"""2: the file holds its own SHA-256. 1 did not."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A study as its folder has it: the design that last extended it, and every trial."""

    study: Study
    trials: tuple[Trial, ...]
    package_version: str = metascale.__version__

    def rebased(self, study: Study) -> Study:
        """``study`` with the number of search trials that this folder began with, where it asks for another one, and
        the ranges of its search in this folder's order.

        That number is in the base, and so in every id; a search that continues keeps the ids that it has. The order
        is in no id, but what is tried next depends on it.
        """
        base = _in_order(study.base, _space(self.study.base))
        study = study if base is study.base else replace(study, base=base)
        asked, first = _search_trials(study.base), _search_trials(self.study.base)
        if asked is None or first is None or asked == first:
            return study
        tune = {**study.base[TUNE_KEY], "trials": first}
        return replace(study, base={**study.base, TUNE_KEY: tune}, search_trials=asked)

    def extended(self, study: Study) -> Definition:
        """The definition after the command ``study``: the same object when it asks for nothing new.

        Raises:
            InputError: another name, trial function or base, or other data; the message names what differs.
        """
        ours, study = self.study, self.rebased(study)
        one, other = base_identity(ours.base), base_identity(study.base)
        differing = [f"base.{key}" for key in differing_keys(one, other)]
        differing += [field for field in ("name", "trial") if getattr(ours, field) != getattr(study, field)]
        if differing:
            raise InputError(
                f"the folder holds the study '{ours.name}' with another {', '.join(differing)}; "
                "a study may only grow in axis values, seeds, extras and trials of a search: "
                "use a new folder, or the same base"
            )
        refuse_other_content(ours.base, study.base, study.axes)
        roles, content = study.roles or ours.roles, merged_content(ours.base, study.base, study.axes)
        base = {**study.base, **({CONTENT: content} if content else {})}
        more = max(study.search_trials or 0, ours.search_trials or 0) or None
        study = study if study.search_trials == more else replace(study, search_trials=more)
        known = {trial.id: trial for trial in self.trials}
        asked = study.trials()
        moved = bool(differing_keys(ours.base, base))
        if all(trial.id in known for trial in asked) and not (moved and content.keys() & study.axes.keys()):
            if not moved:
                same = (roles, more) == (ours.roles, ours.search_trials)
                return self if same else replace(self, study=replace(ours, roles=roles, search_trials=more))
            trials = tuple(_at(trial, ours.trial, base) for trial in self.trials)
            return replace(self, study=replace(ours, base=base, roles=roles, search_trials=more), trials=trials)
        ids = {trial.id for trial in asked}
        # A trial keeps the label it was stored with: its folder bears it.
        kept = tuple(replace(trial, label=known[trial.id].label) if trial.id in known else trial for trial in asked)
        rest = tuple(_at(trial, ours.trial, base) if moved else trial for trial in self.trials if trial.id not in ids)
        return Definition(replace(study, base=base, roles=roles), kept + rest, self.package_version)


def _at(trial: Trial, function: str, base: Mapping[str, Any]) -> Trial:
    """A stored trial where the files of ``base`` lie now."""
    return build_trial(function, base, trial.axes, trial.seed, trial.kind, label=trial.label)


def _search_trials(base: Mapping[str, Any]) -> int | None:
    """The number of search trials in a study's base."""
    tune = base.get(TUNE_KEY)
    found = tune.get("trials") if isinstance(tune, Mapping) else None
    return found if isinstance(found, int) else None


def _space(base: Mapping[str, Any]) -> tuple[str, ...]:
    """The hyperparameters of the search in a study's base, in order."""
    tune = base.get(TUNE_KEY)
    space = tune.get("space") if isinstance(tune, Mapping) else None
    return tuple(space) if isinstance(space, Mapping) else ()


def _in_order(base: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """``base`` with the ranges of its search in the order of ``names``, where it has exactly these."""
    if [*names] == [*_space(base)] or {*names} != {*_space(base)}:
        return base
    tune = base[TUNE_KEY]
    return {**base, TUNE_KEY: {**tune, "space": {name: tune["space"][name] for name in names}}}


def _order_stored(stored: Mapping[str, Any]) -> Sequence[str]:
    """The order of the ranges in a ``study.json``, whose base is written with sorted keys; an earlier version left it
    in the trials of the search alone."""
    if "space" in stored:
        return [str(name) for name in stored["space"]]
    known = {*_space(stored["base"])}
    tried = [each["axes"] for each in stored["trials"] if each["kind"] == TUNING]
    return [str(key) for key, _ in tried[0] if key in known] if tried else ()


def save_definition(folder: Path, definition: Definition) -> None:
    """Write ``study.json`` atomically."""
    study = definition.study
    write_json(
        folder / STUDY_JSON,
        sealed(
            {
                "format": FORMAT,
                "package_version": definition.package_version,
                "name": study.name,
                "trial": study.trial,
                "base": study.base,
                # Pairs: JSON objects are written with sorted keys, and the order of axes is the order of trials.
                "axes": [[key, list(values)] for key, values in study.axes.items()],
                "seeds": list(study.seeds),
                "extra": [[[key, value] for key, value in extra.items()] for extra in study.extra],
                "trials": [_trial_to_json(trial) for trial in definition.trials],
                **({"space": list(space)} if len(space := _space(study.base)) > 1 else {}),
                **({} if study.roles is None else {"roles": study.roles.to_json()}),
                **({} if study.search_trials is None else {"search_trials": study.search_trials}),
            }
        ),
    )


def of_earlier_version(folder: Path) -> bool:
    """Whether a version wrote the study in ``folder`` that gave its files no hashes of their own."""
    return bool(read_json(folder / STUDY_JSON)["format"] < 2)


def load_definition(folder: Path) -> Definition:
    """Read ``study.json``.

    Raises:
        InputError: there is none, or a newer version of the package wrote it; or a link in the folder leads out of it.
        CorruptFile: it is not what was written, by its own hash (which format 1 did not have).
    """
    path = folder / STUDY_JSON
    once(("exits", folder), lambda: refuse_exits(folder))
    if not path.is_file():
        raise InputError(f"{folder} is not a study folder: it has no {STUDY_JSON}")
    state = path.stat()
    return _parsed(path, (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))


@functools.lru_cache(maxsize=2)
def _parsed(path: Path, signs: tuple[int, ...]) -> Definition:
    """What ``path`` holds, which is read once for as long as the file stays the same."""
    stored = read_json(path)
    if isinstance(stored, dict) and (SEAL in stored or stored.get("format") != 1):
        read_sealed(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise CorruptFile(f"{path} is not what was written: it has no format number")
    if stored["format"] > FORMAT:
        raise InputError(
            f"{path} has format {stored['format']}, written by metascale {stored.get('package_version')}; "
            f"this is metascale {metascale.__version__}, which reads formats up to {FORMAT}"
        )
    try:
        study = Study(
            name=stored["name"],
            trial=stored["trial"],
            base=_in_order(stored["base"], _order_stored(stored)),
            axes=dict(stored["axes"]),
            seeds=tuple(stored["seeds"]),
            extra=tuple(dict(extra) for extra in stored["extra"]),
            roles=Roles.from_json(stored["roles"]) if "roles" in stored else None,
            search_trials=stored.get("search_trials"),
        )
        known = {trial.id: trial for trial in study.trials()}
        trials = tuple(_trial_from_json(study, item, path, known) for item in stored["trials"])
        version = str(stored["package_version"])
    except KeyError as error:
        raise CorruptFile(f"{path} is not what was written: it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} is not what was written: {error}") from error
    return Definition(study, trials, version)


def _trial_to_json(trial: Trial) -> dict[str, Any]:
    axes = [[key, value] for key, value in trial.axes.items()]
    return {"id": trial.id, "label": trial.label, "kind": trial.kind, "seed": trial.seed, "axes": plain(axes)}


def _trial_from_json(study: Study, stored: dict[str, Any], path: Path, known: Mapping[str, Trial]) -> Trial:
    check_label(stored["label"], path)
    own = known.get(stored["id"])
    # As texts: 1, 1.0 and true are other values, with other ids.
    if own is not None and repr([own.seed, own.kind, own.axes]) == repr(
        [stored["seed"], stored["kind"], dict(stored["axes"])]
    ):
        return replace(own, label=stored["label"])
    trial = build_trial(
        study.trial, study.base, dict(stored["axes"]), stored["seed"], stored["kind"], label=stored["label"]
    )
    if trial.id != stored["id"]:
        raise CorruptFile(f"{path}: the configuration of trial '{stored['label']}' is not that of id {stored['id']}")
    return trial
