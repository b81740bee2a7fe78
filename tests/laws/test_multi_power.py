"""The multi-power law of learning curves, schedules, and what forecasts allow for in checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import metascale as ms
from metascale.core.errors import InputError
from metascale.laws.forecasting import CHECKPOINTS, _decaying, forecast
from metascale.laws.multi_power import NAMES, Path, loss_of
from metascale.laws.schedule_fit import Run, fit_multi_power
from metascale.laws.schedules import Schedule

# Luo et al. 2025, parameters of the model of 25 M.
PUBLISHED = dict(zip(NAMES, (3.04, 0.525, 0.508, 363.8, 2.066, 0.583, 0.641), strict=True))


def naive(parameters, rates, warmup, t):
    """The two sums of equation 2, term by term."""
    drop = 0.0
    for k in range(warmup + 1, t + 1):
        since = sum(rates[tau - 1] for tau in range(k, t + 1))
        kernel = 1 - (1 + parameters["C"] * rates[k - 1] ** -parameters["gamma"] * since) ** -parameters["beta"]
        drop += ((rates[k - 2] if k > 1 else rates[0]) - rates[k - 1]) * kernel
    return parameters["L0"] + parameters["A"] * sum(rates[:t]) ** -parameters["alpha"] - parameters["B"] * drop


@pytest.mark.parametrize("text", ["cosine:peak=3e-4,steps=300,warmup=20", "wsd:peak=1e-3,steps=250,end=0.01"])
def test_the_sums_are_those_of_a_double_loop(text):
    schedule, at = Schedule.named(text), [60, 249, 250]
    expected = [naive(PUBLISHED, schedule.rates.tolist(), schedule.warmup, t) for t in at]
    np.testing.assert_allclose(loss_of(PUBLISHED, schedule, at), expected, rtol=1e-12)
    np.testing.assert_allclose(loss_of(PUBLISHED, schedule, at[::-1]), expected[::-1], rtol=1e-12)


def test_one_drop_of_the_rate_has_its_closed_form():
    """From 1e-3 to 2e-4 at step 101: S of 100 steps after it is 100 x 2e-4."""
    schedule = Schedule(np.r_[np.full(100, 1e-3), np.full(100, 2e-4)], 0)
    gained = 363.8 * 8e-4 * (1 - (1 + 2.066 * 2e-4**-0.641 * 100 * 2e-4) ** -0.583)
    expected = 3.04 + 0.525 * (0.1 + 0.02) ** -0.508 - gained
    assert loss_of(PUBLISHED, schedule, [200])[0] == pytest.approx(expected, rel=1e-12)


def test_joined_changes_of_rate_differ_little_from_each_on_its_own():
    schedule, at = Schedule.named("cosine:peak=3e-4,steps=24000,warmup=1000"), np.arange(2000, 24001, 500)
    for found in (Path.of(schedule, at), Path.of(schedule, at, 1)):
        assert len(found.drop) < 200
    fit = fit_multi_power([run("a", "cosine:peak=3e-4,steps=24000,warmup=1000", 500)])
    np.testing.assert_allclose(fit.predict(schedule, at).median, loss_of(PUBLISHED, schedule, at), rtol=2e-5)


def run(name, text, every, noise=0.0, seed=0):
    schedule = Schedule.named(text)
    at = np.arange(schedule.warmup + every, len(schedule.rates) + 1, every)
    noises = np.exp(noise * np.random.default_rng(seed).standard_normal(len(at)))
    return Run(name, schedule, at, loss_of(PUBLISHED, schedule, at) * noises)


def test_planted_parameters_come_back():
    shapes = (
        "cosine:peak=3e-4,steps=400,warmup=20",
        "wsd:peak=3e-4,steps=400,end=0.01",
        "constant:peak=3e-4,steps=400",
    )
    fit = fit_multi_power([run(text[:3], text, 4) for text in shapes])
    for name, value in PUBLISHED.items():
        assert fit.parameters[name].estimate == pytest.approx(value, rel=2e-3), name
    assert all(abs(error) < 1e-5 for error in fit.held_out.values())


def test_another_schedule_is_predicted_with_an_interval_and_one_constant_run_knows_little():
    shapes = ("cosine:peak=3e-4,steps=8000,warmup=400", "constant:peak=3e-4,steps=8000,warmup=400")
    runs = [run(text[:3], text, 100, 0.002, k) for k, text in enumerate(shapes)]
    other = Schedule.named("linear:peak=3e-4,steps=10000,warmup=400,end=0")
    two, one = (fit_multi_power(part).predict(other) for part in (runs, runs[1:]))
    truth = loss_of(PUBLISHED, other, [10000])[0]
    assert two.low[0] < truth < two.high[0]
    assert two.median[0] == pytest.approx(truth, rel=0.004)
    assert one.low[0] < truth < one.high[0]
    assert one.high[0] - one.low[0] > 3 * (two.high[0] - two.low[0])


def test_a_run_beyond_the_longest_is_less_sure():
    """Noise 0.003 and an error of the law of 0.004 are 0.005; at e times the sum of rates the second is twice that."""
    fit = fit_multi_power([run("a", "constant:peak=3e-4,steps=2000", 50)])
    sure = replace(fit, covariance=np.zeros((7, 7)), noise=0.003, discrepancy=0.004)
    for steps, deviation in ((2000, 0.005), (5437, np.hypot(0.003, 0.008))):
        found = sure.predict(f"constant:peak=3e-4,steps={steps}")
        assert np.log(found.high[0] / found.median[0]) == pytest.approx(1.645 * deviation, rel=0.02)


def test_a_decay_to_come_lowers_and_widens_each_member():
    """Half of it is due where x has grown by e^(0.15 ln 2); within the table nothing is."""
    means, deviations, weights = np.zeros((1, 2)), np.full((1, 2), 0.012), np.ones((1, 2))
    lower, wider, shares = _decaying(means, deviations, weights, np.array([0.15 * np.log(2), -1.0]))
    np.testing.assert_allclose(lower, [[0, 0], [-0.0075, 0], [-0.015, 0], [-0.025, 0]], atol=1e-15)
    np.testing.assert_allclose(wider, np.tile([0.013, 0.012], (4, 1)))  # 0.012 and 0.005 in quadrature
    np.testing.assert_allclose(shares, 0.25)


def test_the_unit_of_the_rate_changes_coefficients_and_nothing_else():
    first = run("a", "cosine:peak=3e-4,steps=2000,warmup=100", 40, 0.001)
    scaled = Run("a", Schedule(1e3 * first.schedule.rates, first.schedule.warmup), first.steps, first.loss)
    one, other = (fit_multi_power([part]) for part in (first, scaled))
    assert other.predict(scaled.schedule).median[0] == pytest.approx(one.predict(first.schedule).median[0], rel=1e-9)
    assert other.parameters["B"].estimate == pytest.approx(one.parameters["B"].estimate / 1e3, rel=1e-6)


def test_schedules_by_name_and_from_a_table():
    wsd = Schedule.named("wsd:peak=2,steps=10,warmup=2,end=0,decay=0.5")
    np.testing.assert_allclose(wsd.rates, [1, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4, 0])
    assert wsd.warmup == 1
    cosine = Schedule.named("cosine:peak=1,steps=4,end=0.2")
    np.testing.assert_allclose(cosine.rates, 0.2 + 0.8 * (0.5 + 0.5 * np.cos(np.pi * np.array([0.25, 0.5, 0.75, 1]))))
    after = Schedule.named("cosine:peak=1,steps=6,warmup=2,end=0.2")
    np.testing.assert_allclose(after.rates, [0.5, 1, *cosine.rates])
    read = Schedule.read({"step": [2, 4], "lr": [0.4, 0.2]})
    np.testing.assert_allclose(read.rates, [0.2, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("cosin:peak=1,steps=10", "cosin"),
        ("cosine:steps=10", "no peak"),
        ("cosine:peak=1,steps=10,warmup=10", "warmup is below steps"),
        ("cosine:peak=x,steps=10", "is no setting"),
        ("cosine:peak=1,steps=10,decay=0.2", "is no setting of 'cosine'"),
        ("constant:peak=1,steps=10,end=0.1", "is no setting of 'constant'"),
        ({"step": [1, 2], "rate_of": [1, 1]}, "columns 'step' and 'lr'"),
        ({"step": [1, 2], "lr": [1, -1]}, "at least 0"),
    ],
)
def test_what_is_no_schedule_is_refused(source, words):
    with pytest.raises(InputError, match=words):
        Schedule.read(source)


def long_table():
    shapes = ("cosine", "constant")
    parts = [run(name, f"{name}:peak=3e-4,steps=4000,warmup=200", 100, 0.002, k) for k, name in enumerate(shapes)]
    return {
        "run": [part.name for part in parts for _ in part.steps],
        "step": np.concatenate([part.steps for part in parts]),
        "lr": np.concatenate([part.schedule.rates[part.steps - 1] for part in parts]),
        "loss": np.concatenate([part.loss for part in parts]),
    }


def test_a_law_of_schedules_is_saved_and_loaded_and_predicts_the_same(tmp_path):
    fit, schedule = ms.fit(long_table(), law="multi_power"), "wsd:peak=3e-4,steps=5000,warmup=200"
    fit.save(tmp_path / "law.json")
    again = ms.load_law(tmp_path / "law.json")
    for at in (None, [300, 5000]):
        one, other = fit.predict(schedule, at), again.predict(schedule, at=at)
        assert one.rows() == other.rows()
    assert again.parameters == fit.parameters
    assert one.to_csv().splitlines()[0] == "step,lr,median,low,high,beyond"
    for shown in (fit, again, one):
        assert shown.plot().get_xlabel() == "step"
        assert "<img" in shown._repr_html_()
    ms.fit({"x": [1, 2, 4, 8, 16], "loss": [4, 3.5, 3.1, 2.8, 2.6]}).save(tmp_path / "other.json")
    other = ms.load_law(tmp_path / "other.json")
    with pytest.raises(InputError, match="`at` is for laws of schedules"):
        other.predict([32], at=[1])


@pytest.mark.parametrize(
    ("at", "words"),
    [([0], "step 0 is outside"), ([301], "21 to 300"), ([20], "after its warm-up"), ([30.5], r"30\.5 is not one")],
)
def test_a_step_outside_the_schedule_is_refused(at, words):
    schedule = Schedule.named("cosine:peak=3e-4,steps=300,warmup=21")
    assert loss_of(PUBLISHED, schedule, [21, 300]).shape == (2,)
    with pytest.raises(InputError, match=words):
        loss_of(PUBLISHED, schedule, at)


def test_rows_that_are_not_fitted_are_counted_with_their_reasons():
    """2 rows without a rate, 1 without a loss, 1 in the warm-up, 1 step twice; a third run has no rate at all."""
    table = {name: list(cells) for name, cells in long_table().items()}
    n = len(table["step"])
    table["lr"][3] = table["lr"][4] = table["loss"][6] = float("nan")
    for name, value in {"run": "cosine", "step": 10, "lr": 1e-5, "loss": 9.0}.items():
        table[name].append(value)
    for name in table:
        table[name].append(table[name][5])
    for name, value in {"run": "third", "step": 10, "lr": float("nan"), "loss": 9.0}.items():
        table[name].append(value)
    fit = ms.fit(table, law="multi_power")
    assert sum(len(one.steps) for one in fit.runs) == n - 3
    said = " ".join(fit.notes)
    for words in (
        "3 rows left out: no number in 'step' or 'lr'",
        "1 rows left out: no number above 0 in 'loss'",
        "1 rows left out: in a warm-up",
        "a step of the run once more",
        "1 of 3 runs have no row left (third)",
    ):
        assert words in said, words
    table["step"][0] = 200.5
    with pytest.raises(InputError, match=r"is 200\.5 in row 1 .*steps are whole numbers"):
        ms.fit(table, law="multi_power")


@pytest.mark.parametrize("lengths", [(6000,), pytest.param((6000, 12000), marks=pytest.mark.long)])
def test_checkpoints_without_rates_are_warned_of_and_their_interval_holds_what_a_decay_gives(lengths):
    """The end, seen from a quarter, half and three quarters of runs under three schedules."""
    plain, held = [], []
    for shape in ("cosine", "linear", "wsd"):
        for seed, steps in enumerate(lengths):
            one = run("a", f"{shape}:peak=3e-4,steps={steps},warmup={steps // 20}", steps // 40, 0.002, seed)
            for cut in (0.25, 0.5, 0.75):
                seen = one.steps <= cut * steps
                for kept, flag in ((plain, False), (held, True)):
                    ahead = forecast(one.steps[seen], one.loss[seen], one.steps[-1:], checkpoints=flag)
                    kept.append(bool(ahead.low[0] <= one.loss[-1] <= ahead.high[0]))
    assert np.mean(plain) <= 0.7
    assert np.mean(held) >= 0.8


def test_only_checkpoints_are_widened():
    x, loss = np.geomspace(100, 6400, 7), 2 + 5 * np.geomspace(100, 6400, 7) ** -0.3
    steps, tokens = ({name: x, "loss": loss} for name in ("step", "tokens"))
    assert CHECKPOINTS in ms.forecast(steps, at=[12800], x="step").notes
    assert CHECKPOINTS not in ms.forecast(tokens, at=[12800]).notes
    runs = {"run": ["a"] * 7, "tokens": x, "step": x, "loss": loss}
    assert CHECKPOINTS in ms.forecast(runs, at=[12800], x="tokens", checkpoints=True).notes
