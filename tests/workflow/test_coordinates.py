"""The coordinate check as a command: rows, exponents, plot, and one sentence for bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from metascale.cli.main import main
from metascale.core.errors import CorruptFile, InputError
from metascale.workflow.coordinates import (
    FILE,
    MODELS,
    MUP,
    STANDARD,
    check_coordinates,
    plot_coordinates,
    read_coordinates,
)

DRAWN = True


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["metascale", "coordinate-check", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command_tells_mup_from_the_standard_parameterisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "mlp", "--widths", "256,64,128", "--out", str(tmp_path / "check")) == 0
    printed = capsys.readouterr().out
    assert "grows with the width" in printed
    assert "μP: " in printed
    assert "does not grow with the width" in printed
    table = read_coordinates(tmp_path / "check")
    assert table.checks[STANDARD].steepest()[1] > 0.5
    assert table.checks[MUP].steepest()[1] < 0.2
    assert {row.width for row in table.checks[MUP].rows} == {64, 128, 256}
    assert (tmp_path / "check" / "coordinates.png").stat().st_size > 10_000
    at_base = [
        {(row.step, row.name): row.change for row in table.checks[k].rows if row.width == 64} for k in (STANDARD, MUP)
    ]
    assert at_base[0] == at_base[1], "at the base width both are one"


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_every_model_can_be_checked(name: str, tmp_path: Path) -> None:
    found, _ = check_coordinates(name, [8, 16], tmp_path, steps=1, depth=1)
    assert "logits" in found.checks[MUP].exponents()
    assert read_coordinates(tmp_path) == found


def test_exponents_and_lines_are_those_of_planted_rows(tmp_path: Path) -> None:
    rows = [
        {"parameterisation": STANDARD, "width": w, "step": step, "name": name, "size": 1.0, "change": step * w**power}
        for name, power in (("logits", 1.0), ("layer0", 0.0))
        for w in (16, 64)
        for step in (0, 1, 2)
    ]
    rows += [{**rows[-1], "name": "still", "change": 0.0, "step": 2, "width": w} for w in (16, 64)]
    (tmp_path / FILE).write_text(json.dumps({"model": "m", "steps": 2, "rows": rows}))
    table = read_coordinates(tmp_path)
    assert table.checks[STANDARD].exponents() == pytest.approx({"logits": 1.0, "layer0": 0.0})
    assert table.checks[STANDARD].last()["logits"] == [(16, 32.0), (64, 128.0)]
    assert table.verdict == "Standard: logits grows with the width (exponent 1.00)."
    ax = Figure().subplots()
    plot_coordinates(table, ax, parameterisation=STANDARD)
    assert sorted(line.get_label() for line in ax.lines) == ["layer0", "logits"]
    assert ax.get_title(loc="left") == "Standard, steepest: width^1.00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tranformer",), "there is no model 'tranformer' to check; did you mean 'transformer'?"),
        (("mlp", "--widths", "64"), "two or more different --widths above 0, not [64]"),
        (("mlp", "--widths", "64,64"), "two or more different --widths above 0, not [64, 64]"),
        (("mlp", "--widths", "a,b"), "--widths needs whole numbers separated by commas"),
        (("transformer", "--widths", "10,20"), "multiples of 4, not [10, 20]"),
        (("mlp", "--steps", "0"), "steps and depth are at least 1 and lr is above 0, not 0, 2 and 0.01"),
        (("mlp", "--lr", "nan"), "lr is above 0"),
        (("mlp", "--seeds", "-1"), "--seeds are one or more whole numbers of 0 or more, not [-1]"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2_and_writes_nothing(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, *arguments, "--out", str(tmp_path / "check")) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "check").exists()


def test_a_folder_without_a_check_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no coordinates\.json"):
        read_coordinates(tmp_path)
    (tmp_path / FILE).write_text('{"rows": [{}]}')
    with pytest.raises(CorruptFile, match="does not hold the rows"):
        read_coordinates(tmp_path)
