"""Users' own Optuna samplers in a search: by name, by import path, or as objects.

Nothing of a sampler is stored. Before every suggestion a fresh one is made and the whole search is played to it again,
in the order in which it happened: asked, told, asked. A sampler that repeats itself therefore goes on after a kill
exactly where it was, whatever it remembers; one that does not is refused by name, with what to do.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metascale.core.canonical import canonical_json
from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.streams import address
from metascale.core.suggest import suggest
from metascale.study.design import load_function

if TYPE_CHECKING:
    from metascale.study.search.search import Search, Tried

AN_OBJECT = "object "
"""How a stored search says that its sampler was an object: ``"object package.module.Class"``."""
_ATTEMPTS = 16
_OBJECTS: dict[str, Any] = {}


def named(given: object) -> str | dict[str, Any]:
    """A sampler as a study's definition holds it; an object is kept in this process, by its class.

    Raises:
        InputError: no name, no ``{name: options}`` and no sampler of Optuna.
    """
    if isinstance(given, str) and given:
        return given
    if isinstance(given, Mapping) and len(given) == 1 and isinstance(next(iter(given.values())), Mapping):
        return {str(name): dict(options) for name, options in given.items()}
    if not callable(getattr(given, "sample_relative", None)):
        raise InputError(
            "the sampler of a search is a name of optuna.samplers, {name: options}, an import path module:function, or "
            f"a sampler of Optuna, not {given!r}",
            field="sampler",
        )
    kind = type(given)
    name = f"{AN_OBJECT}{kind.__module__}.{kind.__qualname__}"
    _OBJECTS[name] = copy.deepcopy(given)
    return name


def build(sampler: str | Mapping[str, Any], seed: int) -> Any:
    """A fresh sampler; one that takes a seed and was given none gets ``seed``.

    Raises:
        InputError: there is none of that name, options that it does not take, or an object that this process lacks.
    """
    name, options = (sampler, {}) if isinstance(sampler, str) else next(iter(sampler.items()))
    if name.startswith(AN_OBJECT):
        if name not in _OBJECTS:
            raise InputError(
                f"this search was begun from Python with a sampler of the class {name.removeprefix(AN_OBJECT)}, and an "
                "object is not stored: resume it from Python with the same sampler, or name one by its import path",
                field="sampler",
            )
        return copy.deepcopy(_OBJECTS[name])
    try:
        make: Any = load_function(name) if ":" in name else _of_optuna(name)
    except ModuleNotFoundError as error:
        raise InputError(f"the sampler '{name}' of a search: there is no module '{error.name}'") from error
    takes = inspect.signature(make).parameters
    if "seed" in takes and "seed" not in options:
        options = {**options, "seed": seed}
    try:
        with warnings.catch_warnings():
            # Optuna calls many of its samplers experimental; whoever names one has chosen it.
            warnings.filterwarnings("ignore", r"[\s\S]*is experimental", Warning)
            found = make(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"the sampler '{name}' of a search cannot be made: {error}", field="sampler") from error
    if not callable(getattr(found, "sample_relative", None)):
        raise InputError(f"'{name}' made a {type(found).__name__}, which is no sampler of Optuna", field="sampler")
    return found


def _of_optuna(name: str) -> Any:
    samplers = require("optuna.samplers", "tune", "a sampler of a search")
    known = [one for one in samplers.__all__ if one.endswith("Sampler") and one != "BaseSampler"]
    if name not in known:
        raise InputError(f"there is no sampler '{name}'; {suggest(name, known)}", field="sampler", value=name)
    return getattr(samplers, name)


def suggestion(
    search: Search, tried: Sequence[Tried], purpose: str, default: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Values for trial number ``len(tried)`` by the search's own sampler; ``None`` when it only repeats itself.

    Trial 0 tries the defaults where they lie in the space. Finished trials are told their loss, pruned ones the best
    they had, and diverged and failed ones that they failed.

    Raises:
        InputError: the sampler does not suggest again what it suggested before.
    """
    optuna = require("optuna", "tune", "a sampler of a search")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = build(search.sampler, address(search.seed, purpose, "sampler", 0) % 2**32)
        study = optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner())
        return _played(optuna, study, search, tried, default)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _played(
    optuna: Any, study: Any, search: Search, tried: Sequence[Tried], default: Mapping[str, Any]
) -> dict[str, Any] | None:
    space, known, asked = search.space, set[str](), list[Any]()
    distributions = {name: dimension.distribution(optuna) for name, dimension in space.items()}
    if all(space[name].holds(default.get(name)) for name in space):
        study.enqueue_trial({name: default[name] for name in space})
    for number in range(len(tried) + 1):
        if number % search.together == 0:
            for trial, one in zip(asked, tried[number - len(asked) : number], strict=True):
                _tell(optuna, study, trial, one)
            asked = []
        for _ in range(_ATTEMPTS):
            trial = study.ask(fixed_distributions=distributions)
            values = {name: trial.params[name] for name in space}
            if canonical_json(values) not in known:
                break
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            return None
        if number == len(tried):
            return values
        if canonical_json(values) != canonical_json(tried[number].values):
            raise InputError(
                f"the sampler {search.sampler!r} does not suggest again what it suggested before (trial {number}: "
                f"{values}, not {dict(tried[number].values)}): give it a seed, and the same version of Optuna",
                field="sampler",
            )
        known.add(canonical_json(values))
        asked.append(trial)
    return None


def _tell(optuna: Any, study: Any, trial: Any, one: Tried) -> None:
    states = optuna.trial.TrialState
    if one.status == "finished" and one.loss is not None:
        study.tell(trial, one.loss)
    elif one.status == "pruned" and one.loss is not None:
        trial.report(one.loss, max(1, len(one.curve)))
        study.tell(trial, state=states.PRUNED)
    else:
        study.tell(trial, state=states.FAIL)
