"""The recipe of shapes: sizes by hand, what a trial leaves, every tuning strategy end to end, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.recipes import shapes
from metascale.recipes.shapes import images, n_params, net, schedule, shrunk, training
from metascale.report.sections.tuning import tuning_data
from metascale.study import read_study
from metascale.study.search.run import n_search_trials, run_any_study
from metascale.study.store.table import results_table
from metascale.workflow.conclude import conclude
from metascale.workflow.recipe import load_recipe
from tests.conftest import need

pytest.importorskip("sklearn")
TINY: dict[str, Any] = {"n_train": 128, "max_epochs": 2, "eval_epochs": 1, "batch_size": 32, "n_validation": 100}


def settings(**values: Any) -> Any:
    return load_recipe("shapes").validate(values)


def run_trial(run: MemoryRun | None = None, **values: Any) -> dict[str, Any]:
    return shapes.trial({"recipe": "shapes", "seed": 0, **TINY, **values}, run or MemoryRun(), "cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"architecture": "mlp", "width": 5, "depth": 3, "ratio": 2.0},
        {"architecture": "mlp", "width": 16, "depth": 2, "ratio": 0.5, "shrink": 2},
        {"architecture": "convnet", "width": 6, "depth": 3, "ratio": 0.5},
        {"architecture": "resnet", "width": 3, "depth": 2, "ratio": 4.0},
    ],
)
def test_the_size_that_rates_follow_is_the_models_own(values: dict[str, Any]) -> None:
    config = settings(**values)
    assert n_params(values) == net(config, images(config, 0)).n_params()


def test_every_profile_is_a_study() -> None:
    recipe = load_recipe("shapes")
    for profile in (None, *recipe.profiles):
        study = recipe.study({}, profile)
        assert study.base["tune"]["trials"] >= 2, "tuning is on by default"
        assert n_search_trials(study) > 0
    assert "tune" not in recipe.study({"tune": False}).base
    few = recipe.study({"tune": 3}, "rule").base["tune"]
    assert (few["trials"], few["strategy"]) == (3, "rule"), "a number of trials keeps the profile's strategy"


def test_a_dry_run_counts_trials_and_sizes() -> None:
    need("mnist")
    recipe = load_recipe("shapes")
    rows = dict(recipe.count_costs(recipe.study({}, "mnist"))[2])  # type: ignore[index]
    time, disk = rows.pop("time"), rows.pop("disk")
    assert "a step on one thread (measured); about " in time
    assert disk.endswith("1.82 MiB of checkpoints for each trial that runs")  # 2·4·4 bytes of 59,530
    assert rows == {
        "shapes": "12",
        "parameters": "858 to 59,530",  # 196·4 + 4² + 2·4 + 4·10 + 10, and 196·128 + 2·128² + 3·128 + 128·10 + 10
        "trials of the grid": "36 (3 seeds)",
        "trials of the searches": "96, 8 at 12 shapes",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "resnet"}, "ratio is 4, not 1.0"),
        ({"depth": 1, "ratio": 2.0}, "ratio must be 1 at depth 1"),
        ({"dropout_inner": 0.2}, "dropout_inner belongs to architecture=convnet, not mlp"),
        ({"dropout": 1.0}, "dropout"),
        ({"shrink": 3}, "shrink"),
        ({"widht": 3}, "did you mean 'width'"),
    ],
)
def test_shapes_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**values)


def test_shrunk_pixels_are_means_of_squares() -> None:
    pixels = np.array([[[0, 4, 255, 255], [8, 4, 255, 255], [1, 1, 0, 0], [1, 2, 0, 3]]], np.uint8)
    assert shrunk(pixels, 2).tolist() == [[[4, 255], [1, 1]]]
    assert shrunk(pixels, 2).dtype == np.uint8
    assert images(settings(shrink=2), 0).image_size == 4


@pytest.mark.parametrize("architecture", ["mlp", "convnet", "resnet"])
def test_a_trial_keeps_the_best_state_and_looks_at_the_test_set_once(architecture: str) -> None:
    run = MemoryRun()
    ratio = 4.0 if architecture == "resnet" else 2.0
    row = run_trial(run, architecture=architecture, width=4, depth=2, ratio=ratio)
    evaluations = run.rows("eval_stats")
    assert [one["epoch"] for one in evaluations] == [0.0, 1.0, 2.0]
    best = min(evaluations, key=lambda one: one["validation_loss_nats"])
    assert row["best_step"] == best["step"]
    assert row["train_loss_nats"] == pytest.approx(best["train_loss_nats"], rel=1e-6)
    assert (row["steps"], row["epochs"], row["training"]) == (8, 2.0, "max_steps")
    assert row["n_params_total"] == n_params({"architecture": architecture, "width": 4, "depth": 2, "ratio": ratio})
    if architecture == "mlp":
        assert row["train_flops"] == 3 * 2 * (64 * 4 + 4 * 8 + 8 * 10) * 8 * 32, "forward and backward, by hand"
    assert math.isfinite(row["test_loss_nats"])
    assert 0 <= row["test_accuracy"] <= 1
    assert not any("test" in name for one in evaluations for name in one)


def test_a_trial_of_a_search_never_sees_the_test_set() -> None:
    run = MemoryRun()
    row = run_trial(run, kind="tuning")
    assert not any(name.startswith("test") for name in row)
    assert row["validation_loss_nats"] == min(one["validation_loss_nats"] for one in run.rows("eval_stats"))


@pytest.mark.parametrize("batch_size", [16, 64])
def test_thresholds_by_epoch_end_a_trial_at_that_epoch_whatever_its_batch_size(batch_size: int) -> None:
    above = run_trial(kind="tuning", batch_size=batch_size, max_epochs=3, prune_above=[[1.0, 1e-6]])
    assert above["pruned_at_step"] == 128 // batch_size
    below = run_trial(kind="tuning", batch_size=batch_size, max_epochs=3, prune_above=[[1.0, 1e6]])
    assert "pruned_at_step" not in below
    assert below["steps"] == 3 * 128 // batch_size


def test_early_stopping_waits_for_patience_and_ignores_less_than_min_delta() -> None:
    row = run_trial(max_epochs=30, patience=3, min_delta=100.0)
    assert (row["training"], row["best_step"], row["epochs"]) == ("converged", 0, 3.0)


def test_the_training_loss_beside_validation_has_no_dropout() -> None:
    config = settings(**TINY, dropout=0.9)
    data = images(config, 0)
    process = training(config, data, 0, "cpu")
    state = process.init()
    row = process.validate(state)
    batch = data.examples("train", np.arange(100))
    bare = net(settings(**TINY, dropout=0.0), data)
    assert config.n_train_evaluated > 100, "the same 128 images are evaluated, in batches of 100"
    whole = torch.cat(
        [bare.losses(state.params, batch), bare.losses(state.params, data.examples("train", np.arange(100, 128)))]
    )
    assert row["train_loss_nats"] == pytest.approx(float(whole.mean()), rel=1e-5)


def test_at_the_base_width_mup_changes_nothing_and_above_it_slows_hidden_layers() -> None:
    standard = run_trial(width=8)
    assert run_trial(width=8, parameterisation="mup", base_width=8) == standard
    config = settings(**TINY, width=32, parameterisation="mup", base_width=8)
    rates = training(config, images(config, 0), 0, "cpu").rate_multipliers
    assert rates is not None
    assert (rates["layer0.weight"], rates["layer1.weight"], rates["head.weight"]) == (1.0, 0.25, 0.25)


def test_schedule_counts_epochs_in_steps() -> None:
    config = settings(**{**TINY, "max_epochs": 7, "eval_epochs": 2})
    plan = schedule(config, images(config, 0))
    assert (plan.max_steps, plan.eval_every) == (28, 8)


GRID = {"architecture": "mlp", "width": [4, 8, 16], "depth": [2, 3], "ratio": 1.0}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("tune", "n_searched"),
    [
        pytest.param({"strategy": "each"}, 6, marks=pytest.mark.long),
        ({"strategy": "smallest", "size": "width"}, 2),
        pytest.param(
            {
                "strategy": "rule",
                "size": "metascale.recipes.shapes:n_params",
                "along": ["width", "depth", "ratio"],
                "rule_points": 2,
            },
            2,
            marks=pytest.mark.long,
        ),
    ],
    ids=["each", "smallest by μP", "rule of the parameters"],
)
def test_every_strategy_tunes_the_grid_end_to_end(tune: dict[str, Any], n_searched: int, tmp_path: Path) -> None:
    mup = {"parameterisation": "mup", "base_width": 4} if tune["strategy"] == "smallest" else {}
    search = {**tune, "trials": 2, "startup": 2}
    study = load_recipe("shapes").study({**TINY, **GRID, **mup, "tune": search}, seeds=(0,))
    outcome = run_any_study(study, tmp_path / "study")
    assert (outcome.finished, outcome.failed) == (2 * n_searched + 6, 0)
    found = conclude(tmp_path / "study")
    tuned = tuning_data(tmp_path / "study")
    assert len(tuned.points) == n_searched
    rows = [row for row in results_table(tmp_path / "study").rows if row["kind"] == "trial"]
    by_shape = {(row["width"], row["depth"]): row["lr"] for row in rows}
    for point in tuned.points:
        here = (point.point["width"], point.point["depth"])
        assert by_shape[here] == pytest.approx(point.values["lr"]), "searched shapes use what was found there"
    if tune["strategy"] == "smallest":
        assert all(by_shape[width, depth] == by_shape[4, depth] for width, depth in by_shape)
    if tune["strategy"] == "rule":
        assert len(set(by_shape.values())) > 2, "every size has a rate of its own"
    page = next(path for path in found.written if path.name == "report.html").read_text()
    for heading in ("Loss along each axis of the shape", "Underfit or overfit?", "Tuned hyperparameters"):
        assert heading in page
    assert {run.trial.kind for run in read_study(tmp_path / "study").runs} == {"tuning", "trial"}
