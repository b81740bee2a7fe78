"""How sure a fit is: bootstrap by run, and where its noise comes from (seeds or a curve that does not fit)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtrc, stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.core.optional import require
from metascale.laws.evaluation import run_variance, run_variances
from metascale.laws.fitting import Intervals, LawFit, log_scales
from metascale.laws.observations import Array, Observations, bounded_exp
from metascale.laws.picture import BLUE, axis_or_new, finish
from metascale.laws.record import Interval
from metascale.laws.solving import Solve, Steps, stepwise
from metascale.laws.trend import POOLING_LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL_POOL = 20  # below this many residuals a robust fit leaves mostly zeros in the pool; normal noise is drawn instead
ROWS_FOR_PAIRS = 40  # with this many runs, resampling runs keeps their uneven noise; below, resamples lose scales

# A refit that is stopped in a flat valley stays near the first optimum, and the intervals come out too narrow: refits
# therefore walk on until almost nothing is gained.
REFIT_ITERATIONS, REFIT_STALL_SHARE = 200, 1e-6


@dataclass(frozen=True)
class Noise:
    """Residual variance of ln loss, split in two.

    Attributes:
        within: variance between runs at one scale (seeds), or of all residuals when there are no replicates.
        between: further variance of scale means about the curve (misfit); 0 where ``within`` explains it.
        freedom: degrees of freedom of the part that decides the width of intervals.
        has_replicates: whether seeds and misfit could be separated.
    """

    within: float
    between: float
    freedom: int
    has_replicates: bool


def residual_noise(fit: LawFit) -> Noise:
    """One-way analysis of variance of the residuals by scale; the fit has used up its parameters between scales.

    Of a table with evaluation errors: what these leave unexplained, runs and misfit together.
    """
    observations, residuals = fit.observations, fit.residuals
    if observations.error is not None:
        spare = max(observations.n - fit.law.n_parameters, 1)
        variance = max(
            run_variance(residuals, observations.error, spare), NO_RUN_NOISE * float(np.mean(observations.error**2))
        )
        return Noise(variance, 0.0, spare, observations.n_scales < observations.n)
    means = observations.scale_means(residuals)
    counts = np.bincount(observations.scale)
    within_sum = float(np.sum((residuals - means[observations.scale]) ** 2))
    between_sum = float(np.sum(counts * means**2))
    within_freedom = observations.n - observations.n_scales
    between_freedom = max(observations.n_scales - fit.law.n_parameters, 1)
    freedom = within_freedom + between_freedom
    if within_freedom == 0:
        return Noise(between_sum / between_freedom, 0.0, between_freedom, False)
    within, misfit = within_sum / within_freedom, between_sum / between_freedom
    alike = within > 0 and fdtrc(between_freedom, within_freedom, misfit / within) > POOLING_LEVEL
    if alike or misfit == 0:
        return Noise((within_sum + between_sum) / freedom, 0.0, freedom, True)
    runs_per_scale = observations.n / observations.n_scales
    return Noise(within, max(misfit - within, 0.0) / runs_per_scale, between_freedom, True)


NO_RUN_NOISE = 1e-12  # of the known variance: where evaluation explains all, runs still differ by this much
PRIOR_FREEDOM = 1  # the pooled variance counts as this many further seeds when the variance of one scale is estimated


def replicate_weights(observations: Observations) -> Array:
    """[n] weights of the rows for weighted least squares: inverse variance of ln loss between the runs of each scale.

    The variance of a scale is drawn towards the pooled one, or two seeds that happen to agree would decide the fit.

    Raises:
        InputError: no scale has two runs.
    """
    y, counts = observations.log_loss, np.bincount(observations.scale)
    squares = np.bincount(observations.scale, (y - observations.scale_means(y)[observations.scale]) ** 2)
    freedom = observations.n - observations.n_scales
    if freedom == 0:
        raise InputError("weights by replicate variance need a scale with at least 2 runs")
    pooled = max(float(squares.sum()) / freedom, 1e-24)
    variance = (PRIOR_FREEDOM * pooled + squares) / (PRIOR_FREEDOM + counts - 1)
    return np.asarray((pooled / variance)[observations.scale])


@dataclass(frozen=True)
class Bootstrap(Shown):
    """Refits of one law to resampled tables.

    Attributes:
        theta: [B, p] coded parameters in centred units; failed refits are left out and counted in ``n_failed``.
        spread: [B] the factor by which each resample's noise was scaled (uncertainty of the noise itself).
        how: one sentence that says what was resampled.
    """

    fit: LawFit
    theta: Array
    spread: Array
    noise: Noise
    n_failed: int
    how: str

    @cached_property
    def parameters(self) -> dict[str, Array]:
        """[B] values of each parameter in the user's units."""
        law = self.fit.law
        values = law.decode(law.units(self.theta, self.fit.t_ref))
        return {name: values[:, k] for k, name in enumerate(law.parameters)}

    def standard_errors(self) -> dict[str, float]:
        """Standard deviation of each parameter over the refits."""
        # An amplitude that the table does not identify may overflow; 1e150 is practically infinite and can be squared.
        clipped = {name: np.clip(values, -1e150, 1e150) for name, values in self.parameters.items()}
        return {name: float(values.std(ddof=1)) for name, values in clipped.items()}

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval of one parameter."""
        low, high = np.quantile(self.parameters[name], [(1 - level) / 2, (1 + level) / 2])
        return float(low) + 0.0, float(high) + 0.0

    def intervals(self, level: float = 0.95) -> Intervals:
        out = {}
        for name, estimate in self.fit.parameters.items():
            low, high = self.interval(name, level)
            out[name] = {"estimate": estimate, "low": min(low, estimate), "high": max(high, estimate)}
        return out

    def to_arviz(self) -> Any:
        """The refits as draws of a posterior, one chain: an InferenceData, or a DataTree of arviz 1 and later.

        They are the bootstrap's draws and no chain of a sampler: diagnostics of convergence do not apply.

        Raises:
            MissingDependency: arviz is not installed.
        """
        arviz = require("arviz", "arviz", "an export to arviz")
        table = self.fit.observations
        groups = {
            "posterior": {name: values[None] for name, values in self.parameters.items()},
            "observed_data": {"loss": table.loss},
            "constant_data": {name: table.x[:, k] for k, name in enumerate(table.x_names)},
        }
        whole = int(str(arviz.__version__).split(".")[0]) >= 1  # from then on one mapping of groups, not keywords
        return arviz.from_dict(groups) if whole else arviz.from_dict(**groups)

    def to_json(self) -> dict[str, Any]:
        return {
            "law": self.fit.law.name,
            "parameters": self.intervals(),
            "standard_errors": self.standard_errors(),
            "n_resamples": len(self.theta),
            "n_failed": self.n_failed,
            "noise": {"within_scale_log": self.noise.within**0.5, "misfit_log": self.noise.between**0.5},
            "how": self.how,
        }

    def summary(self) -> str:
        errors = self.standard_errors()
        lines = [
            f"  {name:<8} {part['estimate']:<14.8g} se {errors[name]:<12.4g} "
            f"95 % {part['low']:.6g} to {part['high']:.6g}"
            for name, part in self.intervals().items()
        ]
        return "\n".join([f"{self.fit.law.name}: {self.how}", *lines])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Like that of its fit, with the band of a law in one scale."""
        if self.fit.observations.n_axes > 1:
            return self.fit.plot(ax)
        ax = axis_or_new(ax)
        self.draw(ax, BLUE, self.fit.law.formula)
        return finish(ax, self.fit.observations.x_names[0], self.fit.observations.loss_name)

    def draw(self, ax: Axes, colour: str, label: str) -> None:
        """Points, curve and 95 % band of a law in one scale."""
        x = self.fit.observations.x
        at = np.geomspace(x.min(), x.max(), 200)
        self.fit.draw(ax, colour, label)
        _, low, high = self.curve(at)
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)

    def log_curves(self, x: ArrayLike) -> Array:
        """[B, m] ln predicted loss of every refit."""
        return self.fit.log_predict(x, self.theta)

    def curve(self, x: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Median, low and high of the curve at ``x``, in the units of the loss."""
        return _band(bounded_exp(self.log_curves(x)), level)

    def predictive(self, x: ArrayLike, level: float, rng: np.random.Generator, runs: int = 1) -> tuple[Array, ...]:
        """Median, low and high for the mean of ``runs`` new runs at ``x``: the curve's spread plus residual noise."""
        logs = self.log_curves(x)
        variance = self.noise.between + self.noise.within / runs
        noise = rng.standard_normal(logs.shape) * np.sqrt(variance) * self.spread[:, None]
        return _band(bounded_exp(logs + noise), level)

    def predict_mean(self, x: float, level: float, runs: int, stream: tuple[int, ...]) -> Interval:
        """The law at ``x`` with the interval for the mean of so many new runs; ``stream`` addresses the draws."""
        middle = float(self.fit.predict([x])[0])
        _, low, high = self.predictive([x], level, np.random.default_rng(stream), runs=runs)
        return Interval(middle, min(float(low[0]), middle), max(float(high[0]), middle))


def _band(values: Array, level: float) -> tuple[Array, Array, Array]:
    low, median, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    return median, low, high


@stepwise
def bootstrap(fit: LawFit, n_resamples: int = 1000, *, seed: int = 0, kind: str = "auto") -> Steps[Bootstrap]:
    """Refit the law to resampled tables, each warm-started at the optimum.

    Args:
        kind: "runs" resamples whole runs with replacement; "residuals" keeps the scales and draws new noise about the
            curve; "auto" takes runs for tables of at least 40 runs without replicates (or with several rows a run).

    Raises:
        InputError: an unknown ``kind``, fewer than 2 resamples, or a table with no residual freedom.
    """
    observations = fit.observations
    if n_resamples < 2:
        raise InputError(f"a bootstrap needs at least 2 resamples, got {n_resamples}")
    if kind not in ("auto", "runs", "residuals"):
        raise InputError(f"bootstrap kind '{kind}' is unknown; allowed are: auto, runs, residuals")
    clustered = observations.n_runs < observations.n
    replicated = observations.n_scales < observations.n
    if kind == "auto":
        kind = "runs" if clustered or (observations.n_runs >= ROWS_FOR_PAIRS and not replicated) else "residuals"
    rng = np.random.default_rng([seed, 101])
    noise = residual_noise(fit)
    t, y = observations.log_x - fit.t_ref, observations.log_loss
    if kind == "runs":
        draws = rng.multinomial(observations.n_runs, np.full(observations.n_runs, 1 / observations.n_runs), n_resamples)
        weights = draws[:, observations.run] * fit.weights
        targets, spread = y[None], np.ones(n_resamples)
        how = f"{n_resamples} bootstrap resamples of {observations.n_runs} runs"
    else:
        targets, spread = _noisy_tables(fit, noise, n_resamples, rng)
        weights, how = fit.weights[None], _describe(fit, noise, n_resamples)
    # Warm-started refits do without second derivatives of the curve; sums of powers have them for free.
    found = yield Solve(
        fit.law, t, targets, weights, fit.objective, np.repeat(fit.theta[None], n_resamples, 0),
        max_iterations=REFIT_ITERATIONS, exact=False, stall_share=REFIT_STALL_SHARE,
    )  # fmt: skip
    good = np.isfinite(found.theta).all(1) & np.isfinite(found.value)
    return Bootstrap(fit, found.theta[good], spread[good], noise, int((~good).sum()), how)


def _noisy_tables(fit: LawFit, noise: Noise, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """[B, n] log losses drawn about the fitted curve, and the factor on the noise of each.

    The noise of a table is itself estimated with few degrees of freedom ν; scaling each resample by √(ν/χ²_ν) turns
    normal into Student intervals. Variances are divided by degrees of freedom and not by counts, which undoes the
    shrinkage of (R - 1)/R that resampling R seeds would bring.
    """
    observations, residuals = fit.observations, fit.residuals
    spread = np.sqrt(noise.freedom / rng.chisquare(noise.freedom, n))
    if observations.n >= SMALL_POOL:
        scaled = residuals
        if observations.error is not None:
            scaled = residuals / np.sqrt(noise.within + np.maximum(observations.error, 1e-150) ** 2)
        centred = scaled - scaled.mean()
        if noise.has_replicates and noise.between > 0:
            centred = residuals - observations.scale_means(residuals)[observations.scale]
        pool = _pool(fit, centred)
        draws = rng.choice(pool, (n, observations.n)) * rng.choice([-1.0, 1.0], (n, observations.n))
    else:
        draws = rng.standard_normal((n, observations.n))
    if observations.error is not None:  # what is known of the noise needs no Student spread
        drawn = run_variances(residuals, observations.error, rng.chisquare(noise.freedom, n))
        spread = np.sqrt(drawn / noise.within)
        size = np.sqrt(noise.within * spread[:, None] ** 2 + observations.error**2)
        return observations.log_loss - residuals + draws * size, spread
    misfit = rng.standard_normal((n, observations.n_scales))[:, observations.scale]
    tables = draws * np.sqrt(noise.within) + misfit * np.sqrt(noise.between)
    fitted = observations.log_loss - residuals
    return fitted + tables * spread[:, None], spread


def _pool(fit: LawFit, centred: Array) -> Array:
    """Residuals of unit variance to draw noise from.

    A robust fit passes through about as many rows as it has parameters. Those residuals are zero by construction; left
    in, they raise the density of the noise at zero, on which the spread of a robust fit depends.
    """
    quadratic = fit.objective.penalty(fit.residuals).curvature > 0
    if quadratic.mean() < 0.5:
        centred = centred[np.argsort(np.abs(fit.residuals), kind="stable")[fit.law.n_parameters :]]
    size = float(np.sqrt(np.mean(centred**2)))
    return centred / size if size > 0 else centred


def _describe(fit: LawFit, noise: Noise, n: int) -> str:
    runs_per_scale = fit.observations.n / fit.observations.n_scales
    text = f"{n} bootstrap tables drawn about the curve; noise of ln loss {np.sqrt(noise.within):.3g}"
    if fit.observations.error is not None:
        return f"{text} beside the known errors of evaluation; Student spread with {noise.freedom} degrees of freedom"
    if noise.has_replicates:
        text += f" between runs of one scale ({runs_per_scale:.3g} a scale; variance over degrees of freedom, so that"
        text += " few seeds do not shrink it)"
    if noise.between > 0:
        text += f", {np.sqrt(noise.between):.3g} between the scales and the curve (misfit)"
    return text + f"; Student spread with {noise.freedom} degrees of freedom"


def delta_covariance(fit: LawFit, noise: Noise | None = None) -> Array:
    """[p, p] covariance of the coded parameters in centred units, σ² (JᵀJ)⁻¹: a cheap check on the bootstrap.

    For the Huber objective it is multiplied by π/2, the loss of efficiency of a median against a mean.
    """
    jacobian = fit.law.curve.jacobian(fit.theta[None], fit.observations.log_x - fit.t_ref)[1][0]
    noise = noise or residual_noise(fit)
    information = np.linalg.pinv(jacobian.T @ (jacobian * fit.weights[:, None]), hermitian=True)
    factor = np.pi / 2 if fit.objective.name != "least squares" else 1.0
    if fit.observations.error is not None:
        pulled = information @ (jacobian * fit.weights[:, None]).T
        return np.asarray(factor * (pulled * (noise.within + fit.observations.error**2)) @ pulled.T)
    return information * factor * (noise.within + noise.between * fit.observations.n / fit.observations.n_scales)


def delta_intervals(fit: LawFit, level: float = 0.95) -> Intervals:
    """``{"estimate", "low", "high"}`` by the delta method, symmetric in the coded (log) parameter."""
    units = unit_matrix(fit)
    size = np.abs(units).max(1)  # taken out of the square: the unit of a rate may be 1e200
    relative = units / size[:, None]
    noise = residual_noise(fit)
    errors = size * np.sqrt(np.maximum(np.diag(relative @ delta_covariance(fit, noise) @ relative.T), 0.0))
    reach = stdtrit(noise.freedom, (1 + level) / 2) * errors
    reach = np.where(fit.law.positive, np.minimum(reach, 300), reach)
    coded = fit.law.units(fit.theta, fit.t_ref)
    low, high = fit.law.decode(coded - reach), fit.law.decode(coded + reach)
    return {
        name: {"estimate": estimate, "low": float(low[k]) + 0.0, "high": float(high[k])}
        for k, (name, estimate) in enumerate(fit.parameters.items())
    }


def delta_prediction(fit: LawFit, x: ArrayLike, level: float = 0.90) -> tuple[Array, Array, Array]:
    """Median, low and high for one new run at ``x`` by the delta method; it trusts the law, so it is too narrow."""
    t = log_scales(x, fit.observations.n_axes) - fit.t_ref
    value, jacobian = (part[0] for part in fit.law.curve.jacobian(fit.theta[None], t))
    noise = residual_noise(fit)
    variance = np.einsum("np,np->n", jacobian @ delta_covariance(fit, noise), jacobian) + noise.within + noise.between
    reach = np.minimum(stdtrit(noise.freedom, (1 + level) / 2) * np.sqrt(np.maximum(variance, 0.0)), 300.0)
    return bounded_exp(value), bounded_exp(value - reach), bounded_exp(value + reach)


def unit_matrix(fit: LawFit) -> Array:
    """[p, p] the linear part of the change from centred to user units of coded parameters."""
    p = fit.law.n_parameters
    origin = fit.law.units(np.zeros((1, p)), fit.t_ref)
    return np.asarray((fit.law.units(np.eye(p), fit.t_ref) - origin).T)
