"""What results say: every summary in full, of results whose numbers were chosen for it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.core.notebook import words
from metascale.laws.allocation import Optimum
from metascale.laws.cost import SIX_N_D, CostLaw
from metascale.laws.groups import Crossover
from metascale.laws.next_plan import NextRuns, Outcome
from metascale.laws.predicting import SavedLaw
from metascale.laws.prediction import Prediction, points_of
from metascale.laws.record import Interval, TrendResult
from metascale.laws.schedule_fit import Run, ScheduleFit
from metascale.laws.schedule_predictor import CurvePrediction
from metascale.laws.schedules import Schedule
from metascale.laws.several import ByGroup, ByMetric, each_metric
from metascale.laws.share_analysis import _trend_words
from metascale.laws.shares import Metric
from metascale.laws.two_steps import TaskPrediction

A = np.array
FAILURES = Metric("err", True)


def plan(**changes):
    given = {
        "x_names": ("N", "D"), "loss_name": "loss", "candidate": (4, 1), "x": A([[1e7, 2e8], [3e7, 4e8]]),
        "cost": A([2.0, 3.0]), "worth": A([0.5, 0.125]), "width": A([np.log(1.5), np.log(1.25)]),
        "width_now": float(np.log(3.0)), "median": A([3.0, 2.5]), "low": A([2.75, 2.25]), "high": A([3.25, 2.75]),
        "target": A([[1e9, 2e10]]), "now": A([[2.0], [1.75], [2.5]]), "after_low": A([1.875]),
        "after_high": A([2.25]), "budget": 6.0, "level": 0.8, "unit": "ln loss", "n_runs": 3, "n_candidates": 9,
        "noise": float(np.log(1.02)), "notes": ("first",),
    }  # fmt: skip
    return NextRuns(**given | changes)


def test_a_plan_of_next_runs_in_words():
    lines = plan().summary().splitlines()
    assert lines == [
        "2 of 9 candidates for 5 of 6; 80 % interval of the law at the target: ×/÷ 3 now, ±25 % expected after them",
        "",
        f"{'N':>20}{'D':>20}{'cost':>12}{'so far':>12}{'worth':>9}{'then':>10}{'expected':>12}",
        f"{'1e+07':>20}{'2e+08':>20}{'2':>12}{'2':>12}{'50.0':>7} %{'±50 %':>10}{'3':>12}",
        f"{'3e+07':>20}{'4e+08':>20}{'3':>12}{'5':>12}{'12.5':>7} %{'±25 %':>10}{'2.5':>12}",
        "",
        "one new run at the target (80 % interval; with the noise of a run, ±2 %)",
        "  N 1e+09, D 2e+10: loss 2, now 1.75 to 2.5, expected after the plan 1.875 to 2.25",
        "  note: first",
    ]
    first = plan().rows()[1]
    assert first == {"N": 3e7, "D": 4e8, "cost": 3.0, "cost_so_far": 5.0, "worth": 0.125,
                     "worth_per_cost": pytest.approx(0.125 / 3), "width_left": pytest.approx(np.log(1.25)),
                     "expected": 2.5, "low": 2.25, "high": 2.75, "candidate": 1}  # fmt: skip
    stored = plan().to_json()
    assert (stored["width_after"], stored["spent"], stored["runs"]) == (
        pytest.approx(np.log(1.25)), 5.0, plan().rows()
    )  # fmt: skip


def test_a_plan_from_nothing_tells_no_interval():
    found = plan(n_runs=0, unit="loss")
    assert found.summary().splitlines()[:4] == [
        "2 of 9 candidates for 5 of 6; no interval is told, since no run is known",
        "",
        f"{'N':>20}{'D':>20}{'cost':>12}{'so far':>12}{'worth':>9}",
        f"{'1e+07':>20}{'2e+08':>20}{'2':>12}{'2':>12}{'50.0':>7} %",
    ]
    assert "expected" not in found.rows()[0]
    assert found.plot().lines[0].get_xydata().tolist() == [[2.0, np.log(1.5)], [5.0, np.log(1.25)]]
    axes = plan().plot()
    assert axes.lines[0].get_xydata().tolist() == [[0.0, np.log(3.0)], [2.0, np.log(1.5)], [5.0, np.log(1.25)]]
    assert (axes.get_xlim(), axes.get_xlabel()) == ((0, 6), "cost so far")
    assert axes.get_ylabel() == "half the 80 % interval at the target (ln loss)"
    empty = plan(candidate=(), x=np.zeros((0, 2)), cost=A([]), worth=A([]), width=A([]))
    assert empty.width_after == empty.width_now


def test_a_long_plan_shows_its_first_runs():
    n = 45
    long = plan(candidate=tuple(range(n)), x=np.full((n, 2), 1e7), **dict.fromkeys(("cost", "worth"), np.full(n, 0.5)),
                **dict.fromkeys(("width", "median", "low", "high"), np.ones(n)))  # fmt: skip
    rows = [line for line in long.summary().splitlines() if line.startswith(" " * 15)]
    more = [line for line in long.summary().splitlines() if "more (plan.csv and the JSON form have all)" in line]
    assert len(rows) - 1 < n
    assert more == [f"    {n - len(rows) + 1} more (plan.csv and the JSON form have all)"]


def test_what_came_of_a_plan_in_words():
    """One of two runs is in the table, at 2.75: the end of 2.75 to 3.25 is inside."""
    found = Outcome(plan(), A([2.75, np.nan]), A([[2.25], [2.0], [2.5]]), float(np.log(1.1)))
    assert found.summary().splitlines() == [
        "1 of 2 planned runs are in the table; 1 of them inside their 80 % interval",
        "80 % interval of the law at the target: ×/÷ 3 before, ±25 % promised, ±10 % now",
        "  N 1e+09, D 2e+10: loss 2 (1.75 to 2.5) before, 2.25 (2 to 2.5) now",
    ]
    stored = found.to_json()
    assert [row["observed"] for row in stored["runs"]] == [2.75, None]
    assert (stored["came"], stored["inside"], stored["width_now"]) == (1, 1, pytest.approx(np.log(1.1)))
    assert (stored["width_before"], stored["width_promised"]) == (pytest.approx(np.log(3)), pytest.approx(np.log(1.25)))
    assert (stored["now"], stored["before"], stored["target"]) == (
        [[2.25], [2.0], [2.5]], [[2.0], [1.75], [2.5]], [[1e9, 2e10]]
    )  # fmt: skip
    axes = found.plot()
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "expected loss", "observed loss")
    assert axes.lines[0].get_xydata().tolist() == [[2.75, 2.75], [3.0, 3.0]]
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[3.0, 2.75]]
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar.tolist() == [[2.75, 2.75], [3.25, 2.75]]
    assert axes.get_legend_handles_labels()[1] == ["runs (80 %)"]
    nothing = Outcome(plan(n_runs=0, unit="loss"), A([np.nan, np.nan]), A([[2.25], [2.0], [2.5]]), 0.5)
    assert nothing.summary().splitlines() == [
        "0 of 2 planned runs are in the table",
        "80 % interval of the law at the target: ±0.5 now",
        "  N 1e+09, D 2e+10: loss 2.25 (2 to 2.5) now",
    ]
    assert nothing.to_json()["inside"] is None
    assert nothing.plot().get_xscale() == "linear"
    assert [Outcome(plan(), A([x, np.nan]), plan().now, 0.1).inside for x in (2.7, 3.25, 3.3)] == [
        (0, 1), (1, 1), (0, 1)
    ]  # fmt: skip


def optimum(**changes):
    def band(middle, low, high):
        return {"estimate": A([middle]), "low": A([low]), "high": A([high])}

    given = {
        "law": "chinchilla", "compute": A([6e20]), "n_params": band(1e9, 5e8, 2e9), "tokens": band(2e10, 1e10, 4e10),
        "loss": band(2.5, 2.25, 2.75), "exponent": {"estimate": 0.5, "low": 0.4, "high": 0.6}, "level": 0.9,
        "gpu_hours": A([12.5]), "notes": ("first",), "cost": SIX_N_D, "source": None,
    }  # fmt: skip
    return Optimum(**given | changes)


def test_an_optimum_in_words():
    assert optimum().summary().splitlines() == [
        "compute 6e+20 FLOPs, 12.5 GPU-hours",
        "  N    1e+09       90 % interval 5e+08 to 2e+09",
        "  D    2e+10       90 % interval 1e+10 to 4e+10",
        "  loss 2.5         90 % interval 2.25 to 2.75",
        "  D/N  20",
        "N_opt grows as C^0.5000 (90 % 0.4000 to 0.6000)",
        "note: first",
    ]
    assert optimum(gpu_hours=None).summary().splitlines()[0] == "compute 6e+20 FLOPs"
    assert optimum().rows() == [{
        "compute": 6e20, "n_params_estimate": 1e9, "n_params_low": 5e8, "n_params_high": 2e9, "tokens_estimate": 2e10,
        "tokens_low": 1e10, "tokens_high": 4e10, "loss_estimate": 2.5, "loss_low": 2.25, "loss_high": 2.75,
    }]  # fmt: skip
    stored = optimum().to_json()
    assert {"source", "unique_tokens"} & set(stored) == set()
    assert (stored["law"], stored["compute"], stored["level"]) == ("chinchilla", [6e20], 0.9)
    axes = optimum().plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("compute (FLOPs)", "N")
    assert "N_opt (chinchilla), 90 % interval" in axes.get_legend_handles_labels()[1]


def test_the_rows_of_an_optimum_have_no_more_unique_tokens_than_there_are():
    asked = []
    source = SimpleNamespace(predict=lambda points, level: asked.append((points.tolist(), level)))
    optimum(source=source).predict()
    optimum(source=source, law="data_constrained").predict(level=0.5)
    optimum(source=source, law="data_constrained", unique_tokens=3e9).predict()
    optimum(source=source).predict(A([[1.0, 2.0]]))
    assert asked == [([[1e9, 2e10]], 0.9), ([[1e9, 2e10, 2e10]], 0.5), ([[1e9, 2e10, 3e9]], 0.9), ([[1.0, 2.0]], 0.9)]


def test_a_fitted_cost_in_words():
    """SE of an exponent: the length of its row of the root."""
    cost = CostLaw("hours", A([np.log(2.0), 1.0, 0.5]), A([[0, 0, 0], [0.03, 0.04, 0], [0, 0, 0.02]]), 0.031, 7)
    assert cost.summary() == (
        "hours = 2 N^1.000 D^0.500 (SE 0.05 and 0.02), fitted to 7 rows, off by 3.1 % (rms)"
    )  # fmt: skip
    assert SIX_N_D.summary() == "C = 6 N D"
    assert (SIX_N_D.is_flops, cost.is_flops, SIX_N_D.unit) == (True, False, "FLOPs")
    assert cost.of(A([4.0]), A([9.0])) == pytest.approx([24.0])


def test_predictions_in_words_and_tables(tmp_path):
    found = Prediction(A([[1e9], [2e9]]), A([2.5, 2.0]), A([2.25, 1.5]), A([2.75, 2.5]), 0.8, A([1.0, 2.0]), ("N",),
                       "loss", "1 form")  # fmt: skip
    assert found.summary().splitlines() == [
        "predicted by 1 form; 80 % intervals for one new run",
        "N 1e+09: loss 2.5 (2.25 to 2.75)",
        "N 2e+09: loss 2 (1.5 to 2.5), 2 times beyond the table",
    ]
    assert found.outside.tolist() == [False, True]
    csv = "N,median,low,high,beyond\n1000000000.0,2.5,2.25,2.75,1.0\n2000000000.0,2.0,1.5,2.5,2.0\n"
    assert found.to_csv(tmp_path / "p.csv") == csv == (tmp_path / "p.csv").read_text()
    assert found.to_json() == {
        "level": 0.8,
        "x_names": ["N"],
        "loss_name": "loss",
        "by": "1 form",
        "rows": found.rows(),
    }
    assert found._repr_html_() == words(found.summary())
    many = Prediction(np.ones((60, 1)), *np.ones((3, 60)), 0.9, np.ones(60), ("N",), "loss")
    shown = many.summary().splitlines()
    assert shown[0] == "N 1: loss 1 (1 to 1)"
    assert shown[-1] == f"... {60 - len(shown) + 1} more rows"


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([["a", "b"]], r"^the points are no numbers \(.*\); give rows of N, D$"),
        ([[1.0, 2.0, 3.0]], "^a row has 3 scales; the law needs N, D$"),
        (np.zeros((0, 2)), "^there is no row to predict$"),
        ([], "^there is no row to predict$"),
    ],
)
def test_points_that_are_no_rows_of_scales_are_refused(points, words):
    with pytest.raises(InputError, match=words) as caught:
        points_of(points, ("N", "D"))
    assert caught.value.field == "x"


def test_points_by_rows_and_by_name():
    for points in ([1.0, 2.0], {"N": 1.0, "D": 2.0}, [{"D": 2.0, "N": 1.0}], {"D": [2.0], "N": [1.0]}):
        assert points_of(points, ("N", "D")).tolist() == [[1.0, 2.0]]
    assert points_of(3.0, ("N",)).tolist() == [[3.0]]
    assert points_of([3.0, 4.0], ("N",)).tolist() == [[3.0], [4.0]]
    with pytest.raises(InputError, match="has no rows") as caught:
        points_of({"N": [], "D": []}, ("N", "D"))
    assert caught.value.field == "points"
    with pytest.raises(InputError, match=r"has no column 'D', which the law needs; it has N, E$") as caught:
        points_of({"N": [1.0], "E": [1.0]}, ("N", "D"))
    assert (caught.value.field, caught.value.value) == ("points", "D")


def test_a_task_prediction_in_words_and_columns():
    found = TaskPrediction(
        A([[1e9]]), A([0.5]), A([0.25]), A([0.75]), 0.8, A([2.0]), ("N",), "acc", "laws", via="loss", loss=A([2.5]),
        loss_low=A([2.25]), loss_high=A([2.75]), from_loss=(A([0.375]), A([0.625])), from_link=(A([0.3]), A([0.7])),
    )  # fmt: skip
    assert found.summary().splitlines() == [
        "N 1e+09: acc 0.5 (80 % interval for one run 0.25 to 0.75)",
        "  loss 2.5 (2.25 to 2.75); error of the loss alone 0.375 to 0.625, of the link alone 0.3 to 0.7",
    ]
    row = {"N": 1e9, "median": 0.5, "low": 0.25, "high": 0.75, "beyond": 2.0, "loss": 2.5, "loss_low": 2.25,
           "loss_high": 2.75, "low_from_loss": 0.375, "high_from_loss": 0.625, "low_from_link": 0.3,
           "high_from_link": 0.7}  # fmt: skip
    assert (found.rows(), found.columns) == ([row], list(row))


def test_a_curve_of_predictions_in_words():
    found = CurvePrediction(
        A([[100.0], [200.0]]), A([3.0, 2.5]), A([2.75, 2.25]), A([3.25, 2.75]), 0.8, A([1.0, 1.5]), ("step",), "loss",
        "multi_power", rate=A([1e-3, 5e-4]),
    )  # fmt: skip
    assert found.summary().splitlines() == [
        "step 100 (rate 0.001): loss 3 (80 % interval for one run 2.75 to 3.25)",
        "step 200 (rate 0.0005): loss 2.5 (80 % interval for one run 2.25 to 2.75)",
    ]
    row = {"step": 200.0, "lr": 5e-4, "median": 2.5, "low": 2.25, "high": 2.75, "beyond": 1.5}
    assert (found.rows()[1], found.columns, found.at.tolist()) == (row, list(row), [100, 200])
    axes = found.plot()
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("linear", "step", "loss")
    assert "one run (80 %)" in axes.get_legend_handles_labels()[1]


def schedule_fit(held, names=("a", "b")):
    runs = tuple(Run(name, Schedule(np.full(10, 1e-3), 0), A([5, 10]), A([3.0, 2.5])) for name in names)
    theta = A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6])
    return ScheduleFit(runs, theta, np.zeros((7, 7)), 1e-3, 1e-2, 0.003, 0.004, held, "loss", 0.95, ("first",))


def test_a_law_of_schedules_in_words():
    """In the units of the largest rate 1e-3 and the sum 1e-2: A 1e-2^0.5, B / 1e-3, C 1e-3^0.6 / 1e-2."""
    fit = schedule_fit({"a": float(np.log(1.02)), "b": float(np.log(0.99))})
    told = "loss follows its learning rates in 4 checkpoints of 2 runs"
    assert fit.verdict == f"{told}; fitted without a run, the law misses its end by at most 2 %."
    lines = fit.summary().splitlines()
    assert lines[:2] == [fit.verdict, ""]
    assert lines[3] == "  (4 checkpoints of 2 runs)"
    values = {"L0": 2, "A": 0.006, "alpha": 0.5, "B": 45, "C": 2000 * 1e-3**0.6 / 1e-2, "beta": 0.6, "gamma": 0.6}
    assert lines[4:11] == [
        f"  {name:<6} {value:<12.6g} 95 % interval {value:.5g} to {value:.5g}" for name, value in values.items()
    ]
    assert lines[11:] == [
        "  noise of a checkpoint 0.003 in ln loss, of a run about the law 0.004",
        "  without run a its end is predicted +2.00 % off",
        "  without run b its end is predicted -1.00 % off",
        "  note: first",
    ]
    assert schedule_fit({}).verdict == f"{told}; no run was left to test it on."
    stored = fit.to_json()
    assert (stored["noise_log"], stored["discrepancy_log"], stored["runs"]) == (0.003, 0.004, ["a", "b"])
    assert stored["held_out_log"] == fit.held_out
    assert "predictor" not in stored
    assert [set(row) for row in fit.residuals(fit.runs[0])] == [{"run", "step", "observed", "fitted"}] * 2


def test_groups_and_metrics_side_by_side_in_words():
    one, two = (SimpleNamespace(summary=lambda k=k: f"law {k}", to_json=lambda k=k: {"law": f"l{k}"}) for k in (1, 2))
    both = SimpleNamespace(summary=lambda: "compared", to_json=lambda: {"p": 1})
    assert ByGroup({"a": one, "b": two}).summary() == "a:\nlaw 1\n\nb:\nlaw 2"
    assert ByGroup({"a": one, "b": 3.5}, both).summary() == "a:\nlaw 1\n\nb:\n3.5\n\ncompared"
    assert ByGroup({"a": one, "b": 3.5}, both).to_json() == {"groups": {"a": {"law": "l1"}, "b": None},
                                                             "comparison": {"p": 1}}  # fmt: skip
    assert ByGroup({"a": one}).to_json()["comparison"] is None
    assert ByGroup({"a": one})._repr_html_() == words("a:\nlaw 1")
    with pytest.raises(InputError, match=r"^a SimpleNamespace is no law; `to_json` holds what can be written of it$"):
        ByGroup({"a": one}).save("nowhere")
    found = ByMetric({"a": one, "b": two}, {"c": "no numbers"})
    assert found.summary() == "a:\nlaw 1\n\nb:\nlaw 2\n\nc: refused: no numbers"
    assert found.to_json() == {"metrics": {"a": {"law": "l1"}, "b": {"law": "l2"}}, "refused": {"c": "no numbers"}}
    assert found._repr_html_() == words(found.summary())
    law = SimpleNamespace(parameters={}, to_json=lambda: {
        "law": "power", "trend": "falls", "parameters": {"A": {"estimate": 2.0}, "alpha": {"estimate": 0.25}}
    })  # fmt: skip
    groups = SimpleNamespace(parameters={}, to_json=lambda: {"groups": {"x": {"law": "none"}, "y": {}}})
    table = ByMetric({"a": law, "b": groups}, {"c": "no numbers"})
    assert table.table().splitlines() == [
        f"{'metric':<24}{'law':<20}{'trend':<14}parameters",
        f"{'a':<24}{'power':<20}{'falls':<14}A 2, alpha 0.25",
        f"{'b (x)':<24}{'none':<20}{'-':<14}",
        f"{'b (y)':<24}{'-':<20}{'-':<14}",
        f"{'c':<24}refused: no numbers",
    ]
    assert table._repr_html_() == words(table.table())


def test_a_metric_named_twice_is_refused_and_one_error_is_that_of_all():
    with pytest.raises(InputError, match=r"^`y` names 'b' twice; every metric is named once$") as caught:
        each_metric(["a", "b", "b"], str)
    assert (caught.value.field, caught.value.value) == ("y", "b")

    def refuse(name):
        raise InputError(f"no {name}")

    with pytest.raises(InputError, match=r"^no a$"):
        each_metric(["a", "b"], refuse)


def crossing(estimate, low, high, share):
    drawn = []
    table = SimpleNamespace(x_names=("N",), loss_name="loss")
    curves = tuple(
        SimpleNamespace(
            fit=SimpleNamespace(observations=table, law=SimpleNamespace(formula=f"law {k}")),
            draw=lambda ax, colour, label: drawn.append((colour, label)),
        ) for k in (1, 2)
    )  # fmt: skip
    return Crossover(estimate, low, high, share, 0.9, curves), drawn


def test_a_crossing_in_words():
    found, drawn = crossing(100.0, 50.0, 200.0, 0.75)
    assert found.summary() == (
        "the curves cross at N = 100 (90 % interval 50 to 200; 75 % of resamples)"
    )  # fmt: skip
    assert crossing(100.0, None, None, 0.25)[0].summary() == (
        "the curves cross at N = 100 (no interval: fewer than half of the resamples cross; 25 % of resamples)"
    )
    assert crossing(None, None, None, 0.25)[0].summary() == (
        "the curves do not cross in the range searched (25 % of resamples cross)"
    )
    assert found.to_json() == {"estimate": 100.0, "low": 50.0, "high": 200.0, "share": 0.75, "level": 0.9}
    axes = found.plot()
    assert drawn == [("C0", "curve 1: law 1"), ("C1", "curve 2: law 2")]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("N", "loss")
    assert axes.lines[0].get_xdata() == [100.0, 100.0]
    assert axes.get_legend_handles_labels()[1] == ["crossing at 100"]
    assert [patch.get_x() for patch in axes.patches] == [50.0]


@pytest.mark.parametrize(
    ("answer", "ends", "metric", "log", "said"),
    [
        ("rises", (-0.5, -0.75, -0.25), Metric("acc"), True, "rises with N: its odds grow as N^0.5 (0.25 to 0.75)"),
        ("falls", (0.5, 0.25, 0.75), Metric("acc"), True, "FALLS with N: its odds shrink as N^0.5 (0.25 to 0.75)"),
        ("falls", (0.5, 0.25, 0.75), FAILURES, True, "falls with N: its odds shrink as N^0.5 (0.25 to 0.75)"),
        ("rises", (-0.5, -0.75, -0.25), FAILURES, True, "RISES with N: its odds grow as N^0.5 (0.25 to 0.75)"),
        ("not monotone", (0.5, 0.25, 0.75), Metric("acc"), True, "is not monotone in N"),
        ("none", (0.0, -0.1, 0.1), Metric("acc"), True,
         "has no trend in N: its odds change by at most 5 % per factor of 10"),
        # 10^-1 leaves a tenth.
        ("undecided", (0.0, -1.0, 0.5), Metric("acc"), True,
         "is undecided in N: its odds may still change by 90 % per factor of 10"),
        ("falls", (4.0, 3.0, 5.0), Metric("acc"), False,
         "changes with N by -4 (-5 to -3) in the log of its odds per unit"),
        ("unknown", None, Metric("acc"), True, "is unknown with N"),
    ],
)  # fmt: skip
def test_trends_of_shares_in_words(answer, ends, metric, log, said):
    trend = TrendResult(answer, None if ends is None else Interval(*ends), 0.95)
    assert _trend_words("N", trend, metric, log) == said


def test_a_saved_law_in_words():
    record = SimpleNamespace(verdict="it falls.", law="power", formula="A x^-alpha", n_observations=5, level=0.9,
                             parameters={"A": Interval(2.0, 1.5, 2.5)}, notes=("first",))  # fmt: skip
    lines = SavedLaw(record, SimpleNamespace(by="2 forms")).summary().splitlines()
    assert lines == [
        "it falls.", "", "law power: A x^-alpha    (5 rows)", "  A        2              90 % interval 1.5 to 2.5",
        "predictions by 2 forms", "  note: first",
    ]  # fmt: skip
    record.verdict = ""
    assert SavedLaw(record, SimpleNamespace(by="2 forms")).summary().startswith("law power")
