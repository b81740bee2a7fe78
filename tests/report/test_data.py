from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.report.section import Note
from metascale.report.sections.contest import at_an_edge, contest, contest_data
from metascale.report.sections.costs import costs
from metascale.report.sections.curves import adaptation_data, extremes, learning_curves_data
from metascale.report.sections.diagnosis import convergence
from metascale.report.sections.law import families, law_data, law_finding
from metascale.report.sections.overview import fixed_data, missing_data, trials
from metascale.report.sections.scales import accuracy_data
from metascale.report.sections.standing import contest_finding, standing
from metascale.report.study import open_study
from metascale.report.write import finding_of
from tests.report.study_fixture import (
    BASELINES,
    N_TEST_TASKS,
    SCALES,
    SEEDS,
    STEPS,
    StudyBuilder,
    make_study,
    write_csv,
)

Row = tuple[float | None, int, float | None, float, str]


def small_study(folder: Path, rows: list[Row], axes: dict[str, list[int]] | None = None) -> Path:
    """A study of hand-written runs of MAML, (n_tasks, seed, loss, standard error, status): no law, no records."""
    scales = sorted({int(row[0]) for row in rows if row[0] is not None})
    builder = StudyBuilder(folder, axes or {"n_tasks": scales}, base={"kind": "meta", "method": "maml"})
    for n, seed, loss, sem, status in rows:
        result = {} if loss is None else {"test_loss_nats": loss, "test_loss_sem_nats": sem}
        builder.run(f"n{n}-{seed}", {"n_tasks": n}, seed, kind="meta", status=status, result=result)
    return builder.write()


def run_row(n: float, seed: int, loss: float | None, sem: float = 0.5, status: str = "finished") -> Row:
    return (n, seed, loss, sem, status)


def test_means_and_errors_across_seeds_by_hand(tmp_path: Path) -> None:
    rows = [run_row(10, 0, 1.0, 0.1), run_row(10, 1, 2.0, 0.3), run_row(40, 0, 0.5, 0.2)]
    scales = law_data(small_study(tmp_path, rows)).scales
    ten, forty = scales.means
    assert (ten.x, ten.n_seeds, ten.mean) == (10, 2, 1.5)
    # Standard deviation of {1, 2} is √½; over √2 seeds it is ½. The errors across tasks average to 0.2 and stay apart.
    assert ten.seed_sem == pytest.approx(0.5)
    assert ten.task_sem == pytest.approx(0.2)
    assert (forty.mean, forty.seed_sem, forty.task_sem) == (0.5, None, 0.2)
    assert [(point.x, point.seed, point.value) for point in scales.points] == [(10, 0, 1.0), (10, 1, 2.0), (40, 0, 0.5)]


def test_only_finished_trials_with_a_loss_are_points(tmp_path: Path) -> None:
    rows = [run_row(10, 0, 1.0), run_row(10, 1, 9.0, status="diverged"), run_row(10, 2, 9.0, status="failed")]
    rows += [run_row(10, 3, None, status="running"), run_row(10, 4, None)]
    assert [point.value for point in law_data(small_study(tmp_path, rows)).scales.points] == [1.0]


def test_every_fixture_point_is_a_row(study_folder: Path) -> None:
    table = law_data(study_folder)
    assert len(table.scales.points) == len(SCALES) * len(SEEDS)
    assert [mean.x for mean in table.scales.means] == list(SCALES)
    assert table.scales.series == ("Reptile",)
    assert table.scales.y_label == "meta-test loss (nats)"
    levels = {level.method: (level.kind, round(level.value, 9)) for level in table.scales.levels}
    assert levels == {method: (kind, loss) for method, (kind, loss, _) in BASELINES.items()}


