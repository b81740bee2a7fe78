"""The laws. To add one, write a `Law` with its curve, starts and reference and put it in ``ONE_AXIS`` or ``MANY_AXES``.

Where fits start: a grid over the nonlinear parameters, the linear ones solved for (variable projection).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.laws.curves import Curve, LogSumExp, Shape, Smooth, Term, decaying, falling
from metascale.laws.newton import solve
from metascale.laws.observations import Array, bounded_exp
from metascale.laws.shapes import broken, logistic, m3, m4, shifted


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


def projected(nonlinear: Array, parts: list[Array], y: Array, w: Array, count: int) -> Array:
    """The ``count`` best starts [ln coefficients, nonlinear] of a constant plus ``parts`` [S, n].

    Args:
        nonlinear: [S, k] the values of the nonlinear parameters at which the parts were computed.
    """
    columns, centre = np.stack([np.ones_like(parts[0]), *parts], -1), float(y.mean())
    coefficients, error = nonnegative_coefficients(columns, np.exp(y - centre), w)
    logs = centre + np.log(np.maximum(coefficients, np.exp(float(y.min()) - centre + LOG_ZERO)))
    return distinct_best(np.column_stack([logs, nonlinear]), error, count)


def grid(*axes: Sequence[float] | Array) -> Array:
    """[S, k] every combination of the values."""
    return np.array(list(itertools.product(*axes)), float)


def distinct_best(theta: Array, error: Array, count: int) -> Array:
    """The ``count`` rows of least error."""
    order = np.argsort(np.where(np.isfinite(error), error, np.inf), kind="stable")
    return theta[order[:count]]


LOG_ZERO = -10.0  # a positive parameter this far (in logarithms) below the data is indistinguishable from zero


@dataclass(frozen=True)
class Law:
    """One scaling law.

    Attributes:
        parameters: names in the order of the coded vector θ; ``positive`` ones are coded as logarithms.
        curve: log prediction of θ at centred log scales t = ln x - ln x_ref.
        starts: (t [n, d], ln loss [n], weights [n]) to coded starts [S, p].
        units: coded θ [B, p] in centred units and ln x_ref [d] to coded θ in the user's units; linear in θ.
        bounds: (t, ln loss) to the lower and upper bound of θ in centred units.
    """

    name: str
    formula: str
    reference: str
    n_axes: int
    parameters: tuple[str, ...]
    positive: tuple[bool, ...]
    curve: Curve
    starts: Callable[[Array, Array, Array], Array]
    units: Callable[[Array, Array], Array]
    bounds: Callable[[Array, Array], tuple[Array, Array]]
    axes_in_one_unit: tuple[int, ...] = ()  # scales whose ratio enters the law and which are centred together

    @property
    def n_parameters(self) -> int:
        return len(self.parameters)

    def __reduce__(self) -> tuple[object, ...]:
        """A law of `LAWS` is pickled by its name: its curve holds functions without one."""
        if LAWS.get(self.name) is not self:
            raise TypeError(f"the law '{self.name}' is none of `LAWS` and cannot be pickled")
        return _named, (self.name,)

    def decode(self, theta: Array) -> Array:
        """Coded parameters [..., p] as the user reads them."""
        return np.where(np.array(self.positive), bounded_exp(np.where(self.positive, theta, 0.0)), theta)


def _named(name: str) -> Law:
    return LAWS[name]


MAX_EXPONENT = 8.0


def rises(t: Array, y: Array) -> bool:
    """Whether the least-squares slope of ln loss on ln x is positive."""
    centred = t - t.mean()
    return bool(centred @ y > 0)


def _none_starts(t: Array, y: Array, w: Array) -> Array:
    return np.array([[np.median(y)]])


def _power_starts(t: Array, y: Array, w: Array) -> Array:
    x = t[:, 0] - np.average(t[:, 0], weights=w)
    slope = float((w * x) @ y) / max(float((w * x) @ x), 1e-300)
    mean = np.average(y, weights=w) - slope * np.average(t[:, 0], weights=w)
    return np.array([[mean, -slope]])


def _exponent_grid(t: Array, y: Array) -> Array:
    """Exponents that a table of this range can distinguish: from a nearly straight line to a fast decay."""
    span: float = max(float(np.ptp(t)), 1e-3)
    sign = -1.0 if rises(t[:, 0], y) else 1.0
    return sign * np.minimum(np.geomspace(0.1, 12.0, 25) / span, MAX_EXPONENT)


def _offset_starts(t: Array, y: Array, w: Array) -> Array:
    exponents = _exponent_grid(t, y)[:, None]
    return projected(exponents, [np.exp(-exponents * t[None, :, 0])], y, w, 4)


def _shifted_starts(t: Array, y: Array, w: Array) -> Array:
    pairs = grid(_exponent_grid(t, y)[::2], float(t.min()) + np.linspace(-3.0, 0.8 * np.ptp(t), 7))
    return projected(pairs, [np.exp(-pairs[:, :1] * np.logaddexp(t[None, :, 0], pairs[:, 1:]))], y, w, 6)


def _m3_starts(t: Array, y: Array, w: Array) -> Array:
    span = max(float(np.ptp(t)), 1e-3)
    gammas = -float(t.max()) + np.linspace(-3.0, 0.8 * span, 9)
    basis = np.logaddexp(-t[:, 0], gammas[:, None])
    centre, middle = basis @ w / w.sum(), float(y @ w / w.sum())
    away = basis - centre[:, None]
    slope = (away * w) @ (y - middle) / np.maximum((away * away) @ w, 1e-300)
    return np.column_stack([middle - slope * centre, slope, gammas])


def _m4_starts(t: Array, y: Array, w: Array) -> Array:
    top = float(y.max())
    bottom, x, loss = float(y.min()) - top, t[:, 0], np.exp(y - top)
    floor, head, alpha = grid([0.0, 0.5, 0.8, 0.95], [0.02, 0.3, 1.5], [0.3, 1.0, 3.0]).T
    e, start = floor * np.exp(bottom), np.exp(head)
    left = np.log(loss[:, None] - e) - head - alpha * np.log(1 - loss[:, None] / start)  # [n, starts]
    slope, constant = np.polyfit(x, left, 1, w=np.sqrt(w))
    log_e = np.maximum(np.log(np.maximum(e, 1e-300)), bottom + LOG_ZERO)
    rows = np.column_stack([top + log_e, top + head, np.log(alpha), constant, -slope])
    errors = w @ (left - constant - np.outer(x, slope)) ** 2
    # The residuals of the rewritten equation are not log losses and do not rank the starts well: run many of them.
    return distinct_best(rows, errors, 12)


def _broken_starts(t: Array, y: Array, w: Array) -> Array:
    x, span = t[:, 0], max(float(np.ptp(t)), 1e-3)
    top, root = float(y.max()), np.sqrt(w)
    loss = np.exp(y - top)
    places = float(x.min()) + span * np.array([0.25, 0.5, 0.75])
    floor, place, width = grid([0.0, 0.6, 0.9], places, [0.1, 0.4]).T
    e = floor * loss.min()
    hinge = width[:, None] * np.logaddexp(0.0, (x - place[:, None]) / width[:, None])
    design = np.stack(np.broadcast_arrays(1.0, x, hinge), -1) * root[:, None]  # [starts, n, 3]
    target = np.log(loss - e[:, None]) * root
    solution = np.matmul(np.linalg.pinv(design, rcond=1e-14), target[..., None])[..., 0]
    log_e = np.maximum(np.log(np.maximum(e, 1e-300)), float(y.min()) - top + LOG_ZERO)
    rows = np.column_stack([top + log_e, top + solution[:, 0], -solution[:, 1], -solution[:, 2], place, np.log(width)])
    errors = ((np.matmul(design, solution[..., None])[..., 0] - target) ** 2).sum(1)
    return distinct_best(rows, errors, 8)


def _exponential_starts(t: Array, y: Array, w: Array) -> Array:
    rates = np.geomspace(0.05, 20.0, 25)[:, None] / np.exp(t.max()) * (-0.05 if rises(t[:, 0], y) else 1.0)
    return projected(rates, [np.exp(-rates * np.exp(t[None, :, 0]))], y, w, 4)


def _logistic_starts(t: Array, y: Array, w: Array) -> Array:
    odds = y - np.log(-np.expm1(np.minimum(y, -1e-9)))
    slope, constant = np.polyfit(t[:, 0], odds, 1, w=np.sqrt(w))
    return np.array([[constant, slope]])


def box(*limits: tuple[str, float, float]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Bounds per parameter: relative to the range of ln loss ("y"), of ln x ("t") or of -ln x ("1/x"), or as given."""

    def bounds(t: Array, y: Array) -> tuple[Array, Array]:
        low = {"y": y.min(), "t": t.min(), "1/x": -t.max(), "": 0.0}
        high = {"y": y.max(), "t": t.max(), "1/x": -t.min(), "": 0.0}
        return (
            np.array([low[kind] + below for kind, below, _ in limits]),
            np.array([high[kind] + above for kind, _, above in limits]),
        )

    return bounds


