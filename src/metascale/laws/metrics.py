"""Metrics of a table that are shares, or shares read off a loss: from prepared rows, or arrays, to their laws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws.backtesting import FORECAST
from metascale.laws.corners import CornerTest
from metascale.laws.observations import Array, Mask
from metascale.laws.predicting import predictor_of_loss
from metascale.laws.prepared import Columns, Prepared, groups_of
from metascale.laws.share_analysis import ShareAnalysis, analyse_shares
from metascale.laws.share_backtest import DIRECT, Refit, ShareBacktest, backtest_shares
from metascale.laws.shares import Metric, metric_of
from metascale.laws.table import guess_loss, guess_scale, losses, naming
from metascale.laws.two_steps import TaskAnalysis, link_task

SHARE_LAWS = ("auto", "logistic")
_OF_SHARES = ("chance", "trials", "via")


@dataclass(frozen=True)
class ShareOptions:
    """What `fit` and `forecast` know of a metric.

    Attributes:
        kind: "share", "error" (a share of failures) or "loss", whatever the column is called.
        chance: what guessing has; trials: the column of the numbers of questions, or one number.
        via: the column of the loss that the share is read off.
    """

    kind: str | None = None
    chance: float | None = None
    trials: Any = None
    via: Any = None

    @property
    def given(self) -> str | None:
        """The first that only a share has a use for."""
        return next((name for name in _OF_SHARES if getattr(self, name) is not None), None)

    def of(self, name: str, values: ArrayLike, law: str = "auto") -> Metric | None:
        """How the metric is a share, or None for a loss.

        Raises:
            InputError: a column's name in the place of losses, an option that only shares have, on a loss; or a law
                that is none of a share.
        """
        if isinstance(values, str):
            raise InputError(
                f"`loss` is an array of losses, not '{values}'; the column of a table is named by `y`", field="loss"
            )
        known = np.asarray(values, float)
        metric = None
        if law in SHARE_LAWS or self.kind in ("share", "error") or self.given is not None:
            kind = "share" if law == "logistic" and self.kind is None else self.kind
            metric = metric_of(name, known[np.isfinite(known)], kind)
        if metric is None and self.given is not None:
            raise InputError(
                f"`{self.given}` is for shares such as accuracies, and '{name}' is read as a loss; `kind` says "
                "otherwise", field=self.given,
            )  # fmt: skip
        if metric is not None and law not in SHARE_LAWS:
            raise InputError(
                f"the law '{law}' is not for shares such as '{name}'; allowed are: {', '.join(SHARE_LAWS)} "
                "(or `kind` loss)",
                field="law", value=law, allowed=", ".join(SHARE_LAWS),
            )  # fmt: skip
        return metric


def share_metric(found: Prepared, options: ShareOptions, y: str | None, law: str = "auto") -> Metric | None:
    """How the metric of a table is a share; None for a loss.

    Raises:
        InputError: options that do not fit the metric, or ``via`` without the name of a share.
    """
    if y is None and options.via is not None:
        raise InputError(f"`y` is missing: name the share that is read off '{options.via}'", field="y")
    name = y or found.loss or guess_loss(found.table)
    found.table.column(name)
    values, _ = losses(found.table, name)
    return options.of(name, values, law)


def analyse_metric(
    found: Prepared, metric: Metric, options: ShareOptions, level: float = 0.95
) -> Iterator[tuple[str, ShareAnalysis | TaskAnalysis, Columns]]:
    """The law of a share in every group of a table, by its name; with ``via`` in two steps."""
    for group, columns in metric_columns(found, metric, options):
        with naming(group):
            _require_change(metric, columns.table.numbers(metric.name))
            law = _law_of(columns, metric, options, level)
        yield group, law, columns


def _require_change(metric: Metric, values: Array) -> None:
    """Shares that are all nothing, or all whole, say no more than that: their odds are infinite.

    Raises:
        InputError: every share is the same end of the range.
    """
    known = np.unique(values[np.isfinite(values)])
    if len(known) == 1 and known[0] in (0, metric.unit):
        raise InputError(
            f"'{metric.name}' is {known[0]:g} in every row: nothing says where it changes; add scales at which it is "
            f"between 0 and {metric.unit:g}", field="y", value=metric.name,
        )  # fmt: skip


def metric_columns(found: Prepared, metric: Metric, options: ShareOptions) -> Iterator[tuple[str, Columns]]:
    """Every group's columns: of the share, or of the loss that it is read off."""
    name = options.via or metric.name
    scales = found.scales or (guess_scale(found.table, name),)
    return groups_of(replace(found, loss=name), scales)


