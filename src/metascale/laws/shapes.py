"""Curves of one scale that are not sums of powers: log prediction [B, n] and its exact Jacobian [B, n, p]."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from metascale.laws.arrays import Array


def shifted(theta: Array, t: Array) -> tuple[Array, Array]:
    """E + A (x + c)^-α; θ = (ln E, ln A, α, ln c)."""
    x = t[:, 0]
    log_e, log_a, alpha, log_c = (theta[:, k, None] for k in range(4))
    inner = np.logaddexp(x, log_c)
    tail = log_a - alpha * inner
    value = np.logaddexp(log_e, tail)
    share = expit(tail - log_e)
    moved = expit(log_c - x)
    return value, np.stack([1 - share, share, -share * inner, -share * alpha * moved], -1)


def m3(theta: Array, t: Array) -> tuple[Array, Array]:
    """A (1/x + γ)^α; θ = (ln A, α, ln γ)."""
    x = t[:, 0]
    log_a, alpha, log_gamma = (theta[:, k, None] for k in range(3))
    inner = np.logaddexp(-x, log_gamma)
    value = log_a + alpha * inner
    return value, np.stack([np.ones_like(inner), inner, alpha * expit(log_gamma + x)], -1)


def broken(theta: Array, t: Array) -> tuple[Array, Array]:
    """E + A x^-α (1 + (x/b)^(1/f))^(-β f); θ = (ln E, ln A, α, β, ln b, ln f)."""
    x = t[:, 0]
    log_e, log_a, alpha, beta, log_b, log_f = (theta[:, k, None] for k in range(6))
    width = np.exp(log_f)
    z = (x - log_b) / width
    hinge = width * np.logaddexp(0.0, z)
    gate = expit(z)
    tail = log_a - alpha * x - beta * hinge
    value = np.logaddexp(log_e, tail)
    share = expit(tail - log_e)
    columns = [
        1 - share,
        share,
        -share * x,
        -share * hinge,
        share * beta * gate,
        -share * beta * (hinge - width * gate * z),
    ]
    return value, np.stack(columns, -1)


def m4(theta: Array, t: Array) -> tuple[Array, Array]:
    """(L - E) / (L0 - L)^κ = A x^-α, solved for L; θ = (ln E, ln L0, ln κ, ln A, α).

    With L = E + (L0 - E) σ(v) the equation is monotone in v: ln σ(v) - κ ln σ(-v) = q, solved by Newton's method, and
    the derivatives follow from it implicitly.
    """
    x = t[:, 0]
    log_e, log_top, log_kappa, log_a, alpha = (theta[:, k, None] for k in range(5))
    kappa = np.exp(log_kappa)
    # E stays below L0 however the optimiser moves: the gap has a floor.
    log_e = np.minimum(log_e, log_top - 1e-3)
    log_range = log_top + np.log(-np.expm1(log_e - log_top))
    right = log_a - alpha * x + (kappa - 1) * log_range
    v = np.where(right < 0, right, right / kappa)
    for _ in range(60):
        value = kappa * np.logaddexp(0.0, v) - np.logaddexp(0.0, -v) - right
        rising = expit(v)
        slope = 1 - rising + kappa * rising
        ratio = value / slope
        # Halley's step: the second derivative is (κ - 1) σ(v) σ(-v).
        move = ratio / (1 - 0.5 * ratio * (kappa - 1) * rising * (1 - rising) / slope)
        v = v - move
        if not (np.abs(move) > 1e-12 * (1 + np.abs(v))).any():
            break
    rising, falling = expit(v), expit(-v)
    slope = falling + kappa * rising
    log_part = log_range - np.logaddexp(0.0, -v)
    value = np.logaddexp(log_e, log_part)
    share = np.exp(log_part - value)
    # ln L = ln(E + R σ(v)), R = L0 - E; d ln R / d ln E = -E/R, d ln R / d ln L0 = L0/R.
    range_e, range_top = -np.exp(log_e - log_range), np.exp(log_top - log_range)
    through = share * falling / slope
    by_range = share + through * (kappa - 1)
    return value, np.stack(
        [
            (1 - share) + by_range * range_e,
            by_range * range_top,
            through * kappa * (log_range - np.logaddexp(0.0, v)),
            through + 0.0 * x,
            -through * x,
        ],
        -1,
    )


def logistic(theta: Array, t: Array) -> tuple[Array, Array]:
    """1 / (1 + exp(-(a + b t))); θ = (a, b)."""
    x = t[:, 0]
    odds = theta[:, :1] + theta[:, 1:2] * x
    rest = expit(-odds)
    return -np.logaddexp(0.0, -odds), np.stack([rest, rest * x], -1)