def units(*moves: tuple[int, int | None, int, float]) -> Callable[[Array, Array], Array]:
    """From centred to the user's units: A (x/x_ref)^-α has A x_ref^α there, and ln x is ln (x/x_ref) + ln x_ref.

    Args:
        moves: (i, j, axis, sign): θ[i] grows by sign · ln x_ref[axis], times θ[j] where j is not None.
    """

    def in_user_units(theta: Array, t_ref: Array) -> Array:
        out = np.array(theta, float)
        for i, j, axis, sign in moves:
            out[..., i] += sign * t_ref[axis] * (1.0 if j is None else theta[..., j])
        return out

    return in_user_units


def _rate_units(theta: Array, t_ref: Array) -> Array:
    out = np.array(theta, float)
    out[..., 2] *= np.exp(-t_ref[0])
    return out


FLOOR = ("y", LOG_ZERO, 0.0)
AMPLITUDE = ("y", -60.0, 60.0)
EXPONENT = ("", -MAX_EXPONENT, MAX_EXPONENT)
ALABDULMOHSIN = "Alabdulmohsin, Neyshabur and Zhai 2022, Revisiting neural scaling laws in language and vision"

NO_TREND = Law(
    "none", "L = A", "control: the loss does not depend on the scale", 1, ("A",), (True,),
    LogSumExp(1, (Term(0),)), _none_starts, units(), box(AMPLITUDE),
)  # fmt: skip
POWER = Law(
    "power", "L = A x^-alpha", "Hestness et al. 2017; M1 of " + ALABDULMOHSIN, 1, ("A", "alpha"), (True, False),
    LogSumExp(2, (Term(0, 1, falling(0)),)), _power_starts, units((0, 1, 0, 1.0)), box(AMPLITUDE, EXPONENT),
)  # fmt: skip
POWER_IRREDUCIBLE = Law(
    "power_irreducible", "L = E + A x^-alpha", "Henighan et al. 2020; M2 of " + ALABDULMOHSIN, 1,
    ("E", "A", "alpha"), (True, True, False),
    LogSumExp(3, (Term(0), Term(1, 2, falling(0)))), _offset_starts, units((1, 2, 0, 1.0)),
    box(FLOOR, AMPLITUDE, EXPONENT),
)  # fmt: skip
POWER_SHIFTED = Law(
    "power_shifted", "L = E + A (x + c)^-alpha", "a power law that sets in at x = c (Mandelbrot's shift)", 1,
    ("E", "A", "alpha", "c"), (True, True, False, True),
    Shape(4, shifted), _shifted_starts, units((1, 2, 0, 1.0), (3, None, 0, 1.0)),
    box(FLOOR, AMPLITUDE, EXPONENT, ("t", -6, 4)),
)  # fmt: skip
M3 = Law(
    "m3", "L = A (1/x + gamma)^alpha", "M3 of " + ALABDULMOHSIN, 1, ("A", "alpha", "gamma"), (True, False, True),
    Shape(3, m3), _m3_starts, units((0, 1, 0, 1.0), (2, None, 0, -1.0)), box(AMPLITUDE, EXPONENT, ("1/x", -10, 4)),
)  # fmt: skip
M4 = Law(
    "m4", "(L - E) / L0 = A x^-alpha (1 - L / L0)^kappa", "M4 of " + ALABDULMOHSIN, 1,
    ("E", "L0", "kappa", "A", "alpha"), (True, True, True, True, False),
    Shape(5, m4), _m4_starts, units((3, 4, 0, 1.0)),
    box(FLOOR, ("y", 0.0, 8.0), ("", -4.0, 4.0), ("", -500.0, 500.0), EXPONENT),
)  # fmt: skip
BROKEN = Law(
    "broken", "L = E + A x^-alpha (1 + (x/b)^(1/f))^(-beta f)",
    "broken neural scaling law with one break, Caballero et al. 2022", 1,
    ("E", "A", "alpha", "beta", "b", "f"), (True, True, False, False, True, True),
    Shape(6, broken), _broken_starts, units((1, 2, 0, 1.0), (4, None, 0, 1.0)),
    box(FLOOR, AMPLITUDE, EXPONENT, EXPONENT, ("t", -1.0, 1.0), ("", -3.5, 2.0)),
)  # fmt: skip
EXPONENTIAL = Law(
    "exponential", "L = E + A exp(-k x)", "control: a decay with a scale of its own", 1,
    ("E", "A", "k"), (True, True, False),
    LogSumExp(3, (Term(0), Term(1, 2, decaying(0)))), _exponential_starts, _rate_units,
    box(FLOOR, AMPLITUDE, ("", -50.0, 50.0)),
)  # fmt: skip
LOGISTIC = Law(
    "logistic", "accuracy = 1 / (1 + exp(-(a + b ln x)))", "accuracy through a logistic link", 1,
    ("a", "b"), (False, False),
    Shape(2, logistic), _logistic_starts, units((0, 1, 0, -1.0)), box(("", -500.0, 500.0), EXPONENT),
)  # fmt: skip

