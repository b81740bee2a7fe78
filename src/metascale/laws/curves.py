"""The shape of a law as a function of coded parameters and log scales, with its expansion for Newton's method.

A curve works on θ [B, p] (positive parameters as logarithms), t [n, d] (natural logarithms of the scales, centred) and
gives the log of the predicted loss [B, n]. Sums of power laws are log-sum-exps, whose exact Hessian is a handful of
matrix products; other curves give their Jacobian, and their second derivatives are differences of it.

`Curve.expand` is for one table. Where every row of a batch has a table of its own, ``expand_each`` works on arrays
[n, B] and adds up along n in order, so that a row's numbers do not depend on the rows beside it, nor on rows of
weight 0 at the end of its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from metascale.laws.newton import Local
from metascale.laws.objective import Objective, weighted
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
    return lambda t: -t[..., axis]


def decaying(axis: int) -> Callable[[Array], Array]:
    """The basis -x of an exponential decay in the scale number ``axis``."""
    return lambda t: -np.exp(t[..., axis])


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
            return [np.zeros(t.shape[:-1]) for _ in self.terms]
        return [None if term.basis is None else term.basis(t) for term in self.terms]

    def _shares(self, theta: Array, t: Array) -> tuple[Array, list[Array], list[Array | None]]:
        """Log prediction [B, n], each term's share of it [B, n] and the bases [n]."""
        bases = self._bases(t)
        logits = self._logits(theta, bases)
        value, shares = _shares_of(logits, (len(theta), len(t)))
        return value, [np.broadcast_to(share, value.shape) for share in shares], bases

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
        gradient, stiffness = np.zeros((n_batch, p)), np.zeros((n_batch, p))
        hessian = np.zeros((n_batch, p, p))
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
                block = (bend * pair) @ _products(vectors, other_vectors)
                _add(hessian, indices, other_indices, block)
                if m != k:
                    _add(hessian, other_indices, indices, _transposed(block, len(indices), len(other_indices)))
                both = [(row, a, b) for a, row in enumerate(indices) for b, other in enumerate(other_indices)
                        if row == other]  # fmt: skip
                if both:
                    held = steady * pair * (1.0 if m == k else 2.0)
                    for row, a, b in both:
                        stiffness[:, row] += held @ (vectors[a] * other_vectors[b])
        return Local(total, gradient, hessian, stiffness)

    def expand_each(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local:
        """Of a law in one scale, at θ [B, p] and t, target and weights [n, B].

        B is at least two: along a single row sums are added in another order.
        """
        parts = np.ascontiguousarray(theta.T)
        bases = [None if term.exponent is None else basis
                 for term, basis in zip(self.terms, self._bases(t[..., None]), strict=True)]  # fmt: skip
        value, shares = _shares_of(
            [_logit(parts, term, basis) for term, basis in zip(self.terms, bases, strict=True)], t.shape
        )
        penalty = weighted(objective, target - value, weights)
        alone, (p, n_batch) = len(shares) == 1, parts.shape
        gradient, stiffness, hessian = np.zeros((p, n_batch)), np.zeros((p, n_batch)), np.zeros((p, p, n_batch))
        # Of a single power the log is linear in θ: its two terms in the slope cancel.
        bend = penalty.curvature if alone else penalty.curvature + penalty.slope
        for k, (term, share, basis) in enumerate(zip(self.terms, shares, bases, strict=True)):
            a, e = term.amplitude, term.exponent
            pull = penalty.slope * share
            level = add(pull)
            gradient[a] -= level
            if not alone:
                hessian[a, a] -= level
            if basis is not None:
                pull *= basis
                level = add(pull)
                gradient[e] -= level
                if not alone:
                    pull *= basis
                    hessian[a, e] -= level
                    hessian[e, a] -= level
                    hessian[e, e] -= add(pull)
            for factor, matrix in ((bend, hessian), (penalty.majoriser, stiffness)):
                held = factor if alone else factor * share
                for m in range(k + 1):
                    _add_pair(matrix, held if alone else held * shares[m], (term, basis), (self.terms[m], bases[m]))
        return Local(add(penalty.value), gradient.T, hessian.transpose(2, 0, 1), stiffness.T)

    @staticmethod
    def _columns(term: Term, basis: Array | None, ones: Array) -> tuple[list[int], Array]:
        if term.exponent is None or basis is None:
            return [term.amplitude], ones[None]
        return [term.amplitude, term.exponent], np.stack([ones, basis])


def add(values: Array) -> Array:
    """Sums [..., B] over n of ``values`` [..., n, B], in the order of n."""
    return np.asarray(np.add.reduce(values, axis=-2))


def add_squares(hessian: Array, columns: Array, bend: Array, steady: Array) -> Array:
    """Add Σ bend · column · columnᵀ to ``hessian`` [p, p, B], in place; Σ steady · column² [p, B].

    Args:
        columns: [p, n, B]; bend, steady: [n, B].
    """
    bent = bend * columns
    for i in range(len(columns)):
        found = add(bent[i] * columns[: i + 1])
        hessian[i, : i + 1] += found
        hessian[:i, i] += found[:i]
    return add(steady * (columns * columns))


def _logit(parts: Array, term: Term, basis: Array | None) -> Array:
    if basis is None:
        return np.asarray(parts[term.amplitude])
    out = parts[term.exponent] * basis
    out += parts[term.amplitude]
    return np.asarray(out)


def _add_pair(matrix: Array, held: Array, one: tuple[Term, Array | None], other: tuple[Term, Array | None]) -> None:
    """Add what two terms give to ``matrix`` [p, p, B], or to its diagonal [p, B]; ``held`` [n, B] is their weight."""
    own, full = one[0] is other[0], matrix.ndim == 3
    for k, (i, first) in enumerate(_parts_of(*one)):
        for m, (j, second) in enumerate(_parts_of(*other)):
            if (own and m > k) or not (full or i == j):
                continue
            part = held if first is None else held * first
            total = add(part if second is None else part * second)
            if full:
                matrix[i, j] += total
                if not (own and i == j):
                    matrix[j, i] += total
            else:
                matrix[i] += total if own else 2 * total


def _parts_of(term: Term, basis: Array | None) -> list[tuple[int, Array | None]]:
    """The parameters of a term, and what multiplies its share in the derivative by each."""
    level: tuple[int, Array | None] = (term.amplitude, None)
    return [level] if term.exponent is None else [level, (term.exponent, basis)]


def _shares_of(logits: list[Array], shape: tuple[int, ...]) -> tuple[Array, list[Array]]:
    """ln Σ exp(logit), and each term's share of the sum."""
    if len(logits) == 1:
        return np.broadcast_to(logits[0], shape), [np.ones(1)]
    top = logits[0]
    for other in logits[1:]:
        top = np.maximum(top, other)
    parts = [np.exp(logit - top) for logit in logits]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total = total + part
    inverse = 1.0 / total
    return top + np.log(total), [part * inverse for part in parts]


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
        return _differenced(self.function, theta, t, target, weights, objective, exact)


def _differenced(
    function: Callable[[Array, Array], tuple[Array, Array]], theta: Array, t: Array, target: Array, weights: Array,
    objective: Objective, exact: bool,
) -> Local:  # fmt: skip
    value, jacobian = function(theta, t)
    penalty = objective.penalty(target - value)
    weights = np.broadcast_to(weights, value.shape)
    slope = weights * penalty.slope
    gradient = -np.matmul(slope[:, None, :], jacobian)[:, 0]
    transposed = jacobian.transpose(0, 2, 1)
    hessian = np.matmul(transposed * (weights * penalty.curvature)[:, None, :], jacobian)
    stiffness = np.einsum("bn,bnp->bp", weights * penalty.majoriser, jacobian * jacobian)
    total = np.einsum("bn,bn->b", weights, penalty.value)
    if not exact:
        return Local(total, gradient, hessian, stiffness)
    # ∂²f contracted with the slopes: forward differences of an exact Jacobian, all parameters in one call.
    n_batch, p = theta.shape
    width = 1e-6 * np.abs(theta) + 1e-9
    moved = theta[:, None, :] + width[:, :, None] * np.eye(p)
    shifted = function(moved.reshape(-1, p), t)[1].reshape(n_batch, p, -1, p)
    pulled = np.einsum("bn,bjnp->bjp", slope, shifted)
    second = (pulled + gradient[:, None, :]) / width[:, :, None]
    hessian = hessian - 0.5 * (second + second.transpose(0, 2, 1))
    return Local(total, gradient, hessian, stiffness)


Columns: TypeAlias = "tuple[Array, tuple[Array, ...]]"


@dataclass(frozen=True)
class Shape:
    """A curve in one scale, for one table and for many at once.

    Attributes:
        function: of the coded parameters, p arrays, and of t, all of shapes that broadcast: the log prediction and its
            derivatives by each parameter.
    """

    n_parameters: int
    function: Callable[[Sequence[Array], Array], Columns]

    def log_predict(self, theta: Array, t: Array) -> Array:
        return np.asarray(self.function(_split(theta), t[:, 0])[0])

    def jacobian(self, theta: Array, t: Array) -> tuple[Array, Array]:
        value, columns = self.function(_split(theta), t[:, 0])
        return value, np.stack(np.broadcast_arrays(*columns), -1)

    def expand(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local:
        return _differenced(self.jacobian, theta, t, target, weights, objective, exact)

    def expand_each(
        self, theta: Array, t: Array, target: Array, weights: Array, objective: Objective, exact: bool = True
    ) -> Local:
        """As `LogSumExp.expand_each`."""
        parts = np.ascontiguousarray(theta.T)
        p, n_batch = parts.shape
        value, found = self.function(list(parts), t)
        columns = np.stack(np.broadcast_arrays(*found))
        penalty = weighted(objective, target - value, weights)
        gradient, hessian = -add(penalty.slope * columns), np.zeros((p, p, n_batch))
        stiffness = add_squares(hessian, columns, penalty.curvature, penalty.majoriser)
        if exact:  # as in `_differenced`
            width = 1e-6 * np.abs(parts) + 1e-9
            moved = (parts[:, None] + np.eye(p)[..., None] * width)[:, :, None]  # [p, the one moved, 1, B]
            pulled = [
                add(penalty.slope * np.broadcast_to(column, (p, *t.shape))) for column in self.function(moved, t)[1]
            ]
            second = (np.stack(pulled, 1) + gradient) / width[:, None]
            hessian -= 0.5 * (second + second.transpose(1, 0, 2))
        return Local(add(penalty.value), gradient.T, hessian.transpose(2, 0, 1), stiffness.T)


def _split(theta: Array) -> list[Array]:
    """The parameters of ``theta`` [B, p], each [B, 1]."""
    return [theta[:, k, None] for k in range(theta.shape[1])]
