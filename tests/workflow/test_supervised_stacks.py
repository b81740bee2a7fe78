"""Stacks of supervised searches: a round of a search leaves what its trials leave alone, whatever happens to it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.files import read_json
from metascale.models.perceptron import Perceptron
from metascale.parallel.stacked import run_together
from metascale.recipes.shapes import ShapesConfig, images, training
from metascale.study.executors.local import SerialExecutor
from metascale.study.search.run import ListedStudy, search_trial
from metascale.study.search.search import axis_points, search_of
from metascale.study.store.folder import read_study
from metascale.training.optimizers import InPlaceAdamW
from metascale.workflow.launch import Place, launch, plan, plan_from_folder
from metascale.workflow.recipe import load_recipe
from metascale.workflow.stacks import stacks_of
from tests.recipes.test_digits_study import Silent
from tests.workflow.test_stacks import runs

pytestmark = pytest.mark.timeout(120)
pytest.importorskip("optuna")
SERIAL = {"executor": "serial"}
SEARCH: dict[str, Any] = {
    "space": {"dropout": {"uniform": [0.0, 0.5]}, "lr": {"log": [1e-4, 0.3]}},
    "trials": 6,
    "startup": 6,
    "together": 3,
    "prune": {"by": "epoch", "n_before": 3, "rungs": 3},
}
VALUES: dict[str, Any] = {
    "architecture": ["mlp"], "width": [6], "depth": [1], "ratio": [1.0], "n_train": 64, "batch_size": 32,
    "max_epochs": 5, "eval_epochs": 1, "patience": None, "tune": SEARCH,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws and reports, which take longer than the trials, are not asked about here."""
    monkeypatch.setattr("metascale.workflow.conclude.conclude", lambda folder: None)


def run(folder: Path, values: Mapping[str, Any], place: Place) -> Any:
    return launch(plan("shapes", values, seeds=[0, 1], place=place), folder, reporter=Silent())[0]


@pytest.mark.parametrize("stack", ["auto", pytest.param(2, marks=pytest.mark.long)])
def test_rounds_and_seeds_run_together_and_leave_the_bytes_of_trials_alone(tmp_path, stack):
    """A pruned trial leaves its stack; the finals of one shape, which differ in their seed, are a stack as well."""
    assert run(tmp_path / "alone", VALUES, Place(**SERIAL)).exit_status == 0
    outcome = run(tmp_path / "stacked", VALUES, Place(**SERIAL, stack=stack))
    assert (outcome.finished, outcome.ran) == (8, 8)
    assert runs(tmp_path / "stacked") == runs(tmp_path / "alone")
    found = read_study(tmp_path / "stacked").runs
    assert 0 < sum("pruned_at_step" in each.result() for each in found) < 6
    together = [read_json(each.folder / "provenance.json").get("stack", ()) for each in found]
    ids = [each.trial.id for each in found]
    assert sorted(map(len, together)) == ([2, 2, 3, 3, 3, 3, 3, 3] if stack == "auto" else [0, 0, 2, 2, 2, 2, 2, 2])
    assert all(each in stack for each, stack in zip(ids, together, strict=True) if stack)


def test_stacks_do_not_mix_rounds_of_a_search_or_shapes():
    recipe = load_recipe("shapes")
    study = recipe.study({**VALUES, "width": [6, 8], "tune": {**SEARCH, "together": 10}}, seeds=[0])
    search = search_of(study)
    assert search is not None
    trials = tuple(
        search_trial(study, search, point, [], number, {"lr": 0.001 * (1 + number)})
        for point in axis_points(study)
        for number in range(20)
    )
    listed = ListedStudy(study.name, study.trial, study.base, study.axes, study.seeds, listed=trials)
    stacks = stacks_of(recipe, listed, 8)
    assert [len(stack) for stack in stacks] == [5] * 8
    assert [name for stack in stacks for name in stack] == [trial.id for trial in trials]


def test_one_that_diverges_and_one_that_stops_early_leave_the_others_going(tmp_path):
    values = {**VALUES, "tune": False, "lr": [1e-5, 3e-2, 9e5], "weight_decay": 0.9, "patience": 2, "min_delta": 0.01}
    run(tmp_path / "alone", values, Place(**SERIAL))
    outcome = run(tmp_path / "stacked", values, Place(**SERIAL, stack=8))
    assert (outcome.finished, outcome.diverged) == (4, 2)
    assert [len(stack) for stack in read_json(tmp_path / "stacked" / "command.json")["stacks"]] == [6]
    ended = {each.result()["steps"] for each in read_study(tmp_path / "stacked").runs if each.status == "finished"}
    assert len(ended) > 1
    assert runs(tmp_path / "stacked") == runs(tmp_path / "alone")


