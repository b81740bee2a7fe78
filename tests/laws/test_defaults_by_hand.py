"""What functions and methods of laws do when they are not told otherwise: levels, counts and tolerances."""

from __future__ import annotations

import importlib
import inspect
from functools import reduce

import pytest

DEFAULTS = {
    "allocation.Predicts.predict": "level=0.9",
    "allocation.Alone.predict": "level=0.9",
    "analysis.Analysis.predict": "level=0.9",
    "analysis.Analysis.curve": "n_points=200",
    "analysis.Analysis.picture": "name=''",
    "analysis.fit": "law='auto' level=0.95 n_bootstrap=1000 seed=0 loss_name='loss' notes=()",
    "backtesting.cuts": "min_scales=3",
    "backtesting.cuts_at": "min_scales=3",
    "belief.Belief.predict": "level=0.9",
    "curves.Curve.expand": "exact=True",
    "curves.LogSumExp.expand": "exact=True",
    "curves.LogSumExp.expand_each": "exact=True",
    "curves.Smooth.expand": "exact=True",
    "curves.Shape.expand": "exact=True",
    "curves.Shape.expand_each": "exact=True",
    "descent.minimise": "iterations=100 tolerance=1e-09",
    "descent.polish": "iterations=50",
    "descent.fit": "exact=True",
    "effects.perplexity_line": "level=0.95 x_name='x' y_name='perplexity'",
    "entry.compare": "level=0.95 seed=0",
    "forecasting.SlopeModel.fit": "own=1.0",
    "forecasting.SeriesPredictor.predict": "level=0.9",
    "forecasting.forecast_table": "level=0.9 checkpoints=False",
    "formula.robust_fit": "count=6 tolerance=1e-05",
    "held_out.Prediction.of": "stream=404",
    "metrics.ShareOptions.of": "law='auto'",
    "metrics.share_metric": "law='auto'",
    "metrics.analyse_metric": "level=0.95",
    "metrics._law_of": "level=0.95",
    "mixture.Mixture.predict": "level=0.9",
    "multi_power.Path.of": "groups=4",
    "newton.minimise": "max_iterations=100 tolerance=1e-13 stall_share=1e-05",
    "next_plan.next_runs": "level=0.9 repeats=False",
    "next_plan.follow": "share=0.15 level=0.9",
    "numbers.parse_number": "decimal_comma=False",
    "numbers.parse_numbers": "decimal_comma=False",
    "observations.observe": "x_name='x' loss_name='loss' signed=False",
    "picking.pick": "powers=(0.0, 0.5, 1.0)",
    "picture.LawPicture.of": "name=''",
    "picture.plot_law": "y_scale='log'",
    "picture.draw_band": "label='' line='-'",
    "picture.draw_hidden": "at=1.0 label=''",
    "picture.finish": "x_scale='log' y_scale='log'",
    "picture.figure_of": "y_scale='log'",
    "predicting.SavedLaw.predict": "level=0.9",
    "prediction.Predictor.predict": "level=0.9",
    "prepared.prepare": "scales=() series=() best_of=() checkpoints=False",
    "runs.usable_rows": "checkpoints=False",
    "scales.ScalesAnalysis.predict": "level=0.9",
    "scales.analyse_scales": "law='auto' level=0.95 loss_name='loss' notes=()",
    "scales.pictures": "name=''",
    "scales.pictures_of": "name=''",
    "scales.slice_along": "points=60",
    "schedule_fit.ScheduleFit.predict": "level=0.9",
    "schedule_fit.fit_multi_power": "loss_name='loss' level=0.95 notes=()",
    "schedule_fit.fit_curves": "level=0.95",
    "schedule_predictor.SchedulePredictor.predict": "level=0.9",
    "schedule_predictor.SchedulePredictor.of_rows": "level=0.9",
    "selection.best_of": "better='lower'",
    "share_analysis.ShareAnalysis.predict": "level=0.9",
    "share_analysis.ShareAnalysis.band": "n_points=60 beyond=1.0",
    "share_analysis.ShareAnalysis.plot": "beyond=4.0",
    "share_analysis.analyse_shares": "x_name='x' loss_name='accuracy' level=0.95 log=True notes=()",
    "share_backtest.backtest_shares": "level=0.9",
    "share_predictor.SharePredictor.draws": "each=500 seed=0",
    "share_predictor.SharePredictor.predict": "level=0.9",
    "simulate.simulate_table": "seeds=1 noise=0.01 evaluation=0.0 crossed=True loss_name='loss' seed=0",
    "space._Space.power": "kind='a'",
    "space._Space.terms": "but=()",
    "space._Space.product": "but=()",
    "surface_fit.SurfaceAnalysis.predict": "level=0.9",
    "surface_fit.analyse_surface": "law='auto' level=0.95 n_bootstrap=1000 seed=0 x_name=('N', 'D') loss_name='loss' "
    "notes=()",
    "surface_fit.influence_notes": "most=3",
    "table.Table.rows": "note=''",
    "trend.drop": "factor=10.0",
    "two_steps.TaskPredictor.predict": "level=0.9",
    "two_steps.TaskAnalysis.predict": "level=0.9",
    "two_steps.link_task": "loss_name='accuracy' notes=()",
    "uncertainty.Bootstrap.interval": "level=0.95",
    "uncertainty.Bootstrap.intervals": "level=0.95",
    "uncertainty.Bootstrap.curve": "level=0.95",
    "uncertainty.Bootstrap.predictive": "runs=1",
    "uncertainty.bootstrap": "n_resamples=1000 seed=0 kind='auto'",
    "uncertainty.delta_intervals": "level=0.95",
    "uncertainty.delta_prediction": "level=0.9",
    "verdict.trend_of": "share=False",
    "verdict.exponent_words": "higher=False share=False",
    "verdict.flat_words": "higher=False share=False",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_not_told_is_as_the_reference_and_the_benchmarks_have_it(name: str) -> None:
    module, *path = name.split(".")
    asked = reduce(getattr, path, importlib.import_module(f"metascale.laws.{module}"))
    told = inspect.signature(asked).parameters.values()  # type: ignore[arg-type]
    given = [f"{one.name}={one.default!r}" for one in told if isinstance(one.default, int | float | str | tuple)]
    assert " ".join(given) == DEFAULTS[name]
