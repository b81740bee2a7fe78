"""Laws that were written to a file: what they say, and the same predictions as before, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.corners import choose
from metascale.laws.forecasting import SeriesPredictor
from metascale.laws.mixture import Mixture
from metascale.laws.observations import observe
from metascale.laws.picture import BLUE, LawPicture, axis_or_new, draw_band, finish, plot_law
from metascale.laws.prediction import Prediction, Predictor
from metascale.laws.record import (
    Band,
    Interval,
    LawRecord,
    PredictorRecord,
    Trend,
    load_records,
    read_laws,
    save_record,
)
from metascale.laws.schedule_predictor import SCHEDULE_LINK, SchedulePredictor
from metascale.laws.share_predictor import LINKS, SharePredictor
from metascale.laws.two_steps import LossPredictor, TaskPredictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SavedLaw(Shown):
    """A law from a file: its record, and what predicts."""

    law_record: LawRecord
    predictor: Predictor

    @property
    def parameters(self) -> Mapping[str, Interval]:
        return self.law_record.parameters

    @property
    def trend(self) -> Trend:
        return self.law_record.trend

    @property
    def verdict(self) -> str:
        return self.law_record.verdict

    def predict(self, points: Any, level: float = 0.90, at: ArrayLike | None = None) -> Prediction:
        """Median and interval for one new run at each row: an array, or what `read_table` reads.

        Args:
            points: of a law of schedules a schedule (`metascale.laws.Schedule.read`).
            at: steps of the schedule, by default its end.

        Raises:
            InputError: the law has no such scales, or ``at`` and the law is none of schedules.
        """
        if isinstance(self.predictor, SchedulePredictor):
            return self.predictor.predict(points, level, at)
        if at is not None:
            raise InputError(f"`at` is for laws of schedules, and '{self.law_record.law}' is none", field="at")
        return self.predictor.predict(points, level)

    def record(self) -> LawRecord:
        return self.law_record

    def save(self, path: Path | str) -> None:
        """Write the law again."""
        save_record(path, self.law_record)

    def to_json(self) -> dict[str, Any]:
        return self.law_record.to_json()

    def summary(self) -> str:
        record = self.law_record
        lines = [record.verdict, ""] if record.verdict else []
        lines.append(f"law {record.law}: {record.formula}    ({record.n_observations} rows)")
        for name, part in record.parameters.items():
            ends = f"{100 * record.level:g} % interval {part.low:.6g} to {part.high:.6g}"
            lines.append(f"  {name:<8} {part.estimate:<14.8g} {ends}")
        return "\n".join([*lines, f"predictions by {self.predictor.by}", *(f"  note: {note}" for note in record.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Of a law in one scale its curve, runs and forecast; of several, predictions along the first one; of a law of
        schedules its longest run."""
        if isinstance(self.predictor, SchedulePredictor):
            steps, losses = self.predictor.longest
            return plot_law(LawPicture.of(self.law_record, steps, losses), ax)
        share = isinstance(self.predictor, (TaskPredictor, SharePredictor))
        base = self.predictor.loss if isinstance(self.predictor, TaskPredictor) else self.predictor
        if isinstance(base, SeriesPredictor):
            table = base.observations
            if self.law_record.curve is not None and not share:
                return plot_law(LawPicture.of(self.law_record, table.x[:, 0], table.loss), ax)
            rows = np.geomspace(table.x.min(), 2 * table.x.max(), 60)[:, None]
        else:
            assert isinstance(base, (Mixture, SharePredictor))
            sites = base.sites
            middle = sites[int(np.argmin(np.abs(sites - np.median(sites, axis=0)).sum(1)))]
            rows = np.repeat(np.exp(middle)[None], 60, 0)
            rows[:, 0] = np.geomspace(base.low[0], 2 * base.high[0], 60)
        found = self.predict(rows)
        held = ", ".join(f"{name} {rows[0, k]:.4g}" for k, name in enumerate(found.x_names) if k)
        ax, band = axis_or_new(ax), Band.of(rows[:, 0], found.median, found.low, found.high)
        draw_band(ax, band, BLUE, "one run (90 %)" + (f" at {held}" if held else ""))
        return finish(
            ax, found.x_names[0], found.loss_name, y_scale="linear" if share or min(band.median) <= 0 else "log"
        )


