"""What the page tells around the plots: trials, families, what was held fixed, where it came from, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.types import SPLITS
from metascale.report.findings import missing_law_reason
from metascale.report.reading import (
    META,
    StudyFolder,
    axis_values,
    finite,
    flat,
    has_scale,
    loss_column,
    read_study,
    reason_of,
    sem_column,
    wall_s_of,
    x_column,
)
from metascale.report.sections.curves import adaptation_data, learning_curves_data
from metascale.report.series import series_of
from metascale.report.words import number

# What a reader of a few-shot study asks for first; the rest of the configuration follows in full.
_FIRST = (
    "recipe", "budget", "arm", "max_steps", "n_meta_steps", "visits_per_task", "method", "model", "source", "dataset",
    "n_way", "k_shot", "k_support", "n_query", "classes", "labels", "split", "n_test_tasks", "n_validation_tasks",
    "n_tasks", "n_train_classes", "inner_optimizer", "inner_lr", "inner_steps", "outer_optimizer", "outer_lr",
    "meta_batch", "rank", "lora_r",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial as the page lists it; ``reason`` says why it did not finish."""

    id: str
    label: str
    kind: str
    method: str
    x: float | None
    seed: int | None
    status: str
    loss: float | None
    task_sem: float | None
    accuracy: float | None
    best_step: float | None
    steps: float | None
    wall_s: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class TrialTable:
    """All trials, and how many have each status."""

    rows: tuple[TrialRow, ...]
    counts: Mapping[str, int]
    x_name: str


@dataclass(frozen=True, slots=True)
class Family:
    """One fitted family of laws; the chosen one is marked. Errors are of log loss."""

    name: str
    chosen: bool
    parameters: Mapping[str, float]
    rmse_log: float | None
    aicc: float | None
    backtest_rmse_log: float | None
    backtest_coverage: float | None
    converged: bool
    note: str


def trials_data(folder: Path | str | StudyFolder) -> TrialTable:
    """Every trial of results.csv, in its order, with the reason of those that did not finish."""
    study = read_study(folder)
    x_name, loss = x_column(study), loss_column(study)
    rows = tuple(
        TrialRow(
            id=trial.id,
            label=trial.label,
            kind=trial.kind,
            method=trial.method,
            x=trial.number(x_name),
            seed=trial.seed,
            status=trial.status,
            loss=trial.number(loss),
            task_sem=trial.number(sem_column(loss)),
            accuracy=trial.number("test_accuracy"),
            best_step=trial.number("best_step"),
            steps=trial.number("steps"),
            wall_s=wall_s_of(trial),
            reason="" if trial.finished else reason_of(trial),
        )
        for trial in study.trials
    )
    statuses = [row.status for row in rows]
    return TrialTable(rows, {status: statuses.count(status) for status in dict.fromkeys(statuses)}, x_name)


def families_data(law: Mapping[str, Any]) -> tuple[Family, ...]:
    """The fitted families of a law.json, smallest backtest error first (unknown ones last)."""
    families = [
        Family(
            name=str(name),
            chosen=name == law.get("law"),
            parameters=_estimates(entry.get("parameters")),
            rmse_log=finite(entry.get("rmse_log")),
            aicc=finite(entry.get("aicc")),
            backtest_rmse_log=finite(entry.get("backtest_rmse_log")),
            backtest_coverage=finite(entry.get("backtest_coverage")),
            converged=bool(entry.get("converged", True)),
            note=str(entry.get("note") or ""),
        )
        for name, entry in (law.get("families") or {}).items()
    ]
    unknown = float("inf")
    errors = {family.name: family.backtest_rmse_log for family in families}
    return tuple(
        sorted(families, key=lambda family: (unknown if (e := errors[family.name]) is None else e, family.name))
    )


