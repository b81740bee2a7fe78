"""One self-contained HTML page of a study: inline style, script and pictures, so that no request leaves it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from metascale.core.canonical import plain
from metascale.report.answer import answer
from metascale.report.comparisons import baselines_data, comparisons_data
from metascale.report.data import HeldOut, LawTable, accuracy_data, law_data
from metascale.report.figures import Drawn, accuracy_picture, contest_picture, drawn, law_picture
from metascale.report.findings import Finding, law_formula
from metascale.report.methods import methods_section
from metascale.report.overview import families_data, fixed_data, missing_data, trials_data
from metascale.report.page_tables import (
    comparisons_table,
    contest_table,
    extrapolation_table,
    families_table,
    parameters_table,
    scales_table,
    status_sentence,
    trials_table,
)
from metascale.report.reading import MAIN_KINDS, META, StudyFolder, x_column
from metascale.report.record_tables import provenance_section
from metascale.report.section import Block, Bullets, Code, Folded, Note, Pairs, Section, of
from metascale.report.sections.checks import held_out, irregular
from metascale.report.sections.curves import adaptation, learning
from metascale.report.sections.diagnosis import convergence, fit_diagnosis
from metascale.report.sections.memory import memory
from metascale.report.sections.tuning import tuning
from metascale.report.series import laws_by_series
from metascale.report.shape_sections import shape_section
from metascale.report.size_tables import size_section
from metascale.report.words import decimals, interval, number, scale_words

_STANDING_NOTES = (
    "A fitted law describes the range of scales that was run; beyond it the interval of the curve is too narrow, "
    "because it takes the law for true.",
)
_EPISODE_NOTE = "Each meta-test task has one fixed episode: spread across tasks holds the draw of the episode as well."


def missing(study: StudyFolder) -> Section:
    found = missing_data(study)
    return Section("missing", "What is missing, and why", (Bullets(found),) if found else (), mark="missing")


def law(study: StudyFolder) -> Section:
    table, laws = law_data(study), laws_by_series(study)
    if not table.scales.points:
        return Section("law", "The law")
    level = answer(study).level
    parameters = [parameters_table(name, one, level) for name, one in laws.items() if one.get("parameters")]
    return Section("law", "The law", (law_picture(table), *parameters, scales_table(table, accuracy_data(study))))


def fixed(study: StudyFolder) -> Section:
    first, other = fixed_data(study)
    blocks: list[Block] = [Pairs(first)] if first else []
    if other:
        title = f"{len(other)} more {'setting' if len(other) == 1 else 'settings'}"
        blocks.append(Folded(title, (Pairs(other),), open=not first))
    return Section("fixed", "What was held fixed", tuple(blocks))


def families(study: StudyFolder) -> Section:
    laws = laws_by_series(study)
    tables = [families_table(name, families_data(one)) for name, one in laws.items() if one.get("families")]
    return Section("families", "Families of laws", tuple(tables))


def extrapolation(study: StudyFolder) -> Section:
    table = law_data(study)
    blocks: list[Block] = []
    for fit in table.fits:
        if fit.held_out:
            blocks += [_extrapolation(fit.series, fit.held_out, table)]
            blocks += [extrapolation_table(fit.series, fit.held_out, table)]
    return Section("extrapolation", "Does it extrapolate?", tuple(blocks))


def accuracy(study: StudyFolder) -> Section:
    table = accuracy_data(study)
    blocks = (accuracy_picture(table, law_data(study)),) if table.points else ()
    return Section("accuracy", "Accuracy", blocks)


def contest(study: StudyFolder) -> Section:
    found, comparisons = baselines_data(study), comparisons_data(study)
    beside = any(row.kind not in MAIN_KINDS for row in found.rows)
    title = "Against baselines, on the same tasks" if beside else "Side by side, on the same tests"
    if not found.rows:
        return Section("baselines", title)
    tables = [contest_table(found), *([comparisons_table(comparisons, found.unit)] if comparisons.rows else [])]
    return Section("baselines", title, (contest_picture(found), *tables, *map(Note, comparisons.notes)))


def methods(study: StudyFolder) -> Section:
    found = methods_section(study)
    blocks: list[Block] = []
    if found and found["table"]:
        blocks.append(found["table"])
        if found["pairs"]:
            title = f"All {len(found['pairs'].rows)} pairs that the study was made to compare"
            blocks.append(Folded(title, (found["pairs"],)))
    return Section("methods", "Methods and their costs", tuple(blocks))


def trials(study: StudyFolder) -> Section:
    table = trials_data(study)
    blocks: list[Block] = [status_sentence(table)]
    if table.rows:
        unfinished = [row for row in table.rows if row.status != "finished"]
        blocks += [trials_table(unfinished, table.x_name, reasons=True)] if unfinished else []
        every = trials_table(table.rows, table.x_name, reasons=False)
        blocks.append(Folded(f"All {len(table.rows)} trials", (every,), open=len(table.rows) <= 12))
    return Section("trials", "Trials", tuple(blocks))


def caveats(study: StudyFolder) -> Section:
    laws = laws_by_series(study)
    notes = (
        *_notes(laws),
        *(_STANDING_NOTES if any(law.get("parameters") for law in laws.values()) else ()),
        *((_EPISODE_NOTE,) if study.terms is META else ()),
    )
    return Section("caveats", "Caveats", (Bullets(notes),) if notes else ())


def provenance(study: StudyFolder) -> Section:
    found = provenance_section(study)
    configuration = {key: value for key, value in study.config.items() if key != "trials"}
    blocks: list[Block] = [Pairs(found["pairs"])]
    blocks += [Bullets(found["notes"])] if found["notes"] else []
    blocks += [Code(found["reproduce"], "The same study again")] if found["reproduce"] else []
    blocks += [Folded(title, (content,)) for title, content in found["tables"]]
    whole = json.dumps(plain(configuration), indent=2, sort_keys=True, ensure_ascii=False)
    blocks.append(Folded("The whole configuration", (Code(whole),)))
    return Section("provenance", "Where this comes from", tuple(blocks))


SECTIONS = (
    missing, law, size_section, fixed, families, extrapolation, accuracy, contest, shape_section, held_out, irregular,
    fit_diagnosis, tuning, methods, memory, learning, adaptation, convergence, trials, caveats, provenance,
)  # fmt: skip
"""The sections of a page, in their order."""


def sections_of(study: StudyFolder) -> tuple[Section, ...]:
    """Every section; those that the study has no data for are empty."""
    return tuple(build(study) for build in SECTIONS)


def render_page(study: StudyFolder, sections: tuple[Section, ...] | None = None) -> str:
    """The page as HTML text; the same study gives the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(_file("page.html.j2"))
    finding = answer(study)
    return template.render(
        name=study.name,
        counter=partial(next, itertools.count(1)),
        css=Markup(_file("page.css").strip()),
        script=Markup(_file("page.js").strip()),
        finding=finding,
        facts=_facts(study, finding, law_data(study)),
        drawn=lambda picture: _safe(drawn(picture)),
        sections=[section for section in sections or sections_of(study) if section.blocks],
    )


