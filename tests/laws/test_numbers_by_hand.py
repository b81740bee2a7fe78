"""Forecasts, hidden scales, influence, optima and candidates of laws against a few independent lines of NumPy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import t as student

from metascale.core.errors import InputError
from metascale.laws import allocation, analysis, corners
from metascale.laws.analysis import analyse
from metascale.laws.candidates import among, as_table, costs, grid, mean_at, runs_of, scales_of
from metascale.laws.contrasts import bootstrap_mean, cohen_d, holm, paired_test, rank_biserial, wilcoxon_p
from metascale.laws.corners import choose
from metascale.laws.cost import CostLaw
from metascale.laws.families import LAWS, ONE_AXIS
from metascale.laws.fitting import fit_law
from metascale.laws.forecasting import (
    SlopeModel,
    _decaying,
    _law_curve,
    _mixture,
    _relative,
    forecast,
    member_names,
    mixture_weights,
)
from metascale.laws.formula import fit_formula, robust_fit
from metascale.laws.held_out import Replicates, hold_out
from metascale.laws.irregular import leave_one_out
from metascale.laws.library import law_of
from metascale.laws.likelihood import influence
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import Observations, observe
from metascale.laws.solving import stepwise
from metascale.laws.table import Table
from metascale.laws.uncertainty import bootstrap

A = np.array


# ------------------------------------------------------------------------------------------- the slope that fades


def moments(model: SlopeModel, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Transition and process covariance of (level, slope) over a gap, by quadrature."""
    k, q = model.reversion, model.diffusion**2

    def reach(s: float) -> float:
        return (1 - math.exp(-k * s)) / k

    turn = A([[1.0, reach(gap)], [0.0, math.exp(-k * gap)]])
    parts = (lambda s: reach(s) ** 2, lambda s: reach(s) * math.exp(-k * s), lambda s: math.exp(-2 * k * s))
    ll, ls, ss = (q * quad(part, 0, gap)[0] for part in parts)
    return turn, A([[ll, ls], [ls, ss]])


def filtered(model: SlopeModel, t: Any, y: Any, widths: Any) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Kalman's filter in matrices: state, covariance, noise and the number of innovations."""
    state, cov, squares, used = A([y[0], 0.0]), 1e8 * np.eye(2), 0.0, 0
    for k, (value, width) in enumerate(zip(y, widths, strict=True)):
        if k and t[k] > t[k - 1]:
            turn, process = moments(model, t[k] - t[k - 1])
            state, cov = turn @ state, turn @ cov @ turn.T + process
        variance, innovation = cov[0, 0] + width, value - state[0]
        if variance < 1e6:
            squares, used = squares + innovation**2 / variance, used + 1
        gain = cov[:, 0] / variance
        state, cov = state + gain * innovation, cov - np.outer(gain, cov[0])
    return state, cov, math.sqrt(squares / used), used


def test_the_filter_is_kalmans_in_matrices() -> None:
    model = SlopeModel(0.6, 2.0)
    turn, process = moments(model, 1.3)
    assert model.transition(1.3) == pytest.approx((turn[1, 1], turn[0, 1], process[0, 0], process[0, 1], process[1, 1]))
    t, y = A([0.0, 0.0, 0.7, 1.5, 1.5, 2.9]), A([3.0, 3.1, 2.4, 2.0, 2.1, 1.2])
    for widths, own in ((np.ones(6), 1.0), (A([1.0, 2.0, 0.5, 1.0, 3.0, 1.0]), 0.25)):
        state, cov, noise, used = filtered(model, t, y, widths)
        found = model.fit(t, y, None if own == 1.0 else widths, own)
        assert (found.level, found.slope, found.t_end) == (pytest.approx(state[0]), pytest.approx(state[1]), 2.9)
        assert found.covariance == pytest.approx((cov[0, 0], cov[0, 1], cov[1, 1]))
        assert (found.noise, found.freedom, found.own) == (pytest.approx(noise), used, own)
        mean, deviation = found.predict(A([4.0, 2.9, 1.0]))
        turn, process = moments(model, 4.0 - 2.9)
        ahead = turn @ cov @ turn.T + process
        assert mean == pytest.approx([(turn @ state)[0], state[0], state[0]])
        assert deviation == pytest.approx(noise * np.sqrt(A([ahead[0, 0], cov[0, 0], cov[0, 0]]) + own))
    assert (used, SlopeModel()) == (4, SlopeModel(0.45, 3.0))


