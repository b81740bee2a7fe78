"""Defaults and limits that callers rely on, each by what it does: both sides of a limit, or what is passed on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, logit

from metascale.core.errors import InputError
from metascale.laws import (
    LAWS,
    fit_law,
    next_plan,
    prediction,
    reading,
    schedule_fit,
    shapes,
    share_analysis,
    shares,
    sizes,
    space,
    surface_fit,
    thinning,
    trend,
    two_steps,
)
from metascale.laws.corners import corners
from metascale.laws.families import MANY_AXES
from metascale.laws.newton import Local, minimise
from metascale.laws.next_plan import NextRuns, follow
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import observe
from metascale.laws.picture import LawPicture, plot_law
from metascale.laws.predicting import SavedLaw, load_saved, predictor_of_loss
from metascale.laws.record import LawRecord, load_records
from metascale.laws.scales import pictures_of, slice_along
from metascale.laws.schedule_fit import Run, runs_of
from metascale.laws.schedule_predictor import SchedulePredictor
from metascale.laws.schedules import Schedule
from metascale.laws.share_analysis import analyse_shares
from metascale.laws.share_backtest import backtest_shares
from metascale.laws.share_predictor import SharePredictor
from metascale.laws.shares import Metric, run_quantiles
from metascale.laws.simulate import simulate_table
from metascale.laws.solving import Solve, solve
from metascale.laws.table import Table
from metascale.laws.trend import _stretches, turn_test
from metascale.laws.two_steps import TaskPredictor
from metascale.laws.uncertainty import Bootstrap, bootstrap

A = np.array


@pytest.mark.parametrize(("ended", "left"), [(1, 8), (2, 6)])
def test_rows_that_have_ended_make_room_once_they_are_a_quarter(ended, left):
    sizes = []

    def evaluate(theta, rows):
        sizes.append(len(rows))
        return Local(1 + 0.5 * theta[:, 0] ** 2, theta, np.ones((len(theta), 1, 1)), np.ones((len(theta), 1)))

    starts = np.r_[np.zeros(ended), np.ones(8 - ended)][:, None]
    minimise(evaluate, starts, A([-9.0]), A([9.0]))
    assert sizes[1] == 8
    assert sizes[2] == left


def test_one_request_alone_has_a_hundred_thousand_numbers_at_work(monkeypatch):
    asked = {}

    def stop(*given, **options):
        asked.update(options)
        raise InputError("enough")

    monkeypatch.setattr("metascale.laws.solving.minimise", stop)
    one = Solve(LAWS["power"], np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), LeastSquares(), np.zeros((1, 2)),
                prior=(np.zeros(2), np.ones(2)))  # fmt: skip
    with pytest.raises(InputError):
        solve(one)
    assert asked["width"] == 100_000


def test_a_plan_shows_a_dozen_runs_and_targets():
    n = 13
    one = np.ones(n)
    plan = NextRuns(("N",), "loss", tuple(range(n)), one[:, None], one, one / n, one, 2.0, one, one, one, one[:, None],
                    np.ones((3, n)), one, one, 99.0, 0.9, "loss", 3, n, 0.1)  # fmt: skip
    lines = plan.summary().splitlines()
    assert sum(line.startswith(f"{'1':>20}") for line in lines) == 12
    assert "    1 more (plan.csv and the JSON form have all)" in lines
    assert sum(line.startswith("  N 1: loss 1, now 1 to 1") for line in lines) == 12
    assert plan.notes == ()
    shorter = NextRuns(**{**vars(plan), "candidate": tuple(range(12)), "x": one[:12, None], "cost": one[:12]})
    assert "more (plan.csv" not in shorter.summary()


def test_a_plan_is_made_anew_after_15_percent_of_the_runs_known(monkeypatch):
    """Of 20 known runs 3 are run at a time, of 27 (more than 4 times two) 4."""
    plans = []

    class Known:
        noise, link = 1.0, "log"

        def joint(self, points):
            n = A(points)[:, 0]
            return SimpleNamespace(mean=-n, noise2=1.0, n_points=len(n), diagonal=lambda: n**2,
                                   columns=lambda index: np.outer(n, n[index]))  # fmt: skip

    monkeypatch.setattr(next_plan, "believe", lambda names, x, *rest: plans.append(len(x)) or Known())
    known = {"N": np.arange(1.0, 21.0), "loss": np.ones(20)}
    follow(lambda row: 1.0, {"N": np.arange(21.0, 35.0)}, np.ones(14), {"N": 99.0}, 7.0, table=known)
    assert plans == [20, 23, 26, 27]


def test_a_thousand_runs_have_readings():
    ones = (1.0,) * 1001
    axes = plot_law(LawPicture("t", "s", "N", "loss", ones, ones, {}))
    assert [line.get_gid() for line in axes.lines] == [None]
    assert plot_law(LawPicture("t", "s", "N", "loss", (0.5,), (0.5,), {})).get_xscale() == "log"


MIXTURE = SimpleNamespace(predict=lambda x: SimpleNamespace(median=x[:, 0], low=x[:, 0], high=x[:, 0]))


@pytest.mark.parametrize(("n", "points"), [(200, 200), (201, 200), (3, 3)])
def test_a_band_of_predictions_has_200_points(n, points):
    table = observe(np.column_stack([np.arange(1.0, n + 1), np.ones(n)]), np.ones(n), x_name=("N", "D"))
    (band,) = pictures_of(MIXTURE, table, "").__getitem__(0).bands.values()
    assert len(band.x) == points
    assert list(band.x) == sorted(band.x)


def test_runs_near_a_slice_are_within_5_percent():
    """ln D: 0, 0, 2.079, 2.128 and 2.279: the upper quarter is 2.128."""
    places = 8 * np.exp([0.0, 0.049, 0.2])
    table = observe(np.column_stack([np.arange(1.0, 6.0), [1.0, 1.0, *places]]), np.ones(5))
    assert table.x[slice_along(table, 0)[1], 1] == pytest.approx(places[:2])


def test_eight_names_of_runs_are_listed():
    def told(n):
        runs = [*"a" * 2, *(f"r{k}" for k in range(n))]
        table = Table({"run": [*runs, *runs], "step": [1, 2, *[1] * n, 3, 4, *[2] * n], "lr": [1.0] * (2 * n + 4),
                       "loss": [1.0, 1.0, *[0.0] * n, 1.0, 1.0, *[0.0] * n]}, "t")  # fmt: skip
        return runs_of(table)[2][-1]

    assert told(8).endswith(f"(r0, {', '.join(f'r{k}' for k in range(1, 8))})")
    assert told(9).endswith("r7, ...)")


def test_levels_of_laws_of_schedules(monkeypatch):
    asked = []
    monkeypatch.setattr(schedule_fit, "fit_multi_power", lambda runs, **options: asked.append(options) or "fit")
    table = Table({"step": [1, 2], "lr": [1.0, 1.0], "loss": [2.0, 1.0]}, "t", notes=("of the table",))
    assert schedule_fit.fit_curves(table) == {"": "fit"}
    assert asked == [{"loss_name": "loss", "level": 0.95, "notes": ("of the table",)}]
    schedule_fit.fit_curves(table, y="loss", level=0.5)
    assert asked[1]["level"] == 0.5


def test_a_law_of_one_run(monkeypatch):
    theta = A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6])
    monkeypatch.setattr(schedule_fit, "_minimise", lambda *given: (theta, np.zeros((7, 7)), 0.01))
    runs = [Run("a", Schedule(np.full(10, 2.0), 0), np.arange(1, 11), np.full(10, 2.0))]
    found = schedule_fit.fit_multi_power(runs)
    assert (found.level, found.loss_name, found.discrepancy, found.rate_unit, found.sum_unit, found.held_out) == (
        0.95, "loss", 0.006, 2.0, 20.0, {},
    )  # fmt: skip
    assert found.notes == (
        "one run: what the law says of other schedules is not tested on any, and rests on published ones",
    )  # fmt: skip
    assert found.predict("constant:peak=2,steps=10").level == 0.9
    assert found.predict("constant:peak=2,steps=10", [3, 4], 0.5).at.tolist() == [3, 4]
    two = schedule_fit.fit_multi_power([*runs, *runs], notes=("first",))
    assert two.notes == ("first",)
    assert set(two.held_out) == {"a"}


def test_levels_of_predictions_are_90_percent():
    predictor = SchedulePredictor(A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6]), np.zeros((7, 7)), 1.0, 1.0, 0.1, 0.0,  # noqa: E501
                                  "loss", (A([1]), A([1.0])))  # fmt: skip
    rows = Table({"step": [1, 2], "lr": [1.0, 1.0]}, "t")
    assert predictor.of_rows(rows)["high"].tolist() == predictor.of_rows(rows, 0.9)["high"].tolist()
    assert predictor.of_rows(rows)["high"][0] != predictor.of_rows(rows, 0.5)["high"][0]

    class Loss:
        x_names, loss_name, by = ("N",), "loss", "a stub"

        def predict(self, points, level):
            x = np.asarray(points, float).reshape(-1, 1)
            return SimpleNamespace(x=x, median=x[:, 0], low=x[:, 0], high=x[:, 0], beyond=x[:, 0])

    assert TaskPredictor(Loss(), share_predictor()).predict([1.0]).level == 0.9
    link = SimpleNamespace(predictor=share_predictor())
    assert two_steps.TaskAnalysis(link, Loss(), 1, ()).predict([1.0]).level == 0.9
    assert share_predictor().predict([1.0]).level == 0.9
    assert predictor_of_loss([1.0, 2.0, 4.0], [3.0, 2.0, 1.5], ("N",), "loss").predict([4.0]).level == 0.9


def share_predictor(**changes):
    given = {"metric": Metric("acc"), "x_names": ("N",), "names": ("a", "b", "chance", "missed"),
             "theta": A([[0.0, 1.0, 0.0, 0.0]]), "covariance": np.zeros((1, 4, 4)), "freedom": A([5.0]), "weights": A([1.0]),  # noqa: E501
             "between": 0.0, "trials": np.inf, "log": True, "low": A([1.0]), "high": A([4.0]),
             "sites": A([[0.0], [np.log(4)]])}  # fmt: skip
    return SharePredictor(**given | changes)


def test_beyond_a_table_the_slope_of_a_share_is_off_by_a_third():
    """Two e-folds beyond, the odds are off by 0.35 * 2 times the slope of 1; inside by nothing."""
    one = share_predictor()
    p, weights = one.draws(A([[4.0 * np.exp(2)], [2.0]]))
    assert p.shape == (500, 2)
    assert weights == pytest.approx(np.full(500, 1 / 500))
    odds = logit(p)
    assert odds[:, 0].std() == pytest.approx(0.7, rel=0.1)
    assert odds[:, 0].mean() == pytest.approx(np.log(4) + 2, abs=0.1)
    assert odds[:, 1] == pytest.approx(np.full(500, np.log(2)))
    assert np.array_equal(one.draws(A([[9.0]]))[0], one.draws(A([[9.0]]), 500, 0)[0])
    assert not np.array_equal(one.draws(A([[9.0]]))[0], one.draws(A([[9.0]]), 500, 1)[0])
    missed = share_predictor(theta=A([[0.0, 1.0, 0.0, 0.2]]))
    assert missed.draws(A([[1e9]]))[0].max() > 0.8  # what is missed may shrink beyond the table
    assert missed.draws(A([[4.0]]))[0] == pytest.approx(np.full((500, 1), 0.8 * 0.8))
    chance = share_predictor(theta=A([[0.0, 1.0, 0.2, 0.0]]))
    assert chance.draws(A([[4.0]]))[0] == pytest.approx(np.full((500, 1), 0.2 + 0.8 * 0.8))


@pytest.mark.parametrize(("criterion", "chosen"), [(7.9, "logistic_floor"), (8.1, "logistic")])
def test_a_chance_is_fitted_where_its_criterion_is_lower_by_two(criterion, chosen, monkeypatch):
    monkeypatch.setattr(share_analysis, "_criteria", lambda fits, *rest: {
        name: criterion if name == "logistic_floor" else 10.0 for name in fits})  # fmt: skip
    found = analyse_shares([1e6, 1e7, 1e8, 1e9], [0.27, 0.40, 0.71, 0.90])
    assert (found.chosen, found.chance) == (chosen, "fitted" if chosen == "logistic_floor" else "none")


def test_the_criterion_of_a_share_counts_its_variance():
    """QAICc: deviance + 2 k + 2 k (k + 1) / (n - k - 1) with k one more than the fitted; of too few rows none, and then
    the plain shape has 0."""
    t = np.linspace(-2, 2, 8)[:, None]
    y = 1 / (1 + np.exp(-t[:, 0] - 0.1 * np.resize([1, -1], 8)))
    trials = np.full(8, 50.0)
    fits = {"logistic": shares.fit_share(shares.Form("logistic"), t, y, trials)}
    k = 3
    expected = shares.fit_share(shares.Form("logistic"), t, y, trials, fits["logistic"].between).deviance
    assert share_analysis._criteria(fits, t, y, trials) == pytest.approx(
        {"logistic": expected + 2 * k + 2 * k * (k + 1) / (8 - k - 1)}
    )  # fmt: skip
    few = {"logistic": shares.fit_share(shares.Form("logistic"), t[:4], y[:4], trials[:4])}
    assert share_analysis._criteria(few, t[:4], y[:4], trials[:4]) == {"logistic": 0.0}


def test_a_beta_distribution_has_15_nodes_and_many_draws_200():
    assert run_quantiles(A([[0.5]]), A([1.0]), 1 / 3, np.inf, (0.0,))[0, 0] == pytest.approx(1 / 30)
    draws = np.linspace(0, 1, 201)[:, None]
    kept, weights = shares._thinned(draws, np.ones(201))
    assert (len(kept), weights[0]) == (200, 1 / 200)
    assert shares._thinned(draws[:200], np.ones(200))[0] is not None
    assert len(shares._thinned(draws[:200], np.ones(200))[0]) == 200
    assert np.array_equal(shares._thinned(draws[:200], np.ones(200))[0], draws[:200])


def test_the_level_of_a_backtest_of_shares_is_90_percent():
    asked = []

    class Law:
        def predict(self, at, level):
            asked.append(level)
            ones = np.ones(len(at))
            return SimpleNamespace(median=ones / 2, low=ones / 4, high=ones)

    x, y = A([[1.0], [2.0], [4.0], [8.0]]), A([0.2, 0.4, 0.6, 0.8])
    found = backtest_shares(x, y, ("N",), Metric("acc"), {"forecast": lambda seen: Law()})
    assert (set(asked), found.level, found.x_name) == ({0.9}, 0.9, "N")

    def refuse(seen):
        raise InputError("too few")

    laws = {"forecast": refuse, "other": lambda seen: Law()}
    errors = {row.predictor: row.error for row in backtest_shares(x, y, ("N",), Metric("acc"), laws).rows}
    assert (errors["forecast"], errors["other"]) == (None, pytest.approx(0.3))


def test_the_most_rows_of_a_simulated_table_are_a_million():
    with pytest.raises(InputError) as caught:
        simulate_table("power", {"N": np.ones(1_000_001)}, {"A": 1.0, "alpha": 1.0})
    assert str(caught.value) == "the table would have 1000001 rows; at most 1000000"


def test_priors_of_repeated_data():
    whole = A([1.0, 2, 3, 4, 5, 6, 7])
    x = np.column_stack([np.ones(7), whole, A([1.0, 2, 3, 4, 2, 2, 2])])
    found = space.forms(("N", "D", "U"), x, "log")
    law = next(one for name, one in found.items() if name.endswith("N overfitting"))
    assert (law.priors["R"], law.priors["h"], law.bounds["R"]) == ((2.0, 2.0), (0.0, 1.0), (1e-2, 1e3))


def test_tables_of_more_than_5000_rows_are_thinned():
    one = Table({"N": np.r_[np.repeat([1, 2], 2500), 2]}, "t")
    assert thinning.sampled(one, ("N",)).n_rows == 600
    # Of values a factor e apart the 65th shares a part with its neighbour.
    for n, parts in ((64, 64), (65, 64)):
        found = thinning._strata([np.exp(np.arange(float(n)))], np.zeros(n), 1000)
        assert len(set(found.tolist())) == parts
    assert len(set(thinning._strata([np.exp(np.arange(64.0))], np.zeros(64), 64).tolist())) == 32


def test_turns_are_told_at_their_own_level():
    """A rise and a fall must be as sure as 0.4 of what is left of the level."""
    t = np.arange(6.0)
    assert turn_test(t, (t - 2.5) ** 2, 0.95).level == pytest.approx(0.98)
    assert turn_test(t, (t - 2.5) ** 2, 0.5).level == pytest.approx(0.8)


def test_many_scales_are_averaged_to_24():
    """Of 48 scales pairs: ln loss falls by 1 a pair but rises from the tenth to the fourteenth, at 20.5 and 28.5."""
    steps = np.r_[-np.ones(10), np.ones(4), -np.ones(9)]
    y = np.repeat(np.r_[0, np.cumsum(steps)], 2)
    found = _stretches(np.arange(48.0), y, np.ones(48), 0.5)
    assert np.log(found.turns) == pytest.approx([20.5, 28.5])
    assert found.exponent.estimate == pytest.approx(-0.5)
    few = _stretches(np.arange(24.0), y[::2], np.ones(24), 0.5)
    assert np.log(few.turns) == pytest.approx([10, 14])
    uneven = _stretches(np.arange(48.0), y, np.tile([3.0, 1.0], 24), 0.5)
    assert np.log(uneven.turns) == pytest.approx([20.25, 28.25])


def test_seven_scales_are_enough_for_stretches():
    t, y = np.arange(7.0), A([6.0, 4.0, 2.0, 4.0, 6.0, 4.0, 2.0])
    assert _stretches(t, y, np.ones(7), 0.9) is not None
    assert _stretches(t[:6], y[:6], np.ones(6), 0.9) is None


def test_what_a_bootstrap_asks_for():
    t = np.arange(4.0)
    fit = fit_law(LAWS["power"], observe(np.exp(t), np.exp(1 - 0.5 * t + 0.1 * A([1, -1, -1, 1]))), LeastSquares())
    steps = bootstrap.steps(fit)
    asked = next(steps)
    assert (asked.starts.shape, asked.max_iterations, asked.exact, asked.stall_share) == ((1000, 2), 200, False, 1e-6)
    assert np.array_equal(asked.starts, np.repeat(fit.theta[None], 1000, 0))
    assert (asked.law, asked.objective, asked.y.shape, asked.weights.shape) == (
        fit.law,
        fit.objective,
        (1000, 4),
        (1, 4),
    )
    assert asked.t[:, 0] == pytest.approx(t - 1.5)
    same = next(bootstrap.steps(fit, 1000, seed=0))
    assert np.array_equal(asked.y, same.y)
    assert not np.array_equal(asked.y, next(bootstrap.steps(fit, 1000, seed=1)).y)
    runs = next(bootstrap.steps(fit, 7, kind="runs"))
    assert (runs.y.shape, runs.weights.shape, runs.weights.sum(1).tolist()) == ((1, 4), (7, 4), [4] * 7)
    theta = np.tile(fit.theta, (7, 1))
    theta[2, 0] = np.nan
    with pytest.raises(StopIteration) as ended:  # noqa: PT012
        next_steps = bootstrap.steps(fit, 7, kind="runs")
        next(next_steps)
        next_steps.send(SimpleNamespace(theta=theta, value=np.r_[np.zeros(6), np.inf]))
    found = ended.value.value
    assert (len(found.theta), len(found.spread), found.n_failed) == (5, 5, 2)


@pytest.mark.parametrize(
    ("options", "law", "resamples", "objective", "others"),
    [
        ({}, "chinchilla", 1000, LogHuber(), ["chinchilla", "kaplan"]),
        ({"law": "kaplan", "n_bootstrap": 500}, "kaplan", 200, LogHuber(), ["kaplan", "chinchilla"]),
        ({"law": "kaplan", "n_bootstrap": 50, "objective": LeastSquares()}, "kaplan", 50, LeastSquares(),
         ["kaplan", "chinchilla"]),
        ({"noise": np.full(5, 0.1)}, "chinchilla", 1000, LeastSquares(), ["chinchilla", "kaplan"]),
    ],
)  # fmt: skip
def test_a_surface_and_those_beside_it(options, law, resamples, objective, others, monkeypatch):
    asked = []

    def fit_of(candidate, observations, how):
        assert how == objective
        return SimpleNamespace(law=candidate, observations=observations, converged=True, at_bound=(), condition=1.0)

    monkeypatch.setattr(surface_fit, "fit_law", fit_of)
    monkeypatch.setattr(surface_fit, "weigh", lambda observations: observations)
    monkeypatch.setattr(surface_fit, "influence_notes", lambda *given: ["a row"])
    monkeypatch.setattr(surface_fit, "misfit_notes", lambda noise: ["a misfit"])
    monkeypatch.setattr(surface_fit, "bootstrap", lambda fit, n, seed: asked.append((n, seed)) or SimpleNamespace(
        how="drawn", noise=None))  # fmt: skip
    x = np.column_stack([np.arange(1.0, 6.0), A([2.0, 1, 4, 3, 5])])
    found = surface_fit.analyse_surface(x, np.arange(5.0, 0, -1), notes=("first",), **options)
    assert (found.fit.law.name, list(found.families), found.level, found.named) == (law, others, 0.95, "law" in options)
    assert asked == [(resamples, 0)]
    assert (found.fit.observations.x_names, found.fit.observations.loss_name) == (("N", "D"), "loss")
    weighed = ["predictions weigh every row alike; the parameters above weigh rows by their evaluation errors"]
    assert found.notes == (
        "first", "drawn", "a misfit", *(weighed if "noise" in options else []), *(["a row"] if law == "chinchilla" else []),  # noqa: E501
    )  # fmt: skip
    assert list(MANY_AXES)[:1] == ["chinchilla"]


def test_three_rows_that_move_a_parameter_are_named(monkeypatch):
    table = observe(np.column_stack([np.arange(1.0, 6.0), np.ones(5)]), np.ones(5))
    fit = SimpleNamespace(parameters={"E": 0.0}, observations=table)
    monkeypatch.setattr(surface_fit, "influence", lambda fit: {"E": A([5.0, 4.0, 3.0, 2.0, 1.0])})
    sample = SimpleNamespace(standard_errors=lambda: {"E": 1.0})
    assert [note.rsplit(" by ")[1] for note in surface_fit.influence_notes(fit, sample)] == [
        "5.0 se",
        "4.0 se",
        "3.0 se",
    ]


# ---------------------------------------------------------------------------------------------- what is seldom reached


def test_a_saved_law_in_several_scales_is_drawn_along_the_first():
    """Through the site nearest the median of all: ln D is 1; N from its low end to twice its high one."""
    sites = A([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    predictor = share_predictor(x_names=("N", "D"), names=("a", "b_N", "b_D", "chance", "missed"),
                                theta=A([[0.0, 0.1, 0.1, 0.0, 0.0]]), covariance=np.zeros((1, 5, 5)), low=A([2.0, 1.0]),
                                high=A([4.0, 9.0]), sites=sites)  # fmt: skip
    axes = SavedLaw(LawRecord("logistic"), predictor).plot()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()) == ("N", "acc", "log", "linear")
    assert axes.get_legend_handles_labels()[1] == ["one run (90 %) at D 2.718"]
    x, y = axes.lines[0].get_xdata(), axes.lines[0].get_ydata()
    assert (len(x), x[0], x[-1]) == (60, pytest.approx(2), pytest.approx(8))
    assert y[0] == pytest.approx(expit(0.1 * np.log(2) + 0.1), abs=0.01)


def test_predictions_as_a_data_frame(monkeypatch):
    asked = []
    frame = SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setattr(prediction, "require", lambda *given: asked.append(given) or frame)
    found = prediction.Prediction(A([[1.0]]), A([2.0]), A([1.5]), A([2.5]), 0.9, A([1.0]), ("N",), "loss")
    assert found.to_frame() == (found.rows(), ["N", "median", "low", "high", "beyond"])
    assert asked == [("pandas", "data", "a data frame")]


def test_a_parquet_file_that_cannot_be_opened(monkeypatch, tmp_path):
    class Broken(Exception):
        pass

    path = tmp_path / "t.parquet"
    path.write_bytes(b"x")
    for error, kind in (
        (OSError(13, "not allowed"), OSError),
        (OSError("cut"), InputError),
        (Broken("a\nb"), InputError),
    ):

        def opened(name, error=error):
            raise error

        tools = {
            "pyarrow.parquet": SimpleNamespace(ParquetFile=opened),
            "pyarrow": SimpleNamespace(ArrowException=Broken),
        }
        monkeypatch.setattr(reading, "require", lambda name, extra, what, tools=tools: tools[name])
        with pytest.raises(kind) as caught:
            reading.read(path)
    assert str(caught.value) == f"'{path}' is not a Parquet table (a)"


def test_columns_of_one_name_that_show_when_they_are_read(monkeypatch):
    narwhals = pytest.importorskip("narwhals")
    from narwhals.exceptions import DuplicateError

    class Twins:
        columns = ("a",)

        def get_column(self, name):
            raise DuplicateError("there is more than one 'a'")

    monkeypatch.setattr(narwhals, "from_native", lambda source: Twins())
    with pytest.raises(InputError, match=r"^the data frame has two columns named 'a'; names must differ$"):
        reading.read(object())


def test_shares_that_turn(tmp_path):
    t = np.arange(6.0)
    odds = (t - 2.5) ** 2 - 2
    up = analyse_shares(np.exp(t), expit(odds), chance=0.0)
    down = analyse_shares(np.exp(t), expit(odds), chance=0.0, kind="error")
    for found in (up, down):
        assert found.trend == "not monotone"
        assert found.trends["x"].turns == (pytest.approx(np.exp(2.5), rel=0.05),)
        assert found.trends["x"].level == pytest.approx(0.98)
    # At the end the odds of the column's own share rise, whatever it counts.
    assert up.trends["x"].exponent.estimate == pytest.approx(down.trends["x"].exponent.estimate)
    assert up.trends["x"].exponent.high < 0
    assert np.isfinite(analyse_shares(np.exp(t), np.full(6, 0.5), chance=0.0).trends["x"].exponent.estimate)
    up.save(tmp_path / "law.json")
    assert list(load_records(tmp_path / "law.json")) == [""]


def test_corners_whose_shares_are_unknown_are_passed_over():
    n, d = (part.reshape(-1) for part in np.meshgrid(np.arange(1.0, 6.0), np.arange(1.0, 6.0)))
    x, values = np.column_stack([n, d]), np.full(25, 0.5)

    class Law:
        def predict(self, at, level):
            half = np.full(len(at), 0.5)
            return SimpleNamespace(median=half, low=half - 0.25, high=half + 0.25)

    def tested(values):
        return backtest_shares(
            x, values, ("N", "D"), Metric("acc"), {"forecast": lambda seen: Law(), "other": lambda seen: Law()}
        )

    whole = tested(values)
    names = [name for name, _ in corners(x)]
    assert whole.corners == tuple(names)
    assert (whole.level, whole.metric, set(whole.mixture), set(whole.coverage)) == (0.9, "acc", {0.0}, {1.0})
    assert set(whole.errors) == {"other"}
    (hidden,) = [~kept for name, kept in corners(x) if name == names[-1]]
    some = np.where(hidden, np.nan, values)
    assert names[-1] not in tested(some).corners
    assert len(tested(some).corners) >= 1
    with pytest.raises(InputError) as caught:
        backtest_shares(x, values, ("N", "D"), Metric("acc"), {"other": lambda seen: Law()})
    assert (str(caught.value), caught.value.field) == (
        "a table of 25 rows has no corner to hide; it needs more rows", "x",
    )  # fmt: skip


def test_a_curve_of_another_kind_is_solved_by_itself(monkeypatch):
    law = SimpleNamespace(n_axes=1, curve=object())
    one = Solve(
        law, np.zeros((5, 1)), np.ones((1, 5)), np.ones((1, 5)), LeastSquares(), np.zeros((1, 2)), stall_share=0.1
    )
    assert one.batch is None


def test_a_bootstrap_in_several_scales_is_drawn_as_its_fit():
    fit = SimpleNamespace(observations=SimpleNamespace(n_axes=2), plot=lambda ax: ("of the fit", ax))
    assert Bootstrap(fit, np.zeros((2, 1)), np.ones(2), None, 0, "").plot("ax") == ("of the fit", "ax")


def test_both_steps_are_saved(tmp_path, monkeypatch):
    first = predictor_of_loss([1.0, 2.0, 4.0, 8.0], [3.0, 2.0, 1.5, 1.2], ("N",), "nll")
    losses = A([3.0, 2.0, 1.5, 1.2, 1.0])
    found = two_steps.link_task(first, losses, expit(4 - 4 * losses), chance=0.0, trials=1e4, loss_name="acc")
    found.save(tmp_path / "law.json")
    stored = load_records(tmp_path / "law.json")[""]
    assert (stored.x_names, stored.trend, stored.curve, stored.verdict) == (("N",), "unknown", None, found.verdict)
    assert (stored.predictor.via.loss_name, stored.predictor.x_names) == ("nll", ("N",))
    again = load_saved(tmp_path / "law.json")[""]
    assert again.predict([16.0]).rows() == found.predict([16.0]).rows()
    told = found.to_json()
    assert (told["via"], told["chance"], "predictor" in told) == ("nll", "given", False)
    assert told["between_runs"] == found.link.fit.between
    asked = []

    def predict(self, rows):
        asked.append(rows[:, 0])
        ones = np.ones(len(rows))
        return prediction.Prediction(rows, ones, ones, ones, 0.9, ones, ("N",), "acc")

    monkeypatch.setattr(SavedLaw, "predict", predict)
    axes = again.plot()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("N", "acc", "linear")
    assert (len(asked[0]), asked[0][0], asked[0][-1]) == (60, pytest.approx(1.0), pytest.approx(16.0))
    assert found.plot().get_xlabel() == "nll"


# ---------------------------------------------------------------------------------------------- curves and sizes


@pytest.mark.filterwarnings("error")
def test_sums_and_odds_in_logarithms():
    """ln(1 + 1), ln(2 + 3); far out one term is all there is."""
    assert shapes.log_add(A([0.0, np.log(2)]), A([0.0, np.log(3)])) == pytest.approx([np.log(2), np.log(5)])
    assert shapes.log_add(A([1000.0]), A([-1000.0])).tolist() == [1000.0]
    assert shapes.softplus(A([0.0, 1000.0, -1000.0])) == pytest.approx([np.log(2), 1000.0, 0.0])
    assert shapes.softplus(A([np.log(3)])) == pytest.approx([np.log(4)])
    assert shapes.gate(A([0.0, np.log(3), 1000.0, -1000.0])) == pytest.approx([0.5, 0.75, 1.0, 0.0])


def test_curves_in_one_scale_at_one_place():
    """E + A (x + c)^-alpha with 1, 4, 1/2 at x + c = 4 is 3; A (1/x + g)^alpha with 4 and 1/2 at 1/4 is 2; E + A / x
    (1 + (x/b)^2)^-1 with 1, 8, 1, b = 2, f = 1/2 at x = 2 is 1 + 4 / 2; and 1 / (1 + 1/3)."""
    value, slopes = shapes.shifted([np.log(A([v])) if k != 2 else A([v]) for k, v in enumerate((1.0, 4.0, 0.5, 1.0))],
                                   np.log(A([3.0])))  # fmt: skip
    assert np.exp(value) == pytest.approx([3.0])
    # Of ln L: E / L, A term / L, -term ln(x + c) / L and -term alpha c / ((x + c) L).
    assert [slope[0] for slope in slopes] == pytest.approx([1 / 3, 2 / 3, -2 / 3 * np.log(4), -2 / 3 * 0.5 * 0.25])
    value, slopes = shapes.m3([np.log(A([4.0])), A([0.5]), np.log(A([0.05]))], np.log(A([5.0])))
    assert np.exp(value) == pytest.approx([2.0])
    assert [slope[0] for slope in slopes] == pytest.approx([1.0, np.log(0.25), 0.5 * 0.2])
    theta = [A([0.0]), np.log(A([8.0])), A([1.0]), A([0.5]), np.log(A([2.0])), np.log(A([0.5]))]
    assert np.exp(shapes.broken(theta, np.log(A([2.0])))[0]) == pytest.approx([1 + 4 * 2**-0.25])
    value, slopes = shapes.logistic([A([np.log(3)]), A([0.0])], A([7.0]))
    assert np.exp(value) == pytest.approx([0.75])
    assert [slope[0] for slope in slopes] == pytest.approx([0.25, 1.75])


@pytest.mark.parametrize("kappa", [0.25, 1.0, 3.0])
def test_odds_of_a_law_with_a_top_solve_their_equation(kappa):
    right = A([-30.0, -1.0, 0.0, 0.5, 2.0, 40.0])
    v = shapes._m4_odds(right, A([kappa]))
    assert -shapes.softplus(-v) + kappa * shapes.softplus(v) == pytest.approx(right, abs=1e-9)
    if kappa == 1:
        assert v == pytest.approx(right, abs=1e-9)


def test_where_stretches_of_noise_end():
    """The steepest stretch of pure noise passes the limit in half of the share of all tables."""
    u, ones = tuple(np.linspace(0, 1, 8).tolist()), (1.0,) * 8
    limit = trend._steepest_of_noise(u, ones, 0.2)
    windows, steps = trend._contrasts(u, ones)
    draws = np.random.default_rng(1).standard_normal((4000, 8))
    noise = np.sqrt(np.mean((draws @ steps.T) ** 2, 1))
    assert np.mean((draws @ windows.T).max(1) / noise > limit) == pytest.approx(0.1, abs=0.02)
    assert trend._steepest_of_noise(u, ones, 0.02) > limit


def size_rows(*sizes, **more):
    return [{"architecture": "a", "seed": 0, "n_params_total": n, "test_loss_nats": 2 + 30 * n**-0.5,
             "test_perplexity": 10 * float(n) ** -0.25, "train_flops": n, **more} for n in sizes]  # fmt: skip


def test_laws_of_sizes(monkeypatch):
    """perplexity = 10 n^-1/4; five sizes can tell a floor."""
    line = sizes.perplexity_law(size_rows(16, 81, 256), "n_params_total").to_json()
    assert (line["b"], line["n_runs"], line["n_sizes"]) == (pytest.approx(-0.25), 3, 3)
    assert line["a"] == pytest.approx(10.0)
    asked = []
    family = {"power": SimpleNamespace(note="p"), "power_irreducible": SimpleNamespace(note="f")}
    found = SimpleNamespace(family_intervals={"power": 1, "power_irreducible": 2, "none": 3}, families=family, trend="falls",  # noqa: E501
                            verdict="it falls.", fit=SimpleNamespace(law=SimpleNamespace(name="power")))  # fmt: skip
    monkeypatch.setattr(sizes, "analyse", lambda *given, **options: asked.append(options) or found)
    law = sizes.loss_law(size_rows(1, 2, 3, 4, 5), "n_params_total")
    assert law == {
        "chosen": "power", "trend": "falls", "verdict": "it falls.", "n_sizes": 5,
        "laws": {"power": {"parameters": 1, "note": "p"}, "power_irreducible": {"parameters": 2, "note": "f"}},
    }  # fmt: skip
    assert asked == [{"replicate": [0] * 5, "hold_out": None, "level": 0.95, "x_name": "n_params_total",
                      "loss_name": "test_loss_nats"}]  # fmt: skip
    assert sizes.loss_law(size_rows(1, 2, 3, 4, 4), "n_params_total")["laws"]["power_irreducible"] == {
        "parameters": {}, "note": sizes.too_few_for_a_floor(4),
    }  # fmt: skip
    assert sizes.too_few_for_a_floor(4) == (
        "4 sizes cannot tell an irreducible loss from a slope; it is fitted from 5 on"
    )  # fmt: skip
    monkeypatch.setattr(
        sizes, "grouped", lambda *given, **options: SimpleNamespace(to_json=lambda: {"p": options["law"]})
    )
    ask = (size_rows(1, 2, 3, 4, 5), "test_loss_nats", "power_irreducible", "n_params_total")
    assert sizes.same_exponent(*ask) == {"p": "power_irreducible", "law": "power_irreducible"}
    with pytest.raises(InputError, match="^4 sizes cannot tell"):  # noqa: RUF043
        sizes.same_exponent(size_rows(1, 2, 3, 4), *ask[1:])
    assert sizes.frontier(size_rows(4, 1)) == [[1.0, 32.0], [4.0, 17.0]]
    assert list(sizes.by_architecture([*size_rows(1, architecture="z"), *size_rows(2), *size_rows(3, architecture="z")])) == [  # noqa: E501
        "z", "a",
    ]  # fmt: skip
    floors = {f"{order}_{split}_perplexity": k for k, (order, split) in enumerate(
        (order, split) for order in ("unigram", "bigram") for split in ("validation", "test"))}  # fmt: skip
    assert sizes.floors_of(size_rows(1, 2, **floors)) == {
        "unigram_validation": 0.0, "unigram_test": 1.0, "bigram_validation": 2.0, "bigram_test": 3.0,
    }  # fmt: skip
    assert sizes.or_reason(lambda value: {"v": value}, 3) == {"v": 3}


def test_a_schedule_fit_in_a_picture_and_a_file():
    theta = A([*np.log([2.0, 0.06, 0.5, 0.045, 2000.0, 0.6]), 0.6])
    runs = tuple(Run(f"r{k}", Schedule(np.full(10 + k, 1e-3), 0), A([5, 10]), A([3.0, 2.5])) for k in range(9))
    fit = schedule_fit.ScheduleFit(
        runs, theta, np.zeros((7, 7)), 1e-3, 1e-2, 0.0, 0.0, {"r0": 0.1}, "nll", 0.95, ("first",)
    )
    axes = fit.plot()
    assert axes.get_legend_handles_labels()[1] == [f"r{k}" for k in range(8, 0, -1)]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        "linear",
        "log",
        "step",
        "nll",
    )
    curves = axes.lines[1::2]
    assert [line.get_linestyle() for line in curves] == ["-"] * 6 + ["--"] * 2
    assert curves[0].get_ydata() == pytest.approx([2 + 0.06 * 0.5**-0.5, 2.06])
    assert curves[0].get_color() == curves[6].get_color() != curves[1].get_color()
    stored = fit.record()
    assert (stored.law, stored.x_names, stored.loss_name, stored.level, stored.n_observations, stored.notes) == (
        "multi_power", ("step",), "nll", 0.95, 18, ("first",),
    )  # fmt: skip
    assert stored.extrapolation_reason == "runs predicted without themselves stand in held_out_log"
    assert (stored.curve.x, stored.curve.median) == ((5.0, 10.0), pytest.approx([2 + 0.06 * 0.5**-0.5, 2.06]))
    assert stored.predictor.x == (5.0, 10.0)
    assert [row["fitted"] for row in fit.residuals(runs[0])] == pytest.approx([2 + 0.06 * 0.5**-0.5, 2.06])
    assert fit.residuals(runs[0])[1] == {"run": "r0", "step": 10, "observed": 2.5, "fitted": pytest.approx(2.06)}
    assert fit.predict("constant:peak=1e-3,steps=10", level=0.5).level == 0.5
