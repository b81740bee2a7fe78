"""One style of numbers for pages and pictures."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from metascale.laws.record import HiddenScale
from metascale.report.sections.contest import contest_data
from metascale.report.sections.law import _extrapolation_sentence, law_data
from metascale.report.study import open_study
from metascale.report.style import width_in
from metascale.report.words import greek, in_order, interval, measured, number, numbers


@pytest.mark.parametrize(
    ("value", "setting", "reading"),
    [
        (0.1, "0.1", "0.100"),
        (1 / 3, "0.333", "0.333"),
        (12.5, "12.5", "12.5"),
        (1482.0, "1,482", "1,480"),
        (16695.7, "16,700", "16,700"),
        (999.9, "1,000", "1,000"),
        (0.0003676, "0.000368", "0.000368"),
        (7.414e-6, "7.41×10⁻⁶", "7.41×10⁻⁶"),
        (-4.332673e10, "−4.33×10¹⁰", "−4.33×10¹⁰"),
        (0.0, "0", "0"),
        (float("inf"), "inf", "inf"),
    ],
)
def test_three_significant_digits(value: float, setting: str, reading: str) -> None:
    assert (number(value), measured(value)) == (setting, reading)


def test_what_is_unknown_is_a_dash() -> None:
    assert measured(None) == "–"
    assert interval(None, 1.0) == ""


def test_numbers_that_would_read_the_same_get_more_digits() -> None:
    assert interval(1.00122, 1.00431) == "[1.001, 1.004]"
    assert interval(0.152, 0.168) == "[0.152, 0.168]"
    assert numbers([1.0, 1.0005, 1.001]) == ["1", "1.0005", "1.001"]


def test_parameters_are_greek_and_words_are_not() -> None:
    assert greek("L = E + A x^-alpha, beta_2") == "L = E + A x^−α, β_2"
    assert greek("alphabet") == "alphabet"


def test_a_study_is_a_table_in_a_notebook(study_folder: Path) -> None:
    text = open_study(study_folder)._repr_html_()
    assert text.count("<tr>") == 1 + len(open_study(study_folder).points)
    assert "1 diverged" in text
    assert "training tasks" in text or "N\u00a0=\u00a0200" in text


def test_a_comparison_is_tables_in_a_notebook(study_folder: Path) -> None:
    found = contest_data(study_folder)
    text = found._repr_html_()
    assert found.comparisons
    assert text.count("<tr>") == 2 + len(found.shown) + len(found.comparisons)
    first = found.comparisons[0]
    assert f"{escape(first.first)} − {escape(first.second)}</th><td>{measured(first.test.difference.estimate)}" in text
    told = replace(
        found, rows=(replace(found.rows[0], name="<b>x</b>"),), comparisons=(), notes=("a < b",)
    )._repr_html_()
    assert "<b>x" not in told
    assert "a &lt; b" in told


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    names = ["MAML, width 16", "MAML, width 8", "MAML, lr 0.5", "MAML, lr 1e-3", "16 ways", "Reptile"]
    assert sorted(names, key=in_order) == [
        "16 ways", "MAML, lr 1e-3", "MAML, lr 0.5", "MAML, width 8", "MAML, width 16", "Reptile",
    ]  # fmt: skip
    assert sorted(["tokens 1,441,792", "tokens 180,224"], key=in_order)[0] == "tokens 180,224"


def test_a_plain_baseline_is_named_where_its_error_is_smaller(study_folder: Path) -> None:
    """Measured 1.0: the law is 0.1 off, the baselines 0.3, 0.05 and 0.1."""
    law = law_data(study_folder)
    baselines = {"last_value": 1.3, "local_slope": 0.95, "mean": 1.1}
    hidden = HiddenScale(80.0, "power", 1.0, 0.9, 0.8, 1.1, None, baselines)
    said = _extrapolation_sentence("", hidden, law)
    assert "measured 1.00, inside the 95 % interval." in said
    assert said.endswith(" A plain baseline was closer: local slope.")
    said = _extrapolation_sentence("", replace(hidden, low=0.8, high=0.95, baselines={"mean": 1.3}), law)
    assert said.endswith("measured 1.00, outside the 95 % interval.")


def test_a_blank_line_has_no_width() -> None:
    assert [width_in(text, 10) for text in ("", "  ")] == [0.0, 0.0]
    assert width_in("xx", 20) == pytest.approx(2 * width_in("xx", 10), rel=0.02)
