"""Logs of W&B and TensorBoard byte by byte, written by a few lines of the test's own."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.integrations.sources import tensorboard, wandb, wire
from metascale.integrations.sources.runs import ImportedRun
from metascale.integrations.sources.wire import Malformed, Message, leveldb_records, tfrecords


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: Any) -> bytes:
    """A whole number as a varint, a float as a double, anything else as bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(*fields: tuple[int, Any]) -> bytes:
    return b"".join(field(number, value) for number, value in fields)


# Messages.


def test_fields_of_a_message_by_number_in_order() -> None:
    data = message((1, 300), (2, "text"), (1, 5), (16, 2.5), (2, b"\xff")) + varint(3 << 3 | 5) + struct.pack("<f", 0.5)
    found = Message.of(data)
    assert found.fields == {
        1: [300, 5], 2: [b"text", b"\xff"], 16: [struct.pack("<d", 2.5)], 3: [struct.pack("<f", 0.5)],
    }  # fmt: skip
    assert (found.integer(1), found.text(2), found.all_bytes(2)) == (5, "�", [b"text", b"\xff"])
    assert (found.double(16), found.double(3), found.double(2), found.double(9)) == (2.5, 0.5, None, None)
    assert (found.integer(2), found.integer(9), found.bytes_of(1), found.text(9)) == (None, None, None, "")
    assert (found.zigzag(2), found.zigzag(9), found.message(9), found.messages(9)) == (None, None, None, [])
    assert found.all_bytes(1) == []
    nested = Message.of(message((4, message((1, 7))), (4, message((1, 8)))))
    assert [one.integer(1) for one in nested.messages(4)] == [7, 8]
    assert nested.message(4).integer(1) == 8  # type: ignore[union-attr]
    assert Message.of(b"").fields == {}


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63), -300])
def test_integers_have_a_sign_in_either_form(value: int) -> None:
    assert Message.of(message((1, value))).integer(1) == value
    zigzagged = (value << 1) ^ (value >> 63)
    assert Message.of(message((1, zigzagged))).zigzag(1) == value


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (varint(1 << 3 | 3), "wire type 3"), (varint(1 << 3 | 4), "wire type 4"), (varint(1 << 3 | 6), "wire type 6"),
        (varint(1 << 3 | 1) + bytes(7), "a field is cut off"), (varint(1 << 3 | 5) + bytes(3), "a field is cut off"),
        (varint(1 << 3 | 2) + varint(3) + b"ab", "a field is cut off"), (b"\x80", "a number is cut off"),
        (varint(8), "a number is cut off"), (b"\x08" + b"\x80" * 10 + b"\x01", "a number has more than 64 bits"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_message(data: bytes, sentence: str) -> None:
    with pytest.raises(Malformed, match=f"^{sentence}$"):
        Message.of(data)


def test_a_number_of_ten_bytes_is_the_longest() -> None:
    assert Message.of(b"\x08" + b"\xff" * 9 + b"\x01").integer(1) == -1
    assert Message.of(b"\x08" + b"\x80" * 9 + b"\x01").integer(1) == -(2**63)


# Records of TensorBoard.


def crc(data: bytes) -> int:
    """CRC-32C bit by bit, masked."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def tf(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", crc(head)) + data + struct.pack("<I", crc(data))


def test_the_checksum_is_the_published_one() -> None:
    """CRC-32C of "123456789" is e3069283 (the standard's check value); masked, it is turned by 15 bits and moved."""
    value = 0xE3069283
    assert wire._masked_crc(b"123456789") == ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert wire._masked_crc(b"") == 0xA282EAD8


def test_records_of_a_file_end_where_one_is_cut_off() -> None:
    whole = tf(b"one") + tf(b"") + tf(b"three")
    assert list(tfrecords(io.BytesIO(whole))) == [b"one", b"", b"three"]
    for cut in range(1, len(tf(b"three")) + 1):
        assert list(tfrecords(io.BytesIO(whole[:-cut]))) == [b"one", b""]
    with pytest.raises(Malformed, match=r"^a record's length does not have its checksum$"):
        list(tfrecords(io.BytesIO(tf(b"one") + b"\x01" + tf(b"two")[1:])))


def test_a_long_record_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_RECORD_BYTES", 4)
    assert list(tfrecords(io.BytesIO(tf(b"five!") + tf(b"four")))) == [b"four"]


# Records of W&B.

HEAD = b":W&B\x00\x00\x00"


def leveldb(*records: bytes, block: int = 32768) -> bytes:
    data = HEAD
    for record in records:
        first = True
        while True:
            room = block - len(data) % block
            if room < 7:
                data += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            data += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
            if not record:
                break
    return data


def test_records_cross_blocks_in_fragments() -> None:
    long = bytes(range(256)) * 300  # more than two blocks
    exact = b"x" * (32768 - 7 - 7)  # fills the first block to its end
    short = b"y" * (32768 - 7 - 7 - 3)  # leaves three bytes, in which no header fits
    for records in ((b"one", long, b"three"), (exact, b"two"), (short, b"two"), (b"",)):
        assert list(leveldb_records(io.BytesIO(leveldb(*records)))) == list(records)
    whole = leveldb(b"one", b"two")
    for cut in range(1, 10):
        assert list(leveldb_records(io.BytesIO(whole[:-cut]))) == [b"one"]


def test_what_is_no_log_of_wandb() -> None:
    with pytest.raises(Malformed, match=r"^it does not begin with ':W&B'$"):
        list(leveldb_records(io.BytesIO(b"W&B:\x00\x00\x00")))
    for kind, length in ((5, 1), (1, 40_000)):
        data = HEAD + struct.pack("<IHB", 0, length, kind) + bytes(length)
        with pytest.raises(Malformed, match=r"^a fragment reaches over its block$"):
            list(leveldb_records(io.BytesIO(data)))


def test_a_long_record_of_wandb_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_RECORD_BYTES", 4)
    assert list(leveldb_records(io.BytesIO(leveldb(b"five!", b"four", b"")))) == [b"four", b""]


# Runs of W&B.


def item(key: str, value: Any, field_of: int = 16) -> bytes:
    return message((1, key), (field_of, json.dumps(value)))


def log(folder: Path, *records: bytes, name: str = "run-a.wandb") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(leveldb(*records))
    return folder / name


def history(step: int | None = None, **values: Any) -> bytes:
    items = [(1, item(key, value)) for key, value in values.items()]
    return message((2, message(*items, *(() if step is None else ((2, message((1, step))),)))))


BEGUN = message((17, message((1, "id1"), (8, "shown"), (17, message((1, 100), (2, 500_000_000))),
                             (4, message((1, item("lr", 0.1)), (1, item("_wandb", 1)))))))  # fmt: skip


def test_a_whole_run_of_wandb(tmp_path: Path) -> None:
    config = message((5, message((1, item("lr", 0.2)), (1, item("net", {"width": 8})), (1, item("_wandb.x", 1)))))
    summary = message((3, message((1, item("best", 0.5)), (1, item("loss", 9.0)), (1, item("_runtime", 3.0)),
                                  (1, item("deep", {"x": 2, "word": "w"})))))  # fmt: skip
    ended = message((18, message((1, 0), (2, 60))))
    rows = [
        history(_step=1, _timestamp=101.0, loss=2.0, flag=True, word="w", big="Infinity"),
        history(_step=2, _timestamp=103.5, loss="NaN", part={"a": 1.0, "b": {"c": 2.0}}),
        history(5, loss=1.0, **{"system/gpu": 3.0}),
    ]
    file = log(tmp_path / "offline-run", BEGUN, config, *rows, summary, ended)
    (run,) = wandb.read_wandb(str(tmp_path)).runs
    assert (run.id, run.name, run.state) == ("id1", "shown", "finished")
    assert run.config == {"lr": 0.2, "net.width": 8}
    assert (run.started_at, run.ended_at) == (100.5, 160.5)
    assert list(run.series) == ["loss", "big", "part.a", "part.b.c", "best", "deep.x"]
    assert run.series["loss"].steps == [1, 2, 5]
    assert run.series["loss"].values[::2] == [2.0, 1.0]
    assert math.isnan(run.series["loss"].values[1])
    assert run.series["loss"].times == [101.0, 103.5, None]
    assert (run.series["big"].values, run.series["part.b.c"].values) == ([math.inf], [2.0])
    assert (run.series["best"].steps, run.series["best"].values) == ([5], [0.5])
    assert run.series["deep.x"].values == [2.0]
    assert wandb.read_wandb(str(file)).runs[0].id == "id1"


def test_a_run_without_a_beginning_is_called_by_its_folder_or_file(tmp_path: Path) -> None:
    file = log(tmp_path / "deep" / "folder", history(_step=1, loss=2.0))
    assert wandb.read_offline(tmp_path).runs[0].id == "deep/folder"
    (run,) = wandb.read_offline(file).runs
    assert (run.id, run.state, run.name) == ("run-a", "unfinished", "")
    assert wandb.read_offline(tmp_path / "deep" / "folder").runs[0].id == "run-a"


def test_a_run_that_failed_and_one_resumed_in_a_second_file(tmp_path: Path) -> None:
    log(tmp_path / "1", BEGUN, history(_step=1, loss=2.0), message((18, message((1, 1), (2, 7)))))
    (run,) = wandb.read_offline(tmp_path).runs
    assert (run.state, run.ended_at) == ("failed", 107.5)
    again = message((17, message((1, "id1"), (17, message((1, 200))))))
    log(tmp_path / "2", again, history(_step=2, loss=1.0), message((18, message((2, 5)))))
    (run,) = wandb.read_offline(tmp_path).runs
    assert (run.series["loss"].steps, run.state, run.started_at, run.name) == ([1, 2], "finished", 100.5, "shown")
    assert run.ended_at == 107.5  # five seconds after the beginning would be before the first end


def test_values_of_wandb_typed_or_as_json() -> None:
    value = lambda *fields: wandb._value(Message.of(message(*fields)))
    assert value((16, "[1]"), (8, "2")) == [1]
    assert value((8, "2"), (6, 3.0)) == 2
    assert value((16, "{")) is None
    assert value((16, "[" * 100_000)) is None
    assert (value((6, 3.5)), value((5, 3)), value((5, 4)), value((4, 1)), value((4, 0))) == (3.5, -2, 2, True, False)
    assert (value((7, "text")), value((7, "")), value((3, 1)), value()) == ("text", "", None, None)
    key = lambda *fields: wandb._key(Message.of(message(*fields)))
    assert (key((1, "a")), key((2, "a"), (2, "b")), key((1, "x"), (2, "y")), key()) == ("a", "a.b", "x", "")


def test_a_step_stands_in_the_row_or_beside_it(tmp_path: Path) -> None:
    log(tmp_path, BEGUN, history(4, loss=1.0), history(_step=5.5, loss=2.0), history(7, _step=6, loss=3.0))
    (run,) = wandb.read_offline(tmp_path).runs
    # 5.5 is no step, and nothing stands beside it: 0, as after a resume.
    assert (run.series["loss"].steps, run.series["loss"].values) == ([0, 6], [2.0, 3.0])


def test_a_log_that_is_damaged_is_read_up_to_there(tmp_path: Path) -> None:
    file = log(tmp_path / "a", BEGUN, history(_step=1, loss=2.0), b"\x0b")
    found = wandb.read_offline(tmp_path)
    assert found.notes == ["run-a.wandb is damaged (wire type 3); what stands before that is read"]
    assert found.runs[0].series["loss"].values == [2.0]
    log(tmp_path / "a", b"\x0b")
    with pytest.raises(InputError, match=r"is no run of W&B \(wire type 3\)$"):
        wandb.read_offline(file)
    with pytest.raises(InputError, match=r"holds no run of W&B \(\*.wandb\)$"):
        wandb.read_offline(tmp_path / "a" / "none") if (tmp_path / "a" / "none").mkdir() is None else None


def test_more_points_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, BEGUN, history(_step=1, a=1.0), history(_step=2, a=2.0))
    monkeypatch.setattr(wandb, "MOST_POINTS", 4)
    assert wandb.read_offline(tmp_path).runs[0].series["a"].values == [1.0, 2.0]
    monkeypatch.setattr(wandb, "MOST_POINTS", 3)
    with pytest.raises(InputError, match=r"^W&B run id1: more than 3 points, the most that are read$"):
        wandb.read_offline(tmp_path)


def test_what_wandb_is_read_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wandb, "_read_server", lambda project: f"server {project}")
    assert wandb.read_wandb("entity-1/a project.x") == "server entity-1/a project.x"
    for source in ("./none", "none", "a/b/c", "../none/x"):
        with pytest.raises(InputError, match=f"^there is no file or folder '{source}'; W&B is read from") as caught:
            wandb.read_wandb(source)
        assert caught.value.value == source
    (tmp_path / "x.csv").write_text("Name,loss\na,1\n")
    assert wandb.read_wandb(str(tmp_path / "x.csv")).runs[0].config == {"loss": 1}


