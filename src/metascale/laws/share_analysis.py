"""The law of a share metric against its scales: shapes fitted, trend, and predictions that stay between 0 and 1.

`analyse_shares` is what `fit` does with accuracies, pass rates and error rates; `metascale.laws.share_predictor` is
what predicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.fitting import require_level
from metascale.laws.mixture import sites_of
from metascale.laws.observations import Array, observe
from metascale.laws.picture import BLUE, axis_or_new, draw_band, finish
from metascale.laws.prediction import Prediction
from metascale.laws.record import (
    Band,
    FamilyRecord,
    Interval,
    LawRecord,
    TrendResult,
    save_record,
)
from metascale.laws.share_predictor import SharePredictor
from metascale.laws.shares import (
    Metric,
    ShareFit,
    between_runs,
    curve,
    fit_share,
    forms_of,
    intervals_of,
    metric_of,
)
from metascale.laws.trend import MATTERS, answer, drop, turn_test

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVIDENT = 2.0  # a criterion (QAICc) lower by this much: a chance or a ceiling is in the table
CREDIBLE = 6.0  # shapes whose criterion is higher by more have no say in predictions


@dataclass(frozen=True)
class ShareAnalysis(Shown):
    """The law of a share.

    Attributes:
        x: [n, d]; successes: [n] shares of successes; trials: [n], infinite where unknown.
        fits: every shape by its name; chosen: the one that is reported.
        criteria: QAICc of every shape. chance: "given", "fitted" or "none".
        trend_test: of the metric as the column has it: "rises" where it grows with the only scale.
    """

    metric: Metric
    x: Array
    x_names: tuple[str, ...]
    successes: Array
    trials: Array
    fits: Mapping[str, ShareFit]
    criteria: Mapping[str, float]
    chosen: str
    chance: str
    level: float
    trends: Mapping[str, TrendResult]
    log: bool
    notes: tuple[str, ...]

    @property
    def fit(self) -> ShareFit:
        return self.fits[self.chosen]

    @property
    def trend(self) -> str:
        answers = {one.answer for one in self.trends.values()}
        return next(iter(answers)) if len(answers) == 1 else "unknown"

    @property
    def names(self) -> tuple[str, ...]:
        slopes = ("b",) if len(self.x_names) == 1 else tuple(f"b_{name}" for name in self.x_names)
        return ("a", *slopes, "chance", "missed")

    @property
    def parameters(self) -> dict[str, Interval]:
        """Of a, b, chance and missed, of shares of successes whatever the column counts."""
        return intervals_of(self.fit, self.names, self.level)

    @property
    def predictor(self) -> SharePredictor:
        """The shapes that the table does not speak against, the likelier ones with more weight."""
        kept = [name for name in self.fits if self.criteria[name] <= min(self.criteria.values()) + CREDIBLE]
        kept = kept or [self.chosen]
        raw = np.exp(
            -0.5 * np.array([self.criteria[name] - min(self.criteria[other] for other in kept) for name in kept])
        )
        return self.predictor_of(kept, 0.5 * raw / raw.sum() + 0.5 / len(kept))

    def predictor_of(self, kept: Sequence[str], weights: ArrayLike) -> SharePredictor:
        """Of these shapes with these weights, which sum to 1."""
        fits = [self.fits[name] for name in kept]
        return SharePredictor(
            self.metric, self.x_names, self.names, np.array([fit.theta for fit in fits]),
            np.array([fit.covariance for fit in fits]), np.array([float(fit.freedom) for fit in fits]),
            np.asarray(weights, float),
            self.fit.between, float(np.median(self.trials)), self.log, self.x.min(0), self.x.max(0),
            sites_of(self.x) if self.log else np.unique(self.x, axis=0),
        )  # fmt: skip

    @property
    def verdict(self) -> str:
        """What the metric does along every scale, and what its chance is."""
        words = "; ".join(_trend_words(axis, trend, self.metric, self.log) for axis, trend in self.trends.items())
        return f"{self.metric.name} {words}; {self._bounds_words()}."

    def _bounds_words(self) -> str:
        found, unit = self.parameters, self.metric.unit
        mark = " %" if unit > 1 else ""
        chance = found["chance"]
        words = {
            "given": f"chance {unit * chance.estimate:.4g}{mark} as given",
            "fitted": f"chance fitted as {unit * chance.estimate:.4g}{mark} "
            f"({unit * chance.low:.3g} to {unit * chance.high:.3g})",
            "none": "no chance level in the table",
        }[self.chance]
        if self.fit.form.misses:
            missed = found["missed"]
            words += (f", and {unit * missed.estimate:.3g}{mark} ({unit * missed.low:.2g} to {unit * missed.high:.2g}) "
                      "is missed at every scale of the table")  # fmt: skip
        return words

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run, in the unit of the column, at scales [m] or rows [m, d]."""
        return self.predictor.predict(points, level)

    def save(self, path: Path | str) -> None:
        """Write the law to a file, from which `metascale.laws.load_law` predicts the same."""
        save_record(path, self.record())

    def summary(self) -> str:
        fit, percent = self.fit, f"{100 * self.level:g} %"
        counted = np.isfinite(self.trials)
        lines = [
            self.verdict, "",
            f"law {self.chosen}: {self.formula}    ({len(self.successes)} rows; quasi-likelihood)",
        ]  # fmt: skip
        fixed = ~fit.form.free(len(self.x_names))
        for k, (name, part) in enumerate(self.parameters.items()):
            known = "fixed" if fixed[k] else f"{percent} interval {part.low:.6g} to {part.high:.6g}"
            lines.append(f"  {name:<8} {part.estimate:<14.8g} {known}")
        spread = 100 * float(np.sqrt(fit.between)) * 0.5
        lines.append(
            f"  runs of one scale differ by {spread:.2g} points (SD, at one half)"
            + (" beyond counting" if counted.any() else ", counting noise included")
        )
        best = min(self.criteria.values())
        lines += ["", "  shape: QAICc above the best: " + ", ".join(
            f"{name} {value - best:.2f}" for name, value in self.criteria.items() if np.isfinite(value)
        )]  # fmt: skip
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @property
    def formula(self) -> str:
        inside = " + ".join(["a", *(
            f"{name} {f'ln {axis}' if self.log else axis}"
            for name, axis in zip(self.names[1:-2], self.x_names, strict=True)
        )])  # fmt: skip
        succeed = f"1 - {self.metric.name}" if self.metric.flipped else self.metric.name
        succeed += f" / {self.metric.unit:g}" if self.metric.unit > 1 and not self.metric.flipped else ""
        if self.metric.flipped and self.metric.unit > 1:
            succeed = f"1 - {self.metric.name} / {self.metric.unit:g}"
        return f"{succeed} = chance + (1 - chance - missed) / (1 + exp(-({inside})))"

    def record(self) -> LawRecord:
        """What law.json and fit.json hold."""
        families = {
            name: FamilyRecord(intervals_of(fit, self.names, self.level), fit.deviance,
                               aicc=self.criteria[name] if np.isfinite(self.criteria[name]) else None,
                               converged=fit.converged)
            for name, fit in self.fits.items()
        }  # fmt: skip
        trends = self.trends if len(self.x_names) > 1 else {self.x_names[0]: next(iter(self.trends.values()))}
        only = next(iter(trends.values())).answer if len({one.answer for one in trends.values()}) == 1 else "unknown"
        return LawRecord(
            law=self.chosen, formula=self.formula, x_names=self.x_names, loss_name=self.metric.name, level=self.level,
            parameters=self.parameters, trend=only, trends=trends, verdict=self.verdict, families=families,
            extrapolation_reason="shares are not tested on a hidden scale", curve=self._curve,
            objective=self.fit.deviance, objective_name="quasi-deviance", n_observations=len(self.successes),
            n_scales=len(np.unique(self.x, axis=0)), notes=self.notes, predictor=self.predictor.record(),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found = self.record().to_json()
        found.pop("predictor", None)
        return {**found, "chance": self.chance, "between_runs": self.fit.between}

    @cached_property
    def _curve(self) -> Band | None:
        return self.band()

    def band(self, n_points: int = 60, beyond: float = 1.0) -> Band | None:
        """The curve with the interval of one run, in one scale; up to ``beyond`` times the largest one."""
        if len(self.x_names) > 1:
            return None
        ends = float(self.x.min()), float(self.x.max()) * beyond
        at = np.geomspace(*ends, n_points) if self.log else np.linspace(*ends, n_points)
        found = self.predict(at, 0.90)
        return Band.of(at, found.median, found.low, found.high)

    def plot(self, ax: Axes | None = None, beyond: float = 4.0) -> Axes:
        """The rows and the curve of a new run; of several scales observed against predicted shares."""
        ax, band = axis_or_new(ax), self.band(beyond=beyond if self.log else 1.0)
        seen = self.metric.written(self.successes)
        if band is None:
            predicted = self.predict(self.x).median
            ax.plot(predicted, seen, "o", ms=3, alpha=0.6, color=BLUE)
            ax.axline((0, 0), slope=1, color="0.6", lw=1)
            return finish(
                ax, f"predicted {self.metric.name}", f"observed {self.metric.name}", x_scale="linear", y_scale="linear"
            )
        draw_band(ax, band, BLUE, "one new run (90 %)")
        ax.plot(self.x[:, 0], seen, "o", ms=4, alpha=0.6, color=BLUE, label="runs")
        return finish(ax, self.x_names[0], self.metric.name, x_scale="log" if self.log else "linear", y_scale="linear")


def _trend_words(axis: str, trend: TrendResult, metric: Metric, log: bool) -> str:
    better = (trend.answer == "rises") != metric.flipped
    if not log and trend.exponent is not None:  # a link: more loss is worse whatever it is called
        slope = Interval(-trend.exponent.estimate, -trend.exponent.high, -trend.exponent.low)
        return (f"changes with {axis} by {slope.estimate:.3g} ({slope.low:.3g} to {slope.high:.3g}) in the log of its "
                "odds per unit")  # fmt: skip
    if trend.exponent is None:
        return f"is {trend.answer} with {axis}"
    growth = trend.exponent  # minus the slope of the metric's own log odds
    if trend.answer in ("falls", "rises"):
        sign = -1 if trend.answer == "rises" else 1
        low, high = sorted((sign * growth.low, sign * growth.high))
        verb = trend.answer if better else trend.answer.upper()
        return (f"{verb} with {axis}: its odds {'grow' if trend.answer == 'rises' else 'shrink'} as "
                f"{axis}^{sign * growth.estimate:.3g} ({low:.3g} to {high:.3g})")  # fmt: skip
    if trend.answer == "not monotone":
        return f"is not monotone in {axis}"
    if trend.answer == "none":
        return f"has no trend in {axis}: its odds change by at most {100 * MATTERS:g} % per factor of 10"
    change = 100 * max(drop(abs(growth.low)), drop(abs(growth.high)))
    return f"is undecided in {axis}: its odds may still change by {change:.3g} % per factor of 10"


def analyse_shares(
    x: ArrayLike,
    values: ArrayLike,
    *,
    metric: Metric | None = None,
    kind: str | None = None,
    chance: float | None = None,
    trials: ArrayLike | None = None,
    x_name: str | Sequence[str] = "x",
    loss_name: str = "accuracy",
    level: float = 0.95,
    log: bool = True,
    notes: Sequence[str] = (),
) -> ShareAnalysis:
    """Fit the logistic law of a share against any number of scales.

    Args:
        x: [n] or [n, d] positive scales; values: [n] shares, of failures where ``kind`` is "error".
        chance: share of successes (in the unit of the column) that guessing has; None: fitted where the table has one.
        trials: [n], or one number, questions that a row's share was counted over.
        log: the odds are linear in ln x; False: in x itself.

    Raises:
        InputError: values that are no shares, or fewer distinct scales than parameters + 1.

    Example:
        >>> found = analyse_shares([1e6, 1e7, 1e8, 1e9], [.27, .40, .71, .90], chance=.25)
        >>> found.trend, found.chance
        ('rises', 'given')
    """
    require_level(level)
    names = (x_name,) if isinstance(x_name, str) else tuple(x_name)
    given = np.asarray(values, float)
    known = metric or metric_of(loss_name, given, kind or "share")
    assert known is not None
    successes = known.successes(given)
    scales = np.asarray(x, float)
    table = observe(scales, given, x_name=names, loss_name=loss_name, signed=True, replicate=np.arange(len(given)))
    order = np.lexsort(scales.reshape(len(given), -1).T[::-1])
    counted = _trials(trials, len(given))[order]
    floor = _floor(chance, known)
    t, y = table.log_x if log else table.x, successes[order]
    fits = _fits(t, y, counted, floor, table.n_scales, names)
    criteria = _criteria(fits, t, y, counted)
    base = next(iter(fits))
    best = min(criteria, key=lambda name: criteria[name])
    chosen = best if criteria[best] < criteria[base] - EVIDENT else base
    told = "given" if floor is not None else "fitted" if fits[chosen].form.floor is None else "none"
    trends = _trends(t, y, fits[chosen], table.x_names, known, level)
    return ShareAnalysis(
        known, table.x, table.x_names, y, counted, fits, criteria, chosen, told, level, trends, log,
        (*notes, *table.notes, *_notes(known, counted, floor, told, fits[chosen])),
    )  # fmt: skip


def _trials(trials: ArrayLike | None, n: int) -> Array:
    if trials is None:
        return np.full(n, np.inf)
    found = np.broadcast_to(np.asarray(trials, float), (n,))
    if not (np.isfinite(found).all() and (found >= 1).all()):
        raise InputError("`trials` must be numbers of questions, at least 1 in every row", field="trials")
    return np.array(found)


def _floor(chance: float | None, metric: Metric) -> float | None:
    """The chance of success that was given, as a share."""
    if chance is None:
        return None
    floor = chance / metric.unit
    if not 0 <= floor < 0.95:
        raise InputError(
            f"`chance` is {chance:g}; it is a share of successes of '{metric.name}', from 0 to {0.95 * metric.unit:g}",
            field="chance", value=chance,
        )  # fmt: skip
    return floor


def _fits(
    t: Array, y: Array, trials: Array, floor: float | None, n_scales: int, names: Sequence[str]
) -> dict[str, ShareFit]:
    """The shapes that the table has enough distinct scales for."""
    found: dict[str, ShareFit] = {}
    for form in forms_of(floor):
        n_fitted = int(form.free(t.shape[1]).sum())
        if n_scales < n_fitted + 1:
            if not found:
                raise InputError(
                    f"the table has {n_scales} distinct values of '{', '.join(names)}' in {len(y)} rows; the law "
                    f"'logistic' needs at least {n_fitted + 1}"
                )
            continue
        found[form.name] = fit_share(form, t, y, trials)
    return found


def _criteria(fits: Mapping[str, ShareFit], t: Array, y: Array, trials: Array) -> dict[str, float]:
    """QAICc of every shape (Lebreton et al. 1992, Ecol. Monogr. 62, 67) at the ρ of the richest one."""
    widest = max(fits.values(), key=lambda fit: fit.n_fitted)
    p = curve(widest.theta[None], t)[0]
    between = max(between_runs(p, y, trials, widest.freedom), 0.0 if np.isfinite(trials).any() else 1e-10)
    found = {}
    for name, fit in fits.items():
        k, n = fit.n_fitted + 1, len(y)
        deviance = fit_share(fit.form, t, y, trials, between).deviance
        found[name] = deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else float("inf")
    base = next(iter(found))
    if not np.isfinite(found[base]):
        found[base] = 0.0
    return found


def _trends(
    t: Array, y: Array, fit: ShareFit, names: Sequence[str], metric: Metric, level: float
) -> dict[str, TrendResult]:
    """By the interval of the slope of the odds; a curve that turns is not monotone. As the column counts."""
    reach = float(stdtrit(fit.freedom, (1 + level) / 2))
    found = {}
    for axis, name in enumerate(names):
        slope, error = float(fit.slopes[axis]), float(np.sqrt(fit.covariance[axis + 1, axis + 1]))
        sign = 1.0 if metric.flipped else -1.0
        ends = sorted((sign * (slope - reach * error), sign * (slope + reach * error)))
        exponent = Interval(sign * slope, *ends)
        found[name] = TrendResult(answer(exponent), exponent, level)
    if len(names) == 1 and np.ptp(y) > 0:
        squeezed = (y * (len(y) - 1) + 0.5) / len(y)  # of Smithson and Verkuilen 2006: off the bounds
        odds = np.log(squeezed) - np.log1p(-squeezed)
        turned = turn_test(t[:, 0], -odds if metric.flipped else odds, level)
        if turned is not None:
            found[names[0]] = turned
    return found


def _notes(metric: Metric, trials: Array, floor: float | None, told: str, fit: ShareFit) -> list[str]:
    notes = []
    what = "a share of failures" if metric.flipped else "a share of successes"
    notes.append(
        f"'{metric.name}' is read as {what}{', in per cent' if metric.unit > 1 else ''} (`kind` says otherwise)"
    )
    if floor is None:
        notes.append(
            "the chance level is fitted; where the number of choices is known, give it as `chance`" if told == "fitted"
            else "no chance level is given, and the table shows none: 0 is taken; a task with k choices has 1 / k "
            "(`chance`)"
        )  # fmt: skip
    if not np.isfinite(trials).any():
        notes.append(
            "without the number of questions (`trials`) the noise is told from the scatter about the law alone"
        )
    if not fit.converged:
        notes.append("the fit did not converge: its parameters are not identified by this table")
    return notes
