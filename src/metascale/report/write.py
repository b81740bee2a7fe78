"""Writes the report of a study into its folder: pictures, summary and page. The same study gives the same bytes."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Protocol

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure

from metascale.core.canonical import plain
from metascale.core.columns import PROVENANCE_JSON, REPORT_HTML, SUMMARY_JSON
from metascale.core.files import write_atomic, write_json
from metascale.report.section import Finding, Picture, Section, upper_first
from metascale.report.sections.checks import held_out, irregular
from metascale.report.sections.contest import Contest, contest
from metascale.report.sections.costs import costs
from metascale.report.sections.curves import adaptation, learning
from metascale.report.sections.diagnosis import convergence, fit_diagnosis, unconverged
from metascale.report.sections.law import caveats, extrapolation, facts, families, law, law_finding
from metascale.report.sections.memory import memory
from metascale.report.sections.overview import held_fixed, missing, trials
from metascale.report.sections.provenance import provenance, provenance_json
from metascale.report.sections.scales import accuracy
from metascale.report.sections.shapes import shapes
from metascale.report.sections.sizes import sizes
from metascale.report.sections.standing import contest_finding, standing
from metascale.report.sections.tuning import tuning
from metascale.report.study import ReportStudy, StudySource, open_study
from metascale.report.style import SOFT, inline_svg, new_figure, png_bytes, styled
from metascale.report.words import greek
from metascale.study.store.once import reading_once


class BuildsSection(Protocol):
    """Makes one section of a study's page; empty where the study has no data for it."""

    def __call__(self, study: ReportStudy, /) -> Section: ...


SECTIONS: tuple[BuildsSection, ...] = (
    missing, law, sizes, held_fixed, families, extrapolation, accuracy, contest, shapes, held_out,
    irregular, fit_diagnosis, tuning, costs, memory, learning, adaptation, convergence, trials, caveats, provenance,
)  # fmt: skip
"""The sections of a page, in their order."""
SUMMARY_FORMAT = 1


def write_report(source: StudySource) -> list[Path]:
    """Write plots/*.png, summary.json, provenance.json and report.html; returns the paths written.

    A plot without data is not written; the page says what is missing and why.

    Raises:
        InputError: the folder holds no study.
        CorruptFile: a file of the study cannot be parsed.
    """
    # Everything is computed before anything is written, so that an error leaves no half report.
    with reading_once():
        study = open_study(source)
        sections = sections_of(study)
        pictures = [picture for section in sections for picture in section.pictures]
        images = [(study.folder / "plots" / f"{picture.name}.png", png(picture)) for picture in pictures]
        page, summary, origin = render_page(study, sections), summarise(study, sections), provenance_json(study)
    for path, data in images:
        write_atomic(path, data)
    write_json(study.folder / SUMMARY_JSON, summary)
    write_json(study.folder / PROVENANCE_JSON, origin)
    write_atomic(study.folder / REPORT_HTML, page)
    named = (SUMMARY_JSON, PROVENANCE_JSON, REPORT_HTML)
    return [path for path, _ in images] + [study.folder / name for name in named]


def sections_of(study: ReportStudy) -> tuple[Section, ...]:
    """Every section; those that the study has no data for are empty."""
    return tuple(build(study) for build in SECTIONS)


def finding_of(study: ReportStudy, compared: Contest | None = None) -> Finding:
    """The study's question and answer: from the law where a scale varies, else from the comparison of settings.

    A baseline that beats the learner comes first; how the others stand and runs that had not converged come after it.

    Args:
        compared: the comparison of methods (default: made from the study's losses of single tests).
    """
    found = law_finding(study) if study.scaled or not study.columns else contest_finding(study)
    against, loose = standing(study, compared), unconverged(study)
    parts = (*against.beaten, upper_first(study.in_words(found.answer)), *against.others, *loose)
    answer = " ".join(parts)
    verdict = greek(upper_first(study.in_words(found.verdict)))
    cautions = (*against.beaten, *loose)
    return replace(found, answer=answer, verdict="" if verdict in answer else verdict, cautions=cautions, parts=parts)


def summarise(study: ReportStudy, sections: Sequence[Section]) -> dict[str, object]:
    """summary.json: the report for programs, as JSON types."""
    finding = finding_of(study)
    head = {
        "format": SUMMARY_FORMAT,
        "study": study.name,
        "question": finding.question,
        "answer": finding.answer,
        "verdict": finding.verdict or None,
        "cautions": finding.cautions,
        "trend": finding.direction,
        "level": finding.level,
        "exponent": finding.exponent,
    }
    summary: dict[str, object] = plain({**head, **{key: value for one in sections for key, value in one.data.items()}})
    return summary


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_file("page.html.j2"))


def render_page(study: ReportStudy, sections: Sequence[Section]) -> str:
    """The page as HTML text: inline style, script and pictures, so that no request leaves it."""
    finding = finding_of(study)
    return _template().render(
        name=study.name,
        counter=partial(next, itertools.count(1)),
        css=Markup(_file("page.css").strip()),
        script=Markup(_file("page.js").strip()),
        finding=finding,
        facts=facts(study, finding),
        drawn=drawn,
        sections=[section for section in sections if section.blocks],
    )


def _file(name: str) -> str:
    return resources.files("metascale.report").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a picture, as SVG for wide and for narrow screens; the only one has no name."""

    name: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture for the page: the finding as heading, and its views.

    ``options`` are what a reader can have drawn in addition.
    """

    name: str
    caption: str
    finding: str
    views: tuple[View, ...]
    options: tuple[str, ...] = ()


def png(picture: Picture) -> bytes:
    """The picture as a PNG file, its caption below."""
    with styled():
        figure = figure_of(picture, compact=False)
        figure.supxlabel("\n".join(textwrap.wrap(picture.caption, 122)), x=0.012, ha="left", fontsize=7.5, color=SOFT)
        return png_bytes(figure)


def drawn(picture: Picture) -> Drawn:
    """The picture for the page: titles become headings; matplotlib has escaped the text inside its SVG."""
    named = [(name, replace(picture, draws=(draw,))) for name, draw in picture.on_page] or [("", picture)]
    views, finding = [], ""
    with styled():
        for place, (name, variant) in enumerate(named):
            found = []
            for compact in (False, True):
                figure = figure_of(variant, compact=compact)
                if len(figure.axes) == 1:
                    finding = figure.axes[0].get_title(loc="left").replace("\n", " ")
                    figure.axes[0].set_title("", loc="left")
                svg = inline_svg(figure, f"{picture.name}-{place}-{'narrow' if compact else 'wide'}")
                found.append(Markup(svg))
            views.append(View(name, *found))
    options = dict.fromkeys(re.findall(r'data-option="([^"]*)"', views[0].wide))
    return Drawn(picture.name, picture.caption, finding, tuple(views), tuple(options))


def figure_of(picture: Picture, *, compact: bool) -> Figure:
    """A picture of the page drawn: its parts side by side, or one under another in the ``compact`` form for phones."""
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
