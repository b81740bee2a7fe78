"""Effects of width and depth, slopes, perplexity lines, held-out errors and tables of sizes, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t as student

from metascale.core.errors import InputError
from metascale.laws import sizes
from metascale.laws.effects import off_law, perplexity_line, slope, undominated, width_and_depth
from metascale.laws.held_out import HeldOut, Hidden, Prediction, Replicates, hold_out
from metascale.laws.trend import trend_test

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # ln width, ln depth
WAVE = 0.1 * np.array([1.0, -1.0, -1.0, 1.0])  # what neither explains: squares 0.04, one degree of freedom


def table(seeds=(0.0,), corners=CORNERS, wave=WAVE):
    log_d, log_l = np.repeat(corners, len(seeds), 0).T
    return np.exp(log_d), np.exp(log_l), np.exp(
        1 - 0.5 * log_d - 0.25 * log_l + np.repeat(wave, len(seeds)) + np.tile(seeds, len(corners))
    )  # fmt: skip


def reach(found, name):
    one = found.effects[name]
    assert one.high - one.estimate == pytest.approx(one.estimate - one.low)
    return one.high - one.estimate


def test_effects_of_width_and_depth_by_hand():
    """Squares of either about its mean are 4 (1/2)^2 = 1, and the two are orthogonal; Student's t with 1 is 12.7062."""
    found = width_and_depth(*table())
    estimates = {name: one.estimate for name, one in found.effects.items()}
    assert estimates == pytest.approx(
        {"width": 0.5, "depth": 0.25, "width_minus_depth": 0.25, "width_minus_depth_per_parameter": 0.0}, abs=1e-12
    )
    variances = {"width": 1, "depth": 1, "width_minus_depth": 2, "width_minus_depth_per_parameter": 1.25}
    for name, variance in variances.items():
        assert reach(found, name) == pytest.approx(12.7062 * (0.04 * variance) ** 0.5, rel=1e-5)
    # ln loss about its mean: 4 (0.25^2 + 0.125^2) of the two, and 0.04.
    assert (found.log_coefficient, found.r2) == (pytest.approx(1.0), pytest.approx(1 - 0.04 / 0.3525))
    assert (found.n_rows, found.n_points, found.freedom, found.noise, found.level) == (4, 4, 1, "misfit", 0.95)
    assert reach(width_and_depth(*table(), level=0.5), "width") == pytest.approx(1.0 * 0.2)  # tan 45 degrees
    assert found.to_json()["effects"]["depth"]["estimate"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("ratio", "noise", "freedom"), [(1.0, "seeds and misfit", 5), (4.4, "seeds and misfit", 5), (4.7, "misfit", 1)]
)
def test_seeds_and_misfit_are_pooled_unless_they_differ_at_ten_per_cent(ratio, noise, freedom):
    """F(1, 4) passes 4.545 in a tenth of the tables. Misfit 2 x 0.04 = 0.08; seeds +-s: 8 s^2 over 4."""
    s = (0.04 / ratio) ** 0.5
    found = width_and_depth(*table((s, -s)))
    variance = (0.08 + 8 * s**2) / 5 if freedom == 5 else 0.08
    assert (found.noise, found.freedom, found.n_rows, found.n_points) == (noise, freedom, 8, 4)
    assert reach(found, "width") == pytest.approx(student.ppf(0.975, freedom) * (variance / 2) ** 0.5)


def test_three_points_leave_the_noise_of_seeds_alone():
    """6 s^2 over 3; an effect is a difference of two means of two: 2 s^2 (1/2 + 1/2); t with 3 is 3.182446."""
    found = width_and_depth(*table((0.1, -0.1), CORNERS[:3], np.zeros(3)))
    assert (found.noise, found.freedom) == ("seeds", 3)
    assert reach(found, "depth") == pytest.approx(3.182446 * 0.02**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("width", "depth", "words"),
    [
        ([2, 2, 2, 2], [1, 2, 3, 4], "^the effect of width needs at least 2 values of it, not 1$"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "^the effect of depth needs at least 2 values of it, not 1$"),
        ([1, 2, 4, 8], [3, 6, 12, 24], "^width and depth grow in step: their effects cannot be separated$"),
        ([1, 2, 1], [1, 1, 2], "^width and depth have 3 parameters and the table 3 runs; at least 4 are needed$"),
    ],
)
def test_effects_that_a_table_cannot_tell_apart_are_refused(width, depth, words):
    with pytest.raises(InputError, match=words):
        width_and_depth(width, depth, np.linspace(1, 2, len(width)))


def test_a_constant_loss_has_no_explained_share():
    assert width_and_depth(*table()[:2], np.ones(4)).r2 == 0.0


