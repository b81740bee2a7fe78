"""Approaches 1 and 2 of Hoffmann et al. (2022), the envelope and IsoFLOP parabolas, and whether all three agree.

Known bias of approach 2: a parabola in ln N is only the second-order picture of a valley whose sides differ when α ≠ β,
and a grid of sizes that is not centred on the minimum shifts it. Levels whose lowest loss is at the edge of the grid
are therefore left out and counted, and only the points around the minimum enter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from metascale.core.errors import InputError
from metascale.core.notebook import Shown
from metascale.laws.allocation import Optimum
from metascale.laws.observations import Array, as_json, observe
from metascale.laws.picture import BLUE, axis_or_new, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Allocation(Shown):
    """N_opt ∝ C^a from the optima of several compute levels.

    Attributes:
        compute, n_params, loss: [levels] the optimum of each level used.
        exponent, log_coefficient: of the line ln N_opt = b + a ln C; ``interval`` of a at ``level``.
        skipped: how many levels were left out, with the reason in ``notes``.
    """

    approach: str
    compute: Array
    n_params: Array
    loss: Array
    exponent: float
    log_coefficient: float
    interval: tuple[float, float]
    level: float
    skipped: int
    notes: tuple[str, ...]

    def predict(self, compute: ArrayLike) -> Array:
        """N_opt at budgets ``compute``."""
        return np.asarray(np.exp(self.log_coefficient + self.exponent * np.log(np.asarray(compute, float))))

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        found = {**as_json(self), "exponent": {"estimate": self.exponent, "low": low, "high": high}}
        del found["interval"]
        return found

    def summary(self) -> str:
        lines = [f"{'compute':>12}{'N_opt':>14}{'loss':>10}"]
        for compute, size, loss in zip(self.compute, self.n_params, self.loss, strict=True):
            lines.append(f"{compute:>12.4g}{size:>14.5g}{loss:>10.5g}")
        low, high = self.interval
        lines.append(
            f"{self.approach}: N_opt grows as C^{self.exponent:.4f} ({100 * self.level:g} % {low:.4f} to {high:.4f}), "
            f"{len(self.compute)} levels used, {self.skipped} left out"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """The optima and their line."""
        ax = axis_or_new(ax)
        ax.plot(self.compute, self.n_params, "o", ms=4, color="#4c566a", label=self.approach)
        ax.plot(self.compute, self.predict(self.compute), color=BLUE, label=f"C^{self.exponent:.3f}")
        return finish(ax, "compute (FLOPs)", "N")


def isoflop(
    compute: ArrayLike, n_params: ArrayLike, loss: ArrayLike, *, level: float = 0.95, rise: float = 0.05
) -> Allocation:
    """Approach 2: a parabola of ln loss in ln N at every compute level, and a line through the minima.

    Args:
        compute, n_params, loss: [n] one row a run; runs of one level have the same compute (to 1 %).
        rise: sizes around the lowest loss enter the parabola while their ln loss is within ``rise`` of it (and one size
            on either side always): further out a valley is not a parabola.

    Raises:
        InputError: fewer than 3 levels have a minimum inside their grid.
    """
    if not rise > 0:
        raise InputError(f"rise is {rise}; it must be a positive difference of ln loss")
    table = observe(np.column_stack([compute, n_params]), loss, x_name=("compute", "n_params"))
    log_c, log_n, log_loss = table.log_x[:, 0], table.log_x[:, 1], table.log_loss
    breaks = np.flatnonzero(np.diff(log_c) > 0.01) + 1
    found, edge, few = [], 0, 0
    for rows in np.split(np.arange(table.n), breaks):
        sizes, index = np.unique(log_n[rows], return_inverse=True)
        values = np.bincount(index, weights=log_loss[rows]) / np.bincount(index)
        if len(sizes) < 3:
            few += 1
            continue
        best = int(np.argmin(values))
        if best in (0, len(sizes) - 1):
            edge += 1
            continue
        vertex = _vertex(sizes, values, best, rise)
        if vertex is None:
            edge += 1
            continue
        found.append((float(log_c[rows].mean()), *vertex))
    notes = []
    if edge:
        notes.append(f"{edge} levels left out: the lowest loss is at the edge of their sizes")
    if few:
        notes.append(f"{few} levels left out: fewer than 3 sizes")
    return _line("isoFLOP parabolas", found, level, edge + few, notes)


def _vertex(sizes: Array, values: Array, best: int, rise: float) -> tuple[float, float] | None:
    """Minimum of the parabola through the sizes around the lowest loss."""
    first, last = best - 1, best + 1
    while first > 0 and values[first - 1] < values[best] + rise:
        first -= 1
    while last < len(sizes) - 1 and values[last + 1] < values[best] + rise:
        last += 1
    part = slice(first, last + 1)
    centre = sizes[best]
    bend, slope, constant = np.polyfit(sizes[part] - centre, values[part], 2)
    if bend <= 0:
        return None
    shift = -slope / (2 * bend)
    if not sizes[part][0] <= centre + shift <= sizes[part][-1]:
        return None
    return float(centre + shift), float(constant - slope**2 / (4 * bend))


def envelope(
    compute: ArrayLike, n_params: ArrayLike, loss: ArrayLike, *, level: float = 0.95, bins_per_decade: int = 4
) -> Allocation:
    """Approach 1: in every bin of compute the run with the lowest loss, and a line through their sizes.

    Raises:
        InputError: fewer than 3 bins hold runs on the envelope.
    """
    table = observe(np.column_stack([compute, n_params]), loss, x_name=("compute", "n_params"))
    log_c, log_n, log_loss = table.log_x[:, 0], table.log_x[:, 1], table.log_loss
    bins = np.floor(log_c / np.log(10) * bins_per_decade).astype(int)
    found, best_so_far, dominated = [], np.inf, 0
    for value in np.unique(bins):
        rows = np.flatnonzero(bins == value)
        row = rows[np.argmin(log_loss[rows])]
        if log_loss[row] >= best_so_far:
            dominated += 1  # a smaller budget already did better: not on the envelope
            continue
        best_so_far = float(log_loss[row])
        found.append((float(log_c[row]), float(log_n[row]), best_so_far))
    notes = [f"{dominated} bins left out: a smaller budget did better"] if dominated else []
    return _line("envelope", found, level, dominated, notes)


def _line(
    approach: str, found: list[tuple[float, float, float]], level: float, skipped: int, notes: list[str]
) -> Allocation:
    if len(found) < 3:
        raise InputError(
            f"{approach}: {len(found)} compute levels have an optimum inside their sizes ({skipped} do not); at least "
            "3 are needed"
        )
    log_c, log_n, log_loss = (np.array(column) for column in zip(*found, strict=True))
    centred = log_c - log_c.mean()
    slope = float(centred @ log_n / (centred @ centred))
    constant = float(log_n.mean() - slope * log_c.mean())
    residual = log_n - constant - slope * log_c
    freedom = len(found) - 2
    error = float(np.sqrt(residual @ residual / freedom / (centred @ centred)))
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Allocation(
        approach, np.exp(log_c), np.exp(log_n), np.exp(log_loss), slope, constant, (slope - reach, slope + reach),
        level, skipped, tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class CrossCheck(Shown):
    """The parametric exponent beside those of IsoFLOP parabolas and the envelope.

    Attributes:
        others: the approaches that the table allows; ``refused``: the reason for each that it does not.
    """

    parametric: Optimum
    others: tuple[Allocation, ...]
    refused: dict[str, str]

    def at_budget(self, other: Allocation) -> tuple[float, float, float]:
        """N_opt of another approach at the largest budget and the ends of its interval, from that of its line."""
        compute = float(self.parametric.compute.max())
        size = float(other.predict([compute])[0])
        reach = np.log(compute) - float(np.log(other.compute).mean())
        ends = [size * float(np.exp((end - other.exponent) * reach)) for end in other.interval]
        return size, min(ends), max(ends)

    def agrees(self, other: Allocation) -> bool:
        """Whether another approach's optimum at the largest budget lies in the parametric interval, or the parametric
        one in its; intervals that merely overlap are no agreement."""
        size, low, high = self.at_budget(other)
        ours = {key: float(self.parametric.n_params[key][int(np.argmax(self.parametric.compute))])
                for key in ("estimate", "low", "high")}  # fmt: skip
        return ours["low"] <= size <= ours["high"] or low <= ours["estimate"] <= high

    def to_json(self) -> list[dict[str, Any]]:
        return [{**other.to_json(), "agrees": self.agrees(other)} for other in self.others]

    def summary(self) -> str:
        lines = [f"{name}: not applicable ({reason})" for name, reason in self.refused.items()]
        for other in self.others:
            low, high = other.interval
            size, least, most = self.at_budget(other)
            ours = float(self.parametric.n_params["estimate"][int(np.argmax(self.parametric.compute))])
            lines.append(
                f"{other.approach}: N_opt ~ C^{other.exponent:.4f} ({100 * other.level:g} % {low:.4f} to {high:.4f}); "
                f"at {self.parametric.compute.max():.3g} {self.parametric.cost.unit} N = {size:.3g} "
                f"({least:.3g} to {most:.3g}), "
                f"{'agrees' if self.agrees(other) else 'DISAGREES'} with the parametric {ours:.3g}"
            )
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The parametric frontier with its interval, and the optima of the other approaches."""
        ax = self.parametric.plot(ax)
        for k, other in enumerate(self.others):
            ax.plot(other.compute, other.n_params, "o", ms=4, color=f"C{k + 1}", label=other.approach)
            ax.plot(other.compute, other.predict(other.compute), "--", lw=1, color=f"C{k + 1}")
        ax.legend(frameon=False, fontsize=8)
        return ax


def cross_check(
    n_params: ArrayLike, tokens: ArrayLike, loss: ArrayLike, parametric: Optimum, compute: ArrayLike | None = None
) -> CrossCheck:
    """Run the IsoFLOP parabolas and the envelope on a table of runs, beside its parametric optimum.

    Args:
        compute: [n] what the runs cost; by default what the optimum's cost law says.
    """
    compute = parametric.cost.of(n_params, tokens) if compute is None else compute
    others: list[Allocation] = []
    refused = {}
    for name, approach in (("isoFLOP parabolas", isoflop), ("envelope", envelope)):
        try:
            others.append(approach(compute, n_params, loss, level=parametric.level))
        except InputError as error:
            refused[name] = str(error)
    return CrossCheck(parametric, tuple(others), refused)
