"""Readers of other programs by hand: bytes encoded in the test, points and columns worked out, whole refusals."""

from __future__ import annotations

import io
import json
import math
import struct
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.integrations.sources import lightning, mlflow, optuna, places, read, runs, tensorboard, trainer, wandb
from metascale.integrations.sources.runs import Imported, ImportedRun, Series
from metascale.integrations.sources.wire import Malformed, Message, leveldb_records, tfrecords


def refusal(call: Callable[[], object]) -> tuple[str, Any]:
    with pytest.raises(InputError) as refused:
        call()
    return str(refused.value), refused.value.value


# ------------------------------------------------------------------------------------------------ points and runs


def test_points_of_a_series() -> None:
    one = Series()
    for step, value in ((1, 5.0), (2, 4.0), (2, 4.0), (3, 3.0), (3, 2.5), (2, 1.0), (7, 1.0)):
        one.add(step, value, 10.0 * step)
    # The same point twice is one. Step 3 again replaces it; then step 2 replaces steps 2 and 3.
    assert (one.steps, one.values, one.times, one.replaced) == ([1, 2, 7], [5, 1, 1], [10, 20, 70], 3)
    one.cut(2)
    assert (one.steps, one.replaced) == ([1], 5)
    one.cut(2)
    assert (one.steps, one.replaced) == ([1], 5)
    assert Series().best(True) is None


def test_times_are_said_or_those_of_the_points() -> None:
    run = ImportedRun("a")
    assert (run.times(), run.steps) == ((None, None), None)
    run.add("x", 3, 1.0, 30.0)
    run.add("x", 4, 1.0)
    run.add("y", 1, 1.0, 10.0)
    assert (run.times(), run.steps) == ((10.0, 30.0), 4)
    run.started_at, run.ended_at = 0.0, 0.0
    assert run.times() == (0.0, 0.0)


def test_what_a_resume_replaced_is_said() -> None:
    first, second, third = ImportedRun("a"), ImportedRun("b"), ImportedRun("c")
    for run, steps in ((first, (1, 2, 2, 1)), (second, (1, 1)), (third, (1, 2))):
        for k, step in enumerate(steps):
            run.add("x", step, float(k))
    told = "were recorded again at the same or an earlier step, as after a resume: the later record counts"
    assert Imported("here", [first, second, third]).notes == [f"4 points of 2 runs {told}"]
    assert Imported("here", [second]).notes == [f"1 points of 1 run {told}"]
    assert Imported("here", [third]).notes == []


def test_which_end_is_best() -> None:
    run = ImportedRun("a")
    for name in ("val_acc", "loss", "F1-macro", "mapped", "r2", "own", "said"):
        run.add(name, 1, 1.0)
        run.add(name, 2, 2.0)
    run.add("single", 1, 1.0)
    run.larger = {"loss": True, "r2": False, "said": True}
    other = ImportedRun("b", larger={"said": False})
    told = Imported("here", [run, other])._metrics()
    assert told == {"val_acc": "max", "loss": "max", "F1-macro": "max", "mapped": "min", "r2": "min", "own": "min",
                    "said": "min", "single": ""}  # fmt: skip


def test_curves_have_a_row_a_step() -> None:
    run = ImportedRun("a", state="done", config={"lr": 0.5, "step": "x", "loss": 1})
    run.add("loss", 2, 1.0, 100.0)
    run.add("loss", 1, 3.0, 50.0)
    run.add("loss", 2, 2.0, 60.5)
    run.add("acc", 2, 0.5, 61.0)
    run.add("time", 3, 9.0)
    table = Imported("here", [run, ImportedRun("b", "bee")]).curves()
    assert table == {
        "run": ["a"] * 3, "name": ["a"] * 3, "state": ["done"] * 3, "lr": [0.5] * 3, "config.step": ["x"] * 3,
        "config.loss": [1] * 3, "step": [1, 2, 3], "time": ["1970-01-01T00:00:50Z", "1970-01-01T00:01:01Z", None],
        "loss": [3.0, 2.0, None], "acc": [None, 0.5, None], "metric.time": [None, None, 9.0],
    }  # fmt: skip
    assert list(table)[-5:] == ["step", "time", "loss", "acc", "metric.time"]


def test_one_run_s_row() -> None:
    run = ImportedRun("a", "name", config={"width": 8, "steps": 1}, started_at=100.0, ended_at=99.0)
    run.add("loss", 1, 2.0)
    run.add("loss", 2, math.nan)
    run.add("loss_min", 5, 1.0)
    table = Imported("here", [run]).table()
    assert math.isnan(table.pop("loss")[0])
    assert table == {
        "run": ["a"], "name": ["name"], "width": [8], "config.steps": [1], "loss_step": [2], "loss_min": [2.0],
        "loss_min_step": [1], "metric.loss_min": [1.0], "metric.loss_min_step": [5], "steps": [5],
        "started_at": ["1970-01-01T00:01:40Z"], "ended_at": ["1970-01-01T00:01:39Z"], "wall_s": [0.0],
    }  # fmt: skip
    assert list(table)[:3] == ["run", "name", "width"]
    assert list(table)[-4:] == ["steps", "started_at", "ended_at", "wall_s"]


def test_a_metric_that_is_called_like_what_another_has_keeps_its_values() -> None:
    """Of `reward` the best is reward_max, which this run logged itself: last 3 at step 2, best 9 at step 1."""
    run = ImportedRun("a", config={"reward_max": 0})
    for step, reward, largest in ((1, 2.0, 9.0), (2, 3.0, 5.0)):
        run.add("reward", step, reward)
        run.add("reward_max", step, largest)
    run.add("step", 2, 1.0)
    run.add("reward_step", 2, 7.0)
    table = Imported("here", [run]).table()
    assert {name: values[0] for name, values in table.items() if name not in ("run", "name", "steps")} == {
        "config.reward_max": 0, "reward": 3.0, "reward_step": 2, "reward_max": 3.0, "reward_max_step": 2,
        "metric.reward_max": 5.0, "metric.reward_max_step": 2, "metric.reward_max_max": 9.0,
        "metric.reward_max_max_step": 1, "step": 1.0, "step_step": 2, "metric.reward_step": 7.0,
        "metric.reward_step_step": 2,
    }  # fmt: skip
    run.add("metric.reward_max", 1, 0.0)
    assert refusal(Imported("here", [run]).table) == (
        "here would have two columns named 'metric.reward_max'; names must differ", "metric.reward_max",
    )  # fmt: skip


