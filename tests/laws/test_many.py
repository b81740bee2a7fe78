"""Many tables in one call have the laws of one after another, whatever the number of workers."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest

import metascale as ms
from metascale import laws
from metascale.core.errors import InputError, MissingDependency
from metascale.laws.many import fit_each


def tables(n):
    rng = np.random.default_rng(0)
    found = {}
    for k in range(n):
        x = np.geomspace(1e6, 1e9 * (1 + k), 6)
        found[f"task {k}"] = {"tokens": x, "loss": (1.7 + 410 * x**-0.4) * np.exp(0.01 * rng.standard_normal(6))}
    return found


@pytest.mark.long
def test_workers_return_the_laws_of_one_after_another():
    given = tables(4)
    options = {"law": "power", "n_bootstrap": 20}
    apart = {name: ms.fit(table, **options) for name, table in given.items()}
    for workers in (1, 2):
        found = ms.fit_many(given, workers=workers, **options)
        assert list(found) == list(given)
        for name, law in found.items():
            assert law.summary() == apart[name].summary()
            assert law.predict([1e10]).low[0] == apart[name].predict([1e10]).low[0]


def test_a_table_that_cannot_be_fitted_is_named():
    given = {**tables(2), "task x": {"tokens": [1e3, 1e4], "loss": [2.0, 1.0]}}
    for workers in (1, 2):
        with pytest.raises(InputError, match=r"^task x: the table has 2 distinct values"):
            ms.fit_many(given, workers=workers, law="power", n_bootstrap=20)
    with pytest.raises(InputError, match="at least 1"):
        fit_each({}, workers=0)


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
