"""Parts of pages of studies that compare methods: pairs of arms by seed, and methods along a scale, from their records.

Arms of a seed share what the seed draws (who labels what, the start, the test set), so they are paired by seed;
intervals are Student's t over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paired import Rows, differences, gap_with_interval, main_rows, points_with_interval, se

from metascale.core.columns import TEST_ACCURACY, TEST_LOSS
from metascale.report.section import Block, Cell, plain, reading, table, text_column
from metascale.report.words import axis_label, measured, method_label, number
from metascale.workflow.config import METRIC_LEARNERS
from metascale.workflow.recipe import roles_of

if TYPE_CHECKING:
    from results import Record

PAIRS: Mapping[str, Sequence[tuple[str, str]]] = {
    "annotators": (("learnt", "checked"), ("learnt", "both"), ("learnt", "alike"), ("learnt", "careful")),
}
"""By recipe of a study without a scale: which arms a page compares. The answer is about the first arm."""


@dataclass(frozen=True)
class Along:
    """What a page shows of a study's methods along its scale.

    Args:
        by: the axis of the methods.
        scale: the axis that the columns stand for.
        columns: of the results: how seeds are put together, and what it is called.
        threshold: a value of the first column; the answer says up to which scale each method keeps it.
        by_seed: a method, and a column of which the page shows every seed; none: no such table.
    """

    by: str
    scale: str
    columns: Mapping[str, tuple[Callable[[Sequence[float]], float], str]]
    threshold: float | None = None
    by_seed: tuple[str, str] | None = None


_WRONG = "Share of wrong labels among what is kept, means over seeds."
ALONG: Mapping[str, Along] = {
    "data_pruning": Along(
        "method",
        "keep",
        {
            TEST_LOSS: (statistics.fmean, "Test loss (nats), means over seeds; the lowest of each column is bold."),
            TEST_ACCURACY: (statistics.fmean, "Test accuracy, means over seeds."),
            "kept_wrong_labels": (statistics.fmean, _WRONG),
        },
        by_seed=("learnt", "kept_wrong_labels"),
    ),
    "hypergradient_bias": Along(
        "solver",
        "off_diagonal",
        {
            "hypergradient_cosine": (statistics.fmean, "Cosine to the exact hypergradient, means over seeds."),
            "upper_gap": (statistics.median, "Upper loss above its minimum after training, medians over seeds."),
        },
        threshold=0.95,
    ),
}
"""By recipe of a study of methods along a scale."""


def _recipe(one: Record) -> str:
    return str(one.study.view.study.base.get("recipe"))


def arms(one: Record) -> list[Block]:
    """A row an arm, the lowest mean loss first."""
    rows = main_rows(one)
    (series,) = roles_of(one.study.view.study).series
    by_arm: dict[str, Rows] = {}
    for row in rows:
        by_arm[row[series]] = [*by_arm.get(row[series], ()), row]
    shown = []
    for name, own in sorted(by_arm.items(), key=lambda arm: statistics.fmean(row[TEST_LOSS] for row in arm[1])):
        losses, accuracies = ([float(row[key]) for row in own] for key in (TEST_LOSS, TEST_ACCURACY))
        texts = (f"{statistics.fmean(losses):.3f} ± {se(losses):.3f}", _percent(accuracies))
        ends = f"{100 * min(accuracies):.1f} to {100 * max(accuracies):.1f} %"
        shown.append([Cell(method_label(name)), *map(Cell, texts), Cell(ends)])
    n_seeds = len(next(iter(by_arm.values())))
    caption = f"Means over {n_seeds} seeds ± one SE per mean; range: of the seeds' accuracies."
    return [table(caption, (text_column("arm"), "test loss (nats)", "test accuracy", "range"), shown)]


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * se(values):.1f} %"


def pairs(one: Record) -> list[Block]:
    """Differences of arms, paired by seed."""
    rows, shown = main_rows(one), []
    (series,) = roles_of(one.study.view.study).series
    for first, second in PAIRS[_recipe(one)]:
        loss, accuracy = (differences(rows, series, first, second, key) for key in (TEST_LOSS, TEST_ACCURACY))
        better = sum(gap > 0 for gap in accuracy)
        texts = (gap_with_interval(loss), points_with_interval(accuracy), f"{better} of {len(accuracy)}")
        shown.append([Cell(f"{method_label(first)} − {method_label(second)}"), *map(Cell, texts)])
    n_seeds = len({row["seed"] for row in rows})
    caption = (
        f"Differences paired by seed, with 95 % intervals over {n_seeds} seeds (Student's t, each for itself); last: "
        "in how many seeds the first has the higher accuracy."
    )
    heads = (text_column("first − second"), "test loss (nats)", "test accuracy (points)", "seeds")
    return [table(caption, heads, shown)]


def trust(one: Record) -> list[Block]:
    """What the annotators' weights became: ranges over seeds of the means of careful and of other annotators."""
    rows = [row for row in main_rows(one) if row.get("weight_of_careful") is not None and row["method"] == "learnt"]
    ends = [
        f"{words} {min(values):.2f} to {max(values):.2f}"
        for key, words in (("weight_of_careful", "careful annotators"), ("weight_of_others", "the others"))
        if (values := [float(row[key]) for row in rows])
    ]
    return [f"Mean learnt weights at the kept state, ranges over {len(rows)} seeds: {', '.join(ends)}."]