def test_members_are_weighed_widened_and_joined() -> None:
    """After ln 2 of growth the local slope keeps e^(-0.45 ln 2) = 2^-0.45 and a share of what is left."""
    kept = 2**-0.45
    found = mixture_weights(SlopeModel(), A([math.log(2), -1.0]), 4)
    assert found[:, 0] == pytest.approx([kept + (1 - kept) / 4, *[(1 - kept) / 4] * 3])
    assert found[:, 1] == pytest.approx([1, 0, 0, 0])
    means, deviations = A([[1.0], [5.0]]), A([[0.5], [2.0]])
    centre, low, high = _mixture(means, deviations, A([[1.0], [0.0]]), 3, 0.9)
    assert centre[0] == 1.0
    assert (low[0], high[0]) == (
        pytest.approx(1 + 0.5 * student.ppf(0.05, 3)),
        pytest.approx(1 + 0.5 * student.ppf(0.95, 3)),
    )
    weights = A([[0.25], [0.75]])
    centre, low, high = _mixture(means, deviations, weights, 3, 0.9)
    assert centre[0] == 4.0
    for end, share in ((low[0], 0.05), (high[0], 0.95)):
        assert (weights[:, 0] * student.cdf((end - means[:, 0]) / deviations[:, 0], 3)).sum() == pytest.approx(share)
    lower, wider, shared = _decaying(means, deviations, weights, A([0.15]))
    reach = 1 - math.exp(-1)
    assert lower[:, 0] == pytest.approx([m - d * reach for d in (0.0, 0.015, 0.03, 0.05) for m in (1.0, 5.0)])
    assert wider[:, 0] == pytest.approx(np.tile(np.hypot([0.5, 2.0], 0.01 * reach), 4))
    assert shared[:, 0] == pytest.approx(np.tile([0.25 / 4, 0.75 / 4], 4))
    assert _decaying(means, deviations, weights, A([-1.0]))[0][:, 0] == pytest.approx(np.tile([1.0, 5.0], 4))


def test_the_tail_counts_more_in_the_laws_of_a_forecast() -> None:
    """A straight line in logarithms with weights (x / 8)^0.4, times those of the rows."""
    x, y = A([1.0, 2.0, 4.0, 8.0]), A([0.1, -0.4, -0.6, -1.4])
    table = observe(x, np.exp(y))
    for weights in (None, A([1.0, 2.0, 3.0, 4.0])):
        given = Observations(table.x, table.loss, table.scale, table.run, weights=weights)
        slope, level = np.polyfit(np.log(x), y, 1, w=np.sqrt((x / 8) ** 0.4 * (1.0 if weights is None else weights)))
        ahead, here = _law_curve("power", given, np.log([16.0]))
        assert ahead == pytest.approx([level + slope * math.log(16)])
        assert here == pytest.approx(level + slope * np.log(x))
    assert [member_names(observe(2.0 ** np.arange(n), 1 / 2.0 ** np.arange(n))) for n in (3, 4, 5, 6)] == [
        ["power"],
        ["power_irreducible", "m3"],
        ["power_irreducible", "m3"],
        ["power_irreducible", "m3", "m4"],
    ]
    known = Observations(table.x, table.loss, table.scale, table.run, error=A([0.1, 0.2, 0.1, 0.2]), run_variance=0.03)
    variances = A([0.04, 0.07, 0.04, 0.07])
    unit = 1 / np.mean(1 / variances)
    relative, own = _relative(known)
    assert (relative, own) == (pytest.approx(variances / unit), pytest.approx(0.03 / unit))
    assert _relative(table) == (None, 1.0)


