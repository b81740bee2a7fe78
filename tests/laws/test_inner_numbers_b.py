"""Numbers inside beliefs, mixtures, corners, optima, backtests and costs, against independent lines of NumPy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from metascale.laws import belief, descent, mixture
from metascale.laws.belief import Belief, Form
from metascale.laws.expression import parse
from metascale.laws.formula import Formula
from metascale.laws.mixture import Component, Mixture
from metascale.laws.objective import LeastSquares

A = np.array
ROOT3 = math.sqrt(3.0)


def problem_of(text: str, x: Any, loss: Any, link: Any = "log", **bounds: Any) -> descent.Problem:
    expression = parse(text, tuple(f"x{k + 1}" for k in range(np.shape(x)[1])))
    lower, upper = A([bounds.get(name, (-np.inf, np.inf)) for name in expression.parameters], float).T
    return descent.Problem(expression, A(x, float), A(loss, float), np.ones(len(x)), link, lower, upper)


# ------------------------------------------------------------------------------------------- beliefs


def test_slopes_of_a_form_are_those_of_finite_differences_in_the_coordinates_of_the_fit() -> None:
    """c is linear, a an exponent, u a scale that is moved by its logarithm."""
    x = A([[3.0, 7.0], [5.0, 2.0], [11.0, 13.0]])
    problem = problem_of("c*x1**a + 0.7/(x2 + u)", x, [1.2, 2.3, 3.4], u=(0.0, np.inf), c=(0.0, 9.0))
    assert problem.coded.tolist() == [False, False, True]
    theta, step = A([1.3, 0.6, 4.0]), 1e-6

    def at(c: float, a: float, u: float) -> np.ndarray:
        return np.log(c * x[:, 0] ** a + 0.7 / (x[:, 1] + u))

    value, slope = belief._linearised(problem, theta, x)
    assert value == pytest.approx(at(*theta))
    moved = [(1.3 + step, 0.6, 4.0), (1.3, 0.6 + step, 4.0), (1.3, 0.6, 4.0 * math.exp(step))]
    assert slope == pytest.approx(A([(at(*one) - at(*theta)) / step for one in moved]).T, rel=1e-4)
    _, none = belief._linearised(problem_of("c*x1**a", x[:, :1], [1.0, 2.0, 3.0]), A([0.0, 0.5]), x[:, :1])
    assert np.isfinite(none).all()


def judged_by_loops(parts: list[tuple[Any, Any, Any]], noise: float, unit: float) -> tuple[float, list[Any], list[Any]]:
    """(residual, slope, precision) of every form: noise, covariances, leverages."""

    def spread_of(residual: Any, slope: Any, precision: Any) -> float:
        inverse = np.linalg.inv(sum(np.outer(row, row) for row in slope) / noise**2 + np.diag(precision))
        used = sum(row @ inverse @ row for row in slope) / noise**2
        squares = sum(one**2 for one in residual)
        return float((4 * (0.01 * unit) ** 2 + squares) / (4 + max(len(residual) - used, 0)))

    for _ in range(3):
        best = sorted(spread_of(*part) for part in parts)[:3]
        noise = math.sqrt(float(np.median(best)))
    covariances = [np.linalg.inv(s.T @ s / noise**2 + np.diag(p)) for _, s, p in parts]
    leverages = [A([row @ c @ row / noise**2 for row in s]) for (_, s, _), c in zip(parts, covariances, strict=True)]
    return noise, covariances, leverages


def test_forms_are_judged_by_each_run_left_out_and_the_noise_is_that_of_the_three_best() -> None:
    x = A([[2.0], [3.0], [5.0], [7.0], [11.0], [13.0]])
    loss = A([4.1, 5.2, 8.3, 9.9, 16.2, 17.1])
    texts = {"b*x1": [1.41], "E + b*x1": [0.9, 1.2], "E + b*x1 + c*x1**2": [0.2, 1.6, -0.02], "E + b/x1": [19.0, -30.0]}
    fitted: list[Any] = []
    parts = []
    for k, (text, theta) in enumerate(texts.items()):
        problem, precision = problem_of(text, x, loss, "identity"), A([0.3, 1.7, 2.9])[: len(theta)] * (k + 1)
        fitted.append((None, problem, precision, A(theta)))
        powers = {"b*x1": [x], "E + b*x1": [x**0, x], "E + b*x1 + c*x1**2": [x**0, x, x**2], "E + b/x1": [x**0, 1 / x]}
        slope = np.hstack(powers[text])
        parts.append((loss - slope @ A(theta), slope, precision))
    noise, covariances, errors = belief._judged(fitted, 0.8, 40.0)
    wanted, inverses, leverages = judged_by_loops(parts, 0.8, 40.0)
    assert noise == pytest.approx(wanted)
    for found, inverse in zip(covariances, inverses, strict=True):
        assert found == pytest.approx(inverse)
    alone = [A(part[0]) / (1 - leverage) for part, leverage in zip(parts, leverages, strict=True)]
    assert errors == pytest.approx([math.sqrt((one**2).mean() + (1e-3 * 40 * 0.01) ** 2) for one in alone], rel=1e-9)


def test_a_form_through_all_of_its_runs_is_held_to_a_thousandth() -> None:
    """One run and a prior that says nothing: the leverage is 1, and a residual of 0.02 counts as 20; no residual at
    all leaves 0.001 times 0.01 units."""
    problem = problem_of("b*x1", [[2.0]], [6.0], "identity")
    _, _, errors = belief._judged([(None, problem, A([1e-12]), A([2.99]))], 0.5, 3.0)  # type: ignore[list-item]
    assert errors == pytest.approx([0.02 / 1e-3], rel=1e-6)
    _, _, errors = belief._judged([(None, problem, A([0.7]), A([3.0]))], 0.5, 3.0)  # type: ignore[list-item]
    assert errors == pytest.approx([3e-5], rel=1e-9)


def test_a_belief_without_runs_has_the_noise_and_the_width_that_it_was_given() -> None:
    problem = problem_of("E + b*x1", np.zeros((0, 1)), [], "identity")
    noise, covariances, errors = belief._judged([(None, problem, A([4.0, 0.25]), A([2.0, 3.0]))], 0.37, 5.0)  # type: ignore[list-item]
    assert (noise, errors.tolist()) == (0.37, [1.0])
    assert covariances[0] == pytest.approx(np.diag([0.25, 4.0]))


@pytest.mark.parametrize(
    ("n", "known", "afresh", "rows"),
    [(4, None, 0, 1), (5, None, 5, 4), (5, 3, 5, 5), (5, 4, 4, 2), (6, 4, 6, 5), (4, 2, 2, 2)],
)
def test_where_the_fit_of_a_form_begins(
    n: int, known: int | None, afresh: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afresh from 5 rows on, and from one and a half times those of the last time."""
    problem = problem_of("E + b*x1**a", np.arange(2.0, 2.0 + n)[:, None], np.arange(1.0, 1.0 + n), E=(0.5, 9.0))
    problem = replace(problem, prior=(A([0.1, 2.0, -0.3]), A([5.0, 6.0, 7.0])))
    seen: dict[str, Any] = {}

    def minimise(wanted: Any, begin: Any, objective: Any, **options: Any) -> Any:
        seen.update(wanted=wanted, begin=begin, objective=objective, **options)
        values = A([np.nan, 0.7, 0.4, 0.9, 0.8])[: len(begin)]
        return descent.Solution(begin + 0.5, values if len(begin) > 1 else A([0.3]), np.ones(len(begin), bool))

    monkeypatch.setattr(descent, "minimise", minimise)
    monkeypatch.setattr(descent, "starts", lambda _, count: np.tile([3.0, np.nan, -0.7], (count, 1)))
    before = None if known is None else (A([4.0, 3.0, -0.5]), known)
    theta, at = belief._fitted(problem, A([5.0, 6.0, 7.0]), 0.3, before)
    assert (at, len(seen["begin"])) == (afresh, rows)
    assert seen["begin"][0] == pytest.approx([0.5, 2.0, -0.3])  # the prior's, inside the bounds
    if known is not None:
        assert seen["begin"][1] == pytest.approx([4.0, 3.0, -0.5])
    if rows > 2:
        assert seen["begin"][-3:] == pytest.approx(np.tile([3.0, 0.1, -0.7], (3, 1)))
    assert seen["wanted"].prior[0].tolist() == [0.1, 2.0, -0.3]
    assert seen["wanted"].prior[1] == pytest.approx([0.45, 0.54, 0.63])
    assert (seen["objective"], seen["iterations"], seen["tolerance"]) == (LeastSquares(), 30, 1e-5)
    best = {1: 0, 2: 1}.get(rows, 2)
    assert theta == pytest.approx(seen["begin"][best] + 0.5)


