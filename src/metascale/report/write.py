"""Writes the report of a study into its folder: pictures, summary and page. The same study gives the same bytes."""

from __future__ import annotations

from pathlib import Path

from metascale.core.files import write_atomic, write_json
from metascale.report.figures import png
from metascale.report.page import render_page, sections_of
from metascale.report.provenance import RUN_FILE as PROVENANCE
from metascale.report.provenance import provenance_json
from metascale.report.reading import read_study
from metascale.report.summary import summarise


def write_report(folder: Path | str) -> list[Path]:
    """Write plots/*.png, summary.json, provenance.json and report.html; returns the paths written.

    A plot without data is not written; the page says what is missing and why.

    Raises:
        InputError: ``folder`` is not a study folder.
        CorruptFile: a file of the study cannot be parsed.
    """
    study = read_study(folder)
    # Everything is computed before anything is written, so that a fault leaves no half report.
    sections = sections_of(study)
    pictures = [picture for section in sections for picture in section.pictures]
    images = [(study.folder / "plots" / f"{picture.name}.png", png(picture)) for picture in pictures]
    page, summary, origin = render_page(study, sections), summarise(study), provenance_json(study)
    for path, data in images:
        write_atomic(path, data)
    write_json(study.folder / "summary.json", summary)
    write_json(study.folder / PROVENANCE, origin)
    write_atomic(study.folder / "report.html", page)
    named = ("summary.json", PROVENANCE, "report.html")
    return [path for path, _ in images] + [study.folder / name for name in named]
