"""What a study of model sizes says: laws of loss and of perplexity, and what the architectures have in common.

``size.json`` in the study's folder holds it for the report. Where there are too few models for a question, its place
holds the reason in the place of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.errors import InputError
from metascale.core.files import write_json
from metascale.laws import analyse, grouped
from metascale.laws.effects import PowerLine, power_line, undominated, width_and_depth
from metascale.study.store.reading import StudyView
from metascale.study.store.table import Table

FILE, BASELINES = "size.json", "baselines.json"
LEVEL = 0.95
LOSS, PERPLEXITY = "test_loss_nats", "test_perplexity"
SCALES = ("n_params_total", "n_params_non_embedding", "train_flops")
GROUPED = (
    (LOSS, "power", "n_params_non_embedding"),
    (LOSS, "power", "n_params_total"),
    (LOSS, "power", "train_flops"),
    (LOSS, "power_irreducible", "n_params_non_embedding"),
    (PERPLEXITY, "power", "n_params_total"),
)
"""Tests of equal exponents: y, law, x. The first is the study's answer."""
FLOORS = ("unigram", "bigram")
FLOOR_SIZES = 6
"""Sizes from which on an irreducible loss is asked for: three parameters and as many sizes to test them by."""
Rows = Sequence[Mapping[str, Any]]


def write_sizes(view: StudyView, table: Table) -> list[Path]:
    """Write size.json from a study's finished trials, and the bigram model as its baseline; nothing without trials."""
    rows = [row for row in table.finished("trial").rows if row.get(LOSS) is not None]
    path = view.folder / FILE
    if not rows:
        path.unlink(missing_ok=True)
        return []
    write_json(path, analyse_sizes(rows))
    bigram = floors_of(rows).get("bigram_test")
    if bigram is not None:
        write_json(view.folder / BASELINES, {"bigram": {"kind": "baseline", LOSS: math.log(bigram)}})
    return [path]


def analyse_sizes(rows: Rows) -> dict[str, Any]:
    """The analysis of finished trials, rows of a study's table, as JSON."""
    groups = by_architecture(rows)
    return {
        "level": LEVEL,
        "n_vocab": rows[0].get("n_vocab"),
        "floors": floors_of(rows),
        "perplexity_laws": [_perplexity_answer(name, own, x) for name, own in groups.items() for x in SCALES],
        "loss_laws": [_loss_answer(name, own, x) for name, own in groups.items() for x in SCALES],
        "grouped": [_grouped_answer(rows, y, law, x) for y, law, x in GROUPED],
        "width_and_depth": {name: _effects_answer(own) for name, own in groups.items()},
        "frontier": {name: frontier(own) for name, own in groups.items()},
    }


def _perplexity_answer(architecture: str, rows: Rows, x: str) -> dict[str, Any]:
    return {"architecture": architecture, "x": x, **_or_reason(lambda: perplexity_law(rows, x).to_json())}


def _loss_answer(architecture: str, rows: Rows, x: str) -> dict[str, Any]:
    return {"architecture": architecture, "x": x, **_or_reason(lambda: loss_law(rows, x))}


def _grouped_answer(rows: Rows, y: str, law: str, x: str) -> dict[str, Any]:
    return {"y": y, "law": law, "x": x, **_or_reason(lambda: same_exponent(rows, y, law, x))}


def _effects_answer(rows: Rows) -> dict[str, Any]:
    width, depth, loss = _columns(rows, "d_model", "n_layers", LOSS)
    return _or_reason(lambda: width_and_depth(width, depth, loss).to_json())


def by_architecture(rows: Rows) -> dict[str, Rows]:
    """Rows of each architecture, in order of appearance."""
    names = dict.fromkeys(str(row["architecture"]) for row in rows)
    return {name: [row for row in rows if row["architecture"] == name] for name in names}


def perplexity_law(rows: Rows, x: str) -> PowerLine:
    """perplexity = a · x^b, the form in which the source of this study states its law.

    Raises:
        InputError: fewer than three sizes.
    """
    sizes, perplexities = _columns(rows, x, PERPLEXITY)
    seeds = [row["seed"] for row in rows]
    return power_line(sizes, perplexities, replicate=seeds, level=LEVEL, x_name=x, y_name=PERPLEXITY)


def loss_law(rows: Rows, x: str) -> dict[str, Any]:
    """The law of the loss, with and without irreducible loss, and which of them the table supports.

    Raises:
        InputError: fewer than three sizes.
    """
    sizes, losses = _columns(rows, x, LOSS)
    seeds = [row["seed"] for row in rows]
    found = analyse(sizes, losses, replicate=seeds, hold_out=None, level=LEVEL, x_name=x, loss_name=LOSS)
    n_sizes = len(set(sizes.tolist()))
    laws: dict[str, Any] = {
        name: {"parameters": found.family_intervals[name], "note": found.families[name].note}
        for name in ("power", "power_irreducible")
        if name in found.family_intervals
    }
    if n_sizes < FLOOR_SIZES:
        laws["power_irreducible"] = {"parameters": {}, "note": _too_few_for_a_floor(n_sizes)}
    return {"chosen": found.fit.law.name, "verdict": found.verdict, "n_sizes": n_sizes, "laws": laws}


def same_exponent(rows: Rows, y: str, law: str, x: str) -> dict[str, Any]:
    """Whether one exponent serves all architectures.

    Raises:
        InputError: one architecture, or too few sizes of one.
    """
    sizes, values = _columns(rows, x, y)
    fewest = min((len({row[x] for row in own}) for own in by_architecture(rows).values()), default=0)
    if law == "power_irreducible" and fewest < FLOOR_SIZES:
        raise InputError(_too_few_for_a_floor(fewest))
    found = grouped(
        sizes,
        values,
        [row["architecture"] for row in rows],
        replicate=[row["seed"] for row in rows],
        law=law,
        level=LEVEL,
        x_name=x,
        loss_name=y,
    )
    return found.to_json() | {"law": law}


def _too_few_for_a_floor(n_sizes: int) -> str:
    return f"{n_sizes} sizes cannot tell an irreducible loss from a slope; it is fitted from {FLOOR_SIZES} on"


def floors_of(rows: Rows) -> dict[str, float]:
    """Perplexities of the counting models, which all trials of one vocabulary share."""
    return {
        f"{order}_{split}": float(rows[0][f"{order}_{split}_perplexity"])
        for order in FLOORS
        for split in ("validation", "test")
        if rows[0].get(f"{order}_{split}_perplexity") is not None
    }


def frontier(rows: Rows) -> list[list[float]]:
    """The runs that no run with as little compute beats: [training FLOPs, test loss], ascending."""
    return [list(pair) for pair in undominated(*_columns(rows, "train_flops", LOSS))]


def _columns(rows: Rows, *names: str) -> tuple[np.ndarray, ...]:
    return tuple(np.array([float(row[name]) for row in rows]) for name in names)


def _or_reason(answer: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The answer, or why there is none."""
    try:
        return dict(answer())
    except InputError as error:
        return {"reason": str(error)}
