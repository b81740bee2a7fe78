"""Compute-optimal allocation by the three approaches of Hoffmann et al. (2022), with intervals, and whether they agree.

Compute is C = 6 N D training FLOPs (two for the forward and four for the backward pass), or what a power law says that
was fitted to the table's own column (`metascale.laws.cost`). N counts what the table counts: with or without embeddings
is the table's choice, and exponents depend on it at small scale.

Known bias of approach 2: a parabola in ln N is only the second-order picture of a valley whose sides differ when α ≠ β,
and a grid of sizes that is not centred on the minimum shifts it. Levels whose lowest loss is at the edge of the grid
are therefore left out and counted, and only the points around the minimum enter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.corners import choose
from metascale.laws.cost import SIX_N_D, CostLaw
from metascale.laws.fitting import LawFit, require_level
from metascale.laws.library import IN_THE_LIBRARY, law_of
from metascale.laws.observations import FLOPS_PER_PARAMETER_AND_TOKEN, Array, as_json, bounded_exp, observe
from metascale.laws.picture import BLUE, axis_or_new, draw_band, finish
from metascale.laws.prediction import Prediction
from metascale.laws.record import Band
from metascale.laws.uncertainty import Bootstrap, bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FARTHEST = 1e6  # a budget so many times the table's largest compute is one in other units


def training_flops(
    n_params: ArrayLike, tokens: ArrayLike, *, n_layers: int = 0, d_model: int = 0, sequence: int = 0
) -> Array:
    """6 N D, plus 12 · layers · d_model · sequence per token for attention scores when the three are given.

    Always floats: 6 · N · D of a real model overflows 64-bit integers.
    """
    per_token = FLOPS_PER_PARAMETER_AND_TOKEN * np.asarray(n_params, float) + 12.0 * n_layers * d_model * sequence
    return np.asarray(per_token * np.asarray(tokens, float))


class Predicts(Protocol):
    """What predicts a new run at rows of scales."""

    def predict(self, points: Any, level: float = 0.90) -> Prediction: ...


@dataclass(frozen=True)
class Alone:
    """One fitted law in (N, D) as what predicts, judged on hidden corners of its table."""

    fit: LawFit

    @cached_property
    def _mixture(self) -> Predicts:
        table = self.fit.observations
        return choose(table, [law_of(IN_THE_LIBRARY[self.fit.law.name], table.x_names)]).mixture

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        return self._mixture.predict(points, level)


@dataclass(frozen=True)
class Optimum(Shown):
    """The best model size and data for one budget or several, in the table's units.

    Attributes:
        compute: [m] budgets, in the unit of ``cost``; n_params, tokens, loss: name "estimate", "low", "high" to [m].
        gpu_hours: [m] when a speed was given.
        exponent: "estimate", "low", "high" of a in N_opt ∝ C^a.
        cost: what a run costs; source: what `predict` asks; unique_tokens: of the data-constrained law.
    """

    law: str
    compute: Array
    n_params: dict[str, Array]
    tokens: dict[str, Array]
    loss: dict[str, Array]
    exponent: dict[str, float]
    level: float
    gpu_hours: Array | None
    notes: tuple[str, ...]
    cost: CostLaw
    source: Predicts = field(repr=False, compare=False)
    unique_tokens: float | None = None

    @property
    def points(self) -> Array:
        """[m, d] the rows of scales at which the loss is least."""
        size, data = self.n_params["estimate"], self.tokens["estimate"]
        if self.law != "data_constrained":
            return np.column_stack([size, data])
        unique = np.inf if self.unique_tokens is None else self.unique_tokens
        return np.column_stack([size, data, np.minimum(data, unique)])

    def predict(self, points: Any = None, level: float | None = None) -> Prediction:
        """Median and interval for one new run at the optima, or at other rows: by the law that was named, else by all
        forms that hold in hidden corners of the table (`metascale.laws.corners`)."""
        return self.source.predict(self.points if points is None else points, self.level if level is None else level)

    def rows(self) -> list[dict[str, float]]:
        """One dict a budget: for ``forecast.csv``."""
        parts = {"n_params": self.n_params, "tokens": self.tokens, "loss": self.loss}
        columns = {f"{name}_{key}": values for name, part in parts.items() for key, values in part.items()}
        return [
            {"compute": float(compute), **{name: float(values[i]) for name, values in columns.items()}}
            for i, compute in enumerate(self.compute)
        ]

    def to_json(self) -> dict[str, Any]:
        kept = (part.name for part in fields(self) if part.name not in ("source", "cost", "unique_tokens"))
        return {**{name: as_json(getattr(self, name)) for name in kept}, "cost": self.cost.to_json()}

    def summary(self) -> str:
        percent, lines = f"{100 * self.level:g} %", []
        for i, compute in enumerate(self.compute):
            hours = "" if self.gpu_hours is None else f", {self.gpu_hours[i]:.4g} GPU-hours"
            lines.append(f"compute {compute:.4g} {self.cost.unit}{hours}")
            for name, part, digits in (("N", self.n_params, 4), ("D", self.tokens, 4), ("loss", self.loss, 5)):
                low, middle, high = (f"{part[key][i]:.{digits}g}" for key in ("low", "estimate", "high"))
                lines.append(f"  {name:<5}{middle:<11} {percent} interval {low} to {high}")
            lines.append(f"  D/N  {self.tokens['estimate'][i] / self.n_params['estimate'][i]:.3g}")
        a = self.exponent
        lines.append(f"N_opt grows as C^{a['estimate']:.4f} ({percent} {a['low']:.4f} to {a['high']:.4f})")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """N_opt against compute with its interval."""
        ax, sizes = axis_or_new(ax), self.n_params
        band = Band.of(self.compute, sizes["estimate"], sizes["low"], sizes["high"])
        draw_band(ax, band, BLUE, f"N_opt ({self.law}), {100 * self.level:g} % interval", "-o")
        return finish(ax, f"compute ({self.cost.unit})", "N")


def optimum(
    fit: LawFit | Bootstrap,
    compute: ArrayLike,
    *,
    level: float = 0.90,
    n_bootstrap: int = 1000,
    seed: int = 0,
    unique_tokens: float | None = None,
    flops_per_second: float | None = None,
    utilisation: float = 0.4,
    cost: CostLaw = SIX_N_D,
    source: Predicts | None = None,
) -> Optimum:
    """Model size and tokens of least predicted loss at each budget.

    Args:
        fit: a fitted law in (N, D), or its bootstrap.
        compute: budgets in FLOPs, C = 6 N D, or in the unit of ``cost``.
        unique_tokens: for the data-constrained law, how many different tokens there are (default: no limit).
        flops_per_second: peak of one GPU, for GPU-hours at ``utilisation``.
        cost: what a run costs; the error of a fitted one (`metascale.laws.fit_cost`) widens the intervals.
        source: what predicts at the optima, by default ``fit`` alone.

    Raises:
        InputError: a law without (N, D), a level outside (0, 1), a budget that is not positive or so far beyond the
            table that its columns must be in other units, or GPU-hours of a cost that is not in FLOPs.
    """
    budgets = np.atleast_1d(np.asarray(compute, float))
    if not (np.isfinite(budgets).all() and (budgets > 0).all()):
        raise InputError(f"compute budgets must be positive finite numbers of {cost.unit}")
    require_level(level)
    sample = fit if isinstance(fit, Bootstrap) else bootstrap(fit, n_bootstrap, seed=seed)
    whole = sample.fit
    if whole.law.n_axes < 2:
        raise InputError(f"the law '{whole.law.name}' has one axis; an optimum needs a law in model size and data")
    _require_reach(budgets, whole, cost)
    hours = None
    if flops_per_second is not None:
        if not cost.is_flops:
            raise InputError(f"GPU-hours are told from FLOPs, and the budgets are in {cost.name}", field="gpu_flops")
        hours = budgets / (flops_per_second * utilisation) / 3600
    thetas = np.concatenate([whole.theta[None], sample.theta])
    costs = cost.draws(len(sample.theta), seed)
    log_n, log_loss, exponent = _best_sizes(whole, thetas, costs, np.log(budgets), unique_tokens)
    log_d = (np.log(budgets) - costs[:, :1] - costs[:, 1:2] * log_n) / costs[:, 2:]
    log_loss = _with_run_noise(log_loss, sample, seed)
    return Optimum(
        whole.law.name, budgets, _band(bounded_exp(log_n), level), _band(bounded_exp(log_d), level),
        _band(bounded_exp(log_loss), level),
        {name: float(value[0]) for name, value in _band(exponent[:, None], level).items()}, level, hours,
        _notes(whole, budgets, sample, cost), cost, source or Alone(whole), unique_tokens,
    )  # fmt: skip


def _require_reach(budgets: Array, fit: LawFit, cost: CostLaw) -> None:
    largest = _largest(fit, cost)
    if budgets.max() > FARTHEST * largest:
        raise InputError(
            f"the largest {'6*N*D' if cost.n == 0 else cost.name} of the table is {largest:.2g}, and the budget "
            f"{budgets.max():.2g} is more than {FARTHEST:.0e} times that: give N and D as plain counts, not in "
            "millions or billions, and budgets in the unit of the table", field="compute", value=float(budgets.max()),
        )  # fmt: skip


def _largest(fit: LawFit, cost: CostLaw) -> float:
    return float(cost.of(fit.observations.x[:, 0], fit.observations.x[:, 1]).max())


def frontier(fit: LawFit | Bootstrap, low: float, high: float, n_points: int = 50, **options: Any) -> Optimum:
    """`optimum` on ``n_points`` budgets from ``low`` to ``high`` FLOPs."""
    return optimum(fit, np.geomspace(low, high, n_points), **options)


def _best_sizes(
    fit: LawFit, thetas: Array, costs: Array, log_c: Array, unique: float | None
) -> tuple[Array, Array, Array]:
    """ln N_opt [B, m], ln loss there [B, m] and the local exponent d ln N_opt / d ln C [B], with costs [B, 3]."""
    names = fit.law.parameters
    if fit.law.name == "chinchilla":
        coded = fit.law.units(thetas, fit.t_ref)
        log_a, log_b, alpha, beta = (coded[:, names.index(name), None] for name in ("A", "B", "alpha", "beta"))
        log_k, a, b = (costs[:, k, None] for k in range(3))
        # dL = 0 along k N^a D^b = C: α A N^-α / a = β B D^-β / b.
        weight = alpha * b + beta * a
        log_n = (b * (np.log(alpha * b / (beta * a)) + log_a - log_b) + beta * (log_c - log_k)) / weight
        log_d = (log_c - log_k - a * log_n) / b
        value = [
            fit.log_predict(np.exp(np.column_stack(rows)), theta[None])[0]
            for theta, *rows in zip(thetas, log_n, log_d, strict=True)
        ]
        return log_n, np.array(value), (beta / weight)[:, 0]
    return _searched_sizes(fit, thetas, costs, log_c, unique)


def _searched_sizes(
    fit: LawFit, thetas: Array, costs: Array, log_c: Array, unique: float | None
) -> tuple[Array, Array, Array]:
    """The same by search over ln N on a grid, refined by the parabola through the three best points."""
    budgets = np.concatenate([log_c, log_c + 0.1])
    costs = costs[:1] if np.all(costs == costs[:1]) else costs
    best, value = np.empty((len(thetas), len(budgets))), np.empty((len(thetas), len(budgets)))
    rows, steps = np.arange(len(thetas)), np.linspace(-16.0, 16.0, 801)
    for j, budget in enumerate(budgets):
        log_k, a, b = costs.T[:, :, None]
        grid = (budget - log_k) / (a + b) + steps  # [1 or B, 801]
        data = (budget - log_k - a * grid) / b
        columns = [grid, data]
        if fit.law.n_axes == 3:
            columns.append(np.minimum(data, np.log(unique) if unique else np.inf))
        curve = _along(fit, thetas, np.stack(columns, 2) - fit.t_ref)
        k = np.clip(np.argmin(curve, axis=1), 1, len(steps) - 2)
        before, here, after = curve[rows, k - 1], curve[rows, k], curve[rows, k + 1]
        bend = before - 2 * here + after
        shift = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
        best[:, j] = grid[rows % len(grid), k] + np.clip(shift, -1, 1) * (steps[1] - steps[0])
        value[:, j] = here - 0.25 * (before - after) * np.clip(shift, -1, 1)
    half = len(log_c)
    return best[:, :half], value[:, :half], ((best[:, half:] - best[:, :half]) / 0.1).mean(axis=1)


def _along(fit: LawFit, thetas: Array, t: Array) -> Array:
    """[B, g] ln loss of every refit on a grid [1, g, d] of all, or [B, g, d] one of its own each."""
    if len(t) == 1:
        return np.asarray(fit.law.curve.log_predict(thetas, t[0]))
    return np.array([fit.law.curve.log_predict(theta[None], rows)[0] for theta, rows in zip(thetas, t, strict=True)])


def _with_run_noise(log_loss: Array, sample: Bootstrap, seed: int) -> Array:
    """Bootstrap rows of ln loss with the noise of one new run added, the scatter about the law and that of seeds."""
    noise = np.sqrt(sample.noise.within + sample.noise.between)
    found = np.array(log_loss)
    found[1:] += noise * np.random.default_rng((seed, 303)).standard_normal(found[1:].shape)
    return found


def _band(values: Array, level: float) -> dict[str, Array]:
    """Estimate (row 0) and percentile interval of the bootstrap rows."""
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {"estimate": values[0], "low": np.minimum(low, values[0]), "high": np.maximum(high, values[0])}


def _notes(fit: LawFit, budgets: Array, sample: Bootstrap, cost: CostLaw) -> tuple[str, ...]:
    seen = _largest(fit, cost)
    notes: list[str] = [
        f"{cost.summary()}; {sample.how}; the intervals trust the law; that of the loss is for one new run"
    ]
    if budgets.max() > 10 * seen:
        notes.append(
            f"the largest budget is {budgets.max() / seen:.3g} times the largest run of the table "
            f"({seen:.3g} {cost.unit})"
        )
    if fit.at_bound:
        notes.append(f"{', '.join(fit.at_bound)} ended on a bound: the allocation is not identified by this table")
    return tuple(notes)


@dataclass(frozen=True)
class Allocation(Shown):
    """N_opt ∝ C^a from the optima of several compute levels.

    Attributes:
        compute, n_params, loss: [levels] the optimum of each level used.
        exponent, log_coefficient: of the line ln N_opt = b + a ln C; ``interval`` of a at ``level``.
        skipped: how many levels were left out, with the reason in ``notes``.
    """

    approach: str
    compute: Array
    n_params: Array
    loss: Array
    exponent: float
    log_coefficient: float
    interval: tuple[float, float]
    level: float
    skipped: int
    notes: tuple[str, ...]

    def predict(self, compute: ArrayLike) -> Array:
        """N_opt at budgets ``compute``."""
        return np.asarray(np.exp(self.log_coefficient + self.exponent * np.log(np.asarray(compute, float))))

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        found = {**as_json(self), "exponent": {"estimate": self.exponent, "low": low, "high": high}}
        del found["interval"]
        return found

    def summary(self) -> str:
        lines = [f"{'compute':>12}{'N_opt':>14}{'loss':>10}"]
        for compute, size, loss in zip(self.compute, self.n_params, self.loss, strict=True):
            lines.append(f"{compute:>12.4g}{size:>14.5g}{loss:>10.5g}")
        low, high = self.interval
        lines.append(
            f"{self.approach}: N_opt grows as C^{self.exponent:.4f} ({100 * self.level:g} % {low:.4f} to {high:.4f}), "
            f"{len(self.compute)} levels used, {self.skipped} left out"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The optima and their line."""
        ax = axis_or_new(ax)
        ax.plot(self.compute, self.n_params, "o", ms=4, color="#4c566a", label=self.approach)
        ax.plot(self.compute, self.predict(self.compute), color=BLUE, label=f"C^{self.exponent:.3f}")
        return finish(ax, "compute (FLOPs)", "N")


