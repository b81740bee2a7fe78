"""Tuned hyperparameters: what the searches of a study tried and found, and the loss against each of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator

from metascale.core.columns import TUNING_JSON
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import Cell, Draw, PageTable, Picture, Section, reading, table, text_column
from metascale.report.study import ReportStudy, StudySource, open_study
from metascale.report.words import axis_label, measured, number, numbers
from metascale.study.search.search import SearchResult, Tried
from metascale.study.search.space import dimension_from_json

LABELS = {"lr": "learning rate", "weight_decay": "weight decay", "batch_size": "batch size"}
LOG_RANGE = 10.0
"""Values that span more than this factor are drawn on a logarithmic axis."""
SHOWN_EXCESS = 2.0
"""Excess losses (ln) above this are drawn at the top edge."""


@dataclass(frozen=True, slots=True)
class TuningTable:
    """Every searched point of a study; none where nothing was tuned.

    ``ranges`` are what the searches were allowed, by hyperparameter, where the study says it.
    """

    points: tuple[SearchResult, ...]
    ranges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The tuned hyperparameters."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.values))

    @property
    def n_attempts(self) -> int:
        return sum(len(point.tried) for point in self.points)


def tuning_data(source: StudySource) -> TuningTable:
    """The searches of a study, from its tuning.json.

    Raises:
        CorruptFile: tuning.json is not what `conclude` writes.
    """
    study = open_study(source)
    path = study.folder / TUNING_JSON
    if not path.exists():
        return TuningTable(())
    stored = read_json(path)
    search = study.base.get("tune")
    space = search.get("space") if isinstance(search, Mapping) else None
    try:
        return TuningTable(tuple(map(SearchResult.from_json, stored)), dict(space or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is not a list of searched points with values, loss, tried and edges") from error


def edges_used(table: TuningTable, values: Mapping[str, float | None]) -> dict[str, str]:
    """Which of the hyperparameters that a trial used lie at an end of their range, found there or brought by a rule."""
    found: dict[str, str] = {}
    for name, range_ in table.ranges.items():
        value = values.get(name)
        edge = None if value is None else dimension_from_json(name, range_).edge(value)
        if edge is not None:
            found[name] = edge
    return found


def label_of(name: str) -> str:
    """Words for a hyperparameter."""
    return LABELS.get(name, name.replace("_", " "))


def name_of(point: SearchResult) -> str:
    """A searched point in words."""
    return ", ".join(f"{axis_label(key)} {value}" for key, value in point.point.items()) or "all"


def excess(point: SearchResult, attempt: Tried) -> float | None:
    """ln of an attempt's loss over the best of its point; ``None`` where it has no loss."""
    if attempt.loss is None or attempt.loss <= 0 or point.loss <= 0:
        return None
    return math.log(attempt.loss / point.loss)


def plot_tuned(table: TuningTable, ax: Axes, *, name: str, compact: bool = False) -> Axes:
    """Excess loss of every attempt against one hyperparameter; rings are the best of each point, red at an edge.

    Points of the study are told apart by shade, from the first to the last.
    """
    shown = [point for point in table.points if name in point.values]
    if not shown:
        return style.nothing(ax, f"{name} was not tuned")
    values = sorted({one.values[name] for point in shown for one in point.tried if name in one.values}, key=_place)
    places = _places(values)
    colours = style.ramp(len(shown))
    for point, colour in zip(shown, colours, strict=True):
        for one in point.tried:
            above = excess(point, one)
            if above is None or name not in one.values:
                continue
            faint = one.status == "pruned"
            (dot,) = ax.plot(
                places[_key(one.values[name])], min(above, SHOWN_EXCESS), "x" if faint else "o", color=colour,
                markersize=3.4, alpha=0.5 if faint else 0.7, markeredgewidth=0.9 if faint else 0,
            )  # fmt: skip
            ended = ", ended early" if faint else ""
            tip(dot, f"{name_of(point)}: {label_of(name)} {_text(one.values[name])}, loss {measured(one.loss)}{ended}")
        at_edge = name in point.edges
        (ring,) = ax.plot(
            places[_key(point.values[name])], 0.0, "o", markersize=7 if at_edge else 5.5, zorder=4,
            color=style.VERMILION if at_edge else colour, markeredgecolor=style.PAPER, alpha=0.9,
        )  # fmt: skip
        edge = f", at the {point.edges[name]} end of its range" if at_edge else ""
        tip(
            ring,
            f"{name_of(point)}: best {label_of(name)} {_text(point.values[name])}, loss {measured(point.loss)}{edge}",
        )
    _ticks(ax, values, places, next(iter(table.ranges.get(name, ())), None))
    ax.set_ylim(-0.1, SHOWN_EXCESS * 1.05)
    ax.axhline(0.0, color=style.SOFT, linewidth=0.8)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    n_edges = sum(name in point.edges for point in shown)
    title = label_of(name).capitalize() + (f": {n_edges} of {len(shown)} at an edge" if n_edges else "")
    return style.finish(ax, title, label_of(name), "ln (loss / best at its point)", compact)


