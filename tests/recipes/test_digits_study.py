"""The main job end to end on real digits: study, law, report, evaluation, and resuming after a real kill -9."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import metascale.core.files
from metascale.core.errors import CorruptFile, InputError
from metascale.laws.contrasts import holm
from metascale.recipes.digits import EQUAL_STEPS
from metascale.report.sections.contest import contest_data
from metascale.study.runner import run_study
from metascale.study.store.folder import NOT_COMPARED
from metascale.study.store.table import results_table
from metascale.workflow.conclude import conclude
from metascale.workflow.config import METRIC_LEARNERS
from metascale.workflow.evaluate import evaluate_run
from metascale.workflow.launch import Place, launch, plan, plan_from_folder
from tests.study.folders import without_seconds

UNDRAWN = pytest.mark.usefixtures("undrawn")
"""Of studies besides that of the module, whose pictures are drawn."""
TINY = {
    **EQUAL_STEPS,
    "n_tasks": [2, 4, 8],
    "max_steps": 12,
    "eval_every": 4,
    "n_validation_tasks": 6,
    "n_test_tasks": 8,
    "n_curve_tasks": 4,
    "adaptation_curve": [0, 1, 3],
    "tune_rates": [0.3],
    "tune_steps": [1, 3],
    "width": 16,
    "meta_batch": 2,
}


class Silent:
    def begin(self, folder: Path, total: int, done: int) -> None: ...
    def event(self, event: object) -> None: ...
    def end(self, outcome: object) -> None: ...


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "study"
    outcome, _ = launch(plan("digits", TINY, seeds=[0, 1], place=Place("serial")), folder, reporter=Silent())
    assert outcome.exit_status == 0
    return folder


@UNDRAWN
@pytest.mark.parametrize(
    "values",
    [
        {"method": "protonet"},
        {"method": "r2d2", "model": "conv"},
        {"method": "metaoptnet", "train_n_way": 7, "tune_scales": [0.5, 0.25, 8.0]},
        {"method": "fomaml", "learn_rates": True, "rates_by": "mode"},
        {"head": "prototype", "outer_schedule": "wsd", "outer_warmup": 2},
        {"head": "shared", "learn_rates": True, "rates_by": "step", "multi_step": 8, "first_order_steps": 4},
        {"head": "zero", "outer_optimizer": "adamw", "outer_weight_decay": 0.01, "outer_beta1": 0.0},
    ],
    ids=str,
)
def test_every_kind_of_learner_is_a_study(values: dict[str, Any], tmp_path: Path) -> None:
    planned = plan("digits", {**TINY, "n_tasks": [4], **values}, seeds=[0], place=Place("serial"), baselines=False)
    outcome, _ = launch(planned, tmp_path / "study", reporter=Silent())
    assert outcome.exit_status == 0
    (row,) = results_table(tmp_path / "study").rows
    assert 0 < row["test_loss_nats"] < 4
    assert (row["test_inner_steps"] == 0) == (values.get("method") in METRIC_LEARNERS)
    run = next((tmp_path / "study" / "runs").iterdir())
    again = evaluate_run(run, {}).at(row["test_inner_steps"])
    assert again["loss_nats"] == pytest.approx(row["test_loss_nats"], rel=1e-6)
    if tried := values.get("tune_scales"):
        losses = {
            float(one["scale"]): float(one["validation_loss_nats"])
            for one in csv.DictReader((run / "tuning.csv").read_text().splitlines())
        }
        assert set(losses) == {1.0, *tried}
        assert losses[row["test_scale"]] == min(losses.values()) < losses[1.0]
        assert again["accuracy"] == row["test_accuracy"]


def test_leaves_the_whole_file_tree(study: Path) -> None:
    names = {path.name for path in study.iterdir()}
    expected = {"study.json", "results.csv", "all_results.json", "law.json", "baselines.json", "test_pool.json"}
    assert expected | {"summary.json", "report.html", "plots", "runs"} <= names
    run = next((study / "runs").glob("n_tasks=4-seed=1-*"))
    inside = {path.name for path in run.iterdir()}
    assert {"config.json", "train_pool.json", "train_stats.csv", "eval_stats.csv", "result.json"} <= inside
    assert {"test_tasks.csv", "adaptation.csv", "theta.safetensors"} <= inside
    assert {"law.png", "accuracy.png"} <= {path.name for path in (study / "plots").iterdir()}


def test_law_is_fitted_on_the_meta_trained_trials_alone(study: Path) -> None:
    law = json.loads((study / "law.json").read_text())
    assert law["n_observations"] == 6
    assert law["n_scales"] == 3
    parameters = law["families"]["power"]["parameters"]
    assert parameters["alpha"]["low"] <= parameters["alpha"]["estimate"] <= parameters["alpha"]["high"]


def test_every_trial_met_the_same_test_episodes(study: Path) -> None:
    """Comparisons across N and seeds are paired: same tasks, in the same order."""
    orders = set()
    for run in (study / "runs").glob("n_tasks=[0-9]*"):
        rows = (run / "test_tasks.csv").read_text().splitlines()[1:]
        orders.add(tuple(line.split(",")[2] for line in rows))
        pools = json.loads((run / "train_pool.json").read_text())["pools"]
        assert len(pools["train"]) == int(run.name.split("=")[1].split("-")[0])
    assert len(orders) == 1


def test_controls_score_chance_and_baselines_are_tuned(study: Path) -> None:
    baselines = json.loads((study / "baselines.json").read_text())
    assert baselines["class_prior"]["test_accuracy"] == pytest.approx(0.2, abs=1e-9)
    assert baselines["fine_tuning"]["inner_lr"] in (0.1, 0.3)
    assert set(baselines) == {"zero_shot", "fine_tuning", "prototypes", "linear_probe", "class_prior"}


@pytest.mark.long
def test_the_same_command_runs_nothing_again_and_writes_the_same_bytes(study: Path) -> None:
    before = {
        path: path.read_bytes() for path in study.rglob("*") if path.is_file() and path.suffix in (".csv", ".json")
    }
    outcome, _ = launch(plan("digits", TINY, seeds=[0, 1], place=Place("serial")), study, reporter=Silent())
    assert (outcome.ran, outcome.skipped) == (0, 12)
    for path, data in before.items():
        assert path.read_bytes() == data, path
    again, _ = launch(plan_from_folder(study, Place("serial")), study, reporter=Silent())
    assert again.ran == 0


def test_a_changed_base_is_refused_naming_the_key(study: Path) -> None:
    changed = plan("digits", {**TINY, "width": 8}, seeds=[0, 1], place=Place("serial"))
    with pytest.raises(InputError, match="width"):
        launch(changed, study, reporter=Silent())


def test_learner_and_fine_tuning_choose_their_adaptation_among_the_same(study: Path) -> None:
    """TINY offers steps 1 and 3 at rate 0.3; those of training (5 at 0.1) stand beside them."""
    rows = results_table(study).rows
    chosen = [row for row in rows if row["kind"] == "meta" or row["method"] == "fine_tuning"]
    assert len(chosen) == 8
    for row in chosen:
        (run,) = (study / "runs").glob(f"*{row['id'][:8]}*")
        tried = list(csv.DictReader((run / "tuning.csv").read_text().splitlines()))
        candidates = [(float(one["inner_lr"]), int(one["inner_steps"])) for one in tried]
        assert candidates == [(rate, steps) for rate in (0.1, 0.3) for steps in (1, 3, 5)]
        losses = [float(one["validation_loss_nats"]) for one in tried]
        rate, steps = candidates[losses.index(min(losses))]
        assert (row["test_inner_steps"], row["test_inner_lr"], row["test_choice"]) == (steps, rate, "validation")
        edges = [f"{'smallest' if rate == 0.1 else 'largest'} inner_lr"]
        edges += {1: ["smallest inner_steps"], 3: [], 5: ["largest inner_steps"]}[steps]
        assert row["test_choice_edge"] == ", ".join(edges)
    baseline = json.loads((study / "baselines.json").read_text())["fine_tuning"]
    assert baseline.get("edge") == chosen[-1]["test_choice_edge"]
    assert "test_choice" not in baseline


@UNDRAWN
def test_two_methods_beside_baselines_are_compared_once_in_one_family(tmp_path: Path) -> None:
    """Every contrast stands once, whichever way round, and Holm counts all of them, once on the page."""
    values = {**TINY, "n_tasks": [2, 8], "method": ["maml", "reptile"]}
    folder = tmp_path / "study"
    launch(plan("digits", values, seeds=[0], place=Place("serial")), folder, reporter=Silent())
    found = contest_data(folder).comparisons
    # Each method at N = 8 meets five baselines and itself at N = 2, and they meet at both scales.
    assert len(found) == 2 * (5 + 1) + 2
    assert len({frozenset((one.first, one.second)) for one in found}) == len(found)
    assert [one.p_holm for one in found] == pytest.approx(holm([one.test.p_value for one in found]))
    page = (folder / "report.html").read_text()
    assert page.count("corrected by Holm") == page.count(f"corrected by Holm for {len(found)} comparisons") == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["comparisons"]) == len(found)


@UNDRAWN
def test_eval_inner_steps_fixes_the_adaptation_to_the_test(tmp_path: Path) -> None:
    values = {**TINY, "n_tasks": [2, 4], "eval_inner_steps": 2}
    launch(plan("digits", values, seeds=[0], place=Place("serial"), baselines=False), tmp_path / "s", reporter=Silent())
    for row in results_table(tmp_path / "s").rows:
        assert (row["test_inner_steps"], row["test_inner_lr"], row["test_choice"]) == (2, 0.1, "fixed")
        assert row["test_choice_edge"] is None


def test_the_validation_loss_is_that_of_the_state_that_was_tested(study: Path) -> None:
    """With equal steps for all, that is the last state, wherever the best one was."""
    for run in (study / "runs").glob("n_tasks=*"):
        result = json.loads((run / "result.json").read_text())["result"]
        last = list(csv.DictReader((run / "eval_stats.csv").read_text().splitlines()))[-1]
        assert result["kept_step"] == int(last["step"]) == 12
        assert result["validation_loss_nats"] == float(last["validation_loss_nats"])


def test_evaluating_a_run_again_gives_its_recorded_loss(study: Path) -> None:
    run = next((study / "runs").glob("n_tasks=8-seed=0-*"))
    recorded = json.loads((run / "result.json").read_text())["result"]
    result, steps = evaluate_run(run, {}), recorded["test_inner_steps"]
    assert recorded["test_inner_lr"] == 0.3, "not the rate of training, which gives another loss"
    assert result.at(steps)["loss_nats"] == pytest.approx(recorded["test_loss_nats"], rel=1e-6)
    as_trained = evaluate_run(run, {"inner_lr": 0.1}).at(steps)["loss_nats"]
    assert as_trained != pytest.approx(recorded["test_loss_nats"], rel=1e-3)
    five_shot = evaluate_run(run, {"k_shot": 5})
    assert five_shot.at(steps)["loss_nats"] != pytest.approx(recorded["test_loss_nats"], rel=1e-3)
    assert 2 in evaluate_run(run, {"eval_inner_steps": 2}).inner_steps
    with pytest.raises(InputError, match=r"parameter 'head.weight'.*trained otherwise|head"):
        evaluate_run(run, {"n_way": 3})


def test_flipped_weights_are_noticed(study: Path, tmp_path: Path) -> None:
    source = next((study / "runs").glob("n_tasks=8-seed=0-*"))
    for path in source.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    data = bytearray((tmp_path / "theta.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "theta.safetensors").write_bytes(bytes(data))
    with pytest.raises(CorruptFile, match="SHA-256"):
        evaluate_run(tmp_path, {})


@UNDRAWN
def test_divergence_is_recorded_and_left_out_of_the_law(tmp_path: Path) -> None:
    values = {**TINY, "n_tasks": [2, 4, 8, 16], "max_steps": 6, "inner_lr": [0.1, 9e5]}
    planned = plan("digits", values, seeds=[0], place=Place("serial"), baselines=False)
    outcome, conclusion = launch(planned, tmp_path / "study", reporter=Silent())
    assert outcome.diverged >= 1
    assert outcome.exit_status == 0
    diverged = [row for row in results_table(tmp_path / "study").rows if row["status"] == "diverged"]
    assert all(row["inner_lr"] == 9e5 for row in diverged)
    assert conclusion is not None
    assert all("900000" not in label for label, a in conclusion.analyses.items() if a.to_json()["n_observations"] == 4)


@UNDRAWN
def test_a_study_without_enough_scales_says_why_there_is_no_law(tmp_path: Path) -> None:
    planned = plan("digits", {**TINY, "n_tasks": [2, 4]}, seeds=[0], place=Place("serial"), baselines=False)
    _, conclusion = launch(planned, tmp_path / "study", reporter=Silent())
    assert conclusion is not None
    assert not conclusion.analyses
    assert "2 distinct values" in conclusion.no_law
    assert not (tmp_path / "study" / "law.json").exists()
    assert (tmp_path / "study" / "report.html").exists()


def compared_files(study: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(study.rglob("*")):
        # The page shows measured times; everything else is determined by the configuration.
        measured = path.name in (*NOT_COMPARED, "report.html") or path.name.startswith("index.sqlite3")
        if path.is_file() and not measured:
            found[str(path.relative_to(study))] = without_seconds(path)
    return found


def test_cut_at_writes_and_run_again_ends_with_the_same_bytes(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta-training ends at a durable write, a later one each time, and goes on from what is there."""
    point, n_writes, cuts = metascale.core.files._durable_point, 0, 0
    planned = plan("digits", {**TINY, "n_tasks": [4]}, seeds=[0], place=Place("serial"), baselines=False)

    def cut_at(last: int) -> None:
        nonlocal n_writes
        n_writes += 1
        if n_writes >= last:
            raise KeyboardInterrupt
        point()

    for last in range(9, 60, 3):
        n_writes = 0
        with monkeypatch.context() as patch:
            patch.setattr("metascale.core.files._durable_point", lambda last=last: cut_at(last))
            try:
                run_study(planned.study, tmp_path / "cut", planned.executor)
            except KeyboardInterrupt:
                cuts += bool(list(tmp_path.glob("cut/runs/*/checkpoints/step-*")))
            else:
                break
    assert cuts >= 2, "cut twice where a checkpoint was"
    (run,) = (tmp_path / "cut" / "runs").iterdir()
    started = [line for line in (run / "history.jsonl").read_text().splitlines() if '"started"' in line]
    assert len(started) >= 2
    expected, found = compared_files(study / "runs" / run.name), compared_files(run)
    assert found.keys() == expected.keys()
    assert [name for name, data in expected.items() if found[name] != data] == []