def test_curve_and_held_out_are_those_of_the_law(study_folder: Path) -> None:
    law = json.loads((study_folder / "law.json").read_text())
    table = law_data(study_folder)
    (fit,) = table.laws.values()
    assert fit.curve is not None
    assert fit.extrapolation is not None
    for name in ("x", "median", "low", "high"):
        assert list(getattr(fit.curve, name)) == law["curve"][name]
    held_out = law["extrapolation"]
    assert (fit.extrapolation.x, fit.extrapolation.predicted, fit.extrapolation.low) == (
        held_out["held_out_x"], held_out["predicted"], held_out["low"],
    )  # fmt: skip
    assert fit.extrapolation.baselines == held_out["baselines"]


def test_accuracy_has_chance_where_n_way_is_fixed(study_folder: Path) -> None:
    table = accuracy_data(study_folder)
    chance = [level.value for level in table.levels if level.method == "chance"]
    assert chance == [0.2]
    assert len(table.points) == len(SCALES) * len(SEEDS)


def test_a_further_axis_makes_series(tmp_path: Path) -> None:
    axes = {"n_tasks": [5, 10, 20], "model.width": [8, 16]}
    builder = StudyBuilder(tmp_path, axes, base={"kind": "meta", "method": "maml"})
    for n in (5, 10, 20):
        for width in (8, 16):
            sets = {"n_tasks": n, "model.width": width}
            builder.run(f"n{n}-{width}", sets, kind="meta", result={"test_loss_nats": 1.0 / n})
    assert law_data(builder.write()).scales.series == ("MAML, width 8", "MAML, width 16")


@pytest.mark.parametrize(
    ("name", "label", "many"),
    [("width", "width", "width"), ("n_train_classes", "training classes", "the number of training classes")],
)
def test_another_axis_names_itself(tmp_path: Path, name: str, label: str, many: str) -> None:
    folder = make_study(tmp_path, scales=(16, 32, 64, 128), x_name=name)
    assert law_data(folder).scales.x_name == name
    (folder / "law.json").unlink()
    assert law_data(folder).scales.x_label == label
    assert law_finding(open_study(folder)).question == f"Does meta-test loss follow a power law in {many}?"


def test_learning_curves_hold_every_run_and_its_kept_step(study_folder: Path) -> None:
    table = learning_curves_data(study_folder)
    finished = [curve for curve in table.curves if curve.finished]
    assert len(finished) == len(SCALES) * len(SEEDS)
    assert all(curve.kept_step in curve.steps for curve in finished)
    (diverged,) = [curve for curve in table.curves if not curve.finished]
    assert diverged.values == (1.62, 1.745, 1.87)


def test_training_curves_are_block_means(study_folder: Path) -> None:
    table = learning_curves_data(study_folder, "train")
    assert table.steps_a_point == 10
    curve = table.curves[0]
    rows = next((study_folder / "runs").glob("n_tasks=2-seed=0-*/train_stats.csv")).read_text().splitlines()[1:]
    first = [float(row.split(",")[2]) for row in rows[:10]]
    assert curve.steps[:2] == (10, 20)
    assert curve.values[0] == pytest.approx(statistics.fmean(first))
    with pytest.raises(InputError, match="validation"):
        learning_curves_data(study_folder, "test")


def test_adaptation_averages_seeds_and_keeps_them(study_folder: Path) -> None:
    table = adaptation_data(study_folder)
    assert [curve.x for curve in table.curves] == [*SCALES, None]
    curve = table.curves[0]
    assert curve.inner_steps == STEPS
    assert len(curve.seeds) == len(SEEDS)
    for place in range(len(STEPS)):
        assert curve.values[place] == pytest.approx(statistics.fmean(seed[place] for seed in curve.seeds))
        assert curve.task_sem[place] == pytest.approx(0.03 * curve.values[place])
    assert [curve.x for curve in extremes(table).curves] == [SCALES[0], SCALES[-1], None]
    assert adaptation_data(study_folder, "accuracy").y_label == "meta-test accuracy"