def test_the_table_of_runs_as_the_page_exports_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "Name,State,Created,ID,lr,on,note,empty\n"
        'a,Finished,2024-01-01T00:00:10Z,,0.1,true,"x, y",\n'
        "\n"
        "a,Crashed,2024-01-01T00:00:20,,7,FALSE,z, \n"
        "b,,nonsense,id9,1e3,no,,\n"
    )
    first, second, third = wandb.read_export(tmp_path / "t.csv").runs
    assert [(one.id, one.name, one.state) for one in (first, second, third)] == [
        ("a", "a", "finished"), ("a (2)", "a", "crashed"), ("id9", "b", ""),
    ]  # fmt: skip
    assert first.config == {"lr": 0.1, "on": True, "note": "x, y", "empty": None}
    assert second.config == {"lr": 7, "on": False, "note": "z", "empty": None}
    assert third.config == {"lr": 1000.0, "on": "no", "note": None, "empty": None}
    assert (first.started_at, second.started_at, third.started_at) == (1704067210.0, 1704067220.0, None)


def test_a_chart_as_the_page_exports_it(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "Step,a - b - loss,a - b - loss__MIN,a - b - loss__MAX,x - _step,x - acc\n"
        "1,2.5,2,3,1,\n2.0,Infinity,1,2,2,0.5\nnothing,9,9,9,9,9\n"
    )
    found = wandb.read_export(tmp_path / "c.csv")
    runs = {run.id: run for run in found.runs}
    assert list(runs) == ["a - b", "x"]
    assert (runs["a - b"].series["loss"].steps, runs["a - b"].series["loss"].values) == ([1, 2], [2.5, math.inf])
    assert (list(runs["x"].series), runs["x"].series["acc"].values) == (["acc"], [0.5])
    note = "a chart of W&B by 'Step': long curves are sampled by the page, and there is no configuration"
    assert found.notes == [note]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Name,loss\n", "has no rows; give what W&B's page exports"),
        ("", "has no rows; give what W&B's page exports"),
        ("Name,a,a\nx,1,2\n", "has two columns named 'a'; names must differ"),
        ("Name,a\nx,1,2\n", "row 1 has 3 cells and the header 2"),
        ("Name,a\nx,1\ny\n", "row 2 has 1 cells and the header 2"),
        ('Name,a\nx,"1"2\n', "line 2, cannot be read as CSV"),
        ("Step,loss\n1,2\n", "is no export of W&B: it has neither a column 'Name' nor columns like 'RUN - METRIC'"),
    ],
)
def test_what_is_no_export_of_wandb(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        wandb.read_export(tmp_path / "t.csv")
    assert sentence in str(caught.value)


def test_a_run_as_the_server_gives_it() -> None:
    rows = [{"_step": 1, "_timestamp": 5.0, "loss": 2.0}, {"_step": None, "loss": "NaN"}, {"_step": 3, "loss": 1.0}]
    one = SimpleNamespace(
        id="id1", name="shown", state="Crashed", config={"lr": 0.1, "_wandb": {}, "net": {"w": 2}},
        created_at="2024-01-01T00:00:10", scan_history=lambda: rows,
        summary={"loss": 1.0, "best": 0.5, "_runtime": 3, "flag": True, "word": "x"},
    )  # fmt: skip
    run = wandb._of_server(one)
    assert (run.id, run.name, run.state, run.config) == ("id1", "shown", "crashed", {"lr": 0.1, "net.w": 2})
    assert (run.started_at, run.ended_at) == (1704067210.0, 5.0)
    assert (run.series["loss"].steps[-1], list(run.series)) == (3, ["loss", "best"])
    assert (run.series["best"].steps, run.series["best"].values) == ([3], [0.5])


def test_projects_that_the_server_does_not_give_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed(Exception):
        pass

    def runs(project: str) -> Any:
        raise Failed("no\n such  thing")

    asked: list[Any] = []
    package = SimpleNamespace(Api=lambda timeout: asked.append(timeout) or SimpleNamespace(runs=runs), Error=Failed)
    monkeypatch.setattr(wandb, "require", lambda *given: asked.append(given) or package)
    with pytest.raises(InputError, match=r"^W&B does not give the project 'a/b': no such thing$") as caught:
        wandb._read_server("a/b")
    assert caught.value.value == "a/b"
    assert asked == [("wandb", "wandb", "reading 'a/b' from the server of Weights & Biases"), 30]


# Event files.


def event(step: int | None = None, at: float = 10.0, *values: bytes, session: int | None = None) -> bytes:
    fields: list[tuple[int, Any]] = [(1, at)]
    fields += [] if step is None else [(2, step)]
    fields += [(5, message(*((1, value) for value in values)))] if values else []
    fields += [] if session is None else [(7, message((1, session)))]
    return tf(message(*fields))


def scalar(tag: str, value: float) -> bytes:
    return message((1, tag)) + varint(2 << 3 | 5) + struct.pack("<f", value)


def events(folder: Path, *records: bytes, name: str = "events.out.tfevents.1") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"".join(records))
    return folder


