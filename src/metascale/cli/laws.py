"""The commands of the law room: fit, forecast, backtest, optimum. Read the table, call `metascale.laws`, print, write.

Everything heavier than typer is imported where it is used: a command line that is refused needs no arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.law_options import (
    X2,
    X3,
    BestOf,
    Bound,
    Chance,
    Checkpoints,
    Compute,
    CostName,
    Fix,
    GpuFlops,
    Group,
    Kind,
    LawName,
    Level,
    NoiseColumn,
    ObjectiveName,
    Out,
    Replicate,
    Resamples,
    Rows,
    RunName,
    ScheduleText,
    Seed,
    Series,
    SizeName,
    SurfaceName,
    TablePath,
    To,
    TokensName,
    Trials,
    Utilisation,
    Via,
    Weights,
    XNames,
    YName,
    YNames,
)  # fmt: skip
from metascale.cli.table import Chosen, Opening, part_of
from metascale.cli.words import JsonFlag
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.metrics import ShareOptions
    from metascale.laws.prepared import Prepared
    from metascale.laws.several import Part


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
    law: LawName = "auto",
    x2: X2 = None,
    x3: X3 = None,
    bound: Bound = None,
    fix: Fix = None,
    objective: ObjectiveName = None,
    weights: Weights = None,
    level: Level = 0.95,
    n_bootstrap: Resamples = 1000,
    kind: Kind = None,
    chance: Chance = None,
    trials: Trials = None,
    via: Via = None,
    seed: Seed = 0,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Fit a scaling law to a table: parameters with intervals, error, backtest, verdict."""
    from metascale.cli.curves import MULTI_POWER, fit_curves
    from metascale.cli.metrics import of_metrics, share_options
    from metascale.cli.scales import objective_of, parse_bounds, parse_values

    asked = _require_scales(x, x2, x3)
    opening = Opening(table, asked, group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column))
    how = share_options(kind, chance, trials, via)
    options = {
        "law": law, "level": level, "objective": objective_of(objective), "bounds": parse_bounds(bound),
        "fixed": parse_values(fix, "fix"), "weights": weights, "n_bootstrap": n_bootstrap, "seed": seed,
    }  # fmt: skip
    if law == MULTI_POWER:
        fit_curves(opening, y, options, how, out, json_)
        return

    def measure(name: str | None, part: Part, folder: Path | None) -> dict[str, Any]:
        chosen, own = part_of(opening, part), part.options(options)
        return _fit_metric(chosen, name, asked if x is None else tuple(x), own, part.how, folder, json_)

    of_metrics(opening, y, how, measure, "fit", out, json_)


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
    from metascale.cli.series import fit_series
    from metascale.cli.surfaces import fit_surfaces
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
    rest |= {"n_bootstrap": options["n_bootstrap"], "seed": options["seed"]}
    if len(scales) > 1:
        _require_rows_alike(replicate, options["weights"])
        return fit_surfaces(opened, scales, rest, out, json_)
    return fit_series(opened, opening, {**rest, "weights": options["weights"]}, out, json_)


def _named_scales(opened: Prepared, asked: Sequence[str], x: Sequence[str], law: str) -> tuple[str, ...]:
    """The scales that were named, the study's, or the columns that a formula names; empty where they are guessed."""
    from metascale.laws.expression import as_name, is_formula, names_in
    from metascale.laws.table import guess_one, size_names

    if asked and not x:
        return (guess_one(opened.table, size_names(opened.table), "model size", "x"), *asked)
    if not opened.scales and is_formula(law):
        named = names_in(law)
        found = tuple(name for name in opened.table.names if as_name(name) in named and name != opened.loss)
        if not found:
            raise InputError(
                f"the law '{law}' names no column of {opened.table.source}; columns: {', '.join(opened.table.names)}",
                field="law", value=law,
            )  # fmt: skip
        return found
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


def _require_scales(x: Sequence[str] | None, x2: str | None, x3: str | None) -> tuple[str, ...]:
    """The scales that were named; refuses a third one without a second, and one that is named twice."""
    if x2 is None and x3 is not None and len(x or ()) < 2:
        raise InputError("--x3 is the third scale: it needs --x2, the second, as well")
    names = (*(x or ()), *filter(None, (x2, x3)))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"`x` names '{twice}' twice; every scale is named once", field="x", value=twice)
    return names


