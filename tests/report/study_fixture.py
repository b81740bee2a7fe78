"""A study folder with planted synthetic values: what the study room writes, small enough to count by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metascale.report.study import RunRow
from metascale.study.definition import Definition, load_definition, save_definition
from metascale.study.design import Study, Trial, build_trial
from metascale.study.roles import Roles
from metascale.study.store.claims import CLAIM
from metascale.study.store.folder import RunView, read_study, run_folder
from metascale.study.store.records import format_cell, format_row
from metascale.study.store.seals import sealed
from metascale.study.store.table import write_results

SCALES = (2, 5, 10, 20, 50, 100, 200)
SEEDS = (0, 1, 2)
N_TEST_TASKS = 60
STEPS = (0, 1, 3, 5, 10, 20)
N_META_STEPS = 600
BASELINES = {
    "fine_tuning": ("baseline", 1.135, {"inner_lr": 0.1, "inner_steps": 10}),
    "prototypes": ("baseline", 1.02, {}),
    "linear_probe": ("baseline", 1.21, {"inner_lr": 0.5, "inner_steps": 20}),
    "zero_shot": ("baseline", 1.66, {}),
    "class_prior": ("control", 1.6094, {}),
}


class StudyBuilder:
    """Writes a study folder as the study room does: study.json, a folder a run, and results.csv from them.

    Args:
        launched: what command.json says.
    """

    def __init__(
        self,
        folder: Path,
        axes: Mapping[str, Sequence[Any]],
        *,
        name: str = "study",
        base: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        launched: Mapping[str, Any] | None = None,
        roles: Roles | None = None,
    ) -> None:
        self.folder = folder
        self.study = Study(name, "tests.report.study_fixture:trial", base or {}, axes, seeds, roles=roles)
        self.trials: list[Trial] = []
        if launched:
            write_json(folder / "command.json", launched)

    def run(
        self,
        label: str,
        sets: Mapping[str, Any],
        seed: int = 0,
        *,
        kind: str = "trial",
        status: str = "finished",
        message: str = "",
        result: Mapping[str, Any] | None = None,
        wall_s: float | None = None,
    ) -> Path:
        """Add a run and return its folder, for its records."""
        study = self.study
        trial = build_trial(study.trial, study.base, {**sets, "kind": kind}, seed, kind, label=label)
        self.trials.append(trial)
        place = run_folder(self.folder, trial)
        place.mkdir(parents=True)
        ending = {"status": status, "message": message, "result": dict(result or {})}
        if status in ("finished", "diverged"):
            write_json(
                place / "result.json", sealed({**{key: value for key, value in ending.items() if value}, "files": {}})
            )
        elif status == "failed":
            (place / "error.txt").write_text(f"Traceback\n  ...\n{message}\n")
        elif status == "running":
            (place / CLAIM).touch()
        if wall_s is not None:
            (place / "history.jsonl").write_text(json.dumps({"event": status, "at": 0.0, "wall_s": wall_s}) + "\n")
        return place

    def write(self) -> Path:
        """Write study.json and results.csv; returns the study's folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_definition(self.folder, Definition(self.study, tuple(self.trials), "0.1.0"))
        write_results(self.folder)
        return self.folder


def trial(config: dict[str, Any], run: object, device: str) -> dict[str, Any]:
    """The fixtures' trial function, which nothing runs."""
    raise NotImplementedError


def run_row(seed: int = 0, **cells: Any) -> RunRow:
    """A finished run that has no folder."""
    trial = build_trial("tests.report.study_fixture:trial", {}, {}, seed, "trial")
    return RunRow(RunView(trial, Path("nowhere")), {"kind": "trial", "status": "finished", **cells}, "trained")


def change(folder: Path, edit: Callable[[Trial, dict[str, Any]], Mapping[str, Any] | None]) -> None:
    """Replace the result of every finished run by what ``edit`` makes of it; ``None`` leaves it as it is."""
    for run in read_study(folder).runs:
        ending = run.ending()
        result = edit(run.trial, dict(ending["result"])) if ending and ending["status"] == "finished" else None
        if ending is not None and result is not None:
            write_json(run.folder / "result.json", sealed({**ending, "result": dict(result)}))
    write_results(folder)


def keep(folder: Path, wanted: Callable[[Trial], bool]) -> None:
    """Remove the trials that are not wanted from the study."""
    definition = load_definition(folder)
    kept = tuple(trial for trial in definition.trials if wanted(trial))
    save_definition(folder, Definition(definition.study, kept, definition.package_version))
    write_results(folder)


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
    builder = StudyBuilder(
        folder,
        {x_name: list(scales)},
        name="digits task scaling",
        base=BASE,
        seeds=seeds,
        launched={"command": "metascale run digits --seeds 0,1,2"},
    )
    for n in scales:
        for seed in seeds:
            _meta_run(builder, truth, x_name, n, seed)
    tests = {name: _baseline_run(builder, x_name, name, kind, loss) for name, (kind, loss, _) in BASELINES.items()}
    if failures:
        _failures(builder, x_name, scales)
    builder.write()
    baselines = {method: {**tests[method], **settings} for method, (_, _, settings) in BASELINES.items()}
    write_json(folder / "baselines.json", baselines)
    write_json(folder / "law.json", law(truth, x_name, scales, len(scales) * len(seeds)))
    write_json(folder / "test_pool.json", pools_json())
    return folder