def test_scalars_of_event_files(tmp_path: Path) -> None:
    tensor = lambda *fields: message((1, "t"), (8, message(*fields)))
    events(
        tmp_path / "a",
        event(None, 1.0),
        event(1, 2.0, scalar("loss", 2.0), scalar("", 9.0)),
        event(2, 3.0, tensor((1, 1), (4, struct.pack("<f", 0.5)))),
        event(3, 4.0, tensor((1, 2), (6, struct.pack("<d", 0.25)))),
        event(4, 5.0, tensor((1, 19), (4, struct.pack("<e", 1.5)))),
        event(5, 6.0, tensor((1, 1), (5, struct.pack("<f", 3.0)))),
        event(6, 7.0, tensor((1, 1), (4, struct.pack("<f", 1.0)), (2, message((2, message((1, 2))))))),  # a vector
        event(7, 8.0, tensor((1, 1), (4, bytes(8)))),  # of two numbers
        event(8, 9.0, tensor((1, 7), (4, bytes(4)))),  # a text
        event(9, 9.5, tensor((1, 1))),
        event(10, 9.6, tensor((1, 1), (4, struct.pack("<f", 4.0)), (2, b""))),
    )
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert (run.id, list(run.series)) == ("a", ["loss", "t"])
    assert (run.series["loss"].steps, run.series["loss"].values, run.series["loss"].times) == ([1], [2.0], [2.0])
    assert run.series["t"].steps == [2, 3, 4, 5, 10]
    assert run.series["t"].values == [0.5, 0.25, 1.5, 3.0, 4.0]


