"""The law of a study as it stands: read where it is written, fitted where more has finished since."""

from __future__ import annotations

from metascale.core.columns import LAW_JSON, LAWS_JSON
from metascale.laws.record import LawRecord, read_laws
from metascale.study.store.folder import StudyView
from metascale.study.store.manifest import is_concluded
from metascale.study.store.once import reading_once
from metascale.study.store.table import results_table
from metascale.workflow.recipe import roles_of


def laws_so_far(view: StudyView) -> tuple[dict[str, LawRecord], str]:
    """The law of every series (one, unless a series axis varies), or the reason why there is none.

    What `conclude` wrote of the very runs that are finished now is read; else the law is fitted to them.
    """
    with reading_once():
        several = (view.folder / LAWS_JSON).exists()
        if (several or not roles_of(view.study).series) and is_concluded(view, LAWS_JSON if several else LAW_JSON):
            return read_laws(view.folder), ""
        from metascale.workflow.conclude import laws_of, record_of

        analyses, reason = laws_of(view.study, results_table(view))
        return {series: record_of(found) for series, found in analyses.items()}, reason
