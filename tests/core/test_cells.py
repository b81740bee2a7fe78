"""Cells that a spreadsheet would run are texts for it, and come back as they were."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metascale.core.cells import STARTS, plain_text, safe_text

DANGEROUS = ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "'=1", "''@x"]


@pytest.mark.parametrize("text", DANGEROUS)
def test_no_cell_begins_with_what_a_spreadsheet_runs(text: str) -> None:
    assert not safe_text(text).startswith(STARTS)
    assert plain_text(safe_text(text)) == text


@given(st.text(alphabet="'=+-@\t\r\n＝a1 "))
def test_every_text_comes_back_and_no_two_share_a_cell(text: str) -> None:
    assert plain_text(safe_text(text)) == text
    assert not safe_text(text).startswith(STARTS)


def test_what_needs_no_mark_has_none() -> None:
    assert [safe_text(text) for text in ("it's", "'tis", "n_tasks=2", " =1", "", "1e-3")] == [
        "it's", "'tis", "n_tasks=2", " =1", "", "1e-3"
    ]  # fmt: skip


def test_the_tables_that_we_write_are_safe_and_our_reader_gives_the_texts_back(tmp_path: Path) -> None:
    from metascale.integrations.sources.runs import to_csv
    from metascale.laws.reading import read
    from metascale.study.store.table import ResultsTable

    texts, numbers = [text for text in DANGEROUS if text.strip() == text], [-1.5, 2.0, -3e-7]
    texts = (texts * 2)[:9]
    values = (numbers * 3)[:9]
    rows = tuple({"=name": text, "loss": value} for text, value in zip(texts, values, strict=True))
    written = {
        "study": ResultsTable(("=name", "loss"), rows).to_csv(),
        "imported": to_csv({"=name": texts, "loss": values}),
    }
    for name, text in written.items():
        cells = list(csv.reader(io.StringIO(text)))
        assert not [row[0] for row in cells if row[0].startswith(STARTS)]
        assert [row[1] for row in cells[1:]] == [repr(value) for value in values]  # numbers are untouched
        (tmp_path / f"{name}.csv").write_text(text, newline="")
        found = read(tmp_path / f"{name}.csv").columns
        assert list(found) == ["=name", "loss"]
        assert [str(one) for one in found["=name"]] == texts
        np.testing.assert_array_equal(found["loss"].astype(float), values)
