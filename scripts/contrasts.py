"""Differences between the methods of a recorded study along its scale, and where they change sign.

Methods of a seed share what the seed draws (which texts are clean, the order of batches), so they are paired by seed.
Intervals are over seeds: Student's t at each scale, and for the crossing a bootstrap of whole seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from metascale.core.streams import generator
from metascale.report.section import Cell, PageTable, Row, table, text_column
from metascale.report.words import interval, measured, method_label

RESAMPLES = 10_000
CONTRASTS: Mapping[str, Sequence[tuple[str, str]]] = {
    "noisy_labels": (
        ("reweight", "noisy"),
        ("reweight", "clean"),
        ("reweight", "then"),
        ("reweight_both", "both"),
        ("reweight_both", "clean"),
        ("reweight_both", "then"),
        ("then", "clean"),
    )
}
"""By recipe: which methods a page compares along the scale."""


@dataclass(frozen=True)
class Contrast:
    """One method's losses minus another's.

    Args:
        first, second: the methods.
        scales: [n] ascending.
        gaps: [n, seeds] differences of test losses (nats); below zero the first loses less.
    """

    first: str
    second: str
    scales: tuple[float, ...]
    gaps: np.ndarray

    def at(self, place: int) -> tuple[float, float, float]:
        """Mean over seeds and its 95 % interval at one scale."""
        found = self.gaps[place]
        half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
        return float(found.mean()), float(found.mean() - half), float(found.mean() + half)

    def crossing(self) -> tuple[float, float, float]:
        """The scale from which the first no longer loses less, and its 95 % interval.

        Zero: at no scale does it lose less; infinity: at all of them.
        """
        draws = generator(0, "contrast").integers(0, self.gaps.shape[1], (RESAMPLES, self.gaps.shape[1]))
        resampled = self.gaps[:, draws].mean(2)
        found = np.array([change_of_sign(self.scales, curve) for curve in resampled.T])
        low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
        return change_of_sign(self.scales, self.gaps.mean(1)), float(low), float(high)


def change_of_sign(scales: Sequence[float], gaps: np.ndarray) -> float:
    """Where ``gaps``, below zero at first, are first above it: interpolated in ln scale; 0 or ∞ if nowhere."""
    if gaps[0] >= 0:
        return 0.0
    above = np.flatnonzero(gaps >= 0)
    if not len(above):
        return math.inf
    k = int(above[0])
    share = gaps[k - 1] / (gaps[k - 1] - gaps[k])
    return float(scales[k - 1] * (scales[k] / scales[k - 1]) ** share)


def contrasts(
    rows: Iterable[Mapping[str, Any]], pairs: Sequence[tuple[str, str]], *, scale: str, series: str, loss: str
) -> list[Contrast]:
    """The contrasts of ``pairs`` from the rows of a table, one row a scale, method and seed."""
    losses = {(row[series], row[scale], row["seed"]): row[loss] for row in rows}
    scales = sorted({key[1] for key in losses})
    seeds = sorted({key[2] for key in losses})

    def of(method: str) -> np.ndarray:
        return np.array([[losses[method, value, seed] for seed in seeds] for value in scales])

    return [Contrast(first, second, tuple(scales), of(first) - of(second)) for first, second in pairs]


def contrasts_table(found: Sequence[Contrast], scale: str) -> PageTable:
    """A row a contrast; ``scale`` in words."""
    n_seeds = found[0].gaps.shape[1]
    caption = (
        f"Differences of test loss in nats, paired by seed, with 95 % intervals over {n_seeds} seeds (Student's t); "
        f"last: from how many {scale} on the first loses more (or less, where it says so), with a 95 % interval "
        f"({RESAMPLES:,} resamples of seeds)."
    )
    heads = [text_column("first − second"), *(f"{value:g}" for value in found[0].scales), "from"]
    return table(caption, heads, [_row(pair) for pair in found])


def contrasts_answer(found: Sequence[Contrast], scale: str) -> str:
    """What the first method's contrasts say, in a sentence."""
    own = [pair for pair in found if pair.first == found[0].first]
    first, last = own[0].scales[0], own[0].scales[-1]
    ends = "; ".join(f"than {method_label(pair.second)}: {_crossing(pair)}" for pair in own)
    return (
        f"Number of {scale} from which {method_label(own[0].first)} loses more, of {first:g} to {last:g} (95 % "
        f"interval over {own[0].gaps.shape[1]} seeds): {ends}."
    )


def _row(pair: Contrast) -> Row:
    means = [pair.at(place) for place in range(len(pair.scales))]
    cells = [f"{measured(mean)} {interval(low, high)}" for mean, low, high in means]
    name = f"{method_label(pair.first)} − {method_label(pair.second)}"
    return Row(tuple(Cell(text) for text in (name, *cells, _crossing(pair))))


def _crossing(pair: Contrast) -> str:
    """The crossing in words; outside the table only the side is known, and nothing where all intervals hold zero."""
    if all(low <= 0 <= high for _, low, high in map(pair.at, range(len(pair.scales)))):
        return "no difference told"
    first, last = pair.scales[0], pair.scales[-1]

    def side(value: float) -> str:
        return f"below {first:g}" if value < first else f"above {last:g}" if value > last else f"{value:.0f}"

    means = pair.gaps.mean(1)
    falls = means[0] > 0 > means[-1]
    turned = Contrast(pair.second, pair.first, pair.scales, -pair.gaps) if falls else pair
    estimate, low, high = map(side, turned.crossing())
    found = estimate if low == high else f"{estimate} [{low}, {high}]"
    return f"less from {found}" if falls else found


def weights_table(rows: Iterable[Mapping[str, Any]], *, scale: str, series: str, words: str) -> PageTable:
    """Learnt weights of right labels, and wrong ones' over right ones': below one the weights know which are wrong."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("weight_of_right_labels") is not None:
            groups.setdefault((row[series], row[scale]), []).append(row)
    shown, order = [], list(dict.fromkeys(method for method, _ in groups))
    for (method, value), own in sorted(groups.items(), key=lambda group: (order.index(group[0][0]), group[0][1])):
        right = [row["weight_of_right_labels"] for row in own]
        ratios = [row["weight_of_wrong_labels"] / row["weight_of_right_labels"] for row in own]
        texts = (method_label(method), f"{value:g}", f"{measured(min(right))} to {measured(max(right))}")
        middle = measured(math.exp(np.log(ratios).mean()))
        shown.append(Row(tuple(Cell(text) for text in (*texts, middle, f"{min(ratios):.2f} to {max(ratios):.2f}"))))
    caption = "Mean learnt weights of texts with right and with wrong labels, at the kept state; ranges are over seeds."
    heads = ("weight of right labels", "wrong over right, geometric mean", "range")
    return table(caption, [text_column("method"), words, *heads], shown)
