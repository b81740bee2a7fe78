"""Scaling laws on any table of losses: fit with intervals, forecast, backtest, compute-optimal. Never loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.laws.allocation import Optimum, frontier, training_flops
    from metascale.laws.analysis import Analysis, analyse
    from metascale.laws.approaches import Allocation, CrossCheck, cross_check, envelope, isoflop
    from metascale.laws.backtesting import Backtest
    from metascale.laws.candidates import grid
    from metascale.laws.contrasts import PairedTest, bootstrap_mean, holm, paired_test
    from metascale.laws.corners import Choice, CornerTest, backtest_corners, choose
    from metascale.laws.cost import CostLaw, fit_cost
    from metascale.laws.curves import Smooth
    from metascale.laws.effects import slope, width_and_depth
    from metascale.laws.entry import backtest, fit, fit_many, forecast, load_law, optimum
    from metascale.laws.families import AMPLITUDE, FLOOR, LAWS, Law, box
    from metascale.laws.fitting import LawFit, fit_law
    from metascale.laws.forecasting import Forecast
    from metascale.laws.formula import Formula, FormulaFit, fit_formula
    from metascale.laws.groups import Crossover, Grouped, crossover, grouped
    from metascale.laws.held_out import HeldOut, Replicates, hold_out
    from metascale.laws.irregular import leave_one_out
    from metascale.laws.library import LIBRARY, law_of, mixture_law
    from metascale.laws.likelihood import LikelihoodProfile, influence, profile
    from metascale.laws.mixture import Mixture
    from metascale.laws.multi_power import loss_of
    from metascale.laws.next_plan import NextRuns, Outcome, follow, next_runs, read_plan
    from metascale.laws.objective import LeastSquares, LogHuber
    from metascale.laws.observations import Observations, observe
    from metascale.laws.predicting import SavedLaw, read_predictors
    from metascale.laws.prediction import Prediction
    from metascale.laws.record import Interval, LawRecord, read_laws, write_laws
    from metascale.laws.scales import ScalesAnalysis, analyse_scales
    from metascale.laws.schedule_fit import ScheduleFit, fit_multi_power
    from metascale.laws.schedule_predictor import CurvePrediction
    from metascale.laws.schedules import Schedule
    from metascale.laws.several import ByGroup, ByMetric
    from metascale.laws.share_analysis import ShareAnalysis, analyse_shares
    from metascale.laws.share_backtest import ShareBacktest
    from metascale.laws.simulate import simulate_table
    from metascale.laws.surface_fit import SurfaceAnalysis
    from metascale.laws.table import Table, read_table
    from metascale.laws.two_steps import TaskAnalysis, TaskPrediction
    from metascale.laws.uncertainty import Bootstrap, bootstrap, replicate_weights

__all__ = [
    "AMPLITUDE",
    "FLOOR",
    "LAWS",
    "LIBRARY",
    "Allocation",
    "Analysis",
    "Backtest",
    "Bootstrap",
    "ByGroup",
    "ByMetric",
    "Choice",
    "CornerTest",
    "CostLaw",
    "CrossCheck",
    "Crossover",
    "CurvePrediction",
    "Forecast",
    "Formula",
    "FormulaFit",
    "Grouped",
    "HeldOut",
    "Interval",
    "Law",
    "LawFit",
    "LawRecord",
    "LeastSquares",
    "LikelihoodProfile",
    "LogHuber",
    "Mixture",
    "NextRuns",
    "Observations",
    "Optimum",
    "Outcome",
    "PairedTest",
    "Prediction",
    "Replicates",
    "SavedLaw",
    "ScalesAnalysis",
    "Schedule",
    "ScheduleFit",
    "ShareAnalysis",
    "ShareBacktest",
    "Smooth",
    "SurfaceAnalysis",
    "Table",
    "TaskAnalysis",
    "TaskPrediction",
    "analyse",
    "analyse_scales",
    "analyse_shares",
    "backtest",
    "backtest_corners",
    "bootstrap",
    "bootstrap_mean",
    "box",
    "choose",
    "cross_check",
    "crossover",
    "envelope",
    "fit",
    "fit_cost",
    "fit_formula",
    "fit_law",
    "fit_many",
    "fit_multi_power",
    "follow",
    "forecast",
    "frontier",
    "grid",
    "grouped",
    "hold_out",
    "holm",
    "influence",
    "isoflop",
    "law_of",
    "leave_one_out",
    "load_law",
    "loss_of",
    "mixture_law",
    "next_runs",
    "observe",
    "optimum",
    "paired_test",
    "profile",
    "read_laws",
    "read_plan",
    "read_predictors",
    "read_table",
    "replicate_weights",
    "simulate_table",
    "slope",
    "training_flops",
    "width_and_depth",
    "write_laws",
]

__getattr__, __dir__ = lazy(__name__)
