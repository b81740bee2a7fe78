"""The verdict on a table: its trend, the shape that describes it, and the sentences that say so.

First the trend, by its interval (`metascale.laws.trend`). Then the shape: the plain power law unless ln loss bends
upwards significantly (a floor), or its residuals stay in long runs that a shifted or broken law does away with; none
that predicts hidden scales clearly worse than another. Then whether the law describes the table at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from metascale.laws.backtesting import FamilyResult
from metascale.laws.fitting import Intervals, LawFit
from metascale.laws.observations import Array, Observations
from metascale.laws.record import Interval, Trend, TrendResult
from metascale.laws.trend import bends_upward, drop, trend_test, turn_test
from metascale.laws.uncertainty import Bootstrap, Noise

INTERVALS = ("none", "power", "power_irreducible")  # the families that always get bootstrap intervals
WITH_A_TAIL = ("power_shifted", "broken")  # their exponent is that of the end of the table
FEWEST_FOR_A_FLOOR = 5  # distinct scales from which on an irreducible loss can be told from a slope
FEWEST_SPARE = 3  # distinct scales beyond a law's parameters, before its residuals say anything
FEWEST_CUTS = 2  # of the backtest, before it decides anything
WORSE = 2.0  # a law whose backtest error is so many times another's is not the headline
MISFIT_LEVEL = 0.01  # of the test of residuals
MISFIT_EVIDENT = 3.0  # so many times the spread between seeds: a misfit of the law
MISFIT_MATTERS = 0.01  # a misfit below this, in ln loss, is no news
MANY_SCALES = 300  # from here on the null distribution of the residual test is taken as normal
SCORES = ("acc", "accuracy", "score", "pass rate", "pass@1", "f1", "auc", "bleu", "reward", "exact match")


def is_score(name: str) -> bool:
    """Whether the name of a column says that more is better."""
    words = name.lower().replace("_", " ").replace("-", " ").replace("/", " ")
    return "loss" not in words and any(f" {score} " in f" {words} " for score in SCORES)


def trend_of(observations: Observations, level: float, share: bool = False) -> TrendResult:
    """The trend along the only scale; of a share, that of its odds."""
    t, y = observations.log_x[:, 0], observations.log_loss
    if share:
        y = y - np.log(-np.expm1(y))
    return turn_test(t, y, level) or trend_test(t, y, observations.scale, level)


def axis_trends(observations: Observations, level: float) -> dict[str, TrendResult]:
    """The trend along each of several scales, the others held fixed: exactly on a grid, by smooth curves off it."""
    found = {}
    for axis, name in enumerate(observations.x_names):
        t, y = observations.log_x[:, axis], observations.log_loss
        others = np.delete(observations.log_x, axis, 1)
        block = np.unique(others, axis=0, return_inverse=True)[1].reshape(-1)
        n_blocks = int(block.max()) + 1
        if observations.n_scales >= 2 * n_blocks:
            held = (block[:, None] == np.arange(n_blocks)).astype(float)
            levels = len(np.unique(t))
            turn = turn_test(t, y - (np.bincount(block, y) / np.bincount(block))[block], level)
            balanced = observations.n_scales == levels * n_blocks
            found[name] = (turn if balanced else None) or trend_test(t, y, observations.scale, level, held)
            continue
        scaled = (others - others.mean(0)) / np.maximum(others.std(0), 1e-12)
        held = np.column_stack([np.ones(len(t)), *(scaled**power for power in (1, 2, 3)), _products(scaled)])
        found[name] = trend_test(t, y, observations.scale, level, held)
    return found


def _products(columns: Array) -> Array:
    """[n, pairs] the products of every two columns."""
    first, second = np.triu_indices(columns.shape[1], 1)
    return np.asarray(columns[:, first] * columns[:, second])


def overall(trends: Mapping[str, TrendResult]) -> Trend:
    """One answer for several scales: what it does along those where it does anything, unless they differ."""
    answers = dict.fromkeys(one.answer for one in trends.values())
    for quiet in ("none", "undecided"):
        if len(answers) > 1:
            answers.pop(quiet, None)
    return next(iter(answers)) if len(answers) == 1 else "unknown"


def choose(families: Mapping[str, FamilyResult], trend: TrendResult) -> str:
    """The family to report; the constant where there is no trend to describe."""
    fits = {name: result.fit for name, result in families.items() if result.fit is not None}
    if trend.answer not in ("falls", "rises"):
        return "broken" if trend.answer == "not monotone" and "broken" in fits and describes(fits["broken"]) else "none"
    if "logistic" in fits:
        return "logistic"
    table, chosen = fits["power"].observations, "power"
    usable = [
        "power",
        *(name for name in ("power_irreducible", *WITH_A_TAIL) if name in fits and not _stuck(fits[name])),
    ]
    enough = "power_irreducible" in usable and table.n_scales >= FEWEST_FOR_A_FLOOR
    if enough and bends_upward(table.log_x[:, 0], table.log_loss, table.scale, trend.level):
        chosen = "power_irreducible"
    if not describes(fits[chosen]):
        better = (name for name in usable if _spare(fits[name]) >= FEWEST_SPARE and describes(fits[name]))
        chosen = next(better, chosen)
    for name in usable:
        errors = shared_errors(families[name], families[chosen])
        if not errors or errors[2] < FEWEST_CUTS or not fits[name].aicc < fits[chosen].aicc:
            continue
        if errors[1] > WORSE * errors[0] and errors[1] - errors[0] > fits[chosen].rmse_log:
            chosen = name
    return chosen


def _spare(fit: LawFit) -> int:
    return fit.observations.n_scales - fit.law.n_parameters


def _stuck(fit: LawFit) -> bool:
    """Whether its parameters mean nothing; of a law that is reported by its slope at the end, the exponent."""
    if fit.law.name in WITH_A_TAIL:
        return "alpha" in fit.at_bound
    return bool(fit.at_bound) or not fit.converged


def shared_errors(one: FamilyResult, other: FamilyResult) -> tuple[float, float, int] | None:
    """Mean backtest errors of two families over the cuts that both could be fitted to, and how many these are."""
    both = [(a, b) for a, b in zip(one.cut_errors, other.cut_errors, strict=False) if a is not None and b is not None]
    if not both:
        return None
    return float(np.mean([a for a, _ in both])), float(np.mean([b for _, b in both])), len(both)


def describes(fit: LawFit) -> bool:
    """Whether the means of the scales scatter about the law, rather than stay on one side of it for long.

    The autocorrelation of neighbouring residuals (Durbin and Watson 1950, Biometrika 37, 409), its null distribution
    simulated for this table and law. A misfit of less than a hundredth of the loss is none.
    """
    table = fit.observations
    counts = np.sqrt(np.bincount(table.scale))
    jacobian = fit.law.curve.jacobian(fit.theta[None], np.log(table.scales) - fit.t_ref)[1][0] * counts[:, None]
    basis, values, _ = np.linalg.svd(jacobian, full_matrices=False)
    basis = basis[:, values > 1e-9 * values[0]]
    left = table.scale_means(fit.residuals) * counts
    left = left - basis @ (basis.T @ left)
    n = len(left)
    if n - basis.shape[1] < FEWEST_SPARE or float(np.sqrt(np.mean((left / counts) ** 2))) < MISFIT_MATTERS:
        return True
    statistic = float(left[1:] @ left[:-1] / (left @ left))
    if n > MANY_SCALES:
        return float(ndtr(-statistic * n**0.5)) > MISFIT_LEVEL
    draws = _pure_noise(n)
    draws = draws - (draws @ basis) @ basis.T
    null = np.sum(draws[:, 1:] * draws[:, :-1], 1) / np.sum(draws**2, 1)
    return float(np.mean(null >= statistic)) > MISFIT_LEVEL


@lru_cache(maxsize=32)
def _pure_noise(n: int) -> Array:
    return np.random.default_rng(20240).standard_normal((2000, n))


def end_exponent(sample: Bootstrap, level: float) -> Interval:
    """-d ln loss / d ln x of the fitted law at the largest scale, with its interval."""
    x = float(sample.fit.observations.x.max())
    width, at = 0.01, [x * np.exp(-0.01), x]
    slopes = -np.diff(sample.log_curves(at), axis=1)[:, 0] / width
    estimate = float(-np.diff(sample.fit.log_predict(at))[0] / width)
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def sentence(
    observations: Observations, trend: TrendResult, shape: str, *, higher: bool, share: bool, noise: Noise
) -> str:  # fmt: skip
    """The verdict on one scale: what the loss does, with the interval that decided; ``shape`` is the law in words."""
    x, name = observations.x_names[0], observations.loss_name
    jagged = ""
    if noise.has_replicates and noise.between > noise.within and trend.answer in ("none", "undecided"):
        jagged = (
            f" {name} differs from one {x} to the next by more than its replicates do (in ln loss "
            f"{noise.between**0.5:.2g} against {noise.within**0.5:.2g}), in no one direction."
        )
    if trend.answer == "falls" or trend.answer == "rises":
        made_worse = (trend.answer == "rises") != higher
        verb = trend.answer.upper() if made_worse else trend.answer
        worse = f": more {x} made it worse here" if made_worse else ""
        return f"{name} {verb} with {x} ({exponent_words(trend, higher, share)}{shape}){worse}."
    if trend.answer == "not monotone":
        return f"{name} is not monotone in {x}: it {turn_words(trend, x)}{shape}."
    return flat_words(trend, x, name, higher, share) + jagged


def exponent_words(trend: TrendResult, higher: bool = False, share: bool = False) -> str:
    """The mean exponent with the interval that decided; of what is better when higher, how fast it grows."""
    assert trend.exponent is not None
    part, percent = trend.exponent, f"{100 * trend.level:g} %"
    what = (
        "its odds growing with mean exponent" if share else "growing with mean exponent" if higher else "mean exponent"
    )
    if higher:
        part = Interval(-part.estimate, -part.high, -part.low)
    return f"{what} {part.estimate:.4g}, {percent} interval {part.low:.4g} to {part.high:.4g}"


def turn_words(trend: TrendResult, x: str) -> str:
    assert trend.exponent is not None
    part, percent = trend.exponent, f"{100 * trend.level:g} %"
    interval = f"{part.estimate:.4g}, {percent} interval {part.low:.4g} to {part.high:.4g}"
    if len(trend.turns) == 1:
        return f"turns near {x} = {trend.turns[0]:.3g} (exponent at the largest {x} {interval})"
    verb = "rises" if part.estimate < 0 else "falls"
    return (
        f"{verb} from {x} = {trend.turns[0]:.3g} to {trend.turns[1]:.3g}, against the rest (exponent there {interval})"
    )


def flat_words(trend: TrendResult, x: str, name: str, higher: bool = False, share: bool = False) -> str:
    """No trend, or not decided: how large a fall (of a score, a rise) the table still allows."""
    if trend.exponent is None:
        return f"Undecided: too few rows to say what {name} does with {x}."
    words, allowed, verb = (
        exponent_words(trend, higher, share),
        allowed_words(trend, x, higher),
        "rise" if higher else "fall",
    )
    if trend.answer == "none":
        return f"No trend: {name} does not change with {x} beyond its noise ({words}: at most {allowed})."
    return f"Undecided: {name} may or may not {verb} with {x} ({words}): {allowed} is still possible."


def allowed_words(trend: TrendResult, x: str, higher: bool) -> str:
    """The largest improvement that the interval holds."""
    assert trend.exponent is not None
    gain = max(-trend.exponent.low if higher else trend.exponent.high, 0.0)
    ten, two = (factor**gain - 1 if higher else drop(gain, factor) for factor in (10.0, 2.0))
    verb = "rise" if higher else "fall"
    return f"a {verb} of {100 * ten:.3g} % per factor of 10 of {x} ({100 * two:.2g} % per doubling)"


def axis_words(x: str, trend: TrendResult, higher: bool) -> str:
    """What a loss does along one of several scales, the others held fixed."""
    if trend.exponent is None:
        return f"cannot be told apart along {x}, which moves with the other scales"
    if trend.answer == "not monotone":
        return f"is not monotone in {x}: it {turn_words(trend, x)}"
    words = exponent_words(trend, higher)
    if trend.answer == "none":
        return f"shows no trend in {x} ({words})"
    if trend.answer == "undecided":
        return f"is undecided in {x} ({words}: {allowed_words(trend, x, higher)} is still possible)"
    made_worse = (trend.answer == "rises") != higher
    return f"{trend.answer.upper() if made_worse else trend.answer} with {x} ({words})"


def shape_words(
    chosen: str, intervals: Mapping[str, Intervals], end: Interval | None, described: bool, others: list[str]
) -> str:  # fmt: skip
    """The law of the headline in words, after the exponent."""
    law, words = intervals[chosen], ""
    if end is not None:
        words = (
            f"; no single exponent: {chosen.replace('_', ' ')}, with exponent {end.estimate:.4g} ({end.low:.4g} to "
            f"{end.high:.4g}) at the end of the table"
        )
    elif "E" in law and "alpha" in law:
        floor, slope = law["E"], law["alpha"]
        words = (
            f"; towards an irreducible {floor['estimate']:.4g} ({floor['low']:.4g} to {floor['high']:.4g}) with "
            f"exponent {slope['estimate']:.4g} ({slope['low']:.4g} to {slope['high']:.4g})"
        )
    if described:
        return words
    if chosen == "logistic":
        return "; a logistic law without a floor of chance does not describe it"
    only = f"; only {' and '.join(others)} {'describes' if len(others) == 1 else 'describe'} it"
    return words + (only if others else "; no law of ours describes it")


def caveats(families: Mapping[str, FamilyResult], chosen: str, fit: LawFit, noise: Noise) -> list[str]:
    """Notes on how far the parameters of the chosen law can be trusted."""
    notes = [] if chosen == "none" else misfit_notes(noise)
    pairs = {name: shared_errors(families[name], families[chosen]) for name in families if chosen != "none"}
    better = {name: pair[1] / pair[0] for name, pair in pairs.items() if pair and 0 < pair[0] < 0.9 * pair[1]}
    if better:
        best = max(better, key=lambda name: better[name])
        notes.append(
            f"over the cuts that both were fitted to, '{best}' predicts the hidden largest scales with "
            f"{1 / better[best]:.2g} times the error of the chosen '{chosen}'"
        )
    n_scales = fit.observations.n_scales
    if fit.observations.n == n_scales:
        notes.append(
            "one run per scale: the spread between seeds is unknown, and the intervals reflect only the scatter about "
            "the law; with more seeds a small exponent can be distinguished from chance"
        )
    if n_scales < FEWEST_FOR_A_FLOOR:
        notes.append(f"only {n_scales} distinct scales: too few to separate an irreducible loss from a slope")
    return notes


def misfit_notes(noise: Noise) -> list[str]:
    """A warning when the scales miss the law by far more than their replicates differ, and by enough to matter."""
    evident = noise.has_replicates and noise.between > max(MISFIT_EVIDENT**2 * noise.within, MISFIT_MATTERS**2)
    if not evident:
        return []
    return [
        f"the law does not describe this table: scales miss it by {noise.between**0.5:.3g} in ln loss, runs of one "
        f"scale differ by {noise.within**0.5:.3g}; something else varies with it, or the curve has another shape"
    ]
