"""The tables of a study, its records and provenance, and what a call passes on, against tables worked out by hand."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import CorruptFile, InputError, MissingDependency
from metascale.core.files import read_json_lines
from metascale.study import RunStore, Study, runner
from metascale.study.errors import DiskFull
from metascale.study.executors import ray as of_ray
from metascale.study.executors.local import SerialExecutor
from metascale.study.roles import Roles
from metascale.study.run.session import StudyOutcome
from metascale.study.store import provenance, table
from metascale.study.store.folder import read_study
from metascale.study.store.records import RecordFile, format_row, parse_rows, read_rows
from metascale.study.store.run import StoredRun
from metascale.study.store.seals import sealed
from metascale.study.store.table import ResultsTable, as_written, complete_results, results_table, write_results
from tests.study.folders import tiny_study

# ------------------------------------------------------------------------------- tables


def finish(store: RunStore, number: int, result: Any, wall_s: float = 1.23456) -> None:
    trial = store.trials[number]
    claim = store.claim(trial, "A")
    assert claim is not None
    StoredRun(store.run_view(trial).folder, claim).finish(result, wall_s=wall_s)
    store.settle(trial, claim, wall_s)


def test_a_row_of_every_kind_of_trial(tmp_path: Path) -> None:
    extra = [{"kind": "baseline", "lr": 3, "seeds": [4]}]
    study = Study("s", "m:f", {"lr": 1, "opt": {"b": 2}}, {"n": [7, 8], "opt.b": [5]}, (0,), extra)
    store = RunStore.create(tmp_path, study)
    finish(store, 0, {"loss": 0.5, "deep": {"x": True, "none": None, "list": [1]}, "n": 3, "label": "mine"})
    trial = store.trials[1]
    claim = store.claim(trial, "A")
    assert claim is not None
    StoredRun(store.run_view(trial).folder, claim).fail("Trace\nno\n")
    store.settle(trial, claim, 0.0)
    store.close()
    found = results_table(tmp_path)
    assert found.columns == (
        "id", "label", "n", "opt.b", "lr", "seed", "kind", "status", "message", "wall_s", "deep.none", "deep.x",
        "result.label", "loss", "result.n",
    )  # fmt: skip
    ids = [trial.id for trial in study.trials()]
    values = [tuple(row.values()) for row in found.rows]
    assert values == [
        (ids[0], "n=7-b=5-seed=0", 7, 5, 1, 0, "trial", "finished", None, 1.235, None, True, "mine", 0.5, 3),
        (ids[1], "n=8-b=5-seed=0", 8, 5, 1, 0, "trial", "failed", "no", None, *[None] * 5),
        (ids[2], "kind=baseline-lr=3-seed=4", None, None, 3, 4, "baseline", "pending", None, None, *[None] * 5),
    ]
    assert results_table(read_study(tmp_path)) == found
    complete = complete_results(read_study(tmp_path))
    assert [(one["id"], one["status"]) for one in complete] == list(
        zip(ids, ["finished", "failed", "pending"], strict=True)
    )
    assert complete[0] == {
        "id": ids[0], "label": "n=7-b=5-seed=0", "axes": {"n": 7, "opt.b": 5}, "seed": 0, "kind": "trial",
        "config": {"lr": 1, "opt": {"b": 5}, "n": 7, "seed": 0, "trial": "m:f"}, "status": "finished",
        "result": {"loss": 0.5, "deep": {"x": True, "none": None, "list": [1]}, "n": 3, "label": "mine"},
    }  # fmt: skip
    assert (complete[1]["message"], complete[2]["message"]) == ("no", "")
    for name in (".results.csv.1.tmp", ".all_results.json.1.tmp", ".other.tmp"):
        (tmp_path / name).write_text("left")
    assert write_results(str(tmp_path)) == found
    assert (tmp_path / "results.csv").read_text() == found.to_csv()
    assert json.loads((tmp_path / "all_results.json").read_text()) == complete
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".other.tmp"]


def test_a_table_as_text_is_safe_for_spreadsheets() -> None:
    found = ResultsTable(("a", "=b"), ({"a": 0.1, "=b": "=1+1"}, {"a": None, "=b": 'x,"y"'}, {"a": True, "=b": [1]}))
    rows = list(csv.reader(io.StringIO(found.to_csv())))
    assert rows[0][0] == "a"
    assert rows[0][1] != "=b"
    assert rows[1][0] == "0.1"
    assert rows[1][1].endswith("=1+1")
    assert rows[1][1] != "=1+1"
    assert rows[2:] == [["", 'x,"y"'], ["true", "[1]"]]
    assert found.to_csv().endswith("\n")
    assert "\r" not in found.to_csv()
    assert [as_written(value) for value in ("1", 1, None, True, 0.5)] == ["1", "1", "", "true", "0.5"]
    assert [table._arrow_value(value) for value in (None, 1, "x", [1], {"a": 1})] == [None, 1, "x", "[1]", '{"a":1}']


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_a_data_frame_has_the_columns_of_the_table() -> None:
    frame = ResultsTable(("b", "a"), ({"a": 1, "b": 2},)).to_pandas()
    assert (list(frame.columns), frame.values.tolist()) == (["b", "a"], [[2, 1]])
    assert list(ResultsTable(("b", "a"), ()).to_pandas().columns) == ["b", "a"]


@pytest.mark.parametrize(
    ("gone", "act", "said"),
    [
        ("pandas", lambda path: ResultsTable(("a",), ()).to_pandas(), "a data frame of a study's results"),
        ("pyarrow", lambda path: ResultsTable(("a",), ()).write_parquet(path), "a Parquet file of a study's results"),
    ],
)
def test_a_format_that_needs_a_package_names_what_installs_it(
    gone: str, act: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(MissingDependency) as caught:
        act(tmp_path / "t.parquet")
    assert str(caught.value) == f"{said} needs the package '{gone}'; install it with: pip install 'metascale[data]'"


def test_what_a_later_search_replaced_is_superseded(tmp_path: Path) -> None:
    """At n = 1 the values moved from 1 to 2; the trial of n = 2 has none newer, and a search's own trial stays."""
    study = Study(
        "s", "m:f", {"rate": 0}, {"n": [1, 2], "rate": [1, 2]}, (0, 1), [{"kind": "tuning", "n": 1, "rate": 7}]
    )
    store = RunStore.create(tmp_path, study)
    store.close()
    by_place = {(trial.axes["n"], trial.axes.get("rate"), trial.seed): trial for trial in study.trials()}
    view = read_study(tmp_path)
    view = replace(view, study=Study("s", "m:f", {"rate": 0}, {"n": [1, 2]}, (0, 1)))
    assert table._superseded(view) == frozenset()
    ids = [by_place[place].id for place in ((1, 2, 0), (1, 2, 1), (2, 1, 0))]
    (tmp_path / "finals.json").write_text(json.dumps(sealed({"ids": ids})))
    expected = {by_place[place].id for place in ((1, 1, 0), (1, 1, 1), (2, 2, 0))}
    assert table._superseded(view) == expected
    (tmp_path / "finals.json").write_text(json.dumps({"ids": ids}))
    with pytest.raises(CorruptFile):
        table._superseded(view)
    assert table.unsealed_finals(tmp_path) == ""
    stored = json.loads((tmp_path / "study.json").read_text())
    del stored["sha256"]
    (tmp_path / "study.json").write_text(json.dumps({**stored, "format": 1}))
    assert table._superseded(view) == expected
    said = table.unsealed_finals(tmp_path)
    assert said.startswith(
        f"{tmp_path / 'finals.json'} was written by an earlier version of metascale, without a hash of"
    )
    (tmp_path / "finals.json").write_text(json.dumps(sealed({})))
    assert (table.unsealed_finals(tmp_path), table._superseded(view)) == ("", frozenset())
    (tmp_path / "finals.json").write_text("{")
    assert table.unsealed_finals(tmp_path) == ""


