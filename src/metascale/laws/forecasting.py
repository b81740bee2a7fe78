"""Predict the loss beyond the table, with an interval that widens with the horizon; and the baselines to beat.

Members: the damped local slope alone, and three laws (power law with irreducible loss, M3, M4) fitted with more weight
on the tail, each carrying a damped local slope of its own residuals, so that every member starts where the data end.
The local slope has weight e^(-κΔ) after a growth of x by e^Δ, as far as it has not faded; the rest of the weight is
shared equally by all members. The centre is the weighted mean of ln loss; the interval holds the quantiles of the
mixture of the members' own Student distributions, so that it widens, and to the side it must, when members disagree.

The slope is a linear Gaussian state space on (ln x, ln loss): level and slope, the slope an Ornstein-Uhlenbeck process,
so that a slope seen now fades as x grows; the level is its integral, and each run is the level plus noise. The scale of
the noise is profiled out of the Kalman likelihood; prediction and its variance are closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.evaluation import weigh
from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import fit_law, log_scales, require_level
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import Array, Observations, as_json, bounded_exp, observe, table_warnings
from metascale.laws.picture import BLUE, GREY, axis_or_new, draw_band, finish
from metascale.laws.prediction import Prediction, points_of
from metascale.laws.record import Band, LawRecord, PredictorRecord, save_record
from metascale.laws.runs import counts_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def tail_line(x: ArrayLike, loss: ArrayLike, at: ArrayLike) -> Array:
    """Baseline: the straight log-log line through the last octave of x (at least its last two distinct scales)."""
    t, y = log_scales(x, 1)[:, 0], np.log(np.asarray(loss, float))
    levels = np.unique(t)
    if len(levels) < 2:
        return np.full(len(np.atleast_1d(at)), float(np.exp(y.mean())))
    start = min(levels[-1] - np.log(2.0) - 1e-9, levels[-2] - 1e-12)
    tail = t >= start
    slope, constant = np.polyfit(t[tail] - levels[-1], y[tail], 1)
    return bounded_exp(constant + slope * (log_scales(at, 1)[:, 0] - levels[-1]))


def last_value(x: ArrayLike, loss: ArrayLike, at: ArrayLike) -> Array:
    """Baseline: no change after the largest scale."""
    t, y = log_scales(x, 1)[:, 0], np.log(np.asarray(loss, float))
    return np.full(len(np.atleast_1d(at)), float(np.exp(y[t >= t.max() - 1e-12].mean())))


@dataclass(frozen=True)
class SlopeModel:
    """Priors of the state space.

    Attributes:
        reversion: how fast a slope fades, per unit of ln x; 0.45 halves it every 4.7-fold growth of x.
        diffusion: standard deviation by which the slope wanders over one unit of ln x, in units of the noise.
    """

    reversion: float = 0.45
    diffusion: float = 3.0

    def fit(self, t: Array, y: Array, relative: Array | None = None, own: float = 1.0) -> SlopeState:
        """Filter the table ``t`` = ln x [n] ascending, ``y`` = ln loss [n], to its end.

        Args:
            relative: [n] variances of the rows in units of the noise variance, 1 by default; own: that of a new run.
        """
        widths = np.ones(len(t)) if relative is None else relative
        level, slope = float(y[0]), 0.0
        # Diffuse start: the first run fixes the level, the slope is anything a table can show.
        p_ll, p_ls, p_ss = 1e8, 0.0, 1e8
        squares, logs, used = 0.0, 0.0, 0
        previous = float(t[0])
        for time, value, width in zip(t.tolist(), y.tolist(), widths.tolist(), strict=True):
            gap = time - previous
            if gap > 0:
                fade, reach, q_ll, q_ls, q_ss = self.transition(gap)
                level, slope = level + reach * slope, fade * slope
                p_ll = p_ll + 2 * reach * p_ls + reach * reach * p_ss + q_ll
                p_ls = fade * p_ls + reach * fade * p_ss + q_ls
                p_ss = fade * fade * p_ss + q_ss
            previous = time
            variance = p_ll + width
            innovation = value - level
            if variance < 1e6:
                squares += innovation * innovation / variance
                logs += np.log(variance)
                used += 1
            gain_l, gain_s = p_ll / variance, p_ls / variance
            level, slope = level + gain_l * innovation, slope + gain_s * innovation
            p_ss = p_ss - gain_s * p_ls
            p_ls = p_ls * (1 - gain_l)
            p_ll = p_ll * (1 - gain_l)
        noise = float(np.sqrt(squares / used)) if used else 0.0
        return SlopeState(self, previous, level, slope, (p_ll, p_ls, p_ss), noise, used, own)

    def transition(self, gap: float) -> tuple[float, float, float, float, float]:
        """Over ``gap`` of ln x: the slope's factor, its reach into the level, and the three process variances."""
        k = self.reversion
        fade = float(np.exp(-k * gap))
        reach = -np.expm1(-k * gap) / k
        q = self.diffusion**2
        q_ss = q * -np.expm1(-2 * k * gap) / (2 * k)
        q_ls = q * 0.5 * reach * reach
        q_ll = q / (k * k) * (gap - 2 * reach - np.expm1(-2 * k * gap) / (2 * k))
        return fade, float(reach), max(float(q_ll), 0.0), float(q_ls), float(q_ss)


