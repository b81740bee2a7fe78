"""The section of the law against a study that can be counted by hand: its tables, sentences and pictures, whole."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from metascale.laws.record import Band, FamilyRecord, HiddenScale, Interval, LawRecord, TrendResult
from metascale.report.section import Bullets, PageTable, Picture, Section
from metascale.report.sections.law import (
    LawTable,
    caveats,
    extrapolation,
    facts,
    families,
    law,
    law_data,
    law_finding,
    missing_law_reason,
    plot_study_law,
)
from metascale.report.sections.scales import (
    BaselineLine,
    RunValue,
    ScaleMean,
    ScaleTable,
    accuracy,
    accuracy_data,
    plot_accuracy,
)
from metascale.report.study import ReportStudy, open_study
from metascale.report.style import styled
from metascale.study.roles import Roles
from tests.report.described import axes, frame, marks, told, words
from tests.report.study_fixture import StudyBuilder, keep, write_json

RUNS = {(10, 0): (1.0, 0.1, 0.5, 0.02), (10, 1): (2.0, 0.3, 0.4, 0.04), (40, 0): (0.5, 0.2, 0.8, 0.03)}
"""By N and seed: loss with its standard error across tasks, accuracy with its own."""

LAW = LawRecord(
    law="power_irreducible",
    formula="E + A·x^-alpha",
    x_names=("n_tasks",),
    loss_name="test_loss_nats",
    level=0.9,
    parameters={"E": Interval(0.1, 0.05, 0.15), "A": Interval(2.0, 1.8, 2.2), "alpha": Interval(0.3, 0.25, 0.35)},
    trend="falls",
    verdict="test_loss_nats falls with n_tasks.",
    families={
        "power": FamilyRecord(
            {"A": Interval(1.9, 1.7, 2.1)}, 0.5, 0.03, -20.0, None, None, False, "did not converge: x"
        ),
        "none": FamilyRecord({"C": Interval(1.1, 1.0, 1.2)}, 0.9, 0.3, -5.0, 0.3, 0.5, False, ""),
        "power_irreducible": FamilyRecord(
            {"E": Interval(0.1, 0.05, 0.15), "alpha": Interval(0.3, 0.25, 0.35)}, 0.4, 0.02, -25.5, 0.04, 0.875
        ),
    },
    extrapolation=HiddenScale(40.0, "power_irreducible", 0.5, 0.6, 0.4, 0.7, 0.1823, {"last_value": 1.5, "zero": 0.0}),
    curve=Band((10.0, 20.0, 40.0), (1.4, 0.9, 0.5), (1.3, 0.8, 0.4), (1.5, 1.0, 0.6)),
    objective=0.4,
    r2_log=0.95,
    notes=("Few scales.", "Few scales."),
)


@pytest.fixture
def study(tmp_path: Path) -> ReportStudy:
    builder = StudyBuilder(tmp_path, {"n_tasks": [10, 40]}, base={"method": "maml", "n_way": 5}, seeds=(0, 1))
    for (n, seed), (loss, sem, right, right_sem) in RUNS.items():
        result = {"test_loss_nats": loss, "test_loss_sem_nats": sem}
        result |= {"test_accuracy": right, "test_accuracy_sem": right_sem}
        builder.run(f"{n}-{seed}", {"n_tasks": n}, seed, kind="meta", result=result)
    tuned = {"test_loss_nats": 1.25, "test_loss_sem_nats": 0.05, "test_accuracy": 0.3}
    builder.run("tuned", {"method": "fine_tuning", "n_tasks": None}, kind="baseline", result=tuned)
    builder.write()
    write_json(tmp_path / "baselines.json", {"class_prior": {"kind": "control", "test_loss_nats": 1.6}})
    write_json(tmp_path / "law.json", LAW.to_json())
    return open_study(tmp_path)


SCALES = ScaleTable(
    x_name="n_tasks",
    x_label="training tasks N",
    y_label="meta-test loss (nats)",
    unit="nats",
    series=("MAML",),
    points=(
        RunValue("MAML", 10.0, 0, 1.0, 0.1),
        RunValue("MAML", 10.0, 1, 2.0, 0.3),
        RunValue("MAML", 40.0, 0, 0.5, 0.2),
    ),
    # The standard deviation of {1, 2} is √½; over √2 seeds it is ½. The errors across tasks average to 0.2.
    means=(ScaleMean("MAML", 10.0, 2, 1.5, 0.5, 0.2), ScaleMean("MAML", 40.0, 1, 0.5, None, 0.2)),
    levels=(BaselineLine("fine_tuning", "baseline", 1.25, 0.05), BaselineLine("class_prior", "control", 1.6, None)),
)
TITLE = "Meta-test loss falls with more training tasks: α = 0.300 [0.250, 0.350]"
TABLE = LawTable(SCALES, {"": LAW}, 0.9, TITLE)
ACCURACY = ScaleTable(
    x_name="n_tasks",
    x_label="training tasks N",
    y_label="meta-test accuracy",
    unit="",
    series=("MAML",),
    points=(
        RunValue("MAML", 10.0, 0, 0.5, 0.02),
        RunValue("MAML", 10.0, 1, 0.4, 0.04),
        RunValue("MAML", 40.0, 0, 0.8, 0.03),
    ),
    means=(ScaleMean("MAML", 10.0, 2, 0.45, 0.05, 0.03), ScaleMean("MAML", 40.0, 1, 0.8, None, 0.03)),
    levels=(BaselineLine("chance", "chance", 0.2, None), BaselineLine("fine_tuning", "baseline", 0.3, None)),
)


def blocks(section: Section) -> list[object]:
    """What a section shows: sentences, captions with tables in words, captions of pictures."""
    found: list[object] = []
    for block in section.blocks:
        if isinstance(block, PageTable):
            found += [block.caption, told(block)]
        else:
            found.append((block.name, block.caption) if isinstance(block, Picture) else block)
    return found


def test_losses_and_accuracies_by_scale(study: ReportStudy) -> None:
    assert law_data(study) == TABLE
    found = accuracy_data(study)
    assert (found.y_label, found.unit, found.levels, found.items) == (
        "meta-test accuracy",
        "",
        ACCURACY.levels,
        "tasks",
    )
    assert found.points == ACCURACY.points
    ten, forty = found.means
    assert (ten.n_seeds, ten.mean, ten.seed_sem, ten.task_sem) == (2, 0.45, pytest.approx(0.05), pytest.approx(0.03))
    assert forty == ACCURACY.means[1]


def test_the_answer_and_the_numbers_under_it(study: ReportStudy) -> None:
    found = law_finding(study)
    assert found.question == "Does meta-test loss follow a power law in the number of training tasks?"
    assert found.answer == (
        "Meta-test loss falls as the number of training tasks grows; exponent α = 0.300 [0.250, 0.350] "
        "(90\u00a0% interval)."
    )
    assert (found.title, found.direction, found.level) == (TITLE, "falls", 0.9)
    assert found.verdict == "test_loss_nats falls with n_tasks."
    assert facts(study, found) == (
        ("exponent α (also called β), 90 %", "0.300 [0.250, 0.350]"),
        ("law", "L = 0.100 + 2.00·N^−0.300"),
        ("finished runs", "3 at N\u00a0=\u00a010 to 40"),
        ("log error, hidden largest scale", "0.182"),
    )


@pytest.mark.parametrize(
    ("changed", "answer", "title"),
    [
        ({"trend": "rises", "parameters": {"A": Interval(2, 1, 3), "alpha": Interval(-0.3, -0.4, -0.2)}},
         "Meta-test loss rises as the number of training tasks grows; exponent α = −0.300 [−0.400, −0.200] "
         "(90\u00a0% interval).", "Meta-test loss rises with more training tasks: α = −0.300 [−0.400, −0.200]"),
        ({"trend": "undecided", "parameters": {}, "families": {}},
         "Undecided: meta-test loss may or may not fall with the number of training tasks.",
         "Meta-test loss in training tasks: undecided"),
        ({"trend": "none", "parameters": {}, "families": {}},
         "No: meta-test loss does not change with the number of training tasks beyond its noise.",
         "Meta-test loss shows no trend in training tasks"),
        ({"trend": "none", "parameters": {}, "families": {}, "misfit_log": 0.2, "within_scale_log": 0.1},
         "No: meta-test loss goes up and down with the number of training tasks by more than seeds explain.",
         "Meta-test loss shows no trend in training tasks"),
        ({"trend": "unknown", "parameters": {}, "families": {}},
         "The law 'power_irreducible' was fitted, but law.json states no trend.", "Meta-test loss and its fit"),
        ({"trend": "not monotone", "parameters": {}, "families": {},
          "trends": {"n_tasks": TrendResult("not monotone", Interval(-0.2, -0.3, -0.1), 0.95, (20.0, 30.0))}},
         "No: meta-test loss is not monotone in the number of training tasks; it turns near 20 and 30; exponent α = "
         "−0.200 [−0.300, −0.100] (95\u00a0% interval).",
         "Meta-test loss is not monotone in training tasks: α = −0.200 [−0.300, −0.100]"),
        ({"x_names": ("n_tasks", "n_train")}, "Meta-test loss falls with N.",
         "Meta-test loss in n_tasks and n_train"),
    ],
)  # fmt: skip
def test_the_answer_of_every_trend(study: ReportStudy, changed: dict, answer: str, title: str) -> None:
    found = law_finding(replace(study, laws={"": replace(LAW, **changed)}))
    assert (found.answer, found.title) == (answer, title)
    assert found.direction == changed.get("trend", "falls")
    if "x_names" in changed:
        assert found.question == "How does meta-test loss change with training tasks N and training examples?"


@pytest.mark.parametrize(
    ("changed", "formula"),
    [
        ({"parameters": {"A": Interval(2.0, 1, 3), "beta": Interval(0.25, 0, 1)}}, "L = 2.00·N^−0.250"),
        ({"parameters": {"C": Interval(2.0, 1, 3)}, "formula": "C - alpha"}, "C - α"),
        ({"parameters": {}, "formula": "", "law": "power_shifted"}, "power shifted"),
        ({"parameters": {}, "formula": "", "law": ""}, "no law"),
        ({"law": "auto"}, "3 forms together, the first of them power"),
    ],
)
def test_the_law_in_numbers(study: ReportStudy, changed: dict, formula: str) -> None:
    changed = replace(study, laws={"": replace(LAW, **changed)})
    assert dict(facts(changed, law_finding(changed)))["law"] == formula


def test_the_section_of_the_law_is_a_picture_and_two_tables(study: ReportStudy) -> None:
    section = law(study)
    assert (section.id, section.title) == ("law", "The law")
    (picture,) = section.pictures
    assert [name for name, _ in picture.on_page] == ["log loss", "linear loss"]
    assert not picture.heading
    assert blocks(section) == [
        ("law", "Small dots: runs, one a seed. Circles: mean over seeds, bar ± 1 standard error across seeds. "
         "Band: 90 % interval of the law. Diamond: prediction of the largest scale from the smaller ones alone, with "
         "its interval. Grey lines: baselines, band ± 1 standard error across test tasks."),
        "Parameters of the chosen law 'power irreducible': E + A·x^−α. R² of log loss 0.950, objective 0.400",
        [
            "parameter | #estimate | #90 % low | #high",
            "A [A] | 2.00 {2} | 1.80 {1.8} | 2.20 {2.2}",
            "E [E] | 0.100 {0.1} | 0.0500 {0.05} | 0.150 {0.15}",
            "α [alpha] | 0.300 {0.3} | 0.250 {0.25} | 0.350 {0.35}",
        ],
        "Means over seeds. SE across seeds: standard error from training again; SE across tasks: the mean of the "
        "runs' own standard errors across test tasks, each with its one fixed episode. The two are never added.",
        [
            "training tasks N | #seeds | #meta-test loss (nats) | #SE across seeds | #SE across tasks | #accuracy | "
            "#its SE across seeds",
            "10 {10} | 2 {2} | 1.50 {1.5} | 0.500 {0.5} | 0.200 {0.2} | 45.0 % {0.45} | 5.0 % {0.05}",
            "40 {40} | 1 {1} | 0.500 {0.5} | – | 0.200 {0.2} | 80.0 % {0.8} | –",
        ],
    ]  # fmt: skip
    views = [picture.draws[0], *(draw for _, draw in picture.on_page)]
    drawn = [draw(axes(), False) for draw in views]
    assert [ax.get_yscale() for ax in drawn] == ["log", "log", "linear"]


def test_programs_read_the_law_with_every_family(study: ReportStudy) -> None:
    data = law(study).data
    (one,) = data["laws"]
    assert {key: one[key] for key in ("series", "law", "trend", "exponent")} == {
        "series": "", "law": "power_irreducible", "trend": "falls", "exponent": Interval(0.3, 0.25, 0.35),
    }  # fmt: skip
    assert one["families"][0] == {
        "name": "power_irreducible", "chosen": True, "parameters": {"E": 0.1, "alpha": 0.3}, "rmse_log": 0.02,
        "aicc": -25.5, "backtest_rmse_log": 0.04, "backtest_coverage": 0.875, "converged": True, "note": "",
    }  # fmt: skip
    assert [(family["name"], family["chosen"]) for family in one["families"][1:]] == [("none", False), ("power", False)]
    assert (data["x_name"], data["scales"]) == ("n_tasks", SCALES.means)
    assert data["held_out"] == [
        {"series": "", "x": 40.0, "law": "power_irreducible", "observed": 0.5, "predicted": 0.6, "low": 0.4,
         "high": 0.7, "log_error": 0.1823, "baselines": {"last_value": 1.5, "zero": 0.0}}
    ]  # fmt: skip


def test_families_stand_by_their_backtest_those_without_last(study: ReportStudy) -> None:
    section = families(study)
    assert (section.id, section.title) == ("families", "Families of laws")
    assert blocks(section) == [
        "Errors are of log loss. The backtest hides the largest scales, fits the rest and predicts them: the error "
        "that matters for extrapolation; beside it, the share of hidden scales inside its intervals.",
        [
            "family | #backtest RMSE | #inside its 90 % intervals | #fit RMSE | #AICc | parameters | note",
            "chosen: power irreducible (chosen) [power_irreducible] | 0.0400 {0.04} | 88 % {0.875} | 0.0200 {0.02} | "
            "−25.5 {-25.5} | E 0.100, α 0.300 | ",
            "none [none] | 0.300 {0.3} | 50 % {0.5} | 0.300 {0.3} | −5.00 {-5} | C 1.10 | did not converge",
            "power [power] | – | – | 0.0300 {0.03} | −20.0 {-20} | A 1.90 | did not converge: x",
        ],
    ]


def test_the_hidden_scale_beside_its_prediction(study: ReportStudy) -> None:
    """ln(1.5 / 0.5) = 1.099; a prediction of 0 has no logarithm. Of the baselines 1.5 is 1 off and 0 is 0.5 off."""
    section = extrapolation(study)
    assert (section.id, section.title) == ("extrapolation", "Does it extrapolate?")
    assert blocks(section) == [
        "Hidden from the fit, N\u00a0=\u00a040 was predicted at 0.600 [0.400, 0.700]; measured 0.500, inside the "
        "90 % interval.",
        "Predicted from the smaller scales alone; log error is ln(predicted / measured).",
        [
            "predictor | #meta-test loss (nats) | #90 % interval | #log error",
            "measured | 0.500 {0.5} |  | –",
            "law 'power irreducible' | 0.600 {0.6} | [0.400, 0.700] | 0.182 {0.1823}",
            "last value | 1.50 {1.5} |  | 1.10 {1.099}",
            "zero | 0 {0} |  | –",
        ],
    ]


def test_caveats_are_said_once(study: ReportStudy) -> None:
    general = (
        "A fitted law describes the range of scales that was run; beyond it the interval of the curve is too narrow, "
        "because it assumes that the law is true.",
        "Each meta-test task has one fixed episode: spread across tasks includes the draw of the episode as well.",
    )
    assert caveats(study).blocks == (Bullets(("Few scales.", *general)),)
    assert caveats(replace(study, laws={"": replace(LAW, parameters={}, notes=())})).blocks == (Bullets(general[1:]),)
    assert (caveats(study).id, caveats(study).title) == ("caveats", "Caveats")


def test_of_several_series_each_has_its_law_by_name(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"method": ["maml", "fomaml"], "n_tasks": [10, 40]})
    for method in ("maml", "fomaml"):
        for n in (10, 40):
            result = {"test_loss_nats": 1.0 / n}
            builder.run(f"{method}-{n}", {"method": method, "n_tasks": n}, kind="meta", result=result)
    second = replace(LAW, trend="rises", verdict="up", notes=("Many scales.",), extrapolation=None)
    study = replace(open_study(builder.write()), laws={"method=maml": LAW, "method=fomaml": second})
    assert list(study.laws_by_series) == ["MAML", "first-order MAML"]
    assert caveats(study).blocks[0].items[:4] == (  # type: ignore[union-attr]
        "MAML. test_loss_nats falls with n_tasks.",
        "first-order MAML. up",
        "MAML. Few scales.",
        "first-order MAML. Many scales.",
    )
    found = law_finding(study)
    assert found.answer == (
        "Meta-test loss by series (90\u00a0% intervals): MAML falls, α = 0.300 [0.250, 0.350]; first-order MAML rises, "
        "α = 0.300 [0.250, 0.350]."
    )
    assert found.title == "Exponents α: MAML 0.300 [0.250, 0.350], first-order MAML 0.300 [0.250, 0.350]"
    assert (found.direction, found.level) == ("unknown", 0.9)
    assert law_finding(replace(study, laws={"method=maml": LAW, "method=fomaml": LAW})).direction == "falls"
    assert facts(study, found) == (
        ("finished runs", "4 at N\u00a0=\u00a010 to 40"),
        ("log error, hidden largest scale", "0.182"),
    )
    captions = [table.caption for table in law(study).tables]
    assert captions[:2] == [
        f"{series}. Parameters of the chosen law 'power irreducible': E + A·x^−α. R² of log loss 0.950, objective 0.400"
        for series in ("MAML", "first-order MAML")
    ]
    assert captions[2] == "Means over seeds. SE across seeds: standard error from training again."
    assert told(law(study).tables[2]) == [
        "series | #training tasks N | #seeds | #meta-test loss (nats)",
        "MAML | 10 {10} | 1 {1} | 0.100 {0.1}",
        "MAML | 40 {40} | 1 {1} | 0.0250 {0.025}",
        "first-order MAML | 10 {10} | 1 {1} | 0.100 {0.1}",
        "first-order MAML | 40 {40} | 1 {1} | 0.0250 {0.025}",
    ]
    assert law(study).pictures[0].caption.startswith("Circles: runs, one seed each, so there is no error bar across ")


def test_several_series_of_two_scales_say_how_each_moves_along_both(tmp_path: Path) -> None:
    """Their names are in words without the second scale, and no single exponent stands for both scales."""
    roles = Roles(("n_tasks", "n_train"), ("architecture",), loss="test_loss_nats")
    varied = {"architecture": ["transformer", "resnet_bk"], "n_tasks": [10, 40], "n_train": [5, 8]}
    builder = StudyBuilder(tmp_path, varied, roles=roles)
    for number, (name, n, m) in enumerate(itertools.product(*varied.values())):
        values = {"architecture": name, "n_tasks": n, "n_train": m}
        builder.run(f"run{number}", values, kind="meta", result={"test_loss_nats": 1.0 / n})
    trends = {"n_tasks": TrendResult("falls", Interval(0.2, 0.1, 0.3), 0.9), "n_train": TrendResult("none", None, 0.9)}
    two = replace(LAW, x_names=("n_tasks", "n_train"), trends=trends)
    laws = {f"architecture={name}": two for name in varied["architecture"]}
    study = replace(open_study(builder.write()), laws=laws)
    found = law_finding(study)
    each = "falls with training tasks N (mean exponent 0.200 [0.100, 0.300]), no trend with training examples"
    names = [f"meta-learnt, architecture {name}" for name in ("ResNet-BK", "Transformer")]
    assert found.answer == (f"Meta-test loss by series (90\u00a0% intervals): {names[0]} {each}; {names[1]} {each}.")
    assert found.title == f"Meta-test loss: {names[0]} falls, {names[1]} falls"
    ran = "8 at N\u00a0=\u00a010 to 40 and training examples\u00a0=\u00a05 to 8"
    assert dict(facts(study, found))["finished runs"] == ran


def test_the_title_of_many_series_counts_them(tmp_path: Path) -> None:
    """Six names with exponents filled four lines above the picture."""
    builder = StudyBuilder(tmp_path, {"method": list("abcd"), "n_tasks": [10, 40]})
    for method in "abcd":
        values = {"method": method, "n_tasks": 10}
        builder.run(method, values, kind="meta", result={"test_loss_nats": 1.0})
    study, flat = open_study(builder.write()), replace(LAW, trend="none")
    laws = {f"method={name}": law for name, law in zip("abcd", (LAW, flat, LAW, LAW), strict=True)}
    assert law_finding(replace(study, laws=laws)).title == "Meta-test loss: falls in 3 of 4 series, no trend in 1"
    three = dict(list(laws.items())[1:])
    assert law_finding(replace(study, laws=three)).title.startswith("Exponents α: ")


def test_the_section_of_accuracy_is_a_picture(study: ReportStudy) -> None:
    section = accuracy(study)
    assert (section.id, section.title) == ("accuracy", "Accuracy")
    assert blocks(section) == [
        ("accuracy", "Small dots: runs, one a seed. Circles: mean over seeds, bar ± 1 standard error across seeds. "
         "Grey lines: baselines."),
    ]  # fmt: skip


def test_why_there_is_no_law(study: ReportStudy) -> None:
    assert missing_law_reason(study) == (
        "no law was fitted (law.json is absent); the 3 finished trials cover 2 values of training tasks N, and a law "
        "needs more values than it has parameters."
    )
    keep(study.folder, lambda trial: trial.axes.get("n_tasks") == 40)
    assert "the 1 finished trials cover 1 value of training tasks N" in missing_law_reason(open_study(study.folder))
    (study.folder / "law.json").unlink()
    found = law_finding(open_study(study.folder))
    assert found.title == "No law was fitted"
    assert found.answer.startswith("No answer yet: no law was fitted")


RUN_MARKS = [
    "blue o 3.6 blue edge blue 0 alpha 0.55: (10, 1) «MAML, N = 10, seed 0: 1.00 nats (± 0.100 nats across tasks)»",
    "blue o 3.6 blue edge blue 0 alpha 0.55: (10, 2) «MAML, N = 10, seed 1: 2.00 nats (± 0.300 nats across tasks)»",
    "blue o 3.6 blue edge blue 0 alpha 0.55: (40, 0.5) «MAML, N = 40, seed 0: 0.500 nats (± 0.200 nats across tasks)»",
    "blue z 4.1: (10, 1.5)",
    "blue _ 7 blue edge blue 1 z 4: (10, 1)",
    "blue _ 7 blue edge blue 1 z 4: (10, 2)",
    "blue o 7.5 blue edge paper 1.2 z 5: (10, 1.5) «MAML, N = 10: mean 1.50 nats ± 0.500 nats across 2 seeds»",
    "blue o 7.5 blue edge paper 1.2 z 5: (40, 0.5) «MAML, N = 40: mean 0.500 nats (one seed)»",
]
"""Runs, the bar of N = 10 from 1.5 - 0.5 to 1.5 + 0.5 with its ends, and the means."""
LEVEL_MARKS = [
    "soft line 1.2 dashes 5, 3 z 1: (0, 1.25) (1, 1.25) «fine-tuning: 1.25 nats ± 0.0500 nats across tasks»",
    "soft line 1.2 dashes 1.5, 2.5 z 1: (0, 1.6) (1, 1.6) «class prior: 1.60 nats»",
]


def test_the_picture_of_the_law_whole() -> None:
    """The x axis has 0.06 of ln 4 on both sides, the y axis 0.05 of ln(2 / 0.4); the diamond stands 1.8 % to the right.
    A label is at its place along the axis: ln(0.5 / 0.3691) / ln(2.168 / 0.3691) = 0.1715."""
    with styled():
        ax = plot_study_law(TABLE, axes(), families=True)
    assert marks(ax) == [
        "blue line 2 'law': (10, 1.4) (20, 0.9) (40, 0.5)",
        *RUN_MARKS,
        *LEVEL_MARKS,
        "orange line 1.6 z 5: (41.13, 0.4) (41.13, 0.7)",
        "paper D 6 paper edge orange 1.6 z 6: (41.13, 0.6) «N = 40 predicted from smaller scales: 0.600 "
        "[0.400, 0.700]; measured 0.500»",
        "band blue 0 alpha 0.18 z 1: (10, 1.5) (10, 1.3) ... 9 (10, 1.5)",
        "bars blue 1.4 z 4: (10, 1) (10, 2)",
        "bar soft alpha 0.12: x 0, 1 y 1.2, 1.3",
    ]
    assert words(ax) == [
        "blue 9 left center (1.04, 0.1715): law, 90 %",
        "soft 9 left center (1.04, 0.6891): fine-tuning 1.25",
        "soft 9 left center (1.04, 0.8285): class prior 1.60",
        "orange 9 left center (1.04, 0.2745): predicted from / smaller scales",
    ]
    assert frame(ax) == {
        "title": TITLE,
        "x": "training tasks N (log scale): log 9.202, 43.47",
        "y": "meta-test loss (nats, log scale): log 0.3691, 2.168",
        "x ticks": "10 15 20 30 40",
        "y ticks": "0.5 0.7 1 1.5 2",
    }


def test_the_other_families_are_drawn_on_demand() -> None:
    """The power law 2·x^-0.5 in the first dashes; a family without a known parameter has no curve."""
    power = FamilyRecord({"A": Interval(2.0, 1.0, 3.0), "alpha": Interval(0.5, 0.0, 1.0)})
    one = replace(
        LAW, families={"power": power, "unknown": FamilyRecord({})}, curve=Band((4.0,), (1.0,), (1.0,), (1.0,))
    )
    table = replace(TABLE, laws={"": one})
    line = "blue line 1.4 dashes 5, 2: (4, 1)"
    with styled():
        assert line not in " ".join(marks(plot_study_law(table, axes())))
        drawn = plot_study_law(table, axes(), families=True)
    (option,) = [each for each in drawn.lines if str(each.get_gid()).startswith("option:")]
    assert (option.get_gid(), option.get_ydata()) == ("option:power", pytest.approx([1.0]))


def test_the_law_on_a_narrow_linear_picture() -> None:
    """Padded by 0.05 of 1.6: from 0.32 to 2.08; a label of the narrow picture is smaller."""
    with styled():
        ax = plot_study_law(TABLE, axes(3.9, 3.4), linear=True, compact=True)
    assert frame(ax)["y"] == "meta-test loss (nats): linear 0.32, 2.08"
    assert {text.get_fontsize() for text in ax.texts} == {8}
    assert (ax.xaxis.label.get_fontsize(), ax.title.get_fontsize()) == (9, 12)
    assert ax._left_title.get_fontsize() == 10  # type: ignore[attr-defined]


def test_several_series_have_colours_and_a_law_over_all_is_ink() -> None:
    """Their labels are at the means of their largest scales; predictions have the series' colours and no label."""
    points = (RunValue("a", 1.0, 0, 2.0, None), RunValue("a", 2.0, 0, 1.0, None), RunValue("b", 1.0, 0, 3.0, None))
    means = tuple(ScaleMean(point.series, point.x, 1, point.value, None, None) for point in points)
    scales = replace(SCALES, series=("a", "b"), points=points, means=means, levels=(), unit="")
    hidden = HiddenScale(2.0, "power", 1.0, 1.5, None, None, None, {})
    band = Band((1.0, 2.0), (2.0, 1.0), (1.9, 0.9), (2.1, 1.1))
    one = replace(LAW, curve=band, extrapolation=hidden)
    with styled():
        ax = plot_study_law(LawTable(scales, {"a": one, "b": one}, 0.9, "t"), axes())
        whole = plot_study_law(LawTable(scales, {"": one}, 0.9, "t"), axes())
    found = marks(ax)
    assert [line for line in found if "'law" in line] == [
        "blue line 2 'law a': (1, 2) (2, 1)",
        "red line 2 'law b': (1, 2) (2, 1)",
    ]
    assert [line for line in found if " D " in line] == [
        f"paper D 6 paper edge {colour} 1.6 z 6: (2.028, 1.5) «N = 2 predicted from smaller scales: 1.50; measured "
        "1.00»"
        for colour in ("blue", "red")
    ]
    assert [text.split(": ")[1] for text in words(ax)] == ["a", "b"]
    assert [text.split()[0] for text in words(ax)] == ["blue", "red"]
    assert [line for line in marks(whole) if "'law" in line] == ["ink line 2 'law': (1, 2) (2, 1)"]
    assert [text.split(": ")[1] for text in words(whole)] == ["law, 90 %", "a", "b", "predicted from / smaller scales"]


