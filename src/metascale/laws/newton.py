"""Damped Newton for many small fits at once: every start, cut or bootstrap resample is one row of a batch.

The step solves (H + λ M) d = -g with H the exact Hessian and M the diagonal of the Hessian of the penalty's quadratic
majoriser: λ → 0 is Newton's step, large λ a short step downhill in the majoriser's units. Bounds are kept by
projection: a coordinate at its bound whose gradient points outward rests.

Rows know nothing of each other: a row takes the same steps alone and in a batch of thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from metascale.laws.observations import Array, Integers, Mask


class Local(NamedTuple):
    """Value [B], gradient [B, p], Hessian [B, p, p] and diagonal [B, p] of the majoriser's Hessian, of a batch."""

    value: Array
    gradient: Array
    hessian: Array
    stiffness: Array


Evaluate: TypeAlias = "Callable[[Array, Integers], Local]"
"""Given points [b, p] and the batch rows [b] that they belong to, their expansion. ``rows`` is one object from call to
call until the rows change."""


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

    def rows(self, kept: slice) -> Minimum:
        """A part of the batch."""
        return Minimum(self.theta[kept], self.value[kept], self.hessian[kept], self.decrement[kept],
                       self.iterations[kept], self.converged[kept])  # fmt: skip


FIRST_DAMPING, MAX_DAMPING = 1e-2, 1e7
STALL_ITERATIONS = 8
CLEARED = 0.25  # rows that have ended make room once they are this share of those at work


def minimise(
    evaluate: Evaluate,
    start: Array,
    lower: Array,
    upper: Array,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-13,
    stall_share: float = 1e-5,
    width: int | None = None,
) -> Minimum:
    """Minimise every row of a batch from ``start`` [B, p] inside [lower, upper], each [p] or [B, p].

    Args:
        tolerance: relative to the value, the predicted decrease at which a row has converged.
        stall_share: a row whose value fell by less than this share in 8 iterations lies in a flat valley (parameters
            that trade off); it is stopped and reported as not converged.
        width: how many rows are at work at a time, so that they stay inside the cache; all by default. The next one
            begins where one has ended.
    """
    total, p = start.shape
    lower, upper = np.broadcast_to(lower, (total, p)), np.broadcast_to(upper, (total, p))
    begin = np.clip(start, lower, upper)
    out = Minimum(begin, np.full(total, np.nan), np.zeros((total, p, p)), np.full(total, np.inf),
                  np.zeros(total, np.intp), np.zeros(total, bool))  # fmt: skip
    width = max(width or total, 1)
    rows, waiting = np.arange(min(width, total)), min(width, total)
    state = _State.at(evaluate, begin[rows], rows)
    low, high = lower[rows], upper[rows]
    while len(rows):
        _advance(evaluate, state, rows, low, high, tolerance, stall_share)
        over = state.converged | ~state.alive | (state.iterations >= max_iterations)
        n_over = int(np.count_nonzero(over))
        if n_over < len(rows) and n_over < CLEARED * len(rows):
            continue
        state.store(out, rows, over)
        fresh = np.arange(waiting, min(total, waiting + n_over))
        waiting += len(fresh)
        rows, state = rows[~over], state.keep(~over)
        if len(fresh):
            state = state.joined(_State.at(evaluate, begin[fresh], fresh))
            rows = np.concatenate([rows, fresh])
        low, high = lower[rows], upper[rows]
    return out


