"""How far is each approximate meta-gradient from the exact one? Cosine, length and error, at the start and warmed up.

    python benchmarks/gradient_quality.py --data-dir DATA > gradients.md

On the recipe "melora" at its laptop size (a 260k-parameter Llama with adapters), for one meta-batch after another:
the meta-gradient by every curvature, beside the exact one of the same meta-batch. The warm point is θ after training
with the exact meta-gradient. One thing varies at a time: the inner steps K, the inner rate, the rank.

cosine       of the angle to the exact meta-gradient
length       of the meta-gradient over that of the exact one
error        ‖g − exact‖ over ‖first-order − exact‖: below 1, the approximation is worth more than leaving curvature out
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from metascale.core.trees import dot, norm, subtract
from metascale.core.types import Params
from metascale.recipes.melora import LAPTOP
from metascale.training.state import TrainState
from metascale.workflow.config import FewShotConfig
from metascale.workflow.fewshot import Parts, make_learner
from metascale.workflow.recipe import load_recipe

METHODS = (
    "fomaml",
    "reptile",
    "melora_diagonal",
    "melora_block_diagonal",
    "melora_gauss_newton",
    "melora_finite_difference",
    "maml",
)
EXACT = "melora"
BASE = {"inner_steps": 3, "inner_lr": 0.1, "rank": 8}
SWEEPS: dict[str, tuple[Any, ...]] = {
    "inner_steps": (1, 3, 5, 10),
    "inner_lr": (0.02, 0.1, 0.3),
    "rank": (4, 8, 16, 32),
}


@dataclass(frozen=True)
class Row:
    """One method at one point: means over meta-batches, and the standard deviation of the cosine."""

    data: str
    stage: str
    point: dict[str, Any]
    method: str
    cosine: float
    cosine_std: float
    length: float
    error: float


def settings_of(data: str, method: str, point: dict[str, Any]) -> FewShotConfig:
    values = {**LAPTOP, "data": data, "method": method, "budget": "steps", "budget_flops": None, **point}
    checked: FewShotConfig = load_recipe("melora").validate(values)
    return checked


def points() -> list[dict[str, Any]]:
    found = [{**BASE, key: value} for key, values in SWEEPS.items() for value in values]
    return [point for place, point in enumerate(found) if point not in found[:place]]


def warmed(settings: FewShotConfig, parts: Parts, steps: int) -> TrainState:
    """θ after that many outer steps with the exact meta-gradient."""
    learner = make_learner(settings, parts.model, 0, "cpu")
    state = learner.init(parts.model, 0)
    for k in range(steps):
        indices = range(k * settings.meta_batch, (k + 1) * settings.meta_batch)
        state, _ = learner.step(parts.model, state, parts.source.episodes("train", indices))
    return state


def measured(
    data: str, stage: str, point: dict[str, Any], parts: Parts, theta: Params, n_batches: int
) -> Iterator[Row]:
    """Every method against the exact meta-gradient, on meta-batches that training never sees."""
    settings = settings_of(data, EXACT, point)
    size = settings.meta_batch
    found: dict[str, list[Params]] = {}
    for batch in range(n_batches):
        episode = parts.source.episodes("validation", range(batch * size, (batch + 1) * size))
        for method in (EXACT, *METHODS):
            gradient = make_learner(settings_of(data, method, point), parts.model, 0, "cpu").gradient
            found.setdefault(method, []).append(gradient(parts.model, theta, episode, None)[0])
    for method in METHODS:
        triples = list(zip(found[method], found[EXACT], found["fomaml"], strict=True))
        cosines = [float(dot(one, exact) / (norm(one) * norm(exact))) for one, exact, _ in triples]
        lengths = [float(norm(one) / norm(exact)) for one, exact, _ in triples]
        errors = [float(norm(subtract(one, exact)) / norm(subtract(first, exact))) for one, exact, first in triples]
        spread = statistics.stdev(cosines) if len(cosines) > 1 else 0.0
        yield Row(
            data, stage, point, method, statistics.fmean(cosines), spread, statistics.fmean(lengths),
            statistics.fmean(errors),
        )  # fmt: skip


def run(data: str, n_batches: int, warm_steps: int) -> Iterator[Row]:
    """All points of one data set."""
    warm: dict[int, TrainState] = {}
    for point in points():
        settings = settings_of(data, EXACT, point)
        settings = dataclasses.replace(settings, n_validation_tasks=n_batches * settings.meta_batch)
        parts = load_recipe("melora").make_parts(settings, 0, "cpu")
        if point["rank"] not in warm:
            start = settings_of(data, EXACT, {**BASE, "rank": point["rank"]})
            warm[point["rank"]] = warmed(start, parts, warm_steps)
        for stage, theta in (("start", parts.model.init(0)), (f"{warm_steps} steps", warm[point["rank"]].params)):
            print(data, stage, point, file=sys.stderr, flush=True)
            yield from measured(data, stage, point, parts, theta, n_batches)


def table(rows: list[Row]) -> str:
    lines = [
        "| data | θ | K | rate | rank | method | cosine (± s.d. over meta-batches) | length | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row.data, row.stage, *(str(row.point[key]) for key in BASE), row.method]
        cells += [f"{row.cosine:.4f} ± {row.cosine_std:.4f}", f"{row.length:.3f}", f"{row.error:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="the data folder (stories260k, banking77)")
    parser.add_argument("--data", default="banking77,synthetic")
    parser.add_argument("--meta-batches", type=int, default=4)
    parser.add_argument("--warm-steps", type=int, default=40)
    options = parser.parse_args()
    os.environ["METASCALE_DATA"] = options.data_dir
    torch.set_num_threads(1)
    rows = [row for data in options.data.split(",") for row in run(data, options.meta_batches, options.warm_steps)]
    print(table(rows))


if __name__ == "__main__":
    main()
