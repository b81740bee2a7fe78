"""Methods side by side against a study that can be counted by hand: paired tests, tables, answers and bars, whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metascale.laws.record import Interval
from metascale.report.section import Folded, PageTable, Picture
from metascale.report.sections.contest import comparisons_table, contest, contest_data, plot_baselines
from metascale.report.sections.costs import costs
from metascale.report.sections.memory import memory, memory_data, plot_memory
from metascale.report.sections.standing import contest_finding, standing
from metascale.report.study import ReportStudy, open_study
from metascale.report.style import styled
from tests.report.described import axes, frame, marks, told, words
from tests.report.study_fixture import StudyBuilder, write_csv, write_json

TASKS = {
    ("maml", 0): (1.0, 2.0, 3.0),
    ("maml", 1): (3.0, 3.0, 3.0),
    ("reptile", 0): (2.0, 4.0, 3.0),
    ("fine_tuning", 0): (2.5, 2.5, 4.0),
}
"""Losses of three tasks by method and seed: means of 2 and 3, 3, and 3."""
MEMORY = {"weights": 8, "parameters": 4, "activations": 2, "gradients": 1, "optimizer_state": 1, "other": 0}
"""MiB at the peak of MAML's step; Reptile's has twice the activations."""


@pytest.fixture
def study(tmp_path: Path) -> ReportStudy:
    builder = StudyBuilder(tmp_path, {"method": ["maml", "reptile"]}, seeds=(0, 1))
    for (method, seed), losses in TASKS.items():
        main = method != "fine_tuning"
        result = {"test_loss_nats": sum(losses) / 3, "test_loss_sem_nats": 0.25, "test_accuracy": 0.5}
        result |= {"test_accuracy_sem": 0.125, "steps": 100, "step_peak_bytes": 5 * 2**20}
        result["step_flops"] = 4e9 if method == "reptile" else 3e9
        if method == "maml":
            result |= {"test_inner_lr": 0.1, "test_inner_steps": 5 + 5 * seed, "test_scale": 0.5 + 0.25 * seed}
        held = {**MEMORY, "activations": 4} if method == "reptile" else MEMORY
        result |= {f"step_{kind}_bytes": mib * 2**20 for kind, mib in held.items()} if main else {}
        run = builder.run(
            f"{method}-{seed}", {"method": method}, seed, kind="meta" if main else "baseline", result=result
        )
        write_csv(run / "test_tasks.csv", [{"task_id": f"t{k}", "loss_nats": loss} for k, loss in enumerate(losses)])
    builder.write()
    tuned = {"inner_lr": 0.5, "inner_steps": 10, "first_order": True, "test_loss_nats": 9.0, "note": "x", "idle": None}
    concluded = {"kind": "control", "test_loss_nats": 5.0, "test_loss_sem_nats": 0.5, "test_accuracy": 0.2}
    write_json(
        tmp_path / "baselines.json", {"fine_tuning": tuned, "class_prior": concluded, "empty": {"kind": "control"}}
    )
    return open_study(tmp_path)


def test_means_and_errors_of_every_method(study: ReportStudy) -> None:
    """Averaged over seeds MAML loses 2, 2.5 and 3 on the tasks: 2.5 ± 0.5 / √3 across tasks, and 2 and 3 by seed."""
    maml, reptile, tuned, prior = contest_data(study).rows
    assert (maml.name, maml.loss, maml.seed_values, maml.accuracy, maml.accuracy_task_sem) == (
        "MAML", 2.5, (2.0, 3.0), 0.5, 0.125,
    )  # fmt: skip
    assert maml.task_sem == pytest.approx(0.5 / 3**0.5)
    assert maml.losses == {"t0": [1.0, 3.0], "t1": [2.0, 3.0], "t2": [3.0, 3.0]}
    assert maml.settings == {"inner_lr": 0.1, "inner_steps": "5 to 10", "scale": "0.5 to 0.75"}
    assert maml.costs == {"step_flops": 3e9, "step_peak_bytes": 5 * 2**20, "steps": 100}
    assert (reptile.loss, reptile.task_sem, reptile.settings) == (3.0, pytest.approx(1 / 3**0.5), {})
    # A baseline's error is what its own run says; what tuning chose is all but its test numbers and what is no setting.
    assert (tuned.name, tuned.kind, tuned.series, tuned.loss, tuned.task_sem) == (
        "fine-tuning",
        "baseline",
        "",
        3.0,
        0.25,
    )
    assert tuned.settings == {"inner_lr": 0.5, "inner_steps": 10, "first_order": True}
    # Concluded without a run: no seed, no losses of single tasks.
    assert (prior.name, prior.kind, prior.loss, prior.task_sem, prior.accuracy, prior.accuracy_task_sem) == (
        "class prior", "control", 5.0, 0.5, 0.2, None,
    )  # fmt: skip
    assert (prior.seed_values, prior.losses, prior.settings, prior.series) == ((), {}, {}, "")


def test_paired_differences_by_hand(study: ReportStudy) -> None:
    """By task: -0.5, 0 and -1; -0.5, 1.5 and -1; 0, 1.5 and 0. The mean of three draws with replacement is the lowest
    difference once in 27, more often than 2.5 %, so the ends of an interval are the ends of the differences."""
    found = contest_data(study)
    assert [(one.first, one.second) for one in found.comparisons] == [
        ("MAML", "fine-tuning"), ("Reptile", "fine-tuning"), ("Reptile", "MAML"),
    ]  # fmt: skip
    assert [one.test.difference for one in found.comparisons] == [
        Interval(-0.5, -1.0, 0.0), Interval(0.0, -1.0, 1.5), Interval(0.5, 0.0, 1.5),
    ]  # fmt: skip
    assert [one.test.cohen_d for one in found.comparisons] == pytest.approx([-1.0, 0.0, 1 / 3**0.5])
    assert [one.seed_sem for one in found.comparisons] == [0.5, None, 0.5]
    assert (found.notes, found.loss_label, found.unit, found.reference) == ((), "meta-test loss (nats)", "nats", "MAML")
    first, second, third = (one.test.p_value for one in found.comparisons)
    assert first < third < second == 1.0
    assert [one.p_holm for one in found.comparisons] == pytest.approx([3 * first, 1.0, min(1.0, 2 * third)])


def test_the_section_is_bars_and_two_tables(study: ReportStudy) -> None:
    section = contest(study)
    assert (section.id, section.title) == ("baselines", "Against baselines, on the same tasks")
    picture, *tables = section.blocks
    assert isinstance(picture, Picture)
    assert (picture.name, picture.height_in) == ("baselines", pytest.approx(1.5 + 4 * 0.42))
    assert picture.caption == "Bars: ± 1 standard error across test tasks (not across seeds). Dots: single seeds."
    assert [table.caption for table in tables if isinstance(table, PageTable)] == [
        "All on the same test set, best loss first; a series with scales at its smallest, largest and best one.",
        "Paired by test task (a task's episodes are averaged first); below zero the first loses less. Interval: "
        "bootstrap over tasks of the losses averaged over seeds, so for these seeds; SE across seeds is separate; "
        "p: Wilcoxon signed-rank, corrected by Holm for 3 comparisons.",
    ]
    losses, differences = (told(table) for table in tables if isinstance(table, PageTable))
    assert losses == [
        "method | kind | #meta-test loss (nats) | #SE across tasks | #accuracy | #its SE across tasks | tuned settings",
        "MAML | meta | 2.50 {2.5} | 0.289 {0.2887} | 50.0 % {0.5} | 12.5 % {0.125} | inner lr 0.1, inner steps "
        "5 to 10, scale 0.5 to 0.75",
        "Reptile | meta | 3.00 {3} | 0.577 {0.5774} | 50.0 % {0.5} | 12.5 % {0.125} | ",
        "fine-tuning | baseline | 3.00 {3} | 0.250 {0.25} | 50.0 % {0.5} | 12.5 % {0.125} | first order True, "
        "inner lr 0.5, inner steps 10",
        "class prior | control | 5.00 {5} | 0.500 {0.5} | 20.0 % {0.2} | – | ",
    ]
    head = "#nats | #95 % across tasks | #SE across seeds | #p (Holm) | #Cohen's d | #rank-biserial | #tasks"
    assert differences[0] == f"difference | {head}"
    cells = [row.split(" | ") for row in differences[1:]]
    assert [(row[0], row[1], row[2], row[3], row[5], row[7]) for row in cells] == [
        ("MAML − fine-tuning", "−0.500 {-0.5}", "[−1.00, 0] {-0.5}", "0.500 {0.5}", "−1.00 {-1}", "3 {3}"),
        ("Reptile − fine-tuning", "0 {0}", "[−1.00, 1.50] {0}", "–", "0 {0}", "3 {3}"),
        ("Reptile − MAML", "0.500 {0.5}", "[0, 1.50] {0.5}", "0.500 {0.5}", "0.577 {0.5774}", "3 {3}"),
    ]
    # All differences of a pair that are not 0 have one sign; of -0.5, 1.5 and -1 the ranks 1, 3 and 2 balance.
    assert [row[6] for row in cells] == ["−1.00 {-1}", "0 {0}", "1.00 {1}"]
    assert section.data["not_compared"] == ()
    assert [set(one) for one in section.data["methods"]] == [
        {"name", "kind", "loss", "task_sem", "seed_values", "accuracy", "accuracy_task_sem", "settings", "costs"}
    ] * 4  # fmt: skip


def test_one_learner_has_the_column_of_its_differences_to_itself(study: ReportStudy) -> None:
    found = contest_data(study)
    one = replace(found, comparisons=found.comparisons[:1])
    heads, row = told(comparisons_table(one))
    assert heads.startswith("MAML minus | #nats | ")
    assert row.startswith("fine-tuning | −0.500 {-0.5} | ")
    supervised = comparisons_table(replace(one, items="examples", unit=""))
    assert supervised.caption.startswith("Paired by test example; below zero the first loses less.")
    assert [column.title for column in supervised.columns][1:3] == ["loss", "95 % across examples"]


def test_many_comparisons_are_folded(study: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.report.sections.contest._LONG", 2)
    (folded,) = (block for block in contest(study).blocks if isinstance(block, Folded))
    assert (folded.title, folded.open) == ("All 3 comparisons", False)
    monkeypatch.setattr("metascale.report.sections.contest._LONG", 3)
    assert not any(isinstance(block, Folded) for block in contest(study).blocks)


def test_how_series_stand_beside_the_baseline(study: ReportStudy) -> None:
    assert standing(study).beaten == ()
    assert [text.replace("\u00a0", " ") for text in standing(study).others] == [
        "MAML (meta-test loss 2.50 nats) cannot be told apart from fine-tuning (3.00; difference −0.500, 95 % "
        "[−1.00, 0]).",
        "Reptile (meta-test loss 3.00 nats) cannot be told apart from fine-tuning (3.00; difference 0, 95 % "
        "[−1.00, 1.50]).",
    ]


def test_the_answer_of_a_comparison(study: ReportStudy) -> None:
    found = contest_finding(study)
    assert found.question == "Which setting has the lowest meta-test loss?"
    assert found.answer == "Lowest meta-test loss: MAML, 2.50 nats (50.0 %); the next is Reptile with 3.00."
    assert found.title == "Lowest loss: MAML"


@pytest.mark.parametrize(("best", "word", "difference"), [("reptile", "below", 1.0), ("melora", "", 0.0)])
def test_the_answer_beside_the_exact_meta_gradient(tmp_path: Path, best: str, word: str, difference: float) -> None:
    """Four tasks with the same difference of 1: its interval is [-1, -1], and Wilcoxon's p of four equal signs without
    a Holm factor is the same as that of the test itself."""
    builder = StudyBuilder(tmp_path, {"method": ["melora", "reptile"]})
    for method in ("melora", "reptile"):
        losses = [2.0, 3.0, 4.0, 5.0] if method == best else [3.0, 4.0, 5.0, 6.0]
        run = builder.run(method, {"method": method}, kind="meta", result={"test_loss_nats": sum(losses) / 4})
        write_csv(run / "test_tasks.csv", [{"task_id": f"t{k}", "loss_nats": loss} for k, loss in enumerate(losses)])
    study = open_study(builder.write())
    answer = contest_finding(study).answer.replace("\u00a0", " ")
    (one,) = contest_data(study).comparisons
    if word:
        assert answer == (
            "Lowest meta-test loss: Reptile, 3.50 nats; 1.00 below MELoRA, exact (95 % interval of the difference "
            f"[−1.00, −1.00], p {one.p_holm:.3f} after Holm)."
        )
    else:
        assert answer == "Lowest meta-test loss: MELoRA, exact, 3.50 nats; the next is Reptile with 4.50."


def test_costs_and_memory_have_their_units(study: ReportStudy) -> None:
    (table,) = costs(study).tables
    assert (costs(study).id, costs(study).title) == ("methods", "Methods and their costs")
    assert table.caption == "Trained methods, best loss first, with what one outer step costs."
    assert told(table) == [
        "method | #loss (nats) | #SE across seeds | #outer steps | #GFLOP an outer step | #peak MiB of a step",
        "MAML | 2.50 {2.5} | 0.500 {0.5} | 100 {100} | 3.00 {3e+09} | 5.00 {5.243e+06}",
        "Reptile | 3.00 {3} | – | 100 {100} | 4.00 {4e+09} | 5.00 {5.243e+06}",
    ]
    section = memory(study)
    (table,) = section.tables
    assert (section.id, section.title, table.caption) == ("memory", "Memory", "MiB at the peak of one step.")
    assert told(table) == [
        "method | #frozen weights | #trained parameters | #activations | #gradients | #optimiser state | #other | "
        "#total",
        "MAML | 8.00 {8} | 4.00 {4} | 2.00 {2} | 1.00 {1} | 1.00 {1} | 0 {0} | 16.0 {16}",
        "Reptile | 8.00 {8} | 4.00 {4} | 4.00 {4} | 1.00 {1} | 1.00 {1} | 0 {0} | 18.0 {18}",
    ]
    (picture,) = section.pictures
    assert (picture.name, picture.height_in) == ("memory", pytest.approx(2.2 + 2 * 0.42))
    assert picture.caption == (
        "Live bytes at the peak of one training step, after a first step, by what they hold; means over seeds."
    )


def test_the_bars_whole(study: ReportStudy) -> None:
    """The longest bar ends at 5 + 0.5; a label stands 0.015 of that to the right of its bar's error, or of a seed that
    lies further; the axis ends at 1.2 of it, and at 1.42 of it where the picture is narrow."""
    found = contest_data(study)
    with styled():
        ax, narrow = plot_baselines(found, axes()), plot_baselines(found, axes(3.9, 3.0), compact=True)
    assert marks(ax)[-4:] == [
        "bar blue: x 0, 2.5 y -0.31, 0.31 «MAML: 2.50 ± 0.289 nats, 50.0 %»",
        "bar blue: x 0, 3 y 0.69, 1.31 «Reptile: 3.00 ± 0.577 nats, 50.0 %»",
        "bar muted: x 0, 3 y 1.69, 2.31 «fine-tuning: 3.00 ± 0.250 nats, 50.0 %»",
        "bar muted: x 0, 5 y 2.69, 3.31 «class prior: 5.00 ± 0.500 nats, 20.0 %»",
    ]
    assert marks(ax)[:5] == [
        "ink z 2.1: (2.5, 0)",
        "ink | 6 ink edge ink 1: (2.211, 0)",
        "ink | 6 ink edge ink 1: (2.789, 0)",
        "paper o 3.6 paper edge ink 0.8: (2, -0.16) (3, 0.16)",
        "ink z 2.1: (3, 1)",
    ]
    assert [line for line in marks(ax) if line.startswith("bars")] == [
        "bars ink 1.2 z 2: (2.211, 0) (2.789, 0)",
        "bars ink 1.2 z 2: (2.423, 1) (3.577, 1)",
        "bars ink 1.2 z 2: (2.75, 2) (3.25, 2)",
        "bars ink 1.2 z 2: (4.5, 3) (5.5, 3)",
    ]
    places = (
        "(3.083, 0): 2.50 ± 0.289",
        "(3.66, 1): 3.00 ± 0.577",
        "(3.333, 2): 3.00 ± 0.250",
        "(5.582, 3): 5.00 ± 0.500",
    )
    assert words(ax) == [f"ink 9 left center {place}" for place in places]
    assert words(narrow) == [f"ink 8 left center {place}" for place in places]
    seen = frame(ax)
    assert seen["title"] == "Lowest meta-test loss: MAML, 2.50 nats"
    assert (seen["x"], frame(narrow)["x"]) == (
        "meta-test loss (nats): linear 0, 6.6", "meta-test loss (nats): linear 0, 7.81",
    )  # fmt: skip
    assert (seen["y"], seen["y ticks"]) == (": linear 3.6, -0.6", "MAML Reptile fine-tuning class prior")
    assert not any(line.get_visible() for line in ax.get_xgridlines() + ax.get_ygridlines())


def test_the_memory_of_a_step_as_stacked_bars_whole(study: ReportStudy) -> None:
    with styled():
        ax = plot_memory(memory_data(study), axes())
    assert marks(ax) == [
        "bar blue: x 0, 8 y -0.31, 0.31 «MAML: frozen weights 8.0 MiB of 16.0»",
        "bar red: x 8, 12 y -0.31, 0.31 «MAML: trained parameters 4.0 MiB of 16.0»",
        "bar green: x 12, 14 y -0.31, 0.31 «MAML: activations 2.0 MiB of 16.0»",
        "bar purple: x 14, 15 y -0.31, 0.31 «MAML: gradients 1.0 MiB of 16.0»",
        "bar orange: x 15, 16 y -0.31, 0.31 «MAML: optimiser state 1.0 MiB of 16.0»",
        "bar sky: x 16, 16 y -0.31, 0.31 «MAML: other 0.0 MiB of 16.0»",
        "bar blue: x 0, 8 y 0.69, 1.31 «Reptile: frozen weights 8.0 MiB of 18.0»",
        "bar red: x 8, 12 y 0.69, 1.31 «Reptile: trained parameters 4.0 MiB of 18.0»",
        "bar green: x 12, 16 y 0.69, 1.31 «Reptile: activations 4.0 MiB of 18.0»",
        "bar purple: x 16, 17 y 0.69, 1.31 «Reptile: gradients 1.0 MiB of 18.0»",
        "bar orange: x 17, 18 y 0.69, 1.31 «Reptile: optimiser state 1.0 MiB of 18.0»",
        "bar sky: x 18, 18 y 0.69, 1.31 «Reptile: other 0.0 MiB of 18.0»",
    ]
    assert words(ax) == ["ink 9 left center (16.27, 0): 16.0", "ink 9 left center (18.27, 1): 18.0"]
    assert frame(ax) == {
        "title": "Peak of one training step: 16 MiB (MAML) to 18 MiB (Reptile)",
        "x": "live MiB at the peak: linear 0, 20.16",
        "y": ": linear 1.6, -0.6",
        "x ticks": "0 4 8 12 16 20 24",
        "y ticks": "MAML Reptile",
    }
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "frozen weights", "trained parameters", "activations", "gradients", "optimiser state", "other",
    ]  # fmt: skip
    assert (legend._ncols, legend.get_frame_on(), legend.get_texts()[0].get_fontsize()) == (3, False, 9)  # type: ignore[attr-defined]
    with styled():
        narrow = plot_memory(memory_data(study), axes(3.9, 3.0), compact=True)
    (legend,) = narrow.figure.legends
    assert (legend._ncols, legend.get_texts()[0].get_fontsize()) == (2, 8)  # type: ignore[attr-defined]
