"""The commands of the law room: fit, forecast, backtest, optimum. Read the table, call `metascale.laws`, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metascale.cli.laws_input import (
    Columns,
    choose_columns,
    group_column,
    mixed_scale_notes,
    pooled_notes,
    read,
    size_name,
    sizes_and_tokens,
    split,
)
from metascale.cli.laws_output import (
    HORIZONS,
    print_backtest,
    print_forecast,
    say,
    say_wrapped,
    write_backtest,
    write_fit,
    write_forecast,
    write_optimum,
    write_surface,
)

if TYPE_CHECKING:
    from metascale.laws.analysis import Analysis
    from metascale.laws.table import Table

TablePath = Annotated[Path, typer.Argument(help="CSV or Parquet table with one row a run", show_default=False)]
XName = Annotated[str | None, typer.Option("--x", help="column of the scale; guessed when only one can be meant")]
YName = Annotated[str | None, typer.Option("--y", help="column of the loss; guessed when only one can be meant")]
Replicate = Annotated[str | None, typer.Option("--replicate", help="column that tells repeats apart (default: seed)")]
Group = Annotated[str | None, typer.Option("--group", help="column of groups, each on its own (default: method)")]
Out = Annotated[Path | None, typer.Option("--out", help="folder for the results as JSON, CSV, PNG and HTML")]
Seed = Annotated[int, typer.Option("--seed", help="seed of the bootstrap")]
_LONGEST_NAME = 50  # letters of a group's name in its folder's; up to four bytes each
_COMPARED = ("auto", "power", "power_irreducible")  # what --law may be where groups are compared


def fit(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    group: Group = None,
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
    from metascale.laws.table import guess_loss

    _require_scales(x2, x3, {"--group": group, "--replicate": replicate, "--weights": weights})
    whole = read(table)
    options = {
        "law": law, "level": level, "n_bootstrap": n_bootstrap, "seed": seed, "objective": _objective(objective),
    }  # fmt: skip
    if x2 is not None:
        _fit_surface(whole, x or size_name(whole), x2, x3, y or guess_loss(whole), options, out)
        return
    columns = choose_columns(whole, x, y, replicate)
    named = group_column(whole, group)
    if named != group:
        say("several methods in the table: each gets its own law (as --group method)")
    found = {name: _analysis(part, {**options, "weights": weights}) for name, part in split(columns, named).items()}
    for name, analysis in found.items():
        say_wrapped((f"{name}: " if name else "") + analysis.summary() + "\n")
    _say_notes((*pooled_notes(whole, {columns.scale, columns.loss, columns.seed, named}), *mixed_scale_notes(columns)))
    grouped = None if named is None or len(found) < 2 else _compare_groups(columns, named, options)
    if out is not None:
        write_fit(found, grouped, out)


def forecast(
    table: TablePath,
    to: Annotated[float, typer.Option("--to", help="the scale to predict the loss at", show_default=False)],
    x: XName = None,
    y: YName = None,
    group: Group = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the interval")] = 0.90,
    out: Out = None,
) -> None:
    """Predict the loss of a new run beyond the table, with an interval that widens with the distance."""
    import math

    from metascale.core.errors import InputError
    from metascale.laws.forecasting import forecast as predict

    columns = choose_columns(read(table), x, y, replicate)
    if not (math.isfinite(to) and to > 0):
        raise InputError(f"--to {to:g} is not a scale; give a positive number of '{columns.scale}'")
    named = group_column(columns.table, group)
    for name, part in split(columns, named).items():
        data = part.data
        largest = float(max(data["x"])) if len(data["x"]) else to
        steps = [largest * factor for factor in HORIZONS[1:] if largest * factor < to]
        found = predict(at=[*steps, to], level=level, **data)
        print_forecast(found, part.table.notes, name)
        if out is not None:
            write_forecast(found, _folder(out, None if named is None else name))
    _say_notes((*pooled_notes(columns.table, {columns.seed, named}), *mixed_scale_notes(columns)))


def backtest(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    group: Group = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    out: Out = None,
) -> None:
    """Hide the largest scales and show how every family, the forecast and the baselines would have done."""
    from metascale.laws.backtesting import backtest as run_backtest

    columns = choose_columns(read(table), x, y, replicate)
    named = group_column(columns.table, group)
    for name, part in split(columns, named).items():
        found = run_backtest(level=level, **part.data)
        print_backtest(found, part.table.notes, name)
        if out is not None:
            write_backtest(found, _folder(out, None if named is None else name))
    _say_notes((*pooled_notes(columns.table, {columns.seed, named}), *mixed_scale_notes(columns)))


def optimum(
    table: TablePath,
    compute: Annotated[
        list[float], typer.Option("--compute", help="budget in FLOPs; may be repeated", show_default=False)
    ],
    n: Annotated[str | None, typer.Option("--n", help="column of the model size; guessed")] = None,
    d: Annotated[str | None, typer.Option("--d", help="column of the tokens; guessed, or compute / 6N")] = None,
    y: YName = None,
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
    """The model size and the data that make the best of a budget, with intervals, by all three approaches."""
    from metascale.laws.allocation import cross_check
    from metascale.laws.table import guess_loss

    whole = read(table)
    loss, size = y or guess_loss(whole), n or size_name(whole)
    sizes, tokens, data_name = sizes_and_tokens(whole, size, d)
    losses = whole.numbers(loss)
    options = {"law": law, "seed": seed, "objective": _objective(objective)}
    found = _surface((sizes, tokens), losses, (size, data_name), loss, options)
    best = found.optimum(compute, level=level, flops_per_second=gpu_flops, utilisation=utilisation)
    checked = cross_check(sizes, tokens, losses, best)
    say_wrapped("\n".join([found.summary(), "", best.summary(), checked.summary()]))
    _say_notes((*whole.notes, *pooled_notes(whole, set())))
    if out is not None:
        write_optimum(found, best, checked, out)


def _objective(name: str) -> Any:
    from metascale.core.errors import InputError
    from metascale.laws.objective import LeastSquares, LogHuber

    allowed = {"huber": LogHuber(), "least-squares": LeastSquares()}
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


def _say_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        say_wrapped(f"note: {note}")


def _folder(out: Path, group: str | None) -> Path:
    """Where a group's files go: a folder of its own below ``out``, which is meant where nothing is grouped.

    A name that is no plain folder name is cleaned, and gets a hash that keeps it apart from the others.
    """
    from metascale.core.canonical import content_id

    if group is None:
        return out
    clean = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in group)[:_LONGEST_NAME]
    if clean == group and clean.strip("."):
        return out / clean
    return out / f"{clean.strip('.') or 'group'}-{content_id(group, 8)}"


def _analysis(columns: Columns, options: dict[str, Any]) -> Analysis:
    from metascale.laws.analysis import analyse
    from metascale.laws.families import ONE_AXIS

    table = columns.table
    more = [name for name in ONE_AXIS if name != "logistic"]
    return analyse(
        **columns.data, run=table.column("run") if "run" in table.names else None, notes=table.notes, families=more,
        **options,
    )  # fmt: skip


def _compare_groups(columns: Columns, group: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The exponents of the groups side by side; ``None``, and said, for a law that has no such comparison."""
    from metascale.laws.groups import grouped

    law = options["law"]
    if law not in _COMPARED:
        _say_notes((f"the groups are not compared: only --law {', '.join(_COMPARED)} can be, not {law}",))
        return None
    labels = [str(cell) for cell in columns.table.column(group)]
    found = grouped(
        group=labels, law="power" if law == "auto" else law, level=options["level"], seed=options["seed"],
        **columns.data,
    )  # fmt: skip
    say_wrapped(found.summary())
    named = "power (--law auto)" if law == "auto" else law
    _say_notes((f"groups are compared with the law {named} by least squares; --objective and --weights change only the "
                "fits above",))  # fmt: skip
    return found.to_json()


def _surface(scales: tuple[Any, ...], losses: Any, names: tuple[str, ...], loss: str, options: dict[str, Any]) -> Any:
    import numpy as np

    from metascale.laws.analysis import fit as fit_any

    return fit_any(np.column_stack(scales), losses, x_name=names, loss_name=loss, **options)


def _fit_surface(
    table: Table, size: str, data: str, unique: str | None, loss: str, options: dict[str, Any], out: Path | None
) -> None:
    sizes, tokens, data_name = sizes_and_tokens(table, size, data)
    scales: tuple[Any, ...] = (sizes, tokens)
    names: tuple[str, ...] = (size, data_name)
    if unique is not None:
        scales, names = (*scales, table.numbers(unique)), (*names, unique)
    found = _surface(scales, table.numbers(loss), names, loss, options)
    say_wrapped(found.summary())
    _say_notes((*table.notes, *pooled_notes(table, set())))
    if out is not None:
        write_surface(found, out)