def isoflop(
    compute: ArrayLike, n_params: ArrayLike, loss: ArrayLike, *, level: float = 0.95, rise: float = 0.05
) -> Allocation:
    """Approach 2: a parabola of ln loss in ln N at every compute level, and a line through the minima.

    Args:
        compute, n_params, loss: [n] one row a run; runs of one level have the same compute (to 1 %).
        rise: sizes around the lowest loss enter the parabola while their ln loss is within ``rise`` of it (and one size
            on either side always): further out a valley is not a parabola.

    Raises:
        InputError: fewer than 3 levels have a minimum inside their grid.
    """
    if not rise > 0:
        raise InputError(f"rise is {rise}; it must be a positive difference of ln loss")
    table = observe(np.column_stack([compute, n_params]), loss, x_name=("compute", "n_params"))
    log_c, log_n, log_loss = table.log_x[:, 0], table.log_x[:, 1], table.log_loss
    breaks = np.flatnonzero(np.diff(log_c) > 0.01) + 1
    found, edge, few = [], 0, 0
    for rows in np.split(np.arange(table.n), breaks):
        sizes, index = np.unique(log_n[rows], return_inverse=True)
        values = np.bincount(index, weights=log_loss[rows]) / np.bincount(index)
        if len(sizes) < 3:
            few += 1
            continue
        best = int(np.argmin(values))
        if best in (0, len(sizes) - 1):
            edge += 1
            continue
        vertex = _vertex(sizes, values, best, rise)
        if vertex is None:
            edge += 1
            continue
        found.append((float(log_c[rows].mean()), *vertex))
    notes = []
    if edge:
        notes.append(f"{edge} levels left out: the lowest loss is at the edge of their sizes")
    if few:
        notes.append(f"{few} levels left out: fewer than 3 sizes")
    return _line("isoFLOP parabolas", found, level, edge + few, notes)


