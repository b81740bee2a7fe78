"""Commands on kinds of tables: runs with their learning rates, shares, plans of next runs, columns of cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import metascale as ms
from metascale.cli import laws as cli_laws
from metascale.cli.scales import predicted_rows
from metascale.core.errors import InputError
from metascale.laws.multi_power import NAMES, loss_of
from metascale.laws.predicting import read_predictors
from metascale.laws.schedules import Schedule
from metascale.laws.table import read_table
from tests.laws.test_cost import best_size
from tests.laws.test_cost import table as costs
from tests.laws.test_entry import call, write
from tests.laws.test_multi_power import PUBLISHED, long_table
from tests.laws.test_next import hoffmann
from tests.laws.test_shares import table as shares


def test_a_long_table_is_fitted_and_forecast_in_python_and_by_the_command(tmp_path):
    table = long_table()
    schedule = "wsd:peak=3e-4,steps=5000,warmup=200"
    ahead = ms.forecast(table, law="multi_power", schedule=schedule)
    truth = loss_of(PUBLISHED, Schedule.named(schedule), [5000])[0]
    assert ahead.low[0] < truth < ahead.high[0]
    path = write(tmp_path / "curves.csv", table)
    found = json.loads(call("forecast", path, "--schedule", schedule, "--to", 5000, "--json").stdout)
    assert found["rows"][0]["median"] == pytest.approx(ahead.median[0])
    stored = json.loads(call("fit", path, "--law", "multi_power", "--json", "--out", tmp_path / "out").stdout)
    assert set(stored["parameters"]) == set(NAMES)
    assert (tmp_path / "out" / "curves.csv").exists()
    with pytest.raises(InputError, match="no column of learning rates"):
        ms.fit({name: table[name] for name in ("run", "step", "loss")}, law="multi_power")
    with pytest.raises(InputError, match="not for the law"):
        ms.fit(table, law="multi_power", n_bootstrap=10)


def test_every_group_has_a_law_of_schedules_in_python_and_by_the_command(tmp_path):
    """The second arm's loss is twice the first's, and so are L0, A and B."""
    one = long_table()
    table = {name: np.concatenate([cells, cells]) for name, cells in one.items()}
    table["loss"] = np.r_[one["loss"], 2 * one["loss"]]
    table["arm"] = ["old"] * len(one["loss"]) + ["new"] * len(one["loss"])
    fits, schedule = ms.fit(table, law="multi_power", group="arm"), "cosine:peak=3e-4,steps=3000,warmup=200"
    ahead = ms.forecast(table, law="multi_power", group="arm", schedule=schedule)
    assert ahead["new"].median[0] == pytest.approx(2 * ahead["old"].median[0], rel=1e-4)
    fits.save(tmp_path / "laws.json")
    assert ms.load_law(tmp_path / "laws.json")["new"].predict(schedule).rows() == ahead["new"].rows()
    path, out = write(tmp_path / "curves.csv", table), tmp_path / "out"
    call("fit", path, "--law", "multi_power", "--group", "arm", "--out", out)
    points = write(tmp_path / "points.csv", {"arm": ["old", "old", "new"], "step": [1, 3000, 3000], "lr": [3e-4] * 3})
    rows = predicted_rows(read_table(points), read_predictors(out), 0.9, "arm")
    flat = {arm: fits[arm].predict({"step": [1, 3000], "lr": [3e-4, 3e-4]}) for arm in ("old", "new")}
    assert [row["median"] for row in rows[1:]] == [flat["old"].median[0], rows[2]["median"]]
    said = json.loads(call("forecast", path, "--group", "arm", "--schedule", schedule, "--json").stdout)
    assert said["groups"]["old"]["rows"] == ahead["old"].rows()


def test_the_commands_take_options_of_shares_beside_a_loss_and_test_both(tmp_path):
    path, options = write(tmp_path / "t.csv", shares(7)), ["--x", "N", "--y", "loss", "--y", "acc", "--chance", 0.25]
    said = json.loads(call("fit", path, *options, "--trials", "asked", "--bootstrap", 20, "--json").stdout)
    assert set(said["metrics"]) == {"loss", "acc"}
    assert said["metrics"]["acc"]["chance"] == "given"
    out = tmp_path / "out"
    tested = json.loads(call("backtest", path, *options, "--json", "--out", out).stdout)
    assert tested["metrics"]["acc"]["means"] == ms.backtest(shares(7), x="N", y="acc", chance=0.25).means()
    assert {path.name for path in (out / "acc").iterdir()} == {"backtest.json", "backtest.png"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.long
def test_the_command_writes_a_folder_a_metric_and_predicts_from_it(tmp_path):
    path, out = write(tmp_path / "t.csv", shares(7)), tmp_path / "out"
    said = call("fit", path, "--x", "N", "--y", "loss", "--y", "acc", "--y", "note", "--bootstrap", 20, "--out", out)
    assert "refused" in said.output
    stored = json.loads((out / "metrics.json").read_text())
    assert set(stored["metrics"]) == {"loss", "acc"}
    assert list(stored["refused"]) == ["note"]
    again = read_predictors(out / "acc")[""].predict([1e10])
    assert again.low[0] == ms.fit(shares(7), x="N", y="acc").predict([1e10]).low[0]
    two = tmp_path / "two"
    options = ["--x", "N", "--y", "acc", "--via", "loss", "--chance", 0.25, "--trials", "asked"]
    call("fit", path, *options, "--out", two)
    rows = json.loads(call("forecast", path, *options, "--to", "1e10", "--json").stdout)["rows"]
    assert read_predictors(two)[""].predict([1e10]).high[0] == pytest.approx(rows[0]["high"])
    assert rows[0]["low_from_loss"] > rows[0]["low"]
    assert "loss_low" in rows[0]


def test_the_next_runs_of_the_command(tmp_path, capsys, monkeypatch):
    from metascale.cli.main import main

    def call(*words):
        monkeypatch.setattr("sys.argv", ["metascale", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    (tmp_path / "runs.csv").write_text("N,D,loss\n")
    asked = ["next", tmp_path / "runs.csv", "--range", "N=1e7:1e9:6", "--range", "D=2e8:2e10:6", "--cost", "6*N*D",
             "--target", "N=7e9,D=1.4e11"]  # fmt: skip
    code, said = call(*asked, "--budget", "1e19", "--out", tmp_path / "plan", "--json")
    assert not code, said.err
    plan = json.loads(said.out)
    assert plan["spent"] <= 1e19
    assert len((tmp_path / "plan" / "plan.csv").read_text().splitlines()) == 1 + len(plan["runs"])
    lines = ["N,D,loss", *(f"{run['N']},{run['D']},{hoffmann(np.array([run['N'], run['D']]))}" for run in plan["runs"])]
    (tmp_path / "runs.csv").write_text("\n".join(lines) + "\n")
    code, said = call("next", tmp_path / "runs.csv", "--outcome", tmp_path / "plan" / "plan.json")
    assert not code
    assert f"{len(plan['runs'])} of {len(plan['runs'])} planned runs" in said.out
    code, said = call(*asked, "--budget", "1e3")
    assert code == 2
    assert "--budget" in said.err
    code, said = call(*asked[:2], "--cost", "N")
    assert code == 2
    assert "--candidates" in said.err


def test_the_command_reads_the_cost_from_the_table(tmp_path):
    app, path, rows = typer.Typer(), tmp_path / "runs.csv", costs()
    app.command()(cli_laws.optimum)
    app.command()(cli_laws.fit)  # so that commands have names
    cells = [",".join(map(repr, row)) for row in np.column_stack(list(rows.values())).tolist()]
    path.write_text("\n".join([",".join(rows), *cells]))
    asked = ["optimum", str(path), "--compute", "100", "--cost", "gpu_hours"]
    text = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "out")]).output
    assert "compute 100 gpu_hours" in text
    assert "gpu_hours = 3e-19 N^1.100 D^0.900" in text
    assert "pooled" not in text
    stored = json.loads((tmp_path / "out" / "optimum.json").read_text())
    assert stored["n_params"]["estimate"][0] == pytest.approx(best_size(100.0), rel=0.1)
    assert stored["cost"]["a"] == pytest.approx(1.1)
    refused = CliRunner().invoke(app, [*asked, "--gpu-flops", "1e15"]).exception
    assert "GPU-hours are told from FLOPs, and the budgets are in gpu_hours" in str(refused)
    assert "no column 'hours'" in str(CliRunner().invoke(app, [*asked[:-1], "hours"]).exception)