@pytest.mark.long
def test_killed_at_random_and_run_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """Real SIGKILLs in the middle of real meta-training, again and again until the study is done."""
    command = [sys.executable, "-m", "metascale", "run", "digits", "--executor", "serial", "--no-baselines"]
    values = {**TINY, "n_tasks": [2, 4, 8], "max_steps": 40, "eval_every": 5}
    for key, value in values.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    chance = random.Random(0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ["--seeds", "0", "--out"]
    subprocess.run([*command, *arguments, str(whole)], env=environment, check=True, capture_output=True)
    kills = 0
    while True:
        # The process kills itself with SIGKILL at its n-th durable write, wherever in the study that is.
        deadly = {**environment, "METASCALE_ABORT_AT_WRITE": str(chance.randint(15, 60))}
        ended = subprocess.run([*command, *arguments, str(broken)], env=deadly, check=False, capture_output=True)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        kills += 1
    assert kills >= 2
    expected, found = compared_files(whole), compared_files(broken)
    assert found.keys() == expected.keys()
    assert [name for name, data in expected.items() if found[name] != data] == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "executor"), [(signal.SIGTERM, "processes"), (signal.SIGINT, "serial")])
def test_a_signal_in_the_middle_of_meta_training_saves_that_step(tmp_path: Path, number: int, executor: str) -> None:
    """Checkpoints are due at steps 200 and 400 only; the signal comes at the first sign of life."""
    command = [sys.executable, "-m", "metascale", "run", "digits", "--executor", executor, "--no-baselines"]
    for key, value in {**TINY, "n_tasks": [2], "max_steps": 400, "eval_every": 200}.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    arguments = ["--seeds", "0", "--workers", "1", "--out"]
    began = subprocess.Popen([*command, *arguments, str(cut)], env=environment, stderr=subprocess.PIPE, text=True)
    while not list(cut.glob("runs/*/progress.json")):
        assert began.poll() is None, began.communicate()[1]
        time.sleep(0.01)
    began.send_signal(number)
    _, said = began.communicate(timeout=120)
    assert began.returncode == 128 + number, said
    assert "are saved after the step in progress" in said
    (saved,) = cut.glob("runs/*/checkpoints/*-stop")
    assert 0 < int(saved.name.removeprefix("step-").removesuffix("-stop")) < 200
    for folder in (cut, whole):
        subprocess.run([*command, *arguments, str(folder)], env=environment, check=True, capture_output=True)
    expected, found = compared_files(whole), compared_files(cut)
    assert found.keys() == expected.keys()
    assert [name for name, data in expected.items() if found[name] != data] == []


def test_conclude_refuses_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        conclude(tmp_path)
