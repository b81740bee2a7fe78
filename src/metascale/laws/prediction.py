"""What every law, forecast and allocation predicts: a median and an interval a row, and the rows it was asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from metascale.core.errors import InputError
from metascale.core.files import write_atomic
from metascale.core.notebook import Told
from metascale.core.optional import require
from metascale.laws.observations import Array, Mask
from metascale.laws.table import PER_SIZE, Table, read_table, tokens_of_compute

if TYPE_CHECKING:
    import pandas

_SHOWN = 20


@dataclass(frozen=True)
class Prediction(Told):
    """Losses at rows of scales ``x`` [m, d]: median and the ends of the interval for one new run, each [m].

    Attributes:
        beyond: [m] the factor by which the farthest scale of the row is outside the table's range; 1 inside.
        by: which law, or which laws together, predict.
    """

    x: Array
    median: Array
    low: Array
    high: Array
    level: float
    beyond: Array
    x_names: tuple[str, ...]
    loss_name: str
    by: str = ""

    def __len__(self) -> int:
        return len(self.median)

    @property
    def outside(self) -> Mask:
        return np.asarray(self.beyond > 1 + 1e-9)

    @property
    def columns(self) -> list[str]:
        """The names in `rows`."""
        return [*self.x_names, "median", "low", "high", "beyond"]

    def rows(self) -> list[dict[str, float]]:
        """One dict a row: its scales, then median, low, high and beyond."""
        columns = {name: self.x[:, k] for k, name in enumerate(self.x_names)}
        columns |= {"median": self.median, "low": self.low, "high": self.high, "beyond": self.beyond}
        return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(self))]

    def to_frame(self) -> pandas.DataFrame:
        """`rows` as a data frame of pandas.

        Raises:
            MissingDependency: pandas is not installed.
        """
        return require("pandas", "data", "a data frame").DataFrame(self.rows(), columns=self.columns)

    def to_csv(self, path: Path | str | None = None) -> str:
        """`rows` as CSV with all digits; written to ``path`` where one is given."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        if path is not None:
            write_atomic(Path(path), stream.getvalue())
        return stream.getvalue()

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level, "x_names": list(self.x_names), "loss_name": self.loss_name, "by": self.by,
            "rows": self.rows(),
        }  # fmt: skip

    def summary(self) -> str:
        """One line a row."""
        lines = [] if not self.by else [f"predicted by {self.by}; {100 * self.level:g} % intervals for one new run"]
        for row in self.rows()[:_SHOWN]:
            where = ", ".join(f"{name} {row[name]:.4g}" for name in self.x_names)
            far = f", {row['beyond']:.3g} times beyond the table" if row["beyond"] > 1 + 1e-9 else ""
            lines.append(f"{where}: {self.loss_name} {row['median']:.5g} ({row['low']:.5g} to {row['high']:.5g}){far}")
        if len(self) > _SHOWN:
            lines.append(f"... {len(self) - _SHOWN} more rows")
        return "\n".join(lines)


class Predictor(Protocol):
    """What predicts losses at rows of scales, with intervals for one new run."""

    @property
    def x_names(self) -> tuple[str, ...]: ...

    @property
    def loss_name(self) -> str: ...

    @property
    def by(self) -> str: ...

    def predict(self, points: Any, level: float = 0.90) -> Prediction: ...


def points_of(points: Any, names: Sequence[str]) -> Array:
    """[m, d] rows of scales from an array, one row or many by name, or anything that `read_table` reads.

    Raises:
        InputError: a scale is missing, a row has too many, or there is no row.
    """
    if isinstance(points, Mapping) and points and all(np.ndim(value) == 0 for value in points.values()):
        points = {name: [value] for name, value in points.items()}
    if isinstance(points, (str, Path, Table, Mapping)) or hasattr(points, "columns") or hasattr(points, "to_arrow"):
        return scales_in(read_table(points), names)
    if isinstance(points, Sequence) and points and all(isinstance(row, Mapping) for row in points):
        return scales_in(read_table(list(points)), names)
    try:
        rows = np.asarray(points, float)
    except (TypeError, ValueError) as error:
        raise InputError(f"the points are no numbers ({error}); give rows of {', '.join(names)}", field="x") from error
    if rows.ndim == 0 or (rows.ndim == 1 and len(names) > 1):
        rows = rows.reshape(1, -1)
    if rows.size == 0:
        raise InputError("there is no row to predict", field="x")
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] != len(names):
        raise InputError(f"a row has {rows.shape[1]} scales; the law needs {', '.join(names)}", field="x")
    return rows


def scales_in(table: Table, names: Sequence[str]) -> Array:
    """[m, d] the scales of a law in a table of points; tokens of a law that was fitted on compute by size and compute.

    Raises:
        InputError: the table has no rows, or lacks a column.
    """
    if table.n_rows == 0:
        raise InputError(f"{table.source} has no rows", field="points")
    return np.column_stack([_scale(name, names[0], table) for name in names])


def _scale(name: str, size: str, table: Table) -> Array:
    if name in table.names:
        return table.numbers(name)
    compute = name.removesuffix(PER_SIZE)
    needed = (compute, size) if compute != name else (name,)
    missing = next((column for column in needed if column not in table.names), None)
    if missing is not None:
        raise InputError(f"{table.source} has no column '{missing}', which the law needs; it has "
                         f"{', '.join(table.names)}", field="points", value=missing)  # fmt: skip
    return tokens_of_compute(compute, table.numbers(size), table.numbers(compute))
