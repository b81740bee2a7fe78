"""Cells, columns, opened files and what every source becomes, by hand."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import opening, reading, sources
from metascale.laws.numbers import (
    TEXT,
    as_column,
    cell_text,
    has_decimal_comma,
    parse_number,
    parse_numbers,
    units_of_information,
)
from metascale.laws.opening import encoding_of, opened, require_distinct
from metascale.laws.reading import read

WORDS = (
    " |nan|-nan|NA|n/a|#N/A|NULL|None|missing|?|diverged|OOM|crashed|failed|Error|timeout|inf|-inf|+inf|Infinity|"
    "-infinity"
)
NUMBERS = {
    "125M": 125e6, "125 m": 125e6, "2.5B tokens": 2.5e9, "3k": 3e3, "4G": 4e9, "1.5T": 1.5e12, "2 thousand": 2e3,
    "2 Million": 2e6, "2mn": 2e6, "1.5 billion": 1.5e9, "1.5bn": 1.5e9, "3 trillion": 3e12, "3tn": 3e12, "45 %": 0.45,
    "1,000,000": 1e6, "1_000": 1e3, "1 000 000": 1e6, "1\u00a0000": 1e3, "1\u202f000": 1e3, "10^21": 1e21,
    "10**3": 1e3, "10^{-2}": 0.01, "2·10^21": 2e21, "2 x 10^3": 2e3, "2×10^3": 2e3, "2*10**{3}": 2e3,
    "6e20 FLOPs": 6e20, "1 flop": 1.0, "1 kFLOP": 1e3, "1 mflops": 1e6, "1 GFLOPs": 1e9, "1 tflops": 1e12,
    "1 pflops": 1e15, "1 EFLOPs": 1e18, "2 zflops": 2e21, "3 yflops": 3e24, "2 PF-days": 1.728e20,
    "1 pflop/s-day": 8.64e19, "1 petaflop/s-day": 8.64e19, "1 PF day": 8.64e19, "3 nats": 3.0, "2 bits": 2.0,
    "7 params": 7.0, "7 parameter": 7.0, "5 tasks": 5.0, "1 step": 1.0, "4 runs": 4.0, "8 shots": 8.0, "1.2 bpb": 1.2,
    "9 examples": 9.0, "9 samples": 9.0, "2.5E6k": 2.5e9, "-3.5": -3.5, "+2k": 2e3, ".5k": 500.0, "1,234.5": 1234.5,
}  # fmt: skip
COMMA = {"3,21": 3.21, "1.000,5": 1000.5, "1.000": 1000.0, "1.000.000": 1e6, "0.001": 0.001, "1.5e6": 1.5e6,
         "1,5e3": 1500.0, "2,5M": 2.5e6, "12": 12.0, "45,5 %": 0.455, "-1,5": -1.5}  # fmt: skip


@pytest.mark.parametrize("word", WORDS.split("|"))
def test_words_for_no_number(word):
    assert math.isnan(parse_number(word))
    assert math.isnan(parse_number(word, decimal_comma=True))


@pytest.mark.parametrize(("text", "value"), NUMBERS.items())
def test_a_number_as_people_write_it(text, value):
    assert parse_number(f" {text} ") == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("text", ["abc", "k", "-", "+k", "%", "1,00", "12 apples", "1 2", "10^", "1,0000", "3 kmb"])
def test_what_is_no_number(text):
    assert parse_number(text) is None


def test_numbers_with_a_decimal_comma():
    assert {text: parse_number(text, decimal_comma=True) for text in COMMA} == pytest.approx(COMMA)
    assert [parse_number(text, decimal_comma=True) for text in ("abc", "x.y", "1.2.3", "1,2,3")] == [None] * 4


def text(*cells):
    return np.array(cells, dtype=TEXT)


@pytest.mark.parametrize(
    ("cells", "comma", "values", "wrong"),
    [
        (text("1", "2.5"), False, [1, 2.5], None),
        (text("1", ""), False, [1, np.nan], None),
        (text("1k", "", "oom", "1k"), False, [1000, np.nan, np.nan, 1000], None),
        (text("1,5", "2"), True, [1.5, 2], None),
        (text("1k", "x", "3"), False, [1000], 1),
    ],
)
def test_a_column_of_text_as_numbers(cells, comma, values, wrong):
    found, row = parse_numbers(cells, comma)
    assert (found[: len(values)].tolist(), row) == (pytest.approx(values, nan_ok=True), wrong)


def test_units_of_information():
    assert units_of_information(text("3.1 bits", "2 Bit")) == ("bits",)
    assert units_of_information(text("1 nats", "2 bit")) == ("bits", "nats")
    assert units_of_information(text("3", "bits", "4 tokens")) == ()


@pytest.mark.parametrize(
    ("values", "kind", "cells"),
    [
        ([1, 2], "i", [1, 2]),
        ([1, 2.5], "f", [1.0, 2.5]),
        ([1, None], "f", [1.0, None]),
        ([Fraction(1, 2), Decimal("0.25")], "f", [0.5, 0.25]),
        (["a", "b"], "T", ["a", "b"]),
        ([True, False], "T", ["True", "False"]),
        ([None, None], "T", ["", ""]),
        (["a", None, 1.5, float("nan"), 3], "T", ["a", "", "1.5", "", "3"]),
        ([2**63 - 1, -(2**63)], "i", [2**63 - 1, -(2**63)]),
        ([2**63], "f", [2.0**63]),
        ([-(2**63) - 1], "f", [-(2.0**63)]),
        ([], "T", []),
        (np.array([1, 2], np.int32), "i", [1, 2]),
        (np.array([1, 2], np.uint8), "u", [1, 2]),
        (np.array([0.5], np.float32), "f", [0.5]),
        (np.array([b"ab", b"c"]), "T", ["ab", "c"]),
        (np.array(["2024-01-01"], "datetime64[D]"), "T", ["2024-01-01"]),
        (np.array([True]), "T", ["True"]),
        (np.array(["x", 2], object), "T", ["x", "2"]),
    ],
)
def test_a_column_is_numbers_or_text(values, kind, cells):
    found = as_column(values)
    assert found.dtype.kind == kind
    assert [None if cell != cell else cell for cell in found.tolist()] == cells
    assert kind != "f" or found.dtype == float


def test_cells_as_text():
    assert [cell_text(cell) for cell in (None, float("nan"), 0.1, np.float64(0.5), 3, "a")] == [
        "", "", "0.1", "0.5", "3", "a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "delimiter", "found"),
    [
        ([text("3,21")], ",", True),
        ([text("0,5", "a")], ";", True),
        ([text("-1,5e3")], ";", True),
        ([text("2,5 M")], ";", True),
        ([text("1,234")], ";", True),
        ([text("1,234")], ",", False),
        ([text("1,000,000")], ";", False),
        ([text("1,234", "1,000,000")], ";", False),
        ([text("1,234", "12,345.6")], ";", False),
        ([text("1,234"), text("2.5")], ";", False),
        ([text("1,234"), text("2.5e-3", "a")], ";", False),
        ([text("1,234"), text("a.b")], ";", True),
        ([text("1,234"), np.array([1.5])], ";", False),
        ([text("1,234"), np.array([1.0, np.nan])], ";", True),
        ([text("1,234"), np.array([1])], ";", True),
        ([text("a"), np.array([1.5])], ";", False),
    ],
)
def test_whether_a_comma_is_the_decimal_mark(columns, delimiter, found):
    assert has_decimal_comma(columns, delimiter) is found


def test_the_encoding_that_a_mark_tells():
    assert [encoding_of(start) for start in (b"\xff\xfea", b"\xfe\xff", b"\xef\xbb\xbf", b"")] == [
        "utf-16", "utf-16", "utf-8-sig", "utf-8-sig",
    ]  # fmt: skip


@pytest.mark.parametrize(("suffix", "opener"), [(".GZ", gzip), (".bz2", bz2), (".xz", lzma), (".csv", None)])
def test_a_compressed_file_expands_up_to_a_bound(suffix, opener, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MOST_BYTES", 2048)
    path, longer = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for file, n in ((path, 2048), (longer, 2049)):
        file.write_bytes(opener.compress(b"x" * n) if opener else b"x" * n)
    with opened(path) as stream:
        assert stream.read() == b"x" * 2048
    with opened(longer) as stream:
        if opener is None:
            assert len(stream.read()) == 2049
            return
        with pytest.raises(InputError) as caught:
            stream.read()
    assert str(caught.value) == f"'{longer}' expands to more than 2.00 KiB, the most that is read of it"


def test_columns_of_one_name_are_refused():
    require_distinct(["a", "b"], "the table")
    with pytest.raises(InputError, match=r"^the table has two columns named 'b'; names must differ$") as caught:
        require_distinct(["a", "b", "c", "b", "c"], "the table")
    assert caught.value.value == "b"


def columns_of(found):
    return {name: [None if cell != cell else cell for cell in cells.tolist()] for name, cells in found.columns.items()}


@pytest.mark.parametrize(
    ("source", "name", "columns"),
    [
        ({"a": [1, 2], 3: ["x", None]}, "the table", {"a": [1, 2], "3": ["x", ""]}),
        (np.array([(1, 2.5)], [("a", int), ("b", float)]), "the array", {"a": [1], "b": [2.5]}),
        ([{"a": 1, "b": {"c": 2}}, {"d": 4}, {"a": 3}], "the list",
         {"a": [1, None, 3], "b.c": [2, None, None], "d": [None, 4, None]}),
        (({"a": 1},), "the list", {"a": [1]}),
    ],
)  # fmt: skip
def test_objects_in_memory(source, name, columns):
    found = read(source)
    assert (found.source, found.notes, found.decimal_comma) == (name, (), False)
    assert columns_of(found) == columns


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"a": [1, 2], "b": [1]}, "the columns of the table differ in length: 'a' 2, 'b' 1; there must be one cell a "
                                  "row"),
        ({1: [1], "1": [2]}, "the table has two columns named '1'; names must differ"),
        ([{"a": {"b": 1}, "a.b": 2}], "the list has two columns named 'a.b'; names must differ"),
        (3, "a table must be a path, a data frame, or a mapping of columns, not int"),
        ([], "a table must be a path, a data frame, or a mapping of columns, not list"),
        ([{"a": 1}, 2], "a table must be a path, a data frame, or a mapping of columns, not list"),
    ],
)  # fmt: skip
def test_objects_that_are_no_table(source, words):
    with pytest.raises(InputError) as caught:
        read(source)
    assert str(caught.value) == words


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({
        "n": [1, 2], "gap": pandas.array([1, None], "Int64"), "flag": [True, False], "f": np.float32([0.5, np.nan]),
        "kind": pandas.Categorical(["u", None]), "t": ["x", None], 7: [1.5, 2.5],
    })  # fmt: skip
    expected = {"n": [1, 2], "gap": [1.0, None], "flag": ["True", "False"], "f": [0.5, None], "kind": ["u", ""],
                "t": ["x", ""], "7": [1.5, 2.5]}  # fmt: skip
    assert columns_of(read(frame)) == expected
    assert read(frame).source == "the data frame"
    grouped = frame[["n", "t"]].set_index("n")
    assert columns_of(read(grouped)) == {"n": [1, 2], "t": ["x", ""]}
    twins = pandas.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(InputError, match=r"^the data frame has two columns named 'a'; names must differ$"):
        read(twins)
    with pytest.raises(InputError, match=r"^the data frame has two columns named '1'; names must differ$"):
        read(pandas.DataFrame({1: [1], "1": [2]}))


JSON = {
    "list": ([{"a": 1}, {"a": 2, "b": "x"}], {"a": [1, 2], "b": ["", "x"]}),
    "columns": ({"a": [1, 2], "b": ["x", "y"]}, {"a": [1, 2], "b": ["x", "y"]}),
    "split": ({"columns": ["a", 2], "index": [0, 1], "data": [[1, "x"], [3, "y"]]}, {"a": [1, 3], "2": ["x", "y"]}),
    "nested": ({"data": [{"a": 1}]}, {"a": [1]}),
    "by row names": ({"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}}, {"a": [1, 2], "b": [3, 4]}),
    "one row": ({"a": 1, "b": "x"}, {"a": [1], "b": ["x"]}),
}


@pytest.mark.parametrize(("document", "columns"), JSON.values(), ids=JSON)
@pytest.mark.parametrize("name", ["t.json", "t.JSON.gz", "t.csv"])
def test_json_documents(document, columns, name, tmp_path):
    whole = json.dumps(document).encode()
    if name == "t.csv":  # what begins as JSON is read as JSON Lines, whatever its name
        whole = b"".join(json.dumps(dict(zip(columns, row, strict=True))).encode() + b"\n\n"
                         for row in zip(*columns.values(), strict=True))  # fmt: skip
    (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    found = read(tmp_path / name)
    assert (columns_of(found), found.source) == (columns, name)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.json", "{}", "PATH holds no table; give a list of rows by the columns' names, or lists by column"),
        ("t.json", "[1, 2]", "PATH holds no table; give a list of rows by the columns' names, or lists by column"),
        ("t.json", '{"a": [1], "b": 2}', "PATH holds no table; give a list of rows by the columns' names, or lists by "
                                         "column"),
        ("t.json", '{"a": {"0": 1}, "b": {"1": 1}}', "PATH holds no table; give a list of rows by the columns' names, "
                                                     "or lists by column"),
        ("t.json", '{"a": {"0": [1]}, "b": {"0": [1]}}', "PATH holds no table; give a list of rows by the columns' "
                                                         "names, or lists by column"),
        ("t.json", '{"columns": ["a", "b"], "data": [[1, 2], [3]]}', "PATH, row 2 does not have the 2 cells of the "
                                                                     "columns"),
        ("t.json", '{"columns": ["a"], "data": [3]}', "PATH, row 1 does not have the 1 cells of the columns"),
        ("t.json", '{"columns": ["a", "a"], "data": [[1, 2]]}', "PATH has two columns named 'a'; names must differ"),
        ("t.json", '{"a": 1, "a": 2}', "the JSON table has two columns named 'a'; names must differ"),
        ("t.json", '{"a": [1, 2], "b": [1]}', "the columns of PATH differ in length: 'a' 2, 'b' 1; there must be one "
                                              "cell a row"),
        ("t.jsonl", '{"a": 1}\n\n{"a": 2', "PATH, line 3 is not JSON (Expecting ',' delimiter)"),
        ("t.jsonl", '{"a": 1}\n3\n', "PATH, line 2 is not an object; each line is one row, by the columns' names"),
        ("t.jsonl", '{"a": 1}\n[3]\n', "PATH, line 2 is not an object; each line is one row, by the columns' names"),
        ("t.jsonl", "[1]\n", 'PATH holds lists; JSON Lines have one object a line, such as {"N": 1, "loss": 2}'),
        ("t.xlsx", "a", "PATH is a spreadsheet; save it as CSV and give that"),
        ("t.xls", "a", "PATH is a spreadsheet; save it as CSV and give that"),
        ("t.ods", "a", "PATH is a spreadsheet; save it as CSV and give that"),
        ("t.numbers", "a", "PATH is a spreadsheet; save it as CSV and give that"),
    ],
)  # fmt: skip
def test_files_that_are_no_table(name, text, words, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(tuple(one.replace("PATH", f"'{path}'") for one in words.split("|")))


def test_json_lines_in_a_json_file_and_text_that_is_none(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('{"a": 1}\n \n{"a": 2.5}\n')
    assert columns_of(read(str(path))) == {"a": [1.0, 2.5]}
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"'{path}' is not a text table in UTF-8 (invalid start byte)"
    path.write_bytes('[{"a": "é"}]'.encode("utf-16"))
    assert columns_of(read(path)) == {"a": ["é"]}
    with pytest.raises(InputError) as caught:
        read(tmp_path / "none")
    assert str(caught.value) == (
        f"there is no file '{tmp_path / 'none'}'; give a CSV, JSON, JSON Lines or Parquet table with one row a run"
    )


def test_parquet_up_to_a_bound(tmp_path, monkeypatch):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.pq"
    parquet.write_table(arrow.table({"a": np.arange(2000), "b": ["x"] * 2000}), path)
    found = read(path)
    assert (found.source, len(found.columns["a"]), found.columns["b"][1999]) == ("t.pq", 2000, "x")
    (tmp_path / "t.dat").write_bytes(path.read_bytes())
    assert len(read(tmp_path / "t.dat").columns["a"]) == 2000  # by its first bytes
    monkeypatch.setattr(reading, "MOST_BYTES", 4096)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"'{path}' has 2,000 rows and becomes more than 4.00 KiB when it is read: give a table with one row a run"
    )
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"'{path}' is not a Parquet table (")


def test_json_lines_that_pyarrow_would_read_otherwise(tmp_path):
    """A date stays the text that it is; nested records become dotted names; a list stays its text."""
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": {"b": 1, "c": {"d": "x"}}, "t": "2024-01-01"}\n{"a": {"b": 2, "c": {"d": "y"}}, "t": "z"}\n')
    assert columns_of(read(path)) == {"a.b": [1, 2], "a.c.d": ["x", "y"], "t": ["2024-01-01", "z"]}
    path.write_text('{"t": "2024-01-01T00:00:00"}\n')
    assert columns_of(read(path)) == {"t": ["2024-01-01T00:00:00"]}
    path.write_text('{"t": [1, 2]}\n')
    assert columns_of(read(path)) == {"t": ["[1, 2]"]}


def tables(source):
    return {"a": [1, 2], "b": ["x", "y"]}, f"runs of {source}", ["one note"]


def test_a_reader_by_its_prefix(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "SOURCES", {})
    sources.register_source("my", f"{__name__}:tables")
    found = read("my:place")
    assert (found.source, found.notes, columns_of(found)) == (
        "runs of my:place", ("one note",), {"a": [1, 2], "b": ["x", "y"]}
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my:file").write_text("a,b\n1,2\n")  # a file of that name is a file
    assert columns_of(read("my:file")) == {"a": [1], "b": [2]}
    assert sources.reader_of("my") is None
    assert sources.reader_of("other:x") is None


@pytest.mark.parametrize(
    ("prefix", "address", "field", "words"),
    [
        ("c", "m:f", "prefix", "a prefix is a name of two letters or more, not 'c'"),
        ("a-b", "m:f", "prefix", "a prefix is a name of two letters or more, not 'a-b'"),
        ("ab", "m.f", "address", "'m.f' is no package.module:function"),
        ("ab", "m:f:g", "address", "'m:f:g' is no package.module:function"),
        ("ab", ":f", "address", "':f' is no package.module:function"),
        ("ab", "m:", "address", "'m:' is no package.module:function"),
    ],
)
def test_readers_that_are_refused(prefix, address, field, words, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {})
    with pytest.raises(InputError) as caught:
        sources.register_source(prefix, address)
    value = prefix if field == "prefix" else address
    assert (str(caught.value), caught.value.field, caught.value.value) == (words, field, value)
    assert sources.SOURCES == {}


def test_logs_are_read_by_their_own_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_OWN", f"{__name__}:tables")
    for name in ("trainer_state.json", "run.wandb", "events.out.tfevents.1"):
        assert sources.reader_of(tmp_path / name) is None  # not there
        (tmp_path / name).write_text("")
        assert sources.reader_of(tmp_path / name) is tables
    assert sources.reader_of(tmp_path) is tables
    (tmp_path / "t.json").write_text("")
    assert sources.reader_of(tmp_path / "t.json") is None


class Series:
    """What narwhals makes of a column, as far as it is asked: casts note the type that they were asked for."""

    def __init__(self, dtype, cells):
        self.dtype, self.cells = dtype, cells

    def null_count(self):
        return sum(cell is None for cell in self.cells)

    def to_numpy(self):
        return np.array([np.nan if cell is None else cell for cell in self.cells])

    def to_list(self):
        return self.cells

    def cast(self, dtype):
        return Series(dtype(), [None if cell is None else f"<{cell}>" if "String" in str(dtype) else float(cell)
                                for cell in self.cells])  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "cells", "kind", "expected"),
    [
        ("Int64", [1, 2], "i", [1, 2]),
        ("UInt8", [1, None], "f", [1.0, None]),
        ("Float32", [0.5, None], "f", [0.5, None]),
        ("Decimal", [2, 3], "f", [2.0, 3.0]),
        ("String", ["a", None, ""], "T", ["<a>", "", "<>"]),
        ("Categorical", ["a", float("nan")], "T", ["<a>", "<nan>"]),
        ("Boolean", [True, None], "T", ["True", ""]),
        ("Object", ["a", float("nan")], "T", ["a", ""]),
        ("Object", [1, float("nan")], "f", [1.0, None]),
    ],
)
def test_a_column_of_a_data_frame(dtype, cells, kind, expected):
    narwhals = pytest.importorskip("narwhals")
    found = reading._of_series(Series(getattr(narwhals, dtype)(), cells))
    assert found.dtype.kind == kind
    assert [None if cell != cell else cell for cell in found.tolist()] == expected


def test_a_data_frame_is_collected_and_its_row_names_are_a_column(monkeypatch):
    narwhals = pytest.importorskip("narwhals")
    from narwhals.exceptions import DuplicateError

    class Frame(dict):
        columns = property(lambda self: list(self))
        get_column = dict.__getitem__

    class Lazy:
        def __init__(self, frame):
            self.collect = lambda: frame

    class Named:
        def __init__(self, names):
            self.index = type("Index", (), {"names": names})()

        def reset_index(self):
            return "reset"

    asked = []
    frame = Frame(a=Series(narwhals.Int64(), [1]), b=Series(narwhals.Float64(), [2.5]))
    monkeypatch.setattr(narwhals, "LazyFrame", Lazy)
    monkeypatch.setattr(narwhals, "from_native", lambda source: asked.append(source) or frame)
    plain = Named([None])
    assert {name: cells.tolist() for name, cells in reading._of_frame(plain).items()} == {"a": [1], "b": [2.5]}
    reading._of_frame(Named([None, "x"]))
    assert asked == [plain, "reset"]
    monkeypatch.setattr(narwhals, "from_native", lambda source: Lazy(frame))
    assert list(reading._of_frame(plain)) == ["a", "b"]
    same = Frame({"1": frame["a"], 1: frame["b"]})
    monkeypatch.setattr(narwhals, "from_native", lambda source: same)
    with pytest.raises(InputError, match=r"^the data frame has two columns named '1'; names must differ$"):
        reading._of_frame(plain)

    def refuse(source):
        raise DuplicateError("Expected unique column names, got 'c' twice")

    monkeypatch.setattr(narwhals, "from_native", refuse)
    with pytest.raises(InputError, match=r"^the data frame has two columns named 'c'; names must differ$") as caught:
        reading._of_frame(plain)
    assert caught.value.value == "c"


def test_a_parquet_file_is_read_by_parts_and_counted(monkeypatch, tmp_path):
    asked = []

    class Batch:
        nbytes = 1024

    class File:
        metadata = type("Metadata", (), {"num_rows": 12345})()
        schema_arrow = "schema"

        def iter_batches(self, batch_size):
            asked.append(batch_size)
            return iter([Batch(), Batch()])

    arrow = type("Arrow", (), {"Table": type("Table", (), {
        "from_batches": staticmethod(lambda batches, schema: (len(batches), schema))
    })})  # fmt: skip
    monkeypatch.setattr(reading, "MOST_BYTES", 2048)
    assert reading._within_bounds(File(), tmp_path, arrow) == (2, "schema")
    monkeypatch.setattr(reading, "MOST_BYTES", 2047)
    with pytest.raises(InputError) as caught:
        reading._within_bounds(File(), tmp_path, arrow)
    assert str(caught.value) == (
        f"'{tmp_path}' has 12,345 rows and becomes more than 2.00 KiB when it is read: give a table with one row a run"
    )
    assert asked == [1024, 1024]
