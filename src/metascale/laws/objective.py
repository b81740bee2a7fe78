"""What a fit minimises: a function of the residuals, with the derivatives that Newton's method needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import erf

from metascale.laws.observations import Array

_TINY = 1e-300


class Penalty(NamedTuple):
    """A function of each residual: its value, two derivatives, and the weight of its quadratic majoriser."""

    value: Array
    slope: Array
    curvature: Array
    majoriser: Array


class Objective(Protocol):
    """How residuals (log observed minus log predicted) are penalised."""

    @property
    def name(self) -> str: ...

    def penalty(self, residual: Array) -> Penalty: ...

    def path(self) -> tuple[Objective, ...]:
        """Objectives from an easy one to this one, each started where the one before it ended."""
        ...

    def deviance(self, total: float, n: float) -> float: ...


def weighted(objective: Objective, residual: Array, weights: Array) -> Penalty:
    """The penalty times ``weights``; of Huber's function in as few passes over the numbers as it takes."""
    if not isinstance(objective, LogHuber):
        return Penalty(*(weights * part for part in objective.penalty(residual)))
    delta = objective.delta
    clipped = np.clip(residual, -delta, delta)
    majoriser = clipped + _TINY  # over r: delta / max(|r|, delta), and 1 where r is 0
    majoriser /= residual + _TINY
    majoriser *= weights
    curvature = (clipped == residual) * weights
    slope = clipped * weights
    clipped *= -0.5
    clipped += residual
    clipped *= slope
    return Penalty(clipped, slope, curvature, majoriser)


@dataclass(frozen=True, slots=True)
class LogHuber:
    """Huber's function of log residuals: r²/2 below ``delta``, linear beyond (Hoffmann et al. 2022)."""

    delta: float = 1e-3

    @property
    def name(self) -> str:
        return f"log-Huber({self.delta:g})"

    def penalty(self, residual: Array) -> Penalty:
        clipped = np.clip(residual, -self.delta, self.delta)
        magnitude = np.maximum(np.abs(residual), self.delta)
        return Penalty(
            clipped * (residual - 0.5 * clipped),
            clipped,
            (clipped == residual).astype(float),
            self.delta / magnitude,
        )

    def path(self) -> tuple[Objective, ...]:
        # Far below the noise Huber's function is a sum of absolute values, whose minima over a curved law are many;
        # the least-squares optimum leads to the best of them as delta shrinks.
        return (LeastSquares(), LogHuber(100 * self.delta), LogHuber(10 * self.delta), self)

    def deviance(self, total: float, n: float) -> float:
        """-2 log likelihood of n residuals under density ∝ exp(-Huber(r)/s), its scale s profiled out."""

        def minus_two_log_likelihood(log_scale: float) -> float:
            scale = np.exp(log_scale)
            gaussian = np.sqrt(2 * np.pi * scale) * erf(self.delta / np.sqrt(2 * scale))
            tails = 2 * scale / self.delta * np.exp(-(self.delta**2) / (2 * scale))
            return float(2 * (total / scale + n * np.log(gaussian + tails)))

        # The scale is total/n in the linear tails and 2·total/n in the Gaussian core; the bracket holds both.
        centre = np.log(max(total / max(n, 1.0), 1e-300))
        best = minimize_scalar(minus_two_log_likelihood, bounds=(centre - 3, centre + 3), method="bounded")
        return float(best.fun)


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Half the squared residual."""

    @property
    def name(self) -> str:
        return "least squares"

    def penalty(self, residual: Array) -> Penalty:
        one = np.ones_like(residual)
        return Penalty(0.5 * residual * residual, residual, one, one)

    def path(self) -> tuple[Objective, ...]:
        return (self,)

    def deviance(self, total: float, n: float) -> float:
        """-2 log likelihood of n Gaussian residuals, their variance profiled out."""
        variance = max(2 * total / max(n, 1.0), 1e-300)
        return float(n * (np.log(2 * np.pi * variance) + 1))
