"""Whether the best learner of a study beats what it is compared with, in one sentence of its report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metascale.core.columns import (
    BASELINE,
)
from metascale.laws.contrasts import PairedTest
from metascale.report.section import (
    Finding,
    upper_first,
)
from metascale.report.sections.contest import Contest, Contestant, beside, contest_data
from metascale.report.study import (
    ReportStudy,
)
from metascale.report.words import interval, measured, p_words, percent


@dataclass(frozen=True, slots=True)
class Standing:
    """How the series stand against the baselines on the test set, in sentences: those beaten, and the others."""

    beaten: tuple[str, ...]
    others: tuple[str, ...]


def standing(study: ReportStudy, contest: Contest | None = None) -> Standing:
    """Every series' largest scale against the baselines (of ``contest``; default: the study's own).

    A baseline is ahead, or behind, where the interval of the difference paired by task leaves out 0; where they are not
    paired, only that a baseline has the better mean is said. A series that none is ahead of meets the best baseline.
    """
    found = contest or contest_data(study)
    sign = -1 if study.roles.better == "higher" else 1
    tests = {(one.first, one.second): one.test for one in found.comparisons}
    largest: dict[str, Contestant] = {}
    for row in found.rows:
        if row.series and (row.series not in largest or row.x > largest[row.series].x):
            largest[row.series] = row
    beaten, others = [], []
    for learner in largest.values():
        name = f"{learner.name} ({f'{study.loss_words} {measured(learner.loss)} {found.unit}'.rstrip()})"
        met = [row for row in beside(found.rows, learner) if row.kind == BASELINE]
        met = sorted(met, key=lambda row: sign * row.loss)
        answers = [_against(learner, other, tests.get((learner.name, other.name)), sign) for other in met]
        words = [
            f"{other.name} ({measured(other.loss)}; {_difference(tests.get((learner.name, other.name)), study)})"
            for other in met
        ]
        ahead = [told for told, answer in zip(words, answers, strict=True) if answer == "ahead"]
        if ahead:
            beaten.append(f"{upper_first(name)} is beaten by {', '.join(ahead)}.")
        elif met and answers[0] != "unknown":
            verb = "beats" if answers[0] == "behind" else "cannot be told apart from"
            others.append(f"{upper_first(name)} {verb} {words[0]}.")
    return Standing(tuple(beaten), tuple(others))


def _against(
    learner: Contestant, other: Contestant, test: PairedTest | None, sign: int
) -> Literal["ahead", "behind", "level", "unknown"]:
    """Where a baseline stands beside a learner."""
    better = sign * (learner.loss - other.loss) > 0
    if test is None:
        return "ahead" if better else "unknown"
    if test.difference.low <= 0 <= test.difference.high:
        return "level"
    return "ahead" if better else "behind"


def _difference(test: PairedTest | None, study: ReportStudy) -> str:
    if test is None:
        return f"not paired by {study.terms.unit[:-1]}"
    ends = interval(test.difference.low, test.difference.high)
    return f"difference {measured(test.difference.estimate)}, {100 * test.level:g}\u00a0% {ends}"


def contest_finding(study: ReportStudy) -> Finding:
    """The answer of a study that compares settings: the lowest loss, and the paired test against the reference."""
    found = contest_data(study)
    best_word = "highest" if study.roles.better == "higher" else "lowest"
    question = str(study.launched.get("question") or f"Which setting has the {best_word} {study.loss_words}?")
    rows = [row for row in found.shown if row.series]
    if not rows:
        return Finding(question, "No answer yet: no trial has finished with a loss.", "No result")
    best = rows[0]
    answer = f"{best_word.capitalize()} {study.loss_words}: {best.name}, {measured(best.loss)} {found.unit}".rstrip()
    if best.accuracy is not None:
        answer += f" ({percent(best.accuracy)})"
    met = [one for one in found.comparisons if one.first == best.name and one.second == found.reference]
    if met:
        difference = met[0].test.difference
        answer += (
            f"; {measured(abs(difference.estimate))} {'below' if difference.estimate < 0 else 'above'} "
            f"{found.reference} ({100 * met[0].test.level:g}\u00a0% interval of the difference "
            f"{interval(difference.low, difference.high)}, p {p_words(met[0].p_holm)} after Holm)"
        )
    elif best.name == found.reference and len(rows) > 1:
        answer += f"; the next is {rows[1].name} with {measured(rows[1].loss)}"
    return Finding(
        question,
        f"{answer}.",
        f"{best_word.capitalize()} {study.loss_words.removeprefix(f'{study.terms.test} ')}: {best.name}",
    )
