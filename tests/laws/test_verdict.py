"""What the verdict says of tables whose truth is known, and how often it is wrong.

The rates of docs/laws.md: ``pytest -m long -s tests/laws/test_verdict.py``.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter

import numpy as np
import pytest

from metascale.laws import analyse, fit, grouped, observe
from metascale.laws.analysis import with_interval
from metascale.laws.backtesting import compare_families
from metascale.laws.effects import perplexity_line
from metascale.laws.objective import LogHuber
from metascale.laws.record import Interval, LawRecord
from metascale.laws.trend import MATTERS, answer, drop, trend_test, turn_test
from metascale.laws.verdict import axis_trends, choose, is_score, trend_of

FAST = {"n_bootstrap": 50}
SIZES = (4, 5, 6, 8, 12, 20, 30)


def grid(n, span=1000.0, repeats=1):
    return np.repeat(np.geomspace(1.0, span, n), repeats)


def noisy(curve, rng, sd=0.02):
    return curve * np.exp(sd * rng.standard_normal(len(curve)))


def answers(make, draws, rng, sd=0.02, n=8, repeats=1, spans=(1000.0,)):
    """How often each answer is given for tables of ``make(x)``, as shares."""
    found = Counter()
    for _ in range(draws):
        x = grid(n, rng.choice(spans), repeats)
        found[trend_of(observe(x, noisy(make(x), rng, sd)), 0.95).answer] += 1 / draws
    return found


def floored(rng):
    return lambda x: rng.uniform(0.5, 2.5) + rng.uniform(1, 4) * x ** -rng.uniform(0.2, 0.7)


def constant(x):
    return np.ones_like(x)


def u_shaped(x):
    return np.exp(0.4 * (2 * np.log(x) / np.log(1000) - 1) ** 2)


def bumped(x):
    """A fall with a hump in the middle, as where a model can just fit its data."""
    u = np.log(x) / np.log(1000)
    return np.exp(-0.9 * u + 0.6 * np.exp(-(((u - 0.45) / 0.08) ** 2)))


def broken(x):
    return 3 * x**-0.03 * (1 + (x / 100) ** 2) ** -0.12


def named(found):
    return found["falls"] + found["rises"] + found["not monotone"]


def shapes(make, draws, rng, n, sd=0.02, repeats=1):
    """How often each family is the headline."""
    names = ("none", "power", "power_irreducible", "power_shifted", "broken")
    found = Counter()
    for _ in range(draws):
        table = observe(grid(n, repeats=repeats), noisy(make(grid(n, repeats=repeats)), rng, sd))
        found[choose(compare_families(table, LogHuber(), names), trend_of(table, 0.95))] += 1 / draws
    return found


@pytest.mark.long
def test_few_seeded_tables_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    for n, repeats in ((4, 1), (5, 1), (8, 1), (30, 1), (5, 3)):
        assert named(answers(constant, 60, rng, n=n, repeats=repeats)) <= 0.1
        if n <= 8:
            assert answers(floored(rng), 30, rng, n=n, repeats=repeats, spans=(16.0, 1000.0))["falls"] >= 0.95
    assert answers(u_shaped, 40, rng, n=8)["not monotone"] >= 0.95
    assert answers(bumped, 20, rng, n=21, sd=0.01)["not monotone"] >= 0.95
    assert answers(broken, 40, rng, n=9)["falls"] >= 0.95
    assert shapes(lambda x: 3 * x**-0.25, 12, rng, 6)["power"] >= 0.9
    assert shapes(lambda x: 1.7 + 2 * x**-0.4, 12, rng, 8)["power_irreducible"] >= 0.75


@pytest.mark.long
def test_measured_rates(capsys) -> None:
    rng = np.random.default_rng(1)
    lines = []

    def say(what, rates):
        lines.append(f"{what}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in rates.items()))

    for repeats in (1, 3):
        for n in SIZES:
            found = answers(constant, 1500, rng, n=n, repeats=repeats)
            say(f"pure noise, {n} scales x {repeats}", found)
            assert named(found) <= 0.07
    for sd in (0.0, 0.02):
        for n in (4, 5, 6, 8):
            for span in (16.0, 100.0, 1000.0):
                found = answers(floored(rng), 400, rng, sd, n, spans=(span,))
                say(f"floored, {sd:g} noise, {n} scales over {span:g}", found)
                assert found["falls"] >= 0.95
    for n in (6, 8, 12, 21):
        say(f"U-shape, {n} scales", found := answers(u_shaped, 400, rng, n=n))
        assert found["not monotone"] >= 0.9
        say(f"broken, {n} scales", found := answers(broken, 400, rng, n=n))
        assert found["falls"] >= 0.95
    say("double descent, 21 scales", found := answers(bumped, 400, rng, n=21))
    assert found["not monotone"] >= 0.9
    for n, repeats in ((5, 1), (8, 1), (12, 1), (6, 3)):
        say(
            f"shape of a plain power law, {n} x {repeats}",
            found := shapes(lambda x: 3 * x**-0.25, 300, rng, n, repeats=repeats),
        )
        assert 1 - found["power"] <= 0.06
        say(
            f"shape of a floored law, {n} x {repeats}",
            found := shapes(lambda x: 1.7 + 2 * x**-0.4, 150, rng, n, repeats=repeats),
        )
        assert found["power_irreducible"] >= 0.85
    for name, make in AXES.items():
        say(f"two scales, {name}", found := two_axes(make, 300, rng))
        assert found[WANTED[name]] >= (0.88 if name == "noise" else 0.92)
    with capsys.disabled():
        print("\n" + "\n".join(lines))


AXES = {
    "noise": lambda n, d: 3.0 + 0 * n,
    "rising": lambda n, d: 2 + 0.3 * (n / 1e7) ** 0.1 + 0.3 * (d / 1e9) ** 0.1,
    "D flat": lambda n, d: 1.8 + 480 * n**-0.35,
    "both": lambda n, d: 1.8 + 480 * n**-0.35 + 2100 * d**-0.37,
}
WANTED = {"noise": "none none", "rising": "rises rises", "D flat": "falls none", "both": "falls falls"}


def two_axes(make, draws, rng, sd=0.01):
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 5)))
    found = Counter()
    for _ in range(draws):
        table = observe(np.column_stack([n, d]), noisy(make(n, d), rng, sd), x_name=("N", "D"))
        told = (one.answer for one in axis_trends(table, 0.95).values())
        found[" ".join("none" if one == "undecided" else one for one in told)] += 1 / draws
    return found


def test_two_scales_are_tested_one_at_a_time() -> None:
    rng = np.random.default_rng(2)
    for name, make in AXES.items():
        assert two_axes(make, 40, rng)[WANTED[name]] >= 0.8, name


def test_scattered_sizes_and_tokens_are_told_apart_too() -> None:
    rng = np.random.default_rng(3)
    n, d = 10 ** rng.uniform(7, 10, 80), 10 ** rng.uniform(9, 11, 80)
    x = np.column_stack([n, d])
    loss = noisy(1.8 + 480 * n**-0.35, rng, 0.005)
    found = fit(x, loss, x_name=("N", "D"), **FAST)
    assert found.verdict.startswith("loss falls with N (mean exponent")
    assert "shows no trend in D" in found.verdict
    record = LawRecord.from_json(json.loads(json.dumps(found.to_json())))
    assert {name: one.answer for name, one in record.trends.items()} == {"N": "falls", "D": "none"}
    assert record.trend == "falls"
    along = np.column_stack([n, 20 * n])
    tied = fit(along, loss, x_name=("N", "D"), **FAST)
    assert "cannot be told apart along D" in tied.verdict


def test_five_exact_scales_of_a_floored_law_fall_towards_their_floor() -> None:
    x = 10 ** np.linspace(5, 7, 5)
    found = analyse(x, 1.7 + 80 * x**-0.35, x_name="tokens", **FAST)
    assert found.trend == "falls"
    assert found.verdict.startswith("loss falls with tokens (mean exponent")
    assert "towards an irreducible 1.7" in found.verdict
    assert found.parameters["alpha"]["estimate"] == pytest.approx(0.35, rel=1e-3)


def test_loss_and_perplexity_of_four_models_have_one_answer() -> None:
    x = 6e3 * np.array([1.0, 4.0, 16.0, 60.0])
    loss = 3.37 + 14 * x**-0.41
    assert analyse(x, loss, **FAST).trend == "falls"
    line = perplexity_line(x, np.exp(loss))
    assert line.trend == "falls"
    assert line.b_low <= line.b <= line.b_high < 0
    rng = np.random.default_rng(4)
    for _ in range(60):
        loss = noisy(3 * x**-0.01, rng, 0.01)
        line = perplexity_line(x, np.exp(loss))
        assert line.trend == trend_of(observe(x, loss), 0.95).answer
        assert (line.b_low <= 0 <= line.b_high) == (line.trend in ("none", "undecided"))


def test_a_broken_law_is_reported_by_its_slope_at_the_end() -> None:
    x = np.geomspace(1e4, 1e8, 17)
    loss = noisy(3 * (x / 1e4) ** -0.03 * (1 + (x / 1e6) ** 2) ** -0.12, np.random.default_rng(5), 0.003)
    found = analyse(x, loss, x_name="D", **FAST)
    assert found.fit.law.name in ("broken", "power_shifted")
    assert found.end_exponent is not None
    assert found.end_exponent.low <= 0.27 <= found.end_exponent.high + 0.01
    assert "no single exponent" in found.verdict
    record = found.record()
    assert record.exponent == found.end_exponent
    assert found.families[found.fit.law.name].backtest_rmse_log < 0.5 * found.families["power"].backtest_rmse_log


def test_a_double_descent_is_not_monotone_and_no_law_describes_it() -> None:
    x = grid(21, 1e4)
    found = analyse(x, noisy(bumped(x**0.75), np.random.default_rng(6), 0.01), x_name="params", **FAST)
    assert found.trend == "not monotone"
    assert "it rises from params" in found.verdict
    assert "no law of ours describes it" in found.verdict
    first, last = found.trend_test.turns
    hump = 1000 ** (0.45 / 0.75)
    assert first < last < 2.5 * hump
    assert found.extrapolation is None


def test_a_u_shape_says_where_it_turns() -> None:
    x = grid(9)
    found = analyse(x, noisy(u_shaped(x), np.random.default_rng(7)), **FAST)
    assert found.trend == "not monotone"
    (turn,) = found.trend_test.turns
    assert 20 < turn < 50
    assert "turns near x" in found.verdict


def test_a_monotone_curve_never_turns() -> None:
    rng = np.random.default_rng(8)
    for curve in (lambda t: np.log1p(np.exp(-t)), lambda t: -0.3 * t, lambda t: -0.5 / (1 + np.exp(-2 * (t - 3)))):
        t = np.linspace(0, 7, 10)
        assert not any(turn_test(t, curve(t) + 0.02 * rng.standard_normal(10), 0.95) for _ in range(60))


def test_the_interval_printed_is_the_one_that_decided() -> None:
    rng = np.random.default_rng(9)
    for slope in (0.0, 0.003, 0.01, 0.03):
        found = analyse(grid(6), noisy(grid(6) ** -slope, rng), **FAST)
        decided = found.trend_test.exponent
        assert decided is not None
        assert answer(decided) == found.trend
        assert f"{decided.low:.4g} to {decided.high:.4g}" in found.verdict
        own = found.family_intervals["power"]["alpha"]
        assert answer(Interval(**own)) == found.trend, "the table of families does not contradict the sentence"
        shown = found.record().exponent
        assert shown is not None
        assert (shown.low > 0) == (found.trend == "falls")


def test_undecided_says_how_large_a_fall_is_still_possible() -> None:
    assert answer(Interval(0.0, -0.01, 0.01)) == "none"
    assert answer(Interval(0.0, -0.2, 0.2)) == "undecided"
    assert drop(0.2) == pytest.approx(1 - 10**-0.2)
    assert drop(0.2, 2) == pytest.approx(1 - 2**-0.2)
    assert 0 < MATTERS < 0.1
    found = analyse([1, 4, 16, 64], [3.0, 2.4, 3.1, 2.6], **FAST)
    assert found.trend == "undecided"
    decided = found.trend_test.exponent
    assert f"a fall of {100 * drop(decided.high):.3g} % per factor of 10 of x" in found.verdict


@functools.cache
def of_shape(shape):
    """A table of twelve scales and what is said of it."""
    make = {"noise": constant, "power": lambda x: x**-0.2, "floored": lambda x: 1.7 + 2 * x**-0.35, "broken": broken}
    x = grid(12, 1e4)
    loss = noisy(make[shape](x), np.random.default_rng(16), 0.01)
    return x, loss, analyse(x, loss, **FAST)


FACTORS = [(1.0, 1e300), (1.0, 1e-290), (1e290, 1.0), (1e-200, 1e100), (7.0, 3.0)]
OFTEN = {("noise", 0), ("power", 1), ("floored", 2), ("broken", 3), ("power", 4)}
"""By default, every shape and every pair of factors at least once."""


@pytest.mark.parametrize(
    ("shape", "a", "b"),
    [
        pytest.param(shape, *FACTORS[k], marks=[] if (shape, k) in OFTEN else [pytest.mark.long])
        for shape in ("noise", "power", "floored", "broken")
        for k in range(len(FACTORS))
    ],
)
def test_a_rescaled_column_changes_coefficients_and_nothing_else(shape, a, b) -> None:
    x, loss, first = of_shape(shape)
    second = analyse(a * x, b * loss, **FAST)
    assert (first.trend, first.fit.law.name) == (second.trend, second.fit.law.name)
    assert second.fit.rmse_log == pytest.approx(first.fit.rmse_log, rel=1e-3)
    if first.trend_test.exponent and shape != "noise":
        assert second.trend_test.exponent.low == pytest.approx(first.trend_test.exponent.low, rel=1e-6)
    words = [re.sub(r"-?[0-9.]+(e[-+]?[0-9]+)?", "", found.verdict) for found in (first, second)]
    assert words[0] == words[1]


def test_a_score_that_rises_is_good_news() -> None:
    assert is_score("accuracy")
    assert is_score("val/acc")
    assert is_score("pass_rate")
    assert not is_score("loss")
    assert not is_score("accuracy_loss")
    x = 1e8 * 10 ** np.linspace(0, 3, 10)
    odds = 0.4 * (x / 1e8) ** 0.4
    found = analyse(x, odds / (1 + odds), x_name="params", loss_name="accuracy", **FAST)
    assert found.fit.law.name == "logistic"
    assert found.verdict.startswith("accuracy rises with params (its odds growing with mean exponent 0.4")
    falling = analyse(x, odds[::-1] / (1 + odds[::-1]), x_name="params", loss_name="accuracy", law="power", **FAST)
    assert "FALLS with params" in falling.verdict
    assert "more params made it worse" in falling.verdict
    points = analyse(x, 30 * (x / 1e8) ** 0.05, x_name="params", loss_name="score", law="power", **FAST)
    assert points.verdict.startswith("score rises with params (growing with mean exponent 0.05")
    assert "RISES with params" in analyse(x, 3 * (x / 1e8) ** 0.05, x_name="params", law="power", **FAST).verdict


def test_small_misfit_is_no_news() -> None:
    rng = np.random.default_rng(11)
    x = grid(8, repeats=3)
    wave = np.exp(0.006 * np.cos(3 * np.log(x)))
    seeds = np.tile([0, 1, 2], 8)
    found = analyse(x, noisy(3 * x**-0.3 * wave, rng, 0.0005), replicate=seeds, law="power", **FAST)
    assert not any("does not describe" in note for note in found.notes)
    assert "describes it" not in found.verdict


def test_waves_about_a_law_are_seen_without_repeats() -> None:
    x = grid(24)
    wave = np.exp(0.08 * np.sin(2.5 * np.log(x)))
    found = analyse(x, noisy(3 * x**-0.3 * wave, np.random.default_rng(12), 0.005), law="power", **FAST)
    assert "describe" in found.verdict


def test_the_note_on_the_backtest_repeats_no_other_number() -> None:
    x = grid(17, 1e4)
    found = analyse(x, noisy(broken(x), np.random.default_rng(13), 0.003), law="power", **FAST)
    note = next(note for note in found.notes if "times the error of the chosen" in note)
    assert "rmse" not in note
    assert with_interval({"estimate": 1.0, "low": 0.5, "high": 2.0}) == "1 (0.5 to 2)"


def test_every_group_is_told_whether_it_moves_at_all() -> None:
    rng = np.random.default_rng(14)
    x, group = np.tile(grid(7, repeats=3), 2), np.repeat(["a", "b"], 21)
    still = grouped(x, noisy(np.ones(42), rng), group, n_bootstrap=50)
    assert still.verdict.startswith("no group shows a trend")
    mixed = grouped(x, noisy(np.where(group == "a", x**-0.3, 1.0), rng), group, n_bootstrap=50)
    assert {name: one.answer for name, one in mixed.trends.items()} == {"a": "falls", "b": "none"}
    assert "'a' falls fastest with scale ('b' shows no trend)" in mixed.verdict


def test_repeats_and_scales_are_pooled_only_where_they_agree() -> None:
    """Scales that jump by far more than their seeds do: the seeds must not make a trend of it."""
    rng = np.random.default_rng(15)
    t, cell = np.repeat(np.linspace(0, 5, 6), 3), np.repeat(np.arange(6), 3)
    named_trends = 0
    for _ in range(300):
        y = 0.1 * rng.standard_normal(6)[cell] + 0.005 * rng.standard_normal(18)
        named_trends += trend_test(t, y, cell, 0.95).answer in ("falls", "rises")
    assert named_trends <= 0.08 * 300


def test_scales_that_differ_by_rounding_are_one(recwarn):
    """Ten scales, the second run of each moved by a few units in the last place: no turn, and no division by zero."""
    x = np.repeat(np.geomspace(1e6, 1e9, 10), 2)
    x[1::2] *= 1 + 1e-15
    y = -0.1 * np.log(x) + 0.01 * np.random.default_rng(0).standard_normal(20)
    found = turn_test(np.log(x), y, 0.95)
    assert found is None
    assert not recwarn.list
    bowl = (np.log(x) - np.log(x).mean()) ** 2 / 10
    rounded = turn_test(np.log(x), bowl + y, 0.95)
    assert rounded == turn_test(np.round(np.log(x), 9), bowl + y, 0.95)
    assert rounded.answer == "not monotone"
