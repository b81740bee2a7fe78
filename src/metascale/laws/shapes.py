"""The curves in one scale that are no sums of powers: log prediction and derivatives of the coded parameters.

Arrays of parameters and of t = ln x of any shapes that broadcast; positive parameters come as logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metascale.laws.curves import Columns
from metascale.laws.observations import Array


def log_add(one: Array, other: Array) -> Array:
    """ln (e^one + e^other), by functions of NumPy that work on several numbers at a time."""
    return np.asarray(np.maximum(one, other) + np.log1p(np.exp(-np.abs(one - other))))


def softplus(z: Array) -> Array:
    """ln (1 + e^z)."""
    return np.asarray(np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))))


def gate(z: Array) -> Array:
    """1 / (1 + e^-z)."""
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-z)))


def shifted(theta: Sequence[Array], x: Array) -> Columns:
    """E + A (x + c)^-α; θ = (ln E, ln A, α, ln c)."""
    log_e, log_a, alpha, log_c = theta
    inner = log_add(x, log_c)
    tail = log_a - alpha * inner
    share = gate(tail - log_e)
    falling = -share * inner
    return log_add(log_e, tail), (1 - share, share, falling, -share * alpha * gate(log_c - x))


def m3(theta: Sequence[Array], x: Array) -> Columns:
    """A (1/x + γ)^α; θ = (ln A, α, ln γ)."""
    log_a, alpha, log_gamma = theta
    inner = log_add(-x, log_gamma)
    return log_a + alpha * inner, (np.ones_like(inner), inner, alpha * gate(log_gamma + x))


def broken(theta: Sequence[Array], x: Array) -> Columns:
    """E + A x^-α (1 + (x/b)^(1/f))^(-β f); θ = (ln E, ln A, α, β, ln b, ln f)."""
    log_e, log_a, alpha, beta, log_b, log_f = theta
    width = np.exp(log_f)
    z = (x - log_b) / width
    hinge = width * softplus(z)
    beyond = gate(z)
    tail = log_a - alpha * x - beta * hinge
    share = gate(tail - log_e)
    bent = share * beta
    return log_add(log_e, tail), (
        1 - share, share, -share * x, -share * hinge, bent * beyond, -bent * (hinge - width * beyond * z),
    )  # fmt: skip


def m4(theta: Sequence[Array], x: Array) -> Columns:
    """(L - E) / L0 = A x^-α (1 - L/L0)^κ, solved for L; θ = (ln E, ln L0, ln κ, ln A, α).

    A is free of the unit of the loss, unlike in the paper's (L - E) / (L0 - L)^κ = A x^-α.
    With L = E + (L0 - E) σ(v) the equation is monotone in v: ln σ(v) - κ ln σ(-v) = q, solved by Halley's method, and
    the derivatives follow from it implicitly.
    """
    log_e, log_top, log_kappa, log_a, alpha = theta
    kappa = np.exp(log_kappa)
    # E stays below L0 however the optimiser moves: the gap has a floor.
    log_e = np.minimum(log_e, log_top - 1e-3)
    log_share = np.log(-np.expm1(log_e - log_top))
    log_range = log_top + log_share
    v = _m4_odds(log_a - alpha * x + (kappa - 1) * log_share, kappa)
    rising, falling = gate(v), gate(-v)
    slope = falling + kappa * rising
    log_part = log_range - softplus(-v)
    value = log_add(log_e, log_part)
    share = np.exp(log_part - value)
    # ln L = ln(E + R σ(v)), R = L0 - E; d ln R / d ln E = -E/R, d ln R / d ln L0 = L0/R.
    range_e, range_top = -np.exp(log_e - log_range), np.exp(log_top - log_range)
    through = share * falling / slope
    by_range = share + through * (kappa - 1)
    return value, (
        (1 - share) + by_range * range_e, by_range * range_top - through * (kappa - 1),
        through * kappa * (log_share - softplus(v)), through, -through * x,
    )  # fmt: skip


def _m4_odds(right: Array, kappa: Array) -> Array:
    """v with ln σ(v) - κ ln σ(-v) = ``right``; a number that has been found rests while others are sought."""
    v = np.where(right < 0, right, right / kappa)
    open_ = np.isfinite(v)
    for _ in range(60):
        small = np.exp(-np.abs(v))
        log_one = np.log1p(small)
        rising = np.where(v > 0, 1.0, small) / (1.0 + small)
        value = np.minimum(v, 0.0) - log_one + kappa * (np.maximum(v, 0.0) + log_one) - right
        slope = 1 - rising + kappa * rising
        ratio = value / slope
        # Halley's step: the second derivative is (κ - 1) σ(v) σ(-v).
        move = ratio / (1 - 0.5 * ratio * (kappa - 1) * rising * (1 - rising) / slope)
        v = np.where(open_, v - move, v)
        open_ &= np.abs(move) > 1e-12 * (1 + np.abs(v))
        if not open_.any():
            break
    return np.asarray(v)


def logistic(theta: Sequence[Array], x: Array) -> Columns:
    """1 / (1 + exp(-(a + b t))); θ = (a, b)."""
    odds = theta[0] + theta[1] * x
    rest = gate(-odds)
    return -softplus(-odds), (rest, rest * x)
