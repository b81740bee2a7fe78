"""Where words and JSON go, what is refused before a command runs, and the roles of a study's table, by hand."""

from __future__ import annotations

import inspect
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from metascale.cli import answer, options
from metascale.cli.answer import answering, give, give_line, warn
from metascale.cli.main import into_folder, of_trusted_runs, on_posix, out_folder
from metascale.cli.place import parameters_of
from metascale.cli.table import Chosen, Opening, open_table
from metascale.core.errors import InputError, MetascaleError
from metascale.study import RunStore, Study
from metascale.study.roles import Roles
from metascale.study.store.run import StoredRun
from metascale.study.store.table import write_results

# ------------------------------------------------------------------------------- words and JSON


def speaks(folder: Path, *, n: Annotated[int, typer.Option(help="A number.")] = 1) -> None:
    """Says words and gives values."""
    give(folder=folder)
    print(f"words of {n}")
    print("an aside", file=sys.stderr)
    give_line({"line": n})
    warn("a warning", "red")
    give(n=n, folder=str(folder))
    if n < 0:
        raise typer.Exit(3)
    if n == 0:
        raise ValueError("no")


def prints_itself(*, json_: bool = False) -> None:
    """Prints its JSON itself, as the commands of laws do."""
    give(of="study")
    print('{"own": 1}' if json_ else "words")
    print("an aside", file=sys.stderr)


@pytest.mark.parametrize(
    ("as_json", "quiet", "out", "err"),
    [
        (False, False, "words of 2\n", "an aside\nmetascale: a warning\n"),
        (False, True, "", "metascale: a warning\n"),
        (True, False, '{"line": 2}\n{"folder": "f", "n": 2}\n', "words of 2\nan aside\nmetascale: a warning\n"),
        (True, True, '{"line": 2}\n{"folder": "f", "n": 2}\n', "metascale: a warning\n"),
    ],
)
def test_where_words_and_json_go(as_json: bool, quiet: bool, out: str, err: str, capsys: Any) -> None:
    command = answering(speaks)
    for _ in range(2):  # what the command before had given is forgotten
        command(folder=Path("f"), n=2, as_json=as_json, quiet=quiet)
        assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("as_json", "quiet", "out", "err"),
    [
        (False, False, "words\n", "an aside\n"), (False, True, "", ""), (True, False, '{"own": 1}\n', "an aside\n"),
        (True, True, '{"own": 1}\n', ""),
    ],
)  # fmt: skip
def test_a_command_that_prints_its_json_itself_keeps_standard_output(
    as_json: bool, quiet: bool, out: str, err: str, capsys: Any
) -> None:
    answering(prints_itself)(json_=as_json, quiet=quiet)
    assert capsys.readouterr() == (out, err)


def test_what_was_given_is_printed_however_a_command_ends_but_after_an_error(capsys: Any) -> None:
    command = answering(speaks)
    with pytest.raises(typer.Exit) as ended:
        command(folder=Path("f"), n=-1, as_json=True, quiet=True)
    assert (ended.value.exit_code, capsys.readouterr().out) == (3, '{"line": -1}\n{"folder": "f", "n": -1}\n')
    with pytest.raises(ValueError, match="no"):
        command(folder=Path("f"), n=0, as_json=True, quiet=True)
    assert capsys.readouterr().out == '{"line": 0}\n'
    with pytest.raises(typer.Exit):
        answering(lambda: (_ for _ in ()).throw(typer.Exit(1)))(as_json=False, quiet=False)
    assert capsys.readouterr().out == ""


