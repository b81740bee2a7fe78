"""The shape of a law as a function of coded parameters and log scales, with its expansion for Newton's method.

A curve works on θ [B, p] (positive parameters as logarithms), t [n, d] (natural logarithms of the scales, centred) and
gives the log of the predicted loss [B, n]. Sums of power laws are log-sum-exps, whose exact Hessian is a handful of
matrix products; other curves give their Jacobian, and their second derivatives are differences of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from metascale.laws.arrays import Array
from metascale.laws.newton import Local
from metascale.laws.objective import Objective


class Curve(Protocol):
    """Log prediction, its Jacobian, and the local expansion of the objective; not ``exact`` may leave out ∂²f."""

    def log_predict(self, theta: Array, t: Array) -> Array: ...

    def jacobian(self, theta: Array, t: Array) -> tuple[Array, Array]: ...

    def expand(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local: ...


@dataclass(frozen=True)
class Term:
    """One addend exp(θ[amplitude] + θ[exponent] · basis(t)); without an exponent it is a constant."""

    amplitude: int
    exponent: int | None = None
    basis: Callable[[Array], Array] | None = None


def falling(axis: int) -> Callable[[Array], Array]:
    """The basis -ln x of a power law in the scale number ``axis``."""
    return lambda t: -t[:, axis]


def decaying(axis: int) -> Callable[[Array], Array]:
    """The basis -x of an exponential decay in the scale number ``axis``."""
    return lambda t: -np.exp(t[:, axis])


@dataclass(frozen=True)
class LogSumExp:
    """ln Σ_k exp(θ[a_k] + θ[e_k] · b_k(t)): every parameter belongs to one term or is an exponent that terms share."""

    n_parameters: int
    terms: tuple[Term, ...]

    def _logits(self, theta: Array, bases: list[Array | None]) -> list[Array]:
        logits = []
        for term, basis in zip(self.terms, bases, strict=True):
            amplitude = theta[:, term.amplitude, None]
            if term.exponent is None or basis is None:
                n = next((len(other) for other in bases if other is not None), 1)
                logits.append(np.broadcast_to(amplitude, (len(theta), n)))
            else:
                logits.append(amplitude + theta[:, term.exponent, None] * basis)
        return logits

    def _bases(self, t: Array) -> list[Array | None]:
        if all(term.basis is None for term in self.terms):
            # A constant law still predicts one number a point.
            return [np.zeros(len(t)) for _ in self.terms]
        return [None if term.basis is None else term.basis(t) for term in self.terms]

    def _shares(self, theta: Array, t: Array) -> tuple[Array, list[Array], list[Array | None]]:
        """Log prediction [B, n], each term's share of it [B, n] and the bases [n]."""
        bases = self._bases(t)
        logits = self._logits(theta, bases)
        if len(logits) == 1:
            out = np.broadcast_to(logits[0], (len(theta), len(t)))
            return out, [np.ones_like(out)], bases
        top = logits[0]
        for other in logits[1:]:
            top = np.maximum(top, other)
        parts = [np.exp(logit - top) for logit in logits]
        total = parts[0] + parts[1]
        for part in parts[2:]:
            total = total + part
        inverse = 1.0 / total
        return top + np.log(total), [part * inverse for part in parts], bases

    def log_predict(self, theta: Array, t: Array) -> Array:
        return self._shares(theta, t)[0]

    def jacobian(self, theta: Array, t: Array) -> tuple[Array, Array]:
        value, shares, bases = self._shares(theta, t)
        out = np.zeros((*value.shape, self.n_parameters))
        for term, share, basis in zip(self.terms, shares, bases, strict=True):
            out[..., term.amplitude] += share
            if term.exponent is not None and basis is not None:
                out[..., term.exponent] += share * basis
        return value, out

    def expand(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local:
        value, shares, bases = self._shares(theta, t)
        penalty = objective.penalty(target - value)
        total = np.einsum("bn,bn->b", weights, penalty.value) if weights.ndim == 2 else penalty.value @ weights
        slope = weights * penalty.slope
        bend = weights * penalty.curvature + slope
        steady = weights * penalty.majoriser
        n_batch, p = len(theta), self.n_parameters
        gradient = np.zeros((n_batch, p))
        hessian, majoriser = np.zeros((n_batch, p, p)), np.zeros((n_batch, p, p))
        ones = np.ones(len(t))
        columns = [self._columns(term, basis, ones) for term, basis in zip(self.terms, bases, strict=True)]
        for k, (indices, vectors) in enumerate(columns):
            pull = slope * shares[k]
            moments = pull @ vectors.T
            gradient[:, indices] -= moments
            own = pull @ _products(vectors, vectors)
            _add(hessian, indices, indices, -own)
            for m in range(k + 1):
                other_indices, other_vectors = columns[m]
                pair = shares[k] * shares[m]
                products = _products(vectors, other_vectors)
                for matrix, factor in ((hessian, bend), (majoriser, steady)):
                    block = (factor * pair) @ products
                    _add(matrix, indices, other_indices, block)
                    if m != k:
                        _add(matrix, other_indices, indices, _transposed(block, len(indices), len(other_indices)))
        return Local(total, gradient, hessian, majoriser)

    @staticmethod
    def _columns(term: Term, basis: Array | None, ones: Array) -> tuple[list[int], Array]:
        if term.exponent is None or basis is None:
            return [term.amplitude], ones[None]
        return [term.amplitude, term.exponent], np.stack([ones, basis])


def _products(left: Array, right: Array) -> Array:
    """[n, k·m] every product of a row of ``left`` [k, n] and a row of ``right`` [m, n]."""
    return (left[:, None] * right[None]).reshape(-1, left.shape[1]).T


def _add(matrix: Array, rows: list[int], columns: list[int], block: Array) -> None:
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            matrix[:, row, column] += block[:, i * len(columns) + j]


def _transposed(block: Array, n_rows: int, n_columns: int) -> Array:
    return block.reshape(-1, n_rows, n_columns).transpose(0, 2, 1).reshape(len(block), -1)


@dataclass(frozen=True)
class Smooth:
    """Any curve given by a function that returns its log prediction [B, n] and Jacobian [B, n, p]."""

    n_parameters: int
    function: Callable[[Array, Array], tuple[Array, Array]]

    def log_predict(self, theta: Array, t: Array) -> Array:
        return self.function(theta, t)[0]

    def jacobian(self, theta: Array, t: Array) -> tuple[Array, Array]:
        return self.function(theta, t)

    def expand(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local:
        value, jacobian = self.function(theta, t)
        penalty = objective.penalty(target - value)
        weights = np.broadcast_to(weights, value.shape)
        slope = weights * penalty.slope
        gradient = -np.matmul(slope[:, None, :], jacobian)[:, 0]
        transposed = jacobian.transpose(0, 2, 1)
        hessian = np.matmul(transposed * (weights * penalty.curvature)[:, None, :], jacobian)
        majoriser = np.matmul(transposed * (weights * penalty.majoriser)[:, None, :], jacobian)
        total = np.einsum("bn,bn->b", weights, penalty.value)
        if not exact:
            return Local(total, gradient, hessian, majoriser)
        # ∂²f contracted with the slopes: forward differences of an exact Jacobian, all parameters in one call.
        n_batch, p = theta.shape
        width = 1e-6 * np.abs(theta) + 1e-9
        moved = theta[:, None, :] + width[:, :, None] * np.eye(p)
        shifted = self.function(moved.reshape(-1, p), t)[1].reshape(n_batch, p, -1, p)
        pulled = np.einsum("bn,bjnp->bjp", slope, shifted)
        second = (pulled + gradient[:, None, :]) / width[:, :, None]
        hessian = hessian - 0.5 * (second + second.transpose(0, 2, 1))
        return Local(total, gradient, hessian, majoriser)
