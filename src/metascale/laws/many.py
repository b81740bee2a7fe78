"""Many tables fitted at once: side by side, so that what all of them want solved at a time is one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from metascale.core.errors import MetascaleError
from metascale.laws.analysis import Analysis, fit
from metascale.laws.scales import ScalesAnalysis
from metascale.laws.solving import together
from metascale.laws.surface_fit import SurfaceAnalysis
from metascale.laws.table import naming

SIDE_BY_SIDE = 250  # tables; their resamples take some 2 MB each
Law = Analysis | SurfaceAnalysis | ScalesAnalysis
Arguments = Mapping[str, Any]


def fit_each(jobs: Mapping[str, Arguments]) -> dict[str, Law]:
    """`metascale.laws.analysis.fit` of every table by its name, with the same numbers as one after another.

    Args:
        jobs: the arguments of each fit.

    Raises:
        InputError: a table cannot be fitted; the message names it.
    """
    found: dict[str, Law] = {}
    for names in _parts(list(jobs)):
        laws = together(fit.steps(**jobs[name]) for name in names)
        found.update({name: _named(name, law, len(jobs)) for name, law in zip(names, laws, strict=True)})
    return found


def _parts(names: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), SIDE_BY_SIDE):
        yield names[first : first + SIDE_BY_SIDE]


def _named(name: str, law: Law | MetascaleError, n: int) -> Law:
    if isinstance(law, MetascaleError):
        with naming(name if n > 1 else ""):
            raise law
    return law
