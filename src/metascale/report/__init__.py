"""Read-only views of a finished or running study: tables, plots and one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.report.section import Section
    from metascale.report.sections.contest import contest_data, plot_baselines
    from metascale.report.sections.curves import (
        adaptation_data,
        learning_curves_data,
        plot_adaptation,
        plot_learning_curves,
    )
    from metascale.report.sections.law import law_data, plot_study_law
    from metascale.report.sections.scales import accuracy_data, plot_accuracy
    from metascale.report.study import ReportStudy, open_study
    from metascale.report.write import write_report

__all__ = [
    "ReportStudy",
    "Section",
    "accuracy_data",
    "adaptation_data",
    "contest_data",
    "law_data",
    "learning_curves_data",
    "open_study",
    "plot_accuracy",
    "plot_adaptation",
    "plot_baselines",
    "plot_learning_curves",
    "plot_study_law",
    "write_report",
]

__getattr__, __dir__ = lazy(__name__)
