from __future__ import annotations

import math
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metascale.core.errors import CorruptFile, InputError
from metascale.study.store.records import RecordFile, format_cell, format_row, parse_cell, parse_rows, read_rows

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(), scalars, max_size=3)


@patient
@given(values)
def test_a_cell_reads_back_as_the_value_that_was_written(value):
    back = parse_cell(format_cell(value))
    assert back == value
    assert type(back) is type(value)


@patient
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_every_bit(value):
    assert struct.pack("d", parse_cell(format_cell(value))) == struct.pack("d", value)


@patient
@given(st.lists(values, min_size=1, max_size=4))
def test_a_row_is_one_line_whatever_it_holds(row):
    cells = [format_cell(value) for value in row]
    text = format_row([f"k{n}" for n in range(len(cells))]) + "\n" + format_row(cells) + "\n"
    assert text.count("\n") == 2
    assert list(parse_rows(text, "here")[0].values()) == row


@pytest.mark.parametrize("text", ["12", "1e5", "true", "", '"', "[", "{}", "two\nlines", "-0.0", "NaN", "1_0"])
def test_a_text_that_looks_like_something_else_stays_a_text(text):
    assert parse_cell(format_cell(text)) == text


def test_rows_are_durable_at_flush_and_readable_before(tmp_path):
    record = RecordFile(tmp_path / "train.csv")
    record.append({"step": 1, "loss": 0.1 + 0.2})
    assert record.rows() == [{"step": 1, "loss": 0.30000000000000004}]
    assert not record.path.exists()
    record.flush()
    record.append({"loss": 2.0, "step": 2})
    assert record.path.read_text() == "step,loss\n1,0.30000000000000004\n"
    assert [row["step"] for row in record.rows()] == [1, 2]
    record.flush()
    assert read_rows(record.path) == [{"step": 1, "loss": 0.30000000000000004}, {"step": 2, "loss": 2.0}]


@pytest.mark.parametrize(
    "row", [{"loss": 1.0}, {"step": True, "loss": 1.0}, {"step": 1.0, "loss": 1.0}, {"step": 2}, {"step": 2, "los": 1}]
)
def test_rows_with_other_keys_or_no_step_are_refused(tmp_path, row):
    record = RecordFile(tmp_path / "train.csv")
    record.append({"step": 1, "loss": 1.0})
    with pytest.raises(InputError, match="'train'"):
        record.append(row)
    assert len(record.rows()) == 1


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(InputError, match="finite"):
        RecordFile(tmp_path / "train.csv").append({"step": 1, "loss": math.nan})


def test_cut_back_returns_to_the_mark_and_goes_on_from_there(tmp_path):
    record = RecordFile(tmp_path / "train.csv")
    record.append({"step": 1, "loss": 1.0})
    record.flush()
    mark, text = record.mark(), record.path.read_text()
    record.append({"step": 2, "loss": 2.0})
    record.flush()
    back = RecordFile.cut_back(record.path, mark)
    back.truncate()
    assert record.path.read_text() == text
    back.append({"step": 2, "loss": 2.5})
    back.flush()
    assert [row["loss"] for row in back.rows()] == [1.0, 2.5]


def test_changed_bytes_before_the_mark_are_seen(tmp_path):
    record = RecordFile(tmp_path / "train.csv")
    record.append({"step": 1, "loss": 1.0})
    record.flush()
    record.path.write_text(record.path.read_text().replace("1.0", "1.5"))
    with pytest.raises(CorruptFile, match=r"train\.csv"):
        RecordFile.cut_back(record.path, record.mark())
    record.path.write_text("step")
    with pytest.raises(CorruptFile):
        RecordFile.cut_back(record.path, record.mark())


def test_what_a_failed_append_left_is_cut_before_the_next(tmp_path):
    record = RecordFile(tmp_path / "train.csv")
    record.append({"step": 1, "loss": 1.0})
    record.flush()
    with open(record.path, "a") as stream:
        stream.write("2,0.")
    assert len(read_rows(record.path)) == 1
    record.append({"step": 2, "loss": 2.0})
    record.flush()
    assert record.path.read_text() == "step,loss\n1,1.0\n2,2.0\n"


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", 'a\n"""x"\n', 'a\n"[1"\n'])
def test_a_line_that_does_not_fit_is_named(text):
    with pytest.raises(CorruptFile, match="here, line 2"):
        parse_rows(text, "here")
