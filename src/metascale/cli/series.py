"""The law commands in one scale: fit, forecast and backtest of every group, printed and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from metascale.cli.words import folder_of, say, say_law_file, say_notes, stage, write_results

if TYPE_CHECKING:
    from metascale.cli.table import Opening
    from metascale.laws import Analysis, Backtest, Forecast
    from metascale.laws.prepared import Prepared
    from metascale.laws.table import ScaleColumns

HORIZONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the largest scale: where forecasts are written


def fit_series(
    opened: Prepared, opening: Opening, options: dict[str, Any], out: Path | None, json_: bool
) -> dict[str, Any]:
    """The laws in one scale, one a group."""
    from metascale.laws.prepared import one_scale

    columns = one_scale(opened, opening.chosen.seed)
    named = opened.group
    found = _analyses(columns.split(named), options)
    if named != opening.group and opened.compared:
        say("several methods in the table: each gets its own law (as --group method)", to_stderr=json_)
    for name, analysis in found.items():
        say((f"{name}: " if name else "") + analysis.summary() + "\n", to_stderr=json_)
    _say_table_notes(columns, opened, json_)
    compared = named is not None and len(found) > 1 and opened.compared
    grouped = _compare_groups(columns, str(named), options, json_) if compared else None
    if out is not None:
        _write_fit(found, grouped, out, json_)
    return {name: analysis.to_json() for name, analysis in found.items()}


def forecast_series(
    opened: Prepared, to: Sequence[str], replicate: str | None, level: float, out: Path | None, json_: bool
) -> dict[str, Any]:
    """The forecasts in one scale, one a group."""
    from metascale.cli.scales import one_target
    from metascale.laws.forecasting import forecast as predict
    from metascale.laws.prepared import forecast_data, one_scale
    from metascale.laws.several import each_group

    columns = one_scale(opened, replicate)
    wanted = [one_target(text, columns.scale) for text in to]
    named, records = opened.group, {}

    def ahead(part: ScaleColumns) -> Forecast:
        data = forecast_data(part)
        largest = float(max(data["x"])) if len(data["x"]) else max(wanted)
        steps = [largest * factor for factor in HORIZONS[1:] if largest * factor < max(wanted)]
        with stage(f"forecasting from {part.table.n_rows:,} rows"):
            return predict(at=sorted({*steps, *wanted}), level=level, **data)

    parts = columns.split(named)
    for name, found in each_group(parts.items(), ahead).items():
        records[name] = found.to_json()
        if not json_:
            _print_forecast(found, name)
        say_notes((*parts[name].table.notes, *found.notes), to_stderr=json_)
        if out is not None:
            folder = folder_of(out, None if named is None else name)
            write_results(
                folder,
                {"forecast.json": found.to_json()},
                {"forecast.csv": found.rows()},
                {"forecast.png": found.plot()},
                to_stderr=json_,
            )
    _say_table_notes(columns, opened, json_)
    return records


def backtest_series(
    opened: Prepared, replicate: str | None, level: float, out: Path | None, json_: bool
) -> dict[str, Any]:
    """The backtests in one scale, one a group."""
    from metascale.laws.backtesting import backtest as run_backtest
    from metascale.laws.prepared import one_scale
    from metascale.laws.several import each_group

    columns = one_scale(opened, replicate)
    named, records = opened.group, {}

    def tested(part: ScaleColumns) -> Backtest:
        with stage(f"hiding scales of {part.table.n_rows:,} rows"):
            return run_backtest(level=level, **part.data)

    parts = columns.split(named)
    for name, found in each_group(parts.items(), tested).items():
        records[name] = found.to_json()
        say((f"{name}:\n" if name else "") + found.summary(), to_stderr=json_)
        say_notes(parts[name].table.notes, to_stderr=json_)
        if out is not None:
            folder = folder_of(out, None if named is None else name)
            plots = {"backtest.png": found.plot()}
            write_results(folder, {"backtest.json": found.to_json()}, {}, plots, to_stderr=json_)
    _say_table_notes(columns, opened, json_)
    return records


def _analyses(parts: Mapping[str, ScaleColumns], options: dict[str, Any]) -> dict[str, Analysis]:
    """The laws of all groups, solved side by side."""
    from metascale.laws.many import fit_each
    from metascale.laws.prepared import run_labels

    with stage(f"fitting {sum(part.table.n_rows for part in parts.values()):,} rows"):
        found = fit_each({
            name: {**part.data, "run": run_labels(part.table, part.run), "notes": part.table.notes, **options}
            for name, part in parts.items()
        })  # fmt: skip
    return cast("dict[str, Analysis]", found)


def _compare_groups(columns: ScaleColumns, group: str, options: dict[str, Any], json_: bool) -> dict[str, Any] | None:
    """The exponents of the groups side by side; ``None``, with a note, for a law that has no such comparison."""
    from metascale.laws.entry import COMPARED, compare

    law = options["law"]
    if law not in COMPARED:
        say_notes((f"the groups are not compared: only --law {', '.join(COMPARED)} can be, not {law}",),
                  to_stderr=json_)  # fmt: skip
        return None
    found = compare(columns, group, law, level=options["level"], seed=options["seed"])
    say(found.summary(), to_stderr=json_)
    named = "power (--law auto)" if law == "auto" else law
    say_notes((f"groups are compared with the law {named} by least squares; --objective and --weights change only the "
               "fits above",), to_stderr=json_)  # fmt: skip
    return found.to_json()


def _write_fit(found: dict[str, Analysis], grouped: dict[str, Any] | None, out: Path, json_: bool) -> None:
    import numpy as np

    from metascale.laws.forecasting import forecast_table
    from metascale.laws.predicting import saved_record
    from metascale.laws.record import write_laws

    pictures, forecasts = [], []
    for name, analysis in found.items():
        table = analysis.fit.observations
        ahead = forecast_table(table, table.x[-1, 0] * np.array(HORIZONS), 0.90)
        pictures.append(analysis.picture({ahead.label: ahead.band()}, name))
        forecasts += [{"group": name, **row} if name else row for row in ahead.rows()]
    if grouped is None and len(found) == 1:
        record = next(iter(found.values())).to_json()
    else:
        record = {"groups": {name: analysis.to_json() for name, analysis in found.items()}, "comparison": grouped}
    write_laws(out, {name: saved_record(one) for name, one in found.items()})
    write_results(out, {"fit.json": record}, {"forecast.csv": forecasts}, {}, pictures, to_stderr=json_)
    say_law_file(out, to_stderr=json_)


def _print_forecast(found: Forecast, name: str) -> None:
    """A table of predictions beside the baselines."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(found.x_name, found.loss_name, f"{100 * found.level:g} % interval", "tail line", "last value")
    for i, x in enumerate(found.at):
        shown.add_row(
            f"{x:.6g}", f"{found.median[i]:.6g}", f"{found.low[i]:.5g} to {found.high[i]:.5g}",
            f"{found.baselines['tail_line'][i]:.5g}", f"{found.baselines['last_value'][i]:.5g}",
        )  # fmt: skip
    if name:
        typer.echo(f"{name}:")
    Console().print(shown)


def _say_table_notes(columns: ScaleColumns, opened: Prepared, json_: bool = False) -> None:
    """Conditions that are pooled and scales that are mixed."""
    from metascale.laws.prepared import notes_of

    say_notes(notes_of(columns, opened), to_stderr=json_)
