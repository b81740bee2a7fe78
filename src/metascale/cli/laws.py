"""The commands of the law room: fit, forecast, backtest, optimum. Read the table, call `metascale.laws`, print, write.

Everything heavier than typer is imported where it is used: a command line that is refused needs no arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metascale.cli.table import Chosen, Opening, open_table
from metascale.cli.words import JsonFlag, folder_of, say, say_law_file, say_notes, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws import Analysis, Forecast, SurfaceAnalysis
    from metascale.laws.metrics import ShareOptions
    from metascale.laws.prepared import Columns, Prepared
    from metascale.laws.record import LawRecord
    from metascale.laws.table import ScaleColumns

TablePath = Annotated[
    Path,
    typer.Argument(
        help="CSV, JSON, JSON Lines or Parquet table with one row a run, or a study's folder", show_default=False
    ),
]
XNames = Annotated[
    list[str] | None,
    typer.Option("--x", help="column of a scale; repeatable; guessed when only one can be meant"),
]
XName = Annotated[str | None, typer.Option("--x", help="column of the scale; guessed when only one can be meant")]
YNames = Annotated[
    list[str] | None,
    typer.Option(
        "--y", help="column of the loss, accuracy ...; repeatable: one law each; guessed where one can be meant"
    ),
]
YName = Annotated[str | None, typer.Option("--y", help="column of the loss; guessed when only one can be meant")]
Replicate = Annotated[str | None, typer.Option("--replicate", help="column that distinguishes repeats (default: seed)")]
Group = Annotated[
    str | None, typer.Option("--group", help="column of groups, each on its own and compared (default: method)")
]
Series = Annotated[
    list[str] | None,
    typer.Option("--series", help="column whose values have a law each; repeatable (a study: its own)"),
]
BestOf = Annotated[
    list[str] | None,
    typer.Option("--best-of", help="column of which each scale keeps its best value, by validation; repeatable"),
]
RunName = Annotated[
    str | None, typer.Option("--run", help="column of runs, whose rows stay together in a bootstrap (default: run)")
]
Checkpoints = Annotated[
    bool, typer.Option("--checkpoints", help="fit every row of a run, and not the end of each alone")
]
Rows = Annotated[
    int | None, typer.Option("--rows", help="fit a sample of so many rows (default: of more than 5,000, 600 a group)")
]
NoiseColumn = Annotated[
    str | None, typer.Option("--noise-column", help="column of known standard errors of the loss's evaluation")
]
Out = Annotated[Path | None, typer.Option("--out", help="folder for the results as JSON, CSV, PNG and HTML")]
Kind = Annotated[
    str | None, typer.Option("--kind", help="share, error (a share of failures) or loss; default: by name and values")
]
Chance = Annotated[float | None, typer.Option("--chance", help="of a share: what guessing has, such as 0.25")]
Trials = Annotated[
    str | None, typer.Option("--trials", help="of a share: column of the numbers of questions, or one number")
]
Via = Annotated[
    str | None, typer.Option("--via", help="of a share: column of the loss that it is read off, in two steps")
]
Seed = Annotated[int, typer.Option("--seed", help="seed of the bootstrap")]
FRONTIER_POINTS = 25
HORIZONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the largest scale: where forecasts are written


def fit(
    table: TablePath,
    x: XNames = None,
    y: YNames = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    run: RunName = None,
    checkpoints: Checkpoints = False,
    rows: Rows = None,
    noise_column: NoiseColumn = None,
    law: Annotated[
        str, typer.Option("--law", help="a family, a law of the library, a formula such as 'E + A/N**alpha', or auto")
    ] = "auto",
    x2: Annotated[str | None, typer.Option("--x2", help="second scale (the same as a second --x)")] = None,
    x3: Annotated[str | None, typer.Option("--x3", help="third scale (the same as a third --x)")] = None,
    bound: Annotated[
        list[str] | None, typer.Option("--bound", help="range of a parameter, alpha=0:2; repeatable")
    ] = None,
    fix: Annotated[list[str] | None, typer.Option("--fix", help="value of a parameter, E=1.69; repeatable")] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="huber (the default) or least-squares, of log residuals")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="replicate: rows weigh by the variance between their seeds")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.95,
    n_bootstrap: Annotated[
        int,
        typer.Option("--bootstrap", help="number of resamples; formulas, shares and joined forms need none"),
    ] = 1000,
    kind: Kind = None,
    chance: Chance = None,
    trials: Trials = None,
    via: Via = None,
    seed: Seed = 0,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Fit a scaling law to a table: parameters with intervals, error, backtest, verdict."""
    from metascale.cli.curves import fit_curves
    from metascale.cli.metrics import of_metrics, share_options
    from metascale.cli.scales import objective_of, parse_bounds, parse_values

    _require_scales(x, x2, x3)
    if law == "multi_power":
        given = {
            "x": x, "x2": x2, "x3": x3, "group": group, "series": series, "best_of": best_of, "replicate": replicate,
            "rows": rows, "bound": bound, "fix": fix, "objective": objective, "weights": weights, "kind": kind,
            "chance": chance, "trials": trials, "via": via, "noise": noise_column,
        }  # fmt: skip
        fit_curves(table, y, run, level, given, json_, out)
        return
    asked = (*(x or ()), *filter(None, (x2, x3)))
    opening = Opening(table, asked, group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column))
    options = {
        "law": law, "level": level, "objective": objective_of(objective), "bounds": parse_bounds(bound),
        "fixed": parse_values(fix, "fix"), "weights": weights, "n_bootstrap": n_bootstrap, "seed": seed,
    }  # fmt: skip
    how = share_options(kind, chance, trials, via)

    def measure(name: str | None, folder: Path | None) -> dict[str, Any]:
        return _fit_metric(opening, name, asked if x is None else tuple(x), options, how, folder, json_)

    of_metrics(y, measure, "fit", out, json_)


