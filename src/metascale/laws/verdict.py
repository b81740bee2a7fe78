"""Whether there is a trend, the simplest law that describes it, and the caveats that go with it."""

from __future__ import annotations

import numpy as np

from metascale.laws.backtesting import FamilyResult
from metascale.laws.fitting import Intervals, LawFit
from metascale.laws.record import Trend
from metascale.laws.uncertainty import Noise

CANDIDATES = ("none", "power", "power_irreducible")  # what "auto" chooses from: laws with parameters to interpret
AICC_EVIDENT = 4.0  # an AICc difference beyond which the poorer law has "considerably less" support (Burnham, Anderson)
ROUNDING = 1e-12  # a spread of ln loss that is only rounding
AICC_TIE = 2.0  # within this the simpler law is kept


def choose(families: dict[str, FamilyResult], intervals: dict[str, Intervals]) -> tuple[Trend, str]:
    """Whether there is a trend ("falls", "rises", "none") and the law to report.

    There is a trend when the interval of the plain exponent leaves out 0, or when a law with a trend beats the constant
    by an evident AICc difference; there is none when the constant has the best AICc.
    """
    none, power = families["none"].fit, families["power"].fit
    assert none is not None
    assert power is not None
    alpha = intervals["power"]["alpha"]
    usable = {
        name: r.fit for name, r in families.items() if r.fit is not None and name in CANDIDATES[1:] and r.fit.converged
    }
    scores = {name: fit.aicc for name, fit in usable.items()}
    best = min(scores.values(), default=float("inf"))
    excludes_zero = alpha["low"] > 0 or alpha["high"] < 0
    evident = np.isfinite(best) and best + AICC_EVIDENT < none.aicc
    contradicted = np.isfinite(best) and none.aicc < best
    constant = float(np.ptp(none.observations.log_loss)) < ROUNDING
    if constant or contradicted or not (excludes_zero or evident):
        return "none", "none"
    trend: Trend = "falls" if alpha["estimate"] > 0 else "rises"
    for name, fit in sorted(usable.items(), key=lambda item: item[1].law.n_parameters):
        if fit.at_bound or not np.isfinite(fit.aicc):
            continue
        if fit.aicc <= best + AICC_TIE:
            return trend, name
    return trend, "power"


def verdict_sentence(
    families: dict[str, FamilyResult], intervals: dict[str, Intervals], trend: str, chosen: str,
    level: float, noise: Noise,
) -> str:  # fmt: skip
    """One sentence: whether the loss falls or rises with the scale, with the interval of the exponent.

    Without a trend it says whether nothing changes beyond the noise, or scales differ by more than replicates do but
    not in one direction.
    """
    power = families["power"].fit
    assert power is not None
    observations, alpha = power.observations, intervals["power"]["alpha"]
    x_name, loss_name = observations.x_names[0], observations.loss_name
    if chosen == "logistic":
        return _logistic_sentence(intervals["logistic"]["b"], x_name, loss_name, level)
    interval = f"{100 * level:g} % interval {alpha['low']:.4g} to {alpha['high']:.4g}"
    exponent = f"power-law exponent {alpha['estimate']:.4g}, {interval}"
    if trend == "none" and noise.has_replicates and noise.between > noise.within:
        return (
            f"No trend, but no constant either: {loss_name} differs from one {x_name} to the next by more than its "
            f"replicates do (in ln loss {noise.between**0.5:.2g} against {noise.within**0.5:.2g}), in no one direction "
            f"({exponent})."
        )
    if trend == "none":
        return f"No trend: {loss_name} does not change with {x_name} beyond its noise ({exponent})."
    if trend == "rises":
        return f"{loss_name} RISES with {x_name} ({exponent}, negative means rising): more {x_name} made it worse here."
    law, shape = intervals[chosen], ""
    if "E" in law and "alpha" in law:
        floor, slope = law["E"], law["alpha"]
        shape = (
            f"; towards an irreducible {floor['estimate']:.4g} ({floor['low']:.4g} to {floor['high']:.4g}) with "
            f"exponent {slope['estimate']:.4g} ({slope['low']:.4g} to {slope['high']:.4g})"
        )
    return f"{loss_name} falls with {x_name} ({exponent}{shape})."


def _logistic_sentence(slope: dict[str, float], x_name: str, name: str, level: float) -> str:
    interval = f"{slope['estimate']:.4g}, {100 * level:g} % interval {slope['low']:.4g} to {slope['high']:.4g}"
    if slope["low"] <= 0 <= slope["high"]:
        return f"No trend: the odds of {name} do not change with {x_name} beyond their noise (exponent {interval})."
    word = "rises" if slope["estimate"] > 0 else "falls"
    return f"{name} {word} with {x_name}: its odds go as {x_name} to the power {interval}."


def caveats(families: dict[str, FamilyResult], chosen: str, fit: LawFit, noise: Noise) -> list[str]:
    """Notes on how far the parameters of the chosen law can be trusted."""
    notes = [] if chosen == "none" else misfit_notes(noise)
    pairs = {name: _shared_errors(families[name], families[chosen]) for name in families if chosen in families}
    better = {name: pair for name, pair in pairs.items() if pair is not None and pair[0] < 0.9 * pair[1]}
    if better:
        best = min(better, key=lambda name: better[name][0] / better[name][1])
        notes.append(
            f"hidden largest scales are predicted better by '{best}' (rmse log {better[best][0]:.4f}) than by the "
            f"chosen '{chosen}' ({better[best][1]:.4f})"
        )
    n_scales = fit.observations.n_scales
    if fit.observations.n == n_scales:
        notes.append(
            "one run per scale: the spread between seeds is unknown, and the intervals reflect only the scatter about "
            "the law; with more seeds a small exponent can be distinguished from chance"
        )
    if n_scales < 5:
        notes.append(f"only {n_scales} distinct scales: too few to separate an irreducible loss from a slope")
    return notes


def _shared_errors(one: FamilyResult, other: FamilyResult) -> tuple[float, float] | None:
    """Mean backtest errors of two families over the cuts that both could be fitted to."""
    both = [(a, b) for a, b in zip(one.cut_errors, other.cut_errors, strict=False) if a is not None and b is not None]
    if not both:
        return None
    return float(np.mean([a for a, _ in both])), float(np.mean([b for _, b in both]))


MISFIT_EVIDENT = 3.0  # so many times the spread between seeds: a misfit of the law


def misfit_notes(noise: Noise) -> list[str]:
    """A warning when the scales miss the law by far more than their replicates differ."""
    if not noise.has_replicates or noise.between <= MISFIT_EVIDENT**2 * noise.within:
        return []
    return [
        f"the law does not describe this table: scales miss it by {noise.between**0.5:.3g} in ln loss, runs of one "
        f"scale differ by {noise.within**0.5:.3g}; something else varies with it, or the curve has another shape"
    ]
