"""The commands of laws with stand-ins behind them: what each option becomes, what is printed and written, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.cli import curves, laws, metrics, next_run, scales, series, surfaces
from metascale.cli.table import Chosen, Opening, open_table
from metascale.core.errors import InputError
from metascale.laws.metrics import ShareOptions
from metascale.laws.objective import LeastSquares
from metascale.laws.several import Part
from metascale.laws.table import read_table


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """Calls of stand-ins by name, in their order."""

    def stand_in(self, name: str, result: Any = None) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.append((name, args, more))
            return result(*args, **more) if callable(result) else result

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, more) for called, args, more in self if called == name]


@pytest.fixture
def calls() -> Calls:
    return Calls()


class Found:
    """A result that says ``text``."""

    def __init__(self, text: str = "summary", **fields: Any) -> None:
        self.text, self.fields = text, fields
        self.notes, self.verdict, self.x_names = ("own note",), "verdict", ("N",)
        vars(self).update(fields)

    def summary(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        return {"of": self.text}

    def record(self) -> Any:
        return SimpleNamespace(to_json=lambda: {"record": self.text, "predictor": 1})

    def plot(self) -> str:
        return f"plot of {self.text}"

    def rows(self) -> list[dict[str, Any]]:
        return [{"x": 1, "of": self.text}]


def table_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


TWO = "g,N,D,loss,acc\na,1,1,3.0,0.1\na,2,1,2.5,0.2\na,4,2,2.0,0.3\nb,1,1,3.5,0.1\nb,2,2,3.0,0.2\nb,4,4,2.5,0.3\n"


# ------------------------------------------------------------------------------------------------ fit and its parts


def fit_calls(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    monkeypatch.setattr(curves, "fit_curves", calls.stand_in("curves"))
    monkeypatch.setattr(metrics, "of_metrics", calls.stand_in("metrics"))


def test_fit_passes_on_every_option(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    fit_calls(monkeypatch, calls)
    given: dict[str, Any] = {
        "x": ["N"], "y": ["loss"], "group": "g", "series": ["s"], "best_of": ["lr"], "replicate": "seed", "run": "r",
        "checkpoints": True, "rows": 7, "noise_column": "se", "x2": "D", "x3": "C", "bound": ["a=0:1"], "fix": ["E=2"],
        "objective": "least-squares", "weights": "replicate", "level": 0.8, "n_bootstrap": 5, "kind": "share",
        "chance": 0.25, "trials": "40", "via": "nll", "seed": 3, "json_": True, "out": Path("o"),
    }  # fmt: skip
    laws.fit(Path("t"), **given, law="multi_power")
    opening = Opening(
        Path("t"), ("N", "D", "C"), "g", ["s"], ["lr"], Chosen("r", "seed", True, 7, "se")
    )  # the fields by their places
    how = ShareOptions("share", 0.25, 40.0, "nll")
    options = {"law": "multi_power", "level": 0.8, "objective": LeastSquares(), "bounds": {"a": (0, 1)},
               "fixed": {"E": 2}, "weights": "replicate", "n_bootstrap": 5, "seed": 3}  # fmt: skip
    assert calls == [("curves", (opening, ["loss"], options, how, Path("o"), True), {})]
    laws.fit(Path("t"), **given)
    (args, more) = calls.of("metrics")[0]
    assert args[:3] == (opening, ["loss"], how)
    assert (args[4:], more) == (("fit", Path("o"), True), {})
    fitted: list[Any] = []
    monkeypatch.setattr(laws, "_fit_metric", lambda *them: fitted.append(them))
    args[3]("acc", Part(how, False), Path("p"))
    kept = {name: value for name, value in options.items() if name in fitted[0][3]} | {"law": "auto"}
    chosen = Opening(Path("t"), ("N", "D", "C"), "g", ["s"], ["lr"], Chosen("r", "seed", True, 7, None))
    assert fitted == [(chosen, "acc", ("N",), kept, how, Path("p"), True)]
    assert "objective" not in kept
    calls.clear()
    laws.fit(Path("t"))
    args, _ = calls.of("metrics")[0]
    assert args[:3] == (Opening(Path("t"), (), None, None, None, Chosen()), None, ShareOptions())
    assert args[4:] == ("fit", None, False)
    args[3](None, Part(ShareOptions()), None)
    assert fitted[-1][1:4] == (None, (), {
        "law": "auto", "level": 0.95, "objective": None, "bounds": {}, "fixed": {}, "weights": None,
        "n_bootstrap": 1000, "seed": 0,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("x", "x2", "x3", "names"),
    [
        (None, None, None, ()), (["N"], None, None, ("N",)), (None, "D", None, ("D",)), (["N"], "D", None, ("N", "D")),
        (["N"], "D", "C", ("N", "D", "C")), (["N", "D"], None, "C", ("N", "D", "C")), (None, "D", "C", ("D", "C")),
    ],
)  # fmt: skip
def test_the_scales_that_are_named(x: Any, x2: Any, x3: Any, names: tuple[str, ...]) -> None:
    assert laws._require_scales(x, x2, x3) == names


@pytest.mark.parametrize(
    ("x", "x2", "x3", "field", "said"),
    [
        (["N"], None, "C", None, "--x3 is the third scale: it needs --x2, the second, as well"),
        (None, None, "C", None, "--x3 is the third scale: it needs --x2, the second, as well"),
        (["N"], "N", None, "x", "`x` names 'N' twice; every scale is named once"),
        (["N", "D"], None, "D", "x", "`x` names 'D' twice; every scale is named once"),
    ],
)
def test_scales_that_are_no_choice(x: Any, x2: Any, x3: Any, field: str | None, said: str) -> None:
    with pytest.raises(InputError) as refused:
        laws._require_scales(x, x2, x3)
    assert (str(refused.value), refused.value.field) == (said, field)


OPTIONS: dict[str, Any] = {
    "law": "auto", "level": 0.9, "objective": "huber", "bounds": {}, "fixed": {}, "weights": None, "n_bootstrap": 9,
    "seed": 4,
}  # fmt: skip


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> Calls:
    """Where one metric can go."""
    monkeypatch.setattr(metrics, "fit_shares", calls.stand_in("shares", lambda *_: {"shares": 1}))
    monkeypatch.setattr(scales, "run_fit", calls.stand_in("scales", lambda *_: {"scales": 1}))
    monkeypatch.setattr(series, "fit_series", calls.stand_in("series", lambda *_: {"series": 1}))
    monkeypatch.setattr(surfaces, "fit_surfaces", calls.stand_in("surfaces", lambda *_: {"surfaces": 1}))
    return calls


def metric(
    path: Path, y: str | None, x: tuple[str, ...], names: tuple[str, ...] = (), noise: str | None = None,
    replicate: str | None = None, how: ShareOptions = ShareOptions(), **changed: Any,  # noqa: B008
) -> Any:  # fmt: skip
    opening = Opening(path, names or x, None, None, None, Chosen(seed=replicate, noise=noise))
    return laws._fit_metric(opening, y, x, {**OPTIONS, **changed}, how, Path("o"), True)


def test_a_metric_goes_where_its_scales_and_law_lead(routes: Calls, tmp_path: Path) -> None:
    path = table_of(tmp_path, TWO)
    assert metric(path, "loss", ("N",), weights="replicate") == {"series": 1}
    args, _ = routes.of("series")[0]
    assert args[0].scales == ("N",)
    assert args[1].scales == ("N",)
    assert args[2:] == (
        {"law": "auto", "level": 0.9, "objective": "huber", "n_bootstrap": 9, "seed": 4, "weights": "replicate"},
        Path("o"), True,
    )  # fmt: skip
    assert metric(path, "loss", ("N", "D")) == {"surfaces": 1}
    args, _ = routes.of("surfaces")[0]
    assert args[0].loss == "loss"
    assert args[1:] == (
        ("N", "D"), {"law": "auto", "level": 0.9, "objective": "huber", "n_bootstrap": 9, "seed": 4}, Path("o"), True,
    )  # fmt: skip
    assert metric(path, "loss", ("N",), law="E + A/N**a", bounds={"a": (0, 1)}, replicate="g") == {"scales": 1}
    args, _ = routes.of("scales")[0]
    kept = {"law": "E + A/N**a", "level": 0.9, "objective": "huber", "bounds": {"a": (0, 1)}, "fixed": {}}
    assert args[1:] == (("N",), "g", kept, Path("o"), True)
    assert metric(path, "acc", ("N",), how=ShareOptions("share")) == {"shares": 1}
    args, _ = routes.of("shares")[0]
    assert (args[1].name, args[2], args[3], args[4:]) == ("acc", ShareOptions("share"), OPTIONS, (Path("o"), True))
    assert metric(path, "acc", ("N",), how=ShareOptions("share", via="loss")) == {"shares": 1}
    assert routes.of("shares")[1][0][0].loss == "loss"


@pytest.mark.parametrize(
    ("x", "changed", "field", "said"),
    [
        (("N", "D"), {"weights": "replicate"}, None,
         "--weights cannot go with several scales: such a fit reads every row alike"),
        (("N", "D"), {"weights": "replicate", "replicate": "g"}, None,
         "--replicate, --weights cannot go with several scales: such a fit reads every row alike"),
        (("N", "D"), {"replicate": "g"}, None,
         "--replicate cannot go with several scales: such a fit reads every row alike"),
        (("N",), {"law": "E + A/N**a", "weights": "replicate"}, None,
         "--weights cannot go with several scales: such a fit reads every row alike"),
        (("N",), {"law": "power", "bounds": {"a": (0, 1)}}, "law",
         "`bound` and `fix` are for a formula or a law of the library, not for 'power'"),
        (("N",), {"law": "power", "fixed": {"E": 1}}, "law",
         "`bound` and `fix` are for a formula or a law of the library, not for 'power'"),
    ],
)  # fmt: skip
def test_options_that_a_fit_does_not_read(
    x: tuple[str, ...], changed: dict[str, Any], field: str | None, said: str, routes: Calls, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        metric(table_of(tmp_path, TWO), "loss", x, **changed)
    assert (str(refused.value), refused.value.field, routes) == (said, field, [])


def test_scales_are_the_named_the_formula_s_or_guessed(tmp_path: Path) -> None:
    path = table_of(tmp_path, "N,D,my width,loss\n1,1,9,3\n2,1,8,2\n")
    opened, none = open_table(path, ("N",), "loss"), open_table(path, (), "loss")
    assert laws._named_scales(opened, ("N",), ("N",), "auto") == ("N",)
    assert laws._named_scales(none, (), (), "auto") == ()
    assert laws._named_scales(none, (), (), "E + A/N**a + B/my_width**b") == ("N", "my width")
    assert laws._named_scales(opened, ("N",), ("N",), "E + A/D**a") == ("N",)
    # A second scale without a first: the first is the model size.
    assert laws._named_scales(opened, ("D",), (), "auto") == ("N", "D")
    with pytest.raises(InputError) as refused:
        laws._named_scales(none, (), (), "E + A/loss**a")
    assert str(refused.value) == "the law 'E + A/loss**a' names no column of t.csv; columns: N, D, my width, loss"
    assert (refused.value.field, refused.value.value) == ("law", "E + A/loss**a")


# ------------------------------------------------------------------------------------------------ forecast, backtest


@pytest.mark.parametrize("command", ["forecast", "backtest"])
def test_forecast_and_backtest_go_by_metric_and_scales(
    command: str, monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path
) -> None:
    monkeypatch.setattr(metrics, "of_metrics", calls.stand_in("metrics"))
    for kind, module in (("shares", metrics), ("scales", scales), ("series", series)):
        monkeypatch.setattr(module, f"{command}_{kind}", calls.stand_in(kind, lambda *_, kind=kind: {kind: 1}))
    path = table_of(tmp_path, TWO)
    to: Any = {"to": ["8"]} if command == "forecast" else {}
    call = getattr(laws, command)
    call(path, x=["N"], y=["loss"], replicate="g", kind="loss", level=0.7, json_=True, out=Path("o"), **to)
    args, _ = calls.of("metrics")[0]
    assert args[:3] == (Opening(path, ["N"], None, None, None, Chosen(seed="g")), ["loss"], ShareOptions("loss"))
    assert args[4:] == (command, Path("o"), True)
    assert args[3]("loss", Part(ShareOptions("loss")), Path("p")) == {"series": 1}
    sent, _ = calls.of("series")[0]
    targets = [["8"]] if to else []
    assert (sent[0].scales, sent[0].loss, [*sent[1:]]) == (("N",), "loss", [*targets, "g", 0.7, Path("p"), True])
    assert args[3]("acc", Part(ShareOptions("share")), None) == {"shares": 1}
    sent, _ = calls.of("shares")[0]
    assert (sent[1].name, [*sent[2:]]) == ("acc", [ShareOptions("share"), *targets, 0.7, None, True])
    assert args[3]("acc", Part(ShareOptions("share", via="loss")), None) == {"shares": 1}
    assert calls.of("shares")[1][0][0].loss == "loss"
    call(path, x=["N", "D"], **to)
    args, _ = calls.of("metrics")[1]
    assert (args[1], args[2], args[4:]) == (None, ShareOptions(), (command, None, False))
    assert args[3]("loss", Part(ShareOptions()), None) == {"scales": 1}
    sent, _ = calls.of("scales")[0]
    mine = [["8"], None] if to else []
    assert [*sent[1:]] == [*mine, 0.9, None, False]


def test_a_noise_column_is_for_a_loss_in_one_scale() -> None:
    one, two = SimpleNamespace(scales=("N",), noise="se"), SimpleNamespace(scales=("N", "D"), noise="se")
    laws._refuse_noise(one, None)
    laws._refuse_noise(SimpleNamespace(scales=("N", "D"), noise=None), None)
    for opened, shared in ((two, None), (one, "share")):
        with pytest.raises(InputError) as refused:
            laws._refuse_noise(opened, shared)  # type: ignore[arg-type]
        assert refused.value.field == "noise"


def test_a_forecast_needs_a_place_or_a_schedule(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    with pytest.raises(InputError, match=r"^`to` is missing: give the scale to predict the loss at$") as refused:
        laws.forecast(Path("t"))
    assert refused.value.field == "to"
    monkeypatch.setattr(curves, "forecast_curves", calls.stand_in("curves"))
    laws.forecast(Path("t"), y=["loss"], kind="loss", schedule="cosine", level=0.8, json_=True, out=Path("o"))
    laws.forecast(Path("t"), to=["9"], schedule="cosine")
    opening = Opening(Path("t"), (), None, None, None, Chosen())
    assert [args for args, _ in calls.of("curves")] == [
        (opening, ["loss"], ShareOptions("loss"), "cosine", (), 0.8, Path("o"), True),
        (opening, None, ShareOptions(), "cosine", ["9"], 0.9, None, False),
    ]


def test_optimum_passes_on_every_option(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surfaces, "best_split", calls.stand_in("split", lambda *_: {"a": 1, "b": 2}))
    path = table_of(tmp_path, TWO)
    laws.optimum(path, [1e3])
    laws.optimum(
        path, [1e3, 1e4], "N", "D", "loss", "g", cost="acc", law="kaplan", objective="least-squares", level=0.5,
        gpu_flops=2.0, utilisation=0.25, seed=6, json_=True, out=Path("o"),
    )  # fmt: skip
    laws.optimum(path, [1e3], "N")
    (first, _), (second, _), (third, _) = calls.of("split")
    assert (first[0].scales, first[0].loss, first[0].group) == ((), None, None)
    plain = {"level": 0.9, "flops_per_second": None, "utilisation": 0.4, "cost": None}
    own = {"law": "auto", "seed": 0, "objective": None}
    assert first[1:] == ([1e3], (None, None), own, plain, None, False)
    assert (second[0].scales, second[0].loss, second[0].group) == (("N", "D"), "loss", "g")
    assert second[1:] == (
        [1e3, 1e4], ("N", "D"), {"law": "kaplan", "seed": 6, "objective": LeastSquares()},
        {"level": 0.5, "flops_per_second": 2.0, "utilisation": 0.25, "cost": "acc"}, Path("o"), True,
    )  # fmt: skip
    assert (third[0].scales, third[2]) == ((), ("N", None))
    assert json.loads(capsys.readouterr().out) == {"groups": {"a": 1, "b": 2}}


# ------------------------------------------------------------------------------------------------ learning rates


def test_options_that_the_law_of_schedules_does_not_read() -> None:
    law: Any = {"objective": None, "bound": {}, "fix": {}, "weights": None}
    opening = Opening(Path("t"), (), None, None, None, Chosen(run="r"))
    for field, changed in {
        "x": (Opening(Path("t"), ("N",), None, None, None, Chosen()), ShareOptions(), law),
        "series": (Opening(Path("t"), (), None, ["s"], None, Chosen()), ShareOptions(), law),
        "best_of": (Opening(Path("t"), (), None, None, ["lr"], Chosen()), ShareOptions(), law),
        "replicate": (Opening(Path("t"), (), None, None, None, Chosen(seed="s")), ShareOptions(), law),
        "rows": (Opening(Path("t"), (), None, None, None, Chosen(rows=3)), ShareOptions(), law),
        "noise": (Opening(Path("t"), (), None, None, None, Chosen(noise="se")), ShareOptions(), law),
        "kind": (opening, ShareOptions("share"), law), "chance": (opening, ShareOptions(chance=0.5), law),
        "via": (opening, ShareOptions(via="nll"), law), "bound": (opening, ShareOptions(), {**law, "bound": {"a": 1}}),
        "weights": (opening, ShareOptions(), {**law, "weights": "replicate"}),
    }.items():  # fmt: skip
        with pytest.raises(InputError) as refused:
            curves._fitted(changed[0], None, changed[1], changed[2], 0.9)
        assert refused.value.field == field
        assert str(refused.value) == f"`{field}` is not for the law 'multi_power', which reads run, step, rate, loss"
    with pytest.raises(InputError, match=r"^the law 'multi_power' is fitted to one loss; give `y` once$") as refused:
        curves._fitted(opening, ["a", "b"], ShareOptions(), law, 0.9)
    assert refused.value.field == "y"


@pytest.mark.parametrize("names", [("",), ("a", "b/c")])
def test_laws_of_schedules_are_printed_and_written(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: Any, tmp_path: Path
) -> None:
    found = {name: Found(f"law {name}", runs=["r"], residuals=lambda run: [{"run": run}]) for name in names}
    fitted = calls.stand_in("fit", lambda *_: found)
    monkeypatch.setattr("metascale.laws.schedule_fit.fit_curves", fitted)
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    monkeypatch.setattr(curves, "write_results", calls.stand_in("results"))
    opening = Opening(table_of(tmp_path, TWO), (), "g", None, None, Chosen(run="r"))
    options = {"objective": None, "bounds": {}, "fixed": {}, "weights": None, "level": 0.8}
    out = tmp_path / "o"
    curves.fit_curves(opening, ["loss"], options, ShareOptions(), out, False)
    args, _ = calls.of("fit")[0]
    assert (args[0].n_rows, args[1:]) == (6, ("loss", "r", 0.8, "g"))
    grouped = len(names) > 1
    told = f"wrote {out}/law.json, from which `metascale predict {out} SCHEDULE.csv` predicts a CSV of step and lr"
    lines = [f"{name}: law {name}" for name in names] if grouped else ["law "]
    assert capsys.readouterr().out.splitlines() == [*lines, told]
    assert calls.of("laws")[0][0][0] == out
    assert list(calls.of("laws")[0][0][1]) == list(names)
    (place, files, tables, plots), more = calls.of("results")[0]
    records = {name: {"of": f"law {name}"} for name in names}
    assert (place, files, more) == (
        out, {"fit.json": {"groups": records} if grouped else records[""]}, {"to_stderr": False},
    )  # fmt: skip
    rows = [{"group": name, "run": "r"} if name else {"run": "r"} for name in names]
    assert tables == {"curves.csv": rows}
    pictures = ["fit-a.png", "fit-b_c-"] if grouped else ["fit.png"]
    assert [name[: len(begin)] for name, begin in zip(plots, pictures, strict=True)] == pictures
    curves.fit_curves(opening, None, options, ShareOptions(), None, True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == ({"groups": records} if grouped else records[""])
    assert printed.err.splitlines() == lines
    assert len(calls.of("results")) == 1


@pytest.mark.parametrize("names", [("",), ("a", "b")])
def test_forecasts_of_schedules(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: Any, tmp_path: Path
) -> None:
    found = {
        name: Found(predict=calls.stand_in(f"ahead {name}", lambda *_, name=name: Found(f"ahead {name}")))
        for name in names
    }
    fitted = calls.stand_in("fit", lambda *_: found)
    monkeypatch.setattr("metascale.laws.schedule_fit.fit_curves", fitted)
    monkeypatch.setattr(curves, "write_results", calls.stand_in("results"))
    opening = Opening(table_of(tmp_path, TWO), (), None, None, None, Chosen())
    curves.forecast_curves(opening, None, ShareOptions(), "wsd", ["10", "step=20"], 0.8, Path("o"), False)
    curves.forecast_curves(opening, None, ShareOptions(), "wsd", [], 0.7, None, True)
    assert calls.of("fit")[0][0][1:] == (None, None, 0.95, None)
    assert [args for args, _ in calls.of(f"ahead {names[-1]}")] == [("wsd", [10, 20], 0.8), ("wsd", None, 0.7)]
    grouped, records = len(names) > 1, {name: {"of": f"ahead {name}"} for name in names}
    printed = capsys.readouterr()
    said = [line for name in names for line in ([f"{name}:"] if name else []) + [f"ahead {name}", "note: own note"]]
    stored = {"groups": records} if grouped else records[""]
    assert printed.out.splitlines() == [*said, json.dumps(stored)]
    assert printed.err.splitlines() == said
    (place, files, tables, plots), more = calls.of("results")[0]
    rows = [{**({"group": name} if name else {}), "x": 1, "of": f"ahead {name}"} for name in names]
    assert (place, files, tables, more) == (
        Path("o"), {"forecast.json": stored}, {"forecast.csv": rows}, {"to_stderr": False},
    )  # fmt: skip
    assert plots == ({} if grouped else {"forecast.png": "plot of ahead "})


# ------------------------------------------------------------------------------------------------ shares, metrics


def test_trials_are_a_number_or_a_column() -> None:
    assert metrics.share_options("share", 0.1, "1e2", "v") == ShareOptions("share", 0.1, 100.0, "v")
    assert metrics.share_options(None, None, "n", None) == ShareOptions(None, None, "n", None)
    assert metrics.share_options(None, None, None, None) == ShareOptions()


@pytest.mark.parametrize("what", ["fit", "backtest"])
def test_several_metrics_have_a_record_and_a_folder_each(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def measure(name: str | None, part: Part, out: Path | None) -> dict[str, Any]:
        asked.append((name, out))
        if name == "bad":
            raise InputError("no numbers")
        law = {"law": "power", "verdict": "falls"}
        return {"": {**law, "of": name}} if name != "two" else {"a": law, "b": law}

    path = table_of(tmp_path, "N,loss,two,bad\n1,3,3,3\n2,2,2,2\n")
    opening = Opening(path, ("N",), None, None, None, Chosen())
    metrics.of_metrics(opening, ["loss"], ShareOptions(), measure, what, tmp_path, True)
    metrics.of_metrics(opening, None, ShareOptions(), measure, what, None, False)
    assert asked == [("loss", tmp_path), (None, None)]
    assert json.loads(capsys.readouterr().out) == {"law": "power", "verdict": "falls", "of": "loss"}
    asked.clear()
    metrics.of_metrics(opening, ["loss", "two", "bad"], ShareOptions(), measure, what, tmp_path, True)
    assert asked == [(name, tmp_path / name) for name in ("loss", "two", "bad")]
    law = {"law": "power", "verdict": "falls"}
    results = {"metrics": {"loss": {**law, "of": "loss"}, "two": {"groups": {"a": law, "b": law}}},
               "refused": {"bad": "no numbers"}}  # fmt: skip
    printed = capsys.readouterr()
    assert json.loads(printed.out) == results
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    lines = printed.err.splitlines()
    assert lines[:3] == ["loss:", "two:", "bad:"]
    assert lines[-1] == f"wrote {tmp_path}/metrics.json"
    assert ("note: bad is refused: no numbers" in lines) is (what != "fit")


def test_the_laws_of_a_share(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_table(table_of(tmp_path, TWO), ("N",), "acc", group="g")
    share: Any = SimpleNamespace(name="acc")
    for name, flag in {"objective": "objective", "weights": "weights", "bounds": "bound", "fixed": "fix"}.items():
        with pytest.raises(InputError, match=rf"^`{flag}` is not for shares such as 'acc'$") as refused:
            metrics.fit_shares(opened, share, ShareOptions(), {name: "x"}, None, False)
        assert refused.value.field == flag
    ahead = calls.stand_in("ahead", Found("ahead"))
    one = SimpleNamespace(table=opened.table, names=("N",), x=np.array([[1.0], [4.0]]))
    two = SimpleNamespace(table=opened.table, names=("N", "D"), x=np.ones((2, 2)))
    every = [("a", Found("law a", predict=ahead), one), ("b", Found("law b"), two)]
    monkeypatch.setattr("metascale.laws.metrics.analyse_metric", calls.stand_in("analyse", lambda *_: every))
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    monkeypatch.setattr(metrics, "write_results", calls.stand_in("results"))
    how = ShareOptions("share", trials="D", via="loss")
    records = metrics.fit_shares(opened, share, how, {"level": 0.8}, tmp_path, False)
    assert records == {"a": {"of": "law a"}, "b": {"of": "law b"}}
    assert calls.of("analyse")[0][0] == (opened, share, how, 0.8)
    (places, level), _ = calls.of("ahead")[0]
    assert (places.tolist(), level) == ([4, 8, 16, 32, 64, 128], 0.9)
    assert [list(args[1]) for args, _ in calls.of("laws")] == [["a", "b"]]
    (place, files, tables, plots), more = calls.of("results")[0]
    assert (place, files, plots, more) == (tmp_path, {"fit.json": {"groups": records}}, {}, {"to_stderr": False})
    assert tables == {"forecast.csv": [{"group": "a", "x": 1, "of": "ahead"}]}
    said = capsys.readouterr().out
    assert said.startswith("a: law a\n\n")
    assert "b: law b\n\n" in said
    assert said.endswith(f"wrote {tmp_path}/law.json, from which `metascale predict {tmp_path} POINTS.csv` predicts\n")
    every[:] = [("", Found("law"), two)]
    assert metrics.fit_shares(opened, share, how, {"level": 0.8}, tmp_path, True) == {"": {"of": "law"}}
    (_, files, tables, plots), more = calls.of("results")[1]
    assert (files, tables, plots, more) == (
        {"fit.json": {"of": "law"}}, {}, {"fit.png": "plot of law"}, {"to_stderr": True},
    )  # fmt: skip
    metrics.fit_shares(opened, share, how, {"level": 0.8}, None, True)
    assert len(calls.of("results")) == 2


def test_forecasts_and_backtests_of_a_share(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_table(table_of(tmp_path, TWO), ("N", "D"), "acc")
    share: Any = SimpleNamespace(name="acc")
    row = {"N": 8.0, "median": 0.5, "low": 0.25, "high": 0.75, "beyond": 1.0}
    table = SimpleNamespace(notes=("table note",))
    places = calls.stand_in("places", lambda names, rows: rows[::-1])
    two = SimpleNamespace(table=table, names=("N", "D"), places=places)
    one = SimpleNamespace(table=table, names=("N",))
    ahead = Found("in two steps", rows=lambda: [row])
    law = Found("law", predict=calls.stand_in("ahead", lambda *_: ahead))
    every = [("", law, one)]
    monkeypatch.setattr("metascale.laws.metrics.analyse_metric", lambda *how: iter(every))
    monkeypatch.setattr(metrics, "write_results", calls.stand_in("results"))
    record = {"level": 0.8, "x_names": ["N"], "loss_name": "acc", "rows": [row]}
    assert metrics.forecast_shares(opened, share, ShareOptions(), ["8", "N=9"], 0.8, Path("o"), False) == {"": record}
    assert calls.of("ahead")[0][0] == ([[8], [9]], 0.8)
    assert capsys.readouterr().out.splitlines() == [
        "N 8: acc 0.5 (80 % interval for one run 0.25 to 0.75)", "note: table note", "note: verdict",
    ]  # fmt: skip
    assert calls.of("results")[0] == (
        (Path("o"), {"forecast.json": record}, {"forecast.csv": [row]}, {}), {"to_stderr": False},
    )  # fmt: skip
    every[:] = [("a", law, two), ("b", law, two)]
    via = ShareOptions(via="loss")
    found = metrics.forecast_shares(opened, share, via, ["D=2,N=8", "N=1,D=3"], 0.8, Path("o"), True)
    assert calls.of("places")[0][0] == (("N", "D"), [[8, 2], [1, 3]])
    assert calls.of("ahead")[-1][0] == ([[1, 3], [8, 2]], 0.8)
    said = ["in two steps", "note: table note", "note: verdict"]
    assert capsys.readouterr().err.splitlines() == ["a:", *said, "b:", *said]
    assert calls.of("results")[1][0][1:3] == (
        {"forecast.json": {"groups": found}},
        {"forecast.csv": [{"group": "a", **row}, {"group": "b", **row}]},
    )
    metrics.forecast_shares(opened, share, via, ["D=2,N=8"], 0.8, None, True)
    assert len(calls.of("results")) == 2
    capsys.readouterr()
    tested = [("", Found("test"), one), ("g", Found("test g"), one)]
    backtest = calls.stand_in("backtest", lambda *_: iter(tested))
    monkeypatch.setattr("metascale.laws.metrics.backtest_metric", backtest)
    records = metrics.backtest_shares(opened, share, via, 0.7, Path("o"), False)
    assert records == {"": {"of": "test"}, "g": {"of": "test g"}}
    assert calls.of("backtest")[0][0] == (opened, share, via, 0.7)
    assert capsys.readouterr().out.splitlines() == ["test", "note: table note", "g:", "test g", "note: table note"]
    assert [args for args, _ in calls.of("results")[2:]] == [
        (Path("o"), {"backtest.json": records[""]}, {}, {"backtest.png": "plot of test"}),
        (Path("o/g"), {"backtest.json": records["g"]}, {}, {"backtest.png": "plot of test g"}),
    ]
    metrics.backtest_shares(opened, share, via, 0.7, None, True)
    assert len(calls.of("results")) == 4


# ------------------------------------------------------------------------------------------------ several scales


def test_fits_in_any_number_of_scales(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_table(table_of(tmp_path, TWO), ("N", "D"), "loss", group="g")
    analyse = calls.stand_in("analyse", lambda **data: Found(f"law of {len(data['x'])}"))
    monkeypatch.setattr("metascale.laws.scales.analyse_scales", analyse)
    monkeypatch.setattr(scales, "write_scales", calls.stand_in("write"))
    monkeypatch.setattr(scales, "say_pooled", calls.stand_in("pooled"))
    found = scales.run_fit(opened, ("N", "D"), "seed", {"law": "chinchilla", "level": 0.5}, Path("o"), False)
    assert found == {"a": {"of": "law of 3"}, "b": {"of": "law of 3"}}
    data = calls.of("analyse")[0][1]
    assert (data["law"], data["level"], data["notes"], len(data["loss"])) == ("chinchilla", 0.5, (), 3)
    assert capsys.readouterr().out.splitlines() == ["a: law of 3", "b: law of 3"]
    args, _ = calls.of("pooled")[1]
    assert (args[0].n_rows, args[1:]) == (3, (opened, ("loss", "seed"), ("N", "D"), False))
    args, _ = calls.of("write")[0]
    assert (args[0], list(args[1])) == (Path("o"), ["a", "b"])
    scales.run_fit(open_table(table_of(tmp_path, TWO), ("N",), "loss"), ("N",), None, {}, None, True)
    assert capsys.readouterr() == ("", "law of 6\n")
    assert len(calls.of("write")) == 1


@pytest.mark.parametrize("names", [("",), ("a", "b")])
def test_laws_in_several_scales_are_written(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: Any
) -> None:
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    monkeypatch.setattr("metascale.laws.scales.pictures", lambda analysis, name: [f"{analysis.text} {name}"])
    monkeypatch.setattr(scales, "write_results", calls.stand_in("results"))
    found: Any = {name: Found(f"law {name}") for name in names}
    scales.write_scales(Path("o"), found)
    stored: Any = {"groups": {name: {"record": f"law {name}", "predictor": 1} for name in names}}
    plots = {}
    if names == ("",):
        stored, plots = {"record": "law "}, {"fit.png": "plot of law "}
    drawn = [f"law {name} {name}" for name in names]
    assert calls.of("results") == [((Path("o"), {"fit.json": stored}, {}, plots, drawn), {"to_stderr": True})]
    assert list(calls.of("laws")[0][0][1]) == list(names)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "wrote o/law.json, from which `metascale predict o POINTS.csv` predicts\n")


def test_pooled_conditions_leave_out_what_has_a_role(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("metascale.laws.table.pooled_notes", calls.stand_in("pooled", lambda *_: ["pooled"]))
    opened = open_table(table_of(tmp_path, TWO), ("N",), "loss", group="g")
    scales.say_pooled(opened.table, opened, ("acc", None), ("N", "absent"), True)
    scales.say_pooled(opened.table, opened, (), ("N",))
    from metascale.laws.table import SEED_NAMES

    (table, roles, known), _ = calls.of("pooled")[0]
    assert (table, known) == (opened.table, ["N"])
    assert roles == (*SEED_NAMES, *opened.used, "loss", None, "acc", None)
    assert "g" in roles
    assert capsys.readouterr() == ("note: pooled\n", "note: pooled\n")


def test_forecasts_in_several_scales(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in predicts N + D, one less and one more, N times beyond."""

    def predict(rows: Any, level: float) -> Any:
        calls.stand_in("predict")(np.asarray(rows).tolist(), level)
        middle = np.asarray(rows).sum(1)
        return SimpleNamespace(median=middle, low=middle - 1, high=middle + 1, beyond=np.asarray(rows)[:, 0])

    mixture = SimpleNamespace(mixture=SimpleNamespace(predict=predict))
    monkeypatch.setattr("metascale.laws.corners.choose", lambda table: mixture)
    monkeypatch.setattr(scales, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    opened = open_table(path, ("N", "D"), "loss")
    found = scales.forecast_scales(opened, ["N=8,D=2", "D=1,N=1"], None, 0.8, Path("o"), False)
    rows = [
        {"N": 8.0, "D": 2.0, "median": 10.0, "low": 9.0, "high": 11.0, "beyond": 8.0},
        {"D": 1.0, "N": 1.0, "median": 2.0, "low": 1.0, "high": 3.0, "beyond": 1.0},
    ]
    assert found == {"": {"level": 0.8, "x_names": ["N", "D"], "loss_name": "loss", "rows": rows}}
    assert calls.of("predict")[0][0] == ([[8, 2], [1, 1]], 0.8)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "N 8, D 2: loss 10 (80 % interval for one run 9 to 11), 8 times beyond the table",
        "N 1, D 1: loss 2 (80 % interval for one run 1 to 3)",
    ]
    assert calls.of("results")[0] == (
        (Path("o"), {"forecast.json": found[""]}, {"forecast.csv": rows}, {}), {"to_stderr": False},
    )  # fmt: skip
    grouped = open_table(path, ("N", "D"), "loss", group="g")
    found = scales.forecast_scales(grouped, ["N=8,D=2"], None, 0.8, Path("o"), True)
    assert list(found) == ["a", "b"]
    args, more = calls.of("results")[1]
    assert (args[1], args[2], more) == (
        {"forecast.json": {"groups": found}},
        {"forecast.csv": [{"group": name, **rows[0]} for name in "ab"]}, {"to_stderr": True},
    )  # fmt: skip
    scales.forecast_scales(grouped, ["N=8,D=2"], None, 0.8, None, True)
    assert len(calls.of("results")) == 2


