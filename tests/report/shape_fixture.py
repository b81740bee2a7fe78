"""A study of shapes made of a planted law, with planted irregular points, searches and learning curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from metascale.laws import analyse
from metascale.study.roles import Roles
from tests.report.study_fixture import StudyBuilder, write_csv

E, A, ALPHA = 0.1, 20.0, 0.6
WIDTHS, DEPTHS, RATIOS, SEEDS = (4, 8, 16, 32, 64), (2, 3), (1.0, 2.0), (0, 1, 2)
NOISE = 0.01


def size(width: int, depth: int, ratio: float) -> int:
    """A number of parameters, different for every shape."""
    return round(64 * width + depth * width**2 * ratio) + depth


def law(n: float) -> float:
    """The planted loss."""
    return float(E + A * n**-ALPHA)


def write_shapes(folder: Path, faults: dict[tuple[int, int, float], dict[str, Any]] | None = None) -> Path:
    """One series of 20 shapes, three seeds each.

    Args:
        faults: by (width, depth, ratio): ``factor`` on the loss (one number or one a seed), ``converged``, ``edge``.
    """
    builder = StudyBuilder(
        folder,
        {"width": WIDTHS, "depth": DEPTHS, "ratio": RATIOS},
        name="shapes",
        seeds=SEEDS,
        launched={"command": "c", "question": "q?"},
        roles=Roles(("n_params_total",), loss="test_loss_nats"),
    )
    results, tuning = [], []
    for width in WIDTHS:
        for depth in DEPTHS:
            for ratio in RATIOS:
                fault = (faults or {}).get((width, depth, ratio), {})
                tuning.append(_searched(width, depth, ratio, fault.get("edge")))
                factors = fault.get("factor", 1.0)
                for seed in SEEDS:
                    factor = factors[seed] if isinstance(factors, (list, tuple)) else factors
                    shape = (width, depth, ratio)
                    results.append(_run(builder, shape, seed, factor, fault.get("converged", True)))
    builder.write()
    (folder / "tuning.json").write_text(json.dumps(tuning))
    found = analyse(
        [result["n_params_total"] for result in results],
        [result["test_loss_nats"] for result in results],
        replicate=[*SEEDS] * (len(results) // len(SEEDS)),
        x_name="n_params_total",
        loss_name="test_loss_nats",
        n_bootstrap=50,
    )
    (folder / "law.json").write_text(json.dumps(found.to_json()))
    return folder


def _run(
    builder: StudyBuilder, shape: tuple[int, int, float], seed: int, factor: float, converged: bool
) -> dict[str, Any]:
    width, depth, ratio = shape
    n = size(*shape)
    # Seeds differ, and their geometric mean lies on the law: nothing is irregular by chance.
    loss = law(n) * factor * math.exp(NOISE * (seed - 1))
    # The gap between training and validation grows with the width: narrow nets underfit, wide ones overfit.
    gap = 0.1 if width <= 8 else 0.35 if width == 16 else 0.7
    best = 30 if converged else 50
    evaluations = []
    for step in range(0, 51, 10):
        validation = loss * (1 + 2 * math.exp(-step / 10)) if step <= best else loss * (1 + 0.01 * (step - best))
        evaluations.append(
            {
                "step": step,
                "epoch": step / 10,
                "validation_loss_nats": validation if step != best else loss,
                "train_loss_nats": validation * (1 - gap) if step != best else loss * (1 - gap),
            }
        )
    result = {
        "lr": 0.01, "dropout": 0.1, "n_params_total": n, "test_loss_nats": loss, "test_accuracy": 0.9,
        "best_step": best, "steps": 50, "training": "converged" if converged else "max_steps",
    }  # fmt: skip
    label = f"width={width}-depth={depth}-ratio={ratio}-seed={seed}"
    run = builder.run(label, {"width": width, "depth": depth, "ratio": ratio}, seed, result=result)
    write_csv(run / "eval_stats.csv", evaluations)
    return result


def _searched(width: int, depth: int, ratio: float, edge: str | None) -> dict[str, Any]:
    """A search of the rate: best at 0.01, or at the upper end of the range where an edge is planted."""
    best = 0.1 if edge else 0.01
    tried = [
        {
            "values": {"lr": rate, "batch_size": (32, 64, 128)[place % 3]},
            "loss": None if status == "diverged" else 1 + math.log10(rate / best) ** 2,
            "status": status,
            "curve": [],
        }
        for place, (rate, status) in enumerate(
            [(0.001, "finished"), (0.003, "pruned"), (0.01, "finished"), (0.03, "finished"), (0.1, "finished"),
             (0.3, "diverged"), (0.02, "finished")]
        )
    ]  # fmt: skip
    values = next(one["values"] for one in tried if one["values"]["lr"] == best)
    point = {"width": width, "depth": depth, "ratio": ratio}
    return {"point": point, "values": values, "loss": 1.0, "tried": tried, "edges": {"lr": "high"} if edge else {}}
