"""The law commands in model size and data: `fit` of surfaces with their verdict, and `optimum`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.series import HORIZONS
from metascale.cli.words import folder_of, say, say_law_file, say_notes, stage, write_results

if TYPE_CHECKING:
    from metascale.laws import CrossCheck, Optimum, SurfaceAnalysis
    from metascale.laws.prepared import Columns, Prepared
    from metascale.laws.record import LawRecord
    from metascale.laws.table import Table

FRONTIER_POINTS = 25


def fit_surfaces(
    opened: Prepared, scales: Sequence[str], options: dict[str, Any], out: Path | None, json_: bool
) -> dict[str, Any]:
    """The surfaces in two or three scales that have a verdict of their own, one a group."""
    from metascale.cli.scales import say_pooled
    from metascale.laws.prepared import groups_of
    from metascale.laws.record import write_laws
    from metascale.laws.several import each_group

    records, stored = {}, {}
    parts = dict(groups_of(opened, scales))
    for name, found in each_group(parts.items(), lambda part: _surface(part, options)).items():
        columns = parts[name]
        if name:
            say(f"{name}:", to_stderr=json_)
        say(found.summary(), to_stderr=json_)
        say_pooled(columns.table, opened, (*scales, columns.loss_name), scales, json_)
        records[name] = found.to_json()
        if out is not None:
            stored[name] = _write_surface(folder_of(out, name or None), found, columns, json_)
    if out is not None and "" not in stored:
        write_laws(out, stored)  # of all groups, for `predict`
    return records


def best_split(
    opened: Prepared,
    compute: Sequence[float],
    columns_named: tuple[str | None, str | None],
    options: dict[str, Any],
    asked: dict[str, Any],
    out: Path | None,
    json_: bool,
) -> dict[str, Any]:
    """`optimum` of every group.

    Args:
        columns_named: of model size and tokens; options: of the fit; asked: cost, and `SurfaceAnalysis.optimum`'s.
    """
    from metascale.cli.scales import say_pooled
    from metascale.laws import cross_check
    from metascale.laws.entry import cost_of, sizes_of
    from metascale.laws.several import each_group
    from metascale.laws.table import split_table

    (n, d), cost, records = columns_named, asked.pop("cost"), {}

    def split(part: Table) -> tuple[Columns, SurfaceAnalysis, Optimum, CrossCheck]:
        columns = sizes_of(part, n, d, opened)
        spent = cost_of(columns, cost)
        found = _surface(columns, options)
        best = found.optimum(compute, cost=spent, **asked)
        return columns, found, best, cross_check(columns.x[:, 0], columns.x[:, 1], columns.loss, best)

    every = each_group(split_table(opened.table, opened.group).items(), split)
    for name, (columns, found, best, checked) in every.items():
        text = [*([f"{name}:"] if name else []), found.summary(), "", best.summary(), checked.summary()]
        say("\n".join(text), to_stderr=json_)
        used = (*columns.names, n, d, cost, columns.loss_name)
        say_pooled(columns.table, opened, used, (columns.names[0], d or columns.names[1]), json_)
        records[name] = {**best.to_json(), "other_approaches": checked.to_json(), "law": found.to_json()}
        if out is not None:
            files = {"fit.json": found.to_json(), "optimum.json": records[name]}
            write_results(folder_of(out, name or None), files, {}, {"optimum.png": checked.plot()}, to_stderr=json_)
    return records


def _surface(columns: Columns, options: dict[str, Any]) -> SurfaceAnalysis:
    from metascale.laws.surface_fit import analyse_surface

    with stage(f"fitting {columns.table.n_rows:,} rows"):
        return analyse_surface(**columns.data, notes=columns.table.notes, **options)


def _write_surface(out: Path, found: SurfaceAnalysis, columns: Columns, json_: bool) -> LawRecord:
    """The frontier of sizes and tokens as forecast.csv, the misfit as fit.png, and what `predict` needs in law.json.

    Returns:
        What law.json holds.
    """
    import dataclasses

    import numpy as np

    from metascale.laws import training_flops
    from metascale.laws.record import write_laws
    from metascale.laws.scales import pictures_of
    from metascale.laws.table import sizes_by_data

    drawn = list(pictures_of(found.predictor, found.fit.observations, found.verdict))
    record = dataclasses.replace(found.record(), predictor=found.predictor.record())
    write_laws(out, {"": record})
    say_law_file(out, to_stderr=json_)
    say(f"predictions by {found.predictor.by}", to_stderr=json_)
    files, plots = {"fit.json": found.to_json()}, {"fit.png": found.plot()}
    if not sizes_by_data(columns.names):
        size, data = columns.names
        note = (f"no frontier in compute: '{size}' and '{data}' are not known as model size and tokens; `optimum` "
                "takes any two columns by name")  # fmt: skip
        say_notes((note,), to_stderr=json_)
        write_results(out, files, {}, plots, drawn, to_stderr=json_)
        return record
    compute = training_flops(columns.x[:, 0], columns.x[:, 1])
    best = found.optimum(np.geomspace(compute.min(), HORIZONS[-1] * compute.max(), FRONTIER_POINTS), level=0.90)
    write_results(out, files, {"forecast.csv": best.rows()}, plots, [found.picture(best), *drawn], to_stderr=json_)
    return record