def test_a_forecast_is_the_joined_members() -> None:
    """Of three scales: the local slope, and a power law with the slope of its own residuals, at twice the end."""
    x, loss = A([1.0, 2.0, 4.0]), A([8.0, 4.5, 2.0])
    t, y = np.log(x), np.log(loss)
    found = forecast(x, loss, [8.0, 2.0], level=0.8)
    first = SlopeModel().fit(t, y)
    curve, here = _law_curve("power", observe(x, loss), np.log([8.0, 2.0]))
    rest = SlopeModel().fit(t, y - here)
    means = A([first.predict(A([math.log(8)]))[0][0], curve[0] + rest.predict(A([math.log(8)]))[0][0]])
    weights = mixture_weights(SlopeModel(), A([math.log(2)]), 2)[:, 0]
    assert math.log(found.median[0]) == pytest.approx(weights @ means)
    assert [found.weights[name][0] for name in ("local slope", "power")] == pytest.approx(weights)
    assert [found.weights[name][1] for name in ("local slope", "power")] == [0.0, 1.0]
    assert math.log(found.median[1]) == pytest.approx(curve[1])
    reach = student.ppf(0.9, 1) * np.std(y - here)
    assert math.log(found.high[1] / found.median[1]) == pytest.approx(reach)
    assert (found.noise_log, found.predictor.model, found.predictor.checkpoints) == (first.noise, SlopeModel(), False)
    assert found.baselines["last_value"].tolist() == [2.0, 2.0]


# ------------------------------------------------------------------------------------------- analyses


def test_the_largest_scale_is_hidden_from_the_law_that_was_chosen() -> None:
    """1 / x exactly: the law without 16 says 1/16; the last value is 1/8, and so is the tail's line 1/16. Of too few
    scales for a floor the plain power law is asked, and of three none."""
    x = A([1.0, 2.0, 4.0, 8.0, 16.0])
    tested = stepwise(analysis._extrapolate)

    def hidden(n: int, law: str) -> Any:
        return tested(fit_law(LAWS[law], observe(x[:n], 1 / x[:n], x_name="N"), LeastSquares()), 0.9, 20, 0)

    found = hidden(5, "power")
    assert (found.x, found.law) == (16.0, "power")
    assert (found.observed, found.predicted) == (pytest.approx(1 / 16), pytest.approx(1 / 16))
    assert found.log_error == pytest.approx(0, abs=1e-6)
    assert dict(found.baselines) == {"last_value": pytest.approx(1 / 8), "tail_line": pytest.approx(1 / 16)}
    assert [hidden(n, "power_irreducible").law for n in (4, 5)] == ["power", "power_irreducible"]
    assert hidden(3, "power") == "without the largest scale 2 are left; even 'power' needs 3"
    # Two runs at the end: their mean in logarithms, and an interval for the mean of two.
    two = observe([1.0, 2.0, 4.0, 8.0, 8.0], [8.0, 4.0, 2.0, 1.0, 1.21], replicate=[0, 0, 0, 0, 1])
    assert tested(fit_law(LAWS["power"], two, LeastSquares()), 0.9, 20, 0).observed == pytest.approx(1.1)
    few = analyse(x[:3], 1 / x[:3], n_bootstrap=5)
    assert (few.extrapolation, few.extrapolation_reason) == (None, hidden(3, "power"))
    assert analyse(x[:3], 1 / x[:3], hold_out=None, n_bootstrap=5).extrapolation_reason == "not asked for"


class Asked(Exception):
    """Ends an analysis at its families."""


def test_which_families_an_analysis_fits_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares below 1 have the logistic law too, unless they are said to be losses; known errors are for least "
    "squares."""

    def steps(table: Any, objective: Any, names: tuple[str, ...], weights: Any) -> Any:
        raise Asked(objective, names, weights, table)

    monkeypatch.setattr(analysis, "compare_families", SimpleNamespace(steps=steps))
    x, share = 2.0 ** np.arange(6), 1 / (1 + np.exp(2 - 0.5 * np.arange(6)))

    def asked(loss: Any, **options: Any) -> tuple[Any, ...]:
        with pytest.raises(Asked) as caught:
            analyse(x, loss, **options)
        return caught.value.args

    def logistic(loss: Any, **options: Any) -> bool:
        return "logistic" in asked(loss, **options)[1]

    assert logistic(share, loss_name="accuracy")
    assert not logistic(share, loss_name="loss")
    assert not logistic(share, loss_name="accuracy", higher_is_better=False)
    assert logistic(share, loss_name="loss", higher_is_better=True)
    assert not logistic(2 * share, loss_name="accuracy")
    assert logistic(share, loss_name="loss", law="logistic")
    assert not logistic(share, loss_name="accuracy", law="power")
    objective, names, weights, table = asked(1 / x)
    assert (objective, names, weights) == (LogHuber(), tuple(name for name in ONE_AXIS if name != "logistic"), None)
    assert (table.weights, table.x_names, table.loss_name) == (None, ("x",), "loss")
    noisy = asked(1 / x, noise=0.01 / x, x_name="N", loss_name="L")
    assert (noisy[0], noisy[3].x_names, noisy[3].loss_name) == (LeastSquares(), ("N",), "L")
    assert noisy[3].weights == pytest.approx(np.ones(6))
    assert asked(1 / x, objective=LeastSquares())[0] == LeastSquares()
    with pytest.raises(InputError, match=r"^weights by replicate variance need a scale with at least 2 runs$"):
        asked(1 / x, weights="replicate")


