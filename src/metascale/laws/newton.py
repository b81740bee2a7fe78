"""Damped Newton for many small fits at once: every start, cut or bootstrap resample is one row of a batch.

The step solves (H + λ M) d = -g with H the exact Hessian and M the Hessian of the quadratic majoriser of the penalty:
λ → 0 is Newton's step, large λ a short step of iteratively reweighted least squares, which can only go down. Bounds are
kept by projection: a coordinate at its bound whose gradient points outward rests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metascale.laws.observations import Array, Integers, Mask


class Local(NamedTuple):
    """Value [B], gradient [B, p], Hessian [B, p, p] and majoriser Hessian [B, p, p] at a batch of points."""

    value: Array
    gradient: Array
    hessian: Array
    majoriser: Array


@dataclass(frozen=True)
class Minimum:
    """Where each row of the batch ended.

    Attributes:
        theta: [B, p]; value: [B]; hessian: [B, p, p].
        decrement: [B] the decrease that a further Newton step predicts (a measured residual).
        iterations: [B]; converged: [B] whether the decrement fell below the tolerance.
    """

    theta: Array
    value: Array
    hessian: Array
    decrement: Array
    iterations: Integers
    converged: Mask


FIRST_DAMPING, MAX_DAMPING = 1e-2, 1e7
STALL_ITERATIONS = 8


def minimise(
    evaluate: Callable[[Array, Integers], Local],
    start: Array,
    lower: Array,
    upper: Array,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-13,
    stall_share: float = 1e-5,
) -> Minimum:
    """Minimise every row of a batch from ``start`` [B, p] inside [lower, upper].

    Args:
        evaluate: given points [b, p] and the batch rows [b] that they belong to, their ``Local`` expansion.
        tolerance: relative to the value, the predicted decrease at which a row has converged.
        stall_share: a row whose value fell by less than this share in 8 iterations lies in a flat valley (parameters
            that trade off); it is stopped and reported as not converged.
    """
    rows = np.arange(len(start))
    theta = np.clip(start, lower, upper)
    local = evaluate(theta, rows)
    state = _State(
        theta, local, np.full(len(start), FIRST_DAMPING), np.full(len(start), np.inf), np.zeros(len(start), np.intp),
        np.zeros(len(start), bool), np.isfinite(local.value),
    )  # fmt: skip
    earlier = local.value.copy()
    for iteration in range(max_iterations):
        if iteration and iteration % STALL_ITERATIONS == 0:
            fallen = earlier - local.value
            state.alive[:] &= state.converged | (fallen > stall_share * local.value)
            earlier = local.value.copy()
        active = np.flatnonzero(state.alive & ~state.converged)
        if active.size == 0:
            break
        _advance(evaluate, state, active, lower, upper, tolerance)
    return Minimum(theta, local.value, local.hessian, state.decrement, state.iterations, state.converged)


class _State(NamedTuple):
    """The batch during the search: every array is [B, ...] and is changed in place."""

    theta: Array
    local: Local
    damping: Array
    decrement: Array
    iterations: Integers
    converged: Mask
    alive: Mask


def _advance(
    evaluate: Callable[[Array, Integers], Local], state: _State, active: Integers, lower: Array, upper: Array,
    tolerance: float,
) -> None:  # fmt: skip
    """One damped Newton step of the ``active`` rows; a step that does not descend is taken back and damped more."""
    theta, local, damping = state.theta, state.local, state.damping
    now = Local(*(part[active] for part in local))
    step, predicted = _step(now, theta[active], damping[active], lower, upper)
    # Damping shortens the step about (1 + λ) times; what counts is the decrease an undamped step would bring.
    state.decrement[active] = predicted * (1 + damping[active])
    done = (state.decrement[active] <= tolerance * now.value + 1e-28) & (predicted >= 0)
    state.converged[active[done]] = True
    moving = ~done & (predicted > 0)
    damping[active[~done & ~moving]] *= 10
    rows_moving = active[moving]
    if rows_moving.size:
        candidate = np.clip(theta[rows_moving] + step[moving], lower, upper)
        new = evaluate(candidate, rows_moving)
        better = np.isfinite(new.value) & (new.value < local.value[rows_moving])
        accepted = rows_moving[better]
        theta[accepted] = candidate[better]
        for whole, part in zip(local, new, strict=True):
            whole[accepted] = part[better]
        damping[accepted] = np.maximum(damping[accepted] * 0.1, 1e-9)
        damping[rows_moving[~better]] *= 10
    state.iterations[active] += 1
    # No descent at the strongest damping: rounding is all that is left, or the row is stuck.
    stuck = active[damping[active] > MAX_DAMPING]
    state.converged[stuck] = np.abs(state.decrement[stuck]) <= 1e-9 * local.value[stuck] + 1e-24
    state.alive[stuck] &= state.converged[stuck]


def _step(local: Local, theta: Array, damping: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """The damped step [b, p] and the decrease it predicts [b]; negative where the step would not descend."""
    gradient, majoriser = local.gradient, local.majoriser
    n_parameters = theta.shape[1]
    resting = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    matrix = local.hessian.copy()
    diagonal = np.arange(n_parameters)
    stiffness = majoriser[:, diagonal, diagonal]
    scale = stiffness.mean(1)
    matrix[:, diagonal, diagonal] += damping[:, None] * stiffness + (1e-16 * scale + 1e-300)[:, None]
    if resting.any():
        gradient = np.where(resting, 0.0, gradient)
        keep = ~resting
        matrix = np.where(keep[:, :, None] & keep[:, None, :], matrix, 0.0)
        matrix[:, diagonal, diagonal] += np.where(resting, scale[:, None] + 1e-300, 0.0)
    step = -solve(matrix, gradient)
    predicted = -0.5 * np.einsum("bp,bp->b", gradient, step)
    return step, np.where(np.isfinite(predicted), predicted, -1.0)


def solve(matrix: Array, vector: Array) -> Array:
    """Solve [b, p, p] x = [b, p], row by row; a singular row gives NaN instead of failing the batch."""
    try:
        return np.asarray(np.linalg.solve(matrix, vector[..., None])[..., 0], float)
    except np.linalg.LinAlgError:
        out = np.full_like(vector, np.nan)
        for row in range(len(matrix)):
            try:
                out[row] = np.linalg.solve(matrix[row], vector[row])
            except np.linalg.LinAlgError:
                continue
        return out
