"""The page's sections on doubts and origins, as sentences and tables."""

from __future__ import annotations

from typing import Any

from metascale.report.provenance import Provenance, Source, gather, provenance_pairs, reproduce
from metascale.report.reading import StudyFolder
from metascale.report.section import DASH, Cell, Column, PageTable, Row


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


def changes_table(found: Provenance) -> PageTable:
    """Every uncommitted file."""
    rows = [
        Row((Cell(name), Cell(source.module), Cell(source.revision[:12]), Cell((source.diff_sha256 or DASH)[:12])))
        for source in found.sources
        for name in source.changed_files
    ]
    heads = [Column(title, False) for title in ("file", "code of", "on top of", "SHA-256 of the difference")]
    return PageTable(_changes_caption(found.sources), tuple(heads), tuple(rows))


def _changes_caption(sources: tuple[Source, ...]) -> str:
    lines = [
        f"{source.module}: {source.lines_added} lines added, {source.lines_removed} removed"
        for source in sources
        if source.changed_files and source.lines_added is not None
    ]
    told = f"{'; '.join(lines)}. " if lines else ""
    return f"{told}The text of the differences is in the study's provenance.jsonl."


def packages_table(found: Provenance) -> PageTable:
    """Every installed package."""
    rows = [Row((Cell(name), Cell(", ".join(versions)))) for name, versions in found.packages.items()]
    return PageTable(
        "Versions of what was installed.", (Column("package", False), Column("version", False)), tuple(rows)
    )


def data_table(found: Provenance) -> PageTable:
    """Every data file."""
    rows = [Row((Cell(name), Cell(", ".join(hashes)))) for name, hashes in found.data_sha256.items()]
    return PageTable("Data files that were there.", (Column("file", False), Column("SHA-256", False)), tuple(rows))
