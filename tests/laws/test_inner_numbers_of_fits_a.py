"""Numbers inside fits, forecasts and profiles (moments, variances, weights, rounds) against a few independent lines."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

from metascale.laws import evaluation, forecasting, irregular
from metascale.laws.effects import _noise
from metascale.laws.evaluation import run_variances, weigh
from metascale.laws.families import LAWS
from metascale.laws.fitting import condition_number, fit_law
from metascale.laws.forecasting import SeriesPredictor, SlopeModel, _mixture, forecast, forecast_table, mixture_weights
from metascale.laws.formula import (
    Formula,
    default_objective,
    fit_formula,
    huber_moments,
    problem_of,
    spread,
    with_prior,
)
from metascale.laws.held_out import Prediction, Replicates
from metascale.laws.library import LIBRARY, mixture_law
from metascale.laws.likelihood import _crossings, profile, solve_held
from metascale.laws.newton import Minimum
from metascale.laws.objective import LeastSquares, LogHuber, Objective
from metascale.laws.observations import Observations, observe

A = np.array
INF = math.inf


# ------------------------------------------------------------------------------------------- formulas


def moments(k: float) -> tuple[float, float]:
    """Of standard normal residuals: mean of min(r², k²), and the share within k."""
    z = np.linspace(-10, 10, 400_001)
    weight = norm.pdf(z) * (z[1] - z[0])
    return float(weight @ np.minimum(z * z, k * k)), float(2 * norm.cdf(k) - 1)


def test_priors_count_in_units_of_the_noise() -> None:
    """At δ = 1.5 noise: precision = noise² E ψ² / E ψ' / width²; parameters without a prior have none."""
    table = observe([1.0, 2.0, 4.0, 8.0], [5.0, 4.0, 3.5, 3.2])
    law = Formula("one", "E + A/x**c", ("x",), priors={"c": (0.4, 0.25), "A": (1.5, 3.0)})
    one = with_prior(problem_of(law, table), law, LogHuber(0.3), 0.2)
    slope, inside = moments(1.5)
    assert one.prior is not None
    found = dict(zip(law.expression.parameters, zip(*one.prior, strict=True), strict=True))
    for name, (mean, width) in {"E": (0.0, INF), "A": (1.5, 3.0), "c": (0.4, 0.25)}.items():
        assert found[name] == (mean, pytest.approx(0.04 * slope / inside / width**2, rel=1e-6))
    plain = problem_of(replace(law, priors={}), table)
    assert with_prior(plain, replace(law, priors={}), LogHuber(0.3), 0.2) is plain


@pytest.mark.parametrize("runs", [None, [0, 1, 0, 2, 1, 3, 4, 4]])
@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber(0.05)], ids=["squares", "Huber"])
@pytest.mark.parametrize("last", [0.02, 0.9])
def test_the_covariance_of_a_formula_with_a_prior_and_a_fixed_parameter(
    runs: Any, objective: Objective, last: float
) -> None:
    """Of ln(E + b tanh(x / h)), E fixed and h coded: (I⁻¹ M I⁻¹) with I = JᵀJ + precision / h² / E ψ'. The noise is the
    larger of the median over 0.6745 and the 90 % quantile over 1.645, times √(n / (n - 2))."""
    x = A([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0])
    theta = {"E": 1.5, "b": 2.0, "h": 2.5}
    level = np.log(1.5 + 2 * np.tanh(x / 2.5))
    residual = A([0.04, -0.06, 0.11, -0.02, 0.07, -0.03, 0.09, last])
    table = observe(x, np.exp(level + residual), run=runs)
    law = Formula("one", "E + b*tanh(x/h)", ("x",), bounds={"E": (1.5, 1.5), "h": (0.0, INF)})
    names = law.expression.parameters
    e, b, h = (names.index(name) for name in ("E", "b", "h"))
    one = problem_of(law, table)
    precision = np.zeros(3)
    precision[[b, h]] = 3.0, 0.7
    one = replace(one, prior=(np.zeros(3), precision))
    found, noise = spread(one, A([theta[name] for name in names]), objective, table)
    size = np.abs(residual)
    wanted = math.sqrt(8 / 6) * max(1.4826 * np.median(size), np.quantile(size, 0.9) / 1.645)
    assert noise == pytest.approx(wanted)
    slope, inside = (1.0, 1.0) if isinstance(objective, LeastSquares) else moments(0.05 / noise)
    jacobian = np.column_stack([np.tanh(x / 2.5), -2 * x / 2.5**2 / np.cosh(x / 2.5) ** 2]) / np.exp(level)[:, None]
    information = jacobian.T @ jacobian + np.diag([3.0, 0.7 / 2.5**2]) / inside
    if runs is None:
        middle = information * noise**2 * slope / inside**2
    else:
        pulls = jacobian * objective.penalty(residual).slope[:, None]
        scores = [pulls[A(runs) == k].sum(0) for k in range(5)]
        middle = sum(np.outer(row, row) for row in scores) / inside**2
    inverse = np.linalg.inv(information)
    assert found[np.ix_([b, h], [b, h])] == pytest.approx(inverse @ middle @ inverse, rel=1e-5)
    assert found[e].tolist() == [0.0] * 3


