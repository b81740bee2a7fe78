"""Numbers of the engine that were worked out by hand: degrees of freedom, counts of parameters, priors, units."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f, t

import metascale as ms
from metascale.core.errors import InputError
from metascale.laws import LAWS, fit_law, grouped
from metascale.laws.allocation import optimum
from metascale.laws.approaches import Allocation
from metascale.laws.belief import believe
from metascale.laws.families import _broken_starts, distinct_best
from metascale.laws.forecasting import SlopeModel, forecast
from metascale.laws.newton import Local, minimise
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.uncertainty import delta_intervals, delta_prediction, residual_noise

STEP = np.array([0.0, 1.0, 2.0, 3.0])
WAVE = 0.1 * np.array([1.0, -1.0, -1.0, 1.0])  # neither a mean nor a slope: regression leaves all of it, squares 0.04


def line(slope, wave=WAVE, level=0.0):
    """Four scales, a factor e apart, on a power law of exponent ``slope``, and what no power law takes away."""
    return observe(np.exp(STEP), np.exp(level - slope * STEP + wave))


def test_the_interval_of_a_slope_from_four_scales_has_two_degrees_of_freedom():
    # Squares 0.04 over 4 - 2, Sxx = 1.5^2 + .5^2 + .5^2 + 1.5^2 = 5; Student's t with 2 is 4.302653 at 97.5 %.
    found = fit_law(LAWS["power"], line(0.5), LeastSquares())
    part = delta_intervals(found, 0.95)["alpha"]
    assert part["estimate"] == pytest.approx(0.5)
    assert part["high"] - 0.5 == pytest.approx(4.302653 * (0.02 / 5) ** 0.5, rel=1e-5)
    assert 0.5 - part["low"] == pytest.approx(4.302653 * (0.02 / 5) ** 0.5, rel=1e-5)
    # A new run at the mean of ln x: variance 0.02 (1 + 1/4); at 90 % Student's t is 2.919986.
    middle, low, high = delta_prediction(found, [np.exp(1.5)], 0.90)
    assert np.log(middle[0]) == pytest.approx(-0.75)
    assert np.log(high[0] / middle[0]) == pytest.approx(2.919986 * 0.025**0.5, rel=1e-5)
    assert np.log(middle[0] / low[0]) == pytest.approx(2.919986 * 0.025**0.5, rel=1e-5)


def test_noise_of_two_seeds_a_scale_is_pooled_over_four_and_two():
    # Seeds 0.2 apart: 4 times 2 times 0.1^2 = 0.08 over 4; scales: 2 times 0.04 over 4 - 2 = 0.04, twice 0.02 (F = 2,
    # p = .25): pooled (0.08 + 0.08) / 6. Scales three times as far: F = 18 and p = .01, so they are told apart, and the
    # variance between them is (0.36 - 0.02) / 2.
    x, seeds = np.repeat(np.exp(STEP), 2), np.tile([0.1, -0.1], 4)
    near = residual_noise(fit_law(LAWS["power"], observe(x, np.exp(np.repeat(WAVE, 2) + seeds)), LeastSquares()))
    assert (near.within, near.between, near.freedom) == (pytest.approx(0.16 / 6), 0.0, 6)
    far = residual_noise(fit_law(LAWS["power"], observe(x, np.exp(np.repeat(3 * WAVE, 2) + seeds)), LeastSquares()))
    assert (far.within, far.between, far.freedom) == (pytest.approx(0.02), pytest.approx(0.17), 2)


def test_akaikes_criterion_counts_the_noise_as_a_parameter():
    # ln loss -1, -1, 0, 1, 1: squares 4, variance 0.8; level and variance are k = 2: 2 k + 2 k (k + 1) / (5 - 3) = 10.
    x = np.arange(1.0, 6.0)
    constant = fit_law(LAWS["none"], observe(x, np.exp([-1.0, -1, 0, 1, 1])), LeastSquares())
    assert constant.aicc == pytest.approx(5 * (np.log(2 * np.pi * 0.8) + 1) + 10)
    # Of a power law k = 3: with 4 rows n is k + 1, and the correction divides by nothing.
    assert fit_law(LAWS["power"], line(0.5), LeastSquares()).aicc == np.inf


@pytest.mark.parametrize("n", [3, 4, 7])
def test_a_forecast_has_two_degrees_of_freedom_less_than_scales(n):
    # The level and the slope take two runs. At the largest scale the local slope has all the weight, so the widths at
    # two levels are as Student's t.
    x = np.exp(np.arange(float(n)))
    loss = 2 * x**-0.1 * np.exp(0.01 * np.resize([1, -1, -1], n))
    assert SlopeModel().fit(np.log(x), np.log(loss)).freedom == n - 2
    wide, narrow = (forecast(x, loss, [x[-1]], level) for level in (0.90, 0.50))
    ratio = np.log(wide.high[0] / wide.low[0]) / np.log(narrow.high[0] / narrow.low[0])
    assert ratio == pytest.approx(t.ppf(0.95, n - 2) / t.ppf(0.75, n - 2), rel=1e-6)


def test_the_p_value_of_two_slopes_is_that_of_the_analysis_of_covariance():
    # Exponents 0.5 and 0.3 with waves of opposite sign: squares 0.04 each; one exponent, 0.4, costs 5 * 0.1^2 more in
    # each: n ln(0.18 / 0.08), and F(1, 8 - 4) = 0.10 / (0.08 / 4) = 5.
    tables = {"a": line(0.5), "b": line(0.3, -WAVE)}
    x = np.concatenate([table.x[:, 0] for table in tables.values()])
    loss = np.concatenate([table.loss for table in tables.values()])
    found = grouped(x, loss, np.repeat(list(tables), 4), n_bootstrap=999)
    assert found.shared["estimate"] == pytest.approx(0.4, abs=0.005)
    assert found.statistic == pytest.approx(8 * np.log(0.18 / 0.08), rel=0.01)
    assert found.p_value == pytest.approx(f.sf(5, 1, 4), abs=0.03)
    assert found.p_value * 1000 == pytest.approx(round(found.p_value * 1000))  # (1 + as large) / (1 + drawn)
    assert found.differences["b"]["estimate"] == pytest.approx(-0.2)


def test_the_best_size_of_a_budget_by_hand():
    # E + 4 N^-1/2 + D^-1/2 under 6 N D = C: 4 N^-1/2 = D^-1/2 at the least, so N = 16 D. At C = 6e18 D is 2.5e8.
    size, data = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e7, 1e10, 5)))
    table = observe(np.column_stack([size, data]), 2 + 4 / size**0.5 + 1 / data**0.5, x_name=("N", "D"))
    best = optimum(fit_law(LAWS["chinchilla"], table, LeastSquares()), [6e18], n_bootstrap=20)
    assert best.n_params["estimate"][0] == pytest.approx(4e9, rel=1e-3)
    assert best.tokens["estimate"][0] == pytest.approx(2.5e8, rel=1e-3)
    assert best.loss["estimate"][0] == pytest.approx(2 + 2 / 2.5e8**0.5, rel=1e-8)
    assert best.exponent["estimate"] == pytest.approx(0.5, rel=1e-3)


def test_of_equal_starts_the_first_come_first():
    theta = np.arange(5.0)[:, None]
    assert distinct_best(theta, np.array([2.0, 1.0, np.nan, 1.0, 1.0]), 3)[:, 0].tolist() == [1, 3, 4]


def test_an_exponent_changes_little_with_another_scale_until_runs_say_otherwise():
    # Priors of exponents are 0.3 +- 0.2; of how one changes with the other scale, 0 +- 0.05.
    places = np.array([[1e7, 1e9], [1e7, 1e11], [1e9, 1e9], [1e9, 1e11]])
    belief = believe(("N", "D"), places[:0], np.zeros(0), places)
    form = next(one for one in belief.forms if "o_N_D" in one.law.expression.parameters)
    names = form.law.expression.parameters
    theta, spread = dict(zip(names, form.theta, strict=True)), np.sqrt(np.diag(form.covariance))
    assert theta["o_N_D"] == pytest.approx(0.0, abs=1e-9)
    assert spread[names.index("o_N_D")] == pytest.approx(0.05)
    assert theta["n_D"] == pytest.approx(0.3)
    assert spread[names.index("n_D")] == pytest.approx(0.2)


def test_parameters_of_every_law_are_in_the_units_of_the_table():
    # 3 (x / 1000)^-0.5 is 3 * 1000^0.5 x^-0.5, whatever unit the fit works in.
    x = np.geomspace(1e3, 1e6, 8)
    found = ms.fit(x, 3 * (x / 1000) ** -0.5, law="power", n_bootstrap=20)
    assert found.parameters["A"]["estimate"] == pytest.approx(3 * 1000**0.5)
    floored = fit_law(LAWS["power_irreducible"], observe(x, 2 + 3 * (x / 1000) ** -0.5), LeastSquares())
    assert floored.parameters == pytest.approx({"E": 2.0, "A": 3 * 1000**0.5, "alpha": 0.5})


@pytest.mark.parametrize(("falls", "stopped"), [(8, 16), (16, 24), (20, 32)])
def test_a_row_stops_eight_steps_after_its_value_last_fell(falls, stopped):
    """The value falls by 1 a step for ``falls`` steps, then by 1e-9, while every step promises 1/2: looks at steps 8,
    16, 24 ... compare with the look before, not with the start."""
    calls = []

    def evaluate(theta, rows):
        k = len(calls)
        calls.append(k)
        value = 100.0 - min(k, falls) - 1e-9 * max(0, k - falls)
        return Local(np.array([value]), np.ones((1, 1)), np.ones((1, 1, 1)), np.ones((1, 1)))

    found = minimise(evaluate, np.zeros((1, 1)), np.array([-1e9]), np.array([1e9]))
    assert (int(found.iterations[0]), bool(found.converged[0])) == (stopped, False)
    assert found.value[0] == pytest.approx(100 - falls - 1e-9 * (stopped - falls), abs=1e-11)


@pytest.mark.parametrize(("name", "least"), [("none", 2), ("power", 3), ("power_irreducible", 4)])
def test_a_law_needs_one_scale_more_than_parameters(name, least):
    with pytest.raises(InputError, match=rf"a law needs at least {least} distinct scales"):
        fit_law(LAWS[name], observe(np.full(5, 7.0), np.linspace(1, 2, 5)), LeastSquares())


def test_a_break_is_looked_for_inside_the_table():
    """A quarter, a half and three quarters of the way from ln x = 0 to 0.4."""
    t = np.linspace(0, 0.4, 9)[:, None]
    starts = _broken_starts(t, -0.3 * t[:, 0] - 2 * np.maximum(t[:, 0] - 0.2, 0), np.ones(9))
    places = starts[:, 4]
    assert np.abs(places[:, None] - [0.1, 0.2, 0.3]).min(1).max() < 1e-12


def test_the_summary_of_optima_has_a_line_a_level_and_a_line_a_note():
    one, two = np.array([1e18, 1e20]), np.array([1e8, 1e9])
    found = Allocation("isoflop", one, two, np.array([3.0, 2.5]), 0.5, -2.3, (0.4, 0.6), 0.95, 1, ("flat", "short"))
    title, *levels, line, first, second = found.summary().splitlines()
    assert title.split() == ["compute", "N_opt", "loss"]
    assert [row.split() for row in levels] == [["1e+18", "1e+08", "3"], ["1e+20", "1e+09", "2.5"]]
    assert line == "isoflop: N_opt grows as C^0.5000 (95 % 0.4000 to 0.6000), 2 levels used, 1 left out"
    assert (first, second) == ("note: flat", "note: short")
    assert found.predict([np.e**4])[0] == pytest.approx(np.exp(-0.3))  # -2.3 + 0.5 * 4