def test_baselines_stand_beside_the_smallest_and_largest_scale(study_folder: Path) -> None:
    rows = {row.name: row for row in contest_data(study_folder).shown}
    assert set(rows) == {
        "Reptile, N\u00a0=\u00a02", "Reptile, N\u00a0=\u00a0200",
        "fine-tuning", "prototypes", "linear probe", "zero-shot", "class prior",
    }  # fmt: skip
    assert dict(rows["fine-tuning"].settings) == {"inner_lr": 0.1, "inner_steps": 10}
    largest = rows["Reptile, N\u00a0=\u00a0200"]
    assert len(largest.seed_values) == len(SEEDS)
    assert largest.loss == pytest.approx(statistics.fmean(largest.seed_values))


def test_comparisons_pair_by_task_and_correct_for_their_number(study_folder: Path) -> None:
    table = contest_data(study_folder)
    assert len(table.comparisons) == len(BASELINES) + 1
    assert not table.notes
    means = {row.name: row.loss for row in contest_data(study_folder).shown}
    for row in table.comparisons:
        assert row.test.n_tasks == N_TEST_TASKS
        assert row.test.difference.estimate == pytest.approx(means[row.first] - means[row.second])
        assert row.p_holm >= row.test.p_value
    # Difficulty is shared by all methods: pairing removes most of it.
    first = table.comparisons[0].test.difference
    assert first.high - first.low < 0.06


def test_series_meet_at_every_scale_of_both_and_the_best_scale_is_shown(tmp_path: Path) -> None:
    losses = {("melora", 1): 1.2, ("melora", 3): 1.1, ("melora", 10): 1.3, ("fomaml", 1): 1.5, ("fomaml", 3): 1.0}
    losses |= {("fomaml", 5): 1.25, ("fomaml", 10): 1.05}
    builder = StudyBuilder(tmp_path, {"method": ["melora", "fomaml"], "n_tasks": [1, 3, 5, 10]})
    for (method, n), loss in losses.items():
        sets = {"method": method, "n_tasks": n}
        run = builder.run(f"{method}{n}", sets, kind="meta", result={"test_loss_nats": loss})
        tasks = [{"task_id": f"t{i}", "loss_nats": loss + 0.1 * (i - 1) * (1 + n / 100)} for i in range(3)]
        write_csv(run / "test_tasks.csv", tasks)
    found = contest_data(builder.write())
    pairs = [(row.first, row.second) for row in found.comparisons]
    exact, first_order = ("MELoRA, exact, N\u00a0=\u00a0{}", "first-order MAML, N\u00a0=\u00a0{}")
    assert pairs == [
        (exact.format(10), exact.format(1)),
        (first_order.format(10), first_order.format(1)),
        *((first_order.format(n), exact.format(n)) for n in (1, 3, 10)),
    ]
    differences = [row.test.difference.estimate for row in found.comparisons]
    assert differences == pytest.approx([0.1, -0.45, 0.3, -0.1, -0.25])
    assert not found.notes
    shown = [row.name for row in found.shown]
    last = first_order.format(1)
    assert shown == [first_order.format(3), first_order.format(10), *(exact.format(n) for n in (3, 1, 10)), last]


def test_methods_without_a_scale_meet_the_exact_one_and_every_baseline(tmp_path: Path) -> None:
    """One Holm family: the approximations against the exact meta-gradient, wherever it stands, and all baselines."""
    builder = StudyBuilder(tmp_path, {"method": ["reptile", "fomaml", "melora"]})
    kinds = {"reptile": "meta", "fomaml": "meta", "melora": "meta", "fine_tuning": "baseline", "class_prior": "control"}
    for place, (method, kind) in enumerate(kinds.items()):
        spent = {"steps": 10 + place, "step_flops": 2e9 * (1 + place)} if kind == "meta" else {"steps": 0}
        run = builder.run(method, {"method": method}, kind=kind, result={"test_loss_nats": 1.0 + place / 10, **spent})
        tasks = [{"task_id": f"t{i}", "loss_nats": 1.0 + place / 10 + 0.01 * i * (place + 1)} for i in range(6)]
        write_csv(run / "test_tasks.csv", tasks)
    study = open_study(builder.write())
    found = contest_data(study)
    methods = ["Reptile", "first-order MAML", "MELoRA, exact"]
    assert [(row.first, row.second) for row in found.comparisons] == [
        *((method, other) for method in methods for other in ("fine-tuning", "class prior")),
        ("Reptile", "MELoRA, exact"),
        ("first-order MAML", "MELoRA, exact"),
    ]
    assert {row.p_holm / row.test.p_value for row in found.comparisons} == {8}, "equal p-values, one family of 8"
    assert "0.250 below MELoRA, exact" in contest_finding(study).answer
    (table,) = costs(study).tables
    assert [column.title for column in table.columns] == [
        "method", "loss (nats)", "outer steps", "GFLOP an outer step",
    ]  # fmt: skip
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["Reptile", "1.00", "10", "2.00"],
        ["first-order MAML", "1.10", "11", "4.00"],
        ["MELoRA, exact", "1.20", "12", "6.00"],
    ]


