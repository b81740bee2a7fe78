"""Names and tables that the command line writes, worked out by hand."""

from __future__ import annotations

import pytest

from metascale.cli.flags import _put
from metascale.cli.words import csv_text, folder_name


@pytest.mark.parametrize("group", ["plain-1.5_b", "größe", "a" * 50])
def test_a_plain_group_s_name_is_its_folder_s(group: str) -> None:
    assert folder_name(group) == group


@pytest.mark.parametrize(
    ("group", "begin"), [("a/b c", "a_b_c-"), ("..", "group-"), ("a" * 51, "a" * 50 + "-"), (".a/", "a_-")]
)
def test_another_name_is_cleaned_and_kept_apart_by_eight_letters(group: str, begin: str) -> None:
    found = folder_name(group)
    assert found.startswith(begin)
    assert len(found) == len(begin) + 8
    assert found != folder_name(group + "x")


def test_a_table_in_csv_has_the_columns_of_its_first_row() -> None:
    rows = [{"name": "a,b", "loss": 0.1}, {"loss": 1e-20, "other": 3}, {"name": "=1+1"}]
    assert csv_text(rows) == 'name,loss\n"a,b",0.1\n,1e-20\n\'=1+1,\n'


@pytest.mark.parametrize(
    ("flag", "sign", "shown"),
    [("--out", "", "--out"), ("--out", "=", "--out="), ("--set a=", "", "--set a=..."), ("--set a=", "=", "--set a=")],
)
def test_a_flag_in_the_place_of_a_name(flag: str, sign: str, shown: str) -> None:
    assert _put(flag, sign) == shown
