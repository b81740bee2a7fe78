"""The law of the smaller configurations, asked for the larger ones: inside its prediction interval or not, in numbers.

For studies that grow in several ways at once, so that a measured size is the scale: the configurations of the largest
quarter are hidden, the power law with irreducible loss is fitted to the rest, and each hidden one is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from metascale.laws.baselines import last_value, tail_line
from metascale.laws.families import ONE_AXIS
from metascale.laws.fit import fit_law
from metascale.laws.forecast import forecast_table
from metascale.laws.objective import LogHuber
from metascale.laws.observations import Observations, observe
from metascale.laws.uncertainty import Bootstrap, bootstrap
from metascale.report.frame import finish, log_label, log_x_ticks, log_y_ticks, nothing, pad_y
from metascale.report.points import Point, points_of
from metascale.report.reading import (
    StudyFolder,
    axis_label,
    axis_values,
    finite,
    loss_column,
    read_study,
    unit_of,
    x_column,
)
from metascale.report.style import ORANGE, PAPER, SERIES, SOFT, tip
from metascale.report.words import decimals, interval, number

SHARE = 0.25
LAW = "power_irreducible"
FORECAST = "forecast"
FEWEST_SEEN = 5
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one predictor says of a hidden point: the middle, and its interval where it has one."""

    predicted: float
    low: float | None = None
    high: float | None = None

    def holds(self, observed: float) -> bool | None:
        """Whether the interval holds what was measured; ``None`` without an interval."""
        return None if self.low is None or self.high is None else self.low <= observed <= self.high


@dataclass(frozen=True, slots=True)
class Hidden:
    """A hidden point, measured (geometric mean over its runs) and predicted by every predictor."""

    point: Point
    predictions: Mapping[str, Prediction]


@dataclass(frozen=True, slots=True)
class HeldOutShapes:
    """One series: the points that the law saw, those hidden from it, its parameters, and its curve and band.

    ``parameters``: estimate, low and high of each, from the seen points alone.
    """

    series: str
    seen: tuple[Point, ...]
    hidden: tuple[Hidden, ...]
    level: float
    parameters: Mapping[str, Mapping[str, float]]
    curve: tuple[tuple[float, float, float, float], ...]

    def rmse_log(self, predictor: str) -> float:
        """Root mean square of ln(predicted / measured) over the hidden points."""
        errors = [math.log(one.predictions[predictor].predicted / one.point.mean) for one in self.hidden]
        return math.sqrt(math.fsum(error**2 for error in errors) / len(errors))

    def n_inside(self, predictor: str) -> int | None:
        """Hidden points inside the predictor's interval; ``None`` where it has none."""
        held = [one.predictions[predictor].holds(one.point.mean) for one in self.hidden]
        return None if None in held else sum(map(bool, held))

    @property
    def predictors(self) -> tuple[str, ...]:
        return tuple(self.hidden[0].predictions)


def held_out_data(folder: Path | str | StudyFolder, share: float = SHARE) -> tuple[HeldOutShapes, ...]:
    """The check of every series of a study whose scale is measured; none for a study along one axis.

    Args:
        share: of the configurations, the largest by the scale, hidden.
    """
    study = read_study(folder)
    if not study.law or x_column(study) in axis_values(study):
        return ()
    level = finite(study.law.get("level")) or 0.95
    points = points_of(study)
    series = dict.fromkeys(point.series for point in points)
    found = [hide([point for point in points if point.series == name], level, share) for name in series]
    return tuple(one for one in found if one is not None)


def hide(points: Sequence[Point], level: float, share: float = SHARE) -> HeldOutShapes | None:
    """Fit without the largest points and predict them; ``None`` where fewer than five scales would be left."""
    ordered = sorted(points, key=lambda point: point.x)
    n_hidden = max(1, round(share * len(ordered)))
    if n_hidden >= len(ordered):
        return None
    edge = ordered[-n_hidden].x
    seen, hidden = [point for point in ordered if point.x < edge], [point for point in ordered if point.x >= edge]
    if len({point.x for point in seen}) < FEWEST_SEEN:
        return None
    table = _table(seen)
    targets = np.array([point.x for point in hidden])
    found: dict[str, list[Prediction]] = {}
    samples = {name: bootstrap(fit_law(ONE_AXIS[name], table, LogHuber(1e-3)), RESAMPLES) for name in (LAW, "power")}
    for name, sample in samples.items():
        found[name] = []
        for point in hidden:
            found[name].append(_predicted(sample, point.x, level, len(point.losses)))
    ahead = forecast_table(table, targets, level)
    found[FORECAST] = [
        Prediction(float(middle), float(low), float(high))
        for middle, low, high in zip(ahead.median, ahead.low, ahead.high, strict=True)
    ]
    for name, baseline in (("last value", last_value), ("tail line", tail_line)):
        found[name] = [Prediction(float(value)) for value in baseline(table.x[:, 0], table.loss, targets)]
    rows = tuple(Hidden(point, {name: found[name][k] for name in found}) for k, point in enumerate(hidden))
    grid = np.geomspace(ordered[0].x, ordered[-1].x, 60)
    bands = [(float(x), _predicted(samples[LAW], float(x), level, len(hidden[0].losses))) for x in grid]
    curve = tuple((x, band.predicted, band.low or 0.0, band.high or 0.0) for x, band in bands)
    return HeldOutShapes(ordered[0].series, tuple(seen), rows, level, samples[LAW].intervals(level), curve)


