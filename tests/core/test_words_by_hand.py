"""Units, refusals, files, names and runs in full: whole sentences, both sides of each boundary, defaults."""

from __future__ import annotations

import base64
import gzip
import importlib
import importlib.metadata
import io
import json
import math
import os
import re
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from metascale.core import bounded, columns, files, nested, notebook, optional, trees, units, version
from metascale.core.bounded import check_zip, gunzip, inflate
from metascale.core.canonical import canonical_json, content_id, plain
from metascale.core.cells import plain_text, safe_text
from metascale.core.dropout import DropoutMasks, drop, mask_like
from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError, MissingDependency
from metascale.core.files import (
    append_lines,
    content_of,
    heal_lines,
    read_json,
    read_json_lines,
    replace_text,
    sync_folder,
    write_atomic,
    write_json,
)
from metascale.core.lazy import _imports_for_type_checkers, lazy
from metascale.core.run import Checkpoint, MemoryRun, SharedRun
from metascale.core.streams import address, generator, torch_generator
from metascale.core.suggest import suggest
from metascale.core.types import SPLITS, Batch, Episode, Split, TaskExecution, require_same_shape
from metascale.core.units import finite, format_bytes, format_count, format_seconds, parse_bytes


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# --------------------------------------------------------------------------------------------------------------- units


def test_units_of_memory() -> None:
    assert units.UNITS == {
        "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
        "TiB": 2**40,
    }  # fmt: skip
    for unit, size in units.UNITS.items():
        assert parse_bytes(f"3{unit}") == parse_bytes(f" 3 {unit.upper()} ") == 3 * size
    assert parse_bytes("2.25 KiB") == 2304
    assert parse_bytes("1.9 B") == 1
    assert parse_bytes(1) == 1
    for text in ("1.", ".5KB", "1,5 KB", "0x10", "", " ", "1 2 KB", "1KBs", "KB", "1.5"):
        message = (
            "budget must be a number of bytes with a unit of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, such as 8GiB, not "
            f"{text!r}"
        )
        with pytest.raises(InputError, match=exactly(message)):
            parse_bytes(text, "budget")
    for text in (0, -3, "0", "0.9 B", "0KB"):
        with pytest.raises(InputError, match=exactly(f"budget must be at least one byte, not {text!r}")):
            parse_bytes(text, "budget")


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0.4, "0 B"), (1023.0, "1023 B"), (2**10, "1.00 KiB"), (2**20 - 1, "1024.00 KiB"), (2**20, "1.00 MiB"),
        (2**30 - 1, "1024.00 MiB"), (2**30, "1.00 GiB"), (2**40 - 1, "1024.00 GiB"), (2**40, "1.00 TiB"),
    ],
)  # fmt: skip
def test_bytes_in_words(n_bytes: float, words: str) -> None:
    assert format_bytes(n_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (9.949, "9.9 s"), (9.95, "10 s"), (10.4, "10 s"), (59.49, "59 s"), (59.6, "1 min 00 s"),
        (60, "1 min 00 s"), (61, "1 min 01 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 00 min"), (3600, "1 h 00 min"),
        (3659, "1 h 00 min"), (3660, "1 h 01 min"), (86400 * 2, "48 h 00 min"), (None, "?"),
    ],
)  # fmt: skip
def test_seconds_in_words(seconds: float | None, words: str) -> None:
    assert format_seconds(seconds) == words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0, "B", "0 B"), (999.4, "", "999"), (999.5, "", "1 k"), (-999.5, "", "-1 k"), (1000, "", "1 k"),
        (999_400, "", "999 k"), (999_500, "", "1 M"), (9.995e8, "FLOP", "1 GFLOP"), (1e12, "", "1 T"),
        (1e15, "", "1 P"), (9.995e17, "FLOP", "1 EFLOP"), (1e21, "x", "1e+03 Ex"), (0.0123, "", "0.0123"),
    ],
)  # fmt: skip
def test_counts_in_words(value: float, unit: str, words: str) -> None:
    assert format_count(value, unit) == words