def _fit_metric(
    opening: Opening,
    y: str | None,
    x: Sequence[str],
    options: Mapping[str, Any],
    how: ShareOptions,
    out: Path | None,
    json_: bool,
) -> dict[str, Any]:
    """One metric of a table: its laws by group, as JSON."""
    from metascale.cli.metrics import fit_shares
    from metascale.cli.scales import run_fit
    from metascale.laws.evaluation import refuse_noise
    from metascale.laws.metrics import share_metric

    law, replicate = options["law"], opening.chosen.seed
    opened = opening.open(y if how.via is None else how.via)
    metric = share_metric(opened, how, y, law)
    if metric is not None:
        refuse_noise(opening.chosen.noise)
        return fit_shares(opened, metric, how, options, out, json_)
    scales = _named_scales(opened, opening.scales, x, law)
    rest = {name: options[name] for name in ("law", "level", "objective")}
    if _any_scales(opened, scales, law):
        refuse_noise(opening.chosen.noise)
        _require_rows_alike(None, options["weights"])
        kept = {"bounds": options["bounds"], "fixed": options["fixed"]}
        return run_fit(opened, scales, replicate, {**rest, **kept}, out, json_)
    if options["bounds"] or options["fixed"]:
        raise InputError(f"`bound` and `fix` are for a formula or a law of the library, not for '{law}'", field="law")
    rest |= {
        "n_bootstrap": options["n_bootstrap"],
        "seed": options["seed"],
        "objective": rest["objective"],
    }
    if len(scales) > 1:
        _require_rows_alike(replicate, options["weights"])
        return _fit_surfaces(opened, scales, rest, out, json_)
    return _fit_series(opened, opening, rest, options["weights"], out, json_)


def _fit_series(
    opened: Prepared, opening: Opening, options: dict[str, Any], weights: str | None, out: Path | None, json_: bool
) -> dict[str, Any]:
    """The laws in one scale, one a group."""
    from metascale.laws.prepared import one_scale

    columns = one_scale(opened, opening.chosen.seed)
    named = opened.group
    if named != opening.group and opened.compared:
        say("several methods in the table: each gets its own law (as --group method)", to_stderr=json_)
    found = {name: _analysis(part, {**options, "weights": weights}) for name, part in columns.split(named).items()}
    for name, analysis in found.items():
        say((f"{name}: " if name else "") + analysis.summary() + "\n", to_stderr=json_)
    _say_table_notes(columns, opened, json_)
    compared = named is not None and len(found) > 1 and opened.compared
    grouped = _compare_groups(columns, str(named), options, json_) if compared else None
    if out is not None:
        _write_fit(found, grouped, out, json_)
    return {name: analysis.to_json() for name, analysis in found.items()}


def _named_scales(opened: Prepared, asked: Sequence[str], x: Sequence[str], law: str) -> tuple[str, ...]:
    """The scales that were named, the study's, or the columns that a formula names; empty where they are guessed."""
    from metascale.laws.expression import as_name, is_formula, names_in
    from metascale.laws.table import SIZE_NAMES, guess_one

    if asked and not x:
        return (guess_one(opened.table, SIZE_NAMES, "model size", "x"), *asked)
    if not opened.scales and is_formula(law):
        named = names_in(law)
        return tuple(name for name in opened.table.names if as_name(name) in named and name != opened.loss)
    return opened.scales


def _any_scales(opened: Prepared, scales: Sequence[str], law: str) -> bool:
    """Whether the machinery for any number of scales fits the table."""
    from metascale.laws.scales import any_scales
    from metascale.laws.table import guess_loss, losses

    values, _ = losses(opened.table, opened.loss or guess_loss(opened.table))
    return any_scales(law, scales or ("x",), values)


