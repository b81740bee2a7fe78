"""Parts of the page of meta-gradients at equal compute: quality beside memory, from the record of a study.

Methods of a seed share their start, their training tasks and the test tasks, so differences are paired by seed;
intervals are Student's t over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paired import Rows, differences, gap_with_interval, main_rows, points_with_interval

from metascale.core.columns import TEST_ACCURACY, TEST_LOSS
from metascale.report.section import Block, Cell, table, text_column
from metascale.report.words import measured, method_label

if TYPE_CHECKING:
    from results import Record

FULL, FRUGAL = "maml", "melora_checkpointed"
"""The method that keeps the whole trajectory, and the same number in the least memory."""
PEAK = "step_peak_without_weights_bytes"


def _methods(rows: Rows) -> dict[str, Rows]:
    """Rows by method, the lowest mean loss first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["method"]), []).append(row)
    return dict(sorted(found.items(), key=lambda pair: _mean(pair[1], TEST_LOSS)))


def _mean(rows: Rows, column: str) -> float:
    return statistics.fmean(float(row[column]) for row in rows)


def se(rows: Rows, column: str) -> float:
    return float(statistics.stdev(float(row[column]) for row in rows) / len(rows) ** 0.5)


def memory(one: Record) -> list[Block]:
    """A row a method: what it reaches, what a step costs and holds, and the rates that its search found."""
    methods = _methods(main_rows(one))
    full, shown = _mean(methods[FULL], PEAK), []
    for name, rows in methods.items():
        peak = _mean(rows, PEAK)
        texts = (
            f"{measured(_mean(rows, TEST_LOSS))} ± {measured(se(rows, TEST_LOSS))}",
            f"{100 * _mean(rows, TEST_ACCURACY):.1f} ± {100 * se(rows, TEST_ACCURACY):.1f} %",
            f"{_mean(rows, 'steps'):.0f}",
            f"{_mean(rows, 'step_flops') / 1e9:.2f}",
            f"{peak / 2**20:.1f}",
            f"{100 * peak / full:.0f} %",
            f"{measured(rows[0]['inner_lr'])}; {measured(rows[0]['outer_lr'])}",
        )
        shown.append([Cell(method_label(name)), *map(Cell, texts)])
    n_seeds = len(methods[FULL])
    heads = ("test loss (nats)", "test accuracy", "outer steps", "GFLOP an outer step", "peak MiB", "of MAML's")
    caption = f"Means over {n_seeds} seeds ± one SE; peak of live bytes of one outer step without the frozen weights."
    return [table(caption, (text_column("method"), *heads, "inner; outer rate"), shown)]


def gaps(one: Record) -> list[Block]:
    """Differences in test loss and accuracy from the stored graph and from first order, paired by seed."""
    rows = main_rows(one)
    names = [name for name in _methods(rows) if name != FULL]
    pairs = [(name, FULL) for name in names] + [(FRUGAL, "fomaml")]
    shown = []
    for first, second in pairs:
        loss, accuracy = (differences(rows, "method", first, second, key) for key in (TEST_LOSS, TEST_ACCURACY))
        worse = f"{sum(gap > 0 for gap in loss)} of {len(loss)}"
        texts = (gap_with_interval(loss), points_with_interval(accuracy), worse)
        shown.append([Cell(f"{method_label(first)} − {method_label(second)}"), *map(Cell, texts)])
    caption = (
        f"Differences paired by seed, with 95 % intervals over {len({row['seed'] for row in rows})} seeds (Student's "
        "t, each for itself); last: in how many seeds the first has the higher loss."
    )
    return [table(caption, (text_column("first − second"), "test loss (nats)", "accuracy (points)", "seeds"), shown)]


def answer(one: Record) -> str | None:
    """What the least memory costs at equal compute; ``None`` of a study that does not compare the two."""
    if "method" not in one.table.columns or not {FULL, FRUGAL} <= set(one.table.column("method")):
        return None
    return bargain(main_rows(one))


def bargain(rows: Rows) -> str:
    """The sentence of `answer` from the rows of a study."""
    methods = _methods(rows)
    saved = 1 - _mean(methods[FRUGAL], PEAK) / _mean(methods[FULL], PEAK)
    dearer = _mean(methods[FRUGAL], "step_flops") / _mean(methods[FULL], "step_flops")
    others = [name for name in ("fomaml", "reptile") if name in methods]
    gaps_of = {name: differences(rows, "method", name, FULL, TEST_LOSS) for name in (FRUGAL, *others)}
    against = "; ".join(
        f"{method_label(name)} − {method_label(FULL)} {gap_with_interval(gap)}" for name, gap in gaps_of.items()
    )
    return (
        f"{method_label(FRUGAL)} takes {100 * saved:.0f} % less memory than {method_label(FULL)} and {dearer:.2f} "
        f"times its operations an outer step. Test loss at equal operations, in nats (95 % intervals over "
        f"{len(methods[FULL])} seeds): {against}."
    )


PARTS: dict[str, Callable[[Record], Sequence[Block]]] = {"memory": memory, "gaps": gaps}
