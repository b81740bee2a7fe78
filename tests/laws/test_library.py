"""Planted parameters come back from every law of the library, and published fits are reproduced."""

from __future__ import annotations

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws.formula import fit_formula
from metascale.laws.library import LIBRARY, law_of, mixture_law
from metascale.laws.observations import observe

PLANTED = {
    "hoffmann": ({"N": (1e7, 1e10), "D": (1e9, 1e12)}, LIBRARY["hoffmann"].published),
    "kaplan_joint": ({"N": (1e5, 1e9), "D": (1e7, 1e11)}, LIBRARY["kaplan_joint"].published),
    "muennighoff": ({"N": (1e7, 1e10), "D": (4e9, 4e11), "U": (1e8, 4e9)}, LIBRARY["muennighoff"].published),
    "farseer": ({"N": (1e8, 1e10), "D": (1e9, 5e11)}, LIBRARY["farseer"].published),
    "moe": ({"N": (1e7, 1e9), "X": (1, 512)}, {"d": 1.9, "a": -0.082, "b": -0.108, "c": 0.009, "E_start": 1.8,
                                               "E_max": 314.0}),
    "moe_unsaturated": ({"N": (1e7, 1e9), "X": (1, 512)}, {"d": 2.6, "a": -0.085, "b": -0.1, "c": 0.004}),
    "vocabulary": ({"N": (3e7, 1e9), "V": (4e3, 1e5), "D": (1e8, 2e11)}, {
        "E": -5.5, "A_1": 60.0, "alpha_1": 0.3, "A_2": 20.0, "alpha_2": 0.4, "B": 8000.0, "beta": 0.4}),
    "parallel": ({"N": (5e8, 5e9), "P": (1, 8)}, {"E": 0.69, "A": 1.2e7, "k": 0.33, "alpha": 0.19}),
    "sparsity": ({"N": (1e6, 1e8), "D": (1e9, 1e11), "K": (0.125, 1.0)}, LIBRARY["sparsity"].published),
    "lr_batch": ({"N": (1e8, 1e9), "D": (1e9, 1e11), "R": (1e-4, 1e-2), "S": (3e4, 2e6)}, {
        "E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37, "k_R": 0.02, "k_S": 0.01,
        **LIBRARY["lr_batch"].published}),
    "precision": ({"N": (3e7, 3e8), "D": (1e9, 3e10), "P": (3, 16)}, {**LIBRARY["precision"].published, "beta": 0.48}),
}  # fmt: skip


def planted_table(law, ranges, values, noise=0.0):
    levels = 9 if len(ranges) == 2 else 5 if len(ranges) == 3 else 4
    grid = np.meshgrid(*[np.geomspace(*ends, levels) for ends in ranges.values()])
    x = np.column_stack([part.ravel() for part in grid])
    theta = np.array([[values[name] for name in law.expression.parameters]])
    loss = law.expression.bind(x).value(theta)[0]
    return observe(x, loss + noise * np.random.default_rng(0).standard_normal(len(loss)), x_name=tuple(ranges),
                   signed=True)  # fmt: skip


def test_every_law_of_the_library_is_planted():
    assert set(PLANTED) == set(LIBRARY)
    assert all(len(law.reference) > 30 for law in LIBRARY.values())


@pytest.mark.parametrize("name", PLANTED)
def test_planted_parameters_come_back(name):
    ranges, values = PLANTED[name]
    law = LIBRARY[name]
    found = fit_formula(law, planted_table(law, ranges, values))
    assert found.rmse < 1e-6
    if name in ("kaplan_joint", "parallel"):  # N_c and D_c, E and A trade off over decades: the exponents are tight
        values = {key: value for key, value in values.items() if "alpha" in key or key == "k"}
    assert {key: found.parameters[key] for key in values} == pytest.approx(values, rel=2e-3)


