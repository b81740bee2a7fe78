from __future__ import annotations

import csv
import html
import json
import re

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from metascale.cli import laws as cli_laws
from metascale.cli.words import folder_of
from metascale.core.errors import InputError


@pytest.fixture(scope="module")
def app():
    found = typer.Typer()
    for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum):
        found.command()(command)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results table of a study: one method, three seeds, a baseline and a failed run."""
    return study(tmp_path_factory.mktemp("one") / "results.csv", (("maml", 2.0),))


@pytest.fixture(scope="module")
def fitted(app, results, tmp_path_factory):
    """What `fit` says and the folder that it writes, drawn."""
    out = tmp_path_factory.mktemp("fitted")
    return run(app, "fit", results, "--bootstrap", 50, "--out", out), out


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory):
    return study(tmp_path_factory.mktemp("two") / "two.csv", (("maml", 2.0), ("reptile", 1.8)))


def study(path, methods):
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "n_tasks", "seed", "method", "kind", "status", "test_loss_nats"])
        for method, start in methods:
            for n in (2, 5, 10, 20, 50, 100):
                for seed in range(3):
                    loss = (0.5 + start * n**-0.4) * np.exp(0.03 * rng.standard_normal())
                    writer.writerow([f"{method}{n}{seed}", n, seed, method, "learner", "finished", loss])
        writer.writerow(["zero", 0, 0, "zero-shot", "baseline", "finished", 1.6])
        writer.writerow(["bad", 100, 9, "maml", "learner", "failed", ""])
    return path


def run(app, *arguments):
    outcome = CliRunner().invoke(app, [str(part) for part in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_fit_needs_no_options_and_writes_what_it_says(fitted):
    text, out = fitted
    assert "falls with n_tasks" in text
    assert "1 rows left out" in text
    record = json.loads((out / "fit.json").read_text())
    assert set(record["parameters"]["alpha"]) == {"estimate", "low", "high"}
    assert {"power", "m4", "none"} <= set(record["families"])
    with open(out / "forecast.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["n_tasks"]) for row in rows] == pytest.approx([100, 200, 400, 800, 1600, 3200])
    assert float(rows[-1]["low"]) < float(rows[-1]["median"]) < float(rows[-1]["high"])
    assert (out / "law.png").read_bytes()[:4] == b"\x89PNG"


def test_the_page_asks_nobody_for_anything(fitted):
    page = (fitted[1] / "law.html").read_text()
    addresses = set(re.findall(r"https?://[^\"' ]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}  # names of namespaces
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "<script" not in page


def test_the_values_of_the_page_can_be_read(fitted):
    page = (fitted[1] / "law.html").read_text()
    for view in re.findall(r'<div class="(?:log|linear)">(.*?)</div>', page, re.S):
        readings = [html.unescape(found) for found in re.findall(r"<title>(.*?)</title>", view, re.S)]
        assert sum(reading.startswith("n_tasks") for reading in readings) == 18, "every run"
        assert sum(reading.startswith("L = ") for reading in readings) == 25, "along the law, with its interval"
        assert sum(reading.startswith("forecast of one run") for reading in readings) == 6
        assert sum(reading.startswith("predicted without") for reading in readings) == 1
    assert page.count('<div class="') == 2
    record = json.loads((fitted[1] / "fit.json").read_text())
    hidden, cells = record["extrapolation"], set(re.findall(r"<td>([^<]*)</td>", page))
    assert f"{hidden['predicted']:.5g} ({hidden['low']:.5g} to {hidden['high']:.5g})" in page
    for name in ("x", "median", "low", "high"):
        assert f"{record['curve'][name][0]:.6g}" in cells


def test_methods_are_never_pooled(app, two_methods):
    text = run(app, "fit", two_methods, "--bootstrap", 20)
    assert "each gets its own law" in text
    assert "maml: " in text
    assert "groups are compared with the law power (--law auto) by least squares" in text


def test_groups_are_fitted_and_compared(app, two_methods, tmp_path, undrawn):
    text = run(app, "fit", two_methods, "--group", "method", "--law", "power", "--bootstrap", 50, "--out", tmp_path)
    assert "one exponent" in text
    record = json.loads((tmp_path / "fit.json").read_text())
    assert set(record["groups"]) == {"maml", "reptile"}
    assert 0 < record["comparison"]["p_value"] <= 1


def test_forecast_and_backtest(app, results, tmp_path):
    assert "1000" in run(app, "forecast", results, "--to", 1000, "--out", tmp_path)
    assert len(json.loads((tmp_path / "forecast.json").read_text())["at"]) == 4
    assert "tail line" in run(app, "backtest", results, "--out", tmp_path)
    assert (tmp_path / "backtest.png").is_file()


def surface(tmp_path, columns):
    path = tmp_path / "runs.csv"
    rng = np.random.default_rng(1)
    n, d = 10 ** rng.uniform(7, 10, 60), 10 ** rng.uniform(9, 11, 60)
    loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.005 * rng.standard_normal(60))
    values = {"params": n, "tokens": d, "compute_flops": 6 * n * d, "loss": loss}
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*(values[name] for name in columns), strict=True))
    return path


@pytest.mark.parametrize("columns", [("params", "tokens", "loss"), ("params", "compute_flops", "loss")])
def test_optimum(app, tmp_path, columns):
    text = run(
        app, "optimum", surface(tmp_path, columns), "--compute", "1e21", "--gpu-flops", "1e15", "--out", tmp_path
    )
    assert "N_opt grows as" in text
    assert "GPU-hours" in text
    best = json.loads((tmp_path / "optimum.json").read_text())
    truth = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (1e21 / 6) ** (0.37 / 0.72)
    assert best["n_params"]["low"][0] < truth < best["n_params"]["high"][0]
    assert 6 * best["n_params"]["estimate"][0] * best["tokens"]["estimate"][0] == pytest.approx(1e21)


def test_methods_are_forecast_apart(app, two_methods, tmp_path):
    text = run(app, "forecast", two_methods, "--to", 400, "--out", tmp_path)
    assert "maml:" in text
    assert "reptile:" in text
    found = [json.loads((tmp_path / name / "forecast.json").read_text())["median"] for name in ("maml", "reptile")]
    assert found[0] != found[1]


def test_every_group_has_a_folder_of_its_own_below_the_one_named(app, tmp_path):
    groups = ["maml+", "maml*", "maml_", "..", ".", " ", "", "a/b", "x" * 300, "x" * 301, "/etc"]
    folders = [folder_of(tmp_path, group) for group in groups]
    assert len(set(folders)) == len(groups)
    for folder in folders:
        assert folder.resolve().parent == tmp_path.resolve()
        folder.mkdir()
    assert folder_of(tmp_path, "maml_") == tmp_path / "maml_"
    assert folder_of(tmp_path, None) == tmp_path
    path = study(tmp_path / "near.csv", (("maml+", 2.0), ("maml*", 1.8)))
    run(app, "forecast", path, "--to", 400, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("maml_-*/forecast.json"))) == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--x2", "tokens", "--replicate", "params"),
        ("--x2", "tokens", "--weights", "replicate"),
        ("--x3", "tokens"),
    ],
)
def test_options_that_would_do_nothing_are_refused(app, tmp_path, options):
    path = surface(tmp_path, ("params", "tokens", "loss"))
    with pytest.raises(InputError, match=rf"^{options[-2]}"):
        run(app, "fit", path, "--x", "params", *options)


@pytest.mark.parametrize(
    ("arguments", "field", "why"),
    [
        (("fit", "--law", "E + A/params**alpha"), "law", "names no column of .*; columns: N, D, loss"),
        (("optimum", "--compute", 1e21, "--gpu-flops", 0), "gpu_flops", "is 0; the peak of a GPU is a positive"),
        (("optimum", "--compute", 1e21, "--utilisation", 40), "utilisation", "is 40; it is a share of the peak"),
        (("forecast", "--x", "N", "--x", "D", "--to", "N=1e9,D=-1"), "to", "'N=1e9,D=-1'; scales are positive"),
    ],
)
def test_options_outside_their_range_are_refused(app, tmp_path, arguments, field, why):
    rows = [f"{n},{d},{1.8 + 480 * n**-0.35 + 2100 * d**-0.37}" for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11)]
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *rows]))
    command, *options = map(str, arguments)
    out = tmp_path / "out"
    found = CliRunner().invoke(app, [command, str(tmp_path / "runs.csv"), *options, "--out", str(out)])
    assert isinstance(found.exception, InputError), found.output
    assert found.exception.field == field
    assert re.search(why, str(found.exception))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("fit", "--y", "loss", "--bootstrap", 20, "--law", "power"), "2 distinct values of 'N'"),
        (("forecast", "--y", "loss", "--to", 1e10), "2 distinct values of 'N'"),
        (("backtest", "--y", "loss"), "2 distinct values of 'N'"),
        (("forecast", "--y", "accuracy", "--to", 1e10), "2 distinct values of 'N'"),
        (("backtest", "--y", "accuracy"), "2 distinct values of 'N'"),
        (("forecast", "--x", "N", "--x", "D", "--y", "loss", "--to", "N=1e10,D=1e11"), "2 rows and 2 distinct scales"),
        (("optimum", "--y", "loss", "--compute", 1e21), "2 distinct scales"),
    ],
)
def test_a_group_that_is_too_small_is_named_before_anything_is_said_or_written(app, tmp_path, arguments, why):
    rows = ["arm,N,D,loss,accuracy"]
    for k, n in enumerate((1e7, 3e7, 1e8, 3e8, 1e9, 3e9)):
        d = 2e9 * 3.0 ** (k % 3)
        rows.append(f"whole,{n},{d},{1.8 + 480 * n**-0.35 + 2100 * d**-0.37},{0.2 + 0.1 * k}")
    rows += ["short,1e7,1e9,4.1,0.2", "short,3e7,2e9,3.9,0.3"]
    (tmp_path / "runs.csv").write_text("\n".join(rows))
    command, *options = map(str, arguments)
    scale = [] if command == "optimum" or "--x" in options else ["--x", "N"]
    out = tmp_path / "out"
    found = CliRunner().invoke(app, [command, str(tmp_path / "runs.csv"), *options, *scale, "--group", "arm",
                                     "--out", str(out)])  # fmt: skip
    assert isinstance(found.exception, InputError), found.output
    assert str(found.exception).startswith("short: ")
    assert why in str(found.exception)
    assert found.stdout == ""
    assert not out.exists()


def test_groups_are_compared_with_the_law_that_was_named_or_not_at_all(app, two_methods, tmp_path, undrawn):
    text = run(app, "fit", two_methods, "--law", "m4", "--bootstrap", 20, "--out", tmp_path)
    assert "the groups are not compared: only --law auto, power, power_irreducible can be, not m4" in text
    assert json.loads((tmp_path / "fit.json").read_text())["comparison"] is None


@pytest.mark.usefixtures("undrawn")
def test_two_scales_give_a_frontier_to_read_and_to_see(app, tmp_path):
    path = surface(tmp_path, ("params", "compute_flops", "loss"))
    text = run(app, "fit", path, "--x", "params", "--x2", "compute_flops", "--bootstrap", 50, "--out", tmp_path)
    assert "compute_flops / 6N" in text
    with open(tmp_path / "forecast.csv", newline="") as stream:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    for row in rows:
        assert 6 * row["n_params_estimate"] * row["tokens_estimate"] == pytest.approx(row["compute"])
        assert row["loss_low"] <= row["loss_estimate"] <= row["loss_high"]
    assert (tmp_path / "law.png").read_bytes()[:4] == b"\x89PNG"
    assert "compute-optimal loss" in (tmp_path / "law.html").read_text()


def test_scales_that_are_no_size_and_tokens_have_no_frontier_in_compute(app, tmp_path, undrawn):
    path = surface(tmp_path, ("params", "tokens", "loss"))
    path.write_text(path.read_text().replace("params,tokens", "experts,params", 1))
    named = ("--law", "chinchilla", "--bootstrap", 50)
    text = run(app, "fit", path, "--x", "experts", "--x", "params", *named, "--out", tmp_path)
    assert "no frontier in compute: 'experts' and 'params' are not known as model size and tokens" in text
    assert not (tmp_path / "forecast.csv").exists()
    page = (tmp_path / "law.html").read_text()
    assert "loss along experts" in page
    assert "compute" not in page


def test_pooled_conditions_and_mixed_scales_are_said(app, tmp_path):
    path = tmp_path / "mixed.csv"
    rng = np.random.default_rng(2)
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["N", "D", "dataset", "loss"])
        for n in (1e7, 3e7, 1e8, 3e8):
            for d in (1e9, 1e10):
                for name in ("c4", "web"):
                    writer.writerow([n, d, name, (2 + 100 * n**-0.3) * np.exp(0.01 * rng.standard_normal())])
    text = run(app, "forecast", path, "--x", "N", "--to", 1e9)
    assert "'dataset' (2 values) are pooled" in text
    assert "'D' varies 10-fold among rows of the same 'N'" in text


def test_accuracies_say_the_scales_they_mix_and_a_law_is_loaded_by_its_folder(app, tmp_path):
    from metascale.laws import load_law, read_predictors

    path = tmp_path / "acc.csv"
    rows = [(n, d, 1 / (1 + (1e8 / n) ** 0.5 + (1e9 / d) ** 0.5)) for n in (1e6, 1e7, 1e8, 1e9) for d in (1e9, 3e9)]
    path.write_text("params,tokens,acc\n" + "".join(f"{n:.0f},{d:.0f},{acc:.4f}\n" for n, d, acc in rows))
    told = run(app, "fit", str(path), "--x", "params", "--y", "acc", "--out", str(tmp_path / "law"))
    assert "'tokens' varies 3-fold among rows of the same 'params'" in told
    assert f"metascale predict {tmp_path / 'law'} POINTS.csv" in told.replace("\n", "")
    loaded, same = load_law(tmp_path / "law"), read_predictors(tmp_path / "law")[""]
    assert loaded.predict([1e10]).low[0] == same.predict([1e10]).low[0]
    with pytest.raises(InputError, match=rf"the folder '{re.escape(str(tmp_path / 'law'))}' can be given instead"):
        load_law(tmp_path / "law" / "law.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no law in"):
        load_law(tmp_path / "empty")


def test_bad_input_is_an_input_error(app, results, tmp_path):
    with pytest.raises(InputError, match="did you mean 'n_tasks'"):
        run(app, "fit", results, "--x", "n_task")
    with pytest.raises(InputError, match="params"):
        run(app, "fit", surface(tmp_path, ("params", "tokens", "loss")))
    with pytest.raises(InputError, match="is unknown"):
        run(app, "fit", results, "--law", "parabola")
    with pytest.raises(InputError, match="huber, least-squares"):
        run(app, "fit", results, "--objective", "cauchy")
    with pytest.raises(InputError, match="positive number"):
        run(app, "forecast", results, "--to", "-5")


@pytest.mark.parametrize("address", ["wandb:entity/project", "mlflow:http://localhost/training"])
def test_runs_of_other_programs_are_imported_first(app, address):
    prefix = address.partition(":")[0]
    with pytest.raises(InputError, match=f"imported first; metascale import {prefix}:"):
        run(app, "fit", address)
