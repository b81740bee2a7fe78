"""A study's design: a base configuration, axes, seeds and extra configurations become trials with content ids."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from metascale.core.canonical import canonical_json, content_id, plain
from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.study.content import content_in, identity, of_trial
from metascale.study.roles import Roles

TrialFunction: TypeAlias = Callable[[dict[str, Any], Run, str], Mapping[str, Any]]
"""``fn(config, run, device) -> result row``. The row holds JSON values; its scalars become columns of the table."""

TUNE_KEY = "tune"
"""The key of a study's base that holds a search."""
RESERVED = ("seed", "trial")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LABEL_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a study.

    Args:
        id: the content id of ``config``, where a file counts by what it holds (`metascale.study.content`).
        label: a readable name made of what this trial varies.
        kind: ``config["kind"]`` where it is a string, else ``"trial"`` (on the axes) or ``"extra"``.
        seed: ``config["seed"]``.
        axes: what this trial sets over the base, by dotted key.
        config: everything that determines the trial, with ``"seed"`` and the trial function's path as ``"trial"``.
    """

    id: str
    label: str
    kind: str
    seed: int
    axes: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def folder_name(self) -> str:
        return f"{self.label}-{self.id}"


@dataclass(frozen=True, slots=True)
class Study:
    """Axes × seeds over a base configuration, and extra configurations beside them.

    Args:
        name: what the study is called.
        trial: import path ``"module:function"`` of a `TrialFunction`.
        base: the configuration that every trial starts from.
        axes: values by key; a dotted key reaches into nested mappings. The first axis varies slowest, seeds fastest.
        seeds: one trial per seed and point.
        extra: overrides of the base (baselines), one mapping each, after the axes; the key ``"seeds"`` replaces the
            study's seeds for that one. A nested mapping is merged, anything else replaces.
        roles: what the axes are and what is read off the results; no part of a trial's identity. Default: the first
            axis of numbers is the scale and every other axis a series.
        search_trials: the trials of a search that was asked for more than its base says, since it began. The base, and
            with it every id, stays as it was. Default: what the base says.

    Raises:
        InputError: a malformed path, an empty axis, a reserved or conflicting key, or two equal trials.
    """

    name: str
    trial: str
    base: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    extra: Sequence[Mapping[str, Any]] = ()
    roles: Roles | None = None
    search_trials: int | None = None
    _trials: tuple[Trial, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.trial):
            raise InputError(f"the trial function of a study is an import path 'module:function', not '{self.trial}'")
        for where, keys in (("base", self.base), ("axes", self.axes), *(("extra", extra) for extra in self.extra)):
            for key in keys:
                if key in RESERVED:
                    raise InputError(f"'{key}' in a study's {where} is set by the study itself; use another key")
        for key, values in self.axes.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
                raise InputError(f"axis '{key}' of study '{self.name}' needs a list of at least one value")
        _check_seeds(self.seeds, f"study '{self.name}'")
        if self.roles is not None:
            object.__setattr__(self, "roles", self.roles.completed(self.axes))
        object.__setattr__(self, "_trials", self._make_trials())

    @property
    def asked_base(self) -> Mapping[str, Any]:
        """The base with the number of search trials that is asked for now."""
        if self.search_trials is None or TUNE_KEY not in self.base:
            return self.base
        return {**self.base, TUNE_KEY: {**self.base[TUNE_KEY], "trials": self.search_trials}}

    def trials(self) -> tuple[Trial, ...]:
        """Every trial, in the order given: axes (first slowest), then seeds, then the extras."""
        return self._trials

    def _make_trials(self) -> tuple[Trial, ...]:
        points = [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]
        # With no axes and some extras the extras are the study; with neither, the base alone is.
        designs = [(point, self.seeds, "trial") for point in points if point or not self.extra]
        for extra in self.extra:
            overrides = {key: value for key, value in extra.items() if key != "seeds"}
            seeds = extra.get("seeds", self.seeds)
            _check_seeds(seeds, f"an extra configuration of study '{self.name}'")
            designs.append((overrides, seeds, "extra"))
        found: dict[str, Trial] = {}
        for overrides, seeds, kind in designs:
            for seed in seeds:
                trial = build_trial(self.trial, self.base, overrides, int(seed), kind)
                if trial.id in found:
                    first = found[trial.id].label
                    raise InputError(
                        f"study '{self.name}' asks twice for the same configuration: '{first}' and '{trial.label}'"
                    )
                found[trial.id] = trial
        return tuple(found.values())


def build_trial(
    function: str, base: Mapping[str, Any], overrides: Mapping[str, Any], seed: int, kind: str, label: str = ""
) -> Trial:
    """The trial that ``overrides`` and ``seed`` make of ``base``."""
    overrides = plain(overrides)
    config = of_trial({**merge(base, overrides), "seed": seed, "trial": function})
    named, files = config.get("kind"), content_in(config)
    shown = {key: files[key]["name"] if key in files else value for key, value in overrides.items()}
    return Trial(
        id=content_id(identity(config)),
        label=label or _label(shown, seed),
        kind=named if isinstance(named, str) else kind,
        seed=seed,
        axes=overrides,
        config=config,
    )


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A new configuration: ``base`` with ``overrides`` set. Dotted keys reach inside, nested mappings are merged.

    Raises:
        InputError: a dotted key goes through a value that is not a mapping.
    """
    merged: dict[str, Any] = plain(base)
    for key, value in overrides.items():
        *parents, last = key.split(".")
        place = merged
        for depth, parent in enumerate(parents, start=1):
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise InputError(f"the key '{key}' goes through '{'.'.join(parents[:depth])}', which is a single value")
        value = plain(value)
        old = place.get(last)
        place[last] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def differing_keys(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Dotted keys at which two configurations differ, sorted."""
    one, two = flatten(left), flatten(right)
    return sorted(
        key
        for key in one.keys() | two.keys()
        if key not in one or key not in two or canonical_json(one[key]) != canonical_json(two[key])
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def load_function(path: str) -> TrialFunction:
    """The function at the import path ``"module:function"``.

    Raises:
        InputError: the module has no such function.
    """
    module_name, _, name = path.partition(":")
    function: TrialFunction | None = getattr(importlib.import_module(module_name), name, None)
    if not callable(function):
        raise InputError(f"the module '{module_name}' has no function '{name}'")
    return function


def _check_seeds(seeds: Any, where: str) -> None:
    whole = isinstance(seeds, Sequence) and not isinstance(seeds, (str, bytes)) and len(seeds) > 0
    if not whole or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise InputError(f"the seeds of {where} are a list of at least one integer of 0 or more, not {seeds!r}")


def _label(overrides: Mapping[str, Any], seed: int) -> str:
    parts = []
    for key, value in flatten(overrides).items():
        text = value if isinstance(value, str) else canonical_json(value)
        parts.append(f"{key.rsplit('.', 1)[-1]}={text}")
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "-".join(parts))[:LABEL_LENGTH]
    return f"{name}-seed={seed}" if name else f"seed={seed}"
