"""Parts of the command line against values worked out here: what is parsed, refused, printed and written."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer

from metascale.cli import answer, complete, imports, main, models, next_run, recipes, scales, series, words
from metascale.cli.answer import _jsonable
from metascale.cli.main import _make, _on_one_line, _remove_empty, require_writable
from metascale.cli.scales import one_target, parse_bounds, parse_values, predicted_rows, targets_of
from metascale.core.errors import InputError
from metascale.laws.table import read_table


def test_values_become_json() -> None:
    @dataclass
    class Row:
        a: int
        b: Any

    given = {1: (Row(2, Path("x/y")), [np.float64(1.5), float("nan"), float("inf"), None, True, "t"]), "n": np.int64(3)}
    assert _jsonable(given) == {"1": [{"a": 2, "b": "x/y"}, [1.5, None, None, None, True, "t"]], "n": 3}
    assert _jsonable(Row) == str(Row)


def test_an_error_is_given_with_its_argument(capsys: pytest.CaptureFixture[str]) -> None:
    error = InputError("no", field="f", value=3, allowed="4")
    answer.ask(["fit"])
    answer.give_error("no such", error, 2)
    assert capsys.readouterr().out == ""
    answer.ask(["fit", "--json"])
    answer.give_error("no such", error, 2)
    answer.give_error("other", OSError("x"), 1)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"error": {"message": "no such", "exit_status": 2, "field": "f", "value": 3, "allowed": "4"}}
    assert second == {"error": {"message": "other", "exit_status": 1}}
    answer.give_line({"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    answer.forget()
    answer.give_line({"a": 1})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "a.csv"), "a.csv: No such file"),
        (OSError(28, "No space left"), "No space left"),
        (OSError("two\nlines"), "OSError: two lines"),
        (sqlite3.OperationalError("database is locked"), "OperationalError: database is locked"),
    ],
)
def test_what_the_system_says_is_one_line(error: Any, said: str) -> None:
    assert _on_one_line(error) == said


def test_folders_that_were_missing_are_made_and_taken_away_again(tmp_path: Path) -> None:
    made = _make(tmp_path / "a" / "b")
    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    assert _make(tmp_path / "a" / "b") == []
    (tmp_path / "a" / "file").write_text("")
    _remove_empty(made)
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]
    with pytest.raises(InputError, match=r"^--out .*/file/x cannot be made: Not a directory$"):
        _make(tmp_path / "a" / "file" / "x")
    require_writable(tmp_path, "the folder")


def test_a_command_expands_homes_and_makes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setenv("HOME", "/home/me")
    main.at_home(lambda **given: seen.append(given))(out=Path("~/x"), n=3)
    assert seen.pop() == {"out": Path("/home/me/x"), "n": 3}
    for given in ({"out": tmp_path / "one"}, {"out_dir": tmp_path / "two"}):
        main.into_folder(lambda **given: seen.append(given))(**given)
        assert next(iter(given.values())).is_dir()
    main.into_folder(lambda **given: seen.append(given))(out=tmp_path / "three", dry_run=True)
    assert not (tmp_path / "three").exists()

    def fails(**given: Any) -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        main.into_folder(fails)(out=tmp_path / "four" / "five")
    assert not (tmp_path / "four").exists()
    monkeypatch.setattr(main, "POSIX", False)
    with pytest.raises(InputError, match=r"^`metascale fails` runs on Linux and macOS; on Windows use WSL"):
        main.on_posix(fails)()


# ------------------------------------------------------------------------------------------ numbers typed


def test_bounds_and_values_by_hand() -> None:
    assert parse_bounds(["a=0:2", " b =:3", "c=-1:"]) == {"a": (0, 2), "b": (-np.inf, 3), "c": (-1, np.inf)}
    assert parse_values(["E=1.69,A=2", " B = 1e3"], "fix") == {"E": 1.69, "A": 2, "B": 1000}
    assert (parse_bounds(None), parse_values(None, "fix")) == ({}, {})
    assert (one_target("3", "N"), one_target("N=1e9", "N"), one_target(" N =2", "N")) == (3, 1e9, 2)
    assert targets_of(["N=1,D=2", "D=4,N=3"], ["N", "D"]) == [{"N": 1, "D": 2}, {"D": 4, "N": 3}]


@pytest.mark.parametrize(
    ("call", "field", "value", "words"),
    [
        (
            lambda: parse_bounds(["a"]),
            "bound",
            None,
            "^`bound` 'a' is no range; give NAME=LOW:HIGH, such as alpha=0:2$",
        ),
        (lambda: parse_bounds(["=0:1"]), "bound", None, "^`bound` '=0:1' is no range"),
        (lambda: parse_bounds(["a=1"]), "bound", None, "^`bound` 'a=1' is no range"),
        (lambda: parse_bounds(["a=x:1"]), "bound", "x", "^`bound`: 'x' is not a number$"),
        (lambda: parse_bounds(["a=nan:1"]), "bound", "nan", "^`bound`: nan is not a number to use$"),
        (lambda: parse_values(["E"], "fix"), "fix", None, "^`fix` 'E' is no value; give NAME=VALUE, such as E=1.69$"),
        (
            lambda: parse_values(["=1"], "to", "N=..."),
            "to",
            None,
            "^`to` '=1' is no value; give NAME=VALUE, such as N=",
        ),
        (lambda: parse_values(["E= z "], "fix"), "fix", " z ", "^`fix`: 'z' is not a number$"),
        (lambda: one_target("D=3", "N"), "to", "D=3", "^--to D=3 is not a scale; give a positive number of 'N'$"),
        (lambda: one_target("0", "N"), "to", "0", "^--to 0 is not a scale"),
        (lambda: one_target("inf", "N"), "to", "inf", "^--to inf is not a scale"),
        (lambda: one_target("x", "N"), "to", "x", "^--to x is not a scale"),
        (lambda: targets_of(["N=1"], ["N", "D"]), "to", None, "^`to` must name every scale once; give N=...,D=...$"),
        (
            lambda: targets_of(["N=1,D=0"], ["N", "D"]),
            "to",
            "N=1,D=0",
            "^`to` is 'N=1,D=0'; scales are positive finite",
        ),
        (lambda: targets_of(["N=1,D=inf"], ["N", "D"]), "to", "N=1,D=inf", "^`to` is 'N=1,D=inf'"),
        (
            lambda: next_run._ranges(["N"]),
            "range",
            "N",
            "^`range` 'N' is no range; give NAME=LOW:HIGH:COUNT, such as N=",
        ),
        (lambda: next_run._ranges(["=1:2:3"]), "range", "=1:2:3", "^`range` '=1:2:3' is no range"),
        (lambda: next_run._ranges(["N=1:2"]), "range", "N=1:2", "^`range` 'N=1:2' is no range"),
        (lambda: next_run._ranges(["N=2:1:3"]), "range", "N=2:1:3", "needs 0 < LOW <= HIGH and a COUNT of at least 1$"),
        (lambda: next_run._ranges(["N=1:2:0"]), "range", "N=1:2:0", "needs 0 < LOW <= HIGH and a COUNT"),
        (lambda: next_run._ranges(["N=1:2:x"]), "range", "N=1:2:x", "needs 0 < LOW <= HIGH and a COUNT"),
        (lambda: next_run._ranges(["N=0:2:2"]), "range", "N=0:2:2", "needs 0 < LOW <= HIGH and a COUNT"),
        (lambda: next_run._ranges(["N=1:inf:2"]), "range", "N=1:inf:2", "needs 0 < LOW <= HIGH and a COUNT"),
        (
            lambda: next_run._target(["N=1"], Path("x")),
            "target",
            None,
            "^`target` and `target_file` cannot go together",
        ),
        (lambda: scales.objective_of("hubr"), None, None, "^--objective 'hubr' is unknown; allowed are: huber, least-"),
        (
            lambda: models._whole_numbers("--widths", "1,x"),
            None,
            None,
            "^--widths needs whole numbers separated by commas,",
        ),
    ],
)
def test_what_is_typed_and_is_no_number_is_refused(call: Any, field: Any, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("...", "[.]{3}")) as caught:
        call()
    assert (caught.value.field, caught.value.value) == (field, value)


def test_ranges_and_targets_of_next_runs() -> None:
    found = next_run._ranges(["N=1:100:3", "D=5"])
    assert found.numbers("N").tolist() == pytest.approx([1, 10, 100])
    assert found.numbers("D").tolist() == [5, 5, 5]
    assert next_run._target(["N=1,D=2"], None) == [{"N": 1, "D": 2}]
    assert next_run._target(None, Path("x")) == Path("x")
    assert scales.objective_of(None) is None
    assert [type(scales.objective_of(name)).__name__ for name in ("huber", "least-squares")] == [
        "LogHuber",
        "LeastSquares",
    ]
    assert models._whole_numbers("--seeds", "1, 2") == [1, 2]


def test_a_table_with_a_header_alone_has_no_runs(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("N,loss\n\n")
    assert next_run._known(path, "loss") == (None, "loss")
    path.write_text("N,loss\n1,2\n")
    table, loss = next_run._known(path, "loss")
    assert (table.n_rows, loss) == (1, "loss")


@pytest.mark.parametrize("missing", ["candidates", "cost", "budget", "target"])
def test_what_choosing_runs_needs(missing: str, tmp_path: Path) -> None:
    given = {"range_": ["N=1:2:2"], "cost": "N", "budget": 3.0, "target": ["N=9"]}
    given.pop({"candidates": "range_"}.get(missing, missing))
    with pytest.raises(InputError, match=f"^`{missing}` is needed to choose runs$") as caught:
        next_run.next_(tmp_path / "t.csv", **given)
    assert caught.value.field == missing


def test_candidates_come_from_a_table_or_from_ranges(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^`candidates` and `range` cannot go together") as caught:
        next_run.next_(tmp_path, tmp_path, ["N=1:2:2"], "N", 3.0, ["N=9"])
    assert caught.value.field == "range"


# ------------------------------------------------------------------------------------------- predictions


class Doubles:
    """Predicts twice the scale, 1 less and 1 more; ``beyond`` is the scale itself."""

    x_names = ("N",)

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def predict(self, rows: Any, level: float) -> Any:
        middle = self.factor * rows[:, 0]
        return SimpleNamespace(median=middle, low=middle - level, high=middle + level, beyond=rows[:, 0])


def test_every_row_is_predicted_by_its_own_law_in_its_place() -> None:
    table = read_table({"arm": ["b", "a", "b"], "N": [1.0, 2.0, 3.0], "note": ["x", "y", "z"]})
    found = predicted_rows(table, {"a": Doubles(), "b": Doubles(10)}, 0.5, "arm")
    assert [(row["arm"], row["note"], row["median"], row["low"], row["high"], row["beyond"]) for row in found] == [
        ("b", "x", 10, 9.5, 10.5, 1), ("a", "y", 4, 3.5, 4.5, 2), ("b", "z", 30, 29.5, 30.5, 3)
    ]  # fmt: skip
    assert [row["median"] for row in predicted_rows(table, {"only": Doubles()}, 0.5, None)] == [2, 4, 6]
    with pytest.raises(InputError, match=r"^the folder holds 2 laws \(a, c\); `group` names the column") as caught:
        predicted_rows(table, {"a": Doubles(), "c": Doubles()}, 0.5, None)
    assert caught.value.field == "group"
    with pytest.raises(InputError, match=r"^'arm' is 'b' in .*, and the laws are those of a, c$") as caught:
        predicted_rows(table, {"a": Doubles(), "c": Doubles()}, 0.5, "arm")
    assert (caught.value.field, caught.value.value) == ("group", "b")


def test_predictions_are_printed_or_written_and_what_is_outside_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metascale.laws.predicting.read_predictors", lambda folder: {"": Doubles()})
    points = tmp_path / "points.csv"
    points.write_text("N\n1\n2\n3\n4\n5\n6\n7\n")
    scales.predict(tmp_path, points, level=0.5)
    said = capsys.readouterr()
    assert said.out.splitlines()[:2] == ["N,median,low,high,beyond", "1,2.0,1.5,2.5,1.0"]
    assert said.err == ("note: 6 of 7 rows lie outside the table that was fitted (rows 2, 3, 4, 5, 6, ...; up to 7 "
                        "times beyond a scale's range)\n")  # fmt: skip
    scales.predict(tmp_path, points, out=tmp_path / "new" / "p.csv", level=0.5, json_=True)
    printed = capsys.readouterr()
    assert (tmp_path / "new" / "p.csv").read_text() == said.out
    assert json.loads(printed.out)["rows"][2] == {"N": 3, "median": 6.0, "low": 5.5, "high": 6.5, "beyond": 3.0}
    assert f"wrote {tmp_path / 'new' / 'p.csv'}: 7 rows, 50 % intervals for one new run" in printed.err
    points.write_text("N\n1\n")
    scales.predict(tmp_path, points, out=tmp_path / "q.csv")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'q.csv'}: 1 rows, 90 % intervals for one new run\n"
    with pytest.raises(InputError, match=r"is a folder; give a file such as .*predictions.csv$") as caught:
        scales.predict(tmp_path, points, out=tmp_path)
    assert caught.value.field == "out"


# ------------------------------------------------------------------------------------------------- words


def test_lines_are_broken_on_a_terminal_alone(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = "  one two three four\n\nfive"
    words.say(text)
    words.say(text, to_stderr=True)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n")
    monkeypatch.setenv("COLUMNS", "12")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    words.say(text)
    words.say_notes(["a", "b"], to_stderr=True)
    assert capsys.readouterr() == ("  one two\n    three\n    four\n\nfive\n", "note: a\nnote: b\n")


def test_a_stage_that_takes_long_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with words.stage("fitting", after=30):
        pass
    assert capsys.readouterr().err == ""
    with words.stage("fitting", after=0.01, every=30):
        time.sleep(0.2)
    assert capsys.readouterr().err == "fitting ... (0 s)\n"


def test_results_are_written_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": 1, "b": "=x"}, {"a": 2.5}]
    words.write_results(tmp_path, {"r.json": {"k": 1}}, {"t.csv": rows}, {}, to_stderr=True)
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,'=x\n2.5,\n"
    assert json.loads((tmp_path / "r.json").read_text()) == {"k": 1}
    assert capsys.readouterr() == ("", f"wrote {tmp_path}/r.json and t.csv\n")
    words.say_law_file(tmp_path)
    assert capsys.readouterr().out == (
        f"wrote {tmp_path}/law.json, from which `metascale predict {tmp_path} POINTS.csv` predicts\n"
    )
    assert words.folder_of(None, "g") is None
    assert words.folder_of(tmp_path, None) == tmp_path
    assert words.folder_of(tmp_path, "g") == tmp_path / "g"


def test_a_forecast_is_a_table_with_its_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    found = SimpleNamespace(x_name="N", loss_name="loss", level=0.8, at=[1e9], median=[2.5], low=[2.25], high=[2.75],
                            baselines={"tail_line": [2.4], "last_value": [2.6]})  # fmt: skip
    series._print_forecast(found, "a")
    said = capsys.readouterr().out
    assert said.startswith("a:\n")
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in said.splitlines()]
    assert ["N", "loss", "80 % interval", "tail line", "last value"] in cells
    assert ["1e+09", "2.5", "2.25 to 2.75", "2.4", "2.6"] in cells
    assert series.HORIZONS == (1, 2, 4, 8, 16, 32)


def test_a_forecast_in_several_scales_is_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"N": 1e9, "D": 2.0, "median": 2.5, "low": 2.25, "high": 2.75, "beyond": 1.0}
    record = {"x_names": ["N", "D"], "loss_name": "loss", "level": 0.8, "rows": [row, {**row, "beyond": 3.0}]}
    scales.say_forecast(record, "a", False)
    line = "N 1e+09, D 2: loss 2.5 (80 % interval for one run 2.25 to 2.75)"
    assert capsys.readouterr().out.splitlines() == ["a:", line, f"{line}, 3 times beyond the table"]
    scales.print_json({"": {"a": 1}})
    scales.print_json({"x": {"a": 1}})
    assert [json.loads(text) for text in capsys.readouterr().out.splitlines()] == [
        {"a": 1},
        {"groups": {"x": {"a": 1}}},
    ]


# --------------------------------------------------------------------------- commands with stand-ins behind


def test_the_coordinate_check_prints_a_row_a_layer(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    asked: list[Any] = []

    def check(model: str, widths: list[int], out: Path, **options: Any) -> Any:
        asked.append((model, widths, out, options))
        one, two = {"h1": 0.5, "h2": -0.25}, {"h1": 0.0}
        checks = {"Standard": SimpleNamespace(exponents=lambda: one), "μP": SimpleNamespace(exponents=lambda: two)}
        return SimpleNamespace(checks=checks, verdict="it grows"), [out / "a.json"]

    monkeypatch.setitem(sys.modules, "metascale.workflow.coordinates", SimpleNamespace(check_coordinates=check))
    monkeypatch.setattr("metascale.core.optional.require", lambda *names: None)
    models.coordinate_check("mlp", tmp_path)
    assert asked == [("mlp", [64, 128, 256], tmp_path, {"steps": 4, "lr": 0.01, "depth": 2, "seeds": [0]})]
    said = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in said.splitlines()]
    assert ["activation", "exponent, Standard", "exponent, μP"] in cells
    assert ["h1", "+0.50", "+0.00"] in cells
    assert ["h2", "-0.25", "-"] in cells
    assert "it grows" in said
    assert str(tmp_path / "a.json") in said.replace("\n", "")


@pytest.mark.parametrize(
    ("n", "curves", "said"), [(1, False, "1 run written"), (2, True, "2 runs, 3 logged steps, written")]
)
def test_imported_runs_are_written_and_counted(
    n: int, curves: bool, said: str, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    columns = {"run": ["a"] * 3, "loss": [1.0, 2.0, 3.0]}
    found = SimpleNamespace(
        runs=[1] * n, notes=("odd",), table=lambda: {"run": ["a"], "loss": [1.0]}, curves=lambda: columns
    )
    monkeypatch.setattr("metascale.integrations.sources.read.read_source", lambda source: found)
    out = tmp_path / "runs.csv"
    imports.import_runs("folder", out, curves)
    assert capsys.readouterr().out.replace("\n", " ") == f"{said} to {out} (2 columns) note: odd "
    assert len(out.read_text().splitlines()) == (4 if curves else 2)
    with pytest.raises(InputError, match=r"is a folder; give a file, such as runs.csv$") as caught:
        imports.import_runs("folder", tmp_path)
    assert (caught.value.field, caught.value.value) == ("out", str(tmp_path))
    with pytest.raises(InputError, match="cannot be written: ") as caught:
        imports.import_runs("folder", out / "x")
    assert caught.value.field == "out"


def test_the_keys_of_a_recipe_are_printed_with_what_profiles_set(capsys: pytest.CaptureFixture[str]) -> None:
    profiles = {"fast": None, "own": ""}
    recipes._print_key(SimpleNamespace(name="lr", default=0.1, allowed="a number", meaning="rate", profiles=profiles))
    recipes._print_key(SimpleNamespace(name="n", default=[1], allowed="a list", meaning="", profiles={}))
    said = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert said == ["lr = 0.1   a number", "    rate", "    fast: none", '    own: ""', "n = [1]   a list"]
    assert [recipes._value(value) for value in (None, "a", "", [1], True)] == ["none", "a", '""', "[1]", "true"]
    assert recipes._values({"n": [1, 2], "m": "x"}) == "n in [1, 2], m in x"
    assert (recipes._values({}), recipes._values(None)) == ("nothing", "nothing")


def test_study_files_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"is no study file: its name ends in .yaml or .yml$") as caught:
        recipes.init("digits", tmp_path / "a.txt")
    assert (caught.value.field, caught.value.value) == ("out", str(tmp_path / "a.txt"))
    recipes.init("digits", tmp_path / "a.YML", None)
    said = capsys.readouterr().out.replace("\n", " ").strip()
    assert said == f"wrote {tmp_path}/a.YML; edit it, then: metascale run {tmp_path}/a.YML --out runs/a"
    assert "metascale run a.YML --out runs/a " in (tmp_path / "a.YML").read_text()
    with pytest.raises(InputError, match=r"is there already; give another name$") as caught:
        recipes.init("digits", tmp_path / "a.YML", None)
    assert caught.value.field == "out"
    with pytest.raises(InputError, match="cannot be written: ") as caught:
        recipes.init("digits", tmp_path / "a.YML" / "b.yaml", None)
    assert caught.value.field == "out"


def test_what_is_offered_to_a_shell(tmp_path: Path) -> None:
    (tmp_path / "study" / "runs" / "one").mkdir(parents=True)
    (tmp_path / "study" / "runs" / ".two").mkdir()
    (tmp_path / "study" / "study.json").write_text("{}")
    (tmp_path / "study" / "file").write_text("")
    place = str(tmp_path)
    assert list(complete.runs(f"{place}/st")) == [f"{place}/study/"]
    assert list(complete.runs(f"{place}/study")) == [f"{place}/study/runs/one"]
    assert list(complete.runs(f"{place}/study/ru")) == [f"{place}/study/runs/one"]
    assert list(complete.runs(f"{place}/study/runs/t")) == []
    assert list(complete.runs(f"{place}/none/")) == []
    assert complete._choices("a number") == []
    assert complete._choices("true or false") == ["true", "false"]
    assert complete._choices("sgd, adam or lion; or none") == ["sgd", "adam", "lion"]
    assert complete._line("word " * 30).endswith("…")
    assert len(complete._line("word " * 30)) <= 70
    assert ("digits", True) in [(name, bool(said)) for name, said in complete.recipes("dig")]
    assert dict(complete.recipes("noisy-")) != {}


def test_the_address_of_a_tracker_is_no_table() -> None:
    from metascale.cli.table import open_table

    with pytest.raises(
        InputError, match=r"^'wandb:a/b' is no file: runs of wandb are imported first; metascale"
    ) as caught:
        open_table(Path("wandb:a/b"))
    assert (caught.value.field, caught.value.value) == ("table", "wandb:a/b")
    with pytest.raises(InputError, match=r"^`group` and `series` cannot go together"):
        open_table(Path("x.csv"), group="a", series=["b"])


def test_the_version_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        main._version(True)
    assert capsys.readouterr().out.strip()[0].isdigit()
    main._version(False)
    assert capsys.readouterr().out == ""