def _ticks(ax: Axes, values: Sequence[Any], places: Mapping[str, float], kind: str | None) -> None:
    """The axis of its range: logarithmic, linear, or names for texts and few choices.

    Where the range is not known, numbers that span much are drawn on a logarithmic axis.
    """
    if not all(_number(value) for value in values) or len(values) <= 5:
        at = [places[_key(value)] for value in values]
        ax.set_xlim(-0.5, len(values) - 0.5)
        ax.xaxis.set_major_locator(FixedLocator(at))
        ax.xaxis.set_major_formatter(FixedFormatter(style.spaced(ax, at, [_text(value) for value in values], 9.5)))
        return
    low, high = float(values[0]), float(values[-1])
    if low > 0 and (kind == "log" or (kind is None and high / low > LOG_RANGE)):
        decades = [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        ticks = [tick for tick in decades if low <= tick <= high]
        ticks = ticks if len(ticks) >= style.FEWEST_TICKS else style.round_ticks(low, high)
        style.log_x_ticks(ax, [low, high])
        labels = style.spaced(ax, [math.log(tick) for tick in ticks], numbers(ticks), 9.5, math.log)
        shown = [tick for tick, label in zip(ticks, labels, strict=True) if label]
        style.set_ticks(ax.xaxis, ticks, shown)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=style.FEWEST_TICKS))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def _places(values: Sequence[Any]) -> dict[str, float]:
    """Where each value is drawn: at itself, or in equal steps for texts and few choices."""
    if all(_number(value) for value in values) and len(values) > 5:
        return {_key(value): float(value) for value in values}
    return {_key(value): float(place) for place, value in enumerate(values)}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _place(value: Any) -> tuple[str, float, str]:
    return ("", float(value), "") if _number(value) else (str(type(value)), 0.0, str(value))


def _key(value: Any) -> str:
    return repr(value)


def _text(value: Any) -> str:
    return number(value) if _number(value) else str(value)


def tuning(study: ReportStudy) -> Section:
    """Every searched point with its best values, and how the loss depends on each hyperparameter."""
    found = tuning_data(study)
    if not found.points:
        return Section("tuning", "Tuned hyperparameters")
    n_edges = sum(bool(point.edges) for point in found.points)
    text = (
        f"{found.n_attempts} trials searched {', '.join(label_of(name) for name in found.names)} at "
        f"{len(found.points)} {'point' if len(found.points) == 1 else 'points'}, by validation loss; the test set was "
        "not touched. "
    )
    text += (
        f"At {n_edges} of them a best value lies at an end of its range: a better one may lie beyond."
        if n_edges
        else "No best value lies at an end of its range."
    )
    return Section("tuning", "Tuned hyperparameters", (text, _picture(found), best_table(found)))


def _picture(found: TuningTable) -> Picture:
    def draw(name: str) -> Draw:
        return lambda ax, compact: plot_tuned(found, ax, name=name, compact=compact)

    caption = (
        "Each mark is a trial of a search: ln of its validation loss over the best at its point; crosses were stopped "
        "early; losses above the axis are drawn at its top. Large dots on the line: the best of each point, red at an "
        "end of the range."
    )
    return Picture("tuning", caption, tuple(map(draw, found.names)), same_y=True)


def best_table(found: TuningTable) -> PageTable:
    """The best values of every searched point."""
    rows = []
    for point in found.points:
        values = [_value(point.values.get(name), point.edges.get(name)) for name in found.names]
        counts = ", ".join(f"{count} {status}" for status, count in Counter(one.status for one in point.tried).items())
        rows.append([Cell(name_of(point)), *values, reading(point.loss), Cell(counts)])
    columns = ["point", *map(label_of, found.names), "validation loss"]
    caption = "Best values of each searched point; ▲ and ▼: at the upper or lower end of the range."
    return table(caption, [*columns, text_column("trials")], rows)


def _value(value: Any, edge: str | None) -> Cell:
    mark = {"low": " ▼", "high": " ▲"}.get(edge or "", "")
    return Cell(number(value) + mark, float(value)) if _number(value) else Cell(f"{value}{mark}")
