"""The commands of the law room: fit, forecast, backtest, optimum. Read the table, call `metascale.laws`, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metascale.cli_laws_output import (
    HORIZONS,
    print_analysis,
    print_backtest,
    print_forecast,
    print_surface,
    save_axis,
    say,
    write_fit,
    write_forecast,
)

if TYPE_CHECKING:
    from metascale.laws.analyse import Analysis
    from metascale.laws.table import Table

TablePath = Annotated[Path, typer.Argument(help="CSV or Parquet table with one row a run", show_default=False)]
XName = Annotated[str | None, typer.Option("--x", help="column of the scale; guessed when only one can be meant")]
YName = Annotated[str | None, typer.Option("--y", help="column of the loss; guessed when only one can be meant")]
Replicate = Annotated[str | None, typer.Option("--replicate", help="column that tells repeats apart (default: seed)")]
Out = Annotated[Path | None, typer.Option("--out", help="folder for fit.json, forecast.csv, PNG and HTML")]
Seed = Annotated[int, typer.Option("--seed", help="seed of the bootstrap")]


def fit(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    group: Annotated[str | None, typer.Option("--group", help="column of groups, each with its own law")] = None,
    replicate: Replicate = None,
    law: Annotated[str, typer.Option("--law", help="family to fit, or auto")] = "auto",
    x2: Annotated[str | None, typer.Option("--x2", help="second scale: fits L(N, D) with --x the model size")] = None,
    x3: Annotated[
        str | None, typer.Option("--x3", help="third scale: unique tokens, for the data-constrained law")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.95,
    n_bootstrap: Annotated[int, typer.Option("--bootstrap", help="number of resamples")] = 1000,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Fit a scaling law to a table: parameters with intervals, error, backtest, verdict."""
    from metascale.laws.table import guess_loss, read_table, usable_rows

    whole = usable_rows(read_table(table))
    loss = y or guess_loss(whole)
    options = {"law": law, "level": level, "n_bootstrap": n_bootstrap, "seed": seed}
    if x2 is not None:
        _fit_surface(whole, [name for name in (x or _size_name(whole), x2, x3) if name], loss, options, out)
        return
    scale = x or _scale_name(whole, loss)
    if group is None and "method" in whole.names and len({str(cell) for cell in whole.column("method")}) > 1:
        group = "method"
        say("several methods in the table: each gets its own law (as --group method)")
    parts = {"": whole} if group is None else _groups(whole, group)
    found = {name: _analysis(part, scale, loss, replicate, options) for name, part in parts.items()}
    for name, analysis in found.items():
        print_analysis(analysis, name)
    grouped = _compare_groups(whole, scale, loss, group, replicate, options) if group is not None else None
    if out is not None:
        write_fit(found, grouped, out)


def forecast(
    table: TablePath,
    to: Annotated[float, typer.Option("--to", help="the scale to predict the loss at", show_default=False)],
    x: XName = None,
    y: YName = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the interval")] = 0.90,
    out: Out = None,
) -> None:
    """Predict the loss of a new run beyond the table, with an interval that widens with the distance."""
    import numpy as np

    from metascale.core.errors import InputError
    from metascale.laws.forecast import forecast as predict

    scale, loss, seeds, columns, notes = _columns(table, x, y, replicate)
    largest = float(np.nanmax(columns[0]))
    if not (np.isfinite(to) and to > 0):
        raise InputError(f"--to {to:g} is not a scale; give a positive number of '{scale}'")
    steps = [largest * factor for factor in HORIZONS[1:] if largest * factor < to]
    found = predict(columns[0], columns[1], [*steps, to], level, replicate=seeds, x_name=scale, loss_name=loss)
    print_forecast(found, notes)
    if out is not None:
        write_forecast(found, out)


def backtest(
    table: TablePath,
    x: XName = None,
    y: YName = None,
    replicate: Replicate = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    out: Out = None,
) -> None:
    """Hide the largest scales and show how every family, the forecast and the baselines would have done."""
    from metascale.laws.backtest import backtest as run_backtest

    scale, loss, seeds, columns, notes = _columns(table, x, y, replicate)
    found = run_backtest(columns[0], columns[1], replicate=seeds, level=level, x_name=scale, loss_name=loss)
    print_backtest(found, notes)
    if out is not None:
        from metascale.core.files import write_json

        write_json(out / "backtest.json", found.to_json())
        save_axis(found.plot(), out / "backtest.png")
        say(f"wrote {out}/backtest.json and backtest.png")


def optimum(
    table: TablePath,
    compute: Annotated[
        list[float], typer.Option("--compute", help="budget in FLOPs; may be repeated", show_default=False)
    ],
    n: Annotated[str | None, typer.Option("--n", help="column of the model size; guessed")] = None,
    d: Annotated[str | None, typer.Option("--d", help="column of the tokens; guessed, or compute / 6N")] = None,
    y: YName = None,
    law: Annotated[str, typer.Option("--law", help="chinchilla, kaplan or auto")] = "auto",
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    gpu_flops: Annotated[
        float | None, typer.Option("--gpu-flops", help="peak FLOP/s of one GPU, for GPU-hours")
    ] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="share of the peak that training reaches")] = 0.4,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """The model size and the data that make the best of a budget, with intervals, by all three approaches."""
    import numpy as np

    from metascale.laws.analyse import fit as fit_any
    from metascale.laws.table import guess_loss, read_table, usable_rows

    whole = usable_rows(read_table(table))
    loss = y or guess_loss(whole)
    size = n or _size_name(whole)
    sizes, tokens, data_name = _sizes_and_tokens(whole, size, d)
    found = fit_any(
        np.column_stack([sizes, tokens]),
        whole.numbers(loss),
        law=law,
        x_name=(size, data_name),
        loss_name=loss,
        seed=seed,
    )
    print_surface(found)
    best = found.optimum(compute, level=level, flops_per_second=gpu_flops, utilisation=utilisation)  # type: ignore[union-attr]
    say(best.summary())
    others = _other_approaches(sizes, tokens, whole.numbers(loss), best.exponent)
    if out is not None:
        from metascale.core.files import write_json

        write_json(out / "fit.json", found.to_json())
        write_json(out / "optimum.json", {**best.to_json(), "other_approaches": others})
        save_axis(best.plot(), out / "optimum.png")
        say(f"wrote {out}/fit.json, optimum.json and optimum.png")