def test_mixture_proportions():
    rng = np.random.default_rng(1)
    shares = rng.dirichlet([1.0, 1.0, 1.0], 40)
    loss = 1.6 + np.exp(shares @ [0.4, -0.8, 0.1])
    found = fit_formula(mixture_law(3), observe(shares, loss, x_name=("r1", "r2", "r3")))
    assert found.parameters == pytest.approx({"c": 1.6, "t_1": 0.4, "t_2": -0.8, "t_3": 0.1}, rel=1e-4)


def test_the_published_refit_of_hoffmann_is_reached_as_a_formula(hoffmann):
    size, tokens, loss = (column[:240] for column in hoffmann)
    table = observe(np.column_stack([size, tokens]), loss, x_name=("N", "D"))
    for text in ("hoffmann", "E + A/N**alpha + B/D**beta"):
        found = fit_formula(law_of(text, ("N", "D")), table)
        assert found.objective_value == pytest.approx(0.00101827401780, rel=1e-9)
        assert found.parameters["A"] == pytest.approx(477.826, rel=1e-4)
        assert found.parameters["beta"] == pytest.approx(0.367172, rel=1e-5)


def test_bounds_and_fixed_values():
    law = law_of("E + A/N**alpha + B/D**beta", ("N", "D"))
    table = planted_table(law, {"N": (1e7, 1e10), "D": (1e9, 1e12)}, LIBRARY["hoffmann"].published)
    held = fit_formula(law.constrained({"alpha": (0.0, 0.3)}, {"E": 1.7}), table)
    assert held.parameters["E"] == 1.7
    assert held.parameters["alpha"] == 0.3
    assert held.at_bound == ("alpha",)
    assert set(held.free) == {"A", "alpha", "B", "beta"}
    other = fit_formula(law.constrained(None, {"E": 1.8172}), table)
    assert other.parameters["alpha"] == pytest.approx(0.3478, rel=1e-4)
    with pytest.raises(InputError, match="no parameter 'gamma'"):
        law.constrained({"gamma": (0, 1)})
    with pytest.raises(InputError, match="no range"):
        law.constrained({"alpha": (2, 0)})


def test_rescaling_a_column_changes_coefficients_and_nothing_else():
    law = law_of("E + A/N**alpha + B/D**beta", ("N", "D"))
    table = planted_table(law, {"N": (1e7, 1e10), "D": (1e9, 1e12)}, LIBRARY["hoffmann"].published, noise=0.01)
    moved = observe(table.x / [1e6, 1e9], table.loss * 1e3, x_name=("N", "D"))
    one, two = fit_formula(law, table), fit_formula(law, moved)
    assert two.parameters["alpha"] == pytest.approx(one.parameters["alpha"], rel=1e-6)
    assert two.parameters["E"] == pytest.approx(1e3 * one.parameters["E"], rel=1e-6)
    assert two.objective_value == pytest.approx(one.objective_value, rel=1e-9)


def test_standard_errors_are_those_of_repeated_tables():
    law = law_of("E + A/N**alpha + B/D**beta", ("N", "D"))
    x = np.column_stack([part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8))])
    clean = 1.8 + 480 / x[:, 0] ** 0.35 + 2100 / x[:, 1] ** 0.37
    found = []
    for seed in range(60):
        noisy = clean * np.exp(0.01 * np.random.default_rng(seed).standard_normal(len(x)))
        fit = fit_formula(law, observe(x, noisy, x_name=("N", "D")))
        found.append((fit.parameters["alpha"], np.sqrt(fit.covariance[2, 2])))
    estimates, errors = np.array(found).T
    assert errors.mean() == pytest.approx(estimates.std(), rel=0.3)


def test_laws_are_refused_by_name():
    with pytest.raises(InputError, match="did you mean 'hoffmann'"):
        law_of("hofman", ("N", "D"))
    with pytest.raises(InputError, match="in 3 scales"):
        law_of("muennighoff", ("N", "D"))
    table = observe([[1e7, 1e9], [1e8, 1e9], [1e9, 1e9]], [3.0, 2.5, 2.2], x_name=("N", "D"))
    with pytest.raises(InputError, match="5 parameters to fit and the table 3 distinct"):
        fit_formula(LIBRARY["hoffmann"], table)
