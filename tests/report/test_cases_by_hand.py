"""What a page says only now and then: refusals, notes, and the words of rare cases, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.laws.record import HiddenScale, Interval, LawRecord
from metascale.report import style
from metascale.report.section import (
    Note,
    PageTable,
    Picture,
)
from metascale.report.sections.checks import edges_at, irregular_data
from metascale.report.sections.contest import at_an_edge, contest, contest_data, plot_baselines
from metascale.report.sections.costs import costs
from metascale.report.sections.curves import adaptation_data, extremes, learning_curves_data
from metascale.report.sections.diagnosis import (
    Convergence,
    Diagnosis,
    DiagnosisTable,
    RunCurve,
    advice,
    convergence_data,
    convergence_sentences,
    coverage_sentences,
    diagnosis_data,
    diagnosis_sentence,
    plot_diagnosis,
    typical,
    unconverged,
    verdict_of,
)
from metascale.report.sections.law import law_finding, missing_law_reason, parameters_table
from metascale.report.sections.overview import missing_data, trials
from metascale.report.sections.provenance import gather, provenance_pairs
from metascale.report.sections.scales import accuracy_data
from metascale.report.sections.sizes import Size, SizeTable, plot_perplexity
from metascale.report.sections.standing import contest_finding, standing
from metascale.report.sections.tuning import TuningTable, excess, tuning_data
from metascale.report.study import Point, ReportStudy, open_study
from metascale.study.roles import Roles
from metascale.study.search.search import SearchResult, Tried
from tests.report.described import axes, told, words
from tests.report.study_fixture import StudyBuilder, run_row, write_csv, write_json
from tests.report.test_study_by_hand import study_of

POWER = LawRecord(law="power", formula="", x_names=("n_tasks",), loss_name="test_loss_nats", trend="falls", verdict="")


# ------------------------------------------------------------------------------------------- the contest


TASKS = [{"task_id": f"t{k}", "loss_nats": 1.0 + k} for k in range(3)]


def contest_of(folder: Path, tests: dict[str, list[list[dict[str, Any]]]], **roles: Any) -> ReportStudy:
    """A study of methods, each with a run a list of rows of test_tasks.csv; ``zero_shot`` is a baseline."""
    stored = {"roles": Roles((), ("method",), loss="test_loss_nats", **roles)} if roles else {}
    builder = StudyBuilder(folder, {"method": [name for name in tests if name != "zero_shot"]}, seeds=(0, 1), **stored)
    for method, seeds in tests.items():
        for seed, rows in enumerate(seeds):
            kind = "baseline" if method == "zero_shot" else "meta"
            losses = [row["loss_nats"] for row in rows if row["loss_nats"] is not None]
            run = builder.run(
                f"{method}-{seed}", {"method": method}, seed, kind=kind,
                result={"test_loss_nats": sum(losses) / max(len(losses), 1)},
            )  # fmt: skip
            write_csv(run / "test_tasks.csv", rows)
    return open_study(builder.write())


def test_why_losses_are_not_compared(tmp_path: Path) -> None:
    holes = [*TASKS[:2], {"task_id": "t2", "loss_nats": None}]
    found = contest_data(contest_of(tmp_path / "a", {"maml": [TASKS], "anil": [holes]}))
    assert found.notes == ("ANIL is not compared: anil-0 has tasks without a finite loss.",)
    found = contest_data(contest_of(tmp_path / "b", {"maml": [TASKS], "anil": [TASKS, TASKS[:2]]}))
    assert found.notes == ("ANIL is not compared: its seeds were tested on different tasks.",)
    found = contest_data(contest_of(tmp_path / "c", {"maml": [TASKS[:1]], "anil": [TASKS[:1]]}))
    assert found.notes == ("ANIL and MAML are not compared: a paired test needs at least 2 tasks.",)
    assert found.comparisons == ()
    two = contest_data(contest_of(tmp_path / "d", {"maml": [TASKS[:2]], "anil": [TASKS[:2]]}))
    assert [(one.first, one.second) for one in two.comparisons] == [("ANIL", "MAML")]
    study = contest_of(
        tmp_path / "e", {"maml": [TASKS], "anil": [[{"task_id": "t0", "other_nats": 1.0, "loss_nats": 1.0}]]}
    )
    path = next((tmp_path / "e/runs").glob("*anil*/test_tasks.csv"))
    path.write_text("task_id,other\nt0,1.0\n")
    with pytest.raises(
        CorruptFile, match=r"test_tasks\.csv must have the columns task_id and loss_nats; it has \['task_id', 'other'\]"
    ):
        contest_data(open_study(study.folder))


def test_where_higher_is_better_the_highest_wins(tmp_path: Path) -> None:
    """MAML earns 3 and 4 on its tasks, ANIL 1 and 2, and the baseline 2 and 3: paired, it lies between them."""

    def rows(*values: float) -> list[dict[str, Any]]:
        return [{"task_id": f"t{k}", "loss_nats": value} for k, value in enumerate(values)]

    tests = {"anil": [rows(1, 2)], "maml": [rows(3, 4)], "zero_shot": [rows(2, 3)]}
    study = contest_of(tmp_path / "a", tests, better="higher")
    assert [row.name for row in contest_data(study).shown] == ["MAML", "zero-shot", "ANIL"]
    found = contest_finding(study)
    assert (found.question, found.title) == ("Which setting has the highest meta-test loss?", "Highest loss: MAML")
    assert found.answer.replace("\u00a0", " ").startswith(
        "Highest meta-test loss: MAML, 3.50 nats; 2.00 above ANIL (95 % interval of the difference [2.00, 2.00], p "
    )
    stood = standing(study)
    assert [text.split(" (")[0] + " " + text.split(") ")[1] for text in stood.beaten] == [
        "ANIL is beaten by zero-shot (2.50; difference −1.00, 95\u00a0% [−1.00, −1.00]).",
    ]
    assert [text.split(") ")[1].split(" (")[0] for text in stood.others] == ["beats zero-shot"]
    lower = standing(contest_of(tmp_path / "b", tests))
    assert [text.split(" (")[0] for text in lower.beaten] == ["MAML"]
    assert [text.split(") ")[1].split(" (")[0] for text in lower.others] == ["beats zero-shot"]


def test_a_comparison_without_any_loss_has_no_answer(tmp_path: Path) -> None:
    none = study_of(tmp_path / "a", {"method": ["maml", "anil"]}, {"method": "maml", "status": "failed"})
    found = contest_finding(none)
    assert (found.answer, found.title) == ("No answer yet: no trial has finished with a loss.", "No result")
    assert contest(none).blocks == ()
    asked = study_of(tmp_path / "b", {"method": ["maml"]}, {"method": "maml"}, launched={"question": "why?"})
    assert (contest_finding(asked).question, contest_finding(asked).answer) == (
        "why?", "Lowest meta-test loss: MAML, 1.00 nats.",
    )  # fmt: skip


def test_costs_are_told_of_methods_that_spent_more_than_steps(tmp_path: Path) -> None:
    spent = {"test_loss_nats": 1.0, "steps": 5}
    one = study_of(tmp_path / "a", {"method": ["maml", "anil"]}, {"method": "maml", "RESULT": spent})
    assert costs(one).blocks == ()
    flops = {**spent, "step_flops": 2e9, "step_peak_without_weights_bytes": 3 * 2**20}
    two = study_of(
        tmp_path / "b", {"method": ["maml", "anil"]}, {"method": "maml", "RESULT": flops},
        {"method": "anil", "RESULT": {**spent, "test_loss_nats": 0.5}},
    )  # fmt: skip
    assert told(costs(two).tables[0]) == [
        "method | #loss (nats) | #outer steps | #GFLOP an outer step | #without frozen weights",
        "ANIL | 0.500 {0.5} | 5 {5} | – | –",
        "MAML | 1.00 {1} | 5 {5} | 2.00 {2e+09} | 3.00 {3.146e+06}",
    ]
    alone = study_of(tmp_path / "c", {"method": ["maml", None]}, {"method": "maml", "RESULT": flops})
    assert costs(alone).blocks == ()


# ------------------------------------------------------------------------------------------- laws, scales, checks


def test_why_there_is_no_law_in_every_case(tmp_path: Path) -> None:
    def reason(name: str, *runs: dict[str, Any], axis: str = "n_tasks") -> str:
        return missing_law_reason(study_of(tmp_path / name, {axis: [0, 1]}, *runs))

    assert reason("none") == "the study has no trials."
    failed = [{"n_tasks": n, "status": "failed"} for n in (0, 1)]
    assert reason("failed", *failed) == "none of the 2 meta-learnt trials has finished with a loss."
    assert reason("zero", {"n_tasks": 0}, {"n_tasks": 1}) == (
        "no law was fitted (law.json is absent): training tasks N is not positive in every trial, and a law is fitted "
        "to logarithms."
    )


def test_what_a_study_lacks_is_said_by_number(tmp_path: Path) -> None:
    """A run without its scale is not drawn; a law without the check of its largest scale lacks that alone."""
    runs = [{"n_tasks": 10}, {"n_tasks": None, "seed": 1}, {"n_tasks": None, "seed": 2}]
    study = study_of(tmp_path / "a", {"n_tasks": [10, 40]}, *runs)
    assert "2 finished trials have no value of training tasks N and are not drawn." in missing_data(study)
    single = study_of(tmp_path / "b", {"n_tasks": [10, 40]}, {"n_tasks": 10}, {"n_tasks": 40})
    assert "No error bar across seeds at N = 10, 40: one finished seed there." in missing_data(single)
    hidden = HiddenScale(40.0, "power", 1.0, 1.0, 0.9, 1.1, 0.0, {})
    lawful = replace(single, laws={"": replace(POWER, extrapolation=hidden)})
    assert not any("extrapolation" in text or "law" in text.split()[:2] for text in missing_data(lawful))
    one = study_of(tmp_path / "c", {"n_tasks": [10, 40]}, {"n_tasks": 10})
    assert trials(one).sentences == ("1 trial: 1 finished.",)
    assert trials(study_of(tmp_path / "d", {"n_tasks": [10, 40]})).blocks == ("The study has no trials.",)


def test_guessing_is_a_level_where_the_number_of_classes_is_one(tmp_path: Path) -> None:
    right = {"n_tasks": 10, "RESULT": {"test_loss_nats": 1.0, "test_accuracy": 0.5}}

    def chance(name: str, axes_: dict[str, list[Any]], base: dict[str, Any]) -> list[float]:
        found = accuracy_data(study_of(tmp_path / name, axes_, right, base=base))
        return [level.value for level in found.levels if level.method == "chance"]

    assert chance("a", {"n_tasks": [10, 40]}, {"task": {"n_way": 4}}) == [0.25]
    assert chance("b", {"n_tasks": [10, 40], "n_way": [4, 5]}, {"n_way": 4}) == []
    assert chance("c", {"n_tasks": [10, 40]}, {"n_way": 4, "test": {"n_way": 5}}) == []
    assert chance("d", {"n_tasks": [10, 40]}, {}) == []


def test_parameters_of_forms_together_are_those_of_the_first() -> None:
    one = replace(POWER, law="auto", level=0.8, parameters={"A": Interval(2.0, 1.0, 3.0)}, objective=0.5)
    found = parameters_table("MAML", replace(one, families={"power": None, "none": None}))  # type: ignore[dict-item]
    assert found.caption == (
        "MAML. Parameters of 'power', the first of the 2 forms that predict together. objective 0.500"
    )
    assert told(found) == ["parameter | #estimate | #80 % low | #high", "A [A] | 2.00 {2} | 1.00 {1} | 3.00 {3}"]


def test_no_points_are_irregular_where_one_law_stands_for_several_series(tmp_path: Path) -> None:
    runs = [{"n_tasks": n, "method": name} for n in (1, 2) for name in ("maml", "anil")]
    study = study_of(tmp_path, {"n_tasks": [1, 2], "method": ["maml", "anil"]}, *runs)
    found = irregular_data(replace(study, laws={"": POWER}))
    assert (found.rows, found.n_points, found.level, found.x_name) == ((), 0, 0.95, "n_tasks")


def test_edges_of_a_point_are_those_of_the_search_of_its_place() -> None:
    """Where the ranges are not known; 2 and 2.0 are one place, and axes that a point has not do not count."""
    point = Point("s", "p", {"width": 2, "norm": "layer"}, 1.0, (1.0,), (run_row(),))

    def searched(edges: dict[str, Any], **place: Any) -> SearchResult:
        return SearchResult(place, {"lr": 1.0}, 1.0, (), edges)

    here, elsewhere = {"lr": "high"}, {"lr": "low"}
    assert edges_at(point, TuningTable((searched(elsewhere, width=4), searched(here, width=2.0, other=3)))) == here
    assert edges_at(point, TuningTable((searched(elsewhere, norm="none"), searched(here, norm="layer")))) == here
    assert edges_at(point, TuningTable((searched(elsewhere, width="two"),))) == {}


def test_the_excess_of_a_trial_needs_positive_losses() -> None:
    point = SearchResult({}, {"lr": 1.0}, 0.5, (), {})
    assert [excess(point, Tried({}, loss, "finished")) for loss in (1.0, 0.5, 0.0, None)] == [
        pytest.approx(math.log(2)), 0.0, None, None,
    ]  # fmt: skip
    assert excess(replace(point, loss=0.0), Tried({}, 1.0, "finished")) is None


def test_files_that_are_not_what_was_written_are_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"n_tasks": [10, 40]}, {"n_tasks": 10})
    write_json(tmp_path / "tuning.json", [{"point": {}}])
    with pytest.raises(
        CorruptFile, match=r"tuning\.json is not a list of searched points with values, loss, tried and"
    ):
        tuning_data(study)
    (tmp_path / "provenance.jsonl").write_text(json.dumps({"sources": [{"module": "m"}]}) + "\n")
    with pytest.raises(
        CorruptFile, match=r"provenance\.jsonl, or a run's provenance\.json, is not what was written: KeyError"
    ):
        gather(study)


def test_floors_far_from_all_models_are_named_at_their_end() -> None:
    """Of perplexities 100 to 200, 400 is twice the highest and 50 half of the lowest; what is nearer is a line."""
    means = {"n_params_total": 1000.0, "test_perplexity": 200.0, "n_seeds": 1.0, "d_model": 4.0, "n_layers": 1.0}
    large = {**means, "n_params_total": 4000.0, "test_perplexity": 100.0}
    sizes = (Size("transformer", 4, 1, means), Size("transformer", 8, 1, large))

    def labels(**floors: float) -> list[str]:
        found = SizeTable(sizes, (), {"floors": floors, "perplexity_laws": []})
        with style.styled():
            ax = plot_perplexity(found, axes())
        texts = [text.split(": ", 1)[1] for text in words(ax)]
        return [text for text in texts if "gram" in text] + [f"{len(ax.lines) - 2} lines"]

    assert labels(unigram_test=400.0, bigram_test=50.0) == [
        "unigram 400 / lies above",
        "bigram 50 / lies below",
        "0 lines",
    ]
    assert labels(unigram_test=399.0, bigram_test=51.0) == ["unigram 399", "bigram 51", "2 lines"]


# ------------------------------------------------------------------------------------------- inside runs


def diagnosis(series: str, x: float, verdict: Any) -> Diagnosis:
    point = Point(series, f"{series} {x:g}", {}, x, (1.0,), (run_row(),))
    return Diagnosis(point, (), 0.5, 1.0, 0.0, verdict, {})


def test_typical_configurations_are_the_ends_and_the_middle() -> None:
    def shown(*rows: tuple[str, float]) -> list[str]:
        table_ = DiagnosisTable(tuple(diagnosis(series, x, "in balance") for series, x in rows), "step")
        return [row.point.name for row in typical(table_)]

    assert shown(*(("a", x) for x in (5, 1, 4, 2, 3))) == ["a 1", "a 3", "a 5"]
    assert shown(("a", 1), ("a", 2)) == ["a 1", "a 2"]
    assert shown(("a", 1)) == ["a 1"]
    pairs = [(series, x) for series in "abc" for x in (3, 1, 2)]
    assert shown(*pairs) == ["a 1", "a 3", "b 1", "b 3"], "four pictures at most"


@pytest.mark.parametrize(
    ("verdicts", "counted"),
    [
        (("underfits", "overfits"), "1 underfits, 1 overfits"),
        (("overfits", "overfits", "in balance"), "2 overfit, 1 is in balance"),
        (("in balance",) * 2, "2 are in balance"),
        (("not converged",) * 2, "2 had not converged"),
        (("not converged",), "1 had not converged"),
    ],
)
def test_verdicts_are_counted_in_words(verdicts: tuple[Any, ...], counted: str) -> None:
    rows = tuple(diagnosis("s", 1.0 + place, verdict) for place, verdict in enumerate(verdicts))
    assert diagnosis_sentence(DiagnosisTable(rows, "step")).startswith(f"Of {len(rows)} configurations {counted}. ")


def test_verdicts_at_their_thresholds() -> None:
    """A gap of exactly half is not over it, one of exactly a fifth not under it, and 1.2 times the lowest not over."""
    assert [verdict_of(train, 4.0, 2.0, False) for train in (2.0, 1.9)] == ["in balance", "overfits"]
    assert [verdict_of(train, 5.0, 2.0, False) for train in (4.0, 4.1)] == ["in balance", "underfits"]
    assert (verdict_of(0.9, 1.2, 1.0, False), verdict_of(0.9, 1.0, 0.9, False)) == ("in balance", "in balance")
    assert (verdict_of(1.2, 1.25, 1.0, False), verdict_of(0.1, 1.0, 1.0, True)) == ("underfits", "not converged")
    assert verdict_of(0.0, 0.0, 0.0, False) == "in balance"
    assert advice("overfits") == "most of the validation loss is absent in training: more data, dropout or weight decay"
    assert advice("in balance") == "regularisation looks about right"


def test_a_diagnosis_runs_along_epochs_where_they_are_known(tmp_path: Path) -> None:
    """The kept step is the one that was tested, else the lowest validation loss; rows without both losses do not
    count, and after a loss of 0 the rise is a difference."""
    builder = StudyBuilder(tmp_path, {"n": [1, 2, 3]}, base={"method": None})
    curves = {
        1: [(0, 1, 4.0, 4.0), (5, 2, 1.0, 2.0), (10, 3, 0.5, 3.0), (15, 4, None, 1.0), (20, 5, -1.0, 1.0)],
        2: [(0, 1, 2.0, 2.0), (5, 2, 0.0, 0.0), (10, 3, 0.5, 0.5)],
        3: [],
    }
    for n, rows in curves.items():
        result = {"test_loss_nats": 1.0, "steps": 30, "best_step": 10 if n == 1 else 7}
        run = builder.run(f"{n}", {"n": n}, result=result)
        names = ("step", "epoch", "train_loss_nats", "validation_loss_nats")
        write_csv(run / "eval_stats.csv", [dict(zip(names, row, strict=True)) for row in rows] or [{"step": 1}])
    found = diagnosis_data(open_study(builder.write()))
    assert found.x_label == "epoch"
    first, second = found.rows
    assert first.curves == (RunCurve(0, (1.0, 2.0, 3.0), (4.0, 1.0, 0.5), (4.0, 2.0, 3.0), 2),)
    assert (first.train, first.validation, first.rise, first.gap) == (0.5, 3.0, 0.0, pytest.approx(2.5 / 3))
    assert (second.curves[0].kept, second.rise, second.gap) == (1, 0.5, 0.0)
    assert RunCurve(0, (1.0, 2.0), (1.0, 1.0), (2.0, 2.0 * math.e), 0).rise == pytest.approx(1.0)
    empty = plot_diagnosis(replace(first, curves=()), axes(), x_label="step")
    assert [text.get_text() for text in empty.texts] == ["No learning curve on disk"]


def test_convergence_in_words() -> None:
    run = run_row(best_step=5, steps=5)
    early = run_row(best_step=3, steps=5)
    none = Convergence((), (), (), 4, False)
    assert convergence_sentences(replace(none, n_known=0)) == ()
    assert convergence_sentences(none) == ("All 4 finished runs had their lowest validation loss before the end.",)
    assert convergence_sentences(replace(none, patient=True)) == ("All 4 finished runs ended by patience.",)
    assert [text.split(" the ")[0] for text in convergence_sentences(replace(none, improving=(run,) * 4))] == [
        "All 4 finished runs had",
    ]
    assert convergence_sentences(replace(none, by_budget=(early,))) == (
        "1 of 4 finished runs was ended by the most steps allowed, not by patience, some time after the lowest "
        "validation loss.",
    )
    assert convergence_sentences(replace(none, by_budget=(early,) * 2))[0].startswith("2 of 4 finished runs were ended")
    (one,) = convergence_sentences(replace(none, scheduled=(run,)))
    assert "where the schedule of its rate ends; 1 of them had" in one
    (two,) = convergence_sentences(replace(none, scheduled=(run, early)))
    assert two.startswith(
        "2 of 4 finished runs ended at the most steps allowed, where the schedule of their rate ends; 1 of"
    )
    assert convergence_sentences(replace(none, untrained=(run,) * 3)) == (
        "3 of 4 finished runs kept the state before training: no later one had a lower validation loss.",
    )


def test_runs_count_as_known_with_their_steps_and_as_patient_by_their_budget(tmp_path: Path) -> None:
    def run(n: int, **result: Any) -> dict[str, Any]:
        return {"n_tasks": n, "RESULT": {"test_loss_nats": 1.0, **result}}

    runs = [run(1, steps=9, best_step=9), run(2, steps=0, best_step=0), run(3, steps=9), run(4, steps=9, best_step=0,
            kept_step=0, training="max_steps")]  # fmt: skip
    axes_ = {"n_tasks": [1, 2, 3, 4]}
    plainly = convergence_data(study_of(tmp_path / "a", axes_, *runs))
    assert (plainly.n_known, len(plainly.improving), plainly.by_budget, plainly.patient) == (2, 1, (), False)
    assert [kept.number("n_tasks") for kept in plainly.untrained] == [4]
    patient = study_of(tmp_path / "b", axes_, *runs, base={"budget": "converged"})
    found = convergence_data(patient)
    assert ([kept.number("n_tasks") for kept in found.by_budget], found.patient) == ([4], True)
    assert unconverged(patient) == (
        "1 of 2 runs ended at the step cap with validation still falling, 1 of 2 runs ended at the step cap before "
        "patience ran out: the losses also measure the budget.",
        "1 of 2 runs kept the state before training, which no later one beat.",
    )
    assert coverage_sentences(replace(patient, laws={"": POWER})) == ()


def test_curves_without_a_number_are_none_and_the_ends_are_kept(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"n_tasks": [1, 2, 3]}, base={"method": "maml"})
    for n in (1, 2, 3):
        run = builder.run(f"{n}", {"n_tasks": n}, kind="meta", result={"test_loss_nats": 1.0, "kept_step": 4})
        write_csv(run / "train_stats.csv", [{"step": 1, "train_query_loss_mse": 2.0, "query_loss_nats": 1.0}])
        write_csv(run / "eval_stats.csv", [{"step": 1, "validation_loss_nats": None if n == 2 else 2.0}])
        write_csv(run / "adaptation.csv", [{"inner_steps": 2, "loss_nats": n, "accuracy": 0.5, "accuracy_sem": 0.1}])
    study = open_study(builder.write())
    train, validation = (learning_curves_data(study, which) for which in ("train", "validation"))
    assert (train.y_label, train.steps_a_point, train.curves[0].values) == ("meta-train query loss (MSE)", 1, (2.0,))
    assert [(curve.x, curve.kept_step) for curve in validation.curves] == [(1.0, 4.0), (3.0, 4.0)]
    with pytest.raises(
        InputError, match=r"^learning curves are kept for validation and train; there are none for 'x'$"
    ):
        learning_curves_data(study, "x")
    right = adaptation_data(study, "accuracy")
    assert (right.y_label, right.curves[0].values, right.curves[0].task_sem) == ("meta-test accuracy", (0.5,), (0.1,))
    assert [curve.x for curve in extremes(right).curves] == [1.0, 3.0]


def test_notes_of_a_contest_are_small_print(tmp_path: Path) -> None:
    study = contest_of(tmp_path, {"maml": [TASKS[:1]], "anil": [TASKS[:1]]})
    section = contest(study)
    assert section.title == "Side by side, on the same tests"
    assert section.blocks[-1] == Note("ANIL and MAML are not compared: a paired test needs at least 2 tasks.")
    assert [type(block) for block in section.blocks] == [Picture, PageTable, Note]
    assert section.pictures[0].caption == "Dots: single seeds."
    assert law_finding(study).title == "No law was fitted"


# ------------------------------------------------------------------------------------------- small print


def test_what_was_chosen_at_an_end_is_said_of_series_and_baselines_by_name(tmp_path: Path) -> None:
    chosen = {"test_loss_nats": 1.0, "test_choice": "validation", "test_choice_edge": "largest lr"}
    runs = [
        {"n_tasks": 1, "width": 8, "RESULT": chosen},
        {"n_tasks": 1, "width": 9, "RESULT": {**chosen, "test_choice_edge": None}},
        {"n_tasks": 2, "width": 9, "RESULT": {**chosen, "test_choice": "fixed"}},
        {"method": "fine_tuning", "kind": "baseline", "RESULT": chosen},
        {"n_tasks": 2, "width": 8, "RESULT": {**chosen, "test_choice_edge": "largest lr, smallest steps"}},
    ]
    study = study_of(tmp_path, {"n_tasks": [1, 2], "width": [8, 9]}, *runs, base={"method": "maml"})
    ending = "on offer in {}; values beyond it might do better."
    assert at_an_edge(study) == (
        f"MAML, width 8: meta-validation chose the largest lr {ending.format('2 of 2 runs')}",
        f"MAML, width 8: meta-validation chose the smallest steps {ending.format('1 of 2 runs')}",
        f"fine-tuning: meta-validation chose the largest lr {ending.format('1 of 1 run')}",
    )


def test_settings_of_a_baseline_are_what_is_no_number_of_its_run(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"n_tasks": [1, 2]}, {"n_tasks": 1})
    names = "kind method id label status message note notes n_tasks seed seeds steps best_step training"
    entry = {**dict.fromkeys(names.split(), 1), "test_loss_nats": 2.0, "test_anything": 3, "lr": 0.5, "idle": None}
    found = contest_data(replace(study, baselines={"zero_shot": entry}))
    (row,) = (row for row in found.rows if not row.series)
    assert (row.name, row.settings, row.kind) == ("zero-shot", {"lr": 0.5}, "1")
    ax = plot_baselines(found, axes())
    assert [text.get_text() for text in ax.texts] == ["1.00", "2.00"]
    assert ax.get_title(loc="left").replace("\u00a0", " ") == "Lowest meta-test loss: meta-learnt, N = 1, 1.00 nats"


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        ({"cores": 8}, "unknown processor"),
        ({"processor": "Zen", "cores_usable": 2}, "Zen, 2 cores"),
        ({"processor": "Zen", "memory_bytes": 3 * 2**29}, "Zen, 2 GiB"),
        ({"processor": "Zen", "gpus": ["A", "B"]}, "Zen, A, B"),
    ],
)
def test_a_machine_in_words(hardware: dict[str, Any], words: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, {"n_tasks": [1, 2]}, {"n_tasks": 1})
    start = {
        "hardware": hardware,
        "threads": {"OMP_NUM_THREADS": 2, "MKL_NUM_THREADS": 1},
        "command": "c",
        "device": "cpu",
    }
    (tmp_path / "provenance.jsonl").write_text(json.dumps({"command": "old"}) + "\n" + json.dumps(start) + "\n")
    found = gather(study)
    assert (found.hardware, found.commands, found.devices) == ((words,), ("c",), ())
    pairs = dict(provenance_pairs(study, found))
    assert pairs["threads"] == "MKL_NUM_THREADS=1 OMP_NUM_THREADS=2"
    assert (pairs["data"], pairs["versions"], pairs["seeds"], pairs["axes"]) == (
        "not recorded",
        "not recorded",
        "0",
        "n_tasks: 1, 2",
    )


def test_the_first_scale_is_the_axis_even_where_it_is_no_column(tmp_path: Path) -> None:
    roles = Roles(("tokens", "width"), ("method",), loss="test_loss_nats")
    study = study_of(tmp_path, {"width": [8, 9], "method": ["maml"]}, {"width": 8}, roles=roles)
    assert (study.x_name, study.scaled) == ("tokens", False)
