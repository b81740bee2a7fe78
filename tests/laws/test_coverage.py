"""Do 95 % intervals hold the truth in 95 % of tables? 500 simulated tables a family (a long test)."""

from __future__ import annotations

import numpy as np
import pytest

from metascale.laws import LAWS, LeastSquares, LogHuber, bootstrap, fit_law
from metascale.laws.observations import observe

N_TABLES = 500
SCALES = np.geomspace(2, 2000, 16)
PLANTED = {
    "none": [2.0],
    "power": [3.0, 0.3],
    "power_irreducible": [0.5, 3.0, 0.5],
    "m3": [3.0, 0.5, 3e-3],
    "exponential": [0.5, 2.0, 0.004],
    "power_shifted": [0.4, 20.0, 0.7, 15.0],
    "m4": [0.3, 2.5, 0.8, 4.0, 0.6],
    "broken": [0.2, 2.5, 0.05, 0.7, 100.0, 0.3],
}
# Parameters of these trade off until single intervals mean little; what a reader uses, the curve, is checked instead.
CURVE_ONLY = ("power_shifted", "m4", "broken")


def covered(name, objective, n_tables, noise=0.02, replicates=3, n_resamples=200):
    """Share of tables whose interval holds the truth, for every parameter, or at points of the curve."""
    law = LAWS[name]
    values = np.array(PLANTED[name])
    coded = np.where(law.positive, np.log(values), values)
    x = np.repeat(SCALES, replicates)
    clean = law.curve.log_predict(coded[None], np.log(x)[:, None])[0]
    at = np.array([4.0, 60.0, 900.0])
    truth = law.curve.log_predict(coded[None], np.log(at)[:, None])[0]
    hits = []
    for seed in range(n_tables):
        rng = np.random.default_rng([seed, 7])
        loss = np.exp(clean + noise * rng.standard_normal(len(x)))
        fit = fit_law(law, observe(x, loss, replicate=np.arange(len(x))), objective)
        sample = bootstrap(fit, n_resamples, seed=seed)
        if name in CURVE_ONLY:
            low, high = np.quantile(sample.log_curves(at), [0.025, 0.975], axis=0)
            hits.append((low <= truth) & (truth <= high))
        else:
            bands = [sample.interval(parameter, 0.95) for parameter in law.parameters]
            hits.append([low <= value <= high for (low, high), value in zip(bands, values, strict=True)])
    return np.mean(hits, axis=0)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("objective", [LeastSquares(), LogHuber()], ids=["least_squares", "log_huber"])
def test_intervals_cover(name, objective):
    share = covered(name, objective, N_TABLES // 3 if name in CURVE_ONLY else N_TABLES, n_resamples=400)
    # 92 to 98 %, and one standard error of a share: 1 % with 500 tables, 2 % with a third of them.
    slack = 0.02 if name in CURVE_ONLY else 0.01
    assert (share >= 0.92 - slack).all(), share
    assert (share <= 0.98 + slack).all(), share


def test_intervals_cover_in_a_short_run():
    share = covered("power", LeastSquares(), 60)
    assert (share >= 0.87).all()
