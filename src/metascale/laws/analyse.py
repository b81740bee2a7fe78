"""One table, one answer: which law, how sure, does it extrapolate, and is there a trend at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws.compare import FamilyResult, compare_families
from metascale.laws.families import ALIASES, ONE_AXIS
from metascale.laws.fit import LawFit, fit_law
from metascale.laws.objective import LogHuber
from metascale.laws.observations import observe, table_warnings
from metascale.laws.surface import SurfaceAnalysis, analyse_surface
from metascale.laws.uncertainty import Bootstrap, bootstrap, delta_intervals, last_value, tail_line
from metascale.laws.verdict import CANDIDATES, choose, honest_notes, verdict_sentence


@dataclass(frozen=True)
class Analysis:
    """A table's law with its intervals, its extrapolation test and a verdict; ``summary()`` prints it."""

    fit: LawFit
    bootstrap: Bootstrap
    families: dict[str, FamilyResult]
    family_intervals: dict[str, dict[str, dict[str, float]]]
    level: float
    trend: str
    verdict: str
    extrapolation: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, dict[str, float]]:
        """``{"estimate", "low", "high"}`` of every parameter of the chosen law."""
        return self.family_intervals[self.fit.law.name]

    def curve(self, n_points: int = 200) -> dict[str, list[float]]:
        """The fitted curve over the table's range, with its interval."""
        levels = self.fit.observations.x[:, 0]
        x = np.geomspace(levels.min(), levels.max(), n_points)
        _, low, high = self.bootstrap.curve(x, self.level)
        middle = self.fit.predict(x)
        return {
            "x": x.tolist(),
            "median": middle.tolist(),
            "low": np.minimum(low, middle).tolist(),
            "high": np.maximum(high, middle).tolist(),
        }

    def to_json(self) -> dict[str, Any]:
        """The contract of ``fit.json``."""
        observations = self.fit.observations
        return {
            "law": self.fit.law.name,
            "formula": self.fit.law.formula,
            "objective": self.fit.objective_value,
            "objective_name": self.fit.objective.name,
            "x_name": observations.x_names[0],
            "loss_name": observations.loss_name,
            "n_observations": observations.n,
            "n_scales": observations.n_scales,
            "level": self.level,
            "parameters": self.parameters,
            "r2_log": self.fit.r2_log,
            "verdict": self.verdict,
            "trend": self.trend,
            "families": {name: self._family_json(name) for name, found in self.families.items() if found.fit},
            "extrapolation": self.extrapolation if "observed" in self.extrapolation else None,
            "extrapolation_reason": self.extrapolation.get("reason"),
            "noise": {
                "within_scale_log": float(np.sqrt(self.bootstrap.noise.within)),
                "misfit_log": float(np.sqrt(self.bootstrap.noise.between)),
            },
            "curve": self.curve(),
            "notes": list(self.notes),
        }

    def _family_json(self, name: str) -> dict[str, Any]:
        result = self.families[name]
        fit = result.fit
        assert fit is not None
        return {
            "objective": fit.objective_value,
            "parameters": self.family_intervals[name],
            "rmse_log": fit.rmse_log,
            "aicc": fit.aicc if np.isfinite(fit.aicc) else None,
            "backtest_rmse_log": result.backtest_rmse_log,
            "converged": fit.converged,
            "note": result.note,
        }

    def summary(self) -> str:
        """A printable table: verdict, parameters with intervals, families, the hidden largest scale, notes."""
        observations, percent = self.fit.observations, f"{100 * self.level:g} %"
        law, size = self.fit.law, f"{observations.n} rows, {observations.n_scales} scales"
        lines = [self.verdict, "", f"law {law.name}: {law.formula}    ({size})"]
        for name, part in self.parameters.items():
            interval = f"{percent} interval {part['low']:.6g} to {part['high']:.6g}"
            lines.append(f"  {name:<8} {part['estimate']:<14.8g} {interval}")
        objective = f"{self.fit.objective.name} = {self.fit.objective_value:.12g}"
        lines.append(f"  {objective}, R2 of log loss {self.fit.r2_log:.4f}")
        lines += ["", f"  {'family':<18}{'rmse log':>10}{'AICc':>11}{'backtest':>10}  note"]
        for name, result in self.families.items():
            if result.fit is None:
                lines.append(f"  {name:<18}{'-':>10}{'-':>11}{'-':>10}  {result.note}")
                continue
            backtest = "-" if result.backtest_rmse_log is None else f"{result.backtest_rmse_log:.4f}"
            aicc = f"{result.fit.aicc:.2f}" if np.isfinite(result.fit.aicc) else "-"
            lines.append(f"  {name:<18}{result.fit.rmse_log:>10.4f}{aicc:>11}{backtest:>10}  {result.note}")
        lines.append("")
        lines.append(f"  {self._extrapolation_line(percent)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _extrapolation_line(self, percent: str) -> str:
        hidden = self.extrapolation
        if "observed" not in hidden:
            return f"extrapolation not tested: {hidden['reason']}"
        baselines = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in hidden["baselines"].items())
        return (
            f"largest {self.fit.observations.x_names[0]} = {hidden['held_out_x']:g} hidden "
            f"('{hidden['law']}' refitted): observed "
            f"{hidden['observed']:.5g}, predicted {hidden['predicted']:.5g} ({percent} {hidden['low']:.5g} to "
            f"{hidden['high']:.5g}), log error {hidden['log_error']:+.4f}; baselines: {baselines}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the law on ``ax`` (a matplotlib axis; a new one by default) and return it."""
        from metascale.laws.drawing import plot_law

        return plot_law(self.to_json(), self.fit.observations, ax)


def analyse(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    replicate: Sequence[Any] | ArrayLike | None = None,
    run: Sequence[Any] | ArrayLike | None = None,
    hold_out: str | None = "largest",
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    law: str = "auto",
    x_name: str = "x",
    loss_name: str = "loss",
    log_huber_delta: float = 1e-3,
    families: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Analysis:
    """Fit a law in one scale and say how far it can be trusted.

    Args:
        x: [n] scales; loss: [n] losses; replicate: [n] seed labels, whose rows are independent runs.
        hold_out: "largest" tests the law on the largest scale, fitted without it; None skips the test.
        law: a family name, or "auto" for the simplest of the constant, the power law and the power law with an
            irreducible loss that the table supports.
        families: more families to fit and report beside it.

    Raises:
        InputError: the table cannot be fitted (see `observe`), or an unknown law.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must lie between 0 and 1")
    if hold_out not in ("largest", None):
        raise InputError(f"hold_out '{hold_out}' is unknown; allowed are: 'largest', None")
    observations = observe(x, loss, replicate=replicate, run=run, x_name=x_name, loss_name=loss_name)
    objective = LogHuber(log_huber_delta)
    wanted = ALIASES.get(law, law)
    if wanted != "auto":
        require_law(wanted)
    needed = 3 if wanted == "auto" else ONE_AXIS[wanted].n_parameters + 1
    if observations.n_scales < needed:
        what = "the simplest law with a trend, 'power'" if wanted == "auto" else f"the law '{wanted}'"
        raise InputError(
            f"the table has {observations.n_scales} distinct values of '{x_name}' in {observations.n} rows; {what}, "
            f"needs at least {needed}"
        )
    found = compare_families(observations, objective, family_names(wanted, families or ()))
    intervals, samples = _family_intervals(found, wanted, level, n_bootstrap, seed)
    trend, chosen = choose(found, intervals) if wanted == "auto" else (None, wanted)
    if trend is None:
        trend = choose(found, intervals)[0]
    fit = found[chosen].fit
    assert fit is not None
    extrapolation = _extrapolate(fit, hold_out, level, n_bootstrap, seed)
    all_notes = (*notes, *observations.notes, *table_warnings(observations), samples[chosen].how)
    all_notes += tuple(honest_notes(found, chosen, fit))
    verdict = verdict_sentence(found, intervals, trend, chosen, level, samples[chosen].noise)
    return Analysis(
        fit, samples[chosen], found, intervals, level, trend, verdict,
        extrapolation, all_notes,
    )  # fmt: skip


def fit(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    law: str = "auto",
    replicate: Sequence[Any] | ArrayLike | None = None,
    run: Sequence[Any] | ArrayLike | None = None,
    level: float = 0.95,
    n_bootstrap: int = 1000,
    seed: int = 0,
    x_name: str | Sequence[str] | None = None,
    loss_name: str = "loss",
    families: Sequence[str] | None = None,
) -> Analysis | SurfaceAnalysis:
    """Fit a law with intervals: in one scale for ``x`` [n], in model size and data for ``x`` [n, 2] or [n, 3].

    Raises:
        InputError: the table cannot be fitted; the message says why.
    """
    shape = np.shape(x)
    if len(shape) == 2 and shape[1] > 1:
        names = ("N", "D", "U")[: shape[1]] if x_name is None or isinstance(x_name, str) else tuple(x_name)
        return analyse_surface(
            x,
            loss,
            law=law,
            run=run,
            level=level,
            n_bootstrap=n_bootstrap,
            seed=seed,
            x_name=names,
            loss_name=loss_name,
        )
    name = "x" if x_name is None else x_name if isinstance(x_name, str) else x_name[0]
    flat = np.reshape(x, -1) if len(shape) == 2 else x
    return analyse(
        flat, loss, replicate=replicate, run=run, level=level, n_bootstrap=n_bootstrap, seed=seed, law=law, x_name=name,
        loss_name=loss_name, families=families,
    )  # fmt: skip


def family_names(wanted: str, more: Sequence[str]) -> tuple[str, ...]:
    """The families an analysis fits: the control, the power laws and, where asked for, others."""
    for name in more:
        require_law(ALIASES.get(name, name))
    names = [*CANDIDATES, *(ALIASES.get(name, name) for name in more)]
    if wanted != "auto":
        names.append(wanted)
    return tuple(dict.fromkeys(names))


def require_law(name: str) -> None:
    """Refuse an unknown name with the choices."""
    if name not in ONE_AXIS:
        raise InputError(f"the law '{name}' is unknown; allowed are: auto, {', '.join(ONE_AXIS)}")


def _family_intervals(
    families: dict[str, FamilyResult], wanted: str, level: float, n_bootstrap: int, seed: int
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, Bootstrap]]:
    """Bootstrap intervals for the families that may be chosen, delta-method intervals for the others."""
    intervals, samples = {}, {}
    for name, result in families.items():
        if result.fit is None:
            continue
        if name in CANDIDATES or name == wanted:
            samples[name] = bootstrap(result.fit, n_bootstrap, seed=seed)
            intervals[name] = samples[name].intervals(level)
        else:
            intervals[name] = delta_intervals(result.fit, level)
    return intervals, samples


def _extrapolate(fit: LawFit, hold_out: str | None, level: float, n_bootstrap: int, seed: int) -> dict[str, Any]:
    """The chosen law fitted without the largest scale and asked for it, beside the two baselines."""
    observations, law = fit.observations, fit.law
    if hold_out is None:
        return {"reason": "not asked for"}
    x = observations.x[:, 0]
    seen = x < x.max()
    rest = observations.keep(seen)
    if rest.n_scales < law.n_parameters + 1:
        # Too few scales are left for the chosen law; the test is then of the plain power law, and says so.
        law = ONE_AXIS["power"]
    if rest.n_scales < law.n_parameters + 1:
        return {"reason": f"without the largest scale {rest.n_scales} are left; even 'power' needs 3"}
    part = fit_law(law, rest, fit.objective, fit.weights[seen])
    sample = bootstrap(part, n_bootstrap, seed=seed)
    target = np.array([x.max()])
    observed = float(np.exp(observations.log_loss[~seen].mean()))
    predicted = float(part.predict(target)[0])
    rng = np.random.default_rng([seed, 202])
    _, low, high = sample.predictive(target, level, rng, runs=int((~seen).sum()))
    return {
        "law": law.name,
        "held_out_x": float(x.max()),
        "observed": observed,
        "predicted": predicted,
        "low": min(float(low[0]), predicted),
        "high": max(float(high[0]), predicted),
        "log_error": float(np.log(predicted / observed)),
        "baselines": {
            "last_value": float(last_value(rest.x, rest.loss, target)[0]),
            "tail_line": float(tail_line(rest.x, rest.loss, target)[0]),
        },
    }