ONE_AXIS = {
    law.name: law for law in (NO_TREND, POWER, POWER_IRREDUCIBLE, POWER_SHIFTED, M3, M4, BROKEN, EXPONENTIAL, LOGISTIC)
}
ALIASES = {"m1": "power", "m2": "power_irreducible", "bnsl": "broken", "constant": "none"}


POSITIVE_EXPONENT = ("", 0.005, 4.0)
SURFACE_UNITS = units((1, 3, 0, 1.0), (2, 4, 1, 1.0))


def _joint_starts(t: Array, y: Array, w: Array) -> Array:
    """Hoffmann's surface is linear in (E, A, B) once the exponents are given: 25 × 25 of them are tried."""
    pairs = grid(np.linspace(0.04, 1.24, 25), np.linspace(0.04, 1.24, 25))
    return projected(pairs, [np.exp(-pairs[:, :1] * t[:, 0]), np.exp(-pairs[:, 1:] * t[:, 1])], y, w, 4)


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
    return np.asarray(top + np.log(np.exp(floor - top) + np.exp(size - top) + np.exp(data - top)))


def _constrained_starts(t: Array, y: Array, w: Array) -> Array:
    surface = _joint_starts(t, y, w)[:2]
    repeats = grid(np.log([3.0, 15.0]), np.log([3.0, 15.0]))
    return np.array([[*row, *pair] for row in surface for pair in repeats])


