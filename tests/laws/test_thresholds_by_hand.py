"""Where answers of laws change: both sides of each threshold that their documentation names."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import allocation, belief, corners, cost, descent
from metascale.laws.approaches import isoflop
from metascale.laws.belief import Belief, believe
from metascale.laws.corners import Corner
from metascale.laws.descent import Problem
from metascale.laws.expression import parse
from metascale.laws.families import LAWS
from metascale.laws.fitting import fit_law
from metascale.laws.groups import crossover
from metascale.laws.library import law_of
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.uncertainty import bootstrap

A = np.array


def corner(errors: list[float]) -> Corner:
    """One hidden row at 0, which the forms miss by these."""
    mean = A(errors)[:, None]
    return Corner("c", np.ones(1, bool), mean, np.zeros_like(mean), np.full(len(errors), 0.1), A([0.0]), A([1.0]))


def test_a_form_four_times_as_far_off_in_the_first_cut_is_tried_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the median of the best five, which is 1."""
    monkeypatch.setattr(corners, "_corner", lambda *told: corner([1.0, 1.0, 1.0, 3.99, 4.01, 9.0]))
    assert corners._hopeful(list("abcdef"), ("c", None, {}), None, "log") == list("abcd")  # type: ignore[arg-type]


def test_a_form_more_than_two_and_a_half_times_off_has_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 1, 2.5 and 2.6: weights 1 and 2.5^-4, in order of the scores."""
    x = np.geomspace(1, 100, 24)
    table = observe(x, 1 + 5 / x)
    laws = [corners.Formula(name, "a + b/x", ("x",)) for name in "pqr"]
    monkeypatch.setattr(corners, "scores_of", lambda found, n: A([2.5, 1.0, 2.6]))
    found = corners.choose(table, laws)
    assert [fit.formula.name for fit in found.fits] == ["q", "p"]
    assert found.weights == pytest.approx(A([1.0, 2.5**-4]) / (1 + 2.5**-4))
    assert found.scores.tolist() == [1.0, 2.5]


def test_intervals_of_corners_hold_nine_of_ten_rows() -> None:
    """Nine rows lie within the noise's own interval and one far outside: 0.9 is enough, 8 of 9 rows are not."""

    def grown(n_inside: int) -> float:
        mean = np.zeros((1, n_inside + 1))
        one = Corner(
            "c",
            np.ones(n_inside + 1, bool),
            mean,
            0 * mean,
            A([0.1]),
            A([0.0] * n_inside + [50.0]),
            np.ones(n_inside + 1),
        )
        return corners.calibrate([one], A([1.0]))[0]

    assert (grown(9), grown(8) > 1.0) == (0.0, True)


@pytest.mark.parametrize(("off", "refused"), [(0.2, False), (0.21, True)])
def test_a_cost_that_is_a_fifth_off_is_none(off: float, refused: bool) -> None:
    rows = np.column_stack([np.ones(5), np.arange(5.0), np.arange(5.0) ** 2])
    if not refused:
        cost._require_power_law(rows, np.zeros(5), off, "hours")
        return
    with pytest.raises(
        InputError, match=r"^'hours' does not follow a power law .*: it is off by 21 % \(rms\), and at most 20 %"
    ):
        cost._require_power_law(rows, np.zeros(5), off, "hours")


def test_a_cost_that_bends_is_none_where_a_curve_more_than_halves_what_is_left() -> None:
    """A parabola in ln N and a wave that no curve takes: what is left of the rms, √(9/6) for freedom, is 0.5 of "
    "it at w."""
    n, d = (axis.reshape(-1) for axis in np.meshgrid(np.arange(-1.0, 2.0), np.arange(-1.0, 3.0)))
    rows = np.column_stack([np.ones(12), n, d - d.mean()])
    curved = np.column_stack([rows, n * n, n * d, d * d])
    bend = n * n - (n * n).mean()
    wave = np.resize([1.0, -1.0, 1.0, 1.0, -1.0], 12)
    wave = wave - curved @ np.linalg.lstsq(curved, wave, rcond=None)[0]
    wave /= math.sqrt(np.mean(wave**2))

    def told(size: float, share: float) -> str:
        """What is said, where the wave is ``share`` of an rms of ``size``."""
        log_c = size * (share * wave + math.sqrt(1 - share**2) * bend / math.sqrt(np.mean(bend**2)))
        _, off = cost._line(rows, log_c)
        assert off == pytest.approx(size)
        try:
            cost._require_power_law(rows, log_c, off, "hours")
        except InputError as error:
            return str(error)
        return ""

    half = 0.5 / math.sqrt(9 / 6)
    assert told(0.1, 0.99 * half).endswith(f": off by 10 % (rms), of which a curve leaves {9.9 * half:.3g} %")
    assert told(0.1, 1.01 * half) == told(0.049, 0.1) == ""
    assert told(0.051, 0.1) != ""
    cost._require_power_law(rows[:11], 0.1 * bend[:11], 0.1, "hours")


