"""The loss of a run under its learning rates: the multi-power law of Luo et al. 2025 (arXiv 2503.12811, equation 2).

    L(t) = L0 + A (S1(t) + SW)^-alpha - B Σ_k (η_{k-1} - η_k) (1 - (1 + C η_k^-gamma S_k(t))^-beta)

with S1(t) the sum of the rates up to step t after a warm-up, SW that of the warm-up, and S_k(t) the sum from step k on;
k runs over the steps after the warm-up. Parameters are fitted in units of the largest rate and of the longest run, with
weak priors about what the paper's models have, which noise makes count: a table of one constant rate leaves what a
decay gives to them, and the intervals are as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.special import ndtri

from metascale.core.errors import InputError
from metascale.core.notebook import words
from metascale.laws.fitting import require_level
from metascale.laws.observations import Array, Integers
from metascale.laws.record import Interval
from metascale.laws.runs import RATE_NAMES, run_column, step_column
from metascale.laws.schedules import Schedule
from metascale.laws.table import Table, guess_loss, losses, named_like

MULTI_POWER = "multi_power"
NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
FORMULA = "L = L0 + A (S1 + SW)^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta)"
# Means and standard deviations of ln A, ln alpha, ln B, ln C, ln beta and gamma: A and B as parts of the loss.
_PRIOR_MEAN = np.array([np.log(0.06), np.log(0.45), np.log(0.045), np.log(2000.0), np.log(0.6), 0.6])
_PRIOR_WIDTH = np.array([2.0, 0.6, 1.0, 2.0, 0.5, 0.25])
# Standard deviation of ln loss by which the law misses a run that it has not seen: of one run, and at least of several.
DISCREPANCY, SMALLEST_DISCREPANCY = 0.006, 0.004
MOST_ROWS = 100  # of a run
_DRAWS = 300
_NODES = 60  # steps at which a prediction's spread is drawn; between them it is interpolated
_PASSES = 6
_SMALLEST = 1e-9
_HUBER = 2.0


@dataclass(frozen=True)
class Path:
    """What the law needs of a schedule at steps [m]: sums of rates, and its changes of rate, joined to groups.

    Attributes:
        total: [m] sum of the rates; drop: [K] η_{k-1} - η_k; log_rate: [K]; since: [m, K] S_k(t), 0 before k.
    """

    total: Array
    drop: Array
    log_rate: Array
    since: Array

    @classmethod
    def of(cls, schedule: Schedule, at: Integers, groups: int | None = 4) -> Path:
        """Args: groups: into how many groups the changes between two of the steps are joined; None: none is joined."""
        rates, summed = schedule.rates, schedule.summed
        drop = -np.diff(rates, prepend=rates[0])
        places = np.flatnonzero((drop != 0) & (np.arange(len(rates)) >= schedule.warmup))
        places = places[places < at.max()]  # place k is step k + 1
        before = np.r_[0.0, summed][places]
        weight, log_rate = drop[places], np.log(np.maximum(rates[places], 1e-300 + 1e-9 * rates.max()))
        if groups is not None and len(places) > groups * len(at):
            gaps = zip(np.r_[schedule.warmup, at[:-1]], at, strict=True)
            ends = np.unique(np.concatenate([np.linspace(low, high, groups + 1)[1:] for low, high in gaps]).round())
            index = np.unique(np.searchsorted(ends, places + 1), return_inverse=True)[1]
            share = np.abs(weight)
            mass = np.bincount(index, share)
            before = np.bincount(index, share * before) / mass
            log_rate = np.bincount(index, share * log_rate) / mass
            weight = np.bincount(index, weight)
        since = summed[at - 1][:, None] - before
        last = np.searchsorted(at, places + 1) if len(weight) == len(places) else None
        seen = since > 0 if last is None else np.arange(len(at))[:, None] >= last
        return cls(summed[at - 1], weight, log_rate, np.where(seen, np.maximum(since, 0.0), 0.0))


def loss_of(parameters: Mapping[str, float], schedule: Schedule, at: ArrayLike) -> Array:
    """[m] the law's loss at steps ``at`` of a schedule, every change of the rate on its own."""
    steps = np.asarray(at, int)
    order = np.argsort(steps, kind="stable")
    coded = np.array([
        *np.log([parameters["L0"], parameters["A"], parameters["alpha"], parameters["B"], parameters["C"],
                 parameters["beta"]]), parameters["gamma"],
    ])  # fmt: skip
    found = np.empty(len(steps))
    found[order] = _curve(coded, Path.of(schedule, steps[order], None))[0]
    return found


