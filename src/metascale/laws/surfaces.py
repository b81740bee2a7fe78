"""The laws in two and three scales: model size N, data D, unique data U."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metascale.laws.arrays import Array
from metascale.laws.curves import LogSumExp, Smooth, Term, falling
from metascale.laws.families import AMPLITUDE, FLOOR, LOG_ZERO, ONE_AXIS, Law, box
from metascale.laws.starts import distinct_best, grid, log_coefficients, nonnegative_coefficients

POSITIVE_EXPONENT = ("", 0.005, 4.0)


def _joint_starts(t: Array, y: Array, w: Array) -> Array:
    """Hoffmann's surface is linear in (E, A, B) once the exponents are given: 25 × 25 of them are tried."""
    pairs = grid(np.linspace(0.04, 1.24, 25), np.linspace(0.04, 1.24, 25))
    columns = np.stack(
        [np.ones((len(pairs), len(t))), np.exp(-pairs[:, :1] * t[:, 0]), np.exp(-pairs[:, 1:] * t[:, 1])], -1
    )
    coefficients, error = nonnegative_coefficients(columns, np.exp(y), w)
    logs = log_coefficients(coefficients, float(y.min()) + LOG_ZERO)
    return distinct_best(np.column_stack([logs, pairs]), error, 4)


def _joint_units(theta: Array, t_ref: Array) -> Array:
    out = np.array(theta, float)
    out[..., 1] += theta[..., 3] * t_ref[0]
    out[..., 2] += theta[..., 4] * t_ref[1]
    return out


def kaplan(theta: Array, t: Array) -> tuple[Array, Array]:
    """((Nc/N)^(αN/αD) + Dc/D)^αD; θ = (ln Nc, ln Dc, αN, αD)."""
    log_n, log_d, alpha_n, alpha_d = (theta[:, k, None] for k in range(4))
    gap = log_n - t[:, 0]
    first, second = alpha_n / alpha_d * gap, log_d - t[:, 1]
    total = np.logaddexp(first, second)
    share = np.exp(first - total)
    columns = [alpha_n * share, alpha_d * (1 - share), share * gap, total - share * first]
    return alpha_d * total, np.stack(columns, -1)


def _kaplan_starts(t: Array, y: Array, w: Array) -> Array:
    pairs = grid(np.geomspace(0.02, 0.8, 13), np.geomspace(0.02, 0.8, 13))
    rows, errors = [], []
    for alpha_d in np.unique(pairs[:, 1]):
        part = pairs[pairs[:, 1] == alpha_d]
        ratio = part[:, :1] / alpha_d
        columns = np.stack([np.exp(-ratio * t[:, 0]), np.broadcast_to(np.exp(-t[:, 1]), (len(part), len(t)))], -1)
        coefficients, error = nonnegative_coefficients(columns, np.exp((y - y.mean()) / alpha_d), w)
        logs = np.log(np.maximum(coefficients, 1e-30)) + y.mean() / alpha_d
        rows.append(np.column_stack([logs[:, :1] / ratio, logs[:, 1:], part]))
        errors.append(error * alpha_d**2)
    return distinct_best(np.concatenate(rows), np.concatenate(errors), 6)


def _kaplan_units(theta: Array, t_ref: Array) -> Array:
    out = np.array(theta, float)
    out[..., 0] += t_ref[0]
    out[..., 1] += t_ref[1]
    return out


def complex_step(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Value and exact Jacobian of an analytic function by complex steps (Squire and Trapp 1998)."""

    def value_and_jacobian(theta: Array, t: Array) -> tuple[Array, Array]:
        n_batch, p = theta.shape
        step = 1e-30
        moved = (theta[:, None, :] + 1j * step * np.eye(p)).reshape(-1, p)
        derivative = function(moved, t).imag.reshape(n_batch, p, -1) / step
        return function(theta, t).real, derivative.transpose(0, 2, 1)

    return value_and_jacobian


def data_constrained(theta: Array, t: Array) -> Array:
    """E + A N'^-α + B D'^-β with repeats worth less and less; θ = (ln E, ln A, ln B, α, β, ln R_D, ln R_N).

    D' = U (1 + R_D (1 - e^{-r/R_D})) after r = D/U - 1 repeats of U unique tokens; N' likewise, with U_N the model size
    that is compute-optimal for U tokens, N at most.
    """
    log_e, log_a, log_b, alpha, beta, log_rd, log_rn = (theta[:, k, None] for k in range(7))
    n, d, u = t[:, 0], t[:, 1], np.minimum(t[:, 2], t[:, 1])
    best = (beta * u + np.log(alpha) + log_a - np.log(beta) - log_b) / alpha
    unique_n = np.where(best.real < n, best, n)
    rd, rn = np.exp(log_rd), np.exp(log_rn)
    excess_d, excess_n = np.exp(d - u) - 1, np.exp(n - unique_n) - 1
    effective_d = u + np.log(1 + rd * (1 - np.exp(-excess_d / rd)))
    effective_n = unique_n + np.log(1 + rn * (1 - np.exp(-excess_n / rn)))
    floor, size, data = log_e + 0 * n, log_a - alpha * effective_n, log_b - beta * effective_d
    top = np.maximum(np.maximum(floor.real, size.real), data.real)
    return top + np.log(np.exp(floor - top) + np.exp(size - top) + np.exp(data - top))


def _constrained_starts(t: Array, y: Array, w: Array) -> Array:
    surface = _joint_starts(t, y, w)[:2]
    repeats = grid(np.log([3.0, 15.0]), np.log([3.0, 15.0]))
    return np.array([[*row, *pair] for row in surface for pair in repeats])


CHINCHILLA = Law(
    "chinchilla", "L = E + A N^-alpha + B D^-beta", "Hoffmann et al. 2022, approach 3; Besiroglu et al. 2024", 2,
    ("E", "A", "B", "alpha", "beta"), (True, True, True, False, False),
    LogSumExp(5, (Term(0), Term(1, 3, falling(0)), Term(2, 4, falling(1)))), _joint_starts, _joint_units,
    box(FLOOR, AMPLITUDE, AMPLITUDE, POSITIVE_EXPONENT, POSITIVE_EXPONENT),
)  # fmt: skip
KAPLAN = Law(
    "kaplan", "L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D", "Kaplan et al. 2020, equation 1.5", 2,
    ("Nc", "Dc", "alpha_N", "alpha_D"), (True, True, False, False),
    Smooth(4, kaplan), _kaplan_starts, _kaplan_units,
    box(("", -400.0, 400.0), ("", -400.0, 400.0), POSITIVE_EXPONENT, POSITIVE_EXPONENT),
)  # fmt: skip
DATA_CONSTRAINED = Law(
    "data_constrained", "L = E + A N'^-alpha + B D'^-beta, N' and D' discounted for repeats",
    "Muennighoff et al. 2023, Scaling data-constrained language models", 3,
    ("E", "A", "B", "alpha", "beta", "R_D", "R_N"), (True, True, True, False, False, True, True),
    Smooth(7, complex_step(data_constrained)), _constrained_starts, _joint_units,
    box(FLOOR, AMPLITUDE, AMPLITUDE, POSITIVE_EXPONENT, POSITIVE_EXPONENT, ("", -2.3, 6.9), ("", -2.3, 6.9)),
    axes_in_one_unit=(1, 2),
)  # fmt: skip
MANY_AXES = {law.name: law for law in (CHINCHILLA, KAPLAN, DATA_CONSTRAINED)}
LAWS = {**ONE_AXIS, **MANY_AXES}