BASE = {
    "recipe": "digits", "kind": "meta", "method": "reptile", "budget": "steps", "max_steps": N_META_STEPS, "n_way": 5,
    "k_shot": 1, "n_query": 15, "classes": "disjoint", "labels": "permuted", "n_test_tasks": 60, "model": "mlp",
    "width": 64, "inner_lr": 0.1, "inner_steps": 5, "adapt": ["*"],
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


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A record as the study room writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0])]
    for row in rows:
        lines.append([format_cell(value) for value in row.values()])
    path.write_text("".join(f"{format_row(cells)}\n" for cells in lines), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _meta_run(builder: StudyBuilder, truth: Planted, x_name: str, n_tasks: int, seed: int) -> None:
    loss = planted_loss(truth, n_tasks, seed)
    rows, test = task_losses(loss, [n_tasks, seed, 7])
    rng = np.random.default_rng([n_tasks, seed, 1])
    steps = np.arange(1, N_META_STEPS + 1)
    falling = loss + (1.62 - loss) * np.exp(-steps / 120)
    train = np.maximum(falling * (1 - 0.25 / np.sqrt(n_tasks)) + rng.normal(0, 0.05, steps.size), 0.05)
    evals = np.arange(0, N_META_STEPS + 1, 50)
    overfit = 0.25 / n_tasks * np.maximum(evals - 250, 0) / 250
    validation = (loss + (1.62 - loss) * np.exp(-evals / 120)) * 1.02 + overfit + rng.normal(0, 0.012, evals.size)
    best = int(np.argmin(validation))
    result = {
        **test, "validation_loss_nats": float(validation[best]), "best_step": int(evals[best]),
        "steps": N_META_STEPS, "n_params_trainable": 8645,
    }  # fmt: skip
    run = builder.run(
        f"{x_name}={n_tasks}-seed={seed}", {x_name: n_tasks}, seed, kind="meta", result=result,
        wall_s=4.2 + 0.01 * n_tasks,
    )  # fmt: skip
    write_csv(run / "test_tasks.csv", rows)
    records = [
        {"step": int(s), "support_loss_end_nats": float(0.8 * v), "query_loss_nats": float(v)}
        for s, v in zip(steps, train, strict=True)
    ]
    write_csv(run / "train_stats.csv", records)
    looks = [
        {"step": int(s), "validation_loss_nats": float(v), "validation_accuracy": accuracy_of(v)}
        for s, v in zip(evals, validation, strict=True)
    ]
    write_csv(run / "eval_stats.csv", looks)
    _write_adaptation(run, loss, 1.63, 2.0)


def _baseline_run(builder: StudyBuilder, x_name: str, method: str, kind: str, loss: float) -> dict[str, float]:
    rows, test = task_losses(loss, [5, 9, len(method)])
    sets = {"method": method, x_name: None}
    run = builder.run(f"method={method}-seed=0", sets, kind=kind, result=test, wall_s=1.5)
    write_csv(run / "test_tasks.csv", rows)
    if method == "fine_tuning":
        _write_adaptation(run, loss, 1.75, 4.5)
    return test


def task_losses(loss: float, key: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows and test results whose mean is ``loss``. Difficulty is shared by all methods, so that pairing removes it."""
    difficulty = np.random.default_rng(99).normal(0, 0.22, N_TEST_TASKS)
    noise = difficulty + np.random.default_rng(key).normal(0, 0.06, N_TEST_TASKS)
    losses = loss + (noise - noise.mean()) * min(loss, 1.0)
    accuracies = np.array([accuracy_of(value) for value in losses])
    rows = [
        {"task_id": task_id(i), "loss_nats": float(losses[i]), "accuracy": float(accuracies[i])}
        for i in range(N_TEST_TASKS)
    ]
    root = N_TEST_TASKS**0.5
    return rows, {
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


def _failures(builder: StudyBuilder, x_name: str, scales: Sequence[int]) -> None:
    message = "loss became nan at outer step 137 (tasks train-1); last finite value 2.31"
    run = builder.run(
        f"{x_name}={scales[0]}-seed=9", {x_name: scales[0]}, 9, kind="meta", status="diverged", message=message,
        wall_s=0.4,
    )  # fmt: skip
    write_csv(
        run / "eval_stats.csv",
        [{"step": s, "validation_loss_nats": 1.62 + s / 400, "validation_accuracy": 0.2} for s in (0, 50, 100)],
    )
    message = "InputError: the pool has 190 tasks, fewer than 200"
    label = f"{x_name}={scales[-1]}-seed=9"
    builder.run(label, {x_name: scales[-1]}, 9, kind="meta", status="failed", message=message, wall_s=0.1)