@dataclass(frozen=True)
class SlopeState:
    """The filtered state at the largest scale: ``level`` and ``slope`` of ln loss, their covariance in units of the
    noise variance, and ``noise``, the standard deviation of ln loss about the level (``freedom`` innovations); ``own``
    is the variance of a new run, in units of the noise variance."""

    model: SlopeModel
    t_end: float
    level: float
    slope: float
    covariance: tuple[float, float, float]
    noise: float
    freedom: int
    own: float = 1.0

    def predict(self, t: Array) -> tuple[Array, Array]:
        """Mean of ln loss and standard deviation of a run at ``t`` ≥ the end of the table (its level before that)."""
        mean, variance = np.empty(len(t)), np.empty(len(t))
        p_ll, p_ls, p_ss = self.covariance
        for i, time in enumerate(t.tolist()):
            _, reach, q_ll, _, _ = self.model.transition(max(time - self.t_end, 0.0))
            mean[i] = self.level + reach * self.slope
            variance[i] = p_ll + 2 * reach * p_ls + reach * reach * p_ss + q_ll + self.own
        return mean, self.noise * np.sqrt(variance)


# Weight (x / x_max)^0.4: a point counts half as much as one at 5.7 times its scale, since laws hold best locally.
TAIL_WEIGHT = 0.4
MEMBER_LAWS = ("power_irreducible", "m3", "m4")
FEW_SCALES = 8  # below this a note says that the table alone does not determine the forecast
BISECTIONS = 40  # of the bracket of a quantile: to a part in 10^12
# Checkpoints of a run whose rate may yet decay: ln loss falls by one of these besides, a quarter of the weight each, as
# soon as x has grown by some e^DECAY_REACH, and the curve may be off by DECAY_SPREAD. Told from runs simulated with the
# multi-power law (`metascale.laws.multi_power`) at its published parameters, under cosine, linear and WSD.
DECAYS, DECAY_REACH, DECAY_SPREAD = (0.0, 0.015, 0.03, 0.05), 0.15, 0.01
TESTED_HORIZON = 32.0  # the longest extrapolation that the coverage of the intervals was measured at