class _State(NamedTuple):
    """The rows at work: every array is [b, ...] and is changed in place. ``earlier`` is the value at the last look for
    a flat valley."""

    theta: Array
    value: Array
    gradient: Array
    hessian: Array
    stiffness: Array
    damping: Array
    decrement: Array
    earlier: Array
    iterations: Integers
    converged: Mask
    alive: Mask

    @classmethod
    def at(cls, evaluate: Evaluate, theta: Array, rows: Integers) -> _State:
        n = len(theta)
        local = Local(*(np.array(part) for part in evaluate(theta, rows)))
        return cls(
            theta.copy(), *local, np.full(n, FIRST_DAMPING), np.full(n, np.inf), local.value.copy(),
            np.zeros(n, np.intp), np.zeros(n, bool), np.isfinite(local.value),
        )  # fmt: skip

    def keep(self, rows: Mask) -> _State:
        return _State._make(part[rows] for part in self)

    def joined(self, other: _State) -> _State:
        return _State(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def store(self, out: Minimum, rows: Integers, over: Mask) -> None:
        """Write the rows that have ended to where the whole batch is."""
        at = rows[over]
        out.theta[at], out.value[at], out.hessian[at] = self.theta[over], self.value[over], self.hessian[over]
        out.decrement[at], out.iterations[at] = self.decrement[over], self.iterations[over]
        out.converged[at] = self.converged[over]


def _advance(
    evaluate: Evaluate, state: _State, rows: Integers, lower: Array, upper: Array, tolerance: float, stall_share: float
) -> None:
    """One damped Newton step; a step that does not descend is taken back and damped more."""
    theta, value, damping = state.theta, state.value, state.damping
    look = (state.iterations % STALL_ITERATIONS == 0) & (state.iterations > 0)
    if look.any():
        state.alive[:] &= ~look | state.converged | (state.earlier - value > stall_share * value)
        state.earlier[look] = value[look]
    active = state.alive & ~state.converged
    step, predicted = _step(state, lower, upper)
    # Damping shortens the step about (1 + λ) times; what counts is the decrease an undamped step would bring.
    np.copyto(state.decrement, predicted * (1 + damping), where=active)
    done = active & (state.decrement <= tolerance * value + 1e-28) & (predicted >= 0)
    state.converged[done] = True
    open_ = active & ~done
    moving = open_ & (predicted > 0)
    better = moving
    if moving.any():
        candidate = np.where(moving[:, None], np.minimum(np.maximum(theta + step, lower), upper), theta)
        new = evaluate(candidate, rows)
        better = moving & np.isfinite(new.value) & (new.value < value)
        for whole, part in zip((theta, value, state.gradient, state.hessian, state.stiffness), (candidate, *new),
                               strict=True):  # fmt: skip
            np.copyto(whole, part, where=better.reshape(-1, *[1] * (whole.ndim - 1)))
    np.copyto(damping, np.where(better, np.maximum(damping * 0.1, 1e-9), damping * 10), where=open_)
    state.iterations[:] += active
    # No descent at the strongest damping: rounding is all that is left, or the row is stuck.
    stuck = open_ & (damping > MAX_DAMPING)
    if stuck.any():
        state.converged[stuck] = np.abs(state.decrement[stuck]) <= 1e-9 * value[stuck] + 1e-24
        state.alive[stuck] &= state.converged[stuck]


def _step(state: _State, lower: Array, upper: Array) -> tuple[Array, Array]:
    """The damped step [b, p] and the decrease it predicts [b]; negative where the step would not descend."""
    theta, gradient, stiffness = state.theta, state.gradient, state.stiffness
    n_parameters = theta.shape[1]
    resting = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    matrix = state.hessian.copy()
    diagonal = np.arange(n_parameters)
    scale = stiffness.mean(1)
    matrix[:, diagonal, diagonal] += state.damping[:, None] * stiffness + (1e-16 * scale + 1e-300)[:, None]
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
    if vector.shape[1] == 1:
        return np.asarray(vector / matrix[:, 0])
    try:
        return np.asarray(np.linalg.solve(matrix, vector[..., None])[..., 0], float)
    except np.linalg.LinAlgError:
        half = len(matrix) // 2
        if half == 0:
            return np.full_like(vector, np.nan)
        return np.concatenate([solve(matrix[:half], vector[:half]), solve(matrix[half:], vector[half:])])
