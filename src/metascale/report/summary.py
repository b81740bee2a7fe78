"""summary.json: the report for programs."""

from __future__ import annotations

from typing import Any

from metascale.core.canonical import plain
from metascale.report.answer import answer
from metascale.report.comparisons import baselines_data, comparisons_data
from metascale.report.data import law_data
from metascale.report.findings import direction_of, exponent_of
from metascale.report.overview import families_data, missing_data, trials_data
from metascale.report.reading import StudyFolder
from metascale.report.sections.checks import irregular_data
from metascale.report.series import laws_by_series

FORMAT = 1


def summarise(study: StudyFolder) -> dict[str, Any]:
    """The findings, means, baselines, comparisons and gaps of a study as JSON types."""
    finding, law, trials = answer(study), law_data(study), trials_data(study)
    comparisons = comparisons_data(study)
    return plain(
        {
            "format": FORMAT,
            "study": study.name,
            "question": finding.question,
            "answer": finding.answer,
            "verdict": finding.verdict or None,
            "trend": finding.direction,
            "laws": [
                {
                    "series": series,
                    "law": one.get("law"),
                    "trend": direction_of(one),
                    "exponent": exponent_of(one),
                    "families": families_data(one),
                }
                for series, one in laws_by_series(study).items()
            ],
            "level": finding.level,
            "exponent": finding.exponent,
            "x_name": law.scales.x_name,
            "scales": law.scales.means,
            "held_out": [{"series": fit.series, **plain(fit.held_out)} for fit in law.fits if fit.held_out],
            "irregular": irregular_data(study).rows,
            "methods": baselines_data(study).rows,
            "comparisons": comparisons.rows,
            "not_compared": comparisons.notes,
            "trials": trials.counts,
            "missing": missing_data(study),
        }
    )
