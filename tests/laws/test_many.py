"""Many tables in one call have the laws of one after another."""

from __future__ import annotations

import importlib.util
import pickle
from dataclasses import replace

import numpy as np
import pytest

import metascale as ms
from metascale import laws
from metascale.core.errors import InputError, MissingDependency
from metascale.laws import LAWS, solving
from metascale.laws.many import fit_each
from metascale.laws.newton import Local, minimise
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.solving import MOST_ROWS, Solve, solve, stepwise, together


def tables(n):
    rng = np.random.default_rng(0)
    found = {}
    for k in range(n):
        x = np.geomspace(1e6, 1e9 * (1 + k), 6)
        found[f"task {k}"] = {"tokens": x, "loss": (1.7 + 410 * x**-0.4) * np.exp(0.01 * rng.standard_normal(6))}
    return found


def ragged():
    """Tables of other sizes, seeds and shapes, one of which is too large for a batch."""
    rng, found = np.random.default_rng(1), {}
    for k, (scales, seeds) in enumerate(((3, 1), (7, 1), (9, 3), (MOST_ROWS + 1, 1))):
        x = np.repeat(np.geomspace(1e6, 1e10, scales), seeds)
        loss = (0.5 * k + 410 * x**-0.3) * np.exp(0.01 * rng.standard_normal(len(x)))
        found[f"{scales} x {seeds}"] = {"tokens": x, "loss": loss}
    flat = np.geomspace(1e6, 1e9, 8)
    found["flat"] = {"tokens": flat, "loss": np.exp(0.02 * rng.standard_normal(8))}
    found["exact"] = {"tokens": flat, "loss": 3 * flat**-0.2}
    found["accuracy"] = {"tokens": flat, "loss": 1 / (1 + np.exp(3 - 0.1 * np.log(flat)))}
    return found


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_many_tables_have_the_numbers_of_one_after_another(every):
    several, odd = tables(2 if every else 1), ragged()
    given = {**several, **(odd if every else {name: odd[name] for name in ("3 x 1", "9 x 3", "flat")})}
    options = {"n_bootstrap": 40 if every else 15}
    found = ms.fit_many(given, **options)
    assert list(found) == list(given)
    for name, law in found.items():
        apart = ms.fit(given[name], **options)
        assert law.summary() == apart.summary(), name
        assert law.predict([1e11]).low[0] == apart.predict([1e11]).low[0]
        for family, result in apart.families.items():
            if result.fit is not None:
                other = law.families[family].fit
                np.testing.assert_allclose(other.theta, result.fit.theta, rtol=1e-9, atol=1e-12)
                assert (other.n_agree, other.n_starts) == (result.fit.n_agree, result.fit.n_starts)
        np.testing.assert_allclose(law.bootstrap.theta, apart.bootstrap.theta, rtol=1e-9, atol=1e-12)


def test_groups_have_the_laws_of_their_tables():
    given = tables(3)
    rows = {name: np.concatenate([table[name] for table in given.values()]) for name in ("tokens", "loss")}
    rows["task"] = np.repeat(list(given), 6)
    grouped = ms.fit(rows, x="tokens", group="task", n_bootstrap=20)
    assert {name: law.summary() for name, law in grouped.items()} == {
        name: ms.fit(table, n_bootstrap=20).summary() for name, table in given.items()
    }