@dataclass(frozen=True)
class Forecast(Shown):
    """Predicted losses at scales ``at``, in the units of the loss.

    Attributes:
        median, low, high: [m] the forecast for one new run, and its interval at ``level``.
        members: name to [m] prediction; "local slope" and the laws.
        weights: name to [m] weight of the member.
        baselines: "last_value" and "tail_line" to [m].
        noise_log: standard deviation of ln loss between runs, as the state space sees it.
        predictor: the table, from which other scales are predicted.
    """

    at: Array
    median: Array
    low: Array
    high: Array
    level: float
    members: dict[str, Array]
    weights: dict[str, Array]
    baselines: dict[str, Array]
    noise_log: float
    x_name: str
    loss_name: str
    notes: tuple[str, ...]
    predictor: SeriesPredictor = field(repr=False, compare=False)

    def predict(self, points: Any, level: float | None = None) -> Prediction:
        """The forecast at other scales; the level is that of the forecast unless given."""
        return self.predictor.predict(points, self.level if level is None else level)

    def record(self) -> LawRecord:
        """What a saved forecast holds: the runs that it starts from."""
        return LawRecord(
            "forecast", x_names=(self.x_name,), loss_name=self.loss_name, level=self.level, notes=self.notes,
            n_observations=self.predictor.observations.n, n_scales=self.predictor.observations.n_scales,
            predictor=self.predictor.record(),
        )  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Write the forecast to a file, from which `metascale.laws.load_law` predicts the same."""
        save_record(path, self.record())

    def rows(self) -> list[dict[str, float]]:
        """One dict a scale: for ``forecast.csv``."""
        columns = {self.x_name: self.at, "median": self.median, "low": self.low, "high": self.high, **self.baselines}
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self.at))]

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in as_json(self).items() if name != "predictor"}

    def summary(self) -> str:
        lines = [f"{self.x_name:>14}{self.loss_name:>14}{f'{100 * self.level:g} % interval':>26}{'tail line':>12}"]
        for i, x in enumerate(self.at):
            interval = f"{self.low[i]:.5g} to {self.high[i]:.5g}"
            lines.append(f"{x:>14.6g}{self.median[i]:>14.6g}{interval:>26}{self.baselines['tail_line'][i]:>12.5g}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def label(self) -> str:
        return f"forecast of one run ({100 * self.level:g} %)"

    def band(self) -> Band:
        """The forecast by ascending scale."""
        order = np.argsort(self.at)
        return Band.of(*(column[order] for column in (self.at, self.median, self.low, self.high)))

    def plot(self, ax: Axes | None = None) -> Axes:
        ax, band = axis_or_new(ax), self.band()
        draw_band(ax, band, BLUE, self.label, "-o")
        ax.plot(band.x, self.baselines["tail_line"][np.argsort(self.at)], "--", color=GREY, label="tail line")
        return finish(ax, self.x_name, self.loss_name)


MOST_RUNS = 5000  # kept of a table in one scale


@dataclass(frozen=True)
class SeriesPredictor:
    """The forecast of a table in one scale, at any scale."""

    observations: Observations
    model: SlopeModel | None = None
    checkpoints: bool = False

    @classmethod
    def of(cls, table: Observations) -> SeriesPredictor:
        """Of at most `MOST_RUNS` runs, evenly along the scale: as many as a file keeps."""
        rows = np.zeros(table.n, bool)
        rows[np.linspace(0, table.n - 1, min(table.n, MOST_RUNS)).astype(int)] = True
        return cls(table.keep(rows))

    @property
    def x_names(self) -> tuple[str, ...]:
        return self.observations.x_names

    @property
    def loss_name(self) -> str:
        return self.observations.loss_name

    @property
    def by(self) -> str:
        """Which laws predict."""
        return f"the forecast: local slope and {', '.join(member_names(self.observations))} together"

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each scale: an array [m], or what `points_of` reads."""
        rows = points_of(points, self.x_names)
        ahead = forecast_table(self.observations, rows[:, 0], level, self.model, self.checkpoints)
        known = self.observations.x[:, 0]
        beyond = np.maximum(np.maximum(rows[:, 0] / known.max(), known.min() / rows[:, 0]), 1.0)
        return Prediction(
            rows, ahead.median, ahead.low, ahead.high, level, beyond, self.x_names, self.loss_name, self.by
        )

    def record(self) -> PredictorRecord:
        many = self.observations.n > MOST_RUNS
        table = SeriesPredictor.of(self.observations).observations if many else self.observations
        model = self.model or SlopeModel()
        x, loss = table.x[:, 0], table.loss
        return PredictorRecord(
            "log", table.x_names, table.loss_name, low=(float(x.min()),), high=(float(x.max()),),
            x=tuple(x.tolist()), loss=tuple(loss.tolist()), reversion=model.reversion, diffusion=model.diffusion,
            checkpoints=self.checkpoints, error=() if table.error is None else tuple(table.error.tolist()),
        )  # fmt: skip

    @classmethod
    def from_record(cls, record: PredictorRecord) -> SeriesPredictor:
        """The predictor that a file holds: every stored row is a run of its own."""
        table = observe(
            record.x, record.loss, replicate=np.arange(len(record.x)), x_name=record.x_names,
            loss_name=record.loss_name,
        )  # fmt: skip
        table = replace(table, error=np.array(record.error)) if record.error else table
        return cls(table, SlopeModel(record.reversion, record.diffusion), record.checkpoints)