def saved_law(record: LawRecord) -> SavedLaw:
    """The law that a record holds, its predictor with it."""
    return SavedLaw(record, predictor_of(record))


def load_saved(path: Path | str) -> dict[str, SavedLaw]:
    """By group, the laws of a file that ``save`` wrote or a folder that `fit` wrote; a single one has the empty name.

    Raises:
        InputError: no such file, no file of a law, or one of a later version. CorruptFile: it was changed.
    """
    found = _laws_in(Path(path)) if Path(path).is_dir() else load_records(path)
    return {name: saved_law(record) for name, record in found.items()}


def _laws_in(folder: Path) -> dict[str, LawRecord]:
    found = read_laws(folder)
    if not found:
        raise InputError(f"there is no law in '{folder}'; write one with `metascale fit` and this output folder")
    return found


def predictor_of(record: LawRecord) -> Predictor:
    """The predictor that a law's record holds.

    Raises:
        InputError: it holds none (a file of an earlier version, or of a study).
    """
    stored = record.predictor
    if stored is None:
        raise InputError(
            "the law holds no predictor, as those of studies and of earlier versions do not; fit its table (of a study "
            "its results.csv) into a folder of its own, and predict from there"
        )
    if stored.via is not None:
        loss = _of_loss(stored.via)
        return TaskPredictor(loss, SharePredictor.of(replace(stored, x_names=(loss.loss_name,))))
    if stored.link == SCHEDULE_LINK:
        return SchedulePredictor.of(stored)
    return SharePredictor.of(stored) if stored.link in LINKS else _of_loss(stored)


def _of_loss(stored: PredictorRecord) -> SeriesPredictor | Mixture:
    return SeriesPredictor.from_record(stored) if stored.x else Mixture.of(stored)


def predictor_of_loss(
    x: ArrayLike, loss: ArrayLike, names: Sequence[str], loss_name: str, run: ArrayLike | None = None
) -> LossPredictor:
    """What predicts a loss at new scales: the forecast in one scale, the joined forms in several.

    Args:
        x: [n, d] scales of the rows ``names``; loss: [n], rows without a number left out.

    Raises:
        InputError: the table is too small for a forecast.
    """
    losses = np.asarray(loss, float)
    known, rows = np.isfinite(losses), np.asarray(x, float).reshape(len(losses), -1)
    table = observe(
        rows[known], losses[known], x_name=tuple(names), loss_name=loss_name, signed=len(names) > 1,
        run=None if run is None else np.asarray(run)[known], replicate=np.arange(int(known.sum())),
    )  # fmt: skip
    if len(names) > 1:
        return choose(table).mixture
    if table.n_scales < 3:
        raise InputError(f"the table has {table.n_scales} distinct values of '{names[0]}'; a forecast needs at least 3")
    return SeriesPredictor.of(table)


def read_predictors(folder: Path) -> dict[str, Predictor]:
    """By series, the predictors of a folder that ``fit`` wrote, or of a file that ``save`` wrote; "" of a single one.

    Raises:
        InputError: there is no law in the folder, or no predictor in it.
        CorruptFile: a file is damaged.
    """
    if folder.is_file():
        return {name: law.predictor for name, law in load_saved(folder).items()}
    return {name: predictor_of(record) for name, record in _laws_in(folder).items()}


def with_predictor(record: LawRecord, predictor: SeriesPredictor | Mixture) -> LawRecord:
    """The record from which the law can be loaded and predicts."""
    return replace(record, predictor=predictor.record())


def saved_record(law: Any) -> LawRecord:
    """The record of a law with what predicts."""
    record: LawRecord = law.record()
    return record if record.predictor is not None else with_predictor(record, law.predictor)
