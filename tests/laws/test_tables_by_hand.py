"""Cells, columns and tables by hand: what each reads as, what is refused and in which words, what is noted."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import delimited, sources
from metascale.laws.delimited import read_csv, typed
from metascale.laws.numbers import (
    NO_NUMBER,
    TEXT,
    as_column,
    cell_text,
    has_decimal_comma,
    parse_number,
    parse_numbers,
    units_of_information,
)
from metascale.laws.opening import encoding_of, require_distinct
from metascale.laws.reading import read
from metascale.laws.sources import reader_of, register_source
from metascale.laws.table import (
    ScaleColumns,
    Table,
    design_columns,
    group_column,
    guess_loss,
    guess_one,
    guess_scale,
    is_condition,
    is_of_a_study,
    keep_best,
    losses,
    named_like,
    naming,
    plain_name,
    pooled_notes,
    read_table,
    sizes_and_tokens,
    sizes_by_data,
    split_table,
    standard_errors,
    tokens_of_compute,
    varies,
    with_series,
    without_blanks,
)


def text(*cells: str) -> Any:
    return np.array(cells, dtype=TEXT)


# ------------------------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("2k", 2e3), ("2m", 2e6), ("2b", 2e9), ("2G", 2e9), ("2T", 2e12), ("1.5 thousand", 1500.0),
        ("2 million", 2e6), ("2 mn", 2e6), ("2 bn", 2e9), ("2 trillion", 2e12), ("2tn", 2e12), ("3 flop", 3.0),
        ("3 kFLOPs", 3e3), ("3 MFLOPs", 3e6), ("3 GFLOP", 3e9), ("3 TFLOPs", 3e12), ("3 PFLOPs", 3e15),
        ("3 EFLOPs", 3e18), ("3 YFLOPs", 3e24), ("2 PF/s-days", 2 * 8.64e19), ("2 petaflop/s-day", 2 * 8.64e19),
        ("10**3", 1e3), ("10^{-2}", 0.01), ("2*10^3", 2e3), ("2 x 10**{3}", 2e3), ("1e2 x 10^3", 1e5),
        ("-5", -5.0), ("+.5", 0.5), ("-1,234.5", -1234.5), ("1_000", 1000.0), ("1_000 tokens", 1000.0),
        ("1\u00a0000\u202f000", 1e6), ("7 steps", 7.0), ("12.5 %", 0.125), ("5 k", 5e3), ("kM", None), ("+", None),
        ("1,23,456", None), ("10^x", None), ("5 parsecs", None), ("1e5k", 1e8), (" 4 ", 4.0),
    ],
)  # fmt: skip
def test_a_cell_as_a_number(cell: str, value: float | None) -> None:
    assert parse_number(cell) == (None if value is None else pytest.approx(value, rel=1e-14))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("3,5", 3.5), ("1.234,5", 1234.5), ("1.234", 1234.0), ("1.5e6", 1.5e6), ("0.001", 0.001), ("5", 5.0),
        ("1 234,5", 1234.5), (",5", 0.5), ("3,5 M", 3.5e6), ("12,5 %", 0.125), ("1.2.3", None), ("abc", None),
        ("3,5e2", 350.0), ("-2,5", -2.5),
    ],
)  # fmt: skip
def test_a_cell_with_a_decimal_comma(cell: str, value: float | None) -> None:
    assert parse_number(cell, decimal_comma=True) == (None if value is None else pytest.approx(value, rel=1e-14))


def test_words_that_stand_for_no_number() -> None:
    words = "nan -nan na n/a #n/a null none missing ? diverged oom crashed failed error timeout inf -inf +inf infinity"
    assert {"", "-infinity", *words.split()} == NO_NUMBER
    assert all(math.isnan(parse_number(word.upper()) or 0.0) for word in NO_NUMBER)
    assert [parse_numbers(text("1", "", "oom", "x", "y"))[1], parse_numbers(text("1", "2"))[1]] == [3, None]
    found, wrong = parse_numbers(text("1,5", "", "2"), decimal_comma=True)
    assert (found.tolist()[0], math.isnan(found[1]), found[2], wrong) == (1.5, True, 2.0, None)
    assert parse_numbers(text("1", ""))[0].tolist()[0] == 1.0
    units = [units_of_information(text(*cells)) for cells in (("1 bit", "2 bits"), ("1 nats", "2 Bits"), ("1", "x y"))]
    assert units == [("bits",), ("bits", "nats"), ()]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        ([1, 2], "i", [1, 2]), ([1, 2**63], "f", [1.0, 2.0**63]), ([-(2**63), 2**63 - 1], "i", [-(2**63), 2**63 - 1]),
        ([1, 2.5], "f", [1.0, 2.5]), ([1, None], "f", [1.0, None]), ([None, None], "T", ["", ""]), ([], "T", []),
        ([True, False], "T", ["True", "False"]), ([True, 1.5], "T", ["True", "1.5"]), (["a", None], "T", ["a", ""]),
        (["a", 0.1, float("nan")], "T", ["a", "0.1", ""]), ([decimal.Decimal("0.5"), 1], "f", [0.5, 1.0]),
        (np.array([1, 2], np.int16), "i", [1, 2]), (np.array([1, 2], np.float32), "f", [1.0, 2.0]),
        (np.array([True]), "T", ["True"]), (np.array(["2024-01-02"], "M8[D]"), "T", ["2024-01-02"]),
        (np.array([b"x"]), "T", ["x"]), ([datetime.date(2024, 1, 2)], "T", ["2024-01-02"]),
        (np.array([1, "a"], object), "T", ["1", "a"]), (["1", "2"], "T", ["1", "2"]),
    ],
)  # fmt: skip
def test_cells_as_a_column(cells: Any, kind: str, values: list[Any]) -> None:
    found = as_column(cells)
    assert found.dtype.kind == kind
    assert [None if value != value else value for value in found.tolist()] == values
    assert found.dtype != np.float32
    assert [cell_text(cell) for cell in (None, np.float64(0.1), float("nan"), 3, "x")] == ["", "0.1", "", "3", "x"]


@pytest.mark.parametrize(
    ("cells", "delimiter", "comma"),
    [
        (["3,21"], ",", True), (["1,000,000", "3,21"], ",", True), (["1,234"], ",", False), (["1,234"], ";", True),
        (["1,234", "1,000,000"], ";", False), (["1,234", "1,234.5"], ";", False), (["1,234", "0.5"], ";", False),
        (["1,234", "1e5"], ";", True), (["a,b"], ";", False), (["0,123"], ",", True), ([",5"], ",", True),
        (["3,5 %"], ",", True), (["5"], ";", False),
    ],
)  # fmt: skip
def test_whether_a_comma_is_the_decimal_mark(cells: list[str], delimiter: str, comma: bool) -> None:
    assert has_decimal_comma([text(*cells), np.array([1, 2])], delimiter) is comma
    assert not has_decimal_comma([text("1,234"), np.array([1.5])], ";"), "a number with a decimal point"
    assert has_decimal_comma([text("1,234"), np.array([1.0, np.nan, np.inf])], ";")


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (("1", " 2 "), "i", [1, 2]), (("1", ""), "f", [1.0, None]), (("007", "8"), "T", ["007", "8"]),
        (("1_000",), "T", ["1_000"]), (("0x1F",), "T", ["0x1F"]), (("+5", "-0"), "i", [5, 0]),
        (("0", "10"), "i", [0, 10]),
        (("99999999999999999999",), "f", [1e20]), (("", ""), "T", ["", ""]), (("a ", "1"), "T", ["a", "1"]),
        (("1e3", "2"), "f", [1000.0, 2.0]), (("-01", "2"), "T", ["-01", "2"]), (("0.5", "00"), "T", ["0.5", "00"]),
    ],
)  # fmt: skip
def test_a_column_of_text_by_what_its_cells_are(cells: tuple[str, ...], kind: str, values: list[Any]) -> None:
    found = typed(text(*cells))
    assert (found.dtype.kind, [None if value != value else value for value in found.tolist()]) == (kind, values)


# ------------------------------------------------------------------------------------------- files


def csv_of(folder: Path, content: str, name: str = "t.csv") -> Table:
    (folder / name).write_text(content)
    return read_table(folder / name)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("x  loss\n1 2\n3   4\n", {"x": [1, 3], "loss": [2, 4]}),
        ('"x y" loss\n', None),
        ('"x y"\n1\n2\n', {"x y": [1, 2]}),
        ('"x y","a loss"\n1,2\n', {"x y": [1], "a loss": [2]}),
        ("x y;a loss\n1;2\n", {"x y": [1], "a loss": [2]}),
        ("x\ta loss\n1\t2\n", {"x": [1], "a loss": [2]}),
        ("x,y;loss\n1,2\n", {"x": [1], "y;loss": [2]}),
        ("x|loss\n1|2\n", {"x": [1], "loss": [2]}),
        ("x\n1\n2\n", {"x": [1, 2]}),
        ("# x,loss\n1,2\n", {"x": [1], "loss": [2]}),
        ("#,loss\n1,2\n", {"#": [1], "loss": [2]}),
        ("# a\n\n,,\nx,loss\n # b\n1,2\n", {"x": [1], "loss": [2]}),
        ("x,loss\n'=1,'b\n'c,d\n", {"x": ["=1", "'c"], "loss": ["'b", "d"]}),
        ("'x,loss\n1,2\n", {"'x": [1], "loss": [2]}),
        ("'=x,loss\n1,2\n", {"=x": [1], "loss": [2]}),
        ("x,y\n,2\n", {"x": [""], "y": [2]}),
    ],
)
def test_a_csv_by_its_first_lines(content: str, columns: dict[str, list[Any]] | None, tmp_path: Path) -> None:
    if columns is None:
        with pytest.raises(InputError, match=r"has no rows; give a header line and one row a run$"):
            csv_of(tmp_path, content)
        return
    table = csv_of(tmp_path, content)
    assert {name: cells.tolist() for name, cells in table.columns.items()} == columns
    assert table.notes == (("1 lines that begin with # are comments, not rows",) if " # b" in content else ())


def test_what_a_csv_is_refused_for(tmp_path: Path) -> None:
    refused = {
        "# a,b,c\n1,2\n": "has no header: its first line is '1,2'; name the columns",
        "# 1,b\n1,2\n": "has no header",
        "1\n" * 2: "has no header: its first line is '1'",
        "": "has no rows; give a header line and one row a run",
        "# only\n": "has no rows",
        "a,b\n1,2\n3\n": "line 3: row 2 has 1 cells and the header 2",
        "a,b\n1,2\n\n,\n3,4,5\n": "line 5: row 2 has 3 cells",
    }
    for content, words in refused.items():
        with pytest.raises(InputError, match=words):
            csv_of(tmp_path, content)
    long = "1" * 70
    with pytest.raises(InputError, match=f"its first line is '{'1' * 60}'; name"):
        csv_of(tmp_path, f"{long}\n2\n")
    (tmp_path / "t.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="is not a CSV table"):
        read_csv(tmp_path / "t.csv.gz", b"")


def test_rows_beyond_a_part_are_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CHUNK", 2)
    table = csv_of(tmp_path, "x,loss\n" + "".join(f"{k},{2 * k}\n" for k in range(5)))
    assert (table.column("x").tolist(), table.column("loss").tolist()) == ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])


def test_the_start_of_a_text_tells_its_encoding() -> None:
    assert [encoding_of(start) for start in (b"\xff\xfea", b"\xfe\xffa", b"\xef\xbb\xbfa", b"ab", b"")] == [
        "utf-16", "utf-16", "utf-8-sig", "utf-8-sig", "utf-8-sig",
    ]  # fmt: skip
    require_distinct(["a", "b"], "x")
    with pytest.raises(InputError, match=r"^the table has two columns named 'b'; names must differ$") as caught:
        require_distinct(["a", "b", "c", "b"], "the table")
    assert caught.value.value == "b"


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("t.json", '{"x": 1, "loss": 2}\n\n{"x": 3, "loss": 4}\n', {"x": [1, 3], "loss": [2, 4]}),
        ("t.json", '{"x": 1, "loss": 2.5}', {"x": [1], "loss": [2.5]}),
        ("t.json", ' [{"x": 1}, {"loss": 2}, {"x": 3}]', {"x": [1, None, 3], "loss": [None, 2, None]}),
        ("t.json", '{"a": {"x": 1, "loss": 2}, "b": {"x": 3, "loss": 4}}', {"a": [1, 2], "b": [3, 4]}),
        ("t.json", '{"data": {"x": 1}, "more": {"y": 2}}', None),
        ("t.json", '{"data": {"data": 1}}', {"data": [1]}),
        ("t.ndjson", '{"a": {"b": {"c": 1}}}\n{"a": {"b": {"c": 2}}}\n', {"a.b.c": [1, 2]}),
        ("t.jsonl", '{"x": [1], "y": "2"}\n', {"x": ["[1]"], "y": ["2"]}),
    ],
)
def test_a_json_table_by_its_form(
    name: str, content: str, columns: dict[str, list[Any]] | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    if columns is None:
        with pytest.raises(
            InputError, match="holds no table; give a list of rows by the columns' names, or lists by column"
        ):
            read_table(tmp_path / name)
        return
    table = read_table(tmp_path / name)
    assert {key: [None if v != v else v for v in cells.tolist()] for key, cells in table.columns.items()} == columns
    assert table.source == name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.jsonl",
            "[1, 2]\n",
            r't\.jsonl\' holds lists; JSON Lines have one object a line, such as {"N": 1, "loss": 2}$',
        ),
        ("t.jsonl", '{"x": 1}\n[3]\n', "line 2 is not an object; each line is one row, by the columns' names"),
        ("t.jsonl", "3\n", "line 1 is not an object"),
        ("t.jsonl", '{"x": 1}\n\n{"x"\n', "line 3 is not JSON"),
        ("t.jsonl", '{"a.b": 1, "a": {"b": 2}}\n', "two columns named 'a.b'"),
        ("t.json", '{"columns": ["x", "y"], "data": [[1, 2], [3]]}', "row 2 does not have the 2 cells of the columns"),
        ("t.json", '{"columns": ["x", "y"], "data": [3]}', "row 1 does not have the 2 cells"),
        ("t.json", '{"columns": ["x", "x"], "data": []}', "two columns named 'x'"),
        ("t.json", "[]", "holds no table"),
        ("t.json", "{}", "holds no table"),
        ("t.json", '{"x": [1], "y": 2}', "holds no table"),
        ("t.json", "\ufeff[1", "line 1 is not JSON"),
        ("t.numbers", "PK", r"t\.numbers' is a spreadsheet; save it as CSV and give that$"),
    ],
)
def test_what_a_json_table_is_refused_for(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / name)


def test_json_in_other_encodings_and_compressed(tmp_path: Path) -> None:
    rows = json.dumps([{"x": 1}, {"x": 2}])
    (tmp_path / "a.json").write_bytes(rows.encode("utf-16"))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(rows.encode()))
    assert [read_table(tmp_path / name).column("x").tolist() for name in ("a.json", "b.json.gz")] == [[1, 2], [1, 2]]
    (tmp_path / "c.json").write_bytes(b'[{"x": "\xff"}]')
    with pytest.raises(InputError, match=r"c\.json' is not a text table in UTF-8 \(invalid start byte\)$"):
        read_table(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"there is no file '.*d\.csv'; give a CSV, JSON, JSON Lines or Parquet table"):
        read_table(tmp_path / "d.csv")


def test_columns_of_frames_with_names_for_their_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"loss": [2.0, 1.0], "n": [1, 2]}, index=pandas.Index(["a", "b"], name="run"))
    found = read(frame)
    assert ({name: cells.tolist() for name, cells in found.columns.items()}, found.source) == (
        {"run": ["a", "b"], "loss": [2.0, 1.0], "n": [1, 2]}, "the data frame",
    )  # fmt: skip
    assert list(read(frame.reset_index(drop=True)).columns) == ["loss", "n"]
    mixed = pandas.DataFrame(
        {"c": pandas.Categorical(["u", None]), "k": pandas.array([1, None], dtype="Int64"), 3: [1.5, None]}
    )
    columns = read(mixed).columns
    assert (list(columns), columns["c"].tolist()) == (["c", "k", "3"], ["u", ""])
    assert [columns[name].dtype.kind for name in ("k", "3")] == ["f", "f"]


def test_columns_of_arrow_tables() -> None:
    """A category is text, and a whole number that is missing makes its column one of floats."""
    arrow = pytest.importorskip("pyarrow")
    category = arrow.array(["u", None]).dictionary_encode()
    columns = read(arrow.table({"c": category, "k": [1, None], "n": [1, 2], "t": [b"x", None], "f": [1, 2.5]})).columns
    assert columns["c"].tolist() == ["u", ""]
    assert [columns[name].dtype.kind for name in columns] == ["T", "f", "i", "T", "f"]


def test_columns_of_plain_objects() -> None:
    assert (read([{"a": {"b": 1}}]).source, read({"a": [1]}).source) == ("the list", "the table")
    assert read(np.array([(1, 2.0)], dtype=[("n", int), ("loss", float)])).source == "the array"
    assert read({3: [1]}).columns["3"].tolist() == [1]
    with pytest.raises(
        InputError, match=r"^the columns of the table differ in length: 'a' 2, 'b' 1; there must be one cell a row$"
    ):
        read({"a": [1, 2], "b": [1]})
    with pytest.raises(InputError, match="the table has two columns named '1'"):
        read({1: [1], "1": [2]})
    with pytest.raises(InputError, match=r"^a table must be a path, a data frame, or a mapping of columns, not list$"):
        read([1, 2])


# ------------------------------------------------------------------------------------------- sources


def read_planted(source: str) -> tuple[dict[str, list[int]], str, list[str]]:
    """What a reader gives: columns, a name and notes."""
    return {"n": [1, 2]}, f"planted {source}", ["one was left out"]


def test_a_source_of_ones_own_is_read_by_its_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))
    assert reader_of("planted:here") is None
    register_source("planted", f"{__name__}:read_planted")
    table = read_table("planted:here")
    assert (table.column("n").tolist(), table.source, table.notes) == (
        [1, 2],
        "planted planted:here",
        ("one was left out",),
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted:file").write_text("n\n3\n")
    assert read_table("planted:file").column("n").tolist() == [3], "a file of that name is read as a file"
    for prefix in ("c", "a-b", ""):
        with pytest.raises(InputError, match=f"^a prefix is a name of two letters or more, not '{prefix}'$") as caught:
            register_source(prefix, "a:b")
        assert (caught.value.field, caught.value.value) == ("prefix", prefix)
    for address in ("a", "a:", ":b", "a:b:c"):
        with pytest.raises(InputError, match=f"^'{address}' is no package.module:function$") as caught:
            register_source("two", address)
        assert (caught.value.field, caught.value.value) == ("address", address)
    assert "two" not in sources.SOURCES
    assert set(sources.SOURCES) == {"wandb", "mlflow", "optuna", "tensorboard", "trainer", "lightning", "planted"}


def test_folders_and_logs_go_to_the_reader_of_runs(tmp_path: Path) -> None:
    for name in ("trainer_state.json", "run-1.wandb", "events.out.tfevents.1", "t.json"):
        (tmp_path / name).write_text("{}")
    ours = reader_of(tmp_path)
    assert ours is not None
    logs = ("trainer_state.json", "run-1.wandb", "events.out.tfevents.1")
    assert all(reader_of(tmp_path / name) is ours for name in logs)
    assert [reader_of(tmp_path / name) for name in ("t.json", "no.wandb")] == [None, None]


# ------------------------------------------------------------------------------------------- tables


def table_of(**columns: Any) -> Table:
    return Table(columns, "t.csv")


def test_names_are_compared_without_case_and_signs() -> None:
    assert [plain_name(name) for name in ("Eval/Loss", "__A--b", "n params", "é1")] == [
        "eval_loss",
        "a_b",
        "n_params",
        "é1",
    ]
    table = table_of(Loss=[1], TOKENS=[1], n__params=[1], tokens=[1])
    assert named_like(table, ("tokens", "n_params", "Tokens")) == ["TOKENS", "tokens", "n__params"]


def test_a_table_s_numbers_and_labels() -> None:
    table = table_of(n=[1, 2], cell=["1", "x"], close=[0.1, 0.1 + 1e-15], gap=[1.5, None], word=["b", "b"])
    assert (table.names, table.n_rows, Table({}, "e").n_rows) == (("n", "cell", "close", "gap", "word"), 2, 0)
    assert table.numbers("n").dtype == float
    with pytest.raises(InputError, match=r"^t\.csv, row 2: 'cell' is 'x', not a number$"):
        table.numbers("cell")
    kept = table.rows(np.array([False, True]), "left out")
    assert (kept.notes, kept.column("n").tolist(), table.rows(np.array([True, True])).notes) == (("left out",), [2], ())
    with pytest.raises(InputError, match="row 2: 'cell'"):
        kept.numbers("cell")
    assert kept.rows(np.array([True])).row_numbers.tolist() == [2]  # type: ignore[union-attr]
    assert table.labels("close")[1] == ["0.1", "0.100000000000001"]
    assert [table.labels(name)[1] for name in ("gap", "word", "n")] == [["1.5", ""], ["b"], ["1", "2"]]
    assert [table.n_distinct(name) for name in ("n", "word", "close")] == [2, 1, 2]
    more = table.with_column("n", [3, 3])
    assert (more.numbers("n").tolist(), more.n_distinct("n"), table.n_distinct("n")) == ([3.0, 3.0], 1, 2)
    codes, names = table_of(w=[3.0, 1.0, 3.0, 2.0]).labels("w")
    assert (codes.tolist(), names) == ([0, 1, 0, 2], ["3", "1", "2"])
    with pytest.raises(InputError, match=r"^t\.csv has no column 'nn'; did you mean 'n'\?$") as caught:
        table.column("nn")
    assert caught.value.value == "nn"


def test_rows_without_numbers_are_counted_with_what_they_say() -> None:
    table = table_of(n=["1", "2", "3", "4", "5", "6"], loss=["1", "", "oom", "nan", "?", "failed"])
    found = without_blanks(table, ("n", "loss"))
    assert found.notes == ("5 rows left out: no number in n or loss (?, failed, nan, ...)",)
    assert found.n_rows == 1
    assert without_blanks(table_of(n=["1", ""]), ("n",)).notes == ("1 rows left out: no number in n",)
    three = table_of(n=["1", "oom", "nan", "?"])
    assert without_blanks(three, ("n",)).notes == ("3 rows left out: no number in n (?, nan, oom)",)
    whole, none = table_of(n=["1", "2"]), table_of(n=["", "nan"])
    assert without_blanks(whole, ("n",)) is whole
    assert without_blanks(none, ("n",)) is none, "whatever reads it says more"


def test_perplexities_are_losses_by_their_logarithm() -> None:
    """A standard error of a perplexity p is 1 / p times that in ln perplexity."""
    table = table_of(ppl=[1.0, math.e], Eval_Perplexity=[1.0, 0.0], loss=[2.0, 3.0], sem=[0.5, 1.0], pplx=[1.0, 2.0])
    values, name = losses(table, "ppl")
    assert (values.tolist(), name) == ([0.0, 1.0], "ln ppl")
    assert losses(table, "Eval_Perplexity")[1] == "ln Eval_Perplexity"
    assert losses(table, "Eval_Perplexity")[0].tolist() == [0.0, -math.inf]
    assert (losses(table, "loss")[1], losses(table, "pplx")[1]) == ("loss", "pplx")
    assert standard_errors(table, "sem", "loss").tolist() == [0.5, 1.0]
    assert standard_errors(table, "sem", "ppl") == pytest.approx([0.5, 1 / math.e])


def test_the_loss_and_the_scale_that_can_be_meant() -> None:
    def loss(**columns: Any) -> str:
        return guess_loss(table_of(**columns))

    assert loss(y=[1], loss=[1], test_loss_nats=[1]) == "test_loss_nats"
    assert loss(train_loss=[1], bpb=[1]) == "bpb"
    assert loss(LOSS=[1], my_loss_sem=[1]) == "LOSS"
    assert loss(odd_loss=[1], odd_loss_err=[1], loss_min=[1]) == "odd_loss"
    with pytest.raises(InputError, match=r"the loss could be Loss or LOSS; name it with `y`$") as caught:
        loss(Loss=[1], LOSS=[1])
    assert caught.value.field == "y"
    with pytest.raises(InputError, match=r"^t\.csv: the loss is in none of the columns a, b; name it with `y`$"):
        loss(a=[1], b=[1])
    with pytest.raises(InputError, match=r"^t\.csv has no loss; for shares between 0 and 1 as in 'Acc' use `y`=Acc$"):
        loss(n=[1], Acc=[0.5])

    def scale(**columns: Any) -> str:
        return guess_scale(table_of(**columns), "y")

    assert scale(n_tasks=[1, 2], tokens=[1, 2], y=[1, 2]) == "n_tasks"
    assert scale(y=[1, 2], x=[3, 4]) == "x"
    assert scale(unique_tokens=[1, 2], y=[1, 2]) == "unique_tokens"
    assert scale(x=[7, 7], depth=[1, 2], y=[1, 2]) == "depth"
    assert scale(tokens=["many", "few"], y=[1, 2]) == "tokens"
    with pytest.raises(InputError, match="the scale could be width or depth; name it with `x`"):
        scale(depth=[1, 2], width=[1, 2], y=[1, 2])
    with pytest.raises(InputError, match="the scale is in none of the columns width, depth, y"):
        scale(width=[1, 1], depth=[2, 2], y=[1, 2])
    assert guess_one(table_of(A=[1], b=[1]), ("a", "c"), "thing", "t") == "A"
    with pytest.raises(InputError, match=r"the thing is in none of the columns A; name it with `t`") as caught:
        guess_one(table_of(A=[1]), ("c",), "thing", "t")
    assert caught.value.field == "t"
    odd = table_of(a=[1, 2], b=[1, None], c=["x", "y"], d=[None, None], e=[2, 2])
    assert [varies(odd, name) for name in odd.names] == [True, False, False, False, False]


def test_the_columns_of_a_law_in_one_scale() -> None:
    table = table_of(n=[10, 20, 20], ppl=[1.0, 1.0, 1.0], rep=[0, 0, 1], sem=[0.1, 0.2, 0.3])
    found = ScaleColumns.of(table, "n", "ppl")
    assert (found.scale, found.loss, found.seed, found.run, found.noise) == ("n", "ppl", "rep", None, None)
    data = found.data
    assert {name: np.asarray(part).tolist() for name, part in data.items()} == {
        "x": [10.0, 20.0, 20.0], "loss": [0.0, 0.0, 0.0], "replicate": [0, 1, 2], "x_name": "n", "loss_name": "ln ppl",
    }  # fmt: skip
    noisy = ScaleColumns(table, "n", "ppl", None, None, "sem")
    assert noisy.data["noise"].tolist() == [0.1, 0.2, 0.3]
    assert list(found.split("rep")) == ["0", "1"]
    assert [part.table.n_rows for part in found.split("rep").values()] == [2, 1]
    assert found.split(None) == {"": found}
    assert ScaleColumns.of(table_of(n=[1], loss=[1], seed=[1], replicate=[2]), "n").seed == "seed"
    assert ScaleColumns.of(table, "n", "ppl", "sem").seed == "sem"
    with pytest.raises(InputError, match="no column 'nope'"):
        ScaleColumns.of(table, "n", "ppl", "nope")


def test_other_scales_that_vary_among_rows_of_one_are_noted() -> None:
    """Tokens vary 2.5-fold at n = 20; exactly 2-fold, or across values of n alone, is no news; nor in a study."""

    def notes(tokens: list[Any], **more: Any) -> tuple[str, ...]:
        return ScaleColumns.of(
            table_of(width=[10, 20, 20], tokens=tokens, loss=[3, 2, 1], **more), "width", "loss"
        ).mixed_notes()

    assert notes([1, 2, 5]) == (
        "'tokens' varies 2.5-fold among rows of the same 'width': a law in 'width' alone mixes them (fit a law in "
        "size and data instead)",
    )
    assert (notes([9, 2, 4]), notes([1, 5, 5]), notes([5, 5, 5]), notes([1, None, 5])) == ((), (), (), ())
    assert [note.split("'")[1] for note in notes([1, 2, 5], params=[1, 1, 9])] == ["params", "tokens"]
    assert notes([1, 2, 5], status=["finished"] * 3, kind=["meta"] * 3) == ()


def test_conditions_that_are_pooled_are_named() -> None:
    """A few values that return are a condition, ever new ones are not; rows of other scales may differ."""
    columns = {"n": [1, 1, 1, 2, 2, 2], "loss": [1, 2, 3, 4, 5, 6], "opt": ["a", "b", "a", "a", "b", "a"]}
    table = table_of(**columns, note=list("uvwxyz"), fixed=["k"] * 6, tokens=[1, 2, 1, 2, 1, 2])
    assert pooled_notes(table, ("loss",), ("n",)) == (
        "rows that differ in 'opt' (2 values) are pooled, as if they were repeats; keep one value, or make the "
        "column a series (a law for each value) or best-of (the best value at each scale)",
    )
    assert pooled_notes(table, ("loss", "opt"), ("n",)) == ()
    assert pooled_notes(table, ("loss",), ("n",), "x")[0].endswith("repeats; x")
    by_scale = table_of(n=[1, 1, 1, 2, 2, 2], opt=["a"] * 3 + ["b"] * 3)
    assert (pooled_notes(by_scale, (), ("n",)), bool(pooled_notes(by_scale, ()))) == ((), True)
    two = table_of(n=[1, 1, 2, 2, 1, 1, 2, 2], m=[1, 2, 1, 2, 1, 2, 1, 2], opt=["a", "b", "b", "a"] * 2)
    assert (pooled_notes(two, (), ("n", "m")), len(pooled_notes(two, (), ("n",)))) == ((), 1)
    assert [name for name in ("opt", "note", "fixed", "tokens", "n") if is_condition(table, name)] == ["opt"]
    assert is_condition(table_of(a=[1, 2, 1, 1, 2, 1]), "a")
    assert not is_condition(table_of(a=[1, 2, 1, 1, 2]), "a"), "2 values of 5 rows are more than a third"
    ended = {"kind": ["meta"] * 6, "status": ["finished"] * 6}
    study = table_of(label=["a"] * 6, opt=columns["opt"], seed=[0, 1, 2] * 2, other=columns["opt"], **ended)
    assert (design_columns(study), is_of_a_study(study), is_of_a_study(table)) == (("opt",), True, False)
    assert [note.split("'")[1::2] for note in pooled_notes(study, (), ())] == [["opt"]]
    assert design_columns(table_of(opt=[1], other=[2])) == ()
    assert design_columns(table_of(opt=[1], seed=[2])) == ("opt",)


def test_groups_series_and_the_best_of_an_axis() -> None:
    table = table_of(method=["b", "a", "b"], n=[1, 1, 2], w=[8.0, 4.0, 8.0], loss=[3.0, 2.0, 1.0])
    assert {name: part.column("n").tolist() for name, part in split_table(table, "method").items()} == {
        "b": [1, 2],
        "a": [1],
    }
    assert (group_column(table, None), group_column(table, "w")) == ("method", "w")
    assert group_column(table_of(method=["a", "a"]), None) is None
    assert group_column(table_of(n=[1, 2]), None) is None
    series, name = with_series(table, ("method", "w"))
    assert (name, series.column(name).tolist()) == (
        "series: method, w",
        ["method=b, w=8", "method=a, w=4", "method=b, w=8"],
    )
    grown = table_of(lr=[0.1, 0.2, 0.1, 0.2], n=[1, 1, 2, 2], loss=[3.0, 2.0, 1.0, 4.0])
    best = keep_best(grown, ("lr",), ("n",), "loss")
    assert best.column("loss").tolist() == [2.0, 1.0]
    assert len(best.notes) >= 1
    with pytest.raises(InputError, match="no column 'nope'"):
        keep_best(grown, ("nope",), ("n",), "loss")
    with pytest.raises(InputError, match=r"^g: bad$") as caught, naming("g"):
        raise InputError("bad", field="f", value=3, allowed="4")
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("f", 3, "4")
    with pytest.raises(InputError, match=r"^bad$"), naming(""):
        raise InputError("bad")


def test_sizes_and_tokens_of_a_table() -> None:
    """C = 6 N D: of 6e9 FLOPs and a million parameters 1,000 tokens; of a PF-day 8.64e19 / 6e6."""
    table = table_of(N=[1e6, 2e6], tokens=[5.0, 6.0], flops=[6e9, 12e9], pf_days=[1.0, 2.0], loss=[2.0, 1.0])
    assert [part.tolist() if not isinstance(part, str) else part for part in sizes_and_tokens(table, "N", None)] == [
        [1e6, 2e6], [5.0, 6.0], "tokens",
    ]  # fmt: skip
    assert sizes_and_tokens(table, "N", "flops")[1].tolist() == [1000.0, 1000.0]
    assert sizes_and_tokens(table, "N", "flops")[2] == "flops / 6N"
    assert sizes_and_tokens(table, "N", "pf_days")[1] == pytest.approx([8.64e19 / 6e6] * 2)
    guessed = table_of(N=[1e6], C=[6e9])
    assert sizes_and_tokens(guessed, "N", None)[1:] == (pytest.approx([1000.0]), "C / 6N")
    with pytest.raises(InputError, match="the training compute is in none of the columns N; name it with `d`"):
        sizes_and_tokens(table_of(N=[1.0]), "N", None)
    with pytest.raises(InputError, match="the number of tokens could be tokens or D; name it with `d`"):
        sizes_and_tokens(table_of(N=[1.0], tokens=[1.0], D=[1.0]), "N", None)
    named = (("N", "D"), ("params", "C"), ("N", "flops / 6N"), ("D", "N"), ("N", "w"))
    assert [sizes_by_data(names) for names in named] == [True, True, True, False, False]
    assert tokens_of_compute("C", np.array([3.0]), np.array([1.0])).tolist() == [0.0555555555556]
