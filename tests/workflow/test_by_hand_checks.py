"""What is refused before a study begins, sentence, field and value; both sides of every range; and measured steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
from pydantic import Field

from metascale.core.errors import InputError
from metascale.study.design import Study
from metascale.workflow import estimate, preflight
from metascale.workflow import recipe as recipes
from metascale.workflow.config import (
    Count,
    FewShotConfig,
    NonNegative,
    Part,
    Rate,
    Share,
    TrialConfig,
    Weight,
    absolute_places,
    plural_keys,
    text_keys,
    validate,
)
from metascale.workflow.estimate import NOT_MEASURED, Trainings, time_and_disk
from metascale.workflow.recipe import SHIPPED, load_recipe
from metascale.workflow.study_file import checked


def refusal(call: Callable[[], object]) -> tuple[str, str | None, object, str | None]:
    with pytest.raises(InputError) as caught:
        call()
    error = caught.value
    return str(error), error.field, error.value, error.allowed


# ----------------------------------------------------------------------------------------------------- preflight


def test_everything_is_checked_in_order_and_what_was_read_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("require_installed", "check_data", "check_devices", "check_backbones"):
        monkeypatch.setattr(preflight, name, lambda *given, name=name: asked.append((name, *given)))
    chosen = [("first", 3), ("second", 4), ("third", 3)]
    monkeypatch.setattr(preflight, "distinct_settings", lambda *given: asked.append(("distinct", *given)) or chosen)
    lines = {"first": ("9 rows", "8 rows"), "second": ("9 rows",), "third": ("7 rows",)}
    monkeypatch.setattr(preflight, "check_trial", lambda *given: asked.append(given) or lines[given[1]])
    recipe: Any = SimpleNamespace(packages=("one", "two"), name="mine")
    study: Any = "study"
    assert preflight.preflight(recipe, study, ("cpu", "mps")) == ("9 rows", "8 rows", "7 rows")
    assert asked == [
        ("require_installed", "one", "demo", "recipe 'mine'"),
        ("require_installed", "two", "demo", "recipe 'mine'"),
        ("check_data", recipe, "study"),
        ("check_devices", ("cpu", "mps")),
        ("distinct", recipe, "study"),
        ("check_backbones", ["first", "second", "third"], "mine"),
        (recipe, "first", 3),
        (recipe, "second", 4),
        (recipe, "third", 3),
    ]
    preflight.preflight(recipe, study)
    assert asked.count(("check_devices", ())) == 1


def test_data_sets_and_own_files_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    located: list[str] = []
    monkeypatch.setattr(preflight, "locate", located.append)
    recipe: Any = SimpleNamespace(name="mine", data_sets_of=lambda config: ("a", config["size"]))
    there, gone = tmp_path / "there.csv", str(tmp_path / "gone.csv")
    there.write_text("text,label\n")
    plain = Study("s", "m:f", {}, {"size": ["b", "c"]}, (0, 1))
    preflight.check_data(recipe, plain)
    assert located == ["a", "b", "c"]
    preflight.check_data(recipe, replace(plain, base={"path": str(there)}))
    several = replace(plain, axes={"size": ["b"], "path": [str(there), gone, "later.csv"]})
    assert refusal(lambda: preflight.check_data(recipe, several)) == (
        f"recipe 'mine' needs `path`=FILE with the columns text,label; '{gone}' is no file", "path", gone, None,
    )  # fmt: skip
    folder = str(tmp_path)
    assert refusal(lambda: preflight.check_data(recipe, replace(plain, base={"path": folder})))[2] == folder


@pytest.mark.parametrize(
    ("names", "cuda", "mps", "refused", "there"),
    [
        (("cpu", "cpu:3"), 0, False, None, ""),
        (("cuda",), 0, False, "cuda", "none"),
        (("cpu", "cuda:0"), 0, True, "cuda:0", "none"),
        (("cuda", "cuda:0"), 1, False, None, ""),
        (("cuda:0", "cuda:1"), 1, False, "cuda:1", "cuda:0 alone"),
        (("cuda:1", "cuda:0"), 2, False, None, ""),
        (("cuda:2",), 2, False, "cuda:2", "2, cuda:0 to cuda:1"),
        (("cuda:7", "cuda:11"), 8, False, "cuda:11", "8, cuda:0 to cuda:7"),
        (("mps", "mps:0"), 0, True, None, ""),
        (("mps",), 5, False, "mps", "none"),
        ((), 0, False, None, ""),
    ],
)
def test_devices_that_are_there(
    names: Any, cuda: int, mps: bool, refused: str | None, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    machine = SimpleNamespace(
        cuda=SimpleNamespace(device_count=lambda: cuda),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )
    monkeypatch.setattr(preflight, "require", lambda *given: asked.append(given) or machine)
    if refused is None:
        preflight.check_devices(names)
    else:
        said = f"`devices` has '{refused}', and this machine has {there}"
        assert refusal(lambda: preflight.check_devices(names)) == (said, "devices", refused, None)
    assert asked == [("torch", "torch", f"the device '{name}'") for name in names if not name.startswith("cpu")]


def test_one_process_needs_nothing_and_two_need_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(__version__="9.9", distributed=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(preflight, "require", lambda *given: machine)
    preflight.check_together(1)
    said = "`processes_per_trial` needs torch.distributed, which this build of torch 9.9 lacks"
    assert refusal(lambda: preflight.check_together(2)) == (said, "processes_per_trial", 2, None)


def test_one_task_is_more_than_endless_ones_and_equal_numbers_keep_the_first() -> None:
    """Endless tasks ask nothing of a data set that one task does not."""
    known = {
        "endless": FewShotConfig(n_tasks=None), "one": FewShotConfig(n_tasks=1), "again": FewShotConfig(n_tasks=1),
    }  # fmt: skip
    recipe: Any = SimpleNamespace(validate=lambda config: known[config["n"]])
    one = Study("s", "m:f", {}, {"n": ["endless", "one", "again"]}, (3,))
    ((settings, seed),) = preflight.distinct_settings(recipe, one)
    assert (settings is known["one"], seed) == (True, 3)


def test_every_setting_of_another_study_is_a_difference() -> None:
    recipe: Any = SimpleNamespace(validate=lambda config: Ranges(count=config["n"], share=config.get("share", 0.0)))
    one = Study("s", "m:f", {}, {"n": [1, 2]}, (3, 4))
    assert preflight.distinct_settings(recipe, one) == [(Ranges(count=1), 3), (Ranges(count=2), 3)]
    both = replace(one, axes={"n": [1], "share": [0.0, 0.5]}, seeds=(4,))
    assert preflight.distinct_settings(recipe, both) == [(Ranges(), 4), (Ranges(share=0.5), 4)]


# --------------------------------------------------------------------------------------- configurations: ranges


@dataclass(frozen=True)
class Ranges(TrialConfig):
    count: Count = 1
    whole: NonNegative = 0
    rate: Rate = 0.5
    weight: Weight = 0.0
    share: Share = 0.0
    part: Part = 1.0
    free: float = 0.0
    perhaps: Count | None = None
    rates: tuple[Rate, ...] = ()


BELOW_1E6 = math.nextafter(1e6, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", 1), ("count", 10**9), ("count", "7"), ("whole", 0), ("whole", 10**9), ("rate", 5e-324), ("rate", 1),
        ("rate", BELOW_1E6), ("weight", 0), ("weight", BELOW_1E6), ("share", 0.0), ("share", math.nextafter(1.0, 0)),
        ("part", 5e-324), ("part", 1), ("free", -1e300), ("perhaps", None), ("perhaps", 1), ("perhaps", 10**9),
        ("rates", (0.1, 5)),
    ],
)  # fmt: skip
def test_values_inside_a_range_are_taken(key: str, value: Any) -> None:
    found = getattr(validate(Ranges, {key: value}, "here"), key)
    assert found == (7 if value == "7" else value)


@pytest.mark.parametrize(
    ("key", "value", "message", "field"),
    [
        ("count", 0, "greater than or equal to 1", "count"),
        ("count", 10**9 + 1, "less than or equal to 1000000000", "count"),
        ("count", True, "a number", "count"),
        ("whole", -1, "greater than or equal to 0", "whole"),
        ("whole", 10**9 + 1, "less than or equal to 1000000000", "whole"),
        ("whole", False, "a number", "whole"),
        ("rate", 0, "greater than 0", "rate"),
        ("rate", 1e6, "less than 1000000", "rate"),
        ("rate", True, "a number", "rate"),
        ("weight", -5e-324, "greater than or equal to 0", "weight"),
        ("weight", 1e6, "less than 1000000", "weight"),
        ("weight", True, "a number", "weight"),
        ("share", -5e-324, "greater than or equal to 0", "share"),
        ("share", 1, "less than 1", "share"),
        ("share", False, "a number", "share"),
        ("part", 0.0, "greater than 0", "part"),
        ("part", math.nextafter(1.0, 2), "less than or equal to 1", "part"),
        ("part", True, "a number", "part"),
        ("free", math.inf, "a finite number", "free"),
        ("free", -math.inf, "a finite number", "free"),
        ("perhaps", 0, "greater than or equal to 1", "perhaps"),
    ],
)
def test_values_outside_a_range_are_refused(key: str, value: Any, message: str, field: str) -> None:
    message = f"input should be {message}"
    said = f"here: the value {value!r} of '{key}' is not allowed: {message}"
    assert refusal(lambda: validate(Ranges, {key: value}, "here")) == (said, field, value, message)


def test_the_first_value_of_a_list_that_is_not_allowed_is_named_by_its_place() -> None:
    said = "here: the value 0 of 'rates.1' is not allowed: input should be greater than 0"
    given = {"rates": [0.1, 0, -1]}
    assert refusal(lambda: validate(Ranges, given, "here")) == (said, "rates.1", 0, "input should be greater than 0")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sharee", "did you mean 'share'?"),
        ("xyz", "allowed keys are: count, whole, rate, weight, share, part, free, perhaps, rates"),
        ("lora_r", "other recipes call it 'rank', and this one has nothing of the kind"),
        ("random_seed", "seeds are not a key: `seeds`, such as 0,1,2 or 0-4"),
    ],
)
def test_a_key_that_there_is_not_gets_a_hint(key: str, near: str) -> None:
    said = f"here: there is no key '{key}'; {near}"
    assert refusal(lambda: validate(Ranges, {"count": 2, key: 5}, "here")) == (said, key, 5, None)


@dataclass(frozen=True)
class Either(TrialConfig):
    """A number or a text; what is neither is refused as a number."""

    either: Count | str | None = None
    whole: Annotated[int, Field(ge=2)] | str = 5


@pytest.mark.parametrize(("key", "value", "least"), [("either", 0, 1), ("whole", 1, 2)])
def test_a_key_of_two_kinds_is_named_without_them(key: str, value: int, least: int) -> None:
    message = f"input should be greater than or equal to {least}"
    said = f"here: the value {value} of '{key}' is not allowed: {message}"
    assert refusal(lambda: validate(Either, {key: value}, "here")) == (said, key, value, message)
    assert getattr(validate(Either, {key: "x"}, "here"), key) == "x"


def test_a_key_that_a_class_in_between_declares_again_is_its_fault() -> None:
    @dataclass(frozen=True)
    class Noted(Ranges):
        __note__: ClassVar[str] = "a"
        share: Share = 0.5

    @dataclass(frozen=True)
    class Leaf(Noted):
        """What stands between is named."""

    said = "Noted declares 'share' again, which loses its range; put the value into the recipe's defaults"
    assert refusal(lambda: validate(Leaf, {}, "here")) == (said, "share", None, None)

    @dataclass(frozen=True)
    class First(Ranges):
        __note__: ClassVar[str] = "a"
        choice: Literal["a", "b"] = "a"

    @dataclass(frozen=True)
    class Second(First):
        __note__: ClassVar[str] = "b"
        choice: Literal["b", "c"] = "c"  # type: ignore[assignment]

    assert validate(Second, {"count": 3}, "here") == Second(count=3)


def test_keys_with_lists_and_with_texts() -> None:
    @dataclass(frozen=True)
    class Kinds(Ranges):
        name: str = ""
        alias: str | None = None
        either: str | int = ""
        names: tuple[str, ...] | None = None
        pairs: dict[str, int] | None = None

    assert plural_keys(Kinds) == {"rates", "names"}
    assert text_keys(Kinds) == {"name", "alias"}


def test_places_of_files_and_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    given = {
        "path": ("a/../b.csv", None, "", 3), "backbone": ["~/m", "../m", ".", "gpt2", "org/m", "data:m", "/m/../n", 3],
        "name": "./x", "n": (1, 2),
    }  # fmt: skip
    assert absolute_places(given) == {
        "path": [f"{tmp_path}/b.csv", None, "", 3],
        "backbone": ["/home/me/m", f"{tmp_path.parent}/m", str(tmp_path), "gpt2", "org/m", "data:m", "/m/../n", 3],
        "name": "./x", "n": [1, 2],
    }  # fmt: skip


# ------------------------------------------------------------------------- configurations: what goes together

METRIC = "protonet or r2d2 or metaoptnet"


@pytest.mark.parametrize(
    ("values", "said", "field", "value"),
    [
        ({"rates_by": "mode"}, "rates_by=mode is of learnt rates; set learn_rates=true too", "rates_by", None),
        ({"train_n_way": 9}, f"train_n_way goes with {METRIC}; method=reptile has a head for n_way=5 classes",
         "train_n_way", 9),
        ({"tune_scales": [2.0, 3.0]}, f"tune_scales goes with {METRIC}; method=reptile adapts its scale by inner steps",
         "tune_scales", (2.0, 3.0)),
        ({"multi_step": 1, "first_order_steps": 1}, "multi_step goes with method=maml, not reptile", "multi_step",
         None),
        ({"method": "imaml", "first_order_steps": 1}, "first_order_steps goes with method=maml, not imaml",
         "first_order_steps", None),
        ({"adapt": []}, "'adapt' needs at least one value", "adapt", ()),
        ({"tune_rates": []}, "'tune_rates' needs at least one value", "tune_rates", ()),
        ({"tune_steps": []}, "'tune_steps' needs at least one value", "tune_steps", ()),
        *(({f"{loop}_optimizer": kind, f"{loop}_momentum": 0.5},
           f"{loop}_momentum goes with {loop}_optimizer=sgd, not {kind}", f"{loop}_momentum", 0.5)
          for loop in ("inner", "outer") for kind in ("adam", "adamw")),
        *(({f"{loop}_{beta}": 0.5}, f"{loop}_{beta} goes with {loop}_optimizer=adam or adamw, not sgd",
           f"{loop}_{beta}", 0.5) for loop in ("inner", "outer") for beta in ("beta1", "beta2")),
        ({"outer_optimizer": "adam", "outer_weight_decay": 0.25},
         "outer_weight_decay goes with outer_optimizer=sgd or adamw, not adam", "outer_weight_decay", 0.25),
        ({"outer_warmup": 1000}, "outer_warmup must be below the 1000 outer steps, not 1000", "outer_warmup", 1000),
        ({"n_tasks": None, "budget": "steps", "max_steps": 7, "outer_warmup": 8},
         "outer_warmup must be below the 7 outer steps, not 8", "outer_warmup", 8),
        # 4 visits of 5 tasks, 4 tasks a step: 5 steps.
        ({"budget": "visits", "visits_per_task": 4, "outer_warmup": 5},
         "outer_warmup must be below the 5 outer steps, not 5", "outer_warmup", 5),
        ({"method": "protonet", "kind": "baseline"},
         "method 'protonet' does not go with kind 'baseline'; a meta-learner is one of reptile, fomaml, maml, imaml, "
         "protonet, r2d2, metaoptnet, and baselines run beside it by themselves", None, None),
        ({"method": "prototypes", "kind": "meta"},
         "method 'prototypes' does not go with kind 'meta'; a meta-learner is one of reptile, fomaml, maml, imaml, "
         "protonet, r2d2, metaoptnet, and baselines run beside it by themselves", None, None),
        ({"method": "imaml", "learn_rates": True},
         "implicit MAML has no gradient for learn_rates; use method=maml or method=fomaml", None, None),
        ({"learn_rates": True}, "Reptile has no gradient for learn_rates; use method=maml or method=fomaml", None,
         None),
        ({"method": "r2d2", "learn_rates": True}, "method=r2d2 takes no inner steps, so there are no rates to learn",
         None, None),
        ({"memory_budget": "lots"},
         "memory_budget must be a number of bytes with a unit of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, such as 8GiB, "
         "not 'lots'", None, None),
        ({"memory_budget": 0}, "memory_budget must be at least one byte, not 0", None, None),
    ],
)  # fmt: skip
def test_what_does_not_go_together_in_a_sentence(values: Any, said: str, field: str | None, value: Any) -> None:
    found = refusal(lambda: validate(FewShotConfig, {"n_tasks": 5, **values}, "here"))
    assert found == (f"here: {said}", field, value, None)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "baseline", "method": "zero_shot", "outer_warmup": 5000},
        {"kind": "baseline", "method": "zero_shot", "tune_scales": [2.0], "train_n_way": 9, "multi_step": 3},
        {"kind": "baseline", "method": "zero_shot", "n_tasks": None, "budget": "visits", "outer_warmup": 5000},
        {"kind": "control", "method": "class_prior"},
        {"budget": "visits", "visits_per_task": 4, "outer_warmup": 4},
        {"outer_warmup": 999},
        {"inner_weight_decay": 0.1, "inner_optimizer": "adam"},
        {"outer_weight_decay": 0.1},
        {"outer_weight_decay": 0.1, "outer_optimizer": "adamw", "outer_beta1": 0.5},
        {"inner_beta1": 0.5, "inner_beta2": 0.5, "inner_optimizer": "adam"},
        {"inner_beta1": 0.5, "inner_optimizer": "adamw", "outer_beta1": 0.5, "outer_optimizer": "adam"},
        {"inner_optimizer": "adam", "inner_momentum": 0.0},
        {"memory_budget": 1},
        {"method": "fomaml", "learn_rates": True, "rates_by": "mode"},
        {"method": "fomaml", "curvature": "none"},
        {"micro_batch": 2},
    ],
)
def test_what_goes_together(values: Any) -> None:
    found = validate(FewShotConfig, {"n_tasks": 5, **values}, "here")
    for name, value in values.items():
        assert getattr(found, name) == (tuple(value) if isinstance(value, list) else value)


@dataclass(frozen=True)
class FirstOrder(FewShotConfig):
    head: str = "learned"
    first_order_alone = ("the kernel", "kernel=exact")


@pytest.mark.parametrize(
    ("method", "curvature", "more", "refused"),
    [
        ("maml", "exact", {"cg_steps": 0}, True),
        ("maml", "unrolled", {}, True),
        ("maml", "diagonal_hutchinson", {}, True),
        ("maml", "diagonal", {}, False),
        ("maml", "finite_difference", {}, False),
        ("maml", "none", {}, False),
        ("imaml", "exact", {"cg_steps": 0}, False),
        ("imaml", "exact", {"cg_steps": 1}, True),
        ("imaml", "exact", {"cg_steps": 0, "adapt": ("*", "*")}, True),
        ("imaml", "diagonal", {}, False),
        ("fomaml", "exact", {}, False),
        ("reptile", "exact", {}, False),
    ],
)
def test_second_derivatives_are_refused_where_the_model_has_none(
    method: str, curvature: str, more: Any, refused: bool
) -> None:
    made: Any = FirstOrder(n_tasks=5, method=method, curvature=curvature, **more)  # type: ignore[arg-type]
    if not refused:
        made.refuse("here")
        return
    assert refusal(lambda: made.refuse("here"))[0] == (
        f"here: method={method} with curvature={curvature} needs second derivatives, which the kernel lacks; set "
        "kernel=exact, or curvature to one of diagonal, finite_difference, none"
    )


@pytest.mark.parametrize(
    ("head", "adapt", "more", "refused"),
    [
        ("zero", ("body*", "bias"), {"method": "fomaml"}, True),
        ("shared", ("body*",), {"method": "fomaml"}, True),
        ("zero", ("body*", "head*"), {"method": "fomaml"}, False),
        ("shared", ("*.weight",), {"method": "fomaml"}, False),
        ("zero", ("HEAD*",), {"method": "fomaml"}, True),
        ("zero", ("body*",), {"method": "zero_shot", "kind": "baseline"}, False),
        ("shared", ("body*",), {"method": "r2d2"}, False),
        ("learned", ("body*",), {"method": "reptile"}, False),
        ("zero", ("*",), {"method": "reptile"}, False),
    ],
)
def test_heads_that_never_move(head: str, adapt: Any, more: Any, refused: bool) -> None:
    made = FirstOrder(n_tasks=5, head=head, adapt=adapt, **more)
    if not refused:
        made.refuse("here")
        return
    said = (
        f"here: with head={head} all classes start alike, and adapt={list(adapt)} never moves the head, so nothing is "
        "learnt; add 'head*' to adapt, or use head=learned"
    )
    assert refusal(lambda: made.refuse("here")) == (said, "head", head, None)


# --------------------------------------------------------------------------------------------------- study files


@pytest.mark.parametrize(
    ("found", "said", "field", "value"),
    [
        ({"recipe": "r", "qqq": 1},
         "here has the key 'qqq'; a study file has: recipe, command, profile, seeds, values, scale, series, best_of, "
         "loss, units, better, baselines; keys of the recipe stand under values", "qqq", None),
        ({}, "here names neither a recipe nor a command, or both; give one of them", "recipe", None),
        ({"command": 3}, "here: 'command' is not instead of a recipe, a program: 3", "command", 3),
        ({"recipe": "r", "profile": ["a"]}, "here: 'profile' is not a variant of the recipe: ['a']", "profile", ["a"]),
        ({"recipe": "r", "seeds": 1.5}, "here: 'seeds' is not training seeds: a list, or a text such as 0-4: 1.5",
         "seeds", 1.5),
        ({"recipe": "r", "seeds": None}, "here: 'seeds' is not training seeds: a list, or a text such as 0-4: None",
         "seeds", None),
        ({"recipe": "r", "values": "x"}, "here: 'values' is not the configuration; a list makes an axis: 'x'", "values",
         "x"),
        ({"recipe": "r", "baselines": 0}, "here: 'baselines' is not false: no baselines beside the learner: 0",
         "baselines", 0),
        ({"recipe": "r", "scale": {}}, "here: 'scale' is not the axis or column that the law runs along; two of them: "
         "a law in both: {}", "scale", {}),
        ({"recipe": "r", "series": 1}, "here: 'series' is not axes that are compared, a law for each value: 1",
         "series", 1),
        ({"recipe": "r", "best_of": 1}, "here: 'best_of' is not axes of which the best value counts, by validation: 1",
         "best_of", 1),
        ({"command": "c", "units": ["s"]}, "here: 'units' is not own function or program: the unit of the loss: ['s']",
         "units", ["s"]),
        ({"command": "c", "better": True}, "here: 'better' is not own function or program: lower or higher: True",
         "better", True),
    ],
)  # fmt: skip
def test_a_study_file_is_refused_in_a_sentence(found: Any, said: str, field: str, value: Any) -> None:
    assert refusal(lambda: checked(found, "here")) == (said, field, value, None)


@pytest.mark.parametrize(
    "given",
    [
        {"seeds": [0, 1]}, {"seeds": "0-4"}, {"seeds": 3}, {"values": {}}, {"values": None}, {"baselines": True},
        {"scale": ["a", "b"]}, {"series": []}, {"best_of": ["x"]}, {"loss": "a"}, {"units": "s"}, {"better": "lower"},
        {"profile": "p"},
    ],
)  # fmt: skip
def test_a_study_file_is_taken_as_it_is(given: Any) -> None:
    assert checked({"recipe": "r", **given}, "here") == {"recipe": "r", **given}


# ------------------------------------------------------------------------------------------ recipes and estimates


def test_a_recipe_like_none_gets_the_list_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_entry_points", list)
    names = (
        "digits, sinusoid, synthetic, omniglot, banking77, clinc150, csv, melora, noisy_labels, annotators, "
        "data_pruning, auxiliary_tasks, hypergradient_bias, shapes, model_size"
    )
    assert (", ".join(SHIPPED), refusal(lambda: load_recipe("q-q"))) == (
        names, (f"there is no recipe 'q_q'; there are: {names}", "recipe", "q_q", None),
    )  # fmt: skip


def training(kind: str, flops: float, seconds: float, n: int = 1, steps: float = 100.0, params: int = 10) -> Trainings:
    return Trainings(kind, n, steps, flops, params, lambda: lambda: seconds)


REST = " of one thread for training and evaluation, if none stops early"


@pytest.mark.parametrize(
    ("trainings", "said"),
    [
        # One size: as many seconds as operations.
        ([training("a", 1e9, 0.02)], "20 ms a step on one thread (measured); about 2.0 s"),
        # Of two of one size, the first is measured: 100·(0.02 + 0.02).
        ([training("a", 1e9, 0.02), training("a", 1e9, 0.5)], "20 ms a step on one thread (measured); about 4.0 s"),
        # The dearest first: 100·(0.01 + 0.05) and 3 times 100 steps at 0.03 half-way.
        ([training("a", 3e9, 0.05), training("a", 1e9, 0.01), training("a", 2e9, 9.0, n=3)],
         "10 ms to 50 ms a step on one thread (measured); about 15 s"),
        # The dearest was no slower than the cheapest: all as slow as that, not quicker.
        ([training("a", 1e9, 0.04), training("a", 3e9, 0.01)],
         "10 ms to 40 ms a step on one thread (measured); about 8.0 s"),
        # 5e10 is tried, and what lies beyond it is on the line: 100·(1 + 2 + 3).
        ([training("a", 2.5e10, 1.0), training("a", 5e10, 2.0), training("a", 7.5e10, 99.0)],
         "1.0 s to 2.0 s a step on one thread (measured); about 10 min 00 s"),
        ([training("a", 2.5e10, 1.0), training("a", 5e10 + 1, 2.0)],
         "1.0 s a step on one thread (measured); about 5 min 00 s"),
        ([training("a", 5e10, 2.0)], "2.0 s a step on one thread (measured); about 3 min 20 s"),
        # Two kinds: 100·0.02, and 100·(0.2 + 0.4).
        ([training("b", 1e9, 0.2), training("a", 1e9, 0.02), training("b", 2e9, 0.4)],
         "20 ms to 400 ms a step on one thread (measured); about 1 min 02 s"),
    ],
)  # fmt: skip
def test_seconds_of_steps_on_a_line(trainings: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_seconds", lambda call: call())
    assert time_and_disk(trainings)[0] == said + REST


def test_a_kind_that_is_too_large_is_not_measured_and_its_disk_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 KiB of files, and 200 bytes every tenth step, a trial; two checkpoints of four numbers of 4 bytes."""
    monkeypatch.setattr(estimate, "_seconds", lambda call: call())
    large = [training("a", 1e9, 0.1, params=64), training("b", 5e10 + 1, 9.0, n=2, steps=10.0, params=32)]
    records = (49152 + 2000) + 2 * (49152 + 200)  # 149856 bytes, 146.34 KiB
    told = f"{records / 1024:.2f} KiB, and up to 2.00 KiB of checkpoints for each trial that runs"
    assert time_and_disk(large) == (NOT_MEASURED, told)
    assert time_and_disk(large[:1])[1].endswith("and up to 2.00 KiB of checkpoints for each trial that runs")
    assert told.startswith("146.34 KiB")


def test_steps_are_tried_on_one_thread_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(estimate, "_seconds", lambda call: (threads.append(-1), call())[1])
    assert estimate._on_one_thread([lambda: lambda: 3.0, lambda: lambda: 2.0]) == [3.0, 2.0]
    assert threads == [1, -1, -1, 7]

    def broken() -> Callable[[], object]:
        raise ValueError("it cannot be made")

    with pytest.raises(ValueError, match="it cannot be made"):
        estimate._on_one_thread([broken])
    assert threads == [1, -1, -1, 7, 1, 7]


def test_a_step_of_a_second_is_told_in_seconds() -> None:
    """999.5 ms would be rounded to a thousand."""
    assert [estimate._short(each) for each in (0.0005, 0.99949, 0.9995, 75.0)] == [
        "0.5 ms", "999 ms", "1.0 s", "1 min 15 s",
    ]  # fmt: skip
