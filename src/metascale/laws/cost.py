"""What a run costs: 6 N D training FLOPs, or a power law in model size and data fitted to a table's own column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws.observations import FLOPS_PER_PARAMETER_AND_TOKEN, Array
from metascale.laws.table import COMPUTE_NAMES, PF_DAY_NAMES, plain_name

MOST_OFF = 0.2  # root mean square of ln cost about the power law; beyond it the column follows none
BENT, CURVED = 0.05, 0.5  # a curve that more than halves an rms above this says that the column bends
_EXACT = 1e-6  # rms below which the column is the power law to its digits


@dataclass(frozen=True)
class CostLaw:
    """C = k N^a D^b: what a run of N parameters and D tokens costs, in the unit of ``name``.

    Attributes:
        theta: [3] ln k, a, b; root: [3, 3] of their covariance, ``root @ root.T``; zero of 6 N D.
        rmse_log: root mean square of ln cost about the law; n: rows that it was fitted to, 0 of 6 N D.
    """

    name: str
    theta: Array
    root: Array = field(repr=False)
    rmse_log: float = 0.0
    n: int = 0

    @property
    def is_flops(self) -> bool:
        """Whether the costs are training FLOPs, by the name."""
        flops = {plain_name(name) for name in COMPUTE_NAMES} - {plain_name(name) for name in PF_DAY_NAMES}
        return self.n == 0 or plain_name(self.name) in flops

    @property
    def unit(self) -> str:
        return "FLOPs" if self.n == 0 else self.name

    def of(self, n_params: ArrayLike, tokens: ArrayLike) -> Array:
        """The cost of runs."""
        log_k, a, b = self.theta
        return np.asarray(
            np.exp(log_k + a * np.log(np.asarray(n_params, float)) + b * np.log(np.asarray(tokens, float)))
        )

    def draws(self, count: int, seed: int) -> Array:
        """[1 + count, 3] the estimate, then draws from the fit's normal distribution."""
        shifts = np.random.default_rng((seed, 304)).standard_normal((count, 3)) @ self.root.T
        return np.concatenate([self.theta[None], self.theta + shifts])

    def to_json(self) -> dict[str, Any]:
        parts = dict(zip(("k", "a", "b"), (float(np.exp(self.theta[0])), *self.theta[1:].tolist()), strict=True))
        return {"name": self.name, **parts, "rmse_log": self.rmse_log, "n": self.n}

    def summary(self) -> str:
        if self.n == 0:
            return "C = 6 N D"
        (log_k, a, b), errors = self.theta, np.sqrt((self.root**2).sum(1))
        return (
            f"{self.name} = {np.exp(log_k):.3g} N^{a:.3f} D^{b:.3f} (SE {errors[1]:.2g} and {errors[2]:.2g}), "
            f"fitted to {self.n} rows, off by {100 * self.rmse_log:.2g} % (rms)"
        )


SIX_N_D = CostLaw("6 N D", np.array([np.log(FLOPS_PER_PARAMETER_AND_TOKEN), 1.0, 1.0]), np.zeros((3, 3)))


def fit_cost(n_params: ArrayLike, tokens: ArrayLike, cost: ArrayLike, name: str = "cost") -> CostLaw:
    """Fit ln C = ln k + a ln N + b ln D by least squares.

    Args:
        n_params, tokens, cost: [n] of the rows; a cost that is no number leaves its row out.

    Raises:
        InputError: a cost that is not positive; too few rows, or rows along which N and D do not vary apart; a column
            that bends, is farther than `MOST_OFF` from a power law, or does not grow with both N and D.
    """
    log_n, log_d, values = (
        np.log(np.asarray(n_params, float)),
        np.log(np.asarray(tokens, float)),
        np.asarray(cost, float),
    )
    known = np.isfinite(values)
    if (values[known] <= 0).any():
        raise InputError(f"'{name}' has a cost that is not positive", field="cost", value=name)
    log_n, log_d, log_c = log_n[known], log_d[known], np.log(values[known])
    n = len(log_c)
    middle = np.array([0.0, log_n.mean() if n else 0.0, log_d.mean() if n else 0.0])
    rows = np.column_stack([np.ones(n), log_n, log_d]) - middle
    if n < 5 or np.linalg.matrix_rank(rows, tol=1e-3 * np.sqrt(n)) < 3:
        raise InputError(
            f"the cost of a run cannot be fitted to '{name}': that takes 5 rows or more, in which model size and data "
            f"vary apart; {n} rows have a number there", field="cost", value=name,
        )  # fmt: skip
    found, off = _line(rows, log_c)
    _require_power_law(rows, log_c, off, name)
    if min(found[1:]) <= 0:
        raise InputError(
            f"'{name}' is no cost of training: it goes as N^{found[1]:.3g} D^{found[2]:.3g}, and must grow with both",
            field="cost", value=name,
        )  # fmt: skip
    shift = np.eye(3)
    shift[0] -= middle
    spread = off * np.sqrt(n / (n - 3)) if off > _EXACT else 0.0
    root = spread * shift @ np.linalg.cholesky(np.linalg.inv(rows.T @ rows))
    return CostLaw(name, shift @ found, root, off, n)


def _line(rows: Array, log_c: Array) -> tuple[Array, float]:
    """Coefficients of a least-squares fit and the rms of what is left."""
    found = np.linalg.lstsq(rows, log_c, rcond=None)[0]
    return np.asarray(found), float(np.sqrt(np.mean((log_c - rows @ found) ** 2)))


def _require_power_law(rows: Array, log_c: Array, off: float, name: str) -> None:
    """Refuse what is far from a power law, or bends away from one by more than its scatter."""
    if off > MOST_OFF:
        raise InputError(
            f"'{name}' does not follow a power law in model size and data: it is off by {100 * off:.3g} % (rms), and "
            f"at most {100 * MOST_OFF:g} % is allowed", field="cost", value=name,
        )  # fmt: skip
    _, n, d = rows.T
    curved = np.column_stack([rows, n * n, n * d, d * d])
    if len(rows) < 12 or off < BENT:
        return
    _, left = _line(curved, log_c)
    if left * np.sqrt((len(rows) - 3) / (len(rows) - 6)) < CURVED * off:
        raise InputError(
            f"'{name}' bends away from a power law in model size and data: off by {100 * off:.3g} % (rms), of which a "
            f"curve leaves {100 * left:.3g} %", field="cost", value=name,
        )  # fmt: skip
