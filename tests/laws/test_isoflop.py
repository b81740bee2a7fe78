from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import envelope, isoflop

from .conftest import scaling_table


def surface(n, d):
    return 1.8 + 480 * n**-0.35 + 2100 * d**-0.37


def levels(sizes_per_level=9, off_centre=0.0):
    """Runs at 6 budgets, sizes spread about the true optimum of a surface with α = .35, β = .37."""
    rows = []
    growth = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    for compute in np.geomspace(1e18, 1e21, 6):
        best = growth * (compute / 6) ** (0.37 / 0.72)
        for size in best * np.exp(np.linspace(-1, 1, sizes_per_level) + off_centre):
            rows.append((compute, size, surface(size, compute / 6 / size)))
    return np.array(rows).T


def test_published_exponents_of_porian_come_back():
    table = scaling_table("porian_isoflop.csv")
    conditions = defaultdict(list)
    names = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
    for i in range(len(table["C"])):
        conditions[tuple(table[name][i] for name in names)].append(i)
    assert len(conditions) == 15
    for condition, rows in conditions.items():
        columns = [np.array([float(table[name][i]) for i in rows]) for name in ("C", "N", "loss")]
        found = isoflop(*columns)
        assert found.exponent == pytest.approx(float(table["pub_n_exponent"][rows[0]]), abs=0.03), condition


def test_parabolas_on_a_known_surface():
    found = isoflop(*levels())
    assert found.exponent == pytest.approx(0.37 / 0.72, abs=2e-3)
    assert found.skipped == 0
    json.dumps(found.to_json(), allow_nan=False)
    np.testing.assert_allclose(found.predict(found.compute), found.n_params, rtol=0.02)


def test_levels_whose_minimum_is_at_the_edge_are_left_out_and_said():
    compute, size, loss = levels()
    shift = compute == compute.max()
    size[shift] *= 20
    loss[shift] = surface(size[shift], compute[shift] / 6 / size[shift])
    found = isoflop(compute, size, loss)
    assert found.skipped == 1
    assert "edge" in found.notes[0]
    with pytest.raises(InputError, match="at least 3"):
        isoflop(compute[size < 1e8], size[size < 1e8], loss[size < 1e8])


def test_envelope_takes_the_lowest_runs():
    found = envelope(*levels(41))
    assert found.exponent == pytest.approx(0.37 / 0.72, abs=0.01)
    np.testing.assert_array_equal(np.sort(found.loss)[::-1], found.loss)
