"""Hide the largest scales: how every family, the forecast and the baselines would have predicted them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.evaluation import weigh
from metascale.laws.families import ONE_AXIS, Law, require_law
from metascale.laws.fitting import LawFit, fit_law, require_level
from metascale.laws.forecasting import forecast_table, last_value, tail_line
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.observations import Array, Mask, Observations, as_json, observe
from metascale.laws.picture import axis_or_new, finish_outside
from metascale.laws.solving import Steps, stepwise
from metascale.laws.uncertainty import delta_prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HORIZONS = (2.0, 4.0, 8.0, 16.0)
MANY_SCALES = 12  # with this many, hiding a single scale says little that hiding an octave does not


@dataclass(frozen=True)
class Cut:
    """A table with its largest scales hidden: rows ``seen`` and ``hidden``, and how far the hidden ones reach."""

    seen: Mask
    hidden: Mask
    n_scales: int
    horizon: float


def cuts(observations: Observations, min_scales: int = 3) -> list[Cut]:
    """Where the table is cut: at 1/2, 1/4, 1/8 and 1/16 of the largest scale, in short tables also just below it."""
    return cuts_at(observations.x[:, 0], min_scales)


def cuts_at(x: Array, min_scales: int = 3) -> list[Cut]:
    """The same of scales [n] alone."""
    levels = np.unique(x)
    counts = [len(levels) - 1] if len(levels) < MANY_SCALES else []
    for horizon in HORIZONS:
        counts.append(int(np.sum(levels <= levels[-1] / horizon * (1 + 1e-9))))
    found = []
    if not any(min_scales <= count < len(levels) for count in counts):
        counts = [len(levels) - 1]
    for count in dict.fromkeys(counts):
        if min_scales <= count < len(levels):
            seen = x <= levels[count - 1]
            found.append(Cut(seen, ~seen, count, float(levels[-1] / levels[count - 1])))
    return found


@dataclass(frozen=True)
class FamilyResult:
    """One family on one table; ``fit`` is None when the table is too small for it, and ``note`` says so.

    Attributes:
        backtest_rmse_log, backtest_coverage: means over the cuts; coverage is of hidden scale means by the delta
            method's 90 % intervals, which trust the law.
    """

    law: Law
    fit: LawFit | None
    backtest_rmse_log: float | None
    backtest_coverage: float | None
    cut_errors: tuple[float | None, ...]
    note: str


@stepwise
def compare_families(
    observations: Observations,
    objective: Objective,
    families: tuple[str, ...] | None = None,
    weights: Array | None = None,
) -> Steps[dict[str, FamilyResult]]:
    """Fit every family to the table and to its cuts; ``weights`` [n] of the rows are 1 by default."""
    names = families or tuple(name for name in ONE_AXIS if name != "logistic")
    table_cuts = cuts(observations)
    out = {}
    for name in names:
        law = ONE_AXIS[name]
        if observations.n_scales < law.n_parameters + 1:
            note = f"not fitted: {law.n_parameters} parameters, {observations.n_scales} distinct scales"
            out[name] = FamilyResult(law, None, None, None, (None,) * len(table_cuts), note)
            continue
        fit = yield from fit_law.steps(law, observations, objective, weights)
        tested = []
        for cut in table_cuts:
            tested.append((yield from cut_quality(fit, cut)))
        known = [quality for quality in tested if quality is not None]
        error, covered = (float(np.mean(part)) for part in zip(*known, strict=True)) if known else (None, None)
        errors = tuple(None if quality is None else quality[0] for quality in tested)
        out[name] = FamilyResult(law, fit, error, covered, errors, fit_note(fit))
    return out


COVERAGE_LEVEL = 0.90


def cut_quality(fit: LawFit, cut: Cut) -> Steps[tuple[float, float] | None]:
    """Root mean squared log error on the hidden scale means, and the share of them inside the law's 90 % interval.

    None when too few scales are left for the law.
    """
    law = fit.law
    if cut.n_scales < law.n_parameters + (1 if law.n_parameters > 1 else 0):
        return None
    part = yield from fit_law.steps(law, fit.observations.keep(cut.seen), fit.objective, fit.weights[cut.seen])
    hidden = fit.observations.keep(cut.hidden)
    middle, low, high = (
        hidden.scale_means(np.log(band)) for band in delta_prediction(part, hidden.x, COVERAGE_LEVEL)
    )  # fmt: skip
    truth = hidden.scale_means(hidden.log_loss)
    return float(np.sqrt(np.mean((middle - truth) ** 2))), float(np.mean((low <= truth) & (truth <= high)))


def fit_note(fit: LawFit) -> str:
    """What a reader should know about this fit, in one line."""
    parts = []
    if not fit.converged:
        parts.append("did not converge")
    if fit.at_bound:
        parts.append(f"{', '.join(fit.at_bound)} at the bound")
    if fit.condition > 1e8:
        parts.append("parameters not identified one by one")
    if fit.n_agree == 1 and fit.n_starts > 1:
        parts.append(f"only 1 of {fit.n_starts} starts came here")
    return "; ".join(parts)


FORECAST = "forecast"
BASELINES = {"last value": last_value, "tail line": tail_line}


@dataclass(frozen=True)
class BacktestRow:
    """One predictor at one cut.

    Attributes:
        horizon: the largest scale over the largest scale seen; n_seen, n_hidden: distinct scales.
        rmse_log: root mean squared log error on the hidden rows; None when too few scales are seen.
        coverage: share of hidden rows inside the interval; interval_score: its mean score (Gneiting and Raftery 2007)
            on ln loss, small is good; None for baselines.
    """

    predictor: str
    horizon: float
    n_seen: int
    n_hidden: int
    rmse_log: float | None
    coverage: float | None
    interval_score: float | None

    @property
    def error(self) -> float | None:
        return self.rmse_log


class Row(Protocol):
    """One predictor at one cut, whatever its error is counted in."""

    @property
    def predictor(self) -> str: ...
    @property
    def horizon(self) -> float: ...
    @property
    def n_seen(self) -> int: ...
    @property
    def error(self) -> float | None: ...
    @property
    def coverage(self) -> float | None: ...
    @property
    def interval_score(self) -> float | None: ...


@dataclass(frozen=True)
class Backtest(Shown):
    """Every predictor at every cut."""

    rows: tuple[BacktestRow, ...]
    level: float
    x_name: str
    loss_name: str

    def means(self) -> dict[str, dict[str, float | None]]:
        """Per predictor the means over the cuts at which enough scales are left for it."""
        return means_of(self.rows, "rmse_log")

    def to_json(self) -> dict[str, Any]:
        return {**as_json(self), "means": self.means()}

    def summary(self) -> str:
        """A table: one line a predictor, one column a cut, with the coverage of the interval in brackets."""
        return table_of(self.rows, "rmse of ln loss", self.level)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Error against horizon, one line a predictor."""
        return draw_rows(self.rows, f"rmse of ln {self.loss_name}", ax)


