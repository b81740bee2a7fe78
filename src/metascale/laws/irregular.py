"""Every configuration predicted from all others; one outside its interval is irregular."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import fit_law
from metascale.laws.held_out import Prediction, Replicates
from metascale.laws.objective import LogHuber
from metascale.laws.observations import observe
from metascale.laws.uncertainty import bootstrap

RESAMPLES = 200
FEWEST_REGULAR = 5
"""Configurations that must be left for another pass."""
MOST_PASSES = 5
FAR = 1.3
"""A configuration further off than so many reaches of its interval is left out when the others are judged."""


def leave_one_out(points: Sequence[Replicates], law: str, level: float = 0.95) -> dict[int, Prediction]:
    """What the law fitted to all other configurations predicts for the mean of each one's runs, by place in ``points``.

    Irregular configurations widen each other's intervals and so hide each other: those far outside are left out of the
    tables of another pass, until there are no more. The plain power law stands in where the others are too few for
    ``law``; where they are too few even for it, the configuration has no prediction.
    """
    rows = [(place, point.x, loss) for place, point in enumerate(points) for loss in point.losses]
    if law not in ONE_AXIS or len(rows) < 4:
        return {}
    key = tuple(sorted(rows, key=lambda row: (row[1], row[0])))
    odd: frozenset[int] = frozenset()
    for _ in range(MOST_PASSES):
        found = _left_out(key, law, level, odd)
        further = odd | {place for place, band in found if _far_outside(band, points[place].mean)}
        if further == odd or len(points) - len(further) < FEWEST_REGULAR:
            break
        odd = further
    return dict(found)


def _far_outside(band: Prediction, mean: float) -> bool:
    """Off by more than `FAR` times the reach of its interval on that side: more than chance brings to most tables."""
    assert band.low is not None
    assert band.high is not None
    reach = math.log(band.high / band.predicted) if mean > band.predicted else math.log(band.predicted / band.low)
    return abs(math.log(mean / band.predicted)) > FAR * reach


@lru_cache(maxsize=16)
def _left_out(
    rows: tuple[tuple[int, float, float], ...], law: str, level: float, odd: frozenset[int]
) -> tuple[tuple[int, Prediction], ...]:
    """Cached, since a report asks for its page, its pictures and its summary."""
    found = []
    for place in sorted({row[0] for row in rows}):
        rest = [row for row in rows if row[0] != place and row[0] not in odd]
        here = [row for row in rows if row[0] == place]
        n_scales = len({row[1] for row in rest})
        chosen = next((name for name in (law, "power") if n_scales >= ONE_AXIS[name].n_parameters + 1), None)
        if chosen is None:
            continue
        fit = fit_law(ONE_AXIS[chosen], observe([row[1] for row in rest], [row[2] for row in rest]), LogHuber(1e-3))
        sample = bootstrap(fit, RESAMPLES, seed=0)
        found.append((place, Prediction.of(sample, here[0][1], level, len(here), stream=303)))
    return tuple(found)
