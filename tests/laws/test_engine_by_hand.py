"""Parts of the engine of laws in several scales, of turns, and of schedules, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

import metascale as ms
from metascale.core.errors import CorruptFile, InputError
from metascale.laws import schedule_fit
from metascale.laws.corners import _thinned, calibrate, scores_of
from metascale.laws.expression import parse
from metascale.laws.formula import fit_formula, huber_moments
from metascale.laws.library import law_of
from metascale.laws.mixture import (
    UNSURE,
    Component,
    Mixture,
    distances,
    quantiles,
    sites_of,
    tame,
    weighted_median,
    weights_at,
    widen,
)
from metascale.laws.multi_power import NAMES, Path, curve_of
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import observe
from metascale.laws.schedule_fit import DISCREPANCY, MOST_ROWS, Run, fit_multi_power, runs_of
from metascale.laws.schedules import Schedule
from metascale.laws.share_analysis import analyse_shares
from metascale.laws.space import _Space, forms, repeated
from metascale.laws.table import read_table
from metascale.laws.trend import TURN_SHARE, turn_test

A = np.array


# ------------------------------------------------------------------------------------------- turns


def test_a_parabola_turns_at_its_vertex_with_students_interval():
    """u^2 - u over five scales a factor e apart, and a cubic wave of e = 1e-3 (squares 10 e^2 over 5 - 3): the slope at
    either end has variance s^2 (1/10 + 16/14), since t about its middle has squares 10 and t^2 - 2 has 14."""
    t, e = np.arange(5.0), 1e-3
    y = 2 + (t / 4) ** 2 - t / 4 + e * A([-1, 2, 0, -2, 1])
    found = turn_test(t, y, 0.95)
    share = TURN_SHARE * 0.05
    reach = student.ppf(1 - share / 2, 2) * (5 * e**2 * (1 / 10 + 16 / 14)) ** 0.5
    assert found.answer == "not monotone"
    assert found.exponent.estimate == pytest.approx(-0.25)  # ln loss grows by 1/4 a factor of e at the end
    assert found.exponent.high - found.exponent.estimate == pytest.approx(reach)
    assert found.exponent.estimate - found.exponent.low == pytest.approx(reach)
    assert (found.level, found.turns) == (pytest.approx(1 - share), (pytest.approx(np.exp(2)),))
    assert turn_test(t, 2 - t / 4, 0.95) is None
    assert turn_test(t[:3], A([2, 1, 2.0]), 0.95) is None


def test_the_level_of_a_fit_is_that_of_a_share():
    x = np.geomspace(1e6, 1e9, 7)
    seen = 1 / (1 + np.exp(4 - 0.3 * np.log(x / 1e6) + A([0.1, -0.1, 0.2, -0.1, 0, 0.1, -0.2])))
    for level in (0.5, 0.95):
        found = ms.fit({"N": x, "acc": seen}, x="N", y="acc", chance=0.0, level=level)
        assert found.level == level
        assert found.parameters == analyse_shares(x, seen, chance=0.0, level=level, loss_name="acc").parameters


# ------------------------------------------------------------------------------------- joined forms


def test_the_weighted_median_is_the_first_that_half_of_the_weight_reaches():
    values, weight = A([[3.0, 3.0], [1.0, 1.0], [2.0, np.inf]]), A([[0.5, 0.25], [0.25, 0.25], [0.25, 0.5]])
    assert weighted_median(values, weight).tolist() == [2.0, 3.0]
    assert weighted_median(A([[np.inf]]), A([[1.0]])).tolist() == [0.0]
    assert tame(A([[1.0], [np.nan], [1e9]]), A([[0.6], [0.2], [0.2]]))[0] == 1.0
    assert np.isfinite(tame(A([[1.0], [np.nan], [-1e9]]), A([[0.6], [0.2], [0.2]]))).all()


def test_a_form_that_does_not_know_has_less_weight():
    """Noises 1, 2, 3: the median 2. A variance of `UNSURE` times 2^2 halves a weight: 1/2 against 1/2 of 1/2."""
    found = weights_at(A([0.5, 0.5]), A([[0.0], [4 * UNSURE]]), A([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found[:, 0], [2 / 3, 1 / 3])


def test_spread_noise_and_discrepancy_add_up_in_squares():
    drawn, deviation = widen(
        A([[1.0], [3.0]]), A([[0.16], [0.0]]), A([[0.75], [0.25]]), noise=0.3, growth=0.2, spread=0.5, distance=A([2.0])
    )
    np.testing.assert_allclose(drawn, [[1.0], [2.0]])  # towards the median 1
    np.testing.assert_allclose(deviation, np.sqrt([[0.25 * 0.16 + 0.09 + 0.16], [0.09 + 0.16]]))


def test_quantiles_of_a_mixture_are_those_of_its_distribution():
    shares = (0.05, 0.5, 0.95)
    one = quantiles(A([[2.0]]), A([[3.0]]), A([[1.0]]), shares)
    np.testing.assert_allclose(one[:, 0], norm.ppf(shares, 2, 3), rtol=1e-6)
    two = quantiles(A([[0.0], [100.0]]), A([[1.0], [1.0]]), A([[0.9], [0.1]]), (0.45, 0.95))
    np.testing.assert_allclose(two[:, 0], [norm.ppf(0.5), 100.0], atol=1e-6)  # halves of the two parts
    step = quantiles(A([[1.0]]), A([[0.0]]), A([[1.0]]), shares)
    np.testing.assert_allclose(step[:, 0], 1.0, atol=1e-9)


def test_distances_are_to_the_nearest_of_at_most_so_many_sites():
    sites = sites_of(np.exp(A([[0.0, 0.0], [10.0, 0.0], [0.0, 0.0]])))
    assert len(sites) == 2
    np.testing.assert_allclose(distances(A([[3.0, 4.0], [10.0, 1.0]]), sites), [5.0, 1.0])
    many = np.exp(np.linspace(0, 1, 1201))[:, None]
    thin = sites_of(many)
    assert (len(thin), thin[0, 0], thin[-1, 0]) == (400, 0.0, pytest.approx(1.0))


def mixture(link="log"):
    part = Component("form", parse("a + b*x", ("x",)), 1.0, A([1.0, 2.0]), np.zeros((2, 2)), 0.1)
    return Mixture((part,), link, ("x",), "loss", 0.1, 0.2, 1.0, A([1.0]), A([4.0]), np.log(A([[1.0], [4.0]])))


def test_a_mixture_predicts_its_form_and_is_stored_whole():
    """1 + 2 * 8 = 17 at twice the table's end: noise 0.1 and 0.2 ln 2 of discrepancy, in ln loss."""
    found = mixture().predict([8.0], 0.8)
    deviation = np.hypot(0.1, 0.2 * np.log(2))
    assert found.median[0] == pytest.approx(17)
    assert np.log(found.high[0] / 17) == pytest.approx(norm.ppf(0.9) * deviation)
    assert np.log(17 / found.low[0]) == pytest.approx(norm.ppf(0.9) * deviation)
    assert (found.beyond[0], found.by, found.level) == (2.0, "form", 0.8)
    assert mixture().predict([0.5]).beyond[0] == 2.0
    assert mixture().predict([2.0]).beyond[0] == 1.0
    plain = mixture("identity").predict([4.0], 0.8)
    assert plain.high[0] - 9 == pytest.approx(norm.ppf(0.9) * 0.1)
    again = Mixture.of(mixture().record())
    assert again.predict([8.0], 0.8).rows() == found.rows()
    two = replace(mixture(), components=(replace(mixture().components[0], weight=0.25, name="less"),
                                         replace(mixture().components[0], weight=0.75)))  # fmt: skip
    assert two.by == "2 forms together, chiefly form (weight 0.75)"
    for level in (0.0, 1.0):
        with pytest.raises(InputError, match=f"^level is {level}; it must lie between 0 and 1$") as caught:
            mixture().predict([8.0], level)
        assert (caught.value.field, caught.value.value) == ("level", level)
    for x in (0.0, np.inf):
        with pytest.raises(InputError, match=r"^scales must be positive finite numbers$") as caught:
            mixture().predict([x])
        assert caught.value.field == "x"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"link": "logit"}, "no forms, no sites or an unknown link"),
        ({"components": ()}, "no forms, no sites or an unknown link"),
        ({"sites": ((1.0, 2.0),)}, "no forms, no sites or an unknown link"),
        ("parameters", "the parameters of 'form' do not belong to its formula"),
        ("covariance", "the parameters of 'form' do not belong to its formula"),
    ],
)
def test_a_damaged_mixture_is_told(change, words):
    record = mixture().record()
    if change == "parameters":
        change = {"components": (replace(record.components[0], parameters=("a", "c")),)}
    elif change == "covariance":
        change = {"components": (replace(record.components[0], covariance=((0.0,),)),)}
    with pytest.raises(CorruptFile, match=f"^the predictor of the law is damaged: {words}$"):
        Mixture.of(replace(record, **change))