def fixed_data(folder: Path | str | StudyFolder) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """What was held fixed: (setting, value) pairs that a reader asks for first, and the others."""
    study = read_study(folder)
    settings = flat(study.config.get("base") or {})
    varied = set(axis_values(study))
    shown = {key: value for key, value in settings.items() if key.rsplit(".", 1)[-1] not in varied}
    # A setting without a value, or of a budget that was not chosen, is no answer to what was held fixed.
    idle = {key for key, value in shown.items() if value is None}
    idle |= {"visits_per_task"} if settings.get("budget") != "visits" else {"max_steps"}
    first = [key for word in _FIRST for key in shown if word in (key.rsplit(".", 1)[-1], key) and key not in idle]
    first = list(dict.fromkeys(first))
    rest = sorted(key for key in shown if key not in first)
    split = study.test_pool.get("split")
    split = split if isinstance(split, Mapping) else {}
    classes = [f"{len(split[part])} {part}" for part in SPLITS if part in split]
    pairs = [(key, _words(shown[key])) for key in first]
    pairs += [("class split", " / ".join(classes))] if classes else []
    return tuple(pairs), tuple((key, _words(shown[key])) for key in rest)


def missing_data(folder: Path | str | StudyFolder) -> tuple[str, ...]:
    """What the study lacks and why, one sentence each; empty when all parts are there."""
    study = read_study(folder)
    main = study.main
    finished = [trial for trial in main if trial.finished and trial.number(loss_column(study)) is not None]
    missing = []
    if not study.config:
        missing.append("study.json is absent: the configuration is unknown.")
    scaled = has_scale(study) or not study.columns
    if scaled and study.law is None:
        missing.append(f"The law is missing: {missing_law_reason(study)}")
    elif study.law is not None and not study.law.get("extrapolation"):
        why = study.law.get("extrapolation_reason") or "law.json holds no held-out scale"
        missing.append(f"The extrapolation check is missing: {why}.")
    meta = study.terms is META
    if meta and scaled and not study.of_kind("baseline", "control") and not study.baselines:
        missing.append("Baselines are missing: there is no baselines.json and results.csv has no baseline rows.")
    ended = [trial for trial in main if trial.status in ("failed", "diverged")]
    if ended:
        missing.append(
            f"{len(ended)} of {len(main)} {study.terms.trained} trials diverged or failed and are not in the law."
        )
    waiting = [trial for trial in study.trials if trial.status in ("pending", "running")]
    if waiting:
        missing.append(f"{len(waiting)} trials have not ended yet: the numbers will change.")
    lonely = _scales_with_one_seed(study) if scaled else []
    off_axis = [trial for trial in finished if scaled and trial.number(x_column(study)) is None]
    if off_axis:
        missing.append(f"{len(off_axis)} finished trials have no value of {x_column(study)} and are not drawn.")
    if finished and lonely:
        scales = ", ".join(number(x) for x in lonely)
        missing.append(f"No error bar across seeds at {x_column(study)} = {scales}: one finished seed there.")
    if meta and finished and not any(trial.number("test_accuracy") is not None for trial in finished):
        missing.append("Accuracy is missing: results.csv has no test_accuracy (a regression study has none).")
    if finished and not learning_curves_data(study).curves:
        missing.append("Learning curves are missing: no run folder has eval_stats.csv.")
    if meta and finished and not adaptation_data(study).curves:
        missing.append("The adaptation plot is missing: no run folder has adaptation.csv.")
    return tuple(missing)


def _scales_with_one_seed(study: StudyFolder) -> list[float]:
    counts: dict[tuple[str, float], int] = {}
    names = series_of(study)
    for trial in study.main:
        x = trial.number(x_column(study))
        if trial.finished and x is not None and trial.number(loss_column(study)) is not None:
            counts[names[trial.id], x] = counts.get((names[trial.id], x), 0) + 1
    return sorted({x for (_, x), count in counts.items() if count == 1})


def _estimates(parameters: Any) -> dict[str, float]:
    """Parameters written as numbers or as objects with an ``estimate``."""
    values = {
        str(name): finite(entry.get("estimate") if isinstance(entry, Mapping) else entry)
        for name, entry in (parameters or {}).items()
    }
    return {name: value for name, value in values.items() if value is not None}


def _words(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    return number(value) if isinstance(value, (int, float)) else str(value)
