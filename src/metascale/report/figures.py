"""The report's figures: the PNG files of a study folder and the inline pictures of its page, from the same plots."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metascale.report.comparisons import baselines_data
from metascale.report.curves import LearningTable, adaptation_data, extremes, learning_curves_data
from metascale.report.data import LawTable, accuracy_data, law_data
from metascale.report.memory import memory_data, plot_memory
from metascale.report.plots import plot_accuracy, plot_baselines, plot_law
from metascale.report.reading import StudyFolder
from metascale.report.run_plots import plot_adaptation, plot_learning_curves
from metascale.report.section import upper_first
from metascale.report.sections import section_pictures
from metascale.report.size_data import size_data
from metascale.report.size_plots import plot_along, plot_compute, plot_perplexity, plot_time
from metascale.report.size_types import SizeTable
from metascale.report.style import SOFT, inline_svg, new_figure, png_bytes, styled

Draw = Callable[[Axes, bool], object]


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure: how to draw each of its axes (compactly or not), what its marks mean, and its height.

    ``on_page`` are named variants that the page offers in the place of ``draws``; the first is shown. ``same_y``: all
    axes show the same quantity.
    """

    name: str
    caption: str
    draws: tuple[Draw, ...]
    height_in: float = 4.8
    on_page: tuple[tuple[str, Draw], ...] = ()
    same_y: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a picture; the only one has no name."""

    name: str
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture for the page: the finding as heading, and named views with SVG for wide and for narrow screens.

    ``options`` are what a reader can have drawn in addition.
    """

    name: str
    caption: str
    finding: str
    views: tuple[View, ...]
    options: tuple[str, ...] = ()


def pictures(study: StudyFolder) -> tuple[Picture, ...]:
    """The figures that the study has data for."""
    law, accuracy, contest = law_data(study), accuracy_data(study), baselines_data(study)
    memory = memory_data(study)
    adaptation = extremes(adaptation_data(study))
    curves = [table for which in ("train", "validation") if (table := learning_curves_data(study, which)).curves]
    levels = " Grey lines: baselines, band ± 1 standard error across test tasks." if law.scales.levels else ""
    found = [
        (bool(law.scales.points), _law_picture(law, levels)),
        (bool(accuracy.points), Picture("accuracy", _runs_caption(law) + levels, (_draw(plot_accuracy, accuracy),))),
        (
            bool(curves),
            Picture(
                "learning_curves",
                _curves_caption(curves),
                tuple(_draw(plot_learning_curves, table) for table in curves),
            ),
        ),
        (
            bool(adaptation.curves),
            Picture(
                "adaptation",
                "Lines: mean over seeds, dashed for the smallest scale; thin lines: single seeds. "
                "Bars: ± 1 standard error across test tasks.",
                (_draw(plot_adaptation, adaptation),),
            ),
        ),
        (
            bool(contest.rows),
            Picture(
                "baselines",
                "Bars: ± 1 standard error across test tasks (not across seeds). Dots: single seeds.",
                (_draw(plot_baselines, contest),),
                height_in=1.5 + 0.42 * len(contest.rows),
            ),
        ),
        *((True, picture) for picture in (*_size_pictures(size_data(study)), *section_pictures(study))),
        (
            bool(memory.rows),
            Picture(
                "memory",
                "Live bytes at the peak of one training step, after a first step, by what they hold; means over seeds.",
                (_draw(plot_memory, memory),),
                height_in=2.2 + 0.42 * len(memory.rows),
            ),
        ),
    ]
    return tuple(picture for has_data, picture in found if has_data)


def _size_pictures(table: SizeTable | None) -> tuple[Picture, ...]:
    """The figures of a study of model sizes."""
    if table is None or not table.sizes:
        return ()
    bars = "Circles: means over seeds, bar ± 1 standard error across seeds."
    along = {
        name: tuple(_draw(plot_along, table, architecture=one, depth=depth) for one in table.architectures)
        for name, depth in (("size_width", False), ("size_depth", True))
    }
    return (
        Picture(
            "size_perplexity",
            f"{bars} Labels: width × layers. Dashed: what counting words gives.",
            (_draw(plot_perplexity, table),),
        ),
        *(Picture(name, bars, draws, same_y=True) for name, draws in along.items()),
        Picture("size_time", "Means over seeds of a whole trial, evaluations included.", (_draw(plot_time, table),)),
        Picture(
            "size_compute",
            "Dots: test loss at the end of a run; thin: its validation loss (another text) on the way there, while the "
            "rate still decays. Thick: the runs that no cheaper run of the architecture beats.",
            (_draw(plot_compute, table),),
        ),
    )


