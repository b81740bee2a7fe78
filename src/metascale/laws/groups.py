"""Two methods compared: shared or separate exponents (does one scale better or only start lower?), and crossings.

Every group has its own coefficients (and its own irreducible loss where the law has one). The question is whether one
exponent serves all groups. The test compares the best objective with a shared exponent to that with separate ones, and
takes its null distribution from tables drawn about the shared fit (parametric bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import LawFit, fit_law
from metascale.laws.likelihood import solve_held
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import Array, Observations, as_json, observe
from metascale.laws.picture import GREY, axis_or_new, finish
from metascale.laws.record import TrendResult
from metascale.laws.uncertainty import Bootstrap, bootstrap, delta_covariance, residual_noise, unit_matrix
from metascale.laws.verdict import trend_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GRID_POINTS = 81
_TREND_WORDS = {"none": "shows no trend", "undecided": "is undecided", "not monotone": "is not monotone"}


@dataclass(frozen=True)
class Grouped(Shown):
    """One law on several groups.

    Attributes:
        fits: group to its own fit; exponents: group to "estimate", "low", "high".
        shared: the exponent that serves all groups best, with its interval.
        differences: group to its exponent minus the first group's, with interval.
        statistic: n ln(RSS shared / RSS separate); p_value: share of null tables with a larger one.
        trends: what the loss of each group does along the scale (`metascale.laws.verdict`).
        better_shared: whether a shared exponent is not rejected at 1 - level.
    """

    law: str
    reference: str
    fits: dict[str, LawFit]
    trends: dict[str, TrendResult]
    exponents: dict[str, dict[str, float]]
    shared: dict[str, float]
    differences: dict[str, dict[str, float]]
    statistic: float
    p_value: float
    level: float
    notes: tuple[str, ...]

    @property
    def better_shared(self) -> bool:
        return self.p_value > 1 - self.level

    @property
    def verdict(self) -> str:
        if all(trend.answer in ("none", "undecided") for trend in self.trends.values()):
            return f"no group shows a trend: their exponents (p = {self.p_value:.3g} for a shared one) describe noise"
        if self.better_shared:
            told = (
                f"one exponent {self.shared['estimate']:.4g} serves all {len(self.fits)} groups "
                f"(p = {self.p_value:.3g}): no evidence that one scales better"
            )
        else:
            steepest = max(self.exponents, key=lambda name: self.exponents[name]["estimate"])
            falls = self.trends[steepest].answer == "falls"
            verb = "falls fastest with scale" if falls else "has the largest exponent"
            told = f"the exponents differ (p = {self.p_value:.3g}); '{steepest}' {verb}"
        others = [f"'{name}' {_TREND_WORDS.get(trend.answer, trend.answer)}"
                  for name, trend in self.trends.items() if trend.answer != "falls"]  # fmt: skip
        return told + (f" ({', '.join(others)})" if others else "")

    def to_json(self) -> dict[str, Any]:
        names = ("law", "reference", "exponents", "shared", "differences", "statistic", "p_value", "level", "verdict")
        return {
            **{name: getattr(self, name) for name in names},
            "trends": as_json(self.trends),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        percent = f"{100 * self.level:g} %"
        lines = [self.verdict, f"  {'group':<24}{'exponent':>10}   {percent} interval       minus '{self.reference}'"]
        for name, part in self.exponents.items():
            line = f"  {name:<24}{part['estimate']:>10.4f}   {part['low']:.4f} to {part['high']:.4f}"
            if name in self.differences:
                other = self.differences[name]
                line += f"   {other['estimate']:+.4f} ({other['low']:+.4f} to {other['high']:+.4f})"
            lines.append(line)
        part = self.shared
        lines.append(f"  {'shared':<24}{part['estimate']:>10.4f}   {part['low']:.4f} to {part['high']:.4f}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        ax = axis_or_new(ax)
        for k, (name, fit) in enumerate(self.fits.items()):
            fit.draw(ax, f"C{k}", f"{name}: exponent {self.exponents[name]['estimate']:.3g}")
        table = next(iter(self.fits.values())).observations
        return finish(ax, table.x_names[0], table.loss_name)


def grouped(
    x: ArrayLike,
    loss: ArrayLike,
    group: ArrayLike,
    *,
    replicate: ArrayLike | None = None,
    law: str = "power",
    level: float = 0.95,
    n_bootstrap: int = 400,
    seed: int = 0,
    x_name: str = "x",
    loss_name: str = "loss",
) -> Grouped:
    """Fit ``law`` to every group with separate and with a shared exponent, and test the difference.

    Args:
        group: [n] labels; law: a family with a parameter ``alpha`` ("power" or "power_irreducible").

    Raises:
        InputError: fewer than two groups, a law without ``alpha``, or a group too small for the law.
    """
    if law not in ("power", "power_irreducible"):
        raise InputError(f"the law '{law}' cannot be grouped; allowed are: power, power_irreducible")
    tables = _tables(x, loss, group, replicate, (x_name, loss_name), ONE_AXIS[law].n_parameters + 1)
    fits = {name: fit_law(ONE_AXIS[law], table, LeastSquares()) for name, table in tables.items()}
    samples = {name: bootstrap(fit, 1000, seed=seed + k) for k, (name, fit) in enumerate(fits.items())}
    exponents = {name: sample.intervals(level)["alpha"] for name, sample in samples.items()}
    reference = next(iter(fits))
    statistic, p_value, shared = _test(fits, n_bootstrap, seed, level)
    trends = {name: trend_of(table, level) for name, table in tables.items()}
    return Grouped(
        law, reference, fits, trends, exponents, shared, _differences(samples, fits, reference, level),
        statistic, p_value, level,
        (f"least squares on ln loss; null distribution from {n_bootstrap} tables drawn about the shared fit",),
    )  # fmt: skip


def _tables(
    x: ArrayLike, loss: ArrayLike, group: ArrayLike, replicate: ArrayLike | None,
    names: tuple[str, str], needed: int,
) -> dict[str, Observations]:  # fmt: skip
    """The checked table of every group, in order of appearance, each with at least ``needed`` distinct scales."""
    labels = np.asarray(group).astype(str)
    groups = list(dict.fromkeys(labels.tolist()))
    if len(groups) < 2:
        raise InputError(f"there is {len(groups)} group; a comparison of exponents needs at least 2")
    scales, losses = np.asarray(x, float), np.asarray(loss, float)
    if not len(labels) == len(scales) == len(losses):
        raise InputError("x, loss and group must have the same length")
    seeds = None if replicate is None else np.asarray(replicate)
    tables = {}
    for name in groups:
        rows = labels == name
        own_seeds = None if seeds is None else seeds[rows]
        table = observe(scales[rows], losses[rows], replicate=own_seeds, x_name=names[0], loss_name=names[1])
        if table.n_scales < needed:
            raise InputError(
                f"group '{name}' has {table.n_scales} distinct values of '{names[0]}'; the law needs at least {needed}"
            )
        tables[name] = table
    return tables


def _differences(
    samples: dict[str, Bootstrap], fits: dict[str, LawFit], reference: str, level: float
) -> dict[str, dict[str, float]]:
    """Each group's exponent minus the reference's: groups are independent, so their resamples are paired at random."""
    base = samples[reference].parameters["alpha"]
    out = {}
    for name, sample in samples.items():
        if name == reference:
            continue
        other = sample.parameters["alpha"]
        n = min(len(base), len(other))
        low, high = np.quantile(other[:n] - base[:n], [(1 - level) / 2, (1 + level) / 2])
        estimate = fits[name].parameters["alpha"] - fits[reference].parameters["alpha"]
        out[name] = {"estimate": estimate, "low": float(low), "high": float(high)}
    return out


def _test(fits: dict[str, LawFit], n_bootstrap: int, seed: int, level: float) -> tuple[float, float, dict[str, float]]:
    grid = _exponent_grid(fits)
    observed = np.stack([_held(fit, fit.observations.log_loss[None], grid) for fit in fits.values()])
    n = sum(fit.observations.n for fit in fits.values())
    statistic, best = _statistic(observed, n)
    shared = grid[best[0]]
    rng = np.random.default_rng([seed, 303])
    null = []
    for fit in fits.values():
        theta = solve_at(fit, np.array([shared]))[0]
        noise = residual_noise(fit)
        centre = fit.law.curve.log_predict(theta[None], fit.observations.log_x - fit.t_ref)[0]
        draws = rng.standard_normal((n_bootstrap, fit.observations.n)) * np.sqrt(noise.within)
        misfit = rng.standard_normal((n_bootstrap, fit.observations.n_scales)) * np.sqrt(noise.between)
        null.append(_held(fit, centre + draws + misfit[:, fit.observations.scale], grid))
    drawn, places = _statistic(np.stack(null), n)
    p_value = (1 + int(np.sum(drawn >= statistic[0]))) / (n_bootstrap + 1)
    low, high = np.quantile(grid[places], [(1 - level) / 2, (1 + level) / 2])
    return float(statistic[0]), float(p_value), {
        "estimate": float(shared), "low": min(float(low), float(shared)), "high": max(float(high), float(shared)),
    }  # fmt: skip


def _exponent_grid(fits: dict[str, LawFit]) -> Array:
    """Exponents from well below the lowest group's to well above the highest's."""
    low, high = [], []
    for fit in fits.values():
        k = fit.law.parameters.index("alpha")
        error = 4 * float(np.sqrt(max((unit_matrix(fit) @ delta_covariance(fit) @ unit_matrix(fit).T)[k, k], 1e-12)))
        low.append(fit.parameters["alpha"] - min(error, 2.0))
        high.append(fit.parameters["alpha"] + min(error, 2.0))
    return np.linspace(min(low), max(high), GRID_POINTS)


def _held(fit: LawFit, targets: Array, grid: Array) -> Array:
    """[B, grid] the group's least objective for each exponent of the grid and each table of ``targets`` [B, n]."""
    n_tables, n_grid = len(targets), len(grid)
    direction = np.zeros(fit.law.n_parameters)
    direction[fit.law.parameters.index("alpha")] = 1.0
    start = np.tile(solve_at(fit, grid), (n_tables, 1))
    _, value = solve_held(
        fit.law, fit.observations.log_x - fit.t_ref, np.repeat(targets, n_grid, 0), fit.weights[None], fit.objective,
        direction, np.tile(grid, n_tables), start,
    )  # fmt: skip
    return value.reshape(n_tables, n_grid)