def with_plugin(tag: str, plugin: str, value: float) -> bytes:
    return scalar(tag, value) + message((9, message((1, message((1, plugin))))))


def test_tensors_of_other_plugins_are_no_scalars(tmp_path: Path) -> None:
    text = message((1, "note"), (8, message((1, 1), (4, bytes(4)))), (9, message((1, message((1, "text"))))))
    own = message((1, "own"), (8, message((1, 1), (4, bytes(4)))), (9, message((1, message((1, "scalars"))))))
    events(tmp_path, event(1, 1.0, text, own, with_plugin("simple", "other", 2.0)))
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert {name: one.values for name, one in run.series.items()} == {"own": [0.0], "simple": [2.0]}
    assert run.id == tmp_path.name


def test_a_new_session_takes_back_the_steps_from_where_it_began(tmp_path: Path) -> None:
    before = [event(k, float(k), scalar("loss", float(k))) for k in (1, 2, 3)]
    events(tmp_path, *before, event(2, 4.0, session=1), event(5, 5.0, scalar("other", 1.0)))
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert (run.series["loss"].steps, run.series["loss"].replaced) == ([1], 2)
    events(tmp_path, *before, event(2, 4.0, session=2))
    assert tensorboard.read_tensorboard(tmp_path).runs[0].series["loss"].steps == [1, 2, 3]