def _vertex(sizes: Array, values: Array, best: int, rise: float) -> tuple[float, float] | None:
    """Minimum of the parabola through the sizes around the lowest loss."""
    first, last = best - 1, best + 1
    while first > 0 and values[first - 1] < values[best] + rise:
        first -= 1
    while last < len(sizes) - 1 and values[last + 1] < values[best] + rise:
        last += 1
    part = slice(first, last + 1)
    centre = sizes[best]
    bend, slope, constant = np.polyfit(sizes[part] - centre, values[part], 2)
    if bend <= 0:
        return None
    shift = -slope / (2 * bend)
    if not sizes[part][0] <= centre + shift <= sizes[part][-1]:
        return None
    return float(centre + shift), float(constant - slope**2 / (4 * bend))


def envelope(
    compute: ArrayLike, n_params: ArrayLike, loss: ArrayLike, *, level: float = 0.95, bins_per_decade: int = 4
) -> Allocation:
    """Approach 1: in every bin of compute the run with the lowest loss, and a line through their sizes.

    Raises:
        InputError: fewer than 3 bins hold runs on the envelope.
    """
    table = observe(np.column_stack([compute, n_params]), loss, x_name=("compute", "n_params"))
    log_c, log_n, log_loss = table.log_x[:, 0], table.log_x[:, 1], table.log_loss
    bins = np.floor(log_c / np.log(10) * bins_per_decade).astype(int)
    found, best_so_far, dominated = [], np.inf, 0
    for value in np.unique(bins):
        rows = np.flatnonzero(bins == value)
        row = rows[np.argmin(log_loss[rows])]
        if log_loss[row] >= best_so_far:
            dominated += 1  # a smaller budget already did better: not on the envelope
            continue
        best_so_far = float(log_loss[row])
        found.append((float(log_c[row]), float(log_n[row]), best_so_far))
    notes = [f"{dominated} bins left out: a smaller budget did better"] if dominated else []
    return _line("envelope", found, level, dominated, notes)