def forecast(
    x: ArrayLike,
    loss: ArrayLike,
    at: Any,
    level: float = 0.90,
    *,
    replicate: ArrayLike | None = None,
    model: SlopeModel | None = None,
    x_name: str = "x",
    loss_name: str = "loss",
    checkpoints: bool | None = None,
    noise: ArrayLike | None = None,
) -> Forecast:
    """Predict the loss of a new run at scales ``at``.

    Args:
        x: [n] scales; loss: [n] losses; at: [m] scales, usually beyond the table, or what `points_of` reads.
        checkpoints: whether the rows are checkpoints of a run, whose rate may decay later: the interval then allows for
            what a decay gives. By default where ``x_name`` counts steps.
        noise: [n] known standard errors of the losses' evaluation.

    Raises:
        InputError: a table with fewer than 3 distinct scales or with what `observe` refuses, or a bad ``at`` or level.
    """
    observations = observe(x, loss, replicate=replicate, x_name=x_name, loss_name=loss_name, noise=noise)
    return forecast_table(observations, at, level, model, counts_steps(x_name) if checkpoints is None else checkpoints)


def forecast_table(
    observations: Observations,
    at: Any,
    level: float = 0.90,
    model: SlopeModel | None = None,
    checkpoints: bool = False,
) -> Forecast:
    """`forecast` for a checked table of one axis."""
    _require_one_axis(observations, level)
    places = points_of(at, observations.x_names)
    target = log_scales(places, 1)[:, 0]
    model = model or SlopeModel()
    observations = weigh(observations)
    t, y = observations.log_x[:, 0], observations.log_loss
    spread = _relative(observations)
    first = model.fit(t, y, *spread)
    mean, deviation = first.predict(target)
    names, means, deviations = ["local slope"], [mean], [deviation]
    for name in member_names(observations):
        curve, here = _law_curve(name, observations, target)
        mean, deviation = model.fit(t, y - here, *spread).predict(target)
        between = target < t[-1] - 1e-9  # inside the table a law is read off as it is, with its own residual spread
        names.append(name)
        means.append(np.where(between, curve, curve + mean))
        deviations.append(np.where(between, np.std(y - here), deviation))
    weights = mixture_weights(model, target - t[-1], len(names))
    inside = target < t[-1] - 1e-9
    weights[:, inside] = np.where(np.arange(len(names)) == 0, 0.0, 1 / (len(names) - 1))[:, None]
    parts = np.array(means), np.array(deviations), weights
    if checkpoints:
        parts = _decaying(*parts, target - t[-1])
    centre, low, high = _mixture(*parts, max(first.freedom, 1), level)
    return Forecast(
        places[:, 0], bounded_exp(centre), bounded_exp(low), bounded_exp(high), level,
        {name: bounded_exp(mean) for name, mean in zip(names, means, strict=True)},
        dict(zip(names, weights, strict=True)),
        {
            "last_value": last_value(observations.x[:, 0], observations.loss, np.exp(target)),
            "tail_line": tail_line(observations.x[:, 0], observations.loss, np.exp(target)),
        },
        first.noise, observations.x_names[0], observations.loss_name,
        (*_notes(observations, target, inside, first), *((CHECKPOINTS,) if checkpoints else ())),
        SeriesPredictor(observations, model, checkpoints),
    )  # fmt: skip


def _relative(table: Observations) -> tuple[Array | None, float]:
    """Variances of the rows [n] and of a new run in one unit, where the errors of evaluation are known."""
    if table.error is None:
        return None, 1.0
    variances = np.maximum(table.run_variance + table.error**2, 1e-300)
    unit = float(1 / np.mean(1 / variances))  # that of well-known rows: the slope wanders in units of this noise
    return variances / unit, table.run_variance / unit


