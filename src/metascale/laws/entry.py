"""`fit`, `forecast`, `backtest` and `optimum` of a path, a data frame, a mapping of columns, or plain arrays.

With the losses beside them the scales are arrays, and the functions are those of their own modules. Without, the first
argument is a table, whose columns are guessed and whose rows are chosen as on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws import allocation, analysis, backtesting, forecasting
from metascale.laws.allocation import Optimum
from metascale.laws.analysis import Analysis
from metascale.laws.backtesting import Backtest
from metascale.laws.corners import CornerTest, backtest_corners, choose
from metascale.laws.cost import SIX_N_D, CostLaw, fit_cost
from metascale.laws.evaluation import refuse_noise
from metascale.laws.fitting import LawFit
from metascale.laws.forecasting import Forecast
from metascale.laws.groups import Grouped, grouped
from metascale.laws.many import fit_each
from metascale.laws.metrics import (
    ShareOptions,
    analyse_arrays,
    analyse_metric,
    backtest_arrays,
    backtest_metric,
    share_metric,
)
from metascale.laws.multi_power import MULTI_POWER
from metascale.laws.predicting import SavedLaw, load_saved
from metascale.laws.prediction import Prediction
from metascale.laws.prepared import (
    Columns,
    Prepared,
    columns_of,
    forecast_data,
    groups_of,
    one_scale,
    prepare,
    run_labels,
)
from metascale.laws.scales import ScalesAnalysis
from metascale.laws.schedule_fit import ScheduleFit, fit_curves
from metascale.laws.schedule_predictor import CurvePrediction
from metascale.laws.several import ByGroup, ByMetric, Result, each_group, each_metric, parts_of
from metascale.laws.share_analysis import ShareAnalysis
from metascale.laws.share_backtest import ShareBacktest
from metascale.laws.shares import Metric
from metascale.laws.surface_fit import SurfaceAnalysis, analyse_surface
from metascale.laws.table import (
    ScaleColumns,
    Table,
    guess_loss,
    guess_one,
    losses,
    naming,
    read_table,
    size_names,
    sizes_and_tokens,
    split_table,
    standard_errors,
    without_blanks,
)
from metascale.laws.two_steps import TaskAnalysis, TaskPrediction
from metascale.laws.uncertainty import Bootstrap

Law = Analysis | SurfaceAnalysis | ScalesAnalysis | ShareAnalysis | TaskAnalysis | ScheduleFit
Ahead = Forecast | Prediction | TaskPrediction | CurvePrediction
COMPARED = ("auto", "power", "power_irreducible")  # the laws of which groups can be compared


def load_law(path: Path | str) -> SavedLaw | ByGroup[SavedLaw]:
    """A law that ``save`` wrote, or the laws of groups: no code of the file is run, and predictions are the same.

    Args:
        path: that file, or the folder that the command ``metascale fit`` wrote.

    Raises:
        InputError: there is no such file or no law in the folder, it is no file of a law, or one of a later version.
        CorruptFile: it was changed, or cut, since it was written.
    """
    return _only(load_saved(path))


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


Tested = Backtest | CornerTest | ShareBacktest
OF_ARRAYS = ("x_name", "loss_name", "notes")  # names that a law of arrays is told
OF_TABLES = ("series", "best_of", "run", "replicate", "checkpoints", "rows", "noise")


def _prepared(
    data: Any, x: str | Sequence[str] | None, y: str | None, group: str | None, options: dict[str, Any]
) -> tuple[Prepared, str | None]:
    """The rows to fit, and the column of repeats; what chooses rows is taken out of ``options``."""
    given = {name: options.pop(name) for name in OF_TABLES if name in options}
    for name in ("series", "best_of"):
        given[name] = _names(given.get(name))
    if group is not None and given["series"]:
        raise InputError("`group` and `series` cannot go together: `group` is a series whose exponents are compared")
    seed = given.pop("replicate", None)
    return prepare(read_table(data), _names(x), y, group=group, seed=seed, **given), seed


def _only(found: dict[str, Result], comparison: Grouped | None = None) -> Result | ByGroup[Result]:
    return found[""] if list(found) == [""] else ByGroup(found, comparison)


def fit(
    data: Any = None,
    loss: ArrayLike | None = None,
    *,
    x: Any = None,
    y: str | Sequence[str] | None = None,
    group: str | None = None,
    kind: str | None = None,
    chance: float | None = None,
    trials: Any = None,
    via: Any = None,
    **options: Any,
) -> Law | ByGroup[Law] | ByMetric[Law | ByGroup[Law]]:
    """Fit a law with intervals to a table or to arrays.

    Args:
        data: a table (see `read_table`); or, with ``loss`` [n], scales [n] or [n, d].
        x: columns of the scales, y: column of the loss; guessed where only one can be meant. Several columns ``y`` have
            a law each: the result is a mapping, and one that is refused does not lose the others.
        group: a column whose values have a law each; the result is then a mapping, and the exponents are compared.
        kind: "share" (of successes), "error" (a share of failures) or "loss"; by default told by name and values.
        chance: of a share what guessing has; trials: its numbers of questions, a column or one number.
        via: the column of a loss (of arrays [n] losses) that the share is read off, in two steps.
        options: of a table ``series``, ``best_of``, ``run``, ``replicate``, ``noise`` (columns), ``checkpoints`` and
            ``rows``, as `metascale.laws.prepared.prepare` says; of either `metascale.laws.analysis.fit`'s law, level,
            n_bootstrap, seed, objective, weights, bounds and fixed.

    Raises:
        InputError: the table cannot be read or fitted; the message says why.

    Example:
        >>> import numpy as np
        >>> n = np.geomspace(1e6, 1e9, 8)
        >>> fit({"tokens": n, "loss": 2 * n**-0.1}).trend
        'falls'
    """
    how = ShareOptions(kind, chance, trials, via)
    if loss is not None:
        scales = x if data is None else data
        metric = how.of(options.get("loss_name", "loss"), loss, options.get("law", "auto"))
        return analysis.fit(scales, loss, **options) if metric is None else _fit_arrays(
            scales, loss, metric, how, options)  # fmt: skip
    if options.get("law") == MULTI_POWER:
        curves: dict[str, Law] = {**_fit_curves(data, y, group, {**options, "x": x, **vars(how)})}
        return _only(curves)
    if y is not None and not isinstance(y, str):
        table = read_table(data)
        parts = parts_of(table, y, how)
        several = each_metric(y, lambda name: fit(
            table, x=x, y=name, group=group, **vars(parts[name].how), **parts[name].options(options)
        ))  # fmt: skip
        return cast("ByMetric[Law | ByGroup[Law]]", several)
    found, seed = _prepared(data, x, _row_loss(y, how), group, options)
    law = options.get("law", "auto")
    metric = share_metric(found, how, y, law)
    if metric is not None:
        refuse_noise(found.noise)
        level = _share_level(options)
        return _only({name: one for name, one, _ in analyse_metric(found, metric, how, level)})
    if len(found.scales) > 1:
        surfaces: dict[str, Law] = {**fit_each({
            name: {**part.data, "notes": part.table.notes, **options}
            for name, part in groups_of(found, found.scales)
        })}  # fmt: skip
        return _only(surfaces)
    columns = one_scale(found, seed)
    laws: dict[str, Law] = {**fit_each({
        name: {**part.data, "run": run_labels(part.table, found.run), "notes": part.table.notes, **options}
        for name, part in columns.split(found.group).items()
    })}  # fmt: skip
    comparison = None
    if found.group is not None and len(laws) > 1 and found.compared and law in COMPARED:
        given = {name: options[name] for name in ("level", "seed") if name in options}
        comparison = compare(columns, found.group, law, **given)
    return _only(laws, comparison)


def _fit_curves(data: Any, y: Any, group: str | None, given: Mapping[str, Any]) -> dict[str, ScheduleFit]:
    """The multi-power law of a long table of runs with their rates, by group."""
    if y is not None and not isinstance(y, str):
        raise InputError(f"the law '{MULTI_POWER}' is fitted to one loss; name it with `y`", field="y")
    allowed = ("law", "level", "run")
    other = next((name for name, value in given.items() if name not in allowed and value is not None), None)
    if other is not None:
        raise InputError(f"`{other}` is not for the law '{MULTI_POWER}'", field=other)
    return fit_curves(read_table(data), y, given.get("run"), given.get("level", 0.95), group)


def _row_loss(y: str | None, how: ShareOptions) -> str | None:
    """The column by which rows are chosen: of a share that is read off a loss, the loss."""
    return y if how.via is None else how.via


def _share_level(options: Mapping[str, Any]) -> float:
    """The level of the intervals, the only option of a fit that a share has as well; it draws no resamples.

    Raises:
        InputError: another one.
    """
    other = next((name for name in options if name not in ("level", "law", "n_bootstrap", "seed")), None)
    if other is not None:
        raise InputError(f"`{other}` is not for shares such as accuracies", field=other)
    return float(options.get("level", 0.95))


def _fit_arrays(scales: Any, loss: ArrayLike, metric: Metric, how: ShareOptions, options: dict[str, Any]) -> Law:
    rest = {name: value for name, value in options.items() if name not in OF_ARRAYS}
    more = {"level": _share_level(rest), "notes": options.get("notes", ())}
    return analyse_arrays(scales, loss, metric, how, _scale_names(scales, options), **more)


def _scale_names(scales: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Of arrays: ``x_name``, or x1, x2 ... where several have no names."""
    named = _names(options.get("x_name") or "x")
    n_axes = np.shape(scales)[1] if np.ndim(scales) == 2 else 1
    return named if len(named) == n_axes else tuple(f"x{k + 1}" for k in range(n_axes))


