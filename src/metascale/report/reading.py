"""Reads a study folder as it lies on disk. Nothing is written, and nothing missing is invented."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, read_json_lines

AXIS_LABELS = {
    "n_tasks": "training tasks N",
    "n_params_trainable": "trainable parameters",
    "lora_r": "LoRA rank r",
    "rank": "LoRA rank r",
    "n_train_classes": "training classes",
    "k_shot": "support examples a class",
    "inner_steps": "inner steps K",
    "n_way": "classes a task",
    "meta_batch": "tasks a meta-batch",
    "width": "width",
    "depth": "depth",
    "n_params_non_embedding": "non-embedding parameters",
    "n_params_total": "parameters",
    "train_flops": "training FLOPs",
    "n_train": "training examples",
}
MAIN_KINDS = ("meta", "trial")
"""Kinds of the trials that the axes vary; the others are baselines, controls and searches."""
UNITS = {"nats": "nats", "s": "s", "mse": "MSE"}


@dataclass(frozen=True, slots=True)
class Terms:
    """Words for the test set, what a test number is a mean over, the trained models, and a step of training."""

    test: str
    unit: str
    trained: str
    step: str


META = Terms(test="meta-test", unit="tasks", trained="meta-learnt", step="outer step")
SUPERVISED = Terms(test="test", unit="examples", trained="trained", step="step")


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of results.csv; ``folder`` is its run folder where there is one."""

    id: str
    label: str
    kind: str
    method: str
    seed: int | None
    status: str
    cells: Mapping[str, str]
    folder: Path | None

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def main(self) -> bool:
        """Whether it is one of the trials that the axes vary; the others are baselines, controls and searches."""
        return self.kind in MAIN_KINDS

    def number(self, column: str) -> float | None:
        """The cell as a finite number, or ``None`` when it is empty, absent, no number or not finite."""
        return finite(self.cells.get(column))


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """A study as found: ``law`` and ``baselines`` are ``None`` when their files are absent.

    ``laws`` are those of laws.json by series, where a study has more than one; ``law`` is then the first of them.
    """

    folder: Path
    config: Mapping[str, Any]
    columns: tuple[str, ...]
    trials: tuple[Trial, ...]
    law: Mapping[str, Any] | None
    laws: Mapping[str, Mapping[str, Any]]
    baselines: Mapping[str, Mapping[str, Any]] | None
    test_pool: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.resolve().name)

    @property
    def main(self) -> tuple[Trial, ...]:
        """The trials that the axes vary, whatever their status."""
        return tuple(trial for trial in self.trials if trial.main)

    @property
    def terms(self) -> Terms:
        """How this study speaks of its test set: a study of a folder that names no kinds is one of meta-learning."""
        return SUPERVISED if self.main and all(trial.kind == "trial" for trial in self.main) else META

    def of_kind(self, *kinds: str) -> tuple[Trial, ...]:
        """Trials of these kinds, whatever their status."""
        return tuple(trial for trial in self.trials if trial.kind in kinds)


def reason_of(trial: Trial) -> str:
    """Why a trial did not finish, in a line: from results.csv, result.json or the last line of its traceback."""
    for column in ("message", "reason", "error"):
        if trial.cells.get(column, "").strip():
            return trial.cells[column].strip().splitlines()[-1]
    if trial.folder and (trial.folder / "result.json").exists():
        message = (_mapping(trial.folder / "result.json") or {}).get("message")
        if message:
            return str(message)
    traceback = trial.folder / "error.txt" if trial.folder else None
    lines = traceback.read_text(encoding="utf-8").strip().splitlines() if traceback and traceback.exists() else []
    return lines[-1] if lines else ""


def wall_s_of(trial: Trial) -> float | None:
    """Seconds spent on a trial over all attempts: a column of results.csv, else the history of its run."""
    if trial.number("wall_s") is not None or trial.folder is None:
        return trial.number("wall_s")
    spent = [finite(event.get("wall_s")) for event in read_json_lines(trial.folder / "history.jsonl")]
    known = [seconds for seconds in spent if seconds is not None]
    return sum(known) if known else None


