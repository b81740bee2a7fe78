"""Paths, data frames, mappings and arrays give one answer, with the rows that the commands choose."""

from __future__ import annotations

import csv
import importlib.util
import json
from functools import partial

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import metascale as ms
from metascale import laws
from metascale.cli import laws as cli_laws
from metascale.cli.scales import predicted_rows
from metascale.core.errors import InputError
from metascale.laws.predicting import read_predictors
from metascale.laws.prepared import prepare
from metascale.laws.table import Table, read_table, tokens_of_compute
from metascale.laws.thinning import sampled, without_repeats


def curve(seeds=3, start=2.0, rng=None):
    rng = rng or np.random.default_rng(0)
    n = np.repeat([2.0, 5, 10, 20, 50, 100], seeds)
    loss = (0.5 + start * n**-0.4) * np.exp(0.02 * rng.standard_normal(len(n)))
    return {"tokens": n, "seed": np.tile(np.arange(seeds), 6), "loss": loss}


def surface(n=5):
    rng = np.random.default_rng(1)
    size, data = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, n), np.geomspace(1e9, 3e10, n)))
    loss = (1.8 + 480 * size**-0.35 + 2100 * data**-0.37) * np.exp(0.005 * rng.standard_normal(n * n))
    return {"N": size, "D": data, "loss": loss}


def write(path, columns):
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*(np.asarray(cells).tolist() for cells in columns.values()), strict=True))
    return path


def call(*arguments):
    app = typer.Typer()
    for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum):
        app.command()(command)
    found = CliRunner().invoke(app, [str(part) for part in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def test_a_path_a_mapping_a_frame_and_arrays_are_one_table(tmp_path):
    columns = curve()
    arrays = ms.fit(columns["tokens"], columns["loss"], replicate=columns["seed"], n_bootstrap=50, x_name="tokens")
    sources = [write(tmp_path / "t.csv", columns), columns, read_table(columns)]
    if importlib.util.find_spec("pandas"):
        import pandas

        sources.append(pandas.DataFrame(columns))
    for source in sources:
        assert ms.fit(source, n_bootstrap=50).parameters == arrays.parameters
    ahead = ms.forecast(columns["tokens"], columns["loss"], [1e3], replicate=columns["seed"])
    assert ms.forecast(sources[0], at=1e3).median == ahead.median
    assert ms.backtest(sources[0]).means() == ms.backtest(columns["tokens"], columns["loss"]).means()


def test_python_refuses_and_guesses_like_the_command():
    with pytest.raises(InputError, match="tokens or params; name it with `x`"):
        ms.fit({"tokens": [1, 2, 3], "params": [4, 5, 6], "loss": [3, 2, 1]})
    with pytest.raises(InputError, match="did you mean 'tokens'"):
        ms.fit(curve(), x="token")
    with pytest.raises(InputError, match="`at` is missing"):
        ms.forecast(curve())


def test_groups_are_a_mapping_with_their_comparison():
    rng = np.random.default_rng(3)
    one, two = curve(rng=rng), curve(start=1.0, rng=rng)
    both = {name: np.concatenate([one[name], two[name]]) for name in one} | {"arm": ["a"] * 18 + ["b"] * 18}
    found = ms.fit(both, group="arm", n_bootstrap=50)
    assert list(found) == ["a", "b"]
    assert found.comparison is not None
    assert found.comparison.summary() in found.summary()
    assert set(found.to_json()["groups"]) == {"a", "b"}
    assert ms.fit(both, group="arm", n_bootstrap=50, level=0.5).comparison.level == 0.5
    assert set(ms.forecast(both, at=[1e3], group="arm")) == {"a", "b"}
    assert set(ms.backtest(both, group="arm")) == {"a", "b"}


def test_optimum_and_forecast_of_a_table_in_groups_and_several_scales(tmp_path):
    one = surface()
    two = {name: np.concatenate([cells, cells * (1.1 if name == "loss" else 1)]) for name, cells in one.items()}
    two["arm"] = ["a"] * 25 + ["b"] * 25
    alone = ms.optimum(one, 1e21, n_bootstrap=20)
    found = ms.optimum(two, [1e21], group="arm", n_bootstrap=20)
    np.testing.assert_allclose(found["a"].n_params["estimate"], alone.n_params["estimate"])
    path = write(tmp_path / "two.csv", two)
    said = json.loads(call("optimum", path, "--compute", 1e21, "--group", "arm", "--json").stdout)
    assert said["groups"]["a"]["n_params"]["estimate"] == pytest.approx(alone.n_params["estimate"])
    assert set(said["groups"]) == {"a", "b"}


def test_checkpoints_are_clustered_in_any_number_of_scales(tmp_path):
    one = surface()
    steps = {name: np.repeat(cells, 4) for name, cells in one.items()}
    steps["model"], steps["step"] = np.repeat(np.arange(25), 4), np.tile([1, 2, 3, 4], 25)
    steps["loss"] = steps["loss"] * (1 + 0.1 / steps["step"])
    assert ms.fit(steps, x=["N", "D"], run="model", n_bootstrap=20).fit.observations.n == 25
    every = ms.fit(steps, x=["N", "D"], run="model", checkpoints=True, n_bootstrap=20)
    assert (every.fit.observations.n, every.fit.observations.n_runs) == (100, 25)
    assert "bootstrap resamples of 25 runs" in every.summary()
    path = write(tmp_path / "steps.csv", steps)
    text = call("fit", path, "--x", "N", "--x", "D", "--run", "model", "--bootstrap", 20).output
    assert "100 rows are checkpoints of 25 runs: the end of each run is kept" in text
    text = call("fit", path, "--x", "N", "--x", "D", "--run", "model", "--checkpoints", "--bootstrap", 20).output
    assert "bootstrap resamples of 25 runs" in text


def test_best_of_in_several_scales():
    one = surface()
    swept = {name: np.repeat(cells, 2) for name, cells in one.items()}
    swept["peak_lr"] = np.tile([1e-3, 1e-2], 25)
    swept["loss"] = swept["loss"] * np.tile([1.0, 1.3], 25)
    found = ms.fit(swept, x=["N", "D"], best_of="peak_lr", n_bootstrap=20).fit.observations
    np.testing.assert_allclose(np.sort(found.loss), np.sort(one["loss"]))


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, 2),  # nothing tells the equal rows apart
        ({"seed": [0, 1, 0]}, 3),
        ({"seed": [0, 0, 0]}, 2),
        ({"seed": [0, 0, 0], "arm": ["a", "b", "a"]}, 2),  # one label a row is no condition
        ({"run": ["p", "q", "r"]}, 3),
        ({"host": ["p", "q", "r"]}, 3),
        ({"host": ["p", "p", "r"]}, 2),
    ],
)
def test_only_true_repeats_are_dropped(more, kept):
    table = Table({"tokens": [1e6, 1e6, 1e7], "loss": [3.1, 3.1, 2.9], **more}, "t.csv")
    found = without_repeats(table, ("tokens",), "loss")
    assert found.n_rows == kept
    assert ("1 duplicated row dropped" in "".join(found.notes)) == (kept == 2)


