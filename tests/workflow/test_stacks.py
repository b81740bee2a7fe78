"""Stacked trials: which go together, and that a stack leaves what its trials leave alone, whatever happens to it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.core.files import read_json
from metascale.parallel.stacked import MULTIPLE
from metascale.study.store.folder import read_study
from metascale.workflow.config import JOINED_TASKS
from metascale.workflow.launch import Place, launch, plan, plan_from_folder
from metascale.workflow.recipe import load_recipe
from metascale.workflow.stacks import stacks_of
from tests.recipes.test_digits_study import TINY, Silent
from tests.study.folders import final_files

pytestmark = pytest.mark.timeout(600)
VALUES = {**TINY, "n_tasks": [2, 4], "eval_every": 2, "meta_batch": 8, "n_validation_tasks": 8}


def run(folder: Path, values: dict, place: Place, **options):
    planned = plan("digits", values, seeds=[0, 1], place=place, baselines=False)
    return launch(planned, folder, reporter=Silent(), **options)[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacks") / "alone"
    assert run(folder, VALUES, Place(executor="serial")).exit_status == 0
    return folder


def runs(folder: Path) -> dict[str, bytes]:
    """What the trials left, by name."""
    return {name: data for name, data in final_files(folder).items() if name.startswith("runs/")}


@pytest.mark.parametrize(
    "place",
    [
        Place(executor="serial", stack="auto"),
        pytest.param(Place(workers=1, stack=3), marks=pytest.mark.long),
        pytest.param(Place(workers=4, stack="auto"), marks=pytest.mark.long),
    ],
)
def test_a_stack_leaves_the_bytes_of_its_trials_alone_on_any_number_of_workers(alone, tmp_path, place):
    outcome = run(tmp_path, VALUES, place)
    assert (outcome.finished, outcome.ran) == (4, 4)
    assert runs(tmp_path) == runs(alone)
    stacks = read_json(tmp_path / "command.json")["stacks"]
    assert [len(stack) for stack in stacks] == ([2, 2] if place.stack == 3 else [4])
    for trial in read_study(tmp_path).runs:
        own = next(stack for stack in stacks if trial.trial.id in stack)
        assert read_json(trial.folder / "provenance.json")["stack"] == own


@pytest.mark.long
def test_each_diverges_or_stops_early_for_itself(tmp_path):
    values = {**VALUES, "n_tasks": 4, "inner_lr": [0.1, 9e5], "outer_lr": [0.1, 1e-6]}
    values |= {"budget": "converged", "patience": 1, "min_delta": 0.001}
    run(tmp_path / "alone", values, Place(workers=2))
    outcome = run(tmp_path / "stacked", values, Place(workers=1, stack=8))
    assert (outcome.finished, outcome.diverged) == (4, 4)
    found = read_study(tmp_path / "stacked").runs
    assert len({each.result()["steps"] for each in found if each.status == "finished"}) > 1
    assert runs(tmp_path / "stacked") == runs(tmp_path / "alone")


@pytest.mark.long
@pytest.mark.parametrize("then", [Place(workers=2), Place(workers=2, stack=1)])
def test_a_killed_stack_goes_on_from_every_trials_own_checkpoint_stacked_or_alone(tmp_path, then):
    longer = {**VALUES, "max_steps": 120, "eval_every": 10}
    run(tmp_path / "whole", longer, Place(workers=2))
    folder = tmp_path / "killed"
    pid = os.fork()
    if pid == 0:
        try:
            run(folder, longer, Place(workers=1, stack=4))
        finally:
            os._exit(0)
    until = time.monotonic() + 300
    while len({path.parent for path in folder.glob("runs/*/checkpoints/step-*")}) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not list(folder.glob("runs/*/result.json"))
    outcome = launch(plan_from_folder(folder, then), folder, reporter=Silent())[0]
    assert outcome.finished == 4
    assert runs(folder) == runs(tmp_path / "whole")
    assert ("stacks" in read_json(folder / "command.json")) == (then.stack is None)


def test_stacks_are_of_one_kind_balanced_and_the_same_whoever_asks():
    recipe = load_recipe("digits")
    study = recipe.study({**VALUES, "n_tasks": [2, 4, 8], "inner_steps": [1, 2]}, seeds=[0, 1, 2])
    stacks = stacks_of(recipe, study, 8)
    config = {trial.id: trial.config for trial in study.trials()}
    assert [len(stack) for stack in stacks] == [4, 5, 4, 5]
    assert all(len({config[name]["inner_steps"] for name in stack}) == 1 for stack in stacks)
    assert all(config[name].get("kind", "meta") == "meta" for stack in stacks for name in stack)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "imaml", "curvature": "exact"}, "no trials of study 'digits' can run together"),
        ({"meta_batch": 4}, "no trials of study 'digits' can run together"),
        ({"learn_rates": True, "rates_by": "mode"}, "no trials of study 'digits' can run together"),
        ({"model": "conv"}, "no trials of study 'digits' can run together"),
    ],
)
def test_what_cannot_run_together_is_refused_before_anything_is_written(values, message):
    with pytest.raises(InputError, match=message):
        plan("digits", {**VALUES, **values}, seeds=[0, 1], place=Place(stack=4))
    assert plan("digits", {**VALUES, **values}, seeds=[0, 1], place=Place(stack="auto")).stack == "auto"


def test_tasks_of_sinusoids_with_a_context_are_not_joined():
    values = {"meta_batch": 8, "n_tasks": [2, 4], "n_context": 2}
    with pytest.raises(InputError, match="no trials of study 'sinusoid' can run together"):
        plan("sinusoid", values, seeds=[0], place=Place(stack=2))
    assert plan("sinusoid", {**values, "n_context": 0}, seeds=[0], place=Place(stack=2)).stack == 2


def test_a_command_without_a_stack_may_ask_for_trials_that_have_no_other_beside_them(tmp_path):
    few = {**VALUES, "max_steps": 1, "n_test_tasks": 8}
    assert run(tmp_path, few, Place(executor="serial", stack=4)).finished == 4
    planned = plan("digits", {**few, "n_tasks": [8]}, seeds=[0], place=Place(executor="serial"), baselines=False)
    assert launch(planned, tmp_path, reporter=Silent())[0].finished == 1
    assert read_json(tmp_path / "command.json")["stack"] == 4


def test_a_plan_and_a_process_agree_on_which_meta_batches_are_joined():
    assert JOINED_TASKS == MULTIPLE


@pytest.mark.parametrize("given", [{"stack": 0}, {"stack": "many"}, {"stack": 2, "executor": "slurm"}])
def test_a_stack_that_no_place_runs_is_refused(given):
    with pytest.raises(InputError, match="`stack`"):
        Place(**given)
