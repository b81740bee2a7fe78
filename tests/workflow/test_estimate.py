"""What a study will cost: counted FLOPs against the model itself, and a large model without its weights."""

from __future__ import annotations

import torch

from metascale.core.types import Batch, Episode
from metascale.meta.gradients import Reptile
from metascale.meta.inner import InnerLoop
from metascale.training.flops import count_flops
from metascale.training.optimizers import SGD
from metascale.workflow.estimate import _count_shapes, estimate_costs
from metascale.workflow.recipe import load_recipe
from metascale.workflow.text import adapted_model


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
    assert (found.n_trials, found.n_meta) == (26, 21)
    assert found.n_params_trainable == 64 * 64 + 64 + 64 * 64 + 64 + 64 * 5 + 5
    assert found.train_flops == found.step_flops * 50 * 21
    assert found.step_s is not None
    assert found.step_s > 0