def test_runs_of_one_per_cent_of_compute_are_one_level() -> None:
    """Three levels whose middle run is 0.9 % dearer; at 1.1 % it is a level of its own."""

    def levels(more: float) -> int:
        compute = A([c * (1 + more * (k == 1)) for c in (1e3, 1e5, 1e7) for k in range(3)])
        size = np.tile([1.0, 2.0, 4.0], 3)
        return isoflop(compute, size, np.tile([2.0, 1.0, 2.0], 3)).skipped

    assert levels(0.009) == 0
    with pytest.raises(InputError, match=r"0 compute levels have an optimum inside their sizes \(6 do not\)"):
        levels(0.011)


def test_curves_are_crossed_up_to_thirty_two_times_beyond_both() -> None:
    """x^-1/2 from 1 to 8 against a constant that it meets at 8 · 31, and at 8 · 33."""
    x = A([1.0, 2.0, 4.0, 8.0])

    def crossing(at: float) -> float | None:
        falling = bootstrap(fit_law(LAWS["power"], observe(x, x**-0.5), LeastSquares()), 20)
        level = bootstrap(fit_law(LAWS["none"], observe(x, 0 * x + at**-0.5), LeastSquares()), 20)
        found = crossover(falling, level)
        assert (found.level, found.share) == (0.95, 1.0 if found.estimate else 0.0)
        return found.estimate

    assert crossing(8 * 31) == pytest.approx(8 * 31, rel=1e-3)
    assert crossing(8 * 33) is None
    assert crossing(3.0) == pytest.approx(3.0, rel=1e-3)


def test_a_budget_a_million_times_the_table_s_is_one_in_other_units() -> None:
    size, data = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11, 4)))
    fit = fit_law(
        LAWS["chinchilla"], observe(np.column_stack([size, data]), 1 + 40 / size**0.3 + 90 / data**0.2), LeastSquares()
    )
    assert allocation.optimum(fit, [0.99e6 * 6e20], n_bootstrap=5).compute[0] == 0.99e6 * 6e20
    with pytest.raises(InputError, match="more than 1e\\+06 times that"):
        allocation.optimum(fit, [1.01e6 * 6e20], n_bootstrap=5)
    notes = [len(allocation.optimum(fit, [times * 6e20], n_bootstrap=5).notes) for times in (9.9, 10.1)]
    assert notes == [1, 2]


# ------------------------------------------------------------------------------------------- beliefs


def test_before_any_run_is_known() -> None:
    """A noise and a discrepancy of three hundredths; half of the region's extent is the length, of two scales "
    "√2 of it."""
    region = np.exp(A([[0.0, 1.0], [8.0, 1.2]]))
    found = believe(("N", "D"), np.zeros((0, 2)), np.zeros(0), region)
    assert (found.noise, found.discrepancy, found.unit, found.n, found.sites.shape) == (0.03, 0.03, 1.0, 0, (0, 2))
    assert found.length == pytest.approx(0.5 * math.sqrt(2) * A([8.0, 0.5]))
    assert found.weights == pytest.approx(np.full(len(found.forms), 1 / len(found.forms)))
    assert found.pinned(np.log(region)).shape == (0, 2)
    one = found._matern(A([[0.0, 0.0]]), A([[0.0, 0.0], [found.length[0], 0.0]]))[0]
    root3 = math.sqrt(3.0)
    assert one == pytest.approx(0.03**2 * A([1.0, (1 + root3) * math.exp(-root3)]))
    signed = believe(("N",), A([[1.0], [2.0]]), A([-1.0, 3.0]), A([[1.0], [4.0]]))
    assert (signed.link, signed.unit) == ("identity", 2.0)


def test_the_noise_of_runs_is_that_of_the_best_three_forms() -> None:
    """A constant a with a prior so weak that it takes one degree of freedom: the prior of the noise counts as 4 runs of
    0.01, so (4 · 0.01^2 + squares) / (4 + n - 1); of four forms the median of the least three."""
    law = law_of("a + 0*x", ("x",))
    loss = A([1.0, 2.0, 3.0, 6.0])
    problem = Problem(law.expression, np.ones((4, 1)), loss, np.ones(4), "identity", A([-np.inf]), A([np.inf]))

    def noise(*levels: float) -> Any:
        return belief._judged([(law, problem, A([1e-12]), A([a])) for a in levels], 1.0, 1.0)

    def expected(a: float) -> float:
        return math.sqrt((4 * 0.01**2 + ((loss - a) ** 2).sum()) / (4 + 3))

    assert noise(3.0)[0] == pytest.approx(expected(3.0), rel=1e-4)
    found, covariances, errors = noise(3.0, 4.0, 5.0, 60.0)
    assert found == pytest.approx(expected(4.0), rel=1e-4)
    assert covariances[0][0, 0] == pytest.approx(found**2 / 4, rel=1e-4)
    # Left out in turn each residual is 4/3 as large.
    assert errors[0] == pytest.approx(math.sqrt(np.mean(((loss - 3) * 4 / 3) ** 2)), rel=1e-4)
    none = replace_rows(problem, 0)
    assert belief._judged([(law, none, A([4.0]), A([1.0]))], 0.5, 1.0)[0] == 0.5