def solve_at(fit: LawFit, exponents: Array) -> Array:
    """[m, p] the group's coded parameters with its exponent held at each value."""
    direction = np.zeros(fit.law.n_parameters)
    direction[fit.law.parameters.index("alpha")] = 1.0
    start = np.repeat(fit.theta[None], len(exponents), 0)
    t, y = fit.observations.log_x - fit.t_ref, fit.observations.log_loss
    return solve_held(fit.law, t, y[None], fit.weights[None], fit.objective, direction, exponents, start)[0]


def _statistic(objective: Array, n: int) -> tuple[Array, Array]:
    """n ln(RSS shared / RSS separate) [B] from least objectives [groups, B, grid]; the place of the shared one."""
    together = objective.sum(0)
    shared, place = together.min(1), together.argmin(1)
    separate = objective.min(2).sum(0)
    return n * np.log(np.maximum(shared, 1e-300) / np.maximum(separate, 1e-300)), place


BEYOND = 32.0  # how far past both tables a crossing is searched for: the tested horizon of forecasts
CURVE_POINTS = 400


@dataclass(frozen=True)
class Crossover(Shown):
    """The smallest scale at which two fitted curves are equal.

    Attributes:
        estimate: None when the two best fits do not cross in the range searched.
        low, high: percentile interval over the pairs of resamples that cross; None when fewer than half do.
        share: how many pairs of resamples cross.
    """

    estimate: float | None
    low: float | None
    high: float | None
    share: float
    level: float
    curves: tuple[Bootstrap, Bootstrap]

    def to_json(self) -> dict[str, Any]:
        names = ("estimate", "low", "high", "share", "level")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> str:
        x_name = self.curves[0].fit.observations.x_names[0]
        if self.estimate is None:
            return f"the curves do not cross in the range searched ({100 * self.share:.0f} % of resamples cross)"
        interval = "no interval: fewer than half of the resamples cross"
        if self.low is not None and self.high is not None:
            interval = f"{100 * self.level:g} % interval {self.low:.4g} to {self.high:.4g}"
        return f"the curves cross at {x_name} = {self.estimate:.4g} ({interval}; {100 * self.share:.0f} % of resamples)"

    def plot(self, ax: Axes | None = None) -> Axes:
        ax = axis_or_new(ax)
        for k, sample in enumerate(self.curves):
            sample.draw(ax, f"C{k}", f"curve {k + 1}: {sample.fit.law.formula}")
        if self.estimate is not None:
            ax.axvline(self.estimate, color=GREY, ls="--", lw=1, label=f"crossing at {self.estimate:.4g}")
        if self.low is not None and self.high is not None:
            ax.axvspan(self.low, self.high, color=GREY, alpha=0.15, lw=0)
        table = self.curves[0].fit.observations
        return finish(ax, table.x_names[0], table.loss_name)