def _curve(theta: Array, path: Path) -> tuple[Array, Array]:
    """Loss [m] and its derivatives [m, 7] by ln L0, ln A, ln α, ln B, ln C, ln β, γ."""
    floor, amplitude, alpha, height, rate, beta = np.exp(np.clip(theta[:6], -100, 100))
    gamma, log_total = theta[6], np.log(path.total)
    fall = amplitude * np.exp(-alpha * log_total)
    z = rate * np.exp(-gamma * path.log_rate) * path.since
    grown = np.log1p(z)
    left = np.exp(-beta * grown)
    gained = height * (1 - left) @ path.drop
    by_rate = height * (beta * left * z / (1 + z)) @ path.drop
    by_gamma = -height * (beta * left * z / (1 + z)) @ (path.drop * path.log_rate)
    by_beta = height * (beta * left * grown) @ path.drop
    jacobian = np.column_stack([np.full(len(fall), floor), fall, -alpha * log_total * fall, -gained, -by_rate, -by_beta,
                                -by_gamma])  # fmt: skip
    return floor + fall - gained, jacobian


@dataclass(frozen=True)
class Run:
    """Checkpoints of a run: steps [m] ascending after the warm-up, losses [m], and its schedule."""

    name: str
    schedule: Schedule
    steps: Integers
    loss: Array


