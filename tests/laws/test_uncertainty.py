from __future__ import annotations

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import LAWS, LeastSquares, bootstrap, crossover, fit_law, replicate_weights
from metascale.laws.likelihood import influence, profile
from metascale.laws.observations import observe
from metascale.laws.uncertainty import delta_intervals, residual_noise

SCALES = np.geomspace(2, 500, 8)


def table(sd=0.05, replicates=3, misfit=0.0, seed=0, curve=lambda x: 3 * x**-0.3):
    rng = np.random.default_rng(seed)
    x = np.repeat(SCALES, replicates)
    wobble = np.repeat(misfit * rng.standard_normal(len(SCALES)), replicates)
    return observe(x, curve(x) * np.exp(sd * rng.standard_normal(len(x)) + wobble), replicate=np.arange(len(x)))


def test_seed_noise_and_misfit_are_told_apart():
    within = [residual_noise(fit_law(LAWS["power"], table(seed=seed), LeastSquares())) for seed in range(60)]
    assert np.mean([noise.within for noise in within]) == pytest.approx(0.05**2, rel=0.15)
    rough = [residual_noise(fit_law(LAWS["power"], table(misfit=0.2, seed=s), LeastSquares())) for s in range(60)]
    assert np.mean([noise.within for noise in rough]) == pytest.approx(0.05**2, rel=0.15)
    assert np.mean([noise.between for noise in rough]) == pytest.approx(0.2**2, rel=0.2)


@pytest.mark.parametrize("replicates", [2, 3])
def test_few_seeds_do_not_shrink_the_spread(replicates):
    """The bootstrap standard error agrees with the spread over fresh tables, also with 2 seeds a scale."""
    slopes, errors = [], []
    for seed in range(120):
        fit = fit_law(LAWS["power"], table(replicates=replicates, seed=seed), LeastSquares())
        slopes.append(fit.parameters["alpha"])
        if seed < 40:
            errors.append(bootstrap(fit, 200, seed=seed).standard_errors()["alpha"])
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.2)


def test_delta_method_agrees_for_least_squares_on_a_line():
    fit = fit_law(LAWS["power"], table(replicates=1), LeastSquares())
    t = np.log(SCALES)
    exact = np.sqrt(np.sum(fit.residuals**2) / 6 / np.sum((t - t.mean()) ** 2))
    part = delta_intervals(fit, 0.95)["alpha"]
    assert (part["high"] - part["low"]) / 2 == pytest.approx(2.446912 * exact, rel=1e-3)


def test_profile_of_a_line_is_a_parabola_and_agrees():
    fit = fit_law(LAWS["power"], table(), LeastSquares())
    found, delta = profile(fit, "alpha"), delta_intervals(fit)["alpha"]
    assert found.identified
    assert found.low == pytest.approx(delta["low"], rel=0.03)
    assert found.high == pytest.approx(delta["high"], rel=0.03)
    assert found.deviance.min() < 1e-6


def test_profile_shows_that_an_irreducible_loss_is_not_identified():
    x = np.geomspace(10, 40, 8)
    rng = np.random.default_rng(0)
    loss = (0.5 + 2 * x**-0.3) * np.exp(0.01 * rng.standard_normal(8))
    fit = fit_law(LAWS["power_irreducible"], observe(x, loss), LeastSquares())
    found = profile(fit, "E", reach=6)
    assert not found.identified
    record = found.to_json()
    assert None in (record["low"], record["high"])
    slope = np.polyfit(found.values, found.others["alpha"], 1)[0]
    assert slope > 0  # a larger E is paid for by a larger exponent


def test_influence_finds_the_outlier():
    x, loss = SCALES, 3 * SCALES**-0.3
    loss = loss * np.exp(0.01 * np.cos(np.arange(8)))
    loss[-1] *= 1.5
    moved = influence(fit_law(LAWS["power"], observe(x, loss), LeastSquares()))["alpha"]
    whole = fit_law(LAWS["power"], observe(x, loss), LeastSquares()).parameters["alpha"]
    assert np.argmax(np.abs(moved - whole)) == 7
    without = fit_law(LAWS["power"], observe(x[:-1], loss[:-1]), LeastSquares()).parameters["alpha"]
    assert moved[7] == pytest.approx(without, rel=1e-6)


def test_checkpoints_of_one_run_stay_together():
    rng = np.random.default_rng(0)
    x = np.tile(SCALES, 10)
    run = np.repeat(np.arange(10), 8)
    loss = 3 * x**-0.3 * np.exp(0.1 * rng.standard_normal(10)[run])  # whole runs are high or low
    apart = bootstrap(fit_law(LAWS["power"], observe(x, loss), LeastSquares()), 300, kind="runs")
    together = fit_law(LAWS["power"], observe(x, loss, run=run), LeastSquares())
    spread = [sample.log_curves([30.0]).std() for sample in (apart, bootstrap(together, 300))]
    assert spread[1] > 2 * spread[0]


def test_refusals():
    fit = fit_law(LAWS["power"], table())
    with pytest.raises(InputError, match="at least 2"):
        bootstrap(fit, 1)
    with pytest.raises(InputError, match="auto, runs, residuals"):
        bootstrap(fit, 10, kind="jackknife")
    with pytest.raises(InputError, match="it has: A, alpha"):
        profile(fit, "beta")


def test_noisy_scales_weigh_less():
    x = np.repeat(SCALES, 4)
    sd = np.where(x < 20, 0.3, 0.01)
    plain, weighted = [], []
    for seed in range(40):
        table_ = observe(x, 3 * x**-0.3 * np.exp(sd * np.random.default_rng(seed).standard_normal(32)))
        weights = replicate_weights(table_)
        assert weights[x < 20].mean() < weights[x > 20].mean()
        for out, part in ((plain, None), (weighted, weights)):
            out.append(fit_law(LAWS["power"], table_, LeastSquares(), part).parameters["alpha"])
    assert np.std(weighted) < 0.85 * np.std(plain)
    with pytest.raises(InputError, match="at least 2 runs"):
        replicate_weights(observe(SCALES, SCALES**-0.3))


def test_crossover_of_two_lines():
    def noisy(curve, seed):
        noise = np.exp(0.005 * np.random.default_rng(seed).standard_normal(24))
        fit = fit_law(LAWS["power"], observe(np.repeat(SCALES, 3), np.repeat(curve, 3) * noise), LeastSquares())
        return bootstrap(fit, 200, seed=seed)

    first, second = noisy(3 * SCALES**-0.2, 0), noisy(4 * SCALES**-0.3, 1)
    found = crossover(first, second)
    true = (4 / 3) ** (1 / 0.1)
    assert found.estimate == pytest.approx(true, rel=0.2)
    assert found.low < true < found.high
    assert found.share == 1.0
    apart = crossover(first, noisy(1 * SCALES**-0.2, 2))
    assert apart.estimate is None
    assert apart.low is None
