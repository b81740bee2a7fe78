"""Records in files, pictures, saved laws, and several laws of one table, by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from metascale.core.canonical import content_id, plain
from metascale.core.errors import CorruptFile, InputError
from metascale.laws import picture as pictures_room
from metascale.laws import predicting
from metascale.laws.metrics import ShareOptions
from metascale.laws.picture import (
    BLUE,
    COLOURS,
    LawPicture,
    axis_or_new,
    draw_band,
    draw_families,
    draw_hidden,
    figure_of,
    finish,
    finish_outside,
    hidden_words,
    plain_numbers,
    plot_law,
    rows_of,
    svg,
    tip,
    write_html,
    write_png,
)
from metascale.laws.predicting import (
    SavedLaw,
    load_saved,
    predictor_of,
    predictor_of_loss,
    read_predictors,
    saved_record,
    with_predictor,
)
from metascale.laws.prediction import Prediction, points_of
from metascale.laws.record import (
    Band,
    ComponentRecord,
    FamilyRecord,
    HiddenScale,
    Interval,
    LawRecord,
    PredictorRecord,
    TrendResult,
    load_records,
    read_laws,
    save_record,
    write_laws,
)
from metascale.laws.several import ByGroup, Part, each_group, each_metric, parts_of
from metascale.laws.table import Table

A = np.array
HIDDEN = HiddenScale(8.0, "power", 2.0, 2.5, 2.25, 2.75, 0.22, {"last value": 3.0})
BAND = Band((1.0, 2.0, 4.0), (4.0, 3.0, 2.0), (3.5, 2.5, 1.5), (4.5, 3.5, 2.5))
POWER = {"A": Interval(4.0, 3.0, 5.0), "alpha": Interval(0.5, 0.4, 0.6)}


def record(**changes):
    given = {
        "law": "power_irreducible", "formula": "E + A x^-alpha", "x_names": ("N",), "loss_name": "loss", "level": 0.9,
        "parameters": {**POWER, "E": Interval(1.0, 0.9, 1.1)}, "trend": "falls",
        "trends": {"N": TrendResult("falls", Interval(0.3, 0.2, 0.4), 0.9, (2.0,))}, "verdict": "it falls.",
        "families": {"power": FamilyRecord(POWER, 1.5, 0.01, -3.0, 0.02, 0.8, False, "a note")},
        "extrapolation": HIDDEN, "curve": BAND, "objective": 0.5, "objective_name": "log-Huber(0.001)",
        "n_observations": 7, "n_scales": 5, "r2_log": 0.99, "within_scale_log": 0.01, "misfit_log": 0.0,
        "notes": ("first",),
    }  # fmt: skip
    return LawRecord(**given | changes)


# ---------------------------------------------------------------------------------------------- records


def test_a_record_of_one_scale_as_json_and_back():
    stored = record().to_json()
    assert "x_names" not in stored
    assert "condition" not in stored
    assert "predictor" not in stored
    assert (stored["x_name"], stored["trend"], stored["noise"]) == (
        "N", "falls", {"within_scale_log": 0.01, "misfit_log": 0.0},
    )  # fmt: skip
    assert "x" not in stored["extrapolation"]
    assert stored["extrapolation"]["held_out_x"] == 8.0
    assert stored["curve"] == {"x": [1, 2, 4], "median": [4, 3, 2], "low": [3.5, 2.5, 1.5], "high": [4.5, 3.5, 2.5]}
    assert LawRecord.from_json(json.loads(json.dumps(stored))) == record()


def test_a_record_of_several_scales_as_json_and_back():
    predictor = PredictorRecord("log", ("N", "D"), "loss", 0.1, components=(
        ComponentRecord("form", "E", 1.0, ("E",), (1.0,), ((0.5,),), 0.1),
    ), sites=((1.0, 2.0),), via=PredictorRecord("identity", ("N",), trials=5.0, flipped=True))  # fmt: skip
    one = record(x_names=("N", "D"), condition=5.0, within_scale_log=None, misfit_log=None, trend="unknown",
                 predictor=predictor, extrapolation=None, extrapolation_reason="none", curve=None)  # fmt: skip
    stored = one.to_json()
    assert (stored["x_names"], stored["x_name"], stored["condition"], stored["trend"]) == (["N", "D"], "N", 5.0, None)
    assert "noise" not in stored
    assert stored["predictor"]["via"]["trials"] == 5.0
    again = LawRecord.from_json(json.loads(json.dumps(stored)))
    assert again == one
    assert again.predictor.via == predictor.via


def test_what_an_older_file_means_by_silence():
    """Of one scale the slope reverts at 0.45 and diffuses by 3; units are 1, and nothing is known of trials."""
    one = {"link": "log", "x_names": ("N",), "loss_name": "", "noise": 0.0, "growth": 0.0, "spread": 1.0, "low": (),
           "high": (), "sites": (), "components": (), "x": (), "loss": (), "reversion": 0.45, "diffusion": 3.0,
           "checkpoints": False, "trials": None, "flipped": False, "unit": 1.0, "via": None, "error": (),
           "rate_unit": 1.0, "sum_unit": 1.0}  # fmt: skip
    assert asdict(PredictorRecord("log", ("N",))) == one
    stored = {"law": "power", "predictor": {"link": "log", "x_names": ["N"]}}
    assert LawRecord.from_json(stored).predictor == PredictorRecord("log", ("N",))
    assert asdict(FamilyRecord({})) == {
        "parameters": {}, "objective": None, "rmse_log": None, "aicc": None, "backtest_rmse_log": None,
        "backtest_coverage": None, "converged": True, "note": "",
    }  # fmt: skip


def test_a_band_holds_floats():
    found = Band.of([1, 2], A([3, 4]), (5, 6), [7, 8])
    assert found == Band((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0))
    assert {type(value) for column in (found.x, found.median, found.low, found.high) for value in column} == {float}


def test_what_a_file_does_not_hold_is_unknown():
    found = LawRecord.from_json({"law": "power"})
    assert found == LawRecord("power")
    assert (found.x_name, found.level, found.trend, found.exponent, found.direction) == (
        "",
        0.95,
        "unknown",
        None,
        "unknown",
    )
    assert (found.objective_name, found.n_observations, found.notes, found.predictor, found.curve) == (
        "",
        None,
        (),
        None,
        None,
    )
    assert LawRecord.from_json({"law": "power", "x_name": "N"}).x_names == ("N",)
    assert LawRecord.from_json({"law": "power", "x_names": ["N", "D"], "x_name": "Z"}).x_names == ("N", "D")
    assert LawRecord.from_json({"law": "power", "trend": "sideways"}).trend == "unknown"
    rough = LawRecord.from_json({
        "law": 3, "level": True, "n_scales": 5.0, "objective": "x", "r2_log": float("inf"),
        "parameters": {"A": {"estimate": 1, "low": None, "high": 2}, "B": {"estimate": 1, "low": 0, "high": 2}},
        "families": {"power": {}, "none": {"parameters": None, "rmse_log": 0.5}},
        "extrapolation": {"law": "power", "held_out_x": 8, "observed": 2, "predicted": 3},
        "trends": {"N": {"answer": "falls", "level": 0.9}},
    })  # fmt: skip
    assert (rough.law, rough.level, rough.n_scales, rough.objective, rough.r2_log) == ("3", 0.95, 5, None, None)
    assert rough.parameters == {"B": Interval(1.0, 0.0, 2.0)}
    assert rough.families == {"none": FamilyRecord({}, rmse_log=0.5)}
    assert rough.extrapolation == HiddenScale(8.0, "power", 2.0, 3.0, None, None, None, {})
    assert rough.trends == {"N": TrendResult("falls", None, 0.9)}
    with pytest.raises(ValueError, match=r"^it is no record of a law$"):
        LawRecord.from_json({"law": None})


@pytest.mark.parametrize(
    ("changes", "exponent", "direction"),
    [
        ({}, POWER["alpha"], "falls"),
        ({"end_exponent": Interval(0.1, 0.0, 0.2)}, Interval(0.1, 0.0, 0.2), "falls"),
        ({"trend": "none"}, Interval(0.3, 0.2, 0.4), "none"),
        ({"trend": "rises"}, POWER["alpha"], "rises"),
        ({"parameters": {"beta": Interval(0.2, 0.1, 0.3)}}, Interval(0.2, 0.1, 0.3), "falls"),
        ({"parameters": {}}, POWER["alpha"], "falls"),
        ({"parameters": {}, "families": {}}, Interval(0.3, 0.2, 0.4), "falls"),
        ({"parameters": {"alpha": Interval(0.2, 0.0, 0.3)}}, Interval(0.3, 0.2, 0.4), "falls"),
        ({"parameters": {"alpha": Interval(0.2, -0.1, 0.0)}}, Interval(0.3, 0.2, 0.4), "falls"),
        ({"trends": {}, "parameters": {}, "families": {}, "trend": "unknown"}, None, "unknown"),
        ({"trends": {}, "trend": "unknown"}, POWER["alpha"], "falls"),
        ({"trends": {}, "trend": "unknown", "parameters": {"alpha": Interval(-0.2, -0.3, -0.1)}},
         Interval(-0.2, -0.3, -0.1), "rises"),
        ({"trends": {}, "trend": "unknown", "parameters": {"alpha": Interval(0.2, 0.0, 0.3)}}, Interval(0.2, 0.0, 0.3),
         "none"),
        ({"trends": {}, "trend": "unknown", "parameters": {"alpha": Interval(-0.2, -0.3, 0.0)}},
         Interval(-0.2, -0.3, 0.0), "none"),
    ],
)  # fmt: skip
def test_the_exponent_that_goes_with_a_trend(changes, exponent, direction):
    one = record(**changes)
    assert (one.exponent, one.direction) == (exponent, direction)


def test_curves_of_the_families_that_were_not_chosen():
    """4 x^-1/2 at 1, 4, 16; families without a parameter, of other versions, and the chosen one are left out."""
    families = {"power": FamilyRecord(POWER), "none": FamilyRecord({}), "other": FamilyRecord(POWER),
                "power_irreducible": FamilyRecord({**POWER, "E": Interval(1.0, 0.9, 1.1)})}  # fmt: skip
    found = record(families=families, curve=Band((1.0, 4.0, 16.0), *[(1.0,) * 3] * 3)).family_curves()
    assert found == {"power": pytest.approx((4.0, 2.0, 1.0))}
    assert record(curve=None).family_curves() == {}


def test_laws_of_a_folder(tmp_path):
    assert read_laws(tmp_path) == {}
    one, two = record(), record(law="power")
    write_laws(tmp_path, {"a": one, "b": two})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["law.json", "laws.json"]
    assert json.loads((tmp_path / "law.json").read_text())["law"] == "power_irreducible"
    assert read_laws(tmp_path) == {"a": one, "b": two}
    write_laws(tmp_path, {"a": two})
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]
    assert read_laws(tmp_path) == {"": two}
    (tmp_path / "laws.json").write_text(json.dumps({"z": one.to_json()}))
    assert read_laws(tmp_path) == {"": two}  # of one series law.json counts
    (tmp_path / "laws.json").write_text(json.dumps({"z": one.to_json(), "y": {"law": None}}))
    with pytest.raises(CorruptFile, match=rf"^{tmp_path / 'laws.json'} is damaged: ValueError"):
        read_laws(tmp_path)
    (tmp_path / "laws.json").unlink()
    (tmp_path / "law.json").write_text('{"law": null}')
    with pytest.raises(CorruptFile, match=rf"^{tmp_path / 'law.json'} is damaged: ValueError"):
        read_laws(tmp_path)
    (tmp_path / "law.json").write_text("[1]")
    with pytest.raises(CorruptFile, match=rf"^{tmp_path / 'law.json'} must hold one JSON object; it holds a list$"):
        read_laws(tmp_path)
    write_laws(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_saved_file_and_what_is_none(tmp_path):
    path = tmp_path / "law.json"
    save_record(path, record())
    stored = json.loads(path.read_text())
    assert (stored["format"], stored["version"], len(stored["sha256"])) == ("metascale law", 1, 64)
    assert stored["sha256"] == content_id(plain({"": record().to_json()}), 64)
    assert load_records(path) == {"": record()}
    save_record(str(path), {"a": record(), "b": record(law="power")})
    assert load_records(str(path)) == {"a": record(), "b": record(law="power")}
    whole = json.loads(path.read_text())

    def refused(error, words, field=None):
        with pytest.raises(error) as caught:
            load_records(path)
        assert str(caught.value).startswith(words)
        assert field is None or caught.value.field == field

    path.write_text(json.dumps({**whole, "version": 2}))
    refused(InputError, f"{path} has version 2 of the format; this metascale reads version 1", "path")
    path.write_text(json.dumps({**whole, "format": "other"}))
    refused(InputError, f"{path} is no law that `save` wrote: its 'format' is not 'metascale law'; the folder "
                        f"'{tmp_path}' can be given instead", "path")  # fmt: skip
    path.write_text("[1]")
    refused(InputError, f"{path} is no law that `save` wrote: its 'format' is not 'metascale law'; the folder", "path")
    path.write_text("{")
    refused(CorruptFile, f"{path} is no JSON, so no law that `save` wrote, or only a part of one: ")
    for laws in ({}, [], {**whole["laws"], "c": {}}):
        path.write_text(json.dumps({**whole, "laws": laws}))
        refused(CorruptFile, f"{path} was changed after it was saved: its content does not have the hash that was written "  # noqa: E501
                             "with it; save the law again")  # fmt: skip
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(InputError) as caught:
        load_records(other)
    assert str(caught.value) == f"{other} is no law that `save` wrote: its 'format' is not 'metascale law'"
    with pytest.raises(InputError) as caught:
        load_records(tmp_path / "none")
    assert (str(caught.value), caught.value.field) == (
        f"there is no file '{tmp_path / 'none'}'; `save` of a law or a forecast writes one", "path",
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        save_record(tmp_path, record())
    assert (str(caught.value), caught.value.field) == (
        f"'{tmp_path}' is a folder; give a file such as {tmp_path / 'law.json'}", "path",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- pictures


def test_what_a_picture_of_a_law_holds():
    found = LawPicture.of(record(), [1, 2], A([3.0, 2.0]), {"forecast": BAND}, "g")
    assert found == LawPicture(
        "loss against N: g", "it falls.", "N", "loss", (1.0, 2.0), (3.0, 2.0),
        {"E + A x^-alpha (90 %)": BAND, "forecast": BAND}, HIDDEN,
    )  # fmt: skip
    bare = LawPicture.of(record(curve=None, extrapolation=None), [1], [3])
    assert (bare.title, bare.bands, bare.hidden, bare.signed) == ("loss against N", {}, None, False)
    assert [LawPicture("", "", "", "", (), loss, {}).signed for loss in ((), (1.0, 0.0), (1.0,))] == [
        False,
        True,
        False,
    ]


def test_a_picture_is_drawn_with_its_readings():
    axes = plot_law(LawPicture.of(record(), [1, 2], [3.0, 2.0]))
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == (
        "log", "log", "N", "loss", "loss against N",
    )  # fmt: skip
    assert axes.get_legend_handles_labels()[1] == [
        "runs", "E + A x^-alpha (90 %)", "predicted without the largest scale",
    ]  # fmt: skip
    tips = [line.get_gid() for line in axes.lines if line.get_gid()]
    from urllib.parse import unquote

    assert [unquote(tip) for tip in tips] == [
        "tip:N 1: loss 3", "tip:N 2: loss 2", "tip:E + A x^-alpha (90 %)\nN 1: 4 (3.5 to 4.5)",
        "tip:E + A x^-alpha (90 %)\nN 2: 3 (2.5 to 3.5)", "tip:E + A x^-alpha (90 %)\nN 4: 2 (1.5 to 2.5)",
        "tip:predicted without the largest scale\nN 8: 2.5 (2.25 to 2.75), measured 2",
    ]  # fmt: skip
    signed = plot_law(LawPicture.of(record(), [0, 1], [3.0, -2.0]))
    assert (signed.get_xscale(), signed.get_yscale()) == ("linear", "linear")
    assert plot_law(LawPicture.of(record(), [1], [2.0]), y_scale="linear").get_yscale() == "linear"


def test_of_a_large_table_no_run_has_a_reading(monkeypatch):
    monkeypatch.setattr(pictures_room, "MOST_READINGS", 2)
    for n, readings in ((2, 2), (3, 0)):
        axes = plot_law(LawPicture("t", "s", "N", "loss", (1.0,) * n, (2.0,) * n, {}))
        assert sum(line.get_gid() is not None for line in axes.lines) == readings
        assert axes.get_legend_handles_labels()[1] == ["runs"]


def test_bands_and_predictions_of_the_largest_scale():
    axes = axis_or_new(None)
    assert axis_or_new(axes) is axes
    draw_band(axes, BAND, BLUE, "law", "--")
    (line,) = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_linestyle(), line.get_label()) == (
        [1, 2, 4], [4, 3, 2], "--", "law",
    )  # fmt: skip
    assert len(axes.collections) == 1
    draw_hidden(axes, HIDDEN, BLUE, "reading", at=2.0, label="hidden")
    bar, diamond = axes.lines[1:]
    assert (list(bar.get_xdata()), list(bar.get_ydata())) == ([16, 16], [2.25, 2.75])
    assert (list(diamond.get_xdata()), list(diamond.get_ydata()), diamond.get_label()) == ([16], [2.5], "hidden")
    bare = HiddenScale(8.0, "power", 2.0, 2.5, None, 2.75, None, {})
    draw_hidden(axes, bare, BLUE, "reading")
    assert len(axes.lines) == 4
    assert list(axes.lines[3].get_xdata()) == [8]
    assert hidden_words(bare, "N") == "predicted without the largest scale\nN 8: 2.5, measured 2"
    unknown = HiddenScale(8.0, "power", 2.0, 2.5, 2.25, None, None, {})
    draw_hidden(axes, unknown, BLUE, "reading")
    assert len(axes.lines) == 5
    assert hidden_words(unknown, "N") == "predicted without the largest scale\nN 8: 2.5, measured 2"


def test_the_other_families_are_options_that_leave_the_axes_as_they_are():
    axes = axis_or_new(None)
    axes.set_ylim(1.0, 2.0)
    draw_families(axes, record(), "C3")
    (line,) = axes.lines
    assert (line.get_gid(), axes.get_ylim()) == ("option:power", (1.0, 2.0))
    assert line.get_ydata().tolist() == pytest.approx([4, 4 / 2**0.5, 2])
    assert line.get_linestyle() == "--"


@pytest.mark.parametrize(
    ("n", "places"), [(1, [0]), (3, [0, 1, 2]), (25, list(range(25))), (49, list(range(0, 49, 2)))]
)
def test_some_points_of_a_curve(n, places):
    column = tuple(map(float, range(n)))
    assert [row[0] for row in rows_of(Band(column, column, column, column))] == places


@pytest.mark.parametrize(
    ("low", "high", "scale", "kind"),
    [
        (2.0, 8.0, "log", "plain"), (2.0, 20.0, "log", "sparse"), (2.0, 2001.0, "log", "as it is"),
        (2.0, 1999.0, "log", "sparse"), (1e-4, 5e-4, "log", "as it is"), (2e4, 9e4, "log", "as it is"),
        (2.0, 8.0, "linear", "as it is"),
    ],
)  # fmt: skip
def test_labels_of_a_short_logarithmic_axis(low, high, scale, kind):
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes = axis_or_new(None)
    axes.set_xscale(scale)
    axes.set_xlim(low, high)
    plain_numbers(axes.xaxis)
    major, minor = axes.xaxis.get_major_formatter(), axes.xaxis.get_minor_formatter()
    assert isinstance(major, StrMethodFormatter) is (kind == "plain")
    assert isinstance(minor, StrMethodFormatter) is (kind == "plain")
    if kind == "plain":
        assert (major(2.5), minor(0.5)) == ("2.5", "0.5")
    if scale == "log":
        locator = axes.xaxis.get_major_locator()
        assert isinstance(locator, LogLocator)
        assert (3.0 in locator._subs) is (kind == "sparse")
        assert isinstance(minor, NullFormatter) is (kind == "sparse")


def test_finished_axes():
    axes = axis_or_new(None)
    axes.plot([1, 100], [1, 10])
    finish(axes, "a", "b")
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_legend()) == ("log", "log", None)
    axes.plot([1, 2], [1, 2], label="line")
    assert finish(axes, "c", "d", x_scale="linear", y_scale="linear") is axes
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        "linear",
        "linear",
        "c",
        "d",
    )
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["line"]
    assert finish_outside(axes, "e") is axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == (
        "largest scale over largest scale seen", "e", "log",
    )  # fmt: skip
    assert axes.get_legend().get_bbox_to_anchor().x0 > axes.bbox.x0 + 0.99 * axes.bbox.width


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (5, 2, 3)])
def test_panels_side_by_side(n, columns, rows):
    figure = figure_of([LawPicture.of(record(), [1], [2.0], name=str(k)) for k in range(n)], "linear")
    assert len(figure.axes) == n
    assert [axes.get_title(loc="left")[-1] for axes in figure.axes] == [str(k) for k in range(n)]
    assert figure.get_size_inches().tolist() == pytest.approx([6.6 * columns, 4.6 * rows])
    assert {axes.get_yscale() for axes in figure.axes} == {"linear"}
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)


def test_pictures_as_files(tmp_path, monkeypatch):
    one = LawPicture.of(record(), [1, 2], [3.0, 2.0], name="<g>")
    figure = Figure(figsize=(1, 1))
    axes = figure.subplots()
    tip(axes.plot([1, 2], [3, 2], "o")[0], "N 1: loss < 3")
    draw_band(axes, BAND, BLUE)
    write_png(figure, tmp_path / "a.png")
    write_png(axes, tmp_path / "b.png")
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert first[:4] == b"\x89PNG"
    assert int.from_bytes(first[16:20], "big") == 130  # dots of an inch
    assert b"Software" not in first
    text = svg(figure, "p")
    assert text.startswith("<svg")
    assert text.endswith("</svg>")
    assert "<g><title>N 1: loss &lt; 3</title>" in text
    assert "metadata" not in text
    assert "xmlns" not in text
    assert 'id="p-' in text
    assert "url(#p-" in text
    assert text == svg(figure, "p")
    monkeypatch.setattr(pictures_room, "svg", lambda figure, prefix: f"<{prefix} {figure.axes[0].get_yscale()}>")
    write_html([one, one], tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert page.count("<section>") == 2
    assert "<title>loss against N: &lt;g&gt;</title>" in page
    assert 'id="p0-log" checked' in page
    assert 'id="p0-linear">' in page
    assert '<div class="linear"><p1-linear linear></div>' in page
    assert '<div class="log"><p0-log log></div>' in page
    assert page.count("<summary>runs: 2 rows</summary>") == 2
    assert page.count("<p>it falls.</p>") == 2
    assert page.count("N 8: 2.5 (2.25 to 2.75), measured 2</p>") == 2
    write_html([], tmp_path / "d.html")
    assert "<title>law</title>" in (tmp_path / "d.html").read_text()
    assert len(set(COLOURS)) == 6


# ---------------------------------------------------------------------------------------------- predictions


def test_predictions_inside_and_beyond():
    found = Prediction(A([[1.0], [2.0]]), A([3.0, 2.0]), A([2.5, 1.5]), A([3.5, 2.5]), 0.9, A([1 + 1e-10, 1 + 1e-8]), ("N",),  # noqa: E501
                       "loss")  # fmt: skip
    assert (found.by, len(found), found.outside.tolist()) == ("", 2, [False, True])
    assert found.columns == ["N", "median", "low", "high", "beyond"]
    assert "predicted by" not in found.summary()
    many = Prediction(np.ones((20, 1)), *np.ones((3, 20)), 0.9, np.ones(20), ("N",), "loss")
    assert len(many.summary().splitlines()) == 20
    more = Prediction(np.ones((21, 1)), *np.ones((3, 21)), 0.9, np.ones(21), ("N",), "loss")
    assert more.summary().splitlines()[20:] == ["... 1 more rows"]


def test_points_by_compute_are_read_as_tokens():
    """D = C / 6 N: 12 / (6 * 1)."""
    assert points_of({"N": [1.0], "C": [12.0]}, ("N", "C / 6N")).tolist() == [[1, 2]]
    assert points_of({"N": [1.0], "C / 6N": [5.0]}, ("N", "C / 6N")).tolist() == [[1, 5]]
    for given, missing in (({"N": [1.0]}, "C"), ({"C": [1.0]}, "N")):
        with pytest.raises(InputError, match=f"has no column '{missing}'") as caught:
            points_of(given, ("N", "C / 6N"))
        assert (caught.value.field, caught.value.value) == ("points", missing)
    assert points_of(Table({"N": [1, 2]}, "t"), ("N",)).tolist() == [[1], [2]]


def saved(predictor=None, **changes):
    return SavedLaw(record(**changes), predictor)


class Asked:
    by, x_names, loss_name = "1 form", ("N",), "loss"

    def predict(self, points, level=0.9):
        return points, level

    def record(self):
        return PredictorRecord("log", ("N",), x=(1.0,), loss=(2.0,))


def test_a_saved_law_says_what_its_record_says(tmp_path):
    one = saved(Asked())
    assert (one.parameters, one.trend, one.verdict, one.record(), one.to_json()) == (
        record().parameters, "falls", "it falls.", record(), record().to_json(),
    )  # fmt: skip
    assert one.predict([1.0]) == ([1.0], 0.9)
    assert one.predict([1.0], 0.5) == ([1.0], 0.5)
    with pytest.raises(InputError) as caught:
        one.predict([1.0], at=[3])
    assert (str(caught.value), caught.value.field) == (
        "`at` is for laws of schedules, and 'power_irreducible' is none", "at",
    )  # fmt: skip
    one.save(tmp_path / "law.json")
    assert load_records(tmp_path / "law.json") == {"": record()}
    assert saved_record(one) == record(predictor=Asked().record())
    told = record(predictor=PredictorRecord("log", ("N",)))
    assert saved_record(SavedLaw(told, Asked())) is told
    assert with_predictor(record(), Asked()).predictor == Asked().record()


def series(x=(1.0, 2.0, 4.0, 8.0), loss=(4.0, 3.0, 2.5, 2.25)):
    return predictor_of_loss(A(x), A(loss), ("N",), "loss")


def test_a_law_is_loaded_with_what_predicts(tmp_path):
    one = series()
    path = tmp_path / "law.json"
    save_record(path, record(predictor=one.record()))
    found = load_saved(path)
    assert list(found) == [""]
    assert found[""].predict([16.0]).rows() == one.predict([16.0]).rows()
    assert list(read_predictors(path)) == [""]
    assert read_predictors(path)[""].predict([16.0]).rows() == one.predict([16.0]).rows()
    folder = tmp_path / "fit"
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        load_saved(folder)
    assert str(caught.value) == (
        f"there is no law in '{folder}'; write one with `metascale fit` and this output folder"
    )  # fmt: skip
    write_laws(folder, {"a": record(predictor=one.record()), "b": record(predictor=one.record())})
    assert list(load_saved(folder)) == list(read_predictors(folder)) == ["a", "b"]
    with pytest.raises(InputError) as caught:
        predictor_of(record())
    assert str(caught.value) == (
        "the law holds no predictor, as those of studies and of earlier versions do not; fit its table (of a study its "
        "results.csv) into a folder of its own, and predict from there"
    )
    axes = found[""].plot()
    assert axes.get_title(loc="left") == "loss against N"
    assert axes.get_legend_handles_labels()[1][0] == "runs"
    bare = SavedLaw(record(curve=None), one).plot()
    assert bare.get_legend_handles_labels()[1] == ["one run (90 %)"]
    assert [bare.lines[0].get_xdata()[k] for k in (0, -1)] == pytest.approx([1.0, 16.0])
    assert (bare.get_xlabel(), bare.get_ylabel(), bare.get_yscale(), len(bare.lines[0].get_xdata())) == (
        "N", "loss", "log", 60,
    )  # fmt: skip


def test_what_predicts_a_loss_leaves_out_rows_without_one():
    whole, holed = series(), series((1.0, 2.0, 3.0, 4.0, 8.0), (4.0, 3.0, np.nan, 2.5, 2.25))
    assert holed.observations.loss.tolist() == whole.observations.loss.tolist() == [4, 3, 2.5, 2.25]
    for n in (1, 2):
        with pytest.raises(InputError) as caught:
            series((1.0, 2.0)[:n] + (2.0,), (4.0, 3.0, 3.0)[: n + 1])  # noqa: RUF005
        assert str(caught.value) == (
            f"the table has {2} distinct values of 'N'; a forecast needs at least 3"
        )  # fmt: skip
    assert series((1.0, 2.0, 4.0), (3.0, 2.0, 1.0)).observations.n_scales == 3
    repeated = predictor_of_loss(
        A([1.0, 1.0, 2.0, 4.0]), A([3.0, 3.0, 2.0, 1.0]), ("N",), "loss", run=["a", "a", "b", "c"]
    )
    assert (repeated.observations.n, repeated.observations.n_runs) == (4, 3)
    with pytest.raises(InputError, match="only positive numbers are allowed"):
        series((1.0, 2.0, 4.0), (3.0, 2.0, -1.0))


def test_several_scales_are_predicted_by_joined_forms(monkeypatch):
    seen = []
    monkeypatch.setattr(predicting, "choose", lambda table: seen.append(table) or SimpleNamespace(mixture="joined"))
    assert predictor_of_loss([[1.0, 2.0], [2.0, 1.0]], [1.0, -1.0], ("N", "D"), "loss") == "joined"
    assert (seen[0].x_names, seen[0].loss_name, seen[0].loss.tolist()) == (("N", "D"), "loss", [1, -1])


# ---------------------------------------------------------------------------------------------- several laws


def test_results_by_group_and_by_metric(tmp_path):
    one = saved(Asked())
    groups = ByGroup({"a": one, "b": one})
    assert (len(groups), list(groups), groups["a"]) == (2, ["a", "b"], one)
    groups.save(tmp_path / "laws.json")
    assert list(load_records(tmp_path / "laws.json")) == ["a", "b"]
    assert load_records(tmp_path / "laws.json")["a"].predictor == Asked().record()
    assert each_group([("a", 2), ("b", 3)], lambda value: value**2) == {"a": 4, "b": 9}

    def refuse(name):
        raise InputError("no", field="f", value=name, allowed="x")

    with pytest.raises(InputError) as caught:
        each_group([("a", 2)], refuse)
    assert (str(caught.value), caught.value.field, caught.value.allowed) == ("a: no", "f", "x")
    with pytest.raises(InputError) as caught:
        each_metric([], str)
    assert (str(caught.value), caught.value.field) == (
        "`y` names no metric; give one or more columns, or leave it out", "y",
    )  # fmt: skip
    found = each_metric(["a", "b"], lambda name: name.upper() if name == "a" else refuse(name))
    assert (dict(found), found.refused) == ({"a": "A"}, {"b": "no"})


TASKS = Table({"N": [1, 2], "acc": [0.2, 0.4], "err": [0.8, 0.6], "val_loss": [3.0, 2.0], "bpb": [0.5, 0.4],
               "pass": [0.1, 0.2], "word": ["a", "b"]}, "t")  # fmt: skip


def test_whose_the_options_are():
    how = ShareOptions()
    found = parts_of(TASKS, ["acc", "val_loss", "word", "acc"], how)
    assert list(found) == ["acc", "val_loss", "word"]
    assert (found["acc"].how.kind, found["acc"].takes_loss_options) == (None, False)
    assert (found["val_loss"].how.kind, found["val_loss"].takes_loss_options) == ("loss", True)
    assert found["word"] == Part(how)
    assert parts_of(TASKS, ["acc"], how)["acc"].takes_loss_options is True
    told = parts_of(TASKS, ["acc", "pass", "bpb"], ShareOptions("error"))
    assert {name: part.how.kind for name, part in told.items()} == {"acc": None, "pass": "error", "bpb": "loss"}
    assert {part.how.kind for part in parts_of(TASKS, ["acc", "pass"], ShareOptions("loss")).values()} == {"loss"}
    options = {"objective": 1, "weights": 2, "bounds": 3, "fixed": 4, "noise": 5, "level": 6}
    assert Part(how).options(options) == options
    assert Part(how, False).options(options) == {"level": 6}
    for names, words in (
        (["val_loss"], "`chance` is for shares such as accuracies, and 'val_loss' is read as a loss; `kind` says otherwise"),  # noqa: E501
        (["val_loss", "bpb", "N"], "`chance` is for shares such as accuracies, and 'val_loss', 'bpb' and 'N' are read as "  # noqa: E501
                                   "losses; `kind` says otherwise"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            parts_of(TASKS, names, ShareOptions(chance=0.25))
        assert (str(caught.value), caught.value.field) == (words, "chance")
    named = Table({"my_loss": [0.2, 0.4], "acc": [0.2, 0.4]}, "t")
    told = parts_of(named, ["my_loss", "acc"], ShareOptions("share"))
    assert {name: part.how.kind for name, part in told.items()} == {"my_loss": "loss", "acc": None}
    assert parts_of(TASKS, ["val_loss", "acc"], ShareOptions(chance=0.25))["acc"].how.chance == 0.25