def _scale_name(table: Table, loss: str) -> str:
    from metascale.laws.table import guess_scale

    return guess_scale(table, loss)


def _size_name(table: Table) -> str:
    from metascale.laws.table import SIZE_NAMES, guess_one

    return guess_one(table, SIZE_NAMES, "model size", "--x (fit) or --n (optimum)")


def _columns(
    path: Path, x: str | None, y: str | None, replicate: str | None
) -> tuple[str, str, Any, tuple[Any, Any], Any]:
    """Scale name, loss name, replicate labels, (scales, losses), notes."""
    from metascale.laws.table import guess_loss, guess_seed, read_table, usable_rows

    table = usable_rows(read_table(path))
    loss = y or guess_loss(table)
    scale = x or _scale_name(table, loss)
    seed_name = replicate or guess_seed(table)
    labels = None if seed_name is None else table.column(seed_name)
    return scale, loss, labels, (table.numbers(scale), table.numbers(loss)), table.notes


def _groups(table: Table, group: str) -> dict[str, Table]:
    import numpy as np

    labels = np.array([str(cell) for cell in table.column(group)])
    return {name: table.rows(labels == name) for name in dict.fromkeys(labels.tolist())}


def _analysis(table: Table, scale: str, loss: str, replicate: str | None, options: dict[str, Any]) -> Analysis:
    from metascale.laws.analyse import analyse
    from metascale.laws.families import ONE_AXIS
    from metascale.laws.table import guess_seed

    seed_name = replicate or guess_seed(table)
    more = [name for name in ONE_AXIS if name != "logistic"]
    return analyse(
        table.numbers(scale), table.numbers(loss), replicate=None if seed_name is None else table.column(seed_name),
        run=table.column("run") if "run" in table.names else None, x_name=scale, loss_name=loss,
        notes=table.notes, families=more, **options,
    )  # fmt: skip


def _compare_groups(
    table: Table, scale: str, loss: str, group: str, replicate: str | None, options: dict[str, Any]
) -> dict[str, Any] | None:
    from metascale.laws.grouped import grouped
    from metascale.laws.table import guess_seed

    labels = [str(cell) for cell in table.column(group)]
    if len(set(labels)) < 2:
        return None
    seed_name = replicate or guess_seed(table)
    law = options["law"] if options["law"] in ("power", "power_irreducible") else "power"
    found = grouped(
        table.numbers(scale), table.numbers(loss), labels, law=law, level=options["level"], seed=options["seed"],
        replicate=None if seed_name is None else table.column(seed_name), x_name=scale, loss_name=loss,
    )  # fmt: skip
    say(found.summary())
    return found.to_json()


def _fit_surface(table: Table, names: list[str], loss: str, options: dict[str, Any], out: Path | None) -> None:
    import numpy as np

    from metascale.laws.analyse import fit as fit_any

    scales = np.column_stack([table.numbers(name) for name in names])
    found = fit_any(scales, table.numbers(loss), x_name=names, loss_name=loss, **options)
    print_surface(found)
    if out is not None:
        from metascale.core.files import write_json

        write_json(out / "fit.json", found.to_json())
        save_axis(found.plot(), out / "law.png")
        say(f"wrote {out}/fit.json and law.png")


def _sizes_and_tokens(table: Table, size: str, data: str | None) -> tuple[Any, Any, str]:
    """Model sizes and tokens; without a column of tokens they are compute / (6 N)."""
    from metascale.laws.frontier import FLOPS_PER_PARAMETER_AND_TOKEN
    from metascale.laws.table import COMPUTE_NAMES, DATA_NAMES, guess_one

    sizes = table.numbers(size)
    wanted = {name.lower() for name in DATA_NAMES}
    if data is None and not any(name.lower() in wanted for name in table.names):
        flops = guess_one(table, COMPUTE_NAMES, "training compute", "--d")
        return sizes, table.numbers(flops) / (FLOPS_PER_PARAMETER_AND_TOKEN * sizes), f"{flops} / 6N"
    name = data or guess_one(table, DATA_NAMES, "number of tokens", "--d")
    return sizes, table.numbers(name), name


def _other_approaches(sizes: Any, tokens: Any, losses: Any, exponent: dict[str, float]) -> list[dict[str, Any]]:
    """IsoFLOP parabolas and the envelope on the same table, and whether they agree with the parametric exponent."""
    from metascale.core.errors import InputError
    from metascale.laws.frontier import training_flops
    from metascale.laws.isoflop import envelope, isoflop

    out = []
    for approach in (isoflop, envelope):
        try:
            found = approach(training_flops(sizes, tokens), sizes, losses)
        except InputError as error:
            say(f"{approach.__name__}: not applicable ({error})")
            continue
        low, high = found.interval
        agree = low <= exponent["high"] and exponent["low"] <= high
        say(
            f"{found.approach}: N_opt ~ C^{found.exponent:.4f} ({low:.4f} to {high:.4f}), "
            f"{'agrees' if agree else 'DISAGREES'} with the parametric exponent {exponent['estimate']:.4f}"
        )
        out.append({**found.to_json(), "agrees": agree})
    return out
