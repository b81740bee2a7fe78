"""Keys by the names of other programs: the hint says what they are called here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.workflow.foreign import THEIRS, hint
from metascale.workflow.recipe import load_recipe, recipe_names


@pytest.mark.parametrize(
    ("recipe", "theirs", "said"),
    [
        ("banking77", "meta_lr", "there is no key 'meta_lr'; here it is 'outer_lr'"),
        ("banking77", "k_inner", "here it is 'inner_steps'"),
        ("banking77", "lora_r", "here it is 'rank'"),
        ("banking77", "num_meta_steps", "here it is 'max_steps'"),
        ("melora", "lora.target_modules", "here it is 'targets'"),
        ("digits", "Fast-LR", "here it is 'inner_lr'"),
        ("digits", "adaptation_steps", "here it is 'inner_steps'"),
        ("digits", "n_inner_iter", "here it is 'inner_steps'"),
        ("digits", "k_spt", "here it is 'k_shot'"),
        ("digits", "lr", "here it is 'inner_lr' or 'outer_lr'"),
        ("digits", "first_order", "here it is a method: method=fomaml"),
        ("digits", "reg_params", "here it is 'proximal'"),
        ("model_size", "num_hidden_layers", "here it is 'n_layers'"),
        ("model_size", "n_seq", "here it is 'n_sequence'"),
        ("shapes", "hidden_dim", "here it is 'width'"),
        ("noisy_labels", "meta_lr", "here it is 'upper_lr'"),
        ("digits", "lora_r", "other recipes call it 'rank', and this one has nothing of the kind$"),
        ("digits", "num_train_epochs", "other recipes call it 'epochs' or 'max_epochs'"),
        ("digits", "mode", "there are no modes"),
    ],
)
def test_a_key_of_another_program_is_translated(recipe: str, theirs: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        load_recipe(recipe).study({theirs: 1})
    assert refused.value.field == theirs


def test_every_hint_leads_to_a_key_that_some_recipe_has() -> None:
    keys = {field.name for name in recipe_names() for field in dataclasses.fields(load_recipe(name).config)}
    led = {name for names in THEIRS.values() for name in names}
    assert not led - keys
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in THEIRS)
    assert hint("zzz", keys) == ""


def test_what_is_no_key_is_said_with_its_flag(tmp_path: Path) -> None:
    from metascale.cli.flags import sentence

    with pytest.raises(InputError) as refused:
        load_recipe("digits").study({"seed": 3})
    flags = {"seeds": "--seeds", "values": "--set"}
    assert sentence(refused.value, flags, ["seed"]).endswith("seeds are not a key: --seeds, such as 0,1,2 or 0-4")