def _law_of(
    columns: Columns, metric: Metric, options: ShareOptions, level: float = 0.95
) -> ShareAnalysis | TaskAnalysis:
    table, trials = columns.table, _trials_in(columns, options.trials)
    shared = {"metric": metric, "chance": options.chance, "trials": trials, "level": level,
              "loss_name": metric.name, "notes": table.notes}  # fmt: skip
    if options.via is None:
        return analyse_shares(columns.x, columns.loss, x_name=columns.names, **shared)
    first = predictor_of_loss(columns.x, columns.loss, columns.names, columns.loss_name, columns.run)
    return link_task(first, columns.loss, table.numbers(metric.name), n_loss_rows=len(columns.loss), **shared)


def backtest_metric(
    prepared: Prepared, metric: Metric, options: ShareOptions, level: float
) -> Iterator[tuple[str, ShareBacktest | CornerTest, Columns]]:
    """Every group's backtest of a share; of one that is read off a loss, both ways."""
    direct = replace(options, via=None)
    for group, columns in metric_columns(prepared, metric, options):
        values = columns.table.numbers(metric.name)
        of_share = replace(columns, loss=values, loss_name=metric.name)

        ways = {FORECAST: _refit(columns if options.via else of_share, metric, options)}
        ways |= {DIRECT: _refit(of_share, metric, direct)} if options.via else {}
        with naming(group):
            found = backtest_shares(columns.x, values, columns.names, metric, ways, level)
        yield group, found, columns


def _refit(columns: Columns, metric: Metric, options: ShareOptions) -> Refit:
    known = np.isfinite(columns.loss)
    return lambda kept: _law_of(columns.keep(kept & known), metric, options)


def _trials_in(columns: Columns, trials: Any) -> Any:
    return columns.table.numbers(trials) if isinstance(trials, str) else trials


def analyse_arrays(
    x: ArrayLike, values: ArrayLike, metric: Metric, options: ShareOptions, names: tuple[str, ...], **more: Any
) -> ShareAnalysis | TaskAnalysis:
    """The same of arrays; ``via`` is then [n] losses."""
    _require_change(metric, np.asarray(values, float))
    return _law_of_arrays(x, values, metric, options, names, **more)


def _law_of_arrays(
    x: ArrayLike, values: ArrayLike, metric: Metric, options: ShareOptions, names: tuple[str, ...], **more: Any
) -> ShareAnalysis | TaskAnalysis:
    shared = {"metric": metric, "chance": options.chance, "trials": options.trials, "loss_name": metric.name, **more}
    if options.via is None:
        return analyse_shares(x, values, x_name=names, **shared)
    via = np.asarray(options.via, float)
    return link_task(predictor_of_loss(np.asarray(x, float), via, names, "loss"), via, values, **shared)


def backtest_arrays(
    x: ArrayLike, values: ArrayLike, metric: Metric, options: ShareOptions, names: tuple[str, ...], level: float
) -> ShareBacktest | CornerTest:
    """The same of arrays."""
    shares = np.asarray(values, float)
    rows = np.asarray(x, float).reshape(len(shares), -1)

    def refit(how: ShareOptions) -> Refit:
        def law(kept: Mask) -> ShareAnalysis | TaskAnalysis:
            seen = kept & (np.isfinite(shares) | (how.via is not None))
            via = None if how.via is None else np.asarray(how.via, float)[seen]
            trials = np.asarray(how.trials)[seen] if np.ndim(how.trials) else how.trials
            return _law_of_arrays(rows[seen], shares[seen], metric, replace(how, via=via, trials=trials), names)

        return law

    ways = {FORECAST: refit(options)}
    ways |= {DIRECT: refit(replace(options, via=None))} if options.via is not None else {}
    return backtest_shares(rows, shares, names, metric, ways, level)
