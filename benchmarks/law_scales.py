"""Laws in several scales on hidden regions: R², coverage and time, with no form named.

    METASCALE_DATA=... python benchmarks/law_scales.py

prints two tables: the regions of four ScaleBench tables that are never fitted, and tables of Porian et al. (2024),
Muennighoff et al. (2023) and Besiroglu et al. (2024) whose runs above 1/4 and 1/16 of the largest compute are hidden.
"""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import numpy as np

from metascale.laws import choose, observe

SCALEBENCH = {
    "moe": (("num_experts", "dense_parameter_count"), "loss_validation"),
    "farseer": (("N", "D"), "loss"),
    "data_constrained": (("params", "tokens", "unique_tokens"), "loss"),
    "vocab": (("non_vocab_parameters", "vocab_size", "num_characters"), "unigram_normalized_loss"),
}
CONDITION = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
TUNED_ON = ("owt2", "summary_df_kaplan_tuned_hparams")  # settings were chosen on these conditions


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(rows: list[dict[str, str]], names: tuple[str, ...]) -> np.ndarray:
    return np.array([[float(row[name]) for name in names] for row in rows])


def predict(train: np.ndarray, loss: np.ndarray, test: np.ndarray, names: tuple[str, ...]):
    begin = time.perf_counter()
    mixture = choose(observe(train, loss, x_name=names, signed=True)).mixture
    return mixture.predict(test), time.perf_counter() - begin


def scalebench(folder: Path) -> None:
    print("| table | rows hidden | R² | inside 90 % | seconds |\n|---|---|---|---|---|")
    for name, (scales, loss) in SCALEBENCH.items():
        train, test = (rows_of(folder / f"{name}_{part}.csv") for part in ("train", "test"))
        observed = numbers(test, (loss,))[:, 0]
        found, seconds = predict(numbers(train, scales), numbers(train, (loss,))[:, 0], numbers(test, scales), scales)
        r2 = 1 - np.sum((observed - found.median) ** 2) / np.sum((observed - observed.mean()) ** 2)
        inside = int(((observed >= found.low) & (observed <= found.high)).sum())
        print(f"| {name} | {len(test)} | {r2:.3f} | {inside} ({100 * inside / len(test):.0f} %) | {seconds:.1f} |")


def tables(folder: Path) -> dict[str, tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(folder / "porian_isoflop.csv"):
        groups.setdefault(" ".join(row[name] for name in CONDITION), []).append(row)
    found = {name: (("N", "D"), numbers(rows, ("N", "D")), numbers(rows, ("loss",))[:, 0])
             for name, rows in groups.items()}  # fmt: skip
    rows = rows_of(folder / "muennighoff_c4.csv")
    found["muennighoff"] = ("N", "D", "U"), numbers(rows, ("N", "D", "U")), numbers(rows, ("loss",))[:, 0]
    rows = rows_of(folder / "chinchilla_svg_extracted.csv")
    size, flops = numbers(rows, ("Model Size", "Training FLOP")).T
    found["hoffmann"] = ("N", "D"), np.column_stack([size, flops / 6 / size]), numbers(rows, ("loss",))[:, 0]
    return found


def hidden_compute(folder: Path) -> None:
    print("\n| table | ahead | rows | hidden | rmse of ln loss | inside 90 % |\n|---|---|---|---|---|---|")
    covered: dict[tuple[int, bool], list[float]] = {}
    for name, (names, x, loss) in tables(folder).items():
        compute = x[:, 0] * x[:, 1]
        for factor in (4, 16):
            seen = compute <= compute.max() / factor * 1.0001
            if seen.sum() < 20:
                continue
            found, _ = predict(x[seen], loss[seen], x[~seen], names)
            error = float(np.sqrt(np.mean(np.log(found.median / loss[~seen]) ** 2)))
            inside = float(np.mean((loss[~seen] >= found.low) & (loss[~seen] <= found.high)))
            covered.setdefault((factor, any(word in name for word in TUNED_ON)), []).append(inside)
            print(
                f"| {name} | {factor}x | {seen.sum()} | {(~seen).sum()} | {error:.4f} | {100 * inside:.0f} % |",
                flush=True,
            )
    for (factor, tuned), shares in sorted(covered.items()):
        kind = "settings chosen on them" if tuned else "not looked at before"
        print(f"| mean of {len(shares)} tables, {kind} | {factor}x | | | | {100 * np.mean(shares):.0f} % |")


if __name__ == "__main__":
    root = Path(os.environ["METASCALE_DATA"])
    np.seterr(all="ignore")
    scalebench(root / "scalebench")
    hidden_compute(root / "scaling_tables")