def test_finite_numbers() -> None:
    for value, expected in ((np.float32(0.5), 0.5), ("-3", -3.0), (0, 0.0), (b"2", 2.0)):
        assert finite(value) == expected
    for value in (None, True, False, "", "inf", math.nan, -math.inf, {}, "1,5", 10**400):
        assert finite(value) is None


# --------------------------------------------------------------------------------------------------------------- names


def test_near_names() -> None:
    names = ["inner_lr", "outer_lr", "Seed"]
    assert suggest("INNER-LR", names) == "did you mean 'inner_lr'?"
    assert suggest("seed", names) == "did you mean 'Seed'?"
    assert suggest(5, names) == "allowed: inner_lr, outer_lr, Seed"
    assert suggest("x", iter(names), "fields") == "fields: inner_lr, outer_lr, Seed"
    assert suggest("x", (), "fields") == "fields: none"
    assert suggest("a_b", ["a-b", "a_b"]) == "did you mean 'a-b'?", "of names that are alike the first"
    # Half of the letters alike: 2 · 2 / 8 is 0.5.
    assert suggest("abxy", ["abcd"]) == "did you mean 'abcd'?"
    assert suggest("axyz", ["abcd"]) == "allowed: abcd"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_cells_of_every_dangerous_start(start: str) -> None:
    for text, cell in ((f"{start}1", f"'{start}1"), (f"'{start}1", f"''{start}1"), (start, f"'{start}")):
        assert safe_text(text) == cell
        assert plain_text(cell) == text
    assert safe_text(f"1{start}") == plain_text(f"1{start}") == f"1{start}"


def test_cells_that_stay() -> None:
    for text in ("", "'", "''", "'a", "a'=", " =1"):
        assert safe_text(text) == text
        assert plain_text(text) == text
    assert plain_text("=1") == "=1"  # not of ours: no mark to take away


def test_the_version_is_the_package_s() -> None:
    assert version.__version__ == importlib.metadata.version("metascale")
    assert columns.IGNORED == -100 == torch.nn.CrossEntropyLoss().ignore_index


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_picture_of_a_part_of_a_figure_is_the_whole_figure() -> None:
    figure = Figure(figsize=(2, 1))
    part = figure.subfigures(1, 2)[0]
    shown = notebook.image(part.subplots(), "a <b>")
    assert shown.startswith('<img alt="a &lt;b&gt;" style="max-width:100%" src="data:image/png;base64,')
    png = base64.b64decode(shown.partition("base64,")[2].partition('"')[0])
    assert struct.unpack(">II", png[16:24]) == (144, 72)


def test_names_that_annotations_allow() -> None:
    assert get_args(Split) == SPLITS == ("train", "validation", "test")
    assert get_args(TaskExecution) == ("stacked", "threads", "processes")


def test_errors_are_of_their_kinds() -> None:
    bare = InputError("no")
    assert (str(bare), bare.field, bare.value, bare.allowed) == ("no", None, None, None)
    full = InputError("no", field="f", value=0, allowed="1")
    assert (full.field, full.value, full.allowed) == ("f", 0, "1")
    diverged = Diverged("nan", step=3, task_ids=("a",), last_finite=1.5)
    assert (diverged.step, diverged.task_ids, diverged.last_finite) == (3, ("a",), 1.5)
    for kind, bases in (
        (InputError, (MetascaleError, ValueError)), (MissingDependency, (MetascaleError, ImportError)),
        (CorruptFile, (MetascaleError,)), (Diverged, (MetascaleError, ArithmeticError)),
    ):  # fmt: skip
        assert kind.__bases__ == bases


def test_absent_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "the map needs the package 'no_such_thing'; install it with: pip install 'metascale[maps]'"
    for call in (optional.require, optional.require_installed):
        with pytest.raises(MissingDependency, match=exactly(said)):
            call("no_such_thing", "maps", "the map")
    assert str(optional.missing("no_such_thing", "maps", "the map")) == said
    assert optional.require("json", "x", "y") is json
    optional.require_installed("json", "x", "y")

    def nameless(name: str) -> ModuleType:
        raise ModuleNotFoundError("without a name")

    monkeypatch.setattr(optional.importlib, "import_module", nameless)
    with pytest.raises(ModuleNotFoundError, match="without a name"):
        optional.require("json", "x", "y")


