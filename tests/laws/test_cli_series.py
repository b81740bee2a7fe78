"""Series and best-of in `fit`, for tables of strangers and for a study's folder; what is pooled is said."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from metascale.cli import laws as cli_laws
from metascale.core.errors import InputError
from metascale.study import run_study
from tests.workflow.test_roles import WIDTHS, study

app = typer.Typer()
for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum):
    app.command()(command)


def call(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(part) for part in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.output


def write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    """loss = 4 · n^-1/2 at rate .1, a half more at .3; the validation loss says so. A column of seconds beside them."""
    rows: list[list[object]] = [["n", "peak_lr", "val_loss", "loss", "wall_s"]]
    for k, n in enumerate((10, 20, 40, 80, 160)):
        for j, lr in enumerate((0.1, 0.3, 1.0)):
            loss = 4 * n**-0.5 * (1, 1.5, 2)[j]
            rows.append([n, lr, loss + 0.01, loss, 100 + 7 * k + j])
    return write(tmp_path / "swept.csv", rows)


def test_a_swept_number_that_is_pooled_is_said(swept: Path) -> None:
    text = call("fit", swept, "--x", "n", "--y", "loss")
    assert "'peak_lr' (3 values) are pooled, as if they were repeats" in text
    assert "wall_s" not in text, "a measurement is no condition"


def test_best_of_keeps_the_best_value_and_says_how(swept: Path) -> None:
    text = call("fit", swept, "--x", "n", "--y", "loss", "--best-of", "peak_lr")
    assert "(5 rows, 5 scales)" in text
    assert "best mean val_loss" in text
    assert "pooled" not in text


def test_series_have_a_law_each_and_are_not_compared(swept: Path) -> None:
    text = call("fit", swept, "--x", "n", "--y", "loss", "--series", "peak_lr")
    assert [text.count(f"peak_lr={lr}: loss falls") for lr in ("0.1", "0.3", "1")] == [1, 1, 1]
    assert "one exponent" not in text
    assert "pooled" not in text
    assert "one exponent" in call("fit", swept, "--x", "n", "--y", "loss", "--group", "peak_lr")


def test_group_and_series_do_not_go_together(swept: Path) -> None:
    with pytest.raises(InputError, match="`group` and `series` cannot go together"):
        call("fit", swept, "--x", "n", "--y", "loss", "--series", "peak_lr", "--group", "peak_lr")


def test_a_column_that_is_not_there_is_refused(swept: Path) -> None:
    with pytest.raises(InputError, match="no column 'peak_rl'; did you mean 'peak_lr'"):
        call("fit", swept, "--x", "n", "--y", "loss", "--best-of", "peak_rl")


def test_a_study_is_read_with_its_own_roles_from_its_folder_or_its_table(tmp_path: Path) -> None:
    run_study(study({"width": WIDTHS, "vocabulary": [100, 200], "lr": [0.1, 0.3]}, best_of="lr"), tmp_path)
    for path in (tmp_path, tmp_path / "results.csv"):
        text = call("fit", path)
        assert "vocabulary=100: error falls" in text
        assert "vocabulary=200: error falls" in text
        assert text.count("(10 rows, 5 scales)") == 2
    assert "vocabulary=200:" in call("forecast", tmp_path, "--to", 500)
    assert "vocabulary=200:" in call("backtest", tmp_path)
    copied = tmp_path / "copy.csv"
    copied.write_bytes((tmp_path / "results.csv").read_bytes())
    text = call("fit", copied, "--x", "width", "--y", "error")
    assert "'vocabulary' (2 values) are pooled" in text, "the table alone does not know the roles, and says so"


def test_optimum_of_a_study_of_two_scales(tmp_path: Path) -> None:
    axes = {"size": [10, 30, 100, 300], "tokens": [100, 300, 1000, 3000]}
    run_study(study(axes, "surface", (0,), scale=["size", "tokens"], loss="loss"), tmp_path)
    text = call("optimum", tmp_path, "--compute", 1e6)
    assert "alpha 0.5" in text
    assert "beta 0.3" in text
    assert "alpha 0.5" in call("fit", tmp_path, "--law", "chinchilla")
    with pytest.raises(InputError, match=r"`to` '10000.0' is no value; give NAME=VALUE, such as size=...,tokens=..."):
        call("forecast", tmp_path, "--to", 1e4)
    assert call("forecast", tmp_path, "--x", "size", "--to", 1e4).count("tokens=") == 4