def test_without_corners_nothing_is_doubted():
    assert calibrate([], A([1.0])) == (0.0, 1.0)
    assert scores_of([], 3).tolist() == [1.0] * 3


def test_a_large_table_is_thinned_evenly_along_its_scales():
    x = np.random.default_rng(0).permutation(np.geomspace(1, 1e6, 101))
    table = observe(x, 2 + 1 / x)
    kept, notes = _thinned(table, 11)
    np.testing.assert_allclose(np.log10(kept.x[:, 0]), np.linspace(0, 6, 11), atol=1e-9)
    assert notes == ("forms are chosen on 11 of the 101 rows, evenly along their scales",)
    assert _thinned(table, 101) == (table, ())


def test_repeated_data_are_a_part_that_is_never_above_the_whole():
    n = np.geomspace(1, 8, 7)
    unique = np.minimum(n, 3.0)
    assert repeated(np.column_stack([n, unique])) == [(0, 1)]
    assert repeated(np.column_stack([unique, n])) == [(1, 0)]
    assert repeated(np.column_stack([n, n])) == []
    assert repeated(np.column_stack([n, 9 * unique])) == []


def test_forms_of_repeated_data_saturate():
    """D' = U (1 + R (1 - exp(-(D/U - 1)/R))) in units of the mean of ln U; a third scale may overfit with repeats."""
    x = A([[8.0, 2.0, 5.0], [4.0, 4.0, 7.0], [6.0, 3.0, 2.0]])
    space = _Space(("D", "U", "N"), x, "log")
    found = space.repeats(0, 1)
    assert list(found) == ["floor + powers, D repeating U", "floor + powers, D repeating U, N overfitting"]
    values = {"E": 1.5, "b": 0.7, "R": 2.0, "n_U": 0.4, "c_N": 0.9, "a_N": 0.3, "h": 0.25}
    d, u, n = x.T
    centre = np.exp(np.log(x).mean(0))
    times = d / u - 1
    data = 0.7 * (u / centre[1] * (1 + 2 * (1 - np.exp(-times / 2)))) ** -0.4
    size = 0.9 * (n / centre[2]) ** -0.3
    for (name, text), expected in zip(
        found.items(), (1.5 + size + data, 1.5 + size * np.exp(0.25 * times / 2) + data), strict=True
    ):
        expression = parse(text, ("D", "U", "N"))
        theta = A([[values[parameter] for parameter in expression.parameters]])
        np.testing.assert_allclose(expression.bind(x).value(theta)[0], expected, rtol=1e-5, err_msg=name)
    rows = np.array([[d, min(d, 3.0)] for d in np.geomspace(1, 8, 8)])
    assert "floor + powers, D repeating U" in forms(("D", "U"), rows, "log")
    law = space.formula("name", "E + c_N*(N/2)**(-a_N) + b*(D/U)**(-n_U)")
    assert law.bounds["c_N"] == law.bounds["b"] == law.bounds["E"] == (0.0, np.inf)
    assert (set(law.priors), law.priors["a_N"], law.priors["n_U"]) == ({"a_N", "n_U"}, (0.3, 0.5), (0.3, 0.5))