def test_each_row_left_out_in_turn() -> None:
    """Of a straight line in logarithms: least squares of the others."""
    t, y = A([0.0, 1.0, 2.0, 3.0]), A([0.1, -0.6, -0.9, -1.6])
    found = influence(fit_law(LAWS["power"], observe(np.exp(t), np.exp(y)), LeastSquares()))
    lines = [np.polyfit(np.delete(t, k), np.delete(y, k), 1) for k in range(4)]
    assert found["alpha"] == pytest.approx([-slope for slope, _ in lines])
    assert found["A"] == pytest.approx([math.exp(level) for _, level in lines])


def test_a_configuration_is_predicted_by_the_others() -> None:
    """On 3 / x^(1/2) with the fifth twice as high: the law of the others predicts it, and the others as if it were not
    there; too few for the floored law, the plain power law stands in, and too few even for that, nothing."""
    x = 2.0 ** np.arange(8)
    losses = 3 * x**-0.5 * np.exp(0.002 * np.resize([1, -1, -1, 1], 8))
    losses[4] *= 2
    found = leave_one_out([Replicates(float(a), (float(b),)) for a, b in zip(x, losses, strict=True)], "power", 0.9)
    assert sorted(found) == list(range(8))
    assert found[4].predicted == pytest.approx(3 / 4, rel=0.01)
    assert found[3].predicted == pytest.approx(3 * 8**-0.5, rel=0.01), "the irregular one was left out"
    four = [Replicates(float(a), (float(3 / a),)) for a in x[:4]]
    assert leave_one_out(four, "power_irreducible")[1].predicted == pytest.approx(3 / 2, rel=1e-4)
    assert leave_one_out(four[:3], "power") == leave_one_out(four, "no_family") == {}
    pair = [Replicates(1.0, (3.0, 3.1)), Replicates(2.0, (1.5, 1.6)), Replicates(4.0, (0.8, 0.7))]
    assert leave_one_out(pair, "power") == {}


def test_hidden_configurations_have_the_bands_of_what_is_seen() -> None:
    x = 2.0 ** np.arange(8)
    points = [Replicates(float(a), (float(1 + 2 / a), float(1.01 + 2 / a)), f"n{a:g}") for a in x]
    found = hold_out(points, share=0.25)
    assert found is not None
    assert ([point.name for point in found.seen][-1], [one.point.name for one in found.hidden]) == (
        "n32",
        ["n64", "n128"],
    )
    assert (found.level, found.series, set(found.parameters)) == (0.95, "", {"E", "A", "alpha"})
    sample = bootstrap(
        fit_law(
            LAWS["power_irreducible"],
            observe([p.x for p in found.seen for _ in p.losses], [v for p in found.seen for v in p.losses]),
            LogHuber(1e-3),
        ),
        1000,
    )
    said = sample.predict_mean(64.0, 0.95, 2, (0, 404))
    assert (
        found.hidden[0].predictions["power_irreducible"].low,
        found.hidden[0].predictions["power_irreducible"].high,
    ) == (
        pytest.approx(said.low),
        pytest.approx(said.high),
    )
    wide = hold_out(points, share=0.125)
    assert wide is not None
    assert [one.point.name for one in wide.hidden] == ["n128"]


# ------------------------------------------------------------------------------------------- formulas and forms


