"""What `--group`, `--best-of` and `--run` do on each law command, with formulas, in one, two and three scales."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import metascale as ms
from metascale.cli import laws as cli_laws
from metascale.cli import next_run
from metascale.cli.scales import predict

GRIDS = {
    1: {"N": np.geomspace(1e7, 1e9, 8)},
    2: {"N": np.geomspace(1e7, 1e9, 5), "D": np.geomspace(1e9, 3e10, 5)},
    3: {"N": np.geomspace(1e7, 1e9, 4), "D": np.geomspace(1e9, 3e10, 4), "X": np.geomspace(1, 64, 3)},
}
PARTS = ("E + A/N**alpha", " + B/D**beta", " + G/X**gamma")
FLAGS = {"group": ("--group", "arm"), "best_of": ("--best-of", "lr"), "run": ("--run", "model")}
LONG = [
    pytest.param(scales, option, marks=[pytest.mark.long] if scales > 1 else [])  # seconds for all forms
    for scales, option in itertools.product(GRIDS, FLAGS)
]
EVERY = pytest.mark.parametrize(("scales", "option"), list(itertools.product(GRIDS, FLAGS)))


@pytest.fixture(scope="module")
def app():
    found = typer.Typer()
    for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum, predict):
        found.command()(command)
    found.command("next")(next_run.next_)
    return found


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """By scales and option a table that is wrong to read without it: arms that differ, rates that are too small or too
    large, checkpoints before the end."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    for (scales, grid), option in itertools.product(GRIDS.items(), FLAGS):
        rows = []
        for k, point in enumerate(itertools.product(*grid.values())):
            row = dict(zip(grid, point, strict=True))
            loss = 1.7 + 400 * point[0] ** -0.35 + sum(
                c * value**-p for c, p, value in zip((900, 0.3), (0.35, 0.3), point[1:], strict=False)
            )  # fmt: skip
            more = {
                "group": [({"arm": "a"}, 1.0), ({"arm": "b"}, 1.2)],
                "best_of": [({"lr": lr}, 1 + 0.1 * abs(np.log10(lr) + 3)) for lr in (1e-4, 1e-3, 1e-2)],
                "run": [({"model": f"m{k}", "step": 1}, 1.1), ({"model": f"m{k}", "step": 2}, 1.0)],
            }[option]
            rows += [
                {**row, **named, "loss": loss * factor * np.exp(0.003 * rng.standard_normal())}
                for named, factor in more
            ]  # fmt: skip
        with open(folder / f"{scales}{option}.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def call(app, *arguments):
    outcome = CliRunner().invoke(app, [str(part) for part in arguments])
    assert outcome.exit_code == 0, (outcome.output, outcome.exception)
    return outcome


def scales_of(scales):
    return [part for name in GRIDS[scales] for part in ("--x", name)]


def n_points(scales):
    return int(np.prod([len(values) for values in GRIDS[scales].values()]))


@EVERY
def test_a_formula_reads_the_rows_that_count(app, tables, scales, option):
    law = "".join(PARTS[:scales])
    path = tables / f"{scales}{option}.csv"
    found = json.loads(call(app, "fit", path, *scales_of(scales), "--law", law, *FLAGS[option], "--json").stdout)
    arms = found["groups"] if option == "group" else {"a": found}
    for name, factor in zip(arms, (1.0, 1.2), strict=False):
        assert arms[name]["n_observations"] == n_points(scales)
        floor = arms[name]["parameters"]["E"]
        assert floor["low"] < 1.7 * factor < floor["high"]


@pytest.mark.parametrize("option", FLAGS)
def test_an_optimum_reads_the_rows_that_count(app, tables, option):
    path = tables / f"2{option}.csv"
    found = json.loads(call(app, "optimum", path, "--compute", 1e21, *FLAGS[option], "--json").stdout)
    assert ("groups" in found) == (option == "group")
    arms = found.get("groups", {"": found})
    truth = (400 / 900) ** (1 / 0.7) * (1e21 / 6) ** 0.5
    for one in arms.values():
        assert one["law"]["n_observations"] == 25
        assert one["n_params"]["estimate"][0] == pytest.approx(truth, rel=0.5)
    refused = CliRunner().invoke(app, ["optimum", str(tables / f"1{option}.csv"), "--compute", "1e21", *FLAGS[option]])
    assert "name it with `d`" in str(refused.exception)


@pytest.mark.parametrize(("scales", "option"), LONG)
def test_forecast_and_backtest_read_the_rows_that_count(app, tables, scales, option):
    path, names = tables / f"{scales}{option}.csv", scales_of(scales)
    ends = {name: 2 * values[-1] for name, values in GRIDS[scales].items()}
    to = ",".join(f"{name}={value:g}" for name, value in ends.items()) if scales > 1 else f"{ends['N']:g}"
    call(app, "backtest", path, *names, *FLAGS[option])
    found = json.loads(call(app, "forecast", path, *names, "--to", to, *FLAGS[option], "--json").stdout)
    assert ("groups" in found) == (option == "group")


@pytest.mark.parametrize("scales", GRIDS)
def test_laws_of_groups_predict_each_its_rows(app, tables, scales, tmp_path, undrawn):
    law = {1: "power_irreducible", 2: "chinchilla", 3: "".join(PARTS)}[scales]
    asked = [*scales_of(scales), "--law", law, "--bootstrap", 20, "--out", tmp_path / "law"]
    call(app, "fit", tables / f"{scales}group.csv", *asked, *FLAGS["group"])
    point = [f"{values[-1]:g}" for values in GRIDS[scales].values()]
    lines = [",".join([*GRIDS[scales], "arm"]), *(",".join([*point, arm]) for arm in ("b", "a"))]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    said = call(app, "predict", tmp_path / "law", tmp_path / "points.csv", "--group", "arm", "--json").stdout
    b, a = json.loads(said)["rows"]
    assert b["median"] / a["median"] == pytest.approx(1.2, rel=0.02)


@pytest.mark.parametrize("option", FLAGS)
def test_next_refuses_what_it_does_not_read(app, tables, option):
    refused = CliRunner().invoke(app, ["next", str(tables / f"1{option}.csv"), *FLAGS[option]])
    assert refused.exit_code == 2
    assert f"No such option: {FLAGS[option][0]}" in refused.output


def test_a_law_that_a_cut_does_not_determine_has_no_error_there(tables):
    found = ms.fit(tables / "3run.csv", x=tuple(GRIDS[3]), law="".join(PARTS), run="model")
    assert max(corner.errors[0] for corner in found.choice.corners) > 1e100
    record = found.to_json()
    json.dumps(record, allow_nan=False)
    assert record["families"]["formula"]["backtest_rmse_log"] is None
    assert any("does not determine the law" in note for note in found.notes)