def test_files_of_a_folder_are_read_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    events(tmp_path, event(None, 20.0), event(2, 21.0, scalar("loss", 9.0)), name="a.tfevents")
    events(tmp_path, event(None, 10.0), event(3, 11.0, scalar("loss", 5.0)), name="b.tfevents")
    events(tmp_path, b"damaged" * 4, name="c.tfevents")
    events(tmp_path, event(None, 1.0), name="d.tfevents.profile-empty")
    found = tensorboard.read_tensorboard(tmp_path)
    assert found.runs[0].series["loss"].values == [9.0]
    assert found.notes[:2] == [
        "TensorBoard stores scalars in 32 bits: values are exact to seven digits; every event is read",
        "1 event files end in a damaged record; what stands before it is read",
    ]
    assert tensorboard._begun(tmp_path / "c.tfevents") == 0.0
    assert tensorboard._begun(tmp_path / "a.tfevents") == 20.0
    (tmp_path / "e.tfevents").write_bytes(tf(b"\x0b"))
    assert tensorboard._begun(tmp_path / "e.tfevents") == 0.0


def hparams(session: bytes = b"", end: bytes | None = None) -> bytes:
    content = message((3, session)) if session else b""
    content += b"" if end is None else message((4, end))
    return message((1, "_hparams_"), (9, message((1, message((1, "hparams"), (2, content))))))