def along(one: Record) -> list[Block]:
    """For each column that `ALONG` names: methods by scale."""
    wanted = ALONG[_recipe(one)]
    rows, found = main_rows(one), []
    scales = sorted({float(row[wanted.scale]) for row in rows})
    for column, (together, caption) in wanted.columns.items():
        means = {name: _curve(rows, wanted, name, column, together) for name in _methods(rows, wanted)}
        lowest = [min(curve[place] for curve in means.values()) for place in range(len(scales))]
        shown = []
        for name, curve in means.items():
            cells = [
                Cell(f"**{measured(value)}**", value) if column == TEST_LOSS and value == low else reading(value)
                for value, low in zip(curve, lowest, strict=True)
            ]
            shown.append([Cell(method_label(name)), *cells])
        heads = (text_column(f"{method_word(wanted)} by {axis_label(wanted.scale)}"), *map(number, scales))
        found.append(table(caption, heads, shown))
    return list(found)


def seeds(one: Record) -> list[Block]:
    """One method's column, a row a seed."""
    wanted = ALONG[_recipe(one)]
    assert wanted.by_seed is not None
    method, column = wanted.by_seed
    rows = [row for row in main_rows(one) if row[wanted.by] == method]
    scales = sorted({float(row[wanted.scale]) for row in rows})
    values = {(row["seed"], float(row[wanted.scale])): float(row[column]) for row in rows}
    shown = [
        [Cell(number(seed)), *(reading(values[seed, scale]) for scale in scales)]
        for seed in sorted({seed for seed, _ in values})
    ]
    heads = (text_column(f"seed by {axis_label(wanted.scale)}"), *map(number, scales))
    return [table(f"{method_label(method)}: {axis_label(column)}, seed by seed.", heads, shown)]


def method_word(wanted: Along) -> str:
    return axis_label(wanted.by)


def _methods(rows: Rows, wanted: Along) -> list[str]:
    return list(dict.fromkeys(str(row[wanted.by]) for row in rows))


def _curve(
    rows: Rows, wanted: Along, name: str, column: str, together: Callable[[Sequence[float]], float]
) -> list[float]:
    scales = sorted({float(row[wanted.scale]) for row in rows})
    mine = [row for row in rows if row[wanted.by] == name]
    return [together([float(row[column]) for row in mine if row[wanted.scale] == scale]) for scale in scales]


def answer(one: Record) -> str | None:
    """What the row of a learner, of a study of arms, or of methods along a scale, says; ``None`` of any other study."""
    recipe, rows = _recipe(one), main_rows(one)
    if one.name in LEARNERS:
        return learner_answer(one, rows)
    if recipe in PAIRS:
        (series,) = roles_of(one.study.view.study).series
        return arms_answer(rows, series, PAIRS[recipe])
    return along_answer(rows, ALONG[recipe]) if recipe in ALONG else None


