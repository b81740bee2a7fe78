"""What the axes of a study are, and what is read off its results. No part of a trial's identity.

A *scale* is what a law is fitted along, a *series* is compared (each of its values has its own law, floor and
baselines), and of a *best-of* axis every point keeps its best value. No axis is ever pooled as if it were seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from metascale.core.columns import TEST_LOSS
from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.core.units import finite

Better: TypeAlias = Literal["lower", "higher"]
MAX_SCALES = 3
Axes: TypeAlias = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of a study's axes and the meaning of its loss, as study.json holds them.

    An axis without a role is a series; where a scale is a measured column, such axes are what it stands for.

    Args:
        scales: up to three columns that the law runs along: axes, or columns of the results that stand for axes (a
            measured parameter count); with two or three of them the law is L(N, D).
        series: axes with a law for each of their values.
        best_of: axes of which the best value counts, at every point of the others.
        crossed: axes that change what a baseline does, so that baselines run at each of their values.
        loss: the column that the law is fitted to; empty: the only one that can be meant.
        units: of the loss; empty: what its name says.
        better: whether a lower or a higher loss is better.
    """

    scales: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    best_of: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    loss: str = ""
    units: str = ""
    better: Better = "lower"

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher"):
            raise InputError(f"`better` is lower or higher, not '{self.better}'", field="better", value=self.better)

    def completed(self, axes: Axes) -> Roles:
        """With the axes that have no role among the series, unless a measured scale stands for them.

        Raises:
            InputError: a series or best-of axis that is none.
        """
        for role, given in (("series", self.series), ("best_of", self.best_of)):
            for name in given:
                _require_axis(role, name, axes)
        if not self.scales or any(name not in axes for name in self.scales):
            return self
        left = [name for name in axes if name not in (*self.scales, *self.series, *self.best_of)]
        return replace(self, series=(*self.series, *left)) if left else self

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Roles:
        several = {key: tuple(stored[key]) for key in ("scales", "series", "best_of", "crossed")}
        return cls(**several, loss=stored["loss"], units=stored["units"], better=stored["better"])

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Reading:
    """How a study's results are read: what its axes are and, for an own function or program, what its loss is.

    Args:
        scale: what the law runs along, up to three: axes, or columns of the results that stand for axes.
        series: axes whose values are compared, each with its own law.
        best_of: axes of which the best value counts.
        loss, units, better: the column of the loss, its unit, and whether lower or higher is better.
    """

    scale: Sequence[str] = ()
    series: Sequence[str] = ()
    best_of: Sequence[str] = ()
    loss: str = ""
    units: str = ""
    better: Better = "lower"


def assign(
    axes: Axes,
    *,
    scale: Sequence[str] | str = (),
    series: Sequence[str] | str = (),
    best_of: Sequence[str] | str = (),
    stands_for: Mapping[str, str] | None = None,
    crossed: Sequence[str] = (),
    loss: str = TEST_LOSS,
    units: str = "",
    better: Better = "lower",
) -> Roles:
    """Every axis with its role: those named, then the first axis of numbers as the scale, and the rest as series.

    A scale that is no axis is a column of the results; it stands for the axes that ``stands_for`` gives it, else for
    every axis of numbers that has no other role.

    Args:
        stands_for: column of the results that is the scale in the place of an axis, by axis.

    Raises:
        InputError: a name that is no axis or is named twice, or a scale whose values are no numbers.
    """
    named = {"scale": names(scale), "series": names(series), "best_of": names(best_of)}
    columns = stands_for or {}
    for role, given in named.items():
        for name in given:
            if role != "scale" or name not in columns.values():
                _require_axis(role, name, axes)
    everything = [name for given in named.values() for name in given]
    for name in everything:
        if everything.count(name) > 1:
            raise InputError(f"'{name}' is named twice: an axis is a scale, a series or best-of", value=name)
    taken = (*named["series"], *named["best_of"])
    free = [name for name in axes if name not in taken and is_scale(axes[name])]
    scales = named["scale"] or tuple(columns.get(name, name) for name in free[:1])
    if len(scales) > MAX_SCALES:
        raise InputError(f"a law has at most {MAX_SCALES} scales, not {', '.join(scales)}", field="scale", value=scales)
    measured = [name for name in scales if name not in axes]
    behind = [name for name in axes if name not in scales and columns.get(name) in measured]
    if measured and not behind:
        behind = [name for name in free if name not in scales]
    rest = [name for name in axes if name not in (*scales, *named["best_of"], *behind)]
    rest += [name for name in named["series"] if name not in rest]
    return Roles(
        scales=tuple(scales),
        series=tuple(name for name in axes if name in rest),
        best_of=named["best_of"],
        crossed=tuple(name for name in axes if name in crossed and name not in named["best_of"]),
        loss=loss,
        units=units,
        better=better,
    )


def is_scale(values: Sequence[Any]) -> bool:
    """Whether an axis has at least two values, all of them numbers; a number may be written as text."""
    return len(values) > 1 and None not in map(finite, values)


def loss_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The column of the results that must be the loss: a known name, the only one named so, the only number; else "".

    Args:
        columns: of a results table, those of the design first.
    """
    own = columns[columns.index("message") + 1 :] if "message" in columns else columns
    numbers = [name for name in own if any(finite(row.get(name)) is not None for row in rows)]
    for known in (TEST_LOSS, "test_loss", "loss"):
        if known in numbers:
            return known
    named = [name for name in numbers if "loss" in name and not name.startswith(("train", "val"))]
    candidates = named or numbers
    return candidates[0] if len(candidates) == 1 else ""


def names(given: Sequence[str] | str) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (given,) if isinstance(given, str) else tuple(given)


def _require_axis(role: str, name: str, axes: Axes) -> None:
    """Refuse a name that is no axis; a scale may be a column of the results, unless it is nearly an axis."""
    hint = suggest(name, tuple(axes), "the axes are")
    if name not in axes and (role != "scale" or hint.startswith("did you")):
        raise InputError(f"there is no axis '{name}'; {hint}", field=role, value=name)
    if role == "scale" and name in axes and None in map(finite, axes[name]):
        raise InputError(f"axis '{name}' has values that are no numbers: it can be a series, not a scale", field=role)
