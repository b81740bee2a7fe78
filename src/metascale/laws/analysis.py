"""Fit a law to a table and say how far it can be trusted: intervals, other families, extrapolation test, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.backtesting import FamilyResult, compare_families
from metascale.laws.evaluation import refuse_noise, weigh
from metascale.laws.families import ALIASES, ONE_AXIS, require_law
from metascale.laws.fitting import Intervals, LawFit, as_intervals, fit_law, require_level, require_scales
from metascale.laws.forecasting import SeriesPredictor, last_value, tail_line
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.observations import Array, Observations, observe, table_warnings
from metascale.laws.picture import LawPicture, plot_law
from metascale.laws.predicting import with_predictor
from metascale.laws.prediction import Prediction
from metascale.laws.record import Band, FamilyRecord, HiddenScale, Interval, LawRecord, Trend, TrendResult, save_record
from metascale.laws.scales import ScalesAnalysis, analyse_scales, any_scales
from metascale.laws.solving import Steps, stepwise
from metascale.laws.surface_fit import SurfaceAnalysis, analyse_surface
from metascale.laws.trend import answer
from metascale.laws.uncertainty import Bootstrap, bootstrap, delta_intervals, replicate_weights
from metascale.laws.verdict import (
    INTERVALS,
    WITH_A_TAIL,
    caveats,
    choose,
    describes,
    end_exponent,
    is_score,
    sentence,
    shape_words,
    trend_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INDENT = " " * 6
LOOSE, VERY_LOOSE = 1e2, 1e3  # an interval so many times as wide as its estimate identifies nothing


@dataclass(frozen=True)
class Analysis(Shown):
    """The law of a table in one scale.

    Attributes:
        families: every fitted family; ``family_intervals`` holds their parameters.
        trend_test: what the loss does along the scale, and the interval that decided.
        end_exponent: of a shifted or broken law, the exponent at the largest scale.
        extrapolation: the largest scale predicted without it; else ``extrapolation_reason`` says why there is none.
    """

    fit: LawFit
    bootstrap: Bootstrap
    families: dict[str, FamilyResult]
    family_intervals: dict[str, Intervals]
    level: float
    trend_test: TrendResult
    end_exponent: Interval | None
    verdict: str
    extrapolation: HiddenScale | None
    extrapolation_reason: str | None
    notes: tuple[str, ...]

    @property
    def trend(self) -> Trend:
        return self.trend_test.answer

    @property
    def parameters(self) -> Intervals:
        """``{"estimate", "low", "high"}`` of every parameter of the chosen law."""
        return self.family_intervals[self.fit.law.name]

    @cached_property
    def predictor(self) -> SeriesPredictor:
        """The forecast of the table, whichever law was named: no single law knows how wrong it is."""
        return SeriesPredictor.of(self.fit.observations)

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each scale, by the forecast; the law's own curve is ``fit.predict``.

        Args:
            points: scales [m], or a table with a column of them (see `read_table`).
        """
        return self.predictor.predict(points, level)

    def to_arviz(self) -> Any:
        """The bootstrap's draws for arviz; see `metascale.laws.Bootstrap`."""
        return self.bootstrap.to_arviz()

    def save(self, path: Path | str) -> None:
        """Write the law to a file, from which `metascale.laws.load_law` predicts the same."""
        save_record(path, with_predictor(self.record(), self.predictor))

    def curve(self, n_points: int = 200) -> Band:
        """The fitted curve over the table's range, with its interval."""
        levels = self.fit.observations.x[:, 0]
        x = np.geomspace(levels.min(), levels.max(), n_points)
        _, low, high = self.bootstrap.curve(x, self.level)
        middle = self.fit.predict(x)
        return Band.of(x, middle, np.minimum(low, middle), np.maximum(high, middle))

    def record(self) -> LawRecord:
        """What law.json and fit.json hold."""
        noise = self.bootstrap.noise
        return replace(
            self.fit.record(self.level, self.parameters, self.notes),
            trend=self.trend,
            trends={self.fit.observations.x_names[0]: self.trend_test},
            end_exponent=self.end_exponent,
            verdict=self.verdict,
            families={name: self._family(name, found.fit) for name, found in self.families.items() if found.fit},
            extrapolation=self.extrapolation,
            extrapolation_reason=self.extrapolation_reason,
            curve=self.curve(),
            within_scale_log=noise.within**0.5,
            misfit_log=noise.between**0.5,
        )

    def _family(self, name: str, fit: LawFit) -> FamilyRecord:
        result = self.families[name]
        return FamilyRecord(
            as_intervals(self.family_intervals[name]), fit.objective_value, fit.rmse_log, fit.finite_aicc,
            result.backtest_rmse_log, result.backtest_coverage, fit.converged, result.note,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return self.record().to_json()

    def summary(self) -> str:
        """A printable text: verdict, the law with intervals, every family, the hidden largest scale, notes."""
        observations, fit, percent = self.fit.observations, self.fit, f"{100 * self.level:g} %"
        lines = [
            self.verdict,
            "",
            f"law {fit.law.name}: {fit.law.formula}    ({observations.n} rows, {observations.n_scales} scales)",
            *(f"  {name:<8} {self._parameter(name, part, percent)}" for name, part in self.parameters.items()),
            f"  {fit.objective.name} = {fit.objective_value:.12g}, R2 of log loss {fit.r2_log:.4f}",
            "",
            f"  {'family':<18}{'rmse log':>10}{'AICc':>11}{'backtest':>10}{'90 % holds':>12}",
        ]
        for name in self.families:
            lines += self._family_lines(name)
        lines += ["", f"  {self._extrapolation_line(percent)}", *(f"  note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def _parameter(self, name: str, part: Mapping[str, float], percent: str) -> str:
        if name in self.fit.at_bound:
            return f"{part['estimate']:<14.8g} at its bound: not identified by this table"
        return f"{part['estimate']:<14.8g} {percent} interval {part['low']:.6g} to {part['high']:.6g}"

    def _family_lines(self, name: str) -> list[str]:
        """Numbers of one family, its parameters with intervals below, and what a reader should know about the fit."""
        result, mark = self.families[name], "* " if name == self.fit.law.name else "  "
        fit = result.fit
        if fit is None:
            return [f"{mark}{name:<18}{result.note}"]
        aicc = f"{fit.aicc:.2f}" if np.isfinite(fit.aicc) else "-"
        error = "-" if result.backtest_rmse_log is None else f"{result.backtest_rmse_log:.4f}"
        covered = "-" if result.backtest_coverage is None else f"{100 * result.backtest_coverage:.0f} %"
        parts = [
            f"{key} {fit.parameters[key]:.6g} (at its bound)" if key in fit.at_bound else f"{key} {with_interval(part)}"
            for key, part in self.family_intervals[name].items()
        ]
        lines = [f"{mark}{name:<18}{fit.rmse_log:>10.4f}{aicc:>11}{error:>10}{covered:>12}"]
        lines += textwrap.wrap(", ".join(parts), 79, initial_indent=INDENT, subsequent_indent=INDENT)
        return [*lines, f"{INDENT}[{result.note}]"] if result.note else lines

    def _extrapolation_line(self, percent: str) -> str:
        hidden = self.extrapolation
        if hidden is None:
            return f"extrapolation not tested: {self.extrapolation_reason}"
        baselines = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in hidden.baselines.items())
        return (
            f"largest {self.fit.observations.x_names[0]} = {hidden.x:g} hidden ('{hidden.law}' refitted): observed "
            f"{hidden.observed:.5g}, predicted {hidden.predicted:.5g} ({percent} {hidden.low:.5g} to "
            f"{hidden.high:.5g}), log error {hidden.log_error:+.4f}; baselines: {baselines}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        return plot_law(self.picture(), ax)

    def picture(self, more: dict[str, Band] | None = None, name: str = "") -> LawPicture:
        """The law over its runs, with ``more`` bands such as a forecast."""
        table = self.fit.observations
        return LawPicture.of(self.record(), table.x[:, 0], table.loss, more, name)


def with_interval(part: Mapping[str, float]) -> str:
    """Estimate and interval, or "not identified" for an interval of no use."""
    low, value, high = part["low"], part["estimate"], part["high"]
    wide = high > VERY_LOOSE * low if low > 0 else max(-low, high) > LOOSE * max(abs(value), 1.0)
    return f"{value:.6g} (not identified)" if wide else f"{value:.6g} ({low:.4g} to {high:.4g})"


@stepwise
def analyse(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    replicate: ArrayLike | None = None,
    run: ArrayLike | None = None,
    hold_out: str | None = "largest",
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    law: str = "auto",
    x_name: str = "x",
    loss_name: str = "loss",
    objective: Objective | None = None,
    weights: str | None = None,
    higher_is_better: bool | None = None,
    notes: Sequence[str] = (),
    noise: ArrayLike | None = None,
) -> Steps[Analysis]:
    """Fit a law in one scale and say how far it can be trusted.

    Args:
        x: [n] scales; loss: [n] losses; replicate: [n] seed labels, whose rows are independent runs.
        hold_out: "largest" tests the law on the largest scale, fitted without it; None skips the test.
        law: a family, or "auto": what `metascale.laws.verdict` chooses; all families are fitted either way.
        objective: Huber's function of log residuals by default; or `LeastSquares`.
        weights: "replicate" weighs every row by the inverse variance between the runs at its scale.
        noise: [n] known standard errors of the losses' evaluation: rows weigh by the inverse of that variance and the
            runs' own, and the objective is least squares by default (`metascale.laws.evaluation`).
        higher_is_better: by default told from the name of the column; shares below 1 then get the logistic law.

    Raises:
        InputError: the table cannot be fitted (see `observe`), or an unknown law.
    """
    require_level(level)
    if hold_out not in ("largest", None):
        raise InputError(f"hold_out '{hold_out}' is unknown; allowed are: 'largest', None", field="hold_out")
    observations = observe(x, loss, replicate=replicate, run=run, x_name=x_name, loss_name=loss_name, noise=noise)
    objective = objective or (LogHuber() if noise is None else LeastSquares())
    wanted = ALIASES.get(law, law)
    _require_usable(wanted, observations)
    higher = is_score(loss_name) or wanted == "logistic" if higher_is_better is None else higher_is_better
    share = wanted == "logistic" or (wanted == "auto" and higher and float(observations.loss.max()) < 1)
    names = tuple(name for name in ONE_AXIS if share or name != "logistic")
    observations = weigh(observations)
    found = yield from compare_families.steps(observations, objective, names, _row_weights(weights, observations))
    trend = trend_of(observations, level, share)
    chosen = choose(found, trend) if wanted == "auto" else wanted
    fit = found[chosen].fit
    assert fit is not None
    intervals, samples = yield from _family_intervals(found, chosen, trend, (level, n_bootstrap, seed))
    sample = samples[chosen]
    end = end_exponent(sample, level) if chosen in WITH_A_TAIL else None
    others = [name for name, one in found.items() if name not in ("none", chosen) and one.fit and describes(one.fit)]
    described = trend.answer in ("none", "undecided") or describes(fit)
    shape = shape_words(chosen, intervals, end, described, others)
    verdict = sentence(observations, trend, shape, higher=higher, share=share, noise=sample.noise)
    all_notes = (*notes, *observations.notes, *table_warnings(observations), sample.how)
    all_notes += tuple(caveats(found, chosen, fit, sample.noise))
    tested: HiddenScale | str = "not asked for"
    if hold_out:
        tested = yield from _extrapolate(fit, level, n_bootstrap, seed)
    if trend.answer == "not monotone":
        tested = "the curve turns, and no law of what comes next follows from it"
    hidden, reason = (None, tested) if isinstance(tested, str) else (tested, None)
    return Analysis(fit, sample, found, intervals, level, trend, end, verdict, hidden, reason, all_notes)


def _row_weights(weights: str | None, observations: Observations) -> Array | None:
    if weights not in (None, "replicate"):
        raise InputError(f"weights '{weights}' is unknown; allowed are: None, 'replicate'", field="weights")
    if weights and observations.error is not None:
        raise InputError("`weights` and `noise` cannot go together: both say what a row weighs", field="weights")
    return replicate_weights(observations) if weights else None


def _require_usable(wanted: str, observations: Observations) -> None:
    """Refuse an unknown law, and a table that is not for it or has fewer distinct scales than parameters + 1."""
    if wanted != "auto":
        require_law(wanted, "auto")
    if wanted == "logistic" and observations.loss.max() >= 1:
        raise InputError(
            f"'{observations.loss_name}' reaches {observations.loss.max():g}; the law 'logistic' is for shares between "
            "0 and 1, such as accuracies (divide per cent by 100)"
        )
    require_scales(observations, "power" if wanted == "auto" else wanted)


@stepwise
def fit(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    law: str = "auto",
    replicate: ArrayLike | None = None,
    run: ArrayLike | None = None,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    x_name: str | Sequence[str] | None = None,
    loss_name: str = "loss",
    objective: Objective | None = None,
    weights: str | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    noise: ArrayLike | None = None,
) -> Steps[Analysis | SurfaceAnalysis | ScalesAnalysis]:
    """Fit a law with intervals: in one scale for ``x`` [n], in several for ``x`` [n, d].

    The arguments are those of `analyse`, `analyse_surface` (model size and data) and `analyse_scales` (other scales, a
    formula, a law of the library, losses that are not all positive), which say what each table allows. Two columns are
    model size and data where ``x_name`` says so, or where no names are given.

    Raises:
        InputError: the table cannot be fitted; the message says why.
    """
    shape = np.shape(x)
    n_scales = shape[1] if len(shape) == 2 else 1
    names = _names(x_name, n_scales)
    if any_scales(law, names, np.asarray(loss, float)):
        if weights is not None:
            raise InputError("weights by replicate variance are for tables with one scale", field="weights")
        refuse_noise(noise)
        columns = np.reshape(x, (len(np.asarray(loss)), -1))
        return analyse_scales(
            columns, loss, law=law, x_name=names, run=run, replicate=replicate, level=level,
            loss_name=loss_name, objective=objective, bounds=bounds, fixed=fixed, notes=notes,
        )  # fmt: skip
    if bounds or fixed:
        raise InputError("`bounds` and `fixed` are for a formula or a law of the library", field="law")
    if len(shape) == 2 and shape[1] > 1:
        if weights is not None:
            raise InputError("weights by replicate variance are for tables with one scale", field="weights")
        return analyse_surface(
            x, loss, law=law, run=run, replicate=replicate, level=level, n_bootstrap=n_bootstrap, seed=seed,
            x_name=names, loss_name=loss_name, objective=objective, notes=notes, noise=noise,
        )  # fmt: skip
    return (yield from analyse.steps(
        np.reshape(x, -1) if len(shape) == 2 else x, loss, replicate=replicate, run=run, level=level,
        n_bootstrap=n_bootstrap, seed=seed, law=law, x_name=names[0], loss_name=loss_name, objective=objective,
        weights=weights, notes=notes, noise=noise,
    ))  # fmt: skip


def _names(given: str | Sequence[str] | None, n_scales: int) -> tuple[str, ...]:
    """Of the scales: N, D, U and x4, x5 ... where several have no names."""
    if given and not (isinstance(given, str) and n_scales > 1):
        return (given,) if isinstance(given, str) else tuple(given)
    return ("x",) if n_scales == 1 else (*"NDU", *(f"x{k + 4}" for k in range(n_scales)))[:n_scales]


def _family_intervals(
    families: dict[str, FamilyResult], chosen: str, trend: TrendResult, options: tuple[float, int, int]
) -> Steps[tuple[dict[str, Intervals], dict[str, Bootstrap]]]:
    """Bootstrap intervals for the constant, the power laws and the chosen law, delta-method ones for the others.

    Where the interval of the plain exponent and that of the trend disagree about 0, the latter stands: it allows for
    other shapes than the straight line, and it decided.
    """
    level, n_bootstrap, seed = options
    intervals, samples = {}, {}
    for name, result in families.items():
        if result.fit is None:
            continue
        if name in (*INTERVALS, chosen):
            samples[name] = yield from bootstrap.steps(result.fit, n_bootstrap, seed=seed)
            intervals[name] = samples[name].intervals(level)
        else:
            intervals[name] = delta_intervals(result.fit, level)
    own, decided = intervals["power"]["alpha"], trend.exponent
    if decided and trend.answer != "not monotone" and answer(Interval(**own)) != trend.answer:
        low, high = min(decided.low, own["estimate"]), max(decided.high, own["estimate"])
        intervals["power"]["alpha"] = {"estimate": own["estimate"], "low": low, "high": high}
    return intervals, samples


def _extrapolate(fit: LawFit, level: float, n_bootstrap: int, seed: int) -> Steps[HiddenScale | str]:
    """The chosen law fitted without the largest scale predicts it, beside the two baselines; or why it cannot."""
    observations, law = fit.observations, fit.law
    x = observations.x[:, 0]
    seen = x < x.max()
    rest = observations.keep(seen)
    if rest.n_scales < law.n_parameters + 1:
        # Too few scales are left for the chosen law: the plain power law is tested in its place, and named.
        law = ONE_AXIS["power"]
    if rest.n_scales < law.n_parameters + 1:
        return f"without the largest scale {rest.n_scales} are left; even 'power' needs 3"
    without = yield from fit_law.steps(law, rest, fit.objective, fit.weights[seen])
    sample = yield from bootstrap.steps(without, n_bootstrap, seed=seed)
    observed = float(np.exp(observations.log_loss[~seen].mean()))
    said = sample.predict_mean(float(x.max()), level, int((~seen).sum()), (seed, 202))
    return HiddenScale(
        x=float(x.max()),
        law=law.name,
        observed=observed,
        predicted=said.estimate,
        low=said.low,
        high=said.high,
        log_error=float(np.log(said.estimate / observed)),
        baselines={
            "last_value": float(last_value(rest.x, rest.loss, [x.max()])[0]),
            "tail_line": float(tail_line(rest.x, rest.loss, [x.max()])[0]),
        },
    )
