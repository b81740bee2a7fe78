"""A law in model size and data, with intervals, the other surfaces and the influence of single runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.allocation import Optimum, optimum, training_flops
from metascale.laws.corners import Choice, choose
from metascale.laws.curves import LogSumExp
from metascale.laws.evaluation import weigh
from metascale.laws.families import MANY_AXES
from metascale.laws.fitting import Intervals, LawFit, as_intervals, fit_law
from metascale.laws.library import IN_THE_LIBRARY, law_of
from metascale.laws.likelihood import influence
from metascale.laws.mixture import Mixture
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.observations import Observations, observe, table_warnings
from metascale.laws.picture import LawPicture
from metascale.laws.predicting import with_predictor
from metascale.laws.prediction import Prediction
from metascale.laws.record import Band, FamilyRecord, LawRecord, TrendResult, save_record
from metascale.laws.uncertainty import Bootstrap, bootstrap, delta_intervals
from metascale.laws.verdict import axis_trends, axis_words, is_score, misfit_notes, overall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOW_RESAMPLES = 200  # for surfaces whose refits take tens of milliseconds each
ROUNDING = 1e-9  # of a parameter: a move by less than this is none
INFLUENTIAL = 0.5  # a row is named when leaving it out moves a parameter by more than half its standard error


@dataclass(frozen=True)
class SurfaceAnalysis(Shown):
    """The chosen surface, its bootstrap, and the other surfaces that the table can carry.

    Attributes:
        named: whether the law was asked for; it then predicts alone, and otherwise with the other forms of `choice`.
    """

    fit: LawFit
    bootstrap: Bootstrap
    families: dict[str, LawFit]
    level: float
    notes: tuple[str, ...]
    named: bool = False

    @property
    def parameters(self) -> Intervals:
        """``{"estimate", "low", "high"}`` of every parameter of the chosen law."""
        return self.bootstrap.intervals(self.level)

    @cached_property
    def choice(self) -> Choice:
        """What predicts, judged on hidden corners of the table: a law that was named, or the forms that hold there.

        Found when it is first asked for: it takes some seconds where no law was named.
        """
        table = self.fit.observations
        named = [law_of(IN_THE_LIBRARY[self.fit.law.name], table.x_names)] if self.named else None
        return choose(table, named)

    @property
    def predictor(self) -> Mixture:
        return self.choice.mixture

    @cached_property
    def trends(self) -> dict[str, TrendResult]:
        """What the loss does along every scale, the others held fixed."""
        return axis_trends(self.fit.observations, self.level)

    @property
    def verdict(self) -> str:
        """The trends; the law's exponents only where the loss has a trend in every scale."""
        observations, parts = self.fit.observations, self.parameters
        name, higher = observations.loss_name, is_score(observations.loss_name)
        words = [axis_words(axis, trend, higher) for axis, trend in self.trends.items()]
        answers = {trend.answer for trend in self.trends.values()}
        if answers != {"falls"}:
            law = "" if answers & {"falls", "rises"} else f"; the parameters of {self.fit.law.name} describe noise"
            return f"{name} {'; '.join(words)}{law}."
        exponents = [axis for axis in self.fit.law.parameters if axis.startswith(("alpha", "beta"))]
        values = ", ".join(
            f"{axis} {parts[axis]['estimate']:.4g} ({parts[axis]['low']:.4g} to {parts[axis]['high']:.4g})"
            for axis in exponents
        )
        return f"{name} {'; '.join(words)}; as {self.fit.law.formula}: {values}."

    def optimum(self, compute: ArrayLike, **options: Any) -> Optimum:
        """Compute-optimal allocation at budgets in FLOPs; see `metascale.laws.optimum`."""
        return optimum(self.bootstrap, compute, source=self, **options)

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each row: by the law that was named, else by the forms of `choice`.

        The surface's own value, without an interval, is ``fit.predict``.
        """
        return self.predictor.predict(points, level)

    def to_arviz(self) -> Any:
        """The bootstrap's draws for arviz; see `metascale.laws.Bootstrap`."""
        return self.bootstrap.to_arviz()

    def save(self, path: Path | str) -> None:
        """Write the law and its predictor to a file, for `metascale.laws.load_law`."""
        save_record(path, with_predictor(self.record(), self.predictor))

    def record(self) -> LawRecord:
        """What fit.json holds."""
        fit = self.fit
        intervals = {name: delta_intervals(other, self.level) for name, other in self.families.items()}
        intervals[fit.law.name] = self.parameters
        return replace(
            fit.record(self.level, self.parameters, self.notes),
            trend=overall(self.trends),
            trends=self.trends,
            verdict=self.verdict,
            families={name: _family(other, intervals[name]) for name, other in self.families.items()},
            extrapolation_reason="the held-out test is for tables with one scale",
            condition=fit.condition if np.isfinite(fit.condition) else None,
        )

    def to_json(self) -> dict[str, Any]:
        return self.record().to_json()

    def summary(self) -> str:
        fit, percent = self.fit, f"{100 * self.level:g} %"
        lines = [self.verdict, "", f"law {fit.law.name}: {fit.law.formula}    ({fit.observations.n} rows)"]
        for name, part in self.parameters.items():
            lines.append(
                f"  {name:<8} {part['estimate']:<16.10g} {percent} interval {part['low']:.6g} to {part['high']:.6g}"
            )
        lines.append(
            f"  {fit.objective.name} = {fit.objective_value:.12g}, rmse of ln loss {fit.rmse_log:.4g}; "
            f"{fit.n_agree} of {fit.n_starts} starts agree, condition {fit.condition:.3g}"
        )
        for name, other in self.families.items():
            if name != fit.law.name:
                lines.append(
                    f"  beside it, {name}: objective {other.objective_value:.6g}, AICc {other.aicc - fit.aicc:+.1f}"
                )
        lines.append(
            f"  predictions: by {fit.law.name}, judged on hidden corners of the table" if self.named else
            "  predictions: not by this surface alone, but by all forms that hold in hidden corners of the table"
        )  # fmt: skip
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Predicted against observed loss."""
        return self.fit.plot(ax)

    def picture(self, best: Optimum) -> LawPicture:
        """Loss against compute: every run, and the least loss that the fitted surface allows at each budget."""
        table = self.fit.observations
        compute = training_flops(table.x[:, 0], table.x[:, 1])
        label = f"compute-optimal loss ({100 * best.level:g} % interval of the law)"
        band = Band.of(best.compute, best.loss["estimate"], best.loss["low"], best.loss["high"])
        return LawPicture(
            f"{table.loss_name} against compute", self.verdict, "compute (6 N D FLOPs)", table.loss_name,
            tuple(compute.tolist()), tuple(table.loss.tolist()), {label: band},
        )  # fmt: skip


def analyse_surface(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    law: str = "auto",
    run: ArrayLike | None = None,
    replicate: ArrayLike | None = None,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    x_name: Sequence[str] = ("N", "D"),
    loss_name: str = "loss",
    objective: Objective | None = None,
    notes: Sequence[str] = (),
    noise: ArrayLike | None = None,
) -> SurfaceAnalysis:
    """Fit a law in (N, D), or (N, D, U) with U unique tokens.

    Args:
        x: [n, 2] or [n, 3]; law: "chinchilla", "kaplan", "data_constrained", or "auto": chinchilla for two axes and
            data_constrained for three, with the other surfaces beside it.
        noise: [n] known standard errors of the losses' evaluation, as in `metascale.laws.analyse`.

    Raises:
        InputError: an unknown law, the wrong number of axes, or a table that `observe` refuses.
    """
    observations = observe(
        x, loss, run=run, replicate=replicate, x_name=x_name, loss_name=loss_name, noise=noise
    )  # fmt: skip
    objective = objective or (LogHuber() if noise is None else LeastSquares())
    usable = [name for name, candidate in MANY_AXES.items() if candidate.n_axes == observations.n_axes]
    if law != "auto" and law not in MANY_AXES:
        raise InputError(f"the law '{law}' is unknown for several scales; allowed are: auto, {', '.join(MANY_AXES)}")
    if not usable:
        raise InputError(
            f"the table has {observations.n_axes} scales; laws in several scales take 2 (N, D) or 3 (N, D, U)"
        )
    chosen = usable[0] if law == "auto" else law
    names = dict.fromkeys([chosen, *usable])
    observations = weigh(observations)
    families = {name: fit_law(MANY_AXES[name], observations, objective) for name in names}
    fit = families[chosen]
    n_resamples = n_bootstrap if isinstance(fit.law.curve, LogSumExp) else min(n_bootstrap, SLOW_RESAMPLES)
    sample = bootstrap(fit, n_resamples, seed=seed)
    found = [*notes, *observations.notes, *table_warnings(observations), sample.how, *_fit_notes(fit)]
    found += misfit_notes(sample.noise)
    if noise is not None:
        found.append("predictions weigh every row alike; the parameters above weigh rows by their evaluation errors")
    if fit.law.name == "chinchilla":
        found += influence_notes(fit, sample)
    return SurfaceAnalysis(fit, sample, families, level, tuple(found), law != "auto")


def _family(fit: LawFit, intervals: Intervals) -> FamilyRecord:
    note = f"{', '.join(fit.at_bound)} at the bound" if fit.at_bound else ""
    return FamilyRecord(
        as_intervals(intervals), fit.objective_value, fit.rmse_log, fit.finite_aicc, converged=fit.converged, note=note
    )


def _fit_notes(fit: LawFit) -> list[str]:
    notes = []
    if not fit.converged:
        notes.append("the fit did not converge")
    if fit.at_bound:
        notes.append(f"{', '.join(fit.at_bound)} ended on a bound: not identified by this table")
    if fit.condition > 1e8:
        notes.append(f"condition number {fit.condition:.2g}: parameters are not identified one by one")
    return notes


def influence_notes(fit: LawFit, sample: Bootstrap, most: int = 3) -> list[str]:
    """Name the rows whose absence moves a parameter most."""
    errors, estimates = sample.standard_errors(), fit.parameters
    # Of a table without noise the errors are 0, and what a row moves is rounding.
    size = {name: max(errors[name], ROUNDING * abs(value), 1e-300) for name, value in estimates.items()}
    shift = np.max([np.abs(values - estimates[name]) / size[name] for name, values in influence(fit).items()], axis=0)
    rows = [int(row) for row in np.argsort(-shift)[:most] if shift[row] > INFLUENTIAL]
    return [describe_row(fit.observations, row, float(shift[row])) for row in rows]


def describe_row(observations: Observations, row: int, shift: float) -> str:
    """A sentence about one influential row."""
    where = ", ".join(
        f"{name} {value:.4g}" for name, value in zip(observations.x_names, observations.x[row], strict=True)
    )
    return f"the row {where}, {observations.loss_name} {observations.loss[row]:.4g} moves a parameter by {shift:.1f} se"