def test_what_is_minimised_and_counted_by_default() -> None:
    """Of losses that are not all positive δ is a thousandth of their standard deviation; AICc of n = k + 2 rows."""
    loss = A([-1.0, 0.5, 2.0, 4.0])
    assert default_objective(loss) == LogHuber(pytest.approx(1e-3 * np.std(loss)))
    assert default_objective(loss + 2) == LogHuber(1e-3)
    t, wave = np.arange(5.0), 0.1 * A([1.0, -1, -1, 1, 0.5])
    fit = fit_formula(Formula("line", "exp(a - b*log(x))", ("x",)), observe(np.exp(t), np.exp(1 - 0.5 * t + wave)),
                      LeastSquares())  # fmt: skip
    squares = np.polyfit(t, 1 - 0.5 * t + wave, 1, full=True)[1][0]
    assert fit.aicc == pytest.approx(5 * (math.log(2 * math.pi * squares / 5) + 1) + 2 * 3 + 2 * 3 * 4 / 1)
    # Where there is no noise nothing lies outside δ; at δ = noise / 100, |r| ψ is δ nearly everywhere.
    assert huber_moments(LogHuber(0.1), 0.0) == pytest.approx((1.0, 1.0), rel=1e-12)
    assert huber_moments(LogHuber(0.01), 1.0) == pytest.approx(moments(0.01), rel=1e-3)
    law = mixture_law(3)
    assert (law.text, law.axes) == ("c + exp(t_1*r1 + t_2*r2 + t_3*r3)", ("r1", "r2", "r3"))
    assert (law.starts, law.bounds) == ({"t_1": 0.5, "t_2": 0.5, "t_3": 0.5}, {"c": (0.0, INF)})


def test_searches_begin_near_the_published_values_and_may_reach_them() -> None:
    for law in LIBRARY.values():
        for name, value in law.published.items():
            low, high = law.bounds.get(name, (-INF, INF))
            assert low < value < high, (law.name, name)
            if name in law.starts and law.name not in ("kaplan_joint", "sparsity"):
                assert law.starts[name] == pytest.approx(value, rel=0.2), (law.name, name)
        for name, value in law.starts.items():
            low, high = law.bounds.get(name, (-INF, INF))
            assert low < value < high, (law.name, name)
    kaplan = LIBRARY["kaplan_joint"]
    assert all(abs(math.log(kaplan.starts[name] / value)) < 2 for name, value in kaplan.published.items())
    sparsity = LIBRARY["sparsity"]
    assert all(abs(math.log(value / sparsity.published[name])) < 2 for name, value in sparsity.starts.items())


# ------------------------------------------------------------------------------------------- forecasts