def test_backtests_in_several_scales(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Tested(Found):
        def to_json(self) -> dict[str, Any]:
            return {"corners": [{"error": 1}]}

    tested = calls.stand_in("tested", lambda *_: Tested("corners"))
    monkeypatch.setattr("metascale.laws.corners.backtest_corners", tested)
    monkeypatch.setattr(scales, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    one = scales.backtest_scales(open_table(path, ("N", "D"), "loss"), 0.7, Path("o"), False)
    two = scales.backtest_scales(open_table(path, ("N", "D"), "loss", group="g"), 0.7, Path("o"), True)
    record = {"corners": [{"error": 1}]}
    assert (one, two) == ({"": record}, {"a": record, "b": record})
    assert [args[1] for args, _ in calls.of("tested")] == [0.7] * 3
    assert calls.of("results") == [
        ((Path("o"), {"backtest.json": record}, {"backtest.csv": [{"error": 1}]}, {}), {"to_stderr": False}),
        ((Path("o"), {"backtest.json": {"groups": two}},
          {"backtest.csv": [{"group": name, "error": 1} for name in "ab"]}, {}), {"to_stderr": True}),
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "corners"
    assert [line for line in printed.err.splitlines() if not line.startswith("note")] == [
        "a:",
        "corners",
        "b:",
        "corners",
    ]
    scales.backtest_scales(open_table(path, ("N", "D"), "loss"), 0.7, None, True)
    assert len(calls.of("results")) == 2


# ------------------------------------------------------------------------------------------------ one scale


def test_fits_in_one_scale(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TWO.replace("g,", "method,", 1)
    path = table_of(tmp_path, text)
    many = calls.stand_in("many", lambda parts: {name: Found(f"law {name}") for name in parts})
    monkeypatch.setattr("metascale.laws.many.fit_each", many)
    monkeypatch.setattr("metascale.laws.prepared.notes_of", lambda columns, opened: ("table note",))
    monkeypatch.setattr("metascale.laws.entry.compare", calls.stand_in("compare", lambda *_, **__: Found("compared")))
    monkeypatch.setattr(series, "_write_fit", calls.stand_in("write"))
    opening = Opening(path, ("N",), None, None, None, Chosen())
    options = {"law": "auto", "level": 0.8, "seed": 3}
    found = series.fit_series(opening.open("loss"), opening, options, Path("o"), False)
    assert found == {"a": {"of": "law a"}, "b": {"of": "law b"}}
    sent = calls.of("many")[0][0][0]
    assert {name: (part["law"], part["level"], part["run"], len(part["x"])) for name, part in sent.items()} == {
        "a": ("auto", 0.8, None, 3), "b": ("auto", 0.8, None, 3),
    }  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "several methods in the table: each gets its own law (as --group method)",
        "a: law a", "", "b: law b", "", "note: table note", "compared",
        "note: groups are compared with the law power (--law auto) by least squares; --objective and --weights change "
        "only the fits above",
    ]  # fmt: skip
    args, more = calls.of("compare")[0]
    assert (args[1:], more) == (("method", "auto"), {"level": 0.8, "seed": 3})
    args, _ = calls.of("write")[0]
    assert (list(args[0]), args[1:]) == (["a", "b"], ({"of": "compared"}, Path("o"), False))
    named = Opening(path, ("N",), "method", None, None, Chosen())
    series.fit_series(named.open("loss"), named, {**options, "law": "exponential"}, None, True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("note: the groups are not compared: only --law ")
    assert printed.err.splitlines()[-1].endswith(" can be, not exponential")
    assert "several methods" not in printed.err
    assert len(calls.of("write")) == 1
    series.fit_series(named.open("loss"), named, {**options, "law": "power"}, None, False)
    assert "with the law power by least squares" in capsys.readouterr().out
    alone = Opening(path, ("N",), None, ["method"], None, Chosen())
    n_compared = len(calls.of("compare"))
    series.fit_series(alone.open("loss"), alone, options, None, False)
    assert len(calls.of("compare")) == n_compared  # of a series each law stands alone


def test_forecasts_in_one_scale_pass_the_horizons_on_the_way(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The largest scale is 4: on the way to 20 are 8 and 16."""
    ahead = calls.stand_in("ahead", lambda **_: Found("ahead"))
    monkeypatch.setattr("metascale.laws.forecasting.forecast", ahead)
    monkeypatch.setattr("metascale.laws.prepared.notes_of", lambda columns, opened: ("table note",))
    monkeypatch.setattr(series, "_print_forecast", calls.stand_in("print"))
    monkeypatch.setattr(series, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    opened = open_table(path, ("N",), "loss")
    assert series.forecast_series(opened, ["20", "N=3"], None, 0.8, Path("o"), False) == {"": {"of": "ahead"}}
    asked = calls.of("ahead")[0][1]
    assert (asked["at"], asked["level"], len(asked["x"])) == ([3, 8, 16, 20], 0.8, 6)
    assert [args[1] for args, _ in calls.of("print")] == [""]
    written = ({"forecast.json": {"of": "ahead"}}, {"forecast.csv": [{"x": 1, "of": "ahead"}]},
               {"forecast.png": "plot of ahead"})  # fmt: skip
    assert calls.of("results") == [((Path("o"), *written), {"to_stderr": False})]
    assert capsys.readouterr().out.splitlines() == ["note: own note", "note: table note"]
    grouped = open_table(path, ("N",), "loss", group="g")
    series.forecast_series(grouped, ["8"], None, 0.8, Path("o"), True)
    assert calls.of("ahead")[1][1]["at"] == [8]
    assert len(calls.of("print")) == 1
    assert [args[0] for args, _ in calls.of("results")[1:]] == [Path("o/a"), Path("o/b")]
    series.forecast_series(grouped, ["8"], None, 0.8, None, False)
    assert [args[1] for args, _ in calls.of("print")] == ["", "a", "b"]
    assert len(calls.of("results")) == 3


def test_backtests_in_one_scale(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = calls.stand_in("tested", lambda **_: Found("tested"))
    monkeypatch.setattr("metascale.laws.backtesting.backtest", tested)
    monkeypatch.setattr("metascale.laws.prepared.notes_of", lambda columns, opened: ("table note",))
    monkeypatch.setattr(series, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    one = series.backtest_series(open_table(path, ("N",), "loss"), None, 0.7, Path("o"), False)
    two = series.backtest_series(open_table(path, ("N",), "loss", group="g"), None, 0.7, Path("o"), True)
    assert (one, two) == ({"": {"of": "tested"}}, {"a": {"of": "tested"}, "b": {"of": "tested"}})
    assert [(more["level"], len(more["x"])) for _, more in calls.of("tested")] == [(0.7, 6), (0.7, 3), (0.7, 3)]
    files = ({"backtest.json": {"of": "tested"}}, {}, {"backtest.png": "plot of tested"})
    assert calls.of("results") == [
        ((Path("o"), *files), {"to_stderr": False}), ((Path("o/a"), *files), {"to_stderr": True}),
        ((Path("o/b"), *files), {"to_stderr": True}),
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["tested", "note: table note"]
    assert printed.err.splitlines() == ["a:", "tested", "b:", "tested", "note: table note"]
    series.backtest_series(open_table(path, ("N",), "loss"), None, 0.7, None, True)
    assert len(calls.of("results")) == 3


@pytest.mark.parametrize("names", [("",), ("a", "b")])
def test_laws_in_one_scale_are_written_with_forecasts_to_32_times_the_largest(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: Any
) -> None:
    ahead = Found("ahead", label="32 times", band=lambda: "band")
    monkeypatch.setattr("metascale.laws.forecasting.forecast_table", calls.stand_in("ahead", lambda *_: ahead))
    monkeypatch.setattr("metascale.laws.predicting.saved_record", lambda one: f"record of {one.text}")
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    monkeypatch.setattr(series, "write_results", calls.stand_in("results"))
    table = SimpleNamespace(x=np.array([[1.0], [5.0]]))
    found: Any = {}
    for name in names:
        fit, picture = SimpleNamespace(observations=table), lambda bands, title: (bands, title)
        found[name] = Found(f"law {name}", fit=fit, picture=picture)
    series._write_fit(found, {"p": 0.5} if len(names) > 1 else None, Path("o"), False)
    (given, at, level), _ = calls.of("ahead")[0]
    assert (given is table, at.tolist(), level) == (True, [5, 10, 20, 40, 80, 160], 0.9)
    record: Any = {"of": "law "}
    if len(names) > 1:
        record = {"groups": {name: {"of": f"law {name}"} for name in names}, "comparison": {"p": 0.5}}
    rows = [{"group": name, "x": 1, "of": "ahead"} if name else {"x": 1, "of": "ahead"} for name in names]
    drawn = [({"32 times": "band"}, name) for name in names]
    assert calls.of("results") == [
        ((Path("o"), {"fit.json": record}, {"forecast.csv": rows}, {}, drawn), {"to_stderr": False})
    ]
    assert calls.of("laws") == [((Path("o"), {name: f"record of law {name}" for name in names}), {})]
    assert capsys.readouterr().out == "wrote o/law.json, from which `metascale predict o POINTS.csv` predicts\n"


# ------------------------------------------------------------------------------------------------ size and data


def test_surfaces_are_printed_and_written_in_a_folder_each(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analyse = calls.stand_in("analyse", lambda **data: Found(f"surface of {len(data['loss'])}"))
    monkeypatch.setattr("metascale.laws.surface_fit.analyse_surface", analyse)
    monkeypatch.setattr("metascale.cli.scales.say_pooled", calls.stand_in("pooled"))
    monkeypatch.setattr(surfaces, "_write_surface", calls.stand_in("write", lambda *_: "record"))
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    path = table_of(tmp_path, TWO)
    one = open_table(path, ("N", "D"), "loss")
    assert surfaces.fit_surfaces(one, ("N", "D"), {"level": 0.5}, Path("o"), False) == {"": {"of": "surface of 6"}}
    assert (calls.of("analyse")[0][1]["level"], calls.of("analyse")[0][1]["notes"]) == (0.5, one.table.notes)
    assert calls.of("pooled")[0][0][1:] == (one, ("N", "D", "loss"), ("N", "D"), False)
    assert (calls.of("write")[0][0][0], calls.of("laws")) == (Path("o"), [])
    assert capsys.readouterr().out == "surface of 6\n"
    two = open_table(path, ("N", "D"), "loss", group="g")
    assert list(surfaces.fit_surfaces(two, ("N", "D"), {}, Path("o"), True)) == ["a", "b"]
    assert [args[0] for args, _ in calls.of("write")[1:]] == [Path("o/a"), Path("o/b")]
    assert calls.of("laws") == [((Path("o"), {"a": "record", "b": "record"}), {})]
    assert capsys.readouterr().err.splitlines() == ["a:", "surface of 3", "b:", "surface of 3"]
    surfaces.fit_surfaces(two, ("N", "D"), {}, None, True)
    assert (len(calls.of("write")), len(calls.of("laws"))) == (3, 1)


def test_the_best_split_of_every_group(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Found("best")
    surface = Found("surface", optimum=calls.stand_in("optimum", lambda *_, **__: best))
    monkeypatch.setattr("metascale.laws.surface_fit.analyse_surface", lambda **data: surface)
    monkeypatch.setattr("metascale.laws.entry.cost_of", calls.stand_in("cost", lambda *_: "spent"))
    monkeypatch.setattr("metascale.laws.cross_check", calls.stand_in("check", lambda *_: Found("checked")))
    monkeypatch.setattr("metascale.cli.scales.say_pooled", calls.stand_in("pooled"))
    monkeypatch.setattr(surfaces, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    one = open_table(path, ("N", "D"), "loss")
    asked = {"level": 0.8, "flops_per_second": None, "utilisation": 0.4}
    found = surfaces.best_split(one, [8.0], ("N", "D"), {"seed": 1}, {**asked, "cost": "acc"}, Path("o"), False)
    record = {"of": "best", "other_approaches": {"of": "checked"}, "law": {"of": "surface"}}
    assert found == {"": record}
    assert calls.of("optimum") == [(([8.0],), {"cost": "spent", **asked})]
    assert calls.of("cost")[0][0][1] == "acc"
    n, d, loss, last = calls.of("check")[0][0]
    assert (n.tolist(), d.tolist(), loss.tolist(), last) == (
        [1, 2, 4, 1, 2, 4], [1, 1, 2, 1, 2, 4], [3, 2.5, 2, 3.5, 3, 2.5], best,
    )  # fmt: skip
    assert calls.of("pooled")[0][0][1:] == (one, ("N", "D", "N", "D", "acc", "loss"), ("N", "D"), False)
    assert calls.of("results") == [(
        (Path("o"), {"fit.json": {"of": "surface"}, "optimum.json": record}, {}, {"optimum.png": "plot of checked"}),
        {"to_stderr": False},
    )]  # fmt: skip
    assert capsys.readouterr().out == "surface\n\nbest\nchecked\n"
    two = open_table(path, ("N", "D"), "loss", group="g")
    surfaces.best_split(two, [8.0], ("N", None), {}, {**asked, "cost": None}, Path("o"), True)
    assert [args[0] for args, _ in calls.of("results")[1:]] == [Path("o/a"), Path("o/b")]
    assert capsys.readouterr().err.startswith("a:\nsurface\n\nbest\nchecked\nb:\n")
    surfaces.best_split(two, [8.0], ("N", "D"), {}, {**asked, "cost": None}, None, True)
    assert len(calls.of("results")) == 3


@pytest.mark.parametrize("known", [True, False])
def test_a_frontier_is_written_where_the_scales_are_size_and_data(
    known: bool, monkeypatch: pytest.MonkeyPatch, calls: Calls, capsys: Any
) -> None:
    """Compute is 6 N D: from 6 to 6 · 4 · 4, to 32 times that, in 25 points of one ratio."""
    from dataclasses import dataclass

    @dataclass
    class Record:
        predictor: Any = None

    best = Found("best")
    predictor = SimpleNamespace(by="the mixture", record=lambda: "predictor")
    surface: Any = Found(
        "surface", predictor=predictor, fit=SimpleNamespace(observations="rows"), record=Record,
        optimum=calls.stand_in("optimum", lambda *_, **__: best), picture=lambda best: f"frontier of {best.text}",
    )  # fmt: skip
    names = ("N", "D") if known else ("width", "depth")
    columns: Any = SimpleNamespace(names=names, x=np.array([[1.0, 1.0], [4.0, 4.0]]))
    pictures = calls.stand_in("pictures", lambda *_: ["law"])
    monkeypatch.setattr("metascale.laws.scales.pictures_of", pictures)
    monkeypatch.setattr("metascale.laws.record.write_laws", calls.stand_in("laws"))
    monkeypatch.setattr(surfaces, "write_results", calls.stand_in("results"))
    record: Any = surfaces._write_surface(Path("o"), surface, columns, False)
    assert record == Record("predictor")
    assert calls.of("pictures") == [((predictor, "rows", "verdict"), {})]
    assert calls.of("laws") == [((Path("o"), {"": record}), {})]
    files, plots = {"fit.json": {"of": "surface"}}, {"fit.png": "plot of surface"}
    told = ["wrote o/law.json, from which `metascale predict o POINTS.csv` predicts", "predictions by the mixture"]
    if known:
        ((budgets,), more) = calls.of("optimum")[0]
        assert (len(budgets), more) == (25, {"level": 0.9})
        assert budgets[[0, -1]].tolist() == pytest.approx([6, 32 * 96])
        assert (budgets[1:] / budgets[:-1]).tolist() == pytest.approx([(512) ** (1 / 24)] * 24)
        tables, drawn = {"forecast.csv": [{"x": 1, "of": "best"}]}, ["frontier of best", "law"]
    else:
        tables, drawn = {}, ["law"]
        told.append("note: no frontier in compute: 'width' and 'depth' are not known as model size and tokens; "
                    "`optimum` takes any two columns by name")  # fmt: skip
    assert calls.of("results") == [((Path("o"), files, tables, plots, drawn), {"to_stderr": False})]
    assert capsys.readouterr().out.splitlines() == told


# ------------------------------------------------------------------------------------------------ next


def test_next_passes_on_every_option(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Found("plan", outcome=calls.stand_in("outcome", lambda *_, **__: Came("came")))

    class Came(Found):
        def to_json(self) -> dict[str, Any]:
            return {"runs": [{"run": 1}]}

    monkeypatch.setattr("metascale.laws.next_plan.next_runs", calls.stand_in("next", lambda *_, **__: plan))
    monkeypatch.setattr("metascale.laws.next_plan.read_plan", calls.stand_in("read", lambda path: plan))
    monkeypatch.setattr(next_run, "write_results", calls.stand_in("results"))
    path = table_of(tmp_path, TWO)
    next_run.next_(path, Path("c"), None, "6*N*D", 5.0, ["N=9,D=9"], y="loss", x=["N"], batch=2, level=0.5,
                   repeats=True, out=Path("o"))  # fmt: skip
    next_run.next_(path, None, ["N=1:4:3"], "N", 5.0, None, Path("where"), json_=True)
    (first, more), (second, plain) = calls.of("next")
    assert (first[0].n_rows, first[1:], more) == (
        6, (Path("c"), "6*N*D", [{"N": 9, "D": 9}], 5.0),
        {"x": ["N"], "y": "loss", "batch": 2, "level": 0.5, "repeats": True},
    )  # fmt: skip
    assert (second[1].numbers("N").tolist(), second[2:]) == (pytest.approx([1, 2, 4]), ("N", Path("where"), 5.0))
    assert plain == {"x": None, "y": None, "batch": None, "level": 0.9, "repeats": False}
    assert calls.of("results") == [
        ((Path("o"), {"plan.json": {"of": "plan"}}, {"plan.csv": [{"x": 1, "of": "plan"}]}, {}), {"to_stderr": False})
    ]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["plan", '{"of": "plan"}']
    assert printed.err.splitlines() == ["after the runs: metascale next TABLE --outcome o/plan.json", "plan"]
    next_run.next_(path, outcome=Path("p"), y="loss", out=Path("o"), json_=True)
    next_run.next_(path, outcome=Path("p"))
    assert [args for args, _ in calls.of("read")] == [(Path("p"),)] * 2
    (args, more), _ = calls.of("outcome")
    assert (args[0].n_rows, more) == (6, {"y": "loss"})
    assert calls.of("results")[1:] == [
        ((Path("o"), {"outcome.json": {"runs": [{"run": 1}]}}, {"outcome.csv": [{"run": 1}]}, {}), {"to_stderr": True})
    ]
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ('{"runs": [{"run": 1}]}\ncame\n', "came\n")


@pytest.mark.parametrize(
    ("name", "text", "known"),
    [("t.csv", "N,loss\n", False), ("t.TSV", "N\tloss\n\n", False), ("t.txt", "N loss\n1 2\n", True),
     ("t.csv", "\ufeffN,loss\n1,2\n3,4\n", True)],
)  # fmt: skip
def test_a_header_alone_is_no_run(name: str, text: str, known: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    table, loss = next_run._known(tmp_path / name, "loss")
    assert ((table is not None), loss) == (known, "loss")


def test_a_plain_cell_is_a_number_of_python() -> None:
    table = read_table({"N": np.array([1, 2]), "note": ["a", "b"]})
    found = scales.predicted_rows(table, {"": Predicts()}, 0.5, None)
    assert [type(cell) for cell in found[0].values()] == [int, str, float, float, float, float]


class Predicts:
    x_names = ("N",)

    def predict(self, rows: Any, level: float) -> Any:
        return SimpleNamespace(median=rows[:, 0], low=rows[:, 0], high=rows[:, 0], beyond=rows[:, 0])