def test_a_baseline_that_beats_the_largest_scale_is_said_first(tmp_path: Path) -> None:
    """Differences of the learner at N = 8 (1.0 on average) by hand: -0.5 (never above), +0.2 on every task, and 0.1 on
    average but between -0.9 and 0.9, whose interval holds 0; the last baseline has other tasks and only means."""
    builder = StudyBuilder(tmp_path, {"method": ["maml"], "n_tasks": [2, 8]})
    learner = [0.5, 1.0, 1.5, 1.0]
    others = {
        "zero_shot": [1.0, 1.5, 2.0, 1.5],
        "fine_tuning": [0.3, 0.8, 1.3, 0.8],
        "prototypes": [1.4, 0.1, 0.6, 1.5],
        "linear_probe": [0.9, 0.9, 0.9, 0.9],
        "class_prior": [0.1, 0.1, 0.1, 0.1],
    }
    for n, shift in ((2, 0.0), (8, 0.0)):
        losses = [value + shift for value in learner]
        result = {"test_loss_nats": sum(losses) / 4}
        run = builder.run(f"n={n}", {"method": "maml", "n_tasks": n}, kind="meta", result=result)
        write_csv(run / "test_tasks.csv", [{"task_id": f"t{i}", "loss_nats": loss} for i, loss in enumerate(losses)])
    for method, losses in others.items():
        kind, name = ("control", "t") if method == "class_prior" else ("baseline", "t")
        name = "other" if method == "linear_probe" else name
        result = {"test_loss_nats": sum(losses) / 4}
        run = builder.run(method, {"method": method, "n_tasks": None}, kind=kind, result=result)
        rows = [{"task_id": f"{name}{i}", "loss_nats": loss} for i, loss in enumerate(losses)]
        write_csv(run / "test_tasks.csv", rows)
    study = open_study(builder.write())
    (sentence,), others = standing(study).beaten, standing(study).others
    assert not others
    assert sentence == (
        "MAML, N\u00a0=\u00a08 (meta-test loss 1.00 nats) is beaten by fine-tuning (0.800; difference 0.200, "
        "95\u00a0% [0.200, 0.200]), linear probe (0.900; not paired by task)."
    )
    finding = finding_of(study)
    assert finding.answer.startswith(sentence)
    assert finding.cautions == (sentence,)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ([0.9, 1.4, 1.9, 1.4], "beats fine-tuning (1.40; difference −0.400, 95\u00a0% [−0.400, −0.400])."),
        ([0.1, 1.9, 0.9, 1.9], "cannot be told apart from fine-tuning (1.20; difference −0.200, 95\u00a0% ["),
    ],
)
def test_how_the_largest_scale_stands_beside_the_best_baseline(
    tmp_path: Path, baseline: list[float], words: str
) -> None:
    """The learner has 1.0 on average; by hand -0.4 on every task, and -0.2 on average between -0.9 and 0.6."""
    builder = StudyBuilder(tmp_path, {"method": ["maml"], "n_tasks": [2, 8]})
    trials = {("maml", 2): [0.5, 1.0, 1.5, 1.0], ("maml", 8): [0.5, 1.0, 1.5, 1.0]}
    trials |= {("fine_tuning", None): baseline, ("prototypes", None): [3.0, 3.0, 3.0, 3.0]}
    for (method, n), losses in trials.items():
        kind, result = "meta" if n else "baseline", {"test_loss_nats": sum(losses) / 4}
        run = builder.run(f"{method}{n}", {"method": method, "n_tasks": n}, kind=kind, result=result)
        write_csv(run / "test_tasks.csv", [{"task_id": f"t{i}", "loss_nats": loss} for i, loss in enumerate(losses)])
    study = open_study(builder.write())
    (sentence,), beaten = standing(study).others, standing(study).beaten
    assert not beaten
    assert sentence.startswith(f"MAML, N\u00a0=\u00a08 (meta-test loss 1.00 nats) {words}")
    finding = finding_of(study)
    assert sentence in finding.answer
    assert not finding.cautions


