"""What entries, plans and schedules of laws refuse: the whole sentence, and the argument with its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import metascale as ms
from metascale.core.errors import InputError
from metascale.laws import allocation, candidates, entry, simulate_table
from metascale.laws.approaches import isoflop
from metascale.laws.contrasts import bootstrap_mean, holm, paired_test
from metascale.laws.cost import CostLaw, fit_cost
from metascale.laws.families import LAWS
from metascale.laws.fitting import fit_law
from metascale.laws.metrics import ShareOptions
from metascale.laws.next_plan import next_runs
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.predicting import predictor_of, predictor_of_loss
from metascale.laws.prepared import prepare
from metascale.laws.record import LawRecord
from metascale.laws.schedules import Schedule
from metascale.laws.selection import best_of
from metascale.laws.several import each_metric
from metascale.laws.share_analysis import analyse_shares
from metascale.laws.shares import Metric, metric_of
from metascale.laws.table import Table

X = np.geomspace(1e3, 1e6, 7)
LOSS = 2 * X**-0.1
N, D = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11, 4)))
SURFACE = {"N": N, "D": D, "loss": 2 + 4 / N**0.3 + 9 / D**0.3}
TWO = observe(np.column_stack([N, D]), SURFACE["loss"], x_name=("N", "D"))
ONE = observe(X, LOSS)
LINE = fit_law(LAWS["power"], ONE, LeastSquares())
HOURS = CostLaw("hours", np.array([0.0, 1.0, 1.0]), np.zeros((3, 3)), 0.0, 5)
PLAN = {"N": [1e7, 1e8], "loss": [3.0, 2.5]}

Refused = tuple[Callable[[], Any], str, dict[str, Any]]


def of(words: str, **told: Any) -> tuple[str, dict[str, Any]]:
    return words, told


ALLOCATED: list[Refused] = [
    (
        lambda: allocation.optimum(LINE, [1e9]),
        *of("the law 'power' has one axis; an optimum needs a law in model size and data"),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9], utilisation=0),
        *of("utilisation is 0; it is a share of the peak, above 0 and at most 1", field="utilisation", value=0),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9], utilisation=1.5),
        *of("utilisation is 1.5; it is a share of the peak, above 0 and at most 1", field="utilisation", value=1.5),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9], flops_per_second=1e15, cost=HOURS),
        *of("GPU-hours are told from FLOPs, and the budgets are in hours", field="gpu_flops"),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9], flops_per_second=0.0),
        *of("`gpu_flops` is 0; the peak of a GPU is a positive number of FLOP/s", field="gpu_flops", value=0.0),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9], flops_per_second=np.inf),
        *of("`gpu_flops` is inf; the peak of a GPU is a positive number of FLOP/s", field="gpu_flops", value=np.inf),
    ),
    (
        lambda: allocation.optimum(LINE, []),
        *of("compute budgets must be positive finite numbers of FLOPs, and none is given", field="compute"),
    ),
    (
        lambda: allocation.optimum(LINE, [1e9, 0]),
        *of("compute budgets must be positive finite numbers of FLOPs, not [1000000000.0, 0]", field="compute"),
    ),
    (
        lambda: allocation.optimum(LINE, "much"),
        *of("compute budgets must be positive finite numbers of FLOPs, not 'much'", field="compute"),
    ),
    (
        lambda: allocation.optimum(LINE, np.inf, cost=HOURS),
        *of("compute budgets must be positive finite numbers of hours, not inf", field="compute"),
    ),
    (
        lambda: allocation.optimum(fit_law(LAWS["chinchilla"], TWO, LeastSquares()), [7e26], n_bootstrap=20),
        *of(
            "the largest 6*N*D of the table is 6e+20, and the budget 7e+26 is more than 1e+06 times that: give N "
            "and D as "
            "plain counts, not in millions or billions, and budgets in the unit of the table",
            field="compute",
            value=7e26,
        ),
    ),
    (lambda: isoflop([1, 2], [1, 2], [1, 2], rise=0), *of("rise is 0; it must be a positive difference of ln loss")),
    (
        lambda: isoflop([1, 1, 2, 2], [1, 2, 1, 2], [2, 1, 2, 1]),
        *of("isoFLOP parabolas: 0 compute levels have an optimum inside their sizes (2 do not); at least 3 are needed"),
    ),
    (
        lambda: fit_cost([1] * 6, [1] * 6, [1, 2, 3, 4, 5, -1], "hours"),
        *of("'hours' has a cost that is not positive", field="cost", value="hours"),
    ),
    (
        lambda: fit_cost(N[:4], D[:4], N[:4], "hours"),
        *of(
            "the cost of a run cannot be fitted to 'hours': that takes 5 rows or more, in which model size and "
            "data vary "
            "apart; 4 rows have a number there",
            field="cost",
            value="hours",
        ),
    ),
    (
        lambda: fit_cost(N, D, N / D**0.5, "hours"),
        *of(
            "'hours' is no cost of training: it goes as N^1 D^-0.5, and must grow with both",
            field="cost",
            value="hours",
        ),
    ),
    (
        lambda: entry.optimum(LINE, [1e9], cost="hours"),
        *of("a fitted law has no columns: give `cost` as what `fit_cost` returns", field="cost"),
    ),
]
SHARED: list[Refused] = [
    (
        lambda: metric_of("acc", np.array([0.5]), "odds"),
        *of(
            "kind 'odds' is unknown; allowed are: loss, share, error",
            field="kind",
            value="odds",
            allowed="loss, share, error",
        ),
    ),
    (
        lambda: Metric("acc").successes(np.array([0.5, 1.5, -1])),
        *of("'acc' is 1.5 in row 2 (2 such rows); a share lies between 0 and 1", field="kind", value="acc"),
    ),
    (
        lambda: Metric("acc").successes(np.array([5.0, 150.0])),
        *of(
            "'acc' is 5 in row 1 (2 such rows); a share lies between 0 and 1; divide counts by their numbers of "
            "questions, and "
            "give these as `trials`",
            field="kind",
            value="acc",
        ),
    ),
    (
        lambda: analyse_shares(X, LOSS, trials=[0] * 7, loss_name="acc", kind="share"),
        *of("`trials` must be numbers of questions, at least 1 in every row", field="trials"),
    ),
    (
        lambda: analyse_shares(X, LOSS / 3, chance=0.95, loss_name="acc"),
        *of("`chance` is 0.95; it is a share of successes of 'acc', from 0 to 0.95", field="chance", value=0.95),
    ),
    (
        lambda: analyse_shares([1, 2], [0.4, 0.5], loss_name="acc", x_name="N"),
        *of("the table has 2 distinct values of 'N' in 2 rows; the law 'logistic' needs at least 3"),
    ),
    (
        lambda: ms.backtest({"N": [1, 2, 3], "acc": [0.3, 0.4, 0.5]}, y="acc"),
        *of("the table has 3 distinct values of 'N'; a backtest needs at least 4 (3 to see and 1 to hide)"),
    ),
    (
        lambda: ShareOptions(None, None, None, None).of("loss", "acc"),
        *of("`loss` is an array of losses, not 'acc'; the column of a table is named by `y`", field="loss"),
    ),
    (
        lambda: ShareOptions(None, 0.25, None, None).of("L", [2.0, 3.0]),
        *of(
            "`chance` is for shares such as accuracies, and 'L' is read as a loss; `kind` says otherwise",
            field="chance",
        ),
    ),
    (
        lambda: ShareOptions("share", None, None, None).of("acc", [0.2, 0.3], "power"),
        *of(
            "the law 'power' is not for shares such as 'acc'; allowed are: auto, logistic (or `kind` loss)",
            field="law",
            value="power",
            allowed="auto, logistic",
        ),
    ),
    (
        lambda: ms.fit({"N": X, "acc": X * 0}, kind="share", y="acc"),
        *of(
            "'acc' is 0 in every row: nothing says where it changes; add scales at which it is between 0 and 1",
            field="y",
            value="acc",
        ),
    ),
    (
        lambda: ms.fit({"N": X, "loss": LOSS, "acc": LOSS / 3}, via="loss"),
        *of("`y` is missing: name the share that is read off 'loss'", field="y"),
    ),
]
ENTERED: list[Refused] = [
    (
        lambda: ms.fit({"N": X, "loss": LOSS, "g": ["a"] * 7}, group="g", series="g"),
        *of("`group` and `series` cannot go together: `group` is a series whose exponents are compared"),
    ),
    (
        lambda: ms.fit(SURFACE, y=["loss", "D"], law="multi_power"),
        *of("the law 'multi_power' is fitted to one loss; name it with `y`", field="y"),
    ),
    (lambda: ms.fit(SURFACE, law="multi_power", seed=1), *of("`seed` is not for the law 'multi_power'", field="seed")),
    (
        lambda: ms.fit({"N": X, "acc": LOSS / 3}, y="acc", objective=1),
        *of("`objective` is not for shares such as accuracies", field="objective"),
    ),
    (lambda: entry.fit_many([1]), *of("`tables` must be a mapping of names to tables, not list", field="tables")),
    (
        lambda: entry.fit_many({"t": {"N": X, "acc": LOSS / 3}}, y="acc"),
        *of("t: shares such as accuracies are fitted by `fit`", field="tables"),
    ),
    (
        lambda: entry.fit_many({"t": {"N": X, "loss": LOSS, "method": ["a", "b", "a", "b", "a", "b", "a"]}}),
        *of("t: the table has groups in 'method'; give each as a table", field="tables"),
    ),
    (
        lambda: ms.forecast({"N": X, "loss": LOSS}),
        *of("`at` is missing: give the scales to predict the loss at", field="at"),
    ),
    (
        lambda: ms.forecast(SURFACE, law="multi_power"),
        *of("`schedule` is missing: give the rates of the run to predict", field="schedule"),
    ),
    (
        lambda: ms.forecast(SURFACE, at=[[1e9, 1e9]], x=("N", "D"), families=1),
        *of("'families' is for tables with one scale", field="families"),
    ),
    (
        lambda: ms.backtest(SURFACE, x=("N", "D"), noise="loss"),
        *of(
            "`noise` is for laws in one scale and for chinchilla, kaplan and data_constrained; formulas and "
            "joined forms "
            "weigh every row alike",
            field="noise",
        ),
    ),
    (
        lambda: prepare(Table({"n": [1]}, "t"), rows=0),
        *of("rows is 0; give how many rows are fitted, at least 1", field="rows", value=0),
    ),
    (lambda: each_metric([], str), *of("`y` names no metric; give one or more columns, or leave it out", field="y")),
    (
        lambda: best_of([{"lr": 1, "n": 1, "loss": None}], ["lr"], ["n"], "loss"),
        *of("a row has no number in 'loss', by which the best is chosen"),
    ),
    (
        lambda: best_of([{"lr": 1, "n": 1, "loss": "x"}], ["lr"], ["n"], "loss"),
        *of("a row has no number in 'loss', by which the best is chosen", value="x"),
    ),
    (
        lambda: predictor_of(LawRecord("power")),
        *of(
            "the law holds no predictor, as those of studies and of earlier versions do not; fit its table (of a "
            "study its "
            "results.csv) into a folder of its own, and predict from there"
        ),
    ),
    (
        lambda: predictor_of_loss([1, 2], [2, 1], ("N",), "loss"),
        *of("the table has 2 distinct values of 'N'; a forecast needs at least 3"),
    ),
    (
        lambda: paired_test([1, 2], [1]),
        *of("a paired test needs two lists of one length; the shapes are (2,) and (1,)"),
    ),
    (lambda: paired_test([1], [1]), *of("a paired test needs at least 2 tasks; there are 1")),
    (lambda: paired_test([1, 2, np.nan], [1, np.inf, 2]), *of("a paired test needs finite losses; 2 tasks have none")),
    (lambda: bootstrap_mean([1, 2], level=1), *of("the level of an interval must lie between 0 and 1; it is 1")),
    (lambda: bootstrap_mean([1]), *of("a bootstrap needs at least 2 values and 1 resample; got 1 and 10000")),
    (
        lambda: bootstrap_mean([1, 2], n_resamples=0),
        *of("a bootstrap needs at least 2 values and 1 resample; got 2 and 0"),
    ),
    (lambda: holm([0.5, 1.5]), *of("p-values must lie in [0, 1]; got [0.5, 1.5]")),
]
PLANNED: list[Refused] = [
    (
        lambda: next_runs(PLAN, PLAN, "N", {"N": 1e9}, 0),
        *of("budget is 0; it must be a positive number", field="budget", value=0),
    ),
    (
        lambda: next_runs(PLAN, PLAN, "N", {"N": 1e9}, np.inf),
        *of("budget is inf; it must be a positive number", field="budget", value=np.inf),
    ),
    (
        lambda: next_runs(PLAN, PLAN, "N", {"N": 1e9}, 1, batch=0),
        *of("batch is 0; it must be at least 1", field="batch", value=0),
    ),
    (
        lambda: next_runs(PLAN, PLAN, "N", {"N": 1e9}, 1, level=1),
        *of("level is 1; it must lie between 0 and 1", field="level", value=1),
    ),
    (
        lambda: next_runs(PLAN, {"N": np.ones(100_001)}, "N", {"N": 1e9}, 1),
        *of("there are 100001 candidates; at most 100000 can be compared", field="candidates"),
    ),
    (
        lambda: next_runs(PLAN, PLAN, "N", {"N": 1e9}, 1e9),
        *of("no candidate is within the budget of 1e+09: all are in the table", field="budget"),
    ),
    (
        lambda: next_runs(PLAN, {"N": [1e7, 3e8, 2e8]}, "N", {"N": 1e9}, 1e8),
        *of("no candidate is within the budget of 1e+08: the cheapest costs 2e+08", field="budget"),
    ),
    (
        lambda: candidates.costs(Table({"N": [1, 2]}, "t"), [1.0]),
        *of("there are 1 costs and 2 candidates", field="cost"),
    ),
    (
        lambda: candidates.costs(Table({"N": [1, -2]}, "t"), "N"),
        *of("the cost of candidate 2 is -2; every cost must be a positive number", field="cost", value="N"),
    ),
    (
        lambda: candidates.costs(Table({"N": [1, 2]}, "t"), "6*M"),
        *of(
            "the cost '6*M' names 'M', which is no column of the candidates; columns: N",
            field="cost",
            value="6*M",
            allowed="N",
        ),
    ),
    (
        lambda: candidates.grid({"N": np.ones(400), "D": np.ones(400)}),
        *of("the ranges make more than 100000 candidates", field="candidates"),
    ),
    (
        lambda: candidates.as_table([], "target"),
        *of("`target` must be rows that name the same scales, such as {'N': 7e10}", field="target"),
    ),
    (
        lambda: candidates.as_table([{"N": 1}, {"D": 1}], "target"),
        *of("`target` must be rows that name the same scales, such as {'N': 7e10}", field="target"),
    ),
    (lambda: candidates.as_table({"N": []}, "candidates"), *of("`candidates` has no rows", field="candidates")),
    (
        lambda: candidates.scales_of(Table({"N": [1]}, "t"), ("D",), "target"),
        *of("`target` has no column 'D'; columns: N", field="target", value="D", allowed="N"),
    ),
    (
        lambda: candidates.scales_of(Table({"N": [1], "D": [-1]}, "t"), ("N", "D"), "target"),
        *of("`target`, row 1: 'D' is -1; scales must be positive numbers", field="target"),
    ),
    (
        lambda: candidates.runs_of({"N": [1, 2], "ppl": [3, 0]}, ("N",), "ppl"),
        *of("'ppl' of row 2 is not finite", field="y"),
    ),
    (
        lambda: candidates.runs_of({"N": [1, 2], "loss": [3, 2], "method": ["a", "b"]}, ("N",), None),
        *of(
            "the table holds runs of several methods (a, b); a plan is for one of them: give the rows of one",
            field="table",
        ),
    ),
    (
        lambda: simulate_table("power", {"N": [1]}, {"A": 1, "alpha": 1}, seeds=0),
        *of("seeds is 0, noise 0.01 and evaluation 0.0; seeds are 1 or more, the others not negative", field="seeds"),
    ),
    (
        lambda: simulate_table("power", {"N": [1]}, {"A": 1, "alpha": 1}, noise=-1.0),
        *of("seeds is 1, noise -1.0 and evaluation 0.0; seeds are 1 or more, the others not negative", field="noise"),
    ),
    (
        lambda: simulate_table("power", {"N": [1]}, {"A": 1, "alpha": 1}, evaluation=np.inf),
        *of("seeds is 1, noise 0.01 and evaluation inf; seeds are 1 or more, the others not negative", field="noise"),
    ),
    (
        lambda: simulate_table("a - N", {"N": [1, 2]}, {"a": 1}),
        *of("the planted loss is 0 in row 1; it must be a positive number", field="parameters"),
    ),
    (
        lambda: simulate_table("power", {}, {}),
        *of("`scales` names no scale; give values by name, such as {'tokens': [1e6, 1e7]}", field="scales"),
    ),
    (
        lambda: simulate_table("power", {"N": [1, 0]}, {}),
        *of("'N' has a value that is not a positive number", field="scales", value="N"),
    ),
    (
        lambda: simulate_table("chinchilla", {"N": [1, 2], "D": [1]}, {}, crossed=False),
        *of("row by row all scales have as many values as one another; they have {'N': 2, 'D': 1}", field="scales"),
    ),
    (
        lambda: simulate_table("power", {"N": np.ones(1001)}, {}, seeds=1000),
        *of("the table would have 1001000 rows; at most 1000000", field="scales"),
    ),
    (
        lambda: simulate_table("power", {"N": [1], "D": [1]}, {}),
        *of("the law 'power' has 1 scale and 2 are given", field="scales"),
    ),
    (
        lambda: simulate_table("kaplan", {"N": [1]}, {}),
        *of("the law 'kaplan' has 2 scales and 1 are given", field="scales"),
    ),
    (
        lambda: simulate_table("power", {"N": [1]}, {"A": 1}),
        *of(
            "the law 'power' needs the parameter 'alpha'; its parameters are A, alpha",
            field="parameters",
            value="alpha",
        ),
    ),
    (
        lambda: simulate_table("power", {"N": [1]}, {"A": 1, "alpha": 1, "b": 1}),
        *of("the law 'power' has no parameter 'b'; its parameters are A, alpha", field="parameters", value="b"),
    ),
]
SCHEDULED: list[Refused] = [
    (
        lambda: Schedule.of([], []),
        *of("a schedule needs finite steps, at least 0, with a finite rate each", field="schedule"),
    ),
    (
        lambda: Schedule.of([1, -1], [1, 1]),
        *of("a schedule needs finite steps, at least 0, with a finite rate each", field="schedule"),
    ),
    (
        lambda: Schedule.of([1, 2], [1, np.inf]),
        *of("a schedule needs finite steps, at least 0, with a finite rate each", field="schedule"),
    ),
    (
        lambda: Schedule.of([1, 2], [1, -1]),
        *of("a schedule has rates of at least 0, some above, and steps of at least 1", field="schedule"),
    ),
    (
        lambda: Schedule.of([0.5], [1]),
        *of("a schedule has rates of at least 0, some above, and steps of at least 1", field="schedule"),
    ),
    (
        lambda: Schedule.of([1, 2], [0, 0]),
        *of("a schedule has rates of at least 0, some above, and steps of at least 1", field="schedule"),
    ),
]
ALL = [*ALLOCATED, *SHARED, *ENTERED, *PLANNED, *SCHEDULED]


@pytest.mark.parametrize(("ask", "words", "told"), ALL, ids=[str(place) for place in range(len(ALL))])
def test_what_an_entry_refuses_and_why(ask: Callable[[], Any], words: str, told: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ask()
    assert str(caught.value) == words
    assert {name: getattr(caught.value, name) for name in ("field", "value", "allowed") if name in told} == told
    assert caught.value.field == told.get("field")
