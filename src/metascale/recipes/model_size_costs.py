"""What the models of a study of model sizes take, counted from their shapes: nothing is allocated, no data is read."""

from __future__ import annotations

from dataclasses import dataclass

from metascale.recipes.model_size import ModelSizeConfig
from metascale.recipes.model_size_trial import BYTES_A_NUMBER, flops, language_model
from metascale.study.design import Study
from metascale.workflow.estimate import human
from metascale.workflow.recipe import load_recipe

TRAIN_TOKENS = 2_088_628
"""Of WikiText-2."""
COPIES = 4
"""Numbers a parameter while training: its value, its gradient, and AdamW's two moments."""


@dataclass(frozen=True)
class ModelCost:
    """One configuration.

    Attributes:
        n_total, n_non_embedding: parameters.
        step_flops: operations of one step, forward and backward; ``training_flops`` of all steps at most.
        state_bytes: parameters, gradients and the optimiser's state; activations come on top.
    """

    architecture: str
    d_model: int
    n_layers: int
    n_total: int
    n_non_embedding: int
    step_flops: float
    training_flops: float
    state_bytes: int


def model_costs(study: Study) -> list[ModelCost]:
    """Every configuration of a study once, in its order."""
    recipe = load_recipe(study.base["recipe"])
    return [model_cost(one) for one in dict.fromkeys(recipe.validate(trial.config) for trial in study.trials())]


def model_cost(settings: ModelSizeConfig) -> ModelCost:
    """The cost of one configuration, on torch's meta device."""
    model = language_model(settings)
    return ModelCost(
        settings.architecture,
        settings.d_model,
        settings.n_layers,
        model.n_params(),
        model.n_non_embedding(),
        flops(model, settings, 1).exact,
        flops(model, settings, most_steps(settings)).exact,
        COPIES * BYTES_A_NUMBER * model.n_params(),
    )


def most_steps(settings: ModelSizeConfig) -> int:
    """Steps of a training on WikiText-2 that early stopping does not end."""
    n_tokens = settings.n_train_tokens or TRAIN_TOKENS
    windows = n_tokens // settings.n_sequence - 1
    steps = max(1, round(settings.epochs * -(-windows // settings.batch_size)))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def costs(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """A title, headings and rows for ``--dry-run``."""
    found = model_costs(study)
    headings = ["model", "parameters", "non-embedding", "step", "training", "state"]
    rows = [
        [
            f"{one.architecture} {one.d_model}×{one.n_layers}",
            f"{one.n_total:,}",
            f"{one.n_non_embedding:,}",
            human(one.step_flops),
            human(one.training_flops),
            human(one.state_bytes, "B", 1024.0),
        ]
        for one in found
    ]
    n_trials = len(study.trials())
    title = (
        f"{study.name}: models of width × layers, {n_trials} {'training' if n_trials == 1 else 'trainings'}; step and "
        "training in FLOPs, forward and backward; state: weights, gradients and AdamW's moments"
    )
    return title, headings, rows
