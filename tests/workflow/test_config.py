"""Configurations: refused with one sentence before anything is written; lists become axes."""

from __future__ import annotations

from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.workflow.recipe import SHIPPED, load_recipe

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("digits", {"n_taks": 5}, "there is no key 'n_taks'; did you mean 'n_tasks'?"),
    ("digits", {"colour": 1}, "there is no key 'colour'; allowed keys are: kind, method"),
    ("digits", {"n_way": 1}, "the value 1 of 'n_way' is not allowed: input should be greater than or equal to 2"),
    ("digits", {"k_shot": 0}, "'k_shot' is not allowed: input should be greater than or equal to 1"),
    ("digits", {"inner_lr": -0.1}, "'inner_lr' is not allowed: input should be greater than 0"),
    ("digits", {"inner_momentum": 1.0}, "'inner_momentum' is not allowed: input should be less than 1"),
    ("digits", {"inner_momentum": 0.9, "inner_optimizer": "adam"}, "inner_momentum goes with inner_optimizer=sgd"),
    ("digits", {"outer_beta1": 1.0}, "'outer_beta1' is not allowed: input should be less than 1"),
    ("digits", {"outer_momentum": 0.9}, "outer_momentum goes with outer_optimizer=sgd, not adam"),
    ("digits", {"outer_optimizer": "sgd", "outer_beta2": 0.9}, "outer_beta2 goes with outer_optimizer=adam or adamw"),
    ("digits", {"outer_weight_decay": 0.1}, "outer_weight_decay goes with outer_optimizer=sgd or adamw, not adam"),
    ("sinusoid", {"inner_beta1": 0.0}, "inner_beta1 goes with inner_optimizer=adam or adamw, not sgd"),
    ("digits", {"outer_schedule": "step"}, "'step' of 'outer_schedule' is not allowed"),
    ("digits", {"outer_decay_share": 0.0}, "'outer_decay_share' is not allowed: input should be greater than 0"),
    ("digits", {"outer_warmup": 300}, "outer_warmup must be below the 300 outer steps, not 300"),
    ("digits", {"head": "zero", "adapt": ["layer*"]}, "never moves the head, so nothing is learnt"),
    ("digits", {"head": "shared", "method": "reptile", "adapt": ["*"]}, "head=shared is where heads start"),
    ("digits", {"train_n_way": 8}, "train_n_way goes with protonet or r2d2 or metaoptnet; method=fomaml has a head"),
    ("digits", {"tune_scales": [2.0]}, "tune_scales goes with protonet or r2d2 or metaoptnet; method=fomaml adapts"),
    ("digits", {"rates_by": "mode"}, "rates_by=mode is of learnt rates; set learn_rates=true too"),
    ("digits", {"method": "protonet", "learn_rates": True}, "method=protonet takes no inner steps"),
    ("digits", {"inner_lr": "fast"}, "'fast' of 'inner_lr' is not allowed"),
    ("digits", {"method": "mamel"}, "'mamel' of 'method' is not allowed"),
    ("digits", {"budget": "visits", "n_tasks": [None]}, "budget 'visits' needs a number for n_tasks"),
    ("digits", {"n_tasks": [5, 5]}, "asks twice for the same configuration"),
    ("digits", {"n_tasks": []}, "needs a list of at least one value"),
    ("digits", {"labels": "random"}, "'random' of 'labels' is not allowed"),
    ("digits", {"depth": 99}, "'depth' is not allowed: input should be less than or equal to 8"),
    ("synthetic", {"difficulty": 1.5}, "'difficulty' is not allowed: input should be less than or equal to 1"),
    ("banking77", {"dropout": 1.0}, "'dropout' is not allowed: input should be less than 1"),
    ("banking77", {"max_length": 1}, "'max_length' is not allowed"),
    ("digits", {"method": "fine_tuning"}, "method 'fine_tuning' does not go with kind 'meta'"),
    ("digits", {"method": "reptile", "learn_rates": True}, "Reptile has no gradient for learn_rates"),
    ("digits", {"model": "conv", "micro_batch": 4}, "micro_batch would change the batch statistics"),
    ("omniglot", {"micro_batch": 4}, "micro_batch would change the batch statistics"),
    ("banking77", {"method": "maml"}, "method=maml with curvature=exact needs second derivatives"),
    ("digits", {"budget": "compute"}, "budget=compute and budget_flops go together"),
    ("digits", {"tune": 3}, "recipe 'digits' has no ranges of its own to tune; give tune a space"),
    (
        "digits",
        {"tune": {"space": {"inner_lr": {"log": [0.01, 1e9]}}}},
        "'inner_lr' is not allowed: input should be less",
    ),
    (
        "digits",
        {"tune": {"space": {"iner_lr": {"log": [0.01, 1]}}}},
        "there is no key 'iner_lr'; did you mean 'inner_lr'",
    ),
    ("digits", {"tune": {"space": {"n_tasks": {"integer": [1, 9]}}}}, "'n_tasks' is an axis of study 'digits'"),
]