def _require_rows_alike(replicate: str | None, weights: str | None) -> None:
    given = [name for name, value in {"--replicate": replicate, "--weights": weights}.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)} cannot go with several scales: such a fit reads every row alike")


def _fit_surfaces(
    opened: Prepared, scales: Sequence[str], options: dict[str, Any], out: Path | None, json_: bool
) -> dict[str, Any]:
    """The surfaces in two or three scales that have a verdict of their own, one a group."""
    from metascale.cli.scales import say_pooled
    from metascale.laws.prepared import groups_of
    from metascale.laws.record import write_laws

    records, stored = {}, {}
    for name, columns in groups_of(opened, scales):
        if name:
            say(f"{name}:", to_stderr=json_)
        found = _surface(columns, options)
        say(found.summary(), to_stderr=json_)
        say_pooled(columns.table, opened, (*scales, columns.loss_name), scales, json_)
        records[name] = found.to_json()
        if out is not None:
            stored[name] = _write_surface(folder_of(out, name or None), found, columns, json_)
    if out is not None and "" not in stored:
        write_laws(out, stored)  # of all groups, for `predict`
    return records


def forecast(
    table: TablePath,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="the scale to predict the loss at; N=7e10,D=1.4e12 of several; repeatable"),
    ] = None,
    x: XNames = None,
    y: YNames = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    run: RunName = None,
    checkpoints: Checkpoints = False,
    rows: Rows = None,
    noise_column: NoiseColumn = None,
    kind: Kind = None,
    chance: Chance = None,
    trials: Trials = None,
    via: Via = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="of a run to predict from runs with rates: a CSV of step and lr, or a name such "
            "as cosine:peak=3e-4,steps=24000,warmup=500; --to is then a step, its end by default",
        ),
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the interval")] = 0.90,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Predict the loss of a new run beyond the table, with an interval that widens with the distance."""
    from metascale.cli.curves import forecast_curves
    from metascale.cli.metrics import forecast_shares, of_metrics, share_options
    from metascale.cli.scales import forecast_scales
    from metascale.laws.evaluation import refuse_noise
    from metascale.laws.metrics import share_metric

    if schedule is not None:
        given = {"x": x, "group": group, "series": series, "best_of": best_of, "replicate": replicate, "rows": rows,
                 "kind": kind, "chance": chance, "trials": trials, "via": via, "noise": noise_column}  # fmt: skip
        forecast_curves(table, y, run, schedule, to or (), level, given, json_, out)
        return
    if not to:
        raise InputError("`to` is missing: give the scale to predict the loss at", field="to")
    opening = Opening(table, x or (), group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column))
    how = share_options(kind, chance, trials, via)

    def measure(name: str | None, folder: Path | None) -> dict[str, Any]:
        opened = opening.open(name if how.via is None else how.via)
        metric = share_metric(opened, how, name)
        if metric is not None or len(opened.scales) > 1:
            refuse_noise(noise_column)
        if metric is not None:
            return forecast_shares(opened, metric, how, to, level, folder, json_)
        if len(opened.scales) > 1:
            return forecast_scales(opened, to, replicate, level, folder, json_)
        return _forecast_series(opened, to, replicate, level, folder, json_)

    of_metrics(y, measure, "forecast", out, json_)


def _forecast_series(
    opened: Prepared, to: Sequence[str], replicate: str | None, level: float, out: Path | None, json_: bool
) -> dict[str, Any]:
    """The forecasts in one scale, one a group."""
    from metascale.cli.scales import one_target
    from metascale.laws.forecasting import forecast as predict
    from metascale.laws.prepared import forecast_data, one_scale

    columns = one_scale(opened, replicate)
    wanted = [one_target(text, columns.scale) for text in to]
    named, records = opened.group, {}
    for name, part in columns.split(named).items():
        data = forecast_data(part)
        largest = float(max(data["x"])) if len(data["x"]) else max(wanted)
        steps = [largest * factor for factor in HORIZONS[1:] if largest * factor < max(wanted)]
        with stage(f"forecasting from {part.table.n_rows:,} rows"):
            found = predict(at=sorted({*steps, *wanted}), level=level, **data)
        records[name] = found.to_json()
        if not json_:
            _print_forecast(found, name)
        say_notes((*part.table.notes, *found.notes), to_stderr=json_)
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


