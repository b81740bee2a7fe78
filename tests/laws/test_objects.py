"""Laws as objects: one `predict`, files that give the same numbers again, pictures in notebooks."""

from __future__ import annotations

import html
import importlib.util
import json
import re

import numpy as np
import pytest

import metascale as ms
from metascale import laws
from metascale.core.errors import CorruptFile, InputError

RNG = np.random.default_rng(0)
X, SEEDS = np.repeat(np.geomspace(1e6, 1e9, 8), 3), np.tile([0, 1, 2], 8)
LOSS = (1.7 + 410 * X**-0.4) * np.exp(0.01 * RNG.standard_normal(24))
LOSS[1] = LOSS[0]  # two seeds with one rounded loss are two runs, in a file too
SIZE, DATA = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 5)))
SURFACE = (1.8 + 480 * SIZE**-0.35 + 2100 * DATA**-0.37) * np.exp(0.005 * RNG.standard_normal(25))
ROWS = np.column_stack([SIZE, DATA])


@pytest.fixture(scope="module")
def objects():
    """Everything that predicts, with points for it."""
    one = ms.fit(X, LOSS, replicate=SEEDS, n_bootstrap=50, x_name="tokens")
    surface = ms.fit(ROWS, SURFACE, law="chinchilla", n_bootstrap=50)
    many = ms.fit(ROWS, SURFACE, law="E + A/N**alpha + B/D**beta", x_name=("N", "D"))
    places = {"tokens": [2e9, 1e7, 4e9]}, {"N": [4e9, 1e8], "D": [1e11, 1e10]}
    return {
        "Analysis": (one, places[0]),
        "Forecast": (ms.forecast(X, LOSS, [2e9], replicate=SEEDS, x_name="tokens"), places[0]),
        "SurfaceAnalysis": (surface, places[1]),
        "ScalesAnalysis": (many, places[1]),
        "auto": (ms.fit(ROWS, SURFACE, n_bootstrap=50), places[1]),
    }


def test_every_law_predicts_alike_from_arrays_rows_mappings_and_files(objects, tmp_path):
    for found, points in objects.values():
        said = found.predict(points, level=0.8)
        assert type(said) is laws.Prediction
        assert said.level == 0.8
        assert said.by
        assert ((said.low < said.median) & (said.median < said.high)).all()
        columns = np.column_stack(list(points.values()))
        rows = [dict(zip(points, row, strict=True)) for row in columns.tolist()]
        (tmp_path / "points.csv").write_text(
            "\n".join([",".join(points), *(",".join(map(repr, row)) for row in columns.tolist())])
        )
        array = columns[:, 0] if columns.shape[1] == 1 else columns
        for other in (array, rows, tmp_path / "points.csv", ms.read_table(points)):
            assert np.array_equal(found.predict(other, 0.8).high, said.high)
        one = found.predict(rows[0], 0.8)
        assert len(one) == 1
        assert one.median[0] == pytest.approx(said.median[0], rel=1e-12)
        with pytest.raises(InputError, match="which the law needs"):
            found.predict({"width": [3.0]})
        with pytest.raises(InputError, match="positive finite"):
            found.predict(-columns)


def test_predictions_are_those_of_the_law_that_was_fitted(objects):
    """The same formula by both machines; and of one scale the numbers of `forecast`."""
    surface, many = objects["SurfaceAnalysis"][0], objects["ScalesAnalysis"][0]
    assert surface.predict([[4e9, 1e11]]).by == "hoffmann"
    assert surface.predict([[4e9, 1e11]]).median == pytest.approx(many.predict([[4e9, 1e11]]).median, rel=2e-3)
    assert "together" in objects["auto"][0].predict([[4e9, 1e11]]).by
    assert "not by this surface alone" in objects["auto"][0].summary()
    assert "not by this surface alone" not in surface.summary()
    one, ahead = objects["Analysis"][0], objects["Forecast"][0]
    assert one.predict([2e9]).low[0] == ahead.low[0] == ahead.predict([2e9]).low[0]
    assert one.predict([1e10]).beyond[0] == pytest.approx(10)


def test_rows_csv_json_and_frame_hold_the_same_numbers(objects, tmp_path):
    found = objects["ScalesAnalysis"][0].predict([[4e9, 1e11], [1e8, 1e10]])
    assert list(found.rows()[0]) == ["N", "D", "median", "low", "high", "beyond"]
    assert found.to_json()["rows"] == found.rows()
    text = found.to_csv(tmp_path / "made" / "p.csv")
    assert (tmp_path / "made" / "p.csv").read_text() == text
    assert [float(cell) for cell in text.splitlines()[1].split(",")] == list(found.rows()[0].values())
    if importlib.util.find_spec("pandas"):
        assert found.to_frame()["median"].tolist() == found.median.tolist()


def test_a_saved_law_predicts_the_same_to_the_last_bit(objects, tmp_path):
    for name, (found, points) in objects.items():
        found.save(tmp_path / "law.json")
        again = ms.load_law(tmp_path / "law.json")
        for level in (0.5, 0.95):
            before, after = found.predict(points, level), again.predict(points, level)
            for part in ("x", "median", "low", "high", "beyond"):
                assert np.array_equal(getattr(before, part), getattr(after, part)), (name, part)
            assert (before.by, before.x_names, before.loss_name) == (after.by, after.x_names, after.loss_name)
        if name != "Forecast":
            assert again.verdict == found.verdict
            assert again.parameters["alpha"].low == found.parameters["alpha"]["low"]
        again.save(tmp_path / "twice.json")
        assert (tmp_path / "twice.json").read_bytes() == (tmp_path / "law.json").read_bytes()