def test_a_slope_has_students_interval():
    """Squares 0.04 over 4 - 2 over 5; t with 2 is 4.302653."""
    found = slope([3, 4, 5, 6], 2 + 0.5 * np.arange(4) + WAVE)
    assert found.estimate == pytest.approx(0.5)
    assert found.high - 0.5 == pytest.approx(4.302653 * 0.004**0.5, rel=1e-6)
    assert 0.5 - found.low == pytest.approx(4.302653 * 0.004**0.5, rel=1e-6)
    assert slope([3, 4, 5, 6], 2 + 0.5 * np.arange(4) + WAVE, 0.9).high < found.high
    assert slope([1, 2], [1, 2]) is None
    assert slope([1, 1, 1], [1, 2, 3]) is None
    assert slope([1, 2, 2], [1, 2, 3]).estimate == pytest.approx(1.5)


def test_points_off_the_law_that_their_number_of_scales_allows():
    def points(scales, losses):
        return [Replicates(x, tuple(np.atleast_1d(loss))) for x, loss in zip(scales, losses, strict=True)]

    assert off_law(points([1.0], [3.0])) == [0.0]
    # A constant, robust: two runs of three have loss 2 or nearly, the third e times that.
    assert off_law(points([1.0, 2.0], [(2.0, 2.001), 2 * np.e])) == pytest.approx([0, 1], abs=0.01)
    x = np.array([1.0, 4.0, 16.0, 64.0])
    assert off_law(points(x[:3], 3 * x[:3] ** -0.5)) == pytest.approx([0] * 3, abs=1e-6)
    assert off_law(points(x, 1 + 3 * x**-0.5)) == pytest.approx([0] * 4, abs=1e-6)


def test_a_perplexity_line_by_hand():
    """ln perplexity = 4 - 0.1 ln x, and a wave of +-0.01 about it."""
    t = np.array([0.0, 1.0, 2.0, 3.0])
    loss = 4 - 0.1 * t + 0.1 * WAVE
    found = perplexity_line(np.exp(t), np.exp(loss))
    assert (found.a, found.b) == (pytest.approx(np.exp(4)), pytest.approx(-0.1))
    assert (found.n_runs, found.n_sizes, found.trend) == (4, 4, "falls")
    assert found.r2 == pytest.approx(1 - 0.0004 / (0.05 + 0.0004))  # 0.1^2 * 5 along the line
    ends = trend_test(t, np.log(loss), np.arange(4), 0.95).exponent
    assert found.b_low == pytest.approx(-loss.mean() * ends.high)
    assert found.b_high == pytest.approx(-loss.mean() * ends.low)
    assert found.b_low < found.b < found.b_high < 0
    assert found.to_json()["b"] == found.b
    flat = perplexity_line(np.exp(t), np.full(4, np.exp(2.0)))
    assert (flat.r2, flat.trend, flat.b) == (0.0, "none", pytest.approx(0, abs=1e-9))
    with pytest.raises(InputError, match="2 distinct values of 'size'"):
        perplexity_line([1, 2], [30, 20], x_name="size")


def test_runs_that_none_of_at_most_their_cost_beats():
    assert undominated([3, 1, 2, 2, 4], [1, 3, 2, 5, 1]) == [(1, 3), (2, 2), (3, 1)]


def test_a_configuration_has_a_geometric_mean_and_the_spread_of_its_seeds():
    """ln 1 and ln e^2: mean e, standard deviation sqrt(2)."""
    one = Replicates(3.0, (1.0, float(np.exp(2))))
    assert (one.mean, one.spread) == (pytest.approx(np.e), pytest.approx(2**0.5))
    assert Replicates(3.0, (5.0,)).spread == 0.0


def test_errors_and_hits_of_hidden_configurations_are_counted():
    """Off by a factor e and by 1/e^2: sqrt((1 + 4) / 2); the first lies inside its interval, ends included."""
    points = [Replicates(1.0, (1.0,)), Replicates(2.0, (1.0,))]
    said = [Prediction(np.e, 1.0, 3.0), Prediction(float(np.exp(-2)), 0.1, 0.5)]
    found = HeldOut("", (), tuple(
        Hidden(point, {"law": one, "last": Prediction(1.0)}) for point, one in zip(points, said, strict=True)
    ), 0.95, {}, ())  # fmt: skip
    assert found.predictors == ("law", "last")
    assert found.rmse_log("law") == pytest.approx(2.5**0.5)
    assert found.rmse_log("last") == 0.0
    assert (found.n_inside("law"), found.n_inside("last")) == (1, None)
    assert [Prediction(1.0, 1.0, 2.0).holds(x) for x in (0.9, 1.0, 2.0, 2.1)] == [False, True, True, False]
    assert Prediction(1.0, None, 2.0).holds(1.0) is None


