"""From scale to loss to task: a law for the loss, then a logistic link from the loss to the share, errors of both.

What the loss of a new run may be comes from the forecast of the loss (in several scales the joined forms); what its
share may be at that loss from the link. Forecasts join the two, and show what each would leave alone (Gadre et al.
2024, Language models scale reliably with over-training and on downstream tasks; Bhagia et al. 2024, Establishing task
scaling laws via compute-efficient model ladders).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.fitting import require_level
from metascale.laws.observations import Array
from metascale.laws.prediction import Prediction, Predictor
from metascale.laws.record import Interval, LawRecord, PredictorRecord, save_record
from metascale.laws.share_analysis import ShareAnalysis, analyse_shares
from metascale.laws.share_predictor import DRAWS, SharePredictor

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
FEWEST_PAIRS = 4  # distinct losses with a share beside them


class LossPredictor(Predictor, Protocol):
    """A `Predictor` of the loss that a file can hold."""

    def record(self) -> PredictorRecord: ...


@dataclass(frozen=True, kw_only=True)
class TaskPrediction(Prediction):
    """A share of one new run at every row of scales, read off its loss; all [m].

    Attributes:
        loss, loss_low, loss_high: of the loss of the run.
        from_loss: (low, high) of the share if the link were known; from_link: if the loss were.
    """

    via: str
    loss: Array
    loss_low: Array
    loss_high: Array
    from_loss: tuple[Array, Array]
    from_link: tuple[Array, Array]

    @property
    def columns(self) -> list[str]:
        """The names in `rows`."""
        return list(self._columns())

    def rows(self) -> list[dict[str, float]]:
        """One dict a row: with the loss of the run, and the intervals that either step would leave alone."""
        columns = self._columns()
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self))]

    def _columns(self) -> dict[str, Array]:
        return {
            **{name: self.x[:, k] for k, name in enumerate(self.x_names)},
            "median": self.median, "low": self.low, "high": self.high, "beyond": self.beyond,
            self.via: self.loss, f"{self.via}_low": self.loss_low, f"{self.via}_high": self.loss_high,
            "low_from_loss": self.from_loss[0], "high_from_loss": self.from_loss[1],
            "low_from_link": self.from_link[0], "high_from_link": self.from_link[1],
        }  # fmt: skip

    def summary(self) -> str:
        """One line a row: the share, its interval, the loss, and what each step contributes."""
        percent, lines = f"{100 * self.level:g} %", []
        for i, row in enumerate(self.x):
            where = ", ".join(f"{name} {value:.4g}" for name, value in zip(self.x_names, row, strict=True))
            lines += [
                f"{where}: {self.loss_name} {self.median[i]:.4g} ({percent} interval for one run {self.low[i]:.4g} to "
                f"{self.high[i]:.4g})",
                f"  {self.via} {self.loss[i]:.5g} ({self.loss_low[i]:.5g} to {self.loss_high[i]:.5g}); error of the "
                f"loss alone {self.from_loss[0][i]:.4g} to {self.from_loss[1][i]:.4g}, of the link alone "
                f"{self.from_link[0][i]:.4g} to {self.from_link[1][i]:.4g}",
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class TaskPredictor:
    """The predictor of the loss and the link, which is a share against the loss itself."""

    loss: LossPredictor
    link: SharePredictor

    @property
    def x_names(self) -> tuple[str, ...]:
        return self.loss.x_names

    @property
    def loss_name(self) -> str:
        return self.link.loss_name

    @property
    def by(self) -> str:
        """Which laws predict."""
        return f"{self.loss.loss_name}, itself by {self.loss.by}, and {self.link.by}"

    def predict(self, points: Any, level: float = 0.90) -> TaskPrediction:
        """Median and interval of one new run at scales [m] or rows [m, d], with the error of both steps."""
        require_level(level)
        ahead = self.loss.predict(points, level)
        losses = self._losses(ahead.x)
        both = self.link.written_quantiles(*self.link.draws(losses[:, :, None]), level)
        middle = np.asarray(ahead.median)[:, None]
        by_link = self.link.written_quantiles(*self.link.draws(middle), level)
        known = replace(
            self.link, covariance=np.zeros_like(self.link.covariance), between=0.0, trials=np.inf, growth=0.0
        )
        by_loss = known.written_quantiles(*known.draws(losses[:, :, None]), level)
        return TaskPrediction(
            ahead.x, both[0], both[1], both[2], level, ahead.beyond, self.x_names, self.loss_name, self.by,
            via=self.loss.loss_name, loss=ahead.median, loss_low=ahead.low, loss_high=ahead.high,
            from_loss=by_loss[1:], from_link=by_link[1:],
        )  # fmt: skip

    def _losses(self, x: ArrayLike) -> Array:
        """[DRAWS, m] losses of one new run, of equal probability, in an order of their own."""
        shares, ends = [0.5], [self.loss.predict(x, _LEVELS[0]).median]
        for level in _LEVELS:
            found = self.loss.predict(x, level)
            shares += [(1 - level) / 2, (1 + level) / 2]
            ends += [found.low, found.high]
        order = np.argsort(shares)
        at, values = np.array(shares)[order], np.maximum.accumulate(np.array(ends)[order], axis=0)
        wanted = (np.random.default_rng(311).permutation(DRAWS) + 0.5) / DRAWS
        return np.column_stack([np.interp(wanted, at, values[:, j]) for j in range(values.shape[1])])

    def record(self) -> PredictorRecord:
        return replace(self.link.record(), x_names=self.x_names, via=self.loss.record())


@dataclass(frozen=True)
class TaskAnalysis(Shown):
    """A share read off a loss: ``link`` has the share against the loss, ``loss`` predicts that from the scales."""

    link: ShareAnalysis
    loss: LossPredictor
    n_loss_rows: int
    notes: tuple[str, ...]

    @property
    def predictor(self) -> TaskPredictor:
        return TaskPredictor(self.loss, self.link.predictor)

    @property
    def parameters(self) -> dict[str, Interval]:
        """Of the link."""
        return self.link.parameters

    @property
    def verdict(self) -> str:
        return f"{self.loss.loss_name} predicted from {', '.join(self.loss.x_names)}; {self.link.verdict}"

    def predict(self, points: Any, level: float = 0.90) -> TaskPrediction:
        """Median and interval of one new run at scales [m] or rows [m, d], with the error of both steps."""
        return self.predictor.predict(points, level)

    def save(self, path: Path | str) -> None:
        """Write both steps to a file, from which `metascale.laws.load_law` predicts the same."""
        save_record(path, self.record())

    def summary(self) -> str:
        link = self.link.summary().split("\n", 2)[2]
        scales = ", ".join(self.loss.x_names)
        first = f"step 1: {self.loss.loss_name} from {scales}, the forecast of {self.n_loss_rows} runs"
        return "\n".join([self.verdict, "", first, "step 2:", link, *(f"  note: {note}" for note in self.notes)])

    def record(self) -> LawRecord:
        return replace(
            self.link.record(), x_names=self.loss.x_names, trends={}, trend="unknown", curve=None, verdict=self.verdict,
            predictor=self.predictor.record(), notes=(*self.link.notes, *self.notes),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        found = self.record().to_json()
        found.pop("predictor", None)
        return {**found, "via": self.loss.loss_name, "chance": self.link.chance, "between_runs": self.link.fit.between}

    def plot(self, ax: Any = None) -> Any:
        """The share against the loss."""
        return self.link.plot(ax)


def link_task(
    first: LossPredictor,
    loss: ArrayLike,
    values: ArrayLike,
    *,
    loss_name: str = "accuracy",
    n_loss_rows: int | None = None,
    notes: Sequence[str] = (),
    **options: Any,
) -> TaskAnalysis:
    """Fit the link from a loss to a share, and join it to what predicts that loss.

    Args:
        first: predicts the loss from scales (`metascale.laws.predicting.predictor_of_loss`).
        loss: [n] losses, NaN where unknown; values: [n] shares, NaN where unknown; loss_name: what they are called.
        options: metric, kind, chance, trials and level of `metascale.laws.share_analysis.analyse_shares`.

    Raises:
        InputError: too few rows that have both.
    """
    losses, shares, via = np.asarray(loss, float), np.asarray(values, float), first.loss_name
    paired = np.isfinite(losses) & np.isfinite(shares)
    if len(np.unique(losses[paired])) < FEWEST_PAIRS:
        raise InputError(
            f"'{loss_name}' and '{via}' are both known in {int(paired.sum())} rows; a link from loss to share needs "
            f"at least {FEWEST_PAIRS} different losses", field="via", value=via,
        )  # fmt: skip
    trials = options.pop("trials", None)
    if trials is not None and np.ndim(trials):
        trials = np.asarray(trials, float)[paired]
    link = analyse_shares(
        losses[paired], shares[paired], x_name=via, loss_name=loss_name, trials=trials, log=False, **options
    )
    slope = float(link.fit.slopes[0])
    said = () if slope < 0 else (f"the odds of '{loss_name}' do not fall as '{via}' grows: the link has no use here",)
    return TaskAnalysis(link, first, n_loss_rows or int(paired.sum()), (*notes, *said))
