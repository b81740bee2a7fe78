"""Recipes by hand: what one is by default, how it is found, which study it makes, and what its trials will take."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from metascale.cli.run import _read_study_file
from metascale.core.errors import InputError
from metascale.study.design import Study
from metascale.study.roles import Reading, Roles
from metascale.workflow import estimate
from metascale.workflow import recipe as recipes
from metascale.workflow.config import Count, FewShotConfig, Rate, TrialConfig
from metascale.workflow.describe import _arguments, _header, allowed, describe, values_of
from metascale.workflow.estimate import _Cost
from metascale.workflow.fewshot import Parts
from metascale.workflow.recipe import SHIPPED, Follows, Profile, Recipe, load_recipe
from metascale.workflow.study_file import study_text
from metascale.workflow.text import TextConfig


@dataclass(frozen=True)
class Small(TrialConfig):
    """A small one.

    Args:
        size: first meaning.
        rates: tried: all of them..
    """

    size: Count = 3
    rates: tuple[Rate, ...] = (0.1,)
    depth: Count = 2
    path: str = ""


MINE: Recipe[Any] = Recipe("mine", "Sizes", "Why?", Small, {"size": [1, 2]}, module=ModuleType("mine"))
FEW: Recipe[Any] = Recipe(
    name="few",
    title="Few",
    question="How?",
    config=FewShotConfig,
    axes={"n_tasks": [4, 8], "k_shot": [1, 5]},
    defaults={"method": "fomaml"},
    seeds=(5, 6),
    baselines=({"method": "fine_tuning", "kind": "baseline"}, {"method": "zero_shot", "kind": "baseline"}),
    module=ModuleType("few"),
)


def test_what_a_recipe_and_a_profile_are_by_default() -> None:
    assert (MINE.defaults, MINE.seeds, MINE.baselines, MINE.profiles, MINE.follows) == ({}, (0, 1, 2), (), {}, ())
    assert (MINE.data_sets, MINE.packages, MINE.preload) == ((), ("torch", "safetensors"), ())
    assert (MINE.scale_columns, MINE.loss, MINE.search, MINE.tuned, MINE.source) == (
        {},
        "test_loss_nats",
        {},
        False,
        "",
    )
    assert replace(MINE, module=None) == Recipe("mine", "Sizes", "Why?", Small, {"size": [1, 2]})
    plain = Profile("as it is")
    assert (plain.values, plain.axes, plain.seeds, plain.baselines, plain.question) == ({}, None, None, None, "")
    assert (plain.scale, MINE.profile(None)) == ((), Profile(""))
    assert [recipes.is_search({"kind": kind}) for kind in ("tuning", "meta", None)] == [True, False, False]
    assert not recipes.is_search({})


# ------------------------------------------------------------------------------------------------ configurations


def test_keys_that_are_the_studys_are_no_settings_and_a_search_has_no_kind() -> None:
    of_study = ("recipe", "trial", "seed", "tune", "prune_above", "data_content", "code_places")
    assert MINE.validate({**dict.fromkeys(of_study, "x"), "size": 7}) == Small(size=7)
    assert MINE.validate({"kind": "tuning"}) == Small()
    with pytest.raises(InputError) as caught:
        MINE.validate({"kind": "meta"})
    assert str(caught.value) == (
        "recipe 'mine': there is no key 'kind'; allowed keys are: size, rates, depth, path"
    )  # fmt: skip
    assert FEW.validate({"kind": "tuning"}) == FewShotConfig(method="fomaml")


def test_given_values_stand_above_those_that_others_bring_and_these_above_the_recipes() -> None:
    large = Follows("size", lambda size: size > 5, {"depth": 7, "rates": (0.5,)}, "large ones")
    recipe = replace(MINE, defaults={"depth": 4, "size": 9}, follows=(large,))
    assert recipe.validate({}) == Small(size=9, depth=4)  # what the recipe itself has brings nothing
    assert recipe.validate({"size": 5}) == Small(size=5, depth=4)
    assert recipe.validate({"size": 6, "depth": 8}) == Small(size=6, depth=8, rates=(0.5,))
    assert (recipe.following({"size": 6}), recipe.following({"depth": 6})) == ([large], [])
    assert values_of(recipe, Profile("", {"size": 6, "depth": 8})) == {"size": 6, "depth": 8, "rates": (0.5,)}
    assert recipe.study({"size": [6, 7]}).base["depth"] == 7
    assert recipe.study({"size": [6, 7], "depth": 8}).base["depth"] == 8


def test_a_configuration_of_every_trial_and_of_both_ends_of_every_range() -> None:
    space = {"depth": {"integer": [2, 6]}, "rate": {"log": [0.5, 2.0]}, "share": {"uniform": [-1.0, 3.0]}}
    base = {"tune": {"space": space, "trials": 5}}
    one = Study("s", "m:f", base, {"size": [1, 2]}, (3, 4))
    found = [dict(each) for each in recipes.configs_of(one)]
    assert [(each["size"], each["seed"]) for each in found[:4]] == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert found[4:] == [
        {**one.base, "size": size, "depth": depth, "rate": pytest.approx(rate), "share": share}
        for size in (1, 2)
        for depth, rate, share in ((2, 0.5, -1.0), (6, 2.0, 3.0))
    ]
    assert len(list(recipes.configs_of(replace(one, base={})))) == 4


# ------------------------------------------------------------------------------------------------------ studies


def test_baselines_stand_at_every_place_that_changes_them_and_fine_tuning_has_every_seed() -> None:
    study = FEW.study()
    fine, zero = ({"method": method, "kind": "baseline"} for method in ("fine_tuning", "zero_shot"))
    assert [dict(each) for each in study.extra] == [
        {"seeds": [5, 6], "k_shot": 1, **fine}, {"seeds": [5, 6], "k_shot": 5, **fine},
        {"seeds": [5], "k_shot": 1, **zero}, {"seeds": [5], "k_shot": 5, **zero},
    ]  # fmt: skip
    assert study.roles == Roles(("n_tasks",), ("k_shot",), (), ("k_shot",), "test_loss_nats")
    assert (study.base["n_tasks"], study.base["recipe"], study.seeds) == (None, "few", [5, 6])
    bare = FEW.study(baselines=False)
    assert (list(bare.extra), bare.roles) == ([], Roles(("n_tasks",), ("k_shot",), (), (), "test_loss_nats"))
    shots = replace(FEW, axes={"k_shot": [1, 5]}).study({"n_tasks": 8}, seeds=(7, 8))
    assert (shots.base["n_tasks"], shots.seeds, len(shots.extra)) == (8, [7, 8], 4)
    assert recipes._places({"a": [1, 2], "b": [3], "c": [4, 5]}, ("a", "c")) == [
        {"a": 1, "c": 4}, {"a": 1, "c": 5}, {"a": 2, "c": 4}, {"a": 2, "c": 5},
    ]  # fmt: skip
    assert recipes._places({"a": [1, 2]}, ()) == [{}]


def test_what_a_profile_changes_of_a_study() -> None:
    profiles = {
        "alone": Profile("", {"k_shot": 2}, baselines=()),
        "other": Profile("", {"k_shot": 9, "n_way": 3}, axes={"k_shot": [2, 3]}, seeds=(9,), scale=("k_shot",)),
        "two": Profile("", scale=("n_tasks", "k_shot")),
    }
    recipe = replace(FEW, profiles=profiles)
    alone = recipe.study(profile="alone")
    assert (list(alone.extra), alone.axes, alone.seeds) == ([], {"n_tasks": [4, 8], "k_shot": [2]}, [5, 6])
    other = recipe.study(profile="other")
    assert (other.axes, other.base["n_way"], other.base["k_shot"], other.seeds) == ({"k_shot": [2, 3]}, 3, 1, [9])
    assert recipe.study(profile="other", seeds=[1]).seeds == [1]
    assert recipe.study({"n_way": 4}, "other").base["n_way"] == 4
    assert recipe.study(profile="two").roles.scales == ("n_tasks", "k_shot")  # type: ignore[union-attr]
    read = Reading(("k_shot",), (), ("n_tasks",), loss="mine", units="bits", better="higher")
    assert recipe.study(profile="two", reading=read, baselines=False).roles == Roles(
        ("k_shot",), (), ("n_tasks",), (), "test_loss_nats", "", "lower"  # a recipe has its own loss
    )  # fmt: skip
    series = Reading((), ("n_tasks",))
    assert recipe.study(reading=series, baselines=False).roles == Roles(
        ("k_shot",), ("n_tasks",), (), (), "test_loss_nats"
    )  # fmt: skip


def test_a_measured_column_stands_for_an_axis_and_files_have_absolute_places(tmp_path: Path) -> None:
    recipe = replace(MINE, scale_columns={"size": "n_params"}, loss="bits", source="/a/mine.py")
    study = recipe.study({"path": f"{tmp_path}/a/../b.csv"})
    assert (study.base["recipe"], study.base["path"]) == ("/a/mine.py", f"{tmp_path}/b.csv")
    assert study.roles == Roles(("n_params",), (), (), (), "bits")
    assert recipe.study({"path": [f"{tmp_path}/./a"]}).axes["path"] == [f"{tmp_path}/a"]
    assert MINE._take_axes({"size": (3, 4)}, {}) == {"size": [3, 4]}
    assert MINE._take_axes({"rates": [[0.1]]}, {}) == {"rates": [[0.1]]}  # one choice of a list is an axis as well
    assert MINE._take_axes({"size": []}, {}) == {"size": []}


def test_a_recipe_may_be_tuned_unless_it_is_told_not_to_be() -> None:
    space = {"space": {"depth": {"choice": [1, 2]}}, "trials": 5}
    recipe = replace(
        MINE, search=space, tuned=True, profiles={"more": Profile("", {"tune": {"trials": 8, "startup": 2}})}
    )
    asked = lambda study: (study.base["tune"]["trials"], study.base["tune"]["startup"])
    assert asked(recipe.study()) == (5, 6)
    assert asked(recipe.study(profile="more")) == (8, 2)
    assert asked(recipe.study({"tune": 9}, "more")) == (9, 2)
    assert "tune" not in recipe.study({"tune": False}, "more").base
    assert "tune" not in replace(recipe, tuned=False).study().base
    assert replace(recipe, tuned=False).study({"tune": True}).base["tune"]["trials"] == 5


def test_roles_are_the_studys_else_its_recipes_else_those_of_its_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    known = replace(MINE, scale_columns={"size": "n_params"}, loss="bits")
    monkeypatch.setattr(recipes, "stored_recipe", lambda *given: asked.append(given) or known)
    one = Study("s", "m:f", {"recipe": "mine"}, {"size": [1, 2], "kind": ["a"]}, (0,))
    assert recipes.roles_of(one) == Roles(("n_params",), ("kind",), loss="bits")
    assert asked == [("mine", "study 's'")]
    assert recipes.roles_of(replace(one, base={})) == Roles(("size",), ("kind",))
    stated = Roles(("size",), ("kind",), loss="mine")
    assert recipes.roles_of(replace(one, roles=stated)) == stated
    assert len(asked) == 1


# ------------------------------------------------------------------------------------------------------- finding


def test_a_trial_of_a_file_is_run_by_the_recipe_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(
        recipes, "load_recipe", lambda name: loaded.append(name) or SimpleNamespace(run_trial=lambda *given: given)
    )
    config: Any = {"recipe": "/a/mine.py", "size": 2}
    run: Any = "run"
    assert recipes.own_trial(config, run, "cuda:1") == (config, "run", "cuda:1")
    assert loaded == ["/a/mine.py"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*points: tuple[str, str, str | None]) -> None:
        found = [
            SimpleNamespace(name=name, module=module, dist=package and SimpleNamespace(name=package))
            for name, module, package in points
        ]
        monkeypatch.setattr(recipes, "_entry_points", lambda: found)

    for name, recipe in (("mod_a", "my-waves"), ("mod_b", "my_waves"), ("mod_c", "others"), ("mod_d", None)):
        module = ModuleType(name)
        if recipe:
            module.RECIPE = replace(MINE, name=recipe, module=None)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    return install


def test_names_of_recipes_are_listed_once_with_underscores(installed: Any) -> None:
    names = ("my-waves", "z", "a", "my_waves", "model-size", "c-d", "b")
    installed(*((name, f"module_{place}", "p") for place, name in enumerate(names)))
    assert recipes.recipe_names() == (*SHIPPED, "a", "b", "c_d", "my_waves", "z")


def test_an_installed_recipe_is_found_by_either_spelling(installed: Any) -> None:
    installed(("others", "mod_c", "q"), ("my-waves", "mod_a", "p"), ("my_waves", "mod_a", "p2"))
    for name in ("my-waves", "my_waves"):
        found = load_recipe(name)
        assert (found.name, found.source, found.module) == ("my-waves", "my_waves", sys.modules["mod_a"])
    assert load_recipe("model-size").source == "model_size"


@pytest.mark.parametrize(
    ("points", "said", "field"),
    [
        ([("waves", "mod_a", "p"), ("waves", "mod_b", "q")],
         "recipe 'waves' is registered twice, by package 'p' and by package 'q'", None),
        ([("waves", "mod_c", "p")],
         "recipe 'waves' of package 'p' calls itself 'others'; the names must agree", None),
        ([("waves", "mod_d", None)], "recipe 'waves' of package 'mod_d' defines no RECIPE", None),
        ([("waves", "nobody_has_this", "p")],
         "recipe 'waves' of package 'p' cannot be imported: No module named 'nobody_has_this'", "recipe"),
        ([("wavez", "mod_a", "p")], "there is no recipe 'waves'; did you mean 'wavez'?", "recipe"),
    ],
)  # fmt: skip
def test_an_installed_recipe_is_refused_in_a_sentence(
    points: Any, said: str, field: str | None, installed: Any
) -> None:
    installed(*points)
    with pytest.raises(InputError) as caught:
        load_recipe("waves")
    assert (str(caught.value), caught.value.field) == (said, field)


def test_a_shipped_name_that_a_package_takes_too(installed: Any) -> None:
    installed(("digits", "mod_a", "p"))
    with pytest.raises(InputError, match=r"^recipe 'digits' is registered twice, by metascale and by package 'p'$"):
        load_recipe("digits")
    installed(("digits", SHIPPED["digits"], "p"))
    assert load_recipe("digits").name == "digits"


def test_a_file_becomes_a_module_once_and_sees_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "neighbour_of_mine.py").write_text("SIZE = 3\n")
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    for path in (first, second):
        path.write_text("from neighbour_of_mine import SIZE\n")
    module = recipes.module_of_file(first)
    assert (module.SIZE, module.__name__, sys.modules[str(first)]) == (3, str(first), module)  # type: ignore[attr-defined]
    assert recipes.module_of_file(first) is module
    recipes.module_of_file(second)
    assert (sys.path.count(str(tmp_path)), sys.path[-1]) == (1, str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_recipe("~/first.py")
    assert str(caught.value) == f"the recipe file {first.resolve()} defines no RECIPE"
    (tmp_path / "third.py").write_text(
        "from metascale.workflow.recipe import Recipe\nfrom metascale.workflow.config import TrialConfig\n"
        "RECIPE = Recipe('any name', 't', 'q', TrialConfig, {})\n"
    )
    found, place = load_recipe("~/third.py"), str((tmp_path / "third.py").resolve())
    assert (found.name, found.source, found.module) == ("any name", place, sys.modules[place])
    for name in (str(first), str(second), place, "neighbour_of_mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        *((f"{kind}('why')", f"{kind}: why") for kind in (
            "ArithmeticError", "AssertionError", "AttributeError", "NameError", "OSError", "RuntimeError", "TypeError",
            "ValueError", "ZeroDivisionError", "IndexError",
        )),
        ("KeyError('why')", "KeyError: 'why'"), ("ImportError('why')", "why"), ("SyntaxError('why')", "why"),
        ("SystemExit(3)", "it ends in sys.exit(3)"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_leaves_no_module(
    raised: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine.py"
    path.write_text(f"raise {raised}\n")
    with pytest.raises(InputError) as caught:
        recipes.module_of_file(path, "function file")
    assert (str(caught.value), caught.value.field) == (f"the function file {path} cannot be imported: {said}", "recipe")
    assert str(path) not in sys.modules


def test_an_error_of_its_own_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine.py"
    path.write_text("class Own(Exception): pass\nraise Own('mine')\n")
    with pytest.raises(Exception, match="mine") as caught:
        recipes.module_of_file(path)
    assert (type(caught.value).__name__, isinstance(caught.value, InputError)) == ("Own", False)
    sys.modules.pop(str(path), None)
    with pytest.raises(InputError, match=r"^there is no recipe file .*none.py$") as gone:
        recipes.module_of_file(tmp_path / "none.py")
    assert (gone.value.field, gone.value.value) == ("recipe", str(tmp_path / "none.py"))


def test_a_stored_recipe_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = str(tmp_path.resolve() / "gone.py")
    for name, of, said in (
        (gone, "run 'r'", f"run 'r' needs its recipe: there is no recipe file {gone}"),
        ("a/b", "run 'r'", "run 'r' names its recipe by a relative path, a/b; recipes write absolute ones"),
        ("b.py", "study 's'", "study 's' names its recipe by a relative path, b.py; recipes write absolute ones"),
    ):
        with pytest.raises(InputError) as caught:
            recipes.stored_recipe(name, of)
        assert str(caught.value) == said
    monkeypatch.setattr(recipes, "load_recipe", lambda name: name)
    assert [recipes.stored_recipe(name, "s") for name in ("digits", gone)] == ["digits", gone]


# ------------------------------------------------------------------------------------ descriptions and study files


def test_a_class_without_words_or_keys_of_its_own_has_those_of_its_base() -> None:
    class Bare(Small):
        pass

    @dataclass(frozen=True)
    class Said(Small):
        """More.

        Args:
            size: second meaning.
            more: of more.

        Example:
            Args:
            depth: not a meaning
        """

        more: Count = 1

    keys = describe(replace(MINE, config=Bare)).keys
    assert [(one.name, one.meaning, one.own) for one in keys] == [
        ("size", "first meaning.", False), ("rates", "tried: all of them..", False), ("depth", "", False),
        ("path", "", False),
    ]  # fmt: skip
    said = {one.name: one.meaning for one in describe(replace(MINE, config=Said)).keys}
    assert said == {
        "more": "of more.", "size": "second meaning.", "rates": "tried: all of them..", "depth": "", "path": "",
    }  # fmt: skip
    assert next(iter(said)) == "more"
    twice = "Args:\n    a: x\n\nExample:\nArgs:\n    b: y"
    assert list(_arguments(twice)) == [(["a"], "x")]
    assert list(_arguments("Args:\n        of none\n    a: x\n\n        y: z\n    b\n")) == [
        (["a"], "x y: z"),
        (["b"], ""),
    ]
    assert _header("  of none\nData: here\n there") == {"Data": "here"}
    assert _header("Command:  a\n  b\nData:  c\n  d\nTook:\n  e") == {"Command": "a\nb", "Data": "c d"}


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[int, Ge(2), Lt(7)], "a whole number at least 2, below 7"),
        (Annotated[float, Gt(0.5), Le(1e6)], "a number above 0.5"),
        (Annotated[float, Ge(-1), Lt(999999.0)], "a number at least -1, below 999999"),
        (tuple[Annotated[int, Ge(0)], ...] | None, "a list, each a whole number at least 0; or none"),
        (Literal[1, 2], "1 or 2"),
        (Literal[1, True, "x"], "1, True or x"),
        (Rate, "a number above 0"),
        (Count | None, "a whole number at least 1; or none"),  # a limit of 10⁹ only keeps nonsense out
        (7, "7"),
        (None | bool, "true or false; or none"),
    ],
)
def test_an_annotation_in_words(hint: Any, words: str) -> None:
    assert allowed(hint) == words


@pytest.mark.parametrize(("name", "is_one"), [("a.yaml", True), ("b.yml", True), ("c.YAML", True), ("d.yamlx", False)])
def test_a_study_file_is_known_by_its_ending(name: str, is_one: bool, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text("recipe: digits\n")
    assert _read_study_file(str(file)) == ({"recipe": "digits"} if is_one else {})


def test_a_study_file_keeps_letters_and_wraps_with_its_indent() -> None:
    recipe = replace(MINE, defaults={"path": "größe.csv"}, profiles={"one": Profile("", {"depth": 5, "size": 4})})
    lines = study_text(recipe).splitlines()
    assert '  # path: "größe.csv"' in lines
    assert "  # tried: all of them (a list, each a number above 0)" in lines
    assert "  # depth: 2" in lines
    chosen = study_text(recipe, "one").splitlines()
    assert {"  # depth: 5", "  size: [1, 2]"} <= {*chosen}
    assert "  # size: 4" not in chosen
    assert [line for line in lines if line.startswith("profile")] == []


# ----------------------------------------------------------------------------------------------------- estimates

# Of 50 steps, a validation of 6 tasks at the start and after every tenth one, and the test of 8.
SHORT: dict[str, Any] = {
    "n_tasks": [5, 10], "k_shot": 1, "budget": "steps", "max_steps": 50, "eval_every": 10, "n_validation_tasks": 6,
    "n_test_tasks": 8, "n_curve_tasks": 4, "adaptation_curve": [0, 3], "tune_rates": [0.3], "tune_steps": [3],
    "inner_lr": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "evaluated"),
    [
        # The curve has 4 · 3 inner steps, the choice 2 rates · 6 tasks · 3 steps; an adaptation is one step.
        ({"inner_steps": 1}, 6 * 6 + 8 + (12 + 36) / 1),
        ({"inner_steps": 0}, 6 * 6 + 8 + (12 + 36) / 1),
        # A metric learner has no steps, and its choices are those of steps all the same.
        ({"method": "protonet", "inner_steps": 2}, 6 * 6 + 8 + (12 + 36) / 1),
        ({"eval_every": 51, "inner_steps": 2}, 1 * 6 + 8 + (12 + 36) / 2),
        ({"eval_every": 50, "inner_steps": 2}, 2 * 6 + 8 + (12 + 36) / 2),
    ],
)
def test_seconds_of_evaluations_in_inner_steps(
    changes: Any, evaluated: float, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: _Cost(10.0, 0.0, 0.25, 10, 5))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    found = estimate.estimate_costs(FEW, FEW.study({**SHORT, **changes}, seeds=[0], baselines=False), workers=1)
    assert found is not None
    assert found.total_s == pytest.approx(2 * evaluated * 0.25)


def test_trials_of_searches_take_as_long_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: _Cost(10.0, 0.5, 0.0, 10, 5))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    study = FEW.study(SHORT, seeds=[0], baselines=False)
    for n_searched, seconds, flops in ((0, 50.0, 1000.0), (1, 75.0, 1500.0), (6, 200.0, 4000.0)):
        monkeypatch.setattr(estimate, "n_search_trials", lambda study, n=n_searched: n)
        one, many = (estimate.estimate_costs(FEW, study, workers) for workers in (1, 9))
        assert one is not None
        assert many is not None
        assert (one.n_searched, one.total_s, one.train_flops) == (n_searched, seconds, flops)
        assert many.total_s == seconds / 2  # as many at once as there are trials, and no more than two cores


def test_a_study_of_baselines_trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: asked.append(given[1:]) or _Cost(0.0, 0.0, 0.0, 10, 5))
    monkeypatch.setattr(estimate, "n_search_trials", lambda study: 4)
    values = {"kind": "baseline", "method": "zero_shot", "n_way": 3}
    study = FEW.study({**SHORT, **values}, seeds=[8, 9], baselines=False)
    found = estimate.estimate_costs(FEW, study, workers=3)
    assert found is not None
    assert (found.n_trials, found.n_meta, found.n_searched) == (4, 0, 4)
    assert (found.total_s, found.train_flops, found.disk_bytes) == (0.0, 0.0, 3 * 10 * 4 * 8)
    ((config, seed, device),) = asked
    assert (config.kind, config.n_way, config.n_tasks, seed, device) == ("baseline", 3, 5, 8, "cpu")


def test_the_first_outer_step_is_counted_and_timed_as_a_trial_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    threads: list[int] = []
    params = {"w": torch.zeros(3)}
    model: Any = SimpleNamespace(
        init=lambda seed: asked.append(("params", seed)) or params, backbone=torch.nn.Linear(2, 3)
    )
    one = SimpleNamespace(support="support")
    moved = SimpleNamespace(tasks=lambda first, last: asked.append(("tasks", first, last)) or one)
    episode = SimpleNamespace(to=lambda device: asked.append(("to", device)) or moved)
    source: Any = SimpleNamespace(
        episodes=lambda split, tasks: asked.append((split, list(tasks))) or episode
    )  # fmt: skip
    theta = {"w": torch.zeros(3), "rate": torch.zeros(4)}
    learner = SimpleNamespace(
        gradient=lambda *given: asked.append(("gradient", *given)),
        init=lambda *given: asked.append(("init", *given)) or "state",
        step=lambda *given: asked.append(("step", *given)),
        adapt=lambda *given: asked.append(("adapt", *given)),
    )
    monkeypatch.setattr(estimate, "to", lambda tree, device: asked.append(("move", device)) or tree)
    monkeypatch.setattr(estimate, "make_learner", lambda *given: asked.append(("learner", *given)) or learner)
    monkeypatch.setattr(
        estimate, "make_inner", lambda config: SimpleNamespace(init=lambda given: theta if given is params else None)
    )
    seconds = iter((2.0, 3.0))
    monkeypatch.setattr(estimate, "count_flops", lambda call: (call(), 7.0)[1])
    monkeypatch.setattr(estimate, "_seconds", lambda call: (call(), next(seconds))[1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    best: list[Any] = []
    monkeypatch.setattr(
        estimate.Execution, "best_for", lambda *given: best.append(given) or SimpleNamespace(chunk=None)
    )
    config = FewShotConfig(method="fomaml", meta_batch=3, inner_steps=6, eval_inner_steps=5)
    assert estimate._measure(config, Parts(source, model, 16), 4, "mps") == _Cost(21.0, 2.0, 0.75, 7, 9)
    assert asked == [
        ("params", 4),
        ("move", "mps"),
        ("learner", config, model, 4, "mps"),
        ("train", [0, 1, 2]),
        ("to", "mps"),
        ("tasks", 0, 1),
        ("gradient", model, theta, one, None),
        ("init", model, 4, "mps"),
        ("step", model, "state", moved),
        ("adapt", model, params, "support", 5),
    ]
    assert (threads, best) == ([1, 9], [(model, "mps")])


def test_shapes_alone_are_counted_beside_real_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model holds tensors that were made before, such as its buffers."""
    options: list[Any] = []
    mode = SimpleNamespace(FakeTensorMode=lambda **given: options.append(given) or nullcontext())
    monkeypatch.setitem(sys.modules, "torch._subclasses.fake_tensor", mode)
    seeds: list[int] = []
    model = SimpleNamespace(init=lambda seed: seeds.append(seed) or {"w": torch.zeros(2)})
    monkeypatch.setattr(estimate, "adapted_model", lambda *given: model)
    monkeypatch.setattr(estimate, "make_inner", lambda plain: SimpleNamespace(init=lambda params: params))
    monkeypatch.setattr(estimate, "make_learner", lambda *given: SimpleNamespace(gradient=None))
    monkeypatch.setattr(estimate, "count_flops", lambda call: 3.0)
    assert estimate._count_shapes(TextConfig(meta_batch=2)) == _Cost(6.0, None, 0.0, 2, 0)
    assert (options, seeds) == ([{"allow_non_fake_inputs": True}], [0])


def test_what_fits_no_memory_is_a_sentence_and_other_errors_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Any:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(estimate, "_measure", fails)
    recipe: Any = SimpleNamespace(name="r", make_parts=lambda *given: None)
    with pytest.raises(InputError) as caught:
        estimate._cost_of(recipe, FewShotConfig(), 0, "cuda")
    assert str(caught.value) == (
        "recipe 'r': an outer step of the first trial does not fit into the memory of this machine; choose a smaller "
        "model, meta_batch, n_way, k_shot or n_query"
    )
