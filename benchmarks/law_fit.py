"""Speed of the law room: the reference fit, its bootstrap, scipy over the 4,500-start grid, a one-axis table.

Run: OMP_NUM_THREADS=1 METASCALE_DATA=... python benchmarks/law_fit.py [--starts 60]
or, for many tables in one call beside one after another: OMP_NUM_THREADS=1 python benchmarks/law_fit.py --tables 200
scipy is run on a random part of the 4,500 starts (all with --starts 4500) and its time is scaled up; both that and the
part are printed. One thread; medians.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from metascale.laws import LAWS, backtest, bootstrap, fit, fit_law, fit_many
from metascale.laws.observations import observe

REFERENCE = 0.00101827401780


def reference_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D, loss) of the 240 points kept by Besiroglu et al."""
    path = Path(os.environ["METASCALE_DATA"]) / "scaling_tables" / "chinchilla_svg_extracted.csv"
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    size, flops, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("Model Size", "Training FLOP", "loss")
    )
    keep = np.sort(np.argsort(loss)[:-5])
    return size[keep], (flops / 6 / size)[keep], loss[keep]


def scipy_fit(table, start) -> tuple[float, bool]:
    """One BFGS run with an analytic gradient from (a, b, e, alpha, beta), as in the published analyses."""
    log_n, log_d, log_loss = (np.log(column) for column in table)

    def value_and_gradient(p):
        a, b, e, alpha, beta = p
        parts = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        predicted = logsumexp(parts, axis=0)
        share = np.exp(parts - predicted)
        residual = log_loss - predicted
        clipped = np.clip(residual, -1e-3, 1e-3)
        slope = -clipped * share
        gradient = [slope[0].sum(), slope[1].sum(), slope[2].sum(), -(slope[0] @ log_n), -(slope[1] @ log_d)]
        return float(np.sum(clipped * (residual - 0.5 * clipped))), np.array(gradient)

    with np.errstate(all="ignore"):
        found = minimize(value_and_gradient, start, jac=True, method="BFGS")
    return float(found.fun), bool(found.fun <= REFERENCE * (1 + 1e-6))


def median_seconds(function, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def many_tables(count: int) -> dict[str, float]:
    """CPU seconds of ``count`` tables of 30 rows in one call, and of as many single calls, a quarter of them at a time
    before and after, so that a machine that slows down slows both."""
    rng, tables = np.random.default_rng(0), {}
    for k in range(count):
        x = np.repeat(np.geomspace(1e6, 1e9 * (1 + k % 7), 10), 3)
        loss = (1.7 + 410 * x**-0.4) * np.exp(0.01 * rng.standard_normal(30))
        tables[f"table {k}"] = {"tokens": x, "loss": loss}
    names = list(tables)
    fit(tables[names[0]])
    parts = names[: max(count // 8, 1)], names[-max(count // 8, 1) :]

    def one_by_one(part: list[str]) -> float:
        begin = time.process_time()
        for name in part:
            fit(tables[name])
        return (time.process_time() - begin) / len(part)

    before = one_by_one(parts[0])
    begin = time.process_time()
    fit_many(tables)
    together = (time.process_time() - begin) / count
    single = (before + one_by_one(parts[1])) / 2
    return {"tables": count, "single_fit_cpu_s": single, "of_many_cpu_s": together, "ratio": single / together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=60, help="how many of scipy's 4,500 starts to run")
    parser.add_argument("--tables", type=int, default=0, help="fit so many tables in one call, and nothing else")
    arguments = parser.parse_args()
    if arguments.tables:
        show(many_tables(arguments.tables))
        return
    table = reference_table()
    observations = observe(np.column_stack(table[:2]), table[2], x_name=("N", "D"))
    law = LAWS["chinchilla"]
    fit = fit_law(law, observations)
    fit_s = median_seconds(lambda: fit_law(law, observations))
    refits_s = median_seconds(lambda: bootstrap(fit, 4000), repeats=3)
    starts = list(
        itertools.product(
            range(0, 30, 5), range(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5)
        )
    )
    chosen = np.random.default_rng(0).choice(len(starts), min(arguments.starts, len(starts)), replace=False)
    begin = time.perf_counter()
    reached = [scipy_fit(table, np.array(starts[k], float))[1] for k in chosen]
    scipy_s = (time.perf_counter() - begin) * len(starts) / len(chosen)
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1000, 50)
    loss = (0.3 + 2 * x**-0.5) * np.exp(0.02 * rng.standard_normal(50))
    one_axis = observe(x, loss)
    laws = [law for law in LAWS.values() if law.n_axes == 1 and law.name != "logistic"]
    families_s = median_seconds(lambda: [fit_law(law, one_axis) for law in laws])
    backtest_s = median_seconds(lambda: backtest(x, loss))
    record = {
        "objective": fit.objective_value,
        "objective_relative_error": fit.objective_value / REFERENCE - 1,
        "fit_s": fit_s,
        "bootstrap_4000_s": refits_s,
        "scipy_grid_s": scipy_s,
        "scipy_starts_run": len(chosen),
        "scipy_share_reaching_optimum": float(np.mean(reached)),
        "ratio_scipy_grid_over_fit": scipy_s / fit_s,
        "families_50_points_s": families_s,
        "backtest_50_points_s": backtest_s,
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    show(record)


def show(record: Mapping[str, float | str]) -> None:
    for name, value in record.items():
        print(f"{name:<32}{value:>16}" if isinstance(value, str) else f"{name:<32}{value:>16.6g}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
