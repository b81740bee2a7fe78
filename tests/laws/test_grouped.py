from __future__ import annotations

import json

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import grouped

X = np.tile(np.repeat([5.0, 10, 20, 50, 100, 200, 500], 3), 2)
GROUP = np.repeat(["maml", "reptile"], 21)


def losses(steeper, seed=0, floor=0.0):
    exponent = np.where(GROUP == "maml", 0.3, 0.3 + steeper)
    return (floor + 2 * X**-exponent) * np.exp(0.03 * np.random.default_rng(seed).standard_normal(42))


def test_one_exponent_serves_groups_that_share_it():
    found = grouped(X, losses(0.0), GROUP)
    assert found.better_shared
    assert found.shared["low"] <= 0.3 <= found.shared["high"]
    assert found.differences["reptile"]["low"] < 0 < found.differences["reptile"]["high"]
    assert "no evidence" in found.verdict


def test_a_steeper_group_is_found():
    found = grouped(X, losses(0.06), GROUP)
    assert not found.better_shared
    assert found.p_value < 0.02
    assert found.differences["reptile"]["low"] > 0
    assert "'reptile' falls fastest" in found.verdict
    json.dumps(found.to_json(), allow_nan=False)


def test_p_values_of_equal_groups_are_spread_out():
    values = [grouped(X, losses(0.0, seed), GROUP, n_bootstrap=60, seed=seed).p_value for seed in range(20)]
    assert 0.2 < np.mean(values) < 0.8
    assert np.mean(np.array(values) < 0.1) <= 0.25


def test_own_irreducible_losses():
    found = grouped(X, losses(0.0, floor=0.3), GROUP, law="power_irreducible", n_bootstrap=100)
    assert found.better_shared
    assert set(found.fits) == {"maml", "reptile"}


@pytest.mark.parametrize(
    ("group", "law", "words"),
    [
        (["a"] * 42, "power", "at least 2"),
        (GROUP, "m4", "power, power_irreducible"),
        (["a"] * 41 + ["b"], "power", "'b'"),
    ],
)
def test_refusals(group, law, words):
    with pytest.raises(InputError, match=words):
        grouped(X, losses(0.0), group, law=law)