def test_a_command_that_answers_has_its_own_options_and_two_more() -> None:
    command = answering(speaks)
    found = inspect.signature(command).parameters
    assert list(found) == ["folder", "n", "as_json", "quiet"]
    assert {one.kind for one in found.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert (found["n"].default, found["as_json"].default, found["quiet"].default) == (1, False, False)
    assert command.__annotations__ == {name: one.annotation for name, one in found.items()}
    assert (command.__name__, command.__doc__) == ("speaks", "Says words and gives values.")
    assert list(inspect.signature(answering(prints_itself)).parameters) == ["json_", "quiet"]
    assert list(parameters_of(speaks)) == ["folder", "n"]


def test_json_is_indented_for_a_person_and_keeps_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, text in ((True, '{\n  "a": "ä"\n}\n'), (False, '{"a": "ä"}\n')):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(answer, "_now", answer._Answer(True, False, {}, stream))
        give_line({"a": "ä"})
        assert stream.getvalue() == text


# ------------------------------------------------------------------------------- what is refused before a command


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """Two commands: one with --set, and a plain one."""
    found = typer.Typer(cls=options.Group, pretty_exceptions_enable=False)

    @found.command(cls=options.Command)
    def run(
        name: str, values: Annotated[list[str] | None, typer.Option("--set")] = None, loss: str = "", x: int = 0
    ) -> None:
        print(name, values, x)

    @found.command(cls=options.Command)
    def evaluate(shots: int = 1, inner_steps: Annotated[int, typer.Option("-i", "--inner-steps")] = 2) -> None:
        print(shots, inner_steps)

    monkeypatch.setattr(options, "_recipe", lambda typed: None)
    return found


def called(app: typer.Typer, typed: str) -> Any:
    return CliRunner().invoke(app, typed.split())


@pytest.mark.parametrize(
    ("typed", "said", "field"),
    [
        ("evaluate --k_shot 5", "there is no option --k_shot; here it is --shots", "k_shot"),
        ("evaluate --eval-inner-steps 5", "there is no option --eval-inner-steps; here it is --inner-steps",
         "eval_inner_steps"),
        ("run x.py:f --meta-lr=0.1", "there is no option --meta-lr; a key of your own function or program is given by "
         "--set meta_lr=0.1", "meta_lr"),
    ],
)  # fmt: skip
def test_an_option_of_another_program_is_translated(typed: str, said: str, field: str, app: typer.Typer) -> None:
    done = called(app, typed)
    assert isinstance(done.exception, InputError)
    assert (str(done.exception), done.exception.field) == (said, field)


@pytest.mark.parametrize("typed", ["evaluate --zzz 5", "run one --zzz 5", "evaluate --shots x", "run", "other"])
def test_what_cannot_be_translated_is_a_usage_error_and_json_where_asked(typed: str, app: typer.Typer) -> None:
    done = called(app, typed)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr
    done = called(app, f"{typed} --json")
    error = json.loads(done.stdout)["error"]
    assert (done.exit_code, error.keys(), error["exit_status"]) == (2, {"message", "exit_status"}, 2)
    assert "\n" not in error["message"]
    assert error["message"]


def test_a_command_that_is_typed_right_runs(app: typer.Typer) -> None:
    assert called(app, "run a --set b=1 --set c=2 --x 3").stdout == "a ['b=1', 'c=2'] 3\n"
    assert called(app, "evaluate").stdout == "1 2\n"


def test_the_recipe_of_the_words_is_one_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.workflow import recipe

    def load(name: str) -> str:
        if name == "broken":
            raise MetascaleError("no")
        return f"the recipe {name}"

    monkeypatch.setattr(recipe, "recipe_names", lambda: ("two_words", "broken"))
    monkeypatch.setattr(recipe, "load_recipe", load)
    assert options._recipe(["run", "two-words", "broken"]) == "the recipe two_words"
    assert options._recipe(["run", "broken"]) is None
    assert options._recipe(["run", "other"]) is None


# ------------------------------------------------------------------------------- what surrounds a command


def test_a_folder_that_was_made_for_a_refused_command_goes_again(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"

    def inside(error: Exception | None) -> None:
        with out_folder(folder):
            assert folder.is_dir()
            if error is not None:
                raise error

    with pytest.raises(InputError):
        inside(InputError("no"))
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="own"):
        inside(ValueError("own"))
    assert folder.is_dir()
    inside(None)
    with out_folder(None):
        pass
    given: list[Any] = []
    command = into_folder(lambda **options: given.append(options))
    command(out=tmp_path / "one", dry_run=False)
    command(out_dir=tmp_path / "two", out=tmp_path / "three")
    command(out=tmp_path / "dry", dry_run=True)
    command(x=1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "one", "two"]
    assert given[-1] == {"x": 1}


def test_commands_of_studies_are_for_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.cli import main

    def export(**given: Any) -> None:
        assert given == {"a": 1}

    on_posix(export)(a=1)
    monkeypatch.setattr(main, "POSIX", False)
    with pytest.raises(InputError) as refused:
        on_posix(export)(a=1)
    assert str(refused.value) == (
        "`metascale export` runs on Linux and macOS; on Windows use WSL (fit, forecast, backtest and optimum work "
        "everywhere)"
    )


def test_damaged_runs_of_a_table_that_is_a_study_s_are_named_after_the_command(
    tmp_path: Path, monkeypatch: Any
) -> None:
    from metascale.cli import main

    did: list[Any] = []
    monkeypatch.setattr(main, "leave_if_damaged", did.append)
    command: Callable[..., None] = of_trusted_runs(lambda **given: did.append("ran"))
    (tmp_path / "results.csv").write_text("")
    for table, after in ((tmp_path, [tmp_path]), (tmp_path / "results.csv", []), (tmp_path / "other.csv", [])):
        did.clear()
        command(table=table)
        assert did == ["ran", *after]
    (tmp_path / "study.json").write_text("")
    did.clear()
    command(table=tmp_path / "results.csv")
    assert did == ["ran", tmp_path]


# ------------------------------------------------------------------------------- tables of studies


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Losses along n for two methods, one text among them, with an axis d of a single value."""
    axes = {"n": [1, 2], "method": ["a", "b"], "d": [5]}
    roles = Roles(("n",), ("method", "d"), loss="loss")
    store = RunStore.create(tmp_path, Study("s", "m:f", {}, axes, (0,), roles=roles))
    for number, trial in enumerate(store.trials):
        claim = store.claim(trial, "A")
        assert claim is not None
        result = {"loss": float(number + 1) if number else "none", "other": 9.0 - number}
        StoredRun(store.run_view(trial).folder, claim).finish(result)
        store.settle(trial, claim, 1.0)
    store.close()
    write_results(tmp_path)
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `prepare` is given: the table, then its other arguments."""
    from metascale.laws import prepared

    found: list[Any] = []
    monkeypatch.setattr(prepared, "prepare", lambda *given, **options: found.append((*given, options)))
    return found


def test_a_study_brings_its_roles(study: Path, asked: list[Any]) -> None:
    """The axis d has one value, so it splits nothing; a scale of the study that is not asked for does."""
    for path in (study, study / "results.csv"):
        open_table(path)
        table, scales, loss, options = asked.pop()
        assert (scales, loss, options["group"], options["series"]) == (("n",), "loss", None, ("method",))
        assert [str(value) for value in table.column("loss")] == ["nan", "2.0", "3.0", "4.0"], "no number is none"
        assert list(table.column("other")) == [9.0, 8.0, 7.0, 6.0]
    for given, expected in (
        ({"scales": ("n", None)}, (("n",), "loss", ("method",))), ({"y": "other"}, (("n",), "other", ("method",))),
        ({"series": ["d"]}, (("n",), "loss", ("d",))), ({"group": "method"}, (("n",), "loss", ())),
        ({"scales": ("d",)}, (("d",), "loss", ("method", "n"))),
        ({"scales": ("method",)}, (("method",), "loss", ("n",))),
    ):  # fmt: skip
        open_table(study, **given)  # type: ignore[arg-type]
        _, scales, loss, options = asked.pop()
        assert (scales, loss, options["series"]) == expected
    with pytest.raises(
        InputError, match=r"^`group` and `series` cannot go together: `group` is a series whose exponents"
    ):
        open_table(study, group="method", series=["d"])


def test_a_table_is_read_once_for_several_metrics(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("n,loss,acc\n1,2.0,0.1\n2,1.0,0.2\n")
    opening = Opening(plain, ("n",), None, None, None, Chosen())
    assert opening.open("loss").loss == "loss"
    assert opening.table.n_rows == 2
    plain.unlink()
    with pytest.raises((InputError, OSError)):
        Opening(plain, ("n",), None, None, None, Chosen()).open("acc")
    reads: list[Any] = []
    from metascale.cli import table

    monkeypatch.setattr(table, "_require_table", lambda path: None)
    monkeypatch.setattr(table, "_read", lambda path, loss=None: reads.append(loss))
    assert opening.open("acc").loss == "acc"
    assert reads == []
    of_study = Opening(study, (), None, None, None, Chosen())
    monkeypatch.undo()
    assert of_study.open("other").loss == "other"
    assert of_study.open(None).loss == "loss"


def test_a_table_that_is_chosen_from_passes_on_what_was_chosen(study: Path, asked: list[Any]) -> None:
    chosen = Chosen("run", "seed", True, 7, "se")
    known: Any = SimpleNamespace()
    Opening(study, ("n",), "method", None, ["lr"], chosen).open("other")
    open_table(study, ("n", None, "d"), "loss", None, ["s"], ["lr"], chosen)
    open_table(Path("t.csv"), known=known)
    common = {"run": "run", "seed": "seed", "checkpoints": True, "rows": 7, "noise": "se"}
    assert [given[1:] for given in asked] == [
        (("n",), "other", {"group": "method", "series": (), "best_of": ["lr"], **common}),
        (("n", "d"), "loss", {"group": None, "series": ("s",), "best_of": ["lr"], **common}),
        ((), None, {"group": None, "series": (), "best_of": (), "run": None, "seed": None, "checkpoints": False,
                      "rows": None, "noise": None}),
    ]  # fmt: skip


# ------------------------------------------------------------------------------- what commands pass on


def test_the_sizes_of_an_optimum_are_the_first_two_scales_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.cli import laws, surfaces

    split: list[Any] = []
    opened = SimpleNamespace(scales=("N", "D", "E"))
    monkeypatch.setattr(laws, "Opening", lambda *given: SimpleNamespace(open=lambda y: opened))
    monkeypatch.setattr(surfaces, "best_split", lambda *given: split.append(given[2]) or {})
    laws.optimum(Path("t"), [1.0])
    laws.optimum(Path("t"), [1.0], "size")
    laws.optimum(Path("t"), [1.0], None, "tokens")
    opened.scales = ("N",)
    laws.optimum(Path("t"), [1.0])
    assert split == [("N", "D"), ("size", None), (None, "tokens"), (None, None)]


def test_rows_of_schedules_are_predicted_by_their_law_at_the_level() -> None:
    import numpy as np

    from metascale.cli.scales import predicted_rows
    from metascale.laws.schedule_predictor import SchedulePredictor
    from metascale.laws.table import Table

    class Own(SchedulePredictor):
        x_names = ("step",)  # type: ignore[assignment]

        def __init__(self, name: str) -> None:
            object.__setattr__(self, "called", name)

        def of_rows(self, rows: Table, level: float) -> Any:
            steps = np.asarray(rows.column("step"), float)
            return {"median": steps * 2, "low": steps - level, "high": steps + level, "beyond": steps * 0}

    table = Table({"g": np.array(["a", "b", "a"]), "step": np.array([1, 2, 3])}, "t", ())
    found = predicted_rows(table, {"a": Own("a"), "b": Own("b")}, 0.5, "g")
    assert [(row["g"], row["step"], row["median"], row["low"], row["high"], row["beyond"]) for row in found] == [
        ("a", 1, 2.0, 0.5, 1.5, 0.0), ("b", 2, 4.0, 1.5, 2.5, 0.0), ("a", 3, 6.0, 2.5, 3.5, 0.0)
    ]  # fmt: skip


def test_results_are_written_by_their_names_with_the_pictures_of_laws(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from metascale.cli.words import write_results
    from metascale.laws import picture

    drawn: list[Any] = []
    monkeypatch.setattr(picture, "figure_of", lambda pictures: f"figure of {pictures}")
    monkeypatch.setattr(picture, "write_png", lambda what, path: drawn.append((what, path.name)))
    monkeypatch.setattr(picture, "write_html", lambda pictures, path: drawn.append((pictures, path.name)))
    given: Any = ({"a.json": {"b": 1}}, {"t.csv": [{"x": 1, "y": "=2"}]}, {"p.png": "axes"})
    write_results(tmp_path, *given, ["one"], to_stderr=True)
    assert drawn == [("figure of ['one']", "law.png"), (["one"], "law.html"), ("axes", "p.png")]
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == "x,y"
    assert capsys.readouterr() == ("", f"wrote {tmp_path}/a.json, t.csv, law.png, law.html and p.png\n")
    drawn.clear()
    write_results(tmp_path, *given)
    assert drawn == [("axes", "p.png")]
    assert capsys.readouterr() == (f"wrote {tmp_path}/a.json, t.csv and p.png\n", "")


def test_a_stage_is_said_after_two_seconds_and_then_every_ten(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import threading

    from metascale.cli.words import stage

    waits: list[float] = []
    enough = threading.Event()

    class Beats(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is None:
                return super().wait()
            waits.append(timeout)
            if len(waits) < 3:
                return False
            enough.set()
            return super().wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Beats)
        with stage("fitting 7 rows"):
            assert enough.wait(10)
    assert waits == [2.0, 10.0, 10.0]
    assert capsys.readouterr() == ("", "fitting 7 rows ... (0 s)\n" * 2)


def test_the_costs_of_a_recipe_are_those_of_its_study_on_its_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.cli.run import _costs
    from metascale.core import optional

    asked: list[Any] = []
    planned: Any = SimpleNamespace(recipe="recipe", study="study", workers=3, devices=("cuda:0", "cpu"))
    table = lambda *given: ("title", ["heads"], [list(map(str, given))])
    monkeypatch.setattr(optional, "require", lambda *given: asked.append(given))
    monkeypatch.setitem(sys.modules, "metascale.workflow.estimate", SimpleNamespace(cost_table=table))  # it loads torch
    assert _costs(planned) == ("title", ["heads"], [["recipe", "study", "3", "cuda:0"]])
    assert asked == [("torch", "torch", "estimating a study")]


@pytest.mark.parametrize("error", [NotADirectoryError, PermissionError])
def test_a_folder_for_adapters_that_cannot_be_made_is_refused(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.cli.study import export
    from metascale.integrations import adapters

    def fails(*given: Any) -> Any:
        raise error(13, "Not so")

    monkeypatch.setattr(adapters, "export_adapter", fails)
    with pytest.raises(InputError, match=r"^--peft there cannot be written: Not so$"):
        export(Path("run"), peft=Path("there"))


# ------------------------------------------------------------------------------- narrow terminals


LONG = "https://example.org/" + "a" * 60


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What the commands print on a terminal of 20 columns."""
    from rich.console import Console

    from metascale.cli import imports, recipes, run, study

    stream = io.StringIO()
    for module, name in ((study, "console"), (run, "out"), (recipes, "out"), (imports, "console")):
        monkeypatch.setattr(module, name, Console(width=20, file=stream))

    def read() -> str:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return text

    return read


def test_addresses_and_paths_are_never_broken(narrow: Callable[[], str], monkeypatch: Any, tmp_path: Path) -> None:
    """What is printed is copied: a line break in it would be copied as well."""
    from metascale.cli import recipes, run, study
    from metascale.integrations import adapters
    from metascale.integrations import export as exporting
    from metascale.study.store import verify
    from metascale.workflow import recipe, study_file

    monkeypatch.setattr(adapters, "push_adapter", lambda *given, **options: LONG)
    study.push(Path("f"), "me/it")
    assert narrow() == f"{LONG}\n"
    monkeypatch.setattr(adapters, "export_adapter", lambda *given: [Path(f"/{LONG}"), Path("b")])
    study.export(Path("f"), peft=Path("p"))
    assert narrow().splitlines()[:2] == [str(Path(f"/{LONG}")), "b"]
    monkeypatch.setattr(exporting, "export_study", lambda *given, **options: 3)
    monkeypatch.setattr(study, "leave_if_damaged", lambda folder: None)
    for kind, what in (("csv", "trials"), ("latex", "rows")):
        study.export(Path("f"), kind, LONG)
        assert narrow() == f"3 {what} written to {LONG}\n"
    damage = SimpleNamespace(path=f"/{LONG}", problem="missing")
    found = SimpleNamespace(ok=False, n_files=7, n_runs=2, damages=(damage,))
    monkeypatch.setattr(verify, "verify_study", lambda folder: found)
    with pytest.raises(typer.Exit):
        study.verify(Path("f"))
    assert narrow().splitlines()[0] == f"/{LONG}: missing"
    run._print_read(SimpleNamespace(following=(), read=[f"reads {LONG} whole"]))  # type: ignore[arg-type]
    assert narrow() == f"reads {LONG} whole\n"
    concluded: Any = SimpleNamespace(
        analyses={}, no_law="", cautions=(), written=(Path(f"/{LONG}"),), answer="", methods=()
    )
    run.print_conclusion(concluded)
    assert narrow() == f"{Path('/' + LONG)}\n"
    monkeypatch.setattr(recipe, "load_recipe", lambda name: name)
    monkeypatch.setattr(study_file, "study_text", lambda *given: "text")
    file = tmp_path / f"{'b' * 60}.yaml"
    recipes.init("digits", file)
    assert narrow() == f"wrote {file}; edit it, then: metascale run {file} --out runs/{file.stem}\n"


def test_what_is_beside_the_trials_of_a_study_is_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.cli.study import _Standing
    from metascale.study import status

    monkeypatch.setattr(status, "render_status", lambda found, max_rows, width: (found, max_rows))
    standing: Any = object.__new__(_Standing)
    standing._laws, standing._no_law, standing._with_law, standing._status = {}, "too few", True, "status"
    standing._disk = SimpleNamespace(n_bytes=2048, n_files=3, free_bytes=0)
    shown = standing.render(7).renderables
    assert shown[0] == ("status", 7)
    assert [(str(line), line.style) for line in shown[1:]] == [
        ("no law yet: too few", "dim"), ("disk: 2.00 KiB in 3 files, 0 B free", "dim")
    ]  # fmt: skip
    standing._with_law = False
    assert len(standing.render(7).renderables) == 2
