"""The multi-power law fitted to a long table of runs with their rates.

Parameters are fitted in units of the largest rate and of the longest run, with weak priors about what the paper's
models have, which noise makes count: a table of one constant rate leaves what a decay gives to them, and the intervals
are as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.fitting import require_level
from metascale.laws.multi_power import FORMULA, MULTI_POWER, NAMES, Path, curve_of
from metascale.laws.observations import Array, Integers
from metascale.laws.picture import COLOURS, axis_or_new, finish
from metascale.laws.record import Band, Interval, LawRecord, save_record
from metascale.laws.runs import RATE_NAMES, run_column, step_column
from metascale.laws.schedule_predictor import CurvePrediction, SchedulePredictor, parameters_of
from metascale.laws.schedules import Schedule
from metascale.laws.table import Table, guess_loss, losses, named_like, naming, split_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Means and standard deviations of ln A, ln alpha, ln B, ln C, ln beta and gamma: A and B as parts of the loss.
_PRIOR_MEAN = np.array([np.log(0.06), np.log(0.45), np.log(0.045), np.log(2000.0), np.log(0.6), 0.6])
_PRIOR_WIDTH = np.array([2.0, 0.6, 1.0, 2.0, 0.5, 0.25])
# Standard deviation of ln loss by which the law misses a run that it has not seen: of one run, and at least of several.
DISCREPANCY, SMALLEST_DISCREPANCY = 0.006, 0.004
MOST_ROWS = 100  # of a run
_PASSES = 6
_SMALLEST = 1e-9
_HUBER = 2.0
_SHOWN = 8  # runs in a list of names, and in a picture


@dataclass(frozen=True)
class Run:
    """Checkpoints of a run: steps [m] ascending after the warm-up, losses [m], and its schedule."""

    name: str
    schedule: Schedule
    steps: Integers
    loss: Array


@dataclass(frozen=True)
class ScheduleFit(Shown):
    """The law fitted to runs.

    Attributes:
        theta, covariance, rate_unit, sum_unit, noise, discrepancy: as of
            `metascale.laws.schedule_predictor.SchedulePredictor`.
        held_out: by run, ln predicted over observed loss at its end, fitted without it.
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

    @cached_property
    def predictor(self) -> SchedulePredictor:
        longest = max(self.runs, key=lambda run: float(run.schedule.summed[-1]))
        return SchedulePredictor(
            self.theta, self.covariance, self.rate_unit, self.sum_unit, self.noise, self.discrepancy, self.loss_name,
            (longest.steps, longest.loss),
        )  # fmt: skip

    @cached_property
    def parameters(self) -> dict[str, Interval]:
        """With intervals, in the units of the table."""
        found = parameters_of(self.theta, self.predictor, self.level)
        return {name: Interval(*ends) for name, ends in found.items()}

    @property
    def verdict(self) -> str:
        """How far the law missed the ends of runs that it had not seen."""
        n = sum(len(run.steps) for run in self.runs)
        words = f"{self.loss_name} follows its learning rates in {n} checkpoints of {len(self.runs)} runs"
        if not self.held_out:
            return f"{words}; no run was left to test it on."
        worst = max(abs(np.expm1(error)) for error in self.held_out.values())
        return f"{words}; fitted without a run, the law misses its end by at most {100 * worst:.2g} %."

    def predict(self, schedule: Any, at: ArrayLike | None = None, level: float = 0.90) -> CurvePrediction:
        """The loss of a new run under ``schedule`` (see `Schedule.read`) at steps ``at`` [m]; by default its end."""
        return self.predictor.predict(schedule, level, at)

    def residuals(self, run: Run) -> list[dict[str, Any]]:
        """One dict a checkpoint of a fitted run: observed and fitted loss."""
        return [{"run": run.name, "step": int(step), "observed": float(seen), "fitted": float(said)}
                for step, seen, said in zip(run.steps, run.loss, self._fitted(run), strict=True)]  # fmt: skip

    def _fitted(self, run: Run) -> Array:
        path = Path.of(run.schedule.scaled(self.rate_unit, self.sum_unit), run.steps)
        return curve_of(self.theta, path)[0]

    def summary(self) -> str:
        percent = f"{100 * self.level:g} %"
        n = sum(len(run.steps) for run in self.runs)
        lines = [self.verdict, "", f"law multi_power: {FORMULA}", f"  ({n} checkpoints of {len(self.runs)} runs)"]
        lines += [f"  {name:<6} {part.estimate:<12.6g} {percent} interval {part.low:.5g} to {part.high:.5g}"
                  for name, part in self.parameters.items()]  # fmt: skip
        lines.append(
            f"  noise of a checkpoint {self.noise:.2g} in ln loss, of a run about the law {self.discrepancy:.2g}"
        )
        lines += [f"  without run {name} its end is predicted {100 * np.expm1(error):+.2f} % off"
                  for name, error in self.held_out.items()]  # fmt: skip
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Checkpoints and fitted curves of the runs, of many the longest ones."""
        ax = axis_or_new(ax)
        shown = sorted(self.runs, key=lambda run: -len(run.schedule.rates))[:_SHOWN]
        for k, run in enumerate(shown):
            colour = COLOURS[k % len(COLOURS)]
            ax.plot(run.steps, run.loss, "o", ms=3, alpha=0.4, color=colour)
            ax.plot(run.steps, self._fitted(run), "-" if k < len(COLOURS) else "--", color=colour, label=run.name)
        return finish(ax, "step", self.loss_name, x_scale="linear")

    def record(self) -> LawRecord:
        """What law.json and a saved file hold."""
        longest = max(self.runs, key=lambda run: float(run.schedule.summed[-1]))
        seen = self.predict(longest.schedule, longest.steps, self.level)
        return LawRecord(
            law=MULTI_POWER, formula=FORMULA, x_names=("step",), loss_name=self.loss_name, level=self.level,
            parameters=self.parameters, verdict=self.verdict,
            extrapolation_reason="runs predicted without themselves stand in held_out_log",
            curve=Band.of(seen.x[:, 0], seen.median, seen.low, seen.high),
            n_observations=sum(len(run.steps) for run in self.runs), notes=self.notes,
            predictor=self.predictor.record(),
        )  # fmt: skip

    def save(self, path: FilePath | str) -> None:
        """Write the law to a file, from which `metascale.laws.load_law` predicts the same."""
        save_record(path, self.record())

    def to_json(self) -> dict[str, Any]:
        """What fit.json holds."""
        found = self.record().to_json()
        found.pop("predictor")
        return {**found, "noise_log": self.noise, "discrepancy_log": self.discrepancy,
                "held_out_log": dict(self.held_out), "runs": [run.name for run in self.runs]}  # fmt: skip


def fit_multi_power(
    runs: Sequence[Run], *, loss_name: str = "loss", level: float = 0.95, notes: Sequence[str] = ()
) -> ScheduleFit:
    """Fit the law to runs with their schedules; with several, each is predicted without itself as well.

    Raises:
        InputError: fewer than 8 checkpoints after the warm-up, or a step that is none of its run's schedule.
    """
    require_level(level)
    for run in runs:
        run.schedule.steps(run.steps)
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
        value, jacobian = curve_of(other, paths[k])
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
        found = [curve_of(theta, path) for path in paths]
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
    """The runs of a long table (run, step, rate, loss), the column of the loss, and which rows are not fitted and why;
    without a column of runs it is one.

    Raises:
        InputError: no column of steps or of rates; steps that are not whole.
    """
    step, rate = _steps_and_rates(table)
    values, name = losses(table, y or guess_loss(table))
    column = run_column(table, run)
    codes, names = (np.zeros(table.n_rows, int), [""]) if column is None else table.labels(column)
    steps, rates = table.numbers(step), table.numbers(rate)
    _require_whole(steps, step, table.source)
    timed = np.isfinite(steps) & np.isfinite(rates)
    useful = timed & np.isfinite(values) & (values > 0)
    left = {f"no number in '{step}' or '{rate}'": int((~timed).sum()),
            f"no number above 0 in '{name}'": int((timed & ~useful).sum()), "in a warm-up": 0,
            "a step of the run once more (the first row of it counts)": 0}  # fmt: skip
    runs, notes, empty = [], [], []
    for k, label in enumerate(names):
        mine = (codes == k) & timed
        if not mine.any():
            empty.append(label)
            continue
        schedule = Schedule.of(steps[mine], rates[mine])
        after = np.flatnonzero(mine & useful & (steps > schedule.warmup))
        left["in a warm-up"] += int((mine & useful).sum()) - len(after)
        ordered = after[np.argsort(steps[after], kind="stable")]
        kept = ordered[np.unique(steps[ordered], return_index=True)[1]]
        left["a step of the run once more (the first row of it counts)"] += len(ordered) - len(kept)
        if len(kept) > MOST_ROWS:
            who = f"run {label}" if label else "the run"
            notes.append(f"{who}: {MOST_ROWS} of its {len(kept)} checkpoints are fitted, evenly spread")
            kept = kept[np.linspace(0, len(kept) - 1, MOST_ROWS).round().astype(int)]
        if len(kept):
            runs.append(Run(label or "1", schedule, steps[kept].astype(int), values[kept]))
        else:
            empty.append(label)
    said = [f"{count} rows left out: {why}" for why, count in left.items() if count]
    if empty and runs:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        said.append(f"{len(empty)} of {len(names)} runs have no row left ({shown})")
    return runs, name, (*said, *notes)


def _steps_and_rates(table: Table) -> tuple[str, str]:
    """The columns of steps and of learning rates."""
    step, rate = step_column(table), next(iter(named_like(table, RATE_NAMES)), None)
    for found, what, examples in ((step, "steps", "step"), (rate, "learning rates", "lr")):
        if found is None:
            raise InputError(f"{table.source} has no column of {what} (such as '{examples}'), which the law "
                             "'multi_power' needs", field="law")  # fmt: skip
    assert step is not None
    assert rate is not None
    return step, rate


def _require_whole(steps: Array, name: str, source: str) -> None:
    broken = np.flatnonzero(np.isfinite(steps) & (steps != np.round(steps)))
    if len(broken):
        raise InputError(f"'{name}' is {steps[broken[0]]:g} in row {broken[0] + 1} of {source} ({len(broken)} such "
                         "rows); steps are whole numbers", field="step", value=float(steps[broken[0]]))  # fmt: skip


def fit_curves(
    table: Table, y: str | None = None, run: str | None = None, level: float = 0.95, group: str | None = None
) -> dict[str, ScheduleFit]:
    """`fit_multi_power` of a long table with columns of runs, steps, rates and losses, for each value of ``group``."""
    if group is not None:
        table.column(group)
    found = {}
    for label, part in split_table(table, group).items():
        with naming(label):
            runs, name, notes = runs_of(part, y, run)
            try:
                found[label] = fit_multi_power(runs, loss_name=name, level=level, notes=(*part.notes, *notes))
            except InputError as error:
                left = f" ({'; '.join(notes)})" if notes else ""
                raise InputError(f"{error}{left}", field=error.field, value=error.value) from error
    return found
