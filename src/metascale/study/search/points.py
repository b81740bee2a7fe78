"""Which points of a study's axes a search visits, and how large the configuration at a point is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metascale.core.canonical import canonical_json
from metascale.core.errors import InputError
from metascale.study.design import Study, load_function, merge

if TYPE_CHECKING:
    from metascale.study.search.search import Search


def axis_points(study: Study) -> list[dict[str, Any]]:
    """Every combination of the axes' values, the first axis slowest."""
    return [dict(zip(study.axes, values, strict=True)) for values in itertools.product(*study.axes.values())]


def searched_points(study: Study, search: Search) -> list[dict[str, Any]]:
    """The points of the axes that a search visits.

    Raises:
        InputError: a key of the space is an axis, or the strategy needs a size that no axis gives; or a rule is
            asked for over sizes that are not above 0.
    """
    for name in search.space:
        if name in study.axes:
            raise InputError(f"'{name}' is an axis of study '{study.name}': it cannot be tuned as well")
    points = axis_points(study)
    if search.strategy == "each":
        return points
    along = size_axes(study, search)
    if search.strategy == "rule" and not search.measured:
        for size in study.axes[str(search.size)]:
            if not size > 0:
                raise InputError(f"a rule over sizes needs numbers above 0; axis '{search.size}' has {size!r}")
    n_wanted = 1 if search.strategy == "smallest" else search.rule_points
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(point_key(without(point, along)), []).append(point)
    chosen: list[str] = []
    for members in groups.values():
        sizes = {size_at(study, search, point): point for point in reversed(members)}  # the first of equal sizes
        if len(sizes) < n_wanted:
            what = f"'{search.size}'" if search.measured else f"axis '{search.size}'"
            raise InputError(f"a rule over {n_wanted} sizes needs as many; {what} has {len(sizes)}")
        spread = _spread(sizes, n_wanted) if search.measured else sorted(sizes)[:n_wanted]
        chosen += [point_key(sizes[size]) for size in spread]
    return [point for point in points if point_key(point) in chosen]


def size_axes(study: Study, search: Search) -> tuple[str, ...]:
    """The axes that change the size: the size itself, or those that a measured size stands for.

    Raises:
        InputError: there is no such axis, or its values are no numbers.
    """
    along = tuple(search.along) if search.measured else tuple(filter(None, (search.size,)))
    for axis in along:
        values = study.axes.get(axis, ())
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)
        if not values or not (numbers or search.measured):
            along = ()
    if not along:
        what = "'along': the axes that its size stands for" if search.measured else "'size': an axis with numbers"
        raise InputError(f"strategy '{search.strategy}' needs {what}; the axes are {list(study.axes)}")
    return along


def size_at(study: Study, search: Search, point: Mapping[str, Any]) -> float:
    """The size at a point of the axes: the value of the axis, or what the function of the configuration says.

    Raises:
        InputError: the function is not there, or returns no number above 0.
    """
    if not search.measured:
        return float(point[str(search.size)])
    try:
        measure: Any = load_function(str(search.size))
    except ModuleNotFoundError as error:
        raise InputError(f"the size '{search.size}' of a search: there is no module '{error.name}'") from error
    size = measure(merge(study.base, point))
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not size > 0:
        raise InputError(f"'{search.size}' returned {size!r} for {dict(point)}: a size is a number above 0")
    return float(size)


def without(point: Mapping[str, Any], axes: Sequence[str]) -> dict[str, Any]:
    """A point without some of its axes."""
    return {name: value for name, value in point.items() if name not in axes}


def _spread(sizes: Iterable[float], count: int) -> list[float]:
    """``count`` different sizes, each the nearest to one of as many places spread evenly over the smaller half."""
    left = sorted(sizes)
    low, high = math.log(left[0]), math.log(left[-1])
    found = []
    for place in range(count):
        target = low + (high - low) / 2 * place / max(1, count - 1)
        nearest = min(left, key=lambda size: abs(math.log(size) - target))
        left.remove(nearest)
        found.append(nearest)
    return sorted(found)


def point_key(point: Mapping[str, Any]) -> str:
    """One text for one point."""
    return canonical_json(point)