def test_a_nested_configuration_is_flat() -> None:
    given = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"z": 2, "y": "x"}], "f": True, 3: 0.5, "g": (1,), "h": {}}
    assert runs.flat(given, "here") == {
        "a.b": 1, "a.c.d": None, "e": '[1, {"y": "x", "z": 2}]', "f": True, "3": 0.5, "g": "[1]"
    }  # fmt: skip
    assert refusal(lambda: runs.flat({"a": {"b": 1}, "a.b": 2}, "here")) == (
        "here has two keys 'a.b' in its configuration; names must differ", "a.b",
    )  # fmt: skip


def test_a_configuration_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mapping itself is a node, and so is every value inside."""
    monkeypatch.setattr(runs, "MOST_KEYS", 4)
    assert runs.flat({"a": 1, "b": [2]}, "here") == {"a": 1, "b": "[2]"}
    said = "the configuration of here has more than 4 entries, or 64 levels"
    assert refusal(lambda: runs.flat({"a": 1, "b": [2, 3]}, "here"))[0] == said
    monkeypatch.setattr(runs, "MOST_KEYS", 1000)
    for levels, fits in ((64, True), (65, False)):
        value: Any = 1
        for _ in range(levels):
            value = {"k": value}
        if fits:
            assert list(runs.flat(value, "here").values()) == [1]
        else:
            assert "64 levels" in refusal(lambda value=value: runs.flat(value, "here"))[0]


def test_numbers_times_and_counts() -> None:
    assert [runs.number(value) for value in (1, 0.5, True, "1", None, 10**400)] == [1.0, 0.5, None, None, None, None]
    assert [runs.utc(at) for at in (None, 0.0, 1e20)] == [None, "1970-01-01T00:00:00Z", None]
    assert runs.to_csv({"a": [1, None], "=b": ["=x", 0.1]}) == "a,'=b\n1,'=x\n,0.1\n"


# ------------------------------------------------------------------------------------------------ bytes


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def part(field: int, value: int | float | str | bytes) -> bytes:
    """A field of a message: a whole number, a double, a text or a message."""
    if isinstance(value, int):
        return varint(field << 3) + varint(value)
    if isinstance(value, float):
        return varint(field << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def test_fields_of_a_message() -> None:
    data = part(1, 300) + part(1, -2) + part(2, "ä") + part(3, 0.5) + varint(4 << 3 | 5) + struct.pack("<f", 0.25)
    data += part(20, part(1, 7)) + part(20, part(1, 8)) + part(2, b"\xff") + part(6, 3) + part(7, 4)
    found = Message.of(data)
    assert (found.integer(1), found.fields[1][0], found.integer(2), found.integer(9)) == (-2, 300, None, None)
    assert (found.text(2), found.text(9), found.all_bytes(2), found.bytes_of(1)) == (
        "\ufffd", "", ["ä".encode(), b"\xff"], None,
    )  # fmt: skip
    assert (found.double(3), found.double(4), found.double(2), found.double(9)) == (0.5, 0.25, None, None)
    last = found.message(20)
    assert last is not None
    assert ([one.integer(1) for one in found.messages(20)], last.integer(1), found.message(9)) == ([7, 8], 8, None)
    assert (found.zigzag(6), found.zigzag(7), found.zigzag(2)) == (-2, 2, None)
    assert Message.of(part(1, (1 << 63) - 1)).integer(1) == (1 << 63) - 1
    assert Message.of(part(1, -(1 << 63))).integer(1) == -(1 << 63)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (varint(1 << 3 | 3), "wire type 3"), (varint(1 << 3 | 2) + varint(2) + b"a", "a field is cut off"),
        (varint(1 << 3 | 1) + b"1234567", "a field is cut off"), (varint(1 << 3 | 5) + b"123", "a field is cut off"),
        (b"\x08\x80", "a number is cut off"), (b"\x08" + b"\x80" * 10, "a number has more than 64 bits"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_message(data: bytes, said: str) -> None:
    with pytest.raises(Malformed, match=f"^{said}$"):
        Message.of(data)


def crc(data: bytes) -> int:
    """CRC-32C bit by bit, masked: check value of 123456789 is 0xE3069283."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return (value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", crc(length)) + data + b"\0\0\0\0"


def test_records_of_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = framed(b"one") + framed(b"") + framed(b"three")
    assert list(tfrecords(io.BytesIO(whole))) == [b"one", b"", b"three"]
    for cut in (1, 4, 5, 9, 20):  # in the last checksum, the data or the head
        assert list(tfrecords(io.BytesIO(whole[:-cut]))) == [b"one", b""]
    monkeypatch.setattr("metascale.integrations.sources.wire.MOST_RECORD_BYTES", 4)
    assert list(tfrecords(io.BytesIO(framed(b"1234") + framed(b"12345") + framed(b"6")))) == [b"1234", b"6"]
    broken = bytearray(framed(b"one"))
    broken[0] ^= 1
    with pytest.raises(Malformed, match=r"^a record's length does not have its checksum$"):
        list(tfrecords(io.BytesIO(bytes(broken))))


