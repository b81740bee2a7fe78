"""Scaling laws on any table of losses: fit with intervals, forecast, backtest, compute-optimal. Never loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.laws.allocation import (
        Allocation,
        CrossCheck,
        Optimum,
        cross_check,
        envelope,
        frontier,
        isoflop,
        optimum,
        training_flops,
    )
    from metascale.laws.analysis import Analysis, analyse, fit
    from metascale.laws.backtesting import Backtest, backtest
    from metascale.laws.contrasts import PairedTest, bootstrap_mean, holm, paired_test
    from metascale.laws.curves import Smooth
    from metascale.laws.effects import slope, width_and_depth
    from metascale.laws.families import AMPLITUDE, FLOOR, LAWS, Law, box
    from metascale.laws.fitting import LawFit, fit_law
    from metascale.laws.forecasting import Forecast, forecast
    from metascale.laws.groups import Crossover, Grouped, crossover, grouped
    from metascale.laws.held_out import HeldOut, Replicates, hold_out
    from metascale.laws.irregular import leave_one_out
    from metascale.laws.likelihood import LikelihoodProfile, influence, profile
    from metascale.laws.objective import LeastSquares, LogHuber
    from metascale.laws.observations import Observations, observe
    from metascale.laws.record import Interval, LawRecord, read_laws, write_laws
    from metascale.laws.surface_fit import SurfaceAnalysis
    from metascale.laws.table import Table, read_table
    from metascale.laws.uncertainty import Bootstrap, bootstrap, replicate_weights

__all__ = [
    "AMPLITUDE",
    "FLOOR",
    "LAWS",
    "Allocation",
    "Analysis",
    "Backtest",
    "Bootstrap",
    "CrossCheck",
    "Crossover",
    "Forecast",
    "Grouped",
    "HeldOut",
    "Interval",
    "Law",
    "LawFit",
    "LawRecord",
    "LeastSquares",
    "LikelihoodProfile",
    "LogHuber",
    "Observations",
    "Optimum",
    "PairedTest",
    "Replicates",
    "Smooth",
    "SurfaceAnalysis",
    "Table",
    "analyse",
    "backtest",
    "bootstrap",
    "bootstrap_mean",
    "box",
    "cross_check",
    "crossover",
    "envelope",
    "fit",
    "fit_law",
    "forecast",
    "frontier",
    "grouped",
    "hold_out",
    "holm",
    "influence",
    "isoflop",
    "leave_one_out",
    "observe",
    "optimum",
    "paired_test",
    "profile",
    "read_laws",
    "read_table",
    "replicate_weights",
    "slope",
    "training_flops",
    "width_and_depth",
    "write_laws",
]

__getattr__, __dir__ = lazy(__name__)
