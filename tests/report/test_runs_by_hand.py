"""What happened inside runs: learning, adaptation, diagnosis, convergence and searches, by hand and whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metascale.report.section import Folded, Picture
from metascale.report.sections.curves import (
    AdaptationCurve,
    AdaptationTable,
    LearningCurve,
    LearningTable,
    adaptation,
    adaptation_data,
    learning,
    learning_curves_data,
    plot_adaptation,
    plot_learning_curves,
)
from metascale.report.sections.diagnosis import (
    convergence,
    diagnosis_data,
    fit_diagnosis,
    plot_diagnosis,
    unconverged,
)
from metascale.report.sections.tuning import TuningTable, best_table, plot_tuned, tuning
from metascale.report.study import ReportStudy, open_study
from metascale.report.style import styled
from metascale.study.search.search import SearchResult, Tried
from tests.report.described import axes, frame, marks, told, words
from tests.report.study_fixture import StudyBuilder, write_csv, write_json


@pytest.fixture
def study(tmp_path: Path) -> ReportStudy:
    """MAML at N = 10 with two seeds and at N = 40, where one run diverged; and fine-tuning, which adapts too."""
    builder = StudyBuilder(tmp_path, {"n_tasks": [10, 40]}, base={"method": "maml"}, seeds=(0, 1))
    endings = {(10, 0): 20, (10, 1): 10, (40, 0): 20}
    for (n, seed), best in endings.items():
        scale = 10 / n
        result = {"test_loss_nats": scale, "best_step": best, "steps": 20}
        run = builder.run(f"{n}-{seed}", {"n_tasks": n}, seed, kind="meta", result=result)
        losses = {0: 2 * scale, 10: scale * (1 + seed), 20: scale}
        evaluations = [{"step": step, "validation_loss_nats": loss} for step, loss in losses.items()]
        write_csv(run / "eval_stats.csv", evaluations)
        adapted = [
            {"inner_steps": k, "loss_nats": scale * (4 - k + seed), "loss_sem_nats": 0.1 * (1 + seed)}
            for k in (0, 1, 3)
        ]
        write_csv(run / "adaptation.csv", adapted[: 2 + (seed == 0)])
    run = builder.run("40-1", {"n_tasks": 40}, 1, kind="meta", status="diverged", message="nan")
    write_csv(run / "eval_stats.csv", [{"step": step, "validation_loss_nats": 1.0 + step} for step in (0, 10)])
    tuned = builder.run(
        "tuned", {"method": "fine_tuning", "n_tasks": None}, kind="baseline", result={"test_loss_nats": 2.0}
    )
    write_csv(tuned / "adaptation.csv", [{"inner_steps": k, "loss_nats": 3.0 - k} for k in (0, 1)])
    return open_study(builder.write())


def test_learning_curves_and_their_section(study: ReportStudy) -> None:
    assert learning_curves_data(study) == LearningTable(
        (
            LearningCurve("MAML", 10.0, 0, True, (0.0, 10.0, 20.0), (2.0, 1.0, 1.0), 20.0),
            LearningCurve("MAML", 10.0, 1, True, (0.0, 10.0, 20.0), (2.0, 2.0, 1.0), 10.0),
            LearningCurve("MAML", 40.0, 0, True, (0.0, 10.0, 20.0), (0.5, 0.25, 0.25), 20.0),
            LearningCurve("MAML", 40.0, 1, False, (0.0, 10.0), (1.0, 11.0), None),
        ),
        "n_tasks", "meta-validation loss (nats)", 1, "outer step",
    )  # fmt: skip
    section = learning(study)
    (picture,) = section.blocks
    assert isinstance(picture, Picture)
    assert (section.id, section.title, picture.name, len(picture.draws)) == (
        "learning", "Learning curves", "learning_curves", 1,
    )  # fmt: skip
    assert picture.caption == (
        "One line a run. Dots: the kept checkpoint. Dotted lines that end in ×: runs that did not finish."
    )


def test_training_losses_are_means_of_blocks(tmp_path: Path) -> None:
    """121 steps are blocks of three, of which the last is alone: 1, 2, 3 have the mean 2 at step 3, and 121 itself."""
    builder = StudyBuilder(tmp_path, {"n_tasks": [10, 40]}, base={"method": "maml"})
    for n, column in ((10, "query_loss_nats"), (40, "query_loss_nats")):
        run = builder.run(f"{n}", {"n_tasks": n}, kind="meta", result={"test_loss_nats": 1.0, "best_step": 3})
        write_csv(run / "train_stats.csv", [{"step": k, column: float(k)} for k in range(1, 122 if n == 10 else 3)])
    study = open_study(builder.write())
    found = learning_curves_data(study, "train")
    assert (found.y_label, found.steps_a_point) == ("meta-train query loss (nats)", 3)
    long, short = found.curves
    assert (long.steps[:2], long.values[:2], long.steps[-1], long.values[-1]) == ((3.0, 6.0), (2.0, 5.0), 121.0, 121.0)
    assert (len(long.steps), long.kept_step, short.values) == (41, None, (1.0, 2.0))
    (picture,) = learning(study).pictures
    assert picture.caption.endswith("did not finish. Meta-train losses are means over blocks of 3 recorded steps.")


def test_series_with_a_scale_are_told_apart_by_their_lines(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"method": ["maml", "reptile"], "n_tasks": [10, 40]})
    for method in ("maml", "reptile"):
        for n in (10, 40):
            sets = {"method": method, "n_tasks": n}
            run = builder.run(f"{method}{n}", sets, kind="meta", result={"test_loss_nats": 1.0})
            write_csv(run / "eval_stats.csv", [{"step": k, "validation_loss_nats": 1.0 + k} for k in (0, 1)])
    study = open_study(builder.write())
    (picture,) = learning(study).pictures
    assert picture.caption.endswith("did not finish. Solid: MAML; dashed: Reptile.")
    with styled():
        drawn = marks(plot_learning_curves(learning_curves_data(study), axes()))
    assert [line.split(" alpha")[0] for line in drawn if "line" in line] == [
        "ramp 0 line 1.2", "ramp 6 line 1.2", "ramp 0 line 1.2 dashes 3.7, 1.6", "ramp 6 line 1.2 dashes 3.7, 1.6",
    ]  # fmt: skip


def test_the_picture_of_learning_whole(study: ReportStudy) -> None:
    """Lighter for fewer tasks. The y axis has 0.05 of ln(11 / 0.25) on both sides, the x axis 0.05 of 20."""
    with styled():
        ax = plot_learning_curves(learning_curves_data(study), axes())
        narrow = plot_learning_curves(learning_curves_data(study), axes(3.9, 3.4), compact=True)
        bare = plot_learning_curves(learning_curves_data(study), axes(), key=False)
    assert marks(ax) == [
        "ramp 0 line 1.2 alpha 0.9: (0, 2) (10, 1) (20, 1) «MAML, N = 10, seed 0»",
        "ramp 0 o 4.5 ramp 0 edge paper 1: (20, 1) «MAML, N = 10, seed 0: kept step 20, 1.00»",
        "ramp 0 line 1.2 alpha 0.9: (0, 2) (10, 2) (20, 1) «MAML, N = 10, seed 1»",
        "ramp 0 o 4.5 ramp 0 edge paper 1: (10, 2) «MAML, N = 10, seed 1: kept step 10, 2.00»",
        "ramp 6 line 1.2 alpha 0.9: (0, 0.5) (10, 0.25) (20, 0.25) «MAML, N = 40, seed 0»",
        "ramp 6 o 4.5 ramp 6 edge paper 1: (20, 0.25) «MAML, N = 40, seed 0: kept step 20, 0.250»",
        "ramp 6 line 1.2 dashes 1, 1.65 alpha 0.9: (0, 1) (10, 11) «MAML, N = 40, seed 1, not finished»",
        "ramp 6 x 6 ramp 6 edge ramp 6 1.6: (10, 11)",
    ]
    assert frame(ax) == {
        "title": "Meta-validation loss",
        "x": "outer step: linear -1, 21",
        "y": "meta-validation loss (nats, log scale): log 0.2069, 13.29",
        "x ticks": "−5 0 5 10 15 20 25",
        "y ticks": "0.3 1 3 10",
    }
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["N\u00a0=\u00a010", "40"]
    assert [(handle.get_color(), handle.get_linewidth()) for handle in legend.get_lines()] == [
        ("#8fc6e4", 3), ("#042247", 3),
    ]  # fmt: skip
    assert (legend._ncols, legend.get_frame_on(), legend.get_texts()[0].get_fontsize()) == (2, False, 8)  # type: ignore[attr-defined]
    assert bare.get_legend() is None
    assert (ax._left_title.get_fontsize(), narrow._left_title.get_fontsize()) == (12, 10)  # type: ignore[attr-defined]


def test_the_key_of_settings_has_their_hues_and_lines() -> None:
    """Seven settings: the seventh has the first one's hue in a dashed line; the key has four columns, narrow two."""
    names = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"]
    curves = tuple(LearningCurve(name, None, 0, True, (0.0, 1.0), (2.0, 1.0), None) for name in names)
    table = LearningTable(curves, "n", "validation loss", 1.0, "step")
    with styled():
        ax = plot_learning_curves(table, axes())
        narrow = plot_learning_curves(table, axes(3.9, 3.4), compact=True)
    looks = ["blue", "red", "green", "purple", "orange", "sky", "blue line 1.2 dashes 3.7, 1.6"]
    assert [line.split(" alpha")[0].removesuffix(" line 1.2") for line in marks(ax)] == looks
    for drawn, columns in ((ax, 4), (narrow, 2)):
        legend = drawn.get_legend()
        assert legend is not None
        assert legend._ncols == columns  # type: ignore[attr-defined]
        assert [(line.get_linestyle(), line.get_linewidth()) for line in legend.get_lines()][-2:] == [
            ("-", 2),
            ("--", 2),
        ]
    only = replace(table, curves=curves[:1])
    assert marks(plot_learning_curves(only, axes()))[0].startswith("soft line 1.2 alpha 0.9")