def fragment(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", 0, len(data), kind) + data


HEAD = b":W&B\0\0\0"


def test_records_of_leveldb(monkeypatch: pytest.MonkeyPatch) -> None:
    one = fragment(1, b"whole") + fragment(2, b"a") + fragment(3, b"b") + fragment(4, b"c")
    assert list(leveldb_records(io.BytesIO(HEAD + one))) == [b"whole", b"abc"]
    assert list(leveldb_records(io.BytesIO(HEAD + one[:-1]))) == [b"whole"]
    assert list(leveldb_records(io.BytesIO(HEAD + one[:-8]))) == [b"whole"]
    # A first fragment begins anew, whatever stood before it.
    anew = fragment(2, b"lost") + fragment(2, b"x") + fragment(4, b"y") + fragment(3, b"lost") + fragment(1, b"z")
    assert list(leveldb_records(io.BytesIO(HEAD + anew))) == [b"xy", b"z"]
    # Blocks have 32,768 bytes: where fewer than 7 are left, the next fragment stands in the next block.
    for left in range(8):
        first = b"f" * (32768 - 7 - 7 - left)
        rest = fragment(1, b"") if left == 7 else b"\0" * left + fragment(1, b"second")
        expected = [first, b""] if left == 7 else [first, b"second"]
        assert list(leveldb_records(io.BytesIO(HEAD + fragment(1, first) + rest))) == expected
    monkeypatch.setattr("metascale.integrations.sources.wire.MOST_RECORD_BYTES", 3)
    parts = fragment(2, b"12") + fragment(4, b"3") + fragment(2, b"12") + fragment(4, b"34") + fragment(1, b"5")
    assert list(leveldb_records(io.BytesIO(HEAD + parts))) == [b"123", b"5"]
    for data, said in (
        (b":W&X\0\0\0", "it does not begin with ':W&B'"),
        (HEAD + fragment(5, b""), "a fragment reaches over its block"),
        (HEAD + fragment(1, b"x" * (32768 - 13)), "a fragment reaches over its block"),
    ):
        with pytest.raises(Malformed, match=f"^{said}$"):
            list(leveldb_records(io.BytesIO(data)))


# ------------------------------------------------------------------------------------------------ places


def test_files_are_found_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/x.log", "a/x.log", "x.txt", "b/c/x.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    wanted = lambda name: name.endswith(".log")
    found = [file.relative_to(tmp_path).as_posix() for file in places.find(tmp_path, wanted)]
    assert found == ["a/x.log", "b/c/x.log", "b/x.log"]
    monkeypatch.setattr(places, "MOST_FILES", 7)  # three folders and four files
    assert len(places.find(tmp_path, wanted)) == 3
    monkeypatch.setattr(places, "MOST_FILES", 6)
    said = f"'{tmp_path}' holds more than 6 files, the most that are looked at"
    assert refusal(lambda: places.find(tmp_path, wanted))[0] == said


def test_sizes_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"12345")
    two.write_bytes(b"678")
    places.require_small([one, two], 8)
    said = "8 B, more than the 7 B that are read"
    assert refusal(lambda: places.require_small([one, two], 7)) == (f"the 2 files below '{tmp_path}': {said}", 8)
    assert refusal(lambda: places.require_small([one], 4)) == (f"'{one}': 5 B, more than the 4 B that are read", 5)
    assert places.read_text(one) == "12345"
    monkeypatch.setattr(places, "MOST_TEXT_BYTES", 4)
    assert refusal(lambda: places.read_text(one))[1] == 5
    monkeypatch.undo()
    for content, said in (
        (b"\xff", "is not text in UTF-8 (invalid start byte)"), (b"[1]", "holds a JSON list, not an object"),
        (b"{", "is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b'{"a":' + b"[" * 100_000, "is not JSON (it is nested too deeply)"),
    ):  # fmt: skip
        one.write_bytes(content)
        assert refusal(lambda: places.read_json_object(one))[0] == f"'{one}' {said}"
    one.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert places.read_json_object(one) == {"a": 1}
    assert places.name_below(tmp_path / "a" / "b", tmp_path) == "a/b"
    assert places.name_below(tmp_path, tmp_path) == tmp_path.name
    assert (
        places.without_password("x://me:secret@host/a, y://:s@h, z://h:80/b@c")
        == "x://me:***@host/a, y://:***@h, z://h:80/b@c"
    )


def test_a_source_is_read_by_its_prefix_or_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(kind: str) -> Callable[[Any], Any]:
        return lambda place: (kind, place)

    monkeypatch.setattr(read, "READERS", {kind: reader(kind) for kind in ("wandb", "mlflow")})
    logs = {kind: (lambda name, kind=kind: name == kind, reader(f"log of {kind}")) for kind in ("trainer", "lightning")}
    monkeypatch.setattr(read, "_LOGS", logs)
    assert read.read_source("wandb:a/b") == ("wandb", "a/b")
    assert read.read_source("mlflow:x:y") == ("mlflow", "x:y")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "trainer").write_text("")
    assert read.read_source(tmp_path / "one") == ("log of trainer", tmp_path / "one")
    assert read.read_source(str(tmp_path / "one" / "trainer"))[0] == "log of trainer"
    (tmp_path / "one" / "lightning").write_text("")
    (tmp_path / "other").write_text("")
    (tmp_path / "empty").mkdir()
    both, known = f"{tmp_path}/one", "*.wandb, *tfevents*, trainer_state.json or metrics.csv"
    table = "give a table in it, or a prefix for a database or server, such as mlflow: or optuna:"
    for source, said in {
        "wandb:": "'wandb:' names no place after 'wandb:'",
        "nowhere": "there is no file or folder 'nowhere', and no such prefix; prefixes are wandb, mlflow",
        "wandv:x": "there is no file or folder 'wandv:x', and no such prefix; did you mean 'wandb'?",
        "sqlite:///x": "there is no file or folder 'sqlite:///x', and no such prefix; the address of a database or "
                       "server takes one, as in optuna:sqlite:///x or mlflow:sqlite:///x",
        both: f"'{both}' holds logs of trainer and lightning; say which: trainer:{both} or lightning:{both}",
        f"{tmp_path}/other": f"'{tmp_path}/other' holds no runs that are known: {known}; {table}",
        f"{tmp_path}/empty": f"'{tmp_path}/empty' is a folder that holds no runs that are known: {known}; {table}",
    }.items():  # fmt: skip
        with pytest.raises(InputError) as refused:
            read.read_source(source)
        assert (str(refused.value), refused.value.field, refused.value.value) == (said, "source", source)
    imported = Imported("there", [ImportedRun("a")], ["note"])
    monkeypatch.setattr(read, "read_source", lambda source: imported)
    assert read.read_columns("x") == ({"run": ["a"], "name": ["a"]}, "there", ("note",))
    assert refusal(lambda: read._of_path(lambda path: imported)("nowhere")) == (
        "there is no file or folder 'nowhere'", "nowhere",
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ trainer, lightning


def state(**changed: Any) -> dict[str, Any]:
    rows = [
        {"step": 1, "loss": 3.0, "total_flos": 9.0}, {"step": 2, "eval_loss": 2.0, "eval_f": 0.5, "note": "x"},
        {"step": 4, "eval_loss": 1.0, "eval_f": 0.25, "ok": True}, {"loss": 1.0}, {"step": "5", "loss": 0.0},
    ]  # fmt: skip
    return {"global_step": 4, "log_history": rows, **changed}


def test_the_state_of_a_trainer() -> None:
    run = trainer._run(state(max_steps=4, best_metric=0.5, best_global_step=2, logging_steps=0.5, trial_name=None),
                       Path("nowhere"), "a")  # fmt: skip
    assert {name: (one.steps, one.values) for name, one in run.series.items()} == {
        "loss": ([1], [3]), "eval_loss": ([2, 4], [2, 1]), "eval_f": ([2, 4], [0.5, 0.25])
    }  # fmt: skip
    assert run.config == {"max_steps": 4, "best_metric": 0.5, "best_global_step": 2, "logging_steps": 0.5}
    assert (run.id, run.state, run.larger) == ("a", "finished", {"eval_f": True})
    smaller = trainer._run(state(best_metric=1.0, best_global_step=4), Path("nowhere"), "a")
    assert (smaller.larger, smaller.state) == ({"eval_loss": False}, "unfinished")
    assert trainer._run(state(best_metric=0.5, best_global_step=3), Path("nowhere"), "a").larger == {}
    assert trainer._run(state(best_metric="x", best_global_step=2), Path("nowhere"), "a").larger == {}
    same = state(best_metric=1.0, best_global_step=1, log_history=[{"step": 1, "eval_a": 1.0}])
    assert trainer._run(same, Path("nowhere"), "a").larger == {}
    assert [trainer._scalar(value) for value in (True, 1, 0.5, "a", [1])] == [True, 1, 0.5, "a", "[1]"]


@pytest.mark.parametrize(
    ("changed", "ended"),
    [
        ({"max_steps": 5}, "unfinished"), ({"max_steps": 3}, "finished"), ({"max_steps": -1}, "unfinished"),
        ({"max_steps": 0}, "unfinished"), ({"stateful_callbacks": {"TrainerControl": {"args": {}}}}, "unfinished"),
        ({"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": True}}}}, "finished"),
        ({"stateful_callbacks": {"TrainerControl": {"args": {"should_training_stop": 1}}}}, "unfinished"),
        ({"stateful_callbacks": {"TrainerControl": 1}}, "unfinished"), ({"stateful_callbacks": []}, "unfinished"),
    ],
)  # fmt: skip
def test_how_a_training_ended(changed: dict[str, Any], ended: str) -> None:
    assert trainer._ended(state(**changed)) == ended


