"""Which values to try next: a pure function of the search and of what was tried, with Optuna as the suggester.

Nothing of Optuna's is stored. An in-memory study is rebuilt from our own ended trials for every suggestion, and its
sampler's seed names the suggestion, so a search that was killed suggests the same values again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from metascale.core.canonical import canonical_json
from metascale.core.streams import address, generator
from metascale.study.search.space import Dimension

_ATTEMPTS = 16

TriedStatus = Literal["finished", "pruned", "diverged", "failed", "running"]


@dataclass(frozen=True, slots=True)
class Tried:
    """Values that a search tried.

    Args:
        values: by name.
        loss: the objective; ``None`` unless it finished, or was pruned (then the best loss it had).
        status: how its trial ended; ``"running"`` when it has not.
        curve: best loss so far by step, where the trial left one.
    """

    values: Mapping[str, Any]
    loss: float | None
    status: TriedStatus
    curve: tuple[tuple[float, float], ...] = ()


def suggest(
    space: Mapping[str, Dimension],
    tried: Sequence[Tried],
    *,
    n_startup: int,
    seed: int,
    purpose: str,
    first: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Values for trial number ``len(tried)``; ``None`` when a finite space has no untried values left.

    The first ``n_startup`` are a shifted Halton sequence over the ranges, the others come from Optuna's
    tree-structured Parzen estimator (Bergstra et al. 2011, multivariate): a loss counts as it is, whatever was pruned,
    diverged or failed as worse than all of them, and what still runs keeps others away.

    Args:
        first: values of trial 0 (the defaults), where they lie in the space.
        seed, purpose: with the trial's number the address of everything random.
    """
    known = {canonical_json(one.values) for one in tried}
    number = len(tried)
    if number == 0 and first is not None and all(space[name].holds(first.get(name)) for name in space):
        return {name: first[name] for name in space}
    for attempt in range(_ATTEMPTS):
        if number < n_startup:
            found = _halton(space, number + attempt * n_startup, seed, purpose)
        else:
            found = _estimated(space, tried, address(seed, purpose, number, attempt) % 2**32)
        if canonical_json(found) not in known:
            return found
    return _untried(space, known, seed, purpose)


def _halton(space: Mapping[str, Dimension], place: int, seed: int, purpose: str) -> dict[str, Any]:
    """Point ``place`` of a Halton sequence (radical inverses in prime bases), shifted at random around the torus."""
    shifts = generator(seed, purpose, "startup").random(len(space))
    shares = [(_radical_inverse(place + 1, base) + shift) % 1.0 for base, shift in zip(_primes(), shifts, strict=False)]
    return {name: dimension.at(share) for (name, dimension), share in zip(space.items(), shares, strict=True)}


def _radical_inverse(number: int, base: int) -> float:
    """The digits of ``number`` mirrored at the point: 1, 2, 3 in base 2 are 1/2, 1/4, 3/4."""
    found, weight = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        found += digit * weight
        weight /= base
    return found


def _primes() -> Iterator[int]:
    return (number for number in itertools.count(2) if all(number % other for other in range(2, number)))


def _estimated(space: Mapping[str, Dimension], tried: Sequence[Tried], seed: int) -> dict[str, Any]:
    import optuna

    states = optuna.trial.TrialState
    distributions = {name: dimension.distribution() for name, dimension in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=sampler)
        for one in tried:
            finished = one.status == "finished" and one.loss is not None
            running = one.status == "running"
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(one.values),
                    distributions=distributions,
                    # Pruned without intermediate values is the worst that the estimator knows.
                    state=states.COMPLETE if finished else states.RUNNING if running else states.PRUNED,
                    value=one.loss if finished else None,
                )
            )
        asked = study.ask(fixed_distributions=distributions)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: asked.params[name] for name in space}


def _untried(space: Mapping[str, Dimension], known: set[str], seed: int, purpose: str) -> dict[str, Any] | None:
    """An untried point of a finite space, drawn at random; ``None`` when there is none."""
    lists = [dimension.values for dimension in space.values()]
    finite = [values for values in lists if values is not None]
    if len(finite) < len(lists) or math.prod(len(values) for values in finite) > 100_000:
        return None
    points = [dict(zip(space, values, strict=True)) for values in itertools.product(*finite)]
    left = [point for point in points if canonical_json(point) not in known]
    if not left:
        return None
    return left[int(generator(seed, purpose, "untried", len(known)).integers(len(left)))]