CHINCHILLA = Law(
    "chinchilla", "L = E + A N^-alpha + B D^-beta", "Hoffmann et al. 2022, approach 3; Besiroglu et al. 2024", 2,
    ("E", "A", "B", "alpha", "beta"), (True, True, True, False, False),
    LogSumExp(5, (Term(0), Term(1, 3, falling(0)), Term(2, 4, falling(1)))), _joint_starts, SURFACE_UNITS,
    box(FLOOR, AMPLITUDE, AMPLITUDE, POSITIVE_EXPONENT, POSITIVE_EXPONENT),
)  # fmt: skip
KAPLAN = Law(
    "kaplan", "L = ((Nc/N)^(alpha_N/alpha_D) + Dc/D)^alpha_D", "Kaplan et al. 2020, equation 1.5", 2,
    ("Nc", "Dc", "alpha_N", "alpha_D"), (True, True, False, False),
    Smooth(4, kaplan), _kaplan_starts, units((0, None, 0, 1.0), (1, None, 1, 1.0)),
    box(("", -400.0, 400.0), ("", -400.0, 400.0), POSITIVE_EXPONENT, POSITIVE_EXPONENT),
)  # fmt: skip
DATA_CONSTRAINED = Law(
    "data_constrained", "L = E + A N'^-alpha + B D'^-beta, N' and D' discounted for repeats",
    "Muennighoff et al. 2023, Scaling data-constrained language models", 3,
    ("E", "A", "B", "alpha", "beta", "R_D", "R_N"), (True, True, True, False, False, True, True),
    Smooth(7, complex_step(data_constrained)), _constrained_starts, SURFACE_UNITS,
    box(FLOOR, AMPLITUDE, AMPLITUDE, POSITIVE_EXPONENT, POSITIVE_EXPONENT, ("", -2.3, 6.9), ("", -2.3, 6.9)),
    axes_in_one_unit=(1, 2),
)  # fmt: skip
MANY_AXES = {law.name: law for law in (CHINCHILLA, KAPLAN, DATA_CONSTRAINED)}
LAWS = {**ONE_AXIS, **MANY_AXES}


def require_law(name: str, *others: str) -> None:
    """Refuse a name that is neither a family in one scale nor among ``others``."""
    if name not in ONE_AXIS:
        allowed = (*others, *ONE_AXIS)
        raise InputError(f"the law '{name}' is unknown; {suggest(name, allowed)}", field="law", value=name,
                         allowed=", ".join(allowed))  # fmt: skip