def entry(key: str, value: bytes | None) -> tuple[int, bytes]:
    return 1, message((1, key), *(() if value is None else ((2, value),)))


def test_hyperparameters_of_event_files(tmp_path: Path) -> None:
    values = {
        "lr": field(2, 0.1), "n": field(2, 8.0), "big": field(2, 2.0**53), "word": field(3, "w"), "on": field(4, 1),
        "off": field(4, 0), "none": b"", "endless": field(2, math.inf),
    }  # fmt: skip
    session = message(*(entry(key, value) for key, value in values.items()), entry("absent", None), (5, 7.5))
    for status, state in ((1, "finished"), (2, "failed"), (3, "running"), (9, "")):
        events(tmp_path, event(0, 1.0, hparams(session, message((1, status)))), event(1, 2.0, scalar("loss", 1.0)))
        (run,) = tensorboard.read_tensorboard(tmp_path).runs
        assert run.state == state
    assert run.config == {
        "lr": 0.1, "n": 8, "big": 2.0**53, "word": "w", "on": True, "off": False, "none": None, "endless": math.inf,
        "absent": None,
    }  # fmt: skip
    assert [type(run.config[key]) for key in ("n", "big")] == [int, float]
    assert run.started_at == 7.5
    events(tmp_path, event(0, 1.0, hparams()), event(1, 2.0, scalar("loss", 1.0)))
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert (run.config, run.started_at, run.state) == ({}, None, "")


def test_hyperparameters_of_one_run_below_go_to_it(tmp_path: Path) -> None:
    session = message(entry("lr", field(2, 0.1)))
    events(tmp_path / "run", event(1, 1.0, scalar("loss", 2.0)), event(2, 2.0, scalar("loss", 1.0)))
    events(
        tmp_path / "run" / "1", event(0, 3.0, hparams(session)), event(0, 3.0, scalar("loss", 7.0), scalar("m", 8.0))
    )
    (run,) = tensorboard.read_tensorboard(tmp_path).runs
    assert (run.id, run.config) == ("run", {"lr": 0.1})
    assert {name: one.values for name, one in run.series.items()} == {"loss": [2.0, 1.0], "m": [8.0]}
    events(tmp_path / "run" / "2", event(0, 3.0, hparams(session)), event(0, 3.0, scalar("m", 8.0)))
    assert len(tensorboard.read_tensorboard(tmp_path).runs) == 3  # two of them describe themselves
    events(tmp_path / "run" / "2", event(0, 3.0, scalar("m", 8.0)))
    assert {one.id for one in tensorboard.read_tensorboard(tmp_path).runs} == {"run", "run/2"}
    events(tmp_path / "run" / "1", event(0, 3.0, hparams(session)), event(0, 3.0, scalar("m", 8.0)),
           event(1, 3.0, scalar("m", 9.0)))  # fmt: skip
    assert len(tensorboard.read_tensorboard(tmp_path).runs) == 3  # a curve of its own


def test_event_files_without_a_scalar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"holds no event file of TensorBoard \(\*tfevents\*\)$"):
        tensorboard.read_tensorboard(tmp_path)
    events(tmp_path / "a", event(0, 1.0, hparams(message(entry("lr", field(2, 0.1))))))
    with pytest.raises(InputError, match=r"holds event files of TensorBoard without a scalar$"):
        tensorboard.read_tensorboard(tmp_path)
    events(tmp_path / "b", event(1, 1.0, scalar("a", 1.0), scalar("b", 1.0)))
    events(tmp_path / "c", event(1, 1.0))
    assert [one.id for one in tensorboard.read_tensorboard(tmp_path).runs] == ["a", "b"]
    monkeypatch.setattr(tensorboard, "MOST_POINTS", 2)
    assert tensorboard.read_tensorboard(tmp_path / "b").runs[0].id == "b"
    monkeypatch.setattr(tensorboard, "MOST_POINTS", 1)
    with pytest.raises(InputError, match="more than 1 points, the most that are read"):
        tensorboard.read_tensorboard(tmp_path)


def test_one_file_is_a_run_named_by_its_folder(tmp_path: Path) -> None:
    folder = events(tmp_path / "named", event(1, 1.0, scalar("a", 1.0)))
    found = tensorboard.read_tensorboard(folder / "events.out.tfevents.1")
    assert (found.runs[0].id, isinstance(found.runs[0], ImportedRun)) == ("named", True)
