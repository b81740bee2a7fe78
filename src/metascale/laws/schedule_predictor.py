"""What predicts a run under a schedule of rates by the multi-power law, with the intervals of one new run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from metascale.core.notebook import Shown
from metascale.laws.fitting import require_level
from metascale.laws.multi_power import FORMULA, MULTI_POWER, NAMES, Path, curve_of
from metascale.laws.observations import Array, Integers
from metascale.laws.picture import INK, axis_or_new, draw_band, finish
from metascale.laws.prediction import Prediction
from metascale.laws.record import Band, ComponentRecord, PredictorRecord
from metascale.laws.schedules import Schedule, columns_of_schedule
from metascale.laws.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEDULE_LINK = "schedule"
_DRAWS = 300
_NODES = 60  # steps at which a prediction's spread is drawn; between them it is interpolated


@dataclass(frozen=True, kw_only=True)
class CurvePrediction(Shown, Prediction):
    """The loss of a new run at steps of a schedule, whose rates are ``rate``; ``beyond``: how many times the longest
    run's sum of rates; all [m]."""

    rate: Array

    @property
    def at(self) -> Integers:
        """[m] steps."""
        return np.asarray(self.x[:, 0], int)

    @property
    def columns(self) -> list[str]:
        """The names in `rows`."""
        return ["step", "lr", "median", "low", "high", "beyond"]

    def rows(self) -> list[dict[str, float]]:
        """One dict a step."""
        columns = {"step": self.x[:, 0], "lr": self.rate, "median": self.median, "low": self.low, "high": self.high,
                   "beyond": self.beyond}  # fmt: skip
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self))]

    def summary(self) -> str:
        """One line a step."""
        return "\n".join(
            f"step {row['step']:.0f} (rate {row['lr']:.3g}): {self.loss_name} {row['median']:.5g} "
            f"({100 * self.level:g} % interval for one run {row['low']:.5g} to {row['high']:.5g})"
            for row in self.rows()
        )  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Axes:
        """The loss against the step, with its interval."""
        ax = axis_or_new(ax)
        label = f"one run ({100 * self.level:g} %)"
        band = Band.of(self.x[:, 0], self.median, self.low, self.high)
        draw_band(ax, band, INK, label, "o-" if len(self) < 3 else "-")
        return finish(ax, "step", self.loss_name, x_scale="linear")


