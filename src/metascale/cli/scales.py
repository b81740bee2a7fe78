"""The law commands on several scales, and `predict`: read the table, call `metascale.laws`, print, write.

Everything heavier than typer is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metascale.cli.words import JsonFlag, csv_text, say, say_law_file, say_notes, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.corners import CornerTest
    from metascale.laws.objective import Objective
    from metascale.laws.observations import Observations
    from metascale.laws.prediction import Prediction
    from metascale.laws.prepared import Columns, Prepared
    from metascale.laws.scales import ScalesAnalysis
    from metascale.laws.table import Table


def parse_bounds(given: Sequence[str] | None) -> dict[str, tuple[float, float]]:
    """``alpha=0:2`` to the range; an end that is left out is infinite."""
    found = {}
    for text in given or ():
        name, sign, ends = text.partition("=")
        low, colon, high = ends.partition(":")
        if not (name.strip() and sign and colon):
            raise InputError(f"`bound` '{text}' is no range; give NAME=LOW:HIGH, such as alpha=0:2", field="bound")
        found[name.strip()] = (
            _number(low, "bound") if low.strip() else float("-inf"),
            _number(high, "bound") if high.strip() else float("inf"),
        )
    return found


def parse_values(given: Sequence[str] | None, field: str, example: str = "E=1.69") -> dict[str, float]:
    """``E=1.69`` to the value."""
    found = {}
    for text in given or ():
        for part in text.split(","):
            name, sign, value = part.partition("=")
            if not (name.strip() and sign):
                raise InputError(f"`{field}` '{part}' is no value; give NAME=VALUE, such as {example}", field=field)
            found[name.strip()] = _number(value, field)
    return found


def _number(text: str, field: str) -> float:
    import math

    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"`{field}`: '{text.strip()}' is not a number", field=field, value=text) from error
    if math.isnan(value):
        raise InputError(f"`{field}`: nan is not a number to use", field=field, value=text)
    return value


def predict(
    folder: Annotated[Path, typer.Argument(help="folder that fit --out wrote", show_default=False)],
    points: Annotated[Path, typer.Argument(help="table of scales, one row a prediction", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="CSV file for the predictions; printed without")] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    group: Annotated[str | None, typer.Option("--group", help="column of the points that names their law")] = None,
    json_: JsonFlag = False,
) -> None:
    """Predict the loss of one new run for every row of a table of scales: median, low, high."""
    from metascale.core.files import write_atomic
    from metascale.laws.predicting import read_predictors
    from metascale.laws.table import read_table

    predictors = read_predictors(folder)
    table = read_table(points)
    rows = predicted_rows(table, predictors, level, group)
    outside = [k + 1 for k, row in enumerate(rows) if row["beyond"] > 1 + 1e-9]
    text = csv_text(rows)
    if json_:
        import json

        typer.echo(json.dumps({"level": level, "rows": rows}))
    elif out is None:
        typer.echo(text, nl=False)
    if out is not None:
        if out.is_dir():
            raise InputError(f"`out` '{out}' is a folder; give a file such as {out / 'predictions.csv'}", field="out")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text)
        say(f"wrote {out}: {len(rows)} rows, {100 * level:g} % intervals for one new run", to_stderr=json_)
    if outside:
        farthest = max(rows, key=lambda row: row["beyond"])["beyond"]
        shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
        say(f"note: {len(outside)} of {len(rows)} rows lie outside the table that was fitted (rows {shown}; up to "
            f"{farthest:.3g} times beyond a scale's range)", to_stderr=True)  # fmt: skip


def predicted_rows(
    table: Table, predictors: Mapping[str, Any], level: float, group: str | None
) -> list[dict[str, Any]]:
    """The rows of ``table`` with median, low, high and how far each is outside, in their order."""
    import numpy as np

    from metascale.laws.prediction import scales_in
    from metascale.laws.schedule_predictor import SchedulePredictor

    names = next(iter(predictors.values())).x_names
    labels = [""] * table.n_rows
    if len(predictors) > 1:
        if group is None:
            raise InputError(f"the folder holds {len(predictors)} laws ({', '.join(predictors)}); `group` names the "
                             "column of the points that says which is whose", field="group")  # fmt: skip
        labels = [str(cell) for cell in table.column(group)]
        unknown = next((label for label in labels if label not in predictors), None)
        if unknown is not None:
            raise InputError(f"'{group}' is '{unknown}' in {table.source}, and the laws are those of "
                             f"{', '.join(predictors)}", field="group", value=unknown)  # fmt: skip
    else:
        labels = [next(iter(predictors))] * table.n_rows
    kept = {name: list(table.column(name)) for name in table.names}
    ends: dict[int, dict[str, float]] = {}
    for label in dict.fromkeys(labels):
        mine = [k for k, other in enumerate(labels) if other == label]
        if isinstance(predictors[label], SchedulePredictor):
            told = predictors[label].of_rows(table.rows(np.isin(np.arange(table.n_rows), mine)), level)
        else:
            found: Prediction = predictors[label].predict(scales_in(table, names)[mine], level)
            told = {key: getattr(found, key) for key in ("median", "low", "high", "beyond")}
        for place, k in enumerate(mine):
            ends[k] = {key: float(column[place]) for key, column in told.items()}
    return [{**{name: _plain(cells[k]) for name, cells in kept.items()}, **ends[k]} for k in range(table.n_rows)]


def _plain(cell: Any) -> Any:
    return cell.item() if hasattr(cell, "item") else cell


def write_scales(out: Path, found: Mapping[str, ScalesAnalysis]) -> None:
    """fit.json, law.json (laws.json), and the pictures of laws in several scales."""
    from metascale.laws.record import write_laws
    from metascale.laws.scales import pictures

    records = {name: analysis.record() for name, analysis in found.items()}
    only = next(iter(records.values()))
    stored = only.to_json() if len(records) == 1 else {"groups": {name: one.to_json() for name, one in records.items()}}
    stored.pop("predictor", None)
    plots = {"fit.png": next(iter(found.values())).plot()} if len(found) == 1 else {}
    drawn = [picture for name, analysis in found.items() for picture in pictures(analysis, name)]
    write_laws(out, records)
    write_results(out, {"fit.json": stored}, {}, plots, drawn, to_stderr=True)
    say_law_file(out, to_stderr=True)


def run_fit(
    opened: Prepared,
    scales: Sequence[str],
    replicate: str | None,
    options: Mapping[str, Any],
    out: Path | None,
    json_: bool,
) -> dict[str, Any]:
    """`fit` by the machinery for any number of scales."""
    from metascale.laws.prepared import groups_of
    from metascale.laws.scales import analyse_scales
    from metascale.laws.several import each_group

    def law(columns: Columns) -> ScalesAnalysis:
        with stage(f"fitting {columns.table.n_rows:,} rows"):
            return analyse_scales(**columns.data, notes=columns.table.notes, **options)

    parts = dict(groups_of(opened, scales))
    found = each_group(parts.items(), law)
    for name, columns in parts.items():
        say((f"{name}: " if name else "") + found[name].summary(), to_stderr=json_)
        say_pooled(columns.table, opened, (columns.loss_name, replicate), scales, json_)
    if out is not None:
        write_scales(out, found)
    return {name: analysis.to_json() for name, analysis in found.items()}


def print_json(found: Mapping[str, Any]) -> None:
    """One object, or one by group."""
    import json

    typer.echo(json.dumps(found[""] if list(found) == [""] else {"groups": dict(found)}))


def say_pooled(
    table: Table, opened: Prepared, used: Sequence[str | None], scales: Sequence[str], json_: bool = False
) -> None:
    """Conditions that are pooled among rows of equal scales; ``used``: columns with a role beside those prepared."""
    from metascale.laws.table import SEED_NAMES, pooled_notes

    known = [name for name in scales if name in table.names]
    roles = (*SEED_NAMES, *opened.used, opened.loss, opened.run, *used)
    say_notes(pooled_notes(table, roles, known), to_stderr=json_)


def forecast_scales(
    opened: Prepared, to: Sequence[str], replicate: str | None, level: float, out: Path | None, json_: bool
) -> dict[str, Any]:
    """`forecast` in several scales: the rows of ``--to``, one a run."""
    from metascale.laws.corners import choose
    from metascale.laws.prepared import groups_of
    from metascale.laws.several import each_group

    targets = targets_of(to, opened.scales)
    records: dict[str, Any] = {}

    def ahead(columns: Columns) -> tuple[Observations, Prediction]:
        table = columns.observations()
        rows = columns.places(opened.scales, [[given[scale] for scale in opened.scales] for given in targets])
        with stage(f"forecasting from {columns.table.n_rows:,} rows"):
            return table, choose(table).mixture.predict(rows, level)

    parts = dict(groups_of(opened, opened.scales))
    for name, (table, found) in each_group(parts.items(), ahead).items():
        columns = parts[name]
        records[name] = {"level": level, "x_names": list(opened.scales), "loss_name": columns.loss_name, "rows": [
            {**given, "median": float(found.median[k]), "low": float(found.low[k]), "high": float(found.high[k]),
             "beyond": float(found.beyond[k])} for k, given in enumerate(targets)
        ]}  # fmt: skip
        say_forecast(records[name], name, json_)
        say_notes((*columns.table.notes, *table.notes), to_stderr=json_)
    if out is not None:
        rows_ = [{"group": name, **row} if name else row for name, one in records.items() for row in one["rows"]]
        stored = records[""] if list(records) == [""] else {"groups": records}
        write_results(out, {"forecast.json": stored}, {"forecast.csv": rows_}, {}, to_stderr=json_)
    return records


def one_target(text: str, scale: str) -> float:
    """A scale of ``--to``: a number, or NAME=NUMBER of the only scale."""
    import math

    name, sign, value = text.rpartition("=")
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if (sign and name.strip() != scale) or not (math.isfinite(found) and found > 0):
        raise InputError(f"--to {text} is not a scale; give a positive number of '{scale}'", field="to", value=text)
    return found


def targets_of(to: Sequence[str], scales: Sequence[str]) -> list[dict[str, float]]:
    """The rows of ``--to`` in several scales."""
    wanted = ",".join(f"{name}=..." for name in scales)
    targets = [parse_values([text], "to", wanted) for text in to]
    if any(set(given) != set(scales) for given in targets):
        raise InputError(f"`to` must name every scale once; give {wanted}", field="to")
    for text, given in zip(to, targets, strict=True):
        if not all(0 < value < float("inf") for value in given.values()):
            raise InputError(f"`to` is '{text}'; scales are positive finite numbers", field="to", value=text)
    return targets


def say_forecast(record: Mapping[str, Any], name: str, json_: bool) -> None:
    """One line a row of ``--to``."""
    if name:
        say(f"{name}:", to_stderr=json_)
    for row in record["rows"]:
        where = ", ".join(f"{scale} {row[scale]:.4g}" for scale in record["x_names"])
        far = f", {row['beyond']:.3g} times beyond the table" if row["beyond"] > 1 + 1e-9 else ""
        say(f"{where}: {record['loss_name']} {row['median']:.5g} ({100 * record['level']:g} % interval for one run "
            f"{row['low']:.5g} to {row['high']:.5g}){far}", to_stderr=json_)  # fmt: skip


def backtest_scales(opened: Prepared, level: float, out: Path | None, json_: bool) -> dict[str, Any]:
    """`backtest` in several scales: every form and the mixture on hidden corners."""
    from metascale.laws.corners import backtest_corners
    from metascale.laws.prepared import groups_of
    from metascale.laws.several import each_group

    records = {}

    def tested(columns: Columns) -> tuple[Observations, CornerTest]:
        table = columns.observations()
        with stage(f"hiding corners of {columns.table.n_rows:,} rows"):
            return table, backtest_corners(table, level)

    parts = dict(groups_of(opened, opened.scales))
    for name, (table, found) in each_group(parts.items(), tested).items():
        columns = parts[name]
        records[name] = found.to_json()
        say((f"{name}:\n" if name else "") + found.summary(), to_stderr=json_)
        say_notes((*columns.table.notes, *table.notes), to_stderr=json_)
    if out is not None:
        stored = records[""] if list(records) == [""] else {"groups": records}
        rows = [{"group": name, **row} if name else row for name, one in records.items() for row in one["corners"]]
        write_results(out, {"backtest.json": stored}, {"backtest.csv": rows}, {}, to_stderr=json_)
    return records


def objective_of(name: str | None) -> Objective | None:
    """What ``--objective`` names; None: the law's own."""
    from metascale.laws.objective import LeastSquares, LogHuber

    if name is None:
        return None
    allowed: dict[str, Objective] = {"huber": LogHuber(), "least-squares": LeastSquares()}
    if name not in allowed:
        raise InputError(f"--objective '{name}' is unknown; allowed are: {', '.join(allowed)}")
    return allowed[name]
