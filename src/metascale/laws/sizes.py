"""What a table of language models says of their size: laws along parameters and compute, equal exponents, frontiers.

Rows are those of a results table with the columns ``architecture``, ``seed``, ``d_model``, ``n_layers``, the sizes and
FLOPs of `SCALES`, the test loss and ``test_perplexity``. Where there are too few models for a question, its place holds
the reason instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from metascale.core.columns import N_PARAMS_NON_EMBEDDING, N_PARAMS_TOTAL, TEST_LOSS, TRAIN_FLOPS
from metascale.core.errors import InputError
from metascale.laws.analysis import analyse
from metascale.laws.effects import PerplexityLine, WidthAndDepth, perplexity_line, undominated, width_and_depth
from metascale.laws.groups import grouped
from metascale.laws.verdict import FEWEST_FOR_A_FLOOR

LEVEL = 0.95
PERPLEXITY = "test_perplexity"
NAMED = "architecture"
FLOORS: tuple[Literal["unigram", "bigram"], ...] = ("unigram", "bigram")
"""Models that count words, as floors."""
EVALUATED: tuple[Literal["validation", "test"], ...] = ("validation", "test")
SCALES = (N_PARAMS_TOTAL, N_PARAMS_NON_EMBEDDING, TRAIN_FLOPS)
GROUPED = (
    (TEST_LOSS, "power", N_PARAMS_NON_EMBEDDING),
    (TEST_LOSS, "power", N_PARAMS_TOTAL),
    (TEST_LOSS, "power", TRAIN_FLOPS),
    (TEST_LOSS, "power_irreducible", N_PARAMS_NON_EMBEDDING),
)
"""Tests of equal exponents: y, law, x. The first is the study's answer."""
Rows = Sequence[Mapping[str, Any]]


def analyse_sizes(rows: Rows) -> dict[str, Any]:
    """The analysis of finished trials, rows of a study's table, as JSON."""
    groups = by_architecture(rows)
    scales = [(name, own, x) for name, own in groups.items() for x in SCALES]
    return {
        "level": LEVEL,
        "n_vocab": _shared(rows, "n_vocab"),
        "unit": _shared(rows, "token_unit"),
        "n_train_tokens": _shared(rows, "n_train_tokens"),
        "floors": floors_of(rows),
        "perplexity_laws": [
            {"architecture": name, "x": x, **or_reason(perplexity_law, own, x)} for name, own, x in scales
        ],
        "loss_laws": [{"architecture": name, "x": x, **or_reason(loss_law, own, x)} for name, own, x in scales],
        "grouped": [{"y": y, "law": law, "x": x, **or_reason(same_exponent, rows, y, law, x)} for y, law, x in GROUPED],
        "width_and_depth": {
            name: or_reason(width_and_depth, *columns(own, "d_model", "n_layers", TEST_LOSS))
            for name, own in groups.items()
        },
        "frontier": {name: frontier(own) for name, own in groups.items()},
    }


def or_reason(
    answer: Callable[..., PerplexityLine | WidthAndDepth | Mapping[str, Any]], *arguments: Any
) -> Mapping[str, Any]:
    """The answer, or why there is none."""
    try:
        found = answer(*arguments)
        return found if isinstance(found, Mapping) else found.to_json()
    except InputError as error:
        return {"reason": str(error)}


def by_architecture(rows: Rows) -> dict[str, Rows]:
    """Rows of each architecture, in order of appearance."""
    names = dict.fromkeys(str(row["architecture"]) for row in rows)
    return {name: [row for row in rows if row["architecture"] == name] for name in names}


def columns(rows: Rows, *names: str) -> tuple[np.ndarray, ...]:
    return tuple(np.array([float(row[name]) for row in rows]) for name in names)


def perplexity_law(rows: Rows, x: str) -> PerplexityLine:
    """perplexity = a · x^b, the form in which the source of this study states its law.

    Raises:
        InputError: fewer than three sizes.
    """
    sizes, perplexities = columns(rows, x, PERPLEXITY)
    seeds = [row["seed"] for row in rows]
    return perplexity_line(sizes, perplexities, replicate=seeds, level=LEVEL, x_name=x, y_name=PERPLEXITY)


def loss_law(rows: Rows, x: str) -> dict[str, Any]:
    """The law of the loss, with and without irreducible loss, and which of them the table supports.

    Raises:
        InputError: fewer than three sizes.
    """
    sizes, losses = columns(rows, x, TEST_LOSS)
    seeds = [row["seed"] for row in rows]
    found = analyse(sizes, losses, replicate=seeds, hold_out=None, level=LEVEL, x_name=x, loss_name=TEST_LOSS)
    n_sizes = len(set(sizes.tolist()))
    laws: dict[str, Any] = {
        name: {"parameters": found.family_intervals[name], "note": found.families[name].note}
        for name in ("power", "power_irreducible")
        if name in found.family_intervals
    }
    if n_sizes < FEWEST_FOR_A_FLOOR:
        laws["power_irreducible"] = {"parameters": {}, "note": too_few_for_a_floor(n_sizes)}
    trend = {"trend": found.trend, "verdict": found.verdict}
    return {"chosen": found.fit.law.name, **trend, "n_sizes": n_sizes, "laws": laws}


def same_exponent(rows: Rows, y: str, law: str, x: str) -> dict[str, Any]:
    """Whether one exponent serves all architectures.

    Raises:
        InputError: one architecture, or too few sizes of one.
    """
    fewest = min((len({row[x] for row in own}) for own in by_architecture(rows).values()), default=0)
    if law == "power_irreducible" and fewest < FEWEST_FOR_A_FLOOR:
        raise InputError(too_few_for_a_floor(fewest))
    names, seeds = [row["architecture"] for row in rows], [row["seed"] for row in rows]
    sizes, values = columns(rows, x, y)
    found = grouped(sizes, values, names, replicate=seeds, law=law, level=LEVEL, x_name=x, loss_name=y)
    return found.to_json() | {"law": law}


def too_few_for_a_floor(n_sizes: int) -> str:
    return f"{n_sizes} sizes cannot tell an irreducible loss from a slope; it is fitted from {FEWEST_FOR_A_FLOOR} on"


def frontier(rows: Rows) -> list[list[float]]:
    """The runs that no run with as little compute beats: [training FLOPs, test loss], ascending."""
    return [list(pair) for pair in undominated(*columns(rows, TRAIN_FLOPS, TEST_LOSS))]


def floors_of(rows: Rows) -> dict[str, float]:
    """Perplexities of the counting models where all rows share them; those of several vocabularies do not."""
    return {
        f"{order}_{split}": float(value)
        for order in FLOORS
        for split in EVALUATED
        if (value := _shared(rows, f"{order}_{split}_perplexity")) is not None
    }


def _shared(rows: Rows, column: str) -> Any:
    """The one value of a column; ``None`` where rows differ."""
    values = {row.get(column) for row in rows}
    return values.pop() if len(values) == 1 else None
