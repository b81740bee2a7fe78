from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from metascale.report.section import Picture
from metascale.report.sections.contest import contest_data, plot_baselines
from metascale.report.sections.curves import (
    LearningCurve,
    LearningTable,
    adaptation_data,
    extremes,
    learning,
    learning_curves_data,
    plot_adaptation,
    plot_learning_curves,
)
from metascale.report.sections.law import law_data, plot_study_law
from metascale.report.sections.scales import RunValue, ScaleMean, ScaleTable, accuracy_data, plot_accuracy
from metascale.report.study import open_study
from metascale.report.style import finish, inline_svg, new_figure, pad_y, png_bytes, ramp, round_ticks, spread, styled
from metascale.report.write import figure_of, sections_of
from tests.report.shape_fixture import write_shapes
from tests.report.study_fixture import SCALES, SEEDS, StudyBuilder, make_study


def new_axes() -> Axes:
    _, (ax,) = new_figure(8, 4.8)
    return ax


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tick_texts(axis: object) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]  # type: ignore[attr-defined]


def markers(ax: Axes, size: float) -> list[tuple[float, float]]:
    lines = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() == size]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def test_law_plot_shows_runs_means_curve_baselines_and_prediction(study_folder: Path) -> None:
    table, ax = law_data(study_folder), new_axes()
    assert plot_study_law(table, ax) is ax
    assert markers(ax, 3.6) == [(point.x, point.value) for point in table.scales.points]
    assert markers(ax, 7.5) == [(mean.x, mean.mean) for mean in table.scales.means]
    (curve,) = [line for line in ax.lines if line.get_label() == "law"]
    (fit,) = table.laws.values()
    assert fit.curve is not None
    assert np.array_equal(curve.get_ydata(), fit.curve.median)
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_xdata()[0] == 0 and line.get_xdata()[1] == 1]
    assert sorted(levels) == sorted(level.value for level in table.scales.levels)
    (diamond,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert fit.extrapolation is not None
    assert diamond.get_ydata()[0] == fit.extrapolation.predicted
    assert {"law, 95 %", "predicted from\nsmaller scales", "fine-tuning 1.14", "prototypes 1.02"} <= set(texts(ax))


def test_law_plot_is_log_log_with_plain_ticks_and_a_finding(study_folder: Path) -> None:
    ax = plot_study_law(law_data(study_folder), new_axes())
    ax.figure.draw_without_rendering()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert tick_texts(ax.xaxis) == [str(n) for n in SCALES]
    assert tick_texts(ax.yaxis)[:2] == ["0.8", "1"]
    assert ax.get_xlabel() == "training tasks N (log scale)"
    assert ax.get_ylabel() == "meta-test loss (nats, log scale)"
    assert (
        ax.get_title(loc="left")
        .replace("\u00a0", " ")
        .startswith("Meta-test loss falls with more training tasks: α = 0.160")
    )


def test_bars_across_seeds_are_drawn_only_where_there_are_seeds(study_folder: Path, tmp_path: Path) -> None:
    ax = plot_study_law(law_data(study_folder), new_axes())
    assert len(ax.containers) == len(SCALES)
    single = plot_study_law(law_data(make_study(tmp_path, seeds=(0,))), new_axes())
    assert len(single.containers) == 0


def test_accuracy_plot_is_log_linear_in_percent(study_folder: Path) -> None:
    ax = plot_accuracy(accuracy_data(study_folder), new_axes())
    ax.figure.draw_without_rendering()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert all(text.endswith("%") for text in tick_texts(ax.yaxis))
    assert "chance 20 %" in texts(ax)


def test_learning_plot_has_a_line_a_run_and_a_dot_a_kept_step(study_folder: Path) -> None:
    ax = plot_learning_curves(learning_curves_data(study_folder), new_axes())
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    assert len(lines) == len(SCALES) * len(SEEDS) + 1
    assert len(markers(ax, 4.5)) == len(SCALES) * len(SEEDS)
    assert sum(line.get_linestyle() == ":" for line in lines) == 1
    assert len([line for line in ax.lines if line.get_marker() == "x"]) == 1
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["N\u00a0=\u00a02", *(str(n) for n in SCALES[1:])]


def test_learning_curves_of_settings_without_a_scale_are_told_apart_by_colour() -> None:
    """Seven of them: the seventh has the first one's hue, dashed."""
    names = ["sama", "darts", "identity", "cg", "neumann", "unrolled", "plain"]
    curves = [
        LearningCurve(name, None, seed, True, (0.0, 10.0), (2.0, 1.0 + place / 10), 10.0)
        for place, name in enumerate(names)
        for seed in (0, 1)
    ]
    ax = plot_learning_curves(
        LearningTable(tuple(curves), "n", "validation loss (nats)", 1.0, "outer step"), new_axes()
    )
    lines = [line for line in ax.lines if len(line.get_xdata()) > 1]
    looks = [(line.get_color(), line.get_linestyle()) for line in lines]
    assert looks[::2] == looks[1::2]
    assert len(set(looks)) == 7
    assert looks[0][0] == looks[-1][0]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == names


def test_panels_that_share_their_loss_axis_show_all_of_both(study_folder: Path) -> None:
    _, axes = new_figure(8, 4.8, columns=2)
    # The training losses reach lower than the validation losses that are drawn after them.
    tables = [learning_curves_data(study_folder, which) for which in ("train", "validation")]
    for table, ax in zip(tables, axes, strict=True):
        plot_learning_curves(table, ax)
    values = [value for table in tables for curve in table.curves for value in curve.values]
    low, high = axes[0].get_ylim()
    assert low < min(values)
    assert high > max(values)


def test_adaptation_plot_has_plain_ticks_at_the_steps(study_folder: Path) -> None:
    ax = plot_adaptation(extremes(adaptation_data(study_folder)), new_axes())
    ax.figure.draw_without_rendering()
    assert tick_texts(ax.xaxis) == ["0", "1", "3", "5", "10", "20"]
    assert set(texts(ax)) == {"Reptile, N\u00a0=\u00a02", "Reptile, N\u00a0=\u00a0200", "fine-tuning"}


def test_bars_are_as_long_as_the_losses_and_start_at_zero(study_folder: Path) -> None:
    table = contest_data(study_folder)
    ax = plot_baselines(table, new_axes())
    assert [bar.get_width() for bar in ax.patches] == [row.loss for row in table.shown]
    assert {bar.get_x() for bar in ax.patches} == {0}
    assert tick_texts(ax.yaxis) == [row.name for row in table.shown]


def test_labels_in_the_margin_do_not_overlap(study_folder: Path) -> None:
    with styled():
        for compact, size in ((False, (8, 4.8)), (True, (3.9, 3.4))):
            figure, (ax,) = new_figure(*size)
            plot_study_law(law_data(study_folder), ax, compact=compact)
            figure.draw_without_rendering()
            boxes = sorted((Text.get_window_extent(text) for text in ax.texts), key=lambda box: box.y0)
            gaps = [upper.y0 - lower.y1 for lower, upper in itertools.pairwise(boxes)]
            assert min(gaps) > -1.0
            assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_plots_of_empty_tables_say_so(tmp_path: Path) -> None:
    StudyBuilder(tmp_path, {"n_tasks": [2, 5]}).write()
    for plot, table in (
        (plot_study_law, law_data(tmp_path)),
        (plot_accuracy, accuracy_data(tmp_path)),
        (plot_learning_curves, learning_curves_data(tmp_path)),
        (plot_adaptation, adaptation_data(tmp_path)),
        (plot_baselines, contest_data(tmp_path)),
    ):
        (words,) = texts(plot(table, new_axes()))  # type: ignore[operator]
        assert words.startswith("No ")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.74, 1.7, [0.8, 1.0, 1.2, 1.4, 1.6]),
        (0.01, 9.0, [0.01, 0.03, 0.1, 0.3, 1.0, 3.0]),
        (1, 2e4, [1, 10, 100, 1e3, 1e4]),
    ],
)
def test_round_ticks(low: float, high: float, expected: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(expected)


def test_spread_moves_as_little_as_needed() -> None:
    assert spread([0.1, 0.9], 0.2, 0, 1) == pytest.approx([0.1, 0.9])
    assert spread([0.5, 0.5], 0.2, 0, 1) == pytest.approx([0.4, 0.6])
    assert spread([0.0, 0.05], 0.2, 0, 1) == pytest.approx([0.0, 0.2])
    moved = spread([0.52, 0.5, 0.51, 0.1], 0.1, 0, 1)
    assert sorted(moved) == pytest.approx([0.1, 0.41, 0.51, 0.61])
    assert np.argsort(moved).tolist() == [3, 1, 2, 0]


def test_ramp_goes_from_light_to_dark() -> None:
    colours = ramp(5)
    brightness = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in colours]
    assert len(colours) == 5
    assert brightness == sorted(brightness, reverse=True)
    assert len(ramp(1)) == 1
    assert ramp(0) == ()


