"""`fit` and `forecast` of shares, and of several metrics of one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.words import folder_of, say, say_law_file, say_notes, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.cli.table import Opening
    from metascale.laws.metrics import ShareOptions
    from metascale.laws.prepared import Prepared
    from metascale.laws.several import Part
    from metascale.laws.shares import Metric


def share_options(kind: str | None, chance: float | None, trials: str | None, via: str | None) -> ShareOptions:
    """What ``--kind``, ``--chance``, ``--trials`` (a column, or a number) and ``--via`` say."""
    from metascale.laws.metrics import ShareOptions

    try:
        counted: str | float | None = None if trials is None else float(trials)
    except ValueError:
        counted = trials
    return ShareOptions(kind, chance, counted, via)


def of_metrics(
    opening: Opening,
    y: Sequence[str] | None,
    how: ShareOptions,
    measure: Callable[[str | None, Part, Path | None], dict[str, Any]],
    what: str,
    out: Path | None,
    json_: bool,
) -> None:
    """``measure`` of every metric, with its part of the options: one record each, and a folder each below ``out``."""
    from metascale.cli.scales import print_json
    from metascale.core.files import write_json
    from metascale.laws.several import Part, each_metric, metrics_table, parts_of

    if not y or len(y) == 1:
        found = measure(y[0] if y else None, Part(how), out)
        if json_:
            print_json(found)
        return
    parts = parts_of(opening.table, y, how)

    def one(name: str) -> dict[str, Any]:
        say(f"{name}:", to_stderr=json_)
        records = measure(name, parts[name], folder_of(out, name))
        return dict(records[""]) if list(records) == [""] else {"groups": records}

    several = each_metric(y, one)
    results = {"metrics": several.results, "refused": several.refused}
    if what == "fit":
        say("\n" + metrics_table(several.results, several.refused), to_stderr=json_)
    else:
        say_notes((f"{name} is refused: {why}" for name, why in several.refused.items()), to_stderr=json_)
    if json_:
        print_json({"": results})
    if out is not None:
        write_json(out / "metrics.json", results)
        say(f"wrote {out}/metrics.json", to_stderr=json_)


def fit_shares(
    opened: Prepared, metric: Metric, how: ShareOptions, options: Mapping[str, Any], out: Path | None, json_: bool
) -> dict[str, Any]:
    """The law of a share in every group, printed and written."""
    import numpy as np

    from metascale.cli.scales import say_pooled
    from metascale.cli.series import HORIZONS
    from metascale.laws.metrics import analyse_metric
    from metascale.laws.record import write_laws
    from metascale.laws.table import ScaleColumns

    other = next((name for name in ("objective", "weights", "bounds", "fixed") if options.get(name)), None)
    if other is not None:
        flag = {"bounds": "bound", "fixed": "fix"}.get(other, other)
        raise InputError(f"`{flag}` is not for shares such as '{metric.name}'", field=flag)
    found, rows = {}, []
    used = (metric.name, how.via, how.trials if isinstance(how.trials, str) else None)
    with stage(f"fitting {opened.table.n_rows:,} rows"):
        every = list(analyse_metric(opened, metric, how, options["level"]))
    for name, analysis, columns in every:
        found[name] = analysis
        say((f"{name}: " if name else "") + analysis.summary() + "\n", to_stderr=json_)
        say_pooled(columns.table, opened, used, columns.names, json_)
        if len(columns.names) == 1:
            say_notes(ScaleColumns(columns.table, columns.names[0], metric.name, None).mixed_notes(),
                      to_stderr=json_)  # fmt: skip
        if len(columns.names) == 1 and out is not None:
            ahead = analysis.predict(float(columns.x.max()) * np.array(HORIZONS), 0.90)
            rows += [{**({"group": name} if name else {}), **row} for row in ahead.rows()]
    records = {name: one.to_json() for name, one in found.items()}
    if out is not None:
        write_laws(out, {name: one.record() for name, one in found.items()})
        stored = records[""] if list(records) == [""] else {"groups": records}
        plots = {"fit.png": found[""].plot()} if list(found) == [""] else {}
        write_results(out, {"fit.json": stored}, {"forecast.csv": rows} if rows else {}, plots, to_stderr=json_)
        say_law_file(out, to_stderr=json_)
    return records


def forecast_shares(
    opened: Prepared,
    metric: Metric,
    how: ShareOptions,
    to: Sequence[str],
    level: float,
    out: Path | None,
    json_: bool,
) -> dict[str, Any]:
    """The forecast of a share in every group; of one that is read off a loss, with what each step leaves."""
    from metascale.cli.scales import one_target, say_forecast, targets_of
    from metascale.laws.metrics import analyse_metric

    records: dict[str, Any] = {}
    for name, analysis, columns in list(analyse_metric(opened, metric, how)):
        if len(columns.names) == 1:
            rows: Any = [[one_target(text, columns.names[0])] for text in to]
        else:
            rows = columns.places(
                opened.scales, [[given[scale] for scale in opened.scales] for given in targets_of(to, opened.scales)]
            )
        found = analysis.predict(rows, level)
        records[name] = {
            "level": level, "x_names": list(found.x_names), "loss_name": metric.name, "rows": found.rows(),
        }  # fmt: skip
        if how.via is None:
            say_forecast(records[name], name, json_)
        else:
            say((f"{name}:\n" if name else "") + found.summary(), to_stderr=json_)
        say_notes((*columns.table.notes, analysis.verdict), to_stderr=json_)
    if out is not None:
        stored = records[""] if list(records) == [""] else {"groups": records}
        table = [{**({"group": name} if name else {}), **row} for name, one in records.items() for row in one["rows"]]
        write_results(out, {"forecast.json": stored}, {"forecast.csv": table}, {}, to_stderr=json_)
    return records


def backtest_shares(
    opened: Prepared, metric: Metric, how: ShareOptions, level: float, out: Path | None, json_: bool
) -> dict[str, Any]:
    """The backtest of a share in every group."""
    from metascale.laws.metrics import backtest_metric

    records: dict[str, Any] = {}
    with stage(f"hiding scales of {opened.table.n_rows:,} rows"):
        every = list(backtest_metric(opened, metric, how, level))
    for name, found, columns in every:
        records[name] = found.to_json()
        say((f"{name}:\n" if name else "") + found.summary(), to_stderr=json_)
        say_notes(columns.table.notes, to_stderr=json_)
        if out is not None:
            plots = {"backtest.png": found.plot()}
            write_results(folder_of(out, name or None), {"backtest.json": records[name]}, {}, plots,
                          to_stderr=json_)  # fmt: skip
    return records
