"""Compute-optimal allocation by a fitted surface, approach 3 of Hoffmann et al. (2022), with intervals.

Compute is C = 6 N D training FLOPs (two for the forward and four for the backward pass), or what a power law says that
was fitted to the table's own column (`metascale.laws.cost`). N counts what the table counts: with or without embeddings
is the table's choice, and exponents depend on it at small scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.corners import choose
from metascale.laws.cost import SIX_N_D, CostLaw
from metascale.laws.fitting import LawFit, require_level
from metascale.laws.library import IN_THE_LIBRARY, law_of
from metascale.laws.observations import FLOPS_PER_PARAMETER_AND_TOKEN, Array, as_json, bounded_exp
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
            table that its columns must be in other units, or GPU-hours of a cost that is not in FLOPs, of a peak that
            is not positive, or at a utilisation outside (0, 1].
    """
    budgets = _positive(compute, cost.unit)
    require_level(level)
    _require_gpu(flops_per_second, utilisation, cost)
    sample = fit if isinstance(fit, Bootstrap) else bootstrap(fit, n_bootstrap, seed=seed)
    whole = sample.fit
    if whole.law.n_axes < 2:
        raise InputError(f"the law '{whole.law.name}' has one axis; an optimum needs a law in model size and data")
    _require_reach(budgets, whole, cost)
    hours = None if flops_per_second is None else budgets / (flops_per_second * utilisation) / 3600
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


def _require_gpu(flops_per_second: float | None, utilisation: float, cost: CostLaw) -> None:
    if not 0 < utilisation <= 1:
        raise InputError(
            f"utilisation is {utilisation:g}; it is a share of the peak, above 0 and at most 1", field="utilisation",
            value=utilisation,
        )  # fmt: skip
    if flops_per_second is None:
        return
    if not cost.is_flops:
        raise InputError(f"GPU-hours are told from FLOPs, and the budgets are in {cost.name}", field="gpu_flops")
    if not (np.isfinite(flops_per_second) and flops_per_second > 0):
        raise InputError(
            f"`gpu_flops` is {flops_per_second:g}; the peak of a GPU is a positive number of FLOP/s", field="gpu_flops",
            value=flops_per_second,
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


def _positive(compute: ArrayLike, unit: str) -> Array:
    """[m] budgets.

    Raises:
        InputError: none is given, or one is no positive finite number.
    """
    try:
        budgets = np.atleast_1d(np.asarray(compute, float))
    except (TypeError, ValueError):
        budgets = np.full(1, np.nan)
    if budgets.size and np.isfinite(budgets).all() and (budgets > 0).all():
        return budgets
    given = f"not {compute!r:.60}" if budgets.size else "and none is given"
    raise InputError(f"compute budgets must be positive finite numbers of {unit}, {given}", field="compute")


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
