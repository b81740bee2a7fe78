"""What training cost, contestant by contestant."""

from __future__ import annotations

from metascale.report.section import (
    Cell,
    Section,
    plain,
    reading,
    table,
)
from metascale.report.sections.contest import COSTS, Contestant, contestants
from metascale.report.study import (
    ReportStudy,
    standard_error,
    unit_of,
)
from metascale.report.words import measured


def costs(study: ReportStudy) -> Section:
    """What training costs, where a study compares methods."""
    title = "Methods and their costs"
    rows = [row for row in contestants(study) if row.series]
    known = [name for name in COSTS if any(name in row.costs for row in rows)]
    if len({method for method in study.axes.get("method", ()) if method is not None}) < 2 or known in ([], ["steps"]):
        return Section("methods", title)
    body = []
    for row in sorted(rows, key=lambda row: row.loss):
        cells = [reading(row.loss), reading(standard_error(row.seed_values))]
        body.append([Cell(row.name), *cells, *(_cost(row, name) for name in known)])
    unit = unit_of(study.loss_name)
    heads = ["method", f"loss ({unit})" if unit else "loss", "SE across seeds"]
    heads += [COSTS[name][0].format(step=study.terms.step) for name in known]
    caption = f"Trained methods, best loss first, with what one {study.terms.step} costs."
    return Section("methods", title, (table(caption, heads, body),))


def _cost(row: Contestant, name: str) -> Cell:
    unit, value = COSTS[name][1], row.costs.get(name)
    return plain(value) if value is None or unit == 1 else Cell(measured(value / unit), value)