def _line(
    approach: str, found: list[tuple[float, float, float]], level: float, skipped: int, notes: list[str]
) -> Allocation:
    if len(found) < 3:
        raise InputError(
            f"{approach}: {len(found)} compute levels have an optimum inside their sizes ({skipped} do not); at least "
            "3 are needed"
        )
    log_c, log_n, log_loss = (np.array(column) for column in zip(*found, strict=True))
    centred = log_c - log_c.mean()
    slope = float(centred @ log_n / (centred @ centred))
    constant = float(log_n.mean() - slope * log_c.mean())
    residual = log_n - constant - slope * log_c
    freedom = len(found) - 2
    error = float(np.sqrt(residual @ residual / freedom / (centred @ centred)))
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Allocation(
        approach, np.exp(log_c), np.exp(log_n), np.exp(log_loss), slope, constant, (slope - reach, slope + reach),
        level, skipped, tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class CrossCheck(Shown):
    """The parametric exponent beside those of IsoFLOP parabolas and the envelope.

    Attributes:
        others: the approaches that the table allows; ``refused``: the reason for each that it does not.
    """

    parametric: Optimum
    others: tuple[Allocation, ...]
    refused: dict[str, str]

    def at_budget(self, other: Allocation) -> tuple[float, float, float]:
        """N_opt of another approach at the largest budget and the ends of its interval, from that of its line."""
        compute = float(self.parametric.compute.max())
        size = float(other.predict([compute])[0])
        reach = np.log(compute) - float(np.log(other.compute).mean())
        ends = [size * float(np.exp((end - other.exponent) * reach)) for end in other.interval]
        return size, min(ends), max(ends)

    def agrees(self, other: Allocation) -> bool:
        """Whether another approach's optimum at the largest budget lies in the parametric interval, or the parametric
        one in its; intervals that merely overlap are no agreement."""
        size, low, high = self.at_budget(other)
        ours = {key: float(self.parametric.n_params[key][int(np.argmax(self.parametric.compute))])
                for key in ("estimate", "low", "high")}  # fmt: skip
        return ours["low"] <= size <= ours["high"] or low <= ours["estimate"] <= high

    def to_json(self) -> list[dict[str, Any]]:
        return [{**other.to_json(), "agrees": self.agrees(other)} for other in self.others]

    def summary(self) -> str:
        lines = [f"{name}: not applicable ({reason})" for name, reason in self.refused.items()]
        for other in self.others:
            low, high = other.interval
            size, least, most = self.at_budget(other)
            ours = float(self.parametric.n_params["estimate"][int(np.argmax(self.parametric.compute))])
            lines.append(
                f"{other.approach}: N_opt ~ C^{other.exponent:.4f} ({100 * other.level:g} % {low:.4f} to {high:.4f}); "
                f"at {self.parametric.compute.max():.3g} {self.parametric.cost.unit} N = {size:.3g} "
                f"({least:.3g} to {most:.3g}), "
                f"{'agrees' if self.agrees(other) else 'DISAGREES'} with the parametric {ours:.3g}"
            )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The parametric frontier with its interval, and the optima of the other approaches."""
        ax = self.parametric.plot(ax)
        for k, other in enumerate(self.others):
            ax.plot(other.compute, other.n_params, "o", ms=4, color=f"C{k + 1}", label=other.approach)
            ax.plot(other.compute, other.predict(other.compute), "--", lw=1, color=f"C{k + 1}")
        ax.legend(frameon=False, fontsize=8)
        return ax


def cross_check(
    n_params: ArrayLike, tokens: ArrayLike, loss: ArrayLike, parametric: Optimum, compute: ArrayLike | None = None
) -> CrossCheck:
    """Run the IsoFLOP parabolas and the envelope on a table of runs, beside its parametric optimum.

    Args:
        compute: [n] what the runs cost; by default what the optimum's cost law says.
    """
    compute = parametric.cost.of(n_params, tokens) if compute is None else compute
    others: list[Allocation] = []
    refused = {}
    for name, approach in (("isoFLOP parabolas", isoflop), ("envelope", envelope)):
        try:
            others.append(approach(compute, n_params, loss, level=parametric.level))
        except InputError as error:
            refused[name] = str(error)
    return CrossCheck(parametric, tuple(others), refused)