def test_a_form_that_finds_nothing_finite_is_none_and_one_without_runs_is_its_prior(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = replace(problem_of("b*x1", [[2.0]], [3.0], b=(0.2, 0.9)), prior=(A([1.5]), A([2.0])))
    monkeypatch.setattr(
        descent, "minimise", lambda _, begin, *__, **___: descent.Solution(begin, A([np.nan]), A([True]))
    )
    assert belief._fitted(problem, A([2.0]), 0.3, None) == (None, 0)
    empty = replace(problem, x=np.zeros((0, 1)), loss=np.zeros(0))
    theta, afresh = belief._fitted(empty, A([2.0]), 0.3, (A([0.4]), 7))
    assert (theta.tolist(), afresh) == ([0.9], 0)  # type: ignore[union-attr]


def test_priors_of_a_formula_in_the_coordinates_of_its_fit() -> None:
    """Unit 2, lowest loss 1.5: E about 0.75 +- 0.6, c about 1 +- 2, an exponent 0.3 +- 0.2, its change 0 +- 0.05, a
    parameter with a prior of its own as it is, and a nonlinear bend 0 +- 0.1."""
    law = Formula(
        "f", "E + c_x*x**(a_x + o_x*log(z)) + q_z*(1 + k_z*log(z)) + h*z**2/(z + u)", ("x", "z"),
        bounds={"E": (0.1, 5.0)}, priors={"a_x": (9.0, 9.0), "o_x": (9.0, 9.0), "u": (0.4, 1.6)},
    )  # fmt: skip
    assert set(law.expression.linear) >= {"E", "c_x"}
    x, loss = A([[2.0, 3.0], [5.0, 7.0]]), A([1.5, 8 / 3])
    problem, precision = belief._with_priors(law, x, loss, "log", (2.0, 0.9, 1.5))
    width = dict(zip(law.expression.parameters, 1 / np.sqrt(precision), strict=True))
    assert problem.prior is not None
    mean = dict(zip(law.expression.parameters, problem.prior[0], strict=True))
    assert problem.prior[1] == pytest.approx(precision)
    both = {name: (pytest.approx(mean[name]), pytest.approx(width[name])) for name in ("E", "c_x", "a_x", "o_x", "u")}
    assert both == {"E": (0.75, 0.6), "c_x": (1.0, 2.0), "a_x": (0.3, 0.2), "o_x": (0.0, 0.05), "u": (0.4, 1.6)}
    assert width["h"] == pytest.approx(1.0 if "h" in law.expression.linear else 0.5)
    assert width["k_z"] == pytest.approx(0.2 if "k_z" in law.expression.linear else 0.1)
    assert (problem.lower[0], problem.upper[0]) == (0.1, 5.0)
    assert np.isneginf(problem.lower[1:]).all()
    assert np.isposinf(problem.upper[1:]).all()
    assert (problem.weights.tolist(), problem.link) == ([1.0, 1.0], "log")
    assert problem.x is x
    assert problem.loss is loss


def test_sizes_of_losses_that_may_be_negative() -> None:
    assert belief._size(A([2.0, -4.0, 5.0]), "identity") == pytest.approx((math.sqrt(14), 1.0, -4.0))
    assert belief._size(A([-3.0, -3.0]), "identity") == pytest.approx((3e-9, -3.0, -3.0), rel=1e-9)
    assert belief._size(A([0.0, 0.0]), "identity")[0] == 1e-300
    assert belief._size(A([2.0, 4.0, 27.0]), "log") == pytest.approx((6.0, math.log(6), 2.0))
    assert belief._prior("q", True, "identity", (2.5, 7.0, 3.0)) == (7.0, 7.5)
    assert belief._prior("q", False, "identity", (2.5, 7.0, 3.0)) == (pytest.approx(math.log(2.5)), 3.0)
    assert belief._prior("E", True, "identity", (2.5, 7.0, 3.0)) == (1.75, 2.5)
    assert belief._prior("m", True, "identity", (2.5, 7.0, 3.0)) == (0.0, 1.25)


FIRST, SECOND = "E + b*x1", "c*x2**a"


def two_forms(link: Any = "identity", unit: float = 4.0) -> Belief:
    forms = []
    for text, theta, covariance, weight in (
        (FIRST, [2.0, 0.6], [[0.3, 0.05], [0.05, 0.2]], 0.65),
        (SECOND, [1.7, 0.4], [[0.15, -0.02], [-0.02, 0.08]], 0.35),
    ):
        expression = parse(text + (" + 0*x2" if text == FIRST else " + 0*x1"), ("x1", "x2"))
        problem = descent.Problem(
            expression, np.ones((0, 2)), np.ones(0), np.ones(0), link, np.full(2, -np.inf), np.full(2, np.inf)
        )
        forms.append(Form(None, problem, A(theta), A(covariance), weight, 1.0))  # type: ignore[arg-type]
    sites = np.log(A([[2.0, 3.0], [5.0, 4.0], [3.0, 9.0]]))
    return Belief(tuple(forms), link, 0.35, 0.9, sites, A([1.3, 0.7]), unit, 3, {})


def kernel(a: Any, b: Any) -> Any:
    """Matern's 3/2 with size 0.9 and lengths 1.3 and 0.7, by loops."""
    out = np.empty((len(a), len(b)))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            r = math.hypot((one[0] - other[0]) / 1.3, (one[1] - other[1]) / 0.7)
            out[i, j] = 0.81 * (1 + ROOT3 * r) * math.exp(-ROOT3 * r)
    return out


def test_the_covariance_of_the_law_has_three_parts() -> None:
    """What forms do not know, what they disagree about, and a process pinned to the runs (inverse, not Cholesky)."""
    held, x = two_forms(), A([[2.5, 3.5], [7.0, 6.0], [1.5, 2.0], [4.0, 11.0]])
    x1, x2 = x.T
    means = A([2.0 + 0.6 * x1, 1.7 * x2**0.4])
    slopes = [np.column_stack([x1**0, x1]), np.column_stack([x2**0.4, 1.7 * x2**0.4 * np.log(x2)])]
    centre = 0.65 * means[0] + 0.35 * means[1]
    wanted = np.zeros((4, 4))
    for k, (weight, form) in enumerate(zip((0.65, 0.35), held.forms, strict=True)):
        wanted += weight * slopes[k] @ form.covariance @ slopes[k].T
        wanted += weight * np.outer(means[k] - centre, means[k] - centre)
    logs = np.log(x)
    known = kernel(held.sites, held.sites) + 0.35**2 * np.eye(3)
    wanted += kernel(logs, logs) - kernel(logs, held.sites) @ np.linalg.solve(known, kernel(held.sites, logs))
    at = held.joint(x)
    assert at.mean == pytest.approx(centre)
    assert at.columns(A([2, 0])) == pytest.approx(wanted[:, [2, 0]])
    assert at.diagonal() == pytest.approx(np.diag(wanted))
    assert (at.noise2, at.n_points) == (pytest.approx(0.1225), 4)
    assert held._matern(logs, held.sites) == pytest.approx(kernel(logs, held.sites))
    reach = norm.ppf(0.9) * np.sqrt(np.diag(wanted) + 0.1225)
    assert held.predict(x, 0.8) == pytest.approx(A([centre, centre - reach, centre + reach]))
    assert held.predict(x)[2] == pytest.approx(centre + norm.ppf(0.95) * np.sqrt(np.diag(wanted) + 0.1225))
    in_logs = replace(held, link="log").losses(A([0.3, 800.0]), A([0.2, 0.1]), 0.6)
    assert in_logs[:, 0] == pytest.approx(np.exp(0.3 + norm.ppf(0.8) * A([0, -0.2, 0.2])))
    assert in_logs[:, 1] == pytest.approx(np.exp([700.0] * 3))
    assert replace(held, sites=np.zeros((0, 2))).pinned(logs).shape == (0, 4)


def test_forms_that_run_away_are_held_two_units_from_their_median() -> None:
    """Weights 0.65 and 0.35: the median is the first form's 2 + 0.6 x1; in units of 1.5 the second is at most 3 off."""
    held = two_forms(unit=1.5)
    means, slopes = held.means(A([[5.0, 1e9], [5.0, 1e-30], [5.0, 20.0]]))
    assert means[0] == pytest.approx([5.0, 5.0, 5.0])
    assert means[1] == pytest.approx([8.0, 2.0, 1.7 * 20**0.4])
    assert [slope.shape for slope in slopes] == [(3, 2), (3, 2)]


@pytest.mark.parametrize(("n", "signed"), [(2, False), (3, False), (3, True), (1, True), (0, False)])
def test_how_forms_are_joined_into_a_belief(n: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors 0.2, 0.5, 0.6 and 0.61: weights by the inverse square, up to three times the least."""
    x = A([[2.0, 3.0], [5.0, 11.0], [7.0, 4.0]])[:n]
    loss = A([3.0, 1.4, 2.2])[:n] - (3.5 if signed else 0.0)
    region = A([[2.0, 3.0], [100.0, 3.3], [7.0, 3.1]])
    laws = {name: Formula(name, f"{name} + 0*x + 0*z", ("x", "z")) for name in "pqrs"}
    monkeypatch.setattr(belief, "forms", lambda *_: laws)
    given: list[Any] = []

    def fitted(problem: Any, precision: Any, noise: float, known: Any) -> Any:
        given.append((noise, known))
        return A([1.0 + len(given)]), 10 + len(given)

    errors = A([0.5, 0.2, 0.6, 0.61])
    judged: list[Any] = []

    def judge(found: Any, noise: float, unit: float) -> Any:
        judged.append((noise, unit))
        return 0.9 if n == 3 else 0.1, [np.eye(1) * k for k in range(4)], errors

    monkeypatch.setattr(belief, "_fitted", fitted)
    monkeypatch.setattr(belief, "_judged", judge)
    found = belief.believe(("x", "z"), x, loss, region)
    unit = max(float(np.std(loss)), 1e-9 * float(np.abs(loss).max())) if signed else 1.0
    assert judged == [(pytest.approx(0.03 * unit), pytest.approx(unit))]
    assert given == [(pytest.approx(0.03 * unit), None)] * 4
    weights = A([1 / 0.25, 1 / 0.04, 1 / 0.36])
    assert found.weights == pytest.approx(weights / weights.sum())
    assert [form.error for form in found.forms] == [0.5, 0.2, 0.6]
    assert [form.covariance[0, 0] for form in found.forms] == [0, 1, 2]
    assert [form.law.name for form in found.forms] == ["p", "q", "r"]
    assert found.discrepancy == pytest.approx(0.45 if n == 3 else 0.03 * unit)
    wide = 0.5 * math.sqrt(2)
    assert found.length == pytest.approx([wide * math.log(50), wide * 0.5])
    assert (found.n, found.unit, found.link) == (n, pytest.approx(unit), "identity" if signed else "log")
    assert found.sites == pytest.approx(np.unique(np.log(x), axis=0) if n else np.zeros((0, 2)))
    assert {name: (theta.tolist(), rows) for name, (theta, rows) in found.starts.items()} == {
        name: ([2.0 + k], 11 + k) for k, name in enumerate("pqrs")
    }
    given.clear()
    belief.believe(("x", "z"), x, loss, region, found)
    assert [noise for noise, _ in given] == pytest.approx([found.noise if n else 0.03] * 4)
    assert [known[1] for _, known in given] == [11, 12, 13, 14]
    given.clear()
    belief.believe(("x", "z"), x, loss, region, replace(found, link="log" if signed else "identity"))
    assert given == [(pytest.approx(0.03 * unit), None)] * 4


def test_the_discrepancy_is_half_of_the_best_forms_error_where_that_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belief, "forms", lambda *_: {"p": Formula("p", "p + 0*x", ("x",))})
    monkeypatch.setattr(belief, "_fitted", lambda *_: (A([1.0]), 0))
    monkeypatch.setattr(belief, "_judged", lambda *_: (0.3, [np.eye(1)], A([0.7])))
    found = belief.believe(("x",), A([[2.0], [3.0]]), A([1.0, 2.0]), A([[2.0], [9.0]]))
    assert (found.discrepancy, found.noise) == (pytest.approx(0.35), 0.3)


# ------------------------------------------------------------------------------------------- mixtures


def test_a_components_variance_is_that_of_its_slopes() -> None:
    x = A([[3.0], [7.0]])
    covariance = A([[0.2, 0.03, 0.01], [0.03, 0.3, -0.02], [0.01, -0.02, 0.1]])
    part = Component("f", parse("E + c*x**a", ("x",)), 1.0, A([0.4, 1.9, -0.3]), covariance, 0.5)
    loss = 0.4 + 1.9 * x[:, 0] ** -0.3
    slope = np.column_stack([np.ones(2), x[:, 0] ** -0.3, 1.9 * x[:, 0] ** -0.3 * np.log(x[:, 0])])
    for link, mean, rows in (("identity", loss, slope), ("log", np.log(loss), slope / loss[:, None])):
        found = part.at(x, link)  # type: ignore[arg-type]
        assert found[0] == pytest.approx(mean)
        assert found[1] == pytest.approx([row @ part.covariance @ row for row in rows])
    down = replace(part, covariance=-np.eye(3)).at(x, "identity")
    assert down[1].tolist() == [0.0, 0.0]
    unknown = replace(part, covariance=np.full((3, 3), np.nan)).at(x, "identity")
    assert unknown[1].tolist() == [1e6, 1e6]


def test_weights_fall_with_a_forms_own_variance_beside_three_tenths_of_the_median_noise() -> None:
    weight, own, noise = A([0.2, 0.5, 0.3]), A([[0.7, 0.1], [0.05, 0.9], [0.4, 0.3]]), A([0.9, 0.3, 0.5])
    here = A([[w / (1 + v / (0.3 * 0.25)) for v in row] for w, row in zip(weight, own, strict=True)])
    assert mixture.weights_at(weight, own, noise) == pytest.approx(here / here.sum(0))
    still = mixture.weights_at(A([0.4, 0.6]), A([[0.0], [2e-301]]), A([0.0, 0.0]))
    assert still[0, 0] / still[1, 0] == pytest.approx(0.4 / 0.6 * (1 + 2e-301 / 3e-301))


def test_what_runs_away_is_held_fifty_from_the_median() -> None:
    mean, weight = A([[2.0, 2.0, 2.0], [1e4, -1e4, np.nan], [40.0, -40.0, 5.0]]), np.tile([[0.6], [0.3], [0.1]], (1, 3))
    assert mixture.tame(mean, weight).tolist() == [[2.0, 2.0, 2.0], [52.0, -48.0, 52.0], [40.0, -40.0, 5.0]]


def test_medians_by_weight_need_exactly_half() -> None:
    values = A([[5.0, 1.0], [3.0, 7.0], [4.0, 2.0]])
    assert mixture.weighted_median(values, A([[0.25, 1.0], [0.5, 3.0], [0.25, 0.5]])).tolist() == [3.0, 7.0]
    assert mixture.weighted_median(values, A([[2.0, 2.0], [0.5, 0.5], [0.5, 0.75]])).tolist() == [5.0, 1.0]


def blend(mean: Any, deviation: Any, weight: Any, share: float) -> float:
    """The quantile of a mixture of normals by root finding."""

    def missing(y: float) -> float:
        return sum(w * norm.cdf(y, m, s) for w, m, s in zip(weight, mean, deviation, strict=True)) - share

    return float(brentq(missing, -1e4, 1e4, xtol=1e-12))


def test_quantiles_of_mixtures_at_shares_that_are_not_symmetric() -> None:
    mean, deviation = A([[0.7, 2.0], [1.9, -3.0], [4.0, 900.0]]), A([[0.3, 1.1], [0.8, 0.2], [0.6, 0.4]])
    weight = A([[0.5, 0.3], [0.3, 0.7], [0.2, 1e-10]])
    shares = (0.02, 0.3, 0.6)
    found = mixture.quantiles(mean, deviation, weight, shares)
    wanted = [[blend(mean[:, j], deviation[:, j], weight[:, j], share) for j in range(2)] for share in shares]
    assert found == pytest.approx(A(wanted), abs=1e-8)
    assert mixture.quantiles(mean, deviation, weight, (0.4, 0.999)) == pytest.approx(
        A([[blend(mean[:, j], deviation[:, j], weight[:, j], share) for j in range(2)] for share in (0.4, 0.999)]),
        abs=1e-6,
    )


def two_components(link: Any) -> Mixture:
    parts = (
        Component("one", parse("a + b*x", ("x",)), 0.7, A([1.3, 0.4]), A([[0.02, 0.003], [0.003, 0.005]]), 0.11),
        Component("two", parse("c*x**d", ("x",)), 0.3, A([2.1, 0.6]), A([[0.03, -0.004], [-0.004, 0.002]]), 0.25),
    )
    return Mixture(parts, link, ("x",), "y", 0.17, 0.23, 0.8, A([2.0]), A([9.0]), np.log(A([[2.0], [5.0], [9.0]])))


@pytest.mark.parametrize("link", ["identity", "log"])
def test_a_mixture_of_two_forms_from_its_parts(link: Any) -> None:
    x = A([3.0, 20.0])
    loss = A([1.3 + 0.4 * x, 2.1 * x**0.6])
    slopes = [np.column_stack([x**0, x]), np.column_stack([x**0.6, 2.1 * x**0.6 * np.log(x)])]
    mean = loss if link == "identity" else np.log(loss)
    held = two_components(link)
    own = np.empty((2, 2))
    for k, part in enumerate(held.components):
        slope = slopes[k] if link == "identity" else slopes[k] / loss[k][:, None]
        own[k] = [row @ part.covariance @ row for row in slope]
    weight = A([[0.7], [0.3]]) / (1 + own / (0.3 * 0.18**2))
    weight = weight / weight.sum(0)
    centre = np.where(weight[0] >= 0.5, mean[0], mean[1])
    distance = A([math.log(5 / 3) if math.log(5 / 3) < math.log(3 / 2) else math.log(3 / 2), math.log(20 / 9)])
    drawn = centre + 0.8 * (mean - centre)
    deviation = np.sqrt(0.64 * own + 0.17**2 + (0.23 * distance) ** 2)
    found = held.parts(x[:, None])
    for got, wanted in zip(found, (drawn, deviation, weight), strict=True):
        assert got == pytest.approx(wanted)
    assert held.distance(x[:, None]) == pytest.approx(distance)
    said = held.predict(x, 0.7)
    for got, share in ((said.median, 0.5), (said.low, 0.15), (said.high, 0.85)):
        ends = A([blend(drawn[:, j], deviation[:, j], weight[:, j], share) for j in range(2)])
        assert got == pytest.approx(ends if link == "identity" else np.exp(ends))
    assert said.beyond == pytest.approx([1.0, 20 / 9])
    assert held.predict([0.5]).beyond == pytest.approx([4.0])


def test_sites_of_many_points_are_even_along_their_sum_and_distances_do_not_care_for_blocks() -> None:
    logs = np.column_stack([np.linspace(0, 3, 801), 5 - 2 * np.linspace(0, 3, 801)])  # the sum falls from 5 to 2
    found = mixture.sites_of(np.exp(logs[::-1]))
    order = np.argsort(logs.sum(1), kind="stable")
    assert found == pytest.approx(logs[order[[int(800 * k / 399) for k in range(400)]]])
    points = np.linspace(-1, 7, 4501)[:, None]
    assert mixture.distances(points, A([[1.0], [4.0]])) == pytest.approx(
        [min(abs(p - 1.0), abs(p - 4.0)) for p in points[:, 0]]
    )