def forecast(
    table: TablePath,
    to: To = None,
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
    schedule: ScheduleText = None,
    level: Level = 0.90,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Predict the loss of a new run beyond the table, with an interval that widens with the distance."""
    from metascale.cli.curves import forecast_curves
    from metascale.cli.metrics import forecast_shares, of_metrics, share_options
    from metascale.cli.scales import forecast_scales
    from metascale.cli.series import forecast_series
    from metascale.laws.metrics import share_metric

    opening = Opening(table, x or (), group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column))
    how = share_options(kind, chance, trials, via)
    if schedule is not None:
        forecast_curves(opening, y, how, schedule, to or (), level, out, json_)
        return
    if not to:
        raise InputError("`to` is missing: give the scale to predict the loss at", field="to")

    def measure(name: str | None, part: Part, folder: Path | None) -> dict[str, Any]:
        opened, own = part_of(opening, part).open(name if part.how.via is None else part.how.via), part.how
        metric = share_metric(opened, own, name)
        _refuse_noise(opened, metric)
        if metric is not None:
            return forecast_shares(opened, metric, own, to, level, folder, json_)
        if len(opened.scales) > 1:
            return forecast_scales(opened, to, replicate, level, folder, json_)
        return forecast_series(opened, to, replicate, level, folder, json_)

    of_metrics(opening, y, how, measure, "forecast", out, json_)


def _refuse_noise(opened: Prepared, metric: object) -> None:
    """Refuse known errors of shares, and in several scales, whose forms weigh every row alike."""
    from metascale.laws.evaluation import refuse_noise

    if metric is not None or len(opened.scales) > 1:
        refuse_noise(opened.noise)


def backtest(
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
    kind: Kind = None,
    chance: Chance = None,
    trials: Trials = None,
    via: Via = None,
    level: Level = 0.90,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Hide the largest scales and compare how well every family, the forecast and the baselines predict them."""
    from metascale.cli.metrics import backtest_shares, of_metrics, share_options
    from metascale.cli.scales import backtest_scales
    from metascale.cli.series import backtest_series
    from metascale.laws.metrics import share_metric

    opening = Opening(table, x or (), group, series, best_of, Chosen(run, replicate, checkpoints, rows, noise_column))

    def measure(name: str | None, part: Part, folder: Path | None) -> dict[str, Any]:
        opened, own = part_of(opening, part).open(name if part.how.via is None else part.how.via), part.how
        metric = share_metric(opened, own, name)
        _refuse_noise(opened, metric)
        if metric is not None:
            return backtest_shares(opened, metric, own, level, folder, json_)
        if len(opened.scales) > 1:
            return backtest_scales(opened, level, folder, json_)
        return backtest_series(opened, replicate, level, folder, json_)

    of_metrics(opening, y, share_options(kind, chance, trials, via), measure, "backtest", out, json_)


def optimum(
    table: TablePath,
    compute: Compute,
    n: SizeName = None,
    d: TokensName = None,
    y: YName = None,
    group: Group = None,
    series: Series = None,
    best_of: BestOf = None,
    run: RunName = None,
    checkpoints: Checkpoints = False,
    rows: Rows = None,
    noise_column: NoiseColumn = None,
    cost: CostName = None,
    law: SurfaceName = "auto",
    objective: ObjectiveName = None,
    level: Level = 0.90,
    gpu_flops: GpuFlops = None,
    utilisation: Utilisation = 0.4,
    seed: Seed = 0,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Estimate the compute-optimal model size and tokens of a budget, with intervals, by three approaches."""
    from metascale.cli.scales import objective_of, print_json
    from metascale.cli.surfaces import best_split

    chosen = Chosen(run, None, checkpoints, rows, noise_column)
    opened = Opening(table, (n, d) if n and d else (), group, series, best_of, chosen).open(y)
    if len(opened.scales) > 1 and not (n or d):
        n, d = opened.scales[:2]
    options = {"law": law, "seed": seed, "objective": objective_of(objective)}
    asked = {"level": level, "flops_per_second": gpu_flops, "utilisation": utilisation, "cost": cost}
    records = best_split(opened, compute, (n, d), options, asked, out, json_)
    if json_:
        print_json(records)