def test_adaptation_curves_are_means_where_all_runs_have_them(study: ReportStudy) -> None:
    """At N = 10 seed 1 has no K = 3, and the errors 0.1 and 0.2 average to 0.15."""
    first, second, tuned = adaptation_data(study).curves
    assert (first.inner_steps, first.values, first.seeds) == ((0, 1), (4.5, 3.5), ((4.0, 3.0), (5.0, 4.0)))
    assert first.task_sem == pytest.approx((0.15, 0.15))
    assert second == AdaptationCurve("MAML", 40.0, (0, 1, 3), (1.0, 0.75, 0.25), (0.1, 0.1, 0.1), ((1.0, 0.75, 0.25),))
    assert tuned == AdaptationCurve("fine-tuning", None, (0, 1), (3.0, 2.0), (None, None), ((3.0, 2.0),))
    assert adaptation_data(study).y_label == "meta-test loss (nats)"
    section = adaptation(study)
    picture, table = section.blocks
    assert isinstance(picture, Picture)
    assert (section.id, section.title, picture.name) == ("adaptation", "Adaptation steps", "adaptation")
    assert picture.caption == (
        "Lines: mean over seeds, dashed for the smallest scale; thin lines: single seeds. "
        "Bars: ± 1 standard error across test tasks."
    )
    assert table.caption == "Meta-test loss (nats) after K inner steps, means over seeds."  # type: ignore[union-attr]
    assert told(table) == [  # type: ignore[arg-type]
        "start | #K = 0 | #K = 1 | #K = 3",
        "MAML, N = 10 | 4.50 {4.5} | 3.50 {3.5} | –",
        "MAML, N = 40 | 1.00 {1} | 0.750 {0.75} | 0.250 {0.25}",
        "fine-tuning | 3.00 {3} | 2.00 {2} | –",
    ]


