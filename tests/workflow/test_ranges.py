"""Every numeric key of every recipe has a range, and holds to it whatever default the recipe gives it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError
from metascale.workflow.config import FewShotConfig, validate
from metascale.workflow.recipe import SHIPPED, load_recipe

MAY_BE_ZERO = {
    *("inner_momentum", "inner_steps", "inner_weight_decay", "cg_steps", "min_delta", "eval_inner_steps"),
    *("adaptation_curve", "tune_steps", "dropout", "dropout_inner", "difficulty", "split_seed", "random_weights"),
    *("weight_decay", "data_seed", "noise_seed", "train_blocks", "label_noise", "duplicates", "warmup", "final_rate"),
    *("inner_beta1", "inner_beta2", "outer_momentum", "outer_beta1", "outer_beta2", "outer_weight_decay"),
    *("outer_warmup", "outer_final_rate", "multi_step", "first_order_steps", "n_context"),
    *("random", "shifted", "shift"),  # how many annotators are of a kind, and how often they err
}
"""Keys for which 0 is a sensible value; every other count, rate and size starts above it."""
NEEDED: dict[str, dict[str, Any]] = {"csv": {"path": "texts.csv"}}


def numbers_of(hint: Any) -> set[type]:
    """The numeric types that an annotation allows, inside unions, tuples and ``Annotated``."""
    if hint in (int, float):
        return {hint}
    origin = typing.get_origin(hint)
    if origin is Literal:
        return set()
    if origin in (typing.Annotated, typing.Union, types.UnionType, tuple):
        return set().union(*(numbers_of(part) for part in typing.get_args(hint)))
    return set()


def outside(key: str, numbers: set[type]) -> list[Any]:
    """Values that no configuration should take for a key of these types."""
    values: list[Any] = [-1] if int in numbers else [-1.0, math.nan, math.inf, -math.inf, 1e300]
    return values if key in MAY_BE_ZERO else [*values, 0]


def numeric_keys() -> list[tuple[str, str, Any]]:
    found = []
    for name in SHIPPED:
        kind = load_recipe(name).config
        for key, hint in typing.get_type_hints(kind, include_extras=True).items():
            numbers = numbers_of(hint)
            several = "tuple" in repr(hint)
            found += [(name, key, [bad] if several else bad) for bad in (outside(key, numbers) if numbers else ())]
    return found


CASES = numeric_keys()


def test_the_cases_cover_every_recipe() -> None:
    assert {name for name, _, _ in CASES} == set(SHIPPED)
    assert len({(name, key) for name, key, _ in CASES}) > 200
    assert {key for _, key, _ in CASES} >= MAY_BE_ZERO


@pytest.mark.parametrize("name", SHIPPED)
def test_values_outside_the_range_of_a_key_are_refused(name: str) -> None:
    recipe = load_recipe(name)
    taken = []
    for _, key, bad in (case for case in CASES if case[0] == name):
        try:
            recipe.study({**NEEDED.get(name, {}), key: bad}, baselines=False)
        except InputError as error:
            if key not in str(error) and "only finite numbers are allowed" not in str(error):
                taken.append((key, bad, str(error)))
        else:
            taken.append((key, bad, "no error"))
    assert not taken


def test_a_class_that_declares_a_key_of_its_base_again_is_refused() -> None:
    """Such a key takes the new annotation and loses the range of the first one; a Literal may name other choices."""

    @dataclasses.dataclass(frozen=True)
    class Loose(FewShotConfig):
        outer_lr: float = 0.1

    @dataclasses.dataclass(frozen=True)
    class Methods(FewShotConfig):
        method: Literal["maml", "mine"] = "mine"  # type: ignore[assignment]

    with pytest.raises(InputError, match="Loose declares 'outer_lr' again, which loses its range"):
        validate(Loose, {}, "here")
    with pytest.raises(InputError, match="method 'mine' does not go with kind 'meta'"):
        validate(Methods, {}, "here")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits", "--set", "outer_lr=-1"], "'outer_lr' is not allowed: input should be greater than 0"),
        (["csv", "--set", "path=a.csv", "--set", "eval_every=0", "--dry-run"], "'eval_every' is not allowed"),
        (["sinusoid", "--set", "inner_steps=-1"], "'inner_steps' is not allowed"),
        (["omniglot", "--set", "eval_inner_steps=-1"], "'eval_inner_steps' is not allowed"),
        (["shapes", "--set", "lr=.inf"], "'lr' is not allowed"),
    ],
)
def test_the_command_line_refuses_with_status_2_and_writes_nothing(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metascale.workflow.launch.launch", lambda *_, **__: pytest.fail("it ran"))
    result = CliRunner().invoke(app, ["run", *arguments, "--out", str(tmp_path / "study")])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("key", ["k_shot", "n_tasks", "outer_lr", "inner_clip", "inner_momentum", "cg_steps"])
def test_a_boolean_is_no_number(key: str) -> None:
    with pytest.raises(InputError, match=f"the value True of '{key}' is not allowed: input should be a number"):
        load_recipe("digits").study({key: True})


@pytest.mark.parametrize("key", ["width", "meta_batch", "n_test_tasks", "max_steps", "inner_steps"])
def test_a_count_has_an_upper_end(key: str) -> None:
    with pytest.raises(InputError, match=f"'{key}' is not allowed: input should be less than or equal to 10{8 * '0'}"):
        load_recipe("digits").study({key: 10**20})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused_on_an_axis_by_its_key(bad: float) -> None:
    with pytest.raises(InputError, match=rf"'outer_lr': .* cannot hold the number {bad}") as error:
        load_recipe("digits").study({"outer_lr": [0.1, bad]})
    assert error.value.field == "outer_lr"


@pytest.mark.parametrize("key", ["adapt", "tune_rates", "tune_steps"])
def test_choices_without_a_member_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"'{key}' needs at least one value"):
        load_recipe("digits").study({key: []})