@dataclass(frozen=True)
class ScheduleFit:
    """The law fitted to runs.

    Attributes:
        theta: [7] coded, in units of the largest rate and of the longest run's sum of rates; covariance: [7, 7].
        noise: standard deviation of ln loss of a checkpoint about its curve; discrepancy: of a run's curve about the
            law; held_out: by run, ln predicted over observed loss at its end, fitted without it.
    """

    runs: tuple[Run, ...]
    theta: Array
    covariance: Array
    rate_unit: float
    sum_unit: float
    noise: float
    discrepancy: float
    held_out: Mapping[str, float]
    loss_name: str
    level: float
    notes: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Interval]:
        """With intervals, in the units of the table."""
        draws = self._draws()
        spread = np.array([self._in_units(draw) for draw in draws])
        middle = self._in_units(self.theta)
        low, high = np.quantile(spread, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        return {name: Interval(float(middle[k]), float(min(low[k], middle[k])), float(max(high[k], middle[k])))
                for k, name in enumerate(NAMES)}  # fmt: skip

    def _in_units(self, theta: Array) -> Array:
        alpha, gamma = float(np.exp(theta[2])), theta[6]
        return np.array([
            np.exp(theta[0]), np.exp(theta[1]) * self.sum_unit**alpha, alpha, np.exp(theta[3]) / self.rate_unit,
            np.exp(theta[4]) * self.rate_unit**gamma / self.sum_unit, np.exp(theta[5]), gamma,
        ])  # fmt: skip

    def _draws(self) -> Array:
        values, vectors = np.linalg.eigh(self.covariance)
        normal = np.random.default_rng(1213).standard_normal((_DRAWS, 7))
        return np.asarray(self.theta + (normal * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)

    def predict(self, schedule: Any, at: ArrayLike | None = None, level: float = 0.90) -> CurvePrediction:
        """The loss of a new run under ``schedule`` (see `Schedule.read`) at steps ``at`` [m]; by default its end."""
        require_level(level)
        wanted = Schedule.read(schedule)
        steps = np.unique(np.asarray([len(wanted.rates)] if at is None else at, int))
        if steps.min() <= wanted.warmup or steps.max() > len(wanted.rates):
            raise InputError(
                f"step {steps.max() if steps.max() > len(wanted.rates) else steps.min()} is outside the schedule's "
                f"steps after its warm-up, {wanted.warmup + 1} to {len(wanted.rates)}", field="at",
            )  # fmt: skip
        scaled = wanted.scaled(self.rate_unit, self.sum_unit)
        middle = np.log(np.maximum(_curve(self.theta, Path.of(scaled, steps))[0], 1e-300))
        nodes = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _NODES)).round().astype(int))]
        path = Path.of(scaled, nodes)
        drawn = np.log(np.maximum([_curve(draw, path)[0] for draw in self._draws()], 1e-300))
        drawn = drawn - np.log(np.maximum(_curve(self.theta, path)[0], 1e-300))
        longer = 1 + np.maximum(np.log(np.maximum(path.total, 1e-300)), 0.0)  # less sure past the longest run
        noise = np.hypot(self.noise, self.discrepancy * longer)
        shares = (np.random.default_rng(7).permutation(_DRAWS) + 0.5) / _DRAWS
        ends = np.quantile(drawn + noise * ndtri(shares)[:, None], [(1 - level) / 2, (1 + level) / 2], axis=0)
        low, high = (middle + np.interp(steps, nodes, end) for end in ends)
        return CurvePrediction(
            steps, wanted.rates[steps - 1], np.exp(middle), np.exp(np.minimum(low, middle)),
            np.exp(np.maximum(high, middle)), level, self.loss_name,
        )  # fmt: skip

    def residuals(self, run: Run) -> list[dict[str, Any]]:
        """One dict a checkpoint of a fitted run: observed and fitted loss."""
        path = Path.of(run.schedule.scaled(self.rate_unit, self.sum_unit), run.steps)
        fitted = _curve(self.theta, path)[0]
        return [{"run": run.name, "step": int(step), "observed": float(seen), "fitted": float(said)}
                for step, seen, said in zip(run.steps, run.loss, fitted, strict=True)]  # fmt: skip

    def summary(self) -> str:
        percent = f"{100 * self.level:g} %"
        n = sum(len(run.steps) for run in self.runs)
        lines = [f"law multi_power: {FORMULA}", f"  ({n} checkpoints of {len(self.runs)} runs)"]
        lines += [f"  {name:<6} {part.estimate:<12.6g} {percent} interval {part.low:.5g} to {part.high:.5g}"
                  for name, part in self.parameters.items()]  # fmt: skip
        lines.append(
            f"  noise of a checkpoint {self.noise:.2g} in ln loss, of a run about the law {self.discrepancy:.2g}"
        )
        lines += [f"  without run {name} its end is predicted {100 * np.expm1(error):+.2f} % off"
                  for name, error in self.held_out.items()]  # fmt: skip
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        parts = {name: {"estimate": part.estimate, "low": part.low, "high": part.high}
                 for name, part in self.parameters.items()}  # fmt: skip
        return {
            "law": "multi_power", "formula": FORMULA, "parameters": parts, "level": self.level, "noise_log": self.noise,
            "discrepancy_log": self.discrepancy, "held_out_log": dict(self.held_out), "loss_name": self.loss_name,
            "runs": [run.name for run in self.runs], "notes": list(self.notes),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return words(self.summary())


@dataclass(frozen=True)
class CurvePrediction:
    """The loss of a new run at steps of a schedule; all [m]."""

    at: Integers
    rate: Array
    median: Array
    low: Array
    high: Array
    level: float
    loss_name: str

    def rows(self) -> list[dict[str, float]]:
        """One dict a step."""
        columns = {"step": self.at, "lr": self.rate, "median": self.median, "low": self.low, "high": self.high}
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self.at))]

    def to_json(self) -> dict[str, Any]:
        return {"level": self.level, "loss_name": self.loss_name, "rows": self.rows()}

    def summary(self) -> str:
        return "\n".join(
            f"step {row['step']:.0f} (rate {row['lr']:.3g}): {self.loss_name} {row['median']:.5g} "
            f"({100 * self.level:g} % interval for one run {row['low']:.5g} to {row['high']:.5g})"
            for row in self.rows()
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return words(self.summary())


def fit_multi_power(
    runs: Sequence[Run], *, loss_name: str = "loss", level: float = 0.95, notes: Sequence[str] = ()
) -> ScheduleFit:
    """Fit the law to runs with their schedules; with several, each is predicted without itself as well.

    Raises:
        InputError: fewer than 8 checkpoints after the warm-up.
    """
    require_level(level)
    n = sum(len(run.steps) for run in runs)
    if n < len(NAMES) + 1:
        raise InputError(
            f"the table has {n} checkpoints after the warm-up; the law 'multi_power' needs at least {len(NAMES) + 1}",
            field="law",
        )
    rate_unit = max(float(run.schedule.rates.max()) for run in runs)
    sum_unit = max(float(run.schedule.summed[-1]) for run in runs)
    paths = [Path.of(run.schedule.scaled(rate_unit, sum_unit), run.steps) for run in runs]
    theta, covariance, noise = _minimise(paths, [run.loss for run in runs], None)
    held: dict[str, float] = {}
    excess = []
    for k, run in enumerate(runs if len(runs) > 1 else ()):
        rest = [j for j in range(len(runs)) if j != k]
        if sum(len(runs[j].steps) for j in rest) <= len(NAMES):
            continue
        other, spread, _ = _minimise([paths[j] for j in rest], [runs[j].loss for j in rest], theta)
        value, jacobian = _curve(other, paths[k])
        missed = np.log(np.maximum(value, 1e-300) / run.loss)
        held[run.name] = float(missed[-max(len(missed) // 20, 1) :].mean())
        slope = jacobian / value[:, None]
        own = np.einsum("mp,pq,mq->m", slope, spread, slope)
        late = slice(len(missed) // 2, None)
        excess.append(float(np.mean(missed[late] ** 2 - own[late])) - noise**2)
    found = DISCREPANCY
    if excess:
        found = max(float(np.sqrt(max(float(np.mean(excess)), 0.0))), SMALLEST_DISCREPANCY)
    if len(runs) == 1:
        notes = (
            *notes,
            "one run: what the law says of other schedules is not tested on any, and rests on published ones",
        )
    return ScheduleFit(
        tuple(runs), theta, covariance, rate_unit, sum_unit, noise, found, held, loss_name, level,
        tuple(notes),
    )  # fmt: skip


def _minimise(paths: Sequence[Path], seen: Sequence[Array], start: Array | None) -> tuple[Array, Array, float]:
    """θ, its covariance with correlated residuals allowed for, and the noise of ln loss."""
    target = np.log(np.concatenate(seen))
    level = float(np.min(target))
    mean = _PRIOR_MEAN + np.array([level, 0, level, 0, 0, 0])

    def parts(theta: Array) -> tuple[Array, Array]:
        found = [_curve(theta, path) for path in paths]
        value = np.maximum(np.concatenate([one[0] for one in found]), 1e-6 * np.exp(level))
        return np.log(value) - target, np.concatenate([one[1] for one in found]) / value[:, None]

    def solve(begin: Array, noise: float, evaluations: int) -> Any:
        return least_squares(
            lambda theta: np.r_[parts(theta)[0] / noise, (theta[1:] - mean) / _PRIOR_WIDTH], begin,
            lambda theta: np.vstack([parts(theta)[1] / noise, np.eye(7)[1:] / _PRIOR_WIDTH[:, None]]),
            method="trf", loss="huber", f_scale=_HUBER, max_nfev=evaluations, xtol=1e-12, ftol=1e-12, gtol=1e-12,
        )  # fmt: skip

    places = np.cumsum([len(one) for one in seen])[:-1]
    noise = weight = 0.01
    if start is None:
        begins = [np.r_[level + np.log(0.9), mean + np.array([0, move, 0, 0, 0, 0])] for move in (0.0, 0.5)]
        theta = min((solve(begin, noise, 60) for begin in begins), key=lambda found: float(found.cost)).x
    else:
        theta = start
    for _ in range(_PASSES):
        before, theta = weight, solve(theta, weight, 60).x
        left, jacobian = parts(theta)
        noise = max(1.4826 * float(np.median(np.abs(left))), _SMALLEST)
        alike = sum(float(run[1:] @ run[:-1]) for run in np.split(left, places))
        correlation = float(np.clip(alike / max(float(left @ left), 1e-300), 0.0, 0.95))
        weight = noise * float(np.sqrt((1 + correlation) / (1 - correlation)))  # neighbours that agree count less
        if abs(weight - before) <= 0.05 * before:
            break
    information = jacobian.T @ jacobian / weight**2
    information[1:, 1:] += np.diag(1 / _PRIOR_WIDTH**2)
    return theta, np.linalg.pinv(information, hermitian=True), noise


def runs_of(table: Table, y: str | None = None, run: str | None = None) -> tuple[list[Run], str, tuple[str, ...]]:
    """The runs of a long table (run, step, rate, loss); without a column of runs it is one.

    Raises:
        InputError: no column of steps or of rates.
    """
    step, rate = step_column(table), next(iter(named_like(table, RATE_NAMES)), None)
    for found, what, examples in ((step, "steps", "step"), (rate, "learning rates", "lr")):
        if found is None:
            raise InputError(f"{table.source} has no column of {what} (such as '{examples}'), which the law "
                             "'multi_power' needs", field="law")  # fmt: skip
    assert step is not None
    assert rate is not None
    values, name = losses(table, y or guess_loss(table))
    column = run_column(table, run)
    codes, names = (np.zeros(table.n_rows, int), [""]) if column is None else table.labels(column)
    steps, rates = table.numbers(step), table.numbers(rate)
    runs, notes = [], []
    for k, label in enumerate(names):
        mine = (codes == k) & np.isfinite(steps) & np.isfinite(rates)
        if not mine.any():
            continue
        schedule = Schedule.of(steps[mine], rates[mine])
        kept = np.flatnonzero(mine & np.isfinite(values) & (values > 0) & (steps > schedule.warmup))
        kept = kept[np.argsort(steps[kept], kind="stable")]
        kept = kept[np.unique(steps[kept], return_index=True)[1]]
        if len(kept) > MOST_ROWS:
            kept = kept[np.linspace(0, len(kept) - 1, MOST_ROWS).round().astype(int)]
            notes.append(f"run {label or 'of the table'}: {MOST_ROWS} of its checkpoints are fitted")
        if len(kept):
            runs.append(Run(label or "1", schedule, steps[kept].astype(int), values[kept]))
    return runs, name, tuple(notes)


def fit_curves(table: Table, y: str | None = None, run: str | None = None, level: float = 0.95) -> ScheduleFit:
    """`fit_multi_power` of a long table with columns of runs, steps, rates and losses."""
    runs, name, notes = runs_of(table, y, run)
    return fit_multi_power(runs, loss_name=name, level=level, notes=(*table.notes, *notes))
