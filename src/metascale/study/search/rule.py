"""From the values tuned at some sizes to the values at all of them: the same, the smallest's, or a rule's.

The rule of a hyperparameter depends on its range: a power law of the size where the range is logarithmic, a straight
line in the logarithm of the size where it is uniform, both kept within the range (whose ends are known to be allowed),
and the value found at the largest searched size where it is a whole number or a choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metascale.core.errors import InputError
from metascale.study.design import Study
from metascale.study.search.points import point_key, size_at, size_axes, without
from metascale.study.search.search import Search, Tuned
from metascale.study.search.space import Dimension, LogUniform, Uniform


@dataclass(frozen=True, slots=True)
class Rule:
    """value = coefficient · size^exponent."""

    coefficient: float
    exponent: float

    def at(self, size: float) -> float:
        """The value at ``size``."""
        return float(self.coefficient * size**self.exponent)


def fit_rule(sizes: Sequence[float], values: Sequence[float]) -> Rule:
    """Least squares in logarithms: through two sizes exactly, through more as a compromise.

    Raises:
        InputError: fewer than two sizes, or a number that is not positive.
    """
    if len(set(sizes)) < 2 or len(sizes) != len(values):
        raise InputError(f"a rule of value against size needs two sizes or more, each with a value; got {list(sizes)}")
    if min(*sizes, *values) <= 0:
        raise InputError(f"a rule of value against size needs positive numbers; got {list(sizes)} and {list(values)}")
    intercept, slope = _line([math.log(one) for one in sizes], [math.log(one) for one in values])
    return Rule(math.exp(intercept), slope)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of least squares."""
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope /= math.fsum((a - mean_x) ** 2 for a in x)
    return mean_y - slope * mean_x, slope


def values_at(study: Study, search: Search, tuned: Sequence[Tuned], point: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters at ``point``, as the search's strategy says."""
    if search.strategy == "each":
        return dict(next(one for one in tuned if point_key(one.point) == point_key(point)).values)
    along = size_axes(study, search)
    others = without(point, along)
    near = sorted(
        ((size_at(study, search, one.point), one) for one in tuned if without(one.point, along) == others),
        key=lambda pair: pair[0],
    )
    if search.strategy == "smallest":
        return dict(near[0][1].values)
    sizes, size = [size for size, _ in near], size_at(study, search, point)
    return {
        name: _ruled(dimension, sizes, [one.values[name] for _, one in near], size)
        for name, dimension in search.space.items()
    }


def _ruled(dimension: Dimension, sizes: Sequence[float], values: Sequence[Any], size: float) -> Any:
    """The value of one hyperparameter at ``size``, from those found at ``sizes`` (ascending)."""
    if isinstance(dimension, LogUniform):
        ruled = fit_rule(sizes, [float(value) for value in values]).at(size)
        return min(dimension.high, max(dimension.low, ruled))
    if isinstance(dimension, Uniform):
        intercept, slope = _line([math.log(one) for one in sizes], [float(value) for value in values])
        return min(dimension.high, max(dimension.low, intercept + slope * math.log(size)))
    return values[-1]