def test_a_formulas_criterion_counts_the_noise_as_a_parameter():
    """Six rows with 0.1 (1, -1, 0, 0, -1, 1), orthogonal to level and slope: squares 0.04; k = 3: 6 + 24 / 2."""
    t = np.arange(6.0)
    wave = 0.1 * A([1, -1, 0, 0, -1, 1.0])
    fit = fit_formula(law_of("exp(a - b*log(x))", ("x",)), observe(np.exp(t), np.exp(1 - 0.5 * t + wave)),
                      LeastSquares())  # fmt: skip
    assert fit.aicc == pytest.approx(6 * (np.log(2 * np.pi * 0.04 / 6) + 1) + 6 + 12)
    # About the mean the slope has 0.5^2 * 17.5.
    assert fit.r2 == pytest.approx(1 - 0.04 / (0.25 * 17.5 + 0.04))
    few = fit_formula(law_of("exp(a - b*log(x))", ("x",)), observe(np.exp(t[:4]), np.exp(1 - 0.5 * t[:4])),
                      LeastSquares())  # fmt: skip
    assert few.aicc == np.inf
    at = A([[np.exp(2.5)], [np.exp(5)]])
    variance = fit.covariance[0, 0] + 2 * -A([2.5, 5]) * fit.covariance[0, 1] + A([2.5, 5]) ** 2 * fit.covariance[1, 1]
    np.testing.assert_allclose(fit.variance(at), variance)