def _facts(study: StudyFolder, finding: Finding, law: LawTable) -> tuple[tuple[str, str], ...]:
    """The numbers under the answer."""
    facts = []
    if finding.exponent:
        exponent = finding.exponent
        shown = f"{decimals(exponent.estimate)} {interval(exponent.low, exponent.high)}"
        facts.append((f"exponent α (also called β), {100 * finding.level:g} %", shown))
    laws = laws_by_series(study)
    if len(laws) == 1 and study.law:
        facts.append(("law", law_formula(study.law, x_column(study))))
    means = law.scales.means
    if means:
        scales = sorted({mean.x for mean in means})
        ends = scale_words(law.scales.x_name, scales[0]) + (f" to {number(scales[-1])}" if len(scales) > 1 else "")
        facts.append(("finished runs", f"{len(law.scales.points)} at {ends}"))
    errors = [fit.held_out.log_error for fit in law.fits if fit.held_out and fit.held_out.log_error is not None]
    if len(errors) == 1:
        facts.append(("log error, hidden largest scale", decimals(errors[0], 4)))
    return tuple(facts)


def _notes(laws: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The laws' own caveats, each once, and the verdicts of several series."""
    notes = [of(series) + str(note) for series, law in laws.items() for note in law.get("notes") or ()]
    if len(laws) > 1:
        notes = [of(series) + str(law["verdict"]) for series, law in laws.items() if law.get("verdict")] + notes
    return list(dict.fromkeys(notes))


def _extrapolation(series: str, held_out: HeldOut, law: LawTable) -> str:
    """How the prediction of the hidden largest scale went."""
    inside = (
        held_out.low is not None and held_out.high is not None and held_out.low <= held_out.observed <= held_out.high
    )
    where = "inside" if inside else "outside"
    errors = {name: abs(value - held_out.observed) for name, value in held_out.baselines.items()}
    closer = [
        name.replace("_", " ") for name, error in errors.items() if error < abs(held_out.predicted - held_out.observed)
    ]
    sentence = (
        f"{of(series)}Hidden from the fit, {scale_words(law.scales.x_name, held_out.x)} was predicted at "
        f"{decimals(held_out.predicted, 4)} {interval(held_out.low, held_out.high, 4)}; measured "
        f"{decimals(held_out.observed, 4)}, {where} the {100 * law.level:g} % interval."
    )
    if closer:
        sentence += f" A plain baseline came closer: {', '.join(closer)}."
    return sentence


def _safe(picture: Drawn) -> dict[str, Any]:
    """The picture for the template; matplotlib has escaped the text inside its SVG."""
    return {
        "name": picture.name,
        "caption": picture.caption,
        "finding": picture.finding,
        "views": [
            {"name": view.name, "wide": Markup(view.wide), "narrow": Markup(view.narrow)} for view in picture.views
        ],
        "options": picture.options,
    }


def _file(name: str) -> str:
    return resources.files("metascale.report").joinpath(name).read_text(encoding="utf-8")
