"""Choosing among forms by hidden corners: the table without its most expensive rows, along each scale and together.

What a form predicts for the rows that it did not see weighs it; what the weighted forms together predict for them sets
how fast the discrepancy of the mixture grows with distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.descent import Link
from metascale.laws.formula import Formula, FormulaFit, link_of, robust_fit
from metascale.laws.mixture import (
    Component,
    Mixture,
    distances,
    quantiles,
    sites_of,
    tame,
    weights_at,
    widen,
)
from metascale.laws.observations import Array, Mask, Observations, require_varied
from metascale.laws.picture import axis_or_new
from metascale.laws.space import forms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT = (0.6, 0.75, 0.9)  # shares of the rows that stay when the largest products of scales are hidden
FEWEST_KEPT, FEWEST_HIDDEN = 0.5, 4  # a cut that leaves less, or hides less, is none
POWER = 4.0  # a form's weight falls with this power of its error
LOST = 2.5  # a form with so many times the best error is left out
HOPELESS = 4.0  # and with so many times in the first cut it is not tried on the others
MOST_ROWS = 400  # of a cut; more are thinned evenly
MOST_FITTED = 4000  # of the whole table
COVERED = 0.90
SPREADS = (0.7, 0.8, 0.9)  # tried where the corners' intervals are too wide


@dataclass(frozen=True)
class Corner:
    """One backtest: rows hidden, and what every form said of them.

    Attributes:
        mean, own: [F, h] predictions on the scale of the residuals and their variances; target: [h]; noise: [F].
        distance: [h] from the rows that were kept, in ln units.
    """

    name: str
    hidden: Mask
    mean: Array
    own: Array
    noise: Array
    target: Array
    distance: Array

    @cached_property
    def errors(self) -> Array:
        """[F] root mean square; infinite where a form had no answer."""
        with np.errstate(all="ignore"):
            return np.asarray(np.nan_to_num(np.sqrt(((self.mean - self.target) ** 2).mean(1)), nan=np.inf))


@dataclass(frozen=True)
class Choice:
    """The forms that survived, their fits to the whole table, and the corners they were judged by.

    Attributes:
        fits: by name, best first; weights: [F] sum to 1; scores: [F] mean error over the corners, 1 for the best.
        tried: names of all forms, survivors or not.
    """

    fits: tuple[FormulaFit, ...]
    weights: Array
    scores: Array
    corners: tuple[Corner, ...]
    mixture: Mixture
    tried: tuple[str, ...]
    notes: tuple[str, ...]


def corners(x: Array) -> list[tuple[str, Mask]]:
    """Names and kept rows of the cuts: by the product of all scales, and by each scale alone."""
    logs, n = np.log(x), len(x)
    products = logs.sum(1)
    found = [(f"top {100 * (1 - kept):.0f} % of the product", products <= np.quantile(products, kept)) for kept in KEPT]
    for k in range(x.shape[1] if x.shape[1] > 1 else 0):
        levels = np.unique(logs[:, k])
        few = len(levels) <= 10
        tops = levels[[-1, -2]] if few and len(levels) > 2 else np.quantile(logs[:, k], [0.9, 0.75])
        found += [
            (f"top of scale {k + 1}", logs[:, k] < tops[0]),
            (f"upper part of scale {k + 1}", logs[:, k] < tops[1]),
        ]
    seen: set[bytes] = set()
    usable = []
    for name, kept in found:
        enough = kept.sum() >= max(FEWEST_KEPT * n, 3) and (~kept).sum() >= min(FEWEST_HIDDEN, max(1, n // 6))
        if enough and kept.tobytes() not in seen:
            seen.add(kept.tobytes())
            usable.append((name, np.asarray(kept)))
    return usable


def choose(observations: Observations, laws: Sequence[Formula] | None = None) -> Choice:
    """Fit every form, judge it on the corners, and join the survivors into a predictor.

    Args:
        laws: forms to choose among; by default those of `metascale.laws.space`.

    Raises:
        InputError: no form can be fitted to the table, two have one name; or, by default, all rows have one value of a
            scale, along which nothing can then be said.
    """
    if laws is None:
        require_varied(observations)
    link = link_of(observations.loss)
    table, notes = _thinned(observations, MOST_FITTED)
    names = [law.name for law in laws or ()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two laws are named '{twice}'; give each a name of its own", field="laws", value=twice)
    given = laws if laws is not None else list(forms(table.x_names, table.x, link).values())
    tried = {law.name: law for law in given if _carries(law, table)}
    fits = {name: fit for name, law in tried.items() if (fit := robust_fit(law, table, link)) is not None}
    if not fits:
        raise InputError(
            f"no form can be fitted to a table of {table.n} rows and {table.n_scales} distinct scales", field="x"
        )
    alive = list(fits)
    judged: list[tuple[str, Mask, dict[str, tuple[Array, Array, float]]]] = []
    for name, kept in sorted(corners(table.x), key=lambda cut: cut[0] != "top 25 % of the product"):
        part = {law: _judge(tried[law], table, kept, link) for law in alive}
        judged.append((name, kept, {law: found for law, found in part.items() if found is not None}))
        alive = [law for law in alive if law in judged[-1][2]]
        if len(judged) == 1 and laws is None:
            alive = _hopeful(alive, judged[0], table, link)
    if not alive:
        raise InputError("no form predicts the hidden corners of the table with finite numbers", field="x")
    found = tuple(_corner(name, kept, said, alive, table, link) for name, kept, said in judged)
    scores = scores_of(found, len(alive))
    weights = np.where(scores <= LOST, scores**-POWER, 0.0)
    order = [k for k in np.argsort(scores, kind="stable") if weights[k] > 0]
    weights = weights[order] / weights[order].sum()
    found = tuple(replace(one, mean=one.mean[order], own=one.own[order], noise=one.noise[order]) for one in found)
    chosen = tuple(fits[alive[k]] for k in order)
    mixture = mix(chosen, weights, found, observations)
    return Choice(chosen, weights, scores[order], found, mixture, tuple(tried), notes)


def _carries(law: Formula, table: Observations) -> bool:
    """Whether the table has rows enough: with priors the parameters may nearly be as many as the scales."""
    return len(law.expression.parameters) <= max(table.n_scales - 2, 1)


def _thinned(table: Observations, most: int) -> tuple[Observations, tuple[str, ...]]:
    if table.n <= most:
        return table, ()
    order = np.argsort(table.log_x.sum(1), kind="stable")
    rows = np.zeros(table.n, bool)
    rows[order[np.linspace(0, table.n - 1, most).astype(int)]] = True
    return table.keep(rows), (f"forms are chosen on {most} of the {table.n} rows, evenly along their scales",)


def _judge(law: Formula, table: Observations, kept: Mask, link: Link) -> tuple[Array, Array, float] | None:
    part, _ = _thinned(table.keep(kept), MOST_ROWS)
    fit = robust_fit(law, part, link, count=4, tolerance=1e-4)
    if fit is None:
        return None
    component = Component(law.name, law.expression, 1.0, fit.theta, fit.covariance, fit.noise)
    mean, own = component.at(table.x[~kept], link)
    return mean, own, fit.noise


def _target(table: Observations, link: Link) -> Array:
    return table.log_loss if link == "log" else table.loss


def _hopeful(
    alive: list[str], first: tuple[str, Mask, dict[str, tuple[Array, Array, float]]], table: Observations, link: Link
) -> list[str]:
    corner = _corner(*first, alive, table, link)
    return [law for law, error in zip(alive, corner.errors, strict=True) if error <= HOPELESS * _reference(corner)]


def _corner(
    name: str, kept: Mask, said: dict[str, tuple[Array, Array, float]], alive: Sequence[str], table: Observations,
    link: Link,
) -> Corner:  # fmt: skip
    mean, own, noise = (np.array([said[law][k] for law in alive]) for k in range(3))
    distance = distances(table.log_x[~kept], sites_of(table.x[kept]))
    return Corner(name, ~kept, mean, own, noise, _target(table, link)[~kept], distance)


def _reference(corner: Corner) -> float:
    """The median error of the five best forms: one lucky form is not the measure of the others."""
    return max(float(np.median(np.sort(corner.errors)[:5])), 1e-12)


def scores_of(found: Sequence[Corner], n_forms: int) -> Array:
    """[F] geometric mean over the corners of a form's error in units of the good ones', 1 for the best."""
    if not found:
        return np.ones(n_forms)
    with np.errstate(over="ignore"):  # the error of a form that ran away may be near the largest float
        logs = np.array([np.log(np.clip(one.errors / _reference(one), 1e-3, 1e6)) for one in found]).mean(0)
    return np.asarray(np.exp(logs - logs.min()))


def mix(fits: Sequence[FormulaFit], weights: Array, found: Sequence[Corner], observations: Observations) -> Mixture:
    """The predictor of these fits; its discrepancy is such that the corners' intervals hold `COVERED` of their rows."""
    noises = np.array([fit.noise for fit in fits])
    order = np.argsort(noises)
    middle = int(np.searchsorted(np.cumsum(weights[order]), 0.5))
    noise = float(noises[order][min(middle, len(noises) - 1)])
    growth, spread = calibrate(found, weights)
    components = tuple(
        Component(fit.formula.name, fit.formula.expression, float(weight), fit.theta, fit.covariance, fit.noise)
        for fit, weight in zip(fits, weights, strict=True)
    )
    x = observations.x
    return Mixture(
        components, fits[0].link, observations.x_names, observations.loss_name, noise, growth, spread, x.min(0),
        x.max(0), sites_of(x),
    )  # fmt: skip