def test_a_quarter_of_the_configurations_is_hidden_and_five_scales_must_be_left():
    points = [Replicates(float(x), (2 + 3 * x**-0.5,)) for x in (64, 1, 2, 4, 8, 16, 32)]
    assert hold_out(points[:6]) is None  # round(6 / 4) = 2 hidden, 4 left
    assert hold_out(points[:1]) is None
    found = hold_out(points, level=0.9, series="here")
    assert [point.x for point in found.seen] == [1, 2, 4, 8, 16]
    assert [one.point.x for one in found.hidden] == [32, 64]
    assert found.predictors == ("power_irreducible", "power", "forecast", "last value", "tail line")
    assert (found.series, found.level) == ("here", 0.9)
    assert found.rmse_log("power_irreducible") < 1e-6
    assert found.n_inside("last value") is None
    # The last value seen is 2.75; at 32 and 64 there are 2 + 3 / sqrt(32) and 2.375.
    missed = np.log(2.75 / np.array([2 + 3 / 32**0.5, 2.375]))
    assert found.rmse_log("last value") == pytest.approx(np.sqrt(np.mean(missed**2)))
    assert (found.curve[0][0], found.curve[-1][0], len(found.curve)) == (pytest.approx(1), pytest.approx(64), 60)
    assert found.curve[-1][1] == pytest.approx(2.375, rel=1e-4)


def row(architecture, size, seed=0, **more):
    loss = 2 + 3 * size**-0.5
    return {"architecture": architecture, "seed": seed, "d_model": size, "n_layers": 2, "n_params_total": size,
            "n_params_non_embedding": size, "train_flops": 10 * size, "test_loss_nats": loss,
            "test_perplexity": float(np.exp(loss)), "n_vocab": 256, "unigram_test_perplexity": 20, **more}  # fmt: skip


def test_tables_of_sizes_say_what_all_rows_share_and_why_an_answer_is_missing(monkeypatch):
    asked = []

    def grouped(x, loss, names, **options):
        asked.append((x.tolist(), names, options))
        return SimpleNamespace(to_json=lambda: {"p_value": 0.5})

    monkeypatch.setattr(sizes, "grouped", grouped)
    monkeypatch.setattr(sizes, "loss_law", lambda rows, x: {"law of": x, "rows": len(rows)})
    rows = [row("a", size) for size in (16, 64, 256)] + [row("b", size, bigram_test_perplexity=9) for size in (16, 64)]
    found = sizes.analyse_sizes(rows)
    assert (found["level"], found["n_vocab"], found["unit"], found["n_train_tokens"]) == (0.95, 256, None, None)
    assert found["floors"] == {"unigram_test": 20.0}
    axes = ["n_params_total", "n_params_non_embedding", "train_flops"]
    assert [(one["architecture"], one["x"]) for one in found["loss_laws"]] == [(k, x) for k in "ab" for x in axes]
    assert [one["rows"] for one in found["loss_laws"]] == [3, 3, 3, 2, 2, 2]
    lines = found["perplexity_laws"]
    assert [(one["architecture"], one["x"], "b" in one) for one in lines] == [
        (k, x, k == "a") for k in "ab" for x in axes
    ]
    assert "2 distinct values of 'train_flops'" in lines[-1]["reason"]
    assert [(one["y"], one["law"], one["x"]) for one in found["grouped"]] == [
        *(("test_loss_nats", "power", axes[k]) for k in (1, 0, 2)), ("test_loss_nats", "power_irreducible", axes[1]),
    ]  # fmt: skip
    assert [one.get("p_value") for one in found["grouped"]] == [0.5, 0.5, 0.5, None]
    assert found["grouped"][3]["reason"] == sizes.too_few_for_a_floor(2)
    x, names, options = asked[2]
    assert (x, names) == ([160.0, 640.0, 2560.0, 160.0, 640.0], ["a", "a", "a", "b", "b"])
    assert options == {
        "replicate": [0] * 5,
        "law": "power",
        "level": 0.95,
        "x_name": axes[2],
        "loss_name": "test_loss_nats",
    }
    assert found["width_and_depth"]["a"] == {"reason": "the effect of depth needs at least 2 values of it, not 1"}
    assert found["frontier"]["b"] == [[160.0, 2.75], [640.0, 2.375]]
    assert sizes.too_few_for_a_floor(3).startswith("3 sizes cannot tell an irreducible loss from a slope; it is fitted")


def test_the_law_of_a_loss_of_few_sizes_has_no_floor():
    found = sizes.loss_law([row("a", size) for size in (16, 64, 256)], "n_params_total")
    assert found["n_sizes"] == 3
    assert found["chosen"] in ("power", "none")
    assert found["laws"]["power_irreducible"] == {"parameters": {}, "note": sizes.too_few_for_a_floor(3)}
    assert set(found["laws"]["power"]) == {"parameters", "note"}
    assert found["trend"] == "undecided"  # three sizes on a curve
    assert "test_loss_nats" in found["verdict"]
