"""Hide the largest scales of a share: how its law, every shape alone and the baselines would have predicted them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, logit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.backtesting import FORECAST, cuts_at, draw_rows, interval_quality, means_of, table_of
from metascale.laws.corners import CornerTest, corners
from metascale.laws.fitting import log_scales, require_level
from metascale.laws.observations import Array, Mask, as_json
from metascale.laws.share_analysis import ShareAnalysis
from metascale.laws.shares import Metric
from metascale.laws.two_steps import TaskAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECT = "without the loss"
_FEWEST = 1e-3  # share of successes, or of failures, from which the tail line takes its odds
Refit = Callable[[Mask], ShareAnalysis | TaskAnalysis]
Bands = tuple[Array, Array, Array]


@dataclass(frozen=True)
class ShareBacktestRow:
    """One predictor at one cut; ``rmse`` and ``interval_score`` in the unit of the column, otherwise as of
    `metascale.laws.backtesting.BacktestRow`."""

    predictor: str
    horizon: float
    n_seen: int
    n_hidden: int
    rmse: float | None
    coverage: float | None
    interval_score: float | None

    @property
    def error(self) -> float | None:
        return self.rmse


@dataclass(frozen=True)
class ShareBacktest(Shown):
    """Every predictor of a share at every cut; "forecast" is what `forecast` predicts by."""

    rows: tuple[ShareBacktestRow, ...]
    level: float
    x_name: str
    metric: Metric

    def means(self) -> dict[str, dict[str, float | None]]:
        """Per predictor the means over the cuts at which enough scales are left for it."""
        return means_of(self.rows, "rmse")

    def to_json(self) -> dict[str, Any]:
        """As that of `metascale.laws.Backtest`, with the errors' unit."""
        unit = "per cent" if self.metric.unit > 1 else "share"
        return {"rows": as_json(self.rows), "level": self.level, "x_name": self.x_name, "loss_name": self.metric.name,
                "unit": unit, "means": self.means()}  # fmt: skip

    def summary(self) -> str:
        """A table: one line a predictor, one column a cut, with the coverage of the interval in brackets."""
        return table_of(self.rows, f"rmse of {self.metric.name}", self.level)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Error against horizon, one line a predictor."""
        return draw_rows(self.rows, f"rmse of {self.metric.name}", ax)


def backtest_shares(
    x: Array, values: Array, x_names: tuple[str, ...], metric: Metric, refits: Mapping[str, Refit], level: float = 0.90
) -> ShareBacktest | CornerTest:
    """Hide the largest scales, in several scales the expensive corners, and predict what was hidden.

    Args:
        x: [n, d] scales; values: [n] of the column, NaN where unknown.
        refits: by the name of a predictor, the law of the rows that are kept. The first is `FORECAST`; shapes are those
            of the last, which is a law of the share itself.

    Raises:
        InputError: fewer than 4 distinct scales (3 to see and 1 to hide), or no corner to hide.
    """
    require_level(level)
    known = np.isfinite(values)
    if x.shape[1] > 1:
        return _corner_test(x, values, known, metric, refits, level)
    rows: list[ShareBacktestRow] = []
    for cut in cuts_at(x[:, 0]):
        hidden = cut.hidden & known
        if not hidden.any() or not (cut.seen & known).any():
            continue
        at, truth = x[hidden], values[hidden]
        said: dict[str, Bands | None] = {**_laws(refits, cut.seen, at, level), **_baselines(
            x[cut.seen & known, 0], metric.successes(values[cut.seen & known]), at[:, 0], metric
        )}  # fmt: skip
        n_hidden = len(np.unique(at[:, 0]))
        rows += [ShareBacktestRow(name, cut.horizon, cut.n_scales, n_hidden, *_quality(truth, bands, level))
                 for name, bands in said.items()]  # fmt: skip
    if not rows:
        raise InputError(
            f"the table has {len(np.unique(x[known, 0]))} distinct values of '{x_names[0]}'; a backtest needs at least "
            "4 (3 to see and 1 to hide)"
        )
    return ShareBacktest(_filled(rows), level, x_names[0], metric)


def _laws(refits: Mapping[str, Refit], seen: Mask, at: Array, level: float) -> dict[str, Bands | None]:
    """Median, low and high of every law of the rows that are seen, and of every shape of the last one alone."""
    said: dict[str, Bands | None] = {}
    for name, refit in refits.items():
        try:
            law = refit(seen)
        except InputError:
            said[name] = None
            continue
        ahead = law.predict(at, level)
        said[name] = (ahead.median, ahead.low, ahead.high)
        if isinstance(law, ShareAnalysis):
            said |= {shape: _alone(law, shape, at, level) for shape in law.fits}
    return said


def _alone(law: ShareAnalysis, shape: str, at: Array, level: float) -> Bands:
    """One shape that never doubts itself."""
    ahead = replace(law.predictor_of([shape], [1.0]), growth=0.0).predict(at, level)
    return ahead.median, ahead.low, ahead.high


def _baselines(x: Array, successes: Array, at: Array, metric: Metric) -> dict[str, Bands | None]:
    """The mean at the largest scale, and a straight line of the odds in ln x through the last octave, at least two
    scales."""
    t, levels = log_scales(x, 1)[:, 0], np.unique(log_scales(x, 1)[:, 0])
    odds = logit(np.clip(successes, _FEWEST, 1 - _FEWEST))
    last = np.full(len(at), successes[t == levels[-1]].mean())
    found = {"last value": last}
    if len(levels) > 1:
        tail = t >= min(levels[-1] - np.log(2.0) - 1e-9, levels[-2] - 1e-12)
        slope, constant = np.polyfit(t[tail] - levels[-1], odds[tail], 1)
        found["tail line"] = expit(constant + slope * (log_scales(at, 1)[:, 0] - levels[-1]))
    written = {name: metric.written(line) for name, line in found.items()}
    return {name: (line, line, line) for name, line in written.items()}


def _quality(truth: Array, bands: Bands | None, level: float) -> tuple[float | None, float | None, float | None]:
    """Root mean square error, coverage and interval score; of a baseline, which has no interval, the first alone."""
    if bands is None:
        return None, None, None
    error = float(np.sqrt(np.mean((bands[0] - truth) ** 2)))
    return (error, None, None) if bands[1] is bands[2] else (error, *interval_quality(truth, *bands[1:], level))


def _filled(rows: list[ShareBacktestRow]) -> tuple[ShareBacktestRow, ...]:
    """Every predictor at every cut, empty where too few scales are seen, in the order of the longest cut."""
    cuts = {(row.horizon, row.n_seen): row.n_hidden for row in rows}
    fullest = max(cuts, key=lambda cut: sum((row.horizon, row.n_seen) == cut for row in rows))
    names = dict.fromkeys(row.predictor for row in rows if (row.horizon, row.n_seen) == fullest)
    known = {(row.predictor, row.horizon, row.n_seen): row for row in rows}
    return tuple(
        known.get((name, *cut)) or ShareBacktestRow(name, *cut, n_hidden, None, None, None)
        for cut, n_hidden in cuts.items() for name in names
    )  # fmt: skip


def _corner_test(
    x: Array, values: Array, known: Mask, metric: Metric, refits: Mapping[str, Refit], level: float
) -> CornerTest:
    """In several scales: the law and every shape of it on each hidden corner."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    hidden_rows: dict[str, int] = {}
    for name, kept in corners(x):
        hidden = ~kept & known
        if not hidden.any():
            continue
        said = {one: bands for one, bands in _laws(refits, kept, x[hidden], level).items() if bands is not None}
        if FORECAST in said:
            tested = {one: _quality(values[hidden], bands, level) for one, bands in said.items()}
            found[name] = {one: (error or 0.0, covered or 0.0) for one, (error, covered, _) in tested.items()}
            hidden_rows[name] = int(hidden.sum())
    if not found:
        raise InputError(f"a table of {int(known.sum())} rows has no corner to hide; it needs more rows", field="x")
    parts = list(found.values())
    shared = [one for one in parts[0] if one != FORECAST and all(one in part for part in parts)]
    return CornerTest(
        tuple(found), {one: tuple(part[one][0] for part in parts) for one in shared},
        tuple(part[FORECAST][0] for part in parts), tuple(part[FORECAST][1] for part in parts),
        tuple(hidden_rows.values()), level, "identity", metric.name,
    )  # fmt: skip
