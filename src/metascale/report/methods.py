"""Meta-learners side by side with what each costs, from methods.json, where a study has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metascale.core.errors import CorruptFile
from metascale.core.files import read_json
from metascale.report.reading import StudyFolder, finite
from metascale.report.section import DASH, Cell, Column, PageTable, Row
from metascale.report.series import method_label
from metascale.report.words import decimals, interval, number, p_words

FILE = "methods.json"


@dataclass(frozen=True, slots=True)
class _Cost:
    """A column of costs: its key in the file, its title, what to divide by and how many digits to show."""

    key: str
    title: str
    unit: float = 1.0
    digits: int = 0


_COSTS = (
    _Cost("steps", "outer steps"),
    _Cost("step_flops", "GFLOP an outer step", 1e9, 2),
    _Cost("step_peak_bytes", "peak MiB of a step", 2**20, 1),
    _Cost("step_peak_without_weights_bytes", "without frozen weights", 2**20, 1),
)


def methods_section(study: StudyFolder) -> dict[str, PageTable | None] | None:
    """The methods with their costs, and every pair of the study's design; nothing where there is no such file."""
    path = study.folder / FILE
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or not {"methods", "comparisons"} <= found.keys():
        raise CorruptFile(f"{path} must hold the methods and comparisons of a study")
    if not found["methods"]:
        return None
    return {
        "table": costs_table(found["methods"]),
        "pairs": pairs_table(found["comparisons"]) if found["comparisons"] else None,
    }


def costs_table(methods: list[Mapping[str, Any]]) -> PageTable:
    """One row a meta-learner and point, best loss first, with the costs that any of them has."""
    methods = [row for row in methods if row["kind"] == "meta"]
    costs = [cost for cost in _COSTS if any(finite(row["costs"].get(cost.key)) is not None for row in methods)]
    rows = []
    for row in sorted(methods, key=lambda row: float(row["loss_nats"])):
        measured = [finite(row[key]) for key in ("loss_nats", "loss_seed_sem")]
        cells = [Cell(decimals(value, 4), value) for value in measured]
        rows.append(Row((Cell(_name(row)), *cells, *(_cost_cell(row, cost) for cost in costs))))
    heads = ("loss (nats)", "SE across seeds", *(cost.title for cost in costs))
    caption = "Meta-learners, best loss first, with what one outer step costs."
    return PageTable(caption, (Column("method", False), *map(Column, heads)), tuple(rows))


def pairs_table(pairs: list[Mapping[str, Any]]) -> PageTable:
    """First minus second for every pair, below zero the first loses less."""
    rows = []
    for pair in pairs:
        test = pair["test"]
        difference = test["difference"]
        d = finite(test["cohen_d"])
        rows.append(
            Row(
                (
                    Cell(f"{method_label(pair['first'])} − {method_label(pair['second'])}"),
                    Cell(decimals(difference["estimate"], 4), difference["estimate"]),
                    Cell(interval(difference["low"], difference["high"], 4), difference["estimate"]),
                    Cell(p_words(pair["p_holm"]), pair["p_holm"]),
                    Cell(decimals(d, 2), d),
                    Cell(decimals(test["rank_biserial"], 2), test["rank_biserial"]),
                )
            )
        )
    level = 100 * float(pairs[0]["test"]["level"])
    heads = ("nats", f"{level:g} % across tasks", "p (Holm)", "Cohen's d", "rank-biserial")
    caption = f"First minus second, paired by test task; Wilcoxon signed-rank, corrected for all {len(pairs)} pairs."
    return PageTable(caption, (Column("pair", False), *map(Column, heads)), tuple(rows))


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join([method_label(row["method"]), *(f"{key}={value}" for key, value in row["point"].items())])


def _cost_cell(row: Mapping[str, Any], cost: _Cost) -> Cell:
    value = finite(row["costs"].get(cost.key))
    if value is None:
        return Cell(DASH)
    return Cell(number(value) if not cost.digits else decimals(value / cost.unit, cost.digits), value)
