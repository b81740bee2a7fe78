"""Runs chosen one after another: R² on the region to predict at 1, 5 and 10 % of the cost of all runs.

Run: OMP_NUM_THREADS=1 METASCALE_DATA=... python benchmarks/next_runs.py [--tables moe,farseer] [--auto]
Four tables of ScaleBench (Li et al. 2026, arXiv 2604.22753). The pool is the runs that one may use, whose losses are
known only once chosen; nothing is known at first; the target is the scales of the expensive rows, without their losses.
R² of the loss is cut off at -1. The prediction is the weighted mean over the forms; with --auto also that of
`metascale.laws.choose` on the same runs. Nothing is random, so there are no seeds.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np

from law_cases import one_after_another
from metascale.laws import choose, follow, observe

TABLES = {
    "data_constrained": (("params", "tokens", "unique_tokens"), "loss", "6*params*tokens", (0.73, 0.85, 0.86)),
    "moe": (("num_experts", "dense_parameter_count"), "loss_validation", "num_experts*dense_parameter_count",
            (0.67, 0.80, 0.83)),
    "farseer": (("N", "D"), "loss", "6*N*D", (0.67, 0.88, 0.93)),
    "vocab": (("non_vocab_parameters", "vocab_size", "num_characters"), "unigram_normalized_loss",
              "non_vocab_parameters*num_characters", (0.96, 0.98, 0.98)),
}  # fmt: skip


def columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def r2(loss: np.ndarray, predicted: np.ndarray) -> float:
    return max(-1.0, float(1 - ((loss - predicted) ** 2).sum() / ((loss - loss.mean()) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--auto", action="store_true")
    given = parser.parse_args()
    folder = Path(os.environ["METASCALE_DATA"]) / "scalebench"
    print(f"{'table':<18}{'share':>6}{'runs':>6}{'R2':>7}{'best published':>16}{'inside 90 %':>13}{'seconds':>9}")
    for table in given.tables.split(","):
        names, loss_name, cost, published = TABLES[table]
        pool = columns(folder / f"{table}_train.csv", (*names, loss_name))
        aim = columns(folder / f"{table}_test.csv", (*names, loss_name))
        rows = np.column_stack([pool[name] for name in names])
        price = eval_cost(cost, pool)
        candidates, target = ({name: part[name] for name in names} for part in (pool, aim))
        x = np.column_stack([aim[name] for name in names])
        for share, best in zip((0.01, 0.05, 0.10), published, strict=True):
            begin = time.perf_counter()
            measure = one_after_another(rows, pool[loss_name])
            chosen, seen, belief = follow(measure, candidates, cost, target, share * float(price.sum()))
            median, low, high = belief.predict(x)
            inside = np.mean((aim[loss_name] >= low) & (aim[loss_name] <= high))
            line = f"{table:<18}{share:>6.2f}{len(chosen):>6}{r2(aim[loss_name], median):>7.3f}{best:>16.2f}"
            line += f"{100 * inside:>11.0f} %{time.perf_counter() - begin:>9.1f}"
            if given.auto:
                auto = choose(observe(rows[chosen], seen, x_name=names, signed=True)).mixture.predict(x).median
                line += f"   auto {r2(aim[loss_name], auto):.3f}"
            print(line, flush=True)


def eval_cost(cost: str, pool: dict[str, np.ndarray]) -> np.ndarray:
    from metascale.laws.candidates import costs
    from metascale.laws.table import Table

    return costs(Table({name: values.tolist() for name, values in pool.items()}, "the pool"), cost)


if __name__ == "__main__":
    main()
