"""Which run next, worked out by hand on a joint distribution of rank one; simulated tables; sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.laws import next_plan, picking, simulate
from metascale.laws.next_plan import Outcome, follow, half_width, next_runs, read_plan
from metascale.laws.picking import Dense, grow, pick
from metascale.laws.simulate import simulate_table

A = np.array
REACH = 1.6448536269514722  # of a 90 % interval


# ---------------------------------------------------------------------------------------------- picking

K = A([[1.0, 0.5, 0.8], [0.5, 1.0, 0.6], [0.8, 0.6, 1.0]])  # of two candidates and a target


def test_a_plan_on_three_points_by_hand():
    """With noise 1/4 the first takes .8^2 / 1.25 = .512; then the second has .6 - .5 .8 / 1.25 = .28 left with the
    target and a variance of 1 - .2 + .25 = 1.05, so that it takes .28^2 / 1.05 more."""
    joint, cost, target = Dense(K, 0.25), A([2.0, 1.0]), A([2])
    assert (joint.n_points, joint.diagonal().tolist(), joint.columns(A([1])).tolist()) == (
        3, [1, 1, 1], [[0.5], [1], [0.6]],
    )  # fmt: skip
    found = grow(joint, cost, target, 3.0, 0.0)
    assert (found.index.tolist(), found.cost.tolist(), found.before) == ([0, 1], [2, 1], 1.0)
    assert found.left == pytest.approx([0.488, 0.488 - 0.0784 / 1.05])
    assert found.predictive == pytest.approx([1.25, 1.05])
    assert found.targets == pytest.approx([0.488 - 0.0784 / 1.05])
    assert found.after == found.left[-1]
    # Per cost it is .256 against .36 / 1.25 = .288: the second comes first.
    cheap = grow(joint, cost, target, 3.0, 1.0)
    assert (cheap.index.tolist(), cheap.left[0], cheap.predictive.tolist()) == (
        [1, 0], pytest.approx(0.712), pytest.approx([1.25, 1.05]),
    )  # fmt: skip
    assert cheap.after == pytest.approx(found.after)
    # A budget that is just enough is enough.
    assert grow(joint, cost, target, 2.0, 0.0).index.tolist() == [0]
    assert grow(joint, cost, target, 1.99, 0.0).index.tolist() == [1]
    nothing = grow(joint, cost, target, 0.5, 0.0)
    assert (nothing.index.tolist(), nothing.after, nothing.targets.tolist()) == ([], 1.0, [1.0])
    assert grow(joint, cost, target, 3.0, 0.0, most=1).index.tolist() == [0]
    assert grow(joint, cost, target, 3.0, 0.0, free=A([False, True])).index.tolist() == [1]
    assert pick(joint, cost, target, 2.0).index.tolist() == [0]
    assert pick(joint, cost, target, 2.0, powers=(1.0,)).index.tolist() == [1]
    assert pick(joint, cost, target, 3.0, most=1, free=A([False, True])).index.tolist() == [1]


def test_a_plan_has_at_most_so_many_runs(monkeypatch):
    monkeypatch.setattr(picking, "MOST_PICKS", 1)
    assert grow(Dense(K, 0.25), A([2.0, 1.0]), A([2]), 9.0, 0.0).index.tolist() == [0]


def independent(*groups, variance=9.0):
    """Candidates that know nothing of one another: of each group (count, cost, what one takes of the target)."""
    gains = np.concatenate([np.full(n, gain) for n, _, gain in groups])
    covariance = np.eye(len(gains) + 1)
    covariance[-1, :-1] = covariance[:-1, -1] = np.sqrt(gains)
    covariance[-1, -1] = variance
    cost = np.concatenate([np.full(n, cost) for n, cost, _ in groups])
    return Dense(covariance, 1e-12), cost, A([len(gains)])


@pytest.mark.parametrize(
    ("groups", "index"),
    [
        # One that takes 3 for all of the budget, or one of 2.2 for half: only the best alone comes first.
        (((1, 10.0, 3.0), (1, 5.0, 2.2)), [0]),
        # 1.0 for 10, 0.9 for 4 twice, 0.24 for 1 three times: by the root of the cost both 0.9 and two of 0.24.
        (((1, 10.0, 1.0), (2, 4.0, 0.9), (3, 1.0, 0.24)), [1, 2, 3, 4]),
        # 1.0 for 10, 0.2 for 1 ten times, 0.01 for 0.1 sixty times: by the cost the ten.
        (((1, 10.0, 1.0), (10, 1.0, 0.2), (60, 0.1, 0.01)), list(range(1, 11))),
    ],
)
def test_of_three_ways_to_weigh_the_cost_the_best_plan_is_taken(groups, index):
    assert pick(*independent(*groups), 10.0).index.tolist() == index


@pytest.mark.parametrize(("ratio", "index"), [(1.019, [0]), (1.021, [1, 2])])
def test_of_plans_that_leave_nearly_the_same_the_smallest_is_taken(ratio, index):
    """One run for 2 leaves 2 - 0.5; two for 1 each leave 2 % less, or a little more than that."""
    half = (2 - 1.5 / ratio) / 2
    assert pick(*independent((1, 2.0, 0.5), (2, 1.0, half), variance=2.0), 2.0).index.tolist() == index


# ---------------------------------------------------------------------------------------------- plans


class Rank1:
    """ln loss at N is -N give or take N, wholly shared, and a run is off by 1: K(i, j) = N_i N_j."""

    noise, link = 1.0, "log"

    def __init__(self, log=None, *given):
        if log is not None:
            log.append(given)

    def joint(self, points):
        n = A(points)[:, 0]
        return SimpleNamespace(
            mean=-n, noise2=1.0, n_points=len(n), diagonal=lambda: n**2, columns=lambda index: np.outer(n, n[index])
        )

    def losses(self, mean, size, level):
        return A([mean, mean - size, mean + size])


@pytest.fixture
def asked(monkeypatch):
    log = []
    monkeypatch.setattr(next_plan, "believe", lambda *given: Rank1(log, *given))
    return log


def test_a_plan_by_hand(asked):
    """Of a target at 3 (variance 9) the run at 2 takes 36 / 5 = 7.2; per cost the run at 1 takes more, 9 / 2, but its
    cost leaves too little for the other."""
    found = next_runs(None, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 2)
    assert (found.x_names, found.loss_name, found.candidate, found.x.tolist(), found.cost.tolist()) == (
        ("N",), "loss", (1,), [[2.0]], [2.0],
    )  # fmt: skip
    assert found.worth == pytest.approx([0.8])
    assert found.width == pytest.approx([REACH * 1.8**0.5])
    assert (found.width_now, found.width_after) == (pytest.approx(REACH * 3), found.width[0])
    assert [found.median[0], found.low[0], found.high[0]] == pytest.approx([-2, -2 - 5**0.5, -2 + 5**0.5])
    assert found.now[:, 0] == pytest.approx([-3, -3 - 10**0.5, -3 + 10**0.5])
    assert [found.after_low[0], found.after_high[0]] == pytest.approx([-3 - 2.8**0.5, -3 + 2.8**0.5])
    assert (found.budget, found.level, found.unit, found.n_runs, found.n_candidates) == (2.0, 0.9, "ln loss", 0, 2)
    assert (found.noise, found.spent, found.target.tolist()) == (pytest.approx(REACH), 2.0, [[3.0]])
    assert found.notes == (
        "no run is known yet: the plan, and any width in its JSON form, rests on weak priors of the forms alone; plan "
        "again after the first few runs",
    )  # fmt: skip
    ((names, x, loss, region, before),) = asked
    assert (names, x.tolist(), loss.tolist(), region.tolist(), before) == (("N",), [], [], [[1], [2], [3]], None)
    both = next_runs(None, {"N": [1.0, 2.0]}, [1.0, 2.0], [{"N": 3.0}], 3, level=0.5, batch=2)
    assert both.candidate == (1, 0)
    assert both.worth == pytest.approx([0.8, 0.3 / 9])  # then .2 + 1 of variance and .6 with the target
    assert both.width == pytest.approx(0.6744897501960817 * np.sqrt([1.8, 1.5]))
    assert next_runs(None, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 3, batch=1).candidate == (1,)


def test_runs_that_are_known(asked, monkeypatch):
    table = {"N": [1.0, 4.0], "M": [1.0, 1.0], "nll": [2.0, 1.0]}
    found = next_runs(table, {"N": [1.0, 2.0, 4.0]}, "N", {"N": 3.0, "M": 1.0}, 9, x=["N"], y="nll")
    assert (found.candidate, found.loss_name, found.n_runs, found.n_candidates) == ((1,), "nll", 2, 3)
    assert found.notes == ("2 of 3 candidates in the table already: not run again",)
    assert (asked[0][1].tolist(), asked[0][2].tolist()) == ([[1], [4]], [2, 1])
    again = next_runs(table, {"N": [1.0, 2.0, 4.0]}, "N", {"N": 3.0}, 9, y="nll", repeats=True)
    assert (len(again.candidate), again.notes) == (3, ())
    monkeypatch.setattr(Rank1, "link", "identity")
    assert next_runs(table, {"N": [2.0]}, "N", {"N": 3.0}, 9, y="nll").unit == "loss"


@pytest.mark.parametrize(
    ("change", "words", "field", "value"),
    [
        ({"budget": np.inf}, "budget is inf; it must be a positive number", "budget", np.inf),
        ({"budget": 0.0}, "budget is 0.0; it must be a positive number", "budget", 0.0),
        ({"batch": 0}, "batch is 0; it must be at least 1", "batch", 0),
        ({"level": 0.0}, "level is 0.0; it must lie between 0 and 1", "level", 0.0),
        ({"level": 1.0}, "level is 1.0; it must lie between 0 and 1", "level", 1.0),
        ({"budget": 0.5}, "no candidate is within the budget of 0.5: the cheapest costs 1", "budget", None),
        ({"table": {"N": [1.0, 2.0], "loss": [1.0, 2.0]}}, "no candidate is within the budget of 9: all are in the "
                                                           "table", "budget", None),
        ({"table": {"N": [1.0], "loss": [1.0]}, "budget": 1.5}, "no candidate is within the budget of 1.5: the cheapest "  # noqa: E501
                                                                "costs 2", "budget", None),
    ],
)  # fmt: skip
def test_questions_that_are_refused(change, words, field, value, asked):
    given = {"table": None, "candidates": {"N": [1.0, 2.0]}, "cost": "N", "target": {"N": 3.0}, "budget": 9, **change}
    with pytest.raises(InputError) as caught:
        next_runs(**given)
    assert (str(caught.value), caught.value.field, caught.value.value) == (words, field, value)
    assert asked == []


def test_too_many_candidates_are_refused(monkeypatch, asked):
    monkeypatch.setattr(next_plan, "MOST_CANDIDATES", 2)
    next_runs(None, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 9)
    with pytest.raises(InputError) as caught:
        next_runs(None, {"N": [1.0, 2.0, 3.0]}, "N", {"N": 3.0}, 9)
    assert (str(caught.value), caught.value.field) == (
        "there are 3 candidates; at most 2 can be compared", "candidates",
    )  # fmt: skip


def test_a_plan_is_followed_until_the_budget_is_spent(asked):
    """Of one scale three runs come first, the cheapest of the plan; each later plan begins from the belief before."""
    ran = []

    def measure(row):
        ran.append(row.tolist())
        return 10 - row[0]

    chosen, seen, belief = follow(measure, {"N": [1.0, 2.0, 4.0, 8.0]}, "N", {"N": 16.0}, 14.5)
    assert ran[:3] == sorted(ran[:3])
    assert ran == [[[1.0, 2.0, 4.0, 8.0][k]] for k in chosen]
    assert seen.tolist() == [10 - row[0] for row in ran]
    assert len(set(chosen.tolist())) == len(chosen)
    assert sum(row[0] for row in ran) <= 14.5
    assert (chosen.dtype.kind, seen.dtype.kind) == ("i", "f")
    assert asked[0][4] is None
    assert asked[1][4] is not None
    assert [call[1].tolist() for call in asked[1:]][-1] == ran
    assert asked[-1][2].tolist() == seen.tolist()
    assert isinstance(belief, Rank1)
    known = follow(measure, {"N": [1.0, 2.0]}, "N", {"N": 16.0}, 3, table={"N": [2.0], "nll": [1.0]}, x=["N"], y="nll")
    assert known[0].tolist() == [0]


def test_what_came_of_a_plan(asked):
    plan = next_runs(None, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 3)
    found = plan.outcome({"N": [1.0, 1.0, 5.0], "loss": [2.0, 3.0, 1.0], "seed": [0, 1, 0]})
    assert found.plan is plan
    assert found.observed.tolist() == [pytest.approx(np.nan, nan_ok=True), 2.5]  # the run at 2 has not come
    assert (found.width, found.now[:, 0].tolist()) == (
        pytest.approx(REACH * 3), pytest.approx([-3, -3 - 10**0.5, -3 + 10**0.5]),
    )  # fmt: skip
    assert asked[-1][3].tolist() == [[1], [1], [5], [2], [1], [3]]  # the runs, the plan and its target
    assert plan.outcome({"N": [1.0], "nll": [9.0], "loss": [2.0]}, y="nll").observed[1] == 9
    with pytest.raises(InputError) as caught:
        plan.outcome(None)
    assert (str(caught.value), caught.value.field) == (
        "the table has no row; the outcome of a plan needs its runs", "table",
    )  # fmt: skip


def test_pictures_of_plans_and_of_what_came(asked):
    plan = next_runs({"N": [9.0], "loss": [1.0]}, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 3)
    axes = plan.plot()
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [0.0, *np.cumsum(plan.cost)]
    assert line.get_ydata().tolist() == [plan.width_now, *plan.width]
    assert (axes.get_xlim(), axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        (0, 3), "linear", "log", "cost so far", "half the 90 % interval at the target (ln loss)",
    )  # fmt: skip
    bare = next_runs(None, {"N": [1.0, 2.0]}, "N", {"N": 3.0}, 3)
    assert bare.plot(axes) is axes
    assert axes.lines[1].get_xdata().tolist() == np.cumsum(bare.cost).tolist()
    told = replace(plan, median=A([2.0, 3.0]), low=A([1.5, 2.0]), high=A([4.0, 5.0]))
    outcome = Outcome(told, A([2.5, np.nan]), plan.now, 0.1)
    drawn = outcome.plot()
    assert drawn.lines[0].get_xdata().tolist() == drawn.lines[0].get_ydata().tolist() == [2.0, 2.5]
    assert drawn.get_legend_handles_labels()[1] == ["runs (90 %)"]
    (bars,) = drawn.containers
    assert bars[2][0].get_segments()[0].tolist() == [[1.5, 2.5], [4.0, 2.5]]
    linear = Outcome(replace(told, unit="loss"), A([2.5, np.nan]), plan.now, 0.1).plot()
    assert (linear.get_xscale(), linear.get_yscale()) == ("linear", "linear")
    assert (drawn.get_xlabel(), drawn.get_ylabel(), drawn.get_xscale(), drawn.get_yscale()) == (
        "expected loss", "observed loss", "log", "log",
    )  # fmt: skip
    assert len(outcome.to_json()["runs"]) == 2
    assert outcome.to_json()["runs"][1]["observed"] is None


def test_a_plan_that_is_none(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(InputError) as caught:
        read_plan(path)
    assert (str(caught.value), caught.value.field) == (f"there is no plan '{path}'", "plan")
    for stored in ({"x": [1]}, [1, 2]):
        path.write_text(json.dumps(stored))
        with pytest.raises(CorruptFile, match="is no plan of `metascale next`: "):
            read_plan(path)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [(np.log(2.0), "ln loss", "±100 %"), (np.log(2.02), "ln loss", "×/÷ 2.02"), (1e9, "ln loss", "×/÷ 5.18e+21"),
     (0.12345, "loss", "±0.123")],
)  # fmt: skip
def test_half_widths_in_words(value, unit, said):
    assert half_width(float(value), unit) == said


# ---------------------------------------------------------------------------------------------- simulated tables


def test_a_simulated_table_without_noise():
    """3 (N^-0.5), at N = 1, 4 and two seeds."""
    found = simulate_table("power", {"N": [1.0, 4.0]}, {"A": 3.0, "alpha": 0.5}, seeds=2, noise=0.0)
    assert found.names == ("N", "seed", "loss")
    assert found.numbers("N").tolist() == [1, 1, 4, 4]
    assert found.numbers("seed").tolist() == [0, 1, 0, 1]
    assert found.numbers("loss") == pytest.approx([3, 3, 1.5, 1.5])
    assert found.source == "a table simulated from 'power'"
    crossed = simulate_table("a*N + b*D", {"N": [1, 2], "D": [1, 10]}, {"a": 1, "b": 1}, noise=0, cost="6*N*D")
    assert crossed.numbers("loss") == pytest.approx([2, 11, 3, 12])
    assert crossed.numbers("cost").tolist() == [6, 60, 12, 120]
    rows = simulate_table("a*N + b*D", {"N": [1, 2], "D": [1, 10]}, {"a": 1, "b": 1}, noise=0, crossed=False,
                          loss_name="nll")  # fmt: skip
    assert rows.numbers("nll") == pytest.approx([2, 12])
    assert simulate_table("power", {"N": 4.0}, {"A": 3.0, "alpha": 0.5}, noise=0).numbers("loss") == pytest.approx(
        [1.5]
    )
    floored = simulate_table("power_irreducible", {"N": [4.0]}, {"E": 1.0, "A": 3.0, "alpha": 0.5}, noise=0)
    assert floored.numbers("loss") == pytest.approx([2.5])


def test_noise_of_runs_and_of_their_evaluation():
    given = {"law": "power", "scales": {"N": np.ones(4000)}, "parameters": {"A": 3.0, "alpha": 0.5}, "crossed": False}
    plain, other = simulate_table(**given), simulate_table(**given, seed=1)
    assert np.std(np.log(plain.numbers("loss"))) == pytest.approx(0.01, rel=0.05)
    assert plain.numbers("loss").tolist() == simulate_table(**given).numbers("loss").tolist()
    assert plain.numbers("loss").tolist() != other.numbers("loss").tolist()
    both = simulate_table(**given, noise=0.03, evaluation=0.04)
    assert np.std(np.log(both.numbers("loss"))) == pytest.approx(0.05, rel=0.05)
    assert both.numbers("loss_se") == pytest.approx(0.04 * both.numbers("loss"))
    assert "loss_se" not in plain.names


GOOD = {"law": "power", "scales": {"N": [1.0]}, "parameters": {"A": 3.0, "alpha": 0.5}}
RANGE = "seeds are 1 or more, the others not negative"


@pytest.mark.parametrize(
    ("change", "words", "field", "value"),
    [
        ({"seeds": 0}, f"seeds is 0, noise 0.01 and evaluation 0.0; {RANGE}", "seeds", None),
        ({"noise": -1.0}, f"seeds is 1, noise -1.0 and evaluation 0.0; {RANGE}", "noise", None),
        ({"evaluation": np.nan}, f"seeds is 1, noise 0.01 and evaluation nan; {RANGE}", "noise", None),
        ({"noise": np.inf}, f"seeds is 1, noise inf and evaluation 0.0; {RANGE}", "noise", None),
        ({"scales": {}}, "`scales` names no scale; give values by name, such as {'tokens': [1e6, 1e7]}", "scales", None),  # noqa: E501
        ({"scales": {"N": [1.0], "D": [0.0]}}, "'D' has a value that is not a positive number", "scales", "D"),
        ({"scales": {"N": [np.inf]}}, "'N' has a value that is not a positive number", "scales", "N"),
        ({"scales": {"N": [1.0], "D": [1.0, 2.0]}, "crossed": False},
         "row by row all scales have as many values as one another; they have {'N': 1, 'D': 2}", "scales", None),
        ({"scales": {"N": [1.0], "D": [1.0]}}, "the law 'power' has 1 scale and 2 are given", "scales", None),
        ({"law": "chinchilla", "scales": {"N": [1.0]}}, None, None, None),
        ({"parameters": {"A": 3.0}}, "the law 'power' needs the parameter 'alpha'; its parameters are A, alpha",
         "parameters", "alpha"),
        ({"parameters": {"A": 3.0, "alpha": 1.0, "z": 1.0}}, "the law 'power' has no parameter 'z'; its parameters are "
                                                             "A, alpha", "parameters", "z"),
        ({"parameters": None}, "the law 'power' needs the parameter 'A'; its parameters are A, alpha", "parameters", "A"),  # noqa: E501
        ({"law": "a - N", "scales": {"N": [1.0, 3.0, 5.0]}, "parameters": {"a": 3.0}},
         "the planted loss is 0 in row 2; it must be a positive number", "parameters", None),
        ({"law": "nonsense"}, None, "law", "nonsense"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_simulated(change, words, field, value):
    with pytest.raises(InputError) as caught:
        simulate_table(**GOOD | change)
    if words is not None:
        assert (str(caught.value), caught.value.value) == (words, value)
    if field is not None:
        assert caught.value.field == field


def test_the_most_rows_of_a_simulated_table(monkeypatch):
    monkeypatch.setattr(simulate, "MOST_ROWS", 6)
    assert simulate_table(**GOOD | {"scales": {"N": [1.0, 2.0, 3.0]}}, seeds=2).n_rows == 6
    for more in ({"scales": {"N": [1.0, 2, 3, 4]}, "seeds": 2}, {"scales": {"N": [1.0] * 8}, "crossed": False}):
        with pytest.raises(InputError) as caught:
            simulate_table(**GOOD | more)
        assert (str(caught.value), caught.value.field) == ("the table would have 8 rows; at most 6", "scales")


def test_a_fitted_law_is_planted():
    law = SimpleNamespace(fit=SimpleNamespace(observations=SimpleNamespace(x_names=("N", "D")),
                                              predict=lambda x: x[:, 0] + x[:, 1]))  # fmt: skip
    found = simulate_table(law, {"N": [1.0], "D": [2.0, 3.0]}, noise=0)
    assert (found.numbers("loss").tolist(), found.source) == ([3, 4], "a table simulated from 'SimpleNamespace'")
    for scales, parameters in (({"D": [1.0], "N": [1.0]}, None), ({"N": [1.0], "D": [1.0]}, {"a": 1.0})):
        with pytest.raises(InputError) as caught:
            simulate_table(law, scales, parameters)
        assert (str(caught.value), caught.value.field) == (
            "the fitted law has parameters of its own and the scales N, D, in this order", "scales",
        )  # fmt: skip


def test_what_a_run_tells_is_not_told_twice():
    """Two runs that are nearly one (correlation 0.96) and a third of its own: after the first the third comes, although
    the second alone would take more. Of the target they know .8, .75 and .6."""
    covariance = np.eye(4)
    covariance[0, 1] = covariance[1, 0] = 0.96
    covariance[3, :3] = covariance[:3, 3] = [0.8, 0.75, 0.6]
    found = grow(Dense(covariance, 0.25), np.ones(3), A([3]), 2.0, 0.0)
    assert found.index.tolist() == [0, 2]
    # The third knows nothing of the first: .64 / 1.25 and .36 / 1.25.
    assert found.left == pytest.approx([1 - 0.512, 1 - 0.512 - 0.288])
    assert grow(Dense(covariance, 0.25), np.ones(3), A([3]), 3.0, 0.0).predictive[2] == pytest.approx(
        1.25 - 0.96**2 / 1.25
    )