def test_the_picture_of_adaptation_whole(study: ReportStudy) -> None:
    """K on the axis ln(1 + K), with 0.05 of ln 4 on both sides: e^-0.0693 - 1 and 4 e^0.0693 - 1; losses from
    0.25 - 0.1 to the highest single seed, 5."""
    with styled():
        ax, narrow = (plot_adaptation(adaptation_data(study), axes(), compact=compact) for compact in (False, True))
    bars = "blue _ 5 blue edge blue 1 z 3"
    dot = "blue o 5 blue edge paper 1 z 4"
    assert marks(ax) == [
        "blue line 0.7 alpha 0.55: (0, 4) (1, 3)",
        "blue line 0.7 alpha 0.55: (0, 5) (1, 4)",
        "blue line 1.8 dashes 3.7, 1.6 z 3: (0, 4.5) (1, 3.5)",
        f"{bars}: (0, 4.35) (1, 3.35)",
        f"{bars}: (0, 4.65) (1, 3.65)",
        f"{dot}: (0, 4.5) «MAML, N = 10, K = 0: 4.50 ± 0.150 across tasks»",
        f"{dot}: (1, 3.5) «MAML, N = 10, K = 1: 3.50 ± 0.150 across tasks»",
        "blue line 1.8 z 3: (0, 1) (1, 0.75) (3, 0.25)",
        f"{bars}: (0, 0.9) (1, 0.65) (3, 0.15)",
        f"{bars}: (0, 1.1) (1, 0.85) (3, 0.35)",
        f"{dot}: (0, 1) «MAML, N = 40, K = 0: 1.00 ± 0.100 across tasks»",
        f"{dot}: (1, 0.75) «MAML, N = 40, K = 1: 0.750 ± 0.100 across tasks»",
        f"{dot}: (3, 0.25) «MAML, N = 40, K = 3: 0.250 ± 0.100 across tasks»",
        "soft line 1.8 z 3: (0, 3) (1, 2)",
        "soft o 5 soft edge paper 1 z 4: (0, 3) «fine-tuning, K = 0: 3.00»",
        "soft o 5 soft edge paper 1 z 4: (1, 2) «fine-tuning, K = 1: 2.00»",
        "bars blue 1 z 3: (0, 4.35) (0, 4.65) ; (1, 3.35) (1, 3.65)",
        "bars blue 1 z 3: (0, 0.9) (0, 1.1) ; (1, 0.65) (1, 0.85) ; (3, 0.15) (3, 0.35)",
    ]
    assert words(ax) == [
        "blue 9 left center (1.04, 0.8621): MAML, N = 10",
        "blue 9 left center (1.04, 0.1779): MAML, N = 40",
        "soft 9 left center (1.04, 0.717): fine-tuning",
    ]
    assert [line.split(": ")[1] for line in words(narrow)] == ["MAML, / N = 10", "MAML, / N = 40", "fine-tuning"]
    assert {text.get_fontsize() for text in narrow.texts} == {8}
    assert frame(ax) == {
        "title": "Lowest of these after adaptation: MAML from N = 40, 0.250 at K = 3",
        "x": "inner steps K: function -0.06697, 3.287",
        "y": "meta-test loss (nats, log scale): log 0.1259, 5.958",
        "x ticks": "0 1 3",
        "y ticks": "0.2 0.5 1 2 5",
    }