def test_equal_rounded_seeds_of_a_condition_are_runs_of_their_own():
    rows = {"tokens": [1e6] * 6, "seed": [0, 1, 2] * 2, "arm": ["a"] * 3 + ["b"] * 3, "loss": [3.1] * 6}
    assert without_repeats(Table(rows, "t.csv"), ("tokens",), "loss").n_rows == 6


def test_a_sample_keeps_the_rare_ends_and_is_the_same_every_time():
    rng = np.random.default_rng(0)
    x = np.r_[rng.choice([1e6, 1e7, 1e8], 20_000), [1e9, 1e9, 1e10]]
    table = Table({"tokens": x, "loss": 1 + x**-0.1}, "t.csv")
    found = sampled(table, ("tokens",))
    assert found.n_rows == 600
    values, counts = np.unique(found.numbers("tokens"), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {1e6: 199, 1e7: 199, 1e8: 199, 1e9: 2, 1e10: 1}
    np.testing.assert_array_equal(found.numbers("tokens"), sampled(table, ("tokens",)).numbers("tokens"))
    assert "600 of 20,003 rows are fitted" in found.notes[-1]
    assert sampled(table, ("tokens",), most=10**6).n_rows == 20_003
    assert sampled(table.rows(np.arange(20_003) < 5_000), ("tokens",)).n_rows == 5_000
    spread = Table({"N": rng.random(20_000) + 0.1, "D": rng.random(20_000) + 0.1}, "t.csv")
    assert sampled(spread, ("N", "D")).n_rows == 600


def test_a_large_table_is_fitted_by_its_sample_and_the_law_comes_back():
    rng = np.random.default_rng(5)
    x = np.geomspace(1e6, 1e10, 40)[rng.integers(0, 40, 100_000)]
    loss = (1.7 + 400 * x**-0.35) * np.exp(0.02 * rng.standard_normal(len(x)))
    found = ms.fit({"tokens": x, "seed": np.arange(len(x)), "loss": loss}, n_bootstrap=100)
    assert found.fit.observations.n == 600
    assert found.parameters["alpha"]["low"] < 0.35 < found.parameters["alpha"]["high"]


def test_rows_must_be_a_count():
    with pytest.raises(InputError, match="rows is 0"):
        prepare(Table(curve(), "t.csv"), rows=0)


@pytest.mark.long
def test_a_column_of_compute_is_tokens_wherever_it_is_named(tmp_path):
    """Places in FLOPs and in PF-days (8.64e19 FLOPs each) are those of their tokens, C / 6N."""
    one = surface()
    flops = {"N": one["N"], "C": 6 * one["N"] * one["D"], "loss": one["loss"]}
    days = {"N": one["N"], "pf_days": flops["C"] / 8.64e19, "loss": one["loss"]}
    size, tokens = np.array([2e9, 3e9]), np.array([6e10, 9e10])
    budget = 6 * size * tokens
    truth = ms.forecast(one, at=np.column_stack([size, tokens]), x=["N", "D"]).median
    for name, columns, given in (("C", flops, budget), ("pf_days", days, budget / 8.64e19)):
        found = ms.forecast(columns, at=np.column_stack([size, given]), x=["N", name])
        np.testing.assert_allclose(found.median, truth, rtol=1e-6)
    path = write(tmp_path / "days.csv", days)
    to = [text for n, c in zip(size, budget / 8.64e19, strict=True) for text in ("--to", f"N={n},pf_days={c}")]
    said = json.loads(call("forecast", path, "--x", "N", "--x", "pf_days", *to, "--json").stdout)
    np.testing.assert_allclose([row["median"] for row in said["rows"]], truth, rtol=1e-6)
    call("fit", path, "--x", "N", "--x", "pf_days", "--law", "hoffmann", "--out", tmp_path / "law")
    points = read_table({"N": size, "pf_days": budget / 8.64e19})
    rows = predicted_rows(points, read_predictors(tmp_path / "law"), 0.9, None)
    np.testing.assert_allclose([row["median"] for row in rows], truth, rtol=0.01)
    with pytest.raises(InputError, match="has no column 'pf_days', which the law needs"):
        predicted_rows(read_table({"N": size}), read_predictors(tmp_path / "law"), 0.9, None)


def test_tokens_of_a_grid_in_compute_are_still_a_grid():
    size, tokens = np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 3e10, 6))
    compute = 6 * size.ravel() * tokens.ravel() / 8.64e19
    assert len(np.unique(tokens_of_compute("pf_days", size.ravel(), compute))) == 6
    np.testing.assert_allclose(tokens_of_compute("C", np.array([2.0]), np.array([36.0])), [3.0])