def test_moments_of_hubers_slope_under_a_normal_distribution():
    """delta = 1.5 noise: E min(r^2, 1.5^2) and the share of |r| < 1.5, by summing over a fine grid."""
    z = np.linspace(-9, 9, 200_001)
    weight = norm.pdf(z) * (z[1] - z[0])
    slope, inside = huber_moments(LogHuber(0.3), 0.2)
    assert slope == pytest.approx(float(weight @ np.minimum(z * z, 2.25)), rel=1e-4)
    assert inside == pytest.approx(float(weight[np.abs(z) < 1.5].sum()), rel=1e-4)
    assert huber_moments(LeastSquares(), 0.2) == (1.0, 1.0)


# ---------------------------------------------------------------------------------------- schedules

CODED = A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6])


def constant_run(name, errors, n=40):
    """``n`` checkpoints of a constant rate, whose losses are e^-errors times those of `CODED` in the table's units."""
    schedule = Schedule(np.full(4 * n, 1e-3), 0)
    steps = np.arange(4, 4 * n + 1, 4)
    path = Path.of(schedule.scaled(1e-3, 4e-3 * n), steps)
    return Run(name, schedule, steps, curve_of(CODED, path)[0] * np.exp(-np.broadcast_to(errors, n)))


def test_the_error_of_a_law_without_a_run_is_that_of_its_late_half_beyond_noise_and_own_spread(monkeypatch):
    """The end is the mean of the last twentieth (2 of 40), 0.05; the late half has a mean square of (18 * 0.02^2 +
    2 * 0.05^2) / 20; ln L0 is known to 0.004, and the loss itself to L0 / L times that."""
    errors = np.r_[np.full(20, 0.9), np.full(18, 0.02), np.full(2, 0.05)]
    runs = [constant_run(name, errors) for name in "ab"]
    covariance = np.zeros((7, 7))
    covariance[0, 0] = 0.004**2
    asked = []

    def minimise(paths, seen, start):
        asked.append((len(paths), start is not None))
        return CODED, covariance, 0.003

    monkeypatch.setattr(schedule_fit, "_minimise", minimise)
    fit = fit_multi_power(runs)
    assert asked == [(2, False), (1, True), (1, True)]
    assert fit.held_out == {"a": pytest.approx(0.05), "b": pytest.approx(0.05)}
    own = np.mean((0.004 * 2 / (runs[0].loss * np.exp(errors))[20:]) ** 2)
    square = (18 * 0.02**2 + 2 * 0.05**2) / 20 - own - 0.003**2
    assert fit.discrepancy == pytest.approx(square**0.5, rel=1e-6)
    assert (fit.noise, fit.level, fit.loss_name) == (0.003, 0.95, "loss")
    # Never below 0.004; of one run it is the published 0.006, as nothing was held out.
    assert fit_multi_power([constant_run(name, 0.001) for name in "ab"]).discrepancy == 0.004
    one = fit_multi_power([constant_run("a", 0.001)])
    assert (one.discrepancy, one.held_out, DISCREPANCY) == (0.006, {}, 0.006)
    assert one.notes[-1].startswith("one run: what the law says of other schedules is not tested")
    assert fit.notes == ()