def replace_rows(problem: Problem, n: int) -> Problem:
    return Problem(
        problem.expression,
        problem.x[:n],
        problem.loss[:n],
        problem.weights[:n],
        problem.link,
        problem.lower,
        problem.upper,
    )


def test_forms_that_run_away_are_held_near_the_others() -> None:
    """Two units from the weighted median of ln loss, and the deviation of the forms adds to what they do not know."""
    forms = tuple(
        SimpleNamespace(
            weight=weight, at=lambda x, mean=mean: (np.full(len(x), mean), np.zeros((len(x), 1))), covariance=np.eye(1)
        )
        for weight, mean in ((0.5, 1.0), (0.25, 1.5), (0.25, 90.0))
    )
    found = Belief(forms, "log", 0.1, 0.2, np.zeros((0, 1)), A([1.0]), 1.0, 0, {})  # type: ignore[arg-type]
    mean, _ = found.means(A([[2.0]]))
    assert mean[:, 0].tolist() == [1.0, 1.5, 3.0]
    at = found.joint(A([[2.0]]))
    assert at.mean[0] == pytest.approx(0.5 * 1.0 + 0.25 * 1.5 + 0.25 * 3.0)
    apart = 0.5 * (1 - at.mean[0]) ** 2 + 0.25 * (1.5 - at.mean[0]) ** 2 + 0.25 * (3 - at.mean[0]) ** 2
    assert at.diagonal()[0] == pytest.approx(apart + 0.2**2)
    ends = found.predict(A([[2.0]]), 0.8)[:, 0]
    reach = 1.2815515655 * math.sqrt(apart + 0.2**2 + 0.1**2)
    assert np.log(ends) == pytest.approx(at.mean[0] + A([0.0, -reach, reach]))
    assert found.losses(A([1000.0]), A([0.0]), 0.9)[0, 0] == pytest.approx(math.exp(700))


# ------------------------------------------------------------------------------------------- where searches begin


def test_starts_are_the_best_of_many_and_a_given_one_comes_first() -> None:
    """Of a straight line there is one; of an exponent the best of 256, whose linear parameters are solved for."""

    def problem(text: str, n: int = 5) -> Problem:
        expression, x = parse(text, ("x",)), np.geomspace(1, 16, n)
        p = len(expression.parameters)
        return Problem(
            expression, x[:, None], 2 + 3 * x**-0.5, np.ones(n), "identity", np.full(p, -np.inf), np.full(p, np.inf)
        )

    line = descent.starts(problem("a + b*x"), 3)
    assert line.shape == (1, 2)
    found = descent.starts(problem("a + b*x**(-c)"), 3)
    assert found.shape == (3, 3)
    assert found[0] == pytest.approx([2, 3, 0.5], rel=0.1)
    errors = [
        np.sum((problem("a + b*x**(-c)").loss - problem("a + b*x**(-c)").bound.value(row[None])[0]) ** 2)
        for row in found
    ]
    assert errors == sorted(errors)
    given = descent.starts(problem("a + b*x**(-c)"), 256, {"c": 0.5})
    assert np.abs(given[:, 2] - 0.5).min() == 0.0
    assert (given[:, 2].min() >= 0.5 * math.exp(-0.25), given[:, 2].max() <= 0.5 * math.exp(0.25)) == (True, True)
    long = problem("a + b*x**(-c)", 901)
    assert descent.starts(long, 1)[0] == pytest.approx([2, 3, 0.5], rel=0.1)


def test_only_positive_nonlinear_parameters_that_are_no_exponents_move_by_their_logarithms() -> None:
    expression = parse("a*x**c + tanh(h*x) + b", ("x",))
    assert expression.parameters == ("a", "c", "h", "b")
    lower, upper = np.zeros(4), np.full(4, np.inf)
    one = Problem(expression, A([[1.0]]), A([1.0]), np.ones(1), "identity", lower, upper)
    assert one.coded.tolist() == [False, False, True, False]
    assert (
        Problem(expression, A([[1.0]]), A([1.0]), np.ones(1), "identity", lower - 1, upper).coded.tolist()
        == [False] * 4
    )