def arms_answer(rows: Rows, series: str, compared: Sequence[tuple[str, str]]) -> str:
    """The first arm's differences in accuracy."""
    n_seeds = len({row["seed"] for row in rows})
    each = [
        f"{points_with_interval(differences(rows, series, first, second, TEST_ACCURACY))} over {method_label(second)}"
        for first, second in compared
    ]
    return (
        f"Test accuracy of {method_label(compared[0][0])}, in points (95 % intervals over {n_seeds} seeds): "
        f"{'; '.join(each)}."
    )


def along_answer(rows: Rows, wanted: Along) -> str:
    """Up to which scale each method keeps the threshold, or which has the lowest loss at each scale."""
    scales = sorted({float(row[wanted.scale]) for row in rows})
    column, (together, _) = next(iter(wanted.columns.items()))
    curves = {name: _curve(rows, wanted, name, column, together) for name in _methods(rows, wanted)}
    words = axis_label(wanted.scale)
    if wanted.threshold is None:
        best = [min(curves, key=lambda name: curves[name][place]) for place in range(len(scales))]
        each = [f"{number(scale)}: {method_label(name)}" for scale, name in zip(scales, best, strict=True)]
        return f"Lowest mean test loss at {words} = {'; '.join(each)}."
    each = [f"{method_label(name)} {_kept(scales, curve, wanted.threshold)}" for name, curve in curves.items()]
    return (
        f"Largest {words} up to which the mean cosine stays at {number(wanted.threshold)} or more: {'; '.join(each)}."
    )


def _kept(scales: Sequence[float], curve: Sequence[float], threshold: float) -> str:
    kept = 0
    while kept < len(curve) and curve[kept] >= threshold:
        kept += 1
    return number(scales[kept - 1]) if kept else "none"


LEARNERS = ("omniglot-protonet", "omniglot-proto-maml", "omniglot-maml-plus-plus", "omniglot-laptop")
"""Records of one learner each, on the same test tasks."""
LEARNER_NAMES = {
    "omniglot-protonet": "ProtoNet", "omniglot-proto-maml": "Proto-MAML", "omniglot-maml-plus-plus": "MAML++",
    "omniglot-laptop": "MAML",
}  # fmt: skip


def learners(one: Record) -> list[Block]:
    """The learners beside one another, a row a trained learner; all were tested on the same tasks."""
    shown, found = [], [one.beside(name) for name in LEARNERS]
    for each in found:
        rows, base = main_rows(each), each.study.view.study.base
        trained = 0 if base["method"] in METRIC_LEARNERS else base["inner_steps"]
        minutes = each.told["cpu_s"] / 60 / len(rows)
        for row in rows:
            half = 196 * row["test_accuracy_sem"]
            texts = (f"{100 * row['test_accuracy']:.2f} ± {half:.2f} %", f"{row['test_loss_nats']:.4f}")
            counts = (f"{row['steps']:,}", f"{trained} / {row['test_inner_steps']}", f"{minutes:.1f} min")
            shown.append([Cell(LEARNER_NAMES[each.name]), plain(row["seed"]), *map(Cell, (*texts, *counts))])
    (n_tasks,) = {each.study.view.study.base["n_test_tasks"] for each in found}
    caption = (
        f"Mean and 95 % interval over the same {n_tasks:,} test tasks a seed. Inner steps: in training / at test. "
        "Processor time: of training, validation and test, an equal share a seed."
    )
    heads = ("seed", "test accuracy", "test loss (nats)", "outer steps", "inner steps", "processor time")
    return [table(caption, (text_column("learner"), *heads), shown)]


def learner_answer(one: Record, rows: Rows) -> str:
    """A learner's accuracies, one a seed, and what one took."""
    each = [f"{100 * row['test_accuracy']:.2f} ± {196 * row['test_accuracy_sem']:.2f} %" for row in rows]
    n_tasks, minutes = one.study.view.study.base["n_test_tasks"], one.told["cpu_s"] / 60 / len(rows)
    return (
        f"{LEARNER_NAMES[one.name]}: test accuracy {' and '.join(each)} (95 % interval over {n_tasks:,} test tasks, "
        f"one figure a seed) in {minutes:.1f} minutes of processor time."
    )


PARTS: dict[str, Callable[[Record], Sequence[Block]]] = {
    "along": along,
    "arms": arms,
    "learners": learners,
    "pairs": pairs,
    "seeds": seeds,
    "trust": trust,
}
