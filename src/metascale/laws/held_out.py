"""The law of the smaller configurations checked on the larger ones: inside its prediction interval or not, in numbers.

For tables in which every configuration has a scale of its own: the largest quarter of them is hidden, the power law
with irreducible loss is fitted to the rest, and each hidden configuration is predicted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import fit_law
from metascale.laws.forecasting import forecast_table, last_value, tail_line
from metascale.laws.objective import LogHuber
from metascale.laws.observations import Observations, observe
from metascale.laws.uncertainty import Bootstrap, bootstrap

SHARE = 0.25
LAW = "power_irreducible"
FORECAST = "forecast"
FEWEST_SEEN = 5
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Replicates:
    """One configuration: its scale and the losses of its runs, one a seed."""

    x: float
    losses: tuple[float, ...]
    name: str = ""

    @property
    def mean(self) -> float:
        """The geometric mean: laws are fitted to the logarithm of the loss."""
        return statistics.geometric_mean(self.losses)

    @property
    def spread(self) -> float:
        """Standard deviation of ln loss across seeds; 0 for a single run."""
        return float(np.std(np.log(self.losses), ddof=1)) if len(self.losses) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted mean loss, with its interval where the predictor has one."""

    predicted: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, sample: Bootstrap, x: float, level: float, runs: int, stream: int = 404) -> Prediction:
        """By a bootstrapped law, for the mean of so many new runs; the same draws at every ``x``."""
        found = sample.predict_mean(x, level, runs, (0, stream))
        return cls(found.estimate, found.low, found.high)

    def holds(self, observed: float) -> bool | None:
        """Whether the interval contains the measured loss; ``None`` without an interval."""
        return None if self.low is None or self.high is None else self.low <= observed <= self.high


@dataclass(frozen=True, slots=True)
class Hidden:
    """A hidden configuration, measured (geometric mean over its runs) and predicted by every predictor."""

    point: Replicates
    predictions: Mapping[str, Prediction]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Configurations that the law was fitted to, those hidden from it, its parameters, and its curve and band.

    Attributes:
        series: the name that the caller gave to the table.
        parameters: "estimate", "low" and "high" of each, from the seen configurations alone.
        curve: (x, predicted, low, high) over the whole range.
    """

    series: str
    seen: tuple[Replicates, ...]
    hidden: tuple[Hidden, ...]
    level: float
    parameters: Mapping[str, Mapping[str, float]]
    curve: tuple[tuple[float, float, float, float], ...]

    def rmse_log(self, predictor: str) -> float:
        """Root mean square of ln(predicted / measured) over the hidden configurations."""
        errors = [math.log(one.predictions[predictor].predicted / one.point.mean) for one in self.hidden]
        return math.sqrt(math.fsum(error**2 for error in errors) / len(errors))

    def n_inside(self, predictor: str) -> int | None:
        """Hidden configurations inside the predictor's interval; ``None`` where it has none."""
        held = [one.predictions[predictor].holds(one.point.mean) for one in self.hidden]
        return None if None in held else sum(map(bool, held))

    @property
    def predictors(self) -> tuple[str, ...]:
        return tuple(self.hidden[0].predictions)


def hold_out(
    points: Sequence[Replicates], level: float = 0.95, share: float = SHARE, series: str = ""
) -> HeldOut | None:
    """Fit without the largest ``share`` of the configurations and predict them.

    ``None`` where fewer than five distinct scales would be left to fit.
    """
    ordered = sorted(points, key=lambda point: point.x)
    n_hidden = max(1, round(share * len(ordered)))
    if n_hidden >= len(ordered):
        return None
    edge = ordered[-n_hidden].x
    seen, hidden = [point for point in ordered if point.x < edge], [point for point in ordered if point.x >= edge]
    if len({point.x for point in seen}) < FEWEST_SEEN:
        return None
    table = table_of(seen)
    targets = np.array([point.x for point in hidden])
    found: dict[str, list[Prediction]] = {}
    samples = {name: bootstrap(fit_law(ONE_AXIS[name], table, LogHuber(1e-3)), RESAMPLES) for name in (LAW, "power")}
    for name, sample in samples.items():
        found[name] = [Prediction.of(sample, point.x, level, len(point.losses)) for point in hidden]
    ahead = forecast_table(table, targets, level)
    found[FORECAST] = [
        Prediction(float(middle), float(low), float(high))
        for middle, low, high in zip(ahead.median, ahead.low, ahead.high, strict=True)
    ]
    for name, baseline in (("last value", last_value), ("tail line", tail_line)):
        found[name] = [Prediction(float(value)) for value in baseline(table.x[:, 0], table.loss, targets)]
    rows = tuple(Hidden(point, {name: found[name][k] for name in found}) for k, point in enumerate(hidden))
    grid = np.geomspace(ordered[0].x, ordered[-1].x, 60)
    bands = [(float(x), Prediction.of(samples[LAW], float(x), level, len(hidden[0].losses))) for x in grid]
    curve = tuple((x, band.predicted, band.low or 0.0, band.high or 0.0) for x, band in bands)
    return HeldOut(series, tuple(seen), rows, level, samples[LAW].intervals(level), curve)


def table_of(points: Sequence[Replicates]) -> Observations:
    """The checked table of all runs."""
    return observe([point.x for point in points for _ in point.losses], [v for point in points for v in point.losses])
