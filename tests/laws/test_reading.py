"""Every way into a table gives the same columns and the same refusals."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib.util
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metascale.core.errors import InputError, MissingDependency
from metascale.laws import delimited, opening, reading
from metascale.laws.numbers import TEXT, parse_number
from metascale.laws.runs import usable_rows
from metascale.laws.table import ScaleColumns, Table, guess_loss, read_table

HERE = {name for name in ("pandas", "polars", "pyarrow") if importlib.util.find_spec(name) is not None}
ROWS = {
    "run": ["a1", "007", "c,3", ""],
    "params": ["125M", "1.3B", "7k", "1e6"],
    "tokens": [10, 20, 30, 40],
    "loss": [3.25, 2.5, float("nan"), 0.1 + 0.2],
    "ok": [True, False, True, True],
}


def csv_text(mark=",", comma=False):
    lines = [mark.join(ROWS)]
    for row in zip(*ROWS.values(), strict=True):
        cells = ["" if cell != cell else str(cell) for cell in row]
        cells = [cell.replace(".", ",") if comma and not cell.endswith(("M", "B")) else cell for cell in cells]
        lines.append(mark.join(f'"{cell}"' if mark in cell else cell for cell in cells))
    return "\n".join(lines) + "\n"


def rows_as_json():
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    return [{key: None if cell != cell else cell for key, cell in row.items()} for row in rows]


def file_of(kind, folder):
    path = folder / f"t.{kind}"
    if kind == "csv.gz":
        path.write_bytes(gzip.compress(csv_text().encode()))
    elif kind == "csv":
        path.write_bytes(b"\xef\xbb\xbf" + csv_text().replace("\n", "\r\n").encode())
    elif kind == "tsv":
        path.write_bytes(csv_text("\t").encode("utf-16"))
    elif kind == "txt":
        path.write_text("# made by hand\n\n" + csv_text("|") + "\n # the end\n")
    elif kind == "json":
        path.write_text(json.dumps(rows_as_json()))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows_as_json())) + "\n\n")
    return path


def frame_of(kind, folder):
    if kind == "pandas":
        import pandas

        return pandas.DataFrame(ROWS)
    if kind == "polars":
        import polars

        return polars.DataFrame(ROWS)
    if kind == "polars lazy":
        import polars

        return polars.LazyFrame(ROWS)
    import pyarrow
    import pyarrow.parquet

    found = pyarrow.table(ROWS)
    if kind == "parquet":
        pyarrow.parquet.write_table(found, folder / "t.parquet")
        return folder / "t.parquet"
    return found


FILES = ("csv", "csv.gz", "tsv", "txt", "json", "jsonl")
FRAMES = {"pandas": "pandas", "polars": "polars", "polars lazy": "polars", "arrow": "pyarrow", "parquet": "pyarrow"}


@pytest.mark.parametrize("kind", ["mapping", "rows", "array", *FILES, *FRAMES])
def test_the_same_table_by_every_way(kind, tmp_path):
    if kind in FRAMES and FRAMES[kind] not in HERE:
        pytest.skip(f"{FRAMES[kind]} is not installed")
    if kind in FRAMES:
        source = frame_of(kind, tmp_path)
    elif kind in FILES:
        source = file_of(kind, tmp_path)
    elif kind == "array":
        dtype = [("run", "U3"), ("params", "U5"), ("tokens", int), ("loss", float), ("ok", bool)]
        source = np.array(list(zip(*ROWS.values(), strict=True)), dtype=dtype)
    else:
        source = ROWS if kind == "mapping" else [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values())]  # noqa: B905
    table = read_table(source)
    assert table.names == tuple(ROWS)
    assert {name: cells.dtype.kind for name, cells in table.columns.items()} == {
        "run": "T", "params": "T", "tokens": "i", "loss": "f", "ok": "T"
    }  # fmt: skip
    assert table.column("run").tolist() == ROWS["run"]
    assert table.column("ok").tolist() == ["True", "False", "True", "True"]
    np.testing.assert_array_equal(table.numbers("params"), [125e6, 1.3e9, 7e3, 1e6])
    np.testing.assert_array_equal(table.numbers("loss"), ROWS["loss"])
    columns = ScaleColumns.of(table, "tokens")
    assert columns.table.notes[-1] == "1 rows left out: no number in tokens or loss (nan)"


@pytest.mark.skipif("pyarrow" not in HERE, reason="pyarrow is not installed")
@pytest.mark.parametrize(
    "text",
    [
        "x,label,loss\n1,007,2.5\n2,1e5,\n\n3,a b,nan\n,,\n4,0x1F,1e-3\n",
        "x;loss\n1;3,25\n2;3,5\n# left out\n3;4\n",
        "x,day,flag\n1,2024-01-01,true\n2,2024-01-02,false\n",
        "x\tloss\n 1 \t99999999999999999999\n2\t-3\n",
        "x,loss\r\n1,2\r\n2,inf\r\n",
        "# x,loss\n# 1,9\nx,loss\n1,2\n",
        "# made by savetxt\n# x,loss\n1,2\n3,4\n",
        "x,note,loss\n1,NA,2\n2,1_000,3\n",
        "x,loss\n+1,2\n2,.5\n3,1.\n",
        'x,note\n1,"a, b"\n2,"line\nbreak"\n',
        "x,loss\n1,2\n3,4,5\n",
        "x,loss\n1,2\n3\n",
        "x,loss\n1\xe9,2\n",
        "x,empty\n1,\n2,\n",
    ],
)
def test_pyarrow_and_the_careful_reader_agree(text, tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("latin-1"))
    found = []
    for least in (0, 1 << 60):
        monkeypatch.setattr(delimited, "FAST_FROM", least)
        try:
            table = read_table(path)
            found.append(({n: (c.dtype, c.tolist()) for n, c in table.columns.items()}, table.notes))
        except InputError as error:
            found.append(str(error))
    assert repr(found[0]) == repr(found[1])


@pytest.mark.skipif("pyarrow" not in HERE, reason="pyarrow is not installed")
def test_large_files_do_go_through_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("x,loss\n1,2\n")
    monkeypatch.setattr(delimited, "FAST_FROM", 0)
    monkeypatch.setattr(delimited, "_careful_csv", None)
    assert read_table(path).column("x").tolist() == [1]


def test_parquet_without_pyarrow_names_the_extra(tmp_path):
    if "pyarrow" in HERE:
        pytest.skip("pyarrow is installed")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependency, match=r"metascale\[data\]"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("125M", 125e6), ("2.5B", 2.5e9), ("1.3 billion", 1.3e9), ("6e20", 6e20), ("1,000,000", 1e6), ("7k", 7e3),
        ("1 000 000", 1e6), ("45%", 0.45), ("45 %", 0.45), ("1.2 PF-days", 1.2 * 8.64e19), ("2 pfdays", 1.728e20),
        ("3 ZFLOPs", 3e21), ("5.76e23 FLOP", 5.76e23), ("6×10^20", 6e20), ("10^21", 1e21), ("2.5B tokens", 2.5e9),
        ("0.83 nats", 0.83), ("1.2 bits", 1.2), ("12 apples", None), ("1,00", None), ("M", None), ("-", None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(cell, value):
    assert parse_number(cell) == (value if value is None else pytest.approx(value, rel=1e-14))


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("x;loss\n1;3,25\n2;1.234,5\n", [3.25, 1234.5]),  # 3,25 can be nothing else
        ("x;loss\n1;3,214\n2;2,987\n", [3.214, 2.987]),  # semicolons, and no decimal point anywhere
        ("x;loss\n1.5;3,214\n2;2,987\n", [3214, 2987]),  # a decimal point in the file: thousands
        ('x,loss\n1,"3,214"\n2,"2,987"\n', [3214, 2987]),
        ('x,loss\n1,"1,234,567"\n2,"5"\n', [1234567, 5]),
    ],
)
def test_a_comma_is_a_decimal_mark_where_it_can_be_nothing_else(text, loss, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    table = read_table(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.numbers("loss"), loss)
    assert ("numbers are read with a decimal comma" in table.notes) == (loss[0] < 4)


def test_two_units_of_one_loss_are_refused():
    with pytest.raises(InputError, match="'loss' is in bits and in nats"):
        Table({"loss": ["1.2 bits", "0.9 nats"]}, "t.csv").numbers("loss")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "x,loss\n1,2\n\n# a\n3,4,5\n", "line 5: row 2 has 3 cells and the header 2"),
        ("t.csv", "1,2\n3,4\n", "has no header: its first line is '1,2'"),
        ("t.csv", 'x,loss\n1,"2\n3,4\n', "is not a CSV table"),
        ("t.csv", "x,loss,x\n1,2,3\n", "two columns named 'x'"),
        ("t.json", '[{"x": 1, "x": 2}]', "two columns named 'x'"),
        ("t.json", '{"x": [1, 2], "y": [1]}', "differ in length: 'x' 2, 'y' 1"),
        ("t.json", "3", "holds no table"),
        ("t.jsonl", '{"x": 1}\n{"x": 2, "x": 3}\n', "two columns named 'x'"),
        ("t.jsonl", '{"x": 1}\n{"x": \n', "line 2 is not JSON"),
        ("t.xlsx", "PK", "is a spreadsheet; save it as CSV"),
    ],
)
def test_what_is_no_table_is_refused_by_place(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_table(tmp_path / name)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_frames_with_a_name_twice_are_refused(library):
    if library not in HERE:
        pytest.skip(f"{library} is not installed")
    if library == "pandas":
        import pandas

        frame = pandas.DataFrame([[1, 2]], columns=["a", "a"])
    else:
        import pyarrow

        frame = pyarrow.table([[1], [2]], names=["a", "a"])
    with pytest.raises(InputError, match="two columns named 'a'"):
        read_table(frame)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="not int"):
        read_table(3)
    with pytest.raises(InputError, match="differ in length"):
        read_table({"x": [1, 2], "y": [1]})


@pytest.mark.parametrize(
    "document",
    [
        {"columns": ["x", "loss"], "index": [0, 1], "data": [[1, 2.5], [2, None]]},
        {"x": {"0": 1, "1": 2}, "loss": {"0": 2.5, "1": None}},
        {"x": [1, 2], "loss": [2.5, None]},
        {"data": [{"x": 1, "loss": 2.5}, {"x": 2}]},
    ],
)
def test_json_as_programs_write_it(document, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(document))
    table = read_table(tmp_path / "t.json")
    np.testing.assert_array_equal(table.numbers("x"), [1, 2])
    np.testing.assert_array_equal(table.numbers("loss"), [2.5, np.nan])


def test_nested_records_have_dotted_names(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"config": {"N": 5}, "loss": 2}\n{"config": {"N": 7}, "loss": 1}\n')
    assert read_table(tmp_path / "t.jsonl").column("config.N").tolist() == [5, 7]


@pytest.mark.parametrize(
    ("names", "loss"),
    [
        (("tokens", "val_bpb"), "val_bpb"), (("tokens", "Eval/Loss"), "Eval/Loss"), (("N", "perplexity"), "perplexity"),
        (("N", "train_loss", "val_loss"), "val_loss"), (("N", "loss", "loss_std"), "loss"),
        (("N", "lm loss", "lm loss se"), "lm loss"),
    ],
)  # fmt: skip
def test_losses_by_everybodys_names(names, loss):
    assert guess_loss(Table({name: [1.0, 2.0] for name in names}, "t.csv")) == loss


def test_labels_have_one_name_whatever_the_column_holds():
    for cells in ([8, 16, 8], [8.0, 16.0, 8.0], np.array(["8", "16", "8"], dtype=TEXT)):
        codes, names = Table({"width": cells}, "t.csv").labels("width")
        assert (codes.tolist(), names) == ([0, 1, 0], ["8", "16"])


@pytest.mark.parametrize(
    ("run", "step", "kept"),
    [("run_name", "_step", [2, 4]), ("Run ID", "global_step", [2, 4]), ("Name", "Step", [2, 4]), ("id", "step", None)],
)
def test_ends_of_runs_by_everybodys_names(run, step, kept):
    table = Table({run: list("aabb"), step: [1, 2, 1, 2], "x": [1, 2, 3, 4], "loss": [4, 3, 2, 1]}, "t.csv")
    found = usable_rows(table)
    assert found.column("x").tolist() == (kept or [1, 2, 3, 4])
    assert usable_rows(table, "id" if run == "id" else None).n_rows == 2
    assert usable_rows(table, run, checkpoints=True).n_rows == 4
    assert usable_rows(table, run, scale=step).n_rows == 4


def test_one_run_is_a_curve_and_keeps_its_steps():
    found = usable_rows(Table({"run": ["a"] * 3, "step": [1, 2, 3], "loss": [3, 2, 1]}, "t.csv"))
    assert found.n_rows == 3
    assert "checkpoints of 1 run, and all are kept" in found.notes[0]


def test_a_schedule_that_still_decays_is_warned_of():
    rows = {"run": list("aabb"), "step": [1, 2, 1, 2], "x": [1, 1, 2, 2], "lr": [1.0, 0.1, 1.0, 0.2]}
    notes = usable_rows(Table(rows, "t.csv"), checkpoints=True).notes
    assert "'lr' decays within 2 of 2 runs" in notes[1]
    assert "'lr' stays the same" in usable_rows(Table({**rows, "lr": [1.0, 1.0, 2.0, 2.0]}, "t.csv")).notes[1]
    early = usable_rows(Table({**rows, "max_steps": [2, 2, 9, 9]}, "t.csv")).notes
    assert "1 of 2 runs end before the last step of their schedule" in early[-1]


def test_a_state_of_something_else_leaves_out_nothing():
    table = Table({"state": ["Texas", "Ohio"], "x": [1, 2]}, "t.csv")
    assert usable_rows(table).n_rows == 2
    words = usable_rows(Table({"Status": ["TERMINATED", "ERROR", "RUNNING"], "x": [1, 2, 3]}, "t.csv"))
    assert words.notes == ("2 rows left out: their Status is not 'finished' (1 ERROR, 1 RUNNING)",)


def test_a_row_is_named_by_its_place_in_the_file_after_others_were_left_out():
    table = Table({"x": [1, 2, 3], "state": ["failed", "done", "done"], "loss": ["1", "2", "high"]}, "t.csv")
    with pytest.raises(InputError, match="row 3: 'loss' is 'high'"):
        usable_rows(table).numbers("loss")


def test_a_parquet_file_that_expands_is_bounded_and_a_broken_one_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million equal cells are some hundred bytes in the file."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    zeros, small = tmp_path / "zeros.parquet", tmp_path / "small.parquet"
    parquet.write_table(pyarrow.table({"n": np.zeros(1_000_000), "loss": np.zeros(1_000_000)}), zeros)
    parquet.write_table(pyarrow.table({"n": [1.0, 2.0], "loss": [0.5, None]}), small)
    assert zeros.stat().st_size < 100_000
    monkeypatch.setattr(reading, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"has 1,000,000 rows and becomes more than 1\.00 MiB"):
        read_table(zeros)
    assert read_table(small).n_rows == 2
    whole = small.read_bytes()
    for place in range(4, len(whole) - 4):  # whatever is damaged: a table, or a sentence about it
        small.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with contextlib.suppress(InputError):
            read_table(small)


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_a_compressed_table_is_read_up_to_a_bound(
    opener: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Harmless spaces against a small bound."""
    path = tmp_path / f"t.{suffix}.{ {gzip.open: 'gz', bz2.open: 'bz2', lzma.open: 'xz'}[opener] }"
    start = b"n,loss\n1,2\n" if suffix == "csv" else b'{"n": 1, "loss": 2}\n'
    monkeypatch.setattr(opening, "MOST_BYTES", 1 << 20)
    for n_bytes, refused in ((1 << 10, False), (2 << 20, True)):
        with opener(path, "wb") as stream:
            stream.write(start + b" " * n_bytes)
        if refused:
            with pytest.raises(InputError, match=r"expands to more than 1\.00 MiB"):
                read_table(path)
        elif suffix == "jsonl":
            assert read_table(path).n_rows == 1