def means_of(rows: Sequence[Row], error: str) -> dict[str, dict[str, float | None]]:
    """Per predictor its means over the cuts that it has an answer for; its error is called ``error``."""
    out: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(row.predictor for row in rows):
        own = [row for row in rows if row.predictor == name and row.error is not None]
        out[name] = {
            error: _mean([row.error for row in own]),
            "coverage": _mean([row.coverage for row in own]),
            "interval_score": _mean([row.interval_score for row in own]),
            "n_cuts": float(len(own)),
        }
    return out


def table_of(rows: Sequence[Row], head: str, level: float) -> str:
    """One line a predictor, one column a cut, with the coverage of the interval in brackets."""
    names = list(dict.fromkeys(row.predictor for row in rows))
    width = max(18, len(head) + 2, *(len(name) + 2 for name in names))
    horizons = list(dict.fromkeys((row.horizon, row.n_seen) for row in rows))
    lines = [f"{head:<{width}}" + "".join(f"{f'x{h:.3g} ({n} seen)':>18}" for h, n in horizons)]
    for name in names:
        cells = []
        for key in horizons:
            row = next(r for r in rows if r.predictor == name and (r.horizon, r.n_seen) == key)
            held = "" if row.coverage is None else f" ({100 * row.coverage:.0f} %)"
            cells.append(f"{'-' if row.error is None else f'{row.error:.4f}{held}':>18}")
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join([*lines, f"in brackets: hidden rows inside the {100 * level:g} % interval"])