def test_the_largest_value_on_offer_is_flagged(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"n_tasks": [2, 8]}, base={"method": "maml"}, seeds=(0, 1))
    edges = {(2, 0): "largest inner_steps", (8, 0): "smallest inner_lr, largest inner_steps"}
    for n, seed in ((2, 0), (2, 1), (8, 0), (8, 1)):
        edge = edges.get((n, seed))
        chosen = {"test_inner_steps": 100 if edge else 20, "test_inner_lr": 0.1, "test_choice": "validation"}
        result = {"test_loss_nats": 1.0 / n, **chosen, "test_choice_edge": edge}
        builder.run(f"{n}-{seed}", {"n_tasks": n}, seed, kind="meta", result=result)
    study = open_study(builder.write())
    better = "values beyond it might do better."
    assert at_an_edge(study) == (
        f"MAML: meta-validation chose the largest inner_steps on offer in 2 of 4 runs; {better}",
        f"MAML: meta-validation chose the smallest inner_lr on offer in 1 of 4 runs; {better}",
    )
    section = contest(study)
    assert [block.text for block in section.blocks if isinstance(block, Note)][:2] == list(at_an_edge(study))
    (row,) = (row for row in contest_data(study).rows if row.x == 8)
    assert row.settings == {"inner_lr": 0.1, "inner_steps": "20 to 100"}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"training": "max_steps", "best_step": 20}, "4 of 4 runs ended at the step cap with validation still falling"),
        ({"training": "max_steps", "best_step": 10}, ""),
        ({"training": "converged", "best_step": 10}, ""),
        ({"training": "converged", "best_step": 10, "kept_step": 10}, ""),
        ({"training": "converged", "best_step": 0, "kept_step": 0}, "4 of 4 runs kept the state before training"),
    ],
)
def test_runs_that_had_not_converged_are_in_the_headline(tmp_path: Path, result: dict, expected: str) -> None:
    builder = StudyBuilder(tmp_path, {"n_tasks": [1, 2, 4, 8]})
    for n in (1, 2, 4, 8):
        cells = {"test_loss_nats": 1.0 / n, "steps": 20, **result}
        builder.run(f"{n}", {"n_tasks": n}, kind="meta", result=cells)
    finding = finding_of(open_study(builder.write()))
    after = ", which no later one beat." if "kept" in expected else ": the losses also measure the budget."
    cautions = (f"{expected}{after}",) if expected else ()
    assert finding.cautions == cautions
    assert finding.answer.endswith(cautions[0]) if cautions else "step cap" not in finding.answer


def test_runs_that_patience_did_not_end_are_in_the_headline(tmp_path: Path) -> None:
    """One ended by patience, two at the cap some time after their best, one at the cap at its best."""
    builder = StudyBuilder(tmp_path, {"n_tasks": [1, 2, 4, 8]})
    endings = {1: ("converged", 10), 2: ("max_steps", 10), 4: ("max_steps", 15), 8: ("max_steps", 20)}
    for n, (ending, best) in endings.items():
        result = {"test_loss_nats": 1.0 / n, "steps": 20, "training": ending, "best_step": best}
        builder.run(f"{n}", {"n_tasks": n}, kind="meta", result=result)
    assert finding_of(open_study(builder.write())).cautions == (
        "1 of 4 runs ended at the step cap with validation still falling, 2 of 4 runs ended at the step cap before "
        "patience ran out: the losses also measure the budget.",
    )