def test_figures_have_the_same_bytes_twice_and_no_date(study_folder: Path) -> None:
    def both() -> tuple[bytes, str]:
        with styled():
            figure, (ax,) = new_figure(4, 3)
            plot_study_law(law_data(study_folder), ax)
            return png_bytes(figure), inline_svg(figure, "law")

    first, second = both(), both()
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"Software" not in first[0]
    assert "<metadata" not in first[1]


def test_svg_has_prefixed_ids_variables_and_read_outs(study_folder: Path) -> None:
    with styled():
        figure, (ax,) = new_figure(4, 3)
        plot_study_law(law_data(study_folder), ax)
        svg = inline_svg(figure, "law")
    assert svg.startswith("<svg")
    assert 'id="law-' in svg
    assert "url(#law-" in svg
    assert "var(--ink, #1b2530)" in svg
    assert "<title>Reptile, N\u00a0=\u00a02, seed 0: " in svg
    assert "http" not in svg


@pytest.mark.parametrize("log", [True, False])
def test_losses_that_span_all_floats_are_drawn(log: bool) -> None:
    ax = new_axes()
    ax.plot([1, 2, 3], [1.0, 1e-308, 1.7e308])
    pad_y(ax, log=log)
    low, high = ax.get_ylim()
    assert np.isfinite([low, high]).all()
    assert low < 1 < high