def test_the_laws_of_groups_are_one_file_that_the_command_reads(tmp_path):
    table = {"tokens": np.tile(X, 2), "loss": np.concatenate([LOSS, 0.9 * LOSS]), "seed": np.tile(SEEDS, 2)}
    table["arm"] = np.repeat(["a", "b"], len(X))
    both = ms.fit(table, group="arm", n_bootstrap=50)
    both.save(tmp_path / "both.json")
    again = ms.load_law(tmp_path / "both.json")
    assert list(again) == ["a", "b"]
    assert repr(both) == both.summary()
    assert again["b"].predict([2e9]).median[0] == both["b"].predict([2e9]).median[0]
    assert list(laws.read_predictors(tmp_path / "both.json")) == ["a", "b"]


def test_files_that_are_no_law_or_were_changed_are_refused_in_a_sentence(objects, tmp_path):
    path = tmp_path / "law.json"
    with pytest.raises(InputError, match="there is no file"):
        ms.load_law(path)
    objects["ScalesAnalysis"][0].save(path)
    with pytest.raises(InputError, match="is a folder"):
        objects["ScalesAnalysis"][0].save(tmp_path)
    text = path.read_text()
    stored = json.loads(text)
    other = json.loads(text)
    other["laws"][""]["predictor"]["noise"] *= 1 + 1e-12
    changed = json.dumps(other)
    for content, kind, words in (
        (text[: len(text) // 2], CorruptFile, "only a part"),
        ("\x80\x03csystem", CorruptFile, "is no JSON"),
        (changed, CorruptFile, "was changed after it was saved"),
        (json.dumps({**stored, "version": 2}), InputError, "has version 2"),
        (json.dumps({**stored, "format": "other"}), InputError, "is no law that"),
        (json.dumps([1, 2]), InputError, "is no law that"),
        (json.dumps({**stored, "laws": {}}), CorruptFile, "was changed"),
    ):
        path.write_text(content)
        with pytest.raises(kind, match=words):
            ms.load_law(path)


def test_notebooks_show_small_escaped_pictures_with_the_numbers_of_the_text(objects):
    evil = ms.fit(X, LOSS, replicate=SEEDS, n_bootstrap=50, x_name="<b>x</b>")
    plan = laws.next_runs(
        {"N": SIZE, "D": DATA, "loss": SURFACE}, laws.grid({"N": [1e8, 2e9], "D": [1e10, 6e10]}), "6*N*D",
        {"N": 4e9, "D": 1e11}, 1e22,
    )  # fmt: skip
    best = objects["SurfaceAnalysis"][0].optimum([1e20, 1e21])
    for found in (*(one for one, _ in objects.values()), evil, plan, best, laws.backtest_corners(
        laws.observe(ROWS, SURFACE)
    )):  # fmt: skip
        assert repr(found) == str(found) == found.summary()
        page = found._repr_html_()
        assert len(page) < 100_000
        assert "<b>x" not in page
        assert html.escape(found.summary()) in page
        assert re.search(r'<img alt="\w+" style="[^"]*" src="data:image/png;base64,[\w+/=]+">', page)
    assert "&lt;b&gt;" in evil._repr_html_()
    said = evil.predict([2e9])
    assert html.escape(said.summary()) in said._repr_html_()
    assert repr(said) == said.summary()


def test_two_scales_that_are_no_size_and_data_have_the_verdict_of_what_predicts():
    table = {"experts": SIZE, "width": DATA, "loss": SURFACE}
    found = ms.fit(table, x=("experts", "width"))
    assert type(found) is laws.ScalesAnalysis
    assert "predicted by" in found.verdict
    assert found.predict(ROWS[:1]).by == found.predictor.by


@pytest.mark.long
def test_two_scales_that_are_size_and_data_by_any_name_are_a_surface():
    table = {"experts": SIZE, "width": DATA, "loss": SURFACE}
    assert type(ms.fit(table, x=("experts", "width"), law="chinchilla", n_bootstrap=20)) is laws.SurfaceAnalysis
    for names in (("params", "tokens"), ("n_params", "compute_flops")):
        sized = {names[0]: SIZE, names[1]: DATA if names[1] == "tokens" else 6 * SIZE * DATA, "loss": SURFACE}
        surface = ms.fit(sized, x=names, n_bootstrap=20)
        assert type(surface) is laws.SurfaceAnalysis
        assert surface.fit.observations.x.max(0) == pytest.approx([SIZE.max(), DATA.max()])
    # compute beside what is no model size is a scale like any other
    other = ms.fit({"experts": SIZE, "compute": DATA, "loss": SURFACE}, x=("experts", "compute"))
    assert other.fit.observations.x_names == ("experts", "compute")
    assert other.fit.observations.x.max(0) == pytest.approx([SIZE.max(), DATA.max()])