def test_a_robust_fit_and_a_refit_are_those_of_the_line() -> None:
    """One row in ten is off by a half and moves nothing; another table of the same law has its own parameters."""
    x = np.arange(1.0, 21.0)
    loss = 5 + 2 * x + 0.01 * np.resize([1.0, -1.0, -1.0, 1.0], 20)
    odd = loss.copy()
    odd[[4, 14]] *= 1.5
    found = robust_fit(law_of("a + b*x", ("x",)), observe(x, odd), "log")
    assert found is not None
    assert found.parameters == {"a": pytest.approx(5, abs=0.05), "b": pytest.approx(2, abs=0.01)}
    fit = fit_formula(law_of("a + b*x", ("x",)), observe(x, loss), LeastSquares())
    again = fit.refit(observe(x, 1 + 3 * x))
    assert again.parameters == {"a": pytest.approx(1, rel=1e-5), "b": pytest.approx(3, rel=1e-6)}
    assert (again.observations.loss[0], again.objective_value, again.converged) == (
        4.0,
        pytest.approx(0, abs=1e-9),
        True,
    )
    assert again.noise == pytest.approx(0, abs=1e-6)
    assert fit.objective_value == pytest.approx(0.5 * (fit.residuals**2).sum())
    assert fit.rmse == pytest.approx(math.sqrt(np.mean(fit.residuals**2)))
    assert fit.predict([[2.0]]) == pytest.approx([9.0], rel=1e-3)
    value, slopes = fit.linearised(A([[2.0]]))
    assert (value[0], slopes[0]) == (
        pytest.approx(math.log(fit.predict([[2.0]])[0])),
        pytest.approx(A([1.0, 2.0]) / fit.predict([[2.0]])[0]),
    )


def test_forms_that_are_far_off_are_left_out_and_the_rest_weigh_by_the_fourth_power() -> None:
    x = np.geomspace(1, 100, 24)
    table = observe(x, (1 + 5 / x) * np.exp(0.002 * np.resize([1.0, -1.0, -1.0, 1.0], 24)))
    laws = [law_of(text, ("x",)) for text in ("a + b/x", "a + b*x**c", "a + b*log(x)")]
    named = [corners.Formula(name, law.text, law.axes) for name, law in zip("pqr", laws, strict=True)]
    found = choose(table, named)
    assert (found.tried, found.notes) == (("p", "q", "r"), ())
    names = [fit.formula.name for fit in found.fits]
    assert set(names) == {"p", "q"}
    assert found.scores[0] == 1.0
    assert found.weights == pytest.approx(found.scores**-4.0 / (found.scores**-4.0).sum())
    assert all(len(one.errors) == len(found.fits) for one in found.corners)
    assert (found.scores <= 2.5).all()
    assert [part.weight for part in found.mixture.components] == pytest.approx(found.weights)


# ------------------------------------------------------------------------------------------- optima and candidates


def test_the_optimum_of_a_cost_of_its_own() -> None:
    """Along k N^a D^b = C the loss E + A N^-α + B D^-β is least where α b A N^-α = β a B D^-β."""
    size, data = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e8, 1e11, 5)))
    table = observe(np.column_stack([size, data]), 1 + 40 / size**0.3 + 90 / data**0.2, x_name=("N", "D"))
    fit = fit_law(LAWS["chinchilla"], table, LeastSquares())
    cost = CostLaw("hours", A([math.log(2.0), 1.2, 0.7]), np.zeros((3, 3)), 0.0, 9)
    found = allocation.optimum(fit, [1e15], n_bootstrap=20, cost=cost)
    n, d = found.n_params["estimate"][0], found.tokens["estimate"][0]
    assert 2 * n**1.2 * d**0.7 == pytest.approx(1e15, rel=1e-6)
    assert 0.3 * 0.7 * 40 * n**-0.3 == pytest.approx(0.2 * 1.2 * 90 * d**-0.2, rel=1e-3)
    assert found.exponent["estimate"] == pytest.approx(0.2 / (0.3 * 0.7 + 0.2 * 1.2), rel=1e-4)
    assert found.loss["estimate"][0] == pytest.approx(1 + 40 / n**0.3 + 90 / d**0.2, rel=1e-6)
    assert all(
        (part["low"] <= part["estimate"]).all() and (part["estimate"] <= part["high"]).all()
        for part in (found.n_params, found.tokens, found.loss)
    )
    band = allocation._band(A([[2.0], [0.0], [1.0], [2.0], [3.0], [4.0]]), 0.5)
    assert {name: float(value[0]) for name, value in band.items()} == {"estimate": 2.0, "low": 1.0, "high": 3.0}
    outside = allocation._band(A([[9.0], [0.0], [1.0]]), 0.5)
    assert outside["high"][0] == 9.0
    assert allocation._band(A([[-9.0], [0.0], [1.0]]), 0.5)["low"][0] == -9.0