def test_one_whose_update_fails_leaves_the_others_with_one_step_each():
    """Updates are in place: the steps of those before it are not taken again, whatever it raises."""

    class Failing(InPlaceAdamW):
        def update(self, params, grads, state, rates=1.0):
            if float(state["count"]["count"]) == 1:
                raise RuntimeError("out of memory")
            return super().update(params, grads, state, rates)

    settings = ShapesConfig(architecture="mlp", width=6, depth=1, n_train=64, batch_size=32)
    data = images(settings, 0)
    own = [training(settings, data, seed, "cpu") for seed in range(3)]
    failing = replace(own[1], optimizer=Failing(0.01))
    after: dict[int, Any] = {}

    def steps(process: Any, place: int) -> None:
        after[place] = process.init()
        for k in range(3):
            after[place] = process.step(after[place], k)[0]

    for place in (0, 2):
        steps(own[place], place)
    alone = dict(after)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_together([partial(steps, one, place) for place, one in enumerate((own[0], failing, own[2]))])
    assert after[1].step == 1
    for place in (0, 2):
        assert after[place].optimizer["count"]["count"] == after[place].step == 3
        for name, value in alone[place].params.items():
            assert torch.equal(after[place].params[name], value)


@pytest.mark.parametrize("then", [Place(**SERIAL), pytest.param(Place(**SERIAL, stack=1), marks=pytest.mark.long)])
def test_a_killed_stack_of_a_search_goes_on_from_every_trials_own_checkpoint(tmp_path, then):
    longer = {**VALUES, "max_epochs": 60, "eval_epochs": 5, "tune": {**SEARCH, "trials": 3, "prune": False}}
    run(tmp_path / "whole", longer, Place(**SERIAL))
    folder = tmp_path / "killed"
    pid = os.fork()
    if pid == 0:
        try:
            run(folder, longer, Place(**SERIAL, stack=3))
        finally:
            os._exit(0)
    until = time.monotonic() + 60
    while len({path.parent for path in folder.glob("runs/*/checkpoints/step-*")}) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not list(folder.glob("runs/*/result.json"))
    assert read_json(folder / "command.json")["stack"] == 3
    outcome = launch(plan_from_folder(folder, then), folder, reporter=Silent())[0]
    assert outcome.finished == 5
    assert runs(folder) == runs(tmp_path / "whole")
    beside = [len(read_json(each.folder / "provenance.json").get("stack", ())) for each in read_study(folder).runs]
    assert sorted(beside) == ([2, 2, 3, 3, 3] if then.stack is None else [0] * 5)


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "convnet"},
        {"batch_size": 40},
        {"tune": {**SEARCH, "together": 1}, "architecture": "resnet", "ratio": 4.0},
    ],
)
def test_what_cannot_run_together_is_refused_before_anything_is_written(values):
    with pytest.raises(InputError, match="no trials of study 'shapes' can run together"):
        plan("shapes", {**VALUES, **values}, seeds=[0, 1], place=Place(stack=4))
    assert plan("shapes", {**VALUES, **values}, seeds=[0, 1], place=Place(stack="auto")).stack == "auto"


def test_trials_with_several_dropout_rates_are_computed_in_one_call_a_step(tmp_path, monkeypatch, caplog):
    """64 examples in batches of 32, 5 epochs: 10 steps, each of all three trials."""
    joined, seen = Perceptron.losses_of_each, []

    def watched(self: Perceptron, models: Any, *rest: Any) -> torch.Tensor:
        found = joined(self, models, *rest)
        seen.append([model.dropout for model in models])  # not of a call that fails
        return found

    monkeypatch.setattr(Perceptron, "losses_of_each", watched)
    values = {**VALUES, "tune": False, "dropout": [0.0, 0.2, 0.4]}
    planned = plan("shapes", values, seeds=[0], place=Place(**SERIAL, stack=8))
    assert launch(planned, tmp_path, reporter=Silent())[0].finished == 3
    assert seen == [[0.0, 0.2, 0.4]] * 10
    assert [record for record in caplog.records if record.name == "metascale.parallel"] == []


def test_a_stacked_study_that_goes_on_where_trials_run_apart_says_so(tmp_path):
    """On a cluster's executor, which is stood in for by one of this machine that launching does not know."""

    class Cluster:
        def check(self) -> None: ...

        def open(self) -> Any:
            return SerialExecutor().open()

    class Told(Silent):
        def __init__(self) -> None:
            self.events: list[Any] = []

        def event(self, event: Any) -> None:
            self.events.append((event.kind, event.message))

    values = {**VALUES, "tune": False, "max_epochs": 1}
    assert launch(plan("shapes", values, seeds=[0], place=Place(**SERIAL, stack="auto")), tmp_path, reporter=Told())
    told = Told()
    planned = replace(plan("shapes", values, seeds=[0, 1], place=Place(**SERIAL)), executor=Cluster())
    assert launch(planned, tmp_path, reporter=told)[0].finished == 2
    kind, sentence = told.events[0]
    assert (kind, sentence.split(";")[0]) == ("note", "this study began with `stack` auto")
    assert read_json(tmp_path / "command.json")["stack"] == "auto"
    assert "stacks" not in read_json(tmp_path / "command.json")
    again = Told()
    launch(plan("shapes", values, seeds=[0, 1], place=Place(**SERIAL)), tmp_path, reporter=again)
    assert [event for event in again.events if event[0] == "note"] == []