def test_the_picture_of_accuracy_whole() -> None:
    """A bar of 45 ± 5 %, the line through the means; the axis has 0.05 of 0.6 on both sides."""
    with styled():
        ax = plot_accuracy(ACCURACY, axes())
    assert marks(ax) == [
        "blue o 3.6 blue edge blue 0 alpha 0.55: (10, 0.5) «MAML, N = 10, seed 0: 50.0 % (± 2.0 % across tasks)»",
        "blue o 3.6 blue edge blue 0 alpha 0.55: (10, 0.4) «MAML, N = 10, seed 1: 40.0 % (± 4.0 % across tasks)»",
        "blue o 3.6 blue edge blue 0 alpha 0.55: (40, 0.8) «MAML, N = 40, seed 0: 80.0 % (± 3.0 % across tasks)»",
        "blue z 4.1: (10, 0.45)",
        "blue _ 7 blue edge blue 1 z 4: (10, 0.4)",
        "blue _ 7 blue edge blue 1 z 4: (10, 0.5)",
        "blue o 7.5 blue edge paper 1.2 z 5: (10, 0.45) «MAML, N = 10: mean 45.0 % ± 5.0 % across 2 seeds»",
        "blue o 7.5 blue edge paper 1.2 z 5: (40, 0.8) «MAML, N = 40: mean 80.0 % (one seed)»",
        "blue line 1.6: (10, 0.45) (40, 0.8)",
        "soft line 1.2 dashes 1.5, 2.5 z 1: (0, 0.2) (1, 0.2) «chance: 20.0 %»",
        "soft line 1.2 dashes 5, 3 z 1: (0, 0.3) (1, 0.3) «fine-tuning: 30.0 %»",
        "bars blue 1.4 z 4: (10, 0.4) (10, 0.5)",
    ]
    assert words(ax) == [
        "blue 9 left center (1.04, 0.9545): MAML",
        "soft 9 left center (1.04, 0.04545): chance 20 %",
        "soft 9 left center (1.04, 0.197): fine-tuning 30 %",
    ]
    assert frame(ax) == {
        "title": "Meta-test accuracy from N = 10 to 40: 45.0 % to 80.0 %",
        "x": "training tasks N (log scale): log 9.202, 43.47",
        "y": "meta-test accuracy: linear 0.17, 0.83",
        "x ticks": "10 15 20 30 40",
        "y ticks": "0 % 20 % 40 % 60 % 80 % 100 %",
    }
    only = replace(ACCURACY, points=ACCURACY.points[2:], means=ACCURACY.means[1:])
    assert frame(plot_accuracy(only, axes()))["title"] == "Meta-test accuracy 80.0 % at N = 40"
