"""The damped local slope: a linear Gaussian state space on (ln x, ln loss).

State: level and slope of ln loss in ln x. The slope is an Ornstein-Uhlenbeck process, so a slope seen now fades as x
grows; the level is its integral, and each run is the level plus noise. The scale of the noise is profiled out of the
Kalman likelihood; prediction and its variance are closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metascale.laws.arrays import Array


@dataclass(frozen=True)
class SlopeModel:
    """Priors of the state space.

    Attributes:
        reversion: how fast a slope fades, per unit of ln x; 0.45 halves it every 4.7-fold growth of x.
        diffusion: standard deviation by which the slope wanders over one unit of ln x, in units of the noise.
    """

    reversion: float = 0.45
    diffusion: float = 3.0

    def fit(self, t: Array, y: Array) -> SlopeState:
        """Filter the table ``t`` = ln x [n] ascending, ``y`` = ln loss [n], to its end."""
        level, slope = float(y[0]), 0.0
        # Diffuse start: the first run fixes the level, the slope is anything a table can show.
        p_ll, p_ls, p_ss = 1e8, 0.0, 1e8
        squares, logs, used = 0.0, 0.0, 0
        previous = float(t[0])
        for time, value in zip(t.tolist(), y.tolist(), strict=True):
            gap = time - previous
            if gap > 0:
                fade, reach, q_ll, q_ls, q_ss = self.transition(gap)
                level, slope = level + reach * slope, fade * slope
                p_ll = p_ll + 2 * reach * p_ls + reach * reach * p_ss + q_ll
                p_ls = fade * p_ls + reach * fade * p_ss + q_ls
                p_ss = fade * fade * p_ss + q_ss
            previous = time
            variance = p_ll + 1.0
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
        return SlopeState(self, previous, level, slope, (p_ll, p_ls, p_ss), noise, used)

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
    noise variance, and ``noise``, the standard deviation of ln loss about the level (``freedom`` innovations)."""

    model: SlopeModel
    t_end: float
    level: float
    slope: float
    covariance: tuple[float, float, float]
    noise: float
    freedom: int

    def predict(self, t: Array) -> tuple[Array, Array]:
        """Mean of ln loss and standard deviation of a run at ``t`` ≥ the end of the table (its level before that)."""
        mean, variance = np.empty(len(t)), np.empty(len(t))
        p_ll, p_ls, p_ss = self.covariance
        for i, time in enumerate(t.tolist()):
            _, reach, q_ll, _, _ = self.model.transition(max(time - self.t_end, 0.0))
            mean[i] = self.level + reach * self.slope
            variance[i] = p_ll + 2 * reach * p_ls + reach * reach * p_ss + q_ll + 1.0
        return mean, self.noise * np.sqrt(variance)
