"""The loss of a run under its learning rates: the multi-power law of Luo et al. 2025 (arXiv 2503.12811, equation 2).

    L(t) = L0 + A (S1(t) + SW)^-alpha - B Σ_k (η_{k-1} - η_k) (1 - (1 + C η_k^-gamma S_k(t))^-beta)

with S1(t) the sum of the rates up to step t after a warm-up, SW that of the warm-up, and S_k(t) the sum from step k on;
k runs over the steps after the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metascale.laws.observations import Array, Integers
from metascale.laws.schedules import Schedule

MULTI_POWER = "multi_power"
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
FORMULA = "L = L0 + A (S1 + SW)^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta)"


@dataclass(frozen=True)
class Path:
    """What the law needs of a schedule at steps [m]: sums of rates, and its changes of rate, joined to groups.

    Attributes:
        total: [m] sum of the rates; drop: [K] η_{k-1} - η_k; log_rate: [K]; since: [m, K] S_k(t), 0 before k.
    """

    total: Array
    drop: Array
    log_rate: Array
    since: Array

    @classmethod
    def of(cls, schedule: Schedule, at: Integers, groups: int | None = 4) -> Path:
        """Args: groups: into how many groups the changes between two of the steps are joined; None: none is joined."""
        rates, summed = schedule.rates, schedule.summed
        drop = -np.diff(rates, prepend=rates[0])
        places = np.flatnonzero((drop != 0) & (np.arange(len(rates)) >= schedule.warmup))
        places = places[places < at.max()]  # place k is step k + 1
        before = np.r_[0.0, summed][places]
        weight, log_rate = drop[places], np.log(np.maximum(rates[places], 1e-300 + 1e-9 * rates.max()))
        if groups is not None and len(places) > groups * len(at):
            gaps = zip(np.r_[schedule.warmup, at[:-1]], at, strict=True)
            ends = np.unique(np.concatenate([np.linspace(low, high, groups + 1)[1:] for low, high in gaps]).round())
            index = np.unique(np.searchsorted(ends, places + 1), return_inverse=True)[1]
            share = np.abs(weight)
            mass = np.bincount(index, share)
            before = np.bincount(index, share * before) / mass
            log_rate = np.bincount(index, share * log_rate) / mass
            weight = np.bincount(index, weight)
        since = summed[at - 1][:, None] - before
        last = np.searchsorted(at, places + 1) if len(weight) == len(places) else None
        seen = since > 0 if last is None else np.arange(len(at))[:, None] >= last
        return cls(summed[at - 1], weight, log_rate, np.where(seen, np.maximum(since, 0.0), 0.0))


def loss_of(parameters: Mapping[str, float], schedule: Schedule, at: ArrayLike) -> Array:
    """[m] the law's loss at steps ``at`` of a schedule, every change of the rate on its own.

    Raises:
        InputError: a step that is not whole, or none of the schedule's after its warm-up.
    """
    steps = schedule.steps(at)
    order = np.argsort(steps, kind="stable")
    coded = np.array([
        *np.log([parameters["L0"], parameters["A"], parameters["alpha"], parameters["B"], parameters["C"],
                 parameters["beta"]]), parameters["gamma"],
    ])  # fmt: skip
    found = np.empty(len(steps))
    found[order] = curve_of(coded, Path.of(schedule, steps[order], None))[0]
    return found


def curve_of(theta: Array, path: Path) -> tuple[Array, Array]:
    """Loss [m] and its derivatives [m, 7] by ln L0, ln A, ln α, ln B, ln C, ln β, γ."""
    floor, amplitude, alpha, height, rate, beta = np.exp(np.clip(theta[:6], -100, 100))
    gamma, log_total = theta[6], np.log(path.total)
    fall = amplitude * np.exp(-alpha * log_total)
    z = rate * np.exp(-gamma * path.log_rate) * path.since
    grown = np.log1p(z)
    left = np.exp(-beta * grown)
    gained = height * (1 - left) @ path.drop
    by_rate = height * (beta * left * z / (1 + z)) @ path.drop
    by_gamma = -height * (beta * left * z / (1 + z)) @ (path.drop * path.log_rate)
    by_beta = height * (beta * left * grown) @ path.drop
    jacobian = np.column_stack([np.full(len(fall), floor), fall, -alpha * log_total * fall, -gained, -by_rate, -by_beta,
                                -by_gamma])  # fmt: skip
    return floor + fall - gained, jacobian
