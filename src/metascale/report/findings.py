"""The question of a study and its answer in one sentence, from law.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from metascale.laws.record import Interval
from metascale.report.reading import StudyFolder, axis_label, finite, loss_column, x_column
from metascale.report.series import laws_by_series
from metascale.report.words import decimals, interval, number

Direction = Literal["falls", "rises", "none", "unknown"]
_EXPONENTS = ("alpha", "beta")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the study asked and found. ``exponent`` is α in L = A·x^-α, which some papers call β: above 0, L falls."""

    question: str
    answer: str
    title: str
    direction: Direction
    exponent: Interval | None
    level: float
    verdict: str


def find(study: StudyFolder) -> Finding:
    """The study's question and answer; without a law the answer says so and why."""
    x_name = x_column(study)
    axis = axis_label(x_name)
    plain_axis = axis.removesuffix(" N").removesuffix(" K").removesuffix(" r")
    many = "the number of training tasks" if x_name == "n_tasks" else plain_axis
    question = str(study.config.get("question") or f"Does {study.terms.test} loss follow a power law in {many}?")
    law = study.law
    if law is None:
        why = missing_law_reason(study)
        return Finding(question, f"No answer yet: {why}", "No law was fitted", "unknown", None, 0.95, "")
    laws = laws_by_series(study)
    if len(laws) > 1:
        return _several(question, laws, study.terms.test)
    loss = f"{study.terms.test} loss"
    level = finite(law.get("level")) or 0.95
    exponent = exponent_of(law)
    direction = direction_of(law)
    if direction == "none":
        noise = law.get("noise") or {}
        uneven = (finite(noise.get("misfit_log")) or 0.0) > (finite(noise.get("within_scale_log")) or 0.0)
        answer = f"No: {loss} does not change with {many} beyond its noise"
        if uneven:
            answer = f"No: {loss} goes up and down with {many} by more than seeds explain"
        title = f"{loss.capitalize()} shows no trend in {plain_axis}"
    elif direction == "unknown":
        answer, title = (
            f"The law '{law.get('law')}' was fitted, but law.json states no trend",
            f"{loss.capitalize()} and its fit",
        )
    else:
        verb = "grow" if many.endswith("parameters") else "grows"
        answer = f"{loss.capitalize()} {direction} as {many} {verb}"
        title = f"{loss.capitalize()} {direction} with more {plain_axis}"
    if exponent:
        answer += f"; exponent α = {_shown(exponent)} ({100 * level:g}\u00a0% interval)"
        title += f": α = {_shown(exponent)}"
    return Finding(question, f"{answer}.", title, direction, exponent, level, str(law.get("verdict") or ""))


def _several(question: str, laws: Mapping[str, Mapping[str, Any]], test: str) -> Finding:
    """One finding for several series: each with its own direction and exponent."""
    words, exponents = [], []
    for series, law in laws.items():
        exponent, direction = exponent_of(law), direction_of(law)
        trend = {"none": "no trend", "unknown": "trend not stated"}.get(direction, direction)
        words.append(f"{series} {trend}" + (f", α = {_shown(exponent)}" if exponent else ""))
        exponents.append(f"{series} {_shown(exponent)}" if exponent else f"{series} {trend}")
    first = next(iter(laws.values()))
    level = finite(first.get("level")) or 0.95
    directions = {direction_of(law) for law in laws.values()}
    return Finding(
        question=question,
        answer=f"{test.capitalize()} loss by series ({100 * level:g}\u00a0% intervals): {'; '.join(words)}.",
        title=f"Exponents α: {', '.join(exponents)}",
        direction=directions.pop() if len(directions) == 1 else "unknown",
        exponent=None,
        level=level,
        verdict="",
    )


def _shown(exponent: Interval) -> str:
    return f"{decimals(exponent.estimate)} {interval(exponent.low, exponent.high)}"


def exponent_of(law: Mapping[str, Any]) -> Interval | None:
    """The exponent with its interval: of the chosen law, else (a constant was chosen) of the plain power law."""
    plain_power = (law.get("families") or {}).get("power", {})
    for parameters in (law.get("parameters") or {}, plain_power.get("parameters") or {}):
        for name in _EXPONENTS:
            parts = parameters.get(name)
            values = (
                [finite(parts.get(end)) for end in ("estimate", "low", "high")] if isinstance(parts, Mapping) else []
            )
            known = [value for value in values if value is not None]
            if len(known) == 3:
                return Interval(*known)
    return None


def direction_of(law: Mapping[str, Any]) -> Direction:
    """The law room's trend; in a file without one, whether the exponent's interval leaves out zero."""
    trend = law.get("trend")
    if trend in ("falls", "rises", "none"):
        return trend
    exponent = exponent_of(law)
    if exponent is None:
        return "unknown"
    return "falls" if exponent.low > 0 else "rises" if exponent.high < 0 else "none"


def law_formula(law: Mapping[str, Any], x_name: str) -> str:
    """The fitted law with its numbers, for the families that a person reads as a formula; else its name."""
    values = {name: finite(entry.get("estimate")) for name, entry in (law.get("parameters") or {}).items()}
    symbol = "N" if x_name == "n_tasks" else "x"
    scale, exponent, floor = values.get("A"), values.get("alpha", values.get("beta")), values.get("E")
    if scale is None or exponent is None or set(values) - {"A", "alpha", "beta", "E"}:
        return str(law.get("formula") or law.get("law") or "no law")
    power = f"{number(scale)}·{symbol}^{decimals(-exponent)}"
    return f"L = {number(floor)} + {power}" if floor is not None else f"L = {power}"


def missing_law_reason(study: StudyFolder) -> str:
    """Why there is no law.json, from the counts of what was finished."""
    x_name, loss = x_column(study), loss_column(study)
    finished = [trial for trial in study.main if trial.finished and trial.number(loss) is not None]
    scales = {trial.number(x_name) for trial in finished} - {None}
    if not study.trials:
        return "no trial has been recorded (results.csv is absent or empty)."
    if not finished:
        return f"none of the {len(study.main)} {study.terms.trained} trials has finished with a loss."
    if any(x is not None and x <= 0 for x in scales):
        return (
            f"no law was fitted (law.json is absent): {axis_label(x_name)} is not positive in every trial, and a law "
            "is one of logarithms."
        )
    noun = "value" if len(scales) == 1 else "values"
    return (
        f"no law was fitted (law.json is absent); the {len(finished)} finished trials cover {len(scales)} {noun} of "
        f"{axis_label(x_name)}, and a law needs more values than it has parameters."
    )
