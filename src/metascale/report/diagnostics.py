"""What a reader should doubt: runs that were still improving when they ended, and intervals that held too little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metascale.report.reading import StudyFolder, Trial, finite, read_study, x_column
from metascale.report.series import laws_by_series, series_of
from metascale.report.words import percent

COVERAGE_LEVEL = 0.90
"""Of the intervals that the backtest counts hits of (`metascale.laws.compare`)."""


@dataclass(frozen=True, slots=True)
class Unconverged:
    """A finished run whose best validation was its last, or that its budget ended and not its patience."""

    trial: Trial
    series: str
    x: float | None
    steps: float
    best_step: float | None
    still_improving: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """Share of hidden scale means inside the intervals of the chosen law, over the cuts of its backtest."""

    series: str
    law: str
    share: float


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Both, and of how many runs it is known whether they converged.

    Args:
        patient: whether runs were to end by patience; otherwise a budget of steps is what was asked for.
    """

    unconverged: tuple[Unconverged, ...]
    n_known: int
    patient: bool
    coverages: tuple[Coverage, ...]

    @property
    def n_improving(self) -> int:
        return sum(run.still_improving for run in self.unconverged)


def diagnostics_data(folder: Path | str | StudyFolder) -> Diagnostics:
    """What results.csv and the laws say of convergence and of the backtest's intervals."""
    study = read_study(folder)
    names, x_name = series_of(study), x_column(study)
    known = [
        trial for trial in study.main if trial.finished and trial.number("steps") and _best_step(trial) is not None
    ]
    patient = any(_ending(trial) == "converged" for trial in known) or _budget(study) == "converged"
    found = []
    for trial in known:
        steps, best = trial.number("steps") or 0.0, _best_step(trial)
        if best == steps or (patient and _ending(trial) == "max_steps"):
            found.append(Unconverged(trial, names[trial.id], trial.number(x_name), steps, best, best == steps))
    return Diagnostics(tuple(found), len(known), patient, _coverages(study))


def diagnostic_sentences(found: Diagnostics) -> tuple[str, ...]:
    """The diagnostics in words; empty where the study says nothing of them."""
    sentences = []
    if found.n_known:
        of = f"of {found.n_known} finished runs"
        by_budget = sum(not run.still_improving for run in found.unconverged)
        if found.n_improving:
            every = found.n_improving == found.n_known
            who = f"All {found.n_known} finished runs" if every else f"{found.n_improving} {of}"
            sentences.append(
                f"{who} had the lowest validation loss at the last evaluation: more steps might have lowered it "
                "further, so their loss also measures the budget."
            )
        if by_budget:
            sentences.append(
                f"{by_budget} {of} {'was' if by_budget == 1 else 'were'} ended by the most steps allowed, not by "
                "patience, some time after the lowest validation loss."
            )
        if not found.unconverged:
            ended = "ended by patience" if found.patient else "had their lowest validation loss before the end"
            sentences.append(f"All {found.n_known} finished runs {ended}.")
    for one in found.coverages:
        where = f"{one.series}: " if one.series else ""
        sentences.append(
            f"{where}In the backtest of '{one.law}', {percent(one.share, 0)} of the hidden scales lay inside the "
            f"{percent(COVERAGE_LEVEL, 0)} intervals that the smaller scales gave."
        )
    return tuple(sentences)


def _ending(trial: Trial) -> str:
    return trial.cells.get("training", "")


def _best_step(trial: Trial) -> float | None:
    return trial.number("best_step")


def _budget(study: StudyFolder) -> str:
    return str((study.config.get("base") or {}).get("budget", ""))


def _coverages(study: StudyFolder) -> tuple[Coverage, ...]:
    found = []
    for series, law in laws_by_series(study).items():
        chosen = str(law.get("law"))
        share = finite(((law.get("families") or {}).get(chosen) or {}).get("backtest_coverage"))
        if share is not None:
            found.append(Coverage(series, chosen, share))
    return tuple(found)