def test_a_table_with_a_best_of_axis_says_how_it_chose(tmp_path: Path) -> None:
    study = Study("s", "m:f", {}, {"n": [1, 2], "lr": [3, 4]}, (0,), roles=Roles(("n",), best_of=("lr",), loss="loss"))
    store = RunStore.create(tmp_path, study)
    for number, loss in enumerate((2.0, 1.0, 5.0, 6.0)):
        finish(store, number, {"loss": loss})
    store.close()
    found = results_table(tmp_path)
    assert found.column("kind") == ["not_best", "trial", "trial", "not_best"]
    assert found.notes
    plain = replace(read_study(tmp_path), study=replace(study, roles=Roles(("n",))))
    assert (results_table(plain).column("kind"), results_table(plain).notes) == (["trial"] * 4, ())


# ------------------------------------------------------------------------------- records


def test_a_record_and_its_durable_part(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    record = RecordFile(path)
    empty = {"n_bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    record.flush()
    assert (path.exists(), record.mark(), record.rows()) == (False, empty, [])
    record.append({"step": 1, "b": "x,y"})
    record.append({"b": None, "step": 2})
    assert record.rows() == [{"step": 1, "b": "x,y"}, {"step": 2, "b": None}]
    assert (path.exists(), record.n_bytes) == (False, 0)
    record.flush()
    text = b'step,b\n1,"x,y"\n2,\n'
    assert path.read_bytes() == text
    mark = record.mark()
    assert mark == {"n_bytes": 18, "sha256": hashlib.sha256(text).hexdigest()}
    record.append({"step": 3, "b": True})
    path.write_bytes(text + b"left of a failed append")
    record.flush()
    assert path.read_bytes() == text + b"3,true\n"
    assert record.mark()["n_bytes"] == 25
    back = RecordFile.cut_back(path, mark)
    assert (back.rows(), back.mark(), path.stat().st_size) == (
        [{"step": 1, "b": "x,y"}, {"step": 2, "b": None}],
        mark,
        25,
    )
    back.truncate()
    assert path.read_bytes() == text
    with pytest.raises(InputError, match=r"^record 'train' has the keys step, b; the row of step 4 has step, c$"):
        back.append({"step": 4, "c": 1})
    back.append({"step": 4, "b": 1})
    assert len(back.rows()) == 3
    with pytest.raises(CorruptFile, match=rf"^the first 19 bytes of {path} are not those that were written$"):
        RecordFile.cut_back(path, {**mark, "n_bytes": 19})
    fresh = RecordFile.cut_back(tmp_path / "none.csv", empty)
    fresh.append({"step": 1, "other": 2})
    assert fresh.rows() == [{"step": 1, "other": 2}]


@pytest.mark.parametrize("step", [None, True, 1.0, "1"])
def test_a_row_of_a_record_has_a_whole_step(step: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^a row of record 'a' needs an integer 'step', not {step!r}$"):
        RecordFile(tmp_path / "a.csv").append({"step": step})


def test_rows_are_read_to_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert read_rows(path) == []
    path.write_bytes(b"step,x\n1,2\n2,3")
    assert read_rows(path) == [{"step": 1, "x": 2}]
    path.write_bytes(b"step")
    assert read_rows(path) == []
    path.write_bytes(b"step\n\xff\n")
    with pytest.raises(CorruptFile, match=f"^{path} is not UTF-8: "):
        read_rows(path)
    for text, line in (("a,b\n1\n", 2), ("a\n1\n1,2\n", 3), ('a\n"[1"\n', 2)):
        with pytest.raises(CorruptFile, match=f"^here, line {line}, cannot be read: "):
            parse_rows(text, "here")
    assert (parse_rows("", "here"), format_row(["a", 'b"', ""])) == ([], 'a,"b""",')


# ------------------------------------------------------------------------------- provenance


def test_sources_are_the_checkouts_of_the_package_and_of_the_function(tmp_path: Path, monkeypatch: Any) -> None:
    tops = {"/site/metascale": "/repo\n", "/mine": "/own\n", "/inside": "/repo\n"}
    folders = {"metascale": Path("/site/metascale"), "mine": Path("/mine"), "inside": Path("/inside"), "gone": None,
               "plain": Path("/plain")}  # fmt: skip
    asked: list[Any] = []

    def git(folder: Path, *arguments: str) -> str | None:
        asked.append(arguments)
        return tops.get(str(folder))

    monkeypatch.setattr(provenance, "_folder_of", folders.get)
    monkeypatch.setattr(provenance, "_git", git)
    monkeypatch.setattr(provenance, "_checkout", lambda top, module: {"top": str(top), "module": module, "diff": "d"})
    provenance.sources.cache_clear()
    try:
        ours = {"top": "/repo", "module": "metascale", "diff": "d"}
        assert provenance.sources("mine:f") == (ours, {"top": "/own", "module": "mine", "diff": "d"})
        for name in ("inside", "gone", "plain"):
            assert provenance.sources(f"{name}:f") == (ours,)
        assert set(asked) == {("rev-parse", "--show-toplevel")}
        monkeypatch.setattr(provenance, "machine", lambda: {"host": "here"})
        for name in provenance.THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MKL_NUM_THREADS", "3")
        assert provenance.provenance_of("inside:f") == {
            "host": "here", "sources": [{"top": "/repo", "module": "metascale"}], "threads": {"MKL_NUM_THREADS": "3"}
        }  # fmt: skip
        path = tmp_path / "provenance.jsonl"
        for facts, n in (({"command": "a"}, 1), ({"command": "a"}, 1), ({"command": "b"}, 2), ({"command": "a"}, 3)):
            provenance.record_study(tmp_path, "inside:f", facts)
            assert len(read_json_lines(path)) == n
        assert read_json_lines(path)[0]["sources"] == [ours]
        path.write_text(path.read_text() + '{"torn')
        provenance.record_study(tmp_path, "inside:f", {"command": "a"})
        assert len(read_json_lines(path)) == 3
    finally:
        provenance.sources.cache_clear()


def test_where_a_module_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(origin: Any, places: Any = None) -> Any:
        return SimpleNamespace(origin=origin, submodule_search_locations=places)

    file = tmp_path / "one.py"
    file.write_text("")
    known = {"package": spec(None, [str(tmp_path), "/other"]), "one": spec(str(file)), "built_in": spec(None)}
    asked: list[str] = []

    def find(name: str) -> Any:
        asked.append(name)
        if name == "broken":
            raise ImportError
        return known.get(name)

    monkeypatch.setattr(provenance.importlib.util, "find_spec", find)
    found = [provenance._folder_of(name) for name in ("package.part", "one", "built_in", "none", "broken.x")]
    assert found == [tmp_path, tmp_path, None, None, None]
    assert asked == ["package", "one", "built_in", "none", "broken"]


@pytest.mark.parametrize(
    ("system", "text", "processor", "machine", "name"),
    [
        ("linux", "x: 1\nmodel name\t: Quick 3000\nmodel name: B\n", "p", "m", "Quick 3000"),
        ("linux", "x: 1\n", "p", "m", "p"), ("linux", None, "p", "m", "p"), ("linux", None, "", "m", "m"),
        ("darwin", "model name: Quick\n", "p", "m", "p"),
    ],
)  # fmt: skip
def test_the_name_of_the_processor(
    system: str, text: Any, processor: str, machine: str, name: str, monkeypatch: Any
) -> None:
    info = SimpleNamespace(exists=lambda: text is not None, read_text=lambda: text)
    monkeypatch.setattr(provenance, "Path", lambda place: info if place == "/proc/cpuinfo" else None)
    monkeypatch.setattr(provenance.sys, "platform", system)
    monkeypatch.setattr(provenance, "platform", SimpleNamespace(processor=lambda: processor, machine=lambda: machine))
    assert provenance._processor() == name


# ------------------------------------------------------------------------------- a call of run_study


class Store:
    """What a call does with its store, in order."""

    def __init__(self, did: list[Any], folder: Path) -> None:
        self.did, self.folder = did, folder

    def close(self) -> None:
        self.did.append("closed")

    def view(self) -> str:
        return "view"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A call of `run_study` whose parts note what they were given."""
    did: list[Any] = []
    state = SimpleNamespace(did=did, done=False, error=None, outcome=StudyOutcome(tmp_path, 1, 1, 0, 0, 0, 1, 0, 0.0))

    class Session:
        trials, n_skipped = (1, 2, 3), 2

        def __init__(self, store: Store, *given: Any) -> None:
            self.store = store
            did.append(("session", *given))

        @property
        def is_done(self) -> bool:
            return bool(state.done)

        def plan(self, *given: Any) -> None:
            did.append(("plan", *given))
            if state.error == "plan":
                raise OSError(28, "full")

        def run(self, *given: Any) -> None:
            did.append(("run", *given))
            if state.error == "run":
                raise KeyboardInterrupt

        def outcome(self, wall_s: float) -> StudyOutcome:
            assert 0 <= wall_s < 60
            return state.outcome

    @contextmanager
    def signals(*numbers: Any) -> Any:
        did.append(("signals", *numbers))
        yield "take"

    monkeypatch.setattr(runner, "RunStore", SimpleNamespace(create=lambda folder, study: Store(did, folder)))
    monkeypatch.setattr(runner, "Session", Session)
    monkeypatch.setattr(runner, "stopping_on_signals", signals)
    monkeypatch.setattr(runner, "record_study", lambda *given: did.append(("recorded", *given)))
    monkeypatch.setattr(runner, "write_results", lambda folder: did.append(("written", folder)))
    monkeypatch.setattr(
        runner, "seal_study", lambda view, names: did.append(("sealed", view, [one.name for one in names]))
    )
    state.reporter = SimpleNamespace(
        begin=lambda *given: did.append(("begin", *given)), end=lambda one: did.append(("end", one))
    )
    state.executor = SimpleNamespace(check=lambda: did.append("checked"))
    return state


def test_a_call_passes_on_what_it_was_given(call: Any, tmp_path: Path) -> None:
    study = tiny_study()
    options = {"fail_fast": True, "retry_failed": False, "retry_diverged": True, "keep_checkpoints": True,
               "lease_s": 7.0, "facts": {"a": 1}, "stop_seen": "seen",
               "stacks": lambda given: [given.name]}  # fmt: skip
    found = runner.run_study(study, str(tmp_path), call.executor, reporter=call.reporter, **options)
    assert found is call.outcome
    tables = ["results.csv", "all_results.json", "finals.json"]
    assert call.did == [
        "checked", ("session", study.trials(), call.reporter, True, 7.0, {"a": 1}, "seen", ["tiny"]),
        ("plan", False, True), ("recorded", tmp_path, study.trial, {"a": 1}), ("begin", tmp_path, 3, 2),
        ("signals", signal.SIGINT, signal.SIGTERM), ("run", call.executor, True, "take"), ("written", tmp_path),
        "closed", ("sealed", "view", tables), ("end", call.outcome), "closed",
    ]  # fmt: skip
    call.did.clear()
    (tmp_path / "study.json").write_text("")
    call.done = True
    runner.run_study(study, tmp_path)
    assert call.did == [
        ("session", study.trials(), None, False, 60.0, {}, None, ()), ("plan", True, False),
        ("signals", signal.SIGINT, signal.SIGTERM), ("run", SerialExecutor(), False, "take"), ("written", tmp_path),
        "closed", ("sealed", "view", tables), "closed",
    ]  # fmt: skip


def test_a_call_that_is_interrupted_or_finds_a_full_disk_is_told(call: Any, tmp_path: Path) -> None:
    call.error = "run"
    with pytest.raises(KeyboardInterrupt):
        runner.run_study(tiny_study(), tmp_path, call.executor, reporter=call.reporter)
    assert call.did[-2:] == [("end", None), "closed"]
    call.error = "plan"
    with pytest.raises(DiskFull, match="while opening the study"):
        runner.run_study(tiny_study(), tmp_path, call.executor, reporter=call.reporter)
    assert call.did[-1] == "closed"


def test_a_host_at_which_nobody_listens_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(place: Any, timeout: float) -> Any:
        asked.append((place, timeout))
        if place[1] == 1:
            raise OSError(111, "Connection refused")
        if place[1] == 2:
            raise OSError("timed out")
        return SimpleNamespace(close=lambda: asked.append("closed"))

    monkeypatch.setattr(of_ray.socket, "create_connection", connect)
    of_ray._knock("there:6379")
    assert asked == [(("there", 6379), 10.0), "closed"]
    for port, said in ((1, "Connection refused"), (2, "timed out")):
        with pytest.raises(InputError, match=f"^cannot reach the Ray cluster at 'there:{port}': {said}$"):
            of_ray._knock(f"there:{port}")