def read_study(folder: Path | str | StudyFolder) -> StudyFolder:
    """The study in ``folder`` (a study already read comes back as it is).

    Raises:
        InputError: the folder is not there, or holds neither study.json nor results.csv.
        CorruptFile: a file of the study cannot be parsed.
    """
    if isinstance(folder, StudyFolder):
        return folder
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no study folder {root}; give the folder that `metascale run` wrote")
    settings, results = root / "study.json", root / "results.csv"
    if not settings.exists() and not results.exists():
        raise InputError(f"{root} is not a study folder: it holds neither study.json nor results.csv")
    # command.json is written by whoever launched the study: the command line and the question.
    config = {**(_mapping(root / "command.json") or {}), **(_mapping(settings) or {})}
    rows = [_short_axes(row, dict(config.get("axes") or {})) for row in read_results(results)]
    law = _mapping(root / "law.json")
    return StudyFolder(
        folder=root,
        config=config,
        columns=tuple(rows[0]) if rows else (),
        trials=tuple(_trial(root, row, config.get("base") or {}) for row in rows),
        law=law,
        # Without law.json a laws.json is left over from an earlier conclusion.
        laws=(_mapping(root / "laws.json") or {}) if law else {},
        baselines=_mapping(root / "baselines.json"),
        test_pool=_mapping(root / "test_pool.json") or {},
    )


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of results.csv, every cell as its text; none when it is absent.

    Raises:
        CorruptFile: a row with too many or too few cells.
    """
    if not path.exists():
        return []
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise CorruptFile(f"{path}, line {reader.line_num}, does not have the header's cells")
        rows.append(dict(row))
    return rows


def finite(value: Any) -> float | None:
    """``value`` as a finite float, or ``None``."""
    if value is None or isinstance(value, bool) or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, keys joined by dots."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def axis_values(study: StudyFolder) -> dict[str, tuple[Any, ...]]:
    """The axes of the study, named by their last word (``task.n_tasks`` is ``n_tasks``)."""
    # study.json keeps the order of axes as a list of pairs; a mapping says the same.
    return {
        str(name).rsplit(".", 1)[-1]: tuple(values) for name, values in dict(study.config.get("axes") or {}).items()
    }


def x_column(study: StudyFolder) -> str:
    """The column of results.csv that the law runs along: the law's, else the first axis of numbers, else n_tasks."""
    candidates = [str(study.law["x_name"]).rsplit(".", 1)[-1]] if study.law and study.law.get("x_name") else []
    candidates += [str(study.config["scale"])] if study.config.get("scale") else []
    candidates += [
        name for name, values in axis_values(study).items() if len(values) > 1 and None not in map(finite, values)
    ]
    return next((name for name in candidates if name in study.columns), candidates[0] if candidates else "n_tasks")


def has_scale(study: StudyFolder) -> bool:
    """Whether the study varies a scale; otherwise it compares methods or settings."""
    return x_column(study) in study.columns


def loss_column(study: StudyFolder) -> str:
    """The column of results.csv that holds the test loss."""
    named = str(study.law.get("loss_name", "")) if study.law else str(study.config.get("loss") or "")
    if named in study.columns:
        return named
    losses = [name for name in study.columns if name.startswith("test_loss") and "_sem" not in name]
    return losses[0] if losses else "test_loss_nats"


def axis_label(column: str) -> str:
    """Words for an axis of a study."""
    return AXIS_LABELS.get(column, column.replace("_", " "))


def unit_of(column: str) -> str:
    """The unit that the end of a column's name states, or nothing."""
    return UNITS.get(column.rsplit("_", 1)[-1], "")


def sem_column(column: str) -> str:
    """The column of the standard error that goes with ``column``: test_loss_nats -> test_loss_sem_nats."""
    stem, _, unit = column.rpartition("_")
    return f"{stem}_sem_{unit}" if unit in UNITS else f"{column}_sem"


def _mapping(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptFile(f"{path} must hold one JSON object; it holds a {type(value).__name__}")
    return value


def _short_axes(row: Mapping[str, str], axes: Mapping[str, Any]) -> dict[str, str]:
    """``row`` with the columns of axes under their last word as well, where that is free."""
    short = {str(key).rsplit(".", 1)[-1]: row[key] for key in axes if key in row}
    return {**short, **row}


def _trial(root: Path, row: Mapping[str, str], base: Mapping[str, Any]) -> Trial:
    seed = finite(row.get("seed"))
    identity, label = row.get("id", ""), row.get("label", "")
    kind = row.get("kind") or "meta"
    folder = root / "runs" / f"{label}-{identity}"
    return Trial(
        id=identity,
        label=label,
        kind=kind,
        # Where methods vary (baselines beside one learner) the learner's own name stands in the base alone.
        method=row.get("method")
        or row.get("result.method")
        or str(base.get("method") or ("trained" if kind in ("trial", "tuning") else "meta-learnt")),
        seed=None if seed is None else int(seed),
        status=row.get("status") or "unknown",
        cells=dict(row),
        folder=folder if identity and folder.is_dir() else None,
    )
