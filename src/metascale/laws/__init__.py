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
    from metascale.laws.likelihood import Profile, influence, profile
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
    "LogHuber",
    "Observations",
    "Optimum",
    "PairedTest",
    "Profile",
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AMPLITUDE": "metascale.laws.families",
        "FLOOR": "metascale.laws.families",
        "box": "metascale.laws.families",
        "Smooth": "metascale.laws.curves",
        "Allocation": "metascale.laws.allocation",
        "Analysis": "metascale.laws.analysis",
        "Backtest": "metascale.laws.backtesting",
        "Bootstrap": "metascale.laws.uncertainty",
        "CrossCheck": "metascale.laws.allocation",
        "Crossover": "metascale.laws.groups",
        "Forecast": "metascale.laws.forecasting",
        "Grouped": "metascale.laws.groups",
        "HeldOut": "metascale.laws.held_out",
        "Interval": "metascale.laws.record",
        "LAWS": "metascale.laws.families",
        "Law": "metascale.laws.families",
        "LawFit": "metascale.laws.fitting",
        "LawRecord": "metascale.laws.record",
        "LeastSquares": "metascale.laws.objective",
        "LogHuber": "metascale.laws.objective",
        "Observations": "metascale.laws.observations",
        "Optimum": "metascale.laws.allocation",
        "PairedTest": "metascale.laws.contrasts",
        "Profile": "metascale.laws.likelihood",
        "Replicates": "metascale.laws.held_out",
        "SurfaceAnalysis": "metascale.laws.surface_fit",
        "Table": "metascale.laws.table",
        "analyse": "metascale.laws.analysis",
        "backtest": "metascale.laws.backtesting",
        "bootstrap": "metascale.laws.uncertainty",
        "bootstrap_mean": "metascale.laws.contrasts",
        "cross_check": "metascale.laws.allocation",
        "crossover": "metascale.laws.groups",
        "envelope": "metascale.laws.allocation",
        "fit": "metascale.laws.analysis",
        "fit_law": "metascale.laws.fitting",
        "forecast": "metascale.laws.forecasting",
        "frontier": "metascale.laws.allocation",
        "grouped": "metascale.laws.groups",
        "hold_out": "metascale.laws.held_out",
        "holm": "metascale.laws.contrasts",
        "influence": "metascale.laws.likelihood",
        "isoflop": "metascale.laws.allocation",
        "leave_one_out": "metascale.laws.irregular",
        "observe": "metascale.laws.observations",
        "optimum": "metascale.laws.allocation",
        "paired_test": "metascale.laws.contrasts",
        "profile": "metascale.laws.likelihood",
        "read_laws": "metascale.laws.record",
        "read_table": "metascale.laws.table",
        "replicate_weights": "metascale.laws.uncertainty",
        "slope": "metascale.laws.effects",
        "training_flops": "metascale.laws.allocation",
        "width_and_depth": "metascale.laws.effects",
        "write_laws": "metascale.laws.record",
    },
)
