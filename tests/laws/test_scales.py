"""Laws in any number of scales: the machine's choice of forms and its predictions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import metascale as ms
from metascale import laws
from metascale.core.errors import InputError
from metascale.laws.corners import Corner, backtest_corners, choose, corners
from metascale.laws.formula import robust_fit
from metascale.laws.library import law_of
from metascale.laws.mixture import Mixture, quantiles, weights_at
from metascale.laws.observations import observe
from metascale.laws.predicting import SeriesPredictor
from metascale.laws.record import LawRecord
from metascale.laws.scales import analyse_scales
from metascale.laws.space import forms, repeated

RNG = np.random.default_rng


def surface(n_levels=7, noise=0.005, seed=0):
    x = np.column_stack([part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, n_levels),
                                                              np.geomspace(1e9, 1e11, n_levels))])  # fmt: skip
    loss = 1.8 + 480 / x[:, 0] ** 0.35 + 2100 / x[:, 1] ** 0.37
    return x, loss * np.exp(noise * RNG(seed).standard_normal(len(x)))


@pytest.fixture(scope="module")
def analysis():
    """What is said of ``surface()``, with the whole choice among forms behind it."""
    x, loss = surface()
    return analyse_scales(x, loss, x_name=("N", "D"))


@pytest.mark.parametrize("n_seeds", [1, pytest.param(4, marks=pytest.mark.long)])
def test_the_corner_is_predicted_and_intervals_hold_about_ninety_per_cent(n_seeds):
    hits, errors = [], []
    for seed in range(n_seeds):
        x, loss = surface(seed=seed)
        hidden = x.prod(1) > 1e19
        found = choose(observe(x[~hidden], loss[~hidden], x_name=("N", "D"))).mixture.predict(x[hidden])
        hits.append((loss[hidden] > found.low) & (loss[hidden] < found.high))
        errors.append(np.log(found.median / loss[hidden]))
    assert np.sqrt(np.mean(np.square(errors))) < 0.012
    assert 0.8 <= np.mean(hits) <= 0.99


def test_negative_losses_are_fitted_on_the_loss_itself():
    x, loss = surface(noise=0.0)
    shift = 7.0
    found = analyse_scales(x, loss - shift, x_name=("N", "D"), law="hoffmann")
    assert "not all losses are positive" in " ".join(found.notes)
    # E is bounded below by 0 in the published law: a formula of the user's has no such bound
    free = analyse_scales(x, loss - shift, x_name=("N", "D"), law="E + A/N**alpha + B/D**beta")
    assert free.fit.parameters["E"] == pytest.approx(1.8 - shift, rel=1e-6)
    assert free.record().objective_name.endswith("of the loss itself, since not all losses are positive")
    assert free.predict([[1e9, 1e11]]).median[0] == pytest.approx(loss[-1] - shift, rel=1e-4)
    assert {trend.answer for trend in free.trends.values()} == {"falls"}


def test_mixture_quantiles_are_those_of_draws():
    rng = RNG(0)
    mean, deviation = np.array([[0.0], [2.0], [-1.0]]), np.array([[0.5], [1.0], [0.1]])
    weight = np.array([[0.5], [0.3], [0.2]])
    part = rng.choice(3, 400_000, p=weight[:, 0])
    draws = mean[part, 0] + deviation[part, 0] * rng.standard_normal(len(part))
    found = quantiles(mean, deviation, weight, (0.05, 0.5, 0.95))[:, 0]
    assert found == pytest.approx(np.quantile(draws, [0.05, 0.5, 0.95]), abs=0.01)


def test_a_form_that_does_not_know_has_less_weight():
    noise = np.full(2, 0.1)
    weight = weights_at(np.array([0.5, 0.5]), np.array([[0.0], [0.3 * 0.01]]), noise)
    assert weight[:, 0] == pytest.approx([2 / 3, 1 / 3])


def test_cuts_hide_the_expensive_rows():
    x, _ = surface()
    cuts = dict(corners(x))
    assert x[~cuts["top of scale 1"], 0].min() == x[:, 0].max()
    kept = cuts["top 25 % of the product"]
    assert x[~kept].prod(1).min() > x[kept].prod(1).max()


def test_a_scale_that_is_part_of_another_is_found():
    tokens, unique = np.array([1e9, 2e9, 4e9, 8e9, 2e9, 4e9]), np.array([1e9, 1e9, 1e9, 1e9, 2e9, 4e9])
    assert repeated(np.column_stack([tokens, unique])) == [(0, 1)]
    assert repeated(np.column_stack([tokens, unique + 1e8])) == []


def test_names_of_scales_never_meet_those_of_parameters():
    x, loss = surface()
    tried = forms(("E", "b"), x, "log")
    for law in tried.values():
        assert set(law.expression.variables) == {"E", "b"}
        assert not {"E", "b"} & set(law.expression.parameters)
    some = [tried[name] for name in ("floor + powers", "floor + powers + bowl in b")]
    found = choose(observe(x, loss, x_name=("E", "b")), some).mixture
    assert found.predict(x[:1]).median[0] == pytest.approx(loss[0], rel=0.05)
    with pytest.raises(InputError, match="a scale of the table and a parameter"):
        analyse_scales(x, loss, x_name=("E", "D"), law="hoffmann")


def test_refits_follow_new_rows_and_equal_fits_from_scratch():
    x, loss = surface()
    law = forms(("N", "D"), x, "log")["floor + powers + product"]
    before = robust_fit(law, observe(x[:-8], loss[:-8], x_name=("N", "D")), "log")
    whole = observe(x, loss, x_name=("N", "D"))
    after = before.refit(whole)
    assert after.observations.n == 49
    higher = observe(x, np.append(loss[:-8], 1.2 * loss[-8:]), x_name=("N", "D"))
    assert before.refit(higher).predict(x[-8:]).mean() > 1.005 * after.predict(x[-8:]).mean()
    assert after.objective_value <= before.refit(before.observations).objective_value + 49 * before.noise
    far = np.array([[2e9, 2e11]])
    step = 1e-6 * after.theta
    numeric = [
        (_at(after, far, after.theta + np.eye(len(step))[k] * step) - _at(after, far, after.theta)) / step[k]
        for k in range(len(step))
        if step[k] != 0
    ]
    assert after.linearised(far)[1][0][step != 0] == pytest.approx(np.ravel(numeric), rel=1e-3)


def _at(fit, x, theta):
    return np.log(fit.formula.expression.bind(x).value(theta[None])[0])


def test_a_covariance_that_cannot_be_found_leaves_a_form_out(monkeypatch):
    """LAPACK may not find the eigenvalues of a form far from the table; the other forms answer."""
    whole, calls = np.linalg.pinv, []

    def pinv(*given, **named):
        calls.append(1)
        if len(calls) % 7 == 1:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return whole(*given, **named)

    monkeypatch.setattr(np.linalg, "pinv", pinv)
    x, loss = surface(5)
    texts = ("E + A/N**a + B/D**b", "A/N**a + B/D**b", "E + A/(N*D)**a")
    laws = [replace(law_of(text, ("N", "D")), name=text) for text in texts]
    found = choose(observe(x, loss, x_name=("N", "D"), loss_name="loss"), laws)
    assert len(calls) > 3
    assert texts[0] not in {fit.formula.name for fit in found.fits}
    assert np.isfinite(found.mixture.predict(np.array([[1e9, 1e10]])).median).all()


def test_a_hidden_corner_has_no_say_in_its_own_weights(monkeypatch):
    """A form that is right in one corner alone: by the other corner's weights, each is predicted by the wrong form."""
    one = Corner("one", np.ones(4, bool), np.array([[0.1] * 4, [1.0] * 4]), np.zeros((2, 4)), np.full(2, 0.01),
                 np.zeros(4), np.ones(4))  # fmt: skip
    two = replace(one, name="two", mean=one.mean[::-1])
    x, loss = surface(5)
    table = observe(x, loss, x_name=("N", "D"))
    laws = [law_of(text, ("N", "D")) for text in ("E + A/N**a + B/D**b", "E + A/(N*D)**a")]
    fits = tuple(robust_fit(replace(law, name=name), table, "log") for law, name in zip(laws, "ab", strict=True))
    choice = replace(choose(table, laws[:1]), fits=fits, corners=(one, two))
    monkeypatch.setattr("metascale.laws.corners.choose", lambda _: choice)
    found = backtest_corners(table)
    assert found.mixture == pytest.approx((1.0, 1.0), abs=0.01)
    assert found.errors == {"a": pytest.approx((0.1, 1.0)), "b": pytest.approx((1.0, 0.1))}