def crossover(first: Bootstrap, second: Bootstrap, level: float = 0.95) -> Crossover:
    """Cross two bootstrapped laws in one scale; resamples are paired as they come, since the tables are independent.

    Raises:
        InputError: a law in several scales.
    """
    tables = [sample.fit.observations for sample in (first, second)]
    if any(table.n_axes != 1 for table in tables):
        raise InputError("a crossover needs two laws in one scale each")
    low = min(float(table.x.min()) for table in tables)
    high = max(float(table.x.max()) for table in tables) * BEYOND
    x = np.geomspace(low, high, CURVE_POINTS)
    n = min(len(first.theta), len(second.theta))
    best = _crossings((first.fit.log_predict(x) - second.fit.log_predict(x))[None], x)[0]
    found = _crossings(first.log_curves(x)[:n] - second.log_curves(x)[:n], x)
    known = found[np.isfinite(found)]
    share = len(known) / n
    ends = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if share >= 0.5 else (None, None)
    bounds = [None if end is None else float(end) for end in ends]
    return Crossover(float(best) if np.isfinite(best) else None, bounds[0], bounds[1], share, level, (first, second))


def _crossings(gap: Array, x: Array) -> Array:
    """[B] the first x at which each row of ``gap`` [B, m] changes sign, interpolated in ln x; NaN if it never does."""
    change = np.sign(gap[:, :-1]) * np.sign(gap[:, 1:]) < 0
    at = np.argmax(change, axis=1)
    rows = np.arange(len(gap))
    before, after = gap[rows, at], gap[rows, at + 1]
    crosses = change.any(axis=1)
    share = np.where(crosses, before / np.where(crosses, before - after, 1.0), 0.0)
    return np.where(crosses, x[at] * (x[at + 1] / x[at]) ** share, np.nan)