def test_a_table_that_cannot_be_fitted_is_named():
    given = {**tables(2), "task x": {"tokens": [1e3, 1e4], "loss": [2.0, 1.0]}}
    with pytest.raises(InputError, match=r"^task x: the table has 2 distinct values"):
        ms.fit_many(given, law="power", n_bootstrap=20)
    assert fit_each({}) == {}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"tokens": [1e3, 1e4, 1e5], "loss": ["3", "two", "1"]}, "row 2: 'loss' is 'two', not a number"),
        ({"tokens": [1e3, 1e4], "loss": [2.0]}, "differ in length"),
        ("nowhere.csv", "there is no file 'nowhere.csv'"),
        ({"tokens": [1e3] * 3, "method": ["a", "b", "a"], "loss": [3.0, 2.0, 1.0]}, "the table has groups in 'method'"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(table, why):
    with pytest.raises(InputError) as error:
        ms.fit_many({"task 0": tables(1)["task 0"], "task x": table}, n_bootstrap=20)
    assert str(error.value).startswith("task x: ")
    assert why in str(error.value)


@pytest.mark.parametrize("name", [name for name in LAWS if LAWS[name].n_axes == 1])
def test_a_batch_of_tables_agrees_with_the_products_of_matrices(name):
    """Value, gradient, Hessian and majoriser of the two ways to expand a law, the second with rows of weight 0."""
    law, rng = LAWS[name], np.random.default_rng(2)
    theta = np.where(law.positive, rng.normal(0, 0.3, (3, law.n_parameters)), rng.uniform(0.3, 0.9, law.n_parameters))
    if "L0" in law.parameters:
        theta[:, law.parameters.index("L0")] = 2.0
    t, weights = rng.uniform(-2, 2, 9), rng.uniform(0.5, 2, (3, 9))
    target = law.curve.log_predict(theta, t[:, None]) + rng.normal(0, 0.2, (3, 9))
    for objective in (LeastSquares(), LogHuber(0.1)):
        one = law.curve.expand(theta, t[:, None], target, weights, objective)
        padded = [np.pad(part.T, ((0, 4), (0, 0)), mode) for part, mode in ((target, "edge"), (weights, "constant"))]
        each = law.curve.expand_each(
            theta, np.pad(np.tile(t[:, None], 3), ((0, 4), (0, 0)), "edge"), *padded, objective
        )
        for first, second in zip(one, each, strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-6, atol=1e-7)


def test_rows_of_a_batch_take_the_steps_that_they_take_alone():
    law, rng = LAWS["power_irreducible"], np.random.default_rng(3)
    requests = []
    for n in (5, 6, 12):
        t = np.linspace(-2, 2, n)[:, None]
        y = np.log(0.5 + np.exp(-0.4 * t[:, 0])) + 0.02 * rng.standard_normal((30, n))
        requests.append(Solve(law, t, y, np.ones((1, n)), LogHuber(), np.tile([-0.5, 0.1, 0.3], (30, 1))))

    def asking(request):
        return (yield request)

    for request, found in zip(requests, together(asking(one) for one in requests), strict=True):
        alone = solve(request)
        for k in (0, 17):
            single = Solve(law, request.t, request.y[k : k + 1], request.weights, LogHuber(), request.starts[:1])
            np.testing.assert_array_equal(solve(single).theta[0], alone.theta[k])
        np.testing.assert_array_equal(found.theta, alone.theta)
        np.testing.assert_array_equal(found.iterations, alone.iterations)


@pytest.mark.parametrize("n", [5, 10, 12, 29])
def test_rows_that_fill_a_table_up_weigh_nothing(n):
    """The batch, of tables filled up to a few sizes, against the products of matrices of the table as it is."""
    t = np.linspace(-2, 2, n)[:, None]
    y = np.log(0.5 + np.exp(-0.4 * t.T)) + 0.02 * np.random.default_rng(n).standard_normal((1, n))
    request = Solve(LAWS["power_irreducible"], t, y, np.ones((1, n)), LeastSquares(), np.array([[-0.5, 0.1, 0.3]]))
    assert request.batch is not None
    np.testing.assert_allclose(solve(request).theta, solving._by_itself(request).theta, rtol=1e-8)


def test_only_requests_of_one_kind_are_a_batch():
    """With ln L = θ, ½ Σ (y - θ)² has its minimum at the mean, 2 for y = 1, 2, 3, and with ½ · 3 (θ - 0)² beside it at
    6 / (3 + 3) = 1."""
    law, three = LAWS["none"], np.array([[1.0, 2.0, 3.0]])
    plain = Solve(law, np.zeros((3, 1)), three, np.ones((1, 3)), LeastSquares(), np.zeros((1, 1)))
    held = replace(plain, prior=(np.zeros(1), np.full(1, 3.0)))
    assert held.batch is None
    assert [float(solve(one).theta[0, 0]) for one in (plain, held)] == pytest.approx([2.0, 1.0])
    for change in (
        {"objective": LogHuber(0.1)}, {"max_iterations": 7}, {"exact": False}, {"stall_share": 0.5},
        {"law": LAWS["power"]},
    ):  # fmt: skip
        assert replace(plain, **change).batch != plain.batch, change
    many = np.zeros((1, MOST_ROWS + 1))
    assert replace(plain, t=many.T, y=many, weights=many + 1).batch is None
    assert replace(plain, y=three + 1, starts=np.ones((4, 1))).batch == plain.batch


def test_few_rows_at_a_time_end_where_all_at_once_end():
    """Sum of (θ - c)⁴ / 4: Newton's method divides the distance by 3/2 a step, from every start."""
    centre = np.linspace(-3, 3, 23)[:, None]

    def evaluate(theta, rows):
        away = theta - centre[rows]
        return Local((away**4 / 4)[:, 0], away**3, 3 * away[:, None] ** 2, 3 * away**2 + 1e-9)

    from_zero = np.zeros((23, 1))
    whole = minimise(evaluate, from_zero, np.array([-5.0]), np.array([2.5]), tolerance=1e-13)
    parts = minimise(evaluate, from_zero, np.array([-5.0]), np.array([2.5]), tolerance=1e-13, width=4)
    np.testing.assert_array_equal(whole.theta, parts.theta)
    np.testing.assert_array_equal(whole.iterations, parts.iterations)
    np.testing.assert_allclose(whole.theta[:, 0], np.minimum(centre[:, 0], 2.5), atol=5e-3)


def test_an_error_in_the_steps_of_one_leaves_the_others():
    @stepwise
    def positive(x):
        if x < 0:
            raise InputError(f"{x} is negative")
        found = yield Solve(LAWS["none"], np.zeros((3, 1)), np.full((1, 3), float(x)), np.ones((1, 3)), LeastSquares(),
                            np.zeros((1, 1)))  # fmt: skip
        return float(found.theta[0, 0])

    first, error, last = together(positive.steps(x) for x in (1, -1, 2))
    assert (first, last) == (pytest.approx(1), pytest.approx(2))
    assert str(error) == "-1 is negative"
    assert positive(2) == last


def test_every_law_survives_pickling():
    for name, law in laws.LAWS.items():
        assert pickle.loads(pickle.dumps(law)) is law, name
    surface = ms.simulate_table(
        "hoffmann", {"N": np.geomspace(1e7, 1e9, 4), "D": np.geomspace(1e9, 1e11, 4)},
        {"E": 1.7, "A": 400.0, "alpha": 0.3, "B": 2000.0, "beta": 0.4},
    )  # fmt: skip
    found = ms.fit(surface, x=("N", "D"), law="E + A/N**alpha + B/D**beta")
    again = pickle.loads(pickle.dumps(found))
    assert again.predict([[1e10, 1e11]]).median[0] == found.predict([[1e10, 1e11]]).median[0]


def test_the_draws_go_to_arviz():
    found = ms.fit(tables(1)["task 0"], law="power", n_bootstrap=30)
    if importlib.util.find_spec("arviz") is None:
        with pytest.raises(MissingDependency, match=r"metascale\[arviz\]"):
            found.to_arviz()
        return
    posterior = found.to_arviz()["posterior"]
    assert posterior["alpha"].values.reshape(-1).tolist() == found.bootstrap.parameters["alpha"].tolist()
