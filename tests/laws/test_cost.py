"""What a run costs, fitted to a table's own column, and the best size and data under it; predictions at an optimum."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import metascale as ms
from metascale import laws
from metascale.core.errors import InputError
from metascale.laws.allocation import _best_sizes, _searched_sizes

SIZE, DATA = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 3e10, 6)))
LOG_K, A, B = np.log(3e-19), 1.1, 0.9
HOURS = np.exp(LOG_K) * SIZE**A * DATA**B
RNG = np.random.default_rng(3)
NOISE = 0.03 * RNG.standard_normal(36)


def loss_at(size, data):
    return 1.8 + 480 * size**-0.35 + 2100 * data**-0.37


def table(hours=HOURS, noise=0.003):
    loss = loss_at(SIZE, DATA) * np.exp(noise * np.random.default_rng(4).standard_normal(36))
    return {"N": SIZE, "D": DATA, "gpu_hours": hours, "loss": loss}


def best_size(budget):
    """N of least loss at a budget, by search on the law itself."""
    found = minimize_scalar(
        lambda n: loss_at(np.exp(n), np.exp((np.log(budget) - LOG_K - A * n) / B)), bounds=(10, 35), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return np.exp(found.x)


def test_the_best_size_under_a_cost_of_its_own_is_that_of_a_search():
    budgets = np.array([HOURS.max(), 30 * HOURS.max()])
    found = ms.optimum(table(noise=1e-6), budgets, cost="gpu_hours", n_bootstrap=50)
    wanted = [best_size(budget) for budget in budgets]
    assert found.n_params["estimate"] == pytest.approx(wanted, rel=2e-3)
    spent = np.exp(LOG_K) * found.n_params["estimate"] ** A * found.tokens["estimate"] ** B
    assert spent == pytest.approx(budgets, rel=1e-9)
    assert found.exponent["estimate"] == pytest.approx(np.log(wanted[1] / wanted[0]) / np.log(30), rel=2e-3)
    six = ms.optimum(table(noise=1e-6), [1e21], n_bootstrap=50)
    assert abs(np.log(six.n_params["estimate"][0] / best_size(1e21))) > 0.1  # 6 N D is another question


def test_closed_form_and_search_agree_for_every_refit_and_cost():
    fit = ms.fit(table(), x=("N", "D"), law="chinchilla", n_bootstrap=20)
    cost = laws.fit_cost(SIZE, DATA, HOURS * np.exp(NOISE))
    thetas = np.concatenate([fit.fit.theta[None], fit.bootstrap.theta])
    for costs in (cost.draws(len(thetas) - 1, 0), np.repeat(cost.theta[None], len(thetas), 0)):
        given = fit.fit, thetas, costs, np.log([10.0, 100.0]), None
        for closed, searched, near in zip(
            _best_sizes(*given), _searched_sizes(*given), (2e-2, 1e-5, 1e-2), strict=True
        ):
            np.testing.assert_allclose(searched, closed, atol=near)


def test_errors_of_the_exponents_are_those_of_least_squares():
    cost = laws.fit_cost(SIZE, DATA, HOURS * np.exp(NOISE), "gpu_hours")
    n, d = np.log(SIZE) - np.log(SIZE).mean(), np.log(DATA) - np.log(DATA).mean()
    # N and D of a grid are orthogonal, so that each exponent is a covariance over a variance.
    a, b = (A + (n @ NOISE) / (n @ n), B + (d @ NOISE) / (d @ d))
    left = NOISE - NOISE.mean() - (a - A) * n - (b - B) * d
    scatter = np.sqrt(left @ left / 33)
    errors = np.sqrt((cost.root**2).sum(1))
    assert cost.theta[1:] == pytest.approx([a, b])
    assert errors[1:] == pytest.approx([scatter / np.sqrt(n @ n), scatter / np.sqrt(d @ d)])
    centre = np.array([1.0, np.log(SIZE).mean(), np.log(DATA).mean()])
    assert np.sqrt(((centre @ cost.root) ** 2).sum()) == pytest.approx(scatter / 6)  # of the mean of 36 rows
    known, noisy = (ms.optimum(table(h), [100.0], cost="gpu_hours", n_bootstrap=300)
                    for h in (HOURS, HOURS * np.exp(6 * NOISE)))  # fmt: skip
    widths = [np.log(found.tokens["high"][0] / found.tokens["low"][0]) for found in (known, noisy)]
    assert widths[1] > widths[0]


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (HOURS * np.exp(np.linspace(-3, 3, 36)[::-1] * np.tile([1, -1], 18)), "does not follow a power law"),
        (HOURS * np.exp(0.08 * (np.log(SIZE) - 18.4) ** 2), "bends away from a power law"),
        (HOURS / DATA**2, "must grow with both"),
        (np.where(np.arange(36) == 3, 0.0, HOURS), "not positive"),
        (np.where(np.arange(36) < 4, HOURS, np.nan), "4 rows have a number there"),
        (np.where(SIZE[0] == SIZE, HOURS, np.nan), "vary apart"),
    ],
)
def test_a_column_that_is_no_cost_is_refused(hours, said):
    with pytest.raises(InputError, match=said):
        ms.optimum(table(hours), [10.0], cost="gpu_hours", n_bootstrap=20)


def test_an_optimum_predicts_a_run_at_its_points():
    surface = ms.fit(table(), x=("N", "D"), n_bootstrap=50)
    found = ms.optimum(surface, [1e21, 1e22], level=0.8)
    said, by_hand = found.predict(), surface.predict(found.points, 0.8)
    assert type(said) is laws.Prediction
    assert said.level == 0.8
    assert "together" in said.by  # no law was named: all forms predict
    assert np.array_equal(said.low, by_hand.low)
    assert said.x[:, 0].tolist() == found.n_params["estimate"].tolist()
    assert len(found.predict([[1e9, 1e10]], 0.9)) == 1
    alone = laws.optimum(surface.bootstrap, [1e21]).predict()
    assert alone.by == "hoffmann"
    assert alone.median[0] == pytest.approx(loss_at(*alone.x[0]), rel=0.02)
    assert pickle.loads(pickle.dumps(found)).predict().median[0] == said.median[0]
    stored = found.to_json()
    assert "source" not in stored
    json.dumps(stored, allow_nan=False)
    with pytest.raises(InputError, match="`cost` as what `fit_cost` returns"):
        ms.optimum(surface, [1e21], cost="gpu_hours")