def _predicted(sample: Bootstrap, x: float, level: float, runs: int) -> Prediction:
    """The fitted law at ``x``, with the interval for the mean of so many runs; the same draws at every ``x``."""
    middle = float(sample.fit.predict([x])[0])
    _, low, high = sample.predictive(np.array([x]), level, np.random.default_rng([0, 404]), runs=runs)
    return Prediction(middle, min(float(low[0]), middle), max(float(high[0]), middle))


def _table(points: Sequence[Point]) -> Observations:
    return observe([point.x for point in points for _ in point.losses], [v for point in points for v in point.losses])


def held_out_sentence(one: HeldOutShapes, x_name: str) -> str:
    """The check in words."""
    inside, n = one.n_inside(LAW), len(one.hidden)
    sizes = [row.point.x for row in one.hidden]
    parts = [
        f"{name} = {decimals(part['estimate'])} {interval(part['low'], part['high'])}"
        for name, part in one.parameters.items()
    ]
    of_seen = ", ".join(parts)
    closer = [name for name in one.predictors if name != LAW and one.rmse_log(name) < one.rmse_log(LAW)]
    text = (
        f"{one.series}: fitted to the {len(one.seen)} configurations of up to {number(one.seen[-1].x)} "
        f"{axis_label(x_name)}, the power law with irreducible loss ({of_seen}) was asked for the {n} larger ones, of "
        f"{number(min(sizes))} to {number(max(sizes))}: {inside} of {n} lie inside its {100 * one.level:g} % "
        f"prediction interval; its error is {decimals(one.rmse_log(LAW))} in ln loss"
    )
    if closer:
        return text + "; closer came " + ", ".join(f"{name} ({decimals(one.rmse_log(name))})" for name in closer) + "."
    return text + ", less than that of every plain baseline."


def plot_held_out(
    table: tuple[HeldOutShapes, ...], ax: Axes, *, y_label: str, x_label: str, compact: bool = False
) -> Axes:
    """Seen points filled, hidden ones hollow, the law of the seen ones with its prediction interval."""
    if not table:
        return nothing(ax, "Too few configurations to hide the largest")
    for one, colour in zip(table, SERIES * len(table), strict=False):
        x, median, low, high = (list(column) for column in zip(*one.curve, strict=True))
        ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        ax.plot(x, median, color=colour, linewidth=1.8)
        ax.axvline(one.hidden[0].point.x / 1.03, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        for point in one.seen:
            (dot,) = ax.plot(point.x, point.mean, "o", color=colour, markersize=5, markeredgecolor=PAPER)
            tip(dot, f"{one.series}, {point.name}: {decimals(point.mean)}, {number(point.x)} {x_label}")
        for row in one.hidden:
            inside = row.predictions[LAW].holds(row.point.mean)
            (ring,) = ax.plot(
                row.point.x, row.point.mean, "o", markersize=6.5, markerfacecolor="none", markeredgewidth=1.8,
                color=colour if inside else ORANGE, markeredgecolor=colour if inside else ORANGE,
            )  # fmt: skip
            said = row.predictions[LAW]
            words = f"{decimals(said.predicted)} {interval(said.low, said.high)}"
            tip(ring, f"{one.series}, {row.point.name}: measured {decimals(row.point.mean)}, predicted {words}")
    ax.set_yscale("log")
    sizes = [point.x for one in table for point in (*one.seen, *(row.point for row in one.hidden))]
    log_x_ticks(ax, sizes, closest=0.14 if compact else 0.09)
    pad_y(ax)
    log_y_ticks(ax)
    n_hidden, n_inside = sum(len(one.hidden) for one in table), sum(one.n_inside(LAW) or 0 for one in table)
    title = f"The law of the smaller nets: {n_inside} of {n_hidden} larger ones inside its interval"
    return finish(ax, title, f"{x_label} (log scale)", log_label(y_label), compact)


def loss_words(study: StudyFolder) -> str:
    """The test loss with its unit, as an axis title."""
    unit = unit_of(loss_column(study))
    return f"{study.terms.test} loss" + (f" ({unit})" if unit else "")
