"""The runs of a study by point of its axes: one point is one configuration, with a run for every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metascale.core.canonical import canonical_json
from metascale.laws.held_out import Replicates
from metascale.report.reading import StudyFolder, Trial, axis_label, axis_values, finite, loss_column, x_column
from metascale.report.series import series_of
from metascale.report.words import number


@dataclass(frozen=True, slots=True)
class Point:
    """The runs at one point of the axes, in one series: ``name`` says where, ``trials`` are one a seed."""

    series: str
    name: str
    axes: Mapping[str, str]
    x: float
    losses: tuple[float, ...]
    trials: tuple[Trial, ...]

    @property
    def runs(self) -> Replicates:
        """What laws are fitted to: the scale and the losses."""
        return Replicates(self.x, self.losses, self.name)

    @property
    def mean(self) -> float:
        return self.runs.mean

    @property
    def spread(self) -> float:
        return self.runs.spread


def points_of(study: StudyFolder) -> list[Point]:
    """The finished runs by series and point of the axes."""
    x_name, loss, names = x_column(study), loss_column(study), series_of(study)
    axes = [name for name, values in axis_values(study).items() if len(values) > 1]
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.main:
        value = trial.number(loss)
        if trial.finished and trial.number(x_name) is not None and value is not None and value > 0:
            place = canonical_json([trial.cells.get(axis, "") for axis in axes])
            groups.setdefault((names[trial.id], place), []).append(trial)
    points = []
    for (series, _), trials in groups.items():
        here = {axis: trials[0].cells.get(axis, "") for axis in axes}
        told = {axis: value for axis, value in here.items() if axis not in ("method", *_named(study))}
        points.append(
            Point(
                series=series,
                name=", ".join(f"{axis_label(axis)} {_plain(value)}" for axis, value in told.items()) or series,
                axes=here,
                x=trials[0].number(x_name) or 0.0,
                losses=tuple(trial.number(loss) or 0.0 for trial in trials),
                trials=tuple(trials),
            )
        )
    return sorted(points, key=lambda point: (point.series, point.x, point.name))


def _named(study: StudyFolder) -> Sequence[str]:
    """Axes that the series' own name tells."""
    named = study.config.get("series")
    return named if isinstance(named, (list, tuple)) else ()


def _plain(cell: str) -> str:
    """A cell of results.csv for reading: numbers without a needless fraction."""
    value = finite(cell)
    return cell if value is None else number(value)