def test_a_loss_of_zero_makes_the_axis_linear() -> None:
    curves = [LearningCurve("maml", None, 0, True, (1, 2, 3), (0.5, 0.1, 0.0), 3.0)]
    ax = plot_learning_curves(LearningTable(tuple(curves), "n", "training loss (nats)", 1.0, "step"), new_axes())
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "training loss (nats)")
    assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1]


def test_a_title_of_several_series_names_them_all() -> None:
    values = {("a", 1.0): 0.3, ("a", 8.0): 0.33, ("b", 1.0): 0.9, ("b", 8.0): 0.95}
    means = tuple(ScaleMean(series, x, 1, value, None, None) for (series, x), value in values.items())
    points = tuple(RunValue(mean.series, mean.x, 0, mean.mean, None) for mean in means)
    table = ScaleTable("x", "x", "test accuracy", "", ("a", "b"), points, means, ())
    ax = plot_accuracy(table, new_axes())
    assert "a 30.0 % to 33.0 %; b 90.0 % to 95.0 %" in " ".join(ax.get_title(loc="left").split())


def cut_or_struck(picture: Picture, compact: bool) -> list[str]:
    """Texts that leave the figure, and texts of an axes that one of its grid lines goes through."""
    with styled():
        figure = figure_of(picture, compact=compact)
        figure.draw_without_rendering()
    found = []
    for ax in figure.axes:
        grid = [line.get_window_extent() for axis in (ax.xaxis, ax.yaxis) for line in axis.get_gridlines()]
        grid = [box for axis in (ax.xaxis, ax.yaxis) if axis._major_tick_kw.get("gridOn") for box in grid]
        titles = [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label] if not compact else []
        for text in (text for text in (*titles, *ax.texts) if text.get_visible() and text.get_text().strip()):
            box = Text.get_window_extent(text)  # an annotation's own has its leader in it
            if not (box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1):
                found.append(f"cut: {text.get_text()}")
            if text in ax.texts and any(box.overlaps(line) for line in grid):
                found.append(f"struck: {text.get_text()}")
    return found


@pytest.mark.parametrize("compact", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("name", ["digits", pytest.param("shapes", marks=pytest.mark.long)])
def test_no_text_is_cut_or_struck_through(study_folder: Path, tmp_path: Path, name: str, compact: bool) -> None:
    folder = study_folder if name == "digits" else write_shapes(tmp_path)
    for section in sections_of(open_study(folder)):
        for picture in section.pictures:
            assert cut_or_struck(picture, compact) == [], picture.name


def test_a_title_of_wide_letters_is_wrapped_before_it_is_cut() -> None:
    def draw(ax: Axes, compact: bool) -> Axes:
        ax.set_ylim(0, 1)
        return finish(ax, "WIDE MAMMOTHS " * 9, "x", "y", compact)

    for count in (1, 2):
        assert cut_or_struck(Picture("wide", "", (draw,) * count), compact=False) == []


@pytest.mark.parametrize(("compact", "size"), [(True, 10.0), (False, 12.0)])
def test_learning_curves_on_the_page_have_the_size_that_is_asked_for(
    study_folder: Path, compact: bool, size: float
) -> None:
    (picture,) = (block for block in learning(open_study(study_folder)).blocks if isinstance(block, Picture))
    with styled():
        for draw in picture.draws:
            ax = new_axes()
            draw(ax, compact)
            assert ax._left_title.get_fontsize() == size  # type: ignore[attr-defined]


def test_a_plot_has_an_axis_left_and_below_and_no_frame() -> None:
    with styled():
        spines = new_axes().spines
        seen = {side: spines[side].get_visible() for side in ("left", "bottom", "top", "right")}
    assert seen == {"left": True, "bottom": True, "top": False, "right": False}