def test_a_rest_that_is_too_small_for_the_law_is_not_fitted():
    """Of 12 and 4 checkpoints the law, which has 7 parameters, is fitted without the second alone."""
    fit = fit_multi_power([constant_run("a", 0.0, 12), constant_run("b", 0.0, 4)])
    assert list(fit.held_out) == ["b"]
    with pytest.raises(InputError, match=r"^the table has 7 checkpoints after the warm-up; .* needs at least 8$") as no:
        fit_multi_power([constant_run("a", 0.0, 7)])
    assert no.value.field == "law"
    assert len(fit_multi_power([constant_run("a", 0.0, 8)]).runs) == 1


def test_neighbours_that_agree_count_less():
    """Residuals +-0.01 in blocks of 8 have a correlation of 1 - 2/8: variances are (1 + 3/4) / (1 - 3/4) = 7 times as
    large as of residuals that change at every step, whose negative correlation counts as none."""
    n, sign = 400, np.arange(400)
    runs = [constant_run("a", 0.01 * s, n) for s in ((-1.0) ** sign, (-1.0) ** (sign // 8))]
    quick, slow = (fit_multi_power([run]) for run in runs)
    for fit in (quick, slow):
        assert fit.noise == pytest.approx(1.4826 * 0.01, rel=0.05)
    assert slow.covariance[0, 0] / quick.covariance[0, 0] == pytest.approx(7, rel=0.25)


def test_a_run_of_many_checkpoints_is_thinned_and_one_without_a_row_is_named():
    n = MOST_ROWS + 50
    steps = np.arange(1, n + 1)
    table = {"run": ["a"] * n + ["b"] * 3, "step": [*steps, 1, 2, 3], "lr": [1e-3] * n + [1e-3] * 3,
             "loss": [*(3 - 0.001 * steps), *[float("nan")] * 3]}  # fmt: skip
    runs, name, notes = runs_of(read_table(table))
    assert (name, [run.name for run in runs], len(runs[0].steps)) == ("loss", ["a"], MOST_ROWS)
    assert runs[0].steps[[0, -1]].tolist() == [1, n]
    assert notes == (
        "3 rows left out: no number above 0 in 'loss'", "1 of 2 runs have no row left (b)",
        f"run a: {MOST_ROWS} of its {n} checkpoints are fitted, evenly spread",
    )  # fmt: skip
    alone = {name: column[:n] for name, column in table.items() if name != "run"}
    runs, _, notes = runs_of(read_table(alone))
    assert [run.name for run in runs] == ["1"]
    assert notes == (f"the run: {MOST_ROWS} of its {n} checkpoints are fitted, evenly spread",)
    with pytest.raises(InputError, match=r"needs at least 8 \(3 rows left out: no number above 0 in 'loss'; ") as no:
        ms.fit({name: column[-5:] for name, column in table.items()}, law="multi_power")
    assert no.value.field == "law"


def test_names_of_the_law_are_in_the_order_of_the_paper():
    assert NAMES == ("L0", "A", "alpha", "B", "C", "beta", "gamma")
