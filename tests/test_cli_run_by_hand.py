"""`run`, `resume` and the commands about a study's folder: what they pass on and what they print, by hand."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sqlite3
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from metascale.cli import answer, main, run
from metascale.cli import study as cli_study
from metascale.core.errors import InputError
from metascale.study.errors import Interrupted
from metascale.study.roles import Reading
from metascale.study.run.session import StudyOutcome
from metascale.workflow import launch
from metascale.workflow.conclude import Conclusion

OUTCOME = StudyOutcome(Path("f"), 4, 3, 0, 1, 0, 4, 0, 2.5)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a table is broken."""
    for module, name in ((run, "out"), (cli_study, "console"), (main, "out")):
        monkeypatch.setattr(module, name, Console(width=300))


def given() -> dict[str, Any]:
    """What the command would print with ``--json``."""
    return answer._now.given


def rows_of(printed: str) -> list[list[str]]:
    lines = (line.strip("│┃ ").replace("┃", "│").split("│") for line in printed.splitlines())
    return [[cell.strip() for cell in cells] for cells in lines]


# ------------------------------------------------------------------------------------------ from options to a plan


class Launched:
    """Stands in for `plan`, `plan_from_folder` and `launch`, and keeps what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, outcome: StudyOutcome = OUTCOME) -> None:
        self.planned: list[tuple[Any, ...]] = []
        self.launched: list[tuple[Any, ...]] = []
        self.outcome = outcome
        self.plan = SimpleNamespace(following=(), read=(), study=SimpleNamespace(name="s"))
        monkeypatch.setattr(launch, "Place", lambda *fields: fields)
        monkeypatch.setattr(launch, "plan", self._plan)
        monkeypatch.setattr(launch, "plan_from_folder", lambda *args, **more: self._plan(*args, **more))
        monkeypatch.setattr(launch, "launch", self._launch)

    def _plan(self, *args: Any, **more: Any) -> Any:
        self.planned.append((args, more))
        return self.plan

    def _launch(self, *args: Any, **more: Any) -> Any:
        self.launched.append((args, more))
        return self.outcome, None


def start(**options: Any) -> None:
    """`metascale run` with these options and the defaults of all others."""
    own = {
        "recipe": None, "command": None, "out_dir": Path("o"), "values": None, "config": None, "scale": None,
        "series": None, "best_of": None, "loss": "", "units": "", "better": "lower", "profile": None, "quick": False,
        "seeds": None, "tune": None, "memory_budget": None, "data_dir": None, "baselines": True, "fail_fast": False,
        "dry_run": False,
    }  # fmt: skip
    place = {
        "executor": "serial", "workers": None, "devices": "cpu", "processes_per_trial": 1, "hang_after": 3600.0,
        "address": None, "partition": "", "cpus_per_trial": 1, "gpus_per_trial": 0, "memory_gb": None,
        "time_limit_min": 240, "trial_timeout": None, "stack": None,
    }  # fmt: skip
    run.run(**{**own, **place, **options})


def test_every_option_of_run_reaches_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = Launched(monkeypatch)
    config = tmp_path / "c.yaml"
    config.write_text("a: 1\nb: 2\n")
    start(
        command="train {a}", out_dir=tmp_path, values=["b=3", "c=x"], config=config, scale=["a"], series=["b"],
        best_of=["c"], loss="cost", units="s", better="higher", profile="fast", seeds="0,2", tune=7,
        memory_budget="2GiB", baselines=False, fail_fast=True, workers=3, stack="4", trial_timeout=9.0,
    )  # fmt: skip
    place = ("serial", 3, "cpu", 1, 3600.0, None, "", 1, 0, None, 240, 9.0, 4)
    assert seen.planned == [(
        (None, {"a": 1, "b": 3, "c": "x", "tune": 7, "memory_budget": "2GiB"}),
        {"profile": "fast", "seeds": [0, 2], "place": place, "baselines": False, "command": "train {a}",
         "reading": Reading(["a"], ["b"], ["c"], "cost", "s", "higher")},
    )]  # fmt: skip
    assert seen.launched == [((seen.plan, tmp_path), {"fail_fast": True})]
    start(stack="auto")
    args, more = seen.planned[-1]
    assert (args, more["seeds"], more["baselines"], more["command"]) == ((None, {}), None, True, None)
    assert (more["place"][-1], more["profile"], more["reading"]) == ("auto", None, Reading())
    start(quick=True)
    assert seen.planned[-1][1]["profile"] == "quick"


def test_a_study_file_is_below_what_is_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = Launched(monkeypatch)
    file, other = tmp_path / "s.yaml", tmp_path / "c.yaml"
    file.write_text(
        "command: go\nprofile: mine\nseeds: 0-2\nbaselines: false\nscale: n\nseries: [m]\nbest_of: lr\nloss: cost\n"
        "units: J\nbetter: higher\nvalues:\n  n: [1, 2]\n  lr: 1e-3\n  m: x\n"
    )
    start(recipe=str(file))
    (args, more), reading = seen.planned[-1], Reading(["n"], ["m"], ["lr"], "cost", "J", "higher")
    assert args == (None, {"n": [1, 2], "lr": 0.001, "m": "x"})
    assert (more["profile"], more["seeds"], more["baselines"], more["command"], more["reading"]) == (
        "mine", [0, 1, 2], False, "go", reading,
    )  # fmt: skip
    other.write_text("lr: 0.5\nm: y\n")
    start(
        recipe=str(file), config=other, values=["m=z"], profile="p", seeds="9", scale=["k"], loss="l", units="u",
        command="c",
    )  # fmt: skip
    args, more = seen.planned[-1]
    assert args == (None, {"n": [1, 2], "lr": 0.5, "m": "z"})
    assert (more["profile"], more["seeds"], more["command"], more["reading"]) == (
        "p", [9], "c", Reading(["k"], ["m"], ["lr"], "l", "u", "higher"),
    )  # fmt: skip


def test_a_place_has_the_options_in_its_own_order() -> None:
    fields = ["executor", "workers", "devices", "processes_per_trial", "hang_s", "address", "partition",
              "cpus_per_trial", "gpus_per_trial", "memory_gb", "time_limit_min",
              "trial_timeout_s", "stack"]  # fmt: skip
    assert [one.name for one in dataclasses.fields(launch.Place)] == fields


def test_a_dry_run_prints_costs_and_launches_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = Launched(monkeypatch)
    rows = [["trials", "12"], ["time", "3 min"]]
    monkeypatch.setattr(run, "_costs", lambda planned: ("", ["s (dry run)", ""], rows))
    start(dry_run=True)
    assert seen.launched == []
    assert (given()["study"], given()["headings"], given()["costs"]) == ("s", ["s (dry run)", ""], rows)
    printed = rows_of(capsys.readouterr().out)
    assert ["trials", "12"] in printed
    monkeypatch.setattr(run, "_costs", lambda planned: ("costs", ["part", "runs"], [["a", "1"], ["bb", "1000"]]))
    start(dry_run=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert [line.strip() for line in lines] == ["costs", "part   runs", "a         1", "bb     1000"]


def test_the_costs_of_a_function_are_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values and three seeds, and a search of five trials before them."""
    from metascale.study.design import Study

    study = Study("mine", "tests.study.folders:TRIALS", {}, {"n": (1, 2)}, (0, 1, 2))
    planned: Any = SimpleNamespace(recipe=None, study=study)
    title, headings, rows = run._costs(planned)
    assert (title, headings) == ("", ["mine (dry run)", ""])
    assert rows == [["trials", "6"], ["axes", "n in [1, 2]; seeds [0, 1, 2]"]]
    monkeypatch.setattr("metascale.study.search.run.n_search_trials", lambda study: 5)
    assert run._costs(planned)[2][0] == ["trials", "11"]


