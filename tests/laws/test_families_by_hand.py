"""Formulas, published laws and families against numbers worked out by hand or by a few independent lines of NumPy."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws.expression import as_name, is_formula, names_in, parse
from metascale.laws.families import (
    LAWS,
    _power_starts,
    box,
    distinct_best,
    grid,
    nonnegative_coefficients,
    rises,
    units,
)
from metascale.laws.fitting import log_scales, reference
from metascale.laws.formula import (
    Formula,
    _rename,
    default_objective,
    link_of,
    objective_words,
)
from metascale.laws.library import IN_THE_LIBRARY, LIBRARY, law_of, mixture_law, unknown_law
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import observe

A = np.array
INF = math.inf


# ------------------------------------------------------------------------------------------- formulas as text


def test_what_is_a_formula_and_how_columns_are_written() -> None:
    assert [is_formula(text) for text in ("power", "m-3", " auto ", "a*x", "2", "E + N", "")] == [
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert [as_name(column) for column in ("Model Size", "2x", "a.b", "ok_1", "é")] == [
        "Model_Size",
        "_2x",
        "a_b",
        "ok_1",
        "é",
    ]
    assert [names_in(text) for text in ("L = a*exp(N^b)", "a = b = c", "sin(x)", "1 +", "a*b")] == [
        {"a", "N", "b"},
        set(),
        {"sin", "x"},
        set(),
        {"a", "b"},
    ]


@pytest.mark.parametrize(
    ("text", "why", "allowed"),
    [
        ("a +", "it is not a formula", "names, numbers, + - * / ** ( ), exp, log, log2, log10, sqrt, tanh, min, max"),
        (
            "a + 'x'*x",
            "''x'' cannot stand in a formula",
            "numbers, names, + - * / ** ( ) and exp, log, log2, log10, sqrt, tanh, min, max",
        ),
        ("a + 1e999*x", "a number is not finite", "finite numbers"),
        ("exp(a, x)", "exp was given 2 arguments", "exp of 1"),
        ("min(a*x)", "min was given 1 arguments", "min of 2"),
        ("a + b", "it does not use the scale 'x'", "formulas in all of the scales named"),
        ("2*x", "it has no parameter to fit", "at least one name that is not a scale"),
        ("a*x" + "+1" * 200, "it has 201 operations", "at most 200"),
    ],
)
def test_why_a_formula_is_refused(text: str, why: str, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, ("x",))
    assert str(caught.value) == f"the law '{text}': {why}; allowed are {allowed}"
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("law", text, allowed)
    long = "a*x" + " " * 3998
    with pytest.raises(InputError, match=r"it has 4001 letters; allowed are at most 4000$"):
        parse(long, ("x",))
    assert parse("a*x" + "+1" * 199, ("x",)).parameters == ("a",)
    assert parse(long[:4000], ("x",)).parameters == ("a",)


def values(text: str, theta: list[float], x: list[float]) -> Any:
    return parse(text, ("x",)).bind(A(x)[:, None]).value(A([theta]))[0]


def test_powers_minima_and_what_is_held() -> None:
    """A whole power of a negative number is one; at a tie the first of two counts."""
    assert values("(x - a)**2", [3.0], [1.0, 5.0]).tolist() == [4, 4]
    assert values("(x - a)**-2", [3.0], [1.0, 5.0]) == pytest.approx([0.25, 0.25])
    assert values("(x - a)**0", [3.0], [3.0]).tolist() == [1]
    assert values("+a - x", [3.0], [1.0]).tolist() == [2]
    bound = parse("min(a, x) + max(b, x)", ("x",)).bind(A([[2.0], [1.0], [3.0]]))
    value, slopes = bound.value_and_jacobian(A([[2.0, 2.0]]))
    assert (value.tolist(), slopes[0].tolist()) == ([[4, 3, 5]], [[1, 1], [0, 1], [1, 0]])
    held = parse("a*x**b + c", ("x",)).fixed({"b": 2.0, "c": 1.0})
    assert (held.parameters, held.variables, held.text) == (("a",), ("x",), "a*x**b + c")
    assert held.bind(A([[3.0]])).value(A([[2.0]])).tolist() == [[19.0]]
    whole = parse("exp(a + b*x)", ("x",))
    assert whole.logarithm is not None
    assert (whole.logarithm.linear, whole.linear, parse("a*x", ("x",)).logarithm) == (("a", "b"), (), None)
    parts, rest = parse("-(a*x - a) + x", ("x",)).parts
    assert rest is not None
    assert parts[0].bind(A([[5.0]])).value(np.zeros((1, 0))).tolist() == [[-4.0]]
    assert rest.bind(A([[5.0]])).value(np.zeros((1, 0))).tolist() == [[5.0]]
    assert parse("min(a, x) + a", ("x",)).linear == ()
    roles = parse("E + A/N**alpha + min(N, k*D) + exp(g*D)/(N + h)", ("N", "D")).roles
    assert roles == {"E": ("N",), "A": (), "alpha": ("exponent",), "k": ("D",), "g": ("exponent",), "h": ("N",)}


def test_names_of_a_formula_are_changed_whole() -> None:
    assert _rename("N*N_c + 2*N1 - xN", {"N": "size"}) == "size*N_c + 2*N1 - xN"
    law = law_of("E + A/n**a", ("n",)).on(("Model Size",))
    assert (law.text, law.axes) == ("E + A/Model_Size**a", ("Model Size",))
    assert (link_of(A([1.0, 2.0])), link_of(A([1.0, 0.0]))) == ("log", "identity")
    assert default_objective(A([1.0, 2.0])) == LogHuber()
    assert default_objective(A([-1.0, 1.0])) == LogHuber(1e-3)
    assert default_objective(A([0.0, 0.0])) == LogHuber(1e-300)
    assert objective_words(LeastSquares(), "log") == "least squares of residuals of ln loss"
    assert (
        objective_words(LeastSquares(), "identity")
        == "least squares of the loss itself, since not all losses are positive"
    )
    assert objective_words(LogHuber(0.5), "log") == LogHuber(0.5).name
    assert objective_words(LogHuber(0.5), "identity") == (
        f"{LogHuber(0.5).name.removeprefix('log-')} of the loss itself, since not all losses are positive"
    )
    assert (Formula("f", "a*x", ("x",)).reference, Formula("f", "a*x", ("x",)).objective) == (
        "the user's formula",
        None,
    )


# ------------------------------------------------------------------------------------------- the library


def muennighoff(p: dict[str, float], n: Any, d: Any, u: Any) -> Any:
    unique = np.minimum(u, d)
    best = np.minimum(n, (u ** p["beta"] * p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / p["alpha"]))
    size = best * (1 + p["R_N"] * (1 - np.exp(-(n / best - 1) / p["R_N"])))
    data = unique * (1 + p["R_D"] * (1 - np.exp(-(d / unique - 1) / p["R_D"])))
    return p["E"] + p["A"] / size ** p["alpha"] + p["B"] / data ** p["beta"]


def routed(p: dict[str, float], x: Any) -> Any:
    return 1 / (1 / (x - 1 + 1 / (1 / p["E_start"] - 1 / p["E_max"])) + 1 / p["E_max"])


ROWS = A([[3e8, 4e10], [2e9, 5e9]])
PUBLISHED: dict[str, tuple[dict[str, float], Any, Any]] = {
    "hoffmann": (
        {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
        ROWS,
        lambda p, n, d: p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"],
    ),
    "kaplan_joint": (
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        ROWS,
        lambda p, n, d: ((p["N_c"] / n) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / d) ** p["alpha_D"],
    ),
    "muennighoff": (
        {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_N": 5.309739, "R_D": 15.387756},
        np.column_stack([ROWS, [1e9, 4e9]]),
        muennighoff,
    ),
    "farseer": (
        {
            "a1": -0.124,
            "g1": 0.123,
            "b1": 0.424,
            "a2": 88.01,
            "g2": -0.1,
            "b2": -6.287,
            "a3": -0.021,
            "g3": 0.169,
            "b3": -0.091,
        },
        ROWS,
        lambda p, n, d: (
            np.exp(p["a3"] * n ** p["g3"] + p["b3"])
            + np.exp(p["a2"] * n ** p["g2"] + p["b2"]) * d ** -np.exp(p["a1"] * n ** p["g1"] + p["b1"])
        ),
    ),
    "sparsity": (
        {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.90e8, "b_D": 0.203, "c": 0.651},
        np.column_stack([ROWS, [0.25, 1.0]]),
        lambda p, n, d, k: (p["a_S"] * k ** p["b_S"] + p["c_S"]) / n ** p["b_N"] + (p["a_D"] / d) ** p["b_D"] + p["c"],
    ),
    "lr_batch": (
        {"m_N": -0.713, "m_D": 0.307, "m_0": math.log(1.79), "n_D": 0.571, "n_0": math.log(0.58)},
        np.column_stack([ROWS, [1e-3, 2e-3], [1e5, 1e6]]),
        None,
    ),
    "precision": (
        {"E": 2.7648, "A": 4299.0, "B": 18060.0, "alpha": 0.4965, "gamma": 2.6745},
        np.column_stack([ROWS, [4, 8]]),
        None,
    ),
}
PLANTED = {
    "moe": (
        {"d": 1.9, "a": -0.08, "b": -0.1, "c": 0.01, "E_start": 1.8, "E_max": 314.0},
        lambda p, n, x: np.exp(p["d"] + p["a"] * np.log(n) + (p["b"] + p["c"] * np.log(n)) * np.log(routed(p, x))),
    ),
    "moe_unsaturated": (
        {"d": 1.9, "a": -0.08, "b": -0.1, "c": 0.01},
        lambda p, n, x: np.exp(p["d"] + p["a"] * np.log(n) + (p["b"] + p["c"] * np.log(n)) * np.log(x)),
    ),
    "parallel": (
        {"E": 0.7, "A": 1e7, "k": 0.3, "alpha": 0.2},
        lambda p, n, x: p["E"] + p["A"] / (n * (p["k"] * np.log(x) + 1)) ** p["alpha"],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_laws_have_their_values_and_their_form(name: str) -> None:
    published, rows, form = PUBLISHED[name]
    law = LIBRARY[name]
    assert dict(law.published) == published
    if form is not None:
        theta = A([[published[key] for key in law.expression.parameters]])
        assert law.expression.bind(rows).value(theta)[0] == pytest.approx(form(published, *rows.T), rel=1e-9)
    for key, value in {**law.starts, **published}.items():
        low, high = law.bounds.get(key, (-INF, INF))
        assert low <= value <= high, key


@pytest.mark.parametrize("name", PLANTED)
def test_laws_of_experts_and_streams_have_their_form(name: str) -> None:
    given, form = PLANTED[name]
    law, rows = LIBRARY[name], A([[1e8, 4.0], [3e9, 64.0]])
    theta = A([[given[key] for key in law.expression.parameters]])
    assert law.expression.bind(rows).value(theta)[0] == pytest.approx(form(given, *rows.T), rel=1e-9)


def test_what_the_library_promises_of_its_parameters() -> None:
    """Floors and coefficients are not negative, exponents lie between 0 and 4, scales of a law within their meaning."""
    for name, law in LIBRARY.items():
        for parameter, (low, high) in law.bounds.items():
            assert low < high
            assert parameter in law.expression.parameters
            kind = parameter.split("_")[0]
            if name in ("hoffmann", "vocabulary", "parallel", "precision", "lr_batch") and kind in ("E", "A", "B"):
                assert (low, high) == (0.0, INF), (name, parameter)
            if name in ("hoffmann", "vocabulary", "precision", "lr_batch") and kind in ("alpha", "beta"):
                assert (low, high) == (0.0, 4.0), (name, parameter)
    assert LIBRARY["moe"].bounds == {"E_start": (0.5, 64.0), "E_max": (65.0, 1e5)}
    assert {name: law.needs for name, law in LIBRARY.items() if law.needs} == {
        "muennighoff": "U is at most D",
        "moe": "X is at least 1",
        "parallel": "P is at least 1",
    }
    assert {name for name, law in LIBRARY.items() if law.objective == LeastSquares()} == {"vocabulary"}
    assert {name: law.axes for name, law in LIBRARY.items()} == {
        "hoffmann": ("N", "D"),
        "kaplan_joint": ("N", "D"),
        "muennighoff": ("N", "D", "U"),
        "farseer": ("N", "D"),
        "moe": ("N", "X"),
        "moe_unsaturated": ("N", "X"),
        "vocabulary": ("N", "V", "D"),
        "parallel": ("N", "P"),
        "sparsity": ("N", "D", "K"),
        "lr_batch": ("N", "D", "R", "S"),
        "precision": ("N", "D", "P"),
    }
    assert IN_THE_LIBRARY == {"chinchilla": "hoffmann", "kaplan": "kaplan_joint", "data_constrained": "muennighoff"}
    mixed = mixture_law(2)
    assert (mixed.text, mixed.axes, dict(mixed.bounds), dict(mixed.starts)) == (
        "c + exp(t_1*r1 + t_2*r2)",
        ("r1", "r2"),
        {"c": (0.0, INF)},
        {"t_1": 0.5, "t_2": 0.5},
    )
    assert (mixed.needs, law_of("mixture", ("web", "code")).axes) == ("proportions sum to 1", ("web", "code"))
    assert law_of("mixture", ("web", "code")).text == "c + exp(t_1*web + t_2*code)"
    error = unknown_law("hofmann", ["hoffmann", "power"], ("Model Size",))
    assert str(error) == (
        "the law 'hofmann' is unknown in 1 scale, and no formula in Model_Size such as 'E + "
        "A/Model_Size**alpha'; did you mean "
        "'hoffmann'?"
    )
    assert (error.field, error.value, error.allowed) == ("law", "hofmann", "hoffmann, power")
    assert "unknown in 2 scales" in str(unknown_law("x", ["a"], ("n", "d")))


# ------------------------------------------------------------------------------------------- families


def test_least_squares_of_relative_errors_without_negative_coefficients() -> None:
    """y = 2 + 3 c exactly; and y = 4 - c, where the slope would be negative: the constant k alone, at the minimum of
    the sum of (k / y - 1)^2, that is k = sum(1 / y) / sum(1 / y^2)."""
    c, w = A([1.0, 2.0, 3.0]), np.ones(3)
    columns = np.stack([np.ones(3), c], -1)[None]
    found, error = nonnegative_coefficients(columns, 2 + 3 * c, w)
    assert (found[0], error[0]) == (pytest.approx([2, 3], rel=1e-6), pytest.approx(0, abs=1e-9))
    y = 4 - c
    found, error = nonnegative_coefficients(columns, y, w)
    k = (1 / y).sum() / (1 / y**2).sum()
    assert (found[0], error[0]) == (pytest.approx([k, 0], rel=1e-6), pytest.approx(((k / y - 1) ** 2).sum(), rel=1e-6))
    assert grid([1, 2], [3, 4]).tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]
    assert distinct_best(A([[1.0], [2.0], [3.0]]), A([3.0, INF, 1.0]), 2).tolist() == [[3], [1]]


def test_bounds_and_units_of_parameters() -> None:
    t, y = A([[1.0], [3.0]]), A([-2.0, 5.0])
    low, high = box(("y", -1.0, 1.0), ("t", -2.0, 2.0), ("1/x", -3.0, 3.0), ("", -4.0, 4.0))(t, y)
    assert (low.tolist(), high.tolist()) == ([-3.0, -1.0, -6.0, -4.0], [6.0, 5.0, 2.0, 4.0])
    moved = units((0, 1, 0, 1.0), (2, None, 1, -1.0))(A([1.0, 2.0, 3.0]), A([10.0, 100.0]))
    assert moved.tolist() == [21.0, 2.0, -97.0]
    assert (rises(A([0.0, 1.0]), A([0.0, 1.0])), rises(A([0.0, 1.0]), A([1.0, 0.0]))) == (True, False)
    # A weighted line through (0, 1), (1, 0) and, twice, (2, -2): mean 5/4 and slope by hand.
    times, loss, weights = A([[0.0], [1.0], [2.0]]), A([1.0, 0.0, -2.0]), A([1.0, 1.0, 2.0])
    slope, level = np.polyfit(times[:, 0], loss, 1, w=np.sqrt(weights))
    assert _power_starts(times, loss, weights)[0] == pytest.approx([level, -slope])
    together = observe(A([[1.0, 10, 10], [10, 100, 10]]), [2.0, 1.0])
    centre = np.log(10) * A([0.5, 1.25, 1.25])
    assert reference(together, LAWS["data_constrained"]) == pytest.approx(centre)
    assert log_scales([[1.0, math.e]], 2) == pytest.approx(A([[0.0, 1.0]]))
    assert log_scales([1.0, math.e], 2) == pytest.approx(A([[0.0, 1.0]]))
    assert log_scales(math.e, 1) == pytest.approx(A([[1.0]]))


def test_a_law_travels_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(LAWS["m4"])) is LAWS["m4"]
    with pytest.raises(TypeError, match=r"^the law 'mine' is none of `LAWS` and cannot be pickled$"):
        pickle.dumps(replace(LAWS["m4"], name="mine"))
    assert {name: (law.n_axes, law.parameters) for name, law in LAWS.items()} == {
        "none": (1, ("A",)),
        "power": (1, ("A", "alpha")),
        "power_irreducible": (1, ("E", "A", "alpha")),
        "power_shifted": (1, ("E", "A", "alpha", "c")),
        "m3": (1, ("A", "alpha", "gamma")),
        "m4": (1, ("E", "L0", "kappa", "A", "alpha")),
        "broken": (1, ("E", "A", "alpha", "beta", "b", "f")),
        "exponential": (1, ("E", "A", "k")),
        "logistic": (1, ("a", "b")),
        "chinchilla": (2, ("E", "A", "B", "alpha", "beta")),
        "kaplan": (2, ("Nc", "Dc", "alpha_N", "alpha_D")),
        "data_constrained": (3, ("E", "A", "B", "alpha", "beta", "R_D", "R_N")),
    }
    assert {name: law.formula for name, law in LAWS.items() if law.n_axes == 1} == {
        "none": "L = A",
        "power": "L = A x^-alpha",
        "power_irreducible": "L = E + A x^-alpha",
        "power_shifted": "L = E + A (x + c)^-alpha",
        "m3": "L = A (1/x + gamma)^alpha",
        "m4": "(L - E) / L0 = A x^-alpha (1 - L / L0)^kappa",
        "broken": "L = E + A x^-alpha (1 + (x/b)^(1/f))^(-beta f)",
        "exponential": "L = E + A exp(-k x)",
        "logistic": "accuracy = 1 / (1 + exp(-(a + b ln x)))",
    }
