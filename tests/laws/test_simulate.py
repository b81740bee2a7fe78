"""Simulated tables hold what was planted: the law exactly, noise of its size, costs by their formula."""

from __future__ import annotations

import numpy as np
import pytest

import metascale as ms
from metascale.core.errors import InputError

GRID = {"N": [1e7, 1e8, 1e9], "D": [1e9, 1e10]}
HOFFMANN = {"E": 1.7, "A": 400.0, "alpha": 0.3, "B": 2000.0, "beta": 0.4}


def test_the_planted_loss_is_the_formulas_by_name_by_text_and_of_a_fit():
    truth = [1.7 + 400 * n**-0.3 + 2000 * d**-0.4 for n in GRID["N"] for d in GRID["D"]]
    for law in ("hoffmann", "chinchilla", "E + A/N**alpha + B/D**beta"):
        made = ms.simulate_table(law, GRID, HOFFMANN, noise=0.0, cost="6*N*D")
        assert made.numbers("loss") == pytest.approx(truth, rel=1e-12)
        assert made.numbers("cost").tolist() == [6 * n * d for n in GRID["N"] for d in GRID["D"]]
    diagonal = ms.simulate_table("hoffmann", {"N": [1e7, 1e8], "D": [2e8, 2e9]}, HOFFMANN, noise=0.0, crossed=False)
    assert diagonal.n_rows == 2
    x = np.geomspace(1e3, 1e6, 6)
    found = ms.fit({"tokens": x, "loss": 5 * x**-0.1}, law="power", n_bootstrap=20)
    again = ms.simulate_table(found, {"tokens": [1e7]}, noise=0.0)
    assert again.numbers("loss")[0] == pytest.approx(5 * 1e7**-0.1, rel=1e-6)


def test_noise_has_the_size_that_was_asked_for_and_the_seed_decides_it():
    asked = ("power", {"tokens": np.geomspace(1e3, 1e6, 50)}, {"A": 5.0, "alpha": 0.1})
    made = ms.simulate_table(*asked, seeds=40, noise=0.03, evaluation=0.04)
    off = np.log(made.numbers("loss") / (5 * made.numbers("tokens") ** -0.1))
    assert np.std(off) == pytest.approx(0.05, rel=0.05)  # 2,000 draws: 1.6 % is one standard deviation
    assert made.numbers("loss_se") == pytest.approx(0.04 * made.numbers("loss"))
    same = ms.simulate_table(*asked, seeds=40, noise=0.03, evaluation=0.04)
    assert np.array_equal(made.numbers("loss"), same.numbers("loss"))
    assert made.numbers("loss")[0] != ms.simulate_table(*asked, seeds=40, noise=0.03, seed=1).numbers("loss")[0]
    assert made.labels("seed")[1] == [str(k) for k in range(40)]


def test_what_cannot_be_planted_is_refused():
    for options, words in (
        (("power", {"x": [1.0]}, {"A": 1.0}), "needs the parameter 'alpha'"),
        (("power", {"x": [1.0]}, {"A": 1.0, "alpha": 1.0, "E": 1.0}), "has no parameter 'E'"),
        (("power", GRID, {"A": 1.0, "alpha": 1.0}), "has 1 scale and 2 are given"),
        (("powr", {"x": [1.0]}, {}), r"unknown in 1 scale, and no formula in x .*; did you mean 'power'\?$"),
        (("zzz", {"x": [1.0]}, {}), "allowed: none, power, .*exponential.*, hoffmann, .*mixture$"),
        (("power", {"x": [-1.0]}, {"A": 1.0, "alpha": 1.0}), "not a positive number"),
        (("E - x", {"x": [3.0]}, {"E": 1.0}), "planted loss is -2 in row 1"),
        (("power", {}, {}), "names no scale"),
    ):
        with pytest.raises(InputError, match=words):
            ms.simulate_table(*options)
    with pytest.raises(InputError, match="as many values as"):
        ms.simulate_table("hoffmann", GRID, HOFFMANN, crossed=False)
    with pytest.raises(InputError, match="1 or more"):
        ms.simulate_table("hoffmann", GRID, HOFFMANN, seeds=0)
