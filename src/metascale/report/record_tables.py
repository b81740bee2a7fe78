"""The page's sections on doubts and origins, as sentences and tables."""

from __future__ import annotations

from typing import Any

from metascale.report.diagnostics import Diagnostics, diagnostic_sentences, diagnostics_data
from metascale.report.page_tables import DASH, Cell, Column, Content, Row
from metascale.report.provenance import Provenance, Source, gather, provenance_pairs, reproduce
from metascale.report.reading import StudyFolder, axis_label, x_column
from metascale.report.words import number

_LONG = 12
"""Longer tables are folded."""


def diagnostics_section(study: StudyFolder) -> dict[str, Any] | None:
    """Sentences, and the runs that had not converged; nothing where the study says neither."""
    found = diagnostics_data(study)
    sentences = diagnostic_sentences(found)
    if not sentences:
        return None
    table = unconverged_table(found, x_column(study)) if found.unconverged else None
    return {"sentences": sentences, "table": table, "folded": len(found.unconverged) > _LONG}


def unconverged_table(found: Diagnostics, x_name: str) -> Content:
    """The runs that ended while they were improving, or by the budget."""
    scaled = any(run.x is not None for run in found.unconverged)
    rows = [
        Row(
            (
                Cell(run.trial.label or run.trial.id),
                *((Cell(DASH if run.x is None else number(run.x), run.x),) if scaled else ()),
                Cell(number(run.steps), run.steps),
                Cell(DASH if run.best_step is None else number(run.best_step), run.best_step),
                Cell("still improving" if run.still_improving else "budget"),
            )
        )
        for run in found.unconverged
    ]
    scale = (Column(axis_label(x_name)),) if scaled else ()
    columns = (Column("run", False), *scale, Column("steps"), Column("best step"), Column("ended", False))
    caption = "Runs that had not converged. Best step: where the validation loss was lowest."
    return Content(caption, columns, tuple(rows))


def provenance_section(study: StudyFolder) -> dict[str, Any]:
    """Pairs, notes, the lines that reproduce the study, and tables that fold: changes, versions, data."""
    found = gather(study)
    tables = (
        (f"{sum(len(one.changed_files) for one in found.sources)} uncommitted files", changes_table(found)),
        (f"{len(found.packages)} installed packages", packages_table(found)),
        (f"{len(found.data_sha256)} data files", data_table(found)),
    )
    return {
        "pairs": provenance_pairs(study),
        "notes": found.notes,
        "reproduce": "\n".join(reproduce(study, found)),
        "tables": [(title, table) for title, table in tables if table.rows],
    }


def changes_table(found: Provenance) -> Content:
    """Every uncommitted file."""
    rows = [
        Row((Cell(name), Cell(source.module), Cell(source.revision[:12]), Cell((source.diff_sha256 or DASH)[:12])))
        for source in found.sources
        for name in source.changed_files
    ]
    heads = [Column(title, False) for title in ("file", "code of", "on top of", "SHA-256 of the difference")]
    return Content(_changes_caption(found.sources), tuple(heads), tuple(rows))


def _changes_caption(sources: tuple[Source, ...]) -> str:
    lines = [
        f"{source.module}: {source.lines_added} lines added, {source.lines_removed} removed"
        for source in sources
        if source.changed_files and source.lines_added is not None
    ]
    told = f"{'; '.join(lines)}. " if lines else ""
    return f"{told}The text of the differences is in the study's provenance.jsonl."


def packages_table(found: Provenance) -> Content:
    """Every installed package."""
    rows = [Row((Cell(name), Cell(", ".join(versions)))) for name, versions in found.packages.items()]
    return Content("Versions of what was installed.", (Column("package", False), Column("version", False)), tuple(rows))


def data_table(found: Provenance) -> Content:
    """Every data file."""
    rows = [Row((Cell(name), Cell(", ".join(hashes)))) for name, hashes in found.data_sha256.items()]
    return Content("Data files that were there.", (Column("file", False), Column("SHA-256", False)), tuple(rows))