def _law_picture(law: LawTable, levels: str) -> Picture:
    views = (
        ("log loss", _draw(plot_law, law, families=True)),
        ("linear loss", _draw(plot_law, law, families=True, linear=True)),
    )
    return Picture("law", _law_caption(law) + levels, (_draw(plot_law, law),), on_page=views)


def _runs_caption(law: LawTable) -> str:
    if all(mean.seed_sem is None for mean in law.scales.means):
        return "Circles: runs, one seed each, so there is no error bar across seeds."
    return "Small dots: runs, one a seed. Circles: mean over seeds, bar ± 1 standard error across seeds."


def _law_caption(law: LawTable) -> str:
    words = _runs_caption(law)
    if any(fit.curve for fit in law.fits):
        words += f" Band: {100 * law.level:g} % interval of the law."
    if any(fit.held_out for fit in law.fits):
        words += " Diamond: prediction of the largest scale from the smaller ones alone, with its interval."
    return words


def _curves_caption(tables: Sequence[LearningTable]) -> str:
    words = "One line a run. Dots: the kept checkpoint. Dotted lines that end in ×: runs that did not finish."
    blocks = max((table.steps_a_point for table in tables), default=1)
    if blocks > 1:
        words += f" Meta-train losses are means over blocks of {blocks:g} recorded steps."
    series = list(dict.fromkeys(curve.series for table in tables for curve in table.curves))
    if len(series) > 1 and any(curve.x is not None for table in tables for curve in table.curves):
        styles = zip(("solid", "dashed", "dash-dotted"), series, strict=False)
        words += " " + upper_first("; ".join(f"{style}: {name}" for style, name in styles)) + "."
    return words


def png(picture: Picture) -> bytes:
    """The picture as a PNG file, its caption below."""
    with styled():
        figure = _figure(picture, compact=False)
        figure.supxlabel("\n".join(textwrap.wrap(picture.caption, 122)), x=0.012, ha="left", fontsize=7.5, color=SOFT)
        return png_bytes(figure)


def drawn(picture: Picture) -> Drawn:
    """The picture for the page: titles become headings."""
    named = [(name, replace(picture, draws=(draw,))) for name, draw in picture.on_page] or [("", picture)]
    views, finding = [], ""
    with styled():
        for place, (name, variant) in enumerate(named):
            found = []
            for compact in (False, True):
                figure = _figure(variant, compact=compact)
                if len(figure.axes) == 1:
                    finding = figure.axes[0].get_title(loc="left").replace("\n", " ")
                    figure.axes[0].set_title("", loc="left")
                found.append(inline_svg(figure, f"{picture.name}-{place}-{'narrow' if compact else 'wide'}"))
            views.append(View(name, *found))
    options = dict.fromkeys(re.findall(r'data-option="([^"]*)"', views[0].wide))
    return Drawn(picture.name, picture.caption, finding, tuple(views), tuple(options))


def _figure(picture: Picture, *, compact: bool) -> Figure:
    count = len(picture.draws)
    if compact:
        figure, axes = new_figure(3.9, 3.4 * count if picture.height_in == 4.8 else picture.height_in, rows=count)
    else:
        figure, axes = new_figure(8.0, picture.height_in, columns=count)
    for place, (draw, ax) in enumerate(zip(picture.draws, axes, strict=True)):
        draw(ax, compact)
        if count > 1 and not compact:
            # Side by side they share the axis, which then stands for both losses.
            label = ax.get_ylabel() if picture.same_y else re.sub(r"^[^(]*", "loss ", ax.get_ylabel())
            ax.set_ylabel("" if place else label)
    return figure


def _draw(plot: Callable[..., Axes], table: object, **settings: bool | str) -> Draw:
    return lambda ax, compact: plot(table, ax, compact=compact, **settings)
