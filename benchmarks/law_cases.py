"""Cases on which settings of the law room are judged, none of them a region that the other benchmarks report.

    OMP_NUM_THREADS=1 METASCALE_DATA=... python benchmarks/law_cases.py [--next] [--seeds 0,2] [--only planted]

Planted laws of many kinds with a region hidden, and corners hidden inside the ScaleBench rows that may be fitted. Of
every region R² (cut off at -1) and the share of its rows inside 90 % intervals: with all other rows fitted and no form
named, or, with --next, with the runs that `follow` chooses for 1, 5 and 10 % of the cost.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metascale.laws import choose, follow, observe
from metascale.laws.library import LIBRARY
from metascale.laws.observations import Array

SCALEBENCH = {
    "moe": (("num_experts", "dense_parameter_count"), "loss_validation", (0, 1)),
    "farseer": (("N", "D"), "loss", (0, 1)),
    "data_constrained": (("params", "tokens", "unique_tokens"), "loss", (0, 1)),
    "vocab": (("non_vocab_parameters", "vocab_size", "num_characters"), "unigram_normalized_loss", (0, 2)),
}  # fmt: skip
"""Scales, loss, and the scales whose product is the cost of a run."""
MOST_ROWS = 360  # of a table whose corners are hidden


@dataclass(frozen=True)
class Case:
    """Rows that may be used, and a region to predict: scales [n, d], losses [n], cost [n]."""

    name: str
    names: tuple[str, ...]
    x: Array
    loss: Array
    cost: Array
    region: Array
    observed: Array


def grid(*axes: Array) -> Array:
    return np.stack([part.ravel() for part in np.meshgrid(*axes, indexing="ij")], 1)


def _library(name: str, **changes: float) -> Callable[[Array], Array]:
    law = LIBRARY[name]
    values = {**law.published, **changes}
    theta = np.array([[values[part] for part in law.expression.parameters]])
    return lambda x: np.asarray(law.expression.bind(x).value(theta)[0])


def _experts(x: Array) -> Array:
    """A floor and a product of powers whose exponent changes with the experts (Ludziejewski et al. 2024)."""
    n, e = x.T
    return np.asarray(1.1 + 30.0 * n ** (-0.17 + 0.006 * np.log(e)) * e**-0.16)


def _experts_and_sparsity(x: Array) -> Array:
    """A floor, powers and their product (Abnar et al. 2025)."""
    n, e = x.T
    return np.asarray(1.2 + 14.0 * n**-0.18 + 0.25 * e**-0.5 + 1.5 * n**-0.1 * e**-0.3)


def _signed(x: Array) -> Array:
    n, v, d = x.T
    return np.asarray(-7.2 + 40.0 * n**-0.22 + 1.5 * (v / 4096) ** -0.4 + 5000.0 * d**-0.37)


def _broken(x: Array) -> Array:
    """No form of the library: a power of compute that bends, and a valley in tokens a parameter."""
    n, d = x.T
    c = 6 * n * d
    bend = (1 + (c / 3e18) ** 0.5) ** 0.12
    return np.asarray(1.5 + 130.0 * c**-0.11 * bend + 0.03 * np.log(d / n / 20) ** 2 / (1 + 0.1 * np.log(c / 1e16)))


def _warmed(x: Array) -> Array:
    """Hoffmann's surface, with small runs spoilt by too long a warm-up (as Porian et al. 2024 describe)."""
    n, d = x.T
    return np.asarray(1.69 + 406.0 * n**-0.34 + 410.0 * d**-0.28 * (1 + 1.5 / (1 + d / 3e8)))


_N, _D = np.geomspace(2e7, 5e9, 9), np.geomspace(3e8, 2e11, 10)
_X, _DENSE = 2.0 ** np.arange(10), 1.7e7 * 2.7 ** np.arange(6)
_TRIPLES = grid(np.geomspace(7e6, 4e9, 7), np.geomspace(1e8, 1e11, 9), np.geomspace(1e8, 1e11, 5))
PLANTED: dict[str, tuple[tuple[str, ...], Callable[[Array], Array], Array, float, float, int]] = {
    "hoffmann": (("N", "D"), _library("hoffmann"), grid(_N, _D), 0.004, 0.0, 1),
    "hoffmann, small runs noisy": (("N", "D"), _library("hoffmann"), grid(_N, _D), 0.006, 0.7, 1),
    "kaplan": (("N", "D"), _library("kaplan_joint"), grid(_N, _D), 0.004, 0.0, 1),
    "farseer": (("N", "D"), _library("farseer"), grid(_N, _D), 0.002, 0.3, 1),
    "routed experts": (("X", "N"), lambda x: np.exp(
        4.2 - 0.17 * np.log(x[:, 1]) - 0.22 * np.log(1 / (1 / (x[:, 0] + 0.5) + 1 / 300.0))
        + 0.0085 * np.log(x[:, 1]) * np.log(1 / (1 / (x[:, 0] + 0.5) + 1 / 300.0))), grid(_X, _DENSE), 0.012, 0.0, 3),
    "experts": (("X", "N"), lambda x: _experts(x[:, ::-1]), grid(_X, _DENSE), 0.012, 0.3, 3),
    "experts and sparsity": (("X", "N"), lambda x: _experts_and_sparsity(x[:, ::-1]), grid(_X, _DENSE), 0.008, 0.0, 2),
    "repeated data": (("N", "D", "U"), _library("muennighoff"), _TRIPLES[_TRIPLES[:, 2] <= _TRIPLES[:, 1] * 1.001],
                      0.012, 0.5, 1),
    "vocabulary": (("N", "V", "D"), _signed, grid(_N[:6], 4096 * 2.0 ** np.arange(6), _D[:6]), 0.02, 0.0, 1),
    "precision": (("N", "D", "P"), _library("precision", beta=0.45), grid(_N[:6], _D[:6], 2.0 ** np.arange(1, 6)),
                  0.004, 0.0, 1),
    "sparsity": (("N", "D", "K"), _library("sparsity"), grid(_N[:6], _D[:6], 2.0 ** -np.arange(5)), 0.004, 0.0, 1),
    "broken": (("N", "D"), _broken, grid(_N, _D), 0.005, 0.3, 1),
    "warmed": (("N", "D"), _warmed, grid(_N, _D), 0.005, 0.5, 1),
}  # fmt: skip
"""Scales, law, design, noise (of ln loss; of the loss where it is signed), how it falls with size, repeats."""