def backtest(
    table: TablePath,
    x: XNames = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    run: RunName = None,
    checkpoints: Checkpoints = False,
    rows: Rows = None,
    noise_column: NoiseColumn = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Hide the largest scales and compare how well every family, the forecast and the baselines predict them."""
    from metascale.cli.scales import backtest_scales, print_json
    from metascale.laws.backtesting import backtest as run_backtest
    from metascale.laws.evaluation import refuse_noise
    from metascale.laws.prepared import one_scale

    opened = open_table(
        table, x or (), y, group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column)
    )
    if len(opened.scales) > 1:
        refuse_noise(noise_column)
        backtest_scales(opened, replicate, level, out, json_)
        return
    columns = one_scale(opened, replicate)
    named, records = opened.group, {}
    for name, part in columns.split(named).items():
        with stage(f"hiding scales of {part.table.n_rows:,} rows"):
            found = run_backtest(level=level, **part.data)
        records[name] = found.to_json()
        say((f"{name}:\n" if name else "") + found.summary(), to_stderr=json_)
        say_notes(part.table.notes, to_stderr=json_)
        if out is not None:
            folder = folder_of(out, None if named is None else name)
            plots = {"backtest.png": found.plot()}
            write_results(folder, {"backtest.json": found.to_json()}, {}, plots, to_stderr=json_)
    if json_:
        print_json(records)
    _say_table_notes(columns, opened, json_)


def optimum(
    table: TablePath,
    compute: Annotated[
        list[float],
        typer.Option("--compute", help="budget in FLOPs (unit of --cost); may be repeated", show_default=False),
    ],
    n: Annotated[str | None, typer.Option("--n", help="column of the model size; guessed")] = None,
    d: Annotated[str | None, typer.Option("--d", help="column of the tokens; guessed, or compute / 6N")] = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    run: RunName = None,
    checkpoints: Checkpoints = False,
    rows: Rows = None,
    noise_column: NoiseColumn = None,
    cost: Annotated[
        str | None,
        typer.Option("--cost", help="column of what a run cost: a power law in N and D is fitted to it; else 6 N D"),
    ] = None,
    law: Annotated[str, typer.Option("--law", help="chinchilla, kaplan or auto")] = "auto",
    objective: Annotated[
        str | None, typer.Option("--objective", help="huber (the default) or least-squares, of log residuals")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    gpu_flops: Annotated[
        float | None, typer.Option("--gpu-flops", help="peak FLOP/s of one GPU, for GPU-hours")
    ] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="share of the peak that training reaches")] = 0.4,
    seed: Seed = 0,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Estimate the compute-optimal model size and tokens of a budget, with intervals, by three approaches."""
    from metascale.cli.scales import objective_of, print_json, say_pooled
    from metascale.laws import cross_check
    from metascale.laws.entry import cost_of, sizes_of
    from metascale.laws.table import split_table

    chosen = Chosen(run, None, checkpoints, rows, noise_column)
    opened = open_table(table, (n, d) if n and d else (), y, group, series, best_of, chosen)
    if len(opened.scales) > 1 and not (n or d):
        n, d = opened.scales[:2]
    options, records = {"law": law, "seed": seed, "objective": objective_of(objective)}, {}
    for name, part in split_table(opened.table, opened.group).items():
        columns = sizes_of(part, n, d, opened)
        spent = cost_of(columns, cost)
        found = _surface(columns, options)
        best = found.optimum(compute, level=level, flops_per_second=gpu_flops, utilisation=utilisation, cost=spent)
        checked = cross_check(columns.x[:, 0], columns.x[:, 1], columns.loss, best)
        text = [*([f"{name}:"] if name else []), found.summary(), "", best.summary(), checked.summary()]
        say("\n".join(text), to_stderr=json_)
        used = (*columns.names, n, d, cost, columns.loss_name)
        say_pooled(columns.table, opened, used, (columns.names[0], d or columns.names[1]), json_)
        records[name] = {**best.to_json(), "other_approaches": checked.to_json(), "law": found.to_json()}
        if out is not None:
            files = {"fit.json": found.to_json(), "optimum.json": records[name]}
            write_results(folder_of(out, name or None), files, {}, {"optimum.png": checked.plot()}, to_stderr=json_)
    if json_:
        print_json(records)


def _require_scales(x: Sequence[str] | None, x2: str | None, x3: str | None) -> None:
    """Refuse a third scale without a second, and a scale that is named twice."""
    if x2 is None and x3 is not None and len(x or ()) < 2:
        raise InputError("--x3 is the third scale: it needs --x2, the second, as well")
    names = (*(x or ()), *filter(None, (x2, x3)))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"`x` names '{twice}' twice; every scale is named once", field="x", value=twice)


def _analysis(columns: ScaleColumns, options: dict[str, Any]) -> Analysis:
    from metascale.laws import analyse
    from metascale.laws.prepared import run_labels

    table = columns.table
    with stage(f"fitting {table.n_rows:,} rows"):
        return analyse(**columns.data, run=run_labels(table, columns.run), notes=table.notes, **options)


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


def _write_fit(found: dict[str, Analysis], grouped: dict[str, Any] | None, out: Path, json_: bool) -> None:
    import numpy as np

    from metascale.laws.entry import saved_record
    from metascale.laws.forecasting import forecast_table
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
