"""Fit one law to one table: short runs from every start, damped Newton to the end from the best of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.curves import LogSumExp
from metascale.laws.families import LAWS, Law
from metascale.laws.newton import Minimum
from metascale.laws.objective import LogHuber, Objective
from metascale.laws.observations import Array, Observations, bounded_exp, require_varied
from metascale.laws.picture import BLUE, GREY, axis_or_new, finish
from metascale.laws.record import Interval, LawRecord
from metascale.laws.solving import Solve, Steps, stepwise, valley_depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Intervals: TypeAlias = "dict[str, dict[str, float]]"
"""``{"estimate", "low", "high"}`` of every parameter."""

SCOUT_ITERATIONS = 10  # every start runs this long, then only the best few go on: good starts matter, not many
SURVIVORS = 2
PATH_ITERATIONS = 15  # on each easier objective on the way to the wanted one: it only has to lead there


def search(
    law: Law, t: Array, y: Array, weights: Array, objective: Objective, starts: Array, prior: tuple[Array, Array] | None
) -> Steps[Minimum]:
    """Run every start for a few steps and the best of them to the end, from an easy objective to the wanted one."""
    ask = partial(Solve, law, t, y[None], weights[None], prior=prior)
    if len(starts) <= SURVIVORS or isinstance(law.curve, LogSumExp):
        return (yield ask(objective, starts))
    *easier, wanted = objective.path()
    scouts = yield ask([*easier, wanted][0], starts, max_iterations=SCOUT_ITERATIONS, exact=False)
    order = np.argsort(np.where(np.isfinite(scouts.value), scouts.value, np.inf), kind="stable")[:SURVIVORS]
    theta = scouts.theta[order]
    for step in easier:
        theta = (yield ask(step, theta, max_iterations=PATH_ITERATIONS, exact=False)).theta
    return (yield ask(wanted, theta))


@dataclass(frozen=True)
class LawFit(Shown):
    """A law fitted to a table.

    Attributes:
        theta: [p] coded parameters in centred units (x divided by ``x_ref``).
        objective_value: the sum of the penalties at the optimum.
        converged: whether the best start reached a minimum; ``n_starts`` were run to the end (all of them for sums of
            powers, the best few otherwise) and ``n_agree`` ended there too.
        condition: condition number of JᵀJ, its diagonal scaled to one; above 1e8 the parameters are not identified one
            by one.
        at_bound: names of parameters that ended on a bound (E at zero, for one).
    """

    law: Law
    observations: Observations
    objective: Objective
    weights: Array
    theta: Array
    objective_value: float
    hessian: Array
    converged: bool
    iterations: int
    n_starts: int
    n_agree: int
    condition: float
    at_bound: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def t_ref(self) -> Array:
        return reference(self.observations, self.law)

    @cached_property
    def parameters(self) -> dict[str, float]:
        """Estimates in the user's units."""
        values = self.law.decode(self.law.units(self.theta, self.t_ref))
        return {name: float(value) + 0.0 for name, value in zip(self.law.parameters, values, strict=True)}

    @cached_property
    def residuals(self) -> Array:
        """[n] ln observed minus ln predicted."""
        return self.observations.log_loss - self.log_predict(self.observations.x)

    @property
    def rmse_log(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def r2_log(self) -> float:
        """R² of log loss on the means of the scales; 0 for a constant loss and for the constant law."""
        if self.law.n_parameters == 1:
            return 0.0  # a robust fit of a constant is the median, which would come out below the mean's zero
        means = self.observations.scale_means(self.observations.log_loss)
        left = self.observations.scale_means(self.residuals)
        spread = float(np.sum((means - means.mean()) ** 2))
        return float(1 - np.sum(left**2) / spread) if spread > 1e-24 else 0.0

    @property
    def deviance(self) -> float:
        """-2 log likelihood under the objective's own density, its scale profiled out."""
        return self.objective.deviance(self.objective_value, float(self.weights.sum()))

    @property
    def aicc(self) -> float:
        """Akaike's criterion corrected for small samples (Hurvich and Tsai 1989); infinite when n ≤ k + 1."""
        n, k = self.observations.n, self.law.n_parameters + 1
        if n <= k + 1:
            return float("inf")
        return self.deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1)

    @property
    def finite_aicc(self) -> float | None:
        return self.aicc if np.isfinite(self.aicc) else None

    def log_predict(self, x: ArrayLike, theta: Array | None = None) -> Array:
        """ln loss [m] at scales ``x`` [m] or [m, d]; with ``theta`` [B, p], [B, m]."""
        t = log_scales(x, self.observations.n_axes) - self.t_ref
        values = self.law.curve.log_predict(self.theta[None] if theta is None else theta, t)
        return values[0] if theta is None else values

    def predict(self, x: ArrayLike) -> Array:
        """Predicted loss [m] at scales ``x``, in the units of the loss."""
        return bounded_exp(self.log_predict(x))

    def to_json(self) -> dict[str, Any]:
        """Estimates and diagnostics, without intervals (those belong to a bootstrap)."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "objective": self.objective_value,
            "objective_name": self.objective.name,
            "parameters": self.parameters,
            "rmse_log": self.rmse_log,
            "r2_log": self.r2_log,
            "converged": self.converged,
            "n_starts": self.n_starts,
            "n_agree": self.n_agree,
            "condition": self.condition if np.isfinite(self.condition) else None,
            "at_bound": list(self.at_bound),
        }

    def record(self, level: float, parameters: Intervals, notes: tuple[str, ...]) -> LawRecord:
        """The part of a record that is known without a choice among laws."""
        return LawRecord(
            law=self.law.name,
            formula=self.law.formula,
            x_names=self.observations.x_names,
            loss_name=self.observations.loss_name,
            level=level,
            parameters=as_intervals(parameters),
            objective=self.objective_value,
            objective_name=self.objective.name,
            n_observations=self.observations.n,
            n_scales=self.observations.n_scales,
            r2_log=self.r2_log,
            notes=notes,
        )

    def summary(self) -> str:
        """One line a parameter, with all the digits that a reader needs to repeat the prediction."""
        lines = [f"{self.law.formula}   ({self.law.name}; {self.objective.name} = {self.objective_value:.12g})"]
        lines += [f"  {name:<8} {value:.10g}" for name, value in self.parameters.items()]
        state = "converged" if self.converged else "NOT converged"
        lines.append(
            f"  {self.observations.n} rows, {self.observations.n_scales} scales; rmse of ln loss {self.rmse_log:.4g}; "
            f"{state}, {self.n_agree} of {self.n_starts} starts agree"
        )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The table and the fitted curve; of a law in several scales observed against predicted loss."""
        ax, table = axis_or_new(ax), self.observations
        if table.n_axes > 1:
            predicted = self.predict(table.x)
            ends = [float(min(predicted.min(), table.loss.min())), float(max(predicted.max(), table.loss.max()))]
            ax.plot(ends, ends, color=GREY, lw=1)
            ax.plot(predicted, table.loss, "o", ms=3, alpha=0.6, color=BLUE, label=self.law.formula)
            return finish(ax, f"predicted {table.loss_name}", f"observed {table.loss_name}")
        self.draw(ax, BLUE, self.law.formula)
        return finish(ax, table.x_names[0], table.loss_name)

    def draw(self, ax: Axes, colour: str, label: str) -> None:
        """Points and curve of a law in one scale."""
        table = self.observations
        x = np.geomspace(table.x.min(), table.x.max(), 200)
        ax.plot(table.x[:, 0], table.loss, "o", ms=4, alpha=0.6, color=colour)
        ax.plot(x, self.predict(x), color=colour, label=label)


