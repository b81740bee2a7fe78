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
from metascale.report.curves import adaptation_data
from metascale.report.data import HeldOut, LawTable, accuracy_data, law_data
from metascale.report.figures import Drawn, drawn, pictures
from metascale.report.findings import Finding, law_formula
from metascale.report.memory import memory_data
from metascale.report.methods import methods_section
from metascale.report.overview import families_data, fixed_data, missing_data, trials_data
from metascale.report.page_tables import (
    adaptation_table,
    comparisons_table,
    contest_table,
    extrapolation_table,
    families_table,
    memory_table,
    of,
    parameters_table,
    scales_table,
    status_sentence,
    trials_table,
)
from metascale.report.reading import MAIN_KINDS, META, StudyFolder, x_column
from metascale.report.record_tables import diagnostics_section, provenance_section
from metascale.report.sections import sections
from metascale.report.series import laws_by_series
from metascale.report.size_tables import size_section
from metascale.report.words import decimals, interval, number, scale_words

_STANDING_NOTES = (
    "A fitted law describes the range of scales that was run; beyond it the interval of the curve is too narrow, "
    "because it takes the law for true.",
)
_EPISODE_NOTE = "Each meta-test task has one fixed episode: spread across tasks holds the draw of the episode as well."


def render_page(study: StudyFolder) -> str:
    """The page as HTML text; the same study gives the same text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(_file("page.html.j2"))
    return template.render(_context(study))


def _context(study: StudyFolder) -> dict[str, Any]:
    finding, law, trials = answer(study), law_data(study), trials_data(study)
    adaptation, laws = adaptation_data(study), laws_by_series(study)
    fixed, other = fixed_data(study)
    unfinished = [row for row in trials.rows if row.status != "finished"]
    configuration = {key: value for key, value in study.config.items() if key != "trials"}
    return {
        "name": study.name,
        "counter": partial(next, itertools.count(1)),
        "css": Markup(_file("page.css").strip()),
        "script": Markup(_file("page.js").strip()),
        "finding": finding,
        "facts": _facts(study, finding, law),
        "missing": missing_data(study),
        "pictures": {picture.name: _safe(drawn(picture)) for picture in pictures(study)},
        "scales": scales_table(law, accuracy_data(study)),
        "parameters": [
            parameters_table(name, one, finding.level) for name, one in laws.items() if one.get("parameters")
        ],
        "fixed": fixed,
        "other": other,
        "families": [families_table(name, families_data(one)) for name, one in laws.items() if one.get("families")],
        "extrapolations": [_extrapolation(fit.series, fit.held_out, law) for fit in law.fits if fit.held_out],
        **_contest(study),
        "sizes": size_section(study),
        "sections": sections(study),
        "memory": memory_table(memory_data(study)),
        "adaptation": adaptation_table(adaptation) if adaptation.curves else None,
        "status_sentence": status_sentence(trials),
        "trials": trials_table(trials.rows, trials.x_name, reasons=False),
        "unfinished": trials_table(unfinished, trials.x_name, reasons=True) if unfinished else None,
        "notes": (
            *_notes(laws),
            *(_STANDING_NOTES if any(law.get("parameters") for law in laws.values()) else ()),
            *((_EPISODE_NOTE,) if study.terms is META else ()),
        ),
        "methods": methods_section(study),
        "diagnostics": diagnostics_section(study),
        "provenance": provenance_section(study),
        "configuration": json.dumps(plain(configuration), indent=2, sort_keys=True, ensure_ascii=False),
    }


def _contest(study: StudyFolder) -> dict[str, Any]:
    contest, comparisons = baselines_data(study), comparisons_data(study)
    beside = any(row.kind not in MAIN_KINDS for row in contest.rows)
    return {
        "contest_title": "Against baselines, on the same tasks" if beside else "Side by side, on the same tests",
        "contest": contest_table(contest) if contest.rows else None,
        "comparisons": comparisons_table(comparisons, contest.unit) if comparisons.rows else None,
        "comparison_notes": comparisons.notes,
    }


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


def _extrapolation(series: str, held_out: HeldOut, law: LawTable) -> dict[str, Any]:
    """How the prediction of the hidden largest scale went, in words and as a table."""
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
    return {"sentence": sentence, "table": extrapolation_table(series, held_out, law)}


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