# -------------------------------------------------------------------------------------------------------------- files


def test_a_folder_s_names_are_made_durable_but_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append(folder.relative_to(tmp_path).as_posix()))
    write_atomic(tmp_path / "a" / "b" / "c.txt", "x")
    assert synced == [".", "a", "a/b"]
    synced.clear()
    write_atomic(tmp_path / "a" / "b" / "c.txt", "y")
    append_lines(tmp_path / "a" / "d" / "e.jsonl", ["1"])
    append_lines(tmp_path / "a" / "d" / "e.jsonl", ["2"])
    assert synced == ["a/b", "a", "a/d"]
    monkeypatch.undo()
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append("fsync"))
    synced.clear()
    sync_folder(tmp_path)
    assert synced == ["fsync"]
    monkeypatch.setattr(files.os, "name", "nt")
    sync_folder(tmp_path)
    assert synced == ["fsync"]


def test_temporary_names_are_hidden_and_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        seen.append(Path(source).name)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", noted)
    monkeypatch.setattr(files.os, "getpid", lambda: 77)
    write_atomic(tmp_path / "a.json", "ü")
    replace_text(tmp_path / "a.json", "ö")
    assert seen == [".a.json.77.tmp"] * 2
    assert (tmp_path / "a.json").read_bytes() == "ö".encode()


def test_what_does_not_matter_after_a_crash_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: pytest.fail("not durable"))
    replace_text(tmp_path / "status.txt", "one")
    replace_text(tmp_path / "status.txt", "two")
    assert (tmp_path / "status.txt").read_text() == "two"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_on_disk_and_lines(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "ü", "a": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": [\n    1,\n    null\n  ],\n  "b": "ü"\n}\n'
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CorruptFile) as caught:
        read_json(tmp_path / "bad.json")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.json'} is not valid JSON: Expecting property name")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(CorruptFile, match=r"deep\.json is not valid JSON: "):
        read_json(tmp_path / "deep.json")
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'1\n{"a": \xff}\n3\n')
    with pytest.raises(CorruptFile, match=rf"^{re.escape(str(lines))}, line 2, is not valid JSON: "):
        read_json_lines(lines)
    lines.write_bytes(b"1\n2\n" + b"[" * 100_000 + b"\n")
    with pytest.raises(CorruptFile, match="line 3, is not valid JSON"):
        read_json_lines(lines)
    lines.write_bytes(b"1\n2")
    assert read_json_lines(lines) == [1]
    heal_lines(lines)
    assert lines.read_bytes() == b"1\n"
    lines.write_bytes(b"")
    assert read_json_lines(lines) == []


def test_the_named_write_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(files.os, "kill", lambda pid, sign: killed.append((pid, sign)))
    monkeypatch.setattr(files, "_operations", iter(range(1, 10)))
    write_atomic(tmp_path / "a", "x")  # without the variable none is counted
    monkeypatch.setenv("METASCALE_ABORT_AT_WRITE", "2")
    write_atomic(tmp_path / "a", "x")
    assert killed == []
    append_lines(tmp_path / "b", ["x"])
    assert killed == [(os.getpid(), signal.SIGKILL)]
    write_atomic(tmp_path / "a", "x")
    assert len(killed) == 1


