"""Predictions from a law that was written: for the rows of a table of scales, whatever the number of scales."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws.forecasting import forecast_table
from metascale.laws.mixture import Mixture, Prediction
from metascale.laws.observations import Observations, observe
from metascale.laws.record import LawRecord, PredictorRecord, read_laws

MOST_RUNS = 5000  # kept of a table in one scale


class Predictor(Protocol):
    """What predicts losses at rows of scales, with intervals for one new run."""

    @property
    def x_names(self) -> tuple[str, ...]: ...

    @property
    def loss_name(self) -> str: ...

    def predict(self, x: ArrayLike, level: float = 0.90) -> Prediction: ...


@dataclass(frozen=True)
class SeriesPredictor:
    """The forecast of a table in one scale (`metascale.laws.forecast`)."""

    observations: Observations

    @property
    def x_names(self) -> tuple[str, ...]:
        return self.observations.x_names

    @property
    def loss_name(self) -> str:
        return self.observations.loss_name

    def predict(self, x: ArrayLike, level: float = 0.90) -> Prediction:
        rows = np.asarray(x, float).reshape(-1)
        ahead = forecast_table(self.observations, rows, level)
        known = self.observations.x[:, 0]
        beyond = np.maximum(np.maximum(rows / known.max(), known.min() / rows), 1.0)
        return Prediction(
            rows[:, None], ahead.median, ahead.low, ahead.high, level, beyond, self.x_names, self.loss_name
        )

    def record(self) -> PredictorRecord:
        table = self.observations
        keep = np.unique(np.linspace(0, table.n - 1, min(table.n, MOST_RUNS)).astype(int))
        x, loss = table.x[keep, 0], table.loss[keep]
        return PredictorRecord(
            "log", table.x_names, table.loss_name, low=(float(x.min()),), high=(float(x.max()),),
            x=tuple(x.tolist()), loss=tuple(loss.tolist()),
        )  # fmt: skip


def predictor_of(record: LawRecord) -> Predictor:
    """The predictor that a law's record holds.

    Raises:
        InputError: it holds none (a file of an earlier version, or of a study).
    """
    stored = record.predictor
    if stored is None:
        raise InputError("the law holds no predictor; fit the table again into this folder")
    if stored.x:
        return SeriesPredictor(observe(stored.x, stored.loss, x_name=stored.x_names, loss_name=stored.loss_name))
    return Mixture.of(stored)


def read_predictors(folder: Path) -> dict[str, Predictor]:
    """By series, the predictors of a folder that ``fit`` wrote; a single one has the empty name.

    Raises:
        InputError: there is no law in the folder, or no predictor in it.
        CorruptFile: a file is damaged.
    """
    found = read_laws(folder)
    if not found:
        raise InputError(f"there is no law in '{folder}'; write one with `metascale fit` and this output folder")
    return {name: predictor_of(record) for name, record in found.items()}
