"""The commands of the law room: fit, forecast, backtest, optimum. Read the table, call `metascale.laws`, print, write.

Everything heavier than typer is imported where it is used: a command line that is refused needs no arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

import typer

from metascale.cli.table import open_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from metascale.laws import Analysis, Forecast, SurfaceAnalysis
    from metascale.laws.objective import Objective
    from metascale.laws.observations import Array
    from metascale.laws.picture import LawPicture
    from metascale.laws.table import ScaleColumns, Table

TablePath = Annotated[
    Path, typer.Argument(help="CSV or Parquet table with one row a run, or a study's folder", show_default=False)
]
XName = Annotated[str | None, typer.Option("--x", help="column of the scale; guessed when only one can be meant")]
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
Out = Annotated[Path | None, typer.Option("--out", help="folder for the results as JSON, CSV, PNG and HTML")]
Seed = Annotated[int, typer.Option("--seed", help="seed of the bootstrap")]
FRONTIER_POINTS = 25
HORIZONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the largest scale: where forecasts are written
_LONGEST_NAME = 50  # letters of a group's name in its folder's; up to four bytes each
_COMPARED = ("auto", "power", "power_irreducible")  # what --law may be where groups are compared


def fit(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    law: Annotated[str, typer.Option("--law", help="family to fit, or auto")] = "auto",
    x2: Annotated[str | None, typer.Option("--x2", help="second scale: fits L(N, D) with --x the model size")] = None,
    x3: Annotated[
        str | None, typer.Option("--x3", help="third scale: unique tokens, for the data-constrained law")
    ] = None,
    objective: Annotated[str, typer.Option("--objective", help="huber or least-squares, of log residuals")] = "huber",
    weights: Annotated[
        str | None, typer.Option("--weights", help="replicate: rows weigh by the variance between their seeds")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.95,
    n_bootstrap: Annotated[int, typer.Option("--bootstrap", help="number of resamples")] = 1000,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Fit a scaling law to a table: parameters with intervals, error, backtest, verdict."""
    from metascale.laws.table import SIZE_NAMES, ScaleColumns, guess_loss, guess_one, split_table

    _require_scales(x2, x3, {"--group": group, "--replicate": replicate, "--weights": weights})
    opened = open_table(table, (x, x2, x3), y, group, series, best_of)
    whole, y = opened.table, opened.loss
    options: dict[str, Any] = {
        "law": law, "level": level, "n_bootstrap": n_bootstrap, "seed": seed, "objective": _objective(objective),
    }  # fmt: skip
    scales = opened.scales
    if x2 is not None or len(scales) > 1:
        size = x or guess_one(whole, SIZE_NAMES, "model size", "x") if x2 is not None else scales[0]
        _require_scales(scales[-1], None, {"--group": group, "--replicate": replicate, "--weights": weights})
        for name, part in split_table(whole, opened.group if opened.used else None).items():
            if name:
                typer.echo(f"{name}:")
            more = scales[1:] if x2 is None else tuple(filter(None, (x2, x3)))
            _fit_surface(part, (size, *more), y or guess_loss(whole), opened.used, options, _folder(out, name or None))
        return
    columns = ScaleColumns.of(whole, scales[0] if scales else None, y, replicate)
    named = opened.group
    if named != group and opened.compared:
        typer.echo("several methods in the table: each gets its own law (as --group method)")
    found = {name: _analysis(part, {**options, "weights": weights}) for name, part in columns.split(named).items()}
    for name, analysis in found.items():
        _say((f"{name}: " if name else "") + analysis.summary() + "\n")
    _say_table_notes(columns, opened.used)
    grouped = (
        None if named is None or len(found) < 2 or not opened.compared else _compare_groups(columns, named, options)
    )
    if out is not None:
        _write_fit(found, grouped, out)


def forecast(
    table: TablePath,
    to: Annotated[float, typer.Option("--to", help="the scale to predict the loss at", show_default=False)],
    x: XName = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the interval")] = 0.90,
    out: Out = None,
) -> None:
    """Predict the loss of a new run beyond the table, with an interval that widens with the distance."""
    import math

    from metascale.core.errors import InputError
    from metascale.laws import forecast as predict
    from metascale.laws.table import ScaleColumns

    opened = open_table(table, (x,), y, group, series, best_of)
    columns = ScaleColumns.of(opened.table, opened.one_scale("forecast"), opened.loss, replicate)
    if not (math.isfinite(to) and to > 0):
        raise InputError(f"--to {to:g} is not a scale; give a positive number of '{columns.scale}'")
    named = opened.group
    for name, part in columns.split(named).items():
        data = part.data
        largest = float(max(data["x"])) if len(data["x"]) else to
        steps = [largest * factor for factor in HORIZONS[1:] if largest * factor < to]
        found = predict(at=[*steps, to], level=level, **data)
        _print_forecast(found, name)
        _say_notes((*part.table.notes, *found.notes))
        if out is not None:
            folder = _folder(out, None if named is None else name)
            _write(
                folder,
                {"forecast.json": found.to_json()},
                {"forecast.csv": found.rows()},
                {"forecast.png": found.plot()},
            )
    _say_table_notes(columns, opened.used)