def planted(name: str, seed: int) -> Case:
    """Three quarters of the design; the region is what is dearest of it, or the top of one scale (odd seeds)."""
    names, law, design, noise, falling, repeats = PLANTED[name]
    rng = np.random.default_rng([seed, *name.encode()])
    x = np.repeat(design[rng.random(len(design)) < 0.75], repeats, 0)
    x = x[rng.random(len(x)) < 0.9]
    product = np.log(x).sum(1)
    size = (product - product.mean()) / product.std()
    spread = noise * np.exp(-falling * size) * rng.standard_normal(len(x))
    loss = law(x)
    loss = loss * np.exp(spread) if (loss > 0).all() else loss + spread
    axis = (seed // 2) % len(names)
    near = np.isclose(x[:, axis], x[:, axis].max())
    hidden = near if seed % 2 else product > np.quantile(product, 0.88)
    return split(f"{name}, {seed}", names, x, loss, x[:, [0, 1] if "V" not in names else [0, 2]].prod(1), hidden)


def split(name: str, names: tuple[str, ...], x: Array, loss: Array, cost: Array, hidden: Array) -> Case:
    return Case(name, names, x[~hidden], loss[~hidden], cost[~hidden], x[hidden], loss[hidden])


def hidden_corners(folder: Path) -> list[Case]:
    """Corners of the rows that may be fitted: the dearest eighth, and the top of every scale."""
    found = []
    for table, (names, loss_name, paid) in SCALEBENCH.items():
        with open(folder / f"{table}_train.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        rows = rows[:: -(-len(rows) // MOST_ROWS)]
        x = np.array([[float(row[name]) for name in names] for row in rows])
        loss = np.array([float(row[loss_name]) for row in rows])
        cost, logs = x[:, list(paid)].prod(1), np.log(x)
        cuts = {"dearest": cost > np.quantile(cost, 0.88)}
        for k, name in enumerate(names):
            levels = np.unique(logs[:, k])
            top = levels[-1] if len(levels) <= 12 else np.quantile(logs[:, k], 0.9)
            cuts[f"top of {name}"] = logs[:, k] >= top - 1e-9
        found += [split(f"{table}, {cut}", names, x, loss, cost, hidden) for cut, hidden in cuts.items()]
    return found


def one_after_another(rows: Array, losses: Array) -> Callable[[Array], float]:
    """Losses of the runs at a row of scales, in their order: runs repeated there differ, each is measured once."""
    waiting: dict[tuple[float, ...], list[float]] = {}
    for row, loss in zip(rows.tolist(), losses.tolist(), strict=True):
        waiting.setdefault(tuple(row), []).append(loss)
    return lambda row: waiting[tuple(row.tolist())].pop(0)


def judged(case: Case, share: float | None) -> tuple[int, float, float]:
    """Runs fitted, R² of the region, share of its rows inside 90 % intervals; with all rows where there is no share."""
    if share is None:
        found = choose(observe(case.x, case.loss, x_name=case.names, signed=True)).mixture.predict(case.region)
        runs, median, low, high = len(case.x), found.median, found.low, found.high
    else:
        candidates, target = (
            {name: part[:, k].tolist() for k, name in enumerate(case.names)} for part in (case.x, case.region)
        )
        measure = one_after_another(case.x, case.loss)
        chosen, _, belief = follow(measure, candidates, case.cost, target, share * float(case.cost.sum()))
        runs, (median, low, high) = len(chosen), belief.predict(case.region)
    spread = float(np.sum((case.observed - case.observed.mean()) ** 2))
    r2 = max(-1.0, 1 - float(np.sum((case.observed - median) ** 2)) / spread)
    return runs, r2, float(np.mean((case.observed >= low) & (case.observed <= high)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--next", action="store_true")
    parser.add_argument("--seeds", default="0,2")
    parser.add_argument("--only", choices=("planted", "corners"))
    given = parser.parse_args()
    cases = {
        "planted": [planted(name, int(seed)) for name in PLANTED for seed in given.seeds.split(",")],
        "corners": hidden_corners(Path(os.environ["METASCALE_DATA"]) / "scalebench"),
    }
    np.seterr(all="ignore")
    for kind in [given.only] if given.only else cases:
        for share in (0.01, 0.05, 0.10) if given.next else (None,):
            said = []
            for case in cases[kind]:
                said.append(judged(case, share))
                runs, r2, inside = said[-1]
                print(f"{case.name:<42}{len(case.region):>5} hidden{runs:>6} runs{r2:>8.3f}{100 * inside:>6.0f} %",
                      flush=True)  # fmt: skip
            mean = np.mean(said, 0)
            print(f"mean of {len(said)} {kind}, {share or 'all'}: R2 {mean[1]:.3f}, inside {100 * mean[2]:.0f} %")


if __name__ == "__main__":
    main()