def as_intervals(parameters: Intervals) -> dict[str, Interval]:
    """The parameters of a record."""
    return {name: Interval(part["estimate"], part["low"], part["high"]) for name, part in parameters.items()}


def log_scales(x: ArrayLike, n_axes: int) -> Array:
    """ln x as [m, d].

    Raises:
        InputError: a scale is not positive and finite, or the number of axes is wrong.
    """
    array = np.asarray(x, dtype=float)
    if n_axes == 1 and array.ndim <= 1:
        array = np.atleast_1d(array)[:, None]
    elif array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != n_axes:
        raise InputError(f"scales must have {n_axes} column(s), got an array of shape {array.shape}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise InputError("scales must be positive finite numbers")
    return np.asarray(np.log(array))


def reference(observations: Observations, law: Law) -> Array:
    """[d] ln x_ref, the mean of ln x over the distinct scales: fits work on x / x_ref."""
    centre = np.log(observations.scales).mean(0)
    together = list(law.axes_in_one_unit)
    if together:
        centre[together] = centre[together].mean()
    return np.asarray(centre)


def require_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must lie between 0 and 1", field="level", value=level)


def require_scales(observations: Observations, law: str) -> None:
    """Refuse a table in one scale with fewer distinct values of it than parameters + 1."""
    needed = LAWS[law].n_parameters + 1
    if observations.n_scales < needed:
        raise InputError(
            f"the table has {observations.n_scales} distinct values of '{observations.x_names[0]}' in {observations.n} "
            f"rows; the law '{law}' needs at least {needed}"
        )


def require_identified(law: Law, observations: Observations) -> None:
    """Refuse a table that has too few distinct scales for the law.

    Raises:
        InputError: fewer distinct scales than parameters + 1, or the number of axes differs.
    """
    if law.n_axes != observations.n_axes:
        raise InputError(
            f"the law '{law.name}' has {law.n_axes} scale axis(es) and the table {observations.n_axes}; "
            f"give it {law.n_axes}"
        )
    if observations.n_scales < 2:
        raise InputError(
            f"all rows have the same {' and '.join(observations.x_names)} ({observations.x[0, 0]:g}); a law needs at "
            f"least {law.n_parameters + 1} distinct scales"
        )
    if observations.n_scales < law.n_parameters + 1:
        raise InputError(
            f"the law '{law.name}' has {law.n_parameters} parameters and the table {observations.n_scales} distinct "
            f"scales; it needs at least {law.n_parameters + 1}"
        )
    require_varied(observations)


@stepwise
def fit_law(
    law: Law,
    observations: Observations,
    objective: Objective | None = None,
    weights: Array | None = None,
    starts: Array | None = None,
    prior: tuple[Array, Array] | None = None,
) -> Steps[LawFit]:
    """Fit ``law`` from each of its starts and keep the best minimum.

    Args:
        weights: [n] positive weights of the rows; by default those of the table, or 1.
        starts: [S, p] coded starts in centred units, in place of the law's own.
        prior: mean [p] and precision [p] of a Gaussian prior on the coded parameters, in units of the objective.

    Raises:
        InputError: the law is not identified by the table's distinct scales.
    """
    require_identified(law, observations)
    objective = objective or LogHuber()
    given = observations.weights if weights is None else weights
    row_weights = np.ones(observations.n) if given is None else np.asarray(given, float)
    t = observations.log_x - reference(observations, law)
    y = observations.log_loss
    with np.errstate(all="ignore"):
        initial = law.starts(t, y, row_weights) if starts is None else starts
    found = yield from search(law, t, y, row_weights, objective, initial, prior)
    best = int(np.nanargmin(np.where(np.isfinite(found.value), found.value, np.inf)))
    value = float(found.value[best])
    agree = np.abs(found.value - value) <= valley_depth(law) * value + 1e-24
    lower, upper = law.bounds(t, y)
    at_bound = tuple(
        name
        for name, theta, low, high in zip(law.parameters, found.theta[best], lower, upper, strict=True)
        if theta <= low or theta >= high
    )
    return LawFit(
        law, observations, objective, row_weights, found.theta[best], value, found.hessian[best],
        bool(found.converged[best]), int(found.iterations[best]), len(agree), int(agree.sum()),
        condition_number(law, found.theta[best], t, row_weights), at_bound,
    )  # fmt: skip


def condition_number(law: Law, theta: Array, t: Array, weights: Array) -> float:
    """Condition number of JᵀWJ with its diagonal scaled to one; infinite when a parameter has no effect."""
    with np.errstate(all="ignore"):
        jacobian = law.curve.jacobian(theta[None], t)[1][0] * np.sqrt(weights)[:, None]
        length = np.sqrt(np.sum(jacobian**2, axis=0))
    if not np.isfinite(jacobian).all() or (length <= 0).any():
        return float("inf")
    values = np.linalg.svd(jacobian / length, compute_uv=False)
    return float((values[0] / values[-1]) ** 2) if values[-1] > 0 else float("inf")