def backtest(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    out: Out = None,
) -> None:
    """Hide the largest scales and compare how well every family, the forecast and the baselines predict them."""
    from metascale.laws import backtest as run_backtest
    from metascale.laws.table import ScaleColumns

    opened = open_table(table, (x,), y, group, series, best_of)
    columns = ScaleColumns.of(opened.table, opened.one_scale("backtest"), opened.loss, replicate)
    named = opened.group
    for name, part in columns.split(named).items():
        found = run_backtest(level=level, **part.data)
        typer.echo((f"{name}:\n" if name else "") + found.summary())
        _say_notes(part.table.notes)
        if out is not None:
            folder = _folder(out, None if named is None else name)
            _write(folder, {"backtest.json": found.to_json()}, {}, {"backtest.png": found.plot()})
    _say_table_notes(columns, opened.used)


def optimum(
    table: TablePath,
    compute: Annotated[
        list[float], typer.Option("--compute", help="budget in FLOPs; may be repeated", show_default=False)
    ],
    n: Annotated[str | None, typer.Option("--n", help="column of the model size; guessed")] = None,
    d: Annotated[str | None, typer.Option("--d", help="column of the tokens; guessed, or compute / 6N")] = None,
    y: YName = None,
    series: Series = None,
    best_of: BestOf = None,
    law: Annotated[str, typer.Option("--law", help="chinchilla, kaplan or auto")] = "auto",
    objective: Annotated[str, typer.Option("--objective", help="huber or least-squares, of log residuals")] = "huber",
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    gpu_flops: Annotated[
        float | None, typer.Option("--gpu-flops", help="peak FLOP/s of one GPU, for GPU-hours")
    ] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="share of the peak that training reaches")] = 0.4,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Estimate the compute-optimal model size and tokens of a budget, with intervals, by three approaches."""
    from metascale.laws import cross_check
    from metascale.laws.table import SIZE_NAMES, guess_loss, guess_one, losses, sizes_and_tokens, split_table

    opened = open_table(table, (n, d) if n and d else (), y, None, series, best_of)
    whole, scales = opened.table, opened.scales
    if len(scales) > 1 and not (n or d):
        n, d = scales[:2]
    loss, size = opened.loss or guess_loss(whole), n or guess_one(whole, SIZE_NAMES, "model size", "n")
    options = {"law": law, "seed": seed, "objective": _objective(objective)}
    for name, part in split_table(whole, opened.group if opened.used else None).items():
        sizes, tokens, data_name = sizes_and_tokens(part, size, d)
        values, loss_name = losses(part, loss)
        found = _surface((sizes, tokens), values, loss_name, (size, data_name), options)
        best = found.optimum(compute, level=level, flops_per_second=gpu_flops, utilisation=utilisation)
        checked = cross_check(sizes, tokens, values, best)
        _say("\n".join([*([f"{name}:"] if name else []), found.summary(), "", best.summary(), checked.summary()]))
        _say_pooled(part, (size, data_name, d, loss, *opened.used), (size, d or data_name))
        if out is not None:
            record = {**best.to_json(), "other_approaches": checked.to_json()}
            records = {"fit.json": found.to_json(), "optimum.json": record}
            _write(_folder(out, name or None), records, {}, {"optimum.png": checked.plot()})


def _objective(name: str) -> Objective:
    from metascale.core.errors import InputError
    from metascale.laws.objective import LeastSquares, LogHuber

    allowed: dict[str, Objective] = {"huber": LogHuber(), "least-squares": LeastSquares()}
    if name not in allowed:
        raise InputError(f"--objective '{name}' is unknown; allowed are: {', '.join(allowed)}")
    return allowed[name]


def _require_scales(x2: str | None, x3: str | None, one_scale: dict[str, str | None]) -> None:
    """Refuse options that a fit in so many scales does not use."""
    from metascale.core.errors import InputError

    if x2 is None and x3 is not None:
        raise InputError("--x3 is the third scale, the unique tokens: it needs --x2, the second, as well")
    given = [name for name, value in one_scale.items() if value is not None]
    if x2 is not None and given:
        raise InputError(f"{', '.join(given)} cannot go with --x2: a fit in two or three scales reads every row alike")


@overload
def _folder(out: Path, group: str | None) -> Path: ...


@overload
def _folder(out: None, group: str | None) -> None: ...


def _folder(out: Path | None, group: str | None) -> Path | None:
    """Where a group's files go: a folder of its own below ``out``, or ``out`` itself where nothing is grouped.

    A name that is no plain folder name is cleaned, and gets a hash that keeps it apart from the others.
    """
    from metascale.core.canonical import content_id

    if group is None or out is None:
        return out
    clean = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in group)[:_LONGEST_NAME]
    if clean == group and clean.strip("."):
        return out / clean
    return out / f"{clean.strip('.') or 'group'}-{content_id(group, 8)}"


def _analysis(columns: ScaleColumns, options: dict[str, Any]) -> Analysis:
    from metascale.laws import analyse

    table = columns.table
    run = table.column("run") if "run" in table.names else None
    return analyse(**columns.data, run=run, notes=table.notes, **options)


def _compare_groups(columns: ScaleColumns, group: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The exponents of the groups side by side; ``None``, with a note, for a law that has no such comparison."""
    from metascale.laws import grouped

    law = options["law"]
    if law not in _COMPARED:
        _say_notes((f"the groups are not compared: only --law {', '.join(_COMPARED)} can be, not {law}",))
        return None
    labels = [str(cell) for cell in columns.table.column(group)]
    found = grouped(
        group=labels, law="power" if law == "auto" else law, level=options["level"], seed=options["seed"],
        **columns.data,
    )  # fmt: skip
    _say(found.summary())
    named = "power (--law auto)" if law == "auto" else law
    _say_notes((f"groups are compared with the law {named} by least squares; --objective and --weights change only the "
                "fits above",))  # fmt: skip
    return found.to_json()