def test_a_forecast_with_known_errors_and_a_decay_to_come() -> None:
    """Known errors: every member sees their variances; a decay to come: each member thrice lower besides."""
    x, loss = A([1.0, 2.0, 4.0]), A([8.0, 4.5, 2.0])
    t, y = np.log(x), np.log(loss)
    noise = loss * A([0.3, 0.1, 0.2])
    table = weigh(observe(x, loss, noise=noise))
    variances = np.maximum(table.run_variance + A([0.09, 0.01, 0.04]), 1e-300)
    unit = 1 / np.mean(1 / variances)
    model, ahead = SlopeModel(0.7, 2.0), A([math.log(12)])
    assert table.weights is not None
    slope, level = np.polyfit(t, y, 1, w=np.sqrt((x / 4) ** 0.4 * table.weights))
    given = (variances / unit, table.run_variance / unit)
    own = model.fit(t, y, *given)
    rest = model.fit(t, y - level - slope * t, *given)
    (first,), (first_sd,) = own.predict(ahead)
    (second,), (second_sd,) = rest.predict(ahead)
    weights = mixture_weights(model, A([math.log(3)]), 2)
    means, deviations = A([first, level + slope * math.log(12) + second]), A([first_sd, second_sd])
    found = forecast(x, loss, [12.0], 0.8, model=model, noise=noise)
    centre, low, high = _mixture(means[:, None], deviations[:, None], weights, max(own.freedom, 1), 0.8)
    assert np.log([found.median[0], found.low[0], found.high[0]]) == pytest.approx([centre[0], low[0], high[0]])
    assert found.noise_log == own.noise
    decays, reach = A([0.0, 0.015, 0.03, 0.05]), 1 - math.exp(-math.log(3) / 0.15)
    lower = (means[None] - (decays * reach)[:, None]).reshape(-1, 1)
    wider = np.tile(np.hypot(deviations, 0.01 * reach), 4)[:, None]
    parts = lower, wider, np.tile(weights / 4, (4, 1)), max(own.freedom, 1), 0.8
    found = forecast(x, loss, [12.0], 0.8, model=model, noise=noise, checkpoints=True)
    centre, low, high = _mixture(*parts)
    assert np.log([found.median[0], found.low[0], found.high[0]]) == pytest.approx([centre[0], low[0], high[0]])
    again = found.predictor.predict([12.0, 0.25, 3.0], 0.8)
    assert (again.median[0], again.low[0]) == (pytest.approx(found.median[0]), pytest.approx(found.low[0]))
    assert again.beyond.tolist() == [3.0, 4.0, 1.0]
    assert found.predict([12.0]).level == 0.8
    assert found.predict([12.0], 0.5).level == 0.5


@pytest.mark.parametrize(("names", "checkpoints"), [("x", False), ("step", True)])
def test_steps_are_checkpoints_unless_told(names: str, checkpoints: bool) -> None:
    assert forecast([1.0, 2, 4], [8.0, 4.5, 2], [8.0], x_name=names).predictor.checkpoints is checkpoints
    assert forecast([1.0, 2, 4], [8.0, 4.5, 2], [8.0], x_name=names, checkpoints=False).predictor.checkpoints is False


def test_what_a_forecast_notes_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 32 times the largest scale, of fewer than eight scales, and inside the table."""
    x = 2.0 ** np.arange(8)
    loss = 3 * x**-0.3 + 0.5
    far = [len(forecast(x, loss, [128 * by]).notes) for by in (31.9, 32.1)]
    assert far == [0, 1]
    assert "= 4109 is 32.1 times the largest scale seen" in forecast(x, loss, [128 * 32.1]).notes[0]
    assert forecast(x[1:], loss[1:], [200.0]).notes[0].startswith("only 7 distinct scales")
    assert forecast(x, loss, [200.0, 100.0]).notes == (
        "at scales inside the table the laws are averaged, without the local slope",
    )
    inside = forecast(x, loss, [200.0, 100.0]).weights
    assert [inside[name][1] for name in ("local slope", "power_irreducible", "m3", "m4")] == pytest.approx(
        [0.0, 1 / 3, 1 / 3, 1 / 3]
    )
    assert [part[0] for part in forecast(x, loss, [128.0]).weights.values()] == [1.0, 0.0, 0.0, 0.0]
    monkeypatch.setattr(forecasting, "MOST_RUNS", 4)
    table = observe(np.arange(1.0, 11.0), 5 / np.arange(1.0, 11.0))
    assert SeriesPredictor.of(table).observations.x[:, 0].tolist() == [1.0, 4.0, 7.0, 10.0]
    kept = SeriesPredictor(table, SlopeModel(0.7, 2.0), True).record()
    assert (kept.x, kept.low, kept.high) == ((1.0, 4.0, 7.0, 10.0), (1.0,), (10.0,))
    assert (kept.reversion, kept.diffusion, kept.checkpoints) == (0.7, 2.0, True)
    back = SeriesPredictor.from_record(kept)
    assert (back.model, back.checkpoints) == (SlopeModel(0.7, 2.0), True)
    assert back.observations.loss.tolist() == pytest.approx([5.0, 1.25, 5 / 7, 0.5])
    ahead = forecast_table(table, [20.0])
    assert (ahead.level, ahead.predictor.checkpoints, ahead.predictor.model) == (0.9, False, SlopeModel())


def test_the_noise_of_a_filter_and_its_reach() -> None:
    """Three runs: two fix level and slope; the third's innovation over its spread is the noise."""
    model = SlopeModel(1e-6, 0.0)
    t, y = A([0.0, 1.0, 3.0]), A([2.0, 1.5, 0.9])
    found = model.fit(t, y)
    # A line without drift: at 3 it foresees 0.5; its variance is 1 + (2/1)^2 + 3^2 = 14 rows'.
    assert (found.noise, found.freedom) == (pytest.approx(0.4 / math.sqrt(14), rel=1e-4), 1)
    slope, level = np.polyfit(t, y, 1)
    assert (found.level, found.slope) == (pytest.approx(level + 3 * slope, rel=1e-4), pytest.approx(slope, rel=1e-4))
    spread_of = np.linalg.inv(A([[3.0, 4.0], [4.0, 10.0]]))
    mean, deviation = found.predict(A([5.0]))
    ahead = A([1.0, 5.0])
    assert mean[0] == pytest.approx(level + 5 * slope, rel=1e-4)
    assert deviation[0] == pytest.approx(found.noise * math.sqrt(1 + ahead @ spread_of @ ahead), rel=1e-4)