@pytest.mark.parametrize(("recipe", "values", "message"), BAD, ids=[str(values) for _, values, _ in BAD])
def test_bad_values_are_refused_with_one_sentence(recipe: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(recipe).study(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipe_and_profile_name_the_nearest() -> None:
    with pytest.raises(InputError, match="there is no recipe 'digit'; did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(InputError, match="has no profile 'huge'; it has: steps, converged, classes, smoke"):
        load_recipe("digits").study(profile="huge")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_and_profile_makes_a_valid_study(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    for profile in (None, *recipe.profiles):
        study = recipe.study(profile=profile)
        kinds = {trial.kind for trial in study.trials()}
        assert kinds <= {"meta", "trial", "baseline", "control"}
        assert len(kinds & {"meta", "trial"}) == 1


def test_a_list_for_a_single_valued_key_is_an_axis_and_for_a_plural_key_a_value() -> None:
    study = load_recipe("digits").study(
        {"inner_lr": [0.1, 0.2], "adaptation_curve": [0, 5], "n_tasks": 10}, baselines=False
    )
    assert study.axes == {"n_tasks": [10], "inner_lr": [0.1, 0.2]}
    assert study.base["adaptation_curve"] == [0, 5]
    assert len(study.trials()) == 2 * 3


def test_profile_values_lie_between_defaults_and_given_values() -> None:
    recipe = load_recipe("digits")
    assert recipe.study(profile="converged").base["budget"] == "converged"
    assert recipe.study({"budget": "steps"}, profile="converged").base["budget"] == "steps"
    assert list(recipe.study(profile="classes").axes) == ["n_train_classes"]


def test_an_axis_of_a_profile_stands_above_a_value_that_it_shares_with_others() -> None:
    """The settings that "factors" has from "frozen" fix ``max_steps``, its own axis does not; the user's value does."""
    recipe = load_recipe("clinc150")
    assert recipe.study(profile="frozen").base["max_steps"] == 1000
    assert recipe.study(profile="factors").axes["max_steps"] == [100, 1000]
    assert recipe.study({"max_steps": 300}, profile="factors").axes["max_steps"] == [300]


def test_a_younger_key_leaves_ids_of_older_studies_alone() -> None:
    """Absent at its default; of a baseline it is no setting, since its training tasks have n_way classes."""
    recipe = load_recipe("digits")
    assert not {"train_n_way", "tune_scales"} & set(recipe.study().base)
    wide = recipe.study({"method": "protonet", "train_n_way": 10})
    assert wide.base["train_n_way"] == 10
    for trial in wide.trials():
        settings = recipe.validate(trial.config)
        assert settings.source_fields(0).get("train_n_way") == (10 if settings.kind == "meta" else None)


def test_visits_budget_gives_every_task_the_same_visits() -> None:
    recipe = load_recipe("digits")
    for n_tasks, steps in ((4, 10), (40, 100)):
        config = recipe.validate({"budget": "visits", "n_tasks": n_tasks, "visits_per_task": 20, "meta_batch": 8})
        assert config.outer_steps == steps


def test_momentum_reaches_the_inner_loop() -> None:
    from metascale.workflow.fewshot import make_inner

    recipe = load_recipe("sinusoid")
    assert make_inner(recipe.validate({"inner_momentum": 0.9})).optimizer.momentum == 0.9  # type: ignore[attr-defined]
    assert make_inner(recipe.validate({})).optimizer.momentum == 0.0  # type: ignore[attr-defined]