def fit_many(
    tables: Mapping[str, Any],
    *,
    x: str | Sequence[str] | None = None,
    y: str | None = None,
    **options: Any,
) -> ByGroup[Law]:
    """A law for each of many tables, solved side by side; the same laws as `fit` of one after another.

    Args:
        tables: by name, each what `read_table` reads. x, y, options: as in `fit`, the same for all.

    Raises:
        InputError: a table cannot be read or fitted; the message names it.
    """
    if not isinstance(tables, Mapping):
        raise InputError(f"`tables` must be a mapping of names to tables, not {type(tables).__name__}", field="tables")
    jobs: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        with naming(name):
            jobs[name] = _job(table, x, y, dict(options))
    laws: dict[str, Law] = {**fit_each(jobs)}
    return ByGroup(laws)


def _job(table: Any, x: str | Sequence[str] | None, y: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `metascale.laws.analysis.fit` for a table that is fitted beside others."""
    found, seed = _prepared(table, x, y, None, options)
    if share_metric(found, ShareOptions(None, None, None, None), y, options.get("law", "auto")) is not None:
        raise InputError("shares such as accuracies are fitted by `fit`", field="tables")
    if found.group is not None:
        raise InputError(f"the table has groups in '{found.group}'; give each as a table", field="tables")
    if len(found.scales) > 1:
        part = columns_of(found.table, found.scales, found.loss, found.run, found.noise)
        return {**part.data, "notes": part.table.notes, **options}
    columns = one_scale(found, seed)
    run = run_labels(columns.table, found.run)
    return {**columns.data, "run": run, "notes": columns.table.notes, **options}


def compare(columns: ScaleColumns, group: str, law: str, *, level: float = 0.95, seed: int = 0) -> Grouped:
    """The exponents of groups side by side, by a law of `COMPARED`; of "auto" those of power laws."""
    codes, names = columns.table.labels(group)
    labels = [names[code] for code in codes]
    data = {name: values for name, values in columns.data.items() if name != "noise"}
    return grouped(group=labels, law="power" if law == "auto" else law, level=level, seed=seed, **data)


def forecast(
    data: Any = None,
    loss: ArrayLike | None = None,
    at: Any = None,
    *,
    x: Any = None,
    y: str | Sequence[str] | None = None,
    group: str | None = None,
    level: float = 0.90,
    kind: str | None = None,
    chance: float | None = None,
    trials: Any = None,
    via: Any = None,
    **options: Any,
) -> Ahead | ByGroup[Ahead] | ByMetric[Ahead | ByGroup[Ahead]]:
    """Predict the loss of new runs beyond a table or arrays, with intervals that widen with the distance.

    Args:
        data, loss, x, y, group, kind, chance, trials, via, options: as in `fit`.
        at: scales [m] to predict at; rows [m, d] of several scales, in the columns ``x``; or a table of them by name.
            With ``law="multi_power"`` and a ``schedule`` (`metascale.laws.schedules.Schedule.read`) steps of it; its
            end by default.

    Raises:
        InputError: the table cannot be read, or is too small for a forecast; ``at`` is missing.
    """
    how = ShareOptions(kind, chance, trials, via)
    if options.get("law") == MULTI_POWER:
        schedule = options.pop("schedule", None)
        if schedule is None:
            raise InputError("`schedule` is missing: give the rates of the run to predict", field="schedule")
        fits = _fit_curves(data, y, group, {**options, "x": x, **vars(how)})
        runs: dict[str, Ahead] = {name: one.predict(schedule, at, level) for name, one in fits.items()}
        return _only(runs)
    if at is None:
        raise InputError("`at` is missing: give the scales to predict the loss at", field="at")
    if loss is not None:
        scales, metric = x if data is None else data, how.of(options.get("loss_name", "loss"), loss)
        if metric is not None:
            return _fit_arrays(scales, loss, metric, how, options).predict(at, level)
        return forecasting.forecast(scales, loss, at, level=level, **options)
    if y is not None and not isinstance(y, str):
        table = read_table(data)
        parts = parts_of(table, y, how)
        ahead = each_metric(y, lambda name: forecast(
            table, at=at, x=x, y=name, group=group, level=level, **vars(parts[name].how), **parts[name].options(options)
        ))  # fmt: skip
        return cast("ByMetric[Ahead | ByGroup[Ahead]]", ahead)
    found, seed = _prepared(data, x, _row_loss(y, how), group, options)
    metric = share_metric(found, how, y)
    if metric is not None:
        refuse_noise(found.noise)
        _share_level(options)
        return _only({
            name: one.predict(columns.places(found.scales or columns.names, at), level)
            for name, one, columns in analyse_metric(found, metric, how)
        })  # fmt: skip
    if len(found.scales) > 1:
        _require_none(options, found)
        surfaces: dict[str, Ahead] = each_group(
            groups_of(found, found.scales),
            lambda part: choose(part.observations()).mixture.predict(part.places(found.scales, at), level),
        )
        return _only(surfaces)
    curves: dict[str, Ahead] = each_group(
        one_scale(found, seed).split(found.group).items(),
        lambda part: forecasting.forecast(at=at, level=level, **forecast_data(part), **options),
    )
    return _only(curves)


def backtest(
    data: Any = None,
    loss: ArrayLike | None = None,
    *,
    x: Any = None,
    y: str | Sequence[str] | None = None,
    group: str | None = None,
    level: float = 0.90,
    kind: str | None = None,
    chance: float | None = None,
    trials: Any = None,
    via: Any = None,
    **options: Any,
) -> Tested | ByGroup[Tested] | ByMetric[Tested | ByGroup[Tested]]:
    """Hide the largest scales of a table or of arrays and compare what each predictor would have said.

    The arguments are those of `fit`; with several scales the expensive corners are hidden. Of shares errors are in the
    unit of the column, and one that is read off a loss is predicted both ways.

    Raises:
        InputError: the table cannot be read, or has too few scales.
    """
    how = ShareOptions(kind, chance, trials, via)
    if loss is not None:
        scales, metric = x if data is None else data, how.of(options.get("loss_name", "loss"), loss)
        if metric is None:
            return backtesting.backtest(scales, loss, level=level, **options)
        _share_level({name: value for name, value in options.items() if name not in OF_ARRAYS})
        return backtest_arrays(scales, loss, metric, how, _scale_names(scales, options), level)
    if y is not None and not isinstance(y, str):
        table = read_table(data)
        parts = parts_of(table, y, how)
        tested = each_metric(y, lambda name: backtest(
            table, x=x, y=name, group=group, level=level, **vars(parts[name].how), **parts[name].options(options)
        ))  # fmt: skip
        return cast("ByMetric[Tested | ByGroup[Tested]]", tested)
    found, seed = _prepared(data, x, _row_loss(y, how), group, options)
    metric = share_metric(found, how, y)
    if metric is not None:
        refuse_noise(found.noise)
        _share_level(options)
        return _only({name: one for name, one, _ in backtest_metric(found, metric, how, level)})
    if len(found.scales) > 1:
        _require_none(options, found)
        corners: dict[str, Tested] = each_group(
            groups_of(found, found.scales), lambda part: backtest_corners(part.observations(), level)
        )
        return _only(corners)
    curves: dict[str, Tested] = each_group(
        one_scale(found, seed).split(found.group).items(),
        lambda part: backtesting.backtest(level=level, **part.data, **options),
    )
    return _only(curves)


def _require_none(options: Mapping[str, Any], found: Prepared) -> None:
    refuse_noise(found.noise)
    if options:
        raise InputError(f"'{next(iter(options))}' is for tables with one scale", field=next(iter(options)))


def optimum(
    data: Any,
    compute: ArrayLike,
    *,
    n: str | None = None,
    d: str | None = None,
    y: str | None = None,
    group: str | None = None,
    law: str = "auto",
    level: float = 0.90,
    cost: str | CostLaw | None = None,
    **options: Any,
) -> Optimum | ByGroup[Optimum]:
    """Model size and tokens of least predicted loss at each budget, of a fitted law or of a table.

    Args:
        data: a law in (N, D) that was fitted, or its bootstrap; or a table (see `read_table`).
        compute: budgets in FLOPs, C = 6 N D, or in the unit of ``cost``.
        n, d, y: the columns of model size, tokens (or compute) and loss; guessed. group: as in `fit`.
        cost: the column of what a run cost (FLOPs, GPU-hours), to which a power law in N and D is fitted; of a fitted
            law what `metascale.laws.fit_cost` returns.
        options: of `metascale.laws.allocation.optimum`.

    Raises:
        InputError: no law in (N, D), a budget that its table cannot be asked about, or a cost that is no power law.
    """
    if isinstance(data, (LawFit, Bootstrap, SurfaceAnalysis)):
        if isinstance(cost, str):
            raise InputError("a fitted law has no columns: give `cost` as what `fit_cost` returns", field="cost")
        of = data.optimum if isinstance(data, SurfaceAnalysis) else partial(allocation.optimum, data)
        return of(compute, level=level, cost=cost or SIX_N_D, **options)
    found, _ = _prepared(data, (n, d) if n and d else None, y, group, options)
    fitted = {name: options.pop(name) for name in ("n_bootstrap", "seed", "objective") if name in options}

    def best(part: Table) -> Optimum:
        columns = sizes_of(part, n, d, found)
        surface = analyse_surface(**columns.data, notes=columns.table.notes, law=law, **fitted)
        return surface.optimum(compute, level=level, cost=cost_of(columns, cost), **options)

    return _only(each_group(split_table(found.table, found.group).items(), best))


def cost_of(columns: Columns, cost: str | CostLaw | None) -> CostLaw:
    """What a run of one group costs: 6 N D, or the law fitted to a column."""
    if cost is None or isinstance(cost, CostLaw):
        return cost or SIX_N_D
    return fit_cost(columns.x[:, 0], columns.x[:, 1], columns.table.numbers(cost), cost)


def sizes_of(part: Table, n: str | None, d: str | None, found: Prepared) -> Columns:
    """Model sizes, tokens and losses of one group."""
    loss = found.loss or guess_loss(part)
    size = n or guess_one(part, size_names(part), "model size", "n")
    if d is not None:
        part = without_blanks(part, (size, d, loss))
    sizes, tokens, name = sizes_and_tokens(part, size, d)
    values, loss_name = losses(part, loss)
    known = np.isfinite(sizes) & np.isfinite(tokens) & np.isfinite(values)
    if not known.all() and known.any():
        part = part.rows(known, f"{int((~known).sum())} rows left out: no number in {size}, {name} or {loss}")
    x = np.column_stack([sizes, tokens])[known]
    return Columns(
        part, x, values[known], (size, name), loss_name, np.arange(len(x)), run_labels(part, found.run),
        None if found.noise is None else standard_errors(part, found.noise, loss),
    )  # fmt: skip