# ------------------------------------------------------------------------------------------- errors of evaluation


def test_the_variance_of_runs_by_another_root_finder() -> None:
    residuals, error = A([0.3, -0.1, 0.2, -0.4, 0.15]), A([0.1, 0.05, 0.2, 0.1, 0.0])
    squares = A([1.0, 2.5, 4.0])
    found = run_variances(residuals, error, squares)
    for value, wanted in zip(found, squares, strict=True):
        root = brentq(lambda v, w=wanted: (residuals**2 / (v + error**2)).sum() - w, 1e-12, 10)
        assert value == pytest.approx(root, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_rows_are_weighed_in_four_rounds(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """First by 1 / ((a tenth of the median error)² + s²), then by τ² about the weighted law of the round before."""
    x = A([1.0, 2.0, 4.0, 9.0, 20.0])[:n]
    y = A([1.2, 0.7, 0.6, 0.1, -0.4])[:n]
    error = A([0.03, 0.08, 0.02, 0.05, 0.01])[:n]
    monkeypatch.setattr(evaluation, "ONE_AXIS", {"power_irreducible": LAWS["m4"], "power": LAWS["power"]})
    rounds: list[Any] = []
    real = fit_law
    monkeypatch.setattr(evaluation, "fit_law", lambda *told: rounds.append(told[2]) or real(*told))
    found = weigh(observe(x, np.exp(y), noise=error * np.exp(y)))
    assert rounds == [LeastSquares()] * (4 if n > 2 else 0)

    def weights_of(variance: float) -> np.ndarray:
        return 1 / (variance + error**2) / np.mean(1 / (variance + error**2))

    variance, weights = 0.0, weights_of((0.1 * np.median(error)) ** 2 + 1e-12)
    for _ in range(4 if n > 2 else 0):
        slope, level = np.polyfit(np.log(x), y, 1, w=np.sqrt(weights))
        square = (y - level - slope * np.log(x)) ** 2
        freedom = max(n - 2, 1)

        def excess(v: float, square: Any = square, freedom: int = freedom) -> float:
            return float((square / (v + error**2)).sum() - freedom)

        variance = brentq(excess, 0, 10, xtol=1e-16) if excess(0) > 0 else 0.0
        weights = weights_of(variance)
    assert (found.weights, found.run_variance) == (pytest.approx(weights, rel=1e-5), pytest.approx(variance, rel=1e-4))
    assert n == 2 or variance > 0


def test_the_law_about_which_noise_is_measured() -> None:
    def named(scales: Any) -> str | None:
        rows = np.asarray(scales, float)
        found = evaluation._reference(observe(rows, np.arange(1.0, len(rows) + 1)))
        return None if found is None else found.name

    assert [named(np.arange(1, n + 1)) for n in (2, 3, 4)] == [None, "power", "power_irreducible"]
    rng = np.random.default_rng(0)
    assert [named(rng.uniform(1, 2, (n, 2))) for n in (5, 6)] == [None, "chinchilla"]
    assert [named(rng.uniform(1, 2, (n, 3))) for n in (7, 8)] == [None, "data_constrained"]
    assert named(rng.uniform(1, 2, (9, 4))) is None


# ------------------------------------------------------------------------------------------- one parameter held

LINE = observe([1.0, 2.0, 4.0, 9.0, 20.0], np.exp([1.2, 0.7, 0.6, 0.1, -0.4]))


def test_a_fit_with_a_combination_held() -> None:
    """A line's least squares with 0.3 ln A + 2 α = v is a linear system with one multiplier."""
    t, y = LINE.log_x, np.stack([LINE.log_loss, LINE.log_loss[::-1]])
    weights = A([[1.0, 2.0, 0.5, 3.0, 1.5], [2.0, 1.0, 1.0, 0.5, 4.0]])
    direction, values = A([0.3, 2.0]), A([0.9, -0.4])
    design = np.column_stack([np.ones(5), -t[:, 0]])
    for many in (True, False):
        ys, ws = (y, weights) if many else (y[:1], weights[:1])
        theta, value = solve_held(LAWS["power"], t, ys, ws, LeastSquares(), direction, values, A([[1.0, 0.5]] * 2))
        for b in range(2):
            k = b if many else 0
            gram = design.T @ (design * weights[k][:, None])
            system = np.block([[gram, direction[:, None]], [direction[None], np.zeros((1, 1))]])
            right = [*(design.T @ (weights[k] * y[k])), values[b]]
            wanted = np.linalg.solve(system, right)[:2]
            assert theta[b] == pytest.approx(wanted, rel=1e-6)
            assert value[b] == pytest.approx(0.5 * weights[k] @ (y[k] - design @ wanted) ** 2)
    theta, value = solve_held(LAWS["none"], t, y[:1], weights[:1], LeastSquares(), A([2.0]), A([1.0]), A([[7.0]]))
    assert (theta.tolist(), value[0]) == ([[0.5]], pytest.approx(0.5 * weights[0] @ (y[0] - 0.5) ** 2))


@pytest.mark.parametrize(("name", "place"), [("alpha", 1), ("A", 0)])
def test_a_profile_is_that_of_a_line(name: str, place: int) -> None:
    """-2 ln likelihood rises by n ln(1 + d² / v S): S the least squares, v the parameter's entry of (XᵀX)⁻¹; it passes
    t² where d² = v S (e^(t²/n) - 1). Estimates run over four standard errors either side, 41 of them."""
    fit = fit_law(LAWS["power"], LINE, LeastSquares())
    found = profile(fit, name, 0.9)
    design = np.column_stack([np.ones(5), -LINE.log_x[:, 0]])
    theta, squares = np.linalg.lstsq(design, LINE.log_loss, rcond=None)[:2]
    entry, threshold = np.linalg.inv(design.T @ design)[place, place], student.ppf(0.95, 3) ** 2
    error = math.sqrt(squares[0] / 3 * entry)
    values = theta[place] + error * np.linspace(-4, 4, 41)
    plain = np.exp if name == "A" else np.asarray
    assert found.values == pytest.approx(plain(values), rel=1e-5)
    rise = 5 * np.log(1 + (values - theta[place]) ** 2 / (entry * squares[0]))
    assert found.deviance == pytest.approx(rise, abs=1e-5)
    away = math.sqrt(entry * squares[0] * (math.exp(threshold / 5) - 1))
    ends = theta[place] - away, theta[place] + away
    assert found.threshold == pytest.approx(threshold)
    assert (found.low, found.high) == (pytest.approx(plain(ends[0]), rel=0.01), pytest.approx(plain(ends[1]), rel=0.01))
    other = "A" if name == "alpha" else "alpha"
    rest = LINE.log_loss - np.outer(values, design[:, place])
    column = design[:, 1 - place]
    best = rest @ column / (column @ column)
    assert found.others[other] == pytest.approx(np.exp(best) if other == "A" else best, rel=1e-5)


def test_crossings_on_either_side_between_points() -> None:
    values, rise = A([0.0, 1.0, 3.0, 4.0, 6.0, 7.0]), A([9.0, 5.0, 1.0, 0.0, 3.0, 8.0])
    assert _crossings(values, rise, 4.0, 2.0) == (pytest.approx(2.5), pytest.approx(4 + 4 / 3))
    assert _crossings(values, rise, 4.0, 6.0) == (pytest.approx(0.75), pytest.approx(6.6))
    assert _crossings(values, rise, 4.0, 8.0) == (pytest.approx(0.25), INF)


# ------------------------------------------------------------------------------------------- searches of laws


def test_what_a_search_asks_for_in_turn() -> None:
    """Every start ten steps by least squares, the two best fifteen more, and with 100 δ and 10 δ, then δ to the end."""

    def ended(value: list[float], theta: Any) -> Minimum:
        n = len(value)
        return Minimum(A(theta), A(value), np.zeros((n, 3, 3)), np.zeros(n), np.arange(n), np.ones(n, bool))

    steps = fit_law.steps(LAWS["m3"], LINE, LogHuber(0.01), None, np.arange(12.0).reshape(4, 3))
    asked = [next(steps)]
    rows = asked[0].starts
    asked.append(steps.send(ended([3.0, math.nan, 1.0, 2.0], rows + 0.5)))
    asked.append(steps.send(ended([1.0, 2.0], asked[1].starts + 0.1)))
    asked.append(steps.send(ended([1.0, 2.0], asked[2].starts + 0.1)))
    asked.append(steps.send(ended([1.0, 2.0], asked[3].starts + 0.1)))
    told = [(step.objective, step.max_iterations, step.exact) for step in asked]
    assert told == [
        (LeastSquares(), 10, False),
        (LeastSquares(), 15, False),
        (LogHuber(1.0), 15, False),
        (LogHuber(0.1), 15, False),
        (LogHuber(0.01), 100, True),
    ]
    assert asked[1].starts == pytest.approx(rows[[2, 3]] + 0.5)
    assert asked[4].starts == pytest.approx(rows[[2, 3]] + 0.8)
    assert asked[0].t[:, 0] == pytest.approx(LINE.log_x[:, 0] - LINE.log_x.mean())
    high = LAWS["m3"].bounds(asked[0].t, LINE.log_loss)[1]
    with pytest.raises(StopIteration) as end:
        steps.send(ended([5.004, 5.0], [[0.0, 0.3, 0.0], [0.5, 0.2, high[2]]]))
    fit = end.value.value
    assert (fit.objective_value, fit.n_starts, fit.n_agree, fit.iterations) == (5.0, 2, 2, 1)
    assert (fit.at_bound, fit.weights.tolist(), fit.theta.tolist()) == (("gamma",), [1.0] * 5, [0.5, 0.2, high[2]])
    few = fit_law.steps(LAWS["m3"], LINE, LogHuber(0.01), None, np.zeros((2, 3)))
    request = next(few)
    assert (request.objective, request.max_iterations, request.exact) == (LogHuber(0.01), 100, True)
    with pytest.raises(StopIteration) as end:
        few.send(ended([5.006, 5.0], np.zeros((2, 3))))
    assert end.value.value.n_agree == 1
    sums = next(fit_law.steps(LAWS["power_irreducible"], LINE, None, A([1.0, 2, 3, 4, 5])))
    assert (sums.objective, len(sums.starts), sums.weights.tolist()) == (LogHuber(1e-3), 4, [[1.0, 2, 3, 4, 5]])


def test_figures_of_a_fit() -> None:
    """Weighted columns of length 1 have an angle of cosine c: the condition number is (1 + c) / (1 - c). R² is that of
    the means of scales."""
    t, w = A([[-1.0], [0.5], [2.0]]), A([1.0, 2.0, 0.5])
    one, other = np.sqrt(w), -t[:, 0] * np.sqrt(w)
    cosine = abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other)
    assert condition_number(LAWS["power"], A([0.3, 0.7]), t, w) == pytest.approx((1 + cosine) / (1 - cosine))
    assert condition_number(LAWS["power"], A([0.3, 0.7]), 0 * t, w) == INF
    assert condition_number(LAWS["power"], A([0.3, math.nan]), t, w) < INF
    x, y = A([1.0, 1.0, 3.0, 3.0, 3.0, 8.0]), A([1.2, 1.0, 0.7, 0.6, 0.2, 0.3])
    fit = fit_law(LAWS["power"], observe(x, np.exp(y), replicate=np.arange(6)), LeastSquares())
    slope, level = np.polyfit(np.log(x), y, 1)
    left = y - level - slope * np.log(x)
    groups = [[0, 1], [2, 3, 4], [5]]
    means, misfit = (A([values[rows].mean() for rows in groups]) for values in (y, left))
    assert fit.r2_log == pytest.approx(1 - (misfit @ misfit) / ((means - means.mean()) ** 2).sum())
    assert fit.rmse_log == pytest.approx(math.sqrt(np.mean(left**2)))
    assert fit.residuals == pytest.approx(left, abs=1e-9)
    assert fit.deviance == pytest.approx(6 * (math.log(2 * math.pi * np.mean(left**2)) + 1))
    assert fit.log_predict([2.0], fit.theta[None] + A([[0.1, 0.2]])).shape == (1, 1)
    assert (fit.aicc, fit.finite_aicc) == (pytest.approx(fit.deviance + 6 + 24 / 2), pytest.approx(fit.deviance + 18))


# ------------------------------------------------------------------------------------------- irregular and effects


def test_far_outside_is_1_3_reaches_of_its_side() -> None:
    """The interval reaches ln 2 up and ln 3 down from 6: far is above 6 · 2^1.3 and below 6 / 3^1.3."""
    band = Prediction(6.0, 2.0, 12.0)
    up, down = 6 * 2**1.3, 6 / 3**1.3
    answers = [irregular._far_outside(band, mean) for mean in (up * 0.999, up * 1.001, down * 1.001, down * 0.999)]
    assert answers == [False, True, False, True]


def test_a_configuration_is_asked_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def fitted(law: Any, table: Observations, objective: Any) -> Any:
        told.append((law.name, table.x[:, 0].tolist(), table.loss.tolist(), objective))
        return len(told)

    monkeypatch.setattr(irregular, "fit_law", fitted)
    monkeypatch.setattr(irregular, "bootstrap", lambda fit, n, seed: (fit, n, seed))
    monkeypatch.setattr(irregular, "Prediction", SimpleNamespace(of=lambda *args, **more: (*args, more)))
    rows = ((3, 1.0, 9.0), (0, 2.0, 8.0), (0, 2.0, 7.5), (1, 4.0, 6.0), (2, 8.0, 5.0), (4, 16.0, 4.0))
    found = dict(irregular._left_out(rows, "power_irreducible", 0.8, frozenset({2})))
    assert sorted(found) == [0, 1, 2, 3, 4]
    # Places in order: 3 scales left carry a power; where the odd one is left out of itself, 4 carry the floored law.
    assert [name for name, *_ in told] == ["power", "power", "power_irreducible", "power", "power"]
    assert told[0][1:] == ([1.0, 4.0, 16.0], [9.0, 6.0, 4.0], LogHuber(1e-3))
    assert told[2][1] == [1.0, 2.0, 2.0, 4.0, 16.0]
    assert found[0] == ((1, 200, 0), 2.0, 0.8, 2, {"stream": 303})
    assert found[3] == ((4, 200, 0), 1.0, 0.8, 1, {"stream": 303})
    assert irregular._left_out(rows[:4], "power", 0.8, frozenset()) == ()
    assert irregular.leave_one_out([Replicates(1.0, (1.0, 2.0)), Replicates(2.0, (3.0,))], "power") == {}


def test_noise_of_seeds_of_unlike_numbers() -> None:
    """Squares within the points on n - points, of means (as often as they have runs) on points - 3."""
    points = A([[0.0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
    residuals = A([0.1, 0.3, -0.1, 0.2, 0.5, -0.4, 0.6, -0.7])
    within = A([0.0, 0.2, -0.2, -0.15, 0.15])
    between = 3 * 0.1**2 + 2 * 0.35**2 + 0.4**2 + 0.6**2 + 0.7**2
    variance, freedom, noise = _noise(residuals, points)
    assert (freedom, noise) == (2, "misfit")
    assert variance == pytest.approx(between / 2)
    pooled = residuals * A([3, 3, 3, 3, 3, 0.2, 0.2, 0.2])
    variance, freedom, noise = _noise(pooled, points)
    between = 9 * (3 * 0.1**2 + 2 * 0.35**2) + 0.04 * (0.4**2 + 0.6**2 + 0.7**2)
    assert (freedom, noise) == (5, "seeds and misfit")
    assert variance == pytest.approx((9 * within @ within + between) / 5)
