"""Fits with one parameter held: profile likelihood, and what it shows about parameters that trade off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.families import Law
from metascale.laws.fitting import LawFit
from metascale.laws.newton import Local, minimise
from metascale.laws.objective import Objective
from metascale.laws.observations import Array, Integers, as_json
from metascale.laws.picture import BLUE, GREY, axis_or_new
from metascale.laws.solving import Solve, solve
from metascale.laws.uncertainty import delta_covariance, unit_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def solve_held(
    law: Law, t: Array, y: Array, weights: Array, objective: Objective, direction: Array, values: Array, start: Array
) -> tuple[Array, Array]:
    """Minimise with ``direction`` · θ fixed at each of ``values`` [B].

    Args:
        y, weights: [1, n] or [B, n]; start: [B, p] starts, moved onto the constraint first.

    Returns:
        θ [B, p] and the objective [B].
    """
    unit = direction / (direction @ direction)
    free = np.linalg.svd(direction[None])[2][1:].T
    base = start + (values - start @ direction)[:, None] * unit
    if free.shape[1] == 0:
        local = law.curve.expand(base, t, y, weights, objective)
        return base, local.value

    def evaluate(moved: Array, rows: Integers) -> Local:
        target = y if len(y) == 1 else y[rows]
        weight = weights if len(weights) == 1 else weights[rows]
        local = law.curve.expand(base[rows] + moved @ free.T, t, target, weight, objective)
        stiffness = local.stiffness @ (free * free)
        return Local(local.value, local.gradient @ free, free.T @ local.hessian @ free, stiffness)

    reach = np.full(free.shape[1], 60.0)
    with np.errstate(all="ignore"):
        found = minimise(evaluate, np.zeros((len(base), free.shape[1])), -reach, reach, max_iterations=60)
    return base + found.theta @ free.T, found.value


@dataclass(frozen=True)
class LikelihoodProfile(Shown):
    """The best objective for each value of one parameter, and the other parameters there.

    Attributes:
        values: [m] of the parameter; deviance: [m] rise of -2 log likelihood above its minimum.
        others: name to [m].
        low, high: where the rise passes the threshold at ``level``; infinite (None in JSON) when it never does.
        identified: whether both ends exist.
    """

    name: str
    values: Array
    deviance: Array
    others: dict[str, Array]
    level: float
    threshold: float
    low: float
    high: float

    @property
    def identified(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def to_json(self) -> dict[str, Any]:
        """An open end is None."""
        found = as_json(self)
        ends = {end: found[end] if np.isfinite(found[end]) else None for end in ("low", "high")}
        return {"parameter": found.pop("name"), **found, **ends, "identified": self.identified}

    def summary(self) -> str:
        low, high = (f"{end:.6g}" if np.isfinite(end) else "open" for end in (self.low, self.high))
        state = "" if self.identified else ": not identified by this table"
        return f"{self.name}: {100 * self.level:g} % profile interval {low} to {high}{state}"

    def plot(self, ax: Axes | None = None) -> Axes:
        ax = axis_or_new(ax)
        ax.plot(self.values, self.deviance, color=BLUE, label=f"profile of {self.name}")
        ax.axhline(self.threshold, color=GREY, ls="--", lw=1, label=f"{100 * self.level:g} % threshold")
        ax.set(xlabel=self.name, ylabel="rise of -2 log likelihood")
        ax.legend(frameon=False, fontsize=8)
        return ax


def profile(fit: LawFit, name: str, level: float = 0.95, n_points: int = 41, reach: float = 4.0) -> LikelihoodProfile:
    """Profile likelihood of one parameter, over ``reach`` standard errors either side of the estimate.

    Raises:
        InputError: an unknown parameter.
    """
    if name not in fit.law.parameters:
        raise InputError(f"'{fit.law.name}' has no parameter '{name}'; it has: {', '.join(fit.law.parameters)}")
    k = fit.law.parameters.index(name)
    direction = unit_matrix(fit)[k]
    offset = fit.law.units(np.zeros((1, fit.law.n_parameters)), fit.t_ref)[0, k]
    centre = float(direction @ fit.theta)
    error = float(np.sqrt(max(direction @ delta_covariance(fit) @ direction, 0.0)))
    error = min(max(error, 1e-6), 2.0)
    values = centre + error * np.linspace(-reach, reach, n_points)
    t, y = fit.observations.log_x - fit.t_ref, fit.observations.log_loss
    theta, objective = solve_held(
        fit.law,
        t,
        y[None],
        fit.weights[None],
        fit.objective,
        direction,
        values,
        np.repeat(fit.theta[None], n_points, 0),
    )
    n = float(fit.weights.sum())
    rise = np.array([fit.objective.deviance(float(value), n) for value in objective]) - fit.deviance
    freedom = max(fit.observations.n - fit.law.n_parameters, 1)
    threshold = float(stdtrit(freedom, (1 + level) / 2) ** 2)
    natural = fit.law.decode(fit.law.units(theta, fit.t_ref))
    decode = np.exp if fit.law.positive[k] else (lambda value: value)
    low, high = _crossings(values, rise, centre, threshold)
    return LikelihoodProfile(
        name, natural[:, k], np.maximum(rise, 0.0),
        {other: natural[:, j] for j, other in enumerate(fit.law.parameters) if j != k}, level, threshold,
        float(decode(low + offset)) if np.isfinite(low) else -np.inf,
        float(decode(high + offset)) if np.isfinite(high) else np.inf,
    )  # fmt: skip


def _crossings(values: Array, rise: Array, centre: float, threshold: float) -> tuple[float, float]:
    """Where a rising curve passes the threshold on either side of the centre, by linear interpolation."""
    ends = []
    for side in (values[values <= centre][::-1], values[values >= centre]):
        heights = np.interp(side, values, rise)
        above = np.flatnonzero(heights > threshold)
        if len(above) == 0:
            ends.append(np.inf)
            continue
        i = int(above[0])
        if i == 0:
            ends.append(float(side[0]))
            continue
        share = (threshold - heights[i - 1]) / (heights[i] - heights[i - 1])
        ends.append(float(side[i - 1] + share * (side[i] - side[i - 1])))
    return (-ends[0] if np.isinf(ends[0]) else ends[0]), ends[1]


def influence(fit: LawFit) -> dict[str, Array]:
    """Each parameter's estimate [n] when one row is left out: five of Hoffmann's 245 points move B six-fold."""
    n = fit.observations.n
    weights = np.repeat(fit.weights[None], n, 0) * (1 - np.eye(n))
    t, y = fit.observations.log_x - fit.t_ref, fit.observations.log_loss
    found = solve(Solve(fit.law, t, y[None], weights, fit.objective, np.repeat(fit.theta[None], n, 0)))
    natural = fit.law.decode(fit.law.units(found.theta, fit.t_ref))
    return {name: natural[:, k] for k, name in enumerate(fit.law.parameters)}
