"""What a study will cost: counted FLOPs against the model itself, and a large model without its weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import Reptile
from metascale.meta.inner import InnerLoop
from metascale.training.flops import count_flops
from metascale.training.optimizers import SGD
from metascale.workflow.estimate import Trainings, _count_shapes, estimate_costs, time_and_disk
from metascale.workflow.recipe import load_recipe
from metascale.workflow.text import adapted_model


@pytest.mark.long
def test_flops_from_shapes_equal_flops_of_the_model() -> None:
    values = {"backbone": "minilm-l6", "random_weights": 0, "dtype": "float32", "attention": "eager"}
    config = load_recipe("banking77").validate({**values, "rank": 4, "n_query": 3, "meta_batch": 2})
    model = adapted_model(config, "cpu")
    ids = torch.zeros(1, 25, 32, dtype=torch.long)
    batch = Batch({"input_ids": ids}, torch.zeros(1, 25, dtype=torch.long))
    gradient = Reptile(InnerLoop(SGD(0.1), steps=config.inner_steps))
    counted = count_flops(lambda: gradient(model, model.init(0), Episode(("a",), batch, batch), None))
    cost = _count_shapes(config)
    assert cost.step_flops == 2 * counted
    assert cost.frozen == model.n_params_total - model.n_params_trainable
    assert cost.step_s is None


def test_estimate_of_digits_by_hand() -> None:
    recipe = load_recipe("digits")
    study = recipe.study({"max_steps": 50, "meta_batch": 2})
    found = estimate_costs(recipe, study, workers=2)
    assert (found.n_trials, found.n_meta) == (28, 21)
    assert found.n_params_trainable == 64 * 64 + 64 + 64 * 64 + 64 + 64 * 5 + 5
    assert found.train_flops == found.step_flops * 50 * 21
    assert found.step_s is not None
    assert found.step_s > 0


def test_a_search_is_counted_and_its_trials_train_as_long_as_the_others() -> None:
    recipe = load_recipe("digits")
    values = {"n_tasks": [5, 10], "max_steps": 50, "meta_batch": 2}
    space = {"space": {"inner_lr": {"log": [0.01, 1.0]}}, "trials": 6}
    plain = estimate_costs(recipe, recipe.study(values, seeds=[0]), workers=2)
    tuned = estimate_costs(recipe, recipe.study({**values, "tune": space}, seeds=[0]), workers=2)
    assert plain is not None
    assert tuned is not None
    # Six trials at each of the two numbers of tasks, beside two meta-trained and five baselines.
    assert (plain.n_trials, plain.n_searched, plain.n_meta) == (7, 0, 2)
    assert (tuned.n_trials, tuned.n_searched, tuned.n_meta) == (7, 12, 2)
    assert tuned.train_flops == pytest.approx(plain.train_flops * 7)
    assert dict(tuned.table())["trials"] == "7 (2 meta-trained), after at most 12 of searches"
    assert dict(plain.table())["trials"] == "7 (2 meta-trained)"


def trainings(kind: str, n_trials: int, step_flops: float, seconds: float, n_params: int = 1000) -> Trainings:
    def prepare() -> Callable[[], object]:
        return lambda: seconds

    return Trainings(kind, n_trials, 100.0, step_flops, n_params, prepare)


def test_time_lies_on_the_line_through_the_cheapest_and_the_dearest_measured_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metascale.workflow.estimate._seconds", lambda call: call())
    both = [trainings("a", 2, 1e9, 0.01), trainings("a", 1, 2e9, 99.0), trainings("a", 1, 3e9, 0.05)]
    # 100 steps each: 2·0.01 + 0.03 (between the two) + 0.05 = 0.1 s a step of all.
    time, _ = time_and_disk(both)
    assert time.startswith("10 ms to 50 ms a step on one thread (measured); about 10 s of one thread")
    # A second kind has a line of its own; with one size, as many seconds as operations; 1e12 is too large to try.
    time, _ = time_and_disk([*both, trainings("b", 1, 2e9, 0.1), trainings("b", 1, 1e12, 99.0)])
    assert "about 1 h 23 min of" in time  # 10 s, 10 s and 100·0.1·500 = 5000 s
    assert time_and_disk([*both, trainings("c", 1, 1e12, 1.0)])[0].startswith("not measured: too large to try")


def test_disk_by_hand() -> None:
    _, disk = time_and_disk([trainings("a", 2, 1e12, 1.0, 1 << 20), trainings("a", 1, 1e12, 1.0, 1 << 10)])
    # Three trials of 48 KiB and of ten recorded rows of 200 bytes; two checkpoints of four numbers a parameter.
    assert disk == "149.86 KiB, and up to 32.00 MiB of checkpoints for each trial that runs"


def test_a_step_beyond_the_memory_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*shape: int, **options: object) -> torch.Tensor:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 25600000000"
        )

    monkeypatch.setattr(torch, "randn", too_large)
    recipe = load_recipe("digits")
    with pytest.raises(InputError, match="recipe 'digits': an outer step of the first trial does not fit into"):
        estimate_costs(recipe, recipe.study({"n_tasks": [2, 5]}), workers=1)