def test_baselines_of_adaptation_have_colours_that_no_series_has() -> None:
    curve = AdaptationCurve("a", 1.0, (0, 1), (2.0, 1.0), (None, None), ((2.0, 1.0),))
    others = [replace(curve, series=name, x=None) for name in ("first", "second", "third")]
    table = AdaptationTable((curve, replace(curve, series="b"), *others), "n", "loss")
    with styled():
        drawn = [line for line in marks(plot_adaptation(table, axes())) if "line" in line]
    assert [line.split(" line")[0] for line in drawn] == ["blue", "red", "soft", "green", "purple"]


def test_runs_that_had_not_converged_are_a_table(study: ReportStudy) -> None:
    assert unconverged(study) == (
        "2 of 3 runs ended at the step cap with validation still falling: the losses also measure the budget.",
    )
    section = convergence(study)
    sentence, table = section.blocks
    assert (section.id, section.title) == ("diagnostics", "Diagnostics")
    assert sentence == (
        "2 of 3 finished runs had the lowest validation loss at the last evaluation: more steps might have lowered it "
        "further, so their loss also measures the budget."
    )
    assert table.caption == "Runs that had not converged. Best step: where the validation loss was lowest."  # type: ignore[union-attr]
    assert told(table) == [  # type: ignore[arg-type]
        "run | #training tasks N | #steps | #best step | ended",
        "MAML, N = 10, seed 0 [10-0] | 10 {10} | 20 {20} | 20 {20} | still improving",
        "MAML, N = 40, seed 0 [40-0] | 40 {40} | 20 {20} | 20 {20} | still improving",
    ]