def test_the_state_that_went_furthest_counts_and_the_model_beside_it(tmp_path: Path) -> None:
    for name, steps, width in (("out/checkpoint-4", 4, 8), ("out/checkpoint-2", 2, 4), ("out", 4, None), ("b", 1, 2)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state(global_step=steps, max_steps=steps)))
        if width:
            (tmp_path / name / "config.json").write_text(json.dumps({"d": {"width": width}}))
    found = trainer.read_trainer(tmp_path)
    assert [(run.id, run.config["max_steps"], run.config.get("model.d.width")) for run in found.runs] == [
        ("b", 1, 2), ("out", 4, 8),
    ]  # fmt: skip
    alone = trainer.read_trainer(tmp_path / "out" / "checkpoint-2" / "trainer_state.json")
    assert [(run.id, run.config["model.d.width"]) for run in alone.runs] == [("checkpoint-2", 4)]
    inside = trainer.read_trainer(tmp_path / "out" / "checkpoint-2")
    assert [run.id for run in inside.runs] == ["checkpoint-2"]
    (tmp_path / "empty").mkdir()
    empty = f"{tmp_path}/empty"
    assert refusal(lambda: trainer.read_trainer(tmp_path / "empty")) == (
        f"'{empty}' holds no trainer_state.json of Hugging Face's Trainer", empty,
    )  # fmt: skip
    file = tmp_path / "b" / "trainer_state.json"
    for changed in ({"global_step": True}, {"global_step": 1.0}, {"log_history": {}}, {"log_history": [1]}):
        file.write_text(json.dumps(state(**changed)))
        assert refusal(lambda: trainer.read_trainer(file))[0] == (
            f"'{file}' is no state of a Trainer: it needs a whole number 'global_step' and a 'log_history'"
        )


def metrics(folder: Path, text: str, settings: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text)
    if settings is not None:
        (folder / "hparams.yaml").write_text(settings)
    return folder / "metrics.csv"


def test_metrics_of_lightning(tmp_path: Path) -> None:
    metrics(tmp_path / "v0", "epoch,step,loss,acc\n0,0,3.0,\n\n0,1,2.0,0.5\n1,1, ,0.75\n", "lr: 0.5\nnet: {w: 3}\n")
    found = lightning.read_lightning(tmp_path)
    (run,) = found.runs
    assert (run.id, run.config, found.notes[:1]) == ("v0", {"lr": 0.5, "net.w": 3}, found.notes[:1])
    assert {name: (one.steps, one.values) for name, one in run.series.items()} == {
        "epoch": ([0, 1], [0, 1]), "loss": ([0, 1], [3, 2]), "acc": ([1], [0.75])
    }  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert refusal(lambda: lightning.read_lightning(tmp_path / "empty")) == (
        f"'{tmp_path}/empty' holds no metrics.csv of Lightning's CSVLogger", f"{tmp_path}/empty",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "'{}' has no column 'step', as Lightning's CSVLogger writes it"),
        ("", "'{}' has no column 'step', as Lightning's CSVLogger writes it"),
        ("step,step\n1,2\n", "'{}' has two columns named 'step'; names must differ"),
        ("step,a\n1,2\n2\n", "'{}', row 2 has 1 cells and the header 2"),
        ("step,a\n1,x\n", "'{}', row 1: 'a' is 'x', not a number"),
        ("step,a\ninf,1\n", "'{}', row 1: 'step' is 'inf', not a number"),
    ],
)
def test_what_lightning_did_not_write(text: str, said: str, tmp_path: Path) -> None:
    file = metrics(tmp_path, text)
    assert refusal(lambda: lightning.read_lightning(file))[0] == said.format(file)