def _require_one_axis(observations: Observations, level: float) -> None:
    require_level(level)
    if observations.n_axes != 1:
        raise InputError(
            "a forecast needs a table with one scale; for L(N, D) use metascale.laws.optimum or fit(...).predict"
        )
    if observations.n_scales < 3:
        raise InputError(
            f"the table has {observations.n_scales} distinct values of '{observations.x_names[0]}'; "
            "a forecast needs at least 3"
        )


def member_names(observations: Observations) -> list[str]:
    """The laws that the table's distinct scales can carry; the plain power law where they carry none of them."""
    return [name for name in MEMBER_LAWS if observations.n_scales > ONE_AXIS[name].n_parameters] or ["power"]


def _law_curve(name: str, observations: Observations, target: Array) -> tuple[Array, Array]:
    """ln of a tail-weighted law at ``target`` [m] and at the table [n]."""
    weights = (observations.x[:, 0] / observations.x[-1, 0]) ** TAIL_WEIGHT
    weights = weights if observations.weights is None else weights * observations.weights
    fit = fit_law(ONE_AXIS[name], observations, LeastSquares(), weights)
    return fit.log_predict(np.exp(target)), fit.log_predict(observations.x)


def mixture_weights(model: SlopeModel, beyond: Array, n_members: int) -> Array:
    """[members, m] weights after a growth of ln x by ``beyond`` [m]; the first member is the local slope."""
    kept = np.exp(-model.reversion * np.maximum(beyond, 0.0))
    weights = np.tile((1 - kept) / n_members, (n_members, 1))
    weights[0] += kept
    return weights


CHECKPOINTS = (
    "the rows are checkpoints of a run: a rate that decays after them lowers the loss by up to some 5 % more, and the "
    "interval allows for it; where the rates are known, the law 'multi_power' with a `schedule` says how much"
)


def _decaying(means: Array, deviations: Array, weights: Array, beyond: Array) -> tuple[Array, Array, Array]:
    """The members, each with every decay of `DECAYS` after a growth of ln x by ``beyond`` [m]."""
    reach = -np.expm1(-np.maximum(beyond, 0.0) / DECAY_REACH)
    lower = np.concatenate([means - decay * reach for decay in DECAYS])
    wider = np.tile(np.hypot(deviations, DECAY_SPREAD * reach), (len(DECAYS), 1))
    return lower, wider, np.tile(weights / len(DECAYS), (len(DECAYS), 1))


def _mixture(means: Array, deviations: Array, weights: Array, freedom: int, level: float) -> tuple[Array, Array, Array]:
    """Mean [m], and the two quantiles [m] at ``level``, of a mixture of Student distributions [members, m]."""
    spread = np.maximum(deviations, 1e-12)
    centre = np.sum(weights * means, axis=0)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        # The quantile of a mixture lies between the quantiles of its members; bisection halves that bracket.
        own = means + stdtrit(freedom, share) * spread
        low, high = own.min(0), own.max(0)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            below = np.sum(weights * stdtr(freedom, (middle - means) / spread), axis=0) < share
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        ends.append(0.5 * (low + high))
    return centre, np.minimum(ends[0], centre), np.maximum(ends[1], centre)


def _notes(observations: Observations, target: Array, inside: Array, state: SlopeState) -> tuple[str, ...]:
    notes = [*observations.notes, *table_warnings(observations)]
    horizon = float(np.exp(target.max() - state.t_end))
    if horizon > TESTED_HORIZON:
        notes.append(
            f"{observations.x_names[0]} = {np.exp(target.max()):.4g} is {horizon:.3g} times the largest scale seen; "
            f"intervals were tested up to {TESTED_HORIZON:g} times"
        )
    if inside.any():
        notes.append("at scales inside the table the laws are averaged, without the local slope")
    if observations.n_scales < FEW_SCALES:
        notes.append(
            f"only {observations.n_scales} distinct scales: the interval relies on how scaling curves usually behave"
        )
    return tuple(notes)