@pytest.mark.parametrize("ask", [ms.fit, ms.backtest, lambda *a, **k: ms.forecast(*a, at=[99], **k)])
def test_a_column_in_the_place_of_losses_is_refused_with_what_to_give(ask):
    table = {"n": [1.0, 2.0, 4.0, 8.0], "error": [2.0, 1.5, 1.2, 1.0]}
    with pytest.raises(InputError, match="not 'error'; the column of a table is named by `y`"):
        ask(table, loss="error", x="n")


CURVE, SURFACE = curve(1), surface(3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ms.forecast(CURVE, at=[]),
        lambda: ms.forecast(CURVE, at={"tokens": []}),
        lambda: ms.forecast(CURVE, at=[[1.0, 2.0]]),
        lambda: ms.fit(CURVE).predict([]),
        lambda: ms.fit(CURVE, y=[]),
        lambda: ms.forecast(SURFACE, x=("N", "D"), at=[]),
        lambda: ms.optimum(SURFACE, []),
        lambda: ms.optimum(SURFACE, ["1e20 FLOPs"]),
        lambda: laws.fit_many([CURVE]),
    ],
)
def test_what_is_empty_or_no_number_is_refused_in_a_sentence(call):
    with pytest.raises(
        InputError, match=r"no row|no rows|2 scales|names no metric|none is given|not \['1e20|a mapping"
    ):
        call()


def test_a_place_by_name_is_the_same_place():
    assert ms.forecast(CURVE, at={"tokens": [128.0]}).median == ms.forecast(CURVE, at=[128.0]).median
    assert ms.forecast(CURVE, at=128.0).at.tolist() == [128.0]


@pytest.mark.parametrize(("name", "whole"), [("accuracy", 1), ("accuracy", 0), ("accuracy", 100), ("error_rate", 0)])
def test_shares_that_are_one_end_everywhere_have_no_law(name, whole):
    """Their odds are infinite: intervals "from 0 to 1" and slopes of -15 to 15 would be made of nothing."""
    unit = {"N": CURVE["tokens"].tolist(), name: [float(whole)] * len(CURVE["tokens"])}
    for call in (partial(ms.fit, unit, y=name), partial(ms.forecast, unit, y=name, at=[128.0]),
                 partial(ms.fit, unit["N"], unit[name], loss_name=name)):  # fmt: skip
        with pytest.raises(InputError, match=f"'{name}' is {whole} in every row"):
            call()