def test_many_runs_that_had_not_converged_are_folded(study: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.report.sections.diagnosis._LONG", 1)
    (folded,) = (block for block in convergence(study).blocks if isinstance(block, Folded))
    assert folded.title == "2 runs"


@pytest.fixture
def nets(tmp_path: Path) -> ReportStudy:
    """Three widths, whose kept losses at step 10 are 0.9, 0.68 and 0.1 in training and 1, 0.8 and 0.5 in validation.
    At the last step validation was e times, once and twice as high; the last net was best at its last step."""
    builder = StudyBuilder(tmp_path, {"width": [4, 8, 16]}, base={"method": None}, seeds=(0,))
    seen = {4: (0.9, 1.0, 2.718281828459045, 10), 8: (0.68, 0.8, 0.8, 10), 16: (0.1, 0.5, 0.5, 20)}
    for width, (train, validation, last, best) in seen.items():
        result = {"test_loss_nats": validation, "best_step": best, "steps": 20, "dropout": 0.5}
        run = builder.run(f"w{width}", {"width": width}, result=result)
        rows = [(0, 4.0, 4.0), (10, train, validation), (20, train, last)]
        names = ("step", "train_loss_nats", "validation_loss_nats")
        write_csv(run / "eval_stats.csv", [dict(zip(names, row, strict=True)) for row in rows])
    return open_study(builder.write())


def test_training_beside_validation_in_words_and_numbers(nets: ReportStudy) -> None:
    """Gaps: 0.1 of 1; 0.12 of 0.8, 15 %; 0.4 of 0.5, 80 %. The lowest validation loss is 0.5: 0.8 is high beside it."""
    section = fit_diagnosis(nets)
    sentence, advice, picture, table = section.blocks
    assert (section.id, section.title) == ("diagnosis", "Underfit or overfit?")
    assert sentence == (
        "Of 3 configurations 2 underfit, 1 had not converged. The gap between training and validation, as a share of "
        "the validation loss, is 10 % at the smallest (width 4) and 80 % at the largest (width 16)."
    )
    assert advice == (
        "Underfits: the training loss itself is high: a larger net, or less dropout and weight decay. Not converged: "
        "training ended before validation had stopped falling: train longer."
    )
    assert isinstance(picture, Picture)
    assert (picture.name, len(picture.draws), picture.same_y) == ("diagnosis", 3, True)
    assert picture.caption == (
        "Dashed: training examples, without dropout; solid: validation; dots: kept. 4: width 4; 8: width 8; 16: "
        "width 16."
    )
    assert table.caption == (  # type: ignore[union-attr]
        "Losses at the kept state, without dropout, means over seeds. Overfits: the gap is over 50 % of the validation "
        "loss. Underfits: it is under 20 % and the validation loss over 1.20 times the lowest of the series. Not "
        "converged: half of the runs or more were not stopped by patience. Rise: how far validation had risen again at "
        "the last step, in ln loss."
    )
    assert told(table) == [  # type: ignore[arg-type]
        "configuration | #size | #dropout | #training | #validation | #gap | #rise | diagnosis",
        "width 4 | 4 {4} | 0.5 {0.5} | 0.900 {0.9} | 1.00 {1} | 10 % {0.1} | 1.00 {1} | underfits",
        "width 8 | 8 {8} | 0.5 {0.5} | 0.680 {0.68} | 0.800 {0.8} | 15 % {0.15} | 0 {0} | underfits",
        "width 16 | 16 {16} | 0.5 {0.5} | 0.100 {0.1} | 0.500 {0.5} | 80 % {0.8} | 0 {0} | not converged",
    ]


def test_the_picture_of_a_diagnosis_whole(nets: ReportStudy) -> None:
    """From 0.9 to 4, with 0.05 of ln(4 / 0.9) on both sides."""
    found = diagnosis_data(nets)
    with styled():
        ax = plot_diagnosis(found.rows[0], axes(), x_label=found.x_label)
    assert marks(ax) == [
        "blue line 1.2 dashes 3.7, 1.6 alpha 0.9: (0, 4) (10, 0.9) (20, 0.9) «width 4, seed 0: training»",
        "red line 1.2 alpha 0.9: (0, 4) (10, 1) (20, 2.718) «width 4, seed 0: validation»",
        "red o 5 red edge paper 1: (10, 1) «seed 0: kept at step 10»",
    ]
    seen = frame(ax)
    assert (seen["title"], seen["y"]) == ("4: underfits, gap 10 %", "loss (nats, log scale): log 0.8353, 4.31")
    assert str(seen["x"]).startswith("step: linear ")


SEARCHES = (
    SearchResult(
        {"width": 4}, {"lr": 0.1, "norm": "none"}, 0.5,
        (
            Tried({"lr": 0.001, "norm": "layer"}, 1.0, "finished"),
            Tried({"lr": 0.01, "norm": "none"}, 5.0, "pruned"),
            Tried({"lr": 0.1, "norm": "none"}, 0.5, "finished"),
            Tried({"lr": 1.0, "norm": "layer"}, None, "diverged"),
        ),
        {"lr": "high"},
    ),
    SearchResult(
        {"width": 8}, {"lr": 0.03, "norm": "layer"}, 0.25,
        (Tried({"lr": 0.03, "norm": "layer"}, 0.25, "finished"), Tried({"lr": 0.3, "norm": "none"}, 0.5, "finished")),
        {},
    ),
)  # fmt: skip
SEARCHED = TuningTable(SEARCHES, {"lr": {"log": [0.001, 1.0]}})


def test_searches_in_words_and_numbers(tmp_path: Path) -> None:
    space = {"tune": {"space": {"lr": {"log": [0.001, 1.0]}}}}
    StudyBuilder(tmp_path, {"width": [4, 8]}, base=space).write()
    write_json(tmp_path / "tuning.json", [one.to_json() for one in SEARCHES])
    section = tuning(open_study(tmp_path))
    text, picture, table = section.blocks
    assert (section.id, section.title) == ("tuning", "Tuned hyperparameters")
    assert text == (
        "6 trials searched learning rate, norm at 2 points, by validation loss; the test set was not touched. At 1 of "
        "them a best value lies at an end of its range: a better one may lie beyond."
    )
    assert isinstance(picture, Picture)
    assert (picture.name, len(picture.draws), picture.same_y) == ("tuning", 2, True)
    assert picture.caption == (
        "Each mark is a trial of a search: ln of its validation loss over the best at its point; crosses were stopped "
        "early; losses above the axis are drawn at its top. Large dots on the line: the best of each point, red at an "
        "end of the range."
    )
    assert told(table) == [  # type: ignore[arg-type]
        "point | #learning rate | #norm | #validation loss | trials",
        "width 4 | 0.1 ▲ {0.1} | none | 0.500 {0.5} | 2 finished, 1 pruned, 1 diverged",
        "width 8 | 0.03 {0.03} | layer | 0.250 {0.25} | 2 finished",
    ]
    assert table.caption == "Best values of each searched point; ▲ and ▼: at the upper or lower end of the range."  # type: ignore[union-attr]
    low = replace(SEARCHES[1], edges={"lr": "low"})
    assert "0.03 ▼ {0.03}" in told(best_table(TuningTable((low,))))[1]
    write_json(tmp_path / "tuning.json", [SEARCHES[1].to_json()])
    assert tuning(open_study(tmp_path)).blocks[0] == (
        "2 trials searched learning rate, norm at 1 point, by validation loss; the test set was not touched. No best "
        "value lies at an end of its range."
    )


def test_the_picture_of_a_search_whole() -> None:
    """ln(1 / 0.5) = ln 2; ln(5 / 0.5) is above 2 and drawn there; the axis of a range in logarithms has its decades."""
    with styled():
        ax, names = plot_tuned(SEARCHED, axes(), name="lr"), plot_tuned(SEARCHED, axes(), name="norm")
    light, dark = "ramp 0 o 3.4 ramp 0 edge ramp 0 0 alpha 0.7", "ramp 6 o 3.4 ramp 6 edge ramp 6 0 alpha 0.7"
    assert marks(ax) == [
        f"{light}: (0.001, 0.6931) «width 4: learning rate 0.001, loss 1.00»",
        "ramp 0 x 3.4 ramp 0 edge ramp 0 0.9 alpha 0.5: (0.01, 2) «width 4: learning rate 0.01, loss 5.00, ended "
        "early»",
        f"{light}: (0.1, 0) «width 4: learning rate 0.1, loss 0.500»",
        "red o 7 red edge paper 1 alpha 0.9 z 4: (0.1, 0) «width 4: best learning rate 0.1, loss 0.500, at the high "
        "end "
        "of its range»",
        f"{dark}: (0.03, 0) «width 8: learning rate 0.03, loss 0.250»",
        f"{dark}: (0.3, 0.6931) «width 8: learning rate 0.3, loss 0.500»",
        "ramp 6 o 5.5 ramp 6 edge paper 1 alpha 0.9 z 4: (0.03, 0) «width 8: best learning rate 0.03, loss 0.250»",
        "soft line 0.8: (0, 0) (1, 0)",
    ]
    assert frame(ax) == {
        "title": "Learning rate: 1 of 2 at an edge",
        "x": "learning rate: log 0.0006607, 1.514",
        "y": "ln (loss / best at its point): linear -0.1, 2.1",
        "x ticks": "0.001 0.01 0.1 1",
        "y ticks": "−0.5 0.0 0.5 1.0 1.5 2.0 2.5",
    }
    places = [line.split("(")[1].split(",")[0] for line in marks(names)]
    assert places == ["0", "1", "1", "1", "0", "1", "0", "0"], "a text in the order of the alphabet"
    seen = frame(names)
    assert (seen["title"], seen["x"], seen["x ticks"]) == ("Norm", "norm: linear -0.5, 1.5", "layer none")


def test_few_numbers_are_choices_and_many_are_an_axis() -> None:
    """Five values stand in equal steps with their names; six at themselves, in logarithms where they span over 10."""

    def drawn(values: list[float], ranges: dict | None = None) -> tuple[object, object, list[str]]:
        tried = tuple(Tried({"n": value}, 1.0, "finished") for value in values)
        table = TuningTable((SearchResult({}, {"n": values[0]}, 1.0, tried, {}),), ranges or {})
        with styled():
            ax = plot_tuned(table, axes(), name="n")
        seen = frame(ax)
        return seen["x"], seen["x ticks"], [line.split("(")[1].split(",")[0] for line in marks(ax)][: len(values)]

    assert drawn([1, 2, 3, 4, 50]) == ("n: linear -0.5, 4.5", "1 2 3 4 50", ["0", "1", "2", "3", "4"])
    scale, ticks, places = drawn([1, 2, 3, 4, 5, 50])
    assert (str(scale).split()[1], ticks, places) == ("log", "1 3 10 30", ["1", "2", "3", "4", "5", "50"])
    assert str(drawn([1, 2, 3, 4, 5, 10])[0]).split()[1] == "linear"
    assert str(drawn([1, 2, 3, 4, 5, 6], {"n": {"log": [1, 6]}})[0]).split()[1] == "log"
    assert str(drawn([1, 2, 3, 4, 5, 50], {"n": {"uniform": [1, 50]}})[0]).split()[1] == "linear"
