"""Rows that say nothing new: repeated ones, and those of a table so large that a sample of it says the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metascale.core.streams import generator
from metascale.laws.observations import Array, Integers
from metascale.laws.runs import run_column
from metascale.laws.table import SEED_NAMES, Table, is_condition

WHOLE_UP_TO = 5_000  # rows that are all fitted unless another number is asked for
SAMPLE = 600  # rows of a larger table: the noise of a law's parameters is then a hundredth of its misfit or less
BINS = 64  # per scale with more distinct values than that


def without_repeats(
    table: Table, scales: Sequence[str], loss: str, seed: str | None = None, run: str | None = None
) -> Table:
    """The table with every run once.

    Two rows of equal scales and loss are one run where they have the same run, or the same seed under the same
    conditions, or agree in every column; equal rounded losses of different seeds are two runs.
    """
    if any(name not in table.names for name in (*scales, loss)):
        return table
    place = _codes([table.numbers(name) for name in (*scales, loss)])
    alike = np.flatnonzero(np.bincount(place)[place] > 1)
    if not len(alike):
        return table
    run = run_column(table, run)
    seed = seed or next((name for name in SEED_NAMES if name in table.names), None)
    if run is not None:
        names = [run]
    elif seed is not None:
        names = [
            seed,
            *(name for name in table.names if name not in (*scales, loss, seed) and is_condition(table, name)),
        ]
    else:
        names = list(table.names)
    some = table.rows(np.isin(np.arange(table.n_rows), alike))
    whole = _codes([place[alike].astype(float), *(some.labels(name)[0].astype(float) for name in names)])
    first = np.unique(whole, return_index=True)[1]
    dropped = len(alike) - len(first)
    if not dropped:
        return table
    keep = np.ones(table.n_rows, bool)
    keep[alike] = False
    keep[alike[first]] = True
    why = f"same {run or seed}" if run or seed else "equal in every column"
    return table.rows(
        keep, f"{dropped} duplicated row{'s' if dropped > 1 else ''} dropped (same scale and loss, {why})"
    )


def _codes(columns: Sequence[Array]) -> Integers:
    """[n] which distinct row of ``columns`` each row is; NaN equals NaN."""
    found = np.zeros(len(columns[0]), dtype=np.intp)
    for values in columns:
        part = np.unique(values, return_inverse=True)[1].reshape(-1)
        found = np.unique(found * (int(part.max(initial=0)) + 1) + part, return_inverse=True)[1].reshape(-1)
    return found


def sampled(table: Table, scales: Sequence[str], group: str | None = None, most: int | None = None) -> Table:
    """At most ``most`` rows of a table that has more, from every part of its scales; the same rows every time.

    Where a scale has few rows it keeps them, since the ends of a table decide an extrapolation. By default tables of
    more than 5,000 rows are thinned to 600 a group.
    """
    n_groups = 1 if group is None else table.n_distinct(group)
    most = (SAMPLE * n_groups if table.n_rows > WHOLE_UP_TO else table.n_rows) if most is None else most
    if table.n_rows <= most:
        return table
    groups = np.zeros(table.n_rows) if group is None else table.labels(group)[0].astype(float)
    strata = _strata([table.numbers(name) for name in scales if name in table.names], groups, most)
    random = generator(0, "laws.sample", 0).random(table.n_rows)
    order = np.lexsort((random, strata))
    counts = np.bincount(strata)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = np.zeros(table.n_rows, bool)
    keep[order[rank < np.repeat(_shares(counts, most), counts)]] = True
    note = (
        f"{int(keep.sum()):,} of {table.n_rows:,} rows are fitted, drawn evenly over the scales; intervals "
        "are those of so many runs"
    )
    return table.rows(keep, note)


def _strata(scales: Sequence[Array], groups: Array, most: int) -> Integers:
    """[n] which part of the table each row is in: at most half as many parts as rows are kept."""
    bins = BINS
    while True:
        parts = [groups]
        for values in scales:
            with np.errstate(divide="ignore", invalid="ignore"):
                logs = np.nan_to_num(np.log(values), nan=0.0, posinf=0.0, neginf=0.0)
            if len(np.unique(logs)) > bins:
                logs = np.floor((logs - logs.min()) / max(float(np.ptp(logs)), 1e-300) * bins * (1 - 1e-12))
            parts.append(logs)
        found = _codes(parts)
        if bins <= 2 or int(found.max()) + 1 <= max(most // 2, 1):
            return found
        bins //= 2


def _shares(counts: Integers, most: int) -> Integers:
    """How many rows of each part are kept: as many of each as there are, up to an equal share of what is left."""
    low, high = 0, int(counts.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(counts, middle).sum()) <= most else (low, middle - 1)
    shares = np.minimum(counts, low)
    spare = np.flatnonzero(counts > shares)[: max(most - int(shares.sum()), 0)]
    shares[spare] += 1
    return shares
