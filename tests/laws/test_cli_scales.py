"""The commands on tables in several scales: fit, predict, forecast and backtest."""

from __future__ import annotations

import csv
import json
import time

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from metascale.cli import laws as cli_laws
from metascale.cli import scales as cli_scales
from metascale.core.errors import InputError
from metascale.laws.record import read_laws
from tests.laws.conftest import data_folder
from tests.laws.test_scales import surface


@pytest.fixture(scope="module")
def app():
    found = typer.Typer()
    for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum, cli_scales.predict):
        found.command()(command)
    return found


def run(app, *arguments):
    outcome = CliRunner().invoke(app, [str(part) for part in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture
def table(tmp_path):
    x, loss = surface()
    path = tmp_path / "runs.csv"
    write(path, ("N", "D", "loss"), np.column_stack([x, loss]))
    return path


def write(path, names, rows):
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)


def test_fit_then_predict(app, table, tmp_path, undrawn):
    text = run(app, "fit", table, "--x", "N", "--x", "D", "--bootstrap", 50, "--out", tmp_path / "law")
    assert "law chinchilla" in text  # two scales keep their verdict
    assert json.loads((tmp_path / "law" / "fit.json").read_text())["x_names"] == ["N", "D"]
    assert read_laws(tmp_path / "law")[""].predictor is not None
    write(tmp_path / "points.csv", ("name", "D", "N"), [("small", 1e9, 1e7), ("large", 1e12, 3e9)])
    parts = ("predict", tmp_path / "law", tmp_path / "points.csv", "--out", tmp_path / "out.csv")
    said = CliRunner().invoke(app, [str(part) for part in parts]).stderr
    assert "1 of 2 rows lie outside the table that was fitted (rows 2; up to 10 times" in said
    with open(tmp_path / "out.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["small", "large"]
    truth = 1.8 + 480 / 3e9**0.35 + 2100 / 1e12**0.37
    assert float(rows[1]["low"]) < float(rows[1]["median"]) < float(rows[1]["high"])
    assert float(rows[1]["median"]) == pytest.approx(truth, rel=0.05)
    assert float(rows[1]["beyond"]) == pytest.approx(10.0)
    write(tmp_path / "bad.csv", ("N",), [(1e7,)])
    with pytest.raises(InputError, match="no column 'D', which the law needs"):
        run(app, "predict", tmp_path / "law", tmp_path / "bad.csv")


def test_formula_with_bounds_and_fixed_values(app, table, tmp_path):
    law = "E + A/N**alpha + B/D**beta"
    record = json.loads(run(app, "fit", table, "--law", law, "--fix", "E=1.8", "--bound", "beta=0:1", "--json"))
    assert record["x_names"] == ["N", "D"]  # the columns that the formula names
    assert record["parameters"]["E"]["estimate"] == 1.8
    assert record["parameters"]["alpha"]["low"] < 0.35 < record["parameters"]["alpha"]["high"]
    for option, said in (("alpha=x:1", "not a number"), ("alpha=2", "no range"), ("alpha=2:1", "no range")):
        with pytest.raises(InputError, match=said):
            run(app, "fit", table, "--law", law, "--bound", option)


def test_predict_in_one_scale_is_the_forecast(app, tmp_path, undrawn):
    rows = [(n, 1.7 + 400 * n**-0.4) for n in np.geomspace(1e6, 1e8, 9)]
    write(tmp_path / "one.csv", ("tokens", "loss"), rows)
    run(app, "fit", tmp_path / "one.csv", "--bootstrap", 20, "--out", tmp_path / "law")
    write(tmp_path / "points.csv", ("tokens",), [(4e8,), (2e8,)])
    said = json.loads(run(app, "predict", tmp_path / "law", tmp_path / "points.csv", "--json"))
    ahead = json.loads(run(app, "forecast", tmp_path / "one.csv", "--to", 2e8, "--to", 4e8, "--json"))
    assert said["rows"][0]["median"] == pytest.approx(ahead["median"][-1], rel=1e-9)
    assert said["rows"][1]["high"] == pytest.approx(ahead["high"][0], rel=1e-9)


def test_groups_have_laws_of_their_own(app, tmp_path, undrawn):
    x, loss = surface(5)
    rows = [(name, *row, factor * value) for name, factor in (("a", 1.0), ("b", 0.8))
            for row, value in zip(x, loss, strict=True)]  # fmt: skip
    write(tmp_path / "two.csv", ("kind", "N", "D", "loss"), rows)
    law = "E + A/N**alpha + B/D**beta"
    run(app, "fit", tmp_path / "two.csv", "--law", law, "--group", "kind", "--out", tmp_path / "law")
    write(tmp_path / "points.csv", ("kind", "N", "D"), [("b", 1e9, 1e11), ("a", 1e9, 1e11)])
    said = run(app, "predict", tmp_path / "law", tmp_path / "points.csv", "--group", "kind", "--json")
    medians = [row["median"] for row in json.loads(said)["rows"]]
    assert medians[0] == pytest.approx(0.8 * medians[1], rel=1e-3)
    with pytest.raises(InputError, match="2 laws"):
        run(app, "predict", tmp_path / "law", tmp_path / "points.csv")


@pytest.mark.long
def test_forecast_and_backtest_in_two_scales(app, table, tmp_path):
    options = ("--x", "N", "--x", "D")
    text = run(app, "forecast", table, *options, "--to", "N=3e9,D=1e12", "--out", tmp_path)
    assert "10 times beyond the table" in text
    assert (tmp_path / "forecast.csv").is_file()
    with pytest.raises(InputError, match="name every scale once"):
        run(app, "forecast", table, *options, "--to", "N=3e9")
    rows = json.loads(run(app, "backtest", table, *options, "--json"))["corners"]
    assert {"corner", "hidden", "rmse", "coverage"} <= set(rows[0])


TARGETS = {
    "moe": (("num_experts", "dense_parameter_count"), "loss_validation", 0.75),
    "farseer": (("N", "D"), "loss", 0.93),
    "data_constrained": (("params", "tokens", "unique_tokens"), "loss", 0.95),
    "vocab": (("non_vocab_parameters", "vocab_size", "num_characters"), "unigram_normalized_loss", 0.98),
}


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_the_region_to_predict_of_scalebench(app, name, tmp_path):
    root = data_folder()
    folder = None if root is None else root / "scalebench"
    if folder is None or not folder.is_dir():
        pytest.skip("METASCALE_DATA has no scalebench")
    scales, loss, least = TARGETS[name]
    begin = time.process_time()
    named = [part for scale in scales for part in ("--x", scale)]
    run(app, "fit", folder / f"{name}_train.csv", *named, "--y", loss, "--bootstrap", 200, "--out", tmp_path)
    said = json.loads(run(app, "predict", tmp_path, folder / f"{name}_test.csv", "--json"))
    assert time.process_time() - begin < 40
    observed, median = (np.array([float(row[key]) for row in said["rows"]]) for key in (loss, "median"))
    assert 1 - np.sum((observed - median) ** 2) / np.sum((observed - observed.mean()) ** 2) >= least
