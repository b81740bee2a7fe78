"""Readers of other programs on stand-ins: stores, trials, states, tables, and the files that they lie in."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.integrations.sources import lightning, mlflow, optuna, places, read, runs, trainer
from metascale.integrations.sources.runs import Imported, ImportedRun, Series, flat, number, to_csv, utc

# Runs and tables.


def test_points_of_a_series_and_those_that_are_taken_back() -> None:
    one = Series()
    for step, value, at in ((1, 5.0, 1.0), (2, 4.0, 2.0), (2, 4.0, 3.0), (2, 4.5, 4.0), (5, 1.0, None), (3, 2.0, 6.0)):
        one.add(step, value, at)
    assert (one.steps, one.values, one.times, one.replaced) == ([1, 2, 3], [5.0, 4.5, 2.0], [1.0, 4.0, 6.0], 2)
    one.cut(4)
    assert (one.steps, one.replaced) == ([1, 2, 3], 2)
    one.cut(2)
    assert (one.steps, one.replaced) == ([1], 4)


def test_times_of_a_run_are_its_own_or_those_of_its_points() -> None:
    run = ImportedRun("a")
    assert (run.times(), run.steps) == ((None, None), None)
    run.add("x", 3, 1.0, 20.0)
    run.add("y", 7, 1.0, 10.0)
    run.add("y", 9, 1.0)
    assert (run.times(), run.steps) == ((10.0, 20.0), 9)
    run.started_at, run.ended_at = 0.0, 5.0
    assert run.times() == (0.0, 5.0)


def test_what_a_source_says_of_points_recorded_again() -> None:
    first, second, third = (ImportedRun(name) for name in "abc")
    for run, steps in ((first, (1, 2, 1)), (second, (1, 2, 3, 2)), (third, (1, 2))):
        for step in steps:
            run.add("x", step, float(step) / 7 + len(run.series))
    assert Imported("here", [first, third]).notes == [
        "2 points of 1 run were recorded again at the same or an earlier step, as after a resume: the later record "
        "counts"
    ]
    assert Imported("here", [first, second, third], ["before"]).notes[1].startswith("4 points of 2 runs were recorded")
    assert Imported("here", [third]).notes == []


def test_a_table_of_two_runs() -> None:
    one = ImportedRun("a", "shown", "finished", {"lr": 0.1}, started_at=0.0, ended_at=1.2345)
    for step, loss, acc in ((1, 3.0, 0.1), (2, 1.0, 0.9), (3, 2.0, 0.5)):
        one.add("loss", step, loss)
        one.add("val/acc", step, acc)
    one.add("once", 4, 7.0)
    two = ImportedRun("b", larger={"loss": True})
    two.add("loss", 1, math.nan)
    two.add("loss", 2, math.nan)
    two.series["empty"] = Series()
    found = Imported("here", [one, two]).table()
    assert list(found) == [
        "run", "name", "state", "lr", "loss", "loss_step", "loss_max", "loss_max_step", "val/acc", "val/acc_step",
        "val/acc_max", "val/acc_max_step", "once", "once_step", "steps", "started_at", "ended_at", "wall_s",
    ]  # fmt: skip
    assert {name: values[0] for name, values in found.items()} == {
        "run": "a", "name": "shown", "state": "finished", "lr": 0.1, "loss": 2.0, "loss_step": 3, "loss_max": 3.0,
        "loss_max_step": 1, "val/acc": 0.5, "val/acc_step": 3, "val/acc_max": 0.9, "val/acc_max_step": 2, "once": 7.0,
        "once_step": 4, "steps": 4, "started_at": "1970-01-01T00:00:00Z", "ended_at": "1970-01-01T00:00:01Z",
        "wall_s": 1.234,
    }  # fmt: skip
    second = {name: values[1] for name, values in found.items() if values[1] is not None}
    assert math.isnan(second.pop("loss"))
    assert second == {"run": "b", "name": "b", "loss_step": 2, "steps": 2}


@pytest.mark.parametrize(
    ("said", "best"), [([{}, {}], "min"), ([{"x": True}, {}], "max"), ([{"x": True}, {"x": False}], "min")]
)
def test_which_end_of_a_metric_is_its_best_as_the_programs_agree(said: list[dict[str, bool]], best: str) -> None:
    own = [ImportedRun(name, larger=larger) for name, larger in zip("ab", said, strict=True)]
    for run in own:
        run.add("x", 1, 1.0)
        run.add("x", 2, 2.0)
    assert f"x_{best}" in Imported("here", own).table()


@pytest.mark.parametrize(
    ("name", "larger"),
    [("val/acc", True), ("eval_F1", True), ("top-accuracy", True), ("loss", False), ("accent", False), ("map50", False),
     ("R2 score", True), ("map", True)],
)  # fmt: skip
def test_metrics_that_are_better_when_larger_are_known_by_whole_words(name: str, larger: bool) -> None:
    assert Imported("here", [ImportedRun("a")])._larger(name) is larger


def test_curves_have_a_row_a_step_with_the_time_of_its_last_point() -> None:
    one = ImportedRun("a", config={"step": 1, "time": 2, "w": 3})
    one.add("loss", 2, 1.0, 30.0)
    one.add("loss", 1, 2.0, 50.0)
    one.add("acc", 1, 0.5, 40.0)
    one.add("time", 1, 9.0)
    found = Imported("here", [one]).curves()
    assert found == {
        "run": ["a"], "name": ["a"], "config.step": [1], "config.time": [2], "w": [3], "step": [1],
        "time": ["1970-01-01T00:00:50Z"], "loss": [2.0], "acc": [0.5], "metric.time": [9.0],
    }  # fmt: skip
    one.config |= {"metric.time": 1, "config.metric.time": 1}
    with pytest.raises(
        InputError, match=r"^here would have two columns named 'config.metric.time'; names must differ$"
    ):
        Imported("here", [one]).curves()


def test_configurations_by_dotted_key(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = {
        "a": {"b": 1, "c": {"d": None}},
        "list": [1, {"x": 2}],
        "t": (1,),
        "odd": {
            1,
        },
        3: True,
        "empty": {},
    }
    assert flat(nested, "it") == {
        "a.b": 1, "a.c.d": None, "list": '[1, {"x": 2}]', "t": "[1]", "odd": '"{1}"', "3": True,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"^it has two keys 'a.b' in its configuration; names must differ$") as caught:
        flat({"a": {"b": 1}, "a.b": 2}, "it")
    assert caught.value.value == "a.b"
    monkeypatch.setattr(runs, "MOST_KEYS", 4)
    assert flat({"a": 1, "b": [2]}, "it") == {"a": 1, "b": "[2]"}  # the mapping, a, b and 2
    with pytest.raises(InputError, match=r"^the configuration of it has more than 4 entries, or 64 levels$"):
        flat({"a": 1, "b": [2, 3]}, "it")
    monkeypatch.setattr(runs, "MOST_KEYS", 1000)
    deep: Any = 1
    for _ in range(64):
        deep = [deep]
    assert list(flat({"a": deep[0]}, "it")) == ["a"]
    with pytest.raises(InputError, match=r"or 64 levels$"):
        flat({"a": deep}, "it")


def test_numbers_times_and_texts_of_tables() -> None:
    assert [number(value) for value in (1, 0.5, True, "1", None, 10**400)] == [1.0, 0.5, None, None, None, None]
    assert [utc(value) for value in (None, 1e20, math.nan, 0.0, 86400.9)] == [
        None, None, None, "1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z",
    ]  # fmt: skip
    assert to_csv({"=a": ["=1", "x"], "b": [0.1, None]}) == "'=a,b\n'=1,0.1\nx,\n"


# MLflow.


@pytest.mark.parametrize(
    ("source", "uri", "experiment"),
    [
        ("http://host:5000/train", "http://host:5000", "train"), ("http://host:5000", "http://host:5000", ""),
        ("http://host/", "http://host/", ""), ("https://host/prefix#a/b", "https://host/prefix", "a/b"),
        ("https://host#", "https://host", ""), ("postgresql://host/db", "postgresql://host/db", ""),
    ],
)  # fmt: skip
def test_a_store_of_mlflow_and_the_experiment_in_it(source: str, uri: str, experiment: str) -> None:
    assert mlflow._split(source) == (uri, experiment)


def test_folders_and_databases_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, database = tmp_path / "mlruns", tmp_path / "ml.db"
    folder.mkdir()
    assert mlflow._split(str(folder)) == (folder.as_uri(), "")
    assert mlflow._split(f"{folder}/train") == (folder.as_uri(), "train")
    assert mlflow._split(f"{folder}#a/b") == (folder.as_uri(), "a/b")
    assert mlflow._split(f"file://{folder}#x") == (f"file://{folder}", "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mlflow._split("~/mlruns#x") == (folder.as_uri(), "x")
    for tables in ((), ("experiments",), ("runs",), ("experiments", "runs")):
        database.unlink(missing_ok=True)
        with sqlite3.connect(database) as connection:
            for name in tables:
                connection.execute(f"CREATE TABLE {name} (x)")
        connection.close()
        if len(tables) < 2:
            with pytest.raises(InputError, match="names no MLflow store"):
                mlflow._split(f"sqlite:///{database}/train")
    assert mlflow._split(f"sqlite:///{database}/train") == (f"sqlite:///{database}", "train")
    assert mlflow._split(f"sqlite:///{database}") == (f"sqlite:///{database}", "")
    (tmp_path / "no.db").write_text("no database, in more than a few words" * 40)
    for source in (f"sqlite:///{tmp_path}/no.db#x", f"{tmp_path}/none#x", "#x", "x", f"file://{tmp_path}/none#x"):
        with pytest.raises(InputError, match="names no MLflow store: give mlflow:URI/EXPERIMENT, such as") as caught:
            mlflow._split(source)
        assert caught.value.value == source


class Store:
    """A client of MLflow: experiments by name with their numbers of runs."""

    def __init__(self, pages: list[list[Any]] | None = None, **experiments: int) -> None:
        self.experiments = [
            SimpleNamespace(name=name, experiment_id=str(k), lifecycle_stage="active", n=n)
            for k, (name, n) in enumerate(experiments.items())
        ]
        self.pages, self.asked = pages or [], []

    def search_experiments(self, max_results: int) -> list[Any]:
        return self.experiments

    def get_experiment_by_name(self, name: str) -> Any:
        return next((one for one in self.experiments if one.name == name), None)

    def search_runs(self, ids: list[str], **named: Any) -> Any:
        self.asked.append((ids, named))
        if "page_token" not in named:
            return [None] * self.experiments[int(ids[0])].n
        k = int(named["page_token"] or 0)

        class Page(list):  # type: ignore[type-arg]
            token = str(k + 1) if k + 1 < len(self.pages) else None

        return Page(self.pages[k])

    def get_metric_history(self, run: str, name: str) -> list[Any]:
        self.asked.append((run, name))
        return list(HISTORY[name])


def point(step: int, value: float, timestamp: int) -> Any:
    return SimpleNamespace(step=step, value=value, timestamp=timestamp)


BIGGEST = sys.float_info.max
HISTORY = {
    "loss": [point(2, 1.0, 5000), point(1, 2.0, 4000), point(2, 3.0, 5000), point(2, math.nan, 5000)],
    "edge": [point(1, BIGGEST, 1000), point(2, -BIGGEST, 2000), point(3, 0.0, 3000)],
}


def test_an_experiment_by_name_number_or_as_the_only_one_with_runs() -> None:
    find = lambda store, name: mlflow._experiment(store, "uri", name)
    assert find(Store(a=0, b=3), "").name == "b"
    assert find(Store(a=0, b=3), "a").name == "a"
    assert find(Store(a=0, b=3), "1").name == "b"
    for store, told in ((Store(a=1, b=3), "a, b"), (Store(a=0), "none")):
        with pytest.raises(InputError) as caught:
            find(store, "")
        assert str(caught.value) == f"the MLflow store 'uri' needs an experiment after '#'; it has with runs: {told}"
    with pytest.raises(InputError, match=r"^the MLflow store 'uri' has no experiment 'trainin'; did you mean 'training"
                       ) as caught:  # fmt: skip
        find(Store(training=1), "trainin")
    assert caught.value.value == "trainin"
    gone = Store(a=1)
    gone.experiments[0].lifecycle_stage = "deleted"
    with pytest.raises(InputError, match=r"^the MLflow experiment 'a' of 'uri' was deleted; restore it first$"):
        find(gone, "a")


def test_runs_of_mlflow_are_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(pages=[[1, 2], [], [3]])
    assert list(mlflow._runs(store, "7")) == [1, 2, 3]
    assert store.asked == [
        (["7"], {"max_results": 1000, "page_token": token, "order_by": ["start_time ASC"]})
        for token in (None, "1", "2")
    ]
    monkeypatch.setattr(mlflow, "MOST_RUNS", 3)
    assert len(list(mlflow._runs(store, "7"))) == 3
    monkeypatch.setattr(mlflow, "MOST_RUNS", 2)
    with pytest.raises(InputError, match=r"^the MLflow experiment has more than 2 runs, the most that are read$"):
        list(mlflow._runs(store, "7"))


def test_a_run_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"lr": "0.1", "n": "8", "on": "True", "off": "False", "none": "None", "word": "x y"}
    one = SimpleNamespace(
        info=SimpleNamespace(run_id="r1", run_name=None, status="FINISHED", start_time=1500, end_time=None),
        data=SimpleNamespace(params=params, tags={"mlflow.user": "me", "team": "a"}, metrics={"loss": 1, "edge": 2}),
    )  # fmt: skip
    run = mlflow._run(Store(), one)
    assert (run.id, run.name, run.state, run.started_at, run.ended_at) == ("r1", "", "finished", 1.5, None)
    assert run.config == {
        "lr": 0.1, "n": 8, "on": True, "off": False, "none": None, "word": "x y", "tag.team": "a",
    }  # fmt: skip
    assert (run.series["loss"].steps, run.series["loss"].values) == ([1, 2], [2.0, 3.0])
    assert run.series["loss"].times == [4.0, 5.0]
    assert run.series["edge"].values == [math.inf, -math.inf, 0.0]
    monkeypatch.setattr(mlflow, "MOST_POINTS", 7)
    mlflow._run(Store(), one)
    monkeypatch.setattr(mlflow, "MOST_POINTS", 6)
    with pytest.raises(InputError, match=r"^MLflow run r1: more than 6 points, the most that are read$"):
        mlflow._run(Store(), one)


def test_a_source_of_mlflow_from_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_PYTHON_REFRESH", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    one = SimpleNamespace(
        info=SimpleNamespace(run_id="r1", run_name="shown", status="FINISHED", start_time=1500, end_time=2500),
        data=SimpleNamespace(params={}, tags={}, metrics={}),
    )  # fmt: skip
    asked: list[Any] = []

    class Failed(Exception):
        pass

    def client(tracking_uri: str) -> Store:
        asked.append(tracking_uri)
        if "bad" in tracking_uri:
            raise Failed("cannot reach http://me:secret@bad\nat all")
        return Store(pages=[[one]], train=1)

    modules = {
        "mlflow.tracking": SimpleNamespace(MlflowClient=client),
        "mlflow.exceptions": SimpleNamespace(MlflowException=Failed),
    }
    monkeypatch.setattr(mlflow, "require", lambda module, extra, purpose: modules[module])
    found = mlflow.read_mlflow("http://me:secret@host:5000/train")
    assert (found.source, found.runs[0].ended_at) == ("mlflow:http://me:***@host:5000#train", 2.5)
    assert asked == ["http://me:secret@host:5000"]
    import os

    assert os.environ["GIT_PYTHON_REFRESH"] == "quiet"
    assert (os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("1", "30")
    sentence = "MLflow does not give 'http://me:***@bad/train': cannot reach http://me:***@bad at all"
    with pytest.raises(InputError) as caught:
        mlflow.read_mlflow("http://me:secret@bad/train")
    assert (str(caught.value), caught.value.value) == (sentence, "http://me:***@bad/train")


# Optuna.


def trial(number: int = 3, **fields: Any) -> Any:
    own: dict[str, Any] = {
        "state": SimpleNamespace(name="COMPLETE"), "params": {"lr": 0.1}, "user_attrs": {"note": {"a": 1}},
        "datetime_start": datetime(2024, 1, 1), "datetime_complete": None, "intermediate_values": {4: 2.0, 1: 3.0},
        "values": [0.5],
    }  # fmt: skip
    return SimpleNamespace(number=number, **{**own, **fields})


def test_a_trial_of_optuna() -> None:
    run = optuna._run(trial(), ["value"], [True])
    assert (run.id, run.name, run.state) == ("3", "trial 3", "complete")
    assert run.config == {"lr": 0.1, "user.note.a": 1}
    assert (run.started_at, run.ended_at) == (datetime(2024, 1, 1).timestamp(), None)
    assert (run.series["intermediate"].steps, run.series["intermediate"].values) == ([1, 4], [3.0, 2.0])
    assert (run.series["value"].steps, run.series["value"].values) == ([4], [0.5])
    assert run.larger == {"intermediate": True, "value": True}
    several = optuna._run(trial(intermediate_values={}, values=[0.5, 2.0]), ["a", "b"], [True, False])
    assert {name: (one.steps, one.values) for name, one in several.series.items()} == {
        "a": ([0], [0.5]),
        "b": ([0], [2.0]),
    }
    assert several.larger == {"a": True, "b": False}
    failed = optuna._run(trial(values=None, state=SimpleNamespace(name="FAIL")), ["value"], [False])
    assert (failed.state, list(failed.series)) == ("fail", ["intermediate"])


def test_objectives_of_optuna_have_their_names() -> None:
    of = lambda names, larger: optuna._objectives(SimpleNamespace(metric_names=names), larger)
    assert (of(["loss"], [False]), of(None, [False]), of(None, [False, True])) == (
        ["loss"], ["value"], ["value_0", "value_1"],
    )  # fmt: skip


def test_storages_of_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, other, journal, text = (tmp_path / name for name in ("a.db", "b.db", "j.log", "t.txt"))
    for path, tables in ((database, ("studies", "trials")), (other, ("studies",))):
        with sqlite3.connect(path) as connection:
            for name in tables:
                connection.execute(f"CREATE TABLE {name} (x)")
        connection.close()
    journal.write_text('{"op": 1}\n')
    text.write_text("a text that is neither")
    kept = SimpleNamespace(JournalStorage=lambda backend: ("storage", backend), JournalFileBackend=lambda path: path)
    monkeypatch.setattr(optuna, "require", lambda *given: kept)
    assert optuna._storage(f"sqlite:///{database}?timeout=3") == f"sqlite:///{database}?timeout=3"
    assert optuna._storage(str(database)) == f"sqlite:///{database}"
    assert optuna._storage("postgresql://host/x") == "postgresql://host/x"
    assert optuna._storage(str(journal)) == ("storage", str(journal))
    for place, sentence in (
        (f"sqlite:///{tmp_path}/none.db", f"there is no file '{tmp_path}/none.db'; give a database that Optuna wrote"),
        (str(tmp_path / "none"), f"there is no Optuna storage '{tmp_path}/none'; give sqlite:///FILE, another"),
        (str(other), f"'{other}' is a database without Optuna's tables"),
        (f"sqlite:///{text}", f"'{text}' is not a SQLite database (file is not a database)"),
        (str(text), f"'{text}' is neither a SQLite database nor a journal of Optuna"),
    ):
        with pytest.raises(InputError) as caught:
            optuna._storage(place)
        assert str(caught.value).startswith(sentence)
        assert caught.value.value is not None

    def broken(backend: Any) -> Any:
        raise KeyError("op")

    kept.JournalStorage = broken
    with pytest.raises(InputError, match=r"^the Optuna storage '.*j.log' cannot be read: 'op'$"):
        optuna._storage(str(journal))
    assert str(optuna._unreadable("x", ValueError())).endswith("cannot be read: ValueError")


@pytest.mark.parametrize(
    ("source", "names", "sentence"),
    [
        ("p#b", ["a"], "the Optuna storage 'p' has no study 'b'; it has: a"),
        ("p", ["b", "a"], "the Optuna storage 'p' needs the name of a study after '#'; it has: a, b"),
        ("p", [], "the Optuna storage 'p' needs the name of a study after '#'; it has: none"),
        ("p", ["empty"], "the Optuna study 'empty' has 0 trials; 1 to 100,000 are read"),
        ("p", ["torn"], "the Optuna storage 'p' cannot be read: torn apart"),
    ],
)
def test_a_study_of_optuna_that_cannot_be_read(
    source: str, names: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as caught:
        read_optuna(monkeypatch, source, names)
    assert str(caught.value) == sentence


def read_optuna(monkeypatch: pytest.MonkeyPatch, source: str, names: list[str]) -> Imported:
    def load(study_name: str, storage: str) -> Any:
        if study_name == "torn":
            raise ValueError("torn\n apart")
        trials = [] if study_name == "empty" else [trial(0), trial(1)]
        return SimpleNamespace(
            get_trials=lambda deepcopy: trials, directions=["up"], metric_names=None, name=study_name, storage=storage
        )

    package = SimpleNamespace(
        get_all_study_names=lambda storage: names, load_study=load,
        exceptions=SimpleNamespace(OptunaError=RuntimeError),
        study=SimpleNamespace(StudyDirection=SimpleNamespace(MAXIMIZE="up")),
    )  # fmt: skip
    monkeypatch.setattr(optuna, "require", lambda *given: package)
    monkeypatch.setattr(optuna, "_storage", lambda place: place)
    return optuna.read_optuna(source)


def test_a_study_of_optuna_by_its_name_or_as_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for source, names in (("p", ["a"]), ("p#a", ["b", "a"])):
        found = read_optuna(monkeypatch, source, names)
        assert (found.source, [run.id for run in found.runs]) == ("optuna:p#a", ["0", "1"])
        assert found.runs[0].larger["value"] is True
        assert found.notes == ["Optuna stores times without a zone: they are read as of this machine's"]
    monkeypatch.setattr(optuna, "MOST_RUNS", 2)
    assert len(read_optuna(monkeypatch, "p", ["a"]).runs) == 2
    monkeypatch.setattr(optuna, "MOST_RUNS", 1)
    with pytest.raises(InputError, match=r"has 2 trials; 1 to 1 are read$"):
        read_optuna(monkeypatch, "p", ["a"])


# Lightning's files.


def metrics(folder: Path, text: str, settings: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text)
    if settings is not None:
        (folder / "hparams.yaml").write_text(settings)
    return folder / "metrics.csv"


def test_metrics_of_lightning(tmp_path: Path) -> None:
    metrics(tmp_path / "a", "epoch,loss,step\n0,2.5,1\n\n0, ,2\n1,1.5,3.0\n", "lr: 0.1\nnet:\n  w: 2\n")
    metrics(tmp_path / "b", "step,loss\n1,1\n2,2\n", "- a list\n")
    first, second = lightning.read_lightning(tmp_path).runs
    assert (first.id, first.config, second.config) == ("a", {"lr": 0.1, "net.w": 2}, {})
    assert (first.series["loss"].steps, first.series["loss"].values) == ([1, 3], [2.5, 1.5])
    assert first.series["epoch"].steps == [1, 2, 3]
    one = lightning.read_lightning(tmp_path / "a" / "metrics.csv")
    assert (one.runs[0].id, one.notes) == ("a", [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column 'step', as Lightning's CSVLogger writes it"),
        ("loss\n1\n", "has no column 'step', as Lightning's CSVLogger writes it"),
        ("step,a,a\n1,2,3\n", "has two columns named 'a'; names must differ"),
        ("step,a\n1,2\n1\n", "row 2 has 1 cells and the header 2"),
        ("step,a\n1,x\n", "row 1: 'a' is 'x', not a number"), ("step,a\nx,1\n", "row 1: 'step' is 'x', not a number"),
        ("step,a\ninf,1\n", "row 1: 'step' is 'inf', not a number"),
    ],
)  # fmt: skip
def test_what_are_no_metrics_of_lightning(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        lightning.read_lightning(metrics(tmp_path, text))
    assert str(caught.value).endswith(sentence)


def test_settings_of_lightning_that_are_code_or_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = metrics(tmp_path, "step,a\n1,2\n", "x: !!python/object:os.system {}\n")
    found = lightning.read_lightning(file)
    assert found.notes == [
        f"{tmp_path / 'hparams.yaml'} holds Python objects; it is not read, since that would run code"
    ]
    metrics(tmp_path, "step,a\n1,2\n", "x: [\n")
    with pytest.raises(InputError, match=r"hparams.yaml' is not YAML \(while parsing a flow node\)$"):
        lightning.read_lightning(file)
    metrics(tmp_path, "step,a\n1,2\n3,4\n", "x: 1\n")
    monkeypatch.setattr(lightning, "MOST_POINTS", 6)  # three lines of two
    lightning.read_lightning(file)
    monkeypatch.setattr(lightning, "MOST_POINTS", 5)
    with pytest.raises(InputError, match="more than 5 points, the most that are read"):
        lightning.read_lightning(file)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no metrics.csv of Lightning's CSVLogger$"):
        lightning.read_lightning(tmp_path / "none")


@pytest.mark.parametrize(
    ("steps", "late"),
    [((10, 20, 30), False), ((11, 21, 31), True), ((11, 21, 26), True), ((5, 15, 16), True), ((0, 5), False),
     ((7,), False)],
)  # fmt: skip
def test_a_run_that_begins_later_than_it_logs(steps: tuple[int, ...], late: bool) -> None:
    run = ImportedRun("a")
    for step in steps:
        run.add("loss", step, float(step))
    run.add("epoch", 1, 0.0)
    run.add("epoch", 2, 1.0)
    run.add("once", 0, 1.0)
    assert lightning._begins_late(run) is late
    run.add("other", 1, 0.0)
    run.add("other", 2, 1.0)
    assert lightning._begins_late(run) is False
    assert lightning._first_step(run) == 0
    assert (lightning._first_step(ImportedRun("b")), lightning._and(0)) == (None, "")


def test_late_runs_are_said(tmp_path: Path) -> None:
    metrics(tmp_path / "a", "step,loss\n11,1\n12,2\n")
    found = lightning.read_lightning(tmp_path)
    assert found.notes[0].startswith("a begins at step 11: Lightning logs a resumed run in a new folder, and its")
    metrics(tmp_path / "b", "step,loss\n11,1\n12,2\n")
    assert "begins at step 11 and 1 others begin late as well: Lightning" in lightning.read_lightning(tmp_path).notes[0]


# Trainer's states.


def written(folder: Path, **state: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    own = {"global_step": 10, "log_history": [{"step": 10, "loss": 1.0}], "max_steps": 20}
    (folder / "trainer_state.json").write_text(json.dumps({**own, **state}))
    return folder


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        ({}, "unfinished"), ({"max_steps": 10}, "finished"), ({"max_steps": 9}, "finished"),
        ({"max_steps": 11}, "unfinished"), ({"max_steps": 0}, "unfinished"), ({"max_steps": -1}, "unfinished"),
        ({"max_steps": None}, "unfinished"), ({"max_steps": 1, "global_step": 1}, "finished"),
        ({"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": True}}}}, "finished"),
        ({"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": False}}}}, "unfinished"),
        ({"stateful_callbacks": {"TrainerControl": {"args": 3}}}, "unfinished"),
        ({"stateful_callbacks": {"TrainerControl": 3}}, "unfinished"), ({"stateful_callbacks": 3}, "unfinished"),
    ],
)  # fmt: skip
def test_how_a_trainer_ended(state: dict[str, Any], ended: str, tmp_path: Path) -> None:
    assert trainer.read_trainer(written(tmp_path / "run", **state)).runs[0].state == ended


def test_what_is_read_of_a_trainer(tmp_path: Path) -> None:
    history = [
        {"step": 5, "loss": 2.0, "eval_loss": 3.0, "eval_acc": 0.5, "flag": True, "note": "x", "total_flos": 9.0},
        {"loss": 8.0}, {"step": "x", "loss": 8.0}, {"step": 10, "loss": 1.0, "eval_loss": 4.0, "eval_acc": 0.5},
    ]  # fmt: skip
    folder = written(
        tmp_path / "out", log_history=history, total_flos=7.0, train_batch_size=None, best_metric=3.0,
        best_global_step=5, trial_name=["a"], logging_steps=2, unknown=1,
    )  # fmt: skip
    (folder / "config.json").write_text('{"hidden": {"size": 4}}')
    (run,) = trainer.read_trainer(folder).runs
    assert run.config == {
        "max_steps": 20, "logging_steps": 2, "total_flos": 7.0, "best_metric": 3.0, "best_global_step": 5,
        "trial_name": "['a']", "model.hidden.size": 4,
    }  # fmt: skip
    assert {name: one.values for name, one in run.series.items()} == {
        "loss": [2.0, 1.0], "eval_loss": [3.0, 4.0], "eval_acc": [0.5, 0.5],
    }  # fmt: skip
    assert run.larger == {"eval_loss": False}
    assert run.id == "out"
    for best, metric, larger in ((10, 4.0, {"eval_loss": True}), (10, 9.0, {}), (7, 3.0, {}), (5, None, {})):
        written(folder, log_history=history, best_metric=metric, best_global_step=best)
        assert trainer.read_trainer(folder).runs[0].larger == larger


def test_the_state_that_went_furthest_is_that_of_its_output(tmp_path: Path) -> None:
    for name, step, size in (("checkpoint-5", 5, 5), ("checkpoint-10", 10, 10)):
        folder = written(tmp_path / "out" / name, global_step=step, trial_name=name)
        (folder / "config.json").write_text(json.dumps({"size": size}))
    (run,) = trainer.read_trainer(tmp_path).runs
    assert (run.id, run.config["trial_name"], run.config["model.size"]) == ("out", "checkpoint-10", 10)
    written(tmp_path / "out", global_step=10, trial_name="own")
    (run,) = trainer.read_trainer(tmp_path).runs
    assert (run.config["trial_name"], run.config["model.size"]) == ("own", 10)  # a checkpoint's model beside it
    written(tmp_path / "out", global_step=4, trial_name="own")
    assert trainer.read_trainer(tmp_path).runs[0].config["trial_name"] == "checkpoint-10"
    one = trainer.read_trainer(tmp_path / "out" / "checkpoint-5")
    assert (one.runs[0].id, one.runs[0].config["trial_name"]) == ("checkpoint-5", "checkpoint-5")
    file = trainer.read_trainer(tmp_path / "out" / "checkpoint-5" / "trainer_state.json")
    assert file.runs[0].id == "checkpoint-5"
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"holds no trainer_state.json of Hugging Face's Trainer$"):
        trainer.read_trainer(tmp_path / "none")


@pytest.mark.parametrize(
    "state",
    [{"global_step": 1.5}, {"global_step": True}, {"global_step": None}, {"log_history": 3}, {"log_history": [3]}],
)
def test_what_is_no_state_of_a_trainer(state: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="is no state of a Trainer: it needs a whole number 'global_step' and a 'log_h"
    ):
        trainer.read_trainer(written(tmp_path, **state))


# Files.


def test_files_are_found_inside_a_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "b").mkdir(parents=True)
    for name in ("b/x.a", "y.a", "z.c"):
        (root / name).write_text("x")
    (root / "link.a").symlink_to(root / "y.a")
    (root / "other").symlink_to(tmp_path)
    (root / "away.c").symlink_to(tmp_path / "none")
    wanted = lambda name: name.endswith(".a")
    with pytest.raises(InputError, match=r"other' is a link that leaves the folder '.*root'; it is not followed$"):
        places.find(root, wanted)
    (root / "other").unlink()
    (root / "inside").symlink_to(root / "b")
    assert places.find(root, wanted) == [root / "b" / "x.a", root / "y.a"]
    monkeypatch.setattr(places, "MOST_FILES", 7)
    assert len(places.find(root, wanted)) == 2
    monkeypatch.setattr(places, "MOST_FILES", 6)
    with pytest.raises(InputError, match=r"holds more than 6 files, the most that are looked at$"):
        places.find(root, wanted)


def test_sizes_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("\ufeffabc")
    two.write_bytes(b"\xff\xfe")
    places.require_small([one, two], 8)
    with pytest.raises(InputError, match=rf"^the 2 files below '{tmp_path}': 8 B, more than the 7 B that are read$"):
        places.require_small([one, two], 7)
    with pytest.raises(InputError, match=rf"^'{one}': 6 B, more than the 5 B that are read$") as caught:
        places.require_small([one], 5)
    assert caught.value.value == 6
    assert places.read_text(one) == "abc"
    with pytest.raises(InputError, match=r"two' is not text in UTF-8 \(invalid start byte\)$"):
        places.read_text(two)
    monkeypatch.setattr(places, "MOST_TEXT_BYTES", 5)
    with pytest.raises(InputError, match="more than the 5 B"):
        places.read_text(one)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON (Expecting property name"), ("[1]", "holds a JSON list, not an object"),
        ("[" * 100_000, "is not JSON (it is nested too deeply)"),
    ],
)  # fmt: skip
def test_what_is_no_json_object(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError) as caught:
        places.read_json_object(tmp_path / "x.json")
    assert sentence in str(caught.value)
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert places.read_json_object(tmp_path / "x.json") == {"a": 1}


def test_addresses_are_shown_without_their_password() -> None:
    shown = places.without_password
    assert shown("a http://me:se:cret@host/x and db://you:@h") == "a http://me:***@host/x and db://you:***@h"
    assert shown("http://host:5000/a@b") == "http://host:5000/a@b"
    assert (places.name_below(Path("/a/b/c"), Path("/a")), places.name_below(Path("/a/b"), Path("/a/b"))) == (
        "b/c",
        "b",
    )


def test_without_sqlalchemy_an_import_is_the_only_error_of_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy.exc", None)
    assert places.database_errors() == (ImportError,)
    kind = type("SQLAlchemyError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "sqlalchemy", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "sqlalchemy.exc", SimpleNamespace(SQLAlchemyError=kind))
    assert places.database_errors() == (ImportError, kind)


def test_which_reader_a_source_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readers = {name: lambda place, name=name: f"{name} of {place}" for name in ("wandb", "mlflow", "optuna")}
    monkeypatch.setattr(read, "READERS", {**read.READERS, **readers})
    assert read.read_source("mlflow:http://host/x") == "mlflow of http://host/x"
    assert (
        list(read.READERS) == ["wandb", "mlflow", "optuna", "tensorboard", "trainer", "lightning"]
    )  # fmt: skip
    for source, said in (
        ("mlflow:", "'mlflow:' names no place after 'mlflow:'"),
        ("none", "there is no file or folder 'none', and no such prefix; prefixes are wandb, mlflow, optuna, tens"),
        ("mlflo:x", "there is no file or folder 'mlflo:x', and no such prefix; did you mean 'mlflow'?"),
        ("http://x", "there is no file or folder 'http://x', and no such prefix; the address of a database or server "
                     "takes one, as in optuna:http://x or mlflow:http://x"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            read.read_source(source)
        assert str(caught.value).startswith(said)
        assert (caught.value.field, caught.value.value) == ("source", source)
    with pytest.raises(InputError, match=r"^there is no file or folder '/none'$") as caught:
        read.read_source("trainer:/none")
    assert caught.value.value == "/none"
    (tmp_path / "x.txt").write_text("x")
    for path, what in ((tmp_path, "is a folder that holds"), (tmp_path / "x.txt", "holds")):
        with pytest.raises(
            InputError, match=rf"' {what} no runs that are known: \*.wandb, \*tfevents\*, trainer_state"
        ):
            read.read_source(path)
    metrics(tmp_path / "a", "step,loss\n1,2\n")
    assert read.read_source(tmp_path).runs[0].id == "a"
    assert read.kinds_of(tmp_path / "a" / "metrics.csv") == ["lightning"]
    written(tmp_path / "b")
    assert read.kinds_of(tmp_path) == ["trainer", "lightning"]
    with pytest.raises(InputError) as caught:
        read.read_source(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' holds logs of trainer and lightning; say which: trainer:{tmp_path} or lightning:{tmp_path}"
    )
    columns, source, notes = read.read_columns(f"lightning:{tmp_path}")
    assert (columns["run"], source, notes) == (["a"], str(tmp_path), ())