def test_resume_takes_the_folder_and_the_place(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    seen = Launched(monkeypatch)
    seen.plan.following, seen.plan.read = ("the study of X", "Y"), ("texts: 3 rows",)
    place = {
        "executor": "ray", "workers": 2, "devices": "cuda:0", "processes_per_trial": 4, "hang_after": 5.0,
        "address": "auto", "partition": "p", "cpus_per_trial": 6, "gpus_per_trial": 7, "memory_gb": 8.0,
        "time_limit_min": 9, "trial_timeout": 10.0, "stack": None,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"^--data-dir .*/none is not a folder$"):
        run.resume(folder=tmp_path, data_dir=tmp_path / "none", fail_fast=False, **place)
    run.resume(folder=tmp_path, data_dir=None, fail_fast=True, **place)
    asked = ("ray", 2, "cuda:0", 4, 5.0, "auto", "p", 6, 7, 8.0, 9, 10.0, None)
    assert seen.planned == [((tmp_path,), {"place": asked})]
    assert seen.launched == [((seen.plan, tmp_path), {"fail_fast": True})]
    assert capsys.readouterr().out.splitlines() == [
        "with the settings of the study of X, which these values bring with them",
        "with the settings of Y, which these values bring with them",
        "texts: 3 rows",
    ]


def test_a_command_leaves_as_its_study_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = Launched(monkeypatch)
    seen.outcome = StudyOutcome(Path("f"), 1, 1, 0, 0, 0, 1, 0, 1.0)
    start()
    assert given()["finished"] == 1
    seen.outcome = StudyOutcome(Path("f"), 2, 1, 1, 0, 0, 1, 1, 1.0)
    with pytest.raises(typer.Exit) as left:
        start()
    assert left.value.exit_code == seen.outcome.exit_status == 1

    def interrupted(*args: Any, **more: Any) -> Any:
        raise Interrupted(15)

    monkeypatch.setattr(launch, "launch", interrupted)
    with pytest.raises(typer.Exit) as left:
        start()
    assert left.value.exit_code == 143


def test_the_data_folder_is_named_to_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METASCALE_DATA", "before")
    run.use_data_dir(None)
    assert os.environ["METASCALE_DATA"] == "before"
    monkeypatch.chdir(tmp_path)
    run.use_data_dir(Path("."))
    assert os.environ["METASCALE_DATA"] == str(tmp_path.resolve())


def test_quick_is_a_profile() -> None:
    assert [run._profile(*asked) for asked in (
        (None, False, {}), ("a", False, {"profile": "b"}), (None, False, {"profile": "b"}), (None, True, {}),
        ("quick", True, {}), (None, True, {"profile": "b"}),
    )] == [None, "a", "b", "quick", "quick", "quick"]  # fmt: skip
    with pytest.raises(InputError, match=r"^--quick is --profile quick: it cannot go with --profile a$"):
        run._profile("a", True, {})


# ------------------------------------------------------------------------------------------ values as they are typed


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("2,5", [2, 5]), ("1e-3", 0.001), ("1e-3,2", [0.001, 2]), ("a,b", ["a", "b"]), ("a, b", "a, b"),
        ("1, 2", [1, 2]), ("1, b", "1, b"), ("true,null", [True, None]), ("'a,b'", "a,b"), ("[1e2, x]", [100.0, "x"]),
        ("0", 0), ("-01", -1), ("07", 7), ("10,20", [10, 20]), ("{a: [1e1]}", {"a": ["1e1"]}), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_what_a_value_is(typed: str, value: Any) -> None:
    assert run._parse_values([f" key ={typed}"]) == {"key": value}


@pytest.mark.parametrize(
    ("typed", "field", "value", "said"),
    [
        ("key", None, None, "--set needs key=value, not 'key'"),
        (" =3", None, None, "--set needs key=value, not ' =3'"),
        ("k=1,,2", "k", "1,,2", "--set k=1,,2 has nothing at one side of a comma"),
        ("k=1,", "k", "1,", "--set k=1, has nothing at one side of a comma"),
        ("k=1,000", "k", "1,000", "--set k=1,000 is a list; write 1000 without commas"),
        ("k=1,02,3", "k", "1,02,3", "--set k=1,02,3 is a list; write 1023 without commas"),
        ("k=[", None, None, "--set k: '[' cannot be read as YAML: "),
    ],
)
def test_a_value_that_is_none(typed: str, field: str | None, value: str | None, said: str) -> None:
    with pytest.raises(InputError) as refused:
        run._parse_values([typed])
    assert str(refused.value).startswith(said)
    assert (refused.value.field, refused.value.value) == (field, value)


def test_a_long_value_is_shown_by_its_first_200_letters() -> None:
    with pytest.raises(InputError, match=r"^--set k: '\[{200}' cannot be read"):
        run._parse_values(["k=" + "[" * 201])


def test_so_many_values_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list itself is one, and so are the values of a mapping, not its keys."""
    monkeypatch.setattr(run, "MOST_VALUES", 4)
    assert run._parse_values(["k=[1,2,3]"]) == {"k": [1, 2, 3]}
    assert run._parse_values(["k={a: 1, b: [2]}"]) == {"k": {"a": 1, "b": [2]}}
    for typed in ("[1,2,3,4]", "{a: 1, b: [2, 3]}"):
        with pytest.raises(InputError, match=r"stands for more than 4 values, the most that a study takes$"):
            run._parse_values([f"k={typed}"])


def test_seeds_up_to_ten_thousand_in_a_range() -> None:
    assert run._parse_seeds(None) is None
    assert run._parse_seeds(" 3 - 4 ,0") == [3, 4, 0]
    assert run._parse_seeds("1-10000") == list(range(1, 10_001))
    for typed, said in (
        ("0-10000", "--seeds 0-10000: a range goes up, by at most 10,000 seeds, such as 0-4"),
        (" 2-1 ", "--seeds 2-1: a range goes up, by at most 10,000 seeds, such as 0-4"),
        ("1;2", "--seeds needs whole numbers, 0 or more, separated by commas, such as 0,1,2, or a range such as 0-4, "
                "not '1;2'"),
    ):  # fmt: skip
        with pytest.raises(InputError) as refused:
            run._parse_seeds(typed)
        assert str(refused.value) == said


def test_a_file_of_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("7: 1e-2\nname: 007\nnone: null\nlist: [1e3, ä]\nyes: no\n", encoding="utf-8")
    assert run._read_config(None) == {}
    assert run._read_config(Path("~/c.yaml")) == {
        "7": 0.01, "name": 7, "none": None, "list": [1000.0, "ä"], "True": False
    }  # fmt: skip
    texts = frozenset({"name", "none", "list", "absent"})
    assert run._read_config(tmp_path / "c.yaml", texts) == {
        "7": 0.01, "name": "007", "none": None, "list": ["1e3", "ä"], "True": False
    }  # fmt: skip
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, said in (
        ("list.yaml", "the study file {} must hold keys and values, not a list"),
        ("c.yam", "the study file {} does not exist; did you mean 'c.yaml'?"),
        ("nothing", "the study file {} does not exist"),
        ("no/x.yaml", f"the study file {{}} does not exist: there is no folder {tmp_path}/no"),
    ):
        with pytest.raises(InputError) as refused:
            run._read_config(tmp_path / name, name="the study file")
        assert str(refused.value) == said.format(tmp_path / name)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(InputError, match=r"^--config .*latin.yaml cannot be read: it is not UTF-8 \(.+\)$"):
        run._read_config(tmp_path / "latin.yaml")
    folder = tmp_path / "c.yml"
    folder.mkdir()
    with pytest.raises(InputError, match=r"^--config .*c.yml cannot be read: Is a directory$"):
        run._read_config(folder)
    assert run._nearest_file(tmp_path / "c.ym") == "; did you mean 'c.yaml'?"  # a folder is no file of values


def test_what_is_a_study_file(tmp_path: Path) -> None:
    assert run._read_study_file(None) == run._read_study_file("digits") == {}
    for suffix in (".yaml", ".YML"):
        file = tmp_path / f"s{suffix}"
        file.write_text("recipe: digits\nseeds: 3\nvalues:\n")
        assert run._read_study_file(str(file)) == {"recipe": "digits", "seeds": [3], "values": None}
        file.write_text("recipe: digits\nseeds: [1, 4]\n")
        assert run._read_study_file(str(file)) == {"recipe": "digits", "seeds": [1, 4]}
    assert run._texts_kept({"a": 1, "b": 2, "c": None, "d": [1], "e": True, "f": "1e2"}, frozenset("acde")) == {
        "a": "1", "b": 2, "c": None, "d": [1], "e": True, "f": 100.0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ what a study has shown


class Analysis:
    """A law with one parameter."""

    def to_json(self) -> dict[str, Any]:
        return {"law": "power", "formula": "L = A N^-a", "level": 0.9, "verdict": "it falls", "n_observations": 12,
                "parameters": {"a": {"estimate": 0.25, "low": 0.125, "high": 1.5}}, "left": "out"}  # fmt: skip

    def summary(self) -> str:
        return "a summary"


LAW = {key: value for key, value in Analysis().to_json().items() if key != "left"}


def concluded(**changed: Any) -> Conclusion:
    plain: dict[str, Any] = {"analyses": {}, "no_law": "", "written": ()}
    return Conclusion(**{**plain, **changed})


def test_a_conclusion_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    answer.forget()
    written = (Path("a.json"), Path("b.html"))
    laws: Any = {"": Analysis(), "maml": Analysis()}
    methods = ({"name": "m", "loss": 1.0, "accuracy": None}, {"name": "n", "loss": 2.0, "accuracy": None})
    run.print_conclusion(
        concluded(analyses=laws, cautions=("be careful",), answer="so", methods=methods, written=written)
    )
    assert capsys.readouterr().out.splitlines() == ["be careful", "a summary", "maml", "a summary", "a.json", "b.html"]
    assert given() == {"laws": {"": LAW, "maml": LAW}, "no_law": "", "cautions": ("be careful",), "written": written,
                       "answer": "so", "methods": methods}  # fmt: skip
    run.print_conclusion(concluded(no_law="one scale", methods=methods))
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    assert said == [["no", "law:", "one", "scale"], ["method", "loss"], ["m", "1"], ["n", "2"]]
    run.print_conclusion(concluded(methods=methods[:1]))
    assert capsys.readouterr().out == ""


def test_methods_without_a_law_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    methods = [{"name": "maml", "loss": 0.12345, "accuracy": 0.9512}, {"name": "zero", "loss": None, "accuracy": None}]
    run.out.print(run._compared(methods))
    said = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    assert said == ["method    loss   accuracy", "maml     0.123      95.1%", "zero         -          -"]


def test_a_law_on_two_lines() -> None:
    assert cli_study.law_json(Analysis()) == LAW
    said = "L = A N^-a, a = 0.25 [0.125, 1.5] (90 % intervals, 12 trials)"
    assert cli_study._law_lines("", Analysis()) == [f"law so far: {said}", "  it falls"]
    assert cli_study._law_lines("maml", Analysis()) == [f"law (maml): {said}", "  it falls"]


# ------------------------------------------------------------------------------------------ how a study stands


class Folder:
    """Stands in for what reads a study: counts of trials, a clock, and what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts = {"finished": 1, "pending": 2, "running": 1}
        self.kinds = ["meta", "tuning"]
        self.searched, self.locked, self.now = None, False, 100.0
        self.asked: list[str] = []
        runs = lambda: [SimpleNamespace(trial=SimpleNamespace(kind=kind)) for kind in self.kinds]
        view = lambda folder: SimpleNamespace(folder=folder, study="study", runs=runs())
        monkeypatch.setattr("metascale.study.store.folder.read_study", view)
        monkeypatch.setattr("metascale.study.status.study_status", self._status)
        monkeypatch.setattr("metascale.study.status.disk_of", self._disk)
        monkeypatch.setattr("metascale.study.status.render_status", self._render)
        monkeypatch.setattr("metascale.study.search.search.search_of", lambda study: self.searched)
        monkeypatch.setattr("metascale.workflow.standing.laws_so_far", self._laws)
        monkeypatch.setattr(cli_study, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(cli_study, "leave_if_damaged", lambda folder: self.asked.append(f"damage of {folder}"))
        self.laws: tuple[dict[str, Any], str] = ({"": Analysis()}, "")

    def _status(self, view: Any) -> Any:
        if self.locked:
            raise sqlite3.OperationalError("database is locked")
        return SimpleNamespace(counts=dict(self.counts), to_json=lambda: {"counts": dict(self.counts)})

    def _disk(self, folder: Path) -> Any:
        self.asked.append("disk")
        return SimpleNamespace(n_bytes=2048, n_files=3, free_bytes=5 << 20)

    def _laws(self, view: Any) -> Any:
        self.asked.append("law")
        return self.laws

    def _render(self, status: Any, max_rows: int, width: int) -> str:
        return f"{sum(status.counts.values())} trials, {max_rows} rows, {width} wide"

    def _sleep(self, seconds: float) -> None:
        self.asked.append(f"slept {seconds:g}")
        if self.asked.count(f"slept {seconds:g}") > 1:
            self.counts |= {"finished": 4, "pending": 0, "running": 0}


def test_status_has_the_law_and_the_disk(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen = Folder(monkeypatch)
    monkeypatch.setattr("metascale.study.store.once.reading_once", nullcontext)
    monkeypatch.setattr(cli_study, "plain", lambda disk: vars(disk))
    answer.forget()
    cli_study.status(Path("here"), True, 7)
    told = "law so far: L = A N^-a, a = 0.25 [0.125, 1.5] (90 % intervals, 12 trials)"
    assert capsys.readouterr().out.splitlines() == [
        "4 trials, 7 rows, 300 wide", told, "  it falls", "disk: 2.00 KiB in 3 files, 5.00 MiB free",
    ]  # fmt: skip
    assert seen.asked == ["disk", "law", "damage of here"]
    disk = {"n_bytes": 2048, "n_files": 3, "free_bytes": 5 << 20}
    assert given() == {"counts": seen.counts, "laws": {"": LAW}, "no_law": "", "disk": disk}
    assert cli_study._Standing(Path("here"), False).render(7).renderables[-1].style == "dim"  # type: ignore[attr-defined]
    seen.laws = ({}, "two scales")
    cli_study.status(Path("here"), True, 7)
    assert capsys.readouterr().out.splitlines()[1] == "no law yet: two scales"
    assert cli_study._Standing(Path("here"), True).render(7).renderables[-2].style == "dim"  # type: ignore[attr-defined]
    answer.forget()
    cli_study.status(Path("here"), False, 7)
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert given() == {"counts": seen.counts, "disk": disk}


def test_the_law_is_fitted_again_once_a_trial_has_finished_and_the_disk_read_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Folder(monkeypatch)
    standing = cli_study._Standing(Path("here"), True)
    seen.now += 30
    standing.refresh()
    assert seen.asked == ["disk", "law"]
    seen.now += 0.5
    seen.counts["finished"] += 1
    standing.refresh()
    assert sorted(seen.asked) == ["disk", "disk", "law", "law"]
    standing.refresh()
    assert len(seen.asked) == 4
    seen.locked = True
    standing.refresh()  # what was there stays
    assert standing._status.counts["finished"] == 2
    with pytest.raises(sqlite3.OperationalError):
        cli_study._Standing(Path("here"), True)
    seen.locked = False
    cli_study._Standing(Path("here"), False)
    assert seen.asked[4:] == ["disk"]


@pytest.mark.parametrize(
    ("pending", "running", "searched", "kinds", "done"),
    [
        (0, 0, None, ["meta"], True), (1, 0, None, ["meta"], False), (0, 1, None, ["meta"], False),
        (0, 0, "search", ["tuning"], False), (0, 0, "search", ["tuning", "meta"], True), (0, 0, None, ["tuning"], True),
    ],
)  # fmt: skip
def test_when_a_study_is_done(
    pending: int, running: int, searched: Any, kinds: list[str], done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Folder(monkeypatch)
    seen.counts |= {"pending": pending, "running": running}
    seen.searched, seen.kinds = searched, kinds
    assert cli_study._Standing(Path("here"), False).is_done is done


def test_watch_says_what_changed_until_all_has_ended(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    seen, said = Folder(monkeypatch), []
    monkeypatch.setattr(cli_study, "plain", lambda disk: vars(disk))
    monkeypatch.setattr(cli_study, "give_line", lambda values: said.append(values["counts"]["finished"]))
    monkeypatch.setattr(cli_study, "console", Console(width=300, height=20))
    cli_study.watch(Path("here"), 0.25, False, True)
    assert seen.asked == ["disk", "slept 0.25", "slept 0.25", "damage of here"]
    assert said == [1, 4]
    assert "4 trials, 8 rows, 300 wide" in capsys.readouterr().out
    monkeypatch.setattr(cli_study, "console", Console(width=300, height=16))
    cli_study.watch(Path("here"), 0.25, False, True)
    assert "4 trials, 5 rows, 300 wide" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ other commands of a folder


def test_damage_is_named_and_leaves_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    damaged: tuple[list[str], list[str]] = ([], [])
    monkeypatch.setattr("metascale.study.store.folder.read_study", lambda folder: "view")
    monkeypatch.setattr("metascale.study.store.folder.damaged_runs", lambda view: damaged[0])
    monkeypatch.setattr("metascale.study.store.table.unsealed_finals", lambda folder: "written by hand")
    monkeypatch.setattr("metascale.study.store.verify.missing_results", lambda view: damaged[1])
    answer.forget()
    cli_study.leave_if_damaged(Path("here"))
    assert given() == {"damaged": ()}
    assert capsys.readouterr().err == "metascale: written by hand\n"
    damaged[0].append("run a")
    damaged[1].append("results")
    with pytest.raises(typer.Exit) as left:
        cli_study.leave_if_damaged(Path("here"))
    assert (left.value.exit_code, given()) == (1, {"damaged": ("run a", "results")})
    assert capsys.readouterr().err.splitlines()[1:] == ["metascale: left out: run a", "metascale: left out: results"]


def test_verify_counts(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = SimpleNamespace(ok=True, n_files=9, n_runs=2, damages=[])
    monkeypatch.setattr("metascale.study.store.verify.verify_study", lambda folder: found)
    answer.forget()
    cli_study.verify(Path("here"))
    assert capsys.readouterr().out == "every hash matches: 9 files of 2 trials\n"
    assert given() == {"ok": True, "n_files": 9, "n_runs": 2, "damages": []}
    found.ok, found.damages = False, [SimpleNamespace(path="a/b", problem="is gone")]
    with pytest.raises(typer.Exit) as left:
        cli_study.verify(Path("here"))
    assert (left.value.exit_code, capsys.readouterr().out) == (1, "a/b: is gone\n1 of 9 files are damaged\n")


@pytest.mark.parametrize(
    ("now", "n_running", "said"),
    [
        (False, 0, "no trial is running; idle runners will stop too"),
        (False, 1, "1 running trials run to their end; no new one starts. The same run command resumes."),
        (True, 2, "2 running trials are saved after the step in progress and end; no new one starts. The same run "
                  "command resumes."),
    ],
)  # fmt: skip
def test_stop_says_what_will_happen(
    now: bool, n_running: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[Any] = []
    names = [f"t{k}" for k in range(n_running)]
    trials = [SimpleNamespace(label=name, shown_status="running") for name in names]
    trials.append(SimpleNamespace(label="z", shown_status="finished"))
    monkeypatch.setattr("metascale.study.run.stopping.ask_to_stop", lambda *how: asked.append(how))
    monkeypatch.setattr("metascale.study.status.study_status", lambda folder: SimpleNamespace(trials=trials))
    answer.forget()
    cli_study.stop(Path("here"), now)
    mode = "checkpoint" if now else "finish"
    assert asked == [(Path("here"), mode)]
    assert given() == {"folder": Path("here"), "running": names, "mode": mode}
    assert capsys.readouterr().out.replace("\n", " ").strip() == said


def test_export_and_push_say_where(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[Any] = []

    def export_study(folder: Path, kind: str, out: str, *, config: bool) -> int:
        asked.append((folder, kind, out, config))
        if kind == "json":
            raise PermissionError(13, "Permission denied", out)
        return 3

    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("metascale.integrations.export.export_study", export_study)
    monkeypatch.setattr(cli_study, "leave_if_damaged", asked.append)
    answer.forget()
    for kind, what in (("csv", "trials"), ("latex", "rows"), ("markdown", "rows"), ("wandb", "trials")):
        cli_study.export(Path("s"), kind, "~/t", kind == "csv", None, None)
        assert capsys.readouterr().out == f"3 {what} written to /home/me/t\n"
        assert asked[-2:] == [(Path("s"), kind, "/home/me/t", kind == "csv"), Path("s")]
    assert given() == {"n_trials": 3, "out": "/home/me/t"}
    with pytest.raises(InputError, match=r"^--out t cannot be written: Permission denied$"):
        cli_study.export(Path("s"), "json", "t", False, None, None)
    needs = "export needs --format and --out for a study, or --peft (with --base) for one run"
    alone = "--peft goes without --format and --out: it names its own folder"
    for kind_, out, peft, base, said in (
        (None, "t", None, None, needs), ("csv", None, None, None, needs), ("csv", "t", None, "b", needs),
        ("csv", None, Path("p"), None, alone), (None, "t", Path("p"), None, alone),
    ):  # fmt: skip
        with pytest.raises(InputError) as refused:
            cli_study.export(Path("s"), kind_, out, False, peft, base)
        assert str(refused.value) == said
    monkeypatch.setattr("metascale.integrations.adapters.export_adapter", lambda *how: [Path(str(one)) for one in how])
    cli_study.export(Path("s"), None, None, False, Path("p"), "b")
    assert capsys.readouterr().out.splitlines() == [
        "s", "p", "b", "The licence line of the card is yours to fill in; `metascale push` uploads the folder.",
    ]  # fmt: skip
    pushed = lambda folder, repo, *, public: f"{folder} to {repo}, {public}"
    monkeypatch.setattr("metascale.integrations.adapters.push_adapter", pushed)
    cli_study.push(Path("p"), "me/mine", True)
    assert (capsys.readouterr().out, given()["address"]) == ("p to me/mine, True\n", "p to me/mine, True")


def test_the_index_is_built_anew_and_closed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    closed: list[str] = []
    index = lambda folder: SimpleNamespace(close=lambda: closed.append(str(folder)))
    monkeypatch.setattr("metascale.study.store.store.rebuild_index", index)
    answer.forget()
    cli_study.reindex(Path("here"))
    assert (closed, given()) == (["here"], {"folder": Path("here")})
    assert capsys.readouterr().out == "rebuilt the index of here from its run folders\n"


# ------------------------------------------------------------------------------------------ evaluate, report, doctor


def test_evaluate_passes_on_what_is_given_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[Any] = []
    curve = [{"inner_steps": 0, "loss_nats": 1.5, "loss_sem_nats": 0.25, "accuracy": 0.5, "accuracy_sem": 0.125},
             {"inner_steps": 5, "loss_nats": 0.5, "loss_sem_nats": 0.0625}]  # fmt: skip

    def evaluate_run(*how: Any) -> Any:
        asked.append(how)
        return SimpleNamespace(curve=lambda: curve, task_ids=range(7))

    monkeypatch.setattr("metascale.core.optional.require", lambda *names: None)
    monkeypatch.setitem(sys.modules, "metascale.workflow.evaluate", SimpleNamespace(evaluate_run=evaluate_run))
    answer.forget()
    evaluate = inspect.unwrap(main.evaluate)
    evaluate(run_folder=Path("r"), shots=None, inner_steps=None, n_tasks=None, device="cpu", data_dir=None)
    evaluate(run_folder=Path("r"), shots=2, inner_steps=0, n_tasks=9, device="cuda", data_dir=None)
    assert asked == [
        (Path("r"), {}, "cpu"), (Path("r"), {"k_shot": 2, "eval_inner_steps": 0, "n_test_tasks": 9}, "cuda"),
    ]  # fmt: skip
    assert given() == {"n_tasks": 7, "curve": curve}
    printed = rows_of(capsys.readouterr().out)
    assert ["inner steps", "loss (nats)", "± s.e. over tasks", "accuracy", "± s.e. over tasks"] in printed
    assert ["0", "1.5000", "0.2500", "0.5000", "0.1250"] in printed
    assert ["5", "0.5000", "0.0625", "-", "-"] in printed
    assert ["7 test tasks"] in printed


def test_report_writes_figures_of_kinds_that_are_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    asked: list[Any] = []

    def conclude(folder: Path) -> Conclusion:
        asked.append(folder)
        return concluded(no_law="none", written=(Path("a"),))

    monkeypatch.setattr("metascale.workflow.conclude.conclude", conclude)
    monkeypatch.setattr("metascale.report.figures.write_figures", lambda folder, kinds: [folder / one for one in kinds])
    monkeypatch.setattr(main, "leave_if_damaged", lambda folder: asked.append("damage"))
    main.report(folder=tmp_path, figures=None)
    main.report(folder=tmp_path, figures=" SVG,pdf")
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["no law: none", "a", "no law: none", "a", f"{tmp_path}/svg", f"{tmp_path}/pdf"]
    assert asked == [tmp_path, "damage"] * 2
    with pytest.raises(InputError):
        main.report(folder=tmp_path, figures="svg,bmp")
    assert len(asked) == 4


def test_what_is_not_the_command_s_fault_ends_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metascale.core.errors import CorruptFile, MissingDependency

    monkeypatch.setattr("sys.argv", ["metascale", "run", "--json", "--set", "lr=1"])
    for error, status, said in (
        (InputError("`lr` is low", field="lr"), 2, "--set lr=... is low"), (MissingDependency("needs x"), 2, "needs x"),
        (CorruptFile("broken"), 1, "broken"), (OSError(28, "No space left", "f"), 1, "f: No space left"),
        (sqlite3.OperationalError("locked"), 1, "OperationalError: locked"), (KeyboardInterrupt(), 130, ""),
    ):  # fmt: skip

        def command(error: BaseException = error) -> None:
            answer.ask(["--json"])
            raise error

        monkeypatch.setattr(main, "app", command)
        monkeypatch.setattr(main, "flags_of", lambda app, typed: {"values": "--set"})
        with pytest.raises(SystemExit) as left:
            main.main()
        printed = capsys.readouterr()
        assert left.value.code == status
        assert printed.err == (f"metascale: {said}\n" if said else "")
        if said:
            told = json.loads(printed.out)["error"]
            assert (told["message"], told["exit_status"]) == (said, status)

    def broken() -> None:
        raise BrokenPipeError

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(BrokenPipeError):
        main.main()


def test_what_is_copied_from_a_terminal_is_never_broken(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Paths, addresses and sentences with them stay on one line of a terminal of 20 letters."""
    from metascale.cli import models, recipes

    for module, name in ((run, "out"), (cli_study, "console"), (recipes, "out"), (models, "out")):
        monkeypatch.setattr(module, name, Console(width=20))
    long = Path("a folder/with/a long name/and a file in it.json")

    def lines() -> list[str]:
        return capsys.readouterr().out.splitlines()

    run.print_conclusion(concluded(written=(long,)))
    assert lines() == [str(long)]
    run._print_read(SimpleNamespace(following=(), read=(f"texts of {long}",)))  # type: ignore[arg-type]
    assert lines() == [f"texts of {long}"]
    monkeypatch.setattr("metascale.integrations.adapters.push_adapter", lambda folder, repo, *, public: str(long))
    cli_study.push(Path("p"), "me/mine")
    assert lines() == [str(long)]
    monkeypatch.setattr("metascale.integrations.export.export_study", lambda *how, config: 3)
    monkeypatch.setattr(cli_study, "leave_if_damaged", lambda folder: None)
    cli_study.export(Path("s"), "csv", str(long), False, None, None)
    assert lines() == [f"3 trials written to {long}"]
    monkeypatch.setattr("metascale.integrations.adapters.export_adapter", lambda *how: [long])
    cli_study.export(Path("s"), None, None, False, Path("p"), None)
    assert lines()[0] == str(long)
    damage = SimpleNamespace(path=long, problem="is gone")
    found = SimpleNamespace(ok=False, n_files=1, n_runs=1, damages=[damage])
    monkeypatch.setattr("metascale.study.store.verify.verify_study", lambda folder: found)
    with pytest.raises(typer.Exit):
        cli_study.verify(Path("here"))
    assert lines()[0] == f"{long}: is gone"
    monkeypatch.setattr("metascale.workflow.recipe.load_recipe", lambda name: None)
    monkeypatch.setattr("metascale.workflow.study_file.study_text", lambda *how: "")
    monkeypatch.setattr("metascale.core.files.write_atomic", lambda *how: None)
    recipes.init("digits", Path("a/long/way/to/the study.yaml"), None)
    assert len(lines()) == 1
    check = SimpleNamespace(checks={}, verdict="so")
    monkeypatch.setitem(
        sys.modules,
        "metascale.workflow.coordinates",
        SimpleNamespace(check_coordinates=lambda *a, **b: (check, [long])),
    )
    monkeypatch.setattr("metascale.core.optional.require", lambda *names: None)
    models.coordinate_check("mlp", Path("o"))
    assert lines()[-1] == str(long)
