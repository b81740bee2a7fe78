"""A study folder with planted synthetic values: what the study room writes, small enough to count by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metascale.study.store.records import format_cell, format_row

SCALES = (2, 5, 10, 20, 50, 100, 200)
SEEDS = (0, 1, 2)
N_TEST_TASKS = 60
STEPS = (0, 1, 3, 5, 10, 20)
N_META_STEPS = 600
COLUMNS = (
    "id", "label", "kind", "status", "method", "n_tasks", "seed", "test_loss_nats", "test_loss_sem_nats",
    "test_accuracy", "test_accuracy_sem", "validation_loss_nats", "best_step", "steps", "n_params_trainable", "wall_s",
    "message",
)  # fmt: skip
BASELINES = {
    "fine_tuning": ("baseline", 1.135, {"inner_lr": 0.1, "inner_steps": 10}),
    "prototypes": ("baseline", 1.02, {}),
    "linear_probe": ("baseline", 1.21, {"inner_lr": 0.5, "inner_steps": 20}),
    "zero_shot": ("baseline", 1.66, {}),
    "class_prior": ("control", 1.6094, {}),
}


@dataclass(frozen=True)
class Planted:
    """The truth behind the fixture: loss = coefficient * N^-exponent, times exp(noise) a seed."""

    exponent: float = 0.16
    coefficient: float = 1.75
    seed_noise: float = 0.025


def planted_loss(planted: Planted, n_tasks: int, seed: int) -> float:
    noise = np.random.default_rng([n_tasks, seed]).normal(0, planted.seed_noise)
    return float(planted.coefficient * n_tasks**-planted.exponent * np.exp(noise))


def make_study(
    folder: Path,
    *,
    scales: Sequence[int] = SCALES,
    seeds: Sequence[int] = SEEDS,
    failures: bool = True,
    planted: Planted | None = None,
    x_name: str = "n_tasks",
) -> Path:
    """Write a whole study into ``folder`` and return it."""
    truth = planted or Planted()
    rows = [_meta_run(folder, truth, x_name, n, seed) for n in scales for seed in seeds]
    rows += [_baseline_run(folder, method, kind, loss) for method, (kind, loss, _) in BASELINES.items()]
    if failures:
        rows += _failures(folder, x_name, scales)
    columns = [x_name if column == "n_tasks" else column for column in COLUMNS]
    table = [{column: row.get(column) for column in columns} for row in rows]
    write_csv(folder / "results.csv", table, raw_text=True)
    by_method = {row["method"]: row for row in rows if row["kind"] in ("baseline", "control")}
    baselines = {
        method: {**{key: by_method[method][key] for key in _METRICS}, **settings}
        for method, (_, _, settings) in BASELINES.items()
    }
    write_json(folder / "baselines.json", baselines)
    write_json(folder / "law.json", law(truth, x_name, scales, len(scales) * len(seeds)))
    write_json(folder / "study.json", study_json(x_name, scales, seeds))
    write_json(folder / "test_pool.json", pools_json())
    return folder


_METRICS = ("test_loss_nats", "test_loss_sem_nats", "test_accuracy", "test_accuracy_sem")


def study_json(x_name: str, scales: Sequence[int], seeds: Sequence[int]) -> dict[str, Any]:
    return {
        "name": "digits task scaling",
        "trial": "metascale.recipes.digits:trial",
        "base": {
            "recipe": "digits", "kind": "meta", "method": "reptile", "budget": "steps", "max_steps": N_META_STEPS,
            "n_way": 5, "k_shot": 1, "n_query": 15, "classes": "disjoint", "labels": "permuted", "n_test_tasks": 60,
            "model": "mlp", "width": 64, "inner_lr": 0.1, "inner_steps": 5, "adapt": ["*"],
        },
        "axes": [[x_name, list(scales)]],
        "seeds": list(seeds),
        "extra": [],
        "command": "metascale run digits --seeds 0,1,2",
        "versions": {"metascale": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
    }  # fmt: skip


def pools_json() -> dict[str, Any]:
    """The shared pools, as a task source describes itself."""
    return {
        "data": "digits",
        "details": {"source": "Optical Recognition of Handwritten Digits (UCI)", "licence": "CC BY 4.0 (UCI)"},
        "pools": {"test": [task_id(i) for i in range(N_TEST_TASKS)]},
        "split": {"train": list(range(24)), "validation": list(range(8)), "test": list(range(8))},
    }


def law(truth: Planted, x_name: str, scales: Sequence[int], n_observations: int) -> dict[str, Any]:
    a, alpha = truth.coefficient, truth.exponent
    x = np.geomspace(min(scales), max(scales), 41)
    median = a * x**-alpha
    width = 0.012 + 0.012 * np.abs(np.log(x / np.sqrt(min(scales) * max(scales)))) / 2.3
    top = max(scales)
    predicted = a * top**-alpha * 1.013
    falls = {"A": a, "alpha": alpha}

    def family(parameters: Mapping[str, float], rmse: float, aicc: float, backtest: float, note: str = "") -> Any:
        return {
            "objective": rmse**2 * n_observations, "rmse_log": rmse, "aicc": aicc,
            "backtest_rmse_log": backtest,
            "parameters": {
                k: {"estimate": v, "low": v - abs(v) / 20, "high": v + abs(v) / 20} for k, v in parameters.items()
            },
            "converged": True, "note": note,
        }  # fmt: skip

    return {
        "law": "power",
        "formula": "A·x^-alpha",
        "objective": 0.01234,
        "x_name": x_name,
        "loss_name": "test_loss_nats",
        "n_observations": n_observations,
        "n_scales": len(scales),
        "level": 0.95,
        "parameters": {
            "A": {"estimate": a, "low": 0.97 * a, "high": 1.03 * a},
            "alpha": {"estimate": alpha, "low": alpha - 0.0082, "high": alpha + 0.0079},
        },
        "r2_log": 0.9841,
        "verdict": "A power law describes the losses; an irreducible loss cannot be told from zero.",
        "trend": "falls",
        "families": {
            "power": family(falls, 0.024, -98.4, 0.026),
            "power_irreducible": family({**falls, "E": 0.0}, 0.024, -95.6, 0.041, "E is at its lower end, zero"),
            "none": family({"C": 1.1}, 0.26, -22.1, 0.31),
        },
        "extrapolation": {
            "law": "power",
            "held_out_x": float(top),
            "observed": float(np.mean([planted_loss(truth, top, seed) for seed in SEEDS])),
            "predicted": float(predicted),
            "low": float(predicted * 0.955),
            "high": float(predicted * 1.05),
            "log_error": 0.013,
            "baselines": {"last_value": 0.838, "tail_line": 0.758},
        },
        "curve": {
            "x": x.tolist(), "median": median.tolist(),
            "low": (median * np.exp(-width)).tolist(), "high": (median * np.exp(width)).tolist(),
        },
        "notes": [
            f"Only {len(scales)} scales: the irreducible loss is not identified.",
            "The interval resamples seeds; it does not allow for the law being wrong.",
        ],
    }  # fmt: skip


def task_id(index: int) -> str:
    return f"test-{index:03d}"


def accuracy_of(loss: float) -> float:
    return float(np.clip(1.12 - 0.56 * loss, 0.2, 0.99))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, raw_text: bool = False) -> None:
    """A record as the study room writes it; with ``raw_text`` results.csv, whose texts are not quoted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0])]
    for row in rows:
        lines.append([v if raw_text and isinstance(v, str) else format_cell(v) for v in row.values()])
    path.write_text("".join(f"{format_row(cells)}\n" for cells in lines), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _meta_run(folder: Path, truth: Planted, x_name: str, n_tasks: int, seed: int) -> dict[str, Any]:
    label, identity = f"{x_name}={n_tasks}-seed={seed}", f"{n_tasks * 10 + seed:012x}"
    loss = planted_loss(truth, n_tasks, seed)
    run = folder / "runs" / f"{label}-{identity}"
    test = _write_test_tasks(run, loss, [n_tasks, seed, 7])
    rng = np.random.default_rng([n_tasks, seed, 1])
    steps = np.arange(1, N_META_STEPS + 1)
    falling = loss + (1.62 - loss) * np.exp(-steps / 120)
    train = falling * (1 - 0.25 / np.sqrt(n_tasks)) + rng.normal(0, 0.05, steps.size)
    write_csv(
        run / "train_stats.csv",
        [
            {
                "step": int(s),
                "support_loss_end_nats": float(0.8 * v),
                "query_loss_nats": float(v),
                "query_loss_std_nats": 0.1,
            }
            for s, v in zip(steps, np.maximum(train, 0.05), strict=True)
        ],
    )
    evals = np.arange(0, N_META_STEPS + 1, 50)
    overfit = 0.25 / n_tasks * np.maximum(evals - 250, 0) / 250
    validation = (loss + (1.62 - loss) * np.exp(-evals / 120)) * 1.02 + overfit + rng.normal(0, 0.012, evals.size)
    write_csv(
        run / "eval_stats.csv",
        [
            {"step": int(s), "validation_loss_nats": float(v), "validation_accuracy": accuracy_of(v)}
            for s, v in zip(evals, validation, strict=True)
        ],
    )
    _write_adaptation(run, loss, 1.63, 2.0)
    best = int(np.argmin(validation))
    return {
        "id": identity, "label": label, "kind": "meta", "status": "finished", x_name: n_tasks,
        "seed": seed, **test, "validation_loss_nats": float(validation[best]), "best_step": int(evals[best]),
        "steps": N_META_STEPS, "n_params_trainable": 8645, "wall_s": 4.2 + 0.01 * n_tasks, "message": None,
    }  # fmt: skip


def _baseline_run(folder: Path, method: str, kind: str, loss: float) -> dict[str, Any]:
    label, identity = f"method={method}-seed=0", f"{sum(map(ord, method)):012x}"
    run = folder / "runs" / f"{label}-{identity}"
    test = _write_test_tasks(run, loss, [5, 9, len(method)])
    if method == "fine_tuning":
        _write_adaptation(run, loss, 1.75, 4.5)
    return {
        "id": identity, "label": label, "kind": kind, "status": "finished", "method": method, "seed": 0, **test,
        "wall_s": 1.5, "message": None,
    }  # fmt: skip


def _write_test_tasks(run: Path, loss: float, key: Sequence[int]) -> dict[str, float]:
    """Task difficulty is shared by all methods, so that pairing removes it; the mean is exactly ``loss``."""
    difficulty = np.random.default_rng(99).normal(0, 0.22, N_TEST_TASKS)
    noise = difficulty + np.random.default_rng(key).normal(0, 0.06, N_TEST_TASKS)
    losses = loss + (noise - noise.mean()) * min(loss, 1.0)
    accuracies = np.array([accuracy_of(value) for value in losses])
    write_csv(
        run / "test_tasks.csv",
        [
            {"task_id": task_id(i), "loss_nats": float(losses[i]), "accuracy": float(accuracies[i])}
            for i in range(N_TEST_TASKS)
        ],
    )
    root = N_TEST_TASKS**0.5
    return {
        "test_loss_nats": float(losses.mean()),
        "test_loss_sem_nats": float(losses.std(ddof=1) / root),
        "test_accuracy": float(accuracies.mean()),
        "test_accuracy_sem": float(accuracies.std(ddof=1) / root),
    }


def _write_adaptation(run: Path, loss: float, start: float, rate: float) -> None:
    rows = []
    for k in STEPS:
        value = loss + (start - loss) * float(np.exp(-k / rate))
        rows.append(
            {
                "inner_steps": k, "loss_nats": value, "loss_sem_nats": 0.03 * value,
                "accuracy": accuracy_of(value), "accuracy_sem": 0.012,
            }
        )  # fmt: skip
    write_csv(run / "adaptation.csv", rows)


def _failures(folder: Path, x_name: str, scales: Sequence[int]) -> list[dict[str, Any]]:
    diverged = {
        "id": "d" * 12, "label": f"{x_name}={scales[0]}-seed=9", "kind": "meta", "status": "diverged",
        x_name: scales[0], "seed": 9, "wall_s": 0.4,
        "message": "loss became nan at outer step 137 (tasks train-1); last finite value 2.31",
    }  # fmt: skip
    failed = {
        "id": "e" * 12, "label": f"{x_name}={scales[-1]}-seed=9", "kind": "meta", "status": "failed",
        x_name: scales[-1], "seed": 9, "wall_s": 0.1,
        "message": "InputError: the pool has 190 tasks, fewer than 200",
    }  # fmt: skip
    run = folder / "runs" / f"{diverged['label']}-{diverged['id']}"
    write_csv(
        run / "eval_stats.csv",
        [{"step": s, "validation_loss_nats": 1.62 + s / 400, "validation_accuracy": 0.2} for s in (0, 50, 100)],
    )
    return [diverged, failed]
