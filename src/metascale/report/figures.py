"""The report's figures: the PNG files of a study folder and the inline pictures of its page, from the same plots."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from metascale.report.comparisons import ContestTable
from metascale.report.data import LawTable, ScaleTable
from metascale.report.plots import plot_accuracy, plot_baselines, plot_law
from metascale.report.section import Draw, Picture
from metascale.report.style import SOFT, inline_svg, new_figure, png_bytes, styled


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


_LEVELS = " Grey lines: baselines, band ± 1 standard error across test tasks."


def law_picture(law: LawTable) -> Picture:
    def draw(linear: bool, families: bool) -> Draw:
        return lambda ax, compact: plot_law(law, ax, compact=compact, linear=linear, families=families)

    return Picture(
        "law",
        _law_caption(law) + (_LEVELS if law.scales.levels else ""),
        (draw(False, False),),
        on_page=(("log loss", draw(False, True)), ("linear loss", draw(True, True))),
        heading=False,
    )


def accuracy_picture(table: ScaleTable, law: LawTable) -> Picture:
    caption = _runs_caption(law) + (_LEVELS if law.scales.levels else "")
    return Picture("accuracy", caption, (lambda ax, compact: plot_accuracy(table, ax, compact=compact),))


def contest_picture(contest: ContestTable) -> Picture:
    return Picture(
        "baselines",
        "Bars: ± 1 standard error across test tasks (not across seeds). Dots: single seeds.",
        (lambda ax, compact: plot_baselines(contest, ax, compact=compact),),
        height_in=1.5 + 0.42 * len(contest.rows),
    )


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