def test_runs_that_begin_late_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first point of every metric lies further from 0 than two of its points from each other."""
    late = "begins at step {}: Lightning logs a resumed run in a new folder, and its earlier steps stand in another one, or deletes them where the folder is the same"  # noqa: E501
    for name, rows, told in (
        ("a", "9,1\n10,2\n11,3\n", f"a {late.format(9)}"), ("b", "1,1\n2,1\n", None), ("c", "50,1\n", None),
        ("d", "9,1\n19,1\n30,1\n", None), ("e", "11,1\n21,1\n", f"e {late.format(11)}"),
    ):  # fmt: skip
        file = metrics(tmp_path / name / name, f"step,loss\n{rows}")
        assert lightning.read_lightning(file.parent.parent).notes == ([told] if told else [])
    notes = lightning.read_lightning(tmp_path).notes
    assert notes == [f"a/a {late.format(9).replace(':', ' and 1 others begin late as well:', 1)}"]
    monkeypatch.setattr(lightning, "MOST_POINTS", 8)
    assert len(lightning.read_lightning(tmp_path / "a").runs) == 1  # a header and three rows of two
    monkeypatch.setattr(lightning, "MOST_POINTS", 7)
    assert "more than 7 points" in refusal(lambda: lightning.read_lightning(tmp_path / "a"))[0]


def test_hyperparameters_of_lightning(tmp_path: Path) -> None:
    file = metrics(tmp_path, "step,a\n1,2\n", "!!python/object:os.system {}\n")
    found = lightning.read_lightning(file)
    settings = tmp_path / "hparams.yaml"
    assert found.runs[0].config == {}
    assert found.notes == [f"{settings} holds Python objects; it is not read, since that would run code"]
    settings.write_text("- 1\n")
    assert lightning.read_lightning(file).runs[0].config == {}
    settings.write_text("a: [")
    assert refusal(lambda: lightning.read_lightning(file))[0].startswith(f"'{settings}' is not YAML (while parsing ")
    settings.write_text("a: " + "x" * (1 << 20))
    assert refusal(lambda: lightning.read_lightning(file))[1] == (1 << 20) + 3


# ------------------------------------------------------------------------------------------------ tensorboard


def event(step: int, at: float, *values: bytes, more: bytes = b"") -> bytes:
    summary = part(5, b"".join(part(1, value) for value in values)) if values else b""
    return framed(part(1, at) + part(2, step) + summary + more)


def simple(tag: str, value: float) -> bytes:
    return part(1, tag) + varint(2 << 3 | 5) + struct.pack("<f", value)


def tensor(tag: str, plugin: str, kind: int, data: bytes, *, shape: bool = False, field: int = 4) -> bytes:
    inside = part(1, kind) + (part(2, part(2, part(1, 1))) if shape else b"") + part(field, data)
    return part(1, tag) + part(8, inside) + part(9, part(1, part(1, plugin)))


def test_events_become_points(tmp_path: Path) -> None:
    half, single, double = struct.pack("<e", 0.5), struct.pack("<f", 0.25), struct.pack("<d", 0.125)
    data = framed(part(1, 5.0) + part(3, "brain.Event:2"))
    data += event(1, 10.0, simple("loss", 3.0), tensor("f", "scalars", 1, single), tensor("d", "scalars", 2, double))
    images = tensor("none", "images", 1, single)
    data += event(2, 20.0, simple("loss", 2.0), tensor("h", "scalars", 19, half), images)
    no_scalars = (
        tensor("v", "scalars", 1, single, shape=True), tensor("l", "scalars", 3, single),
        tensor("s", "scalars", 1, single[:3]), simple("", 1.0),
    )  # fmt: skip
    data += event(3, 30.0, *no_scalars, tensor("p", "", 1, single, field=5))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1").write_bytes(data)
    found = tensorboard.read_tensorboard(tmp_path)
    (run,) = found.runs
    assert {name: (one.steps, one.values, one.times) for name, one in run.series.items()} == {
        "loss": ([1, 2], [3, 2], [10, 20]), "f": ([1], [0.25], [10]), "d": ([1], [0.125], [10]),
        "h": ([2], [0.5], [20]), "p": ([3], [0.25], [30]),
    }  # fmt: skip
    assert (run.id, run.state, found.source) == ("run", "", str(tmp_path))
    assert found.notes == [
        "TensorBoard stores scalars in 32 bits: values are exact to seven digits; every event is read"
    ]
    alone = tensorboard.read_tensorboard(tmp_path / "run" / "events.out.tfevents.1")
    assert [one.id for one in alone.runs] == ["run"]


def test_files_are_read_in_the_order_in_which_they_began_and_a_session_cuts(tmp_path: Path) -> None:
    first = event(1, 1.0, simple("a", 1.0)) + event(2, 2.0, simple("a", 2.0)) + event(3, 3.0, simple("a", 3.0))
    second = event(2, 9.0, more=part(7, part(1, 1))) + event(4, 10.0, simple("a", 4.0))
    (tmp_path / "a.tfevents").write_bytes(second)
    (tmp_path / "b.tfevents").write_bytes(first + b"\0" * 12)
    found = tensorboard.read_tensorboard(tmp_path)
    assert found.runs[0].series["a"].steps == [1, 4]
    assert found.notes[1] == "1 event files end in a damaged record; what stands before it is read"
    stop = event(2, 9.0, more=part(7, part(1, 2))) + event(4, 10.0, simple("a", 4.0))  # a session's end cuts nothing
    (tmp_path / "a.tfevents").write_bytes(stop)
    assert tensorboard.read_tensorboard(tmp_path).runs[0].series["a"].steps == [1, 2, 3, 4]


def test_hyperparameters_of_tensorboard(tmp_path: Path) -> None:
    """A plugin's value: a number, a text, a truth or nothing; a child of one point a metric is its parent's."""

    def value(tag: str, content: bytes) -> bytes:
        return part(1, tag) + part(9, part(1, part(1, "hparams") + part(2, content)))

    pairs = {"n": part(2, 3.0), "x": part(2, 0.5), "t": part(3, "s"), "b": part(4, 1), "f": part(4, 0), "none": b""}
    start = part(3, b"".join(part(1, part(1, key) + part(2, one)) for key, one in pairs.items()) + part(5, 7.0))
    for name in ("run", "run/hp"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "tfevents").write_bytes(event(1, 1.0, simple("loss", 1.0)) + event(2, 2.0, simple("loss", 0.5)))
    child = event(0, 3.0, value("s", start)) + event(0, 3.0, simple("hp", 9.0), simple("loss", 8.0))
    (tmp_path / "run" / "hp" / "tfevents").write_bytes(child + event(0, 3.0, value("e", part(4, part(1, 2)))))
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert run.config == {"n": 3, "x": 0.5, "t": "s", "b": True, "f": False, "none": None}
    assert isinstance(run.config["n"], int)
    assert {name: one.values for name, one in run.series.items()} == {"loss": [1, 0.5], "hp": [9]}
    (alone,) = tensorboard.read_tensorboard(tmp_path / "run" / "hp").runs
    assert (alone.state, alone.started_at) == ("failed", 7.0)
    (tmp_path / "run" / "hp2").mkdir()
    (tmp_path / "run" / "hp2" / "tfevents").write_bytes(child)
    # Two children: each is a run of its own.
    assert {one.id for one in tensorboard.read_tensorboard(tmp_path).runs} == {"run", "run/hp", "run/hp2"}
    for name in ("run/tfevents", "run/hp/tfevents", "run/hp2/tfevents"):
        (tmp_path / name).write_bytes(event(0, 3.0, value("s", start)))
    assert refusal(lambda: tensorboard.read_tensorboard(tmp_path)) == (
        f"'{tmp_path}' holds event files of TensorBoard without a scalar", str(tmp_path),
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    assert refusal(lambda: tensorboard.read_tensorboard(tmp_path / "empty"))[0] == (
        f"'{tmp_path}/empty' holds no event file of TensorBoard (*tfevents*)"
    )


def test_points_of_tensorboard_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tfevents"
    file.write_bytes(event(1, 1.0, simple("a", 1.0), simple("b", 1.0)) + event(2, 1.0, simple("a", 1.0)))
    monkeypatch.setattr(tensorboard, "MOST_POINTS", 3)
    assert len(tensorboard.read_tensorboard(file).runs) == 1
    monkeypatch.setattr(tensorboard, "MOST_POINTS", 2)
    assert (
        refusal(lambda: tensorboard.read_tensorboard(file))[0]
        == f"'{file}': more than 2 points, the most that are read"
    )
    assert [tensorboard.is_events(name) for name in ("a.tfevents.1", "a.tfevents.1.profile-empty", "a")] == [
        True, False, False,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ W&B


def item(key: str, value: Any, field: int = 16) -> bytes:
    return part(1, key) + part(field, json.dumps(value))


def log(*records: bytes) -> bytes:
    return HEAD + b"".join(fragment(1, record) for record in records)


def history(step: int | None, **values: Any) -> bytes:
    rows = b"".join(part(1, item(key, value)) for key, value in values.items())
    return part(2, rows + (part(2, part(1, step)) if step is not None else b""))


def test_a_run_of_wandb(tmp_path: Path) -> None:
    begun = part(17, part(1, "id1") + part(8, "name") + part(17, part(1, 100) + part(2, 500_000_000)) +
                 part(4, part(1, item("lr", 0.5)) + part(1, item("_wandb", {"x": 1}))))  # fmt: skip
    config = part(5, part(1, item("net", {"w": 3})))
    rows = [
        history(0, loss=3.0, _timestamp=101.0, _step=0, note="x", **{"system/cpu": 1.0}),
        history(1, loss="NaN", d={"a": 1, "b": "y"}, flag=True), history(None, loss=1.0, _step=7, __own=2),
    ]  # fmt: skip
    summary = part(3, part(1, item("best", 0.25)) + part(1, item("loss", 9.0)) + part(1, item("_runtime", 3)))
    (tmp_path / "run-1").mkdir()
    file = tmp_path / "run-1" / "run-1.wandb"
    file.write_bytes(log(begun, config, *rows, summary, part(18, part(1, 0) + part(2, 12))))
    found = wandb.read_wandb(str(tmp_path))
    (run,) = found.runs
    assert (run.id, run.name, run.state, run.started_at, run.ended_at) == ("id1", "name", "finished", 100.5, 112.5)
    assert run.config == {"lr": 0.5, "net.w": 3}
    told = {name: (one.steps, [str(value) for value in one.values]) for name, one in run.series.items()}
    assert told == {"loss": ([0, 1, 7], ["3.0", "nan", "1.0"]), "d.a": ([1], ["1.0"]), "__own": ([7], ["2.0"]),
                    "best": ([7], ["0.25"])}  # fmt: skip
    assert run.series["loss"].times == [101.0, None, None]
    file.write_bytes(log(begun, *rows, part(18, part(1, 1))) + fragment(5, b""))
    found = wandb.read_wandb(str(file))
    assert (found.runs[0].state, found.runs[0].ended_at) == ("failed", None)
    assert found.notes == [
        "run-1.wandb is damaged (a fragment reaches over its block); what stands before that is read"
    ]
    file.write_bytes(log(*rows))
    (run,) = wandb.read_offline(tmp_path).runs
    assert (run.id, run.state) == ("run-1", "unfinished")
    (run,) = wandb.read_offline(file).runs
    assert run.id == "run-1"
    file.write_bytes(b"x" * 30)
    assert refusal(lambda: wandb.read_offline(file))[0] == f"'{file}' is no run of W&B (it does not begin with ':W&B')"
    (tmp_path / "empty").mkdir()
    assert (
        refusal(lambda: wandb.read_wandb(f"{tmp_path}/empty"))[0] == f"'{tmp_path}/empty' holds no run of W&B (*.wandb)"
    )


def test_a_resumed_run_of_wandb_is_one(tmp_path: Path) -> None:
    for k, name in enumerate(("run-a", "run-b")):
        (tmp_path / name).mkdir()
        begun = part(17, part(1, "id") + part(8, name) + part(17, part(1, 100 + k)))
        ended = [part(18, part(1, 0) + part(2, 50))] if k == 0 else []
        (tmp_path / name / "x.wandb").write_bytes(log(begun, history(k, loss=float(k)), *ended))
    (run,) = wandb.read_offline(tmp_path).runs
    # The first start counts; the second file says nothing of an end.
    assert (run.name, run.started_at, run.ended_at, run.state) == ("run-b", 100, 150, "unfinished")
    assert run.series["loss"].steps == [0, 1]


def test_values_of_wandb() -> None:
    def value(data: bytes) -> Any:
        return wandb._value(Message.of(data))

    assert value(part(16, "[1]")) == [1]
    assert value(part(8, '"a"') + part(7, "text")) == "a"
    assert value(part(8, "{")) is None
    assert value(part(6, 0.5) + part(7, "x")) == 0.5
    assert (value(part(5, 3)), value(part(5, 4)), value(part(4, 1)), value(part(4, 0))) == (-2, 2, True, False)
    assert (value(part(7, "text")), value(part(3, 1))) == ("text", None)
    assert wandb._key(Message.of(part(2, "a") + part(2, "b"))) == "a.b"
    assert wandb._key(Message.of(part(1, "k") + part(2, "b"))) == "k"


def test_points_of_wandb_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.wandb"
    file.write_bytes(log(history(0, a=1, b=2), history(1, a=1)))
    monkeypatch.setattr(wandb, "MOST_POINTS", 3)
    assert len(wandb.read_offline(file).runs) == 1
    monkeypatch.setattr(wandb, "MOST_POINTS", 2)
    assert refusal(lambda: wandb.read_offline(file))[0] == "W&B run x: more than 2 points, the most that are read"


def test_a_table_and_a_chart_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "Name,State,ID,Created,lr,ok,loss\na,Finished,1,1970-01-01T00:00:10Z,0.5,TRUE,2\nb,,,x,1e-3,false,\n"
        "b,,, ,2,,x\n\n"
    )
    found = wandb.read_wandb(str(file))
    assert [(run.id, run.name, run.state, run.started_at, run.config) for run in found.runs] == [
        ("1", "a", "finished", 10.0, {"lr": 0.5, "ok": True, "loss": 2}),
        ("b", "b", "", None, {"lr": 0.001, "ok": False, "loss": None}),
        ("b (2)", "b", "", None, {"lr": 2, "ok": None, "loss": "x"}),
    ]
    file.write_text('"Step","a - loss","a - loss__MIN","b - x - acc","b - _step"\n1,2,1,0.5,1\nx,1,1,1,1\n3,NaN,1,,\n')
    found = wandb.read_export(file)
    assert {run.id: {k: (one.steps, str(one.values)) for k, one in run.series.items()} for run in found.runs} == {
        "a": {"loss": ([1, 3], "[2.0, nan]")}, "b - x": {"acc": ([1], "[0.5]")},
    }  # fmt: skip
    note = "a chart of W&B by 'Step': long curves are sampled by the page, and there is no configuration"
    assert found.notes == [note]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Name\n", "'{}' has no rows; give what W&B's page exports"),
        ("Name,a,a\n1,2,3\n", "'{}' has two columns named 'a'; names must differ"),
        ("Name,a\n1,2\n1\n", "'{}', row 2 has 1 cells and the header 2"),
        ("x,y\n1,2\n", "'{}' is no export of W&B: it has neither a column 'Name' nor columns like 'RUN - METRIC'"),
        ('Name,a\n1,"2" 3\n', "'{}', line 2, cannot be read as CSV: "),
    ],
)
def test_what_the_page_did_not_export(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    assert refusal(lambda: wandb.read_export(file))[0].startswith(said.format(file))


def test_times_and_cells_of_wandb() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc).timestamp()
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T04:04:05+01:00"):
        assert wandb._when(text) == at
    assert wandb._when("yesterday") is None
    cells = ("", " 3 ", "0.5", "True", "FALSE", "text", "1e400")
    assert [wandb._cell(text) for text in cells] == [None, 3, 0.5, True, False, "text", math.inf]
    for source in ("nowhere", "./a/b", "a/b/c"):
        said, value = refusal(lambda source=source: wandb.read_wandb(source))
        assert (value, said.startswith(f"there is no file or folder '{source}'; W&B is read from ")) == (source, True)


def test_a_run_of_the_server() -> None:
    rows = [{"_step": 1, "_timestamp": 10.0, "loss": 2.0, "d": {"a": 1}}, {"_step": None, "acc": 1}]
    one = SimpleNamespace(
        id="i", name="n", state="CRASHED", config={"lr": {"x": 1}, "_wandb": 1}, created_at="1970-01-01T00:00:01",
        scan_history=lambda: rows, summary={"best": "Infinity", "loss": 0, "_x": 1, "text": "t"},
    )  # fmt: skip
    run = wandb._of_server(one)
    assert (run.id, run.name, run.state, run.config, run.started_at, run.ended_at) == (
        "i", "n", "crashed", {"lr.x": 1}, 1.0, 10.0,
    )  # fmt: skip
    assert {name: (one.steps, one.values) for name, one in run.series.items()} == {
        "loss": ([1], [2]), "d.a": ([1], [1]), "acc": ([0], [1]), "best": ([1], [math.inf])
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ MLflow, Optuna


def test_parameters_and_values_of_mlflow() -> None:
    texts = ("True", "False", "None", "3", "0.5", "1e-3", "a", "true")
    assert [mlflow._parameter(text) for text in texts] == [True, False, None, 3, 0.5, 0.001, "a", "true"]
    most = sys.float_info.max
    assert [mlflow._value(value) for value in (1.0, most, -most)] == [1.0, math.inf, -math.inf]
    assert [mlflow._seconds(value) for value in (None, 0, 1500)] == [None, None, 1.5]


def test_a_run_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def point(step: int, value: float, at: int) -> Any:
        return SimpleNamespace(step=step, value=value, timestamp=at)

    points = {"loss": [point(2, 1.0, 3000), point(1, 5.0, 2000), point(1, 4.0, 2000), point(1, math.nan, 2000)]}
    one = SimpleNamespace(
        info=SimpleNamespace(run_id="i", run_name=None, status="FAILED", start_time=1000, end_time=None),
        data=SimpleNamespace(params={"lr": "0.5"}, tags={"mlflow.user": "me", "team": "x"}, metrics={"loss": 1.0}),
    )
    client = SimpleNamespace(get_metric_history=lambda run, name: points[name])
    run = mlflow._run(client, one)
    assert (run.id, run.name, run.state, run.started_at, run.ended_at) == ("i", "", "failed", 1.0, None)
    assert run.config == {"lr": 0.5, "tag.team": "x"}
    assert (run.series["loss"].steps, run.series["loss"].values, run.series["loss"].times) == ([1, 2], [5, 1], [2, 3])
    monkeypatch.setattr(mlflow, "MOST_POINTS", 4)
    mlflow._run(client, one)
    monkeypatch.setattr(mlflow, "MOST_POINTS", 3)
    said = "MLflow run i: more than 3 points, the most that are read"
    assert refusal(lambda: mlflow._run(client, one))[0] == said


class Client:
    """An MLflow server of three experiments, of which one is deleted and one empty; runs in pages of two."""

    def __init__(self) -> None:
        made = [("7", "train", "active"), ("8", "old", "deleted"), ("9", "empty", "active")]
        self.known = [SimpleNamespace(experiment_id=id, name=name, lifecycle_stage=stage) for id, name, stage in made]
        self.asked: list[Any] = []

    def search_experiments(self, max_results: int) -> Any:
        return self.known

    def get_experiment_by_name(self, name: str) -> Any:
        return next((one for one in self.known if one.name == name), None)

    def search_runs(self, ids: list[str], max_results: int, page_token: Any = None, order_by: Any = None) -> Any:
        self.asked.append((ids, max_results, page_token, order_by))
        start = int(page_token or 0)
        found = type("Page", (list,), {})(["a", "b", "c"][start : start + 2] if ids == ["7"] else [])
        found.token = "2" if start == 0 and found else ""
        return found


def test_experiments_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    assert mlflow._experiment(client, "u", "").name == "train"
    assert [mlflow._experiment(client, "u", name).experiment_id for name in ("train", "9")] == ["7", "9"]
    for name, said, value in (
        ("old", "the MLflow experiment 'old' of 'u' was deleted; restore it first", "old"),
        ("trian", "the MLflow store 'u' has no experiment 'trian'; did you mean 'train'?", "trian"),
    ):
        assert refusal(lambda name=name: mlflow._experiment(client, "u", name)) == (said, value)
    client.known[2].experiment_id = "7"
    said = "the MLflow store 'u' needs an experiment after '#'; it has with runs: train, empty"
    assert refusal(lambda: mlflow._experiment(client, "u", ""))[0] == said
    client.known = []
    said = "the MLflow store 'u' needs an experiment after '#'; it has with runs: none"
    assert refusal(lambda: mlflow._experiment(client, "u", ""))[0] == said
    client.asked.clear()
    assert list(mlflow._runs(client, "7")) == ["a", "b", "c"]
    assert client.asked == [(["7"], 1000, token, ["start_time ASC"]) for token in (None, "2")]
    monkeypatch.setattr(mlflow, "MOST_RUNS", 3)
    assert len(list(mlflow._runs(client, "7"))) == 3
    monkeypatch.setattr(mlflow, "MOST_RUNS", 2)
    said = "the MLflow experiment has more than 2 runs, the most that are read"
    assert refusal(lambda: list(mlflow._runs(client, "7")))[0] == said


def test_addresses_of_mlflow(tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    assert mlflow._split(f"{tmp_path}") == (folder, "")
    assert mlflow._split(f"{tmp_path}/exp") == (folder, "exp")
    assert mlflow._split(f"{tmp_path}#a/b") == (folder, "a/b")
    assert mlflow._split("http://h:5/exp") == ("http://h:5", "exp")
    assert mlflow._split("http://h:5") == ("http://h:5", "")
    assert mlflow._split("https://h/a/b#exp") == ("https://h/a/b", "exp")
    assert mlflow._split(f"{folder}/exp") == (folder, "exp")
    for source in ("nowhere", f"sqlite:///{tmp_path}/none.db/exp", "http://me:secret@h/a/b", f"{tmp_path}/no/exp"):
        said, value = refusal(lambda source=source: mlflow._split(source))
        shown = source.replace("secret", "***")
        assert (value, said.startswith(f"'{shown}' names no MLflow store: give mlflow:URI/EXPERIMENT, ")) == (
            source,
            True,
        )


def test_a_trial_of_optuna() -> None:
    begun = datetime(2026, 1, 2, 3, 4, 5)
    trial = SimpleNamespace(
        number=3, state=SimpleNamespace(name="COMPLETE"), params={"lr": 0.5}, user_attrs={"a": {"b": 1}},
        datetime_start=begun, datetime_complete=None, intermediate_values={5: 1.0, 2: 3.0}, values=[0.25],
    )  # fmt: skip
    run = optuna._run(trial, ["value"], [True])
    assert (run.id, run.name, run.state, run.started_at, run.ended_at) == (
        "3", "trial 3", "complete", begun.timestamp(), None,
    )  # fmt: skip
    assert run.config == {"lr": 0.5, "user.a.b": 1}
    assert run.larger == {"intermediate": True, "value": True}
    assert {name: (one.steps, one.values) for name, one in run.series.items()} == {
        "intermediate": ([2, 5], [3, 1]), "value": ([5], [0.25])
    }  # fmt: skip
    trial.values, trial.intermediate_values = [1.0, None], {}
    run = optuna._run(trial, ["a", "b"], [False, True])
    assert (run.larger, {name: one.steps for name, one in run.series.items()}) == ({"a": False}, {"a": [0]})
    for names, larger, told in ((None, [True], ["value"]), (None, [True, False], ["value_0", "value_1"]),
                                (["x"], [True], ["x"])):  # fmt: skip
        assert optuna._objectives(SimpleNamespace(metric_names=names), larger) == told


def test_storages_of_optuna(tmp_path: Path) -> None:
    import sqlite3

    for name, tables in (("whole.db", ("studies", "trials")), ("half.db", ("studies",))):
        with sqlite3.connect(tmp_path / name) as connection:
            for table in tables:
                connection.execute(f"CREATE TABLE {table} (id INTEGER)")
        connection.close()
    (tmp_path / "text").write_text("x")
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\0" + b"x" * 500)
    whole = f"{tmp_path}/whole.db"
    assert optuna._storage(whole) == optuna._storage(f"sqlite:///{whole}") == f"sqlite:///{whole}"
    assert optuna._storage(f"sqlite:///{whole}?timeout=3") == f"sqlite:///{whole}?timeout=3"
    assert optuna._storage("postgresql://h/db") == "postgresql://h/db"
    for place, said in {
        f"{tmp_path}/none": f"there is no Optuna storage '{tmp_path}/none'; give sqlite:///FILE, another database's "
                            "URL, or a journal file",
        f"sqlite:///{tmp_path}/none": f"there is no file '{tmp_path}/none'; give a database that Optuna wrote",
        f"{tmp_path}/half.db": f"'{tmp_path}/half.db' is a database without Optuna's tables",
        f"{tmp_path}/broken.db": f"'{tmp_path}/broken.db' is not a SQLite database (",
        f"{tmp_path}/text": f"'{tmp_path}/text' is neither a SQLite database nor a journal of Optuna",
    }.items():  # fmt: skip
        told, value = refusal(lambda place=place: optuna._storage(place))
        assert (told.startswith(said), value) == (True, place.removeprefix("sqlite:///")), told
    error = optuna._unreadable("x", ValueError("a\n  b://me:secret@h" + "c" * 400))
    assert str(error) == ("the Optuna storage 'x' cannot be read: " + ("a b://me:***@h" + "c" * 400)[:300])
    assert str(optuna._unreadable("x", KeyError())) == "the Optuna storage 'x' cannot be read: KeyError"
