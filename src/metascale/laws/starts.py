"""Where fits start: a grid over the nonlinear parameters, the linear ones solved for (variable projection)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from metascale.laws.arrays import Array
from metascale.laws.newton import solve


def nonnegative_coefficients(columns: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """Least squares of relative residuals, coefficients ≥ 0, for a batch of designs.

    Args:
        columns: [S, n, K]; y: [n] positive; weights: [n].

    Returns:
        coefficients [S, K] and the weighted sum of squared relative residuals [S].
    """
    scaled = columns / y[None, :, None]
    gram = np.matmul(scaled.transpose(0, 2, 1) * weights, scaled)
    moment = np.matmul(scaled.transpose(0, 2, 1), weights)
    n_designs, _, n_columns = columns.shape
    best = np.full(n_designs, np.inf)
    coefficients = np.zeros((n_designs, n_columns))
    for size in range(1, n_columns + 1):
        for subset in itertools.combinations(range(n_columns), size):
            index = np.array(subset)
            part = gram[:, index[:, None], index]
            ridge = 1e-12 * np.einsum("sii->s", part) / size
            part = part + (ridge[:, None] + 1e-300)[:, :, None] * np.eye(size)
            solution = solve(part, moment[:, index])
            error = weights.sum() - np.einsum("sk,sk->s", solution, moment[:, index])
            better = (solution > 0).all(1) & (error < best)
            best[better] = error[better]
            coefficients[better] = 0.0
            coefficients[np.ix_(np.flatnonzero(better), index)] = solution[better]
    return coefficients, best


def log_coefficients(coefficients: Array, floor: float) -> Array:
    """Logarithms, with ``floor`` for a coefficient that the projection set to zero."""
    return np.log(np.maximum(coefficients, np.exp(floor)))


def grid(*axes: Sequence[float] | Array) -> Array:
    """[S, k] every combination of the values."""
    return np.array(list(itertools.product(*axes)), float)


def distinct_best(theta: Array, error: Array, count: int) -> Array:
    """The ``count`` rows of least error."""
    order = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")
    return theta[order[:count]]
