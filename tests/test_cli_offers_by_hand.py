"""What a shell is offered, what an unknown option is told, and the lists that commands print: by hand, without a
process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from metascale.cli import answer, complete, data, main, options, recipes
from metascale.core.errors import InputError


@dataclass(frozen=True)
class Config:
    lr: float = 0.5
    lr_end: float = 0.0
    method: str = "maml"
    flag: bool = True
    name: str = ""


KEYS = [
    SimpleNamespace(name="lr", default=0.5, allowed="a number above 0", meaning="rate; of Adam"),
    SimpleNamespace(name="lr_end", default=[1, 2], allowed="a number", meaning="last rate"),
    SimpleNamespace(name="method", default="maml", allowed="maml, anil or reptile; or none", meaning=""),
    SimpleNamespace(name="flag", default=True, allowed="true or false", meaning="a flag"),
]
PROFILES = {"quick": SimpleNamespace(about="word " * 20), "slow": SimpleNamespace(about="all")}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two recipes, one of which does not load."""
    one = SimpleNamespace(config=Config, title="a title", profiles=PROFILES)

    def load(name: str) -> Any:
        if name == "one_two":
            return one
        raise InputError(f"no recipe {name}")

    monkeypatch.setattr("metascale.workflow.recipe.load_recipe", load)
    monkeypatch.setattr("metascale.workflow.recipe.recipe_names", lambda: ["one_two", "one_broken", "other"])
    monkeypatch.setattr("metascale.workflow.describe.describe", lambda recipe: SimpleNamespace(keys=KEYS))
    return one


def context(*args: str, **params: Any) -> Any:
    return SimpleNamespace(params=params, args=list(args))


@pytest.mark.usefixtures("recipe")
def test_recipes_profiles_and_keys_are_offered() -> None:
    assert list(complete.recipes("one-")) == [("one_two", "a title"), ("one_broken", "")]
    assert list(complete.recipes("one_t")) == [("one_two", "a title")]
    typed = context(recipe="one_two")
    line = " ".join(["word"] * 14) + "…"
    assert list(complete.profiles(typed, "")) == [("quick", line), ("slow", "all")]
    assert list(complete.profiles(typed, "s")) == [("slow", "all")]
    assert list(complete.keys(typed, "lr")) == ["lr", "lr_end"]
    for other in (context(), context(recipe="x.py"), context(recipe="x.py:f"), context(recipe="zzz")):
        assert [*complete.profiles(other, ""), *complete.keys(other, ""), *complete.settings(other, "")] == []
    # An option that waits for its value leaves the recipe among the words that are not read yet.
    assert list(complete.keys(context("--quick", "one_two", "x"), "n")) == ["name"]


@pytest.mark.usefixtures("recipe")
def test_settings_are_offered_with_their_values() -> None:
    typed = context(recipe="one_two")
    assert list(complete.settings(typed, "lr")) == [
        ("lr=", "rate"), ("lr=0.5", "the default"), ("lr_end=", "last rate"),
    ]  # fmt: skip
    assert list(complete.settings(typed, "lr_")) == [("lr_end=", "last rate"), ("lr_end=[1,2]", "the default")]
    assert list(complete.settings(typed, "m")) == [("method=", ""), ('method="maml"', "the default")]
    assert list(complete.settings(typed, "method=")) == [
        ("method=maml", ""),
        ("method=anil", ""),
        ("method=reptile", ""),
    ]
    assert list(complete.settings(typed, "method=r")) == [("method=reptile", "")]
    assert list(complete.settings(typed, "flag=t")) == [("flag=true", "")]
    assert list(complete.settings(typed, "lr=")) == []


def test_runs_are_offered_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c", "a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(complete, "_MOST", 2)
    assert list(complete.runs(f"{tmp_path}/")) == [f"{tmp_path}/a/", f"{tmp_path}/b/"]


