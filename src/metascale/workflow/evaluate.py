"""Evaluate a finished run again: other shots, inner steps or numbers of tasks, on the fixed test episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.columns import TEST_INNER_LR, TEST_INNER_STEPS, TEST_SCALE
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, sha256_of
from metascale.core.types import Params
from metascale.meta.evaluate import Evaluation
from metascale.study.design import merge
from metascale.study.store.folder import damage_of
from metascale.study.store.paths import refuse_exits
from metascale.training.state import from_bytes
from metascale.workflow.content import located_run
from metascale.workflow.fewshot import WEIGHTS, at_scale, evaluate_on_test, few_shot, make_inner
from metascale.workflow.places import recipe_place
from metascale.workflow.recipe import stored_recipe


def evaluate_run(folder: Path | str, overrides: Mapping[str, object], device: str = "cpu") -> Evaluation:
    """The meta-learnt parameters of a run on the test tasks, with some of its configuration replaced.

    They adapt by the steps, the rate and the scale that the run was tested with, unless ``eval_inner_steps`` or
    ``inner_lr`` are among the replacements.

    Args:
        folder: a run's folder inside a study (``STUDY/runs/NAME``).
        overrides: for instance ``{"k_shot": 5}``; what shaped the parameters (the ways of a learnt head) must stay.

    Raises:
        InputError: not a meta-trained, finished run, a value that is not allowed, or other data than the run read.
        CorruptFile: the weights are not those that the run recorded.
    """
    folder = Path(folder).expanduser()
    config, result, params = load_run(folder)
    recipe = stored_recipe(recipe_place(config["recipe"], folder), f"the run in {folder}")
    config = located_run(recipe, config, folder)
    tested = {"eval_inner_steps": result.get(TEST_INNER_STEPS), "inner_lr": result.get(TEST_INNER_LR)}
    as_tested = {key: value for key, value in tested.items() if value is not None}
    settings = few_shot(recipe, merge(config, {**as_tested, **overrides}))
    parts = recipe.make_parts(settings, config["seed"], device)
    if settings.metric:
        parts = at_scale(parts, result.get(TEST_SCALE))
    expected = make_inner(settings).init(parts.model.init(config["seed"]))
    for name, value in expected.items():
        if name not in params or params[name].shape != value.shape:
            raise InputError(
                f"{folder}: the parameter '{name}' of the run does not fit these values; it was trained otherwise"
            )
    theta = {name: params[name].to(device) for name in expected}
    steps = sorted({0, settings.validation_steps, *settings.adaptation_curve})
    return evaluate_on_test(settings, parts, make_inner(settings), theta, steps, settings.n_test_tasks, device)


def load_run(folder: Path) -> tuple[dict[str, Any], Mapping[str, Any], Params]:
    """A finished run's configuration, result and meta-learnt parameters; the result has their digest."""
    refuse_exits(folder)
    for name in ("config.json", "result.json", WEIGHTS):
        if not (folder / name).exists():
            raise InputError(f"{folder} has no {name}: it is not a finished, meta-trained run (STUDY/runs/NAME)")
    if damage := damage_of(folder):
        raise CorruptFile(damage)
    config, result = read_json(folder / "config.json"), read_json(folder / "result.json")
    data = (folder / WEIGHTS).read_bytes()
    result = result.get("result", result)
    if result.get("theta_sha256") != sha256_of(data):
        raise CorruptFile(f"{folder / WEIGHTS} is not what the run recorded (its SHA-256 differs)")
    return config, result, from_bytes(data)
