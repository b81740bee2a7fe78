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
from scipy.special import expit

from metascale.laws.newton import Local
from metascale.laws.objective import Objective
from metascale.laws.observations import Array


class Curve(Protocol):
    """Log prediction, its Jacobian, and the local expansion of the objective (∂²f may be left out if not ``exact``)."""

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
    return np.asarray((left[:, None] * right[None]).reshape(-1, left.shape[1]).T)


def _add(matrix: Array, rows: list[int], columns: list[int], block: Array) -> None:
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            matrix[:, row, column] += block[:, i * len(columns) + j]


def _transposed(block: Array, n_rows: int, n_columns: int) -> Array:
    return np.asarray(block.reshape(-1, n_rows, n_columns).transpose(0, 2, 1).reshape(len(block), -1))


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
    """(L - E) / L0 = A x^-α (1 - L/L0)^κ, solved for L; θ = (ln E, ln L0, ln κ, ln A, α).

    A is free of the unit of the loss, unlike in the paper's (L - E) / (L0 - L)^κ = A x^-α.
    With L = E + (L0 - E) σ(v) the equation is monotone in v: ln σ(v) - κ ln σ(-v) = q, solved by Newton's method, and
    the derivatives follow from it implicitly.
    """
    x = t[:, 0]
    log_e, log_top, log_kappa, log_a, alpha = (theta[:, k, None] for k in range(5))
    kappa = np.exp(log_kappa)
    # E stays below L0 however the optimiser moves: the gap has a floor.
    log_e = np.minimum(log_e, log_top - 1e-3)
    log_share = np.log(-np.expm1(log_e - log_top))
    log_range = log_top + log_share
    right = log_a - alpha * x + (kappa - 1) * log_share
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
            by_range * range_top - through * (kappa - 1),
            through * kappa * (log_share - np.logaddexp(0.0, v)),
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