def test_runs_that_end_with_the_schedule_of_their_rate_are_said_to(tmp_path: Path) -> None:
    """As above with a rate that falls to the cap: one by patience, three at the cap, of which one is best there."""
    builder = StudyBuilder(tmp_path, {"n_tasks": [1, 2, 4, 8]}, base={"outer_schedule": "linear"})
    endings = {1: ("converged", 10), 2: ("max_steps", 10), 4: ("max_steps", 15), 8: ("max_steps", 20)}
    for n, (ending, best) in endings.items():
        result = {"test_loss_nats": 1.0 / n, "steps": 20, "training": ending, "best_step": best}
        builder.run(f"{n}", {"n_tasks": n}, kind="meta", result=result)
    study = open_study(builder.write())
    assert finding_of(study).cautions == (
        "3 of 4 runs ended at the step cap, where the schedule of their rate ends: the losses also measure the budget.",
    )
    section = convergence(study)
    assert section.blocks[0] == (
        "3 of 4 finished runs ended at the most steps allowed, where the schedule of their rate ends; 1 of them had "
        "the lowest validation loss there, as a falling rate is meant to give. A longer schedule might lower it "
        "further, so the loss also measures the budget."
    )
    (table,) = section.tables
    assert [row.cells[-1].text for row in table.rows] == ["end of the schedule"] * 3


def test_a_task_with_several_episodes_is_one_unit(own_study: Path) -> None:
    for path in (own_study / "runs").glob("*/test_tasks.csv"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, *lines[1:]]) + "\n")
    assert {row.test.n_tasks for row in contest_data(own_study).comparisons} == {N_TEST_TASKS}


def test_different_test_tasks_are_not_compared(own_study: Path) -> None:
    (path,) = (own_study / "runs").glob("method=prototypes*/test_tasks.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    table = contest_data(own_study)
    assert "prototypes" not in {row.second for row in table.comparisons}
    assert any("different tasks (60 and 59, 59 shared)" in note for note in table.notes)


def test_missing_per_task_losses_are_said(own_study: Path) -> None:
    (path,) = (own_study / "runs").glob("method=zero_shot*/test_tasks.csv")
    path.unlink()
    table = contest_data(own_study)
    assert any(note.startswith("zero-shot is not compared") for note in table.notes)


def test_trials_tell_why_they_did_not_finish(study_folder: Path) -> None:
    section = trials(open_study(study_folder))
    assert section.data["trials"] == {"finished": 26, "diverged": 1, "failed": 1}
    reasons = {row.cells[1].text: row.cells[2].text for row in section.tables[0].rows}
    assert "outer step 137" in reasons["diverged"]
    assert "fewer than 200" in reasons["failed"]


def test_a_reason_is_the_last_line_of_the_traceback_and_time_is_that_of_all_attempts(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"n_tasks": [5, 10]})
    run = builder.run("a", {"n_tasks": 5}, kind="meta", status="failed")
    (run / "error.txt").write_text("Traceback\n  ...\nRuntimeError: no room\n")
    (run / "history.jsonl").write_text(
        '{"event": "ended", "at": 1.0, "wall_s": 1.5}\n{"event": "ended", "at": 2.0, "wall_s": 2.0}\n'
    )
    reasons, every = trials(open_study(builder.write())).tables
    assert (reasons.rows[0].cells[-1].text, every.rows[0].cells[-1].text) == ("RuntimeError: no room", "3.50")


def test_families_are_ordered_by_backtest(study_folder: Path) -> None:
    (table,) = families(open_study(study_folder)).tables
    assert [row.cells[0].text for row in table.rows] == ["power (chosen)", "power irreducible", "none"]
    assert [row.mark for row in table.rows] == ["chosen", "", ""]
    assert any("α 0.160" in cell.text for cell in table.rows[0].cells)