def test_a_forecast_says_how_far_it_is_on_either_side():
    found = SeriesPredictor(observe([2.0, 4, 8, 16, 32], [5.0, 4, 3.3, 2.8, 2.5])).predict([0.5, 2, 5, 32, 96])
    assert found.beyond.tolist() == [4, 1, 1, 1, 3]


@pytest.mark.parametrize("ask", [lambda table: laws.forecast(table, at=[[1e10, 1e11]], x=("N", "D")),
                                 lambda table: laws.backtest(table, x=("N", "D"))])  # fmt: skip
def test_nothing_is_said_along_a_scale_that_does_not_vary(ask):
    data = np.geomspace(1e9, 3e10, 12)
    table = {"N": np.full(12, 1e8), "D": data, "loss": 1.8 + 2100 * data**-0.37}
    with pytest.raises(InputError, match=r"all rows have the same N \(1e\+08\)"):
        ask(table)


def test_two_laws_of_one_name_are_refused():
    x, loss = surface(5)
    laws = [law_of(text, ("N", "D")) for text in ("E + A/N**a + B/D**b", "E + A/(N*D)**a")]
    with pytest.raises(InputError, match="two laws are named 'formula'"):
        choose(observe(x, loss, x_name=("N", "D")), laws)


def test_records_are_read_as_written(analysis):
    x, _ = surface()
    again = LawRecord.from_json(json.loads(json.dumps(analysis.to_json())))
    assert again == analysis.record()
    assert again.predictor is not None
    one, two = Mixture.of(again.predictor).predict(x * 3), analysis.predict(x * 3)
    for end in ("low", "median", "high"):
        assert getattr(one, end) == pytest.approx(getattr(two, end), rel=1e-12)
    assert one.beyond.max() == pytest.approx(3.0)


def test_backtests_do_not_see_the_corner_that_they_predict(analysis, monkeypatch):
    x, loss = surface()
    monkeypatch.setattr("metascale.laws.corners.choose", lambda observations: analysis.choice)
    found = backtest_corners(observe(x, loss, x_name=("N", "D")))
    assert len(found.mixture) == len(found.corners) >= 5
    assert max(found.mixture) < 0.03
    assert np.mean(found.coverage) >= 0.8
    assert "inside 90 %" in found.summary()


def test_a_table_without_any_noise_has_finite_ends_and_predicts_itself() -> None:
    """Noise of exactly 0 is the end of all widths, not 0 times infinity."""
    x = np.array([(s, t) for s in (10, 30, 100, 300) for t in (100, 300, 1000, 3000)], float)
    loss = 1 + 20 * x[:, 0] ** -0.5 + 30 * x[:, 1] ** -0.3
    law = ms.fit({"width": x[:, 0], "steps": x[:, 1], "loss": loss}, x=("width", "steps"))
    ends = [end for one in law.fit.intervals(0.95).values() for end in (one.low, one.high)]
    assert np.isfinite(ends).all()
    assert law.predict(x).median == pytest.approx(loss, rel=1e-3)
