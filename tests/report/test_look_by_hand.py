"""Numbers, names, parts of a section, and how pictures look, by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from metascale.core.errors import InputError
from metascale.report import style
from metascale.report.figures import require_kinds, write_figures
from metascale.report.section import (
    Cell,
    Column,
    Finding,
    Folded,
    Picture,
    Row,
    Section,
    named,
    plain,
    series_key,
    share,
    table,
    unfolded,
    upper_first,
)
from metascale.report.sections.checks import plot_held_out
from metascale.report.sections.contest import Contest, plot_baselines
from metascale.report.sections.memory import plot_memory
from metascale.report.sections.shapes import ShapeTable, plot_shape_axis
from metascale.report.sections.sizes import SizeTable, plot_compute, plot_time
from metascale.report.sections.tuning import TuningTable, plot_tuned
from metascale.report.words import COUNTED, greek, interval, measured, method_label, number, numbers
from metascale.report.write import SECTIONS, Drawn, drawn, png
from tests.report.described import axes, told
from tests.report.test_study_by_hand import study_of

# ------------------------------------------------------------------------------------------- numbers and words


@pytest.mark.parametrize(
    ("value", "setting", "reading"),
    [
        (9_999_999.0, "9,999,999", "1.00×10⁷"),
        (9_990_000.0, "9,990,000", "9,990,000"),
        (1e7, "1×10⁷", "1.00×10⁷"),
        (1_234_567.8, "1,230,000", "1,230,000"),
        (1e-4, "0.0001", "0.000100"),
        (9.5e-5, "9.5×10⁻⁵", "9.50×10⁻⁵"),
        (-1500.0, "−1,500", "−1,500"),
        (-0.5, "−0.5", "−0.500"),
        (100.4, "100", "100"),
        (float("-inf"), "−inf", "−inf"),
        (float("nan"), "nan", "nan"),
    ],
)
def test_numbers_at_the_ends_of_plain_writing(value: float, setting: str, reading: str) -> None:
    assert (number(value), measured(value)) == (setting, reading)


def test_words_of_rare_names_and_intervals() -> None:
    assert method_label("melora_checkpointed") == "MELoRA, checkpointed"
    assert greek("beta gamma delta sigma kappa alpha2 kappa_0") == "β γ δ σ κ α2 κ_0"
    assert (interval(1.0, None), interval(1.0, 1.0)) == ("", "[1.00, 1.00]")
    assert interval(1.0, 1.0 + 1e-6) == "[1.000000, 1.000001]"
    assert interval(-0.25, 1234.5) == "[−0.250, 1,230]"
    assert numbers([1000.0, 1000.5, 1000.0]) == ["1,000", "1,000.5", "1,000"]
    assert numbers([2.0, 2.0]) == ["2", "2"]
    counted = {"n_tasks", "n_train_classes", "n_train", "n_clean", "k_shot", "n_way", "meta_batch", "inner_steps"}
    assert counted == COUNTED
    assert (upper_first(""), upper_first("aB c"), named("trained", "x"), named("MAML", "x")) == (
        "", "AB c", "x", "MAML, x",
    )  # fmt: skip
    assert series_key(["a", "b", "c", "d", "e", "f", "g"]).endswith("; orange: e; sky blue: f.")
    assert (plain(None), plain(2.0), share(None), share(0.126, 0)) == (
        Cell("–"), Cell("2", 2.0), Cell("–"), Cell("13 %", 0.126),
    )  # fmt: skip


def test_parts_of_a_section_and_of_a_table() -> None:
    """A column of which no row has anything is left out, unless it is the first or the table has no rows."""
    inner, outer = table("in", ("a",), [("1",)]), table("out", ("a", Column("b", numeric=False)), [("–", "x")])
    picture = Picture("p", "c", ())
    section = Section("s", "S", ("text", Folded("more", (inner, Folded("deep", (picture,)))), outer, "end"))
    assert (section.sentences, section.tables, section.pictures) == (("text", "end"), (inner, outer), (picture,))
    assert len(list(unfolded(section.blocks))) == 7
    assert told(outer) == ["#a | b".removeprefix("#"), "– | x"]
    assert [column.title for column in table("", ("a", "b"), []).columns] == ["a", "b"]
    marked = table("", ("a", "b", "c"), [Row((Cell("1"), Cell(""), Cell("2")), "chosen")])
    assert told(marked) == ["a | #c", "chosen: 1 | 2"]
    assert (section.data, section.mark, Folded("t", ()).open) == ({}, "", False)
    assert (picture.height_in, picture.on_page, picture.same_y, picture.heading) == (4.8, (), False, True)
    found = Finding("q", "a", "t")
    assert (found.direction, found.exponent, found.level, found.verdict, found.cautions, found.parts) == (
        "unknown", None, 0.95, "", (), (),
    )  # fmt: skip


def test_sections_stand_in_the_order_of_reading() -> None:
    assert [build.__name__ for build in SECTIONS] == [
        "missing", "law", "sizes", "held_fixed", "families", "extrapolation", "accuracy", "contest", "shapes",
        "held_out", "irregular", "fit_diagnosis", "tuning", "costs", "memory", "learning", "adaptation", "convergence",
        "trials", "caveats", "provenance",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- pictures and files


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda ax: plot_held_out((), ax, y_label="y", x_label="x"), "Too few configurations to hide the largest"),
        (lambda ax: plot_memory((), ax), "No trial measured its memory"),
        (lambda ax: plot_shape_axis(ShapeTable((), (), "x"), ax, axis="a", y_label="y"), "No finished shape"),
        (lambda ax: plot_time(SizeTable((), (), {}), ax), "No trial was timed"),
        (lambda ax: plot_compute(SizeTable((), (), {}), ax), "No run has a curve"),
        (lambda ax: plot_tuned(TuningTable(()), ax, name="lr"), "lr was not tuned"),
        (lambda ax: plot_baselines(Contest((), (), (), "", ""), ax), "No method with a test loss"),
    ],
)
def test_a_picture_of_nothing_says_so(draw: Callable[[Axes], Axes], text: str) -> None:
    ax = draw(axes())
    assert ([one.get_text() for one in ax.texts], ax.axison) == ([text], False)


def test_kinds_of_figures_are_svg_and_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once; a PDF has neither date nor program and embeds its fonts as Type 42, in the wide form."""
    study = study_of(tmp_path, {"n_tasks": [2, 4]}, {"n_tasks": 2})
    drawn_narrow: list[bool] = []

    def draw(ax: Axes, compact: bool) -> Axes:
        drawn_narrow.append(compact)
        return style.finish(ax, "found", "x", "y", compact)

    section = Section("law", "", (Picture("law", "", (draw,)),))
    monkeypatch.setattr("metascale.report.figures.sections_of", lambda study: (section,))
    found = write_figures(study, ("pdf", "svg", "pdf"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["plots/law.pdf", "plots/law.svg"]
    assert not any(drawn_narrow)
    pdf = (tmp_path / "plots/law.pdf").read_bytes()
    assert not [word for word in (b"/CreationDate", b"/Creator", b"/Producer", b"/Type3") if word in pdf]
    assert b"/CIDFontType2" in pdf
    assert b"<dc:creator>" not in (tmp_path / "plots/law.svg").read_bytes()
    with pytest.raises(InputError, match=r"^`figures` are svg and pdf, not 'pfd'; did you mean 'pdf'\?$") as caught:
        require_kinds(["svg", "pfd"])
    assert caught.value.field == "figures"
    require_kinds([])


def test_a_picture_as_a_file_has_its_caption_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 by 4.8 inches at 150 dots; what readers can have drawn in addition is told by the picture of the page."""

    def draw(ax: Axes, compact: bool) -> Axes:
        ax.plot([1, 2], [1, 2])[0].set_gid("option:a%20b")
        return style.finish(ax, "found\nhere", "x", "y", compact)

    picture = Picture("p", "word " * 60, (draw,))
    data = png(picture)
    assert (data[:4], int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (
        b"\x89PNG", 1200, 720,
    )  # fmt: skip
    found = drawn(picture)
    assert (found.finding, found.options, found.views[0].name) == ("found here", ("a b",), "")
    kept: list[Any] = []
    monkeypatch.setattr("metascale.report.write.png_bytes", lambda figure: kept.append(figure) or b"")
    png(picture)
    caption = kept[0]._supxlabel
    assert caption.get_text() == "\n".join(["word " * 23 + "word", "word " * 23 + "word", "word " * 11 + "word"])
    assert (caption.get_position()[0], caption.get_ha(), caption.get_fontsize(), caption.get_color()) == (
        0.012, "left", 7.5, style.SOFT,
    )  # fmt: skip
    assert Drawn("n", "c", "f", ()).options == ()
    assert '<g class="option" data-option="a b"><title>a b</title>' in found.views[0].wide


def test_the_look_of_a_drawn_figure() -> None:
    """Soft frame and ticks, ink for words, a light grid behind, paper around; every point of a line stays."""
    with styled_axes() as ax:
        ax.plot(range(2000), [1.0] * 2000)
        ax.set_ylabel("loss")
        ax.set_title("found", loc="left")
        ax.grid(visible=True, axis="y")
        note = ax.text(0, 1, "note")
        svg = style.inline_svg(ax.figure, "p")  # type: ignore[arg-type]
        grid, tick = ax.get_ygridlines()[0], ax.xaxis.get_major_ticks()[0]
        beside = ax.yaxis.get_major_ticks()[0]
        colours = [
            ax.spines["left"].get_edgecolor(), tick.tick1line.get_color(), beside.tick1line.get_color(),
            tick.label1.get_color(), beside.label1.get_color(), ax.yaxis.label.get_color(),
            ax._left_title.get_color(), note.get_color(), grid.get_color(), ax.figure.get_facecolor(),  # type: ignore[attr-defined]
        ]  # fmt: skip
        assert [to_hex(colour) for colour in colours] == [
            style.SOFT, style.SOFT, style.SOFT, style.INK, style.INK, style.INK, style.INK, style.INK, style.GRID,
            style.PAPER,
        ]  # fmt: skip
        assert (ax.spines["left"].get_linewidth(), grid.get_linewidth(), note.get_fontsize()) == (0.8, 0.8, 10.0)
        assert (ax.get_axisbelow(), ax.patch.get_facecolor()[3], note.get_usetex()) == (True, 0.0, False)
        assert note.get_fontfamily() == ["DejaVu Sans"]
        ax.set_xlim(-5, 5)
        assert ax.xaxis.get_major_formatter().format_ticks([-5.0])[0] == "−5"
    assert max(len(path) for path in re.findall(r' d="([^"]*)"', svg)) > 2000 * 8
    assert "<text" in svg
    assert matplotlib.rcParams["axes.spines.top"], "the look ends with the figure"


def styled_axes() -> Any:
    class Styled:
        def __enter__(self) -> Axes:
            self._look = style.styled()
            self._look.__enter__()
            _, (ax,) = style.new_figure(8.0, 4.8)
            return ax

        def __exit__(self, *told: object) -> None:
            self._look.__exit__(None, None, None)

    return Styled()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 1000.0, [1, 10, 100, 1000]),
        (1.0, 999.0, [1, 3, 10, 30, 100, 300]),
        (1.0, 50.0, [1, 3, 10, 30]),
        (1.0, 10.0, [1, 2, 5, 10]),
        (2.0, 9.0, [2, 3, 5, 7]),
        (1.0, 1.1, [1.0, 1.02, 1.04, 1.06, 1.08, 1.1]),
        (1e-12, 1.0, [1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]),
    ],
)
def test_ticks_at_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    """Four to nine of them where a ladder of mantissas has so many."""
    found = style.round_ticks(low, high)
    if len(ticks) > 9:
        assert found
        assert all(0 < tick <= 1 for tick in found)
    else:
        assert found == pytest.approx(ticks)


def test_a_scale_s_axis_is_logarithmic_unless_a_value_is_not_positive() -> None:
    """Labels that would touch are left out, the largest value's stays; two values have round ones between."""

    def seen(values: list[float], compact: bool = False) -> tuple[str, str, list[str]]:
        ax = axes(3.9 if compact else 8.0)
        label = style.scale_x_ticks(ax, values, "N", compact, [])
        ax.figure.draw_without_rendering()
        return label, ax.get_xscale(), [text.get_text() for text in ax.xaxis.get_ticklabels()]

    assert seen([0, 1, 2, 10]) == ("N", "linear", ["0", "1", "2", "10"])
    assert seen([1, 2, 10]) == ("N (log scale)", "log", ["1", "2", "10"])
    assert seen([10, 10.5, 1000]) == ("N (log scale)", "log", ["10", "", "1,000"])
    assert seen([0, 10]) == ("N", "linear", ["0", "2.5", "5", "7.5", "10"])
    assert seen([1, 10])[2] == ["1", "2", "5", "10"]
    ax = axes()
    style.scale_x_ticks(ax, [0, 10], "N", False, [])
    assert ax.get_xlim() == pytest.approx((-0.6, 10.6))
    style.scale_x_ticks(ax, [7], "N", False, [])
    assert ax.get_xlim() == pytest.approx((7 * math.exp(-0.06), 7 * math.exp(0.06)))


def test_limits_of_the_loss_axis_have_a_twentieth_on_both_sides() -> None:
    ax = axes()
    ax.plot([1, 2], [1.0, 3.0])
    style.pad_y(ax, log=False)
    assert ax.get_ylim() == pytest.approx((0.9, 3.1))
    style.pad_y(ax, log=False, part=0.5)
    assert ax.get_ylim() == pytest.approx((0.0, 4.0))
    ax.set_yscale("log")
    style.pad_y(ax)
    assert ax.get_ylim() == pytest.approx((3**-0.05, 3**1.05))
    assert style.y_scale_label(ax, "loss (nats)") == "loss (nats, log scale)"
    assert (style.log_label("loss"), style.log_label("a (b)")) == ("loss (log scale)", "a (b, log scale)")
    flat = axes()
    flat.plot([1, 2], [2.0, 2.0])
    style.pad_y(flat, log=False)
    assert flat.get_ylim() == pytest.approx((1.95, 2.05))
    style.log_y_ticks(flat)
    assert flat.get_yscale() == "linear"


def test_labels_of_the_margin_stand_at_their_values_and_apart() -> None:
    """Of 4.8 inches 0.74 are the axes' height; a line of 9 points takes 1.3 of them: 11.7 / 255.7 of the axes."""
    ax = axes()
    ax.set_ylim(0, 1)
    style.side_labels(ax, [(0.5, "one", style.INK), (0.5, "two", style.SOFT), (0.9, "far", style.INK)])
    height = 9 * 1.3 / (4.8 * 72 * 0.74)
    places = [text.xyann for text in ax.texts]  # type: ignore[attr-defined]
    assert [x for x, _ in places] == pytest.approx([1.04] * 3)
    assert [y for _, y in places] == pytest.approx([0.5 - height / 2, 0.5 + height / 2, 0.9])
    assert [text.xy for text in ax.texts] == [(1.0, 0.5), (1.0, 0.5), (1.0, 0.9)]  # type: ignore[attr-defined]
    tall = axes()
    tall.set_ylim(0, 1)
    style.side_labels(tall, [(0.5, "a\nb", style.INK), (0.5, "c", style.INK)], at=1.5, gap=0.2)
    assert [text.xyann for text in tall.texts] == [pytest.approx((1.525, 0.4)), pytest.approx((1.525, 0.6))]  # type: ignore[attr-defined]
    style.side_labels(tall, [])
    assert len(tall.texts) == 2
