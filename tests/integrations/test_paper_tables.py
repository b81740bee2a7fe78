"""Tables for papers: means and standard errors worked out by hand, names escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.integrations.export import export_study
from metascale.integrations.paper_tables import latex_text, markdown_text, paper_table, with_error
from metascale.study import read_study, results_table, run_study
from tests.study.folders import tiny_study


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        # 1, 2, 3: mean 2, deviation 1, error 1/√3 = 0.577; 120 and 124: mean 122, error 2
        ([1.0, 2.0, 3.0], "2.00 ± 0.58"),
        ([120.0, 124.0], "122 ± 2"),
        ([0.012345], "0.0123"),
        ([-0.5, -0.7], "-0.600 ± 0.100"),
        ([1e-9, 3e-9], "2.00e-09 ± 1.0e-09"),
        ([0.0, 0.0], "0.00 ± 0.00"),
        ([None, float("nan")], "–"),
    ],
)
def test_three_digits_with_the_error_of_the_mean(values: list[float], shown: str) -> None:
    assert with_error(values) == shown


def test_names_read_in_latex_and_markdown_as_they_are() -> None:
    name = r"50%_of $x & \y{#1}~^|*<b>"
    assert latex_text(name) == (r"50\%\_of \$x \& \textbackslash{}y\{\#1\}\textasciitilde{}\textasciicircum{}|*<b>")
    assert markdown_text(name) == r"50%\_of $x & \\y{#1}~^\|\*\<b\>"


def test_a_study_has_a_row_a_setting(tmp_path: Path) -> None:
    run_study(tiny_study("power", n_tasks=(2, 5), seeds=(0, 1)), tmp_path / "s")
    view = read_study(tmp_path / "s")
    found = paper_table(view)
    assert found.headings == ("n_tasks", "test_loss_nats", "seeds")
    losses = {n: [row["test_loss_nats"] for row in results_table(view).rows if row["n_tasks"] == n] for n in (2, 5)}
    half = abs(losses[2][0] - losses[2][1]) / 2  # the standard error of two values
    assert found.rows[0] == ("2", f"{sum(losses[2]) / 2:.2f} ± {half:.2f}", "2")
    assert len(found.rows) == 2
    for kind in ("latex", "markdown"):
        assert export_study(tmp_path / "s", kind, str(tmp_path / "t")) == 2
        text = (tmp_path / "t").read_text()
        assert r"n\_tasks" in text
        assert len(re.findall(r"0|1", text)) > 2
    assert (tmp_path / "t").read_text().splitlines()[1] == "| --- | ---: | ---: |"


def test_nothing_finished_is_refused(tmp_path: Path) -> None:
    run_study(tiny_study("sometimes_fails", n_tasks=(2,), fail_at=2, cured="nowhere"), tmp_path)
    with pytest.raises(InputError, match="no finished trial"):
        paper_table(read_study(tmp_path))