@dataclass(frozen=True)
class SchedulePredictor:
    """The law with what is not known of it.

    Attributes:
        theta: [7] ln L0, ln A, ln alpha, ln B, ln C, ln beta, gamma in units of the largest rate and of the longest
            run's sum of rates; covariance: [7, 7].
        noise, discrepancy: standard deviations of ln loss of a checkpoint, and of a run's curve about the law.
        longest: steps and losses of the longest run that was fitted, for a picture.
    """

    theta: Array
    covariance: Array
    rate_unit: float
    sum_unit: float
    noise: float
    discrepancy: float
    loss_name: str
    longest: tuple[Integers, Array]

    @property
    def x_names(self) -> tuple[str, ...]:
        return ("step",)

    @property
    def by(self) -> str:
        """Which law predicts."""
        return MULTI_POWER

    @cached_property
    def draws(self) -> Array:
        """[draws, 7] of the parameters."""
        values, vectors = np.linalg.eigh(self.covariance)
        normal = np.random.default_rng(1213).standard_normal((_DRAWS, 7))
        return np.asarray(self.theta + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)

    def in_units(self, theta: Array) -> Array:
        """[7] the law's parameters in the units of the table."""
        alpha, gamma = float(np.exp(theta[2])), theta[6]
        return np.array([
            np.exp(theta[0]), np.exp(theta[1]) * self.sum_unit**alpha, alpha, np.exp(theta[3]) / self.rate_unit,
            np.exp(theta[4]) * self.rate_unit**gamma / self.sum_unit, np.exp(theta[5]), gamma,
        ])  # fmt: skip

    def predict(self, points: Any, level: float = 0.90, at: ArrayLike | None = None) -> CurvePrediction:
        """The loss of a new run under a schedule (see `Schedule.read`) at steps ``at`` [m]; by default its end.

        Raises:
            InputError: no schedule, or a step that is none of it after its warm-up.
        """
        require_level(level)
        wanted = Schedule.read(points)
        steps = np.unique(wanted.steps([len(wanted.rates)] if at is None else at))
        scaled = wanted.scaled(self.rate_unit, self.sum_unit)
        middle = np.log(np.maximum(curve_of(self.theta, Path.of(scaled, steps))[0], 1e-300))
        nodes = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _NODES)).round().astype(int))]
        path = Path.of(scaled, nodes)
        drawn = np.log(np.maximum([curve_of(draw, path)[0] for draw in self.draws], 1e-300))
        drawn = drawn - np.log(np.maximum(curve_of(self.theta, path)[0], 1e-300))
        longer = 1 + np.maximum(np.log(np.maximum(path.total, 1e-300)), 0.0)  # less sure past the longest run
        noise = np.hypot(self.noise, self.discrepancy * longer)
        shares = (np.random.default_rng(7).permutation(_DRAWS) + 0.5) / _DRAWS
        ends = np.quantile(drawn + noise * ndtri(shares)[:, None], [(1 - level) / 2, (1 + level) / 2], axis=0)
        low, high = (middle + np.interp(steps, nodes, end) for end in ends)
        return CurvePrediction(
            steps[:, None].astype(float), np.exp(middle), np.exp(np.minimum(low, middle)),
            np.exp(np.maximum(high, middle)), level, np.maximum(scaled.summed[steps - 1], 1.0), ("step",),
            self.loss_name, self.by, rate=wanted.rates[steps - 1],
        )  # fmt: skip

    def of_rows(self, table: Table, level: float = 0.90) -> dict[str, Array]:
        """Median, low, high and beyond for every row of a table of step and lr, in its order; NaN in its warm-up."""
        schedule, (step, _) = Schedule.read(table), columns_of_schedule(table)
        steps = table.numbers(step)
        after = steps > schedule.warmup
        found = self.predict(schedule, level, steps[after])
        places = np.searchsorted(found.x[:, 0], steps[after])
        out = {name: np.full(len(steps), np.nan) for name in ("median", "low", "high", "beyond")}
        for name, column in out.items():
            column[after] = getattr(found, name)[places]
        return out

    def record(self) -> PredictorRecord:
        law = ComponentRecord(
            MULTI_POWER, FORMULA, 1.0, NAMES, tuple(self.theta.tolist()),
            tuple(tuple(row) for row in self.covariance.tolist()), self.noise,
        )  # fmt: skip
        return PredictorRecord(
            SCHEDULE_LINK, self.x_names, self.loss_name, noise=self.noise, growth=self.discrepancy, components=(law,),
            x=tuple(np.asarray(self.longest[0], float).tolist()), loss=tuple(self.longest[1].tolist()),
            rate_unit=self.rate_unit, sum_unit=self.sum_unit,
        )  # fmt: skip

    @classmethod
    def of(cls, record: PredictorRecord) -> SchedulePredictor:
        """The predictor that a file holds."""
        law = record.components[0]
        return cls(
            np.array(law.theta), np.array(law.covariance), record.rate_unit, record.sum_unit, record.noise,
            record.growth, record.loss_name, (np.array(record.x, int), np.array(record.loss)),
        )  # fmt: skip


def parameters_of(theta: Array, predictor: SchedulePredictor, level: float) -> Mapping[str, tuple[float, float, float]]:
    """Estimate, low and high of every parameter in the units of the table."""
    spread = np.array([predictor.in_units(draw) for draw in predictor.draws])
    middle = predictor.in_units(theta)
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: (float(middle[k]), float(min(low[k], middle[k])), float(max(high[k], middle[k])))
            for k, name in enumerate(NAMES)}  # fmt: skip
