from __future__ import annotations

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws.expression import names_in, parse

X = np.array([[2.0, 3.0], [5.0, 0.7], [11.0, 1.3]])


@pytest.mark.parametrize(
    ("text", "by_hand"),
    [
        ("E + A/N**alpha", lambda n, d: 1.5 + 2.0 / n**0.25 + 0 * d),
        ("L = E + A*N^-alpha - D", lambda n, d: 1.5 + 2.0 * n**-0.25 - d),
        ("exp(E*log(N)) * sqrt(A) + log2(D) + log10(D) - alpha", lambda n, d: n**1.5 * 2**0.5 + np.log2(d)
         + np.log10(d) - 0.25),
        ("min(N, E*D) + max(A, D) + tanh(alpha) - -N**2", lambda n, d: np.minimum(n, 1.5 * d) + np.maximum(2.0, d)
         + np.tanh(0.25) + n**2),
        ("E + (A/(N*D))**alpha + 2**3**0.5", lambda n, d: 1.5 + (2 / (n * d)) ** 0.25 + 2 ** (3**0.5)),
    ],
)  # fmt: skip
def test_values_are_those_of_arithmetic(text, by_hand):
    formula = parse(text if "D" in text else text + " + 0*D", ("N", "D"))
    given = {"E": 1.5, "A": 2.0, "alpha": 0.25}
    theta = np.array([[given[name] for name in formula.parameters]])
    assert formula.bind(X).value(theta)[0] == pytest.approx(by_hand(X[:, 0], X[:, 1]), rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "E + A/N**alpha + B/D**beta",
        "((a/N)**(b/c) + d/D)**c",
        "E + exp(a + b*log(N) + c*log(N)*log(D) + d*log(D)**2)",
        "E + A*N**m*D**(-(n + o*log(N)))",
        "E + A/(min(N, b*D)*(1 + R*(1 - exp(-(N/min(N, b*D) - 1)/R))))**alpha + tanh(c*D) - max(a, N)*sqrt(d*D)",
    ],
)
def test_derivatives_are_those_of_finite_differences(text):
    formula = parse(text, ("N", "D"))
    theta = np.random.default_rng(0).uniform(0.3, 1.4, (2, len(formula.parameters)))
    value, jacobian = formula.bind(X).value_and_jacobian(theta)
    assert value == pytest.approx(formula.bind(X).value(theta))
    for k in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[k] = 1e-6
        numeric = (formula.bind(X).value(theta + step) - formula.bind(X).value(theta - step)) / 2e-6
        assert jacobian[..., k] == pytest.approx(numeric, rel=2e-6, abs=2e-9), formula.parameters[k]


def test_parameters_in_which_a_formula_is_linear_are_found():
    formula = parse("E - (A + c*2)/N**alpha + B*log(D)/gamma + N*D", ("N", "D"))
    assert formula.linear == ("E", "A", "c", "B")
    parts, rest = formula.parts
    nonlinear = np.array([[0.3, 2.0]])  # alpha, gamma
    assert parts[2].bind(X).value(nonlinear)[0] == pytest.approx(-2 * X[:, 0] ** -0.3)
    assert rest.bind(X).value(nonlinear)[0] == pytest.approx(X[:, 0] * X[:, 1])
    assert parse("(A/N)**alpha + A*D", ("N", "D")).linear == ()
    assert parse("A*B/N + D", ("N", "D")).linear == ("A",)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "E + N.__class__ + D", "[E, N, D]", "lambda E: N + D", "E if N else D",
        "E + N + D and 1", "f(N) + E*D", "E + exp(N, D)", "exp(N=E) + D", "E + N + D + 'a'", "E + N + D + True",
        "E + N + D + 1j", "E + N + D + 1e999", "E +", "", "N + D", "E + A/N**a", "E := N + D", "exp + N*D",
        "E*N*D" + "+1" * 600, "(" * 300 + "E*N*D" + ")" * 300 + "+" + "-" * 3000 + "E", "E + N + D #" + "x" * 5000,
        "E + N[0] + D", "E // N + D", "E % N + D", "E @ N + D", "~E + N + D", "not E + N + D", "{E: N, 1: D}",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(InputError, match="allowed") as refused:
        parse(text, ("N", "D"))
    assert refused.value.field == "law"


def test_columns_that_are_no_names_are_written_with_underscores():
    formula = parse("E + A/Model_Size**a", ("Model Size",))
    assert formula.bind(np.array([[4.0]])).value(np.array([[1.0, 2.0, 0.5]]))[0] == pytest.approx(2.0)
    assert names_in("L = E + A*exp(N)") == {"E", "A", "N"}
