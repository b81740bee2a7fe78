"""Read-only views of a finished or running study: tables, plots, statistics and one self-contained page."""

from __future__ import annotations

from metascale.report.comparisons import baselines_data, comparisons_data
from metascale.report.data import accuracy_data, law_data
from metascale.report.overview import trials_data
from metascale.report.plots import plot_accuracy, plot_baselines, plot_law
from metascale.report.sections.curves import (
    adaptation_data,
    learning_curves_data,
    plot_adaptation,
    plot_learning_curves,
)
from metascale.report.write import write_report

__all__ = [
    "accuracy_data",
    "adaptation_data",
    "baselines_data",
    "comparisons_data",
    "law_data",
    "learning_curves_data",
    "plot_accuracy",
    "plot_adaptation",
    "plot_baselines",
    "plot_law",
    "plot_learning_curves",
    "trials_data",
    "write_report",
]