FLAGS = {"values": "--set", "workers": "--workers", "tune": "--tune", "shots": "--shots", "x": "--scale"}
BESIDE = " (options of nearly this name: --loss)"


@pytest.mark.parametrize(
    ("option", "typed", "said"),
    [
        ("--lr", "run one-two --lr 0.1", "it is a key of the configuration: --set lr=0.1"),
        ("--lr", "run one_two --lr=3 --x", "it is a key of the configuration: --set lr=3"),
        ("--lr", "run one_two --lr --out x", "it is a key of the configuration: --set lr=..."),
        ("--lr", "run one_two --lr", "it is a key of the configuration: --set lr=..."),
        ("--lr-end", "run one_two --lr-end -1", "it is a key of the configuration: --set lr_end=-1"),
        ("--meta-lr", "run one_broken --meta-lr 1", "here it is --set outer_lr=1 or --set upper_lr=1"),
        ("--losz", "run x.py:f --losz 2", f"a key of your own function or program is given by --set losz=2{BESIDE}"),
        ("--losz", "run --command=go --losz 2",
         f"a key of your own function or program is given by --set losz=2{BESIDE}"),
        ("--meta-lr", "run --command go --meta-lr 2",
         f"a key of your own function or program is given by --set meta_lr=2{BESIDE}"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("recipe")
def test_an_unknown_option_is_translated(option: str, typed: str, said: str) -> None:
    assert options.translated(option, typed.split(), FLAGS, ["--loss"]) == said


def test_a_command_without_set_names_its_own_option() -> None:
    flags = {"shots": "--shots", "inner_steps": "--inner-steps"}
    assert options.translated("--k_shot", [], flags) == "here it is --shots"
    assert options.translated("--k-spt=3", [], flags) == "here it is --shots"
    assert options.translated("--zzz", [], flags) == ""
    assert options.translated("--k_shot", [], {"other": "--other"}) == ""
    own = options.translated("--zz", ["run", "x.py:f"], FLAGS)
    assert own == "a key of your own function or program is given by --set zz=..."


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (data, main, recipes):
        monkeypatch.setattr(module, "out", Console(width=300))
    answer.forget()


def cells(printed: str) -> list[list[str]]:
    lines = (line.strip("│┃ ").replace("┃", "│").split("│") for line in printed.splitlines())
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.usefixtures("wide")
def test_data_sets_are_listed_checked_and_fetched(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    files = [SimpleNamespace(path="a", status="ok", note=""), SimpleNamespace(path="b", status="missing", note="here")]
    found = SimpleNamespace(ok=True, files=files)
    one = SimpleNamespace(name="n", licence="CC0", home="home", citation="we", files=3)
    monkeypatch.setattr("metascale.tasks.datasets.DATASETS", {"k": one})
    monkeypatch.setattr("metascale.tasks.datasets.check", lambda name, folder: found)
    monkeypatch.setattr("metascale.tasks.datasets.get", lambda name, folder: folder / name)
    data.data_list()
    assert cells(capsys.readouterr().out)[1:4:2] == [
        ["name", "licence", "home", "citation"],
        ["n", "CC0", "home", "we"],
    ]
    assert answer._now.given == {"data_sets": [{"name": "n", "licence": "CC0", "home": "home", "citation": "we"}]}
    answer.forget()
    data.data_check("n", Path("d"))
    told = [{"path": "a", "status": "ok", "note": ""}, {"path": "b", "status": "missing", "note": "here"}]
    assert answer._now.given == {"ok": True, "files": told}
    printed = cells(capsys.readouterr().out)
    assert (printed[1], printed[3], printed[4]) == (["file", "state"], ["a", "ok"], ["b", "missing here"])
    found.ok = False
    with pytest.raises(typer.Exit) as left:
        data.data_check("n")
    assert (left.value.exit_code, answer._now.given["ok"]) == (1, False)
    capsys.readouterr()
    answer.forget()
    data.data_get("n", Path("d"))
    assert answer._now.given == {"name": "n", "folder": Path("d/n")}
    assert capsys.readouterr().out == "n is in d/n\n"


@pytest.mark.usefixtures("wide")
def test_recipes_are_listed_with_those_that_do_not_load(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    sets = {"a": ["mnist", "sms"], "c": []}

    def load(name: str) -> Any:
        if name == "b":
            raise InputError("broken")
        return SimpleNamespace(title=f"title {name}", profiles={"x": 1, "y": 2} if name == "a" else {},
                               data_sets_of=lambda values: sets[name])  # fmt: skip

    monkeypatch.setattr("metascale.workflow.recipe.load_recipe", load)
    monkeypatch.setattr("metascale.workflow.recipe.recipe_names", lambda: ["a", "b", "c"])
    recipes.recipes()
    printed = cells(capsys.readouterr().out)
    for row in (["recipe", "what it is", "profiles", "data"], ["a", "title a", "x", "mnist, sms"], ["y"],
                ["b", "broken", "-", "-"], ["c", "title c", "-", "-"]):  # fmt: skip
        assert row in printed
    assert printed[-1] == ["metascale recipes NAME says all about one"]
    assert answer._now.given == {"recipes": [
        {"name": "a", "title": "title a", "profiles": ["x", "y"], "data": ["mnist", "sms"]},
        {"name": "b", "error": "broken"}, {"name": "c", "title": "title c", "profiles": [], "data": []},
    ]}  # fmt: skip


@pytest.mark.usefixtures("wide")
def test_a_recipe_is_printed_whole(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    @dataclass
    class Description:
        name: str
        title: str
        question: str
        header: dict[str, str]
        axes: dict[str, Any]
        seeds: tuple[int, ...]
        baselines: tuple[str, ...]
        profiles: dict[str, Any]
        keys: list[Any]

    key = SimpleNamespace(name="n", default=[1], allowed="a list", meaning="how many", profiles={"q": None}, own=True)
    other = SimpleNamespace(name="lr", default=0.5, allowed="a number", meaning="", profiles={}, own=False)
    profile = {"about": "fast", "axes": {}, "seeds": [0]}
    found = Description(
        "r", "title", "why?", {"Took": "1 s"}, {"n": [1, 2]}, (0, 1), ("zero", "fine"), {"q": profile}, [key, other]
    )
    monkeypatch.setattr("metascale.workflow.describe.describe", lambda recipe: found)
    loaded = SimpleNamespace(data_sets_of=lambda values: ["mnist", "sms"])
    monkeypatch.setattr("metascale.workflow.recipe.load_recipe", lambda name: loaded)
    recipes.recipes("r")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "r: title", "why?", "  Took: 1 s", "  Data sets: mnist, sms", "  Varied: n in [1, 2]; seeds [0, 1]",
        "  Beside it: zero, fine", "--profile q: fast", "  varied: nothing; seeds [0]",
        "keys of this recipe (--set KEY=VALUE)", "n = [1]   a list", "    how many", "    q: none",
        "keys that other recipes have too", "lr = 0.5   a number",
    ]  # fmt: skip
    assert answer._now.given == {**vars(found), "data_sets": ["mnist", "sms"]}
    found.keys, found.baselines, loaded.data_sets_of = [other], (), lambda values: []
    recipes.recipes("r")
    printed = capsys.readouterr().out
    assert "Data sets: none to download" in printed
    assert ("keys of this recipe" in printed, "Beside it" in printed) == (False, False)


@pytest.mark.usefixtures("wide")
def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("metascale.workflow.doctor.describe_machine", lambda: [("torch", "2"), ("cores", "4")])
    main.doctor()
    assert answer._now.given == {"torch": "2", "cores": "4"}
    printed = cells(capsys.readouterr().out)
    assert ["torch", "2"] in printed
    assert ["cores", "4"] in printed
