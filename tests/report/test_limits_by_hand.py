"""Both sides of small limits in report, and what its functions do when they are not told otherwise."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metascale.laws.contrasts import PairedTest
from metascale.laws.record import Interval
from metascale.report import section, sections, study, words, write
from metascale.report.section import Folded
from metascale.report.sections import checks, diagnosis, standing, tuning
from metascale.report.sections.checks import NO_CAUSE, cause_of
from metascale.report.sections.contest import Contestant
from metascale.report.sections.curves import _key
from metascale.report.sections.diagnosis import RunCurve
from metascale.report.sections.overview import trials
from metascale.report.sections.standing import _against
from metascale.report.study import Point, _short
from tests.report.study_fixture import run_row
from tests.report.test_study_by_hand import study_of

DEFAULTS: dict[str, dict[str, Any]] = {
    "figures.write_figures": {"kinds": ("svg", "pdf")},
    "section.share": {"digits": 1},
    "sections.checks.held_out_data": {"share": 0.25},
    "sections.checks.plot_held_out": {"compact": False},
    "sections.checks.cause_of": {"tuned": None},
    "sections.contest.contest_data": {"level": 0.95},
    "sections.contest.plot_baselines": {"compact": False},
    "sections.curves.learning_curves_data": {"which": "validation"},
    "sections.curves.adaptation_data": {"measure": "loss_nats"},
    "sections.curves.plot_learning_curves": {"compact": False, "key": True},
    "sections.curves.plot_adaptation": {"compact": False},
    "sections.diagnosis.typical": {"count": 3},
    "sections.diagnosis.plot_diagnosis": {"compact": False},
    "sections.law.plot_study_law": {"compact": False, "linear": False, "families": False},
    "sections.memory.plot_memory": {"compact": False},
    "sections.scales.plot_accuracy": {"compact": False},
    "sections.shapes.plot_shape_axis": {"compact": False},
    "sections.sizes.plot_perplexity": {"compact": False},
    "sections.sizes.plot_along": {"compact": False},
    "sections.sizes.plot_time": {"compact": False},
    "sections.sizes.plot_compute": {"compact": False},
    "sections.standing.standing": {"contest": None},
    "sections.tuning.plot_tuned": {"compact": False},
    "style.new_figure": {"rows": 1, "columns": 1},
    "style.png_bytes": {"dpi": 150},
    "style.ramp": {"first": 0, "last": 6},
    "style.log_x_ticks": {"closest": 0.085},
    "style.spaced": {"to_axis": float},
    "style.side_labels": {"size": 9.0, "at": 1.015, "gap": None},
    "style.finish": {"pad_pt": 10},
    "style.width_in": {"weight": "normal"},
    "style.pad_y": {"log": True, "part": 0.05},
    "words.number": {"digits": 3},
    "words.measured": {"digits": 3},
    "words.percent": {"digits": 1},
    "write.finding_of": {"compared": None},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_figure_is_drawn_whole_and_in_its_usual_measures_unless_asked_otherwise(name: str) -> None:
    module, function = name.rsplit(".", 1)
    told = inspect.signature(getattr(importlib.import_module(f"metascale.report.{module}"), function)).parameters
    found = {key: each.default for key, each in told.items() if each.default is not each.empty}
    assert found == DEFAULTS[name]
    assert [type(value) for value in found.values()] == [type(value) for value in DEFAULTS[name].values()]


def paired(low: float, high: float) -> Any:
    return SimpleNamespace(difference=SimpleNamespace(low=low, high=high))


@pytest.mark.parametrize(
    ("learner", "test", "sign", "stands"),
    [
        (2.0, (0.1, 1.0), 1, "ahead"),
        (2.0, (0.0, 1.0), 1, "level"),
        (2.0, (-0.1, 1.0), 1, "level"),
        (0.5, (-1.0, -0.1), 1, "behind"),
        (0.5, (-1.0, 0.0), 1, "level"),
        (2.0, (0.1, 1.0), -1, "behind"),
        (0.5, (-1.0, -0.1), -1, "ahead"),
        (2.0, None, 1, "ahead"),
        (1.0, None, 1, "unknown"),
        (0.5, None, 1, "unknown"),
        (0.5, None, -1, "ahead"),
    ],
)
def test_where_a_baseline_of_loss_one_stands(learner: float, test: Any, sign: int, stands: str) -> None:
    """An interval that ends at 0 does not tell them apart; without a pairing, only the better mean counts."""
    one, other = SimpleNamespace(loss=learner), SimpleNamespace(loss=1.0)
    assert standing._against(one, other, test and paired(*test), sign) == stands  # type: ignore[arg-type]


@pytest.mark.parametrize(("key", "short"), [("a", "a"), ("a.b", "b"), ("task.shape.width", "width"), ("a.b.", "")])
def test_the_last_word_of_a_key(key: str, short: str) -> None:
    assert study._short(key) == short


def test_small_probabilities_and_lone_values() -> None:
    assert [words.p_words(p) for p in (0.0009, 0.001, 0.0499)] == ["< 0.001", "0.001", "0.050"]
    assert study.standard_error([1.0]) is None
    assert study.standard_error([1.0, 3.0]) == pytest.approx(1.0)


def trial(spread: float = 0.0, losses: int = 2, **cells: Any) -> Any:
    """A point with one run of these cells; its seeds have this spread."""
    run = SimpleNamespace(number=cells.get, text=cells.get)
    return SimpleNamespace(trials=[run], spread=spread, losses=[1.0] * losses)


def test_what_goes_on_after_the_best_and_what_training_lacks() -> None:
    def rise(*validation: float) -> float:
        return RunCurve(0, (1.0, 2.0), (1.0, 1.0), validation, 0).rise

    assert [rise(1.0, 2.0), rise(0.0, 2.0), rise(1.0, 0.0), rise(2.0, 2.0)] == [pytest.approx(math.log(2)), 2, -1, 0]
    assert [diagnosis.gap_of(1.0, 4.0), diagnosis.gap_of(1.0, 0.0), diagnosis.gap_of(1.0, -1.0)] == [0.75, 0, 0]
    rows: list[dict[str, Any]] = [{}, {"loss": -0.5}, {"loss": 0}, {"loss": "x"}, {"loss": 2.5}]
    assert [diagnosis._has(row, "loss") for row in rows] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("cells", "patient", "short"),
    [
        ({"best_step": 10, "steps": 10}, False, True),
        ({"best_step": 9, "steps": 10}, False, False),
        ({"best_step": 11, "steps": 10}, False, True),
        ({"best_step": 0, "steps": 0}, False, False),
        ({"steps": 10}, False, False),
        ({"best_step": 10}, False, False),
        ({"training": "max_steps"}, False, False),
        ({"training": "max_steps"}, True, True),
        ({"training": "converged"}, True, False),
    ],
)
def test_a_run_is_cut_short_at_its_last_validation(cells: dict[str, Any], patient: bool, short: bool) -> None:
    assert study.cut_short(trial(**cells).trials[0], patient) is short


def test_half_of_the_runs_stopped_by_patience_are_enough() -> None:
    ended, cut = trial(training="converged"), trial(training="max_steps")
    assert study.stopped_by_patience([ended, cut])
    assert not study.stopped_by_patience([ended, cut, cut])
    assert study.stopped_by_patience([ended, ended, cut])
    assert not study.stopped_by_patience([])


def test_why_a_point_may_be_off_the_law() -> None:
    """Training that had not ended only makes a loss too high; uneven seeds are so beside the median of the others."""
    short, ended = trial(best_step=5, steps=5), trial(best_step=4, steps=5)
    assert checks.cause_of(short, 0.1, [short]) == "not converged: 1 of 1 runs ended at the last step allowed"
    assert [checks.cause_of(short, excess, [short]) for excess in (0.0, -0.1)] == [checks.NO_CAUSE] * 2
    assert checks.cause_of(ended, 0.1, [ended]) == checks.NO_CAUSE
    half, third = trial(), trial()
    half.trials, third.trials = [*short.trials, *ended.trials], [*short.trials, *ended.trials, *ended.trials]
    assert checks.cause_of(half, 0.1, [half]) == "not converged: 1 of 2 runs ended at the last step allowed"
    assert checks.cause_of(third, 0.1, [third]) == checks.NO_CAUSE
    usual, lone = trial(0.125), trial(9.0, losses=1)
    odd, even = trial(0.385), trial(0.375)
    assert checks.cause_of(odd, -0.1, [odd, usual, lone]) == "seeds disagree: 3.1 times the usual spread"
    assert checks.cause_of(even, -0.1, [even, usual, lone]) == checks.NO_CAUSE
    assert checks.cause_of(odd, -0.1, [odd]) == checks.NO_CAUSE
    assert checks.cause_of(odd, -0.1, [odd, trial(0.0)]) == checks.NO_CAUSE


def test_how_far_a_try_was_from_the_best() -> None:
    def excess(tried: float | None, best: float) -> float | None:
        return tuning.excess(SimpleNamespace(loss=best), SimpleNamespace(loss=tried))  # type: ignore[arg-type]

    assert excess(2.0, 1.0) == pytest.approx(math.log(2))
    assert [excess(None, 1.0), excess(0.0, 1.0), excess(1.0, 0.0), excess(-1.0, 1.0), excess(1.0, -1.0)] == [None] * 5


def test_a_sign_goes_before_what_is_above_nothing() -> None:
    assert [section.signed(value) for value in (0.5, 0.0, -0.5)] == ["+0.500", "0", "−0.500"]


def test_a_baseline_is_level_where_the_interval_reaches_zero() -> None:
    learner, other = (
        Contestant(name, "meta", name, name, 1.0, loss, None, (), None, None, {}, {})
        for name, loss in (("a", 1.0), ("b", 2.0))
    )

    def tested(low: float, high: float) -> PairedTest:
        return PairedTest(9, Interval((low + high) / 2, low, high), 0.95, 0.5, None, 0.0)

    ends = ((-2.0, 0.0), (0.0, 2.0), (-1.0, 1.0), (-2.0, -0.1), (0.1, 2.0))
    assert [_against(learner, other, tested(*each), 1) for each in ends] == [
        "level", "level", "level", "behind", "behind",
    ]  # fmt: skip
    assert [_against(other, learner, tested(*each), 1) for each in ends[2:]] == ["level", "ahead", "ahead"]
    assert [_against(*pair, None, 1) for pair in ((learner, other), (other, learner))] == ["unknown", "ahead"]


def test_the_seeds_of_a_point_are_judged_by_those_of_others() -> None:
    """Without another point of several seeds there is no usual spread."""
    runs = tuple(run_row(seed, best_step=1, steps=5) for seed in range(2))
    wide, single = Point("s", "p", {}, 1.0, (1.0, 1e9), runs), Point("s", "q", {}, 2.0, (1.0,), runs[:1])
    assert cause_of(wide, 0.1, [wide, single]) == NO_CAUSE
    assert [_short(key) for key in ("rate", "task.rate", "a.task.rate")] == ["rate"] * 3


def test_a_key_begins_left_of_the_axes_and_above_them() -> None:
    ax = Figure(figsize=(6, 4)).add_subplot()
    _key(ax, [Line2D([], [], label="one")], 2)
    left, bottom = ax.transAxes.inverted().transform(ax.get_legend().get_bbox_to_anchor().p0)
    assert -0.05 < left < 0
    assert bottom == pytest.approx(1)


@pytest.mark.parametrize("runs", [(), ({"n_tasks": 10}, {"n_tasks": 40}, {"n_tasks": 80})])
def test_sections_keep_their_names_whatever_a_study_has(runs: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    """By their ids programs find them in summary.json, and links on the page."""
    found = write.sections_of(study_of(tmp_path, {"n_tasks": [10, 40, 80]}, *runs))
    assert [(one.id, one.title) for one in found] == [
        ("missing", "What is missing, and why"), ("law", "The law"), ("sizes", "Model size"),
        ("fixed", "What was held fixed"), ("families", "Families of laws"),
        ("extrapolation", "Does it extrapolate?"), ("accuracy", "Accuracy"),
        ("baselines", "Side by side, on the same tests"), ("shapes", "Loss along each axis of the shape"),
        ("held-out", "Extrapolation: small-model law vs. held-out large models"),
        ("irregular", "Irregular points"), ("diagnosis", "Underfit or overfit?"),
        ("tuning", "Tuned hyperparameters"), ("methods", "Methods and their costs"), ("memory", "Memory"),
        ("learning", "Learning curves"), ("adaptation", "Adaptation steps"), ("diagnostics", "Diagnostics"),
        ("trials", "Trials"), ("caveats", "Caveats"), ("provenance", "Where this comes from"),
    ]  # fmt: skip
    assert [one.mark for one in found if one.mark] == ["missing"]


@pytest.mark.parametrize(("n", "opened"), [(12, True), (13, False)])
def test_up_to_twelve_trials_are_shown_and_more_are_folded(n: int, opened: bool, tmp_path: Path) -> None:
    section = trials(study_of(tmp_path, {"n_tasks": [1, 2]}, *({"n_tasks": k + 1} for k in range(n))))
    (folded,) = (block for block in section.blocks if isinstance(block, Folded))
    assert (folded.open, folded.title) == (opened, f"All {n} trials")


def test_every_picture_is_whole_unless_asked_otherwise() -> None:
    asked = []
    for module in pkgutil.iter_modules(sections.__path__):
        for name, function in vars(importlib.import_module(f"{sections.__name__}.{module.name}")).items():
            told = inspect.signature(function).parameters if inspect.isfunction(function) else {}
            if "compact" in told and told["compact"].default is not inspect.Parameter.empty:
                asked.append((name, told["compact"].default))
    assert len(asked) > 10
    assert {default for _, default in asked} == {False}