def draw_rows(rows: Sequence[Row], label: str, ax: Axes | None) -> Axes:
    """Error against horizon, one line a predictor."""
    ax = axis_or_new(ax)
    for name in dict.fromkeys(row.predictor for row in rows):
        known = [(row.horizon, row.error) for row in rows if row.predictor == name and row.error is not None]
        width, colour = (2.5, "black") if name == FORECAST else (1.0, None)
        if known:
            ax.plot(*zip(*known, strict=True), "-o", ms=3, label=name, lw=width, color=colour)
    return finish_outside(ax, label)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def backtest(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    replicate: ArrayLike | None = None,
    level: float = 0.90,
    families: Sequence[str] | None = None,
    objective: Objective | None = None,
    x_name: str = "x",
    loss_name: str = "loss",
    noise: ArrayLike | None = None,
) -> Backtest:
    """Hide the largest scales at several cuts; compare every family, the forecast and the baselines.

    Raises:
        InputError: fewer than 4 distinct scales (3 to see and 1 to hide), or what `observe` refuses.
    """
    observations = weigh(observe(x, loss, replicate=replicate, x_name=x_name, loss_name=loss_name, noise=noise))
    objective = objective or (LogHuber() if noise is None else LeastSquares())
    if observations.n_axes != 1:
        raise InputError("a backtest needs a table with one scale axis")
    require_level(level)
    names = tuple(families) if families is not None else tuple(name for name in ONE_AXIS if name != "logistic")
    for name in names:
        require_law(name)
    found = cuts(observations)
    if not found:
        raise InputError(
            f"the table has {observations.n_scales} distinct values of '{observations.x_names[0]}'; a backtest needs "
            "at least 4 (3 to see and 1 to hide)"
        )
    rows: list[BacktestRow] = []
    for cut in found:
        rows += _at_cut(observations, cut, level, names, objective)
    return Backtest(tuple(rows), level, observations.x_names[0], observations.loss_name)


def _at_cut(
    observations: Observations, cut: Cut, level: float, names: tuple[str, ...], objective: Objective
) -> list[BacktestRow]:
    seen, hidden = observations.keep(cut.seen), observations.keep(cut.hidden)
    at, truth = hidden.x[:, 0], hidden.log_loss

    def row(name: str, bands: tuple[Array, Array, Array] | None, with_interval: bool = True) -> BacktestRow:
        if bands is None:
            return BacktestRow(name, cut.horizon, cut.n_scales, hidden.n_scales, None, None, None)
        middle, low, high = (np.log(band) for band in bands)
        error = float(np.sqrt(np.mean((middle - truth) ** 2)))
        if not with_interval:
            return BacktestRow(name, cut.horizon, cut.n_scales, hidden.n_scales, error, None, None)
        covered, score = interval_quality(truth, low, high, level)
        return BacktestRow(name, cut.horizon, cut.n_scales, hidden.n_scales, error, covered, score)

    predicted = forecast_table(seen, at, level)
    rows = [row(FORECAST, (predicted.median, predicted.low, predicted.high))]
    for name in names:
        law = ONE_AXIS[name]
        if seen.n_scales < law.n_parameters + 1:
            rows.append(row(name, None))
            continue
        rows.append(row(name, delta_prediction(fit_law(law, seen, objective), at, level)))
    for name, baseline in BASELINES.items():
        line = baseline(seen.x[:, 0], seen.loss, at)
        rows.append(row(name, (line, line, line), with_interval=False))
    return rows


def interval_quality(truth: Array, low: Array, high: Array, level: float) -> tuple[float, float]:
    """Share of ``truth`` inside [low, high] and the mean interval score: width plus 2/(1 - level) per unit missed."""
    missed = np.maximum(low - truth, 0.0) + np.maximum(truth - high, 0.0)
    return float(np.mean(missed == 0)), float(np.mean(high - low + 2 / (1 - level) * missed))