def test_content_is_read_again_when_size_or_times_change(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = content_of(path)
    assert set(first) == {"name", "n_bytes", "sha256"}
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert content_of(path)["sha256"] != first["sha256"]
    assert (files.WHOLE_BYTES, files._SAMPLES, files._SAMPLE_BYTES) == (256 * 2**20, 64, 2**20)


# ------------------------------------------------------------------------------------------------------- decompression


def zipped(*contents: bytes) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(str(number), content)
    return zipfile.ZipFile(buffer)


def test_what_expands_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound of 1 KiB, at it and one byte above."""
    said = exactly("the f expands to more than 1.00 KiB, the most that is read of it")
    at, above = bytes(1024), bytes(1025)
    assert gunzip(gzip.compress(at), "the f", 1024) == inflate(zlib.compress(at), "the f", 1024) == at
    check_zip(zipped(at[:1000], at[:24]), "the f", 1024)
    for call in (
        lambda: gunzip(gzip.compress(above), "the f", 1024), lambda: inflate(zlib.compress(above), "the f", 1024),
        lambda: check_zip(zipped(at[:1000], at[:25]), "the f", 1024),
    ):  # fmt: skip
        with pytest.raises(CorruptFile, match=said):
            call()
    for broken in (b"no", gzip.compress(at)[:-3], gzip.compress(at)[:-8] + bytes(8)):
        with pytest.raises(CorruptFile, match=r"^the f cannot be decompressed \(.+\)$"):
            gunzip(broken, "the f")
    with pytest.raises(CorruptFile, match=r"^the f cannot be decompressed \(Error -3.*\)$"):
        inflate(b"no stream", "the f", 9)
    with pytest.raises(CorruptFile, match=exactly("the f cannot be decompressed (it is not whole)")):
        inflate(zlib.compress(at)[:-1], "the f", 1024)
    monkeypatch.setattr(bounded, "MOST_ENTRIES", 2)
    check_zip(zipped(b"", b""), "the f")
    with pytest.raises(CorruptFile, match=exactly("the f holds 3 entries; at most 2 are read")):
        check_zip(zipped(b"", b"", b""), "the f")
    monkeypatch.setattr(bounded, "MOST_ENTRIES", 0)
    archive: Any = SimpleNamespace(infolist=lambda: [SimpleNamespace(file_size=0)] * 1234)
    with pytest.raises(CorruptFile, match=exactly("the f holds 1,234 entries; at most 0 are read")):
        check_zip(archive, "the f")
    assert bounded.MOST_BYTES == 256 * 2**20


def test_bounds_where_none_is_given() -> None:
    monkey: Any = SimpleNamespace(infolist=lambda: [SimpleNamespace(file_size=256 * 2**20)])
    check_zip(monkey, "the f")
    more: Any = SimpleNamespace(infolist=lambda: [SimpleNamespace(file_size=256 * 2**20 + 1)])
    with pytest.raises(CorruptFile, match=r"expands to more than 256\.00 MiB"):
        check_zip(more, "the f")
    assert gunzip.__defaults__ == (256 * 2**20,)


# ----------------------------------------------------------------------------------------------------------- canonical


class Odd:
    """A class of its own."""


def test_what_a_configuration_cannot_hold() -> None:
    for value, words in (
        ({"a": Odd()}, "'a': a configuration or record cannot hold a Odd; only JSON types are allowed"),
        (Odd(), "a configuration or record cannot hold a Odd; only JSON types are allowed"),
        (math.inf, "a configuration or record cannot hold the number inf; only finite numbers are allowed"),
        ({"a": {"b": math.nan}},
         "'b': a configuration or record cannot hold the number nan; only finite numbers are allowed"),
        ({1: 0, "1": 0}, "a configuration or record has two keys with the same text; keys must differ as texts"),
        (np.zeros(2), "a configuration or record cannot hold a ndarray; only JSON types are allowed"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=exactly(words)) as caught:
            plain(value)
        assert caught.value.field == ("b" if "'b'" in words else "a" if "'a'" in words else None)
    with pytest.raises(InputError) as caught:
        plain(math.inf)
    assert caught.value.value == math.inf


def test_canonical_texts() -> None:
    assert canonical_json({"b": (1, 2.0), "a": "ü", "c": {"y": None, "x": True}}) == (
        '{"a":"ü","b":[1,2.0],"c":{"x":true,"y":null}}'
    )
    assert plain({2, 10}) == [2, 10]
    assert len(content_id({})) == 12
    assert content_id({"a": 1}, 3) == content_id({"a": 1})[:3]

    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    assert plain([Text("x"), Number(3), np.bool_(False), np.float64(2.5)]) == ["x", 3, False, 2.5]


# -------------------------------------------------------------------------------------------------------------- nested


def test_names_of_nested_inputs() -> None:
    a, b = torch.zeros(2, 1), torch.ones(2, 1)
    deep = {"x": [a, {"m": b}], "y": a}
    flat = nested.flatten(deep)
    assert list(flat) == ["x.0", "x.1.m", "y"]
    assert flat["x.1.m"] is b
    back = nested.unflatten(flat)
    assert back["y"] is a
    assert back["x"][0] is a  # type: ignore[index]
    assert back["x"][1]["m"] is b  # type: ignore[index, call-overload]
    many = nested.flatten([torch.tensor([k]) for k in range(11)])
    assert [int(each) for each in nested.unflatten({"all." + name: value for name, value in many.items()})["all"]] == (
        list(range(11))
    )  # type: ignore[union-attr]
    for value, words in (
        ([], "inputs must hold at least one tensor"), ({"a": {}}, "inputs must hold at least one tensor"),
        (3, "inputs must be tensors in mappings, tuples or lists, not int"),
        ({"a": [1.5]}, "inputs must be tensors in mappings, tuples or lists, not float at 'a.0'"),
        ({"a.b": a}, "an input may not be called 'a.b': no dots, and not a number"),
        ({7: a}, "an input may not be called '7': no dots, and not a number"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=exactly(words)) as caught:
            nested.flatten(value)  # type: ignore[arg-type]
        assert caught.value.field == "inputs"


def test_tasks_that_do_not_go_together() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2)
    like = "all tasks must have inputs and targets of the same names and shapes; "
    for tasks, words in (
        ([], "a batch needs at least one task"),
        ([(x, y), (torch.zeros(2, 4), y)], like + "task 1 has 'x' [2, 4], task 0 has 'x' [2, 3], 'targets' [2]"),
        ([(x, y), (x, torch.zeros(2, 1))], like + "task 1 has 'targets' [2, 1], task 0 has 'x' [2, 3], 'targets' [2]"),
        ([(x, y), (x, y), ({"z": x}, y)], like + "task 2 has 'z' [2, 3], task 0 has 'x' [2, 3], 'targets' [2]"),
        ([({"a": x, "b": x}, y), ({"a": x}, y)],
         like + "task 1 has 'a' [2, 3], task 0 has 'a' [2, 3], 'b' [2, 3], 'targets' [2]"),
        ([(torch.zeros(3, 1), y)], "task 0 has 2 targets but 3 examples in 'x'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=exactly(words)) as caught:
            nested.batch(tasks)  # type: ignore[arg-type]
        assert caught.value.field == "tasks"
    found = nested.episode([((x, y), (x + 1, y + 1)), ((x + 2, y + 2), (x + 3, y + 3))])
    assert found.task_ids == ("0", "1")
    assert found.support.inputs["x"][:, 0, 0].tolist() == [0, 2]
    assert found.query.inputs["x"][:, 0, 0].tolist() == [1, 3]
    assert found.query.targets[:, 0].tolist() == [1, 3]
    assert nested.episode([((x, y), (x, y))], ["n"]).task_ids == ("n",)


# --------------------------------------------------------------------------------------------------------------- types


def test_numbers_of_examples_and_joins() -> None:
    plain_batch = Batch({"x": torch.zeros(2, 3)}, torch.zeros(2, 3))
    assert plain_batch.numbers is None
    numbered = plain_batch.numbered()
    assert numbered.numbers is not None
    assert numbered.numbers.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert numbered.numbered() is numbered
    assert numbered.tasks(1, 2).numbers.tolist() == [[3, 4, 5]]  # type: ignore[union-attr]
    assert numbered.concat(plain_batch).numbers is None
    assert plain_batch.concat(numbered).numbers is None
    assert numbered.concat(numbered).numbers.tolist() == [[0, 1, 2, 0, 1, 2], [3, 4, 5, 3, 4, 5]]  # type: ignore[union-attr]
    images = Batch({"x": torch.zeros(1, 1, 2, 3)}, torch.zeros(1, 1))
    with pytest.raises(RuntimeError):
        images.concat(Batch({"x": torch.zeros(1, 1, 2, 4)}, torch.zeros(1, 1)))  # only sequences are padded
    episode = Episode(("a", "b"), plain_batch, plain_batch)
    both = episode.numbered()
    assert both.query.numbers.tolist() == [[6, 7, 8], [9, 10, 11]]  # type: ignore[union-attr]
    kept = Episode(("a", "b"), plain_batch, numbered).numbered()
    assert kept.query.numbers.tolist() == [[0, 1, 2], [3, 4, 5]]  # type: ignore[union-attr]
    message = "targets must be shaped like the predictions, [2, 3], not [2]"
    with pytest.raises(InputError, match=exactly(message)):
        require_same_shape(torch.zeros(2, 3), torch.zeros(2))
    require_same_shape(torch.zeros(2, 3), torch.ones(2, 3))


def test_moves_are_of_devices_and_of_real_numbers() -> None:
    batch = Batch({"x": torch.zeros(1, 2), "i": torch.zeros(1, 2).long()}, torch.zeros(1, 2), torch.zeros(1, 2).long())
    far = batch.to("meta", torch.float64)
    assert {value.device.type for value in (*far.inputs.values(), far.targets, far.numbers)} == {"meta"}  # type: ignore[union-attr]
    assert (far.inputs["x"].dtype, far.inputs["i"].dtype) == (torch.float64, torch.int64)
    episode = Episode(("a",), batch, batch).to("meta")
    assert (episode.support.targets.device.type, episode.query.targets.device.type) == ("meta", "meta")
    assert trees.to({"w": torch.zeros(1)}, "meta")["w"].device.type == "meta"


# ---------------------------------------------------------------------------------------------------- streams and masks


def test_addresses() -> None:
    """The first 16 bytes of BLAKE2b over the parts, each behind the unit separator."""
    import hashlib

    text = "3\x1finit\x1fint:7\x1fstr:a"
    expected = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
    assert address(3, "init", 7, "a") == address(np.int32(3), "init", np.int64(7), "a") == expected
    for bad in ((1.0, "x"), (1, "x", 2.5)):
        with pytest.raises(TypeError):
            address(*bad)  # type: ignore[arg-type]
    drawn = torch.rand(3, generator=torch_generator(3, "init", 7))
    seed = address(3, "init", 7) % 2**63
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    bits = np.random.Generator(np.random.Philox(key=address(3, "init", 7)))
    assert generator(3, "init", 7).random() == bits.random()


def test_a_mask_of_a_whole_tensor() -> None:
    ones = torch.ones(50)
    keep = torch.empty(50).bernoulli_(0.75, generator=torch_generator(5, "dropout", "layer"))
    assert torch.equal(mask_like(ones, 0.25, 5, "layer"), keep / 0.75)
    assert torch.equal(drop(3 * ones, 0.25, 5, "layer"), 3 * keep / 0.75)
    assert not mask_like(ones.clone().requires_grad_(), 0.25, 5, "layer").requires_grad
    assert drop(ones, 0.25, 0, "layer") is not ones
    batch = Batch({"x": torch.zeros(2, 3)}, torch.zeros(2, 3))
    assert DropoutMasks.of(batch, 0.5, 9).numbers.tolist() == [0, 1, 2, 3, 4, 5]
    own = DropoutMasks.of(batch.numbered().tasks(1, 2), 0.5, 9)
    assert (own.numbers.tolist(), own.rate, own.key) == ([3, 4, 5], 0.5, 9)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_what_is_kept_in_memory() -> None:
    run = MemoryRun()
    assert run.folder == Path("memory")
    assert run.stop_asked() is False
    row = {"step": 1}
    run.measure(row)
    row["step"] = 2
    assert run.measurements == [{"step": 1}]
    assert Checkpoint(3, {}).scheduled is True
    run.append("a", {"step": 3})
    run.append("a", {"step": 4})
    run.save(Checkpoint(3, {}))
    assert run.latest() == Checkpoint(3, {})
    assert run.rows("a") == [{"step": 3}]


def test_a_shared_run_in_every_process() -> None:
    told: list[Any] = []
    inner: Any = SimpleNamespace(
        folder=Path("f"), append=lambda *given: told.append(("append", *given)), rows=lambda record: [record],
        measure=lambda row: told.append(("measure", row)), write=lambda *given: told.append(("write", *given)),
        save=lambda checkpoint: told.append(("save", checkpoint)), latest=lambda: "latest",
        stop_asked=lambda: True, progress=lambda *given: told.append(("progress", *given)),
    )  # fmt: skip
    shared: list[Any] = []
    first = SharedRun(inner, share=lambda value: shared.append(value) or value, folder=Path("other"))
    assert first.folder == Path("f")
    first.append("r", {"step": 1})
    first.measure({"a": 1})
    first.write("n", 2)
    first.save("c")  # type: ignore[arg-type]
    first.progress(1, 2, "note")
    assert first.rows("r") == ["r"]
    assert first.latest() == "latest"
    assert first.stop_asked() is True
    assert told == [
        ("append", "r", {"step": 1}), ("measure", {"a": 1}), ("write", "n", 2), ("save", "c"),
        ("progress", 1, 2, "note"),
    ]  # fmt: skip
    assert shared == [None, "latest", True]
    first.progress(3, 4)
    assert told[-1] == ("progress", 3, 4, "")
    stored = [{"step": 0}]
    other = SharedRun(None, rows=lambda record: stored)
    assert other.rows("r") == stored
    assert other.rows("r") is not stored
    row = {"step": 1}
    other.append("r", row)
    row["step"] = 9
    assert other.rows("r")[-1] == {"step": 1}
    assert (other.latest(), other.stop_asked()) == (None, False)
    other.measure({})
    other.write("n", 1)
    other.save(Checkpoint(1, {}))
    other.progress(1, 2)


# ---------------------------------------------------------------------------------------------------------- lazy names


def package(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> ModuleType:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(text)
    (folder / "deep.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found: ModuleType = importlib.import_module(name)
    return found


def test_names_that_a_package_offers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what stands under TYPE_CHECKING; an import that is no ``from`` is passed over, as is another condition."""
    text = (
        "from typing import TYPE_CHECKING\nfrom metascale.core.lazy import lazy\nOTHER = False\n"
        "if TYPE_CHECKING:\n    import json\n    from a_lazy_one.deep import VALUE\n    from a_lazy_one import deep\n"
        "if OTHER:\n    from a_lazy_one.deep import ELSE\n"
        "__getattr__, __dir__ = lazy(__name__)\n"
    )
    try:
        found = package(text, monkeypatch, tmp_path, "a_lazy_one")
        assert _imports_for_type_checkers("a_lazy_one") == {"VALUE": "a_lazy_one.deep", "deep": "a_lazy_one"}
        assert dir(found) == sorted({*vars(found), "VALUE", "deep"})
        assert "VALUE" not in vars(found)
        assert found.VALUE == 5
        assert vars(found)["VALUE"] == 5
        assert found.deep is sys.modules["a_lazy_one.deep"]
        with pytest.raises(AttributeError, match=exactly("module 'a_lazy_one' has no attribute 'ELSE'")):
            _ = found.ELSE
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "a_lazy_one"]:
            del sys.modules[name]


def test_a_module_that_is_absent_for_another_reason_is_not_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    get, _ = lazy("metascale")
    getter: Callable[[str], object] = get
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        getter("absent")  # the names are read

    def absent(name: str) -> Callable[[str], ModuleType]:
        def fail(_: str) -> ModuleType:
            raise ModuleNotFoundError("no", name=name)

        return fail

    monkeypatch.setattr(importlib, "import_module", absent("numpy"))
    with pytest.raises(ModuleNotFoundError) as caught:
        getter("MAML")
    assert not isinstance(caught.value, MissingDependency)
    monkeypatch.setattr(importlib, "import_module", absent("torch"))
    said = "metascale.MAML needs the package 'torch'; install it with: pip install 'metascale[torch]'"
    with pytest.raises(MissingDependency, match=exactly(said)):
        getter("MAML")