def test_fixed_settings_put_the_budget_first_and_leave_out_the_axis(study_folder: Path) -> None:
    first, rest = fixed_data(study_folder)
    assert [key for key, _ in first][:2] == ["recipe", "budget"]
    assert "n_tasks" not in {key for key, _ in (*first, *rest)}
    assert dict(first)["class split"] == "24 train / 8 validation / 8 test"


def test_a_learner_without_a_query_loss_shows_its_support_loss(own_study: Path) -> None:
    for path in (own_study / "runs").glob("*/train_stats.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("\n".join(",".join((row[0], row[1])) for row in rows) + "\n")
    assert learning_curves_data(own_study, "train").y_label == "meta-train support loss, adapted (nats)"


def test_missing_is_empty_for_a_whole_study(tmp_path: Path) -> None:
    assert missing_data(make_study(tmp_path, scales=(5, 10, 20), failures=False)) == ()


def test_a_law_without_a_hidden_scale_lacks_its_check(tmp_path: Path) -> None:
    study = make_study(tmp_path, scales=(5, 10, 20), failures=False)
    law = json.loads((study / "law.json").read_text())
    for reason, said in (("one scale is too few", "one scale is too few"), (None, "law.json has no held-out scale")):
        changed = {**law, "extrapolation": None, "extrapolation_reason": reason}
        (study / "law.json").write_text(json.dumps(changed))
        assert missing_data(study) == (f"The extrapolation check is missing: {said}.",)


@pytest.mark.parametrize(
    ("trend", "low", "high", "direction"),
    [("falls", 0.1, 0.2, "falls"), ("rises", -0.2, -0.1, "rises"), ("none", -0.1, 0.1, "none"),
     (None, 0.1, 0.2, "falls"), (None, -0.2, -0.1, "rises"), (None, -0.1, 0.1, "none")],
)  # fmt: skip
def test_finding_follows_the_law_room(
    own_study: Path, trend: str | None, low: float, high: float, direction: str
) -> None:
    law = json.loads((own_study / "law.json").read_text())
    law["trend"] = trend
    law["parameters"]["alpha"] = {"estimate": (low + high) / 2, "low": low, "high": high}
    (own_study / "law.json").write_text(json.dumps(law))
    finding = law_finding(open_study(own_study))
    assert finding.direction == direction
    assert f"[{low:.3f}, {high:.3f}]".replace("-", "−") in finding.answer


def test_a_constant_law_shows_the_exponent_of_the_plain_power_law(own_study: Path) -> None:
    law = json.loads((own_study / "law.json").read_text())
    law.update(law="none", trend="none", parameters={"C": {"estimate": 1.0, "low": 0.9, "high": 1.1}})
    (own_study / "law.json").write_text(json.dumps(law))
    finding = law_finding(open_study(own_study))
    assert finding.exponent is not None
    assert finding.exponent.estimate == 0.16
    assert finding.answer.startswith("No:")


def test_refusals_name_the_file(tmp_path: Path, own_study: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a study folder"):
        open_study(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"study\.json"):
        open_study(tmp_path)
    for broken in ("{", "[]"):
        (own_study / "law.json").write_text(broken)
        with pytest.raises(CorruptFile, match=r"law\.json"):
            open_study(own_study)


def test_a_study_without_losses_of_single_tests_says_so_once(own_study: Path) -> None:
    for path in (own_study / "runs").glob("*/test_tasks.csv"):
        path.unlink()
    found = contest_data(own_study)
    assert not found.comparisons
    assert found.notes == ("No paired tests: no run of this study wrote test_tasks.csv, the losses of single tests.",)


def test_a_sentence_of_the_laws_uses_the_words_of_the_page(study_folder: Path) -> None:
    study = open_study(study_folder)
    text = "test_loss_nats falls with n_tasks (per factor of 10 of n_tasks); my_n_tasks, n_tasks.x and n_tasks."
    assert study.in_words(text) == "meta-test loss falls with N (per factor of 10 of N); my_n_tasks, n_tasks.x and N."
