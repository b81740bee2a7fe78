"""No words of a figure lie over others, and every axis of numbers has three labelled ticks: measured by matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text

from metascale.report.section import Picture
from metascale.report.sections.law import law
from metascale.report.study import open_study
from metascale.report.style import FEWEST_TICKS, styled
from metascale.report.words import in_order
from metascale.report.write import figure_of, sections_of
from metascale.study.roles import Roles
from tests.report.shape_fixture import write_shapes
from tests.report.study_fixture import StudyBuilder, make_study

TOUCHING = 1.0
"""Pixels that two boxes may share: glyphs do not fill their boxes."""


def words(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every visible text and its box in pixels; ticks outside their axis are not drawn."""
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.axison]
    axes = [axis for ax in shown for axis in (ax.xaxis, ax.yaxis) if axis.get_visible()]
    # Ticks and their labels know no axes, so they are found by their axis.
    ticks = {id(text) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for text in axis.get_ticklabels()}
    drawn = [text for axis in axes for text in (*labels(axis), axis.label)]
    others = [text for ax in shown for text in ax.findobj(Text) if id(text) not in {*ticks, *map(id, drawn)}]
    texts = [text for text in (*drawn, *others) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), Text.get_window_extent(text).extents) for text in texts]


def labels(axis: Axis) -> list[Text]:
    """Labels of the ticks that are drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    return [tick.label1 for tick in ticks if tick.label1.get_text()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes share more than a line of pixels, and texts that stick out of the figure."""
    found = words(figure)
    width, height = figure.canvas.get_width_height()
    pairs = [
        (one, other)
        for (one, a), (other, b) in combinations(found, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > TOUCHING and min(a[3], b[3]) - max(a[1], b[1]) > TOUCHING
    ]
    outside = [
        (text, "edge") for text, box in found if box[0] < -1 or box[1] < -1 or box[2] > width + 1 or box[3] > height + 1
    ]
    return pairs + outside


def short_axes(figure: Figure) -> list[list[str]]:
    """Axes of numbers with fewer labelled ticks than they must have; names on an axis are no numbers."""
    found = []
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            texts = [text.get_text() for text in labels(axis)]
            numbers = all(text.replace("−", "").strip(" %")[:1].isdigit() for text in texts)
            beside = axis is ax.yaxis and not texts and len(ax.get_shared_y_axes().get_siblings(ax)) > 1
            if ax.axison and axis.get_visible() and numbers and len(texts) < FEWEST_TICKS and not beside:
                found.append(texts)
    return found


def pictures(folder: Path) -> Iterator[Picture]:
    for section in sections_of(open_study(folder)):
        yield from section.pictures


@pytest.fixture
def folder(name: str, study_folder: Path, tmp_path: Path) -> Path:
    """Of tasks, of tuned shapes, or of few scales and seeds."""
    if name == "few":
        return make_study(tmp_path, scales=(2, 200), seeds=(0,))
    return study_folder if name == "digits" else write_shapes(tmp_path)


def test_sizes_close_to_each_other_are_not_labelled_over_each_other_beside_long_names(tmp_path: Path) -> None:
    """Two architectures, whose parameters differ by a third, on three amounts of text: the names take two fifths of
    the picture. Numbers of names are written and ordered as numbers."""
    sizes = {"transformer": (6_736, 25_248, 100_672), "resnet_bk": (8_940, 34_252, 134_028)}
    varied = {"architecture": list(sizes), "d_model": [16, 32, 64], "tokens": [180_224, 1_441_792]}
    roles = Roles(("n_params_non_embedding", "tokens"), ("architecture",), loss="test_loss_nats")
    builder = StudyBuilder(tmp_path, varied, roles=roles)
    for name, (place, width), tokens in product(sizes, enumerate(varied["d_model"]), varied["tokens"]):
        values = {"architecture": name, "d_model": width, "tokens": tokens}
        size = sizes[name][place]
        result = {"n_params_non_embedding": size, "test_loss_nats": size**-0.01 + tokens**-0.07}
        builder.run(f"{name}{width}-{tokens}", values, kind="trial", result=result)
    study = open_study(builder.write())
    amounts = ("180,224", "1,441,792")
    named = [f"architecture {name}, tokens {amount}" for name in ("ResNet-BK", "Transformer") for amount in amounts]
    assert sorted(set(study.series.values()), key=in_order) == named
    (picture,) = [one for one in law(study).pictures if one.name == "law"]
    with styled():
        assert overlaps(figure_of(picture, compact=False)) == []


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("digits", "shapes")]


@pytest.mark.parametrize("compact", [False, pytest.param(True, marks=pytest.mark.long)], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ["few", *LONG])
def test_words_do_not_overlap_and_axes_have_ticks(name: str, compact: bool, folder: Path) -> None:
    with styled():
        for picture in pictures(folder):
            for shown in [replace(picture, draws=(draw,)) for _, draw in picture.on_page] or [picture]:
                figure = figure_of(shown, compact=compact)
                assert (name, picture.name, overlaps(figure)) == (name, picture.name, [])
                assert (name, picture.name, short_axes(figure)) == (name, picture.name, [])