def calibrate(found: Sequence[Corner], weights: Array) -> tuple[float, float]:
    """Growth of the discrepancy, and the factor on what the forms disagree by, at which corners are covered."""
    if not found:
        return 0.0, 1.0

    def covered(growth: float, spread: float) -> float:
        return float(np.mean([_covered(one, weights, growth, spread) for one in found]))

    if covered(0.0, 1.0) >= COVERED:
        for spread in SPREADS:
            if covered(0.0, spread) >= COVERED:
                return 0.0, spread
        return 0.0, 1.0
    unit = float(np.median([_reference(one) / max(float(np.median(one.distance)), 1e-6) for one in found]))
    low, high = 0.0, 1.0
    while covered(high * unit, 1.0) < COVERED and high < 1e3:
        high *= 2
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if covered(middle * unit, 1.0) >= COVERED else (middle, high)
    return high * unit, 1.0


def _covered(one: Corner, weights: Array, growth: float, spread: float) -> float:
    ends = corner_ends(one, weights, growth, spread, COVERED)
    return float(np.mean((one.target >= ends[1]) & (one.target <= ends[2])))


@dataclass(frozen=True)
class CornerTest(Shown):
    """How the forms and the mixture predicted each hidden corner, with weights from the other corners alone.

    Attributes:
        errors: by form, its root mean square error in each corner (of ln loss, or of the loss where it is signed).
        mixture, coverage, hidden: the same of the mixture, the share of rows that its intervals hold, and their number.
        metric: what errors are of where it is no loss.
    """

    corners: tuple[str, ...]
    errors: dict[str, tuple[float, ...]]
    mixture: tuple[float, ...]
    coverage: tuple[float, ...]
    hidden: tuple[int, ...]
    level: float
    link: Link
    metric: str = ""

    @property
    def measured(self) -> str:
        """What errors are of."""
        return self.metric or ("ln loss" if self.link == "log" else "loss")

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"corner": name, "hidden": self.hidden[k], "rmse": self.mixture[k], "coverage": self.coverage[k],
             **{form: errors[k] for form, errors in self.errors.items()}}
            for k, name in enumerate(self.corners)
        ]  # fmt: skip
        return {"level": self.level, "residuals": self.measured, "corners": rows}

    def summary(self) -> str:
        percent, width = f"{100 * self.level:g} %", max(18, len(f"rmse of {self.measured}") + 2)
        lines = [
            f"{'hidden corner':<28}{'rows':>6}{f'rmse of {self.measured}':>{width}}{f'inside {percent}':>14}  best form"
        ]
        for k, name in enumerate(self.corners):
            best = min(self.errors, key=lambda form: self.errors[form][k])
            lines.append(
                f"{name:<28}{self.hidden[k]:>6}{self.mixture[k]:>{width}.4g}{100 * self.coverage[k]:>12.0f} %"
                f"  {best} ({self.errors[best][k]:.4g})"
            )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Error in every hidden corner: of the mixture, and of the five forms with the least mean."""
        ax, places = axis_or_new(ax), np.arange(len(self.corners))
        best = sorted(self.errors, key=lambda form: float(np.mean(self.errors[form])))[:5]
        for form in best:
            ax.plot(places, self.errors[form], "-o", ms=3, lw=1, label=form)
        ax.plot(places, self.mixture, "-o", ms=4, lw=2.5, color="black", label="forms together")
        ax.set_xticks(places, self.corners, rotation=20, ha="right", fontsize=8)
        ax.set(yscale="log", xlabel="hidden corner", ylabel=f"rmse of {self.measured}")
        ax.legend(frameon=False, fontsize=8)
        return ax


def backtest_corners(observations: Observations, level: float = COVERED) -> CornerTest:
    """Each corner predicted by forms that are weighed, and intervals calibrated, on the other corners.

    Raises:
        InputError: no form can be fitted, or the table has fewer than two corners to hide.
    """
    choice = choose(observations)
    if len(choice.corners) < 2:
        raise InputError(f"a table of {observations.n} rows has no two corners to hide; it needs more rows", field="x")
    errors, covered = [], []
    for k, one in enumerate(choice.corners):
        others = [other for j, other in enumerate(choice.corners) if j != k]
        scores = scores_of(others, len(choice.fits))
        weights = scores**-POWER / (scores**-POWER).sum()
        ends = corner_ends(one, weights, *calibrate(others, weights), level)
        errors.append(float(np.sqrt(np.mean((ends[0] - one.target) ** 2))))
        covered.append(float(np.mean((one.target >= ends[1]) & (one.target <= ends[2]))))
    return CornerTest(
        tuple(one.name for one in choice.corners),
        {
            fit.formula.name: tuple(float(one.errors[k]) for one in choice.corners)
            for k, fit in enumerate(choice.fits)
        },
        tuple(errors), tuple(covered), tuple(len(one.target) for one in choice.corners), level, choice.fits[0].link,
    )  # fmt: skip


def corner_ends(one: Corner, weights: Array, growth: float, spread: float, level: float) -> Array:
    """[3, h] median and ends of the intervals of the mixture for the rows of a corner."""
    here = weights_at(weights, one.own, one.noise)
    mean = tame(one.mean, here)
    noise = float(np.median(one.noise))
    return quantiles(*widen(mean, one.own, here, noise, growth, spread, one.distance), here,
                     (0.5, (1 - level) / 2, (1 + level) / 2))  # fmt: skip
