"""A table in any number of scales, analysed: a named law or the best of many forms, trends, and a predictor for all.

`analyse_scales` is what `fit` does with three scales and more, with two that are not model size and data, with a
formula, and with a law of the library. A table in model size and data with no law named keeps the verdict of
`metascale.laws.surface_fit`; its predictions are those of `metascale.laws.corners` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.corners import Choice, choose
from metascale.laws.expression import is_formula
from metascale.laws.families import ALIASES, MANY_AXES, ONE_AXIS
from metascale.laws.formula import FormulaFit, fit_formula, link_of, objective_words
from metascale.laws.library import LIBRARY, law_of
from metascale.laws.mixture import Mixture
from metascale.laws.objective import Objective
from metascale.laws.observations import Array, Mask, Observations, observe, table_warnings
from metascale.laws.picture import BLUE, GREY, LawPicture, axis_or_new, finish
from metascale.laws.prediction import Prediction
from metascale.laws.record import Band, FamilyRecord, LawRecord, TrendResult, save_record
from metascale.laws.table import sizes_by_data
from metascale.laws.verdict import axis_trends, axis_words, is_score, overall

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AUTO = "auto"
_SHOWN = 6  # forms in a summary
_BAND_POINTS = 200
_NO_ANSWER = 1e100  # an error beyond it is that of a law that blew up
_NEAR = 0.05  # in ln units: runs this near a slice are drawn on it


@dataclass(frozen=True)
class ScalesAnalysis(Shown):
    """A law in any number of scales.

    Attributes:
        fit: the named law, or the leading form of `choice`.
        choice: the forms with their weights; of a named law, that one alone, with the corners that it was judged by.
    """

    fit: FormulaFit
    choice: Choice
    level: float
    named: bool
    notes: tuple[str, ...]

    @property
    def predictor(self) -> Mixture:
        return self.choice.mixture

    @cached_property
    def trends(self) -> dict[str, TrendResult]:
        """What the loss does along every scale, the others held fixed; of losses that are not positive without an
        exponent."""
        table = self.fit.observations
        if self.fit.link == "log":
            return axis_trends(table, self.level)
        standard = np.exp((table.loss - table.loss.mean()) / max(float(np.std(table.loss)), 1e-300))
        found = axis_trends(replace(table, loss=standard), self.level)
        return {name: replace(trend, exponent=None) for name, trend in found.items()}

    @property
    def verdict(self) -> str:
        table = self.fit.observations
        if self.fit.link == "log":
            words = [axis_words(axis, trend, is_score(table.loss_name)) for axis, trend in self.trends.items()]
        else:
            words = [f"{_ANSWERS[trend.answer]} {axis}" for axis, trend in self.trends.items()]
        law = f"as {self.fit.formula.text}" if self.named else f"predicted by {len(self.choice.fits)} forms together"
        return f"{table.loss_name} {'; '.join(words)}; {law}."

    @property
    def parameters(self) -> dict[str, dict[str, float]]:
        """``{"estimate", "low", "high"}`` of every parameter of the named law, or of the leading form."""
        found = self.fit.intervals(self.level)
        return {name: {"estimate": one.estimate, "low": one.low, "high": one.high} for name, one in found.items()}

    def predict(self, points: Any, level: float = 0.90) -> Prediction:
        """Median and interval for one new run at each row: an array [m, d], or what `read_table` reads."""
        return self.predictor.predict(points, level)

    def save(self, path: Path | str) -> None:
        """Write the law and its predictor to a file, for `metascale.laws.load_law`."""
        save_record(path, self.record())

    def record(self) -> LawRecord:
        """What law.json and fit.json hold."""
        fit = self.fit
        families = {
            one.formula.name: FamilyRecord(
                one.intervals(self.level), one.objective_value, one.rmse, None, _error(self.choice, k),
                converged=one.converged, note=f"weight {weight:.3f}: {one.formula.text}",
            ) for k, (one, weight) in enumerate(zip(self.choice.fits, self.choice.weights, strict=True))
        }  # fmt: skip
        if self.named:
            families[fit.formula.name] = replace(families[fit.formula.name], parameters=fit.intervals(self.level),
                                                 objective=fit.objective_value, rmse_log=fit.rmse)  # fmt: skip
        return LawRecord(
            law=fit.formula.name if self.named else AUTO,
            formula=fit.formula.text,
            x_names=fit.observations.x_names,
            loss_name=fit.observations.loss_name,
            level=self.level,
            parameters=fit.intervals(self.level),
            trend=overall(self.trends),
            trends=self.trends,
            verdict=self.verdict,
            families=families,
            extrapolation_reason="the hidden corners of the table stand with the families",
            objective=fit.objective_value,
            objective_name=objective_words(fit.objective, fit.link),
            n_observations=fit.observations.n,
            n_scales=fit.observations.n_scales,
            r2_log=fit.r2,
            notes=self.notes,
            predictor=self.predictor.record(),
        )

    def to_json(self) -> dict[str, Any]:
        return self.record().to_json()

    def summary(self) -> str:
        fit, percent = self.fit, f"{100 * self.level:g} %"
        lead = "law" if self.named else "leading form"
        lines = [self.verdict, "", f"{lead} {fit.formula.name}: {fit.formula.text}    ({fit.observations.n} rows)"]
        for name, part in fit.intervals(self.level).items():
            fixed = "" if name in fit.free else "  fixed"
            lines.append(
                f"  {name:<8} {part.estimate:<16.10g} "
                + (fixed or f"{percent} interval {part.low:.6g} to {part.high:.6g}")
            )
        unit = "ln loss" if fit.link == "log" else "the loss"
        lines.append(
            f"  {objective_words(fit.objective, fit.link)} = {fit.objective_value:.12g}, rmse of {unit} {fit.rmse:.4g}"
            + (f"; {fit.n_agree} starts agree" if self.named else "")
        )
        if not self.named:
            lines += ["", f"{'weight':>8}{'hidden':>9}  form   (error of {unit} in hidden corners)"]
            for k, one in enumerate(self.choice.fits[:_SHOWN]):
                error = _error(self.choice, k)
                shown = "" if error is None else f"{error:.4g}"
                lines.append(f"{self.choice.weights[k]:>8.2f}{shown:>9}  {one.formula.name}")
            rest = len(self.choice.fits) - _SHOWN
            dropped = len(self.choice.tried) - len(self.choice.fits)
            lines.append(f"{'':>8}{'':>9}  {f'{rest} more; ' if rest > 0 else ''}{dropped} forms left out")
        lines.append(f"predictions by {self.predictor.by}: noise of a run {self.predictor.noise:.3g} of {unit}, "
                     f"discrepancy {self.predictor.growth:.3g} per e-fold beyond the table")  # fmt: skip
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Observed against predicted loss."""
        ax, table = axis_or_new(ax), self.fit.observations
        predicted = self.predict(table.x).median
        ends = [float(min(predicted.min(), table.loss.min())), float(max(predicted.max(), table.loss.max()))]
        ax.plot(ends, ends, color=GREY, lw=1)
        ax.plot(predicted, table.loss, "o", ms=3, alpha=0.6, color=BLUE, label="runs")
        axes: Literal["log", "linear"] = "log" if self.fit.link == "log" else "linear"
        name = table.loss_name
        return finish(ax, f"predicted {name}", f"observed {name}", x_scale=axes, y_scale=axes)