def _surface(
    scales: tuple[Array, ...], losses: Array, loss: str, names: tuple[str, ...], options: dict[str, Any]
) -> SurfaceAnalysis:
    import numpy as np

    from metascale.laws.surface_fit import analyse_surface

    return analyse_surface(np.column_stack(scales), losses, x_name=names, loss_name=loss, **options)


def _fit_surface(
    table: Table, scales: Sequence[str], loss: str, used: Sequence[str], options: dict[str, Any], out: Path | None
) -> None:
    """Fit a law in two or three scales; its frontier is written as forecast.csv, its misfit as fit.png."""
    import numpy as np

    from metascale.laws import training_flops
    from metascale.laws.table import losses, sizes_and_tokens, without_blanks

    size, data, *unique = scales
    table = without_blanks(table, (size, *unique, loss))
    sizes, tokens, data_name = sizes_and_tokens(table, size, data)
    columns: tuple[Array, ...] = (sizes, tokens, *(table.numbers(name) for name in unique))
    found = _surface(columns, *losses(table, loss), (size, data_name, *unique), options)
    _say(found.summary())
    _say_pooled(table, (*scales, loss, *used), scales)
    if out is not None:
        compute = training_flops(sizes, tokens)
        best = found.optimum(np.geomspace(compute.min(), HORIZONS[-1] * compute.max(), FRONTIER_POINTS), level=0.90)
        pictures = [found.picture(best)]
        _write(out, {"fit.json": found.to_json()}, {"forecast.csv": best.rows()}, {"fit.png": found.plot()}, pictures)


def _write_fit(found: dict[str, Analysis], grouped: dict[str, Any] | None, out: Path) -> None:
    import numpy as np

    from metascale.laws.forecasting import forecast_table

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
    _write(out, {"fit.json": record}, {"forecast.csv": forecasts}, {}, pictures)


def _write(
    out: Path,
    records: dict[str, Any],
    tables: dict[str, Sequence[dict[str, Any]]],
    plots: dict[str, Axes],
    pictures: Sequence[LawPicture] = (),
) -> None:
    """Write JSON, CSV and PNG files by their names, the pictures of laws as law.png and law.html, and say so."""
    import csv
    import io

    from metascale.core.files import write_atomic, write_json
    from metascale.laws.picture import figure_of, write_html, write_png

    for name, record in records.items():
        write_json(out / name, record)
    for name, rows in tables.items():
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(out / name, stream.getvalue())
    if pictures:
        write_png(figure_of(pictures), out / "law.png")
        write_html(pictures, out / "law.html")
    for name, ax in plots.items():
        write_png(ax, out / name)
    names = [*records, *tables, *(("law.png", "law.html") if pictures else ()), *plots]
    typer.echo(f"wrote {out}/{', '.join(names[:-1])} and {names[-1]}")


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


def _say_table_notes(columns: ScaleColumns, used: Sequence[str]) -> None:
    """Conditions that are pooled and scales that are mixed."""
    from metascale.laws.table import pooled_notes

    named = (columns.seed, columns.loss, *used)
    _say_notes((*pooled_notes(columns.table, named, (columns.scale,)), *columns.mixed_notes()))


def _say_pooled(table: Table, used: Sequence[str | None], scales: Sequence[str]) -> None:
    from metascale.laws.table import SEED_NAMES, pooled_notes

    known = [name for name in scales if name in table.names]
    _say_notes((*table.notes, *pooled_notes(table, (*SEED_NAMES, *used), known)))


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def _say(text: str) -> None:
    """Print a text; on a terminal, long lines are broken between words and their rest is indented."""
    import shutil
    import sys
    import textwrap

    if not sys.stdout.isatty():
        typer.echo(text)
        return
    width = shutil.get_terminal_size().columns
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        typer.echo("\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False)) or "")
