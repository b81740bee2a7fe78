"""Known evaluation errors: how much of the scatter of a table they explain, and what each row then weighs.

A row's ln loss is the law plus the noise of its run, of unknown variance τ², plus the error of its evaluation, of known
variance s². τ² is what makes the weighted squares of the residuals as large as their degrees of freedom (Paule and
Mandel 1982, J. Res. NBS 87, 377); a row weighs 1 / (τ² + s²).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metascale.core.errors import InputError
from metascale.laws.families import MANY_AXES, ONE_AXIS, Law
from metascale.laws.fitting import fit_law
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import Array, Observations

ROUNDS = 4  # of a fit with the weights and of the weights after the fit
_HALVINGS = 60


def run_variance(residuals: Array, error: Array, freedom: int) -> float:
    """τ², the variance of ln loss that ``error`` [n], the known standard errors of ln loss, leave unexplained; 0 where
    they explain all."""
    return float(run_variances(residuals, error, np.array([freedom], float))[0])


def run_variances(residuals: Array, error: Array, squares: Array) -> Array:
    """[B] τ² at which the weighted squares of the residuals are ``squares`` [B]. Drawn from χ², these give the
    distribution that τ² has given the residuals (Viechtbauer 2007, Stat. Med. 26, 37), which may leave out 0 where the
    estimate is 0."""
    square, known = residuals**2, np.maximum(error, 1e-150) ** 2
    low, high = np.zeros(len(squares)), float(square.sum()) / np.maximum(squares, 1e-12)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        more = (square / (middle[:, None] + known)).sum(1) > squares
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    found = 0.5 * (low + high)
    return np.asarray(np.where((square / known).sum() <= squares, 0.0, found))


def row_weights(variance: float, error: Array) -> Array:
    """[n] inverse variances, 1 in the mean."""
    weights = 1 / np.maximum(variance + error**2, 1e-300)
    return np.asarray(weights / weights.mean())


def weigh(observations: Observations) -> Observations:
    """The table with its rows' weights, where it has evaluation errors; τ² is that about a floored law or surface."""
    error = observations.error
    if error is None:
        return observations
    law = _reference(observations)
    # From the errors alone: one badly known row must not make the others look noisy. A floor keeps zeros finite.
    weights, variance = row_weights((0.1 * float(np.median(error))) ** 2 + 1e-12, error), 0.0
    for _ in range(ROUNDS if law is not None else 0):
        assert law is not None
        fit = fit_law(law, observations, LeastSquares(), weights)
        variance = run_variance(fit.residuals, error, max(observations.n - law.n_parameters, 1))
        weights = row_weights(variance, error)
    return replace(observations, weights=weights, run_variance=variance)


def refuse_noise(noise: object) -> None:
    """Refuse evaluation errors where every row would weigh alike."""
    if noise is not None:
        raise InputError("`noise` is for laws in one scale and for chinchilla, kaplan and data_constrained; formulas "
                         "and joined forms weigh every row alike", field="noise")  # fmt: skip


def _reference(table: Observations) -> Law | None:
    """The law about which the noise of runs is measured: the most flexible of a few that the table can carry."""
    laws = {**ONE_AXIS, **MANY_AXES}
    names = {1: ("power_irreducible", "power"), 2: ("chinchilla",), 3: ("data_constrained",)}.get(table.n_axes, ())
    spare = [laws[name] for name in names if table.n_scales > laws[name].n_parameters]
    return spare[0] if spare else None