_ANSWERS = {
    "falls": "falls with", "rises": "RISES with", "not monotone": "is not monotone in", "none": "has no trend in",
    "undecided": "is undecided in", "unknown": "is unknown in",
}  # fmt: skip


def _error(choice: Choice, k: int) -> float | None:
    """Of a form over the hidden corners; None where there is none, or one that the form had no answer for."""
    errors = [corner.errors[k] for corner in choice.corners]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors and max(errors) < _NO_ANSWER else None


def analyse_scales(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    law: str = AUTO,
    x_name: Sequence[str],
    run: ArrayLike | None = None,
    replicate: ArrayLike | None = None,
    level: float = 0.95,
    loss_name: str = "loss",
    objective: Objective | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> ScalesAnalysis:
    """Fit a law in any number of scales.

    Args:
        x: [n, d]; law: "auto", a name of `metascale.laws.LIBRARY`, or a formula in ``x_name`` and free parameters.
        bounds, fixed: of the parameters of a named law.

    Raises:
        InputError: an unknown law, a bad formula, or a table that cannot be fitted.
    """
    observations = observe(x, loss, run=run, replicate=replicate, x_name=x_name, loss_name=loss_name, signed=True)
    said = [*notes, *observations.notes, *table_warnings(observations)]
    if link_of(observations.loss) == "identity":
        said.append("not all losses are positive: residuals are of the loss itself, not of its logarithm")
    if law == AUTO:
        if bounds or fixed:
            raise InputError("`bound` and `fix` are for a named law or a formula, not for auto", field="law")
        choice = choose(observations)
        return ScalesAnalysis(choice.fits[0], choice, level, False, (*said, *choice.notes))
    formula = law_of(law, observations.x_names).constrained(bounds, fixed)
    fit = fit_formula(formula, observations, objective)
    choice = choose(observations, [formula])
    said += list(choice.notes)
    if lost := [corner.name for corner in choice.corners if not corner.errors[0] < _NO_ANSWER]:
        said.append(f"without the {', '.join(lost)} the table does not determine the law: no error is known there")
    if not fit.converged:
        said.append("the fit did not converge")
    if fit.at_bound:
        said.append(f"{', '.join(fit.at_bound)} ended on a bound: not identified by this table")
    return ScalesAnalysis(fit, choice, level, True, tuple(said))


def any_scales(law: str, names: Sequence[str], loss: Array) -> bool:
    """Whether `analyse_scales` fits a table: a formula, a law of `LIBRARY`, three scales or more, or two that are not
    by their ``names`` model size and data, or with losses that are not all positive; the others keep the verdicts of
    one scale and of (N, D)."""
    if law in (*MANY_AXES, *ONE_AXIS, *ALIASES):
        return False
    if law == AUTO:
        return len(names) > 2 or (len(names) == 2 and (not sizes_by_data(names) or bool((loss <= 0).any())))
    return len(names) > 1 or is_formula(law) or law in LIBRARY or law == "mixture"


def pictures(analysis: ScalesAnalysis, name: str = "") -> list[LawPicture]:
    """Observed against predicted loss, and a slice along every scale; ``name`` is that of a group."""
    return pictures_of(analysis.predictor, analysis.fit.observations, analysis.verdict, name)


def pictures_of(mixture: Mixture, table: Observations, verdict: str, name: str = "") -> list[LawPicture]:
    """The same of any table and its predictor."""
    of = f": {name}" if name else ""
    fitted = mixture.predict(table.x)
    order = np.argsort(fitted.median, kind="stable")
    order = order[np.unique(np.linspace(0, table.n - 1, min(table.n, _BAND_POINTS)).astype(int))]
    line = Band.of(fitted.median[order], fitted.median[order], fitted.low[order], fitted.high[order])
    loss = table.loss_name
    found = [
        LawPicture(
            f"observed against predicted {loss}{of}", verdict, f"predicted {loss}", loss,
            tuple(fitted.median.tolist()), tuple(table.loss.tolist()), {"predicted (90 % interval of a run)": line},
        )
    ]  # fmt: skip
    for k, axis in enumerate(table.x_names):
        rows, near = slice_along(table, k)
        ahead = mixture.predict(rows)
        held = ", ".join(f"{other} {rows[0, j]:.4g}" for j, other in enumerate(table.x_names) if j != k)
        band = Band.of(rows[:, k], ahead.median, ahead.low, ahead.high)
        found.append(
            LawPicture(
                f"{loss} along {axis}{of}", f"at {held}", axis, loss, tuple(table.x[near, k].tolist()),
                tuple(table.loss[near].tolist()), {"predicted (90 % interval of a run)": band},
            )
        )  # fmt: skip
    return found


def slice_along(table: Observations, axis: int, points: int = 60) -> tuple[Array, Mask]:
    """Rows [points, d] along one scale to twice its end, through the run nearest the upper quarter of the other scales,
    and which runs [n] lie on them."""
    logs = table.log_x
    others = np.delete(logs, axis, 1)
    centre = logs[int(np.argmin(((others - np.quantile(others, 0.75, axis=0)) ** 2).sum(1)))]
    near = np.all(np.abs(others - np.delete(centre, axis)) < _NEAR, axis=1)
    rows = np.repeat(centre[None], points, 0)
    rows[:, axis] = np.linspace(logs[:, axis].min(), logs[:, axis].max() + np.log(2.0), points)
    return np.exp(rows), np.asarray(near)
