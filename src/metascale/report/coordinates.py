"""The coordinate check of μP, drawn from its rows: do activations change alike in training, however wide the model?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_atomic
from metascale.report.style import (
    INK,
    PAPER,
    finish,
    log_label,
    log_x_ticks,
    log_y_ticks,
    new_figure,
    nothing,
    pad_y,
    png_bytes,
    ramp,
    styled,
    tip,
)
from metascale.report.words import decimals, number

FILE, PLOT = "coordinates.json", "coordinates.png"
STANDARD, MUP = "standard", "mup"
TITLES = {STANDARD: "Standard", MUP: "μP"}
LOGITS = "logits"
GROWS = 0.3
"""An exponent of the width above which a change counts as growing."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One activation after ``step`` steps: mean |value| and mean |change since the start| over its coordinates."""

    width: int
    step: int
    name: str
    size: float
    change: float


@dataclass(frozen=True, slots=True)
class CoordinateTable:
    """The rows of each parameterisation, and what was run."""

    model: str
    steps: int
    rows: Mapping[str, tuple[Coordinate, ...]]

    def last(self, parameterisation: str) -> dict[str, list[tuple[int, float]]]:
        """(width, change) after the last step, ascending, by activation."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self.rows[parameterisation]:
            if row.step == self.steps:
                found.setdefault(row.name, []).append((row.width, row.change))
        return {name: sorted(pairs) for name, pairs in found.items()}

    def exponents(self, parameterisation: str) -> dict[str, float]:
        """Slope of ln change against ln width, by activation; those that did not move at all are left out."""
        slopes = {}
        for name, pairs in self.last(parameterisation).items():
            if all(change > 0 for _, change in pairs) and len(pairs) > 1:
                widths, changes = zip(*pairs, strict=True)
                slopes[name] = float(np.polyfit(np.log(widths), np.log(changes), 1)[0])
        return slopes

    def steepest(self, parameterisation: str) -> tuple[str, float]:
        """The activation whose change grows fastest with the width, and its exponent.

        Raises:
            InputError: nothing moved.
        """
        found = self.exponents(parameterisation)
        if not found:
            raise InputError("no activation changed in this check: give it a higher rate or more steps")
        return max(found.items(), key=lambda item: item[1])

    @property
    def verdict(self) -> str:
        """One sentence: whether each parameterisation keeps its changes."""
        parts = []
        for name in self.rows:
            layer, exponent = self.steepest(name)
            kept = "grows with" if exponent > GROWS else "does not grow with"
            parts.append(f"{TITLES[name]}: {layer} {kept} the width (exponent {decimals(exponent, 2)})")
        return "; ".join(parts) + "."


def read_coordinates(folder: Path | str) -> CoordinateTable:
    """The table in ``folder``.

    Raises:
        InputError: it holds no coordinates.json.
        CorruptFile: the file is not what the check writes.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise InputError(f"{folder} holds no {FILE}; `metascale coordinate-check` writes it")
    stored = read_json(path)
    try:
        rows: dict[str, list[Coordinate]] = {}
        for row in stored["rows"]:
            own = {name: row[name] for name in Coordinate.__dataclass_fields__}
            rows.setdefault(str(row["parameterisation"]), []).append(Coordinate(**own))
        return CoordinateTable(str(stored["model"]), int(stored["steps"]), {k: tuple(v) for k, v in rows.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} does not hold the rows of a coordinate check") from error


def plot_coordinates(table: CoordinateTable, ax: Axes, *, parameterisation: str, compact: bool = False) -> Axes:
    """Change of every activation after the last step against the width, both logarithmic; thick black: the logits."""
    found = {name: pairs for name, pairs in table.last(parameterisation).items() if all(c > 0 for _, c in pairs)}
    if not found:
        return nothing(ax, "No activation changed")
    layers = [name for name in found if name != LOGITS]
    colours = dict(zip(layers, ramp(len(layers)), strict=True)) | {LOGITS: INK}
    exponents = table.exponents(parameterisation)
    for name, pairs in found.items():
        widths, changes = (list(values) for values in zip(*pairs, strict=True))
        thick = name == LOGITS
        (line,) = ax.plot(
            widths, changes, "o-", color=colours[name], linewidth=2.4 if thick else 1.4, markersize=6 if thick else 4,
            markeredgecolor=PAPER, label=name, zorder=4 if thick else 2,
        )  # fmt: skip
        tip(line, f"{name}: exponent {decimals(exponents[name], 2)}")
    ax.set_yscale("log")
    log_x_ticks(ax, sorted({width for pairs in found.values() for width, _ in pairs}))
    pad_y(ax)
    log_y_ticks(ax)
    _, exponent = table.steepest(parameterisation)
    title = f"{TITLES[parameterisation]}, steepest: width^{decimals(exponent, 2)}"
    return finish(ax, title, "width (log scale)", log_label("mean |change of activation|"), compact)


def write_plot(table: CoordinateTable, folder: Path) -> Path:
    """``coordinates.png``: one panel a parameterisation, on one axis of changes."""
    with styled():
        figure, axes = new_figure(8.6, 4.6, columns=len(table.rows))
        for place, (ax, name) in enumerate(zip(axes, table.rows, strict=True)):
            plot_coordinates(table, ax, parameterisation=name)
            if place:
                ax.set_ylabel("")
        _key(axes)
        figure.supxlabel(
            f"{table.model}, after {number(table.steps)} Adam steps at one rate", x=0.012, ha="left", fontsize=8
        )
        data = png_bytes(figure)
    write_atomic(folder / PLOT, data)
    return folder / PLOT


def _key(axes: Sequence[Axes]) -> None:
    """Names of the layers, once, beside the last panel."""
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