def test_candidates_and_their_costs() -> None:
    pool = Table({"Model Size": [1.0, 2.0], "D": [3.0, 4.0], "one": [1.0, 1.0]}, "t")
    assert costs(pool, "6*Model_Size*D + one").tolist() == [19.0, 49.0]
    assert costs(pool, "D").tolist() == [3.0, 4.0]
    assert costs(pool, [5, 6]).tolist() == [5.0, 6.0]
    assert costs(pool, "2 + 3").tolist() == [5.0, 5.0]
    made = grid({"N": [1, 2], "D": 5})
    assert (made.names, made.column("N").tolist(), made.column("D").tolist(), made.source) == (
        ("N", "D"),
        [1, 2],
        [5, 5],
        "the candidates",
    )
    two = grid({"N": [1, 2], "D": [5, 6]})
    assert (two.column("N").tolist(), two.column("D").tolist()) == ([1, 1, 2, 2], [5, 6, 5, 6])
    assert [
        as_table(given, "target").column("N").tolist() for given in ({"N": 1}, [{"N": 1}, {"N": 2}], {"N": [3]})
    ] == [[1], [1, 2], [3]]
    assert as_table({"N": 1}, "target").source == "`target`"
    assert scales_of(two, ("D", "N"), "x").tolist() == [[5, 1], [6, 1], [5, 2], [6, 2]]
    x = A([[1.0, 2.0], [1.0, 2.0 * (1 + 1e-12)], [3.0, 4.0]])
    assert among(A([[1.0, 2.0], [1.0, 2.1]]), x).tolist() == [True, False]
    assert mean_at(x, A([1.0, 3.0, 9.0]), A([1.0, 2.0])) == 2.0
    assert math.isnan(mean_at(x, A([1.0, 3.0, 9.0]), A([1.0, 3.0])))
    places, losses, name, notes = runs_of(
        {"N": [1, 2, 3], "ppl": [math.e, 1.0, None], "seed": [0, 1, 0]}, ("N",), "ppl"
    )
    assert (places.tolist(), losses.tolist(), name, notes) == ([[1], [2]], [1.0, 0.0], "ln ppl", ())
    nothing = runs_of(None, ("N", "D"), None)
    assert (nothing[0].shape, nothing[1].shape, nothing[2:]) == ((0, 2), (0,), ("loss", ()))
    assert runs_of(None, ("N",), "y")[2] == "y"


def test_paired_statistics_by_hand() -> None:
    """Differences 1, -2, 3: ranks 1, 2 and 3, so (1 - 2 + 3) / 6; their mean is 2/3 and their deviation √(19/3). Of
    eight signs six leave a rank sum of at most 2 or at least 4."""
    d = A([1.0, -2.0, 3.0])
    assert (rank_biserial(d), cohen_d(d)) == (pytest.approx(1 / 3), pytest.approx((2 / 3) / math.sqrt(19 / 3)))
    assert wilcoxon_p(d) == pytest.approx(6 / 8)
    assert (wilcoxon_p([0.0, 0.0]), rank_biserial([0.0, 0.0]), cohen_d([2.0, 2.0])) == (1.0, 0.0, None)
    assert rank_biserial([0.0, 1.0]) == 1.0
    assert wilcoxon_p(np.arange(1.0, 6.0)) == pytest.approx(2 / 32)
    assert wilcoxon_p([1.0, 1.0, -1.0]) != wilcoxon_p([1.0, 1.1, -1.2])
    found = paired_test([3.0, 1.0, 5.0], [2.0, 3.0, 2.0], level=0.5)
    assert (found.n_tasks, found.level, found.difference.estimate, found.p_value) == (
        3,
        0.5,
        pytest.approx(2 / 3),
        pytest.approx(0.75),
    )
    assert found.difference == bootstrap_mean(d, level=0.5)
    many = np.arange(40.0) ** 1.5
    assert bootstrap_mean(many, seed=1) == bootstrap_mean(many, seed=1) != bootstrap_mean(many, seed=2)
    assert bootstrap_mean(many).low == pytest.approx(many.mean() - 1.96 * many.std() / math.sqrt(40), rel=0.03)
    few = bootstrap_mean([0.0, 1.0], level=0.9)
    assert (few.estimate, few.low, few.high) == (0.5, 0.0, 1.0)
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx((0.09, 0.04, 0.09, 0.5))
    assert holm([0.6, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()
